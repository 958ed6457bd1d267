# SPDX-License-Identifier: Apache-2.0
"""telegraf_health: an instance that runs and moves nothing is not well, and a restart is no loss of counters."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ansible_collections.hnai.platform.plugins.module_utils.telegraf import flow, parse, run
from ansible_collections.hnai.platform.plugins.module_utils.verdict import Report

NOW = 100_000.0
PARAMS = {"instances": ["shipper"], "idle_max": 30.0, "buffer_max_mib": 1024, "buffer_filesystem": "shared", "outage": 600.0, "replay": []}


def line(kind: str, alias: str, at: float, **fields: float) -> str:
    return json.dumps({"name": kind, "tags": {"alias": alias}, "fields": fields, "timestamp": int(at * 1000)})


def lines(rate_in: float = 200, rate_kafka: float = 200, rate_mqtt: float = 200, dropped: float = 0, end: float = NOW, count: int = 20,
          backlog: float = 0) -> list[str]:
    result = ["torn {"]
    for index in range(count):
        at = end - 5.0 * (count - 1 - index)
        seconds = 5.0 * index
        result += [
            line("internal_gather", "ot_collector", at, metrics_gathered=rate_in * seconds),
            line("internal_write", "counters", at, metrics_added=seconds, metrics_written=0),
        ]
        for alias, rate in (("kafka", rate_kafka), ("mqtt", rate_mqtt)):
            result.append(
                line(
                    "internal_write",
                    alias,
                    at,
                    metrics_added=rate_in * seconds,
                    metrics_written=rate * seconds,
                    buffer_size=(rate_in - rate) * seconds + backlog,
                    metrics_dropped=dropped,
                    metrics_rejected=0,
                )
            )
    return result


class FakeDisk:
    def __init__(self, size: int | None = 10_000, free: int = 1 << 34, own: bool = False, cut: int = 0) -> None:
        self.path, self.size, self.free, self.mount, self.cut = "/b", size, free, own, cut

    def own(self) -> bool:
        return self.mount

    def buffered(self, instance: str) -> int | None:
        return self.size

    def room(self) -> tuple[int, int]:
        return 1 << 35, self.free

    def dropped(self, instance: str) -> int:
        return self.cut


def judge(counters: list[str], disk: Any = None, state: str = "active", **changes: Any) -> dict[str, str]:
    report = Report("telegraf")
    run(report, {**PARAMS, **changes}, lambda unit: state, lambda instance: counters, disk or FakeDisk(), lambda: NOW)
    return {check.id: check.status for check in report.checks}


WELL = {"TG1": "pass", "TG2": "pass", "TG3": "pass", "TG4": "pass", "TG5": "pass"}


def test_a_healthy_instance_passes() -> None:
    assert judge(lines()) == WELL


def test_no_instance_is_said_and_not_left_out() -> None:
    """A module that made no check gave no verdict."""
    report = Report("telegraf")
    run(report, {**PARAMS, "instances": []}, lambda unit: "active", lambda instance: [], FakeDisk(), lambda: NOW)  # type: ignore[arg-type]
    assert [(check.id, check.status) for check in report.checks] == [("TG1", "skipped")]


@pytest.mark.parametrize(
    ("changes", "bad"),
    [
        ({"rate_kafka": 0}, {"TG3": "fail"}),
        # Nothing comes in: what stands behind is not to blame, unless something waits for it.
        ({"rate_in": 0, "rate_kafka": 0, "rate_mqtt": 0}, {"TG2": "fail", "TG3": "inconclusive", "TG5": "inconclusive"}),
        ({"rate_in": 0, "rate_kafka": 0, "rate_mqtt": 0, "backlog": 5}, {"TG2": "fail", "TG3": "fail", "TG5": "inconclusive"}),
        ({"dropped": 2}, {"TG4": "fail"}),
        ({"end": NOW - 60}, {"TG1": "fail"}),
    ],
)
def test_each_fault_fails_its_check(changes: dict[str, float], bad: dict[str, str]) -> None:
    assert judge(lines(**changes)) == {**WELL, **bad}


@pytest.mark.parametrize(
    ("field", "unsaid"),
    [("metrics_dropped", "TG4"), ("metrics_rejected", "TG4"), ("metrics_written", "TG3"), ("metrics_gathered", "TG2 TG3"), ("buffer_size", "TG3 TG5")],
)
def test_what_telegraf_does_not_say_is_not_zero(field: str, unsaid: str) -> None:
    without = [one.replace('"%s"' % field, '"of_another_release"') for one in lines()]
    assert judge(without) == {**WELL, **dict.fromkeys(unsaid.split(), "inconclusive")}


def test_every_line_that_was_cut_is_left_out() -> None:
    whole = lines(dropped=2)
    last = len(whole[-1])
    assert {judge([*whole[:-1], whole[-1][:cut]])["TG4"] for cut in range(last)} == {"fail"}


def test_a_stopped_instance_fails_and_nothing_else_is_known() -> None:
    assert judge(lines(), state="inactive") == {"TG1": "fail", "TG2": "inconclusive", "TG3": "inconclusive", "TG4": "inconclusive", "TG5": "inconclusive"}


def test_just_started_is_not_yet_idle() -> None:
    assert judge(lines(rate_kafka=0, count=3))["TG3"] == "inconclusive"


def test_a_restart_begins_a_new_count() -> None:
    old, new = lines(end=NOW - 100), lines(count=8)
    book = parse([*old, *new], "internal_write")
    assert len(book["kafka"]) == 8
    assert flow(book["kafka"], "metrics_written", 30).amount == pytest.approx(200 * 30)
    assert judge([*old, *new]) == WELL


def test_records_cut_from_the_buffer_are_loss() -> None:
    assert judge(lines(), FakeDisk(cut=7)) == {**WELL, "TG4": "fail"}


def test_room_is_time_at_the_rate_of_arrival() -> None:
    # 400 records/s for both outputs at 700 bytes: 600 s need 168 MB
    assert judge(lines(), FakeDisk(size=0, free=200_000_000)) == WELL
    assert judge(lines(), FakeDisk(size=0, free=100_000_000)) == {**WELL, "TG5": "fail"}
    assert judge(lines(), FakeDisk(size=1000 << 20)) == {**WELL, "TG5": "fail"}


def test_a_file_system_of_its_own_must_be_one() -> None:
    assert judge(lines(), FakeDisk(own=True), buffer_filesystem="own") == WELL
    assert judge(lines(), FakeDisk(own=False), buffer_filesystem="own") == {**WELL, "TG5": "fail"}


def test_an_instance_without_a_disk_buffer_has_no_such_check() -> None:
    assert "TG5" not in judge(lines(), FakeDisk(size=None))


@pytest.mark.parametrize(("at", "status"), [(NOW - 5, "pass"), (NOW - 299, "pass"), (NOW - 301, "fail"), (0.0, "fail")])
def test_a_replay_that_remembers_nothing_is_no_replay(at: float, status: str) -> None:
    report = Report("telegraf")
    params = {**PARAMS, "replay": ["shipper"]}
    run(report, params, lambda unit: "active", lambda instance: lines(), FakeDisk(), lambda: NOW, lambda instance: at)  # type: ignore[arg-type]
    assert {check.id: check.status for check in report.checks} == {**WELL, "TG6": status}
