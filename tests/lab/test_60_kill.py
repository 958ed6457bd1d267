# SPDX-License-Identifier: Apache-2.0
"""The controller dies in the middle of a change of Kafka: the next run finishes it, each broker restarts once, one at a time.

The moment of the kill follows from a seed, which is printed so that a failed run can be repeated: the same in every run,
another with HNAI_SEED=<number>, a new one with HNAI_SEED=random.
"""
from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from conftest import ROOT, Lab
from plant_view import until

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
RUN_S = 600
#: systemd's own ids of "begins to stop" and "has started" (systemd.journal-fields(7), sd-messages.h).
STOPPING, STARTED = "de5b426a63be47a7b6ac3eaac82e2f6f", "39f53479d3a045ac8e11786248231fbf"


@dataclass(frozen=True)
class Restart:
    """One restart of a broker: from the order to stop to the start, us since 1970."""

    host: str
    begin: int
    end: int


def command(*more: str) -> list[str]:
    """The change as an operator makes it."""
    return [str(ROOT / ".venv/bin/ansible-playbook"), "site.yml", "--tags", "kafka", "--skip-tags", "verify", *more]


def kill_a_run(lab: Lab, output: Path, task: str, number: int, later_s: float) -> None:
    """Starts the change and kills the controller with all its workers, *later_s* after a task began for the *number*-th time."""
    argv = command("-i", str(lab.inventory), "-e", json.dumps(CHANGED))
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "ANSIBLE_NOCOLOR": "1"}
    with output.open("wb") as stream, subprocess.Popen(
        argv, cwd=ROOT, env=environment, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True
    ) as process:
        try:

            def reached() -> bool:
                text = output.read_text(encoding="utf-8", errors="replace")
                assert process.poll() is None, f"the run ended by itself:\n{text[-3000:]}"
                return text.count(f"TASK [hnai.platform.kafka : {task}]") >= number

            until(f"the run does not come to {task}, {number}", reached, RUN_S, 0.05)
            time.sleep(later_s)  # the seeded moment
            assert process.poll() is None, "the run was over before the kill"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def events(lab: Lab, host: str, since_us: int) -> list[tuple[int, str]]:
    """[(us since 1970, STOPPING or STARTED)] of the broker's unit, from the host's journal."""
    wanted = [f"MESSAGE_ID={STOPPING}", f"MESSAGE_ID={STARTED}"]
    argv = ["journalctl", "-o", "json", "--no-pager", f"--since=@{since_us / 1e6:.6f}", f"UNIT={UNIT}", wanted[0], "+", f"UNIT={UNIT}", wanted[1]]
    found = []
    for line in lab.run(host, *argv).stdout.splitlines():
        entry = json.loads(line)
        found.append((int(entry["__REALTIME_TIMESTAMP"]), entry["MESSAGE_ID"]))
    return sorted(found)


def restarts(lab: Lab, since_us: int) -> list[Restart]:
    """Every restart of a broker since an instant, by time."""
    found = []
    for host in lab.groups["kafka"]:
        begin: int | None = None
        for at, what in events(lab, host, since_us):
            if what == STOPPING:
                begin = at
            else:
                assert begin is not None, f"{host}: started without having been stopped"
                found.append(Restart(host, begin, at))
                begin = None
        assert begin is None, f"{host}: stopped and not started"
    return sorted(found, key=lambda one: one.begin)


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
    run = lab.play("site.yml", "--tags", "kafka", "--skip-tags", "verify", extra=extra, timeout=RUN_S)
    assert run.rc == 0, run.stdout[-4000:]


def test_a_killed_change_is_finished_by_the_next_run(lab: Lab, tmp_path: Path) -> None:
    brokers = lab.groups["kafka"]
    given = os.environ.get("HNAI_SEED") or str(SEED)
    seed = random.SystemRandom().randrange(1_000_000) if given == "random" else int(given)
    chance = random.Random(seed)
    (task, number), later_s = chance.choice(MOMENTS), chance.uniform(0, LATER_S)
    print(f"HNAI_SEED={seed}: killed {later_s:.1f} s after task {number} of {task!r} began")
    original = {host: setting(lab, host) for host in brokers}
    assert str(CHANGED["kafka_reauth_ms"]) not in original.values()
    before = {host: shown(lab, host, "InvocationID") for host in brokers}
    since_us = time.time_ns() // 1000
    try:
        kill_a_run(lab, tmp_path / "killed.log", task, number, later_s)
        print("restarts that had begun:", [host for host in brokers if events(lab, host, since_us)])
        converge(lab, CHANGED)
        happened = restarts(lab, since_us)
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
    assert sorted(one.host for one in restarts(lab, since_us)) == sorted(2 * brokers)
