# SPDX-License-Identifier: Apache-2.0
"""Numbered records through every broker of a cluster and back: what was lost, doubled, put out of order, and how long it took.

One partition is led by every broker, acks=all, idempotent; each record is read back and its number compared. The topic's name carries
the time when it may be taken away, so what a killed canary left is swept by the next one, and one that still runs is never disturbed.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from ..stats import percentile
from ..verdict import Check, Report
from .state import KafkaError

PREFIX = "hnai.canary."
_NAME = re.compile(re.escape(PREFIX) + r"(\d+)-[0-9a-z]+$")
#: Fewer records say nothing about a P99.
MIN_RECORDS = 200


class Cluster(Protocol):
    """What is done to the cluster; adapter.Admin is one."""

    def broker_ids(self) -> list[int]: ...

    def topic_names(self) -> list[str]: ...

    def group_names(self) -> list[str]: ...

    def create_assigned(self, name: str, replicas: Mapping[int, Sequence[int]], config: Mapping[str, str]) -> None: ...

    def leaders(self, name: str) -> dict[int, int]: ...

    def delete_topics(self, names: Sequence[str]) -> None: ...

    def delete_groups(self, names: Sequence[str]) -> None: ...


class Pipe(Protocol):
    """A producer and a consumer of one topic; adapter.Pipe is one."""

    def send(self, partition: int, value: bytes, done: Callable[[Exception | None], None]) -> None: ...

    def poll(self, limit_s: float) -> list[tuple[int, bytes]]: ...

    def commit(self) -> None: ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class Plan:
    """What is sent: `records` in all, `rate` per second. `brokers`: node ids that must each lead a partition."""

    brokers: tuple[int, ...]
    records: int = MIN_RECORDS
    rate: float = 100.0
    ack_p95_ms: float = 1000.0
    round_trip_p95_ms: float = 2000.0
    commit_ms: float = 2000.0


def placement(brokers: Sequence[int]) -> tuple[dict[int, list[int]], dict[str, str]]:
    """(partition → replicas with its leader first, settings): one partition for every broker, three replicas where there are so many.

    >>> placement([1, 2, 3, 4])[0][3]
    [4, 1, 2]
    """
    ordered = sorted(brokers)
    factor = min(3, len(ordered))
    replicas = {number: [ordered[(number + step) % len(ordered)] for step in range(factor)] for number in range(len(ordered))}
    return replicas, {"min.insync.replicas": str(max(1, factor - 1)), "retention.ms": "3600000"}


def name(expires: float, token: str) -> str:
    """Name of topic and group of one run; `expires`: seconds since 1970 from which on the next canary may delete it."""
    return f"{PREFIX}{int(expires)}-{token}"


def undeclared(names: Iterable[str], declared: Iterable[str]) -> list[str]:
    """Topics that nobody declared, Kafka's own and a canary's left out.

    >>> undeclared(["ot.raw", "mine", "__consumer_offsets", "hnai.canary.1-a"], ["ot.raw"])
    ['mine']
    """
    return sorted(name for name in set(names) - set(declared) if not name.startswith(("__", PREFIX)))


def expired(names: Iterable[str], now: float) -> list[str]:
    """Those of `names` that an earlier canary left behind."""
    found = []
    for one in names:
        match = _NAME.match(one)
        if match and int(match.group(1)) < now:
            found.append(one)
    return sorted(found)


@dataclass
class Account:
    """Both ends of the pipe. Keys are (partition, sequence), times in seconds. `warm`: so many first records are not timed."""

    warm: int = 0
    running: bool = False
    sent: dict[tuple[int, int], float] = field(default_factory=dict)
    acked: dict[tuple[int, int], float] = field(default_factory=dict)
    failed: dict[tuple[int, int], str] = field(default_factory=dict)
    received: dict[tuple[int, int], float] = field(default_factory=dict)
    duplicated: int = 0
    reordered: int = 0
    foreign: int = 0
    _highest: dict[int, int] = field(default_factory=dict)

    def answered(self, key: tuple[int, int], at: float, error: Exception | None) -> None:
        """The broker acknowledged or refused a record."""
        if error is None:
            self.acked[key] = at
        else:
            self.failed[key] = f"{type(error).__name__}: {error}"

    def arrived(self, partition: int, value: bytes, at: float) -> None:
        """A record was read."""
        try:
            sequence = int(json.loads(value)["sequence"])
        except (ValueError, KeyError, TypeError):
            self.foreign += 1
            return
        key = (partition, sequence)
        if key not in self.sent:
            self.foreign += 1
        elif key in self.received:
            self.duplicated += 1
        else:
            self.received[key] = at
            if sequence < self._highest.get(partition, -1):
                self.reordered += 1
            self._highest[partition] = max(sequence, self._highest.get(partition, -1))

    @property
    def lost(self) -> list[tuple[int, int]]:
        """Acknowledged and never read."""
        return sorted(key for key in self.acked if key not in self.received)

    @property
    def done(self) -> bool:
        """Every record was answered, and every acknowledged one was read."""
        return len(self.acked) + len(self.failed) >= len(self.sent) and not self.lost

    def latencies(self, ends: Mapping[tuple[int, int], float]) -> dict[str, float | None]:
        """p50, p95, p99 and max in ms from sending to `ends`."""
        found = [1000.0 * (at - self.sent[key]) for key, at in ends.items() if key[1] >= self.warm]
        shares = (("p50", 0.5), ("p95", 0.95), ("p99", 0.99), ("max", 1.0))
        return {label: round(percentile(found, share), 2) if found else None for label, share in shares}

    def summary(self) -> dict[str, Any]:
        """Counts and latencies."""
        return {
            "sent": len(self.sent), "acknowledged": len(self.acked), "received": len(self.received), "lost": len(self.lost),
            "duplicated": self.duplicated, "reordered": self.reordered, "foreign": self.foreign,
            "ack_ms": self.latencies(self.acked), "rtt_ms": self.latencies(self.received),
        }


def pump(pipe: Pipe, plan: Plan, partitions: Sequence[int], limit_s: float, clock: Callable[[], float]) -> Account:
    """Send at the plan's rate, round robin over the partitions, and read until all is back or `limit_s` is over.

    The first record of each partition opens its connections and is waited for; it counts, but its time says nothing of the brokers.
    """
    account = Account(warm=len(partitions))
    begin = start = clock()
    number = 0
    total = plan.records + len(partitions)
    while clock() - begin < limit_s:
        while number < account.warm or (number < total and account.running and clock() - start >= (number - account.warm) / plan.rate):
            key = (partitions[number % len(partitions)], number)
            account.sent[key] = clock()

            def done(error: Exception | None, key: tuple[int, int] = key) -> None:
                account.answered(key, clock(), error)

            try:
                pipe.send(key[0], json.dumps({"sequence": number}).encode(), done)
            except KafkaError as error:
                done(error)
            number += 1
        for partition, value in pipe.poll(0.005):
            account.arrived(partition, value, clock())
        if not account.running and account.done:
            account.running, start = True, clock()
        elif number >= total and account.done:
            break
    if account.done:
        # A second copy would follow right behind the last record.
        for partition, value in pipe.poll(0.2):
            account.arrived(partition, value, clock())
    return account


class Canary:
    """One flight. `open_admin` and `open_pipe(topic, partitions)` connect; both raise Unreachable."""

    def __init__(self, report: Report, plan: Plan, open_admin: Callable[[float], Any], open_pipe: Callable[[str, Sequence[int], float], Pipe],
                 clock: Callable[[], float], now: Callable[[], float], sleep: Callable[[float], None], token: str) -> None:
        self.report = report
        self.plan = plan
        self.account = Account()
        self.swept: list[str] = []
        self._open_admin = open_admin
        self._open_pipe = open_pipe
        self._clock = clock
        self._now = now
        self._sleep = sleep
        self._token = token
        self._commit_ms: float | None = None
        self._refused = ""
        self._leaders: dict[int, int] = {}

    def sweep(self, admin: Cluster) -> None:
        """Take away what killed canaries left."""
        self.swept = self._away(admin, expired(admin.topic_names(), self._now()), expired(admin.group_names(), self._now()))

    @staticmethod
    def _away(admin: Cluster, topics: Sequence[str], groups: Sequence[str]) -> list[str]:
        """Delete; returns what went. A refusal says nothing of the records: `c1_cleanup` looks for what stayed."""
        gone: set[str] = set()
        for delete, names in ((admin.delete_groups, groups), (admin.delete_topics, topics)):
            with contextlib.suppress(KafkaError):
                if names:
                    delete(names)
                    gone |= set(names)
        return sorted(gone)

    def fly(self) -> None:
        """Send, read and judge; afterwards topic and group are gone whatever happened."""
        left = self.report.remaining() or 60.0
        topic = name(self._now() + left + 30.0, self._token)
        with self._open_admin(self.report.timeout(10.0)) as admin:
            self.sweep(admin)
            try:
                replicas, config = placement(self.plan.brokers)
                admin.create_assigned(topic, replicas, config)
                self._leaders = self._led(admin, topic, len(replicas))
                # Room for taking it away again stays free.
                self._through(topic, sorted(replicas), max(1.0, 0.6 * (self.report.remaining() or 60.0)))
            finally:
                # Unasked: the broker that is asked may not know yet what another one made.
                self._away(admin, [topic], [topic])

    def _led(self, admin: Cluster, topic: str, partitions: int) -> dict[int, int]:
        """Partition → its leader. The broker that is asked may not know yet what another one made."""
        end = self._clock() + 5.0
        while True:
            found = admin.leaders(topic)
            if len(found) >= partitions or self._clock() >= end:
                return found
            self._sleep(0.1)

    def _through(self, topic: str, partitions: Sequence[int], limit_s: float) -> None:
        pipe = self._open_pipe(topic, partitions, min(10.0, limit_s))
        try:
            self.account = pump(pipe, self.plan, partitions, limit_s, self._clock)
            begin = self._clock()
            try:
                pipe.commit()
            except KafkaError as error:
                self._refused = str(error)  # C2; C1 is about the records.
            else:
                self._commit_ms = round(1000.0 * (self._clock() - begin), 2)
        finally:
            pipe.close()

    # -- checks -----------------------------------------------------------------------------------------------------

    def c1(self, c: Check) -> None:
        """Nothing acknowledged is lost, doubled or out of order, through every broker."""
        self.fly()
        seen = self.account.summary()
        led = sorted(set(self._leaders.values()))
        c.observed = {key: seen[key] for key in ("sent", "acknowledged", "received", "lost", "duplicated", "reordered", "foreign")}
        total = self.plan.records + len(self.plan.brokers)
        c.expected = {"sent": total, "acknowledged": total, "received": total, "lost": 0, "duplicated": 0, "reordered": 0, "foreign": 0}
        c.evidence = {"leaders": self._leaders, "failed": sorted(set(self.account.failed.values()))[:5], "lost": self.account.lost[:20],
                      "swept": self.swept}
        harm = "; ".join(f"{key} {c.observed[key]}" for key in ("lost", "duplicated", "reordered", "foreign") if c.observed[key])
        if harm:
            # Whoever led the partitions.
            c.fail(harm)
        elif led != sorted(self.plan.brokers):
            c.inconclusive(f"the partitions are led by {led}, not by each of {sorted(self.plan.brokers)}")
        else:
            c.passed(c.observed == c.expected, "; ".join(f"{key} {c.observed[key]}" for key in c.expected if c.observed[key] != c.expected[key]))

    def c1_latency(self, c: Check) -> None:
        """Acknowledgement and round trip, P95."""
        seen = self.account.summary()
        ack, trip = seen["ack_ms"]["p95"], seen["rtt_ms"]["p95"]
        c.observed, c.expected = {"ack": ack, "round_trip": trip}, {"ack": f"<= {self.plan.ack_p95_ms:g}", "round_trip": f"<= {self.plan.round_trip_p95_ms:g}"}
        c.evidence = {"ack_ms": seen["ack_ms"], "rtt_ms": seen["rtt_ms"]}
        timed = sum(1 for key in self.account.received if key[1] >= self.account.warm)
        c.evidence["n"] = timed
        if ack is None or trip is None or timed < MIN_RECORDS:
            c.inconclusive(f"{timed} timed records came back, {MIN_RECORDS} are needed")
            return
        c.passed(ack <= self.plan.ack_p95_ms and trip <= self.plan.round_trip_p95_ms)

    def c1_cleanup(self, c: Check) -> None:
        """Topic and group are gone."""
        end = self._clock() + 5.0
        with self._open_admin(self.report.timeout(10.0)) as admin:
            while True:
                left = [one for one in (*admin.topic_names(), *admin.group_names()) if one.startswith(PREFIX) and one.endswith(f"-{self._token}")]
                if not left or self._clock() >= end:
                    break
                self._sleep(0.2)
        c.observed, c.expected = left, []
        c.passed(not left)

    def c2(self, c: Check) -> None:
        """Committing a position."""
        c.observed, c.expected = self._commit_ms, f"<= {self.plan.commit_ms:g}"
        if self._refused:
            c.fail(self._refused)
        elif self._commit_ms is None:
            c.inconclusive("no position was committed")
        else:
            c.passed(self._commit_ms <= self.plan.commit_ms)

    def run(self) -> None:
        """Every check, in the report."""
        tool = "kafka-verifiable-producer.sh --acks -1, then kafka-verifiable-consumer.sh, on a topic with a partition led by every broker"
        self.report.run_checks([
            ({"id": "C1", "title": "numbered records pass through every broker whole and in order", "controls": ["SR 3.1", "SR 7.1"],
              "explain": tool, "hint": "B1 to B5 name the broker; a lost acknowledged record is serious: B8, then the brokers' logs"}, self.c1),
            ({"id": "C1", "subject": "latency", "title": "acknowledged and back in time", "unit": "ms", "controls": ["SR 7.1"],
              "explain": "kafka-e2e-latency.sh", "hint": "the slowest broker's disk or link"}, self.c1_latency),
            ({"id": "C2", "title": "a reader's position is kept in time", "unit": "ms", "controls": ["SR 7.1"],
              "explain": "kafka-consumer-groups.sh --describe", "hint": "__consumer_offsets: B3, B5, B7"}, self.c2),
            ({"id": "C1", "subject": "cleanup", "title": "the canary left nothing behind", "controls": ["SR 7.6"],
              "explain": f"kafka-topics.sh --list | grep '^{PREFIX}'", "hint": "the next canary deletes it when its time is over"}, self.c1_cleanup),
        ])


def not_flown(report: Report, reason: str) -> None:
    """The same checks, unrun."""
    for check, subject in (("C1", ""), ("C1", "latency"), ("C2", ""), ("C1", "cleanup")):
        report.skip(check, "canary of the cluster", reason, subject=subject)
