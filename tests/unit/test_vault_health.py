# SPDX-License-Identifier: Apache-2.0
"""Each check of OpenBao's health goes red by its own cause and by no other; could-not-check is never a pass."""
from __future__ import annotations

import dataclasses
import functools
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ansible_collections.hnai.platform.plugins.module_utils.openbao import health, loosened, policies, strangers
from ansible_collections.hnai.platform.plugins.module_utils.openbao.client import BaoError, Forbidden, NotFound, Unreachable
from ansible_collections.hnai.platform.plugins.module_utils.verdict import DeadlineExceeded, Report

DAY = 86400.0
NOW = 1_800_000_000.0


@functools.cache
def authority(days: int, issued: bool = False) -> str:
    """A certificate of that many days from now on: a root, or *issued* by one."""
    made = ["openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout"]
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([*made, "key", "-x509", "-out", "cert", "-days", str(days), "-subj", "/CN=x"], cwd=folder, check=True, capture_output=True, timeout=60)
        if issued:
            subprocess.run([*made, "own.key", "-out", "csr", "-subj", "/CN=y"], cwd=folder, check=True, capture_output=True, timeout=60)
            subprocess.run(["openssl", "x509", "-req", "-in", "csr", "-CA", "cert", "-CAkey", "key", "-CAcreateserial", "-days", str(days), "-out", "cert2"],
                           cwd=folder, check=True, capture_output=True, timeout=60)
        return (Path(folder) / ("cert2" if issued else "cert")).read_text()


#: NOW is a fixed day; this authority outlives it.
AUTHORITY = authority(int((NOW - time.time()) / DAY) + 400)


OWN = strangers.Own("hnai", "pki_root", "pki_int", "", ["kafka", "openbao"], ["kafka", "openbao"])


class Bao:
    """Answers of a healthy server; a test changes one of them. A value that is an exception is raised."""

    def __init__(self, directory: Path) -> None:
        self.files = {"a": directory / "a.log", "b": directory / "b.log"}
        for path in self.files.values():
            path.write_text('{"type":"response","request":{"id":"req-1"}}\n')
        self.answers: dict[str, Any] = {
            "sys/seal-status": {"initialized": True, "sealed": False, "version": "2.7.2", "t": 3, "n": 5},
            "sys/leader": {"leader_address": "https://sec1:8200"},
            "auth/approle/login": {"auth": {"client_token": "d"}},
            "auth/hnai/role/hnai-openbao/role-id": {"data": {"role_id": "r"}},
            "auth/hnai/role/hnai-openbao/secret-id": {"wrap_info": {"token": "w"}},
            "sys/wrapping/unwrap": {"data": {"secret_id": "s"}},
            "auth/hnai/login": {"auth": {"client_token": "c"}},
            "auth/token/revoke-self": {},
            "sys/audit": {"request_id": "req-1", "data": {
                name + "/": {"type": "file", "options": {"file_path": str(path)}} for name, path in self.files.items()}},
            "sys/storage/raft/configuration": {"data": {"config": {"servers": [{"node_id": "sec1", "leader": True, "voter": True}]}}},
            "sys/storage/raft/autopilot/state": {"data": {"healthy": True, "failure_tolerance": 0}},
            "hnai/config": {"data": dict(policies.KV_CONFIG, metadata_cas_required=False)},
            "auth/token/accessors": {"data": {"keys": ["a1"]}},
            "auth/token/lookup-accessor": {"data": {"accessor": "a1", "policies": ["hnai-openbao"], "path": "auth/hnai/login"}},
            "hnai/data/openbao/hnai-canary": Forbidden("GET", "x", 403, []),
            "sys/generate-root/attempt": BaoError("GET", "x", 405, []),
            "pki_int/cert/ca_chain": {"data": {"certificate": AUTHORITY + authority(3650)}},
            "sys/mounts": {"data": {name + "/": {"type": "kv"} for name in ("hnai", "pki_root", "pki_int", "cubbyhole", "identity", "sys")}},
            "sys/auth": {"data": {name + "/": {"type": "approle"} for name in ("token", "hnai", "approle")}},
            "auth/hnai/role": {"data": {"keys": ["hnai-kafka", "hnai-openbao"]}},
            "auth/approle/role": {"data": {"keys": ["deploy", "site-admin"]}},
            "sys/policies/acl": {"data": {"keys": ["default", "root", "deploy", "site-admin", "hnai-kafka", "hnai-openbao"]}},
            "pki_int/roles": {"data": {"keys": ["hnai-kafka"]}},
            "identity/entity/id": {"data": {"keys": ["e1"]}},
            "identity/entity/id/e1": {"data": {"name": "entity_1", "policies": []}},
            **{path: NotFound("LIST", path, 404, []) for path in ("pki_root/roles", "auth/token/roles", "sys/namespaces", "identity/group/id")},
            "pki_root/issuers": {"data": {"key_info": {"1": {"issuer_name": "root", "key_id": "k"}}}},
        }

    def call(self, method: str, path: str, body: Any = None, token: Any = None, wrap_ttl: Any = None) -> dict[str, Any]:
        found = self.answers[path]
        if isinstance(found, Exception):
            raise found
        return found


class World:
    """A healthy server and host."""

    def __init__(self, directory: Path) -> None:
        self.bao = Bao(directory)
        self.devices = {"a.log": 1, "b.log": 2}
        self.free = {"a.log": 80, "b.log": 80}
        self.served: Callable[[], dict[str, Any]] = lambda: {
            "serial": "0ab1", "not_after": NOW + 80 * DAY, "subject": "commonName=sec1", "sans": [], "protocol": "TLSv1.3"}
        self.deploy = {"role_id": "r", "secret_id": "s"}
        self.want = health.Wanted(version="2.7.2", threshold=3, own=OWN, audit_files=[str(path) for path in self.bao.files.values()])
        self.wait: Callable[[float], None] = lambda seconds: pytest.fail("waited %s s beside no other token" % seconds)

        self.look: Callable[[str], Any] = lambda path: SimpleNamespace(st_dev=self.devices[os.path.basename(path)])

    def run(self) -> dict[str, dict[str, Any]]:
        report = Report("openbao", deadline_s=None)
        host = health.Host(
            stat=self.look,
            statvfs=lambda path: SimpleNamespace(  # type: ignore[arg-type, return-value]
                f_bavail=self.free[os.path.basename(path)], f_blocks=100, f_frsize=1048576),
            served=self.served, serial_on_disk=lambda: "AB1", now=lambda: NOW, wait=self.wait)
        self.facts = health.run(report, self.bao, self.deploy, self.want, host)
        self.result = report.result(collect=True)
        return {check["id"] + (":" + check["subject"] if check.get("subject") else ""): check for check in self.result["checks"]}


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def reds(checks: dict[str, dict[str, Any]]) -> list[str]:
    return sorted(name for name, check in checks.items() if check["status"] != "pass")


def test_a_login_in_flight_is_not_ended_by_the_look_at_its_token(world: World) -> None:
    """OpenBao revokes a token that is looked at before its lease is written; the list must be LOGIN_S old when the first is looked at."""
    world.bao.answers["auth/token/accessors"] = {"data": {"keys": ["own", "login in flight"]}}
    clock, listed, looked, call = [0.0], [], [], world.bao.call

    def timed(method: str, path: str, body: Any = None, token: Any = None, wrap_ttl: Any = None) -> dict[str, Any]:
        {"auth/token/accessors": listed, "auth/token/lookup-accessor": looked}.get(path, []).append(clock[0])
        return call(method, path, body, token, wrap_ttl)

    world.bao.call = timed  # type: ignore[method-assign]
    world.wait = lambda seconds: clock.__setitem__(0, clock[0] + seconds)
    assert reds(world.run()) == []
    assert listed == [0.0] and looked == [health.LOGIN_S] * 2


@pytest.mark.parametrize(("answer", "red"), [
    (Forbidden("POST", "x", 403, ["permission denied"]), []),
    (BaoError("POST", "x", 400, ["1 error occurred:\n\t* invalid accessor\n\n"]), []),
    (BaoError("POST", "x", 400, ["missing accessor"]), ["BAO03", "BAO04", "BAO07", "BAO09"]),
])  # fmt: skip
def test_a_token_that_ended_meanwhile_is_no_root_token(world: World, answer: BaoError, red: list[str]) -> None:
    world.bao.answers["auth/token/accessors"] = {"data": {"keys": ["own", "other"]}}
    call, world.wait = world.bao.call, lambda _seconds: None

    def gone(method: str, path: str, body: Any = None, token: Any = None, wrap_ttl: Any = None) -> dict[str, Any]:
        if body == {"accessor": "other"}:
            raise answer
        return call(method, path, body, token, wrap_ttl)

    world.bao.call = gone  # type: ignore[method-assign]
    assert [name for name in reds(world.run()) if name in ("BAO03", "BAO04", "BAO07", "BAO09")] == red


def test_who_may_not_look_at_tokens_has_seen_no_root_token(world: World) -> None:
    world.bao.answers["auth/token/lookup-accessor"] = Forbidden("POST", "x", 403, ["permission denied"])
    checks = world.run()
    assert reds(checks) == ["BAO07"] and checks["BAO07"]["status"] == "inconclusive"


def test_healthy(world: World) -> None:
    assert reds(world.run()) == []
    assert world.result["status"] == "pass" and world.result["version"] == "2.7.2"
    assert world.facts == {"sealed": False, "leader": "https://sec1:8200", "voters": 1, "days_left": 80.0,
                           "audit": {name: str(path) for name, path in world.bao.files.items()}}


def change(path: str, value: Any) -> Callable[[World], None]:
    return lambda world: world.bao.answers.__setitem__(path, value)


def in_the_clear(world: World) -> None:
    world.bao.answers["sys/audit"]["data"]["b/"]["options"]["log_raw"] = "true"


def a_copy_without_a_vote(world: World) -> None:
    world.bao.answers["sys/storage/raft/configuration"]["data"]["config"]["servers"].append({"node_id": "x", "leader": False, "voter": False})


def two_voters(world: World) -> None:
    world.bao.answers["sys/storage/raft/configuration"]["data"]["config"]["servers"].append({"node_id": "x", "leader": False, "voter": True})


def one_device(world: World) -> None:
    del world.bao.answers["sys/audit"]["data"]["b/"]


@pytest.mark.parametrize(("harm", "expected"), [
    (change("sys/seal-status", {"initialized": True, "sealed": False, "version": "2.6.9", "t": 3, "n": 5}), ["BAO02"]),
    (two_voters, ["BAO03"]),
    (a_copy_without_a_vote, ["BAO03"]),
    (change("sys/storage/raft/autopilot/state", {"data": {"healthy": False}}), ["BAO03"]),
    (lambda world: world.devices.update({"b.log": 1}), ["BAO04"]),
    (one_device, ["BAO04"]),
    (lambda world: world.bao.files["b"].write_text("{}\n"), ["BAO05:b"]),
    (in_the_clear, ["BAO05:b"]),
    (lambda world: world.free.update({"a.log": 29}), ["BAO06:a"]),
    (change("auth/token/lookup-accessor", {"data": {"accessor": "a1", "policies": ["root"]}}), ["BAO07"]),
    (lambda world: setattr(world, "served", lambda: {
        "serial": "0AB1", "not_after": NOW + 13 * DAY, "subject": "", "sans": [], "protocol": ""}), ["BAO08"]),
    (lambda world: setattr(world, "served", lambda: {
        "serial": "0AB2", "not_after": NOW + 80 * DAY, "subject": "", "sans": [], "protocol": ""}), ["BAO08"]),
    (change("auth/token/lookup-accessor", {"data": {"accessor": "a1", "policies": ["ops"], "path": "auth/token/create-orphan"}}), ["BAO13"]),
    (change("hnai/config", {"data": policies.KV_CONFIG | {"cas_required": False}}), ["BAO09"]),
    (change("hnai/config", {"data": policies.KV_CONFIG | {"delete_version_after": "1h0m0s"}}), ["BAO09"]),
    (change("hnai/config", {"data": policies.KV_CONFIG | {"max_versions": 1}}), ["BAO09"]),
    (change("sys/seal-status", {"initialized": True, "sealed": False, "version": "2.7.2", "t": 1, "n": 1}), ["BAO11"]),
    (change("hnai/data/openbao/hnai-canary", {"data": {}}), ["BAO10"]),
    # 404 instead of 403: it may read, and nothing is there.
    (change("hnai/data/openbao/hnai-canary", NotFound("GET", "x", 404, [])), ["BAO10"]),
    (change("sys/generate-root/attempt", {"started": False}), ["BAO11"]),
    (change("pki_int/cert/ca_chain", {"data": {"certificate": authority(int((NOW - time.time()) / DAY) + 170)}}), ["BAO12"]),
])
def test_each_cause_reddens_its_own_check(world: World, harm: Callable[[World], None], expected: list[str]) -> None:
    harm(world)
    checks = world.run()
    assert reds(checks) == expected
    assert all(checks[name]["status"] == "fail" for name in expected)


def test_its_own_request_is_found_behind_those_of_busy_clients(world: World) -> None:
    with world.bao.files["b"].open("a") as stream:
        stream.writelines('{"type":"response","request":{"id":"other"},"pad":"%s"}\n' % ("x" * 2000) for _ in range(1500))
    assert reds(world.run()) == []


def test_sealed(world: World) -> None:
    world.bao.answers["sys/seal-status"] = {"initialized": True, "sealed": True, "version": "2.7.2", "t": 3, "n": 5}
    checks = world.run()
    assert checks["BAO01"]["status"] == "fail" and world.result["status"] == "fail" and world.facts["sealed"] is True
    assert {checks[name]["status"] for name in ("BAO03", "BAO04", "BAO07", "BAO09", "BAO10")} == {"inconclusive"}
    assert checks["BAO08"]["status"] == "pass", "what is not the cause stays pass"


def test_a_node_without_a_leader_is_not_accused_of_making_root(world: World) -> None:
    world.bao.answers["sys/generate-root/attempt"] = BaoError("GET", "x", 500, ["local node not active but active cluster node not found"])
    assert world.run()["BAO11"]["status"] == "inconclusive"


def test_without_the_deploy_identity_nothing_behind_a_login_passes(world: World) -> None:
    world.deploy = {}
    checks = world.run()
    assert reds(checks) == ["BAO03", "BAO04", "BAO07", "BAO09", "BAO10", "BAO13"]
    assert all("hnai_openbao_deploy" in checks[name]["reason"] for name in reds(checks))


def test_unreachable_is_inconclusive_everywhere(world: World) -> None:
    world.bao.answers = dict.fromkeys(world.bao.answers, Unreachable("refused"))
    world.served = lambda: (_ for _ in ()).throw(Unreachable("refused"))
    assert {check["status"] for check in world.run().values()} == {"inconclusive"}


def test_much_free_space_is_enough_whatever_its_share(world: World) -> None:
    world.free.update({"a.log": 10})
    world.want = health.Wanted(version="2.7.2", free_mib=10)
    assert reds(world.run()) == []


def test_a_device_that_is_no_file_counts_as_its_own(world: World) -> None:
    world.bao.answers["sys/audit"]["data"]["b/"] = {"type": "syslog", "options": {}}
    world.want = dataclasses.replace(world.want, audit_files=[])
    checks = world.run()
    assert reds(checks) == [] and "BAO05:b" not in checks


def test_more_tokens_than_were_looked_at_is_no_pass(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "MAX_ACCESSORS", 0)
    assert world.run()["BAO07"]["status"] == "inconclusive"


def test_a_visit_that_hangs_leaves_the_rest_inconclusive_not_broken(world: World) -> None:
    """The visit is cut off by the deadline of its check; what needs it says so, what does not is judged."""
    world.bao.answers["sys/audit"] = DeadlineExceeded("deadline")
    checks = world.run()
    assert checks["BAO03"]["status"] == "inconclusive"
    assert {checks[name]["status"] for name in ("BAO04", "BAO07", "BAO09", "BAO10")} == {"inconclusive"}
    assert {checks[name]["status"] for name in ("BAO01", "BAO02", "BAO08", "BAO11", "BAO12")} == {"pass"}


def lacking(answer: Any) -> Iterator[Any]:
    """The answer without each of its fields, one at a time; what bears a name is no field."""
    for key, value in answer.items() if isinstance(answer, dict) else ():
        if not key.endswith("/") and not key.isdigit():
            yield {name: one for name, one in answer.items() if name != key}
        yield from ({**answer, key: other} for other in lacking(value))


def test_an_answer_without_a_field_turns_no_check_into_another(world: World) -> None:
    """Healthy first; then with all wrong that may be."""
    for wrong in (False, True):
        if wrong:
            world.bao.answers["auth/token/lookup-accessor"]["data"]["policies"] = ["root"]
            world.bao.answers["sys/policies/acl"]["data"]["keys"].append("eve")
            world.bao.answers["auth/hnai/role"]["data"]["keys"].append("hnai-eve")
            world.bao.answers["pki_root/issuers"]["data"]["key_info"]["2"] = {"issuer_name": "theirs", "key_id": "k"}
            world.bao.answers["identity/entity/id/e1"]["data"]["policies"] = ["deploy"]
            world.bao.answers["sys/storage/raft/autopilot/state"]["data"]["healthy"] = False
            world.bao.answers["sys/storage/raft/configuration"]["data"]["config"]["servers"].append({"node_id": "eve", "leader": False, "voter": False})
            world.bao.answers["hnai/config"]["data"]["cas_required"] = False
            world.bao.answers["pki_int/cert/ca_chain"] = {"data": {"certificate": authority(20)}}
        whole = {name: check["status"] for name, check in world.run().items()}
        answers = dict(world.bao.answers)
        for path, answer in answers.items():
            # A setting of the mount that another server does not know is not set.
            for less in lacking(answer) if path != "hnai/config" else ():
                world.bao.answers = {**answers, path: less}
                got = {name: check["status"] for name, check in world.run().items()}
                assert {name: status for name, status in got.items() if status not in (whole.get(name, status), "inconclusive")} == {}, (path, less)
        world.bao.answers = answers


def test_a_device_whose_file_is_gone_fails_and_is_named(world: World) -> None:
    """It records into a file that nobody can find; one device is left."""
    gone = world.bao.files["b"]
    gone.unlink()

    def look(path: str) -> Any:
        if path == str(gone):
            raise FileNotFoundError(2, "No such file or directory", path)
        return SimpleNamespace(st_dev=world.devices[os.path.basename(path)])

    world.look = look
    checks = world.run()
    assert {name: checks[name]["status"] for name in reds(checks)} == {"BAO04": "fail", "BAO05:b": "fail"}
    assert str(gone) in checks["BAO04"]["reason"] and str(gone) in checks["BAO05:b"]["reason"]


def test_names_that_may_not_be_asked_for_are_no_pass(world: World) -> None:
    world.bao.answers["identity/entity/id"] = Forbidden("LIST", "x", 403, [])
    check = world.run()["BAO13"]
    assert check["status"] == "inconclusive" and "may not look at identity/entity/id: site.yml --tags openbao" in check["reason"]
    world.bao.answers["sys/policies/acl"]["data"]["keys"].append("eve")
    check = world.run()["BAO13"]
    assert (check["status"], check["reason"]) == ("fail", "policy eve"), "what was seen counts"


def test_what_opens_more_than_declared_is_no_pass_nor_is_what_was_not_seen(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """BAO13's answers are not asked for again."""
    asked: list[str] = []
    call = world.bao.call

    def counted(method: str, path: str, body: Any = None, token: Any = None, wrap_ttl: Any = None) -> dict[str, Any]:
        asked.append(path)
        return call(method, path, body, token, wrap_ttl)

    said = loosened.Loosened()

    def look(listing: strangers.Listing, *given: Any) -> loosened.Loosened:
        assert given == ({"kv": "hnai"}, world.bao.answers["sys/audit"]["data"], world.want.audit_files, False)
        assert listing.read("sys/mounts") and listing.unseen == []
        return said

    monkeypatch.setattr(loosened, "look", look)
    monkeypatch.setattr(world.bao, "call", counted)
    assert "BAO14" not in world.run(), "nothing was declared"
    world.want = dataclasses.replace(world.want, spec={"kv": "hnai"})
    asked.clear()
    assert reds(world.run()) == [] and asked.count("sys/mounts") == 1
    said = loosened.Loosened(waiting=["mount x is not there"])
    checks = world.run()
    assert reds(checks) == [] and checks["BAO14"]["evidence"]["waits_for_a_ceremony"] == said.waiting
    said = loosened.Loosened(unseen=["auth/hnai/role/hnai-kafka"])
    checks = world.run()
    assert reds(checks) == ["BAO14"] and checks["BAO14"]["status"] == "inconclusive"
    assert "may not look at auth/hnai/role/hnai-kafka: site.yml --tags openbao" in checks["BAO14"]["reason"]
    said = loosened.Loosened(found=[str(number) for number in range(7)], unseen=["x"])
    check = world.run()["BAO14"]
    assert (check["status"], check["reason"], check["observed"]) == ("fail", "0; 1; 2; 3; 4", said.found)
    world.deploy = {}
    assert world.run()["BAO14"]["status"] == "inconclusive"


def logins(*more: dict[str, Any]) -> list[dict[str, Any]]:
    """Tokens as OpenBao shows them, two of them the site's own."""
    return [{"accessor": "a1", "policies": ["hnai-openbao"], "path": "auth/hnai/login"},
            {"accessor": "a2", "policies": ["response-wrapping"], "path": "sys/wrapping/wrap"}, *more]


@pytest.mark.parametrize(("entity", "token", "alone", "among"), [
    ([], {"policies": ["root"], "path": "auth/token/root"}, [], []),
    ([], {"policies": ["site-admin", "default"], "path": "auth/token/create"}, ["token a3 with default, site-admin (auth/token/create)"], True),
    ([], {"policies": ["theirs"], "path": "auth/ldap/login/ada"}, ["token a3 with theirs (auth/ldap/login/ada)"], []),
    ([], {"policies": ["default"], "identity_policies": ["hnai-kafka"], "path": "auth/ldap/login/ada"},
     ["token a3 with default, hnai-kafka (auth/ldap/login/ada)"], True),
    ([], {"policies": ["hnai-kafka"], "path": "auth/hnai/login"}, [], []),
    (["deploy"], None, ["entity entity_1 with deploy"], True),
    (["theirs"], None, ["entity entity_1 with theirs"], []),
])  # fmt: skip
def test_who_holds_a_policy_without_a_login_of_the_sites(
    world: World, entity: list[str], token: dict[str, Any] | None, alone: list[str], among: list[str] | bool
) -> None:
    """*alone*: the server is the site's; *among*: it is somebody else's, too, and True as alone."""
    world.bao.answers["identity/entity/id/e1"]["data"]["policies"] = entity
    answers = world.bao.answers

    def call(method: str, path: str, _body: Any) -> Any:
        return world.bao.call(method, path)

    tokens = logins(*([{"accessor": "a3", **token}] if token else []))
    assert strangers.holders(strangers.Listing(call, []), tokens, OWN) == alone
    shared = dataclasses.replace(OWN, shared=True)
    assert strangers.holders(strangers.Listing(call, []), tokens, shared) == (alone if among is True else among)
    answers["sys/mounts"]["data"]["notes/"] = answers["sys/auth"]["data"]["ldap/"] = {"type": "x"}
    answers["sys/policies/acl"]["data"]["keys"] += ["theirs", "hnai-eve"]
    answers["auth/approle/role"]["data"]["keys"].append("theirs")
    assert strangers.said(strangers.beside(strangers.Listing(call, []), shared)) == ["policy hnai-eve"]
    assert strangers.said(strangers.beside(strangers.Listing(call, []), OWN)) == [
        "secrets engine notes (x)", "auth method ldap (x)", "policy hnai-eve", "policy theirs", "AppRole of an identity theirs"]


@pytest.mark.parametrize(("named", "said"), [
    # A rotation is open, or over; to the site's own CA, and of a root that had no name.
    ((("root", "k"), ("root-r17", "k")), []), ((("retired-1234abcd", "k"), ("root-r17", "k")), []),
    ((("first-1234abcd", "k"), ("site-5678cdef", "")), []),
    # The only one, whatever it is called.
    ((("", "k"),), []),
    ((("root", "k"), ("", "")), ["root CA of pki_root, which hosts are made to trust: 2"]),
    ((("root", "k"), ("eve", "k"), ("retired-1234abcd", "k")), ["root CA of pki_root, which hosts are made to trust: eve"]),
])  # fmt: skip
def test_a_root_that_no_run_made_would_be_trusted_by_every_host(world: World, named: tuple[tuple[str, str], ...], said: list[str]) -> None:
    world.bao.answers["pki_root/issuers"] = {"data": {"key_info": {
        str(number): {"issuer_name": name, "key_id": key} for number, (name, key) in enumerate(named, 1)}}}
    check = world.run()["BAO13"]
    assert (check["status"], check["observed"]) == ("fail" if said else "pass", said)


def test_an_authority_that_is_not_told_is_inconclusive(world: World) -> None:
    world.bao.answers["pki_int/cert/ca_chain"] = NotFound("GET", "x", 404, [])
    assert world.run()["BAO12"]["status"] == "inconclusive"


@pytest.mark.parametrize(("days", "keyed", "words"), [
    ((170, 3650), True, r"^the intermediate ends first \(1\d\d\.\d days\)$"), ((1000, 100), True, "^the root ends first"),
    ((170, 3650), False, "the site's CA signs the next one"), ((1000, 100), False, "the root ends first .*, and it is the site's: whoever runs the site's CA"),
    ((1000, 100, 3650), False, "CA 1 above it ends first .*, and it is the site's"),
])  # fmt: skip
def test_which_authority_ends_and_whose_it_is(world: World, days: tuple[int, ...], keyed: bool, words: str) -> None:
    shift = int((NOW - time.time()) / DAY)
    world.bao.answers["pki_int/cert/ca_chain"] = {"data": {"certificate": "".join(authority(shift + one) for one in days)}}
    world.bao.answers["pki_root/issuers"] = {"data": {"key_info": {"1": {"key_id": "k" if keyed else ""}, "2": {"issuer_name": "retired-1", "key_id": ""}}}}
    check = world.run()["BAO12"]
    assert check["status"] == "fail" and check["observed"] == pytest.approx(min(days), abs=2.0) and re.search(words, check["reason"])


@pytest.mark.parametrize(("lives", "words"), [
    ((400,), "nobody can tell when the root ends"), ((400, 3650), "nobody can tell"), ((1000, 100), "^CA 1 above it ends"),
])  # fmt: skip
def test_a_chain_without_its_root_is_not_taken_for_whole(world: World, lives: tuple[int, ...], words: str) -> None:
    shift = int((NOW - time.time()) / DAY)
    world.bao.answers["pki_int/cert/ca_chain"] = {"data": {"certificate": "".join(authority(shift + one, issued=True) for one in lives)}}
    check = world.run()["BAO12"]
    assert check["status"] == "fail" and re.search(words, check["reason"]), check


@pytest.mark.parametrize(("answer", "status"), [
    (Forbidden("GET", "x", 403, []), "pass"), (NotFound("GET", "x", 404, []), "fail"), (Unreachable("late"), "inconclusive"),
])  # fmt: skip
def test_the_deploy_identity_is_tried_on_every_secret_of_the_site(world: World, answer: Exception, status: str) -> None:
    """A policy that was widened for one component does not reach OpenBao's own path."""
    world.want = health.Wanted(version="2.7.2", secrets=["kafka/broker"])
    world.bao.answers["hnai/data/kafka/broker?version=%d" % health.NO_VERSION] = answer
    check = world.run()["BAO10"]
    assert check["status"] == status and (status != "fail" or check["reason"] == "allowed: kafka/broker")


def test_versions() -> None:
    assert health.version_tuple("v2.7.2+x") == health.version_tuple("2.7.2") == (2, 7, 2)
    assert health.version_tuple("") == () and health.pem_serial("serial=0AB1\n") == "0ab1" and health.pem_serial("x") == ""


def test_at_an_address_what_its_host_alone_can_tell_is_its_owners_and_is_not_asked_for(world: World) -> None:
    for path in ("sys/audit", "sys/storage/raft/configuration", "sys/storage/raft/autopilot/state", "sys/generate-root/attempt"):
        del world.bao.answers[path]
    world.want = dataclasses.replace(world.want, owner="IT", threshold=0, own=dataclasses.replace(OWN, shared=True))
    # As the certificate of a server is that was not signed here.
    served = world.served()
    world.served = lambda: {**served, "serial": "ffff"}
    checks = world.run()
    skipped = {name: check for name, check in checks.items() if check["status"] == "skipped"}
    assert sorted(skipped) == ["BAO04", "BAO11"] == reds(checks) and {check["reason"] for check in skipped.values()} == {"external: IT"}
    assert (checks["BAO03"]["observed"], checks["BAO03"]["expected"]) == ("an active node", "an active node")
    assert "openbao_external.ca" in checks["BAO08"]["title"] and "IT renews it" in checks["BAO08"]["hint"]
    world.served = lambda: {**served, "not_after": NOW + 3 * DAY}
    assert reds(world.run()) == ["BAO04", "BAO08", "BAO11"]


def test_at_an_address_nobody_is_let_in_is_no_active_node(world: World) -> None:
    world.want = dataclasses.replace(world.want, owner="IT")
    world.bao.answers["auth/approle/login"] = BaoError("POST", "x", 503, ["sealed"])
    checks = world.run()
    assert checks["BAO03"]["status"] == "inconclusive" and checks["BAO04"]["status"] == "skipped"
