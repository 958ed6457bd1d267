# SPDX-License-Identifier: Apache-2.0
"""The plant's server discovered: the tags that the inventory declares. Then another certificate for the collector, with the plant's engineer in between;
and another one for the server, which its owner announced.

The server's own record counts sessions and refusals. Afterwards the collector has its old certificate again, and the lab is as it was; the server
keeps its new one.
"""
from __future__ import annotations

import datetime
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import Lab, Run
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from plant_view import collector, source, until

pytestmark = pytest.mark.scenario("opcua-trust")

CONTROL = """
import json, socket, sys
link = socket.socket(socket.AF_UNIX)
link.settimeout(10)
link.connect("/run/hnai-ot_simulator-opcua/control.sock")
link.sendall(sys.argv[1].encode() + b"\\n")
print(link.makefile().readline())
"""
# What the plant's engineer does with a certificate that was handed over.
TRUST = """
import grp, os, sys
path = "/etc/hnai/ot_simulator/trust/hnai-test-next.pem"
if len(sys.argv) > 1:
    with open(path, "w") as stream:
        stream.write(sys.argv[1])
    os.chown(path, 0, grp.getgrnam("hnai-ot_simulator").gr_gid)
    os.chmod(path, 0o640)
elif os.path.exists(path):
    os.unlink(path)
"""
PKI, KEPT, STATE = "/etc/hnai/ot_collector/pki", "/root/hnai-test-pki.tar", "/var/lib/hnai/opcua_trust"
SHIPPER = "hnai-telegraf-shipper.service"
ASK = "Ask the servers, and switch when every one has accepted"


def plant(lab: Lab) -> dict[str, Any]:
    """What the simulator says of itself."""
    return json.loads(lab.plant("/usr/bin/python3", "-c", CONTROL, json.dumps({"status": True})).stdout)


def edge(lab: Lab) -> str:
    """The collector's host."""
    return lab.groups["ot_collector"][0]


def pid(lab: Lab) -> str:
    """Of the shipper, which runs the collector."""
    return lab.run(edge(lab), "systemctl", "show", "--property=MainPID", "--value", SHIPPER).stdout.strip()


def thumbprint(lab: Lab) -> str:
    """SHA-1 of the certificate that the collector reads."""
    line = lab.run(edge(lab), "openssl", "x509", "-in", PKI + "/cert.pem", "-noout", "-fingerprint", "-sha1").stdout
    return line.split("=", 1)[1].strip().replace(":", "").lower()


def verb(lab: Lab, statements: list[dict[str, str]], **extra: Any) -> tuple[Run, dict[str, Any]]:
    """(run, what the module said last) of ``playbooks/opcua_trust.yml``."""
    run = lab.play("playbooks/opcua_trust.yml", extra={"ot_collector_certificate": "site_ca", "ot_collector_trust_statements": statements, **extra},
                   timeout=900)
    told = [event["event_data"]["res"]["trust"] for event in run.events if event["event_data"]["task"] == ASK and "trust" in event["event_data"].get("res", {})]
    assert run.rc == 0 and told, run.stdout[-3000:]
    return run, told[-1]


def judged(lab: Lab, statements: list[dict[str, str]]) -> dict[str, dict[str, Any]]:
    """OT checks by id."""
    host = edge(lab)
    found = lab.adhoc(host, "hnai.platform.opcua_trust_check", {
        "sources": [source(lab, "plc1")], "application_uri": f"urn:hnai:{lab.var(host, 'hnai_site')}:{host}:ot_collector", "statements": statements,
        "collect": True}, timeout=300)
    assert "checks" in found, found
    return {check["id"]: check for check in found["checks"]}


def numbered(tag: dict[str, Any]) -> dict[str, Any]:
    """A tag with its codes as the inventory has them; the way through JSON makes texts of numbers."""
    return {**tag, "codes": {int(key): text for key, text in tag["codes"].items()}} if "codes" in tag else tag


def connected(lab: Lab) -> None:
    """The collector has its session."""
    until("the collector is connected", lambda: collector(lab)["plc1"]["state"] == "connected", 120)


def test_discovery_proposes_the_tags_of_the_inventory(lab: Lab, tmp_path: Path) -> None:
    connected(lab)
    before = plant(lab)
    run = lab.play("playbooks/discover.yml", extra={"source": "plc1", "discover_dir": str(tmp_path)}, timeout=600)
    assert run.rc == 0, run.stdout[-3000:]
    text = (tmp_path / "plc1.yml").read_text(encoding="utf-8")
    proposed = yaml.safe_load(text)["tags"]
    declared = [numbered(tag) for tag in source(lab, "plc1")["tags"]]
    # The one Variable that the inventory leaves out on purpose is the commissioning canary.
    assert [tag["name"] for tag in proposed[len(declared):]] == ["commissioning_canary"]
    assert [{key: value for key, value in tag.items() if key != "path"} for tag in proposed[:len(declared)]] == declared
    assert all(tag["path"][-1].endswith(";" + tag["name"]) for tag in proposed[:len(declared)])
    assert "# gone:" not in text and "# changed:" not in text and "WRITABLE" not in text and "INCOMPLETE" not in text
    after = plant(lab)
    assert [one["name"] for one in after["sessions"]] == [one["name"] for one in before["sessions"]]
    assert after["rejected_identities"] == before["rejected_identities"]
    # A second look proposes the same, and check mode writes nothing.
    again = tmp_path / "again"
    again.mkdir()
    assert lab.play("playbooks/discover.yml", extra={"source": "plc1", "discover_dir": str(again)}, timeout=600).rc == 0
    assert (again / "plc1.yml").read_text(encoding="utf-8") == text
    unwritten = tmp_path / "unwritten"
    assert lab.play("playbooks/discover.yml", "--check", extra={"source": "plc1", "discover_dir": str(unwritten)}, timeout=600).rc == 0
    assert not unwritten.exists()


@pytest.fixture
def site_ca(lab: Lab) -> Iterator[Lab]:
    """OpenBao may sign it; afterwards the certificate, the plant's trust list and the collector are as before."""
    run = lab.play("site.yml", "--tags", "openbao", "--skip-tags", "verify", timeout=900)
    assert run.rc == 0, run.stdout[-3000:]
    connected(lab)
    lab.run(edge(lab), "tar", "-C", PKI, "-cf", KEPT, ".")
    lab.run(edge(lab), "chmod", "0600", KEPT)
    yield lab
    lab.run(edge(lab), "find", PKI, "-mindepth", "1", "-delete")
    lab.run(edge(lab), "tar", "-C", PKI, "-xpf", KEPT)
    lab.run(edge(lab), "rm", "-rf", STATE, KEPT)
    lab.plant("/usr/bin/python3", "-c", TRUST)
    run = lab.play("site.yml", "--tags", "ot_collector,telegraf", "--skip-tags", "verify", timeout=900)
    assert run.rc == 0, run.stdout[-3000:]
    connected(lab)


def test_another_certificate_is_used_when_the_plant_has_accepted_it(site_ca: Lab) -> None:
    lab = site_ca
    old, first_pid, begin = thumbprint(lab), pid(lab), plant(lab)

    # Check mode says it all and leaves nothing.
    run, told = verb_check(lab)
    assert any("make a key" in step for step in told["plan"])
    assert lab.run(edge(lab), "test", "-e", STATE + "/candidate/key.pem", check=False).returncode == 1

    # A candidate; nobody is asked.
    run, told = verb(lab, [])
    new = told["candidate"]["sha1"]
    assert told["phase"] == "candidate" and new != old and [one["source"] for one in told["waiting"]] == ["plc1"]
    assert thumbprint(lab) == old and pid(lab) == first_pid and plant(lab)["refused_certificates"] == begin["refused_certificates"]
    key = lab.run(edge(lab), "stat", "-c", "%a %U", STATE + "/candidate/key.pem").stdout.split()
    assert key == ["600", "root"]

    # Its owner says that it is trusted, and is wrong: one short session, one refusal, and nothing that runs notices.
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    trusted = {"source": "plc1", "thumbprint": new, "state": "trusted", "by": "well pad operations", "date": today}
    samples = collector(lab)["plc1"]["samples"]
    run, told = verb(lab, [trusted])
    (waiting,) = told["waiting"]
    assert new in waiting["why"] and "Refused" not in waiting["why"] and not told["switched"]
    assert plant(lab)["refused_certificates"] == begin["refused_certificates"] + 1
    run, told = verb(lab, [trusted])
    assert plant(lab)["refused_certificates"] == begin["refused_certificates"] + 1, "nobody who refused is asked again by itself"
    assert thumbprint(lab) == old and pid(lab) == first_pid
    assert collector(lab)["plc1"]["state"] == "connected" and collector(lab)["plc1"]["samples"] > samples

    # The plant's engineer trusts it, beside the old one.
    pem = (lab.state / "opcua_trust" / f"{edge(lab)}.pem").read_text(encoding="utf-8")
    lab.plant("/usr/bin/python3", "-c", TRUST, pem)
    run, told = verb(lab, [trusted], opcua_trust_again=["plc1"])
    assert told["switched"] and told["phase"] == "current" and thumbprint(lab) == new and pid(lab) != first_pid
    connected(lab)
    now = plant(lab)
    assert now["refused_certificates"] == begin["refused_certificates"] + 1 and now["rejected_identities"] == begin["rejected_identities"]
    # The simulator names a session after its client's address and port: the new collector's has another name than the old one's.
    before = sorted(one["user"] for one in begin["sessions"])
    until("no session but the collector's is left", lambda: sorted(one["user"] for one in plant(lab)["sessions"]) == before, 60)

    # Both sides are sound; yellow until a person says that the old one is out of the trust list.
    checks = judged(lab, [trusted])
    assert {ident: check["status"] for ident, check in checks.items()} == {
        "OT1": "pass", "OT2": "pass", "OT3": "pass", "OT4": "pass", "OT5": "pass", "OT6": "pass", "OT8": "inconclusive"}, checks
    assert old in checks["OT8"]["reason"]
    removed = {"source": "plc1", "thumbprint": old, "state": "removed", "by": "well pad operations", "date": today}
    assert judged(lab, [trusted, removed])["OT8"]["status"] == "pass"

    # Once more changes nothing.
    second_pid = pid(lab)
    run, told = verb(lab, [trusted])
    assert not run.changed() and pid(lab) == second_pid and not told["restart_due"], run.changed()


def verb_check(lab: Lab) -> tuple[Run, dict[str, Any]]:
    """The plan, in check mode; of the first step, which says what is due."""
    run = lab.play("playbooks/opcua_trust.yml", "--check", extra={"ot_collector_certificate": "site_ca"}, timeout=600)
    assert run.rc == 0, run.stdout[-3000:]
    told = [event["event_data"]["res"]["trust"] for event in run.events
            if event["event_data"]["task"] == "Look, and make a key" and "trust" in event["event_data"].get("res", {})]
    return run, told[-1]


def renewed(old: bytes) -> tuple[bytes, bytes]:
    """(key, certificate) in PEM: another key, and for the rest what the old certificate says."""
    key, before = rsa.generate_private_key(65537, 2048), x509.load_pem_x509_certificate(old)
    after = x509.CertificateBuilder().subject_name(before.subject).issuer_name(before.subject).public_key(key.public_key()).serial_number(
        x509.random_serial_number()).not_valid_before(before.not_valid_before_utc).not_valid_after(before.not_valid_after_utc)
    for one in before.extensions:
        if not isinstance(one.value, (x509.SubjectKeyIdentifier, x509.AuthorityKeyIdentifier)):
            after = after.add_extension(one.value, one.critical)
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()), after.sign(
        key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def sha256(pem: bytes) -> list[str]:
    return [one.fingerprint(hashes.SHA256()).hex() for one in x509.load_pem_x509_certificates(pem)]


@pytest.fixture
def announced(lab: Lab, tmp_path: Path) -> Iterator[tuple[Path, bytes, bytes]]:
    """(inventory with both pins of plc1, the next key, the next certificate); afterwards the certificate that the server has is the only pin."""
    vendor = lab.state / "lab" / "plc1"
    folder = Path(shutil.copytree(lab.inventory.parent, tmp_path / "site"))
    old = (vendor / "opcua-server.pem").read_bytes()
    key, new = renewed(old)
    for name, pem in (("old", old), ("next", new)):
        (tmp_path / f"{name}.pem").write_bytes(pem)
    sources = folder / "group_vars/all/ot_sources.yml"
    line = '    server_certificate_file: "{{ hnai_state_dir }}/lab/plc1/opcua-server.pem"\n'
    text = sources.read_text(encoding="utf-8")
    assert text.count(line) == 1
    sources.write_text(text.replace(line, f"    server_certificate_file: {tmp_path}/old.pem\n    server_certificate_next_file: {tmp_path}/next.pem\n"),
                       encoding="utf-8")
    yield folder / lab.inventory.name, key, new
    for playbook, *tags in (("playbooks/lab/simulators.yml",), ("site.yml", "--tags", "ot_collector,telegraf", "--skip-tags", "verify")):
        run = lab.play(playbook, *tags, timeout=900)
        assert run.rc == 0, run.stdout[-3000:]
    connected(lab)
    assert len(pinned(lab)) == 1


def pinned(lab: Lab) -> list[str]:
    """sha256 of each."""
    return sha256(lab.run(edge(lab), "cat", "/etc/hnai/ot_collector/servers/plc1.pem").stdout.encode())


def test_a_server_that_changes_its_announced_certificate_is_read_and_audited_on(lab: Lab, announced: tuple[Path, bytes, bytes]) -> None:
    inventory, key, new = announced
    vendor = lab.state / "lab" / "plc1"
    old = (vendor / "opcua-server.pem").read_bytes()
    connected(lab)
    run = lab.play("site.yml", "--tags", "ot_collector,telegraf", "--skip-tags", "verify", inventory=inventory, timeout=900)
    assert run.rc == 0, run.stdout[-3000:]
    (before,), (after,) = sha256(old), sha256(new)
    assert pinned(lab) == [before, after]
    until("the collector is connected with the old one", lambda: collector(lab)["plc1"].get("pin") == before, 120)
    # Its owner switches.
    (vendor / "opcua-server.key").write_bytes(key)
    (vendor / "opcua-server.pem").write_bytes(new)
    run = lab.play("playbooks/lab/simulators.yml", timeout=900)
    assert run.rc == 0, run.stdout[-3000:]
    until("the collector took the other pin", lambda: (collector(lab)["plc1"]["state"], collector(lab)["plc1"].get("pin")) == ("connected", after), 180)
    lab.play("playbooks/verify.yml", "--tags", "ot", inventory=inventory, timeout=600)
    record = json.loads((lab.state / "verdicts/latest/record.json").read_text(encoding="utf-8"))
    found = {check["id"]: check for verdict in record["verdicts"] for check in verdict["checks"] if check["id"].startswith("OA")}
    assert not {id: check.get("reason") for id, check in found.items() if check["status"] in ("fail", "inconclusive")}
    assert found["OA6"]["status"] == "pass" and found["OA6"]["observed"] == after
