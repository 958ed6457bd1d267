# SPDX-License-Identifier: Apache-2.0
"""A broker's disk is lost: the site refuses to format it again, the verb replaces it under load, and nothing that was acknowledged is lost.

Scenario broker-replace. Then a replacement is interrupted three times, the last time between the removal of the old voter and the addition of the new one;
and two of three brokers are stopped, which is named, and over when they are started again with their disks.
"""
from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from conftest import Lab, Run
from killing import chance, kill_a_run
from plant_view import until
from test_61_kafka_health import DATA, cluster, ids, systemctl, verdict, whole
from test_62_kafka_roll import TOPIC, UNIT, account, load, stops

pytestmark = pytest.mark.scenario("broker-replace")
PLAYBOOK = "playbooks/kafka_replace.yml"
MARKER = "/etc/hnai/kafka.replacing.json"
RUN_S = 900
SEED = 67


def verb(lab: Lab, host: str, *arguments: str, **extra: Any) -> Run:
    """The verb, for one broker."""
    return lab.play(PLAYBOOK, *arguments, extra={"replace": host, **extra}, timeout=RUN_S)


def said(run: Run, task: str, host: str) -> dict[str, Any]:
    """What a task said of a host."""
    return next(event["event_data"]["res"] for event in run.events
                if event["event_data"].get("task") == task and event["event_data"].get("host") == host and "res" in event["event_data"])


def refusals(run: Run) -> str:
    """What failed tasks said."""
    return " ".join(str(event["event_data"]["res"].get("msg", "")) for event in run.events if event["event"] == "runner_on_failed")


def voters(lab: Lab, asked: str) -> dict[int, str]:
    """Node → directory id of every voter."""
    return {int(node): directory for node, directory in cluster(lab, "voters", host=asked).items()}


def directory(lab: Lab, host: str) -> str:
    """The id in the log directory."""
    return lab.run(host, "sed", "-n", "s/^directory.id=//p", f"{DATA}/meta.properties").stdout.strip()


def there(lab: Lab, host: str, path: str) -> bool:
    """Whether a host has a file."""
    return lab.run(host, "test", "-e", path, check=False).returncode == 0


def lose(lab: Lab, host: str) -> None:
    """The broker stands still and its disk is empty."""
    systemctl(lab, host, "stop", UNIT)
    lab.run(host, "rm", "-rf", DATA)


def replaced(lab: Lab, host: str, before: dict[int, str]) -> None:
    """The host is a voter by a directory that was none before; the others are as they were."""
    node, now = lab.var(host, "kafka_node_id"), voters(lab, lab.groups["kafka"][0])
    assert now == {**before, node: directory(lab, host)}, (before, now)
    assert now[node] != before[node]
    assert not there(lab, host, MARKER)


@pytest.fixture
def repaired(lab: Lab) -> Any:
    """Whatever came of a test: everything runs, and the last broker has a disk again."""
    yield
    brokers = lab.groups["kafka"]
    lab.each(brokers, lambda host: lab.run(host, "systemctl", "start", UNIT, check=False))
    if not there(lab, brokers[2], f"{DATA}/meta.properties") or there(lab, brokers[2], MARKER):
        lab.run(brokers[2], "systemctl", "stop", UNIT, timeout=240)
        verb(lab, brokers[2])
    cluster(lab, "delete", {"name": TOPIC})


@pytest.mark.usefixtures("repaired")
def test_a_lost_disk_is_refused_by_the_site_and_replaced_by_the_verb_under_load(lab: Lab) -> None:
    brokers = lab.groups["kafka"]
    host, names = brokers[2], {"a": brokers[0], "b": brokers[1]}
    before = voters(lab, brokers[0])
    with load(lab, names) as what:
        since = time.time_ns() // 1000
        lose(lab, host)
        site = lab.play("site.yml", "--tags", "kafka", "--skip-tags", "verify", timeout=RUN_S)
        assert site.rc != 0, "an empty directory was formatted"
        assert f"kafka_replace -e replace={host}" in said(site, "Format the log directory", host)["msg"]
        assert not there(lab, host, DATA)

        for wrong, word in ((brokers[1], f"{brokers[1]} has its data"), ("plc1", "name one host of the group kafka")):
            run = verb(lab, wrong)
            assert run.rc != 0
            assert word in refusals(run), run.stdout[-2000:]
            assert run.changed() == []

        plan = verb(lab, host, "--check")
        assert plan.rc == 0, plan.stdout[-4000:]
        assert [step.split()[0] for step in said(plan, "Plan", host)["steps"]] == ["format", "start", "remove", "add", "wait", "judge"]
        assert voters(lab, brokers[0]) == before
        assert not there(lab, host, DATA)
        assert not there(lab, host, MARKER)

        run = verb(lab, host)
        assert run.rc == 0, run.stdout[-4000:]
        replaced(lab, host, before)
        again = verb(lab, host)
        assert again.rc != 0
        assert f"{host} has its data" in said(again, "Plan", host)["msg"]
        assert [one for one in brokers[:2] if stops(lab, one, since)] == [], "a healthy broker was touched"
    account(lab, names, what)
    whole(lab)


#: For Kafka's own tool on a broker's host, which removes a voter as the verb would.
CLIENT = """security.protocol=SSL
ssl.keystore.type=PEM
ssl.keystore.location=/etc/hnai/kafka/tls/keystore.pem
ssl.truststore.type=PEM
ssl.truststore.location=/etc/hnai/kafka/tls/ca.pem
"""


def remove_voter(lab: Lab, asked: str, node: int, old: str) -> None:
    """By Kafka's own tool."""
    file = "/run/hnai-test-client.properties"
    lab.run(asked, "tee", file, stdin=CLIENT)
    try:
        lab.run(asked, "java", "-Xmx96m", "-XX:TieredStopAtLevel=1", "-cp", "/opt/hnai/kafka/current/libs/*", "org.apache.kafka.tools.MetadataQuorumCommand",
                "--bootstrap-server", f"{asked}:9091", "--command-config", file, "remove-controller", "--controller-id", str(node),
                "--controller-directory-id", old, timeout=120)
    finally:
        lab.run(asked, "rm", "-f", file)


@pytest.mark.usefixtures("repaired")
def test_a_replacement_that_was_interrupted_goes_on(lab: Lab, tmp_path: Path) -> None:
    brokers = lab.groups["kafka"]
    host, asked = brokers[2], brokers[0]
    node, before = lab.var(host, "kafka_node_id"), voters(lab, asked)
    lose(lab, host)

    # The controller is killed while the directory is formatted, or shortly before or after.
    seed, draw = chance(SEED)
    argv = ["-i", str(lab.inventory), PLAYBOOK, "-e", f"replace={host}"]
    later = draw.uniform(0.0, 6.0)
    kill_a_run(argv, tmp_path / "killed", lambda text: "Format the log directory" in text, later)
    until("the storage tool goes on for ever", lambda: lab.run(host, "pgrep", "-f", "[k]afka.tools.StorageTool", check=False).returncode != 0, 90)
    assert there(lab, host, MARKER)
    print(f"seed {seed}: killed {later:.1f} s after the format began, formatted: {there(lab, host, DATA)}")

    # The next one is killed when the broker runs on its new disk and is about to take the old one's place.
    kill_a_run(argv, tmp_path / "again", lambda text: "Take the old disk's place in the quorum" in text, 0.0)
    new = directory(lab, host)
    assert there(lab, host, MARKER)
    if voters(lab, asked) == before:
        # As if it had been killed between its two requests to the quorum.
        remove_voter(lab, asked, node, before[node])
        until("the old voter is still there", lambda: set(voters(lab, asked)) == set(before) - {node}, 30)
    run = verb(lab, host)
    assert run.rc == 0, run.stdout[-4000:]
    replaced(lab, host, before)
    assert directory(lab, host) == new, "it was formatted a second time"
    whole(lab)


@pytest.mark.usefixtures("repaired")
def test_two_of_three_brokers_are_lost_and_come_back_with_their_disks(lab: Lab) -> None:
    """The drill of docs/runbooks/kafka-quorum-loss.md, as far as nothing has to be given up."""
    brokers = lab.groups["kafka"]
    lost, names = brokers[1:], {"a": brokers[0], "b": brokers[1]}
    before = voters(lab, brokers[0])
    with load(lab, names) as what:
        time.sleep(20)
    lab.each(lost, lambda host: systemctl(lab, host, "kill", "--signal=KILL", UNIT))
    lab.each(lost, lambda host: systemctl(lab, host, "stop", UNIT))

    # The quorum is not judged by what the broker that is left remembers.
    def named() -> bool:
        found = verdict(lab)
        return ids(found, "pass").isdisjoint({"Q1", "Q2", "Q3", "Q4", "Q5", "Q6"}) and "B1" in ids(found, "fail") | ids(found, "inconclusive")

    until("the loss of the quorum is not named", named, 120, 2)
    refused = verb(lab, lost[1])
    assert refused.rc != 0
    assert "kafka-quorum-loss.md" in said(refused, "Plan", lost[1])["msg"]

    lab.each(lost, lambda host: systemctl(lab, host, "start", UNIT))
    whole(lab)
    assert voters(lab, brokers[0]) == before
    account(lab, names, what)
