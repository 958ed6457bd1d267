# SPDX-License-Identifier: Apache-2.0
"""Keeps every declared Flink SQL job running, exactly once by name.

A standalone session cluster without ZooKeeper forgets its jobs when the JobManager restarts. This loop looks at the REST
interface and, for each declared job that does not run, submits its SQL file through the SQL gateway, from the newest
retained checkpoint whose statement was the same. A changed statement is replayed: the old job is cancelled and the new one
reads on from the committed offsets into the same sink, which drops duplicates; state that does not fit is never allowed.

Files: jobs.json {"jobs": [name], "session": {key: value}}, <name>.sql beside it; <state>/<name>.json remembers the digest
of the statement and the job ids of its checkpoints. All times in seconds.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Callable, NamedTuple

CONFIG = Path("/etc/hnai/flink/jobs")
STATE = Path("/var/lib/hnai/flink/jobs")
CHECKPOINTS = Path("/var/lib/hnai/flink/checkpoints")
REST = "http://127.0.0.1:8081"
GATEWAY = "http://127.0.0.1:8083"
PERIOD_S = 3.0
#: States in which Flink itself still works on a job.
ALIVE = {"INITIALIZING", "CREATED", "RUNNING", "RESTARTING", "RECONCILING", "FAILING", "CANCELLING", "SUSPENDED"}


class Job(NamedTuple):
    """One job as the REST interface names it."""

    id: str
    name: str
    state: str
    started_ms: int


class Action(NamedTuple):
    """What to do about one name: submit it, or cancel the job with this id."""

    kind: str
    name: str
    job_id: str = ""


def plan(declared: dict[str, str], jobs: list[Job], deployed: dict[str, str]) -> list[Action]:
    """Actions that lead to every declared job once and no other.

    declared: name → digest of its statement; deployed: name → digest that was submitted last.
    A name whose job is going away (CANCELLING) waits: two copies would write twice.

    >>> plan({"a": "1"}, [], {})
    [Action(kind='submit', name='a', job_id='')]
    """
    actions: list[Action] = []
    for name, digest in sorted(declared.items()):
        alive = sorted((job for job in jobs if job.name == name and job.state in ALIVE), key=lambda job: job.started_ms)
        if not alive:
            actions.append(Action("submit", name))
            continue
        keep = alive[-1:] if deployed.get(name) == digest else []
        actions += [Action("cancel", name, job.id) for job in alive if job not in keep and job.state != "CANCELLING"]
    known = set(declared)
    actions += [Action("cancel", job.name, job.id) for job in jobs if job.name not in known and job.state in ALIVE - {"CANCELLING"}]
    return actions


def newest_checkpoint(root: Path, job_ids: list[str]) -> str | None:
    """Path of the newest complete checkpoint (its _metadata is there and not empty) of these jobs, or None."""
    best: tuple[float, str] | None = None
    for job_id in job_ids:
        for meta in (root / job_id).glob("chk-*/_metadata"):
            stat = meta.stat()
            if stat.st_size > 0 and (best is None or stat.st_mtime > best[0]):
                best = (stat.st_mtime, str(meta.parent))
    return best[1] if best else None


def statements(text: str) -> list[str]:
    """The statements of a SQL file; comments are whole lines, ';' ends a statement at the end of a line.

    A statement set is one statement: from EXECUTE STATEMENT SET to the line END;
    """
    body = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("--"))
    found: list[str] = []
    within = False
    for part in (part.strip() for part in re.split(r";[ \t]*(?:\n|$)", body)):
        if within:
            found[-1] += "\n" + part + ";"
            within = part.upper() != "END"
        elif part:
            found.append(part)
            if re.match(r"EXECUTE\s+STATEMENT\s+SET\b", part, re.IGNORECASE):
                found[-1] += ";"
                within = True
    return found


def call(method: str, url: str, body: Any = None, timeout_s: float = 20.0) -> Any:
    """One JSON request on loopback; an error carries the first line of Flink's own words."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, method=method, headers={"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as answer:
            return json.loads(answer.read() or b"{}")
    except urllib.error.HTTPError as error:
        text = error.read().decode(errors="replace")
        causes = re.findall(r"Caused by: ([^\\\n]+)", text) or [text[:300]]
        raise OSError(f"{method} {url}: {error.code}: {causes[-1]}") from error


def running() -> list[Job]:
    """All jobs that the JobManager knows."""
    return [Job(job["jid"], job["name"], job["state"], job["start-time"]) for job in call("GET", REST + "/jobs/overview")["jobs"]]


def submit(name: str, sql: str, session: dict[str, str], checkpoint: str | None, sleep: Callable[[float], None] = time.sleep) -> str:
    """Submits one job through the gateway; returns its id. Raises OSError with Flink's own words."""
    properties = dict(session, **{"pipeline.name": name})
    if checkpoint:
        properties["execution.state-recovery.path"] = "file://" + checkpoint
    handle = call("POST", GATEWAY + "/v3/sessions", {"sessionName": name, "properties": properties})["sessionHandle"]
    base = f"{GATEWAY}/v3/sessions/{handle}"
    try:
        job_id = ""
        for statement in statements(sql):
            operation = call("POST", base + "/statements", {"statement": statement})["operationHandle"]
            deadline = time.monotonic() + 300
            while (status := call("GET", f"{base}/operations/{operation}/status")["status"]) not in ("FINISHED", "ERROR", "CANCELED"):
                if time.monotonic() > deadline:
                    raise OSError(f"{name}: a statement is still {status} after 300 s")
                sleep(0.2)
            result = call("GET", f"{base}/operations/{operation}/result/0?rowFormat=JSON")
            job_id = result.get("jobID") or job_id
        if not job_id:
            raise OSError(f"{name}.sql: no statement of it starts a job; end it with INSERT INTO")
        return job_id
    finally:
        call("DELETE", base)


class Keeper:
    """The loop's memory of one deployment, on disk so that a restart of this unit changes nothing."""

    def __init__(self, config: Path = CONFIG, state: Path = STATE, checkpoints: Path = CHECKPOINTS) -> None:
        self.config, self.state, self.checkpoints = config, state, checkpoints

    def recall(self, name: str) -> dict[str, Any]:
        """{"digest": str, "job_ids": [str]} of the last submission of this name."""
        try:
            return json.loads((self.state / f"{name}.json").read_text())
        except (OSError, ValueError):
            return {"digest": "", "job_ids": []}

    def remember(self, name: str, digest: str, job_ids: list[str]) -> None:
        """Atomic, so that a kill leaves the old or the new memory."""
        temporary = self.state / f".{name}.json"
        temporary.write_text(json.dumps({"digest": digest, "job_ids": job_ids[-20:]}))
        os.replace(temporary, self.state / f"{name}.json")

    def step(self) -> None:
        """One look and what follows from it."""
        wanted = json.loads((self.config / "jobs.json").read_text())
        sql = {name: (self.config / f"{name}.sql").read_text() for name in wanted["jobs"]}
        declared = {name: hashlib.sha256(json.dumps([text, wanted["session"]]).encode()).hexdigest() for name, text in sql.items()}
        memory = {name: self.recall(name) for name in declared}
        for action in plan(declared, running(), {name: one["digest"] for name, one in memory.items()}):
            if action.kind == "cancel":
                say(f"cancel {action.name} {action.job_id}")
                call("PATCH", f"{REST}/jobs/{action.job_id}?mode=cancel")
                continue
            name, old = action.name, memory[action.name]
            same = old["digest"] == declared[name]
            checkpoint = newest_checkpoint(self.checkpoints, old["job_ids"]) if same else None
            say(f"submit {name}: {'from ' + checkpoint if checkpoint else 'replay from the committed offsets'}")
            job_id = submit(name, sql[name], wanted["session"], checkpoint)
            self.remember(name, declared[name], (old["job_ids"] if same else []) + [job_id])
            say(f"{name} runs as {job_id}")


def say(text: str) -> None:
    """One line to the journal."""
    print(text, flush=True)


def main() -> int:
    """For ever; an error is said once per kind and tried again: the cluster may just be starting."""
    keeper, last = Keeper(), ""
    while True:
        try:
            keeper.step()
            last = ""
        except (OSError, ValueError, KeyError) as error:
            if (text := f"{type(error).__name__}: {error}") != last:
                say(f"not yet: {text}")
                last = text
        time.sleep(PERIOD_S)


if __name__ == "__main__":
    sys.exit(main())
