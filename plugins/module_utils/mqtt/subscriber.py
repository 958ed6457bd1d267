# SPDX-License-Identifier: Apache-2.0
"""The half of MQTT 3.1.1 that listens: packets of a subscriber, as bytes. Pure. There is no PUBLISH to send, so none can be sent.

A session that the broker keeps (clean session off), QoS 1: what is not acknowledged comes again [4.4]. Source: OASIS MQTT 3.1.1,
sections in brackets. The file travels alone (role ``ot_collector`` puts it beside its program): standard library only, Python 3.9.
"""
from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Union

REFUSALS = {1: "protocol version", 2: "client id", 3: "server unavailable", 4: "bad user name or password", 5: "not authorised"}
MAX_PACKET = 2 << 20
PINGREQ = b"\xc0\x00"
DISCONNECT = b"\xe0\x00"


class SubscriberError(Exception):
    """The broker refused, or did not answer as MQTT says."""


@dataclass(frozen=True)
class Welcome:
    """CONNACK [3.2]."""

    code: int
    session_present: bool


@dataclass(frozen=True)
class Subscribed:
    """SUBACK [3.9]: the granted QoS of each filter, 0x80 where it is refused."""

    codes: tuple[int, ...]


@dataclass(frozen=True)
class Pong:
    """PINGRESP [3.13]."""


@dataclass(frozen=True)
class Delivery:
    """PUBLISH [3.3]; *identifier* is 0 for QoS 0, which is not acknowledged."""

    topic: str
    payload: bytes
    identifier: int
    again: bool
    retained: bool


Packet = Union[Welcome, Subscribed, Pong, Delivery]


def _length(number: int) -> bytes:
    out = bytearray()
    while True:
        number, digit = divmod(number, 128)
        out.append(digit | (0x80 if number else 0))
        if not number:
            return bytes(out)


def _text(value: str) -> bytes:
    data = value.encode("utf-8")
    return struct.pack("!H", len(data)) + data


def connect(client_id: str, username: str, password: str, keepalive_s: int) -> bytes:
    """CONNECT without a will and without a clean session [3.1]."""
    body = _text("MQTT") + bytes([4, 0xC0]) + struct.pack("!H", keepalive_s) + _text(client_id) + _text(username) + _text(password)
    return b"\x10" + _length(len(body)) + body


def subscribe(filters: Sequence[str]) -> bytes:
    """SUBSCRIBE, QoS 1 [3.8]."""
    body = struct.pack("!H", 1) + b"".join(_text(one) + b"\x01" for one in filters)
    return b"\x82" + _length(len(body)) + body


def acknowledge(identifier: int) -> bytes:
    """PUBACK [3.4]."""
    return b"\x40\x02" + struct.pack("!H", identifier)


class Reader:
    """Takes bytes as they come, gives packets."""

    def __init__(self) -> None:
        self._buffer = b""

    def feed(self, data: bytes) -> Iterator[Packet]:
        """The packets that are complete by now. Raises SubscriberError."""
        self._buffer += data
        at = 0
        try:
            while True:
                found = self._one(at)
                if found is None:
                    return
                kind, flags, start, at = found
                yield _packet(kind, flags, self._buffer[start:at])
        finally:
            self._buffer = self._buffer[at:]

    def _one(self, at: int) -> tuple[int, int, int, int] | None:
        """(type, flags, start and end of the body) of the packet at *at*; None while it is not complete."""
        data = self._buffer
        size = shift = 0
        for start in range(at + 1, at + 5):
            if start >= len(data):
                return None
            size |= (data[start] & 0x7F) << shift
            shift += 7
            if data[start] < 0x80:
                break
        else:
            raise SubscriberError("a packet length of more than four bytes")
        if size > MAX_PACKET:
            raise SubscriberError("a packet of %d bytes" % size)
        end = start + 1 + size
        return None if end > len(data) else (data[at] >> 4, data[at] & 15, start + 1, end)


def _packet(kind: int, flags: int, body: bytes) -> Packet:
    if kind == 2 and len(body) == 2:
        return Welcome(body[1], bool(body[0] & 1))
    if kind == 9 and len(body) > 2:
        return Subscribed(tuple(body[2:]))
    if kind == 13 and not body:
        return Pong()
    qos = flags >> 1 & 3
    if kind == 3 and qos < 2:
        try:
            (size,) = struct.unpack_from("!H", body)
            topic = body[2:2 + size].decode("utf-8")
            start = 2 + size
            (identifier,) = struct.unpack_from("!H", body, start) if qos else (0,)
        except (struct.error, UnicodeDecodeError) as error:
            raise SubscriberError("a PUBLISH that cannot be read: %s" % error) from error
        if len(body) < start:
            raise SubscriberError("a PUBLISH that ends in its topic")
        return Delivery(topic, body[start + (2 if qos else 0):], identifier, bool(flags & 8), bool(flags & 1))
    raise SubscriberError("packet type %d, flags %d, %d bytes was not asked for" % (kind, flags, len(body)))
