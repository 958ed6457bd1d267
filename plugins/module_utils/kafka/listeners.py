# SPDX-License-Identifier: Apache-2.0
"""What one listener does to one client: TLS with and without a certificate, plaintext, a wrong password."""

from __future__ import annotations

import os
import re
import secrets
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from .scram import MECHANISMS, LoginError, OpenDoor, Stream, call, exchange, tls_context
from .wire import Reader

Answer = TypeVar("Answer")

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


def greeted(stream: Stream) -> bytes:
    """What a listener answers to the least request (ApiVersions v0)."""
    return call(stream, _API_VERSIONS, 0, 1, b"")


@dataclass
class _Link:
    """One listener as one identity: the connection that is open, and what its latest handshake showed."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    stream: ssl.SSLSocket | None = None
    shown: Session | None = None

    def end(self) -> None:
        if self.stream is not None:
            self.stream.close()
        self.stream = self.shown = None


class Links:
    """TLS connections that are kept, as this host or without a certificate: a handshake costs both sides more than all that is asked on it.

    Each was made by a whole handshake that trusts only our root and checks the name; none resumes another.
    """

    def __init__(self, files: Files) -> None:
        self.files = files
        self._lock = threading.Lock()
        self._contexts: dict[bool, ssl.SSLContext] = {}
        self._links: dict[tuple[tuple[str, int], bool], _Link] = {}

    def context(self, mutual: bool) -> ssl.SSLContext:
        """Of a client with this host's certificate, or with none. Raises OSError or ssl.SSLError when the files cannot be used."""
        with self._lock:
            if mutual not in self._contexts:
                self._contexts[mutual] = tls_context(self.files.ca, *((self.files.cert, self.files.key) if mutual else ()))
            return self._contexts[mutual]

    @contextmanager
    def _held(self, address: tuple[str, int], mutual: bool, timeout_s: float) -> Iterator[_Link]:
        with self._lock:
            link = self._links.setdefault((address, mutual), _Link())
        if not link.lock.acquire(timeout=timeout_s):
            raise TimeoutError("an earlier question is not answered yet")
        try:
            yield link
        finally:
            link.lock.release()

    def _open(self, link: _Link, address: tuple[str, int], mutual: bool, timeout_s: float) -> ssl.SSLSocket:
        context = self.context(mutual)
        with socket.create_connection(address, timeout=min(5.0, timeout_s)) as plain:
            link.stream = context.wrap_socket(plain, server_hostname=address[0])
        link.shown = _shown(link.stream)
        return link.stream

    def session(self, address: tuple[str, int], mutual: bool, timeout_s: float) -> Session:
        """What the listener showed when it was first asked. Raises OSError, ssl.SSLError or LoginError when it refuses or is not there."""
        with self._held(address, mutual, timeout_s) as link:
            if link.shown is not None:
                return link.shown
            try:
                stream = self._open(link, address, mutual, timeout_s)
                if mutual:
                    # TLS 1.3 refuses a client's certificate after the handshake: only an answer proves that it was accepted.
                    greeted(stream)
                return _shown(stream)
            except BaseException:
                link.end()
                raise

    def ask(self, address: tuple[str, int], question: Callable[[ssl.SSLSocket], Answer], timeout_s: float) -> Answer:
        """The answer to one question, asked as this host. Raises OSError, ssl.SSLError or LoginError when there is none, and what the question raises."""
        with self._held(address, True, timeout_s) as link:
            while True:
                kept = link.stream is not None
                try:
                    stream = link.stream or self._open(link, address, True, timeout_s)
                    stream.settimeout(timeout_s)
                    return question(stream)
                except BaseException as error:
                    # What was not read of an answer would be taken for the next one.
                    link.end()
                    # The other side may have ended it since the last question: whether it is there, a new one tells.
                    if not kept or not isinstance(error, (LoginError, ConnectionError, ssl.SSLError)):
                        raise

    @contextmanager
    def lent(self, address: tuple[str, int], timeout_s: float) -> Iterator[ssl.SSLSocket]:
        """A connection without a certificate, for a login: its end is the borrower's. Raises OSError or ssl.SSLError."""
        with self._held(address, False, timeout_s) as link:
            stream = link.stream or self._open(link, address, False, timeout_s)
            link.stream = None
        with stream:
            stream.settimeout(timeout_s)
            yield stream

    def close(self) -> None:
        """Let go of what is open."""
        for link in self._links.values():
            link.end()


def _shown(stream: ssl.SSLSocket) -> Session:
    shown: dict[str, Any] = dict(stream.getpeercert() or {})
    subject = ",".join(f"{key}={value}" for part in shown.get("subject", ()) for key, value in part)
    names = tuple(str(value) for _kind, value in shown.get("subjectAltName", ()))
    return Session(stream.version() or "", ssl.cert_time_to_seconds(str(shown["notAfter"])), subject, names)


def refuses_anonymous(host: str, listener: Listener, links: Links, timeout_s: float) -> tuple[bool, str]:
    """(refused, how): a client without a certificate gets no answer. Raises OSError when the port is not there at all."""
    context = links.context(False)
    with socket.create_connection((host, listener.port), timeout=timeout_s) as plain:
        try:
            with context.wrap_socket(plain, server_hostname=host) as stream:
                greeted(stream)
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
            greeted(plain)
        except (LoginError, ConnectionError, struct.error) as error:
            return True, str(error)
    return False, "answered a request"


def features(address: tuple[str, int], links: Links, timeout_s: float) -> dict[str, tuple[int, int]]:
    """Feature → (lowest, highest level that this very node supports), from its own answer (ApiVersions v4: v3 hides what may be at level 0).

    Raises OSError, ssl.SSLError or LoginError when there is none.
    """
    # The header ends with its tags, then two compact strings (name and version of the client) and the body's tags.
    answer = links.ask(address, lambda stream: call(stream, _API_VERSIONS, 4, 1, b"\x00" + b"\x05hnai" + b"\x021" + b"\x00"), timeout_s)
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


_LOOKUP = re.compile(r"^error \d+ at (\d+) depth lookup: (.+)$", re.MULTILINE)


def mistrust(keystore: str, ca: str, host: str, run: Callable[[Sequence[str]], str]) -> str:
    """Why a client would not trust the certificate in a PEM *keystore* as that of *host*; "" where it would, or where that cannot be told.

    *run*: a command's output, whatever its end (openssl-verify(1): `error N at D depth lookup: why`).
    """
    found = _LOOKUP.search(run(["openssl", "verify", "-CAfile", ca, "-untrusted", keystore, "-verify_hostname", host, keystore]))
    return found[2] if found else ""


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


def refuses_wrong_password(host: str, listener: Listener, links: Links, mechanism: str, timeout_s: float) -> bool:
    """A user that does not exist, with a random password, is refused. Raises OpenDoor where the listener asks for no login or offers another one than
    SCRAM, such as OAUTHBEARER, which as delivered takes any token; LoginError when no statement can be made."""

    def only_scram(offered: Sequence[str]) -> None:
        others = sorted(set(offered) - set(MECHANISMS))
        if others:
            raise OpenDoor(f"offers {', '.join(others)}, which nobody declared")

    try:
        with links.lent((host, listener.port), timeout_s) as stream:
            return not exchange(stream, mechanism, "hnai-nobody", secrets.token_urlsafe(24), only_scram)
    except (OSError, struct.error, UnicodeDecodeError) as error:
        raise LoginError(f"{host}:{listener.port}: {error}") from error
