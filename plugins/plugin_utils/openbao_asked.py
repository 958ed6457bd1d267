# SPDX-License-Identifier: Apache-2.0
"""What a question to OpenBao says of it: who asks, who runs it, and its mounts. Taken from the site, so that no task repeats it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible.errors import AnsibleActionFail

from ansible_collections.hnai.platform.plugins.plugin_utils.site import plain

#: The role's defaults: in plays without the role nobody else knows them.
KV, MOUNTS = "hnai", {"root": "pki_root", "intermediate": "pki_int"}


def asked(args: Mapping[str, Any], task_vars: Mapping[str, Any] | None, *names: str) -> dict[str, Any]:
    """*args* of a task, with those of *names* that it does not give: deploy, external, kv, pki_root, pki_int.

    They are the variables of the first host of group openbao, whichever host asks. Raises AnsibleActionFail where the group is empty.
    """
    given = task_vars or {}
    hosts = given.get("groups", {}).get("openbao") or []
    if not hosts:
        raise AnsibleActionFail("group openbao has no host: name in the inventory the host that runs OpenBao, or that asks the one of openbao_external")
    variables = given["hostvars"][hosts[0]]
    mounts = {**MOUNTS, **plain(variables.get("openbao_pki_mounts") or {})}
    site = {
        "deploy": variables.get("hnai_openbao_deploy") or {}, "external": variables.get("openbao_external") or {},
        "kv": variables.get("openbao_kv_mount") or KV, "pki_root": mounts["root"], "pki_int": mounts["intermediate"],
    }  # fmt: skip
    return {**{name: plain(site[name]) for name in names}, **args}
