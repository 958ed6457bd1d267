# SPDX-License-Identifier: Apache-2.0
"""Host health: what waits for a restart, clock error, kernel settings."""
from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from own_files import KeptOwners

from ansible_collections.hnai.platform.plugins.module_utils.artifact import MANIFEST
from ansible_collections.hnai.platform.plugins.module_utils.host import health
from ansible_collections.hnai.platform.plugins.module_utils.host.health import (
    Host,
    Room,
    Wanted,
    check_all,
    looping,
    offset_s,
    pending,
    rooms,
    unwritten,
)
from ansible_collections.hnai.platform.plugins.module_utils.hostfiles import Completed
from ansible_collections.hnai.platform.plugins.module_utils.verdict import Report

TRACKING = "E1E352D6,jump1,11,1700000000.1,-0.000165360,0.0,0.0,1.0,0.0,0.1,0.0010,0.0020,64.0,Normal\n"


def test_a_unit_that_runs_what_is_wanted_does_not_wait(tmp_path: Path) -> None:
    wanted, running = tmp_path / "wanted", tmp_path / "running"
    wanted.mkdir()
    running.mkdir()
    for name in ("a.service.restart", "b.service.restart", "c.service.reload"):
        (wanted / name).write_text("1")
    (running / "a.service.restart").write_text("1")
    (running / "b.service.restart").write_text("0")
    assert pending(wanted, running) == ["b.service (restart)", "c.service (reload)"]
    timers = tmp_path / "timers"
    timers.mkdir()
    (timers / "c.service.reload").write_text("1")
    assert pending(wanted, running, timers) == ["b.service (restart)"]


def test_the_clock_error_adds_what_the_source_itself_may_be_off() -> None:
    assert offset_s(TRACKING) == 0.00016536 + 0.002 + 0.0005


def test_an_unsynchronised_clock_has_no_error_bound() -> None:
    assert offset_s(TRACKING.replace(",jump1,11,", ",,0,")) is None
    with pytest.raises(ValueError, match="no tracking"):
        offset_s("")


def test_a_setting_that_differs_is_named_and_a_missing_one_is_beyond_this_host(tmp_path: Path) -> None:
    (tmp_path / "net").mkdir()
    (tmp_path / "net/good").write_text("1\n")
    (tmp_path / "net/bad").write_text("0\n")
    differ, beyond = unwritten({"net.good": "1", "net.bad": "1", "net.none": "1"}, tmp_path)
    assert differ == {"net.bad": "is 0, wanted 1"}
    assert beyond == ["net.none"]


# -- all checks of one host --------------------------------------------------------------------------------
DAY = 86400.0


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of 30 days and a revocation list of 5, made by openssl today."""
    folder = tmp_path_factory.mktemp("authority")

    def openssl(*argv: str) -> None:
        subprocess.run(["openssl", *argv], cwd=folder, check=True, capture_output=True, timeout=60)

    openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", "key.pem", "-out", "cert.pem", "-days", "30",
            "-subj", "/CN=x")
    (folder / "index").write_text("")
    (folder / "number").write_text("01\n")
    (folder / "cnf").write_text("[ca]\ndefault_ca=x\n[x]\ndatabase=index\ncrlnumber=number\ndefault_md=sha256\ndefault_crl_days=5\n")
    openssl("ca", "-config", "cnf", "-gencrl", "-cert", "cert.pem", "-keyfile", "key.pem", "-out", "list.crl")
    return folder


UPTIME_S = 1_000_000.0


def shown(unit: str, state: str, sub: str, restarts: int, up_s: float) -> str:
    """A unit as ``systemctl show`` gives it; one that was never up has 0 for the moment."""
    entered = int((UPTIME_S - up_s) * 1e6)
    return f"NRestarts={restarts}\nId={unit}\nActiveState={state}\nSubState={sub}\nActiveEnterTimestampMonotonic={entered}\n"


class Bare(KeptOwners):
    """Nothing is installed."""

    def run(self, argv: list[str], stdin: bytes | None = None, timeout: float = 60.0) -> Completed:
        return Completed(127, b"", b"")


class Machine:
    """A healthy host below a folder; a test harms one thing."""

    def __init__(self, base: Path, authority: Path) -> None:
        self.base = base
        for name in ("digests", "run", "proc", "etc/kafka/tls"):
            (base / name).mkdir(parents=True)
        (base / "digests/a.service.restart").write_text("1")
        (base / "run/a.service.restart").write_text("1")
        for name in ("digests", "run"):
            (base / name / "b.timer.restart").write_text("1")
        (base / "mounts").write_text("")
        self.certificate = base / "etc/kafka/tls/cert.pem"
        self.certificate.write_text((authority / "cert.pem").read_text())
        (base / "etc/kafka/tls/key.pem").write_text("no certificate and none of ours to judge")
        self.authority = authority
        self.now = time.time()
        self.shown = shown("x.service", "active", "running", 0, 5.0)
        self.timer, self.failed, self.tracking, self.audit = "active", "", TRACKING, "Operation not permitted"
        self.auditctl = {"-s": "enabled 1\npid 77\nlost 0\n", "-l": "-w /etc/sudoers -p wa -k hnai-sudo\n"}
        self.security = "\u2192 Overall exposure level for hnai-a.service: 2.1 OK\n"
        self.want = Wanted(time_sources=["jump1", "10.0.0.1"], certificates=[str(self.certificate)])

    def run(self, argv: Sequence[str], timeout_s: float) -> str:
        assert timeout_s > 0
        if argv[0] == "systemctl":
            if argv[1] != "show":
                return self.failed
            return self.shown + ("\n" + shown("b.timer", self.timer, "", 0, 5.0)) * ("b.timer" in argv)
        if argv[0] == "chronyc":
            return self.tracking
        if argv[0] == "/usr/sbin/auditctl":
            return self.auditctl[argv[1]]
        assert argv[:2] == ["systemd-analyze", "security"]
        return self.security

    def judge(self) -> dict[str, str]:
        report = Report("host")
        place = Host(
            run=self.run, digests=self.base / "digests", running=(self.base / "run",), proc=self.base / "proc", mounts=self.base / "mounts",
            etc=self.base / "etc", ssh=self.base / "ssh-cert.pub", data=(str(self.base),), now=lambda: self.now, audit=lambda: self.audit,
            uptime=lambda: UPTIME_S, opt=self.base / "opt", machine=Bare(str(self.base / "root")),
        )
        check_all(report, self.want, place)
        self.checks = {check.id: check for check in report.checks}
        return {check.id: check.status for check in report.checks}


@pytest.fixture
def machine(tmp_path: Path, authority: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    # How full this machine is must not matter.
    monkeypatch.setattr(health, "rooms", lambda *_: [Room("/", 60.0, 90.0, 9000)])
    return Machine(tmp_path, authority)


WELL = {"HO1": "pass", "HO2": "pass", "HO3": "pass", "HO4": "pass", "HO5": "pass", "HO7": "pass", "HO12": "pass"}


def test_a_healthy_host_keeps_what_it_was_told(machine: Machine) -> None:
    assert machine.judge() == WELL
    assert machine.checks["HO4"].files["tracking.csv"] == TRACKING
    assert machine.checks["HO7"].observed == pytest.approx(30, abs=0.2)


def harm_certificate_missing(machine: Machine) -> None:
    machine.certificate.unlink()


def harm_certificate_garbled(machine: Machine) -> None:
    machine.certificate.write_text("-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n")


def harm_certificate_late(machine: Machine) -> None:
    machine.now += 17 * DAY


def harm_certificate_early(machine: Machine) -> None:
    machine.now -= DAY


def harm_second_certificate_of_a_file(machine: Machine) -> None:
    """The chain's second certificate counts too; here the same one, twice, judged when it has 13 days left."""
    machine.certificate.write_text(machine.certificate.read_text() * 2)
    machine.now += 17 * DAY


def harm_certificate_of_a_source_whose_name_holds_key(machine: Machine) -> None:
    servers = machine.base / "etc/ot_collector/servers"
    servers.mkdir(parents=True)
    (servers / "keyence1.pem").write_text("it was never a certificate")


def certified(machine: Machine, until: str) -> None:
    """The host's SSH key has a certificate of the site's CA."""

    def keygen(*argv: str) -> None:
        subprocess.run(["ssh-keygen", "-q", *argv], cwd=machine.base, check=True, capture_output=True, timeout=20, stdin=subprocess.DEVNULL)

    for name in ("ca", "ssh"):
        keygen("-t", "ed25519", "-N", "", "-f", name)
    keygen("-s", "ca", "-h", "-I", "x", "-n", "kafka1", "-V", until, "ssh.pub")


def test_the_certificate_of_the_ssh_key_is_one_of_the_certificates(machine: Machine) -> None:
    certified(machine, "-1m:+20d")
    assert machine.judge() == WELL and machine.checks["HO7"].observed == pytest.approx(20, abs=0.2)
    for name in ("ca", "ca.pub", "ssh", "ssh.pub"):
        (machine.base / name).unlink()
    certified(machine, "always:forever")
    assert machine.judge() == WELL and machine.checks["HO7"].observed == pytest.approx(30, abs=0.2)


def harm_ssh_certificate_late(machine: Machine) -> None:
    certified(machine, "-1m:+13d")


def harm_second_root(machine: Machine) -> None:
    (machine.base / "root/etc").mkdir(parents=True)
    (machine.base / "root/etc/passwd").write_text("root:x:0:0::/root:/bin/sh\ntoor:x:0:0::/root:/bin/sh\n")


def harm_ssh_certificate_garbled(machine: Machine) -> None:
    (machine.base / "ssh-cert.pub").write_text("ssh-ed25519-cert-v01@openssh.com AAAA\n")


def harm_timer_stopped(machine: Machine) -> None:
    """Nothing failed, nothing loops: what it starts just never comes."""
    machine.timer = "inactive"


HARMS: list[tuple[Any, str]] = [
    (lambda m: setattr(m, "failed", "x.service loaded failed failed\n"), "HO1"),
    (lambda m: setattr(m, "shown", shown("x.service", "activating", "auto-restart", 9, 4.0)), "HO1"),
    (harm_timer_stopped, "HO1"),
    (lambda m: (m.base / "run/a.service.restart").write_text("0"), "HO2"),
    (lambda m: setattr(m, "tracking", TRACKING.replace(",jump1,11,", ",,0,")), "HO4"),
    (lambda m: setattr(m, "tracking", TRACKING.replace(",jump1,", ",10.9.9.9,")), "HO4"),
    (lambda m: setattr(m, "tracking", TRACKING.replace("0.0020", "0.2")), "HO4"),
    (harm_certificate_missing, "HO7"),
    (harm_certificate_garbled, "HO7"),
    (harm_certificate_late, "HO7"),
    (harm_certificate_early, "HO7"),
    (harm_certificate_of_a_source_whose_name_holds_key, "HO7"),
    (harm_second_certificate_of_a_file, "HO7"),
    (harm_ssh_certificate_late, "HO7"),
    (harm_ssh_certificate_garbled, "HO7"),
    (harm_second_root, "HO12"),
]


@pytest.mark.parametrize(("harm", "ident"), HARMS)
def test_each_cause_fails_its_own_check(machine: Machine, harm: Any, ident: str) -> None:
    harm(machine)
    assert machine.judge() == {**WELL, ident: "fail"}
    assert machine.checks[ident].reason


@pytest.mark.parametrize(
    ("unit", "said"),
    [
        # systemd 252 and 254 on, waiting; the first end of all; up again only just; a start that does not come to its end.
        (("activating", "auto-restart", 0, 3.0), "ended by itself and waits for its next start (0 before)"),
        (("activating", "auto-restart-queued", 7, 3.0), "ended by itself and waits for its next start (7 before)"),
        (("active", "running", 3, 119.0), "ended by itself 3 times, up for 119 s"),
        (("activating", "start", 3, UPTIME_S), "ended by itself 3 times, is being started"),
        # Restarted by an operator; once long ago; often, long ago; once just now; stopped by an operator after a loop; a timer's program at work.
        (("active", "running", 0, 1.0), ""),
        (("active", "running", 1, 900_000.0), ""),
        (("active", "running", 99, 121.0), ""),
        (("active", "running", 2, 5.0), ""),
        (("inactive", "dead", 99, 5.0), ""),
        (("activating", "start", 0, UPTIME_S), ""),
    ],
)
def test_a_unit_that_ends_again_and_again_is_seen_at_any_moment_of_its_loop(unit: tuple[str, str, int, float], said: str) -> None:
    text = shown("well.service", "active", "running", 0, 9.0) + "\n" + shown("x.service", *unit)
    assert looping(text, UPTIME_S) == ({"x.service": said} if said else {})


def test_an_answer_without_a_unit_is_inconclusive(machine: Machine) -> None:
    machine.shown = "\n"
    assert machine.judge() == {**WELL, "HO1": "inconclusive"} and "shows no service" in machine.checks["HO1"].reason


@pytest.mark.parametrize("room", [Room("/var", 9.0, 90.0, 5), Room("/var", 90.0, 9.0, 5000)])
def test_bytes_and_inodes_run_out(machine: Machine, monkeypatch: pytest.MonkeyPatch, room: Room) -> None:
    monkeypatch.setattr(health, "rooms", lambda *_: [Room("/", 60.0, 90.0, 9000), room])
    assert machine.judge() == {**WELL, "HO3": "fail"}
    assert "/var" in machine.checks["HO3"].reason


def test_a_file_system_that_turned_read_only_is_named_however_much_room_it_has(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    turned, whole = [str(machine.base / "run")], os.statvfs
    flags = {turned[0]: os.ST_RDONLY}
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_flag=flags.get(path, whole(path).f_flag)))
    assert health.read_only([*turned, str(machine.base), str(machine.base / "none")]) == turned
    monkeypatch.setattr(health, "read_only", lambda paths: turned if paths == ("/var/lib", "/var/log") else [])
    assert machine.judge() == {**WELL, "HO3": "fail"}
    assert machine.checks["HO3"].reason.startswith(f"{turned[0]} is read-only")


def test_nothing_that_could_be_looked_at_is_no_pass(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "rooms", lambda *_: [])
    for name in ("a.service", "b.timer"):
        (machine.base / f"digests/{name}.restart").unlink()
    machine.tracking = ""
    assert machine.judge() == {**WELL, "HO2": "inconclusive", "HO3": "inconclusive", "HO4": "inconclusive"}


@pytest.mark.parametrize("cut", range(len(TRACKING)))
def test_a_tracking_that_was_cut_makes_no_clock_better_or_worse(machine: Machine, cut: int) -> None:
    for tracking in (TRACKING, TRACKING.replace("0.0020", "0.2")):
        machine.tracking = tracking
        whole = machine.judge()["HO4"]
        machine.tracking = tracking[:cut]
        assert machine.judge()["HO4"] in (whole, "inconclusive")


def test_a_command_that_hangs_is_inconclusive_and_no_other_check_waits(machine: Machine) -> None:
    whole = machine.run

    def run(argv: Sequence[str], timeout_s: float) -> str:
        if argv[0] == "chronyc":
            raise subprocess.TimeoutExpired(list(argv), timeout_s)
        return whole(argv, timeout_s)

    machine.run = run  # type: ignore[method-assign]
    assert machine.judge() == {**WELL, "HO4": "inconclusive"}


def test_the_jump_follows_whom_it_wants(machine: Machine) -> None:
    machine.want = replace(machine.want, time_sources=[])
    machine.tracking = TRACKING.replace(",jump1,", ",LOCAL,")
    assert machine.judge() == WELL


def test_settings_that_are_the_machines_are_named_and_judged_nowhere(machine: Machine) -> None:
    machine.want = replace(machine.want, sysctl={"kernel.machines_own": "1", "net.ours": "1"})
    ours = machine.base / "proc/net/ours"
    ours.parent.mkdir()
    for value, judged in (("1", "pass"), ("0", "fail")):
        ours.write_text(value)
        assert machine.judge() == {**WELL, "HO5": judged, "HO6": "skipped"}
        assert "kernel.machines_own" in machine.checks["HO6"].reason and "net.ours" not in machine.checks["HO6"].reason


def test_a_revocation_list_is_judged_where_there_is_one(machine: Machine) -> None:
    pki = machine.base / "etc/ot_collector/pki/issuers"
    pki.mkdir(parents=True)
    (pki / "plant.crl").write_text((machine.authority / "list.crl").read_text())
    assert machine.judge() == {**WELL, "HO8": "pass"}
    assert machine.checks["HO8"].observed == pytest.approx(5, abs=0.2)
    machine.now += 4.2 * DAY
    assert machine.judge() == {**WELL, "HO8": "fail"}
    # A clock is wrong: whoever verifies by it takes nothing.
    machine.now -= 5 * DAY
    machine.certificate.unlink()
    machine.want = replace(machine.want, certificates=[])
    assert machine.judge() == {**{key: status for key, status in WELL.items() if key != "HO7"}, "HO8": "fail"}
    assert machine.checks["HO8"].reason.startswith(f"{pki}/plant.crl is not valid yet")
    (pki / "plant.crl").write_text("<html>404</html>")
    assert machine.judge()["HO8"] == "fail" and "HO7" not in machine.checks and "plant.crl: it holds no" in machine.checks["HO8"].reason


def rules(machine: Machine, text: str) -> None:
    (machine.base / "rules").write_text(text)
    machine.want = replace(machine.want, audit_rules=str(machine.base / "rules"))


def test_audit_is_skipped_where_the_kernel_refuses_and_judged_where_not(machine: Machine) -> None:
    rules(machine, "-w /etc/sudoers -p wa -k hnai-sudo\n")
    assert machine.judge() == {**WELL, "HO9": "skipped"}
    assert "Operation not permitted" in machine.checks["HO9"].reason
    machine.audit = ""
    assert machine.judge() == {**WELL, "HO9": "pass"}
    for state in ("enabled 0\npid 77\nlost 0\n", "enabled 1\npid 0\nlost 0\n", "enabled 1\npid 77\nlost 5\n"):
        machine.auditctl["-s"] = state
        assert machine.judge() == {**WELL, "HO9": "fail"}
    machine.auditctl["-s"] = "enabled 1\npid 77\nlost 0\n"
    rules(machine, "-w /etc/sudoers -p wa -k hnai-sudo\n-a always,exit -F arch=b64 -S init_module -F key=hnai-modules\n")
    assert machine.judge() == {**WELL, "HO9": "fail"}
    assert "hnai-modules" in machine.checks["HO9"].reason


def test_sandboxes_are_judged_only_when_asked_for(machine: Machine) -> None:
    machine.want = replace(machine.want, exposure={"hnai-a.service": 3.0})
    assert machine.judge() == {**WELL, "HO10": "pass"}
    machine.security = machine.security.replace("2.1 OK", "3.1 OK")
    assert machine.judge() == {**WELL, "HO10": "fail"}
    machine.security = machine.security.replace("hnai-a", "hnai-b")
    assert machine.judge() == {**WELL, "HO10": "fail"}, "a unit that is not there has no sandbox"
    machine.security = "Unit hnai-a.service not found, cannot analyze.\n"
    assert machine.judge() == {**WELL, "HO10": "inconclusive"}


def test_a_release_with_something_beside_it_is_no_release(machine: Machine) -> None:
    opt = machine.base / "opt"
    opt.mkdir()
    assert machine.judge() == WELL, "a host without a release has nothing to judge"
    manifest = {"format": 1, "version": "1.0", "recipe": "r", "digest": "d", "files": {"libs/a.jar": 3}, "executable": []}
    release = opt / "demo/1.0"
    (release / "libs").mkdir(parents=True)
    (release / "libs/a.jar").write_text("jar")
    (release / MANIFEST).write_text(json.dumps(manifest))
    assert machine.judge() == {**WELL, "HO11": "fail"}
    assert machine.checks["HO11"].reason == "demo has no release as current"
    (opt / "demo/current").symlink_to("1.0")
    assert machine.judge() == {**WELL, "HO11": "pass"}
    (release / "libs/evil.jar").write_text("")
    assert machine.judge() == {**WELL, "HO11": "fail"}
    assert machine.checks["HO11"].reason == f"{release}/libs/evil.jar was never released, and may run"
    (release / "libs/evil.jar").unlink()
    programs, trees = machine.base / "root/usr/local/lib/hnai/x", machine.base / "root/var/lib/hnai/trees"
    for folder in (programs / "__pycache__", trees):
        folder.mkdir(parents=True)
    for name in ("run", "json.py", "__pycache__/run.cpython-313.pyc"):
        (programs / name).write_text("")
    (trees / "x.json").write_text(json.dumps({"files": ["/usr/local/lib/hnai/x/run"], "directories": []}))
    assert machine.judge() == {**WELL, "HO11": "fail"}
    assert machine.checks["HO11"].reason == "/usr/local/lib/hnai/x/json.py was never released, and may run"
    (programs / "json.py").unlink()
    assert machine.judge() == {**WELL, "HO11": "pass"}
    (release / "libs/a.jar").chmod(0o4755)
    assert machine.judge() == {**WELL, "HO11": "fail"}
    assert machine.checks["HO11"].reason == f"{release}/libs/a.jar was changed"


def test_rooms_are_the_file_systems_of_ours_each_once(tmp_path: Path) -> None:
    found = rooms([str(tmp_path), str(tmp_path), str(tmp_path / "none")])
    assert [room.path for room in found] == [str(tmp_path)]
    assert 0 <= found[0].free <= 100 and 0 <= found[0].inodes <= 100
    assert [room.path for room in rooms([], ["/de"], "devtmpfs /dev devtmpfs rw 0 0\nproc /proc proc rw 0 0\n")] == ["/dev"]
    assert rooms([], ["/de"], "x /dev tmpfs rw 0 0\n") == [] and rooms([], ["/de"], "x /dev ext4 ro,noatime 0 0\n") == []
    assert rooms([], [], "x /dev ext4 rw 0 0\n") == []
