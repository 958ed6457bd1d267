# SPDX-License-Identifier: Apache-2.0
"""What one listener does to one client: TLS with and without a certificate, plaintext, a wrong password."""

from __future__ import annotations

import secrets
import socket
import ssl
import struct
from dataclasses import dataclass
from typing import Any

from .scram import LoginError, call, login, tls_context

_API_VERSIONS = 18


@dataclass(frozen=True)
class Listener:
    """One listener. `mutual`: wants a client certificate; else it wants SCRAM."""

    name: str
    port: int
    mutual: bool


@dataclass(frozen=True)
class Files:
    """The PEM files of this host."""

    ca: str
    cert: str
    key: str


@dataclass(frozen=True)
class Handshake:
    """What a verified TLS session showed. `not_after`: seconds since the epoch."""

    version: str
    not_after: float
    subject: str
    names: tuple[str, ...]


def handshake(host: str, listener: Listener, files: Files, timeout_s: float) -> Handshake:
    """A session that trusts only our root and checks the name. Raises OSError or ssl.SSLError when it is refused or not there."""
    context = tls_context(files.ca, files.cert if listener.mutual else "", files.key if listener.mutual else "")
    with socket.create_connection((host, listener.port), timeout=timeout_s) as plain, context.wrap_socket(plain, server_hostname=host) as stream:
        if listener.mutual:
            # TLS 1.3 refuses a client's certificate after the handshake: only an answer proves that it was accepted.
            call(stream, _API_VERSIONS, 0, 1, b"")
        shown: dict[str, Any] = dict(stream.getpeercert() or {})
        subject = ",".join(f"{key}={value}" for part in shown.get("subject", ()) for key, value in part)
        names = tuple(str(value) for _kind, value in shown.get("subjectAltName", ()))
        return Handshake(stream.version() or "", ssl.cert_time_to_seconds(str(shown["notAfter"])), subject, names)


def refuses_anonymous(host: str, listener: Listener, files: Files, timeout_s: float) -> tuple[bool, str]:
    """(refused, how): a client without a certificate gets no answer. Raises OSError when the port is not there at all."""
    context = tls_context(files.ca)
    with socket.create_connection((host, listener.port), timeout=timeout_s) as plain:
        try:
            with context.wrap_socket(plain, server_hostname=host) as stream:
                call(stream, _API_VERSIONS, 0, 1, b"")
        except (LoginError, ssl.SSLError, ConnectionError, struct.error) as error:
            return True, str(error)
    return False, "answered a request"


def refuses_plaintext(host: str, listener: Listener, timeout_s: float) -> tuple[bool, str]:
    """(refused, how): a request without TLS gets no Kafka answer. Raises OSError when the port is not there at all."""
    with socket.create_connection((host, listener.port), timeout=timeout_s) as plain:
        try:
            call(plain, _API_VERSIONS, 0, 1, b"")
        except (LoginError, ConnectionError, struct.error, socket.timeout) as error:
            return True, str(error)
    return False, "answered a request"


def refuses_wrong_password(host: str, listener: Listener, files: Files, mechanism: str, timeout_s: float) -> bool:
    """A user that does not exist, with a random password, is refused. Raises LoginError when no statement can be made."""
    return not login((host, listener.port), tls_context(files.ca), mechanism, "hnai-nobody", secrets.token_urlsafe(24), timeout_s)
