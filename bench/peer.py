#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A second run that changes nothing, ours and a peer's role for Kafka, in turn on the same hosts; the ratio of the medians is printed.

The peer is a checkout of sleighzy/ansible-kafka, outside this repository, given by --peer or HNAI_BENCH_PEER. It lives beside the running Kafka,
starts nothing (bench/peer/vars.yml) and is removed at the end. So the peer is measured without its service, and with the smallest set of facts, while
ours also keeps certificates, the log directory's identity, topics, users, rights and the order of restarts: the ratio flatters the peer.
"""
from __future__ import annotations

import argparse
import os
import statistics
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

import bench

#: What the role was written for: Ansible's facts as variables, which this checkout switches off.
PEERS = {"ANSIBLE_INJECT_FACT_VARS": "true"}
FIGURES = ("wall s", "controller CPU s", "task-hosts")


@dataclass(frozen=True)
class Side:
    """A way to run: playbook, arguments and environment."""

    playbook: Path | list[dict[str, Any]]
    arguments: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)


def play(role: Path) -> list[dict[str, Any]]:
    """The play of a role as its users write it, with the smallest set of facts. (An included role would be a task-host more on each host.)"""
    return [{"name": "The peer's Kafka", "hosts": "kafka", "gather_facts": True, "gather_subset": ["min"], "roles": [str(role)]}]


def figures(run: bench.Run, quiet: bool) -> tuple[float, float, float]:
    """FIGURES of a run that went well and, when `quiet`, changed nothing; anything else ends the bench."""
    cost = bench.count(run.events)
    wrong = [*cost.bad, *(["no task ran"] if not cost.total else []), *([f"changed: {what}" for what in cost.changed] if quiet else [])]
    if wrong or run.code:
        raise SystemExit(f"bench: ended with {run.code}: " + "; ".join(wrong[:10]))
    return run.wall, run.cpu, cost.total


def compare(ours: list[tuple[float, float, float]], peer: list[tuple[float, float, float]]) -> list[str]:
    """One line for each figure: both medians and the peer's as a multiple of ours."""
    lines = []
    for index, name in enumerate(FIGURES):
        mine, other = (statistics.median(run[index] for run in runs) for runs in (ours, peer))
        lines.append(f"{name:16} ours {mine:7.1f}   peer {other:7.1f}   peer/ours {other / max(mine, 1e-9):.2f}")
    return lines


def main() -> int:
    """Install the peer, measure both in turn, remove the peer, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inventory", default="inventories/lab/hosts.yml")
    parser.add_argument("--peer", default=os.environ.get("HNAI_BENCH_PEER"), help="folder with the peer's role")
    parser.add_argument("--runs", type=int, default=3)
    args = parser.parse_args()
    role = Path(args.peer or "").resolve()
    if not args.peer or not (role / "tasks").is_dir():
        parser.error("--peer or HNAI_BENCH_PEER: the folder of a checkout of sleighzy/ansible-kafka, outside this repository (docs/development.md)")
    if role.is_relative_to(ROOT):
        parser.error(f"{role}: lies inside this repository; keep the peer's code outside")
    shared = f"-e @{ROOT / 'bench/peer/vars.yml'}"
    remove = Side(ROOT / "bench/peer/remove.yml", shared)
    found: dict[str, list[tuple[float, float, float]]] = {"ours": [], "peer": []}

    def run(side: Side, quiet: bool = False) -> tuple[float, float, float]:
        return figures(bench.run_playbook(side.playbook, ROOT / args.inventory, side.arguments, side.environment), quiet)

    run(remove)
    peer = Side(play(role), shared, PEERS)
    sides = {"ours": Side(ROOT / "playbooks/site.yml", "--tags kafka --skip-tags verify"), "peer": peer}
    try:
        run(Side(ROOT / "bench/peer/prepare.yml", shared))
        print("first run of the peer, which installs it: {:.1f} s, {:.1f} CPU s, {:.0f} task-hosts".format(*run(peer)), flush=True)
        for number in range(args.runs):
            for name, side in sides.items():
                found[name].append(run(side, quiet=True))
                told = "  ".join(f"{value:6.1f} {what}" for value, what in zip(found[name][-1], FIGURES, strict=True))
                print(f"run {number + 1}  {name}  {told}", flush=True)
    finally:
        run(remove)
    print("Kafka, a run that changes nothing; the peer without its service, ours with everything:")
    print("\n".join(compare(found["ours"], found["peer"])))
    return 0


if __name__ == "__main__":
    sys.exit(main())
