# SPDX-License-Identifier: Apache-2.0
"""Convergence of one component's configuration tree on one host.

The controller sends every file of the tree, rendered. This core makes the host's files equal to it, in an order that a kill
at any point cannot turn into a loss: the ownership registry is first widened to "what was ours and what will be", and narrowed
to "what is ours" as the very last step.

Order: accounts (sysusers.d), the component's own checkers on a candidate copy, directories, files, removals, tmpfiles.d, sysctl.d,
daemon-reload, registry. Everything is compared before it is written, so a second run changes nothing.
"""

from __future__ import annotations

import contextlib
import fnmatch
import glob
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ansible_collections.hnai.platform.plugins.module_utils import hostfiles
from ansible_collections.hnai.platform.plugins.module_utils.host import accounts, sysctl
from ansible_collections.hnai.platform.plugins.module_utils.hostfiles import (
    Completed,
    Host,
    HostError,
    atomic_write,
    ensure_directory,
    read_file,
    required_ids,
    sync_directory,
)
from ansible_collections.hnai.platform.plugins.module_utils.unit import forget, note_drift

REGISTRY_DIRECTORY = "/var/lib/hnai/trees"
SYSUSERS = ("/etc/sysusers.d/", "/usr/lib/sysusers.d/")
TMPFILES = ("/etc/tmpfiles.d/", "/usr/lib/tmpfiles.d/")
SYSCTL = ("/etc/sysctl.d/", "/usr/lib/sysctl.d/")
UNITS = ("/etc/systemd/system/", "/usr/lib/systemd/system/")
#: Where a unit's drop-ins of a person stand, those for this boot alone and of `systemctl set-property` too (systemd.unit(5)).
DROP_INS = ("/etc/systemd/system", "/run/systemd/system", "/etc/systemd/system.control", "/run/systemd/system.control")
#: The component that stands on every host; its tree looks for what bears our name and is nobody's.
BASE = "host"
#: usermod(8): the account is in use; its home then cannot be changed.
BUSY = 8
MASK = "********"
_PEM_PRIVATE = re.compile(rb"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----")
_PEM_BLOCK = re.compile(r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----.*?(?:-----END [A-Z0-9 ]*PRIVATE KEY-----|\Z)", re.DOTALL)
_SECRET_LINE = re.compile(
    r"^(?P<head>.*?(?:passw(?:or)?d|passphrase|secret|token|api_?key|credential)[^=:\s]*\s*[=:\s]\s*)(?P<value>\S.*)$",
    re.IGNORECASE | re.MULTILINE,
)


@dataclass(frozen=True)
class Entry:
    """A file as it must be: absolute path, bytes, permission bits, names of owner and group."""

    path: str
    content: bytes
    mode: int
    owner: str
    group: str


@dataclass(frozen=True)
class Directory:
    """A directory that belongs to the component: its mode and owner are kept."""

    path: str
    mode: int
    owner: str
    group: str


@dataclass(frozen=True)
class Validator:
    """A checker: `%s` in `command` is the candidate of `path` (each, when it is a glob), `%d` the mirror of the whole tree."""

    path: str
    command: tuple[str, ...]


@dataclass
class Outcome(hostfiles.Outcome):
    """`held` items have path, before, after."""

    foreign: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)
    #: Of changed_paths those whose content stays: mode or owner differ, or a directory.
    rights: list[str] = field(default_factory=list)
    held: list[dict[str, str]] = field(default_factory=list)
    watched: list[str] = field(default_factory=list)
    accounts: bool = False
    tmpfiles: bool = False
    sysctl: list[str] = field(default_factory=list)
    daemon_reload: bool = False
    registry: bool = False

    @property
    def changed(self) -> bool:
        """Whether anything on the host is different afterwards."""
        return bool(super().changed or self.stopped or self.accounts or self.tmpfiles or self.sysctl or self.daemon_reload or self.registry)


@dataclass(frozen=True)
class _Present:
    """A file as it is. `kind`: missing, file or link (then `content` is the link's target)."""

    kind: str
    content: bytes = b""
    mode: int = 0
    uid: int = -1
    gid: int = -1


@dataclass(frozen=True)
class _Registry:
    """What is ours on this host. `intended` (path: sha256) are files that are about to become ours while a run is under way."""

    files: list[str]
    intended: dict[str, str]
    directories: list[str]


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def refuse_private_key(path: str, content: bytes) -> None:
    """Raises HostError when a file of a tree carries a private key: trees carry no secret."""
    if _PEM_PRIVATE.search(content):
        raise HostError(
            f"{path}: the rendered file contains a PEM private key; a configuration tree carries no secret. "
            "Keys are made on the host by host_certificate, other secrets are delivered by credentials"
        )


def masked(text: str) -> str:
    """`text` without the values of lines that name a secret, and without private PEM blocks."""
    return _SECRET_LINE.sub(lambda found: found.group("head") + MASK, _PEM_BLOCK.sub(MASK, text))


def matches(path: str, patterns: Iterable[str]) -> bool:
    """Whether `path` matches one of the globs (`*` crosses slashes)."""
    return any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns)


class Tree:
    """One component's tree on one host; `converge` once."""

    def __init__(
        self,
        host: Host,
        component: str,
        entries: list[Entry],
        directories: list[Directory],
        validators: list[Validator],
        check: bool = False,
        foreign_ignore: tuple[str, ...] = (),
        hold: tuple[str, ...] = (),
        watch: tuple[str, ...] = (),
        leave: tuple[str, ...] = (),
    ) -> None:
        self.host = host
        self.component = component
        self.entries = sorted(entries, key=lambda entry: entry.path)
        self.directories = sorted(directories, key=lambda directory: directory.path)
        self.validators = validators
        self.check = check
        self.hold, self.watch, self.leave = hold, watch, leave
        self.home = f"/etc/hnai/{component}"
        #: Its programs: Python imports what lies beside a script.
        self.programs = f"/usr/local/lib/hnai/{component}"
        self.foreign_ignore = (f"{self.home}/tls/*", f"{self.programs}/*__pycache__/*.pyc", *foreign_ignore)
        self.registry_path = f"{REGISTRY_DIRECTORY}/{component}.json"
        self.outcome = Outcome()
        paths = [entry.path for entry in self.entries]
        for path in paths:
            if not path.startswith("/") or os.path.normpath(path) != path:
                raise HostError(f"{path}: a file of a tree needs a normal absolute path")
        double = {path for path in paths if paths.count(path) > 1}
        if double:
            raise HostError(
                f"{sorted(double)[0]}: two files of the tree of {component} have this path; with foreach, every per-item file needs the item in its path"
            )
        unknown = [path for path in hold if path not in paths]
        if unknown:
            raise HostError(f"hold: {unknown[0]} is not a file of the tree of {component}")
        unknown = [validator.path for validator in validators if validator.path not in paths and "*" not in validator.path]
        if unknown:
            raise HostError(f"validate: {unknown[0]} is not a file of the tree of {component}")

    # -- the whole --------------------------------------------------------------------------------------------------

    def converge(self) -> Outcome:
        """Makes the host equal to the tree. Raises HostError; then no file that the tree checks was replaced."""
        for entry in self.entries:
            refuse_private_key(entry.path, entry.content)
        before = self._registry()
        mine = [entry.path for entry in self.entries]
        # From here on a kill loses nothing: what will be ours is on record before it is, with its digest, so that a file that
        # never became ours is not taken for ours later.
        self._write_registry(
            _Registry(
                before.files,
                {
                    **before.intended,
                    **{entry.path: _sha256(entry.content) for entry in self.entries if entry.path not in before.files},
                },
                sorted({*before.directories, *self._parents()}),
            )
        )
        self._converge_accounts()
        self._converge_files([entry for entry in self.entries if not entry.path.startswith(SYSUSERS)])
        left = {path for path in [*before.files, *before.intended] if matches(path, self.leave)}
        others = self._of_others() | left
        obsolete = [path for path in before.files if path not in mine and path not in others]
        obsolete += [
            path
            for path, digest in before.intended.items()
            if path not in mine and path not in others and path not in before.files and _sha256(self._inspect(path).content) == digest
        ]
        self._remove(obsolete, [path for path in before.directories if path not in self._parents()])
        self._converge_tmpfiles()
        self._converge_sysctl()
        self._reload_daemon(obsolete)
        self._find_foreign(set(mine) | set(before.files) | others)
        final = _Registry(sorted({*mine, *left.intersection(before.files)}), {}, self._parents())
        self.outcome.registry = final != before
        self._write_registry(final)
        return self.outcome

    # -- registry ---------------------------------------------------------------------------------------------------

    def _registry(self) -> _Registry:
        raw = read_file(self.host, self.registry_path)
        if raw is None:
            return _Registry([], {}, [])
        try:
            data = json.loads(raw)
            return _Registry(sorted(data["files"]), dict(data.get("intended", {})), sorted(data["directories"]))
        except (ValueError, KeyError, TypeError) as error:
            raise HostError(
                f"{self.registry_path}: not a registry of owned files ({error}); move it away, then run again: "
                "files that no longer belong to the tree must then be removed by hand"
            ) from error

    def _of_others(self, begun: bool = False) -> set[str]:
        """Files that another component owns: a file that moved from one tree to another stays. *begun*: or would own, had its run not been killed."""
        owned: set[str] = set()
        for path in glob.glob(self.host.at(f"{REGISTRY_DIRECTORY}/*.json")):
            if path != self.host.at(self.registry_path):
                with open(path, encoding="utf-8") as stream:
                    told = json.load(stream)
                    owned.update(told["files"], told.get("intended", ()) if begun else ())
        return owned

    def _write_registry(self, registry: _Registry) -> None:
        wanted = json.dumps({"component": self.component, **asdict(registry)}, indent=1).encode() + b"\n"
        if self.check or read_file(self.host, self.registry_path) == wanted:
            return
        ensure_directory(self.host, REGISTRY_DIRECTORY, 0o755, 0, 0)
        atomic_write(self.host, self.registry_path, wanted, 0o644, 0, 0)

    def _parents(self) -> list[str]:
        """Directories that belong to the component: those it declares and its drop-in directories."""
        own = {directory.path for directory in self.directories}
        own.update(os.path.dirname(entry.path) for entry in self.entries if entry.path.startswith(UNITS) and os.path.dirname(entry.path).endswith(".d"))
        return sorted(own)

    # -- accounts ---------------------------------------------------------------------------------------------------

    def _declared_accounts(self) -> tuple[set[str], set[str]]:
        """Names of (users, groups) that the tree's sysusers.d files declare."""
        users: set[str] = set()
        groups: set[str] = set()
        for entry in self.entries:
            if entry.path.startswith(SYSUSERS):
                for line in entry.content.decode("utf-8", "replace").splitlines():
                    words = line.split()
                    if len(words) >= 2 and words[0].rstrip("!") in ("u", "g", "m"):
                        if words[0].startswith("u"):
                            users.add(words[1])
                        groups.add(words[2] if words[0] == "m" and len(words) > 2 else words[1])
        return users, groups

    def _converge_accounts(self) -> None:
        files = [entry for entry in self.entries if entry.path.startswith(SYSUSERS)]
        if not files:
            return
        texts = [entry.content.decode("utf-8", "replace") for entry in files]
        wrong, other = accounts.numbers(self.host, texts)
        if wrong:
            raise HostError(f"{files[0].path}: {'; '.join(wrong)}; nothing was changed; remedy: give it in the inventory a number that is free on every host")
        self.outcome.warnings += [f"{one}; the account was there before and is left as it is" for one in other]
        changed = self._apply(self._plan(files))
        users, groups = self._declared_accounts()
        missing = [name for name in users if self.host.uid(name) is None] + [name for name in groups if self.host.gid(name) is None]
        self.outcome.accounts = bool(missing)
        if missing:
            self._told("accounts", "", "".join(f"{name}\n" for name in sorted(set(missing))))
        if (changed or missing) and not self.check:
            done = self.host.run(["systemd-sysusers", *[self.host.at(entry.path) for entry in files]])
            if done.rc != 0:
                raise HostError(f"{files[0].path}: systemd-sysusers refused it: {done.message}")
        for change in accounts.changes(self.host, texts):
            self._told("accounts", f"{change.before}\n", f"{change.after}\n")
            done = Completed(0, b"", b"") if self.check else self.host.run(list(change.command))
            if done.rc == BUSY and change.command[0] == "usermod":
                self.outcome.warnings.append(f"{change.before}, which cannot be put right while its unit runs; stop it, then {' '.join(change.command)}")
            elif done.rc != 0:
                raise HostError(f"/etc/passwd: {change.before}, and it could not be put right ({' '.join(change.command)}): {done.message}")
            else:
                self.outcome.accounts = True

    # -- files ------------------------------------------------------------------------------------------------------

    def _inspect(self, path: str) -> _Present:
        target = self.host.at(path)
        try:
            info = os.lstat(target)
        except (FileNotFoundError, NotADirectoryError):
            return _Present("missing")
        uid, gid = self.host.owner(info)
        if stat.S_ISLNK(info.st_mode):
            return _Present("link", os.readlink(target).encode(), 0o777, uid, gid)
        if not stat.S_ISREG(info.st_mode):
            raise HostError(
                f"{path}: the tree of {self.component} has a file here, but the host has something else (a directory or a device); move it away, then run again"
            )
        with open(target, "rb") as stream:
            return _Present("file", stream.read(), stat.S_IMODE(info.st_mode), uid, gid)

    def _plan(self, entries: list[Entry]) -> list[tuple[Entry, _Present]]:
        """Entries that differ from the host, with what the host has."""
        plan = []
        for entry in entries:
            present = self._inspect(entry.path)
            if (present.kind, present.content, present.mode) != ("file", entry.content, entry.mode) or (
                present.uid,
                present.gid,
            ) != (self.host.uid(entry.owner), self.host.gid(entry.group)):
                plan.append((entry, present))
        return plan

    def _apply(self, plan: list[tuple[Entry, _Present]]) -> bool:
        """Records and, unless in check mode, writes the plan."""
        for entry, present in plan:
            self.outcome.changed_paths.append(entry.path)
            self.outcome.rights += [entry.path] if (present.kind, present.content) == ("file", entry.content) else []
            self.outcome.diff.append(self._difference(entry, present))
            if self.check:
                continue
            uid, gid = required_ids(self.host, entry.owner, entry.group, entry.path)
            parent = os.path.dirname(entry.path)
            if not os.path.isdir(self.host.at(parent)):
                ensure_directory(self.host, parent, 0o755, 0, 0)
            if present.kind == "file" and present.content != entry.content:
                note_drift(self.host, entry.path)
            if (present.kind, present.content) == ("file", entry.content):
                target = self.host.at(entry.path)
                self.host.chown(target, uid, gid)
                os.chmod(target, entry.mode)
            else:
                atomic_write(self.host, entry.path, entry.content, entry.mode, uid, gid)
        return bool(plan)

    def _converge_files(self, entries: list[Entry]) -> None:
        plan = self._plan(entries)
        self._validate([entry.path for entry, present in plan if (present.kind, present.content) != ("file", entry.content)])
        for directory in self.directories:
            self._converge_directory(directory)
        # What somebody else must look at first stays as it is; its checker has seen the candidate.
        held = [(entry, present) for entry, present in plan if entry.path in self.hold and (present.kind, present.content) != ("file", entry.content)]
        plan = [item for item in plan if item not in held]
        self.outcome.held = [
            {"path": entry.path, "before": present.content.decode("utf-8", "replace"), "after": entry.content.decode("utf-8", "replace")}
            for entry, present in held
        ]
        self.outcome.watched = sorted(path for pattern in self.watch for path in glob.glob(self.host.at(pattern)))
        # Units last: what a unit refers to is there before the unit is.
        plan.sort(key=lambda item: item[0].path.startswith(UNITS))
        self._apply(plan)

    def _converge_directory(self, directory: Directory) -> None:
        target = self.host.at(directory.path)
        uid, gid = self.host.uid(directory.owner), self.host.gid(directory.group)
        before = ""
        if os.path.isdir(target):
            info = os.stat(target)
            if (stat.S_IMODE(info.st_mode), *self.host.owner(info)) == (directory.mode, uid, gid):
                return
            before = _rights(stat.S_IMODE(info.st_mode), *self.host.owner(info))
        after = _rights(directory.mode, directory.owner if uid is None else uid, directory.group if gid is None else gid)
        self.outcome.changed_paths.append(directory.path + "/")
        self.outcome.rights.append(directory.path + "/")
        self._told(directory.path + "/", before, after)
        if not self.check:
            ensure_directory(self.host, directory.path, directory.mode, *required_ids(self.host, directory.owner, directory.group, directory.path))

    def _told(self, header: str, before: str, after: str) -> None:
        """One difference for --diff."""
        self.outcome.diff.append({"before": before, "after": after, "before_header": header, "after_header": header})

    def _validate(self, changed: list[str]) -> None:
        """Runs the checkers that a changed file concerns, on candidates in a directory that mirrors the tree."""
        due = [
            (path, validator.command)
            for validator in self.validators
            for path in (entry.path for entry in self.entries)
            if matches(path, [validator.path]) and any(other.startswith(os.path.dirname(path) + "/") for other in changed)
        ]
        if not due:
            return
        # Not 0700: a checker may drop its privileges. Each candidate has the mode that the file will have.
        mirror = self.host.at(f"/run/hnai-candidate-{self.component}-{secrets.token_hex(8)}")
        os.mkdir(mirror, mode=0o711)
        try:
            for entry in self.entries:
                candidate = mirror + entry.path
                os.makedirs(os.path.dirname(candidate), mode=0o755, exist_ok=True)
                with open(os.open(candidate, os.O_WRONLY | os.O_CREAT, 0o600), "wb") as stream:
                    stream.write(entry.content)
                    self.host.chown(stream.fileno(), self.host.uid(entry.owner) or 0, self.host.gid(entry.group) or 0)
                    os.fchmod(stream.fileno(), entry.mode)
            for path, words in due:
                command = [word.replace("%s", mirror + path).replace("%d", mirror) for word in words]
                done = self.host.run(command)
                if done.rc == 127 and self.check:
                    continue  # A bare host: the checker arrives with the component.
                if done.rc != 0:
                    answer = masked(done.message.replace(mirror, ""))
                    raise HostError(f"{path}: refused by its checker ({' '.join(words)}, exit status {done.rc}), nothing was replaced. It said: {answer}")
        finally:
            shutil.rmtree(mirror)

    def _difference(self, entry: Entry, present: _Present) -> dict[str, str]:
        """Before and after of one file for --diff, secrets masked; a change of mode or owner is a line of text."""
        same = (present.kind, present.content) == ("file", entry.content)
        before = [] if present.kind == "missing" else [_rights(present.mode, present.uid, present.gid)]
        uid, gid = self.host.uid(entry.owner), self.host.gid(entry.group)
        after = [_rights(entry.mode, entry.owner if uid is None else uid, entry.group if gid is None else gid)]
        if before == after:
            before, after = [], []
        if not same:
            old, new = _text(present), _text(_Present("file", entry.content))
            if old == new and present.kind == "file":
                new += f"# a value shown as {MASK} differs\n"
            before.append(old)
            after.append(new)
        return {"before": "".join(before), "after": "".join(after), "before_header": entry.path, "after_header": entry.path}

    # -- removals ---------------------------------------------------------------------------------------------------

    def _remove(self, obsolete: list[str], directories: list[str]) -> None:
        """Removes files that were ours and no longer are, and directories of ours that are then empty."""
        for path in obsolete:
            present = self._inspect(path)
            if present.kind == "missing":
                continue
            name = _unit_of(path)
            if name and os.path.dirname(path) + "/" in UNITS:
                self.outcome.stopped.append(name)
                if not self.check:
                    command = ["systemctl", "disable", name] if "@." in name else ["systemctl", "disable", "--now", name]
                    done = self.host.run(command, timeout=120)
                    if done.rc != 0:
                        raise HostError(f"{path}: {name} no longer belongs to {self.component} but could not be stopped: {done.message}")
                    forget(self.host, name)
            self.outcome.removed.append(path)
            self.outcome.diff.append({"before": _text(present), "after": "", "before_header": path, "after_header": "(removed)"})
            if not self.check:
                os.unlink(self.host.at(path))
                sync_directory(os.path.dirname(self.host.at(path)))
        if not self.check:
            for path in sorted(directories, reverse=True):
                with contextlib.suppress(OSError):  # Not empty: what lies in it is not ours.
                    os.rmdir(self.host.at(path))

    # -- systemd ----------------------------------------------------------------------------------------------------

    def _converge_tmpfiles(self) -> None:
        for entry in self.entries:
            if not entry.path.startswith(TMPFILES):
                continue
            drifted = self._tmpfiles_drift(entry)
            if entry.path not in self.outcome.changed_paths and not drifted:
                continue
            self.outcome.tmpfiles = True
            if drifted:
                self._told(entry.path, "", f"{drifted} as declared\n")
            if not self.check:
                done = self.host.run(["systemd-tmpfiles", "--create", self.host.at(entry.path)])
                if done.rc != 0:
                    raise HostError(f"{entry.path}: systemd-tmpfiles refused it: {done.message}")

    def _tmpfiles_drift(self, entry: Entry) -> str:
        """The first path that a tmpfiles.d file declares and that is missing, or a directory whose mode or owner differs; '' if there is none."""
        for line in entry.content.decode("utf-8", "replace").splitlines():
            words = line.split()
            if len(words) < 2 or words[0][:1] not in "dDvfL" or "%" in words[1]:
                continue
            target = self.host.at(words[1])
            if not os.path.lexists(target):
                return words[1]
            if words[0][:1] in "dDv" and len(words) >= 5 and "-" not in words[2:5]:
                info = os.stat(target)
                wanted = (
                    int(words[2].lstrip("~:"), 8),
                    self.host.uid(words[3].lstrip(":")),
                    self.host.gid(words[4].lstrip(":")),
                )
                if (stat.S_IMODE(info.st_mode), *self.host.owner(info)) != wanted:
                    return words[1]
        return ""

    def _converge_sysctl(self) -> None:
        """What a sysctl.d file declares is in force; a key that this host cannot write, or that does not take the value, is the verdict's matter."""
        for entry in self.entries:
            if not entry.path.startswith(SYSCTL):
                continue
            wanted = sysctl.parse(entry.content.decode("utf-8", "replace"))
            proc = Path(self.host.at("/proc/sys"))
            differ, _beyond = sysctl.differing(wanted, proc)
            if differ and not self.check:
                done = self.host.run(["/usr/lib/systemd/systemd-sysctl", self.host.at(entry.path)])
                if done.rc != 0:
                    raise HostError(f"{entry.path}: systemd-sysctl could not put it in force: {done.message}")
                left, _beyond = sysctl.differing(wanted, proc)
                differ = {key: pair for key, pair in differ.items() if key not in left}
            if differ:
                self.outcome.sysctl += sorted(differ)
                before, after = ("".join(f"{key} = {pair[side]}\n" for key, pair in sorted(differ.items())) for side in (0, 1))
                self._told(f"{entry.path}, in force", before, after)

    def _reload_daemon(self, obsolete: list[str]) -> None:
        """daemon-reload when a unit changed now, or changed in a run that was killed before it could say so."""
        units = sorted({name for entry in self.entries for name in [_unit_of(entry.path)] if name})
        due = any(_unit_of(path) for path in [*self.outcome.changed_paths, *obsolete])
        loaded = [name for name in units if "@." not in name]
        if not due and loaded:
            shown = self.host.run(["systemctl", "show", "--property=NeedDaemonReload", *loaded])
            due = "NeedDaemonReload=yes" in shown.text
        if due:
            self.outcome.daemon_reload = True
            if not self.check:
                done = self.host.run(["systemctl", "daemon-reload"])
                if done.rc != 0:
                    raise HostError(f"{', '.join(units)}: systemctl daemon-reload failed: {done.message}")

    # -- foreign files ----------------------------------------------------------------------------------------------

    def _find_foreign(self, ours: set[str]) -> None:
        # A drop-in of somebody else changes what our unit runs.
        units = {name for entry in self.entries for name in [_unit_of(entry.path)] if name}
        for top in {self.home, self.programs, *[f"{place}/{name}.d" for place in DROP_INS for name in units]}:
            if os.path.islink(self.host.at(top)):
                self.outcome.foreign.append(top)  # What it leads to may be equal today.
            for directory, names, files in os.walk(self.host.at(top)):
                inside = top + directory[len(self.host.at(top)) :]
                for name in [*files, *(name for name in names if os.path.islink(os.path.join(directory, name)))]:
                    path = f"{inside}/{name}"
                    if path not in ours and not matches(path, self.foreign_ignore):
                        self.outcome.foreign.append(path)
        known = ours | self._of_others(begun=True) if self.component == BASE else set()
        for top in UNITS if self.component == BASE else ():
            for found in glob.glob(self.host.at(f"{top}hnai-*")):
                path = top + os.path.basename(found)
                # Under our name and of no component: its own tree would not look there.
                if os.path.isdir(found) or _unit_of(path) != os.path.basename(path):
                    continue
                if path not in known and not matches(path, self.foreign_ignore):
                    self.outcome.foreign.append(path)
        self.outcome.foreign.sort()


def _rights(mode: int, owner: int | str, group: int | str) -> str:
    return f"# mode {mode:04o} owner {owner}:{group}\n"


def _unit_of(path: str) -> str | None:
    """The unit that a file below a unit directory belongs to (its own, or the one that a drop-in is for)."""
    for top in UNITS:
        if path.startswith(top):
            first = path[len(top) :].split("/", 1)[0]
            name = first[:-2] if first.endswith(".d") else first
            return name if re.search(r"\.(service|timer|socket|path|mount|target|slice)$", name) else None
    return None


def _text(present: _Present) -> str:
    """What --diff shows of a file: text with secrets masked, or size and digest when it is binary."""
    if present.kind == "missing":
        return ""
    if present.kind == "link":
        return f"(link to {present.content.decode('utf-8', 'replace')})\n"
    try:
        text = present.content.decode("utf-8")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        return f"(binary, {len(present.content)} bytes, sha256 {_sha256(present.content)})\n"
    return masked(text)
