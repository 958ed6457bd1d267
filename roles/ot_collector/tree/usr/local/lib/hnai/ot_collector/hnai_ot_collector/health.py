# SPDX-License-Identifier: Apache-2.0
"""What a source is like now, for the status file."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from .record import TICKS_PER_S


@dataclass
class Health:
    """State of one source. Times in ticks."""

    source: str
    protocol: str
    tags: int
    now: Callable[[], int]
    state: str = "starting"
    detail: str = ""
    since: int | None = None
    last_heard: int | None = None
    attempts: int = 0
    connects: int = 0
    losses: int = 0
    clock_offset_s: float | None = None
    failed: dict[str, int] = field(default_factory=dict)
    small_queues: dict[str, int] = field(default_factory=dict)
    limits: dict[str, int] = field(default_factory=dict)
    subscription: dict[str, float] = field(default_factory=dict)
    node: dict[str, Any] | None = None
    pin: str = ""

    def connected(self, pin: str = "") -> None:
        """A session is open; *pin*: sha256 of the certificate of an OPC UA server, one of those that are pinned."""
        self.pin = pin
        self.state, self.detail, self.since = "connected", "", self.now()
        self.connects += 1

    def lost(self) -> None:
        """The session is gone."""
        self.state, self.since = "lost", self.now()
        self.losses += 1

    def heard(self) -> None:
        """The source answered."""
        self.last_heard = self.now()

    def clock(self, server_time: int) -> None:
        """Smooth the difference server minus us; single delays must not look like a wrong clock."""
        offset = (server_time - self.now()) / TICKS_PER_S
        self.clock_offset_s = offset if self.clock_offset_s is None else 0.9 * self.clock_offset_s + 0.1 * offset

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        more: dict[str, Any] = {} if self.node is None else {"node": self.node}
        if self.pin:
            more["pin"] = self.pin
        return {
            **more,
            "source": self.source, "protocol": self.protocol, "tags": self.tags, "state": self.state, "detail": self.detail,
            "since": self.since, "last_heard": self.last_heard, "attempts": self.attempts, "connects": self.connects,
            "losses": self.losses, "clock_offset_s": self.clock_offset_s,
            "failed": {name: "0x%08X" % status for name, status in sorted(self.failed.items())},
            "small_queues": dict(sorted(self.small_queues.items())), "limits": self.limits, "subscription": self.subscription,
        }
