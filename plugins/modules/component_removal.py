#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
# Apache-2.0 goes together with Ansible's own licence, the GNU General Public License version 3.
"""Module side of component_removal."""

from __future__ import annotations

DOCUMENTATION = r"""
module: component_removal
short_description: Take a component off a host, by the component's own records
version_added: "0.1.0"
author: hnai.platform maintainers (@hnai)
description:
  - Stops and disables the component's units, then removes files of its tree, credentials, certificate, digests, artifacts and accounts.
  - What it owns is read from C(/var/lib/hnai/trees/<component>.json), which goes last; a host without that record is left as it is.
  - Files that were never ours, Debian packages, and data (unless O(purge=true)) stay. While data stay, so does the account that owns them.
options:
  component:
    description: Name of the component.
    type: str
    required: true
  artifacts:
    description: Archives below C(/opt/hnai) that no other component uses.
    type: list
    elements: str
    default: []
  state:
    description: Paths where the component stored its data.
    type: list
    elements: path
    default: []
  credentials:
    description: Its passwords that lie on hosts of other components, each as C(component.user); the other one of a pair goes too.
    type: list
    elements: str
    default: []
  purge:
    description: Deletes the data too, where they lie below C(/var/lib/hnai) or in its own part of C(/etc/hnai). Nothing brings them back.
    type: bool
    default: false
attributes:
  check_mode:
    description: Says what would go.
    support: full
"""

EXAMPLES = r"""
- name: Take QuestDB away, keep its data
  hnai.platform.component_removal:
    component: questdb
    artifacts: [questdb]
    state: [/var/lib/hnai/questdb]
"""

RETURN = r"""
recorded:
  description: Whether the component's record was on this host.
  returned: always
  type: bool
stopped:
  description: Units that ran.
  returned: always
  type: list
  elements: str
removed:
  description: Files and directories.
  returned: always
  type: list
  elements: str
accounts:
  description: Users and groups that were removed, by name.
  returned: always
  type: list
  elements: str
kept:
  description: Data that stay.
  returned: always
  type: list
  elements: str
foreign:
  description: Files in the component's directories that were never ours. They stay.
  returned: always
  type: list
  elements: str
"""

import contextlib
from dataclasses import asdict

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hnai.platform.plugins.module_utils.hostfiles import Host, HostError
from ansible_collections.hnai.platform.plugins.module_utils.removal import Removal


def main() -> None:
    """Reads the arguments, removes, reports."""
    module = AnsibleModule(
        argument_spec={
            "component": {"type": "str", "required": True},
            "artifacts": {"type": "list", "elements": "str", "default": []},
            "state": {"type": "list", "elements": "path", "default": []},
            "credentials": {"type": "list", "elements": "str", "default": [], "no_log": False},
            "purge": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    given = module.params
    host = Host()
    try:
        removal = Removal(host, given["component"], given["artifacts"], given["state"], given["purge"], module.check_mode, given["credentials"])
        with contextlib.nullcontext() if module.check_mode else host.lock(f"tree-{given['component']}"):
            outcome = removal.remove()
    except (HostError, OSError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=outcome.changed, **asdict(outcome))


if __name__ == "__main__":
    main()
