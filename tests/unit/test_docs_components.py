# SPDX-License-Identifier: Apache-2.0
"""The documentation says what the code says: component pages, the runbook's check ids, the ids of the coverage table."""
from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

from ansible_collections.hnai.platform.plugins.plugin_utils import checks

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "docs-components"
#: How check modules open a check: report.check("X1", …), report.skip("X1", …), spec("X1", …) or {"id": "X1", "title": …}.
OPENERS = {"check", "skip", "spec", "Spec", "Check"}
CHECK_ID = re.compile(r"^[A-Z]+[0-9]+$")


def generated(root: Path = ROOT) -> str:
    """What the script prints for a checkout."""
    return subprocess.run([sys.executable, SCRIPT, root], check=True, capture_output=True, text=True, encoding="utf-8", timeout=60).stdout


def check_ids() -> set[str]:
    """Ids of all checks in the code."""
    found: set[str] = set()
    for path in sorted((ROOT / "plugins").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            first: list[ast.expr | None] = []
            if isinstance(node, ast.Call) and node.args:
                name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                first = [node.args[0]] if name in OPENERS else []
            elif isinstance(node, ast.Dict):
                keys = [key.value if isinstance(key, ast.Constant) else None for key in node.keys]
                first = [node.values[keys.index("id")]] if {"id", "title"} <= set(keys) else []
            elif isinstance(node, ast.Tuple) and len(node.elts) >= 2:  # a table of (id, title, …)
                first = [node.elts[0]] if isinstance(node.elts[1], ast.Constant) and " " in str(node.elts[1].value) else []
            found |= {item.value for item in first if isinstance(item, ast.Constant) and CHECK_ID.match(str(item.value))}
    return found


def text(name: str) -> str:
    """A page of docs/."""
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def test_the_component_pages_are_up_to_date() -> None:
    assert text("components.md") == generated(), "run: .venv/bin/python scripts/docs-components >docs/components.md"


def test_a_changed_contract_and_option_change_the_pages(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "roles/mosquitto/meta", tmp_path / "roles/mosquitto/meta")
    before = generated(tmp_path)
    assert "tcp/8883" in before
    for name, old, new in (("component.yml", "port: 8883", "port: 8884"), ("argument_specs.yml", "mosquitto_clients:", "mosquitto_gate:")):
        path = tmp_path / "roles/mosquitto/meta" / name
        path.write_text(path.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
    after = generated(tmp_path)
    assert "tcp/8884" in after
    assert "`mosquitto_gate`" in after


def test_every_check_stands_in_the_register_and_nothing_else() -> None:
    ids = check_ids()
    assert {"B1", "S1", "BAO01", "OC0", "CN2", "FR1", "FR2", "HO6"} <= ids
    registered = {ident for ident in checks.by_id(checks.load()) if CHECK_ID.match(ident)}
    assert registered - ids == set(), "no code makes these: take them out of roles/*/meta/checks.yml"
    assert ids - registered == set(), "nobody is told what these mean: add them to roles/<component>/meta/checks.yml"


def test_what_is_made_from_the_register_is_up_to_date() -> None:
    done = subprocess.run([sys.executable, ROOT / "scripts" / "docs-checks", "--check"], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr + "run: .venv/bin/python scripts/docs-checks"


def test_coverage_names_only_what_exists() -> None:
    page = text("coverage.md")
    files = {path.stem: path.read_text(encoding="utf-8") for folder in ("tests", "molecule") for path in (ROOT / folder).rglob("test_*.py")}
    named = re.findall(r"`(test_\w+)::(test_\w+)`", page)
    assert named
    assert not [f"{file}::{name}" for file, name in named if f"def {name}(" not in files.get(file, "")]
    assert not {item for item in re.findall(r"`([^`]+)`", page) if CHECK_ID.match(item)} - check_ids()


def test_a_requirement_is_measured_only_by_an_id() -> None:
    rows = [row.strip("| ").split(" | ") for row in text("coverage.md").splitlines() if re.match(r"\| [CFVLXRKUMQP][0-9]{2} \|", row)]
    assert len(rows) == len({row[0] for row in rows}) > 100
    for row in rows:
        assert row[2] in ("measured", "part", "not yet"), row
        assert (row[2] == "not yet") == ("`" not in " ".join(row[3:])), row
