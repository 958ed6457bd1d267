# SPDX-License-Identifier: Apache-2.0
"""How long certificates and revocation lists are valid. Standard library, Python 3.9; reads, never verifies.

Source: RFC 5280, sections 4.1 and 5.1; DER from ITU-T X.690.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from datetime import datetime, timezone

#: How a host makes its own key (PKCS#8).
NEW_KEY = ["openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-pkeyopt", "ec_param_enc:named_curve"]
_REQUEST = "CERTIFICATE REQUEST"
_ANY = re.compile(r"-----BEGIN (CERTIFICATE|CERTIFICATE REQUEST)-----(.*?)-----END \1-----", re.DOTALL)
_BLOCK = re.compile(r"-----BEGIN (CERTIFICATE|X509 CRL)-----(.*?)-----END \1-----", re.DOTALL)
_WHOLE = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----.*?-----END \1-----", re.DOTALL)
_INTEGER, _SEQUENCE, _UTC, _GENERALIZED, _VERSION = 0x02, 0x30, 0x17, 0x18, 0xA0


class X509Error(ValueError):
    """It is no certificate and no revocation list."""


@dataclass(frozen=True)
class Validity:
    """From when to when (unix s). *end* is None for a revocation list that never says when the next one comes. *root*: its issuer has its own name."""

    kind: str
    begin: float
    end: float | None
    root: bool = False


def _read(data: bytes, at: int) -> tuple[int, int, int]:
    """(tag, begin, end) of the element at *at*. Raises X509Error."""
    try:
        tag, size, begin = data[at], data[at + 1], at + 2
        if size & 0x80:
            width = size & 0x7F
            if not 1 <= width <= 4:
                raise X509Error("a length of %d bytes" % width)
            size, begin = int.from_bytes(data[begin : begin + width], "big"), begin + width
    except IndexError as error:
        raise X509Error("it ends in the middle") from error
    if begin + size > len(data):
        raise X509Error("it ends in the middle")
    return tag, begin, begin + size


def _time(data: bytes, at: int) -> tuple[float, int]:
    """(unix s, where the next element begins)."""
    tag, begin, end = _read(data, at)
    text = data[begin:end].decode("ascii", "replace")
    if tag == _UTC:
        # RFC 5280: two digits from 50 on are of the last century.
        text = ("19" if text[:2] >= "50" else "20") + text
    elif tag != _GENERALIZED:
        raise X509Error("no time where one belongs (tag 0x%02x)" % tag)
    try:
        moment = datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=timezone.utc)
    except ValueError as error:
        raise X509Error("%r is no time" % text) from error
    return moment.timestamp(), end


def _skip(data: bytes, at: int, tag: int) -> int:
    """Where the element after one with this tag begins; *at* itself where another stands there."""
    found, _begin, end = _read(data, at)
    return end if found == tag else at


def validity(der: bytes, kind: str) -> Validity:
    """Of one DER structure; *kind* is ``CERTIFICATE`` or ``X509 CRL``. Raises X509Error."""
    at = 0
    for _level in range(2):  # the whole, and what is signed
        tag, begin, _end = _read(der, at)
        if tag != _SEQUENCE:
            raise X509Error("no sequence (tag 0x%02x)" % tag)
        at = begin
    if kind == "CERTIFICATE":
        for tag in (_VERSION, _INTEGER, _SEQUENCE):
            at = _skip(der, at, tag)
        issuer, at = at, _skip(der, at, _SEQUENCE)
        issued_by = der[issuer:at]
        tag, at, after = _read(der, at)
        if tag != _SEQUENCE:
            raise X509Error("no validity")
        begins, at = _time(der, at)
        ends, _at = _time(der, at)
        return Validity("certificate", begins, ends, root=der[after:_skip(der, after, _SEQUENCE)] == issued_by)
    for tag in (_INTEGER, _SEQUENCE, _SEQUENCE):
        at = _skip(der, at, tag)
    begins, at = _time(der, at)
    tag, _begin, _end = _read(der, at) if at < len(der) else (0, 0, 0)
    return Validity("crl", begins, _time(der, at)[0] if tag in (_UTC, _GENERALIZED) else None)


def read_pem(text: str) -> list[Validity]:
    """Every certificate and revocation list of a PEM text, in order. Raises X509Error where there is none, or one of them was cut."""
    found = []
    for kind, body in _BLOCK.findall(text):
        try:
            der = base64.b64decode("".join(body.split()), validate=True)
        except ValueError as error:
            raise X509Error("not base64: %s" % error) from error
        found.append(validity(der, kind))
    if not found:
        raise X509Error("it holds no certificate and no revocation list")
    if text.count("-----BEGIN ") != len(_WHOLE.findall(text)):
        raise X509Error("it ends in the middle")
    return found


def _contents(der: bytes) -> int:
    """Where the fields of what is signed begin. Raises X509Error."""
    at = 0
    for _level in range(2):
        tag, begin, _end = _read(der, at)
        if tag != _SEQUENCE:
            raise X509Error("no sequence (tag 0x%02x)" % tag)
        at = begin
    return at


def serial(der: bytes) -> str:
    """Serial number of one DER certificate, as hexadecimal digits. Raises X509Error."""
    at = _contents(der)
    tag, begin, end = _read(der, _skip(der, at, _VERSION))
    if tag != _INTEGER or begin == end:
        raise X509Error("no serial number (tag 0x%02x)" % tag)
    return der[begin:end].lstrip(b"\0").hex() or "00"


def first_der(text: str) -> bytes:
    """The first certificate of a PEM text. Raises X509Error."""
    for kind, body in _BLOCK.findall(text):
        if kind == "CERTIFICATE":
            try:
                return base64.b64decode("".join(body.split()), validate=True)
            except ValueError as error:
                raise X509Error("not base64: %s" % error) from error
    raise X509Error("it holds no certificate")


def public_key(text: str) -> bytes:
    """SubjectPublicKeyInfo (DER) of the first certificate, or request (RFC 2986), of a PEM text. Raises X509Error."""
    found = _ANY.search(text)
    if not found:
        raise X509Error("it holds no certificate and no request")
    try:
        der = base64.b64decode("".join(found.group(2).split()), validate=True)
    except ValueError as error:
        raise X509Error("not base64: %s" % error) from error
    at = _contents(der)
    # Version, subject; of a certificate version, serial number, algorithm, issuer, validity, subject.
    for tag in (_INTEGER, _SEQUENCE) if found.group(1) == _REQUEST else (_VERSION, _INTEGER, _SEQUENCE, _SEQUENCE, _SEQUENCE, _SEQUENCE):
        at = _skip(der, at, tag)
    tag, _begin, end = _read(der, at)
    if tag != _SEQUENCE:
        raise X509Error("no public key (tag 0x%02x)" % tag)
    return der[at:end]
