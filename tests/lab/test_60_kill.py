# SPDX-License-Identifier: Apache-2.0
"""The controller dies in the middle of a change of Kafka: the next run finishes it, each broker restarts once, one at a time.

The moment follows from a seed, which is printed so that a failed run can be repeated (killing.py).
"""
from __future__ import annotations

import json
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

from conftest import Lab
from killing import chance, kill_a_run
from units import events, restarts

UNIT = "hnai-kafka.service"
SETTING = "connections.max.reauth.ms"
CHANGED = {"kafka_reauth_ms": 840000}
#: Where the controller may die: the task that it has come to for the n-th time, and up to so many seconds later.
MOMENTS = (
    ("Converge the configuration tree", 1),
    ("Ask for the turn", 1),
    ("Restart the unit", 1),
    ("Wait until the cluster is whole again", 1),
    ("Restart the unit", 2),
    ("Wait until the cluster is whole again", 2),
    ("Restart the unit", 3),
)
LATER_S = 4.0
SEED = 13


def shown(lab: Lab, host: str, *names: str) -> dict[str, str]:
    """Properties of the broker's unit."""
    text = lab.run(host, "systemctl", "show", "-p", ",".join(names), UNIT).stdout
    return dict(line.split("=", 1) for line in text.splitlines())


def setting(lab: Lab, host: str) -> str:
    """The setting in the file that the broker runs."""
    lines = lab.run(host, "cat", "/etc/hnai/kafka/server.properties").stdout.splitlines()
    return next(line.split("=", 1)[1].strip() for line in lines if line.startswith(f"{SETTING}="))


def converge(lab: Lab, extra: dict[str, Any]) -> None:
    """A run that must succeed."""
    run = lab.play("site.yml", "--tags", "kafka", "--skip-tags", "verify", extra=extra, timeout=600)
    assert run.rc == 0, run.stdout[-4000:]


def test_a_killed_change_is_finished_by_the_next_run(lab: Lab, tmp_path: Path) -> None:
    brokers = lab.groups["kafka"]
    seed, draw = chance(SEED)
    (task, number), later_s = draw.choice(MOMENTS), draw.uniform(0, LATER_S)
    print(f"HNAI_SEED={seed}: killed {later_s:.1f} s after task {number} of {task!r} began")
    original = {host: setting(lab, host) for host in brokers}
    assert str(CHANGED["kafka_reauth_ms"]) not in original.values()
    before = {host: shown(lab, host, "InvocationID") for host in brokers}
    since_us = time.time_ns() // 1000
    try:
        argv = ["-i", str(lab.inventory), "site.yml", "--tags", "kafka", "--skip-tags", "verify", "-e", json.dumps(CHANGED)]
        heading = f"TASK [hnai.platform.kafka : {task}]"
        kill_a_run(argv, tmp_path / "killed.log", lambda said: said.count(heading) >= number, later_s, begins=True)
        print("restarts that had begun:", [host for host in brokers if events(lab, host, since_us, UNIT)])
        converge(lab, CHANGED)
        happened = restarts(lab, brokers, UNIT, since_us)
        assert {host: setting(lab, host) for host in brokers} == dict.fromkeys(brokers, str(CHANGED["kafka_reauth_ms"]))
        assert sorted(one.host for one in happened) == sorted(brokers), happened
        for first, second in pairwise(happened):
            assert first.end < second.begin, f"two brokers at once: {first}, {second}"
        after = {host: shown(lab, host, "NRestarts", "InvocationID", "ActiveState") for host in brokers}
        for host in brokers:
            assert after[host]["ActiveState"] == "active"
            assert after[host]["InvocationID"] != before[host]["InvocationID"]
            assert after[host]["NRestarts"] == "0", f"{host}: systemd had to start it again by itself"
    finally:
        converge(lab, {})
    assert {host: setting(lab, host) for host in brokers} == original
    assert sorted(one.host for one in restarts(lab, brokers, UNIT, since_us)) == sorted(2 * brokers)
