# SPDX-License-Identifier: Apache-2.0
"""The certificate of a host's own SSH key: read, checked, put in place beside the key, which never leaves the host.

sshd serves it besides the plain key, so clients that pin the key see no difference. A drop-in of its own names it; nothing of the role's tree is
touched. Format: PROTOCOL.certkeys of OpenSSH (ssh-ed25519-cert-v01@openssh.com). Python 3.9, standard library.
"""
from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
import struct
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.hnai.platform.plugins.module_utils.hostfiles import Host, HostError, atomic_write, ensure_directory, read_file

KEY = "/etc/ssh/ssh_host_ed25519_key.pub"
CERTIFICATE = "/etc/ssh/ssh_host_ed25519_key-cert.pub"
DROP_IN = "/etc/ssh/sshd_config.d/20-hnai-host-certificate.conf"
JOURNAL = "/var/lib/hnai/rotation/ssh+host.json"
TYPE = "ssh-ed25519-cert-v01@openssh.com"
TEXT = (
    "# SPDX-License-Identifier: Apache-2.0\n# hnai.platform: the host's own key, certified by the site (rotate_secret=ssh/hosts).\n"
    "HostCertificate %s\n" % CERTIFICATE
)
_HOST = 2
#: The end of one that does not end.
NEVER = 2**64 - 1
#: How many superseded certificates the journal names.
KEEP = 10


class CertificateError(Exception):
    """The certificate is not what it must be; the text says why."""


@dataclass(frozen=True)
class Certificate:
    """*key*, *ca*: public keys, base64. *begin*, *end*: unix s."""

    serial: int
    key: str
    key_id: str
    principals: tuple[str, ...]
    ca: str
    begin: int
    end: int
    of_host: bool


def _strings(blob: bytes, count: int) -> tuple[list[bytes], bytes]:
    """(the first *count* length-prefixed strings, the rest)."""
    found = []
    for _number in range(count):
        (size,) = struct.unpack(">I", blob[:4])
        if len(blob) < 4 + size:
            raise struct.error("torn")
        found.append(blob[4 : 4 + size])
        blob = blob[4 + size :]
    return found, blob


def _public(blob: bytes) -> str:
    return base64.b64encode(blob).decode("ascii")


def parse(line: str) -> Certificate:
    """Out of one line as it lies in the file. Raises CertificateError."""
    words = line.split()
    try:
        (kind, _nonce, key), rest = _strings(base64.b64decode(words[1], validate=True), 3)
        serial, of = struct.unpack(">QI", rest[:12])
        (key_id, principals), rest = _strings(rest[12:], 2)
        begin, end = struct.unpack(">QQ", rest[:16])
        (_critical, _extensions, _reserved, ca, _signature), rest = _strings(rest[16:], 5)
        names = []
        while principals:
            (name,), principals = _strings(principals, 1)
            names.append(name.decode("utf-8"))
        if rest or words[0] != TYPE or kind.decode("ascii") != TYPE:
            raise ValueError("type")
    except (IndexError, ValueError, struct.error, binascii.Error) as error:
        raise CertificateError("what was signed is no certificate of an ed25519 host key") from error
    plain = struct.pack(">I", len(b"ssh-ed25519")) + b"ssh-ed25519" + struct.pack(">I", len(key)) + key
    return Certificate(serial, _public(plain), key_id.decode("utf-8", "replace"), tuple(names), _public(ca), begin, end, of == _HOST)


def fingerprint(public: str) -> str:
    """SHA256:… of a public key's base64, as ssh shows it."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(base64.b64decode(public)).digest()).decode("ascii").rstrip("=")


def fault(certificate: Certificate, key: str, principals: Sequence[str], ca: str, now: float) -> str:
    """What is wrong with it for this host, "" if nothing is. *key*, *ca*: lines or base64 of public keys."""
    missing = sorted(set(principals) - set(certificate.principals))
    if not certificate.of_host:
        return "it certifies a user"
    if certificate.key != _blob(key):
        return "it certifies another key than this host's"
    if certificate.ca != _blob(ca):
        return "another CA signed it"
    if missing or set(certificate.principals) - set(principals):
        return "it names %s, not %s" % (", ".join(sorted(certificate.principals)) or "every host", ", ".join(sorted(principals)))
    if not certificate.begin <= now < certificate.end:
        return "it is not valid now"
    return ""


def _blob(public: str) -> str:
    words = public.split()
    return words[1] if len(words) > 1 else "".join(words)


class HostCertificate:
    """The files of one host. *settle* lets sshd take them up."""

    def __init__(self, host: Host, check: bool = False, now: Callable[[], float] = time.time) -> None:
        self._host = host
        self._check = check
        self._now = now

    def look(self) -> dict[str, Any]:
        """{public, serial, line, end, principals, ca, open, last}: serial "" where there is no certificate. Raises HostError."""
        journal, text = self._journal(), read_file(self._host, CERTIFICATE)
        found: dict[str, Any] = {"public": self._key(), "serial": "", "open": journal.get("open") or {}, "last": journal.get("last") or {}}
        if text and read_file(self._host, DROP_IN) is not None:
            try:
                there = parse(text.decode("ascii", "replace"))
            except CertificateError:
                return found
            found.update(
                serial=str(there.serial), line=text.decode("ascii").strip(), end=there.end, principals=list(there.principals), ca=fingerprint(there.ca),
            )  # fmt: skip
        return found

    def install(self, line: str, principals: Sequence[str], ca: str, run_id: str) -> bool:
        """Checked, in place, taken up. True: something was changed. Raises CertificateError, HostError; then what was there is there again."""
        certificate = parse(line)
        wrong = fault(certificate, self._key(), principals, ca, self._now())
        if wrong:
            raise CertificateError("the certificate that was signed is not this host's: %s" % wrong)
        if self._check:
            return True
        files = {CERTIFICATE: line.strip().encode("ascii") + b"\n", DROP_IN: TEXT.encode("ascii")}
        before = {path: read_file(self._host, path) for path in files}
        journal, old = self._journal(), self.look()
        if before == files and not old["open"]:
            return False
        # The same again while its run is open: the kill may have come before the reload.
        if before != files:
            self._note(dict(journal, open={"run_id": run_id, "new": str(certificate.serial), "old": old["serial"], "old_end": old.get("end", 0)}))
            for path, content in files.items():
                atomic_write(self._host, path, content, 0o644, 0, 0)
        told = self._host.run(["/usr/sbin/sshd", "-t"])
        if told.rc:
            self._put_back(before)
            raise HostError("sshd -t: %s: the certificate was taken away again, sshd was not reloaded" % told.message)
        self._reload()
        return True

    def close(self, serial: str, proof: Mapping[str, Any]) -> dict[str, Any]:
        """The end, after *serial* was seen on the port: the journal's `last`. Raises HostError where another certificate lies here."""
        if self.look()["serial"] != serial:
            raise HostError("%s has the serial %s, not %s: run it again" % (CERTIFICATE, self.look()["serial"] or "(none)", serial))
        journal = self._journal()
        run = journal.get("open") or {}
        gone = [{"serial": run["old"], "end": run["old_end"], "at": self._now()}] if run.get("old") and run["old"] != serial else []
        last = {
            "run_id": run.get("run_id", ""), "new": serial, "old": run.get("old", ""), "at": self._now(), "proof": dict(proof),
            "superseded": [*gone, *(journal.get("last") or {}).get("superseded", [])][:KEEP],
        }  # fmt: skip
        if not self._check:
            self._note({"last": last})
        return last

    def remove(self) -> bool:
        """The plain key alone again. True: something was changed."""
        there = [path for path in (DROP_IN, CERTIFICATE) if read_file(self._host, path) is not None]
        if there and not self._check:
            for path in there:
                os.unlink(self._host.at(path))
            self._reload()
        return bool(there)

    def _key(self) -> str:
        text = read_file(self._host, KEY)
        if not text:
            raise HostError("%s is not there: ssh-keygen -A makes the host's keys; without one there is nothing to certify" % KEY)
        return " ".join(text.decode("ascii", "replace").split()[:2])

    def _journal(self) -> dict[str, Any]:
        text = read_file(self._host, JOURNAL)
        try:
            return dict(json.loads(text)) if text else {}
        except ValueError as error:
            raise HostError("%s: is no JSON; remove it, then a new rotation begins" % JOURNAL) from error

    def _note(self, journal: Mapping[str, Any]) -> None:
        ensure_directory(self._host, os.path.dirname(JOURNAL), 0o700, 0, 0)
        atomic_write(self._host, JOURNAL, json.dumps(dict(journal), sort_keys=True).encode("ascii"), 0o600, 0, 0)

    def _put_back(self, before: Mapping[str, Any]) -> None:
        for path, content in before.items():
            if content is None:
                os.unlink(self._host.at(path))
            else:
                atomic_write(self._host, path, content, 0o644, 0, 0)

    def _reload(self) -> None:
        """sshd reads its files anew; sessions are processes of their own and live on."""
        done = self._host.run(["systemctl", "reload", "ssh.service"])
        if done.rc:
            raise HostError("systemctl reload ssh.service: %s" % done.message)
