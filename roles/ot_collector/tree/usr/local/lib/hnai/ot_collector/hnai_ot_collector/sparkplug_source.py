# SPDX-License-Identifier: Apache-2.0
"""A Sparkplug B edge node behind the site's broker: a session that only listens.

The records of a message are taken out of the pipe, then what it said is remembered on disk (`Memory`), then it is acknowledged: a kill
between two of these loses nothing, the broker sends the message again; at worst its samples are told twice. The program has no packet
that publishes (`subscriber`), so no birth can be asked for; `sparkplug_node` says what follows from that.
"""
from __future__ import annotations

import asyncio
import json
import os
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import dial, subscriber
from .config import SparkplugSource
from .health import Health
from .outlet import Outlet
from .pace import Pacer
from .record import TICKS_PER_S
from .sparkplug import SparkplugError, filters, topic_of
from .sparkplug_node import Heard, Lost, Node, Sample, Tag
from .stream import Stream
from .subscriber import Delivery, Pong, Subscribed, SubscriberError, Welcome

PING_S = 5.0
SILENT_S = 15.0
"""Without any packet for this long, although asked, the broker is gone."""
CHUNK = 8192
"""Bytes read at once: fewer messages than `sparkplug_node.RECENT`, so that each one that comes again is known."""
SETTLE_S = 0.02


class Refused(Exception):
    """The broker said no: asked again slowly."""


class Memory:
    """One file; replaced as a whole, so that a kill leaves the old one or the new one."""

    def __init__(self, path: Path, log: Any) -> None:
        self.path, self._log = path, log

    def read(self) -> dict[str, Any]:
        """What was left; empty where there is nothing that can be used, which costs every birth."""
        try:
            memory = json.loads(self.path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            self._log.error("E! %s: %s: births are not known until the node is born again", self.path, error)
            return {}
        return memory if isinstance(memory, dict) else {}

    def write(self, body: dict[str, Any], durable: bool) -> None:
        """Replace it; *durable*: also against a power cut (births; what else changes comes again)."""
        temporary = self.path.with_name(".%s.tmp" % self.path.name)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o640)
        with os.fdopen(descriptor, "w", encoding="utf-8") as handle:
            json.dump(body, handle, separators=(",", ":"))
            if durable:
                handle.flush()
                os.fsync(handle.fileno())
        temporary.replace(self.path)


class SparkplugCollector:
    """Runs one edge node for ever. *identity* (user name and password) is read at each connect; *connect* gives (reader, writer)."""

    def __init__(self, source: SparkplugSource, stream: Stream, health: Health, outlet: Outlet, identity: Callable[[], tuple[str, str]], memory: Path,
                 log: Any) -> None:
        self.source, self.stream, self.health, self.outlet = source, stream, health, outlet
        self._identity, self._log = identity, log
        self._memory = Memory(memory, log)
        self._pacer = Pacer(source.limits.new_per_minute, source.limits.burst, time.monotonic)
        self._stopping = False
        self._writer: asyncio.StreamWriter | None = None
        self._retained = 0
        self._lag: float | None = None
        self._last_loss: int | None = None
        tags = [Tag(tag.name, tag.device, tag.metric) for tag in source.tags]
        left = self._memory.read()
        try:
            self.node = Node(tags, left.get("node"))
            stream.resume(left.get("tags", {}), left.get("alive"))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            log.error("E! %s: %s: births are not known until the node is born again", memory, error)
            self.node = Node(tags)
        self._had_session = bool(left)
        self._apply(self.node.standing())
        self._report()

    # -- life -----------------------------------------------------------------------------------------------------------------
    async def run(self) -> None:
        """Until cancelled or stopped."""
        while not self._stopping:
            wait = self._pacer.wait_s()
            if wait:
                await asyncio.sleep(wait)
            refused = False
            try:
                await self._once()
            except (OSError, EOFError, asyncio.TimeoutError, SubscriberError, Refused) as error:
                refused = isinstance(error, Refused)
                self.health.detail = str(error) or type(error).__name__
                self._log.warning("W! %s: session ended or not made: %s", self.source.id, self.health.detail)
            except Exception as error:
                self.health.detail = "%s: %s" % (type(error).__name__, error)
                self._log.exception("E! %s: unforeseen: %s", self.source.id, self.health.detail)
                refused = True
            if self.health.state == "connected":
                self.health.lost()
            elif not self._stopping:
                self.health.state = "waiting"
            self._pacer.failed(refused)

    async def stop(self, timeout_s: float) -> None:
        """Leave; the broker keeps the session."""
        self._stopping = True
        writer = self._writer
        if writer is not None:
            writer.write(subscriber.DISCONNECT)
            writer.close()

    async def _once(self) -> None:
        source, health = self.source, self.health
        health.state = "connecting"
        health.attempts += 1
        self._pacer.spend()
        context = ssl.create_default_context(cafile=str(source.ca))
        host = await dial.address(source.host, source.port)
        try:
            reader, writer = await asyncio.wait_for(
                asyncio.open_connection(host, source.port, ssl=context, server_hostname=source.host), source.connect_timeout_s)
        except (OSError, asyncio.TimeoutError):
            dial.failed(source.host)
            raise
        self._writer = writer
        ping: asyncio.Task[None] | None = None
        try:
            packets = subscriber.Reader()
            writer.write(subscriber.connect(source.client_id, *self._identity(), source.keepalive_s))
            waiting: list[Any] = []
            while not any(isinstance(one, Welcome) for one in waiting):
                waiting += packets.feed(await self._read(reader, source.connect_timeout_s))
            welcome = waiting.pop(0)
            if not isinstance(welcome, Welcome):
                raise SubscriberError("the broker did not begin with CONNACK")
            if welcome.code:
                raise Refused("login refused: %s (code %d)" % (subscriber.REFUSALS.get(welcome.code, "?"), welcome.code))
            if not welcome.session_present and self._had_session:
                self._log.warning("W! %s: the broker has no session of ours: what it kept is lost", source.id)
                self._apply(self.node.session_lost())
            self._had_session = True
            writer.write(subscriber.subscribe(filters(source.group, source.node)))
            health.connected()
            self._pacer.connected()
            self._log.info("I! %s: connected, session %s", source.id, "kept" if welcome.session_present else "new")
            ping = asyncio.ensure_future(self._ping(writer))
            while True:
                self._packets(waiting, writer)
                await self._settle(writer)
                waiting = list(packets.feed(await self._read(reader, SILENT_S)))
        finally:
            self._writer = None
            if ping is not None:
                ping.cancel()
            writer.close()

    async def _read(self, reader: asyncio.StreamReader, limit_s: float) -> bytes:
        try:
            data = await asyncio.wait_for(reader.read(CHUNK), limit_s)
        except asyncio.TimeoutError:
            raise SubscriberError("the broker is silent for %g s" % limit_s) from None
        if not data:
            raise SubscriberError("the broker closed the connection")
        return data

    async def _ping(self, writer: asyncio.StreamWriter) -> None:
        while True:
            await asyncio.sleep(PING_S)
            writer.write(subscriber.PINGREQ)

    # -- messages ---------------------------------------------------------------------------------------------------------------
    def _packets(self, packets: list[Any], writer: asyncio.StreamWriter) -> None:
        self._unacknowledged: list[int] = []
        for one in packets:
            if isinstance(one, Pong):
                # The broker would have told of a death.
                if self.node.alive() and not self.node.doubtful:
                    self.health.heard()
            elif isinstance(one, Subscribed):
                if any(code > 1 for code in one.codes):
                    raise Refused("subscription refused: %s" % ", ".join(filters(self.source.group, self.source.node)))
            elif isinstance(one, Delivery):
                self._delivery(one)
                if one.identifier:
                    self._unacknowledged.append(one.identifier)
            else:
                raise SubscriberError("a second CONNACK")

    def _delivery(self, one: Delivery) -> None:
        if one.retained:
            # Births and data are never retained [6.4]: this one is of an unknown past.
            self._retained += 1
            return
        try:
            topic = topic_of(one.topic)
        except SparkplugError:
            return
        if (topic.group, topic.node) == (self.source.group, self.source.node):
            self.health.heard()
            before = self.node.counts.lost_messages + self.node.counts.malformed
            self._apply(self.node.message(topic.kind, topic.device, one.payload))
            if self.node.counts.lost_messages + self.node.counts.malformed != before:
                self._last_loss = self.stream.now()

    async def _settle(self, writer: asyncio.StreamWriter) -> None:
        """Records to the pipe, memory to the disk, then the acknowledgements."""
        if not self._unacknowledged:
            return
        target = self.outlet.put_total
        while self.outlet.taken() < target:
            await asyncio.sleep(SETTLE_S)
        self.save()
        for identifier in self._unacknowledged:
            writer.write(subscriber.acknowledge(identifier))
        self._unacknowledged = []
        await writer.drain()

    def _apply(self, events: list[Any]) -> None:
        past: set[str] = set()
        for event in events:
            if isinstance(event, Lost):
                self._log.warning("W! %s: %s: %d tags%s", self.source.id, event.reason, len(event.tags),
                                  "" if event.count is None else ", %d messages" % event.count)
                self.stream.lost(event.reason, event.tags)
            elif isinstance(event, Heard):
                self.stream.heard(event.ts)
                self._lag = (self.stream.now() - event.ts) / TICKS_PER_S
            elif isinstance(event, Sample) and event.historical:
                self.stream.history(event.tag, event.value, event.status, event.ts)
                past.add(event.tag)
            elif isinstance(event, Sample):
                self.stream.sample(event.tag, event.value, event.status, event.ts)
        self.stream.again(sorted(past))

    # -- what others see --------------------------------------------------------------------------------------------------------
    def save(self) -> None:
        """Leave what the next process must know."""
        durable, self.node.births_changed = self.node.births_changed, False
        self._memory.write({"node": self.node.memory(), "tags": self.stream.whole_memory(), "alive": self.stream.alive}, durable)

    def tick(self) -> None:
        """Once a second: repeats of what does not change, tags that nothing explains, the status."""
        unmapped = self.node.unmapped()
        self.health.failed = unmapped
        if self.health.state == "connected":
            for tag, status in unmapped.items():
                self.stream.failure(tag, status)
            if self.node.alive() and not self.node.doubtful:
                self.stream.repeats()
        self._report()

    def _report(self) -> None:
        node, counts = self.node, self.node.counts
        self.health.node = {
            "group": self.source.group, "node": self.source.node, "born": bool(node.devices), "alive": node.alive(), "doubtful": node.doubtful,
            "dead_devices": sorted(name for name, one in node.devices.items() if name and not one.alive),
            "unknown_now": dict(sorted(node.unknown.items())), "lag_s": None if self._lag is None else round(self._lag, 3),
            "last_loss": self._last_loss, "retained": self._retained, **vars(counts),
        }
