# SPDX-License-Identifier: Apache-2.0
"""May a broker's lost disk be replaced now, and by which steps: decided from what lies on its host and what the surviving brokers say.

Why so strict: a broker that comes back with an empty disk is given the lead of every partition of which it was the last one in sync, and the
others then cut their copies down to its empty one (measured on 4.3.1: KIP-966 elects the last leader that is known once it is there again).
No partition is offline afterwards, so nothing tells that records are gone. It is refused before, where it can still be seen.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from .state import Partition, Quorum, Snapshot
from .storage import StorageError, identity

_SHOWN = 5
#: A broker that was stopped is fenced when its session has ended (9 s).
_FENCED = "a broker that was just stopped is fenced after 9 s"


@dataclass(frozen=True)
class Disk:
    """What lies in a broker's log directory. `directory` is "" where it is empty; `problem`: why it cannot be told what it is; `under_way`: a
    replacement has begun on this host and has not ended."""

    cluster: str = ""
    node: str = ""
    directory: str = ""
    problem: str = ""
    under_way: bool = False


@dataclass(frozen=True)
class Me:
    """The broker to be replaced, as it is declared. `directory`: a declared directory id, "" where it is derived."""

    node: int
    host: str
    cluster: str
    directory: str = ""


@dataclass(frozen=True)
class Rules:
    """`expected`: node id → host of every declared broker. `later`: those of them that are known to be lost too, and are replaced afterwards."""

    expected: Mapping[int, str]
    max_lag_ms: float = 2000.0
    later: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Plan:
    """`reasons` is empty exactly when it may be done; then `steps` says what is left to do. `old`: directories that are voters in its place now.
    `lasting`: waiting does not help."""

    reasons: tuple[str, ...]
    steps: tuple[str, ...] = ()
    old: tuple[str, ...] = ()
    lasting: bool = False


def look(log_dir: str, marker: str) -> Disk:
    """What lies on this host. `marker`: file that stands while a replacement is under way."""
    under_way = os.path.lexists(marker)
    try:
        meta = identity(log_dir)
    except (StorageError, OSError, UnicodeDecodeError) as error:
        return Disk(problem=str(error), under_way=under_way)
    if meta is None:
        return Disk(under_way=under_way)
    absent = [key for key in ("cluster.id", "node.id", "directory.id") if not meta.get(key)]
    if absent:
        return Disk(problem=f"{log_dir}: its meta.properties has no {', '.join(absent)}", under_way=under_way)
    return Disk(meta["cluster.id"], meta["node.id"], meta["directory.id"], "", under_way)


def remembered(me: Me, begun: str) -> bytes:
    """What the marker holds, for whoever finds it."""
    what = {"node.id": me.node, "begun": begun, "remedy": f"ansible-playbook hnai.platform.kafka_replace -e replace={me.host}"}
    return (json.dumps(what, sort_keys=True) + "\n").encode()


def plan(snapshot: Snapshot | None, disk: Disk, me: Me, rules: Rules) -> Plan:
    """Whether and how. `snapshot`: as a broker other than `me` answers, None when none does."""
    reasons = _of_the_disk(disk, me)
    if reasons:
        return Plan(tuple(reasons), lasting=True)
    if snapshot is None:
        reasons.append("no other broker answers: without a majority nothing can be replaced; see docs/runbooks/kafka-quorum-loss.md")
        return Plan(tuple(reasons))
    if snapshot.cluster_id != me.cluster:
        reasons.append(f"the brokers that answer are of cluster {snapshot.cluster_id}, the inventory declares {me.cluster} (kafka_cluster_id, hnai_site)")
    quorum = snapshot.quorum
    if quorum.leader_id < 0:
        reasons.append("the metadata quorum has no leader; see docs/runbooks/kafka-quorum-loss.md")
        return Plan(tuple(reasons))
    if disk.directory and not disk.under_way:
        return Plan((*reasons, _not_lost(quorum, disk, me)), lasting=True)  # The wrong host was named: what else is broken is another one's matter.
    reasons += _still_running(snapshot, disk, me, rules)
    reasons += _of_the_others(snapshot, disk, me, rules)
    reasons += _of_the_partitions(snapshot, disk, me, rules)
    old = tuple(v.directory for v in quorum.voters if v.id == me.node and v.directory != disk.directory)
    return Plan(tuple(reasons)) if reasons else Plan((), tuple(_steps(snapshot, disk, me, old)), old)


def _of_the_disk(disk: Disk, me: Me) -> list[str]:
    if disk.problem:
        return [disk.problem]
    reasons = []
    if me.directory:
        reasons.append(f"kafka_directory_id of {me.host}: is declared, and the old disk had it; take it out of the inventory, a new disk gets an id of its own")
    if disk.directory and disk.cluster != me.cluster:
        reasons.append(f"{me.host}: its log directory belongs to cluster {disk.cluster}, not to {me.cluster}; move it away")
    if disk.directory and disk.node != str(me.node):
        reasons.append(f"{me.host}: its log directory belongs to node {disk.node}, not to {me.node}; move it away")
    return reasons


def _not_lost(quorum: Quorum, disk: Disk, me: Me) -> str:
    if any((v.id, v.directory) == (me.node, disk.directory) for v in quorum.voters):
        return (f"{me.host} has its data: directory {disk.directory} is the voter of node {me.node}, there is nothing to replace. Where the broker is down, "
                "site.yml --tags kafka starts it")
    return (f"{me.host}: its log directory {disk.directory} is no voter, and no replacement is under way: it may be a disk that was replaced before, and "
            "its records are old. Empty it, then run again")


def _still_running(snapshot: Snapshot, disk: Disk, me: Me, rules: Rules) -> list[str]:
    """Nothing runs on the lost disk any more."""
    quorum = snapshot.quorum
    running = [v.directory for v in quorum.voters if v.id == me.node and v.directory != disk.directory and quorum.fetch_age_ms(v) < rules.max_lag_ms]
    if running:
        return [f"node {me.node} still runs on directory {running[0]}; stop hnai-kafka on {me.host} first ({_FENCED})"]
    if me.node in snapshot.live() and not disk.directory:
        return [f"broker {me.node} is registered and not fenced, although {me.host} has no data; stop hnai-kafka on {me.host} first ({_FENCED})"]
    return []


def _of_the_others(snapshot: Snapshot, disk: Disk, me: Me, rules: Rules) -> list[str]:
    """All others are there, less those that are known to be lost: while one is replaced there is no reserve."""
    quorum = snapshot.quorum
    reasons = []
    strange = sorted({v.id for v in quorum.voters} - set(rules.expected))
    if strange:
        reasons.append(f"voter {_some(strange)} is not in the inventory (Q2)")
    others = sorted(set(rules.expected) - {me.node} - rules.later)
    absent = [node for node in others if node not in {v.id for v in quorum.voters}]
    if absent:
        reasons.append(f"node {_some(absent)} is no voter; if its disk is lost as well, say so with -e replace_later=HOST")
    behind = {v.id for v in quorum.voters if v.id != me.node and quorum.lag_ms(v) >= rules.max_lag_ms}
    late = sorted(behind - rules.later)
    if late:
        reasons.append(f"voter {_some(late)} is not caught up; while a broker is replaced all others are needed")
    # Once it is a voter by its new disk it counts itself.
    there = {v.id for v in quorum.voters if v.id not in behind and (v.id != me.node or v.directory == disk.directory)}
    if not late and not absent and len(there) < quorum.majority:
        reasons.append(f"without node {_some(sorted({me.node, *rules.later}))} there is no majority; see docs/runbooks/kafka-quorum-loss.md")
    down = [node for node in others if node not in snapshot.live()]
    if down:
        reasons.append(f"broker {_some(down)} is not there or fenced; site.yml --tags kafka repairs it")
    return reasons


def _of_the_partitions(snapshot: Snapshot, disk: Disk, me: Me, rules: Rules) -> list[str]:
    """Every record that is to be kept is on another broker that is in sync. Once the new disk is in use there is nothing left to lose on the old one."""
    lost = [p for p in snapshot.partitions if not disk.directory and me.node in p.replicas and _lost(p, me)]
    offline = [p.name for p in snapshot.partitions if p.leader < 0 and p not in lost]
    weak = [p.name for p in snapshot.partitions if p not in lost and p.name not in offline
            and len(set(p.isr) - {me.node}) < min(p.min_isr, len(set(p.replicas) - {me.node} - rules.later))]
    reasons = []
    if lost:
        reasons.append(f"only the lost disk was in sync: {_some(p.name for p in lost)}. A broker that comes back empty would lead them, and what "
                       "the others have of them would be deleted. First restore the disk, or elect another replica (kafka-leader-election.sh --election-type "
                       "unclean), or delete the topic; docs/kafka-replace.md")
    if offline:
        reasons.append(f"offline: {_some(offline)}")
    if weak:
        reasons.append(f"fewer in sync than min.insync.replicas on the other brokers: {_some(weak)}; wait until they have caught up (B5)")
    if snapshot.reassignments:
        reasons.append(f"being reassigned: {_some(snapshot.reassignments)}; wait, or cancel it (B9)")
    return reasons


def _lost(partition: Partition, me: Me) -> bool:
    """Nobody leads it, or this broker alone is in sync."""
    return partition.leader < 0 or not set(partition.isr) - {me.node}


def _steps(snapshot: Snapshot, disk: Disk, me: Me, old: Iterable[str]) -> list[str]:
    """What is left to do, in this order."""
    quorum: Quorum = snapshot.quorum
    steps = []
    new = disk.directory or "(made by the format)"
    if not disk.directory:
        steps.append(f"format the empty log directory for node {me.node} of cluster {me.cluster}, with a new directory id and not as an initial controller")
    if not any((v.id, v.directory) == (me.node, disk.directory) for v in quorum.voters):
        steps.append(f"start the broker; wait until node {me.node} follows the metadata log with directory {new}")
        steps += [f"remove voter {me.node} {directory}" for directory in old]
        steps.append(f"add voter {me.node} {new}")
    replicas = [p for p in snapshot.partitions if me.node in p.replicas and me.node not in p.isr]
    return [*steps, f"wait until {len(replicas)} replicas are in sync again", "judge the cluster (kafka_health)"]


def _some(names: Iterable[object]) -> str:
    texts = [str(name) for name in names]
    return ", ".join(texts[:_SHOWN]) + (f" and {len(texts) - _SHOWN} more" if len(texts) > _SHOWN else "")
