# SPDX-License-Identifier: Apache-2.0
"""The writer's companion: what a killed store lost is written again, nothing else is, and a doubt never stops the writer."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

PROGRAM = Path(__file__).resolve().parents[2] / "roles/telegraf/tree/usr/local/lib/hnai/telegraf/replay"


@pytest.fixture
def replay(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setattr("sys.dont_write_bytecode", True)
    loader = importlib.machinery.SourceFileLoader("replay", str(PROGRAM))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


class Child:
    """A command that runs until it is told to end."""

    def __init__(self) -> None:
        self.status: int | None = None
        self.ended = 0

    def poll(self) -> int | None:
        return self.status

    def terminate(self) -> None:
        self.ended += 1
        self.status = 0

    def wait(self, _timeout: float | None = None) -> int:
        return 0


class World:
    """Store, group and clock."""

    def __init__(self, replay: ModuleType, path: Path) -> None:
        self.replay, self.path = replay, path
        self.time, self.started, self.offsets = 1000.0, 900.0, {"ot/0": 100, "ot/1": 50}
        self.dead = self.kafka_dead = False
        self.commits: list[dict[str, int]] = []
        self.children: list[Child] = []
        self.keeper = self.make()

    def make(self) -> Any:
        return self.replay.Keeper(self, self, self.replay.Memory(str(self.path)), 30.0, self.spawn, now=lambda: self.time, sleep=self.pass_time)

    def spawn(self) -> Child:
        self.children.append(Child())
        return self.children[-1]

    def start(self) -> float:
        if self.dead:
            raise ConnectionRefusedError("refused")
        return self.started

    def committed(self) -> dict[str, int]:
        if self.kafka_dead:
            raise OSError("Kafka: away")
        return dict(self.offsets)

    def commit(self, offsets: dict[str, int]) -> None:
        assert all(child.status is not None for child in self.children), "only an empty group can be set"
        self.commits.append(offsets)
        self.offsets.update(offsets)

    def pass_time(self, seconds: float) -> None:
        self.time += seconds

    def live(self, seconds: float, per_s: int = 10) -> None:
        """Looks every 5 s while the writer goes on."""
        for _look in range(int(seconds / 5)):
            assert self.keeper.look()
            self.keeper.run_child()
            self.time += 5
            self.offsets = {name: offset + 5 * per_s for name, offset in self.offsets.items()}


@pytest.fixture
def world(replay: ModuleType, tmp_path: Path) -> World:
    return World(replay, tmp_path / "memory.json")


def test_the_start_is_read_from_the_metrics(replay: ModuleType) -> None:
    assert replay.started("# HELP x\nvm_app_start_timestamp_x 1\nvm_app_start_timestamp 1795634902\n") == 1795634902
    with pytest.raises(ValueError, match="vm_app_start_timestamp"):
        replay.started("up 1\n")


def test_a_page_that_was_cut_names_no_other_start(replay: ModuleType) -> None:
    page = "vm_app_start_timestamp 1795634902\n"
    for cut in range(len(page)):
        with pytest.raises(ValueError, match="no vm_app_start_timestamp"):
            replay.started(page[:cut])


def test_the_same_store_is_left_alone(world: World) -> None:
    world.live(300)
    assert world.commits == []
    assert len(world.children) == 1
    assert len(json.loads(world.path.read_text())["seen"]) == 60


def test_a_store_that_was_killed_gets_its_last_seconds_again(world: World) -> None:
    world.live(100)
    seen_last = world.time - 5
    world.dead = True
    assert world.keeper.look()
    assert world.children[0].status is None, "the writer waits by itself while the store is away"
    world.time += 600
    world.dead, world.started = False, 1700.0
    before = dict(world.offsets)
    assert world.keeper.look()
    (commit,) = world.commits
    # 10 records a second: 30 s before it was last seen, plus the 5 s that went by since.
    assert commit == {name: offset - 350 for name, offset in before.items()}
    assert seen_last - 30 >= 1000
    assert world.children[0].ended == 1
    world.keeper.run_child()
    assert len(world.children) == 2
    world.keeper.look()
    assert len(world.commits) == 1, "once per start of the store"


def test_store_and_writer_that_went_down_together(world: World) -> None:
    world.live(100)
    world.children.clear()
    world.started, world.keeper = 1200.0, world.make()
    assert world.keeper.look()
    assert len(world.commits) == 1
    assert world.children == [], "first the offsets, then the command"


def test_the_second_kill_goes_back_to_the_first_ones_place(world: World) -> None:
    world.live(100)
    world.started = 1101.0
    world.keeper.look()
    place = dict(world.offsets)
    world.time += 1
    world.offsets = {name: offset + 400 for name, offset in world.offsets.items()}
    world.started = 1103.0
    world.keeper.look()
    assert world.commits[-1] == place


def test_it_never_goes_forward_and_never_sets_what_it_does_not_know(replay: ModuleType) -> None:
    assert replay.back({"a/0": 5, "a/1": 9, "a/2": 3, "a/3": -1}, {"a/0": 7, "a/1": 8, "a/3": 4}) == {"a/0": 5}
    assert replay.before([], 30) == {}
    assert replay.before([(1.0, {"a/0": 1}), (2.0, {"a/0": 2})], 30) == {"a/0": 1}


def test_while_the_group_cannot_be_set_the_writer_does_not_run_over_it(world: World) -> None:
    world.live(100)
    world.started = 1200.0
    refuse, commit = [True], world.commit

    def refusing(offsets: dict[str, int]) -> None:
        if refuse[0]:
            raise OSError("Kafka refuses: UnknownMemberIdError")
        commit(offsets)

    world.commit = refusing  # type: ignore[method-assign]
    assert not world.keeper.look()
    assert not world.keeper.look()
    refuse[0] = False
    assert world.keeper.look()
    assert len(world.commits) == 1


def test_kafka_away_or_no_memory_never_stops_the_writer(world: World) -> None:
    world.kafka_dead = True
    assert world.keeper.look()
    world.path.write_text("torn {")
    assert world.replay.Memory(str(world.path)).start is None


def test_the_commands_end_is_the_units_end(world: World) -> None:
    def over(seconds: float) -> None:
        world.time += seconds
        if world.time > 1010:
            world.children[0].status = 3

    world.keeper._sleep = over
    assert world.keeper.run(5.0) == 3


def test_a_signal_ends_command_and_unit(world: World) -> None:
    def told(seconds: float) -> None:
        world.time += seconds
        if world.time > 1003:
            world.keeper.stop()

    world.keeper._sleep = told
    assert world.keeper.run(5.0) == 0
    assert world.children[0].ended >= 1
