# SPDX-License-Identifier: Apache-2.0
"""A password is rotated while the plant's stream flows, and the controller is killed in the middle of it.

The next run goes on: one new version, the journal closed, the old password refused, no sample lost. Every run takes Kafka's SCRAM user of the
writer; also an MQTT identity of the shipper and of the bridge, the writer's password at the store, and a rollback. HNAI_SEED repeats the moment
of the kill. At the end the certificate of a listener, killed in between too.
"""
from __future__ import annotations

import json
import os
import random
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, Lab
from journals import compare, marks, once, unmarked
from killing import chance, kill_a_run
from opened import opened
from plant_view import journal, now_ms, source, stored, until

pytestmark = pytest.mark.scenario("rotate")
SEED = 8
RUN_S = 300
LATER_S = 3.0
#: Longest gap in front of the collector that its own credentials may cost.
GAP_MS = 15_000
#: Where the controller may die, as it shows in the output, and up to so many seconds later.
MOMENTS = (
    "Take the secret",
    "Make the new one valid beside the old one and prove it",
    "Publish the new value, or the old one again",
    "Converge the consumers",
    "Say which value they live on",
    "Count the acknowledgements and decide",
    "End what is over and prove it",
)


@dataclass(frozen=True)
class Case:
    """One secret: its path, how its name shows that it was rotated, and the stream that must not lose anything."""

    path: str
    field: str
    stream: str
    device: str


WRITER = Case("telegraf/kafka_writer", "mechanism", "plc1", "opcua")
SHIPPER = Case("telegraf/mqtt_shipper", "username", "plc1", "opcua")
BRIDGE = Case("telegraf/mqtt_bridge", "username", "line1", "line")
STORE = Case("victoriametrics/writer", "slot", "plc1", "opcua")
#: Its users have other names in turn: the old one is removed.
PAIR = Case("flink/kafka", "username", "plc1", "opcua")
CASES = [WRITER, SHIPPER, BRIDGE, STORE]


def argv(lab: Lab, case: Case, **extra: str) -> list[str]:
    """The rotation as an operator starts it."""
    values = {"rotate_secret": case.path, "rotate_reason": "request", **extra}
    return ["-i", str(lab.inventory), "playbooks/rotate.yml", "-e", json.dumps(values)]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONUNBUFFERED": "1", "ANSIBLE_NOCOLOR": "1", "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")}


def rotate(lab: Lab, case: Case, **extra: str) -> str:
    """A run that must succeed; its output."""
    command = [str(ROOT / ".venv/bin/ansible-playbook"), *argv(lab, case, **extra)]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=RUN_S, check=False)
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout


def kill(lab: Lab, case: Case, output: Path, task: str, later_s: float, begins: bool = False) -> None:
    """Starts a rotation and kills its controller, *later_s* after a task began."""
    heading = re.compile(rf"TASK \[(\S+ : )?{re.escape(task)}\]")
    kill_a_run(argv(lab, case), output, lambda said: bool(heading.search(said)), later_s, begins=begins)


def looked(lab: Lab, case: Case) -> dict[str, Any]:
    """{rotation, version, plan} as a dry run sees it."""
    run = lab.play("playbooks/rotate.yml", "--check", extra={"rotate_secret": case.path}, timeout=RUN_S)
    assert run.rc == 0, run.stdout[-3000:]
    name = "Look at the journals and ages"
    found = [event["event_data"]["res"] for event in run.events if event["event"] == "runner_on_ok" and event["event_data"]["task"] == name]
    return dict(found[0]["results"][0])


@pytest.mark.parametrize("case", CASES, ids=[case.path for case in CASES])
def test_a_killed_rotation_is_finished_by_the_next_run(lab: Lab, tmp_path: Path, case: Case) -> None:
    seed, _draw = chance(SEED)
    draw = random.Random(f"{seed} {case.path}")
    task, later_s = draw.choice(MOMENTS), draw.uniform(0, LATER_S)
    print(f"HNAI_SEED={seed}: killed {later_s:.1f} s after {task!r} began")
    start = now_ms()
    killed = tmp_path / "killed.log"
    kill(lab, case, killed, task, later_s)
    rotate(lab, case)
    print(f"{(now_ms() - start) / 1000:.0f} s for both runs")
    found = looked(lab, case)
    last = found["rotation"]["last"]
    assert not found["rotation"]["open"], "the journal is not closed"
    assert last["outcome"] == "rotated"
    assert last["at"] * 1000 > start
    assert {key for key, value in last["proof"].items() if value is True} >= {"new_works", "wrong_refused", "old_refused", "no_old_session"}
    assert found["version"] == last["version"]
    assert last["version"] == last["old_version"] + 1, "not exactly one new version"
    end = now_ms()
    until("nothing flows after the rotation", lambda: now_ms() - end > 40_000, 60, 1)
    tags = source(lab, case.stream)["tags"]
    # At least once (data-path.md): what a restarted writer had stored and not committed yet it writes again, and the store shows it once.
    store, again = once(stored(lab, [case.stream], start, end + 5_000)[case.stream])
    print(f"{again} samples written again with the same value")
    account = compare(journal(lab, case.device, start, end), tags, store, start, end)
    print(account.text())
    assert account.samples, "the plant produced nothing"
    assert not (account.twice or account.wrong), account.text()
    if case is not SHIPPER:
        assert account.whole, account.text()
        return
    # A restarted shipper connects to the plant anew: what the plant produced meanwhile is lost in front of it, marked, and not for long.
    assert not unmarked(account.missing_at, store.values)
    said = {f"{name}:status {mark}" for name in (tag["name"] for tag in tags) for mark in marks(store.values, name)}
    assert {text.split(": ")[0] for text in account.foreign} <= said, account.text()
    for name, lost in account.missing_at.items():
        print(f"{name}: {(max(lost) - min(lost)) / 1000:.1f} s lost")
        assert max(lost) - min(lost) <= GAP_MS, name


def test_a_rollback_restores_the_old_value_in_one_run(lab: Lab, tmp_path: Path) -> None:
    # Half a second later a quick machine has committed, and what is committed only goes forward.
    kill(lab, WRITER, tmp_path / "killed.log", "Say which value they live on", 0, begins=True)
    was = looked(lab, WRITER)["rotation"]
    held = lab.play("playbooks/rotate.yml", extra={"rotate_secret": WRITER.path, "mode": "verify"})
    assert held.rc != 0 and f"run {was['run_id']} is open, at {was['state']}" in " ".join(held.stdout.split()), held.stdout[-2000:]
    assert looked(lab, WRITER)["rotation"] == was, "it only looks"
    rotate(lab, WRITER, rotate_rollback=was["run_id"])
    held = lab.play("playbooks/rotate.yml", extra={"rotate_secret": WRITER.path, "mode": "verify"})
    assert held.rc == 0 and "each of 1 works at its target" in " ".join(held.stdout.split()), held.stdout[-2000:]
    host, credential = lab.groups["telegraf_writer"][0], "/etc/credstore.encrypted/hnai-telegraf.kafka_writer"
    since = lab.run(host, "stat", "-c", "@%Y", credential).stdout.strip()
    try:
        lab.run(host, "touch", credential)
        held = lab.play("playbooks/rotate.yml", extra={"rotate_secret": WRITER.path, "mode": "verify"})
        assert held.rc != 0 and f"a unit not started since: {host}" in " ".join(held.stdout.split()), held.stdout[-2000:]
    finally:
        lab.run(host, "touch", "-d", since, credential)
    now = looked(lab, WRITER)["rotation"]
    assert not now["open"]
    assert now["last"]["outcome"] == "rolled back"
    assert now["last"]["fingerprint"] == was["fp_old"]


def test_a_broker_that_restarts_after_a_rotation_knows_its_clients(lab: Lab) -> None:
    """What was proven lived in the brokers' memory; what a restart brings back is read from the metadata log (module_utils/kafka/users.py)."""
    rotate(lab, PAIR)
    lab.run(lab.groups["kafka"][0], "systemctl", "restart", "hnai-kafka.service", timeout=180)
    until("the brokers are not all well (S8: one forgot its clients)", lambda: lab.play("playbooks/verify.yml", "--tags", "kafka", timeout=120).rc == 0, 150, 2)


def test_of_two_controllers_one_advances(lab: Lab, tmp_path: Path) -> None:
    """The second stops with a message that says who works on it, and the first ends as if it were alone."""
    before = looked(lab, WRITER)["version"]
    command = [str(ROOT / ".venv/bin/ansible-playbook"), *argv(lab, WRITER)]
    output = tmp_path / "first.log"
    with output.open("wb") as stream, subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=stream, stderr=subprocess.STDOUT) as first:
        try:
            until("the first does not take the secret", lambda: f"TASK [{MOMENTS[1]}]" in output.read_text(encoding="utf-8"), RUN_S, 0.2)
            second = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=RUN_S, check=False)
            assert first.wait(RUN_S) == 0, output.read_text(encoding="utf-8")[-4000:]
        finally:
            first.kill()
    assert second.returncode != 0
    assert "Another controller works on it until" in " ".join(second.stdout.split())
    found = looked(lab, WRITER)
    assert not found["rotation"]["open"]
    assert found["version"] == before + 1


LEAF_MOMENTS = ("Make a key and ask for a certificate", "Let OpenBao sign it", "Put it in place", "Run the unit", "See what is served, from here")


def test_a_killed_rotation_of_a_certificate_is_finished_by_the_next_run(lab: Lab, tmp_path: Path) -> None:
    """The broker of the lines: a new key and serial on its port, the journal on the host closed, no certificate left beside."""
    case = Case("tls/mosquitto", "", "line1", "line")
    before = served(lab)
    seed, _draw = chance(SEED)
    draw = random.Random(f"{seed} {case.path}")
    task, later_s = draw.choice(LEAF_MOMENTS), draw.uniform(0, LATER_S)
    print(f"HNAI_SEED={seed}: killed {later_s:.1f} s after {task!r} began")
    kill(lab, case, tmp_path / "killed.log", task, later_s)
    rotate(lab, case)
    after = served(lab)
    assert after != before
    noted = json.loads(lab.run("edge1", "cat", "/var/lib/hnai/rotation/tls+mosquitto.json").stdout)
    assert not noted["open"]
    assert int(noted["last"]["new"], 16) == int(after, 16)
    assert noted["last"]["proof"] == {"new_served": True, "old_not_served": True}
    assert len(noted["last"]["served"]) == 2, "seen from the host and from a client's"
    assert not lab.run("edge1", "ls", "/var/lib/hnai/rotation/tls+mosquitto").stdout, "a key was left beside"


def served(lab: Lab) -> str:
    """Serial on the broker's port, as openssl reads it on its host."""
    pem = lab.run("edge1", "openssl", "s_client", "-connect", "edge1:8883", "-CAfile", "/etc/hnai/mosquitto/tls/ca.pem").stdout
    return lab.run("edge1", "openssl", "x509", "-noout", "-serial", stdin=pem).stdout.strip().split("=")[1].lower().lstrip("0")


def lives(lab: Lab) -> dict[str, str]:
    """{host: which life each unit of ours lives}."""
    ask = "systemctl show --property=Id,InvocationID,NRestarts 'hnai-*.service'"
    return lab.each(lab.groups["managed"], lambda host: "" if host == lab.groups["openbao"][0] else lab.run(host, "sh", "-c", ask).stdout)


@contextmanager
def sealed(lab: Lab) -> Iterator[None]:
    """OpenBao after a restart; the lab's keys open it again."""
    lab.run(lab.groups["openbao"][0], "systemctl", "restart", "hnai-openbao.service", timeout=120)
    try:
        yield
    finally:
        opened = lab.play("site.yml", "--tags", "openbao", "--skip-tags", "verify", timeout=RUN_S)
        assert opened.rc == 0, opened.stdout[-3000:]


@contextmanager
def dark(lab: Lab) -> Iterator[None]:
    """Nothing passes the router to OpenBao's host, established connections included."""
    router, there = lab.groups["routers"][0], lab.var(lab.groups["openbao"][0], "hnai_addresses")
    with (opened(lab, router, "forward", "ip", "daddr", there["v4"], verdict="drop"),
          opened(lab, router, "forward", "ip6", "daddr", there["v6"], verdict="drop")):
        yield


@pytest.mark.parametrize(("without", "midway", "words"), [
    (sealed, False, ("OpenBao is sealed", "remedy: ")), (sealed, True, ("OpenBao ", "remedy: ")),
    (dark, False, ("sec1", "UNREACHABLE", "remedy: ")), (dark, True, ("sec1: the host ", "remedy: ")),
])  # fmt: skip
def test_without_openbao_nothing_stops_and_the_run_says_so(
    lab: Lab, tmp_path: Path, without: Callable[[Lab], AbstractContextManager[None]], midway: bool, words: tuple[str, ...],
) -> None:  # fmt: skip
    """The clients live on what they have. When it is back the same run goes to its end."""
    before, version, start = lives(lab), looked(lab, WRITER)["version"], now_ms()
    output = tmp_path / "run.log"
    with ExitStack() as away:
        if not midway:
            away.enter_context(without(lab))
        command = [str(ROOT / ".venv/bin/ansible-playbook"), *argv(lab, WRITER)]
        with output.open("wb") as stream, subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=stream, stderr=subprocess.STDOUT) as run:
            try:
                if midway:
                    until("it has not begun", lambda: f"TASK [{MOMENTS[1]}]" in output.read_text(encoding="utf-8"), RUN_S, 0.2)
                    away.enter_context(without(lab))
                assert run.wait(RUN_S) != 0
            finally:
                run.kill()
        said = " ".join(output.read_text(encoding="utf-8").split())
        assert all(word in said for word in words) and "declare the secret in a contract" not in said, said[-4000:]
        assert lives(lab) == before, "a unit was restarted"
        ended = now_ms()
        until("nothing flows meanwhile", lambda: now_ms() - ended > 20_000, 60, 1)
        tags, end = source(lab, WRITER.stream)["tags"], now_ms() - 8_000
        store = stored(lab, [WRITER.stream], start, end + 5_000)[WRITER.stream]
        account = compare(journal(lab, WRITER.device, start, end), tags, store, start, end)
        assert account.samples and account.whole, account.text()
    rotate(lab, WRITER)
    found = looked(lab, WRITER)
    assert not found["rotation"]["open"] and found["version"] == version + 1
