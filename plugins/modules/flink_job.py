#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
# Apache-2.0 goes together with Ansible's own licence, the GNU General Public License version 3.
from __future__ import annotations

DOCUMENTATION = r"""
module: flink_job
short_description: A Flink job, a SQL statement or a jar, deployed, upgraded and taken back by its keeper
description:
  - Runs on the JobManager's host. Declares a statement and waits until C(hnai-flink-jobs) has deployed it. That unit alone submits
    jobs, so a name never runs twice, and an upgrade goes on when this task is killed.
  - A changed statement goes by savepoint (CANONICAL) where its execution plan shows that the state fits, else by replay - without state,
    from the committed offsets or, where it says C(-- keeper:) C(replay_margin_s=N), from N seconds before them; sinks drop what
    comes twice by its key. State that does not fit is never allowed in. A statement that says C(-- keeper:) C(upgrade=replay) is always
    replayed.
  - A jar is a program with state, whose C(main) the keeper runs with Flink's own client, without any credential. It is upgraded by savepoint, or by replay
    with O(upgrade=replay); no plan is compared, so state that does not fit is found out by Flink, and the old jar goes on. A program that
    calls its job by a name of its own, or sets more of its configuration in code than the interval of its checkpoints, is refused.
  - The new job is healthy when all its tasks run and it has completed checkpoints of its own. If not, the old statement goes on from
    the same savepoint, and the task fails with what the new one said.
  - A job that was never deployed before must show that it works, too - all tasks run, and it completes a checkpoint. If it fails again and again, the task
    fails with what it said, and C(hnai-flink-jobs) tries on.
  - A deployed job that nobody works on any more (somebody cancelled it) is waited for until the keeper has started it again.
  - Check mode prints which way it would go, and touches nothing.
options:
  name:
    description: Name of the job; the file C(/etc/hnai/flink/jobs/NAME.sql), or C(NAME.job) of a jar, declares it.
    type: str
    required: true
  state:
    description:
      - Whether the job runs. Jobs of O(hnai.platform.flink#role:main:flink_jobs) and O(hnai.platform.flink#role:main:flink_jars) are taken away there, not
        here.
    type: str
    choices: [present, absent]
    default: present
  sql:
    description: The statement. Without it, O(src) and O(jar) the declared file is deployed as it lies.
    type: str
  src:
    description: File on the host that holds the statement.
    type: path
  jar:
    description: File on the host that holds the program. It is copied; what it contains decides whether the job changes.
    type: path
  sha256:
    description: What O(jar) must be. With it check mode foretells a jar that is not on the host yet.
    type: str
  main:
    description: Class whose C(main) starts the job; by default what the manifest of O(jar) says.
    type: str
  args:
    description: Arguments of C(main). They are public - they stand in files, in the list of processes and in logs; a secret has no place here.
    type: list
    elements: str
  parallelism:
    description: How often each operator of O(jar) runs; by default as the cluster says.
    type: int
  upgrade:
    description: With V(replay) a changed O(jar) begins without state, from wherever the program begins then; by default by savepoint.
    type: str
    choices: [savepoint, replay]
  upgrade_mode:
    description: With V(savepoint) a statement that would have to be replayed is refused before anything is touched.
    type: str
    choices: [auto, savepoint]
    default: auto
  retry:
    description: Try a statement again that was given up before.
    type: bool
    default: false
  timeout:
    description: Seconds to wait for the keeper.
    type: float
    default: 900.0
author: hnai.platform maintainers (@hnai)
"""

EXAMPLES = r"""
- name: Deploy a statement
  hnai.platform.flink_job:
    name: flow_per_hour
    src: /srv/jobs/flow_per_hour.sql
    upgrade_mode: savepoint

- name: Deploy a jar
  hnai.platform.flink_job:
    name: leaks
    jar: /srv/jobs/leaks.jar
    main: org.example.Leaks
    args: [--tag, flow]
"""

RETURN = r"""
way:
  description: none, deploy, savepoint or replay - the way that was or would be taken.
  returned: always
  type: str
why:
  description: What that follows from, or why the new statement was given up.
  returned: always
  type: str
job_id:
  description: The job that runs.
  returned: always
  type: str
previous_job_id:
  description: The job that it replaced; empty for none.
  returned: always
  type: str
savepoint:
  description: What the old job was stopped with; empty for none.
  returned: always
  type: str
rolled_back:
  description: Whether the old statement runs again.
  returned: always
  type: bool
"""

import contextlib
import os
import time
from collections.abc import Mapping
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hnai.platform.plugins.module_utils.flink import health, host, job

CONFIG = host.CONFIG
KEEPER = "/usr/local/lib/hnai/flink/jobs.py"
JOBMANAGER = health.rest("127.0.0.1", 8081)


def read(path: str) -> str | None:
    """Text of a file, None where it is not there."""
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except FileNotFoundError:
        return None


def bring(module: AnsibleModule, name: str) -> str:
    """Puts the jar where the keeper looks for it; returns what declares it. Raises JobError, OSError."""
    given = module.params
    jar, sha256 = given["jar"], job.sha256_of(given["jar"])
    # In check mode the role has not copied it.
    if not sha256 and not (module.check_mode and given["sha256"]):
        raise job.JobError("%s is not there" % jar)
    if sha256 and not given["main"] and not job.main_class(jar):
        raise job.JobError("%s: its manifest names no Main-Class: give main" % jar)
    if sha256 and given["sha256"] not in (None, sha256):
        raise job.JobError("%s: its sha256 is %s, not %s" % (jar, sha256, given["sha256"]))
    target = os.path.join(host.STATE, "%s.%s.jar" % (name, sha256))
    if not module.check_mode and job.sha256_of(target) != sha256:
        owner = os.stat(host.STATE)
        with open(jar, "rb") as file:
            job.write(target, file.read(), (owner.st_uid, owner.st_gid))
    return job.program(sha256 or given["sha256"], given["main"], given["args"], given["parallelism"], given["upgrade"])


def ask(module: AnsibleModule, name: str, sql: str) -> job.Plan:
    """The keeper's plan. Raises JobError."""
    # A keeper of before `plan` would take the word for nothing and begin to keep, here and for ever.
    if "def outlook(" not in (read(KEEPER) or ""):
        if module.check_mode:
            return job.Plan("deploy", "there is no keeper here yet that could tell the way")
        raise job.JobError("%s is not there, or too old: deploy the role flink on this host first" % KEEPER)
    status, out, err = module.run_command(["/usr/bin/python3", "-I", KEEPER, "plan", name], data=sql.encode("utf-8"), binary_data=True)
    if status != 0:
        raise job.JobError("the keeper has no plan: %s" % (err.strip().splitlines() or [out])[-1])
    return job.parse_plan(out)


def absent(module: AnsibleModule, name: str) -> dict[str, Any]:
    """Takes the declaration away; the keeper cancels the job."""
    path = os.path.join(CONFIG, name + ".json")
    if not os.path.exists(path):
        if name in (host.read_json(os.path.join(CONFIG, "jobs.json")).get("jobs") or []):
            raise job.JobError("%s is one of flink_jobs: take it off that list" % name)
        return {"changed": False, "way": "none", "why": "not declared"}
    if not module.check_mode:
        os.unlink(path)
        for kind in ("sql", "job"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(CONFIG, name + "." + kind))
    return {"changed": True, "way": "none", "why": "the declaration was taken away, the keeper cancels the job"}


def present(module: AnsibleModule, name: str) -> dict[str, Any]:
    """Declares, and waits for what comes of it. Raises JobError, OSError."""
    given = module.params
    paths = {kind: os.path.join(CONFIG, name + "." + kind) for kind in ("job", "sql")}
    before = "job" if os.path.exists(paths["job"]) else "sql"
    declared = read(paths[before])
    kind = "job" if given["jar"] else "sql" if given["sql"] is not None or given["src"] else before
    path = paths[kind]
    sql = bring(module, name) if given["jar"] else given["sql"] if given["sql"] is not None else read(given["src"]) if given["src"] else declared
    if sql is None:
        if module.check_mode:
            return {"changed": True, "way": "deploy", "why": "the statement is not on this host yet"}
        raise job.JobError("%s is not there: give sql, src or jar" % (given["src"] or path))
    try:
        plan = ask(module, name, sql)
    except job.JobError as error:
        # The file of the role is there, the cluster may only be starting: the keeper tries until it comes.
        if module.check_mode or sql != declared:
            raise
        module.warn("no plan beforehand: %s" % error)
        plan = job.Plan("deploy", "the cluster does not answer yet")
    refused = job.refuse(plan, given["upgrade_mode"], given["retry"])
    if refused:
        raise job.JobError(refused)
    changed = plan.acts or plan.way == "rejected" or sql != declared
    result: dict[str, Any] = {"changed": changed, "way": plan.way, "why": plan.why, "job_id": plan.job_id}
    if module._diff and changed:
        result["diff"] = {"before": "job %s\n" % (plan.job_id or "none"), "after": "%s: %s\n" % (plan.way, plan.why), "before_header": name,
                          "after_header": name}
    if module.check_mode or not changed:
        return result
    since = time.time()
    owner = os.stat(CONFIG)
    if sql != declared or plan.way == "rejected":
        job.write(path, sql, (owner.st_uid, owner.st_gid))
        if kind != before:
            # Of two files the keeper takes the jar's.
            with contextlib.suppress(FileNotFoundError):
                os.unlink(paths[before])
    known = host.read_json(os.path.join(CONFIG, "jobs.json"))
    if name not in (known.get("jobs") or []) and not os.path.exists(os.path.join(CONFIG, name + ".json")):
        job.write(os.path.join(CONFIG, name + ".json"), "{}\n", (owner.st_uid, owner.st_gid))
    digest = plan.digest or job.digest(sql, known.get("session") or {})
    ours = read(path)

    def recall() -> Mapping[str, Any]:
        if read(path) != ours:
            raise job.JobError("another statement was declared meanwhile: what becomes of this one is not known")
        return host.memory(name)

    begin = time.monotonic()
    # A rejection of before counts again only where it is not meant to be tried once more.
    found = job.wait(
        recall, host.keeper, digest, given["timeout"], time.monotonic, time.sleep, since if plan.way == "rejected" else 0.0,
        plan.job_id if plan.gone else "",
    )
    result.update(way=found.way, why=found.why or plan.why, job_id=found.job_id, previous_job_id=found.previous_job_id, savepoint=found.savepoint,
                  rolled_back=found.rolled_back)
    if plan.gone:
        result.update(way=plan.way, why=plan.why, previous_job_id=plan.job_id)
    if plan.way == "deploy" and plan.digest and not plan.gone:
        job.works(recall, JOBMANAGER, max(0.0, begin + given["timeout"] - time.monotonic()), time.monotonic, time.sleep)
    if found.rolled_back:
        module.fail_json(msg="%s: the new statement was not healthy, the old one runs again as %s: %s" % (name, found.job_id, found.why), **result)
    if found.result == "refused":
        goes = ", the old one goes on" if found.job_id else ""
        module.fail_json(msg="%s: Flink does not take the statement%s: %s" % (name, goes, found.why), **result)
    return result


def main() -> None:
    """Arguments, one call, result."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "sql": {"type": "str"},
            "src": {"type": "path"},
            "jar": {"type": "path"},
            "sha256": {"type": "str"},
            "main": {"type": "str"},
            "args": {"type": "list", "elements": "str"},
            "parallelism": {"type": "int"},
            "upgrade": {"type": "str", "choices": ["savepoint", "replay"]},
            "upgrade_mode": {"type": "str", "choices": ["auto", "savepoint"], "default": "auto"},
            "retry": {"type": "bool", "default": False},
            "timeout": {"type": "float", "default": 900.0},
        },
        mutually_exclusive=[("sql", "src", "jar")],
        required_by=dict.fromkeys(("sha256", "main", "args", "parallelism", "upgrade"), "jar"),
        supports_check_mode=True,
    )
    name = module.params["name"]
    base = {"job_id": "", "previous_job_id": "", "savepoint": "", "rolled_back": False}
    try:
        result = (present if module.params["state"] == "present" else absent)(module, name)
    except (job.JobError, OSError) as error:
        module.fail_json(msg="%s: %s" % (name, error))
    module.exit_json(**dict(base, **result))


if __name__ == "__main__":
    main()
