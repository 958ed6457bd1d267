# SPDX-License-Identifier: Apache-2.0
"""A job as data: what the keeper would do is known before, what came of it is told, and what must not be done is refused."""
from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.hnai.platform.plugins.module_utils.flink import job
from ansible_collections.hnai.platform.plugins.module_utils.flink.job import JobError, Plan
from ansible_collections.hnai.platform.plugins.modules import flink_job

ROOT = Path(__file__).resolve().parents[2]
RUNS: dict[str, Any] = {"digest": "1", "job_ids": ["j1"], "last": {"result": "deployed", "way": "deploy", "digest": "1"}, "upgrade": None, "rejected": None}


def test_the_plan_is_read_and_nonsense_is_an_error() -> None:
    plan = job.parse_plan('{"digest": "2", "way": "replay", "why": "other key", "job_id": "j1"}')
    assert plan == Plan("replay", "other key", "2", "j1")
    assert plan.acts
    for text in ("", "{}", "[]", "Traceback"):
        with pytest.raises(JobError):
            job.parse_plan(text)


@pytest.mark.parametrize(("way", "mode", "retry", "refused"), [
    ("replay", "auto", False, False), ("replay", "savepoint", False, True), ("savepoint", "savepoint", False, False),
    ("refused", "auto", True, True), ("rejected", "auto", False, True), ("rejected", "auto", True, False), ("none", "savepoint", False, False),
])  # fmt: skip
def test_what_must_not_be_done_is_refused_before(way: str, mode: str, retry: bool, refused: bool) -> None:
    assert bool(job.refuse(Plan(way, "because"), mode, retry)) is refused


def test_nothing_is_settled_while_an_upgrade_is_under_way() -> None:
    assert job.outcome({**RUNS, "upgrade": {"phase": "verifying"}}, "1") is None
    assert job.outcome(RUNS, "2") is None


def test_an_upgrade_that_came_to_an_end() -> None:
    last = {"result": "upgraded", "way": "savepoint", "why": "fits", "digest": "2", "previous": "j1", "savepoint": "/s/j1/savepoint-1", "job_id": "j2"}
    found = job.outcome({**RUNS, "digest": "2", "job_ids": ["j2"], "last": last}, "2")
    assert found == job.Outcome("upgraded", "savepoint", "fits", "j2", "j1", "/s/j1/savepoint-1")
    assert not found.rolled_back


def test_a_job_that_was_brought_back_meanwhile_is_named_by_its_new_id() -> None:
    found = job.outcome({**RUNS, "job_ids": ["j1", "j7"], "last": {"result": "deployed", "digest": "1", "job_id": "j1"}}, "1")
    assert found
    assert found.job_id == "j7"


def test_a_statement_that_was_given_up_is_told_when_the_old_one_runs_again() -> None:
    last = {"result": "rolled back", "way": "savepoint", "why": "division by zero", "digest": "2", "previous": "j1", "job_id": ""}
    memory = {**RUNS, "rejected": {"digest": "2", "at": 5}, "last": last}
    assert job.outcome(memory, "2") is None
    found = job.outcome({**memory, "job_ids": ["j1", "j2", "j3"], "last": {**last, "job_id": "j3"}}, "2")
    assert found
    assert (found.rolled_back, found.job_id, found.why) == (True, "j3", "division by zero")


def test_a_statement_that_returned_to_what_runs_is_settled() -> None:
    found = job.outcome({**RUNS, "rejected": {"digest": "2"}, "last": {"result": "rolled back", "digest": "2", "job_id": "j3"}}, "1")
    assert found
    assert (found.result, found.rolled_back) == ("deployed", False)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_waiting_ends_with_the_outcome_or_with_what_keeps_it() -> None:
    clock = Clock()
    looks = [{**RUNS, "upgrade": {"phase": "stopping", "way": "replay"}}] * 3 + [{**RUNS, "digest": "2"}]
    found = job.wait(lambda: looks[min(int(clock.now / 2), 3)], dict, "2", 60, clock, clock.sleep)
    assert found.result == "deployed"
    with pytest.raises(JobError, match="by replay is stopping; it says: no slots"):
        job.wait(lambda: looks[0], lambda: {"trouble": "no slots"}, "2", 10, clock, clock.sleep)
    with pytest.raises(JobError, match="the keeper has not begun"):
        job.wait(lambda: RUNS, dict, "2", 10, clock, clock.sleep)


def test_an_old_rejection_is_no_answer_to_a_new_attempt() -> None:
    clock = Clock()
    memory = {**RUNS, "rejected": {"digest": "2", "at": 50.0}, "last": {"result": "refused", "digest": "2"}}
    with pytest.raises(JobError):
        job.wait(lambda: memory, dict, "2", 10, clock, clock.sleep, since=100.0)
    memory["rejected"] = {"digest": "2", "at": 101.0}
    assert job.wait(lambda: memory, dict, "2", 10, clock, clock.sleep, since=100.0).result == "refused"


def test_a_job_that_is_gone_is_no_answer() -> None:
    clock = Clock()
    looks = [RUNS] * 3 + [{**RUNS, "job_ids": ["j1", "j2"]}]
    found = job.wait(lambda: looks[min(int(clock.now / 2), 3)], dict, "1", 60, clock, clock.sleep, gone="j1")
    assert (found.result, found.job_id) == ("deployed", "j2")
    with pytest.raises(JobError, match="the keeper has not begun"):
        job.wait(lambda: RUNS, dict, "1", 10, clock, clock.sleep, gone="j1")
    assert [Plan("deploy", "", "1", known).gone for known in ("j1", "")] == [True, False]
    assert not Plan("none", "", "1", "j1").gone


def rest(*looks: tuple[str, list[int], int]) -> tuple[Clock, Any]:
    """What the JobManager says, a look every 2 s: state, when the job failed, when its newest checkpoint began (0: none)."""
    clock = Clock()

    def get(path: str, _timeout_s: float) -> Any:
        state, failed, done = looks[min(int(clock.now / 2), len(looks) - 1)]
        if state == "away":
            raise ConnectionError("refused")
        return {
            "/jobs/overview": {"jobs": [{"jid": "j1", "state": state.split()[0], "tasks": {"running": 2 - state.count("half"), "total": 2}}]},
            "/jobs/j1/exceptions": {"exceptionHistory": {"entries": [{"timestamp": at, "stacktrace": "a.B: no topic"} for at in reversed(failed)]}},
            "/jobs/j1/checkpoints": {"latest": {"completed": {"trigger_timestamp": done} if done else None}},
        }[path]

    return clock, get


@pytest.mark.parametrize("looks", [
    [("RUNNING", [], 5)],
    [("away", [], 0), ("CREATED", [], 0), ("RUNNING", [], 0), ("RUNNING", [], 5)],
    [("RESTARTING", [3], 0), ("RUNNING", [3], 2), ("RUNNING", [3, 4], 2), ("RUNNING half", [3, 4], 5), ("RUNNING", [3, 4], 5)],
])
def test_a_first_job_works_when_it_is_whole_and_made_a_checkpoint_since_it_last_failed(looks: list[tuple[str, list[int], int]]) -> None:
    clock, get = rest(*looks)
    job.works(lambda: RUNS, get, 60, clock, clock.sleep)
    assert clock.now == 2 * (len(looks) - 1)


@pytest.mark.parametrize(("looks", "words", "seconds"), [
    ([("RESTARTING", [3], 0), ("RUNNING", [3, 4], 2), ("RESTARTING", [3, 4, 5], 2)], "deployed as j1, and does not work: a.B: no topic. The keeper", 4),
    ([("RUNNING", [], 0)], "it is RUNNING, and has completed no checkpoint", 60),
    ([("away", [], 0)], "refused", 60),
])
def test_a_first_job_that_does_not_work_is_said(looks: list[tuple[str, list[int], int]], words: str, seconds: int) -> None:
    clock, get = rest(*looks)
    with pytest.raises(JobError, match=words):
        job.works(lambda: RUNS, get, 60, clock, clock.sleep)
    assert clock.now == seconds


def test_the_digest_is_the_keepers() -> None:
    assert job.digest("a", {"b": "c"}) == hashlib.sha256(json.dumps(["a", {"b": "c"}]).encode()).hexdigest()


def test_a_declaration_is_whole_or_not_there(tmp_path: Path) -> None:
    target = tmp_path / "a.sql"
    owner = tmp_path.stat()
    job.write(str(target), "SELECT 1;\n", (owner.st_uid, owner.st_gid))
    assert target.read_text() == "SELECT 1;\n"
    assert target.stat().st_mode & 0o777 == 0o640
    assert list(tmp_path.iterdir()) == [target]


class Module:
    """What the module uses of Ansible."""

    check_mode = _diff = False
    params: dict[str, Any]

    def __init__(self, answer: tuple[int, str, str]) -> None:
        self.answer = answer
        self.given: dict[str, Any] = {}

    def run_command(self, _argv: list[str], **given: Any) -> tuple[int, str, str]:
        self.given = given
        return self.answer


def test_the_keeper_gets_the_statement_to_the_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    """run_command adds a line end to text: the digest would be another one, and the wait would never end."""
    monkeypatch.setattr(flink_job, "KEEPER", str(ROOT / "roles/flink/tree/usr/local/lib/hnai/flink/jobs.py"))
    module = Module((0, '{"digest": "2", "way": "none", "why": "", "job_id": ""}', ""))
    assert flink_job.ask(module, "a", "SELECT 'ä';\n").way == "none"
    assert module.given == {"data": "SELECT 'ä';\n".encode(), "binary_data": True}


@pytest.mark.parametrize(("plan", "proven"), [
    (Plan("deploy", "", "1"), True), (Plan("deploy", "", "1", "j0"), False), (Plan("deploy", "the cluster does not answer yet"), False),
    (Plan("savepoint", "", "1", "j0"), False),
])
def test_a_first_deployment_must_prove_itself_and_a_statement_that_was_replaced_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plan: Plan, proven: bool
) -> None:
    proved: list[str] = []
    sql = "SELECT 1;\r\n"
    (tmp_path / "jobs.json").write_text('{"jobs": ["a"], "session": {}}')
    module = Module((0, "", ""))
    module.params = {"sql": sql, "src": None, "jar": None, "upgrade_mode": "auto", "retry": False, "timeout": 5.0}
    for name, what in {"CONFIG": str(tmp_path), "ask": lambda *_given: plan}.items():
        monkeypatch.setattr(flink_job, name, what)
    monkeypatch.setattr(flink_job.host, "memory", lambda _name: {**RUNS, "digest": plan.digest or job.digest(sql, {})})
    monkeypatch.setattr(flink_job.job, "works", lambda recall, *_given: proved.append(recall()["job_ids"][-1]))
    assert flink_job.present(module, "a")["job_id"] == "j1"
    assert proved == ["j1"] * proven

    def another(_name: str) -> dict[str, Any]:
        (tmp_path / "a.sql").write_text("SELECT 2;\n")
        return {**RUNS, "digest": "0"}

    monkeypatch.setattr(flink_job.host, "memory", another)
    monkeypatch.setattr(flink_job.time, "sleep", lambda _seconds: None)
    with pytest.raises(JobError, match="another statement was declared meanwhile"):
        flink_job.present(module, "a")


def test_a_keeper_without_a_plan_is_an_error_and_a_bare_host_a_prediction(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flink_job, "KEEPER", str(ROOT / "roles/flink/tree/usr/local/lib/hnai/flink/jobs.py"))
    with pytest.raises(JobError, match="connection refused"):
        flink_job.ask(Module((1, "", "Traceback\nOSError: connection refused\n")), "a", "")
    bare = Module((0, "", ""))
    for there in ("/nowhere", __file__):
        monkeypatch.setattr(flink_job, "KEEPER", there)
        bare.check_mode = False
        with pytest.raises(JobError, match="deploy the role flink"):
            flink_job.ask(bare, "a", "")
        bare.check_mode = True
        assert flink_job.ask(bare, "a", "").way == "deploy"
    assert not bare.given, "a keeper of before would begin to keep"


def test_what_a_stopped_job_goes_on_from() -> None:
    stopped = {"job_ids": ["j1", "j2"], "parked": {"job_id": "j2", "savepoint": "/s/j2/savepoint-1"}}
    assert job.parked({"a": stopped, "new": {}}, set()) == ({"a": "/s/j2/savepoint-1"}, [])
    assert job.parked({"a": stopped}, {"a"})[1] == ["a"], "it still runs"
    assert job.parked({"a": {**stopped, "job_ids": ["j1", "j2", "j3"]}}, set())[1] == ["a"], "stopped was another one"
    assert job.parked({"a": {"job_ids": ["j1"], "parked": None}}, set())[1] == ["a"]
    assert job.parked({"a": {"job_ids": ["j1"], "parked": {"job_id": "j1", "savepoint": ""}}}, set())[0] == {"a": "its newest checkpoint"}


def packed(path: Path, manifest: str | None) -> str:
    with zipfile.ZipFile(path, "w") as jar:
        if manifest is not None:
            jar.writestr("META-INF/MANIFEST.MF", manifest)
    return job.sha256_of(str(path))


@pytest.mark.parametrize(("manifest", "main"), [
    ("Manifest-Version: 1.0\r\nMain-Class: org.example.Leaks\r\n\r\n", "org.example.Leaks"), ("program-class: a.B\n", "a.B"),
    ("Main-Class: org.example.a.long.nam\r\n e.Leaks\r\n", "org.example.a.long.name.Leaks"), ("Manifest-Version: 1.0\n", ""),
    ("X-Main-Class: a.B\n", ""),
])
def test_what_a_jar_says_to_run(tmp_path: Path, manifest: str, main: str) -> None:
    packed(tmp_path / "jar", manifest)
    assert job.main_class(str(tmp_path / "jar")) == main


def test_what_is_no_jar(tmp_path: Path) -> None:
    packed(tmp_path / "empty", None)
    (tmp_path / "text").write_text("x")
    for name in ("empty", "text"):
        with pytest.raises(JobError, match="is no jar"):
            job.main_class(str(tmp_path / name))


def test_all_that_a_jar_runs_with_is_part_of_its_digest() -> None:
    one = ("1" * 64, "a.B", ["x"], 2, "replay")
    others = [("2" * 64, *one[1:]), (one[0], "a.C", *one[2:]), (*one[:2], ["y"], 2, "replay"), (*one[:3], 3, "replay"), (*one[:4], "savepoint")]
    assert len({job.digest(job.program(*each), {}) for each in [one, *others]}) == 6
    assert job.program(one[0], None, [], None, "savepoint") == job.program(one[0], "", None, None, None) == json.dumps({"jar": one[0]}) + "\n"
    with pytest.raises(JobError, match="no name of a class"):
        job.program(one[0], "-Dx=y", None, None, None)


@pytest.fixture
def given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setattr(flink_job, "CONFIG", str(tmp_path / "config"))
    monkeypatch.setattr(flink_job.host, "STATE", str(tmp_path / "state"))
    for name in ("config", "state"):
        (tmp_path / name).mkdir()
    (tmp_path / "config/jobs.json").write_text('{"jobs": [], "session": {}}')
    options = dict.fromkeys(("sql", "src", "sha256", "main", "args", "parallelism", "upgrade"))
    return {**options, "jar": str(tmp_path / "jar"), "upgrade_mode": "auto", "retry": False, "timeout": 5.0}


@pytest.mark.parametrize(("change", "words"), [
    ({"jar": "/nowhere"}, "/nowhere is not there"), ({"manifest": "X: y\n"}, "names no Main-Class: give main"),
    ({"sha256": "0"}, "its sha256 is .*, not 0"), ({"main": "a b"}, "no name of a class"),
])
def test_a_jar_that_cannot_be_run_is_refused_before_anything_is_touched(
    tmp_path: Path, given: dict[str, Any], change: dict[str, str], words: str
) -> None:
    packed(tmp_path / "jar", change.pop("manifest", "Main-Class: A\n"))
    module = Module((0, "", ""))
    module.params = {**given, **change}
    with pytest.raises(JobError, match=words):
        flink_job.present(module, "a")
    assert [path.name for path in (tmp_path / "config").iterdir()] == ["jobs.json"]


def test_a_jar_takes_the_place_of_a_statement_and_a_statement_that_of_a_jar(tmp_path: Path, given: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    sha256 = packed(tmp_path / "jar", "Main-Class: A\n")
    config, asked = tmp_path / "config", []

    def ask(_module: Any, _name: str, text: str) -> Plan:
        asked.append(text)
        return Plan("savepoint", "", job.digest(text, {}), "j0")

    monkeypatch.setattr(flink_job, "ask", ask)
    monkeypatch.setattr(flink_job.host, "memory", lambda _name: {**RUNS, "digest": job.digest(asked[-1], {})})
    module = Module((0, "", ""))
    for text, change in (("SELECT 1;\n", {"sql": "SELECT 1;\n", "jar": None}), (job.program(sha256, None, ["x"], None, None), {"args": ["x"]})) * 2:
        module.params = {**given, **change}
        flink_job.present(module, "a")
        there = {path.name: path.read_text() for path in config.iterdir()}
        assert there == {"jobs.json": there["jobs.json"], "a.json": "{}\n", "a.job" if given["jar"] in module.params.values() else "a.sql": text}
        assert asked[-1] == text
    assert job.sha256_of(str(tmp_path / f"state/a.{sha256}.jar")) == sha256
    module.params = dict(given, jar=None)
    assert flink_job.present(module, "a")["changed"], "as it lies"
    assert asked[-1] == job.program(sha256, None, ["x"], None, None)
    flink_job.absent(module, "a")
    assert [path.name for path in config.iterdir()] == ["jobs.json"]


def test_check_mode_foretells_a_jar_that_is_not_on_the_host_yet(tmp_path: Path, given: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(flink_job, "ask", lambda _module, _name, text: asked.append(text) or Plan("savepoint", "", "1", "j0"))
    module = Module((0, "", ""))
    module.check_mode = True
    module.params = {**given, "sha256": "1" * 64}
    assert flink_job.present(module, "a")["way"] == "savepoint"
    assert asked == [job.program("1" * 64, None, None, None, None)]
    sha256 = packed(tmp_path / "jar", "Main-Class: A\n")
    module.params = given
    assert flink_job.present(module, "a")["changed"]
    assert asked[1:] == [job.program(sha256, None, None, None, None)]
    assert list((tmp_path / "state").iterdir()) == []
    module.params = {**given, "jar": "/nowhere"}
    with pytest.raises(JobError, match="/nowhere is not there"):
        flink_job.present(module, "a")
