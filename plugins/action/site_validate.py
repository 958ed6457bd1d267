# SPDX-License-Identifier: GPL-3.0-or-later
"""Controller side of site_validate: collects inventory variables and contracts, calls the core, contacts nobody."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail, AnsibleError
from ansible.plugins.action import ActionBase

from ansible_collections.hnai.platform.plugins.module_utils.zones.flows import needed_flows
from ansible_collections.hnai.platform.plugins.module_utils.zones.model import Problem, Site
from ansible_collections.hnai.platform.plugins.module_utils.zones.validate import validate
from ansible_collections.hnai.platform.plugins.plugin_utils import observed
from ansible_collections.hnai.platform.plugins.plugin_utils.contracts import ContractError
from ansible_collections.hnai.platform.plugins.plugin_utils.site import add_names, collect, plain


def text(problems: list[dict[str, str]]) -> str:
    """The findings as a list for people."""
    lines = []
    for number, problem in enumerate(problems, 1):
        rule = f"[{problem['invariant']}] " if problem["invariant"] else ""
        lines += [
            f"{number}. {problem['file']}: {problem['key']}",
            f"   {rule}{problem['message']}",
            f"   remedy: {problem['remedy']}",
        ]
    return "\n".join(lines)


class ActionModule(ActionBase):
    """See the module's documentation."""

    TRANSFERS_FILES = False
    _requires_connection = False
    _VALID_ARGS = frozenset(("format", "today"))

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Result with errors and warnings_found; failed if there is an error."""
        task_vars = task_vars or {}
        result = super().run(tmp, task_vars)
        args = {key: value for key, value in self._task.args.items() if value not in (None, "")}
        form = args.get("format", "text")
        if form not in ("text", "json"):
            raise AnsibleActionFail(f"format {form!r} is not text or json")
        try:
            today = datetime.date(*map(int, str(args["today"]).split("-"))) if "today" in args else datetime.date.today()
        except (TypeError, ValueError) as error:
            raise AnsibleActionFail(f"today {args['today']!r} is not YYYY-MM-DD") from error
        try:
            data = collect(task_vars["hostvars"], task_vars["groups"])
            add_names(data, task_vars["hostvars"], task_vars.get("ansible_inventory_sources") or [])
            found = validate(data, today)
            site = Site.from_dict(data)
            found += [problem.as_dict() for problem in self._observed(site, task_vars["hostvars"])]
            result.update(flows=len(needed_flows(site)[0]), conduits=len(site.conduits))
        except ContractError as error:
            found = [{**problem, "invariant": "contract", "severity": "error"} for problem in error.problems]
        except AnsibleError as error:
            found = [
                {
                    "file": "inventory",
                    "key": "(templates)",
                    "message": str(error),
                    "remedy": "correct the variable that cannot be evaluated",
                    "invariant": "format",
                    "severity": "error",
                }
            ]
        except ValueError as error:
            raise AnsibleActionFail(str(error)) from error
        errors = [problem for problem in found if problem["severity"] == "error"]
        warnings = [problem for problem in found if problem["severity"] != "error"]
        result.update(changed=False, failed=bool(errors), errors=errors, warnings_found=warnings)
        summary = f"{len(errors)} error(s), {len(warnings)} warning(s)"
        if errors:
            result["msg"] = f"The site model is refused: {summary}; no host was contacted"
        else:
            result["msg"] = f"The site model holds: {result['conduits']} conduits approve {result['flows']} needed flows; {summary}"
        # The findings stand once, for people or as one line for machines; the result has them too.
        if form == "json":
            self._display.display(json.dumps({"errors": errors, "warnings": warnings}, sort_keys=True))
        else:
            self._display.display("\n".join(filter(None, [text(found), result["msg"]])))
        return result

    @staticmethod
    def _observed(site: Site, hostvars: Any) -> list[Problem]:
        """What the last playbooks/firewall_observed.yml has to say about hosts that are to enforce."""
        names = ("firewall_mode", "firewall_approved_by", "firewall_cut_flows")
        hosts = [node.name for node in site.managed()]
        state = next((str(hostvars[host]["hnai_state_dir"]) for host in hosts if "hnai_state_dir" in hostvars[host]), "")
        record = observed.read(str(Path(state).expanduser() / "firewall/observed.json")) if state else {}
        seen = [host for host in record.get("hosts") or {} if host in hosts]
        wanted = {host: {name: plain(hostvars[host][name]) for name in names if name in hostvars[host]} for host in seen}
        return observed.problems(site, record, wanted)
