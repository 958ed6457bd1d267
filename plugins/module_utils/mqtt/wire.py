# SPDX-License-Identifier: Apache-2.0
"""As much of MQTT 3.1.1 and 5 as a check needs: log in, subscribe, read what comes, leave. Standard library, Python 3.9.

Source: OASIS MQTT 3.1.1 and (v5) MQTT 5, sections in brackets. Version 5 is there because only it tells a client that a
publish was refused [v5 3.4.2.1]; ``publish`` exists to be refused. Every read honours the deadline of the socket's owner:
*connect* is a function that gives a connected (TLS) socket, *timeout* gives the seconds that the next read may take.
"""

from __future__ import annotations

import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

CONNACK, PUBLISH, PUBACK, SUBACK, PINGRESP, DISCONNECT = 2, 3, 4, 9, 13, 14
NOT_AUTHORISED = 0x87
NO_MATCHING_SUBSCRIBERS = 0x10
V5_REFUSALS = {0x84: 1, 0x85: 2, 0x88: 3, 0x86: 4, 0x87: 5}
"""Reason codes of version 5 [v5 3.2.2.2] as the return codes of 3.1.1 that mean the same."""

REFUSALS = {1: "protocol version", 2: "client id", 3: "server unavailable", 4: "bad user name or password", 5: "not authorised"}
MAX_TEXT = 65535
"""Bytes of a string or of binary data: two of length stand before it [v5 1.5.4, 1.5.6]."""
MAX_PACKET = 16 * 1024 * 1024


class MqttError(Exception):
    """The broker did not answer as MQTT says."""


class MqttRefused(MqttError):
    """The broker refused the login [3.2.2.3]. *code* is the return code."""

    def __init__(self, code: int) -> None:
        super().__init__("login refused: %s (code %d)" % (REFUSALS.get(code, "?"), code))
        self.code = code


class MqttEnded(MqttError):
    """The broker ended the session [v5 3.14]. *code* is its reason."""

    def __init__(self, code: int) -> None:
        super().__init__("the broker ended the session (reason 0x%02x)" % code)
        self.code = code


@dataclass(frozen=True)
class Will:
    """What the broker publishes for a client that leaves without a word: QoS 1, not retained, without delay, expires."""

    topic: str
    payload: bytes
    expiry_s: int = 1


@dataclass(frozen=True)
class Message:
    """One PUBLISH."""

    topic: str
    payload: bytes
    retained: bool


def length(number: int) -> bytes:
    """Remaining length [2.2.3].

    >>> length(321).hex()
    'c102'
    """
    out = bytearray()
    while True:
        number, digit = divmod(number, 128)
        out.append(digit | (0x80 if number else 0))
        if not number:
            return bytes(out)


def text(value: str) -> bytes:
    """A string field [1.5.3]."""
    data = value.encode("utf-8")
    return struct.pack("!H", len(data)) + data


def connect_packet(client_id: str, username: str, password: str, keepalive_s: int = 60, version: int = 4, will: Will | None = None) -> bytes:
    """CONNECT with a clean session [3.1]; without *username* an anonymous one. *version*: 4 (3.1.1) or 5; *will* needs 5."""
    flags = 0x02 | (0xC0 if username else 0) | (0x0C if will else 0)
    properties = b"\x00" if version == 5 else b""
    body = text("MQTT") + bytes([version, flags]) + struct.pack("!H", keepalive_s) + properties + text(client_id)
    if will:
        body += b"\x05\x02" + struct.pack("!I", will.expiry_s) + text(will.topic) + struct.pack("!H", len(will.payload)) + will.payload
    if username:
        body += text(username) + text(password)
    return b"\x10" + length(len(body)) + body


def subscribe_packet(identifier: int, filters: Sequence[str], version: int = 4) -> bytes:
    """SUBSCRIBE, QoS 0 [3.8]."""
    body = struct.pack("!H", identifier) + (b"\x00" if version == 5 else b"") + b"".join(text(one) + b"\x00" for one in filters)
    return b"\x82" + length(len(body)) + body


def publish_packet(identifier: int, topic: str, payload: bytes, expiry_s: int, retain: bool = False) -> bytes:
    """PUBLISH of version 5, QoS 1, that expires [v5 3.3]."""
    properties = b"\x02" + struct.pack("!I", expiry_s)
    body = text(topic) + struct.pack("!H", identifier) + length(len(properties)) + properties + payload
    return (b"\x33" if retain else b"\x32") + length(len(body)) + body


def read_length(body: bytes, start: int) -> tuple[int, int]:
    """(a variable length at *start*, where it ends) [2.2.3]. Raises MqttError."""
    size = shift = 0
    for at in range(start, min(start + 4, len(body))):
        size |= (body[at] & 0x7F) << shift
        shift += 7
        if not body[at] & 0x80:
            return size, at + 1
    raise MqttError("a length that does not end")


def parse_publish(flags: int, body: bytes, version: int = 4) -> Message:
    """A PUBLISH packet's body [3.3]. Raises MqttError."""
    try:
        (size,) = struct.unpack_from("!H", body)
        topic = body[2 : 2 + size].decode("utf-8")
    except (struct.error, UnicodeDecodeError) as error:
        raise MqttError("a PUBLISH that cannot be read: %s" % error) from error
    start = 2 + size + (2 if flags & 0x06 else 0)
    if version == 5:
        properties, start = read_length(body, start)
        start += properties
    return Message(topic, body[start:], bool(flags & 0x01))


def tls_dialler(host: str, port: int, ca_file: str, timeout: Callable[[], float]) -> Callable[[], socket.socket]:
    """A function that gives a TLS connection, certificate and name verified."""

    def dial() -> socket.socket:
        context = ssl.create_default_context(cafile=ca_file)
        plain = socket.create_connection((host, port), timeout=timeout())
        try:
            return context.wrap_socket(plain, server_hostname=host)
        except BaseException:
            plain.close()
            raise

    return dial


class Client:
    """One session; use as a context manager. Raises MqttRefused, MqttError or OSError."""

    def __init__(
        self,
        dial: Callable[[], socket.socket],
        client_id: str,
        username: str,
        password: str,
        timeout: Callable[[], float],
        clock: Callable[[], float] = time.monotonic,
        version: int = 4,
        will: Will | None = None,
    ) -> None:
        self._timeout = timeout
        self._clock = clock
        self._version = version
        self._identifier = 0
        self._early: list[Message] = []
        #: Sent, and not answered yet.
        self._pings = 0
        self._buffer = b""
        self._socket = dial()
        try:
            self._socket.sendall(connect_packet(client_id, username, password, version=version, will=will))
            kind, _flags, body = self._packet()
            if kind != CONNACK or len(body) < 2 or (version == 4 and len(body) != 2):
                raise MqttError("no CONNACK but packet type %d" % kind)
            if body[1]:
                raise MqttRefused(V5_REFUSALS.get(body[1], body[1]) if version == 5 else body[1])
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_error: object) -> None:
        try:
            self._socket.sendall(b"\xe0\x00")
        except OSError:
            pass
        self._socket.close()

    def leave_unwell(self) -> None:
        """Leave so that the will is published [v5 3.14.2.1, 0x04]; returns when the broker has closed. Raises MqttError, OSError."""
        if self._version != 5:
            raise MqttError("version 3.1.1 knows no such farewell")
        self._socket.sendall(b"\xe0\x02\x04\x00")
        try:
            while True:
                self._packet()
        except (MqttError, ConnectionError):
            return

    def subscribe(self, filters: Sequence[str]) -> None:
        """Subscribe; what comes before the SUBACK is kept. Raises MqttError where the broker refuses a filter."""
        codes = self.ask(filters)
        if any(code >= 0x80 for code in codes):
            raise MqttError("subscription refused: %s" % ", ".join(filters))

    def ask(self, filters: Sequence[str]) -> list[int]:
        """Subscribe; the broker's code for each filter, 0x80 and more where it refuses [v5 3.9.3]."""
        self._identifier += 1
        self._socket.sendall(subscribe_packet(self._identifier, filters, self._version))
        body = self._answer(SUBACK)
        codes = body[2:]
        if self._version == 5:
            size, start = read_length(body, 2)
            codes = body[start + size :]
        if len(codes) != len(filters):
            raise MqttError("%d codes for %d filters" % (len(codes), len(filters)))
        return list(codes)

    def publish(self, topic: str, payload: bytes, expiry_s: int = 1, retain: bool = False) -> int:
        """Publish (version 5, QoS 1); returns the broker's reason code [v5 3.4.2.1], 0x87 where it refused."""
        if self._version != 5:
            raise MqttError("version 3.1.1 does not tell whether a publish was refused")
        self._identifier += 1
        self._socket.sendall(publish_packet(self._identifier, topic, payload, expiry_s, retain))
        body = self._answer(PUBACK)
        return body[2] if len(body) > 2 else 0

    def _answer(self, wanted: int) -> bytes:
        """The body of the packet of this type that answers the last request; messages that come before are kept."""
        while True:
            kind, flags, body = self._packet()
            if kind == PUBLISH:
                self._early.append(parse_publish(flags, body, self._version))
            elif kind == DISCONNECT:
                raise MqttEnded(body[0] if body else 0)
            elif kind == wanted and body[:2] == struct.pack("!H", self._identifier):
                return body

    def messages(self, quiet_s: float, limit_s: float) -> Iterator[Message]:
        """What comes, until nothing came for *quiet_s* seconds, or for *limit_s* in all (a busy topic is never quiet); but not before the broker has
        answered a ping: what it had to send by now stands before the answer, and until then silence says nothing."""
        while self._early:
            yield self._early.pop(0)
        self._socket.sendall(b"\xc0\x00")
        self._pings += 1
        end = self._clock() + limit_s
        while self._pings > 0 or self._clock() < end:
            try:
                kind, flags, body = self._packet(None if self._pings > 0 else quiet_s)
            except socket.timeout:
                if self._pings > 0:
                    raise
                return
            if kind == PUBLISH:
                yield parse_publish(flags, body, self._version)

    def _packet(self, limit_s: float | None = None) -> tuple[int, int, bytes]:
        """(type, flags, body). Raises socket.timeout, MqttError where the connection ends."""
        left = self._timeout()
        self._socket.settimeout(left if limit_s is None else min(limit_s, left))
        # What of a packet came before a timeout is read again next time.
        kept = b""
        try:
            kept = self._read(1)
            size = shift = 0
            while True:
                digit = self._read(1)
                kept += digit
                size |= (digit[0] & 0x7F) << shift
                shift += 7
                if not digit[0] & 0x80:
                    break
                if shift > 21:
                    raise MqttError("a packet length of more than four bytes")
            if size > MAX_PACKET:
                raise MqttError("a packet of %d bytes" % size)
            body = self._read(size)
            self._pings -= kept[0] >> 4 == PINGRESP
            return kept[0] >> 4, kept[0] & 0x0F, body
        except socket.timeout:
            self._buffer = kept + self._buffer
            raise

    def _read(self, size: int) -> bytes:
        while len(self._buffer) < size:
            data = self._socket.recv(65536)
            if not data:
                raise MqttError("the broker closed the connection")
            self._buffer += data
        data, self._buffer = self._buffer[:size], self._buffer[size:]
        return data
