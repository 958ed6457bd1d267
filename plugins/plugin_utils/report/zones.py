# SPDX-License-Identifier: Apache-2.0
"""The site model for people: zones and conduits as a drawing (SVG, Mermaid), as evidence (HTML, JSON), and as the table for somebody else's firewall.

`view` makes plain data of a model; everything else is a pure function of that. The same model gives the same bytes.
"""
from __future__ import annotations

import csv
import datetime
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from ansible_collections.hnai.platform.plugins.module_utils.verdict import FAIL, INCONCLUSIVE, PASS, SKIPPED
from ansible_collections.hnai.platform.plugins.module_utils.zones.model import Conduit, Site, Zone
from ansible_collections.hnai.platform.plugins.module_utils.zones.validate import glass
from ansible_collections.hnai.platform.plugins.plugin_utils.report.table import host_names, shorten

CONDUIT_CHECKS = ("ZC1", "ZC3")
"""Checks whose subject is a conduit: that it carries what was approved."""

_RANK = {FAIL: 0, INCONCLUSIVE: 1, SKIPPED: 2, PASS: 3}
_COLOUR = {PASS: "#18794e", FAIL: "#c6262e", INCONCLUSIVE: "#a15c00", SKIPPED: "#53627a"}
_SIGN = {PASS: "✓", FAIL: "✗", INCONCLUSIVE: "?", SKIPPED: "–"}
_NONE = "#2f62d8"
_DASH = {"management": "2 4", "jump": "8 4", "brokered": "12 4 2 4", "reverse": "6 3", "diode": ""}
_STATE = {"expired": "expired", "week": "ends within a week", "month": "ends within a month", "": ""}
COLUMNS = 12
"""Most conduits side by side in one panel of the drawing."""
NAMES = 14
"""Names shown of a zone; the rest is counted."""


def verdicts_of(checked: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    """Conduit → {verdict, at} from the verdicts of a record; of several the worst."""
    found: dict[str, dict[str, str]] = {}
    for one in checked:
        for check in one["checks"]:
            subject = str(check.get("subject") or "")
            status = str(check.get("status") or INCONCLUSIVE)
            if check["id"] not in CONDUIT_CHECKS or not subject or status == SKIPPED:
                continue
            if subject not in found or _RANK.get(status, 1) < _RANK.get(found[subject]["verdict"], 1):
                found[subject] = {"verdict": status, "at": str(one.get("ended_at") or "")}
    return found


def _zone_order(zone: Zone) -> tuple[float, int, str]:
    return -zone.level, {"": 0, "security": 1, "management": 2}.get(zone.side, 3), zone.id


def view(site: Site, today: datetime.date, proven: Mapping[str, Mapping[str, str]] | None = None) -> dict[str, Any]:
    """Zones (the highest level first) with who stands in them, and conduits with their evidence. `proven`: conduit → {verdict, at}."""
    proven = proven or {}
    lifted = {entry["id"]: entry for entry in glass(site, today)}
    standing: dict[str, list[str]] = {}
    for name, node in sorted(site.nodes.items()):
        for zone in {node.zone, *(leg.zone for leg in node.interfaces)}:
            standing.setdefault(zone, []).append(name)
    return {
        "zones": [
            {
                "id": zone.id, "level": zone.level, "side": zone.side, "island": zone.island, "cidrs": [str(net) for net in zone.cidrs],
                "nodes": [
                    {"name": name, "kind": site.nodes[name].kind, "guest": site.nodes[name].zone != zone.id} for name in standing.get(zone.id, [])
                ],
            }
            for zone in sorted(site.zones.values(), key=_zone_order)
        ],
        "conduits": [_row(site, conduit, today, proven.get(conduit.id) or {}, lifted.get(conduit.id)) for conduit in site.conduits],
        "break_glass": list(lifted.values()),
        "boundaries": [
            {
                "id": one.id, "zones": sorted(one.zones), "enforced_by": one.enforced_by, "owner": one.owner, "reason": one.reason,
                "firewall_mode": one.mode, "firewall_approved_by": one.approved_by,
            }
            for one in site.boundaries
        ],
    }


def _row(site: Site, conduit: Conduit, today: datetime.date, proven: Mapping[str, str], lifted: Mapping[str, str] | None) -> dict[str, Any]:
    day = today.date() if isinstance(today, datetime.datetime) else today
    left = (conduit.expires - day).days
    here, there = ({site.nodes[name].zone for name in names if not site.nodes[name].interfaces} for names in (conduit.sources, conduit.targets))
    # A router is met in the zone of whoever meets it.
    here, there = here or there, there or here
    crossed = [one for first in here for second in there if (one := site.boundary(first, second)) is not None]
    external = sorted({one.id for one in crossed if one.enforced_by == "external"})
    observed = sorted({one.id for one in crossed if one.mode == "observe"})
    service = conduit.service
    return {
        "id": conduit.id, "from": conduit.ends[0], "to": conduit.ends[1], "from_hosts": host_names(conduit.sources), "to_hosts": host_names(conduit.targets),
        "from_zones": sorted(here), "to_zones": sorted(there), "service": f"{service.proto}/{service.port}",
        "what": f"{service.component}.{service.listener}" if service.component else service.app, "kind": conduit.kind, "direction": conduit.direction,
        "owner": conduit.owner, "reason": conduit.reason, "expires": conduit.expires.isoformat(), "days_left": left,
        "state": "expired" if left < 0 else "week" if left <= 7 else "month" if left <= 30 else "", "sr": list(conduit.sr),
        "limits": dict(conduit.limits), "external": external, "observed": observed,
        "verdict": str(proven.get("verdict") or ""), "at": str(proven.get("at") or ""),
        "break_glass": dict(lifted) if lifted else None,
    }


# -- the drawing

def _text(x: float, y: float, text: str, size: float = 12, colour: str = "var(--ink,#1b2330)", more: str = "") -> str:
    return f'<text x="{x:g}" y="{y:g}" style="font-size:{size:g}px;fill:{colour}"{more}>{escape(text)}</text>'


def _chips(zone: Mapping[str, Any], width: float) -> tuple[list[str], float]:
    """(the names of a zone as boxes, relative to its corner; how high they are)."""
    parts, x, y = [], 0.0, 0.0
    nodes = zone["nodes"]
    shown = [(one["name"], one["kind"], one["guest"]) for one in nodes[:NAMES]]
    if len(nodes) > NAMES:
        shown.append((f"and {len(nodes) - NAMES} more", "", False))
    for name, kind, guest in shown:
        label = shorten(name, 28)
        wide = 7.0 * len(label) + 14
        if x and x + wide > width:
            x, y = 0.0, y + 25
        dashed = ' stroke-dasharray="3 2"' if guest else ""
        round_ = 10 if kind == "host" else 2
        box = "" if not kind else (
            f'<rect x="{x:g}" y="{y:g}" width="{wide:g}" height="20" rx="{round_}" fill="var(--bg,#f6f7f9)" stroke="var(--line,#dfe4ec)"{dashed}/>'
        )
        parts.append(box + _text(x + 7, y + 14, label, 11.5))
        x += wide + 6
    return parts, y + 25


_LEFT, _STEP, _PAD = 290, 62, 14


def svg(found: Mapping[str, Any]) -> str:
    """Zones as lanes by level, one column a conduit: a dot where it is opened, an arrow where it leads. Panels of COLUMNS conduits, one below another."""
    zones, conduits = found["zones"], found["conduits"]
    # Panels of the same width: none is left with a single conduit.
    columns = max(4, -(-len(conduits) // max(1, -(-len(conduits) // COLUMNS))))
    panels = [conduits[start : start + columns] for start in range(0, len(conduits), columns)] or [[]]
    width = _LEFT + _STEP * columns + 2 * _PAD
    parts: list[str] = []
    y = 4.0
    for number, panel in enumerate(panels):
        drawn, y = _panel(zones, panel, width, y, names=number == 0)
        parts += drawn
    drawn, y = _legend(conduits, _observing(found), width, y)
    parts += drawn
    label = f"{len(zones)} zones and {len(conduits)} conduits"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {y:g}" width="{width:g}" height="{y:g}" role="img" aria-label="{label}" '
        f'font-family="system-ui,-apple-system,Segoe UI,Roboto,sans-serif">{"".join(parts)}</svg>'
    )


def _panel(zones: Sequence[Mapping[str, Any]], panel: Sequence[Mapping[str, Any]], width: float, top: float, names: bool) -> tuple[list[str], float]:
    parts: list[str] = []
    middle: dict[str, float] = {}
    y = top + 52
    for zone in zones:
        chips, high = _chips(zone, _LEFT - 24) if names else ([], 0.0)
        height = max(58.0, 40 + high) if names else 40.0
        parts.append(
            f'<rect x="{_PAD}" y="{y:g}" width="{width - 2 * _PAD:g}" height="{height:g}" rx="8" fill="var(--card,#fff)" stroke="var(--line,#dfe4ec)"/>'
        )
        kind = "island" if zone["island"] else zone["side"]
        level = f"level {zone['level']:g}" + (f" · {kind}" if kind else "")
        parts.append(_text(_PAD + 10, y + 19, shorten(zone["id"], 20), 14, more=' font-weight="600"'))
        parts.append(_text(_LEFT - 4, y + 19, level, 11.5, "var(--soft,#5d6b80)", ' text-anchor="end"'))
        parts.append(f'<g transform="translate({_PAD + 10} {y + 29:g})">{"".join(chips)}</g>' if chips else "")
        middle[zone["id"]] = y + height / 2
        y += height + 8
    for index, conduit in enumerate(panel):
        parts += _column(conduit, _LEFT + _PAD + _STEP * index + _STEP / 2, top, middle)
    return parts, y + 10


def _colour(conduit: Mapping[str, Any]) -> str:
    name = conduit["verdict"]
    return f"var(--{name},{_COLOUR[name]})" if name in _COLOUR else f"var(--accent,{_NONE})"


def _column(conduit: Mapping[str, Any], x: float, top: float, middle: Mapping[str, float]) -> list[str]:
    colour = _colour(conduit)
    tip = f"{conduit['id']}: {conduit['from']} → {conduit['to']}, {conduit['service']} {conduit['what']}, {conduit['kind']}"
    tip += f"; {conduit['reason']} ({conduit['owner']})"
    sign = _SIGN.get(conduit["verdict"], "")
    head = ' text-anchor="middle" font-weight="600"'
    parts = [f"<g><title>{escape(tip)}</title>", _text(x, top + 14, (sign + " " if sign else "") + shorten(conduit["id"], 9), 11.5, colour, head)]
    parts.append(_text(x, top + 28, conduit["service"], 11, "var(--ink,#1b2330)", ' text-anchor="middle"'))
    alarm = "GLASS" if conduit["break_glass"] else {"expired": "EXPIRED", "week": "≤ 7 days", "month": "≤ 30 days"}.get(conduit["state"], "")
    below, shade = (alarm, "var(--fail,#c6262e)") if alarm else (shorten(conduit["what"], 10), "var(--soft,#5d6b80)")
    if conduit["observed"] and not alarm:
        below, shade = "observed", f"var(--{INCONCLUSIVE},{_COLOUR[INCONCLUSIVE]})"
    parts.append(_text(x, top + 42, below, 9.5, shade, ' text-anchor="middle"'))
    here = [middle[zone] for zone in conduit["from_zones"] if zone in middle]
    there = [middle[zone] for zone in conduit["to_zones"] if zone in middle]
    if here and there:
        ends = sorted({*here, *there})
        dash = "1 3" if conduit["external"] else _DASH.get(conduit["kind"], "")
        style = f'stroke="{colour}" stroke-width="{3 if conduit["kind"] == "diode" else 2}" fill="none"' + (f' stroke-dasharray="{dash}"' if dash else "")
        if len(ends) > 1:
            parts.append(f'<path d="M{x:g} {ends[0]:g}V{ends[-1]:g}" {style}/>')
        for at in sorted(set(there)):
            others = [one for one in here if one != at]
            if at in here:
                # Inside one zone: out to the side and back.
                parts.append(f'<path d="M{x:g} {at - 9:g}c14 0 14 18 3 18" {style}/>' + _arrow(x + 3, at + 9, -1, 0, colour))
            if others:
                down = min(others, key=lambda one: abs(one - at)) < at
                parts.append(_arrow(x, at, 0, 1 if down else -1, colour))
        for at in sorted(set(here)):
            y = at - 9 if at in there else at
            parts.append(f'<circle cx="{x:g}" cy="{y:g}" r="4.5" fill="{colour}"/>')
    return [*parts, "</g>"]


def _arrow(x: float, y: float, right: int, down: int, colour: str) -> str:
    if down:
        return f'<path d="M{x:g} {y:g}l-5 {-9 * down}h10z" fill="{colour}"/>'
    return f'<path d="M{x:g} {y:g}l{-8 * right} -4.5v9z" fill="{colour}"/>'


def _observing(found: Mapping[str, Any]) -> str:
    """Over which boundaries what no conduit names is let through and written down; '' for none."""
    names = [f"{one['id']} ({', '.join(one['zones'])})" for one in found["boundaries"] if one["firewall_mode"] == "observe"]
    return f"observed, not enforced: {'; '.join(names)}" if names else ""


def _legend(conduits: Sequence[Mapping[str, Any]], observing: str, width: float, top: float) -> tuple[list[str], float]:
    kinds = sorted({str(one["kind"]) for one in conduits})
    items: list[tuple[str, str, str]] = [(f"{_SIGN[name]} {name}", f"var(--{name},{_COLOUR[name]})", "") for name in (PASS, FAIL, INCONCLUSIVE)]
    items.append(("not yet verified", f"var(--accent,{_NONE})", ""))
    items += [(kind, "var(--soft,#5d6b80)", _DASH.get(kind, "") or "-") for kind in kinds]
    if any(one["external"] for one in conduits):
        items.append(("enforced by others", "var(--soft,#5d6b80)", "1 3"))
    parts, x, y = [], float(_PAD), top + 12
    for text, colour, dash in items:
        wide = 46 + 7.0 * len(text)
        if x + wide > width - _PAD:
            x, y = float(_PAD), y + 20
        line = "" if dash in ("", "-") else f' stroke-dasharray="{dash}"'
        parts.append(f'<path d="M{x:g} {y - 4:g}h22" stroke="{colour}" stroke-width="{2 if dash else 5}"{line}/>' + _text(x + 28, y, text, 11.5))
        x += wide
    parts.append(_text(_PAD, y + 20, "● opens the connection   ▶ is dialled   round: a managed host   square: an asset", 11.5, "var(--soft,#5d6b80)"))
    if observing:
        y += 20
        parts.append(_text(_PAD, y + 20, observing, 11.5, f"var(--{INCONCLUSIVE},{_COLOUR[INCONCLUSIVE]})"))
    return parts, y + 32


def _mermaid_text(text: str) -> str:
    """What stands between quotes in Mermaid: entities for all that it or HTML would take for something else."""
    return re.sub(r"[^\w .,:/()+·→-]", lambda match: f"#{ord(match[0])};", text)


def mermaid(found: Mapping[str, Any]) -> str:
    """The same as a Mermaid flowchart: what conduits name stands in the zones where its hosts stand."""
    number = {zone["id"]: index for index, zone in enumerate(found["zones"])}
    nodes: dict[tuple[str, str], str] = {}
    edges, styles = [], []
    for conduit in found["conduits"]:
        for here in conduit["from_zones"]:
            for there in conduit["to_zones"]:
                ends = []
                for zone, name, hosts in ((here, conduit["from"], conduit["from_hosts"]), (there, conduit["to"], conduit["to_hosts"])):
                    label = name if name == hosts or len(hosts) > 40 else f"{name}: {hosts}"
                    nodes.setdefault((zone, name), label)
                    ends.append((zone, name))
                line = "-.->" if conduit["kind"] in ("management", "jump", "brokered") else "==>" if conduit["kind"] == "diode" else "-->"
                label = " ".join(filter(None, [_SIGN.get(conduit["verdict"], ""), conduit["id"], conduit["service"], conduit["what"]]))
                edges.append((ends[0], line, _mermaid_text(label.replace("✓", "pass").replace("✗", "FAIL")), ends[1]))
                styles.append(f"  linkStyle {len(edges) - 1} stroke:{_COLOUR.get(conduit['verdict'], _NONE)}")
    ids = {key: f"n{index}" for index, key in enumerate(sorted(nodes))}
    lines = ["%% SPDX-License-Identifier: Apache-2.0", "flowchart TB"]
    for zone in found["zones"]:
        title = f"{zone['id']} · level {zone['level']:g}" + (f" · {zone['side']}" if zone["side"] else "")
        lines.append(f'  subgraph z{number[zone["id"]]}["{_mermaid_text(title)}"]')
        mine = [key for key in sorted(nodes) if key[0] == zone["id"]]
        lines += [f'    {ids[key]}["{_mermaid_text(nodes[key])}"]' for key in mine]
        # An empty zone is drawn too.
        lines += [] if mine else [f'    e{number[zone["id"]]}["{len(zone["nodes"])} hosts, no conduit"]']
        lines.append("  end")
    lines += [f'  {ids[here]} {line}|"{label}"| {ids[there]}' for here, line, label, there in edges]
    for one in found["boundaries"]:
        if one["firewall_mode"] == "observe":
            first, second = (f"z{number[zone]}" for zone in one["zones"])
            lines.append(f'  {first} -.-|"{_mermaid_text("observed, not enforced: " + one["id"])}"| {second}')
    return "\n".join([*lines, *styles, ""])


# -- the evidence

EVIDENCE = (
    "id", "from", "to", "service", "what", "kind", "direction", "owner", "reason", "expires", "state", "at", "verdict", "sr", "external", "observed",
    "break_glass",
)  # fmt: skip


def evidence(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One entry a conduit: who opens what, who answers for it and why, until when, and when it was last shown to be so."""
    return [{key: conduit[key] for key in EVIDENCE} for conduit in found["conduits"]]


def evidence_json(found: Mapping[str, Any]) -> str:
    """The evidence for machines."""
    whole = {"conduits": evidence(found), "boundaries": found["boundaries"], "break_glass": found["break_glass"]}
    return json.dumps(whole, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def evidence_html(found: Mapping[str, Any]) -> str:
    """The evidence as a table; on a narrow page each conduit is a card (class `ev` of STYLE)."""
    names = ("conduit", "from → to", "service", "owner and reason", "expires", "last verified", "verdict", "IEC 62443-3-3")
    rows = []
    for one in found["conduits"]:
        state = _STATE[one["state"]]
        urgent = FAIL if one["state"] in ("expired", "week") else INCONCLUSIVE
        expires = escape(one["expires"]) + (f'<br><b class="{urgent} word">{state}</b>' if state else "")
        if one["break_glass"]:
            expires += '<br><b class="fail word">break-glass</b>'
        verdict = one["verdict"] if one["verdict"] in _COLOUR else ""
        badge = f'<span class="badge {verdict}">{verdict}</span>' if verdict else '<span class="soft">not yet</span>'
        others = f'<br><span class="soft">enforced by others: {escape(", ".join(one["external"]))}</span>' if one["external"] else ""
        others += f'<br><b class="{INCONCLUSIVE} word">observed, not enforced: {escape(", ".join(one["observed"]))}</b>' if one["observed"] else ""
        cells = (
            f"<code>{escape(one['id'])}</code>" + (f'<br><span class="soft">{escape(one["kind"])}</span>' if one["kind"] != "direct" else ""),
            f"{escape(one['from'])} → {escape(one['to'])}" + others,
            f"{escape(one['service'])}" + (f'<br><span class="soft">{escape(one["what"])}</span>' if one["what"] else ""),
            f"{escape(one['owner'])}<br><span class=\"soft\">{escape(one['reason'])}</span>",
            expires, escape(one["at"][:16].replace("T", " ")).replace(" ", "<br>") or "never", badge, escape(", ".join(one["sr"])),
        )
        rows.append("<tr>" + "".join(f'<td data-l="{name}">{cell}</td>' for name, cell in zip(names, cells, strict=True)) + "</tr>")
    head = "".join(f"<th>{name}" for name in names)
    return f'<table class="ev"><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'


STYLE = """
.word{color:var(--c)}.draw{overflow-x:auto}.draw svg{width:100%;min-width:760px;height:auto}
.glass{border:2px solid var(--fail);background:var(--failbg)}.ev code,.ev td[data-l="expires"],.ev td[data-l="last verified"]{white-space:nowrap}
@media (max-width:700px){.ev thead{display:none}.ev,.ev tbody,.ev tr,.ev td{display:block;width:100%}
.ev tr{border:1px solid var(--line);border-radius:10px;padding:6px 0;margin:10px 0}.ev td{border:0;padding:3px 12px 3px 124px;position:relative;min-height:26px}
.ev td::before{content:attr(data-l);position:absolute;left:12px;width:106px;color:var(--soft);font-size:12.5px}.ev tr:last-child td{border:0}}
"""


def card(found: Mapping[str, Any]) -> str:
    """The part of the report: what was let through by break-glass, the drawing, the evidence."""
    glasses = "".join(
        f"<li><b>{escape(one['id'])}</b>: {escape(one['owner'])}, {escape(one['reason'])}; "
        f"{escape('until ' + one['until'] if one['state'] == 'open' else one['why'])}</li>"
        for one in found["break_glass"]
    )
    expired = [one["id"] for one in found["conduits"] if one["state"] == "expired"]
    verified = sum(1 for one in found["conduits"] if one["verdict"] == PASS)
    counts = f"{len(found['conduits'])} conduits, {verified} of them verified" + (f", expired: {', '.join(expired)}" if expired else "")
    counts += f"; {observing}" if (observing := _observing(found)) else ""
    return (
        (f'<div class="card glass fail"><h2>BREAK-GLASS</h2><ul>{glasses}</ul><p>It stays red until the entry is gone.</p></div>' if glasses else "")
        + f'<div class="card"><h2>Zones and conduits</h2><p class="soft">{escape(counts)}</p><div class="draw">{svg(found)}</div></div>'
        + f'<div class="card"><h2>Evidence for each conduit</h2><div class="wide">{evidence_html(found)}</div></div>'
    )


def page(found: Mapping[str, Any], style: str, title: str) -> str:
    """Drawing and evidence as a page of their own: no script, nothing from the network."""
    return (
        '<!doctype html><!-- SPDX-License-Identifier: Apache-2.0 --><html lang="en"><head><meta charset="utf-8">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        '<meta name="viewport" content="width=device-width,initial-scale=1"><meta name="color-scheme" content="light dark">'
        f"<title>{escape(title)}</title><style>{style}{STYLE}</style></head><body><main><h1>{escape(title)}</h1>{card(found)}</main></body></html>\n"
    )


# -- the table for the owner of another firewall

TABLE = (
    "id", "boundary", "from", "from_addresses", "to", "to_addresses", "proto", "port", "direction", "answers", "limits", "data_direction", "reason", "owner",
    "expires",
)  # fmt: skip


def external(site: Site) -> list[dict[str, str]]:
    """What the owners of the boundaries that are not ours must allow, and nothing else: one line for each conduit, boundary, way and family.

    `direction`: from which zone to which the connection is opened; `answers` go back by state alone. `limits`: for each target; nobody else holds them there.
    """
    found = []
    for conduit in site.conduits:
        ways = sorted({
            (site.zone_of(first, second).id, site.zone_of(second, first).id)
            for first in (site.nodes[name] for name in conduit.sources) for second in (site.nodes[name] for name in conduit.targets)
        }) if site.boundaries else []
        for here, there in ways:
            boundary = site.external(here, there)
            if boundary is None:
                continue
            plant = min(site.zones[here].level, site.zones[there].level) <= 2
            limits = conduit.limited(plant)
            for version in (4, 6):
                ends = [
                    sorted({
                        address for name in names
                        if site.nodes[name].zone_towards(zone) == zone and (address := site.nodes[name].address(version, peer, second))
                    })
                    for names, zone, peer, second in ((conduit.sources, here, there, conduit.source_address), (conduit.targets, there, here, ""))
                ]
                if all(ends):
                    found.append({
                        "id": conduit.id, "boundary": boundary.id, "from": conduit.ends[0], "from_addresses": " ".join(ends[0]), "to": conduit.ends[1],
                        "to_addresses": " ".join(ends[1]), "proto": conduit.service.proto, "port": str(conduit.service.port),
                        "direction": f"{here} → {there}", "answers": f"{there} → {here}, established",
                        "limits": ", ".join(f"{name} {most}" for name, most in sorted(limits.items())), "data_direction": conduit.direction,
                        "reason": conduit.reason, "owner": conduit.owner, "expires": conduit.expires.isoformat(),
                    })
    return found


def external_csv(rows: Sequence[Mapping[str, str]]) -> str:
    """For a spreadsheet; a text that it would take for a formula begins with an apostrophe."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(TABLE)
    for row in rows:
        writer.writerow(["'" + row[key] if row[key][:1] in tuple("=+-@\t\r") else row[key] for key in TABLE])
    return out.getvalue()


def external_markdown(rows: Sequence[Mapping[str, str]]) -> str:
    """For a ticket."""
    lines = ["| " + " | ".join(TABLE) + " |", "|" + "---|" * len(TABLE)]
    lines += ["| " + " | ".join(" ".join(re.sub(r"([|\\`<\[])", r"\\\1", row[key]).split()) for key in TABLE) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def external_json(rows: Sequence[Mapping[str, str]]) -> str:
    """For machines."""
    return json.dumps(list(rows), indent=1, ensure_ascii=False) + "\n"


def files(site: Site, today: datetime.date, style: str, title: str, proven: Mapping[str, Mapping[str, str]] | None = None) -> dict[str, str]:
    """Every form of it by file name."""
    found, rows = view(site, today, proven), external(site)
    return {
        "zones.svg": svg(found) + "\n", "zones.mmd": mermaid(found), "zones.html": page(found, style, title), "evidence.json": evidence_json(found),
        "external.csv": external_csv(rows), "external.json": external_json(rows), "external.md": external_markdown(rows),
    }
