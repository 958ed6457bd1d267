# SPDX-License-Identifier: Apache-2.0
"""The audit of the Modbus conduit on the mirror's host: what the running filter says, and, under a token, what the canary behind it received.

Passive: the filter's status file and configuration. Live: the probes of ``conduit``, sent at the filter's canary socket and nowhere else.
"""
from __future__ import annotations

import json
import random
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import partial
from typing import Any

from .. import intrusive
from ..hostfiles import Host, read_file
from ..verdict import FAIL, INCONCLUSIVE, PASS, SKIPPED, Check, Report
from . import conduit
from .conduit import CannotTell, Findings, Record, RecordReader, Rights
from .conduit_live import Line, Prober, pacer
from .filter import ConfigError, parse

STALE_S = 10.0
CLAIMED, PROVEN, REFUTED = "claimed", "proven", "refuted"
LIVE = (conduit.FUNCTIONS, conduit.SEGMENTS, conduit.FRAMES, conduit.RIGHTS, "MF8", "MF9")
_TABLE = (
    ("MF0", "the mirror cannot write by Modbus"),
    ("MF1", "the filter runs by the declared rights"),
    ("MF2", "the device answers the filter"),
    ("MF3", "nobody asks the filter for more than reading"),
    ("MF4", "of 256 functions only the allowed ones reach level 2"),
    ("MF5", "no split and no second frame carries anything past the filter"),
    ("MF6", "nothing malformed reaches level 2"),
    ("MF7", "no other unit and no other address is asked"),
    ("MF8", "the mirror's users cannot dial level 2 past the filter"),
    ("MF9", "what may pass arrives, once, and the answer is the canary's"),
)
TITLES = dict(_TABLE)
CONTROLS = ["SR 2.1", "SR 3.5", "SR 5.2"]
_REMEDY = "systemctl status hnai-modbus_filter; journalctl -u hnai-modbus_filter"
#: Connects as another user and says what came of it and from which port; the target is always the canary.
DIAL = """
import json, socket, sys
host, port, patience = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
one = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
one.settimeout(patience)
one.bind(("", 0))
told = {"port": one.getsockname()[1]}
try:
    one.connect((host, port))
    told["outcome"] = "connected"
except ConnectionRefusedError:
    told["outcome"] = "refused"
except socket.timeout:
    told["outcome"] = "nothing came back"
except PermissionError:
    told["outcome"] = "not permitted"
except OSError as error:
    told["outcome"] = "error %s" % error
print(json.dumps(told))
"""
DENIED = frozenset({"nothing came back", "not permitted"})


@dataclass(frozen=True)
class Canary:
    """A canary: *id* of its entry at the filter, *host* and *record_port* where its record is read."""

    id: str
    host: str
    record_port: int


@dataclass(frozen=True)
class Options:
    """What the caller decides. *declared*: the ``devices`` of the filter's configuration as the inventory has them."""

    declared: Sequence[Mapping[str, Any]]
    canaries: Sequence[Canary] = ()
    mirror_users: Sequence[str] = ()
    live: bool = False
    check_mode: bool = False
    site: str = ""
    environment: str = "production"
    tokens: Sequence[Any] = ()
    approvers: Mapping[str, Any] = field(default_factory=dict)
    per_second: float = 20.0
    refusal_window_s: float = 3600.0
    config: str = "/etc/hnai/modbus_filter/filter.json"
    status: str = "/run/hnai/modbus_filter/status.json"


class Audit:
    """One audit into one report. *now* gives unix seconds; *connect* makes a line to (host, port); *verify* judges a token's signature."""

    def __init__(self, report: Report, options: Options, host: Host, now: Callable[[], float], verify: intrusive.Verify,
                 connect: Callable[[str, int], Any] | None = None, rng: random.Random | None = None,
                 pace: Callable[[], None] | None = None) -> None:
        self.report, self.options, self._host, self._now, self._verify = report, options, host, now, verify
        self._connect = connect or (lambda address, port: Line(address, port, report.timeout(5.0)))
        self._rng = rng or random.SystemRandom()
        self._pace = pace or pacer(min(20.0, options.per_second))
        self._status: Mapping[str, Any] = {}
        self._problem = ""
        self._untested: list[str] = []
        self._live: dict[str, str] = {}
        self._tokens: list[dict[str, str]] = []
        self.record: dict[str, Any] = {}

    # -- passive ------------------------------------------------------------------------------------------
    def run(self) -> dict[str, Any]:
        """The record of MF0."""
        self._load()
        self._check("MF1", TITLES["MF1"], self._rights, expected="the inventory's", hint=_REMEDY)
        for device in self._status.get("devices", []):
            if not device["canary"]:
                self._check("MF2", TITLES["MF2"], partial(self._answers, device), subject=device["id"],
                            expected="answers", hint="address, port, the conduit's counters on the router; %s" % _REMEDY)
                self._check("MF3", TITLES["MF3"], partial(self._refusals, device),
                            subject=device["id"], expected=0, unit="refusals", hint="find who asked: journalctl -u hnai-modbus_filter; it was not passed on")
        for one in self.options.canaries if self.options.live else ():
            self._canary(one)
        if self.options.canaries and not self.options.live:
            self._untested.append("not asked for (verify --tags ot, or profile=full): nothing was sent at the filter")
        if not self.options.canaries:
            self._untested.append("no canary is declared: nothing was sent at the filter")
        self._verdict()
        return self.record

    def _check(self, ident: str, title: str, body: Callable[[Check], None], **more: Any) -> Check:
        with self.report.check(ident, title, controls=CONTROLS, **more) as check:
            body(check)
        return self.report.checks[-1]

    def _load(self) -> None:
        raw = read_file(self._host, self.options.status)
        if raw is None:
            self._problem = "%s is not there: the filter does not run" % self.options.status
            return
        try:
            status = json.loads(raw)
            age = self._now() - float(status["now"])
            if age > STALE_S:
                self._problem = "the filter's status is %.0f s old: it does not run" % age
            else:
                self._status = status
        except (ValueError, KeyError, TypeError) as error:
            self._problem = "%s: no status of the filter: %s" % (self.options.status, error)

    def _rights(self, check: Check) -> None:
        if self._problem:
            check.fail(self._problem)
            return
        text = read_file(self._host, self.options.config)
        if text is None:
            check.fail("%s is not there" % self.options.config)
            return
        try:
            on_disk = parse(text.decode("utf-8"), self.options.config)
            declared = parse(json.dumps({"status_file": self.options.status, "devices": list(self.options.declared)}), "inventory")
        except (ConfigError, UnicodeDecodeError) as error:
            check.fail(str(error))
            return
        running = {one["id"]: one for one in self._status["devices"]}
        check.evidence = {"pid": self._status["pid"], "uid": self._status["uid"], "config_sha256": self._status["config_sha256"],
                          "allow": {name: one["allow"] for name, one in running.items()}}
        found = []
        if self._status["config_sha256"] != on_disk.digest:
            found.append("it runs by another file than the one that lies there: restart it, or find out who changed it")
        wanted = {one.id: one for one in declared.devices}
        found += ["%s is not declared" % name for name in sorted(set(running) - set(wanted))]
        found += ["%s is declared and not served" % name for name in sorted(set(wanted) - set(running))]
        for name in sorted(set(running) & set(wanted)):
            one = wanted[name]
            if running[name]["allow"] != one.allow.as_dict():
                found.append("%s may be asked for %s; declared is %s" % (
                    name, json.dumps(running[name]["allow"]), json.dumps(one.allow.as_dict())))
            if running[name]["device"] != [one.host, one.port] or running[name]["listen"] != list(one.listen) or running[name]["canary"] != one.canary:
                found.append("%s stands for %s at %s; declared is %s at %s" % (
                    name, running[name]["device"], running[name]["listen"], [one.host, one.port], list(one.listen)))
        check.observed = found or "the inventory's"
        check.passed(not found, conduit.short(found))

    def _answers(self, device: Mapping[str, Any], check: Check) -> None:
        check.evidence = {key: device[key] for key in ("connected", "clients", "served", "exceptions", "trouble", "last_trouble", "dials", "failed_dials")}
        served, trouble = device["last_served"] or 0.0, device["last_trouble"] or {"at": 0.0}
        if not served and not trouble["at"]:
            check.inconclusive("nobody has asked for anything yet")
            return
        check.observed = "answers" if served >= trouble["at"] else trouble["text"]
        check.passed(served >= trouble["at"], "since the last answer: %s" % trouble.get("text", ""))

    def _refusals(self, device: Mapping[str, Any], check: Check) -> None:
        refused, last = device["refused"], device["last_refusal"]
        check.evidence = {"refused": refused, "last": last, "window_s": self.options.refusal_window_s}
        recent = last is not None and self._now() - last["at"] <= self.options.refusal_window_s
        check.observed = sum(refused.values())
        check.passed(not recent, "%d refused, the last one %s" % (check.observed, last["text"] if last else ""))

    # -- live ---------------------------------------------------------------------------------------------
    def _canary(self, canary: Canary) -> None:
        try:
            entry, token = self._may(canary)
        except intrusive.NotAuthorised as error:
            self._untested.append("%s: %s" % (canary.id, error))
            self._live[canary.id] = SKIPPED
            for ident in LIVE:
                self.report.skip(ident, TITLES[ident], str(error), subject=canary.id, controls=CONTROLS)
            return
        except CannotTell as error:
            self._fail_all(canary, str(error))
            return
        self._tokens.append(token.as_dict())
        self._say("begins", canary, token)
        try:
            self._probe(canary, entry)
        except (CannotTell, OSError) as error:
            self._fail_all(canary, str(error) or type(error).__name__)
        finally:
            self._say("ends", canary, token)

    def _may(self, canary: Canary) -> tuple[Mapping[str, Any], intrusive.Token]:
        """The canary's entry at the running filter, and the token. Raises NotAuthorised, CannotTell."""
        if self.options.check_mode:
            raise intrusive.NotAuthorised("check mode sends nothing")
        if self._problem:
            raise CannotTell(self._problem)
        entry = next((one for one in self._status["devices"] if one["id"] == canary.id), None)
        if entry is None or not entry["canary"]:
            raise CannotTell("the running filter has no canary %s" % canary.id)
        if any(one["device"] == entry["device"] for one in self._status["devices"] if not one["canary"]):
            raise CannotTell("%s stands at the address of a device: nothing is sent there" % canary.id)
        moment = datetime.fromtimestamp(self._now(), timezone.utc)
        endpoint = "modbus://%s:%d" % tuple(entry["device"])
        return entry, intrusive.check(self.options.tokens, self.options.approvers, self.options.site, endpoint, moment, self._verify)

    def _say(self, what: str, canary: Canary, token: intrusive.Token) -> None:
        """Announced, so that nobody who watches the network takes it for an attack."""
        self._host.run(["logger", "-t", "hnai-audit", "modbus_conduit_audit of %s %s, token %s by %s" % (canary.id, what, token.id, token.approver)],
                       timeout=10.0)

    def _fail_all(self, canary: Canary, reason: str) -> None:
        self._live[canary.id] = INCONCLUSIVE
        known = {check.id for check in self.report.checks if check.subject == canary.id}
        for ident in LIVE:
            if ident not in known:
                self.report.add(Check(id=ident, title=TITLES[ident], subject=canary.id, controls=CONTROLS)).inconclusive(reason)

    def _probe(self, canary: Canary, entry: Mapping[str, Any]) -> None:
        rights = Rights(entry["allow"])
        line = self._connect(canary.host, canary.record_port)
        reader = RecordReader(line.exchange)
        stopped = ""
        try:
            run, begin = reader.header()
            prober = Prober(lambda: self._connect(str(entry["listen"][0]), int(entry["listen"][1])), rights, self._rng, self._pace,
                            self.report.remaining)
            try:
                must = prober.begin()
                self._same_canary(reader, begin, must)
                try:
                    prober.run(conduit.probes(rights, self._rng))
                except CannotTell as error:
                    # What arrived until then is a finding all the same.
                    stopped = str(error)
            finally:
                prober.close()
            dials = self._dial(entry)
            again, end = reader.header()
            if again != run:
                raise CannotTell("the canary was started anew during the audit: its record of the probes is gone")
            raw = reader.read(begin, end)
        finally:
            line.close()
        record = conduit.understand(raw)
        findings = conduit.compare(prober.sent, prober.got, record, rights)
        self._judge(canary, prober, findings, record, dials, raw, stopped)

    def _same_canary(self, reader: RecordReader, begin: int, must: conduit.Must) -> None:
        """The one control must stand in the record that we read, or not one probe is sent: it may be a device."""
        record = conduit.understand(reader.read(begin, reader.header()[1]))
        if (must.unit, must.pdu) not in [(unit, pdu) for _connection, unit, pdu in record.arrived]:
            raise CannotTell("the control does not stand in the canary's record: what answers behind the filter is not this canary; nothing more was sent")

    def _dial(self, entry: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Who of the mirror's users reaches the canary without the filter. Raises CannotTell."""
        host, port = str(entry["device"][0]), int(entry["device"][1])
        addresses = list(dict.fromkeys(str(one[4][0]) for one in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)))
        told = []
        for user in self.options.mirror_users:
            if self._host.uid(user) is None:
                told.append({"user": user, "address": "", "outcome": "no such user"})
                continue
            for address in addresses:
                done = self._host.run(["setpriv", "--reuid", user, "--regid", user, "--clear-groups", "/usr/bin/python3", "-I", "-c", DIAL, address,
                                       str(port), "3"], timeout=20.0)
                try:
                    told.append({"user": user, "address": address, **json.loads(done.text)})
                except ValueError:
                    told.append({"user": user, "address": address, "outcome": "could not be tried: %s" % done.message[:200]})
        return told

    def _judge(self, canary: Canary, prober: Prober, findings: Findings, record: Record, dials: list[dict[str, Any]], raw: bytes,
               stopped: str) -> None:
        sent = {ident: sum(1 for probe in prober.sent if probe.check == ident and probe.name != "control") for ident in LIVE[:4]}
        statuses = []
        for ident in LIVE[:4]:
            with self.report.check(ident, TITLES[ident], expected=0, unit="frames", subject=canary.id, controls=CONTROLS,
                                   hint="the filter lets through what it must not: stop it (systemctl stop hnai-modbus_filter)") as check:
                bad = findings.passed.get(ident, [])
                check.observed = len(bad)
                check.evidence = {"sent": sent[ident], "controls": findings.controls, "arrived": bad[:50]}
                if not bad and stopped:
                    check.inconclusive(stopped)
                elif not bad and findings.missing:
                    check.inconclusive("the positive control failed: %s did not arrive" % conduit.short(findings.missing))
                else:
                    check.passed(not bad, conduit.short(bad))
                if ident == conduit.FUNCTIONS:
                    check.raw("modbus-canary-%s.jsonl" % canary.id, raw.decode("ascii", "replace"))
            statuses.append(self.report.checks[-1].status)
        statuses.append(self._check("MF8", TITLES["MF8"], partial(self._past, dials, record, stopped), subject=canary.id,
                                    expected="denied", hint="meta skuid in the conduit's rule: uid of hnai-modbus_filter").status)
        statuses.append(self._check("MF9", TITLES["MF9"], partial(self._faithful, findings, stopped), subject=canary.id, expected=0,
                                    unit="frames", hint=_REMEDY).status)
        self._live[canary.id] = FAIL if FAIL in statuses else INCONCLUSIVE if INCONCLUSIVE in statuses else PASS

    def _past(self, dials: list[dict[str, Any]], record: Record, stopped: str, check: Check) -> None:
        ports = {port for _address, port in record.peers}
        check.evidence = {"dials": dials, "canary": "only the canary was dialled, never a device"}
        check.observed = {"%s to %s" % (one["user"], one["address"]): one["outcome"] for one in dials}
        # A refusal came from the target: the packet arrived.
        reached = ["%s at %s: %s" % (one["user"], one["address"], one["outcome"]) for one in dials
                   if one["outcome"] in ("connected", "refused") or one.get("port") in ports]
        unknown = ["%s: %s" % (one["user"], one["outcome"]) for one in dials if one["outcome"] not in DENIED | {"connected", "refused"}]
        if reached:
            check.fail("%s: the conduit is open to more than the filter" % conduit.short(reached))
        elif stopped or unknown or not dials:
            check.inconclusive(stopped or conduit.short(unknown) or "no user of the mirror is declared")
        else:
            check.passed(True)

    @staticmethod
    def _faithful(findings: Findings, stopped: str, check: Check) -> None:
        check.evidence = {"controls": findings.controls, "missing": findings.missing[:20], "unasked": findings.unasked[:20], "wrong": findings.wrong[:20]}
        check.observed = len(findings.missing) + len(findings.unasked) + len(findings.wrong)
        if stopped:
            check.inconclusive(stopped)
            return
        reasons = [("did not arrive", findings.missing), ("arrived and was not asked", findings.unasked),
                   ("was answered otherwise than the canary did", findings.wrong)]
        check.passed(not check.observed, "; ".join("%s %s" % (conduit.short(found, 2), text) for text, found in reasons if found))

    # -- verdict ------------------------------------------------------------------------------------------
    def _verdict(self) -> None:
        rights = next(check for check in self.report.checks if check.id == "MF1")
        allows = {one["id"]: one["allow"] for one in self._status.get("devices", [])}
        proven = [allows[name] for name, status in self._live.items() if status == PASS and name in allows]
        uncovered = sorted(one["id"] for one in self._status.get("devices", []) if not one["canary"] and one["allow"] not in proven)
        if proven and uncovered:
            self._untested.append("no canary has the rights of %s" % ", ".join(uncovered))
        self._untested.append("devices themselves: no probe goes to one; other protocols and other hosts of the conduit")
        if self._problem:
            # A filter that does not run passes nothing, and proves nothing.
            verdict = INCONCLUSIVE
        elif FAIL in (rights.status, *self._live.values()):
            verdict = REFUTED
        elif rights.status != PASS or INCONCLUSIVE in self._live.values():
            verdict = INCONCLUSIVE
        else:
            verdict = PROVEN if proven and not uncovered else CLAIMED
        causes = [check for check in self.report.checks if check.status in (FAIL, INCONCLUSIVE) and check.id not in ("MF2", "MF3")]
        reason = conduit.short("%s%s: %s" % (one.id, " " + one.subject if one.subject else "", one.reason) for one in causes)
        self.record = {
            "verdict": verdict, "reason": reason, "environment": self.options.environment, "site": self.options.site, "tokens": self._tokens,
            "holds_for": {"devices": sorted(set(allows) - set(uncovered)), "allow": allows, "config_sha256": self._status.get("config_sha256", ""),
                          "filter": self._status.get("version", "")},
            "not_tested": self._untested, "at": datetime.fromtimestamp(self._now(), timezone.utc).isoformat(timespec="seconds"),
        }

        def body(check: Check) -> None:
            check.observed = verdict
            check.evidence = dict(self.record)
            check.raw("modbus-conduit.json", json.dumps(self.record, indent=1, sort_keys=True))
            if verdict == INCONCLUSIVE:
                check.inconclusive(reason)
            else:
                check.passed(verdict != REFUTED, reason)

        self._check("MF0", TITLES["MF0"], body, expected=[CLAIMED, PROVEN],
                    hint="the other rows say what passed; docs/runbooks/ot-audit.md")
