# SPDX-License-Identifier: Apache-2.0
"""A ruleset as a program: chains of rules, what a rule asks for and what it does, and where each stands."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple, Union

from ansible_collections.hnai.platform.plugins.module_utils.zones.boxes import Cube, Values


@dataclass(frozen=True, order=True)
class Where:
    """A place in a ruleset. `handle` 0: the chain or table itself."""

    family: str
    table: str
    chain: str = ""
    handle: int = 0
    comment: str = field(default="", compare=False)

    @property
    def text(self) -> str:
        """For people."""
        parts = "table %s %s" % (self.family, self.table) + (", chain %s" % self.chain if self.chain else "")
        return parts + (", handle %d" % self.handle if self.handle else "") + (' ("%s")' % self.comment if self.comment else "")

    def as_dict(self) -> dict[str, Any]:
        """As JSON-like data."""
        return {"family": self.family, "table": self.table, "chain": self.chain, "handle": self.handle, "comment": self.comment}


@dataclass(frozen=True, order=True)
class Unknown:
    """A construct that is not understood."""

    where: Where
    construct: str

    @property
    def text(self) -> str:
        """For people."""
        return "%s: %s" % (self.where.text, self.construct)


class Match(NamedTuple):
    """Every packet in one of `cubes` (in none, where `negate`), and in `needs`. `doubt`: whether it matches is not known."""

    needs: Cube
    cubes: tuple[Cube, ...]
    negate: bool
    doubt: Unknown | None = None


class Act(NamedTuple):
    """What a rule does: accept, drop, reject, return, jump, goto, set (an override), edit (what no rule looks at), unknown, or a way around
    (`_BYPASS` in ruleset.py)."""

    verb: str
    target: str = ""
    dimension: str = ""
    value: Values | None = None
    doubt: Unknown | None = None


Step = Union[Match, Act, "Choice"]


class Choice(NamedTuple):
    """A verdict map: the first alternative that matches acts."""

    ways: tuple[tuple[Match, Act], ...]


@dataclass
class Rule:
    """One rule; `steps` in order; `counted`: it has a counter of what it acts on; `text`: as observe.py writes it, where it adds to sets."""

    where: Where
    steps: list[Step]
    counted: bool = False
    text: str = ""


@dataclass
class Chain:
    """One chain. `hook` is empty for one that is only jumped to."""

    where: Where
    type: str = ""
    hook: str = ""
    priority: int = 0
    policy: str = "accept"
    devices: tuple[str, ...] = ()
    rules: list[Rule] = field(default_factory=list)


@dataclass
class Program:
    """A ruleset as one address family meets it."""

    version: int
    chains: dict[tuple[str, str, str], Chain] = field(default_factory=dict)
    tables: list[tuple[str, str]] = field(default_factory=list)
    unknown: list[Unknown] = field(default_factory=list)
    others: list[tuple[str, Where, str]] = field(default_factory=list)
    """Sets, maps, flowtables and named objects: (kind, where, how many elements and how many seconds it keeps them)."""
    dormant: set[tuple[str, str]] = field(default_factory=set)
    """Tables that are there and do nothing. Not every nft says so in JSON: see `dormant`."""

    def base(self, hook: str) -> list[Chain]:
        """The base chains that an IP packet meets at a hook, in their order."""
        families = ("inet", "ip" if self.version == 4 else "ip6", "netdev")
        found = [
            one for one in self.chains.values() if one.hook == hook and one.where.family in families and (one.where.family, one.where.table) not in self.dormant
        ]
        return sorted(found, key=lambda one: (one.priority, one.where.family != "netdev"))
