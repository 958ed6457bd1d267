# SPDX-License-Identifier: Apache-2.0
"""What systemd did with units: from the hosts' journals."""
from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from conftest import Lab

#: systemd's own ids of "begins to stop" and "has started" (systemd.journal-fields(7), sd-messages.h).
STOPPING, STARTED = "de5b426a63be47a7b6ac3eaac82e2f6f", "39f53479d3a045ac8e11786248231fbf"


@dataclass(frozen=True)
class Restart:
    """One restart of a unit: from the order to stop to the start, us since 1970."""

    host: str
    begin: int
    end: int


def events(lab: Lab, host: str, since_us: int, unit: str = "") -> list[tuple[int, str, str]]:
    """[(us since 1970, unit, STOPPING or STARTED)], one unit's or all of the host's, by time."""
    mine = [f"UNIT={unit}"] if unit else []
    argv = ["journalctl", "-o", "json", "--no-pager", f"--since=@{since_us / 1e6:.6f}"]
    found = []
    for line in lab.run(host, *argv, *mine, f"MESSAGE_ID={STOPPING}", "+", *mine, f"MESSAGE_ID={STARTED}").stdout.splitlines():
        entry = json.loads(line)
        found.append((int(entry["__REALTIME_TIMESTAMP"]), entry.get("UNIT", ""), entry["MESSAGE_ID"]))
    return sorted(found)


def restarts(lab: Lab, hosts: Sequence[str], unit: str, since_us: int) -> list[Restart]:
    """Every restart of a unit on some hosts since an instant, by time."""
    found = []
    for host in hosts:
        begin: int | None = None
        for at, _unit, what in events(lab, host, since_us, unit):
            if what == STOPPING:
                begin = at
            else:
                assert begin is not None, f"{host}: started without having been stopped"
                found.append(Restart(host, begin, at))
                begin = None
        assert begin is None, f"{host}: stopped and not started"
    return sorted(found, key=lambda one: one.begin)
