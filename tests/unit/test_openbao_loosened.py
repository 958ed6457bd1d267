# SPDX-License-Identifier: Apache-2.0
"""What is the site's and opens more than declared is named with what it is and is to be; what was not seen is never taken for well."""
from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from ansible_collections.hnai.platform.plugins.module_utils.openbao import loosened, policies, site, strangers
from ansible_collections.hnai.platform.plugins.module_utils.openbao.client import Forbidden, NotFound

DAY = 86400
SPEC: dict[str, Any] = {
    "site": "lab", "kv": "hnai", "pki_root": "pki_root", "pki_int": "pki_int", "root_ttl": 3650 * DAY, "intermediate_ttl": 1825 * DAY,
    "leaf_ttl": 90 * DAY, "identity_ttl": 90 * DAY, "cidrs": ["127.0.0.1/32", "::1/128"], "ssh_host": "ssh-host", "ssh_names": ["kafka1"],
    "components": {"kafka": {"grants": ["telegraf/x"], "secrets": [], "certificate": {"server": True, "client": True, "domains": ["kafka1"]}},
                   "openbao": {"grants": [], "secrets": [], "certificate": None}, "rotation": {"grants": [], "secrets": [], "certificate": None}},
}  # fmt: skip
DEVICES = {"primary/": {"options": {"file_path": "/audit.log", "mode": "0600"}}, "theirs/": {"options": {"file_path": "/else", "mode": "0644"}}}


def mount(kind: str, **config: Any) -> dict[str, Any]:
    return {"type": kind, "config": {"max_lease_ttl": 0, "default_lease_ttl": 0, "force_no_cache": False, **config}}


class Store:
    """A store in which everything is as declared; a test changes one answer. Counts what it is asked for."""

    def __init__(self) -> None:
        lives = {"default_lease_ttl": 90 * DAY}
        self.answers: dict[str, Any] = {
            "sys/mounts": {
                "hnai/": mount("kv"), "pki_root/": mount("pki", max_lease_ttl=3650 * DAY, **lives), "pki_int/": mount("pki", max_lease_ttl=1825 * DAY, **lives),
                "ssh-host/": mount("ssh"), "sys/": mount("system", passthrough_request_headers=["Accept"]), "cubbyhole/": mount("cubbyhole"),
                "identity/": mount("identity", passthrough_request_headers=["Authorization"]), "notes/": mount("kv", listing_visibility="unauth"),
            },
            "sys/auth": {
                "token/": mount("token", token_type="default-service"), "hnai/": mount("approle", token_type="default-service"),
                "approle/": mount("approle", token_type="default-service", max_lease_ttl=90 * DAY),
            },
            "sys/policies/acl/default": {"policy": "\n".join(
                '# by itself\npath "%s" {\n    capabilities = %s\n}\n' % one for one in policies.DEFAULT.items())},
            loosened.HEADERS: {"headers": {"x-correlation-id": {"hmac": True}}},
        }  # fmt: skip
        for _what, path, wanted in [*site.identities(SPEC), *site.acme(SPEC), site.of_ssh(SPEC),
                                    *(one for name in SPEC["components"] for one in site.of_component(SPEC, name))]:
            self.answers[path] = copy.deepcopy(wanted)
        self.asked: list[str] = []

    def call(self, method: str, path: str, _body: Mapping[str, Any] | None) -> dict[str, Any]:
        assert method == "GET"
        self.asked.append(path)
        found = self.answers.get(path, NotFound(method, path, 404, []))
        if isinstance(found, Exception):
            raise found
        return {"data": found}

    def look(self, shared: bool = False) -> loosened.Loosened:
        return loosened.look(strangers.Listing(self.call, []), {**SPEC, "shared": shared}, DEVICES, ["/audit.log"], shared)


@pytest.fixture
def store() -> Store:
    return Store()


def test_as_declared_nothing_is_named_and_nothing_is_asked_twice(store: Store) -> None:
    assert store.look() == loosened.Loosened()
    assert sorted(store.asked) == sorted(store.answers), "each once"


def put(path: str, *keys: str, **values: Any) -> Callable[[Store], None]:
    """Settings at a path, below the keys of its answer."""

    def change(store: Store) -> None:
        found = store.answers[path]
        for key in keys:
            found = found[key]
        found.update(values)

    return change


def more(name: str, rule: str) -> Callable[[Store], None]:
    """A policy with something appended."""
    return lambda store: store.answers["sys/policies/acl/" + name].update(policy=store.answers["sys/policies/acl/" + name]["policy"] + rule)


def without(path: str, key: str = "") -> Callable[[Store], None]:
    return lambda store: (store.answers[path] if key else store.answers).pop(key or path)


_ROLE = "auth/hnai/role/hnai-kafka"
_ALL = 'path "*" {\n  capabilities = ["sudo"]\n}\n'
_MOST = '["update"] max_wrapping_ttl = "120s"'
#: Of a whole server: not the site's where others have it too.
_SERVERS = ("mount sys", "auth mount token", "policy default", "audit")


@pytest.mark.parametrize(("harm", "said"), [
    (put(_ROLE, secret_id_ttl=0), "AppRole hnai-kafka: secret_id_ttl=0 (not 300)"),
    (without(_ROLE, "bind_secret_id"), "AppRole hnai-kafka: bind_secret_id=None (not True)"),
    (without(_ROLE), "AppRole hnai-kafka is not there"),
    (put("auth/hnai/role/hnai-rotation", token_policies=["ops"]), "AppRole hnai-rotation: token_policies=['ops'] (not ['hnai-rotation'])"),
    (put("auth/approle/role/deploy", secret_id_bound_cidrs=[]), "AppRole deploy: secret_id_bound_cidrs=[] (not ['127.0.0.1/32', '::1/128'])"),
    (put("pki_int/roles/hnai-kafka", max_ttl=91 * DAY), f"PKI role hnai-kafka: max_ttl={91 * DAY} (not {90 * DAY})"),
    (put("pki_int/roles/hnai-kafka", issuer_ref="mine"), "PKI role hnai-kafka: issuer_ref=mine (not default)"),
    (put("ssh-host/roles/hnai-host", allow_user_certificates=True), "SSH role hnai-host: allow_user_certificates=True (not False)"),
    (more("hnai-kafka", _ALL), 'policy hnai-kafka: path "*" ["sudo"] (not declared)'),
    (more("hnai-kafka", 'path "hnai/data/telegraf/x" { capabilities = ["update"] }'),
     'policy hnai-kafka: path "hnai/data/telegraf/x" ["read"]; ["update"] (not ["read"])'),
    (more("hnai-kafka", 'path "x" { allowed_parameters = { "password" = ["secret"] } }'), 'policy hnai-kafka: path "" something else (not declared)'),
    (more("hnai-kafka", "# by hand\n"), "policy hnai-kafka: written otherwise"),
    (put("sys/policies/acl/hnai-kafka", policy=""), 'policy hnai-kafka: path "auth/token/revoke-self" nothing (not ["update"])'),
    (more("site-admin", _ALL), 'policy site-admin: path "*" ["sudo"] (not declared)'),
    (lambda store: store.answers["sys/policies/acl/deploy"].update(policy=policies.deploy().replace('  min_wrapping_ttl = "15s"\n', "")),
     f'policy deploy: path "auth/hnai/role/+/secret-id" {_MOST} (not {_MOST} min_wrapping_ttl = "15s")'),
    (put("pki_int/config/acme", enabled=True), "ACME of pki_int: enabled=True (not False)"),
    (put("pki_root/config/acme", enabled=True), "ACME of pki_root: enabled=True (not False)"),
    (put("sys/auth", "hnai/", "config", max_lease_ttl=769 * 3600), f"auth mount hnai: max_lease_ttl={769 * 3600} (not 0)"),
    (put("sys/mounts", "ssh-host/", "config", audit_non_hmac_request_keys=["public_key"]),
     "mount ssh-host: audit_non_hmac_request_keys=['public_key'] (not declared)"),
    (put("sys/mounts", "ssh-host/", type="kv"), "mount ssh-host: type=kv (not declared)"),
    (put("sys/auth", "hnai/", type="userpass"), "auth mount hnai: type=userpass (not declared)"),
    (put("sys/auth", "approle/", "config", user_lockout_config={"user_lockout_threshold": 0, "user_lockout_disable": True}),
     "auth mount approle: user_lockout_config={'user_lockout_threshold': 0, 'user_lockout_disable': True} (not declared)"),
    (without("sys/mounts", "hnai/"), "mount hnai is not there"),
    (put("sys/mounts", "sys/", "config", audit_non_hmac_response_keys=["secret_id"]), "mount sys: audit_non_hmac_response_keys=['secret_id'] (not declared)"),
    (put("sys/auth", "token/", "config", max_lease_ttl=99 * DAY), f"auth mount token: max_lease_ttl={99 * DAY} (not 0)"),
    (more("default", _ALL), 'policy default: path "*" ["sudo"] (not declared)'),
    (put(loosened.HEADERS, "headers", **{"x-vault-token": {"hmac": False}}), "audit: header x-vault-token=in the clear (not declared)"),
])  # fmt: skip
def test_each_is_named_with_what_it_is_and_is_to_be(store: Store, harm: Callable[[Store], Any], said: str) -> None:
    harm(store)
    found = store.look()
    assert (found.found[:1], found.waiting, found.unseen) == ([said], [], []) and (len(found.found) == 1 or "nothing" in said)
    assert store.look(shared=True).found[:1] == ([] if said.startswith(_SERVERS) else [said])


@pytest.mark.parametrize(("key", "value", "said"), [
    ("mode", "0644", "mode=0644 (not 0600)"), ("prefix", "x", "prefix=x (not declared)"), ("log_raw", "true", ""),
])  # fmt: skip
def test_options_of_our_audit_devices(store: Store, monkeypatch: pytest.MonkeyPatch, key: str, value: str, said: str) -> None:
    """One that is recorded in the clear is BAO05's; one that writes elsewhere BAO13's."""
    monkeypatch.setitem(DEVICES["primary/"]["options"], key, value)
    assert store.look().found == ([f"audit device primary: {said}"] if said else [])
    assert store.look(shared=True).found == []


@pytest.mark.parametrize(("harm", "said"), [
    (put("sys/policies/acl/site-admin", policy=policies.site_admin("hnai", "pki_root", "pki_int")),
     'policy site-admin: path "ssh-host/roles/hnai-host" nothing (not ["create", "read", "update"])'),
    (put("sys/auth", "approle/", "config", max_lease_ttl=0), f"auth mount approle: max_lease_ttl=0 (not {90 * DAY})"),
    (put("sys/mounts", "hnai/", "config", max_lease_ttl=60), "mount hnai: max_lease_ttl=60 (not 0)"),
    (without("sys/mounts", "ssh-host/"), "mount ssh-host is not there"),
])  # fmt: skip
def test_what_is_less_and_waits_for_a_ceremony_is_no_finding(store: Store, harm: Callable[[Store], Any], said: str) -> None:
    """As in a store of a release before."""
    harm(store)
    assert (store.look().found, store.look().waiting) == ([], [said])


def test_a_short_identity_under_the_servers_own_limit_is_one(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mount that says nothing gives 32 days."""
    monkeypatch.setitem(SPEC, "identity_ttl", 7 * DAY)
    store = Store()
    store.answers["sys/auth"]["approle/"]["config"]["max_lease_ttl"] = 0
    assert store.look().found == [f"auth mount approle: max_lease_ttl=0 (not {7 * DAY})"]


@pytest.mark.parametrize("path", Store().answers)
def test_what_may_not_be_looked_at_is_unseen_and_no_finding(store: Store, path: str) -> None:
    store.answers[path] = Forbidden("GET", path, 403, [])
    found = store.look()
    assert (found.found, found.unseen) == ([], [path])


def test_an_empty_store_is_not_well(store: Store) -> None:
    for path in store.answers:
        store.answers[path] = {}
    found = store.look().found
    assert {"mount hnai is not there", "auth mount approle is not there", "policy deploy is not there", "AppRole hnai-kafka is not there"} <= {*found}


def test_a_setting_that_was_taken_back_leaves_an_empty_one(store: Store) -> None:
    """As the server shows it afterwards."""
    put("sys/mounts", "hnai/", "config", listing_visibility="hidden", audit_non_hmac_response_keys=[])(store)
    put("sys/auth", "hnai/", "config", user_lockout_config={"user_lockout_disable": False, "user_lockout_threshold": 0})(store)
    assert store.look().found == []


def test_the_policy_of_the_check_reads_what_the_check_asks_for(store: Store) -> None:
    """Each path by an exact rule or a narrow pattern, for reading alone."""
    store.look()
    text = site.of_component(SPEC, "openbao")[0][2]["policy"]
    rules = policies.granted(text)
    for path in store.asked:
        by = [rule for rule in rules if rule in (path, path.rpartition("/")[0] + "/+") or (rule.endswith("hnai-*") and path.startswith(rule[:-1]))]
        assert by and {rules[rule] for rule in by} <= {'["read"]', '["read", "sudo"]'}, path
