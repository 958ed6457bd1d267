# SPDX-License-Identifier: Apache-2.0
"""Is the loaded ruleset of a host the model? Judged over every packet that there can be, not by the text of rules (V1), and do routes and
forwarding leave the packets to it (V2).

``expectation(site, host)`` says on the controller what the approved conduits mean for one host, from the model alone (never from the rules
that are generated of it), as JSON. ``run`` judges it on the host:

    params = {"expected": expectation(site, host), "mode": "enforce" | "observe", "foreign": ["inet f2b-table"]}

*mode* is the host's firewall_mode (default enforce; boundaries with a mode of their own stand in the expectation); *foreign* are tables of
others that the site declared (default none): they are judged all the same, only their presence is no finding. *read* runs a command and
returns what it says: read(argv, timeout_s) -> stdout; it raises OSError or subprocess.SubprocessError where that is not possible
(``host/health.py: run_command``). Nothing else touches the host.
"""

from __future__ import annotations

import ipaddress
import json
import re
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ansible_collections.hnai.platform.plugins.module_utils.verdict import Check, Report
from ansible_collections.hnai.platform.plugins.module_utils.zones import observe
from ansible_collections.hnai.platform.plugins.module_utils.zones.model import L2_LIMITS, ROUTER_GROUP, Conduit, Node, Site
from ansible_collections.hnai.platform.plugins.module_utils.zones.ruleset import (
    ICMP6,
    PATHS,
    Act,
    Box,
    Chain,
    Choice,
    Cube,
    Event,
    Machine,
    Outcome,
    Part,
    Program,
    Rule,
    RulesetError,
    Unknown,
    Where,
    addresses,
    classes_of,
    dormant,
    flagged,
    minus,
    names,
    numbers,
    parse,
    rate_of,
    within,
)

Read = Callable[[Sequence[str], float], str]
TABLE = ("inet", "hnai")
_WAYS = {"input": "in", "output": "out", "forward": "forward"}
_PROTO = {"tcp": 6, "udp": 17}
_ERRORS = {4: (1, "icmp type", (3, 11, 12)), 6: (58, "icmpv6 type", (1, 2, 3, 4))}
_NEIGHBOUR = (ICMP6["nd-neighbor-solicit"], ICMP6["nd-neighbor-advert"])
_REPORTS = (ICMP6["mld-listener-report"], ICMP6["mld2-listener-report"])
#: Most findings that a check lists one by one.
_SHOWN = 8
_SR = {
    "extra": ["SR 5.1", "SR 5.2"],
    "missing": ["SR 5.1", "SR 7.1"],
    "policy": ["SR 5.2 RE 1"],
    "no_established": ["SR 5.1", "SR 7.1"],
    "uncounted": ["SR 6.1"],
    "foreign_table": ["SR 7.6", "SR 3.4"],
    "foreign_rule": ["SR 7.6", "SR 3.4"],
    "unknown": ["SR 3.3"],
}
_REMEDY = {
    "extra": "remove the rule (nft delete rule … handle N; site.yml --tags firewall does it for our own table), or have a conduit approved",
    "missing": "remove what drops it, or run site.yml --tags firewall; if nobody needs the conduit, take it out of the model",
    "no_established": "run site.yml --tags firewall: the answers of a conduit must come back by the state of its connection",
    "policy": "run site.yml --tags firewall",
    "uncounted": "run site.yml --tags firewall: without its counter nobody can tell which rule let a packet through or refused it",
    "foreign_table": "remove the table (nft delete table …), or declare it if the site wants it",
    "foreign_rule": "run site.yml --tags firewall, which replaces our table as a whole",
    "unknown": "look at the construct by hand; the judgement of what hangs on it is open",
    "nat": "remove the rule: addresses are never rewritten here (I11)",
    "flowtable": "remove the rule: packets of an offloaded flow pass no chain",
    "notrack": "remove the rule: a packet without a connection is judged by nothing that looks at its state",
    "queue": "remove the rule: a program, or nobody where it is gone, would decide",
    "helper": "remove the rule: a helper opens further connections that no conduit names",
    "bypass": "remove the rule: it sends packets past the chains",
    "legacy": "flush the legacy tables (iptables-legacy -F) and unload their modules",
}


class CannotTell(Exception):
    """It could not be found out."""


# -- the expectation, from the model ----------------------------------------------------------------------------------------------


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
        limits = {**(L2_LIMITS if plant else {}), **conduit.limits}
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


# -- what is expected, as sets of packets -------------------------------------------------------------------------------------------


class Wanted(NamedTuple):
    """One set of packets. `must`: all of them pass; `may`: they may. `id`: the conduit, '' for what every host needs."""

    path: str
    id: str
    cube: Cube
    must: bool
    may: bool


_LIVE = names("established", "related")
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
        found += [Wanted(path, "", {**space, "ct": _LIVE}, False, True) for space in spaces]
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


#: Kind of what `enforce` would name as extra, and a host or a boundary that observes lets pass: it stands in no verdict.
_OBSERVED = "observed"


# -- findings -------------------------------------------------------------------------------------------------------------------


@dataclass
class Finding:
    """One deviation. `sure` False: it hangs on what `doubt` names. `packet`: an example; `more`: further sets of packets of the same kind."""

    kind: str
    path: str
    version: int
    where: Where
    text: str
    packet: dict[str, Any] = field(default_factory=dict)
    conduit: str = ""
    sure: bool = True
    doubt: str = ""
    more: int = 0

    @property
    def line(self) -> str:
        """For people."""
        packet = ", ".join("%s %s" % pair for pair in self.packet.items())
        return "%s: %s%s%s%s" % (
            self.where.text,
            self.text,
            " (such as IPv%d %s)" % (self.version, packet) if packet else "",
            "" if self.sure else "; it hangs on %s" % self.doubt,
            " and %d more" % self.more if self.more else "",
        )

    def as_dict(self) -> dict[str, Any]:
        """As JSON-like data."""
        return {
            "kind": self.kind,
            "path": self.path,
            "version": self.version,
            "where": self.where.as_dict(),
            "text": self.text,
            "packet": self.packet,
            "conduit": self.conduit,
            "sure": self.sure,
            "doubt": self.doubt,
            "more": self.more,
            "remedy": _REMEDY.get(self.kind, ""),
            "sr": _SR.get(self.kind, ["SR 5.2"]),
        }


@dataclass
class Judgement:
    """Everything that was found, by what it is about."""

    rules: list[Finding] = field(default_factory=list)
    """ZS1: new connections, and packets without any."""
    state: list[Finding] = field(default_factory=list)
    """ZS2: what belongs to a connection."""
    around: list[Finding] = field(default_factory=list)
    """ZS3: ways around."""
    foreign: list[Finding] = field(default_factory=list)
    """ZS4: what is not ours."""
    unknown: list[Unknown] = field(default_factory=list)
    """ZS5: what is not understood."""
    shadowed: list[Finding] = field(default_factory=list)
    """Rules of conduits that no packet reaches: the cause of something above, or a double."""
    boxes: int = 0

    def add(self, found: list[Finding], finding: Finding) -> None:
        """Into one of the lists; what is the same but for its packet is counted."""
        for old in found:
            if (old.kind, old.path, old.where, old.conduit, old.sure) == (finding.kind, finding.path, finding.where, finding.conduit, finding.sure):
                old.more += 1
                return
        found.append(finding)

    @property
    def all(self) -> list[Finding]:
        """Every finding."""
        return [*self.rules, *self.state, *self.around, *self.foreign]


def judge(
    listing: str,
    expected: Mapping[str, Any],
    mode: str,
    declared: Iterable[str],
    uid_of: Callable[[str], int | None],
    interfaces: Sequence[str] | None = None,
    sleeping: Iterable[tuple[str, str]] = (),
    bridged: bool | None = None,
    owned: Iterable[tuple[str, str]] = (),
) -> Judgement:
    """Compare a listing with an expectation.

    `interfaces`: those that the host has (None: not known, so any); `sleeping`: dormant tables; `bridged`: whether frames are switched here;
    `owned`: tables that belong to a process.
    Raises RulesetError where it is no listing or cannot be judged.
    """
    found = Judgement()
    seen: dict[Where, bool] = {}
    programs = []
    for version in (4, 6):
        program = parse(listing, version, uid_of)
        program.dormant |= set(sleeping)
        programs.append(program)
        _Family(program, expected, version, mode, interfaces, found, seen).judge()
        found.unknown += [one for one in program.unknown if one not in found.unknown]
    chains = frozenset("boundary_%s" % one["id"] for one in expected["boundaries"])
    writes = _writing(observe.places(bool(expected["router"]), mode, [one["id"] for one in expected["boundaries"] if one["mode"] == "observe"]))
    _tables(programs, found, seen, {tuple(one.split()) for one in declared}, bridged, writes, chains)
    if TABLE in set(owned):
        text = "our table belongs to a process: it goes when that ends, and nobody else can replace it"
        found.add(found.around, Finding("bypass", "", 0, Where(*TABLE), text))
    found.rules = [one for one in found.rules if one.kind in ("missing", "extra") or (mode == "enforce" and one.kind != _OBSERVED)]
    found.state = [one for one in found.state if one.kind != _OBSERVED]
    return found


#: Of a rule that writes down: (the sets it adds to, how it ends, comment).
_Written = tuple[tuple[tuple[str, str], ...], str, str]


class _Writing(NamedTuple):
    """What a ruleset in `observe` has beside the rules, to write down what it would drop: the sets, and the rules of each chain."""

    sets: frozenset[str]
    chains: dict[str, list[_Written]]


def _writing(where: Sequence[str]) -> _Writing:
    kept = frozenset(line.split()[1] for line in observe.sets(where))
    chains: dict[str, list[_Written]] = {}
    for place in where:
        for rule in observe.chain(place):
            comment = re.search(r'comment "([^"]*)"', rule)
            written = (tuple(re.findall(r"(add|update) @(\S+)", rule)), "return" if rule.endswith("return") else "", comment[1] if comment else "")
            chains.setdefault("observed_%s" % place, []).append(written)
    return _Writing(kept, chains)


class _Family:
    """The judgement of one IP version."""

    def __init__(
        self,
        program: Program,
        expected: Mapping[str, Any],
        version: int,
        mode: str,
        interfaces: Sequence[str] | None,
        found: Judgement,
        seen: dict[Where, bool],
    ) -> None:
        self.program = program
        self.expected = expected
        self.version = version
        self.mode = mode
        self.found = found
        self.seen = seen
        self.wanted = wanted(expected, version)
        real: list[Cube] = [{"iif": names(*interfaces), "oif": names(*interfaces)}] if interfaces is not None else []
        self.boundaries = {"boundary_%s" % one["id"]: one for one in expected["boundaries"]}
        apart = [cube for one in expected["boundaries"] if one["mode"] != mode for cube in crossings(expected, one)]
        self.classes = classes_of(program, [*(one.cube for one in self.wanted), *real, *apart])
        self.apart = [cube for cube in map(self.classes.cube, apart) if cube is not None]
        self.interfaces = interfaces
        self.machine = Machine(program, self.classes)
        self.ids = {str(entry["id"]) for entry in expected["conduits"]}

    def judge(self) -> None:
        for path in PATHS:
            outcome = self.machine.run(path)
            self.found.boxes += len(outcome.passed) + len(outcome.dropped)
            self._policy(path)
            self._extra(outcome)
            self._missing(outcome)
            self._events(outcome)
            self._ours(outcome)
            self._counted(outcome)

    def _cubes(self, path: str, must: bool, ident: str | None = None) -> list[Any]:
        found = [
            self.classes.cube(one.cube)
            for one in self.wanted
            if one.path == path and (one.must if must else one.may) and (ident is None or one.id in ("", ident))
        ]
        return [one for one in found if one is not None]

    def _policy(self, path: str) -> None:
        chains = [one for one in self.program.base(path) if (one.where.family, one.where.table) == TABLE]
        place = Where(*TABLE, path)
        if not chains:
            self.found.add(self.found.rules, Finding("policy", path, self.version, place, "no chain of ours stands at hook %s" % path))
        for chain in chains:
            if chain.policy != "drop" and self.mode == "enforce":
                self.found.add(
                    self.found.rules, Finding("policy", path, self.version, chain.where, "its policy is %s: what no rule names passes" % chain.policy)
                )

    def _split(self, box: Box) -> Iterator[tuple[bool, Box]]:
        """(belongs to a connection, box)."""
        number = self.classes.index["ct"]
        live = self.classes.mask("ct", _LIVE)
        for alive, mask in ((False, box[number] & ~live), (True, box[number] & live)):
            if mask:
                yield alive, (*box[:number], mask, *box[number + 1 :])

    def _judged(self, path: str, boxes: list[Box]) -> Iterator[tuple[bool, Box]]:
        """(does it have to be refused there, box): not on a host that observes, nor over a boundary that does."""
        apart = self.apart if path == "forward" else []
        strict = self.mode == "enforce"
        yield from ((strict, box) for box in minus(boxes, apart))
        yield from ((not strict, box) for box in within(boxes, apart))

    def _extra(self, outcome: Outcome) -> None:
        may = self._cubes(outcome.path, False)
        for part in outcome.passed:
            for refused, left in self._judged(outcome.path, minus([part.box], may)):
                for alive, box in self._split(left):
                    where = self._decider(part)
                    doubt = "; ".join(sorted(one.text for one in part.doubts))
                    text = "lets through %s, which no conduit names" % ("packets of connections" if alive else "packets")
                    finding = Finding(
                        "extra" if refused else _OBSERVED,
                        outcome.path,
                        self.version,
                        where,
                        "%s on the way %s" % (text, _WAYS[outcome.path]),
                        self.classes.example(box),
                        where.comment if where.comment in self.ids else "",
                        not part.doubts,
                        doubt,
                    )
                    self.found.add(self.found.state if alive else self.found.rules, finding)

    @staticmethod
    def _decider(part: Part) -> Where:
        ours = [one for one in part.trail if (one.family, one.table) == TABLE]
        return ours[-1] if ours else part.trail[-1] if part.trail else Where(*TABLE)

    def _missing(self, outcome: Outcome) -> None:
        for one in self.wanted:
            if one.path != outcome.path or not one.must:
                continue
            box = self.classes.box(one.cube)
            if box is None:
                continue
            box = self._real(box)
            if box is None:
                continue
            for part in outcome.dropped:
                hit = tuple(have & want for have, want in zip(part.box, box))
                if not all(hit):
                    continue
                for alive, piece in self._split(hit):
                    where = part.trail[-1]
                    doubt = "; ".join(sorted(each.text for each in part.doubts))
                    text = "cuts %s on the way %s" % (
                        "what belongs to connections of %s" % (one.id or "the host") if alive else one.id or "what every host needs",
                        _WAYS[outcome.path],
                    )
                    kind = "no_established" if alive else "missing"
                    finding = Finding(kind, outcome.path, self.version, where, text, self.classes.example(piece), one.id, not part.doubts, doubt)
                    self.found.add(self.found.state if alive else self.found.rules, finding)

    def _real(self, box: Box) -> Box | None:
        """Without interfaces that the host has not."""
        if self.interfaces is None:
            return box
        found = list(box)
        for name in ("iif", "oif"):
            number = self.classes.index[name]
            found[number] &= self.classes.mask(name, names("", *self.interfaces))
        return tuple(found) if all(found) else None

    def _events(self, outcome: Outcome) -> None:
        for event in outcome.events:
            self.found.add(self.found.around, _around(event, self.version))

    # -- our own table

    def _hook(self, chain: Chain) -> str:
        return "forward" if chain.where.chain in self.boundaries else ""

    def _mode(self, chain: Chain) -> str:
        return str(self.boundaries[chain.where.chain]["mode"]) if self._hook(chain) else self.mode

    def _own_rules(self, path: str) -> Iterator[tuple[Chain, Rule]]:
        for chain in self.program.chains.values():
            if (chain.where.family, chain.where.table) == TABLE and (chain.hook or self._hook(chain)) == path:
                for rule in chain.rules:
                    yield chain, rule

    def _ours(self, outcome: Outcome) -> None:
        """Is each rule of our table one of the model's? `seen`: whether some packet of some version vouched for it."""
        spoof = self.program.chains.get((*TABLE, "antispoof"))
        zones = {"spoof-%s" % leg["zone"] for leg in self.expected["legs"] if self.expected["router"]}
        if spoof is not None:
            self.seen.update({rule.where: rule.where.comment in zones and rule.counted and self._refuses(spoof, rule, "spoof") for rule in spoof.rules})
        for chain, rule in self._own_rules(outcome.path):
            verbs = _verbs(rule)
            comment = rule.where.comment
            if verbs == {"accept"}:
                parts = outcome.accepts.get(rule.where, [])
                allowed = self._cubes(outcome.path, False, comment if comment in self.ids else "-")
                good = not minus([part.box for part in parts], allowed) if self._mode(chain) == "enforce" or comment else True
                # What lets through more than its conduit because another rule is gone has been named already.
                good = good or (comment in self.ids and any(one.kind in ("extra", _OBSERVED) and one.where == rule.where for one in self.found.rules))
                known = comment in self.ids if comment else bool(parts)
                if not good:
                    self.seen[rule.where] = False
                elif known:
                    self.seen.setdefault(rule.where, True)
                if comment in self.ids and not parts:
                    self._shadowed(outcome, rule)
            else:
                self.seen[rule.where] = self._known(chain, rule, verbs, outcome.path)

    def _shadowed(self, outcome: Outcome, rule: Rule) -> None:
        if self.machine.concerns(rule):
            text = "no IPv%d packet gets to it: what stands before it takes all" % self.version
            self.found.add(self.found.shadowed, Finding("shadowed", outcome.path, self.version, rule.where, text, {}, rule.where.comment))

    def _known(self, chain: Chain, rule: Rule, verbs: set[str], path: str) -> bool:
        comment, way = rule.where.comment, _WAYS[path]
        if comment == "drop-%s" % way:
            return rule.counted and self._refuses(chain, rule, way)
        if comment == "invalid-%s" % way:
            return rule.counted and verbs == ({"drop"} if self._mode(chain) == "enforce" else set())
        if path == "forward" and comment in {"%s %s" % (ident, limit) for ident in self.ids for limit in L2_LIMITS}:
            return rule.counted and self._refuses(chain, rule, "limits")
        if self._hook(chain):
            zones = self.boundaries[chain.where.chain]["zones"]
            return rule.counted and comment in {"spoof-%s" % zone for zone in zones} and self._refuses(chain, rule, "spoof")
        targets = {"antispoof", *(self.boundaries if path == "forward" else ())}
        return [act.verb for act in _acts(rule)] == ["jump"] and _acts(rule)[0].target in targets and not comment

    def _refuses(self, chain: Chain, rule: Rule, place: str) -> bool:
        """Does the rule drop, or write down where the host, or the boundary, observes?"""
        name = "observed_%s" % place + ("_%s" % self.boundaries[chain.where.chain]["id"] if self._hook(chain) else "")
        return [(act.verb, act.target) for act in _acts(rule)] == [("drop", "") if self._mode(chain) == "enforce" else ("jump", name)]

    def _counted(self, outcome: Outcome) -> None:
        """Has each conduit, and the end of each chain, a counter of its own?"""
        path = outcome.path
        chains = list(self._own_rules(path))
        rules = [rule for _chain, rule in chains]
        if not rules and not [one for one in self.program.base(path) if (one.where.family, one.where.table) == TABLE]:
            return
        end = "drop-%s" % _WAYS[path]
        place = Where(*TABLE, path)
        for name in (path, *(self.boundaries if path == "forward" else ())):
            if not any(chain.where.chain == name and rule.where.comment == end and rule.counted for chain, rule in chains):
                text = "no counted rule %r at its end" % end
                self.found.add(self.found.rules, Finding("uncounted", path, self.version, Where(*TABLE, name), text))
        for ident in sorted(self.ids):
            mine = [rule for rule in rules if rule.where.comment == ident and rule.counted and _verbs(rule) == {"accept"}]
            boxes = [
                box
                for one in self.wanted
                if one.path == path and one.id == ident and one.must and one.may
                for box in [self.classes.box(one.cube)]
                if box is not None
            ]
            if not boxes:
                continue
            left = self.machine.alone(mine, boxes)
            if left:
                text = "%s has no counted rule of its own on the way %s" % (ident, _WAYS[path])
                self.found.add(self.found.rules, Finding("uncounted", path, self.version, place, text, self.classes.example(left[0]), ident))


def _acts(rule: Rule) -> list[Act]:
    found = []
    for step in rule.steps:
        if isinstance(step, Act):
            found.append(step)
        elif isinstance(step, Choice):
            found += [act for _match, act in step.ways]
    return found


def _verbs(rule: Rule) -> set[str]:
    return {act.verb for act in _acts(rule)} | ({"vmap"} if any(isinstance(step, Choice) for step in rule.steps) else set())


def _around(event: Event, version: int) -> Finding:
    words = {
        "nat": "rewrites where packets come from or go to",
        "flowtable": "sends flows past the chains",
        "notrack": "takes packets out of conntrack",
        "queue": "leaves the verdict to a program",
        "helper": "lets a helper open further connections",
        "bypass": "sends packets past the chains",
    }
    return Finding(event.kind, event.path, version, event.where, "%s: %s" % (words.get(event.kind, event.kind), event.what), event.example)


def _tables(
    programs: Sequence[Program],
    found: Judgement,
    seen: Mapping[Where, bool],
    declared: set[tuple[str, ...]],
    bridged: bool | None,
    writes: _Writing,
    boundaries: frozenset[str],
) -> None:
    """What is not ours, and what it does."""
    first = programs[0]
    for family, table in first.tables:
        if (family, table) == TABLE or (family, table) in declared:
            continue
        does = _effect(first, family, table, found, bridged)
        found.add(found.foreign, Finding("foreign_table", "", 0, Where(family, table), "is not ours; it %s" % does))
    if TABLE in first.dormant:
        found.add(found.around, Finding("bypass", "", 0, Where(*TABLE), "our table is dormant: it is there and does nothing"))
    for kind, where in first.others:
        if (where.family, where.table) == TABLE and not (kind == "set" and where.chain in writes.sets):
            found.add(found.foreign, Finding("foreign_rule", "", 0, where, "a %s of our table that no model has" % kind))
    for chain in first.chains.values():
        place = (chain.where.family, chain.where.table)
        if place != TABLE:
            _beside(chain, found, bridged)
            continue
        if chain.where.chain in writes.chains and not chain.hook:
            _writes_down(chain, writes.chains[chain.where.chain], found)
            continue
        if chain.where.chain not in ({chain.hook} if chain.hook in PATHS else {"antispoof", *boundaries}):
            found.add(found.foreign, Finding("foreign_rule", "", 0, chain.where, "a chain of our table that no model has"))
            continue
        if chain.hook and (chain.type, chain.priority, chain.devices) != ("filter", 0, ()):
            text = "a chain of type %s at priority %d: the model's are of type filter at priority 0" % (chain.type, chain.priority)
            found.add(found.foreign, Finding("foreign_rule", chain.hook, 0, chain.where, text))
        for rule in chain.rules:
            if not seen.get(rule.where):
                found.add(found.foreign, Finding("foreign_rule", chain.hook, 0, rule.where, "a rule of our table that no model has"))


def _writes_down(chain: Chain, expected: Sequence[_Written], found: Judgement) -> None:
    """Is nothing forgotten that a host in `observe` has to write down? Otherwise `enforce` cuts what nobody saw."""
    listed = [(rule.fills, " ".join(sorted(_verbs(rule))), rule.where.comment) for rule in chain.rules]
    for rule, one in zip(chain.rules, listed):
        if one not in expected:
            found.add(found.foreign, Finding("foreign_rule", "", 0, rule.where, "a rule of our table that no model has"))
    if [one for one in listed if one in expected] != list(expected):
        gone = sorted({name for one in expected if one not in listed for _how, name in one[0]}) or ["its rules stand in another order"]
        text = "does not write down all that enforce would cut: %s" % ", ".join(gone)
        found.add(found.foreign, Finding("foreign_rule", "", 0, chain.where, text))


def _effect(program: Program, family: str, table: str, found: Judgement, bridged: bool | None) -> str:
    findings = [one for one in [*found.rules, *found.state, *found.around] if one.kind != _OBSERVED]
    does = sorted({one.kind for one in findings if (one.where.family, one.where.table) == (family, table)})
    if (family, table) in program.dormant:
        return "is dormant and does nothing"
    if any((one.where.family, one.where.table) == (family, table) for one in found.unknown):
        does.append("unknown")
    if family == "bridge":
        return "concerns bridged frames" + (", of which this host has none" if bridged is False else "")
    if does:
        words = {"missing": "cuts approved packets", "no_established": "cuts connections", "unknown": "has constructs that are not understood"}
        return ", ".join(words.get(one, "is a way around (%s)" % one) for one in does)
    return "opens nothing (an accept ends its own chain only) and cuts nothing that is approved"


def _beside(chain: Chain, found: Judgement, bridged: bool | None) -> None:
    """Chains that no IP packet meets as such: bridged frames, and ARP."""
    if chain.where.family == "arp" and chain.hook and (chain.policy != "accept" or any(_verbs(rule) - {"accept"} for rule in chain.rules)):
        text = "decides about ARP: without an answer to it no IPv4 conduit carries"
        found.add(
            found.rules, Finding("missing", "input" if chain.hook == "input" else "output", 4, chain.where, text, sure=False, doubt="what of ARP it drops")
        )
    if (
        chain.where.family == "bridge"
        and chain.hook
        and bridged is not False
        and (chain.policy != "accept" or any(_verbs(rule) - {"accept"} for rule in chain.rules))
    ):
        text = "decides about bridged frames"
        found.add(found.around, Finding("bypass", "", 0, chain.where, text, sure=False, doubt="what is bridged here"))


# -- routes and forwarding ----------------------------------------------------------------------------------------------------------

_SETTINGS = ("forwarding", "rp_filter", "proxy_arp", "proxy_arp_pvlan", "proxy_ndp", "route_localnet", "seg6_enabled", "input")
#: Settings that are off everywhere → what they would do.
_OFF = {
    "proxy_arp": "the host answers or takes what is not its own",
    "proxy_arp_pvlan": "the host answers or takes what is not its own",
    "proxy_ndp": "the host answers or takes what is not its own",
    "route_localnet": "the host answers or takes what is not its own",
    "seg6_enabled": "packets say themselves by which way they go",
    "input": "labelled packets are sent on past every rule",
}


def settings(text: str) -> dict[tuple[str, str, str], int]:
    """{(ipv4|ipv6|mpls, interface, setting): value} from ``grep -rH`` over /proc/sys/net."""
    found = {}
    for line in text.splitlines():
        path, _colon, value = line.rpartition(":")
        parts = path.split("/")
        if len(parts) >= 4 and parts[-1] in _SETTINGS and value.strip().lstrip("-").isdigit():
            found[parts[-4], parts[-2], parts[-1]] = int(value)
    return found


def forwarding(found: Mapping[tuple[str, str, str], int], expected: Mapping[str, Any], interfaces: Sequence[str]) -> list[str]:
    """What of forwarding and reverse path filtering is not as it has to be. Raises CannotTell where the kernel did not say."""
    wrong = []
    router = bool(expected["router"])
    legs = [str(leg["name"]) for leg in expected["legs"]]
    for family, version in (("ipv4", 4), ("ipv6", 6)):
        if not any(key[0] == family for key in found):
            if expected["own"][str(version)] or family == "ipv4":
                raise CannotTell("the kernel does not say whether it forwards %s" % family)
            continue
        if not router:
            wrong += [
                "%s is forwarded from %s: only a router forwards" % (family, name)
                for (kind, name, key), value in sorted(found.items())
                if kind == family and key == "forwarding" and value
            ]
        elif expected["own"][str(version)]:
            wrong += ["%s is not forwarded from %s: this is the router" % (family, name) for name in legs if not found.get((family, name, "forwarding"))]
    wrong += [
        "%s of %s is on for %s: %s" % (key, kind, name, _OFF[key]) for (kind, name, key), value in sorted(found.items()) if key in _OFF and value
    ]
    everywhere = found.get(("ipv4", "all", "rp_filter"), 0)
    wrong += [
        "ipv4 sources are not checked on %s (rp_filter 0)" % name
        for name in interfaces
        if name != "lo" and not max(everywhere, found.get(("ipv4", name, "rp_filter"), 0))
    ]
    return wrong


@dataclass
class Links:
    """``ip -j -d address show``: the interfaces, their addresses, and whether frames are switched."""

    names: list[str] = field(default_factory=list)
    up: list[str] = field(default_factory=list)
    holders: dict[str, str] = field(default_factory=dict)
    """Address → interface; loopback and link-local ones are left out."""
    bridges: list[str] = field(default_factory=list)
    programs: list[str] = field(default_factory=list)
    """Interfaces with an XDP program, which sees packets before any rule."""


def links(text: str) -> Links:
    """Raises CannotTell."""
    found = Links()
    try:
        for one in json.loads(text or "[]"):
            name = str(one["ifname"])
            found.names.append(name)
            if "UP" in one.get("flags", ()):
                found.up.append(name)
            kind = (one.get("linkinfo") or {}).get("info_kind")
            if kind in ("bridge", "openvswitch") or (one.get("linkinfo") or {}).get("info_slave_kind") == "bridge":
                found.bridges.append(name)
            if one.get("xdp"):
                found.programs.append(name)
            for address in one.get("addr_info", ()):
                parsed = ipaddress.ip_address(address["local"])
                if not parsed.is_loopback and not parsed.is_link_local:
                    found.holders[str(parsed)] = name
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CannotTell("ip does not say which addresses there are: %s" % error) from None
    if not found.names:
        raise CannotTell("ip names no interface")
    return found


def standing(found: Links, expected: Mapping[str, Any]) -> list[str]:
    """Addresses and interfaces that the model does not declare, and declared ones that are not there."""
    declared = {*expected["own"]["4"], *expected["own"]["6"]}
    wrong = ["address %s of %s is not in the model" % (address, name) for address, name in sorted(found.holders.items()) if address not in declared]
    wrong += ["address %s of the model is not there" % address for address in sorted(declared - set(found.holders))]
    mine = {name for address, name in found.holders.items() if address in declared}
    wrong += ["interface %s is up and carries no address of the model" % name for name in found.up if name != "lo" and name not in mine]
    if not expected["legs"] and len(mine) > 1:
        wrong.append("the addresses of one zone stand on several interfaces: %s" % ", ".join(sorted(mine)))
    for leg in expected["legs"]:
        for version in ("4", "6"):
            net = ipaddress.ip_network(leg[version]) if leg[version] else None
            here = {name for address, name in found.holders.items() if address in declared and net is not None and ipaddress.ip_address(address) in net}
            if here - {leg["name"]}:
                wrong.append("the address in zone %s stands on %s, not on %s" % (leg["zone"], ", ".join(sorted(here)), leg["name"]))
    wrong += ["%s switches frames between interfaces, past every rule" % name for name in found.bridges]
    wrong += ["a program (XDP) on %s sees packets before any rule" % name for name in found.programs]
    return wrong


def routed(answer: str, peer: Mapping[str, Any], found: Links, expected: Mapping[str, Any]) -> list[str]:
    """What of ``ip -j route get PEER`` is not as the model has it. Raises CannotTell."""
    try:
        (route,) = json.loads(answer)
        device, gateway, source = str(route["dev"]), str(route.get("gateway") or ""), str(route.get("prefsrc") or "")
    except (ValueError, KeyError, TypeError) as error:
        raise CannotTell("ip does not say how packets go to %s: %s" % (peer["address"], error)) from None
    version = ipaddress.ip_address(peer["address"]).version
    mine = expected["own"][str(version)]
    devices = {peer["device"]} if peer["device"] else {name for address, name in found.holders.items() if address in mine}
    what = "to %s (%s)" % (peer["name"], peer["address"])
    wrong = []
    if devices and device not in devices:
        wrong.append("packets %s leave by %s, not by %s" % (what, device, ", ".join(sorted(devices))))
    if gateway and peer["near"]:
        wrong.append("packets %s go by %s, though it is in the same network" % (what, gateway))
    if peer["gateway"] and gateway not in peer["gateway"]:
        wrong.append("packets %s go by %s, not by the router (%s)" % (what, gateway or "nobody", ", ".join(peer["gateway"])))
    if source and source not in mine:
        wrong.append("packets %s come from %s, which is no address of the model" % (what, source))
    return wrong


def strange_rules(text: str) -> list[str]:
    """Rules of ``ip -j rule show`` beyond those that every host has. Raises CannotTell."""
    try:
        rules = json.loads(text or "[]")
        usual = {(0, "local"), (32766, "main"), (32767, "default")}
        return [
            json.dumps(one, sort_keys=True)
            for one in rules
            if (one.get("priority"), one.get("table")) not in usual or one.get("src") != "all" or set(one) - {"priority", "src", "table"}
        ]
    except (ValueError, TypeError, AttributeError) as error:
        raise CannotTell("ip does not say which rules there are: %s" % error) from None


def strange_routes(text: str, found: Links) -> list[str]:
    """Routes of ``ip -j route show table all`` that lead past the rules, or make another's address the host's own. Raises CannotTell."""
    wrong = []
    try:
        for one in json.loads(text or "[]"):
            dst = str(one.get("dst"))
            kinds = [str(each["encap"]) for each in (one, *(one.get("nexthops") or ())) if each.get("encap")]
            wrong += ["the route to %s wraps or unwraps packets (%s): what is inside passes no chain" % (dst, kind) for kind in kinds]
            # "default" of either version: nobody's address.
            net = ipaddress.ip_network("0.0.0.0/0" if dst == "default" else dst, strict=False) if one.get("type") == "local" else None
            if net and not net.is_loopback and not net.is_link_local and str(net.network_address) not in found.holders:
                wrong.append("packets to %s are taken as the host's own (ip route show table %s)" % (dst, one.get("table", "main")))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CannotTell("ip does not say which routes there are: %s" % error) from None
    return wrong


# -- the checks -----------------------------------------------------------------------------------------------------------------

#: Actions of tc that give packets another way, another address or another wrapping.
_TAKES = frozenset(("mirred", "nat", "pedit", "ct", "mpls", "tunnel_key", "skbmod"))
_NFT = ("nft", "-j", "list", "ruleset")
_LEGACY = ("iptables-legacy-save", "ip6tables-legacy-save")


#: Beside ZS1, which is one for each way.
_CHECKS: tuple[tuple[str, dict[str, Any]], ...] = (
    (
        "state",
        {
            "id": "ZS2",
            "title": "what belongs to a connection passes by its state alone, both ways",
            "unit": "deviations",
            "controls": ["SR 5.1", "SR 5.2"],
            "hint": "ct state established,related stands in each chain before what drops",
            "explain": "nft -a list table inet hnai",
        },
    ),
    (
        "around",
        {
            "id": "ZS3",
            "title": "nothing leads past the rules: nat, flowtable, notrack, queue, helper, legacy rules, other hooks",
            "unit": "ways",
            "controls": ["SR 5.2"],
            "hint": "remove what the row names",
            "explain": "nft -a list ruleset; cat /proc/net/ip_tables_names /proc/net/ip_vs; tc filter show dev INTERFACE ingress",
        },
    ),
    (
        "foreign",
        {
            "id": "ZS4",
            "title": "no tables and rules but the model's",
            "unit": "tables and rules",
            "controls": ["SR 7.6", "SR 3.4"],
            "hint": "remove it, or declare the table; rules in our own table are taken away by site.yml --tags firewall",
            "explain": "nft -a list ruleset",
        },
    ),
    (
        "understood",
        {
            "id": "ZS5",
            "title": "every construct of the ruleset is understood",
            "unit": "constructs",
            "controls": ["SR 3.3"],
            "hint": "look at the construct by hand",
            "explain": "nft -a list ruleset",
        },
    ),
    (
        "routes",
        {
            "id": "ZS6",
            "title": "addresses, routes and forwarding are the model's",
            "unit": "deviations",
            "controls": ["SR 5.1", "SR 7.6"],
            "hint": "interfaces and routes of the host, and its sysctl (role host)",
            "explain": "ip -d address; ip route get ADDRESS; ip route show table all; sysctl net.ipv4.ip_forward",
        },
    ),
)


def run(report: Report, params: Mapping[str, Any], read: Read) -> dict[str, Any]:
    """Make ZS1 to ZS6. Returns {findings: [Finding as JSON], boxes: sets of packets that were told apart, unknown: [text]}."""
    checks = _Checks(report, params, read)
    for path in PATHS:
        with report.check(
            "ZS1",
            "the rules let through what the model approves, no more and no less",
            subject=path,
            expected=0,
            unit="deviations",
            controls=["SR 5.1", "SR 5.2"],
            hint="the row names table, chain and handle; site.yml --tags firewall loads the approved rules again",
            explain="nft -a list ruleset",
        ) as check:
            checks.rules(check, path)
    for name, spec in _CHECKS:
        with report.check(expected=0, **spec) as check:
            getattr(checks, name)(check)
    return checks.result()


class _Checks:
    def __init__(self, report: Report, params: Mapping[str, Any], read: Read) -> None:
        self.report = report
        self.expected: Mapping[str, Any] = params["expected"]
        self.mode = str(params.get("mode") or "enforce")
        self.declared = [str(one) for one in params.get("foreign") or ()]
        self._read = read
        self._links: Links | None = None
        self._judgement: Judgement | None = None
        self._listing = ""

    def read(self, *argv: str) -> str:
        try:
            return self._read(argv, self.report.timeout(10))
        except OSError as error:
            raise CannotTell("%s cannot be run: %s" % (argv[0], error)) from None

    @property
    def links(self) -> Links:
        if self._links is None:
            self._links = links(self.read("ip", "-j", "-d", "address", "show"))
        return self._links

    @property
    def judgement(self) -> Judgement:
        if self._judgement is None:
            self._listing = self.read(*_NFT)
            text = self.read("nft", "-s", "list", "ruleset")
            interfaces, bridged, owned = self.links.names, bool(self.links.bridges), flagged(text, "owner")
            try:
                found = judge(self._listing, self.expected, self.mode, self.declared, self._uid, interfaces, dormant(text), bridged, owned)
            except RulesetError as error:
                if not owned:
                    raise
                # nft 1.0.6 breaks its JSON off there.
                raise CannotTell("%s; tables that belong to a process: %s" % (error, ", ".join(sorted(" ".join(one) for one in owned)))) from None
            self._judgement = found
        return self._judgement

    def _uid(self, name: str) -> int | None:
        try:
            fields = self.read("getent", "passwd", name).split(":")
        except subprocess.CalledProcessError:
            return None
        return int(fields[2]) if len(fields) > 3 and fields[2].isdigit() else None

    def result(self) -> dict[str, Any]:
        found = self._judgement
        return {} if found is None else {"findings": [one.as_dict() for one in found.all], "boxes": found.boxes, "unknown": [one.text for one in found.unknown]}

    # -- verdicts

    @staticmethod
    def _verdict(check: Check, found: Sequence[Finding], open_reason: str = "") -> None:
        sure = [one for one in found if one.sure]
        shown = sure or list(found)
        check.observed = len(sure)
        check.evidence["findings"] = [one.as_dict() for one in found[:50]]
        if found:
            check.controls = sorted({*check.controls, *(text for one in found for text in _SR.get(one.kind, []))})
        text = "; ".join(one.line for one in shown[:_SHOWN]) + ("; and %d more" % (len(shown) - _SHOWN) if len(shown) > _SHOWN else "")
        if sure:
            check.fail(text)
        elif found or open_reason:
            check.inconclusive(text or open_reason)
        else:
            check.passed(True)

    def rules(self, check: Check, path: str) -> None:
        found = self.judgement
        if path == PATHS[0]:
            check.raw("nft-ruleset.json", self._listing)
        check.evidence = {
            **check.evidence,
            "mode": self.mode,
            "sets_of_packets": found.boxes,
            "conduits": sorted({str(one["id"]) for one in self.expected["conduits"] if one["path"] == path}),
        }
        shadowed = [one.line for one in found.shadowed if one.path == path]
        if shadowed:
            check.evidence["never_reached"] = shadowed
        observing = [] if self.mode == "enforce" else ["firewall_mode is %s" % self.mode]
        if path == "forward" and self.expected["boundaries"]:
            check.evidence["boundaries"] = {str(one["id"]): str(one["mode"]) for one in self.expected["boundaries"]}
            observing += ["%s (%s) observes" % (one["id"], ", ".join(one["zones"])) for one in self.expected["boundaries"] if one["mode"] == "observe"]
        open_reason = "%s: what no conduit names is counted, not refused" % "; ".join(observing) if observing else ""
        self._verdict(check, [one for one in found.rules if one.path == path], open_reason)

    def state(self, check: Check) -> None:
        self._verdict(check, self.judgement.state)

    def around(self, check: Check) -> None:
        found = self.judgement
        legacy = [*self._legacy(), *self._queues()]
        check.evidence["legacy"] = [one.text for one in legacy]
        self._verdict(check, [*found.around, *legacy])

    def _queues(self) -> Iterator[Finding]:
        """Filters of tc see packets before the rules on the way in, and after them on the way out."""
        queues: dict[str, set[str]] = {}
        for one in json.loads(self.read("tc", "-j", "qdisc", "show") or "[]"):
            if one.get("kind") != "noqueue":
                queues.setdefault(str(one.get("dev")), set()).add(str(one.get("kind")))
        for device, kinds in sorted(queues.items()):
            sides = [("ingress",)] if "ingress" in kinds else [("ingress",), ("egress",)] if "clsact" in kinds else []
            for side in [(), *sides]:
                words = self.read("tc", "filter", "show", "dev", device, *side).split()
                takes = sorted(_TAKES.intersection(words))
                if words:
                    yield Finding(
                        "bypass",
                        "",
                        0,
                        Where("tc", device),
                        "filters of tc (%s) see packets past the rules%s" % (" ".join(side) or "root", ": %s" % ", ".join(takes) if takes else ""),
                        sure=bool(takes),
                        doubt="" if takes else "what they do",
                    )

    def _legacy(self) -> Iterator[Finding]:
        # With its slash, for /proc/net is a link and find follows none.
        names_found = self.read("find", "/proc/net/", "-maxdepth", "1", "(", "-name", "*_tables_names", "-o", "-name", "ip_vs", ")").split()
        for path in (one for one in names_found if one.endswith("/ip_vs")):
            services = [line for line in self.read("cat", path).splitlines() if line.split(" ", 1)[0] in ("TCP", "UDP", "SCTP", "FWM")]
            if services:
                text = "%d virtual services, whose packets go to others than they are addressed to; the first: %s" % (len(services), services[0].strip())
                yield Finding("nat", "", 0, Where("ipvs", path), text)
        tables = {path: self.read("cat", path).split() for path in sorted(names_found) if path.endswith("_tables_names")}
        for path, present in tables.items():
            if not present:
                continue
            what = "%s knows the tables %s" % (path, ", ".join(present))
            tool = {"ip_tables_names": _LEGACY[0], "ip6_tables_names": _LEGACY[1]}.get(path.rpartition("/")[2])
            try:
                lines = self.read(tool).splitlines() if tool else None
            except (CannotTell, subprocess.SubprocessError) as error:
                lines, what = None, "%s, and nobody says what is in them (%s)" % (what, error)
            rules = None if lines is None else [line for line in lines if line.startswith("-A ") or (line.startswith(":") and " DROP" in line)]
            if rules is None:
                yield Finding("legacy", "", 0, Where("legacy", path), what, sure=False, doubt="what is in them")
            elif rules:
                rewrites = any(
                    " -j %s" % verb in rule
                    for rule in rules
                    for verb in ("DNAT", "SNAT", "MASQUERADE", "REDIRECT", "TPROXY", "NFQUEUE", "NOTRACK", "CT", "TEE")
                )
                yield Finding(
                    "legacy",
                    "",
                    0,
                    Where("legacy", path),
                    "%s with %d rules, the first: %s" % (what, len(rules), rules[0]),
                    sure=rewrites,
                    doubt="" if rewrites else "what these rules drop",
                )

    def foreign(self, check: Check) -> None:
        self._verdict(check, self.judgement.foreign)

    def understood(self, check: Check) -> None:
        unknown = self.judgement.unknown
        check.observed = len(unknown)
        check.evidence["unknown"] = [one.text for one in unknown]
        if unknown:
            check.inconclusive("; ".join(one.text for one in unknown[:_SHOWN]))
        else:
            check.passed(True)

    def routes(self, check: Check) -> None:
        wrong = standing(self.links, self.expected)
        paths = self.read("find", "/proc/sys/net/", "-maxdepth", "2", "-name", "conf").split()
        text = self.read("grep", "-rH", *("--include=%s" % name for name in _SETTINGS), ".", *paths)
        wrong += forwarding(settings(text), self.expected, self.links.names)
        for peer in self.expected["peers"]:
            try:
                answer = self.read("ip", "-j", "route", "get", peer["address"])
            except subprocess.CalledProcessError as error:
                wrong.append("there is no way to %s (%s): %s" % (peer["name"], peer["address"], str(error.stderr or error).strip()[-200:]))
                continue
            wrong += routed(answer, peer, self.links, self.expected)
        for family in ("-4", "-6"):
            wrong += [
                "a rule of its own leads some packets elsewhere (ip %s rule): %s" % (family, one)
                for one in strange_rules(self.read("ip", family, "-j", "rule", "show"))
            ]
        wrong += strange_routes(self.read("ip", "-j", "route", "show", "table", "all"), self.links)
        check.observed = len(wrong)
        check.evidence = {"addresses": dict(sorted(self.links.holders.items())), "peers": len(self.expected["peers"]), "wrong": wrong}
        check.passed(not wrong, "; ".join(wrong[:_SHOWN]) + ("; and %d more" % (len(wrong) - _SHOWN) if len(wrong) > _SHOWN else ""))
