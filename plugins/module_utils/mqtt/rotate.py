# SPDX-License-Identifier: Apache-2.0
"""A Mosquitto password as a target of rotation. The broker keeps one password per name, so a pair of identities takes turns: `x` and `x.b`,
with the same rights; the new password belongs to the one that is not in use.

The credential lies encrypted on the broker's host; a reload makes the password file out of what lies there. At a reload mosquitto ends the
sessions of names that are gone (security_default.c, 2.0); proven here with a session of our own that is opened with the old password. Where that is
refused already (a run was killed after the removal) the name is given a password that nobody has, and taken away again under a session of ours.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any, Protocol

from ..credentials import TWIN, base
from ..openbao.rotation_target import CannotTell, Impossible
from .wire import MAX_TEXT, MqttError, MqttRefused

Secret = Mapping[str, Any]


class Session(Protocol):
    """An open session."""

    def alive(self) -> bool:
        """Whether the broker still answers on it."""

    def close(self) -> None:
        """End it."""


_CAME = re.compile(r"^New client connected from (?P<address>\S+) as (?P<client>\S+) \(.*\bu'(?P<user>[^']*)'\)")
_OPENED = re.compile(r"^New (?:connection|client connected) from (?P<address>\S+) ")
_WENT = re.compile(r"^Client (?P<client>\S+) (?:disconnected|closed its connection|has exceeded timeout|has been disconnected)")
#: Client ids of our own checks and of the rotation.
OURS = "hnai-"


def standing(lines: Iterable[str], name: str) -> dict[str, tuple[str, str]]:
    """{client id: (user name, address)} of who is connected under *name* or its twin, by the log of a broker since it started. Without our own."""
    found: dict[str, tuple[str, str]] = {}
    for line in lines:
        came, went = _CAME.match(line), _WENT.match(line)
        if came and not came["client"].startswith(OURS):
            found.pop(came["client"], None)
            if base(came["user"]) == name:
                found[came["client"]] = (came["user"], came["address"])
        elif went:
            found.pop(went["client"], None)
    return found


def unheard(lines: Iterable[str], peers: Iterable[str]) -> list[str]:
    """Of the *peers* (address:port) those whose coming no line tells: they were there before the log begins, and nobody knows as whom."""
    return sorted(set(peers) - {found["address"] for found in map(_OPENED.match, lines) if found})


def uncarried(secret: Secret) -> str:
    """What of it no login can carry, "" where it can. A name with a NUL is a protocol error; of a password Mosquitto compares what is before it (2.0.11)."""
    found = []
    for name in ("username", "password"):
        value = str(secret[name])
        size = len(value.encode("utf-8", "surrogatepass"))
        found += ["%s holds a NUL, which ends it at Mosquitto" % name] if "\0" in value else []
        found += ["%s has %d bytes, MQTT carries %d" % (name, size, MAX_TEXT)] if size > MAX_TEXT else []
    return ", ".join(found)


def successor(secret: Secret, password: Callable[[], str]) -> dict[str, Any]:
    """The next value: the other identity of the pair. Raises ValueError where no login can carry the current one."""
    if uncarried(secret):
        raise ValueError(uncarried(secret))
    name = str(secret["username"])
    return dict(secret, username=base(name) if name.endswith(TWIN) else name + TWIN, password=password())


class MosquittoAdapter:
    """*login* opens a session (MqttRefused, MqttError, OSError); *store* and *remove* a credential on the broker's host; *reload* the broker."""

    supports_overlap = True

    def __init__(
        self, login: Callable[[str, str], Session], store: Callable[[str, str], None], remove: Callable[[str], None], reload: Callable[[], None]
    ) -> None:
        self._login = login
        self._store = store
        self._remove = remove
        self._reload = reload
        self._witness: Session | None = None
        #: The old identity with a password that nobody has, where the old one could open no witness.
        self._stand_in: Secret | None = None
        self._ended = False

    def _open(self, secret: Secret) -> Session | None:
        if uncarried(secret):
            raise Impossible(uncarried(secret))
        try:
            return self._login(secret["username"], secret["password"])
        except MqttRefused as error:
            if error.code in (4, 5):
                return None
            raise CannotTell(str(error)) from error
        except (MqttError, OSError) as error:
            raise CannotTell(str(error)) from error

    def works(self, secret: Secret) -> bool:
        """A login."""
        session = self._open(secret)
        if session is None:
            return False
        session.close()
        return True

    def put(self, secret: Secret) -> None:
        """Store the credential of its identity, reload."""
        self._store(secret["username"], secret["password"])
        self._reload()

    def drop(self, secret: Secret) -> None:
        """Remove the credential of its identity, reload; a session of ours that used it must end by that."""
        self._witness = None if uncarried(secret) else self._open(secret)
        self._stand_in, self._ended = None, False
        self._remove(secret["username"])
        self._reload()

    def shares_place(self, one: Secret, other: Secret) -> bool:
        """Same identity."""
        return bool(one["username"] == other["username"])

    def wrong(self, secret: Secret) -> dict[str, Any]:
        """The same identity, another password."""
        return dict(secret, password=secrets.token_urlsafe(24))

    def sessions(self, secret: Secret) -> list[str]:
        """Our own session of the old identity, while the broker lets it live: what happens to it happens to all of them. Asked until it is empty."""
        if self._ended or uncarried(secret):
            return []
        if self._witness is None and self._stand_in is None:
            self._stand_in = self.wrong(secret)
            self.put(self._stand_in)
        if self._witness is None:
            self._witness = self._open(self._stand_in or secret)
            if self._witness is None:
                return ["not told: the broker does not take up a password for %s" % secret["username"]]
            self._remove(secret["username"])
            self._reload()
        if self._witness.alive():
            return ["a session of %s that was opened before" % secret["username"]]
        with suppress(OSError):
            self._witness.close()
        self._ended = True
        return []
