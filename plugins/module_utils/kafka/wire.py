# SPDX-License-Identifier: Apache-2.0
"""Walks through an answer of Kafka's protocol. Source: Kafka protocol guide (primitive types), KIP-482 (compact types and tags)."""

from __future__ import annotations

import struct


def text(value: str | None) -> bytes:
    """A nullable string."""
    if value is None:
        return struct.pack(">h", -1)
    raw = value.encode("utf-8")
    return struct.pack(">h", len(raw)) + raw


class Reader:
    """Raises IndexError, struct.error or UnicodeDecodeError at the end of a malformed answer."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def _take(self, size: int) -> bytes:
        if self.at + size > len(self.data):
            raise IndexError("the answer ends early")
        self.at += size
        return self.data[self.at - size:self.at]

    def number(self, layout: str) -> int:
        """One whole number."""
        return int(struct.unpack(layout, self._take(struct.calcsize(layout)))[0])

    def double(self) -> float:
        """One float64."""
        return float(struct.unpack(">d", self._take(8))[0])

    def text(self) -> str | None:
        """One nullable string."""
        size = self.number(">h")
        return None if size < 0 else self._take(size).decode("utf-8")

    def varint(self) -> int:
        """One unsigned varint."""
        value = shift = 0
        while True:
            byte = self._take(1)[0]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7

    def compact(self) -> str | None:
        """One nullable compact string."""
        size = self.varint() - 1
        return None if size < 0 else self._take(size).decode("utf-8")

    def tags(self) -> dict[int, bytes]:
        """Tag → content."""
        found: dict[int, bytes] = {}
        for _number in range(self.varint()):
            tag, size = self.varint(), self.varint()
            found[tag] = self._take(size)
        return found
