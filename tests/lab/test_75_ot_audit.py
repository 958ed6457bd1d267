# SPDX-License-Identifier: Apache-2.0
"""The plant's server audited with the mirror's identity: claimed; one right planted on one node: refuted and named; taken away: claimed.

The server's own record says that each audit was one session of ours which is gone afterwards, and one login that was accepted.
"""
from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Lab
from plant_view import collector, source, until

CONTROL = """
import json, socket, sys
link = socket.socket(socket.AF_UNIX)
link.settimeout(10)
link.connect("/run/hnai-ot_simulator-opcua/control.sock")
link.sendall(sys.argv[1].encode() + b"\\n")
print(link.makefile().readline())
"""
pytestmark = pytest.mark.scenario("ot-audit")
PLANTED = "Pad1.Sep.PT"
SKIPPED = {"OA4", "OA5", "OA13", "OA15"}


def plant(lab: Lab, **request: Any) -> dict[str, Any]:
    """Ask or tell the simulator over its own socket."""
    return json.loads(lab.plant("/usr/bin/python3", "-c", CONTROL, json.dumps(request)).stdout)


def audit(lab: Lab) -> tuple[int, dict[str, dict[str, Any]], dict[str, Any]]:
    """(exit code, OA checks by id, record of the endpoint) of ``verify --tags ot``."""
    run = lab.play("playbooks/verify.yml", "--tags", "ot", timeout=600)
    latest = lab.state / "verdicts" / "latest"
    record = json.loads((latest / "record.json").read_text(encoding="utf-8"))
    checks = {check["id"]: check for verdict in record["verdicts"] for check in verdict["checks"] if check["id"].startswith("OA")}
    assert checks, run.stdout[-3000:]
    return run.rc, checks, json.loads(raw(latest, "ot-audit-plc1.json").read_text(encoding="utf-8"))


def raw(folder: Path, name: str) -> Path:
    """The raw evidence file of that name."""
    (path,) = folder.rglob(f"*{name}")
    return path


@pytest.fixture
def connected(lab: Lab) -> Iterator[Lab]:
    """The collector has its session; what a test granted is taken away afterwards."""
    until("the collector is connected", lambda: collector(lab)["plc1"]["state"] == "connected", 90)
    yield lab
    plant(lab, revoke=PLANTED)


def statuses(checks: dict[str, dict[str, Any]]) -> dict[str, str]:
    return {id: check["status"] for id, check in checks.items()}


def test_the_mirror_is_claimed_unable_to_write_and_one_planted_right_is_named(connected: Lab) -> None:
    lab = connected
    before = plant(lab, status=True)
    samples = collector(lab)["plc1"]["samples"]
    begin = time.monotonic()
    rc, checks, record = audit(lab)
    took = time.monotonic() - begin
    bad = {id: check.get("reason", "") for id, check in checks.items() if check["status"] in ("fail", "inconclusive")}
    assert not bad, bad
    assert record["verdict"] == "claimed" and record["environment"] == "lab"
    assert {id for id, status in statuses(checks).items() if status == "skipped"} == SKIPPED
    tags = source(lab, "plc1")["tags"]
    assert record["coverage"]["declared_tags"] == len(tags)
    assert not record["coverage"]["missing_tags"] and not record["coverage"]["hidden_tags"] and record["coverage"]["complete"]
    assert sum(record["coverage"]["nodes"].values()) > len(tags)
    assert rc == 0, "verify --tags ot passes"
    assert took < 300

    # The server's own record: no login of ours was refused, no session of ours is left, and the collector never stood still.
    after = plant(lab, status=True)
    assert after["rejected_identities"] == before["rejected_identities"] and after["refused_certificates"] == before["refused_certificates"]
    assert [one["name"] for one in after["sessions"]] == [one["name"] for one in before["sessions"]]
    assert collector(lab)["plc1"]["state"] == "connected" and collector(lab)["plc1"]["samples"] > samples

    plant(lab, grant=PLANTED)
    rc, checks, record = audit(lab)
    assert rc != 0 and record["verdict"] == "refuted"
    assert [(one["check"], one["node"].rsplit("=", 1)[1]) for one in record["findings"]] == [("OA8", PLANTED)]
    # The same change is a drift from the accepted address space.
    assert {id for id, status in statuses(checks).items() if status == "fail"} == {"OA0", "OA8", "OA19"}
    assert PLANTED in checks["OA0"]["reason"] and PLANTED in checks["OA19"]["reason"]

    plant(lab, revoke=PLANTED)
    rc, checks, record = audit(lab)
    assert rc == 0 and record["verdict"] == "claimed", {id: check.get("reason") for id, check in checks.items() if check["status"] == "fail"}
