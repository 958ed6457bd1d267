# SPDX-License-Identifier: Apache-2.0
"""What a cluster looked like at one moment, as plain data: input of the restart gate and of the health checks."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field


class KafkaError(Exception):
    """Kafka refused or did something else than asked; the text says what and, where known, the remedy."""


class Unreachable(KafkaError):
    """No broker answered in time. Says nothing about the cluster's state."""


#: What a SCRAM login needs: (user, mechanism).
Login = tuple[str, str]


def lacking(known: Mapping[int, AbstractSet[Login]]) -> dict[int, set[Login]]:
    """Broker → what it does not know and another one does. `known`: broker → what it said itself."""
    everything: set[Login] = set().union(*known.values())
    return {node: everything - have for node, have in known.items() if everything - have}


@dataclass(frozen=True)
class Voter:
    """One replica of the metadata log. Times in ms since the epoch, -1 = never."""

    id: int
    directory: str
    end_offset: int
    last_fetch_ms: int
    last_caught_up_ms: int


@dataclass(frozen=True)
class Quorum:
    """The metadata quorum as its leader sees it. `leader_id` -1 = there is none."""

    leader_id: int
    leader_epoch: int
    high_watermark: int
    voters: tuple[Voter, ...]
    observers: tuple[Voter, ...] = ()

    @property
    def majority(self) -> int:
        """How many voters decide."""
        return len(self.voters) // 2 + 1

    def lag_ms(self, voter: Voter) -> float:
        """How long ago `voter` had everything that the leader has (ms); infinite if never or if there is no leader."""
        if voter.id == self.leader_id:
            return 0.0
        leader = next((v for v in self.voters if v.id == self.leader_id), None)
        if leader is None or leader.last_caught_up_ms < 0 or voter.last_caught_up_ms < 0:
            return float("inf")
        return max(0.0, float(leader.last_caught_up_ms - voter.last_caught_up_ms))

    def fetch_age_ms(self, replica: Voter) -> float:
        """How long ago `replica` last asked the leader for more (ms, by the leader's clock); infinite if never or without a leader."""
        if replica.id == self.leader_id:
            return 0.0
        leader = next((v for v in self.voters if v.id == self.leader_id), None)
        if leader is None or leader.last_caught_up_ms < 0 or replica.last_fetch_ms < 0:
            return float("inf")
        return max(0.0, float(leader.last_caught_up_ms - replica.last_fetch_ms))

    def behind(self, max_lag_ms: float) -> list[int]:
        """Voters that are not caught up: time decides, not offsets (KIP-836)."""
        return sorted(v.id for v in self.voters if self.lag_ms(v) >= max_lag_ms)


@dataclass(frozen=True)
class Partition:
    """One partition. `leader` -1 = offline."""

    topic: str
    number: int
    leader: int
    replicas: tuple[int, ...]
    isr: tuple[int, ...]
    min_isr: int

    @property
    def name(self) -> str:
        """topic-number, as Kafka's tools write it."""
        return f"{self.topic}-{self.number}"


@dataclass(frozen=True)
class Snapshot:
    """A whole cluster. `brokers`: id → fenced, of every broker that is registered; `racks`: id → rack where one is declared;
    `unclean`: topics in which a replica that missed records may lead; `users`: broker → what each live one says that it knows; `silent`: broker → why
    it did not say."""

    cluster_id: str
    quorum: Quorum
    brokers: dict[int, bool]
    partitions: tuple[Partition, ...] = ()
    reassignments: tuple[str, ...] = field(default=())
    racks: Mapping[int, str] = field(default_factory=dict)
    unclean: tuple[str, ...] = ()
    users: Mapping[int, AbstractSet[Login]] = field(default_factory=dict)
    silent: Mapping[int, str] = field(default_factory=dict)

    def offline(self) -> list[str]:
        """Partitions without a leader."""
        return sorted(p.name for p in self.partitions if p.leader < 0)

    def under_min_isr(self) -> list[str]:
        """Partitions that refuse acks=all."""
        return sorted(p.name for p in self.partitions if len(p.isr) < p.min_isr)

    def at_min_isr(self) -> list[str]:
        """Partitions of several replicas that refuse acks=all as soon as one more goes: others are away, or all are asked for."""
        return sorted(p.name for p in self.partitions if len(p.isr) == p.min_isr and len(p.replicas) > 1)

    def off_preferred(self) -> list[str]:
        """Partitions that are led, but not by their first replica."""
        return sorted(p.name for p in self.partitions if p.leader >= 0 and p.replicas and p.leader != p.replicas[0])

    def under_replicated(self) -> list[str]:
        """Partitions with a replica that is not in sync."""
        return sorted(p.name for p in self.partitions if len(p.isr) < len(p.replicas))

    def lacking(self) -> dict[int, set[Login]]:
        """Broker → what another one knows and it does not: it refuses those clients."""
        return lacking(self.users)

    def live(self) -> set[int]:
        """Registered brokers that are not fenced."""
        return {node for node, fenced in self.brokers.items() if not fenced}


@dataclass(frozen=True)
class Position:
    """Where a group stands in one partition. `committed` -1: nowhere; `due`: first offset that it may not have read yet without being
    late (-1: every record is older than that), `due_ms` the time of that record; `begin`: first offset that is there."""

    topic: str
    number: int
    committed: int
    end: int
    due: int
    due_ms: int = -1
    begin: int = 0

    @property
    def lag(self) -> int:
        """Records that wait."""
        return self.end - max(self.begin, self.committed)

    @property
    def late(self) -> bool:
        """Whether a record waits that should have been read by now."""
        return max(self.begin, self.committed) < (self.end if self.due < 0 else self.due)

    @property
    def lost(self) -> int:
        """Records that are gone (retention) and that it had not read."""
        return max(0, self.begin - self.committed) if self.committed >= 0 else 0

    @property
    def ahead(self) -> bool:
        """Whether it has read what the log does not have (any more): the end was asked for after the position."""
        return self.committed > self.end


@dataclass(frozen=True)
class Group:
    """One consumer group. `protocol` is empty for readers that only store their position (Flink): those have no members."""

    name: str
    state: str
    protocol: str
    positions: tuple[Position, ...] = ()
