# SPDX-License-Identifier: Apache-2.0
"""Time in 100-ns ticks since 1970-01-01Z, and a pace of steps that never bursts."""
from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

TICKS_PER_S = 10_000_000


def ticks() -> int:
    """Now."""
    return time.time_ns() // 100


async def pace(step_s: float) -> AsyncIterator[None]:
    """Yield once per *step_s*. After a stall the missed steps are skipped; two steps are never nearer than half of one."""
    due = time.monotonic()
    while True:
        due = max(due, time.monotonic() - step_s / 2) + step_s
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        yield
