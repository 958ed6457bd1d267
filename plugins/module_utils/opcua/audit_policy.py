# SPDX-License-Identifier: Apache-2.0
"""Exceptions that a person took responsibility for: check, node, owner, reason, end. An expired one excuses nothing."""
from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from fnmatch import fnmatchcase
from typing import Any

KEYS = frozenset({"check", "source", "node", "owner", "reason", "expires"})


class PolicyError(Exception):
    """The policy cannot be used; the text names entry, key and remedy."""


@dataclass
class Waiver:
    """One exception. *node*: stable form or a pattern with ``*``; empty = the check of the endpoint as a whole."""

    check: str
    source: str
    owner: str
    reason: str
    expires: date
    node: str = ""
    used: int = 0

    def as_dict(self) -> dict[str, Any]:
        return {"check": self.check, "source": self.source, "node": self.node, "owner": self.owner, "reason": self.reason,
                "expires": self.expires.isoformat(), "used": self.used}


@dataclass
class Policy:
    """The exceptions of one endpoint, on a day."""

    waivers: list[Waiver] = field(default_factory=list)
    today: date = date.min

    def expired(self) -> list[Waiver]:
        """Those whose end has passed."""
        return [one for one in self.waivers if one.expires < self.today]

    def unused(self) -> list[Waiver]:
        """Those that excused nothing in this run, and have not expired."""
        return [one for one in self.waivers if not one.used and one.expires >= self.today]

    def excuses(self, check: str, node: str = "") -> Waiver | None:
        """The exception for this finding, if any; counts its use."""
        for one in self.waivers:
            # A bracket is part of a name: Level[3].
            fits = fnmatchcase(node, one.node.replace("[", "[[]")) if node and one.node else bool(node) == bool(one.node)
            if one.check == check and fits and one.expires >= self.today:
                one.used += 1
                return one
        return None


def parse(entries: Iterable[Any], source: str, today: date, where: str = "exceptions") -> Policy:
    """Entries ``{check, source, node?, owner, reason, expires}`` of *source*. Raises PolicyError."""
    waivers = []
    for number, entry in enumerate(entries):
        name = "%s[%d]" % (where, number)
        if not isinstance(entry, Mapping):
            raise PolicyError("%s: write a mapping with the keys %s" % (name, ", ".join(sorted(KEYS))))
        unknown = set(entry) - KEYS
        if unknown:
            raise PolicyError("%s: unknown key %s; known are %s" % (name, ", ".join(sorted(unknown)), ", ".join(sorted(KEYS))))
        for key in ("check", "source", "owner", "reason", "expires"):
            if not str(entry.get(key) or "").strip():
                raise PolicyError("%s: %s is missing; an exception has a check, a source, an owner, a reason and an end" % (name, key))
        try:
            end = date.fromisoformat(str(entry["expires"]))
        except ValueError as error:
            raise PolicyError("%s: expires: %r is no date; write \"YYYY-MM-DD\"" % (name, entry["expires"])) from error
        node = str(entry.get("node") or "")
        literal = re.split(r"[*?]", node)[0]
        if literal != node and ("nsu=".startswith(literal) or (literal.startswith("nsu=") and ";" not in literal)):
            raise PolicyError("%s: node: %r excuses every node; name a node or a namespace" % (name, node))
        if entry["check"] == "OA0":
            raise PolicyError("%s: check: OA0 is the verdict itself; an exception names what stands behind it" % name)
        if entry["source"] == source:
            waivers.append(Waiver(str(entry["check"]), source, str(entry["owner"]), str(entry["reason"]), end, node))
    return Policy(waivers, today)


def names(waivers: Sequence[Waiver]) -> str:
    """For a reason's text."""
    return ", ".join("%s %s (owner %s, until %s)" % (one.check, one.node or "endpoint", one.owner, one.expires.isoformat()) for one in waivers[:5])
