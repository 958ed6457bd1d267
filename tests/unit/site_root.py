# SPDX-License-Identifier: Apache-2.0
"""A site's own CA, thrown away afterwards: root, a CA between, and our intermediate as it signs it, or wrongly in every way that must be noticed."""
from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

DAY = 86400.0
PEM = serialization.Encoding.PEM


def new_key() -> Any:
    return ec.generate_private_key(ec.SECP256R1())


def request(key: Any, name: str) -> str:
    return x509.CertificateSigningRequestBuilder().subject_name(_name(name)).sign(key, hashes.SHA256()).public_bytes(PEM).decode()


def key_pem(key: Any) -> str:
    return key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()).decode()


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def certificate(
    subject: str, public: Any, issuer: str, signer: Any, now: float, ca: bool | None = True, path: int | None = None, sign: bool | None = True,
    crl: bool = True, critical: bool = True, identified: bool = True, traced: bool = True, extended: Sequence[x509.ObjectIdentifier] = (),
    since_days: float = 1.0, days: float = 1000.0,
) -> str:
    """PEM. *ca*: None leaves the basic constraints out; *sign*: None leaves the key usage out; *identified*, *traced*: with both key identifiers."""
    moment = datetime.datetime.fromtimestamp(now, datetime.timezone.utc)
    made = (
        x509.CertificateBuilder().subject_name(_name(subject)).issuer_name(_name(issuer)).public_key(public).serial_number(x509.random_serial_number())
        .not_valid_before(moment - datetime.timedelta(days=since_days)).not_valid_after(moment + datetime.timedelta(days=days))
    )  # fmt: skip
    if ca is not None:
        made = made.add_extension(x509.BasicConstraints(ca, path if ca else None), critical)
    if sign is not None:
        made = made.add_extension(x509.KeyUsage(not sign, False, False, False, False, sign, crl, False, False), True)
    if extended:
        made = made.add_extension(x509.ExtendedKeyUsage(list(extended)), False)
    if identified:
        made = made.add_extension(x509.SubjectKeyIdentifier.from_public_key(public), False)
    if traced:
        made = made.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), False)
    return made.sign(signer, hashes.SHA256()).public_bytes(PEM).decode()


class SiteRoot:
    """*days*: life of the root. `sign` gives the chain, ours first."""

    def __init__(self, now: float, name: str = "site root", days: float = 3650.0, path: int | None = None, **root: Any) -> None:
        self.now, self.name = now, name
        self.key, self.middle = new_key(), new_key()
        self.root = certificate(name, self.key.public_key(), name, self.key, now, path=path, days=days, **root)

    def between(self, **more: Any) -> str:
        """A CA of the site below the root."""
        return certificate("site issuing", self.middle.public_key(), self.name, self.key, self.now, **{"days": 2000.0, **more})

    def sign(self, csr: str, deep: bool = False, **more: Any) -> list[str]:
        """What comes back for a request: [ours, (a CA between,) root]."""
        asked = x509.load_pem_x509_csr(csr.encode())
        subject = str(asked.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)
        issuer, signer = ("site issuing", self.middle) if deep else (self.name, self.key)
        ours = certificate(subject, asked.public_key(), issuer, signer, self.now, **more)
        return [ours, *([self.between()] if deep else []), self.root]
