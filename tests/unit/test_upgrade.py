# SPDX-License-Identifier: Apache-2.0
"""What an upgrade would do is said before it is done, and refused where there is no way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible_collections.hnai.platform.plugins.module_utils.upgrade import UNKNOWN, Wish, loaded, named, number, plan

LEVELS = {"4.2.2": {"metadata.version": 29, "transaction.version": 2}, "4.3.1": {"metadata.version": 30, "transaction.version": 2}}
AT_29, AT_30 = {"metadata.version": 29, "transaction.version": 2}, {"metadata.version": 30, "transaction.version": 2}


def kafka(wanted: str, *running: str, installed: str = "", finalized: dict[str, int] | None = None) -> Any:
    hosts = [f"kafka{n}" for n in range(1, len(running) + 1)]
    return plan(Wish("kafka", wanted, {host: [one] for host, one in zip(hosts, running, strict=True)},
                     dict.fromkeys(hosts, installed or running[0]), LEVELS, AT_29 if finalized is None else finalized))


def flink(wanted: str, running: str, **more: Any) -> Any:
    return plan(Wish("flink", wanted, {"stream1": [running] * 3}, {"stream1": running}, **more))


def test_up_with_a_way_back_until_the_level_is_raised() -> None:
    found = kafka("4.3.1", "4.2.2", "4.2.2", "4.2.2")
    assert (found.direction, found.begun, found.refused) == ("upgrade", False, ())
    assert found.hosts["kafka1"] == "4.2.2 → 4.3.1"
    assert found.due == {"metadata.version": 30}
    assert found.way_back == "to 4.2.2, by the same verb, until kafka_features raises metadata.version 29 → 30"


def test_back_is_allowed_at_the_old_level_and_refused_at_the_new_one() -> None:
    assert kafka("4.2.2", "4.3.1", "4.3.1").refused == ()
    assert kafka("4.2.2", "4.3.1", "4.3.1").direction == "rollback"
    [why] = kafka("4.2.2", "4.3.1", "4.3.1", finalized=AT_30).refused
    assert why.startswith("metadata.version is finalized at 30, kafka 4.2.2 reads up to 29 and would not start")


def test_nothing_is_planned_on_what_is_not_known() -> None:
    assert kafka("4.2.2", "4.3.1", finalized={}).refused
    assert kafka("4.1.0", "4.3.1").refused
    assert plan(Wish("kafka", "4.3.1", {}, {}, LEVELS, AT_29)).refused


def test_nothing_is_left_to_do() -> None:
    found = kafka("4.3.1", "4.3.1", "4.3.1", finalized=AT_30)
    assert (found.direction, found.begun, found.due, found.way_back) == ("none", False, {}, "nothing changes")
    assert kafka("4.3.1", "4.3.1", "4.3.1").due == {"metadata.version": 30}


def test_a_run_that_was_killed_is_ended() -> None:
    between = kafka("4.3.1", "4.2.2", "4.3.1", "4.2.2")
    assert (between.direction, between.begun) == ("upgrade", True)
    assert between.hosts == {"kafka1": "4.2.2 → 4.3.1", "kafka2": "4.3.1", "kafka3": "4.2.2 → 4.3.1"}
    assert kafka("4.3.1", "4.2.2", "4.2.2", installed="4.3.1").begun, "installed, nothing restarted yet"
    back = kafka("4.2.2", "4.2.2", UNKNOWN, installed="4.3.1")
    assert (back.direction, back.begun) == ("rollback", True)
    assert back.hosts["kafka2"] == "unknown → 4.2.2"


def test_a_broker_that_is_down_is_not_settled() -> None:
    found = kafka("4.3.1", "4.3.1", UNKNOWN, finalized=AT_30)
    assert (found.direction, found.begun) == ("none", True)


def test_flink_goes_back_within_a_minor_release_only() -> None:
    assert flink("2.2.0", "2.2.1").refused == ()
    assert flink("2.2.1", "2.2.0").way_back == "to 2.2.0, by the same verb, as long as it runs"
    assert "older minor release" in flink("2.1.0", "2.2.1").refused[0]
    assert flink("2.2.1", "2.1.0").way_back.startswith("none to 2.1.0")
    assert flink("2.2.1", "2.1.0").refused == ()


def test_where_the_levels_already_are_above_the_old_release() -> None:
    assert kafka("4.3.1", "4.2.2", finalized=AT_30).way_back.startswith("none to 4.2.2")
    by_hand = kafka("4.3.1", "4.2.2", finalized={**AT_30, "transaction.version": 1})
    assert by_hand.due == {"transaction.version": 2}
    assert by_hand.way_back.startswith("none to 4.2.2"), "what is still due takes nothing back"


def test_releases_are_compared_by_number() -> None:
    assert number("4.10.0") > number("4.9.1")


def test_a_path_names_the_release_and_current_does_not() -> None:
    assert named("/opt/hnai/flink/2.2.0/lib/*:/opt/hnai/flink/current/opt/x /opt/hnai/kafka/4.3.1/libs", "flink") == ["2.2.0"]


def process(root: Path, command: str, *links: str) -> str:
    place = root / "7"
    (place / "fd").mkdir(parents=True)
    (place / "cmdline").write_bytes(command.replace(" ", "\0").encode())
    for count, link in enumerate(links):
        (place / "fd" / str(count)).symlink_to(link)
    return loaded(7, "kafka", str(root))


def test_the_process_says_what_it_runs(tmp_path: Path) -> None:
    assert process(tmp_path / "a", "java -cp /opt/hnai/kafka/4.2.2/libs/* kafka.Kafka") == "4.2.2"
    assert process(tmp_path / "b", "java -cp /opt/hnai/kafka/current/libs/* kafka.Kafka", "/opt/hnai/kafka/4.3.1/libs/a.jar", "/dev/null") == "4.3.1"
    assert process(tmp_path / "c", "java -cp /opt/hnai/kafka/current/libs/* kafka.Kafka") == UNKNOWN
    assert process(tmp_path / "d", "java -cp /opt/hnai/kafka/4.2.2/libs/*:/opt/hnai/kafka/4.3.1/libs/*") == "4.2.2+4.3.1"
    assert loaded(8, "kafka", str(tmp_path)) == UNKNOWN
