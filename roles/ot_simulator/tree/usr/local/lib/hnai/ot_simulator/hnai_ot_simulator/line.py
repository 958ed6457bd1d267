# SPDX-License-Identifier: Apache-2.0
"""A packing line that speaks MQTT: states, counts, rejects and a canary sequence, as records in JSON.

It numbers what it produces, keeps what is not acknowledged (QoS 1, persistent session) and reconnects for ever. The journal
has every record it produced; what the broker lost can be counted by the numbers.
"""
from __future__ import annotations

import asyncio
import json
import logging
import ssl
from typing import Any

import paho.mqtt.client as mqtt

from .clock import pace, ticks
from .journal import Journal
from .model import noise
from .plant import STEP_S

_log = logging.getLogger("hnai.line")
STATES = {"STOP": 0, "IDLE": 1, "RUN": 2}


class LineModel:
    """The line, step by step: pure. A cycle of 240 s: RUN, IDLE (starved), RUN, STOP."""

    def __init__(self, seed: int, rate_per_min: float) -> None:
        self.seed, self.rate = seed, rate_per_min
        self.step = 0
        self.made = 0.0
        self.rejects = 0

    def state(self) -> str:
        """State at the present step."""
        at = self.step * STEP_S % 240.0
        return "RUN" if at < 90 else "IDLE" if at < 110 else "RUN" if at < 210 else "STOP"

    def advance(self) -> dict[str, Any]:
        """One step of STEP_S: values by tag. Each product leaves as good or as reject, so count never falls."""
        self.step += 1
        state = self.state()
        speed = self.rate * (1.0 + 0.03 * noise(self.seed, "speed", self.step)) if state == "RUN" else 0.0
        before = int(self.made)
        self.made += speed * STEP_S / 60.0
        if int(self.made) > before and noise(self.seed, "reject", int(self.made)) > 0.9:
            self.rejects += 1
        return {"canary_sequence": self.step, "state": STATES[state], "count": int(self.made), "rejects": self.rejects, "speed": speed}


TYPES = {"canary_sequence": "int", "state": "enum", "count": "int", "rejects": "int", "speed": "double"}
EVERY = {"canary_sequence": 1, "count": 2, "rejects": 2, "speed": 2}
"""Steps between two samples; what is not here is sent on change."""


class LineSimulator:
    """The client. Control: ``drop`` closes the connection, ``status`` tells counts. *beside* speaks another language of the same line."""

    def __init__(self, config: dict[str, Any], plant: dict[str, Any], journal: Journal, password: str, beside: Any = None) -> None:
        self.config, self.journal, self.beside = config, journal, beside
        self.source = str(plant["line"]["id"])
        self.model = LineModel(int(plant["seed"]), float(plant["line"]["rate_per_min"]))
        self.seq = ticks() // 10_000 * 1000
        self.connects = 0
        self._last: dict[str, Any] = {}
        client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=self.source, clean_session=False)
        context = ssl.create_default_context(cafile=config["ca"])
        client.tls_set_context(context)
        client.username_pw_set(config["username"], password)
        client.reconnect_delay_set(1, 30)
        client.max_queued_messages_set(200_000)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        self.client = client

    def _on_connect(self, client: Any, userdata: Any, flags: Any, reason: Any, properties: Any) -> None:
        self.connects += 1
        _log.info("I! broker says: %s", reason)

    def _on_disconnect(self, client: Any, userdata: Any, flags: Any, reason: Any, properties: Any) -> None:
        _log.warning("W! connection ended: %s", reason)

    async def start(self) -> None:
        """Begin to connect; the library goes on for ever."""
        self.client.connect_async(self.config["host"], int(self.config["port"]), keepalive=15)
        self.client.loop_start()
        if self.beside is not None:
            await self.beside.start()

    async def run(self) -> None:
        """Produce for ever."""
        if self.beside is None:
            await self._produce()
        else:
            await asyncio.gather(self._produce(), self.beside.run())

    async def _produce(self) -> None:
        async for _ in pace(STEP_S):
            values = self.model.advance()
            now, records = ticks(), []
            for index, (tag, value) in enumerate(values.items()):
                if tag in EVERY and self.model.step % EVERY[tag]:
                    continue
                if tag not in EVERY and self._last.get(tag) == value:
                    continue
                self._last[tag] = value
                self.seq += 1
                moment = now + index
                records.append({"source": self.source, "tag": tag, "value": value, "type": TYPES[tag], "status": 0,
                                "source_ts": moment, "server_ts": None, "observed_ts": moment, "ts_origin": "source", "seq": self.seq})
            self.journal.write({"t": r["source_ts"], "tag": r["tag"], "value": r["value"], "status": 0, "seq": r["seq"]} for r in records)
            for record in records:
                self.client.publish("line/%s/%s" % (self.source, record["tag"]), json.dumps(record, separators=(",", ":")), qos=1)

    def command(self, request: dict[str, Any]) -> dict[str, Any]:
        """Answer of the control socket."""
        if "sparkplug" in request and self.beside is not None:
            answer: dict[str, Any] = self.beside.command(request)
            return answer
        if request.get("drop"):
            self.client.disconnect()
            self.client.reconnect()
        return {"t": ticks(), "connected": self.client.is_connected(), "connects": self.connects, "step": self.model.step,
                "seq": self.seq, "journal_lines": self.journal.lines}

    async def stop(self) -> None:
        """Leave politely."""
        if self.beside is not None:
            await self.beside.stop()
        self.client.disconnect()
        self.client.loop_stop()
