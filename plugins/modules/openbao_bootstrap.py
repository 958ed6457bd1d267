#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
# Apache-2.0 goes together with Ansible's own licence, the GNU General Public License version 3.
"""Module side of openbao_bootstrap."""

from __future__ import annotations

DOCUMENTATION = r"""
module: openbao_bootstrap
short_description: Initialise and unseal OpenBao, safe against a kill at any moment
version_added: "0.1.0"
author: hnai.platform maintainers (@hnai)
description:
  - With O(state=tls), gives the server a temporary self-signed certificate for its first start, or when its own has
    expired,
    and keeps the bundle that modules on its host verify it against.
  - With O(state=ready), initialises an empty store, brings the key shares to the controller and unseals.
  - The answer of C(sys/init) exists once. It is durable on the host before anything else happens, and the host's copy
    is removed only after
    the controller has read its own copy back. A marker written before the initialisation says when keys were never
    stored; then, and only
    then, the store (which nobody can ever have unsealed) is put aside and the initialisation begins anew.
  - The action plugin of the same name keeps O(keys_file) on the controller. Key shares never stand in a result, in
    argv or in the environment.
  - With O(pgp_keys) the shares are encrypted to their holders, and a sealed server is an error that names the ceremony.
options:
  state:
    description: What to bring about. V(handed_over) is used by the action plugin.
    type: str
    choices: [tls, ready, handed_over]
    default: ready
  keys_file:
    description: Where the controller keeps the answer of C(sys/init), mode 0600. Needed for O(state=ready).
    type: path
  address:
    description: Address of the server, from its own host.
    type: str
    default: https://127.0.0.1:8200
  ca_file:
    description: Bundle on the host against which modules verify the server.
    type: path
    default: /etc/hnai/openbao/trust.pem
  tls_directory:
    description: Where key.pem, cert.pem and ca.pem of the server lie.
    type: path
    default: /etc/hnai/openbao/tls
  group:
    description: Group of the server; may read its key.
    type: str
    default: hnai-openbao
  directory:
    description: Where the host keeps the marker and, until the controller has it, the answer of C(sys/init). Root only.
    type: path
    default: /var/lib/hnai/openbao-bootstrap
  storage:
    description: Raft directory of the server.
    type: path
    default: /var/lib/hnai/openbao/raft
  audit_files:
    description: Files of the audit devices; they testify that a store was never in use.
    type: list
    elements: path
    default: []
  unit:
    description: Unit of the server.
    type: str
    default: hnai-openbao.service
  shares:
    description: Number of key shares.
    type: int
    default: 5
  threshold:
    description: Number of key shares that unseal.
    type: int
    default: 3
  pgp_keys:
    description: Public PGP keys (base64, binary form), one per share. Empty means plain shares, which is for labs.
    type: list
    elements: str
    default: []
  root_token_pgp_key:
    description: Public PGP key (base64, binary form) to which the first root token is encrypted.
    type: str
    default: ""
  lost_store:
    description: >-
      What to do when the store is empty but the controller has keys of an earlier one. V(refuse) names the remedy;
      V(initialise) puts
      the old files of the controller aside and begins anew.
    type: str
    choices: [refuse, initialise]
    default: refuse
  unseal_keys:
    description: Set by the action plugin.
    type: list
    elements: str
    default: []
  controller_has_keys:
    description: Set by the action plugin.
    type: bool
    default: false
  sha256:
    description: Set by the action plugin. Fingerprint of the controller's copy.
    type: str
    default: ""
attributes:
  check_mode:
    description: Predicts, also on a host without the server.
    support: full
  diff_mode:
    description: There is nothing to show that is no secret.
    support: none
"""

EXAMPLES = r"""
- name: Give the server a certificate to start with
  hnai.platform.openbao_bootstrap:
    state: tls

- name: Initialise and unseal
  hnai.platform.openbao_bootstrap:
    keys_file: "{{ hnai_state_dir }}/openbao/init.json"
    audit_files: [/var/lib/hnai/openbao/audit/audit.log]
"""

RETURN = r"""
actions:
  description: What was done, in order.
  returned: always
  type: list
  elements: str
initialized:
  description: Whether the store is initialised.
  returned: O(state=ready)
  type: bool
sealed:
  description: Whether the store is sealed.
  returned: O(state=ready)
  type: bool
changed_paths:
  description: Files that were written.
  returned: O(state=tls)
  type: list
  elements: str
"""

import grp

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hnai.platform.plugins.module_utils.openbao import bootstrap, first_tls
from ansible_collections.hnai.platform.plugins.module_utils.openbao.client import BaoError, Client, Unreachable


class Unit:
    """The server's unit, by systemctl."""

    def __init__(self, module: AnsibleModule, name: str) -> None:
        self._module = module
        self._name = name

    def _do(self, verb: str) -> None:
        rc, out, err = self._module.run_command(["systemctl", verb, self._name])
        if rc != 0:
            raise bootstrap.BootstrapError("systemctl %s %s failed: %s" % (verb, self._name, (err or out).strip()))

    def stop(self) -> None:
        """Stop and wait."""
        self._do("stop")

    def start(self) -> None:
        """Start and wait for READY=1."""
        self._do("start")


def make_tls(module: AnsibleModule) -> None:
    """state=tls."""
    given = module.params
    try:
        gid = grp.getgrnam(given["group"]).gr_gid
    except KeyError:
        if not module.check_mode:
            module.fail_json(msg="group %s is not there: converge the configuration tree of openbao first" % given["group"])
        gid = 0
    try:
        changed = first_tls.ensure(module.run_command, given["tls_directory"], given["ca_file"], gid, module.check_mode)
    except (first_tls.TlsError, OSError) as error:
        module.fail_json(msg=str(error))
    difference = {
        "before": "",
        "after": "".join(f"{path}\n" for path in changed),
        "before_header": given["tls_directory"],
        "after_header": given["tls_directory"],
    }
    module.exit_json(
        changed=bool(changed),
        changed_paths=changed,
        actions=["temporary certificate"] if changed else [],
        **({"diff": difference} if module._diff else {}),
    )


def main() -> None:
    """Reads the arguments, does one state, reports."""
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["tls", "ready", "handed_over"], "default": "ready"},
            "keys_file": {"type": "path", "no_log": False},
            "address": {"type": "str", "default": "https://127.0.0.1:8200"},
            "ca_file": {"type": "path", "default": "/etc/hnai/openbao/trust.pem"},
            "tls_directory": {"type": "path", "default": "/etc/hnai/openbao/tls"},
            "group": {"type": "str", "default": "hnai-openbao"},
            "directory": {"type": "path", "default": "/var/lib/hnai/openbao-bootstrap"},
            "storage": {"type": "path", "default": "/var/lib/hnai/openbao/raft"},
            "audit_files": {"type": "list", "elements": "path", "default": []},
            "unit": {"type": "str", "default": "hnai-openbao.service"},
            "shares": {"type": "int", "default": 5},
            "threshold": {"type": "int", "default": 3},
            "pgp_keys": {"type": "list", "elements": "str", "default": [], "no_log": False},
            "root_token_pgp_key": {"type": "str", "default": "", "no_log": False},
            "lost_store": {"type": "str", "choices": ["refuse", "initialise"], "default": "refuse"},
            "unseal_keys": {"type": "list", "elements": "str", "default": [], "no_log": True},
            "controller_has_keys": {"type": "bool", "default": False, "no_log": False},
            "sha256": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    given = module.params
    if given["state"] == "tls":
        make_tls(module)
    if given["pgp_keys"] and len(given["pgp_keys"]) != given["shares"]:
        module.fail_json(msg="openbao_pgp_keys: %d keys for %d shares; give one public key per share" % (len(given["pgp_keys"]), given["shares"]))
    try:
        machine = bootstrap.Bootstrap(
            Client(given["address"], given["ca_file"]),
            Unit(module, given["unit"]),
            bootstrap.Layout(given["directory"], given["storage"], tuple(given["audit_files"])),
            bootstrap.Keys(given["shares"], given["threshold"], tuple(given["pgp_keys"]), given["root_token_pgp_key"]),
        )
        if given["state"] == "handed_over":
            module.exit_json(changed=machine.hand_over(given["sha256"]), actions=[])
        if module.check_mode:
            try:
                status = machine.api.call("GET", "sys/seal-status")
            except (BaoError, Unreachable):
                status = None
            plan = machine.plan(status)
            diff = {"diff": {"before": "", "after": "".join(f"{step}\n" for step in plan), "before_header": "OpenBao", "after_header": "OpenBao"}}
            module.exit_json(
                **(diff if module._diff else {}),
                changed=bool(plan),
                actions=plan,
                initialized=bool(status and status["initialized"]),
                sealed=not status or bool(status["sealed"]),
            )
        out = machine.converge(given["unseal_keys"], given["controller_has_keys"], given["lost_store"])
    except (bootstrap.BootstrapError, BaoError, Unreachable, OSError, ValueError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(
        changed=out.changed,
        actions=out.actions,
        initialized=out.initialized,
        sealed=out.sealed,
        init=out.init,
        init_sha256=out.init_sha256,
        waiting=out.waiting,
    )


if __name__ == "__main__":
    main()
