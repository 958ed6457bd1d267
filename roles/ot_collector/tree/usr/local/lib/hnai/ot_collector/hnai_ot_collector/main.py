# SPDX-License-Identifier: Apache-2.0
"""Command line, signals, status file: wires sources to the way out."""
from __future__ import annotations

import argparse
import asyncio
import fcntl
import json
import logging
import os
import signal
import stat
import struct
import sys
import termios
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .config import Config, ConfigError, OpcuaSource, SparkplugSource, credential, load
from .health import Health
from .outlet import Outlet
from .record import Record
from .stream import Stream

VERSION = "1.0.0"
STATE_EVERY_S = 5
CLOSE_S = 2.0
FLUSH_S = 2.0
READ_S = 0.5
log = logging.getLogger("hnai")

if TYPE_CHECKING:
    from .modbus import ModbusCollector
    from .opcua import Lock, OpcuaCollector
    from .sparkplug_source import SparkplugCollector


def ticks() -> int:
    """Now, in 100-ns ticks since 1970-01-01Z."""
    return time.time_ns() // 100


class _Levels(logging.Formatter):
    """``I! text``: Telegraf keeps the level of a line that begins so. One line, bounded: asyncua logs whole buffers."""

    def format(self, record: logging.LogRecord) -> str:
        text = " ".join(record.getMessage().split())[:400]
        if text[1:3] == "! ":
            return text
        return "%s! %s: %s" % (record.levelname[0] if record.levelname[0] in "DIWE" else "E", record.name, text)


def write_json(path: Path, body: Any) -> None:
    """Replace *path* by the JSON of *body*, atomically, readable for the group."""
    temporary = path.with_name(".%s.tmp" % path.name)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o640)
    with os.fdopen(descriptor, "w", encoding="utf-8") as handle:
        json.dump(body, handle, separators=(",", ":"))
    temporary.replace(path)


def read_state(path: Path) -> dict[str, Any]:
    """What an earlier run left; empty when there is none or it is unreadable (then no gap can be bounded)."""
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        log.warning("W! %s: %s: starting without memory", path, error)
        return {}
    return state if isinstance(state, dict) else {}


def _password(source: OpcuaSource) -> str:
    """Password of the source's identity; read at each connect, so that a person's correction counts after SIGHUP."""
    return credential(os.environ, source.id) if source.username else ""


def _broker_identity(source: SparkplugSource) -> tuple[str, str]:
    """User name and password at the site's broker; read at each connect. Of the pair `x` and `x.b` a rotation says which one is in use."""
    user, password = credential(os.environ, source.id, "mqtt_user"), credential(os.environ, source.id, "mqtt_password")
    if user not in (source.username, source.username + ".b"):
        raise ConfigError("source %s: credential mqtt_user is for %r, the configuration for %r" % (source.id, user, source.username))
    return user, password


class Program:
    """All sources of one configuration."""

    def __init__(self, config: Config, outlet: Outlet, stop: asyncio.Event) -> None:
        self.config, self.outlet = config, outlet
        self.started = ticks()
        self.invocation = os.environ.get("INVOCATION_ID", "")
        self.stop = stop
        self.streams: dict[str, Stream] = {}
        self.health: dict[str, Health] = {}
        self.locks: dict[str, Lock] = {}
        self.collectors: list[OpcuaCollector | ModbusCollector | SparkplugCollector] = []
        self.nodes: list[SparkplugCollector] = []
        self._pending: tuple[int, dict[str, Any]] | None = None
        state = read_state(config.state_file)
        same_start = bool(self.invocation) and state.get("invocation") == self.invocation
        for source in config.sources:
            memory = state.get("sources", {}).get(source.id, {})
            protocol = "opcua" if isinstance(source, OpcuaSource) else "sparkplug" if isinstance(source, SparkplugSource) else "modbus"
            cyclic = {tag.name: getattr(tag, "cyclic", True) for tag in source.tags}
            repeat_s = getattr(source, "repeat_s", 60.0)
            if protocol == "sparkplug":
                # Between two runs the broker keeps what is said: no gap, and a memory of its own, as old as the last acknowledgement.
                memory = {}
            stream = Stream(source.id, [(tag.name, tag.type, cyclic[tag.name]) for tag in source.tags], self.emit, ticks,
                            repeat_s, memory.get("tags"), memory.get("alive"))
            health = Health(source.id, protocol, len(source.tags), ticks)
            self.streams[source.id], self.health[source.id] = stream, health
            # Imported here, so that --check needs no third-party library, and nobody pays for what no source speaks.
            if isinstance(source, OpcuaSource):
                from .opcua import Lock, OpcuaCollector

                # A restart by a person (another invocation of the unit) opens the lock; one by Telegraf does not.
                locked = memory.get("lock", [0, 0]) if same_start else [0, 0]
                lock = self.locks[source.id] = Lock(int(locked[0]), int(locked[1]))
                self.collectors.append(OpcuaCollector(source, stream, health, partial(_password, source), log, lock))
            elif isinstance(source, SparkplugSource):
                from .sparkplug_source import SparkplugCollector

                node = SparkplugCollector(source, stream, health, outlet, partial(_broker_identity, source),
                                          config.state_file.with_name("sparkplug.%s.json" % source.id), log)
                self.collectors.append(node)
                self.nodes.append(node)
            else:
                from .modbus import ModbusCollector

                self.collectors.append(ModbusCollector(source, stream, health, log))
        self._sure = self._memory()

    def emit(self, record: Record) -> None:
        """The way out of every record."""
        self.outlet.put(record)

    def status(self) -> dict[str, Any]:
        """Content of the status file."""
        sources = []
        for source_id, health in self.health.items():
            counters = self.streams[source_id].counters
            sources.append({
                **health.as_dict(), "samples": counters.samples, "bad": counters.bad, "repeats": counters.repeats,
                "gaps": dict(sorted(counters.gaps.items())), "open_gaps": len(self.streams[source_id].open_gaps()),
                "last_gap": counters.last_gap, "last_sample": counters.last_sample,
            })
        return {
            "version": VERSION, "pid": os.getpid(), "now": ticks(), "started": self.started, "sources": sources,
            "outlet": {"depth": self.outlet.depth, "limit": self.config.queue_records, "sent": self.outlet.sent,
                       "dropped": self.outlet.dropped_total, "blocked_s": round(self.outlet.blocked_s(), 3)},
        }

    def _memory(self) -> dict[str, Any]:
        return {source_id: {"tags": stream.memory(), "alive": stream.alive} for source_id, stream in self.streams.items()}

    def remember(self) -> None:
        """What is still on its way out dies with us, so only what the reader of the pipe has taken counts as told to it: the next gap begins there."""
        if self._pending is None:
            self._pending = self.outlet.put_total, self._memory()
        elif self.outlet.taken() >= self._pending[0]:
            self._sure, self._pending = self._pending[1], None

    def leave(self) -> None:
        """The last word, when the way out is closed."""
        if self.outlet.taken() >= self.outlet.put_total:
            self._sure = self._memory()
        self.save_state()

    def save_state(self) -> None:
        """Leave what the next run must know."""
        sources = {}
        for source_id, known in self._sure.items():
            lock = self.locks.get(source_id)
            sources[source_id] = {**known, "lock": [lock.rejections, lock.code] if lock else [0, 0]}
        write_json(self.config.state_file, {"invocation": self.invocation, "sources": sources})

    async def _tick(self) -> None:
        """Every second: status, what the way out dropped; every few: the memory."""
        count, complained = 0, ""
        while True:
            for (source_id, tag), lost in self.outlet.take_dropped().items():
                self.streams[source_id].dropped(tag, lost.start, lost.end, lost.count)
                self._pending = None
            self.remember()
            for node in self.nodes:
                node.tick()
            try:
                write_json(self.config.status_file, self.status())
                if count % STATE_EVERY_S == 0:
                    self.save_state()
                complained = ""
            except OSError as error:
                if str(error) != complained:
                    complained = str(error)
                    log.error("E! cannot write status or state: %s", error)
            count += 1
            await asyncio.sleep(1.0)

    async def run(self) -> None:
        """Until told to stop; then close every session and flush."""
        work = [asyncio.create_task(collector.run()) for collector in self.collectors]
        work.append(asyncio.create_task(self._tick()))
        told = asyncio.create_task(self.stop.wait())
        done, _ = await asyncio.wait([told, *work], return_when=asyncio.FIRST_COMPLETED)
        log.info("I! stopping")
        await asyncio.gather(*(collector.stop(CLOSE_S) for collector in self.collectors), return_exceptions=True)
        for task in [told, *work]:
            task.cancel()
        await asyncio.gather(told, *work, return_exceptions=True)
        for task in done - {told}:
            task.result()


async def _until_eof(stop: asyncio.Event) -> None:
    """Telegraf gone = its end of our standard input closed. Watched only when it is a pipe."""
    if not stat.S_ISFIFO(os.fstat(0).st_mode):
        return
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while await reader.read(4096):
        continue
    log.info("I! standard input closed")
    stop.set()


def _write_all(data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(1, view):]


def _unread() -> int:
    """Bytes in the pipe that Telegraf has not read; 0 where our output is no pipe."""
    try:
        return int(struct.unpack("i", fcntl.ioctl(1, termios.FIONREAD, bytes(4)))[0])
    except OSError:
        return 0


async def _serve(config: Config) -> int:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()

    def broken() -> None:
        loop.call_soon_threadsafe(stop.set)

    outlet = Outlet(_write_all, config.queue_records, broken, _unread)
    program = Program(config, outlet, stop)
    outlet.start()

    def unlock() -> None:
        log.info("I! SIGHUP: identity locks opened")
        for lock in program.locks.values():
            lock.open()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, program.stop.set)
    loop.add_signal_handler(signal.SIGHUP, unlock)
    eof = asyncio.create_task(_until_eof(program.stop))
    log.info("I! %d sources, %d tags", len(config.sources), sum(len(source.tags) for source in config.sources))
    try:
        await program.run()
    finally:
        eof.cancel()
        if not outlet.close(FLUSH_S):
            log.error("E! %d records were not written: the next run tells a gap", outlet.depth)
        deadline = time.monotonic() + READ_S
        while not outlet.broken and _unread() and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        try:
            program.leave()
        except OSError as error:
            log.error("E! cannot write %s: %s", config.state_file, error)
    return 1 if outlet.broken else 0


def main() -> int:
    """Exit codes: 0 told to stop, 1 the reader of the pipe is gone, 2 configuration."""
    parser = argparse.ArgumentParser(prog="hnai-ot-collector", description=__doc__)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--check", action="store_true", help="read the configuration and leave")
    args = parser.parse_args()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Levels())
    logging.basicConfig(handlers=[handler], level=logging.ERROR)
    log.setLevel(logging.INFO)
    logging.getLogger("asyncua").setLevel(logging.CRITICAL)
    logging.getLogger("pymodbus").setLevel(logging.CRITICAL)
    try:
        config = load(args.config)
    except ConfigError as error:
        log.error("E! %s", error)
        return 2
    if args.check:
        return 0
    return asyncio.run(_serve(config))
