# SPDX-License-Identifier: Apache-2.0
"""The tarball installed into an empty path, another directory, an empty HOME, ansible-runner's private directory: the site is judged as ever."""
from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

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


def test_the_verdict_passes_without_our_checkout_configuration_and_home(lab: Lab, collections: Path, tmp_path: Path) -> None:
    private = tmp_path / "private"
    (private / "project").mkdir(parents=True)
    shutil.copytree(lab.inventory.parent, private / "inventory")
    home = tmp_path / "home"
    home.mkdir()
    result = ansible_runner.run(
        private_data_dir=str(private), playbook="hnai.platform.verify", inventory=str(private / "inventory" / lab.inventory.name), quiet=True, timeout=900,
        verbosity=2,
        envvars={
            "HOME": str(home), "ANSIBLE_CONFIG": "", "ANSIBLE_COLLECTIONS_PATH": str(collections), "HNAI_STATE_DIR": str(lab.state),
            "PATH": f"{lab.python_path}:{os.environ['PATH']}",
        },
    )  # fmt: skip
    output = result.stdout.read()
    assert result.rc == 0, output[-4000:]
    assert f"task path: {collections}/ansible_collections/hnai/platform/playbooks/verify.yml" in output
    assert f"task path: {ROOT}" not in output, "nothing of this checkout is used"
