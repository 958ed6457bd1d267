# SPDX-License-Identifier: Apache-2.0
"""The probe matrix: what every host tries, and what must come of it. Made from the model, never from the rules.

Each source tries every port of the registry at every address of every other host, both families, in two ways:

* ``own``: as a program there would, as a user and from an address (`Origin`). A conduit that is bound to a user or a second address is
  tried as that user, as another, and from the other address.
* ``past``: what no conduit allows, once more by packets that its own rules never see. So the router and the target have to refuse by
  themselves, and each refusal is somebody's.

Towards an asset (level 2 above all) only what the model allows is tried, and a denied port only at one that declares ``canary: true``.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from ansible_collections.hnai.platform.plugins.module_utils.zones.model import SSH, Boundary, Conduit, Node, Site

OWN = "own"
PAST = "past"
NOBODY = 65534
CONTROLLER = "controller"
#: Whichever router stands between two zones.
ROUTERS = "(router)"
_ZONES: WeakKeyDictionary[Site, dict[str, str]] = WeakKeyDictionary()


class Origin(NamedTuple):
    """Who dials: a user's number (-1: as root) and the name of a second address ('': the host's own)."""

    uid: int = -1
    second: str = ""


@dataclass(frozen=True)
class Probe:
    """One attempt. `conduits`: ids that allow it; none = it must be refused. `limited`: the conduit has a budget, so it is tried once."""

    index: int
    layer: str
    origin: int
    proto: str
    source: str
    target: str
    address: str
    port: int
    conduits: tuple[str, ...] = ()
    limited: bool = False

    @property
    def version(self) -> int:
        """IP version."""
        return 6 if ":" in self.address else 4

    def sent(self) -> list[Any]:
        """What the host needs to know of it."""
        return [self.index, self.layer, self.origin, self.proto, self.source, self.address, self.port, bool(self.conduits) and not self.limited]


@dataclass(frozen=True)
class Plan:
    """All that one source tries."""

    source: str
    origins: tuple[Origin, ...]
    probes: tuple[Probe, ...]


def registry(site: Site) -> list[tuple[str, int]]:
    """Every port that a contract, an asset or a conduit knows, and SSH."""
    found = {SSH}
    for contract in site.contracts.values():
        found |= {(str(item["proto"]), int(item["port"])) for item in contract.get("listens", [])}
    for asset in site.assets.values():
        found |= {(str(item["proto"]), int(item["port"])) for item in (asset.get("services") or {}).values() if isinstance(item, dict)}
    return sorted(found | {(conduit.service.proto, conduit.service.port) for conduit in site.conduits})


def addresses(node: Node) -> list[str]:
    """All addresses of a node: a router's in every zone, second ones too."""
    found = {node.v4, node.v6, *(leg.v4 for leg in node.interfaces), *(leg.v6 for leg in node.interfaces)}
    return sorted((found | {address for pair in node.seconds.values() for address in pair}) - {""})


def owners(site: Site) -> dict[str, str]:
    """Address → node."""
    return {address: name for name, node in site.nodes.items() for address in addresses(node)}


def zone_of(site: Site, address: str) -> str:
    """The zone that an address lies in, '' for none. Asked for every probe, so it is looked up once for each address of a model."""
    book = _ZONES.setdefault(site, {})
    if address not in book:
        known = ipaddress.ip_address(address)
        nets = ((zone.id, net) for zone in site.zones.values() for net in zone.cidrs)
        book[address] = next((name for name, net in nets if net.version == known.version and known in net), "")
    return book[address]


def sources(site: Site) -> list[str]:
    """Who can try at all: managed hosts, and assets but the controller (those in a lab alone: nobody manages a device)."""
    return sorted(name for name, node in site.nodes.items() if node.role != CONTROLLER)


def canary(site: Site, node: Node) -> bool:
    """May a denied port be tried there? Every managed host; of the others one that stands for no process."""
    return node.kind == "host" or site.assets.get(node.name, {}).get("canary") is True


def plan(site: Site, source: str) -> Plan:
    """What `source` tries. Raises KeyError for a name that the model does not know."""
    node = site.nodes[source]
    mine = [one for one in site.conduits if source in one.sources]
    known: dict[tuple[str, str, int], list[Conduit]] = {}
    for conduit in mine:
        for target in conduit.targets:
            known.setdefault((target, conduit.service.proto, conduit.service.port), []).append(conduit)
    bound = [one for one in mine if node.kind == "host" and (one.uid is not None or one.source_address)]
    meant = {Origin(), *(_of(one) for one in bound)}
    origins = [Origin()]
    for conduit in bound:
        for one in (_of(conduit), Origin(NOBODY, conduit.source_address), Origin(_of(conduit).uid, "")):
            if one not in origins:
                origins.append(one)
    probes: list[Probe] = []
    for target, address, proto, port in _pairs(site, node, known):
        conduits = known.get((target, proto, port), [])
        peer = site.nodes[target]
        version = 6 if ":" in address else 4
        here = zone_of(site, address)
        meant_address = address == peer.address(version, node.zone_towards(peer.zone))
        special = any(one in bound for one in conduits)
        for number, origin in enumerate(origins):
            own = node.address(version, here, origin.second)
            if not own or (origin not in meant and not special):
                continue
            allowed = [one for one in conduits if meant_address and one.source_address == origin.second and one.uid in (None, origin.uid)]
            if allowed or special or (canary(site, peer) and (node.kind == "host" or _refusable(site, node, peer, here))):
                ids = tuple(one.id for one in allowed)
                probes.append(Probe(len(probes), OWN, number, proto, own, target, address, port, ids, _limited(site, allowed, peer)))
        for second in ("", *sorted(node.seconds)) if node.kind == "host" and canary(site, peer) and _refusable(site, node, peer, here) else ():
            own = node.address(version, here, second)
            if own and not (meant_address and any(one.source_address == second for one in conduits)):
                probes.append(Probe(len(probes), PAST, 0, proto, own, target, address, port))
    return Plan(source, tuple(origins), tuple(probes))


def _refusable(site: Site, node: Node, peer: Node, here: str) -> bool:
    """Is there anybody of ours behind the source's own rules who could refuse? Between a device and its neighbour there is nobody."""
    return peer.kind == "host" or not (node.zone == here or any(leg.zone == here for leg in node.interfaces))


def _of(conduit: Conduit) -> Origin:
    """Who may open a conduit."""
    return Origin(-1 if conduit.uid is None else conduit.uid, conduit.source_address)


def _pairs(site: Site, node: Node, known: Iterable[tuple[str, str, int]]) -> Iterator[tuple[str, str, str, int]]:
    """(target, address, proto, port) of everything that a source may be told to try; `known`: what its conduits name."""
    ports = registry(site)
    for name, other in sorted(site.nodes.items()):
        if name != node.name and other.role != CONTROLLER:
            wanted = ports if canary(site, other) else sorted((proto, port) for target, proto, port in known if target == name)
            for address in addresses(other):
                for proto, port in wanted:
                    yield name, address, proto, port


def _limited(site: Site, conduits: list[Conduit], target: Node) -> bool:
    """Is every connection one of a budget?"""
    return bool(conduits) and (site.zones[target.zone].level <= 2 or all(one.limits for one in conduits))


def enforcer(site: Site, source: str, probe: Probe) -> str:
    """The point that must refuse a denied probe first: the source itself, a router (ROUTERS), the target, or '' (nobody of ours)."""
    node, target = site.nodes[source], site.nodes[probe.target]
    if probe.layer == OWN and node.kind == "host":
        return source
    if node.interfaces or target.interfaces or zone_of(site, probe.source) == zone_of(site, probe.address):
        return probe.target if target.kind == "host" else ""
    return ROUTERS


def observing(site: Site, source: str, probe: Probe) -> Boundary | None:
    """The boundary that a probe crosses and that a router of ours only observes; None where it crosses another, or none."""
    if site.nodes[source].interfaces or site.nodes[probe.target].interfaces:
        return None
    return site.observing(zone_of(site, probe.source), zone_of(site, probe.address))


def untested(site: Site, lab: bool) -> list[str]:
    """What no probe can tell, in words; printed as large as what was tried."""
    found = []
    for name, node in sorted(site.nodes.items()):
        if node.role == CONTROLLER:
            found.append(f"{name}: the controller itself, as source and as target")
        elif node.kind == "asset":
            if not lab:
                found.append(f"{name}: as source (nobody manages a device of zone {node.zone})")
            if not canary(site, node):
                found.append(f"{name}: denied ports (no canary)")
    return found
