#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
# Apache-2.0 goes together with Ansible's own licence, the GNU General Public License version 3.
"""Module side of firewall."""

from __future__ import annotations

DOCUMENTATION = r"""
module: firewall
short_description: Load a ruleset that reverts itself unless a new login proves it
version_added: "0.1.0"
author: hnai.platform maintainers (@hnai)
description:
  - Makes the host's own nftables table equal to a ruleset. A ruleset that nft refuses never replaces a good one.
  - Before the change a timer is armed that restores the last confirmed ruleset (before the first confirm the bootstrap
    ruleset with management and established connections). It is disarmed only after a new SSH connection, not a
    multiplexed one, has logged in to the host and, for a router or a jump, to one host of every zone behind it that
    answered before the change.
  - The host is at the ruleset when it is the confirmed one and the loaded table is what it became. A rule added or
    removed by hand is a change.
  - Afterwards exactly those tracked connections are deleted that no approved conduit covers.
  - The controller part opens the new connections with the connection options of the host (C(ansible_ssh_common_args)
    and so on), and needs a login by key.
options:
  ruleset:
    description: Text of an nft file that defines C(table inet hnai) and nothing else.
    type: str
    required: true
  proof_hosts:
    description: Lists of inventory hosts. Of each list whose hosts answered before the change, one must answer after it.
    type: list
    elements: list
    default: []
  approved:
    description: Approved connections, for the removal of all others from connection tracking. Without it none is removed.
    type: list
    elements: dict
    suboptions:
      source:
        description: Addresses that may open it.
        type: list
        elements: str
        required: true
      target:
        description: Addresses that it may go to.
        type: list
        elements: str
        required: true
      proto:
        description: Protocol.
        type: str
        choices: [tcp, udp]
        required: true
      port:
        description: Port of the target.
        type: int
        required: true
  revert_after_s:
    description: Seconds until an unconfirmed ruleset is taken back.
    type: int
    default: 30
  step:
    description: The part of the work. V(all) is what a task uses; the controller part calls the others.
    type: str
    choices: [all, check, apply, settle]
    default: all
  run_id:
    description: Names the change between apply and confirm. Made by the controller part.
    type: str
attributes:
  check_mode:
    description: Checks the ruleset with nft and predicts. On a host without nft it predicts a change.
    support: full
  diff_mode:
    description: The confirmed ruleset against the new one.
    support: full
  platform:
    description: Linux with nftables and systemd.
    support: full
    platforms: posix
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
"""

EXAMPLES = r"""
- name: Enforce the approved conduits
  hnai.platform.firewall:
    ruleset: "{{ lookup('hnai.platform.site') | hnai.platform.nft_ruleset(inventory_hostname) }}"
"""

RETURN = r"""
reasons:
  description: Why the host was not at the ruleset.
  returned: always
  type: list
  elements: str
confirmed:
  description: Whether the ruleset is confirmed at the end.
  returned: when something changed
  type: bool
deleted_connections:
  description: Tracked connections that were deleted because no conduit covers them.
  returned: when something changed and O(approved) is given
  type: list
  elements: dict
note:
  description: What could not be done.
  returned: when something could not be done
  type: str
"""

import subprocess
import time
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hnai.platform.plugins.module_utils.firewall import Firewall, FirewallError, cut


def _run(argv: list[str], stdin: str | None) -> tuple[int, str, str]:
    done = subprocess.run(
        argv,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"},
    )
    return done.returncode, done.stdout, done.stderr


def check(module: AnsibleModule, firewall: Firewall) -> dict[str, Any]:
    """Is there something to do, and would nft take it?"""
    ruleset = module.params["ruleset"]
    diff = {
        "before": firewall.confirmed_text(),
        "after": ruleset,
        "before_header": "confirmed",
        "after_header": "approved conduits",
    }
    try:
        reasons = firewall.reasons(ruleset)
        if reasons:
            firewall.check(ruleset)
    except FileNotFoundError:
        if not module.check_mode:
            raise
        reasons = ["nft is not installed yet"]
    return {"changed": bool(reasons), "reasons": reasons, "diff": diff}


def settle(module: AnsibleModule) -> dict[str, Any]:
    """After the confirm: connections that no conduit covers any more."""
    deleted, note = cut(_run, module.params["approved"] or [])
    return {"changed": bool(deleted), "deleted_connections": deleted, **({"note": note} if note else {})}


def main() -> None:
    """One step."""
    module = AnsibleModule(
        argument_spec={
            "ruleset": {"type": "str", "required": True},
            "proof_hosts": {"type": "list", "elements": "list", "default": []},
            "approved": {
                "type": "list",
                "elements": "dict",
                "options": {
                    "source": {"type": "list", "elements": "str", "required": True},
                    "target": {"type": "list", "elements": "str", "required": True},
                    "proto": {"type": "str", "choices": ["tcp", "udp"], "required": True},
                    "port": {"type": "int", "required": True},
                },
            },
            "revert_after_s": {"type": "int", "default": 30},
            "step": {"type": "str", "choices": ["all", "check", "apply", "settle"], "default": "all"},
            "run_id": {"type": "str"},
        },
        supports_check_mode=True,
    )
    firewall = Firewall(_run)
    step = module.params["step"]
    try:
        if step == "all":
            raise FirewallError("the change is confirmed from the controller: call hnai.platform.firewall by its full name")
        if step == "check" or module.check_mode:
            module.exit_json(**check(module, firewall))
        if step == "apply":
            run_id, seconds = module.params["run_id"] or "", module.params["revert_after_s"]
            module.exit_json(changed=True, armed_s=firewall.apply(module.params["ruleset"], run_id, seconds, time.monotonic))
        module.exit_json(**settle(module))
    except (FirewallError, OSError, subprocess.TimeoutExpired) as error:
        module.fail_json(msg=f"firewall: {error}")


if __name__ == "__main__":
    main()
