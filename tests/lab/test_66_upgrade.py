# SPDX-License-Identifier: Apache-2.0
"""Kafka and Flink go to another release and back under load: nothing that was acknowledged is lost, nobody waits for more than 10 s, nothing is counted twice.

Scenario upgrade. A feature level that was raised is not lowered again, and the standing lab has the newest: so the record of truth is made anew by the older
releases first, as a site was before the upgrade. It ends with the releases of the inventory and their levels.
"""
from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count, pairwise
from typing import Any

import pytest
from conftest import Lab, Run
from plant_view import now_ms, until
from test_61_kafka_health import cluster
from test_62_flink import bodies, record, write
from test_62_kafka_roll import TOPIC, UNIT, account, load, stops
from units import restarts

pytestmark = pytest.mark.scenario("upgrade")
OLD = {"kafka_version": "4.2.2", "flink_version": "2.2.0"}
NEW = {"kafka_version": "4.3.1", "flink_version": "2.2.1"}
LEVELS = {"4.2.2": 29, "4.3.1": 30}
DATA, WITNESS = "/var/lib/hnai/kafka/data", "/etc/hnai/kafka.formatted.json"
FLINK_UNITS = ("hnai-flink-jobs", "hnai-flink-gateway", "hnai-flink-taskmanager", "hnai-flink-jobmanager")
RUN_S = 900


def upgrade(lab: Lab, component: str, releases: dict[str, str], *arguments: str) -> Run:
    """The verb, for one component."""
    return lab.play("playbooks/upgrade.yml", "--tags", component, *arguments, extra={f"{component}_version": releases[f"{component}_version"]}, timeout=RUN_S)


def result(run: Run, task: str) -> dict[str, Any]:
    """The first result of a task."""
    return next(event["event_data"]["res"] for event in run.events if event["event_data"].get("task") == task and "res" in event["event_data"])


def reports(lab: Lab, component: str) -> list[dict[str, Any]]:
    """What the runs left, oldest first."""
    return [json.loads(path.read_text()) for path in sorted((lab.state / "upgrades").glob(f"{component}-*.json"))]


def command_lines(lab: Lab, host: str, *units: str) -> str:
    """What the units' processes were started with."""
    code = ("import subprocess, sys, json; found = []\n"
            "for unit in sys.argv[1:]:\n"
            "    pid = subprocess.run(['systemctl', 'show', '-p', 'MainPID', '--value', unit], capture_output=True, text=True, timeout=20).stdout.strip()\n"
            "    found.append(open('/proc/%s/cmdline' % pid).read().replace('\\0', ' '))\n"
            "print(json.dumps(' '.join(found)))")
    return str(lab.python(host, code, *units))


def one_at_a_time(lab: Lab, since_us: int) -> None:
    """Every broker was restarted exactly once, none while another was away."""
    brokers = lab.groups["kafka"]
    happened = restarts(lab, brokers, UNIT, since_us)
    assert sorted(one.host for one in happened) == sorted(brokers), happened
    for first, second in pairwise(happened):
        assert first.end < second.begin, f"two brokers at once: {first}, {second}"


def runs(lab: Lab, release: str) -> None:
    """Every broker's process is of that release."""
    for host, line in lab.each(lab.groups["kafka"], lambda host: command_lines(lab, host, UNIT)).items():
        assert f"/opt/hnai/kafka/{release}/libs/" in line, f"{host}: {line[:300]}"


@pytest.fixture(scope="module")
def old_site() -> Iterator[Lab]:
    """The site in the older releases, its record of truth made by them; afterwards in those of the inventory, with their levels."""
    lab = Lab()
    brokers, flink = lab.groups["kafka"], lab.groups["flink"][0]
    lab.run(flink, "systemctl", "stop", *FLINK_UNITS, timeout=120)
    lab.each(brokers, lambda host: lab.run(host, "systemctl", "stop", UNIT, timeout=180))
    lab.each(brokers, lambda host: lab.run(host, "rm", "-rf", DATA, WITNESS))
    lab.run(flink, "sh", "-c", "cd /var/lib/hnai/flink && rm -rf jobs/* checkpoints/* savepoints/*")
    run = lab.play("site.yml", "--tags", "kafka,flink", "--skip-tags", "verify", extra=OLD, timeout=RUN_S)
    assert run.rc == 0, run.stdout[-3000:]
    yield lab
    for component in ("kafka", "flink"):
        upgrade(lab, component, NEW)
    lab.play("playbooks/kafka_features.yml", timeout=300)
    cluster(lab, "delete", {"name": TOPIC})
    run = lab.play("site.yml", "--tags", "kafka,flink", "--skip-tags", "verify", timeout=RUN_S)
    assert run.rc == 0, run.stdout[-3000:]


def test_kafka_up_and_back_under_load(old_site: Lab) -> None:
    lab, brokers = old_site, old_site.groups["kafka"]
    runs(lab, "4.2.2")
    plan = upgrade(lab, "kafka", NEW, "--check")
    assert plan.rc == 0, plan.stdout[-3000:]
    said = result(plan, "Plan")
    assert (said["direction"], said["begun"], said["due"]) == ("upgrade", False, {"metadata.version": 30})
    assert "until kafka_features raises metadata.version 29 → 30" in said["way_back"]
    names = {"a": brokers[0], "b": brokers[2]}
    try:
        with load(lab, names) as what:
            for releases in (NEW, OLD):
                since = time.time_ns() // 1000
                run = upgrade(lab, "kafka", releases)
                assert run.rc == 0, run.stdout[-4000:]
                one_at_a_time(lab, since)
                runs(lab, releases["kafka_version"])
                left = reports(lab, "kafka")[-1]
                assert (left["release"], left["levels"]["metadata.version"]) == (releases["kafka_version"], 29)
                assert {node["metadata.version"] for node in left["nodes"].values()} == {LEVELS[releases["kafka_version"]]}
        account(lab, names, what)
    finally:
        cluster(lab, "delete", {"name": TOPIC})


def test_a_run_that_was_killed_goes_on_and_a_raised_level_closes_the_way_back(old_site: Lab) -> None:
    lab, brokers = old_site, old_site.groups["kafka"]
    names = {"a": brokers[0], "b": brokers[2]}
    try:
        with load(lab, names) as what:
            # As a run that was killed right after it had come to the first of the others: installed everywhere, one restarted.
            stopped = lab.play("site.yml", "--tags", "kafka", "--skip-tags", "verify", timeout=RUN_S,
                               extra={**NEW, "kafka_roll_timeout_s": 1})
            since = time.time_ns() // 1000
            run = upgrade(lab, "kafka", NEW)
            assert run.rc == 0, run.stdout[-4000:]
            print("first run:", stopped.rc, "restarted by the second:", {host: len(stops(lab, host, since)) for host in brokers})
            runs(lab, "4.3.1")
            again = upgrade(lab, "kafka", NEW)
            assert (again.rc, again.changed()) == (0, [f"{brokers[0]}: Write the report"]), again.stdout[-3000:]
        account(lab, names, what)
    finally:
        cluster(lab, "delete", {"name": TOPIC})
    raised = lab.play("playbooks/kafka_features.yml", timeout=300)
    assert raised.rc == 0, raised.stdout[-3000:]
    since = time.time_ns() // 1000
    refused = upgrade(lab, "kafka", OLD)
    assert refused.rc != 0
    assert "metadata.version is finalized at 30, kafka 4.2.2 reads up to 29" in result(refused, "Plan")["msg"]
    assert [host for host in brokers if stops(lab, host, since)] == []


@contextmanager
def poured(lab: Lab, tag: str) -> Iterator[tuple[list[int], set[int]]]:
    """Numbered records into ot.raw while the body runs; afterwards the acknowledged numbers, and those of which nobody knows: on a machine that is busy
    the client gives a batch up and begins a new epoch, and the broker refuses what it had of the one before (error 47)."""
    done = threading.Event()
    sent: list[int] = []
    doubtful: set[int] = set()
    broken: list[BaseException] = []

    def pour() -> None:
        try:
            for begin in count(0, 100):
                if done.is_set():
                    return
                at, numbers = now_ms(), range(begin, begin + 100)
                try:
                    write(lab, [record(tag, float(number), at + number - begin, number) for number in numbers])
                    sent.extend(numbers)
                except AssertionError as error:
                    if "InvalidProducerEpochError" not in str(error) or len(doubtful) >= 300:
                        raise
                    doubtful.update(numbers)
        except BaseException as error:
            broken.append(error)

    thread = threading.Thread(target=pour)
    thread.start()
    try:
        yield sent, doubtful
    finally:
        done.set()
        thread.join(120)
        assert not broken, broken  # the reason, whatever the body missed


def test_flink_up_and_back_under_load(old_site: Lab) -> None:
    """Each record once in the sink, whatever the release that read it; every job goes on from the savepoint that it was stopped with."""
    lab, host = old_site, old_site.groups["flink"][0]
    begin = now_ms() - 1_000
    tag = f"upgrade_{begin}"
    with poured(lab, tag) as (sent, doubtful):
        until("nothing is sent", lambda: len(sent) >= 300, 60)
        for releases in (NEW, OLD, NEW):
            run = upgrade(lab, "flink", releases)
            assert run.rc == 0, run.stdout[-4000:]
            line = command_lines(lab, host, *FLINK_UNITS[1:])
            assert line.count(f"/opt/hnai/flink/{releases['flink_version']}/lib/") >= 3
            left = reports(lab, "flink")[-1]
            assert set(left["savepoints"]) == {*lab.var(host, "flink_jobs")}
            assert {name: start["from"] for name, start in left["jobs"].items()} == left["savepoints"]

    def arrived() -> list[int]:
        found = [one["seq"] for one in bodies(lab, "ot.normalised", begin) if one["tag"] == tag]
        return found if set(found) >= set(sent) else []

    found = Counter(until("not every record is in the sink", arrived, 120, 5))
    print(f"acknowledged {len(sent)}, in doubt {len(doubtful)}, in the sink {sum(found.values())}")
    assert [number for number in sent if found[number] != 1] == []
    assert not set(found) - set(sent) - doubtful
