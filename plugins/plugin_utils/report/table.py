# SPDX-License-Identifier: Apache-2.0
"""The record for a console: one line for what is the same on many hosts."""
from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.hnai.platform.plugins.module_utils.verdict import FAIL, INCONCLUSIVE, PASS, SKIPPED
from ansible_collections.hnai.platform.plugins.plugin_utils.checks import Entry, find, nearest

ORDER = {FAIL: 0, INCONCLUSIVE: 1, SKIPPED: 2, PASS: 3}
COLOURS = {FAIL: "red", INCONCLUSIVE: "yellow", SKIPPED: "cyan", PASS: "green"}


def shorten(text: str, width: int) -> str:
    """*text* on one line of at most *width* characters."""
    text = " ".join(text.split())
    return text if len(text) <= width else text[: max(0, width - 1)] + "…"


def value_text(value: Any, unit: str = "") -> str:
    """An observed or expected value as a person reads it."""
    if value is None:
        return ""
    if isinstance(value, bool):
        text = "yes" if value else "no"
    elif isinstance(value, float):
        text = f"{value:.4g}"
    elif isinstance(value, (Mapping, list, tuple)):
        text = json.dumps(value, ensure_ascii=False, separators=(", ", ": "))
    else:
        text = str(value)
    return f"{text} {unit}".strip() if unit and text else text


def mapping(value: Any) -> Mapping[str, Any]:
    """A part of a check's evidence that should be a map; {} where it is none."""
    return value if isinstance(value, Mapping) else {}


def listing(value: Any) -> Sequence[Any]:
    """The same of a list."""
    return value if isinstance(value, (list, tuple)) else []


def statistics_text(check: Mapping[str, Any]) -> str:
    """n, window, longest gap and the bound of a measured check, as ``stats.Statement.evidence`` left them; "" for any other."""
    return str(mapping(mapping(check.get("evidence")).get("statistics")).get("text", ""))


def host_names(hosts: Sequence[str]) -> str:
    """``kafka1..3`` for kafka1, kafka2, kafka3; else the names, comma separated."""
    names = sorted(set(hosts))
    numbered = [re.fullmatch(r"(.*?)(\d+)", name) for name in names]
    if len(names) > 1 and all(numbered):
        stems = {match.group(1) for match in numbered if match}
        numbers = sorted(int(match.group(2)) for match in numbered if match)
        if len(stems) == 1 and numbers == list(range(numbers[0], numbers[0] + len(numbers))):
            return f"{stems.pop()}{numbers[0]}..{numbers[-1]}"
    return ",".join(names)


def rows(record: Mapping[str, Any]) -> list[dict[str, str]]:
    """Checks that agree in component, id, subject, title and status are one row; the worst come first."""
    merged: dict[tuple[str, str, str, str, str], dict[str, list[str]]] = {}
    for verdict in record["verdicts"]:
        for check in verdict["checks"]:
            key = (
                verdict["component"], check["id"], check.get("subject", ""), check["title"], check.get("status") or INCONCLUSIVE
            )
            row = merged.setdefault(key, {"hosts": [], "observed": [], "expected": [], "reason": [], "statistics": []})
            row["hosts"].append(verdict["host"])
            for name in ("observed", "expected"):
                text = value_text(check.get(name), check.get("unit", ""))
                if text not in row[name]:
                    row[name].append(text)
            told = statistics_text(check)
            if told and told not in row["statistics"]:
                row["statistics"].append(told)
            if check.get("reason") and check["reason"] not in row["reason"]:
                row["reason"].append(check["reason"])
    found = []
    for (component, id, subject, title, status), row in merged.items():
        found.append({
            "component": component, "host": host_names(row["hosts"]), "id": id,
            "title": f"{title} ({subject})" if subject else title, "status": status,
            "observed": " | ".join(text for text in row["observed"][:4] if text) + (" …" if len(row["observed"]) > 4 else ""),
            "expected": " | ".join(text for text in row["expected"] if text),
            "reason": " | ".join(row["reason"][:3]),
            "statistics": " | ".join(row["statistics"][:3]),
        })
    return sorted(found, key=lambda row: (ORDER[row["status"]], row["component"], row["id"], row["title"]))


COLUMNS = (("component", 15), ("host", 24), ("id", 10), ("title", 44), ("status", 12), ("observed", 30), ("expected", 24))


def lines(record: Mapping[str, Any], width: int = 160) -> list[tuple[str, str]]:
    """(text, colour) of each line of the table; no line is longer than *width*."""
    table = rows(record)
    widths = {
        name: min(most, max([len(name)] + [len(row[name]) for row in table])) for name, most in COLUMNS
    }
    spare = width - sum(widths.values()) - 2 * (len(COLUMNS) - 1)
    for name in ("title", "observed", "expected", "host"):
        if spare < 0:
            take = min(-spare, max(0, widths[name] - 12))
            widths[name] -= take
            spare += take

    def line(cells: Mapping[str, str]) -> str:
        return "  ".join(shorten(cells[name], widths[name]).ljust(widths[name]) for name, _most in COLUMNS).rstrip()

    found = [(line({name: name.upper() for name, _most in COLUMNS}), "bright gray")]
    for row in table:
        found.append((line(row), COLOURS[row["status"]]))
        indent = " " * (widths["component"] + 2)
        if row["statistics"]:
            found.append((indent + shorten("· " + row["statistics"], width - len(indent)), COLOURS[row["status"]]))
        if row["reason"] and row["status"] != PASS:
            found += [(text, COLOURS[row["status"]]) for text in textwrap.wrap(
                row["reason"], width, initial_indent=indent + "└ ", subsequent_indent=indent + "  ", max_lines=3, placeholder=" …"
            )]
    return found


def _seen(record: Mapping[str, Any], ident: str) -> list[str]:
    """What the record says of the check *ident*: one paragraph a component, subject and way to repeat it, of several hosts the one that fares worst."""
    found: list[str] = []
    told: set[tuple[str, str, str]] = set()
    same = [(verdict, check) for verdict in record["verdicts"] for check in verdict["checks"] if check["id"].lower() == ident.lower()]
    for verdict, check in sorted(same, key=lambda pair: ORDER[pair[1].get("status") or INCONCLUSIVE]):
        key = (verdict["component"], check.get("explain", ""), check.get("subject", ""))
        if key in told:
            continue
        told.add(key)
        again = f"ansible-playbook hnai.platform.verify --limit {verdict['host']} --tags {verdict['component']}"
        subject = f" ({check['subject']})" if check.get("subject") else ""
        found += [
            f"{check['id']}  {check['title']}{subject}",
            f"  component  {verdict['component']} {verdict.get('version', '')}".rstrip(),
            f"  from       {verdict['host']}, by {verdict.get('module') or 'its check module'}",
            f"  expected   {value_text(check.get('expected'), check.get('unit', '')) or '(see the title)'}",
            f"  observed   {value_text(check.get('observed'), check.get('unit', '')) or '-'}: {check.get('status')}"
            + (f", {check['reason']}" if check.get("reason") else ""),
        ]
        if statistics_text(check):
            found.append(f"  measured   {statistics_text(check)}")
        found.append(f"  repeat     on {verdict['host']}: {check['explain']}" if check.get("explain") else f"  repeat     {again}")
        found += [f"  evidence   {item['path']}  sha256 {item['sha256']}" for item in verdict.get("raw", [])]
        if check.get("controls"):
            found.append(f"  evidence for {', '.join(check['controls'])} (IEC 62443-3-3)")
        if check.get("hint"):
            found.append(f"  if it fails  {check['hint']}")
        found.append("")
    return found


def explain(record: Mapping[str, Any] | None, ident: str, register: Mapping[str, Entry]) -> list[str]:
    """How a third party repeats the check *ident*: from the register, and from a record what was seen last.

    Raises KeyError, naming the nearest ids, where neither knows it.
    """
    entry = find(register, ident)
    seen = _seen(record, ident) if record else []
    if entry is None and not seen:
        near = nearest(register, ident)
        raise KeyError(f"no check {ident}" + (f"; the nearest: {', '.join(near)}" if near else "; docs/verify.md lists them"))
    found: list[str] = []
    if entry is not None:
        found = [
            f"{entry.id}  {entry.title} [{entry.severity}]",
            f"  component  {entry.component}",
            f"  means      {entry.meaning}",
            f"  repeat     {entry.repeat}",
            f"  action     {entry.action}",
            "",
        ]
    if record:
        found += [f"as seen in {record['run_id']} ({record['profile']} profile):" if seen else f"the newest record ({record['run_id']}) does not hold it", ""]
    else:
        found += ["no record yet says what was seen", ""]
    return found + seen
