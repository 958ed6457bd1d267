# SPDX-License-Identifier: Apache-2.0
"""What breaks is named: by the verdict while a part stands still, and by the store after a link was cut.

Scenario `parts`: all five parts and the faults of a server, not only the two parts and the cut that every run takes.
"""
from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from conftest import SUDO, Lab
from journals import BAD, BAD_NO_COMMUNICATION, BAD_TIMEOUT, TICKS_PER_MS, compare, unmarked
from plant_view import STATUS, collector, journal, now_ms, source, stored, until

OPCUA = "hnai-ot-simulator-opcua.service"
FLOWS_AGAIN_S = 10.0


@dataclass(frozen=True)
class Part:
    """One part of the data path: where it runs, and which check of which component must name it."""

    host: str
    unit: str
    component: str
    named_on: str
    check: str
    subject: str = ""
    #: Checks of others that must say it too.
    follows: frozenset[str] = frozenset()


PARTS = {
    "simulator": Part("plc1", OPCUA, "ot_collector", "edge1", "OC1", "plc1"),
    "writer": Part("data1", "hnai-telegraf-writer.service", "telegraf", "data1", "TG1", "writer", frozenset({"C3", "VM8"})),
    "collector": Part("edge1", "hnai-telegraf-shipper.service", "ot_collector", "edge1", "OC0", follows=frozenset({"MQ3", "MQ6"})),
    "bridge": Part("edge1", "hnai-telegraf-bridge.service", "telegraf", "edge1", "TG1", "bridge", frozenset({"MQ6", "MQ9"})),
    "flink job": Part("stream1", "hnai-flink-jobs.service", "flink", "stream1", "H3", follows=frozenset({"C3", "VM8"})),
}
ALWAYS = ("simulator", "writer")
EACH = [name if name in ALWAYS else pytest.param(name, marks=pytest.mark.scenario("parts")) for name in PARTS]

CANCEL = """
import json, sys, time, urllib.request
REST = "http://127.0.0.1:8081"
def ask(path, method="GET"):
    with urllib.request.urlopen(urllib.request.Request(REST + path, method=method), timeout=20) as answer:
        return json.loads(answer.read() or b"{}")
deadline, cancelled = time.monotonic() + 60, set()
while True:
    alive = [job for job in ask("/jobs/overview")["jobs"] if job["state"] not in ("CANCELED", "FAILED", "FINISHED")]
    if not alive:
        break
    for job in alive:
        if job["jid"] not in cancelled:
            cancelled.add(job["jid"])
            ask("/jobs/%s?mode=cancel" % job["jid"], "PATCH")
    if time.monotonic() > deadline:
        raise SystemExit("still alive: %s" % alive)
    time.sleep(0.5)
print(json.dumps(sorted(cancelled)))
"""


def systemctl(lab: Lab, host: str, *argv: str, check: bool = True) -> str:
    """systemctl on a managed host or on a device of the plant."""
    run = lab.run if host in lab.groups["managed"] else lambda _host, *a, **k: lab.plant(*a, host=host, **k)
    return run(host, "systemctl", *argv, timeout=180, check=check).stdout.strip()


@contextmanager
def stopped(lab: Lab, part: Part) -> Iterator[None]:
    """The part stands still; afterwards it runs again, whatever happened."""
    try:
        systemctl(lab, part.host, "stop", part.unit)
        if part.component == "flink":
            assert lab.python(part.host, CANCEL), "no job ran"
        yield
    finally:
        systemctl(lab, part.host, "start", part.unit)
        assert systemctl(lab, part.host, "is-active", part.unit, check=False) == "active"
        # What it left behind in others (the live view, open gaps) is not to be found by the next test.
        until("the sources are not heard again", lambda: heard(lab), 90, 1)


def heard(lab: Lab) -> bool:
    """Every source is connected and was heard of late, and no gap is open."""
    late = (now_ms() - 3000) * TICKS_PER_MS
    return all(one["state"] == "connected" and not one["open_gaps"] and (one["last_heard"] or 0) >= late for one in collector(lab).values())


def noticed(lab: Lab, part: Part) -> bool:
    """The collector's own words changed; every other part is looked at by its check directly."""
    if part.check == "OC1":
        return collector(lab)[part.subject]["state"] != "connected"
    if part.check == "OC0":
        code = f"import json, os, time; print(time.time() - os.stat({STATUS!r}).st_mtime if os.path.exists({STATUS!r}) else 1e9)"
        return lab.python(part.named_on, code) > 10.5
    return True


@pytest.mark.parametrize("name", EACH)
def test_a_part_that_stands_still_is_named_by_the_verdict(lab: Lab, name: str) -> None:
    part = PARTS[name]
    latest = lab.state / "verdicts/latest/record.json"
    before = json.loads(latest.read_text(encoding="utf-8"))["run_id"] if latest.exists() else ""
    with stopped(lab, part):
        until(f"{part.unit} stands still and nobody noticed", lambda: noticed(lab, part), 60)
        run = lab.play("playbooks/verify.yml", timeout=400)
        record = json.loads(latest.read_text(encoding="utf-8"))
    assert run.rc != 0
    assert record["run_id"] != before
    assert record["verdict"] == "fail"
    found = [problem for problem in record["problems"] if problem["why"] == "fail"]
    who = (part.component, part.named_on, part.check)
    named = [p for p in found if (p["component"], p["host"], p["id"]) == who and part.subject in ("", p["subject"])]
    assert named, f"{who} is not among {[(p['component'], p['host'], p['id'], p['subject']) for p in found]}"
    passed = {
        (verdict["component"], check["id"])
        for verdict in record["verdicts"]
        for check in verdict["checks"]
        if check["status"] == "pass" and (verdict["component"], verdict["host"]) != (part.component, part.named_on)
    }
    assert {"openbao", "kafka", "mosquitto"} <= {component for component, _id in passed}
    blamed = {p["component"] for p in found if p["id"] not in part.follows}
    assert not blamed & {"openbao", "kafka", "mosquitto", "host", "victoriametrics"}, blamed


def veth(lab: Lab, device: str) -> str:
    """This machine's end of a device's link."""
    peer = lab.plant("cat", "/sys/class/net/eth0/iflink", host=device).stdout.strip()
    links = json.loads(lab_ip("-json", "link", "show"))
    return next(link["ifname"] for link in links if str(link["ifindex"]) == peer)


def lab_ip(*argv: str) -> str:
    """ip(8) on this machine."""
    return subprocess.run([*SUDO, "ip", *argv], check=True, capture_output=True, text=True, timeout=20).stdout


def flowing_since(lab: Lab, moment_ms: int, sources: tuple[str, ...] = ("plc1", "sep1")) -> Callable[[], dict[str, float] | None]:
    """Seconds from a moment to the first sample that each source gave after it, as far as it is over for all."""
    seen: dict[str, float] = {}

    def ask() -> dict[str, float] | None:
        for name, one in collector(lab).items():
            # A time-out makes a sample too: the source must have been heard.
            at = min(one["last_sample"] or 0, one["last_heard"] or 0) / TICKS_PER_MS
            if name in sources and name not in seen and one["state"] == "connected" and at > moment_ms:
                seen[name] = (at - moment_ms) / 1000
        return seen if set(seen) == set(sources) else None

    return ask


def settled(lab: Lab, moment_ms: int) -> None:
    """Waits until the store shows the canary of a moment and had time for the rest."""

    def shows() -> bool:
        series = stored(lab, ["plc1"], moment_ms, now_ms())["plc1"]
        return bool(series.values.get("canary_sequence"))

    until("the store shows no canary after the fault", shows, 60, 2)
    time.sleep(5)  # every other record of that moment travels the same way; 5 s are the longest flush on it


def test_a_link_cut_of_five_seconds_is_over_ten_seconds_later(lab: Lab) -> None:
    link = veth(lab, "plc1")
    before = collector(lab)
    assert {before[name]["state"] for name in ("plc1", "sep1")} == {"connected"}
    begin = now_ms() - 5_000
    cut = now_ms()
    try:
        lab_ip("link", "set", link, "down")
        time.sleep(5)  # the fault itself
    finally:
        lab_ip("link", "set", link, "up")
    up = now_ms()
    again = until("not flowing", flowing_since(lab, up), 40)
    print("flowing again after", again)
    assert max(again.values()) <= FLOWS_AGAIN_S, again
    end = up + 12_000
    settled(lab, end)
    store = stored(lab, ["plc1", "sep1"], begin, end)

    # The subscription: its server kept every sample while the session lived. If it did not live, each loss is inside a marked gap.
    account = compare(journal(lab, "opcua", begin, end), source(lab, "plc1")["tags"], store["plc1"], begin, end)
    print(account.text())
    assert not account.wrong and not account.twice, account.text()
    if collector(lab)["plc1"]["losses"] == before["plc1"]["losses"]:
        assert account.whole, account.text()
    else:
        assert not unmarked(account.missing_at, store["plc1"].values)

    # The poll cannot ask while the link is cut: it says so.
    said = {
        int(statuses[0])
        for name, series in store["sep1"].values.items()
        if name.endswith(":status")
        for ms, statuses in series.items()
        if cut <= ms <= up + int(FLOWS_AGAIN_S * 1000) and int(statuses[0]) & BAD
    }
    assert said & {BAD_TIMEOUT, BAD_NO_COMMUNICATION}, said


CONTROL = """
import socket, sys
with socket.socket(socket.AF_UNIX) as client:
    client.settimeout(10)
    client.connect("/run/hnai-ot_simulator-%s/control.sock" % sys.argv[1])
    client.sendall(sys.argv[2].encode() + b"\\n")
    print(client.makefile().readline())
"""


def control(lab: Lab, device: str, request: dict[str, Any]) -> dict[str, Any]:
    """Asks a simulator's control socket."""
    return json.loads(lab.plant("/usr/bin/python3", "-c", CONTROL, device, json.dumps(request)).stdout)


def right_values(lab: Lab, since_ms: int) -> None:
    """From *since* on the store has what the journal has, under the same names."""
    end = since_ms + 15_000
    settled(lab, end)
    store = stored(lab, ["plc1"], since_ms, end)["plc1"]
    account = compare(journal(lab, "opcua", since_ms, end), source(lab, "plc1")["tags"], store, since_ms, end)
    print(account.text())
    assert account.samples > 1000, account.text()
    assert account.whole, account.text()


def restarted_with(lab: Lab, faults: dict[str, Any]) -> int:
    """The OPC UA server starts again with faults of its own; ms when it listened."""
    path = "/etc/hnai/ot_simulator/faults.json"
    if faults:
        code = "import sys; open(sys.argv[1], 'w').write(sys.argv[2])"
        lab.plant("/usr/bin/python3", "-c", code, path, json.dumps({"opcua": faults}))
    else:
        lab.plant("rm", "-f", path)
    systemctl(lab, "plc1", "restart", OPCUA)
    probe = "import socket; socket.create_connection(('127.0.0.1', 4840), 1).close()"
    until("the server does not listen", lambda: lab.plant("/usr/bin/python3", "-c", probe, check=False).returncode == 0, 60, 0.2)
    return now_ms()


def server_changes(lab: Lab, faults: dict[str, Any]) -> None:
    """The server comes back changed: flowing again in 10 s, right values under right names."""
    try:
        again = until("not flowing", flowing_since(lab, restarted_with(lab, faults), ("plc1",)), 60)
        print(faults, "flowing again after", again)
        assert max(again.values()) <= FLOWS_AGAIN_S, again
        status = collector(lab)["plc1"]
        assert not status["failed"], status["failed"]
        right_values(lab, now_ms() + 3_000)
    finally:
        until("not flowing", flowing_since(lab, restarted_with(lab, {}), ("plc1",)), 60)


def namespaces_move(lab: Lab) -> None:
    """A namespace index that changes at restart, with decoys under the old one."""
    server_changes(lab, {"extra_namespaces": 2})


def twenty_items_a_call(lab: Lab) -> None:
    """A server with MaxMonitoredItemsPerCall 20."""
    server_changes(lab, {"max_monitored_items_per_call": 20})


def never_answers(lab: Lab) -> None:
    """A server that accepts connections and never answers."""
    losses = collector(lab)["plc1"]["losses"]
    try:
        control(lab, "opcua", {"mute": True})
        until("the collector does not notice that nobody answers", lambda: collector(lab)["plc1"]["losses"] > losses, 60)
    finally:
        control(lab, "opcua", {"mute": False})
    up = now_ms()
    again = until("not flowing", flowing_since(lab, up, ("plc1",)), 60)
    print("flowing again after", again)
    assert max(again.values()) <= FLOWS_AGAIN_S, again
    right_values(lab, now_ms() + 3_000)


@pytest.mark.scenario("parts")
@pytest.mark.parametrize("fault", [namespaces_move, twenty_items_a_call, never_answers])
def test_a_changed_server_is_mirrored_again_by_itself(lab: Lab, fault: Callable[[Lab], None]) -> None:
    until("the plant is not connected", lambda: collector(lab)["plc1"]["state"] == "connected", 60)
    fault(lab)
