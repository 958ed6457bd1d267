# SPDX-License-Identifier: Apache-2.0
"""The site model: zones, nodes, conduits and contracts, read from plain dicts.

Input (`Site.from_dict`), all keys optional, everything JSON-like:
  zones      {id: {level, cidrs: [v4, v6], purpose, side: security|management, island: bool}}
  hosts      {name: {zone, addresses: {v4, v6}, second_addresses: {name: {v4, v6}}, interfaces: {zone: {name, v4, v6}},
             dual_homed: {owner, reason}, role, debian: "12"|"13", vars: {name: value}}}
  groups     {group: [host]}                  inventory groups
  assets     {id: {zone, addresses, interfaces, dual_homed, role, services: {name: {proto, port}}, connects: [as in a contract]}}
  conduits   [{id, from, to, service, kind, data_direction, owner, reason, expires, sr, limits, needed_by}]
  boundaries {id: {between: [zone, zone], enforced_by: hnai|external, owner, reason, firewall_mode: enforce|observe, firewall_approved_by}}
  management {dns|syslog|crl|ntp: {group|host|asset: who gives it, or a list of them, proto, port}}
  contracts  {component: contract}            roles/<component>/meta/component.yml
  ot_sources [{id, asset, protocol, port}]
  slo        {hops: {hop: {outage_s, records_per_s, record_bytes}}}
  break_glass [{id, owner, reason, since, hours}]
  files      {variable: file}                 where a variable is written, for messages
  defaults   {variable: value}                role defaults
  broken     {[host: ]variable: why}          what Ansible could not evaluate
  known_variables [name], roles [name]        for the check of names

Reading never raises on bad content: what is wrong becomes a Problem and is left out of the model.
"""

from __future__ import annotations

import datetime
import ipaddress
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Union

from ansible_collections.hnai.platform.plugins.module_utils.openbao.endpoint import endpoint

Network = Union[ipaddress.IPv4Network, ipaddress.IPv6Network]

#: Services of the management plane beside SSH: (proto, port) unless hnai_management says otherwise. DNS is both. Time is the jump's own source,
#: from which everybody else has it.
MANAGEMENT_SERVICES: dict[str, tuple[tuple[str, int], ...]] = {
    "dns": (("udp", 53), ("tcp", 53)),
    "syslog": (("tcp", 6514),),
    "crl": (("tcp", 80),),
    "ntp": (("udp", 123),),
}
#: Names what the jump's clock follows (role host).
CLOCK = "host_time_upstream"
#: The number of the user by whom alone a device is dialled (role modbus_filter), which its conduits name as `uid`.
FILTER, FILTER_UID = "modbus_filter", "modbus_filter_uid"
#: Ports that are the management plane's whoever uses them: no direct conduit may carry them (I9).
MANAGEMENT_PORTS = frozenset({("udp", 53), ("tcp", 53), ("udp", 514), ("tcp", 514), ("tcp", 6514)})
#: Keys that ask for address translation or a stand-in; nothing in the model may have one (I11).
TRANSLATION = frozenset({"nat", "snat", "dnat", "masquerade", "redirect", "translate", "proxy", "port_forward"})
#: What of IEC 62443-3-3 a finding bears on.
SR_OF: dict[str, tuple[str, ...]] = {
    "I1": ("SR 5.1", "SR 5.2"),
    "I2": ("SR 5.1", "SR 5.2"),
    "I3": ("SR 2.1", "SR 5.2"),
    "I4": ("SR 5.1 RE 3",),
    "I5": ("SR 5.2 RE 1", "SR 7.7"),
    "I6": ("SR 5.2", "SR 5.4"),
    "I7": ("SR 5.1",),
    "I8": ("SR 3.3",),
    "I9": ("SR 1.13", "SR 5.2"),
    "I10": ("SR 5.2 RE 1",),
    "I11": ("SR 5.2",),
    "I12": ("SR 2.1", "SR 5.2"),
    "I13": ("SR 2.1", "SR 5.2"),
    "flow": ("SR 5.2 RE 1",),
    "stale": ("SR 7.7",),
    "expiry": ("SR 2.1",),
    "break_glass": ("SR 2.1 RE 3",),
    "boundary": ("SR 5.2",),
    "level": ("SR 5.1",),
}

KINDS = ("direct", "jump", "brokered", "reverse", "diode", "management")
DIRECTIONS = ("up", "down", "both")
SIDES = ("security", "management")
FIREWALL_MODES = ("enforce", "observe")
#: The only verbs that may cross into level 2, by application.
READ_VERBS = {
    "opcua": frozenset({"browse", "read", "subscribe", "history_read"}),
    "modbus": frozenset({"read", "read_coils", "read_discrete_inputs", "read_holding_registers", "read_input_registers"}),
}
LEVELS = (0, 1, 2, 3, 3.5, 4, 5)
#: More sessions or a higher rate than this is no limit.
MOST = 100_000
L2_LIMITS = {"connections": 2, "new_per_minute": 6}
ASSET_ROLES = ("ot_source", "controller", "collector")
COLLECTOR_GROUP = "ot_collector"
JUMP_GROUP = "jump"
ROUTER_GROUP = "routers"
MANAGED_GROUP = "managed"
SSH = ("tcp", 22)
NTP = ("udp", 123)

_CONDUIT_KEYS = frozenset(
    ("id", "from", "to", "service", "kind", "data_direction", "owner", "reason", "expires", "sr", "limits", "needed_by", "uid", "source_address")
)
_ZONE_KEYS = frozenset(("level", "cidrs", "side", "island", "purpose"))
_ASSET_KEYS = frozenset(("zone", "addresses", "interfaces", "dual_homed", "role", "canary", "services", "connects", "purpose"))
#: The rules of every host say these in their comments; a conduit of that name could not be told from them.
_ID = re.compile(r"^(?!drop-|invalid-|spoof-)[A-Za-z][A-Za-z0-9._-]{0,31}\Z")
_SR = re.compile(r"^SR [1-7]\.[0-9]{1,2}( RE ?[0-9])?\Z")
_INTERFACE = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,14}\Z")
_DAY = re.compile(r"^[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}([T ][0-9:.]+(Z|[+-][0-9:]+)?)?\Z")
#: A name that may stand in a rule, a file of rules, or a drawing.
_NAME = re.compile(r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,62}\Z")


@dataclass(frozen=True, order=True)
class Problem:
    """One finding. `severity`: error | warning. `invariant`: I1… or a short word."""

    file: str
    key: str
    message: str
    remedy: str
    invariant: str = ""
    severity: str = "error"

    @property
    def sr(self) -> tuple[str, ...]:
        """Requirements of IEC 62443-3-3 that it bears on."""
        return SR_OF.get(self.invariant, ())

    def as_dict(self) -> dict[str, Any]:
        """As JSON-like data."""
        return {
            "file": self.file,
            "key": self.key,
            "message": self.message,
            "remedy": self.remedy,
            "invariant": self.invariant,
            "severity": self.severity,
            "sr": list(self.sr),
        }


class SiteError(Exception):
    """The model cannot be used as it is; `problems` says why."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = sorted(problems)
        super().__init__("\n".join(f"{p.file}: {p.key}: {p.message}; remedy: {p.remedy}" for p in self.problems))


@dataclass(frozen=True)
class Zone:
    """One zone. `level`: Purdue level 0…5 with 3.5 = IDMZ. `side`: security | management | ''."""

    id: str
    level: float
    cidrs: tuple[Network, ...]
    side: str = ""
    island: bool = False

    @property
    def level_name(self) -> str:
        """As contracts write it: l2, l3, l35, l4, security, mgmt."""
        if self.side:
            return "mgmt" if self.side == "management" else self.side
        return "l" + f"{self.level:g}".replace(".", "")

    def cidr(self, version: int) -> Network | None:
        """The zone's network of IP version 4 or 6."""
        return next((net for net in self.cidrs if net.version == version), None)


@dataclass(frozen=True)
class Interface:
    """One leg of a router."""

    zone: str
    name: str
    v4: str
    v6: str


@dataclass(frozen=True)
class Node:
    """A managed host or an asset. Addresses are canonical text, '' where the family is absent."""

    name: str
    kind: str
    zone: str
    v4: str
    v6: str
    groups: frozenset[str] = frozenset()
    role: str = ""
    interfaces: tuple[Interface, ...] = ()
    seconds: Mapping[str, tuple[str, str]] = field(default_factory=dict, hash=False)
    """Further addresses by name: {name: (v4, v6)}. One initiator's alone, so that a router can tell it from the rest of the host."""

    def address(self, version: int, peer_zone: str, second: str = "") -> str:
        """The address it is seen under by a peer in `peer_zone` (a router has one in each); of `second`, where one is named."""
        if second:
            return self.seconds.get(second, ("", ""))[0 if version == 4 else 1]
        for leg in self.interfaces:
            if leg.zone == peer_zone:
                return leg.v4 if version == 4 else leg.v6
        return self.v4 if version == 4 else self.v6

    def zone_towards(self, peer_zone: str) -> str:
        """The zone it stands in for a peer in `peer_zone`."""
        return peer_zone if any(leg.zone == peer_zone for leg in self.interfaces) else self.zone


@dataclass(frozen=True)
class Service:
    """What a conduit carries. `component`/`listener` are '' for a service named by port."""

    proto: str
    port: int
    component: str = ""
    listener: str = ""
    app: str = ""
    ops: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """For messages: tcp/9094 (kafka.l3)."""
        return f"{self.proto}/{self.port}" + (f" ({self.component}.{self.listener})" if self.component else "")


@dataclass(frozen=True)
class Conduit:
    """An approved conduit; sources and targets are node names."""

    id: str
    sources: tuple[str, ...]
    targets: tuple[str, ...]
    service: Service
    kind: str
    direction: str
    expires: datetime.date
    limits: Mapping[str, int] = field(default_factory=dict)
    needed_by: str = ""
    uid: int | None = None
    """Number of the only user who may open it on the initiator's host; None: every user there."""
    source_address: str = ""
    """Name of the initiator's second address, the only one that it comes from; '': the host's own."""
    owner: str = ""
    reason: str = ""
    sr: tuple[str, ...] = ()
    """IEC 62443-3-3: as approved, or what its kind and zones speak for."""
    ends: tuple[str, str] = ("", "")
    """Both ends as they are written: the name of a group, a host or an asset."""

    def limited(self, plant: bool) -> dict[str, int]:
        """What it lets through; into the plant (level 2 and below) never without a limit."""
        return {**(L2_LIMITS if plant else {}), **self.limits}

    def pairs(self) -> Iterator[tuple[str, str]]:
        """All (initiator, target) pairs; nobody needs a conduit to itself."""
        for source in self.sources:
            for target in self.targets:
                if source != target:
                    yield source, target


@dataclass(frozen=True)
class Boundary:
    """Between two zones: whose rules stand there. What is not declared is ours, in the mode of its router."""

    id: str
    zones: frozenset[str]
    enforced_by: str
    owner: str = ""
    reason: str = ""
    mode: str = ""
    """enforce | observe where it has a mode of its own, '': its router's."""
    approved_by: str = ""
    """Who approved that it enforces after it observed."""

    @property
    def text(self) -> str:
        """For messages: plant (l2, l3)."""
        return f"{self.id} ({', '.join(sorted(self.zones))})"


@dataclass(frozen=True, order=True)
class Flow:
    """A flow that something needs: `component` is who needs it, `why` a person's words."""

    source: str
    target: str
    proto: str
    port: int
    component: str
    why: str
    listener: str = ""
    file: str = field(default="", compare=False)


class Site:
    """The read model. `problems`: what was wrong with the input."""

    def __init__(self, data: Mapping[str, Any]) -> None:
        self.files: dict[str, str] = dict(data.get("files") or {})
        self.problems: list[Problem] = []
        self._placed: dict[tuple[str, str], tuple[str, ...]] = {}
        self._members: dict[str, tuple[str, ...]] = {}
        self.memo: dict[str, Any] = {}
        """What others derived from this model, which never changes."""
        self.unread: set[str] = set()
        """Variables of which nothing could be read."""
        self.lost: set[str] = set()
        """Hosts and assets that are there and could not be read: what follows from that is no mistake of its own."""
        self.legless = False
        """A leg of a router or of another host in several zones could not be read."""
        self._torn: set[str] = set()
        #: Zones of which only the networks could be read: what stands there is held against these.
        self._halves: dict[str, Zone] = {}
        for key, why in sorted(self._map(data, "broken", "").items()):
            self.problem(key.rpartition(" ")[2], key, f"cannot be evaluated: {why}", "correct the template, or give the key of the vault")
            self.unread.add(key)
        self.contracts: dict[str, dict[str, Any]] = self._map(data, "contracts", "")
        self.groups: dict[str, tuple[str, ...]] = {}
        for name, members in self._map(data, "groups", "").items():
            if isinstance(members, (list, tuple)):
                self.groups[name] = tuple(map(str, members))
            else:
                self.problem("inventory", f"groups.{name}", "is no list of hosts", "write the names of its hosts")
        hosts = {}
        for name, host in self._map(data, "hosts", "").items():
            if isinstance(host, Mapping):
                hosts[name] = host
            else:
                self.problem("inventory", f"hosts.{name}", "has no variables", "give it hnai_zone and hnai_addresses")
        self.vars: dict[str, dict[str, Any]] = {name: _keyed(host.get("vars")) for name, host in hosts.items()}
        # Unquoted, YAML has made a number of it.
        self.debian: dict[str, Any] = {name: _texted(host["debian"]) for name, host in hosts.items() if "debian" in host}
        self.defaults: dict[str, Any] = self._map(data, "defaults", "")
        self.slo: dict[str, Any] = self._map(data, "slo", "hnai_slo")
        self.sources: list[dict[str, Any]] = self._maps(data, "ot_sources", "hnai_ot_sources", "write id, asset, protocol")
        self.break_glass: list[dict[str, Any]] = self._maps(data, "break_glass", "hnai_break_glass", "write {id, owner, reason, since, hours}")
        told = self._map(data, "zones", "hnai_zones")
        self.zones = self._read_zones(told)
        self._torn |= set(told) - set(self.zones) - set(self._halves)
        if not told and self.groups.get(MANAGED_GROUP) and "hnai_zones" not in self.unread:
            self.problem("hnai_zones", "hnai_zones", "is empty or missing: no host has a place", "write zone: {level, cidrs, purpose}")
            self.unread.add("hnai_zones")
        self.nodes: dict[str, Node] = {}
        self._read_hosts(hosts)
        self.assets: dict[str, dict[str, Any]] = {}
        self._read_assets(self._map(data, "assets", "hnai_assets"))
        self._check_addresses()
        self.boundaries = self._read_boundaries(self._map(data, "boundaries", "hnai_boundaries"))
        self.flawed: list[Conduit] = []
        """Conduits that say who and what, and have a mistake: they open nothing, and are judged."""
        self.halves: list[tuple[tuple[str, ...], tuple[str, ...], Service]] = []
        """(initiators, targets, service) of conduits of which one end names nobody."""
        self.conduits: list[Conduit] = self._read_conduits(data.get("conduits") or [])
        self.services = self._read_management(self._map(data, "management", "hnai_management"))
        self.asked = self._read_asked()
        """Component that somebody else runs at an address → (the asset there, its port)."""

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Site:
        """The model of `data` (see the module's docstring)."""
        return cls(data)

    def file(self, variable: str) -> str:
        """Where a variable is written."""
        return self.files.get(variable, "inventory")

    def problem(self, variable: str, key: str, message: str, remedy: str, invariant: str = "format") -> None:
        """Note a problem with the content of an inventory variable."""
        shown = key if key.isprintable() and len(key) <= 200 else _short(key)
        self.problems.append(Problem(self.file(variable), shown, message, remedy, invariant))

    def _map(self, data: Mapping[str, Any], key: str, variable: str) -> dict[str, Any]:
        value = data.get(key)
        if value is not None and not isinstance(value, Mapping):
            self.problem(variable or key, variable or key, "is not a map", "write a map")
            self.unread.add(variable)
            return {}
        return _keyed(value)

    def _list(self, data: Mapping[str, Any], key: str, variable: str) -> list[Any]:
        value = data.get(key)
        if value is not None and not isinstance(value, (list, tuple)):
            self.problem(variable, variable, "is not a list", "write a list")
            self.unread.add(variable)
            return []
        return list(value or [])

    def _maps(self, data: Mapping[str, Any], key: str, variable: str, remedy: str) -> list[dict[str, Any]]:
        """A list of maps; what is none is reported and left out."""
        found = []
        for index, item in enumerate(self._list(data, key, variable)):
            if isinstance(item, Mapping):
                found.append(_keyed(item))
            else:
                self.problem(variable, f"{variable}[{index}]", "is not a map", remedy)
        return found

    def _translated(self, variable: str, key: str, item: Mapping[str, Any]) -> None:
        """I11: nothing may be reached by another address than its own."""
        for name in sorted(TRANSLATION & set(item)):
            remedy = "remove it: give both ends a conduit of their own, and let a listener in the IDMZ stand between"
            self.problem(variable, f"{key}.{name}", "asks for address translation or a stand-in, which would make the rules true on paper only", remedy, "I11")

    # -- queries

    def placed(self, component: str, group: str = "") -> tuple[str, ...]:
        """Hosts that carry a component, cut to a child group where given; sorted."""
        found = self._placed.get((component, group))
        if found is None:
            contract = self.contracts.get(component, {})
            hosts = set(self.groups.get(contract.get("placement", component), ()))
            if group:
                hosts &= set(self.groups.get(group, ()))
            found = tuple(sorted(host for host in hosts if host in self.nodes and self.nodes[host].kind == "host"))
            self._placed[component, group] = found
        return found

    def listener(self, component: str, name: str) -> dict[str, Any] | None:
        """A listener of a contract."""
        return next((item for item in self.contracts.get(component, {}).get("listens", []) if item["name"] == name), None)

    def listeners_on(self, host: str) -> dict[tuple[str, str], dict[str, Any]]:
        """(component, name) → listener of everything that stands on a host by contract."""
        return {
            (component, item["name"]): item
            for component, contract in self.contracts.items()
            for item in contract.get("listens", [])
            if host in self.placed(component, item.get("group", ""))
        }

    def zone_of(self, node: Node, peer: Node | None = None) -> Zone:
        """The zone of a node as seen by a peer."""
        return self.zones[node.zone_towards(peer.zone) if peer else node.zone]

    def managed(self) -> list[Node]:
        """Managed hosts by name."""
        return [node for _name, node in sorted(self.nodes.items()) if node.kind == "host"]

    def routers(self) -> list[Node]:
        """The hosts between the zones."""
        return [node for node in self.managed() if ROUTER_GROUP in node.groups]

    def boundary(self, first: str, second: str) -> Boundary | None:
        """What is declared of the boundary between two zones."""
        return next((one for one in self.boundaries if one.zones == {first, second}), None)

    def external(self, first: str, second: str) -> Boundary | None:
        """The boundary between two zones where somebody else's firewall stands, None where it is ours."""
        found = self.boundary(first, second)
        return found if found is not None and found.enforced_by == "external" else None

    def observing(self, first: str, second: str) -> Boundary | None:
        """The boundary between two zones that was declared to observe, None for any other."""
        found = self.boundary(first, second)
        return found if found is not None and found.mode == "observe" else None

    def moded(self, router: Node) -> list[Boundary]:
        """The boundaries of a router that have a mode of their own."""
        legs = {leg.zone for leg in router.interfaces} if ROUTER_GROUP in router.groups else set()
        return [one for one in self.boundaries if one.mode and one.zones <= legs]

    def reached_by(self, host: str) -> Node | None:
        """The host or asset that a name or an address of a URL means."""
        try:
            host = str(ipaddress.ip_address(host))
        except ValueError:
            host = host.lower()
        for node in self.nodes.values():
            legs = [(leg.v4, leg.v6) for leg in node.interfaces]
            if host in (node.name.lower(), node.v4, node.v6, *(address for pair in (*legs, *node.seconds.values()) for address in pair)):
                return node
        return None

    def is_collector(self, node: Node) -> bool:
        """May it dial level 2?"""
        return node.role == "collector" or COLLECTOR_GROUP in node.groups

    def value(self, host: str, path: str) -> Any:
        """A role variable on a host by dotted path, or its default; None if neither is there."""
        name, _dot, rest = path.partition(".")
        found = self.vars.get(host, {}).get(name, self.defaults.get(name))
        for part in rest.split(".") if rest else ():
            found = found.get(part) if isinstance(found, Mapping) else None
        return found

    def missing(self, what: str, name: str) -> bool:
        """Does a group, host or asset lack somebody who could not be read, which was said?"""
        if what == "group":
            return bool(self.lost & set(self.groups.get(name, ())))
        return name in self.lost or (what == "asset" and "hnai_assets" in self.unread)

    # -- reading

    def _read_zones(self, data: Mapping[str, Any]) -> dict[str, Zone]:
        zones: dict[str, Zone] = {}
        placed: dict[str, Zone] = {}
        for name, zone in sorted(data.items()):
            key = f"hnai_zones.{name}"
            if not isinstance(zone, Mapping):
                self.problem("hnai_zones", key, "is not a map", "write level, cidrs and purpose")
                continue
            if not _NAME.match(name):
                self.problem("hnai_zones", key, "is no plain name", "use letters, digits, dot, dash and underscore")
                continue
            self._translated("hnai_zones", key, zone)
            for extra in sorted(set(map(str, zone)) - _ZONE_KEYS - TRANSLATION):
                # A misspelt `island` would open what it was meant to close.
                self.problem("hnai_zones", f"{key}.{extra}", "is not part of the format", "remove it or use one of: " + ", ".join(sorted(_ZONE_KEYS)))
            before = len(self.problems)
            cidrs = self._cidrs(f"{key}.cidrs", zone.get("cidrs"))
            if len(self.problems) > before:
                self._torn.add(name)
            placed[name] = Zone(name, 0.0, cidrs)
            level = numbered(zone.get("level"))
            if isinstance(level, bool) or not isinstance(level, (int, float)) or level not in LEVELS:
                self.problem("hnai_zones", f"{key}.level", f"{_short(level)} is not a level", "write a number: 0, 1, 2, 3, 4 or 5, and 3.5 for the IDMZ", "I1")
                continue
            side = zone.get("side", "")
            if side and (side not in SIDES or level != 3.5):
                self.problem("hnai_zones", f"{key}.side", f"{_short(side)} at level {level:g}", "security or management, at level 3.5", "I1")
                continue
            island = zone.get("island", False)
            if not isinstance(island, bool):
                self.problem("hnai_zones", f"{key}.island", f"{_short(island)} is neither true nor false", "write true or false", "I4")
            # What cannot be read counts as an island: nothing is opened by a mistake.
            zones[name] = Zone(name, float(level), cidrs, str(side or ""), island is not False)
        self._overlaps(placed)
        self._halves = {name: zone for name, zone in placed.items() if name not in zones}
        return zones

    def _cidrs(self, key: str, value: Any) -> tuple[Network, ...]:
        cidrs: list[Network] = []
        if value is not None and not isinstance(value, (list, tuple)):
            self.problem("hnai_zones", key, "is no list", "write a list such as [10.0.2.0/24, fd00:2::/64]")
            return ()
        for text in value or ():
            try:
                net: Network = ipaddress.ip_network(text if isinstance(text, str) else repr(text))
            except ValueError:
                self.problem("hnai_zones", key, f"{_short(text)} is no network", "write a network as 10.0.2.0/24 or fd00:2::/64")
                continue
            if net.prefixlen < (8 if net.version == 4 else 16):
                self.problem("hnai_zones", key, f"{net} means any address", "write the zone's own network", "I5")
            if net.is_link_local or net.is_loopback or net.is_multicast:
                self.problem("hnai_zones", key, f"{net} is no network that a zone can be told by", "write the zone's own network", "I10")
            cidrs.append(net)
        if not cidrs:
            self.problem("hnai_zones", key, "is empty", "give the zone's networks, IPv4 and IPv6")
        if len({net.version for net in cidrs}) < len(cidrs):
            self.problem("hnai_zones", key, "has two networks of one family", "make a second zone of it")
        return tuple(cidrs)

    def _overlaps(self, zones: Mapping[str, Zone]) -> None:
        """Networks in order of their first address: one that begins before an earlier one has ended overlaps it."""
        for version in (4, 6):
            nets = sorted(
                (int(net.network_address), int(net.broadcast_address), zone.id) for zone in zones.values() for net in zone.cidrs if net.version == version
            )
            last, owner = -1, ""
            for first, end, name in nets:
                if first <= last and owner != name:
                    one, other = sorted((owner, name))
                    self.problem("hnai_zones", f"hnai_zones.{one}.cidrs", f"overlaps {other}", "give each zone a network of its own", "I7")
                if end > last:
                    last, owner = end, name

    def _addresses(self, variable: str, key: str, value: Any, zone: Zone | None) -> tuple[str, str]:
        """(v4, v6), checked against the zone's networks; '' for an absent or refused one."""
        result = {"v4": "", "v6": ""}
        if not isinstance(value, Mapping) or not (value.get("v4") or value.get("v6")):
            self.problem(variable, key, "has no address", "write {v4: …, v6: …}")
            return "", ""
        for extra in sorted(set(map(str, value)) - {"v4", "v6", "name"}):
            self.problem(variable, f"{key}.{extra}", "is not part of the format", "remove it or use one of: v4, v6")
        for family, version in (("v4", 4), ("v6", 6)):
            text = value.get(family)
            if not text:
                if zone and zone.cidr(version) and zone.id not in self._torn:
                    self.problem(
                        variable,
                        f"{key}.{family}",
                        f"is missing, but zone {zone.id} has {zone.cidr(version)}",
                        "give the address",
                        "I10",
                    )
                continue
            try:
                address = ipaddress.ip_address(text if isinstance(text, str) else repr(text))
            except ValueError:
                self.problem(variable, f"{key}.{family}", f"{_short(text)} is no address", "write one address")
                continue
            if getattr(address, "scope_id", None):
                self.problem(variable, f"{key}.{family}", f"{address} names an interface", "write the address alone", "I10")
                continue
            if address.version != version:
                self.problem(variable, f"{key}.{family}", f"{address} is IPv{address.version}", f"write an IPv{version} address")
            elif address.is_link_local or address.is_loopback or address.is_unspecified or address.is_multicast:
                self.problem(variable, f"{key}.{family}", f"{address} names no host in a zone", "write its address in the zone", "I10")
            elif zone and zone.id not in self._torn and not any(net.version == version and address in net for net in zone.cidrs):
                net = zone.cidr(version)
                remedy = f"use an address of {net}" if net else f"remove it, or give zone {zone.id} an IPv{version} network"
                self.problem(variable, f"{key}.{family}", f"{address} is not in zone {zone.id}", remedy, "I10")
            elif zone and any(address in _of_all(net) for net in zone.cidrs if net.version == version):
                self.problem(variable, f"{key}.{family}", f"{address} means the whole network {zone.cidr(version)}", "write the address of one host", "I10")
            else:
                result[family] = str(address)
        return result["v4"], result["v6"]

    def _read_hosts(self, data: Mapping[str, Any]) -> None:
        memberships: dict[str, set[str]] = {}
        for group, members in self.groups.items():
            for member in members:
                memberships.setdefault(member, set()).add(group)
        for name, host in sorted(data.items()):
            groups = frozenset(memberships.get(name, set()))
            if MANAGED_GROUP not in groups:
                continue
            zone = self.zones.get(str(host.get("zone") or ""))
            if zone is None or not _NAME.match(name):
                self.lost.add(name)
            if not _NAME.match(name):
                self.problem("inventory", _short(name), "is no plain name", "use letters, digits, dot, dash and underscore")
                continue
            if zone is None:
                if not self._unreadable(host.get("zone"), f"{name}: hnai_zone"):
                    message, remedy = f"{_short(host.get('zone'))} is no zone", "use one of: " + ", ".join(sorted(self.zones))
                    self.problem("hnai_zone", f"{name}: hnai_zone", message, remedy)
                elif half := self._halves.get(str(host.get("zone"))):
                    self._addresses("hnai_addresses", f"{name}: hnai_addresses", host.get("addresses"), half)
                continue
            v4, v6 = self._addresses("hnai_addresses", f"{name}: hnai_addresses", host.get("addresses"), zone)
            legs = self._read_legs("hnai_interfaces", f"{name}: hnai_interfaces", host.get("interfaces"))
            if legs and ROUTER_GROUP not in groups and not _declared(host.get("dual_homed")):
                self.problem(
                    "hnai_interfaces",
                    f"{name}: hnai_interfaces",
                    "stands in several zones and is no router",
                    f"take it out of all zones but {zone.id}, or declare hnai_dual_homed: {{owner, reason}}",
                    "I7",
                )
            seconds = self._read_seconds(name, host.get("second_addresses") or {}, zone)
            self.nodes[name] = Node(name, "host", zone.id, v4, v6, groups, str(host.get("role") or ""), legs, seconds)
            if zone.level <= 2:
                self.problem(
                    "hnai_zone",
                    f"{name}: hnai_zone",
                    f"is a managed host at level {zone.level:g}",
                    "level 2 is never managed over the network: describe it in hnai_assets instead",
                    "I9",
                )

    def _unreadable(self, zone: Any, key: str = "") -> bool:
        """Is a zone not there because something else is wrong, which was said?"""
        return bool(self.unread & {"hnai_zones", key}) or (isinstance(zone, str) and (zone in self._torn or zone in self._halves))

    def _read_seconds(self, name: str, data: Any, zone: Zone) -> dict[str, tuple[str, str]]:
        if not isinstance(data, Mapping):
            self.problem("hnai_second_addresses", f"{name}: hnai_second_addresses", "is not a map", "write <name>: {v4, v6}")
            return {}
        return {
            second: self._addresses("hnai_second_addresses", f"{name}: hnai_second_addresses.{second}", value, zone)
            for second, value in sorted(_keyed(data).items())
        }

    def _read_legs(self, variable: str, where: str, data: Any, named: bool = True) -> tuple[Interface, ...]:
        """`named`: the rules of a host name its interfaces; those of an asset are somebody else's."""
        legs: list[Interface] = []
        remedy = "write <zone>: {name, v4, v6}" if named else "write <zone>: {v4, v6}"
        if data is not None and not isinstance(data, Mapping):
            self.problem(variable, where, "is not a map", remedy)
            self.legless = True
            return ()
        for zone_id, leg in sorted(_keyed(data).items()):
            key = f"{where}.{zone_id}"
            name = str(leg.get("name", "")) if isinstance(leg, Mapping) else ""
            if zone_id not in self.zones or not isinstance(leg, Mapping) or ((named or name) and not _INTERFACE.match(name)):
                self.legless = True
                if zone_id not in self.zones and self._unreadable(zone_id):
                    continue
                self.problem(variable, key, "needs a known zone and an interface name" if named else "needs a known zone", remedy)
                continue
            if name and (name == "lo" or name in {one.name for one in legs}):
                wrong = "is the host's own loopback" if name == "lo" else "is the interface of another zone too"
                message = f"{name} {wrong}: a rule could not tell where a packet came from"
                self.problem(variable, f"{key}.name", message, "name the interface of this zone", "I7")
            v4, v6 = self._addresses(variable, key, leg, self.zones[zone_id])
            legs.append(Interface(zone_id, name, v4, v6))
        return tuple(legs)

    def _read_assets(self, data: Mapping[str, Any]) -> None:
        for name, asset in sorted(data.items()):
            key = f"hnai_assets.{name}"
            if not isinstance(asset, Mapping):
                self.problem("hnai_assets", key, "is not a map", "write zone, addresses, services")
                self.lost.add(name)
                continue
            if not _NAME.match(name):
                self.problem("hnai_assets", f"hnai_assets.{_short(name)}", "is no plain name", "use letters, digits, dot, dash and underscore")
                self.lost.add(name)
                continue
            self._translated("hnai_assets", key, asset)
            for extra in sorted(set(map(str, asset)) - _ASSET_KEYS - TRANSLATION):
                self.problem("hnai_assets", f"{key}.{extra}", "is not part of the format", "remove it or use one of: " + ", ".join(sorted(_ASSET_KEYS)))
            if asset.get("role", "ot_source") not in ASSET_ROLES:
                self.problem("hnai_assets", f"{key}.role", f"{_short(asset['role'])} is unknown", "remove it or use one of: " + ", ".join(ASSET_ROLES))
            zone = self.zones.get(str(asset.get("zone") or ""))
            if zone is None or name in self.nodes:
                self.lost.add(name)
            if zone is None and self._unreadable(asset.get("zone")):
                if half := self._halves.get(str(asset.get("zone"))):
                    self._addresses("hnai_assets", f"{key}.addresses", asset.get("addresses"), half)
            elif zone is None:
                message, remedy = f"{_short(asset.get('zone'))} is no zone", "use one of: " + ", ".join(sorted(self.zones))
                self.problem("hnai_assets", f"{key}.zone", message, remedy)
            elif name in self.nodes:
                self.problem("hnai_assets", key, "is a managed host too", "describe it once: host or asset", "I7")
            else:
                v4, v6 = self._addresses("hnai_assets", f"{key}.addresses", asset.get("addresses"), zone)
                legs = self._read_legs("hnai_assets", f"{key}.interfaces", asset.get("interfaces"), named=False)
                if any(leg.zone != zone.id for leg in legs) and not _declared(asset.get("dual_homed")):
                    remedy = f"take it out of all zones but {zone.id}, or declare dual_homed: {{owner, reason}}"
                    self.problem("hnai_assets", f"{key}.interfaces", "stands in several zones", remedy, "I7")
                self.nodes[name] = Node(name, "asset", zone.id, v4, v6, frozenset(), str(asset.get("role") or ""), legs)
            self.assets[name] = {
                **_keyed(asset),
                "services": self._asset_services(key, asset.get("services")),
                "connects": self._asset_connects(key, asset.get("connects")),
            }

    def _asset_services(self, key: str, data: Any) -> dict[str, dict[str, Any]]:
        found = {}
        if data is not None and not isinstance(data, Mapping):
            self.problem("hnai_assets", f"{key}.services", "is not a map", "write <name>: {proto, port}")
            return {}
        for name, service in sorted(_keyed(data).items()):
            if isinstance(service, Mapping) and service.get("proto") in ("tcp", "udp") and _port(service.get("port")) is not None:
                found[name] = {**_keyed(service), "port": _port(service["port"])}
            else:
                self.problem("hnai_assets", f"{key}.services.{name}", f"{_short(service)} is not one port", "write {proto: tcp, port: 4840}", "I5")
        return found

    def _asset_connects(self, key: str, data: Any) -> list[dict[str, Any]]:
        """What an asset opens itself, in the form that a contract has after its schema; what has another form is reported and left out."""
        found = []
        if data is not None and not isinstance(data, (list, tuple)):
            self.problem("hnai_assets", f"{key}.connects", "is not a list", "write a list of {to, listener, reason}")
            return []
        for index, connect in enumerate(data or ()):
            topics = connect.get("topics") if isinstance(connect, Mapping) else None
            if not isinstance(connect, Mapping) or not isinstance(connect.get("to"), str) or not isinstance(connect.get("listener"), str):
                wrong = "names no listener"
            elif topics is not None and not (isinstance(topics, Mapping) and all(_texts(topics.get(way)) for way in ("read", "write"))):
                wrong = "has topics that are no lists of text"
            elif not all(_texts(connect.get(name)) for name in ("groups", "transactional_ids")):
                wrong = "has groups or transactional_ids that are no lists of text"
            else:
                found.append(_keyed(connect))
                continue
            self.problem("hnai_assets", f"{key}.connects[{index}]", wrong, "write {to, listener, reason, principal, topics: {read: [], write: []}}")
        return found

    def _read_boundaries(self, data: Mapping[str, Any]) -> list[Boundary]:
        found: list[Boundary] = []
        pairs: dict[frozenset[str], str] = {}
        for name, item in sorted(data.items()):
            key = f"hnai_boundaries.{name}"
            between = item.get("between") if isinstance(item, Mapping) else None
            zones = frozenset(map(str, between)) if isinstance(between, (list, tuple)) else frozenset()
            if not isinstance(item, Mapping) or len(zones) != 2 or not zones <= set(self.zones):
                remedy = "write {between: [zone, zone], enforced_by: external, owner, reason}; zones: " + ", ".join(sorted(self.zones))
                self.problem("hnai_boundaries", key, "does not name two zones", remedy, "boundary")
                continue
            self._translated("hnai_boundaries", key, item)
            known = {"between", "enforced_by", "owner", "reason", "firewall_mode", "firewall_approved_by"}
            for extra in sorted(set(map(str, item)) - known - TRANSLATION):
                self.problem("hnai_boundaries", f"{key}.{extra}", "is not part of the format", "remove it", "boundary")
            by = item.get("enforced_by")
            if by not in ("hnai", "external"):
                self.problem("hnai_boundaries", f"{key}.enforced_by", f"{_short(by)} is unknown", "write hnai or external", "boundary")
                continue
            if by == "external" and not _declared(item):
                self.problem("hnai_boundaries", key, "is enforced by nobody with a name", "name its owner and the reason: they get the table", "boundary")
            if zones in pairs:
                self.problem("hnai_boundaries", key, f"is declared by {pairs[zones]} too", "declare each pair of zones once", "boundary")
                continue
            pairs[zones] = name
            mode, approved_by = self._mode(name, key, item)
            found.append(Boundary(name, zones, str(by), str(item.get("owner") or ""), str(item.get("reason") or ""), mode, approved_by))
        return found

    def _mode(self, name: str, key: str, item: Mapping[str, Any]) -> tuple[str, str]:
        """(mode of its own or '', who approved it) of a boundary."""
        mode, approved_by = item.get("firewall_mode", ""), item.get("firewall_approved_by", "")
        if "firewall_mode" in item and mode not in FIREWALL_MODES:
            remedy = "write enforce or observe, or leave it out: then the mode of its router holds"
            self.problem("hnai_boundaries", f"{key}.firewall_mode", f"{_short(mode)} is unknown", remedy, "boundary")
        elif mode and item.get("enforced_by") == "external":
            message = "is a mode of rules of ours, and somebody else's firewall stands there"
            self.problem("hnai_boundaries", f"{key}.firewall_mode", message, "remove it, or write enforced_by: hnai", "boundary")
        elif mode and not _NAME.match(name):
            # It becomes the name of a chain and of sets.
            self.problem("hnai_boundaries", key, "is no plain name", "use letters, digits, dot, dash and underscore", "boundary")
        elif not isinstance(approved_by, str) or (approved_by and mode != "enforce"):
            remedy = "write the name of who looked at the list of observed flows, beside firewall_mode: enforce"
            self.problem("hnai_boundaries", f"{key}.firewall_approved_by", f"{_short(approved_by)} approves nothing", remedy, "boundary")
        else:
            return str(mode), str(approved_by).strip()
        return "", ""

    def _read_management(self, data: Mapping[str, Any]) -> dict[str, tuple[tuple[str, ...], tuple[tuple[str, int], ...]]]:
        """Service → (who gives it, its (proto, port)), of what the site declares beside SSH and the jump's time."""
        found: dict[str, tuple[tuple[str, ...], tuple[tuple[str, int], ...]]] = {}
        for name, item in sorted(data.items()):
            key = f"hnai_management.{name}"
            remedy = "write dns, syslog or crl: {group|host|asset: who gives it, or a list of them, proto, port}, ntp: {asset: …}"
            # chronyd of a managed host asks at the port of NTP, and serves nobody unless the host is the jump.
            keys = {"asset"} if name == "ntp" else {"group", "host", "asset", "proto", "port"}
            ends = {what: item[what] for what in ("group", "host", "asset") if what in item} if isinstance(item, Mapping) else {}
            if name not in MANAGEMENT_SERVICES or not isinstance(item, Mapping) or set(item) - keys:
                self.problem("hnai_management", key, "is no service of the management plane", remedy, "I9")
                continue
            proto, port = item.get("proto"), item.get("port")
            ports = MANAGEMENT_SERVICES[name]
            if proto is not None or port is not None:
                if proto not in ("tcp", "udp") or _port(port) is None:
                    self.problem("hnai_management", key, f"{_short(proto)}/{_short(port)} is not one port", remedy, "I9")
                    continue
                ports = ((proto, int(port)),)  # type: ignore[arg-type]
            every = [self._who({what: one}) for what, said in ends.items() for one in (said if isinstance(said, (list, tuple)) else [said])]
            givers = tuple(dict.fromkeys(one for some in every for one in some))
            if len(ends) != 1 or not givers or not all(every):
                self.problem("hnai_management", key, f"{_short(ends)} names nobody of the site", remedy, "I9")
                continue
            found[name] = (givers, ports)
        return found

    def _read_asked(self) -> dict[str, tuple[str, int]]:
        """What is wrong with an address is for `validate` to say."""
        found = {}
        for component, contract in self.contracts.items():
            for host in self.placed(component) if "address" in (contract.get("external") or ()) else ():
                said = self.vars.get(host, {}).get(f"{component}_external")
                try:
                    name, port = endpoint(said.get("address") if isinstance(said, Mapping) else None)
                except ValueError:
                    continue
                node = self.reached_by(name)
                if node is not None and node.kind == "asset":
                    found[component] = (node.name, port)
        return found

    def _who(self, value: Any) -> tuple[str, ...]:
        """Nodes that {group|host|asset: name} names; () for anything else."""
        if not isinstance(value, Mapping) or len(value) != 1:
            return ()
        ((what, name),) = value.items()
        if not isinstance(name, str):
            return ()
        if what == "group":
            return self._group(name)
        wanted = {"host": "host", "asset": "asset"}.get(what)
        return (name,) if name in self.nodes and self.nodes[name].kind == wanted else ()

    def _group(self, name: str) -> tuple[str, ...]:
        """Managed hosts of a group, sorted."""
        found = self._members.get(name)
        if found is None:
            members = {host for host in self.groups.get(name, ()) if host in self.nodes and self.nodes[host].kind == "host"}
            found = self._members[name] = tuple(sorted(members))
        return found

    def _check_addresses(self) -> None:
        seen: dict[str, str] = {}
        for name, node in sorted(self.nodes.items()):
            own = [*{node.v4, node.v6, *(leg.v4 for leg in node.interfaces), *(leg.v6 for leg in node.interfaces)}]
            own += [address for pair in node.seconds.values() for address in pair]
            for address in sorted(filter(None, own)):
                if address in seen:
                    variable = "hnai_addresses" if node.kind == "host" else "hnai_assets"
                    self.problem(variable, name, f"has {address} of {seen[address]}", "give each an address of its own", "I7")
                seen[address] = name

    def _read_conduits(self, data: Any) -> list[Conduit]:
        found: list[Conduit] = []
        ids: set[str] = set()
        if not isinstance(data, (list, tuple)):
            self.problem("hnai_conduits", "hnai_conduits", "is not a list", "write a list of conduits")
            self.unread.add("hnai_conduits")
            return found
        for index, given in enumerate(data):
            if not isinstance(given, Mapping):
                self.problem(
                    "hnai_conduits",
                    f"hnai_conduits[{index}]",
                    "is not a map",
                    "write id, from, to, service, owner, reason, expires",
                )
                continue
            item = _keyed(given)
            before = len(self.problems)
            conduit = self._read_conduit(index, item)
            if conduit is not None and conduit.id in ids:
                self._wrong(conduit.id, "id", "is used twice", "give each conduit an id of its own")
            elif conduit is not None:
                (found if len(self.problems) == before else self.flawed).append(conduit)
            ids.add(str(item.get("id")))
        return sorted(found, key=lambda conduit: conduit.id)

    def _wrong(self, ident: str, key: str, message: str, remedy: str, invariant: str = "format") -> None:
        self.problem("hnai_conduits", f"hnai_conduits[{ident}].{key}", message, remedy, invariant)

    def _read_conduit(self, index: int, item: Mapping[str, Any]) -> Conduit | None:
        given = item.get("id")
        ident = given if isinstance(given, str) and _ID.match(given) else str(index)
        if ident != given:
            self._wrong(ident, "id", f"{_short(given)} is missing or not plain text", "write an id such as C-101")
        self._translated("hnai_conduits", f"hnai_conduits[{ident}]", item)
        for key in sorted(set(item) - _CONDUIT_KEYS - TRANSLATION):
            self._wrong(ident, key, "is not part of the format", "remove it or use one of: " + ", ".join(sorted(_CONDUIT_KEYS)))
        for key in ("owner", "reason"):
            if not _says(item.get(key)):
                self._wrong(ident, key, "is missing", f"name the {key}: a conduit without one is not approved")
        kind = item.get("kind", "direct")
        if kind not in KINDS:
            self._wrong(ident, "kind", f"{_short(kind)} is unknown", "use one of: " + ", ".join(KINDS))
        direction = item.get("data_direction")
        if direction not in DIRECTIONS:
            self._wrong(ident, "data_direction", f"{_short(direction)} is unknown", "use one of: " + ", ".join(DIRECTIONS))
        expires = _date(item.get("expires"))
        if expires is None:
            self._wrong(ident, "expires", f"{_short(item.get('expires'))} is no date", "write YYYY-MM-DD: every conduit ends")
        sources = self._endpoint(ident, "from", item.get("from"))
        targets = self._endpoint(ident, "to", item.get("to"))
        service = self._service(ident, item.get("service"), targets)
        # A group may have one host today; one host never leads anywhere.
        if sources and item.get("from") == item.get("to") and "group" not in item["from"]:
            self._wrong(ident, "to", "is where it comes from: it approves nothing", "name the other end, or remove the conduit")
        if service is not None and service.component:
            targets = self._cut(ident, service, targets)
        limits = item.get("limits") or {}
        if not isinstance(limits, Mapping) or set(limits) - set(L2_LIMITS) or any((_positive(limits[key]) or MOST + 1) > MOST for key in limits):
            self._wrong(ident, "limits", f"{_short(limits)} is not usable", f"write {{connections: 2, new_per_minute: 6}}, at most {MOST}")
            limits = {}
        sr = item.get("sr")
        if sr is not None and not (isinstance(sr, (list, tuple)) and all(isinstance(one, str) and _SR.match(one) for one in sr)):
            self._wrong(ident, "sr", f"{_short(sr)} names no requirement of IEC 62443-3-3", 'write a list such as ["SR 5.2", "SR 5.1 RE 3"]')
            sr = None
        uid = item.get("uid")
        if uid is not None and (_positive(uid) is None or uid >= 2**32 - 1):
            self._wrong(ident, "uid", f"{_short(uid)} is no user's number", "write the number that the component's user has; root is none of them")
            uid = None
        if uid is not None and any(self.nodes[name].kind != "host" for name in sources):
            self._wrong(ident, "uid", "the initiator is no host of ours: nobody there would look at it", "remove it")
        second = str(item.get("source_address") or "")
        for name in sources if second else ():
            if second not in self.nodes[name].seconds:
                remedy = f"write hnai_second_addresses: {{{second}: {{v4: …, v6: …}}}} at {name}, or remove the key"
                self._wrong(ident, "source_address", f"{name} has no second address {_short(second)}", remedy)
        needed_by = item.get("needed_by") or ""
        if not isinstance(needed_by, str) or (needed_by and not _says(needed_by)):
            self._wrong(ident, "needed_by", f"{_short(needed_by)} names nothing", "say in words what outside the contracts needs it, or remove the key")
        if service is not None and bool(sources) != bool(targets):
            self.halves.append((sources, targets, service))
        if service is None or not sources or not targets:
            return None
        expires = expires or datetime.date.max
        said = tuple(sr) if sr else self._sr(str(kind), service, sources, targets)
        owner, reason = str(item.get("owner") or "").strip(), str(item.get("reason") or "").strip()
        ends = (next(iter(map(str, item["from"].values()))), next(iter(map(str, item["to"].values()))))
        way = (str(needed_by).strip(), uid, second, owner, reason, said, ends)
        return Conduit(ident, sources, targets, service, str(kind), str(direction), expires, dict(limits), *way)

    def _sr(self, kind: str, service: Service, sources: tuple[str, ...], targets: tuple[str, ...]) -> tuple[str, ...]:
        """What a conduit is evidence for, where nobody said it: by its kind, by what it carries, and by the zones of its ends."""
        first, second = self.nodes[sources[0]], self.nodes[targets[0]]
        here, there = self.zone_of(first, second), self.zone_of(second, first)
        found = {"SR 7.7"} if here.id == there.id else {"SR 5.1", "SR 5.2"}
        found |= {
            "management": {"SR 1.13", "SR 5.2"}, "jump": {"SR 1.13", "SR 2.1"}, "brokered": {"SR 5.2", "SR 5.4"}, "reverse": {"SR 2.1"},
            "diode": {"SR 5.1 RE 1"},
        }.get(kind, set())
        if min(here.level, there.level) <= 2:
            found |= {"SR 2.1"}
        if (service.proto, service.port) == NTP:
            found |= {"SR 2.11"}
        found |= {"syslog": {"SR 6.2"}, "crl": {"SR 1.8"}}.get(service.app, set())
        return tuple(sorted(found))

    def _endpoint(self, ident: str, key: str, value: Any) -> tuple[str, ...]:
        if not isinstance(value, Mapping) or len(value) != 1 or set(value) - {"group", "host", "asset"}:
            self._wrong(
                ident,
                key,
                f"{_short(value)} names nobody",
                "write one of {group: x}, {host: x}, {asset: x}; never a zone or any",
                "I5",
            )
            return ()
        ((what, name),) = value.items()
        if what == "group" and name in ("all", "ungrouped"):
            self._wrong(ident, key, f"group {name} means anybody", "name a group of the site", "I5")
            return ()
        found = self._who(value)
        if not found and self.missing(what, str(name)):
            return ()
        if not found and what == "group":
            self._wrong(
                ident,
                key,
                f"group {_short(name)} has no managed host",
                "correct the name, place a host in it, or remove the conduit",
            )
        elif not found:
            where = "a managed host of the inventory" if what == "host" else "in hnai_assets"
            self._wrong(ident, key, f"{what} {_short(name)} is unknown", f"it must be {where}")
        return found

    def _service(self, ident: str, value: Any, targets: tuple[str, ...]) -> Service | None:
        remedy = "write {component: x, listener: y} or {proto: tcp, port: 4840, app: opcua, ops: [read]}"
        if not isinstance(value, Mapping):
            self._wrong(ident, "service", "is missing", remedy, "I5")
            return None
        if "component" in value:
            extra = set(value) - {"component", "listener"}
            component, name = str(value.get("component")), str(value.get("listener"))
            listener = self.listener(component, name)
            if extra:
                self._wrong(ident, f"service.{min(map(str, extra))}", "a listener has its protocol and port by contract", "remove it", "I5")
                return None
            if listener is None:
                known = ", ".join(item["name"] for item in self.contracts.get(component, {}).get("listens", [])) or "none"
                self._wrong(ident, "service", f"component {_short(component)} has no listener {_short(name)}", f"listeners in its contract: {known}")
                return None
            if listener["bind"] == "loopback":
                self._wrong(ident, "service", f"{component}.{name} listens on loopback only", "remove the conduit", "I5")
                return None
            return Service(listener["proto"], listener["port"], component, name)
        for key in sorted(map(str, set(value) - {"proto", "port", "app", "ops"})):
            self._wrong(ident, f"service.{key}", "is not part of the format", remedy)
        proto, number = value.get("proto"), _port(value.get("port"))
        if proto not in ("tcp", "udp"):
            self._wrong(ident, "service.proto", f"{_short(proto)} is not one protocol", "write tcp or udp", "I5")
        if number is None:
            self._wrong(ident, "service.port", f"{_short(value.get('port'))} is not one port", "write a number from 1 to 65535; one conduit per port", "I5")
        if number is None or proto not in ("tcp", "udp"):
            return None
        ops = value.get("ops") or []
        return Service(proto, number, "", "", str(value.get("app") or ""), tuple(map(str, ops)) if isinstance(ops, (list, tuple)) else ())

    def _cut(self, ident: str, service: Service, targets: tuple[str, ...]) -> tuple[str, ...]:
        """Targets must carry the component whose listener is named."""
        listener = self.listener(service.component, service.listener) or {}
        carriers = set(self.placed(service.component, listener.get("group", "")))
        outside = [name for name in targets if name not in carriers]
        if outside:
            self._wrong(
                ident,
                "to",
                f"{', '.join(outside)} does not carry {service.component}.{service.listener}",
                "aim it at the component's group, or place the component there",
            )
        return tuple(name for name in targets if name in carriers)


def _of_all(net: Network) -> tuple[Any, ...]:
    """Addresses of a network that are nobody's own: its name and broadcast (RFC 3021), its routers' anycast (RFC 4291, 6164)."""
    if net.max_prefixlen - net.prefixlen < 2:
        return ()
    return (net[0], net[-1]) if net.version == 4 else (net[0],)


def _says(value: Any) -> bool:
    """A text that a person wrote: dots, dashes and blanks of any width name nobody."""
    return isinstance(value, str) and any(char.isalnum() for char in value)


def _declared(value: Any) -> bool:
    return isinstance(value, Mapping) and all(_says(value.get(key)) for key in ("owner", "reason"))


def _keyed(value: Any) -> dict[str, Any]:
    """A map with text for keys; {} for anything else."""
    return {str(key): item for key, item in value.items()} if isinstance(value, Mapping) else {}


def _texts(value: Any) -> bool:
    """Is it absent, or a list of text?"""
    return value is None or (isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value))


def _short(value: Any) -> str:
    """A wrong value as a message may carry it: on one line, and not long."""
    text = ascii(value) if not isinstance(value, str) else repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def numbered(value: Any) -> Any:
    """A number that stands in quotes is one; anything else as it is."""
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,5}|3\.5", value):
        return float(value) if "." in value else int(value)
    return value


def _texted(value: Any) -> Any:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _port(value: Any) -> int | None:
    value = numbered(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 65535 else None


def _positive(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def _date(value: Any) -> datetime.date | None:
    """A day from a date or its text."""
    if isinstance(value, datetime.datetime):
        return value.date()
    if isinstance(value, datetime.date):
        return value
    try:
        return datetime.date(*map(int, str(value)[:10].split("-"))) if _DAY.match(str(value)) else None
    except (TypeError, ValueError):
        return None
