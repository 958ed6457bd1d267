# SPDX-License-Identifier: Apache-2.0
"""A Modbus source: read blocks on a grid, one request at a time; a status is made from the reply, the time is ours."""
from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from .config import ModbusSource
from .health import Health
from .mb_channel import ModbusChannel, NoLink, NoReply
from .pace import Pacer
from .record import BAD_NO_COMMUNICATION, BAD_TIMEOUT
from .registers import Block, blocks, decode, exception_status, split
from .stream import Stream

MISSING_IN_A_ROW = 2
"""Requests without an answer after which the connection is made anew (a late reply must not be taken for the next one)."""


class ModbusCollector:
    """Runs one device for ever. *connect* makes a new channel."""

    def __init__(self, source: ModbusSource, stream: Stream, health: Health, log: Any,
                 connect: Callable[[ModbusSource], ModbusChannel] = ModbusChannel) -> None:
        self.source, self.stream, self.health = source, stream, health
        self._log, self._connect = log, connect
        self._pacer = Pacer(source.limits.new_per_minute, source.limits.burst, time.monotonic)
        self._stopping = False
        self._missing = 0

    async def run(self) -> None:
        """Until cancelled or stopped."""
        while not self._stopping:
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

    async def stop(self, timeout_s: float) -> None:
        """Nothing is open at the device but a TCP connection; it goes with the process."""
        self._stopping = True

    async def _once(self) -> None:
        source, health = self.source, self.health
        health.state = "connecting"
        health.attempts += 1
        self._pacer.spend()
        channel = self._connect(source)
        try:
            await channel.open()
            health.connected()
            self._pacer.connected()
            self._log.info("I! %s: connected", source.id)
            await self._poll(channel)
        except NoLink as error:
            health.detail = str(error)
            self._log.warning("W! %s: link lost or not made: %s", source.id, error)
        finally:
            channel.close()
            if health.state == "connected":
                self.stream.lost("collector_stop" if self._stopping else "link_lost")
                health.lost()
            elif not self._stopping:
                for tag in source.tags:
                    self.stream.failure(tag.name, BAD_NO_COMMUNICATION)
        self._pacer.failed()

    async def _poll(self, channel: ModbusChannel) -> None:
        """One round per period, for ever. Raises NoLink."""
        period = self.source.poll_ms / 1000.0
        requests = blocks(self.source.tags, self.source.gap_registers)
        self._missing = 0
        due = time.monotonic()
        while True:
            again: list[Block] = []
            for block in requests:
                again.extend(await self._read(channel, block))
            requests = again
            due = max(due + period, time.monotonic())
            await asyncio.sleep(max(0.0, due - time.monotonic()))

    async def _read(self, channel: ModbusChannel, block: Block) -> list[Block]:
        """Read one block; returns what to read in its place next time."""
        stream = self.stream
        try:
            registers, code = await channel.read(block.address, block.count)
        except NoReply as error:
            self._missing += 1
            for tag in block.tags:
                stream.sample(tag.name, None, BAD_TIMEOUT, stream.now(), None, "collector")
            if self._missing >= MISSING_IN_A_ROW:
                raise NoLink("no reply %d times: %s" % (self._missing, error)) from error
            return [block]
        now = stream.now()
        self._missing = 0
        self.health.heard()
        stream.heard(now)
        if code == 2 and len(block.tags) > 1:
            self._log.warning("W! %s: registers %d-%d: illegal address; reading its %d tags one by one", self.source.id,
                              block.address, block.address + block.count - 1, len(block.tags))
            return split(block)
        for tag in block.tags:
            if code or not registers:
                value, status = None, exception_status(code)
                if tag.name not in self.health.failed:
                    self._log.warning("W! %s/%s: register %d: %s", self.source.id, tag.name, tag.address,
                                      "exception %d" % code if code else "the reply is not of this request")
                self.health.failed[tag.name] = status
            else:
                value, status = decode(tag, registers, block.address, self.source.word_order)
                self.health.failed.pop(tag.name, None)
            stream.sample(tag.name, value, status, now, None, "collector")
        return [block]
