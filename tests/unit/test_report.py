# SPDX-License-Identifier: Apache-2.0
"""The judgement of a whole site, and its views."""
from __future__ import annotations

import hashlib
import json
import subprocess
import xml.etree.ElementTree as ET
from datetime import datetime, timezone
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.hnai.platform.plugins.plugin_utils.report import archive, html, junit, record, table

CONTRACTS: dict[str, dict[str, Any]] = {
    "kafka": {"health": {"module": "hnai.platform.kafka_health"}},
    "telegraf": {"health": {"module": "hnai.platform.telegraf_health"}},
    "host": {"health": {"module": "hnai.platform.host_health"}, "placement": "managed"},
    "flink": {"health": {"module": "hnai.platform.flink_health", "run": "once"}},
    "probe": {"health": "none"},
}
GROUPS = {
    "kafka": ["kafka1", "kafka2"], "telegraf": ["edge1"], "flink": ["stream1", "stream2"], "probe": ["edge1"],
    "managed": ["kafka1", "kafka2", "edge1", "stream1", "stream2"],
}
NOW = datetime(2026, 1, 31, 12, 0, 0, 123000, tzinfo=timezone.utc)


def check(id: str = "K1", status: str = "pass", **more: Any) -> dict[str, Any]:
    return {
        "id": id, "title": f"title of {id}", "status": status, "observed": 0, "expected": 0, "unit": "partitions",
        "evidence": {}, "duration_ms": 12.0, "controls": [], "hint": "a hint", **more,
    }


def result(component: str = "kafka", *checks: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "component": component, "version": "1.0", "module": f"hnai.platform.{component}_health", "status": "pass", "summary": "",
        "started_at": "2026-01-31T12:00:00.000Z", "ended_at": "2026-01-31T12:00:01.000Z", "checks": list(checks), "raw": {}, **more,
    }


def verdicts_of(variables: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    return record.collect(variables, CONTRACTS).verdicts


def built(*verdicts: dict[str, Any], skips: tuple[str, ...] = (), allow: tuple[str, ...] = (), **facts: Any) -> dict[str, Any]:
    verdicts = tuple({"host": "kafka1", **verdict} for verdict in verdicts)
    given = {
        "run_id": archive.run_id(NOW), "site": "lab", "environment": "lab", "profile": "quick", "started_at": "2026-01-31T12:00:00.000Z",
        "ended_at": "2026-01-31T12:00:01.000Z", "subject": {"collection": "hnai.platform 0.1.0"}, "last_full": {},
        "expected_skips": list(skips), **facts,
    }
    return record.build(verdicts, record.judge(verdicts, skips, allow), **given)


# -- what must arrive -------------------------------------------------------------------------------------
def test_every_host_of_every_placed_component_is_expected() -> None:
    expected = record.expectations(CONTRACTS, GROUPS, GROUPS["managed"], set(CONTRACTS))
    assert [(item.component, item.hosts, item.once) for item in expected] == [
        ("flink", ("stream1", "stream2"), True),
        ("host", ("kafka1", "kafka2", "edge1", "stream1", "stream2"), False),
        ("kafka", ("kafka1", "kafka2"), False),
        ("telegraf", ("edge1",), False),
    ]


def test_a_limit_and_tags_narrow_what_is_expected() -> None:
    chosen = record.selected(CONTRACTS, ["kafka"], [])
    expected = record.expectations(CONTRACTS, GROUPS, ["kafka2", "edge1"], chosen)
    assert [(item.component, item.hosts) for item in expected] == [("kafka", ("kafka2",))]


@pytest.mark.parametrize(("run", "skip", "names"), [
    (["all"], [], set(CONTRACTS)),
    (["verify"], [], set(CONTRACTS)),
    (["verify", "kafka"], [], set(CONTRACTS)),
    (["kafka", "install"], [], {"kafka"}),
    (["all"], ["kafka"], set(CONTRACTS) - {"kafka"}),
])
def test_selected(run: list[str], skip: list[str], names: set[str]) -> None:
    assert record.selected(CONTRACTS, run, skip) == names


def missing(variables: dict[str, dict[str, Any]], *items: record.Expectation) -> list[dict[str, Any]]:
    return record.missing_verdicts(items, record.collect(variables, [*CONTRACTS, "canary"]))


KAFKA = record.Expectation("kafka", "hnai.platform.kafka_health", ("kafka1", "kafka2"))


def test_a_host_that_says_nothing_is_named() -> None:
    found = missing({"kafka1": {"kafka_verdict": result("kafka", check())}, "kafka2": {}}, KAFKA)
    assert [(one["component"], one["host"], one["checks"][0]["status"]) for one in found] == [("kafka", "kafka2", "inconclusive")]
    assert "kafka2" in found[0]["checks"][0]["title"]
    judgement = record.judge(found)
    assert judgement.failed
    assert "kafka/kafka2" in judgement.summary()


def test_an_unreachable_host_is_named_with_the_reason() -> None:
    variables = {
        "kafka1": {"kafka_verdict": result("kafka", check())},
        "kafka2": {"kafka_verdict": {"unreachable": True, "msg": "timed out", "changed": False}},
    }
    (found,) = missing(variables, KAFKA)
    assert found["checks"][0]["reason"] == "the host could not be reached: timed out"


def test_a_broken_module_is_named_with_the_reason() -> None:
    variables = {
        "kafka1": {"kafka_verdict": {"failed": True, "msg": "MODULE FAILURE"}, "hnai_broken_kafka": "Check: no json"},
        "kafka2": {"kafka_verdict": result("kafka", check())},
    }
    (found,) = missing(variables, KAFKA)
    assert (found["host"], found["checks"][0]["reason"]) == ("kafka1", "Check: no json")


def test_a_skipped_task_is_no_verdict() -> None:
    assert len(missing({"kafka1": {"kafka_verdict": {"skipped": True}}, "kafka2": {}}, KAFKA)) == 2


def test_once_is_satisfied_by_one_host_and_missed_once() -> None:
    item = record.Expectation("flink", "m", ("stream1", "stream2"), once=True)
    assert not missing({"stream2": {"flink_verdict": result("flink", check("F1"))}}, item)
    assert len(missing({}, item)) == 1


def test_every_variable_that_the_tasks_register_is_expected() -> None:
    tasks = [
        {"name": "a", "x": {}, "register": "canary_verdict"},
        {"name": "b", "block": [{"x": {}, "register": "canary_verdict__age"}, {"x": {}, "register": "__other"}]},
    ]
    names = record.registered(tasks, "canary")
    assert names == ("canary_verdict", "canary_verdict__age")
    contracts = {"canary": {"health": {"module": "hnai.platform.tsdb_canary"}}}
    (item,) = record.expectations(contracts, {"canary": ["stream1"]}, ["stream1"], {"canary"}, {"canary": names})
    first = {"canary_verdict": result("canary", check("C1"))}
    (found,) = missing({"stream1": first}, item)
    assert "canary_verdict__age on stream1" in found["checks"][0]["title"]
    assert not missing({"stream1": {**first, "canary_verdict__age": {"skipped": True}}}, item)
    assert not missing({"stream1": {**first, "canary_verdict__age": result("canary", check("C2"))}}, item)
    assert len(missing({"stream1": {name: {"skipped": True} for name in names}}, item)) == 1


# -- collecting -------------------------------------------------------------------------------------------
def test_a_run_once_result_counts_once() -> None:
    same = result("flink", check("F1"))
    assert len(verdicts_of({"stream1": {"flink_verdict": same}, "stream2": {"flink_verdict": dict(same)}})) == 1


def test_two_hosts_that_find_the_same_at_different_times_count_twice() -> None:
    first, second = result("kafka", check()), result("kafka", check(), started_at="2026-01-31T12:00:00.001Z")
    assert len(verdicts_of({"kafka1": {"kafka_verdict": first}, "kafka2": {"kafka_verdict": second}})) == 2


def test_results_of_a_loop_and_several_names_are_collected() -> None:
    looped = {"results": [result("telegraf", check("T1", subject="a")), result("telegraf", check("T1", subject="b"))]}
    variables = {"edge1": {"telegraf_verdict": looped, "telegraf_verdict__disk": result("telegraf", check("T9"))}}
    assert [one["checks"][0]["id"] for one in verdicts_of(variables)] == ["T1", "T1", "T9"]


def test_raw_evidence_is_kept_by_component_and_host() -> None:
    arrived = record.collect({"kafka1": {"kafka_verdict": result("kafka", check(), raw={"k1.json": "{}"})}}, CONTRACTS)
    assert arrived.raw == {("kafka", "kafka1"): {"k1.json": "{}"}}


# -- judging ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("status", "skips", "allow", "verdict"), [
    ("pass", (), (), "pass"),
    ("fail", (), ("K2",), "fail"),
    ("inconclusive", (), (), "inconclusive"),
    ("inconclusive", (), ("K2",), "pass"),
    ("skipped", (), (), "fail"),
    ("skipped", ("K2",), (), "pass"),
    ("nonsense", (), (), "inconclusive"),
])
def test_judge(status: str, skips: tuple[str, ...], allow: tuple[str, ...], verdict: str) -> None:
    verdicts = [{"component": "kafka", "host": "kafka1", "checks": [check("K1"), check("K2", status)]}]
    judgement = record.judge(verdicts, skips, allow)
    assert judgement.verdict == verdict
    assert judgement.failed is (verdict != "pass")
    assert [problem["id"] for problem in judgement.problems] == ([] if verdict == "pass" else ["K2"])


def test_nothing_checked_is_no_pass() -> None:
    assert record.judge([]).verdict == "inconclusive"


def test_an_announced_skip_that_did_not_happen_is_a_notice() -> None:
    verdicts = [{"component": "kafka", "host": "kafka1", "checks": [check("K1"), check("K9")]}]
    assert "K9" in record.judge(verdicts, ["K9"]).notices[0]
    assert not record.judge(verdicts, ["K8"]).notices, "a check that was not made is another profile's"
    assert not record.judge(verdicts, ["K9"], complete=False).notices
    assert not record.judge(verdicts, ["K9"]).failed


def test_fails_come_before_the_inconclusive() -> None:
    verdicts = [{"component": "kafka", "host": "kafka1", "checks": [check("K1", "inconclusive"), check("K2", "fail")]}]
    assert [problem["id"] for problem in record.judge(verdicts).problems] == ["K2", "K1"]


# -- views ------------------------------------------------------------------------------------------------
def test_what_is_the_same_on_many_hosts_is_one_row() -> None:
    verdicts = [{"component": "kafka", "host": host, "checks": [check("K1", observed=seen)]} for host, seen in (("kafka1", 1), ("kafka2", 1), ("kafka3", 2))]
    (row,) = table.rows({"verdicts": verdicts})
    assert (row["host"], row["observed"]) == ("kafka1..3", "1 partitions | 2 partitions")


@pytest.mark.parametrize(("hosts", "text"), [
    (["kafka2", "kafka1", "kafka3"], "kafka1..3"), (["kafka1", "kafka3"], "kafka1,kafka3"), (["edge1"], "edge1"), (["router", "edge1"], "edge1,router"),
])
def test_host_names(hosts: list[str], text: str) -> None:
    assert table.host_names(hosts) == text


def test_the_worst_rows_come_first_with_their_reason() -> None:
    got = table.lines(built(result("kafka", check("K1"), check("K2", "fail", reason="broker 2 is gone"))), 120)
    assert got[1][0].startswith("kafka") and "K2" in got[1][0] and got[1][1] == "red"
    assert "broker 2 is gone" in got[2][0]
    assert "K1" in got[3][0]


@given(st.text(max_size=200), st.text(max_size=300), st.integers(100, 200))
def test_no_line_of_the_table_is_too_long(title: str, reason: str, width: int) -> None:
    record_ = built(result("kafka", check("K1", "fail", title=title or "x", reason=reason, observed=title, expected=reason)))
    assert all(len(text) <= width and "\n" not in text for text, _colour in table.lines(record_, width))


def test_explain_tells_how_to_repeat() -> None:
    told = "\n".join(table.explain(built(result("kafka", check("K2", explain="kafka-topics --describe", controls=["SR 7.1"]))), "k2"))
    assert "kafka-topics --describe" in told and "SR 7.1" in told and "kafka1" in told
    with pytest.raises(KeyError, match="K2"):
        table.explain(built(result("kafka", check("K2"))), "nope")


def test_junit_counts_every_status() -> None:
    checks = [check("K1"), check("K2", "fail"), check("K3", "inconclusive"), check("K4", "skipped"), check("K5", "skipped")]
    root = ET.fromstring(junit.render(built(result("kafka", *checks), skips=("K4",))))
    (suite,) = root.findall("testsuite")
    assert {key: suite.get(key) for key in ("tests", "failures", "errors", "skipped")} == {
        "tests": "5", "failures": "2", "errors": "1", "skipped": "1",
    }
    assert suite.find("testcase").get("classname") == "kafka.kafka1"


@given(st.text())
def test_junit_survives_any_text(text: str) -> None:
    ET.fromstring(junit.render(built(result("kafka", check("K1", "fail", title=text, reason=text, hint=text)))))


class Page(HTMLParser):
    """Tags, attributes that load something, and balance."""

    VOID = ("meta", "br", "th")

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loads: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [f"{tag} {name}={value}" for name, value in attrs if name in ("src", "href", "data", "action", "srcset")]
        if tag not in self.VOID and tag not in ("rect", "line", "path", "text"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in self.open:
            assert self.open.pop() == tag


EVIDENCE = {
    "percentiles": {"p50": 1.0, "p95": 2.5, "max": 3.0, "bound": 10.0},
    "series": [[1000.0 + i, 1.0 + i % 3] for i in range(100)],
    "hops": [{"name": "collector", "seconds": 0.5}, {"name": "store", "seconds": 2.0}],
}


def test_the_page_is_whole_loads_nothing_and_draws() -> None:
    page = html.render(built(result("canary", check("C1", unit="s", evidence=EVIDENCE), check("C2", "fail"))))
    parser = Page()
    parser.feed(page)
    assert not parser.open
    assert not parser.loads
    assert parser.tags.count("svg") == 3
    assert "url(" not in page and "@import" not in page and "<script" not in page
    assert 'class="big">fail<' in page
    assert "prefers-color-scheme:dark" in page


def test_a_hole_in_the_series_is_left_open() -> None:
    points = [[float(i), 1.0] for i in range(20)] + [[float(i), 1.0] for i in range(60, 80)]
    assert html.timeline(points, None, "s", "t").count("M") == 2


@given(st.text(), st.recursive(st.none() | st.booleans() | st.floats() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x), max_leaves=6))
def test_nothing_in_a_record_becomes_markup(text: str, value: Any) -> None:
    hostile = "<img src=x onerror=alert(1)>" + text
    page = html.render(built(result("kafka", check(
        "K1", "fail", title=hostile, reason=hostile, hint=hostile, observed=value, explain=hostile, evidence={hostile: hostile},
    )), site=hostile))
    parser = Page()
    parser.feed(page)
    assert "img" not in parser.tags


# -- on disk ----------------------------------------------------------------------------------------------
def test_write_is_whole_private_and_verifiable(tmp_path: Path) -> None:
    folder = tmp_path / "verdicts"
    one = built(result("kafka", check("K1")))
    path = archive.write(folder, one, {("kafka", "kafka1"): {"../../etc/passwd": "{}"}})
    assert {item.name for item in path.iterdir()} == {"record.json", "report.html", "junit.xml", "raw", "SHA256SUMS"}
    assert (folder / "latest").resolve() == path.resolve()
    done = subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    loaded = json.loads((path / "record.json").read_text())
    (entry,) = loaded["manifest"]
    assert entry["sha256"] == hashlib.sha256(b"{}").hexdigest()
    assert (path / entry["path"]).read_text() == "{}"
    assert (path / entry["path"]).resolve().is_relative_to(path.resolve())
    assert all(item.stat().st_mode & 0o077 == 0 for item in path.rglob("*"))
    assert loaded["verdict"] == "pass"


def test_latest_and_the_last_full_verdict(tmp_path: Path) -> None:
    assert archive.last_full(tmp_path, NOW) == {}
    with pytest.raises(FileNotFoundError, match="no verdict yet"):
        archive.latest(tmp_path)
    archive.write(tmp_path, built(result("kafka", check("K1")), run_id="20260131T110000.000Z", profile="full", ended_at="2026-01-31T11:00:00.123Z"), {})
    archive.write(tmp_path, built(result("kafka", check("K1"))), {})
    assert archive.latest(tmp_path)["profile"] == "quick"
    full = archive.last_full(tmp_path, NOW)
    assert (full["verdict"], full["age_s"], full["age"]) == ("pass", 3600.0, "1 h")


def test_a_run_that_was_killed_while_writing_leaves_no_record(tmp_path: Path) -> None:
    work = tmp_path / ".new-20260131T120000.123Z"
    work.mkdir()
    (work / "record.json").write_text("{")
    assert archive.records(tmp_path) == []
    archive.write(tmp_path, built(result("kafka", check("K1"))), {})
    assert len(archive.records(tmp_path)) == 1
    assert not work.exists()


def test_old_runs_are_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "KEEP", 2)
    for minute in range(4):
        archive.write(tmp_path, built(result("kafka", check("K1")), run_id=f"20260131T12{minute:02}00.000Z"), {})
    assert [path.parent.name for path in archive.records(tmp_path)] == ["20260131T120200.000Z", "20260131T120300.000Z"]
