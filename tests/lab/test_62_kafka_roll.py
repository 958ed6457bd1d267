# SPDX-License-Identifier: Apache-2.0
"""Kafka is changed under load: at least 1000 messages a second are acknowledged meanwhile, none of them is lost, and nobody waits for more than 10 s.

Scenario kafka-roll. Two producers write every acknowledgement to disk on hosts of their own; afterwards a fresh consumer reads from the earliest record.
Then a broker is broken by its configuration under the same load: the run stops there, and the next one repairs it before it touches another.
"""
from __future__ import annotations

import json
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import pytest
from conftest import Lab
from plant_view import program, until
from test_61_kafka_health import cluster
from units import STARTED, STOPPING, events, restarts

UNIT = "hnai-kafka.service"
pytestmark = pytest.mark.scenario("kafka-roll")
TOPIC = "hnai.test.load"
RATE = 650
GAP_S = 10.0
STOP = "/run/hnai-test-stop"
RUN_S = 900
CHANGED = {"kafka_reauth_ms": 840000}
#: TEST-NET-1: no host has it, and Kafka's own reader of the file finds nothing wrong with it.
BROKEN = {"kafka_roll_timeout_s": 90, "kafka_bind_address": "{{ '192.0.2.1' if inventory_hostname == groups['kafka'][1] else '' }}"}


def journal(name: str) -> str:
    """Where a producer keeps what was acknowledged to it."""
    return f"/run/hnai-test-{name}.acks"


@contextmanager
def load(lab: Lab, names: dict[str, str], rate: int = RATE) -> Iterator[dict[str, Any]]:
    """Producers ({name: host}) while the body runs; afterwards `what` holds {name: {"counts", "acks": [(sequence, seconds)]}}."""
    bootstrap = ",".join(f"{host}:9091" for host in lab.groups["kafka"])
    nodes = [lab.var(host, "kafka_node_id") for host in lab.groups["kafka"]]
    replicas = {str(n): nodes[n % 3:] + nodes[:n % 3] for n in range(6)}
    cluster(lab, "topic", {"name": TOPIC, "replicas": replicas, "config": {"min.insync.replicas": "2"}})
    running: dict[str, subprocess.Popen[str]] = {}
    what: dict[str, Any] = {}
    for name, host in names.items():
        lab.run(host, "rm", "-f", STOP, journal(name))
        command = ["ssh", "-F", str(lab.state / "ssh/config"), host, f"sudo -n /usr/bin/python3 - {bootstrap} {TOPIC} {name} {rate} {journal(name)} {STOP}"]
        running[name] = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        stream = running[name].stdin
        assert stream is not None
        stream.write(program("host_produce"))
        stream.close()
    try:
        for name, host in names.items():
            until(f"{name}: nothing is acknowledged", lambda host=host, name=name: lab.run(  # type: ignore[misc]
                host, "sh", "-c", f"test -s {journal(name)}", check=False).returncode == 0, 60)
        yield what
    finally:
        for host in names.values():
            lab.run(host, "touch", STOP)
        for name, process in running.items():
            stdout = process.stdout
            assert stdout is not None
            process.wait(timeout=300)
            what[name] = {"counts": json.loads(stdout.read() or "{}")}
    for name, host in names.items():
        lines = lab.run(host, "cat", journal(name), timeout=120).stdout.splitlines()
        what[name]["acks"] = [(int(line.split()[0]), float(line.split()[1])) for line in lines]
        lab.run(host, "rm", "-f", STOP, journal(name))


def account(lab: Lab, names: dict[str, str], what: dict[str, Any]) -> None:
    """Nothing acknowledged is missing, nothing came twice, no gap, and the rate was there."""
    bootstrap = ",".join(f"{host}:9091" for host in lab.groups["kafka"])
    found = lab.python(lab.groups["kafka"][0], program("host_readback"), bootstrap, TOPIC, "240", *names, timeout=300)
    times: list[float] = []
    for name in names:
        counts, acks = what[name]["counts"], what[name]["acks"]
        read = {number for first, last in found["read"][name] for number in range(first, last + 1)}
        lost = sorted({sequence for sequence, _at in acks} - read)
        moments = sorted(at for _sequence, at in acks)
        gap = max((later - earlier for earlier, later in pairwise(moments)), default=float("inf"))
        print(f"{name}: {counts}, journalled {len(acks)}, read {len(read)}, lost {len(lost)}, longest gap {gap:.2f} s")
        assert not lost, f"{name}: {len(lost)} acknowledged records are lost, such as {lost[:5]}"
        assert counts["failed"] == 0, counts
        assert gap <= GAP_S, f"{name}: nothing was acknowledged for {gap:.1f} s"
        times += moments
    assert found["twice"] == 0, found
    seconds = Counter(int(at) for at in times)
    span = max(times) - min(times)
    print("acknowledged per second:", [seconds[second] for second in range(int(min(times)), int(max(times)) + 1)])
    assert len(times) / span >= 1000, f"{len(times) / span:.0f} a second over {span:.0f} s"


def converge(lab: Lab, extra: dict[str, Any]) -> Any:
    """One run of the component."""
    return lab.play("site.yml", "--tags", "kafka", "--skip-tags", "verify", extra=extra, timeout=RUN_S)


def stops(lab: Lab, host: str, since_us: int) -> list[int]:
    """When a broker was told to stop since an instant, us since 1970."""
    return [at for at, _unit, what in events(lab, host, since_us, UNIT) if what == STOPPING]


def last_start(lab: Lab, host: str, since_us: int) -> int:
    """When a broker started last, us since 1970."""
    return max(at for at, _unit, what in events(lab, host, since_us, UNIT) if what == STARTED)


def test_a_change_rolls_under_load_and_a_broken_broker_is_repaired_first(lab: Lab) -> None:
    brokers = lab.groups["kafka"]
    names = {"a": brokers[0], "b": brokers[2]}
    try:
        with load(lab, names) as what:
            since = time.time_ns() // 1000
            run = converge(lab, CHANGED)
            assert run.rc == 0, run.stdout[-3000:]
            happened = restarts(lab, brokers, UNIT, since)
            assert sorted(one.host for one in happened) == sorted(brokers), happened
            for first, second in pairwise(happened):
                assert first.end < second.begin, f"two brokers at once: {first}, {second}"

            # A broker that cannot bind: the run stops at it, with one broker down and two untouched.
            since = time.time_ns() // 1000
            run = converge(lab, {**CHANGED, **BROKEN})
            assert run.rc != 0, "a broker that cannot bind was taken for whole"
            assert [host for host in brokers if stops(lab, host, since)] == [brokers[1]]

            # The next run brings the right address, and one more change for everybody.
            since = time.time_ns() // 1000
            run = converge(lab, {})
            assert run.rc == 0, run.stdout[-3000:]
            back = last_start(lab, brokers[1], since)
            touched = {host: stops(lab, host, since) for host in (brokers[0], brokers[2])}
            assert all(len(moments) == 1 for moments in touched.values()), touched
            assert back < min(moments[0] for moments in touched.values()), "a healthy broker was touched before the broken one was back"
        account(lab, names, what)
    finally:
        converge(lab, {})
        cluster(lab, "delete", {"name": TOPIC})
