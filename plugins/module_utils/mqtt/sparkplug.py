# SPDX-License-Identifier: Apache-2.0
"""Sparkplug B payloads and topics: as much as a line says and a mirror reads. Pure: bytes in, values out, and back.

Field numbers and datatypes: sparkplug_b.proto of Eclipse Tahu, as in the Sparkplug specification 3.0, chapter 6; wire format: the
Protocol Buffers encoding guide. What a message says twice counts as there: the last one, a field of unknown number or of another wire
type is passed over. DataSets, Templates, Bytes and Files are passed over too: a metric of that kind has no value here.

The file travels alone (roles ``ot_collector`` and ``ot_simulator`` put it beside their programs): standard library only, Python 3.9.
"""
from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Union

NAMESPACE = "spBv1.0"
NODE_KINDS = ("NBIRTH", "NDEATH", "NDATA")
DEVICE_KINDS = ("DBIRTH", "DDEATH", "DDATA")
BDSEQ = "bdSeq"
COMPRESSED = b"SPBV1.0_COMPRESSED"
"""What Tahu names a payload whose metrics all stand in its body, compressed."""
QUALITY = "Quality"
GOOD, STALE, BAD = 192, 500, 0
"""Values of the property Quality [6.4.13]."""

INT8, INT16, INT32, INT64, UINT8, UINT16, UINT32, UINT64, FLOAT, DOUBLE, BOOLEAN, STRING, DATETIME, TEXT, UUID = range(1, 16)
_WIDTHS = {INT8: 8, INT16: 16, INT32: 32, INT64: 64, UINT8: 8, UINT16: 16, UINT32: 32, UINT64: 64, DATETIME: 64}
_SIGNED = frozenset({INT8, INT16, INT32, INT64})
_TEXTS = frozenset({STRING, TEXT, UUID})
_LONG = frozenset({INT64, UINT64, DATETIME, UINT32})
"""Tahu's own libraries send a UInt32 as long_value; both are read."""

MAX_PAYLOAD = 1 << 20
MAX_METRICS = 10_000
MAX_PROPERTIES = 1_000
MAX_NAME = 1_024
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_INT, _LONGVALUE, _FLOAT, _DOUBLE, _BOOLEAN, _TEXT = 10, 11, 12, 13, 14, 15
_OTHER = (16, 17, 18, 19)

Wire = Union[int, bytes]


class SparkplugError(ValueError):
    """The bytes are no Sparkplug B payload, or the topic is none of Sparkplug's; the text says where."""


@dataclass(frozen=True)
class Metric:
    """One metric. *value* is None where it is null or of a kind that is passed over; whole numbers are as on the wire (`typed`)."""

    name: str | None = None
    alias: int | None = None
    timestamp: int | None = None
    datatype: int | None = None
    historical: bool = False
    transient: bool = False
    null: bool = False
    quality: int | None = None
    value: Any = None
    wire: int = 0


@dataclass(frozen=True)
class Payload:
    """One message. *timestamp*: ms since 1970-01-01Z; *seq*: 0..255, absent in a death of a node."""

    timestamp: int | None = None
    seq: int | None = None
    metrics: Sequence[Metric] = field(default_factory=tuple)


@dataclass(frozen=True)
class Topic:
    """``spBv1.0/<group>/<kind>/<node>[/<device>]``; *device* is empty for the node itself."""

    group: str
    kind: str
    node: str
    device: str = ""

    def text(self) -> str:
        """As it is subscribed and published."""
        return "/".join([NAMESPACE, self.group, self.kind, self.node] + ([self.device] if self.device else []))


def topic_of(text: str) -> Topic:
    """The parts of a topic of a birth, a death or data. Raises SparkplugError for every other one."""
    parts = text.split("/")
    kind = parts[2] if len(parts) > 2 else ""
    wanted = 4 if kind in NODE_KINDS else 5 if kind in DEVICE_KINDS else 0
    if parts[0] != NAMESPACE or len(parts) != wanted or not all(parts):
        raise SparkplugError("topic %r is no birth, death or data of Sparkplug B" % text[:200])
    return Topic(parts[1], kind, parts[3], parts[4] if wanted == 5 else "")


def filters(group: str, node: str) -> list[str]:
    """What must be subscribed to hear one node and its devices, and nothing else: no command is among them."""
    return [Topic(group, kind, node).text() for kind in NODE_KINDS] + [Topic(group, kind, node, "+").text() for kind in DEVICE_KINDS]


# -- reading ------------------------------------------------------------------------------------------------------------
def _varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= end:
            raise SparkplugError("a number is cut off at byte %d" % at)
        digit = data[at]
        at += 1
        value |= (digit & 0x7F) << shift
        if digit < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, at
        shift += 7
        if shift > 63:
            raise SparkplugError("a number of more than ten bytes at byte %d" % at)


def fields(data: bytes) -> Iterator[tuple[int, int, Wire]]:
    """(field number, wire type, content) of a message; content: an int, or bytes. Raises SparkplugError."""
    at, end = 0, len(data)
    while at < end:
        start = at
        key, at = _varint(data, at, end)
        number, wire = key >> 3, key & 7
        if not 0 < number < 1 << 29:
            raise SparkplugError("field number %d at byte %d" % (number, start))
        if wire == _VARINT:
            content: Wire
            content, at = _varint(data, at, end)
        elif wire in (_FIXED64, _FIXED32, _BYTES):
            size = 8 if wire == _FIXED64 else 4
            if wire == _BYTES:
                size, at = _varint(data, at, end)
            if size > end - at:
                raise SparkplugError("field %d at byte %d says %d bytes, %d are left" % (number, start, size, end - at))
            content = data[at:at + size]
            at += size
        else:
            raise SparkplugError("wire type %d of field %d at byte %d is not used" % (wire, number, start))
        yield number, wire, content


def _text(content: Wire, limit: int, what: str) -> str:
    """Bytes that are no UTF-8 become lone surrogates, which whoever uses the text sees: one of them must not cost the message its other metrics."""
    if isinstance(content, int) or len(content) > limit:
        raise SparkplugError("%s of more than %d bytes" % (what, limit))
    return content.decode("utf-8", "surrogateescape")


def _signed(value: int, bits: int) -> int:
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


def _quality(data: bytes, known: tuple[list[str], list[int | None]]) -> None:
    """Add the keys and whole-number values of a PropertySet to *known*."""
    keys, values = known
    for number, wire, content in fields(data):
        if number == 1 and wire == _BYTES:
            keys.append(_text(content, MAX_NAME, "key of a property"))
        elif number == 2 and isinstance(content, bytes) and wire == _BYTES:
            value: int | None = None
            for inner, inner_wire, given in fields(content):
                if inner in (3, 4) and inner_wire == _VARINT and isinstance(given, int):
                    value = _signed(given, 32 if inner == 3 else 64)
            values.append(value)
        if max(len(keys), len(values)) > MAX_PROPERTIES:
            raise SparkplugError("more than %d properties" % MAX_PROPERTIES)


def _metric(data: bytes) -> Metric:
    given: dict[str, Any] = {}
    properties: tuple[list[str], list[int | None]] = ([], [])
    numbers = {2: "alias", 3: "timestamp", 4: "datatype"}
    flags = {5: "historical", 6: "transient", 7: "null"}
    for number, wire, content in fields(data):
        if number == 1 and wire == _BYTES:
            given["name"] = _text(content, MAX_NAME, "name of a metric")
        elif number in numbers and wire == _VARINT and isinstance(content, int):
            given[numbers[number]] = content & 0xFFFFFFFF if number == 4 else content
        elif number in flags and wire == _VARINT:
            given[flags[number]] = content != 0
        elif number == 9 and wire == _BYTES and isinstance(content, bytes):
            _quality(content, properties)
        elif number in (_INT, _LONGVALUE, _BOOLEAN) and wire == _VARINT and isinstance(content, int):
            value: Any = content & 0xFFFFFFFF if number == _INT else content != 0 if number == _BOOLEAN else content
            given.update(value=value, wire=number)
        elif number == _FLOAT and wire == _FIXED32 and isinstance(content, bytes):
            given.update(value=struct.unpack("<f", content)[0], wire=number)
        elif number == _DOUBLE and wire == _FIXED64 and isinstance(content, bytes):
            given.update(value=struct.unpack("<d", content)[0], wire=number)
        elif number == _TEXT and wire == _BYTES:
            given.update(value=_text(content, MAX_PAYLOAD, "a text"), wire=number)
        elif number in _OTHER and wire == _BYTES:
            given.update(value=None, wire=number)
    keys, values = properties
    if len(keys) != len(values):
        raise SparkplugError("%d keys for %d properties" % (len(keys), len(values)))
    if QUALITY in keys:
        given["quality"] = values[len(keys) - 1 - keys[::-1].index(QUALITY)]
    if given.get("null"):
        given["value"] = None
    return Metric(**given)


def decode(data: bytes) -> Payload:
    """A message. Raises SparkplugError for what is none, or is larger than the limits above."""
    if len(data) > MAX_PAYLOAD:
        raise SparkplugError("a payload of %d bytes, at most %d" % (len(data), MAX_PAYLOAD))
    timestamp: int | None = None
    seq: int | None = None
    metrics: list[Metric] = []
    for number, wire, content in fields(data):
        if number == 1 and wire == _VARINT and isinstance(content, int):
            timestamp = content
        elif number == 2 and wire == _BYTES and isinstance(content, bytes):
            if len(metrics) >= MAX_METRICS:
                raise SparkplugError("more than %d metrics" % MAX_METRICS)
            metrics.append(_metric(content))
        elif number == 3 and wire == _VARINT and isinstance(content, int):
            seq = content
        elif number == 4 and content == COMPRESSED:
            raise SparkplugError("a compressed payload: its metrics are not read")
    if seq is not None and seq > 255:
        raise SparkplugError("seq is %d, at most 255" % seq)
    return Payload(timestamp, seq, tuple(metrics))


def typed(metric: Metric, datatype: int) -> Any:
    """The value as *datatype* (that of the birth) means it; None for null. Raises SparkplugError where the two do not go together."""
    if metric.null:
        return None
    if datatype in _WIDTHS:
        if metric.wire == _INT or (metric.wire == _LONGVALUE and datatype in _LONG):
            bits = _WIDTHS[datatype]
            if metric.wire == _INT and bits == 64:
                return metric.value
            return _signed(metric.value, bits) if datatype in _SIGNED else metric.value & ((1 << bits) - 1)
    elif (datatype, metric.wire) in ((FLOAT, _FLOAT), (DOUBLE, _DOUBLE), (BOOLEAN, _BOOLEAN)) or (datatype in _TEXTS and metric.wire == _TEXT):
        return metric.value
    raise SparkplugError("datatype %d does not go with value field %d" % (datatype, metric.wire))


# -- writing: what a line says; a mirror has nobody to send it to ---------------------------------------------------------
def _number(value: int) -> bytes:
    out = bytearray()
    while True:
        value, digit = value >> 7, value & 0x7F
        out.append(digit | (0x80 if value else 0))
        if not value:
            return bytes(out)


def _field(number: int, wire: int, content: Wire) -> bytes:
    key = _number(number << 3 | wire)
    if isinstance(content, int):
        return key + _number(content)
    return key + (_number(len(content)) if wire == _BYTES else b"") + content


def metric(name: str | None, datatype: int, value: Any, **more: Any) -> Metric:
    """A metric whose *value* (None: null) is put into the field that *datatype* asks for. Raises SparkplugError."""
    if value is None:
        return Metric(name=name, datatype=datatype, null=True, **more)
    if datatype in _WIDTHS:
        bits = _WIDTHS[datatype]
        low = -(1 << (bits - 1)) if datatype in _SIGNED else 0
        if not low <= value < low + (1 << bits):
            raise SparkplugError("%d does not fit datatype %d" % (value, datatype))
        wire = _LONGVALUE if bits == 64 else _INT
        return Metric(name=name, datatype=datatype, value=value & ((1 << (64 if bits == 64 else 32)) - 1), wire=wire, **more)
    wires = {FLOAT: _FLOAT, DOUBLE: _DOUBLE, BOOLEAN: _BOOLEAN, STRING: _TEXT, TEXT: _TEXT, UUID: _TEXT}
    if datatype not in wires:
        raise SparkplugError("datatype %d is not written" % datatype)
    return Metric(name=name, datatype=datatype, value=value, wire=wires[datatype], **more)


def _encode_metric(one: Metric, datatype: bool) -> bytes:
    out = b""
    if one.name is not None:
        out += _field(1, _BYTES, one.name.encode("utf-8"))
    for number, value in ((2, one.alias), (3, one.timestamp), (4, one.datatype if datatype else None)):
        if value is not None:
            out += _field(number, _VARINT, value)
    for number, flag in ((5, one.historical), (6, one.transient), (7, one.null)):
        if flag:
            out += _field(number, _VARINT, 1)
    if one.quality is not None:
        value_of = _field(1, _VARINT, INT32) + _field(3, _VARINT, one.quality & 0xFFFFFFFF)
        out += _field(9, _BYTES, _field(1, _BYTES, QUALITY.encode("ascii")) + _field(2, _BYTES, value_of))
    if one.value is not None:
        if one.wire == _FLOAT:
            out += _field(_FLOAT, _FIXED32, struct.pack("<f", one.value))
        elif one.wire == _DOUBLE:
            out += _field(_DOUBLE, _FIXED64, struct.pack("<d", one.value))
        elif one.wire == _TEXT:
            out += _field(_TEXT, _BYTES, one.value.encode("utf-8"))
        else:
            out += _field(one.wire, _VARINT, int(one.value))
    return out


def encode(payload: Payload, datatypes: bool = True) -> bytes:
    """The bytes of a message; without *datatypes* as data are sent, whose birth has told them."""
    out = b""
    if payload.timestamp is not None:
        out += _field(1, _VARINT, payload.timestamp)
    for one in payload.metrics:
        out += _field(2, _BYTES, _encode_metric(one, datatypes))
    if payload.seq is not None:
        out += _field(3, _VARINT, payload.seq)
    return out
