# SPDX-License-Identifier: Apache-2.0
"""What Telegraf instances say about themselves (inputs.internal), and whether that is well. Standard library, Python 3.9.

A counter line is JSON: {"name": "internal_write" | "internal_gather", "tags": {"alias" …}, "fields": {…}, "timestamp": ms}.
Counters grow from the start of the process; a smaller value is a restart, what lies before it is not compared.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.hnai.platform.plugins.module_utils.verdict import Check, Report

RECORD_BYTES = 700
"""Bytes of one record in the disk buffer, where no backlog lies there to measure (450 to 600 were measured)."""

REPLAY_MAX_S = 300.0
"""A store or Kafka that is away for this long has checks of its own; longer, and nobody knows where to go back to."""

COUNTERS_EVERY_S = 5.0


@dataclass(frozen=True)
class Counter:
    """The counters of one plugin at one time (unix s)."""

    time: float
    fields: Mapping[str, float]

    def of(self, key: str) -> float:
        """One of them. Raises ValueError where Telegraf does not say it: that is not 0."""
        if key not in self.fields:
            raise ValueError("Telegraf's counters have no %s" % key)
        return self.fields[key]


Book = Mapping[str, Sequence[Counter]]
"""{alias of the plugin: its counters, oldest first, of this process only}."""


def parse(lines: Iterable[str], name: str) -> Book:
    """The counters of all plugins with an alias, from lines of counters.json. A torn line is left out."""
    book: dict[str, list[Counter]] = {}
    for line in lines:
        try:
            item = json.loads(line)
            alias = item["tags"].get("alias")
            if item["name"] != name or not alias:
                continue
            counter = Counter(float(item["timestamp"]) / 1000.0, {key: float(value) for key, value in item["fields"].items()})
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
        book.setdefault(alias, []).append(counter)
    grown = "metrics_added" if name == "internal_write" else "metrics_gathered"
    result: dict[str, Sequence[Counter]] = {}
    for alias, counters in book.items():
        counters.sort(key=lambda one: one.time)
        first = 0
        for index in range(1, len(counters)):
            if counters[index].fields.get(grown, 0) < counters[index - 1].fields.get(grown, 0):
                first = index
        result[alias] = counters[first:]
    return result


@dataclass(frozen=True)
class Flow:
    """Growth of a counter: *amount* within the last *seconds*; *whole* if the process runs that long."""

    amount: float
    seconds: float
    whole: bool


def flow(counters: Sequence[Counter], key: str, window_s: float) -> Flow:
    """Growth of *key* over at least the last *window_s* seconds, or since the start of the process."""
    last = counters[-1]
    older = [one for one in counters if one.time <= last.time - window_s]
    if older:
        begin = older[-1]
        return Flow(last.of(key) - begin.of(key), last.time - begin.time, True)
    return Flow(last.of(key), last.time - counters[0].time, False)


class Disk:
    """The file system below *path*, as the checks need it."""

    def __init__(self, path: str) -> None:
        self.path = path

    def own(self) -> bool:
        """Whether the path is a mount point."""
        return os.path.ismount(self.path)

    def buffered(self, instance: str) -> int | None:
        """Bytes of an instance's disk buffer; None where it has none."""
        top = os.path.join(self.path, instance, "buffer")
        if not os.path.isdir(top):
            return None
        total = 0
        for directory, _names, files in os.walk(top):
            for name in files:
                try:
                    total += os.stat(os.path.join(directory, name)).st_size
                except FileNotFoundError:
                    continue
        return total

    def room(self) -> tuple[int, int]:
        """(bytes in all, bytes free) of the file system."""
        info = os.statvfs(self.path)
        return info.f_blocks * info.f_frsize, info.f_bavail * info.f_frsize

    def dropped(self, instance: str) -> int:
        """Records that were cut off an oversized buffer at a start."""
        try:
            with open(os.path.join(self.path, instance, "dropped.json"), encoding="utf-8") as file:
                return int(json.load(file)["records"])
        except FileNotFoundError:
            return 0


def run(
    report: Report,
    params: Mapping[str, Any],
    state: Callable[[str], str],
    counters: Callable[[str], Sequence[str]],
    disk: Disk,
    now: Callable[[], float],
    remembered: Callable[[str], float] = lambda instance: 0.0,
) -> None:
    """Make TG1 to TG6 for each instance. *remembered*: when a replay wrote its memory, unix s, 0 where there is none."""
    if not params["instances"]:
        report.skip("TG1", "the instance runs and counts", "no instance is declared here")
    for instance in params["instances"]:
        unit = "hnai-telegraf-%s.service" % instance
        written: Book = {}
        taken: Book = {}
        with report.check(
            "TG1",
            "the instance runs and counts",
            subject=instance,
            expected="active, counted in the last 20 s",
            hint="journalctl -u %s" % unit,
        ) as check:
            active = state(unit)
            if active == "active":
                lines = counters(instance)
                written, taken = parse(lines, "internal_write"), parse(lines, "internal_gather")
            newest = max((book[-1].time for book in list(written.values()) + list(taken.values())), default=None)
            age = None if newest is None else now() - newest
            check.observed = active if age is None else "%s, counted %.0f s ago" % (active, age)
            check.passed(active == "active" and age is not None and age <= 4 * COUNTERS_EVERY_S)
        inputs = {alias: taken[alias] for alias in sorted(taken)}
        outputs = {alias: written[alias] for alias in sorted(written) if alias != "counters"}
        with report.check(
            "TG2",
            "its inputs take records",
            subject=instance,
            unit="inputs idle",
            expected=[],
            hint="what stands before the instance is silent: collector, broker, topic, or the login there",
        ) as check:
            _moving(check, inputs, "metrics_gathered", params["idle_max"])
        with report.check(
            "TG3",
            "its outputs deliver records",
            subject=instance,
            unit="outputs idle",
            expected=[],
            hint="what stands behind the instance does not take them: journalctl -u %s" % unit,
        ) as check:
            _moving(check, outputs, "metrics_written", params["idle_max"])
            backlog = {alias: int(book[-1].of("buffer_size")) for alias, book in outputs.items()}
            check.evidence["backlog"] = backlog
            came = any(flow(book, "metrics_gathered", params["idle_max"]).amount > 0 for book in inputs.values())
            if check.observed and not came and not any(backlog[alias] for alias in check.observed):
                check.inconclusive("nothing came in (TG2), so nothing shows whether it would go out")
        with report.check("TG4", "nothing was dropped", subject=instance, unit="records since it started", expected=0) as check:
            if not outputs:
                raise RuntimeError("no counters (TG1)")
            lost = sum(book[-1].of("metrics_dropped") + book[-1].of("metrics_rejected") for book in outputs.values())
            check.observed = int(lost) + disk.dropped(instance)
            check.passed(check.observed == 0)
        size = disk.buffered(instance)
        if size is not None:
            with report.check(
                "TG5",
                "the disk buffer lasts through the outage to survive",
                subject=instance,
                unit="s",
                expected=">= %g" % params["outage"],
                controls=["SR 7.2"],
                hint="enlarge the file system of %s" % disk.path,
            ) as check:
                _room(check, params, disk, size, outputs)
        if instance in params["replay"]:
            with report.check(
                "TG6",
                "what a killed store loses would be written again",
                subject=instance,
                unit="s since it was remembered how far the store is",
                expected="<= %g" % REPLAY_MAX_S,
                hint="journalctl -u %s: needs kafka-python (group probe), its Kafka login, and the store's metrics" % unit,
            ) as check:
                at = remembered(instance)
                check.observed = round(max(0.0, now() - at), 1) if at else None
                check.passed(bool(at) and now() - at <= REPLAY_MAX_S, "" if at else "nothing is remembered")


def _moving(check: Check, plugins: Book, key: str, window_s: float) -> None:
    if not plugins:
        raise RuntimeError("no counters (TG1)")
    flows = {alias: flow(book, key, window_s) for alias, book in plugins.items()}
    check.evidence = {"records_per_s": {a: round(f.amount / f.seconds, 1) if f.seconds > 0 else None for a, f in flows.items()}}
    check.observed = [alias for alias, one in flows.items() if one.amount <= 0]
    if check.observed and all(not flows[alias].whole for alias in check.observed):
        check.inconclusive("runs for less than %g s" % window_s)
    else:
        check.passed(not check.observed, "idle: " + ", ".join(check.observed))


def _room(check: Check, params: Mapping[str, Any], disk: Disk, size: int, outputs: Book) -> None:
    """Seconds until the buffer would be full if nothing were delivered from now on."""
    own = params["buffer_filesystem"] == "own"
    total, free = disk.room()
    limit = total if own else params["buffer_max_mib"] * 1048576
    left = max(0, min(free, limit - size) if not own else free)
    rates = {alias: flow(book, "metrics_added", 60.0) for alias, book in outputs.items()}
    rate = sum(one.amount / one.seconds for one in rates.values() if one.seconds > 0)
    backlog = sum(book[-1].of("buffer_size") for book in outputs.values())
    each = size / backlog if backlog > 1000 else RECORD_BYTES
    check.evidence = {
        "buffered_bytes": size,
        "limit_bytes": limit,
        "left_bytes": left,
        "records_per_s": round(rate, 1),
        "bytes_per_record": round(each),
        "enforced": "by its own file system" if own else "at each start only; watched by this check",
    }
    check.observed = None if rate <= 0 else int(left / (rate * each))
    if own and not disk.own():
        check.fail("%s is no mount point" % disk.path)
    elif check.observed is None:
        check.inconclusive("nothing arrives, so the rate is not known")
    else:
        check.passed(check.observed >= params["outage"])
