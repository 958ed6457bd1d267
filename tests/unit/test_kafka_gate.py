# SPDX-License-Identifier: Apache-2.0
"""The restart gate on clusters in every state that it must refuse, and in the few in which it may allow."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import pytest
from fake_time import Time

from ansible_collections.hnai.platform.plugins.module_utils.kafka import gate
from ansible_collections.hnai.platform.plugins.module_utils.kafka.state import KafkaError, Partition, Quorum, Snapshot, Unreachable, Voter

NOW = 1_800_000_000_000
RULES = gate.Rules((1, 2, 3))


def quorum(leader: int = 3, lags: dict[int, int] | None = None) -> Quorum:
    """Three voters; `lags` in ms, -1 = never caught up."""
    lags = lags or {}

    def caught(node: int) -> int:
        lag = lags.get(node, 0 if node == leader else 200)
        return -1 if lag < 0 else NOW - lag

    return Quorum(leader, 5, 100, tuple(Voter(n, f"d{n}", 100, NOW, caught(n)) for n in (1, 2, 3)))


def partition(isr: Iterable[int] = (1, 2, 3), leader: int = 1, min_isr: int = 2, replicas: Iterable[int] = (1, 2, 3)) -> Partition:
    return Partition("ot.raw", 0, leader, tuple(replicas), tuple(isr), min_isr)


def cluster(**changes: object) -> Snapshot:
    base = Snapshot("c", quorum(), {1: False, 2: False, 3: False}, (partition(),))
    return dataclasses.replace(base, **changes)  # type: ignore[arg-type]


FLINK, WRITER = ("flink", "SCRAM-SHA-512"), ("telegraf-writer", "SCRAM-SHA-512")
#: Broker 2 lost one in its restart.
FORGOT = {1: {FLINK, WRITER}, 2: {WRITER}, 3: {FLINK, WRITER}}


def test_a_whole_cluster_restarts_followers_before_the_active_controller() -> None:
    decisions = {node: gate.decide(cluster(), node, True, RULES) for node in (1, 2, 3)}
    assert all(decision.allowed for decision in decisions.values())
    assert {node: decision.rank for node, decision in decisions.items()} == {1: 1, 2: 1, 3: 2}


@pytest.mark.parametrize(
    ("snapshot", "word"),
    [
        (cluster(quorum=quorum(leader=-1)), "no leader"),
        (cluster(brokers={1: False, 2: True, 3: False}), "broker 2 is not there or fenced"),
        (cluster(brokers={1: False, 3: False}), "broker 2 is not there or fenced"),
        (cluster(partitions=(partition(leader=-1),)), "offline: ot.raw-0"),
        (cluster(partitions=(partition(isr=(3,), leader=3),)), "under min.insync.replicas: ot.raw-0"),
        (cluster(partitions=(partition(isr=(1, 2)),)), "would fall under min.insync.replicas: ot.raw-0"),
        (cluster(partitions=(partition(isr=(1,), replicas=(1,), min_isr=1),)), "would fall under"),
        (cluster(reassignments=("ot.raw-0",)), "being reassigned"),
        (cluster(quorum=quorum(lags={2: 2000})), "caught up"),
        (cluster(quorum=quorum(lags={1: 9000, 2: 9000})), "voter 2 is not caught up"),
        (cluster(quorum=quorum(lags={2: -1})), "without node 1 only 1 of 3"),
        (cluster(users=FORGOT), "broker 2 does not know user flink SCRAM-SHA-512, which another one does"),
        (cluster(silent={3: "timed out"}), "broker 3 does not say which users it knows: timed out"),
    ],
)
def test_a_running_broker_is_refused(snapshot: Snapshot, word: str) -> None:
    decision = gate.decide(snapshot, 1, True, RULES)
    assert not decision.allowed
    assert word in "; ".join(decision.reasons)


def test_a_broker_whose_controller_lags_is_not_ready_and_is_restarted_first_if_its_replicas_can_be_spared() -> None:
    lags = quorum(lags={1: 9000})
    assert gate.decide(cluster(quorum=lags), 1, True, RULES) == gate.Decision(gate.NOT_READY, ())
    refused = gate.decide(cluster(quorum=lags, partitions=(partition(isr=(1, 2)),)), 1, True, RULES)
    assert refused.rank == gate.NOT_READY
    assert "would fall under" in refused.reasons[0]
    assert not gate.decide(cluster(quorum=lags), 2, True, RULES).allowed


def test_without_a_leader_nobody_is_called_behind() -> None:
    assert gate.rank(cluster(quorum=quorum(leader=-1)), 1, True, RULES) == gate.FOLLOWER


def test_a_process_that_hangs_still_accepts_but_is_not_ready() -> None:
    hung = cluster(brokers={1: True, 2: False, 3: False}, quorum=quorum(lags={1: 60_000}))
    assert gate.rank(hung, 1, True, RULES) == gate.NOT_READY
    assert gate.decide(hung, 1, True, RULES).allowed
    assert "broker 1 is not there" in "; ".join(gate.decide(hung, 2, True, RULES).reasons)


def test_one_node_is_back_whatever_else_is_broken() -> None:
    other = cluster(brokers={1: False, 2: False}, partitions=(partition(isr=(1, 2)),), quorum=quorum(lags={3: 0}))
    assert gate.not_back(other, 1, RULES) == []
    assert gate.unhealthy(other, RULES)
    assert gate.not_back(None, 1, RULES)
    assert "no leader" in gate.not_back(cluster(quorum=quorum(leader=-1)), 1, RULES)[0]
    assert "caught up" in gate.not_back(cluster(quorum=quorum(lags={1: 9000})), 1, RULES)[0]
    assert "fenced" in gate.not_back(cluster(brokers={1: True, 2: False, 3: False}), 1, RULES)[0]
    assert gate.not_back(cluster(partitions=(partition(isr=(2, 3), leader=2),)), 1, RULES) == ["not in sync on broker 1: ot.raw-0"]
    assert gate.not_back(cluster(partitions=(partition(isr=(2, 3), leader=2, replicas=(2, 3)),)), 1, RULES) == []


def test_time_decides_not_the_offset() -> None:
    behind = tuple(dataclasses.replace(v, end_offset=1) if v.id == 2 else v for v in quorum().voters)
    assert gate.decide(cluster(quorum=dataclasses.replace(quorum(), voters=behind)), 1, True, RULES).allowed


def test_a_voter_that_never_caught_up_is_behind() -> None:
    assert quorum(lags={2: -1}).behind(2000) == [2]


def test_the_isr_without_this_node_does_not_matter_to_it() -> None:
    assert gate.decide(cluster(partitions=(partition(isr=(2, 3), leader=2, replicas=(2, 3)),)), 1, True, RULES).allowed


@pytest.mark.parametrize("brokers", [{2: False, 3: False}, {1: True, 2: False, 3: False}])
def test_a_node_that_serves_nobody_goes_first_even_where_partitions_are_in_need(brokers: dict[int, bool]) -> None:
    snapshot = cluster(brokers=brokers, partitions=(partition(isr=(2,), leader=-1),), quorum=quorum(lags={1: 60_000}))
    decision = gate.decide(snapshot, 1, True, RULES)
    assert decision == gate.Decision(gate.NOT_READY, ())


def test_a_node_that_does_not_answer_here_is_still_counted_on_until_it_is_fenced() -> None:
    """Its acceptor is busy or deaf, or it died just now: what the controllers believe, the producers get."""
    needed = cluster(partitions=(partition(isr=(1, 2)),))
    [reason] = gate.decide(needed, 1, False, RULES).reasons
    assert reason.endswith("would fall under min.insync.replicas: ot.raw-0")
    assert gate.decide(cluster(), 1, False, RULES).allowed, "two others hold it"
    refusing = cluster(partitions=(partition(isr=(1,)),))
    assert gate.decide(refusing, 1, False, RULES).allowed, "nothing is acknowledged there: nobody else can fetch from it, and a restart is the cure"
    assert gate.decide(dataclasses.replace(needed, brokers={1: True, 2: False, 3: False}), 1, False, RULES).allowed
    assert gate.decide(dataclasses.replace(needed, quorum=quorum(leader=-1)), 1, False, RULES).allowed, "nobody can fence it"


def test_a_broker_that_is_no_voter_waits_for_the_voters_too() -> None:
    snapshot = cluster(quorum=quorum(lags={2: 9000}), brokers=dict.fromkeys((1, 2, 3, 4), False))
    assert gate.decide(snapshot, 4, True, gate.Rules((1, 2, 3, 4))).reasons == ("voter 2 is not caught up",)


def test_a_node_that_serves_nobody_may_still_be_a_voter_that_is_needed() -> None:
    snapshot = cluster(brokers={2: False, 3: False}, quorum=quorum(lags={2: 60_000}))
    assert not gate.decide(snapshot, 1, False, RULES).allowed


def test_a_dead_node_takes_nothing_from_a_quorum_that_lacks_its_majority() -> None:
    """Two of three are broken: the first repair must not wait for the second."""
    broken = cluster(brokers={3: False}, partitions=(partition(isr=(3,), leader=3),), quorum=quorum(lags={1: 60_000, 2: 60_000}))
    assert gate.decide(broken, 1, False, RULES) == gate.Decision(gate.NOT_READY, ())
    leaderless = cluster(brokers={3: False}, quorum=quorum(leader=-1))
    assert gate.decide(leaderless, 1, False, RULES) == gate.Decision(gate.NOT_READY, ())
    assert not gate.decide(broken, 3, True, RULES).allowed


def test_nobody_answers() -> None:
    assert gate.decide(None, 1, False, RULES) == gate.Decision(gate.NOT_READY, ())
    assert not gate.decide(None, 1, True, RULES).allowed


def test_a_single_declared_broker_has_no_redundancy_to_keep() -> None:
    voter = (Voter(1, "d1", 1, NOW, NOW),)
    snapshot = Snapshot("c", Quorum(1, 1, 1, voter), {1: False}, (partition(isr=(1,), replicas=(1,), min_isr=1),))
    assert gate.decide(snapshot, 1, True, gate.Rules((1,))).allowed


def test_the_only_voter_that_is_left_of_three_declared_stays() -> None:
    """Somebody removed the others: without it nobody elects a leader for what it leads."""
    snapshot = cluster(quorum=Quorum(1, 5, 100, (Voter(1, "d1", 100, NOW, NOW),)))
    assert gate.decide(snapshot, 1, True, RULES).reasons == ("without node 1 only 0 of 1 voters are caught up, 1 are needed",)
    assert gate.decide(snapshot, 2, True, RULES).allowed


def test_whole_again_needs_every_replica() -> None:
    assert gate.unhealthy(cluster(), RULES) == []
    assert gate.unhealthy(cluster(partitions=(partition(isr=(1, 2)),)), RULES) == ["under-replicated: ot.raw-0"]
    assert gate.unhealthy(None, RULES)


def test_the_roll_stops_after_the_first_broker_that_refuses_clients() -> None:
    """The one that lacks users takes nobody's last broker; after its own restart the cluster is not whole, and no other may follow."""
    forgot = cluster(users=FORGOT)
    assert {node: gate.decide(forgot, node, True, RULES).allowed for node in (1, 2, 3)} == {1: False, 2: True, 3: False}
    assert gate.unhealthy(forgot, RULES) == gate.forgotten(forgot)
    assert gate.unhealthy(cluster(silent={2: "timed out"}), RULES) == ["broker 2 does not say which users it knows: timed out"]
    assert gate.not_back(forgot, 2, RULES) == [], "else a repaired broker would end the run that writes its users again"
    assert gate.decide(cluster(silent={1: "certificate expired"}), 1, True, RULES).allowed
    same = cluster(users={node: {FLINK} for node in (1, 2, 3)})
    assert gate.decide(same, 1, True, RULES).allowed and gate.unhealthy(same, RULES) == []


def test_a_broker_that_serves_nobody_is_started_whoever_lacks_users() -> None:
    snapshot = cluster(brokers={1: True, 2: False, 3: False}, users={2: {WRITER}, 3: {FLINK, WRITER}}, quorum=quorum(lags={1: 60_000}))
    assert gate.decide(snapshot, 1, True, RULES) == gate.Decision(gate.NOT_READY, ())


def test_waiting_asks_until_it_is_good_and_stays_good() -> None:
    time = Time()
    answers = iter([None, cluster(), None, cluster(), cluster()])

    def look(limit: float) -> Snapshot:
        found = next(answers)
        if found is None:
            raise Unreachable("nobody")
        return found

    _snapshot, reasons, waited = gate.wait_until(look, lambda s: gate.unhealthy(s, RULES), 60, time.clock, time.sleep, stable=2)
    assert (reasons, waited) == ([], 4.0)


def test_why_nobody_answers_is_said_and_keeps_no_dead_broker_from_its_start() -> None:
    def look(limit: float) -> Snapshot:
        raise Unreachable("describe_cluster: Node paused: {'throttle'}")

    def waited(serving: bool) -> list[str]:
        time = Time()
        return gate.wait_until(look, lambda s: list(gate.decide(s, 1, serving, RULES).reasons), 5, time.clock, time.sleep)[1]

    (reason,) = waited(True)
    assert reason.startswith("no broker answers about the cluster") and reason.endswith("(describe_cluster: Node paused: {'throttle'})")
    assert waited(False) == []


def test_waiting_ends_at_the_deadline_with_the_reasons() -> None:
    time = Time()
    _snapshot, reasons, waited = gate.wait_until(
        lambda limit: cluster(quorum=quorum(leader=-1)), lambda s: list(gate.decide(s, 1, True, RULES).reasons), 5, time.clock, time.sleep)
    assert "no leader" in reasons[0]
    assert waited <= 5


@pytest.mark.parametrize(("looks", "least_s", "most_s"), [
    ([cluster(users=FORGOT)] * 60, 3, 6),  # Nothing is left to wait for.
    ([cluster(users=FORGOT)] * 3 + [cluster()] * 57, 3, 5),  # The news was under way.
    ([cluster(users=FORGOT, partitions=(partition(isr=(1, 2)),))] * 20 + [cluster(users=FORGOT)] * 40, 20, 26),  # Replicas still come nearer.
])
def test_what_waiting_does_not_mend_is_not_waited_for(looks: list[Snapshot], least_s: float, most_s: float) -> None:
    time, answers = Time(), iter(looks)
    _snapshot, reasons, waited = gate.wait_until(lambda limit: next(answers), lambda s: gate.unhealthy(s, RULES), 50, time.clock, time.sleep, stable=2)
    assert bool(reasons) == (looks[-1] == cluster(users=FORGOT))
    assert least_s <= waited <= most_s


def test_an_answer_that_is_an_error_is_not_nobody() -> None:
    """Else a node whose own port is closed would be "allowed" while the cluster works and only refuses us."""
    time = Time()

    def look(limit: float) -> Snapshot:
        raise KafkaError("ClusterAuthorizationFailed")

    _snapshot, reasons, _waited = gate.wait_until(look, lambda s: list(gate.decide(s, 1, False, RULES).reasons), 3, time.clock, time.sleep)
    assert reasons == ["ClusterAuthorizationFailed"]


def test_a_release_that_cannot_read_what_is_in_force_is_no_place_to_restart_into() -> None:
    finalized = {"metadata.version": (30, 30), "transaction.version": (2, 2), "share.version": (1, 1)}
    assert gate.unreadable(finalized, {"metadata.version": 30, "transaction.version": 2}) == []
    assert gate.unreadable(finalized, {"metadata.version": 31, "new.version": 1}) == []
    [why] = gate.unreadable(finalized, {"metadata.version": 29, "transaction.version": 2})
    assert why.startswith("metadata.version is finalized at 30, the release on this host reads up to 29")
