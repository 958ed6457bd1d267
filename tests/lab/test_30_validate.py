# SPDX-License-Identifier: Apache-2.0
"""`validate` as an operator runs it, on a damaged copy of the site: every mistake in one run, and no host is contacted.

Needs no lab. The hosts' addresses lead nowhere (TEST-NET-1), and a client of SSH that was called would leave a trace.
"""
from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT

CONDUITS, HOSTS, MISTAKES = "group_vars/all/conduits.yml", "hosts.yml", "group_vars/all/mistakes.yml"
REPORTER = "roles/reporter/meta/component.yml"
CONTRACT = {
    "name": "reporter",
    "purpose": "Sends a report of the shift",
    "levels": ["l3"],
    "listens": [{"name": "http", "proto": "tcp", "port": 8883, "bind": "any", "tls": True, "authentication": "password"}],
    "connects": [{"to": "kafka", "listener": "l3", "reason": "the report of the shift"}],
    "artifacts": [],
    "service": {"units": []},
    "secrets": [],
    "health": "none",
    "state": [],
    "ui": "none",
    "requirements": [],
}


@dataclass(frozen=True)
class Refusal:
    """Where a mistake must be found, and what must be said about it."""

    file: str
    key: str
    message: str
    remedy: str


REFUSED = {
    "a component without a conduit": Refusal(CONDUITS, "hnai_conduits: reporter → kafka.l3", "edge2 → kafka1", "approve a conduit tcp/9094"),
    "a conduit 4→3 that a person approved": Refusal(CONDUITS, "hnai_conduits[C-900]", "never allowed, even if a person approved it", "IDMZ"),
    "Kafka on level 2": Refusal(HOSTS, "groups.kafka: kafka3", "kafka stands on kafka3 in zone l2", "it may stand in l35"),
    "two listeners on one port": Refusal(REPORTER, "listens.http.port", "both listen on tcp/8883 of edge1", "change one of the two ports"),
    "an even quorum": Refusal("inventory", "groups.openbao", "2 voting members: sec1, sec2", "use 1 or 3"),
    "a queue too small for the outage": Refusal(MISTAKES, "edge1: mosquitto_max_queued_messages", "100 records is too small", "to at least 12000"),
    "an unknown variable with our prefix": Refusal(MISTAKES, "kafka_heep", "a variable that nothing reads", "did you mean kafka_heap?"),
}


@dataclass
class Found:
    """What one run said."""

    code: int
    errors: list[dict[str, str]]
    output: str
    contacted: bool


def change(path: Path, alter: Any) -> None:
    """Alter a YAML file."""
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    alter(content)
    path.write_text(yaml.safe_dump(content), encoding="utf-8")


def hosts(content: dict[str, Any]) -> None:
    """Kafka on level 2, a second member of OpenBao, a component more."""
    children = content["all"]["children"]["managed"]["children"]
    children["kafka"]["hosts"]["kafka3"].update(hnai_zone="l2", hnai_addresses={"v4": "10.77.2.33", "v6": "fd77:0:0:2::33"})
    children["openbao"]["hosts"]["sec2"] = {
        "hnai_debian": "12",
        "hnai_zone": "security",
        "hnai_addresses": {"v4": "10.77.36.12", "v6": "fd77:0:0:36::12"},
    }
    edge2 = {"hnai_debian": "12", "hnai_zone": "l3", "hnai_addresses": {"v4": "10.77.3.12", "v6": "fd77:0:0:3::12"}}
    children["reporter"] = {"hosts": {"edge1": None, "edge2": edge2}}


def conduits(content: dict[str, Any]) -> None:
    """4→3, with owner, reason and an end."""
    content["hnai_conduits"].append(
        {
            "id": "C-900",
            "from": {"host": "stream1"},
            "to": {"host": "edge1"},
            "service": {"component": "mosquitto", "listener": "mqtt"},
            "kind": "direct",
            "data_direction": "down",
            "owner": "a person",
            "reason": "it was urgent",
            "expires": "2099-12-31",
        }
    )


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    """One run of the playbook on everything that is wrong at once."""
    base = tmp_path_factory.mktemp("site")
    # A copy of the collection, because one mistake is in a contract.
    collection = base / "collections/ansible_collections/hnai/platform"
    for part in ("plugins", "playbooks", "roles", "meta"):
        shutil.copytree(ROOT / part, collection / part, ignore=shutil.ignore_patterns("__pycache__", "files"))
    shutil.copy(ROOT / "galaxy.yml", collection)
    contract = collection / REPORTER
    contract.parent.mkdir(parents=True)
    contract.write_text(yaml.safe_dump(CONTRACT), encoding="utf-8")

    inventory = base / "lab"
    shutil.copytree(ROOT / "inventories/lab", inventory)
    change(inventory / HOSTS, hosts)
    change(inventory / CONDUITS, conduits)
    change(inventory / "group_vars/managed/connection.yml", lambda content: content.update(ansible_host="192.0.2.1"))
    (inventory / MISTAKES).write_text("---\nmosquitto_max_queued_messages: 100\nkafka_heep: 1g\n", encoding="utf-8")

    tools = base / "bin"
    tools.mkdir()
    for name in ("ssh", "scp", "sftp", "sshpass"):
        (tools / name).write_text('#!/bin/sh\ntouch "$0.called"\nexit 255\n', encoding="utf-8")
        (tools / name).chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{tools}:{os.environ['PATH']}",
        "HNAI_STATE_DIR": str(base / "state"),
        "ANSIBLE_COLLECTIONS_PATH": str(base / "collections"),
        "ANSIBLE_NOCOLOR": "1",
    }
    command = [str(Path(sys.executable).with_name("ansible-playbook")), str(collection / "playbooks/validate.yml"), "-i", str(inventory / HOSTS)]
    run = subprocess.run([*command, "-e", "format=json"], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=180, check=False)
    line = next((line for line in run.stdout.splitlines() if line.startswith('{"errors"')), '{"errors": []}')
    return Found(run.returncode, json.loads(line)["errors"], run.stdout + run.stderr, any(tools.glob("*.called")))


@pytest.mark.parametrize("name", REFUSED)
def test_each_mistake_is_refused_with_file_key_and_remedy(found: Found, name: str) -> None:
    wanted = REFUSED[name]
    matching = [one for one in found.errors if one["key"] == wanted.key]
    assert matching, f"{wanted.key} is not among {[one['key'] for one in found.errors]}\n{found.output[-2000:]}"
    error = matching[0]
    assert error["file"].endswith(wanted.file), error
    assert wanted.message in error["message"], error
    assert wanted.remedy in error["remedy"], error


def test_it_fails_in_one_run(found: Found) -> None:
    assert found.code != 0, found.output
    assert len(found.errors) >= len(REFUSED)
    assert all(one["file"] and one["key"] and one["message"] and one["remedy"] for one in found.errors)
    assert "no host was contacted" in found.output


def test_no_host_is_contacted(found: Found) -> None:
    assert not found.contacted
    assert "UNREACHABLE" not in found.output
