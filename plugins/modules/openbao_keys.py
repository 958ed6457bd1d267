#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
# Apache-2.0 goes together with Ansible's own licence, the GNU General Public License version 3.
"""Module side of openbao_keys."""

from __future__ import annotations

DOCUMENTATION = r"""
module: openbao_keys
short_description: Rotate OpenBao's barrier keyring, or the shares that open it
version_added: "0.1.0"
author: hnai.platform maintainers (@hnai)
description:
  - Runs on the OpenBao host, logged in as the identity C(hnai-keys). A raft snapshot is taken before anything is rotated.
  - New shares come in force only when they were stored on the controller, read back, and shown to OpenBao (verification). Killed before, the old
    ones stay in force. Shares never stand in a result that is printed; the action plugin of the same name keeps them in the state directory.
  - OpenBao before 2.5.2 could lose all shares in a rotation and is refused.
extends_documentation_fragment:
  - hnai.platform.openbao
  - hnai.platform.openbao.deploy
options:
  what:
    description: What is rotated. V(snapshot) only takes one.
    type: str
    required: true
    choices: [keyring, shares, snapshot]
  keys_file:
    description: Controller file with the shares in force (C(init.json)), for O(what=shares).
    type: path
  shares:
    description: Number of new shares.
    type: int
    default: 5
  threshold:
    description: How many of them open the store.
    type: int
    default: 3
  pgp_keys:
    description: Public PGP keys (base64), one per share. Then the holders verify, and this module waits for them.
    type: list
    elements: str
    default: []
  run_id:
    description: Name of a new run.
    type: str
    default: ""
  directory:
    description: Where snapshots lie, 0600. The newest five stay.
    type: path
    default: /var/lib/hnai/openbao-snapshots
  held:
    description: Set by the action plugin.
    type: dict
    default: {}
  candidate:
    description: Set by the action plugin.
    type: dict
    default: {}
attributes:
  check_mode:
    description: Says what is there.
    support: full
  diff_mode:
    description: There is nothing to show that is no key.
    support: none
"""

EXAMPLES = r"""
- name: Rotate the keyring
  hnai.platform.openbao_keys:
    what: keyring
    run_id: "{{ now(utc=true, fmt='%Y%m%dT%H%M%SZ') }}"
"""

RETURN = r"""
record:
  description: What was done, with C(from) and C(to) term, C(snapshot) and C(at).
  returned: O(what=keyring)
  type: dict
snapshot:
  description: Path of the snapshot on the OpenBao host.
  returned: when one was taken
  type: str
step:
  description: What became of the shares.
  returned: O(what=shares)
  type: str
proof:
  description: C(new_works) and C(old_refused).
  returned: O(what=shares), at the end
  type: dict
"""

import time
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hnai.platform.plugins.module_utils.openbao import component, policies, seal_keys
from ansible_collections.hnai.platform.plugins.module_utils.openbao.bootstrap import Keys
from ansible_collections.hnai.platform.plugins.module_utils.openbao.client import DEPLOY_ARGS, OPENBAO_ARGS, BaoError, Client, Unreachable, leave
from ansible_collections.hnai.platform.plugins.module_utils.openbao.elsewhere import connect
from ansible_collections.hnai.platform.plugins.module_utils.openbao.kv import KvStore
from ansible_collections.hnai.platform.plugins.module_utils.openbao.rotation import Conflict


def take(client: Client, token: str, given: dict[str, Any], check: bool) -> dict[str, Any]:
    """One step."""
    keyring = seal_keys.Keyring(client, token, KvStore(client, token, given["kv"]))
    if check:
        return dict(keyring.plan(), changed=False)

    def before() -> str:
        return seal_keys.snapshot(client, token, given["directory"], time.time())

    if given["what"] == "snapshot":
        return {"changed": True, "snapshot": before()}
    if given["what"] == "keyring":
        return {"changed": True, "record": keyring.rotate(given["run_id"], before)}
    status = client.call("GET", "sys/seal-status")
    if not seal_keys.safe_version(str(status.get("version"))):
        raise seal_keys.KeysError("OpenBao %s could lose all shares in this: upgrade it to 2.5.2 or newer first" % status.get("version"))
    shares = seal_keys.Shares(client, token, recovery=bool(status.get("recovery_seal")))
    taken = {} if given["candidate"].get("keys_base64") else {"snapshot": before()}
    wanted = Keys(given["shares"], given["threshold"], tuple(given["pgp_keys"]))
    return dict(seal_keys.advance(shares, given["held"], given["candidate"], wanted, int(status["t"])), changed=True, **taken)


def main() -> None:
    """Reads the arguments, takes the step, reports."""
    module = AnsibleModule(
        argument_spec={
            "what": {"type": "str", "required": True, "choices": ["keyring", "shares", "snapshot"]},
            "keys_file": {"type": "path", "no_log": False},
            "shares": {"type": "int", "default": 5},
            "threshold": {"type": "int", "default": 3},
            "pgp_keys": {"type": "list", "elements": "str", "default": [], "no_log": False},
            "run_id": {"type": "str", "default": ""},
            "directory": {"type": "path", "default": seal_keys.SNAPSHOTS},
            "held": {"type": "dict", "default": {}, "no_log": True},
            "candidate": {"type": "dict", "default": {}, "no_log": True},
            **OPENBAO_ARGS,
            **DEPLOY_ARGS,
        },
        supports_check_mode=True,
    )
    given = dict(module.params)
    try:
        client = connect(given, 60.0)
        token = component.enter(client, policies.KEYS, given["deploy"])
        try:
            found = take(client, token, given, module.check_mode)
        finally:
            leave(client, token)
    except Conflict:
        module.fail_json(msg="another controller rotates the same: this one has stopped")
    except (seal_keys.KeysError, component.VisitError, BaoError, Unreachable, OSError, ValueError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(**found)


if __name__ == "__main__":
    main()
