# SPDX-License-Identifier: Apache-2.0
"""What a host's rules do with what no conduit approves, and over which boundary of a router they do otherwise."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

Networks = tuple[Any, ...]


class Side(NamedTuple):
    """A mode with who answers for it. `id`: the boundary, '' for the host itself."""

    id: str
    mode: str
    approved_by: str
    zones: tuple[Networks, Networks] = ((), ())
    own: frozenset[str] = frozenset()
    """The router's addresses: what goes to them or comes from them crosses nothing."""

    def crossed(self, source: str, target: str, spoofed: bool) -> bool:
        """Does a flow go from the one zone to the other? Of a spoofed one its target alone says whether it may."""
        if {source, target} & self.own:
            return False
        here, there = (tuple(_within(address, nets) for nets in self.zones) for address in (source, target))
        return any(there) if spoofed else (here[0] and there[1]) or (here[1] and there[0])


def _within(address: str, nets: Networks) -> bool:
    known = ipaddress.ip_address(address)
    return any(known.version == net.version and known in net for net in nets)


class Modes:
    """The mode of a host and of its boundaries. `boundaries`: [{id, mode, approved_by, zones: [[network], [network]], own: [address]}]
    (the filter nft_boundaries)."""

    def __init__(self, mode: str, boundaries: Iterable[Mapping[str, Any]] = (), approved_by: str = "") -> None:
        self.host = Side("", mode, approved_by)
        self.boundaries: dict[str, Side] = {}
        for one in boundaries:
            first, second = (tuple(ipaddress.ip_network(net) for net in nets) for nets in one["zones"])
            self.boundaries[one["id"]] = Side(one["id"], one["mode"], one.get("approved_by") or "", (first, second), frozenset(one["own"]))

    @property
    def sides(self) -> list[Side]:
        """The host's first."""
        return [self.host, *self.boundaries.values()]

    def some(self, mode: str) -> bool:
        """Does the host or a boundary have it?"""
        return any(side.mode == mode for side in self.sides)

    def charge(self, source: str, target: str, place: str = "") -> Side:
        """Whose mode decides over a flow that was seen at `place` (`<where>` or `<where>_<boundary>`, as sets are named)."""
        where, _line, name = place.partition("_")
        if name in self.boundaries:
            return self.boundaries[name]
        return next((side for side in self.boundaries.values() if side.crossed(source, target, where == "spoof")), self.host)
