# SPDX-License-Identifier: Apache-2.0
"""The way out: a bounded queue and one thread that writes it to the pipe.

A pipe that nobody reads blocks the thread, never the sessions. When the queue is full the oldest record goes, and per tag
it is remembered what went: from and to (exclusive bounds, ticks) and how many, for a gap record once the pipe flows.
Who acknowledges or remembers waits until ``taken`` has reached what ``put_total`` was: then its records are out of the pipe, or told as dropped.
"""
from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from .record import Record


@dataclass
class Dropped:
    """What was dropped of one tag; bounds in ticks, both exclusive."""

    start: int
    end: int
    count: int


class Outlet:
    """*write* takes bytes and may block; it raises OSError when the reader is gone. *unread*: bytes of them that nobody has read yet."""

    def __init__(self, write: Callable[[bytes], object], limit: int, on_broken: Callable[[], None] = lambda: None,
                 unread: Callable[[], int] = lambda: 0) -> None:
        self._write, self._limit, self._on_broken, self._unread = write, limit, on_broken, unread
        self._queue: deque[tuple[Record, bytes]] = deque()
        self.put_total = 0
        self._dropped_while_busy = 0
        self._settled = self._taken = self._bytes = 0
        self._in_pipe: deque[tuple[int, int]] = deque()
        self._ready = threading.Condition()
        self._dropped: dict[tuple[str, str], Dropped] = {}
        self._closing = False
        self._busy_since: float | None = None
        self.broken = False
        self.sent = 0
        self.dropped_total = 0
        self._thread = threading.Thread(target=self._run, name="outlet", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    @property
    def depth(self) -> int:
        """Records that wait."""
        return len(self._queue)

    def blocked_s(self) -> float:
        """Since how long the present write has not come back; 0 when none is under way."""
        since = self._busy_since
        return 0.0 if since is None else time.monotonic() - since

    def put(self, record: Record) -> None:
        """Queue *record*; drops the oldest when the queue is full."""
        line = record.line()
        with self._ready:
            while len(self._queue) >= self._limit:
                self._drop(self._queue.popleft()[0])
                self._dropped_while_busy += 1
            self._queue.append((record, line))
            self.put_total += 1
            self._ready.notify()

    def _drop(self, record: Record) -> None:
        self.dropped_total += 1
        start, end, count = record.source_ts - 1, record.source_ts + 1, 1
        if record.gap is not None:
            start, end = record.gap["from"], record.gap["to"] or record.source_ts + 1
            count = int(record.gap.get("count", 0))
        key = (record.source, record.tag)
        known = self._dropped.get(key)
        if known is None:
            self._dropped[key] = Dropped(start, end, count)
        else:
            known.start, known.end, known.count = min(known.start, start), max(known.end, end), known.count + count

    def take_dropped(self) -> dict[tuple[str, str], Dropped]:
        """What was dropped, once the queue has drained to half; empty before. Forgotten when taken."""
        with self._ready:
            if not self._dropped or len(self._queue) * 2 > self._limit:
                return {}
            taken, self._dropped = self._dropped, {}
            return taken

    def taken(self) -> int:
        """How many of ``put_total`` the reader has taken out of the pipe; stands still while something dropped is not told."""
        with self._ready:
            if not self._dropped:
                read = self._bytes - self._unread()
                while self._in_pipe and self._in_pipe[0][1] <= read:
                    self._taken = self._in_pipe.popleft()[0]
            return self._taken

    def _run(self) -> None:
        while True:
            with self._ready:
                while not self._queue and not self._closing:
                    self._ready.wait()
                if not self._queue:
                    return
                lines = [self._queue.popleft()[1] for _ in range(min(128, len(self._queue)))]
            self._busy_since = time.monotonic()
            try:
                self._write(b"".join(lines))
            except OSError:
                self.broken = True
                self._on_broken()
                return
            finally:
                self._busy_since = None
            self.sent += len(lines)
            with self._ready:
                # What was dropped meanwhile came after what was being written.
                self._settled += len(lines) + self._dropped_while_busy
                self._dropped_while_busy = 0
                self._bytes += sum(map(len, lines))
                self._in_pipe.append((self._settled, self._bytes))

    def close(self, timeout_s: float) -> bool:
        """Write what waits and stop; False when that took longer than *timeout_s*."""
        with self._ready:
            self._closing = True
            self._ready.notify()
        self._thread.join(timeout_s)
        return not self._thread.is_alive() and not self.broken
