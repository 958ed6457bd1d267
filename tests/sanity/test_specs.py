# SPDX-License-Identifier: Apache-2.0
"""meta/argument_specs.yml and defaults/main.yml of a role say the same."""
from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
ROLES = sorted(path for path in (ROOT / "roles").glob("*") if path.is_dir())


def load(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file, empty for an empty file."""
    return yaml.safe_load(path.read_text(encoding="utf-8")) or {}


def options_of(role: Path) -> dict[str, Any]:
    """Options of the role's main entry point."""
    spec = role / "meta" / "argument_specs.yml"
    assert spec.is_file(), f"{spec.relative_to(ROOT)} is missing"
    return load(spec)["argument_specs"].get("main", {}).get("options") or {}


def defaults_of(role: Path) -> dict[str, Any]:
    """The role's defaults."""
    path = role / "defaults" / "main.yml"
    return load(path) if path.is_file() else {}


def faults(options: dict[str, Any], where: str) -> list[str]:
    """What is untyped or undescribed in a (nested) spec."""
    found = []
    for name, option in options.items():
        path = f"{where}.{name}"
        description = option.get("description")
        if not description:
            found.append(f"{path}: no description")
        if "type" not in option:
            found.append(f"{path}: no type")
        if option.get("type") == "list" and "elements" not in option:
            found.append(f"{path}: a list without elements")
        text = " ".join(description) if isinstance(description, list) else str(description or "")
        nested = option.get("elements") == "dict" or option.get("type") == "dict"
        if nested and not option.get("options") and "keyed by" not in text.lower():
            found.append(f"{path}: a dict without options (a map says 'keyed by …' in its description)")
        if option.get("options"):
            found += faults(option["options"], path)
    return found


def test_there_are_roles() -> None:
    assert ROLES


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_files_of_a_role(role: Path) -> None:
    missing = [name for name in ("README.md", "meta/main.yml", "meta/argument_specs.yml") if not (role / name).is_file()]
    assert not missing


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_options_are_the_defaults(role: Path) -> None:
    # An option that is neither required nor has a default is one that a role asks with `is defined`.
    options = {name: option for name, option in options_of(role).items() if "default" in option}
    defaults = defaults_of(role)
    assert sorted(options) == sorted(defaults), "options with a default, and defaults, must be the same names"
    assert not [name for name in options if options[name].get("required")]
    different = {
        name: (option.get("default"), defaults[name]) for name, option in options.items() if option["default"] != defaults[name]
    }
    assert not different, "(spec, default) differ"


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_options_are_typed_and_described(role: Path) -> None:
    assert not faults(options_of(role), role.name)


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_names_begin_with_the_role(role: Path) -> None:
    assert not [name for name in defaults_of(role) if not name.startswith(role.name + "_")]
