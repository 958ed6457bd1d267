# SPDX-License-Identifier: Apache-2.0
"""The filter, its canary and raw clients on loopback, for the tests of both."""
from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import logging
import socket
import struct
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from own_files import Heard

from ansible_collections.hnai.platform.plugins.module_utils.hostfiles import Completed
from ansible_collections.hnai.platform.plugins.module_utils.modbus import filter as core
from ansible_collections.hnai.platform.plugins.module_utils.modbus.filter_server import Filter

ROLE = Path(__file__).resolve().parents[2] / "roles/modbus_filter"
LOG = logging.getLogger("modbus")
ALLOW: list[dict[str, Any]] = [
    {"unit": 1, "function": 4, "gap": 8, "spans": [{"first": 0, "count": 12}, {"first": 20, "count": 4}], "exclude": [{"first": 15}]},
    {"unit": 1, "function": 1, "spans": [{"first": 100, "count": 40}]},
    {"unit": 2, "function": 3, "spans": [{"first": 65530, "count": 6}]},
    {"unit": 1, "function": 43},
]
FEW: list[dict[str, Any]] = [{"unit": 1, "function": 4, "spans": [{"first": 3, "count": 30}]}, {"unit": 1, "function": 43}]


def canary_module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("modbus_canary", ROLE / "files/modbus_canary.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


CANARY = canary_module()


class Canary:
    """The canary and what it wrote down."""

    def __init__(self) -> None:
        self._servers = CANARY.start(("127.0.0.1", 0), ("127.0.0.1", 0), poll_s=0.02)
        self.port: int = self._servers[0].server_address[1]
        self.record_port: int = self._servers[1].server_address[1]

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in bytes(self._servers[0].record.data).splitlines()]

    def received(self) -> list[bytes]:
        """Every byte that came, per connection."""
        streams: dict[int, bytes] = {}
        for line in self.lines():
            if "d" in line:
                streams[line["c"]] = streams.get(line["c"], b"") + bytes.fromhex(line["d"])
        return list(streams.values())

    def frames(self) -> list[bytes]:
        """What came, cut by an independent reading of the header; a rest stands as it is."""
        found = []
        for stream in self.received():
            while stream:
                size = 6 + int.from_bytes(stream[4:6], "big") if len(stream) >= 6 else len(stream)
                found.append(stream[:size])
                stream = stream[size:]
        return found

    def close(self) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()


@contextlib.contextmanager
def canary() -> Iterator[Canary]:
    one = Canary()
    try:
        yield one
    finally:
        one.close()


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def device(port: int, **change: Any) -> dict[str, Any]:
    return {"id": "dev", "listen": {"port": free_port()}, "host": "127.0.0.1", "port": port, "allow": ALLOW, "requests_per_second": 10000,
            "new_per_minute": 600, **change}


def config(*devices: dict[str, Any], **change: Any) -> core.Config:
    return core.parse(json.dumps({"status_file": "/nowhere/status.json", "devices": list(devices), **change}), "filter.json")


def adu(pdu: bytes, tid: int = 7, unit: int = 1) -> bytes:
    return struct.pack(">HHHB", tid, 0, len(pdu) + 1, unit) + pdu


def ask(function: int = 4, first: int = 0, count: int = 2, tid: int = 7, unit: int = 1) -> bytes:
    return adu(struct.pack(">BHH", function, first, count), tid, unit)


async def answer(reader: asyncio.StreamReader, patience: float = 30.0) -> bytes:
    """One ADU, or b"" when the connection was ended."""
    try:
        head = await asyncio.wait_for(reader.readexactly(6), patience)
        return head + await asyncio.wait_for(reader.readexactly(int.from_bytes(head[4:6], "big")), patience)
    except (asyncio.IncompleteReadError, ConnectionError):
        return b""


@contextlib.asynccontextmanager
async def running(settings: core.Config, **world: Any) -> AsyncIterator[Filter]:
    one = Filter(settings, LOG, **world)
    await one.start()
    try:
        yield one
    finally:
        await one.stop()


class FilterThread:
    """A running filter beside a test that blocks."""

    def __init__(self, settings: core.Config, make: Any = Filter) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.filter = make(settings, LOG)
        asyncio.run_coroutine_threadsafe(self.filter.start(), self._loop).result(5)

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self.filter.stop(), self._loop).result(5)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()


class Machine(Heard):
    """The mirror's host: its files below a directory, its users, and how its dials past the filter end."""

    def __init__(self, root: Path, dial: Any = "nothing came back") -> None:
        super().__init__(str(root))
        self.dial = dial

    def uid(self, name: str) -> int | None:
        return None if name == "nobody-here" else 4711

    def asked(self, argv: list[str]) -> Completed:
        assert argv[:2] == ["setpriv", "--reuid"]
        if callable(self.dial):
            return Completed(0, json.dumps(self.dial(argv[-3], int(argv[-2]))).encode(), b"")
        return Completed(0, json.dumps({"port": 1, "outcome": self.dial}).encode(), b"")
