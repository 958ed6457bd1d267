# SPDX-License-Identifier: Apache-2.0
"""Rules of the repository that no linter knows."""
from __future__ import annotations

import re
import subprocess
from pathlib import Path

import ansible_test
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
    assert not [name for name in FILES if Path(name).name == ".ansible-lint-ignore"]


def test_ansible_test_leaves_out_two_tests_and_no_finding() -> None:
    """Ignore files are neither kept nor made: scripts/sanity leaves out whole tests, each with its reason, and says so."""
    assert not [name for name in FILES if re.search(r"sanity/ignore-", name)]
    assert "ignore-" not in text_of("scripts/lint") + text_of("scripts/sanity")
    block = re.search(r"^LEFT_OUT = \{\n(.*?)^\}", text_of("scripts/sanity"), re.M | re.S)
    assert block
    assert re.findall(r'^    "([a-z-]+)": "[^"]{20,}",$', block[1], re.M) == ["pylint", "shebang"]


def test_the_lock_of_the_sanity_tests_is_that_of_the_pinned_ansible_core() -> None:
    lists = Path(str(ansible_test.__file__)).parent / "_data/requirements"
    pinned = {
        canonical(line) for path in lists.glob("sanity.*.txt") if path.name != "sanity.pylint.txt"
        for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")
    }
    locked = {canonical(match) for match in re.findall(r"^(\S+==\S+) \\$", text_of("requirements-sanity.txt"), re.M)}
    assert locked == pinned, "run make lock"


def canonical(requirement: str) -> str:
    """As package indices compare names."""
    return re.sub(r"[-_.]+", "-", requirement.strip().partition("==")[0]).lower() + "==" + requirement.strip().partition("==")[2]


# What runs on a host names its interpreter by path; what a developer runs finds it on PATH; modules carry Ansible's own line.
ON_HOSTS = {"#!/bin/sh", "#!/usr/bin/python3"}
IN_CHECKOUT = {"#!/usr/bin/env bash", "#!/usr/bin/env python3"}


def test_interpreter_lines() -> None:
    """In the place of ansible-test's `shebang`, whose list has no Python 3 that a Debian host could start."""
    found = []
    for name in FILES:
        first = (ROOT / name).read_bytes().split(b"\n", 1)[0]
        executable = bool((ROOT / name).stat().st_mode & 0o111)
        line = first.decode("utf-8", errors="replace") if first.startswith(b"#!") else ""
        if first.startswith((b"\xef\xbb\xbf", b"\xfe\xff", b"\xff\xfe")):
            found.append(f"{name}: a byte order mark")
        if name.startswith("plugins/"):
            wanted = {"#!/usr/bin/python"} if name.startswith("plugins/modules/") else {""}
            if executable:
                found.append(f"{name}: a plugin is not executable")
        elif name.startswith(("roles/", "playbooks/")):
            # A template may be rendered from a part that carries the line.
            wanted = ON_HOSTS if executable and not name.endswith(".j2") else ON_HOSTS | {""}
        else:
            wanted = IN_CHECKOUT if executable else {"", "#!/usr/bin/env python3"}
        if line not in wanted:
            found.append(f"{name}: begins with {line!r}, not with one of {sorted(wanted)}")
    assert not found, "\n".join(found)


def test_the_ci_calls_the_test_command_of_the_readme() -> None:
    assert "exec make test" in text_of(".ci/run")
    runs = re.findall(r"run: (.*)", text_of(".github/workflows/ci.yml"))
    assert {run for run in runs if run.startswith("make")} == {"make lint", "make test"}


def test_locks_are_pinned_and_hashed() -> None:
    for name in ("requirements.txt", "requirements-collections.txt", "requirements-sanity.txt"):
        blocks = [block for block in re.split(r"\n(?=[a-zA-Z])", text_of(name)) if not block.startswith("#")]
        assert blocks
        for block in blocks:
            assert re.match(r"[A-Za-z0-9._\[\]-]+==\S+ \\\n(\s+--hash=sha256:[0-9a-f]{64}( \\)?\n?)+", block), block[:100]


def test_ansible_cfg_names_no_connection() -> None:
    config = text_of("ansible.cfg")
    assert not re.search(r"remote_user|private_key|ssh_common_args|ssh_extra_args|ProxyJump|interpreter_python|vault_password", config)
    # Only how connections are kept, as Ansible's own default.
    assert re.findall(r"^ssh_args *= *(.*)$", config, re.M) == ["-o ControlMaster=auto -o ControlPersist=60s"]


def test_every_play_is_linear_whatever_the_site_has_by_default() -> None:
    """run_once, any_errors_fatal and with them every gate hold in that strategy alone: under ``strategy = free`` in somebody's ansible.cfg, rotate_access
    would take the old key from the hosts although one has not taken the new one."""
    names = [name for name in FILES if re.fullmatch(r"playbooks/(?!lab/).*\.yml", name) and not name.endswith(".meta.yml")]
    plays = [(name, play) for name in names for play in yaml.safe_load(text_of(name)) if "hosts" in play]
    assert len(plays) > 50
    assert not [f"{name}: {play['name']}" for name, play in plays if play.get("strategy") != "linear"]


def test_an_option_that_is_true_or_false_is_read_as_one() -> None:
    """From -e and from an inventory in INI it is a text, and the text "false" holds in a condition. A module reads its arguments itself."""
    specs = [yaml.safe_load(text_of(name))["argument_specs"] for name in FILES if re.fullmatch(r"roles/\w+/meta/argument_specs\.yml", name)]
    names = {name for spec in specs for entry in spec.values() for name, option in (entry.get("options") or {}).items() if option.get("type") == "bool"}
    assert len(names) > 3
    read = [name for name in FILES if re.match(r"roles/\w+/(tasks|vars|tree|templates)/", name)]
    lines = [(name, line) for name in read for line in text_of(name).splitlines() if not line.lstrip().startswith("#")]
    use = re.compile(rf"\b({'|'.join(sorted(names))})\b(?! \| bool\b)")
    assert not [f"{name}: {line.strip()}" for name, line in lines if use.search(line) and not re.fullmatch(r"\s*\w+: \"\{\{ \w+ \}\}\"", line)]
