# SPDX-License-Identifier: Apache-2.0
"""Three servers with trust lists of their own, and the mirror's host in front of them: for what is judged of certificates between the two."""
from __future__ import annotations

import contextlib
import datetime
import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from asyncua import ua
from asyncua.common.utils import ServiceError
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding
from opcua_stand import CLIENT_URI, SERVER_URI, OneHost, Stand, key_pair
from own_files import OwnFiles
from trust_ca import Authority, build

from ansible_collections.hnai.platform.plugins.module_utils import credentials
from ansible_collections.hnai.platform.plugins.module_utils.opcua import audit_host
from ansible_collections.hnai.platform.plugins.module_utils.opcua.trust import Crypto, Outcome, Statement, Trust, Wanted
from ansible_collections.hnai.platform.plugins.module_utils.opcua.trust_host import Dialler
from ansible_collections.hnai.platform.plugins.module_utils.verdict import Report

NAMES = ["plc1", "plc2", "plc3"]
WANTED = Wanted(CLIENT_URI, "edge1", ("edge1",), group="g")


class TrustList:
    """What a server's owner put into it, DER."""

    def __init__(self) -> None:
        self.trusted: set[bytes] = set()
        self.refused = 0

    async def __call__(self, certificate: Any, description: Any) -> None:
        if certificate.public_bytes(Encoding.DER) not in self.trusted:
            self.refused += 1
            raise ServiceError(ua.StatusCodes.BadCertificateUntrusted)


class OwnHost(OwnFiles, OneHost):
    """The mirror's host, with files of the test's own."""


def der(pem: bytes | str) -> bytes:
    return x509.load_pem_x509_certificate(pem if isinstance(pem, bytes) else pem.encode()).public_bytes(Encoding.DER)


@contextlib.contextmanager
def servers(folder: Path) -> Iterator[dict[str, Any]]:
    """The three by name, running."""
    logging.getLogger("asyncua").setLevel(logging.CRITICAL)
    stands: dict[str, Any] = {}
    try:
        for name in NAMES:
            (folder / name).mkdir()
            one: Any = Stand(folder / name)
            stands[name] = one
            one.start()
            one.list = TrustList()
            one.server.set_certificate_validator(one.list)
        yield stands
    finally:
        for one in stands.values():
            one.stop()


class Site:
    """The mirror's host in front of the plant."""

    def __init__(self, root: Path, plant: dict[str, Any], ca: Authority) -> None:
        self.plant, self.ca, self.now = plant, ca, time.time()
        self.host = OwnHost(str(root))
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
            {"source": name, "protocol": "opcua", "state": "connected", "detail": "", "since": int((self.now - 600) * 1e7)} for name in plant]}))

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

    def report(self, lists: dict[str, str] | None = None, said: list[Statement] | None = None, write: bool = True) -> Report:
        report = Report("ot_collector", deadline_s=None)
        self.dialler(report, write).judge(self.entries, WANTED, said or [], 60.0, lists or {})
        return report

    def found(self, lists: dict[str, str] | None = None, said: list[Statement] | None = None, write: bool = True) -> dict[str, tuple[str, str]]:
        report = self.report(lists, said, write)
        return {check.id + (":" + check.subject if check.subject else ""): (check.status, check.reason) for check in report.checks}


def present(site: Site, name: str, certificate: bytes) -> None:
    for endpoint in site.plant[name].server.iserver.endpoints:
        endpoint.ServerCertificate = certificate


def odd(bits: int = 2048, uri: str = SERVER_URI, usage: str = "server", days: float = 365.0) -> bytes:
    key = rsa.generate_private_key(public_exponent=65537, key_size=bits)
    return build("odd", key.public_key(), "odd", key, uri, usage, days=days, now=time.time()).public_bytes(Encoding.DER)


def crl(now: float, age_h: float, left_h: float) -> str:
    key = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    moment = datetime.datetime.fromtimestamp(now, datetime.timezone.utc)
    made = x509.CertificateRevocationListBuilder().issuer_name(x509.Name([])).last_update(moment - datetime.timedelta(hours=age_h)).next_update(
        moment + datetime.timedelta(hours=left_h))
    return made.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()
