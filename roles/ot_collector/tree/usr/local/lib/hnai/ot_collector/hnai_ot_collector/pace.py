# SPDX-License-Identifier: Apache-2.0
"""When to dial again: soon after a loss, never beyond the conduit's limit on new connections, slower when refused.

A token bucket bounds every attempt: the conduit's ``new_per_minute``, at most ``burst`` at once (the router has the same
bucket, and drops what is beyond it without a word). Below that: after 1 s, after 4 more, then every 5 s, every 30 s
after five minutes. With the default conduit (6 per minute, 2 at once) that is 1, 5, 11, 21, 31 s ... after a loss, so data
flow again about 10 s after the cause is gone at the latest. A refusal (certificate, too many sessions) waits 5, 10, 20,
30 s: a device that said no must not be asked again and again.
"""
from __future__ import annotations

from collections.abc import Callable

LONG_S = 300.0
STABLE_S = 30.0


class Pacer:
    """*clock* gives seconds that only grow."""

    def __init__(self, new_per_minute: int, burst: int, clock: Callable[[], float]) -> None:
        self._rate, self._burst, self._clock = new_per_minute / 60.0, float(burst), clock
        self._tokens, self._filled = float(burst), clock()
        self._since: float | None = None
        self._failures = 0
        self._refusals = 0
        self._not_before = clock()
        self._connected: float | None = None

    def _fill(self) -> None:
        now = self._clock()
        self._tokens = min(self._burst, self._tokens + (now - self._filled) * self._rate)
        self._filled = now

    def wait_s(self) -> float:
        """Seconds until the next attempt is allowed."""
        self._fill()
        token = 0.0 if self._tokens >= 1.0 else (1.0 - self._tokens) / self._rate
        return max(0.0, token, self._not_before - self._clock())

    def spend(self) -> None:
        """An attempt is made now."""
        self._fill()
        self._tokens -= 1.0

    def connected(self) -> None:
        """Data can flow."""
        self._connected = self._clock()

    def failed(self, refused: bool = False) -> None:
        """An attempt failed, or a connection was lost; a connection that held for 30 s wipes the slate."""
        now = self._clock()
        if self._connected is not None and now - self._connected >= STABLE_S:
            self._failures = self._refusals = 0
            self._since = None
        self._connected = None
        if self._since is None:
            self._since = now
        if refused:
            delay = min(30.0, 5.0 * 2.0 ** min(self._refusals, 3))
            self._refusals += 1
        elif now - self._since > LONG_S:
            delay = 30.0
        else:
            delay = (1.0, 4.0, 5.0)[min(self._failures, 2)]
            self._failures += 1
        self._not_before = now + delay
