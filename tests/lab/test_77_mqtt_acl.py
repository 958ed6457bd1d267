# SPDX-License-Identifier: Apache-2.0
"""Who could command by MQTT: a clean site accuses nobody and the broker refuses every canary; a right too many and a line too few are named."""
from __future__ import annotations

import json
from typing import Any

import pytest
from conftest import Lab
from test_64_checks import ACL, BROKER, edited

pytestmark = pytest.mark.scenario("mqtt-acl")
RELOAD = ("systemctl", "reload", BROKER)


def audit(lab: Lab, tags: str) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """(checks MA… by id, or id/identity, record of the broker) of ``verify --tags …`` on the broker's host."""
    host = lab.groups["mosquitto"][0]
    run = lab.play("playbooks/verify.yml", "--limit", host, "--tags", tags, timeout=600)
    latest = lab.state / "verdicts" / "latest"
    record = json.loads((latest / "record.json").read_text(encoding="utf-8"))
    checks = {
        check["id"] + ("/" + check["subject"] if check.get("subject") else ""): check
        for verdict in record["verdicts"] for check in verdict["checks"] if check["id"].startswith("MA")
    }
    assert checks, run.stdout[-3000:]
    assert run.rc != 0 or not bad(checks), run.stdout[-3000:]
    (path,) = latest.rglob("*mqtt-acl-audit-mosquitto.json")
    return checks, json.loads(path.read_text(encoding="utf-8"))


def bad(checks: dict[str, dict[str, Any]]) -> dict[str, str]:
    """What is not well, and why."""
    return {name: check.get("reason", "") for name, check in checks.items() if check["status"] != "pass"}


def names(lab: Lab) -> set[str]:
    """Who can log in."""
    text = lab.run(lab.groups["mosquitto"][0], "cut", "-d:", "-f1", "/run/hnai-mosquitto/passwords").stdout
    return set(text.split())


def test_a_clean_broker_is_proven_and_accuses_nobody(lab: Lab) -> None:
    checks, record = audit(lab, "ot")
    assert not bad(checks)
    assert record["verdict"] == "proven" and record["environment"] == "lab", record["reason"]
    # Every identity was tried by every way, and the line watched.
    assert {name.split("/")[1] for name in checks if name.startswith("MA5/")} == names(lab)
    assert {"hnai-health", "line1"} <= {one.removesuffix(".b") for one in record["scope"]["witnesses"]}
    for found in record["live"].values():
        assert set(found["publish"]["codes"].values()) == set(found["retained"]["codes"].values()) == {"0x87"}
        assert found["publish"]["control"] and found["will"]["control"]
    # Without --tags ot the rules alone are judged, and check mode sends nothing.
    checks, record = audit(lab, "mosquitto")
    assert not bad(checks) and record["verdict"] == "claimed" and not record["live"]
    run = lab.play("playbooks/verify.yml", "--limit", lab.groups["mosquitto"][0], "--tags", "ot", "--check", timeout=600)
    (found,) = [event["event_data"]["res"]["verdicts"]["mosquitto_verdict__audit"] for event in run.events
                if event["event"] == "runner_on_ok" and "verdicts" in event["event_data"].get("res", {})]
    assert found["audit"]["verdict"] == "claimed" and {check["id"] for check in found["checks"]} == {"MA0", "MA1", "MA2", "MA3", "MA4"}
    assert any("check mode" in one for one in found["audit"]["not_tested"])


def test_a_right_too_many_is_named_by_the_rules_and_by_the_broker(lab: Lab) -> None:
    host = lab.groups["mosquitto"][0]
    planted = "topic write spBv1.0/+/NCMD/#"
    with edited(lab, host, ACL, f"t.replace('user line1\\n', 'user line1\\n{planted}\\n')", *RELOAD):
        checks, record = audit(lab, "ot")
        assert record["verdict"] == "refuted"
        failed = {name for name, check in checks.items() if check["status"] == "fail"}
        assert failed == {"MA0", "MA2", "MA4", "MA5/line1", "MA6/line1", "MA7/line1"}, bad(checks)
        assert "line1" in checks["MA2"]["reason"] and planted in checks["MA2"]["reason"] and planted in checks["MA4"]["reason"]
        assert record["live"]["line1"]["publish"]["seen"] == ["spBv1.0/__canary__/NCMD/__canary__"]
        assert "retained messages deleted, and a new subscription gets none" in record["live"]["line1"]["retained"]["notes"]
    # A right for one node only no canary meets; the rules do.
    with edited(lab, host, ACL, "t.replace('user line1\\n', 'user line1\\ntopic write spBv1.0/plant/DCMD/node/pump\\n')", *RELOAD):
        checks, record = audit(lab, "mosquitto")
        assert set(bad(checks)) == {"MA0", "MA2", "MA4"} and record["verdict"] == "refuted"
        assert "spBv1.0/plant/DCMD/node/pump" in checks["MA0"]["reason"]
    checks, _record = audit(lab, "mosquitto")
    assert not bad(checks)


def test_a_line_too_few_is_named_by_the_next_verify(lab: Lab) -> None:
    host = lab.groups["mosquitto"][0]
    with edited(lab, host, ACL, "t.replace('user telegraf-bridge\\ntopic read line/#\\n', 'user telegraf-bridge\\n')", *RELOAD):
        checks, _record = audit(lab, "mosquitto")
        assert set(bad(checks)) == {"MA4"}
        assert checks["MA4"]["reason"] == "not in the broker's rules: telegraf-bridge: read line/#"
    # Without its corner nobody has a positive control: silence proves nothing.
    with edited(lab, host, ACL, "t.replace('pattern readwrite hnai-audit/%u/#\\n', '')", *RELOAD):
        checks, record = audit(lab, "ot")
        assert record["verdict"] == "inconclusive"
        assert {check["status"] for name, check in checks.items() if name.startswith("MA5/")} == {"inconclusive"}
        assert "no positive control" in checks["MA5/line1"]["reason"] and "hnai-audit/" in checks["MA4"]["reason"]
    # A file that the broker has not loaded is not what it works by.
    with edited(lab, host, ACL, "t + '\\n# later\\n'", "true"):
        checks, record = audit(lab, "mosquitto")
        assert set(bad(checks)) == {"MA0", "MA1"} and record["verdict"] == "inconclusive"
        assert ACL in checks["MA1"]["reason"]
        lab.run(host, *RELOAD)
        checks, _record = audit(lab, "mosquitto")
        assert not bad(checks)
    lab.run(host, *RELOAD)
    checks, _record = audit(lab, "mosquitto")
    assert not bad(checks)
