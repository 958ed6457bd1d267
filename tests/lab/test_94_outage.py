# SPDX-License-Identifier: Apache-2.0
"""Ten minutes without a part of the site, one part after the other: what waits meanwhile is killed and its host rebooted, and nothing is missing afterwards.

Scenarios outage-broker, outage-link, outage-stream and outage-store, some 16 minutes each (HNAI_OUTAGE_MINUTES). The store is compared with the journals of
the plant. What may be missing lies in front of the collector while that is down, in gaps that it marked; of the line's records, those of the last
seconds before the reboot of the MQTT broker's host (its autosave), which are counted. A sample that was written twice counts once, as every query shows it.
"""
from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
from conftest import Lab
from journals import TICKS_PER_MS, Breaks, compare, compare_replies, foreign, lived, once, unmarked
from plant_view import collector, journal, now_ms, program, source, stored, until
from test_50_faults import heard
from test_61_kafka_health import cluster
from test_61_kafka_health import whole as kafka_whole
from test_62_kafka_roll import TOPIC, load
from test_70_outage import host_away, no_way, problems, recovered, verdict

MINUTES = float(os.environ.get("HNAI_OUTAGE_MINUTES", "10"))
OUTAGE_S = 60 * MINUTES
BEFORE_MS = 20_000
AFTER_MS = 20_000
#: Two brokers are away for so long: less than what a producer of the test waits for an acknowledgement.
BOTH_S = 120.0
#: What waited for ten minutes is in the store, and the view is fresh again, so long after the repair.
DRAINED_S = 420.0
FRESH_S = 10.0
#: Around the death of a collector: what it had read, and what it reads before it is settled.
MARGIN_MS = 15_000
AUTOSAVE_MS = 5_000
SHIPPER = "hnai-telegraf-shipper.service"
KAFKA = "hnai-kafka.service"
RATE = 100

RING = """
import json, os, sys
since, found = float(sys.argv[1]), []
for path in ("/var/lib/hnai/canary/observations.jsonl.1", "/var/lib/hnai/canary/observations.jsonl"):
    if os.path.exists(path):
        with open(path) as stream:
            for line in stream:
                one = json.loads(line)
                if one["time"] >= since:
                    found.append([one["time"], one.get("newest", {}).get("plc1")])
print(json.dumps(found))
"""


# -- faults ---------------------------------------------------------------------------------------------------
def killed(lab: Lab, host: str, unit: str) -> None:
    """SIGKILL to a unit's process; systemd starts it again."""
    before = lab.run(host, "systemctl", "show", "-p", "MainPID", "--value", unit).stdout.strip()
    lab.run(host, "systemctl", "kill", "--kill-whom=main", "--signal=KILL", unit)

    def again() -> bool:
        shown = lab.run(host, "systemctl", "show", "-p", "MainPID,ActiveState", "--value", unit).stdout.split()
        return "active" in shown and not {before, "0"} & set(shown)

    until(f"{unit} is not started again", again, 120, 1)


def up(lab: Lab, host: str, unit: str) -> None:
    """Waits for a unit of a host that boots."""

    def active() -> bool:
        try:
            return lab.run(host, "systemctl", "is-active", unit, timeout=20, check=False).returncode == 0
        except subprocess.TimeoutExpired:  # its answer is lost with its network
            return False

    until(f"{unit} of {host} does not come back", active, 240, 2)


def rebooted(lab: Lab, host: str, unit: str) -> None:
    """The host goes down in an orderly way and boots."""
    lab.podman("restart", "--time", "60", lab.container(host), timeout=180)
    up(lab, host, unit)


@contextmanager
def powerless(lab: Lab, host: str) -> Iterator[None]:
    """The host loses its power, and boots again."""
    try:
        lab.podman("kill", "--signal", "KILL", lab.container(host), timeout=60)
        yield
    finally:
        lab.podman("start", lab.container(host), timeout=120)


def collector_dies(lab: Lab, fault: Callable[[], None]) -> tuple[int, int]:
    """A fault that takes the collector with it: from when to when its samples need not be whole, ms."""
    def again() -> bool:
        try:
            return heard(lab)
        except (AssertionError, subprocess.TimeoutExpired):  # a host that boots has no status yet
            return False

    begin = now_ms()
    fault()
    time.sleep(3)  # the new one writes its status each second
    until("the sources are not heard again", again, 180, 1)
    return begin - MARGIN_MS, now_ms() + MARGIN_MS


def rest_of(start: float, part: float = 1.0) -> None:
    """Sleeps until a part of the outage is over."""
    time.sleep(max(0.0, start + part * OUTAGE_S - time.monotonic()))


# -- what came of it ------------------------------------------------------------------------------------------
def drained(lab: Lab, begin: int, end: int, breaks: Breaks, repaired: float) -> float:
    """Waits until the store has the canary of every second that must be there; seconds since the repair."""
    tag = source(lab, "plc1")["canary"]
    wanted = {
        line["t"] // TICKS_PER_MS for line in journal(lab, "opcua", begin, end)
        if line["tag"] == tag and any(first <= line["t"] // TICKS_PER_MS < last for first, last in lived(begin, end, breaks))
    }
    assert wanted

    def there() -> bool:
        try:
            return wanted <= set(stored(lab, ["plc1"], begin, end, tag)["plc1"].values.get(tag, {}))
        except (AssertionError, subprocess.TimeoutExpired):  # a store that has just booted answers late
            return False

    until("the store does not catch up", there, DRAINED_S, 5)
    took = time.monotonic() - repaired
    time.sleep(10)  # the slowest other way to the store: two flushes of the writer and one of Flink
    return took


def fresh_again(lab: Lab, repaired_ms: int) -> float:
    """Seconds from the repair to the first look of the operator that shows a canary that is not old, and none is old after it."""
    looks = lab.python(lab.groups["canary"][0], RING, str(repaired_ms / 1000))
    old = [at for at, newest in looks if newest is None or at - newest > FRESH_S]
    after = [at for at, _newest in looks if not old or at > old[-1]]
    assert after, "the view is not fresh"
    return after[0] - repaired_ms / 1000


def ages(lab: Lab, begin_ms: int, end_ms: int) -> list[float]:
    """How old the newest canary of the OPC UA server was at each look, s; infinite where the view showed none."""
    looks = lab.python(lab.groups["canary"][0], RING, str(begin_ms / 1000))
    return sorted(at - newest if newest is not None else float("inf") for at, newest in looks if at < end_ms / 1000)


def whole(lab: Lab, begin: int, end: int, breaks: Breaks = (), rebooted_ms: int = 0) -> None:
    """Store and journals are equal but for what cannot be kept."""
    shown = {name: once(series) for name, series in stored(lab, ("plc1", "sep1", "line1"), begin, end + 5_000).items()}
    print("written twice, shown once:", {name: count for name, (_series, count) in shown.items()})
    store = {name: series for name, (series, _count) in shown.items()}

    wells = compare(journal(lab, "opcua", begin, end), source(lab, "plc1")["tags"], store["plc1"], begin, end)
    print("OPC UA:", wells.text())
    assert wells.samples > 100 * (end - begin) / 1000, "hardly anything was produced"
    assert not (wells.twice or wells.wrong or foreign(wells))
    assert not unmarked(wells.missing_at, store["plc1"].values), "something is lost that nobody said"
    lost = [ms for times in wells.missing_at.values() for ms in times]
    outside = [ms for ms in lost if not any(first <= ms < last for first, last in breaks)]
    assert not outside, f"{len(outside)} samples are lost while the collector lived, the first at {min(outside)}"
    print(f"OPC UA: {len(lost)} samples in marked gaps of {len(breaks)} deaths of the collector")

    device = source(lab, "sep1")
    lines = journal(lab, "modbus", begin, end + 4_000)
    for first, last in lived(begin, end, breaks):
        replies, _lags = compare_replies(lines, device["tags"], store["sep1"], first, last, 1000 * device["timeout_s"] + 100)
        print(f"Modbus, {(last - first) / 1000:.0f} s:", replies.text())
        assert replies.whole

    line = compare(journal(lab, "line", begin, end), source(lab, "line1")["tags"], store["line1"], begin, end)
    print("line:", line.text())
    assert not (line.twice or line.wrong or foreign(line))
    late = [ms for times in line.missing_at.values() for ms in times if not rebooted_ms - AUTOSAVE_MS <= ms <= rebooted_ms]
    assert not late, f"{len(late)} records of the line are lost that were no part of an autosave"
    print(f"line: {len(line.missing)} records lost in front of the broker's autosave")


def named(lab: Lab, component: str, host: str, well: Sequence[str]) -> dict[str, Any]:
    """verify fails, names the component on its host, and lets others pass."""
    record = verdict(lab)
    found = problems(record)
    assert (component, host) in found, found
    passed = {one["component"] for one in record["verdicts"] if one["status"] == "pass"}
    assert set(well) <= passed, passed
    return record


def live(lab: Lab) -> None:
    """While the backlog drains the site's live view is as fresh as ever (data-path: the live view is MQTT's, the store's follows the backlog)."""
    run = lab.play("playbooks/verify.yml", "--tags", "mosquitto", timeout=300)
    record = json.loads((lab.state / "verdicts/latest/record.json").read_text(encoding="utf-8"))
    assert {check["status"] for one in record["verdicts"] for check in one["checks"] if check["id"] == "MQ3"} == {"pass"}, run.stdout[-3000:]


def acknowledged(lab: Lab, names: dict[str, str], what: dict[str, Any]) -> None:
    """Whatever was acknowledged to the producers of the load can be read."""
    bootstrap = ",".join(f"{host}:9091" for host in lab.groups["kafka"])
    found = lab.python(lab.groups["kafka"][0], program("host_readback"), bootstrap, TOPIC, "240", *names, timeout=300)
    for name in names:
        read = {number for first, last in found["read"][name] for number in range(first, last + 1)}
        acks = {sequence for sequence, _at in what[name]["acks"]}
        print(f"{name}: {what[name]['counts']}, {len(acks)} acknowledged, {len(acks - read)} lost")
        assert acks <= read, f"acknowledged and lost: {sorted(acks - read)[:5]}"
        assert len(acks) > 0.5 * RATE * (OUTAGE_S - BOTH_S)


# -- the scenarios --------------------------------------------------------------------------------------------
@pytest.mark.scenario("outage-broker")
def test_a_brokers_host_is_away_and_a_second_one_for_a_while(lab: Lab) -> None:
    """While two are away nobody acknowledges, and the shipper's buffer holds what comes: it is killed then."""
    first, away, other = lab.groups["kafka"]
    edge, names = lab.groups["telegraf_shipper"][0], {"a": first}
    kafka_whole(lab)
    try:
        with load(lab, names, RATE) as what:
            begin, start = now_ms() - BEFORE_MS, time.monotonic()
            with host_away(lab, away):
                named(lab, "kafka", away, ("openbao", "mosquitto", "victoriametrics"))
                settled = now_ms()
                rest_of(start, 0.5)
                # Live data go on being fresh while a broker is away.
                seen = ages(lab, settled, now_ms())
                print(f"one broker away: {len(seen)} looks, P95 of the canary's age {seen[int(0.95 * len(seen))]:.1f} s, worst {seen[-1]:.1f} s")
                assert seen[int(0.95 * len(seen))] <= FRESH_S
                with powerless(lab, other):
                    both = time.monotonic()
                    time.sleep(BOTH_S / 3)
                    breaks = [collector_dies(lab, lambda: killed(lab, edge, SHIPPER))]
                    time.sleep(max(0.0, both + BOTH_S - time.monotonic()))
                up(lab, other, KAFKA)
                rest_of(start)
            repaired, repaired_ms = time.monotonic(), now_ms()
            live(lab)
            up(lab, away, KAFKA)
            kafka_whole(lab)
        end = now_ms() + AFTER_MS
        time.sleep(AFTER_MS / 1000 + 1)
        acknowledged(lab, names, what)
        took = drained(lab, begin, end, breaks, repaired)
        print(f"drained {took:.0f} s after the repair, fresh after {fresh_again(lab, repaired_ms):.0f} s")
        whole(lab, begin, end, breaks)
    finally:
        cluster(lab, "delete", {"name": TOPIC})
    recovered(lab)


@pytest.mark.scenario("outage-link")
def test_the_edge_is_cut_off_from_kafka_and_its_host_reboots(lab: Lab) -> None:
    edge = lab.groups["telegraf_shipper"][0]
    begin, start = now_ms() - BEFORE_MS, time.monotonic()
    with no_way(lab, edge, lab.groups["kafka"]):
        time.sleep(40)  # long enough for the flush time-outs, so that the buffer fills
        named(lab, "telegraf", edge, ("openbao", "kafka", "mosquitto"))
        rest_of(start, 0.3)
        breaks = [collector_dies(lab, lambda: killed(lab, edge, SHIPPER))]
        rest_of(start, 0.5)
        rebooted_ms = now_ms()
        breaks.append(collector_dies(lab, lambda: rebooted(lab, edge, SHIPPER)))
        rest_of(start)
    repaired, repaired_ms = time.monotonic(), now_ms()
    live(lab)
    end = now_ms() + AFTER_MS
    time.sleep(AFTER_MS / 1000 + 1)
    took = drained(lab, begin, end, breaks, repaired)
    print(f"drained {took:.0f} s after the repair, fresh after {fresh_again(lab, repaired_ms):.0f} s")
    whole(lab, begin, end, breaks, rebooted_ms)
    recovered(lab)


def topics_wait(lab: Lab, component: str, away: str, unit: str, broker: str) -> None:
    """A reader of Kafka is away, the topics hold what comes: one of the brokers is killed meanwhile, and its host rebooted."""
    losses = {name: one["losses"] for name, one in collector(lab).items()}
    begin, start = now_ms() - BEFORE_MS, time.monotonic()
    with host_away(lab, away):
        time.sleep(90)  # longer than a reader may be late (C3): before, what is away could not be judged, and nothing else has failed yet
        named(lab, component, away, ("openbao", "mosquitto"))
        rest_of(start, 0.3)
        killed(lab, broker, KAFKA)
        rest_of(start, 0.5)
        rebooted(lab, broker, KAFKA)
        rest_of(start)
    repaired, repaired_ms = time.monotonic(), now_ms()
    live(lab)
    up(lab, away, unit)
    end = now_ms() + AFTER_MS
    time.sleep(AFTER_MS / 1000 + 1)
    took = drained(lab, begin, end, [], repaired)
    print(f"drained {took:.0f} s after the repair, fresh after {fresh_again(lab, repaired_ms):.0f} s")
    whole(lab, begin, end)
    assert {name: one["losses"] for name, one in collector(lab).items()} == losses, "the plant's side of the path noticed"
    recovered(lab)


@pytest.mark.scenario("outage-stream")
def test_the_stream_processors_host_is_away(lab: Lab) -> None:
    topics_wait(lab, "flink", lab.groups["flink"][0], "hnai-flink-jobs.service", lab.groups["kafka"][2])


@pytest.mark.scenario("outage-store")
def test_the_stores_host_is_away(lab: Lab) -> None:
    topics_wait(lab, "victoriametrics", lab.groups["victoriametrics"][0], "hnai-telegraf-writer.service", lab.groups["kafka"][0])
