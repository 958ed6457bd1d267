#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
# Apache-2.0 goes together with Ansible's own licence, the GNU General Public License version 3.
"""Reads what a firewall in observe has written down."""

from __future__ import annotations

DOCUMENTATION = r"""
module: firewall_observed
short_description: List the flows that enforce would cut on a host that observes
version_added: "0.1.0"
author: hnai.platform maintainers (@hnai)
description:
  - Reads the sets into which the rules of a host that observes (M(hnai.platform.firewall), O(hnai.platform.firewall#module:mode=observe))
    write each flow that no conduit approves, what earlier rulesets had seen, and the connections that are open.
  - The list is exact below 16384 flows per direction, address family and kind; where a set was full, RV(full) says so.
  - Changes nothing.
options:
  approved:
    description: Approved connections, as the filter P(hnai.platform.nft_approved#filter) gives them.
    type: list
    elements: dict
    required: true
  boundaries:
    description: The boundaries of a router that have a mode of their own, as the filter P(hnai.platform.nft_boundaries#filter) gives them.
    type: list
    elements: dict
    default: []
attributes:
  platform:
    description: Linux with nftables.
    support: full
    platforms: posix
extends_documentation_fragment: hnai.platform.reading
"""

EXAMPLES = r"""
- name: Read what was seen
  hnai.platform.firewall_observed:
    approved: "{{ lookup('hnai.platform.site') | hnai.platform.nft_approved(inventory_hostname) }}"
"""

RETURN = r"""
flows:
  description: The flows.
  returned: always
  type: list
  elements: dict
  contains:
    source:
      description: Address of who opens it.
      type: str
    target:
      description: Address of who is dialled.
      type: str
    proto:
      description: Protocol.
      type: str
    port:
      description: Port of the target, 0 where the protocol has none.
      type: int
    where:
      description:
        - How this host sees it, of V(in), V(out), V(forward), V(tracked), V(spoof) and V(limits); with C(_) and the boundary's id where that
          has a mode of its own.
      type: list
    first:
      description: When it was first seen, in seconds since 1970; at most 30 days ago.
      type: int
    last:
      description: When a connection last began, or now if one is open; at most 7 days ago.
      type: int
    count:
      description: First packets of connections since the first; 0 for what is older than the rules.
      type: int
    open:
      description: Connections that are open now.
      type: int
    users:
      description: Users of this host who opened it.
      type: list
    processes:
      description: Processes of this host that have it open, or listen for it.
      type: list
    guessed:
      description: Whether the direction is a guess, for a connection that is older than the rules.
      type: bool
    conduit:
      description: The conduit that approves it since; empty if none does.
      type: str
full:
  description: Where more was seen than could be written down.
  returned: always
  type: list
  elements: str
observing:
  description: Whether the loaded rules, or some of their boundaries, observe.
  returned: always
  type: bool
observes:
  description: The boundaries whose loaded rules observe; an empty name stands for all that no boundary with a mode of its own is.
  returned: always
  type: list
  elements: str
note:
  description: What could not be read.
  returned: always
  type: str
"""

import subprocess
import time

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hnai.platform.plugins.module_utils.firewall import STATE, FirewallError
from ansible_collections.hnai.platform.plugins.module_utils.firewall_modes import Modes
from ansible_collections.hnai.platform.plugins.module_utils.firewall_observed import observed
from ansible_collections.hnai.platform.plugins.module_utils.firewall_run import run


def main() -> None:
    """One read."""
    module = AnsibleModule(
        argument_spec={
            "approved": {"type": "list", "elements": "dict", "required": True},
            "boundaries": {"type": "list", "elements": "dict", "default": []},
        },
        supports_check_mode=True,
    )
    try:
        modes = Modes("observe", module.params["boundaries"])
        module.exit_json(changed=False, **observed(run, STATE, time.time(), module.params["approved"], modes))
    except (FirewallError, OSError, ValueError, subprocess.TimeoutExpired) as error:
        module.fail_json(msg=f"firewall_observed: {error}")


if __name__ == "__main__":
    main()
