# SPDX-License-Identifier: Apache-2.0
"""Trust on the mirror's host: the short session with a candidate, and what the servers present, both behind the audit's gate."""
from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..hostfiles import HostError, atomic_write, ensure_directory
from . import trust_judge
from .audit_host import Audit, State, pems, sources_of, to_its_end
from .audit_types import NO_ASYNCUA, AuditError, Certificate
from .trust import Crypto, Statement, Trust, TrustError, Wanted

TICKS_PER_S = 10_000_000
KEPT = 20
"""Most unknown certificates of one source that are kept for review."""


class Dialler(Audit):
    """Dials with the mirror's user. *world*: as Audit."""

    patience_s = 90.0

    def _slot(self, source: Mapping[str, Any]) -> None:
        """Wait for the conduit. Raises AuditError when the connection is not ours to take."""
        self._equipped()
        state = State(self.places.state, str(source["id"]), self.options.write_state)
        self._dial(source, state, self.patience_s)

    def session(self, source: Mapping[str, Any], certificate: bytes, key: bytes) -> None:
        """One short session with another certificate than the one in use, closed at once. Raises AuditError."""
        target = dataclasses.replace(self._target(source), name="hnai-trust/%s" % source["id"], certificate=certificate, private_key=key,
                                     session_timeout_s=30.0)
        self._slot(source)

        async def once() -> None:
            channel = self._reader.Reader(target)
            try:
                await channel.open()
            finally:
                await channel.close()

        to_its_end(once())

    def started(self) -> float:
        """When the running collector began, unix s; 0 = not known."""
        begin = (self._status()[0] or {}).get("started")
        return begin / TICKS_PER_S if isinstance(begin, int) else 0.0

    # -- judgement ----------------------------------------------------------------------------------------
    def judge(self, entries: Iterable[Mapping[str, Any]], wanted: Wanted, said: Sequence[Statement], horizon_days: float, lists: Mapping[str, str]) -> None:
        """OT1 to OT8 into the report."""
        sources = sources_of(entries)
        context = trust_judge.Context(self._now(), horizon_days, lists)
        if self._reader.MISSING:
            why = NO_ASYNCUA % self._reader.MISSING
            trust_judge.judge(self.report, trust_judge.Own(error=why), [trust_judge.Server(str(one["id"]), error=why) for one in sources],
                              dataclasses.replace(context, change_error=why))
            return
        crypto = Crypto()
        try:
            trust = Trust(self._host, wanted, crypto, self._now, check=True, started=self.started())
            told = trust.status([str(one["id"]) for one in sources], said).as_dict()
            context = dataclasses.replace(context, change=told)
        except (TrustError, AuditError, OSError, ValueError) as error:
            context = dataclasses.replace(context, change_error=str(error))
        found = [self._server(one) for one in sources]
        trust_judge.judge(self.report, self._own(wanted, crypto), found, context)

    def _own(self, wanted: Wanted, crypto: Crypto) -> trust_judge.Own:
        try:
            pem = (self.places.pki / "cert.pem").read_bytes()
            certificate = crypto.describe(pem)
        except (OSError, ValueError, AuditError) as error:
            return trust_judge.Own(application_uri=wanted.application_uri, error=str(error))
        try:
            fits = crypto.public_of_key((self.places.pki / "key.pem").read_bytes()) == crypto.public_of_certificate(pem)
        except OSError as error:
            return trust_judge.Own(certificate, None, wanted.application_uri, str(error))
        except ValueError:
            fits = False
        return trust_judge.Own(certificate, fits, wanted.application_uri)

    def _server(self, source: Mapping[str, Any]) -> trust_judge.Server:
        from . import trust_channel

        name = str(source["id"])
        pins: list[str] = []
        try:
            if (self.places.servers / (name + ".pem")).exists():
                # The second one is what the server is about to change to.
                pins += [self._describe(one).sha256 for one in pems((self.places.servers / (name + ".pem")).read_bytes())]
            self._slot(source)
            addresses, _port = self._addresses(source)
            told = trust_channel.presented(str(source["endpoint"]), addresses[0], str(source.get("policy") or "Basic256Sha256"),
                                           str(source.get("mode") or "SignAndEncrypt"))
            certificate = self._reader.describe(told.certificate) if told.certificate else None
            if certificate is not None and certificate.sha256 not in pins:
                self._for_review(name, told.certificate, certificate)
            return trust_judge.Server(name, certificate, told.application_uri, str(source.get("application_uri") or ""), pins,
                                      sorted({one.certificate_sha256 for one in told.endpoints if one.certificate_sha256}))
        except (AuditError, OSError, ValueError, HostError) as error:
            return trust_judge.Server(name, pins=pins, error=str(error))

    def _describe(self, raw: bytes) -> Certificate:
        return self._reader.describe(self._reader.der(raw))

    def _for_review(self, name: str, der: bytes, certificate: Certificate) -> None:
        """An unknown certificate, for a person to look at; a server that shows another one each time fills no disk."""
        if not self.options.write_state:
            return
        folder = "/var/lib/hnai/opcua_trust/review/%s" % name
        path = "%s/%s.pem" % (folder, certificate.sha256)
        if not os.path.exists(self._host.at(path)):
            ensure_directory(self._host, "/var/lib/hnai/opcua_trust", 0o700, 0, 0)
            ensure_directory(self._host, folder, 0o700, 0, 0)
            if len(os.listdir(self._host.at(folder))) >= KEPT:
                return
            atomic_write(self._host, path, Crypto().pem_of(der), 0o600, 0, 0)
