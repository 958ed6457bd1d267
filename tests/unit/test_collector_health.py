# SPDX-License-Identifier: Apache-2.0
"""Verdicts over the collector's status file."""
from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from ansible_collections.hnai.platform.plugins.module_utils.opcua import collector
from ansible_collections.hnai.platform.plugins.module_utils.verdict import Report

S = collector.TICKS_PER_S
NOW = 17_956_000_000 * S
SOURCE = {
    "source": "plc1", "protocol": "opcua", "tags": 206, "state": "connected", "detail": "", "since": NOW - 900 * S, "last_heard": NOW - S,
    "attempts": 1, "connects": 1, "losses": 0, "clock_offset_s": 0.01, "failed": {}, "small_queues": {}, "limits": {}, "subscription": {},
    "samples": 9000, "bad": 3, "repeats": 1, "gaps": {"collector_restart": 206}, "open_gaps": 0, "last_gap": NOW - 5 * S, "last_sample": NOW - S,
}
STATUS = {"version": "1.0.0", "pid": 7, "now": NOW - S, "started": NOW - 900 * S, "sources": [SOURCE],
          "outlet": {"depth": 0, "limit": 100000, "sent": 9000, "dropped": 0, "blocked_s": 0.0}}


def verdict(change: dict[str, Any] | None = None, top: dict[str, Any] | None = None, status: bool = True,
            expected: tuple[str, ...] = ("plc1",)) -> dict[str, str]:
    body = copy.deepcopy(STATUS)
    body["sources"][0].update(change or {})
    body.update(top or {})
    report = Report("ot_collector")
    collector.judge(report, body if status else None, "missing", NOW, expected, 15.0, 2.0, 60.0)
    return {check.id: check.status for check in report.checks}


def test_all_is_well() -> None:
    assert set(verdict().values()) == {"pass"}


@pytest.mark.parametrize(
    ("change", "failing"),
    [
        ({"state": "waiting", "detail": "no answer in time"}, "OC1"),
        ({"last_heard": NOW - 16 * S}, "OC2"),
        ({"last_heard": None}, "OC2"),
        ({"failed": {"t": "0x80340000"}}, "OC3"),
        ({"open_gaps": 1}, "OC4"),
        ({"gaps": {"link_lost": 206}}, "OC4"),
        ({"clock_offset_s": -2.5}, "OC5"),
        ({"small_queues": {"t": 1}}, "OC8"),
    ],
)
def test_each_fault_fails_its_check_and_no_other(change: dict[str, Any], failing: str) -> None:
    assert {check for check, status in verdict(change).items() if status != "pass"} == {failing}


def test_a_gap_of_long_ago_is_forgiven() -> None:
    assert set(verdict({"gaps": {"link_lost": 206}, "last_gap": NOW - 61 * S}).values()) == {"pass"}


def test_locked_identity() -> None:
    assert {check for check, status in verdict({"state": "locked"}).items() if status == "fail"} == {"OC1", "OC6"}


def test_no_status_is_a_failure_and_the_rest_cannot_be_known() -> None:
    result = verdict(status=False)
    assert result.pop("OC0") == "fail"
    assert set(result.values()) == {"inconclusive"}


def test_a_stale_status_is_no_status() -> None:
    result = verdict(top={"now": NOW - 11 * S})
    assert result.pop("OC0") == "fail"
    assert set(result.values()) == {"inconclusive"}


def test_a_source_that_the_running_collector_does_not_read_fails() -> None:
    report = Report("ot_collector")
    collector.judge(report, copy.deepcopy(STATUS), "", NOW, ("plc1", "new"), 15.0, 2.0, 60.0)
    assert {(c.subject, c.status) for c in report.checks if c.id == "OC1"} == {("plc1", "pass"), ("new", "fail")}


def test_dropped_records_and_a_blocked_pipe() -> None:
    assert verdict(top={"outlet": {**STATUS["outlet"], "dropped": 1}})["OC7"] == "fail"
    assert verdict(top={"outlet": {**STATUS["outlet"], "blocked_s": 40.0}})["OC7"] == "fail"


def test_a_file_that_is_no_status_is_named() -> None:
    assert collector.decode(json.dumps(STATUS), "f") == STATUS
    for text in ("", "[]", "{}"):
        with pytest.raises(collector.StatusError, match="f: "):
            collector.decode(text, "f")


# -- Sparkplug B edge nodes ----------------------------------------------------------------------------------------------
NODE = {"group": "g", "node": "n", "born": True, "alive": True, "doubtful": False, "dead_devices": [], "unknown_now": {}, "lag_s": 0.4, "retained": 0,
        "last_loss": None, "messages": 9, "births": 2, "deaths": 0, "old_deaths": 1, "unknown": 3, "jumps": 0, "lost_messages": 0, "late": 0, "duplicates": 2,
        "malformed": 0, "foreign": 4}


def node_verdict(**change: Any) -> dict[str, str]:
    found = verdict({"protocol": "sparkplug", "clock_offset_s": None, "node": {**NODE, **change}})
    assert not set(found) & {"OC5", "OC6", "OC8"}
    return {check: status for check, status in found.items() if status != "pass"}


def test_a_node_that_is_well() -> None:
    assert node_verdict() == {}
    assert {"OC9", "OC10", "OC11", "OC12", "OC13"} <= set(verdict({"protocol": "sparkplug", "node": NODE}))
    assert not {"OC9", "OC12"} & set(verdict())


@pytest.mark.parametrize(("change", "bad"), [
    ({"born": False}, {"OC9": "fail"}),
    ({"doubtful": True}, {"OC9": "inconclusive"}),
    ({"unknown_now": {"alias 7 of the node": 2}}, {"OC10": "inconclusive"}),
    ({"jumps": 1, "lost_messages": 3, "last_loss": NOW - 59 * S}, {"OC11": "fail"}),
    ({"jumps": 1, "lost_messages": 3, "last_loss": NOW - 61 * S}, {}),
    ({"alive": False}, {"OC12": "fail"}),
    ({"dead_devices": ["packer"]}, {"OC12": "fail"}),
    ({"lag_s": 11.0}, {"OC13": "fail"}),
    ({"lag_s": -11.0}, {"OC13": "fail"}),
    ({"lag_s": None}, {"OC13": "inconclusive"}),
])
def test_each_fault_of_a_node_fails_its_check_and_no_other(change: dict[str, Any], bad: dict[str, str]) -> None:
    assert node_verdict(**change) == bad


def test_a_node_of_a_collector_that_does_not_run_is_not_judged() -> None:
    assert "OC9" not in verdict({"protocol": "sparkplug", "node": NODE}, top={"now": NOW - 60 * S})


@pytest.mark.parametrize("wrong", [False, True])
def test_a_status_without_a_field_turns_no_check_into_another(wrong: bool) -> None:
    """As an older or a newer collector writes it."""
    bad = {"last_heard": NOW - 99 * S, "failed": {"t": "0x8"}, "open_gaps": 1, "clock_offset_s": 9.0, "small_queues": {"t": 1}, "state": "locked"}
    node = {**NODE, **({"alive": False, "unknown_now": {"x": 1}, "last_loss": NOW - S, "lag_s": 99.0} if wrong else {})}
    for source in ({"protocol": "opcua"}, {"protocol": "sparkplug", "node": node}):
        body = copy.deepcopy({**STATUS, "outlet": {**STATUS["outlet"], "dropped": int(wrong)}})
        body["sources"][0].update({**source, **(bad if wrong else {})})

        def judged(one: dict[str, Any]) -> dict[str, str]:
            report, problem = Report("ot_collector"), ""
            status: dict[str, Any] | None = None
            try:
                status = collector.decode(json.dumps(one), "f")
            except collector.StatusError as error:
                problem = str(error)
            collector.judge(report, status, problem, NOW, ["plc1"], 15.0, 2.0, 60.0)
            return {check.id: check.status for check in report.checks if check.id != "OC0"}

        whole = judged(body)
        for part in (body, body["sources"][0], body["outlet"], body["sources"][0].get("node", {})):
            for key in list(part):
                kept = part.pop(key)
                got = judged(body)
                part[key] = kept
                assert {name: status for name, status in got.items() if status not in (whole.get(name, status), "inconclusive")} == {}, key


@pytest.mark.parametrize("cut", range(40))
def test_a_status_that_was_cut_is_none(cut: int) -> None:
    whole = json.dumps(STATUS)
    with pytest.raises(collector.StatusError):
        collector.decode(whole[: len(whole) * cut // 40], "f")


@pytest.mark.parametrize(("record", "limit", "status", "words"), [
    (None, 0.0, "skipped", "never audited"),
    ({"verdict": "claimed", "scope": {"at": 900.0}}, 0.0, "pass", ""),
    ({"verdict": "claimed", "scope": {"at": 900.0}}, 99.0, "fail", "100 s old"),
    ({"verdict": "claimed", "scope": {"at": 900.0}}, 101.0, "pass", ""),
    ({"verdict": "proven"}, 99.0, "fail", "? s old"),
    ({"verdict": "", "scope": {"at": 999.0}}, 0.0, "inconclusive", "no reason known"),
    ({"verdict": None, "scope": {"at": 999.0}}, 0.0, "inconclusive", "no reason known"),
    ({"verdict": "of another release", "scope": {"at": 999.0}}, 0.0, "inconclusive", "no reason known"),
    ({"verdict": "refuted", "reason": "OA8: node x", "scope": {"at": 999.0}}, 0.0, "fail", "node x"),
    ({"verdict": "inconclusive", "reason": "no answer", "scope": {"at": 999.0}}, 0.0, "inconclusive", "no answer"),
])
def test_the_last_audit_stands_in_every_verdict(record: dict[str, Any] | None, limit: float, status: str, words: str) -> None:
    report = Report("ot_collector")
    collector.judge_audits(report, {"plc1": record}, 1000.0, limit)
    (check,) = report.checks
    assert (check.id, check.subject, check.status) == ("OC14", "plc1", status) and words in check.reason
