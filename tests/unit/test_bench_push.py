# SPDX-License-Identifier: Apache-2.0
"""bench/push.py: what is read of a run, and what of it fails. No host is contacted."""
from __future__ import annotations

import doctest
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def push(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setattr(sys, "path", sys.path[:])
    spec = importlib.util.spec_from_file_location("hnai_bench_push", ROOT / "bench" / "push.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "hnai_bench_push", module)
    spec.loader.exec_module(module)
    return module


def events(tasks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Events of a run on two hosts: the second one starts a second later. `at`: the received bytes so far, `end`: seconds, of each host."""
    found = []
    for number, task in enumerate(tasks):
        for index, host in enumerate(("data1", "edge1")):
            stdout = f"Inter-| Receive\n face |bytes\n    lo: 999 1\n  eth0: {task.get('at', 0)} 1 2\n"
            found.append({"event": "runner_on_start", "event_data": {"host": host, "task": task["name"], "task_uuid": str(number)}})
            found.append({"event": "runner_on_ok", "event_data": {
                "host": host, "task": task["name"], "task_uuid": str(number),
                "start": f"2026-01-01T00:00:{index:02}.000000+00:00", "end": f"2026-01-01T00:00:{task.get('end', 2) + index:02}.000000+00:00",
                "res": {"stdout": stdout, "changed": task.get("changed", False)},
            }})
    return found


def test_a_step_stands_between_two_counts(push: ModuleType) -> None:
    assert doctest.testmod(push).failed == 0
    found = push.steps(events([
        {"name": "Look for it"}, {"name": "Count", "at": 100}, {"name": "idle", "end": 4}, {"name": "Count", "at": 150},
        {"name": "artifact, absent", "end": 9, "changed": True}, {"name": "Count", "at": 1150}, {"name": "artifact, present"}, {"name": "Count", "at": 1160},
    ]))
    assert found == [push.Step("idle", 5.0, 100, 0), push.Step("artifact, absent", 10.0, 2000, 2), push.Step("artifact, present", 3.0, 20, 0)]


def measured(push: ModuleType, **other: tuple[float, float, int]) -> list[Any]:
    """Steps on three hosts: seconds, MB received, hosts changed. The site itself sends 0.1 MB/s."""
    figures = {
        "idle": (5.0, 0.5, 0), "artifact, absent": (10.0, 361.0, 3), "artifact, present": (2.0, 1.2, 0), "unarchive, absent": (20.0, 362.0, 3),
        "unarchive, present": (20.0, 362.0, 0), "copy, absent": (5.0, 360.5, 3), "copy, present": (1.0, 0.6, 0), **other,
    }
    return [push.Step(name, seconds, int(received * 1e6), changed) for name, (seconds, received, changed) in figures.items()]


def test_the_ways_are_compared_without_what_the_site_sends_by_itself(push: ModuleType) -> None:
    lines, code = push.report({3: measured(push)})
    assert code == 0 and len(lines) == 6
    assert lines[0].split() == ["3", "host(s)", "artifact,", "absent", "10.0", "s", "360.0", "MB"]
    assert lines[3].endswith("unarchive/artifact 10.0 in time, 360.0 in bytes")
    assert lines[4].endswith("copy/artifact 0.5 in time, 1.0 in bytes")


@pytest.mark.parametrize(("name", "figures", "said"), [
    ("artifact, present", (2.0, 361.0, 0), "sent again"),
    ("artifact, present", (2.0, 1.2, 1), "changed something"),
    ("artifact, absent", (10.0, 361.0, 2), "did not bring it"),
])
def test_what_fails(push: ModuleType, name: str, figures: tuple[float, float, int], said: str) -> None:
    lines, code = push.report({3: measured(push, **{name: figures})})
    assert code == 1 and said in lines[-1]


def test_it_writes_over_nothing_and_leaves_nothing(push: ModuleType) -> None:
    """What is there and not of this bench is refused before anything is made; the mark goes last."""
    first, second, *_rest = push.pushes("data1")[0]["tasks"]
    assert first["ansible.builtin.stat"]["path"] == push.TREE and second["ansible.builtin.assert"]["that"] == "not bench_there.stat.exists"
    look, remove = push.removal("data1")[0]["tasks"]
    assert look["ansible.builtin.stat"]["path"] == push.HOME and remove["when"] == "bench_there.stat.exists" and remove["loop"] == [push.TREE, push.HOME]


def test_each_way_is_measured_absent_and_present(push: ModuleType) -> None:
    names = [task["name"] for task in push.pushes("data1")[0]["tasks"]]
    begin = names.index("Count")
    assert names[begin::2] == ["Count"] * 8
    assert names[begin + 1 :: 2] == ["idle", *(f"{way}, {state}" for way in ("artifact", "unarchive", "copy") for state in ("absent", "present"))]


def test_it_is_removed_when_the_run_fails(push: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    played: list[str] = []

    def run(plays: list[dict[str, Any]], *_: Any) -> Any:
        kind = {"Name": "hosts", f"Look for {push.TREE}": "push", f"Look for {push.HOME}": "remove"}[plays[0]["tasks"][0]["name"]]
        played.append(f"{kind} {plays[0]['hosts']}")
        bad = [{"event": "runner_on_failed", "event_data": {"host": "data1", "task": "artifact, absent"}}] if kind == "push" else []
        there = [{"event": "runner_on_ok", "event_data": {"host": host}} for host in ("data1", "edge1", "stream1")] if kind == "hosts" else []
        return push.bench.Run(bad + there, 1.0, 1.0, 2 if bad else 0)

    monkeypatch.setattr(push.bench, "run_playbook", run)
    monkeypatch.setattr(sys, "argv", ["push.py"])
    with pytest.raises(SystemExit, match="ended with 2: data1: artifact, absent"):
        push.main()
    assert played == ["hosts managed:!kafka:!routers:!jump:!openbao", "remove data1", "push data1", "remove data1"]
