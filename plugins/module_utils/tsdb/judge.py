# SPDX-License-Identifier: Apache-2.0
"""Judgement of what lies in the store. Pure functions: samples and observations in, numbers out.

Times are unix seconds unless a name says ms. "If independent": the bounds assume independent samples, which
neighbours in a stream are not; whoever prints one says so.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.hnai.platform.plugins.module_utils.stats import (
    latency_summary,
    longest_gap,
    percentile,
    proportion_lower_bound,
    sequence_account,
)
from ansible_collections.hnai.platform.plugins.module_utils.tsdb.client import Point, Samples
from ansible_collections.hnai.platform.plugins.module_utils.tsdb.inventory import Expected

OURS = frozenset(("__name__", "source"))
"""Labels of a series that the writer makes. A namesake with one more is somebody else's, and says nothing about ours."""


@dataclass(frozen=True)
class Age:
    """How old an expected tag is; *age_s* None: nothing of it was found, below 0: its newest time is to come."""

    source: str
    tag: str
    age_s: float | None
    limit_s: float

    @property
    def stale(self) -> bool:
        """Too old, or not there at all; a time that is to come hides how old the others are."""
        return self.age_s is None or not abs(self.age_s) <= self.limit_s  # No number is no age.

    def text(self) -> str:
        """For a reason: source/tag and its age."""
        age = "nothing" if self.age_s is None else "%.0f s" % self.age_s if self.age_s >= 0 else "%.0f s ahead of the clock" % -self.age_s
        return "%s/%s (%s)" % (self.source, self.tag, age)


def ages(wanted: Iterable[Expected], newest: Iterable[Point], now: float, cyclic_s: float, on_change_s: float) -> list[Age]:
    """The age of each expected tag. *newest*: of each series the time (s) of its last sample as value; of several the newest counts."""
    found: dict[tuple[str, str], float] = {}
    for point in newest:
        if not OURS.issuperset(point.labels):
            continue
        series = (point.source, point.name)
        found[series] = max(point.value, found.get(series, point.value))
    result = []
    for item in wanted:
        last = found.get((item.source, item.series))
        limit = on_change_s if item.on_change else cyclic_s
        result.append(Age(item.source, item.tag, None if last is None else now - last, limit))
    return result


@dataclass(frozen=True)
class Completeness:
    """What a canary lost and repeated in a window, judged by its own numbers."""

    n: int
    distinct: int
    expected: int
    lost: int
    duplicates: int
    missing: Sequence[int]
    longest_gap_s: float | None
    start: float | None
    end: float | None
    lower_bound: float

    @property
    def observed(self) -> float:
        """Observed proportion."""
        return self.distinct / self.expected if self.expected else 0.0


def completeness(samples: Samples | None) -> Completeness:
    """Account for the samples of one canary. A counter that starts again (source restarted) begins a new run.

    What is missing between two runs cannot be known by number; it shows in the longest gap.
    """
    pairs = [] if samples is None else [(t, int(v)) for t, v in zip(samples.times, samples.values) if math.isfinite(v)]
    if not pairs:
        return Completeness(0, 0, 0, 0, 0, (), None, None, None, 0.0)
    runs: list[list[int]] = [[pairs[0][1]]]
    for _time, number in pairs[1:]:
        if number < runs[-1][-1]:
            runs.append([])
        runs[-1].append(number)
    accounts = [sequence_account(run) for run in runs]
    distinct = sum(account.distinct for account in accounts)
    total = sum(account.expected for account in accounts)
    missing: list[int] = [number for account in accounts for number in account.missing][:20]
    gap = longest_gap([time / 1000.0 for time, _number in pairs])
    return Completeness(
        len(pairs),
        distinct,
        total,
        total - distinct,
        sum(account.duplicates for account in accounts),
        missing,
        None if gap is None else gap.length,
        pairs[0][0] / 1000.0,
        pairs[-1][0] / 1000.0,
        proportion_lower_bound(distinct, total),
    )


@dataclass(frozen=True)
class Observation:
    """What the operator's view showed at an instant: per source the source time of the newest canary, or an error."""

    time: float
    took_s: float
    newest: Mapping[str, float]
    error: str


def parse_observations(lines: Iterable[str]) -> list[Observation]:
    """Lines of the observer's ring. A torn last line (it is being written) is left out, and so is one that says neither what was shown nor why nothing
    was: it is no look that saw nothing. Sorted by time."""
    result = []
    for line in lines:
        try:
            item = json.loads(line)
            newest = {str(source): float(time) for source, time in ({} if item.get("error") else item["newest"]).items()}
            result.append(
                Observation(float(item["time"]), float(item.get("took") or 0.0), newest, str(item.get("error") or ""))
            )
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
    return sorted(result, key=lambda one: one.time)


@dataclass(frozen=True)
class Freshness:
    """Ages of a canary as the operator saw them; *blind* observations showed nothing (an error, or no sample)."""

    n: int
    blind: int
    summary: Mapping[str, float | int | None]
    start: float | None
    end: float | None
    series: Sequence[Sequence[float]]
    errors: Sequence[str]


def freshness(observations: Sequence[Observation], source: str, start: float, end: float) -> Freshness:
    """The ages in a window. What the operator could not see is infinitely old: it counts, and it drives the P95."""
    ages_s: list[float] = []
    series: list[list[float]] = []
    blind = 0
    errors: list[str] = []
    inside = [one for one in observations if start <= one.time <= end]
    for one in inside:
        last = one.newest.get(source)
        if last is None or math.isnan(last):
            blind += 1
            ages_s.append(math.inf)
            if one.error and one.error not in errors:
                errors.append(one.error)
        else:
            ages_s.append(max(0.0, one.time - last))
            series.append([round(one.time, 3), round(ages_s[-1], 3)])
    return Freshness(
        len(ages_s),
        blind,
        latency_summary(ages_s),
        inside[0].time if inside else None,
        inside[-1].time if inside else None,
        series,
        errors[:3],
    )


def hops(samples: Iterable[Samples], order: Sequence[str]) -> list[dict[str, Any]]:
    """[{name, seconds (P50), p95, n}] of the hop series of one canary (label `hop`), in *order*."""
    found = {one.labels.get("hop", ""): [value for value in one.values if math.isfinite(value)] for one in samples}
    return [
        {"name": name, "seconds": percentile(found[name], 0.5), "p95": percentile(found[name], 0.95), "n": len(found[name])}
        for name in order
        if found.get(name)
    ]
