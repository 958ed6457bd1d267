# SPDX-License-Identifier: Apache-2.0
"""Controller side of openbao_site: the spec out of the contracts, and the identities that stay in the state directory."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

from ansible_collections.hnai.platform.plugins.module_utils.openbao import policies
from ansible_collections.hnai.platform.plugins.module_utils.openbao.site import longest
from ansible_collections.hnai.platform.plugins.plugin_utils import contracts, openbao_keys, openbao_spec, site_ca
from ansible_collections.hnai.platform.plugins.plugin_utils.unseen import unseen

NAME = "hnai.platform.openbao_site"
#: Settings of the spec, as options of the module with their defaults.
SETTINGS = {
    "site": "site",
    "kv": "hnai",
    "pki_root": "pki_root",
    "pki_int": "pki_int",
    "root_ca": "own",
    "root_ttl": "10y",
    "intermediate_ttl": "5y",
    "leaf_ttl": "90d",
    "identity_ttl": "90d",
    "ssh_host": "",
    "ssh_names": (),
    "addresses": (),
    "external": {},
}
PASSED = ("address", "ca_file", "external")
#: Names of the identities in identities_file, and in OpenBao.
IDENTITIES = {"site_admin": "site-admin", "deploy": "deploy"}


class ActionModule(ActionBase):
    """Runs the module with the spec; stores new identities before the root token is revoked."""

    TRANSFERS_FILES = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """The module's result without any secret. Raises AnsibleActionFail naming file or key, and the remedy."""
        task_vars = task_vars or {}
        result: dict[str, Any] = super().run(tmp, task_vars)
        unseen(self._connection)
        args = dict(self._task.args)
        for name in ("keys_file", "identities_file", "root_ca_file"):
            if not args.get(name):
                raise AnsibleActionFail(f"openbao_site: {name} is missing; see ansible-doc -t module {NAME}")
        try:
            groups = task_vars.get("groups", {})
            settings = {key: args.get(key, default) for key, default in SETTINGS.items()}
            placed = [contracts.asking(one, settings["external"]) if one["name"] == policies.SELF else one for one in contracts.placed(groups)]
            spec = openbao_spec.build(placed, groups, settings)
            if spec["root_ca"] == "site":
                result.update(self._under_the_site(args, spec, task_vars))
            else:
                result.update(self._converge(args, spec, task_vars))
        except (site_ca.ChainError, openbao_keys.KeysError, openbao_spec.SpecError, contracts.ContractError, OSError) as error:
            raise AnsibleActionFail(str(error)) from error
        return result

    def _under_the_site(self, args: dict[str, Any], spec: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        """The same where the site's own CA signs the intermediate: the end of the run as long as it has not."""
        if not args.get("request_file"):
            raise AnsibleActionFail(f"openbao_site: request_file is missing; see ansible-doc -t module {NAME}")
        given, now, least_s = site_ca.Given.of(args.get("intermediate_chain")), time.time(), float(longest(spec))
        spec["chain"], wrong = site_ca.problem(given, now, least_s)
        result = self._converge(args, spec, task_vars)
        csr, in_force = str(result.pop("unsigned", "")), str(result.pop("in_force", ""))
        if csr and not result.get("failed"):
            target = Path(str(args["request_file"])).expanduser()
            site_ca.publish(target, csr)
            result.update(failed=True, csr=csr, msg=site_ca.waiting(target, given, wrong, csr, "", now, least_s, "playbooks/site.yml"))
        elif in_force and not site_ca.holds(given, in_force):
            result.setdefault("warnings", []).append(
                f"{given.place}: is not the chain of the intermediate that signs; an ordinary run changes no authority: "
                "playbooks/rotate.yml -e rotate_secret=pki/intermediate takes it (docs/rotation.md)"
            )
        elif self._task.check_mode and wrong:
            result.setdefault("warnings", []).append(wrong)
        return result

    def _converge(self, args: dict[str, Any], spec: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        keys_file, identities_file = (Path(str(args[name])).expanduser() for name in ("keys_file", "identities_file"))
        stored = openbao_keys.load(identities_file) or {}
        held = {
            name: {**stored.get(name, {}), **{key: value for key, value in (args.get(name) or {}).items() if value}}
            for name in IDENTITIES
        }
        root_token = str(args.get("root_token") or "")
        if not root_token and not stored.get("root_revoked_at"):
            initial = openbao_keys.load(keys_file) or {}
            root_token = "" if initial.get("pgp") else str(initial.get("root_token", ""))
        common = {name: args[name] for name in PASSED if name in args}
        result = dict(
            self._execute_module(
                module_name=NAME, task_vars=task_vars, module_args={**common, **held, "root_token": root_token, "spec": spec}
            )
        )
        issued = result.pop("identities", {})
        if result.get("failed"):
            return result
        for warning in result.get("pending", []):
            result.setdefault("warnings", []).append(
                f"OpenBao: {warning} differs from the collection's and only root may change it (docs/openbao-ceremony.md)"
            )
        for thing in result.get("foreign", []):
            result.setdefault("warnings", []).append(f"OpenBao: {thing}: nobody of the site declared it, it is left alone")
        if self._task.check_mode:
            return result
        for name, identity in IDENTITIES.items():
            if identity in issued:
                stored[name] = issued[identity]
        if issued:
            openbao_keys.store(identities_file, stored)
        if root_token:
            # Only now: the identities that take over are on the controller's disk.
            done = self._execute_module(
                module_name=NAME, task_vars=task_vars, module_args={**common, "root_token": root_token, "revoke_root": True}
            )
            if done.get("failed"):
                return dict(done)
            stored["root_revoked_at"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            openbao_keys.store(identities_file, stored)
            result["root_revoked"] = True
            result["changed"] = True
        result["changed"] = (
            openbao_keys.publish_root(Path(str(args["root_ca_file"])).expanduser(), str(result.get("root_ca", ""))) or result["changed"]
        )
        return result
