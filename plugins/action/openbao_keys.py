# SPDX-License-Identifier: Apache-2.0
"""Controller side of openbao_keys: new shares are on the disk here, and read back, before they come in force."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

from ansible_collections.hnai.platform.plugins.module_utils.openbao.files import remove_durably
from ansible_collections.hnai.platform.plugins.plugin_utils import openbao_keys
from ansible_collections.hnai.platform.plugins.plugin_utils.openbao_asked import asked
from ansible_collections.hnai.platform.plugins.plugin_utils.unseen import unseen

NAME = "hnai.platform.openbao_keys"
NEXT = "shares.next.json"


class ActionModule(ActionBase):
    """Runs the module; for shares as often as there are steps, with what is stored between them."""

    TRANSFERS_FILES = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """The module's result without any share. Raises AnsibleActionFail naming file and remedy."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        unseen(self._connection)
        args = asked(self._task.args, task_vars, "deploy", "kv")
        try:
            if args.get("what") == "shares" and not self._task.check_mode:
                result.update(self._shares(args, task_vars))
            else:
                result.update(self._execute_module(module_name=NAME, module_args=args, task_vars=task_vars))
        except (openbao_keys.KeysError, OSError) as error:
            raise AnsibleActionFail(str(error)) from error
        return result

    def _shares(self, args: dict[str, Any], task_vars: dict[str, Any] | None) -> dict[str, Any]:
        keys_file = Path(str(args.pop("keys_file"))).expanduser()
        stored = keys_file.with_name(NEXT)
        held = openbao_keys.load(keys_file)
        if held and held.get("pgp") and (openbao_keys.load(stored) or {}).get("keys_base64") == held.get("keys_base64"):
            # Killed between their promotion and this.
            remove_durably(str(stored))
            return {"changed": True, "step": "in_force"}
        if held is None or held.get("pgp"):
            raise AnsibleActionFail(
                f"{keys_file}: {'holds encrypted shares' if held else 'is not there'}: the holders rotate them themselves "
                "(bao operator rotate-keys -init -verify, docs/openbao-ceremony.md); nothing was changed"
            )
        pgp = bool(args.get("pgp_keys"))
        for _number in range(5):
            candidate = openbao_keys.load(stored) or {}
            found = self._execute_module(module_name=NAME, module_args={**args, "held": held, "candidate": candidate}, task_vars=task_vars)
            issued = found.pop("issued", None)
            if found.get("failed"):
                return dict(found)
            if found["step"] == "clear":
                openbao_keys.store(stored, {"begun": time.time()})
                continue
            if found["step"] == "issued":
                openbao_keys.store(
                    stored, {"threshold": int(args["threshold"]), "pgp": pgp, **{key: issued[key] for key in ("keys", "keys_base64", "verification_nonce")}}
                )
                continue
            if found["step"] == "waiting":
                return {**found, "failed": True, "msg": (
                    f"the new shares are in {stored}, encrypted to their holders, and not in force. Each decrypts theirs and shows it: "
                    f"bao operator rotate-keys -verify -nonce={found['nonce']}; then run this again"
                )}  # fmt: skip
            if found["step"] == "in_force":
                kept = {key: value for key, value in held.items() if key not in ("keys", "keys_base64")}
                kept.update({key: candidate[key] for key in ("keys", "keys_base64")}, **({"pgp": True} if candidate["pgp"] else {}))
                openbao_keys.store(keys_file, kept)
            remove_durably(str(stored))
            if found["step"] == "in_force":
                return dict(found)
        raise AnsibleActionFail(f"{stored}: OpenBao threw the new shares away twice: the old ones are in force. Read its log, then run it again")
