# SPDX-License-Identifier: Apache-2.0
"""The faults that scenario host-faults leaves: disks, queues, a password, a pipe, doors of the stores, the canary. Each turns its own check.

Scenario host-faults-2. Two disks (VM4, QD5) are the machine's own and are not filled: there the declared floor is put above what is free.
"""
from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from conftest import Lab
from plant_view import collector, now_ms, stored, until
from test_50_faults import control, systemctl
from test_61_kafka_health import cluster
from test_64_checks import AWAY, bad, called, edited, judged
from test_65_host_faults import extra_file, stopped, where

pytestmark = pytest.mark.scenario("host-faults-2")
SHIPPER, WRITER = "hnai-telegraf-shipper.service", "hnai-telegraf-writer.service"
BUFFER = "/var/lib/hnai/telegraf/shipper"
#: Of a JSON file's text `t`: changed by an expression of its content `j`.
JSON = "(lambda j: (%s, __import__('json').dumps(j))[1])(__import__('json').loads(t))"
#: So little of a queue may be full that a test has the time; on a quiet broker nothing waits.
LITTLE = {"mosquitto_max_fill_percent": 0.03}
MORE_THAN_THERE_IS_MIB = 1 << 30


@contextmanager
def halted(lab: Lab, host: str, unit: str, whom: str) -> Iterator[None]:
    """Processes of a unit stand still (SIGSTOP) without being stopped."""
    systemctl(lab, host, "kill", f"--kill-whom={whom}", "--signal=STOP", unit)
    try:
        yield
    finally:
        systemctl(lab, host, "kill", f"--kill-whom={whom}", "--signal=CONT", unit)


# -- the host, Kafka, Flink -----------------------------------------------------------------------------------
@contextmanager
def a_file_system_of_ours_is_full(lab: Lab) -> Iterator[None]:
    """A small one, mounted among the components' data. (It lies in memory, under a name that HO3 does not know for memory.)"""
    host, base, place = where(lab, "host"), "/run/hnai-test-disk", "/var/lib/hnai/hnai-test-disk"
    try:
        lab.run(host, "mkdir", "-p", base, place)
        lab.run(host, "mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", base)
        lab.run(host, "mkdir", f"{base}/lower", f"{base}/upper", f"{base}/work")
        lab.run(host, "mount", "-t", "overlay", "overlay", "-o", f"lowerdir={base}/lower,upperdir={base}/upper,workdir={base}/work", place)
        lab.run(host, "fallocate", "-l", "4000K", f"{base}/full")
        yield
    finally:
        for path in (place, base):
            lab.run(host, "umount", path, check=False)
            lab.run(host, "rmdir", path)


@contextmanager
def positions_cannot_be_kept(lab: Lab) -> Iterator[None]:
    """The topic of the readers' positions takes no record of their size: what is committed is not kept."""
    topic, key = "__consumer_offsets", "max.message.bytes"
    try:
        cluster(lab, "config", {"topic": topic, "set": {key: "16"}})
        yield
    finally:
        cluster(lab, "config", {"topic": topic, "set": {}, "key": key})


@contextmanager
def a_door_to_flink(lab: Lab) -> Iterator[None]:
    """Somebody forwards the JobManager's port to the host's address: whoever reaches it runs code."""
    host, name = where(lab, "flink"), "hnai-test-door"
    address = lab.var(host, "hnai_addresses")["v4"]
    try:
        lab.run(host, "systemd-run", f"--unit={name}", f"--socket-property=ListenStream={address}:8081",
                "/usr/lib/systemd/systemd-socket-proxyd", "127.0.0.1:8081")
        yield
    finally:
        lab.run(host, "systemctl", "stop", f"{name}.socket", f"{name}.service", check=False)


# -- shipper, writer, collector -------------------------------------------------------------------------------
def records_were_cut_off(lab: Lab) -> AbstractContextManager[None]:
    """What buffer-limit writes down when it has cut an oversized buffer. (The cut itself would cost the plant's records.)"""
    return extra_file(lab, where(lab, "telegraf_shipper"), f"{BUFFER}/dropped.json", json.dumps({"records": 5}))


@contextmanager
def the_buffer_has_no_room(lab: Lab) -> Iterator[None]:
    """More lies in the shipper's buffer than may. (A file of holes; Telegraf reads what it does not know only at a start.)"""
    host, path = where(lab, "telegraf_shipper"), f"{BUFFER}/buffer/hnai-test"
    try:
        lab.run(host, "truncate", "-s", "2G", path)
        yield
    finally:
        lab.run(host, "rm", "-f", path)


@contextmanager
def nobody_remembers(lab: Lab) -> Iterator[None]:
    """The writer's companion hangs, for ten minutes already; Telegraf itself goes on."""
    host = where(lab, "telegraf_writer")
    with halted(lab, host, WRITER, "main"):
        lab.run(host, "touch", "-d", "-10 minutes", "/var/lib/hnai/telegraf/writer/replay.json")
        yield


@contextmanager
def a_server_never_answers(lab: Lab) -> Iterator[None]:
    """The OPC UA server takes requests and says nothing."""
    try:
        control(lab, "opcua", {"mute": True})
        yield
    finally:
        control(lab, "opcua", {"mute": False})


@contextmanager
def the_password_is_wrong(lab: Lab) -> Iterator[None]:
    """The plant changed the mirror's password and told nobody."""
    host, path, kept = where(lab, "ot_collector"), "/etc/credstore.encrypted/hnai-ot_collector.opcua_plc1_password", "/run/hnai-test.password"
    lab.run(host, "cp", "-a", path, kept)
    try:
        lab.run(host, "systemd-creds", "encrypt", "--with-key=host", "--name=opcua_plc1_password", "-", path, stdin="not-the-plants")
        systemctl(lab, host, "restart", SHIPPER)
        yield
    finally:
        lab.run(host, "mv", kept, path)
        systemctl(lab, host, "restart", SHIPPER)


def the_pipe_is_blocked(lab: Lab) -> AbstractContextManager[None]:
    """Telegraf hangs; the collector, its child, goes on and cannot get rid of what it reads."""
    return halted(lab, where(lab, "telegraf_shipper"), SHIPPER, "main")


def a_queue_is_longer_than_granted(lab: Lab) -> AbstractContextManager[None]:
    """More is declared than the server gives (asyncua: 10 000)."""
    change = JSON % "next(s for s in j['sources'] if s['protocol'] == 'opcua')['tags'][0].update(queue=20000)"
    return edited(lab, where(lab, "ot_collector"), "/etc/hnai/ot_collector/collector.json", change, "systemctl", "restart", SHIPPER)


# -- the MQTT broker ------------------------------------------------------------------------------------------
@contextmanager
def a_client_has_no_password(lab: Lab) -> Iterator[None]:
    """One line is missing in the file that the broker would read at its next reload. Put back, it is younger than what the broker read."""
    host = where(lab, "mosquitto")
    try:
        with edited(lab, host, "/run/hnai-mosquitto/passwords", "t.split('\\n', 1)[1]", "true"):
            yield
    finally:
        systemctl(lab, host, "reload", "hnai-mosquitto.service")


@contextmanager
def a_client_is_away(lab: Lab) -> Iterator[None]:
    """Its session stays and its queue fills with the line's messages."""
    host = where(lab, "mosquitto")
    assert "MQ7" not in bad(judged(lab, "mosquitto", host, extra=LITTLE)), "something waits on a quiet broker"
    bridge = called(lab, host, "telegraf-bridge")
    lab.python(host, AWAY, bridge, "begin")
    try:
        yield
    finally:
        lab.python(host, AWAY, bridge, "end")


# -- the stores -----------------------------------------------------------------------------------------------
@contextmanager
def a_disk_with_too_little(lab: Lab) -> Iterator[None]:
    """Nothing is done to the disk: by the declared floor it is too small."""
    yield


GARBAGE = """
import base64, json, subprocess, urllib.request
secret = subprocess.run(["systemd-creds", "decrypt", "--name=backend", "/etc/credstore.encrypted/hnai-victoriametrics.backend", "-"],
                        check=True, capture_output=True, timeout=20).stdout
request = urllib.request.Request("http://127.0.0.1:8429/write", data=b"this is no line protocol\\n", method="POST")
request.add_header("Stream-Mode", "1")  # else such a request is refused as a whole, and nothing is thrown away
request.add_header("Authorization", "Basic " + base64.b64encode(b"vmauth:" + secret).decode())
try:
    print(urllib.request.urlopen(request, timeout=20).status)
except urllib.error.HTTPError as error:
    print(json.dumps(error.code))
"""


@contextmanager
def somebody_writes_garbage(lab: Lab) -> Iterator[None]:
    """A row that is none arrives at the store; it is counted until the store starts anew."""
    host = where(lab, "victoriametrics")
    try:
        lab.python(host, GARBAGE)
        yield
    finally:
        systemctl(lab, host, "restart", "hnai-victoriametrics.service")


def a_reader_may_say_anything(lab: Lab) -> AbstractContextManager[None]:
    """The routes of QuestDB's way in forget what a reader's statement must look like."""
    change = JSON % "[u.pop(key, None) for u in j['users'] for key in ('arguments', 'never')]"
    return edited(lab, where(lab, "questdb"), "/etc/hnai/questdb/routes.json", change, "systemctl", "reload", "hnai-questdb-auth.service")


def no_rows_come(lab: Lab) -> AbstractContextManager[None]:
    return stopped(lab, where(lab, "telegraf_questdb"), "hnai-telegraf-questdb.service")


# -- the canary -----------------------------------------------------------------------------------------------
@contextmanager
def the_writer_hung(lab: Lab) -> Iterator[None]:
    """All came late and nothing was lost."""
    begin = now_ms()
    with halted(lab, where(lab, "telegraf_writer"), WRITER, "all"):
        time.sleep(25)  # the fault itself

    def caught_up() -> bool:
        end = now_ms()
        ticks = sorted(stored(lab, ["plc1"], begin, end)["plc1"].values.get("canary_sequence", {}))
        return bool(ticks) and ticks[-1] > end - 10000 and max(b - a for a, b in zip(ticks, ticks[1:], strict=False)) < 5000

    until("the store did not catch up", caught_up, 60, 2)
    yield


@contextmanager
def the_collector_was_away(lab: Lab) -> Iterator[None]:
    """15 s of the OPC UA server are lost, for its session was closed."""
    host = where(lab, "ot_collector")
    systemctl(lab, host, "stop", SHIPPER)
    try:
        time.sleep(15)  # the fault itself
    finally:
        systemctl(lab, host, "start", SHIPPER)
    until("the plant is not connected", lambda: collector(lab)["plc1"]["state"] == "connected", 60)
    yield


@dataclass(frozen=True)
class Fault:
    """`must` is not well within `wait_s`, `may` with it; nothing else of that component on that host."""

    make: Callable[[Lab], AbstractContextManager[None]]
    component: str
    must: frozenset[str]
    may: frozenset[str] = frozenset()
    #: The group whose first host is asked, where it is not the component's own.
    of: str = ""
    profile: str = "quick"
    wait_s: float = 90
    #: Limits of the site that the verdict is asked with while the fault lasts.
    extra: dict[str, Any] = field(default_factory=dict)


def fault(make: Callable[[Lab], AbstractContextManager[None]], component: str, must: str, may: str = "", **others: Any) -> object:
    """A parameter, named by what was broken."""
    name = f"{make.__name__}-{must.split()[0]}"
    return pytest.param(Fault(make, component, frozenset(must.split()), frozenset(may.split()), **others), id=name)


def exercise(lab: Lab, one: Fault) -> None:
    """Well, broken and named, well again."""
    host = where(lab, one.of or one.component)

    def look(extra: dict[str, Any] | None = None) -> set[str]:
        return bad(judged(lab, one.component, host, one.profile, extra))

    until("not well to begin with", lambda: not look(), 120, 3)
    with one.make(lab):
        seen: set[str] = set()

        def told() -> bool:
            seen.clear()
            seen.update(look(one.extra))
            # What is only just starting says more for a moment.
            return one.must <= seen <= one.must | one.may

        try:
            until(f"nobody says {sorted(one.must)} alone", told, one.wait_s, 3)
        finally:
            print(sorted(seen))
    until("not well again", lambda: not look(), 240, 3)


@pytest.mark.parametrize(
    "one",
    [
        fault(a_file_system_of_ours_is_full, "host", "HO3"),
        # The readers of the site cannot keep their positions either.
        fault(positions_cannot_be_kept, "kafka", "C2", "C1 C3 S5", profile="full", wait_s=180),
        fault(a_door_to_flink, "flink", "H10"),
        fault(records_were_cut_off, "telegraf", "TG4", of="telegraf_shipper"),
        fault(the_buffer_has_no_room, "telegraf", "TG5", of="telegraf_shipper"),
        fault(nobody_remembers, "telegraf", "TG6", of="telegraf_writer"),
        # First nothing is heard, then the session is lost.
        fault(a_server_never_answers, "ot_collector", "OC2", "OC1 OC3 OC4 OC5 OC6 OC8"),
        # Who may not in reads nothing.
        fault(the_password_is_wrong, "ot_collector", "OC6", "OC1 OC2 OC3 OC4 OC5 OC8"),
        # What waits for the pipe is read late, and of the edge node nothing is read that could not be passed on; the outlet says so after half a minute.
        fault(the_pipe_is_blocked, "ot_collector", "OC7", "OC2 OC13"),
        fault(a_queue_is_longer_than_granted, "ot_collector", "OC8", "OC4"),
        # The broker works by another file than the one that lies there, so nobody knows what it would let in.
        fault(a_client_has_no_password, "mosquitto", "MQ4", "MA0 MA1"),
        fault(a_client_is_away, "mosquitto", "MQ7", extra=LITTLE),
        # The running floor is no longer the declared one.
        fault(a_disk_with_too_little, "victoriametrics", "VM4", "VM3", extra={"victoriametrics_min_free_mib": MORE_THAN_THERE_IS_MIB}),
        fault(somebody_writes_garbage, "victoriametrics", "VM6"),
        fault(a_disk_with_too_little, "questdb", "QD5", extra={"questdb_min_free_mib": MORE_THAN_THERE_IS_MIB}),
        fault(a_reader_may_say_anything, "questdb", "QD6"),
        # A tag is old after a minute, the window of what arrives is shorter.
        fault(no_rows_come, "questdb", "FR3", "QD7", wait_s=150),
        fault(the_writer_hung, "canary", "CN2"),
        fault(the_collector_was_away, "canary", "CN3 CN4", "CN2 FR1 FR2"),
    ],
)
def test_a_fault_fails_its_own_check_and_passes_after_repair(lab: Lab, one: Fault) -> None:
    exercise(lab, one)
