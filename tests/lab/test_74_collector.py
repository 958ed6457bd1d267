# SPDX-License-Identifier: Apache-2.0
"""What the mirror's own software could do, and the gate before a changed configuration, on the standing lab.

An output that is pointed at the plant is found once Telegraf was restarted with it, and before that the audit does not say that all is
well. A changed configuration whose endpoint would let the mirror write is not deployed, and the running collector goes on.
"""
from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import Lab
from plant_view import collector, source, until
from test_64_checks import edited
from test_75_ot_audit import PLANTED, plant

pytestmark = pytest.mark.scenario("ot-collector")
CONF = "/etc/hnai/telegraf/shipper.conf"
UNIT = "hnai-telegraf-shipper.service"
CONFIG = "/etc/hnai/ot_collector/collector.json"
# It never gets a record, so it never dials; it is loaded all the same.
OUTPUT = "t + '\\n[[outputs.http]]\\n  alias = \"sly\"\\n  url = \"http://plc1:4840/write\"\\n  data_format = \"influx\"\\n  namepass = [\"nothing\"]\\n'"
HASH = "import hashlib, json, sys; print(json.dumps(hashlib.sha256(open(sys.argv[1], 'rb').read()).hexdigest()))"


def host_of(lab: Lab) -> str:
    return lab.groups["ot_collector"][0]


def audited(lab: Lab) -> tuple[int, dict[str, dict[str, Any]]]:
    """(exit code, CA, OA0 and OC14 checks by id and subject) of ``verify --tags ot``."""
    run = lab.play("playbooks/verify.yml", "--tags", "ot", timeout=600)
    record = json.loads((lab.state / "verdicts/latest/record.json").read_text(encoding="utf-8"))
    checks = {check["id"] + ("/" + check["subject"] if check.get("subject") else ""): check for verdict in record["verdicts"] for check in verdict["checks"]}
    assert "CA0" in checks, run.stdout[-3000:]
    return run.rc, checks


def reasons(checks: dict[str, dict[str, Any]]) -> dict[str, str]:
    return {name: check.get("reason", "") for name, check in checks.items() if check["status"] in ("fail", "inconclusive")}


def connected(lab: Lab) -> None:
    until("the collector is connected", lambda: collector(lab)["plc1"]["state"] == "connected", 120)


def restarted(lab: Lab, host: str) -> None:
    """Telegraf and the collector that it runs, anew; its status is not the old one's last word."""
    old = lab.python(host, "print(open('/run/hnai/ot_collector/collector.status.json').read())")["pid"]
    lab.run(host, "systemctl", "restart", UNIT, timeout=120)
    until("the new collector is connected", lambda: connected_as(lab, host, old), 120)


@pytest.fixture
def well(lab: Lab) -> Iterator[Lab]:
    """The collector has its session; what a test granted is taken away afterwards."""
    connected(lab)
    yield lab
    plant(lab, revoke=PLANTED)
    connected(lab)


def test_an_output_at_the_plant_is_found_in_what_runs(well: Lab) -> None:
    lab, host = well, host_of(well)
    rc, checks = audited(lab)
    assert rc == 0 and not reasons(checks), reasons(checks)
    assert {name.split("/")[0] for name in checks if name.startswith("CA")} == {f"CA{number}" for number in range(8)}
    assert "inputs.execd (ot_collector)" in str(checks["CA2/shipper"]["evidence"]) and checks["CA5"]["evidence"]["refused"]["opcua"] > 20

    with edited(lab, host, CONF, OUTPUT, "true"):
        # It lies there, and nobody can say from outside whether the running process took it up.
        _rc, checks = audited(lab)
        assert checks["CA2/shipper"]["status"] != "pass" and "sly" in checks["CA2/shipper"]["reason"], reasons(checks)
        assert "changed after the process was started" in str(checks["CA2/shipper"]["evidence"]["unknown"])
        restarted(lab, host)
        rc, checks = audited(lab)
        assert rc != 0 and checks["CA2/shipper"]["status"] == checks["CA0"]["status"] == "fail"
        assert "outputs.http (sly)" in checks["CA2/shipper"]["reason"] and "plc1 port 4840" in checks["CA2/shipper"]["reason"]
        assert not checks["CA2/shipper"]["evidence"]["unknown"]
        assert {name for name in reasons(checks) if name.startswith("CA")} == {"CA0", "CA2/shipper"}, reasons(checks)
    restarted(lab, host)
    rc, checks = audited(lab)
    assert rc == 0, reasons(checks)


def test_a_refuted_endpoint_gets_no_new_configuration(well: Lab, tmp_path: Path) -> None:
    lab, host = well, host_of(well)
    sources = lab.var(host, "hnai_ot_sources")
    changed = json.loads(json.dumps(sources))
    (plc,) = [one for one in changed if one["id"] == "plc1"]
    # The same tags, one of them fetched with a longer queue: a changed configuration of this endpoint and of no other.
    plc["tags"][-1]["queue"] = int(plc["tags"][-1]["queue"]) + 1
    (tmp_path / "sources.json").write_text(json.dumps({"hnai_ot_sources": changed}), encoding="utf-8")

    def deploy(*more: str) -> Any:
        return lab.play("playbooks/site.yml", "--tags", "ot_collector,telegraf", "--skip-tags", "verify", *more, timeout=900)

    def there() -> tuple[str, int]:
        status = lab.python(host, "print(open('/run/hnai/ot_collector/collector.status.json').read())")
        return lab.python(host, HASH, CONFIG), status["pid"]

    before, samples = there(), collector(lab)["plc1"]["samples"]
    plant(lab, grant=PLANTED)
    run = deploy("-e", f"@{tmp_path / 'sources.json'}")
    said = " ".join(run.stdout.split())
    assert run.rc != 0 and "plc1 is refuted" in said and PLANTED in said, run.stdout[-3000:]
    assert there() == before, "nothing was replaced, and the same collector runs"
    assert collector(lab)["plc1"]["state"] == "connected" and collector(lab)["plc1"]["samples"] > samples
    quick = lab.play("playbooks/verify.yml", "--tags", "ot_collector", timeout=180)
    record = json.loads((lab.state / "verdicts/latest/record.json").read_text(encoding="utf-8"))
    (last,) = [one for verdict in record["verdicts"] for one in verdict["checks"] if one["id"] == "OC14"]
    assert quick.rc != 0 and last["status"] == "fail" and PLANTED in last["reason"]

    plant(lab, revoke=PLANTED)
    run = deploy("-e", f"@{tmp_path / 'sources.json'}")
    assert run.rc == 0, run.stdout[-3000:]
    after = there()
    assert after[0] != before[0] and after[1] != before[1], "deployed, and the collector was restarted with it"
    connected(lab)
    run = deploy()
    assert run.rc == 0 and there()[0] == before[0]
    connected(lab)
    again = deploy()
    assert again.rc == 0 and not again.changed(), again.changed()
    assert not [event for event in again.events if event["event_data"]["task"] == "Audit the endpoints first"], "a run that changes nothing audits nothing"


def test_the_store_holds_what_the_server_said(well: Lab) -> None:
    lab = well
    run = lab.play("playbooks/verify.yml", "--tags", "ot_collector", extra={"profile": "full", "ot_collector_fidelity_window": 90}, timeout=900)
    record = json.loads((lab.state / "verdicts/latest/record.json").read_text(encoding="utf-8"))
    checks = {check["id"]: check for verdict in record["verdicts"] for check in verdict["checks"] if check["id"].startswith("MFD")}
    assert set(checks) == {f"MFD{number}" for number in range(7)}, run.stdout[-3000:]
    assert {check["status"] for check in checks.values()} == {"pass"}, {name: check.get("reason") for name, check in checks.items()}
    assert checks["MFD5"]["observed"] > 500, "20 tags, a sample a second and more"


KILLS = 10


@contextmanager
def watched(lab: Lab) -> Iterator[list[dict[str, Any]]]:
    """The server's own record, about once a second, while the block runs."""
    seen: list[dict[str, Any]] = []
    over = threading.Event()

    def look() -> None:
        while not over.is_set():
            seen.append(plant(lab, status=True) | {"at": time.monotonic()})
            over.wait(0.7)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join(60)


def test_ten_kills_leave_no_session_behind(well: Lab) -> None:
    lab, host = well, host_of(well)
    limits = source(lab, "plc1")["limits"]
    modbus = [one["id"] for one in lab.var(host, "hnai_ot_sources") if one["protocol"] == "modbus"]
    before = plant(lab, status=True)
    starts = []
    with watched(lab) as seen:
        pid = 0
        for kill in range(KILLS):
            pid = until(f"a session before kill {kill + 1}", lambda old=pid: connected_as(lab, host, old), 120)
            starts.append(time.monotonic())
            lab.run(host, "kill", "-KILL", str(pid))
        until("a session after the last kill", lambda: connected_as(lab, host, pid), 120)
        last = time.monotonic()
        time.sleep(max(0.0, 60 - (time.monotonic() - last)))
    assert len(seen) > 100
    ours = [len(one["sessions"]) for one in seen]
    assert max(ours) <= 2 and max(one["connections"] for one in seen) <= limits["connections"], (max(ours), max(one["connections"] for one in seen))
    assert ours[-1] == 1, [one["name"] for one in seen[-1]["sessions"]]
    assert {one["rejected_identities"] for one in seen} == {before["rejected_identities"]}, "no login was refused, nothing can be locked"
    assert {one["refused_certificates"] for one in seen} == {before["refused_certificates"]}
    # Each start dialled once: a limit on new connections that is shared by ten starts was never reached.
    worst = max(sum(1 for other in starts if 0 <= other - one < 60) for one in starts)
    assert worst <= limits["new_per_minute"], worst
    # The filter in front of the Modbus devices saw the same ten deaths.
    until("every source flows again", lambda: all(one["state"] == "connected" for one in collector(lab).values()), 120)
    assert modbus and all(collector(lab)[name]["state"] == "connected" for name in modbus)


def connected_as(lab: Lab, host: str, old: int) -> int:
    """The collector's process, once it is another than *old* and has its session."""
    status = lab.python(host, "print(open('/run/hnai/ot_collector/collector.status.json').read())")
    (plc,) = [one for one in status["sources"] if one["source"] == "plc1"]
    return int(status["pid"]) if status["pid"] != old and plc["state"] == "connected" else 0
