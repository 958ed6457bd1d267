# SPDX-License-Identifier: Apache-2.0
"""The record as one HTML file: inline style and SVG, no script, nothing from the network, light and dark."""
from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

from ansible_collections.hnai.platform.plugins.module_utils.verdict import FAIL, INCONCLUSIVE, PASS, SKIPPED
from ansible_collections.hnai.platform.plugins.plugin_utils.report import proofs, zones
from ansible_collections.hnai.platform.plugins.plugin_utils.report.table import ORDER, listing, mapping, value_text

STYLE = """
:root{--bg:#f6f7f9;--card:#fff;--ink:#1b2330;--soft:#5d6b80;--line:#dfe4ec;--pass:#18794e;--fail:#c6262e;--inconclusive:#a15c00;
--skipped:#53627a;--passbg:#e3f5ea;--failbg:#fde7e8;--inconclusivebg:#fff1d6;--skippedbg:#e9edf3;--accent:#2f62d8}
@media (prefers-color-scheme:dark){:root{--bg:#10151d;--card:#182030;--ink:#e8edf5;--soft:#9aa8be;--line:#2b3648;--pass:#5fd39a;
--fail:#ff8088;--inconclusive:#f5b955;--skipped:#a5b3c9;--passbg:#12352a;--failbg:#451d24;--inconclusivebg:#40300f;
--skippedbg:#263145;--accent:#86a8ff}}
*{box-sizing:border-box}body{margin:0;background:var(--bg);color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:1180px;margin:0 auto;padding:24px 20px 64px}h1{font-size:22px;margin:0}h2{font-size:17px;margin:0 0 10px}
.card{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:18px 20px;margin:16px 0}
.top{border-left:8px solid var(--c);display:flex;gap:24px;align-items:center;flex-wrap:wrap}
.big{font-size:34px;font-weight:700;color:var(--c);text-transform:uppercase;letter-spacing:.03em;line-height:1.1}
.pass{--c:var(--pass);--b:var(--passbg)}.fail{--c:var(--fail);--b:var(--failbg)}.inconclusive{--c:var(--inconclusive);--b:var(--inconclusivebg)}
.skipped{--c:var(--skipped);--b:var(--skippedbg)}
.badge{display:inline-block;padding:1px 9px;border-radius:99px;background:var(--b);color:var(--c);font-weight:600;font-size:12.5px;white-space:nowrap}
.soft{color:var(--soft)}.tiles{display:flex;gap:10px;flex-wrap:wrap;margin-left:auto}
.tile{min-width:78px;text-align:center;border-radius:10px;padding:6px 10px;background:var(--b);color:var(--c)}
.tile b{display:block;font-size:22px;line-height:1.2}
.wide{overflow-x:auto}table{border-collapse:collapse;width:100%;font-size:14px}
th{text-align:left;font-weight:600;color:var(--soft);font-size:12.5px;padding:4px 10px;border-bottom:1px solid var(--line)}
td{padding:6px 10px;border-bottom:1px solid var(--line);vertical-align:top}tr:last-child td{border-bottom:0}
td.n{font-variant-numeric:tabular-nums;white-space:nowrap}code,pre{font:12.5px/1.45 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
pre{white-space:pre-wrap;overflow-wrap:anywhere;background:var(--bg);border:1px solid var(--line);border-radius:8px;padding:8px 10px;margin:6px 0}
details summary{cursor:pointer;color:var(--soft);font-size:13px}dl{display:grid;grid-template-columns:max-content 1fr;gap:3px 18px;margin:0}
dt{color:var(--soft)}dd{margin:0;overflow-wrap:anywhere}svg{display:block;width:100%;height:auto}svg text{font:12px system-ui,sans-serif;fill:var(--soft)}
a{color:var(--accent)}ul{margin:6px 0;padding-left:20px}
section>details>summary{list-style:none;display:flex;gap:12px;align-items:center;font-size:16px;color:var(--ink)}


section>details>summary::after{content:"▾";margin-left:auto;color:var(--soft)}@media print{body{background:#fff}.card{break-inside:avoid}}
"""

PALETTE = ("#2f62d8", "#18a08a", "#c97a12", "#8a54c7", "#c6437a", "#5d6b80", "#4c9a2a")


def badge(status: str) -> str:
    """A coloured word."""
    return f'<span class="badge {escape(status)}">{escape(status)}</span>'


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) else None


def bars(percentiles: Mapping[str, Any], unit: str) -> str:
    """Percentiles as bars against their bound."""
    named = [(label, _number(percentiles.get(key))) for key, label in (
        ("p50", "P50"), ("p95", "P95"), ("p95_upper", "P95, upper 95 % bound"), ("max", "maximum"),
    )]
    shown = [(label, value) for label, value in named if value is not None]
    bound = _number(percentiles.get("bound"))
    if not shown:
        return ""
    top = max([value for _, value in shown] + ([bound] if bound is not None else [])) * 1.12 or 1.0
    left, right, step = 160, 640, 30
    height = step * len(shown) + 34

    def x(value: float) -> float:
        return left + (right - left) * value / top

    parts = [f'<svg viewBox="0 0 760 {height}" role="img" aria-label="percentiles against the bound">']
    for index, (label, value) in enumerate(shown):
        y = 8 + index * step
        over = bound is not None and value > bound
        colour = "var(--fail)" if over and label != "maximum" else "var(--accent)"
        parts.append(
            f'<text x="{left - 10}" y="{y + 14}" text-anchor="end">{escape(label)}</text>'
            f'<rect x="{left}" y="{y}" width="{max(1.0, x(value) - left):.1f}" height="18" rx="4" fill="{colour}"/>'
            f'<text x="{x(value) + 8:.1f}" y="{y + 14}">{escape(value_text(value, unit))}</text>'
        )
    if bound is not None:
        parts.append(
            f'<line x1="{x(bound):.1f}" x2="{x(bound):.1f}" y1="2" y2="{height - 26}" stroke="var(--fail)" stroke-dasharray="5 4" stroke-width="2"/>'
            f'<text x="{x(bound):.1f}" y="{height - 8}" text-anchor="middle">bound {escape(value_text(bound, unit))}</text>'
        )
    return "".join(parts) + "</svg>"


def timeline(series: Any, bound: float | None, unit: str, title: str) -> str:
    """Points [unix seconds, value] as a line over time; a hole longer than five usual steps is left open, and what is no point is left out."""
    points = []
    for item in listing(series):
        at, value = (_number(item[0]), _number(item[1])) if isinstance(item, (list, tuple)) and len(item) > 1 else (None, None)
        if at is not None and value is not None:
            points.append((at, value))
    points.sort()
    if len(points) < 2:
        return ""
    first, last = points[0][0], points[-1][0]
    span = (last - first) or 1.0
    top = max([value for _, value in points] + ([bound] if bound is not None else [])) * 1.1 or 1.0
    left, right, low, high = 52, 744, 150, 12

    def place(at: float, value: float) -> tuple[float, float]:
        return left + (right - left) * (at - first) / span, low - (low - high) * max(0.0, value) / top

    steps = sorted(after[0] - before[0] for before, after in zip(points, points[1:]))
    hole = max(1e-9, steps[len(steps) // 2]) * 5
    path, previous = [], None
    for at, value in points:
        px, py = place(at, value)
        path.append(f"{'M' if previous is None or at - previous > hole else 'L'}{px:.1f} {py:.1f}")
        previous = at
    parts = [f'<svg viewBox="0 0 760 180" role="img" aria-label="{escape(title, quote=True)}">']
    for share in (0.0, 0.5, 1.0):
        _, y = place(first, top / 1.1 * share)
        parts.append(
            f'<line x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}" stroke="var(--line)"/>'
            f'<text x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{escape(value_text(top / 1.1 * share))}</text>'
        )
    if bound is not None:
        _, y = place(first, bound)
        parts.append(f'<line x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}" stroke="var(--fail)" stroke-dasharray="5 4"/>')
    parts.append(
        f'<path d="{" ".join(path)}" fill="none" stroke="var(--accent)" stroke-width="1.8" stroke-linejoin="round"/>'
        f'<text x="{left}" y="172">0 s</text><text x="{right}" y="172" text-anchor="end">{span:.0f} s</text>'
        f'<text x="{(left + right) / 2}" y="172" text-anchor="middle">{escape(title)}{escape(f" [{unit}]" if unit else "")}, {len(points)} samples</text>'
    )
    return "".join(parts) + "</svg>"


def hops(items: Any, unit: str) -> str:
    """Where the time goes: one bar, a piece for each hop."""
    pieces = [(str(item.get("name", "")), _number(item.get("seconds")) or 0.0) for item in map(mapping, listing(items))]
    whole = sum(value for _, value in pieces)
    if whole <= 0:
        return ""
    left, width = 8.0, 744.0
    rows = (len(pieces) + 2) // 3
    parts = [f'<svg viewBox="0 0 760 {44 + 20 * rows}" role="img" aria-label="time per hop">']
    at = left
    for index, (name, value) in enumerate(pieces):
        piece = width * value / whole
        colour = PALETTE[index % len(PALETTE)]
        parts.append(f'<rect x="{at:.1f}" y="6" width="{max(piece - 1, 0.5):.1f}" height="22" fill="{colour}"/>')
        x, y = left + (index % 3) * 250, 50 + 20 * (index // 3)
        parts.append(
            f'<rect x="{x}" y="{y - 10}" width="10" height="10" rx="2" fill="{colour}"/>'
            f'<text x="{x + 16}" y="{y}">{escape(name)} {escape(value_text(value, unit))}</text>'
        )
        at += piece
    return "".join(parts) + "</svg>"


def charts(record: Mapping[str, Any]) -> str:
    """A card for every check that brought percentiles, a series or hops."""
    cards = []
    for verdict in record["verdicts"]:
        for check in verdict["checks"]:
            evidence = mapping(check.get("evidence"))
            unit = str(check.get("unit", ""))
            percentiles = mapping(evidence.get("percentiles"))
            drawn = [
                bars(percentiles, unit),
                timeline(evidence.get("series"), _number(percentiles.get("bound")), unit, check["title"]),
                hops(evidence.get("hops"), unit),
            ]
            if any(drawn):
                subject = f" ({escape(check['subject'])})" if check.get("subject") else ""
                cards.append(
                    f'<div class="card"><h2>{escape(check["id"])} {escape(check["title"])}{subject} {badge(check["status"])}</h2>'
                    f'<p class="soft">{escape(verdict["component"])} on {escape(verdict["host"])}</p>' + "".join(drawn) + "</div>"
                )
    return "".join(cards)


def _rows(checks: Iterable[tuple[str, Mapping[str, Any]]]) -> str:
    parts = []
    for host, check in sorted(checks, key=lambda pair: (ORDER.get(pair[1]["status"], 0), pair[1]["id"], pair[0])):
        more = []
        if check.get("reason"):
            more.append(f"<div>{escape(str(check['reason']))}</div>")
        if check.get("hint") and check["status"] in (FAIL, INCONCLUSIVE):
            more.append(f'<div class="soft">{escape(str(check["hint"]))}</div>')
        evidence = {key: value for key, value in (check.get("evidence") or {}).items() if key != "series"}
        inside = ""
        if check.get("explain"):
            inside += f"<div class=soft>Repeat it:</div><pre>{escape(str(check['explain']))}</pre>"
        if evidence:
            inside += f"<pre>{escape(json.dumps(evidence, indent=1, ensure_ascii=False, sort_keys=True)[:6000])}</pre>"
        if check.get("controls"):
            inside += f'<div class="soft">evidence for {escape(", ".join(check["controls"]))} (IEC 62443-3-3)</div>'
        if inside:
            more.append(f"<details><summary>evidence</summary>{inside}</details>")
        title = escape(check["title"]) + (f' <span class="soft">({escape(check["subject"])})</span>' if check.get("subject") else "")
        parts.append(
            f'<tr><td>{badge(check["status"])}</td><td><code>{escape(check["id"])}</code></td><td>{escape(host)}</td>'
            f'<td>{title}{"".join(more)}</td><td>{escape(value_text(check.get("observed"), check.get("unit", ""))[:400])}</td>'
            f'<td>{escape(value_text(check.get("expected"), check.get("unit", ""))[:200])}</td>'
            f'<td class="n">{float(check.get("duration_ms") or 0):.0f} ms</td></tr>'
        )
    return "".join(parts)


def _components(record: Mapping[str, Any]) -> str:
    parts = []
    for component in record["components"]:
        name = component["name"]
        checks = [
            (verdict["host"], check) for verdict in record["verdicts"] if verdict["component"] == name for check in verdict["checks"]
        ]
        counts = ", ".join(f"{number} {status}" for status, number in component["counts"].items() if number)
        opened = " open" if component["status"] in (FAIL, INCONCLUSIVE) else ""
        parts.append(
            f'<section class="card"><details{opened}><summary>{badge(component["status"])}<b>{escape(name)}</b>'
            f'<span class="soft">{escape(component["version"])} · {escape(", ".join(component["hosts"]))} · {escape(counts)}</span></summary>'
            '<div class="wide"><table><thead><tr><th>status<th>id<th>host<th>check<th>observed<th>expected<th>took</tr></thead>'
            f"<tbody>{_rows(checks)}</tbody></table></div></details></section>"
        )
    return "".join(parts)


def _definitions(pairs: Iterable[tuple[str, Any]]) -> str:
    return "<dl>" + "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(str(value))}</dd>" for name, value in pairs if value not in (None, "", [], {})
    ) + "</dl>"


def render(record: Mapping[str, Any]) -> str:
    """The whole page. The record is data: nothing in it is taken for markup."""
    subject = record.get("subject") or {}
    verdict = record["verdict"]
    problems = "".join(
        f'<li><b>{escape(p["component"])}/{escape(p["host"])}</b> <code>{escape(p["id"])}</code> {escape(p["title"])}'
        f'{" (" + escape(p["subject"]) + ")" if p.get("subject") else ""}: {escape(p["why"])}'
        f'{", " + escape(str(p["reason"])) if p.get("reason") else ""}</li>'
        for p in record["problems"]
    )
    notices = "".join(f"<li>{escape(notice)}</li>" for notice in record["notices"])
    tiles = "".join(
        f'<div class="tile {status}"><b>{record["counts"][status]}</b>{status}</div>' for status in (PASS, FAIL, INCONCLUSIVE, SKIPPED)
    )
    full = record.get("last_full") or {}
    environment = _definitions([
        ("site", record.get("site")), ("environment", record.get("environment")), ("profile", record.get("profile")),
        ("run", record.get("run_id")), ("from", record.get("started_at")), ("to", record.get("ended_at")),
        ("last full verdict", f"{full['verdict']}, {full['age']} old ({full['run_id']})" if full else "never"),
        ("collection", subject.get("collection")), ("commit", subject.get("commit")),
        ("inventory sha256", subject.get("inventory_sha256")), ("ansible-core", subject.get("ansible")), ("python", subject.get("python")),
        ("operator", record.get("operator")), ("announced skips", ", ".join(record.get("expected_skips") or [])),
        ("raw evidence", f"{len(record.get('manifest') or [])} files; sha256sum -c SHA256SUMS in this folder checks them all"),
    ])
    title = f"{record.get('site', 'site')}: {verdict}"
    return (
        '<!doctype html><!-- SPDX-License-Identifier: Apache-2.0 --><html lang="en"><head><meta charset="utf-8">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        '<meta name="viewport" content="width=device-width,initial-scale=1"><meta name="color-scheme" content="light dark">'
        f"<title>{escape(title)}</title><style>{STYLE}{zones.STYLE}</style></head><body><main>"
        f'<h1>{escape(str(record.get("site", "")))} <span class="soft">verdict of {escape(str(record.get("ended_at", "")))}</span></h1>'
        f'<div class="card top {escape(verdict)}"><div><div class="big">{escape(verdict)}</div>'
        f'<div class="soft">{escape(str(record.get("profile", "")))} profile · {escape(str(record.get("environment", "")))}</div></div>'
        f'<div class="tiles">{tiles}</div></div>'
        + (f'<div class="card"><h2>What speaks against it</h2><ul>{problems}</ul></div>' if problems else "")
        + (f'<div class="card"><h2>Worth knowing</h2><ul>{notices}</ul></div>' if notices else "")
        + (zones.card(record["zones"]) if record.get("zones") else "") + charts(record) + proofs.render(record, badge) + _components(record)
        + f'<div class="card"><h2>Where and when</h2>{environment}</div></main></body></html>\n'
    )
