# SPDX-License-Identifier: Apache-2.0
"""What a rotation does at a target, on the target's side of the network. Pure; the adapter and the fence are parameters.

Every step looks first, so repeating it is harmless, and runs under the fence: a target refuses a step that carries an older version of
the journal than one it has seen. That is what makes a controller harmless that was thought dead and wakes up later.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from .rotation import RotationError

Secret = Mapping[str, Any]


class CannotTell(Exception):
    """Neither accepted nor refused: not reachable, or an answer that makes no sense. Never taken for a refusal."""


class Impossible(CannotTell):
    """No login can carry this value, so nobody lives on it."""


class Refusals:
    """Logins of ours that a server refused: each stands in its log, and must be told from those of others.

    Without the user's name: it is a value of an argument that is not logged, and would come out as stars.
    """

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self.found: list[dict[str, str]] = []
        self._now = now

    def note(self, server: str, client: str = "", end: str = "") -> None:
        """One. *end* is our own end of its connection, address:port, which a server's log has where it has no name of the client."""
        at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self._now()))
        self.found.append({"at": at, "server": server, "client": client, "end": end})


class Fence(Protocol):
    """The highest journal version that this target has seen."""

    def pass_(self, version: int) -> bool:
        """True and remembered where *version* is not older than any before; atomic with what follows (the caller holds the lock)."""


class Adapter(Protocol):
    """One kind of credential at one target."""

    supports_overlap: bool

    def works(self, secret: Secret) -> bool:
        """A login: accepted or refused. Raises CannotTell, Impossible."""

    def put(self, secret: Secret) -> None:
        """Make it valid, beside what is valid."""

    def drop(self, secret: Secret) -> None:
        """End it. Nothing happens where it is not valid."""

    def shares_place(self, one: Secret, other: Secret) -> bool:
        """Whether putting one overwrites the other."""

    def wrong(self, secret: Secret) -> Secret:
        """The same identity with a value that is not its own."""

    def sessions(self, secret: Secret) -> list[str]:
        """Sessions that were opened with it and live. Raises CannotTell."""


class Target:
    """The steps. *patience_s*: how long the target may take until what was written is in force."""

    def __init__(
        self,
        adapter: Adapter,
        fence: Fence,
        patience_s: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._adapter = adapter
        self._fence = fence
        self._patience_s = patience_s
        self._clock = clock
        self._sleep = sleep

    def _guard(self, version: int) -> None:
        if not self._fence.pass_(version):
            raise RotationError(
                "this target has seen a later step of the rotation: another controller works on it, or OpenBao is older than it was (a snapshot, a new store: "
                "docs/rotation.md, runbook). Nothing was changed here"
            )

    def _works(self, secret: Secret) -> bool:
        try:
            return self._adapter.works(secret)
        except Impossible:
            return False

    def _until(self, secret: Secret, accepted: bool) -> bool:
        end = self._clock() + self._patience_s
        while self._adapter.works(secret) is not accepted:
            if self._clock() >= end:
                return False
            self._sleep(0.2)
        return True

    def provision(self, old: Secret, new: Secret, fence: int) -> dict[str, Any]:
        """The new credential is valid beside the old one: {new_works, wrong_refused, old_works, changed}."""
        self._guard(fence)
        if self._adapter.supports_overlap and self._adapter.shares_place(old, new):
            raise RotationError("the new value would overwrite the old one at the target: roll this run back and begin again")
        changed = not self._adapter.works(new)
        if changed:
            self._adapter.put(new)
        return {
            "new_works": self._until(new, True),
            # Once per target and run: a wrong login is an event in somebody's log.
            "wrong_refused": not self._adapter.works(self._adapter.wrong(new)),
            "old_works": self._works(old) if self._adapter.supports_overlap else None,
            "changed": changed,
        }

    def _end(self, dead: Secret, alive: Secret, fence: int) -> tuple[bool, bool, bool]:
        self._guard(fence)
        # Never end the one before the other is known to work: that would be the outage. Where a hand took it away at the target it is put there again:
        # the consumers have it, and after the commit nothing else leads on.
        if not self._until(alive, True):
            self._adapter.put(alive)
            if not self._until(alive, True):
                raise RotationError("the credential that is to stay does not work at the target, though it was put there again: nothing was ended there")
        return self._drop(dead, alive)

    def _drop(self, dead: Secret, alive: Secret) -> tuple[bool, bool, bool]:
        changed, shared = self._works(dead), self._adapter.shares_place(dead, alive)
        if changed and shared:
            raise RotationError("both values are accepted in one place: the target is not what the adapter takes it for")
        if not shared:
            # Also where it is refused: what lies in its place then is a value that a hand put there, or one that nobody knows any more.
            self._adapter.drop(dead)
        try:
            refused = self._until(dead, False)
        except Impossible:
            refused = True
        return refused, self._works(alive), changed

    def revoke(self, old: Secret, new: Secret, fence: int) -> dict[str, Any]:
        """The old credential is refused and no session of it lives: {old_refused, new_works, no_old_session, sessions, changed}."""
        refused, works, changed = self._end(old, new, fence)
        left = self._adapter.sessions(old)
        end = self._clock() + self._patience_s
        while left and self._clock() < end:
            self._sleep(0.2)
            left = self._adapter.sessions(old)
        return {"old_refused": refused, "new_works": works, "no_old_session": not left, "sessions": left, "changed": changed}

    def withdraw(self, old: Secret, new: Secret, fence: int) -> dict[str, Any]:
        """Rollback: the new credential is refused again, the old one works: {new_refused, old_works, changed}.

        With `old_impossible` where the old one never can: what the run made is taken back all the same.
        """
        if not self._adapter.supports_overlap and not self._adapter.works(old):
            self._guard(fence)
            self._adapter.put(old)
        try:
            refused, works, changed = self._end(new, old, fence)
        except Impossible:
            refused, _works, changed = self._drop(new, old)
            return {"new_refused": refused, "old_works": False, "old_impossible": True, "changed": changed}
        return {"new_refused": refused, "old_works": works, "changed": changed}
