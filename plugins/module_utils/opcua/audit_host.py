# SPDX-License-Identifier: Apache-2.0
"""The audit on the mirror's host: its certificate, its user, its password, its state; one source after the other.

Everything that is missing (environment, certificate, pin, password, a free connection) makes that source ``inconclusive``.
"""
from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import gzip
import json
import os
import re
import signal
import socket
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from .. import intrusive
from ..credentials import decrypt
from ..hostfiles import Host, sync_directory
from ..verdict import Report
from . import audit_gate, audit_logins, audit_run
from .audit_judge import REFUTED, UNKNOWN, Context, Judge
from .audit_policy import parse
from .audit_types import NO_ASYNCUA, AuditError
from .collector import StatusError, decode

T = TypeVar("T")
_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)


def pems(raw: bytes) -> list[bytes]:
    """The certificates of a PEM text one by one; a DER file is one."""
    return _PEM.findall(raw) or [raw]


@dataclasses.dataclass(frozen=True)
class Places:
    """Where things lie on the mirror's host."""

    pki: Path = Path("/etc/hnai/ot_collector/pki")
    servers: Path = Path("/etc/hnai/ot_collector/servers")
    status: Path = Path("/run/hnai/ot_collector/collector.status.json")
    state: Path = Path("/var/lib/hnai/ot_audit")
    proc: Path = Path("/proc/net")


@dataclasses.dataclass(frozen=True)
class Options:
    """What the caller decides."""

    application_uri: str
    environment: str
    exceptions: Sequence[Any]
    accept_drift: Sequence[str]
    deadline_s: float
    write_state: bool
    site: str = ""
    tokens: Sequence[Any] = ()
    approvers: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    unread: bool = False
    """The sources are about to be deployed: one that the running collector does not know is audited all the same."""


RESUME_S = 86400.0
"""Answers of an unfinished audit that are older than this are asked for again: rights change."""


def credential_name(source: str) -> str:
    """Name of the collector's credential for a source's password (see role ot_collector, vars)."""
    return "opcua_%s_password" % source.replace("-", "_").replace(".", "_")


def plan_of(source: Mapping[str, Any], options: Options, deadline_s: float) -> audit_run.Plan:
    """The plan of one entry of ``hnai_ot_sources``; its key ``audit`` says how gently."""
    gently: Mapping[str, Any] = source.get("audit") or {}
    return audit_run.Plan(
        source=str(source["id"]), endpoint=str(source["endpoint"]), policy=str(source.get("policy") or "Basic256Sha256"),
        mode=str(source.get("mode") or "SignAndEncrypt"), username=str((source.get("identity") or {}).get("username") or ""),
        application_uri=options.application_uri, tags=tuple(str(tag["node"]) for tag in source.get("tags") or ()),
        budget_per_s=int(gently.get("per_second", 50)), in_flight=int(gently.get("in_flight", 1)), batch=int(gently.get("batch", audit_run.BATCH)),
        latency_floor_s=float(gently.get("latency_floor_ms", 20)) / 1000.0, deadline_s=min(deadline_s, float(gently.get("deadline_s", deadline_s))),
        environment=options.environment)


class State:
    """Files of one source below the state directory; only written with *write*."""

    def __init__(self, folder: Path, source: str, write: bool) -> None:
        self._folder, self._write = folder / source, write

    def read(self, name: str) -> Any:
        """Decoded JSON of ``name.json.gz``; None when there is none or it is broken."""
        try:
            return json.loads(gzip.decompress((self._folder / (name + ".json.gz")).read_bytes()))
        except (OSError, ValueError, EOFError):
            return None

    def surely(self, name: str) -> Any:
        """As ``read``. Raises AuditError for a file that is there and cannot be read."""
        found, path = self.read(name), self._folder / (name + ".json.gz")
        if found is None and path.exists():
            raise AuditError("%s cannot be read: an earlier write probe kept there what it did; look at the canary's value by hand, then remove it" % path)
        return found

    def write(self, name: str, data: Any) -> None:
        """Replace the file, whole or not at all, also through a power cut."""
        if not self._write:
            return
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        new = self._folder / (name + ".new")
        with new.open("wb") as stream:
            stream.write(gzip.compress(json.dumps(data).encode(), 6))
            os.fchmod(stream.fileno(), 0o600)
            stream.flush()
            os.fsync(stream.fileno())
        new.rename(self._folder / (name + ".json.gz"))
        sync_directory(str(self._folder))

    def mark(self, name: str, there: bool) -> None:
        """An empty file that is there or not; site.yml looks for it."""
        if not self._write:
            return
        if there:
            (self._folder / name).touch(mode=0o600)
        else:
            (self._folder / name).unlink(missing_ok=True)

    def remove(self, name: str) -> None:
        """It is of no use any more."""
        if self._write:
            (self._folder / (name + ".json.gz")).unlink(missing_ok=True)


def to_its_end(work: Coroutine[Any, Any, T], whole: bool = False) -> T:
    """``asyncio.run``, where SIGTERM and SIGHUP end *work* as SIGINT does: the session is closed first. *whole*: all three wait until it is done."""
    ended: list[int] = []

    async def heard() -> T:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()

        def end(number: int) -> None:
            ended.append(number)
            if task is not None:
                task.cancel()

        for one in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT) if whole else (signal.SIGTERM, signal.SIGHUP):
            # Only the main thread hears signals.
            with contextlib.suppress(RuntimeError, ValueError):
                loop.add_signal_handler(one, ended.append if whole else end, one)
        return await work

    try:
        found = asyncio.run(heard())
    except asyncio.CancelledError:
        if not ended:
            raise
    if ended:
        raise SystemExit(128 + ended[0])
    return found


def sources_of(entries: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The OPC UA sources."""
    return [one for one in entries if one.get("protocol") == "opcua"]


class Audit:
    """Audits the OPC UA sources of this host into one report. *host* decrypts; *wait* sleeps before a dial."""

    def __init__(self, report: Report, places: Places, options: Options, host: Host, now: Callable[[], float] = time.time,
                 wait: Callable[[float], None] = time.sleep, verify: intrusive.Verify | None = None) -> None:
        self.report, self.places, self.options, self._host, self._now, self._wait = report, places, options, host, now, wait
        self._verify = verify or intrusive.ssh_verify(host)
        self._begin = time.monotonic()
        # Only now: the environment with asyncua was made importable a moment ago.
        from . import asyncua_reader

        self._reader: Any = asyncua_reader
        self.records: dict[str, Any] = {}

    def run(self, entries: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
        """One after the other; returns the records by source. Raises PolicyError for a policy that cannot be used."""
        sources = sources_of(entries)
        today = datetime.fromtimestamp(self._now(), timezone.utc).date()
        policies = {str(one["id"]): parse(self.options.exceptions, str(one["id"]), today) for one in sources}
        for number, source in enumerate(sources):
            left = self.options.deadline_s - (time.monotonic() - self._begin)
            share = max(1.0, left / (len(sources) - number))
            self._one(source, policies[str(source["id"])], share, sources)
        return self.records

    def _left(self, share_s: float, begin: float) -> float:
        return max(1.0, share_s - (time.monotonic() - begin))

    def _equipped(self) -> None:
        """Raises AuditError when nothing can be asked from here."""
        if self._reader.MISSING:
            raise AuditError(NO_ASYNCUA % self._reader.MISSING)

    def _one(self, source: Mapping[str, Any], policy: Any, share_s: float, sources: Sequence[Mapping[str, Any]]) -> None:
        begin, name = time.monotonic(), str(source["id"])
        state = State(self.places.state, name, self.options.write_state)
        asked_at, earlier = self._now(), state.read("resume")
        if not isinstance(earlier, dict) or not 0 <= asked_at - float(earlier.get("asked_at", 0)) <= RESUME_S:
            earlier = None
        facts = audit_run.Facts()
        pins: dict[str, str] = {}
        try:
            self._equipped()
            pins = self._pins(sources)
            target = self._target(source)
            self._dial(source, state, self._left(share_s, begin) / 2)
            plan = plan_of(source, self.options, self._left(share_s, begin))
            facts = to_its_end(audit_run.gather(self._reader.FastReader(target), plan, time.monotonic, asyncio.sleep, earlier))
            self._logins(source, state, target, facts, self._left(share_s, begin))
        except (AuditError, OSError, ValueError) as error:
            facts.error = str(error)
        plan = plan_of(source, self.options, share_s)
        baseline = None if name in self.options.accept_drift else state.read("baseline")
        judge = Judge(self.report, facts, Context(plan, policy, self._now(), pins.get(name, ""), baseline, pins))
        record = self.records[name] = judge.run()
        self._keep(state, facts, record, baseline is None, float(earlier["asked_at"]) if earlier and facts.resumed else asked_at)
        if record["verdict"] != UNKNOWN:
            # What was refuted stays so until an audit says otherwise: one that could not ask takes no mark away.
            state.mark("stop", record["verdict"] == REFUTED and source.get("on_refuted") == "stop")

    def _dial(self, source: Mapping[str, Any], state: State, patience_s: float) -> None:
        """Our turn at the conduit: the collector comes first, at each of our connections. Raises AuditError."""
        wait = self._gate(source, state)
        if wait > patience_s:
            raise AuditError("the conduit allows the next connection only in %.0f s" % wait)
        self._wait(wait)
        state.write("dials", [*(state.read("dials") or [])[-20:], self._now()])

    def _logins(self, source: Mapping[str, Any], state: State, target: Any, facts: audit_run.Facts, patience_s: float) -> None:
        """Intrusive: the logins that should be refused, each once, after our own session was whole."""
        if facts.opened is None or facts.error:
            facts.not_authorised = "not tried: our own session did not come to its end"
            return
        try:
            if not self.options.write_state:
                raise intrusive.NotAuthorised("check mode sends nothing")
            moment = datetime.fromtimestamp(self._now(), timezone.utc)
            token = intrusive.check(self.options.tokens, self.options.approvers, self.options.site, str(source["endpoint"]), moment, self._verify)
        except intrusive.NotAuthorised as error:
            facts.not_authorised = "not authorised: %s" % str(error).removeprefix("not authorised: ")
            return
        facts.token = token.as_dict()
        for ident, as_whom in ((audit_logins.ANONYMOUS, self._reader.anonymous), (audit_logins.STRANGER, self._reader.stranger)):
            try:
                self._dial(source, state, min(patience_s, 65.0))
            except AuditError as error:
                facts.logins[ident] = audit_logins.Login(audit_logins.UNKNOWN, str(error))
                continue
            self._host.run(["logger", "-t", "hnai-audit", "opcua_audit of %s tries %s, token %s by %s" % (source["id"], ident, token.id, token.approver)],
                           timeout=10.0)
            facts.logins[ident] = to_its_end(audit_logins.attempt(ident, self._reader.Reader(as_whom(target))))

    def _keep(self, state: State, facts: audit_run.Facts, record: Mapping[str, Any], first: bool, asked_at: float) -> None:
        """*asked_at*: when the oldest of the answers was asked for."""
        state.write("last", record)
        if not facts.error:
            state.remove("resume")
        if facts.complete:
            if first and record["verdict"] != REFUTED:
                at = datetime.fromtimestamp(self._now(), timezone.utc).isoformat(timespec="seconds")
                state.write("baseline", {"accepted_at": at, "namespaces": facts.result.lines})
        elif facts.memo is not None and facts.error:
            state.write("resume", {**facts.memo.dump(), "asked_at": asked_at})

    def _pins(self, sources: Sequence[Mapping[str, Any]]) -> dict[str, str]:
        """sha256 of the pinned certificate of each source that has one."""
        found = {}
        for one in sources:
            path = self.places.servers / ("%s.pem" % one["id"])
            if path.exists():
                found[str(one["id"])] = self._reader.describe(self._pin(str(one["id"]), path.read_bytes())).sha256
        return found

    def _pin(self, name: str, raw: bytes) -> bytes:
        """DER of the pinned certificate. While a change is announced *raw* has two: that of the collector's last session, else the first."""
        pinned = [self._reader.der(one) for one in pems(raw)]
        status, _problem = self._status()
        last = {str(one.get("pin")) for one in (status or {}).get("sources", []) if one["source"] == name}
        return next((one for one in pinned if self._reader.describe(one).sha256 in last), pinned[0])

    def _target(self, source: Mapping[str, Any]) -> Any:
        """Where and as whom: the collector's own certificate, key, pin and password. Raises AuditError naming what is missing."""
        name = str(source["id"])
        files = {"certificate": self.places.pki / "cert.pem", "private_key": self.places.pki / "key.pem",
                 "server_certificate": self.places.servers / ("%s.pem" % name)}
        data = {}
        for key, path in files.items():
            if not path.exists():
                raise AuditError("%s is missing: an audit runs on the mirror's host with the mirror's identity (site.yml --tags ot_collector)" % path)
            data[key] = path.read_bytes()
        username, password = str((source.get("identity") or {}).get("username") or ""), ""
        if username:
            stored = decrypt(self._host, "ot_collector", credential_name(name))
            if stored is None:
                raise AuditError("the password of %s cannot be decrypted (credential %s of ot_collector)" % (username, credential_name(name)))
            password = stored.decode("utf-8")
        data["server_certificate"] = self._pin(name, data["server_certificate"])
        addresses, _ = self._addresses(source)
        return self._reader.Target(
            endpoint=str(source["endpoint"]), policy=str(source.get("policy") or "Basic256Sha256"), mode=str(source.get("mode") or "SignAndEncrypt"),
            application_uri=self.options.application_uri, username=username, password=password, address=addresses[0],
            name="hnai-audit/%s" % name, **data)

    def _addresses(self, source: Mapping[str, Any]) -> tuple[list[str], int]:
        where = urlsplit(str(source["endpoint"]))
        port = where.port or 4840
        found = socket.getaddrinfo(where.hostname, port, type=socket.SOCK_STREAM)
        return list(dict.fromkeys(str(entry[4][0]) for entry in found)), port

    def _status(self) -> tuple[dict[str, Any] | None, str]:
        """What the collector says of itself, or why it says nothing."""
        try:
            return decode(self.places.status.read_text(encoding="utf-8"), str(self.places.status)), ""
        except (OSError, StatusError) as error:
            return None, str(error)

    def _gate(self, source: Mapping[str, Any], state: State) -> float:
        """Seconds to wait. Raises AuditError when the connection is not ours to take."""
        status, problem = self._status()
        addresses, port = self._addresses(source)
        open_now = sum(audit_gate.connections(path.read_text(encoding="ascii"), addresses, port)
                       for path in (self.places.proc / "tcp", self.places.proc / "tcp6") if path.exists())
        gate = audit_gate.decide(str(source["id"]), source.get("limits") or {}, status, problem, open_now, state.read("dials") or [], self._now(),
                                 self.options.unread)
        if gate.refuse:
            raise AuditError(gate.refuse)
        return gate.wait_s
