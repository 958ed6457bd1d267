# SPDX-License-Identifier: Apache-2.0
"""Modbus registers: which to read together, and what they mean. Pure."""
from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from .config import ModbusTag

MAX_REGISTERS = 125
"""Registers in one reply (Modbus Application Protocol 1.1b3, 6.3 and 6.4)."""
BAD_SENSOR_FAILURE = 0x808C0000
BAD_COMMUNICATION_ERROR = 0x80050000
EXCEPTIONS = {
    1: 0x803D0000,   # illegal function          Bad_NotSupported
    2: 0x80340000,   # illegal data address      Bad_NodeIdUnknown
    3: 0x803C0000,   # illegal data value        Bad_OutOfRange
    4: 0x808B0000,   # device failure            Bad_DeviceFailure
    5: 0x80320000,   # acknowledge (later)       Bad_WaitingForInitialData
    6: 0x80040000,   # device busy               Bad_ResourceUnavailable
    8: 0x808B0000,   # memory parity             Bad_DeviceFailure
    10: 0x808A0000,  # gateway path              Bad_NotConnected
    11: 0x80310000,  # gateway target            Bad_NoCommunication
}
_FORMATS = {"float32": ">f", "float64": ">d", "uint16": ">H", "int16": ">h", "uint32": ">I", "int32": ">i"}


@dataclass(frozen=True)
class Block:
    """Registers that are read by one request."""

    address: int
    count: int
    tags: tuple[ModbusTag, ...]


def blocks(tags: Iterable[ModbusTag], gap: int) -> list[Block]:
    """Requests for *tags*: neighbours at most *gap* unused registers apart share one, of at most 125 registers."""
    made: list[Block] = []
    run: list[ModbusTag] = []
    for tag in sorted(tags, key=lambda item: (item.address, item.name)):
        if run:
            start = run[0].address
            end = max(item.address + item.width for item in run)
            if tag.address - end > gap or max(end, tag.address + tag.width) - start > MAX_REGISTERS:
                made.append(_block(run))
                run = []
        run.append(tag)
    if run:
        made.append(_block(run))
    return made


def _block(tags: Sequence[ModbusTag]) -> Block:
    start = tags[0].address
    return Block(start, max(tag.address + tag.width for tag in tags) - start, tuple(tags))


def split(block: Block) -> list[Block]:
    """One request per tag, so that an address that does not exist costs only its own tag."""
    return [_block([tag]) for tag in block.tags]


def decode(tag: ModbusTag, registers: Sequence[int], base: int, word_order: str) -> tuple[Any, int]:
    """Value and status of *tag* out of the *registers* that begin at address *base*.

    NaN in a float is how devices say "sensor broken": no value, Bad_SensorFailure.
    """
    words = list(registers[tag.address - base: tag.address - base + tag.width])
    if len(words) != tag.width:
        return None, BAD_COMMUNICATION_ERROR
    if word_order == "little":
        words.reverse()
    (raw,) = struct.unpack(_FORMATS[tag.encoding], struct.pack(">%dH" % len(words), *words))
    if isinstance(raw, float) and math.isnan(raw) and tag.nan:
        return None, BAD_SENSOR_FAILURE
    if tag.type == "bool":
        return raw != 0, 0
    return (raw if tag.scale == 1.0 else raw * tag.scale), 0


def exception_status(code: int) -> int:
    """StatusCode of a Modbus exception."""
    return EXCEPTIONS.get(code, BAD_COMMUNICATION_ERROR)
