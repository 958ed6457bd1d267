#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What the verdict of a running site costs, from start to exit; exit code 1 when the median is above --most.

Printed of every run: wall seconds, CPU seconds of the controller (ansible-playbook, its workers and its ssh), and CPU seconds that this
machine spent on anything else meanwhile. A lab stands on the same cores: there, that is its servers and the check modules on its hosts.
The verdict itself is printed, not judged.
"""
from __future__ import annotations

import argparse
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Run:
    """One verify: seconds of wall, of the controller's CPU and of the rest of the machine's; the verdict's line and the record's path."""

    wall: float
    controller: float
    others: float
    verdict: str
    record: str


def busy() -> float:
    """CPU seconds that this machine has been busy since it started (user, nice, system, interrupts; not idle, not waiting, not stolen)."""
    ticks = [int(word) for word in Path("/proc/stat").read_text(encoding="ascii").splitlines()[0].split()[1:]]
    return (sum(ticks[:3]) + sum(ticks[5:7])) / os.sysconf("SC_CLK_TCK")


def own() -> float:
    """CPU seconds of the children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measure(inventory: str) -> Run:
    """One verify. It may say that the site is not well; it must say something."""
    environment = {**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")}
    argv = [str(Path(sys.executable).with_name("ansible-playbook")), "-i", inventory, "playbooks/verify.yml"]
    machine, children, begin = busy(), own(), time.monotonic()
    done = subprocess.run(argv, cwd=ROOT, env=environment, check=False, capture_output=True, text=True, timeout=600)
    wall, controller = time.monotonic() - begin, own() - children
    found = dict(re.findall(r"^(VERDICT|record) +(\S.*)$", done.stdout, re.MULTILINE))
    if set(found) != {"VERDICT", "record"}:
        sys.exit(f"bench: playbooks/verify.yml ended with {done.returncode} and gave no verdict:\n{done.stdout[-3000:]}{done.stderr[-1000:]}")
    return Run(wall, controller, max(0.0, busy() - machine - controller), found["VERDICT"].partition(";")[0], found["record"])


def slowest(record: Mapping[str, Any], number: int) -> list[tuple[float, str]]:
    """(seconds, host, check module and its longest check) of the check modules that took longest, each from its own start to its end."""

    def moment(text: str) -> float:
        return datetime.fromisoformat(text).timestamp()

    found = []
    for one in record["verdicts"]:
        if one["started_at"] and one["ended_at"] and one["checks"]:
            longest = max(one["checks"], key=lambda check: check["duration_ms"])
            what = f"{one['host']} {one['module']} (longest: {longest['id']}, {longest['duration_ms'] / 1000:.1f} s)"
            found.append((round(moment(one["ended_at"]) - moment(one["started_at"]), 1), what))
    return sorted(found, reverse=True)[:number]


def main() -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inventory", default="inventories/lab/hosts.yml")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--most", type=float, default=10.0, help="wall seconds that the median may take")
    args = parser.parse_args()
    runs = []
    for number in range(args.runs):
        one = measure(args.inventory)
        runs.append(one)
        print(f"run {number + 1}  wall {one.wall:5.1f} s  controller {one.controller:5.1f} CPU s  others {one.others:5.1f} CPU s  {one.verdict}", flush=True)
    wall, controller, others = (statistics.median(values) for values in zip(*((one.wall, one.controller, one.others) for one in runs), strict=True))
    print("slowest check modules of the last run:")
    for seconds, what in slowest(json.loads(Path(runs[-1].record).read_text(encoding="utf-8")), 6):
        print(f"{seconds:6.1f} s  {what}")
    print(
        f"verify: median {wall:.1f} s (at most {args.most:g}), of it {controller:.1f} CPU s of the controller; "
        f"others used {others / wall:.1f} of {os.cpu_count()} cores meanwhile"
    )
    return 0 if wall <= args.most else 1


if __name__ == "__main__":
    sys.exit(main())
