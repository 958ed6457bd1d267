# SPDX-License-Identifier: Apache-2.0
"""The write probe on the mirror's host: leave, identities, the note that survives a kill, and the judgement. Nothing is sent without a token."""
from __future__ import annotations

import asyncio
import dataclasses
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

from .. import intrusive
from ..credentials import decrypt
from ..hostfiles import Host
from ..verdict import FAIL, INCONCLUSIVE, Check, Report
from . import write_probe
from .audit_host import Audit, Options, Places, State, plan_of, to_its_end
from .audit_load import Budget
from .audit_types import BAD, AuditError
from .write_probe import ABSENT, DENIED, NOTHING, Attempt, Canary, same

COMPONENT = "ot_audit"
SERVICE, CANARY = "service", "canary"
CONTROLS = ["SR 2.1", "SR 5.2", "SR 3.5"]
_TABLE = (
    ("OW0", "the mirror's write is refused by the server"),
    ("OW1", "the node is a canary"),
    ("OW2", "the commissioning identity can write the canary"),
    ("OW3", "the mirror's write is refused"),
    ("OW4", "the canary's value is as before"),
    ("OW5", "the canary's rights are those of the tags"),
    ("OW6", "services that change something do not exist"),
)
TITLES = dict(_TABLE)
PROVEN, ENFORCED, CLAIMED, REFUTED = "proven", "enforced", "claimed", "refuted"


def credential_name(source: str) -> str:
    """Name of the credential with the commissioning identity's password, of component ``ot_audit``."""
    return "opcua_%s_commissioning" % source.replace("-", "_").replace(".", "_")


@dataclasses.dataclass(frozen=True)
class Leave:
    """Who allows it, and what is to be done. *canaries* by source: {path, marker, username}."""

    mode: str
    site: str
    tokens: Sequence[Any]
    approvers: Mapping[str, Any]
    canaries: Mapping[str, Mapping[str, Any]]
    check_mode: bool = False


class FileJournal:
    """The note in the state directory; see ``write_probe.Journal``."""

    def __init__(self, state: State) -> None:
        self._state = state

    def note(self) -> Mapping[str, Any] | None:
        found: Mapping[str, Any] | None = self._state.surely("write_probe")
        return found

    def keep(self, note: Mapping[str, Any]) -> None:
        self._state.write("write_probe", dict(note))

    def drop(self) -> None:
        self._state.remove("write_probe")


class Probe(Audit):
    """Probes the OPC UA sources of this host into one report. *verify* judges a token's signature."""

    def __init__(self, report: Report, places: Places, options: Options, leave: Leave, host: Host, verify: intrusive.Verify,
                 **world: Any) -> None:
        super().__init__(report, places, options, host, verify=verify, **world)
        self.leave = leave
        # Only now, as the reader.
        from . import write_channel

        self._writer: Any = write_channel

    def run(self, entries: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
        """Records by source."""
        sources = [one for one in entries if one.get("protocol") == "opcua"]
        for source in sources:
            self._probe(source, sources)
        return self.records

    # -- leave --------------------------------------------------------------------------------------------
    def _wanted(self) -> list[str]:
        return ["OW6"] if self.leave.mode == SERVICE else ["OW1", "OW2", "OW3", "OW4", "OW5"]

    def _token(self, source: Mapping[str, Any], state: State) -> intrusive.Token:
        if self.leave.check_mode:
            raise intrusive.NotAuthorised("check mode sends nothing")
        moment = datetime.fromtimestamp(self._now(), timezone.utc)
        token = intrusive.check(self.leave.tokens, self.leave.approvers, self.leave.site, str(source["endpoint"]), moment, self._verify)
        try:
            used = state.surely("write_tokens") or []
        except AuditError as error:
            raise intrusive.NotAuthorised(str(error)) from error
        if self.leave.mode == CANARY and token.id in used:
            raise intrusive.NotAuthorised("the one attempt of this token was made: another try needs another token")
        return token

    def _probe(self, source: Mapping[str, Any], sources: Sequence[Mapping[str, Any]]) -> None:
        name = str(source["id"])
        state = State(self.places.state, name, True)
        try:
            token = self._token(source, state)
        except intrusive.NotAuthorised as error:
            for ident in (*self._wanted(), "OW0"):
                self.report.skip(ident, TITLES[ident], str(error), subject=name, controls=CONTROLS)
            self.records[name] = {"verdict": CLAIMED, "reason": str(error), "not_tested": [str(error)]}
            return
        try:
            self._equipped()
            target = self._target(source)
            if self.leave.mode == SERVICE:
                self._services(name, source, state, target, token)
            else:
                self._canary(name, source, state, target, token)
        except (AuditError, OSError, ValueError) as error:
            known = {check.id for check in self.report.checks if check.subject == name}
            for ident in self._wanted():
                if ident not in known:
                    self._add(ident, name).inconclusive(str(error))
            self._verdict(name, INCONCLUSIVE, str(error), token, {}, [str(error)])

    def _add(self, ident: str, subject: str, **more: Any) -> Check:
        return self.report.add(Check(id=ident, title=TITLES[ident], subject=subject, controls=CONTROLS, **more))

    def _channel(self, source: Mapping[str, Any], state: State, target: Any, budget: Budget) -> Any:
        """A channel, after the conduit's gate. Raises AuditError."""
        self._dial(source, state, 65.0)
        return self._writer.WriteChannel(target, budget)

    def _budget(self, source: Mapping[str, Any]) -> Budget:
        """One for all sessions: they follow each other within a second."""
        return Budget(plan_of(source, self.options, 0.0).budget_per_s, time.monotonic, asyncio.sleep)

    def _say(self, what: str, name: str, token: intrusive.Token) -> None:
        self._host.run(["logger", "-t", "hnai-audit", "opcua_write_probe (%s) of %s %s, token %s by %s" % (
            self.leave.mode, name, what, token.id, token.approver)], timeout=10.0)

    # -- service ------------------------------------------------------------------------------------------
    def _services(self, name: str, source: Mapping[str, Any], state: State, target: Any, token: intrusive.Token) -> None:
        self._say("begins", name, token)
        budget = self._budget(source)
        found = to_its_end(write_probe.service_probe(lambda: self._channel(source, state, target, budget),
                                                     list(self._writer.SERVICES)))
        self._say("ends", name, token)
        check = self._add("OW6", name, expected="absent", hint="take the services away from this identity, or from the server")
        check.evidence = {"services": {one: code if isinstance(code, str) else "0x%08X" % code for one, code in found.items()}, "token": token.as_dict()}
        absent = sorted(one for one, code in found.items() if code in ABSENT)
        # As they were asked: the first one says why, the others were not asked any more.
        unknown = [one for one, code in found.items() if isinstance(code, str)]
        present = sorted(set(found) - set(absent) - set(unknown))
        check.observed = {"absent": absent, "present": present, "unknown": unknown}
        if unknown:
            check.inconclusive("%s: %s" % (unknown[0], found[unknown[0]]))
            verdict = INCONCLUSIVE
        elif present:
            check.skip("%s exist; an empty request tells nothing about rights" % ", ".join(present))
            verdict = CLAIMED
        else:
            check.passed(True)
            verdict = ENFORCED
        self._verdict(name, verdict, check.reason, token, {}, ["%s exist as services" % ", ".join(present)] if present else [])

    # -- canary -------------------------------------------------------------------------------------------
    def _commissioning(self, name: str, target: Any) -> Any:
        declared = self.leave.canaries[name]
        username = str(declared.get("username") or "")
        if not username or username == target.username:
            raise AuditError("canaries.%s.username: name the commissioning identity; it is another one than the mirror's" % name)
        stored = decrypt(self._host, COMPONENT, credential_name(name))
        if stored is None:
            raise AuditError("the password of %s cannot be decrypted (credential %s of %s); docs/runbooks/ot-audit.md says how it is stored" % (
                username, credential_name(name), COMPONENT))
        return dataclasses.replace(target, username=username, password=stored.decode("utf-8").strip("\n"), name="hnai-commissioning/%s" % name)

    def _canary(self, name: str, source: Mapping[str, Any], state: State, target: Any, token: intrusive.Token) -> None:
        declared = self.leave.canaries.get(name)
        if declared is None:
            raise AuditError("no canary is declared for %s" % name)
        canary = Canary(tuple(str(one) for one in declared.get("path") or ()), str(declared.get("marker") or ""))
        commissioning = self._commissioning(name, target)
        tags = [str(tag["node"]) for tag in source.get("tags") or ()]

        def spend() -> None:
            state.write("write_tokens", [*(state.read("write_tokens") or [])[-50:], token.id])

        self._say("begins", name, token)
        budget = self._budget(source)
        attempt = to_its_end(write_probe.canary_probe(
            lambda: self._channel(source, state, commissioning, budget),
            lambda: self._channel(source, state, target, budget), canary, FileJournal(state), tags, spend), whole=True)
        self._say("ends", name, token)
        self._judge(name, attempt, canary, token, tags)

    def _judge(self, name: str, attempt: Attempt, canary: Canary, token: intrusive.Token, tags: Sequence[str]) -> None:
        node = self._add("OW1", name, observed=attempt.node, expected="/".join(canary.path), hint="path, marker and type as docs/runbooks/ot-audit.md says")
        node.passed(True) if attempt.node else node.inconclusive(attempt.error)
        control = self._add("OW2", name, observed=attempt.control, expected="written, read back, restored", hint="the commissioning identity's rights")
        control.evidence = {"earlier": attempt.earlier} if attempt.earlier else {}
        control.passed(True) if attempt.controlled else control.inconclusive(attempt.error or "not reached")
        self._refused(self._add("OW3", name, expected=sorted(DENIED.values()), hint="take the right from the mirror's role"), attempt)
        back = self._add("OW4", name, observed=attempt.restored, expected=True, hint="put %r back by hand at %s" % (attempt.before, attempt.node))
        if attempt.restored is None:
            back.skip("nothing was written")
        else:
            back.passed(attempt.restored, attempt.error or attempt.control[-1])
        matching, differing = self._classes(self._add("OW5", name, expected="the tags' rights"), attempt)
        refused = next(check for check in self.report.checks if check.id == "OW3" and check.subject == name)
        if refused.status == FAIL:
            verdict = REFUTED
        elif INCONCLUSIVE in (node.status, control.status, refused.status):
            verdict = INCONCLUSIVE
        else:
            verdict = PROVEN if matching else CLAIMED
        reason = "; ".join(dict.fromkeys(check.reason for check in (refused, control, node) if check.reason))
        self._verdict(name, verdict, reason, token, {"tags": matching, "node": attempt.node, "rights": attempt.rights.get(attempt.node, {})},
                      ["tags of other rights: %s" % ", ".join(differing[:20])] if differing else [] if tags else ["no tag is declared"], attempt)

    def _refused(self, check: Check, attempt: Attempt) -> None:
        wrote = bool(attempt.moved) and same(attempt.seen, attempt.tried)
        if attempt.status is None and not wrote:
            check.inconclusive(attempt.error or "the mirror did not try")
            return
        text = "no answer" if attempt.status is None else "0x%08X %s" % (attempt.status, DENIED.get(attempt.status) or NOTHING.get(attempt.status) or "")
        check.observed = text.strip()
        check.evidence = {"tried": attempt.tried, "before": attempt.before, "seen": attempt.seen}
        if wrote:
            check.fail("the mirror's write changed the value (%s)" % check.observed)
        elif attempt.status is None or attempt.status in NOTHING:
            check.inconclusive("%s tells nothing about rights" % check.observed)
        elif attempt.status in DENIED and attempt.moved is not False:
            check.inconclusive("%s, but %s" % (check.observed, "nobody could look at the value: %s" % attempt.error if attempt.moved is None else (
                "the value went from %r to %r, which the mirror did not try: the canary changes by itself" % (attempt.before, attempt.seen))))
        elif attempt.status in DENIED:
            check.passed(True)
        elif attempt.status & BAD:
            # Type, range, communication: the server looked at the value, so it had let the identity through.
            check.fail("%s: the write reached what comes behind the rights" % check.observed)
        else:
            check.fail("%s: the server took the mirror's write" % check.observed)

    @staticmethod
    def _classes(check: Check, attempt: Attempt) -> tuple[list[str], list[str]]:
        mine = attempt.rights.get(attempt.node)
        others = {node: rights for node, rights in attempt.rights.items() if node != attempt.node}
        matching = sorted(node for node, rights in others.items() if rights == mine)
        differing = sorted(set(others) - set(matching))
        check.observed = {"same": len(matching), "other": len(differing)}
        check.evidence = {"canary": mine, "other": {node: others[node] for node in differing[:20]}}
        if mine is None:
            check.inconclusive(attempt.error or "not reached")
        elif not matching:
            check.skip("no declared tag has the canary's rights: the proof holds for the canary alone")
        elif differing:
            check.skip("%d of %d tags have other rights than the canary: the proof does not hold for them" % (len(differing), len(others)))
        else:
            check.passed(True)
        return matching, differing

    # -- verdict ------------------------------------------------------------------------------------------
    def _verdict(self, name: str, verdict: str, reason: str, token: intrusive.Token, holds_for: Mapping[str, Any], untested: Sequence[str],
                 attempt: Attempt | None = None) -> None:
        opened = attempt.session if attempt else None
        record = self.records[name] = {
            "verdict": verdict, "reason": reason, "mode": self.leave.mode, "environment": self.options.environment, "site": self.leave.site,
            "token": token.as_dict(), "holds_for": {
                **holds_for, "server_certificate": opened.server.sha256 if opened and opened.server else "",
                "client_certificate": opened.client.sha256 if opened and opened.client else ""},
            "not_tested": [*untested, "methods, history and node management by this mode; SubscribedDataSets, which write without a service (OA17)",
                           "other protocols of the device"],
            "at": datetime.fromtimestamp(self._now(), timezone.utc).isoformat(timespec="seconds"),
        }
        check = self.report.add(Check(id="OW0", title=TITLES["OW0"], subject=name, observed=verdict,
                                      expected=[PROVEN, ENFORCED, CLAIMED], controls=CONTROLS, evidence=dict(record)))
        check.raw("opcua-write-%s.json" % name, json.dumps({**record, "attempt": _plain(attempt)}, indent=1, sort_keys=True, default=str))
        if verdict == INCONCLUSIVE:
            check.inconclusive(reason)
        else:
            check.passed(verdict != REFUTED, reason)


def _plain(attempt: Attempt | None) -> dict[str, Any]:
    if attempt is None:
        return {}
    return {key: value for key, value in dataclasses.asdict(dataclasses.replace(attempt, session=None)).items() if key != "session"}
