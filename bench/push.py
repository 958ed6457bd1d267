#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""How long Kafka's archive takes onto one host and onto three that have no Kafka, and to find it there: our artifact against unarchive and copy.

unarchive unpacks the same file from the controller's store; copy only lays it down. Bytes are what the hosts' interfaces received meanwhile, less what the
site sent by itself in the seconds before. What was made is removed. Exit code 1 when artifact sends the archive again to where it is.
"""
from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

import bench

HOME = "/var/lib/hnai-bench-push"
TREE = "/opt/hnai/kafka"
IDLE_S = 5
BLOB = "{{ hnai_store_dir }}/blobs/sha256/{{ bench_pushed.artifacts.kafka.digest[:2] }}/{{ bench_pushed.artifacts.kafka.digest }}"
WAYS: dict[str, dict[str, Any]] = {
    "artifact": {"hnai.platform.artifact": {"component": "kafka", "name": "kafka"}},
    "unarchive": {"ansible.builtin.unarchive": {"src": BLOB, "dest": f"{HOME}/unarchive"}},
    "copy": {"ansible.builtin.copy": {"src": BLOB, "dest": f"{HOME}/copy/tree.tar", "mode": "0644"}},
}
STATES = ("absent", "present")
COUNT: dict[str, Any] = {"name": "Count", "ansible.builtin.raw": "cat /proc/net/dev", "changed_when": False}


@dataclass(frozen=True)
class Step:
    """A task between two counts: seconds from the first host's start to the last one's end, bytes received by all hosts, hosts changed."""

    name: str
    seconds: float
    received: int
    changed: int


def _play(hosts: str, tasks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"name": "Push", "hosts": hosts, "gather_facts": False, "any_errors_fatal": True, "tasks": tasks}]


def _look(path: str) -> dict[str, Any]:
    return {"name": f"Look for {path}", "ansible.builtin.stat": {"path": path}, "register": "bench_there"}


def pushes(hosts: str) -> list[dict[str, Any]]:
    """The play that is measured. Refused where something of somebody else would be written over."""
    tasks = [
        _look(TREE),
        {"name": "Refuse to write over it", "ansible.builtin.assert": {
            "that": "not bench_there.stat.exists", "quiet": True,
            "fail_msg": f"{{{{ inventory_hostname }}}}: {TREE} is there and not of this bench; remedy: remove it, or choose hosts that never had Kafka",
        }},
        {"name": "Have the archive on the controller", "hnai.platform.artifact": {"prefetch": True, "components": ["kafka"]},
         "delegate_to": "localhost", "become": False, "run_once": True},
        {"name": "Make the folders", "ansible.builtin.file": {"path": f"{HOME}/{{{{ item }}}}", "state": "directory", "mode": "0755"},
         "loop": ["unarchive", "copy"]},
        COUNT,
        {"name": "idle", "ansible.builtin.wait_for": {"timeout": IDLE_S}},
        COUNT,
    ]  # fmt: skip
    for way, task in WAYS.items():
        for state in STATES:
            first = {"register": "bench_pushed"} if (way, state) == ("artifact", "absent") else {}
            tasks += [{"name": f"{way}, {state}", **task, **first}, COUNT]
    return _play(hosts, tasks)


def removal(hosts: str) -> list[dict[str, Any]]:
    """The tree is taken away only where the bench has been, and the mark of that last."""
    return _play(hosts, [
        _look(HOME),
        {"name": "Remove", "ansible.builtin.file": {"path": "{{ item }}", "state": "absent"}, "loop": [TREE, HOME], "when": "bench_there.stat.exists"},
    ])


def received(text: str) -> int:
    """Bytes that all interfaces but lo have received, of /proc/net/dev.

    >>> received("Inter-| Receive\\n face |bytes\\n    lo: 9 1\\n  eth0: 70 1 2\\n  eth1:5 0\\n")
    75
    """
    found = (line.partition(":") for line in text.splitlines() if ":" in line)
    return sum(int(figures.split()[0]) for name, _, figures in found if name.strip() != "lo")


def steps(events: Iterable[Mapping[str, Any]]) -> list[Step]:
    """The tasks that stand between two counts, in order."""
    tasks: dict[str, tuple[str, list[Mapping[str, Any]]]] = {}
    for event in events:
        data = event.get("event_data") or {}
        if event.get("event") == "runner_on_ok":
            tasks.setdefault(data["task_uuid"], (data["task"], []))[1].append(data)
    known = list(tasks.values())
    found = []
    for (before, first), (name, results), (after, last) in zip(known, known[1:], known[2:], strict=False):
        if before == after == COUNT["name"]:
            begin, end = ([datetime.fromisoformat(result[key]) for result in results] for key in ("start", "end"))
            at = [sum(received(result["res"]["stdout"]) for result in count) for count in (first, last)]
            changed = sum(bool(result["res"].get("changed")) for result in results)
            found.append(Step(name, (max(end) - min(begin)).total_seconds(), at[1] - at[0], changed))
    return found


def report(measured: Mapping[int, list[Step]]) -> tuple[list[str], int]:
    """Lines to print and the exit code, of the steps by number of hosts."""
    lines, code = [], 0
    for hosts, (idle, *found) in measured.items():
        own = {step.name: max(0.0, step.received - idle.received / idle.seconds * step.seconds) / 1e6 for step in found}
        took = {step.name: step.seconds for step in found}
        for step in found:
            way, _, state = step.name.partition(", ")
            ours = f"artifact, {state}"
            times = f"{took[step.name] / took[ours]:.1f} in time, {own[step.name] / max(own[ours], 1e-3):.1f} in bytes"
            ratio = "" if way == "artifact" else f"   {way}/artifact {times}"
            lines.append(f"{hosts} host(s)  {step.name:19} {step.seconds:6.1f} s  {own[step.name]:7.1f} MB{ratio}")
        there = {step.name: step for step in found}
        if there["artifact, absent"].changed != hosts or there["artifact, present"].changed:
            lines.append("artifact did not bring it where it was absent, or changed something where it was present")
            code = 1
        if own["artifact, present"] > own["artifact, absent"] / 10:
            lines.append("artifact was sent again to where it is")
            code = 1
    return lines, code


def hosts_of(inventory: Path) -> list[str]:
    """Managed hosts that pass nothing on, hold no secrets of others and have no Kafka, as the inventory orders them."""
    pattern = "managed:!kafka:!routers:!jump:!openbao"
    run = bench.run_playbook(_play(pattern, [{"name": "Name", "ansible.builtin.debug": {"var": "inventory_hostname"}}]), inventory)
    return list(dict.fromkeys(event["event_data"]["host"] for event in run.events if event["event"] == "runner_on_ok"))


def main() -> int:
    """Push to one and to three, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inventory", default="inventories/lab/hosts.yml")
    parser.add_argument("--hosts", type=int, nargs="+", default=[1, 3], help="how many at once")
    args = parser.parse_args()
    inventory = ROOT / args.inventory
    there = hosts_of(inventory)
    if max(args.hosts) > len(there):
        parser.error(f"{args.inventory} has only {len(there)} hosts without Kafka: {', '.join(there)}")
    measured = {}
    for number in args.hosts:
        names = ",".join(there[:number])
        try:
            bench.run_playbook(removal(names), inventory)
            run = bench.run_playbook(pushes(names), inventory)
        finally:
            gone = bench.run_playbook(removal(names), inventory)
        for one in (run, gone):
            if one.code:
                sys.exit(f"bench: ended with {one.code}: {'; '.join(bench.count(one.events).bad)}")
        measured[number] = steps(run.events)
    lines, code = report(measured)
    print("\n".join(lines))
    return code


if __name__ == "__main__":
    sys.exit(main())
