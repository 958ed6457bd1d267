# SPDX-License-Identifier: Apache-2.0
"""What the store holds against what the server said: a recorder on a clock made here, and each way of being unfaithful."""
from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml

from ansible_collections.hnai.platform.plugins.module_utils.opcua import fidelity, fidelity_judge
from ansible_collections.hnai.platform.plugins.module_utils.opcua.fidelity import Recording, Tag, choose, join, record
from ansible_collections.hnai.platform.plugins.module_utils.verdict import Report

PRESSURE = Tag("pressure", "nsu=x;s=p", 1000.0, 6.894757293168361, 0.0)
TIMES = range(100_000, 120_000, 1000)
IDS = ("MFD1", "MFD2", "MFD3", "MFD4", "MFD5", "MFD0")


def faithful() -> tuple[Recording, dict[str, dict[int, float]]]:
    samples: list[list[Any]] = [[at, 10.0 + number, 0 if number != 7 else 0x808C0000] for number, at in enumerate(TIMES)]
    good = {at: value * PRESSURE.scale for at, value, status in samples if status == 0}
    return (Recording(TIMES[0], TIMES[-1], {"pressure": samples}, pause_ms=600.0, reads=40),
            {"pressure": good, "pressure:status": {at: float(status) for at, _value, status in samples}})


def test_a_faithful_store_has_no_findings() -> None:
    recording, stored = faithful()
    found = join(recording, [PRESSURE], stored, "plc1")
    assert found.joined == 14 and not (found.missing or found.extra or found.unseen or found.values or found.statuses or found.quiet)
    assert found.gaps_ms == {"pressure": {"server": 1000, "store": 1000}}


def shift(stored: dict[str, dict[int, float]], by: int) -> None:
    for series in stored.values():
        if 110_000 in series:
            series[110_000 + by] = series.pop(110_000)


@pytest.mark.parametrize(("plant", "counts"), [
    (lambda s: s["pressure"].update({110_000: s["pressure"][110_000] * (1 + 1e-8)}), (0, 0, 1, 0)),
    (lambda s: s["pressure"].update({110_000: s["pressure"][110_000] * (1 + 1e-12)}), (0, 0, 0, 0)),
    (lambda s: [series.pop(110_000) for series in s.values()], (1, 0, 0, 0)),
    (lambda s: s["pressure:status"].pop(110_000), (1, 1, 0, 0)),
    (lambda s: s["pressure"].pop(110_000), (0, 0, 1, 0)),
    (lambda s: s["pressure:status"].update({110_000: float(0x40000000)}), (0, 0, 0, 1)),
    (lambda s: s["pressure"].update({107_000: 0.0}), (0, 0, 1, 0)),
    (lambda s: shift(s, 1), (1, 1, 0, 0)),
    (lambda s: s["pressure:status"].update({110_500: 0.0}), (0, 1, 0, 0)),
], ids=["value", "rounding", "missing", "status dropped", "value dropped", "status", "bad with value", "1 ms off", "extra"])
def test_each_way_of_being_unfaithful(plant: Any, counts: tuple[int, int, int, int]) -> None:
    recording, stored = faithful()
    plant(stored)
    found = join(recording, [PRESSURE], stored, "plc1")
    assert (len(found.missing), len(found.extra), len(found.values), len(found.statuses)) == counts, found
    assert all("plc1/pressure at 1" in text for text in found.missing + found.extra + found.values + found.statuses)


@pytest.mark.parametrize(("number", "stored", "tag", "same"), [
    (5e-10, 0.0, Tag("leak", "n", 1000.0), False),                       # a leak rate, not nothing
    (5e-10, 5e-10 * (1 + 1e-12), Tag("leak", "n", 1000.0), True),
    (0.0, 0.0, Tag("leak", "n", 1000.0), True),
    (32.0, 1e-14, Tag("degF", "n", 1000.0, 5 / 9, -160 / 9), True),      # what is left of 17.8 - 17.8
    (32.0, 1e-7, Tag("degF", "n", 1000.0, 5 / 9, -160 / 9), False),
    (2_000_000_001, 2_000_000_000.0, Tag("counter", "n", 1000.0, type="int"), False),     # one off is another value
    (2**53, 2.0**53, Tag("counter", "n", 1000.0, type="int"), True),
    (2**63 - 1, 9.223372036854775e18, Tag("counter", "n", 1000.0, type="int"), True),     # beyond what a store has exactly
    (2_000_000_001, 2_000_000_001 * 0.1, Tag("scaled", "n", 1000.0, 0.1, type="int"), True),
    (1_000_001, 1_000_000.0, Tag("state", "n", 1000.0, type="enum"), False),
    (-0.0, 0.0, Tag("leak", "n", 1000.0), True),
])
def test_the_tolerance_is_of_what_the_conversion_adds_up(number: float, stored: float, tag: Tag, same: bool) -> None:
    recording = Recording(0, 20_000, {tag.name: [[at, number, 0] for at in range(0, 20_000, 1000)]}, pause_ms=100.0)
    series = dict.fromkeys(range(0, 20_000, 1000), stored)
    found = join(recording, [tag], {tag.name: series, tag.name + ":status": dict.fromkeys(series, 0.0)}, "plc1")
    assert found.joined and bool(found.values) is not same


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_has_no_number_is_bad_in_the_store_and_that_is_faithful(value: float) -> None:
    recording, stored = faithful()
    recording.samples["pressure"][10][1] = value
    assert join(recording, [PRESSURE], stored, "plc1").values
    del stored["pressure"][110_000]
    stored["pressure:status"][110_000] = float(fidelity.BAD_OUT_OF_RANGE)
    found = join(recording, [PRESSURE], stored, "plc1")
    assert not (found.values or found.statuses)


def test_what_a_slow_recorder_did_not_see_is_not_held_against_the_store() -> None:
    recording, stored = faithful()
    stored["pressure:status"][110_500] = 0.0
    recording.pause_ms = 1000.0
    found = join(recording, [PRESSURE], stored, "plc1")
    assert not found.extra and len(found.unseen) == 1 and found.slow == ["pressure"], "the recording has no hole there"


def test_a_few_that_fell_into_pauses_are_left_out_and_many_leave_too_little() -> None:
    times = range(100_000, 160_000, 1000)
    stored = {"pressure": dict.fromkeys(times, 650.0), "pressure:status": dict.fromkeys(times, 0.0)}

    def recorded(*missed: int) -> Recording:
        return Recording(times[0], times[-1], {"pressure": [[at, 100.0, 0] for at in times if at not in missed]}, 1200.0, {"pressure": 1100.0}, 120)

    tag = Tag("pressure", "n", 1000.0, 6.5)
    found = join(recorded(110_000, 130_000), [tag], stored, "plc1")
    assert not (found.extra or found.missing or found.values or found.slow) and len(found.unseen) == 2 and found.joined == 52
    assert join(recorded(110_000, 130_000, 140_000), [tag], stored, "plc1").slow == ["pressure"]
    assert judged(recorded(110_000, 130_000), lambda: stored, [tag]) == dict.fromkeys(IDS, "pass")
    change = dataclasses.replace(tag, cyclic=False)
    assert join(recorded(110_000), [change], stored, "plc1").slow == ["pressure"], "how many there were nobody knows"
    quick = dataclasses.replace(recorded(110_000), pauses_ms={"pressure": 600.0})
    assert len(join(quick, [tag], stored, "plc1").extra) == 1, "another tag's pause is none of this one"


def mark(stored: dict[str, dict[int, float]], start: int, *lost: int) -> None:
    """*lost* did not arrive, and the collector says from when on."""
    for at in lost:
        stored["pressure"].pop(at, None)
        del stored["pressure:status"][at]
    stored["pressure:status"][start + 1] = float(fidelity.BAD_NO_COMMUNICATION)


def test_a_marked_gap_is_told_and_accused_of_nothing() -> None:
    recording, stored = faithful()
    mark(stored, 109_000, 110_000, 111_000)
    found = join(recording, [PRESSURE], stored, "plc1")
    assert not (found.missing or found.extra or found.unseen or found.values or found.statuses)
    assert found.marked == ["plc1/pressure at 110000 (status 0x00000000)", "plc1/pressure at 111000 (status 0x00000000)"] and found.joined == 12
    assert judged(recording, lambda: stored) == dict.fromkeys(IDS, "pass")


def test_a_mark_explains_what_is_missing_up_to_the_next_sample_and_no_more() -> None:
    recording, stored = faithful()
    mark(stored, 105_000, 106_000)
    for at in (110_000, 111_000):
        del stored["pressure"][at], stored["pressure:status"][at]
    found = join(recording, [PRESSURE], stored, "plc1")
    assert [text.split()[2] for text in found.missing] == ["110000", "111000"] and len(found.marked) == 1


def test_after_a_restart_a_gap_is_marked_at_its_end_too() -> None:
    """Its begin is that of the collector's memory, which is older than the last that was stored."""
    recording, stored = faithful()
    mark(stored, 107_000, 110_000, 111_000)
    assert len(join(recording, [PRESSURE], stored, "plc1").missing) == 2, "the samples behind the mark ended it"
    stored["pressure:status"][111_999] = float(fidelity.BAD_NO_COMMUNICATION)
    found = join(recording, [PRESSURE], stored, "plc1")
    assert not (found.missing or found.extra) and [text.split()[2] for text in found.marked] == ["110000", "111000"]
    # The mark of a gap that begins behind what is missing explains nothing of it.
    recording, stored = faithful()
    mark(stored, 111_000, 110_000, 111_000)
    assert len(join(recording, [PRESSURE], stored, "plc1").missing) == 2


def test_a_gaps_mark_that_the_server_said_itself_is_a_sample() -> None:
    recording, stored = faithful()
    recording.samples["pressure"][10][1:] = [None, fidelity.BAD_NO_COMMUNICATION]
    assert len(join(recording, [PRESSURE], stored, "plc1").statuses) == 1
    del stored["pressure"][110_000]
    stored["pressure:status"].update({110_000: float(fidelity.BAD_NO_COMMUNICATION)})
    del stored["pressure"][111_000], stored["pressure:status"][111_000]
    found = join(recording, [PRESSURE], stored, "plc1")
    assert len(found.missing) == 1 and not found.marked and not found.statuses, "nothing explains 111000"


@pytest.mark.parametrize("hours", [-1, 1])
def test_a_servers_clock_may_be_hours_off(hours: int) -> None:
    recording, stored = faithful()
    recording.begin_ms -= hours * 3_600_000
    recording.end_ms -= hours * 3_600_000
    assert fidelity.span_ms(recording) == (TIMES[0], TIMES[-1]) and join(recording, [PRESSURE], stored, "plc1").joined == 14
    assert fidelity.span_ms(Recording(5, 6)) == (5, 6)


@pytest.mark.parametrize(("kind", "said", "status", "number", "kept"), [
    ("bool", True, 0, 1.0, 0), ("bool", False, 0, 0.0, 0), ("bool", 1, 0, None, 0x80740000), ("enum", 3, 0, 3.0, 0), ("enum", "open", 0, None, 0x80740000),
    ("int", 3, 0, 3.0, 0), ("int", 3.0, 0, None, 0x80740000), ("int", True, 0, None, 0x80740000), ("double", "1.5", 0, None, 0x80740000),
    ("double", [1.5], 0, None, 0x80740000), ("double", None, 0, None, 0x80740000), ("double", None, 0x40000000, None, 0x40000000),
    ("double", -0.0, 0, 0.0, 0), ("double", 0.0, 0, -0.0, 0), ("float", float("-inf"), 0, None, 0x803C0000), ("int", 2**53, 0, 2.0**53, 0),
    ("double", 5.0, 0x808C0000, None, 0x808C0000), ("double", float("nan"), 0x808C0000, None, 0x808C0000), ("double", 5.0, 0x40900000, 5.0, 0x40900000),
])
def test_what_a_record_makes_of_each_kind_of_value_is_faithful(kind: str, said: Any, status: int, number: float | None, kept: int) -> None:
    from hnai_ot_collector.record import fit

    fitted, code = fit(said, kind, status)
    assert code == kept and (None if fitted is None else float(fitted)) == number, "the collector's own word"
    tag = Tag("x", "n", 1000.0, type=kind)
    recording = Recording(0, 20_000, {"x": [[at, said, status] for at in range(0, 20_000, 1000)]}, pause_ms=100.0)
    stored = {"x:status": dict.fromkeys(range(0, 20_000, 1000), float(kept))}
    stored["x"] = {} if number is None else dict.fromkeys(stored["x:status"], number)
    found = join(recording, [tag], stored, "plc1")
    assert found.joined == 14 and not (found.values or found.statuses or found.missing or found.extra), found
    stored["x:status"] = dict.fromkeys(stored["x:status"], 0.0 if kept else 2147483648.0)
    assert len(join(recording, [tag], stored, "plc1").statuses) == 14


def test_two_samples_of_one_millisecond_are_one_in_the_store() -> None:
    """The same source time, another status: VictoriaMetrics keeps one of them."""
    recording, stored = faithful()
    recording.samples["pressure"].insert(11, [110_000, None, 0x808C0000])
    assert not join(recording, [PRESSURE], stored, "plc1").statuses
    stored["pressure:status"][110_000] = float(0x808C0000)
    found = join(recording, [PRESSURE], stored, "plc1")
    assert not (found.statuses or found.values)
    stored["pressure:status"][110_000] = float(0x40000000)
    assert found.joined == 14 and len(join(recording, [PRESSURE], stored, "plc1").statuses) == 1


def test_a_status_that_is_no_number_is_a_finding_and_no_excuse() -> None:
    recording, stored = faithful()
    stored["pressure:status"][110_000] = float("nan")
    assert judged(recording, lambda: stored) == {**dict.fromkeys(IDS, "pass"), "MFD2": "fail", "MFD0": "fail"}


def test_a_server_that_stamps_each_reading_anew_says_nothing_of_what_is_missing() -> None:
    """The recorder's readings and the collector's are of other moments: nobody lost anything."""
    recording, stored = faithful()
    recording.samples["pressure"] = [[at, 1.0, 0] for at in range(100_250, 120_250, 500)]
    assert judged(recording, lambda: stored) == dict.fromkeys(IDS, "inconclusive")
    recording.samples["pressure"] = [[at + 250, 1.0, 0] for at in TIMES]
    recording.pause_ms = 1000.0
    found = join(recording, [PRESSURE], stored, "plc1")
    assert not found.missing and not found.extra and len(found.unseen) == 15 + 14


def test_a_status_that_the_server_gave_without_a_time_is_its_own() -> None:
    """The collector tells it with a time of its own."""
    recording, stored = faithful()
    stored["pressure:status"][110_500] = float(0x80340000)
    assert len(join(recording, [PRESSURE], stored, "plc1").extra) == 1
    recording.timeless["pressure"] = [0x80340000]
    assert not join(recording, [PRESSURE], stored, "plc1").extra


def judged(recording: Recording, stored: Any, tags: list[Tag] | None = None) -> dict[str, str]:
    report = Report("ot_collector")
    fidelity_judge.judge(report, "plc1", recording, tags or [PRESSURE], stored)
    return {check.id: check.status for check in report.checks}


def test_the_verdict_follows_from_its_parts() -> None:
    recording, stored = faithful()
    assert judged(recording, lambda: stored) == dict.fromkeys(IDS, "pass")
    stored["pressure"][110_000] += 1.0
    assert judged(recording, lambda: stored) == {**dict.fromkeys(IDS, "pass"), "MFD1": "fail", "MFD0": "fail"}

    def away() -> Any:
        raise OSError("no route")

    assert judged(recording, away) == dict.fromkeys(IDS, "inconclusive")
    assert judged(Recording(error="no session"), lambda: stored) == dict.fromkeys(IDS, "inconclusive")
    assert judged(Recording(0, 1, {"pressure": []}), dict) == dict.fromkeys(IDS, "inconclusive")
    recording, stored = faithful()
    stored["pressure:status"][110_500] = 0.0
    recording.pause_ms = 1500.0
    assert judged(recording, lambda: stored) == {**dict.fromkeys(IDS, "pass"), "MFD5": "inconclusive", "MFD0": "inconclusive"}


def lag(recording: Recording, shown: fidelity.Shown, tags: list[Tag] | None = None, problem: str = "") -> Any:
    report = Report("ot_collector")
    fidelity_judge.judge_lag(report, "plc1", recording, tags or [PRESSURE], shown, problem, 10.0)
    (check,) = report.checks
    return check


def timed(took_s: float, every_s: float = 1.0, late_s: float = 0.0) -> tuple[Recording, fidelity.Shown]:
    """Read each half second from 1 000 s on; shown *took_s* later, polled each *every_s*; one in the middle *late_s* later than that."""
    recording, _ = faithful()
    recording.read_ms["pressure"] = {str(at): [1000e3 + at - 500, 1000e3 + at] for at in TIMES}
    shown = {str(at): [1000e3 + at + 1000 * (took_s - every_s), 1000e3 + at + 1000 * took_s] for at in TIMES}
    shown["110000"] = [one + 1000 * late_s for one in shown["110000"]]
    return recording, {"pressure": shown}


def test_how_long_a_sample_takes_is_judged_by_tag_and_by_what_is_certain() -> None:
    fine = lag(*timed(4.0))
    assert fine.status == "pass" and fine.observed == 4.5 and fine.evidence["at_most_s"] == {"pressure": {"n": 20, "p50": 4.5, "p95": 4.5, "max": 4.5}}
    late = lag(*timed(60.0))
    assert late.status == "fail" and late.reason == "late: pressure (at least 59.0 s)" and len(late.evidence["late"]) == 20
    assert lag(*timed(11.0, every_s=1.0)).status == "inconclusive", "10.0 s at least, 11.5 s at most: nobody looked often enough"
    one = lag(*timed(4.0, late_s=60.0))
    assert one.status == "pass" and one.evidence["late"] == ["plc1/pressure at 110000: at least 63.0 s"]
    assert one.evidence["at_most_s"]["pressure"]["max"] == 64.5
    recording, shown = timed(4.0)
    two = [PRESSURE, Tag("level", "n", 1000.0)]
    recording.read_ms["level"], shown["level"] = timed(60.0)[0].read_ms["pressure"], timed(60.0)[1]["pressure"]
    assert lag(recording, shown, two).reason == "late: level (at least 59.0 s)"
    del shown["level"]
    assert lag(recording, shown, two).evidence["unwatched"] == ["level"]


def test_what_nobody_saw_arrive_is_no_freshness() -> None:
    recording, shown = timed(4.0)
    assert lag(recording, {}).status == "inconclusive" and lag(recording, {}, problem="no route").reason == "no route"
    assert lag(recording, shown, problem="no route").status == "inconclusive", "a watch that ended before its time"
    assert lag(Recording(error="no session"), shown).reason == "no session"
    recording.read_ms["pressure"] = {at: [None, seen] for at, (_, seen) in recording.read_ms["pressure"].items()}
    assert lag(recording, shown).status == "inconclusive", "what was there at the first read may be as old as it likes"


def test_the_watch_tells_between_which_polls_a_sample_came() -> None:
    now, answers = [100.0], iter([{"a": [1]}, {"a": [1, 2]}, {"a": [2, 3], "b": [7]}, {"a": [3]}])

    def ask() -> Any:
        now[0] += 0.25
        return next(answers)

    def sleep(seconds: float) -> None:
        now[0] += seconds

    shown: fidelity.Shown = {}
    fidelity.watch(ask, shown, 4.0, 1.0, lambda: now[0], sleep)
    assert shown == {"a": {"2": [100e3, 101.25e3], "3": [101e3, 102.25e3]}, "b": {"7": [101e3, 102.25e3]}}
    with pytest.raises(StopIteration):
        fidelity.watch(ask, shown, 4.0, 1.0, lambda: now[0], sleep)
    assert "2" in shown["a"], "what was seen stays when the store goes away"


def test_the_units_are_the_jobs() -> None:
    roles = Path(__file__).resolve().parents[2] / "roles"
    job = yaml.safe_load((roles / "flink/vars/main.yml").read_text())["__flink_units"]
    assert yaml.safe_load((roles / "ot_collector/defaults/main.yml").read_text())["ot_collector_fidelity_units"] == job


def test_nothing_recorded_is_no_agreement() -> None:
    found = join(Recording(0, 1, {"pressure": []}), [PRESSURE], {}, "plc1")
    assert found.quiet == ["pressure"] and not found.joined


def test_the_same_seed_chooses_the_same_tags() -> None:
    tags = [{"name": "t%02d" % number, "node": "n", "type": "double", "unit": "psi", "unit_to": "kPa"} for number in range(40)]
    tags.append({"name": "text", "node": "n", "type": "string"})
    units = {"psi>kPa": {"scale": "6.5", "offset": "1"}}
    first = choose(tags, 10, 1, units)
    assert first == choose(list(reversed(tags)), 10, 1, units) and len({tag.name for tag in first}) == 10
    assert first != choose(tags, 10, 2, units) and first[0].scale == 6.5 and first[0].offset == 1.0
    assert len(choose(tags, 100, 1, units)) == 40, "strings are not in the store"
    with pytest.raises(KeyError):
        choose(tags, 1, 1, {})
    (alone,) = choose([{"name": "b", "node": "n", "type": "bool"}], 1, 1, {})
    assert alone.cyclic and alone.type == "bool", "as the collector takes it"


def test_the_recorder_keeps_to_its_budget_and_sees_each_sample_once() -> None:
    now, asked = [1000.0], []

    async def sleep(seconds: float) -> None:
        now[0] += seconds

    async def read(nodes: list[str]) -> list[tuple[int | None, Any, int]]:
        asked.append((now[0], len(nodes)))
        now[0] += 0.01
        return [(int(now[0]) * 1000, now[0] // 1, 0), (None, None, 0x80000000)]

    tags = [Tag("a", "x", 1000.0), Tag("b", "y", 1000.0)]
    found = asyncio.run(record(read, tags, 10.0, 4.0, lambda: now[0], sleep))
    assert [at for at, _value, _status in found.samples["a"]] == [1000_000 + 1000 * number for number in range(11)] and found.samples["b"] == []
    assert all(count == 2 for _at, count in asked)
    assert min(second - first for (first, _), (second, _) in zip(asked, asked[1:])) >= 0.49, "two tags, four per second"
    assert 490 <= found.pause_ms <= 520 and found.reads == len(asked) and fidelity.TOLERANCE == 1e-9
    assert found.timeless == {"b": [0x80000000]}
    times = found.read_ms["a"]
    assert times["1000000"][0] is None and times["1005000"][1] - times["1005000"][0] == pytest.approx(500.0)


def test_a_tag_that_is_sampled_sooner_is_read_sooner_and_no_more_tags_than_the_budget_bears() -> None:
    now, asked = [1000.0], []

    async def sleep(seconds: float) -> None:
        now[0] += seconds

    async def read(nodes: list[str]) -> list[tuple[int | None, Any, int]]:
        asked.append((round(now[0] - 1000.0, 2), nodes))
        # The server has another value every 500 ms: readings as far apart as these would see every other one, or each twice.
        return [(int(now[0] * 2) * 500, now[0] // 0.5, 0) for _node in nodes]

    tags = [Tag("slow", "s", 1000.0), Tag("swift", "q", 500.0), Tag("third", "t", 1600.0)]
    found = asyncio.run(record(read, tags, 4.0, 50.0, lambda: now[0], sleep))
    assert asked[:5] == [(0.0, ["s", "q", "t"]), (0.25, ["q"]), (0.5, ["s", "q"]), (0.75, ["q", "t"]), (1.0, ["s", "q"])]
    assert found.pauses_ms == pytest.approx({"slow": 500.0, "swift": 250.0, "third": 750.0}) and found.pause_ms == pytest.approx(750.0)
    assert [at for at, _value, _status in found.samples["swift"]] == [1000_000 + 500 * number for number in range(9)]
    declared = [{"name": "t%02d" % number, "node": "n", "sampling_ms": 500 if number == 7 else 1000} for number in range(30)]
    for budget in (5.0, 20.0, 50.0, 1000.0):
        picked = choose(declared, 20, 1, {}, budget)
        assert 1 <= len(picked) <= 20 and sum(2000.0 / tag.sampling_ms for tag in picked) <= max(0.9 * budget, 4.0)
    assert len(choose(declared, 20, 1, {}, 1000.0)) == 20 and len(choose(declared, 20, 1, {}, 20.0)) in (8, 9)


def test_the_recorder_keeps_another_status_at_the_same_time_and_a_nan_once() -> None:
    now, answers = [0.0], iter([(1000, 1.0, 0), (1000, 1.0, 0x40000000), (1000, 1.0, 0x40000000), (2000, float("nan"), 0), (2000, float("nan"), 0)])

    async def sleep(_seconds: float) -> None:
        now[0] += 0.5

    async def read(_nodes: list[str]) -> list[tuple[int | None, Any, int]]:
        return [next(answers)]

    found = asyncio.run(record(read, [Tag("a", "x", 1000.0)], 2.0, 100.0, lambda: now[0], sleep))
    assert repr(found.samples["a"]) == repr([[1000, 1.0, 0], [1000, 1.0, 0x40000000], [2000, float("nan"), 0]])
