# SPDX-License-Identifier: Apache-2.0
"""What a machine lacks is one error that names package and remedy, before anything is downloaded."""
from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
# What the scripts themselves use; everything else is hidden from them.
TOOLS = ("bash", "env", "dirname", "sed", "tr", "sort", "paste", "df", "awk", "id", "git", "cut", "getent", "mktemp", "tail", "rm", "cat")


def tool(folder: Path, name: str, text: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


class Machine:
    """A machine with nothing but the tools of the scripts."""

    def __init__(self, base: Path) -> None:
        self.bin = base / "bin"
        self.bin.mkdir()
        self.root = base / "root"
        (self.root / "etc").mkdir(parents=True)
        self.release("13")
        self.calls = base / "calls"
        for name in TOOLS:
            for folder in ("/usr/bin", "/bin"):
                if (Path(folder) / name).exists():
                    (self.bin / name).symlink_to(Path(folder) / name)
                    break
        tool(self.bin, "id", "echo 0")
        tool(self.bin, "apt-get", f'echo "$@" >>{self.calls}; exit 1')

    def release(self, version: str, name: str = "debian") -> None:
        (self.root / "etc" / "os-release").write_text(f'ID={name}\nVERSION_ID="{version}"\n')

    def python(self) -> None:
        (self.bin / "python3.13").symlink_to(sys.executable)

    def run(self, *args: str, **environment: str) -> tuple[int, str]:
        given = {
            "PATH": str(self.bin), "HOME": str(self.root), "HNAI_PREFLIGHT_ROOT": str(self.root), "LC_ALL": "C.UTF-8", **environment,
        }
        done = subprocess.run([SCRIPTS / args[0], *args[1:]], env=given, capture_output=True, text=True, timeout=60, check=False)
        return done.returncode, done.stdout + done.stderr


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_everything_that_lacks_stands_in_one_error(machine: Machine) -> None:
    code, output = machine.run("preflight", "lab")
    assert code == 1
    for package in ("podman", "runc", "netavark", "aardvark-dns", "nftables", "mmdebstrap", "apt-utils", "gpg", "maven", "default-jdk-headless", "golang-go"):
        assert f"package {package}" in output
    assert "Python >= 3.12" in output
    assert "pyenv install 3.13" in output
    assert "apt-get update && apt-get install" in output
    assert not machine.calls.exists(), "apt-get was called although Python must come first"


def test_debian_12_names_where_a_new_go_comes_from(machine: Machine) -> None:
    machine.release("12")
    machine.python()
    code, output = machine.run("preflight", "lab")
    assert code == 1
    assert "bookworm-backports" in output
    assert "package golang-go" not in output
    assert not machine.calls.exists()


def test_old_versions_are_not_enough(machine: Machine) -> None:
    machine.python()
    tool(machine.bin, "go", "echo go version go1.19.8 linux/amd64")
    tool(machine.bin, "java", "echo 'openjdk version \"11.0.1\"' >&2")
    output = machine.run("preflight", "lab", HNAI_NO_INSTALL="1")[1]
    assert "package golang-go" in output
    assert "package default-jdk-headless" in output


def test_no_install_only_reports(machine: Machine) -> None:
    machine.python()
    code, output = machine.run("preflight", "lab", HNAI_NO_INSTALL="1")
    assert code == 1
    assert "package podman" in output
    assert not machine.calls.exists()


def test_packages_are_installed_where_that_is_possible(machine: Machine) -> None:
    machine.python()
    code, output = machine.run("preflight", "lab")
    assert code == 1, "the apt-get of this machine fails"
    assert "installing the Debian packages podman" in output
    assert "apt-get could not install" in output
    assert "update" in machine.calls.read_text().splitlines()[0]


def test_another_system_installs_nothing(machine: Machine) -> None:
    machine.python()
    machine.release("24.04", "ubuntu")
    code, output = machine.run("preflight", "lab")
    assert code == 1
    assert "package podman" in output
    assert not machine.calls.exists()


def test_lint_and_unit_tests_need_only_python_and_git(machine: Machine) -> None:
    assert machine.run("preflight", "python")[0] == 1
    machine.python()
    assert machine.run("preflight", "python") == (0, "")


def test_find_python_asks_path_then_pyenv(machine: Machine) -> None:
    assert machine.run("find-python")[0] == 1
    old = machine.root / ".pyenv" / "versions" / "3.11.7" / "bin"
    new = machine.root / ".pyenv" / "versions" / "3.13.0" / "bin"
    for folder in (old, new):
        folder.mkdir(parents=True)
    tool(old, "python3", "exit 1")
    (new / "python3").symlink_to(sys.executable)
    code, output = machine.run("find-python")
    assert code == 0
    assert os.path.basename(output.strip()).startswith("python3")


def test_a_shim_that_only_pretends_is_passed_over(machine: Machine) -> None:
    tool(machine.bin, "python3.13", "exit 127")
    assert machine.run("find-python")[0] == 1
    machine.bin.joinpath("python3.12").symlink_to(sys.executable)
    assert machine.run("find-python")[0] == 0
