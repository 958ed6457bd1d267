# SPDX-License-Identifier: GPL-3.0-or-later
"""Controller side of conduit_verify: gives every host its part of the matrix, and judges what all of them found."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible import constants as C
from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

from ansible_collections.hnai.platform.plugins.module_utils.verdict import VERDICT_ARGS, Report
from ansible_collections.hnai.platform.plugins.module_utils.zones import judge, matrix
from ansible_collections.hnai.platform.plugins.module_utils.zones.expectation import expectation
from ansible_collections.hnai.platform.plugins.module_utils.zones.model import Site
from ansible_collections.hnai.platform.plugins.plugin_utils import site as inventory

MODULE = "hnai.platform.conduit_verify"
#: What the tasks of roles/firewall/tasks/verify_zones.yml register, by part.
REGISTERED = {"listen": "__firewall_listening", "probe": "__firewall_probed", "collect": "__firewall_collected"}


def own_ports(site: Site, host: str) -> set[tuple[str, int]]:
    """Ports of `host` that a component there has by its contract: a receiver never takes one, also while its owner is down."""
    return {(str(one["proto"]), int(one["port"])) for one in site.listeners_on(host).values()}


def listening(site: Site, host: str) -> dict[str, Any]:
    """What the receiver of a host binds: its addresses, and the ports of the registry that nobody there has by contract."""
    node = site.nodes[host]
    if node.kind != "host":
        return {"managed": False}
    free = sorted(set(matrix.registry(site)) - own_ports(site, host))
    ports = {proto: [port for one, port in free if one == proto] for proto in ("tcp", "udp")}
    return {"managed": True, "addresses": matrix.addresses(node), **ports}


class ActionModule(ActionBase):
    """See the module's documentation."""

    TRANSFERS_FILES = False
    _requires_connection = True
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """A part's result."""
        variables: dict[str, Any] = task_vars or {}
        result = super().run(tmp, variables)
        args = dict(self._task.args)
        part, host = str(args.get("part", "")), str(variables["inventory_hostname"])
        if part not in (*REGISTERED, "judge", "static"):
            raise AnsibleActionFail(f"conduit_verify: part {part!r}; use static, {', '.join(REGISTERED)} or judge")
        with inventory.kept(Path(C.DEFAULT_LOCAL_TMP, f"hnai-site-{self._task._uuid}.json")):
            site = Site.from_dict(inventory.collect(variables["hostvars"], variables["groups"]))
        if site.problems:
            raise AnsibleActionFail(f"conduit_verify: the site model has problems; run hnai.platform.validate: {site.problems[0].message}")
        if part == "judge":
            return {**result, **self._judge(site, args, variables)}
        if host not in site.nodes:
            return {**result, "changed": False, "error": f"{host} is not part of the model"}
        work: dict[str, Any] = {"managed": site.nodes[host].kind == "host"}
        if part == "static":
            work["expected"] = expectation(site, host)
        elif part == "listen":
            work = listening(site, host)
        elif part == "probe":
            said = variables.get(REGISTERED["listen"]) or {}
            if "slot" not in said:
                return {**result, "changed": False, "error": f"it did not listen: {said.get('error') or said.get('msg') or 'no result'}"}
            plan = matrix.plan(site, host)
            hosts = [name for name in variables.get("ansible_play_hosts_all") or [] if name in site.nodes]
            work |= {"probes": [one.sent() for one in plan.probes], "origins": plan.origins, "slot": said["slot"], "sources": len(hosts)}
        answer = self._execute_module(module_name=MODULE, module_args={**args, "work": work}, task_vars=variables)
        answer.pop("invocation", None)
        return {**result, **answer}

    @staticmethod
    def _judge(site: Site, args: Mapping[str, Any], variables: Mapping[str, Any]) -> dict[str, Any]:
        """The verdict on what all hosts of the play registered."""
        report = Report("firewall", deadline_s=float(args.get("deadline", VERDICT_ARGS["deadline"]["default"])))
        answers: dict[str, dict[str, Any]] = {}
        for host in variables.get("ansible_play_hosts_all") or []:
            known = variables["hostvars"].raw_get(host)
            found = {part: known.get(name) for part, name in REGISTERED.items()}
            if host in site.nodes and not all((one or {}).get("skipped") for one in found.values()):
                answers[host] = {part: _told(one) for part, one in found.items()}
        judge.run(report, site, answers, lab=variables.get("hnai_environment") == "lab")
        return {**report.result(args.get("allow_inconclusive") or [], bool(args.get("collect"))), "module": MODULE}


def _told(registered: Any) -> dict[str, Any]:
    """A registered result, with `error` where it is none."""
    if not isinstance(registered, Mapping):
        return {"error": "the task did not run there"}
    if registered.get("unreachable") or registered.get("failed"):
        return {"error": " ".join(str(registered.get("msg", "failed")).split())[:300]}
    return dict(registered)
