# SPDX-License-Identifier: Apache-2.0
"""Intrusive proofs under a person's token: the Modbus filter lets only reads through, and the OPC UA server refuses the mirror's write.

Each is asked again after a fault was planted: one function more in the filter, another user allowed to dial, one right too many at the canary.
"""
from __future__ import annotations

import datetime
import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import Lab
from plant_view import collector, source, until

from ansible_collections.hnai.platform.plugins.module_utils import intrusive

pytestmark = pytest.mark.scenario("ot-probes")
APPROVER = "j.doe"
FILTER = "/etc/hnai/modbus_filter/filter.json"
CREDENTIAL = "/etc/credstore.encrypted/hnai-ot_audit.opcua_plc1_commissioning"
PATH = ["nsu=urn:hnai:lab:pad1;Pad1", "nsu=urn:hnai:lab:pad1;CommissioningCanary"]


class Approver:
    """A person with a key of their own, for the time of a test."""

    def __init__(self, folder: Path, site: str) -> None:
        self.key, self.site = folder / "approver", site
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.key)], check=True, timeout=30)

    def token(self, endpoint: str, hours: float = 2) -> dict[str, str]:
        """Signed as the runbook says."""
        now = datetime.datetime.now(datetime.timezone.utc)
        begin, end = (moment.strftime(intrusive.TIME) for moment in (now - datetime.timedelta(minutes=1), now + datetime.timedelta(hours=hours)))
        text = intrusive.text(self.site, endpoint, begin, end, APPROVER)
        command = ["ssh-keygen", "-Y", "sign", "-f", str(self.key), "-n", intrusive.NAMESPACE]
        signature = subprocess.run(command, input=text, check=True, capture_output=True, text=True, timeout=30).stdout
        return {"site": self.site, "endpoint": endpoint, "from": begin, "to": end, "approver": APPROVER, "signature": signature}

    def allows(self, *endpoints: str) -> dict[str, Any]:
        """Variables of a run under tokens."""
        return {
            "hnai_intrusive_approvers": {APPROVER: self.key.with_suffix(".pub").read_text(encoding="utf-8").strip()},
            "hnai_intrusive_tokens": [self.token(endpoint) for endpoint in endpoints],
        }


@pytest.fixture
def approver(lab: Lab, tmp_path: Path) -> Approver:
    return Approver(tmp_path, lab.var("edge1", "hnai_site"))


def judged(lab: Lab, family: str, extra: dict[str, Any]) -> tuple[int, dict[str, str], dict[str, str]]:
    """(exit code, {id: worst status}, {id: reason}) of `verify --tags ot -e profile=full`, of the checks whose id begins with *family*."""
    run = lab.play("playbooks/verify.yml", "--tags", "ot", extra={"profile": "full", **extra}, timeout=900)
    assert "Nothing was begun" not in run.stdout, run.stdout
    record = json.loads((lab.state / "verdicts" / "latest" / "record.json").read_text(encoding="utf-8"))
    worst = ["fail", "inconclusive", "skipped", "pass"]
    statuses: dict[str, str] = {}
    reasons: dict[str, str] = {}
    for check in (check for verdict in record["verdicts"] for check in verdict["checks"] if check["id"].startswith(family)):
        known = statuses.get(check["id"], "pass")
        statuses[check["id"]] = min(known, check["status"], key=worst.index)
        reasons[check["id"]] = (reasons.get(check["id"], "") + " " + str(check.get("reason") or check.get("observed") or "")).strip()
    assert statuses, run.stdout[-3000:]
    return run.rc, statuses, reasons


def bad(statuses: dict[str, str]) -> set[str]:
    return {ident for ident, status in statuses.items() if status in ("fail", "inconclusive")}


def loaded(lab: Lab) -> None:
    """The filter runs with the file that lies there now."""
    lab.run("edge1", "systemctl", "restart", "hnai-modbus_filter.service")
    until("the filter asks the device again", lambda: filtering(lab)["devices"][0]["served"] > 0, 60)


def filtering(lab: Lab) -> dict[str, Any]:
    return json.loads(lab.run("edge1", "cat", "/run/hnai/modbus_filter/status.json").stdout)


@contextmanager
def changed(lab: Lab) -> Iterator[dict[str, Any]]:
    """The filter's configuration, changed by hand and put back."""
    text = lab.run("edge1", "cat", FILTER).stdout
    config = json.loads(text)
    try:
        yield config
    finally:
        lab.run("edge1", "tee", FILTER, stdin=text)
        loaded(lab)


@contextmanager
def dialling(lab: Lab) -> Iterator[None]:
    """The collector's user may dial the canary past the filter: a rule too many on the host and on the router."""
    comment = "hnai-test-past-the-filter"
    where = {"edge1": "output", "router": "forward"}
    try:
        for host, chain in where.items():
            lab.run(host, "nft", "insert", "rule", "inet", "hnai", chain, "tcp", "dport", "1502", "counter", "accept", "comment", f'"{comment}"')
        yield
    finally:
        for host, chain in where.items():
            for line in lab.run(host, "nft", "-a", "list", "chain", "inet", "hnai", chain).stdout.splitlines():
                if comment in line:
                    lab.run(host, "nft", "delete", "rule", "inet", "hnai", chain, "handle", line.rsplit(" ", 1)[1])


def test_the_filter_is_proven_and_each_hole_in_it_is_named(lab: Lab, approver: Approver) -> None:
    extra = approver.allows("modbus://plc1:1502")
    served = filtering(lab)["devices"][0]["refused"]
    _rc, statuses, reasons = judged(lab, "MF", extra)
    assert not bad(statuses), reasons
    assert set(statuses) == {f"MF{number}" for number in range(10)} and set(statuses.values()) == {"pass"}, statuses
    assert reasons["MF0"].startswith("proven"), reasons["MF0"]
    # Not one of the probes was aimed at the device itself.
    assert filtering(lab)["devices"][0]["refused"] == served

    with changed(lab) as config:
        for device in config["devices"]:
            device["allow"].append({**device["allow"][0], "function": 3})
        lab.run("edge1", "tee", FILTER, stdin=json.dumps(config))
        loaded(lab)
        rc, statuses, reasons = judged(lab, "MF", extra)
        # It obeys what it loaded (MF4 to MF7 hold it to that); what it loaded is not the inventory's.
        assert rc != 0 and {ident for ident, status in statuses.items() if status == "fail"} == {"MF0", "MF1"}, (statuses, reasons)
        assert reasons["MF0"].startswith("MF1: sep1 may be asked for") and '"function": 3' in reasons["MF0"], reasons["MF0"]

    with dialling(lab):
        rc, statuses, reasons = judged(lab, "MF", extra)
        assert rc != 0 and {ident for ident, status in statuses.items() if status == "fail"} == {"MF0", "MF8"}, (statuses, reasons)
        assert "hnai-telegraf" in reasons["MF8"], reasons["MF8"]

    _rc, statuses, reasons = judged(lab, "MF", extra)
    assert not bad(statuses), reasons


def test_without_a_valid_token_nothing_is_sent(lab: Lab, approver: Approver) -> None:
    begin = filtering(lab)["devices"][1]
    old = approver.allows("modbus://plc1:1502")
    old["hnai_intrusive_tokens"][0]["to"] = "2031-01-01T00:00:00Z"
    # A token that was changed after it was signed, and one for the device itself: nobody probes a device.
    for extra in (old, approver.allows("modbus://plc1:502")):
        _rc, statuses, reasons = judged(lab, "MF", extra)
        live = {f"MF{number}" for number in range(4, 10)}
        assert {ident for ident, status in statuses.items() if status == "skipped"} == live, (statuses, reasons)
        assert reasons["MF0"].startswith("claimed"), reasons["MF0"]
    after = filtering(lab)["devices"][1]
    assert (after["served"], after["refused"], after["dials"]) == (begin["served"], begin["refused"], begin["dials"])


@pytest.fixture
def commissioning(lab: Lab) -> Iterator[None]:
    """The commissioning identity's password lies on the mirror's host for as long as the test lasts."""
    until("the collector is connected", lambda: collector(lab)["plc1"]["state"] == "connected", 90)
    password = (lab.state / "lab/plc1/engineer.password").read_text(encoding="utf-8").strip()
    lab.run("edge1", "systemd-creds", "encrypt", "--name=opcua_plc1_commissioning", "-", CREDENTIAL, stdin=password)
    yield
    lab.run("edge1", "rm", "-f", CREDENTIAL)


def test_the_server_refuses_the_mirrors_write(lab: Lab, approver: Approver, commissioning: None) -> None:
    endpoint = source(lab, "plc1")["endpoint"]
    extra = {
        "ot_collector_write_probe": "canary",
        "ot_collector_write_canaries": {"plc1": {"path": PATH, "marker": "write canary of Pad1", "username": "engineer"}},
        **approver.allows(endpoint),
    }
    _rc, statuses, reasons = judged(lab, "OW", extra)
    assert not bad(statuses), (statuses, reasons)
    assert reasons["OW0"].startswith("proven"), reasons
    # It holds for the tags of the canary's rights, the setpoints that an engineer may write, and says that the others have other rights.
    setpoints = [tag for tag in source(lab, "plc1")["tags"] if tag["name"].endswith("_setpoint")]
    assert statuses["OW5"] == "skipped" and f"of {len(source(lab, 'plc1')['tags'])} tags have other rights" in reasons["OW5"] and setpoints, reasons
    # The audit before it tried the two logins that should be refused, under the same token.
    record = json.loads((lab.state / "verdicts" / "latest" / "record.json").read_text(encoding="utf-8"))
    logins = {c["id"]: c["status"] for verdict in record["verdicts"] for c in verdict["checks"] if c["id"] in ("OA4", "OA5")}
    assert logins == {"OA4": "pass", "OA5": "pass"}, logins
    # A token is good for one attempt.
    _rc, statuses, reasons = judged(lab, "OW", extra)
    assert statuses["OW0"] in ("skipped", "inconclusive") and "proven" not in reasons["OW0"], (statuses, reasons)
    # Another marker is another node: nothing is written.
    wrong = {**extra, **approver.allows(endpoint)}
    wrong["ot_collector_write_canaries"] = {"plc1": {"path": PATH, "marker": "something else", "username": "engineer"}}
    _rc, statuses, reasons = judged(lab, "OW", wrong)
    assert statuses["OW1"] in ("fail", "inconclusive") and "marker" in reasons["OW1"], (statuses, reasons)
