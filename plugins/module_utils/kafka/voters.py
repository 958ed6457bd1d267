# SPDX-License-Identifier: Apache-2.0
"""A node with a new disk takes the place of its old one in the metadata quorum: same id, another directory, as many voters as before.

The client library has no such request, so the two are spoken here. Sources: AddRaftVoterRequest and RemoveRaftVoterRequest v0 (KIP-853).
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from .scram import Stream, call
from .state import KafkaError, Quorum, Unreachable

_ADD, _REMOVE = 80, 81
#: What the leader says of a voter that it is already rid of, or already has.
_NOT_FOUND, _DUPLICATE = 127, 126
#: The leader gave up waiting until the new voter had caught up; asked again it starts anew.
_TIMED_OUT = 7


class VoterError(KafkaError):
    """The quorum is left as it is; the text says why."""


class Lagging(VoterError):
    """Not now: the new voter was not caught up in time."""


class Cluster(Protocol):
    """What is asked of and done to the quorum."""

    def quorum(self) -> Quorum: ...

    def remove(self, node: int, directory: str) -> None: ...

    def add(self, node: int, directory: str, listener: str, host: str, port: int) -> None: ...


@dataclass(frozen=True)
class Me:
    """This node. `directory`: id that stands in its log directory; host and port of its controller listener."""

    node: int
    directory: str
    host: str
    port: int
    listener: str = "CONTROLLER"


def _compact(text: str) -> bytes:
    raw = text.encode("utf-8")
    if len(raw) > 126:
        raise VoterError(f"{text}: is too long a name")
    return bytes([len(raw) + 1]) + raw


def directory_bytes(directory: str) -> bytes:
    """16 bytes of a directory id as Kafka prints it."""
    return base64.urlsafe_b64decode(directory + "==")


def add(stream: Stream, me: Me, timeout_ms: int) -> None:
    """AddRaftVoter v0. Raises VoterError when it is refused."""
    listener = _compact(me.listener) + _compact(me.host) + struct.pack(">H", me.port) + b"\x00"
    body = b"\x00" + b"\x00" + struct.pack(">ii", timeout_ms, me.node) + directory_bytes(me.directory) + b"\x02" + listener + b"\x00"
    _judge(call(stream, _ADD, 0, 1, body), f"voter {me.node} was not added", _DUPLICATE)


def remove(stream: Stream, node: int, directory: str) -> None:
    """RemoveRaftVoter v0. Raises VoterError when it is refused."""
    body = b"\x00" + b"\x00" + struct.pack(">i", node) + directory_bytes(directory) + b"\x00"
    _judge(call(stream, _REMOVE, 0, 2, body), f"voter {node} was not removed", _NOT_FOUND)


def _judge(answer: bytes, what: str, fine: int) -> None:
    """Header tags, throttle time, error code, compact message."""
    code = struct.unpack_from(">h", answer, 5)[0]
    if code and code != fine:
        size = answer[7] - 1 if len(answer) > 7 else 0
        kind = Lagging if code == _TIMED_OUT else VoterError
        raise kind(f"{what}: error {code} {answer[8:8 + max(0, size)].decode('utf-8', 'replace')}".rstrip())


def plan(quorum: Quorum, me: Me, max_lag_ms: float) -> tuple[list[str], bool]:
    """(directories of this node to be removed, whether to add it). Raises VoterError where a step would endanger the quorum."""
    if quorum.leader_id < 0:
        raise VoterError("the metadata quorum has no leader; see the runbook on its loss before anything is replaced")
    old = [v.directory for v in quorum.voters if v.id == me.node and v.directory != me.directory]
    there = any((v.id, v.directory) == (me.node, me.directory) for v in quorum.voters)
    others = [v for v in quorum.voters if v.id != me.node]
    late = [v.id for v in others if quorum.lag_ms(v) >= max_lag_ms]
    if old and len(others) - len(late) < quorum.majority:
        raise VoterError(f"voter {', '.join(map(str, late))} is not caught up; while a voter is replaced the others are the majority. Nothing was changed")
    if old and quorum.leader_id == me.node:
        raise VoterError(f"node {me.node} is the active controller under its old directory; it runs on the old disk, so there is nothing to replace")
    return old, not there


def replace(cluster: Cluster, me: Me, max_lag_ms: float, deadline_s: float, clock: Callable[[], float], sleep: Callable[[float], None]) -> list[str]:
    """Put this node's directory into the place of its old one. Returns what was done ([]: it was there). Raises VoterError."""
    end = clock() + deadline_s
    done: list[str] = []

    def until(what: str, good: Callable[[Quorum], bool]) -> Quorum:
        while True:
            try:
                quorum = cluster.quorum()
                if good(quorum):
                    return quorum
            except Unreachable as error:
                if clock() >= end:
                    raise VoterError(f"{what}: {error}") from error
            if clock() >= end:
                raise VoterError(f"after {deadline_s:g} s: {what}; look at 'journalctl -u hnai-kafka' of node {me.node}, then run again")
            sleep(0.5)

    _old, wanted = plan(cluster.quorum(), me, max_lag_ms)
    if not wanted:
        return done

    def follows(quorum: Quorum) -> bool:
        # A controller with controller.quorum.auto.join.enable becomes a voter by itself.
        return any((v.id, v.directory) == (me.node, me.directory) and quorum.lag_ms(v) < max_lag_ms for v in (*quorum.observers, *quorum.voters))

    # It has the whole log before the old voter goes: the time with one voter less is short.
    quorum = until(f"node {me.node} does not follow the metadata log with directory {me.directory}", follows)
    old, wanted = plan(quorum, me, max_lag_ms)
    for directory in old:
        cluster.remove(me.node, directory)
        done.append(f"removed voter {me.node} {directory}")
    until(f"the old voter {me.node} is still there", lambda q: not any(v.id == me.node and v.directory in old for v in q.voters))
    while wanted:
        try:
            cluster.add(me.node, me.directory, me.listener, me.host, me.port)
            break
        except Lagging:
            if clock() >= end:
                raise
            sleep(1.0)
    done += [f"added voter {me.node} {me.directory}"] if wanted else []
    until(f"voter {me.node} is not there", lambda q: any((v.id, v.directory) == (me.node, me.directory) for v in q.voters))
    return done
