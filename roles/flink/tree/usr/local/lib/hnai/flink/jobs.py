# SPDX-License-Identifier: Apache-2.0
"""Keeps every declared Flink job, a SQL statement or a jar, running, exactly once by name, and carries a changed statement over.

A standalone session cluster without ZooKeeper forgets its jobs when the JobManager restarts. This loop looks at the REST
interface and, for each declared job that does not run, submits its statement through the SQL gateway, from the newest savepoint
or retained checkpoint of its own. Nobody else submits, so there is never a second copy.

A changed statement is upgraded. Whether the old state fits is decided before anything is touched, by comparing the execution
plans of both statements:
  savepoint  same operators, and those with state do the same: the old job stops with a savepoint (CANONICAL), the new one goes on from it
  replay     otherwise: the old job stops with a savepoint all the same (the way back), the new one starts without state and reads from
             the committed offsets on, or, where the statement says `-- keeper: replay_margin_s=N`, from N s before the old one's position;
             sinks drop what comes twice by its key. State that does not fit is never allowed in (allowNonRestoredState stays off).
The new job is watched until it is whole and has completed checkpoints. If it fails, the old statement goes on from the savepoint
and the new one is remembered as rejected until its file is written again.

A jar is a program, handed over by Flink's own client, which runs its main here (see client). It shows no plan: its way is the savepoint, unless its
declaration says replay, and Flink refuses state that does not fit. Before anything is stopped main is run up to the point where it would hand its job
over (see rehearse). Jars lie beside the memory as <name>.<sha256>.jar, the old one until the new one is accepted.

While the cluster itself changes its release the jobs are held (file `park`: {"release", "until"}): each stops with a savepoint (CANONICAL) and stays
away until JobManager and gateway both say that release, or the time is over; then it goes on from its savepoint. Nobody has to let it go.

`jobs.py plan NAME` reads a statement from stdin and prints as JSON which way it would go; it changes nothing.

Files: jobs.json {"jobs": [name], "session": {key: value}}, beside it <name>.sql, or <name>.job {"jar": sha256, "main", "args", "parallelism",
"upgrade"}; <name>.json declares a job of its own beside jobs.json.
<state>/<name>.json is the memory. Times in seconds since 1970.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from pathlib import Path
from typing import Any, Callable, NamedTuple

CONFIG = Path("/etc/hnai/flink/jobs")
STATE = Path("/var/lib/hnai/flink/jobs")
CHECKPOINTS = Path("/var/lib/hnai/flink/checkpoints")
SAVEPOINTS = Path("/var/lib/hnai/flink/savepoints")
REST = "http://127.0.0.1:8081"
GATEWAY = "http://127.0.0.1:8083"
RUN = "/usr/local/lib/hnai/flink/run"
PERIOD_S = 3.0
#: How long a job that is not whole is waited for before its newest checkpoint stands in for a savepoint.
PARK_S = 60.0
#: A new job must be whole and have completed CHECKPOINTS_WANTED of its own in this time.
VERIFY_S = 300.0
CHECKPOINTS_WANTED = 2
SAVEPOINT_S = 180.0
CLIENT_S = 300.0
SAVEPOINTS_KEPT = 2
#: Records that a source may be behind and still counts as caught up; how often it is asked.
CAUGHT_UP, LOOK_EVERY_S = 2000, 30.0
#: States in which Flink itself still works on a job.
ALIVE = {"INITIALIZING", "CREATED", "RUNNING", "RESTARTING", "RECONCILING", "FAILING", "CANCELLING", "SUSPENDED"}
LEAVING = {"FAILING", "CANCELLING"}
#: Of two plans that look the same one may have other types, and a jar shows none.
UNFIT = "; the state does not fit, which no plan told: say '-- keeper: upgrade=replay' in the statement, 'upgrade: replay' of a jar"
#: What starts a job; what a file may do before; what of that would start one, too; and settings that are not the file's.
STARTS = re.compile(r"(INSERT|EXECUTE\s+STATEMENT\s+SET)\b", re.IGNORECASE)
PREPARES = re.compile(r"(CREATE|ALTER|DROP|USE|SET|RESET|LOAD|UNLOAD|ADD\s+JAR)\b", re.IGNORECASE)
CREATES_AS = re.compile(r"CREATE\s+(OR\s+REPLACE\s+)?(MATERIALIZED\s+)?TABLE\b.*\bAS\s+(SELECT|WITH)\b", re.IGNORECASE | re.DOTALL)
OURS = re.compile(r"(SET|RESET)\s+'(pipeline\.name|execution\.(state-recovery|savepoint)\.[^']*)'", re.IGNORECASE)
MISFIT = re.compile("StateMigrationException|Failed to rollback to checkpoint/savepoint")
#: Answers that say who could not be reached, and nothing about the job.
AWAY = re.compile(r"ConnectException|TimeoutException|ConnectTimeout|ClosedChannel|Connection refused")
#: What a program may set in code of all that its job is configured with: else it could let in state that does not fit, or take its checkpoints elsewhere.
IN_CODE = {"execution.program-config.enabled": "false", "execution.program-config.wildcards": "execution.checkpointing.interval"}
#: Options of a table that say what is read: offsets of one topic fit no other.
READS = ("connector", "topic", "topic-pattern", "path")
#: Operators without state of their own; of all others what they do must be the same for their state to fit.
STATELESS = ("Calc", "Source", "TableSourceScan", "WatermarkAssigner", "MiniBatchAssigner", "DropUpdateBefore", "Union", "Expand", "Correlate")


class Job(NamedTuple):
    """One job as the REST interface names it."""

    id: str
    name: str
    state: str
    started_ms: int
    whole: bool = True


class Action(NamedTuple):
    """What to do about one name: kind is none, cancel, upgrade, stop, start, accept or give_up."""

    kind: str
    job_id: str = ""
    why: str = ""


class Refused(Exception):
    """Flink's own words on a statement that it does not take."""


def decide(wanted: str, alive: list[Job], memory: dict[str, Any], verdict: tuple[str, str] = ("", "")) -> Action:
    """The next step for one declared name.

    wanted: digest of its statement; alive: jobs of that name that Flink still works on; memory: see Keeper.recall;
    verdict: ("healthy" | "broken" | "", why) of the job that is being watched. A job that goes away is waited for: two copies would
    write twice.

    >>> decide("1", [], {"digest": "", "upgrade": None})
    Action(kind='start', job_id='', why='')
    """
    upgrade = memory.get("upgrade")
    own = [*memory.get("job_ids", []), upgrade.get("new") if upgrade else None]
    # Of several the one goes on that the keeper started, and of those the newest.
    alive = sorted(alive, key=lambda job: (job.id in own, job.started_ms))
    for other in alive[:-1]:
        if other.state != "CANCELLING":
            return Action("cancel", other.id, "another job of that name runs")
    if any(one.state == "CANCELLING" for one in alive):
        return Action("none")
    job = alive[-1] if alive else None
    if upgrade:
        if upgrade["phase"] == "stopping" and job and job.id == upgrade["old"]:
            return Action("stop", job.id)
        if upgrade["phase"] != "verifying":
            return Action("cancel", job.id, "another one takes its place") if job else Action("start")
        if job is None or verdict[0] == "broken":
            return Action("give_up", job.id if job else "", verdict[1] or "it is gone")
        return Action("accept", job.id) if verdict[0] == "healthy" else Action("none")
    rejected = (memory.get("rejected") or {}).get("digest")
    if memory["digest"] and wanted not in (memory["digest"], rejected):
        return Action("upgrade", job.id if job else "")
    if not memory["digest"] and wanted == rejected:
        return Action("none")
    return Action("none") if job else Action("start")


def undeclared(known: set[str], jobs: list[Job]) -> list[Job]:
    """Jobs that nobody declared."""
    return [job for job in jobs if job.name not in known and job.state in ALIVE - {"CANCELLING"}]


def newest_state(roots: list[Path], job_ids: list[str]) -> str | None:
    """Path of the newest complete savepoint or checkpoint (its _metadata is there and not empty) of these jobs, or None."""
    # The newest job that has any: a clock may have gone back since the one before it.
    for job_id in reversed(job_ids):
        found = [(meta.stat(), str(meta.parent)) for root in roots for meta in (root / job_id).glob("*-*/_metadata")]
        complete = [(stat.st_mtime, path) for stat, path in found if stat.st_size > 0]
        if complete:
            return max(complete)[1]
    return None


def program(text: str) -> dict[str, Any] | None:
    """What declares a jar; None for a statement."""
    return json.loads(text) if text.startswith("{") else None


def options(sql: str) -> dict[str, str]:
    """What a statement says to its keeper: `-- keeper: replay_margin_s=90, upgrade=replay`. A jar says it in its declaration."""
    jar = program(sql)
    if jar:
        return {"upgrade": jar.get("upgrade", "")}
    found: dict[str, str] = {}
    for line in re.findall(r"^--[ ]*keeper:(.*)$", sql, re.MULTILINE):
        found.update(dict(re.findall(r"(\w+)=(\w+)", line)))
    return found


def from_moment(sql: str, moment_s: float) -> str:
    """The statement, reading Kafka from a moment on instead of from the committed offsets."""
    return re.sub(
        r"'scan\.startup\.mode'\s*=\s*'group-offsets'", "'scan.startup.mode' = 'timestamp', 'scan.startup.timestamp-millis' = '%d'" % (moment_s * 1000), sql
    )


def reads(sql: str) -> dict[str, str]:
    """Table → what of its options says what is read there."""
    found = {}
    for one in statements(sql):
        table = re.match(r"CREATE\s+(?:OR\s+REPLACE\s+)?(?:TEMPORARY\s+)?TABLE\s+(?:IF\s+NOT\s+EXISTS\s+)?([`\w.]+)", one, re.IGNORECASE)
        if table:
            options_of = dict(re.findall(r"'([^']+)'\s*=\s*'((?:[^']|'')*)'", one))
            found[table[1].replace("`", "").split(".")[-1]] = ", ".join(f"{key} {options_of[key]}" for key in READS if key in options_of)
    return found


def shape(plan: dict[str, Any], tables: dict[str, str]) -> list[list[Any]]:
    """What of an execution plan decides whether state fits: the operators in their order, their inputs, what those with state do, and what is read.

    Flink finds state again by the position of its operator; numbers in brackets count statements of a session and say nothing. tables: see reads.
    """
    places = {node["id"]: place for place, node in enumerate(plan["nodes"])}
    found = []
    for node in plan["nodes"]:
        kind = re.sub(r"\[\d+\]", "", node["type"])
        inputs = [[places[one["id"]], one["ship_strategy"]] for one in node.get("predecessors", [])]
        without = kind.split("(")[0].startswith(STATELESS) or kind.endswith((": Writer", ": Committer"))
        does = "" if without else re.sub(r"\[\d+\]", "", node["contents"])
        # A source's state is how far it has read: of what, only the statement says.
        found.append([kind, inputs, tables.get(kind.removeprefix("Source: "), "") if kind.startswith("Source: ") else does])
    return found


def way(old: list[list[Any]], new: list[list[Any]]) -> tuple[str, str]:
    """("savepoint" | "replay", why) from the shapes of two statements."""
    if [one[:2] for one in old] != [one[:2] for one in new]:
        return "replay", "other operators: %s, was %s" % (", ".join(one[0] for one in new), ", ".join(one[0] for one in old))
    for before, after in zip(old, new):
        if before[2] != after[2]:
            return "replay", "the state of another %s: %s, was %s" % (after[0], after[2], before[2])
    return "savepoint", "the same operators, those with state unchanged"


def statements(text: str) -> list[str]:
    """The statements of a SQL file; comments are whole lines, ';' ends a statement at the end of a line.

    A statement set is one statement: from EXECUTE STATEMENT SET to the line END;
    """
    body = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("--"))
    found: list[str] = []
    within = False
    for part in (re.sub(r"\A(\s|/\*.*?\*/)+", "", part, flags=re.DOTALL).rstrip() for part in re.split(r";[ \t]*(?:\n|$)", body)):
        if within:
            found[-1] += "\n" + part + ";"
            within = part.upper() != "END"
        elif part:
            found.append(part)
            if re.match(r"EXECUTE\s+STATEMENT\s+SET\b", part, re.IGNORECASE):
                found[-1] += ";"
                within = True
    return found


def checked(name: str, sql: str) -> list[str]:
    """The statements of a SQL file, exactly one of which starts a job; the others are only made ready for it. Raises Refused.

    Whatever else starts a job would do so when its plan is asked for, too; and a second one would bear the same name.
    """
    found = statements(sql)
    starting = [one for one in found if STARTS.match(one)]
    for one in found:
        head = " ".join(one.split()[:4])
        if one not in starting and (not PREPARES.match(one) or CREATES_AS.match(one)):
            raise Refused(f"{name}.sql: {head!r} is neither INSERT INTO or EXECUTE STATEMENT SET, which start its job, nor CREATE, SET or the like")
        if OURS.match(one):
            raise Refused(f"{name}.sql: {head!r}: by what name a job runs, and from what state, is its keeper's to say; leave it out")
    if len(starting) > 1:
        raise Refused(f"{name}.sql: {len(starting)} statements of it start a job each; put them into one EXECUTE STATEMENT SET")
    if not starting:
        raise Refused(f"{name}.sql: no statement of it starts a job; end it with INSERT INTO")
    return found


def call(method: str, url: str, body: Any = None, timeout_s: float = 20.0) -> Any:
    """One JSON request on loopback. Raises OSError, Refused with the last cause in Flink's own words."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, method=method, headers={"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as answer:
            return json.loads(answer.read() or b"{}")
    except urllib.error.HTTPError as error:
        text = error.read().decode(errors="replace")
        causes = re.findall(r"Caused by: ([^\\\n]+)", text) or [text[:300]]
        said = f"{method} {url}: {error.code}: {causes[-1]}"
        # The gateway wraps in the same way what it could not reach; that says nothing about the statement.
        away = error.code in (502, 503, 504) or AWAY.search(text)
        raise (OSError if away else Refused)(said) from error
    except (http.client.HTTPException, ValueError) as error:
        raise OSError(f"{method} {url}: {error or type(error).__name__}") from error


def running() -> list[Job]:
    """All jobs that the JobManager knows."""
    return [
        Job(job["jid"], job["name"], job["state"], job["start-time"], job["tasks"]["running"] == job["tasks"]["total"] > 0)
        for job in call("GET", REST + "/jobs/overview")["jobs"]
    ]


class Session:
    """A session of the SQL gateway; a context manager."""

    def __init__(self, name: str, properties: dict[str, str]) -> None:
        self.name, self.properties, self.base = name, properties, ""

    def __enter__(self) -> Session:
        handle = call("POST", GATEWAY + "/v3/sessions", {"sessionName": self.name, "properties": self.properties})["sessionHandle"]
        self.base = f"{GATEWAY}/v3/sessions/{handle}"
        return self

    def __exit__(self, *_error: object) -> None:
        call("DELETE", self.base)

    def execute(self, statement: str, sleep: Callable[[float], None] = time.sleep) -> dict[str, Any]:
        """The first page of a statement's result. Raises Refused with Flink's own words, OSError."""
        operation = call("POST", self.base + "/statements", {"statement": statement})["operationHandle"]
        deadline = time.monotonic() + 300
        while (status := call("GET", f"{self.base}/operations/{operation}/status")["status"]) not in ("FINISHED", "ERROR", "CANCELED"):
            if time.monotonic() > deadline:
                raise OSError(f"{self.name}: a statement is still {status} after 300 s")
            sleep(0.2)
        return call("GET", f"{self.base}/operations/{operation}/result/0?rowFormat=JSON")


def client(name: str, jar: dict[str, Any], properties: dict[str, str], start: str | None = None) -> tuple[bool, str]:
    """Runs the main of a program by Flink's own client, which hands over to REST what it builds: whether it did, and what was said. Raises OSError."""
    path = STATE / f"{name}.{jar['jar']}.jar"
    if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != jar["jar"]:
        raise OSError(f"{path} is not there, or another one: deploy it again")
    wanted = [f"-D{key}={value}" for key, value in {**properties, **IN_CODE, "pipeline.name": name}.items()]
    wanted += ["-s", "file://" + start] if start else []
    wanted += ["-c", jar["main"]] if jar.get("main") else []
    wanted += ["-p", str(jar["parallelism"])] if jar.get("parallelism") else []
    command = [RUN, "client", "run", "-d", "-t", "remote", *wanted, str(path), *jar.get("args", [])]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=CLIENT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise OSError(f"{name}: main has not ended after {CLIENT_S:.0f} s") from error
    return done.returncode == 0, done.stdout.decode(errors="replace")


def failed(name: str, said: str) -> OSError | Refused:
    """With the last cause in what the client said: the program's own words, or Flink's."""
    causes = re.findall(r"^Caused by: (.+?)(?=\n\s+(?:at |\.{3} )|\n\n|\Z)", said, re.MULTILINE | re.DOTALL)
    lines = [line for line in said.splitlines() if line.strip() and not line.startswith("\t")]
    why = " ".join((causes or lines or ["it said nothing"])[-1].split())[:500]
    return (OSError if AWAY.search(said) else Refused)(f"{name}: {why}{UNFIT if MISFIT.search(said) else ''}")


def rehearse(name: str, sql: str, session: dict[str, str]) -> None:
    """Runs the main of a jar up to the point where it hands its job over, to a port of which nobody takes it. Raises Refused, OSError."""
    jar = program(sql)
    if not jar:
        return
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        nowhere = {"rest.address": "127.0.0.1", "rest.port": str(nobody.getsockname()[1]), "rest.retry.max-attempts": "0"}
        handed, said = client(name, jar, {**session, **nowhere})
    built = re.search(r"Failed to execute job '(.*)'\.", said)
    if built:
        own_name(name, built[1])
    elif handed:
        raise Refused(f"{name}: the program starts no job")
    else:
        raise failed(name, said)


def own_name(name: str, found: str) -> None:
    """Raises Refused where a program calls its job otherwise."""
    if found != name:
        raise Refused(f"{name}: the program calls its job {found!r} in code: by what name a job runs is its keeper's to say; leave it out of execute()")


def launch(name: str, jar: dict[str, Any], session: dict[str, str], start: str | None) -> str:
    """Submits the job of a jar; returns its id. Raises Refused, OSError."""
    # With an id that is known before: a program that starts a second job is refused by Flink, and what runs of it is stopped.
    job_id = uuid.uuid4().hex
    handed, said = client(name, jar, {**session, "$internal.pipeline.job-id": job_id}, start)
    try:
        if not handed:
            raise failed(name, said)
        own_name(name, call("GET", f"{REST}/jobs/{job_id}")["name"])
    except (OSError, Refused):
        with contextlib.suppress(OSError, Refused):
            cancel(job_id)
        raise
    return job_id


def submit(name: str, sql: str, session: dict[str, str], start: str | None) -> str:
    """Submits one job, a statement through the gateway, from a savepoint or checkpoint; returns its id. Raises Refused, OSError."""
    jar = program(sql)
    if jar:
        return launch(name, jar, session, start)
    properties = dict(session, **{"pipeline.name": name})
    if start:
        properties["execution.state-recovery.path"] = "file://" + start
    wanted = checked(name, sql)
    with Session(name, properties) as gateway:
        job_id = ""
        for statement in wanted:
            job_id = gateway.execute(statement).get("jobID") or job_id
    if not job_id:
        raise Refused(f"{name}.sql: Flink names no job that it started")
    return job_id


def explain(name: str, sql: str, session: dict[str, str]) -> list[list[Any]]:
    """Shape of a statement's plan, of a jar none; starts no job. Raises Refused, OSError."""
    if program(sql):
        return []
    wanted = checked(name, sql)
    with Session(name, dict(session)) as gateway:
        text = ""
        for statement in wanted:
            asked = re.sub(r"^EXECUTE\s+STATEMENT\s+SET\b|^(?=INSERT\b)", _explained, statement, flags=re.IGNORECASE)
            answer = gateway.execute(asked)
            if asked is not statement and asked != statement:
                text = answer["results"]["data"][0]["fields"][0]
    _before, found, plan = text.partition("== Physical Execution Plan ==")
    if not found:
        raise Refused(f"{name}.sql: Flink shows no plan of it")
    return shape(json.loads(plan), reads(sql))


def _explained(match: re.Match[str]) -> str:
    return "EXPLAIN JSON_EXECUTION_PLAN " + ("STATEMENT SET" if match.group() else "")


def wish(job_id: str) -> str:
    """Asks a job to stop with a savepoint; returns the request's id. Raises Refused, OSError."""
    what = {"targetDirectory": f"file://{SAVEPOINTS}/{job_id}", "drain": False, "formatType": "CANONICAL"}
    return str(call("POST", f"{REST}/jobs/{job_id}/stop", what)["request-id"])


def stop(job_id: str, request: str = "", sleep: Callable[[float], None] = time.sleep) -> str:
    """Waits until a job has stopped with a savepoint, as it was asked to or is asked now; returns the savepoint's directory. Raises Refused, OSError."""
    request = request or wish(job_id)
    deadline = time.monotonic() + SAVEPOINT_S
    while True:
        answer = call("GET", f"{REST}/jobs/{job_id}/savepoints/{request}")
        if answer["status"]["id"] == "COMPLETED":
            done = answer["operation"]
            if "location" not in done:
                words = re.findall(r"(?:Caused by: )?([\w.]+(?:Exception|Error)[^\\\n]*)", str(done.get("failure-cause", {}).get("stack-trace", "")))
                raise Refused(f"no savepoint of {job_id}: {words[-1] if words else done}")
            return str(done["location"]).removeprefix("file:")
        if time.monotonic() > deadline:
            raise OSError(f"no savepoint of {job_id} within {SAVEPOINT_S:.0f} s")
        sleep(0.5)


def watch(job: Job) -> tuple[str, str]:
    """("healthy" | "broken" | "", why) of a job that has just started."""
    failed = call("GET", f"{REST}/jobs/{job.id}/exceptions")["exceptionHistory"]["entries"]
    if failed:
        lines = str(failed[0].get("stacktrace", "")).splitlines()
        causes = [line for line in lines if line.startswith("Caused by: ")]
        said = (causes[-1] if causes else lines[0] if lines else str(failed[0].get("exceptionName", "it failed")))[:500]
        return "broken", said + (UNFIT if MISFIT.search("".join(lines)) else "")
    if job.state != "RUNNING" or not job.whole:
        return "", f"{job.state}, not all tasks run"
    done = call("GET", f"{REST}/jobs/{job.id}/checkpoints")["counts"]["completed"]
    return ("healthy" if done >= CHECKPOINTS_WANTED else ""), f"{done} checkpoints completed"


def behind(job_id: str) -> float | None:
    """Records that the Kafka sources of a job have not read yet; None while nobody knows."""
    total, known = 0.0, False
    for vertex in call("GET", f"{REST}/jobs/{job_id}")["vertices"]:
        base = f"{REST}/jobs/{job_id}/vertices/{vertex['id']}/subtasks/metrics"
        names = [one["id"] for one in call("GET", base) if one["id"].endswith(".KafkaConsumer.records-lag-max")]
        if names:
            for one in call("GET", base + "?get=" + urllib.parse.quote(",".join(names))):
                total, known = total + float(one["sum"]), True
    return total if known and total == total else None


class Keeper:
    """The loop's memory of one deployment, on disk so that a restart of this unit changes nothing."""

    def __init__(
        self, config: Path = CONFIG, state: Path = STATE, checkpoints: Path = CHECKPOINTS, savepoints: Path = SAVEPOINTS,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.config, self.state, self.roots, self.now = config, state, [checkpoints, savepoints], now

    def recall(self, name: str) -> dict[str, Any]:
        """{"digest", "sql", "session": of the statement that runs, "job_ids": [str], "upgrade": {"digest", "sql", "session", "way", "why", "phase", "old",
        "new", "start", "since", "position", "asked"} or null, "rejected": {"digest", "why", "at"} or null, "last": {"way", "result", …}, "current": when its
        sources were caught up, "parked": {"job_id", "since", "savepoint", "why"} or null, "started": {"job_id", "from": savepoint or null, "at"} or
        null, "submitting": {"digest", "sql", "session", "from", "at"} of a job whose id is not known yet, or null}. Raises OSError: whoever took a memory
        that cannot be read for none would begin without state.
        """
        empty: dict[str, Any] = {
            "digest": "", "sql": "", "session": None, "job_ids": [], "savepoints": [], "upgrade": None, "rejected": None, "last": None, "current": 0.0,
            "parked": None, "started": None, "submitting": None,
        }
        path = self.state / f"{name}.json"
        try:
            return dict(empty, **json.loads(path.read_text()))
        except FileNotFoundError:
            return empty
        except (ValueError, TypeError) as error:
            raise OSError(f"{path}: {error}; bring it back, or remove it: then the job begins without state") from error

    def remember(self, name: str, memory: dict[str, Any]) -> None:
        """Atomic, so that a kill leaves the old or the new memory."""
        temporary = self.state / f".{name}.json"
        with temporary.open("w") as file:
            file.write(json.dumps(dict(memory, job_ids=memory["job_ids"][-20:])))
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, self.state / f"{name}.json")

    def looked(self, trouble: str) -> None:
        """Leaves word of the last look, for the health check."""
        temporary = self.state / ".keeper.new"
        temporary.write_text(json.dumps({"at": self.now(), "trouble": trouble}))
        os.replace(temporary, self.state / ".keeper")

    def held(self) -> str:
        """The release that is waited for with stopped jobs; empty for none. Raises OSError when the cluster does not say what it runs."""
        try:
            wish = json.loads((self.config / "park").read_text())
            release, until = str(wish["release"]), float(wish["until"])
        except FileNotFoundError:
            return ""
        if self.now() >= until:
            return ""
        # Both: an old gateway would hand its own classes to a new JobManager.
        return release if {call("GET", REST + "/overview")["flink-version"], call("GET", GATEWAY + "/v3/info")["version"]} != {release} else ""

    def park(self, name: str, alive: list[Job]) -> None:
        """Stops a job with a savepoint and leaves it so; a change of its statement that has begun is ended first (see step)."""
        memory = self.recall(name)
        job = max(alive, key=lambda one: one.started_ms) if alive else None
        parked = memory["parked"]
        if job is None or job.state == "CANCELLING":
            return
        if parked is None or parked["job_id"] != job.id:
            parked = memory["parked"] = {"job_id": job.id, "since": self.now(), "savepoint": "", "why": ""}
            self.remember(name, memory)
        try:
            parked["savepoint"] = self._savepoint(name, memory, parked, job)
        except Refused as error:
            if self.now() - parked["since"] < PARK_S:
                raise
            parked["why"] = str(error)
            cancel(job.id)
        say(f"{name} {job.id} is parked: {parked['savepoint'] or 'its newest checkpoint stands in, ' + parked['why']}")
        if parked["savepoint"]:
            memory["savepoints"] = self._kept(memory["savepoints"] + [parked["savepoint"]])
        self.remember(name, memory)

    def _savepoint(self, name: str, memory: dict[str, Any], why: dict[str, Any], job: Job) -> str:
        """Stops a job with a savepoint. Raises OSError, Refused also for one that is not whole.

        It is asked once, however long it takes and however often the keeper dies meanwhile: a second wish breaks the first, and while a job ends by one its
        tasks finish one after the other. A savepoint that is thrown away means that all since the checkpoint before comes twice.
        """
        if not why.get("asked"):
            if job.state != "RUNNING" or not job.whole:
                raise Refused(f"it is {job.state}, not all tasks run")
            why["asked"] = wish(job.id)
            self.remember(name, memory)
        try:
            return stop(job.id, why["asked"])
        except Refused:
            why["asked"] = ""
            self.remember(name, memory)
            raise

    def _kept(self, savepoints: list[str]) -> list[str]:
        """Removes all but the newest ones from disk."""
        for old in savepoints[:-SAVEPOINTS_KEPT]:
            if self.roots[1] in Path(old).parents:
                shutil.rmtree(old, ignore_errors=True)
        return savepoints[-SAVEPOINTS_KEPT:]

    def declaration(self, name: str) -> Path:
        """The file that says what a job is."""
        jar = self.config / f"{name}.job"
        return jar if jar.exists() else self.config / f"{name}.sql"

    def declared(self) -> tuple[dict[str, str], dict[str, str], dict[str, str]]:
        """Session properties, name → statement ('': it is not there yet), name → digest of both."""
        wanted = json.loads((self.config / "jobs.json").read_text())
        names = set(wanted["jobs"]) | {path.stem for path in self.config.glob("*.json") if path.name != "jobs.json"}
        files = {name: self.declaration(name) for name in sorted(names)}
        sql = {name: path.read_text() if path.exists() else "" for name, path in files.items()}
        return wanted["session"], sql, {name: digest(text, wanted["session"]) for name, text in sql.items()}

    def step(self) -> None:
        """One look and what follows from it; a job in trouble does not keep the others waiting."""
        session, sql, digests = self.declared()
        jobs = running()
        for job in undeclared(set(sql), jobs):
            say(f"cancel {job.name} {job.id}: nobody declared it")
            cancel(job.id)
        trouble: list[str] = []
        held = self.held()
        for name in sql:
            alive = [job for job in jobs if job.name == name and job.state in ALIVE]
            try:
                if held and not self.recall(name)["upgrade"]:
                    self.park(name, alive)
                    continue
                self.advance(name, sql[name], digests[name], session, alive)
            except (OSError, Refused) as error:
                trouble.append(f"{name}: {error}")
        if trouble:
            raise OSError("; ".join(trouble))

    def advance(self, name: str, sql: str, wanted: str, session: dict[str, str], alive: list[Job]) -> None:
        """The next step of one job."""
        if not sql:
            raise OSError("it is declared, and neither its statement nor its jar is there yet")
        memory = self.recall(name)
        if memory["digest"] == wanted and not memory["sql"]:
            memory["sql"] = sql
        self._known_again(name, memory, alive)
        rejected = memory["rejected"]
        # Whatever else is declared, the statement that was given up is not asked for any more.
        if rejected and (rejected["digest"] != wanted or self.declaration(name).stat().st_mtime > rejected["at"]):
            memory["rejected"] = None
            self.remember(name, memory)
        upgrade = memory["upgrade"]
        verdict = ("", "")
        if upgrade and upgrade["phase"] == "verifying" and not alive:
            # State that finds no operator ends a job before it begins.
            with contextlib.suppress(OSError, Refused):
                verdict = ("broken", watch(Job(upgrade.get("new", ""), name, "FAILED", 0, False))[1])
        if upgrade and upgrade["phase"] == "verifying" and alive:
            new = next((job for job in alive if job.id == upgrade.get("new", job.id)), None)
            verdict = watch(new) if new else ("broken", "it is gone")
            if not verdict[0] and self.now() - upgrade["since"] > VERIFY_S:
                verdict = ("broken", f"after {VERIFY_S:.0f} s: {verdict[1]}")
        action = decide(wanted, alive, memory, verdict)
        if action.kind == "cancel":
            say(f"cancel {name} {action.job_id}: {action.why}")
            cancel(action.job_id)
        elif action.kind == "upgrade":
            self._begin(name, sql, wanted, session, memory, next((job for job in alive if job.id == action.job_id), None))
        elif action.kind == "stop":
            self._stop(name, memory, next(job for job in alive if job.id == action.job_id))
        elif action.kind == "start":
            self._start(name, sql, wanted, session, memory)
        elif action.kind == "accept":
            self._accept(name, memory, action.job_id)
        elif action.kind == "give_up":
            self._give_up(name, memory, action)
        elif alive and not upgrade and "replay_margin_s" in options(memory["sql"]) and self.now() - memory.get("looked", 0.0) >= LOOK_EVERY_S:
            self._look(memory, alive[-1])
            self.remember(name, memory)

    def _look(self, memory: dict[str, Any], job: Job) -> None:
        """Notes whether its sources are caught up."""
        pending = behind(job.id)
        memory["looked"] = self.now()
        memory["current"] = self.now() if pending is not None and pending <= CAUGHT_UP else memory["current"]

    def _known_again(self, name: str, memory: dict[str, Any], alive: list[Job]) -> None:
        """A kill, or a gateway that went away, came between the cluster's answer and the memory of it."""
        begun, upgrade = memory["submitting"], memory["upgrade"]
        own = [*memory["job_ids"], upgrade.get("new") if upgrade else None]
        if begun and upgrade and upgrade["phase"] == "stopping" and begun["digest"] != upgrade["digest"]:
            begun = None  # The old one was asked for again, in vain, before its statement changed.
        fresh = [job for job in alive if begun and job.id not in own and job.started_ms >= begun["at"] * 1000]
        if fresh:
            self._runs(name, memory, max(fresh, key=lambda job: job.started_ms).id)

    def _begin(self, name: str, sql: str, wanted: str, session: dict[str, str], memory: dict[str, Any], job: Job | None) -> None:
        """Decides the way, notes it, and stops the old job. A statement that Flink does not take is rejected at once; nothing is stopped."""
        try:
            rehearse(name, sql, session)
            how, why = choose(name, memory, sql, session)
        except Refused as error:
            self._refuse(name, wanted, memory, error)
            return
        say(f"upgrade {name} by {how}: {why}")
        if job and not memory["current"]:
            with contextlib.suppress(OSError, Refused):
                self._look(memory, job)
        # position: where the sources stood at least; now if they were caught up a moment ago, else when they last were. 0: nobody knows.
        memory["upgrade"] = {
            "digest": wanted, "sql": sql, "session": session, "way": how, "why": why, "phase": "stopping", "old": job.id if job else "", "start": None,
            "since": self.now(), "position": memory["current"],
        }
        self.remember(name, memory)
        if job:
            self._stop(name, memory, job)

    def _refuse(self, name: str, wanted: str, memory: dict[str, Any], error: Refused) -> None:
        """It is not asked for again."""
        say(f"{name}: what is declared is refused, and what ran goes on: {error}")
        memory["rejected"] = {"digest": wanted, "why": str(error), "at": self.now()}
        memory["last"] = {"way": "none", "result": "refused", "why": str(error), "at": self.now(), "digest": wanted}
        self.remember(name, memory)

    def _stop(self, name: str, memory: dict[str, Any], job: Job) -> None:
        """With a savepoint; a job that is not whole cannot make one, its newest checkpoint is the way on."""
        try:
            say(f"{name} {job.id} stopped with savepoint {self._savepoint(name, memory, memory['upgrade'], job)}")
        except Refused as error:
            say(f"{name} {job.id}: no savepoint ({error}); cancelled, its newest checkpoint stands in")
            cancel(job.id)

    def _start(self, name: str, sql: str, wanted: str, session: dict[str, str], memory: dict[str, Any]) -> None:
        """Submits what is due: the declared statement for the first time, the deployed one again, the new one, or the old one back."""
        upgrade = memory["upgrade"]
        start = newest_state(self.roots, memory["job_ids"])
        if upgrade is None and not memory["digest"]:
            start = None
            try:
                rehearse(name, sql, session)
            except Refused as error:
                self._refuse(name, wanted, memory, error)
                return
        elif upgrade is None or upgrade["phase"] == "returning":
            start = upgrade["start"] if upgrade else start
            wanted, sql, session = memory["digest"], memory["sql"] or sql, session if memory["session"] is None else memory["session"]
        else:
            # Known before anything is asked for: it is the way back.
            upgrade["start"] = start
            wanted, sql, session = upgrade["digest"], upgrade["sql"], upgrade.get("session", session)
            start = None if upgrade["way"] == "replay" else start
        text = sql
        if upgrade and upgrade["phase"] == "stopping" and upgrade["way"] == "replay":
            margin = int(options(sql).get("replay_margin_s", "0"))
            text = from_moment(sql, upgrade["position"] - margin) if margin and upgrade.get("position") else sql
        say(f"submit {name}: {'from ' + start if start else 'without state'}{', from a moment before' if text != sql else ''}")
        # Its id comes with the answer, and a keeper may be killed between the two.
        memory["submitting"] = {"digest": wanted, "sql": sql, "session": session, "from": start, "at": self.now()}
        self.remember(name, memory)
        try:
            job_id = submit(name, text, session, start)
        except Refused as error:
            if not memory["digest"] and program(sql):
                # Each attempt would run for a moment.
                memory["submitting"] = None
                self._refuse(name, wanted, memory, error)
                return
            if not upgrade or upgrade["phase"] == "returning":
                raise
            self._give_up(name, memory, Action("give_up", "", str(error)))
            return
        self._runs(name, memory, job_id)

    def _runs(self, name: str, memory: dict[str, Any], job_id: str) -> None:
        """The job that was asked for is there. A new one belongs to the others, from whose state they all go on, when it is accepted."""
        begun, upgrade = memory["submitting"], memory["upgrade"]
        say(f"{name} runs as {job_id}")
        if upgrade and upgrade["phase"] == "stopping":
            upgrade.update(phase="verifying", since=self.now(), new=job_id)
        else:
            if upgrade:
                memory["last"].update(job_id=job_id)
                shutil.rmtree(self.roots[0] / upgrade.get("new", "none"), ignore_errors=True)
            elif not memory["digest"]:
                memory["last"] = {"way": "deploy", "result": "deployed", "job_id": job_id, "at": self.now(), "digest": begun["digest"]}
            memory["job_ids"].append(job_id)
            memory.update(digest=begun["digest"], sql=begun["sql"], session=begun.get("session"), upgrade=None, parked=None,
                          started={"job_id": job_id, "from": begun["from"], "at": begun["at"]})
        memory["submitting"] = None
        self.remember(name, memory)

    def _accept(self, name: str, memory: dict[str, Any], job_id: str) -> None:
        """The new job stays. Its own checkpoints are enough from here on; older savepoints go, all but the last ones."""
        upgrade = memory["upgrade"]
        say(f"{name}: {job_id} is whole, upgraded by {upgrade['way']}")
        memory["last"] = {"way": upgrade["way"], "why": upgrade["why"], "result": "upgraded", "job_id": job_id, "previous": upgrade["old"],
                          "savepoint": upgrade["start"], "at": self.now(), "digest": upgrade["digest"]}
        for old in memory["job_ids"]:
            if old != job_id:
                shutil.rmtree(self.roots[0] / old, ignore_errors=True)
        savepoints = memory["savepoints"] + [upgrade["start"]] if upgrade["start"] else memory["savepoints"]
        memory.update(
            digest=upgrade["digest"], sql=upgrade["sql"], session=upgrade.get("session"), upgrade=None, rejected=None, job_ids=[job_id],
            savepoints=self._kept(savepoints)
        )
        self.remember(name, memory)
        self._clear(name, memory["sql"])

    def _clear(self, name: str, accepted: str) -> None:
        """Jars of before go: they were the way back. One that came since, or is declared, is to be deployed yet."""
        wanted = [f"{name}.{jar['jar']}.jar" for jar in map(program, (accepted, self.declaration(name).read_text())) if jar]
        if program(accepted):
            since = (self.state / wanted[0]).stat().st_mtime
            for path in self.state.glob("*.jar"):
                if path.name.rsplit(".", 2)[0] == name and path.name not in wanted and path.stat().st_mtime < since:
                    path.unlink()

    def _give_up(self, name: str, memory: dict[str, Any], action: Action) -> None:
        """The new job goes, the old statement comes back from where it stopped."""
        upgrade = memory["upgrade"]
        say(f"{name}: the new statement is not healthy, back to the old one: {action.why}")
        memory["last"] = {"way": upgrade["way"], "why": action.why, "result": "rolled back", "job_id": "", "previous": upgrade["old"],
                          "savepoint": upgrade["start"], "at": self.now(), "digest": upgrade["digest"]}
        memory["rejected"] = {"digest": upgrade["digest"], "why": action.why, "at": self.now()}
        upgrade["phase"] = "returning"
        memory["submitting"] = None
        if not memory["sql"]:
            # A memory from before statements were kept: the new one is all there is, and it is tried again.
            memory.update(digest=upgrade["digest"], sql=upgrade["sql"], session=upgrade.get("session"), upgrade=None, rejected=None,
                          job_ids=[upgrade["new"]] if upgrade.get("new") else [])
            memory["last"]["result"] = "broken, no statement to go back to"
        self.remember(name, memory)
        if action.job_id:
            cancel(action.job_id)


def digest(sql: str, session: dict[str, str]) -> str:
    """Of a statement and the properties that it runs with."""
    return hashlib.sha256(json.dumps([sql, session]).encode()).hexdigest()


def choose(name: str, memory: dict[str, Any], new: str, session: dict[str, str]) -> tuple[str, str]:
    """The way from the statement that runs to another, and why. Raises Refused when Flink does not take the new one, OSError."""
    old = memory["sql"]
    after = explain(name, new, session)
    if options(new).get("upgrade") == "replay":
        return "replay", "the statement asks for it"
    if not old:
        return "replay", "nobody remembers the old statement"
    if program(old) and program(new):
        return "savepoint", "no plan tells whether the state of a jar fits: Flink refuses what does not, and the old one goes on"
    if program(old) or program(new):
        return "replay", "the state of a statement fits no jar, and the other way round"
    try:
        before = explain(name, old, session if memory["session"] is None else memory["session"])
    except Refused as error:
        return "replay", f"the old statement is not taken any more: {error}"
    return way(before, after)


def cancel(job_id: str) -> None:
    """Its retained checkpoints stay."""
    call("PATCH", f"{REST}/jobs/{job_id}?mode=cancel")


def stands_still(keeper: Keeper, name: str) -> str:
    """Why the job of a deployed statement is to be started again; '' where it runs, is held, or the cluster says nothing."""
    try:
        if keeper.held() or any(job.name == name and job.state in ALIVE for job in running()):
            return ""
    except (OSError, Refused):
        return ""
    return "no job of that name runs: it goes on from its newest checkpoint"


def outlook(keeper: Keeper, name: str, sql: str) -> dict[str, Any]:
    """What would become of a statement: {"digest", "way": none | deploy | savepoint | replay | refused | rejected, "why", "job_id"}. Changes nothing.

    rejected: it was given up before, and stays so until its file is written again. Raises OSError.
    """
    session, _sql, _digests = keeper.declared()
    memory = keeper.recall(name)
    wanted = digest(sql, session)
    found = {"digest": wanted, "job_id": memory["job_ids"][-1] if memory["job_ids"] else ""}
    upgrade, rejected = memory["upgrade"], memory["rejected"]
    if upgrade and upgrade["digest"] == wanted and upgrade["phase"] != "returning":
        return dict(found, way=upgrade["way"], why=upgrade["why"])
    if memory["digest"] == wanted:
        why = stands_still(keeper, name)
        return dict(found, way="deploy", why=why) if why else dict(found, way="none", why="this statement is deployed")
    if rejected and rejected["digest"] == wanted:
        return dict(found, way="rejected", why=rejected["why"])
    try:
        if not memory["digest"]:
            explain(name, sql, session)
            return dict(found, way="deploy", why="no job of that name was deployed yet")
        how, why = choose(name, memory, sql, session)
    except Refused as error:
        return dict(found, way="refused", why=str(error))
    return dict(found, way=how, why=why)


def say(text: str) -> None:
    """One line to the journal."""
    print(text, flush=True)


def main(arguments: list[str]) -> int:
    """For ever; an error is said once per kind and tried again: the cluster may just be starting."""
    keeper, last = Keeper(), ""
    if arguments[:1] == ["plan"]:
        print(json.dumps(outlook(keeper, arguments[1], sys.stdin.read())))
        return 0
    while True:
        text = ""
        try:
            keeper.step()
        except (OSError, Refused, ValueError, KeyError) as error:
            text = f"{type(error).__name__}: {error}"
            if text != last:
                say(f"not yet: {text}")
        last = text
        keeper.looked(text)
        time.sleep(PERIOD_S)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
