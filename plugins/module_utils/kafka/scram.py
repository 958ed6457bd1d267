# SPDX-License-Identifier: Apache-2.0
"""One SCRAM login over TLS, spoken directly: tells "refused" from "not reachable" in one round trip each.

A client library retries and then says "unable to bootstrap" for both. Sources: Kafka protocol guide (SaslHandshake v1,
SaslAuthenticate v0, error 58 SASL_AUTHENTICATION_FAILED), RFC 5802 and RFC 7677 (SCRAM). The password never leaves this process.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import socket
import ssl
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from .wire import Reader, text

MECHANISMS = {"SCRAM-SHA-256": "sha256", "SCRAM-SHA-512": "sha512"}
_HANDSHAKE, _AUTHENTICATE = 17, 36
_UNSUPPORTED_MECHANISM, _NO_LOGIN, _REFUSED = 33, 34, 58
_MAX_FRAME = 1 << 20


class LoginError(Exception):
    """No statement about the password can be made: not reachable, not TLS, or an answer that makes no sense."""


class OpenDoor(LoginError):
    """The listener has another door than SCRAM."""


class Stream(Protocol):
    """What is needed of a socket."""

    def sendall(self, data: bytes, /) -> None: ...

    def recv(self, size: int, /) -> bytes: ...


class Scram:
    """The client's side of one SCRAM exchange. `nonce` is a parameter for the tests."""

    def __init__(self, mechanism: str, username: str, password: str, nonce: str | None = None) -> None:
        if mechanism not in MECHANISMS:
            raise ValueError(f"mechanism {mechanism!r} is none of {', '.join(MECHANISMS)}")
        self._hash = MECHANISMS[mechanism]
        self._password = password.encode("utf-8")
        self._nonce = nonce or secrets.token_urlsafe(24)
        name = username.replace("=", "=3D").replace(",", "=2C")
        self._bare = f"n={name},r={self._nonce}"
        self._server_signature = b""

    def first(self) -> bytes:
        """client-first-message."""
        return f"n,,{self._bare}".encode()

    def final(self, server_first: bytes) -> bytes:
        """client-final-message. Raises LoginError when the server's message is not an answer to ours."""
        fields = _fields(server_first)
        try:
            nonce, salt, iterations = fields["r"], base64.b64decode(fields["s"]), int(fields["i"])
        except (KeyError, ValueError) as error:
            raise LoginError("the server's first SCRAM message is malformed") from error
        if not nonce.startswith(self._nonce) or nonce == self._nonce or not 0 < iterations <= 10_000_000:
            raise LoginError("the server's first SCRAM message does not belong to this exchange")
        salted = hashlib.pbkdf2_hmac(self._hash, self._password, salt, iterations)
        client_key = hmac.digest(salted, b"Client Key", self._hash)
        stored_key = hashlib.new(self._hash, client_key).digest()
        without_proof = f"c=biws,r={nonce}"
        message = ",".join([self._bare, server_first.decode("utf-8"), without_proof]).encode()
        signature = hmac.digest(stored_key, message, self._hash)
        proof = bytes(a ^ b for a, b in zip(client_key, signature))
        self._server_signature = hmac.digest(hmac.digest(salted, b"Server Key", self._hash), message, self._hash)
        return f"{without_proof},p={base64.b64encode(proof).decode()}".encode()

    def verify(self, server_final: bytes) -> None:
        """The server knows the password too. Raises LoginError."""
        given = base64.b64decode(_fields(server_final).get("v", ""))
        if not self._server_signature or not hmac.compare_digest(given, self._server_signature):
            raise LoginError("the server could not prove that it knows the credential")


def _fields(message: bytes) -> dict[str, str]:
    return dict(part.split("=", 1) for part in message.decode("utf-8").split(",") if "=" in part)


def call(stream: Stream, key: int, version: int, correlation: int, body: bytes) -> bytes:
    """One request and its answer's body. Raises LoginError when the connection ends or answers something else."""
    header = struct.pack(">hhi", key, version, correlation) + text("hnai")
    stream.sendall(struct.pack(">i", len(header) + len(body)) + header + body)
    size = struct.unpack(">i", _exactly(stream, 4))[0]
    if not 4 <= size <= _MAX_FRAME:
        raise LoginError(f"the answer is no Kafka frame (length {size})")
    answer = _exactly(stream, size)
    if struct.unpack(">i", answer[:4])[0] != correlation:
        raise LoginError("the answer belongs to another request")
    return answer[4:]


def _exactly(stream: Stream, size: int) -> bytes:
    parts = b""
    while len(parts) < size:
        part = stream.recv(size - len(parts))
        if not part:
            raise LoginError("the connection was closed before an answer came")
        parts += part
    return parts


def _authenticate(stream: Stream, correlation: int, token: bytes) -> bytes | None:
    """The server's token, None when it refuses."""
    body = call(stream, _AUTHENTICATE, 0, correlation, struct.pack(">i", len(token)) + token)
    error, length = struct.unpack(">hh", body[:4])
    if error == _REFUSED:
        return None
    if error:
        raise LoginError(f"SaslAuthenticate: error {error}")
    rest = body[4 + max(0, length):]
    size = struct.unpack(">i", rest[:4])[0]
    return rest[4:4 + size]


def sasl_handshake(stream: Stream, mechanism: str) -> tuple[int, list[str]]:
    """(error, mechanisms that the listener offers). Raises OpenDoor where it asks nobody (ILLEGAL_SASL_STATE), LoginError."""
    reader = Reader(call(stream, _HANDSHAKE, 1, 1, text(mechanism)))
    try:
        error = reader.number(">h")
        if error == _NO_LOGIN:
            raise OpenDoor("this listener asks for no login")
        return error, [reader.text() or "" for _each in range(reader.number(">i"))]
    except (IndexError, UnicodeDecodeError) as wrong:
        raise LoginError("the answer to SaslHandshake is malformed") from wrong


def exchange(stream: Stream, mechanism: str, username: str, password: str, offered: Callable[[list[str]], None] = lambda _names: None) -> bool:
    """True = logged in, False = refused (also: no such user). Raises LoginError for everything else.

    *offered* is given the mechanisms of the listener before the login.
    """
    error, names = sasl_handshake(stream, mechanism)
    offered(names)
    if error:
        detail = "this listener does not offer the mechanism" if error == _UNSUPPORTED_MECHANISM else f"error {error}"
        raise LoginError(f"SaslHandshake {mechanism}: {detail}")
    scram = Scram(mechanism, username, password)
    server_first = _authenticate(stream, 2, scram.first())
    if server_first is None:
        return False
    server_final = _authenticate(stream, 3, scram.final(server_first))
    if server_final is None:
        return False
    scram.verify(server_final)
    return True


def tls_context(ca_file: str, cert_file: str = "", key_file: str = "") -> ssl.SSLContext:
    """A verifying client context, TLS 1.2 or newer; with a certificate of our own where one is given."""
    context = ssl.create_default_context(cafile=ca_file)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if cert_file:
        context.load_cert_chain(cert_file, key_file)
    return context


@contextmanager
def connected(addresses: Sequence[str], context: ssl.SSLContext, timeout_s: float) -> Iterator[ssl.SSLSocket]:
    """A TLS stream to the first of host:port that takes one. Raises LoginError when none does."""
    failed: list[str] = []
    for address in addresses:
        host, _, port = address.rpartition(":")
        try:
            plain = socket.create_connection((host, int(port)), timeout=min(5.0, timeout_s))
        except OSError as error:
            failed.append(f"{address}: {error}")
            continue
        with plain:
            try:
                stream = context.wrap_socket(plain, server_hostname=host)
            except (OSError, ssl.SSLError) as error:
                failed.append(f"{address}: {error}")
                continue
            with stream:
                stream.settimeout(timeout_s)
                yield stream
                return
    raise LoginError("; ".join(failed) or "no address to connect to")


def login(
    address: tuple[str, int], context: ssl.SSLContext, mechanism: str, username: str, password: str, timeout_s: float = 5.0,
    opened: Callable[[socket.socket], None] = lambda _stream: None,
) -> bool:
    """One login at (host, port). True = accepted, False = refused. Raises LoginError when no statement can be made.

    *opened* is given the connection before the login.
    """
    try:
        with socket.create_connection(address, timeout=timeout_s) as plain, \
                context.wrap_socket(plain, server_hostname=address[0]) as stream:
            opened(stream)
            return exchange(stream, mechanism, username, password)
    except (OSError, ssl.SSLError, struct.error, UnicodeDecodeError) as error:
        raise LoginError(f"{address[0]}:{address[1]}: {error}") from error
