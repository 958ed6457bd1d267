# SPDX-License-Identifier: Apache-2.0
"""The tags of the pad and what each reads at each step: pure, no clock, no I/O.

A tag is ``cyclic`` (a sample every *period* steps) or ``on_change`` (a sample when the value or the status changed).
Time runs in steps of STEP_S. A sample here has no time stamp; the server gives it the moment it was produced.
"""
from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from .model import Well, WellModel, WellState, noise

STEP_S = 0.5
KPA_PER_PSI = 6.894757293168361
M3_PER_BBL = 0.158987294928
GOOD = 0
BAD_SENSOR_FAILURE = 0x808C0000
BAD_NOT_CONNECTED = 0x808A0000
UNCERTAIN_SENSOR = 0x40930000
UNCERTAIN_LAST_USABLE = 0x40900000

Value = "float | int | bool | str | None"


@dataclass(frozen=True)
class Tag:
    """One variable of the server. *period*: steps between two samples of a cyclic tag, 0 = on change."""

    name: str
    node: str
    type: str
    unit: str
    period: int
    read: Callable[[int], Any]
    faults: tuple[tuple[str, int, int, int], ...] = ()
    """(kind, status, every steps, during steps): kind is ``status`` (a quality) or ``gap`` (no sample at all)."""

    def fault(self, step: int) -> tuple[str, int] | None:
        """The fault that is active at *step*, shifted by the tag's name so that not all come together."""
        shift = sum(self.name.encode("ascii")) * 7
        for kind, status, every, during in self.faults:
            if (step + shift) % every < during:
                return kind, status
        return None


@dataclass(frozen=True)
class Sample:
    """One produced value. *value* is None when the status is Bad."""

    tag: Tag
    value: Any
    status: int


def _f32(value: float) -> float:
    import struct

    return float(struct.unpack("<f", struct.pack("<f", value))[0])


WELL_TAGS: tuple[tuple[str, str, str, str, int], ...] = (
    # attribute, node suffix, type, unit, period in steps (0 = on change)
    ("wellhead_pressure", "WH.PT", "double", "psi", 2),
    ("liquid_rate", "FT.Liquid", "double", "bbl/d", 2),
    ("choke_opening", "CK.Position", "double", "%", 2),
    ("bottomhole_pressure", "BH.PT", "double", "psi", 2),
    ("running", "RunFeedback", "bool", "", 0),
    ("state", "State", "enum", "", 0),
    ("line_pressure", "FL.PT", "double", "kPa", 2),
    ("wellhead_temperature", "WH.TT", "double", "degF", 2),
    ("mode", "ModeText", "string", "", 0),
    ("reservoir_pressure", "BH.StaticPressure", "double", "psi", 2),
    ("oil_rate", "FT.Oil", "double", "bbl/d", 2),
    ("water_rate", "FT.Water", "double", "m3/d", 2),
    ("gas_rate", "FT.Gas", "double", "m3/d", 2),
    ("water_cut", "AT.WaterCut", "float", "%", 2),
    ("bottomhole_temperature", "BH.TT", "double", "degC", 2),
    ("annulus_pressure", "AN.PT", "double", "bar", 2),
    ("flow_temperature", "FL.TT", "double", "degF", 2),
    ("vibration", "ESP.Vibration", "float", "mm/s", 1),
    ("motor_current", "ESP.Current", "float", "A", 1),
    ("motor_frequency", "ESP.Frequency", "double", "Hz", 2),
    ("motor_temperature", "ESP.TT", "double", "degF", 2),
    ("intake_pressure", "ESP.IntakePressure", "double", "psi", 2),
    ("cumulative_oil", "FQ.Oil", "double", "bbl", 2),
    ("runtime", "RunTime", "int", "s", 2),
    ("choke_setpoint", "CK.SetPoint", "double", "%", 0),
    ("valve_open", "WV.Open", "bool", "", 0),
    ("slugging", "SlugDetected", "bool", "", 0),
    ("alarm_count", "AlarmCount", "int", "", 0),
)

_FAULTS: dict[str, tuple[tuple[str, int, int, int], ...]] = {
    # which tags are ill, and how; steps of 0.5 s
    "w01_wellhead_temperature": (("status", BAD_SENSOR_FAILURE, 120, 10),),
    "w01_choke_opening": (("status", UNCERTAIN_SENSOR, 180, 16),),
    "w02_vibration": (("status", BAD_SENSOR_FAILURE, 160, 12),),
    "w02_motor_current": (("gap", 0, 240, 20),),
    "w03_bottomhole_temperature": (("status", UNCERTAIN_SENSOR, 140, 20),),
    "w03_running": (("status", BAD_NOT_CONNECTED, 300, 20),),
    "w04_gas_rate": (("gap", 0, 240, 24), ("status", UNCERTAIN_LAST_USABLE, 200, 8)),
    "w05_state": (("status", BAD_NOT_CONNECTED, 360, 16),),
    "w05_annulus_pressure": (("status", BAD_NOT_CONNECTED, 100, 6),),
    "w06_motor_temperature": (("status", UNCERTAIN_LAST_USABLE, 90, 9), ("status", BAD_SENSOR_FAILURE, 400, 8)),
    "w07_intake_pressure": (("gap", 0, 500, 60),),
}


class Plant:
    """All tags of the pad and their values, step by step."""

    def __init__(self, config: dict[str, Any]) -> None:
        """*config* is the plant file. Raises KeyError or ValueError that names what is wrong."""
        self.seed = int(config["seed"])
        self.site = str(config["site"])
        self.namespace = str(config["namespace"])
        self.cycle_s = float(config["cycle_s"])
        self.shut_s = float(config["shut_in_s"])
        self.wells = [WellModel(Well.from_dict(raw), self.cycle_s, self.shut_s) for raw in config["wells"]]
        self.step = 0
        self.count = 0
        limit = int(config.get("tags") or 0)
        tags = list(self._tags())
        self.tags = tags[:limit] if limit else tags
        names = [tag.name for tag in tags]
        if len(set(names)) != len(names):
            raise ValueError("plant: two tags have one name")
        self._last: dict[str, tuple[Any, int]] = {}

    # -- tags ---------------------------------------------------------------------------------------------
    def _tags(self) -> Iterator[Tag]:
        site = self.site

        def tag(name: str, node: str, kind: str, unit: str, period: int, read: Callable[[int], Any]) -> Tag:
            return Tag(name, "%s.%s" % (site, node), kind, unit, period, read, _FAULTS.get(name, ()))

        yield tag("canary_sequence", "Canary.Sequence", "int", "", 1, lambda step: self.count)
        yield tag("heartbeat", "Heartbeat", "bool", "", 1, lambda step: bool(step % 2))
        yield tag("separator_pressure", "Sep.PT", "double", "psi", 2, self._separator_pressure)
        yield tag("ambient_temperature", "Ambient.TT", "double", "degF", 2,
                  lambda step: 68.0 + 18.0 * math.sin(step * STEP_S / 900.0) + 0.2 * noise(self.seed, "ambient", step))
        yield tag("export_rate", "Export.FT", "double", "bbl/d", 2,
                  lambda step: sum(w.now.liquid_bpd * (1.0 - w.well.water_cut) for w in self.wells))
        yield tag("plant_state", "State", "enum", "", 0, lambda step: 2 if any(w.now.state == 3 for w in self.wells) else 1)
        yield tag("shift", "Shift", "string", "", 0, lambda step: "ABCD"[int(step * STEP_S / 120.0) % 4])
        yield tag("separator_level", "Sep.LT", "float", "%", 2,
                  lambda step: _f32(50.0 + 12.0 * math.sin(step * STEP_S / 37.0)))
        yield tag("flare_rate", "Flare.FT", "double", "m3/h", 2,
                  lambda step: max(0.0, 40.0 + 40.0 * math.sin(step * STEP_S / 53.0)))
        yield tag("export_pressure", "Export.PT", "double", "bar", 2,
                  lambda step: 62.0 + 0.4 * noise(self.seed, "export", step))
        for model in self.wells:
            for attribute, suffix, kind, unit, period in WELL_TAGS:
                name = "%s_%s" % (model.well.id, attribute)
                node = "%s.%s" % (model.well.id.upper(), suffix)
                yield tag(name, node, kind, unit, period, self._reader(model, attribute))

    def _separator_pressure(self, step: int) -> float:
        flow = sum(w.now.liquid_bpd for w in self.wells)
        return 120.0 + flow / 1000.0 + 0.1 * noise(self.seed, "separator", step)

    def _reader(self, model: WellModel, attribute: str) -> Callable[[int], Any]:
        well, seed = model.well, self.seed

        def jitter(step: int, size: float) -> float:
            return size * noise(seed, "%s/%s" % (well.id, attribute), step)

        def now() -> WellState:
            return model.now

        readers: dict[str, Callable[[int], Any]] = {
            "wellhead_pressure": lambda step: now().wellhead_psi,
            "liquid_rate": lambda step: now().liquid_bpd,
            "choke_opening": lambda step: 100.0 * now().choke,
            "bottomhole_pressure": lambda step: now().bottom_psi,
            "reservoir_pressure": lambda step: now().reservoir_psi,
            "line_pressure": lambda step: now().line_psi * KPA_PER_PSI,
            "oil_rate": lambda step: now().liquid_bpd * (1.0 - well.water_cut),
            "water_rate": lambda step: now().liquid_bpd * well.water_cut * M3_PER_BBL,
            "gas_rate": lambda step: now().liquid_bpd * (1.0 - well.water_cut) * M3_PER_BBL * well.gas_oil_ratio,
            "water_cut": lambda step: _f32(100.0 * well.water_cut + jitter(step, 0.2)),
            "wellhead_temperature": lambda step: 110.0 + 0.02 * now().liquid_bpd + jitter(step, 0.3),
            "bottomhole_temperature": lambda step: 92.0 + jitter(step, 0.05),
            "flow_temperature": lambda step: 98.0 + 0.018 * now().liquid_bpd + jitter(step, 0.4),
            "annulus_pressure": lambda step: 14.0 + jitter(step, 0.02),
            "vibration": lambda step: _f32(1.2 + 0.0004 * now().liquid_bpd + jitter(step, 0.3)),
            "motor_current": lambda step: _f32(0.0 if now().state == 0 else 38.0 + jitter(step, 1.5)),
            "motor_frequency": lambda step: 0.0 if now().state == 0 else 50.0 + jitter(step, 0.05),
            "motor_temperature": lambda step: 180.0 + (0.0 if now().state == 0 else 40.0) + jitter(step, 0.5),
            "intake_pressure": lambda step: now().bottom_psi - 150.0,
            "cumulative_oil": lambda step: now().cumulative_bbl * (1.0 - well.water_cut),
            "runtime": lambda step: int(now().runtime_s),
            "running": lambda step: now().state != 0,
            "state": lambda step: now().state,
            "mode": lambda step: "TEST" if now().state == 3 else "AUTO",
            "choke_setpoint": lambda step: 100.0 * now().setpoint,
            "valve_open": lambda step: now().state != 0,
            "slugging": lambda step: now().state == 2,
            "alarm_count": lambda step: (1 if now().state == 0 else 0) + (1 if now().state == 2 else 0),
        }
        return readers[attribute]

    # -- time ---------------------------------------------------------------------------------------------
    def advance(self) -> list[Sample]:
        """One step of STEP_S: what every tag produced in it, in the order of the tags."""
        self.step += 1
        self.count += 1
        for model in self.wells:
            model.step(STEP_S)
        samples: list[Sample] = []
        for index, tag in enumerate(self.tags):
            if tag.period and (self.step + index) % tag.period:
                continue
            fault = tag.fault(self.step)
            status = GOOD
            if fault is not None:
                kind, status = fault
                if kind == "gap":
                    continue
            value = None if status & 0x80000000 else tag.read(self.step)
            if not tag.period:
                if self._last.get(tag.name) == (value, status):
                    continue
                self._last[tag.name] = (value, status)
            samples.append(Sample(tag, value, status))
        return samples
