# SPDX-License-Identifier: Apache-2.0
"""The part of a ruleset in `observe` that writes down which flows `enforce` would cut; read by module_utils/firewall_observed.py.

Elements of sets are flows: exact and cheap, where a log is rate-limited and loses. `add` keeps the time of the first connection, `update`
renews the last one's and counts. A set that is full ends its rule, and what could not be written down reaches the counter at the end.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

#: Where a packet may be refused; spoof and limits on routers only.
PLACES = ("in", "out", "forward")
ROUTER_PLACES = (*PLACES, "spoof", "limits")
#: Where at a boundary of a router that has a mode of its own.
BOUNDARY_PLACES = ("forward", "spoof", "limits")
#: Flows a set holds: some 2 MB each when full.
SIZE = 16384
LAST = "7d"
FIRST = "30d"
_TYPES = {4: "ipv4_addr . ipv4_addr . inet_proto", 6: "ipv6_addr . ipv6_addr . inet_proto"}
_KEYS = {4: "ip saddr . ip daddr . meta l4proto", 6: "ip6 saddr . ip6 daddr . meta l4proto"}
#: Kind of set → (what its key has beside addresses and protocol, as type and as expression, how long, counted).
_KINDS = {
    "first": (" . inet_service", " . th dport", FIRST, ""),
    "last": (" . inet_service", " . th dport", LAST, " counter;"),
    "mid": (" . inet_service . inet_service", " . th sport . th dport", LAST, ""),
    "ofirst": ("", "", FIRST, ""),
    "olast": ("", "", LAST, " counter;"),
    "user": (" . inet_service . uid", " . th dport . meta skuid", LAST, ""),
}


def places(router: bool, mode: str, boundaries: Iterable[str]) -> list[str]:
    """Where a host or a router writes down: its own places where it observes, and `<place>_<id>` of each boundary that does."""
    own = (ROUTER_PLACES if router else PLACES) if mode == "observe" else ()
    return [*own, *(f"{place}_{name}" for name in boundaries for place in BOUNDARY_PLACES)]


def _kinds(place: str) -> Iterator[str]:
    """Only what goes out of this host has a user."""
    return (kind for kind in _KINDS if kind != "user" or place == "out")


def sets(where: Iterable[str]) -> Iterator[str]:
    """The sets, a line each."""
    for place in where:
        for kind in _kinds(place):
            more, _key, lifetime, counted = _KINDS[kind]
            for version, types in _TYPES.items():
                name = f"observed_{kind}{version}_{place}"
                yield f"  set {name} {{ type {types}{more}; size {SIZE}; flags dynamic,timeout; timeout {lifetime};{counted} }}"


def chain(place: str) -> Iterator[str]:
    """The rules of the chain `observed_<place>`, to which a packet jumps that `enforce` would drop."""

    def put(how: str, kind: str, version: int) -> str:
        return f"{how} @observed_{kind}{version}_{place} {{ {_KEYS[version]}{_KINDS[kind][1]} }}"

    if place == "out":
        for version in _KEYS:
            yield f"meta l4proto {{ tcp, udp }} {put('update', 'user', version)}"
    for version in _KEYS:
        # The middle of a connection that is older than the rules: who opened it is found out by whoever reads.
        yield f"tcp flags & (syn | ack) != syn {put('update', 'mid', version)} return"
        yield f"meta l4proto {{ tcp, udp }} {put('add', 'first', version)} {put('update', 'last', version)} return"
        yield f"meta l4proto != {{ tcp, udp }} {put('add', 'ofirst', version)} {put('update', 'olast', version)} return"
    yield f'counter comment "observed-full-{place}"'
