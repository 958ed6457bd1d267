# SPDX-License-Identifier: Apache-2.0
"""The machine as the host-side cores see it: commands, accounts, atomic files, locks.

Every core (config_tree, unit, credentials, host_certificate) takes one `Host`. Tests pass a subclass whose
`root` is a temporary directory and whose `run`, `uid`, `gid` and `chown` are scripted, so nothing here is patched.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import grp
import os
import pwd
import re
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

#: The names that become part of paths and of unit names.
NAME = re.compile(r"^[a-z0-9][a-z0-9_.-]*$")


class HostError(Exception):
    """Something on this host is not as it must be. The text names the file, the key and the remedy."""


@dataclass(frozen=True)
class Completed:
    """What a command answered: exit status and both streams, undecoded."""

    rc: int
    out: bytes
    err: bytes

    @property
    def text(self) -> str:
        """Standard output, decoded; bytes that are not UTF-8 are shown as replacement characters."""
        return self.out.decode("utf-8", "replace")

    @property
    def message(self) -> str:
        """What the command complained about: standard error, else standard output."""
        return (self.err.strip() or self.out.strip()).decode("utf-8", "replace")


class Host:
    """The real machine below `root` ("/" outside tests)."""

    def __init__(self, root: str = "/") -> None:
        self.root = root

    def at(self, path: str) -> str:
        """Where the absolute `path` lies below `root`."""
        return os.path.join(self.root, path.lstrip("/"))

    def run(self, argv: list[str], stdin: bytes | None = None, timeout: float = 60.0) -> Completed:
        """Runs a command with an untranslated locale. 127 when it is not installed, 124 when `timeout` (s) is over."""
        environment = {**os.environ, "LC_ALL": "C.UTF-8", "SYSTEMD_COLORS": "0", "SYSTEMD_PAGER": "cat"}
        try:
            done = subprocess.run(
                argv,
                input=stdin if stdin is not None else b"",
                capture_output=True,
                timeout=timeout,
                env=environment,
                check=False,
            )
        except FileNotFoundError:
            return Completed(127, b"", f"{argv[0]}: not installed".encode())
        except subprocess.TimeoutExpired:
            return Completed(124, b"", f"{argv[0]}: no answer within {timeout:g} s".encode())
        return Completed(done.returncode, done.stdout, done.stderr)

    def uid(self, name: str) -> int | None:
        """The user's number, None when there is no such user."""
        try:
            return pwd.getpwnam(name).pw_uid
        except KeyError:
            return int(name) if name.isdigit() else None

    def gid(self, name: str) -> int | None:
        """The group's number, None when there is no such group."""
        try:
            return grp.getgrnam(name).gr_gid
        except KeyError:
            return int(name) if name.isdigit() else None

    def chown(self, target: int | str, uid: int, gid: int) -> None:
        """Owner of a file descriptor or of a path (links are not followed)."""
        if isinstance(target, int):
            os.fchown(target, uid, gid)
        else:
            os.chown(target, uid, gid, follow_symlinks=False)

    def owner(self, info: os.stat_result) -> tuple[int, int]:
        """(uid, gid) out of a stat result."""
        return info.st_uid, info.st_gid

    @contextlib.contextmanager
    def lock(self, name: str, timeout: float = 120.0) -> Iterator[None]:
        """One run at a time: a module outlives a killed controller, so the lock lies on the target.

        Its file goes with it, so that a host keeps none of a component that left. Raises HostError when the other holder has not finished
        within `timeout` (s).
        """
        directory = self.at("/run/hnai/lock")
        os.makedirs(directory, mode=0o755, exist_ok=True)
        path = os.path.join(directory, name)
        deadline = time.monotonic() + timeout
        descriptor = self._locked(path)
        while descriptor is None:
            if time.monotonic() > deadline:
                raise HostError(f"{path}: another run still holds this lock after {timeout:g} s; wait for it to end (fuser {path} shows it), then run again")
            time.sleep(0.2)
            descriptor = self._locked(path)
        try:
            yield
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            os.close(descriptor)

    @staticmethod
    def _locked(path: str) -> int | None:
        """The locked file's descriptor; None while another holds it, or where what was locked is not the file of that name any more."""
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(descriptor).st_ino == os.stat(path).st_ino:
                return descriptor
        except (BlockingIOError, FileNotFoundError):
            pass
        os.close(descriptor)
        return None


@dataclass
class Outcome:
    """What was (or, in check mode, would be) done to files. `diff` items have before, after and their headers."""

    changed_paths: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    diff: list[dict[str, str]] = field(default_factory=list)

    @property
    def changed(self) -> bool:
        """Whether anything on the host is different afterwards."""
        return bool(self.changed_paths or self.removed)


def read_file(host: Host, path: str) -> bytes | None:
    """Content of a file, None when there is none."""
    try:
        with open(host.at(path), "rb") as stream:
            return stream.read()
    except (FileNotFoundError, NotADirectoryError):
        return None


def temporary_name(path: str) -> str:
    """The one temporary name of `path`: what a killed run left there is overwritten by the next one."""
    return os.path.join(os.path.dirname(path), f".{os.path.basename(path)}.hnai-new")


def atomic_write(host: Host, path: str, content: bytes, mode: int, uid: int, gid: int) -> None:
    """Replaces `path` so that a reader sees the old file or the whole new one, owner and mode included.

    A bind mount (as /etc/hosts in a container) refuses the rename with EBUSY: then, and only then, it is written in place.
    """
    target = host.at(path)
    temporary = temporary_name(target)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(temporary)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            host.chown(stream.fileno(), uid, gid)
            os.fchmod(stream.fileno(), mode)
            os.fsync(stream.fileno())
        try:
            os.replace(temporary, target)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            with open(target, "r+b") as stream:
                stream.write(content)
                stream.truncate()
                stream.flush()
                host.chown(stream.fileno(), uid, gid)
                os.fchmod(stream.fileno(), mode)
                os.fsync(stream.fileno())
    except OSError as error:
        if error.filename is None:  # A full disk is met while writing, where nobody names the file.
            raise OSError(error.errno, error.strerror, path) from error
        raise
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
    sync_directory(os.path.dirname(target))


def sync_directory(directory: str) -> None:
    """Makes a rename or a removal in `directory` survive a power cut."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def ensure_directory(host: Host, path: str, mode: int, uid: int, gid: int) -> bool:
    """Makes `path` a directory with this mode and owner, parents (0755, root) included. True when something changed."""
    target = host.at(path)
    parent = os.path.dirname(path)
    if not os.path.isdir(host.at(parent)):
        ensure_directory(host, parent, 0o755, 0, 0)
    changed = False
    if not os.path.isdir(target):
        os.mkdir(target, 0o700)
        changed = True
    info = os.stat(target)
    if host.owner(info) != (uid, gid):
        host.chown(target, uid, gid)
        changed = True
    if info.st_mode & 0o7777 != mode:
        os.chmod(target, mode)
        changed = True
    return changed


def required_ids(host: Host, owner: str, group: str, where: str) -> tuple[int, int]:
    """Numbers of an owner and a group that must exist. Raises HostError with the remedy."""
    uid, gid = host.uid(owner), host.gid(group)
    if uid is None:
        raise HostError(f"{where}: there is no user '{owner}' on this host; declare it in the role's tree/etc/sysusers.d/")
    if gid is None:
        raise HostError(f"{where}: there is no group '{group}' on this host; declare it in the role's tree/etc/sysusers.d/")
    return uid, gid
