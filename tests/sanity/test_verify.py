# SPDX-License-Identifier: Apache-2.0
"""Every component that claims a health check is really checked by playbooks/verify.yml."""
from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from ansible_collections.hnai.platform.plugins.plugin_utils import contracts
from ansible_collections.hnai.platform.plugins.plugin_utils.report import record

ROOT = Path(__file__).resolve().parents[2]
PLAYS: list[dict[str, Any]] = yaml.safe_load((ROOT / "playbooks" / "verify.yml").read_text(encoding="utf-8"))
CONTRACTS = contracts.all(ROOT)
CHECKED = sorted(name for name, contract in CONTRACTS.items() if isinstance(contract["health"], dict))


def modules(tasks: list[dict[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    """(module, arguments) of every task of ours that registers a verdict, blocks included."""
    found = []
    for task in tasks:
        found += modules(task.get("block", []))
        if record.VERDICT_SUFFIX in str(task.get("register", "")):
            found += [(name, arguments) for name, arguments in task.items() if name.startswith("hnai.platform.")]
    return found


def play(name: str) -> dict[str, Any]:
    """The play of verify.yml with this name."""
    (found,) = [one for one in PLAYS if one["name"] == name]
    return found


def test_the_play_asks_every_host_and_has_the_tag_of_every_component() -> None:
    collect = play("Collect the verdicts")
    assert collect["hosts"].split("{{")[0] == "managed"
    assert set(collect["tags"]) == {"verify", *CHECKED, *record.SCOPES}
    assert collect["ignore_unreachable"] is True
    (include,) = collect["tasks"]
    assert include["loop"] == "{{ query('hnai.platform.checked') }}"
    tasks = yaml.safe_load((ROOT / "playbooks" / include["ansible.builtin.include_tasks"]["file"]).read_text(encoding="utf-8"))
    (check,), (rescue,) = tasks[0]["block"], tasks[0]["rescue"]
    assert check["ansible.builtin.include_role"] == {
        "name": "hnai.platform.{{ verify_component }}", "tasks_from": "{{ verify_tasks | default('verify') }}", "rolespec_validate": False}
    assert [*rescue["ansible.builtin.set_fact"]] == [record.BROKEN_PREFIX + "{{ verify_component }}"]


def test_a_full_verdict_judges_more_and_once_for_a_cluster() -> None:
    full = play("Collect what only a full verdict judges")
    assert "profile | default('quick') != 'full'" in full["hosts"] and full["hosts"].startswith("managed")
    assert full.get("strategy", "linear") == "linear", "run_once needs it"
    assert full["vars"] == {"verify_profile": "full", "verify_tasks": "verify_full"}
    assert set(full["tags"]) == {"verify", *CHECKED, *record.SCOPES}
    (include,) = full["tasks"]
    assert include["loop"] == "{{ query('hnai.platform.checked', 'full') }}"
    assert include["ansible.builtin.include_tasks"] == play("Collect the verdicts")["tasks"][0]["ansible.builtin.include_tasks"]


@pytest.mark.parametrize("name", CHECKED)
def test_a_host_carries_what_its_groups_say(name: str) -> None:
    group = CONTRACTS[name].get("placement", name)
    assert name in record.checked(CONTRACTS, [group], set(CONTRACTS))
    assert name not in record.checked(CONTRACTS, [group], set(CONTRACTS) - {name})
    assert name not in record.checked(CONTRACTS, ["elsewhere"], set(CONTRACTS))
    assert record.checked(CONTRACTS, ["managed", group], set(CONTRACTS))[0] == "host"


@pytest.mark.parametrize("name", CHECKED)
def test_the_role_registers_what_the_judge_reads(name: str) -> None:
    tasks = yaml.safe_load((ROOT / "roles" / name / "tasks" / "verify.yml").read_text(encoding="utf-8"))
    assert record.registered(tasks, name)[:1] == (name + record.VERDICT_SUFFIX,)
    for registered in record.registered(tasks, name)[1:]:
        assert registered.startswith(f"{name}{record.VERDICT_SUFFIX}__")
    checks = modules(tasks)
    assert CONTRACTS[name]["health"]["module"] in [module for module, _ in checks]
    assert all(arguments.get("collect") is True for _, arguments in checks), "a check fails the run by itself: collect: true"
    for module, _ in checks:
        assert (ROOT / "plugins" / "modules" / (module.rsplit(".", 1)[1] + ".py")).is_file()


def test_the_judge_runs_under_the_tag_of_every_component() -> None:
    assert set(PLAYS[-1]["tags"]) == {"verify", *CHECKED, *record.SCOPES}
    assert PLAYS[-1].get("strategy", "linear") == "linear", "run_once needs it"
    assert "hnai.platform.verdict_report" in PLAYS[-1]["tasks"][0]
