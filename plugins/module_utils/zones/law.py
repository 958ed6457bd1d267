# SPDX-License-Identifier: Apache-2.0
"""Who may dial whom: the rules that no approval can lift (I1–I6, I8–I10, I12 of the zone model)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from ansible_collections.hnai.platform.plugins.module_utils.zones.model import (
    JUMP_GROUP,
    MANAGEMENT_PORTS,
    NTP,
    READ_VERBS,
    SSH,
    Conduit,
    Node,
    Problem,
    Service,
    Site,
    Zone,
)


class Refusal(NamedTuple):
    """Why an initiation is refused."""

    invariant: str
    message: str
    remedy: str


_FETCH = "let the upper side fetch from a listener in the IDMZ (4→3.5), and the plant push up to it (3→3.5)"


def dial(site: Site, source: Node, target: Node, service: Service, kind: str) -> Refusal | None:
    """None if `source` may open `service` on `target` by a conduit of `kind`, else the reason."""
    here, there = site.zone_of(source, target), site.zone_of(target, source)
    if here.island or there.island:
        return Refusal(
            "I4",
            f"{here.id if here.island else there.id} is an island",
            "remove the conduit: nothing enters or leaves an island",
        )
    if kind == "management":
        return _management(site, here, source, target, service, there)
    if (service.proto, service.port) == SSH and target.kind == "host":
        return Refusal("I9", "SSH to a managed host that is no management conduit", "come from the jump with kind: management")
    if (service.proto, service.port) == NTP:
        return _time(here, there, target)
    if (service.proto, service.port) in MANAGEMENT_PORTS:
        remedy = "declare who gives it in hnai_management, and write kind: management"
        return Refusal("I9", f"{service.proto}/{service.port} is the management plane's, and this is no management conduit", remedy)
    if here.side == "security":
        return _security(site, source, target, service, here, there)
    if "management" in (here.side, there.side) and here.id != there.id:
        return Refusal("I9", f"{here.id}→{there.id}: the management network carries management and time only", "remove the conduit")
    if here.id == there.id:
        return None
    return _levels(here, there, site, source, service, kind)


def _management(site: Site, here: Zone, source: Node, target: Node, service: Service, there: Zone) -> Refusal | None:
    if (service.proto, service.port) != SSH:
        return _management_service(site, here, source, target, service, there)
    if target.kind != "host":
        return Refusal("I9", f"management of {target.name}, which is not a managed host", "remove the conduit")
    if there.level <= 2:
        return Refusal("I9", "level 2 is never managed over the network", "remove the conduit")
    if JUMP_GROUP in target.groups and here.id == there.id:
        return None
    if JUMP_GROUP not in source.groups or here.side != "management":
        return Refusal("I9", f"management from {source.name}, which is no jump of the management zone", "come from the jump")
    return None


def _management_service(site: Site, here: Zone, source: Node, target: Node, service: Service, there: Zone) -> Refusal | None:
    """DNS, syslog, CRL: from a managed host to whom hnai_management names, on that port and no other. The jump's own time alike."""
    for givers, ports in site.services.values():
        if target.name in givers and (service.proto, service.port) in ports:
            break
    else:
        remedy = "kind: management is tcp/22 from the jump, and what hnai_management declares (dns, syslog, crl, ntp), to whom it names"
        return Refusal("I9", f"management over {service.text}", remedy)
    if (service.proto, service.port) == NTP and JUMP_GROUP not in source.groups:
        return Refusal("I9", f"{source.name} asks {target.name} for the time past the jump", "take time from the jump")
    if source.kind != "host" or here.level < 3:
        return Refusal("I9", f"{source.name} is no managed host of level 3 or above", "give the plant services of its own")
    if here.id != there.id and not there.side:
        return Refusal("I9", f"{here.id} reaches for {there.id}", "let a host of the management or the security zone give the service")
    return None


def _time(here: Zone, there: Zone, target: Node) -> Refusal | None:
    if JUMP_GROUP not in target.groups:
        remedy = "take time from the jump; what the jump itself follows stands in hnai_management.ntp, with a conduit of kind: management"
        return Refusal("I9", f"time from {target.name}, which is not the site's time source", remedy)
    if here.level < 3:
        return Refusal("I1", f"level {here.level:g} reaches for the management network", "give the plant a time source of its own")
    return None


def _security(site: Site, source: Node, target: Node, service: Service, here: Zone, there: Zone) -> Refusal | None:
    if here.id == there.id and service.component and source.name in site.placed(service.component):
        return None
    return Refusal(
        "I1",
        f"{here.id} initiates to {target.name}",
        "security accepts and never initiates, but raft among its members and NTP",
    )


def _levels(here: Zone, there: Zone, site: Site, source: Node, service: Service, kind: str) -> Refusal | None:
    low, high = here.level, there.level
    step = f"{here.id} (level {low:g}) → {there.id} (level {high:g})"
    if low >= 4 and high < 3.5:
        return Refusal("I1", f"{step} is never allowed, even if a person approved it", _FETCH)
    if low == 3.5 and high < 3:
        return Refusal("I1", f"{step} is never allowed, even if a person approved it", _FETCH)
    if low == 3.5 and high == 3:
        if kind in ("jump", "brokered"):
            return None
        return Refusal("I1", f"{step} with kind {kind}", "only kind: jump or brokered, with an end; better let level 3 push up")
    if low == 3.5 and high >= 4:
        return Refusal("I1", f"{step}: the IDMZ never calls out to IT", "let level 4 fetch from the IDMZ's listener")
    if low == 3 and high == 2:
        return _into_plant(site, source, service, step)
    if low < 3 and high < low:
        return Refusal("I1", f"{step} goes down", "nothing below level 3 dials down")
    if (low, high) in ((3.0, 3.5), (4.0, 3.5)) or (low < 3 and high - low == 1):
        return None
    if low == high == 3.5 and there.side == "security":
        return None
    if low == high:
        return Refusal("I1", f"{step}: two zones of one level", "put both in one zone, or meet at a listener in the IDMZ")
    return Refusal("I2", f"{step} skips a level", "go through each level: 2→3, 3→3.5, and 4 fetches from 3.5")


def _into_plant(site: Site, source: Node, service: Service, step: str) -> Refusal | None:
    if not site.is_collector(source):
        return Refusal("I3", f"{step} from {source.name}, which is no collector", "only a host of group ot_collector reads from level 2")
    allowed = READ_VERBS.get(service.app, frozenset())
    if not service.ops or set(service.ops) - allowed:
        wanted = ", ".join(sorted(allowed)) or "none known for this app; use " + " or ".join(sorted(READ_VERBS))
        return Refusal("I3", f"{step} with app {service.app or 'none'}, ops {list(service.ops)}", f"name app and read verbs only: {wanted}")
    return None


def _direction(site: Site, conduit: Conduit, source: Node, target: Node) -> Refusal | None:
    """Data must not come back down a channel that was approved for the way up (I12, I13)."""
    low, high = site.zone_of(source, target).level, site.zone_of(target, source).level
    if conduit.kind == "management" or (conduit.service.proto, conduit.service.port) == NTP:
        return None
    upward = low < high and low <= 3
    if (upward or (low == 3 and high == 2)) and conduit.direction != "up":
        return Refusal("I12", f"data_direction {conduit.direction} between level {low:g} and {high:g}", "write data_direction: up")
    if conduit.kind == "diode" and (conduit.direction != "up" or low >= high):
        message = f"kind diode with data_direction {conduit.direction}, from level {low:g} to {high:g}"
        return Refusal("I12", message, "a diode lets data go up and nothing come back: write data_direction: up, from below")
    if conduit.kind == "reverse" and not (low == 2 and high == 3 and conduit.service.app == "opcua" and site.is_collector(target)):
        return Refusal("I12", "kind reverse", "reverse is OPC UA ReverseHello from level 2 to a collector, with app: opcua")
    return None


def _alike(site: Site, names: Iterable[str], component: str) -> dict[tuple[Any, ...], list[str]]:
    """Nodes by all that the law can tell them apart by: what it says of one of a class it says of all."""
    placed = set(site.placed(component)) if component else set()
    classes: dict[tuple[Any, ...], list[str]] = {}
    givers = {name for names_, _ports in site.services.values() for name in names_}
    for name in names:
        node = site.nodes[name]
        legs = tuple((leg.zone, bool(leg.v4), bool(leg.v6)) for leg in node.interfaces)
        # Whoever gives a service of the management plane is a class of its own.
        own = (name,) if name in givers else ()
        key = (node.kind, node.zone, bool(node.v4), bool(node.v6), legs, site.is_collector(node), JUMP_GROUP in node.groups, name in placed, own)
        classes.setdefault(key, []).append(name)
    return classes


def _judged(site: Site, conduit: Conduit) -> Iterator[tuple[Refusal, str]]:
    """(refusal, pair) of a conduit. One pair of each two classes is judged; only where it is refused, all of them are."""
    component = conduit.service.component
    sources, targets = _alike(site, conduit.sources, component), _alike(site, conduit.targets, component)

    def judge(first: str, second: str) -> list[Refusal]:
        source, target = site.nodes[first], site.nodes[second]
        found = (
            dial(site, source, target, conduit.service, conduit.kind),
            _direction(site, conduit, source, target),
            _families(site, source, target),
        )
        return [refusal for refusal in found if refusal is not None]

    for here in sources.values():
        for there in targets.values():
            pair = next(((first, second) for first in here[:2] for second in there[:2] if first != second), None)
            if pair is None or not judge(*pair):
                continue
            for first in here:
                for second in there:
                    if first != second:
                        for refusal in judge(first, second):
                            yield refusal, f"{first} → {second}"


def refused(site: Site, conduits: list[Conduit]) -> list[Problem]:
    """What of the approved conduits may not be, one problem per conduit and reason. Asked of a site's own conduits, it is judged once."""
    own = conduits is site.conduits
    if own and "refused" in site.memo:
        return list(site.memo["refused"])
    found: list[Problem] = []
    file = site.file("hnai_conduits")
    for conduit in conduits:
        seen: dict[Refusal, list[str]] = {}
        for refusal, pair in _judged(site, conduit):
            seen.setdefault(refusal, []).append(pair)
        for refusal, pairs in seen.items():
            what = f"{refusal.message}: {', '.join(pairs)} {conduit.service.text}"
            found.append(Problem(file, f"hnai_conduits[{conduit.id}]", what, refusal.remedy, refusal.invariant))
    found += _pass_through(site, conduits)
    if own:
        site.memo["refused"] = tuple(found)
    return found


def _families(site: Site, source: Node, target: Node) -> Refusal | None:
    if not all(node.v4 or node.v6 or node.interfaces for node in (source, target)):
        return None  # who has no address at all was named for that
    for version in (4, 6):
        if source.address(version, site.zone_of(target, source).id) and target.address(version, site.zone_of(source, target).id):
            return None
    return Refusal("I10", "no common address family", "give both an address of the same family")


def _pass_through(site: Site, conduits: list[Conduit]) -> list[Problem]:
    """I6: no host of the IDMZ takes in and sends on the same protocol and port."""
    found: list[Problem] = []
    into: dict[tuple[str, str, int], str] = {}
    out: dict[tuple[str, str, int], str] = {}
    for conduit in conduits:
        if conduit.kind == "management":
            continue
        # Of a host only the zones matter that it meets: one of each zone stands for the others.
        zones = [
            {(site.nodes[name].zone, bool(site.nodes[name].interfaces)): name for name in names} for names in (conduit.sources, conduit.targets)
        ]
        for book, names, peers in ((out, conduit.sources, zones[1]), (into, conduit.targets, zones[0])):
            for name in names:
                node = site.nodes[name]
                if site.zones[node.zone].level != 3.5 or node.interfaces:
                    continue
                if any(site.zone_of(node, site.nodes[peer]).id != site.zone_of(site.nodes[peer], node).id for peer in peers.values()):
                    book.setdefault((node.name, conduit.service.proto, conduit.service.port), conduit.id)
    for (host, proto, port), ident in sorted(out.items()):
        if (host, proto, port) in into:
            message = f"{host} takes in {proto}/{port} by {into[host, proto, port]} and sends it on: the IDMZ must terminate"
            found.append(
                Problem(
                    site.file("hnai_conduits"),
                    f"hnai_conduits[{ident}]",
                    message,
                    "end one of the two in the IDMZ with another service",
                    "I6",
                )
            )
    return found
