# SPDX-License-Identifier: Apache-2.0
"""A finished artifact as one deterministic tar: sorted, mtime 0, root:root, modes 0755 and 0644 only."""

from __future__ import annotations

import dataclasses
import io
import tarfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from .core import Store, StoreError


@dataclasses.dataclass(frozen=True)
class Member:
    """One file of the tree. `source`: a path on the controller, or the content; `link`: target of a symlink."""

    path: str
    source: Path | bytes = b""
    executable: bool = False
    link: str = ""


def check_path(path: str) -> str:
    """`path` if it stays below the tree; raises StoreError otherwise."""
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts or not pure.parts or "\n" in path:
        raise StoreError(f"{path!r}: leaves the artifact's directory: refused; remedy: report it, the archive is not sound")
    return str(pure)


def pack(store: Store, members: Iterable[Member]) -> tuple[str, int, int]:
    """Write the tar into the store. Returns (sha256, bytes, number of files); the same members give the same sha256."""
    wanted: dict[str, Member] = {}
    for member in members:
        path = check_path(member.path)
        if path in wanted and wanted[path] != member:
            raise StoreError(f"{path}: two parts of the artifact bring this file; remedy: exclude it in one part of the lock")
        wanted[path] = member
    folders = {str(parent) for path in wanted for parent in PurePosixPath(path).parents if str(parent) != "."}
    clash = sorted(folders & set(wanted))
    if clash:
        raise StoreError(f"{clash[0]}: is a file in one part and a directory in another; remedy: correct the lock")
    with store.scratch() as scratch:
        target = scratch / "tree.tar"
        with tarfile.open(target, "w", format=tarfile.GNU_FORMAT) as tar:
            for path in sorted(folders | set(wanted)):
                info = tarfile.TarInfo(path)
                info.uname = info.gname = "root"
                if path in folders:
                    info.type, info.mode = tarfile.DIRTYPE, 0o755
                    tar.addfile(info)
                    continue
                member = wanted[path]
                if member.link:
                    info.type, info.mode, info.linkname = tarfile.SYMTYPE, 0o777, member.link
                    tar.addfile(info)
                    continue
                info.mode = 0o755 if member.executable else 0o644
                if isinstance(member.source, bytes):
                    info.size = len(member.source)
                    tar.addfile(info, io.BytesIO(member.source))
                else:
                    info.size = member.source.stat().st_size
                    with member.source.open("rb") as stream:
                        tar.addfile(info, stream)
        size = target.stat().st_size
        return store.add(target), size, len(wanted)
