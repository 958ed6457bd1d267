# SPDX-License-Identifier: Apache-2.0
"""The packing line once more, as a Sparkplug B edge node: births, data by alias, deaths, one device.

As the specification 3.0 has it: births and data go with QoS 0, the death of the node is the will of the connection (QoS 1), bdSeq grows
with each connection and is the same in will and birth, seq counts from the birth on. It subscribes to nothing: it obeys no command.
Aliases mean something else after each birth, so that who keeps old ones is found out. What is made while the broker is away is sent
after the next birth, as historical. The journal has each value that was handed to the connection; ``lost`` marks what a test made
disappear on the way.
"""
from __future__ import annotations

import asyncio
import logging
import ssl
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt

from .clock import pace, ticks
from .journal import Journal
from .line import LineModel
from .model import noise
from .plant import STEP_S
from .sparkplug import BAD, BDSEQ, BOOLEAN, DOUBLE, FLOAT, GOOD, INT32, INT64, STALE, STRING, Metric, Payload, Topic, encode, metric

_log = logging.getLogger("hnai.sparkplug")
STATUS = {GOOD: 0, STALE: 0x40900000, BAD: 0x80000000}
"""OPC UA StatusCode that each value of the property Quality stands for."""
PERIOD_S = 1.0
KEPT = 600
"""Messages that are kept while the broker is away."""


@dataclass(frozen=True)
class Signal:
    """A metric; *tag* is its name in the journal and in the site's sources. *every* s; 0: on change only."""

    tag: str
    device: bool
    metric: str
    datatype: int
    type: str
    every: int


SIGNALS = (
    Signal("sequence", False, "Sequence", INT64, "int", 1),
    Signal("load", False, "Load", DOUBLE, "double", 2),
    Signal("state", True, "Packer/State", INT32, "enum", 0),
    Signal("running", True, "Packer/Running", BOOLEAN, "bool", 0),
    Signal("count", True, "Packer/Count", INT64, "int", 1),
    Signal("speed", True, "Packer/Speed", DOUBLE, "double", 1),
    Signal("temperature", True, "Packer/Temperature", FLOAT, "float", 2),
    Signal("recipe", True, "Packer/Recipe", STRING, "string", 0),
)
UNMIRRORED = ("Node Control/Rebirth", BOOLEAN)
"""A metric that the birth tells and no tag mirrors."""


class SparkplugModel:
    """Values by tag, second by second: pure. Temperature is stale for 5 s and bad for 5 s of each minute."""

    def __init__(self, seed: int, rate_per_min: float) -> None:
        self.seed, self.line = seed, LineModel(seed, rate_per_min)
        self.second = 0

    def advance(self) -> dict[str, tuple[Any, int]]:
        """{tag: (value, quality)} of the next second."""
        self.second += 1
        for _ in range(int(PERIOD_S / STEP_S)):
            made = self.line.advance()
        at = self.second % 60
        # What a float of 32 bits holds, so that the journal says what is sent.
        temperature = round(64 * (40.0 + 5.0 * noise(self.seed, "temperature", self.second))) / 64
        quality = STALE if 20 <= at < 25 else BAD if 40 <= at < 45 else GOOD
        return {
            "sequence": (self.second, GOOD), "load": (0.1 * self.second - 50.0, GOOD), "state": (made["state"], GOOD),
            "running": (made["speed"] > 0, GOOD), "count": (made["count"], GOOD), "speed": (made["speed"], GOOD),
            "temperature": (temperature, quality), "recipe": ("Rezept \u00e4 %d" % (self.second // 90), GOOD),
        }


class Session:
    """What belongs to one connection: bdSeq, the next number, and what the aliases mean. Pure."""

    def __init__(self, group: str, node: str, device: str, bdseq: int) -> None:
        self.group, self.node, self.device, self.bdseq = group, node, device, bdseq
        self.births = 0
        self.seq = 0

    def topic(self, kind: str) -> str:
        """NBIRTH, NDATA, NDEATH, DBIRTH, DDATA, DDEATH."""
        return Topic(self.group, kind, self.node, self.device if kind[0] == "D" else "").text()

    def death(self) -> bytes:
        """The will."""
        return encode(Payload(metrics=(metric(BDSEQ, INT64, self.bdseq),)))

    def alias(self, signal: Signal) -> int:
        """Another one after each birth of the node, and one that meant something else before."""
        return 1 + (SIGNALS.index(signal) + self.births) % len(SIGNALS)

    def _take(self) -> int:
        self.seq, taken = (self.seq + 1) % 256, self.seq
        return taken

    def _metric(self, signal: Signal, value: Any, quality: int, ms: int | None, name: bool, past: bool = False) -> Metric:
        one = metric(signal.metric if name else None, signal.datatype, value, alias=self.alias(signal), timestamp=ms, historical=past)
        return replace(one, quality=quality) if signal.tag == "temperature" else one

    def birth(self, values: Mapping[str, tuple[Any, int]], ms: int, device: bool) -> bytes:
        """NBIRTH (which begins the numbers anew) or DBIRTH, with every value."""
        known: list[Metric] = []
        if not device:
            self.seq = 0
            self.births += 1
            known = [metric(BDSEQ, INT64, self.bdseq, timestamp=ms), metric(UNMIRRORED[0], UNMIRRORED[1], False, timestamp=ms, alias=900)]
        known += [self._metric(one, *values[one.tag], ms, True) for one in SIGNALS if one.device is device]
        return encode(Payload(ms, self._take(), tuple(known)))

    def data(self, signals: Iterable[Signal], values: Mapping[str, tuple[Any, int]], ms: int, past_ms: int | None = None) -> bytes:
        """NDATA or DDATA, by alias. Of a message that is not of the past, only each second metric has a time of its own."""
        metrics = tuple(self._metric(one, *values[one.tag], past_ms if past_ms is not None else ms if number % 2 else None, False, past_ms is not None)
                        for number, one in enumerate(signals))
        return encode(Payload(ms, self._take(), metrics), datatypes=False)

    def stranger(self, ms: int) -> bytes:
        """Data with an alias that no birth told."""
        return encode(Payload(ms, self._take(), (metric(None, INT32, 1, alias=4711),)), datatypes=False)

    def empty(self, ms: int) -> bytes:
        """A death of the device."""
        return encode(Payload(ms, self._take()))


class SparkplugLine:
    """The client. Control: ``{"sparkplug": "rebirth" | "device_death" | "stranger" | "lose" | "cut"}``."""

    def __init__(self, config: dict[str, Any], plant: dict[str, Any], journal: Journal, password: str) -> None:
        self.config, self.journal = config, journal
        spec = plant["line"]["sparkplug"]
        self.group, self.node, self.device = str(spec["group"]), str(spec["node"]), str(spec["device"])
        self.model = SparkplugModel(int(plant["seed"]), float(plant["line"]["rate_per_min"]))
        self._count_file = Path(config["bdseq"])
        self.session = Session(self.group, self.node, self.device, self._stored())
        self.connects = self.sent = 0
        self.values: dict[str, tuple[Any, int]] = self.model.advance()
        self._told: dict[str, Any] = {}
        self._kept: deque[tuple[int, list[Signal], dict[str, tuple[Any, int]]]] = deque(maxlen=KEPT)
        self._ms = 0
        self._born = False
        self._device_back = 0
        self._wishes: list[str] = []
        client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id="%s-sparkplug" % self.node, clean_session=True)
        client.tls_set_context(ssl.create_default_context(cafile=config["ca"]))
        client.username_pw_set(config["username"], password)
        client.reconnect_delay_set(1, 30)
        client.on_pre_connect = self._before
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        self.client = client

    def _stored(self) -> int:
        try:
            return int(self._count_file.read_text(encoding="ascii")) % 256
        except (OSError, ValueError):
            return 255

    def _before(self, client: Any, userdata: Any) -> None:
        """Each connection has a number of its own, and a will that says it."""
        session = Session(self.group, self.node, self.device, (self.session.bdseq + 1) % 256)
        session.births = self.session.births
        self._count_file.write_text("%d\n" % session.bdseq, encoding="ascii")
        client.will_set(session.topic("NDEATH"), session.death(), qos=1)
        self.session = session

    def _on_connect(self, client: Any, userdata: Any, flags: Any, reason: Any, properties: Any) -> None:
        self.connects += 1
        _log.info("I! broker says: %s", reason)

    def _on_disconnect(self, client: Any, userdata: Any, flags: Any, reason: Any, properties: Any) -> None:
        self._born = False
        _log.warning("W! connection ended: %s", reason)

    async def start(self) -> None:
        """Begin to connect; the library goes on for ever."""
        self.client.connect_async(self.config["host"], int(self.config["port"]), keepalive=15)
        self.client.loop_start()

    def _moment(self) -> int:
        """Now in ms, never twice the same: two samples of a tag never have one time."""
        self._ms = max(self._ms + 1, ticks() // 10_000)
        return self._ms

    def _publish(self, kind: str, payload: bytes, ms: int, signals: Iterable[Signal], values: Mapping[str, tuple[Any, int]], lost: bool = False) -> None:
        """Hand it over and write down what it says; *lost*: only write it down."""
        if not lost:
            if self.client.publish(self.session.topic(kind), payload, qos=0).rc != mqtt.MQTT_ERR_SUCCESS:
                self._born = False
                return
            self.sent += 1
        more = {"lost": True} if lost else {}
        lines = []
        for one in signals:
            value, quality = values[one.tag]
            status = STATUS[quality]
            lines.append({"t": ms * 10_000, "tag": one.tag, "value": None if status & 0x80000000 else value, "status": status, "kind": kind, **more})
        self.journal.write(lines)

    def _births(self) -> None:
        ms = self._moment()
        self._born = True
        self._publish("NBIRTH", self.session.birth(self.values, ms, False), ms, [one for one in SIGNALS if not one.device], self.values)
        self._device_birth()
        while self._kept and self._born:
            past, signals, values = self._kept.popleft()
            for kind, own in (("NDATA", False), ("DDATA", True)):
                those = [one for one in signals if one.device is own]
                if those:
                    self._publish(kind, self.session.data(those, values, self._moment(), past), past, those, values)

    def _device_birth(self) -> None:
        ms = self._moment()
        self._device_back = 0
        self._told = {one.tag: self.values[one.tag] for one in SIGNALS}
        self._publish("DBIRTH", self.session.birth(self.values, ms, True), ms, [one for one in SIGNALS if one.device], self.values)

    def _due(self) -> list[Signal]:
        """What this second has to say."""
        found = [one for one in SIGNALS
                 if (one.every and self.model.second % one.every == 0) or (not one.every and self._told.get(one.tag) != self.values[one.tag])]
        self._told.update({one.tag: self.values[one.tag] for one in found})
        return found

    async def run(self) -> None:
        """Produce for ever."""
        async for _ in pace(PERIOD_S):
            self.values = self.model.advance()
            if not self.client.is_connected():
                self._born = False
                self._kept.append((self._moment(), self._due(), self.values))
                continue
            if not self._born:
                self._births()
                continue
            wishes, self._wishes = self._wishes, []
            for wish in wishes:
                self._grant(wish)
            due = self._due()
            lost = "lose" in wishes
            for kind, own in (("NDATA", False), ("DDATA", True)):
                those = [one for one in due if one.device is own]
                if own and self._device_back:
                    continue
                if those and self._born:
                    ms = self._moment()
                    self._publish(kind, self.session.data(those, self.values, ms), ms, those, self.values, lost)
            if self._device_back:
                self._device_back -= 1
                if not self._device_back:
                    self._device_birth()

    def _grant(self, wish: str) -> None:
        """What a test asked for."""
        if wish == "rebirth":
            self._births()
        elif wish == "device_death" and not self._device_back:
            self._publish("DDEATH", self.session.empty(self._moment()), 0, (), {})
            self._device_back = 3
        elif wish == "stranger":
            self._publish("NDATA", self.session.stranger(self._moment()), 0, (), {})

    def command(self, request: dict[str, Any]) -> dict[str, Any]:
        """Answer of the control socket."""
        wish = str(request.get("sparkplug", ""))
        if wish == "cut":
            # Without a word: the broker publishes the will.
            sock = self.client.socket()
            if sock is not None:
                sock.shutdown(2)
        elif wish:
            self._wishes.append(wish)
        return {"connected": self.client.is_connected(), "connects": self.connects, "sent": self.sent, "second": self.model.second,
                "bdseq": self.session.bdseq, "births": self.session.births, "journal_lines": self.journal.lines}

    async def stop(self) -> None:
        """Leave politely: the will is not published then, so the death is told."""
        info = self.client.publish(self.session.topic("NDEATH"), self.session.death(), qos=1)
        deadline = asyncio.get_running_loop().time() + 1.0
        while self.client.is_connected() and not info.is_published() and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.02)
        self.client.disconnect()
        self.client.loop_stop()
