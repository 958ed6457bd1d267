# SPDX-License-Identifier: Apache-2.0
"""Each fault fails its own check, nothing else but its listed consequences, and passes after repair.

Scenario checks.
"""
from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from conftest import Lab
from plant_view import collector, until
from test_50_faults import control

pytestmark = pytest.mark.scenario("checks")
ACL = "/etc/hnai/mosquitto/acl"
CONF = "/etc/hnai/mosquitto/mosquitto.conf"
BROKER = "hnai-mosquitto.service"
SECOND = "/run/hnai/openbao_audit"


def judged(lab: Lab, component: str, host: str = "", profile: str = "quick", extra: dict[str, Any] | None = None) -> dict[str, str]:
    """id, or id/subject -> status of one component, by verify itself. *extra*: variables of this verdict."""
    host = host or lab.groups[component][0]
    run = lab.play("playbooks/verify.yml", "--limit", host, "--tags", component, extra={**(extra or {}), "profile": profile}, timeout=180)
    record = json.loads((lab.state / "verdicts/latest/record.json").read_text(encoding="utf-8"))
    assert record["covers"] == {"components": [component], "hosts": [host], "whole_site": False}, record["covers"]
    found = {
        check["id"] + ("/" + check["subject"] if check.get("subject") else ""): check["status"]
        for verdict in record["verdicts"] for check in verdict["checks"]
    }
    assert (run.rc == 0) == (set(found.values()) <= {"pass", "skipped"}), run.stdout[-2000:]
    return found


def bad(found: dict[str, str]) -> set[str]:
    """Ids that are not well, without their subjects."""
    return {name.split("/")[0] for name, status in found.items() if status not in ("pass", "skipped")}


def well(lab: Lab, component: str, deadline_s: float = 60) -> None:
    """The component passes again."""
    until(f"{component} does not pass again", lambda: not bad(judged(lab, component)), deadline_s, 2)


@contextmanager
def edited(lab: Lab, host: str, path: str, code: str, *after: str) -> Iterator[None]:
    """A file as *code* (of its text `t`) makes it, with *after* run; afterwards as it was, with *after* again."""
    change = "import shutil, sys; p = sys.argv[1]; shutil.copy2(p, p + '.fault'); t = open(p).read(); t = %s; open(p, 'w').write(t); print('{}')" % code
    back = "import os, sys; p = sys.argv[1]; t = open(p + '.fault').read(); open(p, 'w').write(t); os.unlink(p + '.fault'); print('{}')"
    lab.python(host, change, path)
    try:
        lab.run(host, *after, timeout=120)
        yield
    finally:
        lab.python(host, back, path)
        lab.run(host, *after, timeout=120)


def test_a_broker_without_acl_and_a_bridge_that_is_down(lab: Lab) -> None:
    host = lab.groups["mosquitto"][0]
    with edited(lab, host, ACL, "'pattern readwrite #\\npattern readwrite $SYS/#\\n'", "systemctl", "reload", BROKER):
        found = judged(lab, "mosquitto")
        # Everybody may everything, so everybody's deny test fails: none is told apart, no other check sees it.
        assert {status for name, status in found.items() if name.startswith("MQ8/")} == {"fail"}
        # The audit reads the same fault out of the rules.
        assert bad(found) == {"MQ8", "MA0", "MA2", "MA3", "MA4"}, found
    lab.run(host, "systemctl", "stop", "hnai-telegraf-bridge.service", timeout=120)
    try:
        found = judged(lab, "mosquitto")
        assert found["MQ9"] in ("fail", "inconclusive"), found
        assert bad(found) == {"MQ6", "MQ9"}, found
    finally:
        lab.run(host, "systemctl", "start", "hnai-telegraf-bridge.service", timeout=120)
    well(lab, "mosquitto")


def test_an_audit_device_that_is_gone_and_one_whose_disk_is_full(lab: Lab) -> None:
    host = lab.groups["openbao"][0]
    lab.run(host, "mv", f"{SECOND}/audit.log", f"{SECOND}/audit.moved")
    try:
        found = judged(lab, "openbao")
        assert (found["BAO05/second"], found["BAO05/primary"]) == ("fail", "pass"), found
        # One device is left, which has the readers too; nothing is known of the other's space.
        assert bad(found) == {"BAO04", "BAO05", "BAO06"}, found
    finally:
        lab.run(host, "mv", f"{SECOND}/audit.moved", f"{SECOND}/audit.log")
    assert not bad(judged(lab, "openbao"))
    # All but what the device itself needs for these minutes.
    lab.run(host, "sh", "-c", f"fallocate -l $(($(df --output=avail -B1 {SECOND} | tail -1) - 4194304)) {SECOND}/full")
    try:
        found = judged(lab, "openbao")
        assert (found["BAO06/second"], found["BAO06/primary"]) == ("fail", "pass"), found
        assert bad(found) == {"BAO06"}, found
    finally:
        lab.run(host, "rm", "-f", f"{SECOND}/full")
    assert not bad(judged(lab, "openbao"))


#: A client of the bridge's identity with a session of its own that goes away at once; then messages that wait for it.
AWAY = """
import json, socket, ssl, struct, subprocess, sys, time
user, password, clean = sys.argv[1], subprocess.run(["systemd-creds", "decrypt", "--name=" + sys.argv[1],
    "/etc/credstore.encrypted/hnai-mosquitto." + sys.argv[1], "-"], check=True, capture_output=True, text=True).stdout, sys.argv[2] == "end"
def text(value):
    return struct.pack("!H", len(value)) + value.encode()
def packet(kind, body):
    assert len(body) < 16384
    return bytes([kind]) + (bytes([len(body)]) if len(body) < 128 else bytes([len(body) % 128 | 128, len(body) // 128])) + body
context = ssl.create_default_context(cafile="/etc/hnai/mosquitto/tls/ca.pem")
with context.wrap_socket(socket.create_connection(("localhost", 8883), 10), server_hostname="localhost") as s:
    s.sendall(packet(0x10, text("MQTT") + bytes([4, 0xC2 if clean else 0xC0]) + struct.pack("!H", 60) + text("fault") + text(user) + text(password)))
    assert s.recv(4)[3] == 0
    if not clean:
        s.sendall(packet(0x82, b"\\0\\1" + text("line/#") + b"\\1"))
        time.sleep(1)
    s.sendall(b"\\xe0\\0")
print(json.dumps(True))
"""


def called(lab: Lab, host: str, client: str) -> str:
    """A client's name of now: its two take turns in a rotation."""
    return lab.run(host, "sh", "-c", f"ls -d /etc/credstore.encrypted/hnai-mosquitto.{client}*").stdout.split()[0].partition("hnai-mosquitto.")[2]


def queue_drops(lab: Lab) -> None:
    """A client is away, and its queue holds three messages."""
    host = lab.groups["mosquitto"][0]
    bridge = called(lab, host, "telegraf-bridge")
    with edited(lab, host, CONF, "__import__('re').sub(r'max_queued_messages \\d+', 'max_queued_messages 3', t)", "systemctl", "restart", BROKER):
        until("the bridge is not back", lambda: "MQ6" not in bad(judged(lab, "mosquitto")), 60, 2)
        lab.python(host, AWAY, bridge, "begin")
        try:
            until("nothing is dropped", lambda: judged(lab, "mosquitto")["MQ5"] == "fail", 60, 2)
            # Three are fewer than declared.
            assert bad(judged(lab, "mosquitto")) <= {"MQ5", "MQ7"}
        finally:
            lab.python(host, AWAY, bridge, "end")
    well(lab, "mosquitto", 90)


def openbao_seals(lab: Lab) -> None:
    """Started anew it is sealed, and stays so until the next run of its play."""
    host = lab.groups["openbao"][0]
    lab.run(host, "systemctl", "restart", "hnai-openbao.service", timeout=120)
    try:
        found = judged(lab, "openbao")
        assert found["BAO01"] == "fail", found
        # A sealed store says nothing of what it holds, the ages of secrets included.
        assert bad(found) <= {"BAO01", "BAO03", "BAO04", "BAO07", "BAO09", "BAO10", "BAO11", "BAO12", "BAO13", "BAO14", "SI1", "SI2", "SI3"}, found
        assert found["BAO02"] == found["BAO08"] == "pass", found
    finally:
        run = lab.play("site.yml", "--tags", "openbao", "--skip-tags", "verify", timeout=300)
        assert run.rc == 0, run.stdout[-2000:]
    well(lab, "openbao")


def a_clock_drifts(lab: Lab) -> None:
    """The PLC's clock is five seconds ahead."""
    # A gap of the test before is red for a minute (OC4).
    until("the collector is judged well", lambda: not bad(judged(lab, "ot_collector")), 120, 5)
    try:
        assert control(lab, "opcua", {"clock": 5.0})["clock"] == 5.0
        until("the collector sees no offset", lambda: collector(lab)["plc1"]["clock_offset_s"] > 4, 30)
        found = judged(lab, "ot_collector")
        assert found["OC5/plc1"] == "fail", found
        assert bad(found) == {"OC5"}, found
    finally:
        control(lab, "opcua", {"clock": 0.0})
    until("the offset stays", lambda: abs(collector(lab)["plc1"]["clock_offset_s"]) < 1, 60)
    well(lab, "ot_collector")


@pytest.mark.parametrize("fault", [queue_drops, openbao_seals, a_clock_drifts])
def test_a_fault_fails_its_own_check(lab: Lab, fault: Any) -> None:
    fault(lab)
