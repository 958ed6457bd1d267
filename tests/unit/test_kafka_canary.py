# SPDX-License-Identifier: Apache-2.0
"""The canary against pipes that lose, double, reorder, refuse and hang; and what it leaves behind."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
from fake_time import Time

from ansible_collections.hnai.platform.plugins.module_utils.kafka import canary
from ansible_collections.hnai.platform.plugins.module_utils.kafka.state import KafkaError, Unreachable
from ansible_collections.hnai.platform.plugins.module_utils.verdict import Check, Report

NOW = 1_800_000_000.0


class Pipe:
    """Acknowledges at once and delivers after `delay_s`; `spoil(number)` says what becomes of a record."""

    def __init__(self, time: Time, spoil: Callable[[int], str], delay_s: float = 0.01) -> None:
        self.time = time
        self.spoil = spoil
        self.delay_s = delay_s
        self.flying: list[tuple[float, int, bytes]] = []
        self.committed = False
        self.closed = False

    def send(self, partition: int, value: bytes, done: Callable[[Exception | None], None]) -> None:
        what = self.spoil(json.loads(value)["sequence"])
        if what == "raise":
            raise KafkaError("send: no")
        if what == "mute":
            return
        done(ValueError("NotEnoughReplicas") if what == "refuse" else None)
        if what in ("refuse", "lose"):
            return
        late = 0.2 if what == "late" else 0.0
        self.flying.append((self.time.now + self.delay_s + late, partition, value))
        if what == "double":
            self.flying.append((self.time.now + self.delay_s + 0.1, partition, value))
        if what == "foreign":
            self.flying.append((self.time.now + self.delay_s, partition, b"not ours"))

    def poll(self, limit_s: float) -> list[tuple[int, bytes]]:
        self.time.now += limit_s
        ready = sorted(item for item in self.flying if item[0] <= self.time.now)
        self.flying = [item for item in self.flying if item[0] > self.time.now]
        return [(partition, value) for _at, partition, value in ready]

    def commit(self) -> None:
        self.committed = True
        self.time.now += 0.05

    def close(self) -> None:
        self.closed = True


@dataclasses.dataclass
class Cluster:
    """Topics and groups by name."""

    brokers: tuple[int, ...] = (1, 2, 3)
    topics: list[str] = dataclasses.field(default_factory=lambda: ["ot.raw"])
    groups: list[str] = dataclasses.field(default_factory=lambda: ["flink-normalise"])
    stubborn: bool = False
    lead: Mapping[int, int] | None = None
    made: dict[int, list[int]] = dataclasses.field(default_factory=dict)

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_unused: object) -> None:
        return None

    def broker_ids(self) -> list[int]:
        return list(self.brokers)

    def topic_names(self) -> list[str]:
        return list(self.topics)

    def group_names(self) -> list[str]:
        return list(self.groups)

    def create_assigned(self, name: str, replicas: Mapping[int, Sequence[int]], config: Mapping[str, str]) -> None:
        self.topics.append(name)
        self.groups.append(name)
        self.made = {number: list(nodes) for number, nodes in replicas.items()}

    def leaders(self, name: str) -> dict[int, int]:
        return dict(self.lead) if self.lead else {number: nodes[0] for number, nodes in self.made.items()}

    def delete_topics(self, names: Sequence[str]) -> None:
        if not self.stubborn:
            self.topics = [one for one in self.topics if one not in names]

    def delete_groups(self, names: Sequence[str]) -> None:
        self.groups = [one for one in self.groups if one not in names]


def fly(spoil: Callable[[int], str] = lambda n: "", cluster: Cluster | None = None, delay_s: float = 0.01,
        **plan: Any) -> tuple[dict[tuple[str, str], Check], Cluster, list[Pipe]]:
    time, cluster, pipes = Time(), cluster or Cluster(), []
    report = Report("kafka", deadline_s=60.0, clock=time.clock)

    def open_pipe(topic: str, partitions: Sequence[int], limit_s: float) -> Pipe:
        assert topic in cluster.topics
        pipes.append(Pipe(time, spoil, delay_s))
        return pipes[-1]

    flight = canary.Canary(report, canary.Plan((1, 2, 3), **plan), lambda limit_s: cluster, open_pipe, time.clock, lambda: NOW, time.sleep, "abcd")
    flight.run()
    return {(check.id, check.subject): check for check in report.checks}, cluster, pipes


def statuses(found: Mapping[tuple[str, str], Check]) -> dict[str, str]:
    return {f"{name} {subject}".strip(): check.status for (name, subject), check in found.items()}


GOOD = {"C1": "pass", "C1 latency": "pass", "C2": "pass", "C1 cleanup": "pass"}


def test_a_whole_flight() -> None:
    found, cluster, pipes = fly()
    assert statuses(found) == GOOD
    assert (cluster.topics, cluster.groups) == (["ot.raw"], ["flink-normalise"])
    assert pipes[0].committed and pipes[0].closed
    assert found["C1", ""].observed == {"sent": 203, "acknowledged": 203, "received": 203, "lost": 0, "duplicated": 0, "reordered": 0, "foreign": 0}
    assert found["C1", "latency"].evidence["n"] == 200
    assert 10 <= found["C1", "latency"].evidence["rtt_ms"]["p50"] <= 20


@pytest.mark.parametrize(
    ("what", "key"),
    [("lose", "lost"), ("double", "duplicated"), ("late", "reordered"), ("foreign", "foreign")],
)
def test_each_fault_is_counted_as_itself(what: str, key: str) -> None:
    found, cluster, _pipes = fly(lambda number: what if number == 50 else "")
    seen = found["C1", ""]
    assert seen.status == "fail"
    assert {name: seen.observed[name] for name in ("lost", "duplicated", "reordered", "foreign")} == {
        **dict.fromkeys(("lost", "duplicated", "reordered", "foreign"), 0), key: 1}
    assert cluster.topics == ["ot.raw"]


@pytest.mark.parametrize("what", ["refuse", "raise", "mute"])
def test_a_record_that_is_not_acknowledged_fails_and_is_not_lost(what: str) -> None:
    found, _cluster, _pipes = fly(lambda number: what if number == 50 else "")
    seen = found["C1", ""]
    assert (seen.status, seen.observed["lost"], seen.observed["acknowledged"]) == ("fail", 0, 202)


def test_slow_is_named_by_the_latency_alone() -> None:
    assert statuses(fly(delay_s=3.0)[0]) == {**GOOD, "C1 latency": "fail"}
    assert statuses(fly(commit_ms=10.0)[0]) == {**GOOD, "C2": "fail"}
    assert statuses(fly(records=20)[0]) == {**GOOD, "C1 latency": "inconclusive"}


def test_the_first_record_of_a_partition_is_not_timed() -> None:
    account = canary.Account(warm=1)
    account.sent = {(0, 0): 0.0, (0, 1): 5.0}
    assert account.latencies({(0, 0): 4.0, (0, 1): 5.5}) == {"p50": 500.0, "p95": 500.0, "p99": 500.0, "max": 500.0}


def test_a_broker_that_leads_nothing_leaves_it_open() -> None:
    found, _cluster, _pipes = fly(cluster=Cluster(lead={0: 1, 1: 1, 2: 3}))
    assert found["C1", ""].status == "inconclusive"


def test_what_is_lost_is_lost_whoever_leads() -> None:
    found, _cluster, _pipes = fly(lambda number: "lose" if number == 50 else "", cluster=Cluster(lead={0: 1, 1: 1, 2: 3}))
    assert (found["C1", ""].status, found["C1", ""].reason) == ("fail", "lost 1")


def test_a_broker_that_does_not_know_the_topic_yet_is_asked_again() -> None:
    class Slow(Cluster):
        asked = 0

        def leaders(self, name: str) -> dict[int, int]:
            self.asked += 1
            return super().leaders(name) if self.asked > 3 else {}

    assert statuses(fly(cluster=Slow())[0]) == GOOD


def test_placement() -> None:
    assert canary.placement([2, 1, 3]) == ({0: [1, 2, 3], 1: [2, 3, 1], 2: [3, 1, 2]}, {"min.insync.replicas": "2", "retention.ms": "3600000"})
    assert canary.placement([7]) == ({0: [7]}, {"min.insync.replicas": "1", "retention.ms": "3600000"})
    assert canary.placement([1, 2])[1]["min.insync.replicas"] == "1"


def test_what_a_killed_canary_left_is_swept_and_one_that_flies_is_not() -> None:
    dead, alive = canary.name(NOW - 1, "dead"), canary.name(NOW + 1, "alive")
    foreign = "hnai.canary.of.somebody"
    found, cluster, _pipes = fly(cluster=Cluster(topics=["ot.raw", dead, alive, foreign], groups=["flink-normalise", dead, alive]))
    assert statuses(found) == GOOD
    assert (cluster.topics, cluster.groups) == (["ot.raw", alive, foreign], ["flink-normalise", alive])
    assert found["C1", ""].evidence["swept"] == [dead]


def test_its_name_lives_as_long_as_it_may_fly() -> None:
    seen: list[str] = []

    class Watching(Cluster):
        def create_assigned(self, name: str, replicas: Mapping[int, Sequence[int]], config: Mapping[str, str]) -> None:
            seen.append(name)
            super().create_assigned(name, replicas, config)

    fly(cluster=Watching())
    assert not canary.expired(seen, NOW + 60.0)
    assert canary.expired(seen, NOW + 120.0) == seen


def test_what_stays_behind_is_said() -> None:
    found, _cluster, _pipes = fly(cluster=Cluster(stubborn=True))
    assert statuses(found) == {**GOOD, "C1 cleanup": "fail"}


def test_it_cleans_up_when_the_pipe_breaks() -> None:
    time, cluster = Time(), Cluster()
    report = Report("kafka", deadline_s=60.0, clock=time.clock)

    def broken(topic: str, partitions: Sequence[int], limit_s: float) -> Pipe:
        raise Unreachable("no broker answers")

    canary.Canary(report, canary.Plan((1, 2, 3)), lambda limit_s: cluster, broken, time.clock, lambda: NOW, time.sleep, "abcd").run()
    assert {check.id + check.subject: check.status for check in report.checks} == {
        "C1": "inconclusive", "C1latency": "inconclusive", "C2": "inconclusive", "C1cleanup": "pass"}
    assert (cluster.topics, cluster.groups) == (["ot.raw"], ["flink-normalise"])


class Forgetful(Cluster):
    """Nobody coordinates groups: neither are positions kept nor groups deleted."""

    def delete_groups(self, names: Sequence[str]) -> None:
        raise KafkaError("delete_groups: CoordinatorNotAvailableError")


def test_a_position_that_is_refused_is_said_of_positions_and_hides_no_record(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(pipe: Pipe) -> None:
        raise KafkaError("commit: no")

    monkeypatch.setattr(Pipe, "commit", refuse)
    found, cluster, _pipes = fly(lambda number: "lose" if number == 50 else "", cluster=Forgetful())
    assert (found["C1", ""].status, found["C1", ""].reason) == ("fail", "lost 1")
    assert (found["C2", ""].status, found["C2", ""].reason) == ("fail", "commit: no")
    assert found["C1", "cleanup"].status == "fail", "its group is still there"
    assert cluster.topics == ["ot.raw"]
    assert statuses(fly(cluster=Forgetful())[0])["C1"] == "pass"


def test_what_cannot_be_swept_keeps_no_canary_from_flying() -> None:
    dead = canary.name(NOW - 1, "dead")
    found, cluster, _pipes = fly(cluster=Forgetful(topics=["ot.raw", dead], groups=[dead]))
    assert found["C1", ""].status == "pass"
    assert found["C1", ""].evidence["swept"] == [dead]
    assert cluster.topics == ["ot.raw"]


def test_a_cluster_that_cannot_be_asked_is_inconclusive() -> None:
    def nobody(limit_s: float) -> Cluster:
        raise Unreachable("no broker answers")

    time = Time()
    report = Report("kafka", deadline_s=60.0, clock=time.clock)
    canary.Canary(report, canary.Plan((1,)), nobody, lambda *a: Pipe(time, str), time.clock, lambda: NOW, time.sleep, "abcd").run()
    assert {check.status for check in report.checks} == {"inconclusive"}


def test_in_check_mode_nothing_flies() -> None:
    report = Report("kafka", deadline_s=60.0)
    canary.not_flown(report, "check mode")
    assert {check.status for check in report.checks} == {"skipped"}
