# SPDX-License-Identifier: Apache-2.0
"""What is known about each tag of a source, and the records that follow from it: samples, repeats, failures, gaps.

Pure: knows no protocol, takes the clock and the way out as parameters.

A gap of a tag begins after the last sample that was delivered (cyclic) or after the last moment at which the source was
known to be alive (on change: silence is no loss), and ends before the first sample after it. Samples strictly between
may be missing; nothing else is. It is announced when noticed (``to`` null) and closed when data flows again.

Its mark (Bad_NoCommunication) stands right behind its begin. After a restart that begin is early: what was told after the memory
was written stands behind the mark, and so the end has one, too, right before the first sample.
"""
from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .record import BAD_NO_COMMUNICATION, TICKS_PER_MS, TICKS_PER_S, Record, fit, overflowed

RESTART = "collector_restart"


@dataclass
class Gap:
    """An open gap of one tag."""

    start: int
    reason: str


@dataclass
class TagState:
    """The last things known about a tag."""

    type: str
    cyclic: bool
    value: Any = None
    status: int | None = None
    source_ts: int | None = None
    server_ts: int | None = None
    origin: str = "source"
    has_value: bool = False
    emitted: int = 0
    failure: int | None = None
    gap: Gap | None = None
    alive: int | None = None
    """Of a polled tag: when it was read last; the others have the stream's."""


@dataclass
class Counters:
    """Totals since the program started."""

    samples: int = 0
    bad: int = 0
    repeats: int = 0
    gaps: dict[str, int] = field(default_factory=dict)
    last_gap: int | None = None
    last_sample: int | None = None


class Stream:
    """Records of one source, numbered. *known* is the ``memory`` of an earlier run."""

    def __init__(
        self, source: str, tags: Iterable[tuple[str, str, bool]], emit: Callable[[Record], None], clock: Callable[[], int],
        repeat_s: float = 60.0, known: Mapping[str, Any] | None = None, alive: int | None = None,
    ) -> None:
        self.source, self._emit, self._clock = source, emit, clock
        self._repeat = int(repeat_s * TICKS_PER_S)
        self.tags = {name: TagState(kind, cyclic) for name, kind, cyclic in tags}
        self.alive = alive
        self.counters = Counters()
        # Unix milliseconds x 1000: greater than any number of an earlier run at less than 1000 records per millisecond.
        self.seq = clock() // TICKS_PER_MS * 1000
        for name, last in (known or {}).items():
            state = self.tags.get(name)
            if state is not None:
                state.source_ts, state.status = int(last[0]), int(last[1])
                state.alive = int(last[2]) if len(last) > 2 else None
                state.gap = Gap(self._gap_start(state), RESTART)

    def now(self) -> int:
        """The stream's clock, in ticks."""
        return self._clock()

    def _record(self, name: str, state: TagState, **fields: Any) -> Record:
        self.seq += 1
        record = Record(source=self.source, tag=name, type=state.type, observed_ts=self._clock(), seq=self.seq, **fields)
        self._emit(record)
        return record

    def _gap_start(self, state: TagState, alive: int | None = None) -> int:
        last = state.source_ts or 0
        known = (state.alive or self.alive or 0) if alive is None else alive
        if last > self._clock():
            # The source's clock was ahead: a gap that began then would hold nothing.
            return known or self._clock()
        return last if state.cyclic and last else max(last, known)

    def _gap(self, name: str, state: TagState, start: int, end: int | None, reason: str, **more: Any) -> None:
        counters = self.counters
        if end is not None:
            counters.gaps[reason] = counters.gaps.get(reason, 0) + 1
            counters.last_gap = self._clock()
        moment = start + TICKS_PER_MS
        if end is not None and end > start:
            moment = min(moment, end - 1)
        self._record(name, state, value=None, status=BAD_NO_COMMUNICATION, source_ts=moment, server_ts=None,
                     ts_origin="collector", gap={"from": start, "to": end, "reason": reason, **more})

    # -- what happens -------------------------------------------------------------------------------------
    def heard(self, now: int | None = None) -> None:
        """The source answered: what did not change until then has not changed. *now* is of the clock that stamps its samples."""
        self.alive = self._clock() if now is None else min(now, self._clock())

    def sample(self, name: str, value: Any, status: int, source_ts: int | None, server_ts: int | None = None,
               origin: str = "source") -> bool:
        """A value or a quality from the source; False when it is a repeat of the last one."""
        state = self.tags[name]
        if source_ts is None:
            source_ts, origin = (server_ts, "source") if server_ts is not None else (self._clock(), "collector")
        value, status = fit(value, state.type, status)
        again = state.source_ts == source_ts and state.status == status and origin == "source" and (
            not state.has_value or state.value == value)
        gap, state.gap = state.gap, None
        state.failure = None
        if again and gap is not None:
            self._gap(name, state, gap.start, max(gap.start, self._clock()), gap.reason, lost=0)
        elif gap is not None:
            self._gap(name, state, gap.start, max(gap.start, source_ts), gap.reason)
            if gap.reason == RESTART and source_ts - gap.start > 2 * TICKS_PER_MS:
                self._record(name, state, value=None, status=BAD_NO_COMMUNICATION, source_ts=source_ts - TICKS_PER_MS, server_ts=None,
                             ts_origin="collector")
        elif not again and overflowed(status) and state.source_ts is not None:
            self._gap(name, state, min(state.source_ts, source_ts), max(state.source_ts, source_ts), "server_queue_overflow")
        state.value, state.status, state.source_ts, state.server_ts = value, status, source_ts, server_ts
        state.origin, state.has_value = origin, True
        state.emitted = self._clock()
        self.counters.last_sample = state.emitted
        if again:
            self.counters.repeats += 1
        else:
            self.counters.samples += 1
            self.counters.bad += 1 if status & 0x80000000 else 0
        self._record(name, state, value=value, status=status, source_ts=source_ts, server_ts=server_ts,
                     ts_origin=origin, repeat=again)
        return not again

    def polled(self, name: str, value: Any, status: int, source_ts: int | None, server_ts: int | None = None) -> None:
        """A value that was read: what is unchanged is repeated only every ``repeat_s``."""
        state = self.tags[name]
        state.alive = self._clock() if server_ts is None else server_ts
        fitted, code = fit(value, state.type, status)
        same = source_ts is not None and state.source_ts == source_ts and state.has_value and (
            state.value == fitted and state.status == code)
        if same and state.gap is None and self._clock() - state.emitted < self._repeat:
            return
        self.sample(name, value, status, source_ts, server_ts)

    def failure(self, name: str, status: int) -> None:
        """The tag cannot be read: told when it begins or changes, then every ``repeat_s``."""
        state, now = self.tags[name], self._clock()
        again = state.failure == status
        if again and now - state.emitted < self._repeat:
            return
        state.failure, state.emitted = status, now
        if state.gap is None and state.source_ts is not None:
            state.gap = Gap(self._gap_start(state), "not_readable")
        self._record(name, state, value=None, status=status, source_ts=now, server_ts=None, ts_origin="collector", repeat=again)

    def unheard(self, status: int) -> None:
        """The source cannot be asked: of a tag without data there is no gap to tell, so its status says it."""
        for name, state in self.tags.items():
            if state.source_ts is None:
                self.failure(name, status)

    def lost(self, reason: str, names: Iterable[str] | None = None, alive: int | None = None) -> None:
        """Nothing is heard any more (or something was skipped): announce a gap of every tag that had data. *alive*: when these tags were known
        to be, where the source's being alive says nothing of them."""
        for name in self.tags if names is None else names:
            state = self.tags[name]
            if state.gap is None and state.source_ts is not None:
                state.gap = Gap(self._gap_start(state, alive), reason)
                self._gap(name, state, state.gap.start, None, reason)

    def differs(self, name: str, value: Any, status: int) -> bool:
        """Whether the present value is another one, or has another status; its time alone may be that of the reading."""
        state = self.tags[name]
        return fit(value, state.type, status) != (state.value, state.status)

    def history(self, name: str, value: Any, status: int, source_ts: int | None) -> None:
        """A value of the past that comes late: it is told, and changes nothing of what is known about now."""
        state = self.tags[name]
        value, status = fit(value, state.type, status)
        self.counters.samples += 1
        self.counters.bad += 1 if status & 0x80000000 else 0
        origin = "collector" if source_ts is None else "source"
        self._record(name, state, value=value, status=status, source_ts=self._clock() if source_ts is None else source_ts,
                     server_ts=None, ts_origin=origin)

    def again(self, names: Iterable[str]) -> None:
        """Tell the present value once more, so that what shows only the newest record does not stay with one of the past."""
        for name in names:
            state = self.tags[name]
            if state.has_value and state.gap is None and state.failure is None and state.status is not None and state.source_ts is not None:
                self.counters.repeats += 1
                self._record(name, state, value=state.value, status=state.status, source_ts=state.source_ts,
                             server_ts=state.server_ts, ts_origin=state.origin, repeat=True)

    def dropped(self, name: str, start: int, end: int, count: int) -> None:
        """The way out dropped *count* records of the tag."""
        self._gap(name, self.tags[name], start, end, "outlet_overflow", count=count)

    def repeats(self) -> None:
        """Repeat on-change tags whose last record is older than ``repeat_s``; call only while the source is heard."""
        now = self._clock()
        for name, state in self.tags.items():
            if state.cyclic or not state.has_value or state.gap is not None or state.failure is not None:
                continue
            if now - state.emitted >= self._repeat and state.source_ts is not None:
                state.emitted = now
                self.counters.repeats += 1
                self._record(name, state, value=state.value, status=state.status, source_ts=state.source_ts,
                             server_ts=state.server_ts, ts_origin=state.origin, repeat=True)

    def memory(self) -> dict[str, list[int]]:
        """What the next run must know: ``{tag: [source_ts, status]}``, and of a polled one when it was read last."""
        return {name: [state.source_ts, state.status] + ([] if state.alive is None else [state.alive]) for name, state in self.tags.items()
                if state.source_ts is not None and state.status is not None}

    def whole_memory(self) -> dict[str, Any]:
        """What the next run must know where nothing is lost between two runs: values and open gaps too."""
        return {name: {"ts": state.source_ts, "status": state.status, "value": state.value, "origin": state.origin, "emitted": state.emitted,
                       "gap": [state.gap.start, state.gap.reason] if state.gap else None}
                for name, state in self.tags.items() if state.source_ts is not None and state.status is not None}

    def resume(self, memory: Mapping[str, Any], alive: int | None) -> None:
        """Go on where `whole_memory` of an earlier run ended: no gap, because what came meanwhile is still to come."""
        self.alive = alive
        for name, last in memory.items():
            state = self.tags.get(name)
            if state is not None:
                state.source_ts, state.status, state.value = int(last["ts"]), int(last["status"]), last["value"]
                state.origin, state.emitted, state.has_value = str(last["origin"]), int(last["emitted"]), True
                state.gap = Gap(int(last["gap"][0]), str(last["gap"][1])) if last["gap"] else None

    def open_gaps(self) -> list[str]:
        """Tags whose gap is not closed."""
        return [name for name, state in self.tags.items() if state.gap is not None]
