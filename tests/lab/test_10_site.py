# SPDX-License-Identifier: Apache-2.0
"""A run that changes nothing changes nothing, and costs little."""
from __future__ import annotations

from conftest import Lab

BUDGET = 300


def test_a_second_run_changes_nothing_within_the_budget(lab: Lab) -> None:
    run = lab.play("site.yml", "--skip-tags", "verify")
    assert run.rc == 0, run.stdout[-3000:]
    assert run.changed() == []
    assert run.task_hosts() <= BUDGET
    assert set(run.stats["ok"]) >= set(lab.groups["managed"])


def test_check_and_diff_predict_nothing_after_it(lab: Lab) -> None:
    run = lab.play("site.yml", "--skip-tags", "verify", "--check", "--diff")
    assert run.rc == 0, run.stdout[-3000:]
    assert run.changed() == []


def test_one_tag_on_one_host_works_alone(lab: Lab) -> None:
    run = lab.play("site.yml", "--skip-tags", "verify", "--tags", "kafka", "--limit", lab.groups["kafka"][1])
    assert run.rc == 0, run.stdout[-3000:]
    assert run.changed() == []


def test_the_run_ends_with_the_verdict(lab: Lab) -> None:
    run = lab.play("site.yml", "--tags", "verify")
    assert run.rc == 0, run.stdout[-3000:]
    assert "Judge all verdicts" in run.stdout
