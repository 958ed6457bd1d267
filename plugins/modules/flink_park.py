#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
# Apache-2.0 goes together with Ansible's own licence, the GNU General Public License version 3.
"""Module side of flink_park."""
from __future__ import annotations

DOCUMENTATION = r"""
module: flink_park
short_description: Stop every declared Flink job with a savepoint while the cluster changes its release
description:
  - Runs on the JobManager's host, before the release is installed. Asks C(hnai-flink-jobs) to stop each job with a savepoint in CANONICAL format
    and to leave it so until JobManager and gateway both run O(release), or O(hold) is over; then it goes on from its savepoint by itself, so a run
    that was killed keeps no job stopped for ever.
  - Where the cluster runs O(release) already nothing is stopped.
options:
  release:
    description: Release that the cluster will run.
    type: str
    required: true
  state:
    description: With V(released) the wish is taken away; jobs that are still held go on in the release that runs.
    type: str
    choices: [parked, released]
    default: parked
  hold:
    description: Seconds after which the jobs go on in whatever release runs.
    type: float
    default: 900.0
  timeout:
    description: Seconds to wait for the savepoints. When they are over the wish is taken away and the task fails.
    type: float
    default: 300.0
attributes:
  check_mode:
    description: Predicts; stops nothing.
    support: full
author: hnai.platform maintainers (@hnai)
"""

EXAMPLES = r"""
- name: Stop the jobs with savepoints
  hnai.platform.flink_park:
    release: "2.2.1"
"""

RETURN = r"""
starts:
  description: Job by job what it goes on from; empty where nothing had to be stopped, or nothing answers that could be.
  returned: always
  type: dict
started:
  description: Job by job its newest start - job_id, from, at (seconds since 1970).
  returned: always
  type: dict
"""

import contextlib
import json
import os
import time
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hnai.platform.plugins.module_utils.flink import health, host, job

CONFIG = "/etc/hnai/flink/jobs"
KEEPER = "/usr/local/lib/hnai/flink/jobs.py"
WISH = os.path.join(CONFIG, "park")
TIMEOUT_S = 10.0
JOBMANAGER = health.rest("127.0.0.1", 8081)
GATEWAY = health.rest("127.0.0.1", 8083)
GONE = {"FINISHED", "CANCELED", "FAILED"}


def cluster_release() -> set[str]:
    """What JobManager and gateway say they are."""
    return {str(JOBMANAGER("/overview", TIMEOUT_S)["flink-version"]), str(GATEWAY("/v3/info", TIMEOUT_S)["version"])}


def declared() -> list[str]:
    """Names of all declared jobs."""
    own = [name[:-5] for name in os.listdir(CONFIG) if name.endswith(".json") and name != "jobs.json"]
    return sorted({*own, *(host.read_json(os.path.join(CONFIG, "jobs.json")).get("jobs") or [])})


def look() -> tuple[dict[str, str], list[str]]:
    """See job.parked."""
    alive = {one["name"] for one in JOBMANAGER("/jobs/overview", TIMEOUT_S)["jobs"] if one["state"] not in GONE}
    return job.parked({name: host.memory(name) for name in declared()}, alive)


def released(check: bool) -> dict[str, Any]:
    """Takes the wish away."""
    found = {"changed": os.path.exists(WISH), "started": {name: host.memory(name).get("started") or {} for name in declared()}}
    if not check:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(WISH)
    return found


def park(module: AnsibleModule) -> dict[str, Any]:
    """Raises JobError, OSError."""
    given = module.params
    try:
        runs = cluster_release()
    except ConnectionError:
        runs = set()  # Nothing runs that could be stopped; the wish all the same, so that nothing is started half way.
    if runs == {given["release"]}:
        return {"changed": False}
    if module.check_mode:
        return {"changed": True}
    with open(KEEPER, encoding="utf-8") as file:
        if "def held(" not in file.read():
            raise job.JobError("%s is too old to hold jobs: deploy the role flink in the release that runs first" % KEEPER)
    owner = os.stat(CONFIG)
    job.write(WISH, json.dumps({"release": given["release"], "until": time.time() + given["hold"]}) + "\n", (owner.st_uid, owner.st_gid))
    if not runs:
        return {"changed": True}
    end = time.monotonic() + given["timeout"]
    while True:
        starts, waits = look()
        if not waits:
            return {"changed": True, "starts": starts}
        if time.monotonic() >= end:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(WISH)
            said = host.keeper().get("trouble") or "no trouble"
            raise job.JobError("%s not stopped after %.0f s, the jobs go on; the keeper says: %s" % (", ".join(waits), given["timeout"], said))
        time.sleep(2.0)


def main() -> None:
    """Arguments, one call, result."""
    module = AnsibleModule(
        argument_spec={
            "release": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["parked", "released"], "default": "parked"},
            "hold": {"type": "float", "default": 900.0},
            "timeout": {"type": "float", "default": 300.0},
        },
        supports_check_mode=True,
    )
    try:
        result = park(module) if module.params["state"] == "parked" else released(module.check_mode)
    except (job.JobError, OSError, KeyError) as error:
        module.fail_json(msg="flink_park: %s" % error)
    module.exit_json(**dict({"starts": {}, "started": {}}, **result))


if __name__ == "__main__":
    main()
