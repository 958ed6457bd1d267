# SPDX-License-Identifier: Apache-2.0
"""The running filter on asyncio: clients at one side, one connection to each device at the other. What may pass is decided in ``filter``.

One request at a time travels to a device; nothing is kept of an answer, so nothing can be told twice. Whatever goes wrong with the device is
exception 0x0B for the client and the end of that connection, so that a late answer is never taken for the next one.
"""
from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
import struct
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from .filter import (
    BUSY,
    NO_PATH,
    NO_RESPONSE,
    Ask,
    Bucket,
    Config,
    Device,
    Frame,
    Framer,
    Malformed,
    Quiet,
    encode,
    exception,
    judge,
    reply,
)

VERSION = "1"
CHUNK = 4096
TICKS_PER_S = 10_000_000
DEVICE_LOST, NO_DIAL, OVER_RATE, TOO_MANY = "device", "dial", "rate", "clients"
Connect = Callable[[str, int], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]
Resolve = Callable[[str, int], Awaitable[list[str]]]


async def resolve(host: str, port: int) -> list[str]:
    """The addresses of *host*."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def dialler(local: Mapping[int, str]) -> Connect:
    """Connects from the address that *local* names for the family, so that a router can tell the filter from the rest of its host."""

    async def connect(address: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        own = local.get(6 if ":" in address else 4)
        return await asyncio.open_connection(address, port, local_addr=(own, 0) if own else None)

    return connect


def reset(writer: asyncio.StreamWriter) -> None:
    """End a connection at once: nothing half-closed stays in a router's table, or in a device's."""
    raw = writer.get_extra_info("socket")
    if raw is not None:
        with contextlib.suppress(OSError):
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


class Lost(Exception):
    """The device did not answer, or not as Modbus does."""


class Link:
    """The connection to one device: dialled when somebody asks, one address per try, not more often than the conduit allows."""

    def __init__(self, device: Device, clock: Callable[[], float], connect: Connect, find: Resolve) -> None:
        self.device, self.dials, self.failed_dials = device, 0, 0
        self._connect, self._find = connect, find
        self._bucket = Bucket(device.new_per_minute / 60.0, min(2, device.new_per_minute), clock)
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._framer = Framer()
        self._turn = 0
        self._tid = 0
        self.lock = asyncio.Lock()

    @property
    def up(self) -> bool:
        """Is there a connection?"""
        return self._writer is not None

    def close(self) -> None:
        """End the connection."""
        if self._writer is not None:
            reset(self._writer)
        self._reader = self._writer = None

    async def dial(self) -> bool:
        """True when there is a connection; False when the conduit allows no new one yet. Raises Lost."""
        if self._reader is not None and self._reader.at_eof():
            self.close()
        if self._writer is not None:
            return True
        if not self._bucket.take():
            return False
        self.dials += 1
        try:
            addresses = await self._find(self.device.host, self.device.port)
            if not addresses:
                raise Lost("%s has no address" % self.device.host)
            address = addresses[self._turn % len(addresses)]
            self._reader, self._writer = await asyncio.wait_for(self._connect(address, self.device.port), self.device.connect_timeout_s)
        except (OSError, asyncio.TimeoutError, Lost) as error:
            self._turn += 1
            self.failed_dials += 1
            raise Lost("no connection to %s:%d: %s" % (self.device.host, self.device.port, str(error) or type(error).__name__)) from error
        self._framer = Framer()
        return True

    async def ask(self, ask: Ask) -> bytes:
        """PDU of the answer. Raises Lost; the connection is gone then."""
        try:
            return await asyncio.wait_for(self._ask(ask), self.device.timeout_s)
        except asyncio.TimeoutError as error:
            self.close()
            raise Lost("no answer in %g s" % self.device.timeout_s) from error
        except (OSError, Malformed) as error:
            self.close()
            raise Lost(str(error) or type(error).__name__) from error
        except BaseException:
            # Cancelled half way: what comes now would be taken for the answer to the next request.
            self.close()
            raise

    async def _ask(self, ask: Ask) -> bytes:
        reader, writer = self._reader, self._writer
        if reader is None or writer is None:
            raise OSError("the connection is gone")
        self._tid = (self._tid + 1) & 0xFFFF
        writer.write(encode(self._tid, ask.unit, ask.pdu()))
        await writer.drain()
        while True:
            data = await reader.read(CHUNK)
            if not data:
                raise OSError("the device closed the connection")
            self._framer.feed(data)
            frame = self._framer.next()
            if frame is not None:
                break
        made = reply(ask, frame, self._tid)
        if self._framer.pending:
            raise Malformed("answer", "%d bytes behind the answer" % self._framer.pending)
        return made


class Gate:
    """What stands for one device."""

    def __init__(self, device: Device, config: Config, log: logging.Logger, clock: Callable[[], float], now: Callable[[], float],
                 connect: Connect, find: Resolve) -> None:
        self.device, self._config, self._log, self._now = device, config, log, now
        self.link = Link(device, clock, connect, find)
        self._bucket = Bucket(device.requests_per_second, max(1.0, device.requests_per_second), clock)
        self._quiet = Quiet(config.log_period_s, clock)
        self.clients: set[asyncio.StreamWriter] = set()
        self.served = 0
        self.answered_with: Counter[int] = Counter()
        self.refused: Counter[str] = Counter()
        self.trouble: Counter[str] = Counter()
        self.last_refusal: dict[str, Any] | None = None
        self.last_served: float | None = None
        self.last_trouble: dict[str, Any] | None = None

    # -- counting -----------------------------------------------------------------------------------------
    def _refuse(self, reason: str, text: str) -> None:
        """Somebody asked for what may not pass."""
        self.refused[reason] += 1
        self.last_refusal = {"at": self._now(), "reason": reason, "text": text}
        self._say("refused", reason, text)

    def _trouble(self, reason: str, text: str) -> None:
        """What may pass could not."""
        self.trouble[reason] += 1
        self.last_trouble = {"at": self._now(), "reason": reason, "text": text}
        self._say("trouble", reason, text)

    def _say(self, what: str, reason: str, text: str) -> None:
        more = self._quiet.say("%s %s" % (what, reason))
        if more is not None:
            self._log.warning("%s: %s (%s): %s%s", self.device.id, what, reason, text, " [%d more not printed]" % more if more else "")

    # -- clients ------------------------------------------------------------------------------------------
    async def client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One client from connection to end."""
        if len(self.clients) >= self.device.clients:
            self._refuse(TOO_MANY, "a client more than %d" % self.device.clients)
            reset(writer)
            return
        self.clients.add(writer)
        try:
            await self._serve(reader, writer)
        except Malformed as error:
            self._refuse(error.reason, str(error))
        except (OSError, asyncio.TimeoutError):
            # It went, does not read its answers, or left a frame unfinished: its own affair.
            pass
        finally:
            self.clients.discard(writer)
            reset(writer)
            if not self.clients:
                # Nobody asks: the device's connection is not ours to hold.
                self.link.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        framer, clock = Framer(), asyncio.get_running_loop().time
        begun = 0.0
        while True:
            frame = framer.next()
            if frame is None:
                # A frame has its time as a whole, not each of its bytes.
                begun = (begun or clock()) if framer.pending else 0.0
                patience = begun + self._config.frame_s - clock() if begun else self._config.idle_s
                data = await asyncio.wait_for(reader.read(CHUNK), max(0.0, patience))
                if not data:
                    return
                framer.feed(data)
                continue
            begun = 0.0
            writer.write(encode(frame.tid, frame.unit, await self.answer(frame)))
            await asyncio.wait_for(writer.drain(), self._config.frame_s)

    async def answer(self, frame: Frame) -> bytes:
        """PDU of the answer to one request."""
        function = frame.pdu[0]
        verdict = judge(frame, self.device.allow)
        if not isinstance(verdict, Ask):
            self._refuse(verdict.reason, "unit %d, function %d, %d bytes: exception %d" % (frame.unit, function, len(frame.pdu), verdict.code))
            self.answered_with[verdict.code] += 1
            return verdict.pdu()
        if not self._bucket.take():
            self._refuse(OVER_RATE, "more than %g requests a second" % self.device.requests_per_second)
            self.answered_with[BUSY] += 1
            return exception(function, BUSY)
        async with self.link.lock:
            try:
                if not await self.link.dial():
                    self._trouble(NO_DIAL, "%d new connections a minute are used up" % self.device.new_per_minute)
                    self.answered_with[NO_PATH] += 1
                    return exception(function, NO_PATH)
                made = await self.link.ask(verdict)
            except Lost as error:
                self._trouble(DEVICE_LOST, str(error))
                self.answered_with[NO_RESPONSE] += 1
                return exception(function, NO_RESPONSE)
        if made[0] & 0x80:
            self.answered_with[made[1]] += 1
        self.served += 1
        self.last_served = self._now()
        return made

    def state(self) -> dict[str, Any]:
        """For the status file."""
        device = self.device
        return {
            "id": device.id, "listen": list(device.listen), "device": [device.host, device.port], "canary": device.canary,
            "allow": device.allow.as_dict(), "clients": len(self.clients), "connected": self.link.up, "dials": self.link.dials,
            "failed_dials": self.link.failed_dials, "served": self.served, "last_served": self.last_served,
            "exceptions": {"%d" % code: count for code, count in sorted(self.answered_with.items())}, "refused": dict(sorted(self.refused.items())),
            "last_refusal": self.last_refusal, "trouble": dict(sorted(self.trouble.items())), "last_trouble": self.last_trouble,
        }


class Filter:
    """All gates of one configuration. *connect*, *find*, *clock* (s that only grow) and *now* (unix s) are the world."""

    def __init__(self, config: Config, log: logging.Logger, clock: Callable[[], float] = time.monotonic, now: Callable[[], float] = time.time,
                 connect: Connect | None = None, find: Resolve = resolve) -> None:
        self.config, self._now = config, now
        self._begin = now()
        connect = connect or dialler(config.local)
        self.gates = [Gate(device, config, log, clock, now, connect, find) for device in config.devices]
        self._servers: list[asyncio.AbstractServer] = []

    async def start(self) -> None:
        """Open every listener or none: half a filter would look like a whole one. Raises OSError."""
        try:
            for gate in self.gates:
                address, port = gate.device.listen
                self._servers.append(await asyncio.start_server(gate.client, address, port))
        except OSError:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Close everything."""
        for server in self._servers:
            server.close()
        for gate in self.gates:
            for writer in list(gate.clients):
                reset(writer)
            gate.link.close()

    def status(self) -> dict[str, Any]:
        """What the program tells about itself; times in unix seconds."""
        return {"version": VERSION, "pid": os.getpid(), "uid": os.getuid(), "now": self._now(), "started": self._begin,
                "config_sha256": self.config.digest, "devices": [gate.state() for gate in self.gates]}

    async def report(self, period_s: float = 1.0) -> None:
        """Write the status file for ever. Raises OSError when it cannot: a filter that nobody can look at does not run."""
        path = Path(self.config.status_file)
        while True:
            new = path.with_name(path.name + ".new")
            new.write_text(json.dumps(self.status()), encoding="utf-8")
            new.chmod(0o644)
            new.replace(path)
            await asyncio.sleep(period_s)
