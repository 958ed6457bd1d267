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


def role_of(play: dict[str, Any]) -> str:
    """The role whose verify tasks a play runs, without the collection's name; empty for another play."""
    for task in play["tasks"]:
        for inner in task.get("block", []):
            imported = inner.get("ansible.builtin.import_role", {})
            if imported.get("tasks_from") == "verify":
                return imported["name"].removeprefix("hnai.platform.")
    return ""


VERIFIED = {role_of(play): play for play in PLAYS if role_of(play)}


def modules(tasks: list[dict[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    """(module, arguments) of every task of ours that registers a verdict, blocks included."""
    found = []
    for task in tasks:
        found += modules(task.get("block", []))
        if record.VERDICT_SUFFIX in str(task.get("register", "")):
            found += [(name, arguments) for name, arguments in task.items() if name.startswith("hnai.platform.")]
    return found


def test_exactly_the_checked_components_have_a_play() -> None:
    assert sorted(VERIFIED) == CHECKED


@pytest.mark.parametrize("name", CHECKED)
def test_the_play_stands_on_the_placement_and_has_the_tag(name: str) -> None:
    play = VERIFIED[name]
    assert play["hosts"].split("{{")[0] == CONTRACTS[name].get("placement", name)
    assert set(play["tags"]) == {"verify", name, *(scope for scope, names in record.SCOPES.items() if name in names)}
    assert play["ignore_unreachable"] is True
    (rescue,) = play["tasks"][0]["rescue"]
    assert record.BROKEN_PREFIX + name in rescue["ansible.builtin.set_fact"]


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
    assert "hnai.platform.verdict_report" in PLAYS[-1]["tasks"][0]
