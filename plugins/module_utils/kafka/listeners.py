# SPDX-License-Identifier: Apache-2.0
"""What one listener does to one client: TLS with and without a certificate, plaintext, a wrong password."""

from __future__ import annotations

import os
import secrets
import socket
import ssl
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .scram import MECHANISMS, LoginError, OpenDoor, call, login, tls_context
from .wire import Reader

_API_VERSIONS = 18
#: State of a listening socket in /proc/net/tcp.
_LISTEN = "0A"


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
class Session:
    """What a verified TLS session showed. `not_after`: seconds since the epoch."""

    version: str
    not_after: float
    subject: str
    names: tuple[str, ...]


def session(host: str, listener: Listener, files: Files, timeout_s: float) -> Session:
    """A TLS session that trusts only our root and checks the name. Raises OSError or ssl.SSLError when it is refused or not there."""
    context = tls_context(files.ca, files.cert if listener.mutual else "", files.key if listener.mutual else "")
    with socket.create_connection((host, listener.port), timeout=timeout_s) as plain, context.wrap_socket(plain, server_hostname=host) as stream:
        if listener.mutual:
            # TLS 1.3 refuses a client's certificate after the handshake: only an answer proves that it was accepted.
            call(stream, _API_VERSIONS, 0, 1, b"")
        shown: dict[str, Any] = dict(stream.getpeercert() or {})
        subject = ",".join(f"{key}={value}" for part in shown.get("subject", ()) for key, value in part)
        names = tuple(str(value) for _kind, value in shown.get("subjectAltName", ()))
        return Session(stream.version() or "", ssl.cert_time_to_seconds(str(shown["notAfter"])), subject, names)


def refuses_anonymous(host: str, listener: Listener, files: Files, timeout_s: float) -> tuple[bool, str]:
    """(refused, how): a client without a certificate gets no answer. Raises OSError when the port is not there at all."""
    context = tls_context(files.ca)
    with socket.create_connection((host, listener.port), timeout=timeout_s) as plain:
        try:
            with context.wrap_socket(plain, server_hostname=host) as stream:
                call(stream, _API_VERSIONS, 0, 1, b"")
        except ssl.SSLCertVerificationError:
            raise  # It is we who refuse; what it would have done stays unknown.
        except (LoginError, ssl.SSLError, ConnectionError, struct.error) as error:
            return True, str(error)
    return False, "answered a request"


def refuses_plaintext(host: str, listener: Listener, timeout_s: float) -> tuple[bool, str]:
    """(refused, how): a request without TLS gets no Kafka answer. Raises OSError when the port is not there at all, or stays silent: a
    server that hangs refuses nothing."""
    with socket.create_connection((host, listener.port), timeout=timeout_s) as plain:
        try:
            call(plain, _API_VERSIONS, 0, 1, b"")
        except (LoginError, ConnectionError, struct.error) as error:
            return True, str(error)
    return False, "answered a request"


def features(address: tuple[str, int], files: Files, timeout_s: float) -> dict[str, tuple[int, int]]:
    """Feature → (lowest, highest level that this very node supports), from its own answer (ApiVersions v4: v3 hides what may be at level 0).

    Raises OSError, ssl.SSLError or LoginError when there is none.
    """
    context = tls_context(files.ca, files.cert, files.key)
    with socket.create_connection(address, timeout=timeout_s) as plain, context.wrap_socket(plain, server_hostname=address[0]) as stream:
        # The header ends with its tags, then two compact strings (name and version of the client) and the body's tags.
        answer = call(stream, _API_VERSIONS, 4, 1, b"\x00" + b"\x05hnai" + b"\x021" + b"\x00")
    try:
        return _supported(answer)
    except (IndexError, UnicodeDecodeError) as error:
        raise LoginError(f"{address[0]}:{address[1]}: the answer to ApiVersions is malformed") from error


def _supported(answer: bytes) -> dict[str, tuple[int, int]]:
    reader = Reader(answer)
    code = reader.number(">h")
    if code:
        raise LoginError(f"ApiVersions: error {code}")
    for _api in range(reader.varint() - 1):
        for _field in ("key", "lowest", "highest"):
            reader.number(">h")
        reader.tags()
    reader.number(">i")
    reader = Reader(reader.tags().get(0, b"\x01"))
    levels: dict[str, tuple[int, int]] = {}
    for _feature in range(reader.varint() - 1):
        name = reader.compact() or ""
        levels[name] = (reader.number(">h"), reader.number(">h"))
        reader.tags()
    return levels


def open_ports(proc: str, unit: str) -> dict[int, str]:
    """TCP port → address (hex, as the kernel writes it) of every socket on which the user of a systemd unit listens.

    By user, because in a container not even root may see whose descriptor a socket is; every unit of ours has a user of its own.
    `proc`: where procfs is mounted. Raises OSError; ProcessLookupError when the unit has no process.
    """
    pids = [name for name in os.listdir(proc) if name.isdigit() and _of_unit(os.path.join(proc, name, "cgroup"), unit)]
    if not pids:
        raise ProcessLookupError(f"{unit} has no process")
    users = {str(os.stat(os.path.join(proc, pid)).st_uid) for pid in pids}
    found: dict[int, str] = {}
    for family in ("tcp", "tcp6"):
        with open(os.path.join(proc, pids[0], "net", family), encoding="ascii") as stream:
            for line in stream.read().splitlines()[1:]:
                field = line.split()
                if field[3] == _LISTEN and field[7] in users:
                    address, _, port = field[1].rpartition(":")
                    found[int(port, 16)] = address
    return found


def _of_unit(file: str, unit: str) -> bool:
    try:
        with open(file, encoding="utf-8") as stream:
            return any(unit in line.rstrip("\n").split("/") for line in stream)
    except OSError:
        return False  # Gone meanwhile.


def refuses_wrong_password(host: str, listener: Listener, files: Files, mechanism: str, timeout_s: float) -> bool:
    """A user that does not exist, with a random password, is refused. Raises OpenDoor where the listener asks for no login or offers another one than
    SCRAM, such as OAUTHBEARER, which as delivered takes any token; LoginError when no statement can be made."""

    def only_scram(offered: Sequence[str]) -> None:
        others = sorted(set(offered) - set(MECHANISMS))
        if others:
            raise OpenDoor(f"offers {', '.join(others)}, which nobody declared")

    return not login((host, listener.port), tls_context(files.ca), mechanism, "hnai-nobody", secrets.token_urlsafe(24), timeout_s, offered=only_scram)
