# SPDX-License-Identifier: Apache-2.0
"""Controller side of vault_rotate: which process takes the step, and whether the one that holds the secret has ended."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase

from ansible_collections.hnai.platform.plugins.plugin_utils.openbao_asked import asked
from ansible_collections.hnai.platform.plugins.plugin_utils.unseen import unseen

NAME = "hnai.platform.vault_rotate"
BROKEN = "the module did not come to an end; what it said is hidden, because it may hold secrets"


def _machine() -> str:
    """A name of this controller, its boot and its process numbers (containers share the first two) that tells nothing about it."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return hashlib.sha256(f"{os.uname().nodename} {boot} {os.readlink('/proc/self/ns/pid')}".encode()).hexdigest()[:12]


def _started(pid: int) -> str:
    """Start of a process in ticks since boot; "" where there is none (a number alone may be another process by now)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    fields = text.rpartition(")")[2].split()
    return "" if fields[0] == "Z" else fields[19]


def me() -> str:
    """The run: this worker's parent is the ansible-playbook that the operator started."""
    pid = os.getppid()
    return f"{_machine()}/{pid}.{_started(pid)}"


def ended(owner: str) -> bool:
    """Whether *owner* is a process of this controller that has ended. Of another controller nothing is known: False."""
    machine, _, process = owner.partition("/")
    pid, _, started = process.partition(".")
    return machine == _machine() and pid.isdigit() and _started(int(pid)) != started


class ByOwner(ActionBase):
    """Base of the actions whose steps belong to a controller's process."""

    TRANSFERS_FILES = False
    _supports_check_mode = True

    def _as_owner(self, name: str, args: dict[str, Any], task_vars: dict[str, Any] | None) -> dict[str, Any]:
        """The module's result; where a run of this controller that was killed holds the journal, once more as its successor."""
        unseen(self._connection)
        args = {**args, "owner": me(), "dead": [], "controller_time": time.time()}
        found = self._execute_module(module_name=name, module_args=args, task_vars=task_vars)
        holder = (found.get("busy") or {}).get("owner", "")
        if holder and ended(holder):
            found = self._execute_module(module_name=name, module_args={**args, "dead": [holder], "controller_time": time.time()}, task_vars=task_vars)
        if found.get("failed"):
            # Of a module that broke Ansible shows the exception's text, whatever no_log says.
            found = {**{key: value for key, value in found.items() if key != "exception"}, "msg": found.get("msg") or BROKEN}
        return dict(found)


class ActionModule(ByOwner):
    """Runs the module; where a run of this controller that was killed holds the secret, runs it once more as its successor."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """The module's result."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        result.update(self._as_owner(NAME, asked(self._task.args, task_vars, "deploy", "external", "kv"), task_vars))
        return result
