# SPDX-License-Identifier: Apache-2.0
"""Artifacts on a host: versioned directories with an atomic `current`, and Debian packages from a pushed repository.

Standard library only, Python 3.9. Knows nothing of Ansible.

/opt/hnai/<name>/<version>/.hnai-manifest is JSON: format, name, version, target, recipe (sha256 of everything that
decides the content), digest (sha256 of the tar it came from), files {path: bytes, "-> target" for a symlink, or null for byte
code that was compiled here}, executable [path]. Older manifests know neither executable nor byte code. It holds no time, so the
same artifact gives the same bytes. It is written before the directory gets its name: a directory with a version's name is whole.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
import stat
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable

MANIFEST = ".hnai-manifest"
FORMAT = 1
CHUNK = 1 << 20
OPT = Path("/opt/hnai")
APT = Path("/var/lib/hnai/apt")
LOCK = Path("/run/lock/hnai-artifact.lock")
POLICY = Path("/usr/sbin/policy-rc.d")
UNITS = Path("/etc/systemd/system")
MARK = "hnai.platform"
INDEX_FILES = ("Packages", "InRelease", "key.asc")
#: What Debian installs itself and chrony stands in for. Whatever else apt would remove is the site's.
REPLACED = {"systemd-timesyncd"}
_POLICY = """#!/bin/sh
# {mark}: no service starts while {mark} installs packages. It says no only while that installation holds its
# lock, so that it is harmless if the installation was killed; the next run removes it.
if flock --nonblock --shared {lock} true 2>/dev/null; then
    if [ -x {saved} ]; then exec {saved} "$@"; fi
    exit 0
fi
exit 101
"""

Run = Callable[[Sequence[str], float], "tuple[int, str]"]


class ArtifactError(Exception):
    """Something on the host that the operator can act on."""


# -- observing ---------------------------------------------------------------------------------------------------


def os_release(path: Path = Path("/etc/os-release")) -> dict[str, str]:
    """{"id", "version", "arch"}: e.g. debian, 13, amd64."""
    values = {}
    try:
        for line in path.read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition("=")
            values[name.strip()] = value.strip().strip("\"'")
    except OSError:
        values = {}
    machine = platform.machine()
    return {
        "id": values.get("ID", ""),
        "version": values.get("VERSION_ID", ""),
        "arch": {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine),
    }


def _manifest(directory: Path) -> dict[str, Any] | None:
    try:
        value = json.loads((directory / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) and value.get("format") == FORMAT else None


def _walk(directory: Path, known: Collection[str]) -> Iterator[tuple[str, os.stat_result]]:
    """(relative path, lstat) of everything below; of a directory that is not *known* the name with a slash, not what lies in it."""
    yield ".", os.lstat(directory)
    waiting = [""]
    while waiting:
        top = waiting.pop()
        with os.scandir(directory / top) as entries:
            for entry in entries:
                path = top + entry.name
                if not entry.is_dir(follow_symlinks=False):
                    yield path, entry.stat(follow_symlinks=False)
                elif path in known:
                    waiting.append(path + "/")
                    yield path, entry.stat(follow_symlinks=False)
                else:
                    yield path + "/", entry.stat(follow_symlinks=False)


def _folders(files: Collection[str]) -> set[str]:
    """Every directory in which one of them lies."""
    folders = {"."}
    for path in files:
        while "/" in path:
            path = path.rpartition("/")[0]
            if path in folders:
                break
            folders.add(path)
    return folders


def look_over(directory: Path, kept: Mapping[str, Any]) -> tuple[str, list[str]]:
    """(the first file or directory of the manifest that is not as it was unpacked, what lies there that the manifest does not have).

    As it was unpacked: its size or link target, owner and mode, and not written after the manifest, which came last.
    """
    files, executable = kept["files"], kept.get("executable")
    executables = frozenset(executable or ())
    folders = _folders(files)
    us = (os.geteuid(), os.getegid())
    wrong, foreign, seen = [], [], set()
    try:
        unpacked = os.lstat(directory / MANIFEST).st_mtime_ns
        for path, status in _walk(directory, folders):
            mode, ours = stat.S_IMODE(status.st_mode), (status.st_uid, status.st_gid) == us
            if path in folders:
                same = ours and mode == 0o755
            elif path == MANIFEST:
                same = ours and mode == 0o644
            elif path not in files:
                # Byte code that was compiled before its names were recorded.
                if not (executable is None and path.endswith("__pycache__/") and status.st_mtime_ns <= unpacked):
                    foreign.append(path)
                continue
            elif isinstance(files[path], str):
                same = ours and stat.S_ISLNK(status.st_mode) and "-> " + os.readlink(directory / path) == files[path]
            else:
                modes = (0o644, 0o755) if executable is None else (0o755 if path in executables else 0o644,)
                same = ours and stat.S_ISREG(status.st_mode) and mode in modes and files[path] in (None, status.st_size)
            seen.add(path)
            if not same or (path in files and status.st_mtime_ns > unpacked):
                wrong.append(path)
    except OSError:
        return MANIFEST, []
    wrong += [path for path in files if path not in seen]
    return min(wrong, default=""), sorted(foreign)


def observe_archive(name: str, opt: Path = OPT) -> dict[str, Any]:
    """{"version", "recipe", "digest", "path", "damaged", "foreign", "versions"} of what `current` points to; empty if absent.

    `versions`: {version: recipe} of every whole directory, `current` or not. `foreign`: paths of what lies there and was never unpacked.
    """
    base = opt / name
    versions, found, damaged, foreign = {}, None, "", []
    try:
        version = os.readlink(base / "current")
    except OSError:
        version = ""
    for entry in sorted(base.iterdir()) if base.is_dir() else ():
        kept = None if entry.is_symlink() or entry.name.startswith(".") else _manifest(entry)
        if kept is None:
            continue
        flaw, others = look_over(entry, kept)
        if not flaw:
            versions[entry.name] = kept["recipe"]
        if entry.name == version:
            found, damaged, foreign = kept, flaw, [f"{entry}/{path}" for path in others]
    if found is None:
        return {"version": "", "recipe": "", "digest": "", "path": str(base / "current"), "damaged": "", "foreign": [], "versions": versions}
    return {
        "version": found["version"],
        "recipe": found["recipe"],
        "digest": found["digest"],
        "path": str(base / found["version"]),
        "damaged": damaged,
        "foreign": foreign,
        "versions": versions,
    }


def run(argv: Sequence[str], timeout_s: float, keep: tuple[int, ...] = ()) -> tuple[int, str]:
    """Exit code and joined output of a program; 127 if it is not there. Raises ArtifactError at the deadline."""
    environment = dict(os.environ, LC_ALL="C.UTF-8", DEBIAN_FRONTEND="noninteractive", APT_LISTCHANGES_FRONTEND="none", NEEDRESTART_SUSPEND="1")
    try:
        done = subprocess.run(
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout_s,
            check=False,
            env=environment,
            pass_fds=keep,
        )
    except FileNotFoundError:
        return 127, argv[0] + ": not found"
    except subprocess.TimeoutExpired as error:
        raise ArtifactError("%s: no end after %.0f s; remedy: look at the host's load and run again" % (" ".join(argv[:4]), timeout_s)) from error
    return done.returncode, done.stdout.decode("utf-8", "replace")


def installed_packages(names: Sequence[str], runner: Run = run) -> dict[str, str]:
    """package → version of those that are wholly installed."""
    if not names:
        return {}
    _code, text = runner(["dpkg-query", "-W", "-f", "${Package}\t${Version}\t${db:Status-Abbrev}\n", *names], 60.0)
    found = {}
    for line in text.splitlines():
        steps = line.split("\t")
        if len(steps) == 3 and steps[2].strip() in ("ii", "hi"):
            found[steps[0]] = steps[1]
    return found


def provided_packages(runner: Run = run) -> list[str]:
    """Virtual names that wholly installed packages provide."""
    _code, text = runner(["dpkg-query", "-W", "-f", "${db:Status-Abbrev}\t${Provides}\n"], 60.0)
    rows = [line.split("\t", 1) for line in text.splitlines() if line.count("\t")]
    return sorted({word.split()[0] for state, names in rows if state.strip() in ("ii", "hi") for word in names.split(",") if word.strip()})


def masked(unit: str, units: Path = UNITS) -> bool:
    """Whether the unit is masked."""
    try:
        return os.readlink(units / unit) == "/dev/null"
    except OSError:
        return False


def policy_left(policy: Path = POLICY) -> bool:
    """Whether the policy-rc.d that is there is ours."""
    try:
        return MARK in policy.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False


def leftover(policy: Path = POLICY, lock: Path = LOCK) -> bool:
    """Whether a killed run left its policy-rc.d: it is ours and nobody holds the lock."""
    if not policy_left(policy):
        return False
    try:
        handle = os.open(lock, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return True
    except OSError:
        return False
    finally:
        os.close(handle)


# -- locking -----------------------------------------------------------------------------------------------------


@contextmanager
def host_lock(
    path: Path = LOCK,
    deadline_s: float = 600.0,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[int]:
    """One installation per host; yields the descriptor, which a child may keep open to hold the lock beyond our death."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        started = clock()
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if error.errno not in (errno.EAGAIN, errno.EACCES):
                    raise
            if clock() - started > deadline_s:
                raise ArtifactError("%s: another installation holds it for %.0f s; remedy: wait for it or end it" % (path, deadline_s))
            sleep(0.5)
        yield handle
    finally:
        os.close(handle)


# -- archives ----------------------------------------------------------------------------------------------------


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while True:
            chunk = stream.read(CHUNK)
            if not chunk:
                return digest.hexdigest()
            digest.update(chunk)


def _sync_file(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sync_file_system(path: Path) -> None:
    """Write back the file system that holds `path` (syncfs), or everything where that is not possible."""
    handle = os.open(path, os.O_RDONLY)
    try:
        if ctypes.CDLL(None).syncfs(handle) != 0:
            os.sync()
    except AttributeError:
        os.sync()
    finally:
        os.close(handle)


def _unpack(source: Path, directory: Path) -> dict[str, Any]:
    """Unpack our own kind of tar (directories, files, symlinks) and return {path: size or "-> target"}."""
    files: dict[str, Any] = {}
    with tarfile.open(source, "r:") as tar:
        for info in tar:
            steps = info.name.split("/")
            if info.name.startswith("/") or ".." in steps or info.name == MANIFEST:
                raise ArtifactError("%s: member %r is not allowed: refused" % (source, info.name))
            target = directory / info.name
            if info.isdir():
                target.mkdir()
                target.chmod(0o755)
            elif info.issym():
                target.symlink_to(info.linkname)
                files[info.name] = "-> " + info.linkname
            elif info.isreg():
                stream = tar.extractfile(info)
                if stream is None:
                    raise ArtifactError("%s: member %r cannot be read" % (source, info.name))
                with stream, target.open("xb") as out:
                    shutil.copyfileobj(stream, out, CHUNK)
                target.chmod(0o755 if info.mode & 0o100 else 0o644)
                files[info.name] = info.size
            else:
                raise ArtifactError("%s: member %r is neither file, directory nor symlink: refused" % (source, info.name))
    return files


def _compile(directory: Path, runner: Run) -> None:
    """Byte code beside the sources, once, because the services cannot write there."""
    python = directory / "bin" / "python3"
    code, text = runner(
        [
            str(python),
            "-I",
            "-m",
            "compileall",
            "-q",
            "-j",
            "1",
            "--invalidation-mode",
            "unchecked-hash",
            "-s",
            str(directory),
            str(directory / "lib"),
        ],
        600.0,
    )
    if code not in (0, 1):  # 1: some file is no valid Python (test data of a library)
        raise ArtifactError("%s: byte-compiling ended with %s: %s" % (directory, code, text.strip()[-300:]))


def _compiled(directory: Path) -> dict[str, None]:
    """The paths of the byte code, which has the modes of everything else from here on, whatever the umask was."""
    found: dict[str, None] = {}
    for folder in directory.rglob("__pycache__"):
        folder.chmod(0o755)
        for path in folder.iterdir():
            path.chmod(0o644)
            found[path.relative_to(directory).as_posix()] = None
    return found


def _mend(directory: Path, kept: Mapping[str, Any]) -> bool:
    """Puts owners and modes of what was unpacked back, in place: what runs keeps its files. Whether nothing else is wrong."""
    folders, executable = _folders(kept["files"]), kept.get("executable")
    for path in (*folders, *kept["files"], MANIFEST):
        target = directory / path
        try:
            mode = os.lstat(target).st_mode
            os.chown(target, os.geteuid(), os.getegid(), follow_symlinks=False)
            if not stat.S_ISLNK(mode):
                runs = path in folders or (path in executable if executable is not None else bool(mode & 0o100))
                target.chmod(0o755 if runs else 0o644)
        except OSError:
            return False
    return not look_over(directory, kept)[0]


def flip(base: Path, version: str) -> None:
    """`current` → version, atomically."""
    link = base / (".current.%d" % os.getpid())
    if os.path.lexists(link):
        link.unlink()
    link.symlink_to(version)
    os.replace(link, base / "current")
    _sync_file(base)


def _tidy(base: Path, keep: set[str]) -> list[str]:
    """Remove everything but `current`, the kept versions and one old version (the newest); the removed versions."""
    entries = [entry for entry in base.iterdir() if entry.name != "current"]
    old = [entry for entry in entries if not entry.name.startswith(".") and entry.name not in keep and entry.is_dir() and not entry.is_symlink()]
    room = 2 - len(keep)
    spared = {entry.name for entry in sorted(old, key=lambda entry: entry.lstat().st_mtime, reverse=True)[: max(room, 0)]}
    removed = []
    for entry in entries:
        if entry.name in keep or entry.name in spared:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
        if not entry.name.startswith("."):
            removed.append(entry.name)
    return removed


def install_archive(spec: Mapping[str, Any], opt: Path = OPT, runner: Run = run) -> dict[str, Any]:
    """Install one archive; the caller holds `host_lock`.

    spec: name, version, target, recipe, digest, src (the tar; empty = the directory is there, only `current` is not),
    compile. Returns {"changed", "removed"}. Raises ArtifactError; whatever happens, `current` points to a whole tree.
    """
    base = opt / spec["name"]
    base.mkdir(parents=True, exist_ok=True)
    for path in (opt, base):
        path.chmod(0o755)
    final = base / spec["version"]
    found = _manifest(final)
    try:
        previous = os.readlink(base / "current")
    except OSError:
        previous = ""
    flaw = look_over(final, found)[0] if found is not None and found["recipe"] == spec["recipe"] else MANIFEST
    whole = not flaw or (found is not None and flaw != MANIFEST and _mend(final, found))
    if not whole:
        if not spec["src"]:
            raise ArtifactError("%s: was changed a moment ago; remedy: run again" % final)
        source = Path(spec["src"])
        sha256 = _sha256(source)
        if sha256 != spec["digest"]:
            raise ArtifactError(
                "%s %s: what arrived has sha256 %s, expected %s: refused; remedy: run again" % (spec["name"], spec["version"], sha256, spec["digest"])
            )
        work = Path(tempfile.mkdtemp(prefix=".new-", dir=base))
        work.chmod(0o755)
        files = _unpack(source, work)
        if spec.get("compile"):
            _compile(work, runner)
            files.update(_compiled(work))
        value = {name: spec[name] for name in ("name", "version", "target", "recipe", "digest")}
        executable = sorted(path for path, size in files.items() if size is not None and os.lstat(work / path).st_mode & 0o170100 == stat.S_IFREG | 0o100)
        _sync_file_system(work)
        with (work / MANIFEST).open("x", encoding="utf-8") as stream:
            json.dump({"format": FORMAT, **value, "files": files, "executable": executable}, stream, sort_keys=True, indent=0)
            stream.flush()
            os.fsync(stream.fileno())
        (work / MANIFEST).chmod(0o644)
        if final.exists():
            final.rename(base / (".old-%d-%s" % (os.getpid(), spec["version"])))
        work.rename(final)
        _sync_file(base)
    if previous != spec["version"]:
        flip(base, spec["version"])
    keep = {spec["version"]}
    if previous and previous != spec["version"] and "/" not in previous and (base / previous).is_dir():
        keep.add(previous)
    return {"changed": bool(flaw) or previous != spec["version"], "removed": _tidy(base, keep)}


# -- Debian packages ---------------------------------------------------------------------------------------------


def parse_index(text: str) -> dict[str, str]:
    """Packages file → {file name in the pool: sha256}."""
    found = {}
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line and not line.startswith(" "))
        if "Filename" in fields:
            found[fields["Filename"].rsplit("/", 1)[-1]] = fields["SHA256"]
    return found


class Debs:
    """Packages from the repository below `apt`. The caller holds the host lock, whose descriptor is `handle`."""

    def __init__(
        self,
        handle: int,
        apt: Path = APT,
        policy: Path = POLICY,
        units: Path = UNITS,
        lock: Path = LOCK,
        deadline_s: float = 600.0,
        runner: Run | None = None,
    ) -> None:
        self.handle = handle
        self.apt = apt
        self.policy = policy
        self.saved = policy.with_name(policy.name + ".hnai-saved")
        self.units = units
        self.lock = lock
        self.deadline_s = deadline_s
        self.runner: Run = runner or (lambda argv, timeout_s: run(argv, timeout_s, (handle,)))

    def options(self) -> list[str]:
        """apt-get with our repository and nothing else; the host's own lists and sources stay untouched."""
        values = {
            "Dir::Etc::sourcelist": self.apt / "sources.list",
            "Dir::Etc::sourceparts": "-",
            "Dir::State::Lists": self.apt / "lists",
            "Dir::Cache::pkgcache": "",
            "Dir::Cache::srcpkgcache": "",
            "APT::Sandbox::User": "root",
            "APT::Get::AllowUnauthenticated": "false",
            "APT::Update::Error-Mode": "any",
            "Acquire::AllowInsecureRepositories": "false",
            "Acquire::Languages": "none",
            "Acquire::Check-Date": "false",  # the index came by SSH just now; a host's clock must not decide
            "DPkg::Lock::Timeout": "%d" % self.deadline_s,
            "Dpkg::Use-Pty": "0",
        }
        argv = ["apt-get", "-q", "-y"]
        for name, value in values.items():
            argv += ["-o", "%s=%s" % (name, value)]
        return argv + ["-o", "Dpkg::Options::=--force-confdef", "-o", "Dpkg::Options::=--force-confold"]

    def _call(self, argv: Sequence[str], what: str) -> str:
        code, text = self.runner(argv, self.deadline_s * 2)
        if code != 0:
            lines = [line for line in text.strip().splitlines() if line.strip()]
            raise ArtifactError("%s: %s ended with %d:\n%s" % (what, argv[0], code, "\n".join(lines[-12:])))
        return text

    def receive(self, bundle: Path) -> None:
        """Take index files and packages out of a pushed tar; each enters by rename."""
        for path in (self.apt, self.apt / "pool", self.apt / "lists", self.apt / "lists" / "partial"):
            path.mkdir(parents=True, exist_ok=True)
            path.chmod(0o755)
        with tarfile.open(bundle, "r:") as tar:
            for info in tar:
                steps = info.name.split("/")
                plain = info.isreg() and (info.name in INDEX_FILES or (len(steps) == 2 and steps[0] == "pool" and re.fullmatch(r"[\w.+~%-]+\.deb", steps[1])))
                stream = tar.extractfile(info) if plain else None
                if stream is None:
                    raise ArtifactError("%s: member %r is not allowed: refused" % (bundle, info.name))
                target = self.apt / info.name
                handle, temporary = tempfile.mkstemp(prefix=".new-", dir=target.parent)
                with stream, os.fdopen(handle, "wb") as out:
                    shutil.copyfileobj(stream, out, CHUNK)
                    os.fchmod(out.fileno(), 0o644)
                    os.fsync(out.fileno())
                os.replace(temporary, target)
        text = "deb [signed-by=%s] file:%s ./\n" % (self.apt / "key.asc", self.apt)
        source = self.apt / "sources.list"
        if not source.is_file() or source.read_text(encoding="utf-8") != text:
            source.write_text(text, encoding="utf-8")
            source.chmod(0o644)

    def plan(self, packages: Sequence[str]) -> dict[str, Any]:
        """What apt would do: {"install": ["name=version", …], "missing": [pool files that are absent or changed]}.

        `packages`: "name=version". Refreshes the lists first, so a repository whose signature is wrong is refused here.
        """
        code, text = self.runner(["dpkg", "--audit"], 60.0)
        if code != 0 or text.strip():
            self.repair()
        self._call([*self.options(), "update"], "reading the pushed repository")
        text = self._call(
            [*self.options(), "-s", "--no-install-recommends", "--allow-downgrades", "--fix-broken", "install", *packages],
            "resolving " + " ".join(packages),
        )
        chosen = re.findall(r"^Inst (\S+) (?:\[\S+\] )?\((\S+) ", text, re.MULTILINE)
        gone = sorted(set(re.findall(r"^Remv (\S+)", text, re.MULTILINE)) - REPLACED)
        if gone:
            names = ", ".join(gone)
            raise ArtifactError(
                "to install %s apt would remove %s, which somebody else put on this host; nothing was changed; remedy: `apt-get remove %s` where it may go, "
                "or place the component on another host" % (" ".join(packages), names, " ".join(gone))
            )
        index = (self.apt / "Packages").read_text(encoding="utf-8")
        wanted = self._files(index, chosen)
        missing = []
        for name, sha256 in sorted(wanted.items()):
            path = self.apt / "pool" / name
            if not path.is_file() or _sha256(path) != sha256:
                missing.append(name)
        return {"install": sorted("%s=%s" % pair for pair in chosen), "missing": missing}

    @staticmethod
    def _files(index: str, chosen: Sequence[tuple[str, str]]) -> dict[str, str]:
        pairs = {(name.split(":")[0], version) for name, version in chosen}
        wanted = {}
        for block in index.split("\n\n"):
            fields = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line and not line.startswith(" "))
            if (fields.get("Package"), fields.get("Version")) in pairs:
                wanted[fields["Filename"].rsplit("/", 1)[-1]] = fields["SHA256"]
        return wanted

    def mask(self, units: Sequence[str]) -> list[str]:
        """Mask distribution units before their package comes; those that were not masked before."""
        fresh = [unit for unit in units if not masked(unit, self.units)]
        for unit in fresh:
            path = self.units / unit
            # One that is masked does not run, so this is nothing that our package brought.
            if path.exists() and not path.is_symlink():
                raise ArtifactError("%s: is a unit of the site's own; remedy: move it away or take %s out of `mask`" % (path, unit))
            if self.runner(["systemctl", "is-active", unit], 60.0)[1].strip() == "active":
                raise ArtifactError(
                    "%s runs on this host, and nothing of ours has started it; nothing was changed; remedy: `systemctl disable --now %s` where it may go; "
                    "docs/brownfield.md says what may be left to who runs it" % (unit, unit)
                )
        for unit in fresh:
            path = self.units / unit
            self.units.mkdir(parents=True, exist_ok=True)
            link = self.units / (".hnai-mask-%d" % os.getpid())
            if os.path.lexists(link):
                link.unlink()
            link.symlink_to("/dev/null")
            os.replace(link, path)
        if fresh and os.path.isdir("/run/systemd/system"):
            self._call(["systemctl", "daemon-reload"], "masking")
            self._call(["systemctl", "stop", *fresh], "stopping what our own unit replaces")
        return fresh

    def deny_starts(self) -> None:
        """Write policy-rc.d; a foreign one is kept beside it."""
        if self.policy.exists() and not policy_left(self.policy):
            os.replace(self.policy, self.saved)
        handle, temporary = tempfile.mkstemp(prefix=".policy-", dir=self.policy.parent)
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(_POLICY.format(mark=MARK, lock=self.lock, saved=self.saved))
            os.fchmod(stream.fileno(), 0o755)
        os.replace(temporary, self.policy)

    def allow_starts(self) -> bool:
        """Remove our policy-rc.d and put a foreign one back; True if something was there."""
        ours = policy_left(self.policy)
        if self.saved.exists():
            os.replace(self.saved, self.policy)
        elif ours:
            self.policy.unlink()
        return ours

    def repair(self) -> None:
        """Finish what a killed dpkg began, starts denied."""
        self.deny_starts()
        try:
            deadline = time.monotonic() + self.deadline_s
            while True:
                code, text = self.runner(["dpkg", "--force-confdef", "--force-confold", "--configure", "-a"], self.deadline_s)
                if code == 0:
                    return
                if "lock" not in text or time.monotonic() > deadline:
                    break
                time.sleep(2.0)
            # an incomplete package is replaced by the installation that follows
        finally:
            self.allow_starts()

    def install(self, packages: Sequence[str]) -> None:
        """Install "name=version" with starts denied; every .deb is checked by apt against the signed index."""
        self.deny_starts()
        try:
            self._call(
                [*self.options(), "--no-install-recommends", "--allow-downgrades", "--fix-broken", "install", *packages],
                "installing " + " ".join(packages),
            )
        finally:
            self.allow_starts()
        names = [package.split("=", 1)[0] for package in packages]
        found = installed_packages(names, self.runner)
        wrong = [package for package in packages if found.get(package.split("=", 1)[0]) != package.split("=", 1)[1]]
        if wrong:
            raise ArtifactError("after the installation dpkg does not have %s; remedy: look at `dpkg --audit` on the host" % ", ".join(wrong))

    def tidy(self) -> None:
        """Drop packages from the pool that the index no longer names (those it names stay: they are the way back)."""
        known = parse_index((self.apt / "Packages").read_text(encoding="utf-8"))
        for path in (self.apt / "pool").iterdir():
            if path.name not in known:
                path.unlink()
