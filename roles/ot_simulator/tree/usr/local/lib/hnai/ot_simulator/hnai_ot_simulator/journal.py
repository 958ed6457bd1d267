# SPDX-License-Identifier: Apache-2.0
"""Journal of everything produced: JSON lines, rotated by size, written in one piece per step.

A line: ``{"t": 100-ns ticks since 1970-01-01Z, "tag": name, "value": v, "status": uint32}`` and whatever else the
source adds. Files: ``<name>.jsonl`` and ``<name>.1.jsonl`` (younger) ... ``<name>.<keep>.jsonl`` (oldest).
"""
from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


class Journal:
    """Appends records; rotates before a file grows beyond *limit_bytes*; keeps *keep* old files."""

    def __init__(self, directory: Path, name: str, limit_bytes: int = 64 << 20, keep: int = 8) -> None:
        self.path = directory / ("%s.jsonl" % name)
        self._directory, self._name, self._limit, self._keep = directory, name, limit_bytes, keep
        directory.mkdir(parents=True, exist_ok=True)
        self._file = self._open()
        self._size = os.fstat(self._file).st_size
        self.lines = 0

    def write(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Append *records* by one write(2): a kill leaves whole lines only."""
        lines = [json.dumps(record, separators=(",", ":"), allow_nan=False) for record in records]
        if not lines:
            return
        data = ("\n".join(lines) + "\n").encode("utf-8")
        if self._size and self._size + len(data) > self._limit:
            self._rotate()
        view = memoryview(data)
        while view:
            view = view[os.write(self._file, view):]
        self._size += len(data)
        self.lines += len(lines)

    def _open(self, more: int = 0) -> int:
        return os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | more, 0o640)

    def _old(self, number: int) -> Path:
        return self._directory / ("%s.%d.jsonl" % (self._name, number))

    def _rotate(self) -> None:
        os.close(self._file)
        self._old(self._keep).unlink(missing_ok=True)
        for number in range(self._keep - 1, 0, -1):
            if self._old(number).exists():
                self._old(number).rename(self._old(number + 1))
        if self._keep:
            self.path.rename(self._old(1))
        self._file = self._open(os.O_TRUNC)
        self._size = 0

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)
