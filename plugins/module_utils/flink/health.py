# SPDX-License-Identifier: Apache-2.0
"""Health of a Flink session cluster (check ids H1-H10 of docs/verify), judged on tasks, checkpoints and progress.

The JobManager answers 200 while jobs are dead, reports a job RUNNING while none of its tasks runs (no slots, a TaskManager
lost), and lists a checkpoint interval that a job was never given: so every statement here is about tasks and completed
checkpoints, never about the process. What happened longer than `recent_s` ago is history, not health.

REST shapes: Flink 2.2 (measured): /overview, /config, /jobmanager/config [{key, value}], /jobs/overview, per job /checkpoints, /checkpoints/config,
/exceptions, per vertex /backpressure ("deprecated" at the first question, "ok" when measured) and /watermarks. Times there are epoch ms.
"""
from __future__ import annotations

import http.client
import json
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.hnai.platform.plugins.module_utils.verdict import Check, Report

#: How long a job's metrics and the measurement of backpressure may take from the first question, in seconds.
METRICS_S = 15.0
#: What a checkpoint interval looks like when a job has none (Java's Long.MAX_VALUE), and a watermark that nothing has set (Long.MIN_VALUE).
NEVER, NO_WATERMARK = 9223372036854775807, -9223372036854775808
GONE = ("CANCELED", "FAILED", "FINISHED")
LOOPBACK = ("127.", "::1", "::ffff:127.")
#: get(path, timeout_s) → decoded JSON of REST. Raises OSError.
Get = Callable[[str, float], Any]


@dataclass(frozen=True)
class Expected:
    """What a healthy cluster is. Times in seconds."""

    jobs: Sequence[str]
    task_managers: int = 1
    slots_free: int = 0
    max_checkpoint_age_s: float = 60.0
    max_watermark_age_s: float = 60.0
    recent_s: float = 300.0
    settle_s: float = 60.0
    high_availability: bool = False
    rest: int = 8081
    gateway: int = 8083
    inner: Sequence[int] = (6121, 6122, 6123, 6124, 6127, 6128)

    @property
    def ports(self) -> tuple[int, ...]:
        """All that may be reached from this host only."""
        return (self.rest, self.gateway, *self.inner)


@dataclass(frozen=True)
class Host:
    """What the host itself knows; every member may raise OSError.

    unit(name) → ActiveState; keeper() → {"at": epoch s of its last look, "trouble": text}; memory(name) → the keeper's memory of a job;
    gateway(timeout_s) → the release that the SQL gateway says it is of;
    complete(path) → whether a checkpoint's _metadata is there and not empty; states(job ids) → what lies on disk of their checkpoints and savepoints;
    free(path) → (bytes free, bytes); listeners() → [(address, port)], own() →
    those of Flink's processes;
    checkpoints: the directory in which the keeper looks for what a job goes on from.
    """

    unit: Callable[[str], str]
    gateway: Callable[[float], str]
    keeper: Callable[[], Mapping[str, Any]]
    memory: Callable[[str], Mapping[str, Any]]
    complete: Callable[[str], bool]
    states: Callable[[Sequence[str]], Sequence[str]]
    free: Callable[[str], tuple[int, int]]
    listeners: Callable[[], Sequence[tuple[str, int]]]
    own: Callable[[], Sequence[tuple[str, int]]]
    checkpoints: str = "/var/lib/hnai/flink/checkpoints"


@dataclass
class Seen:
    """What came out for one job: for the caller's own use."""

    state: str = ""
    checkpoints: dict[str, Any] = field(default_factory=dict)
    backpressure: str = ""
    watermark_age_ms: float | None = None


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
        except (http.client.HTTPException, ValueError) as error:
            raise OSError("GET %s: %s" % (path, error or type(error).__name__)) from error
        finally:
            connection.close()

    return get


class _Judge:
    """One look at one cluster."""

    def __init__(self, report: Report, get: Get, host: Host, expected: Expected, now: Callable[[], float], sleep: Callable[[float], None]) -> None:
        self.report, self._get, self.host, self.expected, self.now, self.sleep = report, get, host, expected, now, sleep
        self.jobs: list[Mapping[str, Any]] | None = None
        self.seen: dict[str, Seen] = {name: Seen() for name in expected.jobs}
        self._deaf: str | None = None

    def get(self, path: str) -> Any:
        return self._get(path, self.report.timeout(10.0))

    def curl(self, path: str, port: int = 0) -> str:
        """How a person asks the same; of the JobManager where no *port* is given."""
        return "curl -s 'http://127.0.0.1:%d%s'" % (port or self.expected.rest, path)

    # -- the cluster --------------------------------------------------------------------------------------
    def leader(self) -> Mapping[str, Any] | None:
        """H1. /overview is answered by the leader only; without it nothing else can be asked."""
        overview: Mapping[str, Any] | None = None
        with self.report.check(
            "H1", "the JobManager answers", expected="an answer with jobs and slots", hint="journalctl -u hnai-flink-jobmanager",
            explain=self.curl("/overview"),
        ) as check:
            overview = self.get("/overview")
            jobs = self.get("/jobs/overview")["jobs"]
            unsaid = sorted({key for job in jobs for key in ("jid", "name", "state", "start-time") if key not in job})
            if unsaid:
                raise OSError("/jobs/overview names a job without %s" % ", ".join(unsaid))
            self.jobs = jobs
            self.report.version = str(overview["flink-version"])
            check.observed = "%d jobs running, %d task managers" % (overview["jobs-running"], overview["taskmanagers"])
            check.evidence = dict(overview)
            check.passed(True)
        return overview if self.jobs is not None else None

    def cluster(self, overview: Mapping[str, Any]) -> None:
        """H2."""
        want = self.expected
        with self.report.check(
            "H2", "task managers registered, slots in reserve", expected=want.task_managers, unit="task managers",
            hint="journalctl -u hnai-flink-taskmanager", explain=self.curl("/overview"),
        ) as check:
            check.observed = overview["taskmanagers"]
            check.evidence = {"slots-total": overview.get("slots-total"), "slots-available": overview["slots-available"], "reserve": want.slots_free}
            enough = overview["slots-available"] >= want.slots_free
            check.passed(
                overview["taskmanagers"] >= want.task_managers and enough,
                "" if enough else "only %d free slots, %d wanted in reserve" % (overview["slots-available"], want.slots_free),
            )

    def strangers(self) -> None:
        """H3 for what nobody declared."""
        with self.report.check(
            "H3", "only declared jobs run", expected=sorted(self.expected.jobs), subject="undeclared", hint="journalctl -u hnai-flink-jobs",
            explain=self.curl("/jobs/overview"),
        ) as check:
            check.observed = sorted({job["name"] for job in self.jobs or [] if job["state"] not in GONE})
            check.passed(set(check.observed) <= set(self.expected.jobs))

    # -- one job ------------------------------------------------------------------------------------------
    def runs(self, name: str) -> Mapping[str, Any] | None:
        """H3: exactly one, RUNNING, all tasks running, and it is the statement that was declared."""
        jobs = self.jobs or []
        alive = sorted((job for job in jobs if job["name"] == name and job["state"] not in GONE), key=lambda job: job["start-time"])
        with self.report.check(
            "H3", "job %s runs, exactly once" % name, expected="1 RUNNING, all tasks running", subject=name,
            hint="journalctl -u hnai-flink-jobs says what keeps it from running", explain=self.curl("/jobs/overview"),
        ) as check:
            check.evidence = {"jobs": [dict(job) for job in jobs if job["name"] == name][:5]}
            check.observed = ", ".join("%s %d/%d tasks" % (job["state"], job["tasks"]["running"], job["tasks"]["total"]) for job in alive) or "none"
            self.seen[name].state = check.observed
            whole = len(alive) == 1 and alive[0]["state"] == "RUNNING" and alive[0]["tasks"]["running"] == alive[0]["tasks"]["total"] > 0
            memory = self.host.memory(name) if whole else {}
            rejected, known = memory.get("rejected"), memory.get("job_ids") or []
            if rejected:
                check.fail("an earlier statement runs, the declared one was given up: %s" % rejected.get("why"))
            elif whole and alive[0]["jid"] not in known and not (memory.get("upgrade") or memory.get("submitting")):
                check.fail("job %s was not started by the keeper (its own is %s), so nobody knows what it does and from where it began: cancel it, "
                           "and the keeper goes on from its newest checkpoint" % (alive[0]["jid"], known[-1] if known else "none"))
            else:
                check.passed(whole)
        return alive[-1] if alive else None

    def checkpoints(self, name: str, job: Mapping[str, Any]) -> None:
        """H4: the job has checkpoints at all, the newest is fresh, none failed of late, they take less than half of their timeout."""
        job_id, want = job["jid"], self.expected
        with self.report.check(
            "H4", "job %s: checkpoints complete" % name, expected=want.max_checkpoint_age_s, unit="s since the newest", subject=name,
            hint="look at /jobs/%s/exceptions and at the disk below /var/lib/hnai/flink/checkpoints" % job_id,
            explain=self.curl("/jobs/%s/checkpoints" % job_id),
        ) as check:
            try:
                config = self.get("/jobs/%s/checkpoints/config" % job_id)
                interval = config["interval"]
            except OSError as error:
                # A job that has no checkpointing has no such resource.
                if " 404 " not in str(error):
                    raise
                config, interval = {}, NEVER
            if interval >= NEVER or interval <= 0:
                check.fail("the job was submitted without checkpoints: a restart begins anew")
                return
            answer = self.get("/jobs/%s/checkpoints" % job_id)
            newest = answer["latest"]["completed"]
            kept = ("id", "end_to_end_duration", "state_size", "external_path")
            since_ms = (self.now() - want.recent_s) * 1000.0
            failed = [one for one in answer["history"] if one["status"] == "FAILED" and one["trigger_timestamp"] >= since_ms]
            p95 = _number(answer["summary"]["end_to_end_duration"]["p95"])
            check.evidence = {
                "counts": answer["counts"], "interval_ms": interval, "timeout_ms": config["timeout"], "p95_ms": p95, "failed_lately": len(failed),
                "newest": newest and {key: newest[key] for key in kept if key in newest},
            }
            self.seen[name].checkpoints = dict(answer["counts"])
            running_s = self.now() - job["start-time"] / 1000.0
            if newest is None and running_s < want.max_checkpoint_age_s:
                check.inconclusive("no checkpoint yet, the job started %.0f s ago" % running_s)
                return
            check.observed = round(self.now() - newest["latest_ack_timestamp"] / 1000.0, 1) if newest else None
            if newest is None or abs(check.observed) > want.max_checkpoint_age_s:
                check.fail("none completed" if newest is None else "the newest is too old" if check.observed > 0 else
                           "the newest is of a time to come: the clock went back, and nobody knows how old it is")
            elif failed and failed[0]["trigger_timestamp"] > newest["trigger_timestamp"]:
                check.fail("the last one failed: %s" % str(failed[0].get("failure_message") or "no reason given").split("\n")[0][:200])
            elif p95 is not None and p95 >= config["timeout"] / 2.0:
                check.fail("they take %.1f s (P95), the timeout is %.1f s" % (p95 / 1000.0, config["timeout"] / 1000.0))
            else:
                check.passed(True)

    def restarts(self, name: str, job: Mapping[str, Any]) -> None:
        """H5."""
        job_id = job["jid"]
        with self.report.check(
            "H5", "job %s: no restart of late" % name, expected=0, unit="restarts since it was submitted", subject=name,
            hint=self.curl("/jobs/%s/exceptions" % job_id),
            explain=self.curl("/jobs/%s/metrics?get=numRestarts" % job_id),
        ) as check:
            since_ms = (self.now() - self.expected.recent_s) * 1000.0
            # Each of them is a job of its own, with no restart: the keeper submits what Flink gave up.
            ended = [one for one in self.jobs or [] if one["name"] == name and one["state"] == "FAILED" and one["end-time"] >= since_ms]
            if len(ended) > 1:
                check.observed = len(ended)
                check.fail("Flink gave it up %d times within %.0f s, and the keeper began it anew: /jobs/%s/exceptions"
                           % (len(ended), self.expected.recent_s, ended[-1]["jid"]))
                return
            restarts = self.metric(job_id, "numRestarts")
            uptime_ms = self.metric(job_id, "uptime") if restarts else 0.0
            if restarts is None or uptime_ms is None:
                check.inconclusive("the JobManager gave no metrics of the job within %.0f s" % METRICS_S)
                return
            check.observed = int(restarts)
            steady = check.observed == 0 or uptime_ms >= self.expected.recent_s * 1000.0
            check.passed(steady, "%d restarts, the last one within %.0f s" % (check.observed, self.expected.recent_s))

    def exceptions(self, name: str, job: Mapping[str, Any]) -> None:
        """H8."""
        job_id = job["jid"]
        with self.report.check(
            "H8", "job %s: no exception of late" % name, expected=0, unit="exceptions", subject=name,
            hint=self.curl("/jobs/%s/exceptions" % job_id), explain=self.curl("/jobs/%s/exceptions" % job_id),
        ) as check:
            entries = self.get("/jobs/%s/exceptions" % job_id)["exceptionHistory"]["entries"]
            fresh = [one for one in entries if one["timestamp"] >= (self.now() - self.expected.recent_s) * 1000.0]
            check.observed = len(fresh)
            check.evidence = {"all": len(entries), "fresh": [first_line(one) for one in fresh[:5]]}
            check.passed(not fresh, first_line(fresh[0]) if fresh else "")

    def backpressure(self, name: str, job: Mapping[str, Any], vertices: Sequence[Mapping[str, Any]]) -> None:
        """H6. The first question only starts the measurement."""
        base = "/jobs/%s/vertices/%%s/backpressure" % job["jid"]
        with self.report.check(
            "H6", "job %s: no vertex is held up" % name, expected="high on none", subject=name,
            hint="the vertex after the one that is held up is too slow: sink away, or not enough processors",
            explain=self.curl(base % "<vertex>"),
        ) as check:
            levels: dict[str, str] = {}
            running = [one for one in vertices if one["status"] == "RUNNING"]
            for _attempt in range(int(METRICS_S)):
                for vertex in running:
                    answer = {} if vertex["id"] in levels else self.get(base % vertex["id"])
                    if answer.get("status") == "ok":
                        levels[vertex["id"]] = answer["backpressureLevel"]
                if len(levels) == len(running):
                    break
                self.sleep(min(1.0, self.report.timeout(1.0)))
            check.evidence = {"levels": {vertex["name"][:80]: levels.get(vertex["id"]) for vertex in running}}
            check.observed = self.seen[name].backpressure = max(levels.values(), key=("ok", "low", "high").index, default="")
            if "high" in levels.values():
                check.fail("held up: %s" % ", ".join(vertex["name"][:60] for vertex in running if levels.get(vertex["id"]) == "high"))
            elif not running or len(levels) < len(running):
                check.inconclusive("measured on %d of %d vertices" % (len(levels), len(running)))
            else:
                check.passed(True)

    def watermarks(self, name: str, job: Mapping[str, Any], vertices: Sequence[Mapping[str, Any]]) -> None:
        """H7, where the statement has event time: the slowest watermark of the job is no further from the clock than allowed."""
        with self.report.check(
            "H7", "job %s: event time goes on" % name, expected=self.expected.max_watermark_age_s, unit="s behind the clock", subject=name,
            hint="a source partition is silent and not idle, or its times are wrong; windows stay open meanwhile",
            explain=self.curl("/jobs/%s/vertices/<vertex>/watermarks" % job["jid"]),
        ) as check:
            values: list[float] = []
            for vertex in vertices:
                told = [float(one["value"]) for one in self.get("/jobs/%s/vertices/%s/watermarks" % (job["jid"], vertex["id"]))]
                if 0 < len(told) < vertex["parallelism"]:
                    check.inconclusive("%d of %d subtasks of %s have told theirs" % (len(told), vertex["parallelism"], vertex["name"][:60]))
                    return
                values += told
            running_s = self.now() - job["start-time"] / 1000.0
            if not values or min(values) <= NO_WATERMARK:
                text = "no watermark yet, the job started %.0f s ago" % running_s
                if values and running_s >= self.expected.settle_s:
                    check.fail(text)
                else:
                    check.inconclusive(text if running_s < self.expected.settle_s else "the JobManager knows no watermark of the job")
                return
            check.observed = round(self.now() - min(values) / 1000.0, 1)
            self.seen[name].watermark_age_ms = check.observed * 1000.0
            if check.observed < -self.expected.max_watermark_age_s:
                check.fail("it is %.0f s ahead of the clock: what comes until then is late, and left out" % -check.observed)
            else:
                check.passed(check.observed <= self.expected.max_watermark_age_s)

    def metric(self, job_id: str, name: str) -> float | None:
        """A metric of a job, None when none came in METRICS_S: the JobManager fetches metrics only when somebody asks."""
        for _attempt in range(int(METRICS_S)):
            values = self.get("/jobs/%s/metrics?get=%s" % (job_id, name))
            if values:
                return float(values[0]["value"])
            self.sleep(min(1.0, self.report.timeout(1.0)))
        return None

    def deaf(self) -> str:
        """Why what the JobManager tells of tasks may be of before, "" where it is not.

        It keeps the last metrics of a task manager that was replaced, and fetches none of any new one once a fetch from a hanging
        process has been left open (seen with 2.2.1). Then /backpressure and /watermarks answer, with old numbers.
        """
        if self._deaf is None:
            silent: list[str] = []
            for _attempt in range(int(METRICS_S)):
                ids = [str(one["id"]) for one in self.get("/taskmanagers")["taskmanagers"]]
                silent = [one for one in ids if not self.get("/taskmanagers/%s/metrics" % one)]
                if not silent:
                    break
                self.sleep(min(1.0, self.report.timeout(1.0)))
            self._deaf = (
                "the JobManager has no metrics of task manager %s, what it tells is of before; if that stays: systemctl restart hnai-flink-jobmanager"
                % ", ".join(silent)
            ) if silent else ""
        return self._deaf

    def job(self, name: str) -> None:
        """All checks of one declared job."""
        job = self.runs(name)
        if job is None:
            return
        self.checkpoints(name, job)
        self.restarts(name, job)
        self.exceptions(name, job)
        has_time = re.search(r"\bWATERMARK\s+FOR\b", str(self.host.memory(name).get("sql", "")), re.IGNORECASE) is not None
        vertices: list[Mapping[str, Any]] = []
        try:
            vertices = self.get("/jobs/%s" % job["jid"])["vertices"]
            unknown = self.deaf()
        except (OSError, KeyError) as error:
            unknown = str(error)
        if unknown:
            for id_, title in (("H6", "job %s: no vertex is held up"), *((("H7", "job %s: event time goes on"),) if has_time else ())):
                with self.report.check(id_, title % name, subject=name) as check:
                    check.inconclusive(unknown)
            return
        self.backpressure(name, job, vertices)
        if has_time:
            self.watermarks(name, job, vertices)

    # -- recovery and access ------------------------------------------------------------------------------
    def keeper(self) -> None:
        """H9: after a loss of the JobManager this unit brings the jobs back."""
        with self.report.check(
            "H9", "the keeper of the jobs looks after them", expected="active, last look within 15 min", subject="keeper",
            hint="journalctl -u hnai-flink-jobs", explain="systemctl status hnai-flink-jobs; cat /var/lib/hnai/flink/jobs/.keeper",
        ) as check:
            state = self.host.unit("hnai-flink-jobs.service")
            status = self.host.keeper()
            age = self.now() - float(status["at"])
            check.observed = "%s, last look %.0f s ago" % (state, age)
            check.evidence = {"trouble": status.get("trouble")}
            # A savepoint or the start of a job may take minutes; it looks again afterwards.
            if state != "active" or abs(age) > 900:
                check.fail("it does not run" if state != "active" else "it hangs" if age > 0 else "its last look is of a time to come: the clock went back")
            else:
                check.passed(not status["trouble"], "it looks and can do nothing: %s" % status["trouble"])

    def gateway(self) -> None:
        """H9: by it the keeper submits. Nothing else asks it while all jobs run."""
        with self.report.check(
            "H9", "the gateway takes statements", expected="an answer, of the JobManager's release", subject="gateway",
            hint="systemctl restart hnai-flink-gateway", explain=self.curl("/v3/info", self.expected.gateway),
        ) as check:
            check.observed = self.host.gateway(self.report.timeout(10.0))
            check.passed(self.report.version in ("", check.observed), "the JobManager is of %s" % self.report.version)

    def retained(self) -> None:
        """H9: the newest checkpoint of every job lies on disk, complete, and outlives the job; a job that is down has what it can go on from."""
        with self.report.check(
            "H9", "retained checkpoints lie on disk", expected="one a job, complete, kept when the job ends", subject="checkpoints",
            hint="the disk below /var/lib/hnai/flink/checkpoints; execution.checkpointing.externalized-checkpoint-retention",
            explain="ls -l /var/lib/hnai/flink/checkpoints/<job>/chk-*/_metadata",
        ) as check:
            free, size = self.host.free(self.host.checkpoints)
            problems: list[str] = []
            young: list[str] = []
            found: dict[str, str] = {}
            for job in self.jobs or []:
                if job["name"] not in self.expected.jobs or job["state"] in GONE:
                    continue
                answer = self.get("/jobs/%s/checkpoints" % job["jid"])
                newest = answer["latest"]["completed"]
                if newest is None:
                    fresh = self.now() - job["start-time"] / 1000.0 < self.expected.settle_s
                    (young if fresh else problems).append("%s: no checkpoint" % job["name"])
                    continue
                path = str(newest["external_path"])
                found[job["name"]] = path
                kept = self.get("/jobs/%s/checkpoints/config" % job["jid"])["externalization"]
                if not kept["enabled"] or kept["delete_on_cancellation"]:
                    problems.append("%s: is thrown away with the job" % job["name"])
                elif not path.removeprefix("file:").startswith(self.host.checkpoints + "/"):
                    problems.append("%s: %s is not where the keeper looks for it (%s)" % (job["name"], path, self.host.checkpoints))
                elif not self.host.complete(path.removeprefix("file:")):
                    # A newer one may have replaced it between the two looks.
                    newest = self.get("/jobs/%s/checkpoints" % job["jid"])["latest"]["completed"] or newest
                    path = str(newest["external_path"])
                    if not self.host.complete(path.removeprefix("file:")):
                        problems.append("%s: %s is not there or not complete" % (job["name"], path))
            alive = {job["name"] for job in self.jobs or [] if job["state"] not in GONE}
            for name in sorted(set(self.expected.jobs) - alive):
                known = self.host.memory(name).get("job_ids") or []
                there = [path for path in self.host.states(known) if self.host.complete(path)]
                if there:
                    found[name] = there[-1]
                elif known:
                    problems.append("%s: it is down, and nothing that it could go on from lies on disk" % name)
            check.observed = "%d of %d, %.0f %% of the disk free" % (len(found), len(self.expected.jobs), 100.0 * free / max(size, 1))
            check.evidence = {"newest": found, "free_bytes": free, "problems": problems}
            if free < size * 0.05:
                problems.append("less than 5 % of the disk is free")
            if problems:
                check.fail("; ".join(problems))
            elif young or not found:
                check.inconclusive("; ".join(young) or "no declared job runs")
            else:
                check.passed(True)

    def high_availability(self) -> None:
        """H9, ZooKeeper's part."""
        title = "JobManagers elect a leader by ZooKeeper"
        if not self.expected.high_availability:
            self.report.skip("H9", title, "not declared", subject="ZooKeeper")
            return
        with self.report.check(
            "H9", title, expected="zookeeper, storage and checkpoints on shared storage", subject="ZooKeeper",
            hint="high-availability.* in config.yaml", explain=self.curl("/jobmanager/config"),
        ) as check:
            config = {one["key"]: one["value"] for one in self.get("/jobmanager/config")}
            wanted = ("high-availability.type", "high-availability.zookeeper.quorum", "high-availability.storageDir", "high-availability.cluster-id")
            check.observed = config.get("high-availability.type", "none")
            check.evidence = {key: config.get(key) for key in (*wanted, "execution.checkpointing.dir")}
            missing = [key for key in wanted if not config.get(key)]
            check.passed(check.observed == "zookeeper" and not missing, "not set: %s" % ", ".join(missing) if missing else "")

    def access(self) -> None:
        """H10: whoever reaches REST or the gateway runs code."""
        with self.report.check(
            "H10", "only this host reaches Flink, and nobody submits jars", expected="loopback, web-submit off", controls=["SR 2.1", "SR 5.2"],
            hint="rest.bind-address, web.submit.enable in config.yaml; site.yml --tags flink", explain="ss -ltn; " + self.curl("/config"),
        ) as check:
            features = self.get("/config")["features"]
            ours = [one for one in self.host.listeners() if one[1] in self.expected.ports]
            # Whatever else its processes open (a debugger, a reporter of metrics) is no less a door.
            open_ = ["%s:%d" % one for one in sorted({*ours, *self.host.own()}) if not one[0].startswith(LOOPBACK)]
            listening = sorted({port for _address, port in ours})
            check.evidence = {"features": features, "listening": listening, "not on loopback": open_}
            check.observed = "%s, web-submit %s" % (", ".join(open_) or "loopback", "on" if features["web-submit"] else "off")
            if not listening:
                check.inconclusive("none of the ports %s is listening here" % (list(self.expected.ports),))
            else:
                check.passed(not open_ and not features["web-submit"])


def check_all(
    report: Report, get: Get, host: Host, expected: Expected, now: Callable[[], float] = time.time, sleep: Callable[[float], None] = time.sleep
) -> dict[str, Seen]:
    """All checks of one cluster; what was seen of each declared job."""
    judge = _Judge(report, get, host, expected, now, sleep)
    overview = judge.leader()
    if overview is None:
        silent: list[tuple[str, str, str]] = [("H2", "task managers registered, slots in reserve", "")]
        silent += [("H3", "job %s runs, exactly once" % name, name) for name in expected.jobs]
        silent += [("H9", "retained checkpoints lie on disk", "checkpoints"), ("H10", "only this host reaches Flink, and nobody submits jars", "")]
        for id_, title, subject in silent:
            report.add(Check(id_, title, subject=subject)).inconclusive("the JobManager does not answer")
    else:
        judge.cluster(overview)
        judge.strangers()
        for name in expected.jobs:
            judge.job(name)
        judge.retained()
        judge.access()
    judge.keeper()
    judge.gateway()
    judge.high_availability()
    return judge.seen


def _number(value: Any) -> float | None:
    """Flink writes "NaN" as a text where it has no number."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def first_line(entry: Mapping[str, Any]) -> str:
    """The innermost cause of an exception, one line."""
    lines = str(entry.get("stacktrace", "")).splitlines()
    causes = [line for line in lines if line.startswith("Caused by: ")]
    return (causes[-1] if causes else lines[0] if lines else str(entry.get("exceptionName", "")))[:300]
