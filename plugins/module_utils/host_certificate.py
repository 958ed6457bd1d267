# SPDX-License-Identifier: Apache-2.0
"""A host's own TLS key, its certificate request and the certificate that came back.

The key (EC P-256, PKCS#8) is made on the host and never leaves it. `Certificate.request` keeps key, root bundle and modes
as they must be and answers whether a new certificate is due, with the request to sign; `Certificate.install` checks what was
signed (matches the key, chains to the root, has the asked names and usages) before it replaces what runs.

Not for OPC UA application certificates: servers trust their thumbprint, so a renewal by remaining life stops the mirror.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
import re
import stat
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.hnai.platform.plugins.module_utils import hostfiles
from ansible_collections.hnai.platform.plugins.module_utils.hostfiles import (
    NAME,
    Host,
    HostError,
    atomic_write,
    ensure_directory,
    read_file,
    required_ids,
)
from ansible_collections.hnai.platform.plugins.module_utils.unit import note_drift
from ansible_collections.hnai.platform.plugins.module_utils.x509 import NEW_KEY, X509Error, read_pem

_PEM_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)
_DNS = re.compile(r"^(\*\.)?[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9])?)*$")
#: More than a task takes from the controller to the host, less than what makes a fresh certificate "not yet valid".
CLOCK_TOLERANCE_S = 60.0
USAGES = {"server": ("serverAuth", "TLS Web Server Authentication"), "client": ("clientAuth", "TLS Web Client Authentication")}
#: Options of a module that describe a certificate and who may read its key.
SUBJECT_ARGS: dict[str, dict[str, Any]] = {
    "group": {"type": "str"},
    "common_name": {"type": "str", "default": ""},
    "dns": {"type": "list", "elements": "str", "default": []},
    "ips": {"type": "list", "elements": "str", "default": []},
    "usages": {"type": "list", "elements": "str", "choices": list(USAGES), "default": list(USAGES)},
}
#: With where it lies and what lies beside it.
CERTIFICATE_ARGS: dict[str, dict[str, Any]] = {
    **SUBJECT_ARGS,
    "dir": {"type": "path"},
    "combined": {"type": "bool", "default": False},
    "chain": {"type": "list", "elements": "str", "default": []},
}


@dataclass(frozen=True)
class Wanted:
    """What the certificate must be. `renew_before` is the fraction of its lifetime below which it is renewed."""

    component: str
    directory: str
    group: str
    common_name: str = ""
    dns: tuple[str, ...] = ()
    ips: tuple[str, ...] = ()
    usages: tuple[str, ...] = ("server", "client")
    renew_before: float = 1 / 3
    combined: bool = False
    ca_only: bool = False

    def __post_init__(self) -> None:
        if not NAME.match(self.component):
            raise HostError(f"component: '{self.component}' is not a component's name")
        if re.search(r"(^|[/_-])(opcua|opc-ua)([/_-]|$)", self.directory) or any(":" in name or "/" in name for name in (*self.dns, self.common_name)):
            raise HostError(
                f"{self.directory}: host_certificate is not for OPC UA application certificates (a URI among "
                "the names, or such a directory): servers trust their thumbprint, a renewal would lock the mirror out; "
                "the component makes its own, once"
            )
        for name in self.dns:
            if not _DNS.match(name):
                raise HostError(f"dns: '{name}' is no DNS name")
        for address in self.ips:
            try:
                ipaddress.ip_address(address)
            except ValueError as error:
                raise HostError(f"ips: '{address}' is no IP address") from error
        if not self.ca_only and not _DNS.match(self.common_name):
            raise HostError(f"common_name: '{self.common_name}' is no DNS name")

    @property
    def names(self) -> set[str]:
        """The subject alternative names, normalised (`DNS:…`, `IP:…`); the common name is one of them."""
        return {f"DNS:{name.lower()}" for name in (*self.dns, self.common_name)} | {f"IP:{ipaddress.ip_address(item)}" for item in self.ips}


@dataclass
class Outcome(hostfiles.Outcome):
    """`csr` is the request to sign when `due`, empty in check mode where there is no key yet."""

    due: bool = False
    reasons: list[str] = field(default_factory=list)
    csr: str = ""
    not_after: str = ""


@dataclass(frozen=True)
class _Leaf:
    names: set[str]
    common_name: str
    public_key: str
    not_before: datetime.datetime
    not_after: datetime.datetime
    usages: str


class Certificate:
    """One certificate on one host. `now` gives the current time in UTC."""

    def __init__(
        self,
        host: Host,
        wanted: Wanted,
        check: bool = False,
        now: Callable[[], datetime.datetime] = lambda: datetime.datetime.now(datetime.timezone.utc),
    ) -> None:
        self.host = host
        self.want = wanted
        self.check = check
        self.now = now
        self.outcome = Outcome()
        self.key = f"{wanted.directory}/key.pem"
        self.cert = f"{wanted.directory}/cert.pem"
        self.ca = f"{wanted.directory}/ca.pem"
        self.keystore = f"{wanted.directory}/keystore.pem"

    # -- the two steps ----------------------------------------------------------------------------------------------

    def request(self, root: str = "", controller_time: float | None = None) -> Outcome:
        """Keeps key, root bundle and modes, and says whether a certificate is due. `root` is the PEM bundle to trust.

        `controller_time` (unix s): the controller's clock. Raises HostError, nothing changed, where the clocks disagree or no root is valid now.
        """
        self._clocks(controller_time)
        self._root_lives(root)
        self._directory()
        if root.strip():
            self._put(self.ca, _bundle(root, "root"), 0o644)
        elif self.check and read_file(self.host, self.ca) is None:
            self.outcome.changed_paths.append(self.ca)  # The authority that is made before the real run comes here.
        if self.want.ca_only:
            return self.outcome
        self._key()
        certificate = read_file(self.host, self.cert)
        self.outcome.reasons = self._reasons(certificate, root)
        self.outcome.due = bool(self.outcome.reasons)
        if self.outcome.due:
            if read_file(self.host, self.key) is not None:
                self.outcome.csr = self._csr()
            if self.check:
                self.outcome.changed_paths += [self.cert, *([self.keystore] if self.want.combined else [])]
        else:
            self._put(self.cert, certificate or b"", 0o644)
            self._combine(certificate or b"")
        return self.outcome

    def install(self, certificate: str, chain: list[str], root: str) -> Outcome:
        """Replaces certificate and root bundle after checking them against the key, the names and each other."""
        self._directory()
        leaf = _bundle(certificate, "certificate")
        intermediates = [_bundle(item, "chain") for item in chain]
        full = b"".join([leaf, *intermediates])
        bundle = _bundle(root, "root")
        problems = self._reasons(full, root, fresh=True)
        if problems:
            read = self._read(full)
            raise HostError(
                f"{self.cert}: the certificate that came back is refused, nothing was replaced: {'; '.join(problems)}. "
                + ("The PKI role of this component in OpenBao decides names and usages" if read is None or read.not_before <= self.now() < read.not_after
                   else "It was signed just now, so the clock of this host or that of OpenBao's host is wrong: `chronyc tracking` on both")
            )  # fmt: skip
        self._put(self.ca, bundle, 0o644)
        self._combine(full)
        # Last: it decides whether a certificate is due, so a run that is killed before this line asks again.
        self._put(self.cert, full, 0o644)
        return self.outcome

    def complaints(self, root: str) -> list[str]:
        """What is wrong with the certificate in place, however much of its life is left."""
        return self._reasons(read_file(self.host, self.cert), root, fresh=True)

    # -- what makes every certificate useless -----------------------------------------------------------------------

    def _clocks(self, controller_time: float | None) -> None:
        """A certificate is judged by clocks: one that is wrong refuses good ones, and takes old ones."""
        ahead = 0.0 if controller_time is None else self.now().timestamp() - controller_time
        if abs(ahead) > CLOCK_TOLERANCE_S:
            raise HostError(
                f"clock: this host is {abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} the controller; certificates that are good would be refused, "
                "and nothing was changed. remedy: `chronyc tracking` on the host (its time source, conduit C-003) and `timedatectl` on the controller "
                "say which of the two is wrong"
            )

    def _root_lives(self, root: str) -> None:
        """Of the roots that would be trusted one is valid now."""
        if not root.strip():
            return
        try:
            ends = [one.end for one in read_pem(root) if one.kind == "certificate" and one.end is not None]
        except X509Error:
            return  # What is no certificate at all is refused where it is written.
        if ends and max(ends) <= self.now().timestamp():
            ended = datetime.datetime.fromtimestamp(max(ends), datetime.timezone.utc)
            raise HostError(
                f"hnai_ca_pem: the site's root certificate ended at {ended:%Y-%m-%dT%H:%M:%SZ}: nothing that it signed is valid any more, nothing was changed. "
                "remedy: `playbooks/rotate.yml -e rotate_secret=pki/root` makes a new one, or takes over the next one of the site's own CA (docs/rotation.md); "
                "who gives hnai_ca_pem by hand gives the new one"
            )

    # -- files ------------------------------------------------------------------------------------------------------

    def _ids(self) -> tuple[int, int]:
        return required_ids(self.host, "root", self.want.group, self.want.directory)

    def _directory(self) -> None:
        group = self.host.gid(self.want.group)
        target = self.host.at(self.want.directory)
        if self.check:
            info = os.stat(target) if os.path.isdir(target) else None
            if info is None or (stat.S_IMODE(info.st_mode), self.host.owner(info)) != (0o750, (0, group)):
                self.outcome.changed_paths.append(self.want.directory + "/")
        elif ensure_directory(self.host, self.want.directory, 0o750, *self._ids()):
            self.outcome.changed_paths.append(self.want.directory + "/")

    def _put(self, path: str, content: bytes, mode: int) -> None:
        target = self.host.at(path)
        present = read_file(self.host, path)
        if present == content:
            info = os.stat(target)
            if (stat.S_IMODE(info.st_mode), self.host.owner(info)) == (mode, (0, self.host.gid(self.want.group))):
                return
        self.outcome.changed_paths.append(path)
        if not self.check:
            if present is not None and present != content:
                note_drift(self.host, path)
            atomic_write(self.host, path, content, mode, *self._ids())

    def _key(self) -> None:
        present = read_file(self.host, self.key)
        if present is not None and self._public_key_of_key() is None:
            present = None  # Torn or foreign: a new one, and thereby a new certificate.
        if present is None:
            if self.check:
                self.outcome.changed_paths.append(self.key)
                return
            done = self.host.run(NEW_KEY)
            if done.rc != 0 or b"PRIVATE KEY" not in done.out:
                raise HostError(f"{self.key}: openssl could not make a key: {done.err.decode('utf-8', 'replace').strip()}")
            present = done.out
        self._put(self.key, present, 0o640)

    def _combine(self, full: bytes) -> None:
        """keystore.pem: PKCS#8 key and chain in one file, as Kafka reads it."""
        key = read_file(self.host, self.key)
        if self.want.combined and key is not None:
            self._put(self.keystore, key + full, 0o640)

    # -- judging ----------------------------------------------------------------------------------------------------

    def _reasons(self, full: bytes | None, root: str, fresh: bool = False) -> list[str]:
        """Why this certificate (leaf and intermediates) is not, or no longer, the one that is wanted; empty when it is."""
        if full is None:
            return ["there is no certificate"]
        leaf = self._read(full)
        if leaf is None:
            return ["it is no certificate that openssl can read"]
        self.outcome.not_after = leaf.not_after.strftime("%Y-%m-%dT%H:%M:%SZ")
        reasons = []
        if leaf.public_key != self._public_key_of_key():
            reasons.append("it does not belong to the key on this host")
        if leaf.names | {f"DNS:{self.want.common_name.lower()}"} != self.want.names:
            differing = ", ".join(sorted((leaf.names | {f"DNS:{self.want.common_name.lower()}"}) ^ self.want.names))
            reasons.append(f"its names differ ({differing})")
        if leaf.common_name.lower() != self.want.common_name.lower():
            reasons.append(f"its common name is '{leaf.common_name}'")
        reasons += [f"it lacks the usage '{usage}'" for usage in self.want.usages if USAGES[usage][1] not in leaf.usages]
        lifetime = (leaf.not_after - leaf.not_before).total_seconds()
        left = (leaf.not_after - self.now()).total_seconds()
        if left <= 0:
            reasons.append(f"it expired at {self.outcome.not_after}")
        elif leaf.not_before > self.now():
            reasons.append(f"it is valid from {leaf.not_before:%Y-%m-%dT%H:%M:%SZ} on, and the clock here says {self.now():%Y-%m-%dT%H:%M:%SZ}")
        elif not fresh and left < self.want.renew_before * lifetime:
            reasons.append(f"less than {self.want.renew_before:.0%} of its life is left (until {self.outcome.not_after})")
        trusted = root.encode() if root.strip() else read_file(self.host, self.ca)
        if trusted is None:
            reasons.append("there is no root to check it against")
        elif leaf.not_before <= self.now() < leaf.not_after:
            complaint = self._chains(full, trusted)
            if complaint:
                reasons.append(f"it does not chain to the root ({complaint})")
        return reasons

    def _read(self, full: bytes) -> _Leaf | None:
        done = self.host.run(
            [
                "openssl",
                "x509",
                "-noout",
                "-subject",
                "-nameopt",
                "multiline",
                "-dates",
                "-pubkey",
                "-ext",
                "subjectAltName,extendedKeyUsage",
            ],
            stdin=full,
        )
        text = done.text
        dates = dict(re.findall(r"^(notBefore|notAfter)=(.*)$", text, re.MULTILINE))
        key = re.search(r"-----BEGIN PUBLIC KEY-----.*?-----END PUBLIC KEY-----", text, re.DOTALL)
        if done.rc != 0 or len(dates) != 2 or key is None:
            return None
        common = re.search(r"^\s*commonName\s*=\s*(.*)$", text, re.MULTILINE)
        listed = re.search(r"Subject Alternative Name:.*\n\s*(.*)$", text, re.MULTILINE)
        usages = re.search(r"Extended Key Usage:.*\n\s*(.*)$", text, re.MULTILINE)
        names = set()
        for item in (listed.group(1) if listed else "").split(","):
            kind, _, value = item.strip().partition(":")
            if kind == "DNS":
                names.add(f"DNS:{value.lower()}")
            elif kind == "IP Address":
                names.add(f"IP:{ipaddress.ip_address(value)}")
            elif kind:
                names.add(item.strip())
        return _Leaf(
            names,
            common.group(1).strip() if common else "",
            key.group(0),
            _date(dates["notBefore"]),
            _date(dates["notAfter"]),
            usages.group(1) if usages else "",
        )

    def _public_key_of_key(self) -> str | None:
        done = self.host.run(["openssl", "pkey", "-in", self.host.at(self.key), "-pubout"])
        return done.text.strip() if done.rc == 0 else None

    def _chains(self, full: bytes, root: bytes) -> str:
        """What openssl says against leaf → intermediates → root; empty when nothing."""
        with tempfile.TemporaryDirectory(prefix="hnai-chain-") as directory:
            paths = {}
            for name, content in (("full.pem", full), ("root.pem", root)):
                paths[name] = os.path.join(directory, name)
                with open(paths[name], "wb") as stream:
                    stream.write(content)
            done = self.host.run(["openssl", "verify", "-CAfile", paths["root.pem"], "-untrusted", paths["full.pem"], paths["full.pem"]])
            return "" if done.rc == 0 else " ".join(done.message.replace(directory + "/", "").split())

    def _csr(self) -> str:
        names = ",".join(sorted(self.want.names))
        usages = ",".join(USAGES[usage][0] for usage in self.want.usages)
        command = [
            "openssl",
            "req",
            "-new",
            "-sha256",
            "-key",
            self.host.at(self.key),
            "-subj",
            f"/CN={self.want.common_name}",
            "-addext",
            f"subjectAltName={names}",
        ]
        done = self.host.run([*command, *(["-addext", f"extendedKeyUsage={usages}"] if usages else [])])
        if done.rc != 0:
            raise HostError(f"{self.key}: openssl could not make a request: {done.err.decode('utf-8', 'replace').strip()}")
        return done.text


def _bundle(text: str, what: str) -> bytes:
    """The certificates of a PEM text, each ending in a newline. Raises HostError when there is none."""
    found = _PEM_CERTIFICATE.findall(text.encode())
    if not found:
        raise HostError(f"{what}: there is no PEM certificate in it")
    return b"".join(item.replace(b"\r\n", b"\n") + b"\n" for item in found)


def _date(text: str) -> datetime.datetime:
    """openssl's `Nov 25 16:00:00 2026 GMT`."""
    return datetime.datetime.strptime(" ".join(text.split()), "%b %d %H:%M:%S %Y GMT").replace(tzinfo=datetime.timezone.utc)
