# SPDX-License-Identifier: Apache-2.0
"""An OPC UA source: connect, subscribe or poll, notice when it goes quiet, begin anew.

Each connect makes everything fresh: session, namespace table, operation limits, subscription, items. Nothing is revived.
"""
from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from .config import OpcuaSource, OpcuaTag
from .health import Health
from .pace import Pacer
from .record import BAD_NO_COMMUNICATION, BAD_NODE_ID_INVALID, BAD_NODE_ID_UNKNOWN, TICKS_PER_MS, is_bad
from .stream import Stream
from .ua_channel import Channel, IdentityRejected, Item, LinkError, Notification, Refused, Silent, TooManyOperations, TooManyPublishRequests, Value

LOCK_AFTER = 2
"""Identical identity rejections after which a person is needed."""
IN_FLIGHT = 3
"""Publish requests that wait at the server, or as many as it takes."""
CLOSE_S = 1.0
GONE = (BAD_NODE_ID_INVALID, BAD_NODE_ID_UNKNOWN)
"""What an item says whose node was deleted. Some servers' items never speak again, even when a node of that name is made anew."""
SWEEP = 5
"""A part of the reading budget is for items that do not speak: one in so many."""


class Lock:
    """The identity lock-out: closed after two identical rejections, opened by a person (SIGHUP or a restart)."""

    def __init__(self, rejections: int = 0, code: int = 0) -> None:
        self.rejections, self.code = rejections, code
        self.opened = asyncio.Event()

    @property
    def closed(self) -> bool:
        """True: never dial."""
        return self.rejections >= LOCK_AFTER

    def rejected(self, code: int) -> None:
        """Count a rejection; another code starts from one."""
        self.rejections = self.rejections + 1 if code == self.code else 1
        self.code = code

    def accepted(self) -> None:
        """The identity is good."""
        self.rejections, self.code = 0, 0

    def open(self) -> None:
        """A person says: try again."""
        self.accepted()
        self.opened.set()


class OpcuaCollector:
    """Runs one source for ever. *connect* makes a new Channel."""

    def __init__(self, source: OpcuaSource, stream: Stream, health: Health, password: Callable[[], str], log: Any,
                 lock: Lock, connect: Callable[[OpcuaSource, str], Channel] = Channel) -> None:
        self.source, self.stream, self.health, self.lock = source, stream, health, lock
        self._password, self._log, self._connect = password, log, connect
        self._pacer = Pacer(source.limits.new_per_minute, source.limits.burst, time.monotonic)
        self._channel: Channel | None = None
        self._names = [tag.name for tag in source.tags]
        self._failed: dict[int, int] = {}
        self._sequence: int | None = None
        self._in_flight = IN_FLIGHT
        self._reread: list[int] = []
        self._items: dict[int, int] = {}
        self._spoke: dict[int, float] = {}
        self._doubted: dict[int, float] = {}
        self._agreed: dict[int, int | None] = {}
        # What changed may lie in the server, not sampled yet, for so long.
        self._unsampled = int(max([tag.sampling_ms for tag in source.tags if not (tag.cyclic or tag.poll)], default=0) * TICKS_PER_MS)
        self._silence_s = source.silence_s
        self._items_per_call = source.limits.items_per_call
        self._reads_per_call = source.limits.reads_per_call
        self._queue_warned: set[int] = set()
        self._sampling_warned: set[int] = set()
        self._stopping = False

    # -- the loop -----------------------------------------------------------------------------------------
    async def run(self) -> None:
        """Until cancelled or stopped."""
        while not self._stopping:
            if self.lock.closed:
                self.health.state, self.health.detail = "locked", (
                    "identity rejected %d times (0x%08X): check user and password, then SIGHUP or restart" % (
                        self.lock.rejections, self.lock.code))
                self._log.error("E! %s: %s", self.source.id, self.health.detail)
                self.lock.opened.clear()
                await self.lock.opened.wait()
            wait = self._pacer.wait_s()
            if wait:
                self.health.state = "waiting"
                await asyncio.sleep(wait)
            try:
                await self._once()
            except Exception as error:
                # What nobody foresaw costs this source a connection, never the other sources their process.
                self.health.detail = "%s: %s" % (type(error).__name__, error)
                self._log.exception("E! %s: unforeseen: %s", self.source.id, self.health.detail)
                self._pacer.failed(refused=True)

    async def _once(self) -> None:
        """One connection from dialling to its end."""
        source, health = self.source, self.health
        health.state = "connecting"
        health.attempts += 1
        self._pacer.spend()
        try:
            channel = self._connect(source, self._password())
        except (OSError, ValueError) as error:
            health.detail = str(error)
            self._log.error("E! %s: %s", source.id, error)
            self._pacer.failed(refused=True)
            return
        self._channel = channel
        refused = silent = False
        try:
            await channel.open()
            self.lock.accepted()
            health.connected(channel.pin)
            self._pacer.connected()
            self._log.info("I! %s: session open", source.id)
            await self._work(channel)
        except IdentityRejected as error:
            self.lock.rejected(error.code)
            health.detail, refused = str(error), True
            self._log.error("E! %s: identity rejected: %s", source.id, error)
        except Refused as error:
            health.detail, refused = str(error), True
            self._log.error("E! %s: refused: %s", source.id, error)
        except (LinkError, TooManyOperations) as error:
            health.detail, silent = str(error) or type(error).__name__, isinstance(error, Silent)
            self._log.warning("W! %s: link lost or not made: %s", source.id, health.detail)
        finally:
            self._channel = None
            if health.state == "connected":
                self.stream.lost("collector_stop" if self._stopping else "link_lost")
                health.lost()
                if not silent and not self._stopping:
                    # An abandoned session lives on at the server until its time-out: a few attempts would take all that a PLC has.
                    await channel.close(CLOSE_S)
            channel.abort()
            if not self._stopping:
                self.stream.unheard(BAD_NO_COMMUNICATION)
        self._pacer.failed(refused)

    async def stop(self, timeout_s: float) -> None:
        """Close the session, so that the server need not wait for its time-out."""
        self._stopping = True
        if self._channel is not None:
            await self._channel.close(timeout_s)

    async def _work(self, channel: Channel) -> None:
        """Everything of one session; returns only by an exception."""
        source = self.source
        reads, items = await channel.operation_limits()
        self._reads_per_call = min(source.limits.reads_per_call, reads or source.limits.reads_per_call)
        self._items_per_call = min(source.limits.items_per_call, items or source.limits.items_per_call)
        self.health.limits = {"reads_per_call": self._reads_per_call, "items_per_call": self._items_per_call}
        self._failed, self._sequence, self._reread = {}, None, []
        self._items, self._spoke, self._doubted, self._agreed = {}, {}, {}, {}
        jobs: list[Awaitable[None]] = []
        subscribed = [index for index, tag in enumerate(source.tags) if not tag.poll]
        polled = [index for index, tag in enumerate(source.tags) if tag.poll]
        if subscribed:
            interval, keepalive, lifetime = await channel.subscribe()
            self._silence_s = source.silent_keepalives * keepalive * interval / 1000.0
            self.health.subscription = {
                "publishing_ms": interval, "keepalive_count": keepalive, "lifetime_count": lifetime, "silence_s": self._silence_s}
            jobs.append(self._publish(channel))
        jobs.append(self._maintain(channel, subscribed, polled))
        tasks = [asyncio.ensure_future(job) for job in jobs]
        try:
            # Not gather: a cancellation that meets a failing child would be lost in it.
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for task in done:
            task.result()

    # -- items --------------------------------------------------------------------------------------------
    async def _resolve(self, channel: Channel, indices: Iterable[int]) -> dict[int, Any]:
        """NodeIds by today's namespace table; a URI that the server does not have costs only its own tags."""
        table = {uri: number for number, uri in enumerate(await channel.namespaces())}
        nodes: dict[int, Any] = {}
        for index in indices:
            tag = self.source.tags[index]
            number = 0 if not tag.uri else table.get(tag.uri)
            if number is None:
                self._item_failed(index, BAD_NODE_ID_UNKNOWN, "namespace %s is not on the server" % tag.uri)
            else:
                nodes[index] = channel.node(number, tag.kind, tag.identifier)
        return nodes

    def _item_failed(self, index: int, status: int, why: str) -> None:
        tag = self.source.tags[index]
        if self._failed.get(index) != status:
            self._log.warning("W! %s/%s (%s=%s): 0x%08X %s", self.source.id, tag.name, tag.kind, tag.identifier, status, why)
        self._failed[index] = status
        self.health.failed[tag.name] = status
        self.stream.failure(tag.name, status)

    def _item_works(self, index: int) -> None:
        if self._failed.pop(index, None) is not None:
            self._log.info("I! %s/%s: can be read again", self.source.id, self._names[index])
        self.health.failed.pop(self._names[index], None)

    async def _monitor(self, channel: Channel, nodes: dict[int, Any]) -> None:
        """Create items in calls that the server takes, in place of those that there are; what is refused is kept by name."""
        old = [self._items.pop(index) for index in nodes if index in self._items]
        for first in range(0, len(old), self._items_per_call):
            await channel.delete_items(old[first:first + self._items_per_call])
        todo = deque(sorted(nodes))
        while todo:
            batch = [todo.popleft() for _ in range(min(self._items_per_call, len(todo)))]
            try:
                results = await channel.create_items([
                    Item(index, nodes[index], self.source.tags[index].sampling_ms, self.source.tags[index].queue)
                    for index in batch])
            except TooManyOperations:
                if self._items_per_call <= 1 or len(batch) <= 1:
                    raise
                self._items_per_call = max(1, len(batch) // 2)
                self.health.limits["items_per_call"] = self._items_per_call
                self._log.warning("W! %s: too many items in one call, now %d", self.source.id, self._items_per_call)
                todo.extendleft(reversed(batch))
                continue
            for index, result in zip(batch, results):
                if is_bad(result.status):
                    self._item_failed(index, result.status, "the server does not monitor it")
                    continue
                self._item_works(index)
                self._items[index], self._spoke[index] = result.item, time.monotonic()
                self._check_queue(index, self.source.tags[index], result.queue)
                self._check_sampling(index, self.source.tags[index], result.sampling_ms)

    def _check_queue(self, index: int, tag: OpcuaTag, revised: int) -> None:
        if revised >= tag.queue:
            self.health.small_queues.pop(tag.name, None)
            return
        self.health.small_queues[tag.name] = revised
        if index not in self._queue_warned:
            self._queue_warned.add(index)
            self._log.warning("W! %s/%s: the server queues %d values, %d were asked for: an outage beyond that is a gap",
                              self.source.id, tag.name, revised, tag.queue)

    def _check_sampling(self, index: int, tag: OpcuaTag, revised_ms: float) -> None:
        if revised_ms > tag.sampling_ms and index not in self._sampling_warned:
            self._sampling_warned.add(index)
            self._log.warning("W! %s/%s: the server samples every %g ms, %g were asked for: what changes in between is not seen",
                              self.source.id, tag.name, revised_ms, tag.sampling_ms)

    async def _maintain(self, channel: Channel, subscribed: list[int], polled: list[int]) -> None:
        """Create the items, retry what failed, poll what is polled, repeat what is quiet."""
        source = self.source
        at_once = int(source.limits.reads_per_second) or 1
        nodes = await self._resolve(channel, [*subscribed, *polled])
        await self._monitor(channel, {index: nodes[index] for index in subscribed if index in nodes})
        due = dict.fromkeys(polled, time.monotonic())
        retry_at = time.monotonic() + source.retry_s
        sweep_at = time.monotonic()
        while True:
            now = time.monotonic()
            ready = [index for index in polled if index in nodes and due[index] <= now]
            if ready:
                await self._poll(channel, ready, nodes)
                for index in ready:
                    period = source.tags[index].sampling_ms / 1000.0
                    due[index] = due[index] + period if due[index] + period > now else now + period
            if now >= retry_at:
                retry_at = now + source.retry_s
                again = [index for index in self._failed if index in subscribed] + self._dead(now)
                lost = [index for index in self._failed if index in polled and index not in nodes]
                if again or lost:
                    found = await self._resolve(channel, [*again, *lost])
                    nodes.update(found)
                    await self._monitor(channel, {index: found[index] for index in again if index in found})
                if not polled and not subscribed:
                    await channel.operation_limits()
            # No quicker than the budget; the rest in a second.
            ready, self._reread = self._reread[:at_once], self._reread[at_once:]
            await self._poll(channel, [index for index in ready if index in nodes], nodes)
            if now >= sweep_at:
                sweep_at = now + 1.0
                await self._sweep(channel, nodes, max(1, at_once // SWEEP))
            self.stream.repeats()
            wake = min([retry_at, now + 1.0, *(due[index] for index in polled if index in nodes)])
            await asyncio.sleep(max(0.01, wake - time.monotonic()))

    # -- items that do not speak --------------------------------------------------------------------------
    async def _sweep(self, channel: Channel, nodes: dict[int, Any], count: int) -> None:
        """Read up to *count* tags whose items have been quiet for as long as a repeat takes, the longest first: a keep-alive says that the
        subscription lives, not that each of its items does."""
        since = time.monotonic() - self.source.repeat_s
        quiet = [index for index, spoke in self._spoke.items()
                 if spoke <= since and index in nodes and index not in self._failed and index not in self._doubted]
        await self._poll(channel, sorted(quiet, key=lambda index: self._spoke[index])[:count], nodes, self._compared)

    def _compared(self, index: int, value: Value) -> None:
        self._spoke[index] = time.monotonic()
        if value.source_ts is None and is_bad(value.status):
            self._item_failed(index, value.status, "the server does not read it any more")
        elif self.stream.differs(self._names[index], value.value, value.status):
            # The change may be on its way.
            tag = self.source.tags[index]
            self._doubted[index] = time.monotonic() + max(self.source.retry_s, (2.0 * tag.sampling_ms + self.source.publishing_ms) / 1000.0)
        else:
            self._agreed[index] = self.stream.alive

    def _dead(self, now: float) -> list[int]:
        """Those whose items did not tell what was read, with a gap of each."""
        dead = [index for index, due in self._doubted.items() if due <= now]
        for index in dead:
            del self._doubted[index]
            self._log.warning("W! %s/%s: its item does not tell what the server has: it is made anew", self.source.id, self._names[index])
            self.stream.lost("item_silent", [self._names[index]], self._agreed.get(index) or 0)
        return dead

    def _spoken(self, index: int, status: int) -> None:
        self._spoke[index] = time.monotonic()
        self._doubted.pop(index, None)
        if status not in GONE:
            self._item_works(index)
        elif index not in self._failed:
            self._log.warning("W! %s/%s: 0x%08X the node is gone", self.source.id, self._names[index], status)
            self._failed[index] = self.health.failed[self._names[index]] = status

    async def _poll(self, channel: Channel, indices: list[int], nodes: dict[int, Any], take: Callable[[int, Value], None] | None = None) -> None:
        take = take or self._polled
        todo = deque(indices)
        while todo:
            batch = [todo.popleft() for _ in range(min(self._reads_per_call, len(todo)))]
            try:
                values = await channel.read([nodes[index] for index in batch])
            except TooManyOperations:
                if len(batch) <= 1:
                    raise
                self._reads_per_call = max(1, len(batch) // 2)
                self.health.limits["reads_per_call"] = self._reads_per_call
                self._log.warning("W! %s: too many nodes in one read, now %d", self.source.id, self._reads_per_call)
                todo.extendleft(reversed(batch))
                continue
            self.health.heard()
            for index, value in zip(batch, values):
                take(index, value)

    def _polled(self, index: int, value: Value) -> None:
        if value.source_ts is None and is_bad(value.status):
            self._item_failed(index, value.status, "the server does not read it")
            return
        self._item_works(index)
        self.stream.polled(self._names[index], value.value, value.status, value.source_ts, value.server_ts)

    # -- publishing ---------------------------------------------------------------------------------------
    async def _publish(self, channel: Channel) -> None:
        """Keep requests at the server and take what comes, in order; no answer for three keep-alives = link lost."""
        waiting: deque[asyncio.Task[Notification]] = deque()
        acknowledge: list[int] = []
        try:
            while True:
                while len(waiting) < self._in_flight:
                    waiting.append(asyncio.create_task(channel.publish(acknowledge)))
                    acknowledge = []
                first = waiting.popleft()
                try:
                    async with asyncio.timeout(self._silence_s):
                        notification = await first
                except TooManyPublishRequests:
                    if self._in_flight == 1:
                        raise
                    self._in_flight -= 1
                    self._log.warning("W! %s: the server takes %d publish requests at once", self.source.id, self._in_flight)
                    continue
                except TimeoutError as error:
                    raise Silent("nothing published for %.1f s" % self._silence_s) from error
                if not notification.keep_alive:
                    acknowledge.append(notification.sequence)
                self._take(notification)
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)

    def _take(self, notification: Notification) -> None:
        expected, number = self._sequence, notification.sequence
        if expected is not None and number != expected:
            self._log.warning("W! %s: notification %d instead of %d: samples are missing", self.source.id, number, expected)
            self.stream.lost("sequence_jump", [tag.name for tag in self.source.tags if not tag.poll])
            # What changes seldom would stay a gap until it does: it is read once. A cyclic tag speaks soon.
            self._reread = [index for index, tag in enumerate(self.source.tags) if not (tag.poll or tag.cyclic)]
        # A keep-alive carries the number that the next notification will have.
        self._sequence = number if notification.keep_alive else (number % 0xFFFFFFFF) + 1
        self.health.heard()
        if not notification.more:
            # By the clock that stamps the samples, which may be hours off ours.
            self.stream.heard((notification.server_time or self.stream.now()) - self._unsampled)
        if notification.server_time is not None:
            self.health.clock(notification.server_time)
        for handle, value in notification.values:
            self._spoken(handle, value.status)
            self.stream.sample(self._names[handle], value.value, value.status, value.source_ts, value.server_ts)
        if notification.ended is not None:
            raise LinkError("the server ended the subscription (0x%08X)" % notification.ended)
