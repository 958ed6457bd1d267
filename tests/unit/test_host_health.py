# SPDX-License-Identifier: Apache-2.0
"""Host health: what waits for a restart, clock error, kernel settings."""
from __future__ import annotations

from pathlib import Path

from ansible_collections.hnai.platform.plugins.module_utils.host.health import offset_s, pending, unwritten

TRACKING = "E1E352D6,jump1,11,1700000000.1,-0.000165360,0.0,0.0,1.0,0.0,0.1,0.0010,0.0020,64.0,Normal\n"


def test_a_unit_that_runs_what_is_wanted_does_not_wait(tmp_path: Path) -> None:
    wanted, running = tmp_path / "wanted", tmp_path / "running"
    wanted.mkdir()
    running.mkdir()
    for name in ("a.service.restart", "b.service.restart", "c.service.reload"):
        (wanted / name).write_text("1")
    (running / "a.service.restart").write_text("1")
    (running / "b.service.restart").write_text("0")
    assert pending(wanted, running) == ["b.service (restart)", "c.service (reload)"]
    timers = tmp_path / "timers"
    timers.mkdir()
    (timers / "c.service.reload").write_text("1")
    assert pending(wanted, running, timers) == ["b.service (restart)"]


def test_the_clock_error_adds_what_the_source_itself_may_be_off() -> None:
    assert offset_s(TRACKING) == 0.00016536 + 0.002 + 0.0005


def test_an_unsynchronised_clock_has_no_error_bound() -> None:
    assert offset_s(TRACKING.replace(",jump1,11,", ",,0,")) is None
    assert offset_s("") is None


def test_a_setting_that_differs_is_named_and_a_missing_one_is_beyond_this_host(tmp_path: Path) -> None:
    (tmp_path / "net").mkdir()
    (tmp_path / "net/good").write_text("1\n")
    (tmp_path / "net/bad").write_text("0\n")
    differ, beyond = unwritten({"net.good": "1", "net.bad": "1", "net.none": "1"}, tmp_path)
    assert differ == {"net.bad": "is 0, wanted 1"}
    assert beyond == ["net.none"]
