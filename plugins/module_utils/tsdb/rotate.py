# SPDX-License-Identifier: Apache-2.0
"""A password of basic authentication at vmauth as a target of rotation: two credentials of one name, in two slots, are valid side by side.

Measured on vmauth 1.112.0: two users of the same name and different passwords are both served with their rights (the same pair twice is
refused, and the configuration of before stays in force); SIGHUP takes a new file without a restart. Every request is judged by itself: on a
connection that was opened with the old password the next request is answered 401. A request that is under way at the reload is served to its
end, so the old one is gone only when vmauth has been seen without any request in flight.

A path that no user has a route for tells the two apart without a question to the store: 400 for a login that is good, 401 for one that is not.
"""

from __future__ import annotations

import secrets
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Protocol

from ..credentials import TWIN
from ..openbao.rotation_target import CannotTell

PROBE = "/hnai-rotation"
#: What tells a good login from a bad one at the store behind vmauth, by component: an answer, or 401. VictoriaMetrics says 400 and 401 to PROBE.
#: QuestDB 9.3.4 asks nobody for a login but at its API: to other paths it says 404 to everybody.
BACKEND_PROBE = {"questdb": "/exec?query=select%201"}
#: vmauth's gauge of requests that it is serving, of all users.
IN_FLIGHT = "vmauth_concurrent_requests_current"
Secret = Mapping[str, Any]


class Connection(Protocol):
    """One connection to the listener that stays open."""

    def ask(self) -> int:
        """HTTP status of the probe, on this connection and no other. Raises OSError where it is closed or does not answer."""

    def close(self) -> None:
        """End it."""


def slot(secret: Secret) -> str:
    """Name of the credential on the server's host. Before its first rotation a secret names none: it is the user's name."""
    return str(secret.get("slot") or secret["username"])


def successor(secret: Secret, password: Callable[[], str]) -> dict[str, Any]:
    """The next value: the same name, another password, in the other slot."""
    name = str(secret["username"])
    return dict(secret, slot=name + TWIN if slot(secret) == name else name, password=password())


class VmauthAdapter:
    """*connect* opens a connection for a name and a password; *store* and *remove* a credential of the host; *reload* vmauth; *in_flight* is
    how many requests it is serving (IN_FLIGHT). All may raise OSError."""

    supports_overlap = True

    def __init__(
        self, connect: Callable[[str, str], Connection], store: Callable[[str, str], None], remove: Callable[[str], None],
        reload: Callable[[], None], in_flight: Callable[[], int],
    ) -> None:
        self._connect = connect
        self._store = store
        self._remove = remove
        self._reload = reload
        self._in_flight = in_flight
        self._witness: Connection | None = None
        self._drained = False

    def _open(self, secret: Secret) -> Connection | None:
        """A connection on which the secret was accepted; None where it was refused. Raises CannotTell."""
        try:
            connection = self._connect(secret["username"], secret["password"])
            status = connection.ask()
        except OSError as error:
            raise CannotTell("vmauth: %s" % error) from error
        if status == 400:
            return connection
        connection.close()
        if status == 401:
            return None
        raise CannotTell("vmauth answered %d to %s: neither 400 (known, no such route) nor 401 (refused)" % (status, PROBE))

    def works(self, secret: Secret) -> bool:
        """A request of its own."""
        connection = self._open(secret)
        if connection is None:
            return False
        connection.close()
        return True

    def put(self, secret: Secret) -> None:
        """Store it in its slot, reload."""
        self._store(slot(secret), secret["password"])
        self._reload()

    def drop(self, secret: Secret) -> None:
        """Empty its slot, reload; a connection of ours that used it must be refused by that."""
        self._witness = self._open(secret)
        self._drained = False
        self._remove(slot(secret))
        self._reload()

    def shares_place(self, one: Secret, other: Secret) -> bool:
        """Same slot."""
        return slot(one) == slot(other)

    def wrong(self, secret: Secret) -> dict[str, Any]:
        """The same name, another password."""
        return dict(secret, password=secrets.token_urlsafe(24))

    def sessions(self, secret: Secret) -> list[str]:
        """Our own connection while it is served, and requests under way that may have begun with the old password. Raises CannotTell."""
        left = []
        if self._witness is not None:
            try:
                served = self._witness.ask() != 401
            except socket.timeout as error:
                raise CannotTell("vmauth neither answers nor ends an open connection") from error
            except OSError:
                served = False
            if served:
                left.append("a connection of %s that was opened before" % secret["username"])
            else:
                with suppress(OSError):
                    self._witness.close()
                self._witness = None
        if not self._drained:
            try:
                flying = self._in_flight()
            except (OSError, ValueError) as error:
                raise CannotTell("vmauth does not say what is in flight: %s" % error) from error
            self._drained = not flying
            if flying:
                left.append("%d requests in flight" % flying)
        return left


def successor_backend(secret: Secret, password: Callable[[], str]) -> dict[str, Any]:
    """The next value: the store has one password, so it takes the place of the old one."""
    return dict(secret, password=password())


class BackendAdapter:
    """The one password between vmauth and the store beside it, on loopback. There is no overlap: store and vmauth are restarted in one transaction
    of systemd, vmauth down first and up last, so no request meets a password that is not in force; for that long nobody is served.

    *ask* gives the status of a request with a login (BACKEND_PROBE) and raises OSError where nobody answers; *store* puts the credential in place;
    *restart* restarts both.
    """

    supports_overlap = False

    def __init__(
        self, ask: Callable[[str, str], int], store: Callable[[str], None], restart: Callable[[], None], patience_s: float = 120.0,
        clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._ask = ask
        self._store = store
        self._restart = restart
        self._patience_s = patience_s
        self._clock = clock
        self._sleep = sleep
        #: How long nobody was served, by put; None where nothing was restarted.
        self.pause_s: float | None = None

    def works(self, secret: Secret) -> bool:
        """A request at the store itself."""
        try:
            status = self._ask(secret["username"], secret["password"])
        except OSError as error:
            raise CannotTell("the store: %s" % error) from error
        if status >= 500:
            raise CannotTell("the store answers %d" % status)
        return status not in (401, 403)

    def put(self, secret: Secret) -> None:
        """In place of what was valid. Raises CannotTell where the store does not come back."""
        began = self._clock()
        self._store(secret["password"])
        self._restart()
        while True:
            try:
                self.works(secret)
                break
            except CannotTell:
                if self._clock() - began > self._patience_s:
                    raise
                self._sleep(0.2)
        self.pause_s = self._clock() - began

    def drop(self, secret: Secret) -> None:
        """Nothing: it was gone when the other one was put."""

    def shares_place(self, one: Secret, other: Secret) -> bool:
        """There is one place."""
        return True

    def wrong(self, secret: Secret) -> dict[str, Any]:
        """The same name, another password."""
        return dict(secret, password=secrets.token_urlsafe(24))

    def sessions(self, secret: Secret) -> list[str]:
        """None: the store was restarted after the new one was put, and every connection is younger."""
        return []
