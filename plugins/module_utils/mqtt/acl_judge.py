# SPDX-License-Identifier: Apache-2.0
"""The checks of mqtt_acl_audit, the verdict and the record of it. Standard library, Python 3.9.

Verdict: ``refuted`` (somebody may publish a command, by the rules or by the broker's own answer) | ``claimed`` (the rules allow it to nobody; nothing was
sent) | ``proven`` (and the broker refused a canary of every pattern to every provisioned identity, which a witness did not get, while it got the control) |
``inconclusive``. Classes: passive reads files only; live sends canaries.
"""
from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any

from ..credentials import TWIN, base
from ..opcua.audit_policy import Policy as Waivers
from ..opcua.audit_policy import PolicyError, names
from ..opcua.audit_policy import parse as parse_waivers
from ..verdict import FAIL, INCONCLUSIVE, PASS, Check, Report
from .acl_live import Answer, CannotTest, Findings, Live, canary_topic, summary, uncovered_by
from .acl_model import READ, WRITE, Grant, Policy, Right, commanders, declared_rights, deviations, grants, into_lines, readers
from .acl_mosquitto import AclError
from .topics import valid_filter

REFUTED, CLAIMED, PROVEN, UNKNOWN = "refuted", "claimed", "proven", "inconclusive"
PASSIVE, LIVE = "passive", "live"
SHOWN = 20
WAIVER_KEYS = frozenset({"check", "identity", "topic", "owner", "reason", "expires"})


@dataclass(frozen=True)
class Spec:
    """One check."""

    id: str
    cls: str
    title: str
    controls: tuple[str, ...]
    hint: str
    explain: str


SPECS = {spec.id: spec for spec in (
    Spec("MA0", PASSIVE, "nobody can command by MQTT", ("SR 3.3", "SR 2.1"), "the reason names what stands behind it", "the record of this check"),
    Spec("MA1", PASSIVE, "every client meets rules that were read", ("SR 1.1", "SR 2.1"), "the reason names file and line",
         "the broker's configuration and the files that it names"),
    Spec("MA2", PASSIVE, "no identity may publish a command", ("SR 2.1",), "take the right away: the reason names identity, file and line",
         "each write rule against each command pattern, by overlap"),
    Spec("MA3", PASSIVE, "nobody publishes to what a line reads", ("SR 2.1", "SR 5.2"), "narrow one of the two, or declare a control identity",
         "each write rule against each read rule of a line"),
    Spec("MA4", PASSIVE, "the rights are the declared ones", ("SR 7.6", "SR 3.4"), "converge the component; who changed the file?",
         "the broker's rules beside the site's model"),
    Spec("MA5", LIVE, "the broker refuses to publish a command", ("SR 2.1", "SR 3.3"), "MA2 and MA4 name the rule",
         "mosquitto_pub -V 5 -q 1 … -u IDENTITY -t CANARY -m x: not authorised, while mosquitto_sub -u WITNESS gets nothing"),
    Spec("MA6", LIVE, "the broker refuses to retain a command", ("SR 2.1", "SR 3.3"), "MA2 and MA4 name the rule",
         "mosquitto_pub -V 5 -q 1 -r … -u IDENTITY -t CANARY -m x, then mosquitto_sub -t CANARY --retained-only"),
    Spec("MA7", LIVE, "no will becomes a command", ("SR 2.1", "SR 3.3"), "MA2 and MA4 name the rule",
         "mosquitto_sub … -u IDENTITY --will-topic CANARY --will-payload x, killed; a witness gets nothing"),
    Spec("MA8", LIVE, "a shared subscription gets nobody else's messages", ("SR 2.1", "SR 4.1"), "MA4 names the rule; the broker's version",
         "mosquitto_sub … -u IDENTITY -t '$share/x/hnai-audit/WITNESS/#' gets nothing"),
)}
WAYS = {"MA5": "publish", "MA6": "retained", "MA7": "will", "MA8": "shared"}


@dataclass
class Options:
    """What the caller decides. *acl*: declared rights ({principal, read, write}); *corners*: declared `pattern` lines ({access, filter});
    *clients*: identities that must be provisioned; *environment* stands in the record."""

    patterns: Sequence[str]
    acl: Sequence[Mapping[str, Any]] = ()
    corners: Sequence[Mapping[str, str]] = ()
    clients: Sequence[str] = ()
    lines: Sequence[str] = ()
    control: Sequence[str] = ()
    exceptions: Sequence[Any] = ()
    environment: str = "production"
    witness: str = ""
    canary: str = "__canary__"
    source: str = "mosquitto"
    live: bool = False
    live_refused: str = ""


@dataclass
class Sources:
    """Where to look. *policy* reads the rules (AclError); *loaded* says what is wrong with their being in force, empty = nothing, and raises OSError;
    *provisioned* names the identities that can log in (OSError); *live* makes the live test."""

    policy: Callable[[], Policy]
    loaded: Callable[[], str]
    provisioned: Callable[[], Iterable[str]]
    live: Callable[[Sequence[str]], Live] | None
    today: date
    at: str = ""
    scope: Mapping[str, Any] = field(default_factory=dict)


#: By how much the two clocks that are compared may disagree, seconds.
CLOCKS_S = 0.1


def not_in_force(shown: str, changed: Mapping[str, float], unit: str, boot: float) -> str:
    """Why the files are not what the broker works by; empty where they are. *shown*: systemctl show ActiveState, StateChangeTimestampMonotonic
    (µs since the boot, at the last start or reload); *changed*: unix time by file; *boot*: unix time of the boot."""
    facts = dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)
    if facts.get("ActiveState") != "active":
        return "%s is %s" % (unit, facts.get("ActiveState", "unknown"))
    since = boot + int(facts["StateChangeTimestampMonotonic"]) / 1e6
    newer = sorted(path for path, moment in changed.items() if moment > since + CLOCKS_S)
    return "%s changed after the last start or reload of %s: the broker works by another" % (", ".join(newer), unit) if newer else ""


def waivers(entries: Sequence[Any], source: str, today: date) -> Waivers:
    """Exceptions {check, identity?, topic?, owner, reason, expires}; identity and topic may hold `*`. Raises PolicyError naming entry and key."""
    shaped = []
    for number, entry in enumerate(entries):
        name = "exceptions[%d]" % number
        if not isinstance(entry, Mapping):
            raise PolicyError("%s: write a mapping with the keys %s" % (name, ", ".join(sorted(WAIVER_KEYS))))
        unknown = set(entry) - WAIVER_KEYS
        if unknown:
            raise PolicyError("%s: unknown key %s; known are %s" % (name, ", ".join(sorted(unknown)), ", ".join(sorted(WAIVER_KEYS))))
        if entry.get("check") not in SPECS or entry["check"] == "MA0":
            raise PolicyError("%s: check: %r; an exception names one of MA1 to MA8" % (name, entry.get("check")))
        identity, topic = str(entry.get("identity") or ""), str(entry.get("topic") or "")
        if not identity.strip("*?"):
            raise PolicyError("%s: identity: %r excuses everybody; name one" % (name, identity))
        shaped.append({"check": entry["check"], "source": source, "node": "%s %s" % (identity, topic or "*"),
                       "owner": entry.get("owner"), "reason": entry.get("reason"), "expires": entry.get("expires")})
    return parse_waivers(shaped, source, today)


class Judge:
    """Adds MA0 to MA8 to a report."""

    def __init__(self, report: Report, options: Options, sources: Sources) -> None:
        self.report, self.options, self.sources = report, options, sources
        self.waivers = waivers(options.exceptions, options.source, sources.today)
        self.policy: Policy | None = None
        self.open: list[Grant] = []
        self.excused: list[tuple[str, str]] = []
        self.refused_live: list[str] = []
        self.leaks: list[str] = []
        self.not_tested: list[str] = []
        self.findings: list[Findings] = []
        self.untried: list[str] = []
        self.uncovered: list[str] = []
        self.patterns: list[str] = list(options.patterns)
        self._read: dict[str, list[str]] = {}
        self._accepted: list[Grant] = []

    # -- helpers --------------------------------------------------------------------------------------------
    def _check(self, ident: str, body: Callable[[Check], None], subject: str = "", expected: Any = None, unit: str = "") -> None:
        spec = SPECS[ident]
        with self.report.check(ident, spec.title, expected=expected, unit=unit, controls=spec.controls, hint=spec.hint,
                               explain="%s: %s" % (spec.cls, spec.explain), subject=subject) as check:
            check.evidence["class"] = spec.cls
            body(check)

    def _excused(self, check: str, identity: str, topic: str) -> bool:
        waiver = self.waivers.excuses(check, "%s %s" % (identity, topic))
        if waiver is None:
            return False
        self.excused.append(("%s %s %s" % (check, identity, topic), waiver.owner))
        return True

    def _settle_grants(self, check: Check, found: Sequence[Grant]) -> None:
        left = [one for one in found if not self._excused(check.id, one.identity, one.topic)]
        self.open += left
        check.observed = len(left)
        check.evidence.update(grants=[one.as_dict() for one in left[:SHOWN]], excused=len(found) - len(left))
        if left:
            check.fail("; ".join(one.say() for one in left[:3]) + (" and %d more" % (len(left) - 3) if len(left) > 3 else ""))
        elif self.policy is not None and self.policy.unknown:
            check.inconclusive("not every rule is understood (MA1)")
        else:
            check.passed(True)

    def _known(self, check: Check) -> bool:
        if self.policy is None:
            check.inconclusive("the rules are not known (MA1)")
            return False
        return True

    # -- checks ---------------------------------------------------------------------------------------------
    def run(self) -> dict[str, Any]:
        """Make them all; returns the record."""
        self._check("MA1", self._rules, expected="read, in force, nobody past them")
        self._check("MA2", self._commands, expected=0, unit="rights")
        self._check("MA3", self._lines, expected=0, unit="rights")
        self._check("MA4", self._declared, expected=0, unit="differences")
        if self.options.live:
            self._live()
        record: dict[str, Any] = {}
        with self.report.check("MA0", SPECS["MA0"].title, expected="claimed or better", controls=SPECS["MA0"].controls, hint=SPECS["MA0"].hint,
                               explain=SPECS["MA0"].explain) as check:
            record.update(self._record(check))
        return record

    def _rules(self, check: Check) -> None:
        bad = [one for one in self.patterns if not valid_filter(one)]
        if bad or not self.patterns:
            check.inconclusive("no command pattern is declared" if not bad else "no topic filter: %s" % ", ".join(bad))
            return
        try:
            policy = self.sources.policy()
        except AclError as error:
            check.inconclusive(str(error))
            return
        self.policy = policy
        self.patterns += [one for one in policy.rights_topics if one not in self.patterns]
        check.evidence.update(kind=policy.kind, files=policy.files, identities=sorted(policy.identities), patterns=self.patterns, unknown=policy.unknown)
        stale = self.sources.loaded()
        if stale:
            self.leaks.append(stale)
        doors = [one for one in policy.open_doors if not self._excused("MA1", "door", one)]
        problems = doors + ([stale] if stale else [])
        check.observed = problems or "read, in force, nobody past them"
        if problems:
            check.fail("; ".join(problems[:4]))
        elif policy.unknown:
            check.inconclusive("; ".join(policy.unknown[:4]))
        elif not policy.identities:
            check.inconclusive("the rules know no identity at all")
        else:
            check.passed(True)

    def _commands(self, check: Check) -> None:
        if not self._known(check) or self.policy is None:
            return
        found, accepted = commanders(self.policy, self.patterns, self.options.control)
        self._read, self._accepted = readers(self.policy, self.patterns), accepted
        check.evidence.update(patterns=self.patterns, readers=self._read, control=[one.say() for one in accepted[:SHOWN]],
                              examined={"identities": len(self.policy.identities), "rules": sum(len(one.rules) for one in self.policy.identities.values())})
        self._settle_grants(check, found)

    def _lines(self, check: Check) -> None:
        if not self._known(check) or self.policy is None:
            return
        lines = list(self.options.lines)
        check.evidence["lines"] = lines
        missing = [one for one in lines if one not in self.policy.identities]
        if missing:
            check.inconclusive("the broker's rules know no %s" % ", ".join(missing))
            return
        self._settle_grants(check, into_lines(self.policy, lines, self.options.control))

    def _declared(self, check: Check) -> None:
        if not self._known(check) or self.policy is None:
            return
        if not self.options.acl:
            check.inconclusive("no declared rights to compare with")
            return
        model: set[Right] = declared_rights(self.options.acl, self.options.corners, self.policy.identities)
        missing, extra = deviations(self.policy, model)
        gone = ["not in the broker's rules: %s" % text for name, text in missing if not self._excused("MA4", name, text)]
        more = ["declared by nobody: %s (%s)" % (text, name) for name, text in extra if not self._excused("MA4", name, text)]
        check.observed = len(gone) + len(more)
        check.evidence.update(missing=gone[:SHOWN], extra=more[:SHOWN], declared=len(model))
        check.passed(not gone and not more, "; ".join((gone + more)[:5]) + (" and %d more" % (len(gone + more) - 5) if len(gone + more) > 5 else ""))

    # -- live -----------------------------------------------------------------------------------------------
    def _live(self) -> None:
        if self.options.live_refused:
            self.not_tested.append("what the broker really refuses: %s" % self.options.live_refused)
            return
        problem, names_of = "", sorted(set(self.options.clients))
        try:
            there = {one for one in self.sources.provisioned() if base(one) not in set(self.options.control)}
            # Either of a pair can log in; both while a rotation is under way.
            wanted = sorted({name for client in names_of for name in (client, client + TWIN) if name in there} | there)
            self.untried = [client for client in names_of if not {client, client + TWIN} & there]
            if self.sources.live is None:
                raise CannotTest("there is no live test for this broker")
            live = self.sources.live(self.patterns)
            self.uncovered = live.uncovered
            self.findings = live.run(wanted)
            self.not_tested += ["no witness of the line: %s" % one for one in live.not_watching]
            self._watched = [one.name for one in live.watchers]
        except Exception as error:
            problem = " ".join(("%s" % (error or type(error).__name__)).split())
        if problem or not self.findings:
            for ident in WAYS:
                self._check(ident, lambda check: check.inconclusive(problem or "no identity is provisioned"))
            self.not_tested.append("what the broker really refuses: %s" % problem)
            return
        for client in self.untried:
            for ident in WAYS:
                self._check(ident, lambda check: check.inconclusive("not tested: it cannot log in, no password of it is in the broker's file"), client)
        for found in self.findings:
            for ident, way in WAYS.items():
                self._check(ident, lambda check, a=found.ways[way], n=found.name: self._answer(check, n, a), found.name, [],  # type: ignore[misc]
                            "canaries that came through")

    _watched: Sequence[str] = ()

    def _answer(self, check: Check, name: str, answer: Answer) -> None:
        through = [one for one in answer.accepted if not self._excused(check.id, name, one)]
        check.observed = through
        check.evidence.update(answers=answer.codes, seen=answer.seen, positive_control=answer.control, witnesses=list(self._watched), notes=answer.notes)
        literal = uncovered_by(self.policy.identities[name].rules, self.options.canary) if self.policy and name in self.policy.identities else []
        blind = self._blind(answer)
        if through:
            self.refused_live += ["%s: %s (%s)" % (name, one, check.id) for one in through]
            check.fail("; ".join("%s: %s" % (one, "delivered" if one in answer.seen else answer.codes.get(one, "")) for one in through[:4])
                       + ("; and %s" % answer.problem if answer.problem else ""))
        elif answer.problem:
            check.inconclusive("not tested: %s" % answer.problem)
        elif not answer.codes and not answer.notes:
            check.inconclusive("not tested: no pattern has a canary")
        elif blind and check.id != "MA8":
            check.inconclusive("by the rules the witness %s may not read %s, so its silence proves nothing" % (self.options.witness, ", ".join(blind)))
        elif answer.unclear:
            check.inconclusive("refused, but not as not authorised: %s" % ", ".join("%s %s" % (one, answer.codes[one]) for one in answer.unclear))
        elif literal and check.id != "MA8":
            check.inconclusive("rules name the canary itself, so real topics may be decided by others: %s" % "; ".join(literal[:3]))
        else:
            check.passed(True)

    def _blind(self, answer: Answer) -> list[str]:
        """Canaries that the witness would not get even if they were accepted, by the rules."""
        witness = self.policy.identities.get(self.options.witness) if self.policy else None
        topics = [one for one in answer.codes if not one.startswith("$share/")]
        return [one for one in topics if witness is None or not grants(witness, READ, one)]

    # -- record ----------------------------------------------------------------------------------------------
    def _verdict(self) -> tuple[str, str]:
        """(verdict, reason)."""
        if self.refused_live:
            return REFUTED, "the broker lets through: %s" % "; ".join(self.refused_live[:3])
        if self.open:
            return REFUTED, self.open[0].say() + (" and %d more" % (len(self.open) - 1) if len(self.open) > 1 else "")
        state = {check.id + check.subject: check for check in self.report.checks}
        unknown = [one for name, one in state.items() if one.status == INCONCLUSIVE and name != "MA4"]
        if unknown:
            return UNKNOWN, "%s%s: %s" % (unknown[0].id, " (%s)" % unknown[0].subject if unknown[0].subject else "", unknown[0].reason)
        if self.leaks:
            return UNKNOWN, self.leaks[0]
        if self.findings and not self.uncovered and all(one.status == PASS for one in state.values() if one.id in WAYS):
            return PROVEN, ""
        return CLAIMED, ""

    def _record(self, head: Check) -> dict[str, Any]:
        verdict, reason = self._verdict()
        not_tested = list(self.not_tested)
        if not self.options.live:
            not_tested.append("what the broker really refuses (the live test runs with verify --tags ot and -e profile=full)")
        not_tested += ["pattern %s has no canary: it names one topic, which is a real one" % one for one in self.uncovered]
        if self.policy is not None and self.policy.kind == "emqx":
            not_tested.append("superusers (is_superuser of an authenticator), the rule engine and the REST API, which publish past every rule")
        if verdict != REFUTED:
            not_tested += ["real command topics: canaries stand for those that the same rules decide, MA2 for the others",
                           "who holds a control identity", "what changes after this moment"]
        expired, unused = self.waivers.expired(), self.waivers.unused()
        head.observed = verdict
        head.evidence.update(
            scope=dict(self.sources.scope, files=self.policy.files if self.policy else {}, patterns=self.patterns, environment=self.options.environment,
                       at=self.sources.at, identities=[one.name for one in self.findings], witnesses=list(self._watched)),
            not_tested=not_tested, readers=self._read, control=[one.say() for one in self._accepted[:SHOWN]],
            exceptions_expired=[one.as_dict() for one in expired], exceptions_unused=[one.as_dict() for one in unused], excused=len(self.excused))
        opened = any(check.id == "MA1" and check.status == FAIL for check in self.report.checks)
        if verdict == REFUTED:
            head.fail(reason)
        elif verdict == UNKNOWN:
            head.inconclusive(reason)
        elif expired:
            head.fail("expired exceptions: %s" % names(expired))
        elif opened:
            head.fail("a client can pass the rules (MA1)")
        else:
            head.passed(True)
        record = {
            "format": 1, "source": self.options.source, "environment": self.options.environment, "verdict": verdict, "reason": reason,
            "scope": head.evidence["scope"], "not_tested": not_tested, "grants": [one.as_dict() for one in self.open],
            "excused": ["%s (owner %s)" % one for one in self.excused], "exceptions": [one.as_dict() for one in self.waivers.waivers],
            "live": {one.name: dict(summary(one)) for one in self.findings},
            "canaries": {one: canary_topic(one, self.options.canary) for one in self.patterns},
            "checks": [{"id": one.id, "subject": one.subject, "class": SPECS[one.id].cls, "status": one.status, "title": one.title,
                        "sr": list(one.controls), "reason": one.reason} for one in self.report.checks if one.id in SPECS],
            "rules": {one.name: ["%s: %s" % (rule.where, rule.text) for rule in one.rules if rule.access == WRITE and rule.allow]
                      for one in (self.policy.identities.values() if self.policy else ())},
        }
        head.raw("mqtt-acl-audit-%s.json" % self.options.source, json.dumps(record, indent=1, sort_keys=True, default=str))
        return record
