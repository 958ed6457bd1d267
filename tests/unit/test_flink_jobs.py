# SPDX-License-Identifier: Apache-2.0
"""The keeper of declared jobs: exactly one per name, carried over by savepoint or replay, back to the old one when the new one fails."""
from __future__ import annotations

import importlib.util
import json
import os
import re
import socket
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml

SOURCE = Path(__file__).resolve().parents[2] / "roles/flink/tree/usr/local/lib/hnai/flink/jobs.py"
spec = importlib.util.spec_from_file_location("flink_jobs", SOURCE)
assert spec and spec.loader
jobs = importlib.util.module_from_spec(spec)
sys.modules["flink_jobs"] = jobs
spec.loader.exec_module(jobs)
Job, Action = jobs.Job, jobs.Action


def memory(**change: Any) -> dict[str, Any]:
    return dict({"digest": "1", "upgrade": None, "rejected": None}, **change)


def upgrade(phase: str, **change: Any) -> dict[str, Any]:
    return memory(upgrade=dict({"phase": phase, "old": "x", "digest": "2"}, **change))


def test_the_role_offers_the_releases_that_have_a_lock() -> None:
    role = SOURCE.parents[6]
    flink = yaml.safe_load((role / "meta/component.yml").read_text())["artifacts"][0]
    option = yaml.safe_load((role / "meta/argument_specs.yml").read_text())["argument_specs"]["main"]["options"]["flink_version"]
    assert (option["default"], option["choices"]) == (flink["version"], [flink["version"], *flink["releases"]])
    assert all((role / f"files/flink-{release}.lock.json").is_file() for release in option["choices"])


def test_a_declared_job_that_does_not_run_is_submitted() -> None:
    assert jobs.decide("1", [], memory()) == Action("start")
    assert jobs.decide("1", [], memory(digest="")) == Action("start")


def test_a_running_job_with_the_wanted_statement_is_left_alone() -> None:
    assert jobs.decide("1", [Job("x", "a", "RUNNING", 1)], memory()).kind == "none"


def test_of_two_of_one_name_the_older_goes() -> None:
    both = [Job("y", "a", "RESTARTING", 2), Job("x", "a", "RUNNING", 1)]
    assert jobs.decide("1", both, memory())[:2] == ("cancel", "x")


@pytest.mark.parametrize("known", [memory(job_ids=["x"]), memory(job_ids=["x"], upgrade={"phase": "stopping", "old": "x"}),
                                   memory(job_ids=["w"], upgrade={"phase": "verifying", "old": "w", "new": "x"})])
def test_of_two_the_one_stays_that_the_keeper_started(known: dict[str, Any]) -> None:
    """Somebody submitted the other one by hand: nobody knows what it does, and from where it began."""
    both = [Job("x", "a", "RUNNING", 1), Job("y", "a", "RUNNING", 2)]
    assert jobs.decide("1", both, known)[:2] == ("cancel", "y")


def test_a_job_that_goes_away_is_waited_for() -> None:
    assert jobs.decide("1", [Job("x", "a", "CANCELLING", 1)], memory()).kind == "none"
    assert jobs.decide("2", [Job("x", "a", "CANCELLING", 1)], upgrade("stopping")).kind == "none"


def test_a_changed_statement_is_an_upgrade_of_the_job_that_runs() -> None:
    assert jobs.decide("2", [Job("x", "a", "RUNNING", 1)], memory()) == Action("upgrade", "x")
    assert jobs.decide("2", [], memory()) == Action("upgrade")


def test_a_rejected_statement_is_not_tried_again() -> None:
    known = memory(rejected={"digest": "2"})
    assert jobs.decide("2", [Job("x", "a", "RUNNING", 1)], known).kind == "none"
    assert jobs.decide("2", [], known) == Action("start")
    assert jobs.decide("3", [Job("x", "a", "RUNNING", 1)], known) == Action("upgrade", "x")


def test_an_upgrade_stops_starts_and_is_judged() -> None:
    old, new = Job("x", "a", "RUNNING", 1), Job("y", "a", "RUNNING", 2)
    assert jobs.decide("2", [old], upgrade("stopping")) == Action("stop", "x")
    assert jobs.decide("2", [], upgrade("stopping")) == Action("start")
    assert jobs.decide("2", [new], upgrade("stopping"))[:2] == ("cancel", "y"), "nobody knows what it is"
    assert jobs.decide("2", [new], upgrade("verifying")).kind == "none"
    assert jobs.decide("2", [new], upgrade("verifying"), ("healthy", "")) == Action("accept", "y")
    assert jobs.decide("2", [new], upgrade("verifying"), ("broken", "bad")) == Action("give_up", "y", "bad")
    assert jobs.decide("2", [], upgrade("verifying")).kind == "give_up"
    assert jobs.decide("2", [new], upgrade("returning"))[:2] == ("cancel", "y")
    assert jobs.decide("2", [], upgrade("returning")) == Action("start")


def test_a_statement_that_changes_again_waits_for_the_upgrade_under_way() -> None:
    assert jobs.decide("3", [Job("y", "a", "RUNNING", 2)], upgrade("verifying")).kind == "none"


def test_an_undeclared_job_is_found_and_one_that_is_gone_is_not() -> None:
    gone = [Job("y", "gone", "FINISHED", 1), Job("z", "going", "CANCELLING", 1)]
    assert jobs.undeclared({"a"}, [Job("x", "old", "RUNNING", 1), Job("w", "a", "RUNNING", 1), *gone]) == [Job("x", "old", "RUNNING", 1)]


def checkpoint(root: Path, job: str, name: str, when: float, size: int = 3) -> Path:
    directory = root / job / name
    directory.mkdir(parents=True)
    (directory / "_metadata").write_bytes(b"x" * size)
    os.utime(directory / "_metadata", (when, when))
    return directory


def test_the_newest_complete_state_of_its_own_jobs(tmp_path: Path) -> None:
    checkpoints, savepoints = tmp_path / "c", tmp_path / "s"
    checkpoint(checkpoints, "j1", "chk-7", 100)
    newest = checkpoint(checkpoints, "j2", "chk-3", 200)
    checkpoint(checkpoints, "j2", "chk-4", 300, size=0)
    (checkpoints / "j2" / "chk-5").mkdir()
    (checkpoints / "j2" / "shared").mkdir()
    checkpoint(checkpoints, "other", "chk-9", 400)
    assert jobs.newest_state([checkpoints, savepoints], ["j1", "j2", "none"]) == str(newest)
    stopped = checkpoint(savepoints, "j2", "savepoint-j2-1", 250)
    assert jobs.newest_state([checkpoints, savepoints], ["j1", "j2"]) == str(stopped)
    assert jobs.newest_state([checkpoints, savepoints], []) is None
    checkpoint(checkpoints, "j3", "chk-1", 50)
    assert jobs.newest_state([checkpoints, savepoints], ["j1", "j2", "j3"]).endswith("j3/chk-1"), "the clock went back meanwhile"


def test_statements_end_at_a_line_end_only() -> None:
    assert jobs.statements("-- c;\nCREATE TABLE t (\n a STRING) WITH ('x' = 'a;b');\n\nINSERT INTO t\nSELECT 1;\n") == [
        "CREATE TABLE t (\n a STRING) WITH ('x' = 'a;b')",
        "INSERT INTO t\nSELECT 1",
    ]


def test_a_statement_set_is_one_statement() -> None:
    text = "CREATE TABLE t (a INT);\nEXECUTE STATEMENT SET\nBEGIN\n\nINSERT INTO t SELECT 1;\n\nINSERT INTO u SELECT 2;\n\nEND;\nSELECT 1;\n"
    found = jobs.statements(text)
    assert [one.split()[0] for one in found] == ["CREATE", "EXECUTE", "SELECT"]
    assert found[1].endswith("INSERT INTO t SELECT 1;\nINSERT INTO u SELECT 2;\nEND;")


@pytest.mark.parametrize(("text", "words"), [
    ("SELECT 1;\nINSERT INTO t SELECT 1;", "'SELECT 1' is neither"),
    ("CREATE TABLE u WITH ('connector' = 'x') AS SELECT 1;\nINSERT INTO t SELECT 1;", "'CREATE TABLE u WITH' is neither"),
    ("EXECUTE INSERT INTO t SELECT 1;", "'EXECUTE INSERT INTO t' is neither"),
    ("/* open\nINSERT INTO t SELECT 1;", "is neither"),
    ("INSERT INTO t SELECT 1;\nINSERT INTO t SELECT 2;", "2 statements of it start a job each"),
    ("CREATE TABLE t (a INT);", "no statement of it starts a job"),
    ("SET 'pipeline.name' = 'mine';\nINSERT INTO t SELECT 1;", "is its keeper's to say"),
    ("SET 'execution.state-recovery.ignore-unclaimed-state' = 'true';\nINSERT INTO t SELECT 1;", "is its keeper's to say"),
])
def test_a_file_starts_one_job_and_its_plan_none(monkeypatch: pytest.MonkeyPatch, text: str, words: str) -> None:
    """A plan executes what stands before the statement that it explains."""
    asked: list[str] = []
    monkeypatch.setattr(jobs.Session, "__enter__", lambda session: session)
    monkeypatch.setattr(jobs.Session, "__exit__", lambda *_error: None)
    monkeypatch.setattr(jobs.Session, "execute", lambda _session, statement: asked.append(statement) or {})
    for what in (lambda: jobs.explain("a", text, {}), lambda: jobs.submit("a", text, {}, None)):
        with pytest.raises(jobs.Refused, match=words):
            what()
    assert asked == []


def test_what_is_made_ready_and_said_before_a_statement_starts_nothing() -> None:
    text = "/* a; */ CREATE TEMPORARY VIEW v AS SELECT 1;\n/* b */\n/* c */ set 'table.exec.state.ttl' = '1 h';\n/* d */ insert into t SELECT /*+ x */ 1;\n"
    assert [one.split()[0] for one in jobs.checked("a", text)] == ["CREATE", "set", "insert"]


def node(number: int, kind: str, contents: str, *inputs: int) -> dict[str, Any]:
    return {"id": number, "type": kind, "contents": contents, "predecessors": [{"id": one, "ship_strategy": "HASH"} for one in inputs]}


def plan_of(key: str = "key=[a]", calc: str = "x", sink: str = "t[5]: Writer", first: int = 3) -> dict[str, Any]:
    return {
        "nodes": [
            node(first, f"Source: r[{first}]", f"[{first}]:Scan"), node(7, "Calc[7]", calc, first),
            node(9, "Deduplicate[9]", f"[9]:Deduplicate({key})", 7), node(11, sink, sink, 9),
        ]
    }


def test_another_expression_keeps_the_state_and_numbers_of_a_session_say_nothing() -> None:
    assert jobs.way(jobs.shape(plan_of(), {}), jobs.shape(plan_of(calc="y", sink="t[55]: Writer", first=4), {}))[0] == "savepoint"


def test_another_key_or_another_operator_is_replayed() -> None:
    before = jobs.shape(plan_of(), {})
    assert jobs.way(before, jobs.shape(plan_of(key="key=[a, b]"), {}))[0] == "replay"
    more = plan_of()
    more["nodes"].insert(2, node(8, "Calc[8]", "z", 7))
    assert jobs.way(before, jobs.shape(more, {}))[0] == "replay"


@pytest.mark.parametrize(("text", "way"), [
    ("CREATE TABLE r (a INT) WITH ('connector' = 'kafka', 'topic'='ot.raw', 'properties.x' = 'y');", "savepoint"),
    ("CREATE TEMPORARY TABLE `r` (a INT) WITH ('connector' = 'kafka', 'topic' = 'ot.raw2');", "replay"),
    ("create table if not exists c.d.r (a INT) WITH ('connector' = 'files', 'topic' = 'ot.raw');", "replay"),
])
def test_how_far_one_topic_was_read_says_nothing_of_another(text: str, way: str) -> None:
    """A source goes on with the partitions that its state names, whatever the statement says."""
    old = "CREATE TABLE r (a INT) WITH (\n  'connector' = 'kafka',\n  'topic' = 'ot.raw'\n);\n"
    before, after = (jobs.shape(plan_of(), jobs.reads(one)) for one in (old, text))
    found = jobs.way(before, after)
    assert found[0] == way
    assert way == "savepoint" or "ot.raw, was " in found[1] or "ot.raw2, was " in found[1]


def test_a_materializer_has_state() -> None:
    plan = plan_of()
    plan["nodes"][2] = node(9, "SinkMaterializer[9]", "pk=[a]", 7)
    other = plan_of()
    other["nodes"][2] = node(9, "SinkMaterializer[9]", "pk=[b]", 7)
    assert jobs.way(jobs.shape(plan, {}), jobs.shape(other, {}))[0] == "replay"


def test_options_and_the_moment_of_a_replay() -> None:
    sql = "-- a\n-- keeper: replay_margin_s=90, upgrade=replay\nCREATE TABLE t WITH ('scan.startup.mode' = 'group-offsets');\n"
    assert jobs.options(sql) == {"replay_margin_s": "90", "upgrade": "replay"}
    assert "'scan.startup.mode' = 'timestamp', 'scan.startup.timestamp-millis' = '1500'" in jobs.from_moment(sql, 1.5)
    assert "group-offsets" not in jobs.from_moment(sql, 1.5)
    assert jobs.from_moment(sql.replace(" = ", "="), 1.5) == jobs.from_moment(sql, 1.5).replace("x = ", "x=")


class Cluster:
    """What the keeper's calls do to a cluster, and what they did."""

    def __init__(self, root: Path) -> None:
        self.root, self.jobs, self.done, self.clock = root, [], [], 1000.0
        self.jobs: list[Any] = []
        self.done: list[tuple[str, ...]] = []
        self.watched: tuple[str, str] = ("", "")
        self.shapes: dict[str, list[list[Any]]] = {}
        self.refuse: dict[str, Exception] = {}
        self.unfit: dict[str, str] = {}
        self.texts: list[str] = []
        self.sessions: list[dict[str, str]] = []
        self.wishes: list[str] = []

    def rehearsed(self, sql: str) -> None:
        if sql in self.unfit:
            raise jobs.Refused(self.unfit[sql])

    def submit(self, name: str, sql: str, session: dict[str, str], start: str | None) -> str:
        if sql in self.refuse:
            raise self.refuse[sql]
        job = f"job{len(self.texts) + 1}"
        self.texts.append(sql)
        self.sessions.append(session)
        self.done.append(("submit", Path(start).name if start else "none"))
        self.jobs = [*self.jobs, Job(job, name, "RUNNING", int(1000 * self.clock) + len(self.texts))]
        return job

    def wish(self, job_id: str) -> str:
        self.wishes.append(job_id)
        return f"wish{len(self.wishes)}"

    def stop(self, job_id: str, _wish: str = "") -> str:
        self.done.append(("stop", job_id))
        self.jobs = [job for job in self.jobs if job.id != job_id]
        return str(checkpoint(self.root / "savepoints", job_id, f"savepoint-{job_id}", 500 + len(self.done)))

    def cancel(self, job_id: str) -> None:
        self.done.append(("cancel", job_id))
        self.jobs = [job for job in self.jobs if job.id != job_id]


OLD, NEW = "INSERT INTO t SELECT 1;\n", "INSERT INTO t SELECT 2;\n"


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    return made(tmp_path, monkeypatch)


def made(root: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    for name in ("config", "state", "checkpoints", "savepoints"):
        (root / name).mkdir(parents=True)
    (root / "config/jobs.json").write_text(json.dumps({"jobs": ["a"], "session": {}}))
    found = Cluster(root)
    for name in ("submit", "wish", "stop", "cancel"):
        monkeypatch.setattr(jobs, name, getattr(found, name))
    monkeypatch.setattr(jobs, "running", lambda: found.jobs)
    monkeypatch.setattr(jobs, "watch", lambda _job: found.watched)
    monkeypatch.setattr(jobs, "explain", lambda _name, sql, _session: found.shapes.get(sql, []))
    monkeypatch.setattr(jobs, "behind", lambda _job: 0.0)
    monkeypatch.setattr(jobs, "rehearse", lambda _name, sql, _session: found.rehearsed(sql))
    declare(found, OLD)
    return found


def declare(cluster: Cluster, sql: str) -> None:
    jar = jobs.program(sql)
    path = cluster.root / ("config/a.job" if jar else "config/a.sql")
    path.write_text(sql)
    os.utime(path, (1, 1))
    if jar:
        path = cluster.root / f"state/a.{jar['jar']}.jar"
        path.touch()
        os.utime(path, (int(jar["jar"]), int(jar["jar"])))


def keeper(cluster: Cluster) -> Any:
    root = cluster.root
    return jobs.Keeper(root / "config", root / "state", root / "checkpoints", root / "savepoints", now=lambda: cluster.clock)


def steps(cluster: Cluster, number: int) -> dict[str, Any]:
    """A new keeper for every step: it may be killed between any two."""
    for _one in range(number):
        keeper(cluster).step()
    return keeper(cluster).recall("a")


def test_after_a_restart_of_the_cluster_it_goes_on_from_its_checkpoint(cluster: Cluster) -> None:
    steps(cluster, 2)
    checkpoint(cluster.root / "checkpoints", "job1", "chk-1", 100)
    cluster.jobs = []
    known = steps(cluster, 2)
    assert cluster.done == [("submit", "none"), ("submit", "chk-1")]
    assert known["job_ids"] == ["job1", "job2"]


@pytest.mark.parametrize("first", [True, False])
def test_a_keeper_that_was_killed_before_it_knew_the_id_of_its_job_knows_it_again(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, first: bool
) -> None:
    """Else the job would be a stranger for ever: never upgraded, and its checkpoints not gone on from."""
    if not first:
        steps(cluster, 1)
        cluster.jobs = []

    def submit(*given: Any) -> str:
        cluster.submit(*given)
        raise KeyboardInterrupt

    with monkeypatch.context() as killed:
        killed.setattr(jobs, "submit", submit)
        with pytest.raises(KeyboardInterrupt):
            steps(cluster, 1)
    (job,) = cluster.jobs
    known = steps(cluster, 2)
    assert (known["job_ids"][-1], known["started"]["job_id"], known["digest"], known["submitting"]) == (job.id, job.id, jobs.digest(OLD, {}), None)
    declare(cluster, NEW)
    steps(cluster, 1)
    assert cluster.done[-1] == ("stop", job.id)


def jar(sha256: str, **more: Any) -> str:
    return json.dumps({"jar": sha256, **more})


class Killed(BaseException):
    """By SIGKILL: nothing catches it."""


@pytest.mark.parametrize("verdict", ["healthy", "broken"])
@pytest.mark.parametrize("way", ["savepoint", "replay", "jar"])
def test_a_kill_at_any_moment_of_an_upgrade_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str, verdict: str) -> None:
    """Before and after everything that the keeper does to the cluster or its memory; and it is away for ten minutes."""
    text = "-- keeper: replay_margin_s=90\nCREATE TABLE r WITH ('scan.startup.mode' = 'group-offsets');\nINSERT INTO t SELECT %d;\n"
    old, new = (text % 1, text % 2) if way != "jar" else (jar("1"), jar("2"))
    moment = 0
    while True:
        cluster = made(tmp_path / str(moment), monkeypatch)
        cluster.shapes = {new: [["Deduplicate", [], "key=[b]"]]} if way == "replay" else {}
        declare(cluster, old)
        steps(cluster, 2)
        checkpoint(cluster.root / "checkpoints", "job1", "chk-1", 1)
        left = [moment]

        def dying(call: Any, left: list[int] = left) -> Any:
            def called(*given: Any) -> Any:
                left[0] -= 1
                if left[0] == -1:
                    raise Killed
                answer = call(*given)
                left[0] -= 1
                if left[0] == -1:
                    raise Killed
                return answer
            return called

        declare(cluster, new)
        with monkeypatch.context() as mortal:
            for name in ("submit", "wish", "stop", "cancel"):
                mortal.setattr(jobs, name, dying(getattr(cluster, name)))
            mortal.setattr(jobs.Keeper, "remember", dying(jobs.Keeper.remember))
            try:
                for _step in range(12):
                    cluster.watched = (verdict, "") if len(cluster.texts) > 1 else ("", "")
                    steps(cluster, 1)
                    for job in cluster.jobs:
                        checkpoint(cluster.root / "checkpoints", job.id, f"chk-{_step + 2}", 2000 + _step)
            except Killed:
                cluster.clock += 600
            if way == "jar":
                left_there = {path.name for path in (cluster.root / "state").glob("*.jar")}
                assert "a.1.jar" in left_there or keeper(cluster).recall("a")["digest"] == jobs.digest(new, {}), "the way back"
        killed = left[0] < 0
        cluster.watched = (verdict, "")
        known = steps(cluster, 12)
        (job,) = cluster.jobs
        assert (known["job_ids"][-1], known["upgrade"]) == (job.id, None)
        assert known["digest"] == jobs.digest(new if verdict == "healthy" else old, {})
        starts = [start for what, start in cluster.done if what == "submit"]
        for number, (submitted, start) in enumerate(zip(cluster.texts, starts)):
            if submitted == old and number:
                assert start == "savepoint-job1", "the old one never without its state, and never from the new one's"
            elif submitted == new:
                assert way != "replay" and start == "savepoint-job1"
            elif number:
                assert "'scan.startup.timestamp-millis' = '910000'" in submitted and (way, start) == ("replay", "none")
        if not killed:
            break
        moment += 1
    assert moment >= 12


def test_the_old_statement_comes_back_as_it_ran_and_never_from_the_state_of_the_new_one(cluster: Cluster) -> None:
    """With the settings that it ran with: with others its state might not fit either."""
    steps(cluster, 1)
    (cluster.root / "config/jobs.json").write_text(json.dumps({"jobs": ["a"], "session": {"table.exec.mini-batch.enabled": "true"}}))
    steps(cluster, 2)
    new = checkpoint(cluster.root / "checkpoints", "job2", "chk-1", 5000)
    cluster.watched = ("broken", "bad")
    steps(cluster, 2)
    assert not new.exists()
    cluster.jobs = []
    checkpoint(cluster.root / "checkpoints", "job2", "chk-1", 5000)
    known = steps(cluster, 1)
    assert cluster.done[-1] == ("submit", "savepoint-job1")
    assert cluster.sessions == [{}, {"table.exec.mini-batch.enabled": "true"}, {}, {}]
    assert known["job_ids"] == ["job1", "job3", "job4"]


DIVISION = "java.lang.ArithmeticException: / by zero"
MIGRATION = "org.apache.flink.util.StateMigrationException: The new state serializer (a) must not be incompatible"


@pytest.mark.parametrize(("trace", "why"), [
    (f"java.lang.RuntimeException: wrapped\n\tat a.b\nCaused by: {DIVISION}\n\tat c", f"Caused by: {DIVISION}"),
    (f"{DIVISION}\n\tat c", DIVISION),
    (f"{MIGRATION}\n\tat c", f"{MIGRATION}{jobs.UNFIT}"),
])
def test_what_a_new_job_died_of_is_said_with_what_helps(monkeypatch: pytest.MonkeyPatch, trace: str, why: str) -> None:
    said = {"exceptionHistory": {"entries": [{"exceptionName": "x", "stacktrace": trace}]}}
    monkeypatch.setattr(jobs, "call", lambda _method, _url: said)
    assert jobs.watch(Job("j", "a", "RESTARTING", 1)) == ("broken", why)


@pytest.mark.parametrize(("known", "why"), [(True, "the state does not fit"), (False, "it is gone")])
def test_what_a_new_job_died_of_before_it_began_is_said(cluster: Cluster, monkeypatch: pytest.MonkeyPatch, known: bool, why: str) -> None:
    """The JobManager knows it still, unless it was started again."""
    steps(cluster, 1)
    declare(cluster, NEW)
    steps(cluster, 2)
    cluster.jobs = []

    def watch(job: Any) -> tuple[str, str]:
        if not known:
            raise jobs.Refused("404")
        return "broken", f"{job.id}: the state does not fit"

    monkeypatch.setattr(jobs, "watch", watch)
    assert steps(cluster, 2)["last"]["why"] == ("job2: " if known else "") + why


def test_a_job_that_is_no_more_while_its_statement_changes_is_replayed_from_where_it_stood(cluster: Cluster) -> None:
    text = "-- keeper: replay_margin_s=90, upgrade=replay\nCREATE TABLE r WITH ('scan.startup.mode' = 'group-offsets');\nINSERT INTO t SELECT %d;\n"
    declare(cluster, text % 1)
    steps(cluster, 2)
    cluster.clock, cluster.jobs = 5000.0, []
    declare(cluster, text % 2)
    steps(cluster, 2)
    assert "'scan.startup.timestamp-millis' = '910000'" in cluster.texts[-1]


def test_a_job_that_never_caught_up_is_replayed_from_the_committed_offsets(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """A moment after its start could be a moment after records that it has not read yet."""
    monkeypatch.setattr(jobs, "behind", lambda _job: 1e6)
    text = "-- keeper: replay_margin_s=90, upgrade=replay\nCREATE TABLE r WITH ('scan.startup.mode' = 'group-offsets');\nINSERT INTO t SELECT %d;\n"
    declare(cluster, text % 1)
    steps(cluster, 2)
    declare(cluster, text % 2)
    steps(cluster, 2)
    assert cluster.texts[-1] == text % 2


def test_the_old_one_that_comes_late_is_not_taken_for_the_new_one(cluster: Cluster) -> None:
    """The gateway was away, and handed it over all the same."""
    steps(cluster, 1)
    cluster.jobs = []
    cluster.refuse = {OLD: OSError("timed out")}
    with pytest.raises(OSError, match="timed out"):
        steps(cluster, 1)
    declare(cluster, NEW)
    cluster.refuse = {NEW: OSError("timed out")}
    with pytest.raises(OSError, match="timed out"):
        steps(cluster, 2)
    memory = keeper(cluster).recall("a")
    keeper(cluster).remember("a", {**memory, "submitting": {**memory["submitting"], "digest": jobs.digest(OLD, {})}})
    cluster.refuse, cluster.jobs = {}, [Job("late", "a", "RUNNING", 2_000_000)]
    steps(cluster, 1)
    assert cluster.done[-1] == ("cancel", "late")
    cluster.watched = ("healthy", "")
    assert steps(cluster, 3)["digest"] == jobs.digest(NEW, {})
    assert cluster.texts[-1] == NEW


def test_a_job_that_somebody_started_before_is_not_taken_for_the_keepers(cluster: Cluster) -> None:
    cluster.jobs = [Job("theirs", "a", "RUNNING", 1)]
    memory = {**keeper(cluster).recall("a"), "digest": "1", "sql": OLD, "submitting": {"digest": "1", "sql": OLD, "from": None, "at": 1000.0}}
    keeper(cluster).remember("a", memory)
    assert steps(cluster, 1)["job_ids"] == []


def test_a_memory_that_cannot_be_read_is_not_taken_for_none(cluster: Cluster) -> None:
    """Its job would begin without state, beside the checkpoints from which it is to go on."""
    steps(cluster, 1)
    path = keeper(cluster).state / "a.json"
    whole = path.read_text()
    submitted, cluster.jobs = len(cluster.texts), []
    for cut in range(len(whole)):
        path.write_text(whole[:cut])
        with pytest.raises(OSError, match=r"a: .*a\.json: .*begins without state"):
            steps(cluster, 1)
    assert len(cluster.texts) == submitted
    path.write_text(whole)
    assert steps(cluster, 1)["digest"] == jobs.digest(OLD, {})


@pytest.mark.parametrize("cut", [0, 1, 20])
def test_an_answer_that_was_cut_says_nothing_about_a_job(cut: int) -> None:
    body = b'{"jobs":[],"errors":[]}'[:cut]
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            for length in (len(body), 23):  # ended as if it were whole; ended too early
                with listener.accept()[0] as peer:
                    peer.recv(4096)
                    peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (length, body))

        threading.Thread(target=answer, daemon=True).start()
        for _look in range(2):
            with pytest.raises((OSError, KeyError)):
                jobs.call("GET", "http://127.0.0.1:%d/jobs/overview" % listener.getsockname()[1])["jobs"]


def test_an_upgrade_goes_by_savepoint_and_is_accepted_when_healthy(cluster: Cluster) -> None:
    steps(cluster, 1)
    declare(cluster, NEW)
    steps(cluster, 3)
    cluster.watched = ("healthy", "")
    known = steps(cluster, 2)
    assert cluster.done == [("submit", "none"), ("stop", "job1"), ("submit", "savepoint-job1")]
    assert (known["digest"], known["upgrade"]) == (jobs.digest(NEW, {}), None)
    assert (known["last"]["result"], known["last"]["way"], known["last"]["previous"]) == ("upgraded", "savepoint", "job1")


def test_a_broken_new_statement_goes_back_to_the_old_one_from_the_same_savepoint_and_stays_there(cluster: Cluster) -> None:
    steps(cluster, 1)
    declare(cluster, NEW)
    steps(cluster, 2)
    cluster.watched = ("broken", "Caused by: division by zero")
    known = steps(cluster, 4)
    assert cluster.done == [("submit", "none"), ("stop", "job1"), ("submit", "savepoint-job1"), ("cancel", "job2"), ("submit", "savepoint-job1")]
    assert cluster.texts == [OLD, NEW, OLD]
    assert known["digest"] == jobs.digest(OLD, {})
    assert known["rejected"]["why"] == "Caused by: division by zero"
    assert (known["last"]["result"], known["last"]["job_id"]) == ("rolled back", "job3")


def test_a_rejected_statement_is_tried_again_when_its_file_is_written_again(cluster: Cluster) -> None:
    test_a_broken_new_statement_goes_back_to_the_old_one_from_the_same_savepoint_and_stays_there(cluster)
    os.utime(cluster.root / "config/a.sql", (2000, 2000))
    cluster.watched = ("healthy", "")
    known = steps(cluster, 4)
    assert known["digest"] == jobs.digest(NEW, {})


def test_a_rejected_statement_is_forgotten_when_the_one_that_runs_is_declared_again(cluster: Cluster) -> None:
    test_a_broken_new_statement_goes_back_to_the_old_one_from_the_same_savepoint_and_stays_there(cluster)
    done = list(cluster.done)
    cluster.watched = ("healthy", "")
    declare(cluster, OLD)
    known = steps(cluster, 2)
    assert (known["rejected"], cluster.done) == (None, done)


def test_a_new_job_that_never_becomes_whole_is_given_up_after_the_deadline(cluster: Cluster) -> None:
    steps(cluster, 1)
    declare(cluster, NEW)
    steps(cluster, 3)
    cluster.clock += jobs.VERIFY_S + 1
    known = steps(cluster, 2)
    assert known["last"]["result"] == "rolled back"
    assert cluster.texts[-1] == OLD


def test_state_that_does_not_fit_is_replayed_and_never_forced(cluster: Cluster) -> None:
    steps(cluster, 1)
    cluster.shapes = {OLD: [["Deduplicate", [], "key=[a]"]], NEW: [["Deduplicate", [], "key=[b]"]]}
    declare(cluster, NEW)
    steps(cluster, 2)
    assert cluster.done == [("submit", "none"), ("stop", "job1"), ("submit", "none")]
    cluster.watched = ("broken", "bad")
    steps(cluster, 2)
    assert cluster.done[-1] == ("submit", "savepoint-job1")


def test_a_window_is_replayed_from_before_the_position_of_the_old_job(cluster: Cluster) -> None:
    text = "-- keeper: replay_margin_s=90, upgrade=replay\nCREATE TABLE r WITH ('scan.startup.mode' = 'group-offsets');\nINSERT INTO t SELECT %d;\n"
    declare(cluster, text % 1)
    steps(cluster, 2)
    cluster.clock = 5000.0
    declare(cluster, text % 2)
    steps(cluster, 2)
    assert "'scan.startup.timestamp-millis' = '910000'" in cluster.texts[-1], "1000 s, when it was caught up last, less 90"


def test_a_statement_that_flink_does_not_take_stops_nothing(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    steps(cluster, 1)
    declare(cluster, NEW)

    def refuse(_name: str, sql: str, _session: dict[str, str]) -> list[list[Any]]:
        raise jobs.Refused("SQL parse failed")

    monkeypatch.setattr(jobs, "explain", refuse)
    known = steps(cluster, 3)
    assert cluster.done == [("submit", "none")]
    assert (known["last"]["result"], known["rejected"]["why"]) == ("refused", "SQL parse failed")


def test_a_new_statement_that_is_refused_at_its_start_goes_back(cluster: Cluster) -> None:
    steps(cluster, 1)
    declare(cluster, NEW)
    cluster.refuse = {NEW: jobs.Refused("no such topic")}
    known = steps(cluster, 3)
    assert cluster.done[-1] == ("submit", "savepoint-job1")
    assert known["last"]["result"] == "rolled back"


def test_a_gateway_that_is_away_rejects_nothing(cluster: Cluster) -> None:
    steps(cluster, 1)
    declare(cluster, NEW)
    cluster.refuse = {NEW: OSError("connection refused")}
    with pytest.raises(OSError, match="connection refused"):
        steps(cluster, 3)
    cluster.refuse = {}
    known = steps(cluster, 1)
    assert (known["upgrade"]["phase"], known["rejected"]) == ("verifying", None)


def test_a_job_that_cannot_make_a_savepoint_is_replaced_from_its_newest_checkpoint(cluster: Cluster) -> None:
    steps(cluster, 1)
    checkpoint(cluster.root / "checkpoints", "job1", "chk-8", 100)
    cluster.jobs = [cluster.jobs[0]._replace(state="RESTARTING", whole=False)]
    declare(cluster, NEW)
    steps(cluster, 2)
    assert cluster.done[1:] == [("cancel", "job1"), ("submit", "chk-8")]


@pytest.mark.parametrize("why", ["upgrade", "park"])
def test_a_job_is_asked_once_to_stop_and_its_savepoint_waited_for(cluster: Cluster, monkeypatch: pytest.MonkeyPatch, why: str) -> None:
    """The savepoint took longer than it was waited for: its sources have finished, its sinks not yet."""
    steps(cluster, 1)
    checkpoint(cluster.root / "checkpoints", "job1", "chk-1", 1)
    if why == "park":
        hold(cluster, monkeypatch, "2.2.0", "2.2.0")
    else:
        declare(cluster, NEW)

    def failed(_job: str, wish: str) -> str:
        raise jobs.Refused(f"{wish}: no space")

    if why == "park":
        with monkeypatch.context() as full:
            full.setattr(jobs, "stop", failed)
            with pytest.raises(OSError, match="wish1: no space"):
                steps(cluster, 1)
        cluster.wishes.pop()

    def slow(_job: str, wish: str) -> str:
        raise OSError(f"{wish}: no savepoint within 180 s")

    with monkeypatch.context() as waiting:
        waiting.setattr(jobs, "stop", slow)
        for whole in (True, False):
            cluster.jobs = [Job("job1", "a", "RUNNING", 1, whole)]
            with pytest.raises(OSError, match="wish1: no savepoint within 180 s"):
                steps(cluster, 1)
            cluster.clock += 181
    assert (cluster.done, cluster.wishes) == ([("submit", "none")], ["job1"])
    (cluster.root / "config/park").unlink(missing_ok=True)
    checkpoint(cluster.root / "savepoints", "job1", "savepoint-job1", 400)
    cluster.jobs = []
    steps(cluster, 1)
    assert cluster.done[1:] == [("submit", "savepoint-job1")]


def test_a_memory_of_the_first_release_is_understood(cluster: Cluster) -> None:
    (cluster.root / "state/a.json").write_text(json.dumps({"digest": jobs.digest(OLD, {}), "job_ids": ["job0"]}))
    cluster.jobs = [Job("job0", "a", "RUNNING", 1)]
    declare(cluster, NEW)
    known = steps(cluster, 2)
    assert cluster.done == [("stop", "job0"), ("submit", "none")], "nobody knows the old plan: replay"
    assert known["upgrade"]["way"] == "replay"


def test_a_file_of_its_own_declares_a_job_too(cluster: Cluster) -> None:
    (cluster.root / "config/b.json").write_text("{}")
    (cluster.root / "config/b.sql").write_text(NEW)
    steps(cluster, 1)
    assert sorted(job.name for job in cluster.jobs) == ["a", "b"]
    (cluster.root / "config/b.json").unlink()
    steps(cluster, 1)
    assert [job.name for job in cluster.jobs] == ["a"]


def test_the_outlook_says_the_way_and_changes_nothing(cluster: Cluster) -> None:
    assert jobs.outlook(keeper(cluster), "a", OLD)["way"] == "deploy"
    steps(cluster, 1)
    cluster.shapes = {OLD: [["Deduplicate", [], "key=[a]"]], NEW: [["Deduplicate", [], "key=[b]"]]}
    before = list(cluster.done)
    assert jobs.outlook(keeper(cluster), "a", OLD)["way"] == "none"
    assert jobs.outlook(keeper(cluster), "a", NEW)["way"] == "replay"
    assert cluster.done == before


@pytest.mark.parametrize("state", ["RUNNING", "RESTARTING", "CANCELLING", "CANCELED", "FAILED", None])
def test_the_outlook_sees_a_deployed_job_that_nobody_works_on(cluster: Cluster, state: str | None) -> None:
    steps(cluster, 1)
    cluster.jobs = [Job("job1", "a", state, 1)] if state else [Job("job9", "another", "RUNNING", 1)]
    found = jobs.outlook(keeper(cluster), "a", OLD)
    assert (found["way"], found["job_id"]) == ("none" if state in ("RUNNING", "RESTARTING", "CANCELLING") else "deploy", "job1")


def test_a_job_that_is_held_or_unseen_is_not_said_to_be_gone(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    steps(cluster, 1)
    cluster.jobs = []
    assert jobs.outlook(keeper(cluster), "a", OLD)["way"] == "deploy"
    hold(cluster, monkeypatch, "2.2.0", "2.2.0")
    assert jobs.outlook(keeper(cluster), "a", OLD)["way"] == "none"
    hold(cluster, monkeypatch, "2.2.1", "2.2.1")
    assert jobs.outlook(keeper(cluster), "a", OLD)["way"] == "deploy"

    def away() -> list[Any]:
        raise OSError("Connection refused")

    monkeypatch.setattr(jobs, "running", away)
    assert jobs.outlook(keeper(cluster), "a", OLD)["way"] == "none"


def test_old_savepoints_go_and_the_last_ones_stay(cluster: Cluster) -> None:
    cluster.watched = ("healthy", "")
    for number in range(5):
        declare(cluster, f"INSERT INTO t SELECT {number};\n")
        steps(cluster, 4)
    kept = sorted(path.name for path in (cluster.root / "savepoints").glob("*/savepoint-*"))
    assert kept == ["savepoint-job3", "savepoint-job4"]


def hold(cluster: Cluster, monkeypatch: pytest.MonkeyPatch, jobmanager: str, gateway: str, until: float = 2000.0) -> None:
    """A wish for 2.2.1, and what the cluster says it runs."""
    (cluster.root / "config/park").write_text(json.dumps({"release": "2.2.1", "until": until}))
    said = {jobs.REST + "/overview": {"flink-version": jobmanager}, jobs.GATEWAY + "/v3/info": {"version": gateway}}
    monkeypatch.setattr(jobs, "call", lambda _method, url: said[url])


def test_a_held_job_stops_with_a_savepoint_and_waits_for_both_halves_of_the_cluster(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    steps(cluster, 1)
    hold(cluster, monkeypatch, "2.2.0", "2.2.0")
    known = steps(cluster, 3)
    assert cluster.done == [("submit", "none"), ("stop", "job1")]
    assert (known["parked"]["job_id"], Path(known["parked"]["savepoint"]).name) == ("job1", "savepoint-job1")
    hold(cluster, monkeypatch, "2.2.1", "2.2.0")
    steps(cluster, 2)
    assert cluster.jobs == [], "an old gateway must not submit to a new JobManager"
    hold(cluster, monkeypatch, "2.2.1", "2.2.1")
    known = steps(cluster, 2)
    assert cluster.done[2:] == [("submit", "savepoint-job1")]
    assert known["parked"] is None
    assert known["started"]["job_id"] == "job2"
    assert known["started"]["from"].endswith("savepoint-job1")


def test_nobody_keeps_a_job_stopped_for_ever(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    steps(cluster, 1)
    hold(cluster, monkeypatch, "2.2.0", "2.2.0")
    steps(cluster, 1)
    cluster.clock = 2001.0
    steps(cluster, 1)
    assert cluster.done[2:] == [("submit", "savepoint-job1")]


def test_a_change_that_has_begun_is_ended_before_the_job_is_held(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    steps(cluster, 1)
    declare(cluster, NEW)
    steps(cluster, 2)
    hold(cluster, monkeypatch, "2.2.0", "2.2.0")
    steps(cluster, 2)
    assert cluster.done[-1] == ("submit", "savepoint-job1")
    cluster.watched = ("healthy", "")
    known = steps(cluster, 2)
    assert cluster.done[-1] == ("stop", "job2")
    assert known["digest"] == jobs.digest(NEW, {})


def test_a_job_that_is_not_whole_is_waited_for_and_then_goes_on_from_its_checkpoint(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    steps(cluster, 1)
    cluster.jobs = [Job("job1", "a", "RESTARTING", 1, False)]
    hold(cluster, monkeypatch, "2.2.0", "2.2.0")
    with pytest.raises(OSError, match="RESTARTING"):
        steps(cluster, 1)
    assert cluster.done == [("submit", "none")]
    cluster.clock += jobs.PARK_S + 1
    known = steps(cluster, 1)
    assert cluster.done[-1] == ("cancel", "job1")
    assert (known["parked"]["savepoint"], "RESTARTING" in known["parked"]["why"]) == ("", True)


def test_of_many_savepoints_the_newest_are_kept(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    for release in range(4):
        hold(cluster, monkeypatch, "2.2.1", "2.2.1")
        steps(cluster, 1)
        hold(cluster, monkeypatch, f"2.1.{release}", "2.2.0")
        steps(cluster, 1)
    found = sorted(path.name for path in (cluster.root / "savepoints").glob("*/savepoint-*"))
    assert found == ["savepoint-job3", "savepoint-job4"]


@pytest.mark.parametrize(("old", "new", "way"), [
    (jar("1"), jar("2"), "savepoint"), (jar("1"), jar("1", args=["x"]), "savepoint"), (jar("1"), jar("2", upgrade="replay"), "replay"),
    (OLD, jar("1"), "replay"), (jar("1"), OLD, "replay"),
])
def test_the_way_of_a_jar_is_the_savepoint_unless_it_says_otherwise(cluster: Cluster, old: str, new: str, way: str) -> None:
    declare(cluster, old)
    steps(cluster, 1)
    if not jobs.program(new):
        (cluster.root / "config/a.job").unlink()
    declare(cluster, new)
    assert jobs.outlook(keeper(cluster), "a", new)["way"] == way
    steps(cluster, 2)
    assert cluster.done[1:] == [("stop", "job1"), ("submit", "savepoint-job1" if way == "savepoint" else "none")]
    assert cluster.texts == [old, new]


def test_the_old_jar_stays_until_the_new_one_is_accepted(cluster: Cluster) -> None:
    def there() -> set[str]:
        return {path.name for path in (cluster.root / "state").glob("*.jar")}

    (cluster.root / "state/a.b.1.jar").touch()
    declare(cluster, jar("1"))
    steps(cluster, 1)
    declare(cluster, jar("2"))
    steps(cluster, 2)
    declare(cluster, jar("3"))
    cluster.watched = ("broken", "bad")
    steps(cluster, 2)
    assert there() == {"a.1.jar", "a.2.jar", "a.3.jar", "a.b.1.jar"}
    assert cluster.texts == [jar("1"), jar("2"), jar("1")]
    cluster.watched = ("healthy", "")
    steps(cluster, 4)
    assert there() == {"a.3.jar", "a.b.1.jar"}, "a.b is another job"
    declare(cluster, jar("4"))
    steps(cluster, 3)
    (cluster.root / "state/a.5.jar").touch()
    steps(cluster, 1)
    assert there() == {"a.4.jar", "a.5.jar", "a.b.1.jar"}, "the fifth is just being brought"


def test_a_jar_that_is_declared_meanwhile_is_kept(cluster: Cluster) -> None:
    for number in "12":
        declare(cluster, jar(number))
        steps(cluster, 2)
    declare(cluster, jar("1", args=["x"]))
    cluster.watched = ("healthy", "")
    steps(cluster, 3)
    assert cluster.texts[-1] == jar("1", args=["x"])
    assert (cluster.root / "state/a.1.jar").exists()


def test_a_program_that_fails_its_rehearsal_stops_nothing_and_starts_nothing(cluster: Cluster) -> None:
    cluster.unfit = {jar("1"): "main throws", jar("3"): "another name"}
    declare(cluster, jar("1"))
    known = steps(cluster, 3)
    assert (cluster.done, known["last"]["result"], known["rejected"]["why"]) == ([], "refused", "main throws")
    assert jobs.outlook(keeper(cluster), "a", jar("1"))["way"] == "rejected"
    declare(cluster, jar("2"))
    steps(cluster, 1)
    declare(cluster, jar("3"))
    known = steps(cluster, 3)
    assert (cluster.done, known["rejected"]["why"]) == ([("submit", "none")], "another name")


def test_a_first_program_that_was_refused_is_tried_again_when_it_is_declared_again(cluster: Cluster) -> None:
    cluster.unfit = {jar("1"): "main throws"}
    declare(cluster, jar("1"))
    steps(cluster, 2)
    cluster.unfit = {}
    os.utime(cluster.root / "config/a.job", (2000, 2000))
    steps(cluster, 2)
    assert cluster.texts == [jar("1")]


def test_a_first_program_that_is_refused_at_its_start_is_not_started_again_and_again(cluster: Cluster) -> None:
    """It starts two jobs, say: of each attempt the first would run for a moment."""
    asked: list[str] = []

    def rehearsed(sql: str) -> None:
        asked.append(sql)

    cluster.refuse, cluster.rehearsed = {jar("1"): jobs.Refused("submitted already")}, rehearsed  # type: ignore[method-assign]
    declare(cluster, jar("1"))
    known = steps(cluster, 3)
    assert (asked, known["submitting"], known["rejected"]["why"], known["last"]["result"]) == ([jar("1")], None, "submitted already", "refused")


def test_a_job_whose_jar_is_not_there_yet_keeps_no_other_waiting(cluster: Cluster) -> None:
    (cluster.root / "config/jobs.json").write_text(json.dumps({"jobs": ["0", "a"], "session": {}}))
    cluster.jobs = [Job("j", "0", "RUNNING", 1)]
    with pytest.raises(OSError, match="0: it is declared, and neither its statement nor its jar is there yet"):
        steps(cluster, 1)
    assert cluster.done == [("submit", "none")]


HANDED = "WARN  a.B c\njava.net.ConnectException: Connection refused\nCaused by: x.FlinkException: Failed to execute job '%s'.\n\t... 9 more\n"


class Client:
    """What Flink's client is asked, and what it says."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root, self.content = root, b"a program"
        self.sha256 = jobs.hashlib.sha256(self.content).hexdigest()
        (root / f"a.{self.sha256}.jar").write_bytes(self.content)
        monkeypatch.setattr(jobs, "STATE", root)
        monkeypatch.setattr(jobs, "RUN", str(root / "run"))
        self.says("", 0)

    def says(self, text: str, code: int) -> None:
        (self.root / "said").write_text(text)
        (self.root / "run").write_text(f"#!/bin/sh\nprintf '%s\\0' \"$@\" >{self.root}/asked\ncat {self.root}/said\nexit {code}\n")
        (self.root / "run").chmod(0o755)

    @property
    def asked(self) -> list[str]:
        return (self.root / "asked").read_text().split("\0")[:-1]


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Client:
    return Client(tmp_path, monkeypatch)


def test_what_the_client_is_asked(client: Client) -> None:
    told = {"jar": client.sha256, "main": "org.example.Leaks", "args": ["-s", "a b", "-Dpipeline.name=c"], "parallelism": 2}
    assert jobs.client("a", told, {"pipeline.name": "b", "x": "1 ms", "execution.program-config.enabled": "true"}, "/s/1") == (True, "")
    *options, _jar, first, second, third = client.asked
    assert options == [
        "client", "run", "-d", "-t", "remote", "-Dpipeline.name=a", "-Dx=1 ms", "-Dexecution.program-config.enabled=false",
        "-Dexecution.program-config.wildcards=execution.checkpointing.interval", "-s", "file:///s/1", "-c", "org.example.Leaks", "-p", "2",
    ]
    assert [first, second, third] == told["args"]
    assert not any("allowNonRestoredState" in one or one == "-n" for one in options)
    jobs.client("a", {"jar": client.sha256}, {})
    assert client.asked[8:] == [str(client.root / f"a.{client.sha256}.jar")]


def test_a_jar_that_is_another_one_is_not_run(client: Client) -> None:
    for change in (lambda path: path.write_bytes(b"another"), Path.unlink):
        change(client.root / f"a.{client.sha256}.jar")
        with pytest.raises(OSError, match="not there, or another one: deploy it again"):
            jobs.client("a", {"jar": client.sha256}, {})
    assert not (client.root / "asked").exists()


@pytest.mark.parametrize(("said", "code", "error", "words"), [
    (HANDED % "a", 1, None, ""),
    (HANDED % "it's", 1, jobs.Refused, "calls its job \"it's\" in code"),
    ("", 0, jobs.Refused, "the program starts no job"),
    ("x.ProgramInvocationException: y\n\tat z\nCaused by: b.C: not allowed:\n - this\n\tat d\n\n---\n", 1, jobs.Refused, "a: b.C: not allowed: - this$"),
    ("Could not build the program from JAR file: no class\n", 1, jobs.Refused, "no class"),
    ("", 1, jobs.Refused, "it said nothing"),
    ("Caused by: a.B: Failed to rollback to checkpoint/savepoint s\n\tat d\n", 1, jobs.Refused, re.escape("savepoint s" + jobs.UNFIT)),
    ("Caused by: java.net.ConnectException: Connection refused\n\tat d\n", 1, OSError, "Connection refused"),
])
def test_what_a_rehearsal_tells(client: Client, said: str, code: int, error: type[Exception] | None, words: str) -> None:
    client.says(said, code)
    text = json.dumps({"jar": client.sha256})
    if error is None:
        jobs.rehearse("a", text, {})
    else:
        with pytest.raises(error, match=words):
            jobs.rehearse("a", text, {})
    given = dict(one[2:].split("=", 1) for one in client.asked if one.startswith("-D"))
    assert f"http://{given['rest.address']}:{given['rest.port']}" != jobs.REST
    assert "-s" not in client.asked


def test_a_statement_has_no_rehearsal(client: Client) -> None:
    jobs.rehearse("a", OLD, {})
    assert not (client.root / "asked").exists()


@pytest.mark.parametrize(("code", "name", "error"), [(0, "a", None), (0, "b", jobs.Refused), (0, None, jobs.Refused), (1, "a", jobs.Refused)])
def test_a_job_that_is_not_what_was_asked_for_does_not_stay(
    client: Client, monkeypatch: pytest.MonkeyPatch, code: int, name: str | None, error: type[Exception] | None
) -> None:
    """Also where the program started a second one."""
    done: list[str] = []

    def call(method: str, url: str) -> Any:
        if method == "PATCH":
            done.append(url)
        elif name is None:
            raise jobs.Refused("404")
        return {"name": name}

    client.says("", code)
    monkeypatch.setattr(jobs, "call", call)
    text = json.dumps({"jar": client.sha256})
    if error is None:
        job_id = jobs.submit("a", text, {}, "/s/1")
        assert f"-D$internal.pipeline.job-id={job_id}" in client.asked
        assert client.asked[client.asked.index("-s") + 1] == "file:///s/1"
        assert done == []
    else:
        with pytest.raises(error):
            jobs.submit("a", text, {}, None)
        assert [url.endswith("?mode=cancel") for url in done] == [True]
