# SPDX-License-Identifier: Apache-2.0
"""nftables rulesets from the approved conduits: one own table, default deny in, out and forward, both families alike.

The text is deterministic: the same model gives the same bytes. Loading it replaces the table in one transaction
(add, delete, define) and touches no other table. There is no NAT, ever (I11).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import Any

from ansible_collections.hnai.platform.plugins.module_utils.zones import observe
from ansible_collections.hnai.platform.plugins.module_utils.zones.law import refused
from ansible_collections.hnai.platform.plugins.module_utils.zones.model import (
    JUMP_GROUP,
    ROUTER_GROUP,
    Boundary,
    Conduit,
    Interface,
    Node,
    Problem,
    Site,
    SiteError,
)

TABLE = "table inet hnai"
#: Errors that concern a flow are `related`; these also name ones that conntrack cannot attribute (path MTU must work).
_ICMP6_ERRORS = "{ destination-unreachable, packet-too-big, time-exceeded, parameter-problem }"
_NEIGHBOUR = "icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } ip6 hoplimit 255 accept"
_FAMILIES = ((4, "ip"), (6, "ip6"))


def ruleset(site: Site, host: str, mode: str = "enforce") -> str:
    """The nft file of a managed host or router. `mode`: enforce, or observe (counts what it would drop); a boundary may have its own (model.py).

    Raises SiteError if the model has a problem or a conduit may not be: no rule comes from such a model.
    """
    return _render(site, host, mode)


def bootstrap(site: Site, host: str) -> str:
    """Management and what is established, nothing else: before the first confirm, and at boot if nothing was confirmed."""
    return _render(site, host, "enforce", management_only=True)


def _of(site: Site, host: str, router: bool, management_only: bool) -> list[Conduit]:
    """The conduits that have to do with a host, in the model's order; a router sees all."""
    if router:
        found = site.conduits
    else:
        if "conduits_of" not in site.memo:
            book: dict[str, list[Conduit]] = {}
            for conduit in site.conduits:
                for name in {*conduit.sources, *conduit.targets}:
                    book.setdefault(name, []).append(conduit)
            site.memo["conduits_of"] = book
        found = site.memo["conduits_of"].get(host, [])
    return [conduit for conduit in found if not management_only or conduit.kind == "management"]


def _render(site: Site, host: str, mode: str, management_only: bool = False) -> str:
    problems = site.problems + refused(site, site.conduits)
    if problems:
        raise SiteError(problems)
    if host not in site.nodes or site.nodes[host].kind != "host":
        raise SiteError([_unknown(host)])
    node = site.nodes[host]
    drop = "drop" if mode == "enforce" else ""
    policy = "drop" if mode == "enforce" else "accept"
    router = ROUTER_GROUP in node.groups
    conduits = _of(site, host, router, management_only)
    apart = [] if management_only else site.moded(node)
    lines = [
        "# SPDX-License-Identifier: Apache-2.0",
        f"# {host}: generated from the approved conduits; do not edit.",
        TABLE,
        f"delete {TABLE}",
    ]
    lines += [f"{TABLE} {{"]
    ends = {place: _refusal(mode, place) for place in (observe.ROUTER_PLACES if router else observe.PLACES)}
    written = observe.places(router, mode, [one.id for one in apart if one.mode == "observe"])
    lines += observe.sets(written)
    for place in written:
        lines += _chain(f"observed_{place}", "", "", observe.chain(place))
    if router:
        lines += _chain("antispoof", "", "", _antispoof(site, node.interfaces, ends["spoof"]))
    for one in apart:
        lines += _chain(f"boundary_{one.id}", "", "", _boundary(site, node, conduits, one))
    lines += _chain(
        "input",
        "input",
        policy,
        [*_common("iifname", router, drop, "in"), _NEIGHBOUR, *_inputs(site, node, conduits), _end(ends["in"], "in")],
    )
    lines += _chain(
        "output",
        "output",
        policy,
        [*_common("oifname", False, drop, "out"), *_output_icmp(), *_outputs(site, node, conduits), _end(ends["out"], "out")],
    )
    forward = [_end(ends["forward"], "forward")]
    if router:
        zones = [leg.zone for leg in node.interfaces]
        ways = {(here, there) for here in zones for there in zones if not any(one.zones == {here, there} for one in apart)}
        forward = [*_dispatch(node, apart), *_common("", True, drop, "forward"), *_forwards(site, node, conduits, ways, ends["limits"]), *forward]
    elif mode == "observe":
        # Only who opens a connection is written down; what is open comes from the connection tracking.
        forward = ["ct state established,related accept", *forward]
    lines += _chain("forward", "forward", policy, forward)
    return "\n".join([*lines, "}", ""])


def _refusal(mode: str, place: str) -> str:
    """How a rule ends that refuses, or writes down what `enforce` would refuse."""
    return "drop" if mode == "enforce" else f"jump observed_{place}"


def _dispatch(router: Node, apart: Iterable[Boundary]) -> Iterator[str]:
    """What crosses a boundary with a mode of its own is judged in its chain, whole: by no rule of the router before or after."""
    for one in apart:
        first, second = (leg.name for leg in router.interfaces if leg.zone in one.zones)
        for here, there in ((first, second), (second, first)):
            yield f'iifname "{here}" oifname "{there}" jump boundary_{one.id}'


def _boundary(site: Site, router: Node, conduits: Iterable[Conduit], one: Boundary) -> Iterator[str]:
    """The rules for both ways over a boundary with a mode of its own; each packet that comes here ends here."""
    forward, spoof, limits = (_refusal(one.mode, f"{place}_{one.id}") for place in observe.BOUNDARY_PLACES)
    first, second = sorted(one.zones)
    yield from _antispoof(site, [leg for leg in router.interfaces if leg.zone in one.zones], spoof)
    yield from _common("", False, "drop" if one.mode == "enforce" else "", "forward")
    yield from _forwards(site, router, conduits, {(first, second), (second, first)}, limits)
    yield _end(forward, "forward")
    if one.mode == "observe":
        yield "accept"


def _unknown(host: str) -> Problem:
    return Problem("inventory", host, "is no managed host of the model", "add it to the group managed with hnai_zone and hnai_addresses")


def _chain(name: str, hook: str, policy: str, rules: Iterable[str]) -> list[str]:
    head = [f"    type filter hook {hook} priority filter; policy {policy};"] if hook else []
    return [f"  chain {name} {{", *head, *(f"    {rule}" for rule in rules), "  }"]


def _end(drop: str, direction: str) -> str:
    return _join("counter", drop, f'comment "drop-{direction}"')


def _join(*parts: str) -> str:
    return " ".join(part for part in parts if part)


def _common(interface: str, antispoof: bool, drop: str, direction: str) -> Iterator[str]:
    if interface:
        yield f'{interface} "lo" accept'
    if antispoof:
        yield "jump antispoof"
    yield "ct state established,related accept"
    yield _join("ct state invalid counter", drop, f'comment "invalid-{direction}"')
    if direction != "out":
        yield f"icmpv6 type {_ICMP6_ERRORS} accept"


def _output_icmp() -> Iterator[str]:
    yield f"icmpv6 type {_ICMP6_ERRORS} accept"
    yield _NEIGHBOUR
    # A host must join its solicited-node groups, or a snooping bridge drops the questions of its neighbours.
    yield "icmpv6 type { mld2-listener-report, mld-listener-report } accept"


def _antispoof(site: Site, legs: Iterable[Interface], drop: str) -> Iterator[str]:
    """A packet's source belongs to the zone of the interface it came in by."""
    for leg in legs:
        zone = site.zones[leg.zone]
        net4, net6 = zone.cidr(4), zone.cidr(6)
        comment = f'comment "spoof-{leg.zone}"'
        yield _join(f'iifname "{leg.name}"', f"ip saddr != {net4}" if net4 else "meta nfproto ipv4", "counter", drop, comment)
        inside = f"ip6 saddr != {{ ::, fe80::/10, {net6} }}" if net6 else "ip6 saddr != { ::, fe80::/10 }"
        yield _join(f'iifname "{leg.name}"', inside, "counter", drop, comment)


def _set(addresses: Iterable[str]) -> str:
    unique = sorted({address for address in addresses if address}, key=lambda text: (len(text), text))
    return unique[0] if len(unique) == 1 else "{ " + ", ".join(unique) + " }" if unique else ""


def _peers(site: Site, node: Node, names: Iterable[str], version: int, second: str = "") -> str:
    """Addresses under which `node` sees the named peers."""
    return _set(site.nodes[name].address(version, node.zone_towards(site.nodes[name].zone), second) for name in names if name != node.name)


def _new(conduit: Conduit) -> str:
    return f"{conduit.service.proto} dport {conduit.service.port} ct state new"


def _accept(conduit: Conduit) -> str:
    return f'counter accept comment "{conduit.id}"'


def _inputs(site: Site, node: Node, conduits: Iterable[Conduit]) -> Iterator[str]:
    for conduit in conduits:
        if node.name in conduit.targets:
            for version, family in _FAMILIES:
                peers = _peers(site, node, conduit.sources, version, conduit.source_address)
                if peers and node.address(version, node.zone):
                    yield _join(
                        f"{family} saddr {peers}",
                        _own(site, node, conduit.sources, version, family),
                        _new(conduit),
                        _accept(conduit),
                    )


def _own(site: Site, node: Node, peers: Iterable[str], version: int, family: str) -> str:
    """Only the address that a peer is meant to use: a router has one in every zone."""
    return f"{family} daddr {_set(node.address(version, site.nodes[peer].zone) for peer in peers if peer != node.name)}"


def _origin(node: Node, version: int, second: str) -> str:
    """The only address that connections of a conduit may come from, '' = any of the host: a second address is for its conduit alone, and the
    conduit for nothing else."""
    return node.address(version, node.zone, second) if node.seconds else ""


def _outputs(site: Site, node: Node, conduits: Iterable[Conduit]) -> Iterator[str]:
    for conduit in conduits:
        if node.name in conduit.sources:
            for version, family in _FAMILIES:
                peers = _peers(site, node, conduit.targets, version)
                if peers and node.address(version, node.zone, conduit.source_address):
                    address = _origin(node, version, conduit.source_address)
                    origin = f"{family} saddr {address}" if address else ""
                    user = "" if conduit.uid is None else f"meta skuid {conduit.uid}"
                    yield _join(origin, f"{family} daddr {peers}", user, _new(conduit), _accept(conduit))


def _forwards(site: Site, router: Node, conduits: Iterable[Conduit], ways: Collection[tuple[str, str]], drop: str) -> Iterator[str]:
    """`ways`: (from zone, to zone) that the chain is for."""
    legs = {leg.zone: leg.name for leg in router.interfaces}
    for conduit in conduits:
        sources, targets = _by_zone(site, router, conduit.sources), _by_zone(site, router, conduit.targets)
        for here in sorted(set(legs) & set(sources)):
            for there in sorted(set(legs) & set(targets)):
                # Between two zones where somebody else's firewall stands, ours lets nothing pass: its way is not the one.
                if here != there and (here, there) in ways and site.external(here, there) is None:
                    ends = (sources[here], targets[there])
                    yield from _forward(site, conduit, ends, (here, legs[here]), (there, legs[there]), drop)


def _by_zone(site: Site, router: Node, names: Iterable[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name in names:
        if name != router.name:
            found.setdefault(site.nodes[name].zone, []).append(name)
    return found


def _forward(
    site: Site, conduit: Conduit, ends: tuple[list[str], list[str]], here: tuple[str, str], there: tuple[str, str], drop: str
) -> Iterator[str]:
    sources, targets = ends
    lowest = min(site.zones[here[0]].level, site.zones[there[0]].level)
    limits = conduit.limited(lowest <= 2)
    for version, family in _FAMILIES:
        from_set = _set(site.nodes[name].address(version, here[0], conduit.source_address) for name in sources)
        to_set = _set(site.nodes[name].address(version, there[0]) for name in targets)
        if not from_set or not to_set:
            continue
        way = f'iifname "{here[1]}" oifname "{there[1]}" {family} saddr {from_set}'
        if limits:
            # Per target: two devices of one conduit do not share their sessions' budget.
            for name in targets:
                address = site.nodes[name].address(version, there[0])
                if address:
                    yield from _limits(conduit, f"{way} {family} daddr {address} {_new(conduit)}", limits, drop)
        yield f"{way} {family} daddr {to_set} {_new(conduit)} {_accept(conduit)}"


def _limits(conduit: Conduit, match: str, limits: dict[str, int], drop: str) -> Iterator[str]:
    if "connections" in limits:
        yield _join(match, f"ct count over {limits['connections']} counter", drop, f'comment "{conduit.id} connections"')
    if "new_per_minute" in limits:
        burst = limits.get("connections", 1)
        rate = f"limit rate over {limits['new_per_minute']}/minute burst {burst} packets counter"
        yield _join(match, rate, drop, f'comment "{conduit.id} new_per_minute"')


def approved(site: Site, host: str) -> list[dict[str, Any]]:
    """What may be open through `host`: [{id, source: [address], target: [address], proto, port, plant: some target stands at level ≤ 2,
    uid: the only user or None}]; a router sees every conduit."""
    node = site.nodes[host]
    found = []
    for conduit in _of(site, host, ROUTER_GROUP in node.groups, False):
        found.append(
            {
                "id": conduit.id,
                "plant": any(site.zones[site.nodes[name].zone].level <= 2 for name in conduit.targets),
                "uid": conduit.uid,
                "source": _all_addresses(site, conduit.sources, conduit.source_address),
                "target": _all_addresses(site, conduit.targets),
                "proto": conduit.service.proto,
                "port": conduit.service.port,
            }
        )
    return found


def boundaries(site: Site, host: str) -> list[dict[str, Any]]:
    """The boundaries of a router that have a mode of their own: [{id, mode, approved_by, zones: the networks of the one and of the other,
    own: the router's addresses}]."""
    own = _all_addresses(site, [host])
    return [
        {
            "id": one.id,
            "mode": one.mode,
            "approved_by": one.approved_by,
            "zones": [[str(net) for net in site.zones[name].cidrs] for name in sorted(one.zones)],
            "own": own,
        }
        for one in site.moded(site.nodes[host])
    ]


def egress(site: Site, host: str) -> list[dict[str, Any]]:
    """What `host` may open by its conduits: [{id, addresses as it sees them, proto, port, uid or None, origins: the only addresses to
    come from, plant: the target stands at level ≤ 2}]."""
    node = site.nodes[host]
    found = []
    for conduit in site.conduits:
        for target in conduit.targets if host in conduit.sources else ():
            peer = site.nodes[target]
            second = conduit.source_address
            addresses = [peer.address(version, node.zone_towards(peer.zone)) for version, _family in _FAMILIES if node.address(version, node.zone, second)]
            if target != host and any(addresses):
                found.append(
                    {
                        "id": conduit.id,
                        "target": target,
                        "addresses": [address for address in addresses if address],
                        "proto": conduit.service.proto,
                        "port": conduit.service.port,
                        "uid": conduit.uid,
                        "origins": [address for version, _family in _FAMILIES if (address := _origin(node, version, second))],
                        "plant": site.zone_of(peer, node).level <= 2,
                    }
                )
    return found


def own_listeners(site: Site, component: str, host: str) -> list[int]:
    """Ports on `host` itself that the contract of `component` connects to; what stays on a host needs no conduit."""
    here = site.listeners_on(host)
    wanted = [one for one in site.contracts.get(component, {}).get("connects", []) if host in site.placed(component, one.get("group", ""))]
    return sorted({int(here[key]["port"]) for one in wanted if (key := (str(one.get("to")), str(one.get("listener")))) in here})


def collector_egress(site: Site, host: str) -> dict[str, Any]:
    """What the mirror's software on `host` may talk to: {conduits: as `egress`, own: ports on the host itself}."""
    return {"conduits": egress(site, host), "own": own_listeners(site, "telegraf", host)}


def _all_addresses(site: Site, names: Iterable[str], second: str = "") -> list[str]:
    found: set[str] = set()
    for name in names:
        node = site.nodes[name]
        if second:
            found |= set(node.seconds.get(second, ()))
            continue
        found |= {node.v4, node.v6, *(leg.v4 for leg in node.interfaces), *(leg.v6 for leg in node.interfaces)}
    return sorted(found - {""})


def proof_hosts(site: Site, host: str) -> list[list[str]]:
    """Hosts to log in to before a ruleset of `host` may be confirmed: of each inner list one that answered before.

    A router or the jump carries the way to everybody else, so one host of every other zone must still be reachable.
    """
    node = site.nodes[host]
    if not {ROUTER_GROUP, JUMP_GROUP} & node.groups:
        return []
    zones: dict[str, list[str]] = {}
    for other in site.managed():
        if other.name != host and not {ROUTER_GROUP, JUMP_GROUP} & other.groups:
            zones.setdefault(other.zone, []).append(other.name)
    return [zones[name] for name in sorted(zones)]
