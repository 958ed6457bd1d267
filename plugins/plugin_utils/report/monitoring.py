# SPDX-License-Identifier: Apache-2.0
"""What is made from the register of check ids: runbook, alert rules with their tests, and a dashboard."""
from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

import yaml

from ansible_collections.hnai.platform.plugins.plugin_utils.checks import MISSING, SITE, Entry, Section

VERDICT_MAX_AGE_S = 3600
"""A site whose newest verdict is older is not watched any more."""

#: How long a problem lasts before somebody is called. The checks look at windows of their own, so what is critical does not wait.
FOR = {"critical": "", "warning": "5m", "info": "15m"}
_STATES = {"0": ("pass", "green"), "1": ("skipped", "blue"), "2": ("inconclusive", "yellow"), "3": ("fail", "red")}


# -- runbook ----------------------------------------------------------------------------------------------
def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def runbook(sections: Sequence[Section]) -> str:
    """The tables of docs/verify.md: symptom, id, what it means, what to do."""
    lines: list[str] = []
    for section in sections:
        lines += [f"### {section.heading}"]
        if section.about:
            lines += [section.about, ""]
        lines += ["| symptom | check | what it means | action |", "|---|---|---|---|"]
        for entry in section.entries:
            ident = "V-\\<component\\>" if entry.id == MISSING else entry.id
            lines.append(f"| {_cell(entry.title)} | {ident} | {_cell(entry.meaning)} | {_cell(entry.action)} |")
        lines.append("")
    return "\n".join(lines)


# -- alert rules ------------------------------------------------------------------------------------------
def alert_name(entry: Entry) -> str:
    """``HnaiKafkaQ1``."""
    parts = re.split(r"[_-]", f"{entry.component}_{entry.id}")
    return "Hnai" + "".join(part[:1].upper() + part[1:] for part in parts)


def selector(entry: Entry) -> str:
    """The label matcher of an id; a component whose verdict did not come has an id of its own."""
    if entry.id == MISSING:
        return 'id=~"V-.+",id!~"V-(full|expiry|glass)"'
    return f'id="{entry.id}"'


def _rule(entry: Entry) -> dict[str, Any]:
    rule: dict[str, Any] = {
        "alert": alert_name(entry),
        "expr": f"max by (site, host, component, id, subject) (hnai_check_problem{{{selector(entry)}}}) > 0",
    }
    if FOR[entry.severity]:
        rule["for"] = FOR[entry.severity]
    rule["labels"] = {"severity": entry.severity}
    rule["annotations"] = _annotations(entry)
    return rule


def _annotations(entry: Entry) -> dict[str, str]:
    return {"summary": entry.title, "description": entry.meaning, "action": entry.action, "repeat": entry.repeat, "runbook": "docs/verify.md"}


def _site_rules() -> list[dict[str, Any]]:
    return [
        {
            "alert": "HnaiVerdictOld",
            "expr": f"abs(time() - max by (site) (hnai_verdict_timestamp_seconds)) > {VERDICT_MAX_AGE_S}",
            "labels": {"severity": "warning"},
            "annotations": {
                "summary": "nobody judges the site any more",
                "description": "the newest verdict is older than an hour, or of a time to come, so every other alert is silent too",
                "action": "run ansible-playbook hnai.platform.verify; look at what should run it", "runbook": "docs/verify.md",
            },
        },
        {
            "alert": "HnaiVerdictAbsent",
            "expr": "absent(hnai_verdict_timestamp_seconds)",
            "for": "15m",
            "labels": {"severity": "warning"},
            "annotations": {
                "summary": "no verdict reaches the monitoring", "description": "the file hnai.prom is not collected",
                "action": "the textfile collector of the exporter on the controller", "runbook": "docs/verify.md",
            },
        },
    ]


def alerts(sections: Sequence[Section]) -> dict[str, Any]:
    """Prometheus rule groups, one a component."""
    groups = [{"name": "hnai-verdict", "rules": _site_rules()}]
    groups += [{"name": f"hnai-{section.component}", "rules": [_rule(entry) for entry in section.entries]} for section in sections]
    return {"groups": groups}


def alert_tests(sections: Sequence[Section], rules: str) -> dict[str, Any]:
    """Input of ``promtool test rules``: each alert is silent before its check is a problem, fires then, and is silent after it."""
    tests: list[dict[str, Any]] = []
    for section in sections:
        for entry in section.entries:
            ident = "V-kafka" if entry.id == MISSING else entry.id
            labels = {"site": "s", "host": "h", "component": section.component, "id": ident}
            series = 'hnai_check_problem{%s,subject=""}' % ",".join(f'{key}="{value}"' for key, value in labels.items())
            tests.append({
                "interval": "5m",
                # At 0 well, from 5 to 25 minutes a problem, then well.
                "input_series": [{"series": series, "values": "0 1x4 0x2"}],
                "alert_rule_test": [
                    {"eval_time": "0m", "alertname": alert_name(entry), "exp_alerts": []},
                    {"eval_time": "25m", "alertname": alert_name(entry), "exp_alerts": [
                        {"exp_labels": {**labels, "severity": entry.severity}, "exp_annotations": _annotations(entry)}]},
                    {"eval_time": "30m", "alertname": alert_name(entry), "exp_alerts": []},
                ],
            })
    old, absent = _site_rules()
    stamp = 'hnai_verdict_timestamp_seconds{site="s",profile="quick"}'
    tests.append({
        "interval": "5m", "input_series": [{"series": stamp, "values": "0x20 10000x2"}],
        "alert_rule_test": [
            {"eval_time": "60m", "alertname": old["alert"], "exp_alerts": []},
            {"eval_time": "65m", "alertname": old["alert"], "exp_alerts": [
                {"exp_labels": {"site": "s", **old["labels"]}, "exp_annotations": old["annotations"]}]},
            # The clock of the controller was ahead.
            {"eval_time": "105m", "alertname": old["alert"], "exp_alerts": [
                {"exp_labels": {"site": "s", **old["labels"]}, "exp_annotations": old["annotations"]}]},
        ],
    })
    tests.append({
        "interval": "5m", "input_series": [{"series": "other", "values": "0x20"}],
        "alert_rule_test": [
            {"eval_time": "10m", "alertname": absent["alert"], "exp_alerts": []},
            {"eval_time": "20m", "alertname": absent["alert"], "exp_alerts": [
                {"exp_labels": absent["labels"], "exp_annotations": absent["annotations"]}]},
        ],
    })
    return {"rule_files": [rules], "evaluation_interval": "5m", "tests": tests}


def to_yaml(value: Any) -> str:
    """YAML with the licence line."""
    head = "# SPDX-License-Identifier: Apache-2.0\n# Made by scripts/docs-checks from roles/*/meta/checks.yml; edit those, not this file.\n---\n"
    return head + yaml.dump(value, Dumper=_Indented, sort_keys=False, allow_unicode=True, width=140)


class _Indented(yaml.SafeDumper):
    """Lists are indented below their key, as yamllint wants them."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)

    def ignore_aliases(self, data: Any) -> bool:
        return True


# -- dashboard --------------------------------------------------------------------------------------------
def _mappings() -> list[dict[str, Any]]:
    options = {value: {"text": text, "color": colour, "index": int(value)} for value, (text, colour) in _STATES.items()}
    return [{"type": "value", "options": options}]


def _panel(ident: int, kind: str, title: str, expr: str, grid: tuple[int, int, int, int], legend: str, **more: Any) -> dict[str, Any]:
    x, y, w, h = grid
    return {
        "id": ident, "type": kind, "title": title, "datasource": {"type": "prometheus", "uid": "${datasource}"},
        "gridPos": {"x": x, "y": y, "w": w, "h": h},
        "targets": [{"refId": "A", "expr": expr, "legendFormat": legend, "instant": kind in ("stat", "table"), "range": kind not in ("stat", "table"),
                     **({"format": "table"} if kind == "table" else {})}],
        **more,
    }


def dashboard(sections: Iterable[Section]) -> dict[str, Any]:
    """A Grafana dashboard: the verdict, its age, what speaks against it, and each component's checks over time."""
    state = {"defaults": {"mappings": _mappings(), "color": {"mode": "thresholds"}, "noValue": "no verdict", "thresholds": {"mode": "absolute", "steps": [
        {"color": "green", "value": None}, {"color": "blue", "value": 1}, {"color": "yellow", "value": 2}, {"color": "red", "value": 3}]}}}
    age = {"defaults": {"unit": "s", "noValue": "never"}}
    panels = [
        _panel(1, "stat", "Verdict", 'max(hnai_verdict_state{site="$site"})', (0, 0, 6, 4), "", fieldConfig=state),
        _panel(2, "stat", "Age of the verdict", 'time() - max(hnai_verdict_timestamp_seconds{site="$site"})', (6, 0, 6, 4), "", fieldConfig=age),
        _panel(3, "stat", "Age of the full verdict", 'time() - max(hnai_full_verdict_timestamp_seconds{site="$site"})', (12, 0, 6, 4), "", fieldConfig=age),
        _panel(4, "stat", "Checks that speak against it", 'sum(hnai_check_problem{site="$site"})', (18, 0, 6, 4), "", fieldConfig={"defaults": {
            "thresholds": {"mode": "absolute", "steps": [{"color": "green", "value": None}, {"color": "red", "value": 1}]}}}),
        _panel(5, "table", "What speaks against it", 'hnai_check_problem{site="$site"} > 0', (0, 4, 24, 7), "", transformations=[
            {"id": "organize", "options": {"excludeByName": {"Time": True, "__name__": True, "site": True, "Value": True, "job": True, "instance": True}}}]),
    ]
    y, ident = 11, 6
    for section in sections:
        if section.component == SITE:
            continue
        text = "\n".join(f"- **{entry.id}** {entry.title}: {entry.meaning}. {entry.action}" for entry in section.entries)
        panels.append(_panel(
            ident, "state-timeline", section.heading, f'max by (id, host, subject) (hnai_check_state{{site="$site",component="{section.component}"}})',
            (0, y, 24, 8), "{{id}} {{host}} {{subject}}", fieldConfig=state, description=text,
        ))
        y, ident = y + 8, ident + 1
    return {
        "uid": "hnai-verdict", "title": "hnai.platform: verdict", "tags": ["hnai"], "schemaVersion": 39, "version": 1, "editable": True,
        "timezone": "utc", "refresh": "1m", "time": {"from": "now-24h", "to": "now"},
        "templating": {"list": [
            {"name": "datasource", "type": "datasource", "query": "prometheus"},
            {"name": "site", "type": "query", "datasource": {"type": "prometheus", "uid": "${datasource}"},
             "query": {"query": "label_values(hnai_verdict_state, site)", "refId": "site"}, "refresh": 2},
        ]},
        "panels": panels,
    }


def to_json(value: Any) -> str:
    """JSON as it stands in the repository."""
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"
