# SPDX-License-Identifier: Apache-2.0
"""The mirror's application certificate and its change: the old one stays in use until every server has accepted the new one.

Plants trust a certificate by its thumbprint, so a new one must be known everywhere before it is used anywhere. On the host lie::

    pki/key.pem, pki/cert.pem              in use; after the first change links to current/…
    pki/current -> g/<sha256[:16]>         the one thing that a change moves, in one rename
    pki/g/<sha256[:16]>/key.pem, cert.pem  a pair; the old one stays until its removal is confirmed
    <state>/candidate/key.pem, cert.pem, chain.pem      what is to come; root only, outside of what restarts the collector
    <state>/ledger.json                    who has accepted, who has not, what was retired

Every step looks first, so a run that was killed is simply run again::

    current -> key made -> signed (candidate) -> accepted by one server after the other -> pair beside the old one -> retired noted -> link moved -> current

A server is asked once in a run, in one short session, and only when its owner has said that it trusts the new thumbprint; one that said no is not asked again
until somebody names it. ``note`` in a test is called before each durable step.
"""
from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import PurePosixPath
from typing import Any

from ..hostfiles import Host, atomic_write, ensure_directory, read_file, sync_directory
from .audit_types import AuditError, Certificate, ClearPassword, PinMismatch, Refused

PKI, STATE = "/etc/hnai/ot_collector/pki", "/var/lib/hnai/opcua_trust"
CURRENT, CANDIDATE = "current", "candidate"
TRUSTED, REMOVED = "trusted", "removed"
USAGES = ("clientAuth", "serverAuth")
ABOUT_ITSELF = frozenset({0x80010000, 0x80020000, 0x80030000, 0x80040000, 0x800A0000, 0x800C0000, 0x800E0000, 0x80100000, 0x80560000, 0x807D0000, 0x80810000,
                          0x80B70000})
"""With these a server says how it is and nothing about us: BadUnexpectedError, BadInternalError, BadOutOfMemory, BadResourceUnavailable, BadTimeout,
BadShutdown, BadServerHalted, BadTooManyOperations, BadTooManySessions, BadTcpServerTooBusy, BadTcpNotEnoughResources, BadMaxConnectionsReached."""
_PAIR = ("key.pem", "cert.pem")
DAY_S = 86400.0


STATEMENT_ARGS: dict[str, Any] = {"type": "list", "elements": "dict", "default": [], "options": {
    "source": {"type": "str", "required": True}, "thumbprint": {"type": "str", "required": True},
    "state": {"type": "str", "choices": [TRUSTED, REMOVED], "required": True}, "by": {"type": "str", "required": True},
    "date": {"type": "str", "required": True},
}}
"""Option of the modules with what owners have said."""


class TrustError(Exception):
    """It cannot go on; the text says what is true and the remedy."""


def plain(thumbprint: str) -> str:
    """A thumbprint without the ornaments that certificate viewers add."""
    return "".join(one for one in thumbprint.lower() if one in "0123456789abcdef")


@dataclass(frozen=True)
class Statement:
    """What a server's owner has done with a certificate, and who says so. *thumbprint*: SHA-1 (as OPC UA has it) or SHA-256."""

    source: str
    thumbprint: str
    state: str
    by: str
    date: str

    def about(self, source: str, certificate: Mapping[str, Any], state: str) -> bool:
        """Is it about this certificate at this server?"""
        return self.source == source and self.state == state and plain(self.thumbprint) in (certificate["sha1"], certificate["sha256"])


def statements(entries: Iterable[Mapping[str, Any]], today: date) -> list[Statement]:
    """Checked. Raises TrustError naming the key."""
    found = []
    for number, entry in enumerate(entries):
        where = "ot_collector_trust_statements[%d]" % number
        one = Statement(*(str(entry.get(key) or "") for key in ("source", "thumbprint", "state", "by", "date")))
        if one.state not in (TRUSTED, REMOVED):
            raise TrustError("%s.state: %r; write trusted or removed" % (where, one.state))
        if not one.source or not one.by.strip():
            raise TrustError("%s: source and by (a person) are needed" % where)
        if len(plain(one.thumbprint)) not in (40, 64):
            raise TrustError("%s.thumbprint: %r is no SHA-1 and no SHA-256" % (where, one.thumbprint))
        try:
            when = date.fromisoformat(one.date)
        except ValueError as error:
            raise TrustError("%s.date: %r; write YYYY-MM-DD" % (where, one.date)) from error
        if when > today:
            raise TrustError("%s.date: %s has not come yet" % (where, one.date))
        found.append(one)
    return found


class Crypto:
    """What is asked of certificates; see ``trust_x509`` and ``asyncua_reader``. Tests give the same."""

    def __init__(self) -> None:
        from . import asyncua_reader, trust_x509

        self.missing = trust_x509.MISSING or asyncua_reader.MISSING
        self.make_key, self.request, self.self_signed = trust_x509.make_key, trust_x509.request, trust_x509.self_signed
        self.public_of_key, self.public_of_certificate = trust_x509.public_of_key, trust_x509.public_of_certificate
        self.chain_problem, self.pem_of = trust_x509.chain_problem, trust_x509.pem_of
        self._reader = asyncua_reader

    def describe(self, pem: bytes) -> Certificate:
        """Raises ValueError, BadAnswer."""
        return self._reader.describe(self._reader.der(pem))


@dataclass(frozen=True)
class Wanted:
    """What the application certificate must be, and where. *renew_before_s*: with less life left, a new one is due."""

    application_uri: str
    common_name: str
    dns: tuple[str, ...] = ()
    ips: tuple[str, ...] = ()
    group: str = "hnai-ot_collector"
    renew_before_s: float = 120 * DAY_S
    pki: str = PKI
    state: str = STATE


@dataclass
class Outcome:
    """*phase*: current | candidate. *waiting*: {source, why} of each server that has not accepted; *removals*: {source, thumbprint, by, date}."""

    phase: str = CURRENT
    changed: bool = False
    plan: list[str] = field(default_factory=list)
    csr: str = ""
    in_use: dict[str, Any] = field(default_factory=dict)
    candidate: dict[str, Any] = field(default_factory=dict)
    accepted: list[str] = field(default_factory=list)
    waiting: list[dict[str, str]] = field(default_factory=list)
    switched: bool = False
    restart_due: bool = False
    removals: list[dict[str, str]] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """For the module's result; nothing of it is secret."""
        return {key: getattr(self, key) for key in self.__dataclass_fields__}


Dial = Callable[[str, bytes, bytes], None]
"""(source, certificate PEM, key PEM): one short session, closed again. Raises AuditError."""


class Trust:
    """The change on one host. *now*: unix s; *started*: unix s when the collector began, 0 = not known."""

    def __init__(self, host: Host, wanted: Wanted, crypto: Any, now: Callable[[], float], check: bool = False, started: float = 0.0,
                 note: Callable[[str], None] = lambda step: None) -> None:
        self._host, self.want, self._crypto, self._now, self._check, self._started, self._note = host, wanted, crypto, now, check, started, note
        self.outcome = Outcome()

    # -- files --------------------------------------------------------------------------------------------
    def _read(self, path: str) -> bytes | None:
        return read_file(self._host, path)

    def _group(self) -> int:
        group = self._host.gid(self.want.group)
        if group is None:
            raise TrustError("there is no group %s: run site.yml --tags ot_collector first" % self.want.group)
        return group

    def _put(self, path: str, content: bytes, mode: int, group: int = 0) -> None:
        if self._read(path) == content:
            return
        self._note("write %s" % PurePosixPath(path).name)
        atomic_write(self._host, path, content, mode, 0, group)
        self.outcome.changed = True

    def _private(self, path: str) -> None:
        for folder in (self.want.state, path):
            ensure_directory(self._host, folder, 0o700, 0, 0)

    def _link(self, path: str, target: str) -> None:
        """Make *path* a link to *target*, in one rename."""
        real = self._host.at(path)
        if os.path.islink(real) and os.readlink(real) == target:
            return
        self._note("link %s" % PurePosixPath(path).name)
        new = os.path.join(os.path.dirname(real), ".%s.hnai-new" % os.path.basename(real))
        with contextlib.suppress(FileNotFoundError):
            os.unlink(new)
        os.symlink(target, new)
        os.replace(new, real)
        sync_directory(os.path.dirname(real))
        self.outcome.changed = True

    def _remove(self, path: str) -> None:
        real = self._host.at(path)
        if os.path.lexists(real):
            self._note("remove %s" % PurePosixPath(path).name)
            os.unlink(real)
            sync_directory(os.path.dirname(real))
            self.outcome.changed = True

    def ledger(self) -> dict[str, Any]:
        """What was noted. Raises TrustError for a file that is no ledger."""
        raw = self._read(self.want.state + "/ledger.json")
        if raw is None:
            return {"format": 1, "answers": {}, "retired": []}
        try:
            data = json.loads(raw)
            if data["format"] == 1 and isinstance(data["answers"], dict) and isinstance(data["retired"], list):
                return dict(data)
        except (ValueError, KeyError, TypeError) as error:
            raise TrustError("%s/ledger.json cannot be read (%s): it says what servers have accepted; bring it back from a backup" % (
                self.want.state, error)) from error
        raise TrustError("%s/ledger.json is of another format" % self.want.state)

    def _keep(self, ledger: Mapping[str, Any]) -> None:
        self._private(self.want.state)
        self._put(self.want.state + "/ledger.json", (json.dumps(ledger, indent=1, sort_keys=True) + "\n").encode("utf-8"), 0o600)

    # -- what lies here -----------------------------------------------------------------------------------
    def _described(self, pem: bytes) -> dict[str, Any]:
        one = self._crypto.describe(pem)
        return {"sha1": one.sha1, "sha256": one.sha256, "subject": one.subject, "issuer": one.issuer, "not_after": one.not_after,
                "pem": pem.decode("ascii", "replace")}

    def _problems(self, certificate: bytes, key: bytes | None) -> list[str]:
        """Why a certificate is not what is wanted, beside its age."""
        try:
            one = self._crypto.describe(certificate)
            found = []
            if key is None or self._crypto.public_of_key(key) != self._crypto.public_of_certificate(certificate):
                found.append("it does not belong to the key")
        except (ValueError, AuditError) as error:
            return ["it cannot be read: %s" % error]
        if self.want.application_uri not in one.uris:
            found.append("its ApplicationUri is %s, not %s" % (", ".join(one.uris) or "missing", self.want.application_uri))
        found += ["it lacks %s" % usage for usage in USAGES if usage not in one.extended]
        if one.key_type != "RSA" or one.key_bits < 2048 or one.signature_hash in ("sha1", "md5"):
            found.append("%s %d bits, signed with %s" % (one.key_type, one.key_bits, one.signature_hash))
        return found

    def _in_use(self) -> tuple[bytes, bytes]:
        """(key, certificate). Raises TrustError."""
        key, certificate = self._read(self.want.pki + "/key.pem"), self._read(self.want.pki + "/cert.pem")
        if key is None or certificate is None:
            raise TrustError("%s has no key.pem or cert.pem: run site.yml --tags ot_collector first" % self.want.pki)
        return key, certificate

    def _candidate(self) -> tuple[bytes | None, bytes | None]:
        folder = "%s/candidate" % self.want.state
        return self._read(folder + "/key.pem"), self._read(folder + "/cert.pem")

    def _why_due(self, certificate: bytes, key: bytes, roots: str) -> list[str]:
        one = self._crypto.describe(certificate)
        found = self._problems(certificate, key)
        left = one.not_after - self._now()
        if left < self.want.renew_before_s:
            found.append("%.0f days of its life are left" % (left / DAY_S) if left > 0 else "it has expired")
        if one.self_signed and roots.strip():
            found.append("it is not signed by the site's CA")
        return found

    # -- steps --------------------------------------------------------------------------------------------
    def prepare(self, roots: str, force: bool = False) -> Outcome:
        """A key and a request, when a new certificate is due or *force*; the request is empty when nothing is to be signed.

        Without *roots* the key signs its certificate itself, and there is nothing to be signed by anybody.
        """
        key, certificate = self._in_use()
        new_key, new = self._candidate()
        self._look(key, certificate)
        if new is not None:
            if self._crypto.public_of_certificate(new) == self._crypto.public_of_certificate(certificate):
                self.outcome.phase = CURRENT  # Only its tidying was cut off; ``switch`` ends it.
                self.outcome.plan.append("tidy up after the change that a killed run made")
                return self.outcome
            bad = self._problems(new, new_key)
            if not bad and self._crypto.describe(new).not_after > self._now():
                self.outcome.plan.append("have %s trusted, then switch" % self.outcome.candidate["sha1"])
                return self.outcome
            self.outcome.plan.append("drop a candidate that cannot be used: %s" % ("; ".join(bad) or "it has expired"))
            self.outcome.candidate = {}
            if not self._check:
                for name in ("cert.pem", "chain.pem"):
                    self._remove("%s/candidate/%s" % (self.want.state, name))
        due = self._why_due(certificate, key, roots)
        if not due and not force and new_key is None:
            return self.outcome
        self.outcome.phase = CANDIDATE
        by = "have it signed by the site's CA" if roots.strip() else "let it sign itself"
        self.outcome.plan.append("make a key and %s: %s" % (by, "; ".join(due) or "asked for"))
        if self._check:
            return self.outcome
        folder = "%s/candidate" % self.want.state
        self._private(folder)
        try:
            usable = new_key is not None and bool(self._crypto.public_of_key(new_key))
        except ValueError:
            usable = False
        if not usable:
            new_key = self._crypto.make_key()
            self._put(folder + "/key.pem", new_key, 0o600)
        subject = (new_key, self.want.common_name, self.want.application_uri, self.want.dns, self.want.ips)
        if roots.strip():
            self.outcome.csr = self._crypto.request(*subject)
        else:
            self._put(folder + "/cert.pem", self._crypto.self_signed(*subject, self._now()), 0o600)
            self._look(key, certificate)
        return self.outcome

    def install(self, certificate: str, chain: Sequence[str], roots: str) -> Outcome:
        """What the CA signed becomes the candidate. Raises TrustError: nothing was replaced then."""
        key, current = self._in_use()
        new_key, _earlier = self._candidate()
        leaf = certificate.strip().encode("ascii") + b"\n"
        parts = [one.strip().encode("ascii") + b"\n" for one in chain]
        bad = self._problems(leaf, new_key)
        broken = self._crypto.chain_problem(leaf, parts, roots.encode("ascii"), self._now()) if not bad else ""
        if bad or broken:
            raise TrustError("what the CA signed is refused, nothing was replaced: %s. The PKI role of ot_collector in OpenBao decides: run "
                             "site.yml --tags openbao" % "; ".join([*bad, *([broken] if broken else [])]))
        folder = "%s/candidate" % self.want.state
        if not self._check:
            self._put(folder + "/chain.pem", b"".join(parts), 0o600)
            # Last: it says that the candidate is whole.
            self._put(folder + "/cert.pem", leaf, 0o600)
        self._look(key, current)
        return self.outcome

    def _look(self, key: bytes, certificate: bytes) -> None:
        """Fill the outcome with what lies here."""
        out, ledger = self.outcome, self.ledger()
        out.in_use = self._described(certificate)
        new_key, new = self._candidate()
        pending = new is not None and self._crypto.public_of_certificate(new) != self._crypto.public_of_certificate(certificate)
        out.phase = CANDIDATE if pending or (new is None and new_key is not None) else CURRENT
        if pending and new is not None:
            out.candidate = self._described(new)
            answers = ledger["answers"].get(out.candidate["sha256"], {})
            out.accepted = sorted(name for name, one in answers.items() if one["accepted"] is True)
        last = ledger["retired"][-1] if ledger["retired"] else {}
        out.restart_due = bool(last) and last["new"] == out.in_use["sha256"] and self._started < float(last["at"])

    def switch(self, sources: Sequence[str], said: Sequence[Statement], again: Sequence[str], dial: Dial) -> Outcome:
        """Ask the servers that are said to trust the candidate; move the link when every one of *sources* has accepted it."""
        key, certificate = self._in_use()
        self._look(key, certificate)
        new_key, new = self._candidate()
        if self.outcome.candidate and new is not None and new_key is not None:
            bad = self._problems(new, new_key)
            if bad or self.outcome.candidate["not_after"] <= self._now():
                raise TrustError("the candidate cannot be used (%s): run the verb from its beginning" % ("; ".join(bad) or "it has expired"))
            self._ask(sources, said, again, dial, new, new_key)
            if not self.outcome.waiting:
                self.outcome.plan.append("use %s" % self.outcome.candidate["sha1"])
                if not self._check:
                    self._promote(key, certificate, new_key, new, sources)
        if not self._check:
            self._tidy(sources, said)
        self._removals(sources, said)
        return self.outcome

    def _ask(self, sources: Sequence[str], said: Sequence[Statement], again: Sequence[str], dial: Dial, new: bytes, new_key: bytes) -> None:
        out, candidate = self.outcome, self.outcome.candidate
        for name in sources:
            ledger = self.ledger()
            answers = ledger["answers"].setdefault(candidate["sha256"], {})
            answer = answers.get(name, {})
            if answer.get("accepted") is True:
                continue
            spoken = [one for one in said if one.about(name, candidate, TRUSTED)]
            if answer.get("accepted") is False and name not in again:
                out.waiting.append({"source": name, "why": "it refused %s on %s (%s); it is asked again only when it is named" % (
                    candidate["sha1"], answer["at"], answer["why"])})
            elif not spoken:
                out.waiting.append({"source": name, "why": "its owner has not said that it trusts %s" % candidate["sha1"]})
            elif self._check:
                out.plan.append("ask %s in one short session, as %s says that it trusts %s" % (name, spoken[0].by, candidate["sha1"]))
                out.waiting.append({"source": name, "why": "check mode asks nobody"})
            else:
                accepted, why = self._answer(name, dial, new, new_key)
                if accepted is None:
                    out.waiting.append({"source": name, "why": why})
                    continue
                answers[name] = {"accepted": accepted, "why": why, "at": _utc(self._now()), "by": spoken[0].by, "date": spoken[0].date}
                self._keep(ledger)
                if accepted:
                    out.accepted = sorted({*out.accepted, name})
                else:
                    out.waiting.append({"source": name, "why": "it refused %s: %s" % (candidate["sha1"], why)})

    def _answer(self, name: str, dial: Dial, new: bytes, new_key: bytes) -> tuple[bool | None, str]:
        """True, False, or None where the server said nothing about the certificate."""
        self._note("dial %s" % name)
        try:
            dial(name, new, new_key)
        except (PinMismatch, ClearPassword) as error:
            return None, str(error)
        except Refused as error:
            return None if error.code in ABOUT_ITSELF else False, str(error)
        except (AuditError, OSError, ValueError) as error:
            # No free connection, no answer, nothing to dial with: the server has not spoken about the certificate.
            return None, str(error)
        return True, ""

    def _place(self, key: bytes, certificate: bytes) -> str:
        """A pair in its own directory; its name relative to the pki directory."""
        group = self._group()
        name = "g/%s" % self._crypto.describe(certificate).sha256[:16]
        ensure_directory(self._host, self.want.pki + "/g", 0o750, 0, group)
        ensure_directory(self._host, "%s/%s" % (self.want.pki, name), 0o750, 0, group)
        for file, content in zip(_PAIR, (key, certificate)):
            self._put("%s/%s/%s" % (self.want.pki, name, file), content, 0o640, group)
        return name

    def _promote(self, key: bytes, certificate: bytes, new_key: bytes, new: bytes, sources: Sequence[str]) -> None:
        """The link moves in one rename; whatever is killed before it leaves the old pair in use, after it the new one."""
        out = self.outcome
        # First the old pair behind the link: the same bytes at every moment.
        self._link(self.want.pki + "/current", self._place(key, certificate))
        for file in _PAIR:
            self._link("%s/%s" % (self.want.pki, file), "current/%s" % file)
        place = self._place(new_key, new)
        ledger = self.ledger()
        # Before the rename: that somebody must take the old one out of the trust lists is never forgotten.
        ledger["retired"] = [one for one in ledger["retired"] if one["sha256"] != out.in_use["sha256"]] + [{
            "sha1": out.in_use["sha1"], "sha256": out.in_use["sha256"], "new": out.candidate["sha256"], "at": self._now(), "sources": sorted(sources)}]
        # One that is used again is not retired.
        ledger["retired"] = [one for one in ledger["retired"] if one["sha256"] != out.candidate["sha256"]]
        self._keep(ledger)
        self._link(self.want.pki + "/current", place)
        out.switched = out.restart_due = True
        out.in_use, out.candidate, out.phase = out.candidate, {}, CURRENT

    def _tidy(self, sources: Sequence[str], said: Sequence[Statement]) -> None:
        """After the link has moved: no second copy of a key, no key of a certificate that is out of every trust list."""
        _key, certificate = self._in_use()
        new = self._candidate()[1]
        if new is not None and self._crypto.public_of_certificate(new) == self._crypto.public_of_certificate(certificate):
            for name in ("key.pem", "chain.pem", "cert.pem"):
                self._remove("%s/candidate/%s" % (self.want.state, name))
            self.outcome.phase = CURRENT
        for one in self.ledger()["retired"]:
            if one["sha256"] != self.outcome.in_use["sha256"] and all(self._removal(one, name, said) for name in one["sources"]):
                for file in _PAIR:
                    self._remove("%s/g/%s/%s" % (self.want.pki, one["sha256"][:16], file))

    def back(self) -> Outcome:
        """The pair before the last change, while its key is there: no server has to be asked, it was never taken out of a trust list."""
        key, certificate = self._in_use()
        self._look(key, certificate)
        ledger = self.ledger()
        ours = [one for one in ledger["retired"] if one["new"] == self.outcome.in_use["sha256"]]
        if not ours:
            raise TrustError("there is nothing to go back to: the certificate in use replaced none")
        old = ours[-1]
        folder = "%s/g/%s" % (self.want.pki, old["sha256"][:16])
        old_key, old_certificate = self._read(folder + "/key.pem"), self._read(folder + "/cert.pem")
        if old_key is None or old_certificate is None:
            raise TrustError("the key of %s is gone: its removal from the trust lists was confirmed" % old["sha1"])
        self.outcome.plan.append("use %s again" % old["sha1"])
        if not self._check:
            # As in a change: the duty first, then the rename. The old entry stays until another takes its place; one that is in use counts nowhere.
            rest = [one for one in ledger["retired"] if one["sha256"] != self.outcome.in_use["sha256"]]
            self._keep({**ledger, "retired": [*rest, {
                "sha1": self.outcome.in_use["sha1"], "sha256": self.outcome.in_use["sha256"], "new": old["sha256"], "at": self._now(),
                "sources": list(old["sources"])}]})
            self._link(self.want.pki + "/current", "g/%s" % old["sha256"][:16])
            self.outcome.in_use = self._described(old_certificate)
            self.outcome.switched = self.outcome.restart_due = True
        return self.outcome

    # -- removals -----------------------------------------------------------------------------------------
    @staticmethod
    def _removal(retired: Mapping[str, Any], source: str, said: Sequence[Statement]) -> Statement | None:
        return next((one for one in said if one.about(source, retired, REMOVED)), None)

    def _removals(self, sources: Sequence[str], said: Sequence[Statement]) -> None:
        in_use = self._described(self._in_use()[1])["sha256"]
        for one in self.ledger()["retired"]:
            if one["sha256"] == in_use:
                continue
            for name in one["sources"]:
                if name in sources:
                    spoken = self._removal(one, name, said)
                    self.outcome.removals.append({"source": name, "thumbprint": one["sha1"], "since": _utc(float(one["at"])),
                                                  "by": spoken.by if spoken else "", "date": spoken.date if spoken else ""})

    def status(self, sources: Sequence[str], said: Sequence[Statement]) -> Outcome:
        """What is true, without doing anything."""
        key, certificate = self._in_use()
        self._look(key, certificate)
        if self.outcome.candidate:
            self.outcome.waiting = [{"source": name, "why": "it has not accepted %s" % self.outcome.candidate["sha1"]}
                                    for name in sources if name not in self.outcome.accepted]
        self._removals(sources, said)
        return self.outcome


def _utc(moment: float) -> str:
    from datetime import datetime, timezone

    return datetime.fromtimestamp(moment, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
