# SPDX-License-Identifier: Apache-2.0
"""The checks of ``mirror_fidelity``, MFD0 to MFD6, from what a server said and what the store holds."""
from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..stats import percentile
from ..verdict import FAIL, INCONCLUSIVE, Check, Report
from .fidelity import Findings, Recording, Shown, Tag, join, lags

_TABLE = (
    ("MFD0", "the store holds what the server said"),
    ("MFD1", "values are the server's, in the declared unit"),
    ("MFD2", "statuses are the server's"),
    ("MFD3", "no sample of the server is missing in the store"),
    ("MFD4", "the store has no sample that the server never gave"),
    ("MFD5", "enough was recorded to say so"),
    ("MFD6", "P95 of how long a sample takes from the server into the store, of each tag"),
)
TITLES = dict(_TABLE)
_PARTS = (("MFD1", "values"), ("MFD2", "statuses"), ("MFD3", "missing"), ("MFD4", "extra"))
CONTROLS = ["SR 3.1"]

Stored = Mapping[str, Mapping[int, float]]


def judge(report: Report, source: str, recording: Recording, tags: Sequence[Tag], stored: Callable[[], Stored]) -> dict[str, Any]:
    """Judge one source; *stored* asks the store and may raise. Returns the record of MFD0."""
    found, problem = Findings(), recording.error
    if not problem:
        try:
            found = join(recording, tags, stored(), source)
        except Exception as error:
            # Whatever the store's client says (its own errors, the deadline): nothing was compared.
            problem = "the store could not be asked: %s" % error
    statuses = []
    for ident, name in _PARTS:
        bad: list[str] = getattr(found, name)
        with report.check(ident, TITLES[ident], expected=0, unit="samples", subject=source, controls=CONTROLS,
                          hint="look at the record in Kafka (ot.raw, key source/tag) and after the job: which hop changed it") as check:
            if problem:
                check.inconclusive(problem)
            else:
                check.observed = len(bad)
                check.evidence = {"found": bad[:200]}
                if not bad and not found.joined:
                    check.inconclusive("nothing was compared")
                else:
                    check.passed(not bad, "; ".join(bad[:3]) + ("; and %d more" % (len(bad) - 3) if len(bad) > 3 else ""))
        statuses.append(report.checks[-1].status)
    quiet = sorted({tag.name for tag in tags if tag.cyclic} & set(found.quiet))

    def without_time(name: str) -> str:
        statuses = recording.timeless.get(name, [])
        return " (without a source time: %s)" % ", ".join("0x%08X" % status for status in statuses) if statuses else ""

    def enough(check: Check) -> None:
        check.observed = found.joined
        check.evidence = {"tags": [tag.name for tag in tags], "reads": recording.reads, "pause_ms": round(recording.pause_ms),
                          "unseen": found.unseen[:200], "quiet": found.quiet, "quick": found.quick, "marked": found.marked[:200],
                          "gaps_ms": found.gaps_ms,
                          "window": [recording.begin_ms / 1000.0, recording.end_ms / 1000.0]}
        if problem:
            check.inconclusive(problem)
        elif quiet:
            check.inconclusive("cyclic and silent at the server: %s" % ", ".join(name + without_time(name) for name in quiet))
        elif found.quick:
            check.inconclusive("the server has samples sooner than the tag is sampled, so none can be called missing: %s" % ", ".join(found.quick))
        elif found.slow:
            check.inconclusive("%d samples of the store fell into pauses of the recorder (%d ms), too many of %s: longer window, fewer tags" % (
                len(found.unseen), recording.pause_ms, ", ".join(found.slow)))
        else:
            check.passed(found.joined > 0, "no sample was found on both sides")

    with report.check("MFD5", TITLES["MFD5"], expected="> 0", unit="samples on both sides", subject=source, controls=CONTROLS,
                      hint="the recorder's reasons; a longer ot_collector_fidelity_window") as check:
        enough(check)
    statuses.append(report.checks[-1].status)
    verdict = "unfaithful" if FAIL in statuses[:4] else "inconclusive" if INCONCLUSIVE in statuses or FAIL in statuses else "faithful"
    record = {"source": source, "verdict": verdict, "joined": found.joined, "tags": [tag.name for tag in tags], "time": "cut to 1 ms",
              "not_tested": ["strings; other tags than these"], "missing": found.missing, "extra": found.extra,
              "marked": found.marked, "unseen": found.unseen, "values": found.values, "statuses": found.statuses, "recorded": recording.samples}
    with report.check("MFD0", TITLES["MFD0"], expected="faithful", subject=source, controls=CONTROLS, hint="the other rows say what differs") as check:
        check.observed = verdict
        check.evidence = {key: record[key] for key in ("joined", "tags", "time", "not_tested")}
        check.raw("mirror-fidelity-%s.json" % source, json.dumps(record, indent=1, sort_keys=True))
        if verdict == "inconclusive":
            check.inconclusive("see MFD1 to MFD5")
        else:
            check.passed(verdict == "faithful", "the store differs from the server: MFD1 to MFD4")
    return record


def judge_lag(report: Report, source: str, recording: Recording, tags: Sequence[Tag], shown: Shown, problem: str, limit_s: float) -> None:
    """MFD6. *problem*: why nobody watched the store, or nothing. Late is not unfaithful: MFD0 has no part of it."""
    with report.check("MFD6", TITLES["MFD6"], expected="<= %g" % limit_s, unit="s", subject=source, controls=CONTROLS,
                      hint="CN2's evidence says which hop takes longest; one tag alone: the server has it late, or its own conduit") as check:
        rows: dict[str, dict[str, float]] = {}
        late: list[str] = []
        long: list[str] = []
        short: list[str] = []
        for tag in tags:
            took = lags(recording, tag.name, shown)
            late += ["%s/%s at %s: at least %.1f s" % (source, tag.name, at, least) for least, _, at in took if least > limit_s]
            if took:
                at_least, at_most = [least for least, _, _ in took], [most for _, most, _ in took]
                rows[tag.name] = {"n": len(took), "p50": round(percentile(at_most, 0.5), 1), "p95": round(percentile(at_most, 0.95), 1),
                                  "max": round(max(at_most), 1)}
                if percentile(at_least, 0.95) > limit_s:
                    long.append("%s (at least %.1f s)" % (tag.name, percentile(at_least, 0.95)))
                elif percentile(at_most, 0.95) > limit_s:
                    short.append("%s (at most %.1f s)" % (tag.name, percentile(at_most, 0.95)))
        check.observed = max((row["p95"] for row in rows.values()), default=None)
        check.evidence = {"at_most_s": rows, "late": late[:200], "unwatched": sorted({tag.name for tag in tags if tag.cyclic} - set(rows))}
        if long:
            check.fail("late: %s" % ", ".join(long))
        elif recording.error or problem or not rows:
            check.inconclusive(recording.error or problem or "no sample that was recorded was seen to arrive")
        elif short:
            check.inconclusive("the store was not looked at often enough to say so: %s" % ", ".join(short))
        else:
            check.passed(True)
