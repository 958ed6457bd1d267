# SPDX-License-Identifier: Apache-2.0
"""The checks of tsdb_canary over a client and a file that the caller gives. Standard library, Python 3.9."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible_collections.hnai.platform.plugins.module_utils.stats import completeness_statement, p95_statement
from ansible_collections.hnai.platform.plugins.module_utils.tsdb.client import Store
from ansible_collections.hnai.platform.plugins.module_utils.tsdb.inventory import Canary, canaries
from ansible_collections.hnai.platform.plugins.module_utils.tsdb.judge import (
    OURS,
    Completeness,
    Observation,
    completeness,
    freshness,
    hops,
    parse_observations,
)
from ansible_collections.hnai.platform.plugins.module_utils.verdict import Check, Report

HOPS = ("collector", "kafka", "writer")
"""The hops that the writer stores per canary sample, in order: source -> collector -> Kafka -> handed to the store."""

OBSERVER_SILENCE_S = 5.0


def run(
    report: Report,
    params: Mapping[str, Any],
    store: Callable[[], Store],
    read: Callable[[], Sequence[str]],
    now: Callable[[], float],
) -> dict[str, Any]:
    """Make CN1 to CN4. Returns the window {start, end, n, full}. *now* gives unix seconds."""
    wanted = canaries(params["sources"])
    instant = now()
    start = max(instant - params["window"], params["since"])
    seen: list[Observation] = []
    with report.check(
        "CN1",
        "the observer of the operator's view is alive",
        unit="s since its last observation",
        expected="<= %g" % OBSERVER_SILENCE_S,
        hint="systemctl status hnai-canary",
        explain="tail -1 /var/lib/hnai/canary/observations.jsonl",
    ) as check:
        seen = parse_observations(read())
        # A clock that was ahead left lines of a time to come: they are no sign of life.
        past = [one.time for one in seen if one.time <= instant + OBSERVER_SILENCE_S]
        check.observed = round(instant - past[-1], 1) if past else None
        check.passed(
            check.observed is not None and check.observed <= OBSERVER_SILENCE_S,
            "it wrote nothing" if not seen else "it stopped",
        )

    inside = [one for one in seen if start <= one.time <= instant]
    full = instant - params["window"] >= params["since"]
    if not wanted:
        with report.check(
            "CN2", "some source has a canary", expected=">= 1", hint="hnai_ot_sources: give each source a canary"
        ) as check:
            check.observed = 0
            check.fail("no source declares one")
    for canary in wanted:
        accounts: list[Completeness] = []
        with report.check(
            "CN2",
            "P95 age of the canary in the operator's view",
            subject=canary.source,
            unit="s",
            expected="<= %g" % params["freshness_p95"],
            hint="the hop that takes longest says where to look",
            explain='/api/v1/query?query=timestamp(%s{source="%s"})' % (canary.tag, canary.source),
        ) as check:
            full = _freshness(check, canary, params, seen, start, instant, store) and full
        with report.check(
            "CN3",
            "the canary's numbers are whole",
            subject=canary.source,
            unit="proportion",
            expected=">= %g" % params["completeness"],
            hint="the missing numbers name the time; compare the collector's gap records",
            controls=["SR 3.4"],
            explain='/api/v1/export?match[]=%s{source="%s"}' % (canary.tag, canary.source),
        ) as check:
            accounts.append(_completeness(check, canary, params, start, instant, store))
            full = full and accounts[0].n > 0
        with report.check(
            "CN4",
            "the canary was never silent for long",
            subject=canary.source,
            unit="s",
            expected="<= %g" % params["max_gap"],
            hint="a link, a restart or a full queue at that time",
        ) as check:
            if not accounts:
                raise RuntimeError("the samples are not known (CN3)")
            shown = [one.newest[canary.source] for one in inside if start <= one.newest.get(canary.source, -math.inf) <= instant]
            _silence(check, accounts[0], params, start, instant, min(shown, default=None))
            full = full and bool(accounts[0].start is not None and accounts[0].start <= start + 5.0 + params["settle"])
    n = len(inside)
    return {"start": start, "end": instant, "n": n, "full": bool(full and n >= params["min_observations"])}


def _freshness(
    check: Check,
    canary: Canary,
    params: Mapping[str, Any],
    seen: Sequence[Observation],
    start: float,
    end: float,
    store: Callable[[], Store],
) -> bool:
    """Whether the operator saw a fresh canary from the window's beginning on: before that, the path was still starting."""
    found = freshness(seen, canary.source, start, end)
    begun = bool(found.series) and found.series[0][0] <= round(found.start or 0.0, 3) and found.series[0][1] <= params["freshness_p95"]
    p95 = found.summary["p95"]
    check.evidence = {
        "n": found.n,
        "blind": found.blind,
        "errors": list(found.errors),
        "window": [found.start, found.end],
        "percentiles": {"p50": found.summary["p50"], "p95": p95, "max": found.summary["max"], "bound": params["freshness_p95"]},
        "p95_upper_if_independent": found.summary["p95_upper"],
        "series": [list(pair) for pair in found.series],
        "statistics": p95_statement(
            [age for _time, age in found.series] + [math.inf] * found.blind, [time for time, _age in found.series], start, end
        ).evidence(),
    }
    check.observed = None if p95 is None else round(p95, 2) if math.isfinite(p95) else p95
    if found.n < params["min_observations"]:
        if found.blind == found.n and found.n:
            check.fail(
                "the operator saw nothing of it in %d observations: %s" % (found.n, "; ".join(found.errors) or "no sample")
            )
        else:
            check.inconclusive("%d observations, %d are needed" % (found.n, params["min_observations"]))
        return begun
    check.passed(
        p95 is not None and p95 <= params["freshness_p95"],
        "n %d, blind %d%s" % (found.n, found.blind, ": " + found.errors[0] if found.errors else ""),
    )
    parts = hops(store().export('%s:hop_seconds{source="%s"}' % (canary.tag, canary.source), start, end), HOPS)
    p50 = found.summary["p50"]
    if parts and p50 is not None and math.isfinite(p50):
        rest = p50 - sum(part["seconds"] for part in parts)
        parts.append({"name": "store, query and sampling period", "seconds": max(0.0, rest), "p95": None, "n": found.n})
        check.evidence["hops"] = parts
    return begun


def _completeness(
    check: Check, canary: Canary, params: Mapping[str, Any], start: float, end: float, store: Callable[[], Store]
) -> Completeness:
    selector = '%s{source="%s"}' % (canary.tag, canary.source)
    client = store()
    found, raw = (
        [one for one in client.export(selector, start, end - params["settle"], raw=raw) if OURS.issuperset(one.labels)] for raw in (False, True)
    )
    account = completeness(found[0] if found else None)
    written = sum(len(one.times) for one in raw)
    check.evidence = {
        "n": account.n,
        "lost": account.lost,
        "duplicates": account.duplicates,
        "missing": list(account.missing),
        # More than n: written again after the store was started anew (or by Kafka's at least once), one sample to every reader.
        "written": written,
        "window": [account.start, account.end],
        "lower_bound_95_if_independent": round(account.lower_bound, 6),
        "statistics": completeness_statement(
            account.distinct, account.expected, [ms / 1000.0 for ms in (found[0].times if found else [])], start, end - params["settle"]
        ).evidence(),
    }
    check.observed = round(account.observed, 6)
    if account.n == 0:
        check.fail("not one sample of %s/%s in the window" % (canary.source, canary.tag))
    else:
        check.passed(
            account.observed >= params["completeness"] and account.duplicates == 0,
            "%d lost, %d twice of %d" % (account.lost, account.duplicates, account.expected),
        )
    return account


def _silence(check: Check, account: Completeness, params: Mapping[str, Any], start: float, end: float, shown: float | None) -> None:
    """The longest pause between samples, the one before the window's end included, and what the store once had: *shown* is the oldest sample that the
    operator saw."""
    if account.end is None or account.start is None:
        check.observed = round(end - start, 1)
        check.fail("silent for the whole window")
        return
    tail = end - params["settle"] - account.end
    head = 0.0 if shown is None else account.start - shown
    longest = max(account.longest_gap_s or 0.0, tail, head)
    check.observed = round(longest, 2)
    check.evidence = {"between_samples_s": account.longest_gap_s, "at_the_end_s": round(max(0.0, tail), 2),
                      "shown_and_gone_s": round(max(0.0, head), 2)}
    check.passed(longest <= params["max_gap"], "" if longest > head else "the operator was shown %.0f s of it that the store no longer has" % head)
