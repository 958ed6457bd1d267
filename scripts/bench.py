#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What a run that changes nothing costs: task-hosts and wall time, by play; exit code 1 above the budget.

A task-host is one runner_on_ok or runner_on_skipped event: delegated and included tasks count, the items of a loop
count once, the closing verify is left out (--skip-tags verify).
"""
from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
BUDGET = 300
COUNTED = ("runner_on_ok", "runner_on_skipped")
BAD = ("runner_on_failed", "runner_on_unreachable")


@dataclass
class Cost:
    """Task-hosts by play, by task and by host; what was skipped, what changed and what went wrong."""

    plays: Counter[str] = field(default_factory=Counter)
    tasks: Counter[str] = field(default_factory=Counter)
    hosts: Counter[str] = field(default_factory=Counter)
    seconds: Counter[str] = field(default_factory=Counter)
    skipped: int = 0
    changed: list[str] = field(default_factory=list)
    bad: list[str] = field(default_factory=list)

    @property
    def total(self) -> int:
        return sum(self.plays.values())


@dataclass
class Run:
    """One run of a playbook: its ansible-runner events, seconds of wall and of the controller's CPU, and its exit code.

    CPU is that of ansible-playbook, its workers and each ssh that they waited for. A connection that outlives the run (ControlPersist) is not in it.
    """

    events: list[dict[str, Any]]
    wall: float
    cpu: float
    code: int


def run_playbook(
    playbook: Path | list[dict[str, Any]], inventory: Path, arguments: str = "", environment: Mapping[str, str] | None = None, quiet: bool = True
) -> Run:
    """Run a playbook, a file or its plays, to its end, with the checkout's ansible.cfg and, over it, `environment`."""
    import ansible_runner

    def used() -> float:
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        return children.ru_utime + children.ru_stime

    with tempfile.TemporaryDirectory(prefix="hnai-bench-") as work:
        if isinstance(playbook, list):
            plays, playbook = playbook, Path(work) / "plays.yml"
            playbook.write_text(json.dumps(plays), encoding="utf-8")
        begin, before = time.monotonic(), used()
        runner = ansible_runner.run(
            private_data_dir=work,
            project_dir=str(ROOT),
            playbook=str(playbook.resolve()),
            inventory=str(inventory.resolve()),
            cmdline=arguments or None,
            envvars={"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), **(environment or {})},
            settings={"suppress_ansible_output": quiet},
        )
        wall, cpu = time.monotonic() - begin, used() - before
        return Run(list(runner.events), wall, cpu, int(runner.rc))


def count(events: Iterable[Mapping[str, Any]]) -> Cost:
    """The cost of a run from its ansible-runner events."""
    cost = Cost()
    for event in events:
        kind, data = event.get("event"), event.get("event_data") or {}
        host, play, task = data.get("host", "?"), data.get("play", "?"), data.get("task", "?")
        if kind in BAD and not data.get("ignore_errors"):
            cost.bad.append(f"{host}: {task}")
        if kind not in COUNTED:
            continue
        cost.plays[play] += 1
        cost.tasks[f"{play} / {task}"] += 1
        cost.hosts[host] += 1
        cost.seconds[play] += float(data.get("duration") or 0.0)
        cost.skipped += kind == "runner_on_skipped"
        if (data.get("res") or {}).get("changed"):
            cost.changed.append(f"{host}: {task}")
    return cost


def report(cost: Cost, wall: float, budget: int) -> tuple[list[str], int]:
    """Lines to print and the exit code."""
    lines = [f"{number:5d}  {cost.seconds[play]:7.1f} s  {play}" for play, number in cost.plays.most_common()]
    lines += ["", "most frequent tasks:"] + [f"{number:5d}  {task}" for task, number in cost.tasks.most_common(12)]
    lines += ["", f"task-hosts {cost.total} (of them skipped {cost.skipped}), budget {budget}; wall {wall:.1f} s; hosts {len(cost.hosts)}"]
    code = 0
    for what, found in (("went wrong", cost.bad), ("changed, so this was no run that changes nothing", cost.changed)):
        if found:
            code = 1
            lines += [f"{what}:"] + [f"  {item}" for item in found[:20]]
    if not cost.total:
        code = 1
        lines.append("no task ran")
    if cost.total > budget:
        code = 1
        lines.append(f"over the budget by {cost.total - budget}")
    return lines, code


def main() -> int:
    """Run site.yml once and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inventory", default="inventories/lab/hosts.yml")
    parser.add_argument("--playbook", default="site.yml")
    parser.add_argument("--budget", type=int, default=BUDGET)
    parser.add_argument("--json", help="also write the figures to this file")
    args = parser.parse_args()
    run = run_playbook(ROOT / args.playbook, ROOT / args.inventory, "--skip-tags verify", quiet=False)
    cost = count(run.events)
    lines, code = report(cost, run.wall, args.budget)
    print("\n".join(lines))
    if args.json:
        figures = {"task_hosts": cost.total, "skipped": cost.skipped, "wall_s": round(run.wall, 1), "plays": dict(cost.plays), "hosts": dict(cost.hosts)}
        Path(args.json).write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return code or (0 if run.code == 0 else 1)


if __name__ == "__main__":
    sys.exit(main())
