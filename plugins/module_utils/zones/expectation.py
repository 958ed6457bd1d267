# SPDX-License-Identifier: Apache-2.0
"""What the approved conduits mean for one host, from the model alone, never from the rules that are generated of it.

``expectation(site, host)`` says it on the controller, as JSON; ``wanted`` makes sets of packets of it on the host.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ansible_collections.hnai.platform.plugins.module_utils.zones.boxes import Cube, addresses, names, numbers
from ansible_collections.hnai.platform.plugins.module_utils.zones.dimensions import ICMP6, PATHS, rate_of
from ansible_collections.hnai.platform.plugins.module_utils.zones.model import ROUTER_GROUP, Conduit, Node, Site

TABLE = ("inet", "hnai")
_PROTO = {"tcp": 6, "udp": 17}
_ERRORS = {4: (1, "icmp type", (3, 11, 12)), 6: (58, "icmpv6 type", (1, 2, 3, 4))}
_NEIGHBOUR = (ICMP6["nd-neighbor-solicit"], ICMP6["nd-neighbor-advert"])
_REPORTS = (ICMP6["mld-listener-report"], ICMP6["mld2-listener-report"])


def expectation(site: Site, host: str) -> dict[str, Any]:
    """What the approved conduits mean for `host`, as JSON.

    {host, router, own: {"4": [address], "6": []}, legs: [{zone, name, "4": network, "6": network}],
    boundaries: [{id, mode, zones: [zone, zone]}], of the router's those with a mode of their own,
    conduits: [{id, path: input|output|forward, version, iif, oif, sources, origins, targets, proto, port, uid, limits}],
    peers: [{name, address, device, near, gateway}]}. `sources` are the initiator's addresses; at the initiator itself `origins` are the only ones to
    come from ([]: any of the host). Expiry does not change a firewall, so an expired conduit counts.
    """
    node = site.nodes[host]
    router = ROUTER_GROUP in node.groups
    legs = [{"zone": leg.zone, "name": leg.name, **{str(version): _text(site.zones[leg.zone].cidr(version)) for version in (4, 6)}} for leg in node.interfaces]
    own = {str(version): _own(node, version) for version in (4, 6)}
    conduits: list[dict[str, Any]] = []
    for conduit in site.conduits:
        for version in (4, 6):
            conduits += _arriving(site, node, conduit, version)
            conduits += _leaving(site, node, conduit, version)
            if router:
                conduits += _passing(site, node, conduit, version)
    apart = [{"id": one.id, "mode": one.mode, "zones": sorted(one.zones)} for one in site.moded(node)]
    return {"host": host, "router": router, "own": own, "legs": legs, "boundaries": apart, "conduits": conduits, "peers": _peers(site, node)}


def _text(value: Any) -> str:
    return str(value) if value else ""


def _own(node: Node, version: int) -> list[str]:
    found = {node.v4 if version == 4 else node.v6, *((leg.v4 if version == 4 else leg.v6) for leg in node.interfaces)}
    found |= {pair[0 if version == 4 else 1] for pair in node.seconds.values()}
    return sorted(found - {""})


def _seen(site: Site, node: Node, peer: str, version: int, second: str = "") -> str:
    """The address under which `node` and `peer` meet, at the peer's end."""
    other = site.nodes[peer]
    return other.address(version, node.zone_towards(other.zone), second)


def _entry(conduit: Conduit, path: str, version: int, **more: Any) -> dict[str, Any]:
    entry = {
        "id": conduit.id,
        "path": path,
        "version": version,
        "iif": "",
        "oif": "",
        "sources": [],
        "origins": [],
        "targets": [],
        "proto": conduit.service.proto,
        "port": conduit.service.port,
        "uid": None,
        "limits": {},
    }
    return {**entry, **more}


def _arriving(site: Site, node: Node, conduit: Conduit, version: int) -> Iterator[dict[str, Any]]:
    if node.name not in conduit.targets:
        return
    meetings: dict[tuple[str, str], set[str]] = {}
    legs = {leg.zone: leg.name for leg in node.interfaces}
    for peer in conduit.sources:
        there = _seen(site, node, peer, version, conduit.source_address)
        here = node.address(version, site.nodes[peer].zone)
        if peer != node.name and there and here:
            meetings.setdefault((here, legs.get(site.nodes[peer].zone, "")), set()).add(there)
    for (here, leg), there_all in sorted(meetings.items()):
        yield _entry(conduit, "input", version, iif=leg, sources=sorted(there_all), targets=[here])


def _leaving(site: Site, node: Node, conduit: Conduit, version: int) -> Iterator[dict[str, Any]]:
    if node.name not in conduit.sources:
        return
    second = conduit.source_address
    meetings: dict[str, set[str]] = {}
    for peer in conduit.targets:
        here, there = node.address(version, site.nodes[peer].zone, second), _seen(site, node, peer, version)
        if peer != node.name and here and there:
            meetings.setdefault(here, set()).add(there)
    for here, there_all in sorted(meetings.items()):
        # Where a host has a second address, each conduit has one of its own to come from.
        yield _entry(conduit, "output", version, sources=[here], origins=[here] if second or node.seconds else [], targets=sorted(there_all), uid=conduit.uid)


def _passing(site: Site, router: Node, conduit: Conduit, version: int) -> Iterator[dict[str, Any]]:
    legs = {leg.zone: leg.name for leg in router.interfaces}
    ways: dict[tuple[str, str], tuple[set[str], set[str]]] = {}
    for first, second in conduit.pairs():
        source, target = site.nodes[first], site.nodes[second]
        if router.name in (first, second) or source.zone == target.zone or source.zone not in legs or target.zone not in legs:
            continue
        if site.external(source.zone, target.zone) is not None:
            # Somebody else's firewall stands there: this router is not the way.
            continue
        here, there = source.address(version, source.zone, conduit.source_address), target.address(version, target.zone)
        if here and there:
            sources, targets = ways.setdefault((source.zone, target.zone), (set(), set()))
            sources.add(here)
            targets.add(there)
    for (here, there), (sources, targets) in sorted(ways.items()):
        plant = min(site.zones[here].level, site.zones[there].level) <= 2
        limits = conduit.limited(plant)
        yield _entry(conduit, "forward", version, iif=legs[here], oif=legs[there], sources=sorted(sources), targets=sorted(targets), limits=limits)


def _peers(site: Site, node: Node) -> list[dict[str, Any]]:
    """Whom a conduit connects `node` with, and how packets go there: `near`: in the same network; `gateway`: else, the routers' addresses there."""
    found: dict[str, dict[str, Any]] = {}
    legs = {leg.zone: leg.name for leg in node.interfaces}
    for conduit in site.conduits:
        near = {*conduit.sources, *conduit.targets}
        if node.name not in near and ROUTER_GROUP not in node.groups:
            continue
        others = (
            near
            if ROUTER_GROUP in node.groups
            else set(conduit.targets if node.name in conduit.sources else ()) | set(conduit.sources if node.name in conduit.targets else ())
        )
        for name in sorted(others - {node.name}):
            peer = site.nodes[name]
            here = node.zone_towards(peer.zone)
            for version in (4, 6):
                address = _seen(site, node, name, version)
                if address and node.address(version, here):
                    inside = any(net.version == version and ipaddress.ip_address(address) in net for net in site.zones[here].cidrs)
                    gates = [router.address(version, here) for router in site.routers() if any(leg.zone == here for leg in router.interfaces)]
                    found[address] = {
                        "name": name,
                        "address": address,
                        "device": legs.get(here, ""),
                        "near": inside,
                        "gateway": [] if inside else sorted(filter(None, gates)),
                    }
    return [found[address] for address in sorted(found)]


class Wanted(NamedTuple):
    """One set of packets. `must`: all of them pass; `may`: they may. `id`: the conduit, '' for what every host needs."""

    path: str
    id: str
    cube: Cube
    must: bool
    may: bool


LIVE = names("established", "related")
_FIRST = names("new")
_QUIET = names("new", "untracked")
_NOT_INVALID = names("new", "untracked", "established", "related")


def wanted(expected: Mapping[str, Any], version: int) -> list[Wanted]:
    """The sets of packets of an expectation, for one IP version."""
    found: list[Wanted] = []
    router = bool(expected["router"])
    legs = [leg for leg in expected["legs"] if router]
    for path, side in (("input", "iif"), ("output", "oif")):
        found.append(Wanted(path, "", {side: names("lo")}, True, True))
    paths = PATHS if router else ("input", "output")
    for path in paths:
        spaces = _unspoofed(legs, version) if path != "output" and router else [{}]
        # Whatever belongs to a connection may pass; that it does is only asked for the conduits.
        found += [Wanted(path, "", {**space, "ct": LIVE}, False, True) for space in spaces]
        proto, name, types = _ERRORS[version]
        errors = {"proto": numbers(proto), name: numbers(*types)}
        found += [Wanted(path, "", {**space, **errors, "ct": names("related")}, True, True) for space in spaces]
        if version == 6:
            found += [Wanted(path, "", {**space, **errors, "ct": _QUIET}, True, True) for space in spaces]
            if path != "forward":
                neighbour: Cube = {"proto": numbers(58), name: numbers(*_NEIGHBOUR), "ip6 hoplimit": numbers(255), "ct": _NOT_INVALID}
                found += [Wanted(path, "", {**space, **neighbour}, True, True) for space in spaces]
            if path == "output":
                found.append(Wanted(path, "", {"proto": numbers(58), name: numbers(*_REPORTS), "ct": _NOT_INVALID}, True, True))
    for entry in expected["conduits"]:
        if entry["version"] == version:
            found += _of_conduit(entry, legs, version)
    return found


def crossings(expected: Mapping[str, Any], one: Mapping[str, Any]) -> list[Cube]:
    """Both ways over one of the expectation's boundaries."""
    first, second = (str(leg["name"]) for leg in expected["legs"] if leg["zone"] in one["zones"])
    return [{"iif": names(here), "oif": names(there)} for here, there in ((first, second), (second, first))]


def _unspoofed(legs: Sequence[Mapping[str, Any]], version: int) -> list[Cube]:
    """A packet's source belongs to the zone of the interface it came in by; other interfaces have no zone (ZS6 names them)."""
    spaces: list[Cube] = [{"iif": names("lo", *(leg["name"] for leg in legs), negate=True)}]
    for leg in legs:
        nets = [leg[str(version)]] if leg[str(version)] else []
        nets += ["::/128", "fe80::/10"] if version == 6 else []
        if nets:
            spaces.append({"iif": names(leg["name"]), "saddr": addresses(nets)})
    return spaces


def _of_conduit(entry: Mapping[str, Any], legs: Sequence[Mapping[str, Any]], version: int) -> Iterator[Wanted]:
    ident, path = str(entry["id"]), str(entry["path"])
    service = {"proto": numbers(_PROTO[entry["proto"]]), "dport": numbers(int(entry["port"]))}
    sources, targets = addresses(entry["sources"]), addresses(entry["targets"])
    first: Cube = {"daddr": targets, **service, "ct": _FIRST}
    ways: Cube = {}
    if entry["iif"]:
        ways["iif"] = names(entry["iif"])
    if entry["oif"]:
        ways["oif"] = names(entry["oif"])
    if entry["uid"] is not None:
        first["uid"] = numbers(int(entry["uid"]))
    limits = entry["limits"]
    if "connections" in limits:
        first["connections"] = numbers((0, int(limits["connections"])))
    if "new_per_minute" in limits:
        # A burst is as many as may stand at once.
        dimension, rate = rate_of(int(limits["new_per_minute"]), "minute", int(limits.get("connections", 1)))
        first[dimension] = numbers((0, rate))
    if path == "output":
        yield Wanted(path, ident, {**first, **({"saddr": sources} if entry["origins"] else {})}, False, True)
        yield Wanted(path, ident, {**first, "saddr": sources}, True, True)
    else:
        yield Wanted(path, ident, {**first, "saddr": sources, **ways}, True, True)
        others = names("lo", *(leg["name"] for leg in legs), negate=True)
        if path == "input" and legs:
            # By an interface that is no leg; which is a finding of its own.
            yield Wanted(path, ident, {**first, "saddr": sources, "iif": others}, False, True)
    there: Cube = {"saddr": sources, "daddr": targets, **service, "ct": names("established"), **ways}
    back: Cube = {"saddr": targets, "daddr": sources, "proto": service["proto"], "sport": service["dport"], "ct": names("established")}
    if path == "forward":
        back.update({"iif": ways["oif"], "oif": ways["iif"]})
    yield Wanted(path, ident, there, True, False)
    other = {"input": "output", "output": "input", "forward": "forward"}[path]
    if other == "input" and legs:
        # The answer comes in by the leg of the target's zone.
        for leg in legs:
            net = ipaddress.ip_network(leg[str(version)]) if leg[str(version)] else None
            inside = [text for text in entry["targets"] if net is not None and ipaddress.ip_address(text) in net]
            if inside:
                yield Wanted(other, ident, {**back, "saddr": addresses(inside), "iif": names(leg["name"])}, True, False)
    else:
        yield Wanted(other, ident, back, True, False)
