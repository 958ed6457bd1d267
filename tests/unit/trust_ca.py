# SPDX-License-Identifier: Apache-2.0
"""A certificate authority of two levels, as OpenBao's: signs requests, and signs them wrongly in every way that must be noticed."""
from __future__ import annotations

import datetime
import subprocess
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

PEM = serialization.Encoding.PEM
USAGES = {"client": [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH], "server": [ExtendedKeyUsageOID.SERVER_AUTH]}


def key_pem(key: Any) -> bytes:
    return key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def weak(uri: str, usage: str, days: int, folder: Path) -> tuple[bytes, bytes]:
    """(certificate, key) of 1024 bits, signed with SHA-1: cryptography makes no such thing any more."""
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:1024", "-sha1", "-days", str(days), "-nodes", "-keyout", str(folder / "weak.key"), "-out",
         str(folder / "weak.pem"), "-subj", "/CN=weak", "-addext", "subjectAltName=URI:" + uri, "-addext", "extendedKeyUsage=" + usage],
        check=True, capture_output=True, timeout=30)
    return (folder / "weak.pem").read_bytes(), (folder / "weak.key").read_bytes()


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def build(subject: str, public: Any, issuer: str, signer: Any, uri: str = "", usage: str = "", ca: bool = False, days: float = 730.0,
          since: float = 1.0, now: float = 1_800_000_000.0) -> x509.Certificate:
    """A certificate; *days* of life from *now* (unix s)."""
    moment = datetime.datetime.fromtimestamp(now, datetime.timezone.utc)
    made = (x509.CertificateBuilder().subject_name(_name(subject)).issuer_name(_name(issuer)).public_key(public)
            .serial_number(x509.random_serial_number()).not_valid_before(moment - datetime.timedelta(days=since + max(0.0, -days)))
            .not_valid_after(moment + datetime.timedelta(days=days)).add_extension(x509.BasicConstraints(ca, None), True))
    if uri:
        made = made.add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri), x509.DNSName("edge1")]), False)
        made = made.add_extension(x509.KeyUsage(True, True, True, True, False, False, False, False, False), True)
    if usage:
        made = made.add_extension(x509.ExtendedKeyUsage(USAGES[usage]), False)
    return made.sign(signer, hashes.SHA256())


class Authority:
    """Root, intermediate, a self-signed application certificate, and keys that are made once for all tests."""

    def __init__(self, uri: str = "urn:hnai:test:edge1:ot_collector", spare: int = 2, now: float = 1_800_000_000.0) -> None:
        def make(bits: int = 2048) -> Any:
            return rsa.generate_private_key(public_exponent=65537, key_size=bits)

        # Small keys where nothing looks at their size: making them is what costs.
        self._root, self._between, self._other, own = make(1024), make(1024), make(1024), make()
        root = build("root", self._root.public_key(), "root", self._root, ca=True, days=3650, now=now)
        between = build("between", self._between.public_key(), "root", self._root, ca=True, days=1825, now=now)
        self.root, self.chain = root.public_bytes(PEM).decode(), [between.public_bytes(PEM).decode()]
        self.old = (build("edge1", own.public_key(), "edge1", own, uri, "client", days=7300, now=now).public_bytes(PEM), key_pem(own))
        self.keys = [key_pem(make()) for _ in range(spare)]

    def sign(self, csr: str, now: float, uri: str = "", usage: str = "client", days: float = 730.0, foreign_key: bool = False,
             foreign_ca: bool = False) -> str:
        """What OpenBao answers, or should not."""
        asked = x509.load_pem_x509_csr(csr.encode())
        names = asked.extensions.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(x509.UniformResourceIdentifier)
        public = self._other.public_key() if foreign_key else asked.public_key()
        signer = self._other if foreign_ca else self._between
        return build("edge1", public, "between", signer, uri or names[0], usage, days=days, now=now).public_bytes(PEM).decode()
