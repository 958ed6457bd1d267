# SPDX-License-Identifier: Apache-2.0
"""Every check of kafka_health turns to fail (or inconclusive) when its cause appears, and only then."""

from __future__ import annotations

import dataclasses
import datetime
import socket
import threading
from collections.abc import Sequence
from typing import Any

import pytest

from ansible_collections.hnai.platform.plugins.module_utils.kafka import health, listeners
from ansible_collections.hnai.platform.plugins.module_utils.kafka.acls import Acl
from ansible_collections.hnai.platform.plugins.module_utils.kafka.state import Partition, Quorum, Snapshot, Unreachable, Voter
from ansible_collections.hnai.platform.plugins.module_utils.verdict import Report

NOW = 1_800_000_000_000
CONFIG = ("authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer\nallow.everyone.if.no.acl.found=false\n"
          "super.users=User:kafka1;User:kafka2;User:kafka3\n")
CLUSTER_IDS = ("Q1", "Q2", "Q3", "Q4", "Q6", "F1", "B1", "B2", "B3", "B5", "B7", "B8", "B9", "L1", "S5", "S6", "S7")


@dataclasses.dataclass
class Fake:
    """A healthy cluster; tests change one thing."""

    leader: int = 3
    lag_ms: int = 100
    fenced: tuple[int, ...] = ()
    brokers: tuple[int, ...] = (1, 2, 3)
    voters: tuple[int, ...] = (1, 2, 3)
    partitions: tuple[Partition, ...] = (Partition("ot.raw", 0, 1, (1, 2, 3), (1, 2, 3), 2), Partition("__consumer_offsets", 0, 1, (1, 2, 3), (1, 2, 3), 2))
    moving: tuple[str, ...] = ()
    unclean: str = "false"
    metadata: int = 30
    step: int = 1
    free: int = 50
    dir_error: int = 0
    entries: tuple[Acl, ...] = (Acl("User:telegraf-shipper", "topic", "ot.raw", "write"), Acl("User:flink", "topic", "ot.raw", "read"))
    scram: tuple[str, ...] = ("flink", "telegraf-shipper")
    looks: int = 0

    def snapshot(self) -> Snapshot:
        self.looks += 1
        voters = tuple(Voter(n, f"d{n}", 100, NOW, NOW if n == self.leader else NOW - (self.lag_ms if n == 1 else 100)) for n in self.voters)
        return Snapshot("c", Quorum(self.leader, 5, 100 + self.looks * self.step, voters), {n: n in self.fenced for n in self.brokers}, self.partitions,
                        self.moving)

    def features(self) -> dict[str, tuple[int, int]]:
        return {"metadata.version": (self.metadata, 30), "kraft.version": (1, 1)}

    def log_dirs(self) -> list[dict[str, Any]]:
        return [{"broker": 1, "path": "/d", "error": self.dir_error, "total_bytes": 100, "usable_bytes": self.free, "cordoned": False, "future": 0}]

    def broker_config(self, node: int, keys: Sequence[str]) -> dict[str, str]:
        return dict.fromkeys(keys, self.unclean)

    def acls(self) -> list[Acl]:
        return list(self.entries)

    def users(self) -> dict[str, dict[str, int]]:
        return {name: {"SCRAM-SHA-512": 8192} for name in self.scram}


def verdicts(fake: Fake, config: str = CONFIG) -> dict[str, str]:
    report = Report("kafka", deadline_s=None)
    expected = health.Expected("kafka1", 1, (1, 2, 3), ("kafka1", "kafka2", "kafka3"), {"telegraf-shipper": 3, "flink": 4},
                               {"metadata.version": 30, "kraft.version": 1})
    health.Health(report, lambda limit: fake, expected, sleep=lambda s: None).run([], listeners.Files("", "", ""), lambda: config)
    return {check.id: check.status for check in report.checks}


def test_a_healthy_cluster_passes() -> None:
    assert verdicts(Fake()) == dict.fromkeys(CLUSTER_IDS, "pass")


OFFLINE = Partition("ot.raw", 0, -1, (1, 2, 3), (1, 2, 3), 2)
LOW = Partition("ot.raw", 0, 1, (1, 2, 3), (1,), 2)
BEHIND = Partition("ot.raw", 0, 1, (1, 2, 3), (1, 2), 2)
POOR = Partition("__consumer_offsets", 0, 1, (1,), (1,), 1)


@pytest.mark.parametrize(
    ("change", "ids"),
    [
        ({"leader": -1}, {"Q1", "Q3", "Q6"}),
        ({"voters": (1, 2)}, {"Q2", "Q3", "Q6"}),
        ({"lag_ms": 2000}, {"Q3", "Q6"}),
        ({"step": 0}, {"Q4"}),
        ({"metadata": 29}, {"F1"}),
        ({"fenced": (2,)}, {"B1"}),
        ({"brokers": (1, 3)}, {"B1"}),
        ({"brokers": (1, 2, 3, 4)}, {"B1"}),
        ({"partitions": (OFFLINE,)}, {"B2"}),
        ({"partitions": (LOW,)}, {"B3", "B5"}),
        ({"partitions": (BEHIND,)}, {"B5"}),
        ({"partitions": (POOR,)}, {"B7"}),
        ({"unclean": "true"}, {"B8"}),
        ({"moving": ("ot.raw-0",)}, {"B9"}),
        ({"free": 5}, {"L1"}),
        ({"dir_error": 56}, {"L1"}),
        ({"entries": (Acl("User:telegraf-shipper", "topic", "ot.raw", "read"),)}, {"S5"}),
        ({"entries": (Acl("User:*", "group", "*", "read"),)}, {"S5"}),
        ({"scram": ("kafka2",)}, {"S7"}),
    ],
    ids=str,
)
def test_one_cause_fails_its_checks_and_no_other(change: dict[str, Any], ids: set[str]) -> None:
    found = verdicts(dataclasses.replace(Fake(), **change))
    assert {name for name, status in found.items() if status != "pass"} == ids
    assert set(found.values()) <= {"pass", "fail"}


@pytest.mark.parametrize(
    "config",
    [CONFIG.replace("=false", "=true"), CONFIG + "super.users=User:kafka1\n", CONFIG.replace("StandardAuthorizer", "X"), ""],
)
def test_open_by_default_fails(config: str) -> None:
    assert {name for name, status in verdicts(Fake(), config).items() if status == "fail"} == {"S6"}


def test_a_cluster_that_cannot_be_asked_is_inconclusive_and_says_why() -> None:
    report = Report("kafka", deadline_s=None)
    opened = []

    def nobody(limit_s: float) -> Fake:
        opened.append(limit_s)
        raise Unreachable("no broker answered")

    health.Health(report, nobody, health.Expected("kafka1", 1, (1,), ("kafka1",)), sleep=lambda s: None).run([], listeners.Files("", "", ""), lambda: CONFIG)
    assert {check.status for check in report.checks if check.id != "S6"} == {"inconclusive"}
    assert all("no broker answered" in check.reason for check in report.checks if check.id != "S6")
    assert len(opened) == 1


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
