# SPDX-License-Identifier: Apache-2.0
"""Every component that claims a health check is really checked by playbooks/verify.yml."""
from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from ansible_collections.hnai.platform.plugins.action.host_verdicts import questions
from ansible_collections.hnai.platform.plugins.action.site_validate import PARTS
from ansible_collections.hnai.platform.plugins.plugin_utils import contracts
from ansible_collections.hnai.platform.plugins.plugin_utils.report import record

ROOT = Path(__file__).resolve().parents[2]
PLAYS: list[dict[str, Any]] = yaml.safe_load((ROOT / "playbooks" / "verify.yml").read_text(encoding="utf-8"))
CONTRACTS = contracts.all(ROOT)
CHECKED = sorted(name for name, contract in CONTRACTS.items() if record.visited(contract))


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


def test_what_is_skipped_takes_no_play_with_it() -> None:
    """As Ansible says it: each play that judges bears the tag of every component but those that are skipped."""
    tool = Path(sys.executable).with_name("ansible-playbook")
    command = [tool, "playbooks/verify.yml", "-i", "inventories/lab/hosts.yml", "--list-tags", "--skip-tags=kafka"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=True)
    shown = re.findall(r"play #\d+ \(\S+\): ([^\t]+)\t.*\n +TASK TAGS: \[(.*)\]", re.sub(r"(, )?\{\{.*?\}\}", "", done.stdout))
    every = {"verify", *CHECKED, *record.SCOPES} - {"kafka"}
    assert {name: set(tags.split(", ")) for name, tags in shown} == {
        "Arguments": {"always"},
        "Say how a check is repeated": every,
        "Look for what this run started": every,
        "Wait for a whole window of the canary": every,
        "Collect the verdicts": every,
        "Collect what only a full verdict judges": every,
        "Try who reaches whom": {"verify", "zones"},
        "Judge": every,
    }


def test_the_play_asks_every_host() -> None:
    collect = play("Collect the verdicts")
    assert collect["hosts"].split("{{")[0] == "managed"
    assert collect["ignore_unreachable"] is True
    assert collect["vars"] == {"verify_profile": "{{ profile | default('quick') }}"}
    (visit,) = collect["tasks"]
    assert "hnai.platform.host_verdicts" in visit and visit["register"] == record.VISIT


def test_a_full_verdict_judges_more_and_once_for_a_cluster() -> None:
    full = play("Collect what only a full verdict judges")
    assert "profile | default('quick') != 'full'" in full["hosts"] and full["hosts"].startswith("managed")
    assert full.get("strategy", "linear") == "linear", "run_once needs it"
    assert full["vars"] == {"verify_profile": "full"}
    (include,) = full["tasks"]
    assert include["loop"] == "{{ query('hnai.platform.checked', 'full') }}"
    tasks = yaml.safe_load((ROOT / "playbooks" / include["ansible.builtin.include_tasks"]["file"]).read_text(encoding="utf-8"))
    assert record.VISIT in tasks[0]["when"], "a host that is away is not asked again"
    (check,), (rescue,) = tasks[0]["block"], tasks[0]["rescue"]
    assert check["ansible.builtin.include_role"] == {
        "name": "hnai.platform.{{ verify_component }}", "tasks_from": "verify_full", "rolespec_validate": False}
    assert [*rescue["ansible.builtin.set_fact"]] == ["{{ verify_component }}" + record.BROKEN_SUFFIX]


@pytest.mark.parametrize("name", CHECKED)
def test_the_tasks_of_a_visit_need_nothing_that_it_does_not_know(name: str) -> None:
    tasks = yaml.safe_load((ROOT / "roles" / name / "tasks" / "verify.yml").read_text(encoding="utf-8"))
    asked = list(questions(tasks, name))
    assert len(asked) == len(tasks) and {one.variable for one in asked} == set(record.registered(tasks, name))
    assert not [path for folder in ("defaults", "vars") for path in (ROOT / "roles" / name / folder).glob("*") if path.name != "main.yml"]
    dependencies = (yaml.safe_load((ROOT / "roles" / name / "meta" / "main.yml").read_text(encoding="utf-8")) or {}).get("dependencies")
    assert not dependencies, "the visit reads defaults and vars of the role alone"


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


def test_the_judge_comes_last() -> None:
    assert PLAYS[-1].get("strategy", "linear") == "linear", "run_once needs it"
    assert "hnai.platform.verdict_report" in PLAYS[-1]["tasks"][0]


def test_validate_knows_every_tag_of_the_site() -> None:
    plays = [play for path in (ROOT / "playbooks" / "components").glob("*.yml") for play in yaml.safe_load(path.read_text(encoding="utf-8"))]
    imports = [tag for one in yaml.safe_load((ROOT / "playbooks" / "site.yml").read_text(encoding="utf-8")) for tag in one.get("tags", [])]
    borne = {tag for play in plays for item in (play, *play["tasks"]) for tag in item.get("tags", [])} | set(imports)
    assert borne <= {*PARTS, *record.SCOPES, *CONTRACTS}
    assert {*PARTS} - {"validate"} <= borne


def test_what_first_asks_a_host_has_a_deadline() -> None:
    """OpenSSH has none behind the banner."""
    first = yaml.safe_load((ROOT / "roles" / "host" / "tasks" / "main.yml").read_text(encoding="utf-8"))[0]
    (visit,) = play("Collect the verdicts")["tasks"]
    assert first["timeout"] > 0
    assert visit["timeout"] == "{{ 0 if profile | default('quick') == 'full' or 'ot' in ansible_run_tags else 240 }}"
