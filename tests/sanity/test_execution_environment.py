# SPDX-License-Identifier: Apache-2.0
"""The execution environment holds what a run needs: the pins of the tests, and every library that code of the controller imports."""
from __future__ import annotations

import ast
import re
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
#: Distributions that ansible-core itself depends on, by the names that are imported.
OF_CORE = {"ansible", "yaml", "jinja2", "packaging", "cryptography"}
#: What runs on the controller. Modules and what only they import run on the hosts.
CONTROLLER = ("plugins/action", "plugins/callback", "plugins/filter", "plugins/lookup", "plugins/plugin_utils", "playbooks/callback_plugins")
PACKAGE = "ansible_collections.hnai.platform."


def load(name: str) -> dict[str, Any]:
    """A YAML file of the project's root."""
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


def imports(path: Path) -> set[str]:
    """Modules that a file imports; a name that is imported from one counts as a module of it too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            found.update([node.module, *(f"{node.module}.{alias.name}" for alias in node.names)])
        elif isinstance(node, ast.ImportFrom) and node.level:
            folder = path.parents[node.level - 1].relative_to(ROOT).as_posix().replace("/", ".")
            base = PACKAGE + folder + (f".{node.module}" if node.module else "")
            found.update([base, *(f"{base}.{alias.name}" for alias in node.names)])
    return found


def third_party() -> dict[str, set[str]]:
    """{library: files that import it} of everything that runs on the controller."""
    todo = [path for folder in CONTROLLER for path in (ROOT / folder).rglob("*.py")]
    assert len(todo) > 20
    seen: set[Path] = set()
    found: dict[str, set[str]] = {}
    while todo:
        path = todo.pop()
        if path in seen or not path.is_file():
            continue
        seen.add(path)
        for name in imports(path):
            if name.startswith(PACKAGE):
                place = ROOT / name.removeprefix(PACKAGE).replace(".", "/")
                todo += [place.with_suffix(".py"), place / "__init__.py"]
            elif (top := name.partition(".")[0]) not in sys.stdlib_module_names | OF_CORE | {"ansible_collections"}:
                found.setdefault(top, set()).add(path.relative_to(ROOT).as_posix())
    assert any("module_utils" in path.as_posix() for path in seen)
    return found


def test_the_pins_are_those_that_the_tests_run_with() -> None:
    pins = dict(re.findall(r"^([a-z-]+)==(\S+)$", (ROOT / "requirements.in").read_text(encoding="utf-8"), re.M))
    needed = load("execution-environment.yml")["dependencies"]
    assert needed["ansible_core"] == {"package_pip": f"ansible-core=={pins['ansible-core']}"}
    assert needed["ansible_runner"] == {"package_pip": f"ansible-runner=={pins['ansible-runner']}"}
    galaxy = load("galaxy.yml")
    assert needed["galaxy"]["collections"] == [{"name": f"{galaxy['namespace']}.{galaxy['name']}", "version": galaxy["version"]}]


def test_the_definition_has_the_keys_of_version_3() -> None:
    """Those that ansible-builder 3.2 knows, of what is used; it refuses any other."""
    definition = load("execution-environment.yml")
    assert definition["version"] == 3
    assert set(definition) <= {"version", "images", "dependencies", "options", "additional_build_files", "additional_build_steps", "build_arg_defaults"}
    assert set(definition["images"]) == {"base_image"}
    assert set(definition["images"]["base_image"]) == {"name"}
    assert set(definition["dependencies"]) <= {"python_interpreter", "ansible_core", "ansible_runner", "galaxy", "system", "python", "exclude"}
    assert set(definition["dependencies"]["python_interpreter"]) <= {"package_system", "python_path"}
    assert set(definition["options"]) <= {"package_manager_path", "container_init", "relax_passwd_permissions", "skip_ansible_check", "workdir", "user", "tags"}


def test_the_collection_names_what_it_needs() -> None:
    meta = load("meta/execution-environment.yml")
    assert meta["version"] == 1
    for path in meta["dependencies"].values():
        assert (ROOT / path).is_file()
    listed = meta["dependencies"].get("python")
    needed = third_party()
    known = set(re.findall(r"^[A-Za-z0-9_-]+", (ROOT / listed).read_text(encoding="utf-8"), re.M)) if listed else set()
    assert set(needed) == known, needed


def test_bindep_has_an_ssh_client_for_both_families() -> None:
    lines = [line for line in (ROOT / "bindep.txt").read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9+.-]+( \[[a-z0-9:! -]+\])?", line) for line in lines)
    assert {re.search(r"platform:(\w+)", line)[1] for line in lines if line.startswith("openssh-client")} == {"rpm", "dpkg"}  # type: ignore[index]
