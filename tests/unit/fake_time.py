# SPDX-License-Identifier: Apache-2.0
"""Time for what waits: no test lasts as long as what it tells."""
from __future__ import annotations


class Time:
    """A clock that only sleeping moves; seconds."""

    def __init__(self) -> None:
        self.now = 0.0

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
