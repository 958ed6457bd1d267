# SPDX-License-Identifier: Apache-2.0
"""Deviations of a loaded ruleset from what is wanted, with the remedy and what of IEC 62443-3-3 each bears on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ansible_collections.hnai.platform.plugins.module_utils.zones.program import Unknown, Where

SR = {
    "extra": ["SR 5.1", "SR 5.2"],
    "missing": ["SR 5.1", "SR 7.1"],
    "policy": ["SR 5.2 RE 1"],
    "no_established": ["SR 5.1", "SR 7.1"],
    "uncounted": ["SR 6.1"],
    "foreign_table": ["SR 7.6", "SR 3.4"],
    "foreign_rule": ["SR 7.6", "SR 3.4"],
    "unknown": ["SR 3.3"],
}
REMEDY = {
    "extra": "remove the rule (nft delete rule … handle N; site.yml --tags firewall does it for our own table), or have a conduit approved",
    "missing": "remove what drops it, or run site.yml --tags firewall; if nobody needs the conduit, take it out of the model",
    "no_established": "run site.yml --tags firewall: the answers of a conduit must come back by the state of its connection",
    "policy": "run site.yml --tags firewall",
    "uncounted": "run site.yml --tags firewall: without its counter nobody can tell which rule let a packet through or refused it",
    "foreign_table": "remove the table (nft delete table …), or declare it if the site wants it",
    "foreign_rule": "run site.yml --tags firewall, which replaces our table as a whole",
    "unknown": "look at the construct by hand; the judgement of what hangs on it is open",
    "nat": "remove the rule: addresses are never rewritten here (I11)",
    "flowtable": "remove the rule: packets of an offloaded flow pass no chain",
    "notrack": "remove the rule: a packet without a connection is judged by nothing that looks at its state",
    "queue": "remove the rule: a program, or nobody where it is gone, would decide",
    "helper": "remove the rule: a helper opens further connections that no conduit names",
    "bypass": "remove the rule: it sends packets past the chains",
    "legacy": "flush the legacy tables (iptables-legacy -F) and unload their modules",
}
#: Kind of what `enforce` would name as extra, and a host or a boundary that observes lets pass: it stands in no verdict.
OBSERVED = "observed"


@dataclass
class Finding:
    """One deviation. `sure` False: it hangs on what `doubt` names. `packet`: an example; `more`: further sets of packets of the same kind."""

    kind: str
    path: str
    version: int
    where: Where
    text: str
    packet: dict[str, Any] = field(default_factory=dict)
    conduit: str = ""
    sure: bool = True
    doubt: str = ""
    more: int = 0

    @property
    def line(self) -> str:
        """For people."""
        packet = ", ".join("%s %s" % pair for pair in self.packet.items())
        return "%s: %s%s%s%s" % (
            self.where.text,
            self.text,
            " (such as IPv%d %s)" % (self.version, packet) if packet else "",
            "" if self.sure else "; it hangs on %s" % self.doubt,
            " and %d more" % self.more if self.more else "",
        )

    def as_dict(self) -> dict[str, Any]:
        """As JSON-like data."""
        return {
            "kind": self.kind,
            "path": self.path,
            "version": self.version,
            "where": self.where.as_dict(),
            "text": self.text,
            "packet": self.packet,
            "conduit": self.conduit,
            "sure": self.sure,
            "doubt": self.doubt,
            "more": self.more,
            "remedy": REMEDY.get(self.kind, ""),
            "sr": SR.get(self.kind, ["SR 5.2"]),
        }


@dataclass
class Judgement:
    """Everything that was found, by what it is about."""

    rules: list[Finding] = field(default_factory=list)
    """ZS1: new connections, and packets without any."""
    state: list[Finding] = field(default_factory=list)
    """ZS2: what belongs to a connection."""
    around: list[Finding] = field(default_factory=list)
    """ZS3: ways around."""
    foreign: list[Finding] = field(default_factory=list)
    """ZS4: what is not ours."""
    unknown: list[Unknown] = field(default_factory=list)
    """ZS5: what is not understood."""
    shadowed: list[Finding] = field(default_factory=list)
    """Rules of conduits that no packet reaches: the cause of something above, or a double."""
    boxes: int = 0

    def add(self, found: list[Finding], finding: Finding) -> None:
        """Into one of the lists; what is the same but for its packet is counted."""
        for old in found:
            if (old.kind, old.path, old.where, old.conduit, old.sure) == (finding.kind, finding.path, finding.where, finding.conduit, finding.sure):
                old.more += 1
                return
        found.append(finding)

    @property
    def all(self) -> list[Finding]:
        """Every finding."""
        return [*self.rules, *self.state, *self.around, *self.foreign]
