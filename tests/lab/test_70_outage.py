# SPDX-License-Identifier: Apache-2.0
"""Two minutes without a broker's host, two minutes without Kafka: the verdict names who is missing, and afterwards nothing is missing."""
from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from conftest import Lab
from journals import TICKS_PER_MS, compare, compare_replies
from plant_view import collector, journal, now_ms, source, stored, until

OUTAGE_S = 120
BEFORE_MS = 20_000
AFTER_MS = 20_000
#: Everything that waited has to be in the store by then.
DRAINED_S = 240


def verdict(lab: Lab) -> dict[str, Any]:
    """A quick verdict that fails: its record."""
    run = lab.play("playbooks/verify.yml", timeout=400)
    record = json.loads((lab.state / "verdicts/latest/record.json").read_text(encoding="utf-8"))
    assert run.rc != 0, "verify passes while a part of the site is away"
    assert record["verdict"] == "fail", record["verdict"]
    return record


def problems(record: dict[str, Any]) -> set[tuple[str, str]]:
    """{(component, host)} of all that fails or could not be judged."""
    return {(problem["component"], problem["host"]) for problem in record["problems"]}


@contextmanager
def host_away(lab: Lab, host: str) -> Iterator[None]:
    """The host is shut down, and boots again."""
    try:
        lab.podman("stop", "--time", "60", lab.container(host), timeout=120)
        yield
    finally:
        lab.podman("start", lab.container(host), timeout=120)


@contextmanager
def no_way(lab: Lab, origin: str, targets: list[str]) -> Iterator[None]:
    """The router drops everything from a host to others, established flows too; nothing is told to either side."""
    router, comment = lab.groups["routers"][0], "hnai-test-outage"
    table = ["inet", "hnai", "forward"]
    try:
        for family, version in (("ip", "v4"), ("ip6", "v6")):
            there = ", ".join(lab.var(target, "hnai_addresses")[version] for target in targets)
            match = [family, "saddr", lab.var(origin, "hnai_addresses")[version], family, "daddr", "{ " + there + " }"]
            lab.run(router, "nft", "insert", "rule", *table, *match, "counter", "drop", "comment", f'"{comment}"')
        yield
    finally:
        for line in lab.run(router, "nft", "-a", "list", "chain", *table).stdout.splitlines():
            if comment in line:
                lab.run(router, "nft", "delete", "rule", *table, "handle", line.rsplit(" ", 1)[1])
        assert comment not in lab.run(router, "nft", "list", "chain", *table).stdout


def rest_of(begin: float) -> None:
    """Sleeps until the outage is as long as declared."""
    time.sleep(max(0.0, begin + OUTAGE_S - time.monotonic()))


def drained(lab: Lab, since: int, until_ms: int) -> None:
    """Waits until the store holds the canary of every second of the window, so that the rest has arrived too."""
    wanted = {line["t"] // TICKS_PER_MS for line in journal(lab, "opcua", since, until_ms) if line["tag"] == "canary_sequence"}
    assert len(wanted) > OUTAGE_S

    def there() -> bool:
        return wanted <= set(stored(lab, ["plc1"], since, until_ms)["plc1"].values.get("canary_sequence", {}))

    until("the store does not catch up", there, DRAINED_S, 5)
    time.sleep(10)  # the slowest other way to the store: two flushes of the writer and one of Flink


def whole(lab: Lab, begin: int, end: int) -> None:
    """Journals and store are equal over the window."""
    sources = ("plc1", "sep1", "line1")
    store = stored(lab, sources, begin, end + 5_000)
    wells = compare(journal(lab, "opcua", begin, end), source(lab, "plc1")["tags"], store["plc1"], begin, end)
    print("OPC UA:", wells.text())
    device = source(lab, "sep1")
    lines = journal(lab, "modbus", begin, end + 4_000)
    replies, _lags = compare_replies(lines, device["tags"], store["sep1"], begin, end, 1000 * device["timeout_s"] + 100)
    print("Modbus:", replies.text())
    line = compare(journal(lab, "line", begin, end), source(lab, "line1")["tags"], store["line1"], begin, end)
    print("line:", line.text())
    assert wells.samples > 100 * (end - begin) / 1000, "hardly anything was produced"
    assert wells.whole and replies.whole and line.whole


def recovered(lab: Lab) -> None:
    """The site passes its own verdict again."""

    def passes() -> bool:
        return lab.play("playbooks/verify.yml", timeout=400).rc == 0

    until("the verdict does not pass again", passes, 240, 5)


@pytest.mark.scenario("outage")
def test_a_brokers_host_is_away_for_two_minutes(lab: Lab) -> None:
    away = lab.groups["kafka"][1]
    losses = {name: one["losses"] for name, one in collector(lab).items()}
    begin = now_ms() - BEFORE_MS
    start = time.monotonic()
    with host_away(lab, away):
        record = verdict(lab)
        found = problems(record)
        assert ("kafka", away) in found, found
        # The others say it too: their cluster is not whole. What does not stand on that host goes on.
        assert {"openbao", "mosquitto", "victoriametrics"} <= {v["component"] for v in record["verdicts"] if v["status"] == "pass"}
        rest_of(start)
    until("the host does not come back", lambda: lab.run(away, "systemctl", "is-active", "hnai-kafka.service", check=False).returncode == 0, 180, 3)
    end = now_ms() + AFTER_MS
    time.sleep(AFTER_MS / 1000 + 1)
    drained(lab, begin, end)
    whole(lab, begin, end)
    assert {name: one["losses"] for name, one in collector(lab).items()} == losses, "the plant's side of the path noticed"
    recovered(lab)


@pytest.mark.scenario("outage")
def test_the_edge_is_cut_off_from_kafka_for_two_minutes(lab: Lab) -> None:
    edge = lab.groups["telegraf_shipper"][0]
    begin = now_ms() - BEFORE_MS
    start = time.monotonic()
    with no_way(lab, edge, lab.groups["kafka"]):
        time.sleep(40)  # long enough for the flush time-outs, so that the buffer fills
        record = verdict(lab)
        found = problems(record)
        assert ("telegraf", edge) in found, found
        passed = {v["component"] for v in record["verdicts"] if v["status"] == "pass"}
        assert {"openbao", "kafka", "mosquitto"} <= passed, passed
        rest_of(start)
    end = now_ms() + AFTER_MS
    time.sleep(AFTER_MS / 1000 + 1)
    drained(lab, begin, end)
    whole(lab, begin, end)
    recovered(lab)
