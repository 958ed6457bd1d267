#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
# Apache-2.0 goes together with Ansible's own licence, the GNU General Public License version 3.
"""Module side of kafka_log_dir."""

from __future__ import annotations

DOCUMENTATION = r"""
module: kafka_log_dir
short_description: What lies in this host's Kafka log directory, and whether a replacement of the broker is under way
version_added: "0.1.0"
author: hnai.platform maintainers (@hnai)
description:
  - Reads the identity in the log directory and asks nobody, so it also works on a host that has nothing yet. M(hnai.platform.kafka_replace_plan) takes
    what it returns.
  - With O(state=begun) leaves O(marker), with O(state=ended) takes it away. A run that finds it goes on with what was begun instead of taking the host for one
    that has its data.
options:
  state:
    description: V(looked) changes nothing.
    type: str
    choices: [looked, begun, ended]
    default: looked
  node_id:
    description: Node id of this host; written into the marker.
    type: int
    required: true
  host:
    description: Inventory name of this host; written into the marker.
    type: str
    required: true
  log_dir:
    description: The log directory.
    type: path
    default: /var/lib/hnai/kafka/data
  marker:
    description: File outside the log directory that stands while a replacement is under way.
    type: path
    default: /etc/hnai/kafka.replacing.json
attributes:
  check_mode:
    description: Predicts.
    support: full
  diff_mode:
    description: Shows nothing.
    support: none
"""

EXAMPLES = r"""
- name: See what lies on the host
  hnai.platform.kafka_log_dir:
    node_id: 2
    host: kafka2
"""

RETURN = r"""
disk:
  description: What lies there. RV(disk.directory) is empty where the log directory is; RV(disk.problem) says why it cannot be told.
  returned: always
  type: dict
  contains:
    cluster:
      description: Cluster id.
      type: str
    node:
      description: Node id.
      type: str
    directory:
      description: Directory id.
      type: str
    problem:
      description: Why it cannot be told.
      type: str
    under_way:
      description: Whether a replacement had begun when the module looked.
      type: bool
"""

import dataclasses
import os
import time

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hnai.platform.plugins.module_utils.hostfiles import Host, atomic_write, ensure_directory, sync_directory
from ansible_collections.hnai.platform.plugins.module_utils.kafka import replace


def main() -> None:
    """Reads the arguments, looks, marks, reports."""
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["looked", "begun", "ended"], "default": "looked"},
            "node_id": {"type": "int", "required": True},
            "host": {"type": "str", "required": True},
            "log_dir": {"type": "path", "default": "/var/lib/hnai/kafka/data"},
            "marker": {"type": "path", "default": "/etc/hnai/kafka.replacing.json"},
        },
        supports_check_mode=True,
    )
    given = module.params
    marker, state = given["marker"], given["state"]
    disk = replace.look(given["log_dir"], marker)
    changed = (state == "begun" and not disk.under_way) or (state == "ended" and disk.under_way)
    host = Host()
    try:
        if changed and not module.check_mode:
            if state == "begun":
                ensure_directory(host, os.path.dirname(marker), 0o755, 0, 0)
                me = replace.Me(given["node_id"], given["host"], "")
                atomic_write(host, marker, replace.remembered(me, time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())), 0o644, 0, 0)
            else:
                os.unlink(marker)
                sync_directory(os.path.dirname(marker))
    except OSError as error:
        module.fail_json(msg=f"{marker}: {error}; it tells the next run that this replacement is under way")
    module.exit_json(changed=changed, disk=dataclasses.asdict(disk))


if __name__ == "__main__":
    main()
