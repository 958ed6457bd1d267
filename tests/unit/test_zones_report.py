# SPDX-License-Identifier: Apache-2.0
"""The drawing, the evidence, and the table for other people's firewalls."""
from __future__ import annotations

import copy
import csv
import datetime
import io
import json
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml

from ansible_collections.hnai.platform.plugins.module_utils.zones import nft
from ansible_collections.hnai.platform.plugins.module_utils.zones.model import Site
from ansible_collections.hnai.platform.plugins.plugin_utils.report import archive, html, zones

FIXTURE = yaml.safe_load((Path(__file__).parent / "fixtures/site/site.yml").read_text(encoding="utf-8"))
TODAY = datetime.date(2030, 12, 10)
EVIL = 'x"><script>alert(1)</script> & \'|` =1+1 [a](javascript:1)'
EXTERNAL = {"plant": {"between": ["l2", "l3"], "enforced_by": "external", "owner": "plant network", "reason": "their firewall"}}


@pytest.fixture
def data() -> dict[str, Any]:
    return copy.deepcopy(FIXTURE)


def conduit(data: dict[str, Any], ident: str) -> dict[str, Any]:
    return next(item for item in data["conduits"] if item["id"] == ident)


def seen(data: dict[str, Any], today: datetime.date = TODAY, **proven: str) -> dict[str, Any]:
    site = Site.from_dict(data)
    assert not site.problems, site.problems
    found = {ident.replace("_", "-"): {"verdict": verdict, "at": "2030-12-01T10:00:00Z"} for ident, verdict in proven.items()}
    return zones.view(site, today, found)


def texts(drawing: str) -> list[str]:
    return list(ET.fromstring(drawing).itertext())


def test_the_drawing_shows_every_zone_host_and_conduit(data: dict[str, Any]) -> None:
    shown = texts(zones.svg(seen(data)))
    for word in (*data["zones"], *data["hosts"], *data["assets"], *(item["id"] for item in data["conduits"]), "tcp/4840", "tcp/9094", "level 3.5", "≤ 30 days"):
        assert word in shown, word


def test_lanes_stand_in_the_order_of_the_levels(data: dict[str, Any]) -> None:
    shown = texts(zones.svg(seen(data)))
    order = [shown.index(zone) for zone in ("l4", "l35", "security", "mgmt", "l3", "l2")]
    assert order == sorted(order)


def test_a_conduit_goes_from_its_initiators_lane_to_its_target(data: dict[str, Any]) -> None:
    root = ET.fromstring(zones.svg(seen(data)))
    name = "{http://www.w3.org/2000/svg}"
    ways = {}
    for group in root.iter(f"{name}g"):
        title = group.find(f"{name}title")
        if title is not None:
            dots = [float(one.get("cy", "0")) for one in group.iter(f"{name}circle")]
            ways[(title.text or "").partition(":")[0]] = dots
    # C-101 is opened in level 3, above level 2; C-103 the other way round; C-401 at the top.
    assert len(ways) == len(data["conduits"])
    assert ways["C-401"][0] < ways["C-201"][0] == ways["C-101"][0] < ways["C-103"][0]


def test_verdicts_colour_and_sign(data: dict[str, Any]) -> None:
    drawing = zones.svg(seen(data, C_101="pass", C_103="fail", C_201="inconclusive"))
    shown = texts(drawing)
    assert {"✓ C-101", "✗ C-103", "? C-201", "C-301"} <= set(shown)
    group = next(part for part in drawing.split("<g>") if "C-103:" in part)
    assert "var(--fail,#c6262e)" in group and "var(--pass" not in group
    assert "linkStyle" in zones.mermaid(seen(data)) and "stroke:#c6262e" in zones.mermaid(seen(data, C_103="fail"))
    assert "stroke:#c6262e" not in zones.mermaid(seen(data, C_103="pass"))


def test_the_same_model_gives_the_same_bytes(data: dict[str, Any]) -> None:
    shuffled = copy.deepcopy(data)
    shuffled["conduits"].reverse()
    shuffled["hosts"] = dict(reversed(shuffled["hosts"].items()))
    shuffled["groups"] = {name: list(reversed(members)) for name, members in reversed(shuffled["groups"].items())}
    first, second = (zones.files(Site.from_dict(one), TODAY, html.STYLE, "t") for one in (data, shuffled))
    assert first == second


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.attributes: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append(tag)
        self.attributes += [name for name, _value in attrs]


def test_what_people_write_is_never_markup(data: dict[str, Any]) -> None:
    conduit(data, "C-201").update(owner=EVIL, reason=EVIL)
    data["boundaries"] = {EVIL: {**EXTERNAL["plant"], "owner": EVIL}}
    data["groups"][EVIL] = ["edge1"]
    conduit(data, "C-101")["from"] = {"group": EVIL}
    written = zones.files(Site.from_dict(data), TODAY, html.STYLE, EVIL)
    for name in ("zones.html", "zones.svg"):
        tags = Tags()
        tags.feed(written[name])
        assert "script" not in tags.found and not [one for one in tags.attributes if one.startswith("on")]
        assert "&lt;script&gt;" in written[name]
    ET.fromstring(written["zones.svg"])
    for line in written["zones.mmd"].splitlines():
        assert "<" not in line.replace("-.->", "").replace("-->", "") and line.count('"') in (0, 2), line
    rows = list(csv.DictReader(io.StringIO(written["external.csv"])))
    assert rows and all(not value.startswith("=") for row in rows for value in row.values())
    assert all(len(re.findall(r"(?<!\\)\|", line)) == len(zones.TABLE) + 1 for line in written["external.md"].splitlines())
    assert not re.search(r"(?<!\\)\[", written["external.md"])
    assert "src=" not in written["zones.html"] and "href=" not in written["zones.html"] and "url(" not in written["zones.html"]


def test_evidence_names_who_why_until_when_and_the_verdict(data: dict[str, Any]) -> None:
    conduit(data, "C-201").update(expires="2030-12-12", owner="data platform", reason="samples")
    conduit(data, "C-301")["expires"] = "2030-12-09"
    entries = {one["id"]: one for one in zones.evidence(seen(data, C_201="pass"))}
    assert list(entries) == [item["id"] for item in data["conduits"]]
    got = {key: entries["C-201"][key] for key in ("from", "to", "owner", "reason", "state", "verdict", "at")}
    said = {"from": "shipper", "to": "kafka", "owner": "data platform", "reason": "samples"}
    assert got == {**said, "state": "week", "verdict": "pass", "at": "2030-12-01T10:00:00Z"}
    assert [entries[name]["state"] for name in ("C-301", "C-401")] == ["expired", "month"]
    assert (entries["C-401"]["verdict"], entries["C-401"]["at"]) == ("", "")
    assert entries["C-101"]["sr"] == ["SR 2.1", "SR 5.1", "SR 5.2"] and entries["C-001"]["sr"][0] == "SR 1.13"
    page = zones.evidence_html(seen(data, C_201="pass"))
    for word in ("data platform", "samples", "2030-12-12", "ends within a week", '<span class="badge pass">pass</span>', "2030-12-01", "SR 5.2", "never"):
        assert word in page, word


def test_break_glass_stands_above_everything(data: dict[str, Any]) -> None:
    data["break_glass"] = [{"id": "C-301", "owner": "shift lead", "reason": "nobody signs", "since": "2030-12-10", "hours": 8}]
    page = zones.card(seen(data))
    assert page.index("BREAK-GLASS") < page.index("Zones and conduits")
    assert "shift lead, nobody signs; until 2030-12-11T08:00Z" in page
    assert "GLASS" in texts(zones.svg(seen(data)))


def test_a_boundary_of_others_has_no_rules_of_ours_and_a_table_for_its_owner(data: dict[str, Any]) -> None:
    ours = nft.ruleset(Site.from_dict(data), "router")
    data["boundaries"] = EXTERNAL
    site = Site.from_dict(data)
    assert not site.problems
    router = nft.ruleset(site, "router")
    assert "C-101" in ours and "C-103" in ours
    assert "C-101" not in router and "C-103" not in router
    # Nothing else of the router changed, and the hosts of ours keep their own rules.
    assert [line for line in ours.splitlines() if "C-101" not in line and "C-103" not in line] == router.splitlines()
    assert "C-101" in nft.ruleset(site, "edge1")
    rows = zones.external(site)
    assert [(row["id"], row["direction"], row["from_addresses"], row["to_addresses"], row["proto"], row["port"]) for row in rows] == [
        ("C-101", "l3 → l2", "10.0.3.11", "10.0.2.11", "tcp", "4840"), ("C-101", "l3 → l2", "fd00:3::11", "fd00:2::11", "tcp", "4840"),
        ("C-103", "l2 → l3", "10.0.2.11", "10.0.3.11", "tcp", "8883"), ("C-103", "l2 → l3", "fd00:2::11", "fd00:3::11", "tcp", "8883"),
    ]
    assert [(row["answers"], row["limits"]) for row in rows[::2]] == [
        ("l2 → l3, established", "connections 2, new_per_minute 6"), ("l3 → l2, established", "connections 4, new_per_minute 12"),
    ]
    assert {row["owner"] for row in rows} == {"automation"} and {row["expires"] for row in rows} == {"2030-12-31"}
    for name in ("csv", "json", "md"):
        assert "C-101" in zones.files(site, TODAY, "", "t")[f"external.{name}"]
    assert [row["id"] for row in json.loads(zones.external_json(rows))] == [row["id"] for row in rows]
    assert "enforced by others" in texts(zones.svg(zones.view(site, TODAY)))


def test_a_boundary_that_observes_is_shown_wherever_people_look(data: dict[str, Any]) -> None:
    today = datetime.date(2030, 1, 1)
    quiet = zones.files(Site.from_dict(data), today, "", "t")
    assert "observed" not in quiet["zones.svg"] + quiet["zones.mmd"] + quiet["zones.html"]
    data["boundaries"] = {"plant": {"between": ["l2", "l3"], "enforced_by": "hnai", "firewall_mode": "observe"}}
    written = zones.files(Site.from_dict(data), today, "", "t")
    said = "observed, not enforced: plant (l2, l3)"
    assert said in texts(written["zones.svg"]) and "observed" in texts(written["zones.svg"])
    assert written["zones.html"].count("observed, not enforced: plant") == 2 + 2 and f"; {said}</p>" in written["zones.html"]
    assert re.search(r'  z\d -\.-\|"observed, not enforced: plant"\| z\d\n', written["zones.mmd"])
    proof = json.loads(written["evidence.json"])
    assert {one["id"]: one["observed"] for one in proof["conduits"] if one["observed"]} == {"C-101": ["plant"], "C-103": ["plant"]}
    assert [(one["id"], one["firewall_mode"]) for one in proof["boundaries"]] == [("plant", "observe")]


def test_a_second_address_stands_in_the_table_alone(data: dict[str, Any]) -> None:
    data["boundaries"] = EXTERNAL
    data["hosts"]["edge1"]["second_addresses"] = {"filter": {"v4": "10.0.3.99", "v6": "fd00:3::99"}}
    conduit(data, "C-101")["source_address"] = "filter"
    assert [row["from_addresses"] for row in zones.external(Site.from_dict(data)) if row["id"] == "C-101"] == ["10.0.3.99", "fd00:3::99"]


def test_verdicts_come_from_the_checks_of_conduits_the_worst_counts(tmp_path: Path) -> None:
    def check(ident: str, subject: str, status: str) -> dict[str, Any]:
        return {"id": ident, "subject": subject, "status": status}

    checked = [
        {"ended_at": "T1", "checks": [check("ZC1", "C-1", "pass"), check("ZC1", "C-2", "pass"), check("ZC1", "C-4", "skipped"), check("K1", "C-5", "fail")]},
        {"ended_at": "T2", "checks": [check("ZC3", "C-2", "fail"), check("ZC1", "C-3", "inconclusive"), check("ZC1", "C-1", "pass")]},
    ]
    found = zones.verdicts_of(checked)
    assert found == {"C-1": {"verdict": "pass", "at": "T1"}, "C-2": {"verdict": "fail", "at": "T2"}, "C-3": {"verdict": "inconclusive", "at": "T2"}}
    assert archive.proven(tmp_path, found) == found
    (tmp_path / archive.CONDUITS).write_text(json.dumps({"C-1": {"verdict": "fail", "at": "T0"}, "C-9": {"verdict": "pass", "at": "T0"}, "x": 5}))
    assert archive.proven(tmp_path, found) == {**found, "C-9": {"verdict": "pass", "at": "T0"}}
    (tmp_path / archive.CONDUITS).write_text("[1")
    assert archive.proven(tmp_path, {}) == {}


def test_many_conduits_make_even_panels(data: dict[str, Any]) -> None:
    for number in range(25):
        data["conduits"].append({**conduit(data, "C-201"), "id": f"D-{number:03}"})
    drawing = zones.svg(seen(data))
    assert len([text for text in texts(drawing) if text == "l35"]) == 3
    assert len([text for text in texts(drawing) if re.match(r"[CD]-\d+$", text)]) == len(data["conduits"])
