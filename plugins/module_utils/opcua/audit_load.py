# SPDX-License-Identifier: Apache-2.0
"""How hard the audit may lean on a server: a budget per second, batches that find their size, an alarm on our own latency.

Counted are ReadValueIds, Browse descriptions and continuation points. An operation counts from the moment it is sent until
one second after its answer came: whatever the network does in between, no second at the server sees more than the budget.
"""
from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from statistics import median
from typing import Any

from .audit_types import Busy, Overloaded, TooMany

WINDOW_S = 1.0
READ, BROWSE = "read", "browse"


class Budget:
    """Operations per second. *clock* gives seconds that only grow."""

    def __init__(self, per_second: int, clock: Callable[[], float], sleep: Callable[[float], Awaitable[None]]) -> None:
        if per_second < 1:
            raise ValueError("a budget of %d operations per second reads nothing" % per_second)
        self.per_second, self._clock, self._sleep = per_second, clock, sleep
        self._done: deque[tuple[float, int]] = deque()
        self._in_flight = self._lately = 0
        self.total = 0
        self.waited_s = 0.0

    def _used(self) -> int:
        now = self._clock()
        while self._done and self._done[0][0] <= now - WINDOW_S:
            self._lately -= self._done.popleft()[1]
        return self._in_flight + self._lately

    async def take(self, count: int) -> None:
        """Wait until *count* operations may be sent; they are in flight then."""
        while self._used() + count > self.per_second and self._used():
            now = self._clock()
            wait = self._done[0][0] + WINDOW_S - now if self._done else 0.01
            wait = min(max(wait, 0.001), WINDOW_S)
            self.waited_s += wait
            await self._sleep(wait)
        self._in_flight += count
        self.total += count

    def give_back(self, count: int) -> None:
        """Their answer came, or never will."""
        self._in_flight -= count
        self._lately += count
        self._done.append((self._clock(), count))


class Batch:
    """Size of one kind of request: 1, 2, 4 … until the limit, the ceiling or a refusal; then back to what worked, for good.

    Twice the last good size is asked for at most, so a server that tells no limits refuses once.
    """

    def __init__(self, limit: int, ceiling: int) -> None:
        self.limit = max(1, min(limit, ceiling) if limit > 0 else ceiling)
        self.size = 1
        self.good = 0
        self._climbing = True

    def worked(self, count: int) -> None:
        """A request of *count* operations was answered."""
        self.good = max(self.good, count)
        if count >= self.size and self.size < self.limit:
            self.size = min(self.limit, self.size * 2 if self._climbing else self.size + max(1, self.size // 10))

    def refused(self, count: int) -> None:
        """A request of *count* was too many: never again more than what worked."""
        self.limit = max(1, min(self.good or count // 2, count - 1))
        self.size = min(self.size, self.limit)
        self._climbing = False

    def shrink(self, size: int) -> None:
        """To *size*, because a part of the request could not be served; grows slowly from here."""
        self.size = max(1, min(self.size, size))
        self._climbing = False

    def halve(self) -> None:
        """Multiplicative decrease; grows slowly from here."""
        self.size = max(1, self.size // 2)
        self._climbing = False


class Alarm:
    """The first alarm backs off, the second raises Overloaded."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def raise_(self, why: str) -> None:
        """Note *why*. Raises Overloaded the second time."""
        self.events.append(why)
        if len(self.events) > 1:
            raise Overloaded("; then ".join(self.events))


class Governor:
    """Sends requests inside budget, batch sizes and alarm.

    *probe* reads one attribute; its latency against the median of its first five is the alarm: above twice of it and above it
    by *floor_s*, median of three.
    """

    BASELINE, RECENT = 5, 3

    def __init__(self, budget: Budget, batches: dict[str, Batch], clock: Callable[[], float], sleep: Callable[[float], Awaitable[None]],
                 probe: Callable[[], Awaitable[Any]], floor_s: float = 0.02, interval_s: float = 2.0, rest_s: float = 5.0) -> None:
        self.budget, self.batches, self.alarm = budget, batches, Alarm()
        self._clock, self._sleep, self._probe = clock, sleep, probe
        self._floor_s, self._interval_s, self._rest_s = floor_s, interval_s, rest_s
        self.baseline_s = 0.0
        self._recent: deque[float] = deque(maxlen=self.RECENT)
        self._due = 0.0
        self.worst_s = 0.0
        self.requests = 0
        self.refusals: dict[str, list[int]] = {}

    async def _timed_probe(self) -> float:
        await self.budget.take(1)
        begin = self._clock()
        try:
            await self._probe()
        finally:
            self.budget.give_back(1)
        self.requests += 1
        return self._clock() - begin

    async def _probed(self) -> float | None:
        """Latency of a probe; None after backing off, because the server had no resources even for that."""
        try:
            return await self._timed_probe()
        except (Busy, TooMany) as error:
            await self._back_off(str(error) or "a read of one attribute is too many")
            return None

    async def start(self) -> None:
        """Measure the baseline."""
        taken: list[float] = []
        while len(taken) < self.BASELINE:
            latency = await self._probed()
            taken += [] if latency is None else [latency]
        self.baseline_s = median(taken)
        self._due = self._clock() + self._interval_s

    @property
    def bound_s(self) -> float:
        """Latency above which the alarm rings."""
        return max(2 * self.baseline_s, self.baseline_s + self._floor_s)

    async def _watch(self) -> None:
        if self._clock() < self._due:
            return
        self._due = self._clock() + self._interval_s
        latency = await self._probed()
        if latency is None:
            return
        self.worst_s = max(self.worst_s, latency)
        self._recent.append(latency)
        if latency > self.bound_s and len(self._recent) < self.RECENT:
            self._due = self._clock()
        if len(self._recent) == self.RECENT and median(self._recent) > self.bound_s:
            await self._back_off("a read takes %.0f ms, %.0f ms at the start" % (median(self._recent) * 1000, self.baseline_s * 1000))

    async def _back_off(self, why: str) -> None:
        self.alarm.raise_(why)
        self._recent.clear()
        self.budget.per_second = max(1, self.budget.per_second // 2)
        for batch in self.batches.values():
            batch.halve()
        await self._sleep(self._rest_s)
        self._due = self._clock()

    def size(self, kind: str) -> int:
        """How many operations the next request of *kind* may hold."""
        return max(1, min(self.batches[kind].size, self.budget.per_second))

    async def send(self, kind: str, count: int, request: Callable[[], Awaitable[Any]]) -> Any:
        """The answer of *request* with *count* operations, or None: ask again with ``size(kind)``. Raises Overloaded."""
        await self._watch()
        await self.budget.take(count)
        self.requests += 1
        try:
            answer = await request()
        except TooMany:
            self._too_many(kind, count)
            return None
        except Busy as error:
            problem = str(error)
        else:
            self.batches[kind].worked(count)
            return answer
        finally:
            self.budget.give_back(count)
        await self._back_off(problem)
        return None

    def _too_many(self, kind: str, count: int) -> None:
        """Its size is what was wrong: back to what worked, once per service; again means the server gets worse."""
        if count > self.batches[kind].limit:
            return
        self.refusals.setdefault(kind, []).append(count)
        if len(self.refusals[kind]) > 1:
            raise Overloaded("%s of %s operations in one call was too many for the server" % (
                kind, " and then of ".join(str(one) for one in self.refusals[kind])))
        self.batches[kind].refused(count)
