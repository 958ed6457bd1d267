# SPDX-License-Identifier: Apache-2.0
"""The initialisation of OpenBao is killed at every step; the next run must always arrive, with keys that open the store."""
from __future__ import annotations

import json
from pathlib import Path

import pytest

from ansible_collections.hnai.platform.plugins.module_utils.openbao.bootstrap import (
    Bootstrap,
    BootstrapError,
    Keys,
    Layout,
    fingerprint,
    recorded_since,
)
from ansible_collections.hnai.platform.plugins.module_utils.openbao.client import BaoError, Unreachable

PLAIN = Keys(3, 2)


class Killed(BaseException):
    """SIGKILL, as far as Python can play it: nothing of ours catches it."""


class Server:
    """A store on disk (a directory with one file) and the process in front of it."""

    def __init__(self, storage: Path, audit: Path) -> None:
        self.storage, self.audit = storage, audit
        self.running, self.sealed, self.progress = True, True, []
        self.kill_in_init = False
        self.starts = 0
        storage.mkdir(parents=True)
        (storage / "raft.db").touch()  # a server that was never initialised has it too
        audit.parent.mkdir(parents=True, exist_ok=True)

    @property
    def store(self) -> dict | None:
        """What the raft directory holds."""
        path = self.storage / "vault.db"
        return json.loads(path.read_text()) if path.exists() else None

    def log(self, path: str, moment: str = "2026-01-01T00:00:05.5Z") -> None:
        with self.audit.open("a") as stream:
            stream.write(json.dumps({"time": moment, "type": "request", "request": {"path": path}}) + "\n")

    def stop(self) -> None:
        self.running = False

    def start(self) -> None:
        self.storage.mkdir(exist_ok=True)
        (self.storage / "raft.db").touch()
        self.running, self.sealed, self.progress = True, True, []
        self.starts += 1

    def call(self, method, path, body=None, token=None, wrap_ttl=None):
        if not self.running:
            raise Unreachable("refused")
        if path == "sys/init":
            if self.store:
                raise BaoError(method, path, 400, ["already initialized"])
            keys = ["key-%d-%d" % (self.starts, number) for number in range(body["secret_shares"])]
            (self.storage / "vault.db").write_text(json.dumps({"keys": keys, "t": body["secret_threshold"]}))
            self.log("sys/audit/test")
            if self.kill_in_init:
                self.kill_in_init = False
                raise Killed
            return {"keys_base64": keys, "keys": keys, "root_token": "root-%d" % self.starts}
        if path == "sys/unseal":
            if body.get("reset"):
                self.progress = []
            elif body["key"] not in self.store["keys"]:
                raise BaoError(method, path, 400, ["invalid key"])
            else:
                self.progress.append(body["key"])
                if len(set(self.progress)) >= self.store["t"]:
                    self.sealed = False
                    self.log("sys/audit/test")
        if path == "sys/leader":
            return {"leader_address": "https://here"}
        found = self.store
        return {"initialized": found is not None, "sealed": self.sealed, "t": found["t"] if found else 0}


class World:
    """Host and controller; ``run`` is one run of the play's task."""

    def __init__(self, tmp_path: Path) -> None:
        self.server = Server(tmp_path / "raft", tmp_path / "audit" / "audit.log")
        self.layout = Layout(str(tmp_path / "boot"), str(tmp_path / "raft"), (str(tmp_path / "audit" / "audit.log"),))
        self.controller: dict | None = None
        self.stop_at = ""
        self.steps: list[str] = []
        self.seconds = 0.0

    def step(self, name: str) -> None:
        self.steps.append(name)
        if name == self.stop_at:
            self.stop_at = ""
            raise Killed

    def machine(self, keys: Keys = PLAIN) -> Bootstrap:
        def sleep(seconds: float) -> None:
            self.seconds += seconds

        return Bootstrap(self.server, self.server, self.layout, keys, now=lambda: 1767225600.0, clock=lambda: self.seconds,
                         sleep=sleep, step=self.step)

    def run(self, keys: Keys = PLAIN, **more):
        held = self.controller
        machine = self.machine(keys)
        out = machine.converge(held["keys_base64"] if held else [], held is not None, **more)
        if out.init is not None:
            self.controller = json.loads(json.dumps(out.init))
            machine.hand_over(fingerprint(self.controller))
        return out


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def aside(world: World) -> list[Path]:
    return sorted(Path(world.layout.storage).parent.glob("raft.keyless-*"))


def settled(world: World) -> None:
    """Unsealed by keys that the controller holds; nothing of the initialisation is left on the host; a next run does nothing."""
    assert not world.server.sealed
    assert world.controller is not None
    assert set(world.controller["keys_base64"]) == set(world.server.store["keys"])
    assert not Path(world.layout.answer).exists()
    assert not Path(world.layout.marker).exists()
    assert world.run().actions == []


def test_first_run_and_second(world: World) -> None:
    out = world.run()
    assert out.changed and out.initialized and not out.sealed
    assert aside(world) == []
    settled(world)


@pytest.mark.parametrize("step", ["marker", "init", "store", "unmark", "unseal", "hand over"])
def test_killed_at_each_step(world: World, step: str) -> None:
    world.stop_at = step
    with pytest.raises(Killed):
        world.run()
    assert world.stop_at == ""
    world.run()
    settled(world)
    # Only where keys were never stored is a store put aside, and it is kept.
    assert len(aside(world)) == (1 if step == "store" else 0)


def test_killed_between_the_servers_work_and_its_answer(world: World) -> None:
    world.server.kill_in_init = True
    with pytest.raises(Killed):
        world.run()
    assert world.server.store is not None
    assert Path(world.layout.marker).exists() and not Path(world.layout.answer).exists()
    world.run()
    settled(world)
    assert json.loads((aside(world)[0] / "vault.db").read_text())["keys"] != world.server.store["keys"]


@pytest.mark.parametrize("step", ["stop", "aside", "start"])
def test_killed_while_putting_aside(world: World, step: str) -> None:
    world.server.kill_in_init = True
    with pytest.raises(Killed):
        world.run()
    world.stop_at = step
    with pytest.raises(Killed):
        world.run()
    world.server.start()  # the play's unit task, which runs before this one
    world.run()
    settled(world)


def test_answer_is_durable_before_the_marker_goes(world: World) -> None:
    world.stop_at = "unmark"
    with pytest.raises(Killed):
        world.run()
    assert json.loads(Path(world.layout.answer).read_text())["keys_base64"] == world.server.store["keys"]
    assert Path(world.layout.answer).stat().st_mode & 0o777 == 0o600


def test_host_copy_stays_when_the_controllers_differs(world: World) -> None:
    machine = world.machine()
    out = machine.converge([], False)
    with pytest.raises(BootstrapError, match="differs"):
        machine.hand_over(fingerprint({**out.init, "root_token": "another"}))
    assert Path(world.layout.answer).exists()


def test_marker_with_an_unsealed_store_is_refused(world: World) -> None:
    world.run()
    Path(world.layout.marker).write_text(json.dumps({"started_at": "2026-01-01T00:00:00Z"}))
    with pytest.raises(BootstrapError, match="unsealed"):
        world.run()
    assert aside(world) == []


def test_marker_with_a_store_that_was_used_is_refused(world: World) -> None:
    world.run()
    world.server.log("hnai/data/x")
    world.server.stop()
    world.server.start()
    Path(world.layout.marker).write_text(json.dumps({"started_at": "2026-01-01T00:00:00Z"}))
    with pytest.raises(BootstrapError, match=r"hnai/data/x.*Nothing was touched"):
        world.run()
    assert aside(world) == [] and world.server.store is not None


def test_entries_before_the_marker_say_nothing_about_this_store(world: World) -> None:
    world.server.log("hnai/data/x", "2025-12-31T23:59:59.9Z")
    world.server.kill_in_init = True
    with pytest.raises(Killed):
        world.run()
    world.run()
    settled(world)


def test_lost_store_is_refused_unless_declared(world: World) -> None:
    world.run()
    (Path(world.layout.storage) / "vault.db").unlink()
    world.server.start()
    old = world.controller
    with pytest.raises(BootstrapError, match="openbao_lost_store"):
        world.run()
    assert world.server.store is None and world.controller == old
    world.run(lost_store="initialise")
    assert world.controller != old
    settled(world)


def test_answer_of_a_store_that_is_gone_is_never_overwritten(world: World) -> None:
    world.stop_at = "hand over"
    with pytest.raises(Killed):
        world.run()
    (Path(world.layout.storage) / "vault.db").unlink()
    world.server.start()
    with pytest.raises(BootstrapError, match="keys of a store that is not there"):
        world.run()
    assert Path(world.layout.answer).exists()


def test_sealed_again_is_unsealed_by_the_controllers_keys(world: World) -> None:
    world.run()
    world.server.start()
    assert world.run().actions == ["unsealed"]


def test_sealed_without_keys_names_the_ceremony(world: World) -> None:
    world.run()
    world.server.start()
    world.controller = None
    with pytest.raises(BootstrapError, match=r"0 of 2.*ceremony"):
        world.run()


def test_keys_of_another_store_are_refused(world: World) -> None:
    world.run()
    world.server.start()
    world.controller = {"keys_base64": ["a", "b", "c"]}
    with pytest.raises(BootstrapError, match="belong to another one"):
        world.run()


def test_pgp_shares_are_stored_but_not_used(world: World) -> None:
    keys = Keys(3, 2, ("p1", "p2", "p3"))
    out = world.run(keys)
    assert "0 of 2" in out.waiting and out.sealed and world.server.sealed
    assert world.controller is not None and not Path(world.layout.answer).exists()
    world.controller = {**world.controller, "keys_base64": []}  # what the action plugin gives for encrypted shares
    with pytest.raises(BootstrapError, match="0 of 2"):
        world.run(keys)


def test_plan(world: World) -> None:
    machine = world.machine()
    assert machine.plan(None) == ["initialise", "unseal"]
    assert machine.plan({"initialized": True, "sealed": True}) == ["unseal"]
    assert machine.plan({"initialized": True, "sealed": False}) == []


def test_recorded_since_reads_rotated_files_and_takes_a_torn_line_for_use(tmp_path: Path) -> None:
    base = tmp_path / "audit.log"
    line = json.dumps({"time": "2026-01-01T00:00:09.1Z", "request": {"path": "sys/audit/test"}})
    base.write_text(line + "\n")
    assert recorded_since([str(base)], "2026-01-01T00:00:00Z") == ""
    (tmp_path / "audit.log.1").write_text('{"time": "2026-01\n')
    assert "audit.log.1 line 1" in recorded_since([str(base)], "2026-01-01T00:00:00Z")
