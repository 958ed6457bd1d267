# SPDX-License-Identifier: Apache-2.0
"""What is judged of the store: the empty answer is never green, and loss is counted by the canary's own numbers."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.hnai.platform.plugins.module_utils.tsdb import canary as canary_checks
from ansible_collections.hnai.platform.plugins.module_utils.tsdb import freshness as freshness_checks
from ansible_collections.hnai.platform.plugins.module_utils.tsdb.client import Point, Samples, StoreError
from ansible_collections.hnai.platform.plugins.module_utils.tsdb.inventory import canaries, expected
from ansible_collections.hnai.platform.plugins.module_utils.tsdb.judge import ages, completeness, freshness, hops, parse_observations
from ansible_collections.hnai.platform.plugins.module_utils.verdict import Report

NOW = 10_000.0
SOURCES: list[dict[str, Any]] = [
    {
        "id": "plc1",
        "canary": "canary_sequence",
        "tags": [
            {"name": "canary_sequence", "sampling_ms": 500},
            {"name": "whp", "kind": "cyclic"},
            {"name": "valve", "kind": "on_change"},
        ],
    },
    {"id": "sep1", "tags": [{"name": "level"}]},
]


def newest(source: str, name: str, at: float) -> Point:
    return Point({"__name__": name, "source": source}, NOW, at)


def stream(numbers: Sequence[int], start_ms: int = 9_925_000, step_ms: int = 500) -> Samples:
    return Samples({"__name__": "canary_sequence"}, [start_ms + step_ms * index for index in range(len(numbers))], [float(n) for n in numbers])


# -- inventory ----------------------------------------------------------------------------------------------
def test_what_is_expected() -> None:
    assert [(item.source, item.series) for item in expected(SOURCES)] == [
        ("plc1", "canary_sequence:status"),
        ("plc1", "whp:status"),
        ("plc1", "valve:observed_ts"),
        ("sep1", "level:status"),
    ]
    assert [(one.source, one.tag, one.rate) for one in canaries(SOURCES)] == [("plc1", "canary_sequence", 2.0)]


def test_a_canary_that_is_no_tag_is_refused() -> None:
    with pytest.raises(ValueError, match="plc1: canary x"):
        canaries([{"id": "plc1", "canary": "x", "tags": []}])
    with pytest.raises(ValueError, match=r"hnai_ot_sources\[0\]"):
        expected([{"tags": []}])


# -- ages ---------------------------------------------------------------------------------------------------
def test_nothing_found_is_stale() -> None:
    found = [newest("plc1", "canary_sequence:status", NOW - 1), newest("plc1", "whp:status", NOW - 61), newest("plc1", "valve:observed_ts", NOW - 100)]
    judged = {age.tag: age for age in ages(expected(SOURCES), found, NOW, 60, 150)}
    assert [tag for tag, age in judged.items() if age.stale] == ["whp", "level"]
    assert judged["level"].age_s is None
    assert judged["level"].text() == "sep1/level (nothing)"


def test_a_time_to_come_is_no_age() -> None:
    """A clock that was an hour ahead: its last observation would stay young for an hour after the mirror has stopped."""
    found = [newest("plc1", "valve:observed_ts", NOW + 3600), newest("plc1", "whp:status", NOW + 1)]
    judged = {age.tag: age.stale for age in ages(expected(SOURCES), found, NOW, 60, 150)}
    assert (judged["valve"], judged["whp"]) == (True, False)
    assert next(age for age in ages(expected(SOURCES), [newest("plc1", "whp:status", math.nan)], NOW, 60, 150) if age.tag == "whp").stale


def test_a_namesake_of_somebody_else_is_no_sign_of_life() -> None:
    found = [newest("plc1", "whp:status", NOW - 500), Point({"__name__": "whp:status", "source": "plc1", "job": "x"}, NOW, NOW - 1)]
    assert next(age for age in ages(expected(SOURCES), found, NOW, 60, 150) if age.tag == "whp").age_s == 500


def test_a_tag_read_on_change_is_judged_by_its_observation_not_by_its_status() -> None:
    found = [newest("plc1", "valve:status", NOW)]
    assert next(age for age in ages(expected(SOURCES), found, NOW, 60, 150) if age.tag == "valve").stale


# -- completeness -------------------------------------------------------------------------------------------
@given(st.integers(0, 10**6), st.integers(1, 400), st.sets(st.integers(1, 398), max_size=20))
def test_loss_is_counted_exactly(first: int, n: int, lost: set[int]) -> None:
    inner = {one for one in lost if one < n - 1}
    account = completeness(stream([first + index for index in range(n) if index not in inner]))
    assert (account.lost, account.duplicates, account.expected) == (len(inner), 0, n)
    assert account.lower_bound < account.observed or account.observed == 0 or n == 0 or not inner


def test_twice_is_no_loss_and_a_restart_of_the_source_neither() -> None:
    assert completeness(stream([1, 2, 2, 3])).duplicates == 1
    account = completeness(stream([500, 501, 502, 0, 1, 2]))
    assert (account.lost, account.duplicates, account.distinct) == (0, 0, 6)


def test_no_sample_is_no_completeness() -> None:
    account = completeness(None)
    assert (account.n, account.observed, account.lower_bound) == (0, 0.0, 0.0)


def test_600_without_loss_prove_less_than_three_nines() -> None:
    assert completeness(stream(range(600))).lower_bound < 0.999
    assert completeness(stream(range(2995))).lower_bound >= 0.999


# -- freshness ----------------------------------------------------------------------------------------------
def ring(count: int, age: float = 1.5, blind: int = 0, source: str = "plc1") -> list[str]:
    lines = []
    for index in range(count):
        at = NOW - 0.5 * (count - 1 - index)
        item: dict[str, Any] = {"time": at, "took": 0.01, "newest": {source: at - age}}
        if index < blind:
            item = {"time": at, "took": 5.0, "error": "timeout"}
        lines.append(json.dumps(item))
    return lines


def test_a_torn_line_is_left_out() -> None:
    assert len(parse_observations([*ring(3), '{"time": 1, "newe', "null", "[]"])) == 3
    whole = ring(1)[0]
    assert not parse_observations(whole[:cut] for cut in range(len(whole)))
    assert not parse_observations([json.dumps({"time": NOW, "took": 0.1})]), "of another release: no look that saw nothing"


def test_what_the_operator_could_not_see_drives_the_p95() -> None:
    found = freshness(parse_observations(ring(150, blind=8)), "plc1", NOW - 75, NOW)
    assert found.blind == 8
    p95 = found.summary["p95"]
    assert p95 is not None and math.isinf(p95)
    assert found.errors == ["timeout"]
    assert freshness(parse_observations(ring(150, blind=7)), "plc1", NOW - 75, NOW).summary["p95"] == pytest.approx(1.5)


def test_what_is_no_time_was_not_seen() -> None:
    line = '{"time": %r, "took": 0.01, "newest": {"plc1": NaN}}' % NOW
    assert freshness(parse_observations([line]), "plc1", NOW - 75, NOW).blind == 1


def test_hops_in_order() -> None:
    samples = [Samples({"hop": "writer"}, [1, 2, 3], [0.3, 0.1, 0.2]), Samples({"hop": "collector"}, [1], [0.5]), Samples({"hop": "x"}, [1], [9])]
    assert [(hop["name"], hop["seconds"]) for hop in hops(samples, ("collector", "kafka", "writer"))] == [("collector", 0.5), ("writer", 0.2)]


# -- the checks ---------------------------------------------------------------------------------------------
class FakeStore:
    def __init__(self, points: list[Point] | None = None, samples: Samples | None = None) -> None:
        self.points, self.samples = points or [], samples
        self.asked: list[tuple[str, dict[str, str]]] = []

    def query(self, expression: str, **arguments: str) -> list[Point]:
        self.asked.append((expression, arguments))
        return self.points

    def export(self, selector: str, start: float, end: float, raw: bool = False) -> list[Samples]:
        self.asked.append((selector, {"raw": "1"} if raw else {}))
        if "hop_seconds" in selector or self.samples is None:
            return []
        return [self.samples]


PARAMS = {
    "sources": SOURCES,
    "window": 75.0,
    "settle": 10.0,
    "since": 0.0,
    "freshness_p95": 10.0,
    "min_observations": 120,
    "completeness": 0.999,
    "max_gap": 10.0,
    "cyclic_max_age": 60.0,
    "on_change_max_age": 150.0,
}


def judge(lines: list[str], samples: Samples | None, **changes: Any) -> tuple[dict[str, str], dict[str, Any]]:
    report = Report("canary")
    store: Any = FakeStore(samples=samples)
    window = canary_checks.run(report, {**PARAMS, **changes}, lambda: store, lambda: lines, lambda: NOW)
    return {check.id: check.status for check in report.checks}, window


def test_a_healthy_path_passes() -> None:
    status, window = judge(ring(150), stream(range(130)))
    assert status == {"CN1": "pass", "CN2": "pass", "CN3": "pass", "CN4": "pass"}
    assert window["full"]
    assert window["n"] == 150


def test_what_was_written_again_is_told_apart_from_what_a_reader_gets() -> None:
    class Replayed(FakeStore):
        def export(self, selector: str, start: float, end: float, raw: bool = False) -> list[Samples]:
            numbers = [*range(60), *range(30, 130)] if raw else list(range(130))
            return [] if "hop" in selector else [stream(numbers)]

    report = Report("canary")
    store: Any = Replayed()
    canary_checks.run(report, PARAMS, lambda: store, lambda: ring(150), lambda: NOW)
    (check,) = [check for check in report.checks if check.id == "CN3"]
    assert (check.status, check.evidence["duplicates"], check.evidence["n"], check.evidence["written"]) == ("pass", 0, 130, 160)


def test_the_canary_of_somebody_else_is_not_ours() -> None:
    """It has the same name and source, comes first, and is whole."""
    class Joined(FakeStore):
        def export(self, selector: str, start: float, end: float, raw: bool = False) -> list[Samples]:
            whole = stream(range(130))
            return [] if "hop" in selector else [Samples({**whole.labels, "job": "x"}, whole.times, whole.values), stream([*range(60), *range(70, 130)])]

    report = Report("canary")
    store: Any = Joined()
    canary_checks.run(report, PARAMS, lambda: store, lambda: ring(150), lambda: NOW)
    (check,) = [check for check in report.checks if check.id == "CN3"]
    assert (check.status, check.evidence["lost"], check.evidence["written"]) == ("fail", 10, 120)


@pytest.mark.parametrize(
    ("lines", "samples", "bad"),
    [
        (ring(150, age=11.0), stream(range(130)), {"CN2"}),
        (ring(150), stream([n for n in range(130) if n != 60]), {"CN3"}),
        (ring(150), stream([*range(60), 59, *range(60, 129)]), {"CN3"}),
        # A counter out of its mind.
        (ring(150), stream([*range(129), 10**18]), {"CN3"}),
        (ring(150, age=40.0), stream(range(70)), {"CN2", "CN4"}),
        (ring(150, blind=150), None, {"CN2", "CN3", "CN4"}),
        # It answered 200, showed them, and threw them away: what is left is whole.
        (ring(150), stream(range(100, 130), 9_975_000), {"CN4"}),
    ],
)
def test_each_fault_fails_its_check(lines: list[str], samples: Samples | None, bad: set[str]) -> None:
    status, _window = judge(lines, samples)
    assert {ident for ident, one in status.items() if one == "fail"} == bad
    assert status["CN1"] == "pass"


def test_a_stopped_observer_fails_and_proves_nothing_about_freshness() -> None:
    old = [line for line in ring(150) if json.loads(line)["time"] < NOW - 30]
    status, _window = judge(old, stream(range(130)))
    assert status["CN1"] == "fail"
    assert status["CN2"] == "inconclusive"
    assert judge([], stream(range(130)))[0]["CN1"] == "fail"
    # What it wrote while the clock was an hour ahead says nothing of now, whether it lives or not.
    ahead = [json.dumps({**json.loads(line), "time": NOW + 3600}) for line in ring(3)]
    assert (judge([*old, *ahead], None)[0]["CN1"], judge([*ring(150), *ahead], None)[0]["CN1"]) == ("fail", "pass")


def test_nothing_before_the_restart_counts() -> None:
    status, window = judge(ring(150), stream(range(130)), since=NOW - 20)
    assert status["CN2"] == "inconclusive"
    assert not window["full"]


def test_a_window_that_begins_before_the_path_carried_is_not_full() -> None:
    """Cold start: the collector connects a few seconds into the window. The wait goes on; verify's own window judges."""
    lines = ring(150)
    unseen = [json.dumps({**json.loads(line), "newest": {}}) for line in lines]
    status, window = judge([*unseen[:19], *lines[19:]], stream(range(130)))
    assert (status["CN2"], window["full"]) == ("fail", False)
    draining = [json.dumps({**json.loads(line), "newest": {"plc1": NOW - 105}}) for line in lines]
    assert not judge([*draining[:5], *lines[5:]], stream(range(130)))[1]["full"]
    # What happens later in the window is the verdict's to say: it does not make anybody wait.
    assert judge([*lines[:40], *unseen[40:60], *lines[60:]], stream(range(130)))[1]["full"]


def test_no_canary_at_all_fails() -> None:
    report = Report("canary")
    window = canary_checks.run(report, {**PARAMS, "sources": []}, lambda: None, lambda: ring(150), lambda: NOW)  # type: ignore[arg-type,return-value]
    assert [check.status for check in report.checks if check.id == "CN2"] == ["fail"]
    assert window["n"] == 150


def test_stale_tags_are_named_per_source_and_view() -> None:
    store: Any = FakeStore([newest("plc1", "canary_sequence:status", NOW), newest("plc1", "valve:observed_ts", NOW)])
    report = Report("canary")
    freshness_checks.run(report, PARAMS, lambda: store, lambda: NOW)
    assert {(check.id, check.subject): check.status for check in report.checks} == {
        ("FR1", "plc1"): "fail",
        ("FR1", "sep1"): "fail",
        ("FR2", "plc1"): "fail",
        ("FR2", "sep1"): "fail",
    }
    assert "plc1/whp (nothing)" in report.checks[0].reason
    assert store.asked[0][1] == {"nocache": "1", "latency_offset": "1ms", "time": "%.3f" % (NOW + 172800)}, "what a clock that was ahead left is found"
    assert "[173400s]" in store.asked[0][0] and "[600s]" in store.asked[2][0]
    assert store.asked[2][1] == {}


def test_a_dead_store_is_inconclusive() -> None:
    def dead() -> Any:
        raise StoreError("refused")

    report = Report("canary")
    freshness_checks.run(report, PARAMS, dead, lambda: NOW)
    assert {check.status for check in report.checks} == {"inconclusive"}


def test_a_site_without_sources_is_said_and_asks_nothing() -> None:
    """A module that made no check gave no verdict."""
    report, store = Report("canary"), FakeStore()
    freshness_checks.run(report, {**PARAMS, "sources": []}, lambda: store, lambda: NOW)
    freshness_checks.run_questdb(report, {**PARAMS, "sources": [], "table": "ot"}, lambda: store, lambda: NOW)
    assert [(check.id, check.status) for check in report.checks] == [("FR1", "skipped"), ("FR2", "skipped"), ("FR3", "skipped")]
    assert not store.asked
