#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
# Apache-2.0 goes together with Ansible's own licence, the GNU General Public License version 3.
"""Health of the Telegraf instances of one host."""

from __future__ import annotations

DOCUMENTATION = r"""
module: telegraf_health
short_description: Whether the Telegraf instances of this host move data and have room to buffer it
version_added: "0.1.0"
author: hnai.platform maintainers (@hnai)
description:
  - Reads what the instances write about themselves (C(/run/hnai-telegraf-<instance>/counters.json)) and their files.
    Opens no connection.
  - Per instance, TG1 it runs and counts. TG2 each input took records lately. TG3 each output delivered records lately.
    TG4 nothing was dropped since it started. TG5 the disk buffer has room, and how long it would last.
    TG6 an instance that writes again what a killed store lost knows from where.
options:
  instances:
    description: Instances of this host.
    type: list
    elements: str
    required: true
  idle_max:
    description: Most seconds without a record taken or delivered.
    type: float
    default: 30.0
  buffer_path:
    description: Below it lie the disk buffers, C(<buffer_path>/<instance>/buffer).
    type: path
    default: /var/lib/hnai/telegraf
  buffer_max_mib:
    description: Size that the disk buffer may have.
    type: int
    default: 1024
  buffer_filesystem:
    description: V(own) where O(buffer_path) must be a mount point of its own, V(shared) where only its size is watched.
    type: str
    choices: [own, shared]
    default: own
  outage:
    description: Seconds that the buffer must last at the rate of arrival.
    type: float
    default: 600.0
  replay:
    description: Instances that write again what a killed store lost.
    type: list
    elements: str
    default: []
extends_documentation_fragment: hnai.platform.verdict
"""

EXAMPLES = r"""
- name: Check the instances
  hnai.platform.telegraf_health:
    instances: [shipper, bridge]
    outage: 600
"""

RETURN = r"""
status:
  description: V(pass), V(fail), V(inconclusive) or V(skipped).
  returned: always
  type: str
checks:
  description: The checks, one by one.
  returned: always
  type: list
  elements: dict
summary:
  description: One line.
  returned: always
  type: str
"""

import os
import time

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hnai.platform.plugins.module_utils.hostfiles import Host
from ansible_collections.hnai.platform.plugins.module_utils.telegraf import Disk, run
from ansible_collections.hnai.platform.plugins.module_utils.verdict import VERDICT_ARGS, finish, start


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec=dict(
            VERDICT_ARGS,
            instances={"type": "list", "elements": "str", "required": True},
            idle_max={"type": "float", "default": 30.0},
            buffer_path={"type": "path", "default": "/var/lib/hnai/telegraf"},
            buffer_max_mib={"type": "int", "default": 1024},
            buffer_filesystem={"type": "str", "choices": ["own", "shared"], "default": "own"},
            outage={"type": "float", "default": 600.0},
            replay={"type": "list", "elements": "str", "default": []},
        ),
        supports_check_mode=True,
    )
    params, host = module.params, Host()
    report = start(module, "telegraf")

    def state(unit: str) -> str:
        return host.run(["systemctl", "is-active", unit], timeout=report.timeout(10)).text.strip()

    def counters(instance: str) -> list[str]:
        lines: list[str] = []
        directory = "/run/hnai-telegraf-%s" % instance
        names = sorted(os.listdir(directory), key=lambda name: os.path.getmtime(os.path.join(directory, name)))
        for name in names:
            if name.startswith("counters"):
                with open(os.path.join(directory, name), encoding="utf-8") as file:
                    lines += file.readlines()
        return lines

    def remembered(instance: str) -> float:
        path = "/var/lib/hnai/telegraf/%s/replay.json" % instance
        return os.path.getmtime(path) if os.path.exists(path) else 0.0

    run(report, params, state=state, counters=counters, disk=Disk(params["buffer_path"]), now=time.time, remembered=remembered)
    finish(module, report)


if __name__ == "__main__":
    main()
