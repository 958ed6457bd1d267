# SPDX-License-Identifier: Apache-2.0
"""The controller's part: the spec out of contracts, the key files, and the order in which the action plugins do things."""
from __future__ import annotations

import json
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible.errors import AnsibleActionFail, AnsibleFilterError
from site_root import SiteRoot, key_pem, new_key, request

from ansible_collections.hnai.platform.plugins.action import approle_rotation, authority_rotation, openbao_bootstrap, openbao_site, vault_rotate
from ansible_collections.hnai.platform.plugins.action import openbao_keys as openbao_keys_action
from ansible_collections.hnai.platform.plugins.filter.rotation import declared
from ansible_collections.hnai.platform.plugins.module_utils.openbao import files
from ansible_collections.hnai.platform.plugins.module_utils.openbao.bootstrap import fingerprint
from ansible_collections.hnai.platform.plugins.plugin_utils import contracts, openbao_keys, openbao_spec

SETTINGS = {"site": "lab", "kv": "hnai", "pki_root": "pki_root", "pki_int": "pki_int", "root_ttl": "10y", "intermediate_ttl": "5y",
            "leaf_ttl": "90d", "identity_ttl": "12h"}
GROUPS = {"kafka": ["kafka2", "kafka1"], "telegraf": ["edge1"], "shipper": ["edge1"], "openbao": ["sec1"], "host": ["edge1"], "writer": []}
CONTRACTS: list[dict[str, Any]] = [
    {"name": "openbao", "secrets": [], "certificate": {"server": True, "client": False}},
    {"name": "host", "secrets": []},
    {"name": "kafka", "secrets": [], "certificate": {"server": True, "client": True, "extra_dns": ["bootstrap.example"]}},
    {"name": "telegraf", "secrets": [
        {"path": "telegraf/a", "kind": "password", "username": "u", "readers": ["kafka", "absent"], "group": "shipper"},
        {"path": "telegraf/b", "kind": "password", "readers": ["kafka"], "group": "writer"},
        {"path": "shared/c", "kind": "file"},
    ]},
]


# -- spec -----------------------------------------------------------------------------------------------------------------

def test_spec_out_of_contracts() -> None:
    spec = openbao_spec.build(CONTRACTS, GROUPS, SETTINGS)
    assert sorted(spec["components"]) == ["authority", "kafka", "keys", "openbao", "rotation", "telegraf"], "host needs nothing of OpenBao"
    assert spec["components"]["kafka"] == {
        "secrets": [], "grants": ["telegraf/a"],
        "certificate": {"server": True, "client": True, "domains": ["bootstrap.example", "kafka1", "kafka2", "localhost"]}}
    assert [secret["path"] for secret in spec["components"]["telegraf"]["secrets"]] == ["telegraf/a", "shared/c"], "writer has no host"
    assert spec["components"]["telegraf"]["grants"] == ["shared/c"], "its own, outside its prefix"
    assert (spec["root_ttl"], spec["leaf_ttl"], spec["identity_ttl"]) == (315360000, 7776000, 43200)
    assert spec["cidrs"] == ["127.0.0.1/32", "::1/128"]


def test_spec_of_the_collections_own_contracts() -> None:
    spec = openbao_spec.build([contracts.load("openbao")], {"openbao": ["sec1"]}, SETTINGS)
    assert spec["components"]["openbao"]["certificate"]["domains"] == ["localhost", "sec1"]


def test_an_application_certificate_names_the_uri_of_each_host() -> None:
    spec = openbao_spec.build([contracts.load("openbao"), contracts.load("ot_collector")], {"openbao": ["sec1"], "ot_collector": ["edge1"]}, SETTINGS)
    assert spec["components"]["ot_collector"] == {"secrets": [], "grants": [], "certificate": {
        "server": True, "client": True, "domains": ["edge1"], "uris": ["urn:hnai:lab:edge1:ot_collector"]}}


@pytest.mark.parametrize(("change", "text"), [
    ({"leaf_ttl": "90 days"}, "openbao_leaf_ttl: '90 days'"),
    ({"leaf_ttl": "6y"}, "openbao_leaf_ttl must be shorter"),
    ({"intermediate_ttl": "20y"}, "openbao_intermediate_ttl"),
])
def test_wrong_settings(change: dict[str, str], text: str) -> None:
    with pytest.raises(openbao_spec.SpecError, match=text):
        openbao_spec.build(CONTRACTS, GROUPS, {**SETTINGS, **change})


def test_the_verdict_judges_by_what_the_run_converges_to() -> None:
    """The filter of verify, and the action of the run."""
    groups = {"openbao": ["sec1"], "kafka": ["kafka1"], "mosquitto": []}
    site = {"groups": groups, "contracts": contracts.all()}
    assert declared(site, SETTINGS) == openbao_spec.build(contracts.placed(groups), groups, SETTINGS)
    with pytest.raises(AnsibleFilterError, match="openbao_leaf_ttl: '90 days'"):
        declared(site, {**SETTINGS, "leaf_ttl": "90 days"})


@pytest.mark.parametrize("path", ["alone", "telegraf//x", "telegraf/../kafka"])
def test_wrong_path(path: str) -> None:
    with pytest.raises(openbao_spec.SpecError, match=r"roles/x/meta/component\.yml"):
        openbao_spec.build([{"name": "x", "secrets": [{"path": path, "kind": "password"}]}], {"x": ["h"]}, SETTINGS)


# -- key files ------------------------------------------------------------------------------------------------------------

def test_keys_are_0600_in_0700(tmp_path: Path) -> None:
    target = tmp_path / "openbao" / "init.json"
    openbao_keys.store(target, {"a": 1})
    assert target.stat().st_mode & 0o777 == 0o600 and target.parent.stat().st_mode & 0o777 == 0o700
    assert openbao_keys.load(target) == {"a": 1}
    assert openbao_keys.load(tmp_path / "none") is None


def test_a_killed_write_leaves_nothing_for_long(tmp_path: Path) -> None:
    """SIGKILL before the rename; the next write takes the file over, whatever its mode was, and two at once wait for each other."""
    target, beside = tmp_path / "init.json", tmp_path / ".init.json.hnai-new"
    child = os.fork()
    if not child:
        files.os.replace = lambda *_paths: os.kill(os.getpid(), signal.SIGKILL)
        files.write_durably(str(target), b"torn and long enough to be seen")
    os.waitpid(child, 0)
    assert beside.exists() and not target.exists()
    beside.chmod(0o644)
    openbao_keys.store(target, {"a": 1})
    assert [path.name for path in tmp_path.iterdir()] == ["init.json"] and target.stat().st_mode & 0o777 == 0o600
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: files.write_durably(str(target), b"%d" % number * 9000), range(8)))
    assert len(set(target.read_bytes())) == 1 and len(target.read_bytes()) == 9000
    assert [path.name for path in tmp_path.iterdir()] == ["init.json"]


def test_keys_that_others_may_read_are_refused(tmp_path: Path) -> None:
    target = tmp_path / "init.json"
    openbao_keys.store(target, {"a": 1})
    target.chmod(0o640)
    with pytest.raises(openbao_keys.KeysError, match="0640"):
        openbao_keys.load(target)


@pytest.mark.parametrize("content", ["{torn", "[1]"])
def test_a_torn_file_is_refused(tmp_path: Path, content: str) -> None:
    target = tmp_path / "init.json"
    target.touch(0o600)
    target.write_text(content)
    with pytest.raises(openbao_keys.KeysError, match=r"init\.json"):
        openbao_keys.load(target)


def test_put_aside_keeps(tmp_path: Path) -> None:
    target = tmp_path / "init.json"
    openbao_keys.store(target, {"a": 1})
    assert openbao_keys.put_aside(target, 0.0).endswith("init.json.lost-19700101T000000Z")
    assert not target.exists() and openbao_keys.put_aside(target, 0.0) == ""


# -- action plugins -------------------------------------------------------------------------------------------------------

ANSWER = {"keys_base64": ["k1", "k2"], "root_token": "r"}


#: What an action has to know of the site to ask OpenBao.
ASKED: dict[str, Any] = {"groups": {"openbao": ["sec1"]}, "hostvars": {"sec1": {}}}


def action(kind: type, args: dict[str, Any], answers: list[dict[str, Any]], check: bool = False, before: Any = None) -> tuple[Any, list[dict[str, Any]]]:
    """An action plugin whose module calls give *answers* in turn; *before*(args) looks at the world at each call."""
    sent: list[dict[str, Any]] = []
    made = kind.__new__(kind)
    made._task = SimpleNamespace(args=args, check_mode=check, async_val=0, _role=None)
    made._supports_check_mode, made._supports_async = True, False
    made._connection = SimpleNamespace(_play_context=SimpleNamespace(no_log=False), always_pipeline_modules=False)

    def execute(module_name: str, module_args: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        assert made._connection._play_context.no_log, "ssh would show the answer at -vvv"
        assert made._connection.always_pipeline_modules, "the arguments would lie in a file of the host"
        sent.append(module_args)
        if before:
            before(module_args)
        return dict(answers[len(sent) - 1])

    made._execute_module = execute
    return made, sent


@pytest.fixture(autouse=True)
def _plain_base(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (openbao_bootstrap, openbao_keys_action, openbao_site, vault_rotate):
        monkeypatch.setattr(module.ActionBase, "run", lambda self, tmp=None, task_vars=None: {})


def test_keys_go_to_the_controller_before_the_host_forgets(tmp_path: Path) -> None:
    keys = tmp_path / "openbao" / "init.json"

    def look(args: dict[str, Any]) -> None:
        if args.get("state") == "handed_over":
            assert openbao_keys.load(keys) == ANSWER and args["sha256"] == fingerprint(ANSWER)

    made, sent = action(openbao_bootstrap.ActionModule, {"keys_file": str(keys)}, [
        {"changed": True, "actions": ["initialised"], "init": ANSWER, "init_sha256": fingerprint(ANSWER)}, {"changed": True}], before=look)
    result = made.run(None, {})
    assert [args.get("state", "ready") for args in sent] == ["ready", "handed_over"]
    assert "k1" not in json.dumps(result) and result["changed"] and not sent[0]["controller_has_keys"]


def test_known_keys_are_given_and_nothing_is_written(tmp_path: Path) -> None:
    keys = tmp_path / "init.json"
    openbao_keys.store(keys, ANSWER)
    made, sent = action(openbao_bootstrap.ActionModule, {"keys_file": str(keys)}, [{"changed": False, "actions": [], "init": None}])
    assert made.run(None, {})["changed"] is False
    assert sent == [{"unseal_keys": ["k1", "k2"], "controller_has_keys": True}]


def test_a_failed_module_hands_over_nothing(tmp_path: Path) -> None:
    made, sent = action(openbao_bootstrap.ActionModule, {"keys_file": str(tmp_path / "k")}, [{"failed": True, "msg": "x"}])
    assert made.run(None, {})["failed"] and len(sent) == 1 and not (tmp_path / "k").exists()


def test_keys_of_an_earlier_store_are_put_aside_with_its_identities(tmp_path: Path) -> None:
    keys = tmp_path / "init.json"
    openbao_keys.store(keys, {"keys_base64": ["old"]})
    openbao_keys.store(tmp_path / "deploy.json", {"deploy": {}})
    made, _sent = action(openbao_bootstrap.ActionModule, {"keys_file": str(keys)}, [
        {"changed": True, "init": ANSWER, "init_sha256": fingerprint(ANSWER)}, {"changed": True}])
    made.run(None, {})
    assert openbao_keys.load(keys) == ANSWER and not (tmp_path / "deploy.json").exists()
    assert len(list(tmp_path.glob("*.lost-*"))) == 2


def test_encrypted_shares_are_kept_but_never_used(tmp_path: Path) -> None:
    keys = tmp_path / "init.json"
    made, _sent = action(openbao_bootstrap.ActionModule, {"keys_file": str(keys), "pgp_keys": ["p"]}, [
        {"changed": True, "init": ANSWER, "init_sha256": fingerprint(ANSWER)}, {"changed": True}])
    made.run(None, {})
    made, sent = action(openbao_bootstrap.ActionModule, {"keys_file": str(keys), "pgp_keys": ["p"]}, [{"changed": False}])
    made.run(None, {})
    assert sent[0]["unseal_keys"] == [] and sent[0]["controller_has_keys"] is True


def test_encrypted_shares_reach_the_controller_before_the_run_stops(tmp_path: Path) -> None:
    keys = tmp_path / "init.json"
    made, sent = action(openbao_bootstrap.ActionModule, {"keys_file": str(keys), "pgp_keys": ["p"]}, [
        {"changed": True, "init": ANSWER, "init_sha256": fingerprint(ANSWER), "waiting": "sealed"}, {"changed": True}])
    result = made.run(None, {})
    assert result["failed"] and "sealed. The encrypted shares are in" in result["msg"] and len(sent) == 2
    assert openbao_keys.load(keys) == {**ANSWER, "pgp": True}


def test_more_than_one_node_is_refused(tmp_path: Path) -> None:
    made, sent = action(openbao_bootstrap.ActionModule, {"keys_file": str(tmp_path / "k")}, [])
    with pytest.raises(AnsibleActionFail, match="2 hosts"):
        made.run(None, {"groups": {"openbao": ["a", "b"]}})
    assert sent == []


@pytest.mark.parametrize("args", [{"state": "handed_over"}, {"unseal_keys": ["x"], "keys_file": "k"}, {}])
def test_what_a_playbook_may_not_say(args: dict[str, Any]) -> None:
    made, sent = action(openbao_bootstrap.ActionModule, args, [])
    with pytest.raises(AnsibleActionFail):
        made.run(None, {})
    assert sent == []


@pytest.fixture
def site_args(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setattr(contracts, "placed", lambda groups: CONTRACTS)
    openbao_keys.store(tmp_path / "init.json", ANSWER)
    return {"keys_file": str(tmp_path / "init.json"), "identities_file": str(tmp_path / "deploy.json"), "root_ca_file": str(tmp_path / "ca.pem"),
            "site": "lab"}


ISSUED = {"site-admin": {"role_id": "1", "secret_id": "s1"}, "deploy": {"role_id": "2", "secret_id": "s2"}}


def test_root_dies_only_after_the_identities_are_stored(site_args: dict[str, Any], tmp_path: Path) -> None:
    def look(args: dict[str, Any]) -> None:
        if args.get("revoke_root"):
            assert openbao_keys.load(tmp_path / "deploy.json") == {"site_admin": ISSUED["site-admin"], "deploy": ISSUED["deploy"]}

    made, sent = action(openbao_site.ActionModule, site_args, [
        {"changed": True, "identities": ISSUED, "pending": [], "root_ca": "PEM\n"}, {"changed": True, "root_revoked": True}], before=look)
    result = made.run(None, {"groups": GROUPS})
    assert [bool(args.get("revoke_root")) for args in sent] == [False, True] and sent[0]["root_token"] == "r"
    assert "s1" not in json.dumps(result) and "s2" not in json.dumps(result)
    assert (tmp_path / "ca.pem").read_text() == "PEM\n"
    stored = openbao_keys.load(tmp_path / "deploy.json") or {}
    assert stored["root_revoked_at"] and stored["deploy"] == ISSUED["deploy"]
    made, sent = action(openbao_site.ActionModule, site_args, [{"changed": False, "identities": {}, "pending": [], "root_ca": "PEM\n"}])
    assert made.run(None, {"groups": GROUPS})["changed"] is False
    assert sent[0]["root_token"] == "" and sent[0]["deploy"] == ISSUED["deploy"], "root is not even tried again"


def test_a_run_that_was_killed_before_the_revocation_revokes_next_time(site_args: dict[str, Any], tmp_path: Path) -> None:
    openbao_keys.store(tmp_path / "deploy.json", {"site_admin": ISSUED["site-admin"], "deploy": ISSUED["deploy"]})
    made, sent = action(openbao_site.ActionModule, site_args, [
        {"changed": False, "identities": {}, "pending": [], "root_ca": "PEM\n"}, {"changed": True}])
    assert made.run(None, {"groups": GROUPS})["root_revoked"] and len(sent) == 2


def test_root_from_a_ceremony_is_revoked_too(site_args: dict[str, Any], tmp_path: Path) -> None:
    openbao_keys.store(tmp_path / "deploy.json", {"site_admin": ISSUED["site-admin"], "root_revoked_at": "earlier"})
    made, sent = action(openbao_site.ActionModule, {**site_args, "root_token": "ceremony"}, [
        {"changed": False, "identities": {}, "pending": [], "root_ca": ""}, {"changed": True}])
    made.run(None, {"groups": GROUPS})
    assert sent[1]["revoke_root"] and sent[1]["root_token"] == "ceremony"


def test_pending_foundation_is_a_warning(site_args: dict[str, Any], tmp_path: Path) -> None:
    openbao_keys.store(tmp_path / "deploy.json", {"root_revoked_at": "earlier"})
    made, _sent = action(openbao_site.ActionModule, site_args, [{"changed": False, "identities": {}, "pending": ["policy deploy"], "root_ca": ""}])
    assert "policy deploy" in made.run(None, {"groups": GROUPS})["warnings"][0]


def test_what_nobody_declared_is_a_warning_in_check_mode_too(site_args: dict[str, Any], tmp_path: Path) -> None:
    openbao_keys.store(tmp_path / "deploy.json", {"root_revoked_at": "earlier"})
    answer = {"changed": False, "identities": {}, "pending": [], "foreign": ["token role eve"], "root_ca": ""}
    made, _sent = action(openbao_site.ActionModule, site_args, [answer], check=True)
    assert made.run(None, {"groups": GROUPS})["warnings"] == ["OpenBao: token role eve: nobody of the site declared it, it is left alone"]


def test_check_mode_of_the_site_stores_nothing(site_args: dict[str, Any], tmp_path: Path) -> None:
    made, sent = action(openbao_site.ActionModule, site_args, [{"changed": True, "identities": {}, "pending": [], "root_ca": "PEM\n"}], check=True)
    assert made.run(None, {"groups": GROUPS})["changed"] and len(sent) == 1
    assert not (tmp_path / "deploy.json").exists() and not (tmp_path / "ca.pem").exists()


def test_credentials_of_a_controller_without_state(site_args: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "init.json").unlink()
    made, sent = action(openbao_site.ActionModule, {**site_args, "site_admin": ISSUED["site-admin"], "deploy": ISSUED["deploy"]},
                        [{"changed": False, "identities": {}, "pending": [], "root_ca": ""}])
    made.run(None, {"groups": GROUPS})
    assert sent[0]["site_admin"] == ISSUED["site-admin"] and sent[0]["root_token"] == "" and not (tmp_path / "deploy.json").exists()


def test_the_run_ends_when_everything_else_is_kept_and_a_wrong_chain_is_not_sent(site_args: dict[str, Any], tmp_path: Path) -> None:
    """Under a site's own root: identities stored and root dead first, then the one sentence; nothing of a chain that is refused goes to the host."""
    ca, csr = SiteRoot(time.time()), request(new_key(), "ours")
    given = {**site_args, "root_ca": "site", "intermediate_chain": str(tmp_path / "chain.pem"), "request_file": str(tmp_path / "openbao/intermediate.csr")}
    unsigned = {"changed": True, "identities": ISSUED, "pending": [], "root_ca": "", "unsigned": csr}

    def converge(answer: dict[str, Any], *texts: str, check: bool = False) -> tuple[dict[str, Any], dict[str, Any]]:
        if texts:
            (tmp_path / "chain.pem").write_text("".join(texts))
        made, sent = action(openbao_site.ActionModule, given, [answer, {"changed": True}], check=check)
        return made.run(None, {"groups": GROUPS}), sent[0]["spec"]

    result, spec = converge(unsigned)
    assert result["failed"] and result["csr"] == csr and result["msg"].startswith("The site's CA has to sign") and result["root_revoked"]
    assert (openbao_keys.load(tmp_path / "deploy.json") or {})["root_revoked_at"] and not (tmp_path / "ca.pem").exists()
    assert spec["root_ca"] == "site" and spec["chain"] == []
    result, spec = converge(unsigned, *ca.sign(csr, ca=False))
    assert spec["chain"] == [] and "is no CA" in result["msg"] and "has to sign" not in result["msg"]
    result, spec = converge(unsigned, *ca.sign(csr, days=80))
    assert spec["chain"] == [] and "certificates of 90 d are to be signed below it" in result["msg"]
    result, _spec = converge({"failed": True, "msg": "sealed", "unsigned": csr}, *ca.sign(csr))
    assert result["msg"] == "sealed", "another failure is said as it is"
    right = ca.sign(csr)
    result, spec = converge({"changed": True, "identities": {}, "pending": [], "root_ca": ca.root, "in_force": right[0]}, *reversed(right))
    assert spec["chain"] == right and not result.get("failed") and not result.get("warnings") and (tmp_path / "ca.pem").read_text() == ca.root
    result, _spec = converge({"changed": False, "identities": {}, "pending": [], "root_ca": ca.root, "in_force": right[0]}, *ca.sign(request(new_key(), "x")))
    assert "rotate_secret=pki/intermediate" in result["warnings"][0] and not result.get("failed")
    result, _spec = converge({"changed": True, "identities": {}, "pending": [], "root_ca": ""}, *ca.sign(csr, ca=False), check=True)
    assert "is no CA" in result["warnings"][0] and not result.get("failed")
    (tmp_path / "chain.pem").write_text("".join(right) + key_pem(ca.key))
    made, sent = action(openbao_site.ActionModule, given, [])
    with pytest.raises(AnsibleActionFail, match="holds a private key"):
        made.run(None, {"groups": GROUPS})
    assert sent == []


def test_a_rotation_waits_for_the_site_s_ca_with_the_chain_in_force_at_its_place(tmp_path: Path) -> None:
    ca, csr = SiteRoot(time.time()), request(new_key(), "next")
    old = ca.sign(request(new_key(), "first"), days=80)
    chain, target = tmp_path / "chain.pem", tmp_path / "openbao/intermediate.csr"
    chain.write_text("".join(old))
    given = {"state": "prepared", "path": "pki/intermediate", "root_ca": "site", "intermediate_chain": str(chain), "request_file": str(target)}
    answer = {"failed": True, "msg": "x", "unsigned": csr, "in_force": old[0]}
    made, sent = action(authority_rotation.ActionModule, given, [answer])
    result = made.run(None, ASKED)
    assert result["failed"] and result["msg"].startswith("The site's CA has to sign") and "signed below the root that hosts trust: " in result["msg"]
    assert "rotate_secret=pki/intermediate again" in result["msg"] and target.read_text() == result["csr"] == csr
    assert sent[0]["chain"] == [] and not {"intermediate_chain", "request_file", "unsigned"} & {*sent[0], *result}
    right = ca.sign(csr)
    chain.write_text("".join(right))
    made, sent = action(authority_rotation.ActionModule, given, [{"rotation": {}}])
    assert made.run(None, ASKED) == {"rotation": {}} and sent[0]["chain"] == right


def test_what_a_rotation_answers_is_not_shown_on_the_way(tmp_path: Path) -> None:
    """`action` looks at every call of a module."""
    made, sent = action(vault_rotate.ActionModule, {"state": "prepared"}, [{"secrets": {"new": {"password": "p"}}}])
    assert made.run(None, ASKED)["secrets"] and len(sent) == 1
    made, _sent = action(vault_rotate.ActionModule, {"state": "prepared"}, [{"failed": True, "exception": "ValueError: p"}])
    assert made.run(None, ASKED) == {"failed": True, "msg": vault_rotate.BROKEN}
    identities = tmp_path / "deploy.json"
    openbao_keys.store(identities, {"deploy": ISSUED["deploy"], "site_admin": ISSUED["site-admin"]})
    made, sent = action(approle_rotation.ActionModule, {"path": "approle/deploy", "identities_file": str(identities), "deploy": ISSUED["deploy"]}, [
        {"step": "issued", "issued": {"role_id": "r", "secret_id": "next"}}, {"step": "closed"}])
    assert made.run(None, ASKED)["step"] == "closed" and len(sent) == 2
    shares = tmp_path / "init.json"
    openbao_keys.store(shares, ANSWER)
    made, sent = action(openbao_keys_action.ActionModule, {"what": "shares", "keys_file": str(shares), "threshold": 2}, [
        {"step": "issued", "issued": {"keys": ["n"], "keys_base64": ["n"], "verification_nonce": "v"}}, {"step": "in_force"}])
    assert made.run(None, ASKED)["step"] == "in_force" and len(sent) == 2
