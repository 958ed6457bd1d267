# SPDX-License-Identifier: Apache-2.0
"""Blobs by sha256, manifests by name, locks between processes, running the ordinary clients.

Layout below the root (mode 0700):

    blobs/sha256/<2 hex>/<64 hex>   every downloaded file and every finished tree (a tar), named by its content
    manifests/<name>.json           what was built or resolved, from what
    locks/<key>.lock                flock: one builder, the others wait and reuse
    logs/<key>.log                  the last output of the client that was run for it
    apt/<release>/                  apt's own root for that Debian release
    keys/apt-signing.asc            secret key of the local Debian repository, 0600
    tmp/                            unfinished work; everything enters the store by rename
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ansible_collections.hnai.platform.plugins.plugin_utils.remedies import FULL

Say = Callable[[str], None]

CHUNK = 1 << 20
STALE_S = 24 * 3600.0
PROGRESS_S = 15.0
_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]+@")


class StoreError(Exception):
    """Something the operator can act on: names file, key and remedy."""


#: What a client's last words mean: what came is not what the lock names, it cannot be had.
_OTHER = re.compile(r"do not match the hashes|hash ?sum\s+mismatch|checksum (mismatch|validation failed)", re.IGNORECASE)
_ABSENT = re.compile(
    r"no matching distribution|could not find|not found|unable to locate|could not resolve|name resolution|unreachable|timed out|"
    r"connection (refused|reset)|cannot access|failed to fetch|"
    # A proxy that answers with a page of its own.
    r"network require authentication|invalid character '<'|not a valid zip file|is not a zip file",
    re.IGNORECASE,
)


def _is_full(root: Path) -> bool:
    """Whether nothing can be written there any more: then a client's last words are missing too."""
    try:
        return shutil.disk_usage(root).free < CHUNK
    except OSError:
        return False


def remedy_for(said: str, root: Path, log: Path) -> str:
    """What to do about a client that failed with these words."""
    if FULL.search(said) or _is_full(root):
        return f"the controller's disk is full: make room where {root} lies (`df -h {root} /tmp`), or name another hnai_store_dir"
    if _OTHER.search(said):
        return "refused. Find out why what came differs from the lock file before you run `make lock`"
    if _ABSENT.search(said):
        return (
            f"the artifact is not in {root}, and the registry or mirror of this machine's own configuration (pip, Maven's settings.xml, Go's proxy, apt) "
            f"does not give it: configure one that does, or copy the store of a controller that has it to {root} (hnai_store_dir)"
        )
    return f"read {log}"


def refused(error: OSError, root: Path) -> StoreError:
    """The controller's own file system says no: where, why, and what to do."""
    remedy = f"the user of this run must be able to write {root} (hnai_store_dir)"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        remedy = f"make room where the store {root} lies (`df -h {root}`), or name another hnai_store_dir"
    return StoreError(f"controller: {error.filename or root}: {error.strerror or error}; remedy: {remedy}")


def silent(message: str) -> None:
    """A `Say` that says nothing."""


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def canonical(value: Any) -> bytes:
    """JSON bytes that are the same for the same value."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def write_atomic(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Write `data` so that a reader sees the old file or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            os.fchmod(stream.fileno(), mode)
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        raise


def redact(text: str) -> str:
    """`text` without the credentials that a client may print in an index address."""
    return _CREDENTIALS.sub("***@", text)


class Store:
    """The store at `root`. `say` gets progress lines; `clock` and `sleep` are for tests."""

    def __init__(
        self,
        root: Path,
        say: Say = silent,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        deadline_s: float = 1800.0,
    ) -> None:
        self.root = root
        self.say = say
        self.clock = clock
        self.sleep = sleep
        self.deadline_s = deadline_s

    def _dir(self, name: str) -> Path:
        path = self.root / name
        if not path.is_dir():
            self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
        return path

    # -- blobs ---------------------------------------------------------------------------------------------------

    def blob_path(self, sha256: str) -> Path:
        """Where the blob lies or would lie."""
        if not re.fullmatch(r"[0-9a-f]{64}", sha256):
            raise StoreError(f"{sha256!r} is no sha256; remedy: correct the lock file or run `make lock`")
        return self.root / "blobs" / "sha256" / sha256[:2] / sha256

    def has(self, sha256: str) -> bool:
        """Whether the blob is there (its content is checked by `verified`)."""
        return self.blob_path(sha256).is_file()

    def add(self, path: Path, expect: str | None = None, origin: str = "") -> str:
        """Move the file at `path` into the store and return its sha256.

        `path` must lie in the store's file system (see `scratch`). Raises StoreError if the content is not `expect`.
        """
        found = sha256_file(path)
        if expect is not None and found != expect:
            raise StoreError(
                f"{origin or path.name}: sha256 is {found}, the lock says {expect}: refused; remedy: find out why it differs before you run `make lock`"
            )
        target = self.blob_path(found)
        if not target.is_file():
            self._dir(f"blobs/sha256/{found[:2]}")
            path.chmod(0o600)
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
            os.replace(path, target)
        return found

    def verified(self, sha256: str, origin: str = "") -> Path:
        """The blob's path, its content checked now. Raises StoreError if it is absent or was changed."""
        path = self.blob_path(sha256)
        if not path.is_file():
            raise StoreError(f"{path}: blob of {origin or 'an artifact'} is not there; remedy: run again, it is fetched anew")
        found = sha256_file(path)
        if found != sha256:
            raise StoreError(
                f"{path}: content of {origin or 'the blob'} has sha256 {found}, its name says otherwise: refused; "
                "remedy: find out who changed it, remove the file and run again"
            )
        return path

    # -- manifests -----------------------------------------------------------------------------------------------

    def manifest_path(self, name: str) -> Path:
        """Where the manifest called `name` lies."""
        return self.root / "manifests" / f"{name}.json"

    def manifest(self, name: str) -> dict[str, Any] | None:
        """The manifest, or None."""
        try:
            return dict(json.loads(self.manifest_path(name).read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise StoreError(f"{self.manifest_path(name)}: is not JSON ({error}); remedy: remove it and run again") from error

    def write_manifest(self, name: str, value: Mapping[str, Any]) -> None:
        """Write the manifest whole or not at all."""
        self._dir("manifests")
        write_atomic(self.manifest_path(name), json.dumps(value, indent=1, sort_keys=True).encode() + b"\n")

    # -- processes -----------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def lock(self, key: str, what: str = "") -> Iterator[None]:
        """Hold the lock `key` among all processes that use this store; waits with progress until the deadline."""
        path = self._dir("locks") / f"{key}.lock"
        started = told = self.clock()
        with path.open("a") as stream:
            while True:
                try:
                    fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except OSError as error:
                    if error.errno not in (errno.EAGAIN, errno.EACCES):
                        raise
                now = self.clock()
                if now - started > self.deadline_s:
                    raise StoreError(f"{path}: held by another run for {now - started:.0f} s ({what or key}); remedy: wait for it or end it")
                if now - told >= PROGRESS_S:
                    told = now
                    self.say(f"{what or key}: waiting for another run that builds it ({now - started:.0f} s)")
                self.sleep(0.2)
            yield

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        """A directory in the store's file system that is gone afterwards; those of killed runs go after a day."""
        base = self._dir("tmp")
        for old in base.iterdir():
            with contextlib.suppress(OSError):
                if time.time() - old.stat().st_mtime > STALE_S:
                    shutil.rmtree(old, ignore_errors=True)
        path = Path(tempfile.mkdtemp(dir=base))
        try:
            yield path
        finally:
            _remove(path)

    def run(
        self,
        argv: Sequence[str],
        *,
        what: str,
        key: str,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
        package: str = "",
    ) -> str:
        """Run a client and return its standard output.

        Output goes to logs/<key>.log; a failure quotes its end. A progress line every 15 s. `package` = the Debian
        package that brings the program. Raises StoreError (program absent, exit code, deadline).
        """
        if shutil.which(argv[0]) is None and not os.path.isabs(argv[0]):
            raise StoreError(f"{what}: the program {argv[0]} is not on the controller; remedy: apt-get install {package or argv[0]}")
        limit = timeout_s or self.deadline_s
        log = self._dir("logs") / f"{key}.log"
        out = log.with_suffix(".out")
        started = told = self.clock()
        with log.open("wb") as errors, out.open("wb") as output:
            process = subprocess.Popen(  # pylint: disable=consider-using-with
                list(argv),
                cwd=cwd,
                env=dict(env) if env is not None else None,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                start_new_session=True,
            )
            try:
                while process.poll() is None:
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(timeout=1.0)
                        break
                    now = self.clock()
                    if now - started > limit:
                        raise StoreError(f"{what}: no end after {limit:.0f} s (log: {log}); remedy: check the network and run again")
                    if now - told >= PROGRESS_S:
                        told = now
                        self.say(f"{what}: still running ({now - started:.0f} s)")
            finally:
                if process.poll() is None:
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(process.pid, 9)
                    process.wait()
        text = out.read_text(encoding="utf-8", errors="replace")
        if process.returncode != 0:
            said = redact(text + log.read_text(encoding="utf-8", errors="replace")).strip()
            tail = "\n".join(said.splitlines()[-12:])
            raise StoreError(f"{what}: {argv[0]} ended with {process.returncode} (log: {log}):\n{tail}\nremedy: {remedy_for(said, self.root, log)}")
        return text


def _remove(path: Path) -> None:
    """rmtree that also removes read-only directories (Go's module cache copies)."""
    for folder, _names, _files in os.walk(path):
        with contextlib.suppress(OSError):
            os.chmod(folder, 0o700)
    shutil.rmtree(path, ignore_errors=True)
