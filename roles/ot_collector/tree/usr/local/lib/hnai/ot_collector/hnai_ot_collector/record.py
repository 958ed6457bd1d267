# SPDX-License-Identifier: Apache-2.0
"""The record that travels from the collector to the store, and its line on the pipe.

Times are 100-ns ticks since 1970-01-01Z. ``status`` is an OPC UA StatusCode (uint32).
"""
from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

TICKS_PER_MS = 10_000
TICKS_PER_S = 10_000_000

GOOD = 0x00000000
BAD_NO_COMMUNICATION = 0x80310000
BAD_NODE_ID_INVALID = 0x80330000
BAD_NODE_ID_UNKNOWN = 0x80340000
BAD_OUT_OF_RANGE = 0x803C0000
BAD_TYPE_MISMATCH = 0x80740000
BAD_TIMEOUT = 0x800A0000
BAD_WAITING_FOR_INITIAL_DATA = 0x80320000
BAD_DECODING_ERROR = 0x80070000
BAD_ENCODING_LIMITS_EXCEEDED = 0x80080000
OVERFLOW = 0x480
"""Info bits of a DataValue: InfoType DataValue (0x400) and Overflow (0x080)."""

MAX_TEXT = 65_536
"""Bytes of a string as it travels. Beyond what a hop takes it would cost others: Telegraf drops the batch that Kafka refuses, the broker its client."""
_NS = 2**63 - 2
"""An influx line has an int64 of ns, 1677 to 2262; OPC UA knows 1601 to 9999. The record keeps the true time."""

TYPES = ("double", "float", "int", "bool", "enum", "string")


def is_bad(status: int) -> bool:
    """Severity Bad: the value means nothing."""
    return bool(status & 0x80000000)


def overflowed(status: int) -> bool:
    """The server's queue of this item overflowed: at least one sample before this one is lost."""
    return status & OVERFLOW == OVERFLOW


def fit(value: Any, kind: str, status: int) -> tuple[Any, int]:
    """The value as the record carries it, and the status that then is true.

    Bad: no value. NaN and infinity have no place in JSON: no value, Bad_OutOfRange. A value of another type than the
    model declares: no value, Bad_TypeMismatch. A string that is no UTF-8, or too long to travel: no value, a Bad code.
    """
    if is_bad(status):
        return None, status
    if value is None:
        return None, status if status else BAD_TYPE_MISMATCH
    if kind == "bool":
        return (value, status) if isinstance(value, bool) else (None, BAD_TYPE_MISMATCH)
    if kind == "string":
        return _text(value, status) if isinstance(value, str) else (None, BAD_TYPE_MISMATCH)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None, BAD_TYPE_MISMATCH
    if kind in ("int", "enum"):
        return (int(value), status) if isinstance(value, int) else (None, BAD_TYPE_MISMATCH)
    number = float(value)
    return (number, status) if math.isfinite(number) else (None, BAD_OUT_OF_RANGE)


def _text(value: str, status: int) -> tuple[str | None, int]:
    """A string, whose bytes that were no UTF-8 are lone surrogates by now (asyncua decodes so)."""
    try:
        size = len(json.dumps(value, ensure_ascii=False).encode("utf-8"))
    except UnicodeEncodeError:
        return None, BAD_DECODING_ERROR
    return (value, status) if size <= MAX_TEXT else (None, BAD_ENCODING_LIMITS_EXCEEDED)


@dataclass
class Record:
    """One sample, status or gap of one tag."""

    source: str
    tag: str
    value: Any
    type: str
    status: int
    source_ts: int
    server_ts: int | None
    observed_ts: int
    ts_origin: str
    seq: int = 0
    repeat: bool = False
    gap: dict[str, Any] | None = None

    def json(self) -> str:
        """Canonical JSON: fixed key order, no spaces, ``repeat`` and ``gap`` only where they say something."""
        body: dict[str, Any] = {
            "source": self.source, "tag": self.tag, "value": self.value, "type": self.type, "status": self.status,
            "source_ts": self.source_ts, "server_ts": self.server_ts, "observed_ts": self.observed_ts,
            "ts_origin": self.ts_origin, "seq": self.seq,
        }
        if self.repeat:
            body["repeat"] = True
        if self.gap is not None:
            body["gap"] = self.gap
        return json.dumps(body, separators=(",", ":"), ensure_ascii=False, allow_nan=False)

    def line(self) -> bytes:
        """The influx line: measurement ``ot``, the key as tags, the JSON as field ``record``, the source time in ns as far as it goes."""
        text = self.json().replace("\\", "\\\\").replace('"', '\\"')
        return ('ot,key=%s/%s,source=%s,tag=%s record="%s" %d\n' % (
            self.source, self.tag, self.source, self.tag, text, max(-_NS, min(_NS, self.source_ts * 100)))).encode("utf-8")
