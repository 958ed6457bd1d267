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

from ansible_collections.hnai.platform.plugins.plugin_utils.arguments import unread

ROOT = Path(__file__).parents[2]
LAB = "inventories/lab/hosts.yml"


def run(tmp_path: Path, verb: str, *more: str, inventory: str = LAB) -> tuple[int, str]:
    """(exit code, output) of one of ours, or of a playbook elsewhere by its whole path. No host may be looked for: what is said must be said before."""
    tools = tmp_path / "bin"
    tools.mkdir(exist_ok=True)
    (tools / "ssh").write_text('#!/bin/sh\ntouch "$0.called"\nexit 255\n', encoding="utf-8")
    (tools / "ssh").chmod(0o755)
    environment = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}", "HNAI_STATE_DIR": str(tmp_path), "ANSIBLE_NOCOLOR": "1"}
    command = [str(Path(sys.executable).with_name("ansible-playbook")), str(ROOT / "playbooks" / f"{verb}.yml"), "-i", inventory, *more]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert not (tools / "ssh.called").exists(), done.stdout + done.stderr
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


def test_an_inventory_that_ansible_left_off_in_the_middle_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Outside of a checkout it only warns, and goes on with what stands before the mistake."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site/hosts").write_text("[managed]\nkafka1 ansible_host=192.0.2.1\n[openbao]\nkafka1\n[managed:vars]\nhnai_site: x\n", encoding="utf-8")
    (tmp_path / "ansible.cfg").touch()
    monkeypatch.setenv("ANSIBLE_CONFIG", str(tmp_path / "ansible.cfg"))
    for verb in ("rotate", "validate"):
        code, output = run(tmp_path, verb, inventory=str(tmp_path / "site"))
        assert code != 0 and f"-i {tmp_path}/site/hosts is not read, or not to its end" in " ".join(output.split()), output


@pytest.mark.parametrize(("verb", "given"), [("rotate", []), ("upgrade", ["--tags", "kafka"]), ("kafka_features", [])])
def test_a_verb_without_a_site_is_refused(tmp_path: Path, verb: str, given: list[str]) -> None:
    code, output = run(tmp_path, verb, *given, inventory="somewhere,")
    assert code != 0 and "Nothing was begun" in output and "inventory (-i)" in output, output


def test_a_check_is_explained_under_the_tag_of_its_component(tmp_path: Path) -> None:
    code, output = run(tmp_path, "verify", "--tags", "kafka", "-e", "explain=Q1")
    assert code == 0 and "no record yet says what was seen" in output, output


@pytest.mark.parametrize(("verb", "given"), [("rotate", "--limit=kafka1"), ("rotate", "--skip-tags=rotate"), ("decommission", "--tags=kafka")])
def test_a_verb_of_the_whole_site_refuses_a_part_of_it(tmp_path: Path, verb: str, given: str) -> None:
    code, output = run(tmp_path, verb, given)
    assert code != 0 and "leave out --limit, --tags and --skip-tags" in output, output


@pytest.mark.parametrize("given", [
    ["rotate_secret=questdb/backend", "rotate_component=telegraf"], ["rotate_rollback=r1"], ["rotate_component=telegraf", "rotate_resume=r1"],
    ["rotate_secret=questdb/backend", "rotate_resume=r1", "rotate_rollback=r1"], ["rotate_secret=tls/kafka", "rotate_certificates=false"],
    ["rotate_component=kafka", "rotate_certificates=false"],
])  # fmt: skip
def test_a_rotation_that_contradicts_itself_is_refused(tmp_path: Path, given: list[str]) -> None:
    """One of the two would be passed over, and the operator would not know which."""
    code, output = run(tmp_path, "rotate", *(word for one in given for word in ("-e", one)))
    assert code != 0 and "say rotate_secret or rotate_component" in output, output


@pytest.mark.parametrize(("given", "said"), [
    (["rotate_secret=pki/leaf"], "rotate_secret=pki/leaf: besides those of contracts there are pki/intermediate, pki/root"),
    (["rotate_secret=openbao/shards"], "openbao/keyring, openbao/shares"),
    (["rotate_secret=kafka/nothing"], "no placed component declares kafka/nothing"),
    (["rotate_secret=pki/intermediate", "rotate_outside_trust=me"], "rotate_outside_trust is for pki/root"),
    (["rotate_grace_s=-5"], "rotate_grace_s is a number of seconds from 0"),
])  # fmt: skip
def test_a_rotation_of_nothing_ends_before_the_first_host(tmp_path: Path, given: list[str], said: str) -> None:
    code, output = run(tmp_path, "rotate", *(word for one in given for word in ("-e", one)))
    assert code != 0 and said in output, output


@pytest.mark.parametrize(("given", "said"), [
    (["opcua_trust_back=true", "opcua_trust_force=true"], "goes with neither opcua_trust_force nor opcua_trust_again"),
    (['{"opcua_trust_back": true, "opcua_trust_again": ["plc1"]}'], "goes with neither opcua_trust_force nor opcua_trust_again"),
    (['{"opcua_trust_again": ["plc1", "cp9"]}'], "takes ids of OPC UA sources (plc1"),
])  # fmt: skip
def test_a_change_of_trust_that_cannot_be_is_refused(tmp_path: Path, given: list[str], said: str) -> None:
    code, output = run(tmp_path, "opcua_trust", *(word for one in given for word in ("-e", one)))
    assert code != 0 and said in " ".join(output.split()), output


@pytest.mark.parametrize(("verb", "given", "said"), [
    ("rotate", ["-e", "rotate_dryrun=true"], "-e rotate_dryrun is read by nobody (did you mean rotate_dry_run?)"),
    ("rotate", ["-e", "rotate_only=kafka"], "-e rotate_only is read by nobody"),
    ("upgrade", ["--tags", "kafka", "-e", "kafka_verson=4.2.2"], "-e kafka_verson is read by nobody (did you mean kafka_version?)"),
    ("upgrade", ["--tags", "kafka", "-e", "flink_version=2.2.0"], "-e flink_version is of another component than this run's (take it out)"),
    ("kafka_replace", ["-e", "replace=kafka1", "-e", "replce_later=kafka2"], "did you mean replace_later?"),
    ("verify", ["-e", "profle=full"], "did you mean profile?"),
    ("site", ["-e", '{"__kafka_dir": "/x", "kafka_heep": "1g"}'], "-e __kafka_dir is the collection's own and no option (take it out); -e kafka_heep is"),
])  # fmt: skip
def test_a_misspelt_argument_is_not_done_without(tmp_path: Path, verb: str, given: list[str], said: str) -> None:
    code, output = run(tmp_path, verb, *given)
    assert code != 0 and said in output, output


def test_an_operators_own_variable_is_his() -> None:
    assert not unread({"awx_job_id", "__mine", "replace_it_all", "lab_x", "format", "kafka_heap"}, {"format"}, {"kafka_heap"}, ["kafka_", "hnai_"])
    assert len(unread({"__hnai_x", "_kafka_x", "hnai_x", "formats"}, {"format"}, {"kafka_heap"}, ["kafka_", "hnai_"])) == 3


@pytest.mark.parametrize(("verb", "given", "said"), [
    ("site", ["--limit", "plc1"], "--limit plc1 names no host of the group managed"),
    ("site", ["--skip-tags", "kafak"], "--skip-tags: kafak"),
    ("upgrade", ["--tags", "kafka", "--limit", "plc1"], "leave out --limit and --skip-tags"),
    ("upgrade", ["--tags", "flink", "--skip-tags", "flink"], "leave out --limit and --skip-tags"),
    ("opcua_trust", ["--limit", "kafka1"], "name a host of the group ot_collector (edge1)"),
    ("artifacts", ["--limit", "kafka1"], "leave out --limit, --tags and --skip-tags"),
])  # fmt: skip
def test_a_run_that_would_choose_nothing_is_refused(tmp_path: Path, verb: str, given: list[str], said: str) -> None:
    code, output = run(tmp_path, verb, *given)
    assert code != 0 and said in output, output


@pytest.mark.parametrize("given", [["--skip-tags", "verify,always"], ["--start-at-task", "Collect the verdicts"]])
@pytest.mark.parametrize("verb", ["site", "rotate", "../site"])
def test_what_judges_a_run_is_not_left_out(tmp_path: Path, verb: str, given: list[str]) -> None:
    code, output = run(tmp_path, verb, *given)
    assert code == 1 and "PLAY [" not in output and f"{'--start-at-task' if len(given[1]) > 15 else '--skip-tags always'} would leave out" in output, output


def test_a_playbook_that_imports_ours_has_tags_of_its_own(tmp_path: Path) -> None:
    """Molecule's own among them: it skips `notest`."""
    (tmp_path / "theirs.yml").write_text(f"- import_playbook: {ROOT}/playbooks/validate.yml\n", encoding="utf-8")
    assert run(tmp_path, f"{tmp_path}/theirs", "--skip-tags", "always")[0] == 0
    code, output = run(tmp_path, f"{tmp_path}/theirs", "--skip-tags", "molecule-notest,notest")
    assert code == 0, output
    assert "--skip-tags molecule-notest, notest: nothing of hnai.platform bears it" in " ".join(output.split()), output


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
