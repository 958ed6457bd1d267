# SPDX-License-Identifier: Apache-2.0
"""Modbus TCP server of a test separator on pymodbus 3.16: read only, with a journal of every reply sent.

A line of the journal is one value of one reply: ``t`` when the reply was sent, ``tag``, ``value`` (raw, before any scale; None in
an exception and for NaN), ``status`` (0; Bad_SensorFailure for NaN; None in an exception), ``exception`` (code, 0 = none),
``reply`` (number of the reply), ``address``, ``count``. The registers are made when a request comes in.
"""
from __future__ import annotations

import asyncio
import logging
import math
import struct
from typing import Any

from pymodbus.constants import ExcCodes
from pymodbus.server import ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

from .clock import ticks
from .journal import Journal

_log = logging.getLogger("hnai.modbus")
NAN_STATUS = 0x808C0000
"""What NaN means on this device: the sensor is broken."""
_FORMATS = {"float32": ">f", "uint16": ">H", "uint32": ">I"}


def registers_of(kind: str, value: float | int, word_order: str) -> list[int]:
    """The 16-bit words of *value*; ``big`` = the high word first."""
    data = struct.pack(_FORMATS[kind], value)
    words = list(struct.unpack(">%dH" % (len(data) // 2), data))
    return words if word_order == "big" else words[::-1]


def value_of(kind: str, words: list[int], word_order: str) -> float | int:
    """The inverse of registers_of."""
    ordered = words if word_order == "big" else words[::-1]
    (value,) = struct.unpack(_FORMATS[kind], struct.pack(">%dH" % len(ordered), *ordered))
    return value  # type: ignore[no-any-return]


class Separator:
    """What the instruments read at a moment (seconds): pure. ``test_level`` is NaN (a broken sensor) now and then."""

    def __init__(self, registers: list[dict[str, Any]]) -> None:
        self.registers = registers
        self.count = 0

    def read(self, t_s: float) -> dict[str, float | int]:
        """Raw values by name (before any scale)."""
        self.count += 1
        wave = math.sin(t_s / 31.0)
        values: dict[str, float | int] = {
            "test_pressure": 145.0 + 6.0 * wave, "test_temperature": 121.0 + 3.0 * math.sin(t_s / 67.0),
            "test_oil_rate": 900.0 + 120.0 * wave, "test_water_rate": 420.0 - 35.0 * wave,
            "test_gas_rate": 16500.0 + 900.0 * wave,
            "test_level": math.nan if t_s % 90.0 < 6.0 else 48.0 + 9.0 * math.sin(t_s / 23.0),
            "test_valve": round(500 + 300 * wave), "test_running": 0 if t_s % 240.0 < 15.0 else 1,
            "test_counter": self.count & 0xFFFFFFFF,
        }
        return {entry["name"]: values[entry["name"]] for entry in self.registers}


class ModbusSimulator:
    """The server. Control: ``exception`` (code for every reply, 0 = none), ``silent`` (never answers)."""

    def __init__(self, config: dict[str, Any], plant: dict[str, Any], journal: Journal) -> None:
        self.config, self.plant, self.journal = config, plant["modbus"], journal
        self.separator = Separator(self.plant["registers"])
        self.word_order = str(self.plant["word_order"])
        self.started = ticks()
        self.exception = 0
        self.silent = False
        self.replies = 0
        self.connections = 0
        self._asked: tuple[int, int] | None = None
        self._server: Any = None

    async def start(self) -> None:
        """Listen."""
        width = max(int(entry["address"]) for entry in self.plant["registers"]) + 2
        defined = [False] * width
        for entry in self.plant["registers"]:
            for offset in range(struct.calcsize(_FORMATS[entry["type"]]) // 2):
                defined[int(entry["address"]) + offset] = True
        end = max(index for index, used in enumerate(defined) if used) + 1
        device = SimDevice(id=int(self.plant["unit"]), simdata=[
            SimData(0, count=end, values=0, datatype=DataType.REGISTERS, readonly=True)], action=self._action)
        self._server = ModbusTcpServer(device, address=(self.config["bind"], int(self.config["port"])), trace_pdu=self._trace,
                                       trace_connect=self._connected)
        await self._server.serve_forever(background=True)
        _log.info("I! listening on %s:%s", self.config["bind"], self.config["port"])

    async def run(self) -> None:
        """Nothing to do between requests."""
        await asyncio.Event().wait()

    def _connected(self, connected: bool) -> None:
        self.connections += 1 if connected else -1

    async def _action(self, function: int, start: int, address: int, count: int, current: list[int], set_values: Any) -> Any:
        """Called by pymodbus before it answers a request: make today's registers."""
        if set_values is not None or function not in (3, 4):
            return ExcCodes.ILLEGAL_FUNCTION
        while self.silent:
            await asyncio.sleep(0.2)
        if self.exception:
            return ExcCodes(self.exception)
        values = self.separator.read((ticks() - self.started) / 1e7)
        for entry in self.plant["registers"]:
            at = int(entry["address"]) - start
            for offset, word in enumerate(registers_of(entry["type"], values[entry["name"]], self.word_order)):
                if 0 <= at + offset < len(current):
                    current[at + offset] = word
        return None

    def _trace(self, sending: bool, pdu: Any) -> Any:
        """Sees every request and reply; one client asks, one request is under way."""
        if not sending:
            self._asked = (int(getattr(pdu, "address", -1)), int(getattr(pdu, "count", 0)))
            return pdu
        if self._asked is None:
            return pdu
        (address, count), self._asked = self._asked, None
        self.replies += 1
        now, lines = ticks(), []
        for entry in self.plant["registers"]:
            at, width = int(entry["address"]) - address, struct.calcsize(_FORMATS[entry["type"]]) // 2
            if at < 0 or at + width > count:
                continue
            value: float | int | None = None
            exception = int(getattr(pdu, "exception_code", 0) or 0)
            status: int | None = None if exception else 0
            if not exception:
                value = value_of(entry["type"], list(pdu.registers[at:at + width]), self.word_order)
                if isinstance(value, float) and math.isnan(value):
                    value, status = None, NAN_STATUS
            lines.append({"t": now, "tag": entry["name"], "value": value, "status": status, "exception": exception,
                          "reply": self.replies, "address": address, "count": count})
        self.journal.write(lines)
        return pdu

    def command(self, request: dict[str, Any]) -> dict[str, Any]:
        """Answer of the control socket."""
        if "exception" in request:
            self.exception = int(request["exception"])
        if "silent" in request:
            self.silent = bool(request["silent"])
        return {"t": ticks(), "replies": self.replies, "connections": self.connections, "exception": self.exception,
                "silent": self.silent, "journal_lines": self.journal.lines}

    async def stop(self) -> None:
        """Close."""
        await self._server.shutdown()
