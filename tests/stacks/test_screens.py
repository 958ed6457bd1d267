# SPDX-License-Identifier: Apache-2.0
"""The report as a browser shows it: at 1280 and 390 pixels, kept beside the scenario's result. Nothing is wider than the page, nothing is loaded."""
from __future__ import annotations

import datetime
import os
import re
import shutil
import struct
import subprocess
from pathlib import Path
from typing import Any

import kit
import model_fuzz
import pytest

from ansible_collections.hnai.platform.plugins.module_utils.zones.model import Site
from ansible_collections.hnai.platform.plugins.plugin_utils.report import archive, html, record, zones

pytestmark = pytest.mark.scenario("report-screens")
TODAY = datetime.date(2026, 6, 1)
NOW = datetime.datetime(2026, 6, 1, 12, tzinfo=datetime.timezone.utc)
WIDTHS = {"desktop": 1280, "phone": 390}
PROBE = """<script>addEventListener("load", () => { const wide = [...document.querySelectorAll("main *")].filter(one =>
 !one.closest(".draw, .wide") && one.getBoundingClientRect().right > innerWidth + 1).map(one => one.tagName + "." + one.className);
 document.title = "probe " + innerWidth + " " + document.documentElement.scrollWidth + " " + wide.slice(0, 5).join(",") + " end"; });</script>"""


def report() -> str:
    """A report of the lab's model with every kind of state in it."""
    data = model_fuzz.lab()
    data["conduits"][3]["expires"], data["conduits"][7]["expires"] = "2026-06-05", "2026-05-05"
    glass = {"id": data["conduits"][7]["id"], "owner": "shift lead", "reason": "its owner cannot be reached", "since": "2026-06-01", "hours": 8}
    data["break_glass"] = [glass]
    site = Site.from_dict(data)
    assert not site.problems
    at = "2026-05-30T10:00:00.000Z"
    states = ["pass", "pass", "fail", "inconclusive", "pass", ""]
    proven = {one.id: {"verdict": states[index % 6], "at": at} for index, one in enumerate(site.conduits) if states[index % 6]}
    series = [[float(second), 2 + (second * 7 % 13) / 10] for second in range(120)]
    evidence = {"percentiles": {"p50": 2.1, "p95": 3.2, "max": 4.4, "bound": 10}, "series": series}
    checks: list[dict[str, Any]] = [
        {"id": "CN2", "title": "freshness of the canary", "status": "pass", "observed": 3.2, "expected": "<= 10", "unit": "s", "evidence": evidence,
         "duration_ms": 40.0, "controls": ["SR 7.1"], "hint": "", "explain": "ask the store"},
        {"id": "ZC1", "title": "the conduit carries", "status": "fail", "observed": "silent", "expected": "every pair answers, in both families", "unit": "",
         "evidence": {"pairs": ["edge1 → kafka2 tcp/9094 " + "x" * 200]}, "duration_ms": 900.0, "controls": ["SR 5.2"], "subject": "C-202",
         "hint": "site.yml --tags zones", "explain": "ansible-playbook hnai.platform.verify --tags zones"},
    ]
    verdict = {"component": "canary", "version": "1.0", "module": "hnai.platform.tsdb_canary", "host": "stream1", "status": "fail", "summary": "",
               "started_at": at, "ended_at": at, "checks": checks}
    built = record.build(
        [verdict], record.judge([verdict]), run_id=archive.run_id(NOW), site="lab", environment="lab", profile="full", started_at=at, ended_at=at,
        subject={"collection": "hnai.platform"}, last_full={}, zones=zones.view(site, TODAY, proven),
    )
    return html.render(built)


def browser(page: Path, width: int, *more: str) -> subprocess.CompletedProcess[str]:
    name = next(found for one in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(one)))
    # A window of Chromium is never narrower than 500 pixels: a phone is a frame of its width.
    argv = [name, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--window-size={max(width, 500)},6000", "--virtual-time-budget=4000",
            "--user-data-dir=" + str(page.parent / "profile"), *more, page.as_uri()]
    return subprocess.run(argv, capture_output=True, text=True, timeout=240, check=True)


def size(path: Path) -> tuple[int, int]:
    """Width and height of a PNG."""
    return struct.unpack(">II", path.read_bytes()[16:24])


@pytest.mark.parametrize("name", WIDTHS)
def test_the_report_at_this_width(name: str, tmp_path: Path) -> None:
    assert kit.ROOT == model_fuzz.ROOT
    width, text = WIDTHS[name], report()
    kept = Path(os.environ.get("HNAI_STATE_DIR") or Path.home() / ".local/state/hnai/lab") / "scenarios" / "report-screens"
    kept.mkdir(parents=True, exist_ok=True, mode=0o700)
    inner, page = tmp_path / "report.html", tmp_path / "frame.html"
    inner.write_text(text, encoding="utf-8")
    page.write_text(f'<body style="margin:0"><iframe src="report.html" style="border:0;width:{width}px;height:6000px"></iframe>', encoding="utf-8")
    shot = kept / f"{name}.png"
    shot.unlink(missing_ok=True)
    browser(page, width, f"--screenshot={shot}")
    print(f"screenshot: {shot}")
    assert size(shot) == (max(width, 500), 6000) and shot.stat().st_size > 40_000
    # The same page with a script that measures it: nothing but the drawing and the tables, which scroll by themselves, is wider than the page.
    open_policy = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", text)
    inner.write_text(open_policy.replace("</head>", PROBE + "</head>"), encoding="utf-8")
    frame = f'<body style="margin:0"><iframe src="report.html" style="border:0;width:{width}px;height:900px"></iframe>'
    tell = '<script>addEventListener("load", () => setTimeout(() => document.title = frames[0].document.title, 500));</script>'
    page.write_text(frame + tell, encoding="utf-8")
    told = browser(page, width, "--allow-file-access-from-files", "--dump-dom").stdout
    # A title's spaces are told as one.
    match = re.search(r"probe (\d+) (\d+)(.*?) end", told)
    assert match is not None, told[-2000:]
    assert (int(match[1]), int(match[2]), match[3].strip()) == (width, width, ""), match[0]
