# SPDX-License-Identifier: Apache-2.0
"""The controller dies in the middle of a change of Kafka: the next run finishes it, each broker restarts once, one at a time.

HNAI_SEED: the moment of the kill follows from it; printed, so that a failed run can be repeated.
"""
from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from dataclasses import dataclass
from typing import Any

from conftest import ROOT, Lab

UNIT = "hnai-kafka.service"
SETTING = "connections.max.reauth.ms"
CHANGED = {"kafka_reauth_ms": 840000}
#: Seconds after the start of the run: from before the first file changes until the last broker restarts.
KILL_BETWEEN_S = (8.0, 75.0)
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


def killed_run(lab: Lab, after_s: float) -> bool:
    """Starts the change and kills the controller with all its workers; False where it had finished before."""
    argv = command("-i", str(lab.inventory), "-e", json.dumps(CHANGED))
    with subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True) as process:
        try:
            process.wait(after_s)
            return False
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return True


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


def converge(lab: Lab, extra: dict[str, Any]) -> list[str]:
    """A run that must succeed; what it changed."""
    run = lab.play("site.yml", "--tags", "kafka", "--skip-tags", "verify", extra=extra, timeout=RUN_S)
    assert run.rc == 0, run.stdout[-4000:]
    return run.changed()


def test_a_killed_change_is_finished_by_the_next_run(lab: Lab) -> None:
    brokers = lab.groups["kafka"]
    seed = int(os.environ.get("HNAI_SEED") or random.SystemRandom().randrange(1_000_000))
    after_s = random.Random(seed).uniform(*KILL_BETWEEN_S)
    print(f"HNAI_SEED={seed}: killed {after_s:.1f} s after its start")
    original = {host: setting(lab, host) for host in brokers}
    assert str(CHANGED["kafka_reauth_ms"]) not in original.values()
    before = {host: shown(lab, host, "InvocationID") for host in brokers}
    since_us = time.time_ns() // 1000
    try:
        killed = killed_run(lab, after_s)
        at_kill = restarts_begun(lab, since_us)
        print(f"killed: {killed}; brokers that were being restarted or had been: {at_kill}")
        converge(lab, CHANGED)
        happened = restarts(lab, since_us)
        assert {host: setting(lab, host) for host in brokers} == dict.fromkeys(brokers, str(CHANGED["kafka_reauth_ms"]))
        assert sorted(one.host for one in happened) == sorted(brokers), happened
        for first, second in zip(happened, happened[1:], strict=False):
            assert first.end < second.begin, f"two brokers at once: {first}, {second}"
        after = {host: shown(lab, host, "NRestarts", "InvocationID", "ActiveState") for host in brokers}
        for host in brokers:
            assert after[host]["ActiveState"] == "active"
            assert after[host]["InvocationID"] != before[host]["InvocationID"]
            assert after[host]["NRestarts"] == "0", f"{host}: systemd had to start it again by itself"
        # Nothing is left to do.
        assert converge(lab, CHANGED) == []
        assert killed, "the change was faster than the kill: lower KILL_BETWEEN_S"
    finally:
        converge(lab, {})
    assert {host: setting(lab, host) for host in brokers} == original
    assert sorted(one.host for one in restarts(lab, since_us)) == sorted(2 * brokers)


def restarts_begun(lab: Lab, since_us: int) -> list[str]:
    """Brokers whose restart began; the last one may still be under way."""
    return [host for host in lab.groups["kafka"] if events(lab, host, since_us)]
