#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
# Apache-2.0 goes together with Ansible's own licence, the GNU General Public License version 3.
"""Module side of upgrade_plan."""

from __future__ import annotations

DOCUMENTATION = r"""
module: upgrade_plan
short_description: Say what an upgrade of a component would do, and refuse it where it cannot be done
version_added: "0.1.0"
author: hnai.platform maintainers (@hnai)
description:
  - Compares what runs with what is wanted, and says for each host what it will be, whether there is a way back, and until when.
  - A release that could not read what is in force (a feature level that was raised) is refused before anything is touched. Changes nothing.
options:
  component:
    description: Name of the component.
    type: str
    required: true
  wanted:
    description: Release that is wanted.
    type: str
    required: true
  running:
    description: Host by host what M(hnai.platform.running_release) found.
    type: list
    elements: dict
    required: true
    suboptions:
      host:
        description: Name of the host.
        type: str
        required: true
      releases:
        description: Release by unit.
        type: dict
        required: true
      installed:
        description: What C(current) names.
        type: str
        default: ""
  levels:
    description: Release by release the highest feature levels that it can read. Empty for a product without levels.
    type: dict
    default: {}
  finalized:
    description: Feature levels in force.
    type: dict
    default: {}
attributes:
  check_mode:
    description: Plans only.
    support: full
"""

EXAMPLES = r"""
- name: Plan
  hnai.platform.upgrade_plan:
    component: kafka
    wanted: "4.3.1"
    running: [{host: kafka1, releases: {hnai-kafka.service: "4.2.2"}, installed: "4.2.2"}]
    levels: {"4.2.2": {metadata.version: 29}, "4.3.1": {metadata.version: 30}}
    finalized: {metadata.version: 29}
"""

RETURN = r"""
direction:
  description: none, upgrade or rollback.
  returned: always
  type: str
begun:
  description: An earlier run got as far as the hosts; it is ended, whatever the state.
  returned: always
  type: bool
hosts:
  description: What each host runs and will run.
  returned: always
  type: dict
way_back:
  description: Where to, how, and until when.
  returned: always
  type: str
due:
  description: Feature levels that only a step of its own raises.
  returned: always
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hnai.platform.plugins.module_utils import upgrade


def main() -> None:
    """Reads the arguments, plans, reports."""
    module = AnsibleModule(
        argument_spec={
            "component": {"type": "str", "required": True},
            "wanted": {"type": "str", "required": True},
            "running": {"type": "list", "elements": "dict", "required": True, "options": {
                "host": {"type": "str", "required": True}, "releases": {"type": "dict", "required": True}, "installed": {"type": "str", "default": ""}}},
            "levels": {"type": "dict", "default": {}},
            "finalized": {"type": "dict", "default": {}},
        },
        supports_check_mode=True,
    )
    given = module.params
    found = upgrade.plan(upgrade.Wish(
        given["component"], given["wanted"],
        {one["host"]: [str(release) for release in one["releases"].values()] for one in given["running"]},
        {one["host"]: one["installed"] for one in given["running"]},
        {str(release): {str(name): int(level) for name, level in levels.items()} for release, levels in given["levels"].items()},
        {str(name): int(level) for name, level in given["finalized"].items()},
    ))
    result = {"changed": False, "direction": found.direction, "begun": found.begun, "hosts": dict(found.hosts), "way_back": found.way_back,
              "due": dict(found.due)}
    if found.refused:
        module.fail_json(msg="%s %s: refused, nothing was touched: %s" % (given["component"], given["wanted"], "; ".join(found.refused)), **result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
