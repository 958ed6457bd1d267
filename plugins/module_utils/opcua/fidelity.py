# SPDX-License-Identifier: Apache-2.0
"""Is what the store holds what the server said? A second, reading session records some tags; the store's samples are joined by source time.

Pure but for *channel*, which reads. Times are ms since 1970, cut as the store cuts them; a status is OPC UA's uint32. A recorder reads each
tag at least twice per sample, as fast as the load budget allows; a sample that the store has and the recorder has not is only held against the
store when no pause of the recorder was as long as the tag's sampling interval.
"""
from __future__ import annotations

import math
import random
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

BAD = 0x80000000
BAD_OUT_OF_RANGE = 0x803C0000
"""What the record says of a NaN or an infinity, which have no place in it."""
TOLERANCE = 1e-9
"""Of the larger of what a unit's conversion adds up: one multiplication and one addition in float64."""


@dataclass(frozen=True)
class Tag:
    """*node* as ``nsu=URI;s=x``; *scale* and *offset* make the store's unit from the source's; *unit*: what the store declares."""

    name: str
    node: str
    sampling_ms: float
    scale: float = 1.0
    offset: float = 0.0
    cyclic: bool = True


@dataclass
class Recording:
    """What the server said: {tag: [[source time, value, status]]}, ascending, each once. *pause_ms*: the longest between two reads."""

    begin_ms: int = 0
    end_ms: int = 0
    samples: dict[str, list[list[Any]]] = field(default_factory=dict)
    pause_ms: float = 0.0
    reads: int = 0
    error: str = ""


@dataclass
class Findings:
    """Texts by kind; *joined*: samples that were found on both sides."""

    joined: int = 0
    missing: list[str] = field(default_factory=list)
    extra: list[str] = field(default_factory=list)
    unseen: list[str] = field(default_factory=list)
    values: list[str] = field(default_factory=list)
    statuses: list[str] = field(default_factory=list)
    gaps_ms: dict[str, dict[str, int]] = field(default_factory=dict)
    quiet: list[str] = field(default_factory=list)


def choose(tags: Sequence[Mapping[str, Any]], count: int, seed: int, units: Mapping[str, Mapping[str, Any]]) -> list[Tag]:
    """*count* of the tags that the store can hold (no strings), the same ones for the same *seed*. Raises KeyError for a unit pair not in *units*."""
    able = sorted((one for one in tags if one.get("type") != "string"), key=lambda one: str(one["name"]))
    found = []
    for one in random.Random(seed).sample(able, min(count, len(able))):
        unit, to = str(one.get("unit") or ""), str(one.get("unit_to") or one.get("unit") or "")
        conversion: Mapping[str, Any] = {"scale": 1, "offset": 0} if unit == to else units["%s>%s" % (unit, to)]
        found.append(Tag(str(one["name"]), str(one["node"]), float(one.get("sampling_ms", 1000)), float(conversion["scale"]),
                         float(conversion["offset"]), one.get("kind") == "cyclic"))
    return sorted(found, key=lambda tag: tag.name)


async def record(read: Callable[[list[str]], Awaitable[list[tuple[int | None, Any, int]]]], tags: Sequence[Tag], window_s: float,
                 budget_per_s: float, clock: Callable[[], float], sleep: Callable[[float], Awaitable[None]]) -> Recording:
    """Read *tags* for *window_s*. *read* gives (source time in ms or None, value, status) per node, in order; *clock* unix seconds."""
    result = Recording(samples={tag.name: [] for tag in tags})
    every = max(min(tag.sampling_ms for tag in tags) / 2000.0, len(tags) / budget_per_s)
    begin = last = clock()
    result.begin_ms = int(begin * 1000)
    number = 0
    while True:
        answers = await read([tag.node for tag in tags])
        now = clock()
        if number:
            result.pause_ms = max(result.pause_ms, (now - last) * 1000.0)
        last, number = now, number + 1
        for tag, (at, value, status) in zip(tags, answers):
            known = result.samples[tag.name]
            if at is not None and (not known or known[-1][0] != at):
                known.append([at, value, status])
        if now - begin >= window_s:
            break
        await sleep(max(0.0, begin + number * every - clock()))
    result.reads, result.end_ms = number, int(clock() * 1000)
    return result


def _same(found: float, number: float, tag: Tag) -> bool:
    return abs(found - (number * tag.scale + tag.offset)) <= TOLERANCE * max(abs(number * tag.scale), abs(tag.offset))


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) else None


def _longest(times: Sequence[int]) -> int:
    return max((second - first for first, second in zip(times, times[1:])), default=0)


def join(recording: Recording, tags: Iterable[Tag], stored: Mapping[str, Mapping[int, float]], source: str) -> Findings:
    """*stored*: {tag or tag:status: {time: value}}. Samples at the edges of the window, which one side may not have whole, are left out."""
    found = Findings()
    for tag in tags:
        seen = {int(at): (value, int(status)) for at, value, status in recording.samples.get(tag.name, [])}
        values, statuses = stored.get(tag.name, {}), stored.get(tag.name + ":status", {})
        edge = int(2 * tag.sampling_ms) + 1
        # By the server's own clock: the first and the last thing it said bound what can be compared.
        first, last = (min(seen) + edge, max(seen) - edge) if seen else (0, -1)
        inside = sorted(at for at in seen if first <= at <= last)
        if not inside:
            found.quiet.append(tag.name)
        found.gaps_ms[tag.name] = {"server": _longest(inside), "store": _longest(sorted(at for at in statuses if first <= at <= last))}
        for at in inside:
            value, status = seen[at]
            if not status & BAD and isinstance(value, float) and not math.isfinite(value):
                value, status = None, BAD_OUT_OF_RANGE
            where = "%s/%s at %d" % (source, tag.name, at)
            if at not in statuses:
                found.missing.append("%s (status 0x%08X)" % (where, status))
                continue
            found.joined += 1
            if int(statuses[at]) != status:
                found.statuses.append("%s: the server said 0x%08X, the store holds 0x%08X" % (where, status, int(statuses[at])))
            number = None if status & BAD else _number(value)
            if number is None:
                if at in values:
                    found.values.append("%s: a sample without a value is stored as %r" % (where, values[at]))
                continue
            expected = number * tag.scale + tag.offset
            if at not in values:
                found.values.append("%s: %r has no value in the store" % (where, expected))
            elif not _same(values[at], number, tag):
                found.values.append("%s: the server said %r, which is %r, the store holds %r" % (where, value, expected, values[at]))
        for at in sorted(statuses):
            if first <= at <= last and at not in seen:
                one = "%s/%s at %d (status 0x%08X)" % (source, tag.name, at, int(statuses[at]))
                (found.extra if recording.pause_ms < tag.sampling_ms else found.unseen).append(one)
        for at in sorted(set(values) - set(statuses)):
            if first <= at <= last:
                found.extra.append("%s/%s at %d: a value without a status" % (source, tag.name, at))
    return found
