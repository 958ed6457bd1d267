# SPDX-License-Identifier: Apache-2.0
"""Replacing a broker: every unclear case is refused before anything is touched, and a run that was killed at any step goes on with what is left."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from ansible_collections.hnai.platform.plugins.module_utils.kafka import replace
from ansible_collections.hnai.platform.plugins.module_utils.kafka.replace import Disk, Me, Plan, Rules
from ansible_collections.hnai.platform.plugins.module_utils.kafka.state import Partition, Quorum, Snapshot, Voter

ROOT = Path(__file__).resolve().parents[2]
NOW = 1_800_000_000_000
CLUSTER, OLD, NEW = "cluster", "old-directory", "new-directory"
ME = Me(3, "kafka3", CLUSTER)
RULES = Rules({1: "kafka1", 2: "kafka2", 3: "kafka3"})
EMPTY = Disk()
FORMATTED = Disk(CLUSTER, "3", NEW, "", True)


def voter(node: int, directory: str, lag: float = 0, fetched: float = 0) -> Voter:
    """`fetched`: ms since it asked the leader last."""
    return Voter(node, directory, 100, int(NOW - fetched), int(NOW - lag))


def partition(topic: str = "t", number: int = 0, leader: int = 1, replicas: tuple[int, ...] = (1, 2, 3), isr: tuple[int, ...] = (1, 2),
              min_isr: int = 2) -> Partition:
    return Partition(topic, number, leader, replicas, isr, min_isr)


DEAD = voter(3, OLD, 60_000, 60_000)
#: The disk of node 3 is lost, its broker is fenced, everything else is whole.
LOST = Snapshot(CLUSTER, Quorum(1, 3, 100, (voter(1, "d1"), voter(2, "d2", 300, 300), DEAD)), {1: False, 2: False, 3: True},
                (partition(), partition(number=1, leader=2), partition("pair", 0, 1, (3, 1), (1,), 1)))


def with_quorum(base: Snapshot = LOST, **changes: Any) -> Snapshot:
    return dataclasses.replace(base, quorum=dataclasses.replace(base.quorum, **changes))


def voters(*found: Voter) -> Snapshot:
    return with_quorum(voters=found)


def with_partitions(*more: Partition) -> Snapshot:
    return dataclasses.replace(LOST, partitions=LOST.partitions + more)


def refused(snapshot: Snapshot | None, disk: Disk = EMPTY, me: Me = ME) -> str:
    """The one reason."""
    found = replace.plan(snapshot, disk, me, RULES)
    assert (found.steps, found.old) == ((), ()), "a refusal has no steps"
    assert len(found.reasons) == 1, found.reasons
    return found.reasons[0]


def test_a_lost_disk_is_replaced_step_by_step() -> None:
    found = replace.plan(LOST, EMPTY, ME, RULES)
    assert found.reasons == ()
    assert found.old == (OLD,)
    assert [step.split()[0] for step in found.steps] == ["format", "start", "remove", "add", "wait", "judge"]
    assert found.steps[2] == f"remove voter 3 {OLD}"
    assert "not as an initial controller" in found.steps[0]
    assert "3 replicas" in found.steps[4]


@pytest.mark.parametrize(
    ("snapshot", "disk", "left"),
    [
        # Killed after the format; the broker may be up already.
        (LOST, FORMATTED, ["start", "remove", "add", "wait", "judge"]),
        (dataclasses.replace(LOST, brokers={1: False, 2: False, 3: False}), FORMATTED, ["start", "remove", "add", "wait", "judge"]),
        # Between the removal and the addition.
        (voters(voter(1, "d1"), voter(2, "d2")), FORMATTED, ["start", "add", "wait", "judge"]),
        # Before its replicas were in sync, and after.
        (voters(voter(1, "d1"), voter(2, "d2"), voter(3, NEW)), FORMATTED, ["wait", "judge"]),
        # The new disk is lost as well.
        (voters(voter(1, "d1"), voter(2, "d2"), voter(3, NEW, 60_000, 60_000)), Disk(under_way=True), ["format", "start", "remove", "add", "wait", "judge"]),
        (voters(voter(1, "d1"), voter(2, "d2")), Disk(under_way=True), ["format", "start", "add", "wait", "judge"]),
    ],
)
def test_a_run_that_was_killed_goes_on_with_what_is_left(snapshot: Snapshot, disk: Disk, left: list[str]) -> None:
    found = replace.plan(snapshot, disk, ME, RULES)
    assert found.reasons == ()
    assert [step.split()[0] for step in found.steps] == left


def test_the_new_broker_may_be_the_only_one_in_sync_once_its_disk_is_in_use() -> None:
    led = partition("new", 0, 3, (3,), (3,), 1)
    assert replace.plan(dataclasses.replace(LOST, partitions=(led,)), FORMATTED, ME, RULES).reasons == ()
    assert "only the lost disk" in refused(dataclasses.replace(LOST, partitions=(led,)))


@pytest.mark.parametrize(
    ("disk", "word"),
    [
        (Disk(CLUSTER, "3", OLD), "kafka3 has its data: directory old-directory is the voter of node 3"),
        (Disk(CLUSTER, "3", "older"), "is no voter, and no replacement is under way"),
        (Disk("another", "3", NEW, "", True), "belongs to cluster another"),
        (Disk(CLUSTER, "2", NEW, "", True), "belongs to node 2"),
        (Disk(problem="/x: has 4 entries but no meta.properties"), "has 4 entries"),
    ],
)
def test_a_host_that_has_data_is_refused_at_once(disk: Disk, word: str) -> None:
    assert word in refused(LOST, disk)
    assert replace.plan(LOST, disk, ME, RULES).lasting


def test_whoever_names_the_wrong_host_hears_of_that_alone() -> None:
    healthy = Disk(CLUSTER, "2", "d2")
    assert "kafka2 has its data" in refused(LOST, healthy, Me(2, "kafka2", CLUSTER))


def test_a_declared_directory_id_is_the_old_disks() -> None:
    assert "kafka_directory_id of kafka3" in refused(LOST, EMPTY, dataclasses.replace(ME, directory=OLD))


def test_another_cluster_answers() -> None:
    assert "are of cluster elsewhere" in refused(dataclasses.replace(LOST, cluster_id="elsewhere"))


@pytest.mark.parametrize(
    ("snapshot", "word"),
    [
        (None, "kafka-quorum-loss.md"),
        (with_quorum(leader_id=-1), "no leader"),
        (voters(voter(1, "d1"), voter(2, "d2", 5_000, 5_000), DEAD), "voter 2 is not caught up"),
        (voters(voter(1, "d1"), DEAD), "node 2 is no voter"),
        (voters(voter(1, "d1"), voter(2, "d2"), DEAD, voter(9, "d9")), "voter 9 is not in the inventory"),
        (dataclasses.replace(LOST, brokers={1: False, 2: True, 3: True}), "broker 2 is not there or fenced"),
        (dataclasses.replace(LOST, brokers={1: False, 3: True}), "broker 2 is not there or fenced"),
        (voters(voter(1, "d1"), voter(2, "d2"), voter(3, OLD)), f"still runs on directory {OLD}"),
        (with_quorum(leader_id=3, voters=(voter(1, "d1"), voter(2, "d2"), voter(3, OLD))), f"still runs on directory {OLD}"),
        (dataclasses.replace(LOST, brokers={1: False, 2: False, 3: False}), "although kafka3 has no data"),
        (dataclasses.replace(LOST, reassignments=("t-0",)), "being reassigned: t-0"),
        (with_partitions(partition("away", 0, -1, (1, 2), ())), "offline: away-0"),
        (with_partitions(partition("weak", 0, 1, (1, 2, 3), (1,))), "on the other brokers: weak-0"),
        (with_partitions(partition("weak", 0, 1, (1, 2), (1,))), "on the other brokers: weak-0"),
        # What only the lost disk had: alone there, in sync there alone, or known to be the last leader.
        (with_partitions(partition("single", 0, -1, (3,), (), 1)), "only the lost disk was in sync: single-0"),
        (with_partitions(partition("pair", 1, -1, (3, 1), (), 1)), "only the lost disk was in sync: pair-1"),
        (with_partitions(partition("pair", 1, -1, (1, 3), (3,), 1)), "only the lost disk was in sync: pair-1"),
    ],
)
def test_an_unclear_case_is_refused(snapshot: Snapshot | None, word: str) -> None:
    assert word in refused(snapshot)
    assert not replace.plan(snapshot, EMPTY, ME, RULES).lasting


AFTER = Rules({**RULES.expected, 4: "kafka4", 5: "kafka5"}, later=frozenset({5}))
#: Nodes 3 and 5 of five are lost.
TWO = Snapshot(CLUSTER, Quorum(1, 3, 100, (voter(1, "d1"), voter(2, "d2"), DEAD, voter(4, "d4"), voter(5, "d5", 60_000, 60_000))),
               {1: False, 2: False, 3: True, 4: False, 5: True}, (partition("wide", 0, 1, (1, 3, 5), (1,)),))


def test_one_of_two_that_are_lost_is_replaced_when_the_other_is_named() -> None:
    found = replace.plan(TWO, EMPTY, ME, AFTER)
    assert (found.reasons, found.old) == ((), (OLD,))
    unnamed = replace.plan(TWO, EMPTY, ME, dataclasses.replace(AFTER, later=frozenset()))
    assert [reason.split(";")[0] for reason in unnamed.reasons[:2]] == ["voter 5 is not caught up", "broker 5 is not there or fenced"]
    assert "on the other brokers: wide-0" in unnamed.reasons[2]


def test_whoever_names_too_many_has_no_majority_left() -> None:
    late = with_quorum(TWO, voters=(*TWO.quorum.voters[:3], voter(4, "d4", 60_000, 60_000), TWO.quorum.voters[4]))
    found = replace.plan(late, EMPTY, ME, dataclasses.replace(AFTER, later=frozenset({4, 5})))
    assert found.reasons == ("without node 3, 4, 5 there is no majority; see docs/runbooks/kafka-quorum-loss.md",)


def test_after_a_rescue_the_survivor_alone_is_the_quorum() -> None:
    alone = Snapshot(CLUSTER, Quorum(1, 9, 100, (voter(1, "d1"),)), {1: False, 2: True, 3: True}, (partition("t", 0, 1, (1, 2, 3), (1,)),))
    assert replace.plan(alone, EMPTY, ME, dataclasses.replace(RULES, later=frozenset({2}))).reasons == ()
    assert "replace_later=HOST" in replace.plan(alone, EMPTY, ME, RULES).reasons[0]
    joined = with_quorum(alone, voters=(voter(1, "d1"), voter(3, NEW)))
    assert replace.plan(joined, FORMATTED, ME, dataclasses.replace(RULES, later=frozenset({2}))).reasons == ()


def test_what_only_waits_for_this_broker_is_no_reason() -> None:
    """min.insync.replicas of two where one of two replicas is the lost one."""
    assert replace.plan(with_partitions(partition("pair", 1, 1, (1, 3), (1,), 2)), EMPTY, ME, RULES).reasons == ()


def test_every_reason_is_told_and_names_are_few() -> None:
    many = [partition("weak", number, 1, (1, 2, 3), (1,)) for number in range(7)]
    found = replace.plan(dataclasses.replace(with_partitions(*many), reassignments=("t-0",)), EMPTY, ME, RULES)
    assert isinstance(found, Plan)
    assert len(found.reasons) == 2
    assert "weak-4 and 2 more" in found.reasons[0]


def test_the_disk_is_told_by_its_identity(tmp_path: Path) -> None:
    data, marker = tmp_path / "data", tmp_path / "marker"
    assert replace.look(str(data), str(marker)) == Disk()
    data.mkdir()
    marker.write_bytes(replace.remembered(ME, "2026-01-01T00:00:00Z"))
    assert json.loads(marker.read_text())["remedy"].endswith("-e replace=kafka3")
    assert replace.look(str(data), str(marker)) == Disk(under_way=True)
    (data / "topic-0").mkdir()
    assert "without its identity" in replace.look(str(data), str(marker)).problem
    (data / "meta.properties").write_text(f"version=1\nnode.id=3\ncluster.id={CLUSTER}\n")
    assert "has no directory.id" in replace.look(str(data), str(marker)).problem
    (data / "meta.properties").write_text(f"version=1\nnode.id=3\ncluster.id={CLUSTER}\ndirectory.id={NEW}\n")
    assert replace.look(str(data), str(marker)) == FORMATTED
    marker.unlink()
    assert replace.look(str(data), str(marker)) == dataclasses.replace(FORMATTED, under_way=False)


def test_the_playbook_asks_before_it_touches_and_forgets_after_the_verdict() -> None:
    """The plan is the first role task, on a broker that is left; the marker stands from before the format until the cluster was judged."""
    plays = [play for play in yaml.safe_load((ROOT / "playbooks/kafka_replace.yml").read_text()) if play.get("name") != "Arguments"]
    files = [task["ansible.builtin.import_role"].get("tasks_from", "main") for task in plays[1]["tasks"]]
    assert files == ["replace_plan", "main", "replace"]
    steps = yaml.safe_load((ROOT / "roles/kafka/tasks/replace_plan.yml").read_text())
    assert steps[1]["delegate_to"] == "{{ groups['kafka'] | difference([inventory_hostname]) | first }}"
    assert steps[-1]["hnai.platform.kafka_log_dir"]["state"] == "begun"
    assert plays[2]["tasks"][-1]["hnai.platform.kafka_log_dir"]["state"] == "ended"
    assert all(play["any_errors_fatal"] for play in plays)
