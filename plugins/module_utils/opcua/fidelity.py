# SPDX-License-Identifier: Apache-2.0
"""Is what the store holds what the server said? A second, reading session records some tags; the store's samples are joined by source time.
Meanwhile the store is polled for what it shows: how long a sample took.

Pure but for *channel*, which reads. Times are ms since 1970, cut as the store cuts them; a status is OPC UA's uint32. A recorder reads each
tag at least twice per sample: two readings once a sample would see every other one when they fall together with the server's clock. So many tags
as the load budget bears are chosen. A sample that the store has and the recorder has not is only held against the store when no pause of the
recorder was as long as the tag's sampling interval; a few, where the recording has a hole, are left out of the comparison.
"""
from __future__ import annotations

import math
import random
from bisect import bisect
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

BAD = 0x80000000
BAD_NO_COMMUNICATION = 0x80310000
"""Where the server never said it, a gap's mark: 1 ms after the last sample that was delivered."""
BAD_OUT_OF_RANGE = 0x803C0000
"""What the record says of a NaN or an infinity, which have no place in it."""
BAD_TYPE_MISMATCH = 0x80740000
"""What the record says of a value of another type than the model declares, and of none."""
QUICK = 0.75
"""Of the sampling interval: samples that follow each other sooner need not all be in a subscription, and not the same ones in a recording."""
HOLE = 2 * QUICK
"""Of the sampling interval: as far apart, at least, are the recorded neighbours of a sample that fell into a pause."""
PAUSES = 0.05
"""Of the samples of a cyclic tag that were compared: as many may have fallen into the recorder's own pauses."""
WHOLE = 1 << 53
"""Whole numbers up to here are exact in the store."""
TOLERANCE = 1e-9
"""Of the larger of what a unit's conversion adds up: one multiplication and one addition in float64."""


@dataclass(frozen=True)
class Tag:
    """*node* as ``nsu=URI;s=x``; *scale* and *offset* make the store's unit from the source's; *type* as the model declares it."""

    name: str
    node: str
    sampling_ms: float
    scale: float = 1.0
    offset: float = 0.0
    cyclic: bool = True
    type: str = "double"


@dataclass
class Recording:
    """What the server said: {tag: [[source time, value, status]]}, in order, each once. *pause_ms*: the longest between two reads, *pauses_ms*: by tag;
    *timeless*: {tag: statuses that came without a source time}; *read_ms*: {tag: {source time: [the last read without it or None, the first with
    it]}} in unix ms, source times as text (JSON's keys)."""

    begin_ms: int = 0
    end_ms: int = 0
    samples: dict[str, list[list[Any]]] = field(default_factory=dict)
    pause_ms: float = 0.0
    pauses_ms: dict[str, float] = field(default_factory=dict)
    reads: int = 0
    error: str = ""
    timeless: dict[str, list[int]] = field(default_factory=dict)
    read_ms: dict[str, dict[str, list[float | None]]] = field(default_factory=dict)

    def pause_of(self, tag: Tag) -> float:
        """The longest between two reads of it, in ms."""
        return self.pauses_ms.get(tag.name, self.pause_ms)


@dataclass
class Findings:
    """Texts by kind; *joined*: samples that were found on both sides; *marked*: missing, and a gap's mark says so; *quick*: tags of which the
    server has more samples than are asked for; *slow*: tags of which more fell into the recorder's pauses than can be left out."""

    joined: int = 0
    missing: list[str] = field(default_factory=list)
    extra: list[str] = field(default_factory=list)
    unseen: list[str] = field(default_factory=list)
    marked: list[str] = field(default_factory=list)
    quick: list[str] = field(default_factory=list)
    slow: list[str] = field(default_factory=list)
    values: list[str] = field(default_factory=list)
    statuses: list[str] = field(default_factory=list)
    gaps_ms: dict[str, dict[str, int]] = field(default_factory=dict)
    quiet: list[str] = field(default_factory=list)


def choose(tags: Sequence[Mapping[str, Any]], count: int, seed: int, units: Mapping[str, Mapping[str, Any]], budget_per_s: float = math.inf) -> list[Tag]:
    """*count* of the tags that the store can hold (no strings), the same ones for the same *seed*; fewer where *budget_per_s* does not bear two readings
    per sample of each. Raises KeyError for a unit pair not in *units*."""
    able = sorted((one for one in tags if one.get("type") != "string"), key=lambda one: str(one["name"]))
    found: list[Tag] = []
    for one in random.Random(seed).sample(able, min(count, len(able))):
        unit, to = str(one.get("unit") or ""), str(one.get("unit_to") or one.get("unit") or "")
        conversion: Mapping[str, Any] = {"scale": 1, "offset": 0} if unit == to else units["%s>%s" % (unit, to)]
        tag = Tag(str(one["name"]), str(one["node"]), float(one.get("sampling_ms", 1000)), float(conversion["scale"]),
                  float(conversion["offset"]), one.get("kind", "cyclic") == "cyclic", str(one.get("type") or "double"))
        # A tenth is the alarm's own.
        if not found or _load([*found, tag]) <= 0.9 * budget_per_s:
            found.append(tag)
    return sorted(found, key=lambda tag: tag.name)


def _turns(tags: Sequence[Tag]) -> tuple[float, list[int]]:
    """(seconds between two turns, in every how many of them each tag is read): twice per sample at least."""
    every = min(tag.sampling_ms for tag in tags) / 2000.0
    return every, [max(1, int(tag.sampling_ms / 2000.0 / every + 1e-9)) for tag in tags]


def _load(tags: Sequence[Tag]) -> float:
    """Readings per second."""
    every, turns = _turns(tags)
    return sum(1.0 / (every * turn) for turn in turns)


async def record(read: Callable[[list[str]], Awaitable[list[tuple[int | None, Any, int]]]], tags: Sequence[Tag], window_s: float,
                 budget_per_s: float, clock: Callable[[], float], sleep: Callable[[float], Awaitable[None]]) -> Recording:
    """Read *tags* for *window_s*. *read* gives (source time in ms or None, value, status) per node, in order; *clock* unix seconds."""
    result = Recording(samples={tag.name: [] for tag in tags}, read_ms={tag.name: {} for tag in tags})
    every, turns = _turns(tags)
    every *= max(1.0, _load(tags) / budget_per_s)
    begin = clock()
    result.begin_ms = int(begin * 1000)
    last: dict[str, float] = {}
    number = 0
    while True:
        due = [tag for tag, turn in zip(tags, turns) if number % turn == 0]
        answers = await read([tag.node for tag in due])
        now = clock()
        number += 1
        for tag, (at, value, status) in zip(due, answers):
            before = last[tag.name] * 1000.0 if tag.name in last else None
            if before is not None:
                result.pauses_ms[tag.name] = max(result.pauses_ms.get(tag.name, 0.0), now * 1000.0 - before)
            last[tag.name] = now
            known = result.samples[tag.name]
            if at is None:
                timeless = result.timeless.setdefault(tag.name, [])
                if status not in timeless:
                    timeless.append(status)
            # By its text: a NaN is no other than the one before.
            elif not known or repr(known[-1]) != repr([at, value, status]):
                known.append([at, value, status])
                result.read_ms[tag.name].setdefault(str(at), [before, now * 1000.0])
        if now - begin >= window_s:
            break
        await sleep(max(0.0, begin + number * every - clock()))
    result.pause_ms = max(result.pauses_ms.values(), default=0.0)
    result.reads, result.end_ms = number, int(clock() * 1000)
    return result


Shown = dict[str, dict[str, list[float]]]
"""{tag: {source time: [start of the last poll that did not show it, end of the first that did]}} in unix ms; without what the first poll showed."""


def watch(ask: Callable[[], Mapping[str, Iterable[int]]], shown: Shown, window_s: float, every_s: float, clock: Callable[[], float],
          sleep: Callable[[float], object]) -> None:
    """Poll a store for *window_s* into *shown*. *ask* gives the source times (ms) that it shows by tag; what it raises ends the watch."""
    known: dict[str, set[int]] = {}
    begin = clock()
    before: float | None = None
    while clock() - begin < window_s:
        asked = clock()
        answer, now = ask(), clock()
        for tag, times in answer.items():
            fresh = set(times) - known.setdefault(tag, set())
            known[tag] |= fresh
            if before is not None:
                shown.setdefault(tag, {}).update({str(at): [before, now * 1000.0] for at in fresh})
        before = asked * 1000.0
        sleep(max(0.0, asked + every_s - clock()))


def lags(recording: Recording, tag: str, shown: Shown) -> list[tuple[float, float, str]]:
    """(at least, at most, source time) of how many seconds passed between the server's having a sample and the store's showing it.

    Between two reads and between two polls: by the clocks of the two hosts that looked; the server's own, which may be off, has no part in it.
    """
    found = []
    for at, (before, read) in recording.read_ms.get(tag, {}).items():
        if before is not None and read is not None and at in shown.get(tag, {}):
            without, having = shown[tag][at]
            found.append((max(0.0, without - read) / 1000.0, max(0.0, having - before) / 1000.0, at))
    return found


def _same(found: float, number: float, tag: Tag) -> bool:
    if (tag.scale, tag.offset) == (1.0, 0.0) and tag.type in ("int", "enum", "bool") and abs(number) <= WHOLE:
        # Nothing was reckoned: a counter that is one off is another value.
        return found == number
    return abs(found - (number * tag.scale + tag.offset)) <= TOLERANCE * max(abs(number * tag.scale), abs(tag.offset))


def _recorded(value: Any, status: int, kind: str) -> tuple[float | None, int]:
    """The number and the status that a faithful record has of what the server said (ot_collector's ``record.fit``)."""
    if status & BAD:
        return None, status
    if value is None:
        return None, status or BAD_TYPE_MISMATCH
    able = isinstance(value, bool) if kind == "bool" else isinstance(value, int if kind in ("int", "enum") else (int, float)) and not isinstance(value, bool)
    if not able:
        return None, BAD_TYPE_MISMATCH
    number = float(value)
    return (number, status) if math.isfinite(number) else (None, BAD_OUT_OF_RANGE)


def _longest(times: Sequence[int]) -> int:
    return max((second - first for first, second in zip(times, times[1:])), default=0)


def _is_quick(times: Sequence[int], sampling_ms: float) -> bool:
    """Most samples follow the one before sooner than the tag is sampled."""
    steps = [second - first for first, second in zip(times, times[1:])]
    return 2 * sum(step < QUICK * sampling_ms for step in steps) > len(steps)


def _hex(status: float) -> str:
    return "0x%08X" % int(status) if math.isfinite(status) else repr(status)


def join(recording: Recording, tags: Iterable[Tag], stored: Mapping[str, Mapping[int, float]], source: str) -> Findings:
    """*stored*: {tag or tag:status: {time: value}}. Samples at the edges of the window, which one side may not have whole, are left out.

    Of samples within one millisecond the store keeps one value and one status, not said which.
    """
    found = Findings()
    for tag in tags:
        seen: dict[int, list[tuple[float | None, int]]] = {}
        said: dict[int, Any] = {}
        for at, value, status in recording.samples.get(tag.name, []):
            seen.setdefault(int(at), []).append(_recorded(value, int(status), tag.type))
            said.setdefault(int(at), value)
        values, statuses = stored.get(tag.name, {}), stored.get(tag.name + ":status", {})
        edge = int(2 * tag.sampling_ms) + 1
        # By the server's own clock: the first and the last thing it said bound what can be compared.
        first, last = (min(seen) + edge, max(seen) - edge) if seen else (0, -1)
        inside = sorted(at for at in seen if first <= at <= last)
        held = sorted(at for at in statuses if first <= at <= last)
        if not inside:
            found.quiet.append(tag.name)
        found.gaps_ms[tag.name] = {"server": _longest(inside), "store": _longest(held)}
        marks = {at for at in statuses if statuses[at] == BAD_NO_COMMUNICATION and at not in seen and at not in values}
        # After a restart of the collector a gap has a mark at its end, too: what was told after its memory was written stands behind the first one.
        ends = {at for at in marks if at + 1 in statuses and at - 1 not in statuses}
        met = sum(at in statuses for at in inside)
        quick = _is_quick(inside, tag.sampling_ms)
        if quick:
            found.quick.append(tag.name)
        # A recorder slower than the samples sees some of them, and none where the server stamps each reading anew.
        paused = recording.pause_of(tag) >= tag.sampling_ms
        blind = quick or (paused and not met)
        fallen = strange = 0
        gap, later = False, iter(sorted(statuses))
        latest = next(later, None)
        for at in inside:
            while latest is not None and latest <= at:
                gap, latest = latest in marks, next(later, None)
            where = "%s/%s at %d" % (source, tag.name, at)
            if at not in statuses:
                text = "%s (status %s)" % (where, " or ".join(_hex(status) for _, status in seen[at]))
                told = gap or latest in ends
                (found.marked if told else found.unseen if blind else found.missing).append(text)
                strange += blind and not told
                continue
            found.joined += 1
            if statuses[at] not in [status for _, status in seen[at]]:
                found.statuses.append("%s: the server said %s, the store holds %s" % (
                    where, " or ".join(_hex(status) for _, status in seen[at]), _hex(statuses[at])))
            numbers = [number for number, _ in seen[at] if number is not None]
            if not numbers:
                if at in values:
                    found.values.append("%s: a sample without a value is stored as %r" % (where, values[at]))
                continue
            expected = numbers[0] * tag.scale + tag.offset
            if at not in values:
                found.values.append("%s: %r has no value in the store" % (where, expected))
            elif not any(_same(values[at], number, tag) for number in numbers):
                found.values.append("%s: the server said %r, which is %r, the store holds %r" % (where, said[at], expected, values[at]))
        timeless = recording.timeless.get(tag.name, [])
        said_at = sorted(seen)
        for at in held:
            if at not in seen and at not in marks and not (statuses[at] in timeless and at not in values):
                one = "%s/%s at %d (status %s)" % (source, tag.name, at, _hex(statuses[at]))
                (found.unseen if blind or paused else found.extra).append(one)
                after = bisect(said_at, at)
                if tag.cyclic and said_at[after] - said_at[after - 1] >= HOLE * tag.sampling_ms:
                    fallen += 1
                else:
                    strange += blind or paused
        if strange or fallen > PAUSES * met:
            found.slow.append(tag.name)
        for at in sorted(set(values) - set(statuses)):
            if first <= at <= last:
                found.extra.append("%s/%s at %d: a value without a status" % (source, tag.name, at))
    return found


def span_ms(recording: Recording) -> tuple[int, int]:
    """The first and the last source time that was recorded, by the server's clock, which may be hours off; without any the recorder's own."""
    times = [int(one[0]) for samples in recording.samples.values() for one in samples]
    return (min(times), max(times)) if times else (recording.begin_ms, recording.end_ms)
