# SPDX-License-Identifier: Apache-2.0
"""Do addresses, routes and forwarding of a host leave the packets to its rules (V2)? Judged by what ``ip`` and the kernel's switches say."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


class CannotTell(Exception):
    """It could not be found out."""


SETTINGS = ("forwarding", "rp_filter", "proxy_arp", "proxy_arp_pvlan", "proxy_ndp", "route_localnet", "seg6_enabled", "input")
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
        if len(parts) >= 4 and parts[-1] in SETTINGS and value.strip().lstrip("-").isdigit():
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


def proxied(text: str) -> list[str]:
    """Entries of ``ip -j neigh show proxy``: addresses that the host answers for, whatever its switches say. Raises CannotTell."""
    try:
        return ["the host answers for %s on %s, which is not its own (ip neigh show proxy)" % (one["dst"], one["dev"]) for one in json.loads(text or "[]")]
    except (ValueError, KeyError, TypeError) as error:
        raise CannotTell("ip does not say for whom the host answers: %s" % error) from None


def strange_routes(text: str, found: Links, expected: Mapping[str, Any]) -> list[str]:
    """Routes of ``ip -j route show table all`` that lead past the rules, make another's address the host's own, or are for some packets alone, so that
    ``ip route get`` need not meet them. Raises CannotTell."""
    wrong = []
    routers = {gateway for peer in expected["peers"] for gateway in peer["gateway"]}
    try:
        for one in json.loads(text or "[]"):
            dst = str(one.get("dst"))
            wrong += ["the route to %s is for packets with %s %s alone" % (dst, key, one[key]) for key in ("tos", "from") if key in one]
            ways = {str(each.get("gateway") or each.get("dev")) for each in one.get("nexthops") or ()}
            if ways - routers:
                wrong.append("packets to %s go by several ways: %s" % (dst, ", ".join(sorted(ways))))
            kinds = [str(each["encap"]) for each in (one, *(one.get("nexthops") or ())) if each.get("encap")]
            wrong += ["the route to %s wraps or unwraps packets (%s): what is inside passes no chain" % (dst, kind) for kind in kinds]
            # "default" of either version: nobody's address.
            net = ipaddress.ip_network("0.0.0.0/0" if dst == "default" else dst, strict=False) if one.get("type") == "local" else None
            if net and not net.is_loopback and not net.is_link_local and str(net.network_address) not in found.holders:
                wrong.append("packets to %s are taken as the host's own (ip route show table %s)" % (dst, one.get("table", "main")))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CannotTell("ip does not say which routes there are: %s" % error) from None
    return wrong
