# SPDX-License-Identifier: Apache-2.0
"""Read, Browse and BrowseNext as bytes (OPC 10000-6, 5.2): a NodeId is never decoded, its bytes are the key of a node.

There is no encoder for any other service here. A NodeId is brought into its shortest form, so that a server may use any. What
the decoder does not expect raises Surprise: the caller then decodes the same bytes by the library. Every length is checked against
what is there before anything is made of it.
"""
from __future__ import annotations

import base64
import struct
from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import datetime, timedelta
from itertools import groupby
from typing import Any

from .audit_types import BAD, Alike, Browsed, Group, Reading

READ_ID, BROWSE_ID, BROWSE_NEXT_ID = 631, 527, 533
"""Numeric ids of the requests' binary encodings."""
RESULTS = 1 | 4 | 8
"""ResultMask: ReferenceType, NodeClass, BrowseName. What type a node has, its own references say."""
ROLE_PERMISSION_ID = b"\x00\x80"
#: Structures whose every part takes bytes of its own, so that an object decoder cannot be led on: what discovery asks for.
#: EnumDefinition, Range, EUInformation, EnumValueType (OPC 10000-6, ids of their binary encodings).
PLAIN_STRUCTURES = frozenset({b"\x00\x7b", b"\x01\x00\x76\x03", b"\x01\x00\x79\x03", b"\x01\x00\x3b\x20"})
"""RolePermissionType, binary encoding (i=128), shortest form."""
_TAIL = {attribute: struct.pack("<I", attribute) + b"\xff\xff\xff\xff\x00\x00\xff\xff\xff\xff" for attribute in range(1, 28)}
_BETWEEN: dict[tuple[int, ...], list[bytes]] = {}
FEW = 16
"""References that are looked at one by one: of so few, to look at all at once costs more."""
_HEADS = (1, 2, 3, 3, 3, 3)
"""Length of what stands before the identifier, by the encoding of a NodeId: the encoding itself and the namespace."""
_SCALARS = {1: "<?", 2: "<b", 3: "<B", 4: "<h", 5: "<H", 6: "<i", 7: "<I", 8: "<q", 9: "<Q", 10: "<f", 11: "<d"}
_U16, _U32, _I32, _NAME = struct.Struct("<H"), struct.Struct("<I"), struct.Struct("<i"), struct.Struct("<Hi")


class Surprise(Exception):
    """Bytes that this decoder does not expect."""


class Broken(Surprise):
    """Bytes that no decoder can read, or that a careless one would not survive: nobody else is asked."""


# -- NodeIds ------------------------------------------------------------------------------------------
def numeric(index: int, identifier: int) -> bytes:
    """The shortest form of a numeric NodeId."""
    if index == 0 and identifier <= 0xFF:
        return bytes((0, identifier))
    if index <= 0xFF and identifier <= 0xFFFF:
        return struct.pack("<BBH", 1, index, identifier)
    return struct.pack("<BHI", 2, index, identifier)


def renamed(node: bytes, index: int) -> bytes:
    """The same identifier in another namespace."""
    if node[0] > 2:
        return node[:1] + _U16.pack(index) + node[3:]
    return numeric(index, node[1] if node[0] == 0 else _U16.unpack_from(node, 2)[0] if node[0] == 1 else _U32.unpack_from(node, 3)[0])


def from_text(text: str) -> bytes:
    """Bytes of ``ns=2;s=x`` (OPC 10000-6, 5.1.12: a ByteString in base64). Raises ValueError."""
    index = 0
    if text.startswith("ns="):
        head, text = text[3:].split(";", 1)
        index = int(head)
    kind, identifier = text[:2], text[2:]
    if kind == "i=":
        return numeric(index, int(identifier))
    if kind == "s=":
        raw = identifier.encode("utf-8")
        return struct.pack("<BHi", 3, index, len(raw)) + raw
    if kind == "g=":
        import uuid

        return struct.pack("<BH", 4, index) + uuid.UUID(identifier).bytes_le
    if kind == "b=":
        raw = base64.b64decode(identifier, validate=True)
        return struct.pack("<BHi", 5, index, len(raw)) + raw
    raise ValueError("%r is no NodeId" % text)


def texts(nodes: Sequence[bytes], head: Callable[[int], str]) -> Iterator[tuple[int, list[bytes], list[str]]]:
    """See Channel: what has one encoding and one namespace, at once."""
    for (kind, *index), same in groupby(nodes, lambda node: node[:_HEADS[node[0]]]):
        run, number = list(same), int.from_bytes(bytes(index), "little")
        before = head(number)
        if kind < 3:
            form = ("<xB", "<xxH", "<xxxI")[kind]
            found = ["%si=%d" % (before, identifier) for (identifier,) in struct.iter_unpack(form, b"".join(run))]
        elif kind == 3:
            found = ["%ss=%s" % (before, node[7:].decode("utf-8", "replace")) for node in run]
        elif kind == 4:
            import uuid

            found = ["%sg=%s" % (before, uuid.UUID(bytes_le=node[3:])) for node in run]
        else:
            found = ["%sb=%s" % (before, base64.b64encode(node[7:]).decode("ascii")) for node in run]
        yield number, run, found


def to_text(node: bytes) -> str:
    """``ns=2;s=x`` of bytes."""
    return next(texts([node], "ns=%d;".__mod__))[2][0]


# -- requests -----------------------------------------------------------------------------------------
def read_request(wanted: Sequence[tuple[bytes, int]]) -> bytes:
    """Parameters of a Read: no age, no timestamps."""
    return struct.pack("<dii", 0.0, 3, len(wanted)) + b"".join(node + _TAIL[attribute] for node, attribute in wanted)


def groups_request(groups: Sequence[Group]) -> bytes:
    """Parameters of a Read of several attributes of each node: the node's bytes between tails that are made already."""
    parts = [struct.pack("<dii", 0.0, 3, sum(len(nodes) * len(attributes) for nodes, attributes in groups))]
    for nodes, attributes in groups:
        tails = _BETWEEN.get(attributes)
        if tails is None:
            tails = _BETWEEN[attributes] = [b"", *(_TAIL[attribute] for attribute in attributes)]
        parts += [node.join(tails) for node in nodes]
    return b"".join(parts)


def browse_request(nodes: Sequence[bytes], most: int) -> bytes:
    """Parameters of a Browse: forward, all references; type of the reference, class and name of the target."""
    tail = struct.pack("<i", 0) + b"\x00\x00" + b"\x01" + struct.pack("<II", 0, RESULTS)
    return b"\x00\x00" + struct.pack("<qIIi", 0, 0, most, len(nodes)) + b"".join([node + tail for node in nodes])


def browse_next_request(points: Sequence[bytes], release: bool) -> bytes:
    """Parameters of a BrowseNext."""
    return struct.pack("<?i", release, len(points)) + b"".join(struct.pack("<i", len(point)) + point for point in points)


# -- responses ----------------------------------------------------------------------------------------
EPOCH = datetime(1601, 1, 1)
_NEVER = frozenset({23, 24, 25})
"""DataValue, Variant and DiagnosticInfo as a value: no attribute of the audit has one, and they may be put into each other without end."""
_FIXED = {13: 8, 14: 16, 19: 4}


def moment(ticks: int) -> str:
    """A DateTime (100 ns since 1601) as text."""
    try:
        return (EPOCH + timedelta(microseconds=max(0, ticks) // 10)).isoformat(" ")
    except OverflowError:
        return datetime.max.replace(microsecond=0).isoformat(" ")


def header(data: bytes) -> tuple[int, int]:
    """(ServiceResult, where the parameters begin) of a response; what else a ResponseHeader holds is stepped over. Raises Broken."""
    decoder = Decoder(data)
    decoder._node()
    decoder._take(12)
    status = decoder._u32()
    decoder._diagnostics(8)
    for _ in range(decoder._count(4)):
        decoder._bytes()
    decoder._node()
    if decoder._u8():
        decoder._bytes()
    return status, decoder._at


class Known:
    """What many nodes have in common, decoded once: an encoding says where it ends, so equal bytes are equal answers.

    *texts*: NodeIds of types. *read*: attributes of a node, by which were asked for. *browsed*: nodes with few references. *table*: the NamespaceArray.
    """

    MOST, LONGEST = 32, 1024

    def __init__(self) -> None:
        self.table: Sequence[str] = ()
        self.texts: dict[bytes, str] = {}
        self.read: dict[tuple[int, ...], list[tuple[bytes, tuple[Reading, ...]]]] = {}
        self.browsed: list[tuple[bytes, Browsed]] = []

    def learn(self, into: list[Any], piece: bytes, what: Any) -> None:
        """Keep it, first; what was not of use for long falls out."""
        if len(piece) <= self.LONGEST:
            into.insert(0, (piece, what))
            del into[self.MOST:]


class Decoder:
    """Reads one response's parameters (what follows the ResponseHeader)."""

    def __init__(self, data: bytes, known: Known | None = None) -> None:
        self._data, self._at, self._known = data, 0, known or Known()
        self._texts = self._known.texts

    def _take(self, size: int) -> bytes:
        end = self._at + size
        if size < 0 or end > len(self._data):
            raise Broken("%d bytes are missing" % (end - len(self._data)))
        piece = self._data[self._at:end]
        self._at = end
        return piece

    def _u8(self) -> int:
        if self._at >= len(self._data):
            raise Broken("the end")
        self._at += 1
        return self._data[self._at - 1]

    def _u16(self) -> int:
        return int(_U16.unpack(self._take(2))[0])

    def _u32(self) -> int:
        return int(_U32.unpack(self._take(4))[0])

    def _count(self, smallest: int) -> int:
        """Length of an array whose items take at least *smallest* bytes; -1 (null) is 0."""
        count = int(_I32.unpack(self._take(4))[0])
        if count * smallest > len(self._data) - self._at:
            raise Broken("%d items cannot be in %d bytes" % (count, len(self._data) - self._at))
        return max(0, count)

    def _bytes(self) -> bytes:
        size = int(_I32.unpack(self._take(4))[0])
        return b"" if size < 0 else self._take(size)

    def _string(self) -> str | None:
        size = int(_I32.unpack(self._take(4))[0])
        return None if size < 0 else self._take(size).decode("utf-8", "replace")

    def _node(self, encoding: int | None = None) -> bytes:
        """A NodeId in its shortest form."""
        kind = self._u8() if encoding is None else encoding
        if kind == 0:
            return bytes((0, self._u8()))
        if kind == 1:
            index, identifier = self._u8(), self._u16()
            return numeric(index, identifier)
        if kind == 2:
            index, wide = self._u16(), self._u32()
            return numeric(index, wide)
        if kind in (3, 5):
            index = self._u16()
            raw = self._bytes()
            return struct.pack("<BHi", kind, index, len(raw)) + raw
        if kind == 4:
            return b"\x04" + self._take(18)
        raise Broken("NodeId of kind 0x%02X" % kind)

    def _expanded(self) -> tuple[bytes, bool]:
        """(NodeId, on another server). One that is named by URI gets its index (OPC 10000-6, 5.2.2.10)."""
        kind = self._u8()
        node = self._node(kind & 0x3F)
        uri = (self._string() if kind & 0x80 else "") or ""
        remote = bool(self._u32()) if kind & 0x40 else False
        if uri and not remote:
            if uri not in self._known.table:
                raise Broken("a node in the namespace %.100s, which the NamespaceArray does not have" % uri)
            node = renamed(node, self._known.table.index(uri))
        return node, remote

    def _text_of(self, node: bytes) -> str:
        text = self._texts.get(node)
        if text is None:
            text = self._texts[node] = to_text(node)
        return text

    def _diagnostics(self, depth: int) -> None:
        """Steps over a DiagnosticInfo."""
        mask = self._u8()
        self._take(4 * sum(mask >> bit & 1 for bit in range(4)))
        if mask & 0x10:
            self._bytes()
        if mask & 0x20:
            self._take(4)
        if mask & 0x40:
            if not depth:
                raise Broken("DiagnosticInfo without an end")
            self._diagnostics(depth - 1)

    # -- Read -----------------------------------------------------------------------------------------
    def read(self) -> list[Reading]:
        """Results of a Read."""
        return [self._data_value() for _ in range(self._count(1))]

    def groups(self, groups: Sequence[Group]) -> list[tuple[Reading, ...]]:
        """Results of a Read, node by node. Raises Surprise when there are more or fewer than were asked for."""
        if self._count(1) != sum(len(nodes) * len(attributes) for nodes, attributes in groups):
            raise Broken("another number of results")
        data, known = self._data, self._known
        found: list[tuple[Reading, ...]] = []
        for nodes, attributes in groups:
            patterns, left = known.read.setdefault(attributes, []), len(nodes)
            while left:
                begin = self._at
                readings = self._group(patterns, attributes)
                # Mostly the next nodes have the same values.
                more = self._repeated(data[begin:self._at], left - 1)
                found += [readings] * (1 + more)
                left -= 1 + more
        return found

    def _repeated(self, pattern: bytes, most: int) -> int:
        """How often *pattern* follows, *most* times at most; steps over it."""
        data, at, count, step = self._data, self._at, 0, 1
        while step := min(step, most - count):
            if data.startswith(pattern * step, at):
                at += len(pattern) * step
                count += step
                step *= 2
            else:
                step //= 2
        self._at = at
        return count

    def _group(self, patterns: list[tuple[bytes, tuple[Reading, ...]]], attributes: tuple[int, ...]) -> tuple[Reading, ...]:
        data, begin = self._data, self._at
        for number, (pattern, readings) in enumerate(patterns):
            if data.startswith(pattern, begin):
                self._at += len(pattern)
                if number:
                    patterns.insert(0, patterns.pop(number))
                return readings
        readings = tuple([self._data_value() for _ in attributes])
        self._known.learn(patterns, data[begin:self._at], readings)
        return readings

    def _data_value(self) -> Reading:
        mask = self._u8()
        if mask & 0xC0:
            raise Surprise("DataValue 0x%02X" % mask)
        value = self._variant() if mask & 1 else None
        status = self._u32() if mask & 2 else 0
        self._take((8 if mask & 4 else 0) + (2 if mask & 0x10 else 0) + (8 if mask & 8 else 0) + (2 if mask & 0x20 else 0))
        return Reading(status, value)

    def _variant(self) -> Any:
        encoding = self._u8()
        kind = encoding & 0x3F
        if kind in _NEVER or (kind == 0 and encoding):
            raise Broken("Variant 0x%02X" % encoding)
        if encoding & 0x40:
            raise Surprise("a matrix")
        if encoding & 0x80:
            return [self._scalar(kind) for _ in range(self._count(1))]
        return None if kind == 0 else self._scalar(kind)

    def _scalar(self, kind: int) -> Any:
        form = _SCALARS.get(kind)
        if form is not None:
            return struct.unpack(form, self._take(struct.calcsize(form)))[0]
        if kind == 12:
            return self._string()
        if kind == 13:
            return moment(struct.unpack("<q", self._take(8))[0])
        if kind == 22:
            return self._role()
        raise Surprise("Variant of kind %d" % kind)

    def survivable(self) -> bool:
        """Whether a decoder that makes objects of everything may have these results of a Read: each takes bytes of its own, and none of them is a
        structure that only this decoder would refuse; and no more diagnostics than results. Raises Broken."""
        count = self._count(1)
        for _ in range(count):
            mask = self._u8()
            if mask & 1:
                self._skip_variant()
            self._take((4 if mask & 2 else 0) + (8 if mask & 4 else 0) + (2 if mask & 0x10 else 0) + (8 if mask & 8 else 0) + (2 if mask & 0x20 else 0))
        if self._count(1) > count:
            raise Broken("diagnostics of more results than there are")
        return True

    def _skip_variant(self) -> None:
        encoding = self._u8()
        kind = encoding & 0x3F
        if kind in _NEVER or kind > 25 or (kind == 0 and encoding):
            raise Broken("Variant 0x%02X" % encoding)
        for _ in range(self._count(1) if encoding & 0x80 else 1):
            self._skip(kind)
        if encoding & 0x40:
            self._take(4 * self._count(4))

    def _skip(self, kind: int) -> None:
        form = _SCALARS.get(kind)
        if form is not None or kind in _FIXED:
            self._take(struct.calcsize(form) if form is not None else _FIXED[kind])
        elif kind in (12, 15, 16):
            self._bytes()
        elif kind == 17:
            self._node()
        elif kind == 18:
            self._expanded()
        elif kind == 20:
            self._u16()
            self._bytes()
        elif kind == 21:
            mask = self._u8()
            for bit in (1, 2):
                if mask & bit:
                    self._bytes()
        elif kind == 22:
            self._structure()

    def _structure(self) -> None:
        begin = self._at
        if self._node() in PLAIN_STRUCTURES and self._u8() == 1:
            self._bytes()
            return
        self._at = begin
        self._role()

    def _role(self) -> tuple[str, int]:
        """An ExtensionObject that is a RolePermissionType."""
        kind, encoding = self._node(), self._u8()
        if kind != ROLE_PERMISSION_ID or encoding != 1:
            raise Surprise("ExtensionObject %s" % to_text(kind))
        end = self._at + 4 + int(_I32.unpack_from(self._data[self._at:self._at + 4].ljust(4, b"\0"))[0])
        self._take(4)
        role, granted = self._node(), self._u32()
        if self._at != end:
            raise Surprise("RolePermissionType of another length")
        return self._text_of(role), granted

    # -- Browse ---------------------------------------------------------------------------------------
    def browse(self) -> list[Browsed]:
        """Results of a Browse or BrowseNext."""
        left, found = self._count(12), []
        while left:
            begin = self._at
            browsed = self._browsed()
            # Mostly leaves are alike.
            more = self._repeated(self._data[begin:self._at], left - 1)
            found += [browsed] * (1 + more)
            left -= 1 + more
        return found

    def _browsed(self) -> Browsed:
        data, known = self._data, self._known
        for number, (pattern, browsed) in enumerate(known.browsed):
            if data.startswith(pattern, self._at):
                self._at += len(pattern)
                if number:
                    known.browsed.insert(0, known.browsed.pop(number))
                return browsed
        begin = self._at
        status, point = self._u32(), self._bytes()
        count = self._count(18)
        references = self._references(count)
        if status & BAD:
            return Browsed(status)
        found = Browsed(status, references, point)
        if count <= 2 and not point:
            known.learn(known.browsed, data[begin:self._at], found)
        return found

    def _alike(self, at: int, piece: bytes, most: int, loose: Collection[int]) -> int:
        """How many pieces follow at *at* that are as long as *piece* and differ from it in the places *loose* alone; *most* at most."""
        length = len(piece)
        block = self._data[at:at + most * length]
        for place in range(length):
            if place not in loose:
                column = block[place::length]
                most = min(most, len(column) - len(column.lstrip(piece[place:place + 1])))
        return most

    def _references(self, count: int) -> list[Alike]:
        """*count* ReferenceDescriptions; most of an audit's time would pass here, so the common forms stand in one loop."""
        data, texts, at, found, left = self._data, self._texts, self._at, [], count
        last: tuple[Any, ...] = ()
        nodes: list[bytes] = []
        names: list[str] = []
        try:
            while left:
                begin = at
                form = data[at]
                if form == 0:
                    kind, at = data[at:at + 2], at + 3
                else:
                    self._at = at
                    kind = self._node()
                    at = self._at + 1
                target, form, remote = at, data[at], False
                if form == 2:
                    node, at = data[at:at + 7], at + 7
                    if node[5:] == b"\0\0":
                        node = numeric(_U16.unpack_from(node, 1)[0], _U32.unpack_from(node, 3)[0])
                elif form == 1 and (data[at + 1] or data[at + 3]):
                    node, at = data[at:at + 4], at + 4
                elif form == 3 and _I32.unpack_from(data, at + 3)[0] >= 0:
                    end = at + 7 + _I32.unpack_from(data, at + 3)[0]
                    node, at = data[at:end], end
                else:
                    self._at = at
                    node, remote = self._expanded()
                    at = self._at
                namespace, size = _NAME.unpack_from(data, at)
                at += 6
                name = ""
                if size > 0:
                    name = data[at:at + size].decode("utf-8", "replace")
                    at += size
                behind = at
                if data[at]:
                    self._at = at + 1
                    for bit in (1, 2):
                        if data[at] & bit:
                            self._bytes()
                    at = self._at
                else:
                    at += 1
                node_class = _U32.unpack_from(data, at)[0]
                at += 4
                if data[at] == 0:
                    definition, at = data[at:at + 2], at + 2
                else:
                    self._at = at
                    definition, _ = self._expanded()
                    at = self._at
                this = node_class, namespace, definition, kind, remote
                if this != last:
                    last, nodes, names = this, [], []
                    found.append(Alike(nodes, names, node_class, namespace, texts.get(definition) or self._text_of(definition),
                                       texts.get(kind) or self._text_of(kind), remote))
                nodes.append(node)
                names.append(name)
                left -= 1
                if not left or form not in (1, 2, 3) or (form == 1 and not data[target + 1]):
                    continue
                # What follows is mostly the same in all bytes but the identifier and the name.
                before, after, length = data[begin:target + min(form + 1, 3)], data[behind:at], at - begin
                to_node, wide = target - begin, target - begin + (4 if form == 1 else 7)
                while left and data.startswith(before, at):
                    end = at + wide
                    if form == 3:
                        size = _I32.unpack_from(data, end - 4)[0]
                        if size < 0:
                            break
                        end += size
                    elif form == 2 and data[end - 1] == data[end - 2] == 0:
                        break
                    other, size = _NAME.unpack_from(data, end)
                    begin_of_name = end + 6
                    behind = begin_of_name + size
                    if other != namespace or size < 0 or not data.startswith(after, behind):
                        break
                    nodes.append(data[at + to_node:end])
                    names.append(data[begin_of_name:behind].decode("utf-8", "replace"))
                    begin, at = at, behind + len(after)
                    left -= 1
                    if at - begin != length or left < FEW:
                        length = at - begin
                        continue
                    # And mostly of one length, and of long numbers the upper half.
                    to_end, to_name, name_ends = end - begin, begin_of_name - begin, behind - begin
                    number = range(wide, to_end) if form == 3 else range(wide - 2 * form, wide - 2 * form + 2)
                    more = self._alike(at, data[begin:at], left, {*number, *range(to_name, name_ends)})
                    starts = range(at, at + more * length, length)
                    nodes += [data[one + to_node:one + to_end] for one in starts]
                    names += [data[one + to_name:one + name_ends].decode("utf-8", "replace") for one in starts]
                    at += more * length
                    left -= more
        except (IndexError, struct.error) as error:
            raise Broken("the end") from error
        if at > len(data):
            raise Broken("%d bytes are missing" % (at - len(data)))
        self._at = at
        return found
