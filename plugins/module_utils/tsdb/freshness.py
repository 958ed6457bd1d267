# SPDX-License-Identifier: Apache-2.0
"""The checks of tsdb_freshness over a client that the caller makes. Standard library, Python 3.9."""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping
from typing import Any

from ansible_collections.hnai.platform.plugins.module_utils.tsdb.client import Point, Store
from ansible_collections.hnai.platform.plugins.module_utils.tsdb.inventory import Expected, expected
from ansible_collections.hnai.platform.plugins.module_utils.tsdb.judge import ages
from ansible_collections.hnai.platform.plugins.module_utils.tsdb.questdb import about, rows
from ansible_collections.hnai.platform.plugins.module_utils.verdict import Check, Report

AHEAD_S = 2 * 86400
"""How far from now a store takes what is of a time to come (VictoriaMetrics: -futureRetention as delivered). What a clock that was ahead left there is
new at every moment until then, and hides that nothing comes any more."""

NOTHING = "no source is declared"

_VIEWS: tuple[tuple[str, str, dict[str, str], int], ...] = (
    ("FR1", "every declared tag is stored", {"nocache": "1", "latency_offset": "1ms"}, AHEAD_S),
    ("FR2", "every declared tag is in the operator's view", {}, 0),
)


def run(report: Report, params: Mapping[str, Any], store: Callable[[], Store], now: Callable[[], float]) -> None:
    """Make FR1 and FR2, one check per source and view. *now* gives unix seconds."""
    wanted = expected(params["sources"])
    window = int(max(params["cyclic_max_age"], params["on_change_max_age"]) * 4)
    for ident, title, arguments, ahead in _VIEWS:
        if not wanted:
            report.skip(ident, title, NOTHING)
        for source in dict.fromkeys(item.source for item in wanted):
            mine = [item for item in wanted if item.source == source]
            with report.check(
                ident,
                title,
                subject=source,
                unit="stale tags",
                expected=0,
                controls=["SR 3.4"],
                hint="source, collector or its link: verify's ot_collector and canary checks say which",
                explain='/api/v1/query?query=tlast_over_time({source="%s"}[%ds]) keep_metric_names%s'
                % (source, window + ahead, "&time=<now + %d>" % ahead if ahead else ""),
            ) as check:
                points: list[Point] = store().query(
                    'tlast_over_time({source="%s",__name__=~".+:(status|observed_ts)"}[%ds]) keep_metric_names'
                    % (source, window + ahead),
                    **arguments,
                    **({"time": "%.3f" % (now() + ahead)} if ahead else {}),
                )
                _judge(check, mine, points, params, now())


NEWEST = string.Template(
    "SELECT source, tag, CAST(ts AS LONG), observed_ts FROM $table"
    " WHERE ts > dateadd('d', -$days, now()) AND ts <= dateadd('d', $ahead, now()) AND status != $mark LATEST ON ts PARTITION BY source, tag"
)
"""Per tag its newest row: time of the source in ns, observation in 100 ns. A value that has not changed for longer is not found."""

DAYS = 7
#: The status of a gap's mark (Bad_NoCommunication). A value that the gap did not change is observed again with its old time, behind the mark.
MARK = 0x80310000
ANY = -1


def run_questdb(report: Report, params: Mapping[str, Any], store: Callable[[], Store], now: Callable[[], float]) -> None:
    """Make FR3, one check per source: the rows of QuestDB, which stored and shown are the same. *now* gives unix seconds."""
    wanted = expected(params["sources"])
    if not wanted:
        report.skip("FR3", "every declared tag has fresh rows", NOTHING)
    statements = [about(NEWEST, str(params["table"]), days=DAYS, ahead=AHEAD_S // 86400, mark=mark) for mark in (MARK, ANY)]
    for source in dict.fromkeys(item.source for item in wanted):
        mine = [item for item in wanted if item.source == source]
        with report.check(
            "FR3",
            "every declared tag has fresh rows",
            subject=source,
            unit="stale tags",
            expected=0,
            controls=["SR 3.4"],
            hint="QD4 and QD7 first; then as FR1",
            explain="; ".join(statements),
        ) as check:
            points = []
            for name, tag, ns, observed in (row for statement in statements for row in rows(store(), statement)):
                labels = {"source": name, "__name__": "%s:status" % tag}
                points.append(Point(labels, now(), ns / 1e9))
                if observed is not None:
                    points.append(Point(dict(labels, __name__="%s:observed_ts" % tag), now(), observed / 1e7))
            _judge(check, mine, points, params, now())


def _judge(check: Check, wanted: list[Expected], newest: list[Point], params: Mapping[str, Any], now: float) -> None:
    judged = ages(wanted, newest, now, params["cyclic_max_age"], params["on_change_max_age"])
    stale = [age for age in judged if age.stale]
    known = [age.age_s for age in judged if age.age_s is not None]
    check.observed = len(stale)
    check.evidence = {
        "tags": len(judged),
        "oldest_s": round(max(known), 1) if known else None,
        "stale": [age.text() for age in stale[:50]],
        "limit_s": {"cyclic": params["cyclic_max_age"], "on_change": params["on_change_max_age"]},
    }
    more = "" if len(stale) <= 5 else " and %d more" % (len(stale) - 5)
    check.passed(not stale, "stale: %s%s" % (", ".join(age.text() for age in stale[:5]), more))
