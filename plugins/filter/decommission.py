# SPDX-License-Identifier: Apache-2.0
"""What leaves a site with a component or a host, and what stands against it, out of the contracts and the placement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

#: Who converts units on the way, and who then stores what comes.
CONVERTER = "flink"
WRITERS = ("telegraf_writer", "telegraf_questdb")
#: Without these a host is no host of the site, and without OpenBao there is nobody to ask: they go with the machine.
BASE = ("host", "firewall", "openbao")


def decommission(site: Mapping[str, Any], component: str = "", host: str = "", sources: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
    """{refusals, notes, hosts, components: [{component, artifacts, state, credentials}], retired}. Nothing may go while `refusals` is not empty.

    The inventory is right first: a component goes from where the inventory no longer has it. `retired`: those that stand nowhere any more. `notes`: what
    of it nobody can take back. *sources*: hnai_ot_sources.
    """
    contracts, groups = site["contracts"], site["groups"]
    managed = sorted(groups.get("managed", []))
    placed = {name: sorted(groups.get(contract.get("placement", name), [])) for name, contract in contracts.items()}
    refusals: list[str] = []
    if bool(component) == bool(host):
        refusals.append("name one thing: decommission_component or decommission_host")
    if component and component not in contracts:
        refusals.append(f"there is no component {component}; there are {', '.join(sorted(contracts))}")
    if host and host not in managed:
        refusals.append(f"{host} is no managed host of the inventory; leave it there until this has run")
    if component in BASE:
        refusals.append(f"{component} is part of every host or of the run itself; it goes with the machine")
    if refusals:
        return {"refusals": refusals, "notes": [], "hosts": [], "components": [], "retired": []}
    names = [component] if component else [name for name in sorted(contracts) if name not in BASE]
    for name in names:
        still = [one for one in placed[name] if not host or one == host]
        if still:
            group = contracts[name].get("placement", name)
            refusals.append(f"{name} still stands on {', '.join(still)}: take the host out of the group {group} in the inventory")
    if component:
        refusals += _needed(site, component, placed)
    return {
        "refusals": refusals,
        "notes": _twice_stored(groups, sources) if component == CONVERTER else [],
        "hosts": [host] if host else managed,
        "components": [_own(contracts, name, not placed[name]) for name in names],
        "retired": [name for name in names if not placed[name]] if component else [],
    }


def _twice_stored(groups: Mapping[str, Any], sources: Sequence[Mapping[str, Any]]) -> list[str]:
    """Without Flink the writers fetch the raw records, from the oldest on, and a series of a store has no unit."""
    tags = [(one.get("id"), tag) for one in sources for tag in one.get("tags") or []]
    converted = [f"{ident}:{tag.get('name')}" for ident, tag in tags if tag.get("unit", "") != tag.get("unit_to", tag.get("unit", ""))]
    if not converted or not any(groups.get(group) for group in WRITERS):
        return []
    some = ", ".join(converted[:3]) + (" …" if len(converted) > 3 else "")
    note = f"{len(converted)} tags that Flink converted ({some}) would be stored twice, in both units, at each instant that Kafka still keeps, when the "
    note += "writers turn to the raw records (the next site.yml): give the stores an empty place first (victoriametrics_storage_path, questdb_table), or "
    return [note + "stop the writers until the records of before are gone (docs/decommission.md)"]


def _needed(site: Mapping[str, Any], component: str, placed: Mapping[str, list[str]]) -> list[str]:
    """Who still dials it, and which conduits still lead to or from it."""
    found = []
    contracts, groups = site["contracts"], site["groups"]
    for name, contract in sorted(contracts.items()):
        for connection in contract.get("connects", []):
            dialling = groups.get(connection["group"], []) if "group" in connection else placed[name]
            if connection.get("to") == component and dialling and name != component:
                group = connection.get("group", contract.get("placement", name))
                found.append(f"{name} on {', '.join(sorted(dialling))} still needs it ({connection['reason']}): empty the group {group}")
    own = {contracts[component].get("placement", component)}
    for conduit in site.get("conduits") or []:
        ends = {str((conduit.get(end) or {}).get("group", "")) for end in ("from", "to")}
        if (conduit.get("service") or {}).get("component") == component or ends & own:
            found.append(f"conduit {conduit.get('id')} still leads to or from it: remove it from hnai_conduits")
    return found


def _own(contracts: Mapping[str, Any], name: str, gone: bool) -> dict[str, Any]:
    """What the contract says that only this component has. `credentials`: its passwords where others read them; of a component that is *gone* everywhere."""
    others = {item["name"] for other, contract in contracts.items() if other != name for item in contract.get("artifacts", [])}
    archives = [item["name"] for item in contracts[name].get("artifacts", []) if item.get("type") != "deb"]
    return {
        "component": name,
        "artifacts": [artifact for artifact in archives if artifact not in others],
        "state": [item["path"] for item in contracts[name].get("state", [])],
        "credentials": sorted({
            f"{reader}.{secret['username']}"
            for secret in contracts[name].get("secrets", []) if gone and secret.get("username") for reader in secret.get("readers", [])
        }),
    }  # fmt: skip


class FilterModule:
    """Ansible's view."""

    def filters(self) -> dict[str, Any]:
        """Name → function."""
        return {"decommission": decommission}
