# SPDX-License-Identifier: Apache-2.0
"""Modbus TCP on pymodbus 3.16: the only file that imports it. Two reading functions, nothing else is reachable."""
from __future__ import annotations

import asyncio
from typing import Any

from pymodbus.client import AsyncModbusTcpClient
from pymodbus.exceptions import ModbusException

from . import dial
from .config import ModbusSource

CONNECT_S = 9.0
READING = frozenset({3, 4})
"""Read Holding Registers, Read Input Registers."""


class NoReply(Exception):
    """No (matching) answer in time."""


class NoLink(Exception):
    """There is no connection."""


class Forbidden(RuntimeError):
    """A function that is not reading was about to be sent; a bug of ours."""


class _Client(AsyncModbusTcpClient):
    """pymodbus' client that sends reading functions only."""

    def execute(self, no_response_expected: bool, request: Any) -> Any:
        if request.function_code not in READING:
            raise Forbidden("Modbus function %d is not a reading one; the collector never sends it" % request.function_code)
        return super().execute(no_response_expected, request)


class ModbusChannel:
    """One connection, one request at a time."""

    def __init__(self, source: ModbusSource) -> None:
        self._source = source
        self._client: Any = None

    async def open(self) -> None:
        """Connect. Raises NoLink."""
        source = self._source
        try:
            host = await dial.address(source.host, source.port)
            self._client = _Client(host, port=source.port, name="hnai-%s" % source.id, timeout=source.timeout_s, retries=0,
                                   reconnect_delay=0)
            connected = await asyncio.wait_for(self._client.connect(), CONNECT_S)
        except (OSError, TimeoutError, ModbusException) as error:
            dial.failed(source.host)
            raise NoLink(str(error) or type(error).__name__) from error
        if not connected:
            dial.failed(source.host)
            raise NoLink("connection to %s refused or no answer" % host)

    async def read(self, address: int, count: int) -> tuple[list[int], int]:
        """Registers (none where the reply is not of this request) and exception code (0 = none). Raises NoReply or NoLink."""
        source = self._source
        function, code = (self._client.read_input_registers, 4) if source.table == "input" else (self._client.read_holding_registers, 3)
        if not self._client.connected:
            raise NoLink("the device closed the connection")
        try:
            reply = await function(address, count=count, device_id=source.unit)
        except ModbusException as error:
            if not self._client.connected:
                raise NoLink(str(error)) from error
            raise NoReply(str(error)) from error
        except (OSError, asyncio.CancelledError) as error:
            if isinstance(error, asyncio.CancelledError):
                raise
            raise NoLink(str(error)) from error
        if reply.isError():
            return [], int(getattr(reply, "exception_code", 4) or 4)
        if reply.function_code != code or len(reply.registers) != count:
            # pymodbus goes by the transaction alone: what was not asked for is no value of anybody's.
            return [], 0
        return list(reply.registers), 0

    def close(self) -> None:
        """Close the connection."""
        if self._client is not None:
            self._client.close()
