# SPDX-License-Identifier: Apache-2.0
"""What the store holds against what the server said: a recorder on a clock made here, and each way of being unfaithful."""
from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import yaml

from ansible_collections.hnai.platform.plugins.module_utils.opcua import fidelity, fidelity_judge
from ansible_collections.hnai.platform.plugins.module_utils.opcua.fidelity import Recording, Tag, choose, join, record
from ansible_collections.hnai.platform.plugins.module_utils.verdict import Report

PRESSURE = Tag("pressure", "nsu=x;s=p", 1000.0, 6.894757293168361, 0.0)
TIMES = range(100_000, 120_000, 1000)


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
    assert not found.extra and len(found.unseen) == 1


def judged(recording: Recording, stored: Any, tags: list[Tag] | None = None) -> dict[str, str]:
    report = Report("ot_collector")
    fidelity_judge.judge(report, "plc1", recording, tags or [PRESSURE], stored)
    return {check.id: check.status for check in report.checks}


def test_the_verdict_follows_from_its_parts() -> None:
    ids = ("MFD1", "MFD2", "MFD3", "MFD4", "MFD5", "MFD0")
    recording, stored = faithful()
    assert judged(recording, lambda: stored) == dict.fromkeys(ids, "pass")
    stored["pressure"][110_000] += 1.0
    assert judged(recording, lambda: stored) == {**dict.fromkeys(ids, "pass"), "MFD1": "fail", "MFD0": "fail"}

    def away() -> Any:
        raise OSError("no route")

    assert judged(recording, away) == dict.fromkeys(ids, "inconclusive")
    assert judged(Recording(error="no session"), lambda: stored) == dict.fromkeys(ids, "inconclusive")
    assert judged(Recording(0, 1, {"pressure": []}), dict) == dict.fromkeys(ids, "inconclusive")
    recording, stored = faithful()
    stored["pressure:status"][110_500] = 0.0
    recording.pause_ms = 1500.0
    assert judged(recording, lambda: stored) == {**dict.fromkeys(ids, "pass"), "MFD5": "inconclusive", "MFD0": "inconclusive"}


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


def test_the_recorder_keeps_to_its_budget_and_sees_each_sample_once() -> None:
    now, asked = [1000.0], []

    async def sleep(seconds: float) -> None:
        now[0] += seconds

    async def read(nodes: list[str]) -> list[tuple[int | None, Any, int]]:
        asked.append((now[0], len(nodes)))
        now[0] += 0.01
        return [(int(now[0]) * 1000, now[0] // 1, 0), (None, None, 0x80000000)]

    tags = [Tag("a", "x", 1000.0), Tag("b", "y", 500.0)]
    found = asyncio.run(record(read, tags, 10.0, 4.0, lambda: now[0], sleep))
    assert [at for at, _value, _status in found.samples["a"]] == [1000_000 + 1000 * number for number in range(11)] and found.samples["b"] == []
    assert all(count == 2 for _at, count in asked)
    assert min(second - first for (first, _), (second, _) in zip(asked, asked[1:])) >= 0.49, "two tags, four per second"
    assert 490 <= found.pause_ms <= 520 and found.reads == len(asked) and fidelity.TOLERANCE == 1e-9
