# SPDX-License-Identifier: Apache-2.0
"""The collector's own OPC UA source against a server of `kit`, in a thread."""
from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import kit
from put_programs import collector_here

collector_here()

from hnai_ot_collector import config, health, opcua, stream
from hnai_ot_collector.record import Record
from opcua_stand import CLIENT_URI
from plans import PLANT

REPEAT_S = 5.0


@dataclass
class Seen:
    """What the collector told, and how it is."""

    records: list[Record] = field(default_factory=list)
    health: Any = None

    @property
    def last(self) -> dict[str, Record]:
        return {one.tag: one for one in self.records}

    def good(self, begin: int = 0) -> list[str]:
        """Tags of the records from the *begin*-th on that have a value."""
        return [one.tag for one in self.records[begin:] if one.value is not None]


@contextlib.contextmanager
def collecting(server: kit.Running, pki: kit.Pki, names: str, port: int = 0, **more: Any) -> Iterator[Seen]:
    """Tags of the plant by their *names*, read on change; *port*: of a wire before the server; *more*: keys of the source."""
    seen, over = Seen(), threading.Event()
    tags = [{"name": name.lower(), "node": f"nsu={PLANT};s={name}", "type": "double", "kind": "on_change"} for name in names]
    raw = {"id": "plc-1", "protocol": "opcua", "endpoint": f"opc.tcp://127.0.0.1:{port or server.port}/", "application_uri": CLIENT_URI,
           "server_certificate": str(pki.folder / "server.der"), "certificate": str(pki.folder / "client.pem"),
           "private_key": str(pki.folder / "client.key.pem"), "username": "observer", "tags": tags, "repeat_s": REPEAT_S, **more}
    parsed = config.parse({"status_file": "/s", "state_file": "/t", "sources": [raw]}, "collector.json").sources[0]
    assert isinstance(parsed, config.OpcuaSource)
    source = parsed
    flow = stream.Stream("plc-1", [(tag.name, tag.type, tag.cyclic) for tag in source.tags], seen.records.append, lambda: time.time_ns() // 100, REPEAT_S)
    seen.health = health.Health("plc-1", "opcua", len(tags), flow.now)

    async def go() -> None:
        collector = opcua.OpcuaCollector(source, flow, seen.health, lambda: "secret", logging.getLogger("hnai"), opcua.Lock())
        task = asyncio.ensure_future(collector.run())
        while not over.is_set():
            await asyncio.sleep(0.05)
        await collector.stop(2.0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    thread = threading.Thread(target=asyncio.run, args=(go(),))
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join(30)
