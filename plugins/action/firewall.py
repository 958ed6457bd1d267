# SPDX-License-Identifier: GPL-3.0-or-later
"""Controller side of firewall: check, look, apply, prove by new SSH connections and by what the conduits carry, confirm."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

from ansible_collections.hnai.platform.plugins.module_utils.firewall import TOOL
from ansible_collections.hnai.platform.plugins.plugin_utils.ssh_login import connection_options, effective, fresh_jump, login, ssh_command, variable_options

MODULE = "hnai.platform.firewall"
#: Kept of the time until the revert for the confirm itself and for what the way of the results costs.
CONFIRM_S = 7.0
#: Kept of the same time for the sign of life of what carried something before; the logins have the rest.
STILL_S = 8.0
#: Logins at the same time; sshd's MaxStartups begins to drop at 10, and a jump takes them all.
LOGINS = 6


def prove(commands: Mapping[str, list[str]], deadline: float, run: Callable[[list[str], float], tuple[bool, str]]) -> tuple[str, str]:
    """The first host that answers by `deadline` (monotonic seconds) and '', or '' and what the last attempt said."""
    said = "no host"
    while True:
        for host, command in commands.items():
            left = deadline - time.monotonic()
            if left <= 0:
                return "", said
            good, said = run(command, left)
            if good:
                return host, ""
        time.sleep(min(1.0, max(0.0, deadline - time.monotonic())))


def prove_all(
    groups: Sequence[Mapping[str, list[str]]], deadline: float, run: Callable[[list[str], float], tuple[bool, str]]
) -> list[tuple[str, str]]:
    """`prove` for each group, side by side: every login is slow, and the dead-man's clock runs."""
    with ThreadPoolExecutor(max_workers=LOGINS) as pool:
        return list(pool.map(lambda commands: prove(commands, deadline, run), groups))


class ActionModule(ActionBase):
    """See the module's documentation."""

    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """The module's result; nothing to do costs one module call."""
        task_vars = task_vars or {}
        result = super().run(tmp, task_vars)
        args = dict(self._task.args)
        if args.get("step", "all") != "all":
            raise AnsibleActionFail("firewall: step is set by the action; leave it out")
        first = self._step("check", args, task_vars)
        for table in first.get("foreign") or []:
            self._display.warning(
                f"{task_vars['inventory_hostname']}: nft table {table} is not ours; it is left alone: remove it, or declare it in firewall_foreign_tables"
            )
        if first.get("failed") or not first.get("changed") or self._task.check_mode:
            result.update(first)
            return result
        result.update({key: first[key] for key in ("reasons", "diff", "foreign") if key in first})
        own = self._own_command(task_vars)
        proofs = [self._commands(group, task_vars) for group in args.get("proof_hosts") or []]
        # Only what answered before is asked for afterwards: a host that is down must not keep a router from changing.
        answers = prove_all(proofs, time.monotonic() + 8.0, login)
        before = [{host: commands[host]} if host else {} for commands, (host, _said) in zip(proofs, answers, strict=True)]
        looked = self._step("look", args, task_vars) if args.get("approved") else {}
        if looked.get("failed"):
            result.update(looked)
            return result
        args["run_id"] = uuid.uuid4().hex[:16]
        seconds = int(args.get("revert_after_s") or 30)
        applied = self._step("apply", args, task_vars)
        if applied.get("failed"):
            result.update(applied)
            return result
        last = time.monotonic() + seconds - float(applied["armed_s"]) - CONFIRM_S
        deadline = last - STILL_S / 2 if looked else last
        wanted = [{task_vars["inventory_hostname"]: own}, *(commands for commands in before if commands)]
        for commands, (host, said) in zip(wanted, prove_all(wanted, deadline, login), strict=True):
            if not host:
                names = ", ".join(commands)
                result.update(
                    failed=True,
                    changed=False,
                    confirmed=False,
                    msg=f"firewall: no new connection to {names} under the new ruleset ({said}); it is taken back within {seconds} s",
                )
                return result
        if looked:
            wait = max(0.0, min(STILL_S, last - time.monotonic()))
            still = self._step("still", {**args, "looked": looked["looked"], "wait_s": wait}, task_vars)
            if still.get("failed") or still["cut"]:
                # The login is proven, so it need not wait for the dead-man, who stays armed until this has done his work.
                back = self._low_level_execute_command(f"{TOOL} revert {args['run_id']}")
                why = still.get("msg") or "the new ruleset cuts what is approved and carried something before: " + "; ".join(still["cut"])
                name = task_vars["inventory_hostname"]
                result.update(failed=True, changed=False, confirmed=False, cut=still.get("cut") or [])
                taken = "the last confirmed rules are in force again" if back["rc"] == 0 else f"it is taken back within {seconds} s"
                result["msg"] = f"firewall: {name}: {why}; {taken}"
                return result
            result.update({key: still[key] for key in ("alive", "idle")})
        # A shell, not a module: the dead-man's clock is running.
        done = self._low_level_execute_command(f"{TOOL} confirm {args['run_id']}")
        if done["rc"] != 0:
            result.update(failed=True, changed=False, confirmed=False, msg=f"firewall: {done['stderr'] or done['stdout']}".strip())
            return result
        result.update(changed=True, confirmed=True)
        if args.get("approved") is not None:
            settled = self._step("settle", args, task_vars)
            result.update({key: settled[key] for key in ("deleted_connections", "note", "msg", "failed") if key in settled})
        if result.get("note"):
            self._display.warning(f"{task_vars['inventory_hostname']}: {result['note']}")
        return result

    def _step(self, step: str, args: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        result = self._execute_module(module_name=MODULE, module_args={**args, "step": step}, task_vars=task_vars)
        result.pop("invocation", None)
        return dict(result)

    def _own_command(self, task_vars: dict[str, Any]) -> list[str]:
        if self._connection.transport != "ssh":
            raise AnsibleActionFail(f"firewall: connection {self._connection.transport}; only a new SSH login confirms, so use connection ssh")
        command = ssh_command(connection_options(self._connection), task_vars["inventory_hostname"])
        return fresh_jump(command, effective(command))

    def _commands(self, hosts: list[str], task_vars: dict[str, Any]) -> dict[str, list[str]]:
        """ssh to other hosts of the inventory, by their own variables."""
        found = {}
        for host in hosts:
            command = ssh_command(variable_options(task_vars["hostvars"][host]), host)
            found[host] = fresh_jump(command, effective(command))
        return found
