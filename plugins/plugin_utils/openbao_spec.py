# SPDX-License-Identifier: Apache-2.0
"""What OpenBao must hold, computed out of the contracts of the placed components. Controller only."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping
from typing import Any

from ansible_collections.hnai.platform.plugins.module_utils.openbao import policies

#: Kinds of secret that are generated when absent; every other kind is put there by people.
GENERATED = ("password",)
_SPAN = re.compile(r"^(\d+)\s*([smhdwy])$")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800, "y": 31536000}


class SpecError(Exception):
    """Contracts or settings that cannot be turned into a spec; the text names the key and the remedy."""


def seconds(text: str, key: str) -> int:
    """Seconds of ``90d``, ``10y`` (365 days each), ``12h``. Raises SpecError naming *key*."""
    found = _SPAN.match(str(text).strip())
    if not found:
        raise SpecError(f"{key}: {text!r} is no span of time; write a number and one of s, m, h, d, w, y (as 90d)")
    return int(found.group(1)) * _SECONDS[found.group(2)]


def build(
    contracts: Iterable[Mapping[str, Any]], groups: Mapping[str, Iterable[str]], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """The spec of module_utils/openbao/site.py.

    *contracts*: of the placed components. *groups*: the inventory's. *settings*: site, kv, pki_root, pki_int and the spans
    root_ttl, intermediate_ttl, leaf_ttl, identity_ttl; root_ca (own or site); ssh_host (mount, "") and ssh_names; external (who else runs the server)
    and the addresses from which it is asked where it has one. A secret with ``group`` exists only where that child group has a host.
    Raises SpecError.
    """
    items = list(contracts)
    spans = {
        key: seconds(settings[key], f"openbao_{key}") for key in ("root_ttl", "intermediate_ttl", "leaf_ttl", "identity_ttl")
    }
    if not spans["leaf_ttl"] < spans["intermediate_ttl"] < spans["root_ttl"]:
        raise SpecError(
            "openbao_leaf_ttl must be shorter than openbao_intermediate_ttl, and that shorter than openbao_root_ttl"
        )
    components: dict[str, dict[str, Any]] = {}
    for contract in items:
        name = str(contract["name"])
        hosts = sorted(groups.get(contract.get("placement", name), []))
        secrets = [
            secret for secret in contract.get("secrets", []) if "group" not in secret or list(groups.get(secret["group"], []))
        ]
        certificate = contract.get("certificate")
        components[name] = {
            "secrets": [
                {"path": secret["path"], "kind": secret["kind"], "username": secret.get("username", "")} for secret in secrets
            ],
            "grants": sorted(secret["path"] for secret in secrets if not secret["path"].startswith(name + "/")),
            "certificate": {
                "server": certificate["server"],
                "client": certificate["client"],
                "domains": sorted({*hosts, "localhost", *certificate.get("extra_dns", [])}),
            }
            if certificate
            else None,
        }
        application = contract.get("application_certificate")
        if application and not certificate:
            # An OPC UA application certificate: RSA, with a URI of each host among its names, and a life that its servers' owners can follow.
            components[name]["certificate"] = {
                "server": True, "client": True, "domains": hosts,
                "uris": [str(application["uri"]).format(site=settings["site"], host=host) for host in hosts],
            }
        _check_paths(name, components[name]["secrets"])
    for contract in items:
        for secret in contract.get("secrets", []):
            present = any(secret["path"] == own["path"] for own in components[str(contract["name"])]["secrets"])
            for reader in secret.get("readers", []) if present else []:
                if reader in components and not secret["path"].startswith(reader + "/"):
                    components[reader]["grants"] = sorted({*components[reader]["grants"], secret["path"]})
    needed = {
        name: item
        for name, item in components.items()
        if name == policies.SELF or item["secrets"] or item["grants"] or item["certificate"]
    }
    # No components of the inventory: the identities under which secrets, authorities and keys are rotated.
    ssh = str(settings.get("ssh_host") or "")
    external = settings.get("external") or {}
    needed.update({name: {"secrets": [], "grants": [], "certificate": None} for name in policies.internal("", "", "", ssh)})
    return {
        "site": str(settings["site"]),
        "kv": str(settings["kv"]),
        "pki_root": str(settings["pki_root"]),
        "pki_int": str(settings["pki_int"]),
        "root_ca": str(settings.get("root_ca") or "own"),
        "cidrs": _asked_from(settings.get("addresses") or ()) if external.get("address") else ["127.0.0.1/32", "::1/128"],
        "shared": bool(external),
        "elsewhere": bool(external.get("address")),
        "ssh_host": ssh,
        "ssh_names": sorted({str(name) for name in settings.get("ssh_names") or ()}),
        "components": needed,
        **spans,
    }


def _asked_from(addresses: Iterable[str]) -> list[str]:
    """Each as a network of its own. Raises SpecError: an AppRole that is bound to nothing opens from everywhere."""
    found = [str(ipaddress.ip_network(str(address))) for address in addresses]
    if not found:
        raise SpecError("openbao_external.address: from which addresses it is asked is not known; write hnai_addresses of the host in group openbao")
    return sorted(found)


def _check_paths(component: str, secrets: list[dict[str, Any]]) -> None:
    for secret in secrets:
        parts = secret["path"].split("/")
        if len(parts) < 2 or "" in parts or ".." in parts:
            raise SpecError(
                f"roles/{component}/meta/component.yml: secrets: {secret['path']!r} is no path; write <component>/<name>"
            )
