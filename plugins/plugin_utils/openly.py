# SPDX-License-Identifier: GPL-3.0-or-later
"""Modules whose result is secret and whose refusal is not.

A task with `no_log: true` hides everything, the sentence that says what to do included. The actions built on this show that sentence, and nothing
else: where the module refuses in its own words, and where the host cannot be reached.
"""

from __future__ import annotations

from typing import Any

from ansible.errors import AnsibleActionFail, AnsibleConnectionFailure
from ansible.plugins.action import ActionBase

from ansible_collections.hnai.platform.plugins.plugin_utils.openbao_asked import asked
from ansible_collections.hnai.platform.plugins.plugin_utils.remedies import FULL
from ansible_collections.hnai.platform.plugins.plugin_utils.unseen import unseen

_HIDDEN = "the module did not come to an end; what it said is hidden, because it may hold secrets"


def shown(found: dict[str, Any]) -> str:
    """What may be shown of a failed result: the module's own sentence; of a module that broke only what names no value."""
    broken = f"{found.get('module_stderr', '')}{found.get('module_stdout', '')}"
    if not broken:
        return str(found.get("msg") or _HIDDEN)
    full = FULL.search(broken)
    return f"{_HIDDEN}; {full.group()}" if full else _HIDDEN


class Openly(ActionBase):
    """Runs *module* with the task's own arguments, and with what it *asks*."""

    TRANSFERS_FILES = False
    _supports_check_mode = True
    _supports_async = False
    module = ""
    #: What the site says of OpenBao, for a module that asks it (openbao_asked).
    asks: tuple[str, ...] = ()

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """The module's result, or why it refuses."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        unseen(self._connection)
        try:
            args = asked(self._task.args, task_vars, *self.asks) if self.asks else self._task.args
            found = dict(self._execute_module(module_name=self.module, module_args=args, task_vars=task_vars))
        except (AnsibleActionFail, AnsibleConnectionFailure):
            self._task.no_log = False  # the task is this process's own copy
            raise
        if not found.get("failed"):
            return {**result, **found}
        self._task.no_log = False
        return {**result, "failed": True, "changed": False, "msg": shown(found)}
