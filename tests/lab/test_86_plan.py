# SPDX-License-Identifier: Apache-2.0
"""A changed setting of Kafka: the plan names the file and three restarts, one at a time behind the gate, and no host is changed."""
from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import Lab

pytestmark = pytest.mark.scenario("plan")
FILE = "/etc/hnai/kafka/server.properties"
UNIT = "hnai-kafka.service"


def state(lab: Lab, host: str) -> tuple[str, str, str]:
    """(digest of the configuration, digests of every tree that we own, start of the unit) of a broker."""
    digests = lab.run(host, "sha256sum", FILE).stdout
    records = lab.run(host, "sh", "-c", "sha256sum /var/lib/hnai/trees/*.json /etc/hnai/digests/*").stdout
    return digests, records, lab.run(host, "systemctl", "show", "--property=InvocationID", "--value", UNIT).stdout


def test_a_setting_of_kafka_is_planned_and_nothing_is_changed(lab: Lab, tmp_path: Path) -> None:
    brokers = lab.groups["kafka"]
    before = lab.each(brokers, lambda host: state(lab, host))
    file = tmp_path / "plan.json"
    run = lab.play("playbooks/plan.yml", "--check", "--diff", "--tags", "kafka", extra={"kafka_reauth_ms": 840000, "plan_file": str(file)})
    assert run.rc == 0, run.stdout[-3000:]
    plan = json.loads(file.read_text(encoding="utf-8"))
    assert plan["complete"], plan["failed"]
    assert {host: [item["path"] for item in found["files"]] for host, found in plan["hosts"].items()} == {host: [FILE] for host in brokers}
    assert sorted(item["host"] for item in plan["restarts"]) == sorted(brokers)
    for item in plan["restarts"]:
        assert (item["unit"], item["one_at_a_time"], item["gate"]) == (UNIT, True, "kafka_restart_gate allowed"), item
        assert FILE in item["causes"]
    assert "Restarts and reloads, in this order:" in run.stdout
    assert lab.each(brokers, lambda host: state(lab, host)) == before


def test_without_a_change_there_is_nothing_to_plan(lab: Lab, tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    run = lab.play("playbooks/plan.yml", "--check", extra={"plan_file": str(file)})
    assert run.rc == 0, run.stdout[-3000:]
    plan = json.loads(file.read_text(encoding="utf-8"))
    assert (plan["hosts"], plan["restarts"]) == ({}, [])
