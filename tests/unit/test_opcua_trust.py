# SPDX-License-Identifier: Apache-2.0
"""Real servers with trust lists of their own: who has accepted the new certificate, in how many sessions; and what is wrong with what servers present."""
from __future__ import annotations

import asyncio
import datetime
import json
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from asyncua import ua
from asyncua.common.utils import ServiceError
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding
from hnai_ot_collector import config, ua_channel
from opcua_stand import CLIENT_URI, SERVER_URI, Stand, key_pair
from trust_ca import Authority, build, weak

from ansible_collections.hnai.platform.plugins.module_utils import credentials
from ansible_collections.hnai.platform.plugins.module_utils.hostfiles import Completed, Host
from ansible_collections.hnai.platform.plugins.module_utils.opcua import audit_host, trust_judge
from ansible_collections.hnai.platform.plugins.module_utils.opcua.trust import Crypto, Outcome, Statement, Trust, Wanted
from ansible_collections.hnai.platform.plugins.module_utils.opcua.trust_host import Dialler
from ansible_collections.hnai.platform.plugins.module_utils.verdict import Report

NAMES = ["plc1", "plc2", "plc3"]
WANTED = Wanted(CLIENT_URI, "edge1", ("edge1",), group="g")
QUIET = {"CreateSession", "ActivateSession"}


class TrustList:
    """What a server's owner put into it, DER."""

    def __init__(self) -> None:
        self.trusted: set[bytes] = set()
        self.refused = 0

    async def __call__(self, certificate: Any, description: Any) -> None:
        if certificate.public_bytes(Encoding.DER) not in self.trusted:
            self.refused += 1
            raise ServiceError(ua.StatusCodes.BadCertificateUntrusted)


class OneHost(Host):
    """Files below a temporary directory; decrypts what the test stored in clear."""

    def run(self, argv: list[str], stdin: bytes | None = None, timeout: float = 60.0) -> Completed:
        return Completed(0, Path(argv[-2]).read_bytes(), b"")

    def gid(self, name: str) -> int | None:
        return 0

    def chown(self, target: int | str, uid: int, gid: int) -> None:
        pass

    def owner(self, info: os.stat_result) -> tuple[int, int]:
        return 0, 0


def der(pem: bytes | str) -> bytes:
    return x509.load_pem_x509_certificate(pem if isinstance(pem, bytes) else pem.encode()).public_bytes(Encoding.DER)


@pytest.fixture(scope="module")
def ca() -> Authority:
    return Authority(CLIENT_URI, spare=0, now=time.time())


@pytest.fixture(scope="module")
def plant(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    logging.getLogger("asyncua").setLevel(logging.CRITICAL)
    stands: dict[str, Any] = {}
    for name in NAMES:
        one: Any = Stand(tmp_path_factory.mktemp(name))
        one.start()
        one.list = TrustList()
        one.server.set_certificate_validator(one.list)
        stands[name] = one
    yield stands
    for one in stands.values():
        one.stop()


class Site:
    """The mirror's host in front of the plant."""

    def __init__(self, root: Path, plant: dict[str, Any], ca: Authority) -> None:
        self.plant, self.ca, self.now = plant, ca, time.time()
        self.host = OneHost(str(root))
        self.places = audit_host.Places(Path(self.host.at(WANTED.pki)), root / "servers", root / "status.json", root / "state", root / "proc")
        for folder in (self.places.pki, self.places.servers, self.places.proc):
            folder.mkdir(parents=True)
        old = key_pair(CLIENT_URI, usage=x509.ExtendedKeyUsageOID.CLIENT_AUTH)
        (self.places.pki / "cert.pem").write_bytes(old[0])
        (self.places.pki / "key.pem").write_bytes(old[1])
        self.old = old[0]
        self.entries = []
        for name, stand in plant.items():
            stand.services.clear()
            stand.users.tries = stand.list.refused = 0
            stand.list.trusted = {der(old[0])}
            (self.places.servers / (name + ".pem")).write_bytes(stand.server_pair[0])
            secret = Path(self.host.at(credentials.path_of("ot_collector", "opcua_%s_password" % name)))
            secret.parent.mkdir(parents=True, exist_ok=True)
            secret.write_text("secret")
            self.entries.append({"id": name, "protocol": "opcua", "endpoint": stand.url, "identity": {"username": "observer"},
                                 "limits": {"connections": 2, "new_per_minute": 60}, "tags": []})
        self.places.status.write_text(json.dumps({"now": int(self.now * 1e7), "started": int((self.now - 900) * 1e7), "sources": [
            {"source": name, "state": "connected", "detail": "", "since": int((self.now - 600) * 1e7)} for name in plant]}))

    def dialler(self, report: Report | None = None, write: bool = True) -> Dialler:
        options = audit_host.Options(CLIENT_URI, "", [], [], 60.0, write)
        return Dialler(report or Report("ot_collector", deadline_s=None), self.places, options, self.host, now=lambda: self.now, wait=lambda seconds: None)

    def trust(self) -> Trust:
        return Trust(self.host, WANTED, Crypto(), lambda: self.now, started=self.dialler().started())

    def switch(self, said: list[Statement], again: tuple[str, ...] = ()) -> Outcome:
        sources = {entry["id"]: entry for entry in self.entries}
        return self.trust().switch(NAMES, said, again, lambda name, cert, key: self.dialler().session(sources[name], cert, key))

    def candidate(self) -> Outcome:
        csr = self.trust().prepare(self.ca.root).csr
        return self.trust().install(self.ca.sign(csr, self.now), self.ca.chain, self.ca.root)

    def sessions(self) -> dict[str, int]:
        return {name: stand.services["CreateSession"] for name, stand in self.plant.items()}

    def judge(self, lists: dict[str, str] | None = None, said: list[Statement] | None = None, write: bool = True) -> dict[str, tuple[str, str]]:
        report = Report("ot_collector", deadline_s=None)
        self.dialler(report, write).judge(self.entries, WANTED, said or [], 60.0, lists or {})
        return {check.id + (":" + check.subject if check.subject else ""): (check.status, check.reason) for check in report.checks}


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
    found = site.judge()
    assert found["OT8"][0] == "inconclusive" and "plc2: the removal of" in found["OT8"][1] and "runs with the certificate before" in found["OT8"][1]
    status = json.loads(site.places.status.read_text())
    site.places.status.write_text(json.dumps({**status, "started": int((site.now + 1) * 1e7)}))
    assert site.judge(said=said(told, "removed"))["OT8"] == ("pass", "")


def test_a_site_whose_certificates_are_sound(site: Site) -> None:
    # Three keys for three servers; our own names no serverAuth, which nobody asks of it here.
    found = site.judge()
    assert {status for status, _ in found.values()} == {"pass"}, found
    assert set(found) == {"OT1", "OT2", "OT6", "OT8"} | {"%s:%s" % (ident, name) for ident in ("OT3", "OT4", "OT5") for name in NAMES}
    for stand in site.plant.values():
        assert stand.services["GetEndpoints"] == 1 and not QUIET & set(stand.services), "no session, no login"
    assert len(audit_host.State(site.places.state, "plc1", True).read("dials")) == 1, "it counts against the conduit as the audit does"


def present(site: Site, name: str, certificate: bytes) -> None:
    for endpoint in site.plant[name].server.iserver.endpoints:
        endpoint.ServerCertificate = certificate


def odd(bits: int = 2048, uri: str = SERVER_URI, usage: str = "server", days: float = 365.0) -> bytes:
    key = rsa.generate_private_key(public_exponent=65537, key_size=bits)
    return build("odd", key.public_key(), "odd", key, uri, usage, days=days, now=time.time()).public_bytes(Encoding.DER)


def odd_pem() -> bytes:
    return Crypto().pem_of(odd(bits=2048))


def collector_config(entry: dict[str, Any]) -> Any:
    """A source as the collector's own program reads it."""
    raw = {"status_file": "/tmp/none", "state_file": "/tmp/none", "queue_records": 100, "sources": [entry]}
    return config.parse(raw, "f").sources[0]


def test_each_fault_of_a_server_turns_its_own_check(site: Site, tmp_path: Path) -> None:
    present(site, "plc1", der(weak(SERVER_URI, "serverAuth", 365, tmp_path)[0]))
    present(site, "plc2", odd(bits=1024, uri="urn:somebody:else", days=-3.0))
    found = site.judge()
    assert found["OT3:plc1"][0] == found["OT3:plc2"][0] == "fail" and "nobody has pinned" in found["OT3:plc1"][1]
    assert found["OT4:plc1"][0] == "fail" and found["OT4:plc1"][1].endswith("its RSA key has only 1024 bits; it is signed with sha1")
    assert "it has expired" in found["OT4:plc2"][1] and "urn:somebody:else" in found["OT4:plc2"][1]
    assert found["OT5:plc2"][0] == "fail" and found["OT5:plc1"][0] == "pass"
    assert {found[ident][0] for ident in ("OT3:plc3", "OT4:plc3", "OT5:plc3", "OT6", "OT1", "OT2")} == {"pass"}
    kept = Path(site.host.at("/var/lib/hnai/opcua_trust/review/plc1"))
    (file,) = kept.iterdir()
    assert der(file.read_bytes()) == bytes(site.plant["plc1"].server.iserver.endpoints[0].ServerCertificate)


def test_the_announced_certificate_is_as_good_as_the_pinned_one(site: Site) -> None:
    following = odd(bits=2048)
    pin = site.places.servers / "plc1.pem"
    alone = pin.read_bytes()
    pin.write_bytes(alone + b"\n" + Crypto().pem_of(following))
    assert site.judge()["OT3:plc1"][0] == "pass", "before the change"
    present(site, "plc1", following)
    assert site.judge()["OT3:plc1"][0] == "pass", "after it"
    pin.write_bytes(alone)
    assert site.judge(write=False)["OT3:plc1"][0] == "fail", "without an announcement"
    assert not Path(site.host.at("/var/lib/hnai/opcua_trust/review")).exists(), "check mode, and announced ones, leave nothing"


def test_the_collector_finds_the_one_of_two_pins_that_the_server_has(site: Site, tmp_path: Path) -> None:
    pins = tmp_path / "two.pem"
    pins.write_bytes(odd_pem() + b"\n" + site.plant["plc1"].server_pair[0])
    entry = {"id": "two", "protocol": "opcua", "endpoint": site.plant["plc1"].url, "username": "observer", "application_uri": CLIENT_URI,
             "certificate": str(site.places.pki / "cert.pem"), "private_key": str(site.places.pki / "key.pem"), "server_certificate": str(pins),
             "tags": [{"name": "a", "node": "nsu=urn:x;s=A", "type": "double"}]}
    source = collector_config(entry)

    async def dial() -> None:
        channel = ua_channel.Channel(source, "secret")
        await channel.open()
        await channel.close(5.0)

    with pytest.raises(ua_channel.LinkError):
        asyncio.run(dial())
    assert not site.plant["plc1"].services["ActivateSession"], "nothing secret was sent for a certificate that the server does not have"
    asyncio.run(dial())
    asyncio.run(dial())
    assert site.plant["plc1"].services["ActivateSession"] == 2, "and it stays with the one that was right"


def test_one_certificate_at_two_servers(site: Site) -> None:
    present(site, "plc2", bytes(site.plant["plc1"].server.iserver.endpoints[0].ServerCertificate))
    found = site.judge()
    assert found["OT6"][0] == "fail" and "plc1 and plc2" in found["OT6"][1] and found["OT3:plc2"][0] == "fail"


def test_a_server_that_says_nothing_is_no_pass(site: Site) -> None:
    site.entries[0]["endpoint"] = "opc.tcp://127.0.0.1:9/"
    found = site.judge()
    assert {found[ident + ":plc1"][0] for ident in ("OT3", "OT4", "OT5")} == {"inconclusive"} and found["OT6"] == (
        "inconclusive", "plc1 could not be asked")
    present(site, "plc2", b"")
    assert site.judge()["OT3:plc2"] == ("inconclusive", "the server presents no certificate")


def test_our_own_certificate(site: Site, tmp_path: Path) -> None:
    def use(pair: tuple[bytes, bytes]) -> dict[str, tuple[str, str]]:
        (site.places.pki / "cert.pem").write_bytes(pair[0])
        (site.places.pki / "key.pem").write_bytes(pair[1])
        return site.judge()

    bad = weak("urn:another", "serverAuth", 20, tmp_path)
    found = use(bad)
    assert found["OT1"][0] == found["OT2"][0] == "fail"
    assert all(words in found["OT1"][1] for words in ("1024 bits", "sha1", "urn:another", "no clientAuth"))
    assert "its key" not in found["OT1"][1] and "another one's" in use((site.old, bad[1]))["OT1"][1]
    (site.places.pki / "cert.pem").unlink()
    assert site.judge()["OT1"][0] == "inconclusive"


def crl(now: float, age_h: float, left_h: float) -> str:
    key = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    moment = datetime.datetime.fromtimestamp(now, datetime.timezone.utc)
    made = x509.CertificateRevocationListBuilder().issuer_name(x509.Name([])).last_update(moment - datetime.timedelta(hours=age_h)).next_update(
        moment + datetime.timedelta(hours=left_h))
    return made.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()


@pytest.mark.parametrize(("age_h", "left_h", "status"), [(10, 62, "pass"), (60, 12, "fail"), (80, -8, "fail")])
def test_revocation_lists_grow_old(age_h: float, left_h: float, status: str) -> None:
    report, now = Report("x", deadline_s=None), time.time()
    trust_judge.lists(report, trust_judge.Context(now, lists={"site": crl(now, age_h, left_h), "none": "-----BEGIN X509 CRL-----"}))
    found = {check.subject: check.status for check in report.checks}
    assert found == {"site": status, "none": "inconclusive"}
