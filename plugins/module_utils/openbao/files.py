# SPDX-License-Identifier: Apache-2.0
"""Files that must be on the disk before the next step happens."""

from __future__ import annotations

import contextlib
import fcntl
import os

from ..hostfiles import temporary_name


def sync_directory(path: str) -> None:
    """Make the names in a directory durable."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _own(temporary: str) -> int:
    """A descriptor of *temporary*, empty, that no other process writes; what a killed one left there is taken over."""
    while True:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        fcntl.flock(handle, fcntl.LOCK_EX)
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.stat(temporary), os.fstat(handle)):
                os.ftruncate(handle, 0)
                return handle
        os.close(handle)  # the one that held it has put it in place


def write_durably(path: str, data: bytes, mode: int = 0o600, uid: int = -1, gid: int = -1) -> None:
    """Replace *path* in one step; when this returns, content and name are on the disk. Raises OSError."""
    directory = os.path.dirname(path)
    temporary = temporary_name(path)
    # Held until the new file is in place: only then is the next writer let in.
    with os.fdopen(_own(temporary), "wb") as stream:
        try:
            os.fchmod(stream.fileno(), mode)
            if uid != -1 or gid != -1:
                os.fchown(stream.fileno(), uid, gid)
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            raise
    sync_directory(directory)


def remove_durably(path: str) -> bool:
    """Remove *path*; True if it was there."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return False
    sync_directory(os.path.dirname(path))
    return True


def read_or_none(path: str) -> bytes | None:
    """The content, or None if there is no such file. Raises OSError for anything else."""
    try:
        with open(path, "rb") as stream:
            return stream.read()
    except FileNotFoundError:
        return None
