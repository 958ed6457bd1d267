# SPDX-License-Identifier: Apache-2.0
"""Replacing a voter: the two requests byte by byte, the order of the steps, and the states in which none may be taken."""

from __future__ import annotations

import dataclasses
import struct

import pytest
from fake_time import Time

from ansible_collections.hnai.platform.plugins.module_utils.kafka import voters
from ansible_collections.hnai.platform.plugins.module_utils.kafka.state import Quorum, Unreachable, Voter

NOW = 1_800_000_000_000
NEW, OLD = "AAAAAAAAAAAAAAAAAAAJAA", "AAAAAAAAAAAAAAAAAAACAA"
ME = voters.Me(2, NEW, "kafka2", 9093)


class Stream:
    """Answers every request with one error code and message."""

    def __init__(self, code: int = 0, message: str = "") -> None:
        self.code, self.message, self.sent = code, message, b""
        self._out = b""

    def sendall(self, data: bytes, /) -> None:
        self.sent = data[4:]
        text = bytes([len(self.message) + 1]) + self.message.encode() if self.message else b"\x00"
        answer = data[8:12] + b"\x00" + struct.pack(">ih", 0, self.code) + text + b"\x00"
        self._out += struct.pack(">i", len(answer)) + answer

    def recv(self, size: int, /) -> bytes:
        part, self._out = self._out[:size], self._out[size:]
        return part


def test_requests() -> None:
    stream = Stream()
    voters.add(stream, ME, 30000)
    assert struct.unpack_from(">hh", stream.sent) == (80, 0)
    body = stream.sent[8 + 6:]
    assert body == (b"\x00\x00" + struct.pack(">ii", 30000, 2) + voters.directory_bytes(NEW) + b"\x02" + b"\x0bCONTROLLER" + b"\x07kafka2"
                    + struct.pack(">H", 9093) + b"\x00\x00")
    voters.remove(stream, 2, OLD)
    assert struct.unpack_from(">hh", stream.sent) == (81, 0)
    assert stream.sent[8 + 6:] == b"\x00\x00" + struct.pack(">i", 2) + voters.directory_bytes(OLD) + b"\x00"
    assert len(voters.directory_bytes(OLD)) == 16


def test_a_refusal_says_why_and_what_is_so_already_is_fine() -> None:
    with pytest.raises(voters.VoterError, match="voter 2 was not removed: error 42 no such luck"):
        voters.remove(Stream(42, "no such luck"), 2, OLD)
    voters.remove(Stream(127), 2, OLD)
    voters.add(Stream(126), ME, 1)
    with pytest.raises(voters.VoterError):
        voters.add(Stream(7), ME, 1)


def voter(node: int, directory: str, lag: int = 0, end: int = 100) -> Voter:
    return Voter(node, directory, end, NOW, NOW - lag)


def quorum(*more: Voter, leader: int = 1, lag: int = 0, observers: tuple[Voter, ...] = (voter(2, NEW),)) -> Quorum:
    return Quorum(leader, 3, 100, (voter(1, "d1"), *more, voter(3, "d3", lag)), observers)


class Cluster:
    """A quorum that does what it is told; `observed` says when the new directory follows."""

    def __init__(self, time: Time, ready_at: float = 0.0, lag: int = 0) -> None:
        self.time, self.ready_at, self.lag = time, ready_at, lag
        self.mine: list[str] = [OLD]
        self.done: list[str] = []
        self.leader = 1

    def quorum(self) -> Quorum:
        follows = self.time.now >= self.ready_at and NEW not in self.mine
        return quorum(*(voter(2, one, 60_000 if one == OLD else 0) for one in self.mine), leader=self.leader, lag=self.lag,
                      observers=(voter(2, NEW),) if follows else ())

    def remove(self, node: int, directory: str) -> None:
        assert self.time.now >= self.ready_at, "the old voter went before the new one followed"
        self.mine.remove(directory)
        self.done.append(f"-{directory}")

    def add(self, node: int, directory: str, listener: str, host: str, port: int) -> None:
        assert OLD not in self.mine
        assert (node, listener, host, port) == (2, "CONTROLLER", "kafka2", 9093)
        self.mine.append(directory)
        self.done.append(f"+{directory}")


def test_the_new_directory_follows_before_the_old_voter_goes() -> None:
    time = Time()
    cluster = Cluster(time, ready_at=5.0)
    assert voters.replace(cluster, ME, 2000, 60, time.clock, time.sleep) == [f"removed voter 2 {OLD}", f"added voter 2 {NEW}"]
    assert cluster.done == [f"-{OLD}", f"+{NEW}"]
    assert len(cluster.quorum().voters) == 3


def test_a_run_that_was_killed_between_the_two_steps_goes_on() -> None:
    time = Time()
    cluster = Cluster(time)
    cluster.mine = []
    assert voters.replace(cluster, ME, 2000, 60, time.clock, time.sleep) == [f"added voter 2 {NEW}"]


def test_a_node_that_joined_by_itself_is_not_added_again() -> None:
    time = Time()

    class Joins(Cluster):
        def quorum(self) -> Quorum:
            if self.time.now >= 3.0:
                self.mine = [NEW]
            return super().quorum()

    joins = Joins(time, ready_at=1e9)
    assert voters.replace(joins, ME, 2000, 60, time.clock, time.sleep) == []
    assert joins.done == []


def test_what_is_so_already_is_left_alone() -> None:
    time = Time()
    cluster = Cluster(time)
    cluster.mine = [NEW]
    assert voters.replace(cluster, ME, 2000, 60, time.clock, time.sleep) == []
    assert cluster.done == []


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"lag": 5000}, "voter 3 is not caught up"),
        ({"leader": -1}, "no leader"),
        ({"leader": 2}, "active controller"),
    ],
)
def test_no_step_is_taken_where_it_would_endanger_the_quorum(change: dict[str, int], word: str) -> None:
    time = Time()
    cluster = Cluster(time)
    for key, value in change.items():
        setattr(cluster, key, value)
    with pytest.raises(voters.VoterError, match=word):
        voters.replace(cluster, ME, 2000, 10, time.clock, time.sleep)
    assert cluster.done == []


def test_a_node_that_never_follows_keeps_its_old_voter() -> None:
    time = Time()
    cluster = Cluster(time, ready_at=1e9)
    with pytest.raises(voters.VoterError, match="does not follow"):
        voters.replace(cluster, ME, 2000, 10, time.clock, time.sleep)
    assert cluster.mine == [OLD]


def test_a_moment_without_an_answer_is_waited_through() -> None:
    time = Time()

    class Shaky(Cluster):
        looks = 0

        def quorum(self) -> Quorum:
            self.looks += 1
            if self.looks == 3:
                raise Unreachable("a new leader is being elected")
            return super().quorum()

    assert len(voters.replace(Shaky(time), ME, 2000, 60, time.clock, time.sleep)) == 2


def test_a_leader_that_gave_up_waiting_is_asked_again() -> None:
    time = Time()

    class Slow(Cluster):
        tries = 0

        def add(self, node: int, directory: str, listener: str, host: str, port: int) -> None:
            self.tries += 1
            if self.tries < 3:
                voters.add(Stream(7, "lagging behind"), ME, 1)
            super().add(node, directory, listener, host, port)

    slow = Slow(time)
    assert len(voters.replace(slow, ME, 2000, 60, time.clock, time.sleep)) == 2
    assert slow.tries == 3
    with pytest.raises(voters.VoterError, match="lagging behind"):
        voters.replace(Slow(Time()), ME, 2000, 0, lambda: 100.0, time.sleep)


def test_plan_sees_every_old_directory() -> None:
    both = dataclasses.replace(quorum(), voters=(voter(1, "d1"), voter(2, OLD), voter(3, "d3")))
    assert voters.plan(both, ME, 2000) == ([OLD], True)
    assert voters.plan(dataclasses.replace(both, voters=(voter(1, "d1"), voter(2, NEW), voter(3, "d3"))), ME, 2000) == ([], False)
