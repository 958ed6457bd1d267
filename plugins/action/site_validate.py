# SPDX-License-Identifier: GPL-3.0-or-later
"""Controller side of site_validate: collects inventory variables and contracts, calls the core, contacts nobody."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

from ansible import context
from ansible.errors import AnsibleActionFail, AnsibleError
from ansible.module_utils.parsing.convert_bool import boolean
from ansible.plugins.action import ActionBase
from ansible.utils.vars import load_extra_vars

from ansible_collections.hnai.platform.plugins.module_utils.flink.job import main_class
from ansible_collections.hnai.platform.plugins.module_utils.zones.acls import fed_topics, needed_topics
from ansible_collections.hnai.platform.plugins.module_utils.zones.flows import clients, needed_flows
from ansible_collections.hnai.platform.plugins.module_utils.zones.model import Problem, Site
from ansible_collections.hnai.platform.plugins.module_utils.zones.validate import judge
from ansible_collections.hnai.platform.plugins.plugin_utils import checks, contracts, observed, site_ca, sources
from ansible_collections.hnai.platform.plugins.plugin_utils.contracts import ContractError
from ansible_collections.hnai.platform.plugins.plugin_utils.declared import Known, jars
from ansible_collections.hnai.platform.plugins.plugin_utils.report import archive, html, record, zones
from ansible_collections.hnai.platform.plugins.plugin_utils.site import (
    add_names,
    broker_settings,
    collect,
    evaluated,
    options,
    twice,
    unheard,
    value_of,
    written,
)
from ansible_collections.hnai.platform.plugins.plugin_utils.written import OWN
from ansible_collections.hnai.platform.plugins.plugin_utils.written import problems as mistakes

#: Tags of the site's plays beside those of components.
PARTS = ("config", "install", "restart", "validate", "verify")


def text(problems: list[dict[str, Any]]) -> str:
    """The findings as a list for people."""
    lines = []
    for number, problem in enumerate(problems, 1):
        rule = f"[{', '.join([problem['invariant'], *problem['sr']])}] " if problem["invariant"] else ""
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
    _VALID_ARGS = frozenset(("expired", "export", "files", "format", "today"))

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Result with errors and warnings_found; failed if there is an error."""
        task_vars = task_vars or {}
        result = super().run(tmp, task_vars)
        args = {key: value for key, value in self._task.args.items() if value not in (None, "")}
        form = args.get("format", "text")
        if form not in ("text", "json"):
            raise AnsibleActionFail(f"format {form!r} is not text or json")
        if args.get("expired", "error") not in ("error", "report"):
            raise AnsibleActionFail(f"expired {args['expired']!r} is not error or report")
        try:
            now = datetime.datetime.now(datetime.timezone.utc)
            today = datetime.date(*map(int, str(args["today"]).split("-"))) if "today" in args else now
        except (TypeError, ValueError) as error:
            raise AnsibleActionFail(f"today {args['today']!r} is not YYYY-MM-DD") from error
        exported: list[str] = []
        try:
            data = collect(task_vars["hostvars"], task_vars["groups"])
            add_names(data, task_vars["hostvars"], task_vars.get("ansible_inventory_sources") or [])
            data["files"].update(dict.fromkeys(load_extra_vars(self._loader), "-e"))
            site = Site.from_dict(data)
            groups = task_vars["groups"]
            told, given = written(task_vars["hostvars"], groups), task_vars.get("ansible_inventory_sources") or []
            said = evaluated(told, task_vars["hostvars"], {*options(), *OWN, "ansible_host"}, site.file)
            said += mistakes(told, options(), groups, site.file, self._known(site, self._lent(task_vars)))
            said += twice(given) + unheard(given, groups) + self._unheard(task_vars)
            if boolean(args.get("files", False)):
                said += self._handed_over(site, task_vars["hostvars"], groups)
            said += self._site_ca(site, task_vars["hostvars"], task_vars["groups"], now)
            found = [problem.as_dict() for problem in [*sorted({*judge(site, data, today), *said}), *self._observed(site, task_vars["hostvars"])]]
            if args.get("export"):
                exported = self._export(site, today, args, task_vars)
            result.update(flows=len(needed_flows(site)[0]), conduits=len(site.conduits))
        except ContractError as error:
            found = [{**problem, "invariant": "contract", "severity": "error", "sr": []} for problem in error.problems]
        except AnsibleError as error:
            found = [
                {
                    "file": "inventory",
                    "key": "(templates)",
                    "message": str(error),
                    "remedy": "correct the variable that cannot be evaluated",
                    "invariant": "format",
                    "severity": "error",
                    "sr": [],
                }
            ]
        except ValueError as error:
            raise AnsibleActionFail(str(error)) from error
        if args.get("expired", "error") == "report":
            found = [{**problem, "severity": "warning"} if problem["invariant"] == "expiry" else problem for problem in found]
        errors = [problem for problem in found if problem["severity"] == "error"]
        warnings = [problem for problem in found if problem["severity"] != "error"]
        result.update(changed=False, exported=exported, failed=bool(errors), errors=errors, warnings_found=warnings)
        summary = f"{len(errors)} error(s), {len(warnings)} warning(s)"
        if errors:
            result["msg"] = f"The site model is refused: {summary}; no host was contacted"
        else:
            result["msg"] = f"The site model holds: {result['conduits']} conduits approve {result['flows']} needed flows; {summary}"
        # The findings stand once, for people or as one line for machines; the result has them too.
        if form == "json":
            self._display.display(json.dumps({"errors": errors, "warnings": warnings}, sort_keys=True))
        else:
            self._display.display("\n".join(filter(None, [text(found), result["msg"], *(f"written: {name}" for name in exported)])))
        for problem in warnings:
            if problem["invariant"] == "break_glass" or problem["message"].startswith("expired"):
                self._display.display(f"!!! {problem['key']}: {problem['message']}", color="red")
        return result

    def _lent(self, task_vars: dict[str, Any]) -> bool:
        """Whether somebody gives this run the address of one host, and the run goes to that one alone."""
        alone = bool(task_vars.get("ansible_limit")) and len(task_vars.get("ansible_play_hosts_all") or ()) == 1
        return alone and "ansible_host" in load_extra_vars(self._loader)

    def _unheard(self, task_vars: dict[str, Any]) -> list[Problem]:
        """Tags that nothing of ours bears: a misspelt one would do nothing and end well, or what it was to leave out. A playbook that imports us may have
        its own: there it is a warning."""
        known = {"all", "always", "tagged", "untagged", *PARTS, *record.SCOPES, *contracts.all()}
        root, begun = contracts.COLLECTION_ROOT.resolve(), [str(one) for one in context.CLIARGS.get("args") or ()]
        # playbook_dir is ours, too, where another playbook imports one of ours.
        ours = all(one.startswith("hnai.platform.") or Path(one).resolve().parent in (root, root / "playbooks") for one in begun)
        remedy = f"there are {', '.join(sorted(known - {'all', 'always', 'tagged', 'untagged'}))}"
        found = []
        for option, name in (("--tags", "ansible_run_tags"), ("--skip-tags", "ansible_skip_tags")):
            strange = ", ".join(sorted({*(task_vars.get(name) or ())} - known))
            if strange and ours:
                found.append(Problem(option, strange, "nothing bears it", remedy, "name"))
            elif strange:
                self._display.warning(f"{option} {strange}: nothing of hnai.platform bears it, so it chooses nothing there; {remedy}")
        return found

    def _export(self, site: Site, today: datetime.date, args: dict[str, Any], task_vars: dict[str, Any]) -> list[str]:
        """Writes drawing, evidence and the tables for other firewalls; nothing in check mode. Returns the paths."""
        if self._task.check_mode:
            return []
        folder = Path(args["export"]).expanduser()
        managed = task_vars["groups"].get("managed") or []
        variables = task_vars["hostvars"][managed[0]] if managed else {}
        title = f"{variables.get('hnai_site') or 'site'}: zones and conduits"
        proven = archive.proven(Path(variables["hnai_state_dir"]) / "verdicts", {}) if variables.get("hnai_state_dir") else {}
        written = []
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for name, content in zones.files(site, today, html.STYLE, title, proven).items():
                (folder / name).write_text(content, encoding="utf-8")
                written.append(str(folder / name))
        except OSError as error:
            raise ValueError(f"export {args['export']!r} cannot be written: {error.strerror}; name a folder that you may write to") from error
        return written

    @staticmethod
    def _known(site: Site, lent: bool) -> Known:
        return Known(
            lent=lent,
            needed=needed_topics(site), fed=() if site.lost else fed_topics(site), users={principal for principal, *_rest in clients(site, "kafka")},
            settings=broker_settings(), checks=[entry.id for section in checks.load() for entry in section.entries],
            secrets={str(secret["path"]) for contract in site.contracts.values() for secret in contract.get("secrets") or ()},
        )  # fmt: skip

    @staticmethod
    def _handed_over(site: Site, hostvars: Any, groups: Any) -> list[Problem]:
        """Files of the sources that are to be mirrored, and jars: a run that lacks one would end at their component, with all before it already changed."""

        def declared(group: str, name: str) -> Any:
            hosts = groups.get(group) or []
            return value_of(hostvars[hosts[0]], name, name, {}) if hosts and name in hostvars[hosts[0]] else ()

        plant, programs = "hnai_ot_sources", "flink_jars"
        handed = sources.handed_over(declared("ot_collector", plant), lambda path: Path(path).expanduser().read_text(encoding="utf-8"))
        lacking = jars(declared("flink", programs), lambda path: main_class(str(Path(path).expanduser())))
        return [*(Problem(site.file(plant), *one, "source") for one in handed), *(Problem(site.file(programs), *one, "option") for one in lacking)]

    @staticmethod
    def _site_ca(site: Site, hostvars: Any, groups: Any, now: datetime.datetime) -> list[Problem]:
        """What is wrong with the chain of a site's own CA. What is still to be signed is no mistake; how long it lives yet is BAO12's."""
        try:
            given = site_ca.of_hosts(hostvars, groups.get("openbao") or [])
            if given is not None and given.text.strip():
                site_ca.judge(given, now.timestamp())
        except site_ca.ChainError as error:
            remedy = "docs/openbao-ceremony.md, A root of the site's own"
            return [Problem(site.file(site_ca.VARIABLE), site_ca.VARIABLE, str(error), remedy, "expiry" if error.ended else "format")]
        except AnsibleError as error:
            message = f"cannot be evaluated: {' '.join(str(error).split())[:200]}"
            return [Problem(site.file(site_ca.VARIABLE), site_ca.VARIABLE, message, "correct the template", "format")]
        return []

    @staticmethod
    def _observed(site: Site, hostvars: Any) -> list[Problem]:
        """What the last playbooks/firewall_observed.yml has to say about hosts that are to enforce."""
        names = ("firewall_mode", "firewall_approved_by", "firewall_cut_flows")
        hosts = [node.name for node in site.managed()]
        state = next((value_of(hostvars[host], "hnai_state_dir", "", {}) for host in hosts if "hnai_state_dir" in hostvars[host]), "")
        found = observed.read(str(Path(str(state)).expanduser() / "firewall/observed.json")) if state else {}
        seen = [host for host in found.get("hosts") or {} if host in hosts]
        wanted = {host: {name: value_of(hostvars[host], name, name, {}) for name in names if name in hostvars[host]} for host in seen}
        return observed.problems(site, found, wanted)
