# SPDX-License-Identifier: Apache-2.0
"""The collection as people have it: the built tarball, installed into an empty path, used from another directory without our ansible.cfg."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import ansible_runner
import pytest

ROOT = Path(__file__).parents[2]
TOOLS = Path(sys.executable).parent
INSIDE = "ansible_collections/hnai/platform"


def environment(home: Path, collections: Path) -> dict[str, str]:
    """An empty home, no setting of Ansible but where collections lie, and no way to a host."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("ANSIBLE_", "HNAI_", "PYTHONPATH"))}
    tools = home / "bin"
    if not tools.is_dir():
        tools.mkdir(parents=True)
        (tools / "ssh").write_text("#!/bin/sh\nexit 255\n", encoding="utf-8")
        (tools / "ssh").chmod(0o755)
    return {**kept, "HOME": str(home), "PATH": f"{tools}:{TOOLS}:{os.environ['PATH']}", "ANSIBLE_NOCOLOR": "1", "ANSIBLE_COLLECTIONS_PATH": str(collections)}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A path that holds our collection out of its tarball, those that it depends on, and nothing else."""
    base = tmp_path_factory.mktemp("installed")
    paths = base / "collections"
    theirs = Path(sysconfig.get_paths()["purelib"]) / "ansible_collections"
    for name in ("ansible/posix", "community/crypto", "community/general"):
        (paths / "ansible_collections" / name).parent.mkdir(parents=True, exist_ok=True)
        (paths / "ansible_collections" / name).symlink_to(theirs / name)
    # Forced, because a link of the development's environment is taken for an installed one; its dependencies would be asked of a server.
    for command in (
        [TOOLS / "ansible-galaxy", "collection", "build", ROOT, "--output-path", base],
        [TOOLS / "ansible-galaxy", "collection", "install", "--offline", "--no-deps", "--force", "-p", paths, base / "hnai-platform-0.1.0.tar.gz"],
    ):
        done = subprocess.run(command, cwd=base, env=environment(base / "home", paths), capture_output=True, text=True, timeout=900, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    assert (paths / INSIDE / "MANIFEST.json").is_file()
    return paths


def test_the_site_model_is_validated_through_ansible_runner_from_a_private_directory(installed: Path, tmp_path: Path) -> None:
    private = tmp_path / "private"
    (private / "project").mkdir(parents=True)
    shutil.copytree(ROOT / "inventories/lab", private / "inventory")
    home = tmp_path / "home"
    result = ansible_runner.run(
        private_data_dir=str(private), playbook="hnai.platform.validate", inventory=str(private / "inventory/hosts.yml"), cmdline="-vv -e format=json",
        envvars={**environment(home, installed), "ANSIBLE_CONFIG": ""}, quiet=True, timeout=900,
    )  # fmt: skip
    output = result.stdout.read()
    assert result.rc == 0, output
    found = [event["event_data"]["res"] for event in result.events if event["event"] == "runner_on_ok" and "Validate the site" in event["event_data"]["task"]]
    assert found
    assert found[0]["errors"] == []
    (line,) = [line for line in output.splitlines() if line.startswith('{"errors"')]
    assert json.loads(line)["errors"] == []
    assert f"task path: {installed}/{INSIDE}/playbooks/validate.yml" in output
    assert f"task path: {ROOT}" not in output, "nothing of this checkout is used"
    assert not (home / ".local/state").exists(), "a look at the model leaves nothing behind"


def test_each_verb_is_found_by_its_name(installed: Path, tmp_path: Path) -> None:
    """A folder of a verb's name beside its playbook is what Ansible would take for it."""
    shutil.copytree(ROOT / "inventories/lab", tmp_path / "site")
    verbs = sorted(path.name.removesuffix(".meta.yml") for path in (ROOT / "playbooks").glob("*.meta.yml"))
    command = [TOOLS / "ansible-playbook", "-i", "site/hosts.yml", "--list-tasks", *(f"hnai.platform.{verb}" for verb in verbs)]
    done = subprocess.run(command, cwd=tmp_path, env=environment(tmp_path / "home", installed), capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [line.rpartition("/")[2] for line in done.stdout.splitlines() if line.startswith("playbook: ")] == [f"{verb}.yml" for verb in verbs]
