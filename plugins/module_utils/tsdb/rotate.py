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
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Protocol

from ..credentials import TWIN
from ..openbao.rotation_target import CannotTell

PROBE = "/hnai-rotation"
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
