# SPDX-License-Identifier: Apache-2.0
"""The rules of a verdict: nothing that was not checked is a pass."""
from __future__ import annotations

import itertools
import json
import threading
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.hnai.platform.plugins.module_utils import verdict
from ansible_collections.hnai.platform.plugins.module_utils.verdict import Check, Report


class Clock:
    """A clock that moves when told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def by_id(result: dict[str, Any], id: str) -> dict[str, Any]:
    return next(check for check in result["checks"] if check["id"] == id)


def test_a_pass() -> None:
    report = Report("kafka", "4.3.1")
    with report.check("K1", "quorum", expected=3, unit="voters", controls=["SR 7.1"], hint="h", explain="e") as check:
        check.observed = 3
        check.evidence = {"voters": [1, 2, 3]}
        check.passed(True)
    result = report.result()
    assert (result["status"], result["failed"], result["changed"]) == ("pass", False, False)
    assert (result["component"], result["version"]) == ("kafka", "4.3.1")
    got = by_id(result, "K1")
    assert {key: got[key] for key in ("title", "status", "observed", "expected", "unit", "controls", "hint", "explain")} == {
        "title": "quorum", "status": "pass", "observed": 3, "expected": 3, "unit": "voters", "controls": ["SR 7.1"],
        "hint": "h", "explain": "e",
    }
    assert got["duration_ms"] >= 0
    assert result["started_at"].endswith("Z") and result["started_at"] <= result["ended_at"]


def test_a_fail_fails_the_task_and_names_itself() -> None:
    report = Report("kafka")
    with report.check("K1", "quorum") as check:
        check.passed(False, "one voter lags")
    result = report.result()
    assert result["failed"] is True
    assert "K1" in result["msg"] and "one voter lags" in result["msg"]


def test_collect_never_fails_the_task_but_keeps_the_status() -> None:
    report = Report("kafka")
    with report.check("K1", "quorum") as check:
        check.passed(False)
    result = report.result(collect=True)
    assert (result["failed"], result["status"]) == (False, "fail")


def test_an_exception_is_inconclusive_and_the_others_still_run() -> None:
    report = Report("kafka")
    with report.check("K1", "quorum") as check:
        check.passed(True)
        raise OSError("no route\n to host")
    with report.check("K2", "isr") as check:
        check.passed(True)
    result = report.result()
    assert by_id(result, "K1")["status"] == "inconclusive"
    assert by_id(result, "K1")["reason"] == "OSError: no route to host"
    assert by_id(result, "K2")["status"] == "pass"
    assert (result["status"], result["failed"]) == ("inconclusive", True)


def test_interrupts_of_the_process_pass_through() -> None:
    report = Report("kafka")
    with pytest.raises(KeyboardInterrupt), report.check("K1", "quorum"):
        raise KeyboardInterrupt


def test_no_verdict_is_inconclusive() -> None:
    report = Report("kafka")
    with report.check("K1", "quorum"):
        pass
    assert by_id(report.result(), "K1")["status"] == "inconclusive"


def test_no_check_at_all_is_inconclusive_and_fails() -> None:
    result = Report("kafka").result()
    assert (result["status"], result["failed"]) == ("inconclusive", True)


def test_allowed_inconclusive_does_not_fail() -> None:
    report = Report("kafka")
    with report.check("K1", "quorum") as check:
        check.inconclusive("no permission")
    assert report.result(allow_inconclusive=["K1"])["failed"] is False
    assert report.result(allow_inconclusive=["K2"])["failed"] is True
    assert report.result(allow_inconclusive=["K1"])["status"] == "inconclusive"


def test_a_fail_cannot_be_allowed() -> None:
    report = Report("kafka")
    with report.check("K1", "quorum") as check:
        check.fail()
    assert report.result(allow_inconclusive=["K1"])["failed"] is True


def test_skipped_only_if_nothing_else() -> None:
    report = Report("kafka")
    report.skip("K9", "audit", "not possible here")
    assert report.status == "skipped"
    assert report.result()["failed"] is False
    with report.check("K1", "quorum") as check:
        check.passed(True)
    assert report.status == "pass"
    assert by_id(report.result(), "K9")["reason"] == "not possible here"


def test_after_the_deadline_even_a_pass_is_inconclusive() -> None:
    clock = Clock()
    report = Report("kafka", deadline_s=10, clock=clock)
    with report.check("K1", "in time") as check:
        clock.now += 9
        check.passed(True)
    clock.now += 2
    with report.check("K2", "late") as check:
        check.passed(True)
    result = report.result()
    assert by_id(result, "K1")["status"] == "pass"
    assert (by_id(result, "K2")["status"], by_id(result, "K2")["reason"]) == ("inconclusive", "deadline")


def test_timeout_shrinks_near_the_deadline_and_ends() -> None:
    clock = Clock()
    report = Report("kafka", deadline_s=10, clock=clock)
    assert report.timeout(4) == 4
    clock.now += 8
    assert report.timeout(4) == pytest.approx(2)
    clock.now += 3
    with pytest.raises(verdict.DeadlineExceeded):
        report.timeout(4)
    assert Report("kafka", deadline_s=None).timeout(4) == 4


def test_no_call_takes_longer_than_the_caller_allows_one() -> None:
    clock = Clock()
    report = Report("kafka", deadline_s=10, clock=clock, call_s=2)
    assert report.timeout(4) == 2
    assert report.timeout(1) == 1
    clock.now += 9
    assert report.timeout(4) == pytest.approx(1)
    assert Report("kafka", deadline_s=None, call_s=2).timeout(4) == 2


def test_a_module_starts_under_its_callers_deadlines() -> None:
    class Module:
        params = {"deadline": 30.0, "call_timeout": 3.0}

    report = verdict.start(Module(), "kafka", "4.3.1")
    assert report.timeout(10) == 3.0 and 29 < (report.remaining() or 0) <= 30
    assert (report.component, report.version) == ("kafka", "4.3.1")
    assert {"deadline", "call_timeout"} <= set(verdict.VERDICT_ARGS)


def test_deadline_of_one_check_bounds_its_calls_only() -> None:
    clock = Clock()
    report = Report("kafka", deadline_s=100, clock=clock)
    with report.check("K1", "a", deadline_s=3) as check:
        check.observed = report.timeout(50)
        check.passed(True)
    assert by_id(report.result(), "K1")["observed"] == pytest.approx(3)
    assert report.timeout(50) == 50


def test_a_hanging_body_is_interrupted() -> None:
    report = Report("kafka", deadline_s=30)
    begin = time.monotonic()
    with report.check("K1", "hangs", deadline_s=0.05) as check:
        time.sleep(10)
        check.passed(True)
    with report.check("K2", "next") as check:
        check.passed(True)
    assert time.monotonic() - begin < 5
    result = report.result()
    assert by_id(result, "K1")["status"] == "inconclusive"
    assert by_id(result, "K2")["status"] == "pass"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_alarm_lost_in_a_finalizer_comes_again() -> None:
    """Python prints what a finalizer raises and goes on: the deadline would be forgotten."""

    class Slow:
        def __del__(self) -> None:
            time.sleep(0.3)

    report = Report("kafka", deadline_s=30)
    begin = time.monotonic()
    with report.check("K1", "hangs", deadline_s=0.05) as check:
        Slow()
        time.sleep(10)
        check.passed(True)
    assert time.monotonic() - begin < 5
    assert by_id(report.result(), "K1")["reason"] == "deadline"


def test_a_body_that_begins_late_is_interrupted_too() -> None:
    report = Report("kafka", deadline_s=0.0)
    begin = time.monotonic()
    with report.check("K1", "late"):
        time.sleep(10)
    assert time.monotonic() - begin < 5
    assert by_id(report.result(), "K1")["reason"] == "deadline"


def test_works_outside_the_main_thread() -> None:
    seen: list[str] = []

    def body() -> None:
        report = Report("kafka", deadline_s=5)
        with report.check("K1", "thread") as check:
            check.passed(True)
        seen.append(report.status)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join(10)
    assert seen == ["pass"]


def test_run_checks_does_not_start_what_is_late() -> None:
    clock = Clock()
    report = Report("kafka", deadline_s=10, clock=clock)
    started: list[str] = []

    def slow(check: Check) -> None:
        started.append(check.id)
        clock.now += 11
        check.passed(True)

    report.run_checks([({"id": "K1", "title": "a"}, slow), ({"id": "K2", "title": "b", "expected": 0}, slow)])
    assert started == ["K1"]
    assert [check["status"] for check in report.result()["checks"]] == ["pass", "inconclusive"]
    assert by_id(report.result(), "K2")["expected"] == 0


def test_checks_at_once_wait_for_the_slowest_and_no_longer_than_the_deadline() -> None:
    over, met = threading.Event(), threading.Barrier(2)

    def together(check: Check) -> None:
        check.passed(met.wait(30) >= 0)

    def hangs(check: Check) -> None:
        over.wait(60)
        check.passed(True)

    def refused(check: Check) -> None:
        raise ConnectionRefusedError("nobody there")

    report = Report("kafka", deadline_s=1.0)
    bodies = (together, hangs, refused, together)
    begin = time.monotonic()
    report.run_at_once([({"id": f"S{number}", "title": "a"}, body) for number, body in enumerate(bodies)])
    assert time.monotonic() - begin < 30
    assert [(check["id"], check["status"], check.get("reason")) for check in report.result()["checks"]] == [
        ("S0", "pass", None), ("S1", "inconclusive", "deadline"), ("S2", "inconclusive", "ConnectionRefusedError: nobody there"), ("S3", "pass", None)]
    over.set()


def test_an_id_stands_once_per_subject() -> None:
    report = Report("telegraf")
    report.skip("T1", "a", "r", subject="shipper")
    report.skip("T1", "a", "r", subject="bridge")
    with pytest.raises(ValueError, match="T1"):
        report.skip("T1", "a", "r", subject="bridge")


def test_raw_evidence_travels_with_its_digest_and_is_cut() -> None:
    report = Report("kafka")
    with report.check("K1", "a") as check:
        check.raw("k1.json", "{}")
        check.raw("long.txt", "x" * (verdict.RAW_LIMIT + 1))
        check.passed(True)
    result = report.result()
    assert result["raw"]["k1.json"] == "{}"
    assert len(result["raw"]["long.txt"]) == verdict.RAW_LIMIT
    first, second = by_id(result, "K1")["evidence"]["raw"]
    assert first == {
        "file": "k1.json", "truncated": False,
        "sha256": "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
    }
    assert second["truncated"] is True


@given(st.lists(st.sampled_from(verdict.STATUSES)))
def test_aggregate_is_the_worst(statuses: list[str]) -> None:
    whole = verdict.aggregate(statuses)
    if "fail" in statuses:
        assert whole == "fail"
    elif "inconclusive" in statuses or not statuses:
        assert whole == "inconclusive"
    else:
        assert whole == ("pass" if "pass" in statuses else "skipped")


def test_aggregate_refuses_an_unknown_status() -> None:
    with pytest.raises(ValueError, match="ok"):
        verdict.aggregate(["ok"])


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner) | st.sets(st.integers()),
        max_leaves=10,
    )
)
def test_everything_becomes_strict_json(value: Any) -> None:
    json.dumps(verdict.jsonable(value), allow_nan=False)


class FakeModule:
    """What finish() needs of an AnsibleModule."""

    _name = "hnai.platform.kafka_health"

    def __init__(self, **params: Any) -> None:
        self.params = params
        self.left: dict[str, Any] = {}

    def exit_json(self, **result: Any) -> None:
        self.left = result


@pytest.mark.parametrize(("collect", "allow"), list(itertools.product([True, False], [[], ["K1"]])))
def test_finish_leaves_by_the_module_options(collect: bool, allow: list[str]) -> None:
    report = Report("kafka")
    with report.check("K1", "a") as check:
        check.inconclusive("r")
    module = FakeModule(collect=collect, allow_inconclusive=allow, deadline=60.0)
    verdict.finish(module, report, window={"n": float("nan")})
    assert module.left["failed"] is (not collect and not allow)
    assert module.left["module"] == "hnai.platform.kafka_health"
    assert module.left["window"] == {"n": "nan"}
