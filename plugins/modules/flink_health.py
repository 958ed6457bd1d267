#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

DOCUMENTATION = r"""
module: flink_health
short_description: Health of a Flink session cluster, judged on tasks and checkpoints
description:
  - Asks the REST interface on loopback. A job counts as healthy when it runs exactly once, all its tasks run, its
    checkpoints complete and it does not restart.
options:
  port:
    description: Port of the JobManager's REST interface on loopback.
    type: int
    default: 8081
  jobs:
    description: Names of the declared jobs.
    type: list
    elements: str
    required: true
  task_managers:
    description: TaskManagers that must be registered.
    type: int
    default: 1
  max_checkpoint_age:
    description: Seconds that the newest completed checkpoint may be old.
    type: float
    default: 60.0
extends_documentation_fragment: hnai.platform.verdict
author: hnai.platform maintainers (@hnai)
"""

EXAMPLES = r"""
- name: Check Flink
  hnai.platform.flink_health:
    jobs: [normalise]
  register: health
"""

RETURN = r"""
status:
  description: pass, fail, inconclusive or skipped.
  returned: always
  type: str
checks:
  description: One entry a check.
  returned: always
  type: list
  elements: dict
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hnai.platform.plugins.module_utils.flink.health import check_all, rest
from ansible_collections.hnai.platform.plugins.module_utils.verdict import VERDICT_ARGS, finish, start


def main() -> None:
    """Arguments, one call, result."""
    module = AnsibleModule(
        argument_spec=dict(
            VERDICT_ARGS,
            port=dict(type="int", default=8081),
            jobs=dict(type="list", elements="str", required=True),
            task_managers=dict(type="int", default=1),
            max_checkpoint_age=dict(type="float", default=60.0),
        ),
        supports_check_mode=True,
    )
    report = start(module, "flink", "2.2.1")
    check_all(
        report, rest("127.0.0.1", module.params["port"]), module.params["jobs"], module.params["task_managers"],
        max_checkpoint_age_s=module.params["max_checkpoint_age"],
    )
    finish(module, report)


if __name__ == "__main__":
    main()
