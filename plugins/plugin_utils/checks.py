# SPDX-License-Identifier: Apache-2.0
"""The register of check ids: what each means and what to do. Controller only.

One file a component, ``roles/<component>/meta/checks.yml``; the judge's own ids stand in ``report/checks.yml``::

    heading: Kafka            # of its table in the runbook
    order: 40                 # its place there; the way of the data
    about: one sentence       # optional
    checks:
      Q1: {severity: critical, title: what is seen, meaning: …, action: …, repeat: how a third party repeats it}

Runbook, alert rules and dashboard are made from it (scripts/docs-checks). ``V-COMPONENT`` stands for the id that says that
a component's verdict did not come.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ansible_collections.hnai.platform.plugins.plugin_utils import contracts

COLLECTION_ROOT = Path(__file__).resolve().parents[2]
SEVERITIES = ("critical", "warning", "info")
SITE = "site"
MISSING = "V-COMPONENT"
_KEYS = {"severity", "title", "meaning", "action", "repeat"}
_ID = re.compile(r"^([A-Z]+[0-9]+|V-[A-Za-z]+)$")


class RegisterError(Exception):
    """The register is wrong; the text names file and key."""


@dataclass(frozen=True)
class Entry:
    """One id. *severity*: critical (the path is cut, a door is open), warning (a reserve is gone), info."""

    id: str
    component: str
    severity: str
    title: str
    meaning: str
    action: str
    repeat: str


@dataclass(frozen=True)
class Section:
    """The ids of one component in the order of its file."""

    component: str
    heading: str
    about: str
    order: int
    entries: tuple[Entry, ...]


def _section(path: Path, component: str, shown: str) -> Section:
    try:
        data = contracts.parsed(path)
    except yaml.YAMLError as error:
        raise RegisterError(f"{shown}: is not YAML: {error}") from error
    if not isinstance(data, Mapping) or set(data) - {"heading", "order", "about", "checks"} or not isinstance(data.get("checks"), Mapping):
        raise RegisterError(f"{shown}: needs heading, order and checks, may have about, and nothing else")
    entries = []
    for ident, fields in data["checks"].items():
        if not _ID.match(str(ident)):
            raise RegisterError(f"{shown}: checks.{ident}: an id is letters and a number")
        if not isinstance(fields, Mapping) or set(fields) != _KEYS or not all(isinstance(v, str) and v.strip() for v in fields.values()):
            raise RegisterError(f"{shown}: checks.{ident}: needs exactly {', '.join(sorted(_KEYS))}, each a text")
        if fields["severity"] not in SEVERITIES:
            raise RegisterError(f"{shown}: checks.{ident}.severity: {fields['severity']!r}; use {', '.join(SEVERITIES)}")
        entries.append(Entry(str(ident), component, **fields))
    return Section(component, str(data["heading"]), str(data.get("about", "")), int(data["order"]), tuple(entries))


def load(root: Path | None = None) -> list[Section]:
    """The whole register, in the order of the runbook. Raises RegisterError; an id stands in one file only."""
    base = root or COLLECTION_ROOT
    sections = [_section(path, path.parents[1].name, str(path.relative_to(base))) for path in sorted(base.glob("roles/*/meta/checks.yml"))]
    own = base / "plugins" / "plugin_utils" / "report" / "checks.yml"
    sections.append(_section(own, SITE, str(own.relative_to(base))))
    seen: dict[str, str] = {}
    for section in sections:
        for entry in section.entries:
            if entry.id in seen:
                raise RegisterError(f"{entry.id} stands in {seen[entry.id]} and {section.component}; give one of them another number")
            seen[entry.id] = section.component
    return sorted(sections, key=lambda one: (one.order, one.component))


def by_id(sections: list[Section]) -> dict[str, Entry]:
    """Every entry by its id."""
    return {entry.id: entry for section in sections for entry in section.entries}


def find(register: Mapping[str, Entry], ident: str) -> Entry | None:
    """The entry of an id, whatever its case; ``V-kafka`` is found under ``V-COMPONENT``."""
    folded = {known.lower(): known for known in register}
    if ident.lower() in folded:
        return register[folded[ident.lower()]]
    return register.get(MISSING) if re.match(r"(?i)v-[a-z0-9_]+$", ident) else None


def nearest(register: Mapping[str, Entry], ident: str, number: int = 3) -> list[str]:
    """The known ids that look most like one that is not known."""
    folded = {known.lower(): known for known in register}
    letters = re.match(r"[a-z]+", ident.lower())
    family = sorted(known for known in folded if letters and re.match(r"[a-z]+", known).group(0) == letters.group(0))  # type: ignore[union-attr]
    found = difflib.get_close_matches(ident.lower(), family or sorted(folded), n=number, cutoff=0.3) or family[:number]
    return [folded[one] for one in found]


def fields(entry: Entry) -> dict[str, Any]:
    """What the record keeps of an entry."""
    return {"severity": entry.severity, "meaning": entry.meaning, "action": entry.action}
