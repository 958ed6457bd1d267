# SPDX-License-Identifier: Apache-2.0
"""One visit to OpenBao as a component: secrets and a signature, so that the audit log names the component.

deploy identity -> wrapped, single-use secret_id of ``hnai-<component>`` -> unwrap -> login as the component -> read,
sign -> both tokens are revoked. Visits share nothing, so any number may run side by side.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from . import policies
from .authority import trust_bundle
from .client import Api, BaoError, Forbidden, NotFound, Sealed, leave, login


class VisitError(Exception):
    """The visit failed; the text names the step and the remedy."""


def explain(error: BaoError, what: str, remedy: str) -> VisitError:
    """*remedy* is that of a refusal; a server that cannot answer has another one."""
    if isinstance(error, Sealed):
        return VisitError(
            "OpenBao is sealed or has no active node, nothing more was changed; remedy: run playbooks/components/openbao.yml where the controller has "
            "the keys, else the key holders unseal it (docs/openbao-ceremony.md); then run again"
        )
    if error.status == 429 or error.status >= 500:
        remedy = "OpenBao could not answer, which says nothing about rights: its log (journalctl -u hnai-openbao) says why; then run again"
    if "expiration of the CA" in str(error):
        remedy = "The intermediate authority ends before the certificate would: playbooks/rotate.yml -e rotate_secret=pki/intermediate (docs/rotation.md)"
    return VisitError("%s: %s. %s" % (what, error, remedy))


def enter(api: Api, component: str, deploy: Mapping[str, str]) -> str:
    """A token of the component, by way of a wrapped secret_id. The deploy token is revoked before this returns."""
    return str(entered(api, component, deploy)["client_token"])


def entered(api: Api, component: str, deploy: Mapping[str, str]) -> dict[str, Any]:
    """As `enter`: what a login returns, the token's accessor too."""
    role = "auth/%s/role/%s%s" % (policies.COMPONENT_AUTH, policies.PREFIX, component)
    try:
        token = str(login(api, policies.IDENTITY_AUTH, deploy["role_id"], deploy["secret_id"])["client_token"])
    except BaoError as error:
        raise explain(
            error,
            "login as the deploy identity",
            "hnai_openbao_deploy is not (any more) valid: run playbooks/components/openbao.yml, which issues a new one",
        ) from error
    try:
        try:
            role_id = api.call("GET", role + "/role-id", token=token)["data"]["role_id"]
            wrapped = api.call("POST", role + "/secret-id", {}, token=token, wrap_ttl="60s")["wrap_info"]["token"]
        except BaoError as error:
            raise explain(
                error,
                "AppRole %s%s" % (policies.PREFIX, component),
                "If the component is placed in the inventory, run playbooks/components/openbao.yml: it makes the AppRole out of the contract",
            ) from error
    finally:
        leave(api, token)
    try:
        secret_id = api.call("POST", "sys/wrapping/unwrap", {}, token=wrapped)["data"]["secret_id"]
        return login(api, policies.COMPONENT_AUTH, role_id, secret_id)
    except BaoError as error:
        raise explain(
            error,
            "login as %s%s" % (policies.PREFIX, component),
            "If the wrapped secret_id was used by someone else, look into the audit log for sys/wrapping/unwrap",
        ) from error


def read(api: Api, token: str, kv: str, component: str, paths: Iterable[str]) -> dict[str, dict[str, Any]]:
    """{path: {field: value}} of KV v2 secrets. Raises VisitError for one that is absent or not granted."""
    found = {}
    for path in paths:
        try:
            found[path] = dict(api.call("GET", "%s/data/%s" % (kv, path), token=token)["data"]["data"] or {})
        except NotFound as error:
            raise VisitError(
                "secret %s/%s is not there. Declare it under secrets: in a contract (kind: password is generated), or put it "
                "there by hand, then run playbooks/components/openbao.yml" % (kv, path)
            ) from error
        except Forbidden as error:
            raise VisitError(
                "secret %s/%s is not granted to %s. Its contract must list %s under readers:, then run "
                "playbooks/components/openbao.yml" % (kv, path, component, component)
            ) from error
        except BaoError as error:
            raise explain(error, "secret %s/%s" % (kv, path), "") from error
    return found


def sign(api: Api, token: str, pki: str, pki_root: str, component: str, request: Mapping[str, Any]) -> dict[str, Any]:
    """{certificate, ca_chain: [PEM of intermediates], root: all roots to trust, serial, not_after}. *request*: csr, common_name, dns, ips, uris, ttl."""
    names = [name for name in request.get("dns") or [] if name != request["common_name"]]
    body: dict[str, Any] = {
        "csr": request["csr"],
        "common_name": request["common_name"],
        "alt_names": ",".join(names),
        "ip_sans": ",".join(request.get("ips") or []),
    }
    if request.get("uris"):
        body["uri_sans"] = ",".join(request["uris"])
    if request.get("ttl"):
        body["ttl"] = request["ttl"]
    try:
        signed = api.call("POST", "%s/sign/%s%s" % (pki, policies.PREFIX, component), body, token=token)["data"]
        roots = trust_bundle(api, pki_root)
    except BaoError as error:
        raise explain(
            error,
            "certificate for %s" % request["common_name"],
            "The PKI role %s%s allows the inventory names of the hosts of "
            "%s; a new host or name needs a run of playbooks/components/openbao.yml" % (policies.PREFIX, component, component),
        ) from error
    chain = [pem.strip() for pem in signed.get("ca_chain") or []]
    return {
        "certificate": signed["certificate"].strip() + "\n",
        "ca_chain": [pem + "\n" for pem in chain if pem not in roots],
        "root": roots,
        "serial": signed["serial_number"],
        "not_after": signed["expiration"],
    }


def visit(
    api: Api,
    component: str,
    deploy: Mapping[str, str],
    paths: Iterable[str] = (),
    request: Mapping[str, Any] | None = None,
    kv: str = "hnai",
    pki: str = "pki_int",
    pki_root: str = "pki_root",
) -> dict[str, Any]:
    """The whole visit: {"secrets": …, "certificate": {} or …}."""
    token = enter(api, component, deploy)
    try:
        secrets = read(api, token, kv, component, paths)
        certificate = sign(api, token, pki, pki_root, component, request) if request else {}
    finally:
        leave(api, token)
    return {"secrets": secrets, "certificate": certificate}
