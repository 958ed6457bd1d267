# SPDX-License-Identifier: Apache-2.0
"""The core of unit against a scripted systemd that records digests at start as sandbox.service.j2 does."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import stat
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from ansible_collections.hnai.platform.plugins.module_utils import artifact
from ansible_collections.hnai.platform.plugins.module_utils.hostfiles import Completed, Host, HostError
from ansible_collections.hnai.platform.plugins.module_utils.unit import Outcome, Request, Unit, causes, converge_all, manifest

NAME = "hnai-x.service"
REQUEST = Request(NAME, restart_on=("/opt/hnai/x/current", "/etc/hnai/x", "/etc/credstore.encrypted/hnai-x.*"), reload_on=("/etc/hnai/x/tls",))


class Killed(BaseException):
    """The run was killed at this point."""


class Systemd(Host):
    """One unit below a temporary root; `crash_after` s after a start it ends and is started again, `fuse` counts to a kill."""

    def __init__(self, root: Path) -> None:
        super().__init__(str(root))
        self.time = 1000.0
        self.unit = {
            "LoadState": "loaded",
            "ActiveState": "inactive",
            "SubState": "dead",
            "UnitFileState": "disabled",
            "Type": "simple",
            "RemainAfterExit": "no",
            "CanReload": "yes",
            "NeedDaemonReload": "no",
            "Result": "success",
            "ConditionResult": "yes",
            "AssertResult": "yes",
            "NRestarts": "0",
            "InvocationID": "0",
            "ActiveEnterTimestampMonotonic": "0",
            "ExecMainStatus": "0",
        }
        self.recorder = True
        self.starts = 0
        self.reloads = 0
        self.commands: list[str] = []
        self.fuse: int | None = None
        self.owners: set[tuple[int, int]] = set()
        self.condition = True
        self.crash_after: float | None = None
        self.exits: tuple[str, str] | None = None
        self.journal = True
        self.reason = b"the reason"
        self.sockets = b""
        self.queue_s = 0.0
        self.turn: float | None = None

    def burn(self) -> None:
        if self.fuse is not None:
            self.fuse -= 1
            if self.fuse < 0:
                raise Killed

    def chown(self, target: int | str, uid: int, gid: int) -> None:
        self.burn()
        self.owners.add((uid, gid))

    def owner(self, info: os.stat_result) -> tuple[int, int]:
        return 0, 0

    def sleep(self, seconds: float) -> None:
        self.time += seconds

    def clock(self) -> float:
        return self.time

    def start(self) -> None:
        """What systemd does at a start, by whomever it was asked."""
        self.unit["ConditionResult"] = "yes" if self.condition else "no"
        if not self.condition:
            self.unit.update(ActiveState="inactive", SubState="dead")
            return
        self.starts += 1
        self.unit.update(
            ActiveState="active",
            SubState="running",
            InvocationID=str(self.starts),
            ActiveEnterTimestampMonotonic=str(int(self.time * 1e6)),
        )
        if self.exits:
            self.unit.update(ActiveState=self.exits[0], SubState="dead", Result=self.exits[1])
        if self.recorder:
            os.makedirs(self.at("/run/hnai"), exist_ok=True)
            for kind in ("restart", "reload"):
                if os.path.exists(self.at(f"/etc/hnai/digests/{NAME}.{kind}")):
                    shutil.copy(self.at(f"/etc/hnai/digests/{NAME}.{kind}"), self.at(f"/run/hnai/{NAME}.{kind}"))

    def run(self, argv: list[str], stdin: bytes | None = None, timeout: float = 60.0) -> Completed:
        if argv[:2] == ["systemctl", "show"]:
            if self.turn is not None and self.time >= self.turn:
                self.turn = None
                self.start()
            self.unit["Job"] = "" if self.turn is None else "77"
            since = float(self.unit["ActiveEnterTimestampMonotonic"]) / 1e6
            if self.crash_after is not None and self.unit["ActiveState"] == "active" and self.time - since >= self.crash_after:
                self.unit["NRestarts"] = str(int(self.unit["NRestarts"]) + 1)
                self.start()
            return Completed(0, "".join(f"{key}={value}\n" for key, value in self.unit.items()).encode(), b"")
        if argv[0] == "ss":
            return Completed(0, self.sockets, b"")
        if argv[0] == "journalctl":
            return Completed(0, self.reason, b"") if self.journal else Completed(127, b"", b"journalctl: not installed")
        if argv[1] == "status":
            return Completed(3, b"status text", b"")
        self.burn()
        self.commands.append(argv[1])
        if argv[1] == "restart":
            assert "--no-block" in argv
            if self.queue_s:
                self.turn = self.time + self.queue_s
            else:
                self.start()
        elif argv[1] == "reload":
            self.reloads += 1
        elif argv[1] in ("enable", "disable", "reenable"):
            self.unit["UnitFileState"] = argv[1].removeprefix("re") + "d"
            for link in Path(self.at("/etc/systemd/system")).glob(f"*.wants/{NAME}") if argv[1] == "reenable" else ():
                link.unlink()
                link.symlink_to(f"../{NAME}")
        elif argv[1] == "stop":
            self.unit.update(ActiveState="inactive", SubState="dead")
        elif argv[1] == "daemon-reload":
            self.unit["NeedDaemonReload"] = "no"
        return Completed(0, b"", b"")


def converge(host: Systemd, request: Request = REQUEST, check: bool = False) -> Outcome:
    return Unit(host, request, check, clock=host.clock, sleep=host.sleep).converge()


def write(root: Path, path: str, text: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


@pytest.fixture
def host(tmp_path: Path) -> Systemd:
    for version in ("1", "2"):
        write(tmp_path, f"opt/hnai/x/{version}/.hnai-manifest", f"version {version}")
        write(tmp_path, f"opt/hnai/x/{version}/lib/big.jar", "jar")
    (tmp_path / "opt/hnai/x/current").symlink_to("1")
    write(tmp_path, "etc/hnai/x/x.conf", "a = 1")
    write(tmp_path, "etc/hnai/x/tls/cert.pem", "certificate")
    write(tmp_path, "etc/credstore.encrypted/hnai-x.password", "ciphertext")
    write(tmp_path, "etc/systemd/system/" + NAME, "[Service]")
    return Systemd(tmp_path)


# -- digests


def test_what_counts_for_a_restart(host: Systemd, tmp_path: Path) -> None:
    lines = Unit(host, REQUEST)._desired_restart().decode().splitlines()[1:]
    assert [line[34:] for line in lines] == [
        "/etc/credstore.encrypted/hnai-x.password",
        "/etc/hnai/x/x.conf",
        "/etc/systemd/system/hnai-x.service",
        "/opt/hnai/x/current",
    ]


@pytest.mark.parametrize("change", ["conf", "credential", "unit", "drop-in", "flip", "rebuilt", "new", "gone"])
def test_each_relevant_change_is_a_change(host: Systemd, tmp_path: Path, change: str) -> None:
    before = Unit(host, REQUEST)._desired_restart()
    if change == "conf":
        write(tmp_path, "etc/hnai/x/x.conf", "a = 2")
    elif change == "credential":
        write(tmp_path, "etc/credstore.encrypted/hnai-x.password", "other ciphertext")
    elif change == "unit":
        write(tmp_path, "etc/systemd/system/" + NAME, "[Service]\nX=1")
    elif change == "drop-in":
        write(tmp_path, f"etc/systemd/system/{NAME}.d/a.conf", "[Service]\nX=1")
    elif change == "flip":
        (tmp_path / "opt/hnai/x/current").unlink()
        (tmp_path / "opt/hnai/x/current").symlink_to("2")
    elif change == "rebuilt":
        write(tmp_path, "opt/hnai/x/1/.hnai-manifest", "version 1, other sha256")
    elif change == "new":
        write(tmp_path, "etc/hnai/x/deep/y.conf", "")
    else:
        (tmp_path / "etc/hnai/x/x.conf").unlink()
    after = Unit(host, REQUEST)._desired_restart()
    assert after != before
    assert len(causes(before, after)) == 1


def test_what_does_not_count(host: Systemd, tmp_path: Path) -> None:
    before = Unit(host, REQUEST)._desired_restart()
    (tmp_path / "etc/hnai/x/x.conf").chmod(0o600)
    write(tmp_path, "etc/hnai/x/tls/cert.pem", "renewed")
    write(tmp_path, "opt/hnai/x/1/lib/big.jar", "not hashed: the manifest stands for it")
    write(tmp_path, "etc/hnai/x/.x.conf.hnai-new", "left by a killed run")
    write(tmp_path, "etc/hnai/xy/other.conf", "another component")
    assert Unit(host, REQUEST)._desired_restart() == before


def test_ignored_paths_and_globs_stay_out(host: Systemd, tmp_path: Path) -> None:
    write(tmp_path, "etc/hnai/x/acl.d/a", "1")
    assert b"acl.d" not in manifest(host, ["/etc/hnai/x"], ["/etc/hnai/x/acl.*"])
    assert b"acl.d/a" in manifest(host, ["/etc/hnai/x"])
    assert manifest(host, ["/none", "/none/*"]) == manifest(host, [])


# -- running this


def test_first_start_then_nothing(host: Systemd) -> None:
    outcome = converge(host)
    assert outcome.actions == ["enabled", "restart digest written", "reload digest written", "started"]
    assert (host.starts, outcome.state, outcome.warnings) == (1, "active", [])
    again = converge(host)
    assert not again.changed
    assert host.starts == 1
    assert not again.restart_pending


def test_one_change_one_restart(host: Systemd, tmp_path: Path) -> None:
    converge(host)
    write(tmp_path, "etc/hnai/x/x.conf", "a = 2")
    outcome = converge(host)
    assert "restarted" in outcome.actions
    assert outcome.causes == ["/etc/hnai/x/x.conf"]
    assert not converge(host).changed
    assert host.starts == 2


def test_rolling_only_reports_until_the_step_of_the_roll(host: Systemd, tmp_path: Path) -> None:
    rolling = replace(REQUEST, rolling=True)
    assert converge(host, rolling).actions[-1] == "started"
    write(tmp_path, "etc/hnai/x/x.conf", "a = 2")
    first, second = converge(host, rolling), converge(host, rolling)
    assert first.restart_pending
    assert second.restart_pending
    assert not second.changed
    assert host.starts == 1
    assert converge(host, replace(rolling, force_restart=True)).actions == ["restarted"]
    assert converge(host, replace(rolling, force_restart=True)).actions == []
    assert host.starts == 2


def test_a_restart_by_hand_settles_it(host: Systemd, tmp_path: Path) -> None:
    converge(host)
    write(tmp_path, "etc/hnai/x/x.conf", "a = 2")
    assert converge(host, replace(REQUEST, rolling=True)).restart_pending
    host.start()
    host.time += 10
    outcome = converge(host, replace(REQUEST, rolling=True))
    assert not outcome.restart_pending
    assert not outcome.changed


def test_a_restart_before_the_digest_was_written_does_not_settle_it(host: Systemd, tmp_path: Path) -> None:
    converge(host)
    write(tmp_path, "etc/hnai/x/x.conf", "a = 2")
    host.start()
    assert "restarted" in converge(host).actions


def test_reload_takes_up_a_certificate_without_a_restart(host: Systemd, tmp_path: Path) -> None:
    converge(host)
    write(tmp_path, "etc/hnai/x/tls/cert.pem", "renewed")
    outcome = converge(host, replace(REQUEST, rolling=True))
    assert outcome.actions == ["reload digest written", "reloaded"]
    assert (host.starts, host.reloads) == (1, 1)
    assert not converge(host).changed


def test_a_restart_makes_the_reload_unnecessary(host: Systemd, tmp_path: Path) -> None:
    converge(host)
    write(tmp_path, "etc/hnai/x/tls/cert.pem", "renewed")
    write(tmp_path, "etc/hnai/x/x.conf", "a = 2")
    pending = converge(host, replace(REQUEST, rolling=True))
    assert pending.restart_pending
    assert pending.reload_pending
    assert host.reloads == 0
    assert "restarted" in converge(host).actions
    assert not converge(host).changed
    assert host.reloads == 0


def test_reload_on_without_exec_reload_is_an_error(host: Systemd, tmp_path: Path) -> None:
    converge(host)
    host.unit["CanReload"] = "no"
    write(tmp_path, "etc/hnai/x/tls/cert.pem", "renewed")
    with pytest.raises(HostError, match=r"tls/cert.pem changed, but the unit has no ExecReload.*restart_on"):
        converge(host)


def test_after_a_reboot_nothing_is_due(host: Systemd, tmp_path: Path) -> None:
    converge(host)
    shutil.rmtree(tmp_path / "run")
    host.start()
    host.time += 10
    assert not converge(host).changed


@pytest.mark.parametrize("what", ["conf", "tls"])
def test_exactly_one_restart_or_reload_whatever_step_a_kill_hits(tmp_path: Path, what: str) -> None:
    for fuse in range(30):
        root = tmp_path / str(fuse)
        write(root, "etc/hnai/x/x.conf", "a = 1")
        write(root, "etc/hnai/x/tls/cert.pem", "1")
        host = Systemd(root)
        converge(host)
        host.time += 10
        write(root, "etc/hnai/x/x.conf" if what == "conf" else "etc/hnai/x/tls/cert.pem", "changed")
        host.fuse = fuse
        try:
            converge(host)
        except Killed:
            finished = False
        else:
            finished = True
        host.fuse = None
        host.time += 10
        converge(host)
        host.time += 10
        assert not converge(host).changed
        if what == "conf":
            assert host.starts == 2, f"killed before step {fuse}"
        else:
            # A kill between the reload and its record repeats the reload, which is harmless; it is never lost.
            assert host.starts == 1
            assert host.reloads in (1, 2)
        if finished:
            assert fuse >= 2
            return
    pytest.fail("the run never finished")


def test_killed_between_the_flip_and_the_digest_it_is_restarted_once_by_the_next_run(tmp_path: Path) -> None:
    """The real installer on the same tree: `current` points to the new version, and nobody has said yet that a restart is due."""

    def install(version: str) -> bool:
        source = tmp_path / f"{version}.tar"
        with tarfile.open(source, "w", format=tarfile.GNU_FORMAT) as tar:
            info = tarfile.TarInfo("program")
            info.size = len(version)
            tar.addfile(info, io.BytesIO(version.encode()))
        digest = hashlib.sha256(source.read_bytes()).hexdigest()
        spec = {"name": "x", "version": version, "target": "amd64", "recipe": "r", "digest": digest, "src": str(source), "compile": False}
        return bool(artifact.install_archive(spec, tmp_path / "opt/hnai")["changed"])

    host = Systemd(tmp_path)
    assert install("1.0")
    converge(host)
    wanted = (tmp_path / f"etc/hnai/digests/{NAME}.restart").read_bytes()
    assert install("1.1")  # and here the run is killed
    assert os.readlink(tmp_path / "opt/hnai/x/current") == "1.1"
    assert (tmp_path / f"etc/hnai/digests/{NAME}.restart").read_bytes() == wanted
    host.time += 10
    assert not install("1.1")
    assert "restarted" in converge(host).actions
    assert host.starts == 2
    host.time += 10
    assert not converge(host).changed
    assert host.starts == 2


def test_a_changed_unit_file_is_taken_up_before_the_start_and_shown(host: Systemd, tmp_path: Path) -> None:
    host.unit["NeedDaemonReload"] = "yes"
    assert converge(host, check=True).actions[0] == "daemon-reload"
    assert host.commands == []
    outcome = converge(host)
    assert host.commands == ["daemon-reload", "enable", "restart"]
    assert outcome.before == "state: inactive\nenabled: disabled\n"
    assert outcome.after.startswith("state: active\nenabled: enabled\nrestart: ") and " /etc/hnai/x/x.conf\n" in outcome.after


def test_a_unit_that_systemd_cannot_load_is_named(host: Systemd) -> None:
    for state in ("error", "bad-setting"):
        host.unit["LoadState"] = state
        with pytest.raises(HostError, match=rf"cannot load the unit \({state}\)"):
            converge(host)
    assert host.commands == []


def test_a_start_that_somebody_else_queued_is_waited_for_and_is_the_start(host: Systemd) -> None:
    host.turn = host.time + 5
    began = host.time
    assert "started" in converge(host, check=True).actions
    assert host.time == began, "a prediction waits for nobody"
    outcome = converge(host)
    assert "started" not in outcome.actions and outcome.state == "active"
    assert host.starts == 1
    assert host.time >= began + 5


def test_digests_are_roots_and_everybody_may_read_them(host: Systemd, tmp_path: Path) -> None:
    host.recorder = False
    converge(host)
    assert host.owners == {(0, 0)}
    for folder in ("etc/hnai/digests", "run/hnai"):
        assert stat.S_IMODE((tmp_path / folder).stat().st_mode) == 0o755
        assert {stat.S_IMODE(file.stat().st_mode) for file in (tmp_path / folder).glob("*.re*")} == {0o644}


# -- judging


def test_a_unit_that_crashes_within_the_settling_time_is_an_error_with_evidence(host: Systemd) -> None:
    host.crash_after = 2.0
    with pytest.raises(HostError, match=r"(?s)does not stay active.*started again by systemd.*the reason"):
        converge(host)
    with pytest.raises(HostError, match="does not stay active"):
        converge(host)  # The same a moment later, although systemd says "active" and nothing is pending.


def test_without_a_journal_the_status_is_the_evidence(host: Systemd) -> None:
    host.journal = False
    host.exits = ("failed", "exit-code")
    with pytest.raises(HostError, match=r"(?s)it is failed.*result exit-code.*status text"):
        converge(host)


def test_a_failed_condition_is_named(host: Systemd) -> None:
    host.condition = False
    with pytest.raises(HostError, match="start condition failed"):
        converge(host)


def test_masked_and_missing_and_misnamed_units(host: Systemd) -> None:
    host.unit["LoadState"] = "masked"
    with pytest.raises(HostError, match=r"masked.*systemctl unmask"):
        converge(host)
    assert not converge(host, replace(REQUEST, state="stopped", enabled=False)).changed
    host.unit["LoadState"] = "not-found"
    with pytest.raises(HostError, match=r"no such unit.*tree/etc/systemd/system"):
        converge(host)
    with pytest.raises(HostError, match="no full unit name"):
        converge(host, Request("hnai-x"))


def test_a_static_unit_is_not_enabled(host: Systemd) -> None:
    host.unit["UnitFileState"] = "static"
    assert "enabled" not in converge(host).actions
    assert "enable" not in host.commands


def test_stopped(host: Systemd) -> None:
    converge(host)
    stopped = replace(REQUEST, state="stopped", enabled=False)
    assert converge(host, stopped).actions == ["stopped", "disabled"]
    assert not converge(host, stopped).changed
    assert converge(host).actions == ["enabled", "started"]


def test_a_failed_or_auto_restarting_unit_is_started_also_when_rolling(host: Systemd) -> None:
    converge(host)
    for state, sub in (("failed", "failed"), ("activating", "auto-restart"), ("activating", "auto-restart-queued")):
        host.unit.update(ActiveState=state, SubState=sub)
        assert converge(host, replace(REQUEST, rolling=True)).actions == ["started"]


def test_a_unit_that_does_not_record_itself_is_recorded_with_a_warning(host: Systemd, tmp_path: Path) -> None:
    host.recorder = False
    assert any("ExecStartPre" in warning for warning in converge(host).warnings)
    assert not converge(host).changed
    write(tmp_path, "etc/hnai/x/x.conf", "a = 2")
    assert "restarted" in converge(host).actions
    assert host.starts == 2


def test_a_timer_survives_a_reboot_without_a_change(host: Systemd, tmp_path: Path) -> None:
    host.recorder = False
    timer = Request("hnai-x.timer")
    host.unit["CanReload"] = "no"
    assert converge(host, timer).warnings == []
    shutil.rmtree(tmp_path / "run", ignore_errors=True)
    assert not converge(host, timer).changed


def test_a_oneshot_runs_once_per_digest(host: Systemd, tmp_path: Path) -> None:
    host.unit["Type"] = "oneshot"
    host.exits = ("inactive", "success")
    assert "started" in converge(host).actions
    assert not converge(host).changed
    write(tmp_path, "etc/hnai/x/x.conf", "a = 2")
    assert "started" in converge(host).actions
    assert host.starts == 2


# -- several units


def another(tmp_path: Path, name: str) -> Systemd:
    (tmp_path / name).mkdir()
    return Systemd(tmp_path / name)


def test_units_come_up_together(host: Systemd, tmp_path: Path) -> None:
    """All are begun before any is waited for, and together they take as long as the slowest."""
    hosts = [host, another(tmp_path, "other"), another(tmp_path, "third")]
    waits: list[list[int]] = []

    def sleep(seconds: float) -> None:
        waits.append([one.commands.count("restart") for one in hosts])
        for one in hosts:
            one.sleep(seconds)

    hosts[1].queue_s = 20.0
    begin = host.time
    outcomes = converge_all([Unit(one, REQUEST, clock=one.clock, sleep=sleep) for one in hosts])
    assert [outcome.state for outcome in outcomes] == ["active"] * 3
    assert waits[0] == [1, 1, 1]
    assert 23.0 <= host.time - begin < 25.0


def test_a_queued_start_is_waited_for_and_judged_by_its_own_deadline(host: Systemd) -> None:
    converge(host)
    host.queue_s = 20.0
    write(Path(host.root), "etc/hnai/x/x.conf", "a = 2")
    outcome = converge(host)
    assert (outcome.actions[-1], outcome.state, host.starts) == ("restarted", "active", 2)
    host.queue_s = 200.0
    write(Path(host.root), "etc/hnai/x/x.conf", "a = 3")
    with pytest.raises(HostError, match="still active"):
        converge(host)


def test_one_that_fails_keeps_no_other_from_being_judged(host: Systemd, tmp_path: Path) -> None:
    broken, missing = another(tmp_path, "broken"), another(tmp_path, "missing")
    broken.exits = ("failed", "exit-code")
    missing.unit["LoadState"] = "not-found"
    with pytest.raises(HostError, match=r"(?s)there is no such unit.*does not stay active"):
        converge_all([Unit(one, REQUEST, clock=one.clock, sleep=one.sleep) for one in (broken, missing, host)])
    assert host.starts == 1
    assert not converge(host).changed


def test_a_unit_that_only_looks_enabled_is_enabled(host: Systemd) -> None:
    """systemd leaves out what a link to /dev/null wants."""
    converge(host)
    link = Path(host.at(f"/etc/systemd/system/multi-user.target.wants/{NAME}"))
    link.parent.mkdir(parents=True)
    link.symlink_to(f"../{NAME}")
    assert not converge(host).changed
    link.unlink()
    link.symlink_to("/dev/null")
    seen = converge(host, check=True)
    assert (seen.actions, "enabled: by a link to /dev/null\n" in seen.before) == (["enabled"], True)
    assert (converge(host).actions, host.commands[-1]) == (["enabled"], "reenable")
    assert not converge(host).changed


# -- data that must not vanish unnoticed


def test_nothing_is_done_where_the_data_of_a_unit_are_not(host: Systemd, tmp_path: Path) -> None:
    """An unmounted file system leaves an empty directory."""
    book = f"/var/lib/hnai/digests/{NAME}.data"
    request = replace(REQUEST, data=("/srv/data",))
    data = Path(host.at("/srv/data"))
    assert converge(host, request).changed, "the first start: the unit itself makes the directory"
    write(tmp_path, "srv/data/segment", "1")
    assert not converge(host, request).changed
    mounted = data.rename(tmp_path / "elsewhere")
    data.mkdir()
    write(tmp_path, "etc/hnai/x/x.conf", "a = 2")
    done = len(host.commands)
    for check in (True, False):
        with pytest.raises(HostError, match=rf"^{NAME}: /srv/data: the data .* not mounted, or lost; remedy: mount .* remove {book}"):
            converge(host, request, check=check)
    assert (len(host.commands), list(data.iterdir())) == (done, []), "nothing was begun there"
    Path(host.at("/srv/other")).mkdir()
    assert "restarted" in converge(host, replace(request, data=("/srv/other",))).actions, "another place was meant"
    data.rmdir()
    mounted.rename(data)
    converge(host, request)
    (data / ".hnai-data").unlink()
    with pytest.raises(HostError):
        converge(host, request)
    Path(host.at(book)).unlink()
    assert not converge(host, request).changed, "on purpose"
    assert (data / ".hnai-data").exists()


# -- check mode


def test_check_mode_predicts_and_touches_nothing(host: Systemd, tmp_path: Path) -> None:
    predicted = converge(host, check=True)
    assert predicted.actions == ["enabled", "restart digest written", "reload digest written", "started"]
    assert not host.commands
    assert not (tmp_path / "etc/hnai/digests").exists()
    converge(host)
    assert not converge(host, check=True).changed
    write(tmp_path, "etc/hnai/x/x.conf", "a = 2")
    assert converge(host, check=True).actions == ["restart digest written", "restarted"]
    assert host.starts == 1


def test_check_mode_on_a_bare_host(host: Systemd) -> None:
    host.unit.update(LoadState="not-found", UnitFileState="", CanReload="no")
    assert converge(host, check=True).actions[-1] == "started"


def test_check_mode_takes_the_predictions_of_earlier_tasks(host: Systemd) -> None:
    converge(host)
    assert "restarted" in converge(host, replace(REQUEST, predicted_changes=("/etc/hnai/x/x.conf",)), check=True).actions
    assert "reloaded" in converge(host, replace(REQUEST, predicted_changes=("/etc/hnai/x/tls/cert.pem",)), check=True).actions
    assert converge(host, replace(REQUEST, rolling=True, predicted_changes=("/etc/hnai/x/x.conf",)), check=True).restart_pending
    assert not converge(host, replace(REQUEST, predicted_changes=("/etc/other",)), check=True).changed
    assert not converge(host, replace(REQUEST, predicted_changes=("/etc/hnai/x/x.conf",))).changed


SOCKETS = b"""udp   UNCONN 0      0            0.0.0.0:123        0.0.0.0:*    users:(("chronyd",pid=7,fd=5))
tcp   LISTEN 0      128          0.0.0.0:22         0.0.0.0:*    users:(("sshd",pid=8,fd=3))
tcp   LISTEN 0      100 [::ffff:127.0.0.1]:8884             *:*    users:(("x",pid=9,fd=6))
tcp   LISTEN 0      100             [::]:8883          [::]:*    users:(("python3",pid=42,fd=3),("python3",pid=43,fd=3))
"""


def listening(tmp_path: Path) -> Systemd:
    """SOCKETS, each of a unit."""
    machine = Systemd(tmp_path)
    machine.sockets = SOCKETS
    for pid, unit in ((7, "chrony.service"), (8, "ssh.service"), (9, NAME), (42, "foreign.service")):
        path = Path(machine.at(f"/proc/{pid}/cgroup"))
        path.parent.mkdir(parents=True)
        path.write_text(f"9:name=systemd:/system.slice/{unit}\n8:pids:/\n")
    return machine


@pytest.mark.parametrize(
    ("port", "holder"),
    [
        ("8883", "python3 (pid 42, foreign.service)"),
        ("10.0.0.1:8883", "python3 (pid 42, foreign.service)"),
        ("22", "sshd (pid 8, ssh.service)"),
        ("123", ""),
        ("8884", ""),
        ("883", ""),
    ],
)
def test_nothing_is_started_where_somebody_else_has_its_port(tmp_path: Path, port: str, holder: str) -> None:
    """Kafka says it a minute later, and systemd starts it again and again. 8884 is the unit's own, 123 is one of UDP."""
    machine = listening(tmp_path)

    def start() -> Outcome:
        return Unit(machine, replace(REQUEST, ports=("1", port)), clock=machine.clock, sleep=machine.sleep).converge()

    if not holder:
        assert "started" in start().actions
        return
    with pytest.raises(HostError) as caught:
        start()
    assert str(caught.value).splitlines() == [
        f"{NAME}: is not started, it would have no port",
        f"tcp port {port.rpartition(':')[2]} is held by {holder}; remedy: stop it, or give one of the two another port",
    ]
    assert machine.starts == 0


def test_a_port_of_another_address_is_free(tmp_path: Path) -> None:
    machine = listening(tmp_path)
    Path(machine.at("/proc/9/cgroup")).write_text("9:name=systemd:/system.slice/other.service\n")
    Unit(machine, replace(REQUEST, ports=("127.0.0.2:8884",)), clock=machine.clock, sleep=machine.sleep).converge()
    with pytest.raises(HostError, match="8884 is held by x"):
        Unit(machine, replace(REQUEST, restart_on=("/etc",), ports=("127.0.0.1:8884",)), clock=machine.clock, sleep=machine.sleep).converge()
    assert machine.starts == 1, "nor is one that runs restarted into it"


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        (
            b"2026-11-26T22:22:22+0000 h x[9]: Opening ipv4 listen socket on port 8884.\nOpening listen socket on port 8883.\nError: Address already in use",
            ["tcp port 8883 is held by python3 (pid 42, foreign.service)"],
        ),
        (b"2026-11-26T22:22:22+0000 h x[9]: OSError: [Errno 98] EADDRINUSE", ["udp port 123 ", "tcp port 22 ", "tcp port 8883 "]),
        (b"2026-11-26T22:22:22+0000 h x[9]: java.net.BindException: on any port in range 1-2", ["udp port 123 ", "tcp port 22 ", "tcp port 8883 "]),
        (b"2026-11-26T22:22:22+0000 h x[9]: port 8883 does not please me", []),
    ],
)  # fmt: skip
def test_who_holds_the_port_is_named(tmp_path: Path, reason: bytes, expected: list[str]) -> None:
    machine = listening(tmp_path)
    machine.exits, machine.reason = ("failed", "exit-code"), reason
    with pytest.raises(HostError) as caught:
        Unit(machine, REQUEST, clock=machine.clock, sleep=machine.sleep).converge()
    said = [line for line in str(caught.value).splitlines() if "is held by" in line]
    assert len(said) == len(expected)
    assert all(line.startswith(start) and line.endswith("remedy: stop it, or give one of the two another port") for line, start in zip(said, expected))
