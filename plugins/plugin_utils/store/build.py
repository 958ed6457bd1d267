# SPDX-License-Identifier: Apache-2.0
"""Build what is missing: parts → members → one tar in the store, and its manifest."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import golang, maven, pypi
from .core import Store, sha256_file
from .locks import RELEASES, Archive
from .tree import Member, pack


def existing(store: Store, archive: Archive) -> dict[str, Any] | None:
    """The manifest of a finished build of exactly this recipe, if its tar is there."""
    found = store.manifest(archive.key)
    if found and found["recipe"] == archive.recipe and store.has(found["digest"]):
        return found
    return None


def ensure(store: Store, archive: Archive) -> dict[str, Any]:
    """The manifest {"name", "version", "target", "recipe", "digest", "size", "files", …}; builds what is missing.

    One builder per artifact among all processes; the others wait and reuse. Raises StoreError.
    """
    found = existing(store, archive)
    if found:
        return found
    what = f"{archive.name} {archive.version}" + (f" ({archive.python_tag})" if archive.python_tag else "")
    with store.lock(archive.key, what):
        found = existing(store, archive)
        if found:
            return found
        started = store.clock()
        notes: dict[str, Any] = {}
        with store.scratch() as scratch:
            members: list[Member] = []
            for index, part in enumerate(archive.parts):
                folder = scratch / str(index)
                folder.mkdir()
                members += _part(store, archive, part, folder, what, notes)
            members += [Member(path, source, executable) for path, source, executable, _sha256 in archive.files]
            digest, size, count = pack(store, members)
        value = {
            "format": 1,
            "component": archive.component,
            "name": archive.name,
            "version": archive.version,
            "target": archive.target,
            "recipe": archive.recipe,
            "digest": digest,
            "size": size,
            "files": count,
            "lock_sha256": sha256_file(archive.lock),
            "build": notes,
        }
        store.write_manifest(archive.key, value)
        store.say(f"{what}: ready, {count} files, {size / 1e6:.0f} MB in {store.clock() - started:.0f} s")
        return value


def _part(store: Store, archive: Archive, part: Mapping[str, Any], folder: Path, what: str, notes: dict[str, Any]) -> list[Member]:
    if part["type"] == "maven":
        return maven.fetch(store, part, what, archive.key)
    if part["type"] == "pypi":
        release = next(release for release in RELEASES.values() if release.tag == archive.python_tag)
        return pypi.venv(store, part, release, folder, what, archive.key)
    if part["type"] == "pypi-file":
        return pypi.files(store, part, folder, what, archive.key)
    members, found = golang.build(store, part, folder, what, archive.key)
    notes.update(found)
    return members
