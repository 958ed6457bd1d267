# SPDX-License-Identifier: Apache-2.0
"""The site model: zones, nodes, conduits and contracts, read from plain dicts.

Input (`Site.from_dict`), all keys optional, everything JSON-like:
  zones      {id: {level, cidrs: [v4, v6], purpose, side: security|management, island: bool}}
  hosts      {name: {zone, addresses: {v4, v6}, second_addresses: {name: {v4, v6}}, interfaces: {zone: {name, v4, v6}},
             dual_homed: {owner, reason}, role, vars: {name: value}}}
  groups     {group: [host]}                  inventory groups
  assets     {id: {zone, addresses, role, services: {name: {proto, port}}, connects: [as in a contract]}}
  conduits   [{id, from, to, service, kind, data_direction, owner, reason, expires, sr, limits, needed_by}]
  contracts  {component: contract}            roles/<component>/meta/component.yml
  ot_sources [{id, asset, protocol, port}]
  slo        {hops: {hop: {outage_s, records_per_s, record_bytes}}}
  break_glass [{id, owner, reason, since, hours}]
  files      {variable: file}                 where a variable is written, for messages
  defaults   {variable: value}                role defaults
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

Network = Union[ipaddress.IPv4Network, ipaddress.IPv6Network]

KINDS = ("direct", "jump", "brokered", "reverse", "diode", "management")
DIRECTIONS = ("up", "down", "both")
SIDES = ("security", "management")
#: The only verbs that may cross into level 2, by application.
READ_VERBS = {
    "opcua": frozenset({"browse", "read", "subscribe", "history_read"}),
    "modbus": frozenset({"read", "read_coils", "read_discrete_inputs", "read_holding_registers", "read_input_registers"}),
}
L2_LIMITS = {"connections": 2, "new_per_minute": 6}
COLLECTOR_GROUP = "ot_collector"
JUMP_GROUP = "jump"
ROUTER_GROUP = "routers"
MANAGED_GROUP = "managed"
SSH = ("tcp", 22)
NTP = ("udp", 123)

_CONDUIT_KEYS = frozenset(
    ("id", "from", "to", "service", "kind", "data_direction", "owner", "reason", "expires", "sr", "limits", "needed_by", "uid", "source_address")
)
_ID = re.compile(r"^[A-Za-z][A-Za-z0-9._-]{0,31}$")
_INTERFACE = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,14}$")


@dataclass(frozen=True, order=True)
class Problem:
    """One finding. `severity`: error | warning. `invariant`: I1… or a short word."""

    file: str
    key: str
    message: str
    remedy: str
    invariant: str = ""
    severity: str = "error"

    def as_dict(self) -> dict[str, str]:
        """As JSON-like data."""
        return {
            "file": self.file,
            "key": self.key,
            "message": self.message,
            "remedy": self.remedy,
            "invariant": self.invariant,
            "severity": self.severity,
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

    def pairs(self) -> Iterator[tuple[str, str]]:
        """All (initiator, target) pairs; nobody needs a conduit to itself."""
        for source in self.sources:
            for target in self.targets:
                if source != target:
                    yield source, target


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
        self.contracts: dict[str, dict[str, Any]] = self._map(data, "contracts", "")
        self.groups: dict[str, tuple[str, ...]] = {
            name: tuple(map(str, hosts)) for name, hosts in self._map(data, "groups", "").items() if isinstance(hosts, (list, tuple))
        }
        hosts = {name: host for name, host in self._map(data, "hosts", "").items() if isinstance(host, Mapping)}
        self.vars: dict[str, dict[str, Any]] = {name: dict(host.get("vars") or {}) for name, host in hosts.items()}
        self.defaults: dict[str, Any] = self._map(data, "defaults", "")
        self.slo: dict[str, Any] = self._map(data, "slo", "hnai_slo")
        self.sources: list[dict[str, Any]] = self._list(data, "ot_sources", "hnai_ot_sources")
        self.break_glass: list[dict[str, Any]] = self._list(data, "break_glass", "hnai_break_glass")
        assets = self._map(data, "assets", "hnai_assets")
        self.assets: dict[str, dict[str, Any]] = {name: dict(asset) for name, asset in assets.items() if isinstance(asset, Mapping)}
        self.zones = self._read_zones(self._map(data, "zones", "hnai_zones"))
        self.nodes: dict[str, Node] = {}
        self._read_hosts(hosts)
        self._read_assets()
        self._check_addresses()
        self.conduits: list[Conduit] = self._read_conduits(data.get("conduits") or [])

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Site:
        """The model of `data` (see the module's docstring)."""
        return cls(data)

    def file(self, variable: str) -> str:
        """Where a variable is written."""
        return self.files.get(variable, "inventory")

    def problem(self, variable: str, key: str, message: str, remedy: str, invariant: str = "format") -> None:
        """Note a problem with the content of an inventory variable."""
        self.problems.append(Problem(self.file(variable), key, message, remedy, invariant))

    def _map(self, data: Mapping[str, Any], key: str, variable: str) -> dict[str, Any]:
        value = data.get(key)
        if value is not None and not isinstance(value, Mapping):
            self.problem(variable or key, variable or key, "is not a map", "write a map")
            return {}
        return dict(value or {})

    def _list(self, data: Mapping[str, Any], key: str, variable: str) -> list[Any]:
        value = data.get(key)
        if value is not None and not isinstance(value, (list, tuple)):
            self.problem(variable, variable, "is not a list", "write a list")
            return []
        return list(value or [])

    # -- queries

    def placed(self, component: str, group: str = "") -> tuple[str, ...]:
        """Hosts that carry a component, cut to a child group where given; sorted."""
        contract = self.contracts.get(component, {})
        hosts = set(self.groups.get(contract.get("placement", component), ()))
        if group:
            hosts &= set(self.groups.get(group, ()))
        return tuple(sorted(host for host in hosts if host in self.nodes and self.nodes[host].kind == "host"))

    def listener(self, component: str, name: str) -> dict[str, Any] | None:
        """A listener of a contract."""
        return next((item for item in self.contracts.get(component, {}).get("listens", []) if item["name"] == name), None)

    def zone_of(self, node: Node, peer: Node | None = None) -> Zone:
        """The zone of a node as seen by a peer."""
        return self.zones[node.zone_towards(peer.zone) if peer else node.zone]

    def managed(self) -> list[Node]:
        """Managed hosts by name."""
        return [node for _name, node in sorted(self.nodes.items()) if node.kind == "host"]

    def routers(self) -> list[Node]:
        """The hosts between the zones."""
        return [node for node in self.managed() if ROUTER_GROUP in node.groups]

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

    # -- reading

    def _read_zones(self, data: Mapping[str, Any]) -> dict[str, Zone]:
        zones: dict[str, Zone] = {}
        for name, zone in sorted(data.items()):
            key = f"hnai_zones.{name}"
            if not isinstance(zone, Mapping):
                self.problem("hnai_zones", key, "is not a map", "write level, cidrs and purpose")
                continue
            level = zone.get("level")
            if isinstance(level, bool) or not isinstance(level, (int, float)) or not 0 <= level <= 5:
                self.problem("hnai_zones", f"{key}.level", f"{level!r} is not a level", "write 0 to 5, 3.5 for the IDMZ", "I1")
                continue
            side = zone.get("side", "")
            if side and (side not in SIDES or level != 3.5):
                self.problem("hnai_zones", f"{key}.side", f"{side!r} at level {level:g}", "security or management, at level 3.5", "I1")
                continue
            cidrs: list[Network] = []
            for text in zone.get("cidrs") or []:
                try:
                    cidrs.append(ipaddress.ip_network(text))
                except ValueError as error:
                    self.problem("hnai_zones", f"{key}.cidrs", str(error), "write a network as 10.0.2.0/24 or fd00:2::/64")
            if not cidrs:
                self.problem("hnai_zones", f"{key}.cidrs", "is empty", "give the zone's networks, IPv4 and IPv6")
            for net in cidrs:
                if net.prefixlen == 0:
                    self.problem("hnai_zones", f"{key}.cidrs", f"{net} means any address", "write the zone's own network", "I5")
            if len({net.version for net in cidrs}) < len(cidrs):
                self.problem("hnai_zones", f"{key}.cidrs", "has two networks of one family", "make a second zone of it")
            zones[name] = Zone(name, float(level), tuple(cidrs), side, bool(zone.get("island")))
        for first in zones.values():
            for second in zones.values():
                if first.id < second.id and any(_overlap(a, b) for a in first.cidrs for b in second.cidrs):
                    self.problem(
                        "hnai_zones",
                        f"hnai_zones.{first.id}.cidrs",
                        f"overlaps {second.id}",
                        "give each zone a network of its own",
                        "I7",
                    )
        return zones

    def _addresses(self, variable: str, key: str, value: Any, zone: Zone | None) -> tuple[str, str]:
        """(v4, v6), checked against the zone's networks; '' for an absent or refused one."""
        result = {"v4": "", "v6": ""}
        if not isinstance(value, Mapping) or not (value.get("v4") or value.get("v6")):
            self.problem(variable, key, "has no address", "write {v4: …, v6: …}")
            return "", ""
        for family, version in (("v4", 4), ("v6", 6)):
            text = value.get(family)
            if not text:
                if zone and zone.cidr(version):
                    self.problem(
                        variable,
                        f"{key}.{family}",
                        f"is missing, but zone {zone.id} has {zone.cidr(version)}",
                        "give the address",
                        "I10",
                    )
                continue
            try:
                address = ipaddress.ip_address(str(text))
            except ValueError as error:
                self.problem(variable, f"{key}.{family}", str(error), "write one address")
                continue
            if address.version != version:
                self.problem(variable, f"{key}.{family}", f"{address} is IPv{address.version}", f"write an IPv{version} address")
            elif address.is_link_local or address.is_loopback or address.is_unspecified or address.is_multicast:
                self.problem(variable, f"{key}.{family}", f"{address} names no host in a zone", "write its address in the zone", "I10")
            elif zone and not any(net.version == version and address in net for net in zone.cidrs):
                self.problem(
                    variable,
                    f"{key}.{family}",
                    f"{address} is not in zone {zone.id}",
                    f"use an address of {zone.cidr(version)}",
                    "I10",
                )
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
            zone = self.zones.get(host.get("zone") or "")
            if zone is None:
                self.problem(
                    "hnai_zone",
                    f"{name}: hnai_zone",
                    f"{host.get('zone')!r} is no zone",
                    "use one of: " + ", ".join(sorted(self.zones)),
                )
                continue
            v4, v6 = self._addresses("hnai_addresses", f"{name}: hnai_addresses", host.get("addresses"), zone)
            legs = self._read_legs(name, host.get("interfaces") or {})
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

    def _read_seconds(self, name: str, data: Any, zone: Zone) -> dict[str, tuple[str, str]]:
        if not isinstance(data, Mapping):
            self.problem("hnai_second_addresses", f"{name}: hnai_second_addresses", "is not a map", "write <name>: {v4, v6}")
            return {}
        return {
            str(second): self._addresses("hnai_second_addresses", f"{name}: hnai_second_addresses.{second}", value, zone)
            for second, value in sorted(data.items())
        }

    def _read_legs(self, name: str, data: Mapping[str, Any]) -> tuple[Interface, ...]:
        legs = []
        for zone_id, leg in sorted(data.items()):
            key = f"{name}: hnai_interfaces.{zone_id}"
            if zone_id not in self.zones or not isinstance(leg, Mapping) or not _INTERFACE.match(str(leg.get("name", ""))):
                self.problem("hnai_interfaces", key, "needs a known zone and an interface name", "write <zone>: {name, v4, v6}")
                continue
            v4, v6 = self._addresses("hnai_interfaces", key, leg, self.zones[zone_id])
            legs.append(Interface(zone_id, str(leg["name"]), v4, v6))
        return tuple(legs)

    def _read_assets(self) -> None:
        for name, asset in sorted(self.assets.items()):
            key = f"hnai_assets.{name}"
            zone = self.zones.get(asset.get("zone") or "")
            if zone is None:
                self.problem(
                    "hnai_assets",
                    f"{key}.zone",
                    f"{asset.get('zone')!r} is no zone",
                    "use one of: " + ", ".join(sorted(self.zones)),
                )
            elif name in self.nodes:
                self.problem("hnai_assets", key, "is a managed host too", "describe it once: host or asset", "I7")
            else:
                v4, v6 = self._addresses("hnai_assets", f"{key}.addresses", asset.get("addresses"), zone)
                self.nodes[name] = Node(name, "asset", zone.id, v4, v6, frozenset(), str(asset.get("role") or ""))

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
            return found
        for index, item in enumerate(data):
            if not isinstance(item, Mapping):
                self.problem(
                    "hnai_conduits",
                    f"hnai_conduits[{index}]",
                    "is not a map",
                    "write id, from, to, service, owner, reason, expires",
                )
                continue
            before = len(self.problems)
            conduit = self._read_conduit(index, item)
            if conduit is not None and conduit.id in ids:
                self._wrong(conduit.id, "id", "is used twice", "give each conduit an id of its own")
            elif conduit is not None and len(self.problems) == before:
                found.append(conduit)
            ids.add(str(item.get("id")))
        return sorted(found, key=lambda conduit: conduit.id)

    def _wrong(self, ident: str, key: str, message: str, remedy: str, invariant: str = "format") -> None:
        self.problem("hnai_conduits", f"hnai_conduits[{ident}].{key}", message, remedy, invariant)

    def _read_conduit(self, index: int, item: Mapping[str, Any]) -> Conduit | None:
        ident = str(item.get("id") or index)
        if not _ID.match(ident):
            self._wrong(ident, "id", "is missing or not plain text", "write an id such as C-101")
        for key in sorted(set(item) - _CONDUIT_KEYS):
            self._wrong(ident, key, "is not part of the format", "remove it or use one of: " + ", ".join(sorted(_CONDUIT_KEYS)))
        for key in ("owner", "reason"):
            if not str(item.get(key) or "").strip():
                self._wrong(ident, key, "is missing", f"name the {key}: a conduit without one is not approved")
        kind = item.get("kind", "direct")
        if kind not in KINDS:
            self._wrong(ident, "kind", f"{kind!r} is unknown", "use one of: " + ", ".join(KINDS))
        direction = item.get("data_direction")
        if direction not in DIRECTIONS:
            self._wrong(ident, "data_direction", f"{direction!r} is unknown", "use one of: " + ", ".join(DIRECTIONS))
        expires = _date(item.get("expires"))
        if expires is None:
            self._wrong(ident, "expires", f"{item.get('expires')!r} is no date", "write YYYY-MM-DD: every conduit ends")
        sources = self._endpoint(ident, "from", item.get("from"))
        targets = self._endpoint(ident, "to", item.get("to"))
        service = self._service(ident, item.get("service"), targets)
        if service is not None and service.component:
            targets = self._cut(ident, service, targets)
        limits = item.get("limits") or {}
        if not isinstance(limits, Mapping) or set(limits) - set(L2_LIMITS) or any(_positive(limits[key]) is None for key in limits):
            self._wrong(ident, "limits", f"{limits!r} is not usable", "write {connections: 2, new_per_minute: 6}")
            limits = {}
        uid = item.get("uid")
        if uid is not None and (_positive(uid) is None or not isinstance(uid, int)):
            self._wrong(ident, "uid", f"{uid!r} is no user's number", "write the number that the component's user has; root is none of them")
            uid = None
        if uid is not None and any(self.nodes[name].kind != "host" for name in sources):
            self._wrong(ident, "uid", "the initiator is no host of ours: nobody there would look at it", "remove it")
        second = str(item.get("source_address") or "")
        for name in sources if second else ():
            if second not in self.nodes[name].seconds:
                remedy = f"write hnai_second_addresses: {{{second}: {{v4: …, v6: …}}}} at {name}, or remove the key"
                self._wrong(ident, "source_address", f"{name} has no second address {second!r}", remedy)
        if expires is None or service is None or not sources or not targets:
            return None
        needed_by = str(item.get("needed_by") or "")
        return Conduit(ident, sources, targets, service, str(kind), str(direction), expires, dict(limits), needed_by, uid, second)

    def _endpoint(self, ident: str, key: str, value: Any) -> tuple[str, ...]:
        if not isinstance(value, Mapping) or len(value) != 1 or set(value) - {"group", "host", "asset"}:
            self._wrong(
                ident,
                key,
                f"{value!r} names nobody",
                "write one of {group: x}, {host: x}, {asset: x}; never a zone or any",
                "I5",
            )
            return ()
        ((what, name),) = value.items()
        if what == "group":
            if name in ("all", "ungrouped"):
                self._wrong(ident, key, f"group {name} means anybody", "name a group of the site", "I5")
                return ()
            members = tuple(sorted(host for host in self.groups.get(name, ()) if host in self.nodes and self.nodes[host].kind == "host"))
            if not members:
                self._wrong(
                    ident,
                    key,
                    f"group {name!r} has no managed host",
                    "correct the name, place a host in it, or remove the conduit",
                )
            return members
        wanted = "host" if what == "host" else "asset"
        if name not in self.nodes or self.nodes[name].kind != wanted:
            where = "a managed host of the inventory" if what == "host" else "in hnai_assets"
            self._wrong(ident, key, f"{what} {name!r} is unknown", f"it must be {where}")
            return ()
        return (str(name),)

    def _service(self, ident: str, value: Any, targets: tuple[str, ...]) -> Service | None:
        remedy = "write {component: x, listener: y} or {proto: tcp, port: 4840, app: opcua, ops: [read]}"
        if not isinstance(value, Mapping):
            self._wrong(ident, "service", "is missing", remedy, "I5")
            return None
        if "component" in value:
            extra = set(value) - {"component", "listener"}
            component, name = str(value.get("component")), str(value.get("listener"))
            listener = self.listener(component, name)
            if extra or listener is None:
                known = ", ".join(item["name"] for item in self.contracts.get(component, {}).get("listens", [])) or "none"
                self._wrong(ident, "service", f"component {component!r} has no listener {name!r}", f"listeners in its contract: {known}")
                return None
            if listener["bind"] == "loopback":
                self._wrong(ident, "service", f"{component}.{name} listens on loopback only", "remove the conduit", "I5")
                return None
            return Service(listener["proto"], listener["port"], component, name)
        for key in sorted(set(value) - {"proto", "port", "app", "ops"}):
            self._wrong(ident, f"service.{key}", "is not part of the format", remedy)
        proto, port = value.get("proto"), value.get("port")
        if proto not in ("tcp", "udp"):
            self._wrong(ident, "service.proto", f"{proto!r} is not one protocol", "write tcp or udp", "I5")
            return None
        if isinstance(port, bool) or not isinstance(port, int) or not 1 <= port <= 65535:
            self._wrong(ident, "service.port", f"{port!r} is not one port", "write a number from 1 to 65535; one conduit per port", "I5")
            return None
        ops = value.get("ops") or []
        return Service(proto, port, "", "", str(value.get("app") or ""), tuple(map(str, ops)) if isinstance(ops, (list, tuple)) else ())

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


def _overlap(first: Network, second: Network) -> bool:
    return first.version == second.version and first.overlaps(second)


def _declared(value: Any) -> bool:
    return isinstance(value, Mapping) and bool(value.get("owner")) and bool(value.get("reason"))


def _positive(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def _date(value: Any) -> datetime.date | None:
    """A day from a date or its text."""
    if isinstance(value, datetime.datetime):
        return value.date()
    if isinstance(value, datetime.date):
        return value
    try:
        return datetime.date(*map(int, str(value).split("-")))
    except (TypeError, ValueError):
        return None
