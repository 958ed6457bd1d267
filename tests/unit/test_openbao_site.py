# SPDX-License-Identifier: Apache-2.0
"""Convergence and visits: observed first, changed only where it differs, root only for the foundation, no secret where none belongs."""
from __future__ import annotations

import json
import time
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from ansible_collections.hnai.platform.plugins.module_utils.openbao import authority, component, policies, site
from ansible_collections.hnai.platform.plugins.module_utils.openbao.client import BaoError, Forbidden, NotFound

DAY = 86400


def iso(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S.123456789Z", time.gmtime(seconds))


class FakeBao:
    """State in plain dicts; ``writes`` lists (method, path) of everything that changed something."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self.now = now
        self.mounts: dict[str, dict[str, Any]] = {"sys/": {"type": "system"}}
        self.auth: dict[str, dict[str, Any]] = {"token/": {"type": "token"}}
        self.policies: dict[str, str] = {}
        self.objects: dict[str, dict[str, Any]] = {}
        self.kv: dict[str, dict[str, Any]] = {}
        self.kv_not_ready = 2
        self.tokens: dict[str, str] = {"root-token": "root"}
        self.secret_ids: dict[str, tuple[str, float, float]] = {}
        self.wrapped: dict[str, str] = {}
        self.issued = 0
        self.writes: list[tuple[str, str]] = []
        self.logins: list[str] = []
        self.refuse: dict[str, type[BaoError]] = {}

    def call(self, method: str, path: str, body: Mapping[str, Any] | None = None, token: str | None = None,
             wrap_ttl: str | None = None) -> dict[str, Any]:
        body = dict(body or {})
        for start, kind in self.refuse.items():
            if path.startswith(start):
                raise kind(method, path, {Forbidden: 403, NotFound: 404}.get(kind, 400), ["refused"])
        if path == "sys/wrapping/unwrap":
            return {"data": {"secret_id": self.wrapped.pop(token or "")}}
        if path.endswith("/login"):
            return self._login(path, body)
        if path.endswith("/cert/ca"):
            found = self.objects.get(path)
            if not found:
                raise BaoError(method, path, 400, ["no default issuer currently configured"])
            return {"data": found}
        if path.endswith(("/issuers", "/json")):
            # Both need no token. One issuer a mount, as long as no authority was rotated.
            found = self.objects.get(path.split("/")[0] + "/cert/ca")
            return {"data": dict(found or {}, key_info={"1": {"issuer_name": "root", "key_id": "k"}} if found else {})}
        if token not in self.tokens:
            raise Forbidden(method, path, 403, ["permission denied"])
        if path == "auth/token/lookup-self":
            return {"data": {"policies": [self.tokens[token]]}}
        if path == "auth/token/revoke-self":
            del self.tokens[token]
            return {}
        if method in ("GET", "LIST", "SCAN"):
            return self._read(method, path)
        return self._write(method, path, body, wrap_ttl)

    def _login(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        role, _born, dies = self.secret_ids.get(body["secret_id"], ("", 0.0, 0.0))
        if role.rsplit("/", 1)[-1] != body["role_id"].removeprefix("id-of-") or dies < self.now:
            raise BaoError("POST", path, 400, ["invalid role or secret ID"])
        name = role.rsplit("/", 1)[-1]
        if name.startswith("hnai-"):
            del self.secret_ids[body["secret_id"]]  # one use
        self.issued += 1
        token = "token-%d" % self.issued
        self.tokens[token] = name
        self.logins.append(name)
        return {"auth": {"client_token": token, "metadata": {"role_name": name}}}

    def _read(self, method: str, path: str) -> dict[str, Any]:
        if path == "sys/mounts":
            return {"data": self.mounts}
        if path == "sys/auth":
            return {"data": self.auth}
        if method == "SCAN":
            return {"data": {"keys": sorted(self.kv)} if self.kv else {}}
        if method == "LIST":
            if path == "sys/policies/acl":
                return {"data": {"keys": ["default", "root", *self.policies]}}
            names = sorted(key[len(path) + 1:] for key in self.objects if key.startswith(path + "/") and "/" not in key[len(path) + 1:])
            if not names:
                raise NotFound(method, path, 404, [])
            return {"data": {"keys": names}}
        if path.endswith("/role-id"):
            if path[:-8] not in self.objects:
                raise NotFound(method, path, 404, [])
            return {"data": {"role_id": "id-of-" + path.split("/")[-2]}}
        if path.startswith("sys/policies/acl/"):
            name = path.rsplit("/", 1)[-1]
            if name not in self.policies:
                raise NotFound(method, path, 404, [])
            return {"data": {"policy": self.policies[name]}}
        if path.startswith("hnai/data/"):
            if path[10:] not in self.kv:
                raise NotFound(method, path, 404, [])
            return {"data": {"data": self.kv[path[10:]]}}
        if path == "hnai/config" and path not in self.objects:
            return {"data": {"cas_required": False, "max_versions": 0, "delete_version_after": "0s"}}
        if path not in self.objects:
            raise NotFound(method, path, 404, [])
        found = dict(self.objects[path])
        if "token_bound_cidrs" in found:  # as the real one: full-length masks are dropped here, but not in secret_id_bound_cidrs
            found["token_bound_cidrs"] = [item.split("/")[0] for item in found["token_bound_cidrs"]]
        return {"data": found}

    def _write(self, method: str, path: str, body: dict[str, Any], wrap_ttl: str | None) -> dict[str, Any]:
        if path.endswith("/secret-id/lookup"):
            known = self.secret_ids.get(body["secret_id"])
            if not known or known[0] != path[: -len("/secret-id/lookup")]:
                return {}
            return {"data": {"creation_time": iso(known[1]), "expiration_time": iso(known[2])}}
        self.writes.append((method, path))
        if path.endswith("/secret-id"):
            role = path[: -len("/secret-id")]
            if role not in self.objects:
                raise NotFound(method, path, 404, [])
            self.issued += 1
            secret_id = "secret-%d" % self.issued
            self.secret_ids[secret_id] = (role, self.now, self.now + self.objects[role]["secret_id_ttl"])
            if wrap_ttl:
                self.wrapped["wrap-%d" % self.issued] = secret_id
                return {"wrap_info": {"token": "wrap-%d" % self.issued}}
            return {"data": {"secret_id": secret_id}}
        if path.startswith(("sys/mounts/", "sys/auth/")):
            _sys, kind, name = path.split("/")[:3]
            mounts = self.mounts if kind == "mounts" else self.auth
            if path.endswith("/tune"):
                mounts[name + "/"]["config"].update(body)
            else:  # as the real one: times are answered in seconds
                config = {key: int(value.rstrip("s")) for key, value in body.get("config", {}).items()}
                usual = {"default_lease_ttl": 0, "max_lease_ttl": 0, "force_no_cache": False, **({"token_type": "default-service"} if kind == "auth" else {})}
                mounts[name + "/"] = {**body, "config": {**usual, **config}}
        elif path.startswith("sys/policies/acl/"):
            self.policies[path.rsplit("/", 1)[-1]] = body["policy"]
        elif path.startswith("hnai/data/"):
            if path[10:] in self.kv or body["options"] != {"cas": 0}:
                raise Forbidden(method, path, 403, ["permission denied"])
            self.kv[path[10:]] = body["data"]
        elif path == "hnai/config" and self.kv_not_ready:
            self.kv_not_ready -= 1
            raise BaoError(method, path, 400, ["Upgrading from non-versioned to versioned data."])
        elif path.endswith("/root/generate/internal"):
            self.objects[path.split("/")[0] + "/cert/ca"] = {"certificate": "-----BEGIN CERTIFICATE-----\nROOT\n-----END CERTIFICATE-----"}
        elif path.endswith("/intermediate/generate/internal"):
            return {"data": {"csr": "CSR"}}
        elif path.endswith("/root/sign-intermediate"):
            return {"data": {"certificate": "INT", "issuing_ca": "ROOT"}}
        elif path.endswith("/intermediate/set-signed"):
            self.objects[path.split("/")[0] + "/cert/ca"] = {"certificate": body["certificate"]}
        elif "/sign/" in path:
            root = self.objects["pki_root/cert/ca"]["certificate"]
            return {"data": {"certificate": "LEAF for %s" % body["common_name"], "ca_chain": ["INT", root], "serial_number": "01",
                             "expiration": 1, "asked": body}}
        else:
            self.objects[path] = body
        return {}


def spec(**components: dict[str, Any]) -> dict[str, Any]:
    return {
        "site": "lab", "kv": "hnai", "pki_root": "pki_root", "pki_int": "pki_int", "root_ttl": 3650 * DAY, "intermediate_ttl": 1825 * DAY,
        "leaf_ttl": 90 * DAY, "identity_ttl": 90 * DAY, "cidrs": ["127.0.0.1/32", "::1/128"],
        "components": components or {
            "kafka": {"grants": ["telegraf/kafka"], "secrets": [{"path": "kafka/x", "kind": "password", "username": "u"}],
                      "certificate": {"server": True, "client": True, "domains": ["kafka1", "localhost"]}},
            "telegraf": {"grants": [], "secrets": [{"path": "telegraf/kafka", "kind": "password", "username": ""},
                                                   {"path": "telegraf/licence", "kind": "file", "username": ""}], "certificate": None},
        },
    }


class Controller:
    """Runs the convergence and keeps what it issued."""

    def __init__(self) -> None:
        self.bao = FakeBao()
        self.held: dict[str, dict[str, str]] = {}

    def run(self, root: str = "", check: bool = False, what: dict[str, Any] | None = None) -> site.Outcome:
        self.bao.writes.clear()
        out = site.Site(self.bao, what or spec(), self.held, root, check=check, now=lambda: self.bao.now, sleep=lambda s: None).converge()
        self.held.update(out.identities)
        return out


@pytest.fixture
def ready() -> Controller:
    made = Controller()
    made.run("root-token")
    site.revoke_root(made.bao, "root-token")
    return made


def test_first_run_then_nothing() -> None:
    controller = Controller()
    out = controller.run("root-token")
    assert set(out.identities) == {"site-admin", "deploy"} and out.pending == [] and "ROOT" in out.root_ca
    again = controller.run()
    assert again.changes == [] and again.identities == {}
    assert [item for item in controller.bao.writes if not item[1].endswith("revoke-self")] == []


def test_the_identities_secret_ids_live_as_long_as_they_are_to(ready: Controller) -> None:
    """The server cuts a secret_id's life to the longest lease of its mount: 32 days, unless the mount says more."""
    assert ready.bao.auth["approle/"]["config"]["max_lease_ttl"] == 90 * DAY


def test_secrets_are_generated_once_and_only_of_kind_password(ready: Controller) -> None:
    made = dict(ready.bao.kv)
    assert set(made) == {"kafka/x", "telegraf/kafka"}
    assert made["kafka/x"]["username"] == "u" and made["telegraf/kafka"]["username"] == "kafka"
    assert len({value["password"] for value in made.values()}) == 2
    ready.run()
    assert ready.bao.kv == made


def test_password_is_32_url_safe_characters() -> None:
    for _ in range(200):
        value = site.password()
        assert len(value) == 32 and value[0].isalnum()
        assert set(value) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")


def test_check_mode_predicts_and_writes_nothing(ready: Controller) -> None:
    more = spec()
    more["components"]["flink"] = {"grants": [], "secrets": [{"path": "flink/kafka", "kind": "password"}], "certificate": None}
    out = ready.run(check=True, what=more)
    assert [change.what for change in out.changes] == ["policy hnai-flink", "AppRole hnai-flink", "secret hnai/flink/kafka"]
    assert ready.bao.writes == []
    assert [change.what for change in ready.run(what=more).changes] == [change.what for change in out.changes]


def test_check_mode_on_a_fresh_store() -> None:
    controller = Controller()
    out = controller.run("root-token", check=True)
    assert "mount hnai" in [change.what for change in out.changes] and controller.bao.writes == [] and out.identities == {}


def test_diff_never_shows_a_secret(ready: Controller) -> None:
    controller = Controller()
    text = json.dumps([(change.what, change.before, change.after) for change in controller.run("root-token").changes])
    values = [value["password"] for value in controller.bao.kv.values()] + list(controller.bao.secret_ids)
    assert values and not any(value in text for value in values)


def test_a_changed_policy_and_role_are_put_right(ready: Controller) -> None:
    ready.bao.policies["hnai-kafka"] += 'path "*" { capabilities = ["read"] }'
    ready.bao.objects["pki_int/roles/hnai-kafka"] = {**ready.bao.objects["pki_int/roles/hnai-kafka"], "allow_any_name": True}
    out = ready.run()
    assert [change.what for change in out.changes] == ["policy hnai-kafka", "PKI role hnai-kafka"]
    assert "allow_any_name: True" in out.changes[1].before and "allow_any_name: False" in out.changes[1].after
    assert ready.run().changes == []


def test_foundation_is_not_changed_without_root(ready: Controller) -> None:
    ready.bao.policies["deploy"] = "other"
    out = ready.run()
    assert out.pending == ["policy deploy"] and out.changes == [] and ready.bao.policies["deploy"] == "other"
    ready.bao.tokens["root-2"] = "root"
    assert [change.what for change in ready.run("root-2").changes] == ["policy deploy"]
    assert ready.bao.policies["deploy"] == policies.deploy()


def test_a_missing_mount_is_an_error_without_root(ready: Controller) -> None:
    del ready.bao.mounts["pki_int/"]
    with pytest.raises(site.SiteError, match="mount pki_int is absent and only root"):
        ready.run()


def test_mount_of_another_type_is_refused(ready: Controller) -> None:
    ready.bao.mounts["hnai/"] = {"type": "database"}
    with pytest.raises(site.SiteError, match="of type database"):
        ready.run()


SSH = {"ssh_host": "ssh-host", "ssh_names": ["kafka1", "10.0.0.1"]}


@pytest.mark.parametrize(("mounts", "auth", "made", "taken"), [
    ({"hnai/": {"type": "kv", "description": "their secrets"}}, {}, {}, "mount hnai"),
    ({"pki_int/": {"type": "pki"}}, {}, {}, "mount pki_int"),
    ({"ssh/": {"type": "ssh", "description": ""}}, {}, {}, "mount ssh"),
    ({}, {"approle/": {"type": "approle", "description": "of everybody"}}, {}, "auth mount approle"),
    ({}, {"hnai/": {"type": "approle", "description": ""}}, {}, "auth mount hnai"),
    ({}, {}, {"deploy": "theirs"}, "policy deploy"), ({}, {}, {"site-admin": "theirs"}, "policy site-admin"),
])  # fmt: skip
def test_on_a_server_of_others_nothing_of_theirs_is_taken_over(mounts: dict[str, Any], auth: dict[str, Any], made: dict[str, str], taken: str) -> None:
    controller = Controller()
    bao = controller.bao
    bao.mounts.update(mounts)
    bao.auth.update(auth)
    bao.policies.update(made)
    with pytest.raises(site.SiteError, match=f"^{taken}: there already, and not made by this collection"):
        controller.run(root="root-token", what={**spec(), "shared": True, "ssh_host": "ssh"})
    assert bao.writes == []


def test_what_we_made_there_is_ours(ready: Controller) -> None:
    assert ready.run(what={**spec(), "shared": True}).changes == []


def test_the_token_of_somebody_elses_server_is_ended_whatever_it_may_do() -> None:
    bao = FakeBao()
    bao.tokens["given"] = "everything-in-a-namespace"
    with pytest.raises(site.SiteError, match="nothing was revoked"):
        site.revoke_root(bao, "given")
    assert site.revoke_root(bao, "given", owned=False) and "given" not in bao.tokens


def test_the_ca_of_the_hosts_ssh_keys_is_made_by_root_and_kept_by_site_admin() -> None:
    made = Controller()
    wanted = {**spec(), **SSH, "components": {**spec()["components"], "ssh-host": {"grants": [], "secrets": [], "certificate": None}}}
    made.run("root-token", what=wanted)
    assert made.bao.mounts["ssh-host/"]["type"] == "ssh" and made.bao.objects["ssh-host/config/ca"]["generate_signing_key"]
    role = made.bao.objects["ssh-host/roles/hnai-host"]
    assert (role["allowed_domains"], role["allow_user_certificates"], role["allow_subdomains"]) == ("10.0.0.1,kafka1", False, False)
    assert "ssh-host/sign/hnai-host" in made.bao.policies["hnai-ssh-host"] and "roles" not in made.bao.policies["hnai-ssh-host"]
    site.revoke_root(made.bao, "root-token")
    assert (made.run(what=wanted).changes, made.run(what=wanted).pending) == ([], [])
    assert [change.what for change in made.run(what={**wanted, "ssh_names": ["kafka2"]}).changes] == ["SSH role hnai-host"]
    made.bao.tokens["root-2"] = "root"
    made.run("root-2", what=wanted)
    assert ("POST", "ssh-host/config/ca") not in made.bao.writes, "a second CA"


def test_a_store_that_stands_says_that_it_has_no_ssh_ca_and_goes_on(ready: Controller) -> None:
    out = ready.run(what={**spec(), **SSH})
    assert out.pending == ["mount ssh-host (no SSH host certificates until then)", "policy site-admin"] and out.changes == []
    ready.bao.tokens["root-2"] = "root"
    ready.bao.mounts["ssh-host/"] = {"type": "kv"}
    with pytest.raises(site.SiteError, match="openbao_ssh_host_mount"):
        ready.run("root-2", what={**spec(), **SSH})


@pytest.mark.parametrize(("kind", "keys"), [("site", ["k"]), ("site", ["k", "l"]), ("own", [""])])
def test_no_root_of_another_kind_beside_the_one_that_hosts_trust(ready: Controller, monkeypatch: pytest.MonkeyPatch, kind: str, keys: list[str]) -> None:
    monkeypatch.setattr(authority, "living", lambda api, mount: {str(number): {"key_id": key} for number, key in enumerate(keys)})
    ready.bao.tokens["root-2"] = "root"
    for root in ("", "root-2"):
        with pytest.raises(site.SiteError, match="openbao_root_ca is %s, and" % kind):
            ready.run(root, what={**spec(), "root_ca": kind})
    assert [item for item in ready.bao.writes if not item[1].endswith("revoke-self")] == []


@pytest.mark.parametrize("kind", ["site", "own"])
def test_a_rotation_from_one_to_the_other_has_both(ready: Controller, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(authority, "living", lambda api, mount: {"1": {"key_id": "k"}, "2": {"key_id": ""}})
    assert ready.run(what={**spec(), "root_ca": kind}).changes == []


def test_a_retired_root_is_none(ready: Controller) -> None:
    listed = {"1": {"issuer_name": "retired-1", "key_id": "k"}, "2": {"issuer_name": "site-2", "key_id": ""}}
    answer = {"data": {"key_info": listed}}
    assert list(authority.living(SimpleNamespace(call=lambda method, path: answer), "pki_root")) == ["2"]


def test_the_longest_certificate_that_is_asked_for() -> None:
    wanted = spec()
    assert site.longest(wanted) == 90 * DAY
    wanted["components"]["ot_collector"] = {"certificate": {"server": True, "client": True, "domains": [], "uris": ["urn:x"]}}
    assert site.longest(wanted) == 730 * DAY
    assert site.longest({**wanted, "intermediate_ttl": 365 * DAY}) == 365 * DAY // 2


@pytest.mark.parametrize("path", ["pki_root/issuers", "pki_root/"])
def test_no_second_root_ca_because_of_an_error(ready: Controller, path: str) -> None:
    ready.bao.refuse[path] = BaoError
    ready.bao.tokens["root-2"] = "root"
    with pytest.raises(BaoError):
        ready.run("root-2")
    assert not any("generate" in path for _method, path in ready.bao.writes)


def test_identities_are_renewed_in_their_last_third(ready: Controller) -> None:
    first = dict(ready.held)
    ready.bao.now += 59 * DAY
    assert ready.run().identities == {}
    ready.bao.now += 2 * DAY
    assert set(ready.run().identities) == {"site-admin", "deploy"}
    assert first["deploy"]["secret_id"] != ready.held["deploy"]["secret_id"]
    # The old one goes on until its end: no moment without a valid one.
    assert first["deploy"]["secret_id"] in ready.bao.secret_ids


def test_lost_deploy_identity_is_issued_anew(ready: Controller) -> None:
    del ready.held["deploy"]
    assert set(ready.run().identities) == {"deploy"}


def test_without_any_identity_the_remedy_is_named(ready: Controller) -> None:
    ready.held.clear()
    with pytest.raises(site.SiteError, match=r"no site-admin identity.*openbao-ceremony"):
        ready.run()
    with pytest.raises(site.SiteError, match=r"not alive.*no site-admin"):
        ready.run("root-token")


def test_a_dead_root_token_does_not_stop_site_admin(ready: Controller) -> None:
    assert ready.run("root-token").changes == []


def test_tokens_are_revoked(ready: Controller) -> None:
    ready.run()
    assert ready.bao.tokens == {}


def test_orphans_are_reported_and_kept(ready: Controller) -> None:
    less = spec()
    del less["components"]["telegraf"]
    out = ready.run(what=less)
    assert out.orphans == ["hnai-telegraf"] and out.changes == [] and "telegraf/kafka" in ready.bao.kv
    assert out.foreign == ["AppRole hnai-telegraf of no component of the site", "policy hnai-telegraf"]


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        ("sys/auth/userpass", {"type": "userpass"}, "auth method userpass (userpass)"),
        ("sys/mounts/notes", {"type": "kv"}, "secrets engine notes (kv)"),
        ("sys/policies/acl/eve", {"policy": ""}, "policy eve"),
        ("auth/approle/role/eve", {}, "AppRole of an identity eve"),
        ("auth/hnai/role/eve", {}, "AppRole eve of no component of the site"),
        ("pki_int/roles/eve", {}, "PKI role of pki_int: eve"),
        ("pki_int/roles/hnai-telegraf", {}, "PKI role of pki_int: hnai-telegraf"),
        ("pki_root/roles/eve", {}, "PKI role of pki_root: eve"),
        ("auth/token/roles/eve", {}, "token role eve"),
        ("sys/namespaces/eve", {}, "namespace eve"),
        ("sys/mounts/hnai/tune", {"listing_visibility": "unauth"}, "mount hnai: listing_visibility=unauth"),
        ("sys/auth/hnai/tune", {"token_type": "batch"}, "auth mount hnai: token_type=batch"),
    ],
)
def test_what_somebody_made_beside_the_contracts_is_named_and_left_alone(ready: Controller, path: str, body: dict[str, Any], said: str) -> None:
    ready.bao.tokens["somebody"] = "root"
    assert ready.run(check=True).foreign == []
    ready.bao.call("POST", path, body, token="somebody")
    out = ready.run(check=True)
    assert (out.foreign, out.changes, out.pending) == ([said], [], [])
    assert ready.run().foreign == [said], "it is still there after a run"


def test_names_that_may_not_be_listed_yet_are_passed_over(ready: Controller) -> None:
    """The policy that allows it waits for a ceremony, and is named."""
    ready.bao.policies["site-admin"] = "of the release before"
    ready.bao.refuse = {"auth/token/roles": Forbidden, "sys/namespaces": Forbidden}
    out = ready.run()
    assert (out.foreign, out.pending) == ([], ["policy site-admin"])


def test_a_store_whose_site_admin_is_of_before_goes_on_without_what_it_may_not(ready: Controller) -> None:
    ready.bao.tokens["ceremony"] = "root"
    ready.run("ceremony", what={**spec(), **SSH})
    ready.bao.objects["ssh-host/roles/hnai-host"] = {}
    ready.bao.refuse = {"ssh-host/roles": Forbidden}
    with pytest.raises(Forbidden):
        ready.run(what={**spec(), **SSH})
    ready.bao.policies["site-admin"] = "of the release before"
    assert ready.run(what={**spec(), **SSH}).pending == ["policy site-admin"]


@pytest.mark.parametrize(("key", "value"), [("cas_required", False), ("max_versions", 1), ("delete_version_after", "1h")])
def test_what_would_let_secrets_vanish_waits_for_root(ready: Controller, key: str, value: Any) -> None:
    ready.bao.objects["hnai/config"] = {**ready.bao.objects["hnai/config"], key: value}
    out = ready.run()
    assert (out.pending, out.changes) == ([f"hnai/config: {key}"], [])


def test_limits_that_somebody_tuned_wait_for_root(ready: Controller) -> None:
    ready.bao.mounts["pki_int/"]["config"]["max_lease_ttl"] = 7
    ready.bao.auth["approle/"]["config"]["max_lease_ttl"] = 7
    out = ready.run(check=True)
    assert out.pending == [f"mount pki_int: max_lease_ttl=7 (not {1825 * DAY})", f"auth mount approle: max_lease_ttl=7 (not {90 * DAY})"]
    ready.bao.tokens["ceremony"] = "root"
    assert [change.what for change in ready.run("ceremony").changes] == ["tuning of mount pki_int", "tuning of auth mount approle"]
    out = ready.run()
    assert (out.changes, out.pending) == ([], [])


def test_what_the_server_has_by_itself_is_named_and_left_alone_even_by_root(ready: Controller) -> None:
    """It may be somebody else's."""
    ready.bao.auth["token/"]["config"] = {"max_lease_ttl": 7}
    ready.bao.tokens["ceremony"] = "root"
    for root in ("", "ceremony"):
        out = ready.run(root)
        assert (out.foreign, out.pending, out.changes) == (["auth mount token: max_lease_ttl=7 (not 0)"], [], [])


def test_acme_is_switched_off_by_root_alone(ready: Controller) -> None:
    """site-admin may not even look."""
    ready.bao.objects["pki_int/config/acme"] = {"enabled": True}
    ready.bao.refuse = {"pki_int/config": Forbidden}
    assert ready.run().changes == []
    ready.bao.refuse = {}
    ready.bao.tokens["ceremony"] = "root"
    assert [change.what for change in ready.run("ceremony").changes] == ["ACME of pki_int"]
    assert ready.bao.objects["pki_int/config/acme"] == {"enabled": False}


@pytest.mark.parametrize(
    ("path", "key", "value"),
    [
        ("auth/hnai/role/hnai-kafka", "token_period", 86400),
        ("auth/hnai/role/hnai-kafka", "token_policies", ["hnai-kafka", "site-admin"]),
        ("auth/hnai/role/hnai-kafka", "secret_id_bound_cidrs", []),
        ("pki_int/roles/hnai-kafka", "allow_any_name", True),
        ("pki_int/roles/hnai-kafka", "allowed_uri_sans", ["*"]),
        ("pki_int/roles/hnai-kafka", "not_after", "9999-12-31T23:59:59Z"),
        ("pki_int/roles/hnai-kafka", "not_after_bound", "permit"),
        ("pki_int/roles/hnai-kafka", "ext_key_usage", ["CodeSigning"]),
    ],
)
def test_a_role_that_somebody_loosened_is_named_and_put_right(ready: Controller, path: str, key: str, value: Any) -> None:
    was = ready.bao.objects[path][key]
    ready.bao.objects[path] = {**ready.bao.objects[path], key: value}
    (change,) = ready.run(check=True).changes
    assert (f"{key}: {value}" in change.before, f"{key}: {was}" in change.after) == (True, True)
    ready.run()
    assert ready.bao.objects[path][key] == was
    assert ready.run().changes == []


def test_root_is_revoked_and_proven() -> None:
    bao = FakeBao()
    assert site.revoke_root(bao, "root-token") is True
    assert site.revoke_root(bao, "root-token") is False
    bao.tokens["t"] = "deploy"
    with pytest.raises(site.SiteError, match="nothing was revoked"):
        site.revoke_root(bao, "t")
    assert "t" in bao.tokens


def test_root_that_stays_alive_is_an_error() -> None:
    class Deaf(FakeBao):
        def call(self, method: str, path: str, *args: Any, **more: Any) -> dict[str, Any]:
            return {} if path == "auth/token/revoke-self" else super().call(method, path, *args, **more)

    with pytest.raises(site.SiteError, match="still accepted"):
        site.revoke_root(Deaf(), "root-token")


def test_policies_are_least_privilege() -> None:
    text = policies.component("kafka", ["telegraf/kafka"], True, "hnai", "pki_root", "pki_int")
    assert text.count("path ") == 4 and '"hnai/data/kafka/*"' in text and '"hnai/data/telegraf/kafka"' in text
    assert '"pki_int/sign/hnai-kafka"' in text and "sudo" not in text and '"*"' not in text
    assert "sign" not in policies.component("kafka", [], False, "hnai", "pki_root", "pki_int")
    # Paths with the wrapping limits, and no way from deploy to an identity or a value.
    deploy = policies.deploy()
    assert "auth/approle/role" not in deploy and "data/" not in deploy and "min_wrapping_ttl" in deploy
    admin = policies.site_admin("hnai", "pki_root", "pki_int")
    data = admin[admin.index('path "hnai/data/*"'):].split("}")[0]
    assert 'capabilities = ["create"]' in data
    assert "auth/hnai/role/+/secret-id" not in admin


def test_pki_role_names_the_component_and_its_hosts_only() -> None:
    role = site.pki_role("kafka", {"server": True, "client": False, "domains": ["kafka1", "localhost"]}, 90 * DAY)
    assert role["allowed_domains"] == ["kafka1", "localhost"] and role["ou"] == ["kafka"] and role["max_ttl"] == 90 * DAY
    assert (role["server_flag"], role["client_flag"], role["allow_any_name"], role["allow_subdomains"]) == (True, False, False, False)


def test_pki_role_of_an_application_certificate_is_rsa_with_that_uri() -> None:
    wanted = {"server": True, "client": True, "domains": ["edge1"], "uris": ["urn:hnai:lab:edge1:ot_collector"]}
    role = site.pki_role("ot_collector", wanted, 730 * DAY)
    assert (role["key_type"], role["allowed_uri_sans"], role["max_ttl"]) == ("rsa", wanted["uris"], 730 * DAY)
    assert role["key_usage"] == ["DigitalSignature", "ContentCommitment", "KeyEncipherment", "DataEncipherment"]
    assert role["server_flag"] and role["client_flag"] and not role["use_csr_sans"]
    assert site.pki_role("kafka", {"server": True, "client": False, "domains": ["kafka1"]}, 90 * DAY)["allowed_uri_sans"] == []


# -- visits ---------------------------------------------------------------------------------------------------------------

def test_visit_logs_in_as_the_component(ready: Controller) -> None:
    ready.bao.logins.clear()
    found = component.visit(ready.bao, "kafka", ready.held["deploy"], ["kafka/x", "telegraf/kafka"],
                            {"csr": "CSR", "common_name": "kafka1", "dns": ["kafka1", "localhost"], "ips": ["::1"]})
    assert ready.bao.logins == ["deploy", "hnai-kafka"]
    assert found["secrets"]["kafka/x"] == ready.bao.kv["kafka/x"]
    assert found["certificate"]["certificate"] == "LEAF for kafka1\n"
    assert found["certificate"]["ca_chain"] == ["INT\n"], "the root is no part of the chain"
    assert ready.bao.tokens == {}, "both tokens are revoked"
    assert ready.bao.wrapped == {}


def test_visit_without_a_request_signs_nothing(ready: Controller) -> None:
    assert component.visit(ready.bao, "kafka", ready.held["deploy"], [])["certificate"] == {}
    assert not any("/sign/" in path for _method, path in ready.bao.writes)


@pytest.mark.parametrize(("who", "paths", "text"), [
    ("kafka", ["kafka/none"], "is not there"),
    ("nowhere", [], "AppRole hnai-nowhere"),
])
def test_visit_errors_name_the_remedy(ready: Controller, who: str, paths: list[str], text: str) -> None:
    with pytest.raises(component.VisitError, match=text) as caught:
        component.visit(ready.bao, who, ready.held["deploy"], paths)
    assert "playbooks/components/openbao.yml" in str(caught.value)
    assert ready.bao.tokens == {}


def test_visit_with_a_dead_deploy_identity(ready: Controller) -> None:
    with pytest.raises(component.VisitError, match="hnai_openbao_deploy"):
        component.visit(ready.bao, "kafka", {"role_id": "id-of-deploy", "secret_id": "old"}, [])


@pytest.mark.parametrize("status", [429, 500, 502])
def test_a_server_that_cannot_answer_has_refused_nobody(status: int) -> None:
    class Tired:
        def call(self, method: str, path: str, *_more: Any, **_named: Any) -> dict[str, Any]:
            raise BaoError(method, path, status, [])

    with pytest.raises(component.VisitError, match="says nothing about rights") as caught:
        component.enter(Tired(), "kafka", {"role_id": "r", "secret_id": "s"})
    assert "hnai_openbao_deploy" not in str(caught.value)


def test_visit_to_a_secret_that_is_not_granted(ready: Controller) -> None:
    ready.bao.refuse["hnai/data/kafka"] = Forbidden
    with pytest.raises(component.VisitError, match=r"not granted to telegraf.*readers"):
        component.visit(ready.bao, "telegraf", ready.held["deploy"], ["kafka/x"])
