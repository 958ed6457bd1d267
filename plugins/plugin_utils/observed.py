# SPDX-License-Identifier: Apache-2.0
"""Observed flows of all hosts as one list, a table, a proposal of conduits, and what `validate` has to say about them. Controller only."""

from __future__ import annotations

import datetime
import ipaddress
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from ansible_collections.hnai.platform.plugins.module_utils.firewall_modes import Modes
from ansible_collections.hnai.platform.plugins.module_utils.firewall_observed import refused, spoilt, text, unexplained
from ansible_collections.hnai.platform.plugins.module_utils.firewall_proof import book
from ansible_collections.hnai.platform.plugins.module_utils.zones.law import dial
from ansible_collections.hnai.platform.plugins.module_utils.zones.model import JUMP_GROUP, NTP, SSH, Node, Problem, Service, Site
from ansible_collections.hnai.platform.plugins.module_utils.zones.nft import approved, boundaries

#: What a host's result leaves in the record.
_KEPT = ("flows", "full", "observing", "observes", "note")


def read(path: str) -> dict[str, Any]:
    """The record of an earlier run, {} if there is none. Raises ValueError, naming the file, if it is none of ours."""
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8")) if path else {}
    except OSError:
        return {}
    except ValueError as error:
        raise ValueError(f"{path}: {error}; remove it, and run playbooks/firewall_observed.yml") from error
    return data if isinstance(data, dict) else {}


def report(site: Site, results: Mapping[str, Mapping[str, Any]], at: str, kept: str = "") -> dict[str, Any]:
    """{record: {hosts: {host: {at, flows, full, observing, observes, note}}, flows: [row]}, table, proposal}."""
    hosts = dict(read(kept).get("hosts") or {})
    hosts.update({host: {"at": at, **{key: result[key] for key in _KEPT}} for host, result in results.items() if "flows" in result})
    seen = {host: entry for host, entry in hosts.items() if entry["observing"] or entry["flows"]}
    rows = merged(site, seen)
    record = {"hosts": seen, "flows": rows}
    return {"record": record, "table": table(rows, seen), "proposal": proposal(site, rows, at)}


def names(site: Site) -> dict[str, str]:
    """Address → name of every node of the model."""
    found = {}
    for name, node in site.nodes.items():
        own = {node.v4, node.v6, *(leg.v4 for leg in node.interfaces), *(leg.v6 for leg in node.interfaces)}
        own |= {address for pair in node.seconds.values() for address in pair}
        found.update(dict.fromkeys((str(ipaddress.ip_address(address)) for address in own if address), name))
    return found


def merged(site: Site, hosts: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row per flow, whoever saw it; `from` and `to` are names of the model or ''."""
    known = names(site)
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    for host, entry in sorted(hosts.items()):
        for flow in entry["flows"]:
            key = (flow["source"], flow["target"], flow["proto"], flow["port"])
            ends = {"from": known.get(flow["source"], ""), "to": known.get(flow["target"], "")}
            row = rows.setdefault(key, {**flow, **ends, "seen_by": [], "where": [], "users": [], "processes": []})
            row["seen_by"].append(host)
            row["first"], row["last"] = min(row["first"], flow["first"]), max(row["last"], flow["last"])
            row["count"], row["open"] = max(row["count"], flow["count"]), max(row["open"], flow["open"])
            row["guessed"] = row["guessed"] and flow["guessed"]
            row["conduit"] = row["conduit"] and flow["conduit"]
            row["where"] += [f"{host}:{where}" for where in flow["where"]]
            for who in ("users", "processes"):
                row[who] += [f"{host}:{one}" for one in flow[who]]
    return [rows[key] for key in sorted(rows, key=str)]


def table(rows: Iterable[Mapping[str, Any]], hosts: Mapping[str, Mapping[str, Any]]) -> str:
    """For people."""
    lines: list[tuple[str, ...]] = [("flow", "from", "to", "seen", "count", "open", "first", "last", "who", "conduit")]
    for row in rows:
        who = ", ".join([*row["users"], *row["processes"]]) or "-"
        flow = text(row) + (" (direction is a guess)" if row["guessed"] else "")
        moments = tuple(datetime.datetime.fromtimestamp(row[key], datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ") for key in ("first", "last"))
        lines.append(
            (flow, row["from"] or "-", row["to"] or "-", ", ".join(row["where"]), str(row["count"]), str(row["open"]), *moments, who, row["conduit"] or "none")
        )
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    out = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines]
    out += [f"{host}: more was seen than could be written down ({', '.join(entry['full'])})" for host, entry in sorted(hosts.items()) if entry["full"]]
    out += [f"{host}: {entry['note']}" for host, entry in sorted(hosts.items()) if entry["note"]]
    watchers = sorted(f"{host} over {name}" if name else host for host, entry in hosts.items() if entry["observing"] for name in entry.get("observes") or [""])
    observing = ", ".join(watchers) or "nobody"
    left = sum(not row["conduit"] for row in rows)
    return "\n".join([*out, f"observing: {observing}; {left} flow(s) that enforce would cut"])


def proposal(site: Site, rows: Iterable[Mapping[str, Any]], at: str) -> str:
    """Conduits in the form of hnai_conduits, to be completed by a person; what may not be one stands as a comment."""
    found: dict[tuple[str, str, str, int], None] = {}
    refused = []
    for row in rows:
        if row["conduit"]:
            continue
        source, target = site.nodes.get(row["from"]), site.nodes.get(row["to"])
        why = _not_proposed(site, row, source, target)
        if why:
            refused.append(f"# {text(row)} ({', '.join(row['where'])}): {why}")
        else:
            found.setdefault((row["from"], row["to"], row["proto"], row["port"]))
    conduits = [_conduit(site, number, *key, at) for number, key in enumerate(found, 1)]
    lines = [
        "# SPDX-License-Identifier: Apache-2.0",
        f"# What was observed until {at} and no conduit approves. For review: nothing reads this file.",
        "# Copy what should stay into hnai_conduits, with owner and reason; name what should go in firewall_cut_flows.",
        "---",
        yaml.safe_dump({"hnai_conduits": conduits}, sort_keys=False, allow_unicode=True, width=150).rstrip(),
    ]
    return "\n".join([*lines, *sorted(set(refused))]) + "\n"


def _not_proposed(site: Site, row: Mapping[str, Any], source: Node | None, target: Node | None) -> str:
    """Why a flow is no conduit, '' if it could be one."""
    if spoilt(where.rpartition(":")[2] for where in row["where"]):
        return "its source does not belong to the zone it comes from, or it is over the limits of its conduit: no approval changes that"
    if row["proto"] not in ("tcp", "udp") or not row["port"]:
        return "a conduit is one port of tcp or udp"
    unknown = [row[end] for end, node in (("source", source), ("target", target)) if node is None]
    if source is None or target is None:
        return f"{' and '.join(unknown)} is nobody in the model: a host of the inventory, or one of hnai_assets, first"
    if source is target:
        return "a host's talk to itself"
    refusal = dial(site, source, target, _service(site, row["to"], row["proto"], row["port"]), _kind(source, row["proto"], row["port"]))
    return f"[{refusal.invariant}] {refusal.message}; {refusal.remedy}" if refusal else ""


def _kind(source: Node, proto: str, port: int) -> str:
    return "management" if (proto, port) == SSH and (JUMP_GROUP in source.groups or source.role == "controller") else "direct"


def _service(site: Site, target: str, proto: str, port: int) -> Service:
    """The listener of a contract that stands there, or the bare port."""
    for component, contract in sorted(site.contracts.items()):
        for listener in contract.get("listens", []):
            if (listener["proto"], listener["port"]) == (proto, port) and target in site.placed(component, listener.get("group", "")):
                return Service(proto, port, component, listener["name"])
    apps = [name for name, one in (site.assets.get(target, {}).get("services") or {}).items() if (one.get("proto"), one.get("port")) == (proto, port)]
    return Service(proto, port, "", "", apps[0] if apps else "", ("read",) if apps else ())


def _conduit(site: Site, number: int, source: str, target: str, proto: str, port: int, at: str) -> dict[str, Any]:
    nodes = site.nodes[source], site.nodes[target]
    service = _service(site, target, proto, port)
    levels = [site.zone_of(nodes[0], nodes[1]).level, site.zone_of(nodes[1], nodes[0]).level]
    ours = service.component and (proto, port) != SSH
    named: dict[str, Any] = {"component": service.component, "listener": service.listener} if ours else {"proto": proto, "port": port}
    if service.app and "component" not in named:
        named.update({"app": service.app, "ops": list(service.ops)})
    kind = _kind(nodes[0], proto, port)
    both = kind == "management" or (proto, port) == NTP or levels[0] == levels[1] or min(levels) > 3
    day = datetime.date(*map(int, at[:10].split("-"))) + datetime.timedelta(days=90)
    return {
        "id": f"OBSERVED-{number}",
        "from": {nodes[0].kind: source},
        "to": {nodes[1].kind: target},
        "service": named,
        "kind": kind,
        "data_direction": "both" if both else "up",
        "owner": "",
        "reason": "",
        "expires": day.isoformat(),
    }


def _approved_now(flow: Mapping[str, Any], approvals: Mapping[tuple[str, str, str, int], Any]) -> str:
    known = (flow["source"], flow["target"], flow["proto"], flow["port"]) in approvals
    return "approved" if known and not spoilt(flow["where"]) else ""


def problems(site: Site, record: Mapping[str, Any], wanted: Mapping[str, Mapping[str, Any]]) -> list[Problem]:
    """Hosts and boundaries that observed, and are to enforce, while a flow is not explained or nobody is named.

    `wanted`: {host: {firewall_mode, firewall_approved_by, firewall_cut_flows}} of the inventory, as far as set there.
    """
    found: list[Problem] = []
    if site.problems:
        return found
    for host, entry in sorted((record.get("hosts") or {}).items()):
        variables = wanted.get(host, {})
        flows = entry.get("flows") or []
        if host not in site.nodes or not entry.get("observing") or not flows:
            continue
        approvals = book(approved(site, host))
        modes = Modes(variables.get("firewall_mode", "enforce"), boundaries(site, host), str(variables.get("firewall_approved_by") or ""))
        current = [{**flow, "conduit": _approved_now(flow, approvals)} for flow in flows]
        for side, mine in refused(current, modes).items():
            file = site.file("hnai_boundaries") if side.id else site.file("firewall_mode") or "inventory"
            where, who = (f"hnai_boundaries.{side.id}.", f"{host} over {side.id}") if side.id else (f"{host}: ", host)
            try:
                left = unexplained(mine, variables.get("firewall_cut_flows") or [])
            except (KeyError, TypeError, ValueError) as error:
                remedy = "write {source, target, proto, port, reason}, source and target as addresses or networks"
                found.append(Problem(site.file("firewall_cut_flows"), f"{host}: firewall_cut_flows", f"cannot be used: {error}", remedy, "observe"))
                break
            if left:
                shown = "; ".join(text(flow) for flow in left[:5]) + ("; …" if len(left) > 5 else "")
                message = f"enforce would cut {len(left)} flow(s) that {who} has observed and nobody explained: {shown}"
                conduits = "hnai_conduits; <hnai_state_dir>/firewall/observed.yml proposes"
                remedy = f"approve conduits ({conduits}), name them in firewall_cut_flows, or stay with observe"
                found.append(Problem(file, f"{where}firewall_mode", message, remedy, "observe"))
            elif not side.approved_by.strip():
                message = f"{who} has observed {len(mine)} flow(s), and nobody is named who approved that it enforces"
                remedy = "set firewall_approved_by to the name of who looked at the list"
                found.append(Problem(file, f"{where}firewall_approved_by", message, remedy, "observe"))
    return found
