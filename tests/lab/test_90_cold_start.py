# SPDX-License-Identifier: Apache-2.0
"""The site comes back by itself: after all hosts were killed at once, and after the plant's network and server were away and are not as before.

Scenario cold-start. Nobody runs a playbook that changes anything until the data path is green; OpenBao stays sealed until a person runs its play.
The order in which the hosts start follows from a seed (killing.py).
"""
from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest
from conftest import Lab
from journals import compare, marks, once
from killing import chance
from plant_view import collector, journal, now_ms, source, stored, until
from test_50_faults import OPCUA, control, flowing_since, lab_ip, restarted_with, settled, systemctl, veth
from test_70_outage import recovered

pytestmark = pytest.mark.scenario("cold-start")
SEED = 90
GREEN_S = 300
FLOWS_AGAIN_S = 60
CUT_S = 120
#: The collector notes every 5 s how far it came: its gap begins there.
NOTED_MS = 10_000
SHIPPER = "hnai-telegraf-shipper.service"
#: Foreign namespaces before ours, and a mapped node that is not there any more.
GONE = "w05_motor_current"
JOBS = """
import json, urllib.request
with urllib.request.urlopen("http://127.0.0.1:8081/jobs/overview", timeout=20) as answer:
    print(json.dumps(sorted(job["name"] for job in json.load(answer)["jobs"] if job["state"] == "RUNNING")))
"""


def states(lab: Lab, hosts: list[str]) -> list[str]:
    """What podman says of the hosts, in their order."""
    return lab.podman("inspect", "--format", "{{.State.Status}}", *map(lab.container, hosts)).stdout.split()


def jobs(lab: Lab) -> list[str]:
    """Names of Flink's jobs that run."""
    return lab.python(lab.groups["flink"][0], JOBS)


def record(lab: Lab) -> dict[str, Any]:
    """The newest verdict."""
    path = lab.state / "verdicts/latest/record.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"run_id": ""}


def unseal(lab: Lab) -> None:
    """The verb that a person runs."""
    run = lab.play("site.yml", "--tags", "openbao", "--skip-tags", "verify", timeout=300)
    assert run.rc == 0, run.stdout[-4000:]


@pytest.fixture
def whole_again(lab: Lab) -> Iterator[list[str]]:
    """All hosts of the lab. Afterwards each runs and OpenBao is open, whatever came of the test."""
    hosts = [*lab.groups["managed"], *lab.groups["ot_devices"]]
    yield hosts
    down = [host for host, state in zip(hosts, states(lab, hosts), strict=True) if state != "running"]
    for host in down:
        lab.podman("start", lab.container(host), timeout=120)
    if down or any(problem["id"] == "BAO01" for problem in record(lab).get("problems", ())):
        until("OpenBao cannot be opened", lambda: lab.play("site.yml", "--tags", "openbao", "--skip-tags", "verify", timeout=300).rc == 0, 300, 5)


def in_the_store(lab: Lab, since: int) -> bool:
    """An operator sees a canary that is younger than *since*; hosts that do not answer yet show nothing."""
    try:
        return bool(stored(lab, ["plc1"], since, now_ms())["plc1"].values.get("canary_sequence"))
    except (AssertionError, subprocess.TimeoutExpired, ValueError):
        return False


def green(lab: Lab) -> bool:
    """Every check passes but for those of OpenBao, which is named as sealed."""
    before = record(lab)["run_id"]
    run = lab.play("playbooks/verify.yml", timeout=240)
    found = record(lab)
    if found["run_id"] == before:
        print(run.stdout[-1500:])
        return False
    others = [f"{p['component']} {p['host']} {p['id']} {p['subject']} {p['why']}" for p in found["problems"] if p["component"] != "openbao"]
    sealed = [p for p in found["problems"] if (p["id"], p["why"]) == ("BAO01", "fail")]
    print(time.strftime("%H:%M:%S"), f"{len(others)} checks are not well yet:", "; ".join(others[:8]))
    return bool(sealed) and not others


def gap_reported(lab: Lab, killed: int, up: int, end: int) -> None:
    """Each cyclic tag of the wells has a mark of its gap, and everything that is missing lies behind the mark and in front of the first new sample."""
    tags = source(lab, "plc1")["tags"]
    # What the writer repeats after a kill of the store is there twice, and every query shows it once.
    values, again = once(stored(lab, ["plc1"], killed - 60_000, end)["plc1"])
    account = compare(journal(lab, "opcua", killed - 60_000, end), tags, values, killed - 60_000, end)
    lost = sum(map(len, account.missing_at.values()))
    print(f"OPC UA, from a minute before the kill until all is green: {account.samples} samples, {lost} of them not in the store, {again} again")
    print(account.text())
    assert not account.wrong and not account.twice, account.text()
    unsaid, outside = [], []
    for tag in tags:
        name, every = tag["name"], marks(values.values, tag["name"])
        samples = set(values.values.get(f"{name}:status", {})) - set(every)
        last = max((ms for ms in samples if ms < up), default=0)  # 0: a sensor that was silent anyway
        first = min((ms for ms in samples if ms > up), default=end)
        said = [ms for ms in every if last - NOTED_MS <= ms < up]
        if tag["kind"] == "cyclic" and last and not said:
            unsaid.append(name)
        outside += [f"{name} {ms}" for ms in account.missing_at.get(name, ()) if not said or not min(said) - 1 <= ms < first]
    assert not unsaid, f"no gap is reported of {unsaid[:5]}"
    assert not outside, f"{len(outside)} samples are missing outside the reported gap: {outside[:5]}"


def test_all_hosts_killed_at_once_start_in_any_order_with_openbao_sealed(lab: Lab, whole_again: list[str]) -> None:
    seed, draw = chance(SEED)
    order = draw.sample(whole_again, len(whole_again))
    pauses = [draw.uniform(0.0, 3.0) for _ in order]
    print(f"HNAI_SEED={seed}: {', '.join(f'{host} (then {pause:.1f} s)' for host, pause in zip(order, pauses, strict=True))}")
    before = jobs(lab)
    assert before, "no job of Flink runs"
    killed = now_ms()
    lab.podman("kill", "--signal", "KILL", *map(lab.container, whole_again), timeout=60)
    until("a host survived", lambda: not {"running", "stopping"} & set(states(lab, whole_again)), 30)
    # The client's shared connection to the jump died with it, and need not have noticed.
    subprocess.run(["ssh", "-F", str(lab.state / "ssh/config"), "-O", "exit", lab.groups["jump"][0]], check=False, capture_output=True, timeout=20)
    for host, pause in zip(order, pauses, strict=True):
        lab.podman("start", lab.container(host), timeout=120)
        time.sleep(pause)  # part of the random order
    up, begin = now_ms(), time.monotonic()
    until("no new value in the store", lambda: in_the_store(lab, up), GREEN_S, 5)
    print(f"an operator sees new values {time.monotonic() - begin:.0f} s after the last host was started")
    until("the data path is not green", lambda: green(lab), GREEN_S - (time.monotonic() - begin), 5)
    print(f"green {time.monotonic() - begin:.0f} s after the last host was started, OpenBao sealed, and nobody ran a playbook")
    assert jobs(lab) == before, "each job once, as before"
    end = now_ms()
    settled(lab, end)
    gap_reported(lab, killed, up, end)
    unseal(lab)
    recovered(lab)


def fresh(lab: Lab, up: int) -> tuple[set[str], dict[str, float]]:
    """(tags of the wells that have spoken since *up*, seconds from *up* to the first of their samples that the store holds)."""
    end = up + FLOWS_AGAIN_S * 1000
    values = stored(lab, ["plc1"], up, end)["plc1"].values
    produced = {line["tag"] for line in journal(lab, "opcua", up, end - 5_000)}
    first = {name: min(set(values.get(f"{name}:status", {})) - set(marks(values, name)), default=0) for name in produced}
    return produced, {name: (ms - up) / 1000 for name, ms in first.items() if ms}


@pytest.mark.parametrize("changed", [False, True], ids=["the server stays as it is", "the server restarts, renumbers and loses a node"])
def test_a_plant_that_was_cut_off_flows_again_untouched(lab: Lab, changed: bool) -> None:
    edge, link = lab.groups["ot_collector"][0], veth(lab, "plc1")
    tags = {tag["name"]: tag for tag in source(lab, "plc1")["tags"]}
    gone = {GONE} if changed else set()
    until("the plant is not connected", lambda: {collector(lab)[name]["state"] for name in ("plc1", "sep1")} == {"connected"}, 60)
    invocation = lab.run(edge, "systemctl", "show", "--property=InvocationID,NRestarts", SHIPPER).stdout
    try:
        begin = time.monotonic()
        try:
            lab_ip("link", "set", link, "down")
            if changed:
                time.sleep(CUT_S / 2)  # the fault
                restarted_with(lab, {"extra_namespaces": 2, "absent_nodes": [tags[GONE]["node"].rsplit(";s=", 1)[1]]})
            time.sleep(max(0.0, begin + CUT_S - time.monotonic()))  # the fault
        finally:
            lab_ip("link", "set", link, "up")
        up = now_ms()
        again = until("not flowing", flowing_since(lab, up), FLOWS_AGAIN_S)
        print("connected and heard again after", again)
        time.sleep(max(0.0, FLOWS_AGAIN_S - (now_ms() - up) / 1000))  # what is promised for then is judged then
        status, sessions = collector(lab)["plc1"], control(lab, "opcua", {"status": True})["sessions"]
        assert set(status["failed"]) == gone, status["failed"]
        assert status["open_gaps"] == len(gone), status
        assert [(one["user"], one["state"]) for one in sessions] == [("observer", "Activated")], sessions
        settled(lab, now_ms())
        produced, found = fresh(lab, up)
        assert len(produced) > len(tags) / 2
        assert produced - set(found) == set(), "these do not flow"
        print(f"{len(found)} tags have new samples, the last one after {max(found.values()):.1f} s")

        since = now_ms()
        time.sleep(15)  # long enough for a comparison
        settled(lab, now_ms())
        end = now_ms() - 5_000
        store = stored(lab, ["plc1"], since, end)["plc1"]
        for name in gone:
            for series in (name, f"{name}:status"):
                store.values.pop(series, None)
        account = compare(journal(lab, "opcua", since, end), [tag for name, tag in tags.items() if name not in gone], store, since, end)
        assert account.samples > 1000 and account.whole, account.text()

        before = record(lab)["run_id"]
        run = lab.play("playbooks/verify.yml", "--limit", edge, "--tags", "ot_collector", timeout=180)
        assert record(lab)["run_id"] != before, run.stdout[-2000:]
        red = {(check["id"], check["subject"]): check["reason"] for verdict in record(lab)["verdicts"] for check in verdict["checks"]
               if check["status"] not in ("pass", "skipped") and check.get("subject") in ("plc1", "sep1")}
        # The missing tag is named, and its gap is open.
        assert set(red) == ({("OC3", "plc1"), ("OC4", "plc1")} if changed else set()), red
        assert not changed or GONE in red["OC3", "plc1"], red
        assert lab.run(edge, "systemctl", "show", "--property=InvocationID,NRestarts", SHIPPER).stdout == invocation, "somebody touched the collector"
    finally:
        if changed:
            restarted_with(lab, {})
        assert systemctl(lab, "plc1", "is-active", OPCUA) == "active"
        until("not flowing", flowing_since(lab, now_ms(), ("plc1",)), 90)
    until("a gap is left open", lambda: not collector(lab)["plc1"]["open_gaps"] and not collector(lab)["plc1"]["failed"], 60)
