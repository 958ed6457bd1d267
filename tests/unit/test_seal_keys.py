# SPDX-License-Identifier: Apache-2.0
"""OpenBao's own keys against a server in memory that answers as 2.7.2 did: killed anywhere, the shares that the controller holds open the store."""
from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import pytest

from ansible_collections.hnai.platform.plugins.module_utils.openbao.bootstrap import Keys
from ansible_collections.hnai.platform.plugins.module_utils.openbao.client import BaoError, Client
from ansible_collections.hnai.platform.plugins.module_utils.openbao.drill import DrillError, compare, open_with
from ansible_collections.hnai.platform.plugins.module_utils.openbao.seal_keys import Keyring, KeysError, Shares, advance, safe_version

NEW = Keys(5, 3)


class Killed(BaseException):
    """The controller is dead."""


class Bao:
    """The shares in force, and a rotation under way. Every call may be the last, before or after it is done."""

    def __init__(self, seed: int = 0, p_kill: float = 0.0) -> None:
        self.chance = random.Random(seed)
        self.p_kill = p_kill
        self.force, self.threshold = ["a0", "a1", "a2"], 2
        self.count = 0
        self.under: dict[str, Any] = {}
        self.term = 1

    def kill(self) -> None:
        if self.chance.random() < self.p_kill:
            raise Killed

    def call(self, method: str, path: str, body: Mapping[str, Any] | None = None, token: str | None = None, wrap_ttl: str | None = None) -> dict[str, Any]:
        self.kill()
        answer = self._call(method, path, dict(body or {}))
        self.kill()
        return {"data": answer}

    def _call(self, method: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
        if path == "sys/key-status":
            return {"term": self.term}
        if path == "sys/rotate/keyring":
            self.term += 1
            return {}
        step = path.rsplit("/", 1)[1]
        if step == "init":
            if method == "DELETE":
                self.under = {}
            if method == "POST":
                if self.under:
                    raise BaoError(method, path, 400, ["rotation already in progress"])
                assert body["require_verification"] is True
                self.count += 1
                self.under = {"nonce": "n%d" % self.count, "n": body["secret_shares"], "t": body["secret_threshold"], "shown": [], "new": [], "checked": []}
            return {"started": bool(self.under), "nonce": self.under.get("nonce", "")}
        if step == "update":
            self.under["shown"].append(body["key"])
            if len(self.under["shown"]) < self.threshold:
                return {"complete": False}
            if not set(self.under["shown"]) <= set(self.force):
                self.under["shown"] = []
                raise BaoError(method, path, 400, ["invalid key"])
            self.count += 1
            self.under["new"] = ["k%d.%d" % (self.count, number) for number in range(self.under["n"])]
            self.under["verify"] = "v%d" % self.count
            return {"complete": True, "keys": self.under["new"], "keys_base64": self.under["new"], "verification_nonce": self.under["verify"]}
        assert step == "verify"
        if not self.under.get("verify"):
            raise BaoError(method, path, 400, ["no rotation configuration found"])
        if method == "GET":
            return {"nonce": self.under["verify"]}
        assert body["nonce"] == self.under["verify"]
        self.under["checked"] = sorted({*self.under["checked"], body["key"]})
        if len(self.under["checked"]) < self.under["t"]:
            return {"complete": False}
        self.force, self.threshold, self.under = self.under["new"], self.under["t"], {}
        return {"complete": True}


class Controller:
    """What the action plugin keeps; a kill may come between any two of its writes."""

    def __init__(self, bao: Bao) -> None:
        self.bao = bao
        self.held: dict[str, Any] = {"keys_base64": list(bao.force)}
        self.candidate: dict[str, Any] = {}

    def run(self) -> str:
        for _number in range(6):
            found = advance(Shares(self.bao, "t"), self.held, self.candidate, NEW, self.bao.threshold)
            self.bao.kill()
            if found["step"] == "clear":
                self.candidate = {"begun": 1}
            elif found["step"] == "issued":
                self.candidate = {**found["issued"], "threshold": NEW.threshold, "pgp": False}
            else:
                if found["step"] == "in_force":
                    self.held = {"keys_base64": self.candidate["keys_base64"]}
                self.bao.kill()
                self.candidate = {}
                if found["step"] == "in_force":
                    return "done"
            self.bao.kill()
        return "never"


def test_killed_anywhere_what_the_controller_holds_opens_the_store(model_runs: int) -> None:
    for seed in range(model_runs):
        bao = Bao(seed, 0.04)
        there = Controller(bao)
        for _number in range(3):
            try:
                there.run()
            except Killed:
                assert bao.force in (there.held["keys_base64"], there.candidate.get("keys_base64")), seed
            except KeysError:
                # A probe of ours that was killed looks like somebody else's rotation: people are asked and end it, nothing is lost.
                assert bao.under, seed
                bao.under = {}
        bao.p_kill = 0.0
        bao.under = bao.under if bao.under.get("verify") and bao.under["verify"] == there.candidate.get("verification_nonce") else {}
        assert there.run() == "done", seed
        assert bao.force == there.held["keys_base64"], seed
        assert not bao.under, seed


def test_somebody_elses_rotation_is_not_cancelled() -> None:
    bao = Bao()
    bao.call("POST", "sys/rotate/root/init", {"secret_shares": 3, "secret_threshold": 2, "require_verification": True})
    with pytest.raises(KeysError, match="did not begin"):
        Controller(bao).run()
    assert bao.under["nonce"] == "n1"


def test_wrong_shares_change_nothing() -> None:
    bao = Bao()
    with pytest.raises(KeysError, match="refuses"):
        Shares(bao, "t").issue(["x", "y"], 2, NEW)
    assert not bao.under
    assert not Shares(bao, "t").opens(["x", "y"], 2)
    assert Shares(bao, "t").opens(bao.force, 2)
    assert (bao.force, bao.under) == (["a0", "a1", "a2"], {})


def test_pgp_shares_wait_for_their_holders() -> None:
    bao = Bao()
    shares = Shares(bao, "t")
    held = {"keys_base64": list(bao.force)}
    issued = advance(shares, held, {"begun": 1}, NEW, 2)["issued"]
    candidate = {**issued, "threshold": 3, "pgp": True}
    assert advance(shares, held, candidate, NEW, 2) == {"step": "waiting", "nonce": issued["verification_nonce"]}
    assert shares.verify(issued["keys_base64"], 3, issued["verification_nonce"])
    assert advance(shares, held, candidate, NEW, 3)["step"] == "in_force"


class Store:
    def __init__(self) -> None:
        self.kept: list[dict[str, Any]] = []

    def read(self, path: str) -> tuple[int, dict[str, Any] | None]:
        return len(self.kept), dict(self.kept[-1]) if self.kept else None

    def write(self, path: str, data: Mapping[str, Any], cas: int) -> int:
        assert cas == len(self.kept)
        self.kept.append(dict(data))
        return len(self.kept)


def test_the_keyring_gets_one_term_a_run_however_often_it_is_killed() -> None:
    for seed in range(300):
        bao, store = Bao(seed, 0.3), Store()
        ring = Keyring(bao, "t", store, lambda: 1.0)
        for _number in range(4):
            try:
                ring.rotate("r", lambda: "snapshot")
                break
            except Killed:
                assert bao.term <= 2, seed
        bao.p_kill = 0.0
        if not store.kept or store.kept[-1]["open"]:
            ring.rotate("r", lambda: "snapshot")
        last = store.kept[-1]
        assert (bao.term, last["to"], last["open"], last["snapshot"]) == (2, 2, False, "snapshot"), seed


@pytest.mark.parametrize(("version", "good"), [("2.5.1", False), ("2.5.2", True), ("2.7.2", True), ("v2.10.0", True), ("1.14.8", False), ("", False)])
def test_old_versions_are_refused(version: str, good: bool) -> None:
    assert safe_version(version) is good


@pytest.mark.parametrize("shares", [[], ["one"]])
def test_a_drill_with_too_few_shares_touches_nothing(shares: list[str]) -> None:
    with pytest.raises(DrillError, match=f"^{len(shares)} of 2 key shares are at hand: name a file that holds enough"):
        open_with(Client("https://127.0.0.1:1", ""), b"", shares, 2)


def test_what_a_drill_compares() -> None:
    live = {"a": [1, "x"], "b": [3, "y"], "c": [1, "z"], "d": [2, "q"]}
    restored = {"a": [1, "x"], "b": [2, "o"], "d": [2, "other"], "e": [1, "e"]}
    assert compare(live, restored) == {"equal": ["a"], "newer": ["b"], "lost": ["c"], "different": ["d", "e"]}
