# SPDX-License-Identifier: Apache-2.0
"""Judges the status file of the OT collector. Pure: takes the decoded file, the time and the limits.

The file (``/run/hnai/ot_collector/collector.status.json``, written every second)::

    {"version": "1.0.0", "pid": n, "now": ticks, "started": ticks,
     "sources": [{"source", "protocol", "tags", "state", "detail", "since", "last_heard", "attempts", "connects", "losses",
                  "clock_offset_s", "failed": {tag: "0x…"}, "small_queues": {tag: n}, "limits", "subscription",
                  "samples", "bad", "repeats", "gaps": {reason: n}, "open_gaps", "last_gap", "last_sample",
                  "pin": only of OPC UA, sha256 of the certificate that the server had at our last session,
                  "node": only of a Sparkplug B edge node {"born", "alive", "doubtful", "dead_devices", "unknown_now": {what: n}, "lag_s",
                  "last_loss", "retained", and the counts of sparkplug_node.Counts}}],
     "outlet": {"depth", "limit", "sent", "dropped", "blocked_s"}}

Times are 100-ns ticks since 1970-01-01Z.
"""
from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from ..verdict import Check, Report

TICKS_PER_S = 10_000_000
STALE_S = 10.0
"""The file is written every second; older than this the collector does not run or does not breathe."""
_REMEDY = "journalctl -u hnai-telegraf-shipper.service | grep ot_collector"


class StatusError(Exception):
    """The status file cannot be used; the text says why."""


def decode(text: str, path: str) -> dict[str, Any]:
    """The file's content. Raises StatusError."""
    try:
        status = json.loads(text)
    except ValueError as error:
        raise StatusError("%s: no JSON: %s" % (path, error)) from error
    sources = status.get("sources") if isinstance(status, dict) else None
    if not isinstance(sources, list) or not isinstance(status.get("now"), int) or not all("source" in one for one in sources):
        raise StatusError("%s: not a status of the collector" % path)
    return status


def age_s(then: Any, now: int) -> float | None:
    """Seconds from *then* (ticks or None) to *now* (ticks)."""
    return None if not isinstance(then, int) else round((now - then) / TICKS_PER_S, 3)


def judge(
    report: Report,
    status: Mapping[str, Any] | None,
    problem: str,
    now: int,
    expected: Iterable[str],
    max_age_s: float,
    max_offset_s: float,
    gap_window_s: float,
    max_lag_s: float = 10.0,
) -> None:
    """Add the checks OC0 to OC13 to *report*.

    *status* is None when the file could not be read, then *problem* says why and everything else is inconclusive.
    *expected* are the ids of the sources that this host must read.
    """
    with report.check("OC0", "the collector runs", expected=STALE_S, unit="s", hint=_REMEDY,
                      explain="stat -c %y /run/hnai/ot_collector/collector.status.json") as check:
        if status is None:
            check.fail(problem)
        else:
            check.observed = age_s(status["now"], now)
            check.evidence = {"pid": status.get("pid"), "started": status.get("started"), "version": status.get("version")}
            check.passed(check.observed is not None and check.observed <= STALE_S, "its status is %s s old" % check.observed)
    running = report.checks[-1].status == "pass"
    known = {source["source"]: source for source in (status or {}).get("sources", [])}
    for name in sorted(expected):
        _source(report, name, known.get(name), running, now, max_age_s, max_offset_s, gap_window_s)
        if running and known.get(name, {}).get("protocol") == "sparkplug":
            _node(report, name, known[name].get("node") or {}, now, max_lag_s, gap_window_s)
    with report.check("OC7", "nothing was dropped before the pipe", expected=0, unit="records", hint=_REMEDY) as check:
        if not running or status is None:
            check.inconclusive("the collector does not run")
        else:
            outlet = status["outlet"]
            check.observed, check.evidence = outlet["dropped"], dict(outlet)
            check.passed(outlet["dropped"] == 0 and outlet["blocked_s"] < 30,
                         "%s records dropped, the pipe is blocked for %s s" % (outlet["dropped"], outlet["blocked_s"]))


_NODE_REMEDY = "the mirror sends no command: a person at the line lets the edge node send its births again (restart, or rebirth there)"


def _node(report: Report, name: str, node: Mapping[str, Any], now: int, max_lag_s: float, gap_window_s: float) -> None:
    """Checks of a Sparkplug B edge node; *node* is what the collector says of it."""
    explain = "jq '.sources[] | select(.source == \"%s\") | .node' /run/hnai/ot_collector/collector.status.json" % name
    counted = ("messages", "births", "deaths", "old_deaths", "jumps", "lost_messages", "late", "duplicates", "malformed", "unknown", "foreign", "retained")
    with report.check("OC9", "the births of the node are known", expected=True, subject=name, hint=_NODE_REMEDY, explain=explain) as check:
        check.observed = node["born"] and not node["doubtful"]
        check.evidence = {key: node[key] for key in counted}
        if node["doubtful"]:
            check.inconclusive("a session, or a birth, may have been missed: the node's next message tells")
        else:
            check.passed(node["born"], "no birth was heard since this collector knows the node")
    with report.check("OC10", "every alias is explained by a birth", expected=0, unit="metrics", subject=name, hint=_NODE_REMEDY, explain=explain) as check:
        check.observed = sum(node["unknown_now"].values())
        check.evidence = node["unknown_now"]
        if check.observed:
            check.inconclusive("what these are is not known: %s" % ", ".join(sorted(node["unknown_now"])[:5]))
        else:
            check.passed(True)
    with report.check("OC11", "no message of the node was missed of late", expected=gap_window_s, unit="s", subject=name, explain=explain,
                      hint="the gap records say from when to when. The line's network, or MQ5") as check:
        check.observed = age_s(node["last_loss"], now)
        check.evidence = {key: node[key] for key in ("jumps", "lost_messages", "malformed")}
        check.passed(check.observed is None or check.observed >= gap_window_s,
                     "%d messages missed, %d that cannot be read since the collector started, the last %s s ago" % (
                         node["lost_messages"], node["malformed"], check.observed))
    with report.check("OC12", "the node and its devices live", expected=[], subject=name, explain=explain,
                      hint="NDEATH or DDEATH: the device is off, or has lost the broker; its tags are Bad until it is born again") as check:
        check.observed = (["the node"] if node["born"] and not node["alive"] else []) + node["dead_devices"]
        check.passed(not check.observed, "dead: %s" % ", ".join(check.observed))
    with report.check("OC13", "messages are read soon after they were sent", expected=max_lag_s, unit="s", subject=name, explain=explain,
                      hint="the collector works off what waited at the broker, the pipe is blocked (OC7), or the line's clock is wrong") as check:
        check.observed = node["lag_s"]
        if node["lag_s"] is None:
            check.inconclusive("no message with a time was read yet")
        else:
            check.passed(abs(node["lag_s"]) <= max_lag_s, "%.3f s" % node["lag_s"])


def judge_audits(report: Report, records: Mapping[str, Mapping[str, Any] | None], now_s: float, max_age_s: float) -> None:
    """OC14 for each of *records*: what the newest audit of an endpoint said (its last record, None: there is none). *max_age_s* 0: any age will do.

    The audit itself is made by verify --tags ot, profile=full, or before a changed configuration goes out.
    """
    for name, record in sorted(records.items()):
        with report.check("OC14", "an audit says that the mirror cannot write", expected="claimed or better", subject=name, controls=["SR 2.1"],
                          hint="verify --tags ot audits it; docs/runbooks/ot-audit.md") as check:
            if record is None:
                check.skip("it was never audited: verify --tags ot")
                continue
            at = (record.get("scope") or {}).get("at")
            age = now_s - float(at) if isinstance(at, (int, float)) else None
            check.observed = record["verdict"]
            check.evidence = {"age_s": None if age is None else round(age), "not_tested": record.get("not_tested"), "reason": record.get("reason")}
            if record["verdict"] == "refuted":
                check.fail(str(record.get("reason") or "refuted"))
            elif record["verdict"] not in ("claimed", "enforced", "proven"):
                check.inconclusive("the last audit said nothing: %s" % (record.get("reason") or "no reason known"))
            else:
                check.passed(not max_age_s or (age is not None and age <= max_age_s), "the last audit is %s s old" % ("?" if age is None else round(age)))


def _source(
    report: Report, name: str, source: Mapping[str, Any] | None, running: bool, now: int, max_age_s: float, max_offset_s: float,
    gap_window_s: float,
) -> None:
    """Checks of one source; *source* is None when the running collector does not know it."""

    def usable(check: Check) -> bool:
        if not running:
            check.inconclusive("the collector does not run")
            return False
        if source is None:
            check.fail("the running collector does not read this source; restart hnai-telegraf-shipper.service")
            return False
        return True

    with report.check("OC1", "the source is connected", expected="connected", subject=name, controls=["SR 5.2"],
                      hint="detail says what the source answered; %s" % _REMEDY) as check:
        if usable(check) and source is not None:
            check.observed = source["state"]
            check.evidence = {key: source[key] for key in ("detail", "attempts", "connects", "losses", "since", "subscription")}
            check.passed(source["state"] == "connected", "%s: %s" % (source["state"], source["detail"] or "no reason known"))
    with report.check("OC2", "the source is heard", expected=max_age_s, unit="s", subject=name, hint=_REMEDY) as check:
        if usable(check) and source is not None:
            check.observed = age_s(source["last_heard"], now)
            check.evidence = {"last_sample_age_s": age_s(source["last_sample"], now), "samples": source["samples"]}
            check.passed(check.observed is not None and check.observed <= max_age_s, "last heard %s s ago" % check.observed)
    with report.check("OC3", "every declared tag can be read", expected=0, unit="tags", subject=name,
                      hint="compare the node or register with the device's own list") as check:
        if usable(check) and source is not None:
            check.observed = len(source["failed"])
            check.evidence = {"tags": source["tags"], "failed": source["failed"]}
            check.passed(not source["failed"], ", ".join("%s %s" % item for item in sorted(source["failed"].items())[:5]))
    with report.check("OC4", "no gap of late", expected=gap_window_s, unit="s", subject=name,
                      hint="the records with a gap say from when to when and why") as check:
        if usable(check) and source is not None:
            check.observed = age_s(source["last_gap"], now)
            check.evidence = {"gaps": source["gaps"], "open": source["open_gaps"]}
            recent = check.observed is not None and check.observed < gap_window_s
            lost = {reason: count for reason, count in source["gaps"].items() if reason != "collector_restart"}
            check.passed(not source["open_gaps"] and not (recent and lost),
                         "%s tags have an open gap, the last one closed %s s ago" % (source["open_gaps"], check.observed))
    if source is None or source.get("protocol", "opcua") == "opcua":
        with report.check("OC5", "the source's clock agrees", expected=max_offset_s, unit="s", subject=name, controls=["SR 2.11"],
                          hint="the time source of the device") as check:
            if usable(check) and source is not None:
                offset = source["clock_offset_s"]
                check.observed = None if offset is None else round(offset, 3)
                if offset is None:
                    check.inconclusive("the server has not told its time yet")
                else:
                    check.passed(abs(offset) <= max_offset_s, "%.3f s" % offset)
        with report.check("OC6", "the identity is not locked out", expected=False, subject=name, controls=["SR 1.11"],
                          hint="correct the password with the plant, then restart hnai-telegraf-shipper.service") as check:
            if usable(check) and source is not None:
                check.observed = source["state"] == "locked"
                check.passed(not check.observed, source["detail"])
        with report.check("OC8", "the server's queues are as long as declared", expected=0, unit="tags", subject=name,
                          hint="shorten queue in hnai_ot_sources to what the server grants, and know that a longer outage is a gap") as check:
            if usable(check) and source is not None:
                check.observed = len(source["small_queues"])
                check.evidence = {"revised": source["small_queues"]}
                check.passed(not source["small_queues"])
