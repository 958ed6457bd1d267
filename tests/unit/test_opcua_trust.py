# SPDX-License-Identifier: Apache-2.0
"""Real servers with trust lists of their own: who has accepted the new certificate, in how many sessions; and what is wrong with what servers present."""
from __future__ import annotations

import asyncio
import contextlib
import copy
import hashlib
import json
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from asyncua import ua
from asyncua.ua.ua_binary import struct_to_binary
from hnai_ot_collector import config, ua_channel
from opcua_stand import CLIENT_URI, SERVER_URI
from trust_ca import Authority, weak
from trust_stand import NAMES, Site, crl, der, odd, present, servers

from ansible_collections.hnai.platform.plugins.module_utils.opcua import audit_host, trust_channel, trust_judge
from ansible_collections.hnai.platform.plugins.module_utils.opcua.audit_types import AuditError, Certificate
from ansible_collections.hnai.platform.plugins.module_utils.opcua.trust import Crypto, Outcome, Statement
from ansible_collections.hnai.platform.plugins.module_utils.verdict import Report

QUIET = {"CreateSession", "ActivateSession"}


@pytest.fixture(scope="module")
def ca() -> Authority:
    return Authority(CLIENT_URI, spare=0, now=time.time())


@pytest.fixture(scope="module")
def plant(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    with servers(tmp_path_factory.mktemp("plant")) as stands:
        yield stands


@pytest.fixture
def site(tmp_path: Path, plant: dict[str, Any], ca: Authority) -> Iterator[Site]:
    kept = {name: [bytes(one.ServerCertificate) for one in stand.server.iserver.endpoints] for name, stand in plant.items()}
    yield Site(tmp_path, plant, ca)
    for name, stand in plant.items():
        for endpoint, certificate in zip(stand.server.iserver.endpoints, kept[name], strict=True):
            endpoint.ServerCertificate = certificate


def said(outcome: Outcome, state: str = "trusted") -> list[Statement]:
    thumbprint = outcome.candidate["sha1"] if state == "trusted" else outcome.removals[0]["thumbprint"]
    return [Statement(name, thumbprint, state, "A. Engineer", "2026-11-20") for name in NAMES]


def test_a_new_certificate_is_used_when_the_last_of_three_servers_has_accepted_it(site: Site) -> None:
    told = site.candidate()
    statements = said(told)
    new = der(told.candidate["pem"])
    for name in ("plc1", "plc2"):
        site.plant[name].list.trusted.add(new)
    told = site.switch(statements)
    assert told.accepted == ["plc1", "plc2"] and not told.switched
    (waiting,) = told.waiting
    assert waiting["source"] == "plc3" and "BadCertificateUntrusted" in waiting["why"] and told.candidate["sha1"] in waiting["why"]
    assert (site.places.pki / "cert.pem").read_bytes() == site.old
    # The servers' own counts: one short session each, closed; one login each where it came to that.
    assert site.sessions() == dict.fromkeys(NAMES, 1) and not [one for stand in site.plant.values() for one in stand.sessions() if one]
    assert [stand.users.tries for stand in site.plant.values()] == [1, 1, 0] and site.plant["plc3"].list.refused == 1
    told = site.switch(statements)
    assert site.sessions() == dict.fromkeys(NAMES, 1) and "only when it is named" in told.waiting[0]["why"]
    # The owner of the third one puts it right.
    site.plant["plc3"].list.trusted.add(new)
    told = site.switch(statements, again=("plc3",))
    assert told.switched and told.restart_due and site.sessions() == {"plc1": 1, "plc2": 1, "plc3": 2}
    assert der((site.places.pki / "cert.pem").read_bytes()) == new
    # What the collector does next: the pair in use is let in everywhere.
    dialler = site.dialler()
    for entry in site.entries:
        dialler.session(entry, (site.places.pki / "cert.pem").read_bytes(), (site.places.pki / "key.pem").read_bytes())
    assert not {"Write", "Call"} & {name for stand in site.plant.values() for name in stand.services}
    # Open until a person says that the old one is out of each list.
    found = site.found()
    assert found["OT8"][0] == "inconclusive" and "plc2: the removal of" in found["OT8"][1] and "runs with the certificate before" in found["OT8"][1]
    status = json.loads(site.places.status.read_text())
    site.places.status.write_text(json.dumps({**status, "started": int((site.now + 1) * 1e7)}))
    assert site.found(said=said(told, "removed"))["OT8"] == ("pass", "")


def test_a_site_whose_certificates_are_sound(site: Site) -> None:
    # Three keys for three servers; our own names no serverAuth, which nobody asks of it here.
    found = site.found()
    assert {status for status, _ in found.values()} == {"pass"}, found
    assert set(found) == {"OT1", "OT2", "OT6", "OT8"} | {"%s:%s" % (ident, name) for ident in ("OT3", "OT4", "OT5") for name in NAMES}
    for stand in site.plant.values():
        assert stand.services["GetEndpoints"] == 1 and not QUIET & set(stand.services), "no session, no login"
    assert len(audit_host.State(site.places.state, "plc1", True).read("dials")) == 1, "it counts against the conduit as the audit does"


def odd_pem() -> bytes:
    return Crypto().pem_of(odd(bits=2048))


def collector_config(entry: dict[str, Any]) -> Any:
    """A source as the collector's own program reads it."""
    raw = {"status_file": "/tmp/none", "state_file": "/tmp/none", "queue_records": 100, "sources": [entry]}
    return config.parse(raw, "f").sources[0]


def test_each_fault_of_a_server_turns_its_own_check(site: Site, tmp_path: Path) -> None:
    present(site, "plc1", der(weak(SERVER_URI, "serverAuth", 365, tmp_path)[0]))
    present(site, "plc2", odd(bits=1024, uri="urn:somebody:else", days=-3.0))
    found = site.found()
    assert found["OT3:plc1"][0] == found["OT3:plc2"][0] == "fail" and "nobody has pinned" in found["OT3:plc1"][1]
    assert found["OT4:plc1"][0] == "fail" and found["OT4:plc1"][1].endswith("its RSA key has only 1024 bits; it is signed with sha1")
    assert "it has expired" in found["OT4:plc2"][1] and "urn:somebody:else" in found["OT4:plc2"][1]
    assert found["OT5:plc2"][0] == "fail" and found["OT5:plc1"][0] == "pass"
    assert {found[ident][0] for ident in ("OT3:plc3", "OT4:plc3", "OT5:plc3", "OT6", "OT1", "OT2")} == {"pass"}
    kept = Path(site.host.at("/var/lib/hnai/opcua_trust/review/plc1"))
    (file,) = kept.iterdir()
    assert der(file.read_bytes()) == bytes(site.plant["plc1"].server.iserver.endpoints[0].ServerCertificate)


def test_a_certificate_that_nobody_can_read_is_a_reason_where_it_is_used_and_nowhere_else(site: Site) -> None:
    sound, rsa_key = odd(bits=2048), bytes.fromhex("06092a864886f70d010101")
    unknown = sound.replace(rsa_key, bytes.fromhex("06092a864886f70d01017f"))
    endpoints = site.plant["plc1"].server.iserver.endpoints
    endpoints.append(copy.deepcopy(endpoints[0]))
    endpoints[-1].SecurityPolicyUri, endpoints[-1].ServerCertificate = "http://opcfoundation.org/UA/SecurityPolicy#ECC_curve448", unknown
    try:
        assert {status for status, _ in site.found().values()} == {"pass"}
    finally:
        endpoints.pop()
    present(site, "plc1", unknown)
    found = site.found()
    assert found["OT3:plc1"][0] == "inconclusive" and "Unknown key type" in found["OT3:plc1"][1] and found["OT3:plc2"][0] == "pass"


def test_the_announced_certificate_is_as_good_as_the_pinned_one(site: Site) -> None:
    following = odd(bits=2048)
    pin = site.places.servers / "plc1.pem"
    alone = pin.read_bytes()
    pin.write_bytes(alone + b"\n" + Crypto().pem_of(following))
    assert site.found()["OT3:plc1"][0] == "pass", "before the change"
    present(site, "plc1", following)
    assert site.found()["OT3:plc1"][0] == "pass", "after it"
    pin.write_bytes(alone)
    assert site.found(write=False)["OT3:plc1"][0] == "fail", "without an announcement"
    assert not Path(site.host.at("/var/lib/hnai/opcua_trust/review")).exists(), "check mode, and announced ones, leave nothing"


def test_the_collector_finds_the_one_of_two_pins_that_the_server_has(site: Site, tmp_path: Path) -> None:
    pins = tmp_path / "two.pem"
    pins.write_bytes(odd_pem() + b"\n" + site.plant["plc1"].server_pair[0])
    entry = {"id": "two", "protocol": "opcua", "endpoint": site.plant["plc1"].url, "username": "observer", "application_uri": CLIENT_URI,
             "certificate": str(site.places.pki / "cert.pem"), "private_key": str(site.places.pki / "key.pem"), "server_certificate": str(pins),
             "tags": [{"name": "a", "node": "nsu=urn:x;s=A", "type": "double"}]}
    source = collector_config(entry)

    async def dial() -> str:
        channel = ua_channel.Channel(source, "secret")
        await channel.open()
        await channel.close(5.0)
        return channel.pin

    with pytest.raises(ua_channel.LinkError):
        asyncio.run(dial())
    assert not site.plant["plc1"].services["ActivateSession"], "nothing secret was sent for a certificate that the server does not have"
    met = hashlib.sha256(bytes(site.plant["plc1"].server.iserver.endpoints[0].ServerCertificate)).hexdigest()
    assert [asyncio.run(dial()), asyncio.run(dial())] == [met, met], "audits go by it"
    assert site.plant["plc1"].services["ActivateSession"] == 2, "and it stays with the one that was right"


def test_what_the_collector_takes_is_bounded_whatever_the_server_acknowledges(site: Site, tmp_path: Path) -> None:
    pins = tmp_path / "pin.pem"
    pins.write_bytes(site.plant["plc1"].server_pair[0])
    entry = {"id": "one", "protocol": "opcua", "endpoint": site.plant["plc1"].url, "username": "observer", "application_uri": CLIENT_URI,
             "certificate": str(site.places.pki / "cert.pem"), "private_key": str(site.places.pki / "key.pem"),
             "server_certificate": str(pins), "tags": [{"name": "a", "node": "nsu=urn:x;s=A", "type": "double"}]}

    async def dial() -> list[int]:
        channel = ua_channel.Channel(collector_config(entry), "secret")
        await channel.open()
        limits = channel._ua.protocol._connection._limits
        await channel.close(5.0)
        return [limits.max_message_size, limits.max_recv_buffer]

    assert asyncio.run(dial()) == [ua_channel.MESSAGE_LIMIT, ua_channel.asyncua_bounds.CHUNK_LIMIT]


def endless(server: socket.socket, sent: list[int]) -> None:
    """Acknowledges without limits, opens a channel, and answers what is asked then in parts that never end."""
    link, _peer = server.accept()
    with link, contextlib.suppress(OSError):
        link.settimeout(20)
        assert link.recv(65536)[:4] == b"HELF"
        link.sendall(b"ACKF" + struct.pack("<IIIIII", 28, 0, 65536, 65536, 0, 0))
        opening = link.recv(65536)
        opened = ua.OpenSecureChannelResponse()
        opened.Parameters.SecurityToken.ChannelId = opened.Parameters.SecurityToken.TokenId = 1
        opened.Parameters.SecurityToken.RevisedLifetime = 60000
        policy = b"http://opcfoundation.org/UA/SecurityPolicy#None"
        body = struct.pack("<II", 1, len(policy)) + policy + struct.pack("<ii", -1, -1) + struct.pack("<I", 1)
        body += opening[28 + len(policy):][:4] + bytes(struct_to_binary(opened))
        link.sendall(b"OPNF" + struct.pack("<I", len(body) + 8) + body)
        asked = link.recv(65536)
        for number in range(2, 2002):
            part = struct.pack("<III", 1, 1, number) + asked[20:24] + bytes(60000)
            link.sendall(b"MSGC" + struct.pack("<I", len(part) + 8) + part)
            sent.append(len(part))


def test_an_answer_without_an_end_is_left_where_it_grows_too_large() -> None:
    sent: list[int] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(20)
        thread = threading.Thread(target=endless, args=(server, sent))
        thread.start()
        with pytest.raises(AuditError):
            trust_channel.presented("opc.tcp://127.0.0.1:%d/" % server.getsockname()[1], "", "Basic256Sha256", "SignAndEncrypt", 15.0)
        thread.join(30)
    # 120 MB would be sent; what is on its way in the system's buffers is not read.
    assert 16 <= len(sent) < 400


def test_one_certificate_at_two_servers(site: Site) -> None:
    present(site, "plc2", bytes(site.plant["plc1"].server.iserver.endpoints[0].ServerCertificate))
    found = site.found()
    assert found["OT6"][0] == "fail" and "plc1 and plc2" in found["OT6"][1] and found["OT3:plc2"][0] == "fail"


def test_one_key_in_two_certificates_is_shared_too() -> None:
    def judged(*keys: str) -> trust_judge.Check:
        report = Report("x", deadline_s=None)
        certificates = [Certificate("sha%d" % number, "", "", "", 0.0, 9e9, "RSA", 2048, "sha256", key_sha256=key) for number, key in enumerate(keys)]
        found = [trust_judge.Server("plc%d" % number, one, pins=[one.sha256]) for number, one in enumerate(certificates)]
        trust_judge.servers(report, found, trust_judge.Context(1.0))
        return next(check for check in report.checks if check.id == "OT6")

    assert judged("a", "b").status == judged("", "").status == "pass"
    assert judged("a", "b", "a").reason == "plc0 and plc2: the same key in different certificates (a)"


def test_a_server_that_says_nothing_is_no_pass(site: Site) -> None:
    site.entries[0]["endpoint"] = "opc.tcp://127.0.0.1:9/"
    found = site.found()
    assert {found[ident + ":plc1"][0] for ident in ("OT3", "OT4", "OT5")} == {"inconclusive"} and found["OT6"] == (
        "inconclusive", "plc1 could not be asked")
    present(site, "plc2", b"")
    assert site.found()["OT3:plc2"] == ("inconclusive", "the server presents no certificate")


def test_our_own_certificate(site: Site, tmp_path: Path) -> None:
    def use(pair: tuple[bytes, bytes]) -> dict[str, tuple[str, str]]:
        (site.places.pki / "cert.pem").write_bytes(pair[0])
        (site.places.pki / "key.pem").write_bytes(pair[1])
        return site.found()

    bad = weak("urn:another", "serverAuth", 20, tmp_path)
    found = use(bad)
    assert found["OT1"][0] == found["OT2"][0] == "fail"
    assert all(words in found["OT1"][1] for words in ("1024 bits", "sha1", "urn:another", "no clientAuth"))
    assert "its key" not in found["OT1"][1] and "another one's" in use((site.old, bad[1]))["OT1"][1]
    (site.places.pki / "cert.pem").unlink()
    assert site.found()["OT1"][0] == "inconclusive"


@pytest.mark.parametrize(("age_h", "left_h", "status"), [(10, 62, "pass"), (60, 12, "fail"), (80, -8, "fail"), (-5, 72, "fail")])
def test_revocation_lists_grow_old(age_h: float, left_h: float, status: str) -> None:
    report, now = Report("x", deadline_s=None), time.time()
    trust_judge.lists(report, trust_judge.Context(now, lists={"site": crl(now, age_h, left_h), "none": "-----BEGIN X509 CRL-----"}))
    found = {check.subject: check.status for check in report.checks}
    assert found == {"site": status, "none": "inconclusive"}
