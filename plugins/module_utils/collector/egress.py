# SPDX-License-Identifier: Apache-2.0
"""What the kernel lets the collector's users open, out of ``nft -j list ruleset``, against the conduits.

The ruleset is read by ``zones/ruleset.py`` and run by ``zones/machine.py``, all tables together; what hangs on a construct that is not understood is no answer.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.hnai.platform.plugins.module_utils.zones.boxes import Box, Classes, Cube, RulesetError, addresses, minus, names, numbers
from ansible_collections.hnai.platform.plugins.module_utils.zones.expectation import TABLE, wanted
from ansible_collections.hnai.platform.plugins.module_utils.zones.machine import Machine, Outcome, classes_of
from ansible_collections.hnai.platform.plugins.module_utils.zones.program import Program
from ansible_collections.hnai.platform.plugins.module_utils.zones.ruleset import parse

_PROTO = {"tcp": 6, "udp": 17}


class CannotTell(Exception):
    """The ruleset cannot be read, or has a rule that is not understood."""


@dataclass(frozen=True, order=True)
class Way:
    """One thing that may be opened. *uid* None: by every user; *origin*: the only address to come from, '' = any of the host's."""

    address: str
    proto: str
    port: int
    uid: int | None = None
    origin: str = ""

    @property
    def text(self) -> str:
        """For people."""
        return "%s %s port %d%s%s" % (
            self.proto,
            self.address,
            self.port,
            "" if self.uid is None else " as user %d" % self.uid,
            " from %s" % self.origin if self.origin else "",
        )


def declared(conduits: Iterable[Mapping[str, Any]]) -> set[Way]:
    """The ways of the conduits as filter ``collector_egress`` gives them: [{id, addresses, proto, port, uid, origins}]."""
    found = set()
    for one in conduits:
        origins = [ipaddress.ip_address(text) for text in one.get("origins") or ()]
        for address in map(ipaddress.ip_address, one["addresses"]):
            mine = [str(origin) for origin in origins if origin.version == address.version]
            if mine or not origins:
                found |= {Way(str(address), str(one["proto"]), int(one["port"]), one.get("uid"), origin) for origin in mine or [""]}
    return found


def _cube(way: Way) -> Cube:
    found: Cube = {"daddr": addresses([way.address]), "proto": numbers(_PROTO[way.proto]), "dport": numbers(way.port), "ct": names("new")}
    if way.uid is not None:
        found["uid"] = numbers(way.uid)
    if way.origin:
        found["saddr"] = addresses([way.origin])
    return found


def _closed(program: Program, outcome: Outcome) -> None:
    """Raises CannotTell where there is nothing that keeps packets in, or what leaves is not what was judged."""
    chains = [one for one in program.base("output") if (one.where.family, one.where.table) == TABLE]
    if not chains:
        raise CannotTell("there is no chain of ours on the way out (table %s %s): everything may leave" % TABLE)
    for chain in chains:
        if chain.policy != "drop":
            raise CannotTell("chain %s lets out what no rule names (policy %s): firewall_mode is observe" % (chain.where.chain, chain.policy))
    for event in outcome.events:
        kind = "rewrites where packets go on their way out" if event.kind == "nat" else "leads past the rules (%s)" % event.kind
        raise CannotTell("%s %s" % (event.where.text, kind))


def _doubt(part: Any) -> None:
    if part.doubts:
        raise CannotTell("not understood: %s" % "; ".join(sorted(one.text for one in part.doubts)))


def _text(classes: Classes, box: Box, uids: Sequence[int]) -> str:
    """A set of packets, for people."""

    def spans(name: str, every: str) -> str:
        number = classes.index[name]
        if box[number] == classes.full[number]:
            return every
        make = (ipaddress.IPv4Address if classes.version == 4 else ipaddress.IPv6Address) if name == "daddr" else int
        return ", ".join(str(make(low)) if low == high else "%s-%s" % (make(low), make(high)) for low, high in classes.values(name, box[number]))

    protocols = spans("proto", "every protocol")
    for name, number in _PROTO.items():
        protocols = name if protocols == str(number) else protocols
    users = " or ".join(str(uid) for uid in uids if box[classes.index["uid"]] & classes.mask("uid", numbers(uid)))
    return "%s %s port %s as user %s" % (protocols, spans("daddr", "every IPv%d address" % classes.version), spans("dport", "any"), users)


def differences(listing: str, ways: Iterable[Way], uids: Sequence[int], uid_of: Callable[[str], int | None]) -> tuple[list[str], list[str]]:
    """(what *uids* may open beyond *ways*, which of *ways* the running ruleset does not let out). Raises CannotTell."""
    more: set[str] = set()
    less: set[str] = set()
    try:
        for version in (4, 6):
            program = parse(listing, version, uid_of)
            mine = [way for way in ways if ipaddress.ip_address(way.address).version == version]
            # What every host needs is no new connection to another host.
            basic = [one.cube for one in wanted({"router": False, "legs": [], "conduits": []}, version) if one.path == "output"]
            cubes = [_cube(way) for way in mine]
            users: Cube = {"uid": numbers(*uids)}
            classes = classes_of(program, [*basic, *cubes, users])
            outcome = Machine(program, classes).run("output")
            _closed(program, outcome)
            allowed = [cube for cube in map(classes.cube, [*basic, *cubes]) if cube is not None]
            number, ours = classes.index["uid"], classes.mask("uid", users["uid"])
            for part in outcome.passed:
                if not part.box[number] & ours:
                    continue
                for box in minus([(*part.box[:number], part.box[number] & ours, *part.box[number + 1 :])], allowed):
                    _doubt(part)
                    more.add(_text(classes, box, uids))
            for way, cube in zip(mine, cubes):
                whole = classes.box(cube)
                for part in outcome.dropped if whole else ():
                    if whole and all(have & want for have, want in zip(part.box, whole)):
                        _doubt(part)
                        less.add(way.text)
    except RulesetError as error:
        raise CannotTell(str(error)) from None
    return sorted(more), sorted(less)
