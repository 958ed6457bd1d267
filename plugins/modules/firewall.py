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
    answered before the change, and when every approved conduit that carried packets in both directions before the change
    still does. A conduit that the new rules cut is taken back at once.
  - Those packets are noted by a table C(inet hnai_proof) that stands around the own one for the time of the change. No login
    is made for it, and no connection into level 2; a new TCP connection is tried only where this host is the initiator and
    its connection says nothing.
  - The host is at the ruleset when it is the confirmed one and the loaded table is what it became. A rule added or
    removed by hand is a change.
  - Afterwards exactly those tracked connections are deleted that no approved conduit covers, with O(mode=enforce); over a boundary with a
    mode of its own, with that.
  - A host, or a boundary, that observes is set to enforce only when every flow that enforce would cut there is approved by a conduit or
    listed in O(cut_flows), and a person is named in its C(approved_by).
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
    description:
      - Approved connections. Those that carry something must survive the change, all others are removed from connection
        tracking.
      - Without it none is looked at and none removed.
    type: list
    elements: dict
    suboptions:
      id:
        description: The conduit.
        type: str
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
      plant:
        description: The target stands at level 2; no connection is tried.
        type: bool
      uid:
        description: The only user of the initiator who may open it.
        type: int
  mode:
    description: What the ruleset does with what no conduit approves. V(observe) lists it and drops nothing.
    type: str
    choices: [enforce, observe]
    default: enforce
  approved_by:
    description: Who approved that this host enforces. Recorded with the confirmed ruleset.
    type: str
    default: ""
  boundaries:
    description: The boundaries of a router that have a mode of their own, as the filter P(hnai.platform.nft_boundaries#filter) gives them.
    type: list
    elements: dict
    default: []
    suboptions:
      id:
        description: The boundary.
        type: str
        required: true
      mode:
        description: Its mode; O(mode) holds for everything else.
        type: str
        choices: [enforce, observe]
        required: true
      approved_by:
        description: Who approved that it enforces.
        type: str
        default: ""
      zones:
        description: The networks of the one zone and of the other.
        type: list
        elements: list
        required: true
      own:
        description: Addresses of this host, which crosses nothing.
        type: list
        elements: str
        required: true
  cut_flows:
    description: Flows that were seen in V(observe) and are to be cut.
    type: list
    elements: dict
    default: []
    suboptions:
      source:
        description: Address or network of who opens it.
        type: str
        required: true
      target:
        description: Address or network of who is dialled.
        type: str
        required: true
      proto:
        description: Protocol, as the list of observed flows names it.
        type: str
        required: true
      port:
        description: Port of the target. Every port without it.
        type: int
      reason:
        description: Why it is to be cut.
        type: str
        required: true
  foreign:
    description: Tables of others that the site knows of, as C(inet NAME).
    type: list
    elements: str
    default: []
  look_s:
    description: How long it is looked before a change which conduits carry something, in seconds.
    type: float
    default: 3.0
  revert_after_s:
    description: Seconds until an unconfirmed ruleset is taken back.
    type: int
    default: 30
  step:
    description: The part of the work. V(all) is what a task uses; the controller part calls the others.
    type: str
    choices: [all, check, look, apply, still, settle]
    default: all
  looked:
    description: What the step before the change found. Made by the controller part.
    type: dict
  wait_s:
    description: How long it is waited for a sign of life after the change, in seconds. Made by the controller part.
    type: float
    default: 8.0
  run_id:
    description: Names the change between apply and confirm. Made by the controller part.
    type: str
attributes:
  check_mode:
    description: Checks the ruleset with nft and predicts. On a host without nft it predicts a change.
    support: full
  diff_mode:
    description: The confirmed ruleset against the new one, and the table as it was confirmed against the table as it is.
    support: full
  platform:
    description: Linux with nftables and systemd.
    support: full
    platforms: posix
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
foreign:
  description: Tables of others that nobody declared. They are named by a warning and left alone; what they do is C(ZS4)'s matter.
  returned: where nft is installed
  type: list
  elements: str
deleted_connections:
  description: Tracked connections that were deleted because no conduit covers them.
  returned: when something changed and O(approved) is given
  type: list
  elements: dict
alive:
  description: Approved conduits that carried something before the change and do so after it.
  returned: when something changed and O(approved) is given
  type: list
  elements: str
idle:
  description: Approved connections that said nothing before or after the change, so that nothing is proven of them.
  returned: when something changed and O(approved) is given
  type: list
  elements: str
note:
  description: What could not be done.
  returned: when something could not be done
  type: str
"""

import subprocess
import time
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hnai.platform.plugins.module_utils import firewall_observed
from ansible_collections.hnai.platform.plugins.module_utils.firewall import Firewall, FirewallError, cut
from ansible_collections.hnai.platform.plugins.module_utils.firewall_modes import Modes
from ansible_collections.hnai.platform.plugins.module_utils.firewall_proof import connect
from ansible_collections.hnai.platform.plugins.module_utils.firewall_run import run

FLOW = {
    "source": {"type": "str", "required": True},
    "target": {"type": "str", "required": True},
    "proto": {"type": "str", "required": True},
    "port": {"type": "int"},
    "reason": {"type": "str", "required": True},
}
BOUNDARY = {
    "id": {"type": "str", "required": True},
    "mode": {"type": "str", "choices": ["enforce", "observe"], "required": True},
    "approved_by": {"type": "str", "default": ""},
    "zones": {"type": "list", "elements": "list", "required": True},
    "own": {"type": "list", "elements": "str", "required": True},
}
APPROVED = {
    "id": {"type": "str"},
    "source": {"type": "list", "elements": "str", "required": True},
    "target": {"type": "list", "elements": "str", "required": True},
    "proto": {"type": "str", "choices": ["tcp", "udp"], "required": True},
    "port": {"type": "int", "required": True},
    "plant": {"type": "bool"},
    "uid": {"type": "int"},
}


def check(module: AnsibleModule, firewall: Firewall, modes: Modes) -> dict[str, Any]:
    """Is there something to do, would nft take it, and may a host that observes enforce?"""
    ruleset = module.params["ruleset"]
    foreign: list[str] = []
    diff = [{"before": firewall.confirmed_text(), "after": ruleset, "before_header": "confirmed", "after_header": "approved conduits"}]
    try:
        foreign = firewall.strangers(module.params["foreign"])
        reasons = firewall.reasons(ruleset)
        if reasons:
            firewall.check(ruleset)
            confirmed, loaded = firewall.drift()
            if confirmed != loaded:
                headers = {"before_header": "the table as it is loaded", "after_header": "the table as it was confirmed"}
                diff.append({"before": loaded, "after": confirmed, **headers})
            if modes.some("enforce") and firewall.observing():
                flows = firewall_observed.observed(run, firewall.state, time.time(), module.params["approved"] or [], modes)["flows"]
                firewall_observed.may_enforce(flows, module.params["cut_flows"], modes)
    except FileNotFoundError:
        if not module.check_mode:
            raise
        reasons = ["nft is not installed yet"]
    return {"changed": bool(reasons), "reasons": reasons, "diff": diff, "foreign": foreign}


def settle(module: AnsibleModule, firewall: Firewall, modes: Modes) -> dict[str, Any]:
    """After the confirm: connections that no conduit covers any more, and what was seen in a mode that is over."""
    if not modes.some("enforce"):
        return {"changed": False}
    deleted, note = cut(run, module.params["approved"] or [], modes)
    firewall_observed.forget(firewall.state, modes)
    return {"changed": bool(deleted), "deleted_connections": deleted, **({"note": note} if note else {})}


def main() -> None:
    """One step."""
    module = AnsibleModule(
        argument_spec={
            "ruleset": {"type": "str", "required": True},
            "proof_hosts": {"type": "list", "elements": "list", "default": []},
            "approved": {"type": "list", "elements": "dict", "options": APPROVED},
            "mode": {"type": "str", "choices": ["enforce", "observe"], "default": "enforce"},
            "approved_by": {"type": "str", "default": ""},
            "boundaries": {"type": "list", "elements": "dict", "default": [], "options": BOUNDARY},
            "cut_flows": {"type": "list", "elements": "dict", "default": [], "options": FLOW},
            "foreign": {"type": "list", "elements": "str", "default": []},
            "look_s": {"type": "float", "default": 3.0},
            "revert_after_s": {"type": "int", "default": 30},
            "step": {"type": "str", "choices": ["all", "check", "look", "apply", "still", "settle"], "default": "all"},
            "run_id": {"type": "str"},
            "looked": {"type": "dict"},
            "wait_s": {"type": "float", "default": 8.0},
        },
        supports_check_mode=True,
    )
    firewall = Firewall(run)
    step, approved = module.params["step"], module.params["approved"] or []
    modes = Modes(module.params["mode"], module.params["boundaries"], module.params["approved_by"])
    try:
        if step == "all":
            raise FirewallError("the change is confirmed from the controller: call hnai.platform.firewall by its full name")
        if step == "check" or module.check_mode:
            module.exit_json(**check(module, firewall, modes))
        if step == "look":
            module.exit_json(changed=False, looked=firewall.look(approved, module.params["look_s"], time.sleep, connect))
        if step == "apply":
            run_id, seconds = module.params["run_id"] or "", module.params["revert_after_s"]
            armed = firewall.apply(module.params["ruleset"], run_id, seconds, time.monotonic, modes, module.params["approved"])
            module.exit_json(changed=True, armed_s=armed)
        if step == "still":
            looked, wait = module.params["looked"], module.params["wait_s"]
            module.exit_json(changed=False, **firewall.still(looked, approved, wait, time.monotonic, time.sleep, connect))
        module.exit_json(**settle(module, firewall, modes))
    except (FirewallError, OSError, subprocess.TimeoutExpired) as error:
        module.fail_json(msg=f"firewall: {error}")


if __name__ == "__main__":
    main()
