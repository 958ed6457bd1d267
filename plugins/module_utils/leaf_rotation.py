# SPDX-License-Identifier: Apache-2.0
"""Rotation of one component's TLS leaf on one host: a new key, a new certificate, and the proof that every listener serves it.

A leaf needs no overlap: whoever trusts the root takes the new one at once. So there is no journal in OpenBao. What is open stands on the host,
in ``/var/lib/hnai/rotation/tls+<component>/``: the key that was made (it never leaves the host), what was signed for it, and ``run.json`` with
serial numbers. Every step looks first::

    (nothing open) -> begun: old serial noted, key made -> signed: new serial noted -> in place -> served on every listener -> closed

A run that was killed is taken up by the next one: what was signed is put in place, and no second certificate is made, unless it is of no use any
more: it expired or its root went meanwhile, or an ordinary run of the site has put a later one in place. There is no way back: the old key is left
behind, and the next run makes another one.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from .host_certificate import Certificate, Wanted
from .hostfiles import Host, HostError, atomic_write, ensure_directory, read_file, required_ids
from .x509 import X509Error, first_der, serial, validity

DIRECTORY = "/var/lib/hnai/rotation"
#: In this order: the certificate decides what the files are, so it is last.
FILES = (("key.pem", 0o640), ("keystore.pem", 0o640), ("cert.pem", 0o644))


class LeafError(Exception):
    """The rotation cannot go on; the text says what is true and the remedy."""


class Files(Protocol):
    """What lies on the host."""

    def run(self) -> dict[str, Any]:
        """What was noted last; empty where nothing was."""

    def note(self, run: Mapping[str, Any]) -> None:
        """Note it, durably."""

    def serial(self, staged: bool = False) -> str:
        """Serial of the certificate in place, or of the one that was signed for the new key; "" where there is none."""

    def request(self) -> str:
        """A request for the new key, which is made where there is none."""

    def stage(self, signed: Mapping[str, Any]) -> None:
        """Keep what was signed. Raises HostError where it does not fit key, names and root."""

    def stale(self) -> list[str]:
        """Why what was signed before is of no use any more."""

    def promote(self) -> None:
        """Put new key and certificate in place."""

    def clear(self) -> None:
        """Forget key and certificate beside those in place."""


class Leaf:
    """The steps. *now*: unix s."""

    def __init__(self, files: Files, now: Callable[[], float] = time.time) -> None:
        self._files = files
        self._now = now

    def begin(self, run_id: str, reason: str) -> dict[str, Any]:
        """{run, csr, resumed}; `csr` is empty where it was signed before."""
        run = self._files.run()
        resumed = bool(run.get("open"))
        if not resumed:
            # Before the note: what a run left behind that is over must not be taken for this one's.
            self._files.clear()
            run = {"open": True, "run_id": run_id, "reason": reason, "old": self._files.serial(), "new": "", "began": self._now(), "last": run.get("last", {})}
            self._files.note(run)
        staged = self._files.serial(staged=True)
        if staged and (self._files.serial() not in (run["old"], staged) or self._files.stale()):
            self._files.clear()
        return {"run": run, "resumed": resumed, "csr": "" if self._files.serial(staged=True) else self._files.request()}

    def _held(self) -> dict[str, Any]:
        run = self._files.run()
        if not run.get("open"):
            raise LeafError("no rotation of this certificate is open: run it from its beginning")
        return run

    def install(self, signed: Mapping[str, Any] | None) -> dict[str, Any]:
        """{run, changed}: the new certificate is in place."""
        run = self._held()
        if signed and not self._files.serial(staged=True):
            self._files.stage(signed)
        new = self._files.serial(staged=True)
        if not new:
            raise LeafError("nothing was signed for the new key: run it again")
        if new == run["old"]:
            raise LeafError("what was signed has the serial of the one in force (%s)" % new)
        if run["new"] != new:
            run = dict(run, new=new)
            self._files.note(run)
        changed = self._files.serial() != new
        # Also where the certificate is the new one already: a kill may have come between it and the key's group or the keystore.
        self._files.promote()
        return {"run": run, "changed": changed}

    def close(self, served: Mapping[str, str], expected: Sequence[str]) -> dict[str, Any]:
        """The end, with *served* ({listener: serial}) of every one of *expected*. Raises LeafError while something serves another one."""
        run = self._held()
        if not run["new"] or self._files.serial() != run["new"]:
            raise LeafError("the new certificate (%s) is not the one in place (%s): run it again" % (run["new"] or "none", self._files.serial() or "none"))
        asked = sorted(set(expected) | set(served))
        wrong = ["%s serves %s" % (name, served.get(name) or "nothing that could be read") for name in asked if served.get(name) != run["new"]]
        if wrong or not expected:
            raise LeafError(
                "run %s: %s, not %s: the old certificate is not out of use. Reload or restart the unit, then run it again"
                % (run["run_id"], "; ".join(wrong) or "no listener was asked", run["new"])
            )
        last = {
            "run_id": run["run_id"], "reason": run["reason"], "old": run["old"], "new": run["new"], "began": run["began"], "at": self._now(),
            "proof": {"new_served": True, "old_not_served": run["old"] not in served.values()}, "served": dict(served),
        }  # fmt: skip
        self._files.note({"open": False, "last": last})
        self._files.clear()
        return {"run": {"open": False, "last": last}}


@dataclass
class HostFiles:
    """The real ones. *wanted* describes the certificate in place; *root*: PEM bundle, by default what is trusted now."""

    host: Host
    wanted: Wanted
    root: str = ""

    def __post_init__(self) -> None:
        self._beside = "%s/tls+%s" % (DIRECTORY, self.wanted.component)
        self._run = self._beside + ".json"

    def _certificate(self) -> Certificate:
        return Certificate(self.host, Wanted(**dict(self.wanted.__dict__, directory=self._beside, combined=self._combined())))

    def _combined(self) -> bool:
        return self.wanted.combined or read_file(self.host, self.wanted.directory + "/keystore.pem") is not None

    def _trusted(self) -> str:
        return self.root.strip() or (read_file(self.host, self.wanted.directory + "/ca.pem") or b"").decode("ascii", "replace")

    def run(self) -> dict[str, Any]:
        """run.json. Raises HostError for one that is torn."""
        text = read_file(self.host, self._run)
        try:
            found = json.loads(text) if text else {}
        except ValueError as error:
            raise HostError("%s: is no JSON; remove it, then a new rotation begins" % self._run) from error
        return dict(found)

    def note(self, run: Mapping[str, Any]) -> None:
        """Atomically."""
        ensure_directory(self.host, DIRECTORY, 0o700, 0, 0)
        atomic_write(self.host, self._run, json.dumps(dict(run), sort_keys=True).encode("ascii"), 0o600, 0, 0)

    def serial(self, staged: bool = False) -> str:
        """Of cert.pem."""
        text = read_file(self.host, (self._beside if staged else self.wanted.directory) + "/cert.pem")
        return serial(first_der(text.decode("ascii", "replace"))) if text else ""

    def ends(self) -> tuple[float, float]:
        """(from when, until when) the certificate in place is valid; zeros where there is none."""
        text = read_file(self.host, self.wanted.directory + "/cert.pem")
        if not text:
            return 0.0, 0.0
        found = validity(first_der(text.decode("ascii", "replace")), "CERTIFICATE")
        return found.begin, found.end or 0.0

    def request(self) -> str:
        """Key and request."""
        ensure_directory(self.host, DIRECTORY, 0o700, 0, 0)
        return self._certificate().request(self._trusted()).csr

    def stage(self, signed: Mapping[str, Any]) -> None:
        """Checked against key, names and root."""
        self._certificate().install(signed["certificate"], list(signed["chain"]), self._trusted())

    def stale(self) -> list[str]:
        """By key, names, root and the clock."""
        return self._certificate().complaints(self._trusted())

    def promote(self) -> None:
        """Each file atomically; the key's group can read it before anything refers to it."""
        ids = required_ids(self.host, "root", self.wanted.group, self.wanted.directory)
        for name, mode in FILES:
            content = read_file(self.host, "%s/%s" % (self._beside, name))
            if content is not None and content != read_file(self.host, "%s/%s" % (self.wanted.directory, name)):
                atomic_write(self.host, "%s/%s" % (self.wanted.directory, name), content, mode, *ids)

    def clear(self) -> None:
        """The certificate first: without it what is left is a key that nothing was signed for."""
        for name in ("cert.pem", "keystore.pem", "ca.pem", "key.pem"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.host.at("%s/%s" % (self._beside, name)))


def served(address: tuple[str, int], ca_file: str, own: tuple[str, str] | None, timeout_s: float) -> str:
    """Serial that a TLS listener serves, its certificate verified against *ca_file* and the host's name. Raises OSError, X509Error.

    *own*: (certificate, key) for a listener that asks for one.
    """
    context = ssl.create_default_context(cafile=ca_file)
    if own:
        context.load_cert_chain(*own)
    with socket.create_connection(address, timeout=timeout_s) as raw, context.wrap_socket(raw, server_hostname=address[0]) as connection:
        der = connection.getpeercert(binary_form=True)
    if not der:
        raise X509Error("%s:%d shows no certificate" % address)
    return serial(der)
