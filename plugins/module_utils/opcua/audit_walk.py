# SPDX-License-Identifier: Apache-2.0
"""Visits every node of a server and reads its security attributes: nothing is written, nothing is left out in silence.

Order: the types of hierarchical references, then everything below Root except Types (these are *instances*), then Types, then what
only a reference that is not hierarchical leads to, then what only the tag map names. All forward references of a node are
browsed, each continuation point is followed to its end or the node is listed as truncated. Variables, methods and objects below
Variables are nodes like any other. A node's announced class is compared with its own NodeClass attribute.
"""
from __future__ import annotations

import asyncio
import hashlib
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from . import audit_rules as rules
from .audit_load import BROWSE, READ, Governor
from .audit_types import (
    ATTRIBUTES,
    BAD,
    BAD_ATTRIBUTE_ID_INVALID,
    BAD_CONTINUATION_POINT_INVALID,
    BAD_NO_CONTINUATION_POINTS,
    CLASSES,
    METHOD,
    NO_SUCH_NODE,
    NODE_CLASS,
    ROLE_PERMISSIONS,
    USER_ROLE_PERMISSIONS,
    BadAnswer,
    Browsed,
    Channel,
    Names,
    Reading,
    Reference,
)

HIERARCHICAL, HAS_SUBTYPE = "ns=0;i=33", "ns=0;i=45"
ROOT, TYPES_FOLDER, NAMESPACES, SESSIONS = "ns=0;i=84", "ns=0;i=86", "ns=0;i=11715", "ns=0;i=3706"
MAX_NODES = 1_000_000
MAX_REFERENCES = 1_000_000
"""Of one node; a server that never ends is one that lies."""
LISTED = 200
"""Most nodes that are named one by one for one reason; all are counted."""


class Stopped(Exception):
    """The deadline of the walk."""


@dataclass
class Node:
    """A node that was found: announced class, BrowseName, region, and the node it was first found below."""

    node_class: int
    name: str
    namespace: int
    region: str
    parent: Any
    dynamic: bool = False
    type_definition: str = ""


@dataclass
class Found:
    """A finding at a node, in the form that survives a restart."""

    check: str
    kind: str
    node: str
    path: str
    node_class: str
    region: str
    what: str

    def as_dict(self) -> dict[str, str]:
        return {"check": self.check, "kind": self.kind, "node": self.node, "path": self.path, "class": self.node_class,
                "region": self.region, "what": self.what}


@dataclass
class Result:
    """What the walk saw. Lists of nodes are text and may be cut at LISTED; the counters are not."""

    nodes: Counter[str] = field(default_factory=Counter)
    regions: Counter[str] = field(default_factory=Counter)
    findings: list[Found] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    unread: list[str] = field(default_factory=list)
    truncated: list[str] = field(default_factory=list)
    vanished: list[str] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)
    roles: set[str] = field(default_factory=set)
    told_roles: int = 0
    dangerous: dict[str, list[str]] = field(default_factory=dict)
    subscribed_data_sets: list[str] = field(default_factory=list)
    lines: dict[str, dict[str, str]] = field(default_factory=dict)
    without_own_roles: Counter[tuple[str, int]] = field(default_factory=Counter)
    missing_tags: list[str] = field(default_factory=list)
    hidden_tags: list[str] = field(default_factory=list)
    unread_tags: list[str] = field(default_factory=list)
    metadata: dict[str, dict[str, Any]] = field(default_factory=dict)
    operations: int = 0
    stopped: str = ""

    @property
    def complete(self) -> bool:
        """Every node that the server shows was browsed to the end and read."""
        return not self.stopped and not self.counts["unread"] and not self.counts["truncated"]


class Memo:
    """Answers that an earlier run got before it was stopped, so that the next one goes on there. JSON in, JSON out."""

    FORMAT = 1

    def __init__(self, key: Sequence[str], data: Mapping[str, Any] | None = None) -> None:
        self.key = list(key)
        fits = data is not None and data.get("format") == self.FORMAT and data.get("key") == self.key
        self._refs: dict[str, Any] = dict(data["references"]) if data is not None and fits else {}
        self._reads: dict[str, Any] = dict(data["readings"]) if data is not None and fits else {}
        self.remembered = len(self._reads)

    def dump(self) -> dict[str, Any]:
        """What ``__init__`` takes."""
        return {"format": self.FORMAT, "key": self.key, "references": self._refs, "readings": self._reads}

    def references(self, channel: Channel, node: Any) -> list[Reference] | None:
        """Remembered references of a node."""
        rows = self._refs.get(channel.text(node))
        return None if rows is None else [Reference(channel.node(row[0]), *row[1:]) for row in rows]

    def keep_references(self, channel: Channel, node: Any, references: Sequence[Reference]) -> None:
        """Remember them."""
        self._refs[channel.text(node)] = [
            [channel.text(one.node), one.node_class, one.name, one.namespace, one.type_definition, one.reference_type, one.remote]
            for one in references]

    def readings(self, channel: Channel, node: Any) -> dict[int, Reading] | None:
        """Remembered attributes of a node."""
        rows = self._reads.get(channel.text(node))
        if rows is None:
            return None
        return {attribute: Reading(status, [tuple(pair) for pair in value] if isinstance(value, list) else value)
                for attribute, status, value in rows}

    def keep_readings(self, channel: Channel, node: Any, got: Mapping[int, Reading]) -> None:
        """Remember them."""
        self._reads[channel.text(node)] = [[attribute, reading.status, reading.value] for attribute, reading in got.items()]


def note(into: list[str], text: str) -> None:
    """Append as long as the list is short."""
    if len(into) < LISTED:
        into.append(text)


class Walk:
    """One walk over one open channel. *stop*: why it must end now, empty = go on."""

    def __init__(self, channel: Channel, governor: Governor, names: Names, tags: Sequence[str] = (), in_flight: int = 1, memo: Memo | None = None,
                 stop: Callable[[], str] = lambda: "", max_nodes: int = MAX_NODES) -> None:
        self._channel, self._governor, self.names, self._tags = channel, governor, names, list(tags)
        self._in_flight, self._stop, self._max_nodes = max(1, in_flight), stop, max_nodes
        self._memo = memo
        self.seen: dict[Any, Node] = {}
        self.browsed: set[Any] = set()
        self.read: set[Any] = set()
        self._hierarchical: set[str] = {HIERARCHICAL}
        self._later: dict[Any, Reference] = {}
        self._references: dict[Any, list[Reference]] = {}
        self._default_nodes: list[tuple[Any, str]] = []
        self._tag_nodes: dict[Any, str] = {}
        self._gone_nodes: set[Any] = set()
        self._cut: set[Any] = set()
        self.result = Result()

    # -- requests -----------------------------------------------------------------------------------------
    def _check(self) -> None:
        why = self._stop()
        if why:
            raise Stopped(why)
        if len(self.seen) > self._max_nodes:
            raise Stopped("more than %d nodes: the server's address space does not end" % self._max_nodes)

    async def _round(self, kind: str, queue: deque[Any], request: Callable[[list[Any]], Any]) -> list[tuple[Any, Any]]:
        """Up to *in_flight* requests out of *queue*; what was refused for its size is back at its front."""
        self._check()
        batches: list[list[Any]] = []
        while queue and len(batches) < self._in_flight:
            size = self._governor.size(kind)
            batches.append([queue.popleft() for _ in range(min(size, len(queue)))])
        tasks = [asyncio.ensure_future(self._governor.send(kind, len(batch), partial(request, batch))) for batch in batches]
        try:
            answers = await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
        done: list[tuple[Any, Any]] = []
        for batch, answer in zip(reversed(batches), reversed(answers)):
            if answer is None:
                queue.extendleft(reversed(batch))
                continue
            if len(answer) != len(batch):
                raise BadAnswer("%s: %d results for %d operations" % (kind, len(answer), len(batch)))
            done[:0] = list(zip(batch, answer))
        return done

    async def _browse(self, nodes: Sequence[Any]) -> None:
        """All references of *nodes*, into ``_references``."""
        queue: deque[Any] = deque()
        for node in nodes:
            known = self._memo.references(self._channel, node) if self._memo is not None else None
            if known is None:
                queue.append(node)
            else:
                self._references[node] = known
                self.browsed.add(node)
        alone: deque[Any] = deque()
        while queue or alone:
            one_by_one = not queue
            source = queue if queue else deque([alone.popleft()])
            for node, answer in await self._round(BROWSE, source, self._channel.browse):
                if answer.status == BAD_NO_CONTINUATION_POINTS and not one_by_one:
                    alone.append(node)
                elif answer.status in NO_SUCH_NODE:
                    self._gone(node)
                elif answer.status & BAD:
                    self._truncate(node, "Browse: 0x%08X" % answer.status)
                else:
                    await self._follow(node, answer, alone if not one_by_one else None)
            if one_by_one and source:
                alone.extendleft(source)

    async def _follow(self, node: Any, answer: Browsed, again: deque[Any] | None) -> None:
        """BrowseNext to the end. A lost continuation point is browsed anew once, alone."""
        references = list(answer.references)
        point = answer.point
        while point:
            if len(references) > MAX_REFERENCES:
                await self._release(point)
                self._truncate(node, "more than %d references" % MAX_REFERENCES)
                break
            more = None
            while more is None:
                try:
                    self._check()
                except Stopped:
                    await self._release(point)
                    self._truncate(node, "stopped while its references were read")
                    raise
                more = await self._governor.send(BROWSE, 1, partial(self._channel.browse_next, [point], False))
            if len(more) != 1:
                raise BadAnswer("BrowseNext: %d results for one continuation point" % len(more))
            (following,) = more
            if following.status in (BAD_CONTINUATION_POINT_INVALID, BAD_NO_CONTINUATION_POINTS) and again is not None:
                again.append(node)
                return
            if following.status & BAD:
                self._truncate(node, "BrowseNext: 0x%08X after %d references" % (following.status, len(references)))
                break
            if not following.references and following.point == point:
                self._truncate(node, "BrowseNext gives nothing and does not end")
                break
            references.extend(following.references)
            point = following.point
        self._references[node] = references
        self.browsed.add(node)
        if self._memo is not None and node not in self._cut:
            self._memo.keep_references(self._channel, node, references)

    async def _release(self, point: bytes) -> None:
        """Give the continuation point back, without asking how it went."""
        await asyncio.gather(self._channel.browse_next([point], True), return_exceptions=True)

    def _truncate(self, node: Any, why: str) -> None:
        self.result.counts["truncated"] += 1
        self.browsed.add(node)
        self._cut.add(node)
        note(self.result.truncated, "%s: %s" % (self.stable(node), why))

    def _gone(self, node: Any) -> None:
        """The server does not have it: sessions come and go below SessionsDiagnosticsSummary; anything else is a hole."""
        self.browsed.add(node)
        if node in self._gone_nodes:
            return
        self._gone_nodes.add(node)
        known = self.seen.get(node)
        self.result.counts["vanished"] += 1
        note(self.result.vanished, self.stable(node))
        if known is not None and not known.dynamic and known.region != rules.DECLARED:
            self.result.counts["unread"] += 1
            note(self.result.unread, "%s: announced, but unknown when asked for" % self.stable(node))

    # -- text ---------------------------------------------------------------------------------------------
    def stable(self, node: Any) -> str:
        """``nsu=URI;s=x``."""
        return self.names.stable(self._channel.text(node))

    def path(self, node: Any) -> str:
        """BrowseNames from the root, as the node was found."""
        parts: list[str] = []
        while node is not None and len(parts) < 64:
            known = self.seen.get(node)
            if known is None:
                break
            parts.append(known.name or self._channel.text(node))
            node = known.parent
        return "/" + "/".join(reversed(parts))

    # -- walk ---------------------------------------------------------------------------------------------
    async def run(self) -> Result:
        """Walk; returns what was seen also when it was stopped. Raises AuditError when the link or the server ends it."""
        try:
            await self._walk()
        except Stopped as error:
            self.result.stopped = str(error)
        finally:
            self._finish()
        return self.result

    async def _walk(self) -> None:
        node = self._channel.node
        self._resolve()
        await self._hierarchy(node(HIERARCHICAL))
        types = node(TYPES_FOLDER)
        await self._tree([self._meet(node(ROOT), 1, "Root", 0, rules.INSTANCE, None)], rules.INSTANCE, {types})
        await self._tree([self._meet(types, 1, "Types", 0, rules.TYPES, node(ROOT))], rules.TYPES, set())
        while True:
            rest = [(one, reference) for one, reference in self._later.items() if one not in self.seen]
            self._later.clear()
            if not rest:
                break
            await self._tree([self._meet(one, ref.node_class, ref.name, ref.namespace, rules.UNLINKED, None) for one, ref in rest],
                             rules.UNLINKED, set())
        await self._declared()
        await self._attributes([one for one in self.seen if one not in self.read])
        await self._defaults()

    def _meet(self, node: Any, node_class: int, name: str, namespace: int, region: str, parent: Any, type_definition: str = "") -> Any:
        above = self.seen.get(parent)
        dynamic = (above is not None and above.dynamic) or self._channel.text(node) == SESSIONS
        self.seen.setdefault(node, Node(node_class, name, namespace, region, parent, dynamic, type_definition))
        return node

    async def _hierarchy(self, top: Any) -> None:
        """Which types of references are hierarchical: the subtypes of HierarchicalReferences."""
        level = [top]
        while level:
            await self._browse(level)
            following = []
            for node in level:
                for reference in self._references.get(node, []):
                    text = self._channel.text(reference.node)
                    if reference.reference_type == HAS_SUBTYPE and text not in self._hierarchical:
                        self._hierarchical.add(text)
                        following.append(reference.node)
            level = following

    async def _tree(self, tops: Sequence[Any], region: str, leave: set[Any]) -> None:
        """Everything hierarchical below *tops*, level by level; nodes in *leave* belong to another tree."""
        level = [one for one in tops if one in self.seen]
        while level:
            await self._browse([one for one in level if one not in self._references])
            following: list[Any] = []
            for node in level:
                for reference in self._references.pop(node, []):
                    if self._take(node, reference, region, leave):
                        following.append(reference.node)
            await self._attributes(level)
            level = following

    def _take(self, node: Any, reference: Reference, region: str, leave: set[Any]) -> bool:
        """Whether *reference* leads to a node that is new and belongs to this tree."""
        if reference.remote:
            self.result.counts["remote_references"] += 1
            return False
        target = reference.node
        known = self.seen.get(target)
        if reference.reference_type not in self._hierarchical:
            if known is None:
                self._later.setdefault(target, reference)
            return False
        if target in leave or known is not None:
            return False
        self._meet(target, reference.node_class, reference.name, reference.namespace, region, node, reference.type_definition)
        parent = self.seen.get(node)
        text = self._channel.text(node)
        if reference.name.startswith("Default") or reference.name == "NamespaceUri":
            above = self.seen.get(parent.parent) if parent is not None and parent.parent is not None else None
            if above is not None and self._channel.text(parent.parent) == NAMESPACES and text != NAMESPACES:  # type: ignore[union-attr]
                self._default_nodes.append((target, reference.name))
        return True

    # -- attributes ---------------------------------------------------------------------------------------
    async def _attributes(self, nodes: Sequence[Any]) -> None:
        """Read and judge *nodes*."""
        todo = [one for one in nodes if one not in self.read]
        queue: deque[Any] = deque()
        for node in todo:
            self.read.add(node)
            known = self._memo.readings(self._channel, node) if self._memo is not None else None
            if known is not None:
                self._remembered(node, known)
                continue
            queue.extend((node, attribute) for attribute in rules.attributes(self.seen[node].node_class))
        await self._read_queue(queue, {node: {} for node, _ in queue})

    async def _read_queue(self, queue: deque[Any], pending: dict[Any, dict[int, Reading]]) -> None:
        while queue:
            for (node, attribute), reading in await self._round(READ, queue, self._channel.read):
                got = pending.get(node)
                if got is None:
                    continue
                got[attribute] = reading
                if attribute == NODE_CLASS:
                    self._true_class(node, reading, queue)
                if all(one in got for one in rules.attributes(self.seen[node].node_class)):
                    self._keep(node, pending.pop(node))
        for node, got in pending.items():
            self._keep(node, got)

    def _keep(self, node: Any, got: dict[int, Reading]) -> None:
        if self._memo is not None:
            self._memo.keep_readings(self._channel, node, got)
        self._judge(node, got)

    def _remembered(self, node: Any, got: dict[int, Reading]) -> None:
        """Judge a node by what an earlier, stopped run read of it."""
        self._true_class(node, got.get(NODE_CLASS, Reading(BAD)), deque())
        self._judge(node, got)

    def _true_class(self, node: Any, reading: Reading, queue: deque[Any]) -> None:
        """A node that is announced as another class would hide its attributes."""
        known = self.seen[node]
        if reading.status & BAD or not isinstance(reading.value, int) or reading.value == known.node_class:
            return
        announced, known.node_class = known.node_class, reading.value
        if announced:
            self._add("OA9", rules.LIE, node, "announced as %s, is a %s" % (
                rules_class(announced), rules_class(known.node_class)))
        have = set(rules.attributes(announced))
        queue.extend((node, attribute) for attribute in rules.attributes(known.node_class) if attribute not in have)

    def _add(self, check: str, kind: str, node: Any, what: str) -> None:
        known = self.seen[node]
        self.result.counts["%s %s" % (check, kind)] += 1
        self.result.findings.append(Found(
            check, kind, self.stable(node), self.path(node), rules_class(known.node_class), known.region, what))

    def _judge(self, node: Any, got: Mapping[int, Reading]) -> None:
        known, result, text = self.seen[node], self.result, self._channel.text(node)
        values: dict[int, Any] = {}
        problems: list[str] = []
        gone = bool(got) and all(reading.status in NO_SUCH_NODE for reading in got.values())
        for attribute, reading in got.items():
            if not reading.status & BAD:
                if reading.value is not None:
                    values[attribute] = reading.value
                    continue
                absent = attribute not in rules.MANDATORY.get(known.node_class, frozenset())
            else:
                absent = reading.status == BAD_ATTRIBUTE_ID_INVALID and attribute not in rules.MANDATORY.get(known.node_class, frozenset())
            if absent:
                continue
            result.statuses["%s 0x%08X" % (ATTRIBUTES[attribute], reading.status)] += 1
            if attribute != ROLE_PERMISSIONS:
                problems.append("%s 0x%08X" % (ATTRIBUTES[attribute], reading.status))
        if gone:
            if node in self._tag_nodes:
                result.missing_tags.append(self._tag_nodes[node])
            self._gone(node)
            return
        result.nodes[rules_class(known.node_class)] += 1
        result.regions[known.region] += 1
        if problems:
            result.counts["unread"] += 1
            note(result.unread, "%s: %s" % (self.stable(node), ", ".join(problems)))
            if node in self._tag_nodes:
                result.unread_tags.append(self._tag_nodes[node])
        harmless = rules.harmless_method(known.name, known.namespace, self.names.index(text))
        for finding in rules.judge(known.node_class, values, harmless, known.region):
            self._add(finding.check, finding.kind, node, finding.what)
        for name, true in rules.informs(values).items():
            result.counts[name] += true
        pairs = values.get(USER_ROLE_PERMISSIONS)
        if pairs:
            result.told_roles += 1
            result.roles.update(role for role, _ in pairs)
        else:
            result.without_own_roles[self.names.uri(text), known.node_class] += 1
        self._notable(node, known, values)
        if not known.dynamic:
            kept = ["%d=%s" % (key, value) for key, value in sorted(values.items()) if key != ROLE_PERMISSIONS]
            line = "%d|%s" % (known.node_class, "|".join(kept))
            result.lines.setdefault(self.names.uri(text), {})[self.stable(node)] = hashlib.sha256(line.encode()).hexdigest()[:16]

    def _notable(self, node: Any, known: Node, values: Mapping[int, Any]) -> None:
        """Standard objects that change a server when somebody may call them."""
        if known.region == rules.TYPES:
            return
        if known.type_definition in rules.SUBSCRIBED_DATA_SETS:
            note(self.result.subscribed_data_sets, self.stable(node))
        if known.node_class == METHOD and known.namespace == 0 and known.name in rules.DANGEROUS:
            group = rules.DANGEROUS[known.name]
            self.result.counts["dangerous"] += 1
            executable = values.get(22) is True
            self.result.counts["dangerous executable"] += executable
            note(self.result.dangerous.setdefault(group, []), "%s%s" % (self.path(node), " (executable for us)" if executable else ""))

    # -- tag map, namespaces ------------------------------------------------------------------------------
    async def _declared(self) -> None:
        """Nodes of the tag map that browsing did not show us: they may exist all the same."""
        hidden = [node for node in self._tag_nodes if node not in self.seen]
        for node in hidden:
            self._meet(node, 2, "", 0, rules.DECLARED, None)
        await self._browse(hidden)
        for node in hidden:
            self._references.pop(node, None)
        await self._attributes(hidden)
        missing = set(self.result.missing_tags)
        self.result.hidden_tags = [self._tag_nodes[node] for node in hidden if self._tag_nodes[node] not in missing]

    def _resolve(self) -> None:
        """The tag map in today's indices."""
        for tag in self._tags:
            today = self.names.today(tag)
            if today is None:
                self.result.missing_tags.append(tag)
            else:
                self._tag_nodes[self._channel.node(today)] = tag

    async def _defaults(self) -> None:
        """Values of NamespaceMetadata: what nodes without rights of their own fall back to."""
        queue: deque[Any] = deque((node, 13) for node, _ in self._default_nodes)
        names = dict(self._default_nodes)
        by_parent: dict[Any, dict[str, Any]] = {}
        while queue:
            for (node, _), reading in await self._round(READ, queue, self._channel.read):
                if not reading.status & BAD and reading.value is not None:
                    by_parent.setdefault(self.seen[node].parent, {})[names[node]] = reading.value
        for parent, values in by_parent.items():
            uri = str(values.pop("NamespaceUri", "") or self.seen[parent].name)
            self.result.metadata[uri] = values
            pairs = values.get("DefaultUserRolePermissions") or []
            if not pairs:
                continue
            self.result.told_roles += 1
            self.result.roles.update(role for role, _ in pairs)
            union = rules.permissions(pairs)
            for (namespace, node_class), count in sorted(self.result.without_own_roles.items()):
                rights = rules.granted(union, node_class, False)
                if namespace == uri and count and rights:
                    self._add("OA12", rules.GRANT, parent, "DefaultUserRolePermissions of %s grant %s to %d nodes of class %s" % (
                        uri, ", ".join(rights), count, rules_class(node_class)))

    def _finish(self) -> None:
        self.result.operations = self._governor.budget.total
        unseen = [node for node in self.seen if node not in self.read]
        self.result.counts["not_reached"] = len(unseen)


def rules_class(node_class: int) -> str:
    """Name of a node class."""
    return CLASSES.get(node_class, "class %d" % node_class)


def namespace_hash(lines: Mapping[str, str]) -> str:
    """The same for the same nodes with the same rights, in whatever order and with whatever namespace indices."""
    digest = hashlib.sha256()
    for node in sorted(lines):
        digest.update(("%s %s\n" % (node, lines[node])).encode())
    return digest.hexdigest()
