# SPDX-License-Identifier: Apache-2.0
"""The judgement of a whole site, and its views."""
from __future__ import annotations

import errno
import hashlib
import json
import re
import subprocess
import xml.etree.ElementTree as ET
from datetime import datetime, timezone
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.hnai.platform.plugins.plugin_utils import contracts
from ansible_collections.hnai.platform.plugins.plugin_utils.checks import Entry
from ansible_collections.hnai.platform.plugins.plugin_utils.report import archive, html, junit, metrics, record, table

REGISTER = {"K2": Entry("K2", "kafka", "warning", "the title of K2", "the meaning of K2", "the action of K2", "repeat K2")}
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


def test_a_tag_reaches_every_component_that_looks_at_it() -> None:
    root = contracts.COLLECTION_ROOT / "roles"
    asked = {path.parents[1].name for path in root.glob("*/tasks/verify.yml") if "'ot' in ansible_run_tags" in path.read_text(encoding="utf-8")}
    assert asked == record.SCOPES["ot"]


def test_what_a_host_carries_follows_from_its_groups_and_the_tags() -> None:
    contracts = {**CONTRACTS, "everywhere": {"health": {"module": "m"}, "placement": "all"}}
    assert record.checked(contracts, ["managed", "telegraf", "kafka", "probe"], set(contracts)) == ["everywhere", "host", "kafka", "telegraf"]
    assert record.checked(contracts, ["managed", "kafka"], {"kafka", "flink"}) == ["kafka"]


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


def test_the_other_components_of_a_host_that_was_not_reached_say_why() -> None:
    """Nobody asks them again, so nothing of them arrives."""
    variables = {"edge1": {"host_verdict": {"unreachable": True, "msg": "timed out"}}}
    (found,) = missing(variables, record.Expectation("telegraf", "hnai.platform.telegraf_health", ("edge1",)))
    assert found["checks"][0]["reason"] == "the host could not be reached: timed out"


def test_a_broken_module_is_named_with_the_reason() -> None:
    variables = {
        "kafka1": {"kafka_verdict": {"failed": True, "msg": "MODULE FAILURE"}, "kafka_broken": "Check: no json"},
        "kafka2": {"kafka_verdict": result("kafka", check())},
    }
    (found,) = missing(variables, KAFKA)
    assert (found["host"], found["checks"][0]["reason"]) == ("kafka1", "Check: no json")


def test_a_visit_brings_the_verdicts_of_a_host_and_why_others_are_missing() -> None:
    visit = {"verdicts": {"kafka_verdict": result("kafka", check(), raw={"k1.json": "{}"})}, "broken": {"telegraf_verdict__disk": "Disk: no such variable"}}
    variables = {"kafka1": {record.VISIT: visit}, "kafka2": {record.VISIT: {"verdicts": {}, "broken": {"kafka_verdict": "it was killed"}}}}
    arrived = record.collect(variables, CONTRACTS)
    assert [(one["host"], one["component"]) for one in arrived.verdicts] == [("kafka1", "kafka")]
    assert arrived.raw == {("kafka", "kafka1"): {"k1.json": "{}"}}
    assert arrived.reasons == {("telegraf", "kafka1"): "Disk: no such variable", ("kafka", "kafka2"): "it was killed"}
    (found,) = missing(variables, KAFKA)
    assert (found["host"], found["checks"][0]["reason"]) == ("kafka2", "it was killed")


def test_a_full_verdict_adds_to_what_a_visit_brought() -> None:
    variables = {"kafka1": {
        record.VISIT: {"verdicts": {"kafka_verdict": result("kafka", check())}, "broken": {}}, "kafka_verdict__canary": result("kafka", check("C1"))}}
    assert [one["checks"][0]["id"] for one in verdicts_of(variables)] == [check()["id"], "C1"]


@pytest.mark.parametrize(("visit", "reason"), [
    ({"unreachable": True, "msg": "timed  out"}, "the host could not be reached: timed out"),
    ({"failed": True, "msg": "it broke"}, "the check module gave no verdict: it broke"),
])
def test_a_visit_that_brought_nothing_says_why_for_every_component(visit: dict[str, Any], reason: str) -> None:
    found = missing({"kafka1": {record.VISIT: visit}, "kafka2": {record.VISIT: visit}}, KAFKA)
    assert [one["checks"][0]["reason"] for one in found] == [reason, reason]


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


def test_what_a_visit_brings_counts_even_in_the_same_millisecond() -> None:
    same = result("kafka", check())
    visit = {"verdicts": {"kafka_verdict": same, "kafka_verdict__more": dict(same)}, "broken": {}}
    assert len(verdicts_of({"kafka1": {"hnai_verdicts": visit}, "kafka2": {"hnai_verdicts": visit}})) == 4
    assert len(verdicts_of({"kafka1": {"kafka_verdict": same, "kafka_verdict__more": dict(same)}})) == 2


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
    seen = built(result("kafka", check("K2", explain="kafka-topics --describe", controls=["SR 7.1"], evidence={"statistics": {"text": "n 7 in 5 s"}})))
    told = "\n".join(table.explain(seen, "k2", REGISTER))
    assert "kafka-topics --describe" in told and "SR 7.1" in told and "kafka1" in told and "n 7 in 5 s" in told
    assert "means      the meaning of K2" in told and "repeat     repeat K2" in told
    # What only the record knows is told too, and what only the register knows needs no record.
    assert "title of K7" in "\n".join(table.explain(built(result("kafka", check("K7"))), "K7", REGISTER))
    assert "no record yet" in "\n".join(table.explain(None, "K2", REGISTER))


def test_explain_shows_the_host_that_fares_worst() -> None:
    verdicts = [{**result("kafka", check("K2", status, explain="describe", reason=status)), "host": host}
                for host, status in (("kafka1", "pass"), ("kafka2", "inconclusive"), ("kafka3", "fail"))]
    told = "\n".join(table.explain(built(*verdicts), "K2", REGISTER))
    assert "from       kafka3" in told and "fail, fail" in told and "kafka1" not in told


@pytest.mark.parametrize(("asked", "near"), [("K22", "K2"), ("k3", "K2"), ("V-fulll", "V-full")])
def test_an_unknown_id_is_refused_and_the_nearest_is_named(asked: str, near: str) -> None:
    with pytest.raises(KeyError, match=f"no check {asked}; the nearest: .*{near}"):
        table.explain(None, asked, {**REGISTER, "V-full": REGISTER["K2"]} if asked != "V-fulll" else {"V-full": REGISTER["K2"]})


def test_the_numbers_behind_a_statistic_stand_below_its_row() -> None:
    got = table.lines(built(result("canary", check("C1", evidence={"statistics": {"text": "P95 1 s; n 60 in 75 s; at most 2 s if independent"}}))), 120)
    assert "C1" in got[1][0] and "if independent" in got[2][0]


def test_problems_carry_what_the_register_says_and_strangers_are_noticed() -> None:
    verdicts = [{"component": "kafka", "host": "h", "checks": [check("K2", "fail"), check("K9", "fail")]}]
    judgement = record.judge(verdicts)
    record.describe(judgement, verdicts, REGISTER)
    assert {p["id"]: (p["severity"], p["action"]) for p in judgement.problems} == {"K2": ("warning", "the action of K2"), "K9": ("critical", "")}
    assert judgement.notices == ["K9 stands in no meta/checks.yml: nobody is told what it means"]


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


def test_an_audit_says_as_large_what_it_did_not_test() -> None:
    head = check("OA0", "fail", subject="plc1", observed="refuted", evidence={
        "ladder": {"E0 endpoints": "held", "E4 canary": "not tested"}, "scope": {"endpoint": "opc.tcp://plc1:4840/", "server_certificate_sha256": "ab" * 32},
        "coverage": {"nodes": {"Variable": 7, "Object": 5}, "declared_tags": 3, "missing_tags": ["x"], "complete": True},
        "excused": 2,
        "exceptions_expired": [{"check": "OA11", "owner": "j.doe", "expires": "2026-01-01"}], "not_tested": ["whether a <write> is denied"]})
    others = [check("OA8", "fail", subject="plc1", reason="Pump.Speed may be written"),
              check("OA8", "fail", subject="plc2", reason="not of this one"),
              check("OC14", subject="plc1", evidence={"age_s": 86400}), check("OC1", subject="plc1")]
    page = html.render(built(result("ot_collector", head, *others), result("kafka", check("K1", evidence={"not_tested": "x"}))))
    start = page.index("plc1: refuted")
    card = page[start:page.index("</ul></div>", page.index("Not tested", start))]
    for words in ("E0 endpoints", "held", "E4 canary", "opc.tcp://plc1:4840/", "abababababababab…", "nodes read</dt><dd>12",
                  "tags missing</dt><dd>1", "86400 s",
                  "OA8 title of OA8: Pump.Speed may be written", "2 findings are excused", "expired: OA11", "whether a &lt;write&gt; is denied"):
        assert words in card, words
    assert "not of this one" not in card and page.count("Not tested") == 1


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


def test_a_module_that_checked_nothing_gave_no_verdict() -> None:
    arrived = record.collect({"kafka1": {"kafka_verdict": {"component": "kafka", "status": "inconclusive", "checks": []}}}, CONTRACTS)
    assert not arrived.verdicts
    (one,) = record.missing_verdicts([record.Expectation("kafka", "kafka_health", ("kafka1",))], arrived)
    assert one["status"] == "inconclusive" and "made no check" in one["summary"]


#: What a module that is broken, or a host that is somebody else's, may put where a check or its evidence belongs.
HOSTILE = "<img src=x onerror=alert(1)>\"'>\udce9\x00"
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.sampled_from([HOSTILE, HOSTILE * 2000, "", 10**400, -1]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["name", "seconds", "nodes", "text", "p50", "bound", "check", HOSTILE]), inner),
    max_leaves=5,
)
PARTS = ("percentiles", "series", "hops", "ladder", "scope", "holds_for", "coverage", "not_tested", "excused", "exceptions_expired", "statistics", "age_s")
FIELDS = {**dict.fromkeys((*check(), "reason", "explain", "subject"), ANYTHING),
          "evidence": ANYTHING | st.dictionaries(st.sampled_from(PARTS), ANYTHING | st.lists(ANYTHING) | st.lists(st.lists(st.floats() | st.integers())))}
RESULTS = st.dictionaries(st.sampled_from(("component", "version", "module", "started_at", "ended_at", "raw")), ANYTHING)


@given(RESULTS, st.lists(ANYTHING | st.fixed_dictionaries({}, optional=FIELDS), min_size=1, max_size=3))
def test_what_no_module_should_say_is_inconclusive_and_ends_no_verdict(more: dict[str, Any], checks: list[Any]) -> None:
    arrived = record.collect({"kafka1": {"kafka_verdict": {**more, "checks": checks}}}, CONTRACTS)
    ours = built(*arrived.verdicts)
    record.describe(record.judge(arrived.verdicts), arrived.verdicts, REGISTER)
    statuses = [one["status"] for one in ours["verdicts"][0]["checks"]]
    known = [one.get("status") if isinstance(one, dict) else None for one in checks]
    assert statuses == [one if one in record.STATUSES else "inconclusive" for one in known]
    json.dumps(ours, allow_nan=False)
    parser = Page()
    parser.feed(html.render(ours))
    assert not {"img", "script"} & set(parser.tags)
    ET.fromstring(junit.render(ours))
    metrics.render(ours)
    assert all(len(text) <= 120 for text, _colour in table.lines(ours, 120))
    for ident in {one["id"] for one in ours["verdicts"][0]["checks"]}:
        table.explain(ours, ident, REGISTER)


@pytest.mark.parametrize("series", [[[]], [[1.0]], [7], 7, "no series", {"a": 1}, [[1.0, float("nan")], [2.0, None], [3.0, 4.0]]])
def test_what_is_no_series_is_not_drawn(series: Any) -> None:
    assert html.timeline(series, None, "s", "t") == ""


# -- on disk ----------------------------------------------------------------------------------------------
def test_write_is_whole_private_and_verifiable(tmp_path: Path) -> None:
    folder = tmp_path / "verdicts"
    one = built(result("kafka", check("K1")))
    path = archive.write(folder, one, {("kafka", "kafka1"): {"../../etc/passwd": "{}"}})
    assert {item.name for item in path.iterdir()} == {"record.json", "report.html", "junit.xml", "metrics.prom", "raw", "SHA256SUMS"}
    assert (folder / "latest").resolve() == path.resolve()
    done = subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    loaded = json.loads((path / "record.json").read_text())
    entry, whole = loaded["manifest"]
    assert whole["path"] == "raw/kafka1/kafka/kafka_health.json"
    assert loaded["verdicts"][0]["raw"] == [whole, entry]
    assert entry["sha256"] == hashlib.sha256(b"{}").hexdigest()
    assert (path / entry["path"]).read_text() == "{}"
    assert (path / entry["path"]).resolve().is_relative_to(path.resolve())
    assert all(item.stat().st_mode & 0o077 == 0 for item in path.rglob("*"))
    assert loaded["verdict"] == "pass"


WHOLE = {"covers": {"whole_site": True}}


def test_a_name_that_is_no_unicode_ends_no_verdict(tmp_path: Path) -> None:
    odd = b"caf\xe9.pem".decode("utf-8", "surrogateescape")
    one = built(result("host", check("HO1", "fail", reason=odd, subject=odd, evidence={odd: odd})))
    run = archive.write(tmp_path, one, {("host", "kafka1"): {"names.txt": odd}})
    assert json.loads((run / "record.json").read_text(encoding="utf-8"))["problems"][0]["reason"] == odd
    assert "caf\\udce9.pem" in (run / "report.html").read_text(encoding="utf-8")
    assert 'subject="caf?.pem"' in (run / "metrics.prom").read_text(encoding="utf-8")
    ET.fromstring((run / "junit.xml").read_bytes())


def test_a_full_disk_leaves_no_half_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_given: Any) -> bytes:
        raise OSError(errno.ENOSPC, "No space left on device", "x")

    monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(OSError, match="No space"):
        archive.write(tmp_path, built(result("kafka", check("K1"))), {})
    assert list(tmp_path.iterdir()) == []


def test_a_record_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    run = archive.write(tmp_path, built(result("kafka", check("K1"))), {})
    for text in ('{"run_id": ', "[]"):
        (run / "record.json").write_text(text, encoding="utf-8")
        with pytest.raises(ValueError, match=rf"{re.escape(str(run))}/record.json: is no record.*; remove its folder"):
            archive.latest(tmp_path)


def test_every_verdict_has_raw_evidence_with_its_sum(tmp_path: Path) -> None:
    """Two modules of one component, one module twice, and a host that gave nothing: each names a file of its own."""
    many = [
        {**result("canary", check("C1")), "host": "a"}, {**result("canary", check("C2")), "host": "a"},
        *record.missing_verdicts([record.Expectation("kafka", "hnai.platform.kafka_health", ("k1",))], record.Arrived()),
    ]
    path = archive.write(tmp_path, built(*many), {})
    loaded = json.loads((path / "record.json").read_text())
    files = [entry["path"] for verdict in loaded["verdicts"] for entry in verdict["raw"]]
    assert len(files) == len(set(files)) == 3
    for verdict in loaded["verdicts"]:
        content = (path / verdict["raw"][0]["path"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == verdict["raw"][0]["sha256"]
        assert json.loads(content)["checks"] == verdict["checks"]


def test_latest_and_the_last_full_verdict(tmp_path: Path) -> None:
    assert archive.last_full(tmp_path, NOW) == {}
    with pytest.raises(FileNotFoundError, match="no verdict yet"):
        archive.latest(tmp_path)
    full = {"profile": "full", "ended_at": "2026-01-31T11:00:00.123Z"}
    archive.write(tmp_path, built(result("kafka", check("K1")), run_id="20260131T110000.000Z", **full), {})
    assert archive.last_full(tmp_path, NOW) == {}, "a full verdict of one host is none of the site"
    archive.write(tmp_path, built(result("kafka", check("K1")), run_id="20260131T110000.001Z", **full, **WHOLE), {})
    archive.write(tmp_path, built(result("kafka", check("K1")), **WHOLE), {})
    assert archive.latest(tmp_path)["profile"] == "quick"
    found = archive.last_full(tmp_path, NOW)
    assert (found["verdict"], found["age_s"], found["age"], found["run_id"]) == ("pass", 3600.0, "1 h", "20260131T110000.001Z")
    (tmp_path / "full.json").write_text("{")
    assert archive.last_full(tmp_path, NOW) == {}


def test_the_last_full_verdict_outlives_any_number_of_quick_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "KEEP", 2)
    archive.write(tmp_path, built(result("kafka", check("K1")), run_id="20260131T100000.000Z", profile="full", **WHOLE), {})
    for minute in range(4):
        archive.write(tmp_path, built(result("kafka", check("K1")), run_id=f"20260131T12{minute:02}00.000Z", **WHOLE), {})
    names = [path.parent.name for path in archive.records(tmp_path)]
    assert names == ["20260131T100000.000Z", "20260131T120200.000Z", "20260131T120300.000Z"]
    archive.write(tmp_path, built(result("kafka", check("K1")), run_id="20260131T130000.000Z", profile="full", **WHOLE), {})
    archive.write(tmp_path, built(result("kafka", check("K1")), run_id="20260131T130100.000Z", **WHOLE), {})
    assert "20260131T100000.000Z" not in [path.parent.name for path in archive.records(tmp_path)], "it is the last one no more"


def test_metrics_of_a_part_do_not_hide_the_site(tmp_path: Path) -> None:
    archive.write(tmp_path, built(result("kafka", check("K1"), check("K2", "fail")), **WHOLE), {})
    whole = (tmp_path / "hnai.prom").read_bytes()
    part = archive.write(tmp_path, built(result("kafka", check("K1")), run_id="20260131T130000.000Z"), {})
    assert (tmp_path / "hnai.prom").read_bytes() == whole
    assert (part / "metrics.prom").read_bytes() != whole


def test_what_only_a_full_verdict_asks_holds_until_the_next_one(tmp_path: Path) -> None:
    """Lost records, an open door: five minutes later a quick verdict would have cleared the alert."""
    probe = {**result("kafka", check("K1", "fail", subject="deny")), "module": "probe"}
    full = built(result("kafka", check("K1", "fail"), check("C1", "fail", subject="lost")), probe, result("gone", check("G1", "fail")),
                 run_id="20260131T110000.000Z", profile="full", **WHOLE)
    archive.write(tmp_path, full, {})

    def problems() -> dict[str, float]:
        got = samples((tmp_path / "hnai.prom").read_bytes())
        found = {series.split('id="')[1][:2] + series.split('subject="')[1][:4]: value for series, value in got.items() if "check_problem" in series}
        return {name.strip('"}'): value for name, value in found.items()}

    assert problems() == {"K1": 1.0, "K1deny": 1.0, "C1lost": 1.0, "G1": 1.0}
    quick = archive.write(tmp_path, built(result("kafka", check("K1")), run_id="20260131T120000.000Z", **WHOLE), {})
    assert problems() == {"K1": 0.0, "K1deny": 1.0, "C1lost": 1.0}, "what is on no host any more is over"
    assert b"C1" not in (quick / "metrics.prom").read_bytes(), "the run itself says what it found"
    again = built(result("kafka", check("K1"), check("C1", subject="lost")), run_id="20260131T130000.000Z", profile="full", **WHOLE)
    archive.write(tmp_path, again, {})
    archive.write(tmp_path, built(result("kafka", check("K1")), run_id="20260131T140000.000Z", **WHOLE), {})
    assert problems() == {"K1": 0.0, "C1lost": 0.0}
    (tmp_path / "20260131T130000.000Z/record.json").write_text("{")
    archive.write(tmp_path, built(result("kafka", check("K1")), run_id="20260131T150000.000Z", **WHOLE), {})
    assert problems() == {"K1": 0.0}


# -- metrics ----------------------------------------------------------------------------------------------
SAMPLE = re.compile(r'([a-zA-Z_:][a-zA-Z0-9_:]*)\{((?:[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\["\\n])*",?)*)\} (\S+)')


def samples(text: bytes) -> dict[str, float]:
    """Series and values of the exposition format; raises on a line that is none, and on a series that comes twice."""
    found: dict[str, float] = {}
    typed: set[str] = set()
    for line in text.decode().removesuffix("\n").split("\n"):
        if line.startswith("# TYPE "):
            typed.add(line.split()[2])
            continue
        if line.startswith("# HELP "):
            continue
        match = SAMPLE.fullmatch(line)
        assert match, line
        series = f"{match[1]}{{{match[2]}}}"
        assert series not in found, series
        assert match[1] in typed
        found[series] = float(match[3])
    return found


def test_metrics_say_what_the_record_says() -> None:
    one = built(
        result("kafka", check("K1", observed=3), check("K2", "fail", observed=True, subject="l3"), check("K3", "skipped"),
               check("K4", "inconclusive", observed="x")),
        skips=("K3",), last_full={"ended_at": "2026-01-31T10:00:00.000Z"}, **WHOLE,
    )
    got = samples(metrics.render(one))

    def value(name: str, ident: str, subject: str = "", more: str = "") -> float:
        return got[f'{name}{{site="lab",host="kafka1",component="kafka",id="{ident}",subject="{subject}"{more}}}']

    assert [value("hnai_check_state", i, s) for i, s in (("K1", ""), ("K2", "l3"), ("K3", ""), ("K4", ""))] == [0, 3, 1, 2]
    assert [value("hnai_check_problem", i, s) for i, s in (("K1", ""), ("K2", "l3"), ("K3", ""), ("K4", ""))] == [0, 1, 0, 1]
    assert value("hnai_check_observed", "K1", more=',unit="partitions"') == 3 and value("hnai_check_observed", "K2", "l3", ',unit="partitions"') == 1
    assert value("hnai_check_duration_seconds", "K1") == pytest.approx(0.012)
    assert got['hnai_verdict_state{site="lab",profile="quick"}'] == 3
    assert got['hnai_verdict_whole_site{site="lab"}'] == 1
    assert got['hnai_full_verdict_timestamp_seconds{site="lab"}'] == datetime(2026, 1, 31, 10, tzinfo=timezone.utc).timestamp()


@given(st.text(), st.floats() | st.integers() | st.text() | st.none())
def test_metrics_survive_any_text(text: str, observed: Any) -> None:
    twice = [check("K1", "fail", observed=observed, unit=text, subject=text), check("K1", observed=observed, unit=text, subject=text)]
    got = samples(metrics.render(built(result("kafka", *twice), site=text)))
    assert [value for series, value in got.items() if series.startswith("hnai_check_state")] == [3.0], "the worst of two"


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
