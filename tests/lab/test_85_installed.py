# SPDX-License-Identifier: Apache-2.0
"""The tarball installed into an empty path, another directory, an empty HOME, ansible-runner's private directory: the verbs work as ever."""
from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ansible_runner
import pytest
from conftest import ROOT, Lab

pytestmark = pytest.mark.scenario("installed")
OTHERS = ("ansible/posix", "community/crypto", "community/general")


@pytest.fixture(scope="module")
def collections(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Our collection out of its tarball, and those that it depends on."""
    base = tmp_path_factory.mktemp("installed")
    paths = base / "collections"
    theirs = Path(sysconfig.get_paths()["purelib"]) / "ansible_collections"
    for name in OTHERS:
        (paths / "ansible_collections" / name).parent.mkdir(parents=True, exist_ok=True)
        (paths / "ansible_collections" / name).symlink_to(theirs / name)
    galaxy = str(Path(sys.executable).with_name("ansible-galaxy"))
    archive = base / "hnai-platform-0.1.0.tar.gz"
    for command in (
        [galaxy, "collection", "build", str(ROOT), "--output-path", str(base)],
        [galaxy, "collection", "install", "--offline", "--no-deps", "--force", "-p", str(paths), str(archive)],
    ):
        subprocess.run(command, cwd=base, check=True, capture_output=True, text=True, timeout=300)
    return paths


@pytest.fixture(scope="module")
def stranger(lab: Lab, collections: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[int, str, list[str]]]:
    """Runs a verb by its name: (exit code, output, what changed), from another directory, with an empty HOME, through ansible-runner."""
    private = tmp_path_factory.mktemp("private")
    (private / "project").mkdir()
    (private / "home").mkdir()
    shutil.copytree(lab.inventory.parent, private / "inventory")

    def run(verb: str, *more: str, **given: Any) -> tuple[int, str, list[str]]:
        result = ansible_runner.run(
            private_data_dir=str(private), playbook=f"hnai.platform.{verb}", inventory=str(private / "inventory" / lab.inventory.name), quiet=True, timeout=900,
            # Without any it takes those of the run before out of its directory.
            cmdline=" ".join(more) or "--diff", **given,
            envvars={
                "HOME": str(private / "home"), "ANSIBLE_CONFIG": "", "ANSIBLE_COLLECTIONS_PATH": str(collections), "HNAI_STATE_DIR": str(lab.state),
                "PATH": f"{lab.python_path}:{os.environ['PATH']}",
            },
        )  # fmt: skip
        changed = [f"{event['event_data']['host']}: {event['event_data']['task']}" for event in result.events
                   if event["event"] == "runner_on_ok" and event["event_data"]["res"].get("changed")]  # fmt: skip
        return int(result.rc or 0), result.stdout.read(), changed

    return run


def test_the_verdict_passes_without_our_checkout_configuration_and_home(collections: Path, stranger: Callable[..., tuple[int, str, list[str]]]) -> None:
    code, output, _ = stranger("verify", verbosity=2)
    assert code == 0, output[-4000:]
    assert f"task path: {collections}/ansible_collections/hnai/platform/playbooks/verify.yml" in output
    assert f"task path: {ROOT}" not in output, "nothing of this checkout is used"


# As the documentation writes them; {edge} and {folder} are this site's. What writes a file on the controller, or predicts it, says so.
@pytest.mark.parametrize(
    ("line", "tells"),
    [
        ("verify --limit {edge} --tags telegraf", "VERDICT"),
        ("verify -e explain=CN2", "CN2"),
        ("report", "VERDICT"),
        ("validate", "The site model holds"),
        ("validate -e format=json", '"errors": []'),
        ("validate -e validate_export={folder}", "The site model holds"),
        ("plan --check --diff --tags telegraf", "No file, package or object differs."),
        ("site --tags zones --check --diff --skip-tags verify", "Enforce the approved conduits"),
        ("site --tags verify", "VERDICT"),
        ("rotate --check", "not due"),
        ("rotate_access --check", "in use"),
        ("upgrade --tags kafka --check", "nothing changes"),
        ("upgrade --tags flink --check", "nothing changes"),
        ("kafka_features --check", ""),
        ("firewall_observed", "flow(s) that enforce would cut"),
        ("firewall_observed -e format=json", "flows"),
        ("discover -e source=plc1", "commissioning_canary"),
        ("opcua_trust --check", "removal to be confirmed"),
        ("artifacts", ""),
    ],
)  # fmt: skip
def test_a_verb_that_only_looks_works_by_its_name(lab: Lab, stranger: Callable[..., tuple[int, str, list[str]]], tmp_path: Path, line: str, tells: str) -> None:
    verb, *more = line.format(edge=lab.groups["ot_collector"][0], folder=tmp_path).split()
    code, output, changed = stranger(verb, *more)
    assert code == 0, output[-4000:]
    assert tells in output and "Traceback" not in output
    # The store of an empty HOME is empty.
    assert verb in ("rotate_access", "firewall_observed", "discover", "opcua_trust", "artifacts") or not changed


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("decommission -e decommission_component=questdb --check", "out of the group questdb"),
        ("kafka_replace -e replace={broker} --check", "there is nothing to replace"),
    ],
)
def test_what_is_needed_is_not_taken_away(lab: Lab, stranger: Callable[..., tuple[int, str, list[str]]], line: str, reason: str) -> None:
    verb, *more = line.format(broker=lab.groups["kafka"][-1]).split()
    code, output, changed = stranger(verb, *more)
    assert code != 0 and reason in output, output[-4000:]
    assert not changed
