#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
# Apache-2.0 goes together with Ansible's own licence, the GNU General Public License version 3.
"""Module side of running_release."""

from __future__ import annotations

DOCUMENTATION = r"""
module: running_release
short_description: Which release of an artifact the processes of units really run
version_added: "0.1.0"
author: hnai.platform maintainers (@hnai)
description:
  - Reads what each unit's main process was started with, from its command line, else from the files that it holds open. The symlink C(current) is
    told beside it, and may be newer than the process.
  - A unit without a process, or a process that does not tell, is V(unknown). Changes nothing.
options:
  artifact:
    description: Name of the artifact below C(/opt/hnai).
    type: str
    required: true
  units:
    description: Units whose processes are asked.
    type: list
    elements: str
    required: true
  expected:
    description: Release that every process and C(current) must be of; the task fails where one is not. Empty for only telling.
    type: str
    default: ""
attributes:
  check_mode:
    description: Reads only.
    support: full
"""

EXAMPLES = r"""
- name: See that the broker runs the new release
  hnai.platform.running_release:
    artifact: kafka
    units: [hnai-kafka.service]
    expected: "4.3.1"
"""

RETURN = r"""
releases:
  description: Release by unit.
  returned: always
  type: dict
installed:
  description: Release that C(current) names; empty for none.
  returned: always
  type: str
"""

import os

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hnai.platform.plugins.module_utils import upgrade
from ansible_collections.hnai.platform.plugins.module_utils.hostfiles import Host, HostError


def main() -> None:
    """Reads the arguments, asks systemd and the kernel, reports."""
    module = AnsibleModule(
        argument_spec={
            "artifact": {"type": "str", "required": True},
            "units": {"type": "list", "elements": "str", "required": True},
            "expected": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    given = module.params
    releases = {}
    try:
        for unit in given["units"]:
            done = Host().run(["systemctl", "show", "--property=MainPID", "--value", unit], timeout=10)
            pid = done.text.strip()
            releases[unit] = upgrade.loaded(int(pid), given["artifact"]) if pid.isdigit() and int(pid) else upgrade.UNKNOWN
    except HostError as error:
        module.fail_json(msg=str(error))
    try:
        installed = os.readlink(os.path.join("/opt/hnai", given["artifact"], "current"))
    except OSError:
        installed = ""
    result = {"changed": False, "releases": releases, "installed": installed}
    wrong = ["%s runs %s" % item for item in releases.items() if item[1] != given["expected"]]
    wrong += ["current is %s" % (installed or "absent")] if installed != given["expected"] else []
    if given["expected"] and wrong:
        module.fail_json(msg="%s %s is expected: %s" % (given["artifact"], given["expected"], "; ".join(wrong)), **result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
