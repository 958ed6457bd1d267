# SPDX-License-Identifier: Apache-2.0
"""TLS of OpenBao before it has a PKI of its own, and what modules on its host trust.

A server without a certificate cannot be asked to sign one. So the first start gets a self-signed certificate for
loopback names only, valid for two days, made of the key that stays. As soon as the server's own PKI has signed a leaf
(names and usages differ, hence the leaf is due at once) the leaf replaces it and is taken up by SIGHUP.

``trust.pem`` is what modules on this host verify the server against: the temporary certificate and, once there is
one, the root of the PKI. It only grows, so there is no moment of the change at which the server cannot be verified.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence

from ..x509 import NEW_KEY
from .files import read_or_none, remove_durably, sync_directory, write_durably

#: Runs a command and gives (rc, stdout, stderr).
Run = Callable[[Sequence[str]], "tuple[int, str, str]"]
#: Followed by a random part: of two certificates with one name and one key in a bundle, OpenSSL tries only the first.
SUBJECT = "hnai-openbao-bootstrap"
DAYS = 2
#: A certificate with less life than this is no good for a run.
MARGIN_S = 300
_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)


class TlsError(Exception):
    """openssl refused; the text is its own."""


def trust(path: str, pem: bytes, check: bool = False) -> bool:
    """Every certificate of *pem* stands in the bundle *path*; True if one was missing."""
    present = _PEM.findall(read_or_none(path) or b"")
    wanted = [item for item in _PEM.findall(pem.replace(b"\r\n", b"\n")) if item not in present]
    if wanted and not check:
        write_durably(path, b"".join(item + b"\n" for item in [*present, *wanted]), 0o644)
    return bool(wanted)


def introduce(path: str, pem: bytes, check: bool = False) -> bool:
    """The authority of a server that was not made here stands in the bundle *path*, which need not be there; True if it was missing.

    Raises ValueError where *pem* says something and is no certificate.
    """
    if pem.strip() and not _PEM.findall(pem.replace(b"\r\n", b"\n")):
        raise ValueError("openbao_external.ca is no certificate: write the PEM of the authority that signed the server's")
    if pem and not check:
        os.makedirs(os.path.dirname(path), 0o755, exist_ok=True)
    return trust(path, pem, check)


def distrust(path: str, pem: bytes, reach: Callable[[str], object]) -> bool:
    """No certificate of *pem* stands in the bundle *path* any more; True if one did.

    *reach* is called with the path of the bundle as it will be, before it takes its place; what it raises leaves everything as it was.
    """
    present = _PEM.findall(read_or_none(path) or b"")
    gone = _PEM.findall(pem.replace(b"\r\n", b"\n"))
    kept = [item for item in present if item not in gone]
    if kept == present:
        return False
    beside = path + ".next"
    write_durably(beside, b"".join(item + b"\n" for item in kept), 0o644)
    try:
        reach(beside)
        os.replace(beside, path)
    finally:
        remove_durably(beside)
    sync_directory(os.path.dirname(path))
    return True


def _usable(run: Run, cert: str, key: str) -> bool:
    """The certificate is readable, not about to expire and belongs to the key."""
    if run(["openssl", "x509", "-in", cert, "-noout", "-checkend", str(MARGIN_S)])[0] != 0:
        return False
    of_cert = run(["openssl", "x509", "-in", cert, "-noout", "-pubkey"])
    of_key = run(["openssl", "pkey", "-in", key, "-pubout"])
    return of_cert[0] == 0 and of_key[0] == 0 and of_cert[1].strip() == of_key[1].strip()


def ensure(run: Run, directory: str, trust_file: str, gid: int, check: bool = False) -> list[str]:
    """A usable pair key.pem and cert.pem, ca.pem, and a trust bundle that fits. *gid*: group of the server. Gives the paths that were (or would be) written.

    Raises TlsError, OSError.
    """
    changed: list[str] = []
    key, cert, ca = (os.path.join(directory, name) for name in ("key.pem", "cert.pem", "ca.pem"))
    if not _usable(run, cert, key):
        changed.append(cert)
        if check:
            changed += [path for path in (key, ca) if not os.path.exists(path)] + [trust_file]
            return changed
        os.makedirs(directory, mode=0o750, exist_ok=True)
        os.chown(directory, 0, gid)
        if run(["openssl", "pkey", "-in", key, "-noout"])[0] != 0:
            made = run(NEW_KEY)
            if made[0] != 0:
                raise TlsError("%s: openssl could not make a key: %s" % (key, made[2].strip()))
            write_durably(key, made[1].encode(), 0o640, 0, gid)
            changed.append(key)
        made = run(
            [
                "openssl",
                "req",
                "-x509",
                "-new",
                "-sha256",
                "-key",
                key,
                "-days",
                str(DAYS),
                "-subj",
                "/CN=%s-%s" % (SUBJECT, os.urandom(4).hex()),
                "-addext",
                "subjectAltName=DNS:localhost,IP:127.0.0.1,IP:::1",
            ]
        )
        if made[0] != 0:
            raise TlsError("%s: openssl could not make the temporary certificate: %s" % (cert, made[2].strip()))
        pem = made[1].encode()
        if trust(trust_file, pem):
            changed.append(trust_file)
        write_durably(cert, pem, 0o644, 0, gid)
    if not os.path.exists(ca) and not check:
        write_durably(ca, read_or_none(cert) or b"", 0o644, 0, gid)
        changed.append(ca)
    if trust(trust_file, read_or_none(ca) or b"", check) and trust_file not in changed:
        changed.append(trust_file)
    return changed
