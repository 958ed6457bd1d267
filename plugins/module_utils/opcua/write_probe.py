# SPDX-License-Identifier: Apache-2.0
"""Is the mirror's write refused? One attempt on one canary node, between two proofs that the canary can be written at all. Pure: channels come in.

The commissioning identity writes the canary first, reads it back and puts the old value back (positive control). Then the mirror's identity tries
once. Then the value is looked at, and put back if it moved. Before anything is written a note says what has to be put back; a run that finds such
a note puts it back first. A node is the canary only if it lies at the declared path, alone, is a Variable, and carries the declared marker.
"""
from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from .audit_types import (
    ACCESS_LEVEL,
    ACCESS_LEVEL_EX,
    ACCESS_RESTRICTIONS,
    BAD,
    USER_ACCESS_LEVEL,
    USER_ROLE_PERMISSIONS,
    USER_WRITE_MASK,
    VALUE,
    VARIABLE,
    AuditError,
    Browsed,
    Names,
    Opened,
    Reading,
    apart,
)

OBJECTS, HAS_PROPERTY, NAMESPACE_ARRAY = "ns=0;i=85", "ns=0;i=46", "ns=0;i=2255"
MARKER = "HnaiWriteCanary"
"""BrowseName of the property that makes a node a canary; its value is the declared marker."""
#: Built-in types that a canary may have, with the greatest value of the whole numbers.
WHOLE = {2: 127, 3: 255, 4: 32767, 5: 65535, 6: 2147483647, 7: 4294967295, 8: 9223372036854775807, 9: 18446744073709551615}
BOOLEAN, FLOAT, DOUBLE = 1, 10, 11

DENIED = {0x801F0000: "BadUserAccessDenied", 0x803B0000: "BadNotWritable", 0x800B0000: "BadServiceUnsupported", 0x80E60000: "BadSecurityModeInsufficient"}
"""The server knows the node and says no."""
NOTHING = {0x80340000: "BadNodeIdUnknown", 0x80330000: "BadNodeIdInvalid", 0x800F0000: "BadNothingToDo", 0x80350000: "BadAttributeIdInvalid",
           0x80010000: "BadUnexpectedError", 0x80020000: "BadInternalError", 0x80030000: "BadOutOfMemory", 0x80040000: "BadResourceUnavailable",
           0x800C0000: "BadShutdown", 0x800E0000: "BadServerHalted"}
"""Tells nothing about rights."""
ABSENT = {0x800B0000: "BadServiceUnsupported", 0x80400000: "BadNotImplemented"}
RIGHTS = {ACCESS_LEVEL: "AccessLevel", USER_ACCESS_LEVEL: "UserAccessLevel", USER_WRITE_MASK: "UserWriteMask", ACCESS_RESTRICTIONS: "AccessRestrictions",
          ACCESS_LEVEL_EX: "AccessLevelEx", USER_ROLE_PERMISSIONS: "UserRolePermissions"}


class NotACanary(AuditError):
    """The node is not, or not surely, a canary; nothing was written."""


class ControlFailed(AuditError):
    """The commissioning identity could not do what it must; the mirror did not try."""


class Channel(Protocol):
    """What is used of a session; see ``write_channel.WriteChannel``."""

    async def open(self) -> Opened: ...

    async def close(self) -> None: ...

    async def read(self, wanted: Sequence[tuple[Any, int]]) -> list[Reading]: ...

    async def browse(self, nodes: Sequence[Any]) -> list[Browsed]: ...

    async def browse_next(self, points: Sequence[bytes], release: bool) -> list[Browsed]: ...

    def node(self, text: str) -> Any: ...

    def text(self, node: Any) -> str: ...

    def arm(self, canary: str) -> None: ...

    async def value(self, node: str) -> Any: ...

    async def write(self, node: str, kind: int, value: Any) -> int: ...

    async def empty(self, service: str) -> int: ...


class Journal(Protocol):
    """What survives a kill: the note of what has to be put back."""

    def note(self) -> Mapping[str, Any] | None: ...

    def keep(self, note: Mapping[str, Any]) -> None: ...

    def drop(self) -> None: ...


@dataclass(frozen=True)
class Canary:
    """*path* from the Objects folder, each step ``nsu=URI;Name``; *marker* is the value of its property ``HnaiWriteCanary``."""

    path: tuple[str, ...]
    marker: str


@dataclass
class Attempt:
    """What came of it. *status*: of the mirror's write, None = it did not try, or nothing was answered. *moved*: is the value another one after it,
    None = nobody could look. *restored*: is the value as before, None = nothing was written. *error*: why it came to no end."""

    node: str = ""
    kind: int = 0
    before: Any = None
    tried: Any = None
    control: list[str] = field(default_factory=list)
    controlled: bool = False
    status: int | None = None
    seen: Any = None
    moved: bool | None = False
    restored: bool | None = None
    earlier: str = ""
    error: str = ""
    rights: dict[str, dict[str, str]] = field(default_factory=dict)
    session: Opened | None = None


def step(text: str, names: Names) -> tuple[int, str]:
    """(namespace index of today, name) of ``nsu=URI;Name`` or ``Name`` (namespace 0). Raises NotACanary."""
    if not text.startswith("nsu="):
        return 0, text
    uri, _mark, name = text[4:].rpartition(";")
    if not uri or uri not in names.table:
        raise NotACanary("%s: the server has no such namespace" % text)
    return names.table.index(uri), name


async def _children(channel: Channel, node: str) -> list[Any]:
    """All forward references, to the end. Raises NotACanary when that cannot be had."""
    found = (await channel.browse([channel.node(node)]))[0]
    references = list(apart(found.references))
    for _ in range(1000):
        if found.status & BAD:
            raise NotACanary("%s cannot be browsed: 0x%08X" % (node, found.status))
        if not found.point:
            return references
        found = (await channel.browse_next([found.point], False))[0]
        references += apart(found.references)
    raise NotACanary("%s has no end of references" % node)


async def names_of(channel: Channel) -> Names:
    """The namespace table of this session."""
    table = (await channel.read([(channel.node(NAMESPACE_ARRAY), VALUE)]))[0]
    if table.status & BAD or not isinstance(table.value, list):
        raise NotACanary("the server does not tell its namespaces: 0x%08X" % table.status)
    return Names([str(one) for one in table.value])


async def find(channel: Channel, canary: Canary, names: Names) -> str:
    """The canary's NodeId as ``ns=2;s=x``. Raises NotACanary: nothing is written then."""
    if not canary.path or not canary.marker:
        raise NotACanary("a canary has a path and a marker")
    place = OBJECTS
    node_class = 0
    for text in canary.path:
        namespace, name = step(text, names)
        fitting = {channel.text(one.node): one.node_class for one in await _children(channel, place)
                   if one.name == name and one.namespace == namespace and not one.remote}
        if len(fitting) != 1:
            raise NotACanary("%s below %s: %d nodes have this name, one must" % (text, place, len(fitting)))
        ((place, node_class),) = fitting.items()
    if node_class != VARIABLE:
        raise NotACanary("%s is no Variable" % place)
    if names.index(place) == 0:
        raise NotACanary("%s is a node of the standard, not a canary" % place)
    marks = [one for one in await _children(channel, place) if one.name == MARKER and one.reference_type == HAS_PROPERTY]
    if len(marks) != 1:
        raise NotACanary("%s carries %d properties %s, one must mark it" % (place, len(marks), MARKER))
    value = (await channel.read([(marks[0].node, VALUE)]))[0]
    if value.status & BAD or value.value != canary.marker:
        raise NotACanary("%s: the marker says %r, not %r" % (place, value.value, canary.marker))
    return place


def other(kind: int, value: Any) -> Any:
    """Another value of the same type. Raises NotACanary for a type that a canary may not have."""
    if kind == BOOLEAN and isinstance(value, bool):
        return not value
    if kind in WHOLE and isinstance(value, int):
        return value + 1 if value < WHOLE[kind] else value - 1
    if kind in (FLOAT, DOUBLE) and isinstance(value, (int, float)):
        number = float(value)
        # As a Float has it: many a Double is a PLC's REAL, and what comes back must be what was written.
        return float(struct.unpack("<f", struct.pack("<f", number + 1.0))[0]) if math.isfinite(number) and abs(number) < 1e6 else 1.0
    raise NotACanary("the canary's value has type %d; a canary is a Boolean or a number" % kind)


def same(one: Any, two: Any) -> bool:
    """Equal values; NaN is NaN."""
    if isinstance(one, float) and isinstance(two, float) and math.isnan(one) and math.isnan(two):
        return True
    return type(one) is type(two) and bool(one == two)


async def _value(channel: Channel, node: str) -> tuple[int, Any]:
    found = await channel.value(node)
    if found.status & BAD or found.value is None:
        raise NotACanary("the canary's value cannot be read: 0x%08X" % found.status)
    return found.kind, found.value


async def put_back(channel: Channel, note: Mapping[str, Any], canary: Canary) -> str:
    """Finish what a killed run left. Returns what was found. Raises AuditError."""
    if list(note["path"]) != list(canary.path):
        raise NotACanary("an earlier run was ended half way at another canary, %s: declare that one again, or put %r back there by hand and remove "
                         "the note write_probe.json.gz" % ("/".join(note["path"]), note["before"]))
    node = await find(channel, canary, await names_of(channel))
    kind, now = await _value(channel, node)
    if kind != note["kind"]:
        raise NotACanary("the canary had type %s when an earlier run was ended, now %d: put %r back by hand" % (note["kind"], kind, note["before"]))
    if same(now, note["before"]):
        return "the value was as before"
    if not same(now, note["tried"]):
        return "somebody has changed the value since, it was left alone"
    channel.arm(node)
    status = await channel.write(node, kind, note["before"])
    if status & BAD or not same((await _value(channel, node))[1], note["before"]):
        raise ControlFailed("what an earlier run left could not be put back (0x%08X): put %r back by hand" % (status, note["before"]))
    return "the value was put back"


async def control(channel: Channel, canary: Canary, journal: Journal, attempt: Attempt) -> None:
    """The commissioning identity's part. Raises AuditError; the value is then as before, or the note stays."""
    note = journal.note()
    if note is not None:
        attempt.earlier = "an earlier run was ended half way; %s" % await put_back(channel, note, canary)
        journal.drop()
    node = attempt.node = await find(channel, canary, await names_of(channel))
    attempt.kind, attempt.before = await _value(channel, node)
    attempt.tried = other(attempt.kind, attempt.before)
    channel.arm(node)
    journal.keep(_note(canary, attempt))
    attempt.restored = False
    status = await channel.write(node, attempt.kind, attempt.tried)
    attempt.control.append("write 0x%08X" % status)
    seen = (await _value(channel, node))[1]
    attempt.control.append("reads back %r" % (seen,))
    # Some servers answer Bad and have written; what somebody else wrote meanwhile is not ours to undo.
    if not status & BAD or same(seen, attempt.tried):
        await _restore(channel, attempt)
    attempt.restored = True
    if status & BAD:
        journal.drop()
        raise ControlFailed("the commissioning identity's write was refused: 0x%08X" % status)
    if not same(seen, attempt.tried):
        journal.drop()
        raise ControlFailed("the canary took a write of %r and %s: it is none" % (
            attempt.tried, "kept its value" if same(seen, attempt.before) else "held %r" % (seen,)))
    attempt.controlled = True


def _note(canary: Canary, attempt: Attempt) -> dict[str, Any]:
    return {"path": list(canary.path), "kind": attempt.kind, "before": attempt.before, "tried": attempt.tried}


async def _restore(channel: Channel, attempt: Attempt) -> None:
    """Raises ControlFailed; the note stays then."""
    status = await channel.write(attempt.node, attempt.kind, attempt.before)
    now = (await _value(channel, attempt.node))[1]
    attempt.control.append("restore 0x%08X" % status)
    if status & BAD or not same(now, attempt.before):
        raise ControlFailed("the value could not be put back (0x%08X): put %r back by hand at %s" % (status, attempt.before, attempt.node))


async def mirror(channel: Channel, canary: Canary, attempt: Attempt, tags: Sequence[str], spend: Any) -> None:
    """The mirror's part: rights, one write, one look. *spend* is called right before the write. Raises AuditError before the write only."""
    names = await names_of(channel)
    node = await find(channel, canary, names)
    if node != attempt.node:
        raise NotACanary("the mirror sees %s at the path, the commissioning identity saw %s" % (node, attempt.node))
    attempt.rights = await _rights(channel, [node, *(one for one in (names.today(tag) for tag in tags) if one is not None)])
    now = (await _value(channel, node))[1]
    if not same(now, attempt.before):
        # What changes by itself would be held against the server.
        raise NotACanary("the canary went from %r to %r before the mirror tried: it changes by itself, and is none" % (attempt.before, now))
    channel.arm(node)
    spend()
    attempt.moved = None
    try:
        attempt.status = await channel.write(node, attempt.kind, attempt.tried)
        _see(attempt, (await _value(channel, node))[1])
    except AuditError as error:
        # It may have been written: whoever comes next looks.
        attempt.error = str(error)


def _see(attempt: Attempt, value: Any) -> None:
    attempt.seen, attempt.moved = value, not same(value, attempt.before)


async def _rights(channel: Channel, nodes: Sequence[str]) -> dict[str, dict[str, str]]:
    """What this session may at each node, as text to compare."""
    found: dict[str, dict[str, str]] = {}
    for node in nodes:
        readings = await channel.read([(channel.node(node), attribute) for attribute in RIGHTS])
        found[node] = {name: ("0x%08X" % one.status if one.status & BAD else repr(one.value)) for name, one in zip(RIGHTS.values(), readings)}
    return found


async def canary_probe(commissioning: Any, observer: Any, canary: Canary, journal: Journal, tags: Sequence[str], spend: Any) -> Attempt:
    """The whole attempt. *commissioning* and *observer* make a channel each; sessions follow one another, a conduit has few connections."""
    attempt = Attempt()
    try:
        await _session(commissioning, lambda channel: control(channel, canary, journal, attempt))
    except ControlFailed as error:
        attempt.error = str(error)
        return attempt
    except AuditError as error:
        attempt.error = str(error)
        if attempt.restored is False:
            await _look_after(commissioning, canary, journal, attempt)
        return attempt
    try:
        async def part(channel: Channel) -> None:
            await mirror(channel, canary, attempt, tags, spend)

        attempt.session = await _session(observer, part)
    except AuditError as error:
        attempt.error = str(error)
    if attempt.moved is False:
        journal.drop()
    else:
        await _look_after(commissioning, canary, journal, attempt)
    return attempt


async def _look_after(commissioning: Any, canary: Canary, journal: Journal, attempt: Attempt) -> None:
    """A session of its own for the value, which may have moved. The note goes when the value is as before."""
    attempt.restored = False

    async def back(channel: Channel) -> None:
        if attempt.moved is None:
            _see(attempt, (await _value(channel, attempt.node))[1])
        attempt.control.append("afterwards: %s" % await put_back(channel, _note(canary, attempt), canary))
        attempt.restored = same((await _value(channel, attempt.node))[1], attempt.before)

    try:
        await _session(commissioning, back)
    except AuditError as error:
        attempt.error = "; ".join(one for one in (attempt.error, str(error)) if one)
    if attempt.restored:
        journal.drop()


async def _session(make: Any, work: Any) -> Opened:
    """One session, closed in every case."""
    channel = make()
    try:
        opened: Opened = await channel.open()
        await work(channel)
        return opened
    finally:
        await channel.close()


async def service_probe(make: Any, services: Sequence[str]) -> dict[str, int | str]:
    """Per service the StatusCode of one request with an empty array, or why there is none. One session."""
    found: dict[str, int | str] = {}

    async def work(channel: Channel) -> None:
        for service in services:
            try:
                found[service] = await channel.empty(service)
            except AuditError as error:
                found[service] = str(error)
                return

    try:
        await _session(make, work)
    except AuditError as error:
        for service in services:
            found.setdefault(service, str(error))
    for service in services:
        found.setdefault(service, "not asked: the connection was gone")
    return found
