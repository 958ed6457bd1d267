# SPDX-License-Identifier: Apache-2.0
"""A unit that is enabled and runs *this*: the binary, the configuration and the credentials that lie on the host now.

Two manifests per unit stand in /etc/hnai/digests/: `<unit>.restart` and `<unit>.reload`. Line 1 is the digest, the others say
what went into it (digest and path), so that "why would it restart?" has an answer. They are written last, after everything
else of the unit is in place. When the unit starts it copies them to /run/hnai/ (two ExecStartPre lines of roles/component's
sandbox.service.j2). Hence "a restart is due" = the two copies differ: a fact on the host that survives a killed run, a reboot
and a restart by hand, and that a restart at any moment settles exactly once.
"""

from __future__ import annotations

import glob
import hashlib
import os
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from ansible_collections.hnai.platform.plugins.module_utils.hostfiles import (
    Host,
    HostError,
    atomic_write,
    ensure_directory,
    read_file,
)

DESIRED = "/etc/hnai/digests"
RUNNING = "/run/hnai"
#: Units that are no service cannot run a command at start; what they run is recorded for them, here: it survives a reboot.
RECORDED = "/var/lib/hnai/digests"
#: In a directory with data of a unit (sandbox.service.j2 knows it, too).
MARKER = ".hnai-data"
ARTIFACT_MANIFEST = ".hnai-manifest"
_PROPERTIES = (
    "LoadState",
    "ActiveState",
    "SubState",
    "UnitFileState",
    "Type",
    "RemainAfterExit",
    "CanReload",
    "NeedDaemonReload",
    "Result",
    "ConditionResult",
    "AssertResult",
    "NRestarts",
    "InvocationID",
    "ActiveEnterTimestampMonotonic",
    "ExecMainStatus",
    "Job",
)
#: How products say that they could not have a port.
_PORT_TAKEN = re.compile(r"address (is )?already in use|EADDRINUSE|could not bind|failed to bind|BindException|\[98\]", re.IGNORECASE)
#: UnitFileState that enable and disable may change; the last is ours (_silenced).
_SILENCED = "by a link to /dev/null"
_CHANGEABLE = ("disabled", "enabled", "enabled-runtime", "linked", "alias", _SILENCED)
_RUNNING_STATES = ("active", "reloading", "refreshing")


@dataclass(frozen=True)
class _Held:
    """A port that somebody listens on; `unit` is empty where it is of none."""

    proto: str
    address: str
    port: str
    unit: str
    sentence: str

    def stands_in_the_way_of(self, wanted: str) -> bool:
        """`wanted`: PORT of TCP on every address, or ADDRESS:PORT."""
        address, _, port = wanted.rpartition(":")
        return (self.proto, self.port) == ("tcp", port) and (not address or self.address in ("*", "0.0.0.0", "::", address))


def _freed(sentence: str) -> str:
    return f"{sentence}; remedy: stop it, or give one of the two another port"


# -- digests ------------------------------------------------------------------------------------------------------------


def _below(path: str, tops: Iterable[str]) -> bool:
    return any(path == top or path.startswith(top.rstrip("/") + "/") for top in tops)


def _resolve(host: Host, patterns: Iterable[str]) -> list[str]:
    """Paths (as the host names them) that the patterns name; a pattern without a match is kept out."""
    found: set[str] = set()
    for pattern in patterns:
        for real in glob.glob(host.at(pattern)):
            found.add("/" + os.path.relpath(real, host.root) if host.root != "/" else real)
    return sorted(found)


def _line(kind: str, content: bytes, path: str) -> str:
    return f"{hashlib.sha256(kind.encode() + b'|' + content).hexdigest()[:32]}  {path}"


def _file_line(host: Host, path: str) -> str | None:
    """One line for a file or a link; None when it vanished meanwhile.

    A link counts by where it points and by the manifest of the artifact there, so an installation is never hashed file by file.
    """
    real = host.at(path)
    if os.path.islink(real):
        target = os.readlink(real)
        place = os.path.join(os.path.dirname(real), target) if not os.path.isabs(target) else host.at(target)
        content = b""
        if os.path.isfile(place):
            with open(place, "rb") as stream:
                content = stream.read()
        elif os.path.isfile(os.path.join(place, ARTIFACT_MANIFEST)):
            with open(os.path.join(place, ARTIFACT_MANIFEST), "rb") as stream:
                content = stream.read()
        return _line("link", target.encode() + b"|" + content, path)
    digest = hashlib.sha256()
    try:
        with open(real, "rb") as stream:
            for block in iter(lambda: stream.read(1 << 20), b""):
                digest.update(block)
    except FileNotFoundError:
        return None
    return _line("file", digest.digest(), path)


def manifest(host: Host, watched: Iterable[str], ignored: Iterable[str] = ()) -> bytes:
    """The manifest of what `watched` (paths or globs, directories recursive) holds, without what lies at or below `ignored`.

    Line 1 is the sha256 over the lines that follow. Modes and owners do not count: they change nothing in a process that runs.
    """
    left_out = [path for pattern in ignored for path in [pattern, *_resolve(host, [pattern])]]
    lines: list[str] = []
    for top in _resolve(host, watched):
        real = host.at(top)
        paths = [top]
        if os.path.isdir(real) and not os.path.islink(real):
            paths = [
                os.path.join(top, os.path.relpath(os.path.join(directory, name), real))
                for directory, names, files in os.walk(real)
                for name in [*files, *[name for name in names if os.path.islink(os.path.join(directory, name))]]
            ]
        for path in paths:
            if _below(path, left_out) or os.path.basename(path).endswith(".hnai-new"):
                continue
            if os.path.isfile(host.at(path)) or os.path.islink(host.at(path)):
                line = _file_line(host, path)
                lines += [line] if line else []
    lines = sorted(set(lines), key=lambda line: line[34:])
    body = "".join(line + "\n" for line in lines)
    return f"{hashlib.sha256(body.encode()).hexdigest()}\n{body}".encode()


def renew(host: Host, name: str) -> None:
    """Writes the desired manifests of a unit again, out of what the files that they name hold now: for who changes one of these files and restarts
    the unit without the role that knows why they count. The role finds nothing left to do."""
    for kind in ("restart", "reload"):
        path = f"{DESIRED}/{name}.{kind}"
        recorded = read_file(host, path)
        if recorded is not None:
            content = manifest(host, [line[34:] for line in recorded.decode("utf-8", "replace").splitlines()[1:]])
            if content != recorded:
                atomic_write(host, path, content, 0o644, 0, 0)


def forget(host: Host, name: str) -> None:
    """What is remembered of a unit that is no more: its digests, and that it failed, which systemd keeps when its file is gone, too."""
    host.run(["systemctl", "reset-failed", name])  # it complains of one that it has forgotten already
    for top in (DESIRED, RUNNING, RECORDED):
        for real in glob.glob(host.at(f"{top}/{glob.escape(name)}.*")):
            os.unlink(real)


def note_drift(host: Host, path: str) -> list[str]:
    """Before somebody's change of `path` is undone: the units that took it up say so from here on, hence what is put back is due there.

    A unit took it up when it was started after the change. Nobody can tell when a unit was last reloaded by hand, so one that reads the file at
    a reload is taken to have done so. Returns their names. To be called before the file is replaced: a kill in between loses nothing.
    """
    noted = []
    try:
        changed_at = os.lstat(host.at(path)).st_ctime
    except (FileNotFoundError, NotADirectoryError):
        return []
    for desired_path in sorted(glob.glob(host.at(f"{DESIRED}/*.re*"))):
        name, _, kind = os.path.basename(desired_path).rpartition(".")
        desired = read_file(host, f"{DESIRED}/{name}.{kind}") or b""
        lines = desired.decode("utf-8", "replace").splitlines()[1:]
        if path not in (line[34:] for line in lines):
            continue
        for place in (RUNNING, RECORDED):
            record = f"{place}/{name}.{kind}"
            running = read_file(host, record)
            # Where something is due anyway, what is put back comes with it.
            if running != desired or (kind == "restart" and os.stat(host.at(record)).st_mtime < changed_at):
                continue
            line = _file_line(host, path)
            body = "".join(f"{line if known[34:] == path and line else known}\n" for known in lines)
            ran = f"{hashlib.sha256(body.encode()).hexdigest()}\n{body}".encode()
            if ran != running:
                noted.append(name)
                atomic_write(host, record, ran, 0o644, 0, 0)
    return noted


def causes(running: bytes | None, desired: bytes) -> list[str]:
    """Paths whose digest differs between two manifests; all of `desired` when nothing is known to run."""
    old = set((running or b"").decode("utf-8", "replace").splitlines()[1:])
    new = set(desired.decode("utf-8", "replace").splitlines()[1:])
    return sorted({line[34:] for line in old ^ new})


# -- the unit -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Request:
    """What is asked of a unit; see the module's documentation."""

    name: str
    restart_on: tuple[str, ...] = ()
    restart_ignore: tuple[str, ...] = ()
    reload_on: tuple[str, ...] = ()
    ports: tuple[str, ...] = ()
    data: tuple[str, ...] = ()
    enabled: bool | None = True
    state: str = "started"
    rolling: bool = False
    force_restart: bool = False
    settle_s: float = 3.0
    timeout_s: float = 90.0
    predicted_changes: tuple[str, ...] = ()


@dataclass
class Outcome:
    """What was (or, in check mode, would be) done to a unit and what is left to do."""

    actions: list[str] = field(default_factory=list)
    state: str = "unknown"
    restart_pending: bool = False
    reload_pending: bool = False
    causes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    before: str = ""
    after: str = ""

    @property
    def changed(self) -> bool:
        """Whether anything on the host is different afterwards."""
        return bool(self.actions)


class Unit:
    """One unit on one host; `converge`, or `begin` and `finish`, once. `clock` is monotonic seconds, `sleep` waits seconds."""

    def __init__(
        self,
        host: Host,
        request: Request,
        check: bool = False,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.host = host
        self.ask = request
        self.check = check
        self.clock = clock
        self.sleep = sleep
        self.outcome = Outcome()
        if not re.match(r"^[A-Za-z0-9:_.\\@-]+\.(service|timer|socket|path|target|mount)$", request.name):
            raise HostError(f"name: '{request.name}' is no full unit name (as hnai-kafka.service)")
        self.service = request.name.endswith(".service")
        #: What is left to do once the unit's own start is under way.
        self._rest: Callable[[], None] = lambda: None
        self._deadline: float | None = None

    # -- the whole --------------------------------------------------------------------------------------------------

    def converge(self) -> Outcome:
        """Brings the unit to the asked state. Raises HostError with the journal's last lines when it does not stay there."""
        self.begin()
        return self.finish()

    def begin(self) -> None:
        """Everything until the unit is on its way: what it should run is recorded, and a start that is due is queued."""
        shown = self._show()
        self.outcome.state = shown["ActiveState"]
        absent = shown["LoadState"] == "not-found"
        if absent and not self.check:
            raise HostError(f"{self.ask.name}: there is no such unit on this host; its file belongs in the role's tree/etc/systemd/system/")
        if shown["LoadState"] in ("error", "bad-setting"):
            raise HostError(
                f"{self.ask.name}: systemd cannot load the unit ({shown['LoadState']}); 'systemd-analyze verify {self.ask.name}' on the host names the line"
            )
        if self.ask.state == "started" and shown["LoadState"] == "masked":
            raise HostError(
                f"{self.ask.name}: the unit is masked, someone decided that it must not start; 'systemctl unmask {self.ask.name}' on the host lifts that"
            )
        if shown["UnitFileState"] in _CHANGEABLE and self._silenced():
            shown["UnitFileState"] = _SILENCED
        if self.ask.state == "stopped":
            self._stop(shown)
            return
        self._data_are_there()
        desired = {"restart": self._desired_restart(), "reload": manifest(self.host, self.ask.reload_on)}
        running = {kind: self._running(kind) for kind in desired}
        self._describe(shown, running, desired)
        if shown["NeedDaemonReload"] == "yes":
            self._do("daemon-reload", ["systemctl", "daemon-reload"])
        self._enable(shown)
        for kind, content in desired.items():
            self._record_desired(kind, content)
        self._run(shown, running, desired)

    def finish(self) -> Outcome:
        """Waits until the unit has come up and stays."""
        self._rest()
        if not self.check and self.ask.state == "started":
            self._remember_data()
        return self.outcome

    # -- what it stored ---------------------------------------------------------------------------------------------

    def _data_are_there(self) -> None:
        """What an unmounted file system leaves is an empty directory, and a unit that is started on it begins anew beside what it had."""
        record = f"{RECORDED}/{self.ask.name}.data"
        known = (read_file(self.host, record) or b"").decode("utf-8", "replace").splitlines()
        for path in self.ask.data:
            if path in known and not os.path.lexists(self.host.at(f"{path}/{MARKER}")):
                raise HostError(
                    f"{self.ask.name}: {path}: the data that this unit stored here are not there: not mounted, or lost; remedy: mount the file system, "
                    f"or restore a backup; to begin anew on purpose remove {record} first"
                )

    def _remember_data(self) -> None:
        there = [path for path in self.ask.data if os.path.isdir(self.host.at(path))]
        for path in there:
            if not os.path.lexists(self.host.at(f"{path}/{MARKER}")):
                atomic_write(self.host, f"{path}/{MARKER}", b"", 0o644, 0, 0)
        record, content = f"{RECORDED}/{self.ask.name}.data", "".join(f"{path}\n" for path in there).encode()
        if there and read_file(self.host, record) != content:
            ensure_directory(self.host, RECORDED, 0o755, 0, 0)
            atomic_write(self.host, record, content, 0o644, 0, 0)

    # -- asking -----------------------------------------------------------------------------------------------------

    def _show(self) -> dict[str, str]:
        done = self.host.run(["systemctl", "show", "--property=" + ",".join(_PROPERTIES), self.ask.name])
        if done.rc != 0 and not self.check:
            raise HostError(f"{self.ask.name}: systemctl show failed: {done.message}")
        values = dict(line.split("=", 1) for line in done.text.splitlines() if "=" in line)
        return (
            {key: values.get(key, "") for key in _PROPERTIES}
            if values
            else dict.fromkeys(_PROPERTIES, "") | {"LoadState": "not-found", "ActiveState": "inactive"}
        )

    def _own_files(self) -> list[str]:
        """The unit's own file and drop-ins: what it runs is also what they say."""
        names = [self.ask.name]
        if "@" in self.ask.name:
            names.append(re.sub(r"@.*\.", "@.", self.ask.name))
        return [f"{top}/{name}{rest}" for top in ("/etc/systemd/system", "/usr/lib/systemd/system") for name in names for rest in ("", ".d/*.conf")]

    def _desired_restart(self) -> bytes:
        return manifest(self.host, [*self.ask.restart_on, *self._own_files()], [*self.ask.restart_ignore, *self.ask.reload_on])

    def _running_path(self, kind: str) -> str:
        return f"{RUNNING if self.service else RECORDED}/{self.ask.name}.{kind}"

    def _running(self, kind: str) -> bytes | None:
        return read_file(self.host, self._running_path(kind))

    def _once(self, shown: dict[str, str]) -> bool:
        """A oneshot unit that does not remain: having run to its end is its "running"."""
        return shown["Type"] == "oneshot" and shown["RemainAfterExit"] != "yes"

    # -- doing ------------------------------------------------------------------------------------------------------

    def _do(self, action: str, command: list[str]) -> None:
        self.outcome.actions.append(action)
        if self.check:
            return
        done = self.host.run(command, timeout=self.ask.timeout_s)
        if done.rc != 0:
            raise HostError(f"{self.ask.name}: {' '.join(command)} failed: {done.message}\n{self.evidence()}")

    def _enable(self, shown: dict[str, str]) -> None:
        is_enabled = shown["UnitFileState"] in ("enabled", "enabled-runtime", "alias")
        possible = shown["UnitFileState"] in _CHANGEABLE or shown["LoadState"] == "not-found"
        if self.ask.enabled is None or not possible or is_enabled == self.ask.enabled:
            return
        word = "disable" if not self.ask.enabled else "reenable" if shown["UnitFileState"] == _SILENCED else "enable"
        self._do("enabled" if self.ask.enabled else "disabled", ["systemctl", word, self.ask.name])

    def _silenced(self) -> bool:
        """Whether there are links that would start the unit and lead to /dev/null: systemctl calls it enabled, and systemd leaves it out at boot."""
        links = [one for kind in ("wants", "requires") for one in glob.glob(self.host.at(f"/etc/systemd/system/*.{kind}/{glob.escape(self.ask.name)}"))]
        return any(os.path.islink(one) and os.readlink(one) == os.devnull for one in links)

    def _stop(self, shown: dict[str, str]) -> None:
        if shown["ActiveState"] not in ("inactive", "failed"):
            self._do("stopped", ["systemctl", "stop", self.ask.name])
            self.outcome.state = "inactive"
        if shown["LoadState"] not in ("masked", "not-found"):
            self._enable(shown)

    def _record_desired(self, kind: str, content: bytes) -> None:
        path = f"{DESIRED}/{self.ask.name}.{kind}"
        if read_file(self.host, path) == content:
            return
        self.outcome.actions.append(f"{kind} digest written")
        if not self.check:
            ensure_directory(self.host, DESIRED, 0o755, 0, 0)
            atomic_write(self.host, path, content, 0o644, 0, 0)

    def _record_running(self, kind: str, content: bytes) -> None:
        path = self._running_path(kind)
        ensure_directory(self.host, os.path.dirname(path), 0o755, 0, 0)
        atomic_write(self.host, path, content, 0o644, 0, 0)

    def _run(self, shown: dict[str, str], running: dict[str, bytes | None], desired: dict[str, bytes]) -> None:
        if self._undecided(shown) and not self.check:
            shown = self._wait_for_decision()
            running = {kind: self._running(kind) for kind in desired}
        predicted = self.check and any(
            _below(path.rstrip("/"), [*self.ask.restart_on, *self._own_files()]) and not _below(path, [*self.ask.restart_ignore, *self.ask.reload_on])
            for path in self.ask.predicted_changes
        )
        pending = running["restart"] != desired["restart"] or predicted
        up = shown["ActiveState"] in _RUNNING_STATES
        if self._once(shown):
            if pending or shown["ActiveState"] == "failed":
                self._start(shown, "started", desired)
            return
        if not up:
            self._start(shown, "started", desired)
            return
        if pending:
            self.outcome.causes = sorted({*causes(running["restart"], desired["restart"]), *(self.ask.predicted_changes if predicted else ())})
            if self.ask.rolling and not self.ask.force_restart:
                self.outcome.restart_pending = True
                self.outcome.reload_pending = running["reload"] != desired["reload"]
            else:
                self._start(shown, "restarted", desired)
            return
        reload_predicted = self.check and any(_below(path.rstrip("/"), self.ask.reload_on) for path in self.ask.predicted_changes)
        if running["reload"] != desired["reload"] or reload_predicted:
            self._reload(shown, running, desired)
            return
        self._rest = lambda: self._settle(shown)

    def _reload(self, shown: dict[str, str], running: dict[str, bytes | None], desired: dict[str, bytes]) -> None:
        self.outcome.causes = causes(running["reload"], desired["reload"])
        if self.ask.reload_on and shown["CanReload"] != "yes":
            raise HostError(
                f"{self.ask.name}: {', '.join(self.outcome.causes)} changed, but the unit has no ExecReload=; "
                "give it one, or move the path from reload_on to restart_on"
            )
        if shown["CanReload"] == "yes":
            self._do("reloaded", ["systemctl", "reload", self.ask.name])
        else:  # Nothing is reloaded any more: only the record is brought up to date.
            self.outcome.actions.append("reload digest recorded")
        if not self.check:
            self._settle(self._show())
            self._record_running("reload", desired["reload"])

    def _start(self, shown: dict[str, str], action: str, desired: dict[str, bytes]) -> None:
        if self.check:
            self.outcome.actions.append(action)
            self.outcome.state = "active"
            return
        self._ports_are_free()
        if shown["ActiveState"] == "failed":
            self.host.run(["systemctl", "reset-failed", self.ask.name])
        # "restart" also where nothing runs: it ends a pending auto-restart, "start" would join it. Not waited for here: units that are
        # begun together come up together, in the order that their After= gives.
        self._do(action, ["systemctl", "restart", "--no-block", self.ask.name])
        self._deadline = self.clock() + self.ask.timeout_s
        self._rest = lambda: self._started(shown, desired)

    def _ports_are_free(self) -> None:
        """A product may say that it has no port when systemd has long called it active, and be started again for ever."""
        held = self._held() if self.ask.ports else []
        taken = [one.sentence for one in held if any(one.stands_in_the_way_of(port) for port in self.ask.ports)]
        if taken:
            raise HostError("\n".join([f"{self.ask.name}: is not started, it would have no port", *map(_freed, dict.fromkeys(taken))]))

    def _started(self, shown: dict[str, str], desired: dict[str, bytes]) -> None:
        """The start that was queued has ended well, and what runs is recorded."""
        self._settle(self._show(), fresh=True)
        for kind, content in desired.items():
            if self._running(kind) != content:
                self._record_running(kind, content)
                if self.service and not self._once(shown):
                    self.outcome.warnings.append(
                        f"{self.ask.name} does not record its {kind} digest when it starts; include sandbox.service.j2 "
                        "of roles/component in the unit (or its two ExecStartPre lines), else a restart by hand is not noticed"
                    )

    # -- judging ----------------------------------------------------------------------------------------------------

    @staticmethod
    def _undecided(shown: dict[str, str]) -> bool:
        """On its way up or down, or its turn to start has not come."""
        on_the_way = shown["ActiveState"] in ("activating", "deactivating") and not shown["SubState"].startswith("auto-restart")
        return on_the_way or shown["Job"] not in ("", "0")

    def _wait_for_decision(self) -> dict[str, str]:
        """A unit that is on its way up or down decides within timeout_s of its start."""
        deadline = self._deadline or self.clock() + self.ask.timeout_s
        while True:
            shown = self._show()
            if not self._undecided(shown):
                return shown
            if self.clock() > deadline:
                raise HostError(f"{self.ask.name}: still {shown['ActiveState']} ({shown['SubState']}) after {self.ask.timeout_s:g} s\n" + self.evidence())
            self.sleep(0.2)

    def _settle(self, shown: dict[str, str], fresh: bool = False) -> None:
        """The unit is active, and the same start of it stays so until it is settle_s old: one that crashes looks active too."""
        if self.check:
            return
        if fresh and self._undecided(shown):
            shown = self._wait_for_decision()
        first = shown
        while True:
            self._judge(shown, first)
            if self._once(shown):
                break
            since = float(shown["ActiveEnterTimestampMonotonic"] or 0) / 1e6
            left = self.ask.settle_s - (self.clock() - since)
            if left <= 0:
                break
            self.sleep(min(left + 0.05, 0.5))
            shown = self._show()
        self.outcome.state = shown["ActiveState"]

    def _judge(self, shown: dict[str, str], first: dict[str, str]) -> None:
        name = self.ask.name
        if shown["ConditionResult"] == "no" and shown["ActiveState"] == "inactive":
            raise HostError(
                f"{name}: inactive because a start condition failed (systemd calls that success); "
                f"the Condition= line that failed is named below\n{self.evidence()}"
            )
        if self._once(shown) and shown["ActiveState"] == "inactive" and shown["Result"] == "success":
            return
        same = shown["InvocationID"] == first["InvocationID"] and shown["NRestarts"] == first["NRestarts"]
        if shown["ActiveState"] in _RUNNING_STATES and same:
            return
        what = "it ended and was started again by systemd" if not same else f"it is {shown['ActiveState']} ({shown['SubState']})"
        raise HostError(
            f"{name}: does not stay active: {what}, result {shown['Result']}, exit status {shown['ExecMainStatus']}; "
            f"the cause is in the lines below, after the repair run the same play again\n{self.evidence()}"
        )

    def evidence(self) -> str:
        """The last 20 lines that the unit logged, or its status where there is no journalctl."""
        journal = self.host.run(["journalctl", "--unit", self.ask.name, "--lines", "20", "--no-pager", "--output", "short-iso"])
        status = self.host.run(["systemctl", "status", "--no-pager", "--full", "--lines", "0" if journal.rc == 0 else "20", self.ask.name])
        text = f"{status.text.rstrip()}\n{journal.text.rstrip() if journal.rc == 0 else ''}".strip()
        return "\n".join([text, *self._holders(text)])

    def _holders(self, text: str) -> list[str]:
        """Who has the port that the unit wanted. Ports that the unit's own words name come first; where they name none, all that are no unit of ours."""
        if not _PORT_TAKEN.search(text):
            return []
        # Times are full of numbers, too.
        words_of_it = re.sub(r"\d{4}-\d\d-\d\d[T ]\S+", "", "\n".join(re.findall(r"(?im)^.*(?:port|listen|bind|in use|address).*$", text)))
        held = self._held()
        named = [one.sentence for one in held if re.search(rf"(?<!\d){one.port}(?!\d)", words_of_it)]
        some = named or [one.sentence for one in held if not one.unit.startswith("hnai-")]
        return [_freed(sentence) for sentence in dict.fromkeys(some)][:5]

    def _held(self) -> list[_Held]:
        """Every port that somebody else listens on."""
        held = []
        for line in self.host.run(["ss", "-Hltnup"]).text.splitlines():
            words = line.split()
            who = re.search(r'\(\("([^"]+)",pid=(\d+)', line)
            if len(words) < 5 or who is None:
                continue
            (address, _, port), unit = words[4].rpartition(":"), self._unit_of(who.group(2))
            if unit != self.ask.name:
                sentence = f"{words[0]} port {port} is held by {who.group(1)} (pid {who.group(2)}, {unit or 'no unit'})"
                held.append(_Held(words[0], re.sub(r"^\[(?:::ffff:)?|%.*|\]$", "", address), port, unit, sentence))
        return held

    def _unit_of(self, pid: str) -> str:
        """The unit that a process belongs to; empty where it belongs to none."""
        found = re.findall(r"([^/\n]+\.(?:service|scope))$", (read_file(self.host, f"/proc/{pid}/cgroup") or b"").decode("utf-8", "replace"), re.MULTILINE)
        return str(found[0]) if found else ""

    def _describe(self, shown: dict[str, str], running: dict[str, bytes | None], desired: dict[str, bytes]) -> None:
        """Before and after for --diff: what runs and what should, path by path."""

        def lines(manifests: dict[str, bytes | None]) -> str:
            return "".join(f"{kind}: {line}\n" for kind, content in manifests.items() for line in (content or b"").decode("utf-8", "replace").splitlines()[1:])

        self.outcome.before = f"state: {shown['ActiveState']}\nenabled: {shown['UnitFileState'] or 'no'}\n" + lines(running)
        enabled = shown["UnitFileState"] if self.ask.enabled is None else "enabled" if self.ask.enabled else "disabled"
        if shown["UnitFileState"] in ("static", "indirect", "generated", "transient"):
            enabled = shown["UnitFileState"]
        self.outcome.after = f"state: active\nenabled: {enabled}\n" + lines(dict(desired))


def converge_all(units: Iterable[Unit]) -> list[Outcome]:
    """Converges units that belong together: all are begun, in this order, before any is waited for.

    Raises HostError with what went wrong at each of them; one that fails keeps no other from being begun and judged.
    """
    errors: list[str] = []
    begun: list[Unit] = []
    for unit in units:
        try:
            unit.begin()
            begun.append(unit)
        except HostError as error:
            errors.append(str(error))
    for unit in begun:
        try:
            unit.finish()
        except HostError as error:
            errors.append(str(error))
    if errors:
        raise HostError("\n".join(errors))
    return [unit.outcome for unit in begun]
