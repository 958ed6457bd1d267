# SPDX-License-Identifier: Apache-2.0
"""bench/peer.py: what is compared, what ends it, and that nothing of the peer stays. No host is contacted."""
from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def peer(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setattr(sys, "path", sys.path[:])
    spec = importlib.util.spec_from_file_location("hnai_bench_peer", ROOT / "bench" / "peer.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "hnai_bench_peer", module)
    spec.loader.exec_module(module)
    return module


def events(task_hosts: int, changed: bool = False, kind: str = "runner_on_ok") -> list[dict[str, Any]]:
    return [{"event": kind, "event_data": {"host": "kafka1", "play": "p", "task": "t", "res": {"changed": changed}}}] * task_hosts


def test_the_peer_is_given_as_a_multiple_of_ours_by_the_medians(peer: ModuleType) -> None:
    lines = peer.compare([(1.0, 2.0, 10), (9.0, 2.0, 10), (2.0, 2.0, 10)], [(4.0, 1.0, 93), (6.0, 1.0, 93), (90.0, 1.0, 93)])
    assert [line.split()[-1] for line in lines] == ["3.00", "0.50", "9.30"]
    assert lines[0].split() == ["wall", "s", "ours", "2.0", "peer", "6.0", "peer/ours", "3.00"]


@pytest.mark.parametrize(("run", "quiet", "said"), [
    ((events(3, changed=True), 0), True, "changed: kafka1: t"),
    ((events(3) + events(1, kind="runner_on_failed"), 2), False, "ended with 2: kafka1: t"),
    ((events(3), 4), True, "ended with 4"),
    (([], 0), False, "no task ran"),
])
def test_what_is_no_such_run_ends_the_bench(peer: ModuleType, run: tuple[list[dict[str, Any]], int], quiet: bool, said: str) -> None:
    with pytest.raises(SystemExit, match=said):
        peer.figures(peer.bench.Run(run[0], 1.0, 1.0, run[1]), quiet)
    assert peer.figures(peer.bench.Run(events(3, changed=True), 1.5, 0.5, 0), quiet=False) == (1.5, 0.5, 3)


class Played:
    """The playbooks that would have run: names in order, and what their runs found."""

    def __init__(self, broken: str = "") -> None:
        self.names: list[str] = []
        self.arguments: dict[str, str] = {}
        self.environment: dict[str, Mapping[str, str]] = {}
        self.play: list[dict[str, Any]] = []
        self.broken = broken

    def __call__(self, bench: ModuleType, playbook: Path | list[dict[str, Any]], inventory: Path, arguments: str, environment: Mapping[str, str]) -> Any:
        name = playbook.stem if isinstance(playbook, Path) else "peer"
        self.names.append(name)
        self.arguments[name], self.environment[name] = arguments, environment
        if isinstance(playbook, list):
            self.play = playbook
        first = self.names.count(name) == 1
        # What prepares, installs and removes changes something.
        changed = (name != "site" and (first or name == "remove")) or (name == self.broken and not first)
        return bench.Run(events(93 if name == "peer" else 12, changed), 8.0 if name == "peer" else 4.0, 1.0, 0)


def call(peer: ModuleType, monkeypatch: pytest.MonkeyPatch, played: Played, *argv: str) -> int:
    monkeypatch.setattr(peer.bench, "run_playbook", lambda *args: played(peer.bench, *args))
    monkeypatch.setattr(sys, "argv", ["peer.py", *argv])
    return int(peer.main())


@pytest.fixture
def role(tmp_path: Path) -> Path:
    (tmp_path / "role/tasks").mkdir(parents=True)
    return tmp_path / "role"


def test_both_run_in_turn_and_the_peer_is_taken_away(peer: ModuleType, monkeypatch: pytest.MonkeyPatch, role: Path, capsys: pytest.CaptureFixture[str]) -> None:
    played = Played()
    assert call(peer, monkeypatch, played, "--peer", str(role), "--runs", "2") == 0
    assert played.names == ["remove", "prepare", "peer", "site", "peer", "site", "peer", "remove"]
    assert played.arguments["site"] == "--tags kafka --skip-tags verify" and not played.environment["site"]
    assert "bench/peer/vars.yml" in played.arguments["peer"] and "ANSIBLE_INJECT_FACT_VARS" in played.environment["peer"]
    assert played.play[0]["roles"] == [str(role)] and played.play[0]["hosts"] == "kafka"
    assert "peer/ours 7.75" in capsys.readouterr().out


@pytest.mark.parametrize("broken", ["peer", "site"])
def test_a_run_that_changes_something_ends_it_and_the_peer_is_taken_away_all_the_same(
    peer: ModuleType, monkeypatch: pytest.MonkeyPatch, role: Path, broken: str
) -> None:
    played = Played(broken)
    with pytest.raises(SystemExit, match="changed"):
        call(peer, monkeypatch, played, "--peer", str(role), "--runs", "3")
    assert played.names[-1] == "remove"


def test_the_peers_code_lies_outside(peer: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("HNAI_BENCH_PEER", raising=False)
    for argv, said in (((), "--peer or"), (("--peer", str(tmp_path)), "--peer or"), (("--peer", str(ROOT / "roles/kafka")), "inside this repository")):
        with pytest.raises(SystemExit):
            call(peer, monkeypatch, Played(), *argv)
        assert said in capsys.readouterr().err


def test_the_peer_is_kept_away_from_what_runs() -> None:
    found = yaml.safe_load((ROOT / "bench/peer/vars.yml").read_text(encoding="utf-8"))
    assert found["kafka_start"] is False and found["kafka_restart"] is False
    assert found["kafka_user"] == found["kafka_group"] == "hnai-bench-peer"
    paths = [found[name] for name in ("kafka_root_dir", "kafka_log_dir", "kafka_data_log_dirs", "kafka_unit_path", "kafka_download_base_url")]
    assert all(path.removeprefix("file://").startswith("{{ bench_peer_home }}/") for path in paths)
    assert found["bench_peer_home"].startswith("/var/lib/") and "hnai/" not in found["bench_peer_home"]
