# SPDX-License-Identifier: Apache-2.0
"""May this broker be restarted now, and when is its turn?

The rules are those of Strimzi's KafkaRoller (proposal 060), decided on one snapshot: order = not ready, followers, active
controller; a restart must leave the metadata quorum a caught-up majority and every partition at its min.insync.replicas.
What cannot be seen is never "allowed": the one exception is a node that serves nobody while nobody else answers either
(the whole cluster is down), because there is nothing left to protect and a restart is the cure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from .state import KafkaError, Snapshot, Unreachable

NOT_READY, FOLLOWER, ACTIVE_CONTROLLER = 0, 1, 2
_SHOWN = 5
#: So many looks in a row, one a second: news of the metadata log reaches a broker in milliseconds.
_LASTING = 5


@dataclass(frozen=True)
class Rules:
    """What the gate holds a cluster against. `expected`: node ids that the inventory declares."""

    expected: tuple[int, ...]
    max_lag_ms: float = 2000.0


@dataclass(frozen=True)
class Decision:
    """`reasons` is empty exactly when the restart is allowed. `rank`: 0 not ready, 1 follower, 2 active controller."""

    rank: int
    reasons: tuple[str, ...]

    @property
    def allowed(self) -> bool:
        """Whether it may be restarted now."""
        return not self.reasons


def _some(names: Iterable[object]) -> str:
    texts = [str(name) for name in names]
    return ", ".join(texts[:_SHOWN]) + (f" and {len(texts) - _SHOWN} more" if len(texts) > _SHOWN else "")


def serves(snapshot: Snapshot | None, node: int, serving: bool) -> bool:
    """Whether clients can use it. `serving`: its own broker listener accepts connections (also a process that hangs does that)."""
    return serving and (snapshot is None or node in snapshot.live())


def rank(snapshot: Snapshot | None, node: int, serving: bool, rules: Rules) -> int:
    """When its turn is. A broker that serves but whose controller is not caught up is not ready either."""
    if not serves(snapshot, node, serving):
        return NOT_READY
    if snapshot is None:
        return FOLLOWER
    if snapshot.quorum.leader_id >= 0 and node in snapshot.quorum.behind(rules.max_lag_ms):
        return NOT_READY
    return ACTIVE_CONTROLLER if snapshot.quorum.leader_id == node else FOLLOWER


def forgotten(snapshot: Snapshot, but: int | None = None) -> list[str]:
    """Brokers, without `but`, that lost users in a restart (users.py): the next restart could take those clients their last broker. Waiting brings
    nothing back."""
    return [f"broker {node} does not know user {_some(' '.join(login) for login in sorted(found))}, which another one does: it refuses those clients; "
            "site.yml --tags kafka writes the declared ones again" for node, found in sorted(snapshot.lacking().items()) if node != but]


def _unsaid(snapshot: Snapshot, but: int | None = None) -> list[str]:
    return [f"broker {node} does not say which users it knows: {why}" for node, why in sorted(snapshot.silent.items()) if node != but]


def decide(snapshot: Snapshot | None, node: int, serving: bool, rules: Rules) -> Decision:
    """Whether `node` may be restarted. `snapshot` None: no broker answered."""
    position = rank(snapshot, node, serving, rules)
    if snapshot is None:
        if not serving:
            return Decision(position, ())
        why = ("no broker answers about the cluster, although this one accepts connections; look at its certificate (S1) and at its log "
               "before restarting anything")
        return Decision(position, (why,))
    used = serves(snapshot, node, serving)
    alone = len(rules.expected) == 1  # No redundancy is declared, so there is none to keep.
    quorum = snapshot.quorum
    reasons: list[str] = []
    if quorum.leader_id < 0 and used:
        reasons.append("the metadata quorum has no leader")
    others_ahead = [v.id for v in quorum.voters if v.id != node and quorum.lag_ms(v) < rules.max_lag_ms]
    is_voter = any(v.id == node for v in quorum.voters)
    behind = [voter for voter in quorum.behind(rules.max_lag_ms) if voter != node]
    if quorum.leader_id >= 0:
        # A voter that is behind decides nothing now, so its restart takes nothing away.
        if is_voter and not alone and len(others_ahead) < quorum.majority and node not in quorum.behind(rules.max_lag_ms):
            reasons.append(f"without node {node} only {len(others_ahead)} of {len(quorum.voters)} voters are caught up, "
                           f"{quorum.majority} are needed")
        elif behind and used:
            reasons.append(f"voter {_some(behind)} is not caught up")
    fallen = sorted(p.name for p in snapshot.partitions
                    if node in p.isr and len(p.isr) == p.min_isr and not alone)
    if not used:
        # Starting it can only help, also where partitions are in need: it is in no ISR and leads nothing. Unless the controllers count on it all the same:
        # it died just now, and is fenced in seconds, or it is deaf here and serves on another listener.
        if fallen and quorum.leader_id >= 0 and node in snapshot.live():
            reasons.append(f"it does not answer here, but is not fenced, and without it would fall under min.insync.replicas: {_some(fallen)}")
        return Decision(position, tuple(reasons))
    missing = sorted(set(rules.expected) - snapshot.live())
    if missing:
        reasons.append(f"broker {_some(missing)} is not there or fenced")
    if snapshot.offline():
        reasons.append(f"offline: {_some(snapshot.offline())}")
    under = [name for name in snapshot.under_min_isr() if name not in set(snapshot.offline())]
    if under:
        reasons.append(f"under min.insync.replicas: {_some(under)}")
    if fallen:
        reasons.append(f"would fall under min.insync.replicas: {_some(fallen)}")
    if snapshot.reassignments:
        reasons.append(f"being reassigned: {_some(snapshot.reassignments)}")
    reasons += forgotten(snapshot, node) + _unsaid(snapshot, node)
    return Decision(position, tuple(reasons))


def unhealthy(snapshot: Snapshot | None, rules: Rules) -> list[str]:
    """Why the cluster is not (yet) whole; [] when the next broker may be looked at."""
    if snapshot is None:
        return ["no broker answers"]
    reasons: list[str] = []
    if snapshot.quorum.leader_id < 0:
        reasons.append("the metadata quorum has no leader")
    elif snapshot.quorum.behind(rules.max_lag_ms):
        reasons.append(f"voter {_some(snapshot.quorum.behind(rules.max_lag_ms))} is not caught up")
    missing = sorted(set(rules.expected) - snapshot.live())
    if missing:
        reasons.append(f"broker {_some(missing)} is not there or fenced")
    if snapshot.offline():
        reasons.append(f"offline: {_some(snapshot.offline())}")
    if snapshot.under_replicated():
        reasons.append(f"under-replicated: {_some(snapshot.under_replicated())}")
    return reasons + forgotten(snapshot) + _unsaid(snapshot)


def not_back(snapshot: Snapshot | None, node: int, rules: Rules) -> list[str]:
    """Why this one node is not (yet) back, whatever else is broken; [] when it serves, is caught up and is in sync wherever it has a replica."""
    if snapshot is None:
        return ["no broker answers"]
    reasons: list[str] = []
    if snapshot.quorum.leader_id < 0:
        reasons.append("the metadata quorum has no leader")
    elif node in snapshot.quorum.behind(rules.max_lag_ms):
        reasons.append(f"voter {node} is not caught up")
    if node not in snapshot.live():
        reasons.append(f"broker {node} is not there or fenced")
    out = sorted(p.name for p in snapshot.partitions if node in p.replicas and node not in p.isr)
    if out:
        reasons.append(f"not in sync on broker {node}: {_some(out)}")
    return reasons


def unreadable(finalized: Mapping[str, tuple[int, int]], reads: Mapping[str, int]) -> list[str]:
    """Feature levels in force (feature → (level, …)) above what the release on the host reads: a broker restarted into it would not come back.
    Nothing that one waits for."""
    return [f"{name} is finalized at {finalized[name][0]}, the release on this host reads up to {level} and would not start"
            for name, level in sorted(reads.items()) if name in finalized and finalized[name][0] > level]


def wait_until(
    look: Callable[[float], Snapshot],
    judge: Callable[[Snapshot | None], list[str]],
    deadline_s: float,
    clock: Callable[[], float],
    sleep: Callable[[float], None],
    stable: int = 1,
    interval_s: float = 1.0,
) -> tuple[Snapshot | None, list[str], float]:
    """Look again until `judge` finds nothing `stable` times in a row, or the deadline is over, or nothing is left but what waiting does not mend.

    `look(limit_s)` raises Unreachable when nobody answers. Returns the last snapshot, the last reasons ([] = good) and the
    seconds that passed.
    """
    begin = clock()
    good = lost = 0
    while True:
        left = deadline_s - (clock() - begin)
        snapshot: Snapshot | None = None
        try:
            snapshot = look(max(1.0, min(10.0, left)))
            reasons = judge(snapshot)
        except Unreachable as error:
            reasons = [f"{reason} ({error})" for reason in judge(None)]
        except KafkaError as error:
            reasons = [str(error)]  # Somebody answered, so this is not "nobody is there".
        good = 0 if reasons else good + 1
        lost = lost + 1 if reasons and snapshot is not None and set(reasons) <= set(forgotten(snapshot)) else 0
        passed = clock() - begin
        if good >= stable:
            return snapshot, [], passed
        if passed + interval_s >= deadline_s or lost >= _LASTING:
            return snapshot, reasons or ["not stable yet"], passed
        sleep(interval_s)
