# SPDX-License-Identifier: Apache-2.0
"""The keeper of declared jobs: exactly one per name, from the newest checkpoint of the same statement, never from another's."""
from __future__ import annotations

import importlib.util
import json
import os
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[2] / "roles/flink/tree/usr/local/lib/hnai/flink/jobs.py"
spec = importlib.util.spec_from_file_location("flink_jobs", SOURCE)
assert spec and spec.loader
jobs = importlib.util.module_from_spec(spec)
sys.modules["flink_jobs"] = jobs
spec.loader.exec_module(jobs)
Job, Action = jobs.Job, jobs.Action


def test_a_declared_job_that_does_not_run_is_submitted() -> None:
    assert jobs.plan({"a": "1"}, [Job("x", "a", "FAILED", 1)], {"a": "1"}) == [Action("submit", "a")]


def test_a_running_job_with_the_wanted_statement_is_left_alone() -> None:
    assert jobs.plan({"a": "1"}, [Job("x", "a", "RUNNING", 1)], {"a": "1"}) == []


def test_of_two_of_one_name_the_older_goes() -> None:
    assert jobs.plan({"a": "1"}, [Job("x", "a", "RUNNING", 1), Job("y", "a", "RESTARTING", 2)], {"a": "1"}) == [Action("cancel", "a", "x")]


def test_a_changed_statement_cancels_first_and_submits_when_the_old_one_is_gone() -> None:
    assert jobs.plan({"a": "2"}, [Job("x", "a", "RUNNING", 1)], {"a": "1"}) == [Action("cancel", "a", "x")]
    assert jobs.plan({"a": "2"}, [Job("x", "a", "CANCELLING", 1)], {"a": "1"}) == []
    assert jobs.plan({"a": "2"}, [Job("x", "a", "CANCELED", 1)], {"a": "1"}) == [Action("submit", "a")]


def test_an_undeclared_job_is_cancelled() -> None:
    assert jobs.plan({}, [Job("x", "old", "RUNNING", 1), Job("y", "gone", "FINISHED", 1)], {}) == [Action("cancel", "old", "x")]


def checkpoint(root: Path, job: str, number: int, when: float, size: int = 3) -> Path:
    directory = root / job / f"chk-{number}"
    directory.mkdir(parents=True)
    (directory / "_metadata").write_bytes(b"x" * size)
    os.utime(directory / "_metadata", (when, when))
    return directory


def test_the_newest_complete_checkpoint_of_its_own_jobs(tmp_path: Path) -> None:
    checkpoint(tmp_path, "j1", 7, 100)
    newest = checkpoint(tmp_path, "j2", 3, 200)
    checkpoint(tmp_path, "j2", 4, 300, size=0)
    (tmp_path / "j2" / "chk-5").mkdir()
    checkpoint(tmp_path, "other", 9, 400)
    assert jobs.newest_checkpoint(tmp_path, ["j1", "j2", "none"]) == str(newest)
    assert jobs.newest_checkpoint(tmp_path, []) is None


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


Submitted = list[tuple[str, "str | None"]]


@pytest.fixture
def keeper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[jobs.Keeper, Submitted]:
    for name in ("config", "state", "checkpoints"):
        (tmp_path / name).mkdir()
    (tmp_path / "config/jobs.json").write_text(json.dumps({"jobs": ["a"], "session": {}}))
    (tmp_path / "config/a.sql").write_text("INSERT INTO t SELECT 1;\n")
    submitted: Submitted = []

    def submit(name: str, sql: str, session: dict[str, str], start: str | None) -> str:
        submitted.append((name, start))
        return f"job{len(submitted)}"

    monkeypatch.setattr(jobs, "submit", submit)
    monkeypatch.setattr(jobs, "running", list)
    return jobs.Keeper(tmp_path / "config", tmp_path / "state", tmp_path / "checkpoints"), submitted


def test_after_a_restart_it_goes_on_from_its_checkpoint_and_a_changed_statement_does_not(
    keeper: tuple[jobs.Keeper, Submitted], tmp_path: Path
) -> None:
    loop, submitted = keeper
    loop.step()
    kept = checkpoint(tmp_path / "checkpoints", "job1", 1, 100)
    loop.step()
    (tmp_path / "config/a.sql").write_text("INSERT INTO t SELECT 2;\n")
    loop.step()
    assert submitted == [("a", None), ("a", str(kept)), ("a", None)]
    assert loop.recall("a")["job_ids"] == ["job3"]
