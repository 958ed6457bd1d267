# SPDX-License-Identifier: Apache-2.0
"""As much of MQTT 3.1.1 as a check needs: log in, subscribe, read what comes, leave. Standard library, Python 3.9.

Source: OASIS MQTT 3.1.1, sections in brackets. The client never publishes. Every read honours the deadline of the
socket's owner: *connect* is a function that gives a connected (TLS) socket, *timeout* gives the seconds that the next
read may take.
"""

from __future__ import annotations

import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

CONNACK, PUBLISH, SUBACK, PINGRESP = 2, 3, 9, 13
REFUSALS = {1: "protocol version", 2: "client id", 3: "server unavailable", 4: "bad user name or password", 5: "not authorised"}
MAX_PACKET = 16 * 1024 * 1024


class MqttError(Exception):
    """The broker did not answer as MQTT says."""


class MqttRefused(MqttError):
    """The broker refused the login [3.2.2.3]. *code* is the return code."""

    def __init__(self, code: int) -> None:
        super().__init__("login refused: %s (code %d)" % (REFUSALS.get(code, "?"), code))
        self.code = code


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


def connect_packet(client_id: str, username: str, password: str, keepalive_s: int = 60) -> bytes:
    """CONNECT with a clean session [3.1]; without *username* an anonymous one."""
    flags = 0x02 | (0xC0 if username else 0)
    body = text("MQTT") + bytes([4, flags]) + struct.pack("!H", keepalive_s) + text(client_id)
    if username:
        body += text(username) + text(password)
    return b"\x10" + length(len(body)) + body


def subscribe_packet(identifier: int, filters: Sequence[str]) -> bytes:
    """SUBSCRIBE, QoS 0 [3.8]."""
    body = struct.pack("!H", identifier) + b"".join(text(one) + b"\x00" for one in filters)
    return b"\x82" + length(len(body)) + body


def parse_publish(flags: int, body: bytes) -> Message:
    """A PUBLISH packet's body [3.3]. Raises MqttError."""
    try:
        (size,) = struct.unpack_from("!H", body)
        topic = body[2 : 2 + size].decode("utf-8")
    except (struct.error, UnicodeDecodeError) as error:
        raise MqttError("a PUBLISH that cannot be read: %s" % error) from error
    start = 2 + size + (2 if flags & 0x06 else 0)
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
    ) -> None:
        self._timeout = timeout
        self._clock = clock
        self._early: list[Message] = []
        self._buffer = b""
        self._socket = dial()
        try:
            self._socket.sendall(connect_packet(client_id, username, password))
            kind, _flags, body = self._packet()
            if kind != CONNACK or len(body) != 2:
                raise MqttError("no CONNACK but packet type %d" % kind)
            if body[1]:
                raise MqttRefused(body[1])
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

    def subscribe(self, filters: Sequence[str]) -> None:
        """Subscribe; what comes before the SUBACK is kept. Raises MqttError where the broker refuses a filter."""
        self._socket.sendall(subscribe_packet(1, filters))
        while True:
            kind, flags, body = self._packet()
            if kind == PUBLISH:
                self._early.append(parse_publish(flags, body))
            elif kind == SUBACK:
                if 0x80 in body[2:]:
                    raise MqttError("subscription refused: %s" % ", ".join(filters))
                return

    def messages(self, quiet_s: float, limit_s: float) -> Iterator[Message]:
        """What comes, until nothing came for *quiet_s* seconds, or for *limit_s* in all (a busy topic is never quiet)."""
        yield from self._early
        end = self._clock() + limit_s
        while self._clock() < end:
            try:
                kind, flags, body = self._packet(quiet_s)
            except socket.timeout:
                return
            if kind == PUBLISH:
                yield parse_publish(flags, body)

    def _packet(self, limit_s: float | None = None) -> tuple[int, int, bytes]:
        """(type, flags, body). Raises socket.timeout, MqttError where the connection ends."""
        left = self._timeout()
        self._socket.settimeout(left if limit_s is None else min(limit_s, left))
        first = self._read(1)[0]
        size = shift = 0
        while True:
            digit = self._read(1)[0]
            size |= (digit & 0x7F) << shift
            shift += 7
            if not digit & 0x80:
                break
            if shift > 21:
                raise MqttError("a packet length of more than four bytes")
        if size > MAX_PACKET:
            raise MqttError("a packet of %d bytes" % size)
        return first >> 4, first & 0x0F, self._read(size)

    def _read(self, size: int) -> bytes:
        while len(self._buffer) < size:
            data = self._socket.recv(65536)
            if not data:
                raise MqttError("the broker closed the connection")
            self._buffer += data
        data, self._buffer = self._buffer[:size], self._buffer[size:]
        return data
