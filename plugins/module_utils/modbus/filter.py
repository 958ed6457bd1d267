# SPDX-License-Identifier: Apache-2.0
"""The read-only Modbus/TCP filter: what a frame is, what may pass, and what is sent in its place. Pure: no socket, no clock.

It ends the conversation on both sides. A request is taken apart into numbers, the numbers are held against the allow list, and a
frame of our own is made from them; a reply is taken apart into values in the same way. No byte of a client ever reaches a device.
Sources: MODBUS Application Protocol V1.1b3 (functions, exceptions), MODBUS Messaging on TCP/IP V1.0b (MBAP header).

The file travels alone (role ``modbus_filter`` puts it beside its program): standard library only, Python 3.9.
"""
from __future__ import annotations

import hashlib
import ipaddress
import json
import re
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

HEADER = struct.Struct(">HHH")
LONGEST = 254
"""Most that a length field may say: unit and 253 bytes of PDU."""
READ_COILS, READ_DISCRETE, READ_HOLDING, READ_INPUT, DEVICE_IDENTIFICATION = 1, 2, 3, 4, 43
BITS = frozenset({READ_COILS, READ_DISCRETE})
MOST = {READ_COILS: 2000, READ_DISCRETE: 2000, READ_HOLDING: 125, READ_INPUT: 125}
"""Most values of one request, by reading function."""
MEI_READ_DEVICE_ID = 14
ILLEGAL_FUNCTION, ILLEGAL_ADDRESS, ILLEGAL_VALUE, BUSY, NO_PATH, NO_RESPONSE = 0x01, 0x02, 0x03, 0x06, 0x0A, 0x0B
ADDRESSES = 65536
NAME = re.compile(r"^[a-z0-9][a-z0-9_.-]*$")


class ConfigError(Exception):
    """The configuration cannot be used; the text names file, key and remedy."""


class Malformed(Exception):
    """What came is no Modbus/TCP frame; whoever sent it is hung up on. *reason* is a short name for the counters."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


@dataclass(frozen=True)
class Frame:
    """One ADU: transaction id, unit id, PDU (1 to 253 bytes)."""

    tid: int
    unit: int
    pdu: bytes


class Framer:
    """Cuts a stream into frames; how the stream was segmented makes no difference."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> None:
        """More of the stream."""
        self._buffer += data

    @property
    def pending(self) -> int:
        """Bytes that are not yet part of a returned frame."""
        return len(self._buffer)

    def next(self) -> Frame | None:
        """The next frame, None when more is needed. Raises Malformed, and again at each further call."""
        buffer = self._buffer
        if len(buffer) >= 4 and (buffer[2] or buffer[3]):
            raise Malformed("protocol", "protocol id %d, Modbus has 0" % int.from_bytes(buffer[2:4], "big"))
        if len(buffer) < 6:
            return None
        tid, _protocol, length = HEADER.unpack_from(buffer)
        if not 2 <= length <= LONGEST:
            raise Malformed("length", "length field %d, a frame has 2 to %d" % (length, LONGEST))
        if len(buffer) < 6 + length:
            return None
        frame = Frame(tid, buffer[6], bytes(buffer[7:6 + length]))
        del buffer[:6 + length]
        return frame


def encode(tid: int, unit: int, pdu: bytes) -> bytes:
    """The bytes of one ADU."""
    return HEADER.pack(tid, 0, len(pdu) + 1) + bytes((unit,)) + pdu


def exception(function: int, code: int) -> bytes:
    """PDU of an exception reply."""
    return bytes((function | 0x80, code))


# -- the allow list -----------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Span:
    """Addresses *first* to *last*, both included."""

    first: int
    last: int


def spans(wanted: Iterable[Span], excluded: Iterable[Span], gap: int) -> tuple[Span, ...]:
    """*wanted*, joined where at most *gap* addresses lie between two of them, without *excluded*; sorted."""
    joined: list[Span] = []
    for one in sorted(wanted, key=lambda span: (span.first, span.last)):
        if joined and one.first - joined[-1].last - 1 <= gap:
            joined[-1] = Span(joined[-1].first, max(joined[-1].last, one.last))
        else:
            joined.append(one)
    for hole in excluded:
        cut: list[Span] = []
        for one in joined:
            if hole.last < one.first or one.last < hole.first:
                cut.append(one)
                continue
            if one.first < hole.first:
                cut.append(Span(one.first, hole.first - 1))
            if hole.last < one.last:
                cut.append(Span(hole.last + 1, one.last))
        joined = cut
    return tuple(joined)


@dataclass(frozen=True)
class Allow:
    """What may be asked of a device. *reads*: by (unit, function 1 to 4) the addresses; *identification*: units whose 43/14 may be read."""

    reads: Mapping[tuple[int, int], tuple[Span, ...]]
    identification: frozenset[int] = frozenset()

    @property
    def units(self) -> frozenset[int]:
        """Every unit of which anything may be asked."""
        return frozenset(unit for unit, _function in self.reads) | self.identification

    def as_dict(self) -> dict[str, Any]:
        """For the status file and the audit; the same for the same rights."""
        return {
            "reads": [{"unit": unit, "function": function, "spans": [[span.first, span.last] for span in found]}
                      for (unit, function), found in sorted(self.reads.items())],
            "identification": sorted(self.identification),
        }


@dataclass(frozen=True)
class Ask:
    """A request that may pass, as numbers. For 43/14 *first* is the read code and *count* the object id."""

    unit: int
    function: int
    first: int
    count: int

    def pdu(self) -> bytes:
        """Our own PDU for it."""
        if self.function == DEVICE_IDENTIFICATION:
            return bytes((DEVICE_IDENTIFICATION, MEI_READ_DEVICE_ID, self.first, self.count))
        return struct.pack(">BHH", self.function, self.first, self.count)


@dataclass(frozen=True)
class Refusal:
    """A request that may not pass: the exception for the client, and a short name for the counters."""

    function: int
    code: int
    reason: str

    def pdu(self) -> bytes:
        """The exception reply."""
        return exception(self.function, self.code)


def judge(frame: Frame, allow: Allow) -> Ask | Refusal:
    """What becomes of a request. The order of V1.1b3, figure 9: function, quantity, address."""
    function, body = frame.pdu[0], frame.pdu[1:]
    if frame.unit not in allow.units:
        return Refusal(function, NO_PATH, "unit")
    if function == DEVICE_IDENTIFICATION and body[:1] == bytes((MEI_READ_DEVICE_ID,)) and frame.unit in allow.identification:
        if len(body) != 3:
            return Refusal(function, ILLEGAL_VALUE, "size")
        if not 1 <= body[1] <= 4:
            return Refusal(function, ILLEGAL_VALUE, "quantity")
        return Ask(frame.unit, function, body[1], body[2])
    allowed = allow.reads.get((frame.unit, function))
    if function not in MOST or not allowed:
        return Refusal(function, ILLEGAL_FUNCTION, "function")
    if len(body) != 4:
        return Refusal(function, ILLEGAL_VALUE, "size")
    first, count = struct.unpack(">HH", body)
    if not 1 <= count <= MOST[function]:
        return Refusal(function, ILLEGAL_VALUE, "quantity")
    if not any(span.first <= first and first + count - 1 <= span.last for span in allowed):
        return Refusal(function, ILLEGAL_ADDRESS, "address")
    return Ask(frame.unit, function, first, count)


def reply(ask: Ask, frame: Frame, tid: int) -> bytes:
    """PDU for the client from the device's *frame*, made anew from the values in it. Raises Malformed for what is no answer to *ask*."""
    if frame.tid != tid or frame.unit != ask.unit:
        raise Malformed("answer", "answer of transaction %d, unit %d; asked was %d, %d" % (frame.tid, frame.unit, tid, ask.unit))
    function, body = frame.pdu[0], frame.pdu[1:]
    if function == ask.function | 0x80:
        if len(body) != 1 or not body[0]:
            raise Malformed("answer", "an exception of %d bytes" % len(body))
        return exception(ask.function, body[0])
    if function != ask.function:
        raise Malformed("answer", "answer of function %d; asked was %d" % (function, ask.function))
    if function == DEVICE_IDENTIFICATION:
        return _identification(ask, body)
    size = (ask.count + 7) // 8 if function in BITS else 2 * ask.count
    if len(body) != 1 + size or body[0] != size:
        raise Malformed("answer", "answer of %d bytes; %d values were asked" % (len(body), ask.count))
    if function in BITS:
        bits = [bool(body[1 + index // 8] >> (index % 8) & 1) for index in range(ask.count)]
        packed = bytearray(size)
        for index, bit in enumerate(bits):
            packed[index // 8] |= bit << (index % 8)
        return bytes((function, size)) + bytes(packed)
    registers = struct.unpack(">%dH" % ask.count, body[1:])
    return struct.pack(">BB%dH" % ask.count, function, size, *registers)


def _identification(ask: Ask, body: bytes) -> bytes:
    """V1.1b3, 6.21: MEI type, read code, conformity, more follows, next object, number of objects, objects {id, length, value}."""
    if len(body) < 6 or body[0] != MEI_READ_DEVICE_ID or body[1] != ask.first or body[3] not in (0x00, 0xFF):
        raise Malformed("answer", "no answer to Read Device Identification")
    objects, at = [], 6
    for _ in range(body[5]):
        if at + 2 > len(body) or at + 2 + body[at + 1] > len(body):
            raise Malformed("answer", "an object of the identification is cut")
        objects.append((body[at], body[at + 2:at + 2 + body[at + 1]]))
        at += 2 + body[at + 1]
    if at != len(body):
        raise Malformed("answer", "%d bytes behind the identification" % (len(body) - at))
    made = bytes((DEVICE_IDENTIFICATION, MEI_READ_DEVICE_ID, ask.first, body[2], body[3], body[4], len(objects)))
    return made + b"".join(bytes((name, len(value))) + value for name, value in objects)


# -- rates --------------------------------------------------------------------------------------------------
class Bucket:
    """*per_s* of something, at most *burst* at once. *clock* gives seconds that only grow."""

    def __init__(self, per_s: float, burst: float, clock: Callable[[], float]) -> None:
        self._per_s, self._burst, self._clock = per_s, burst, clock
        self._left, self._at = burst, clock()

    def take(self) -> bool:
        """True if one may be had now; it is then taken."""
        now = self._clock()
        self._left, self._at = min(self._burst, self._left + (now - self._at) * self._per_s), now
        if self._left < 1:
            return False
        self._left -= 1
        return True


class Quiet:
    """Which refusals are worth a line: per key one in *period_s* seconds; the next line says how many were not printed."""

    def __init__(self, period_s: float, clock: Callable[[], float], keys: int = 256) -> None:
        self._period_s, self._clock, self._keys = period_s, clock, keys
        self._last: dict[str, float] = {}
        self._missed: dict[str, int] = {}

    def say(self, key: str) -> int | None:
        """None: keep quiet; a number: print, and so many of this kind were not printed since the last line."""
        if key not in self._last and len(self._last) >= self._keys:
            key = "(others)"
        now = self._clock()
        if key in self._last and now - self._last[key] < self._period_s:
            self._missed[key] = self._missed.get(key, 0) + 1
            return None
        self._last[key] = now
        return self._missed.pop(key, 0)


# -- configuration ------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Device:
    """One device and the socket that stands for it. *canary*: it stands for the devices that share its rights, never for a process."""

    id: str
    listen: tuple[str, int]
    host: str
    port: int
    allow: Allow
    canary: bool = False
    clients: int = 2
    requests_per_second: float = 20.0
    new_per_minute: int = 6
    timeout_s: float = 1.0
    connect_timeout_s: float = 5.0


@dataclass(frozen=True)
class Config:
    """The whole program. *local*: addresses to dial from, by family (4, 6); a family without one takes the host's own.
    *digest*: sha256 of the file's text, so that a running filter can be compared with it."""

    status_file: str
    devices: tuple[Device, ...]
    idle_s: float = 120.0
    frame_s: float = 5.0
    log_period_s: float = 10.0
    local: Mapping[int, str] = field(default_factory=dict)
    digest: str = field(default="", compare=False)


class _Keys:
    """A mapping whose keys are taken one by one; what nobody took is unknown."""

    def __init__(self, file: str, path: str, raw: Any) -> None:
        self.file, self.path = file, path
        if not isinstance(raw, Mapping):
            raise ConfigError("%s: %s: must be an object" % (file, path))
        self._raw = dict(raw)

    def fail(self, key: str, text: str) -> ConfigError:
        return ConfigError("%s: %s.%s: %s" % (self.file, self.path, key, text))

    def take(self, key: str, kinds: type | tuple[type, ...], default: Any = None) -> Any:
        value = self._raw.pop(key, default)
        if value is None:
            raise self.fail(key, "is missing")
        if not isinstance(value, kinds) or (isinstance(value, bool) and kinds is not bool):
            raise self.fail(key, "must not be %r" % (value,))
        return value

    def number(self, key: str, low: float, high: float, default: float | None = None, whole: bool = False) -> Any:
        value = self.take(key, int if whole else (int, float), default)
        if not low <= value <= high:
            raise self.fail(key, "must be between %g and %g" % (low, high))
        return value

    def children(self, key: str, default: Any = None) -> list[_Keys]:
        return [_Keys(self.file, "%s.%s[%d]" % (self.path, key, number), raw) for number, raw in enumerate(self.take(key, list, default))]

    def done(self) -> None:
        for key in sorted(self._raw):
            raise self.fail(str(key), "is unknown; remove it")


def _span(raw: _Keys) -> Span:
    first = raw.number("first", 0, ADDRESSES - 1, whole=True)
    count = raw.number("count", 1, ADDRESSES - first, 1, whole=True)
    return Span(first, first + count - 1)


def _rights(raw: _Keys) -> Allow:
    reads: dict[tuple[int, int], tuple[Span, ...]] = {}
    identification: set[int] = set()
    for one in raw.children("allow"):
        unit = one.number("unit", 0, 255, whole=True)
        function = one.number("function", 0, 255, whole=True)
        if function == DEVICE_IDENTIFICATION:
            one.done()
            identification.add(unit)
            continue
        if function not in MOST:
            raise one.fail("function", "%d is none that this filter passes; it passes 1, 2, 3, 4, and 43 for 43/14" % function)
        if (unit, function) in reads:
            raise one.fail("function", "unit %d, function %d stands twice; write one entry" % (unit, function))
        gap = one.number("gap", 0, 100, 0, whole=True)
        wanted, excluded = [], []
        for item in one.children("spans"):
            wanted.append(_span(item))
            item.done()
        for item in one.children("exclude", []):
            excluded.append(_span(item))
            item.done()
        for hole in excluded:
            for span in wanted:
                if hole.first <= span.last and span.first <= hole.last:
                    raise one.fail("exclude", "address %d is excluded and declared; reading it changes it: take it out of one of the two" % max(
                        hole.first, span.first))
        one.done()
        if not wanted:
            raise one.fail("spans", "is empty; take the entry away")
        reads[unit, function] = spans(wanted, excluded, gap)
    if not reads and not identification:
        raise raw.fail("allow", "is empty: nothing could pass")
    return Allow(reads, frozenset(identification))


def _device(raw: _Keys) -> Device:
    plain = Device("", ("", 0), "", 0, Allow({}))
    ident = raw.take("id", str)
    if not NAME.match(ident):
        raise raw.fail("id", "%r: lower-case letters, digits, '_', '.', '-'" % ident)
    listen = _Keys(raw.file, raw.path + ".listen", raw.take("listen", dict))
    where = (str(listen.take("address", str, "127.0.0.1")), int(listen.number("port", 1, 65535, whole=True)))
    listen.done()
    host = raw.take("host", str)
    if not host:
        raise raw.fail("host", "is empty")
    device = Device(
        id=ident, listen=where, host=host, port=raw.number("port", 1, 65535, 502, whole=True), allow=_rights(raw),
        canary=raw.take("canary", bool, False), clients=raw.number("clients", 1, 100, plain.clients, whole=True),
        requests_per_second=float(raw.number("requests_per_second", 0.1, 10000, plain.requests_per_second)),
        new_per_minute=raw.number("new_per_minute", 1, 600, plain.new_per_minute, whole=True),
        timeout_s=float(raw.number("timeout_s", 0.05, 60, plain.timeout_s)),
        connect_timeout_s=float(raw.number("connect_timeout_s", 0.05, 60, plain.connect_timeout_s)))
    raw.done()
    return device


def _local(raw: _Keys) -> dict[int, str]:
    found: dict[int, str] = {}
    for text in raw.take("local", list, []):
        try:
            address = ipaddress.ip_address(text)
        except ValueError as error:
            raise raw.fail("local", str(error)) from error
        found[address.version] = str(address)
    return found


def parse(text: str, file: str) -> Config:
    """The configuration from JSON text. Raises ConfigError; there is no default that would let something pass."""
    try:
        decoded = json.loads(text)
    except ValueError as error:
        raise ConfigError("%s: no JSON: %s" % (file, error)) from error
    raw = _Keys(file, "$", decoded)
    plain = Config("", ())
    devices = tuple(_device(one) for one in raw.children("devices"))
    if not devices:
        raise raw.fail("devices", "is empty: there is nothing to stand for")
    for what, values in (("id", [one.id for one in devices]), ("listen", ["%s:%d" % one.listen for one in devices])):
        twice = sorted({value for value in values if values.count(value) > 1})
        if twice:
            raise raw.fail("devices", "%s %s stands twice" % (what, twice[0]))
    real = {(one.host, one.port) for one in devices if not one.canary}
    for one in devices:
        if one.canary and (one.host, one.port) in real:
            raise raw.fail("devices", "canary %s stands at %s:%d, where a device is; give it an address of its own" % (one.id, one.host, one.port))
    config = Config(
        status_file=raw.take("status_file", str), devices=devices, idle_s=float(raw.number("idle_s", 1, 3600, plain.idle_s)),
        frame_s=float(raw.number("frame_s", 0.1, 60, plain.frame_s)), local=_local(raw),
        log_period_s=float(raw.number("log_period_s", 0, 3600, plain.log_period_s)), digest=hashlib.sha256(text.encode("utf-8")).hexdigest())
    raw.done()
    return config


def names(devices: Sequence[Device]) -> str:
    """For messages."""
    return ", ".join(one.id for one in devices)
