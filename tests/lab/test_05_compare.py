# SPDX-License-Identifier: Apache-2.0
"""The comparison of journals and store sees what it is there for. Needs no lab."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from journals import BAD, BAD_NO_COMMUNICATION, Account, Series, compare, compare_replies, converted, foreign, lived, once, unmarked

TAGS = [
    {"name": "pressure", "type": "double", "unit": "psi", "unit_to": "kPa"},
    {"name": "running", "type": "bool", "unit": "", "unit_to": ""},
    {"name": "shift", "type": "string", "unit": "", "unit_to": ""},
]
START, END = 1_000_000, 1_010_000
SENSOR_FAILURE = 0x808C0000
JOURNAL = [
    {"t": 10_000_000_007, "tag": "pressure", "value": 100.0, "status": 0},
    {"t": 10_010_000_000, "tag": "pressure", "value": None, "status": SENSOR_FAILURE},
    {"t": 10_020_009_999, "tag": "running", "value": True, "status": 0},
    {"t": 10_030_000_000, "tag": "shift", "value": "A", "status": 0},
]
Stored = dict[str, dict[int, list[float]]]


def stored() -> Stored:
    """What the store must hold for JOURNAL."""
    return {
        "pressure": {1_000_000: [689.4757293168361]},
        "pressure:status": {1_000_000: [0.0], 1_001_000: [float(SENSOR_FAILURE)]},
        "running": {1_002_000: [1.0]},
        "running:status": {1_002_000: [0.0]},
        "shift:status": {1_003_000: [0.0]},
    }


def test_what_is_whole_is_whole() -> None:
    account = compare(JOURNAL, TAGS, Series(stored()), START, END)
    assert account.whole, account.text()
    assert account.samples == 4
    assert account.kinds["bad"] == account.kinds["string"] == 1


def move(store: Stored) -> None:
    store["running"] = {1_002_001: [1.0]}


DAMAGED: dict[str, tuple[Callable[[Stored], Any], str]] = {
    "a sample is not there": (lambda store: store["running:status"].clear(), "missing"),
    "a value is not there": (lambda store: store["running"].clear(), "missing"),
    "a sample is there twice": (lambda store: store["pressure:status"][1_000_000].append(0.0), "twice"),
    "a value is there twice": (lambda store: store["pressure"][1_000_000].append(689.4757293168361), "twice"),
    "a value is 2e-9 beside": (lambda store: store["pressure"].update({1_000_000: [689.4757293168361 * (1 + 2e-9)]}), "wrong"),
    "a status is another": (lambda store: store["pressure:status"].update({1_001_000: [float(BAD)]}), "wrong"),
    "a bad sample has a value": (lambda store: store["pressure"].update({1_001_000: [0.0]}), "wrong"),
    "a string has a number": (lambda store: store.update(shift={1_003_000: [0.0]}), "wrong"),
    "a value is a millisecond late": (move, "foreign"),
    "a sample that nobody made": (lambda store: store["pressure:status"].update({1_005_000: [0.0]}), "foreign"),
    "a series that nobody declared": (lambda store: store.update(pressures={1_000_000: [1.0]}), "foreign"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_what_is_damaged_is_seen(name: str) -> None:
    damage, kind = DAMAGED[name]
    store = stored()
    damage(store)
    account = compare(JOURNAL, TAGS, Series(store), START, END)
    assert not account.whole
    assert getattr(account, kind), account.text()


def replies(lag_ms: int = 2) -> tuple[list[dict[str, Any]], Stored]:
    """Ten polls of one register, a second apart."""
    lines = [{"t": (START + 1000 * n) * 10_000, "tag": "valve", "value": n, "status": 0, "reply": n} for n in range(11)]
    times = [START + 1000 * n + lag_ms for n in range(11)]
    return lines, {"valve": {t: [n * 0.1] for n, t in enumerate(times)}, "valve:status": {t: [0.0] for t in times}}


VALVE = [{"name": "valve", "type": "double", "unit": "", "unit_to": "", "scale": 0.1}]


def test_every_reply_once() -> None:
    lines, store = replies()
    account, lags = compare_replies(lines, VALVE, Series(store), START, END, 1100)
    assert account.whole, account.text()
    assert account.samples == 10
    assert 2 <= lags.quantile(1) <= 3


@pytest.mark.parametrize("kind", ["missing", "twice", "wrong", "late"])
def test_a_damaged_reply_is_seen(kind: str) -> None:
    lines, store = replies(lag_ms=900 if kind == "late" else 2)
    at = sorted(store["valve"])[5]
    if kind == "missing":
        del store["valve:status"][at]
    elif kind == "twice":
        store["valve:status"][at + 100] = [0.0]
    elif kind == "wrong":
        store["valve"][at] = [0.51]
    account, _lags = compare_replies(lines, VALVE, Series(store), START, END, 500)
    assert getattr(account, "wrong" if kind == "late" else kind), account.text()


def test_units_of_the_definitions() -> None:
    assert converted(212.0, {"type": "double", "unit": "degF", "unit_to": "degC"}) == pytest.approx(100.0, rel=1e-12)
    assert converted(True, {"type": "bool"}) == 1.0
    assert converted("A", {"type": "string"}) is None
    with pytest.raises(KeyError):
        converted(1.0, {"type": "double", "unit": "psi", "unit_to": "bar"})


def test_a_loss_is_marked_only_by_a_mark_between_the_samples_around_it() -> None:
    def store(*marked: int) -> Stored:
        return {"a:status": {**{ms: [0.0] for ms in (1000, 2000, 5000)}, **{ms: [float(BAD_NO_COMMUNICATION)] for ms in marked}}}

    assert unmarked({"a": [3000, 4000]}, store(2500)) == []
    assert unmarked({"a": [3000, 4000]}, store()) == unmarked({"a": [3000, 4000]}, store(1500, 5500)) == ["a 3000", "a 4000"]
    assert unmarked({"b": [3000]}, store(2500)) == ["b 3000"]


def test_what_was_written_twice_counts_once_and_what_differs_stays() -> None:
    found, count = once(Series({"pressure": {1: [2.0, 2.0, 2.0], 3: [4.0], 5: [6.0, 7.0], 7: [14.819995893579001, 14.819995893579]}}))
    assert found.values == {"pressure": {1: [2.0], 3: [4.0], 5: [6.0, 7.0], 7: [14.819995893579001]}}
    assert count == 3


def test_only_the_mark_of_a_gap_may_have_no_journal() -> None:
    told = [f"pressure:status 7: {[float(BAD_NO_COMMUNICATION)]}"]
    others = ["pressure:status 7: [0.0]", "pressure 7: [1.0]", f"pressure:status 7: {[float(BAD_NO_COMMUNICATION), 0.0]}"]
    assert foreign(Account(foreign=told + others)) == others


@pytest.mark.parametrize(
    ("breaks", "times"),
    [
        ([], [(0, 100)]),
        ([(20, 30)], [(0, 20), (30, 100)]),
        ([(50, 60), (20, 55)], [(0, 20), (60, 100)]),
        ([(-5, 10), (90, 120)], [(10, 90)]),
    ],
)
def test_a_collector_lived_between_its_deaths(breaks: list[tuple[int, int]], times: list[tuple[int, int]]) -> None:
    assert lived(0, 100, breaks) == times
