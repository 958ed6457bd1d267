# SPDX-License-Identifier: Apache-2.0
"""The parts of a rotation: what stops it, what each kind of target does, the fence, the inventory, the site's list."""
from __future__ import annotations

import contextlib
import copy
import functools
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from ansible.errors import AnsibleFilterError
from jinja2.nativetypes import NativeEnvironment
from own_files import OwnFiles

from ansible_collections.hnai.platform.plugins.action import vault_rotate as action
from ansible_collections.hnai.platform.plugins.filter.rotation import leaves, rotations
from ansible_collections.hnai.platform.plugins.module_utils import credentials, unit
from ansible_collections.hnai.platform.plugins.module_utils.hostfiles import Completed, HostError
from ansible_collections.hnai.platform.plugins.module_utils.kafka.acls import Acl
from ansible_collections.hnai.platform.plugins.module_utils.kafka.rotate import ScramAdapter, cut, password_of
from ansible_collections.hnai.platform.plugins.module_utils.kafka.rotate import successor as next_scram
from ansible_collections.hnai.platform.plugins.module_utils.kafka.rotate import successor_pair as next_user
from ansible_collections.hnai.platform.plugins.module_utils.kafka.scram import LoginError
from ansible_collections.hnai.platform.plugins.module_utils.kafka.users import User
from ansible_collections.hnai.platform.plugins.module_utils.mqtt.rotate import MosquittoAdapter, standing
from ansible_collections.hnai.platform.plugins.module_utils.mqtt.rotate import successor as next_mqtt
from ansible_collections.hnai.platform.plugins.module_utils.mqtt.wire import MqttError, MqttRefused, connect_packet
from ansible_collections.hnai.platform.plugins.module_utils.openbao import inventory, policies, rotate_steps
from ansible_collections.hnai.platform.plugins.module_utils.openbao.client import BaoError, NotFound, Unreachable
from ansible_collections.hnai.platform.plugins.module_utils.openbao.fence import FileFence
from ansible_collections.hnai.platform.plugins.module_utils.openbao.kv import KvStore
from ansible_collections.hnai.platform.plugins.module_utils.openbao.rotation import (
    Busy,
    Conflict,
    Lost,
    Rotation,
    RotationError,
    fingerprint,
    material,
)
from ansible_collections.hnai.platform.plugins.module_utils.openbao.rotation_target import CannotTell, Refusals, Target
from ansible_collections.hnai.platform.plugins.module_utils.tsdb.rotate import BackendAdapter, VmauthAdapter
from ansible_collections.hnai.platform.plugins.module_utils.tsdb.rotate import successor as next_vmauth
from ansible_collections.hnai.platform.plugins.module_utils.tsdb.rotate import successor_backend as next_backend
from ansible_collections.hnai.platform.plugins.module_utils.verdict import Report
from ansible_collections.hnai.platform.plugins.modules import rotation_target, secret_inventory

PATH = "telegraf/kafka_writer"


class Bao:
    """KV v2 over the calls that KvStore makes, as OpenBao 2.7.2 answers them."""

    def __init__(self) -> None:
        self.kept: dict[str, list[Any]] = {}
        self.calls: list[tuple[str, str]] = []
        #: What the metadata say of a newest version beside its age.
        self.about: dict[str, Any] = {}

    def call(self, method: str, path: str, body: Mapping[str, Any] | None = None, token: str | None = None, wrap_ttl: str | None = None) -> dict[str, Any]:
        assert token == "t"
        self.calls.append((method, path))
        if method == "SCAN":
            return {"data": {"keys": list(self.kept)}}
        _mount, kind, rest = path.split("/", 2)
        name, _, query = rest.partition("?version=")
        found = self.kept.get(name, [])
        if kind == "metadata":
            if not found:
                raise NotFound(method, path, 404, [])
            return {"data": {"current_version": len(found), "versions": {str(len(found)): {"created_time": "2026-11-25T00:00:00.1Z", **self.about}}}}
        if kind == "destroy":
            assert body is not None
            for number in body["versions"]:
                found[number - 1] = None
            return {}
        if method == "GET":
            number = int(query)
            if number > len(found) or found[number - 1] is None:
                raise NotFound(method, path, 404, [])
            return {"data": {"data": json.loads(json.dumps(found[number - 1])), "metadata": {"version": number}}}
        assert body is not None
        if body["options"]["cas"] != len(found):
            raise BaoError(method, path, 400, ["check-and-set parameter did not match the current version"])
        self.kept.setdefault(name, []).append(json.loads(json.dumps(body["data"])))
        return {"data": {"version": len(self.kept[name])}}


@pytest.fixture
def store() -> KvStore:
    store = KvStore(Bao(), "t", "hnai")
    store.write(PATH, {"username": "telegraf-writer", "password": "old"}, 0)
    return store


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def begin(store: KvStore, owner: str = "me", clock: Clock | None = None, **more: Any) -> tuple[Rotation, Any]:
    run = Rotation(store, PATH, owner, clock or Clock(), rounds=1)
    given: dict[str, Any] = {"expected": ["data1"], **more}
    return run, run.begin("scram", lambda current: next_scram(current, lambda: "fresh"), given.pop("run_id", "r1"), **given)


PROOF = {"new_works": True, "wrong_refused": True}
DEAD = {"new_works": True, "old_refused": True, "no_old_session": True}


def published(store: KvStore, **more: Any) -> tuple[Rotation, Any]:
    run, view = begin(store, **more)
    return run, run.publish(run.proven(view, PROOF))


def test_the_whole_way_makes_one_version_and_leaves_no_value_behind(store: KvStore) -> None:
    run, view = published(store)
    assert store.read(PATH) == (2, {"username": "telegraf-writer", "password": "fresh", "mechanism": "SCRAM-SHA-256"})
    assert run.publish(view).fence == view.fence, "publishing again changes nothing"
    view, left = run.drain(run.acknowledge(view, {"data1": view.fp_new}))
    assert left == 0
    view = run.close(run.commit(view), DEAD)
    assert (view.open, view.last["outcome"], view.last["version"], view.last["old_version"]) == (False, "rotated", 2, 1)
    assert store.read(PATH + "/_next") == (1, None)
    text = json.dumps(store.read(PATH + "/_rotation")[1])
    assert "fresh" not in text and '"old"' not in text


@pytest.mark.parametrize("proof", [{}, {"new_works": True}, {"new_works": True, "wrong_refused": False}, {"new_works": "True", "wrong_refused": True}])
def test_what_is_not_proven_is_not_published(store: KvStore, proof: dict[str, Any]) -> None:
    run, view = begin(store)
    with pytest.raises(RotationError, match="not proven"):
        run.proven(view, proof)
    with pytest.raises(RotationError, match="PREPARED"):
        run.publish(run.look())
    assert store.read(PATH)[0] == 1


@pytest.mark.parametrize("missing", sorted(DEAD))
def test_it_is_not_closed_while_the_old_one_is_not_proven_dead(store: KvStore, missing: str) -> None:
    run, view = published(store)
    view = run.commit(run.drain(run.acknowledge(view, {"data1": view.fp_new}))[0])
    with pytest.raises(RotationError, match=missing):
        run.close(view, {**DEAD, missing: False})
    assert run.look().state == "COMMITTED"


def test_after_a_compromise_it_is_not_closed_while_somebody_elses_session_may_live(store: KvStore) -> None:
    clock = Clock()
    run, view = published(store, clock=clock, reason="compromise")
    run.commit(run.drain(run.acknowledge(view, {"data1": view.fp_new}))[0])
    for passed, left in ((0.0, 900), (400.0, 500), (-1000.0, 900), (1499.0, 1)):
        clock.now += passed
        with pytest.raises(RotationError, match=rf"r1 is COMMITTED but not done: .* another {left} s: 10\.0\.0\.9:5\."):
            run.close(begin(store, clock=clock)[1], {**DEAD, "others_end_s": 900.0, "not_cut": "10.0.0.9:5"})
    clock.now += 1.0
    assert run.close(begin(store, clock=clock)[1], {**DEAD, "others_end_s": 900.0}).last["outcome"] == "rotated"


@pytest.mark.parametrize(("reason", "others_s"), [("age", 900.0), ("request", 900.0), ("compromise", 0.0), ("compromise", None)])
def test_it_is_closed_where_nobodys_session_lives_or_nobody_is_in_a_hurry(store: KvStore, reason: str, others_s: float | None) -> None:
    run, view = published(store, reason=reason)
    view = run.commit(run.drain(run.acknowledge(view, {"data1": view.fp_new}))[0])
    assert run.close(view, {**DEAD, "others_end_s": others_s}).last["outcome"] == "rotated"


def test_a_host_that_is_missing_stops_it_and_is_named(store: KvStore) -> None:
    run, view = published(store, expected=["data1", "edge1"])
    with pytest.raises(RotationError, match="edge1 still without"):
        run.acknowledge(view, {"data1": view.fp_new, "edge1": view.fp_old})
    view = run.look()
    assert dict(view.acks) == {"data1": view.fp_new}
    assert run.acknowledge(view, {"edge1": view.fp_new}).state == "DISTRIBUTED"


def test_the_grace_time_is_waited_for_but_not_after_a_compromise(store: KvStore) -> None:
    clock = Clock()
    run, view = published(store, clock=clock, grace_s=60)
    view = run.acknowledge(view, {"data1": view.fp_new})
    assert run.drain(view) == (view, 60)
    with pytest.raises(RotationError, match="DISTRIBUTED"):
        run.commit(view)
    clock.now += 60
    assert run.drain(view)[0].state == "DRAINED"
    other = KvStore(Bao(), "t", "hnai")
    other.write(PATH, {"username": "w", "password": "old"}, 0)
    run, view = published(other, grace_s=60, reason="compromise")
    assert run.drain(run.acknowledge(view, {"data1": view.fp_new}))[1] == 0


def test_an_open_run_is_named_with_the_choice(store: KvStore) -> None:
    clock = Clock()
    begin(store, clock=clock)
    with pytest.raises(Busy, match=r"run r1 .*Another controller works on it until"):
        begin(store, "other", clock)
    with pytest.raises(Busy):
        begin(store, "other", clock, resume="r1")
    clock.now += 601
    with pytest.raises(Busy, match=r"rotate_resume=r1.*rotate_rollback=r1") as caught:
        begin(store, "other", clock)
    assert caught.value.expired
    with pytest.raises(RotationError, match="is r1, not r9"):
        begin(store, "other", clock, resume="r9")
    assert begin(store, "other", clock, resume="r1")[1].run_id == "r1"


def test_a_lease_of_a_clock_that_was_set_back_does_not_hold_for_ever(store: KvStore) -> None:
    clock = Clock()
    clock.now += 30 * 86400
    begin(store, clock=clock)
    clock.now -= 30 * 86400
    with pytest.raises(Busy, match="Its time is over: say -e rotate_resume=r1"):
        begin(store, "other", clock)
    assert begin(store, "other", clock, resume="r1")[1].owner == "other"


@pytest.mark.parametrize("jump", [-3600.0, -30 * 86400.0])
def test_a_clock_that_is_set_back_neither_skips_the_grace_time_nor_makes_it_endless(store: KvStore, jump: float) -> None:
    clock = Clock()
    run, view = published(store, clock=clock, grace_s=60)
    view = run.acknowledge(view, {"data1": view.fp_new})
    clock.now += jump
    view, left = run.drain(view)
    assert (view.state, left) == ("DISTRIBUTED", 60.0)
    clock.now += 59
    assert run.drain(view)[1] == 1.0
    assert run.drained(view, clock.sleep).state == "DRAINED"


@pytest.mark.parametrize("jump", [3600.0, 30 * 86400.0, -3600.0])
def test_of_two_clocks_that_disagree_none_ends_a_grace_time(store: KvStore, jump: float) -> None:
    clock = Clock()
    run, view = published(store, clock=clock, grace_s=60)
    run.acknowledge(view, {"data1": view.fp_new})
    controllers = clock.now
    clock.now += jump
    run = Rotation(store, PATH, "me", clock, rounds=1, told=controllers)
    with pytest.raises(RotationError, match=f"r1: the clock of OpenBao's host is {abs(jump):.0f} s {'ahead of' if jump > 0 else 'behind'} the controller's"):
        run.drained(run.look(), clock.sleep)
    assert run.drain(begin(store, clock=clock, reason="compromise")[1])[0].state == "DRAINED", "nothing is waited for then"


def test_what_is_distributed_by_a_wrong_clock_is_not_noted(store: KvStore) -> None:
    clock = Clock()
    _run, view = published(store, clock=clock, grace_s=60)
    with pytest.raises(RotationError, match="behind the controller's"):
        Rotation(store, PATH, "me", clock, rounds=1, told=clock.now + 3600).acknowledge(view, {"data1": view.fp_new})
    run = Rotation(store, PATH, "me", clock, rounds=1, told=clock.now - 20)
    assert run.acknowledge(run.look(), {}).state == "DISTRIBUTED"


def test_a_dead_process_is_succeeded_at_once_and_the_value_is_used_again(store: KvStore) -> None:
    _run, first = begin(store)
    _run, second = begin(store, "next", dead=["me"], run_id="r2")
    assert (second.run_id, second.fp_new, second.next_version) == ("r1", first.fp_new, first.next_version)
    with pytest.raises(Lost):
        Rotation(store, PATH, "me", rounds=1).held("r1", first.fence)


def test_somebody_elses_version_stops_the_publication(store: KvStore) -> None:
    run, view = begin(store)
    view = run.proven(view, PROOF)
    store.write(PATH, {"username": "w", "password": "by hand"}, 1)
    with pytest.raises(RotationError, match="version 2 was written by somebody else"):
        run.publish(view)


def test_there_is_no_way_back_after_the_commit(store: KvStore) -> None:
    run, view = published(store)
    view = run.commit(run.drain(run.acknowledge(view, {"data1": view.fp_new}))[0])
    with pytest.raises(RotationError, match="only goes forward"):
        begin(store, rollback="r1")


def test_the_way_back_waits_for_every_host_that_may_have_the_new_value(store: KvStore) -> None:
    run, _view = published(store)
    _run, view = begin(store, rollback="r1")
    view = run.restore(view)
    assert store.read(PATH)[1] == {"username": "telegraf-writer", "password": "old"}
    with pytest.raises(RotationError, match="may still use the new value"):
        run.given_back(view, {})
    view = run.given_back(view, {"data1": view.fp_old})
    with pytest.raises(RotationError, match="new_refused"):
        run.back_in_force(view, {}, {"old_works": True})
    assert run.back_in_force(view, {}, {"old_works": True, "new_refused": True}).last["outcome"] == "rolled back"


def test_the_way_back_does_not_need_the_new_value(store: KvStore) -> None:
    """The message of a new value that is gone says to roll back, so that must go."""
    run, view = begin(store)
    store.destroy(PATH + "/_next", 1)
    with pytest.raises(RotationError, match=r"is gone\. Roll the run back \(rotate_rollback=r1\)"):
        run.secrets(view)
    run, view = begin(store, rollback="r1")
    old, new = run.secrets(view, lambda current: next_scram(current, lambda: "another"))
    assert (old["password"], new) == ("old", {"username": "telegraf-writer", "password": "another", "mechanism": "SCRAM-SHA-256"})
    cluster = Cluster()
    cluster.kept |= {("telegraf-writer", "SCRAM-SHA-512"): "old", ("telegraf-writer", "SCRAM-SHA-256"): "nobody knows"}
    proof = scram_target(cluster).withdraw(old, new, view.fence)
    assert cluster.kept == {("telegraf-writer", "SCRAM-SHA-512"): "old"}, "the place is empty, whatever lay in it"
    assert not run.back_in_force(view, {}, proof).open


@pytest.mark.parametrize("state", ["PREPARED", "PUBLISHED", "COMMITTED"])
def test_an_old_value_that_is_gone_ends_in_its_place_and_the_proof_says_so(state: str) -> None:
    """Destroyed by hand: nobody can log in with it any more to see it refused, and only the way forward is left."""
    bao, clock, cluster = Bao(), Clock(), Cluster()
    KvStore(bao, "t", "hnai").write(PATH, {"username": "telegraf-writer", "password": "old"}, 0)
    step = take(bao, clock, state="prepared", run_id="r1")
    new, held = step["secrets"]["new"], {"run_id": "r1", "fence": step["rotation"]["fence"]}
    cluster.kept["telegraf-writer", "SCRAM-SHA-256"] = new["password"]

    def publish() -> None:
        held["fence"] = take(bao, clock, state="published", proof=PROOF, **held)["rotation"]["fence"]

    def commit() -> None:
        acks = {"data1": fingerprint(PATH, new["password"])}
        held["fence"] = take(bao, clock, state="committed", acks=acks, **held)["rotation"]["fence"]

    steps = {"PREPARED": publish, "PUBLISHED": commit}
    for before in list(steps)[: ["PREPARED", "PUBLISHED", "COMMITTED"].index(state)]:
        steps.pop(before)()
    bao.kept[PATH][0] = None
    with pytest.raises(RotationError, match="only goes forward" if state == "COMMITTED" else r"cannot go back: version 1, the old value, is gone"):
        take(bao, clock, state="prepared", rollback="r1")
    step = take(bao, clock, state="prepared")
    held["fence"] = step["rotation"]["fence"]
    assert (step["secrets"]["new"], step["rotation"]["direction"]) == (new, "forward")
    for left in steps.values():
        left()
    proof = scram_target(cluster).revoke(step["secrets"]["old"], new, held["fence"])
    done = take(bao, clock, state="closed", proof=proof, **held)["rotation"]
    assert cluster.kept == {("telegraf-writer", "SCRAM-SHA-256"): new["password"]}
    assert done["last"]["proof"]["old_gone"] and bao.kept[PATH] == [None, new]


@pytest.mark.parametrize("versions", [1, 3])
@pytest.mark.parametrize("state", ["PREPARED", "PUBLISHED", "COMMITTED"])
def test_a_secret_that_was_erased_by_name_is_published_again_and_the_run_ends(state: str, versions: int) -> None:
    """`bao kv metadata delete` takes every version and their numbers; the new value still lies prepared. Killed after it was written again, too."""
    bao, clock, cluster = Bao(), Clock(), Cluster()
    for number in range(versions):
        KvStore(bao, "t", "hnai").write(PATH, {"username": "telegraf-writer", "password": f"old{number}"}, number)
    step = take(bao, clock, state="prepared", run_id="r1")
    new, held = step["secrets"]["new"], {"run_id": "r1", "fence": step["rotation"]["fence"]}
    acks = {"data1": fingerprint(PATH, new["password"])}
    steps: dict[str, dict[str, Any]] = {"PUBLISHED": {"proof": PROOF}, "COMMITTED": {"acks": acks}}
    before = list(steps)[: ["PREPARED", "PUBLISHED", "COMMITTED"].index(state)]
    for name in before:
        held["fence"] = take(bao, clock, state=name.lower(), **steps.pop(name), **held)["rotation"]["fence"]
    cluster.kept["telegraf-writer", "SCRAM-SHA-256"] = new["password"]
    del bao.kept[PATH]
    with pytest.raises(RotationError, match="only goes forward" if state == "COMMITTED" else r"cannot go back: .* is gone.*bao kv metadata delete of"):
        take(bao, clock, state="prepared", rollback="r1")
    step = take(bao, clock, state="prepared")
    held["fence"] = step["rotation"]["fence"]
    assert step["secrets"]["new"] == new and bao.kept.get(PATH, []) == ([new] if before else [])
    for name, more in steps.items():
        journal = copy.deepcopy(bao.kept[PATH + "/_rotation"])
        take(bao, clock, state=name.lower(), **more, **held)
        bao.kept[PATH + "/_rotation"] = journal  # killed before the journal came to name it
        held["fence"] = take(bao, clock, state=name.lower(), **more, **held)["rotation"]["fence"]
    done = take(bao, clock, state="closed", proof=scram_target(cluster).revoke(step["secrets"]["old"], new, held["fence"]), **held)["rotation"]
    assert (bao.kept[PATH], bao.kept[PATH + "/_next"]) == ([new], [None])
    assert (done["last"]["outcome"], done["last"]["version"], done["last"]["proof"]["old_gone"]) == ("rotated", 1, True)


def test_where_a_run_of_the_site_made_a_secret_anew_the_remedy_goes(store: KvStore) -> None:
    """It creates what is absent; nobody is told to bring back a version that was erased."""
    bao, clock = store._api, Clock()
    assert isinstance(bao, Bao)
    step = take(bao, clock, state="prepared", run_id="r1")
    bao.kept[PATH] = [{"username": "telegraf-writer", "password": "made anew"}, {"username": "telegraf-writer", "password": "and by hand"}]
    held = {"run_id": "r1", "fence": step["rotation"]["fence"]}
    with pytest.raises(RotationError, match=rf"the old value was erased: erase what is there as well \(bao kv metadata delete {PATH}\), .*rotate_resume=r1"):
        take(bao, clock, state="published", proof=PROOF, **held)
    del bao.kept[PATH]
    held["fence"] = take(bao, clock, state="prepared", resume="r1")["rotation"]["fence"]
    take(bao, clock, state="published", proof=PROOF, **held)
    assert bao.kept[PATH] == [step["secrets"]["new"]]


def test_of_a_run_that_goes_back_already_the_old_value_is_to_be_brought_back(store: KvStore) -> None:
    begin(store)
    begin(store, rollback="r1")
    old, store._api.kept[PATH][0] = store._api.kept[PATH][0], None  # type: ignore[attr-defined]
    run, view = begin(store, rollback="r1")
    with pytest.raises(RotationError, match=r"the old value \(\S+, version 1\) is gone\. Bring it back"):
        run.secrets(view, lambda current: next_scram(current, lambda: "another"))
    store._api.kept[PATH][0] = old  # type: ignore[attr-defined]
    assert run.secrets(view)[0]["password"] == "old"


@pytest.mark.parametrize("rollback", ["", "r1"])
def test_who_comes_to_the_commit_of_a_run_that_another_controller_ended_begins_none(rollback: str) -> None:
    bao, clock = Bao(), Clock()
    KvStore(bao, "t", "hnai").write(PATH, {"username": "telegraf-writer", "password": "old"}, 0)
    step = take(bao, clock, state="prepared", run_id="r1")
    take(bao, clock, state="published", proof=PROOF, run_id="r1", fence=step["rotation"]["fence"])
    held: dict[str, Any] = {"run_id": "r1", "owner": "next"}
    found = take(bao, clock, state="prepared", owner="next", dead=["me"], rollback=rollback)["rotation"]
    if rollback:
        found = take(bao, clock, state="restored", fence=found["fence"], **held)["rotation"]
        take(bao, clock, state="rolled_back", fence=found["fence"], acks={"data1": found["fp_old"]}, proof={"old_works": True, "new_refused": True}, **held)
    else:
        found = take(bao, clock, state="committed", fence=found["fence"], acks={"data1": found["fp_new"]}, **held)["rotation"]
        take(bao, clock, state="closed", fence=found["fence"], proof=DEAD, **held)
    before = copy.deepcopy(bao.kept)
    with pytest.raises(Lost, match=r"no run is open any more \(the last: r1 %s\): another controller ended it" % ("rolled back" if rollback else "rotated")):
        take(bao, clock, state="prepared")
    assert bao.kept == before


def test_the_way_back_from_a_version_that_is_gone(store: KvStore) -> None:
    run, _view = published(store)
    store._api.kept[PATH][1] = None  # type: ignore[attr-defined]
    _run, view = begin(store, rollback="r1")
    run.restore(view)
    assert store.read(PATH) == (3, {"username": "telegraf-writer", "password": "old"})


def test_the_way_back_from_a_version_of_somebody_else(store: KvStore) -> None:
    """It is not overwritten; the message says what to do, and that goes."""
    run, _view = begin(store)
    store.write(PATH, {"username": "w", "password": "by hand"}, 1)
    run, view = begin(store, rollback="r1")
    view = replace(view, state="PROVEN")
    with pytest.raises(RotationError, match=r"version 2 was written by somebody else .*bao kv rollback -version=1\), then roll the run back"):
        run.restore(view)
    store.write(PATH, store.read(PATH, 1)[1] or {}, 2)
    assert run.restore(view) == view and store.read(PATH)[0] == 3


def test_the_old_one_is_not_ended_while_a_hand_wrote_another_version() -> None:
    bao, clock = Bao(), Clock()
    kept = KvStore(bao, "t", "hnai")
    kept.write(PATH, {"username": "telegraf-writer", "password": "old"}, 0)
    step = take(bao, clock, state="prepared", run_id="r1")
    held = {"run_id": "r1", "fence": take(bao, clock, state="published", proof=PROOF, run_id="r1", fence=step["rotation"]["fence"])["rotation"]["fence"]}
    kept.write(PATH, {"username": "telegraf-writer", "password": "by hand"}, 2)
    with pytest.raises(RotationError, match="version 3 was written by somebody else"):
        take(bao, clock, state="committed", acks={"data1": fingerprint(PATH, step["secrets"]["new"]["password"])}, **held)
    kept.write(PATH, step["secrets"]["new"], 3)
    fence = take(bao, clock, state="prepared")["rotation"]["fence"]
    assert take(bao, clock, state="committed", run_id="r1", fence=fence)["rotation"]["state"] == "COMMITTED"


def test_after_a_compromise_an_open_run_waits_no_longer(store: KvStore) -> None:
    run, view = published(store, grace_s=1000.0)
    run.acknowledge(view, {"data1": view.fp_new})
    assert run.drain(begin(store)[1])[1] == 1000.0
    view, left = run.drain(begin(store, reason="compromise")[1])
    assert (view.state, left) == ("DRAINED", 0.0)
    assert begin(store)[1].reason == "compromise", "the next step of the same run asks for nothing"


@pytest.mark.parametrize("document", [
    None, {}, {"state": "PREPARED", "expected": 7}, {"state": "PREPARED", "run_id": "r1", "lease_until": "soon"}, {"state": ["x"]}, {"acks": {}},
    {"state": "PREPARED", "acks": ["data1"]}, {"state": "IDLE", "of tomorrow": 1}, {"state": "PREPARED", "run_id": 5}, {"state": "IDLE", "fence": 7},
    {"state": "PREPARED", "direction": "sideways"}, {"state": "IDLE", "path": PATH}, {"state": "PREPARED", "expected": ["data1", 7]},
])  # fmt: skip
def test_a_journal_that_a_hand_wrote_or_deleted_is_not_taken_for_a_closed_one(store: KvStore, document: Any) -> None:
    begin(store)
    store._api.kept[PATH + "/_rotation"].append(document)  # type: ignore[attr-defined]
    with pytest.raises(RotationError, match="is no journal of this release" if document is not None else r"version \d was deleted.*undelete"):
        begin(store, run_id="r2")
    assert store.read(PATH + "/_next")[0] == 1, "nothing was made"
    found = verdicts(store, [item()], {}, 1e9)
    assert found["SI2", PATH] == "inconclusive"


@pytest.mark.parametrize("secret", [
    {"password": "p"}, {"username": "x"}, {"username": "x", "password": "p", "mechanism": "PLAIN"}, {"username": "x", "password": 5},
    {"username": "", "password": "p"},
])  # fmt: skip
def test_what_is_no_secret_is_said_and_not_held(secret: dict[str, Any]) -> None:
    bao, clock = Bao(), Clock()
    KvStore(bao, "t", "hnai").write(PATH, secret, 0)
    with pytest.raises(RotationError, match=f"{PATH}: the newest version is no secret of kind scram"):
        take(bao, clock, state="prepared", run_id="r1")
    assert not take(bao, clock, state="planned")["rotation"]["open"]


def test_killed_when_it_closes_it_leaves_no_second_copy_of_the_value_in_force(store: KvStore, monkeypatch: pytest.MonkeyPatch) -> None:
    run, view = published(store)
    view = run.commit(run.drain(run.acknowledge(view, {"data1": view.fp_new}))[0])
    monkeypatch.setattr(run, "_move", lambda *_given, **_more: pytest.fail("killed"))
    with pytest.raises(pytest.fail.Exception, match="killed"):
        run.close(view, DEAD)
    assert store.read(PATH + "/_next") == (1, None)
    assert begin(store)[0].secrets(view)[1]["password"] == "fresh", "the next run goes on without it"


def test_an_acknowledgement_that_is_lost_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each write in turn: done, and not answered."""
    for lost in range(1, 15):
        bao, writes = Bao(), []

        def call(method: str, path: str, *args: Any, bao: Bao = bao, writes: list[str] = writes, lost: int = lost, **more: Any) -> dict[str, Any]:
            found = Bao.call(bao, method, path, *args, **more)
            writes += [path] if method == "POST" else []
            if len(writes) == lost and method == "POST":
                raise Unreachable("cut")
            return found

        store = KvStore(bao, "t", "hnai")
        store.write(PATH, {"username": "telegraf-writer", "password": "old"}, 0)
        monkeypatch.setattr(bao, "call", call)
        run, view = published(store)
        view = run.close(run.commit(run.drain(run.acknowledge(view, {"data1": view.fp_new}))[0]), DEAD)
        assert len(bao.kept[PATH]) == 2 and not view.open
        assert bao.kept[PATH + "/_next"] == [None], f"a value was left behind ({writes[lost - 1]})"
    assert len(writes) == 13 and "/destroy/" in writes[-2], "each was lost once, and then none"


def test_a_secret_that_is_not_there_is_not_held(store: KvStore) -> None:
    run = Rotation(store, "telegraf/none", "me", rounds=1)
    with pytest.raises(RotationError, match="no secret to rotate"):
        run.begin("scram", dict, "r1")
    assert not run.look().open


def test_check_and_set_is_told_from_other_errors(store: KvStore) -> None:
    with pytest.raises(Conflict):
        store.write(PATH, {}, 7)

    class Broken(Bao):
        def call(self, *args: Any, **more: Any) -> dict[str, Any]:
            raise BaoError("POST", "x", 400, ["something else"])

    with pytest.raises(BaoError):
        KvStore(Broken(), "t", "hnai").write(PATH, {}, 0)


def test_a_fingerprint_tells_apart_and_gives_nothing_away() -> None:
    assert fingerprint("a", "x", 1) != fingerprint("b", "x", 1) != fingerprint("b", "y", 1)
    assert material({"username": "u", "mechanism": "m", "password": "p"}) == "p"
    assert material({"username": "u", "a": "1", "b": "2"}) == '{"a":"1","b":"2"}'
    assert material({"username": "u", "password": "p", "note": "whose it is"}) == "p", "consumers live on the password alone"


# -- targets ----------------------------------------------------------------------------------------------------------


class Cluster:
    """Kafka: one credential per user and mechanism."""

    def __init__(self) -> None:
        self.kept = {("telegraf-writer", "SCRAM-SHA-512"): "old"}
        self.wrong = 0
        self.slow: dict[str, int] = {}
        self.rights: list[Acl] = []
        self.reauth = {1: 900.0, 2: 900.0}

    def reauth_s(self) -> dict[int, float]:
        return self.reauth

    def acls(self) -> list[Acl]:
        return self.rights

    def users(self) -> dict[str, dict[str, int]]:
        found: dict[str, dict[str, int]] = {}
        for name, mechanism in self.kept:
            found.setdefault(name, {})[mechanism] = 8192
        return found

    def alter_users(self, upsert: Any, delete: Any) -> None:
        for user, mechanism in upsert:
            self.kept[user.name, mechanism] = user.password
        for key in delete:
            del self.kept[key]

    def login(self, broker: str, mechanism: str, username: str, password: str) -> bool:
        if self.slow.get(broker, 0) > 0:
            self.slow[broker] -= 1
            return False
        good = self.kept.get((username, mechanism)) == password
        self.wrong += not good
        return good


OLD = {"username": "telegraf-writer", "password": "old"}
NEW = next_scram(OLD, lambda: "fresh")


class Free:
    def pass_(self, version: int) -> bool:
        return True


def scram_target(cluster: Cluster, brokers: tuple[str, ...] = ("k1:9095",), fence: Any = None) -> Target:
    clock = Clock()
    adapter = ScramAdapter(cluster, brokers, cluster.login, clock=clock, sleep=clock.sleep)
    return Target(adapter, fence or Free(), 5, clock, clock.sleep)


def test_scram_overlaps_by_mechanism_and_ends_by_it() -> None:
    cluster = Cluster()
    target = scram_target(cluster)
    assert target.provision(OLD, NEW, 1) == {"new_works": True, "wrong_refused": True, "old_works": True, "changed": True}
    assert target.provision(OLD, NEW, 1)["changed"] is False
    assert target.revoke(OLD, NEW, 2) == {"old_refused": True, "new_works": True, "no_old_session": True, "sessions": [], "changed": True}
    assert cluster.kept == {("telegraf-writer", "SCRAM-SHA-256"): "fresh"}
    assert target.revoke(OLD, NEW, 2)["changed"] is False
    assert next_scram(NEW, lambda: "x")["mechanism"] == "SCRAM-SHA-512"


def test_scram_says_how_long_a_session_of_somebody_else_lives_and_when_it_lives_for_ever() -> None:
    """Seen on 4.3.1: the session goes on after its credential is gone, until the broker asks again."""
    cluster = Cluster()
    cluster.alter_users([(User("telegraf-writer", "fresh", ("SCRAM-SHA-256",)), "SCRAM-SHA-256")], [])
    adapter = ScramAdapter(cluster, ("k1:9095",), cluster.login)
    proof = Target(adapter, Free(), patience_s=0).revoke(OLD, NEW, 1)
    assert proof["no_old_session"] and adapter.others_end_s == 900.0
    cluster.reauth[2] = 0.0
    proof = Target(adapter, Free(), patience_s=0).revoke(OLD, NEW, 1)
    assert not proof["no_old_session"] and proof["sessions"] == ["any of telegraf-writer at broker 2: its connections.max.reauth.ms is 0"]


@pytest.mark.parametrize(("spared", "found"), [((), (2, [])), (("sk:2",), (1, ["[::ffff:10.0.0.9]:5012"]))])
def test_of_the_connections_that_are_cut_those_are_named_that_the_kernel_let_live(spared: tuple[str, ...], found: tuple[int, list[str]]) -> None:
    """As iproute2 6.1 prints them. Who comes again meanwhile has another socket."""
    living = {f"sk:{n}": f"ESTAB 0 0 [::ffff:10.0.0.1]:9094 [::ffff:10.0.0.9]:501{n} timer:(keepalive,119min,0) uid:990 ino:7{n} sk:{n} <->" for n in (1, 2)}

    def run(argv: list[str]) -> Completed:
        assert argv[:2] == ["ss", "-Htne"] and argv[-1] == "sport = :9094 or sport = :9095"
        shown = "\n".join(living.values())
        if "-K" in argv:
            for one in [one for one in living if one not in spared]:
                del living[one]
            living["sk:3"] = shown.splitlines()[0].replace("sk:1", "sk:3")
        return Completed(0, shown.encode(), b"")

    assert cut(run, [9094, 9095]) == found


def test_connections_that_cannot_be_listed_are_not_taken_for_none() -> None:
    with pytest.raises(HostError, match="ss: not installed"):
        cut(lambda argv: Completed(127, b"", f"{argv[0]}: not installed".encode()), [9094])


def test_scram_waits_until_the_brokers_agree_and_says_when_they_do_not() -> None:
    cluster = Cluster()
    cluster.slow = {"k2:9095": 2}
    assert scram_target(cluster, ("k1:9095", "k2:9095")).provision(OLD, NEW, 1)["new_works"]
    cluster.slow = {"k2:9095": 10_000}
    with pytest.raises(CannotTell, match="do not agree"):
        scram_target(cluster, ("k1:9095", "k2:9095")).provision(OLD, NEW, 1)


def test_nothing_is_ended_while_the_other_one_does_not_work(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster()
    monkeypatch.setattr(cluster, "alter_users", lambda _upsert, _delete: None)
    with pytest.raises(RotationError, match="nothing was ended"):
        scram_target(cluster).revoke(OLD, NEW, 1)
    assert cluster.kept == {("telegraf-writer", "SCRAM-SHA-512"): "old"}


@pytest.mark.parametrize("there", [{}, {"SCRAM-SHA-256": "a hand's"}, {"SCRAM-SHA-512": "a hand's"}, {"SCRAM-SHA-512": "old"}])
@pytest.mark.parametrize("back", [False, True])
def test_what_a_hand_took_away_at_the_target_is_put_there_again(there: dict[str, str], back: bool) -> None:
    """After the commit nothing else leads on, and whoever lives on it is shut out as long as it is not there."""
    cluster = Cluster()
    cluster.kept = {("telegraf-writer", mechanism): password for mechanism, password in there.items()}
    target = scram_target(cluster)
    proof = target.withdraw(OLD, NEW, 1) if back else target.revoke(OLD, NEW, 1)
    assert all(proof[key] for key in (("new_refused", "old_works") if back else ("old_refused", "new_works", "no_old_session")))
    stays = OLD if back else NEW
    assert cluster.kept == {("telegraf-writer", stays.get("mechanism", "SCRAM-SHA-512")): stays["password"]}


def test_not_reachable_is_not_refused() -> None:
    def login(*_what: str) -> bool:
        raise LoginError("no route")

    with pytest.raises(CannotTell):
        ScramAdapter(Cluster(), ("k1:9095",), login).works(OLD)


def test_a_wrong_password_is_tried_once() -> None:
    cluster = Cluster()
    cluster.kept["telegraf-writer", "SCRAM-SHA-256"] = "fresh"
    scram_target(cluster).provision(OLD, NEW, 1)
    assert cluster.wrong == 1


def test_the_same_place_is_refused() -> None:
    with pytest.raises(RotationError, match="overwrite"):
        scram_target(Cluster()).provision(OLD, dict(OLD, password="fresh"), 1)


class Broker:
    """Mosquitto: one password per name, taken up by a reload, which ends sessions of names that are gone."""

    def __init__(self, ends_sessions: bool = True) -> None:
        self.stored = {"telegraf-bridge": "old"}
        self.loaded = dict(self.stored)
        self.ends_sessions = ends_sessions
        self.open: list[BrokerSession] = []

    def login(self, username: str, password: str) -> BrokerSession:
        if self.loaded.get(username) != password:
            raise MqttRefused(5)
        self.open.append(BrokerSession(self, username))
        return self.open[-1]

    def reload(self) -> None:
        self.loaded = dict(self.stored)


class BrokerSession:
    def __init__(self, broker: Broker, username: str) -> None:
        self.broker, self.username, self.closed = broker, username, False

    def alive(self) -> bool:
        return not self.broker.ends_sessions or self.username in self.broker.loaded

    def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize("ends", [True, False])
@pytest.mark.parametrize("killed", [False, True])
def test_mosquitto_takes_turns_and_proves_with_a_session_of_its_own(ends: bool, killed: bool) -> None:
    broker, clock = Broker(ends), Clock()

    def put(name: str, value: str) -> None:
        broker.stored[name] = value

    adapter = MosquittoAdapter(broker.login, put, lambda name: broker.stored.pop(name, None) and None, broker.reload)
    target = Target(adapter, Free(), 2, clock, clock.sleep)
    old = {"username": "telegraf-bridge", "password": "old"}
    new = next_mqtt(old, lambda: "fresh")
    assert new["username"] == "telegraf-bridge.b"
    assert next_mqtt(new, lambda: "x")["username"] == "telegraf-bridge"
    assert target.provision(old, new, 1) == {"new_works": True, "wrong_refused": True, "old_works": True, "changed": True}
    if killed:
        adapter.drop(old)
    proof = target.revoke(old, new, 2)
    assert proof["old_refused"] and proof["no_old_session"] is ends and proof["changed"] is not killed
    assert broker.loaded == {"telegraf-bridge.b": "fresh"}


@pytest.mark.parametrize(("password", "says"), [("ä" * 35000, "password has 70000 bytes, MQTT carries 65535"), ("a\0b", "password holds a NUL")])
def test_a_value_that_no_login_can_carry_is_refused_before_anything_is_written(password: str, says: str) -> None:
    bao, clock = Bao(), Clock()
    KvStore(bao, "t", "hnai").write(PATH, {"username": "telegraf-bridge", "password": password}, 0)
    with pytest.raises(RotationError, match=rf"is no secret of kind mosquitto .*{says}.*nothing was changed"):
        take(bao, clock, state="prepared", kind="mosquitto", run_id="r1")
    assert f"{PATH}/_next" not in bao.kept
    assert not take(bao, clock, state="planned")["rotation"]["open"]


@pytest.mark.parametrize("back", [True, False])
@pytest.mark.parametrize("password", ["x" * 65536, "old\0more"])
def test_an_open_run_with_such_a_value_ends_and_goes_back(back: bool, password: str) -> None:
    broker, clock = Broker(), Clock()

    def login(name: str, word: str) -> Any:
        connect_packet("hnai-x", name, word)
        return broker.login(name, word.split("\0")[0])

    def put(name: str, value: str) -> None:
        broker.stored[name] = value

    target = Target(MosquittoAdapter(login, put, lambda name: broker.stored.pop(name, None) and None, broker.reload), Free(), 2, clock, clock.sleep)
    old, new = {"username": "telegraf-bridge", "password": password}, {"username": "telegraf-bridge.b", "password": "fresh"}
    assert target.provision(old, new, 1) == {"new_works": True, "wrong_refused": True, "old_works": False, "changed": True}
    if back:
        assert target.withdraw(old, new, 2) == {"new_refused": True, "old_works": False, "old_impossible": True, "changed": True}
        assert broker.loaded == {"telegraf-bridge": "old"}
    else:
        proof = target.revoke(old, new, 2)
        assert proof["old_refused"] and proof["new_works"] and proof["no_old_session"]
        assert broker.loaded == {"telegraf-bridge.b": "fresh"}


def test_the_journal_closes_on_the_way_back_to_a_value_that_no_login_can_carry() -> None:
    bao, clock = Bao(), Clock()
    KvStore(bao, "t", "hnai").write(PATH, {"username": "telegraf-writer", "password": "old"}, 0)
    take(bao, clock, state="prepared", run_id="r1")
    back = take(bao, clock, state="prepared", rollback="r1")["rotation"]
    gone = {"new_refused": True, "old_works": False}
    with pytest.raises(RotationError, match="not rolled back yet: old_works"):
        take(bao, clock, state="rolled_back", run_id="r1", fence=back["fence"], proof=gone)
    assert not take(bao, clock, state="rolled_back", run_id="r1", fence=back["fence"], proof={**gone, "old_impossible": True})["rotation"]["open"]


def test_mosquitto_that_does_not_answer_is_not_a_refusal() -> None:
    def login(_name: str, _word: str) -> Any:
        raise MqttError("closed")

    with pytest.raises(CannotTell):
        MosquittoAdapter(login, lambda *_a: None, lambda _a: None, lambda: None).works({"username": "a", "password": "b"})


class Vmauth:
    """vmauth: all slots of a name are served; a reload takes what is stored; each request is judged anew."""

    def __init__(self) -> None:
        self.stored = {"dashboard": "old", "writer": "w"}
        self.loaded = dict(self.stored)
        self.flying = [0]
        self.keeps = False
        self.status = 400
        self.open: list[VmauthConnection] = []

    def connect(self, username: str, password: str) -> VmauthConnection:
        self.open.append(VmauthConnection(self, password))
        return self.open[-1]

    def in_flight(self) -> int:
        return self.flying.pop(0) if len(self.flying) > 1 else self.flying[0]

    def reload(self) -> None:
        self.loaded = dict(self.stored)

    def target(self, clock: Clock) -> Target:
        adapter = VmauthAdapter(self.connect, self.stored.__setitem__, lambda name: self.stored.pop(name, None) and None, self.reload, self.in_flight)
        return Target(adapter, Free(), 2, clock, clock.sleep)


class VmauthConnection:
    def __init__(self, server: Vmauth, password: str) -> None:
        self.server, self.password, self.closed, self.asked = server, password, False, 0

    def ask(self) -> int:
        self.asked += 1
        if self.closed:
            raise ConnectionError("closed")
        kept = self.server.keeps and self.asked > 1
        return self.server.status if kept or self.password in self.server.loaded.values() else 401

    def close(self) -> None:
        self.closed = True


DASH = {"username": "dashboard", "password": "old"}


def test_vmauth_has_two_slots_of_one_name_and_ends_one_of_them() -> None:
    server, clock = Vmauth(), Clock()
    new = next_vmauth(DASH, lambda: "fresh")
    assert new == {"username": "dashboard", "slot": "dashboard.b", "password": "fresh"}
    assert next_vmauth(new, lambda: "x")["slot"] == "dashboard"
    assert material(new) == "fresh", "the slot is no secret"
    target = server.target(clock)
    assert target.provision(DASH, new, 1) == {"new_works": True, "wrong_refused": True, "old_works": True, "changed": True}
    server.flying = [2, 1, 0]
    assert target.revoke(DASH, new, 2) == {"old_refused": True, "new_works": True, "no_old_session": True, "sessions": [], "changed": True}
    assert server.loaded == {"dashboard.b": "fresh", "writer": "w"}
    assert all(connection.closed for connection in server.open)
    again = server.target(clock).revoke(DASH, new, 2)
    assert again["changed"] is False and again["no_old_session"], "a run that was killed before it closed goes on"


@pytest.mark.parametrize("cause", ["kept", "flying"])
def test_vmauth_what_lives_on_of_the_old_one_is_seen(cause: str) -> None:
    server, clock = Vmauth(), Clock()
    new = next_vmauth(DASH, lambda: "fresh")
    server.target(clock).provision(DASH, new, 1)
    server.keeps, server.flying = cause == "kept", [3 if cause == "flying" else 0]
    proof = server.target(clock).revoke(DASH, new, 2)
    assert proof["old_refused"] and not proof["no_old_session"]
    assert proof["sessions"] == ["3 requests in flight" if cause == "flying" else "a connection of dashboard that was opened before"]


@pytest.mark.parametrize("status", [200, 404, 429, 502, 503])
def test_vmauth_an_answer_that_is_neither_is_no_refusal(status: int) -> None:
    server, clock = Vmauth(), Clock()
    new = next_vmauth(DASH, lambda: "fresh")
    server.target(clock).provision(DASH, new, 1)
    server.status = status
    with pytest.raises(CannotTell, match=str(status)):
        server.target(clock).revoke(DASH, new, 2)
    assert sorted(server.stored) == ["dashboard", "dashboard.b", "writer"]


def test_vmauth_that_does_not_say_what_is_in_flight_has_proven_nothing() -> None:
    server, clock = Vmauth(), Clock()
    new = next_vmauth(DASH, lambda: "fresh")
    server.target(clock).provision(DASH, new, 1)

    def silent() -> int:
        raise OSError("no answer")

    server.in_flight = silent  # type: ignore[method-assign]
    with pytest.raises(CannotTell, match="in flight"):
        server.target(clock).revoke(DASH, new, 2)


def test_the_fence_only_rises_and_outlives_the_process(tmp_path: Path) -> None:
    assert FileFence(OwnFiles(str(tmp_path)), PATH).pass_(7)
    again = FileFence(OwnFiles(str(tmp_path)), PATH)
    assert again.pass_(7) and not again.pass_(6) and again.pass_(8)
    assert FileFence(OwnFiles(str(tmp_path)), "telegraf/other").pass_(1)
    (tmp_path / "var/lib/hnai/rotation/telegraf+kafka_writer").write_text("x")
    with pytest.raises(HostError, match="no number"):
        FileFence(OwnFiles(str(tmp_path)), PATH).pass_(9)


# -- the module's steps -----------------------------------------------------------------------------------------------


def take(bao: Bao, clock: Clock, **given: Any) -> dict[str, Any]:
    """One call of vault_rotate, each with a client of its own."""
    options: dict[str, Any] = {
        "kv": "hnai", "path": PATH, "owner": "me", "kind": "scram", "run_id": "", "fence": 0, "reason": "age", "expected": ["data1"], "grace": 0.0,
        "max_age": 0.0, "dead": [], "resume": "", "rollback": "", "acks": {}, "proof": {}, **given,
    }  # fmt: skip
    return rotate_steps.Steps(bao, "t", options, clock, clock.sleep).take()


def test_the_value_in_force_is_read_only_where_there_is_one_alone() -> None:
    bao, clock = Bao(), Clock()
    with pytest.raises(RotationError, match="there is no value"):
        take(bao, clock, state="current")
    KvStore(bao, "t", "hnai").write(PATH, {"username": "telegraf-writer", "password": "old"}, 0)
    found = take(bao, clock, state="current")
    assert found["secrets"]["current"]["password"] == "old" and found["fingerprint"] == fingerprint(PATH, "old")
    assert bao.kept.keys() == {PATH}, "it writes nothing"
    take(bao, clock, state="prepared", run_id="r1")
    with pytest.raises(RotationError, match="run r1 is open, at PREPARED"):
        take(bao, clock, state="current")


@pytest.mark.parametrize("grace", [0.0, 30.0])
def test_call_by_call_as_the_playbook_makes_them(grace: float) -> None:
    bao, clock = Bao(), Clock()
    KvStore(bao, "t", "hnai").write(PATH, {"username": "telegraf-writer", "password": "old"}, 0)
    ahead = take(bao, clock, state="planned", max_age=9e9)
    assert ahead["age_s"] == 0.0 and "s from now: a clock was wrong, its age is not known" in ahead["plan"][0]
    bao.about["created_time"] = "1970-01-01T00:00:00.1Z"
    assert "not due" in take(bao, clock, state="planned", max_age=9e9)["plan"][0]
    assert bao.kept.keys() == {PATH}, "a plan writes nothing"
    step = take(bao, clock, state="prepared", run_id="r1", grace=grace)
    assert not step["resumed"] and set(step["secrets"]) == {"old", "new"}
    held = {"run_id": "r1", "fence": step["rotation"]["fence"]}
    with pytest.raises(RotationError, match="not proven"):
        take(bao, clock, state="published", **held)
    take(bao, clock, state="published", proof=PROOF, **held)
    with pytest.raises(Lost):
        take(bao, clock, state="published", proof=PROOF, **held)
    again = take(bao, clock, state="prepared", owner="next", dead=["me"])
    assert again["resumed"] and again["secrets"] == step["secrets"]
    held = {"run_id": "r1", "fence": again["rotation"]["fence"], "owner": "next"}
    acks = {"data1": fingerprint(PATH, step["secrets"]["new"]["password"])}
    before = clock.now
    decided = take(bao, clock, state="committed", acks=acks, **held)["rotation"]
    assert decided["state"] == "COMMITTED" and clock.now - before == grace
    done = take(bao, clock, state="closed", proof=DEAD, run_id="r1", fence=decided["fence"], owner="next")["rotation"]
    assert not done["open"] and done["last"]["version"] == 2
    assert step["secrets"]["new"]["password"] not in json.dumps([step["rotation"], decided, done])


def test_a_long_grace_time_ends_the_run_and_the_next_one_goes_on() -> None:
    bao, clock = Bao(), Clock()
    KvStore(bao, "t", "hnai").write(PATH, {"username": "telegraf-writer", "password": "old"}, 0)
    step = take(bao, clock, state="prepared", run_id="r1", grace=1000.0)
    take(bao, clock, state="published", proof=PROOF, run_id="r1", fence=step["rotation"]["fence"])
    fence = take(bao, clock, state="prepared")["rotation"]["fence"]
    acks = {"data1": fingerprint(PATH, step["secrets"]["new"]["password"])}
    with pytest.raises(RotationError, match="1000 s of the grace time are left"):
        take(bao, clock, state="committed", acks=acks, run_id="r1", fence=fence)
    clock.now += 900
    fence = take(bao, clock, state="prepared")["rotation"]["fence"]
    assert take(bao, clock, state="committed", run_id="r1", fence=fence)["rotation"]["state"] == "COMMITTED"


def test_back_call_by_call() -> None:
    bao, clock = Bao(), Clock()
    KvStore(bao, "t", "hnai").write(PATH, {"username": "telegraf-writer", "password": "old"}, 0)
    step = take(bao, clock, state="prepared", run_id="r1")
    take(bao, clock, state="published", proof=PROOF, run_id="r1", fence=step["rotation"]["fence"])
    back = take(bao, clock, state="prepared", rollback="r1")["rotation"]
    assert back["direction"] == "back"
    restored = take(bao, clock, state="restored", run_id="r1", fence=back["fence"])
    assert restored["exposed"]
    assert bao.kept[PATH][-1]["password"] == "old"
    held = {"run_id": "r1", "fence": restored["rotation"]["fence"]}
    with pytest.raises(RotationError, match="may still use"):
        take(bao, clock, state="given_back", **held)
    given = take(bao, clock, state="given_back", acks={"data1": fingerprint(PATH, "old")}, **held)["rotation"]
    held["fence"] = given["fence"]
    done = take(bao, clock, state="rolled_back", proof={"old_works": True, "new_refused": True}, **held)["rotation"]
    assert done["last"]["outcome"] == "rolled back" and not done["open"]


def test_a_run_that_had_made_nothing_goes_back_without_the_target() -> None:
    """Killed between its claim and PREPARED: there are no values that a step at the target could take."""
    tasks = yaml.safe_load((ROOT / "playbooks/parts/rotate/commit.yml").read_text(encoding="utf-8"))[0]["block"]
    tasks += [inner for task in tasks for inner in task.get("block", [])]
    at_target = [task for task in tasks if "old" in task.get("hnai.platform.rotation_target", {})]
    assert len(at_target) == 3
    assert all("__rotate_begun" in f"{task.get('when')} {task.get('loop')}" for task in at_target)
    bao, clock = Bao(), Clock()
    KvStore(bao, "t", "hnai").write(PATH, {"username": "telegraf-writer", "password": "old"}, 0)
    run = Rotation(KvStore(bao, "t", "hnai"), PATH, "me", clock)
    run._move(run.look(), run_id="r1", kind="scram", started_at=clock())
    step = take(bao, clock, state="prepared", rollback="r1")
    assert (step["rotation"]["state"], step["secrets"]) == ("IDLE", {"old": {}, "new": {}})
    held = {"run_id": "r1", "fence": take(bao, clock, state="restored", run_id="r1", fence=step["rotation"]["fence"])["rotation"]["fence"]}
    take(bao, clock, state="given_back", **held)
    assert take(bao, clock, state="rolled_back", **held)["rotation"]["last"]["outcome"] == "rolled back"


# -- around it --------------------------------------------------------------------------------------------------------


def test_who_has_ended() -> None:
    me = f"{action._machine()}/{os.getpid()}.{action._started(os.getpid())}"
    assert not action.ended(me)
    assert action.ended(me + "1"), "another process with the same number"
    assert action.ended(f"{action._machine()}/999999999.5")
    assert not action.ended("another-controller/999999999.5")
    assert not action.ended("")


def test_a_container_with_the_hosts_name_is_another_controller(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of its processes nothing is known here: their numbers are others'."""
    there = f"{action._machine()}/999999999.5"
    monkeypatch.setattr(action.os, "readlink", lambda _path: "pid:[4026532999]")
    assert not action.ended(there)


def test_a_pair_of_identities_and_a_default() -> None:
    item = {"path": "t/m", "field": "password", "as": "bridge", "name_field": "username"}
    assert credentials.select([item], {"t/m": {"username": "bridge.b", "password": "p"}}) == {"bridge.b": "p"}
    assert credentials.select([item], {"t/m": {"username": "bridge", "password": "p"}}) == {"bridge": "p"}
    with pytest.raises(HostError, match="is for 'root'"):
        credentials.select([item], {"t/m": {"username": "root", "password": "p"}})
    plain = {"path": "t/m", "field": "mechanism", "as": "m", "default": "SCRAM-SHA-512"}
    assert credentials.select([plain], {"t/m": {"password": "p"}}) == {"m": "SCRAM-SHA-512"}
    with pytest.raises(HostError, match="no field 'mechanism'"):
        credentials.select([plain], {})


def test_a_credential_lies_in_the_slot_that_the_secret_names() -> None:
    item = {"path": "victoriametrics/dashboard", "field": "password", "as": "dashboard", "name_field": "slot"}
    assert credentials.select([item], {item["path"]: {"username": "dashboard", "password": "p"}}) == {"dashboard": "p"}
    assert credentials.select([item], {item["path"]: {"username": "dashboard", "slot": "dashboard.b", "password": "p"}}) == {"dashboard.b": "p"}


def test_the_policy_reaches_no_erasure_by_name() -> None:
    text = policies.rotation("hnai")
    assert "delete" not in text and 'path "hnai/destroy/+/+/_next"' in text


def entry(path: str, role: str, **more: Any) -> str:
    document: dict[str, Any] = {
        "time": "2026-11-25T20:16:31.79Z", "type": "response", "auth": {"display_name": "hnai", "metadata": {"role_name": role}},
        "request": {"operation": "read", "path": path}, "response": {"data": {"data": {}}},
    }  # fmt: skip
    return json.dumps({**document, **more}, separators=(",", ":"))


def test_readers_out_of_the_audit_log() -> None:
    lines = [
        "torn", entry("hnai/data/a/b", "hnai-telegraf"), entry("hnai/data/a/b", "hnai-evil", error="denied"),
        entry("hnai/data/a/b", "", auth={"display_name": "root"}), entry("hnai/data/a/c", "hnai-x", type="request"),
        entry("hnai/data/a/b", "hnai-wraps", response={"wrap_info": {"ttl": 60}}), entry("hnai/data/a/b", "hnai-absent", response={"mount_type": "kv"}),
    ]  # fmt: skip
    found, begin, end = inventory.reads([lines], "hnai")
    assert sorted(found) == ["a/b"] and sorted(found["a/b"]) == ["hnai-telegraf", "hnai-wraps", "root"]
    assert inventory.reads([[entry("hnai/data/a/b", "", auth={})]], "hnai")[0]["a/b"].keys() == {"(no identity)"}
    assert begin == end == found["a/b"]["root"]


@pytest.mark.parametrize(("called", "reader"), [
    ("hnai", "hnai-telegraf"), ("token", "token hnai-telegraf"), ("token-hnai", "token-hnai hnai-telegraf"), ("approle", "approle hnai-telegraf"),
])  # fmt: skip
def test_a_reader_is_no_component_because_his_token_says_so(called: str, reader: str) -> None:
    """As OpenBao 2.7.2 writes of a token made with metadata, and of an AppRole of the same name on another mount."""
    claimed = entry("hnai/data/a/b", "", auth={"display_name": called, "metadata": {"role_name": "hnai-telegraf"}})
    assert list(inventory.reads([[claimed]], "hnai")[0]["a/b"]) == [reader]


def test_a_read_that_one_device_missed_is_in_the_other_one() -> None:
    first = [entry("hnai/data/a/b", "hnai-telegraf"), '{"time":"2026-11-']
    second = ["\0\0" + entry("hnai/data/a/b", "hnai-evil", time="2026-11-25T20:16:35.1Z"),
              entry("hnai/data/a/b", "hnai-late", time="2026-11-25T20:16:35.2Z")[:-9]]
    found, begin, end = inventory.reads([first, second], "hnai")
    assert sorted(found["a/b"]) == ["hnai-evil", "hnai-telegraf"] and end == begin + 4


def test_a_log_that_was_just_renamed_is_read_on(tmp_path: Path) -> None:
    """Else a stranger is forgotten with the first entry of the new file."""
    log = tmp_path / "audit.log"
    with pytest.raises(FileNotFoundError):
        secret_inventory.tail(str(log), 100)
    (tmp_path / "audit.log.2").write_text("a\nb\n")
    (tmp_path / "audit.log.1").write_text("c\nd\n")
    assert secret_inventory.tail(str(log), 100) == ["a", "b", "c", "d"], "the new one is not there yet"
    log.write_text("e\n")
    assert secret_inventory.tail(str(log), 100) == ["a", "b", "c", "d", "e"]
    assert secret_inventory.tail(str(log), 5) == ["", "d", "e"], "a log may begin torn"
    assert secret_inventory.tail(str(log), 2) == ["e"]
    (tmp_path / "audit.log.1").write_text("c\nto")
    assert secret_inventory.tail(str(log), 100)[-2:] == ["to", "e"], "torn where it was renamed"


def test_a_device_that_is_gone_leaves_the_other_ones_readers(tmp_path: Path) -> None:
    gone, left = str(tmp_path / "gone.log"), tmp_path / "left.log"
    left.write_text("a\n")
    assert secret_inventory.tails([gone, str(left)], 100) == secret_inventory.tails([str(left), gone], 100) == [["a"]]
    with pytest.raises(FileNotFoundError, match="gone"):
        secret_inventory.tails([gone, gone], 100)


def item(path: str = PATH, **more: Any) -> dict[str, Any]:
    return {"path": path, "kind": "scram", "secret_kind": "password", "readers": ["telegraf", "kafka"], "max_age_s": 86400, "why": "", **more}


def verdicts(store: KvStore, items: list[dict[str, Any]], seen: Any, now: float) -> dict[tuple[str, str], str]:
    report = Report(component="openbao", deadline_s=30)

    def audit() -> Any:
        if isinstance(seen, OSError):
            raise seen
        return seen, 1.0, now + 1.0

    inventory.judge(report, store, items, audit, lambda: now)
    return {(check["id"], check.get("subject", "")): check["status"] for check in report.result(collect=True)["checks"]}


def test_each_cause_turns_its_own_check(store: KvStore) -> None:
    born = 1795564800.0
    good = {PATH: {"hnai-telegraf": 1.0, "hnai-rotation": 2.0}}
    assert set(verdicts(store, [item()], good, born + 10).values()) == {"pass"}
    found = verdicts(store, [item()], good, born + 2 * 86400)
    assert (found["SI1", PATH], found["SI2", PATH], found["SI3", PATH]) == ("fail", "pass", "pass")
    assert verdicts(store, [item()], {PATH: {"hnai-evil": born - 1}}, born + 10)["SI3", PATH] == "pass", "it knows what was valid before"
    found = verdicts(store, [item()], {PATH: {"hnai-evil": born + 1}}, born + 10)
    assert (found["SI1", PATH], found["SI2", PATH], found["SI3", PATH]) == ("pass", "pass", "fail")
    assert verdicts(store, [item()], OSError("no log"), born + 10)["SI3", PATH] == "inconclusive"
    assert verdicts(store, [item()], good, born - 59)["SI1", PATH] == "pass"
    assert verdicts(store, [item()], good, born - 3600)["SI1", PATH] == "inconclusive", "written in a time to come"
    assert verdicts(store, [item("telegraf/none")], good, born)["SI1", "telegraf/none"] == "fail"
    clock = Clock()
    clock.now = born
    begin(store, clock=clock)
    assert verdicts(store, [item()], good, born + 10)["SI2", PATH] == "pass", "a run is under way"
    found = verdicts(store, [item()], good, born + 3600)
    assert (found["SI1", PATH], found["SI2", PATH], found["SI3", PATH]) == ("pass", "fail", "pass")
    assert verdicts(store, [item()], good, born - 86400)["SI2", PATH] == "fail", "no clock could give that lease now"
    for at, status in ((born - 1, "pass"), (born + 1, "fail")):
        beside = {PATH + "/_next": {"hnai-evil": at, "hnai-rotation": born + 1}}
        assert verdicts(store, [item()], beside, born + 10)["SI3", PATH] == status, "it knows what the run has made"


def test_what_no_contract_names_is_listed_by_path_version_and_age_and_never_read(store: KvStore) -> None:
    begin(store)
    for path in ("pki/root/_rotation", "approle/deploy/_rotation", "openbao/keyring"):
        store.write(path, {}, 0)
    born = 1795564800.1
    named = [item(), *inventory.identities()]
    assert inventory.unnamed(store, named, born) == []
    for path in ("telegraf/left", "telegraf/left/_rotation", "flat", PATH + "/below"):
        store.write(path, {"password": "p"}, 0)
    store.write("telegraf/left", {"password": "q"}, 1)
    store._api.calls.clear()  # type: ignore[attr-defined]
    found = inventory.unnamed(store, named, born + 60)
    assert [(one["path"], one["version"], one["age_s"]) for one in found] == [
        ("flat", 1, 60), ("telegraf/kafka_writer/below", 1, 60), ("telegraf/left", 2, 60), ("telegraf/left/_rotation", 1, 60),
    ]  # fmt: skip
    assert not [path for _method, path in store._api.calls if "/data/" in path]  # type: ignore[attr-defined]
    report = Report(component="openbao", deadline_s=30)
    inventory.judge(report, store, named, lambda: ({}, 1.0, born + 60), lambda: born + 60, declared=["telegraf/left"])
    (check,) = [check for check in report.result(collect=True)["checks"] if check["id"] == "SI4"]
    assert (check["status"], check["observed"]) == ("fail", ["flat", PATH + "/below"])
    assert [one["path"] for one in check["evidence"]["of components that stand nowhere"]] == ["telegraf/left", "telegraf/left/_rotation"]


def test_the_inventory_may_read_no_secret() -> None:
    text = policies.component(policies.SELF, [], False, "hnai", "pki_root", "pki_int")
    assert [line.split('"')[1] for line in text.splitlines() if "hnai/data/" in line] == ["hnai/data/openbao/*", "hnai/data/+/+/_rotation"]
    assert not any(f'"auth/approle/role/{name}/secret-id-accessor/destroy"' in text for name in policies.IDENTITIES.values())


@pytest.mark.parametrize(("end", "says"), [(0.0, "it has no entry"), (1795564700.0, "its newest entry is of 2026-11-24T23:58:20Z, before this visit")])
def test_a_log_in_which_this_visit_does_not_stand_proves_nothing(store: KvStore, end: float, says: str) -> None:
    """Truncated, or OpenBao writes elsewhere: that no stranger stands there says nothing."""
    report = Report(component="openbao", deadline_s=30)
    inventory.judge(report, store, [item()], lambda: ({}, end, end), lambda: 1795564810.0)
    (found,) = [check for check in report.result(collect=True)["checks"] if check["id"] == "SI3"]
    assert found["status"] == "inconclusive" and says in str(found)


@pytest.mark.parametrize(
    ("about", "status"),
    [({"deletion_time": "2026-11-25T00:00:01.1Z"}, "fail"), ({"destroyed": True}, "fail"), ({"deletion_time": "2126-11-25T00:00:01Z"}, "pass"),
     # Today it is there, and before its contract has it rotated it is gone.
     ({"deletion_time": "2026-11-25T01:00:01Z"}, "fail")],
)
def test_a_version_that_was_deleted_is_no_secret(about: dict[str, Any], status: str) -> None:
    bao = Bao()
    bao.about = about
    store = KvStore(bao, "t", "hnai", now=lambda: 1795564810.0)
    store.write(PATH, {"username": "telegraf-writer", "password": "old"}, 0)
    assert verdicts(store, [item()], {}, 1795564810.0)["SI1", PATH] == status


SITE: dict[str, Any] = {
    "groups": {"telegraf": ["data1"], "telegraf_writer": ["data1"], "kafka": ["kafka2", "kafka1"], "mosquitto": []},
    "contracts": {
        "telegraf": {
            "name": "telegraf",
            "connects": [{"to": "kafka", "listener": "l4", "principal": "telegraf-writer"}],
            "service": {"units": [{"name": "w.service", "group": "telegraf_writer"}, {"name": "s.service", "group": "telegraf_shipper"}]},
            "secrets": [
                {"path": PATH, "kind": "password", "username": "telegraf-writer", "max_age": "90d", "rotate": "scram", "readers": ["kafka"],
                 "group": "telegraf_writer"},
                {"path": "telegraf/x", "kind": "password", "group": "telegraf_shipper"},
                {"path": "telegraf/y", "kind": "password"},
            ],
        },
        "kafka": {"name": "kafka", "listens": [{"name": "l3", "port": 9094}, {"name": "l4", "port": 9095}], "service": {"units": []}},
    },
}  # fmt: skip


def test_the_sites_list() -> None:
    first, second = rotations(SITE)
    assert (first["path"], first["kind"], first["targets"], first["ports"]) == (PATH, "scram", ["kafka1", "kafka2"], [9095])
    assert (first["consumers"], first["units"], first["credential"]) == (["data1"], ["w.service"], "kafka_writer")
    assert (first["readers"], first["max_age_s"]) == (["kafka", "telegraf"], 90 * 86400)
    assert (second["path"], second["kind"]) == ("telegraf/y", "") and "no way to rotate" in second["why"]
    broken = json.loads(json.dumps(SITE))
    broken["contracts"]["telegraf"]["connects"] = []
    with pytest.raises(AnsibleFilterError, match="no connects"):
        rotations(broken)


def stores() -> dict[str, Any]:
    """A site with a store behind vmauth, its writer and its reader."""
    return {
        "groups": {"telegraf_writer": ["data1"], "telegraf": ["data1"], "victoriametrics": ["data1"], "canary": ["stream1"]},
        "contracts": {
            "victoriametrics": {
                "name": "victoriametrics",
                "listens": [
                    {"name": "https", "port": 8428, "bind": "any", "authentication": "password"},
                    {"name": "backend", "port": 8429, "bind": "loopback", "authentication": "password"},
                    {"name": "auth_internal", "port": 8430, "bind": "loopback", "authentication": "none"},
                ],
                "service": {"units": [{"name": "hnai-victoriametrics-auth.service"}]},
                "secrets": [
                    {"path": "victoriametrics/dashboard", "kind": "password", "username": "dashboard", "rotate": "vmauth", "readers": ["canary"]},
                    {"path": "victoriametrics/reader", "kind": "password", "username": "reader", "rotate": "vmauth"},
                    {"path": "victoriametrics/writer", "kind": "password", "username": "telegraf-writer", "rotate": "vmauth", "readers": ["telegraf"]},
                ],
            },
            "telegraf": {
                "name": "telegraf",
                "connects": [{"to": "victoriametrics", "listener": "https", "group": "telegraf_writer", "principal": "telegraf-writer",
                              "credential": "store_writer"}],
                "service": {"units": [{"name": "w.service", "group": "telegraf_writer"}, {"name": "s.service", "group": "telegraf_shipper"}]},
            },
            "canary": {
                "name": "canary",
                "connects": [{"to": "victoriametrics", "listener": "https", "principal": "dashboard"}],
                "service": {"units": [{"name": "c.service"}]},
            },
        },
    }  # fmt: skip


def test_a_secret_of_a_store_goes_to_those_who_log_in_with_it() -> None:
    dashboard, reader, writer = rotations(stores())
    shown = ("kind", "component", "server", "unit", "internal_port", "targets", "ports", "login_ports")
    for one in (dashboard, reader, writer):
        assert [one[key] for key in shown] == [
            "vmauth", "victoriametrics", "victoriametrics", "hnai-victoriametrics-auth.service", 8430, ["data1"], [8428], [8428]
        ]  # fmt: skip
    assert [dashboard[key] for key in ("consumer", "consumers", "credential", "units")] == ["canary", ["stream1"], "dashboard", ["c.service"]]
    assert [writer[key] for key in ("consumer", "consumers", "credential", "units")] == ["telegraf", ["data1"], "store_writer", ["w.service"]]
    assert (reader["consumers"], reader["units"]) == ([], []), "nobody but the server itself has it"


@pytest.mark.parametrize(("kind", "reason", "cuts"), [
    ("vmauth", "compromise", True), ("scram", "compromise", True), ("scram_pair", "compromise", True), ("vmauth", "request", False),
    # Each ends its sessions itself.
    ("mosquitto", "compromise", False), ("backend", "compromise", False),
])  # fmt: skip
def test_after_a_compromise_connections_are_cut_where_the_server_ends_none(kind: str, reason: str, cuts: bool) -> None:
    (block,) = yaml.safe_load((ROOT / "playbooks/parts/rotate/commit.yml").read_text(encoding="utf-8"))
    (inner,) = [task["block"] for task in block["block"] if "block" in task]
    (task,) = [task for task in inner if task["name"].startswith("Cut ")]
    given = {"rotate_item": {"kind": kind, "targets": ["h"]}, "__rotate_forward": True, "__rotate_decided": {"rotation": {"reason": reason}}}
    loop = NativeEnvironment(autoescape=False).from_string(task["loop"])
    assert loop.render(given) == (["h"] if cuts else [])
    assert loop.render({**given, "__rotate_decided": {"changed": False, "skipped": True}}) == [], "a run that waits decides nothing"


#: Of the names that the play calls; what was asked is written down.
VAULT_ROTATE = """
from ansible.plugins.action import ActionBase
class ActionModule(ActionBase):
    def run(self, tmp=None, task_vars=None):
        given = self._task.args
        with open(%(asked)r, "a") as stream:
            stream.write("{state}:{path}\\n".format(**given))
        if given["state"] == "committed" and given["path"] == %(missing)r:
            return {"failed": True, "msg": given["path"] + ": h still without the new value"}
        rotation = {"state": "PUBLISHED", "direction": "forward", "run_id": "r", "fence": 1, "fp_new": "n", "fp_old": "o", "reason": "age",
                    "last": {"outcome": "rotated", "version": 2, "run_id": "r", "proof": {}}}
        return {"rotation": rotation, "secrets": {"old": {"password": "o"}, "new": {"password": "n"}}}
"""
ROTATION_TARGET = """
from ansible.plugins.action import ActionBase
class ActionModule(ActionBase):
    def run(self, tmp=None, task_vars=None):
        return {"proof": {"old_refused": True, "new_works": True}, "refusals": []}
"""
PORTS = """
from ansible.plugins.lookup import LookupBase
class LookupModule(LookupBase):
    def run(self, terms, variables=None, **named):
        return [{"internal": 1}]
"""


@pytest.mark.parametrize("missing", ["a/x", "b/x", "c/x", ""])
def test_one_secret_that_stops_before_the_commit_keeps_no_other_from_it(tmp_path: Path, missing: str) -> None:
    """The play itself, with modules that are none: of *missing* a consumer's host has not acknowledged."""
    plugins = tmp_path / "ansible_collections/hnai/platform/plugins"
    for folder, name, text in (
        ("action", "vault_rotate", VAULT_ROTATE % {"missing": missing, "asked": str(tmp_path / "asked")}),
        ("action", "rotation_target", ROTATION_TARGET), ("lookup", "ports", PORTS),
        ("modules", "vault_rotate", ""), ("modules", "rotation_target", ""),
    ):  # fmt: skip
        (plugins / folder).mkdir(parents=True, exist_ok=True)
        (plugins / folder / (name + ".py")).write_text(text, encoding="utf-8")
    plays = yaml.safe_load((ROOT / "playbooks/rotate.yml").read_text(encoding="utf-8"))
    (play,) = [one for one in plays if one["name"] == "Rotation, commit"]
    play["tasks"][0]["ansible.builtin.include_tasks"] = str(ROOT / "playbooks/parts/rotate/commit.yml")
    item = {"kind": "backend", "expected": ["h"], "consumers": [], "outside": [], "targets": ["localhost"], "ports": [1], "login_ports": [1], "server": "s",
            "credential": "c", "unit": "u", "internal_port": 1}  # fmt: skip
    chosen = [{**item, "path": path} for path in ("a/x", "b/x", "c/x")]
    (tmp_path / "play.yml").write_text(json.dumps([play | {"hosts": "localhost", "vars": {"__rotate_chosen": chosen, "hnai_openbao_deploy": {}}}]), "utf-8")
    environment = {**{key: value for key, value in os.environ.items() if key != "PYTHONPATH"}, "ANSIBLE_COLLECTIONS_PATH": str(tmp_path)}
    argv = [Path(sys.executable).with_name("ansible-playbook"), "-i", "localhost,", "-c", "local", tmp_path / "play.yml"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=120, cwd=tmp_path, env=environment)
    asked = (tmp_path / "asked").read_text(encoding="utf-8").split()
    assert [one for one in asked if one.startswith("closed:")] == [f"closed:{one['path']}" for one in chosen if one["path"] != missing], done.stdout
    assert (done.returncode, f"{missing}: h still without the new value" in done.stdout) == ((2, True) if missing else (0, False)), done.stdout


def test_a_store_on_two_hosts_is_not_rotated_by_halves() -> None:
    site = stores()
    site["groups"]["victoriametrics"] = ["data1", "data2"]
    assert [(one["kind"], "data1, data2" in one["why"]) for one in rotations(site)] == [("", True)] * 3
    site = stores()
    site["contracts"]["canary"]["connects"][0]["principal"] = "telegraf-writer"
    assert [one["kind"] for one in rotations(site)] == ["vmauth", "vmauth", ""]
    site["contracts"]["victoriametrics"]["listens"].pop()
    with pytest.raises(AnsibleFilterError, match="auth_internal"):
        rotations(site)


def test_who_serves_a_certificate_and_who_sees_it() -> None:
    site = stores()
    store = site["contracts"]["victoriametrics"]
    for item in store["listens"]:
        item["tls"] = item["name"] != "backend"
    store["certificate"] = {"server": True, "client": False}
    entry = {"path": "tls/victoriametrics", "component": "victoriametrics", "hosts": ["data1"], "ports": [8428], "loopback_ports": [8430]}
    assert leaves(site) == [{**entry, "client": {"host": "stream1", "component": "canary", "port": 8428}}], "another host's rather than its own"
    site["groups"]["canary"] = []
    assert leaves(site)[0]["client"]["host"] == "data1"
    store["listens"][0]["authentication"] = "client certificate"
    assert leaves(site) == [{**entry, "client": {}}], "asked on its own host alone"
    store["listens"][0]["authentication"] = "mutual TLS"
    assert leaves(site)[0]["ports"] == [], "the product's own certificate"
    store["certificate"] = {"server": False, "client": True}
    assert leaves(site) == []


def test_of_a_pair_the_other_user_is_next_under_the_same_mechanism() -> None:
    first = {"username": "telegraf-shipper", "password": "old"}
    second = next_user(first, lambda: "fresh")
    assert second == {"username": "telegraf-shipper.b", "password": "fresh"}
    assert next_user({**second, "mechanism": "SCRAM-SHA-256"}, lambda: "x") == {"username": "telegraf-shipper", "password": "x", "mechanism": "SCRAM-SHA-256"}
    adapter = ScramAdapter(Cluster(), ["kafka1:9094"], lambda *_: True)
    assert not adapter.shares_place(first, second), "both are valid at the same time"
    assert adapter.shares_place(first, {**first, "password": "fresh"})


def test_a_twin_without_the_same_rights_is_found_before_anything_is_published() -> None:
    first = {"username": "flink", "password": "old"}
    second = next_user(first, lambda: "fresh")
    cluster = Cluster()
    adapter = ScramAdapter(cluster, ["kafka1:9094"], lambda *_: True)
    rights = [Acl("User:flink", "topic", "ot.raw", "read"), Acl("User:flink", "group", "g", "read")]
    twins = [replace(one, principal="User:flink.b") for one in rights]
    for given, same in (([], False), (rights, False), (rights + twins[:1], False), (rights + twins, True)):
        cluster.rights = given
        assert adapter.same_rights(first, second) is same


def test_the_password_in_a_jaas_entry_is_what_the_consumer_lives_on() -> None:
    tasks = (Path(__file__).resolve().parents[2] / "roles/flink/tasks/main.yml").read_text(encoding="utf-8")
    wrap = next(task for task in yaml.safe_load(tasks) if task["name"] == "Get the identity")["vars"]["component_credentials"][0]["wrap"]
    item = {"path": "flink/kafka", "field": "password", "as": "jaas", "wrap": wrap}
    text = credentials.select([item], {"flink/kafka": {"username": "flink.b", "password": "p-1_x"}})["jaas"]
    assert text is not None
    assert 'username="flink.b"' in text
    assert (password_of(text), password_of("plain")) == ("p-1_x", "plain")


# -- a store that keeps one password ----------------------------------------------------------------------------------


class OnePassword:
    """A store behind vmauth: away for a while after a restart, and it knows what was stored before that."""

    def __init__(self, clock: Clock, away_s: float = 3.0) -> None:
        self.clock, self.away_s = clock, away_s
        self.stored = self.known = "old"
        self.back_at = 0.0
        self.restarts = 0

    def ask(self, _username: str, password: str) -> int:
        if self.clock.now < self.back_at:
            raise ConnectionRefusedError("nobody listens")
        return 400 if password == self.known else 401

    def store(self, password: str) -> None:
        self.stored = password

    def restart(self) -> None:
        self.known, self.restarts, self.back_at = self.stored, self.restarts + 1, self.clock.now + self.away_s

    def target(self, patience_s: float = 120.0) -> tuple[Target, BackendAdapter]:
        adapter = BackendAdapter(self.ask, self.store, self.restart, patience_s, self.clock, self.clock.sleep)
        return Target(adapter, Free(), 10.0, self.clock, self.clock.sleep), adapter


FIRST = {"username": "vmauth", "password": "old"}
SECOND = {"username": "vmauth", "password": "new"}


def test_the_password_of_a_store_is_changed_in_one_restart_and_the_pause_is_said() -> None:
    assert next_backend(FIRST, lambda: "new") == SECOND
    store = OnePassword(Clock())
    target, adapter = store.target()
    found = target.provision(FIRST, SECOND, 1)
    assert found == {"new_works": True, "wrong_refused": True, "old_works": None, "changed": True}
    assert adapter.pause_s == pytest.approx(3.0, abs=0.3)
    assert target.provision(FIRST, SECOND, 2)["changed"] is False
    assert store.restarts == 1, "a step that is taken again restarts nothing"
    assert target.revoke(FIRST, SECOND, 3) == {"old_refused": True, "new_works": True, "no_old_session": True, "sessions": [], "changed": False}
    assert target.withdraw(FIRST, SECOND, 4) == {"new_refused": True, "old_works": True, "changed": False}
    assert (store.restarts, store.known) == (2, "old")


def test_a_store_that_does_not_come_back_is_no_refusal() -> None:
    store = OnePassword(Clock(), 1000.0)
    with pytest.raises(CannotTell, match="nobody listens"):
        store.target(20.0)[0].provision(FIRST, SECOND, 1)
    with pytest.raises(CannotTell, match="503"):
        BackendAdapter(lambda *_: 503, lambda _: None, lambda: None).works(FIRST)
    assert rotate_steps.KINDS["backend"] is next_backend and rotate_steps.WITHOUT_OVERLAP == ("backend",)


def test_the_role_finds_nothing_to_restart_where_the_rotation_did(tmp_path: Path) -> None:
    host = OwnFiles(tmp_path)
    (tmp_path / "etc/hnai/digests").mkdir(parents=True)
    secret, other = tmp_path / "etc/secret", tmp_path / "etc/other"
    for file in (secret, other):
        file.write_text("1", encoding="utf-8")
    desired = tmp_path / "etc/hnai/digests/x.service.restart"
    desired.write_bytes(unit.manifest(host, ["/etc/secret", "/etc/other"]))
    before = desired.read_bytes()
    unit.renew(host, "x.service")
    assert desired.read_bytes() == before
    secret.write_text("2", encoding="utf-8")
    unit.renew(host, "x.service")
    assert desired.read_bytes() == unit.manifest(host, ["/etc/secret", "/etc/other"]) != before
    assert not (tmp_path / "etc/hnai/digests/x.service.reload").exists()


def test_what_was_ended_does_not_come_back_with_a_power_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host, synced, path = OwnFiles(str(tmp_path)), [], tmp_path / "etc/credstore.encrypted/hnai-mosquitto.x"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"old")
    monkeypatch.setattr(rotation_target, "sync_directory", lambda folder: synced.append((folder, path.exists())))
    with contextlib.ExitStack() as stack:
        module = SimpleNamespace(params={"kind": "mosquitto", "ca_file": "ca.pem", "servers": ["h:1"], "unit": "u", "component": "mosquitto"})
        adapter: Any = rotation_target.adapter_for(module, host, stack, Refusals())  # type: ignore[arg-type]
        adapter._remove("x")
        adapter._remove("x")
    assert synced == [(str(path.parent), False)]


# -- who is no host of the site ---------------------------------------------------------------------------------------
LOG = """New client connected from 10.77.2.11:4001 as line1 (p2, c0, k15, u'line1').
New client connected from 10.77.2.11:4002 as line1-sparkplug (p2, c1, k15, u'line1').
New client connected from 10.77.3.11:4003 as hnai-health-7-1 (p2, c1, k60, u'line1').
New client connected from 10.77.3.11:4004 as telegraf-bridge (p2, c0, k30, u'telegraf-bridge').
New client connected from 10.77.2.99:4005 as engineer (p2, c1, k60, u'line1').
Client engineer disconnected.
"""


def test_which_of_its_pair_a_line_lives_on_stands_in_the_brokers_log() -> None:
    lines = LOG.splitlines()
    assert standing(lines, "line1") == {"line1": ("line1", "10.77.2.11:4001"), "line1-sparkplug": ("line1", "10.77.2.11:4002")}
    lines += ["Client line1 closed its connection.", "New client connected from 10.77.2.11:5001 as line1 (p2, c0, k15, u'line1.b')."]
    assert {user for user, _address in standing(lines, "line1").values()} == {"line1", "line1.b"}, "one of its two clients is still on the old one"
    lines.append("New client connected from 10.77.2.11:5002 as line1-sparkplug (p2, c1, k15, u'line1.b').")
    assert {user for user, _address in standing(lines, "line1").values()} == {"line1.b"}


class BrokersHost(OwnFiles):
    """A host with a broker: what its journal says of it, and who is connected by the kernel's word."""

    def __init__(self, root: Path, lines: list[str], peers: list[str]) -> None:
        super().__init__(str(root))
        self.lines, self.peers = lines, peers

    def run(self, argv: list[str], stdin: bytes | None = None, timeout: float = 60.0) -> Completed:
        """systemctl, ss and journalctl."""
        said = {"systemctl": ["abc"], "journalctl": self.lines}.get(argv[0]) or [
            f"ESTAB 0 0 [::ffff:10.77.3.11]:8883 {peer} uid:0 ino:{n} sk:{n} <->" for n, peer in enumerate(self.peers)]  # fmt: skip
        return Completed(0, "\n".join(said).encode(), b"")


ASKED = {"unit": "u", "path": "mosquitto/line1", "servers": ["edge1:8883"], "inside": ["10.77.3.11"]}
PEERS = ["10.77.2.11:4001", "[::ffff:10.77.2.11]:4002", "10.77.3.11:4004"]


@pytest.mark.parametrize(("more", "lives"), [
    ([], "old"), (["New client connected from fd77::2:1 as line1 (p2, c0, k15, u'line1.b')."], ""),
    (["New client connected from fd77::2:%d as %s (p2, c0, k15, u'line1.b')." % one for one in ((1, "line1"), (2, "line1-sparkplug"))], "new"),
    (["Client %s has exceeded timeout, disconnecting." % one for one in ("line1", "line1-sparkplug")], ""),
])
def test_what_the_one_outside_lives_on_is_a_fingerprint(tmp_path: Path, more: list[str], lives: str) -> None:
    old, new = {"username": "line1", "password": "o"}, {"username": "line1.b", "password": "n"}
    peers = [*PEERS, *(f"[fd77::2]:{line.split()[4][-1]}" for line in more if line.startswith("New"))]
    found = rotation_target.outside(BrokersHost(tmp_path, [*LOG.splitlines(), *more], peers), {"old": old, "new": new, **ASKED})
    wanted = {"old": fingerprint("mosquitto/line1", "o"), "new": fingerprint("mosquitto/line1", "n"), "": ""}
    assert found["fingerprint"] == wanted[lives]
    assert found["sessions"]["new"] == sum("line1.b" in line for line in more)


def test_a_journal_that_was_cut_says_nothing_about_older_sessions(tmp_path: Path) -> None:
    """A client of the line that came before and stays on the old password would not be seen, and be locked out."""
    given = {"old": {"username": "line1", "password": "o"}, "new": {"username": "line1.b", "password": "n"}, **ASKED}
    came = ["New client connected from fd77::2:2 as line1 (p2, c0, k15, u'line1.b').", "New connection from fd77::2:1 on port 8883."]
    peers = ["[fd77::2]:1", "[fd77::2]:2", "10.77.3.11:4004"]
    found = rotation_target.outside(BrokersHost(tmp_path, came, peers), given)
    assert found["fingerprint"] == fingerprint("mosquitto/line1", "n"), "the site's own may be older"
    with pytest.raises(CannotTell, match=r"^10\.77\.2\.99:7: here since before the journal of u begins"):
        rotation_target.outside(BrokersHost(tmp_path, came, [*peers, "10.77.2.99:7"]), given)


def test_a_session_whose_end_the_broker_never_told_is_over(tmp_path: Path) -> None:
    given = {"old": {"username": "line1", "password": "o"}, "new": {"username": "line1.b", "password": "n"}, **ASKED}
    lines = [*LOG.splitlines(), "New client connected from fd77::2:2 as line1-later (p2, c0, k15, u'line1.b')."]
    found = rotation_target.outside(BrokersHost(tmp_path, lines, ["[fd77::2]:2"]), given)
    assert (found["fingerprint"], found["sessions"]) == (fingerprint("mosquitto/line1", "n"), {"old": 0, "new": 1})


# -- the lab's own contracts ------------------------------------------------------------------------------------------

ROOT = Path(__file__).resolve().parents[2]


@functools.cache
def lab() -> dict[str, Any]:
    """Groups of the lab's inventory and all contracts: what the site lookup gives, as far as a rotation asks."""
    groups: dict[str, list[str]] = {}

    def walk(name: str, node: Mapping[str, Any] | None) -> set[str]:
        node = node or {}
        hosts = set(node.get("hosts") or {})
        for child, below in (node.get("children") or {}).items():
            hosts |= walk(child, below)
        groups[name] = sorted(hosts)
        return hosts

    walk("all", yaml.safe_load((ROOT / "inventories/lab/hosts.yml").read_text(encoding="utf-8"))["all"])
    contracts = [yaml.safe_load(file.read_text(encoding="utf-8")) for file in sorted(ROOT.glob("roles/*/meta/component.yml"))]
    return {"groups": groups, "contracts": {contract["name"]: contract for contract in contracts}}


@pytest.fixture(scope="module")
def found() -> dict[str, dict[str, Any]]:
    return {one["path"]: one for one in rotations(lab())}


def test_the_collectors_identity_at_the_broker_is_taken_up_by_the_unit_that_runs_it(found: dict[str, dict[str, Any]]) -> None:
    one = found["ot_collector/mqtt"]
    assert (one["kind"], one["targets"], one["ports"], one["consumers"]) == ("mosquitto", ["edge1"], [8883], ["edge1"])
    assert (one["credential"], one["units"]) == ("mqtt_password", ["hnai-telegraf-shipper.service"])
    assert one["roles"] == ["ot_collector", "telegraf"], "what is stored first, then who restarts with it"
    assert found["telegraf/mqtt_shipper"]["roles"] == ["telegraf"]


def test_who_keeps_a_mechanism_takes_turns_with_a_twin(found: dict[str, dict[str, Any]]) -> None:
    shipper, flink = found["telegraf/kafka_shipper"], found["flink/kafka"]
    assert (shipper["kind"], shipper["ports"], shipper["units"]) == ("scram_pair", [9094], ["hnai-telegraf-shipper.service"])
    assert (flink["kind"], flink["ports"], flink["credential"]) == ("scram_pair", [9095], "jaas")
    assert flink["units"] == ["hnai-flink-jobmanager.service", "hnai-flink-taskmanager.service"], "those that load the JAAS entry"
    assert flink["roles"] == ["flink"]


def test_the_stores_own_password_and_the_brokers_own_accounts(found: dict[str, dict[str, Any]]) -> None:
    for path, port in (("victoriametrics/backend", 8429), ("questdb/backend", 9001)):
        one, name = found[path], path.split("/")[0]
        assert (one["kind"], one["server"], one["unit"], one["ports"]) == ("backend", name, f"hnai-{name}.service", [port])
        assert (one["targets"], one["consumers"], one["roles"]) == (["data1"], ["data1"], [name])
        assert one["units"] == [f"hnai-{name}.service", f"hnai-{name}-auth.service"], "both were started since"
    health, line = found["mosquitto/health"], found["mosquitto/line1"]
    assert (health["kind"], health["consumers"], health["outside"], health["expected"]) == ("mosquitto", [], [], [])
    assert (line["kind"], line["consumers"], line["outside"], line["expected"], line["ports"]) == ("mosquitto", [], ["line1"], ["line1"], [8883])
    assert list(found)[-1] == "mosquitto/line1", "who has to be waited for comes last"


def test_nothing_of_the_lab_is_without_a_way_to_rotate(found: dict[str, dict[str, Any]]) -> None:
    """The plan of a run: a secret without a way says why, and the lab has none."""
    contracts = lab()["contracts"].values()
    units = {unit["name"] for contract in contracts for unit in contract["service"]["units"]}
    assert {path: one["why"] for path, one in found.items() if not one["kind"]} == {}
    assert set(found) == {secret["path"] for contract in contracts for secret in contract["secrets"]}
    for one in found.values():
        assert one["kind"] in rotate_steps.KINDS and one["max_age_s"] == 90 * 86400, one["path"]
        assert set(one["units"]) <= units and (one["units"] or not one["consumers"]), one["path"]


def test_a_store_on_two_hosts_and_a_broker_on_two_are_left_out_with_the_reason() -> None:
    site = copy.deepcopy(lab())
    site["groups"].update(victoriametrics=["data1", "data2"], mosquitto=["edge1", "edge2"])
    found = {one["path"]: one for one in rotations(site)}
    assert (found["victoriametrics/backend"]["kind"], "data1, data2" in found["victoriametrics/backend"]["why"]) == ("", True)
    assert (found["mosquitto/line1"]["kind"], "edge1, edge2" in found["mosquitto/line1"]["why"]) == ("", True)
