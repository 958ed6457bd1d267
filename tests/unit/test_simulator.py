# SPDX-License-Identifier: Apache-2.0
"""The simulated plant: physics, determinism, journal, and that the lab's inventory says what the model has."""
from __future__ import annotations

import asyncio
import itertools
import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parents[2]
from ansible_collections.hnai.platform.plugins.module_utils.mqtt import sparkplug, sparkplug_node

# The role puts the core beside the program.
sys.modules["hnai_ot_simulator.sparkplug"] = sparkplug

from hnai_ot_simulator import clock, control, journal, line, modbus, model, plant, sparkplug_line

CONFIG = yaml.safe_load((ROOT / "inventories/lab/plant/plant.yml").read_text(encoding="utf-8"))
SOURCES = {entry["id"]: entry for entry in yaml.safe_load(
    (ROOT / "inventories/lab/group_vars/all/ot_sources.yml").read_text(encoding="utf-8"))["hnai_ot_sources"]}


def well(number: int = 0) -> model.Well:
    return model.Well.from_dict(CONFIG["wells"][number])


def at(one: model.WellModel, seconds: float) -> model.WellState:
    for _ in range(int(seconds / 0.5)):
        one.step(0.5)
    return one.now


class Constant(model.WellModel):
    """A well whose choke stands where the test puts it."""

    opening = 0.5

    def schedule(self, t_s: float) -> tuple[float, int]:
        return self.opening, 1


@pytest.mark.parametrize("number", range(len(CONFIG["wells"])))
def test_pressure_falls_when_the_rate_rises(number: int) -> None:
    states = []
    for opening in (0.3, 0.5, 0.8, 1.0):
        one = Constant(well(number), 300, 60)
        one.opening = opening
        states.append(at(one, 300))
    rates, pressures = [s.liquid_bpd for s in states], [s.wellhead_psi for s in states]
    assert rates == sorted(rates)
    assert pressures == sorted(pressures, reverse=True)
    assert rates[0] > 0


def test_steady_flow_is_where_reservoir_and_choke_agree() -> None:
    one = Constant(well(), 300, 60)
    state = at(one, 400)
    inflow = one.well.productivity_bpd_psi * (state.reservoir_psi - state.bottom_psi)
    assert state.liquid_bpd == pytest.approx(inflow, rel=1e-3)


def test_shut_in_builds_up_exponentially_to_the_reservoir_pressure() -> None:
    one = Constant(well(), 300, 60)
    at(one, 200)
    one.opening = 0.0
    begin = one.now.bottom_psi
    previous, t = begin, 0.0
    while t < 60:
        state = one.step(0.5)
        t += 0.5
        expected = state.reservoir_psi - (state.reservoir_psi - begin) * math.exp(-t / one.well.buildup_tau_s)
        assert state.liquid_bpd == 0.0
        assert state.bottom_psi > previous
        assert state.bottom_psi == pytest.approx(expected, rel=1e-9)
        previous = state.bottom_psi
    assert state.bottom_psi == pytest.approx(state.reservoir_psi, rel=0.01)


def test_choke_equation_holds_in_every_sample() -> None:
    """What a checker recomputes from the store: rate = k x opening x (wellhead - line pressure)."""
    one = plant.Plant(CONFIG)
    for _ in range(1200):
        one.advance()
        for entry in one.wells:
            s = entry.now
            assert s.liquid_bpd == pytest.approx(entry.well.choke_bpd_psi * s.choke * (s.wellhead_psi - s.line_psi), rel=1e-9, abs=1e-9)


@given(st.lists(st.floats(0.05, 20.0), min_size=1, max_size=30))
def test_a_step_is_exact_whatever_its_length(parts: list[float]) -> None:
    many, single = Constant(well(), 300, 60), Constant(well(), 300, 60)
    for entry in (many, single):
        entry.well = model.Well.from_dict({**CONFIG["wells"][0], "depletion_psi_bbl": 0.0})
    for part in parts:
        many.step(part)
    single.step(sum(parts))
    assert many.now.bottom_psi == pytest.approx(single.now.bottom_psi, rel=1e-9)


def test_production_depletes_the_reservoir() -> None:
    one = model.WellModel(well(), 300, 60)
    state = at(one, 900)
    assert state.reservoir_psi == pytest.approx(one.well.reservoir_psi - one.well.depletion_psi_bbl * state.cumulative_bbl)
    assert state.cumulative_bbl > 0


def test_schedule_has_shut_ins_and_slugs_for_every_well() -> None:
    for number in range(len(CONFIG["wells"])):
        one = model.WellModel(well(number), 300, 60)
        assert {one.schedule(float(t))[1] for t in range(300)} == {0, 1, 2, 3}


def test_same_seed_same_plant_other_seed_another() -> None:
    def history(config: dict[str, Any]) -> list[tuple[str, Any, int]]:
        one = plant.Plant(config)
        return [(s.tag.name, s.value, s.status) for _ in range(60) for s in one.advance()]

    assert history(CONFIG) == history(CONFIG)
    assert history(CONFIG) != history({**CONFIG, "seed": 8})


def test_noise_is_bounded_and_spread() -> None:
    values = [model.noise(7, "x", n) for n in range(2000)]
    assert min(values) >= -1.0
    assert max(values) < 1.0
    assert abs(sum(values) / len(values)) < 0.05


@pytest.fixture(scope="module")
def history() -> tuple[plant.Plant, list[list[plant.Sample]]]:
    one = plant.Plant(CONFIG)
    return one, [one.advance() for _ in range(1300)]


def test_the_plant_is_worth_mirroring(history: tuple[plant.Plant, list[list[plant.Sample]]]) -> None:
    one, steps = history
    assert len(one.tags) >= 200
    assert {tag.type for tag in one.tags} == {"double", "float", "int", "bool", "enum", "string"}
    assert {"psi", "bbl/d", "degF", "kPa", "m3/d", "degC", "bar"} <= {tag.unit for tag in one.tags}
    statuses = {s.status for step in steps for s in step}
    assert any(status & 0x80000000 for status in statuses)
    assert any(status & 0x40000000 for status in statuses)


def test_bad_samples_have_no_value_and_others_do(history: tuple[plant.Plant, list[list[plant.Sample]]]) -> None:
    for step in history[1]:
        for s in step:
            assert (s.value is None) == bool(s.status & 0x80000000)


def test_canary_counts_every_step(history: tuple[plant.Plant, list[list[plant.Sample]]]) -> None:
    counts = [s.value for step in history[1] for s in step if s.tag.name == "canary_sequence"]
    assert counts == list(range(1, len(history[1]) + 1))


def test_on_change_tags_speak_only_when_something_changed(history: tuple[plant.Plant, list[list[plant.Sample]]]) -> None:
    last: dict[str, Any] = {}
    for step in history[1]:
        for s in step:
            if not s.tag.period:
                assert last.get(s.tag.name) != (s.value, s.status)
                last[s.tag.name] = (s.value, s.status)
    assert len(last) == sum(1 for tag in history[0].tags if not tag.period)


def test_a_gap_is_a_pause(history: tuple[plant.Plant, list[list[plant.Sample]]]) -> None:
    steps = [n for n, step in enumerate(history[1]) for s in step if s.tag.name == "w04_gas_rate"]
    assert max(b - a for a, b in zip(steps, steps[1:])) > 10


def test_values_have_the_type_that_the_tag_declares(history: tuple[plant.Plant, list[list[plant.Sample]]]) -> None:
    kinds = {"double": float, "float": float, "int": int, "enum": int, "bool": bool, "string": str}
    for step in history[1][:300]:
        for s in step:
            if s.value is not None:
                assert type(s.value) is kinds[s.tag.type], s.tag.name


def test_twenty_tags_are_the_first_twenty() -> None:
    small = plant.Plant({**CONFIG, "tags": 20})
    assert [tag.name for tag in small.tags] == [tag.name for tag in plant.Plant(CONFIG).tags[:20]]
    assert small.tags[0].name == "canary_sequence"
    assert {"bool", "enum", "string", "double"} <= {tag.type for tag in small.tags}


def test_a_well_with_a_wrong_key_is_named() -> None:
    with pytest.raises(ValueError, match=r"w01.*unknown.*colour"):
        model.Well.from_dict({**CONFIG["wells"][0], "colour": 1})
    with pytest.raises(ValueError, match=r"w01.*buildup_tau_s"):
        model.Well.from_dict({**CONFIG["wells"][0], "buildup_tau_s": 0})


# -- inventory --------------------------------------------------------------------------------------------------------
def test_inventory_mirrors_every_tag_as_it_is() -> None:
    declared = {tag["name"]: tag for tag in SOURCES["plc1"]["tags"]}
    made = {tag.name: tag for tag in plant.Plant(CONFIG).tags}
    assert set(declared) == set(made)
    for name, tag in made.items():
        entry = declared[name]
        assert entry["node"] == "nsu=%s;s=%s" % (CONFIG["namespace"], tag.node)
        assert (entry["type"], entry["unit"]) == (tag.type, tag.unit)
        assert entry["kind"] == ("cyclic" if tag.period else "on_change")
        if tag.period:
            assert entry["sampling_ms"] == tag.period * plant.STEP_S * 1000
            assert entry["queue"] * entry["sampling_ms"] >= 2 * 60_000  # twice a minute without us


def test_inventory_reads_the_registers_that_the_device_has() -> None:
    source = SOURCES["sep1"]
    assert source["word_order"] == CONFIG["modbus"]["word_order"]
    assert {(t["name"], t["address"], t["encoding"], t["unit"]) for t in source["tags"]} == {
        (r["name"], r["address"], r["type"], r["unit"]) for r in CONFIG["modbus"]["registers"]}


def test_inventory_knows_what_the_line_says_in_sparkplug() -> None:
    declared = {(t["name"], t.get("device", ""), t["metric"], t["type"], t["kind"] == "cyclic", t.get("sampling_ms", 0)) for t in SOURCES["spb1"]["tags"]}
    device = CONFIG["line"]["sparkplug"]["device"]
    assert declared == {(s.tag, device if s.device else "", s.metric, s.type, s.every > 0, 1000 * s.every) for s in sparkplug_line.SIGNALS}
    assert (SOURCES["spb1"]["group"], SOURCES["spb1"]["node"]) == (CONFIG["line"]["sparkplug"]["group"], CONFIG["line"]["sparkplug"]["node"])


def test_a_session_numbers_its_messages_and_changes_its_aliases() -> None:
    session, values = sparkplug_line.Session("g", "n", "d", 7), sparkplug_line.SparkplugModel(7, 90).advance()
    node = sparkplug_node.Node([sparkplug_node.Tag(s.tag, "d" if s.device else "", s.metric) for s in sparkplug_line.SIGNALS])
    meanings = []
    for birth in range(2):
        start = 1000 * (1 + birth)
        node.message("NBIRTH", "", session.birth(values, start, False))
        node.message("DBIRTH", "d", session.birth(values, start + 1, True))
        meanings.append({alias: name for one in node.devices.values() for alias, name in one.aliases.items()})
        for at in range(300):
            own = at % 2 == 1
            those = [s for s in sparkplug_line.SIGNALS if s.device is own]
            events = node.message("DDATA" if own else "NDATA", "d" if own else "", session.data(those, values, start + 2 + at))
            assert [(e.tag, e.value) for e in events[:-1]] == [(s.tag, values[s.tag][0]) for s in those]
    assert node.counts.jumps == node.counts.unknown == node.counts.malformed == 0
    assert all(meanings[0][alias] != meanings[1][alias] for alias in range(1, 9))
    assert node.message("NDATA", "", session.stranger(9000)) == [sparkplug_node.Heard(9000 * 10_000)]
    assert node.unknown == {"alias 4711 of the node": 1}
    node.message("NDEATH", "", session.death())
    assert not node.alive()


def test_the_lines_sparkplug_model_has_every_quality_and_repeats_itself() -> None:
    one, two = sparkplug_line.SparkplugModel(7, 90), sparkplug_line.SparkplugModel(7, 90)
    rows = [one.advance() for _ in range(240)]
    assert rows == [two.advance() for _ in range(240)]
    assert {row["temperature"][1] for row in rows} == set(sparkplug_line.STATUS)
    assert {row["running"][0] for row in rows} == {True, False} and {row["state"][0] for row in rows} == set(line.STATES.values())


def test_inventory_knows_what_the_line_sends() -> None:
    assert {(t["name"], t["type"]) for t in SOURCES["line1"]["tags"]} == set(line.TYPES.items())


# -- journal ----------------------------------------------------------------------------------------------------------
def test_journal_rotates_and_keeps(tmp_path: Path) -> None:
    one = journal.Journal(tmp_path, "x", 200, 2)
    for number in range(60):
        one.write([{"t": number, "tag": "a", "value": None, "status": 0}])
    one.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.1.jsonl", "x.2.jsonl", "x.jsonl"]
    kept = [json.loads(text)["t"] for name in ("x.2.jsonl", "x.1.jsonl", "x.jsonl")
            for text in (tmp_path / name).read_text(encoding="utf-8").splitlines()]
    assert kept == list(range(kept[0], 60))
    assert all(path.stat().st_size <= 200 for path in tmp_path.iterdir())


def test_journal_refuses_what_is_no_json(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        journal.Journal(tmp_path, "x").write([{"value": math.nan}])


# -- modbus, line, control --------------------------------------------------------------------------------------------
@given(st.floats(width=32, allow_nan=False), st.sampled_from(["big", "little"]))
def test_registers_and_back(value: float, order: str) -> None:
    assert modbus.value_of("float32", modbus.registers_of("float32", value, order), order) == value


def test_high_word_first_is_big() -> None:
    assert modbus.registers_of("uint32", 0x00010002, "big") == [1, 2]
    assert modbus.registers_of("uint32", 0x00010002, "little") == [2, 1]


def test_line_runs_idles_stops_and_counts_up() -> None:
    one = line.LineModel(7, 90)
    rows = [one.advance() for _ in range(500)]
    assert {row["state"] for row in rows} == set(line.STATES.values())
    counts = [row["count"] for row in rows]
    assert counts == sorted(counts)
    assert 0 < rows[-1]["rejects"] < rows[-1]["count"]
    assert all(row["speed"] == 0.0 for row in rows if row["state"] != line.STATES["RUN"])


def test_fault_file(tmp_path: Path) -> None:
    assert control.read_faults(tmp_path / "none") == {}
    (tmp_path / "f").write_text('{"opcua": {"extra_namespaces": 2}}', encoding="utf-8")
    assert control.read_faults(tmp_path / "f")["opcua"]["extra_namespaces"] == 2
    (tmp_path / "f").write_text("[]", encoding="utf-8")
    with pytest.raises(ValueError, match="JSON object"):
        control.read_faults(tmp_path / "f")


def test_a_stalled_pace_skips_and_never_bursts(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    yielded = []

    async def sleep(seconds: float) -> None:
        # The third wake is 1.7 s late, the fifth 0.499 s.
        now[0] += seconds + {2: 1.7, 4: 0.499}.get(len(yielded), 0.0)

    async def walk() -> None:
        async for _ in clock.pace(0.5):
            yielded.append(now[0])
            if len(yielded) == 9:
                return

    monkeypatch.setattr(clock.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(clock.asyncio, "sleep", sleep)
    asyncio.run(walk())
    gaps = [second - first for first, second in itertools.pairwise(yielded)]
    assert min(gaps) >= 0.25
    assert gaps[-3:] == pytest.approx([0.5] * 3)
