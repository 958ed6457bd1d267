# SPDX-License-Identifier: Apache-2.0
"""The record as Prometheus text (exposition format 0.0.4): for a textfile collector, beside the JSON."""
from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from ansible_collections.hnai.platform.plugins.module_utils.verdict import FAIL, INCONCLUSIVE, PASS, SKIPPED

STATE = {PASS: 0, SKIPPED: 1, INCONCLUSIVE: 2, FAIL: 3}
HELP = {
    "hnai_check_problem": "1 where the check speaks against the verdict; an announced skip or an allowed inconclusive does not",
    "hnai_check_state": "0 pass, 1 skipped, 2 inconclusive, 3 fail",
    "hnai_check_observed": "what was observed, where it is a number; its unit is a label",
    "hnai_check_duration_seconds": "time that the check took",
    "hnai_verdict_state": "verdict of the whole: 0 pass, 1 skipped, 2 inconclusive, 3 fail",
    "hnai_verdict_timestamp_seconds": "when the verdict ended",
    "hnai_verdict_whole_site": "1 where the run covered every component on every host",
    "hnai_full_verdict_timestamp_seconds": "when the last full verdict of the whole site ended",
}
_Key = tuple[str, str, str, str]


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def _number(value: Any) -> float | None:
    """A finite number, a truth as 0 or 1; None for anything else."""
    if isinstance(value, bool):
        return float(value)
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


def _checks(record: Mapping[str, Any]) -> Iterable[tuple[_Key, Mapping[str, Any]]]:
    for verdict in record["verdicts"]:
        for check in verdict["checks"]:
            yield (verdict["component"], verdict["host"], check["id"], check.get("subject", "")), check


def _worst(record: Mapping[str, Any]) -> tuple[dict[_Key, Mapping[str, Any]], set[_Key]]:
    """Each check, by its worst where it came twice; and what speaks against the verdict."""
    worst: dict[_Key, Mapping[str, Any]] = {}
    for key, check in _checks(record):
        if key not in worst or STATE.get(check.get("status", ""), 2) > STATE.get(worst[key].get("status", ""), 2):
            worst[key] = check
    return worst, {(p["component"], p["host"], p["id"], p["subject"]) for p in record["problems"]}


def render(record: Mapping[str, Any], full: Mapping[str, Any] | None = None) -> bytes:
    """The metrics of one record. A check that came twice counts once, by its worst. *full*: the record of the last full verdict: what only that one asks
    holds until it is asked again, or an alert would be over with the next quick verdict."""
    site = record["site"]
    worst, against = _worst(record)
    if full:
        asked = {(one["component"], one["host"], one.get("module")) for one in record["verdicts"]}
        there, ids = {one[:2] for one in asked}, {key[:3] for key in worst}
        others = {key for one in full["verdicts"] if (one["component"], one["host"], one.get("module")) not in asked for key, _ in _checks({"verdicts": [one]})}
        before, spoke = _worst(full)
        kept = {key: check for key, check in before.items() if key[:2] in there and (key in others or key[:3] not in ids)}
        worst, against = {**kept, **worst}, against | (spoke & set(kept) - set(worst))
    series: dict[str, list[tuple[dict[str, str], float]]] = {name: [] for name in HELP}

    def add(name: str, value: float, **labels: str) -> None:
        series[name].append(({"site": site, **labels}, value))

    for (component, host, ident, subject), check in sorted(worst.items()):
        labels = {"host": host, "component": component, "id": ident, "subject": subject}
        add("hnai_check_problem", float((component, host, ident, subject) in against), **labels)
        add("hnai_check_state", STATE.get(check.get("status", ""), STATE[INCONCLUSIVE]), **labels)
        add("hnai_check_duration_seconds", float(check.get("duration_ms") or 0.0) / 1000.0, **labels)
        observed = _number(check.get("observed"))
        if observed is not None:
            add("hnai_check_observed", observed, **labels, unit=str(check.get("unit", "")))
    # What the judge itself found (the age of the full verdict) is no check of a component.
    for component, host, ident, subject in sorted(against - set(worst)):
        add("hnai_check_problem", 1.0, host=host, component=component, id=ident, subject=subject)
    add("hnai_verdict_state", STATE[record["verdict"]], profile=record["profile"])
    add("hnai_verdict_timestamp_seconds", _seconds(record["ended_at"]), profile=record["profile"])
    add("hnai_verdict_whole_site", float(bool((record.get("covers") or {}).get("whole_site"))))
    if record.get("last_full"):
        add("hnai_full_verdict_timestamp_seconds", _seconds(record["last_full"]["ended_at"]))
    lines: list[str] = []
    for name, text in HELP.items():
        if not series[name]:
            continue
        lines += [f"# HELP {name} {text}", f"# TYPE {name} gauge"]
        for label_values, value in series[name]:
            inner = ",".join(f'{key}="{_escape(str(item))}"' for key, item in label_values.items())
            lines.append(f"{name}{{{inner}}} {value:.17g}")
    return ("\n".join(lines) + "\n").encode("utf-8", "replace")
