# SPDX-License-Identifier: Apache-2.0
"""Convergence of one OpenBao to the site's spec: observe, then change only what differs.

Spec (made on the controller out of the contracts, ``plugin_utils/openbao_spec.py``)::

    {"site": "lab", "kv": "hnai", "pki_root": "pki_root", "pki_int": "pki_int",
     "root_ca": "own" | "site", "chain": [PEM: our intermediate as the site's CA signed it, …, its root] | [],
     "root_ttl": s, "intermediate_ttl": s, "leaf_ttl": s, "identity_ttl": s, "cidrs": ["127.0.0.1/32", "::1/128"],
     "ssh_host": "" | mount of the hosts' SSH CA, "ssh_names": [names and addresses that host certificates may bear],
     "shared": whether somebody else runs the server, "elsewhere": and it is asked at an address (``elsewhere.py``),
     "components": {"kafka": {"grants": ["telegraf/x"], "secrets": [{"path": "kafka/x", "kind": "password", "username": "x"}],
                              "certificate": {"server": true, "client": true, "domains": ["kafka1", "localhost"]} | null}}}

Two levels of right. The *foundation* (mounts, auth mounts, root and intermediate CA, the two identities and their
policies) is made by the root token, which is revoked afterwards. Everything that follows the contracts is done by
site-admin. What of the foundation differs later is reported (``pending``), for a ceremony, and not changed.

Where the site brings its own root CA (``root_ca``) the foundation has no CA: the identity ``hnai-authority`` makes the intermediate's key and request at
the end of the visit, and takes what was signed in a later one. Until then the outcome is ``unsigned``.
"""

from __future__ import annotations

import functools
import secrets as random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from . import authority, component, elsewhere, policies, strangers
from .client import Api, BaoError, Forbidden, NotFound, leave, login, revoke

#: 24 random bytes are 32 url-safe characters.
PASSWORD_BYTES = 24
COMPONENT_TOKEN_S = 300
IDENTITIES = ("site-admin", "deploy")
#: Auth mounts, and what each is said to be for.
AUTH_MOUNTS = {policies.COMPONENT_AUTH: "AppRoles of components", policies.IDENTITY_AUTH: "Identities of the automation"}
SSH_CA = "CA of the hosts' SSH keys"


class SiteError(Exception):
    """Convergence cannot go on; the text names what and the remedy."""


@dataclass
class Change:
    """One object that is, or would be, changed; texts for --diff, never a secret."""

    what: str
    before: str = ""
    after: str = ""


@dataclass
class Outcome:
    """``identities`` is secret: {name: {role_id, secret_id}} of those issued now. ``pending``: foundation that differs.

    ``foreign``: what the contracts do not have and nobody but a person made; it is left alone. ``unsigned``: request (PEM) that the site's CA has not
    signed; ``in_force``: the intermediate that signs, where a site's CA has signed it.
    """

    changes: list[Change] = field(default_factory=list)
    identities: dict[str, dict[str, str]] = field(default_factory=dict)
    pending: list[str] = field(default_factory=list)
    orphans: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)
    root_ca: str = ""
    unsigned: str = ""
    in_force: str = ""


def password() -> str:
    """32 random url-safe characters, never one that a command line takes for an option."""
    while True:
        value = random.token_urlsafe(PASSWORD_BYTES)
        if value[0].isalnum():
            return value


def instant(text: str) -> float:
    """Unix seconds of OpenBao's RFC 3339 times (nanoseconds, Z)."""
    return datetime.strptime(text[:19], "%Y-%m-%dT%H:%M:%S").replace(tzinfo=timezone.utc).timestamp()


def fresh(found: Mapping[str, Any], now: float) -> bool:
    """Whether a secret_id (as its lookup shows it) has more than a third of its life left, or none that ends."""
    born, dies = instant(found["creation_time"]), instant(found["expiration_time"])
    return dies < born or dies - now > (dies - born) / 3


def differing(present: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """{key: (there, wanted)} of the wanted keys that have another value; lists without order, addresses without their full-length mask. A key that the
    server does not have is off."""

    def plain(value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            value = sorted(str(item).replace("/32", "").replace("/128", "") for item in value)
        return value or None

    return {key: (present.get(key), value) for key, value in wanted.items() if plain(present.get(key)) != plain(value)}


def off(spec: Mapping[str, Any], present: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """`differing`, of an object on the site's server."""
    return differing(present, elsewhere.understood(present, wanted) if spec.get("elsewhere") else wanted)


def said(what: str, off: Mapping[str, tuple[Any, Any]]) -> list[str]:
    """One text a key of `differing`."""
    return ["%s: %s=%s (not %s)" % (what, key, there, wanted) for key, (there, wanted) in sorted(off.items())]


def approle(policy: str, cidrs: list[str], secret_id_ttl_s: int, uses: int) -> dict[str, Any]:
    """Settings of an AppRole."""
    return {
        "bind_secret_id": True,
        "secret_id_num_uses": uses,
        "secret_id_ttl": secret_id_ttl_s,
        "secret_id_bound_cidrs": cidrs,
        "token_bound_cidrs": cidrs,
        "token_policies": [policy],
        "token_no_default_policy": True,
        "token_ttl": COMPONENT_TOKEN_S,
        "token_max_ttl": COMPONENT_TOKEN_S,
        "token_type": "service",
        # A period would outlive every limit above.
        "token_period": 0,
        "token_explicit_max_ttl": 0,
        "token_num_uses": 0,
    }


#: Servers trust an application certificate by its thumbprint, so each change asks something of people.
APPLICATION_TTL_S = 730 * 86400


def pki_role(component: str, certificate: Mapping[str, Any], leaf_ttl_s: int) -> dict[str, Any]:
    """Settings of a component's PKI role: its hosts' names only, EC keys, OU = component.

    With ``uris`` it is for OPC UA application certificates (OPC 10000-6, 6.2.2): RSA, those URIs, the usages that servers ask of an application.
    """
    settings = _pki_role(component, certificate, leaf_ttl_s)
    if certificate.get("uris"):
        settings.update(key_type="rsa", key_bits=2048, allowed_uri_sans=sorted(certificate["uris"]),
                        key_usage=["DigitalSignature", "ContentCommitment", "KeyEncipherment", "DataEncipherment"])
    return settings


def _pki_role(component: str, certificate: Mapping[str, Any], leaf_ttl_s: int) -> dict[str, Any]:
    return {
        "allowed_domains": sorted(set(certificate["domains"])),
        "allow_bare_domains": True,
        "allow_subdomains": False,
        "allow_glob_domains": False,
        "allow_wildcard_certificates": False,
        "allow_any_name": False,
        "allow_localhost": True,
        "allow_ip_sans": True,
        "enforce_hostnames": True,
        "require_cn": True,
        "server_flag": bool(certificate.get("server")),
        "client_flag": bool(certificate.get("client")),
        "code_signing_flag": False,
        "email_protection_flag": False,
        "key_type": "ec",
        "key_bits": 256,
        "key_usage": ["DigitalSignature"],
        "ou": [component],
        "ttl": leaf_ttl_s,
        "max_ttl": leaf_ttl_s,
        "use_csr_common_name": False,
        "use_csr_sans": False,
        "not_before_duration": 60,
        "not_after": "",
        "no_store": False,
        "allowed_domains_template": False,
        "allowed_uri_sans": [],
        "allowed_other_sans": [],
        "allowed_user_ids": [],
        "basic_constraints_valid_for_non_ca": False,
        "ext_key_usage": [],
        "ext_key_usage_oids": [],
        "generate_lease": False,
        "issuer_ref": "default",
        "allow_globs_in_identity_templates": False,
        "allowed_uri_sans_template": False,
        "allowed_serial_numbers": [],
        "cn_validations": ["email", "hostname"],
        "policy_identifiers": [],
        "not_before": "",
        # Else whoever asks names the end of its certificate, and no limit above holds.
        "not_after_bound": "forbid",
        "not_before_bound": "forbid",
    }


def longest(spec: Mapping[str, Any]) -> int:
    """Seconds that the longest certificate lives that the intermediate is asked for."""
    asked = [item["certificate"] for item in spec["components"].values() if item.get("certificate")]
    return max([int(spec["leaf_ttl"]), *(_life(certificate, spec) for certificate in asked)])


def _life(certificate: Mapping[str, Any], spec: Mapping[str, Any]) -> int:
    return min(APPLICATION_TTL_S, int(spec["intermediate_ttl"]) // 2) if certificate.get("uris") else int(spec["leaf_ttl"])


def ssh_role(names: list[str], ttl_s: int) -> dict[str, Any]:
    """Settings of the role that certifies hosts' SSH keys: these names and addresses, and nobody's user key."""
    return {
        "key_type": "ca", "allow_host_certificates": True, "allow_user_certificates": False, "allowed_domains": ",".join(names),
        "allow_bare_domains": True, "allow_subdomains": False, "ttl": ttl_s, "max_ttl": ttl_s, "issuer_ref": "default", "not_before_duration": 30,
        "allowed_domains_template": False, "allow_wildcards_in_identity_templates": False, "allow_empty_principals": False, "allow_user_key_ids": False,
    }  # fmt: skip


#: What it is called, its path, what stands there.
Object = tuple[str, str, dict[str, Any]]


def _policy(spec: Mapping[str, Any], name: str, text: str) -> Object:
    if spec.get("elsewhere"):
        text = elsewhere.policy(text)
    return "policy %s" % name, "sys/policies/acl/" + name, {"policy": text}


def identities(spec: Mapping[str, Any]) -> list[Object]:
    """The run's own identities. Only root changes these."""
    texts = {"site-admin": policies.site_admin(spec["kv"], spec["pki_root"], spec["pki_int"], spec.get("ssh_host", "")), "deploy": policies.deploy()}
    return [
        *(_policy(spec, name, texts[name]) for name in IDENTITIES),
        *(("AppRole %s" % name, "auth/%s/role/%s" % (policies.IDENTITY_AUTH, name), approle(name, list(spec["cidrs"]), spec["identity_ttl"], 0))
          for name in IDENTITIES),
    ]  # fmt: skip


def acme(spec: Mapping[str, Any]) -> list[Object]:
    """It signs for whoever asks, without a login. Only root looks, and changes it."""
    return [("ACME of %s" % mount, mount + "/config/acme", {"enabled": False}) for mount in (spec["pki_root"], spec["pki_int"])]


def of_component(spec: Mapping[str, Any], name: str) -> list[Object]:
    """Of a component, or of an identity that is entered as one."""
    full, component = policies.PREFIX + name, spec["components"][name]
    mounts = (spec["kv"], spec["pki_root"], spec["pki_int"], spec.get("ssh_host", ""))
    certificate = component.get("certificate")
    text = policies.component(name, component.get("grants", ()), bool(certificate), *mounts)
    made = [
        _policy(spec, full, policies.internal(*mounts).get(name, text)),
        ("AppRole %s" % full, "auth/%s/role/%s" % (policies.COMPONENT_AUTH, full), approle(full, list(spec["cidrs"]), COMPONENT_TOKEN_S, 1)),
    ]
    if certificate:
        made.append(("PKI role %s" % full, "%s/roles/%s" % (spec["pki_int"], full), pki_role(name, certificate, _life(certificate, spec))))
    return made


def of_ssh(spec: Mapping[str, Any]) -> Object:
    """Which names may stand in a host's SSH certificate."""
    role = ssh_role(sorted(spec.get("ssh_names", ())), spec["leaf_ttl"])
    return "SSH role %s" % policies.SSH_ROLE, "%s/roles/%s" % (spec["ssh_host"], policies.SSH_ROLE), role


@dataclass(frozen=True)
class Tuning:
    """Of a mount: what it is called, the path by which it is tuned, what it is tuned to (None: there is no such mount), its limits as they are to be,
    what else somebody tuned, and whether the server has it by itself."""

    what: str
    path: str
    config: Mapping[str, Any] | None
    limits: Mapping[str, int]
    other: Mapping[str, Any]
    built_in: bool

    @property
    def off(self) -> dict[str, tuple[Any, Any]]:
        """Limits that are others."""
        return differing(self.config or {}, self.limits)


#: What the server sets itself: on any mount, and on those that it has by itself, which may be somebody else's to tune.
_USUAL = {"token_type": "default-service", "listing_visibility": "hidden"}
_BUILT_IN: dict[str, dict[str, Any]] = {
    "sys": {"passthrough_request_headers": ["Accept"]}, "identity": {"passthrough_request_headers": ["Authorization"]}, "cubbyhole": {}, "token": {},
}  # fmt: skip


def _says(value: Any) -> bool:
    """Whether a setting is one: what was once set stays, and is empty."""
    return any(value.values()) if isinstance(value, Mapping) else bool(value)


def tunings(spec: Mapping[str, Any], mounts: Mapping[str, Any], auths: Mapping[str, Any]) -> list[Tuning]:
    """How long what a mount gives out lives, and whatever else is tuned, of the site's mounts and of those that the server has by itself."""
    lives = {spec["pki_root"]: spec["root_ttl"], spec["pki_int"]: spec["intermediate_ttl"]}
    engines = {spec["kv"]: "kv", **dict.fromkeys(lives, "pki")}
    if spec.get("ssh_host"):
        engines[spec["ssh_host"]] = "ssh"
    logins = {policies.COMPONENT_AUTH: "approle", policies.IDENTITY_AUTH: "approle"}
    if not spec.get("shared"):  # else they are its owner's, and in a namespace of other types
        engines.update({"sys": "system", "identity": "identity", "cubbyhole": "cubbyhole"})
        logins["token"] = "token"
    found = []
    for kind, path, listed, types in (("mount %s", "sys/mounts/%s/tune", mounts, engines), ("auth mount %s", "sys/auth/%s/tune", auths, logins)):
        for name in types:
            limits = {"max_lease_ttl": lives.get(name, 0), "default_lease_ttl": min(lives.get(name, 0), spec["leaf_ttl"])}
            if name == policies.IDENTITY_AUTH and listed is auths:
                limits["max_lease_ttl"] = spec["identity_ttl"]
            present = listed.get(name + "/")
            config = None if present is None else present.get("config") or {}
            usual = {**_USUAL, **_BUILT_IN.get(name, {})}
            other = {key: value for key, value in (config or {}).items() if key not in limits and value != usual.get(key) and _says(value)}
            if present is not None and present.get("type") != types[name]:
                other["type"] = present.get("type")
            found.append(Tuning(kind % name, path % name, config, limits, other, name in _BUILT_IN))
    return found


class Site:
    """One visit. *credentials*: {"site-admin": {role_id, secret_id}, "deploy": {…}} as far as the controller has them."""

    def __init__(
        self,
        api: Api,
        spec: Mapping[str, Any],
        credentials: Mapping[str, Mapping[str, str]],
        root_token: str = "",
        check: bool = False,
        now: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
        new_password: Callable[[], str] = password,
        progress: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.api = api
        self.spec = spec
        self.credentials = credentials
        self.root_token = root_token
        self.check = check
        self.out = Outcome()
        self._now = now
        self._sleep = sleep
        self._password = new_password
        self._progress = progress
        self._token = ""
        self._is_root = False

    # -- entry --------------------------------------------------------------------------------------------
    def converge(self) -> Outcome:
        """All of it. Raises SiteError, BaoError, Unreachable."""
        self._enter()
        try:
            if self._foundation():
                for name in sorted(self.spec["components"]):
                    for one in of_component(self.spec, name):
                        self._object(*one)
                self._secrets()
                self._ssh_role()
                self._foreign()
            self._identities()
            self._site_ca()
        finally:
            if not self._is_root:
                leave(self.api, self._token)
        self.out.root_ca = self._root_ca()
        return self.out

    def _enter(self) -> None:
        """Root where a living one was given (it can do all), else site-admin."""
        reasons = []
        if self.root_token:
            try:
                self._call("GET", "auth/token/lookup-self", token=self.root_token)
                self._token, self._is_root = self.root_token, True
                return
            except Forbidden:
                reasons.append("the root token at hand is not alive")
        admin = self.credentials.get("site-admin") or {}
        if admin.get("secret_id"):
            try:
                self._token = login(self.api, policies.IDENTITY_AUTH, admin["role_id"], admin["secret_id"])["client_token"]
                return
            except BaoError as error:
                if error.status not in (400, 403, 404):
                    raise
                reasons.append("the site-admin identity is refused (%s)" % error)
        else:
            reasons.append("the controller has no site-admin identity (openbao/deploy.json in hnai_state_dir)")
        raise SiteError(
            "%s. Bring that file back (or the AWX credential); without it a key-holder ceremony gives a root token for one "
            "run: -e @file with openbao_root_token, docs/openbao-ceremony.md" % ", and ".join(reasons)
        )

    # -- helpers ------------------------------------------------------------------------------------------
    def _call(self, method: str, path: str, body: Mapping[str, Any] | None = None, token: str = "") -> dict[str, Any]:
        return self.api.call(method, path, body, token=token or self._token)

    def _read(self, path: str) -> dict[str, Any] | None:
        try:
            return dict(self._call("GET", path)["data"])
        except NotFound:
            return None

    def _change(self, what: str, write: Callable[[], Any], before: str = "", after: str = "") -> None:
        self.out.changes.append(Change(what, before, after))
        if not self.check:
            self._progress(what)
            write()

    def _object(self, what: str, path: str, wanted: Mapping[str, Any], may_write: bool = True) -> None:
        present = self._read(path)
        if present is not None and not off(self.spec, present, wanted):
            return
        if not may_write:
            self.out.pending.append(what)
            return

        def show(values: Mapping[str, Any]) -> str:
            return str(values["policy"]) if "policy" in wanted else "".join("%s: %s\n" % (key, values.get(key)) for key in sorted(wanted))

        self._change(what, lambda: self._call("POST", path, wanted), "" if present is None else show(present), show(wanted))

    # -- foundation ---------------------------------------------------------------------------------------
    def _foundation(self) -> bool:
        """True when what follows has something to stand on (in check mode on a fresh store it has not)."""
        spec = self.spec
        mounts = self._call("GET", "sys/mounts")["data"]
        auths = self._call("GET", "sys/auth")["data"]
        there = True
        wanted: list[tuple[str, int, dict[str, Any]]] = [
            (spec["kv"], 0, {"type": "kv", "options": {"version": "2"}, "description": "Secrets of the platform's components"}),
            (spec["pki_root"], spec["root_ttl"], {"type": "pki", "description": "Root CA of the site"}),
            (
                spec["pki_int"],
                spec["intermediate_ttl"],
                {"type": "pki", "description": "Intermediate CA: signs the hosts' certificates"},
            ),
        ]
        if spec.get("shared"):
            self._untaken(mounts, auths, {name: body["description"] for name, _ttl, body in wanted})
        for name, ttl, body in wanted:
            present = mounts.get(name + "/")
            if present is None:
                there = False
                if ttl:
                    body["config"] = {"max_lease_ttl": "%ds" % ttl, "default_lease_ttl": "%ds" % min(ttl, spec["leaf_ttl"])}
                self._privileged("mount %s" % name, "sys/mounts/" + name, body)
            elif present["type"] != body["type"]:
                raise SiteError(
                    "mount %s is of type %s, not %s: choose another name (openbao_kv_mount, openbao_pki_mounts)" % (name, present["type"], body["type"])
                )
        for name, text in AUTH_MOUNTS.items():
            longest_s = spec["identity_ttl"] if name == policies.IDENTITY_AUTH else 0
            if name + "/" not in auths:
                there = False
                # Without it the server's longest lease (32 days) is the life of every secret_id.
                longest = {"config": {"max_lease_ttl": "%ds" % longest_s}} if longest_s else {}
                self._privileged("auth mount %s" % name, "sys/auth/" + name, {"type": "approle", "description": text, **longest})
        if self.check and not there:
            return False
        for tuning in tunings(spec, mounts, auths):
            self._tuned(tuning)
        self._ssh_ca(mounts)
        self._kv_config()
        self._authorities()
        for one in [*identities(spec), *(acme(spec) if self._is_root else [])]:
            self._object(*one, may_write=self._is_root)
        return True

    def _untaken(self, mounts: Mapping[str, Any], auths: Mapping[str, Any], wanted: Mapping[str, str]) -> None:
        """On a server of others nothing of theirs becomes ours: what bears a name of ours says that we made it. Raises SiteError."""
        if self.spec.get("ssh_host"):
            wanted = {**wanted, self.spec["ssh_host"]: SSH_CA}
        taken = [
            "%s %s" % (kind, name) for kind, there, ours in (("mount", mounts, wanted), ("auth mount", auths, AUTH_MOUNTS)) for name, text in ours.items()
            if name + "/" in there and there[name + "/"].get("description") != text
        ]  # fmt: skip
        if policies.IDENTITY_AUTH + "/" not in auths:
            taken += ["policy %s" % name for name in IDENTITIES if self._read("sys/policies/acl/" + name) is not None]
        if taken:
            raise SiteError(
                "%s: there already, and not made by this collection. Nothing was changed; give the site a namespace of its own (openbao_external.namespace), "
                "or other names (openbao_kv_mount, openbao_pki_mounts, openbao_ssh_host_mount)" % ", ".join(taken)
            )

    def _ssh_ca(self, mounts: Mapping[str, Any]) -> None:
        """The CA of the hosts' SSH certificates; its key never leaves OpenBao. A store from before waits for a ceremony, and nothing waits for that."""
        name = self.spec.get("ssh_host", "")
        if not name:
            return
        if not self._is_root:
            if name + "/" not in mounts:
                self.out.pending.append("mount %s (no SSH host certificates until then)" % name)
            return
        if name + "/" not in mounts:
            self._change("mount %s" % name, lambda: self._call("POST", "sys/mounts/" + name, {"type": "ssh", "description": SSH_CA}))
        elif mounts[name + "/"]["type"] != "ssh":
            raise SiteError("mount %s is of type %s, not ssh: choose another name (openbao_ssh_host_mount)" % (name, mounts[name + "/"]["type"]))
        path = name + "/config/ca"
        try:
            there = name + "/" in mounts and self._read(path) is not None
        except BaoError as error:
            if error.status != 400:  # "keys haven't been configured yet": exactly that means none
                raise
            there = False
        if not there:
            self._change("SSH CA of %s" % name, lambda: self._call("POST", path, {"generate_signing_key": True, "key_type": "ed25519"}))

    def _ssh_role(self) -> None:
        """Which names may stand in a host's certificate."""
        mount = self.spec.get("ssh_host", "")
        if not mount or any(item.startswith("mount %s " % mount) for item in self.out.pending):
            return
        try:
            self._object(*of_ssh(self.spec))
        except Forbidden:
            if "policy site-admin" not in self.out.pending:  # else it comes with that
                raise

    def _tuned(self, tuning: Tuning) -> None:
        """The limits of the site's mounts are put back by root; the rest is a person's to undo."""
        if tuning.config is None:
            return
        off = tuning.off
        if tuning.built_in:
            self.out.foreign += said(tuning.what, off)
        elif off and self._is_root:
            show = [", ".join("%s=%s" % (key, off[key][which]) for key in sorted(off)) for which in (0, 1)]
            self._change("tuning of %s" % tuning.what, lambda: self._call("POST", tuning.path, {key: off[key][1] for key in off}), *show)
        else:
            self.out.pending += said(tuning.what, off)
        self.out.foreign += ["%s: %s=%s" % (tuning.what, *setting) for setting in sorted(tuning.other.items())]

    def _privileged(self, what: str, path: str, body: Mapping[str, Any]) -> None:
        if not self._is_root:
            raise SiteError(
                "%s is absent and only root may create it: this store was changed by hand or is another one. Restore it, "
                "or give a root token for one run (openbao_root_token, docs/openbao-ceremony.md)" % what
            )
        self._change(what, lambda: self._call("POST", path, body))

    def _kv_config(self) -> None:
        path = self.spec["kv"] + "/config"
        wanted = policies.KV_CONFIG
        present = self._when_ready(lambda: self._read(path)) or {}
        off = differing(present, wanted)
        if not off:
            return
        if not self._is_root:
            self.out.pending.append("%s: %s" % (path, ", ".join(sorted(off))))
            return
        self._change("%s: every write needs check-and-set" % path, lambda: self._when_ready(lambda: self._call("POST", path, wanted)))

    def _when_ready(self, call: Callable[[], Any]) -> Any:
        """A KV mount is upgraded to version 2 in the background (400 until then, about one second)."""
        for _attempt in range(50):
            try:
                return call()
            except BaoError as error:
                if error.status != 400 or "pgrading" not in " ".join(error.errors):
                    raise
            self._sleep(0.2)
        return call()

    def _ca(self, mount: str) -> str:
        """The CA certificate of a mount, "" if it has none. The path needs no token."""
        try:
            return str(self._call("GET", mount + "/cert/ca")["data"].get("certificate") or "").strip()
        except BaoError as error:
            # Exactly these two mean "none yet"; any other error must never lead to a second root.
            if error.status == 404 or (error.status == 400 and "no default issuer" in " ".join(error.errors)):
                return ""
            raise

    def _root_ca(self) -> str:
        """What hosts shall trust: one root, or two while the root is rotated."""
        if self._by_site and not self._ca(self.spec["pki_int"]):
            return ""  # imported by a run that was killed, and nothing stands on it
        return authority.trust_bundle(self.api, self.spec["pki_root"])

    @property
    def _by_site(self) -> bool:
        return self.spec.get("root_ca", "own") == "site"

    def _one_root(self) -> None:
        """A root that hosts trust is of the kind that the site says; needs no token. Raises SiteError: never a second one in silence."""
        keyed = [bool(info.get("key_id")) for info in authority.living(self.api, self.spec["pki_root"]).values()]
        if keyed and (not self._by_site) not in keyed:
            raise SiteError(
                "openbao_root_ca is %s, and the root CA that the hosts trust is %s. Nothing was changed: an ordinary run makes no second root. "
                "playbooks/rotate.yml -e rotate_secret=pki/root leads from one to the other (docs/rotation.md); to leave it as it is, set openbao_root_ca to %s"
                % (("site", "OpenBao's own", "own") if self._by_site else ("own", "the site's, whose key is not in this store", "site"))
            )

    def _site_ca(self) -> None:
        """The intermediate under the site's own root: in force, or its request, or taken out of the chain."""
        spec = self.spec
        if not self._by_site:
            return
        self.out.in_force = self._ca(spec["pki_int"])
        if self.out.in_force:
            return
        what = (
            "intermediate CA of %s, as the site's CA has signed it" % spec["pki_int"] if spec.get("chain")
            else "request for the intermediate CA: a run ends there until the site's CA has signed it"
        )  # fmt: skip
        if self.check:
            self.out.changes.append(Change(what))
            return
        token = component.enter(self.api, policies.AUTHORITY, {**self.credentials.get("deploy", {}), **self.out.identities.get("deploy", {})})
        names = {"intermediate": "%s intermediate CA" % spec["site"]}
        pki = authority.Pki(self.api, token, spec["pki_root"], spec["pki_int"], names, chain=spec.get("chain") or ())
        try:
            pki.first()
            self.out.changes.append(Change(what))
            self.out.in_force = self._ca(spec["pki_int"])
        except authority.Unsigned as error:
            self.out.unsigned = error.csr
        finally:
            leave(self.api, token)

    def _authorities(self) -> None:
        spec = self.spec
        self._one_root()
        if self._by_site:
            return
        root, intermediate = spec["pki_root"], spec["pki_int"]
        names = {"root": "%s root CA" % spec["site"], "intermediate": "%s intermediate CA" % spec["site"]}
        # Asked in two ways: a site's root, as long as it is there beside ours, has no key to answer the second.
        if not authority.living(self.api, root) and not self._ca(root):
            self._privileged(
                "root CA of %s" % root,
                root + "/root/generate/internal",
                {
                    "common_name": names["root"],
                    "issuer_name": "root",
                    "key_type": "ec",
                    "key_bits": 384,
                    "ttl": "%ds" % spec["root_ttl"],
                    "max_path_length": 1,
                },
            )
        if self._ca(intermediate) or (self.check and not self._ca(root)):
            return
        if not self._is_root:
            self._privileged("intermediate CA of %s" % intermediate, "", {})
        self._change("intermediate CA of %s" % intermediate, lambda: self._intermediate(names["intermediate"]))

    def _intermediate(self, name: str) -> None:
        spec = self.spec
        asked = self._call(
            "POST",
            spec["pki_int"] + "/intermediate/generate/internal",
            {"common_name": name, "key_type": "ec", "key_bits": 256},
        )["data"]["csr"]
        signed = self._call(
            "POST",
            spec["pki_root"] + "/root/sign-intermediate",
            {"csr": asked, "common_name": name, "ttl": "%ds" % spec["intermediate_ttl"], "max_path_length": 0},
        )["data"]
        self._call(
            "POST",
            spec["pki_int"] + "/intermediate/set-signed",
            {"certificate": "%s\n%s" % (signed["certificate"], signed["issuing_ca"])},
        )

    # -- contracts ----------------------------------------------------------------------------------------
    def _secrets(self) -> None:
        kv = self.spec["kv"]
        try:
            present = set(self._call("SCAN", kv + "/metadata/")["data"].get("keys") or [])
        except NotFound:
            present = set()
        for name in sorted(self.spec["components"]):
            for secret in self.spec["components"][name].get("secrets", ()):
                path = secret["path"]
                if path in present or secret["kind"] != "password":
                    continue
                present.add(path)
                value = {"username": secret.get("username") or path.rsplit("/", 1)[-1], "password": self._password()}
                body = {"options": {"cas": 0}, "data": value}
                write = functools.partial(self._call, "POST", "%s/data/%s" % (kv, path), body)
                self._change("secret %s/%s" % (kv, path), write)

    def _foreign(self) -> None:
        """Who else could come in, or sign. Only names are asked for; a store whose site-admin may not list them yet says so (``pending``)."""
        spec = self.spec
        certified = [name for name, one in spec["components"].items() if one.get("certificate")]
        own = strangers.Own(
            spec["kv"], spec["pki_root"], spec["pki_int"], spec.get("ssh_host", ""), list(spec["components"]), certified, bool(spec.get("shared")))
        found = strangers.beside(strangers.Listing(self._call, []), own)
        self.out.orphans = found[strangers.APPROLE]
        self.out.foreign += strangers.said(found)

    # -- identities ---------------------------------------------------------------------------------------
    def _identities(self) -> None:
        """Each identity has a secret_id that works and has more than a third of its life left."""
        for identity in IDENTITIES:
            role = "auth/%s/role/%s" % (policies.IDENTITY_AUTH, identity)
            held = self.credentials.get(identity) or {}
            if held.get("secret_id") and self._good(role, held["secret_id"]):
                continue
            self._change("secret_id of %s" % identity, functools.partial(self._issue, identity, role))

    def _good(self, role: str, secret_id: str) -> bool:
        try:
            found = self._call("POST", role + "/secret-id/lookup", {"secret_id": secret_id}).get("data") or {}
        except NotFound:
            return False
        return bool(found) and fresh(found, self._now())

    def _issue(self, identity: str, role: str) -> None:
        self.out.identities[identity] = {
            "role_id": str(self._call("GET", role + "/role-id")["data"]["role_id"]),
            "secret_id": str(self._call("POST", role + "/secret-id", {})["data"]["secret_id"]),
        }


def revoke_root(api: Api, root_token: str, owned: bool = True) -> bool:
    """Revoke the root token and prove that it is refused. True if it was alive. Raises SiteError when it still works.

    *owned*: the server is ours. The owner of another one gives a token that may do as much as root in the site's namespace.
    """
    try:
        found = api.call("GET", "auth/token/lookup-self", token=root_token)["data"]
    except Forbidden:
        return False
    if owned and "root" not in found.get("policies", []):
        raise SiteError("the token that was given as root token has the policies %s: nothing was revoked" % found.get("policies"))
    revoke(api, root_token)
    try:
        api.call("GET", "auth/token/lookup-self", token=root_token)
    except Forbidden:
        return True
    raise SiteError("the root token is still accepted after its revocation")
