# SPDX-License-Identifier: Apache-2.0
"""What lies in the store is what the plant produced: compared with the simulators' own journals, sample by sample.

The window ends 30 s ago and begins when the plant was connected, at most MOST minutes earlier; LEAST minutes are waited for
(HNAI_JOURNAL_MINUTES: more of them). From 10 minutes on it must hold 100 000 samples.
"""
from __future__ import annotations

import os
from dataclasses import dataclass
from itertools import pairwise

import pytest
import yaml
from conftest import Lab
from journals import BAD, TICKS_PER_MS, UNITS, Lags, Series, compare, compare_replies, converted
from plant_view import collector, journal, now_ms, program, source, stored, until

LEAST = float(os.environ.get("HNAI_JOURNAL_MINUTES", "3"))
MOST = max(LEAST, 15.0)
SETTLE_MS = 30_000
#: A restarted collector's first samples are of the time before it; the window begins after them.
BEGIN_MS = 20_000


@dataclass
class Window:
    """[start, end) in ms, and what the store shows of it."""

    start: int
    end: int
    store: dict[str, Series]

    @property
    def minutes(self) -> float:
        return (self.end - self.start) / 60_000

    @property
    def wanted(self) -> int:
        """OPC UA samples that the plant produces at least in this time."""
        return 100_000 if self.minutes >= 10 else int(6_500 * self.minutes)


@pytest.fixture(scope="module")
def window(lab: Lab) -> Window:
    """The longest settled window since the plant was connected; where that was only now, it is waited for."""

    def begin() -> int | None:
        said = collector(lab)
        status = [said[name] for name in ("plc1", "sep1", "spb1")]
        since = max(one["since"] for one in status) // TICKS_PER_MS + BEGIN_MS
        long_enough = now_ms() - SETTLE_MS - since >= LEAST * 60_000
        return since if long_enough and all(one["state"] == "connected" for one in status) else None

    since = until("the plant is not connected for long enough", begin, LEAST * 60 + 90, 5)
    end = now_ms() - SETTLE_MS
    start = max(since, end - int(MOST * 60_000))
    return Window(start, end, stored(lab, ["plc1", "sep1", "line1", "spb1"], start, end + 5_000))


def test_every_opcua_sample_once_with_its_status_value_and_time(lab: Lab, window: Window) -> None:
    tags = source(lab, "plc1")["tags"]
    account = compare(journal(lab, "opcua", window.start, window.end), tags, window.store["plc1"], window.start, window.end)
    print(account.text())
    assert account.samples >= window.wanted, account.text()
    assert account.whole, account.text()
    assert all(account.kinds.get(kind) for kind in ("good", "uncertain", "bad", "double", "float", "int", "bool", "enum", "string")), account.text()


def test_a_string_stays_out_of_the_store(lab: Lab, window: Window) -> None:
    texts = {tag["name"] for tag in source(lab, "plc1")["tags"] if tag["type"] == "string"}
    assert texts
    assert not texts & set(window.store["plc1"].values)


def test_a_string_arrives_in_kafka_to_the_tick(lab: Lab, window: Window) -> None:
    texts = [tag["name"] for tag in source(lab, "plc1")["tags"] if tag["type"] == "string"]
    produced = {
        (line["tag"], line["t"]): (line["value"], line["status"])
        for line in journal(lab, "opcua", window.start, window.end)
        if line["tag"] in texts
    }
    assert produced, "no string changed in the window: make it longer"
    broker = lab.groups["kafka"][0]
    keys = [f"plc1/{name}" for name in texts]
    found = lab.python(broker, program("host_consume"), f"{broker}:9091", "ot.raw", str(window.start), "90", *keys, timeout=150)
    assert found["read"] >= window.wanted
    arrived: dict[tuple[str, int], list[tuple[object, int]]] = {}
    for record in found["records"]:
        at = record["source_ts"]
        if window.start <= at // TICKS_PER_MS < window.end and not record.get("repeat"):
            assert record["type"] == "string"
            assert record["ts_origin"] == "source"
            arrived.setdefault((record["tag"], at), []).append((record["value"], record["status"]))
    assert arrived == {key: [value] for key, value in produced.items()}


def test_every_modbus_reply_once_with_its_value_and_our_time(lab: Lab, window: Window) -> None:
    device = source(lab, "sep1")
    # The replies that begin and end the last interval are needed too; the store was asked for 5 s more.
    lines = journal(lab, "modbus", window.start, window.end + 4_000)
    limit = 1000 * device["timeout_s"] + 100
    account, lags = compare_replies(lines, device["tags"], window.store["sep1"], window.start, window.end, limit)
    print(account.text())
    print(f"ms after the reply: median {lags.quantile(0.5):.1f}, P99 {lags.quantile(0.99):.1f}, max {lags.quantile(1):.1f}")
    polls = window.minutes * 60_000 / device["poll_ms"]
    assert account.samples >= 0.95 * polls * len(device["tags"]), account.text()
    assert account.whole, account.text()
    assert account.kinds["bad"] and account.kinds["bool"] and account.kinds["int"]
    assert _prompt(lags), lags.ms[-20:]


def _prompt(lags: Lags) -> bool:
    """A round trip of the lab is below a millisecond; what is more is the reader's own delay, which is small nearly always."""
    return lags.quantile(0.95) <= 100


def test_every_record_of_the_line_once(lab: Lab, window: Window) -> None:
    tags = source(lab, "line1")["tags"]
    account = compare(journal(lab, "line", window.start, window.end), tags, window.store["line1"], window.start, window.end)
    print(account.text())
    assert account.samples >= 4 * window.minutes * 60, account.text()
    assert account.whole, account.text()
    assert account.kinds["int"] and account.kinds["double"]


def test_every_sparkplug_metric_once(lab: Lab, window: Window) -> None:
    """What the decoder made of births, aliases and numbers, from the line's own journal to the store."""
    tags = source(lab, "spb1")["tags"]
    # A birth closes gaps, whose marks no journal has.
    start = max(window.start, (collector(lab)["spb1"]["last_gap"] or 0) // TICKS_PER_MS + BEGIN_MS)
    assert window.end - start >= 90_000, "the line was born again of late: wait, then try again"
    account = compare(journal(lab, "sparkplug", start, window.end), tags, window.store["spb1"], start, window.end)
    print(account.text())
    assert account.samples >= 3 * (window.end - start) / 1000, account.text()
    assert account.whole, account.text()
    assert all(account.kinds.get(kind) for kind in ("good", "uncertain", "bad", "int", "double", "float")), account.text()


def test_the_physics_of_the_wells_follows_from_the_store(lab: Lab, window: Window) -> None:
    """In declared units: oil rate = k · opening · (wellhead − line pressure) · (1 − water cut); a shut-in builds up."""
    plant = yaml.safe_load((lab.inventory.parent / "plant/plant.yml").read_text(encoding="utf-8"))
    tags = {tag["name"]: tag for tag in source(lab, "plc1")["tags"]}
    store = window.store["plc1"]
    checked = shut = 0
    for well in plant["wells"]:

        def series(what: str, well: dict[str, float] = well) -> dict[int, float]:
            return {ms: values[0] for ms, values in store.get(f"{well['id']}_{what}", window.start, window.end).items()}

        kpa, line = series("wellhead_pressure"), series("line_pressure")
        choke, oil = series("choke_opening"), series("oil_rate")
        assert tags[f"{well['id']}_wellhead_pressure"]["unit_to"] == tags[f"{well['id']}_line_pressure"]["unit_to"] == "kPa"
        assert tags[f"{well['id']}_oil_rate"]["unit_to"] == "m3/d"
        per_kpa = well["choke_bpd_psi"] * converted(1.0, {"type": "double", "unit": "bbl/d", "unit_to": "m3/d"}) / UNITS["psi", "kPa"][0]
        for ms in kpa:
            # One step of the model is stamped within a fraction of a millisecond, which can lie on both sides of one.
            at = [next((ms + d for d in (0, 1) if ms + d in other), None) for other in (line, choke, oil)]
            if None in at:
                continue
            rate = per_kpa * choke[at[1]] / 100 * (kpa[ms] - line[at[0]]) * (1 - well["water_cut"])
            if rate > 0:
                checked += 1
                assert oil[at[2]] == pytest.approx(rate, rel=1e-6), (well["id"], ms)
            else:
                assert oil[at[2]] == 0, (well["id"], ms)
        closed = [ms for ms in kpa if any(choke.get(ms + d) == 0 for d in (0, 1))]
        for first, second in pairwise(sorted(closed)):
            if second - first < 1500:
                shut += 1
                assert kpa[second] > kpa[first], f"{well['id']}: no build-up from {first} to {second}"
    assert checked > 100
    assert shut > 10


def test_a_bad_sample_has_a_status_and_no_value(window: Window) -> None:
    store = window.store["plc1"]
    bad = [
        (name, ms)
        for name, series in store.values.items()
        if name.endswith(":status")
        for ms, statuses in series.items()
        if int(statuses[0]) & BAD
    ]
    assert bad
    assert [(name, ms) for name, ms in bad if ms in store.values.get(name.removesuffix(":status"), {})] == []
