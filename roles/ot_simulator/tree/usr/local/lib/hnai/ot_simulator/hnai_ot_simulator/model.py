# SPDX-License-Identifier: Apache-2.0
"""Physics of a well pad: pure, deterministic, no clock and no I/O.

One well is a reservoir, a wellbore that stores fluid, a choke and a flow line::

    inflow   q_r = J (p_r - p_b)                       bbl/d,  J in bbl/d/psi
    choke    q   = k c (p_w - p_l)                      bbl/d,  k in bbl/d/psi, c = opening 0..1, never negative
    column   p_w = p_b - h                              psi
    storage  dp_b/dt = (q_r - q) / S                    S chosen so that a shut-in well builds up with time constant tau
    depletion dp_r/dt = -d q                            psi per bbl produced

With c and p_l constant during a step the equation is linear, so a step is exact, whatever its length. From this follows
what a petroleum engineer expects: pressure falls when the rate rises, and a shut-in shows an exponential build-up
towards the reservoir pressure (a real one takes hours; tau is some seconds here so that a test sees it).

Units: pressures psi, rates bbl/d (stock tank), temperatures degF, time s.
"""
from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

SECONDS_PER_DAY = 86400.0
STATES = ("SHUT", "FLOWING", "SLUGGING", "TEST")
"""Codes 0..3 of a well's ``state``."""


def noise(seed: int, name: str, step: int) -> float:
    """A number in [-1, 1) that depends on nothing but its arguments (FNV-1a, then a 64-bit mix)."""
    value = 0xCBF29CE484222325
    for byte in ("%d/%s/%d" % (seed, name, step)).encode("ascii"):
        value = ((value ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    value ^= value >> 33
    value = (value * 0xFF51AFD7ED558CCD) & 0xFFFFFFFFFFFFFFFF
    value ^= value >> 33
    return value / 2.0**63 - 1.0


@dataclass(frozen=True)
class Well:
    """Parameters of one well; names carry their unit."""

    id: str
    reservoir_psi: float
    productivity_bpd_psi: float
    column_psi: float
    choke_bpd_psi: float
    line_psi: float
    buildup_tau_s: float
    depletion_psi_bbl: float
    water_cut: float
    gas_oil_ratio: float
    slug_psi: float
    slug_period_s: float
    phase_s: float

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> Well:
        """Raises ValueError naming the key that is missing, unknown or not positive where it must be."""
        names = set(cls.__dataclass_fields__)
        if set(raw) != names:
            raise ValueError("well %s: missing %s, unknown %s" % (
                raw.get("id", "?"), sorted(names - set(raw)), sorted(set(raw) - names)))
        for key in ("reservoir_psi", "productivity_bpd_psi", "choke_bpd_psi", "buildup_tau_s", "slug_period_s"):
            if not raw[key] > 0:
                raise ValueError("well %s: %s must be > 0" % (raw["id"], key))
        numbers: dict[str, Any] = {key: float(value) for key, value in raw.items() if key != "id"}
        return cls(id=str(raw["id"]), **numbers)


@dataclass
class WellState:
    """What a well is like at one moment (after a step)."""

    t_s: float = 0.0
    reservoir_psi: float = 0.0
    bottom_psi: float = 0.0
    wellhead_psi: float = 0.0
    line_psi: float = 0.0
    choke: float = 0.0
    setpoint: float = 0.0
    liquid_bpd: float = 0.0
    cumulative_bbl: float = 0.0
    runtime_s: float = 0.0
    state: int = 0


class WellModel:
    """One well in time. *cycle_s* is the length of its schedule, the last *shut_s* of which it is shut in."""

    def __init__(self, well: Well, cycle_s: float, shut_s: float) -> None:
        self.well = well
        self.cycle_s = cycle_s
        self.shut_s = shut_s
        self.now = WellState(reservoir_psi=well.reservoir_psi, bottom_psi=well.reservoir_psi)
        self.step(0.0)

    def schedule(self, t_s: float) -> tuple[float, int]:
        """Choke set point (0..1) and state code at time *t_s*: steady, wide open (test), steady and slugging, shut."""
        at = (t_s + self.well.phase_s) % self.cycle_s
        flowing = self.cycle_s - self.shut_s
        if at >= flowing:
            return 0.0, 0
        if at < 0.4 * flowing:
            return 0.5, 1
        if at < 0.7 * flowing:
            return 0.8, 3
        return 0.6, 2

    def step(self, dt_s: float) -> WellState:
        """Advance by *dt_s* (>= 0) and return the new state; exact for the choke and line pressure of the step."""
        well, old = self.well, self.now
        t_s = old.t_s + dt_s
        setpoint, state = self.schedule(t_s)
        slug = well.slug_psi * math.sin(2.0 * math.pi * t_s / well.slug_period_s) if state == 2 else 0.0
        line = well.line_psi + slug
        k = well.choke_bpd_psi * setpoint
        j = well.productivity_bpd_psi
        back = well.column_psi + line
        if old.bottom_psi <= back:
            k = 0.0
        target = (j * old.reservoir_psi + k * back) / (j + k)
        tau = well.buildup_tau_s * j / (j + k)
        bottom = target + (old.bottom_psi - target) * math.exp(-dt_s / tau)
        wellhead = bottom - well.column_psi
        liquid = max(0.0, k * (wellhead - line))
        produced = liquid * dt_s / SECONDS_PER_DAY
        self.now = WellState(
            t_s=t_s, reservoir_psi=old.reservoir_psi - well.depletion_psi_bbl * produced, bottom_psi=bottom,
            wellhead_psi=wellhead, line_psi=line, choke=setpoint, setpoint=setpoint, liquid_bpd=liquid,
            cumulative_bbl=old.cumulative_bbl + produced, runtime_s=old.runtime_s + (dt_s if liquid > 0 else 0.0),
            state=state,
        )
        return self.now
