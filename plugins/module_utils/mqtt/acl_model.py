# SPDX-License-Identifier: Apache-2.0
"""Rights at an MQTT broker, whatever its product: ordered rules of an identity, and who may do what to a topic pattern.

The first rule that matches a topic decides, then the default. What a parser cannot model it says in ``Policy.unknown``; a condition that only the
broker sees (an address, a client id) makes an allow count and a deny not, so that a right is never missed.
"""
from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..credentials import TWIN, base
from .topics import example

WRITE, READ = "write", "read"
ANONYMOUS = "(anonymous)"
ANYBODY = "(any other identity)"


@dataclass(frozen=True)
class Rule:
    """One right or refusal. *access*: write, read. *filter*: what it covers, without placeholders. *where*: file and line or path in a document;
    *text*: as it stands there; *literal*: it means the filter as a text (EMQX ``eq``); *certain*: no condition that only the broker sees."""

    allow: bool
    access: str
    filter: str
    where: str
    text: str
    certain: bool = True
    literal: bool = False


@dataclass
class Identity:
    """A user name (or a pseudo one in parentheses) with its rules in the order in which the broker asks them; *defaults*: what holds when no rule
    matches, by access."""

    name: str
    rules: list[Rule] = field(default_factory=list)
    defaults: Mapping[str, bool] = field(default_factory=lambda: {WRITE: False, READ: False})
    default_where: str = "no rule matches"


@dataclass
class Policy:
    """What one broker was told. *unknown*: what could not be modelled, each with file and remedy; *open_doors*: what lets clients past every rule;
    *files*: sha256 by file; *rights_topics*: publishing there changes rights; *provisioned*: who has a password or the like."""

    kind: str
    identities: dict[str, Identity] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)
    open_doors: list[str] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)
    rights_topics: tuple[str, ...] = ()
    provisioned: set[str] = field(default_factory=set)

    def identity(self, name: str) -> Identity:
        """The identity, made where it is new."""
        return self.identities.setdefault(name, Identity(name))


@dataclass(frozen=True)
class Grant:
    """An identity may: *topic* is one example; *rule* the text that allows it, at *where*."""

    identity: str
    access: str
    pattern: str
    topic: str
    where: str
    rule: str
    certain: bool = True

    def as_dict(self) -> dict[str, Any]:
        return {"identity": self.identity, "access": self.access, "pattern": self.pattern, "topic": self.topic, "where": self.where,
                "rule": self.rule, "certain": self.certain}

    def say(self) -> str:
        """For a reason's text."""
        return "%s may %s %s (%s: %s)%s" % (self.identity, "publish" if self.access == WRITE else "read", self.topic, self.where, self.rule,
                                            "" if self.certain else ", under a condition that only the broker sees")


def grants(identity: Identity, access: str, pattern: str) -> list[Grant]:
    """Every rule by which the identity may do this to some topic of *pattern*: decided by the overlap of filters, not by samples."""
    found: list[Grant] = []
    refusals: list[str] = []
    for rule in identity.rules:
        if rule.access != access or (rule.literal and set(rule.filter) & {"+", "#"}):
            continue
        if not rule.allow:
            if rule.certain:
                refusals.append(rule.filter)
            continue
        topic = example([pattern, rule.filter], refusals)
        if topic is not None:
            found.append(Grant(identity.name, access, pattern, topic, rule.where, rule.text, rule.certain))
    if identity.defaults.get(access):
        topic = example([pattern], refusals)
        if topic is not None:
            found.append(Grant(identity.name, access, pattern, topic, identity.default_where, "everything is allowed"))
    return found


def commanders(policy: Policy, patterns: Iterable[str], control: Iterable[str] = ()) -> tuple[list[Grant], list[Grant]]:
    """(who may publish to a command pattern, of those that may by declaration)."""
    declared = set(control)
    open_grants: list[Grant] = []
    accepted: list[Grant] = []
    for identity in policy.identities.values():
        for pattern in patterns:
            found = grants(identity, WRITE, pattern)
            (accepted if base(identity.name) in declared else open_grants).extend(found)
    return open_grants, accepted


def readers(policy: Policy, patterns: Iterable[str]) -> dict[str, list[str]]:
    """Who may read which command pattern: {pattern: [identity]}."""
    return {pattern: sorted(one.name for one in policy.identities.values() if grants(one, READ, pattern)) for pattern in patterns}


def into_lines(policy: Policy, lines: Iterable[str], control: Iterable[str] = ()) -> list[Grant]:
    """Who may publish to something that a line may read (invariant I12), the line itself and the declared ones left out."""
    declared = set(control)
    found: list[Grant] = []
    for line in sorted(set(lines)):
        for name in (line, line + TWIN):
            if name not in policy.identities:
                continue
            own = policy.identities[name]
            reads = [rule.filter for rule in own.rules if rule.allow and rule.access == READ and not rule.literal]
            reads += ["#"] if own.defaults.get(READ) else []
            for other in policy.identities.values():
                if base(other.name) == line or base(other.name) in declared:
                    continue
                for one in reads:
                    for grant in grants(other, WRITE, one):
                        # Exactly: the line may really read this very topic, denials of its own included.
                        if grants(own, READ, grant.topic) and not any(
                            (old.identity, old.where, old.pattern) == (grant.identity, grant.where, grant.pattern) for old in found
                        ):
                            found.append(grant)
    return found


@dataclass(frozen=True)
class Right:
    """One declared right of an identity."""

    identity: str
    access: str
    filter: str

    def say(self) -> str:
        return "%s: %s %s" % (self.identity, self.access, self.filter)


def declared_rights(acl: Iterable[Mapping[str, Any]], corners: Sequence[Mapping[str, str]], names: Iterable[str]) -> set[Right]:
    """What the site model gives: *acl* ({principal, read, write}), each with its twin, and *corners* ({access, filter} with %u) for all *names*."""
    found: set[Right] = set()
    for entry in acl:
        for name in (str(entry["principal"]), str(entry["principal"]) + TWIN):
            found |= {Right(name, access, str(one)) for access in (READ, WRITE) for one in entry.get(access) or []}
    for name in names:
        for corner in corners:
            kinds = (READ, WRITE) if corner["access"] == "readwrite" else (corner["access"],)
            found |= {Right(name, kind, corner["filter"].replace("%u", name)) for kind in kinds}
    return found


def deviations(policy: Policy, declared: set[Right]) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """(declared rights that the broker does not give, rules of the broker that nobody declared): each (identity, right or place and text)."""
    known = {(rule.access, rule.filter, identity.name) for identity in policy.identities.values() for rule in identity.rules
             if rule.allow and rule.certain}
    missing = sorted((right.identity, right.say()) for right in declared if (right.access, right.filter, right.identity) not in known)
    extra: dict[str, str] = {}
    for identity in policy.identities.values():
        for rule in identity.rules:
            if not rule.allow or Right(identity.name, rule.access, rule.filter) not in declared:
                extra.setdefault("%s: %s" % (rule.where, rule.text), identity.name)
        for access, allowed in sorted(identity.defaults.items()):
            if allowed:
                extra.setdefault("%s: %s of everything by default" % (identity.default_where, access), identity.name)
    return missing, [(name, text) for text, name in extra.items()]
