# SPDX-License-Identifier: GPL-3.0-or-later
"""Controller side of host_verdicts: renders the checks of a host's components and sends them in one round trip."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ansible import constants as C
from ansible.errors import AnsibleActionFail, AnsibleConnectionFailure, AnsibleError
from ansible.module_utils.common.text.converters import to_text
from ansible.plugins.action import ActionBase
from ansible.template import Templar
from ansible.utils.vars import load_extra_vars

from ansible_collections.hnai.platform.plugins.filter import collector, modbus, rotation, zones
from ansible_collections.hnai.platform.plugins.module_utils.verdict import VERDICT_ARGS
from ansible_collections.hnai.platform.plugins.plugin_utils import contracts, library, site
from ansible_collections.hnai.platform.plugins.plugin_utils.report import record

ROOT = Path(__file__).resolve().parents[2]
OURS = "hnai.platform."
#: Filters of the templates of tasks/verify.yml. Loaded with this action, which Ansible does before it forks: else each host's worker compiles them
#: anew, as Ansible keeps no bytecode of a collection.
PRELOADED = (collector, modbus, rotation, zones)
#: Seconds beyond its own deadline after which a check module is killed.
GRACE_S = 5.0


@dataclass(frozen=True)
class Question:
    """One task of a tasks/verify.yml: what it is called, the module with its raw arguments, what its result is registered as, and when."""

    title: str
    module: str
    arguments: Mapping[str, Any]
    variable: str
    conditions: tuple[Any, ...] = ()


@dataclass
class Work:
    """What is sent to a host, and what is known before it is asked."""

    checks: dict[str, dict[str, Any]] = field(default_factory=dict)
    verdicts: dict[str, dict[str, Any]] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)


def questions(tasks: Any, shown: str) -> Iterator[Question]:
    """The tasks of a tasks/verify.yml. Raises AnsibleActionFail naming file, task, key and remedy."""
    for task in tasks or []:
        title = str(task.get("name", ""))
        module = [key for key in task if key.startswith(OURS)]
        extra = sorted(set(task) - {"name", "register", "when", *module})
        if extra or len(module) != 1 or "register" not in task:
            what = f"{extra[0]} is not understood here" if extra else "it needs one module of ours and register"
            raise AnsibleActionFail(f"{shown}: {title}: {what}; what needs more than name, module, register and when stands in tasks/verify_full.yml")
        when = task.get("when", [])
        yield Question(title, module[0], task[module[0]] or {}, str(task["register"]), tuple(when) if isinstance(when, list) else (when,))


class ActionModule(ActionBase):
    """See the module's documentation."""

    TRANSFERS_FILES = False
    _requires_connection = True
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Verdicts and reasons; only a host that cannot be reached raises."""
        variables: dict[str, Any] = task_vars or {}
        result = super().run(tmp, variables)
        self.validate_argument_spec(argument_spec={})
        known = contracts.all(ROOT)
        chosen = record.selected(known, list(variables.get("ansible_run_tags") or ["all"]), list(variables.get("ansible_skip_tags") or []))
        work = Work()
        with site.kept(Path(C.DEFAULT_LOCAL_TMP, f"hnai-site-{self._task._uuid}.json")):
            for component in record.checked(known, list(variables.get("group_names") or []), chosen):
                self._prepare(work, component, variables)
        result.update(changed=False, verdicts=work.verdicts, broken=work.broken)
        if not work.checks:
            return result
        try:
            answer = self._execute_module(module_name="hnai.platform.host_verdicts", module_args={"work": self._sent(work.checks)}, task_vars=variables)
        except AnsibleConnectionFailure:
            raise
        except AnsibleError as error:
            answer = {"failed": True, "msg": to_text(error)}
        if answer.get("failed") or "results" not in answer:
            work.broken.update(dict.fromkeys(work.checks, " ".join(str(answer.get("msg", "no message")).split())))
            return result
        for name, text in answer["results"].items():
            said = json.loads(text)
            said.pop("invocation", None)
            work.verdicts[name] = said
        work.broken.update(answer["broken"])
        return result

    def _prepare(self, work: Work, component: str, task_vars: dict[str, Any]) -> None:
        """Render what the component's tasks/verify.yml asks; what cannot be rendered becomes a reason."""
        role = ROOT / "roles" / component
        try:
            templar = Templar(loader=self._loader, variables=self._scope(role, task_vars))
            asked = list(questions(self._read(role / "tasks" / "verify.yml"), f"roles/{component}/tasks/verify.yml"))
        except AnsibleError as error:
            work.broken[component + record.VERDICT_SUFFIX] = to_text(error)
            return
        for one in asked:
            try:
                if not all(templar.evaluate_conditional(condition) for condition in one.conditions):
                    work.verdicts[one.variable] = {"skipped": True}
                    continue
                arguments = site.plain(templar.template(one.arguments))
            except AnsibleError as error:
                work.broken[one.variable] = f"{one.title}: {' '.join(to_text(error).split())}"
                continue
            seconds = float(arguments.get("deadline", VERDICT_ARGS["deadline"]["default"])) + GRACE_S
            work.checks[one.variable] = {"module": one.module[len(OURS):], "args": arguments, "seconds": seconds}

    def _read(self, path: Path) -> Any:
        """A YAML file of a role, its strings trusted as templates; nothing where there is none."""
        return self._loader.load_from_file(str(path), unsafe=True, trusted_as_template=True) if path.is_file() else None

    def _scope(self, role: Path, task_vars: dict[str, Any]) -> dict[str, Any]:
        """What a task of the role sees."""
        return {
            **(self._read(role / "defaults" / "main.yml") or {}),
            **task_vars,
            **(self._read(role / "vars" / "main.yml") or {}),
            **load_extra_vars(self._loader),
            "role_name": role.name,
            "role_path": str(role),
        }

    @staticmethod
    def _sent(checks: Mapping[str, Mapping[str, Any]]) -> str:
        names = sorted({check["module"] for check in checks.values()})
        programs = {name: (ROOT / "plugins" / "modules" / f"{name}.py").read_text(encoding="utf-8") for name in names}
        needed = library.packed(library.imported(ROOT / "plugins" / "module_utils", programs.values()))
        return json.dumps({"checks": checks, "programs": programs, "library": base64.b64encode(needed).decode("ascii")})
