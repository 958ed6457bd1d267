# SPDX-License-Identifier: Apache-2.0
"""A tag map proposed out of what a server shows, and how it differs from the one in force. Pure: knows neither server nor files.

A tag is bound to its browse path, whose steps name namespaces by URI (``nsu=urn:plant;Pump1``): NodeIds may be numbered anew by a vendor's next
download, and namespace indices at any restart. The path is what makes a tag the same one; ``node`` says where it is read today.

Names come from the last step. Where two say the same, the parents are put in front until they differ; where even the whole paths are the same, a few
digits of the NodeId's hash follow. A name that the map in force gave stays. The same server gives the same names, in whatever order it answers.
"""
from __future__ import annotations

import hashlib
import json
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

DOUBLE, FLOAT, INT, BOOL, ENUM, STRING = "double", "float", "int", "bool", "enum", "string"
TYPES: dict[str, str] = {
    "i=1": BOOL, **{"i=%d" % number: INT for number in range(2, 10)}, "i=10": FLOAT, "i=11": DOUBLE, "i=12": STRING, "i=26": DOUBLE, "i=27": INT,
    "i=28": INT, "i=29": ENUM,
}
"""OPC UA data type (stable form) → type of a tag; a subtype has its supertype's."""
READABLE = 1
SAMPLING_MS, QUEUE = 1000, 120
LONGEST_MS = 1 << 31
_NODE = re.compile(r"^(?:nsu=[^;]+;)?[sigb]=.+\Z")
"""What stands for a node in the inventory; the collector and the validation have the same."""
_MARKS = ("{{", "{%", "{#")
_PLAIN = re.compile(r"^[A-Za-z_][A-Za-z0-9_]*$")
_WORDS = frozenset({"true", "false", "yes", "no", "on", "off", "y", "n", "null", "none"})
_SIGNS = {"°": "deg", "³": "3", "²": "2", "µ": "u", "μ": "u", "·": "*"}
#: What discovery knows better than the map: taken over, and named in the difference.
_TOLD = ("node", "type", "unit", "codes")


@dataclass(frozen=True)
class Variable:
    """What a server tells of one Variable. *path*: steps below Objects, ``nsu=URI;Name``; *node*: ``nsu=URI;s=x``; *data_type*: stable form.

    *type* is one of ours, empty where there is none; *rank* is the ValueRank (-1 = scalar); *access* the UserAccessLevel, None = not told;
    *unit* as the server says it, None = it says nothing; *sampling_ms* the MinimumSamplingInterval.
    """

    path: tuple[str, ...]
    node: str
    data_type: str = ""
    type: str = ""
    rank: int = -1
    access: int | None = READABLE
    unit: str | None = None
    low: float | None = None
    high: float | None = None
    codes: tuple[tuple[int, str], ...] = ()
    sampling_ms: float = 0.0

    @property
    def evaluated(self) -> str:
        """What of it Ansible would evaluate in an inventory, where a server has nothing to say; empty = nothing."""
        texts = (*self.path, self.node, self.unit or "", *(name for _, name in self.codes))
        return next((one for one in texts if any(mark in one for mark in _MARKS)), "")

    def why_not(self) -> str:
        """Why it is no tag; empty = it can be one."""
        if self.evaluated:
            return "Ansible would evaluate %r" % self.evaluated
        if not _NODE.match(self.node):
            return "a node cannot be written so in the inventory: a semicolon in its namespace, or more than one line"
        if self.rank not in (-1, -3, -2):
            return "an array (ValueRank %d)" % self.rank
        if not self.type:
            return "its data type %s is none that the collector reads" % (self.data_type or "is not told")
        if self.access is not None and not self.access & READABLE:
            return "the mirror's user may not read it"
        return ""


@dataclass
class Proposal:
    """*tags* in the shape of ``hnai_ot_sources[].tags``. *changed*: {name, field, from, to}; *unseen*: in the map, not seen by an incomplete look."""

    source: str
    tags: list[dict[str, Any]] = field(default_factory=list)
    new: list[str] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    changed: list[dict[str, Any]] = field(default_factory=list)
    left_out: list[dict[str, str]] = field(default_factory=list)
    unseen: list[str] = field(default_factory=list)
    writable: list[str] = field(default_factory=list)
    ranges: dict[str, list[float]] = field(default_factory=dict)
    incomplete: str = ""

    @property
    def differs(self) -> bool:
        """There is something to review."""
        return bool(self.new or self.gone or self.changed or self.unseen)

    def as_dict(self) -> dict[str, Any]:
        """For the module's result."""
        return {
            "source": self.source, "tags": self.tags, "new": self.new, "gone": self.gone, "changed": self.changed, "left_out": self.left_out,
            "unseen": self.unseen, "writable": self.writable, "ranges": self.ranges, "incomplete": self.incomplete, "differs": self.differs,
        }


def step_name(step: str) -> str:
    """The BrowseName's text of a step; a URI may hold a semicolon, a step begins with ``nsu=`` where it has one."""
    return step[step.index(";") + 1:] if step.startswith("nsu=") and ";" in step else step


def word(text: str) -> str:
    """A BrowseName as (part of) a tag's name: lower case, words joined by underscores, ASCII; may be empty."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode("ascii")
    plain = re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", re.sub(r"([A-Z]+)([A-Z][a-z])", r"\1_\2", plain))
    return re.sub(r"[^a-z0-9]+", "_", plain.lower()).strip("_")


def _hash(variable: Variable) -> str:
    return hashlib.sha256(("%s %s" % ("/".join(variable.path), variable.node)).encode("utf-8")).hexdigest()[:8]


def _candidate(variable: Variable, depth: int) -> str:
    """Name out of the last *depth* steps."""
    parts = [one for one in (word(step_name(step)) for step in variable.path[-depth:]) if one]
    name = "_".join(parts) or "tag_" + _hash(variable)
    return name if name[0].isalpha() or name[0] == "_" else "t_" + name


def names(variables: Iterable[Variable], taken: Iterable[str] = ()) -> dict[Variable, str]:
    """A name for each, different from each other and from those *taken*, whatever their case and order."""
    reserved = {one.lower() for one in taken}
    left = sorted(variables, key=lambda one: (one.path, one.node))
    depth = dict.fromkeys(left, 1)
    while True:
        now = {one: _candidate(one, depth[one]) for one in left}
        counted = Counter(now.values())
        deeper = [one for one in left if (counted[now[one]] > 1 or now[one] in reserved) and depth[one] < len(one.path)]
        if not deeper:
            break
        for one in deeper:
            depth[one] += 1
    found: dict[Variable, str] = {}
    used = reserved | {name for name, count in counted.items() if count == 1 and name not in reserved}
    for one in left:
        name = now[one]
        if counted[name] > 1 or name in reserved:
            base = name = "%s_%s" % (name, _hash(one))
            number = 2
            while name in used:
                name, number = "%s_%d" % (base, number), number + 1
            used.add(name)
        found[one] = name
    return found


def unit_text(text: str) -> str:
    """A unit's display name in the letters of the inventory: ``°C`` is ``degC``, ``m³/h`` is ``m3/h``."""
    for sign, letters in _SIGNS.items():
        text = text.replace(sign, letters)
    return unicodedata.normalize("NFKC", text).strip()


def _same_type(have: str, told: str) -> bool:
    """An enumeration travels as a number, and a server need not say which numbers are codes."""
    return have == told or {have, told} == {INT, ENUM}


def _told(variable: Variable, tag: Mapping[str, Any]) -> dict[str, Any]:
    """What the server says otherwise than *tag*; what it does not say is no difference."""
    said: dict[str, Any] = {}
    if tag.get("node") != variable.node:
        said["node"] = variable.node
    if variable.type and not _same_type(str(tag.get("type", "")), variable.type):
        said["type"] = variable.type
    if variable.unit is not None and unit_text(str(tag.get("unit", ""))) != unit_text(variable.unit):
        said["unit"] = unit_text(variable.unit)
    if variable.codes and {key: str(value) for key, value in (tag.get("codes") or {}).items()} != dict(variable.codes):
        said["codes"] = dict(variable.codes)
    return said


def _new(variable: Variable, name: str) -> dict[str, Any]:
    unit = unit_text(variable.unit or "")
    tag: dict[str, Any] = {
        "name": name, "node": variable.node, "type": variable.type, "unit": unit, "unit_to": unit,
        # Silence is no loss until somebody says that the value is sampled.
        "kind": "on_change", "mode": "subscribe",
        "sampling_ms": max(SAMPLING_MS, math.ceil(variable.sampling_ms)) if variable.sampling_ms <= LONGEST_MS else SAMPLING_MS, "queue": QUEUE,
    }
    if variable.type == ENUM and variable.codes:
        tag["codes"] = dict(variable.codes)
    return tag


def _numbered(tag: Mapping[str, Any]) -> dict[str, Any]:
    """Codes are numbers; on the way here JSON has made texts of them."""
    if not isinstance(tag.get("codes"), Mapping):
        return dict(tag)
    return {**tag, "codes": {int(key) if str(key).lstrip("-").isdigit() else key: value for key, value in tag["codes"].items()}}


def _match(variables: Sequence[Variable], tags: Sequence[Mapping[str, Any]]) -> dict[int, Variable]:
    """Index of a tag → its Variable: by path where the tag has one, else by node. One Variable is one tag."""
    by_path: dict[tuple[str, ...], list[Variable]] = {}
    for one in variables:
        by_path.setdefault(one.path, []).append(one)
    by_node = {one.node: one for one in variables}
    found: dict[int, Variable] = {}
    for number, tag in enumerate(tags):
        at = by_path.get(tuple(str(step) for step in tag.get("path") or ()), [])
        exact = [one for one in at if one.node == tag.get("node")]
        if tag.get("path"):
            hit = exact[0] if exact else at[0] if len(at) == 1 else None
        else:
            hit = by_node.get(str(tag.get("node")))
        if hit is not None:
            found[number] = hit
    return found


def propose(source: str, variables: Iterable[Variable], tags: Sequence[Mapping[str, Any]], incomplete: str = "") -> Proposal:
    """The map of *tags* (in force) as the server has it today. *incomplete*: why not everything was seen; then nothing is said to be gone."""
    every = sorted(set(variables), key=lambda one: (one.path, one.node))
    proposal = Proposal(source, incomplete=incomplete)
    tags = [_numbered(tag) for tag in tags]
    matched = _match(every, tags)
    known = {(one.path, one.node) for one in matched.values()}
    for number, tag in enumerate(tags):
        name = str(tag["name"])
        hit = matched.get(number)
        if hit is None:
            if incomplete:
                proposal.unseen.append(name)
                proposal.tags.append(dict(tag))
            else:
                proposal.gone.append(name)
            continue
        if hit.evaluated:
            proposal.tags.append(dict(tag))
            _leave_out(proposal, hit)
            continue
        said = _told(hit, tag)
        proposal.changed += [{"name": name, "field": key, "from": tag.get(key), "to": said[key]} for key in _TOLD if key in said]
        _keep(proposal, {**tag, **said}, hit)
    fresh = []
    for one in every:
        if (one.path, one.node) in known:
            continue
        if one.why_not():
            _leave_out(proposal, one)
        else:
            fresh.append(one)
    # A name that is free again is not given to another thing in the same breath: what stores the old values would join them.
    given = names(fresh, [str(tag["name"]) for tag in tags])
    for one in fresh:
        proposal.new.append(given[one])
        _keep(proposal, _new(one, given[one]), one)
    return proposal


def _leave_out(proposal: Proposal, variable: Variable) -> None:
    proposal.left_out.append({"path": "/".join(step_name(step) for step in variable.path), "node": variable.node, "why": variable.why_not()})


def _keep(proposal: Proposal, tag: dict[str, Any], variable: Variable) -> None:
    tag["path"] = list(variable.path)
    proposal.tags.append(tag)
    if variable.access is not None and variable.access & ~READABLE & 0x6A:
        proposal.writable.append(str(tag["name"]))
    if variable.low is not None and variable.high is not None and math.isfinite(variable.low) and math.isfinite(variable.high):
        proposal.ranges[str(tag["name"])] = [variable.low, variable.high]


# -- file -------------------------------------------------------------------------------------------------
def _quoted(text: str) -> str:
    """A double-quoted scalar. Not JSON's: YAML joins no surrogates, and breaks lines where JSON does not."""
    return '"%s"' % "".join(
        "\\" + one if one in '"\\' else one if " " <= one <= "~" else "\\u%04X" % ord(one) if ord(one) < 0x10000 else "\\U%08X" % ord(one)
        for one in text)


def _yaml(value: Any) -> str:
    """One value in YAML's flow style; JSON is YAML, plain words stay plain."""
    if isinstance(value, Mapping):
        return "{%s}" % ", ".join("%s: %s" % (key if isinstance(key, int) else _yaml(str(key)), _yaml(one)) for key, one in value.items())
    if isinstance(value, (list, tuple)):
        return "[%s]" % ", ".join(_yaml(one) for one in value)
    if isinstance(value, str) and _PLAIN.match(value) and value.lower() not in _WORDS:
        return value
    return _quoted(value) if isinstance(value, str) else json.dumps(value)


def _item(tag: Mapping[str, Any]) -> str:
    def pair(key: str) -> str:
        value = tag[key]
        # Units are quoted in the inventory, also where they need not be.
        return "%s: %s" % (key, _quoted(value) if key in ("unit", "unit_to", "node") and isinstance(value, str) else _yaml(value))

    head = [key for key in ("name", "node") if key in tag]
    order = ["type", "unit", "unit_to", "kind", "mode", "sampling_ms", "queue", "codes"]
    rest = [key for key in order if key in tag] + [key for key in tag if key not in (*order, *head, "path")]
    lines = [", ".join(pair(key) for key in keys) for keys in (head, rest, ["path"] if "path" in tag else []) if keys]
    return "      - {%s}\n" % ",\n         ".join(lines)


def _comment(text: str) -> str:
    return "# %s\n" % " ".join("".join(one if one.isprintable() else " " for one in text).split())


def render(proposal: Proposal) -> str:
    """The file for review: what differs as comments, then ``tags`` as it may stand in the source's entry."""
    out = [_comment("Proposal for source %s. Nothing reads this file: review it, then take over what is right into hnai_ot_sources." % proposal.source)]
    if proposal.incomplete:
        out.append(_comment("INCOMPLETE: %s. What was not seen is kept." % proposal.incomplete))
    for title, names_ in (("new", proposal.new), ("gone", proposal.gone), ("not seen", proposal.unseen), ("WRITABLE for the mirror", proposal.writable)):
        out += [_comment("%s: %s" % (title, name)) for name in names_]
    out += [_comment("changed: %s: %s: %s -> %s" % (one["name"], one["field"], json.dumps(one["from"]), json.dumps(one["to"]))) for one in proposal.changed]
    out += [_comment("range: %s: %s to %s" % (name, *proposal.ranges[name])) for name in sorted(proposal.ranges)]
    out += [_comment("left out: %s (%s): %s" % (one["path"], one["node"], one["why"])) for one in proposal.left_out]
    if not proposal.differs:
        out.append(_comment("no difference from the map in force"))
    out.append("---\n")
    out.append("tags:\n" + "".join(_item(tag) for tag in proposal.tags) if proposal.tags else "tags: []\n")
    return "".join(out)
