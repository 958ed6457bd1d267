# SPDX-License-Identifier: Apache-2.0
"""Flink's verdict is about tasks, checkpoints and progress: each cause turns its own check, and no other but its consequences."""
from __future__ import annotations

import os
import pwd
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.hnai.platform.plugins.module_utils.flink import host as flink_host
from ansible_collections.hnai.platform.plugins.module_utils.flink.health import NEVER, NO_WATERMARK, Expected, Host, check_all, rest
from ansible_collections.hnai.platform.plugins.module_utils.verdict import Report
from ansible_collections.hnai.platform.plugins.plugin_utils import contracts

NOW = 100_000.0
CHECKPOINTS = "/jobs/j/checkpoints"
CONFIG = "/jobs/j/checkpoints/config"
PRESSURE = "/jobs/j/vertices/v/backpressure"
WATERMARKS = "/jobs/j/vertices/v/watermarks"
EXCEPTIONS = "/jobs/j/exceptions"
RESTARTS, UPTIME = "/jobs/j/metrics?get=numRestarts", "/jobs/j/metrics?get=uptime"
WHOLE = {
    "H1": "pass", "H2": "pass", "H3": "pass", "H4": "pass", "H5": "pass", "H6": "pass", "H7": "pass", "H8": "pass", "H9": "pass", "H10": "pass",
}


def ms(seconds_ago: float) -> float:
    return (NOW - seconds_ago) * 1000


def job(**change: Any) -> dict[str, Any]:
    return dict({"jid": "j", "name": "windows", "state": "RUNNING", "start-time": ms(5000), "tasks": {"running": 2, "total": 2}}, **change)


def jobs(*changes: dict[str, Any]) -> dict[str, Any]:
    return {"/jobs/overview": {"jobs": [job(**change) for change in changes]}}


def checkpoints(age: float = 10.0, **change: Any) -> dict[str, Any]:
    newest = {"id": 1, "latest_ack_timestamp": ms(age), "trigger_timestamp": ms(age), "external_path": "file:/c/j/chk-1"}
    return dict({"counts": {"completed": 1}, "latest": {"completed": newest}, "summary": {"end_to_end_duration": {"p95": 50.0}}, "history": []}, **change)


CONFIGURED = {"interval": 10000, "timeout": 600000, "externalization": {"enabled": True, "delete_on_cancellation": False}}


def cluster(**change: Any) -> dict[str, Any]:
    answers: dict[str, Any] = {
        "/overview": {"taskmanagers": 1, "slots-available": 3, "slots-total": 4, "jobs-running": 1, "flink-version": "2.2.1"},
        "/config": {"features": {"web-submit": False}},
        "/taskmanagers": {"taskmanagers": [{"id": "t"}]}, "/taskmanagers/t/metrics": [{"id": "Status.JVM.CPU.Load"}],
        CHECKPOINTS: checkpoints(), CONFIG: CONFIGURED,
        RESTARTS: [{"value": "0"}], UPTIME: [{"value": "1000"}],
        EXCEPTIONS: {"exceptionHistory": {"entries": [], "truncated": False}},
        "/jobs/j": {"vertices": [{"id": "v", "name": "Source", "status": "RUNNING", "parallelism": 1}]},
        PRESSURE: {"status": "ok", "backpressureLevel": "ok"},
        WATERMARKS: [{"id": "0.currentInputWatermark", "value": str(ms(12))}],
        **jobs({}),
    }
    answers.update(change)
    return answers


def host(**change: Any) -> Host:
    return Host(**{
        "unit": lambda _name: "active", "gateway": lambda _timeout: "2.2.1",
        "keeper": lambda: {"at": NOW - 2, "trouble": ""}, "memory": lambda _name: {"sql": "WATERMARK FOR t AS t", "job_ids": ["i", "j"]},
        "complete": lambda path: path == "/c/j/chk-1", "states": lambda ids: [f"/c/{one}/chk-1" for one in ids],
        "free": lambda _path: (50, 100), "listeners": lambda: [("127.0.0.1", 8081), ("0.0.0.0", 22)],
        "own": lambda: [("127.0.0.1", 8081), ("127.0.0.1", 40000)],
        "checkpoints": "/c", **change,
    })  # fmt: skip


def refuse() -> str:
    raise OSError("connection refused")


def look(answers: dict[str, Any], on: Host | None = None, **expected: Any) -> Report:
    report = Report("flink")

    def get(path: str, _timeout: float) -> Any:
        if isinstance(answers[path], Exception):
            raise answers[path]
        return answers[path]

    check_all(report, get, on or host(), Expected(["windows"], **expected), now=lambda: NOW, sleep=lambda _s: None)
    return report


def verdicts(report: Report) -> dict[str, str]:
    """The worst status of each id, the undeclared ZooKeeper left out."""
    found: dict[str, str] = {}
    for check in report.checks:
        if check.subject != "ZooKeeper":
            worse = ("fail", "inconclusive", "pass").index
            found[check.id] = min(found.get(check.id, "pass"), check.status, key=worse)
    return found


@pytest.mark.parametrize("pending", ["upgrade", "submitting"])
def test_a_job_that_the_keeper_is_just_starting_is_no_strangers(pending: str) -> None:
    assert verdicts(look(cluster(), host(memory=lambda _name: {"sql": "WATERMARK FOR", "job_ids": ["i"], pending: {"at": NOW}}))) == WHOLE


def test_all_well() -> None:
    report = look(cluster())
    assert verdicts(report) == WHOLE
    assert report.version == "2.2.1"


def test_what_is_repeated_by_hand_goes_where_the_check_went() -> None:
    report = look(cluster(), host(listeners=lambda: [("127.0.0.1", 18081)]), rest=18081, gateway=18083)
    assert verdicts(report) == WHOLE
    said = " ".join(f"{check.hint} {check.explain}" for check in report.checks)
    assert set(re.findall(r"curl -s '?http://127.0.0.1:(\d+)/(v3/info)?", said)) == {("18081", ""), ("18083", "v3/info")}


FAULTS: dict[str, tuple[dict[str, Any], Host | None, dict[str, Any], dict[str, str]]] = {
    "task manager lost": (
        {"/overview": {"taskmanagers": 0, "slots-available": 0, "jobs-running": 1, "flink-version": "2.2.1"}}, None, {}, {"H2": "fail"}),
    "no slot in reserve": ({}, None, {"slots_free": 4}, {"H2": "fail"}),
    "running without running tasks": (jobs({"tasks": {"running": 0, "total": 2}}), None, {}, {"H3": "fail"}),
    "twice by name": (jobs({}, {"start-time": ms(9000)}), None, {}, {"H3": "fail"}),
    "an undeclared job": (jobs({}, {"name": "other", "jid": "k"}), None, {}, {"H3": "fail"}),
    "checkpoints lie where the keeper does not look": ({}, host(checkpoints="/var/c"), {}, {"H9": "fail"}),
    "somebody started it by hand": ({}, host(memory=lambda _n: {"sql": "WATERMARK FOR", "job_ids": ["i"]}), {}, {"H3": "fail"}),
    "the keeper knows nothing of it": ({}, host(memory=lambda _n: {"sql": "WATERMARK FOR"}), {}, {"H3": "fail"}),
    "the declared statement was given up": ({}, host(memory=lambda _n: {"sql": "WATERMARK FOR", "rejected": {"why": "bad"}}), {}, {"H3": "fail"}),
    "an old checkpoint": ({CHECKPOINTS: checkpoints(100)}, None, {}, {"H4": "fail"}),
    "a checkpoint of a time to come": ({CHECKPOINTS: checkpoints(-100)}, None, {}, {"H4": "fail"}),
    "submitted without checkpoints": ({CONFIG: {**CONFIGURED, "interval": NEVER}}, None, {}, {"H4": "fail"}),
    "the last checkpoint failed": (
        {CHECKPOINTS: checkpoints(30, history=[{"status": "FAILED", "trigger_timestamp": ms(20), "failure_message": "disk\nat x"}])}, None, {}, {"H4": "fail"}),
    "checkpoints near their timeout": ({CHECKPOINTS: checkpoints(summary={"end_to_end_duration": {"p95": 400000.0}})}, None, {}, {"H4": "fail"}),
    "fresh restarts": ({RESTARTS: [{"value": "3"}]}, None, {}, {"H5": "fail"}),
    "given up again and again": (
        jobs({}, *({"jid": f"f{age}", "state": "FAILED", "end-time": ms(age)} for age in (290, 20))), None, {}, {"H5": "fail"}),
    "backpressure": ({PRESSURE: {"status": "ok", "backpressureLevel": "high"}}, None, {}, {"H6": "fail"}),
    "backpressure is never measured": ({PRESSURE: {"status": "deprecated"}}, None, {}, {"H6": "inconclusive"}),
    "event time stands still": ({WATERMARKS: [{"value": str(ms(5))}, {"value": str(ms(90))}]}, None, {}, {"H7": "fail"}),
    "event time ran ahead": ({WATERMARKS: [{"value": str(ms(-90))}]}, None, {}, {"H7": "fail"}),
    "event time never began": ({WATERMARKS: [{"value": str(NO_WATERMARK)}]}, None, {}, {"H7": "fail"}),
    "nobody knows the event time": ({WATERMARKS: []}, None, {}, {"H7": "inconclusive"}),
    "the JobManager has no metrics of the task manager": ({"/taskmanagers/t/metrics": []}, None, {}, {"H6": "inconclusive", "H7": "inconclusive"}),
    "a fresh exception": (
        {EXCEPTIONS: {"exceptionHistory": {"entries": [{"timestamp": ms(20), "stacktrace": "a\nCaused by: b"}]}}}, None, {}, {"H8": "fail"}),
    "the keeper is down": ({}, host(unit=lambda _name: "failed"), {}, {"H9": "fail"}),
    "the keeper hangs": ({}, host(keeper=lambda: {"at": NOW - 2000}), {}, {"H9": "fail"}),
    "the keeper looked in a time to come": ({}, host(keeper=lambda: {"at": NOW + 2000}), {}, {"H9": "fail"}),
    "the keeper can do nothing": ({}, host(keeper=lambda: {"at": NOW - 2, "trouble": "jobs.json is not there"}), {}, {"H9": "fail"}),
    "the gateway is gone": ({}, host(gateway=lambda _timeout: refuse()), {}, {"H9": "inconclusive"}),
    "the gateway is of another release": ({}, host(gateway=lambda _timeout: "2.2.0"), {}, {"H9": "fail"}),
    "the checkpoint is not on disk": ({}, host(complete=lambda _path: False), {}, {"H9": "fail"}),
    "checkpoints go with the job": ({CONFIG: {**CONFIGURED, "externalization": {"enabled": True, "delete_on_cancellation": True}}}, None, {}, {"H9": "fail"}),
    "the disk is full": ({}, host(free=lambda _path: (1, 100)), {}, {"H9": "fail"}),
    "reachable from elsewhere": ({}, host(listeners=lambda: [("0.0.0.0", 8081)]), {}, {"H10": "fail"}),
    "a debugger listens": ({}, host(own=lambda: [("127.0.0.1", 8081), ("0.0.0.0", 5005)]), {}, {"H10": "fail"}),
    "jars may be submitted": ({"/config": {"features": {"web-submit": True}}}, None, {}, {"H10": "fail"}),
    "no listener is seen": ({}, host(listeners=list), {}, {"H10": "inconclusive"}),
    "a vertex cannot be asked": ({PRESSURE: OSError("500")}, None, {}, {"H6": "inconclusive"}),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_turns_its_own_check(fault: str) -> None:
    answers, on, expected, changed = FAULTS[fault]
    assert verdicts(look(cluster(**answers), on, **expected)) == {**WHOLE, **changed}


@pytest.mark.parametrize(("on", "retained"), [
    (host(), "pass"),
    (host(states=lambda _ids: []), "fail"),
    (host(complete=lambda _path: False), "fail"),
    (host(memory=lambda _name: {}, states=lambda _ids: []), "inconclusive"),  # It never ran.
])
def test_of_a_job_that_is_gone_what_it_goes_on_from_is_looked_for_and_nothing_is_made_up(on: Host, retained: str) -> None:
    found = verdicts(look(cluster(**jobs({"state": "FAILED"})), on))
    assert found == {"H1": "pass", "H2": "pass", "H3": "fail", "H9": retained, "H10": "pass"}


def test_the_reason_of_a_failed_checkpoint_is_one_line() -> None:
    report = look(cluster(**FAULTS["the last checkpoint failed"][0]))
    assert next(check.reason for check in report.checks if check.id == "H4") == "the last one failed: disk"


def test_a_checkpoint_that_failed_before_a_later_one_completed_is_history() -> None:
    answer = checkpoints(10, history=[{"status": "FAILED", "trigger_timestamp": ms(20)}])
    assert verdicts(look(cluster(**{CHECKPOINTS: answer}))) == WHOLE


def test_a_job_without_a_checkpoint_resource_has_none() -> None:
    assert verdicts(look(cluster(**{CONFIG: OSError("GET x: 404 gone")})))["H4"] == "fail"


def test_numbers_that_are_texts_do_not_count() -> None:
    assert verdicts(look(cluster(**{CHECKPOINTS: checkpoints(summary={"end_to_end_duration": {"p95": "NaN"}})}))) == WHOLE


def test_a_job_that_was_given_up_once_is_begun_anew_and_well() -> None:
    """So does a new statement that Flink refuses to run; and what was given up long ago is history."""
    gone = ({"jid": "f", "state": "FAILED", "end-time": ms(20)}, {"jid": "g", "state": "FAILED", "end-time": ms(301)},
            {"jid": "h", "state": "CANCELED", "end-time": ms(20)}, {"jid": "i", "name": "other", "state": "FAILED", "end-time": ms(20)})
    assert verdicts(look(cluster(**jobs({}, *gone)))) == WHOLE


def test_what_is_long_ago_is_history() -> None:
    old = {EXCEPTIONS: {"exceptionHistory": {"entries": [{"timestamp": ms(2000), "stacktrace": "a"}]}}, UPTIME: [{"value": "300000"}]}
    assert verdicts(look(cluster(**old, **{RESTARTS: [{"value": "3"}]}))) == WHOLE


def test_a_job_that_has_just_started_is_not_judged_by_what_it_cannot_have() -> None:
    young = {**jobs({"start-time": ms(3)}), CHECKPOINTS: checkpoints(latest={"completed": None}), WATERMARKS: [{"value": str(NO_WATERMARK)}]}
    assert verdicts(look(cluster(**young))) == {**WHOLE, "H4": "inconclusive", "H7": "inconclusive", "H9": "inconclusive"}


def test_a_statement_without_event_time_has_no_watermark_to_judge() -> None:
    assert "H7" not in verdicts(look(cluster(), host(memory=lambda _name: {"sql": "SELECT 1"})))


@pytest.mark.parametrize("sql", ["watermark for t as t", "a INT, WATERMARK\n  FOR t AS t"])
def test_event_time_is_found_however_it_is_written(sql: str) -> None:
    assert verdicts(look(cluster(**{WATERMARKS: [{"value": str(ms(90))}]}), host(memory=lambda _name: {"sql": sql})))["H7"] == "fail"


def test_zookeeper_is_judged_only_where_the_site_declares_it() -> None:
    found = {check.subject: check for check in look(cluster()).checks if check.id == "H9"}
    assert (found["ZooKeeper"].status, found["ZooKeeper"].reason) == ("skipped", "not declared")
    declared = cluster(**{"/jobmanager/config": [{"key": "high-availability.type", "value": "zookeeper"}]})
    found = {check.subject: check for check in look(declared, high_availability=True).checks if check.id == "H9"}
    assert found["ZooKeeper"].status == "fail"
    keys = ("type", "zookeeper.quorum", "storageDir", "cluster-id")
    whole = [{"key": "high-availability." + key, "value": "zookeeper"} for key in keys]
    found = {check.subject: check for check in look(cluster(**{"/jobmanager/config": whole}), high_availability=True).checks if check.id == "H9"}
    assert found["ZooKeeper"].status == "pass"


def test_a_job_manager_that_does_not_answer_is_inconclusive_and_asked_once() -> None:
    report, asked = Report("flink"), []

    def refuse(path: str, _timeout: float) -> Any:
        asked.append(path)
        raise OSError("connection refused")

    check_all(report, refuse, host(), Expected(["windows"]), now=lambda: NOW)
    assert verdicts(report) == {"H1": "inconclusive", "H2": "inconclusive", "H3": "inconclusive", "H9": "inconclusive", "H10": "inconclusive"}
    assert len(asked) == 1


def test_metrics_that_come_only_when_asked_twice_are_waited_for() -> None:
    asked: list[str] = []
    answers = cluster()

    def get(path: str, _timeout: float) -> Any:
        asked.append(path)
        if path == PRESSURE and asked.count(path) < 2:
            return {"status": "deprecated"}
        return [] if path == RESTARTS and asked.count(path) < 3 else answers[path]

    report = Report("flink")
    check_all(report, get, host(), Expected(["windows"]), now=lambda: NOW, sleep=lambda _s: None)
    assert verdicts(report) == WHOLE


def test_metrics_that_never_come_are_inconclusive() -> None:
    assert verdicts(look(cluster(**{RESTARTS: []}))) == {**WHOLE, "H5": "inconclusive"}


def lacking(answer: Any) -> Iterator[Any]:
    """The answer without each of its fields, one at a time."""
    for key, value in list(answer.items() if isinstance(answer, dict) else enumerate(answer) if isinstance(answer, list) else ()):
        if isinstance(answer, dict):
            yield {name: one for name, one in answer.items() if name != key}
        for other in lacking(value):
            yield {**answer, key: other} if isinstance(answer, dict) else [*answer[:key], other, *answer[key + 1:]]


def each(report: Report) -> dict[tuple[str, str], str]:
    return {(check.id, check.subject): check.status for check in report.checks}


@pytest.mark.parametrize("case", ["all well", *FAULTS])
def test_an_answer_without_a_field_changes_no_verdict_into_another(case: str) -> None:
    change, on, expected, _wrong = FAULTS.get(case, ({}, None, {}, {}))
    answers = cluster(**change)
    whole = each(look(answers, on, **expected))
    for path, answer in answers.items():
        for less in lacking(answer) if not isinstance(answer, Exception) else ():
            got = each(look({**answers, path: less}, on, **expected))
            if got["H1", ""] != "pass":  # Of what release the JobManager is, the gateway cannot be asked.
                got.pop(("H9", "gateway"))
            assert {key: status for key, status in got.items() if status not in (whole.get(key, status), "inconclusive")} == {}, (path, less)


@pytest.mark.parametrize("body", [b"", b'{"jobs":[', b"<html>502 Bad Gateway</html>"])
def test_an_answer_that_is_no_json_is_an_os_error(body: bytes) -> None:
    listener = socket.create_server(("127.0.0.1", 0))

    def answer() -> None:
        with listener.accept()[0] as peer:
            peer.recv(4096)
            peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))

    threading.Thread(target=answer, daemon=True).start()
    with listener, pytest.raises(OSError, match="GET /jobs/j: "):
        rest("127.0.0.1", listener.getsockname()[1])("/jobs/j", 5.0)


@pytest.fixture
def half_open() -> Iterator[Callable[[bytes], int]]:
    """serve(beginning) → port of a server that accepts, sends that and then nothing."""
    listeners: list[socket.socket] = []
    kept: list[socket.socket] = []

    def serve(beginning: bytes) -> int:
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)

        def accept() -> None:
            while True:
                try:
                    peer, _address = listener.accept()
                except OSError:
                    return
                kept.append(peer)
                peer.sendall(beginning)

        threading.Thread(target=accept, daemon=True).start()
        return int(listener.getsockname()[1])

    yield serve
    for one in (*listeners, *kept):
        one.close()


@pytest.mark.parametrize("beginning", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n{"])
def test_a_server_that_accepts_and_never_answers_is_inconclusive_within_the_deadline(half_open: Callable[[bytes], int], beginning: bytes) -> None:
    report = Report("flink", deadline_s=1.5)
    begin = time.monotonic()
    check_all(report, rest("127.0.0.1", half_open(beginning)), host(), Expected(["windows"]), now=lambda: NOW)
    assert time.monotonic() - begin < 5
    assert set(verdicts(report).values()) == {"inconclusive"}


def test_a_server_that_speaks_no_http_is_inconclusive(half_open: Callable[[bytes], int]) -> None:
    report = Report("flink", deadline_s=5)
    check_all(report, rest("127.0.0.1", half_open(b"nonsense\r\n\r\n")), host(), Expected(["windows"]), now=lambda: NOW)
    assert verdicts(report)["H1"] == "inconclusive"


def test_the_host_reads_its_own_files(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"digest": "1"}')
    assert flink_host.memory("a", str(tmp_path)) == {"digest": "1"}
    assert flink_host.memory("b", str(tmp_path)) == {}
    (tmp_path / "c.json").write_text("[]")
    with pytest.raises(OSError, match="no JSON object"):
        flink_host.memory("c", str(tmp_path))
    assert not flink_host.complete(str(tmp_path))
    assert not flink_host.complete(str(tmp_path / "a.json" / "chk-1"))
    (tmp_path / "_metadata").write_text("x")
    assert flink_host.complete(str(tmp_path))


def test_the_jobs_that_flink_job_keeps_are_known_from_their_files(tmp_path: Path) -> None:
    for name in ("jobs.json", "windows.sql", "mine.sql", "mine.json", "leaks.job", "leaks.json"):
        (tmp_path / name).touch()
    assert flink_host.kept(str(tmp_path)) == ["leaks", "mine"]
    assert flink_host.kept(str(tmp_path / "nowhere")) == []


def test_what_lies_on_disk_of_a_job(tmp_path: Path) -> None:
    for path in ("checkpoints/j/chk-1", "checkpoints/j/shared", "savepoints/j/savepoint-j-1", "checkpoints/other/chk-2"):
        (tmp_path / path).mkdir(parents=True)
    found = flink_host.states(["i", "j"], str(tmp_path / "jobs"))
    assert found == [str(tmp_path / "checkpoints/j/chk-1"), str(tmp_path / "savepoints/j/savepoint-j-1")]


def test_listening_sockets_of_both_families() -> None:
    tcp = "  sl  local_address\n   0: 0100007F:1F91 00000000:0000 0A 0\n   1: 0B094D0A:0016 00000000:0000 01 0\n"
    tcp6 = "  sl\n   0: 00000000000000000000000001000000:1F93 0:0000 0A 0\n   1: 0000000000000000FFFF00000100007F:1F91 0:0 0A 0\n"
    assert flink_host.parse_listeners(tcp, socket.AF_INET) == [("127.0.0.1", 8081)]
    assert flink_host.parse_listeners(tcp6, socket.AF_INET6) == [("::1", 8083), ("::ffff:127.0.0.1", 8081)]
    tcp = "head\n" + "".join(f"   {n}: 00000000:138{n} 00000000:0000 0A 0:0 0:0 0 {uid} 0 1\n" for n, uid in enumerate((0, 997, 9970)))
    assert flink_host.parse_listeners(tcp, socket.AF_INET, 997) == [("0.0.0.0", 0x1381)]
    with socket.create_server(("127.0.0.1", 0)) as mine:
        me = pwd.getpwuid(os.getuid()).pw_name
        assert ("127.0.0.1", mine.getsockname()[1]) in flink_host.own_listeners(me)
    assert flink_host.own_listeners("hnai-nobody-at-all") == []


def test_every_port_of_the_contract_may_be_reached_from_its_host_only() -> None:
    assert sorted(Expected(jobs=()).ports) == sorted(contracts.ports("flink").values())
