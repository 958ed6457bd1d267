# SPDX-License-Identifier: Apache-2.0
"""How the cost of a run is counted, and that too much of it fails."""
from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "bench.py"


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    spec = importlib.util.spec_from_file_location("hnai_bench", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["hnai_bench"] = module
    spec.loader.exec_module(module)
    return module


def event(kind: str, host: str = "kafka1", task: str = "t", changed: bool = False, **data: Any) -> dict[str, Any]:
    return {"event": kind, "event_data": {"host": host, "play": "Kafka", "task": task, "duration": 0.5, "res": {"changed": changed}, **data}}


def test_ok_and_skipped_count_and_loop_items_do_not(bench: ModuleType) -> None:
    events = [
        event("playbook_on_start"), event("runner_on_start"), event("runner_item_on_ok"), event("runner_item_on_ok"),
        event("runner_on_ok"), event("runner_on_skipped", host="kafka2"), event("runner_item_on_skipped"),
    ]
    cost = bench.count(events)
    assert (cost.total, cost.skipped, cost.hosts["kafka2"]) == (2, 1, 1)
    assert bench.report(cost, 1.0, 2)[1] == 0


def test_over_the_budget_fails(bench: ModuleType) -> None:
    cost = bench.count([event("runner_on_ok")] * 301)
    lines, code = bench.report(cost, 1.0, bench.BUDGET)
    assert code == 1
    assert "over the budget by 1" in lines
    assert bench.report(bench.count([event("runner_on_ok")] * 300), 1.0, bench.BUDGET)[1] == 0


@pytest.mark.parametrize("events", [
    [], [event("runner_on_ok", changed=True)], [event("runner_on_ok"), event("runner_on_failed")],
    [event("runner_on_ok"), event("runner_on_unreachable")],
])
def test_what_is_no_quiet_run_fails(bench: ModuleType, events: list[dict[str, Any]]) -> None:
    assert bench.report(bench.count(events), 1.0, 300)[1] == 1
