#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
# Apache-2.0 goes together with Ansible's own licence, the GNU General Public License version 3.
"""Module side of openbao_drill."""

from __future__ import annotations

DOCUMENTATION = r"""
module: openbao_drill
short_description: Restore a snapshot of OpenBao into an isolated node, and compare it with the live one
version_added: "0.1.0"
author: hnai.platform maintainers (@hnai)
description:
  - Starts a second OpenBao on loopback, in a directory of its own that is removed afterwards in every case, restores the snapshot there, opens it
    with the key shares, and compares every secret's version and fingerprint, and the roots of the PKI, with the live node. The live node is only read.
  - Fails unless everything that was in the live store when the snapshot was taken is there. What was written later is listed.
  - The action plugin of the same name brings the shares from the controller's file. No value and no share is returned.
extends_documentation_fragment:
  - hnai.platform.openbao
  - hnai.platform.openbao.deploy
options:
  keys_file:
    description: Controller file (0600) with C(keys_base64), the shares in plain text. With PGP shares the holders make one for the drill.
    type: path
  snapshot:
    description: Snapshot on the OpenBao host. Left out, one is taken now.
    type: path
  pki_root:
    description: Mount of the root CA.
    type: str
    default: pki_root
  binary:
    description: The server.
    type: path
    default: /opt/hnai/openbao/current/bin/bao
  directory:
    description: Where the node's directory is made.
    type: path
    default: /var/lib/hnai/openbao-drill
  snapshots:
    description: Where snapshots lie.
    type: path
    default: /var/lib/hnai/openbao-snapshots
  shares:
    description: Set by the action plugin.
    type: list
    elements: str
    default: []
attributes:
  check_mode:
    description: Nothing is started then.
    support: full
  diff_mode:
    description: There is nothing to show that is no secret.
    support: none
"""

EXAMPLES = r"""
- name: Prove that the store can be restored
  hnai.platform.openbao_drill:
    keys_file: "{{ hnai_state_dir }}/openbao/init.json"
"""

RETURN = r"""
drill:
  description: C(snapshot), C(rto_s) (seconds from start to the comparison), C(equal) (number), C(newer), C(lost), C(different) (paths), C(same_roots).
  returned: when it was made
  type: dict
"""

import time
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hnai.platform.plugins.module_utils.openbao import component, drill, policies, seal_keys
from ansible_collections.hnai.platform.plugins.module_utils.openbao.authority import trust_bundle
from ansible_collections.hnai.platform.plugins.module_utils.openbao.client import DEPLOY_ARGS, OPENBAO_ARGS, BaoError, Client, Unreachable, leave
from ansible_collections.hnai.platform.plugins.module_utils.openbao.elsewhere import connect


def read(client: Client, given: dict[str, Any]) -> dict[str, Any]:
    """What a node holds, by fingerprints."""
    token = component.enter(client, policies.ROTATION, given["deploy"])
    try:
        return {"secrets": drill.contents(client, token, given["kv"]), "roots": trust_bundle(client, given["pki_root"])}
    finally:
        leave(client, token)


def practise(module: AnsibleModule, given: dict[str, Any]) -> dict[str, Any]:
    """The drill. Raises what its parts raise."""
    live = connect(given, 60.0)
    fresh = not given["snapshot"]
    if fresh:
        token = component.enter(live, policies.KEYS, given["deploy"])
        try:
            given["snapshot"] = seal_keys.snapshot(live, token, given["snapshots"], time.time())
        finally:
            leave(live, token)
    threshold = int(live.call("GET", "sys/seal-status")["t"])
    now = read(live, given)
    with open(given["snapshot"], "rb") as stream:
        content = stream.read()
    began = time.monotonic()
    with drill.node(module.run_command, given["binary"], given["directory"], drill.isolation) as node:
        drill.open_with(node, content, given["shares"], threshold)
        restored = read(node, given)
    found: dict[str, Any] = drill.compare(now["secrets"], restored["secrets"])
    return dict(
        found, equal=len(found["equal"]), snapshot=given["snapshot"], rto_s=round(time.monotonic() - began, 1),
        same_roots=now["roots"] == restored["roots"], complete=not found["different"] and bool(found["equal"]) and not (fresh and found["lost"]),
    )  # fmt: skip


def main() -> None:
    """Reads the arguments, practises, reports."""
    module = AnsibleModule(
        argument_spec={
            "keys_file": {"type": "path", "no_log": False},
            "snapshot": {"type": "path"},
            "pki_root": {"type": "str", "default": "pki_root"},
            "binary": {"type": "path", "default": "/opt/hnai/openbao/current/bin/bao"},
            "directory": {"type": "path", "default": "/var/lib/hnai/openbao-drill"},
            "snapshots": {"type": "path", "default": seal_keys.SNAPSHOTS},
            "shares": {"type": "list", "elements": "str", "default": [], "no_log": True},
            **OPENBAO_ARGS,
            **DEPLOY_ARGS,
        },
        supports_check_mode=True,
    )
    given = dict(module.params)
    if module.check_mode:
        module.exit_json(changed=False)
    try:
        found = practise(module, given)
    except (drill.DrillError, seal_keys.KeysError, component.VisitError, BaoError, Unreachable, OSError, ValueError) as error:
        module.fail_json(msg=str(error))
    if not found["complete"] or not found["same_roots"]:
        module.fail_json(msg="the restored store is not the live one: see drill (lost, different, same_roots)", drill=found)
    module.exit_json(changed=False, drill=found)


if __name__ == "__main__":
    main()
