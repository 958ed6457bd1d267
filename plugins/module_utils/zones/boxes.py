# SPDX-License-Identifier: Apache-2.0
"""Sets of packets. A box has for each dimension (source, target, protocol, ports, interfaces, conntrack state, user and whatever else a rule looks
at) a bit mask over classes that are cut at every boundary which a rule or the model mentions. Two packets of one class are treated alike by
every rule, so what is said of boxes is exact.
"""

from __future__ import annotations

import ipaddress
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.hnai.platform.plugins.module_utils.zones.dimensions import CORE, NAMES, NUMBERS, STATES, TOP

#: Most boxes that one path may fall into; a ruleset beyond it is not judged.
MOST_BOXES = 60000


class RulesetError(Exception):
    """This is no listing of nft, or it is beyond what can be judged."""


@dataclass(frozen=True)
class Values:
    """A set of values of one dimension: closed intervals of numbers, or names (`x*` is a prefix); `negate`: all others."""

    numbers: tuple[tuple[int, int], ...] = ()
    names: tuple[str, ...] = ()
    negate: bool = False


def numbers(*found: int | tuple[int, int]) -> Values:
    """Values from numbers and (low, high)."""
    return Values(tuple((one, one) if isinstance(one, int) else one for one in found))


def names(*found: str, negate: bool = False) -> Values:
    """Values from names."""
    return Values((), tuple(found), negate)


def addresses(texts: Iterable[Any], negate: bool = False) -> Values:
    """Values from addresses and networks of one family."""
    nets = [ipaddress.ip_network(str(text)) for text in texts]
    return Values(tuple((int(net.network_address), int(net.broadcast_address)) for net in nets), (), negate)


#: A conjunction of conditions.
Cube = dict[str, Values]


class Classes:
    """The dimensions of a judgement, each cut into classes of values that nothing tells apart."""

    def __init__(self, version: int, cubes: Iterable[Cube]) -> None:
        cuts: dict[str, set[int]] = {}
        known: dict[str, set[str]] = {"iif": {"", "lo"}, "oif": {"", "lo"}, "ct": set(STATES)}
        for cube in cubes:
            for dimension, values in cube.items():
                if dimension == "nfproto":
                    continue
                cuts.setdefault(dimension, set()).update(edge for low, high in values.numbers for edge in (low, high + 1))
                known.setdefault(dimension, set()).update(values.names)
        self.version = version
        self.names = [*CORE, *sorted(set(cuts) | set(known) - set(CORE) - {"nfproto"})]
        self.names = list(dict.fromkeys(self.names))
        self.index = {name: number for number, name in enumerate(self.names)}
        self._starts: dict[str, list[int]] = {}
        self._atoms: dict[str, list[str]] = {}
        self._tops: dict[str, int] = {}
        full = []
        for name in self.names:
            if name in ("iif", "oif") or (known.get(name) and not cuts.get(name)):
                self._atoms[name] = _atoms(name, known.get(name, set()))
                full.append((1 << len(self._atoms[name])) - 1)
                continue
            top = {
                "saddr": TOP[version],
                "daddr": TOP[version],
                "proto": 255,
                "sport": 65535,
                "dport": 65535,
                "uid": 2**32 - 1,
                "connections": 2**32 - 1,
            }.get(name)
            self._tops[name] = top if top is not None else NUMBERS.get(name.partition(" & ")[0], (2**63, {}))[0]
            if known.get(name):
                raise RulesetError("%s is compared by name and by number" % name)
            self._starts[name] = sorted({0} | {cut for cut in cuts.get(name, ()) if 0 < cut <= self._tops[name]})
            full.append((1 << len(self._starts[name])) - 1)
        self.full = tuple(full)

    def mask(self, dimension: str, values: Values) -> int:
        """The classes that `values` are made of."""
        found = 0
        if dimension in self._atoms:
            if values.numbers:
                raise RulesetError("%s is compared by name and by number" % dimension)
            for wanted in values.names:
                for number, atom in enumerate(self._atoms[dimension]):
                    if atom == wanted or (wanted.endswith("*") and dimension in ("iif", "oif") and atom.startswith(wanted[:-1])):
                        found |= 1 << number
        else:
            starts = self._starts[dimension]
            for low, high in values.numbers:
                first, last = bisect_right(starts, low) - 1, bisect_right(starts, min(high, self._tops[dimension])) - 1
                found |= ((1 << (last - first + 1)) - 1) << first
        return self.full[self.index[dimension]] & ~found if values.negate else found

    def cube(self, cube: Cube) -> tuple[tuple[int, int], ...] | None:
        """(dimension, classes) pairs; None where nothing can be in it."""
        found = []
        for name, values in cube.items():
            if name == "nfproto":
                inside = any(low <= self.version <= high for low, high in values.numbers)
                if inside == values.negate:
                    return None
                continue
            number = self.index[name]
            mask = self.mask(name, values)
            if not mask:
                return None
            if mask != self.full[number]:
                found.append((number, mask))
        return tuple(found)

    def box(self, cube: Cube) -> Box | None:
        """The box of a cube; None where nothing can be in it."""
        pairs = self.cube(cube)
        if pairs is None:
            return None
        found = list(self.full)
        for number, mask in pairs:
            found[number] &= mask
        return tuple(found) if all(found) else None

    def values(self, dimension: str, mask: int) -> list[Any]:
        """What `mask` holds, as names or (low, high)."""
        if dimension in self._atoms:
            return [atom for number, atom in enumerate(self._atoms[dimension]) if mask >> number & 1]
        starts = self._starts[dimension]
        found: list[tuple[int, int]] = []
        for number, start in enumerate(starts):
            if mask >> number & 1:
                end = starts[number + 1] - 1 if number + 1 < len(starts) else self._tops[dimension]
                if found and found[-1][1] == start - 1:
                    found[-1] = (found[-1][0], end)
                else:
                    found.append((start, end))
        return found

    def example(self, box: Box) -> dict[str, Any]:
        """One packet of a box, for people."""
        found: dict[str, Any] = {}
        for number, name in enumerate(self.names):
            if box[number] == self.full[number] and name not in ("ct", "proto"):
                continue
            if name in ("saddr", "daddr"):
                low, high = min(self.values(name, box[number]), key=lambda pair: (pair[1] - pair[0], pair[0]))
                # The bounds of a wide range are rarely anybody's address.
                found[name] = str(_address(self.version, low if high - low < 2 else low + 1))
            elif name == "proto":
                numbers_here = self.values(name, box[number])
                wanted = next(
                    (one for one in (6, 17, 1 if self.version == 4 else 58) if any(low <= one <= high for low, high in numbers_here)), numbers_here[0][0]
                )
                found[name] = {6: "tcp", 17: "udp", 1: "icmp", 58: "icmpv6"}.get(wanted, wanted)
            elif name == "ct":
                here = self.values(name, box[number])
                found["state"] = "new" if "new" in here else here[0]
            else:
                first = self.values(name, box[number])[0]
                found[name] = first if isinstance(first, str) else first[0]
        return found


#: For each dimension a mask of classes.
Box = tuple[int, ...]


def _address(version: int, number: int) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    return ipaddress.IPv4Address(number) if version == 4 else ipaddress.IPv6Address(number)


def _atoms(dimension: str, known: set[str]) -> list[str]:
    if dimension == "ct":
        return list(STATES)
    if known and known <= set(NAMES.get(dimension) or ()):
        return list(NAMES[dimension] or ())
    exact = {one for one in known if not (one.endswith("*") and dimension in ("iif", "oif"))}
    if dimension in ("iif", "oif"):
        # Some name for each prefix that nobody mentions, and one for every other interface.
        exact |= {one[:-1] + "~other" for one in known if one.endswith("*")} | {"~other"}
        return sorted(exact)
    return [*sorted(exact), "~other"]


def minus(boxes: Iterable[Box], cubes: Iterable[Sequence[tuple[int, int]]]) -> list[Box]:
    """What of `boxes` is in none of `cubes`."""
    rest = list(boxes)
    for cube in cubes:
        kept: list[Box] = []
        for box in rest:
            inside, outside = split(box, cube)
            kept += outside if inside is not None else [box]
        rest = kept
        if not rest:
            break
        if len(rest) > MOST_BOXES:
            raise RulesetError("the ruleset falls into more than %d sets of packets" % MOST_BOXES)
    return rest


def within(boxes: Iterable[Box], cubes: Iterable[Sequence[tuple[int, int]]]) -> list[Box]:
    """What of `boxes` is in one of `cubes`, which have nothing in common."""
    found = [split(box, cube)[0] for cube in cubes for box in boxes]
    return [box for box in found if box is not None]


def split(box: Box, cube: Sequence[tuple[int, int]]) -> tuple[Box | None, list[Box]]:
    """(what is inside, what is outside)."""
    for number, mask in cube:
        if not box[number] & mask:
            return None, [box]
    outside: list[Box] = []
    current = box
    for number, mask in cube:
        left = current[number] & ~mask
        if left:
            outside.append((*current[:number], left, *current[number + 1 :]))
            current = (*current[:number], current[number] & mask, *current[number + 1 :])
    return current, outside
