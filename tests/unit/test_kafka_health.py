# SPDX-License-Identifier: Apache-2.0
"""Every check of kafka_health turns to fail (or inconclusive) when its cause appears, and only then."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import os
import socket
import ssl
import struct
import subprocess
import threading
import time
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from test_kafka_scram import Broker

from ansible_collections.hnai.platform.plugins.module_utils.kafka import adapter, health, listeners, scram
from ansible_collections.hnai.platform.plugins.module_utils.kafka.acls import Acl
from ansible_collections.hnai.platform.plugins.module_utils.kafka.state import Group, KafkaError, Partition, Position, Quorum, Snapshot, Unreachable, Voter
from ansible_collections.hnai.platform.plugins.module_utils.kafka.topics import Topic
from ansible_collections.hnai.platform.plugins.module_utils.kafka.users import ANCHOR
from ansible_collections.hnai.platform.plugins.module_utils.verdict import Check, Report

NOW = 1_800_000_000_000
CONFIG = ("authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer\nallow.everyone.if.no.acl.found=false\n"
          "super.users=User:kafka1;User:kafka2;User:kafka3\n"
          "ssl.principal.mapping.rules=RULE:^CN=(kafka1|kafka2|kafka3),OU=kafka(,.*)?$/$1/,DEFAULT\ncontroller.quorum.bootstrap.servers=kafka1:9093\n")
CLUSTER_IDS = ("Q1", "Q2", "Q3", "Q4", "Q5", "Q6", "F1", "F2", "F3", "F4", "B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B9", "B10", "B11", "L1", "L2", "C3",
               "S5", "S6", "S7", "S8")
DECLARED = (Acl("User:telegraf-shipper", "topic", "ot.raw", "write"), Acl("User:flink", "topic", "ot.raw", "read"))


def partition(topic: str = "ot.raw", number: int = 0, leader: int = 1, isr: Sequence[int] = (1, 2, 3), replicas: Sequence[int] = (1, 2, 3),
              min_isr: int = 2) -> Partition:
    return Partition(topic, number, leader, tuple(replicas), tuple(isr), min_isr)


def position(committed: int = 90, end: int = 100, due: int = 90, topic: str = "ot.raw") -> Position:
    return Position(topic, 0, committed, end, due)


#: (user, mechanism) as every broker of a whole cluster says.
USERS = {(ANCHOR, "SCRAM-SHA-256"), (ANCHOR, "SCRAM-SHA-512"), ("flink", "SCRAM-SHA-512"), ("telegraf-shipper", "SCRAM-SHA-512")}
ANCHORS = {login for login in USERS if login[0] == ANCHOR}
SHA256 = {login for login in USERS if login[1] == "SCRAM-SHA-256"}


def known(**changes: set[tuple[str, str]] | None) -> dict[int, set[tuple[str, str]]]:
    """Broker → what it knows; b1=… for one that knows something else, None for one that does not say."""
    found = {number: changes.get(f"b{number}", USERS) for number in (1, 2, 3)}
    return {number: one for number, one in found.items() if one is not None}


OFFSETS_TOPIC = Topic("__consumer_offsets", 1, 3, {"cleanup.policy": "compact", "segment.bytes": "104857600"})
RAW = Topic("ot.raw", 3, 3, {"min.insync.replicas": "2"})
READS = Group("flink-normalise", "Empty", "", (position(),))


@dataclasses.dataclass
class Fake:
    """A healthy cluster; tests change one thing."""

    leader: int = 3
    lag_ms: int = 100
    fetch_ms: int = 100
    fenced: tuple[int, ...] = ()
    brokers: tuple[int, ...] = (1, 2, 3)
    voters: tuple[int, ...] = (1, 2, 3)
    partitions: tuple[Partition, ...] = (partition(), partition("__consumer_offsets"))
    moving: tuple[str, ...] = ()
    unclean: str = "false"
    unclean_topics: tuple[str, ...] = ()
    topic: Topic | None = RAW
    offsets: Topic | None = OFFSETS_TOPIC
    limits: Mapping[str, Mapping[str, float]] = dataclasses.field(default_factory=lambda: {"flink": {"consumer_byte_rate": 1e6}})
    over: Mapping[str, str] = dataclasses.field(default_factory=lambda: {"min.insync.replicas": "1"})
    racks: Mapping[int, str] = dataclasses.field(default_factory=lambda: {1: "a", 2: "b", 3: "c"})
    finalized: Mapping[str, int] = dataclasses.field(default_factory=lambda: {"metadata.version": 30, "kraft.version": 1, "transaction.version": 2})
    can: Mapping[str, tuple[int, int]] = dataclasses.field(
        default_factory=lambda: {"metadata.version": (7, 30), "kraft.version": (0, 1), "transaction.version": (0, 2)})
    step: int = 1
    free: int = 50
    dir_error: int = 0
    cordoned: bool = False
    dir_brokers: tuple[int, ...] = (1, 2, 3)
    future: tuple[Mapping[str, int], ...] = ({},)
    group: Group | None = READS
    states: tuple[str, ...] = ()
    entries: tuple[Acl, ...] = DECLARED
    scram: tuple[str, ...] = ("flink", "telegraf-shipper")
    iterations: int = 8192
    known: tuple[Mapping[int, set[tuple[str, str]]], ...] = (known(),)
    silent: tuple[Mapping[int, str], ...] = ({},)
    directory: str = "d1"
    volume: Mapping[str, int] = dataclasses.field(default_factory=lambda: {"read_only": 0, "total_bytes": 100, "usable_bytes": 50})
    looks: int = 0
    dir_looks: int = 0
    group_looks: int = 0

    def snapshot(self) -> Snapshot:
        self.looks += 1
        voters = tuple(Voter(n, f"d{n}", 100, NOW if n == self.leader else NOW - (self.fetch_ms if n == 1 else 100),
                             NOW if n == self.leader else NOW - (self.lag_ms if n == 1 else 100)) for n in self.voters)
        return Snapshot("c", Quorum(self.leader, 5, 100 + self.looks * self.step, voters), {n: n in self.fenced for n in self.brokers}, self.partitions,
                        self.moving, self.racks, self.unclean_topics,
                        {node: found for node, found in self.known[min(self.looks, len(self.known)) - 1].items() if node in self.brokers},
                        self.silent[min(self.looks, len(self.silent)) - 1])

    def features(self) -> dict[str, tuple[int, int]]:
        return {name: (level, 30) for name, level in self.finalized.items()}

    def log_dirs(self) -> list[dict[str, Any]]:
        self.dir_looks += 1
        future = self.future[min(self.dir_looks, len(self.future)) - 1]
        return [{"broker": n, "path": "/d", "error": self.dir_error if n == 2 else 0, "total_bytes": 100, "usable_bytes": self.free if n == 2 else 50,
                 "cordoned": self.cordoned and n == 2, "future": dict(future) if n == 1 else {}} for n in self.dir_brokers]

    def broker_config(self, node: int, keys: Sequence[str]) -> dict[str, str]:
        return dict.fromkeys(keys, self.unclean)

    def set_over_file(self, node: int) -> dict[str, str]:
        return dict(self.over)

    def topics(self, names: Sequence[str]) -> dict[str, Topic]:
        return {one.name: one for one in (self.topic, self.offsets) if one and one.name in names}

    def quotas(self) -> dict[str, dict[str, float]]:
        return {user: dict(values) for user, values in self.limits.items()}

    def acls(self) -> list[Acl]:
        return list(self.entries)

    def users(self) -> dict[str, dict[str, int]]:
        return {name: {"SCRAM-SHA-512": self.iterations} for name in self.scram}

    def groups(self, topics: Mapping[str, Sequence[str]], since_ms: int) -> list[Group]:
        self.group_looks += 1
        if self.group and self.states:
            self.group = dataclasses.replace(self.group, state=self.states[min(self.group_looks, len(self.states)) - 1], protocol="consumer")
        return [self.group] if self.group and self.group.name in topics else []


EXPECTED = health.Expected(
    "kafka1", 1, (1, 2, 3), ("kafka1", "kafka2", "kafka3"), {"telegraf-shipper": 3, "flink": 4}, {"metadata.version": 30, "transaction.version": 2},
    frozenset(DECLARED), {"flink": {"consumer_byte_rate": 1e6}}, (RAW,), {"flink-normalise": ("ot.raw",)}, ("kafka1:9091", "kafka1:9093"))


def local(fake: Fake, config: str = CONFIG, ports: Sequence[int] = ()) -> health.Local:
    return health.Local(lambda: config, lambda: fake.directory, lambda: dict.fromkeys(ports, "00000000"), lambda: fake.volume,
                        lambda address, limit_s: fake.can, lambda keystore: "")


def checks(fake: Fake, config: str = CONFIG, expected: health.Expected = EXPECTED) -> dict[str, Check]:
    report = Report("kafka", deadline_s=None)
    health.Health(report, lambda limit: fake, expected, local(fake, config), sleep=lambda s: None).run([], listeners.Links(listeners.Files("", "", "")))
    return {check.id: check for check in report.checks}


def verdicts(fake: Fake, config: str = CONFIG, expected: health.Expected = EXPECTED) -> dict[str, str]:
    return {name: check.status for name, check in checks(fake, config, expected).items()}


def test_a_healthy_cluster_passes() -> None:
    assert verdicts(Fake()) == dict.fromkeys(CLUSTER_IDS, "pass")


OFFSETS = partition("__consumer_offsets")


@pytest.mark.parametrize(
    ("change", "ids"),
    [
        ({"leader": -1}, {"Q1", "Q3", "Q5", "Q6"}),
        ({"voters": (1, 2)}, {"Q2", "Q3", "Q5", "Q6"}),
        ({"voters": (1, 2, 3, 4)}, {"Q2"}),
        ({"directory": "empty-disk"}, {"Q2"}),
        ({"lag_ms": 2000}, {"Q3", "Q6"}),
        ({"fetch_ms": 10_000}, {"Q5"}),
        ({"step": 0}, {"Q4"}),
        ({"finalized": {"metadata.version": 29, "kraft.version": 1, "transaction.version": 2}}, {"F1"}),
        ({"finalized": {"metadata.version": 30, "kraft.version": 0, "transaction.version": 2}}, {"F2"}),
        ({"finalized": {"metadata.version": 30, "kraft.version": 1, "transaction.version": 1}}, {"F4"}),
        ({"can": {"metadata.version": (7, 27), "kraft.version": (0, 1), "transaction.version": (0, 2)}}, {"F3"}),
        ({"can": {"metadata.version": (7, 30), "transaction.version": (0, 2)}}, {"F3"}),
        ({"fenced": (2,)}, {"B1"}),
        ({"brokers": (1, 3), "dir_brokers": (1, 3)}, {"B1"}),
        ({"brokers": (1, 2, 3, 4), "dir_brokers": (1, 2, 3, 4), "racks": {1: "a", 2: "b", 3: "c", 4: "a"}}, {"B1", "Q5"}),
        ({"brokers": (1, 2, 3, 4), "fenced": (4,), "voters": (1, 2, 3, 4)}, {"B1", "Q2"}),
        ({"partitions": (partition(leader=-1), OFFSETS)}, {"B2"}),
        ({"partitions": (OFFSETS,)}, {"B2"}),
        ({"partitions": (partition(isr=(1,)), OFFSETS)}, {"B3", "B5"}),
        ({"partitions": (partition(isr=(1, 2)), OFFSETS)}, {"B4", "B5"}),
        # All are there, and none may go: somebody asks for every one of them.
        ({"partitions": (partition(min_isr=3), OFFSETS)}, {"B4"}),
        ({"partitions": (partition(isr=(1,), replicas=(1,), min_isr=1), OFFSETS)}, set()),
        ({"partitions": (partition(isr=(1, 2), min_isr=1), OFFSETS)}, {"B5"}),
        ({"partitions": (partition(isr=(1, 2), replicas=(1, 2), min_isr=1), OFFSETS)}, set()),
        ({"partitions": (partition(leader=2), OFFSETS)}, {"B6"}),
        ({"partitions": (partition(), partition("__consumer_offsets", isr=(1,), replicas=(1,), min_isr=1))}, {"B7"}),
        ({"partitions": (partition(), partition("__transaction_state", min_isr=1))}, {"B7"}),
        ({"offsets": dataclasses.replace(OFFSETS_TOPIC, config={"cleanup.policy": "delete", "retention.ms": "60000"})}, {"B7"}),
        ({"offsets": dataclasses.replace(OFFSETS_TOPIC, config={})}, {"B7"}),
        ({"offsets": None}, {"B7"}),
        ({"limits": {}}, {"B11"}),
        ({"limits": {"flink": {"consumer_byte_rate": 1.0}}}, {"B11"}),
        ({"limits": {"flink": {"consumer_byte_rate": 1e6}, "<default>": {"producer_byte_rate": 1.0}}}, {"B11"}),
        ({"unclean": "true"}, {"B8"}),
        ({"unclean_topics": ("ot.raw",)}, {"B8"}),
        ({"moving": ("ot.raw-0",)}, {"B9"}),
        ({"racks": {1: "a", 2: "b"}}, {"B10"}),
        ({"partitions": (partition(isr=(1, 2), replicas=(1, 2), min_isr=1), OFFSETS), "racks": {1: "a", 2: "a", 3: "b"}}, {"B10"}),
        ({"topic": dataclasses.replace(RAW, partitions=1)}, {"B11"}),
        ({"topic": dataclasses.replace(RAW, partitions=4)}, {"B11"}),
        ({"topic": dataclasses.replace(RAW, replication_factor=1)}, {"B11"}),
        ({"topic": dataclasses.replace(RAW, replication_factor=5)}, set()),
        ({"topic": dataclasses.replace(RAW, config={"min.insync.replicas": "1"})}, {"B11"}),
        ({"topic": dataclasses.replace(RAW, config={})}, {"B11"}),
        ({"topic": dataclasses.replace(RAW, config={**RAW.config, "retention.ms": "1000"})}, {"B11"}),
        ({"topic": dataclasses.replace(RAW, config={**RAW.config, "unclean.leader.election.enable": "true"})}, set()),
        ({"over": {"log.retention.ms": "1000"}}, {"B11"}),
        ({"over": {"unclean.leader.election.enable": "true"}}, set()),
        ({"free": 5}, {"L1"}),
        ({"dir_error": 56}, {"L1"}),
        ({"cordoned": True}, {"L1"}),
        ({"volume": {"read_only": 1, "total_bytes": 100, "usable_bytes": 50}}, {"L1"}),
        ({"volume": {"read_only": 0, "total_bytes": 100, "usable_bytes": 9}}, {"L1"}),
        ({"future": ({"ot.raw-0": 7}, {"ot.raw-0": 7})}, {"L2"}),
        ({"future": ({"ot.raw-0": 7}, {"ot.raw-0": 3})}, set()),
        ({"future": ({"ot.raw-0": 7}, {})}, set()),
        ({"group": None}, {"C3"}),
        ({"group": Group("flink-normalise", "Empty", "", (position(committed=80),))}, {"C3"}),
        ({"group": Group("flink-normalise", "Empty", "", (position(due=-1),))}, {"C3"}),
        ({"group": Group("flink-normalise", "Empty", "", (position(committed=100, due=-1),))}, set()),
        ({"group": Group("flink-normalise", "Empty", "", (position(committed=-1),))}, {"C3"}),
        ({"group": Group("flink-normalise", "Empty", "", (position(committed=101),))}, {"C3"}),
        ({"group": Group("flink-normalise", "Empty", "consumer", (position(),))}, {"C3"}),
        ({"group": Group("flink-normalise", "PreparingRebalance", "consumer", (position(),))}, {"C3"}),
        ({"group": Group("flink-normalise", "Stable", "consumer", (position(),))}, set()),
        # All is gone with age, and it never had to read any of it.
        ({"group": Group("flink-normalise", "Empty", "", (dataclasses.replace(position(committed=-1, due=-1), begin=100),))}, set()),
        ({"group": Group("flink-normalise", "Empty", "", (dataclasses.replace(position(committed=-1, due=-1), begin=99),))}, {"C3"}),
        ({"group": Group("flink-normalise", "Empty", "", (dataclasses.replace(position(committed=90, due=-1), begin=100),))}, {"C3"}),
        ({"entries": DECLARED[:1]}, {"S5"}),
        ({"entries": (*DECLARED, Acl("User:flink", "topic", "ot.raw", "write"))}, {"S5"}),
        ({"entries": ()}, {"S5"}),
        ({"scram": ("kafka2",)}, {"S7"}),
        ({"scram": ("flink", "eve")}, {"S7"}),
        ({"scram": ("flink", ANCHOR)}, set()),
        ({"iterations": 4096}, {"S7"}),
        ({"known": (known(b1=SHA256),)}, {"S8"}),
        ({"known": (known(b1=set()),)}, {"S8"}),
        ({"known": (known(b1=SHA256, b2=None),), "silent": ({2: "timed out"},)}, {"S8"}),
        ({"known": (known(b1=USERS - {(ANCHOR, "SCRAM-SHA-512")}),)}, {"S8"}),
        ({"known": (known(b1=USERS - ANCHORS, b2=USERS - ANCHORS, b3=USERS - ANCHORS),)}, {"S8"}),
        ({"known": (known(b1=set(), b2=set(), b3=set()),)}, {"S8"}),
        ({"known": (known(b2=SHA256, b3=set()),)}, set()),
        ({"known": (known(b1=SHA256), known())}, set()),
        ({"known": (known(), known(b2=USERS | {("new", "SCRAM-SHA-512")}))}, set()),
    ],
    ids=str,
)
def test_one_cause_fails_its_checks_and_no_other(change: dict[str, Any], ids: set[str]) -> None:
    found = verdicts(dataclasses.replace(Fake(), **change))
    assert {name for name, status in found.items() if status != "pass"} == ids
    assert set(found.values()) <= {"pass", "fail"}


@pytest.mark.parametrize("entry", [Acl("User:telegraf-shipper", "topic", "ot.raw", "read"), Acl("User:*", "group", "*", "read")], ids=str)
def test_a_reader_of_level_3_fails_even_if_somebody_declared_it(entry: Acl) -> None:
    found = checks(dataclasses.replace(Fake(), entries=(entry,)), expected=dataclasses.replace(EXPECTED, acls=frozenset([entry])))["S5"]
    assert (found.status, found.observed) == ("fail", 1)


@pytest.mark.parametrize(
    ("change", "ids"),
    [
        ({"partitions": ()}, {"B3", "B4", "B5", "B6"}),
        ({"dir_brokers": ()}, {"L1", "L2"}),
        ({"dir_brokers": (1, 3)}, {"L1", "L2"}),
        ({"finalized": {}}, {"F3"}),
        ({"scram": ()}, {"S7"}),
        ({"topic": None}, {"B11"}),
        ({"group": Group("flink-normalise", "Stable", "consumer")}, {"C3"}),
        ({"known": (known(b1=None),), "silent": ({1: "timed out"},)}, {"S8"}),
        ({"known": (known(b1=None),)}, {"S8"}),
        ({"known": (known(b3=None),), "silent": ({3: "timed out"},)}, {"S8"}),
        ({"known": (known(b3=None), known()), "silent": ({3: "timed out"}, {})}, {"S8"}),
        ({"known": (known(b2=None, b3=None),)}, {"S8"}),
    ],
    ids=str,
)
def test_an_empty_answer_is_no_pass(change: dict[str, Any], ids: set[str]) -> None:
    found = verdicts(dataclasses.replace(Fake(), **change))
    assert {name for name, status in found.items() if status == "inconclusive"} == ids


def test_who_was_forgotten_is_named_with_the_brokers() -> None:
    found = checks(dataclasses.replace(Fake(), known=(known(b1=SHA256, b3=USERS - {("flink", "SCRAM-SHA-512")}),)))["S8"]
    assert found.reason == (f"broker 1 does not know user flink SCRAM-SHA-512, {ANCHOR} SCRAM-SHA-512, telegraf-shipper SCRAM-SHA-512, "
                            "which broker 2, 3 does")
    assert found.observed == 3
    bare = checks(dataclasses.replace(Fake(), known=({n: USERS - {(ANCHOR, "SCRAM-SHA-256")} for n in (1, 2, 3)},)))["S8"]
    assert bare.reason == f"broker 1 has no {ANCHOR} for SCRAM-SHA-256: a restart may forget every user of it"
    silent = checks(dataclasses.replace(Fake(), silent=({2: "kafka2:9091: timed out"},)))["S8"]
    assert silent.reason == "broker 2: kafka2:9091: timed out"
    gone = checks(dataclasses.replace(Fake(), known=(known(b1=None),)))["S8"]
    assert gone.reason == "this broker does not say which users it knows: it is not among the live ones"


@pytest.mark.parametrize(("unclean", "topics", "reason"), [
    ("true", (), "the broker allows it"), ("false", ("ot.raw",), "topic ot.raw allows it"), ("true", ("ot.raw",), "the broker and topic ot.raw allows it"),
])
def test_who_allows_an_unclean_election_is_named(unclean: str, topics: tuple[str, ...], reason: str) -> None:
    assert checks(dataclasses.replace(Fake(), unclean=unclean, unclean_topics=topics))["B8"].reason == reason


def test_brokers_that_are_missing_or_strange_are_named() -> None:
    found = checks(dataclasses.replace(Fake(), brokers=(1, 3, 4), fenced=(4,), dir_brokers=(1, 3)))
    assert found["B1"].reason == "broker 2 is not there; broker 4 is declared by nobody"


def test_partitions_are_named() -> None:
    found = checks(dataclasses.replace(Fake(), partitions=(partition(leader=2), OFFSETS), moving=("ot.raw-0", "ot.raw-2")))
    assert (found["B6"].reason, found["B9"].reason) == ("ot.raw-0", "ot.raw-0, ot.raw-2")


def test_what_is_not_as_declared_is_named() -> None:
    changed = dataclasses.replace(RAW, replication_factor=1, config={"retention.ms": "1000"})
    found = checks(dataclasses.replace(Fake(), topic=changed, over={"log.retention.ms": "5", "own": ""}, scram=("kafka2", "eve")))
    assert found["B11"].reason == (
        "ot.raw replication_factor 1 instead of 3; ot.raw min.insync.replicas not set instead of 2; ot.raw retention.ms 1000, which nobody declared; "
        "broker 1 log.retention.ms 5 over its file; broker 1 own (not told) over its file")
    assert found["S7"].reason == "kafka2 has the name of a broker; eve is declared by nobody"
    assert checks(dataclasses.replace(Fake(), scram=("eve",)), expected=dataclasses.replace(EXPECTED, levels={}))["S7"].status == "pass"
    # The other user's rotation changes the mechanism.
    second = dataclasses.replace(EXPECTED, mechanisms={"flink": ["SCRAM-SHA-256"], "flink.b": ["SCRAM-SHA-256"]})
    assert checks(Fake(), expected=second)["S7"].reason == "flink SCRAM-SHA-512 is declared by nobody"
    assert checks(Fake(), expected=dataclasses.replace(second, mechanisms={"flink": ["SCRAM-SHA-512"]}))["S7"].status == "pass"


def test_a_topic_that_nobody_declared_is_named_and_stops_nothing() -> None:
    more = (partition("mine"), partition("mine", 1), partition("hnai.canary.1-a"))
    found = checks(Fake(partitions=(partition(), partition("__consumer_offsets"), *more)))["B11"]
    assert (found.status, found.evidence["undeclared"]) == ("pass", ["mine"])


def test_one_broker_has_nobody_to_compare_with() -> None:
    alone = Fake(brokers=(1,), known=({1: USERS},))
    assert verdicts(alone, expected=dataclasses.replace(EXPECTED, nodes=(1,)))["S8"] == "pass"
    assert verdicts(alone)["S8"] == "inconclusive"


def test_what_is_not_there_to_judge_is_skipped_and_says_why() -> None:
    none = dataclasses.replace(EXPECTED, groups={}, topics=(), features={"metadata.version": 30})
    found = checks(dataclasses.replace(Fake(), racks={}, partitions=(partition(),)), expected=none)
    assert {name: check.reason for name, check in found.items() if check.status == "skipped"} == {
        "B7": "there is none yet: nothing was ever committed", "B10": "no rack is declared", "B11": "no topic is declared", "C3": "no group is declared",
        "F4": "no exactly-once is declared"}


@pytest.mark.parametrize(("states", "reason", "looks"), [
    (("PreparingRebalance", "CompletingRebalance", "Stable"), "", 3),
    (("Assigning", "Reconciling", "Stable"), "", 3),
    (("PreparingRebalance",), "flink-normalise is PreparingRebalance", 15),
    (("PreparingRebalance", "Empty"), "flink-normalise is Empty", 2),
])
def test_a_group_that_shares_its_partitions_out_is_looked_at_again(states: tuple[str, ...], reason: str, looks: int) -> None:
    fake = dataclasses.replace(Fake(), states=states)
    found = checks(fake)["C3"]
    assert (found.status, found.reason) == ("fail" if reason else "pass", reason)
    assert fake.group_looks == looks


def test_a_position_beyond_the_end_is_named() -> None:
    """The log was cut, or the topic made anew: what comes is taken for read."""
    found = checks(dataclasses.replace(Fake(), group=Group("flink-normalise", "Empty", "", (position(committed=101, due=-1),))))["C3"]
    assert found.reason == "flink-normalise stands beyond the end of ot.raw-0: records that it has read are gone"
    found = checks(dataclasses.replace(Fake(), group=Group("flink-normalise", "Empty", "", (dataclasses.replace(position(due=-1), begin=100),))))["C3"]
    assert found.reason == "flink-normalise never read 10 records of ot.raw-0: retention was faster"


def test_a_record_of_a_time_to_come_hides_how_long_others_wait() -> None:
    def seen(committed: int, ahead_s: float) -> Check:
        due_ms = int((time.time() + ahead_s) * 1000)
        where = dataclasses.replace(position(committed=committed), due_ms=due_ms)
        return checks(dataclasses.replace(Fake(), group=Group("flink-normalise", "Empty", "", (where,))))["C3"]

    assert (seen(95, 1800).status, seen(95, 1800).reason) == (
        "inconclusive", "a record of a time to come hides how long others wait for flink-normalise in ot.raw-0: whose clock is ahead (HO4)?")
    # Nothing waits; or what waits is of now.
    assert (seen(100, 1800).status, seen(95, 30).status) == ("pass", "pass")


def test_one_look_that_was_bad_is_not_lasting() -> None:
    bad = Fake(partitions=(partition(isr=(1, 2)), OFFSETS))

    class Once(Fake):
        def snapshot(self) -> Snapshot:
            return bad.snapshot() if not self.looks and not bad.looks else Fake.snapshot(self)

    assert verdicts(Once())["B5"] == "pass"


def test_a_static_quorum_belongs_to_kraft_0_and_has_no_directories() -> None:
    static = CONFIG.replace("controller.quorum.bootstrap.servers", "controller.quorum.voters")
    levels = {"metadata.version": 30, "kraft.version": 0, "transaction.version": 2}
    found = verdicts(Fake(directory="other", finalized=levels), static)
    assert (found["F2"], found["Q2"]) == ("pass", "pass")
    assert verdicts(Fake(), static)["F2"] == "fail"
    assert verdicts(Fake(), CONFIG.replace("controller.quorum", "x"))["F2"] == "fail"
    assert verdicts(Fake(), CONFIG + "controller.quorum.voters=1@kafka1:9093\n")["F2"] == "fail"


def test_a_node_that_does_not_say_what_it_can_leaves_f3_open() -> None:
    def silent(address: tuple[str, int], limit_s: float) -> Mapping[str, tuple[int, int]]:
        if address[1] == 9093:
            raise ConnectionRefusedError("refused")
        return Fake().can

    report = Report("kafka", deadline_s=None)
    own = dataclasses.replace(local(Fake()), supported=silent)
    health.Health(report, lambda limit: Fake(), EXPECTED, own, sleep=lambda s: None).run([], listeners.Links(listeners.Files("", "", "")))
    found = next(check for check in report.checks if check.id == "F3")
    assert (found.status, found.evidence["silent"]) == ("inconclusive", {"kafka1:9093": "refused"})


@pytest.mark.parametrize(
    "config",
    [CONFIG.replace("=false", "=true"), CONFIG + "super.users=User:kafka1\n", CONFIG.replace("StandardAuthorizer", "X"),
     CONFIG + "allow.everyone.if.no.acl.found : true\n", CONFIG.replace("org.apache.kafka.metadata", "com.example"),
     # A certificate of another component on a broker's host, or of anybody on one listener, would be a super user.
     CONFIG.replace(",OU=kafka(,.*)?$", ".*"), CONFIG + "listener.name.internal.ssl.principal.mapping.rules=RULE:.*/kafka1/\n",
     CONFIG + "principal.builder.class=com.example.Everybody\n"],
)
def test_open_by_default_fails(config: str) -> None:
    assert {name for name, status in verdicts(Fake(), config).items() if status == "fail"} == {"S6"}


def test_what_opens_a_broker_is_named() -> None:
    assert checks(Fake(), CONFIG.replace("found=false", "found=true").replace("DEFAULT", "RULE:.*/kafka1/"))["S6"].reason == (
        "allow.everyone.if.no.acl.found is true instead of false; ssl.principal.mapping.rules is "
        "RULE:^CN=(kafka1|kafka2|kafka3),OU=kafka(,.*)?$/$1/,RULE:.*/kafka1/ instead of RULE:^CN=(kafka1|kafka2|kafka3),OU=kafka(,.*)?$/$1/,DEFAULT")


def test_a_cluster_that_cannot_be_asked_is_inconclusive_and_says_why() -> None:
    report = Report("kafka", deadline_s=None)
    opened = []

    def nobody(limit_s: float) -> Fake:
        opened.append(limit_s)
        raise Unreachable("no broker answered")

    health.Health(report, nobody, EXPECTED, local(Fake()), sleep=lambda s: None).run([], listeners.Links(listeners.Files("", "", "")))
    assert {check.status for check in report.checks if check.id != "S6"} == {"inconclusive"}
    assert all("no broker answered" in check.reason for check in report.checks if check.id != "S6")
    assert len(opened) == 1


@pytest.mark.parametrize(("error", "said"), [(Unreachable("no answer in time"), "Unreachable: no answer in time"), (KeyError("voters"), "KeyError: 'voters'")])
def test_a_cluster_that_hangs_or_makes_no_sense_is_looked_at_once_and_leaves_time_for_the_rest(error: Exception, said: str) -> None:
    class Hung(Fake):
        def snapshot(self) -> Snapshot:
            self.looks += 1
            raise error

    found = Hung()
    wrong = {name: check.reason for name, check in checks(found).items() if check.status != "pass"}
    assert set(wrong) == {"Q1", "Q2", "Q3", "Q4", "Q5", "Q6", *(f"B{number}" for number in range(1, 11)), "L1", "L2", "S8"}
    assert set(wrong.values()) == {said}
    assert found.looks == 1


def test_a_quota_that_slows_the_question_down_is_named() -> None:
    class Slow(Fake):
        def set_over_file(self, node: int) -> dict[str, str]:
            raise Unreachable("Node paused: {'throttle'}")

    limits = {"flink": {"consumer_byte_rate": 1e6}, "<default>": {"request_percentage": 0.5}}
    found = checks(Slow(limits=limits))["B11"]
    assert (found.status, found.observed, found.reason) == ("fail", 1, "quota <default> request_percentage 0.5, which nobody declared")
    assert checks(Slow())["B11"].status == "inconclusive"


def test_a_broker_that_goes_while_it_is_asked_is_asked_past() -> None:
    class Going(Fake):
        def snapshot(self) -> Snapshot:
            raise KafkaError("list_partition_reassignments: UnknownBrokerIdError: 2")

    sources = iter([Going(), Fake()])
    report = Report("kafka", deadline_s=None)
    health.Health(report, lambda limit: next(sources), EXPECTED, local(Fake()), sleep=lambda s: None).run([], listeners.Links(listeners.Files("", "", "")))
    assert {check.status for check in report.checks} == {"pass"}


def test_a_full_or_read_only_directory_is_named_when_its_broker_is_gone_with_it() -> None:
    def nobody(limit_s: float) -> Fake:
        raise Unreachable("no broker answered")

    report = Report("kafka", deadline_s=None)
    own = local(Fake(volume={"read_only": 1, "total_bytes": 100, "usable_bytes": 50}))
    health.Health(report, nobody, EXPECTED, own, sleep=lambda s: None).run([], listeners.Links(listeners.Files("", "", "")))
    assert {check.id for check in report.checks if check.status == "fail"} == {"L1"}


# -- listeners: a plain TCP server that answers like Kafka must be seen as one that does not refuse ------------------------


@pytest.fixture
def open_port() -> Any:
    """A server that answers every frame with its correlation id, without TLS."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        connection, _ = server.accept()
        with connection:
            frame = connection.recv(1024)
            connection.sendall((8).to_bytes(4, "big") + frame[8:12] + bytes(4))

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield server.getsockname()[1]
    server.close()


def test_an_answer_without_tls_is_found(open_port: int) -> None:
    assert listeners.refuses_plaintext("127.0.0.1", listeners.Listener("l3", open_port, False), 2.0) == (False, "answered a request")


def test_a_port_that_is_not_there_proves_nothing() -> None:
    with pytest.raises(OSError, match="refused"):
        listeners.refuses_plaintext("127.0.0.1", listeners.Listener("l3", 1, False), 2.0)


def test_dates_of_certificates() -> None:
    moment = datetime.datetime(2027, 1, 31, 12, tzinfo=datetime.timezone.utc)
    assert listeners.ssl.cert_time_to_seconds("Jan 31 12:00:00 2027 GMT") == moment.timestamp()


# -- real sockets: servers that hang, and TLS servers of every wrong kind ---------------------------------------------


def served(handle: Callable[[socket.socket], None]) -> Iterator[int]:
    """A TCP server on loopback; `handle` has each connection in a thread of its own."""
    server = socket.create_server(("127.0.0.1", 0))
    kept: list[socket.socket] = []

    def accept() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            kept.append(connection)
            threading.Thread(target=handle, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    yield server.getsockname()[1]
    server.close()
    for connection in kept:
        connection.close()


@pytest.fixture
def mute_port() -> Iterator[int]:
    """Accepts and never answers."""
    yield from served(lambda connection: None)


@pytest.fixture(scope="session")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two roots, `ours` and `theirs`, each with a certificate for localhost."""
    place = tmp_path_factory.mktemp("pki")

    def openssl(*argv: str) -> None:
        subprocess.run(["openssl", *argv], check=True, capture_output=True, cwd=place, timeout=60)

    (place / "leaf.ext").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\nkeyUsage=digitalSignature\n"
                                    "subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n")
    new = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    for name in ("ours", "theirs"):
        openssl("req", "-x509", *new, "-days", "30", "-subj", f"/CN={name}", "-addext", "keyUsage=critical,keyCertSign,cRLSign",
                "-keyout", f"{name}.ca.key", "-out", f"{name}.ca.pem")
        openssl("req", *new, "-subj", "/CN=localhost", "-keyout", f"{name}.key", "-out", f"{name}.csr")
        openssl("x509", "-req", "-in", f"{name}.csr", "-CA", f"{name}.ca.pem", "-CAkey", f"{name}.ca.key", "-CAcreateserial", "-days", "20",
                "-extfile", "leaf.ext", "-out", f"{name}.pem")
    return place


def files(pki: Path) -> listeners.Files:
    return listeners.Files(str(pki / "ours.ca.pem"), str(pki / "ours.pem"), str(pki / "ours.key"))


@pytest.fixture
def links(pki: Path) -> Iterator[listeners.Links]:
    """Of this host; nothing stays open."""
    with contextlib.closing(listeners.Links(files(pki))) as found:
        yield found


def tls_server(pki: Path, name: str, client: bool) -> Iterator[int]:
    """A TLS server that answers every Kafka frame with its correlation id; `client`: it wants a certificate of ours."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pki / f"{name}.pem", pki / f"{name}.key")
    if client:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(pki / "ours.ca.pem")

    def handle(connection: socket.socket) -> None:
        connection.settimeout(5)
        try:
            with context.wrap_socket(connection, server_side=True) as stream:
                frame = stream.recv(1024)
                stream.sendall((8).to_bytes(4, "big") + frame[8:12] + bytes(4))
        except OSError:
            connection.close()

    yield from served(handle)


@pytest.fixture
def right_port(pki: Path) -> Iterator[int]:
    """As it should be."""
    yield from tls_server(pki, "ours", True)


@pytest.fixture
def open_tls_port(pki: Path) -> Iterator[int]:
    """Asks no certificate of its clients."""
    yield from tls_server(pki, "ours", False)


@pytest.fixture
def foreign_port(pki: Path) -> Iterator[int]:
    """Has a certificate of another authority."""
    yield from tls_server(pki, "theirs", False)


def of_listener(port: int, mutual: bool, pki: Path, ports: Sequence[int] = (), **changes: Any) -> dict[tuple[str, str], Check]:
    """The checks of one listener, by (id, subject)."""
    report = Report("kafka", deadline_s=10.0)
    expected = dataclasses.replace(EXPECTED, host="localhost", **changes)

    def nobody(limit_s: float) -> Fake:
        raise Unreachable("not asked here")

    health.Health(report, nobody, expected, local(Fake(), ports=ports), sleep=lambda s: None).run(
        [listeners.Listener("one", port, mutual)], listeners.Links(files(pki)))
    return {(check.id, check.subject): check for check in report.checks if check.subject}


def statuses(found: Mapping[tuple[str, str], Check]) -> dict[str, str]:
    return {name if subject == "one" else f"{name} {subject}": check.status for (name, subject), check in found.items()}


def test_a_right_listener_passes(pki: Path, right_port: int) -> None:
    assert statuses(of_listener(right_port, True, pki, [right_port])) == {"S1": "pass", "S2": "pass", "S4": "pass", "S4 others": "pass"}


def test_a_certificate_near_its_end_fails(pki: Path, right_port: int) -> None:
    assert statuses(of_listener(right_port, True, pki, [right_port], min_cert_days=25.0)) == {"S1": "fail", "S2": "pass", "S4": "pass", "S4 others": "pass"}


def test_a_foreign_certificate_fails_and_proves_nothing_else(pki: Path, foreign_port: int) -> None:
    found = of_listener(foreign_port, True, pki, [foreign_port])
    assert statuses(found) == {"S1": "fail", "S2": "inconclusive", "S4": "pass", "S4 others": "pass"}
    assert "not to be trusted" in found["S1", "one"].reason


def test_a_broker_that_never_answers_fails_for_what_it_starts_with(pki: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]  # nobody listens there any more

    def seen(why: str) -> Check:
        report = Report("kafka", deadline_s=None)
        config = "ssl.keystore.location=/etc/hnai/kafka/tls/keystore.pem\n"
        state = dataclasses.replace(local(Fake(), config), mistrust=lambda keystore: why if keystore == "/etc/hnai/kafka/tls/keystore.pem" else "wrong file")
        judge = health.Health(report, lambda limit: Fake(), dataclasses.replace(EXPECTED, host="localhost"), state, sleep=lambda s: None)
        check = Check("S1", "t")
        with contextlib.suppress(OSError):
            judge.s1(check, listeners.Listener("one", port, True), listeners.Links(files(pki)))
        return check

    assert seen("self-signed certificate").status == "fail" and "/etc/hnai/kafka/tls/keystore.pem" in seen("self-signed certificate").reason
    assert seen("").status != "fail", "it may be silent for another reason"


def test_what_a_broker_starts_with_is_read_by_openssl(tmp_path: Path) -> None:
    def run(argv: Sequence[str]) -> str:
        return subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False).stdout

    for name in ("ours", "foreign"):
        run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30", "-subj", "/CN=kafka1",
             "-addext", "subjectAltName=DNS:kafka1", "-keyout", str(tmp_path / "key"), "-out", str(tmp_path / name)])
        (tmp_path / f"{name}.keystore").write_text((tmp_path / "key").read_text() + (tmp_path / name).read_text())
    ca, keystore = str(tmp_path / "ours"), str(tmp_path / "ours.keystore")
    assert listeners.mistrust(keystore, ca, "kafka1", run) == ""
    assert listeners.mistrust(keystore, ca, "kafka2", run) == "hostname mismatch"
    assert "self-signed" in listeners.mistrust(str(tmp_path / "foreign.keystore"), ca, "kafka1", run).replace("self signed", "self-signed")
    assert listeners.mistrust(str(tmp_path / "absent"), ca, "kafka1", run) == "", "that is no word about a certificate"


def test_a_listener_that_asks_no_certificate_fails(pki: Path, open_tls_port: int) -> None:
    assert statuses(of_listener(open_tls_port, True, pki, [open_tls_port])) == {"S1": "pass", "S2": "fail", "S4": "pass", "S4 others": "pass"}


def no_answer() -> bool:
    raise scram.LoginError("closed")


@pytest.mark.parametrize(("refused", "status"), [
    (lambda _mechanism: True, "pass"), (lambda mechanism: mechanism.endswith("512"), "fail"),
    (lambda mechanism: mechanism.endswith("512") or no_answer(), "inconclusive"), (lambda mechanism: mechanism.endswith("512") and no_answer(), "fail"),
    (lambda _mechanism: no_answer(), "inconclusive")])  # fmt: skip
def test_a_listener_that_takes_a_wrong_password_by_one_mechanism_fails(
    pki: Path, right_port: int, refused: Callable[[str], bool], status: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "refuses_wrong_password", lambda _host, _listener, _links, mechanism, _limit_s: refused(mechanism))
    assert statuses(of_listener(right_port, False, pki, [right_port]))["S3"] == status


@pytest.mark.parametrize(
    ("others", "error", "status", "words"),
    [
        ((), 0, "pass", ""),
        (("PLAIN", "OAUTHBEARER"), 0, "fail", "offers OAUTHBEARER, PLAIN"),
        (("OAUTHBEARER",), 33, "fail", "offers OAUTHBEARER"),
        ((), 34, "fail", "no login"),
        ((), 33, "inconclusive", "does not offer"),
    ],
)  # fmt: skip
def test_a_listener_has_no_other_door(pki: Path, others: tuple[str, ...], error: int, status: str, words: str) -> None:
    """Each login says by itself what the listener offers, and its connection shows the certificate: no connection is made for that alone."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pki / "ours.pem", pki / "ours.key")
    logins: list[Broker] = []
    shaken: list[socket.socket] = []

    class Both(Broker):
        def handshake(self, body: bytes) -> bytes:
            logins.append(self)
            self.mechanism = body[2:].decode()
            return struct.pack(">h", error) + super().handshake(body)[2:]

    def handle(connection: socket.socket) -> None:
        broker = Both("x", "SCRAM-SHA-256", others=("SCRAM-SHA-512", *others))
        try:
            with context.wrap_socket(connection, server_side=True) as stream:
                shaken.append(stream)
                while frame := stream.recv(1024):
                    broker.sendall(frame)
                    stream.sendall(broker.recv(1 << 16))
        except (OSError, struct.error):
            connection.close()

    with contextmanager(served)(handle) as port:
        found = of_listener(port, False, pki)
    check = found["S3", "one"]
    assert (check.status, found["S1", "one"].status) == (status, "pass")
    assert words in check.reason
    assert len(logins) == len(shaken) == 2


def test_a_port_that_nobody_declared_fails(pki: Path, right_port: int) -> None:
    found = of_listener(right_port, True, pki, [right_port, 9092])
    assert statuses(found) == {"S1": "pass", "S2": "pass", "S4": "pass", "S4 others": "fail"}
    assert "9092" in found["S4", "others"].reason
    assert of_listener(right_port, True, pki, [])["S4", "others"].status == "inconclusive", "it listens nowhere: nothing was judged"


@pytest.mark.parametrize("mutual", [True, False])
def test_a_server_that_hangs_is_inconclusive_within_the_deadline(
    pki: Path, links: listeners.Links, mute_port: int, mutual: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapter, "activate", lambda: None)  # The library of this environment, not the hosts'.
    report = Report("kafka", deadline_s=4.0)
    connection = adapter.Connection((f"localhost:{mute_port}",), *dataclasses.astuple(files(pki)))
    expected = dataclasses.replace(EXPECTED, host="localhost", addresses=(f"localhost:{mute_port}",))
    own = dataclasses.replace(local(Fake(), ports=[mute_port]), supported=lambda address, limit_s: listeners.features(address, links, limit_s))
    begin = time.monotonic()
    health.Health(report, lambda limit_s: adapter.Admin(connection, limit_s, links), expected, own).run(
        [listeners.Listener("one", mute_port, mutual)], links)
    assert time.monotonic() - begin < 6.0
    seen = {(check.id, check.subject): check.status for check in report.checks}
    assert {status for check, status in seen.items() if check not in (("S6", ""), ("S4", "others"))} == {"inconclusive"}, seen
    assert seen["S6", ""] in ("pass", "inconclusive")
    assert seen["S4", "others"] == "pass"
    assert len(seen) == len(CLUSTER_IDS) + 4


def test_a_cluster_that_uses_up_the_deadline_leaves_the_doors_judged(links: listeners.Links, right_port: int) -> None:
    report = Report("kafka", deadline_s=3.0)

    def hang(limit_s: float) -> Fake:
        time.sleep(60)
        raise AssertionError("never interrupted")

    expected = dataclasses.replace(EXPECTED, host="localhost")
    health.Health(report, hang, expected, local(Fake(), ports=[right_port])).run([listeners.Listener("one", right_port, True)], links)
    assert {check.status for check in report.checks if check.subject} == {"pass"}
    assert {check.reason for check in report.checks if not check.subject} == {"deadline"}


@dataclasses.dataclass(frozen=True)
class Listed:
    """As the library's metadata names one."""

    node_id: int
    host: str
    port: int


def test_who_is_silent_is_not_asked_by_the_library(pki: Path, mute_port: int, right_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would wait for ever, or give up; also of a broker that nobody declared and the cluster names."""
    asked: list[object] = []
    silent, answers, stranger = Listed(1, "localhost", mute_port), Listed(2, "localhost", right_port), Listed(3, "localhost", 1)
    nodes = [silent, answers, stranger]

    class Library:
        def __init__(self, bootstrap_servers: list[str], **_settings: object) -> None:
            asked.append(bootstrap_servers)
            self._controller_id = None
            self._manager = types.SimpleNamespace(cluster=types.SimpleNamespace(brokers=lambda: nodes))

        def get_broker_version_data(self, node: int) -> None:
            asked.append(node)

        def describe_log_dirs(self, brokers: list[int] | None) -> list[dict[str, Any]]:
            asked.append(brokers)
            return []

    monkeypatch.setattr(adapter, "activate", lambda: None)
    monkeypatch.setattr("kafka.admin.KafkaAdminClient", Library)
    both = (f"localhost:{mute_port}", f"localhost:{right_port}")
    admin = adapter.Admin(adapter.Connection(both, *dataclasses.astuple(files(pki))), 1.0)
    admin.log_dirs()
    assert asked == [[both[1]], 2, [2]]
    assert admin._client._controller_id == 2
    asked.clear()
    for nodes[:], expected in (([answers, stranger], [[both[1]], 2, [2]]), ([answers], [[both[1]], None])):
        adapter.Admin(adapter.Connection(both[1:], *dataclasses.astuple(files(pki))), 1.0).log_dirs()
        assert asked == expected, "who answers is the library's to find out when everybody does"
        asked.clear()


def test_a_half_open_kafka_refuses_nothing(links: listeners.Links, mute_port: int) -> None:
    with pytest.raises(TimeoutError):
        listeners.refuses_plaintext("127.0.0.1", listeners.Listener("one", mute_port, True), 0.3)
    with pytest.raises(TimeoutError):
        listeners.refuses_anonymous("localhost", listeners.Listener("one", mute_port, True), links, 0.3)
    with pytest.raises(scram.LoginError):
        listeners.refuses_wrong_password("localhost", listeners.Listener("one", mute_port, False), links, "SCRAM-SHA-512", 0.3)


# -- connections that are kept ------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Counted:
    """A TLS server that wants a certificate of ours and answers each frame with its correlation id and its own number of connections and requests."""

    connections: list[ssl.SSLSocket] = dataclasses.field(default_factory=list)
    resumed: list[bool] = dataclasses.field(default_factory=list)
    requests: int = 0
    port: int = 0
    mute: bool = False
    gone: bool = False


@pytest.fixture
def counted(pki: Path) -> Iterator[Counted]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pki / "ours.pem", pki / "ours.key")
    context.verify_mode = ssl.CERT_OPTIONAL
    context.load_verify_locations(pki / "ours.ca.pem")
    one = Counted()

    def handle(connection: socket.socket) -> None:
        if one.gone:
            connection.close()
            return
        with contextlib.suppress(OSError):
            stream = context.wrap_socket(connection, server_side=True)
            one.connections.append(stream)
            one.resumed.append(bool(stream.session_reused))
            while frame := stream.recv(1024):
                one.requests += 1
                if not one.mute:
                    stream.sendall((5).to_bytes(4, "big") + frame[8:12] + bytes([one.requests]))

    with contextmanager(served)(handle) as one.port:
        yield one


def test_who_is_asked_again_is_asked_on_the_same_connection(links: listeners.Links, counted: Counted) -> None:
    place = ("localhost", counted.port)
    assert links.session(place, True, 5.0).subject == "commonName=localhost"
    assert [links.ask(place, listeners.greeted, 5.0)[0] for _each in range(3)] == [2, 3, 4]
    assert len(counted.connections) == 1
    with links.lent(place, 5.0) as stream:
        assert listeners.greeted(stream)
    assert len(counted.connections) == 2, "who shows no certificate is somebody else"


def test_a_connection_that_its_listener_ended_is_made_anew_by_a_whole_handshake(links: listeners.Links, counted: Counted) -> None:
    place = ("localhost", counted.port)
    for number in (1, 2):
        assert links.ask(place, listeners.greeted, 5.0)
        assert len(counted.connections) == number
        counted.connections[-1].shutdown(socket.SHUT_RDWR)
    assert counted.resumed == [False, False]


def test_a_listener_that_is_not_there_any_more_is_not_answered_for(links: listeners.Links, counted: Counted) -> None:
    place = ("localhost", counted.port)
    links.ask(place, listeners.greeted, 5.0)
    counted.gone = True
    counted.connections[-1].shutdown(socket.SHUT_RDWR)
    with pytest.raises(OSError):
        links.ask(place, listeners.greeted, 5.0)


def test_a_session_that_was_refused_after_its_handshake_shows_nothing(pki: Path, right_port: int) -> None:
    """TLS 1.3 ends the handshake before the client's certificate is looked at."""
    own = files(pki)
    with contextlib.closing(listeners.Links(dataclasses.replace(own, cert=str(pki / "theirs.pem"), key=str(pki / "theirs.key")))) as strangers:
        for _each in range(2):
            with pytest.raises((scram.LoginError, OSError)):
                strangers.session(("localhost", right_port), True, 5.0)
            with pytest.raises((scram.LoginError, OSError)):
                strangers.ask(("localhost", right_port), listeners.greeted, 5.0)


def test_an_answer_that_came_too_late_is_nobodys(links: listeners.Links, counted: Counted) -> None:
    """Every question has the same number: on the old connection it would be taken for the answer to the next one."""
    place = ("localhost", counted.port)
    links.ask(place, listeners.greeted, 5.0)
    counted.mute = True
    with pytest.raises(TimeoutError):
        links.ask(place, listeners.greeted, 0.3)
    assert len(counted.connections) == 1, "who does not answer is not asked twice"
    counted.mute = False
    assert links.ask(place, listeners.greeted, 5.0)
    assert len(counted.connections) == 2


def test_a_question_that_waits_holds_up_the_next_one_no_longer_than_allowed(links: listeners.Links, counted: Counted) -> None:
    place, over = ("localhost", counted.port), threading.Event()
    begun = threading.Event()

    def slow(_stream: ssl.SSLSocket) -> bool:
        begun.set()
        return over.wait(30)

    thread = threading.Thread(target=lambda: links.ask(place, slow, 5.0), daemon=True)
    thread.start()
    assert begun.wait(10)
    with pytest.raises(TimeoutError, match="earlier question"):
        links.ask(place, listeners.greeted, 0.1)
    over.set()
    thread.join(10)
    assert links.ask(place, listeners.greeted, 5.0)
    assert len(counted.connections) == 1


def test_a_connection_that_is_lent_comes_not_back(links: listeners.Links, counted: Counted) -> None:
    place = ("localhost", counted.port)
    links.session(place, False, 5.0)
    for number in (1, 2):
        with links.lent(place, 5.0) as stream:
            listeners.greeted(stream)
        assert len(counted.connections) == number
    links.session(place, False, 5.0)
    assert len(counted.connections) == 2


# -- what a node says of itself ----------------------------------------------------------------------------------------

#: ApiVersions v4 as a Kafka 4.3.1 node sent it: one api, then the tags of supported features.
ANSWER = bytes.fromhex("""
0000 02 0012 0000 0004 00 00000000 01 00 2a 03
11 6d657461646174612e76657273696f6e 0007 001e 00
0e 6b726166742e76657273696f6e 0000 0001 00
""")


def test_supported_features_of_a_node() -> None:
    assert listeners._supported(ANSWER) == {"metadata.version": (7, 30), "kraft.version": (0, 1)}
    assert listeners._supported(ANSWER[:14] + b"\x00") == {}
    with pytest.raises(scram.LoginError, match="error 35"):
        listeners._supported(b"\x00\x23" + ANSWER[2:])


def test_listening_sockets_of_a_units_user_are_read_from_the_kernel(tmp_path: Path) -> None:
    """This process is put under a unit's name in a copy of procfs; the sockets and the table are the kernel's."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        place = tmp_path / "77"
        place.mkdir()
        (place / "cgroup").write_text("0::/system.slice/hnai-kafka.service\n")
        (place / "net").symlink_to("/proc/self/net")
        found = listeners.open_ports(str(tmp_path), "hnai-kafka.service")
        assert found[server.getsockname()[1]] == "0100007F"
        assert client.getsockname()[1] not in found
        with pytest.raises(ProcessLookupError):
            listeners.open_ports(str(tmp_path), "hnai-kaf.service")


def test_another_users_socket_is_not_the_units(tmp_path: Path) -> None:
    place = tmp_path / "77"
    (place / "net").mkdir(parents=True)
    (place / "cgroup").write_text("0::/system.slice/hnai-kafka.service\n")
    own = os.stat(place).st_uid
    line = "0: 00000000:{port} 00000000:0000 {state} 00000000:00000000 00:00000000 00000000 {user} 0 1 1 0 100 0 0 10 0\n"
    (place / "net" / "tcp").write_text("header\n" + line.format(port="2383", state="0A", user=own) + line.format(port="0016", state="0A", user=own + 1))
    (place / "net" / "tcp6").write_text("header\n" + line.format(port="2387", state="0A", user=own) + line.format(port="C000", state="01", user=own))
    assert set(listeners.open_ports(str(tmp_path), "hnai-kafka.service")) == {9091, 9095}


def test_evidence_is_strict_json() -> None:
    report = Report("kafka", deadline_s=None)
    health.Health(report, lambda limit: Fake(leader=-1), EXPECTED, local(Fake()), sleep=lambda s: None).run([], listeners.Links(listeners.Files("", "", "")))
    json.dumps(report.result(collect=True), allow_nan=False)
