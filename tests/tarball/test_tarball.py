# SPDX-License-Identifier: Apache-2.0
"""The built collection holds what users need, and nothing else."""
from __future__ import annotations

import fnmatch
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

ALLOWED = (
    "MANIFEST.json", "FILES.json", "README.md", "LICENSE", "CONTRIBUTING.md", "CHANGELOG.rst", "site.yml",
    "execution-environment.yml", "bindep.txt",
    "meta/*.yml",
    "changelogs/config.yaml", "changelogs/changelog.yaml",
    "docs/*.md", "docs/*.svg", "docs/*/*.md", "docs/monitoring/*.yml", "docs/monitoring/*.json", "docs/*.rst", "docs/docsite/*.yml",
    "awx/*.yml", "awx/*.md",
    "inventories/lab/*.yml", "inventories/lab/*.md",
    "playbooks/*.yml", "playbooks/callback_plugins/*.py", "playbooks/*.j2", "playbooks/*.service", "playbooks/lab/*",
    "plugins/*.py", "plugins/*.yml", "plugins/*.json", "plugins/*.j2",
    "roles/*/README.md", "roles/*/defaults/main.yml", "roles/*/vars/*.yml", "roles/*/meta/*.yml", "roles/*/tasks/*.yml",
    "roles/*/templates/*", "roles/*/tree/*", "roles/*/files/*",
)
NEVER = ("*.pyc", "*.pem", "*.key", "*.tar.gz", "*.whl", "*.jar", "*.deb", "*__pycache__*", "*~", "*.orig", "*.swp", "*.log")
NEEDED = ("MANIFEST.json", "README.md", "LICENSE", "meta/runtime.yml", "playbooks/verify.yml", "plugins/module_utils/verdict.py")
LARGEST = 2_000_000


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    """Path and size of every file of the tarball."""
    target = tmp_path_factory.mktemp("tarball")
    galaxy = Path(sys.executable).with_name("ansible-galaxy")
    done = subprocess.run(
        [galaxy, "collection", "build", ROOT, "--output-path", target],
        capture_output=True, text=True, timeout=120, check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (archive,) = target.glob("hnai-platform-*.tar.gz")
    with tarfile.open(archive) as tar:
        return {member.name: member.size for member in tar if member.isfile()}


def test_every_file_is_on_the_allow_list(members: dict[str, int]) -> None:
    strangers = [name for name in members if not any(fnmatch.fnmatch(name, pattern) for pattern in ALLOWED)]
    assert not strangers, f"exclude these in galaxy.yml (build_ignore) or allow them here: {strangers}"


def test_no_file_that_never_belongs(members: dict[str, int]) -> None:
    assert not [name for name in members if any(fnmatch.fnmatch(name, pattern) for pattern in NEVER)]


def test_no_file_is_huge(members: dict[str, int]) -> None:
    assert not {name: size for name, size in members.items() if size > LARGEST}


@pytest.mark.parametrize("name", NEEDED)
def test_what_users_need_is_there(members: dict[str, int], name: str) -> None:
    assert name in members
