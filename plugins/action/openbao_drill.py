# SPDX-License-Identifier: Apache-2.0
"""Controller side of openbao_drill: the shares go from the controller's file to the module's standard input, and nowhere else."""

from __future__ import annotations

from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

from ansible_collections.hnai.platform.plugins.plugin_utils import openbao_keys
from ansible_collections.hnai.platform.plugins.plugin_utils.openbao_asked import asked

NAME = "hnai.platform.openbao_drill"


class ActionModule(ActionBase):
    """Runs the module with the shares."""

    TRANSFERS_FILES = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """The module's result. Raises AnsibleActionFail naming file and remedy."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        args = asked(self._task.args, task_vars, "deploy", "kv", "pki_root")
        path = args.pop("keys_file", None)
        try:
            held = openbao_keys.load(path) if path else None
        except openbao_keys.KeysError as error:
            raise AnsibleActionFail(str(error)) from error
        if not held or held.get("pgp") or not held.get("keys_base64"):
            raise AnsibleActionFail(
                f"openbao_drill: {path}: holds no plain shares. Threshold holders decrypt theirs into a 0600 file for the drill, "
                '{"keys_base64": [...]}, name it with -e drill_keys_file=PATH, and remove it afterwards'
            )
        result.update(self._execute_module(module_name=NAME, module_args={**args, "shares": held["keys_base64"]}, task_vars=task_vars))
        return result
