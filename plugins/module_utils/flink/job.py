# SPDX-License-Identifier: Apache-2.0
"""A Flink job, a SQL statement or a jar, as data: declared by a file, carried out by the keeper alone.

The keeper (roles/flink, jobs.py) is the only one that submits, stops and cancels jobs, so that a name never runs twice. What is here
declares a statement, asks the keeper beforehand which way it would go, and waits until it says what came of it.
"""
from __future__ import annotations

import hashlib
import json
import os
import re
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ansible_collections.hnai.platform.plugins.module_utils.flink.health import Get, first_line

#: Ways by which a statement reaches the cluster; of the others the first needs nothing, the last two will not come about.
ACTING = ("deploy", "savepoint", "replay")
#: So often a job fails that was never deployed before until it is said: what it needs may only be starting.
FAILURES = 3
CALL_S = 10.0


class JobError(Exception):
    """What keeps a job from being deployed; the text says what to do."""


@dataclass(frozen=True)
class Plan:
    """What would become of a statement. way: none, deploy, savepoint, replay, refused (Flink does not take it), rejected (given up before)."""

    way: str
    why: str
    digest: str = ""
    job_id: str = ""

    @property
    def acts(self) -> bool:
        """Whether a job would be started."""
        return self.way in ACTING

    @property
    def gone(self) -> bool:
        """Whether the statement is deployed already and its job is to be started again."""
        return self.way == "deploy" and bool(self.job_id)


@dataclass(frozen=True)
class Outcome:
    """What became of it."""

    result: str
    way: str
    why: str
    job_id: str
    previous_job_id: str
    savepoint: str

    @property
    def rolled_back(self) -> bool:
        """Whether the old statement runs again."""
        return self.result == "rolled back"


def digest(sql: str, session: Mapping[str, str]) -> str:
    """Of a statement and the properties that it runs with, as the keeper makes it."""
    return hashlib.sha256(json.dumps([sql, session]).encode()).hexdigest()


def sha256_of(path: str) -> str:
    """Of a file, '' where it is not there. Raises OSError."""
    try:
        with open(path, "rb") as file:
            return hashlib.sha256(file.read()).hexdigest()
    except FileNotFoundError:
        return ""


def main_class(path: str) -> str:
    """What the manifest of a jar says to run, '' for nothing. Raises JobError, OSError."""
    try:
        with zipfile.ZipFile(path) as jar:
            # A line of a manifest goes on in the next one that begins with a space.
            manifest = re.sub("\r?\n ", "", jar.read("META-INF/MANIFEST.MF").decode("utf-8", "replace"))
    except (zipfile.BadZipFile, KeyError) as error:
        raise JobError("%s is no jar: %s" % (path, error)) from error
    found = re.search(r"^(?:program-class|Main-Class): *(\S+)", manifest, re.MULTILINE)
    return found[1] if found else ""


def program(sha256: str, main: str | None, args: list[str] | None, parallelism: int | None, upgrade: str | None) -> str:
    """What declares a jar to the keeper. Raises JobError."""
    if main and not re.fullmatch(r"[\w$]+(\.[\w$]+)*", main):
        raise JobError("main: %r is no name of a class" % main)
    said = {"jar": sha256, "main": main, "args": args, "parallelism": parallelism, "upgrade": upgrade if upgrade == "replay" else None}
    return json.dumps({key: value for key, value in said.items() if value}, sort_keys=True) + "\n"


def parse_plan(text: str) -> Plan:
    """The keeper's answer. Raises JobError."""
    try:
        found = json.loads(text)
        return Plan(str(found["way"]), str(found["why"]), str(found["digest"]), str(found["job_id"]))
    except (ValueError, KeyError, TypeError) as error:
        raise JobError("the keeper's plan cannot be read (%s): %s" % (error, text[:300])) from error


def refuse(plan: Plan, mode: str, retry: bool) -> str:
    """Why this plan must not be carried out, '' if it may. mode: auto or savepoint."""
    if plan.way == "refused":
        return "Flink does not take the statement: %s" % plan.why
    if plan.way == "rejected" and not retry:
        return "this statement was given up before and is not tried again: %s. Change it, or set retry" % plan.why
    if plan.way == "replay" and mode == "savepoint":
        return "upgrade_mode is savepoint, and the state does not fit: %s. Nothing was touched" % plan.why
    return ""


def outcome(memory: Mapping[str, Any], digest: str) -> Outcome | None:
    """What the keeper's memory says about a statement; None while it is not settled."""
    last = memory.get("last") or {}
    if memory.get("upgrade"):
        return None
    settled = memory.get("digest") == digest or (memory.get("rejected") or {}).get("digest") == digest
    if not settled or (last.get("result") == "rolled back" and not last.get("job_id")):
        return None
    if last.get("digest") != digest:
        last = {"result": "deployed"}
    ids = memory.get("job_ids") or [""]
    return Outcome(
        result=str(last.get("result", "")), way=str(last.get("way", "none")), why=str(last.get("why", "")), job_id=str(ids[-1]),
        previous_job_id=str(last.get("previous") or ""), savepoint=str(last.get("savepoint") or ""),
    )


def wait(
    recall: Callable[[], Mapping[str, Any]], status: Callable[[], Mapping[str, Any]], digest: str, timeout_s: float,
    clock: Callable[[], float], sleep: Callable[[float], None], since: float = 0.0, gone: str = "",
) -> Outcome:
    """Waits for the keeper. since: a rejection before that moment (epoch s) is not an answer. gone: a job that runs no more, so that what has this
    id is not an answer either. Raises JobError after timeout_s."""
    end = clock() + timeout_s
    while True:
        memory = recall()
        rejected = memory.get("rejected") or {}
        if rejected.get("digest") != digest or float(rejected.get("at", 0.0)) >= since:
            found = outcome(memory, digest)
            if found is not None and (not gone or found.job_id != gone):
                return found
        if clock() >= end:
            upgrade = memory.get("upgrade") or {}
            where = "the upgrade by %s is %s" % (upgrade.get("way"), upgrade.get("phase")) if upgrade else "the keeper has not begun"
            try:
                trouble = str(status().get("trouble") or "no trouble")
            except OSError as error:
                trouble = str(error)
            raise JobError("after %.0f s %s; it says: %s; look at 'journalctl -u hnai-flink-jobs'" % (timeout_s, where, trouble))
        sleep(2.0)


def works(
    recall: Callable[[], Mapping[str, Any]], get: Get, timeout_s: float, clock: Callable[[], float], sleep: Callable[[float], None],
) -> None:
    """Waits until the first job of a name shows that it works: all its tasks run, and it has completed a checkpoint since it last failed. There is nothing
    to go back to, so the keeper tries on. Raises JobError."""
    end = clock() + timeout_s
    failures: set[tuple[str, int]] = set()
    while True:
        job_id = str((recall().get("job_ids") or [""])[-1])
        try:
            here: Mapping[str, Any] = next((one for one in get("/jobs/overview", CALL_S)["jobs"] if one["jid"] == job_id), {"state": "not there"})
            failed = get("/jobs/%s/exceptions" % job_id, CALL_S)["exceptionHistory"]["entries"]
            done = get("/jobs/%s/checkpoints" % job_id, CALL_S)["latest"]["completed"]
        except (OSError, KeyError) as error:
            why = str(error)
        else:
            failures |= {(job_id, int(one["timestamp"])) for one in failed}
            why = first_line(failed[0]) if failed else "it is %s, and has completed no checkpoint" % here["state"]
            whole = here["state"] == "RUNNING" and here["tasks"]["running"] == here["tasks"]["total"] > 0
            if whole and done and done["trigger_timestamp"] > max((one["timestamp"] for one in failed), default=0):
                return
        if len(failures) >= FAILURES or clock() >= end:
            raise JobError("deployed as %s, and does not work: %s. The keeper tries on: change the statement, or take it away (state: absent)" % (job_id, why))
        sleep(2.0)


def write(path: str, content: str | bytes, owner: tuple[int, int]) -> None:
    """Atomic; owner: uid, gid. Raises OSError."""
    temporary = "%s.%d.new" % (path, os.getpid())  # Another run may write, too.
    with open(temporary, "wb") as file:
        file.write(content.encode("utf-8") if isinstance(content, str) else content)
    os.chown(temporary, *owner)
    os.chmod(temporary, 0o640)
    os.replace(temporary, path)


def parked(names: Mapping[str, Mapping[str, Any]], alive: set[str]) -> tuple[dict[str, str], list[str]]:
    """(job → what it goes on from, jobs that are not stopped yet). names: job → the keeper's memory; alive: names that Flink still works on.

    A job that could make no savepoint goes on from its newest checkpoint; one that never ran has nothing to go on from.
    """
    starts: dict[str, str] = {}
    waits: list[str] = []
    for name, memory in sorted(names.items()):
        ids = memory.get("job_ids") or []
        stopped = memory.get("parked") or {}
        if name in alive or (ids and stopped.get("job_id") != ids[-1]):
            waits.append(name)
        elif ids:
            starts[name] = str(stopped.get("savepoint") or "its newest checkpoint")
    return starts, waits
