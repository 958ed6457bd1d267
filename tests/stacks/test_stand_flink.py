# SPDX-License-Identifier: Apache-2.0
"""Faults of a Flink cluster that the lab's stream cannot have without harm: each turns its own check of H1 to H10, and passes after repair.

A real JobManager, TaskManager and gateway with the role's configuration, started by its own script, and its keeper of the jobs. No Kafka: what the
jobs read are files that a plant of this stand's own writes. Scenario stand-flink.
"""
from __future__ import annotations

import contextlib
import fcntl
import functools
import importlib.util
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import counter
import jinja2
import pytest
import yaml
from kit import ROOT
from plant_view import until
from stands import Asked, Checks, Fault, Judged, artifact, ask, exercise, faults

from ansible_collections.hnai.platform.plugins.module_utils.flink import host as flink_host
from ansible_collections.hnai.platform.plugins.module_utils.flink import job as flink_job
from ansible_collections.hnai.platform.plugins.module_utils.flink.health import NEVER, Host
from ansible_collections.hnai.platform.plugins.modules import flink_health
from ansible_collections.hnai.platform.plugins.plugin_utils import contracts

pytestmark = pytest.mark.scenario("stand-flink")
ROLE = ROOT / "roles/flink"
START_S = 300.0
#: Seconds: how old a watermark and a checkpoint may be, for how long a restart counts. Less than the role's, so that a fault is seen, and over, soon.
LIMITS = {"max_watermark_age": 30.0, "max_checkpoint_age": 40.0, "recent": 20.0}
PORTS = {one["name"]: one["port"] for one in contracts.load("flink")["listens"]}
VALUES = {
    **yaml.safe_load((ROLE / "defaults/main.yml").read_text(encoding="utf-8")),
    "__flink_opens": yaml.safe_load((ROLE / "vars/main.yml").read_text(encoding="utf-8"))["__flink_opens"],
    "flink_jobmanager_memory": "768m", "flink_taskmanager_memory": "1152m", "flink_gateway_heap": "192m", "flink_checkpoint_interval_ms": 2000,
    "flink_jvm_options": ["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"],
}
#: Windows over the event time of what lies in a directory. A record of 0 is one that it does not bear.
CLOCK = """CREATE TABLE events (`n` BIGINT, `ms` BIGINT, `at` AS TO_TIMESTAMP_LTZ(`ms`, 3), WATERMARK FOR `at` AS `at` - INTERVAL '1' SECOND)
WITH ('connector' = 'filesystem', 'path' = '{events}', 'source.monitor-interval' = '1 s', 'format' = 'csv');
CREATE TABLE windows (`end` TIMESTAMP(3), `records` BIGINT, `sum` BIGINT) WITH ('connector' = 'blackhole');
INSERT INTO windows SELECT window_end, COUNT(*), SUM({share} / `n`) FROM TABLE(TUMBLE(TABLE events, DESCRIPTOR(`at`), INTERVAL '1' SECOND))
GROUP BY window_start, window_end;
"""
#: What it counts it says on the TaskManager's standard error, where it waits while nobody listens.
TALKER = """CREATE TABLE numbers (`n` BIGINT) WITH ('connector' = 'datagen', 'rows-per-second' = '5000');
CREATE TABLE said (`n` BIGINT, `times` BIGINT) WITH ('connector' = 'print', 'standard-error' = 'true');
INSERT INTO said SELECT `n`, COUNT(*) FROM numbers GROUP BY `n`;
"""


def free_block(size: int) -> int:
    """The first of as many ports that are free now."""
    while True:
        first = random.SystemRandom().randrange(20000, 30000)
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            for port in range(first, first + size):
                stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            return first


@dataclass
class Stand(Judged):
    """The cluster, its keeper and its plant. *jobs*: those that are declared."""

    home: Path
    jobs: list[str] = field(default_factory=lambda: ["clock"])
    patience_s = 240.0
    settles = True

    def __post_init__(self) -> None:
        first = free_block(len(PORTS))
        self.ports = {name: first + place for place, name in enumerate(PORTS)}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.extra: dict[str, Any] = {}
        self.listening = threading.Event()
        self.listening.set()
        self.plant = Plant(self.home / "events")

    @functools.cached_property
    def keeper(self) -> Any:
        """The keeper's program, of which one asks a question by hand."""
        spec = importlib.util.spec_from_file_location("flink_keeper", self.home / "keeper.py")
        assert spec is not None and spec.loader is not None
        sys.modules["flink_keeper"] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    # -- making it ----------------------------------------------------------------------------------------------------

    def make(self) -> Stand:
        """Starts everything; the declared job runs."""
        for name in ("etc/conf", "etc/jobs", "state/jobs", "state/checkpoints", "state/savepoints", "state/tmp", "events"):
            (self.home / name).mkdir(parents=True)
        release = artifact("flink", VALUES["flink_version"], self.home)
        for source, target in (("etc/hnai/flink/conf/config.yaml.j2", "etc/conf/config.yaml"),
                               ("etc/hnai/flink/conf/log4j-console.properties", "etc/conf/log4j-console.properties"),
                               ("etc/hnai/flink/jobs/jobs.json.j2", "etc/jobs/jobs.json"), ("usr/local/lib/hnai/flink/run.j2", "run"),
                               ("usr/local/lib/hnai/flink/jobs.py", "keeper.py")):
            text = (ROLE / "tree" / source).read_text(encoding="utf-8")
            if source.endswith(".j2"):
                environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, autoescape=False)
                environment.filters["to_json"] = json.dumps
                text = environment.from_string(text).render({**VALUES, "flink_jobs": self.jobs, "__flink_ports": self.ports})
            for there, here in (("/etc/hnai/flink", "etc"), ("/var/lib/hnai/flink", "state"), (f"/opt/hnai/flink/{VALUES['flink_version']}", release)):
                text = text.replace(there, str(self.home / here))
            text = text.replace("/usr/local/lib/hnai/flink/run", str(self.home / "run"))
            for name in ("rest", "gateway"):
                text = text.replace(f"127.0.0.1:{PORTS[name]}", f"127.0.0.1:{self.ports[name]}")
            (self.home / target).write_text(text, encoding="utf-8")
        (self.home / "run").chmod(0o755)
        self.declare("clock", CLOCK.format(events=self.plant.folder, share=100))
        for part in ("jobmanager", "gateway", "taskmanager"):
            self.start(part)
        self.plant.start()
        self.wait()
        self.keep()
        until("the job is not whole", lambda: self.checkpoints("clock"), START_S, 2)
        return self

    def start(self, part: str) -> None:
        """As its unit does. It ends with the test, however that ends."""
        with (self.home / f"{part}.log").open("ab") as log:
            self.processes[part] = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "/bin/sh", str(self.home / "run"), part], stdout=log,
                stderr=subprocess.PIPE if part == "taskmanager" else log)
        if part == "taskmanager":
            pipe = self.processes[part].stderr
            assert pipe is not None
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, 4096)
            threading.Thread(target=self._listen, args=(pipe,), daemon=True).start()

    def keep(self) -> None:
        """As its unit does."""
        with (self.home / "keeper.log").open("ab") as log:
            self.processes["keeper"] = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", sys.executable, "-I", str(self.home / "keeper.py")], stdout=log, stderr=log)

    def _listen(self, pipe: Any) -> None:
        while self.listening.wait() and os.read(pipe.fileno(), 4096):
            pass

    def wait(self) -> None:
        """Until every part answers; seldom asked, they need the time for themselves."""
        until("Flink is not there", self._there, START_S, 2)

    def _there(self) -> bool:
        dead = [part for part, process in self.processes.items() if process.poll() is not None]
        assert not dead, [(self.home / f"{part}.log").read_text(encoding="utf-8")[-3000:] for part in dead]
        with contextlib.suppress(OSError):
            self.keeper.call("GET", self.keeper.GATEWAY + "/v3/info")
            return bool(self.ask("/overview")["taskmanagers"])
        return False

    def close(self) -> None:
        """Nothing of it runs on."""
        self.plant.stop()
        for process in self.processes.values():
            process.kill()
            process.wait(30)

    # -- asking it ----------------------------------------------------------------------------------------------------

    def ask(self, path: str) -> Any:
        """REST's answer."""
        return flink_health.rest("127.0.0.1", self.ports["rest"])(path, 20.0)

    def alive(self, name: str) -> list[Mapping[str, Any]]:
        """Jobs of a name that are not gone."""
        return [one for one in self.ask("/jobs/overview")["jobs"] if one["name"] == name and one["state"] in ("RUNNING", "RESTARTING")]

    def checkpoints(self, name: str) -> int:
        """How many its only job has completed; 0 for none that runs."""
        jobs = self.alive(name)
        return int(self.ask(f"/jobs/{jobs[0]['jid']}/checkpoints")["counts"]["completed"]) if len(jobs) == 1 else 0

    def memory(self, name: str) -> dict[str, Any]:
        """What the keeper remembers."""
        found: dict[str, Any] = json.loads((self.home / f"state/jobs/{name}.json").read_text(encoding="utf-8"))
        return found

    def judge(self) -> Checks:
        """tasks/verify.yml."""
        asked = {"port": self.ports["rest"], "gateway_port": self.ports["gateway"], "jobs": self.jobs, "collect": True, **LIMITS, **self.extra}
        # ZooKeeper is not declared here.
        return [one for one in ask(flink_health, asked, this_host=self._host)["checks"] if one.get("subject") != "ZooKeeper"]

    def _host(self, gateway: int) -> Host:
        """The role's, with the places and ports of this stand."""
        real = flink_host.this_host(gateway, str(self.home / "state/jobs"))
        contract = {port: port if name in ("rest", "gateway") else PORTS[name] for name, port in self.ports.items()}
        return replace(
            real, unit=lambda _name: "active" if self.processes["keeper"].poll() is None else "failed",
            checkpoints=str(self.home / "state/checkpoints"),
            listeners=lambda: [(address, contract[port]) for address, port in real.listeners() if port in contract], own=self.opened)

    def opened(self) -> list[tuple[str, int]]:
        """What this stand's processes listen on: they have no user of their own."""
        inodes = set()
        for process in self.processes.values():
            with contextlib.suppress(FileNotFoundError):  # It was killed.
                inodes |= {os.readlink(one) for one in Path("/proc", str(process.pid), "fd").iterdir()}
        found = []
        for name, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
            head, *lines = Path("/proc/net", name).read_text(encoding="ascii").splitlines()
            mine = [line for line in lines if f"socket:[{line.split()[9]}]" in inodes]
            found += flink_host.parse_listeners("\n".join([head, *mine]), family)
        return found

    # -- what is done to it -------------------------------------------------------------------------------------------

    def declare(self, name: str, sql: str) -> None:
        """What flink_job leaves for the keeper."""
        (self.home / f"etc/jobs/{name}.sql").write_text(sql, encoding="utf-8")
        if name != "clock":
            (self.home / f"etc/jobs/{name}.json").write_text("{}", encoding="utf-8")

    def jar(self, version: str, first: str = "", uid: str = "count") -> str:
        """A version of the counter; its sha256, by which it is declared."""
        made = counter.build(self.home / version, self.home / VALUES["flink_version"] / "lib", version, first, uid)
        assert flink_job.main_class(str(made)) == "Counter"
        sha256 = flink_job.sha256_of(str(made))
        made.rename(self.home / sha256)
        return sha256

    def declare_jar(self, sha256: str, *args: str) -> None:
        """What flink_job leaves for the keeper."""
        shutil.copyfile(self.home / sha256, self.home / f"state/jobs/counter.{sha256}.jar")
        declaration = flink_job.program(sha256, None, [str(self.home / "counted"), *args], None, None)
        (self.home / "etc/jobs/counter.job").write_text(declaration, encoding="utf-8")
        (self.home / "etc/jobs/counter.json").write_text("{}", encoding="utf-8")

    def forget(self, name: str) -> None:
        """The keeper cancels what nobody declares."""
        for kind in ("json", "sql", "job"):
            (self.home / f"etc/jobs/{name}.{kind}").unlink(missing_ok=True)
        until(f"{name} does not go", lambda: not self.alive(name), 60)
        (self.home / f"state/jobs/{name}.json").unlink(missing_ok=True)

    def submit(self, name: str, **session: str) -> str:
        """A job that the keeper knows nothing of; its id."""
        known, sql, _digests = self.keeper.Keeper().declared()
        return str(self.keeper.submit(name, sql[name], {**known, **session}, None))

    def cancel(self, job_id: str) -> None:
        """Until it is gone."""
        self.keeper.cancel(job_id)
        until("it is not cancelled", lambda: self.ask(f"/jobs/{job_id}")["state"] == "CANCELED", 60)

    def kill(self, part: str) -> None:
        """As the kernel does."""
        self.processes[part].kill()
        self.processes[part].wait(30)

    def restart(self, part: str) -> None:
        """As its unit does after a kill."""
        self.kill(part)
        self.start(part)
        self.wait()

    @contextmanager
    def frozen(self, part: str) -> Iterator[None]:
        """It stands still; its unit is as active as ever."""
        self.processes[part].send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.processes[part].send_signal(signal.SIGCONT)


class Plant:
    """Each second a record with the time of now, in a file of its own. *shift*: seconds ahead; *quiet*: none; *numbers*: what it says next."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.quiet, self._over, self._count = folder, False, threading.Event(), 0
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        if self._thread.is_alive():
            self._thread.join(10)

    def _run(self) -> None:
        while not self._over.wait(1.0):
            if not self.quiet:
                self.say(1)

    def say(self, number: int, ahead_s: float = 0.0) -> Path:
        """One record. Readers see a whole file or none."""
        self._count += 1
        path = self.folder / f"{self._count:06}-{number}.csv"
        hidden = self.folder / f".{path.name}"
        hidden.write_text(f"{number},{int((time.time() + ahead_s) * 1000)}\n", encoding="ascii")
        hidden.rename(path)
        return path


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    made = Stand(tmp_path_factory.mktemp("flink"))
    try:
        yield made.make()
    finally:
        made.close()


# -- event time ---------------------------------------------------------------------------------------------------------
@contextmanager
def the_source_is_silent(stand: Stand) -> Iterator[None]:
    """It is not idle for Flink: its event time stands still, and so do its windows."""
    stand.plant.quiet = True
    try:
        yield
    finally:
        stand.plant.quiet = False


@contextmanager
def a_day_ahead(stand: Stand) -> Iterator[None]:
    """One record of tomorrow: whatever comes until then is late, and dropped. A job that starts anew reads its old files again, without that one."""
    path = stand.plant.say(1, 86400.0)
    try:
        yield
    finally:
        path.unlink()
        stand.cancel(stand.alive("clock")[0]["jid"])


# -- jobs and their state -----------------------------------------------------------------------------------------------
@contextmanager
def the_statement_breaks(stand: Stand) -> Iterator[None]:
    """A record that it does not bear is read again after each restart."""
    path = stand.plant.say(0)
    try:
        yield
    finally:
        path.write_text(path.read_text(encoding="ascii").replace("0,", "1,", 1), encoding="ascii")


@contextmanager
def checkpoints_cannot_be_written(stand: Stand) -> Iterator[None]:
    """What stands in the place of the job's directory is none."""
    folder = stand.home / "state/checkpoints" / stand.alive("clock")[0]["jid"]
    folder.rename(folder.with_suffix(".away"))
    folder.touch()
    try:
        yield
    finally:
        folder.unlink()
        folder.with_suffix(".away").rename(folder)


@contextmanager
def by_hand(stand: Stand, **session: str) -> Iterator[None]:
    """Somebody submits the declared statement himself, with settings of his own, while the keeper looks away."""
    with stand.frozen("keeper"):
        stand.cancel(stand.alive("clock")[0]["jid"])
        mine = stand.submit("clock", **session)
        try:
            yield
        finally:
            stand.cancel(mine)


def no_checkpoints(stand: Stand) -> AbstractContextManager[None]:
    return by_hand(stand, **{"execution.checkpointing.interval": f"{NEVER} ms"})


def checkpoints_go_with_the_job(stand: Stand) -> AbstractContextManager[None]:
    return by_hand(stand, **{"execution.checkpointing.externalized-checkpoint-retention": "DELETE_ON_CANCELLATION"})


def checkpoints_lie_elsewhere(stand: Stand) -> AbstractContextManager[None]:
    """A disk was short of room."""
    return by_hand(stand, **{"execution.checkpointing.dir": f"file://{stand.home}/state/tmp"})


@contextmanager
def another_statement(stand: Stand) -> Iterator[None]:
    """Somebody tries out another one under the same name, and leaves it: everything runs."""
    with stand.frozen("keeper"):
        stand.cancel(stand.alive("clock")[0]["jid"])
        known, _sql, _digests = stand.keeper.Keeper().declared()
        mine = str(stand.keeper.submit("clock", CLOCK.format(events=stand.plant.folder, share=7), known, None))
    until("it is not whole", lambda: stand.checkpoints("clock"), 120)
    try:
        yield
    finally:
        stand.cancel(mine)


@contextmanager
def twice(stand: Stand) -> Iterator[None]:
    """The same statement once more: everything is written twice."""
    with stand.frozen("keeper"):
        second = stand.submit("clock")
        try:
            yield
        finally:
            stand.cancel(second)


@contextmanager
def finished(stand: Stand) -> Iterator[None]:
    """Stopped with a savepoint: no failure, and nothing that runs."""
    with stand.frozen("keeper"):
        job = stand.alive("clock")[0]["jid"]
        stand.keeper.stop(job)
        yield


@contextmanager
def down_for_good(stand: Stand) -> Iterator[None]:
    """It was cancelled, and somebody made room on the disk: it would begin without its state."""
    kept = [stand.home / "state" / kind for kind in ("checkpoints", "savepoints")]
    with stand.frozen("keeper"):
        stand.cancel(stand.alive("clock")[0]["jid"])
        for folder in kept:
            folder.rename(folder.with_suffix(".away"))
            folder.mkdir()
        try:
            yield
        finally:
            for folder in kept:
                folder.rmdir()
                folder.with_suffix(".away").rename(folder)


@contextmanager
def the_sink_waits(stand: Stand) -> Iterator[None]:
    """Who writes is held up, and who writes to him."""
    stand.jobs.append("talker")
    stand.declare("talker", TALKER)
    until("it does not run", lambda: stand.checkpoints("talker"), 60)
    stand.listening.clear()
    try:
        yield
    finally:
        stand.listening.set()
        stand.jobs.remove("talker")
        stand.forget("talker")


# -- processes ----------------------------------------------------------------------------------------------------------
@contextmanager
def the_gateway_hangs(stand: Stand) -> Iterator[None]:
    """All jobs run; one that is lost would stay so."""
    stand.extra = {"call_timeout": 3.0}
    with stand.frozen("gateway"):
        yield
    stand.extra = {}


@contextmanager
def the_keeper_can_do_nothing(stand: Stand) -> Iterator[None]:
    """It looks every few seconds, and what it must look for is not there."""
    path = stand.home / "etc/jobs/jobs.json"
    text = path.read_text(encoding="utf-8")
    path.write_text(text[:-3], encoding="utf-8")
    try:
        yield
    finally:
        path.write_text(text, encoding="utf-8")


@contextmanager
def a_debugger_listens(stand: Stand) -> Iterator[None]:
    """Somebody looked for a fault, and what he opened stayed open: whoever reaches it runs code."""
    file = stand.home / "run"
    text, gateway = file.read_text(encoding="utf-8"), "\ngateway)\n"
    head, tail = text.split(gateway)
    agent = f"exec java -agentlib:jdwp=transport=dt_socket,server=y,suspend=n,address=*:{free_block(1)}"
    file.write_text(head + gateway + tail.replace("exec java", agent, 1), encoding="utf-8")
    try:
        stand.restart("gateway")
        yield
    finally:
        file.write_text(text, encoding="utf-8")
        stand.restart("gateway")


@contextmanager
def half_open(stand: Stand) -> Iterator[None]:
    """The JobManager accepts, and never answers."""
    stand.extra = {"deadline": 8.0, "call_timeout": 5.0}
    with stand.frozen("jobmanager"):
        yield
    stand.extra = {}


@contextmanager
def a_job_list_without_jobs(stand: Stand) -> Iterator[None]:
    """A JobManager that was started again has forgotten them, and nobody brings them back."""
    with stand.frozen("keeper"):
        stand.restart("jobmanager")
        yield


@contextmanager
def the_task_manager_was_killed(stand: Stand) -> Iterator[None]:
    """For some seconds all is well that the JobManager tells."""
    stand.kill("taskmanager")
    try:
        yield
    finally:
        stand.start("taskmanager")
        stand.wait()


@faults(
    Fault(the_source_is_silent, {"H7": r"\Afail clock: \d+\.\d\Z"}),
    Fault(a_day_ahead, {"H7": r"\Afail clock: .*ahead"}),
    Fault(the_statement_breaks, {"H5": "^fail clock: ", "H8": "^fail clock: .*by zero"}, "H3 H4 H6 H7 H9"),
    Fault(checkpoints_cannot_be_written, {"H4": "^fail clock: the last one failed"}, "H9"),
    Fault(no_checkpoints, {"H4": "^fail clock: the job was submitted without checkpoints"}, "H3 H9"),
    Fault(checkpoints_go_with_the_job, {"H9": "^fail checkpoints: clock: is thrown away with the job"}, "H3"),
    Fault(checkpoints_lie_elsewhere, {"H9": r"^fail checkpoints: clock: file:\S+/state/tmp/\S+ is not where the keeper looks for it"}, "H3 H4"),
    Fault(another_statement, {"H3": r"^fail clock: job \w+ was not started by the keeper \(its own is \w+\)"}),
    Fault(twice, {"H3": "^fail clock: RUNNING 2/2 tasks, RUNNING 2/2 tasks"}),
    Fault(finished, {"H3": "^fail clock: none"}),
    Fault(down_for_good, {"H3": "^fail clock: none", "H9": "^fail checkpoints: clock: it is down, and nothing that it could go on from lies on disk"}),
    Fault(the_sink_waits, {"H6": "^fail talker: held up: Source"}, "H4"),
    Fault(a_debugger_listens, {"H10": r"^fail : :::\d+, web-submit off$"}),
    Fault(the_keeper_can_do_nothing, {"H9": "^fail keeper: it looks and can do nothing: JSONDecodeError"}),
    Fault(a_job_list_without_jobs, {"H3": "^fail clock: none"}),
    Fault(the_task_manager_was_killed, {"H2": "^fail : 0", "H3": "^fail clock: "}, "H4 H5 H6 H7 H8 H9"),
)
def test_a_fault_fails_its_own_check_and_passes_after_repair(stand: Stand, fault: Fault) -> None:
    exercise(stand, fault)


@faults(
    Fault(the_gateway_hangs, {"H9": "^inconclusive gateway: .*timed out"}),
    Fault(half_open, {"H1": "^inconclusive : .*timed out"}, unknown="H2 H3 H9 H10"),
)
def test_who_never_answers_is_known_to_nobody_and_passes_after_repair(stand: Stand, fault: Fault) -> None:
    exercise(Asked(stand.judge, stand.patience_s), fault, stand)


def test_a_changed_statement_goes_on_from_a_savepoint_that_another_release_can_read(stand: Stand) -> None:
    """And the verdict has nothing to say about it."""
    old = stand.alive("clock")[0]["jid"]
    stand.declare("clock", CLOCK.format(events=stand.plant.folder, share=50))

    def upgraded() -> dict[str, Any]:
        last = stand.memory("clock")["last"] or {}
        return last if last.get("result") == "upgraded" else {}

    last = until("it is not upgraded", upgraded, 180)
    told = stand.ask(f"/jobs/{old}/checkpoints")["latest"]["savepoint"]
    assert (last["way"], last["previous"], f"file:{last['savepoint']}") == ("savepoint", old, told["external_path"])
    assert told["savepointFormat"] == "CANONICAL"
    stand.verdict("it is not well", stand.bad)


def test_a_jar_goes_on_from_its_savepoint_and_back_to_the_old_one_by_itself(stand: Stand) -> None:
    """Its counter shows that nothing is lost and nothing comes twice: it has counted all that it has read."""

    def settled(result: str, words: str = "") -> dict[str, Any]:
        def last() -> dict[str, Any]:
            with contextlib.suppress(OSError):
                memory = stand.memory("counter")
                found = memory["last"] or {}
                if found.get("result") == result and not memory["upgrade"] and words in found.get("why", ""):
                    return found
            return {}

        return dict(until(f"it is not {result}", last, 240, 1))

    def counts(version: str, more_than: int) -> int:
        """How far this version has come."""

        def read() -> int:
            with contextlib.suppress(FileNotFoundError):
                return counter.counted((stand.home / "counted").read_text(encoding="ascii"), version, more_than)
            return 0

        return int(until(f"{version} does not count", read, 120, 0.2))

    first, second, third = stand.jar("first"), stand.jar("second"), stand.jar("third", 'if (value > 0) throw new IllegalStateException("third never works");')
    kept = stand.home / "state/jobs"
    try:
        stand.declare_jar(first, "mine")
        settled("refused", "the program calls its job 'mine' in code")
        assert "mine" not in {one["name"] for one in stand.ask("/jobs/overview")["jobs"]}, "known before anything runs"
        stand.declare_jar(first, "counter", "counter")
        settled("refused", "Job has already been submitted")
        until("the first of two goes on", lambda: not stand.alive("counter"), 60)
        stand.declare_jar(first)
        settled("deployed")
        far = counts("first", 20)
        stand.declare_jar(second)
        upgraded = settled("upgraded")
        assert (upgraded["way"], bool(upgraded["savepoint"])) == ("savepoint", True)
        far = counts("second", far)
        assert not (kept / f"counter.{first}.jar").exists(), "the way back is not needed any more"
        stand.declare_jar(third)
        back = settled("rolled back", "third never works")
        counts("second", far)
        stand.declare_jar(stand.jar("fourth", uid="another"))
        back = settled("rolled back", "say '-- keeper: upgrade=replay' in the statement, 'upgrade: replay' of a jar")
        assert "Failed to rollback to checkpoint/savepoint" in back["why"]
        far = counts("second", far)
        memory = stand.memory("counter")
        assert memory["started"]["from"] == back["savepoint"]
        assert flink_job.sha256_of(str(kept / f"counter.{second}.jar")) == second
        assert len(stand.alive("counter")) == 1
    finally:
        stand.forget("counter")
