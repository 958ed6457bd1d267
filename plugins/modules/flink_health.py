#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
# Apache-2.0 goes together with Ansible's own licence, the GNU General Public License version 3.
from __future__ import annotations

DOCUMENTATION = r"""
module: flink_health
short_description: Health of a Flink session cluster, judged on tasks, checkpoints and progress
description:
  - Runs on the JobManager's host and asks the REST interface on loopback, the keeper of the jobs and the disk. A job counts as
    healthy when it runs exactly once, all its tasks run, its checkpoints complete and lie on disk, it does not restart, no vertex
    is held up and its event time goes on.
  - H1 the JobManager answers; H2 task managers and slots; H3 each declared job once, and nothing else; H4 checkpoints; H5 restarts;
    H6 backpressure; H7 watermarks, neither behind nor ahead of the clock (only statements with event time); H8 exceptions; H9 what a
    recovery needs (checkpoints on disk, the keeper, the gateway; ZooKeeper where declared); H10 who reaches it.
options:
  port:
    description: Port of the JobManager's REST interface on loopback.
    type: int
    default: 8081
  gateway_port:
    description: Port of the SQL gateway on loopback, by which the keeper submits.
    type: int
    default: 8083
  jobs:
    description: Names of the declared jobs; those that M(hnai.platform.flink_job) keeps on this host on its own are judged beside them.
    type: list
    elements: str
    required: true
  task_managers:
    description: TaskManagers that must be registered.
    type: int
    default: 1
  slots_free:
    description: Task slots that must be free, so that a job can be replaced.
    type: int
    default: 0
  max_checkpoint_age:
    description: Seconds that the newest completed checkpoint may be old.
    type: float
    default: 60.0
  max_watermark_age:
    description: Seconds that the event time of a job may lie behind the clock, or ahead of it.
    type: float
    default: 60.0
  recent:
    description: Seconds for which a restart, an exception or a failed checkpoint counts against a job.
    type: float
    default: 300.0
  high_availability:
    description: Whether this site declares several JobManagers that elect a leader by ZooKeeper.
    type: bool
    default: false
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
jobs:
  description: For each declared job, what was seen of it - state, checkpoints, backpressure and watermark_age_ms.
  returned: always
  type: dict
leader:
  description: Version of the JobManager that answered; empty where none did.
  returned: always
  type: str
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hnai.platform.plugins.module_utils.flink.health import Expected, check_all, rest
from ansible_collections.hnai.platform.plugins.module_utils.flink.host import kept, this_host
from ansible_collections.hnai.platform.plugins.module_utils.verdict import VERDICT_ARGS, finish, start


def main() -> None:
    """Arguments, one call, result."""
    module = AnsibleModule(
        argument_spec=dict(
            VERDICT_ARGS,
            port=dict(type="int", default=8081),
            gateway_port=dict(type="int", default=8083),
            jobs=dict(type="list", elements="str", required=True),
            task_managers=dict(type="int", default=1),
            slots_free=dict(type="int", default=0),
            max_checkpoint_age=dict(type="float", default=60.0),
            max_watermark_age=dict(type="float", default=60.0),
            recent=dict(type="float", default=300.0),
            high_availability=dict(type="bool", default=False),
        ),
        supports_check_mode=True,
    )
    given = module.params
    report = start(module, "flink")
    expected = Expected(
        jobs=[*given["jobs"], *(name for name in kept() if name not in given["jobs"])], task_managers=given["task_managers"],
        slots_free=given["slots_free"], max_checkpoint_age_s=given["max_checkpoint_age"],
        max_watermark_age_s=given["max_watermark_age"], recent_s=given["recent"], high_availability=given["high_availability"],
        rest=given["port"], gateway=given["gateway_port"],
    )
    seen = check_all(report, rest("127.0.0.1", given["port"]), this_host(given["gateway_port"]), expected)
    finish(module, report, jobs={name: vars(one) for name, one in seen.items()}, leader=report.version)


if __name__ == "__main__":
    main()
