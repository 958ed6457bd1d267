# SPDX-License-Identifier: Apache-2.0
"""Health of a Flink session cluster, judged from its REST interface (check ids H2-H5 of docs/verify).

The JobManager answers 200 while jobs are dead, reports a job RUNNING while none of its tasks runs (no slots, a TaskManager
lost), and lists a checkpoint interval that the job was never given: so every statement here is about tasks and completed
checkpoints, never about the process.
"""
from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible_collections.hnai.platform.plugins.module_utils.verdict import Report

#: How long a job's metrics may take from the first question, in seconds.
METRICS_S = 15.0
#: get(path, timeout_s) → decoded JSON of REST. Raises OSError.
Get = Callable[[str, float], Any]


def rest(host: str, port: int) -> Get:
    """A Get for the REST interface of the JobManager on loopback (plain HTTP: it is never reachable from elsewhere)."""

    def get(path: str, timeout_s: float) -> Any:
        connection = http.client.HTTPConnection(host, port, timeout=timeout_s)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            body = answer.read()
            if answer.status != 200:
                raise OSError("GET %s: %d %s" % (path, answer.status, body[:200].decode("utf-8", "replace")))
            return json.loads(body)
        finally:
            connection.close()

    return get


def check_cluster(report: Report, get: Get, task_managers: int, slots_free: int) -> None:
    """H2: as many TaskManagers as declared and slots in reserve."""
    with report.check(
        "H2", "task managers registered", expected=task_managers, unit="task managers",
        hint="journalctl -u hnai-flink-taskmanager", explain="curl -s http://127.0.0.1:8081/overview",
    ) as check:
        overview = get("/overview", report.timeout(10))
        check.observed = overview["taskmanagers"]
        check.evidence = overview
        enough = overview["slots-available"] >= slots_free
        check.passed(
            overview["taskmanagers"] >= task_managers and enough,
            "" if enough else "only %d free slots, %d wanted in reserve" % (overview["slots-available"], slots_free),
        )


def check_job(
    report: Report, get: Get, name: str, jobs: Sequence[Mapping[str, Any]], max_checkpoint_age_s: float, now: Callable[[], float] = time.time,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """H3 exactly one RUNNING with all tasks running; H4 completed checkpoints, the newest not too old; H5 no restart since its start."""
    alive = [job for job in jobs if job["name"] == name and job["state"] not in ("CANCELED", "FAILED", "FINISHED")]
    with report.check(
        "H3", "job %s runs, exactly once" % name, expected="1 RUNNING, all tasks running", subject=name,
        hint="journalctl -u hnai-flink-jobs says what keeps it from running", explain="curl -s http://127.0.0.1:8081/jobs/overview",
    ) as check:
        check.evidence = {"jobs": [dict(job) for job in jobs if job["name"] == name][:5]}
        check.observed = ", ".join("%s %d/%d tasks" % (job["state"], job["tasks"]["running"], job["tasks"]["total"]) for job in alive) or "none"
        check.passed(
            len(alive) == 1 and alive[0]["state"] == "RUNNING" and alive[0]["tasks"]["running"] == alive[0]["tasks"]["total"] > 0
        )
    if not alive:
        return
    job_id = alive[-1]["jid"]
    with report.check(
        "H4", "job %s: checkpoints complete" % name, expected=max_checkpoint_age_s, unit="s since the newest", subject=name,
        hint="look at /jobs/%s/exceptions and at the disk below /var/lib/hnai/flink/checkpoints" % job_id,
        explain="curl -s http://127.0.0.1:8081/jobs/%s/checkpoints" % job_id,
    ) as check:
        answer = get("/jobs/%s/checkpoints" % job_id, report.timeout(10))
        newest = (answer["latest"] or {}).get("completed")
        kept = ("id", "end_to_end_duration", "state_size", "external_path")
        check.evidence = {"counts": answer["counts"], "newest": newest and {key: newest[key] for key in kept if key in newest}}
        running_s = now() - alive[-1]["start-time"] / 1000.0
        if newest is None and running_s < max_checkpoint_age_s:
            check.inconclusive("no checkpoint yet, the job started %.0f s ago" % running_s)
        else:
            check.observed = round(now() - newest["latest_ack_timestamp"] / 1000.0, 1) if newest else None
            check.passed(newest is not None and check.observed <= max_checkpoint_age_s)
    with report.check(
        "H5", "job %s: no restart" % name, expected=0, unit="restarts since it was submitted", subject=name,
        hint="curl -s http://127.0.0.1:8081/jobs/%s/exceptions" % job_id, explain="curl -s 'http://127.0.0.1:8081/jobs/%s/metrics?get=numRestarts'" % job_id,
    ) as check:
        restarts = job_metric(report, get, job_id, "numRestarts", sleep)
        if restarts is None:
            check.inconclusive("the JobManager gave no metrics of the job within %.0f s" % METRICS_S)
        else:
            check.observed = int(restarts)
            # A restart longer ago than five minutes is history, not health.
            steady = check.observed == 0 or (job_metric(report, get, job_id, "uptime", sleep) or 0) >= 300_000
            check.passed(steady, "%d restarts, the last one within 5 min" % check.observed)


def job_metric(report: Report, get: Get, job_id: str, name: str, sleep: Callable[[float], None]) -> float | None:
    """A metric of a job, None when none came in METRICS_S: the JobManager fetches metrics only when somebody asks."""
    for _attempt in range(int(METRICS_S)):
        values = get("/jobs/%s/metrics?get=%s" % (job_id, name), report.timeout(10))
        if values:
            return float(values[0]["value"])
        sleep(min(1.0, report.timeout(1.0)))
    return None


def check_all(
    report: Report, get: Get, jobs: Sequence[str], task_managers: int = 1, slots_free: int = 0, max_checkpoint_age_s: float = 60.0,
    now: Callable[[], float] = time.time, sleep: Callable[[float], None] = time.sleep,
) -> None:
    """All checks of one cluster. *jobs* are the declared names."""
    check_cluster(report, get, task_managers, slots_free)
    known: list[Mapping[str, Any]] | None = None
    with report.check(
        "H1", "only declared jobs run", expected=sorted(jobs), hint="journalctl -u hnai-flink-jobs", explain="curl -s http://127.0.0.1:8081/jobs/overview"
    ) as check:
        known = get("/jobs/overview", report.timeout(10))["jobs"]
        check.observed = sorted({job["name"] for job in known or [] if job["state"] not in ("CANCELED", "FAILED", "FINISHED")})
        check.passed(set(check.observed) <= set(jobs))
    for name in jobs:
        if known is None:
            with report.check("H3", "job %s runs, exactly once" % name, subject=name) as check:
                check.inconclusive("the JobManager does not answer")
        else:
            check_job(report, get, name, known, max_checkpoint_age_s, now, sleep)
