# SPDX-License-Identifier: Apache-2.0
"""Health of a host: failed units, pending restarts, disk, time against the site's source, kernel settings, certificates and
revocation lists, the audit daemon, sandboxes, releases as they were unpacked strangers (ids HO1 to HO12)."""
from __future__ import annotations

import os
import re
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ansible_collections.hnai.platform.plugins.module_utils import artifact, hostfiles
from ansible_collections.hnai.platform.plugins.module_utils.host import ssh_certificate, strangers
from ansible_collections.hnai.platform.plugins.module_utils.host.sysctl import differing
from ansible_collections.hnai.platform.plugins.module_utils.verdict import Check, Report
from ansible_collections.hnai.platform.plugins.module_utils.x509 import X509Error, read_pem

#: run(argv, timeout_s) → stdout. Raises OSError or subprocess.SubprocessError when the command cannot be run or fails.
Run = Callable[[Sequence[str], float], str]


def run_command(argv: Sequence[str], timeout_s: float) -> str:
    """The ordinary Run."""
    return subprocess.run(list(argv), check=True, capture_output=True, text=True, timeout=timeout_s).stdout


def pending(digests: Path, *running: Path) -> list[str]:
    """Units whose wanted digest differs from the one they were started (or reloaded) with: ["x.service (restart)"].

    What runs is recorded in the first of the *running* directories that knows the unit: /run/hnai by the unit itself,
    /var/lib/hnai/digests for timers, which cannot record anything.
    """
    result = []
    for wanted in sorted(digests.glob("*")):
        have = next((one / wanted.name for one in running if (one / wanted.name).exists()), None)
        if wanted.suffix in (".restart", ".reload") and (have is None or have.read_text() != wanted.read_text()):
            result.append("%s (%s)" % (wanted.stem, wanted.suffix[1:]))
    return result


#: A unit that systemd started again so often by itself, and that has not been up for so long since, is in a loop: 60 s is the longest delay
#: between two starts of a unit of ours. systemd counts from the last start by a person on: what an operator restarts begins at 0.
LOOP_RESTARTS, LOOP_S = 3, 120.0
LOOP_PROPERTIES = ("Id", "ActiveState", "SubState", "NRestarts", "ActiveEnterTimestampMonotonic")


def looping(shown: str, uptime_s: float) -> dict[str, str]:
    """{unit: what is seen} of the services that end again and again: with Restart= none of them is ever "failed". And of timers that wait for nothing.

    *shown*: ``systemctl show`` of several units, with the properties of LOOP_PROPERTIES. *uptime_s*: CLOCK_MONOTONIC now. ValueError where none is shown.
    """
    found = {}
    units = [dict(line.partition("=")[::2] for line in block.splitlines()) for block in shown.strip().split("\n\n")]
    if not all(one.get("Id") for one in units) or not any(one["Id"].endswith(".service") for one in units):
        raise ValueError("systemctl shows no service")
    for one in units:
        restarts, state, up_s = int(one.get("NRestarts") or 0), one["ActiveState"], uptime_s - int(one["ActiveEnterTimestampMonotonic"]) / 1e6
        if one["Id"].endswith(".timer") and state != "active":
            found[one["Id"]] = "is stopped: what it starts never comes"
        elif one["SubState"].startswith("auto-restart"):
            found[one["Id"]] = "ended by itself and waits for its next start (%d before)" % restarts
        elif restarts >= LOOP_RESTARTS and (state == "activating" or (state == "active" and up_s < LOOP_S)):
            found[one["Id"]] = "ended by itself %d times, %s" % (restarts, "up for %.0f s" % up_s if state == "active" else "is being started")
    return found


def offset_s(tracking: str) -> float | None:
    """Worst-case error in seconds from ``chronyc -c tracking`` (chronyc(1)): |system time| + root dispersion + root delay / 2; None where no source is
    followed. Raises ValueError where the answer is none, or is not whole."""
    fields = tracking.strip().split(",")
    if len(fields) < 13:
        raise ValueError("chronyc gave no tracking: %r" % tracking[:80])
    if fields[2] == "0":
        return None
    return abs(float(fields[4])) + float(fields[11]) + float(fields[10]) / 2


def time_source(tracking: str) -> str:
    """Name or address of the source that chronyd follows; "" for none."""
    fields = tracking.strip().split(",")
    return fields[1] if fields[2] != "0" else ""


def unwritten(wanted: Mapping[str, str], proc: Path = Path("/proc/sys")) -> tuple[dict[str, str], list[str]]:
    """(keys that are writable but differ: {key: "is X"}, keys that this host cannot write or lacks)."""
    differ, beyond = differing(wanted, proc)
    return {key: "is %s, wanted %s" % pair for key, pair in differ.items()}, beyond


@dataclass(frozen=True)
class Wanted:
    """What is expected of a host. *time_sources*: names and addresses of the site's source, none for the source itself.
    *certificates*: files that must be there. *audit_rules*: the file of rules that must be loaded, "" where none is declared.
    *exposure*: unit -> worst score of ``systemd-analyze security``; empty where it is not asked for (it is slow).
    """

    sysctl: Mapping[str, str] = field(default_factory=dict)
    min_free_percent: float = 10.0
    max_time_error_s: float = 0.1
    time_sources: Sequence[str] = ()
    certificates: Sequence[str] = ()
    min_certificate_days: float = 14.0
    min_crl_days: float = 1.0
    audit_rules: str = ""
    exposure: Mapping[str, float] = field(default_factory=dict)
    declared: strangers.Declared = field(default_factory=strangers.Declared)


@dataclass(frozen=True)
class Room:
    """Free share of a file system, in percent of its bytes and of its inodes."""

    path: str
    free: float
    inodes: float
    free_mib: int


def rooms(paths: Iterable[str], below: Sequence[str] = (), mounts: str = "") -> list[Room]:
    """The file systems on which *paths* lie, and the writable ones that are mounted somewhere *below*; each once.

    *mounts*: text of /proc/self/mounts. What lives in memory is left out.
    """
    mounted = [line.split() for line in mounts.splitlines()]
    wanted = list(paths) + [
        one[1] for one in mounted
        if len(one) > 3 and one[2] not in ("tmpfs", "ramfs") and "ro" not in one[3].split(",") and one[1].startswith(tuple(below) or ("//",))
    ]
    found: dict[int, Room] = {}
    for path in wanted:
        if not os.path.exists(path):
            continue
        device, info = os.stat(path).st_dev, os.statvfs(path)
        if device not in found and info.f_blocks:
            inodes = 100.0 * info.f_favail / info.f_files if info.f_files else 100.0
            found[device] = Room(path, 100.0 * info.f_bavail / info.f_blocks, inodes, info.f_bavail * info.f_frsize // 1048576)
    return list(found.values())


def read_only(paths: Iterable[str]) -> list[str]:
    """Those of *paths* that nobody can write to: what the kernel makes of a file system when its disk fails (errors=remount-ro)."""
    return [path for path in paths if os.path.exists(path) and os.statvfs(path).f_flag & os.ST_RDONLY]


@dataclass(frozen=True)
class Paper:
    """A certificate or a revocation list in a file, and the days it has left; None: it never ends. *early*: it begins only later."""

    path: str
    kind: str
    days: float | None
    early: bool = False


#: Private keys, which lie beside them (module_utils/host_certificate.py). A source's certificate is named after the source, which may be a Keyence.
_KEYS = ("key.pem", "keystore.pem")


def papers(paths: Iterable[Path], now: float) -> tuple[list[Paper], dict[str, str]]:
    """(what the files hold, {file: why it cannot be read}). A file with several counts each."""
    found: list[Paper] = []
    broken: dict[str, str] = {}
    for path in sorted(set(paths)):
        try:
            for one in read_pem(path.read_text(encoding="ascii", errors="replace")):
                found.append(Paper(str(path), one.kind, None if one.end is None else (one.end - now) / 86400.0, one.begin > now))
        except (OSError, X509Error) as error:
            broken[str(path)] = str(error)
    return found, broken


def ssh_papers(path: Path, now: float) -> tuple[list[Paper], dict[str, str]]:
    """The same of the certificate of the host's SSH key; none where the site signs none. Of host keys the end is "never" at 2**64-1."""
    if not path.exists():
        return [], {}
    try:
        end = ssh_certificate.parse(path.read_text(encoding="ascii", errors="replace")).end
    except (OSError, ssh_certificate.CertificateError) as error:
        return [], {str(path): str(error)}
    return [Paper(str(path), "certificate", None if end == ssh_certificate.NEVER else (end - now) / 86400.0)], {}


def audit_possible() -> str:
    """"" where this host may configure the kernel's audit; else why not. Asks the kernel (AUDIT_GET), changes nothing."""
    netlink_audit, audit_get, request_ack = 9, 1000, 0x5
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, netlink_audit) as link:
            link.settimeout(2.0)
            link.sendto(struct.pack("=IHHII", 16, audit_get, request_ack, 1, 0), (0, 0))
            answer = link.recv(8192)
    except OSError as error:
        return error.strerror or str(error)
    _size, kind, _flags, _sequence, _pid = struct.unpack("=IHHII", answer[:16])
    if kind == 2:  # NLMSG_ERROR: 0 acknowledges
        code = -struct.unpack("=i", answer[16:20])[0]
        return os.strerror(code) if code else ""
    return ""


def audit_rules(text: str) -> list[str]:
    """The rules of a file as ``auditctl -l`` lists watches and system calls: only their keys can be compared, sorted."""
    return sorted(set(re.findall(r"(?:-k|-F key=) ?(\S+)", text)))


def exposures(text: str) -> dict[str, float]:
    """{unit: score} of ``systemd-analyze security UNIT…``: its JSON names no unit where units are asked for. ValueError where no score is."""
    found = {unit: float(score) for unit, score in re.findall(r"Overall exposure level for (\S+): ([0-9.]+)", text)}
    if not found:
        raise ValueError("systemd-analyze gave no score")
    return found


@dataclass(frozen=True)
class Host:
    """Where the checks look; tests give their own."""

    run: Run = run_command
    digests: Path = Path("/etc/hnai/digests")
    running: tuple[Path, ...] = (Path("/run/hnai"), Path("/var/lib/hnai/digests"))
    proc: Path = Path("/proc/sys")
    mounts: Path = Path("/proc/self/mounts")
    etc: Path = Path("/etc/hnai")
    ssh: Path = Path(ssh_certificate.CERTIFICATE)
    opt: Path = artifact.OPT
    machine: hostfiles.Host = field(default_factory=hostfiles.Host)
    data: tuple[str, ...] = ("/", "/var/lib", "/var/log", "/opt")
    written: tuple[str, ...] = ("/var/lib", "/var/log")
    below: tuple[str, ...] = ("/var/lib/hnai/", "/opt/hnai/")
    now: Callable[[], float] = time.time
    uptime: Callable[[], float] = time.monotonic
    audit: Callable[[], str] = audit_possible


def check_all(report: Report, want: Wanted, host: Host = Host()) -> None:
    """All checks of one host."""
    run = host.run
    with report.check(
        "HO1", "no unit failed or ends again and again, every timer of ours waits", expected=0, unit="units", hint="systemctl status UNIT; journalctl -u UNIT",
        explain="systemctl --failed; systemctl show -p SubState,NRestarts,ActiveEnterTimestamp UNIT",
    ) as check:
        listed = run(["systemctl", "--failed", "--no-legend", "--plain"], report.timeout(10))
        check.raw("failed-units.txt", listed)
        failed = [line.split()[0] for line in listed.splitlines() if line.strip()]
        timers = sorted(one.stem for one in host.digests.glob("*.timer.restart"))
        shown = run(["systemctl", "show", "--property=" + ",".join(LOOP_PROPERTIES), "*.service", *timers], report.timeout(10))
        loops = looping(shown, host.uptime())
        check.observed, check.evidence["units"], check.evidence["looping"] = len(failed) + len(loops), failed, loops
        check.passed(not failed and not loops, "; ".join(["%s failed" % unit for unit in failed] + ["%s %s" % one for one in sorted(loops.items())]))
    with report.check(
        "HO2", "nothing waits for a restart", expected=0, unit="units", hint="run site.yml: it restarts what waits, behind its gate",
        explain="diff -r /etc/hnai/digests /run/hnai",
    ) as check:
        waiting = pending(host.digests, *host.running)
        check.observed, check.evidence = len(waiting), {"units": waiting, "judged": len(list(host.digests.glob("*")))}
        if not check.evidence["judged"]:
            check.inconclusive("%s is empty: nothing of ours was ever started here" % host.digests)
        else:
            check.passed(not waiting, ", ".join(waiting))
    with report.check(
        "HO3", "free disk", expected=want.min_free_percent, unit="% free on the fullest file system",
        hint="journalctl --vacuum-size, or a larger file system", explain="df -h; df -i", controls=["SR 7.2"],
    ) as check:
        _disk(check, rooms(host.data, host.below, host.mounts.read_text()), want.min_free_percent, read_only(host.written))
    with report.check(
        "HO4", "time agrees with the site's source", expected=want.max_time_error_s, unit="s", controls=["SR 2.11"],
        hint="chronyc sources; is the jump reachable on udp/123?", explain="chronyc -c tracking",
    ) as check:
        answer = run(["chronyc", "-c", "tracking"], report.timeout(10))
        check.raw("tracking.csv", answer)
        _time(check, answer, want)
    beyond: list[str] = []
    with report.check(
        "HO5", "kernel settings as declared", expected=0, unit="settings that differ", controls=["SR 7.7"], hint="sysctl --system", explain="sysctl -a"
    ) as check:
        differ, beyond = unwritten(want.sysctl, host.proc)
        check.observed, check.evidence = len(differ), {"differ": differ, "not writable on this host": beyond}
        check.passed(not differ, ", ".join(sorted(differ)))
    if beyond:
        report.skip("HO6", "kernel settings of the whole machine", "not possible here: %s" % ", ".join(beyond))
    files = [path for pattern in ("*/tls/*.pem", "*/pki/*.pem", "*/servers/*.pem", "*/tls/*.crl", "*/pki/**/*.crl") for path in host.etc.glob(pattern)]
    held, broken = papers([path for path in files if path.name not in _KEYS], host.now())
    of_ssh, torn = ssh_papers(host.ssh, host.now())
    _papers(report, want, held + of_ssh, {**broken, **torn})
    if want.audit_rules:
        _audit(report, want, host)
    if want.exposure:
        with report.check(
            "HO10", "the units are sandboxed as their contracts say", expected=0, unit="units that are not", controls=["SR 7.7"],
            hint="site.yml: a unit file was edited", explain="systemd-analyze security UNIT",
        ) as check:
            found = exposures(run(["systemd-analyze", "security", "--no-pager", *sorted(want.exposure)], report.timeout(30)))
            check.evidence = {"exposure": found, "limits": dict(want.exposure)}
            worse = sorted(unit for unit, limit in want.exposure.items() if found.get(unit, 10.0) > limit)
            check.observed = len(worse)
            check.passed(not worse, ", ".join("%s %s" % (unit, found.get(unit, "unknown")) for unit in worse))
    with report.check(
        "HO12", "only who was declared comes in, becomes root and decides what runs", expected=0, unit="things that nobody declared",
        controls=["SR 1.1", "SR 2.1", "SR 3.4"], hint="look at it: take it away, declare it, or name it in host_foreign_ignore",
        explain="site.yml --tags host --check names it",
    ) as check:
        foreign = strangers.found(host.machine, want.declared)
        check.observed, check.evidence = len(foreign), {"foreign": foreign}
        check.passed(not foreign, "; ".join(foreign[:5]))
    if host.opt.is_dir() and any(host.opt.iterdir()):
        _releases(report, host.opt, host.machine)


def _releases(report: Report, opt: Path, machine: hostfiles.Host) -> None:
    with report.check(
        "HO11", "what is installed is what was released", expected=0, unit="files and directories that differ", controls=["SR 3.4"],
        hint="site.yml replaces a release that was changed; what is not of it: look at it, remove it, and restart what may have loaded it",
        explain="site.yml --check --diff; the names and sizes stand in %s/*/current/%s" % (opt, artifact.MANIFEST),
    ) as check:
        seen = {base.name: artifact.observe_archive(base.name, opt) for base in sorted(opt.iterdir()) if base.is_dir()}
        none = sorted(name for name, one in seen.items() if not one["version"])
        changed = sorted("%s/%s" % (one["path"], one["damaged"]) for one in seen.values() if one["damaged"])
        foreign = sorted(path for one in seen.values() for path in one["foreign"]) + strangers.beside_programs(machine)
        check.evidence = {"releases": {name: one["version"] for name, one in seen.items()}, "changed": changed, "foreign": foreign}
        check.observed = len(none) + len(changed) + len(foreign)
        check.passed(not check.observed, "; ".join(
            ["%s has no release as current" % name for name in none] + ["%s was changed" % path for path in changed[:5]]
            + ["%s was never released, and may run" % path for path in foreign[:5]]))


def _disk(check: Check, found: Sequence[Room], least: float, frozen: Sequence[str]) -> None:
    if not found:
        raise OSError("no file system could be looked at")
    worst = min(found, key=lambda one: min(one.free, one.inodes))
    check.observed = round(min(worst.free, worst.inodes), 1)
    check.evidence = {room.path: {"free_percent": round(room.free, 1), "free_inodes_percent": round(room.inodes, 1), "free_mib": room.free_mib}
                      for room in found}
    if frozen:
        check.fail("%s is read-only: look at the disk (dmesg) before it is mounted again" % ", ".join(frozen))
    else:
        check.passed(check.observed >= least, "%s: %s" % (worst.path, "no inodes" if worst.inodes < worst.free else "%d MiB left" % worst.free_mib))


def _time(check: Check, tracking: str, want: Wanted) -> None:
    error, source = offset_s(tracking), time_source(tracking)
    check.evidence["source"] = source
    check.evidence["allowed_sources"] = list(want.time_sources)
    if error is None:
        check.fail("chronyd follows no source")
        return
    check.observed = round(error, 6)
    if want.time_sources and source not in want.time_sources:
        check.fail("chronyd follows %s, which is not the site's source" % source)
    else:
        check.passed(error <= want.max_time_error_s, "may be off by %.3f s against %s" % (error, source))


def _papers(report: Report, want: Wanted, found: Sequence[Paper], broken: Mapping[str, str]) -> None:
    certificates = [one for one in found if one.kind == "certificate"]
    missing = sorted(set(want.certificates) - {one.path for one in certificates})
    torn = {path: why for path, why in broken.items() if path.endswith(".crl")}
    broken = {path: why for path, why in broken.items() if path not in torn}
    if certificates or missing or broken:
        with report.check(
            "HO7", "every certificate lives long enough", expected=want.min_certificate_days, unit="days left", controls=["SR 1.9"],
            hint="site.yml renews ours; a source's and our OPC UA certificate are renewed with the plant; SSH: rotate -e rotate_secret=ssh/hosts",
            explain="for f in /etc/hnai/*/tls/*.pem; do openssl x509 -noout -enddate -in $f; done; ssh-keygen -L -f %s" % ssh_certificate.CERTIFICATE,
        ) as check:
            soon = sorted((one for one in certificates if one.days is not None and one.days < want.min_certificate_days), key=lambda one: one.days or 0.0)
            early = sorted({one.path for one in certificates if one.early})
            left = [one.days for one in certificates if one.days is not None]
            check.observed = round(min(left), 1) if left else None
            check.evidence = {"days": {one.path: round(one.days or 0.0, 1) for one in sorted(certificates, key=lambda one: -(one.days or 0.0))},
                              "missing": missing, "unreadable": broken, "not_valid_yet": early}
            check.passed(not soon and not early and not missing and not broken, "; ".join(
                ["%s: %.1f days" % (one.path, one.days or 0.0) for one in soon[:5]] + ["%s is not valid yet" % path for path in early]
                + ["%s is not there" % path for path in missing]
                + ["%s: %s" % item for item in sorted(broken.items())]))
    lists = [one for one in found if one.kind == "crl"]
    if lists or torn:
        with report.check(
            "HO8", "every revocation list is young enough", expected=want.min_crl_days, unit="days until the next is due", controls=["SR 1.9"],
            hint="an expired list stops OPC UA as surely as an expired certificate: fetch the new one from its issuer",
            explain="openssl crl -noout -nextupdate -in FILE",
        ) as check:
            left = [one.days for one in lists if one.days is not None]
            check.observed = round(min(left), 1) if left else None
            early = sorted({one.path for one in lists if one.early})
            check.evidence = {"days": {one.path: one.days if one.days is None else round(one.days, 1) for one in lists}, "unreadable": torn,
                              "not_valid_yet": early}
            due = [one for one in lists if one.days is not None and one.days < want.min_crl_days]
            check.passed(not due and not early and not torn, "; ".join(
                ["%s: %.1f days" % (one.path, one.days or 0.0) for one in due]
                + ["%s is not valid yet: its issuer's clock is wrong, or this host's" % path for path in early]
                + ["%s: %s" % item for item in sorted(torn.items())]))


def _audit(report: Report, want: Wanted, host: Host) -> None:
    title, controls = "the audit daemon records by our rules", ["SR 2.8", "SR 6.1"]
    why = host.audit()
    if why:
        report.skip("HO9", title, "not possible here: %s" % why, controls=controls)
        return
    with report.check(
        "HO9", title, expected="enabled, every rule loaded, nothing lost", controls=controls,
        hint="systemctl status auditd; augenrules --load", explain="auditctl -s; auditctl -l",
    ) as check:
        status, listed = (host.run(["/usr/sbin/auditctl", what], report.timeout(10)) for what in ("-s", "-l"))
        check.raw("audit.txt", status + listed)
        state: dict[str, Any] = dict(line.split(None, 1) for line in status.splitlines() if len(line.split(None, 1)) == 2)
        absent = sorted(set(audit_rules(Path(want.audit_rules).read_text(encoding="utf-8"))) - set(audit_rules(listed)))
        running = state.get("enabled") in ("1", "2") and state.get("pid", "0") != "0"
        check.evidence.update({"enabled": state.get("enabled"), "pid": state.get("pid"), "lost": state.get("lost"), "absent": absent})
        check.observed = "%s, %d keys absent, %s lost" % ("enabled" if running else "not running", len(absent), state.get("lost", "?"))
        check.passed(running and not absent and state.get("lost") == "0", "absent: " + ", ".join(absent) if absent else "")
