# SPDX-License-Identifier: Apache-2.0
"""Controller side of openbao_bootstrap: the key shares go from the host into the state directory and nowhere else."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

from ansible_collections.hnai.platform.plugins.module_utils.openbao.bootstrap import fingerprint
from ansible_collections.hnai.platform.plugins.plugin_utils import openbao_keys
from ansible_collections.hnai.platform.plugins.plugin_utils.unseen import unseen

NAME = "hnai.platform.openbao_bootstrap"
#: What the action decides itself; a playbook that sets them is mistaken.
OWN = frozenset({"unseal_keys", "controller_has_keys", "sha256"})


class ActionModule(ActionBase):
    """Loads the key shares, runs the module, stores what it initialised, then lets the host forget its copy."""

    TRANSFERS_FILES = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """The module's result without any key. Raises AnsibleActionFail naming file and remedy."""
        task_vars = task_vars or {}
        result: dict[str, Any] = super().run(tmp, task_vars)
        unseen(self._connection)
        args = dict(self._task.args)
        wrong = OWN & set(args)
        if wrong or args.get("state") == "handed_over":
            raise AnsibleActionFail(
                f"openbao_bootstrap: {sorted(wrong or {'state=handed_over'})[0]} is not for playbooks, remove it"
            )
        if args.get("state", "ready") == "tls":
            result.update(self._execute_module(module_name=NAME, module_args=args, task_vars=task_vars))
            return result
        nodes = list(task_vars.get("groups", {}).get("openbao", []))
        if len(nodes) > 1:
            raise AnsibleActionFail(f"openbao_bootstrap: the group openbao has {len(nodes)} hosts; this version makes one node, leave one")
        keys_file = args.pop("keys_file", None)
        if not keys_file:
            raise AnsibleActionFail("openbao_bootstrap: keys_file is missing; give hnai_state_dir ~ '/openbao/init.json'")
        try:
            result.update(self._converge(Path(str(keys_file)).expanduser(), args, task_vars))
        except (openbao_keys.KeysError, OSError) as error:
            raise AnsibleActionFail(str(error)) from error
        return result

    def _converge(self, keys_file: Path, args: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        held = openbao_keys.load(keys_file)
        plain = held is not None and not held.get("pgp")
        result = dict(
            self._execute_module(
                module_name=NAME,
                task_vars=task_vars,
                module_args={
                    **args,
                    "unseal_keys": held["keys_base64"] if held and plain else [],
                    "controller_has_keys": held is not None,
                },
            )
        )
        answer = result.pop("init", None)
        sha256 = str(result.pop("init_sha256", ""))
        waiting = str(result.pop("waiting", ""))
        if result.get("failed") or not answer or self._task.check_mode:
            return result
        kept = {key: value for key, value in (held or {}).items() if key != "pgp"}
        if kept != answer:
            # Another store: what is known of the old one is kept, but no longer under the names that are used.
            for path in (keys_file, keys_file.with_name("deploy.json")):
                openbao_keys.put_aside(path, time.time())
            openbao_keys.store(keys_file, {**answer, **({"pgp": True} if args.get("pgp_keys") else {})})
        again = {key: value for key, value in (openbao_keys.load(keys_file) or {}).items() if key != "pgp"}
        if fingerprint(again) != sha256:
            raise openbao_keys.KeysError(
                f"{keys_file}: differs from what the host holds; the host's copy stays. Look at the disk, then run again"
            )
        done = self._execute_module(
            module_name=NAME, task_vars=task_vars, module_args={**args, "state": "handed_over", "sha256": sha256}
        )
        if done.get("failed"):
            return dict(done)
        result["changed"] = True
        result["actions"] = [*result.get("actions", []), f"keys handed over to {keys_file}"]
        if waiting:
            result.update(failed=True, msg=f"{waiting}. The encrypted shares are in {keys_file}")
        return result
