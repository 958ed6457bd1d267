# SPDX-License-Identifier: Apache-2.0
"""What was proven about the plant, and what was not: one card for each audit of a verdict (checks whose evidence says what was not tested).

An audit's head carries in its evidence `not_tested` and, where it has them, `ladder`, `scope` or `holds_for`, `coverage`, `excused` and the exceptions
that expired or excuse nothing; the other checks of the same subject are its findings.
"""
from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from html import escape
from typing import Any

from ansible_collections.hnai.platform.plugins.module_utils.verdict import FAIL, INCONCLUSIVE, PASS, SKIPPED
from ansible_collections.hnai.platform.plugins.plugin_utils.report.table import listing, mapping, value_text

SHORT = 64


def _plain(value: Any) -> str:
    """A value for people; digests are cut, they stand whole in the evidence."""
    text = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else value_text(value)
    return text if len(text) < SHORT or " " in text else text[:16] + "…"


def _definitions(items: Mapping[str, Any]) -> str:
    told = {str(name).replace("_", " "): _plain(value)[:400] for name, value in items.items() if value not in (None, "", [], {})}
    rows = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in told.items())
    return f"<dl>{rows}</dl>" if rows else ""


def _list(title: str, lines: Iterable[str]) -> str:
    rows = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f"<p class=soft>{escape(title)}</p><ul>{rows}</ul>" if rows else ""


def _ladder(steps: Mapping[str, Any], badge: Callable[[str], str]) -> str:
    """Each rung with a word in its colour."""
    colour = {"held": PASS, "not held": FAIL, "inconclusive": INCONCLUSIVE}
    return "".join(
        f"<tr><td>{escape(str(step))}</td><td>{badge(colour.get(str(state), SKIPPED))} {escape(str(state))}</td></tr>" for step, state in steps.items()
    )


def _coverage(found: Mapping[str, Any]) -> dict[str, Any]:
    numbers = {name: len(listing(found.get(key))) for name, key in (
        ("tags missing", "missing_tags"), ("tags hidden from us", "hidden_tags"), ("lists cut", "truncated"), ("nodes unread", "unread"))}
    return {"nodes read": sum(count for count in mapping(found.get("nodes")).values() if isinstance(count, int)),
            "declared tags": found.get("declared_tags"), **numbers, "to the end": found.get("complete")}


def _card(component: str, host: str, head: Mapping[str, Any], others: list[Mapping[str, Any]], badge: Callable[[str], str]) -> str:
    evidence: Mapping[str, Any] = head["evidence"]
    scope = mapping(evidence.get("scope") or evidence.get("holds_for"))
    exceptions = [f"{kind}: {one.get('check')} {one.get('node') or ''} ({one.get('owner')}, until {one.get('expires')})"
                  for key, kind in (("exceptions_expired", "expired"), ("exceptions_unused", "excuses nothing"))
                  for one in map(mapping, listing(evidence.get(key)))]
    if evidence.get("excused"):
        exceptions.insert(0, f"{evidence['excused']} findings are excused by somebody who answers for them; the record names them")
    findings = [f"{check['id']} {check['title']}: {check.get('reason') or value_text(check.get('observed'))}"[:600] for check in others
                if check["status"] in (FAIL, INCONCLUSIVE)]
    ladder = _ladder(mapping(evidence.get("ladder")), badge)
    age = next((check["evidence"].get("age_s") for check in others if isinstance(check.get("evidence"), Mapping) and "age_s" in check["evidence"]), None)
    return (
        f'<div class="card"><h2>{escape(str(head.get("subject") or component))}: {escape(value_text(head.get("observed")) or head["status"])} '
        f'{badge(head["status"])}</h2>'
        f'<p class="soft">{escape(head["id"])} {escape(head["title"])} · {escape(component)} on {escape(host)}</p>'
        + (f'<div class="wide"><table><tbody>{ladder}</tbody></table></div>' if ladder else "")
        + (f"<p class=soft>It holds for</p>{_definitions(scope)}" if scope else "")
        + (f"<p class=soft>Covered</p>{_definitions(_coverage(evidence['coverage']))}" if isinstance(evidence.get("coverage"), Mapping) else "")
        + (_definitions({"age of the last audit": value_text(age, "s")}) if age is not None else "")
        + _list("Findings", findings) + _list("Exceptions", exceptions) + _list("Not tested", map(str, evidence["not_tested"])) + "</div>"
    )


def render(record: Mapping[str, Any], badge: Callable[[str], str]) -> str:
    """The cards, in the record's order."""
    cards = []
    for verdict in record["verdicts"]:
        for head in verdict["checks"]:
            evidence = head.get("evidence")
            if not isinstance(evidence, Mapping) or not isinstance(evidence.get("not_tested"), (list, tuple)):
                continue
            if not any(evidence.get(name) for name in ("scope", "holds_for", "ladder")):
                continue
            others = [check for check in verdict["checks"] if check is not head and check.get("subject", "") in ("", head.get("subject", ""))]
            cards.append(_card(str(verdict["component"]), str(verdict["host"]), head, others, badge))
    return "".join(cards)
