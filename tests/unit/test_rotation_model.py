# SPDX-License-Identifier: Apache-2.0
"""The rotation against a model: crashes anywhere, acknowledgements that get lost, writes that arrive late, several controllers at once.

A controller is the same sequence of calls that the playbook makes. The network between it and everything else may, at each single operation,
lose the request, lose the answer, deliver the request much later (when others have gone on), or let another controller run meanwhile while
this one sleeps. After every operation that reached the store or the target the invariants are looked at:

* what any consumer holds is accepted by the target, and so is what a consumer would read now: no instant of outage;
* the journal holds no value.

Played with two targets: Kafka (one credential per mechanism), and vmauth through its own adapter, where the kill also comes between what is
stored and the reload, and where an ordinary run of the site stores the current value in its slot.
"""
from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from ansible_collections.hnai.platform.plugins.module_utils.openbao import rotation
from ansible_collections.hnai.platform.plugins.module_utils.openbao.rotation import BACK, Busy, Conflict, Rotation, RotationError
from ansible_collections.hnai.platform.plugins.module_utils.openbao.rotation_target import Adapter, CannotTell, Target
from ansible_collections.hnai.platform.plugins.module_utils.tsdb import rotate as vmauth

PATH = "telegraf/kafka_writer"
SLOTS = ("SCRAM-SHA-512", "SCRAM-SHA-256")


class Killed(BaseException):
    """The controller is dead: nothing of it runs any more."""


class NoAnswer(Exception):
    """The request or its answer was lost; the controller gives up and exits."""


class World:
    """Store, target, consumers, clock, and a network that is out to harm."""

    def __init__(self, seed: int, fenced: bool = True) -> None:
        self.chance = random.Random(seed)
        self.fenced = fenced
        self.calm = False
        self.now = 1_000_000.0
        self.versions: dict[str, list[dict[str, Any] | None]] = {PATH: [{"username": "w", "password": "secret-0"}]}
        self.accepted: dict[str, str] = {SLOTS[0]: "secret-0"}
        self.highest = 0
        self.consumers = dict.fromkeys(("edge1", "data1"), ("secret-0", SLOTS[0]))
        self.down: set[str] = set()
        self.late: list[Callable[[], Any]] = []
        self.made = 0
        self.depth = 0
        self.alive: set[str] = set()
        self.owners = 0
        self.ops = 0
        self.trace: list[str] = []
        self.p_kill = self.chance.choice((0.0, 0.02, 0.06))
        self.p_lose = self.chance.choice((0.0, 0.02, 0.05))
        self.p_late = self.chance.choice((0.0, 0.02, 0.05))
        self.p_other = self.chance.choice((0.0, 0.03, 0.08))

    # -- what is true ---------------------------------------------------------------------------------------------
    def valid(self, value: tuple[str, str]) -> bool:
        return self.accepted.get(value[1]) == value[0]

    def holds(self, secret: Mapping[str, Any]) -> tuple[str, str]:
        """(value, place) of a secret."""
        return secret["password"], secret.get("mechanism", SLOTS[0])

    def successor(self, secret: Mapping[str, Any], value: str) -> dict[str, Any]:
        slot = secret.get("mechanism", SLOTS[0])
        return dict(secret, password=value, mechanism=SLOTS[1 - SLOTS.index(slot)])

    def adapter(self) -> Adapter:
        return ModelAdapter(self)

    def site(self) -> None:
        """What an ordinary run of the site does at the target."""

    def current(self) -> tuple[str, str]:
        data = self.versions[PATH][-1]
        assert data is not None
        return self.holds(data)

    def check(self) -> None:
        for host, value in self.consumers.items():
            assert self.valid(value), "outage: %s holds %s, the target accepts %s" % (host, value, self.accepted)
        assert self.valid(self.current()), "outage for the next reader: %s, the target accepts %s" % (self.current(), self.accepted)

    # -- the network ----------------------------------------------------------------------------------------------
    def op(self, name: str, action: Callable[[], Any]) -> Any:
        """One operation of a controller."""
        self.now += 1.0
        self.ops += 1
        if self.calm:
            return self._do(name, action)
        while self.late and self.chance.random() < 0.06:
            self.late.pop(self.chance.randrange(len(self.late)))()
        if self.chance.random() < 0.05:
            host = self.chance.choice(sorted(self.consumers))
            self.site()  # an ordinary run of the site in between
            self.consumers[host] = self.current()
            self.check()
        if self.depth < 2 and self.chance.random() < self.p_other:
            self.depth += 1
            try:
                run_controller(self)
            finally:
                self.depth -= 1
        dice = self.chance.random()
        if dice < self.p_kill:
            if self.chance.random() < 0.5:
                self._do(name, action, quiet=True)
            raise Killed
        if dice < self.p_kill + self.p_lose:
            if self.chance.random() < 0.5:
                self._do(name, action, quiet=True)
            raise NoAnswer(name)
        if dice < self.p_kill + self.p_lose + self.p_late:
            self.late.append(lambda: self._do("late " + name, action, quiet=True))
            raise NoAnswer(name)
        return self._do(name, action)

    def _do(self, name: str, action: Callable[[], Any], quiet: bool = False) -> Any:
        try:
            result = action()
        except (Conflict, RotationError, CannotTell, Killed) as error:
            self.trace.append("%s: %s" % (name, type(error).__name__))
            self.check()
            if quiet:
                return None
            raise
        self.trace.append(name)
        self.check()
        return result


class VmauthWorld(World):
    """The same with vmauth: credentials on the host by slot, of which a reload takes all; both slots serve the same name."""

    def __init__(self, seed: int, fenced: bool = True) -> None:
        super().__init__(seed, fenced)
        self.stored = {"w": "secret-0"}
        self.accepted = dict(self.stored)
        self.consumers = dict.fromkeys(("edge1", "data1"), ("secret-0", "w"))

    def valid(self, value: tuple[str, str]) -> bool:
        return value[0] in self.accepted.values()

    def holds(self, secret: Mapping[str, Any]) -> tuple[str, str]:
        return secret["password"], vmauth.slot(secret)

    def successor(self, secret: Mapping[str, Any], value: str) -> dict[str, Any]:
        return vmauth.successor(secret, lambda: value)

    def dying(self) -> None:
        """A kill inside a step at the target."""
        if not self.calm and self.chance.random() < self.p_kill:
            raise Killed

    def site(self) -> None:
        value, slot = self.current()
        self.stored[slot] = value
        self.accepted = dict(self.stored)

    def adapter(self) -> Adapter:
        def store(name: str, value: str) -> None:
            self.dying()
            self.stored[name] = value
            self.dying()

        def remove(name: str) -> None:
            self.dying()
            self.stored.pop(name, None)
            self.dying()

        def reload() -> None:
            self.accepted = dict(self.stored)
            self.dying()

        return vmauth.VmauthAdapter(lambda _name, value: ModelConnection(self, value), store, remove, reload, lambda: self.chance.random() < 0.1)


class ModelConnection:
    """Every request is judged anew, by what vmauth has loaded."""

    def __init__(self, world: World, value: str) -> None:
        self.world, self.value = world, value

    def ask(self) -> int:
        return 400 if self.value in self.world.accepted.values() else 401

    def close(self) -> None:
        return


class ModelStore:
    """KV v2."""

    def __init__(self, world: World) -> None:
        self.world = world

    def read(self, path: str, version: int = 0) -> tuple[int, dict[str, Any] | None]:
        def action() -> tuple[int, dict[str, Any] | None]:
            found = self.world.versions.get(path, [])
            if version:
                return version, found[version - 1] if version <= len(found) else None
            return len(found), found[-1] if found else None

        return self.world.op("read %s" % path, action)  # type: ignore[no-any-return]

    def write(self, path: str, data: Mapping[str, Any], cas: int) -> int:
        text = json.dumps(dict(data))
        assert "secret-" not in text or not path.endswith("/_rotation"), "a value in the journal"
        copy = json.loads(text)

        def action() -> int:
            found = self.world.versions.setdefault(path, [])
            if len(found) != cas:
                raise Conflict(path)
            found.append(copy)
            return len(found)

        return self.world.op("write %s %s" % (path, copy.get("state", "")), action)  # type: ignore[no-any-return]

    def destroy(self, path: str, version: int) -> None:
        def action() -> None:
            found = self.world.versions.get(path, [])
            if 0 < version <= len(found):
                found[version - 1] = None

        self.world.op("destroy %s %d" % (path, version), action)


class ModelAdapter:
    """Kafka: one credential per mechanism. Called inside one operation of the world, as on a host under its lock."""

    supports_overlap = True

    def __init__(self, world: World) -> None:
        self.world = world

    def _of(self, secret: Mapping[str, Any]) -> tuple[str, str]:
        return self.world.holds(secret)

    def works(self, secret: Mapping[str, Any]) -> bool:
        return self.world.valid(self._of(secret))

    def put(self, secret: Mapping[str, Any]) -> None:
        value, slot = self._of(secret)
        self.world.accepted[slot] = value

    def drop(self, secret: Mapping[str, Any]) -> None:
        self.world.accepted.pop(self._of(secret)[1], None)

    def shares_place(self, one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
        return self._of(one)[1] == self._of(other)[1]

    def wrong(self, secret: Mapping[str, Any]) -> dict[str, Any]:
        return dict(secret, password="not-it")

    def sessions(self, secret: Mapping[str, Any]) -> list[str]:
        return sorted(host for host, value in self.world.consumers.items() if value == self._of(secret))


class ModelFence:
    def __init__(self, world: World) -> None:
        self.world = world

    def pass_(self, version: int) -> bool:
        if self.world.fenced and version < self.world.highest:
            return False
        self.world.highest = max(version, self.world.highest)
        return True


def make(world: World) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    def made(current: Mapping[str, Any]) -> dict[str, Any]:
        world.made += 1
        return world.successor(current, "secret-%d" % world.made)

    return made


def distribute(world: World) -> dict[str, str]:
    """The roles run on every consumer that is up; what each says that it lives on."""
    said = {}
    for host in sorted(world.consumers):
        if host in world.down:
            continue

        def action(host: str = host) -> str:
            world.consumers[host] = world.current()
            return rotation.fingerprint(PATH, world.consumers[host][0], 1)

        said[host] = world.op("converge %s" % host, action)
    return said


def steps(world: World, owner: str, resume: str = "", rollback: str = "") -> rotation.View:
    """What the playbook does, call by call."""
    store = ModelStore(world)
    run = Rotation(store, PATH, owner, now=lambda: world.now, lease_s=50, rounds=1)
    target = Target(world.adapter(), ModelFence(world), patience_s=0, clock=lambda: world.now, sleep=lambda _s: None)
    dead = [] if world.chance.random() < 0.3 else ["c%d" % number for number in range(world.owners + 1) if "c%d" % number not in world.alive]
    view = run.begin(
        "scram", make(world), "run-%s-%d" % (owner, world.ops), expected=sorted(world.consumers), dead=dead, resume=resume, rollback=rollback
    )

    def again() -> rotation.View:
        return run.held(view.run_id, view.fence)

    if view.direction == BACK:
        view = run.restore(again())
        acks = distribute(world) if run.exposed(view) else {}
        view = run.given_back(again(), acks)
        proof: dict[str, Any] = {}
        if view.reached(rotation.PREPARED):
            old, new = run.secrets(view)
            proof = world.op("withdraw", lambda: target.withdraw(old, new, view.fence))
        return run.back_in_force(again(), {}, proof)
    old, new = run.secrets(view)
    if not view.reached(rotation.PROVEN):
        proof = world.op("provision", lambda: target.provision(old, new, view.fence))
        view = run.proven(again(), proof)
    view = run.publish(again())
    if not view.reached(rotation.DISTRIBUTED):
        said = distribute(world)
        view = run.acknowledge(again(), said)
    view, left = run.drain(again())
    assert not left
    view = run.commit(again())
    proof = world.op("revoke", lambda: target.revoke(old, new, view.fence))
    return run.close(again(), proof)


def run_controller(world: World, **how: str) -> str:
    """One controller, until it is done, stops or dies; what became of it."""
    world.owners += 1
    owner = "c%d" % world.owners
    world.alive.add(owner)
    try:
        steps(world, owner, **how)
        return "done"
    except Killed:
        return "killed"
    except NoAnswer:
        return "no answer"
    except Busy as busy:
        if busy.expired and not how and busy.state != rotation.COMMITTED and world.chance.random() < 0.3:
            return run_controller(world, rollback=busy.run_id)
        if busy.expired and not how:
            return run_controller(world, resume=busy.run_id)
        return "busy"
    except (RotationError, CannotTell) as error:
        return "stopped: %s" % error
    finally:
        world.alive.discard(owner)


def settle(world: World) -> None:
    """The storm is over: late writes come in, then one controller after the other until one is done."""
    for late in world.late:
        late()
    world.late = []
    world.calm = True
    world.down = set()
    for _attempt in range(6):
        world.now += 1000
        if run_controller(world) == "done":
            return
    raise AssertionError("never done: %s" % world.trace[-30:])


def play(seed: int, fenced: bool = True, kind: type[World] = World) -> World:
    world = kind(seed, fenced)
    for _number in range(world.chance.randrange(1, 7)):
        world.down = {host for host in world.consumers if world.chance.random() < 0.1}
        journal = world.versions.get(PATH + "/_rotation", [{}])[-1] or {}
        if journal.get("run_id") and journal["state"] != rotation.COMMITTED and world.chance.random() < 0.4:
            run_controller(world, rollback=journal["run_id"])
        else:
            run_controller(world)
        world.now += world.chance.choice((0, 10, 100))
    settle(world)
    return world


def closed(world: World) -> None:
    """What must be true when nothing is going on."""
    journal = world.versions[PATH + "/_rotation"][-1]
    assert journal is not None
    assert journal["run_id"] == "" and journal["state"] == rotation.IDLE
    value, slot = world.current()
    assert world.accepted == {slot: value}, "orphaned at the target: %s beside %s" % (world.accepted, (value, slot))
    rotated = {entry["last"]["run_id"]: entry["last"] for entry in world.versions[PATH + "/_rotation"] if entry and entry.get("last")}
    values = [data["password"] for data in world.versions[PATH] if data]
    done = [last for last in rotated.values() if last["outcome"] == "rotated"]
    assert len({last["version"] for last in done}) == len(done), "two runs, one version"
    backs = [last for last in rotated.values() if last["outcome"] == "rolled back"]
    assert len(set(values)) - 1 >= len(done)
    assert len(values) - 1 <= len(done) + 2 * len(backs), "more than one new version in a run: %s" % values
    if journal["last"]["next_version"]:
        assert world.versions[PATH + "/_next"][journal["last"]["next_version"] - 1] is None, "the prepared value was left behind"


@pytest.mark.parametrize("kind", [World, VmauthWorld], ids=["kafka", "vmauth"])
@pytest.mark.parametrize("part", range(8))
def test_no_outage_no_orphan_one_version(part: int, kind: type[World], model_runs: int) -> None:
    for seed in range(part * model_runs // 8, (part + 1) * model_runs // 8):
        try:
            closed(play(seed, kind=kind))
        except AssertionError as error:
            raise AssertionError("seed %d: %s" % (seed, error)) from error


@pytest.mark.parametrize("fenced", [True, False])
def test_a_controller_that_wakes_up_late(fenced: bool) -> None:
    """It was to provision; meanwhile its run was rolled back and another one went through. Only the fence keeps it from an outage."""
    world = World(1, fenced)
    world.calm = True
    target = Target(ModelAdapter(world), ModelFence(world), patience_s=0, clock=lambda: world.now, sleep=lambda _s: None)
    late = Rotation(ModelStore(world), PATH, "late", now=lambda: world.now, rounds=1)
    view = late.begin("scram", make(world), "run-late", expected=sorted(world.consumers))
    old, new = late.secrets(view)
    assert run_controller(world, rollback="run-late") == "busy"  # its lease is not over
    world.now += 10_000
    assert run_controller(world, rollback="run-late") == "done"
    assert run_controller(world) == "done"
    assert world.current()[1] == SLOTS[1]
    if fenced:
        with pytest.raises(RotationError, match="another controller"):
            target.provision(old, new, view.fence)
        world.check()
    else:
        target.provision(old, new, view.fence)
        with pytest.raises(AssertionError, match="outage"):
            world.check()
