# SPDX-License-Identifier: Apache-2.0
"""The two ends of the data path as tests ask them: the simulators' journals, the store, the collector's own words."""
from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from conftest import Lab
from journals import TICKS_PER_MS, Series, lines_of

HERE = Path(__file__).parent
JOURNALS = "/var/lib/hnai/ot_simulator/journal"
STATUS = "/run/hnai/ot_collector/collector.status.json"


def program(name: str) -> str:
    """Text of a program beside this file that runs on a host."""
    return (HERE / f"{name}.py").read_text(encoding="utf-8")


def now_ms() -> int:
    """This machine's clock; the lab's hosts have the same one."""
    return time.time_ns() // 1_000_000


def until(what: str, condition: Callable[[], Any], deadline_s: float, every_s: float = 0.5) -> Any:
    """The first true answer of *condition*. Fails with *what* after *deadline_s*."""
    end = time.monotonic() + deadline_s
    while True:
        answer = condition()
        if answer:
            return answer
        assert time.monotonic() < end, f"after {deadline_s:g} s: {what}"
        time.sleep(every_s)


def source(lab: Lab, name: str) -> dict[str, Any]:
    """One entry of hnai_ot_sources."""
    sources = lab.var(lab.groups["managed"][0], "hnai_ot_sources")
    return next(one for one in sources if one["id"] == name)


def journal(lab: Lab, device: str, start: int, end: int) -> list[dict[str, Any]]:
    """What a simulator says that it produced in [start, end), ms."""
    arguments = (JOURNALS, device, str(start * TICKS_PER_MS), str(end * TICKS_PER_MS))
    return lines_of(lab.plant("/usr/bin/python3", "-c", program("host_journal"), *arguments, timeout=120).stdout)


def stored(lab: Lab, names: Iterable[str], start: int, end: int, tag: str = "") -> dict[str, Series]:
    """What the store shows of some sources in [start, end], ms: asked by the dashboard's identity, from its zone. All tags, or one."""
    url = f"https://{lab.groups['victoriametrics'][0]}:8428"
    access = (url, "dashboard", "/etc/hnai/canary/tls/ca.pem", "canary", "dashboard")
    selectors = {f'{tag}{{source="{name}"}}': name for name in names}
    found = lab.python(lab.groups["canary"][0], program("host_export"), *access, str(start), str(end), *selectors, timeout=180)
    return {selectors[selector]: Series.of(export) for selector, export in found.items()}


def collector(lab: Lab) -> dict[str, dict[str, Any]]:
    """{source: its part of the collector's status}."""
    code = f"print(open({STATUS!r}).read())"
    return {one["source"]: one for one in lab.python(lab.groups["ot_collector"][0], code)["sources"]}
