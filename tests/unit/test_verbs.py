# SPDX-License-Identifier: Apache-2.0
"""The verbs as an operator runs them: what would do nothing, or a part in silence, is refused before a host is contacted."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

ROOT = Path(__file__).parents[2]
LAB = "inventories/lab/hosts.yml"


def run(tmp_path: Path, verb: str, *more: str, inventory: str = LAB) -> tuple[int, str]:
    """(exit code, output)."""
    environment = {**os.environ, "HNAI_STATE_DIR": str(tmp_path), "ANSIBLE_NOCOLOR": "1"}
    command = [str(Path(sys.executable).with_name("ansible-playbook")), str(ROOT / f"playbooks/{verb}.yml"), "-i", inventory, *more]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--tags", "kafka,kafak", "--skip-tags", "verify"], "kafak, verify: nothing is judged by that; --tags and --skip-tags take canary, flink, host"),
        (["--limit", "plc1"], "the group managed has no host here"),
    ],
)
def test_a_run_that_would_judge_nothing_is_refused(tmp_path: Path, given: list[str], said: str) -> None:
    code, output = run(tmp_path, "verify", *given)
    assert code != 0 and said in output, output
    assert not (tmp_path / "verdicts").exists()


def test_an_inventory_without_managed_hosts_is_refused(tmp_path: Path) -> None:
    code, output = run(tmp_path, "verify", inventory="somewhere,")
    assert code != 0 and "the group managed has no host here" in output, output


def test_a_check_is_explained_under_the_tag_of_its_component(tmp_path: Path) -> None:
    code, output = run(tmp_path, "verify", "--tags", "kafka", "-e", "explain=Q1")
    assert code == 0 and "no record yet says what was seen" in output, output


@pytest.mark.parametrize(("verb", "given"), [("rotate", "--limit=kafka1"), ("rotate", "--skip-tags=rotate"), ("decommission", "--tags=kafka")])
def test_a_verb_of_the_whole_site_refuses_a_part_of_it(tmp_path: Path, verb: str, given: str) -> None:
    code, output = run(tmp_path, verb, given)
    assert code != 0 and "leave out --limit, --tags and --skip-tags" in output, output


@pytest.mark.parametrize("given", [
    ["rotate_secret=questdb/backend", "rotate_component=telegraf"], ["rotate_rollback=r1"], ["rotate_component=telegraf", "rotate_resume=r1"],
    ["rotate_secret=questdb/backend", "rotate_resume=r1", "rotate_rollback=r1"],
])  # fmt: skip
def test_a_rotation_that_contradicts_itself_is_refused(tmp_path: Path, given: list[str]) -> None:
    """One of the two would be passed over, and the operator would not know which."""
    code, output = run(tmp_path, "rotate", *(word for one in given for word in ("-e", one)))
    assert code != 0 and "say rotate_secret or rotate_component" in output, output


@pytest.mark.parametrize(
    ("starts", "closing", "begun", "restarted"),
    [
        ({"a": ["@100", "", "@300"], "b": ["@200"]}, True, 250, True),
        ({"a": ["@100", "", "@300"], "b": ["@200"]}, True, 400, False),
        ({"a": ["@100", "", "@300"], "b": ["@200"]}, False, 250, False),
        ({}, True, 250, False),
    ],
)
def test_the_closing_verdict_waits_for_what_the_run_started(starts: dict[str, list[str]], closing: bool, begun: float, restarted: bool) -> None:
    plays = yaml.safe_load((ROOT / "playbooks/verify.yml").read_text("utf-8"))
    told = next(play["vars"] for play in plays if "__verify_last_start" in play.get("vars", {}))
    known = {
        "groups": {"managed": ["a", "b", "away"]},
        "hostvars": {host: {"verify_starts": {"stdout_lines": starts[host]}} if host in starts else {} for host in ("a", "b", "away")},
        "verify_closing": closing,
        "hnai_run_started": begun,
        **{name: trust_as_template(text) for name, text in told.items()},
    }
    assert Templar(DataLoader(), variables=known).template(trust_as_template("{{ __verify_restarted }}")) is restarted
