# SPDX-License-Identifier: Apache-2.0
"""Key, request and chain of an OPC UA application certificate on cryptography: the only file of the trust module that imports it.

RSA, because the security policies that plants have know nothing else; sha256. Usages as OPC 10000-6, 6.2.2: digitalSignature, nonRepudiation,
keyEncipherment, dataEncipherment; clientAuth, and serverAuth too, which some servers ask of every application.
"""
from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Sequence

try:
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import rsa
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
except ImportError as error:
    MISSING: str = str(error)
else:
    MISSING = ""

BITS = 3072
SELF_SIGNED_DAYS = 7300


def make_key() -> bytes:
    """A new private key, PKCS#8 PEM."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=BITS)
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def public_of_key(pem: bytes) -> bytes:
    """SubjectPublicKeyInfo of a private key, DER. Raises ValueError."""
    key = serialization.load_pem_private_key(pem, None)
    return key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def public_of_certificate(pem: bytes) -> bytes:
    """SubjectPublicKeyInfo of the first certificate of a PEM text, DER. Raises ValueError."""
    return x509.load_pem_x509_certificate(pem).public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def request(key: bytes, common_name: str, uri: str, dns: Sequence[str], ips: Sequence[str]) -> str:
    """A certificate request, PEM. Raises ValueError."""
    built = (
        x509.CertificateSigningRequestBuilder().subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)]))
        .add_extension(x509.SubjectAlternativeName(_names(uri, dns, ips)), False)
        .add_extension(x509.KeyUsage(True, True, True, True, False, False, False, False, False), True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]), False)
        .sign(_private(key), hashes.SHA256())
    )
    return built.public_bytes(serialization.Encoding.PEM).decode("ascii")


def self_signed(key: bytes, common_name: str, uri: str, dns: Sequence[str], ips: Sequence[str], now: float) -> bytes:
    """A certificate that the key signed itself, PEM, as make-certificate of role ot_collector makes it. Raises ValueError."""
    private = _private(key)
    subject = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "hnai"), x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    moment = datetime.datetime.fromtimestamp(now, datetime.timezone.utc)
    built = (
        x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(private.public_key())
        .serial_number(x509.random_serial_number()).not_valid_before(moment - datetime.timedelta(minutes=5))
        .not_valid_after(moment + datetime.timedelta(days=SELF_SIGNED_DAYS))
        .add_extension(x509.SubjectAlternativeName(_names(uri, dns, ips)), False).add_extension(x509.BasicConstraints(False, None), True)
        .add_extension(x509.KeyUsage(True, True, True, True, False, False, False, False, False), True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]), False)
        .sign(private, hashes.SHA256())
    )
    return built.public_bytes(serialization.Encoding.PEM)


def _names(uri: str, dns: Sequence[str], ips: Sequence[str]) -> list[x509.GeneralName]:
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri)]
    names += [x509.DNSName(one) for one in dict.fromkeys(dns)]
    return names + [x509.IPAddress(ipaddress.ip_address(one)) for one in dict.fromkeys(ips)]


def _private(key: bytes) -> rsa.RSAPrivateKey:
    private = serialization.load_pem_private_key(key, None)
    if not isinstance(private, rsa.RSAPrivateKey):
        raise ValueError("the key is no RSA key")
    return private


def pem_of(der: bytes) -> bytes:
    """PEM of the first certificate of DER data. Raises ValueError."""
    length = int.from_bytes(der[2:4], "big") + 4 if der[1:2] == b"\x82" else len(der)
    return x509.load_der_x509_certificate(der[:length]).public_bytes(serialization.Encoding.PEM)


def chain_problem(leaf: bytes, chain: Sequence[bytes], roots: bytes, now: float) -> str:
    """Why *leaf* does not chain over *chain* to one of *roots* (PEM), now (unix s); empty = it does. Signatures, dates, CA flags."""
    moment = datetime.datetime.fromtimestamp(now, datetime.timezone.utc)
    try:
        current = x509.load_pem_x509_certificate(leaf)
        between = [x509.load_pem_x509_certificate(one) for one in chain]
        anchors = x509.load_pem_x509_certificates(roots)
    except ValueError as error:
        return "a certificate of the chain cannot be read: %s" % error
    return _way_problem(current, anchors, between, moment)


def _way_problem(current: x509.Certificate, anchors: Sequence[x509.Certificate], between: Sequence[x509.Certificate], moment: datetime.datetime) -> str:
    """One way is enough: an issuer that was renewed with its key is there twice."""
    if not current.not_valid_before_utc <= moment <= current.not_valid_after_utc:
        return "%s is not valid now" % current.subject.rfc4514_string()
    problems = []
    for issuer in (one for one in (*anchors, *between) if one.subject == current.issuer and _issued(current, one)):
        if issuer in anchors:
            problems.append("" if issuer.not_valid_after_utc >= moment else "the root has expired")
        else:
            problems.append(_way_problem(issuer, anchors, [one for one in between if one != issuer], moment))
    return min(problems, default="no issuer of %s is there" % current.subject.rfc4514_string(), key=bool)


def _issued(one: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        one.verify_directly_issued_by(issuer)
        return bool(issuer.extensions.get_extension_for_class(x509.BasicConstraints).value.ca)
    except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
        return False
