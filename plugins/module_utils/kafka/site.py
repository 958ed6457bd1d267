# SPDX-License-Identifier: Apache-2.0
"""Topics, users, ACLs and quotas of a cluster, converged together: what the declaration allows, what differs, what was done.

Order: topics (something to have rights on), users, their quotas, ACLs added, ACLs removed. Each step is idempotent, so a run that was killed is simply
run again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from . import acls, quotas, topics, users
from .acls import Acl
from .canary import undeclared
from .state import KafkaError, Login
from .topics import Topic
from .users import User

#: The controller itself sets it over all files while it keeps eligible leaders (KIP-966); B2 and B3 of the verdict judge by it.
OF_THE_CONTROLLER = "min.insync.replicas"


class Cluster(Protocol):
    """What is needed of the cluster; adapter.Admin is one."""

    def topics(self) -> dict[str, Topic]: ...

    def create_topics(self, topics: Sequence[Topic], validate_only: bool = False) -> None: ...

    def grow_topics(self, partitions: Mapping[str, int]) -> None: ...

    def configure_topics(self, wanted: Mapping[str, Mapping[str, str]], reset: Mapping[str, Sequence[str]], validate_only: bool = False) -> None: ...

    def users(self) -> dict[str, dict[str, int]]: ...

    def lacking(self) -> set[Login]: ...

    def alter_users(self, upsert: Sequence[tuple[User, str]], delete: Sequence[tuple[str, str]]) -> None: ...

    def quotas(self) -> quotas.Quotas: ...

    def alter_quotas(self, changes: Sequence[tuple[str, str, float | None]]) -> None: ...

    def acls(self) -> list[Acl]: ...

    def create_acls(self, acls: Sequence[Acl]) -> None: ...

    def delete_acls(self, acls: Sequence[Acl]) -> None: ...

    def broker_ids(self) -> list[int]: ...

    def set_over_file(self, node: int) -> dict[str, str]: ...


@dataclass(frozen=True)
class Declared:
    """What the inventory and the approved conduits say. `levels`: principal → Purdue level of the zone that it comes from."""

    topics: tuple[Topic, ...]
    users: tuple[User, ...]
    acls: tuple[Acl, ...]
    levels: Mapping[str, float]
    supers: tuple[str, ...]
    brokers: int
    prune: bool = True
    quotas: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def problems(self) -> list[str]:
        """Everything that is wrong with it, at once. Nothing is touched while this is not empty."""
        return [
            *topics.check(self.topics, self.brokers),
            *users.check(self.users, self.supers),
            *quotas.check(self.quotas, [name for user in self.users for name in (user.name, user.twin) if name], self.supers),
            *acls.refused(self.acls, self.levels, self.topics, self.supers),
        ]


@dataclass
class Outcome:
    """What differs (and, after `apply`, was done). Texts never hold a password."""

    topics: topics.Plan
    users: users.Plan
    acls: acls.Plan
    quotas: quotas.Plan = field(default_factory=quotas.Plan)
    before: list[str] = field(default_factory=list)
    after: list[str] = field(default_factory=list)

    @property
    def changed(self) -> bool:
        """Whether anything differs."""
        return self.topics.changed or self.users.changed or self.acls.changed or self.quotas.changed


class Empty:
    """A cluster that is not there yet, for a prediction."""

    def topics(self) -> dict[str, Topic]:
        """None."""
        return {}

    def users(self) -> dict[str, dict[str, int]]:
        """None."""
        return {}

    def lacking(self) -> set[Login]:
        """None."""
        return set()

    def acls(self) -> list[Acl]:
        """None."""
        return []

    def quotas(self) -> quotas.Quotas:
        """None."""
        return {}


def plan(declared: Declared, cluster: Cluster | Empty, works: Callable[[User, str], bool]) -> Outcome:
    """What differs. Raises KafkaError for what cannot be converged without moving or losing data."""
    outcome = Outcome(
        topics=topics.plan(declared.topics, cluster.topics()),
        users=users.plan(declared.users, cluster.users(), works, declared.prune, cluster.lacking()),
        acls=acls.plan(declared.acls, cluster.acls()),
        quotas=quotas.plan(declared.quotas, cluster.quotas()),
    )
    if outcome.topics.problems:
        raise KafkaError("; ".join(outcome.topics.problems))
    outcome.before = [*outcome.topics.before, *outcome.users.before, *outcome.quotas.before, *(str(acl) for acl in outcome.acls.delete)]
    outcome.after = [*outcome.topics.after, *outcome.users.after, *outcome.quotas.after, *(str(acl) for acl in outcome.acls.create)]
    return outcome


def foreign(declared: Declared, cluster: Cluster) -> list[str]:
    """What nobody declared and `apply` leaves alone: topics, a declared user's other mechanism (half of a rotation, or a way in), and what is set over a
    broker's file (an operator's throttle, or anything else)."""
    present = cluster.users()
    found = [f"topic {name}" for name in undeclared(cluster.topics(), (topic.name for topic in declared.topics))]
    for user in declared.users:
        others = sorted(set(present.get(user.name, ())) - set(user.mechanisms))
        found += [f"user {user.name} {mechanism} beside {', '.join(user.mechanisms)}" for mechanism in others]
    for node in cluster.broker_ids():
        try:
            over = cluster.set_over_file(node)
            found += [f"broker {node} {key}={over[key] or '(not told)'} over its file" for key in sorted(set(over) - {OF_THE_CONTROLLER})]
        except KafkaError as error:  # It may be on its way down; the rest is converged without it.
            found.append(f"broker {node} does not say what is set over its file ({error})")
    return found


def rehearse(outcome: Outcome, cluster: Cluster) -> None:
    """Ask the brokers for their word on the settings of topics, which only they know; nothing is changed. Raises KafkaError."""
    if outcome.topics.create:
        cluster.create_topics(outcome.topics.create, validate_only=True)
    if outcome.topics.set_config:
        cluster.configure_topics(outcome.topics.set_config, {}, validate_only=True)


def apply(outcome: Outcome, cluster: Cluster) -> None:
    """Do it."""
    if outcome.topics.create:
        cluster.create_topics(outcome.topics.create)
    if outcome.topics.grow:
        cluster.grow_topics(outcome.topics.grow)
    if outcome.topics.set_config or outcome.topics.reset_config:
        cluster.configure_topics(outcome.topics.set_config, outcome.topics.reset_config)
    # Asked for together, a user of the first round could come before the anchor of the second mechanism, and in its bucket of the map stay before it.
    anchors = [one for one in outcome.users.upsert if one[0].name == users.ANCHOR]
    if anchors:
        cluster.alter_users(anchors, [])
    rest = [one for one in outcome.users.upsert if one not in anchors]
    if rest or outcome.users.delete:
        cluster.alter_users(rest, outcome.users.delete)
    if outcome.quotas.changed:
        cluster.alter_quotas(outcome.quotas.changes)
    if outcome.acls.create:
        cluster.create_acls(outcome.acls.create)
    if outcome.acls.delete:
        cluster.delete_acls(outcome.acls.delete)


def settle(
    declared: Declared, cluster: Cluster, works: Callable[[User, str], bool],
    deadline_s: float, clock: Callable[[], float], sleep: Callable[[float], None],
) -> None:
    """Wait until the cluster says what was asked of it (metadata reaches every broker a moment later). Raises KafkaError."""
    end = clock() + deadline_s
    while True:
        left = plan(declared, cluster, works)
        if not left.changed:
            return
        if clock() >= end:
            raise KafkaError(f"the cluster did not take over within {deadline_s:g} s: {'; '.join([*left.before, *left.after])}")
        sleep(0.3)
