# SPDX-License-Identifier: Apache-2.0
"""Controller side of approle_rotation: the file that holds the values, between the steps of the module."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail

from ansible_collections.hnai.platform.plugins.action.vault_rotate import ByOwner
from ansible_collections.hnai.platform.plugins.plugin_utils import openbao_keys
from ansible_collections.hnai.platform.plugins.plugin_utils.openbao_asked import asked

NAME = "hnai.platform.approle_rotation"
#: Names of the identities in identities_file.
KEYS = {"approle/deploy": "deploy", "approle/site-admin": "site_admin"}
#: Looked at so often: five minutes each live a token of the old secret_id, a component's secret_id that it got, and the token of that.
WAIT_S, ROUNDS = 20.0, 50


def moved(stored: Mapping[str, Any], key: str, step: str, issued: Any = None) -> dict[str, Any]:
    """The file as it is to be after a *step* of the module. `next` and `old` stand beside the identities, by their names."""
    done = {**stored, "next": dict(stored.get("next", {})), "old": dict(stored.get("old", {}))}
    if step == "issued":
        done["next"][key] = issued
    elif step == "proven":
        done["old"][key], done[key] = stored[key], done["next"].pop(key)
    elif step == "back":
        done["next"][key], done[key] = stored[key], done["old"].pop(key)
    elif step in ("closed", "dropped"):
        done["next"].pop(key, None)
        done["old"].pop(key, None)
    return {name: value for name, value in done.items() if value or name not in ("next", "old")}


class ActionModule(ByOwner):
    """Runs the module as often as there are steps; each change of the file is one write, on the disk before the next step."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """The module's result without any value. Raises AnsibleActionFail naming file and remedy."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        args = asked(self._task.args, task_vars, "deploy", "external", "kv")
        path = Path(str(args.get("identities_file") or "")).expanduser()
        if args.get("path") not in KEYS:
            raise AnsibleActionFail(f"approle_rotation: path is one of {', '.join(KEYS)}")
        try:
            result.update(self._steps(args, path, KEYS[args["path"]], task_vars))
        except (openbao_keys.KeysError, OSError) as error:
            raise AnsibleActionFail(str(error)) from error
        return result

    def _unfit(self, args: Mapping[str, Any], path: Path, stored: Mapping[str, Any]) -> str:
        """Why this is not the controller to do it, "" where it is."""
        if not all((stored.get(name) or {}).get("secret_id") for name in KEYS.values()):
            return f"{path} does not hold both identities: rotate where it does, the controller that keeps state (docs/rotation.md); nothing was changed"
        if dict(args["deploy"]) != stored["deploy"]:
            return (
                f"hnai_openbao_deploy is not what {path} holds: it comes from elsewhere (an AWX credential?) or is an older copy. Rotate where the file "
                "is what runs read, then replace the copies; nothing was changed"
            )
        return ""

    def _steps(self, args: dict[str, Any], path: Path, key: str, task_vars: dict[str, Any] | None) -> dict[str, Any]:
        changed, refusals = False, []
        for _number in range(ROUNDS):
            stored = openbao_keys.load(path) or {}
            reason = "" if changed else self._unfit(args, path, stored)
            if reason and args.get("forced"):
                raise AnsibleActionFail(reason)
            if reason:
                return {"changed": False, "skipped": True, "msg": reason}
            held = {name: stored.get(name, {}).get(key) or {} for name in ("next", "old")}
            found = self._as_owner(NAME, {**args, **held, **{name: stored[name] for name in KEYS.values()}}, task_vars)
            issued = found.pop("issued", None)
            refusals += found.get("refusals", [])
            if found.get("failed") or self._task.check_mode:
                return {**found, "changed": changed or bool(found.get("changed"))}
            step = found["step"]
            changed = changed or step != "idle"
            if step == "waits":
                time.sleep(WAIT_S)
            elif step != "idle":
                openbao_keys.store(path, moved(stored, key, step, issued))
            if step in ("idle", "closed"):
                return {**found, "changed": changed, "refusals": refusals}
        raise AnsibleActionFail(f"{args['path']}: sessions of the old secret_id live longer than they may; read OpenBao's audit log, then run it again")
