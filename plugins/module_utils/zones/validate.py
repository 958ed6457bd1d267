# SPDX-License-Identifier: Apache-2.0
"""`validate`: everything that is wrong with a site, in one list, without contacting a host."""

from __future__ import annotations

import datetime
import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from ansible_collections.hnai.platform.plugins.module_utils.zones.acls import check_kafka, check_mqtt
from ansible_collections.hnai.platform.plugins.module_utils.zones.flows import (
    approvals,
    contract_file,
    needed_flows,
    source_endpoint,
)
from ansible_collections.hnai.platform.plugins.module_utils.zones.law import dial, refused
from ansible_collections.hnai.platform.plugins.module_utils.zones.model import Conduit, Flow, Problem, Service, Site

#: Variables with our prefix that belong to no single role.
SITE_VARIABLES = frozenset(
    {
        "hnai_addresses",
        "hnai_assets",
        "hnai_break_glass",
        "hnai_ca_pem",
        "hnai_conduits",
        "hnai_control_identities",
        "hnai_debian",
        "hnai_dual_homed",
        "hnai_environment",
        "hnai_expected_skips",
        "hnai_full_expected_skips",
        "hnai_allow_inconclusive",
        "hnai_full_verdict_max_age",
        "hnai_interfaces",
        "hnai_openbao_deploy",
        "hnai_ot_sources",
        "hnai_second_addresses",
        "hnai_site",
        "hnai_site_model",
        "hnai_slo",
        "hnai_state_dir",
        "hnai_store_dir",
        "hnai_zone",
        "hnai_zones",
    }
)
#: Child group of the collector's hosts that hear Sparkplug B edge nodes.
HEARING = "ot_collector_sparkplug"
_SECONDS = {"milliseconds": 0.001, "seconds": 1, "minutes": 60, "hours": 3600, "days": 86400}
_BYTES = {"bytes": 1, "mebibytes": 1024 * 1024}


def validate(data: Mapping[str, Any], today: datetime.date) -> list[dict[str, str]]:
    """All problems of the site in `data` (format: model.py), sorted: {file, key, message, remedy, invariant, severity}.

    `today` is given, so that expiry is a fact of the input.
    """
    site = Site.from_dict(data)
    flows, unresolved = needed_flows(site)
    found = [*site.problems, *unresolved]
    forbidden = refused(site, site.conduits)
    found += forbidden
    found += _missing(site, flows)
    found += _stale(site, flows, {problem.key for problem in forbidden})
    found += _expiry(site, today)
    found += _placement(site)
    found += _ports(site)
    found += _quorum(site)
    found += _buffers(site)
    found += check_kafka(site) + check_mqtt(site) + _edge_nodes(site)
    found += _names(site, data)
    return [problem.as_dict() for problem in sorted(set(found))]


def _missing(site: Site, flows: Iterable[Flow]) -> list[Problem]:
    """Needed flows without a conduit, one problem per component and listener."""
    approved = approvals(site.conduits)
    groups: dict[tuple[str, str, str, int, str, str], list[Flow]] = {}
    for flow in flows:
        if (flow.source, flow.target, flow.proto, flow.port) not in approved:
            groups.setdefault((flow.component, flow.listener, flow.proto, flow.port, flow.why, flow.file), []).append(flow)
    found = []
    for (component, listener, proto, port, why, file), members in groups.items():
        pairs = ", ".join(f"{flow.source} → {flow.target}" for flow in members)
        kind = "management" if component == "management" else "direct"
        service = _wish(site, members[0])
        refusal = dial(site, site.nodes[members[0].source], site.nodes[members[0].target], service, kind)
        invariant = "I9" if component in ("management", "time") else "flow"
        if refusal is not None:
            message = f"{component} needs {proto}/{port} ({listener}: {why}), which no conduit may allow: {pairs}; {refusal.message}"
            found.append(Problem(file, f"{component} → {listener}", message, refusal.remedy, refusal.invariant))
            continue
        remedy = f"approve a conduit {proto}/{port} from {members[0].source} to {members[0].target} (owner, reason, expires)"
        remedy += ", or take the component out of the inventory"
        message = f"{component} needs {proto}/{port} ({listener}: {why}) and no conduit allows it: {pairs}"
        found.append(Problem(site.file("hnai_conduits"), f"hnai_conduits: {component} → {listener}", message, remedy, invariant))
    return found


def _wish(site: Site, flow: Flow) -> Service:
    """The service of a needed flow, with the read verbs that a conduit into level 2 would name."""
    component, _dot, name = flow.listener.partition(".")
    if not name:
        from_verbs = {"opcua": ("read",), "modbus": ("read",)}.get(component, ())
        return Service(flow.proto, flow.port, "", "", component, from_verbs)
    return Service(flow.proto, flow.port, component, name)


def _stale(site: Site, flows: Iterable[Flow], forbidden: set[str]) -> list[Problem]:
    needed = {(flow.source, flow.target, flow.proto, flow.port) for flow in flows}
    found = []
    for conduit in site.conduits:
        key = f"hnai_conduits[{conduit.id}]"
        if conduit.needed_by or key in forbidden:
            continue
        pairs = list(conduit.pairs())
        unused = [pair for pair in pairs if (*pair, conduit.service.proto, conduit.service.port) not in needed]
        if unused and len(unused) == len(pairs):
            message = f"nothing needs {conduit.service.text}: {_pairs(unused)}"
            remedy = "remove it, or say in needed_by what outside the contracts does"
            found.append(Problem(site.file("hnai_conduits"), key, message, remedy, "stale"))
        elif unused:
            message = f"is wider than the need: nothing needs {conduit.service.text} {_pairs(unused)}"
            found.append(
                Problem(
                    site.file("hnai_conduits"),
                    key,
                    message,
                    "name the hosts or the child group that need it",
                    "stale",
                    "warning",
                )
            )
    return found


def _pairs(pairs: Iterable[tuple[str, str]]) -> str:
    return ", ".join(f"{source} → {target}" for source, target in pairs)


def _expiry(site: Site, today: datetime.date) -> list[Problem]:
    found = []
    for conduit in site.conduits:
        left = (conduit.expires - today).days
        key = f"hnai_conduits[{conduit.id}].expires"
        remedy = "renew it with its owner, or remove it"
        if left < 0:
            lifted = _broken_glass(site, conduit, today)
            remedy += "; the running firewall still has it; an emergency run needs hnai_break_glass"
            message = f"expired on {conduit.expires}" + (f" (let through by break-glass: {lifted})" if lifted else "")
            severity = "warning" if lifted else "error"
            found.append(Problem(site.file("hnai_conduits"), key, message, remedy, "expiry", severity))
        elif left <= 30:
            urgency = "within a week" if left <= 7 else "within a month"
            found.append(Problem(site.file("hnai_conduits"), key, f"expires {urgency}, on {conduit.expires}", remedy, "expiry", "warning"))
    return found


def _broken_glass(site: Site, conduit: Conduit, today: datetime.date) -> str:
    """Who let an expired conduit through; '' if nobody validly did. Days are enough: hours ≤ 24 means today or yesterday."""
    for entry in site.break_glass:
        if not isinstance(entry, Mapping) or entry.get("id") != conduit.id or not entry.get("owner") or not entry.get("reason"):
            continue
        hours = entry.get("hours")
        since = str(entry.get("since") or "")[:10]
        if isinstance(hours, int) and 0 < hours <= 24 and since in (str(today), str(today - datetime.timedelta(days=1))):
            return str(entry["owner"])
    return ""


def _placement(site: Site) -> list[Problem]:
    found = []
    for component, contract in sorted(site.contracts.items()):
        for host in site.placed(component):
            node = site.nodes[host]
            zone = site.zones[node.zone]
            if not {zone.id, zone.level_name} & set(contract.get("levels", [])):
                message = f"{component} stands on {host} in zone {zone.id} ({zone.level_name})"
                levels = ", ".join(contract["levels"])
                remedy = f"it may stand in {levels} ({contract_file(component)}): move {host} or the component"
                group = contract.get("placement", component)
                found.append(Problem(site.file("hnai_zone"), f"groups.{group}: {host}", message, remedy, "level"))
    return found


def _ports(site: Site) -> list[Problem]:
    found = []
    taken: dict[tuple[str, str, int], str] = {}
    for component, contract in sorted(site.contracts.items()):
        for listener in contract.get("listens", []):
            for host in site.placed(component, listener.get("group", "")):
                key = (host, listener["proto"], listener["port"])
                name = f"{component}.{listener['name']}"
                if key in taken:
                    message = f"{name} and {taken[key]} both listen on {listener['proto']}/{listener['port']} of {host}"
                    remedy = "change one of the two ports, or place the components on different hosts"
                    found.append(Problem(contract_file(component), f"listens.{listener['name']}.port", message, remedy, "port"))
                taken.setdefault(key, name)
    return found


def _quorum(site: Site) -> list[Problem]:
    found = []
    for component, contract in sorted(site.contracts.items()):
        members = site.placed(component)
        if contract.get("quorum", component in ("kafka", "openbao")) and len(members) > 1 and len(members) % 2 == 0:
            message = f"{component} has {len(members)} voting members: {', '.join(members)}"
            remedy = f"use {len(members) - 1} or {len(members) + 1}: an even number survives no more failures than one fewer"
            found.append(Problem("inventory", f"groups.{contract.get('placement', component)}", message, remedy, "quorum"))
    return found


def _buffers(site: Site) -> list[Problem]:
    """Every hop of slo.yml against the variables that the contracts name for it."""
    found = []
    hops = site.slo.get("hops")
    hops = hops if isinstance(hops, Mapping) else {}
    file = site.file("hnai_slo")
    declared: dict[str, int] = {}
    rate = _source_rate(site)
    for component, contract in sorted(site.contracts.items()):
        for buffer in contract.get("buffers", []):
            for host in site.placed(component, buffer.get("group", "")):
                declared[buffer["hop"]] = declared.get(buffer["hop"], 0) + 1
                hop = hops.get(buffer["hop"])
                if hop is None:
                    remedy = "declare the outage to survive: {outage_s, records_per_s, record_bytes}"
                    found.append(Problem(file, f"hnai_slo.hops.{buffer['hop']}", f"is missing, but {component} buffers it", remedy, "buffer"))
                elif _hop_complete(hop):
                    found += _too_small(site, host, component, buffer, hop)
    for name, hop in sorted(hops.items(), key=str):
        key = f"hnai_slo.hops.{name}"
        if not _hop_complete(hop):
            found.append(Problem(file, key, "is incomplete", "write {outage_s, records_per_s, record_bytes}, numbers > 0", "buffer"))
        elif name not in declared:
            message = "is declared, but no placed component buffers it"
            found.append(
                Problem(
                    file,
                    key,
                    message,
                    "name the variable under buffers in the component's contract, or remove the hop",
                    "buffer",
                )
            )
        elif rate and hop.get("sources", True) and hop["records_per_s"] < rate:
            message = f"counts on {hop['records_per_s']}/s, but the sources deliver {rate:g}/s"
            found.append(Problem(file, f"{key}.records_per_s", message, f"write at least {rate:g}", "buffer"))
    return found


def _source_rate(site: Site) -> float:
    """Samples per second that the OT sources declare (their `records_per_s`), 0 if they do not say."""
    return float(
        sum(
            source["records_per_s"]
            for source in site.sources
            if isinstance(source, Mapping) and isinstance(source.get("records_per_s"), (int, float)) and source_endpoint(site, source)[0]
        )
    )


def _edge_nodes(site: Site) -> list[Problem]:
    """Sparkplug B sources: each names one edge node, no two the same, and somebody hears them."""
    file, key = site.file("hnai_ot_sources"), "hnai_ot_sources"
    found = []
    nodes: dict[tuple[str, str], str] = {}
    sources = [source for source in site.sources if isinstance(source, Mapping) and source.get("protocol") == "sparkplug"]
    for source in sources:
        name = str(source.get("id") or "?")
        for part in ("group", "node"):
            value = source.get(part)
            if not isinstance(value, str) or not value or any(sign in value for sign in "/+#"):
                message = f"{value!r} is no level of an MQTT topic"
                found.append(Problem(file, f"{key}[{name}].{part}", message, f"write the {part} id of the edge node, without / + #", "source"))
        node = (str(source.get("group")), str(source.get("node")))
        if node in nodes:
            message = f"is the edge node of {nodes[node]} too: {node[0]}/{node[1]}"
            found.append(Problem(file, f"{key}[{name}]", message, "put the tags of one edge node into one source", "source"))
        nodes.setdefault(node, name)
    hearing = site.placed("ot_collector", HEARING)
    names = ", ".join(sorted(nodes.values()))
    if sources and not hearing:
        remedy = f"put the collector's host into {HEARING}, a child of the group ot_collector"
        found.append(Problem("inventory", f"groups.{HEARING}", f"is empty, so nobody hears {names}", remedy, "source"))
    elif sources and len(hearing) > 1:
        message = f"has {len(hearing)} hosts ({', '.join(hearing)}), which would take each other's session for {names}"
        found.append(Problem("inventory", f"groups.{HEARING}", message, "leave one host in it", "source"))
    elif hearing and not sources:
        message = "has a host, but no source speaks Sparkplug B"
        found.append(Problem("inventory", f"groups.{HEARING}", message, "declare the edge node in hnai_ot_sources, or take the group away", "source"))
    return found


def _hop_complete(hop: Any) -> bool:
    names = ("outage_s", "records_per_s", "record_bytes")
    return isinstance(hop, Mapping) and all(isinstance(hop.get(name), (int, float)) and hop[name] > 0 for name in names)


def _too_small(site: Site, host: str, component: str, buffer: Mapping[str, Any], hop: Mapping[str, Any]) -> list[Problem]:
    variable, unit = str(buffer["variable"]), str(buffer["unit"])
    value = site.value(host, variable)
    file, key = site.file(variable.partition(".")[0]), f"{host}: {variable}"
    outage, rate, size = hop["outage_s"], hop["records_per_s"], hop["record_bytes"]
    sum_text = f"the declared outage of {outage} s"
    if unit in _SECONDS:
        needed = outage / _SECONDS[unit]
    elif unit in _BYTES:
        needed = outage * rate * size / _BYTES[unit]
        sum_text = f"{outage} s × {rate}/s × {size} bytes"
    else:
        needed = outage * rate
        sum_text = f"{outage} s × {rate}/s"
    needed = int(-(-needed // 1))
    if isinstance(value, str) and value.lstrip("-").isdigit():
        value = int(value)
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        message = f"{value!r} does not size the buffer of hop {buffer['hop']}"
        return [Problem(file, key, message, f"write a number of {unit}, at least {needed}", "buffer")]
    if unit in _SECONDS and value < 0:  # -1: kept for ever
        return []
    if value < needed:
        message = f"{value} {unit} is too small for hop {buffer['hop']} ({component}): {sum_text}"
        return [Problem(file, key, message, f"set {variable} to at least {needed}, or declare a shorter outage", "buffer")]
    return []


def _names(site: Site, data: Mapping[str, Any]) -> list[Problem]:
    """Inventory variables with a prefix of ours that no role and no site file knows."""
    known = SITE_VARIABLES | set(data.get("known_variables") or ())
    prefixes = tuple(sorted({f"{role}_" for role in data.get("roles") or ()} | {"hnai_"}))
    names: dict[str, list[str]] = {}
    for host, variables in sorted(site.vars.items()):
        for name in variables:
            if name.startswith(prefixes) and name not in known and name not in site.groups:
                names.setdefault(name, []).append(host)
    found = []
    for name, hosts in sorted(names.items()):
        near = difflib.get_close_matches(name, known, n=1)
        remedy = f"did you mean {near[0]}? " if near else ""
        where = ", ".join(hosts[:3]) + (" …" if len(hosts) > 3 else "")
        message = f"is a variable that nothing reads (on {where})"
        found.append(Problem(site.file(name), name, message, remedy + "correct the name or remove it", "name"))
    return found
