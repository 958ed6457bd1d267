# SPDX-License-Identifier: Apache-2.0
"""Rules of the repository that no linter knows."""
from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
# Files that cannot carry a comment, and the licence itself.
NO_COMMENT = {".json", ".svg", ".png", ".rst", ".pem", ".der", ".csv", ".lock"}
NO_LINE = {"LICENSE", "changelogs/changelog.yaml", "CHANGELOG.rst"}


def tracked() -> list[str]:
    """Every file that belongs to the project, committed or not."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--deduplicate"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    return sorted(name for name in done.stdout.split("\0") if name and (ROOT / name).is_file())


FILES = tracked()


def text_of(name: str) -> str:
    """A file's text; bytes that are no UTF-8 are replaced."""
    return (ROOT / name).read_text(encoding="utf-8", errors="replace")


def test_every_file_names_its_licence() -> None:
    missing = []
    for name in FILES:
        if name in NO_LINE or Path(name).suffix in NO_COMMENT or not (ROOT / name).stat().st_size:
            continue
        head = "\n".join(text_of(name).splitlines()[:5])
        if not re.search(r"SPDX-License-Identifier: (Apache-2\.0|GPL-3\.0-or-later)", head):
            missing.append(name)
    assert not missing


# Written in two pieces, so that this file does not break its own rules.
FORBIDDEN = [
    ("a registry's host name", r"pypi\." + r"org|pythonhosted\." + r"org|repo1\.maven\." + r"org|repo\.maven\.apache\." + "org"
     r"|proxy\.golang\." + r"org|registry\.npmjs\." + r"org|deb\.debian\." + r"org|security\.debian\." + "org"),
    ("an errors-ignored task", r"ignore_" + r"errors:\s*(true|yes)"),
    ("unverified TLS", r"validate_" + r"certs:\s*(false|no)"),
    ("a failure switched off", r"failed_" + r"when:\s*false"),
    ("host keys unchecked", r"StrictHostKey" + r"Checking[= ]no|host_key_" + r"checking\s*[=:]\s*[Ff]alse"),
    ("a lint finding set aside", r"#\s*no" + r"qa|#\s*nos" + r"ec|#\s*ans" + r"ible-lint|yamllint " + r"disable"),
    ("a test switched off", r"pytest\." + r"skip|mark\." + r"(skip|xfail)|unittest\." + r"skip"),
    ("unfinished work", r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X)\b"),
    ("a path of somebody's machine", r"/wo" + r"rk/(main|shared)|/home/(?!ansible)[a-z]+/|/ro" + r"ot/\.pyenv"),
]


@pytest.mark.parametrize(("what", "pattern"), FORBIDDEN, ids=[what for what, _ in FORBIDDEN])
def test_no_file_holds(what: str, pattern: str) -> None:
    expression = re.compile(pattern)
    found = [
        f"{name}:{number}: {line.strip()[:120]}"
        for name in FILES
        for number, line in enumerate(text_of(name).splitlines(), 1)
        if expression.search(line)
    ]
    assert not found, f"{what}:\n" + "\n".join(found)


def test_ansible_lint_leaves_nothing_out() -> None:
    config = yaml.safe_load(text_of(".ansible-lint"))
    assert config["profile"] == "production"
    assert not {"skip_list", "warn_list", "exclude_paths", "mock_modules", "mock_roles", "kinds"} & set(config)
    assert not [name for name in FILES if Path(name).name == ".ansible-lint-ignore" or "sanity/ignore-" in name]


def test_the_ci_calls_the_test_command_of_the_readme() -> None:
    assert "exec make test" in text_of(".ci/run")
    runs = re.findall(r"run: (.*)", text_of(".github/workflows/ci.yml"))
    assert {run for run in runs if run.startswith("make")} == {"make lint", "make test"}


def test_locks_are_pinned_and_hashed() -> None:
    for name in ("requirements.txt", "requirements-collections.txt"):
        blocks = [block for block in re.split(r"\n(?=[a-zA-Z])", text_of(name)) if not block.startswith("#")]
        assert blocks
        for block in blocks:
            assert re.match(r"[A-Za-z0-9._\[\]-]+==\S+ \\\n(\s+--hash=sha256:[0-9a-f]{64}( \\)?\n?)+", block), block[:100]


def test_ansible_cfg_names_no_connection() -> None:
    config = text_of("ansible.cfg")
    assert not re.search(r"remote_user|private_key|ssh_args|ssh_common_args|ProxyJump|interpreter_python|vault_password", config)
