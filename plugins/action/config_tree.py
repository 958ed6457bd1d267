# SPDX-License-Identifier: GPL-3.0-or-later
"""Controller side of config_tree: renders a role's tree/ and sends it to the module in one round trip."""

from __future__ import annotations

import base64
import fnmatch
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail, AnsibleError
from ansible.module_utils.common.text.converters import to_text
from ansible.plugins.action import ActionBase

from ansible_collections.hnai.platform.plugins.module_utils.config_tree import refuse_private_key
from ansible_collections.hnai.platform.plugins.module_utils.hostfiles import HostError
from ansible_collections.hnai.platform.plugins.plugin_utils.trees import ROLES, rendered, search

_ITEM = re.compile(r"__([a-z][a-z0-9]*(?:_[a-z0-9]+)*)__")
#: __init__.py and __main__.py are Python's own names.
_PYTHON = {"init", "main"}


def expand(path: str, items: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(target path, extra variables) of one file of the tree: itself, or once per item of foreach that has its keys.

    >>> list(expand("/etc/x/__instance__.conf", [{"instance": "a"}]))
    [('/etc/x/a.conf', {'instance': 'a'})]
    """
    keys = set(_ITEM.findall(path)) - _PYTHON
    if not keys:
        yield path, {}
        return
    for item in items:
        if keys <= set(item):
            target = path
            for key in keys:
                target = target.replace(f"__{key}__", str(item[key]))
            yield target, item


def place(path: str, executable: bool, args: dict[str, Any]) -> dict[str, str]:
    """Mode, owner and group of a target path (directories end in a slash)."""
    home = f"/etc/hnai/{args['component']}/"
    directory = path.endswith("/")
    if path.startswith(home):
        result = {"mode": "0750" if directory or executable else "0640", "owner": args["owner"], "group": args["group"]}
    else:
        result = {"mode": "0755" if directory or executable else "0644", "owner": "root", "group": "root"}
    for rule in args["modes"]:
        if rule["path"].endswith("/") == directory and fnmatch.fnmatchcase(path, rule["path"]):
            result.update({key: str(value) for key, value in rule.items() if key != "path" and value is not None})
    return result


class ActionModule(ActionBase):
    """Renders, then runs the module of the same name."""

    TRANSFERS_FILES = False
    _requires_connection = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """The module's result. Raises AnsibleActionFail naming the template and the reason."""
        task_vars = task_vars or {}
        result = super().run(tmp, task_vars)
        args = {
            "owner": "root",
            "group": "root",
            "modes": [],
            "foreach": [],
            "exclude": [],
            "leave": [],
            "validate": [],
            "foreign_ignore": [],
            "hold": [],
            "watch": [],
            **{key: value for key, value in self._task.args.items() if value is not None},
        }
        unknown = set(args) - {"component", "owner", "group", "modes", "foreach", "exclude", "leave", "validate", "foreign_ignore", "hold", "watch"}
        if unknown or "component" not in args:
            raise AnsibleActionFail(f"config_tree: unknown option {sorted(unknown)[0]}" if unknown else "config_tree: component is missing")
        role = self._role_directory(args["component"])
        tree = role / "tree"
        if not tree.is_dir():
            raise AnsibleActionFail(f"{tree}: the role has no tree; put the files of the target there")
        files, directories = self._render(role, tree, args, task_vars)
        result.update(
            self._execute_module(
                module_name="hnai.platform.config_tree",
                module_args={
                    "component": args["component"],
                    "files": files,
                    "directories": directories,
                    "leave": args["leave"],
                    "validate": args["validate"],
                    "foreign_ignore": args["foreign_ignore"],
                    "hold": args["hold"],
                    "watch": args["watch"],
                },
                task_vars=task_vars,
            )
        )
        for path in result.get("foreign") or []:
            self._display.warning(f"{task_vars.get('inventory_hostname', 'this host')}: {path} is not of the tree of {args['component']}; it is left alone")
        result.pop("invocation", None)  # The whole tree again; it would travel through every callback.
        return result

    def _role_directory(self, component: str) -> Path:
        """The running role when it is the component's, else the collection's role of that name."""
        running = self._task._role
        if running is not None and running.get_name().rpartition(".")[2] == component:
            return Path(running._role_path)
        return ROLES / component

    def _render(self, role: Path, tree: Path, args: dict[str, Any], task_vars: dict[str, Any]) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
        files: list[dict[str, str]] = []
        directories: dict[str, dict[str, str]] = {}
        home = f"/etc/hnai/{args['component']}"
        where = search(role)
        for source in sorted(path for path in tree.rglob("*") if path.is_symlink() or not path.is_dir()):
            if source.is_symlink():
                raise AnsibleActionFail(f"{source}: a tree has files, not links; declare links in a tmpfiles.d file")
            inside = "/" + source.relative_to(tree).as_posix()
            template = inside.endswith(".j2")
            for target, extra in expand(inside[:-3] if template else inside, args["foreach"]):
                if any(fnmatch.fnmatchcase(target, pattern) for pattern in [*args["exclude"], *args["leave"]]):
                    continue
                content = self._template(source, target, where, {**task_vars, **extra}) if template else source.read_bytes()
                try:
                    refuse_private_key(target, content)
                except HostError as error:
                    raise AnsibleActionFail(f"{source}: {error}") from error
                executable = bool(source.stat().st_mode & 0o100)
                files.append({"path": target, "content": base64.b64encode(content).decode(), **place(target, executable, args)})
                for parent in Path(target).parents:
                    path = parent.as_posix() + "/"
                    declared = any(rule["path"].endswith("/") and fnmatch.fnmatchcase(path, rule["path"]) for rule in args["modes"])
                    if path.startswith(home + "/") or declared:
                        directories[path] = {"path": path.rstrip("/"), **place(path, False, args)}
        return files, list(directories.values())

    def _template(self, source: Path, target: str, where: list[str], variables: dict[str, Any]) -> bytes:
        """One rendered template."""
        try:
            return rendered(self._templar, source, target, where, variables)
        except (AnsibleError, UnicodeDecodeError) as error:
            raise AnsibleActionFail(f"{source}: {to_text(error)}") from error
