# SPDX-License-Identifier: Apache-2.0
"""Controller side of authority_rotation: whose step it is, and the roots that the controller hands to the hosts."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail

from ansible_collections.hnai.platform.plugins.action.vault_rotate import ByOwner
from ansible_collections.hnai.platform.plugins.module_utils.openbao.authority import INTERMEDIATE
from ansible_collections.hnai.platform.plugins.plugin_utils import openbao_keys, openbao_spec, site_ca
from ansible_collections.hnai.platform.plugins.plugin_utils.openbao_asked import asked

NAME = "hnai.platform.authority_rotation"


class ActionModule(ByOwner):
    """Runs the module, then keeps root_ca_file in step with what OpenBao says is to be trusted."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """The module's result. Raises AnsibleActionFail naming the key, and the remedy."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        args = asked(self._task.args, task_vars, "deploy", "external", "kv", "pki_root", "pki_int")
        try:
            for key, default in (("root_ttl", "10y"), ("intermediate_ttl", "5y")):
                args[key + "_s"] = openbao_spec.seconds(args.get(key, default), f"openbao_{key}")
            root_ca_file = args.pop("root_ca_file", None)
            request_file = Path(str(args.pop("request_file", "") or "intermediate.csr")).expanduser()
            given, now = site_ca.Given.of(args.pop("intermediate_chain", "")), time.time()
            least_s = float(openbao_spec.seconds(args.pop("leaf_ttl", "90d"), "openbao_leaf_ttl"))
            args["chain"], wrong = site_ca.problem(given, now, least_s)
            result.update(self._as_owner(NAME, args, task_vars))
            csr, in_force = str(result.pop("unsigned", "")), str(result.pop("in_force", ""))
            if csr:
                site_ca.publish(request_file, csr)
                again = f"playbooks/rotate.yml -e rotate_secret={args.get('path')}"
                below = " below the root that hosts trust" if args.get("path") == INTERMEDIATE else " below the root that hosts are to trust from now on"
                result.update(csr=csr, msg=site_ca.waiting(request_file, given, wrong, csr, in_force, now, least_s, again, below))
            if root_ca_file and result.get("roots") and not result.get("failed") and not self._task.check_mode:
                openbao_keys.publish_root(Path(str(root_ca_file)).expanduser(), str(result["roots"]))
        except (openbao_spec.SpecError, site_ca.ChainError, OSError) as error:
            raise AnsibleActionFail(str(error)) from error
        return result
