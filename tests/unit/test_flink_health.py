# SPDX-License-Identifier: Apache-2.0
"""Flink's verdict is about tasks and checkpoints: a job may be RUNNING while nothing of it runs."""
from __future__ import annotations

from typing import Any

from ansible_collections.hnai.platform.plugins.module_utils.flink.health import check_all
from ansible_collections.hnai.platform.plugins.module_utils.verdict import Report


def cluster(**change: Any) -> dict[str, Any]:
    job = {"jid": "j", "name": "normalise", "state": "RUNNING", "start-time": 0, "tasks": {"running": 2, "total": 2}}
    answers: dict[str, Any] = {
        "/overview": {"taskmanagers": 1, "slots-available": 3},
        "/jobs/overview": {"jobs": [job]},
        "/jobs/j/checkpoints": {"counts": {}, "latest": {"completed": {"id": 1, "latest_ack_timestamp": 990_000}}},
        "/jobs/j/metrics?get=numRestarts": [{"value": "0"}],
        "/jobs/j/metrics?get=uptime": [{"value": "1000"}],
    }
    answers.update(change)
    return answers


def verdicts(answers: dict[str, Any]) -> dict[str, str]:
    report = Report("flink")
    check_all(report, lambda path, _timeout: answers[path], ["normalise"], now=lambda: 1000.0)
    return {check.id: check.status for check in report.checks}


def jobs(*changes: dict[str, Any]) -> dict[str, Any]:
    base = {"jid": "j", "name": "normalise", "state": "RUNNING", "start-time": 0, "tasks": {"running": 2, "total": 2}}
    return {"/jobs/overview": {"jobs": [dict(base, **change) for change in changes]}}


def test_all_well() -> None:
    assert verdicts(cluster()) == {"H2": "pass", "H1": "pass", "H3": "pass", "H4": "pass", "H5": "pass"}


def test_running_without_running_tasks_is_not_running() -> None:
    assert verdicts(cluster(**jobs({"tasks": {"running": 0, "total": 2}})))["H3"] == "fail"


def test_twice_by_name_fails() -> None:
    assert verdicts(cluster(**jobs({}, {})))["H3"] == "fail"


def test_a_job_that_is_gone_fails_and_says_so() -> None:
    assert verdicts(cluster(**jobs({"state": "FAILED"})))["H3"] == "fail"


def test_an_undeclared_job_fails() -> None:
    assert verdicts(cluster(**jobs({}, {"name": "other", "jid": "k"})))["H1"] == "fail"


def test_an_old_checkpoint_fails() -> None:
    old = {"counts": {}, "latest": {"completed": {"id": 1, "latest_ack_timestamp": 900_000}}}
    assert verdicts(cluster(**{"/jobs/j/checkpoints": old}))["H4"] == "fail"


def test_a_lost_task_manager_fails() -> None:
    assert verdicts(cluster(**{"/overview": {"taskmanagers": 0, "slots-available": 0}}))["H2"] == "fail"


def test_restarts_fail_while_they_are_fresh() -> None:
    fresh = {"/jobs/j/metrics?get=numRestarts": [{"value": "3"}]}
    assert verdicts(cluster(**fresh))["H5"] == "fail"
    assert verdicts(cluster(**fresh, **{"/jobs/j/metrics?get=uptime": [{"value": "300000"}]}))["H5"] == "pass"


def test_a_job_manager_that_does_not_answer_is_inconclusive() -> None:
    report = Report("flink")

    def refuse(path: str, _timeout: float) -> Any:
        raise OSError("connection refused")

    check_all(report, refuse, ["normalise"])
    assert {check.id: check.status for check in report.checks} == {"H2": "inconclusive", "H1": "inconclusive", "H3": "inconclusive"}


def test_metrics_that_come_only_when_asked_twice_are_waited_for() -> None:
    answers, asked = cluster(), []

    def get(path: str, _timeout: float) -> Any:
        asked.append(path)
        return [] if path.endswith("numRestarts") and asked.count(path) < 3 else answers[path]

    report = Report("flink")
    check_all(report, get, ["normalise"], now=lambda: 1000.0, sleep=lambda _s: None)
    assert {check.id: check.status for check in report.checks}["H5"] == "pass"


def test_metrics_that_never_come_are_inconclusive() -> None:
    report = Report("flink")
    answers = cluster(**{"/jobs/j/metrics?get=numRestarts": []})
    check_all(report, lambda path, _timeout: answers[path], ["normalise"], now=lambda: 1000.0, sleep=lambda _s: None)
    assert {check.id: check.status for check in report.checks}["H5"] == "inconclusive"
