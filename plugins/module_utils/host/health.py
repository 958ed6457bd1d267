# SPDX-License-Identifier: Apache-2.0
"""Health of a host: failed units, pending restarts, disk, time against the site's source, kernel settings (ids HO1-HO5)."""
from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ansible_collections.hnai.platform.plugins.module_utils.verdict import Report

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


def offset_s(tracking: str) -> float | None:
    """Worst-case error in seconds from ``chronyc -c tracking`` (chronyc(1)): |system time| + root dispersion + root delay / 2."""
    fields = tracking.strip().split(",")
    if len(fields) < 13 or fields[2] == "0":
        return None
    return abs(float(fields[4])) + float(fields[11]) + float(fields[10]) / 2


def unwritten(wanted: Mapping[str, str], proc: Path = Path("/proc/sys")) -> tuple[dict[str, str], list[str]]:
    """(keys that are writable but differ: {key: "is X"}, keys that this host cannot write or lacks)."""
    differ: dict[str, str] = {}
    beyond = []
    for key, value in sorted(wanted.items()):
        path = proc / key.replace(".", "/")
        if not path.exists():
            beyond.append(key)
            continue
        have = re.sub(r"\s+", " ", path.read_text().strip())
        if have == str(value):
            continue
        if os.statvfs(str(path)).f_flag & os.ST_RDONLY:
            beyond.append(key)
        else:
            differ[key] = "is %s, wanted %s" % (have, value)
    return differ, beyond


def check_all(
    report: Report, sysctl: Mapping[str, str], min_free_percent: float, max_time_error_s: float, run: Run = run_command,
    digests: Path = Path("/etc/hnai/digests"), running: tuple[Path, ...] = (Path("/run/hnai"), Path("/var/lib/hnai/digests")),
    proc: Path = Path("/proc/sys"),
) -> None:
    """All checks of one host."""
    with report.check(
        "HO1", "no failed unit", expected=0, unit="units", hint="systemctl status UNIT; journalctl -u UNIT", explain="systemctl --failed"
    ) as check:
        listed = run(["systemctl", "--failed", "--no-legend", "--plain"], report.timeout(10))
        failed = [line.split()[0] for line in listed.splitlines() if line.strip()]
        check.observed, check.evidence = len(failed), {"units": failed}
        check.passed(not failed, ", ".join(failed))
    with report.check(
        "HO2", "nothing waits for a restart", expected=0, unit="units", hint="run site.yml: it restarts what waits, behind its gate",
        explain="diff -r /etc/hnai/digests /run/hnai",
    ) as check:
        waiting = pending(digests, *running)
        check.observed, check.evidence = len(waiting), {"units": waiting}
        check.passed(not waiting, ", ".join(waiting))
    with report.check(
        "HO3", "free disk", expected=min_free_percent, unit="% free below /var/lib",
        hint="journalctl --vacuum-size, or a larger file system", explain="df /var/lib",
    ) as check:
        stat = os.statvfs("/var/lib")
        check.observed = round(100.0 * stat.f_bavail / stat.f_blocks, 1)
        check.passed(check.observed >= min_free_percent)
    with report.check(
        "HO4", "time agrees with the site's source", expected=max_time_error_s, unit="s", controls=["SR 2.11"],
        hint="chronyc sources; is the jump reachable on udp/123?", explain="chronyc -c tracking",
    ) as check:
        answer = run(["chronyc", "-c", "tracking"], report.timeout(10))
        check.evidence = {"tracking": answer.strip()}
        error = offset_s(answer)
        if error is None:
            check.fail("chronyd follows no source")
        else:
            check.observed = round(error, 6)
            check.passed(error <= max_time_error_s)
    with report.check(
        "HO5", "kernel settings as declared", expected=0, unit="settings that differ", controls=["SR 7.7"], hint="sysctl --system", explain="sysctl -a"
    ) as check:
        differ, beyond = unwritten(sysctl, proc)
        check.observed, check.evidence = len(differ), {"differ": differ, "not writable on this host": beyond}
        check.passed(not differ, ", ".join(sorted(differ)))
    if beyond:
        report.skip("HO6", "kernel settings of the whole machine", "not possible here: %s" % ", ".join(beyond))
