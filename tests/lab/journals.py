# SPDX-License-Identifier: Apache-2.0
"""The store against what the sources say that they produced. Pure: journals and exports in, differences out.

Instants are ms since 1970 (the store's grid) unless a name says ticks (100 ns since 1970, the journals' and records' own).
"""
from __future__ import annotations

import json
import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

TICKS_PER_MS = 10_000
BAD = 0x80000000
BAD_NO_COMMUNICATION = 0x80310000
BAD_TIMEOUT = 0x800A0000
RELATIVE = 1e-9
#: From when to when a collector was dead, ms.
Breaks = Sequence[tuple[int, int]]
SHOWN = 12
#: {(unit, unit_to): (scale, offset)}, from the definitions of the units: 1 psi = 6894.757293168361 Pa, 1 bbl = 0.158987294928 m3.
UNITS = {
    ("psi", "kPa"): (6.894757293168361, 0.0),
    ("bar", "kPa"): (100.0, 0.0),
    ("bbl/d", "m3/d"): (0.158987294928, 0.0),
    ("bbl", "m3"): (0.158987294928, 0.0),
    ("m3/h", "m3/d"): (24.0, 0.0),
    ("degF", "degC"): (5.0 / 9.0, -160.0 / 9.0),
}


def converted(value: Any, tag: Mapping[str, Any]) -> float | None:
    """What the store must hold for a value of the source; None: nothing (no value, a text)."""
    if value is None or tag["type"] == "string":
        return None
    pair = (tag.get("unit", ""), tag.get("unit_to", tag.get("unit", "")))
    scale, offset = (1.0, 0.0) if pair[0] == pair[1] else UNITS[pair]
    return float(value) * scale + offset


def same(expected: float, stored: float) -> bool:
    """Equal to 1e-9 of the expected value; an offset's own rounding counts from 1."""
    return math.isclose(expected, stored, rel_tol=RELATIVE, abs_tol=RELATIVE)


@dataclass
class Series:
    """All stored samples of one source: {series: {ms: [value]}}, a list because a sample can be there twice."""

    values: dict[str, dict[int, list[float]]] = field(default_factory=dict)

    @classmethod
    def of(cls, export: Iterable[Mapping[str, Any]]) -> Series:
        """From /api/v1/export of one source; series with more labels than name and source are left out."""
        found: dict[str, dict[int, list[float]]] = {}
        for item in export:
            if set(item["metric"]) != {"__name__", "source"}:
                continue
            series = found.setdefault(item["metric"]["__name__"], {})
            for second, value in item["values"]:
                series.setdefault(round(second * 1000), []).append(float(value))
        return cls(found)

    def get(self, name: str, start: int, end: int) -> dict[int, list[float]]:
        """One series between two instants, the end not included."""
        return {ms: values for ms, values in self.values.get(name, {}).items() if start <= ms < end}


@dataclass
class Account:
    """What a comparison counted and found."""

    samples: int = 0
    kinds: dict[str, int] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    missing_at: dict[str, list[int]] = field(default_factory=dict)

    def count(self, kind: str) -> None:
        self.kinds[kind] = self.kinds.get(kind, 0) + 1

    @property
    def whole(self) -> bool:
        """Nothing missing, nothing twice, nothing that no journal has, nothing different."""
        return not (self.missing or self.twice or self.foreign or self.wrong)

    def text(self) -> str:
        """For people: the counts and the first of each kind."""
        lines = [f"{self.samples} samples: {json.dumps(self.kinds, sort_keys=True)}"]
        for name in ("missing", "twice", "foreign", "wrong"):
            found = getattr(self, name)
            lines.append(f"{len(found)} {name}" + "".join(f"\n    {one}" for one in found[:SHOWN]))
        return "\n".join(lines)


def lines_of(text: str) -> list[dict[str, Any]]:
    """The records of a journal."""
    return [json.loads(line) for line in text.splitlines()]


def compare(journal: Sequence[Mapping[str, Any]], tags: Iterable[Mapping[str, Any]], store: Series, start: int, end: int) -> Account:
    """Every sample of a source with times of its own (OPC UA, line) against the store, in [start, end)."""
    account = Account()
    expected: dict[str, dict[int, Mapping[str, Any]]] = {tag["name"]: {} for tag in tags}
    for line in journal:
        ms = line["t"] // TICKS_PER_MS
        if not start <= ms < end:
            continue
        if line["tag"] not in expected:
            account.foreign.append(f"{line['tag']}: produced, but no tag of the site's sources")
        elif ms in expected[line["tag"]]:
            account.wrong.append(f"{line['tag']} {ms}: two samples of the journal in one ms: the journal cannot be compared")
        else:
            expected[line["tag"]][ms] = line
    declared = {tag["name"]: tag for tag in tags}
    for name, samples in expected.items():
        _tag(account, declared[name], samples, store, start, end)
    known = {name + more for name in declared for more in ("", ":status", ":observed_ts")}
    account.foreign += [f"{name}: a series of no declared tag" for name in sorted(set(store.values) - known)]
    return account


def _tag(account: Account, tag: Mapping[str, Any], samples: Mapping[int, Mapping[str, Any]], store: Series, start: int, end: int) -> None:
    name = tag["name"]
    statuses, values = store.get(name + ":status", start, end), store.get(name, start, end)
    for ms, line in samples.items():
        account.samples += 1
        status = line["status"]
        account.count("bad" if status & BAD else "uncertain" if status else "good")
        account.count(tag["type"])
        stored = statuses.get(ms, [])
        if not stored:
            account.missing.append(f"{name} {ms}: status {status:#010x}")
            account.missing_at.setdefault(name, []).append(ms)
        elif len(stored) > 1:
            account.twice.append(f"{name}:status {ms}: {stored}")
        elif stored[0] != status:
            account.wrong.append(f"{name} {ms}: status {int(stored[0]):#010x}, the source says {status:#010x}")
        wanted = None if status & BAD else converted(line["value"], tag)
        found = values.get(ms, [])
        if wanted is None:
            if found:
                account.wrong.append(f"{name} {ms}: value {found} in the store, the source gave none (status {status:#010x})")
        elif not found:
            if stored:
                account.missing.append(f"{name} {ms}: its value; only its status is there")
        elif len(found) > 1:
            account.twice.append(f"{name} {ms}: {found}")
        elif not same(wanted, found[0]):
            account.wrong.append(f"{name} {ms}: {found[0]!r}, the source says {line['value']!r} = {wanted!r}")
    account.foreign += [f"{name}:status {ms}: {found}" for ms, found in sorted(statuses.items()) if ms not in samples]
    account.foreign += [f"{name} {ms}: {found}" for ms, found in sorted(values.items()) if ms not in samples]


@dataclass(frozen=True)
class Lags:
    """Seconds from the moment a reply was sent to the time that its samples carry: all of them, ascending."""

    ms: Sequence[float]

    def quantile(self, part: float) -> float:
        """ms below which *part* of them lie."""
        return self.ms[min(len(self.ms) - 1, int(part * len(self.ms)))]


def compare_replies(
    journal: Sequence[Mapping[str, Any]], tags: Iterable[Mapping[str, Any]], store: Series, start: int, end: int, limit_ms: float
) -> tuple[Account, Lags]:
    """Each value of each Modbus reply sent in [start, end) against the one sample between it and the next reply.

    One request is under way at a time, so what the reader made of a reply carries a time before the next reply.
    """
    account = Account()
    lags: list[float] = []
    by_tag: dict[str, list[Mapping[str, Any]]] = {}
    for line in journal:
        by_tag.setdefault(line["tag"], []).append(line)
    for tag in tags:
        name = tag["name"]
        lines = by_tag.get(name, [])
        if not lines:
            account.missing.append(f"{name}: the device never sent it")
        statuses, values = store.values.get(name + ":status", {}), store.values.get(name, {})
        times = sorted(statuses)
        for line, following in zip(lines, lines[1:], strict=False):
            first = line["t"] // TICKS_PER_MS
            if not start <= first < end:
                continue
            account.samples += 1
            account.count("bad" if line["status"] else "good")
            account.count(tag["type"])
            last = following["t"] // TICKS_PER_MS
            inside = times[bisect_left(times, first): bisect_left(times, last)]
            if not inside:
                account.missing.append(f"{name} {first}: reply {line['reply']}")
                continue
            if len(inside) > 1 or len(statuses[inside[0]]) > 1:
                account.twice.append(f"{name} {first}: reply {line['reply']} is there at {inside}")
                continue
            at = inside[0]
            lags.append(at + 1 - line["t"] / TICKS_PER_MS)
            if lags[-1] > limit_ms:
                account.wrong.append(f"{name} {at}: {lags[-1]:.0f} ms after its reply")
            if statuses[at][0] != line["status"]:
                account.wrong.append(f"{name} {at}: status {statuses[at][0]}, the reply was {line['status']}")
            raw = line["value"]
            if raw is not None:
                raw = bool(raw) if tag["type"] == "bool" else raw * tag.get("scale", 1)
            wanted, found = converted(raw, tag), values.get(at, [])
            if wanted is None:
                if found:
                    account.wrong.append(f"{name} {at}: value {found} in the store, the reply had none")
            elif len(found) != 1:
                (account.missing if not found else account.twice).append(f"{name} {at}: value {found}")
            elif not same(wanted, found[0]):
                account.wrong.append(f"{name} {at}: {found[0]!r}, the reply said {line['value']!r} = {wanted!r}")
    return account, Lags(sorted(lags))


def marks(values: Mapping[str, Mapping[int, Sequence[float]]], name: str) -> list[int]:
    """When the collector said of a tag that it could not hear it."""
    return [ms for ms, statuses in values.get(f"{name}:status", {}).items() if int(statuses[0]) == BAD_NO_COMMUNICATION]


def unmarked(missing_at: Mapping[str, Iterable[int]], values: Mapping[str, Mapping[int, Sequence[float]]]) -> list[str]:
    """What is missing and lies in no marked gap: between the samples before and after it nobody said that something is lost."""
    found = []
    for name, lost in missing_at.items():
        said = marks(values, name)
        samples = sorted(set(values.get(f"{name}:status", {})) - set(said))
        for ms in lost:
            last = max((one for one in samples if one < ms), default=0)
            following = min((one for one in samples if one > ms), default=ms + 1)
            if not any(last <= mark <= following for mark in said):
                found.append(f"{name} {ms}")
    return found


def once(series: Series) -> tuple[Series, int]:
    """The same with what was written twice there once; and how often that was. What differs stays as it is, but for the last of the digits
    that the store keeps, which another block of it rounds otherwise."""
    found: dict[str, dict[int, list[float]]] = {}
    count = 0
    for name, samples in series.values.items():
        found[name] = {ms: values[:1] if all(math.isclose(one, values[0], rel_tol=1e-13) for one in values) else values for ms, values in samples.items()}
        count += sum(len(values) - len(found[name][ms]) for ms, values in samples.items())
    return Series(found), count


def foreign(account: Account) -> list[str]:
    """What no journal has and is no mark of a gap."""
    return [text for text in account.foreign if not text.endswith(f": [{float(BAD_NO_COMMUNICATION)}]")]


def lived(begin: int, end: int, breaks: Breaks) -> list[tuple[int, int]]:
    """The times between two instants at which the collector lived."""
    found: list[tuple[int, int]] = []
    at = begin
    for first, last in sorted(breaks):
        if first > at:
            found.append((at, first))
        at = max(at, last)
    return [*found, (at, end)] if end > at else found
