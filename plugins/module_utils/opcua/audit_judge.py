# SPDX-License-Identifier: Apache-2.0
"""Judges the facts of one endpoint: 21 checks, the ladder of evidence, the verdict and the record of it.

Verdict: ``refuted`` (our session has a right to change something) | ``claimed`` (every node was read, none grants anything) |
``inconclusive``. Attributes never lead higher than *claimed*: *enforced* and *proven* are the write probe's to say (OW0).
"""
from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from ..verdict import Check, Report
from . import audit_cve, audit_logins, audit_rules
from .audit_policy import Policy, names
from .audit_run import Facts, Plan, sessions_free
from .audit_types import Certificate, Endpoint
from .audit_walk import Found, namespace_hash

REFUTED, CLAIMED, UNKNOWN = "refuted", "claimed", "inconclusive"
PASSIVE, READ, INTRUSIVE = "passive", "read", "intrusive"
SERVICES = ("Write", "Call", "HistoryUpdate", "AddNodes", "AddReferences", "DeleteNodes", "DeleteReferences")
_NONE = "http://opcfoundation.org/UA/SecurityPolicy#None"
DEPRECATED = {"None", "Basic128Rsa15", "Basic256"}
MODERN = {"Basic256Sha256", "Aes128_Sha256_RsaOaep", "Aes256_Sha256_RsaPss"}
WEAK_BELOW = {"RSA": 2048, "EC": 256}
"""Bits of a key, by its kind."""
DAY_S = 86400.0
SHOWN = 20
NOT_AUTHORISED = "not authorised: intrusive, needs a token for this endpoint and a window"


@dataclass(frozen=True)
class Spec:
    """One of the 21 checks."""

    id: str
    cls: str
    title: str
    controls: tuple[str, ...]
    hint: str
    where: str


SPECS = (
    Spec("OA1", PASSIVE, "no endpoint without security", ("SR 3.1", "SR 4.1"), "switch the endpoint off in the server", "GetEndpoints"),
    Spec("OA2", PASSIVE, "no deprecated security policy", ("SR 4.3",), "offer Basic256Sha256 or the Aes policies only", "GetEndpoints"),
    Spec("OA3", PASSIVE, "no password travels in clear", ("SR 1.5", "SR 4.1"), "give the UserName token a SecurityPolicyUri",
         "UserTokenPolicy.SecurityPolicyUri of each endpoint"),
    Spec("OA4", INTRUSIVE, "no anonymous session", ("SR 1.1", "SR 1.2"), "take the Anonymous token away", "UserTokenPolicy, one login try"),
    Spec("OA5", INTRUSIVE, "an unknown client certificate is refused", ("SR 1.2", "SR 1.8"), "switch off automatic trust",
         "OpenSecureChannel with a throw-away certificate"),
    Spec("OA6", PASSIVE, "the server's certificate is the pinned one, and sound", ("SR 1.8", "SR 1.9"),
         "compare the thumbprint with the plant, then pin the new one", "certificate of the secure channel"),
    Spec("OA7", PASSIVE, "our certificate is sound, and in no administrative role", ("SR 1.2", "SR 2.1"),
         "change it: playbooks/opcua_trust.yml", "own certificate, roles of the session"),
    Spec("OA8", READ, "no variable may be written", ("SR 2.1",), "take write access from the mirror's role", "UserAccessLevel of every Variable"),
    Spec("OA9", READ, "attributes do not contradict each other", ("SR 2.1",), "ask the vendor which of the two the server obeys",
         "AccessLevel, AccessLevelEx, masks, NodeClass"),
    Spec("OA10", READ, "no attribute may be written", ("SR 2.1",), "take attribute write rights from the mirror's role", "UserWriteMask of every node"),
    Spec("OA11", READ, "no method may be called", ("SR 2.1", "SR 7.7"), "take Call from the mirror's role", "UserExecutable of every Method"),
    Spec("OA12", READ, "no role permission changes anything", ("SR 2.1",), "take the permission from the mirror's role",
         "UserRolePermissions of every node, DefaultUserRolePermissions of every namespace"),
    Spec("OA13", READ, "the session holds reading roles only", ("SR 2.1", "SR 1.3"), "map the mirror's user to Observer only",
         "RoleIds in UserRolePermissions"),
    Spec("OA14", READ, "access restrictions keep weaker channels out", ("SR 4.1",), "switch the weaker endpoint off", "AccessRestrictions, endpoints"),
    Spec("OA15", INTRUSIVE, "services that change something do not exist", ("SR 2.1", "SR 7.7"), "opcua_write_probe in mode service, under a token",
         "each service with an empty array"),
    Spec("OA16", READ, "the server audits", ("SR 2.8", "SR 6.1"), "switch auditing on in the server", "Server.Auditing (i=2994)"),
    Spec("OA17", READ, "no dangerous standard object is open to us", ("SR 7.7", "SR 2.1"), "hide or deny what the plant does not use",
         "methods of Part 9, 10, 12, 14, 18, 20 by BrowseName"),
    Spec("OA18", READ, "every node was seen, every declared tag found", ("SR 6.2",), "the lists in the evidence name what is missing",
         "Browse, BrowseNext, Read"),
    Spec("OA19", READ, "the address space is the accepted one", ("SR 3.4", "SR 7.6"), "look at what changed; then accept it (accept_drift)",
         "hash of each namespace"),
    Spec("OA20", READ, "the server was not strained", ("SR 7.1", "SR 7.2"), "a lower budget, or another hour", "OperationLimits, own latency"),
    Spec("OA21", READ, "no known vulnerability", ("SR 7.6",), "update the server", "BuildInfo against the table of the collection"),
)
_BY_ID = {spec.id: spec for spec in SPECS}
NODE_CHECKS = ("OA8", "OA9", "OA10", "OA11", "OA12")


@dataclass
class Context:
    """What the judgement takes beside the facts. Times in unix seconds; *baseline*: accepted address space or None."""

    plan: Plan
    policy: Policy
    now: float
    pin_sha256: str = ""
    baseline: Mapping[str, Any] | None = None
    thumbprints: Mapping[str, str] = field(default_factory=dict)
    expiry_warn_days: float = 30.0
    reading_roles: Sequence[str] = ()


def policy_name(uri: str) -> str:
    """``Basic256Sha256`` of a SecurityPolicyUri."""
    return uri.rsplit("#", 1)[-1]


def certificate_problems(certificate: Certificate, now: float, warn_days: float, application_uri: str, usage: str) -> list[str]:
    """What is wrong with an application instance certificate (OPC 10000-6, 6.2.2). *usage*: serverAuth or clientAuth."""
    found = []
    if now < certificate.not_before:
        found.append("it is not valid yet")
    if now > certificate.not_after:
        found.append("it has expired")
    elif certificate.not_after - now < warn_days * DAY_S:
        found.append("it expires in %.0f days" % ((certificate.not_after - now) / DAY_S))
    if certificate.key_bits < WEAK_BELOW.get(certificate.key_type, 0):
        found.append("its %s key has only %d bits" % (certificate.key_type, certificate.key_bits))
    if certificate.signature_hash in ("sha1", "md5"):
        found.append("it is signed with %s" % certificate.signature_hash)
    if application_uri and application_uri not in certificate.uris:
        found.append("its ApplicationUri is %s, %s was expected" % (", ".join(certificate.uris) or "missing", application_uri))
    if certificate.key_usage and "digital_signature" not in certificate.key_usage:
        found.append("its key usage has no digitalSignature")
    if certificate.extended and not {usage, "anyExtendedKeyUsage"} & set(certificate.extended):
        found.append("its extended key usage has no %s" % usage)
    return found


def clear_password(endpoint: Endpoint) -> list[str]:
    """Token policies of *endpoint* that would send a password, or a token that is as good, in clear."""
    found = []
    for token in endpoint.tokens:
        effective = token.policy or endpoint.policy
        if token.kind in ("username", "issued") and policy_name(effective) == "None" and endpoint.mode != "SignAndEncrypt":
            found.append("%s %s/%s: token %s" % (endpoint.url, policy_name(endpoint.policy), endpoint.mode, token.id))
    return found


def drift(baseline: Mapping[str, Any], lines: Mapping[str, Mapping[str, str]]) -> list[str]:
    """What differs from the accepted address space, in words; empty = nothing."""
    found = []
    known = baseline.get("namespaces", {})
    for uri in sorted(set(known) | set(lines)):
        old, new = known.get(uri, {}), lines.get(uri, {})
        if namespace_hash(old) == namespace_hash(new):
            continue
        for word, nodes in (
            ("new", sorted(set(new) - set(old))), ("gone", sorted(set(old) - set(new))),
            ("changed", sorted(node for node in set(old) & set(new) if old[node] != new[node])),
        ):
            found += ["%s: %s" % (word, node) for node in nodes]
    return found


def decide(open_grants: int, complete: bool, why: str) -> tuple[str, str]:
    """(verdict, reason)."""
    if open_grants:
        return REFUTED, "%d rights to change something" % open_grants
    if not complete:
        return UNKNOWN, why
    return CLAIMED, "no attribute of any node grants anything; attributes are claims"


def _files(source: str) -> str:
    return "ot-audit-%s.json" % source


class Judge:
    """Adds OA0 to OA21 of one endpoint to a report."""

    def __init__(self, report: Report, facts: Facts, context: Context) -> None:
        self.report, self.facts, self.context = report, facts, context
        self.open: list[Found] = []
        self.excused: list[tuple[Found, str]] = []
        self.lies: list[Found] = []
        for found in facts.result.findings:
            if found.kind == audit_rules.INFO:
                continue
            waiver = context.policy.excuses(found.check, found.node)
            if waiver is not None:
                self.excused.append((found, waiver.owner))
            elif found.kind == audit_rules.GRANT:
                self.open.append(found)
            else:
                self.lies.append(found)

    # -- helpers ------------------------------------------------------------------------------------------
    def _check(self, id: str, body: Callable[[Check], None], expected: Any = None, unit: str = "") -> None:
        spec = _BY_ID[id]
        with self.report.check(id, spec.title, expected=expected, unit=unit, controls=spec.controls, hint=spec.hint,
                               explain="%s at %s, as user %s with the collector's certificate: %s" % (
                                   spec.cls, self.context.plan.endpoint, self.context.plan.username or "(anonymous)", spec.where),
                               subject=self.context.plan.source) as check:
            check.evidence["class"] = spec.cls
            body(check)

    def _settle(self, check: Check, problems: Sequence[str]) -> None:
        """Pass without problems; an exception of the endpoint excuses them, by name."""
        if problems:
            check.evidence["problems"] = list(problems[:SHOWN])
            waiver = self.context.policy.excuses(check.id)
            if waiver is None:
                check.fail("; ".join(problems[:3]) + (" and %d more" % (len(problems) - 3) if len(problems) > 3 else ""))
                return
            check.evidence["exception"] = waiver.as_dict()
        check.passed(True)

    def _opened(self, check: Check) -> bool:
        if self.facts.opened is None:
            check.inconclusive(self.facts.error or "no connection was made")
            return False
        return True

    def _walked(self, check: Check) -> bool:
        """Whether an absence of findings may be believed."""
        if self.facts.complete:
            return True
        check.inconclusive("not all nodes were read: %s" % self._why())
        return False

    @cached_property
    def _namespaces(self) -> dict[str, dict[str, Any]]:
        """The address space in a few words: the same hash, the same nodes with the same rights."""
        return {uri: {"nodes": len(lines), "sha256": namespace_hash(lines)} for uri, lines in self.facts.result.lines.items()}

    def _why(self) -> str:
        result = self.facts.result
        return self.facts.error or ", ".join(
            "%d %s" % (result.counts[name], name) for name in ("unread", "truncated", "not_reached") if result.counts[name]) or "nothing was read"

    # -- judgement ----------------------------------------------------------------------------------------
    def run(self) -> dict[str, Any]:
        """Add every check; returns the record of the endpoint."""
        self._verdict_first()
        self._check("OA1", self._security, expected=0, unit="endpoints")
        self._check("OA2", self._policies, expected=0, unit="endpoints")
        self._check("OA3", self._tokens, expected=0, unit="tokens")
        self._check("OA4", self._anonymous)
        self._check("OA5", lambda check: self._login(check, audit_logins.STRANGER))
        self._check("OA6", self._server_certificate)
        self._check("OA7", self._own_certificate)
        for id in NODE_CHECKS:
            self._check(id, self._nodes, expected=0, unit="nodes")
        self._check("OA13", self._roles)
        self._check("OA14", self._restrictions)
        self._check("OA15", lambda check: check.skip("not authorised: opcua_write_probe in mode service asks, under a token (OW6)"))
        self._check("OA16", self._auditing)
        self._check("OA17", self._dangerous)
        self._check("OA18", self._coverage, expected=0, unit="holes")
        self._check("OA19", self._drift, expected=0, unit="nodes")
        self._check("OA20", self._load)
        self._check("OA21", self._vulnerable)
        return self._record()

    def _verdict_first(self) -> None:
        """OA0 stands first and is settled last."""
        self._head = self.report.add(Check(
            "OA0", "the mirror cannot write", expected=CLAIMED, controls=["SR 2.1"], subject=self.context.plan.source,
            hint="the other OA checks of this source say why; docs/runbooks/ot-audit.md",
            explain="ansible-playbook hnai.platform.verify --tags ot"))

    def _security(self, check: Check) -> None:
        if not self._opened(check) or self.facts.opened is None:
            return
        opened = self.facts.opened
        bad = ["%s %s/%s" % (one.url, policy_name(one.policy), one.mode) for one in opened.endpoints if one.mode in ("None", "Invalid")]
        told = {(one.mode, one.policy) for one in opened.endpoints}
        session = {(one.mode, one.policy) for one in opened.session_endpoints}
        if not opened.endpoints:
            check.inconclusive("the server lists no endpoint")
            return
        if session and session != told:
            bad.append("GetEndpoints and CreateSession list different endpoints: somebody in between, or a broken server")
        check.observed = len(bad)
        check.evidence["endpoints"] = ["%s %s/%s" % (one.url, policy_name(one.policy), one.mode) for one in opened.endpoints]
        self._settle(check, bad)

    def _policies(self, check: Check) -> None:
        if not self._opened(check) or self.facts.opened is None:
            return
        seen = {policy_name(one.policy) for one in self.facts.opened.endpoints}
        # An endpoint without security is OA1's finding, not a second one here.
        bad = sorted("%s %s/%s" % (one.url, policy_name(one.policy), one.mode) for one in self.facts.opened.endpoints
                     if policy_name(one.policy) in DEPRECATED and one.mode != "None")
        # A token in clear is OA3's; a certificate without a policy is shown without a signature, so it is anybody's who has seen it.
        bad += sorted("%s %s/%s: token %s with %s" % (one.url, policy_name(one.policy), one.mode, token.id, policy_name(token.policy))
                      for one in self.facts.opened.offered() for token in one.tokens
                      if token.kind != "anonymous" and policy_name(token.policy) in DEPRECATED
                      and (policy_name(token.policy) != "None" or (token.kind == "certificate" and one.mode != "None")))
        check.observed = len(bad)
        check.evidence.update(policies=sorted(seen), unsupported_by_auditor=sorted(seen - DEPRECATED - MODERN))
        self._settle(check, bad)

    def _tokens(self, check: Check) -> None:
        if not self._opened(check) or self.facts.opened is None:
            return
        bad = [text for one in self.facts.opened.offered() for text in clear_password(one)]
        check.observed = len(bad)
        check.evidence["tokens"] = sorted({"%s/%s: %s %s" % (policy_name(one.policy), one.mode, token.kind, policy_name(token.policy) or "(as endpoint)")
                                           for one in self.facts.opened.offered() for token in one.tokens})
        self._settle(check, bad)

    def _anonymous(self, check: Check) -> None:
        if not self._opened(check) or self.facts.opened is None:
            return
        offered = sorted({"%s %s/%s offers Anonymous" % (one.url, policy_name(one.policy), one.mode)
                          for one in self.facts.opened.offered() for token in one.tokens if token.kind == "anonymous"})
        check.observed = "offered" if offered else "not offered"
        if offered:
            self._settle(check, offered)
        else:
            self._login(check, audit_logins.ANONYMOUS)

    def _login(self, check: Check, ident: str) -> None:
        """A login that should be refused, tried once under a token."""
        found = self.facts.logins.get(ident)
        if found is None:
            check.skip(self.facts.not_authorised or NOT_AUTHORISED)
            return
        check.observed = found.outcome
        check.evidence.update(said=found.said, token=self.facts.token)
        if found.outcome == audit_logins.UNKNOWN:
            check.inconclusive(found.said)
        else:
            self._settle(check, [found.said] if found.outcome == audit_logins.ACCEPTED else [])

    def _server_certificate(self, check: Check) -> None:
        if not self._opened(check) or self.facts.opened is None:
            return
        opened, context = self.facts.opened, self.context
        certificate = opened.server
        if certificate is None:
            check.inconclusive("the channel has no server certificate")
            return
        mine = [one for one in opened.endpoints if one.certificate_sha256 == certificate.sha256]
        uri = mine[0].application_uri if mine else ""
        bad = certificate_problems(certificate, context.now, context.expiry_warn_days, uri, "serverAuth")
        if certificate.sha256 != context.pin_sha256:
            bad.append("it is not the pinned one")
        bad += ["endpoint %s shows another certificate (sha256 %s)" % (one.url, one.certificate_sha256[:16]) for one in opened.endpoints
                if one.certificate_sha256 and one.certificate_sha256 != certificate.sha256][:1]
        bad += ["the same certificate stands at source %s" % source for source, sha in sorted(context.thumbprints.items())
                if sha == certificate.sha256 and source != context.plan.source]
        check.observed = certificate.sha256
        check.evidence.update(certificate=certificate.__dict__, not_tested="revocation (CRL)" if not certificate.self_signed else "")
        self._settle(check, bad)

    def _own_certificate(self, check: Check) -> None:
        if not self._opened(check) or self.facts.opened is None:
            return
        certificate = self.facts.opened.client
        if certificate is None:
            check.inconclusive("the session has no client certificate")
            return
        bad = certificate_problems(certificate, self.context.now, self.context.expiry_warn_days, self.context.plan.application_uri, "clientAuth")
        admin = sorted({"SecurityAdmin", "ConfigureAdmin"} & self._role_names())
        bad += ["the session holds %s" % role for role in admin]
        check.observed = certificate.sha256
        check.evidence.update(sha1_thumbprint=certificate.sha1, uris=list(certificate.uris), roles_told=bool(self.facts.result.told_roles))
        self._settle(check, bad)

    def _nodes(self, check: Check) -> None:
        mine = [one for one in self.open + self.lies if one.check == check.id]
        excused = [one for one, _ in self.excused if one.check == check.id]
        info = [one for one in self.facts.result.findings if one.check == check.id and one.kind == audit_rules.INFO]
        check.observed = len(mine)
        check.evidence.update(nodes=[one.as_dict() for one in mine[:SHOWN]], excused=len(excused), only_in_type_tree=len(info),
                              examined=sum(self.facts.result.nodes.values()))
        if mine:
            check.fail("; ".join("%s: %s" % (one.path, one.what) for one in mine[:3]) + (
                " and %d more" % (len(mine) - 3) if len(mine) > 3 else ""))
        elif self._walked(check):
            check.passed(True)

    def _role_names(self) -> set[str]:
        return {audit_rules.ROLES.get(role, role) for role in self.facts.result.roles}

    def _roles(self, check: Check) -> None:
        if not self._walked(check):
            return
        held = self._role_names()
        if not held:
            check.skip("the server tells no roles (no UserRolePermissions, no defaults)")
            return
        allowed = set(audit_rules.HARMLESS_ROLES) | set(self.context.reading_roles)
        check.observed = sorted(held)
        self._settle(check, ["role %s" % role for role in sorted(held - allowed)])

    def _restrictions(self, check: Check) -> None:
        if not self._walked(check) or self.facts.opened is None:
            return
        weaker = sorted("%s %s/%s" % (one.url, policy_name(one.policy), one.mode) for one in self.facts.opened.endpoints if one.mode != "SignAndEncrypt")
        # A restriction that a signature satisfies keeps nobody out of an endpoint that signs.
        signed = any(one.mode == "Sign" for one in self.facts.opened.endpoints)
        check.observed = self.facts.result.counts["encryption_required" if signed else "signing_required"]
        check.evidence["weaker_endpoints"] = weaker
        if not weaker:
            check.passed(True)
        elif check.observed:
            check.skip("nodes declare restrictions; a read over the weaker endpoint would show them: %s" % NOT_AUTHORISED)
        else:
            self._settle(check, ["%d weaker endpoints, and no node declares a restriction that keeps them out" % len(weaker)])

    def _auditing(self, check: Check) -> None:
        if not self._opened(check):
            return
        value = self.facts.values.get("auditing")
        check.observed = value
        if "auditing" not in self.facts.values:
            check.inconclusive("it cannot be read (0x%08X)" % self.facts.statuses.get("auditing", 0x80000000))
            return
        self._settle(check, [] if value is True else ["the server writes no audit events" if value is False else "the server does not say whether it audits"])

    def _dangerous(self, check: Check) -> None:
        result = self.facts.result
        check.observed = result.counts["dangerous executable"]
        check.evidence.update(visible=result.counts["dangerous"], groups={name: nodes[:SHOWN] for name, nodes in sorted(result.dangerous.items())},
                              subscribed_data_sets=result.subscribed_data_sets[:SHOWN])
        # Executable ones are OA11's findings, node by node; here stands what writes without any service.
        bad = ["%s writes variables out of received messages (Part 14)" % node for node in result.subscribed_data_sets]
        if bad:
            self._settle(check, bad)
        elif self._walked(check):
            check.passed(True)

    def _coverage(self, check: Check) -> None:
        facts, result = self.facts, self.facts.result
        check.evidence.update(
            nodes=dict(result.nodes), regions=dict(result.regions), declared_tags=len(self.context.plan.tags), hidden=result.hidden_tags[:SHOWN],
            missing=result.missing_tags[:SHOWN], unread=result.unread[:SHOWN], truncated=result.truncated[:SHOWN], vanished=result.counts["vanished"],
            remote_references=result.counts["remote_references"], statuses=dict(result.statuses), resumed=facts.resumed)
        check.observed = len(result.missing_tags) + len(result.unread_tags) + result.counts["unread"] + result.counts["truncated"]
        if facts.opened is None or not result.nodes:
            check.inconclusive(facts.error or "nothing was read")
        elif result.missing_tags:
            self._settle(check, ["declared tag %s does not exist" % tag for tag in result.missing_tags])
        elif not facts.complete:
            first = (result.truncated + result.unread)[:2]
            check.inconclusive("; ".join([self._why(), *first]))
        else:
            self._settle(check, ["declared tag %s cannot be browsed by us" % tag for tag in result.hidden_tags])

    def _drift(self, check: Check) -> None:
        if not self._walked(check):
            return
        check.evidence["namespaces"] = self._namespaces
        if self.context.baseline is None:
            check.evidence["baseline"] = "none yet: this address space becomes the accepted one"
            check.observed = 0
            check.passed(True)
            return
        changed = drift(self.context.baseline, self.facts.result.lines)
        check.observed = len(changed)
        check.evidence["baseline"] = self.context.baseline.get("accepted_at", "")
        self._settle(check, changed)

    def _load(self, check: Check) -> None:
        facts = self.facts
        check.evidence.update(facts.load, limits={name: facts.values.get(name) for name in (
            "max_nodes_per_read", "max_nodes_per_browse", "max_continuation_points", "max_sessions", "sessions")},
            sessions_left=sessions_free(facts.values))
        check.observed = facts.load.get("latency_ms", {}).get("worst_probe")
        if facts.opened is None or facts.error:
            check.inconclusive(facts.error or "no connection was made")
        elif facts.load.get("alarms"):
            self._settle(check, ["backed off: %s" % text for text in facts.load["alarms"]])
        else:
            check.passed(True)

    def _vulnerable(self, check: Check) -> None:
        if not self._opened(check):
            return
        values = self.facts.values
        product = [str(values.get(name) or "") for name in ("product", "product_uri", "manufacturer")]
        check.evidence.update(product=product, version=values.get("version"), table_of=audit_cve.TABLE_DATE, entries=len(audit_cve.TABLE))
        if not audit_cve.known(product):
            check.skip("the table does not know this product")
            return
        if not audit_cve.version_of(str(values.get("version") or "")):
            check.inconclusive("BuildInfo has no version")
            return
        found = audit_cve.match(product, str(values["version"]))
        self._settle(check, ["%s: %s" % (entry.id, entry.what) for entry in found])

    # -- record -------------------------------------------------------------------------------------------
    def _record(self) -> dict[str, Any]:
        facts, context, result = self.facts, self.context, self.facts.result
        verdict, reason = decide(len(self.open), facts.complete, self._why())
        expired = context.policy.expired()
        head = self._head
        head.observed = verdict
        not_tested = self._not_tested()
        head.evidence = {
            "ladder": self._ladder(verdict), "scope": self._scope(), "not_tested": not_tested, "excused": len(self.excused),
            "coverage": self._coverage_record(),
            "exceptions_expired": [one.as_dict() for one in expired], "exceptions_unused": [one.as_dict() for one in context.policy.unused()],
        }
        if verdict == REFUTED:
            first = self.open[0]
            # Whoever reads the record (the gate before a deployment, OC14) names the node too.
            reason += ", the first: %s (%s): %s" % (first.path, first.node, first.what)
            head.fail(reason)
        elif verdict == UNKNOWN:
            head.inconclusive(reason)
        elif expired:
            head.fail("expired exceptions: %s" % names(expired))
        else:
            head.passed(True)
        checks = [check.as_dict() for check in self.report.checks if check.subject == context.plan.source]
        record = {
            "format": 1, "source": context.plan.source, "endpoint": context.plan.endpoint, "environment": context.plan.environment,
            "verdict": verdict, "reason": reason, "ladder": head.evidence["ladder"], "scope": head.evidence["scope"], "not_tested": not_tested,
            "checks": [{"id": one["id"], "class": _BY_ID[one["id"]].cls if one["id"] in _BY_ID else READ, "status": one["status"],
                        "title": one["title"], "sr": one["controls"], "reason": one.get("reason", "")} for one in checks],
            "findings": [one.as_dict() for one in (self.open + self.lies)[:500]],
            "findings_total": len(self.open) + len(self.lies),
            "excused": [dict(one.as_dict(), owner=owner) for one, owner in self.excused[:200]],
            "excused_total": len(self.excused),
            "exceptions": [one.as_dict() for one in context.policy.waivers],
            "coverage": {**self._coverage_record(), "informative": {
                name: result.counts[name] for name in ("writable_by_others", "attributes_writable_by_others", "signing_required", "encryption_required",
                                                       "vanished", "remote_references", "dangerous")}},
            "namespaces": dict(sorted(self._namespaces.items())),
            "load": facts.load, "build_info": {name: facts.values.get(name) for name in ("manufacturer", "product", "product_uri", "version", "build")},
        }
        head.raw(_files(context.plan.source), json.dumps(record, indent=1, sort_keys=True, default=str))
        return record

    def _coverage_record(self) -> dict[str, Any]:
        result = self.facts.result
        return {"nodes": dict(result.nodes), "regions": dict(result.regions), "declared_tags": len(self.context.plan.tags),
                "missing_tags": result.missing_tags, "hidden_tags": result.hidden_tags, "unread": result.unread,
                "truncated": result.truncated, "complete": self.facts.complete}

    def _ladder(self, verdict: str) -> dict[str, str]:
        state = {check.id: check.status for check in self.report.checks if check.subject == self.context.plan.source}
        zero = [state.get(id, "") for id in ("OA1", "OA2", "OA3", "OA6")]
        return {
            "E0 endpoints and certificates": "held" if all(one == "pass" for one in zero) else "not held" if "fail" in zero else "unknown",
            "E1 attributes and roles of every node": {REFUTED: "refuted", UNKNOWN: "unknown"}.get(verdict, "held"),
            "E2 changing services are absent": "not tested here: OW6",
            "E3 no path but a reading one": "not tested here: conduit checks",
            "E4 canary": "not tested here: OW3",
            "E5 no write seen for days": "not tested",
        }

    def _scope(self) -> dict[str, Any]:
        opened, values = self.facts.opened, self.facts.values
        return {
            "server_certificate_sha256": opened.server.sha256 if opened and opened.server else None,
            "client_certificate_sha256": opened.client.sha256 if opened and opened.client else None,
            "endpoint": self.context.plan.endpoint, "policy": self.context.plan.policy, "mode": self.context.plan.mode,
            "user": self.context.plan.username, "roles": sorted(self._role_names()) or "not told",
            "build": " ".join(str(values.get(name) or "") for name in ("product", "version", "build")).strip(),
            "server_started": str(values.get("start_time") or ""), "at": self.context.now, "environment": self.context.plan.environment,
        }

    def _not_tested(self) -> list[str]:
        logins = {audit_logins.ANONYMOUS: "an anonymous login", audit_logins.STRANGER: "an unknown client certificate"}
        found = ["%s %s" % one for one in logins.items() if one[0] not in self.facts.logins]
        if self.facts.resumed:
            found.append("what changed since an earlier run that was stopped: %d nodes were read then" % self.facts.resumed)
        of_types = sum(one.kind == audit_rules.INFO for one in self.facts.result.findings)
        if of_types:
            found.append("%d methods that only types have, and we may execute: whether an object of the type takes a call of one" % of_types)
        return [
            *found, "OA14 reading over a weaker endpoint", "OA15 whether %s exist as services" % ", ".join(SERVICES),
            "whether a write is denied: attributes are claims", "nodes that no forward reference leads to and no declared tag names",
            "the history of events where only EventNotifier tells of it, which is no right of a user",
            "other protocols of the same device", "what changes after this moment",
            "other users and other client certificates"]
