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
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby, repeat
from operator import itemgetter
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
    UNCERTAIN,
    USER_EXECUTABLE,
    USER_ROLE_PERMISSIONS,
    USER_WRITE_MASK,
    VALUE,
    WRITE_MASK,
    Alike,
    BadAnswer,
    Browsed,
    Channel,
    Group,
    Names,
    Reading,
    Reference,
    alike,
    apart,
)

HIERARCHICAL, HAS_TYPE_DEFINITION, HAS_SUBTYPE = "ns=0;i=33", "ns=0;i=40", "ns=0;i=45"
ROOT, TYPES_FOLDER, NAMESPACES, SESSIONS = "ns=0;i=84", "ns=0;i=86", "ns=0;i=11715", "ns=0;i=3706"
OPEN_NOW = (SESSIONS, "ns=0;i=2290", "ns=0;i=2289")
"""Below them stands what clients have open now: diagnostics of sessions, of subscriptions, of sampling intervals."""
DEFINING = frozenset({8, 16, 32, 64})
"""Node classes of types."""
MAX_NODES = 1_000_000
MAX_REFERENCES = 1_000_000
"""Of one node; a server that never ends is one that lies."""
LEAVES, WEIGHED = 256, 4096
RUN = 1000
"""Most nodes of one group; a request takes its part of a group."""
LISTED = 200
"""Most nodes that are named one by one for one reason; all are counted."""
Step = Callable[[], Awaitable[bool]]
"""Sends one request and takes its answer; False when there was nothing to ask for."""


class Stopped(Exception):
    """The deadline of the walk."""


class Siblings:
    """Nodes that were found by references that are alike: announced class, region, and the node that they were first found below."""

    __slots__ = ("_names", "_references", "dynamic", "namespace", "node_class", "parent", "read", "region")

    def __init__(self, references: Alike, region: str, parent: Any, dynamic: bool = False) -> None:
        self.node_class, self.namespace, self.region, self.parent, self.dynamic = references.node_class, references.namespace, region, parent, dynamic
        self.read = False
        self._references = references
        self._names: dict[Any, str] = {}

    def name(self, node: Any) -> str:
        """BrowseName of one of them, as it was first told."""
        if not self._names:
            self._names = dict(zip(reversed(self._references.nodes), reversed(self._references.names)))
        return self._names[node]

    def alone(self, node: Any) -> Siblings:
        """A copy for one of them."""
        one = copy(self)
        one._names = {node: self.name(node)}
        return one

    @property
    def sort(self) -> tuple[int, str, bool]:
        """Nodes of one sort with the same attributes mean the same, but for methods, whose names count."""
        return self.node_class, self.region, self.dynamic


class Weighed:
    """What a set of attributes means, for all nodes of a kind that have just these."""

    __slots__ = ("findings", "gone", "informs", "line", "pairs", "problems", "statuses", "values")

    def __init__(self, got: Mapping[int, Reading], node_class: int, harmless: bool, region: str, names: Names) -> None:
        mandatory = rules.MANDATORY.get(node_class, rules.MANDATORY_EVERYWHERE)
        values: dict[int, Any] = {}
        self.problems: list[str] = [] if node_class in CLASSES and node_class else ["NodeClass %d is none" % node_class]
        self.statuses: list[str] = []
        self.gone = bool(got) and all(reading.status in NO_SUCH_NODE for reading in got.values())
        for attribute, reading in got.items():
            certain = not reading.status & (BAD | UNCERTAIN)
            if not reading.status & BAD and reading.value is not None:
                if rules.fits(attribute, reading.value):
                    values[attribute] = reading.value
                else:
                    self.problems.append("%s is a %s" % (ATTRIBUTES[attribute], type(reading.value).__name__))
                if certain:
                    continue
            elif (certain or reading.status == BAD_ATTRIBUTE_ID_INVALID) and attribute not in mandatory:
                continue
            text = "%s 0x%08X" % (ATTRIBUTES[attribute], reading.status)
            self.statuses.append(text)
            if attribute != ROLE_PERMISSIONS:
                self.problems.append(text)
        if values.get(WRITE_MASK) and USER_WRITE_MASK in got and USER_WRITE_MASK not in values:
            self.problems.append("WriteMask 0x%X, and no UserWriteMask says for whom" % values[WRITE_MASK])
        self.values = values
        self.findings = rules.judge(node_class, values, harmless, region)
        self.informs = [name for name, true in rules.informs(values).items() if true]
        self.pairs: Any = values.get(USER_ROLE_PERMISSIONS)
        kept = ["%d=%s" % (key, _lasting(value, names) if key == USER_ROLE_PERMISSIONS else value)
                for key, value in sorted(values.items()) if key != ROLE_PERMISSIONS]
        self.line = hashlib.sha256(("%d|%s" % (node_class, "|".join(kept))).encode()).hexdigest()[:16]


def _lasting(pairs: Sequence[tuple[str, int]], names: Names) -> list[tuple[str, int]]:
    """Roles and permissions as they are after a restart too: no order, and the plant's own roles by URI."""
    return sorted((role if role.startswith("ns=0;") else names.stable(role), permission) for role, permission in pairs)


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
    without_own_roles: Counter[tuple[str, int, bool]] = field(default_factory=Counter)
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
        # As the channel gave them: most runs are never stopped, and need no text of this.
        self._new_refs: list[Mapping[Any, Sequence[Alike]]] = []
        self._new_reads: list[tuple[Sequence[Any], tuple[int, ...], Sequence[Reading]]] = []
        self._channel: Channel | None = None

    def dump(self) -> dict[str, Any]:
        """What ``__init__`` takes."""
        references, readings = dict(self._refs), dict(self._reads)
        if self._channel is not None:
            text = self._channel.text
            for found in self._new_refs:
                for node, known in found.items():
                    references[text(node)] = [
                        [text(one.node), one.node_class, one.name, one.namespace, one.type_definition, one.reference_type, one.remote] for one in apart(known)]
            for nodes, attributes, got in self._new_reads:
                for node in nodes:
                    readings[text(node)] = [[attribute, reading.status, reading.value] for attribute, reading in zip(attributes, got)]
        return {"format": self.FORMAT, "key": self.key, "references": references, "readings": readings}

    def references(self, channel: Channel, nodes: Sequence[Any]) -> dict[Any, Sequence[Alike]]:
        """Remembered references, of those of *nodes* of which they are."""
        rows = {node: self._refs.get(channel.text(node)) for node in nodes} if self._refs else {}
        return {node: alike(Reference(channel.node(one[0]), *one[1:]) for one in row) for node, row in rows.items() if row is not None}

    def keep_references(self, channel: Channel, found: Mapping[Any, Sequence[Alike]]) -> None:
        """Remember them, by node."""
        self._channel = channel
        self._new_refs.append(found)

    def readings(self, channel: Channel, nodes: Sequence[Any]) -> dict[Any, dict[int, Reading]]:
        """Remembered attributes, of those of *nodes* of which they are."""
        rows = {node: self._reads.get(channel.text(node)) for node in nodes} if self._reads else {}
        return {node: {attribute: Reading(status, [tuple(pair) for pair in value] if isinstance(value, list) else value)
                       for attribute, status, value in row} for node, row in rows.items() if row is not None}

    def keep_readings(self, channel: Channel, nodes: Sequence[Any], attributes: tuple[int, ...], got: Sequence[Reading]) -> None:
        """Remember them, in the order of *attributes*: *nodes* have the same."""
        self._channel = channel
        self._new_reads.append((nodes, attributes, got))


def note(into: list[str], text: str) -> None:
    """Append as long as the list is short."""
    if len(into) < LISTED:
        into.append(text)


class Walk:
    """One walk over one open channel. *stop*: why it must end now, empty = go on. *points*: continuation points that the server has, 0 = not told."""

    def __init__(self, channel: Channel, governor: Governor, names: Names, tags: Sequence[str] = (), in_flight: int = 1, memo: Memo | None = None,
                 stop: Callable[[], str] = lambda: "", max_nodes: int = MAX_NODES, points: int = 0) -> None:
        self._channel, self._governor, self.names, self._tags = channel, governor, names, list(tags)
        self._in_flight, self._stop, self._max_nodes = max(1, in_flight), stop, max_nodes
        self._memo = memo
        self._points = points
        self.seen: dict[Any, Siblings] = {}
        self._hierarchical: set[str] = {HIERARCHICAL}
        self._later: dict[Any, Alike] = {}
        self._astray: dict[Any, Siblings] = {}
        self._references: dict[Any, Sequence[Alike]] = {}
        self._again: set[Any] = set()
        self._leaves: set[int] = set()
        self._kept: list[Sequence[Alike]] = []
        self._weighed: dict[Any, Weighed] = {}
        self._sessions, self._namespaces = channel.node(SESSIONS), channel.node(NAMESPACES)
        self._open_now = {channel.node(one) for one in OPEN_NOW}
        self._metadata: list[Any] = []
        self._tag_nodes: dict[Any, str] = {}
        self._gone_nodes: set[Any] = set()
        self._untold: list[tuple[Any, bool, Any]] = []
        self._typed: dict[Any, Any] = {}
        self._cut: set[Any] = set()
        self.result = Result()

    # -- requests -----------------------------------------------------------------------------------------
    def _check(self) -> None:
        why = self._stop()
        if why:
            raise Stopped(why)
        if len(self.seen) > self._max_nodes:
            raise Stopped("more than %d nodes: the server's address space does not end" % self._max_nodes)

    async def _together(self, *steps: Step) -> None:
        """Does all *steps* until they have nothing left, as many at a time as may be in flight. What a step puts back, it comes back for itself.

        Of two steps each is the first choice of half of those in flight: the server browses while we judge what was read. One at a time, they keep their order.
        """
        async def work(first: int) -> None:
            turn = steps[first:] + steps[:first]
            while True:
                for step in turn:
                    if await step():
                        break
                else:
                    return

        tasks = [asyncio.ensure_future(work(number % len(steps))) for number in range(self._in_flight)]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()

    async def _browse(self, nodes: Sequence[Any], *beside: Step, told: Callable[[], None] = lambda: None) -> None:
        """All references of *nodes*, into ``_references``. *beside*: what else is done meanwhile. *told* is called whenever there are more."""
        known = self._memo.references(self._channel, nodes) if self._memo is not None else {}
        self._references.update(known)
        queue: deque[Any] = deque([node for node in nodes if node not in known] if known else nodes)
        alone: deque[Any] = deque()

        async def step() -> bool:
            if not queue:
                return False
            self._check()
            size = self._governor.size(BROWSE)
            batch = [queue.popleft() for _ in range(min(size, len(queue)))]
            await self._browse_batch(batch, queue, alone)
            told()
            return True

        await self._together(step, *beside)
        while alone:
            # Nothing else is in flight now: all continuation points that the server has are for this node.
            self._check()
            node = alone.popleft()
            self._again.add(node)
            await self._browse_batch([node], alone, None)

    async def _browse_batch(self, batch: list[Any], queue: deque[Any], alone: deque[Any] | None) -> None:
        """One Browse, and BrowseNext to the end of each. What has to be asked again goes to the front of *queue*, or to *alone*."""
        answer = await self._governor.send(BROWSE, len(batch), partial(self._channel.browse, batch))
        if answer is None:
            queue.extendleft(reversed(batch))
            return
        if len(answer) != len(batch):
            raise BadAnswer("%s: %d results for %d operations" % (BROWSE, len(answer), len(batch)))
        following: list[tuple[Any, list[Alike], bytes]] = []
        short: list[Any] = []
        whole: dict[Any, Sequence[Alike]] = {}
        cut = self._cut
        for node, one in zip(batch, answer):
            if not one.status and not one.point and node not in cut:
                whole[node] = one.references
            elif one.status == BAD_NO_CONTINUATION_POINTS and (len(batch) > 1 or alone is not None):
                short.append(node)
            elif one.status in NO_SUCH_NODE:
                self._gone(node)
            else:
                if one.status >> 16:
                    self._truncate(node, "Browse: 0x%08X" % one.status)
                if one.point:
                    following.append((node, list(one.references), one.point))
                elif not one.status & BAD:
                    self._whole({node: one.references})
        self._whole(whole)
        await self._follow(following, alone)
        if len(batch) == 1 and alone is not None:
            alone.extend(short)
        elif short:
            # It has fewer continuation points than this batch needed.
            self._governor.batches[BROWSE].shrink(self._points // self._in_flight if self._points else len(batch) // 2)
            queue.extendleft(reversed(short))

    def _whole(self, found: Mapping[Any, Sequence[Alike]]) -> None:
        self._references.update(found)
        if self._memo is not None and self._cut.isdisjoint(found):
            self._memo.keep_references(self._channel, found)

    async def _follow(self, following: list[tuple[Any, list[Alike], bytes]], alone: deque[Any] | None) -> None:
        """BrowseNext to the end, for as many nodes in one request as it may hold. A lost continuation point is browsed anew once, alone."""
        waiting = deque(following)
        try:
            while waiting:
                self._check()
                part = [waiting.popleft() for _ in range(min(self._governor.size(BROWSE), len(waiting)))]
                more = await self._governor.send(BROWSE, len(part), partial(self._channel.browse_next, [point for _, _, point in part], False))
                if more is None:
                    waiting.extendleft(reversed(part))
                    continue
                if len(more) != len(part):
                    raise BadAnswer("BrowseNext: %d results for %d continuation points" % (len(more), len(part)))
                for (node, references, point), one in zip(part, more):
                    await self._followed(node, references, point, one, waiting, alone)
        except Stopped:
            # Their continuation points end with the session.
            for node, _, _ in waiting:
                self._truncate(node, "stopped while its references were read")
            raise

    async def _followed(self, node: Any, references: list[Alike], point: bytes, one: Browsed, waiting: deque[Any], alone: deque[Any] | None) -> None:
        if one.status in (BAD_CONTINUATION_POINT_INVALID, BAD_NO_CONTINUATION_POINTS) and alone is not None and node not in self._again:
            alone.append(node)
            return
        references.extend(one.references)
        count = sum(len(run.nodes) for run in references)
        if one.status >> 16:
            self._truncate(node, "BrowseNext: 0x%08X after %d references" % (one.status, count))
        if not one.references and one.point == point:
            await self._release(point)
            self._truncate(node, "BrowseNext gives nothing and does not end")
        elif count > MAX_REFERENCES:
            await self._release(one.point)
            self._truncate(node, "more than %d references" % MAX_REFERENCES)
        elif one.point:
            waiting.append((node, references, one.point))
            return
        self._whole({node: references})

    async def _release(self, point: bytes) -> None:
        """Give the continuation point back, without asking how it went."""
        await self._governor.budget.take(1)
        try:
            await asyncio.gather(self._channel.browse_next([point], True), return_exceptions=True)
        finally:
            self._governor.budget.give_back(1)

    def _truncate(self, node: Any, why: str) -> None:
        self.result.counts["truncated"] += 1
        self._cut.add(node)
        note(self.result.truncated, "%s: %s" % (self.stable(node), why))

    def _gone(self, node: Any) -> None:
        """The server does not have it: what clients have open now comes and goes; anything else is a hole."""
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
            parts.append(known.name(node) or self._channel.text(node))
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
        await self._tree([self._meet(node(ROOT), 1, "Root", rules.INSTANCE, None)], rules.INSTANCE, {types})
        await self._definitions(self._meet(types, 1, "Types", rules.TYPES, node(ROOT)))
        await self._unlinked()
        await self._declared()
        await self._unlinked()
        await self._attributes([one for one, known in self.seen.items() if not known.read])
        await self._defaults()
        self._of_our_roles()
        self._subtyped()

    async def _unlinked(self) -> None:
        """What only a reference that is not hierarchical leads to, and everything below it."""
        while True:
            rest = [(one, reference) for one, reference in self._later.items() if one not in self.seen]
            self._later.clear()
            if not rest and not self._astray:
                break
            shared: dict[int, Siblings] = {}
            for one, references in rest:
                of_type = references.node_class in DEFINING
                siblings = shared.setdefault(id(references), Siblings(references, rules.TYPES if of_type else rules.UNLINKED, None))
                if of_type:
                    self._astray.setdefault(one, siblings)
                    continue
                self.seen[one] = siblings
                if one == self._sessions:
                    self._own(one).dynamic = True
            await self._tree([one for one, _ in rest], rules.UNLINKED, set())
            await self._definitions()

    async def _definitions(self, *tops: Any) -> None:
        """*tops*, and the types that only an object or a tag leads to: what belongs to them is no instance by that."""
        astray = {one: siblings for one, siblings in self._astray.items() if one not in self.seen}
        self._astray.clear()
        self.seen.update(astray)
        await self._tree([*tops, *astray], rules.TYPES, set())

    def _meet(self, node: Any, node_class: int, name: str, region: str, parent: Any) -> Any:
        above = self.seen.get(parent)
        if node not in self.seen:
            dynamic = (above is not None and above.dynamic) or node == self._sessions
            self.seen[node] = Siblings(Alike([node], [name], node_class, 0), region, parent, dynamic)
        return node

    def _own(self, node: Any) -> Siblings:
        """A record for this node alone, which is about to differ from its siblings."""
        known = self.seen[node] = self.seen[node].alone(node)
        return known

    async def _hierarchy(self, top: Any) -> None:
        """Which types of references are hierarchical: the subtypes of HierarchicalReferences."""
        level = [top]
        while level:
            await self._browse(level)
            following = []
            for node in level:
                for reference in apart(self._references.get(node, ())):
                    text = self._channel.text(reference.node)
                    if reference.reference_type == HAS_SUBTYPE and text not in self._hierarchical:
                        self._hierarchical.add(text)
                        following.append(reference.node)
            level = following

    async def _tree(self, tops: Sequence[Any], region: str, leave: set[Any]) -> None:
        """Everything hierarchical below *tops*, level by level; nodes in *leave* belong to another tree."""
        level = [one for one in tops if one in self.seen]
        while level:
            waiting, following = deque(level), list[Any]()
            look = partial(self._look_through, waiting, following, region, leave)
            browse = [one for one in level if one not in self._references]
            # A method that is met again may have to be judged anew: among types, none before all were read.
            await self._attributes(level, browse, (lambda: None) if region == rules.TYPES else look)
            for node in waiting:
                self._references.setdefault(node, ())
            look()
            level = following

    def _look_through(self, waiting: deque[Any], following: list[Any], region: str, leave: set[Any]) -> None:
        """The references of the first of *waiting*, one after the other, as far as they were told; what is new goes to *following*."""
        while waiting and waiting[0] in self._references:
            node = waiting.popleft()
            references = self._references.pop(node)
            if node == self._namespaces:
                self._metadata = [one for run in references if run.reference_type in self._hierarchical and not run.remote for one in run.nodes]
            if id(references) in self._leaves:
                continue
            before, dull = len(following), True
            for run in references:
                following += self._take(node, run, region, leave)
                if run.reference_type == HAS_TYPE_DEFINITION:
                    for one in run.nodes:
                        if self._channel.text(one) in rules.SUBSCRIBED_DATA_SETS:
                            dull = False
                            if region != rules.TYPES:
                                note(self.result.subscribed_data_sets, self.stable(node))
                        elif region != rules.TYPES:
                            self._typed.setdefault(one, node)
            self._leaf(references, dull and len(following) == before)

    def _leaf(self, references: Sequence[Alike], barren: bool) -> None:
        """Where the channel gives the same list to many nodes, it is looked through once. Kept alive, so that its identity stays its own."""
        if barren and 0 < sum(len(run.nodes) for run in references) <= 2 and len(self._leaves) < LEAVES and not any(run.remote for run in references):
            self._leaves.add(id(references))
            self._kept.append(references)

    def _take(self, node: Any, references: Alike, region: str, leave: set[Any]) -> Collection[Any]:
        """Those targets that are new and belong to this tree."""
        seen, targets = self.seen, references.nodes
        if references.remote:
            self.result.counts["remote_references"] += len(targets)
            return ()
        if references.reference_type not in self._hierarchical:
            for target in targets:
                if target not in seen:
                    self._later.setdefault(target, references)
            return ()
        astray = region != rules.TYPES and references.node_class in DEFINING
        siblings = Siblings(references, rules.TYPES if astray else region, node, seen[node].dynamic or node in self._open_now)
        if astray:
            for target in targets:
                self._astray.setdefault(target, siblings)
            return ()
        new = dict.fromkeys([target for target in targets if target not in seen and target not in leave], siblings)
        if len(new) < len(targets):
            self._met_again(node, targets)
        seen.update(new)
        if self._sessions in new:
            self._own(self._sessions).dynamic = True
        return new

    def _met_again(self, node: Any, targets: Sequence[Any]) -> None:
        for target in targets:
            known = self.seen.get(target)
            if known is not None and known.node_class == METHOD and known.region == rules.TYPES and not self._of_type(node):
                self._callable(target, node)

    def _of_type(self, node: Any) -> bool:
        """Whether it belongs to a type's definition; an object in a folder beside the types does not."""
        while node is not None:
            known = self.seen[node]
            if known.node_class in DEFINING:
                return True
            node = known.parent
        return False

    def _callable(self, node: Any, parent: Any) -> None:
        """A method of a type that an object has too is judged again, as the object's."""
        known = self._own(node)
        if known.read:
            self.result.nodes[rules_class(METHOD)] -= 1
            self.result.regions[known.region] -= 1
        known.region, known.parent, known.read = rules.UNLINKED, parent, False

    # -- attributes ---------------------------------------------------------------------------------------
    async def _attributes(self, nodes: Sequence[Any], browse: Sequence[Any] = (), told: Callable[[], None] = lambda: None) -> None:
        """Read and judge *nodes*; meanwhile those of *browse* are browsed (*told*: see there)."""
        unread = [(known, list(same)) for known, same in groupby(nodes, self.seen.__getitem__) if not known.read]
        for known, _ in unread:
            known.read = True
        remembered = self._memo.readings(self._channel, [node for _, same in unread for node in same]) if self._memo is not None else {}
        for node, got in remembered.items():
            self._remembered(node, got)
        if remembered:
            unread = [(known, rest) for known, same in unread if (rest := [node for node in same if node not in remembered])]
        queue: deque[Group] = deque()
        sort: Any = None
        run: list[Any] = []
        for known, same in unread:
            if known.sort != sort or len(run) >= RUN:
                sort, run = known.sort, []
                queue.append((run, rules.attributes(known.node_class)))
            run += same
        pending: dict[Any, dict[int, Reading]] = {}
        await self._browse(browse, self._reading(queue, partial(self._took, queue, pending)), told=told)
        for node, got in pending.items():
            self._keep([node], tuple(got), tuple(got.values()))

    def _reading(self, queue: deque[Group], took: Callable[[list[Any], tuple[int, ...], Sequence[Reading]], None]) -> Step:
        """Reads the next of *queue*. *took* gets nodes that follow each other and have the same readings, those attributes, and the readings."""
        async def step() -> bool:
            if not queue:
                return False
            self._check()
            batch, count = self._fill(queue, self._governor.size(READ))
            answer = await self._governor.send(READ, count, partial(self._channel.read_groups, batch))
            if answer is None:
                queue.extendleft(reversed(batch))
                return True
            if [len(readings) for readings in answer] != [len(attributes) for nodes, attributes in batch for _ in nodes]:
                raise BadAnswer("%s: %d results for %d operations" % (READ, sum(len(readings) for readings in answer), count))
            rest = iter(answer)
            for nodes, attributes in batch:
                for readings, same in groupby(zip(nodes, rest), itemgetter(1)):
                    took([node for node, _ in same], attributes, readings)
            return True

        return step

    @staticmethod
    def _fill(queue: deque[Group], size: int) -> tuple[list[Group], int]:
        """The next nodes, *size* attributes at most; a node that does not fit is cut."""
        batch: list[Group] = []
        room = size
        while queue and room:
            nodes, attributes = queue.popleft()
            most = max(1, room // len(attributes))
            if len(nodes) > most:
                queue.appendleft((nodes[most:], attributes))
                nodes = nodes[:most]
            if len(attributes) > room:
                queue.appendleft((nodes, attributes[room:]))
                attributes = attributes[:room]
            batch.append((nodes, attributes))
            room -= len(nodes) * len(attributes)
        return batch, size - room

    def _took(self, queue: deque[Group], pending: dict[Any, dict[int, Reading]], nodes: list[Any], attributes: tuple[int, ...],
              readings: Sequence[Reading]) -> None:
        """*nodes* are of one sort and have the same readings. What more is to be read of one goes to *queue*, what was read of it waits in *pending*."""
        known = self.seen[nodes[0]]
        whole = rules.attributes(known.node_class)
        if attributes == whole and (readings[0].value == known.node_class or readings[0].status & BAD):
            self._keep(nodes, attributes, readings)
            return
        for node in nodes:
            got = pending.setdefault(node, {})
            for attribute, reading in zip(attributes, readings):
                got[attribute] = reading
                if attribute == NODE_CLASS:
                    self._true_class(node, reading, queue)
            if all(one in got for one in rules.attributes(self.seen[node].node_class)):
                del pending[node]
                self._keep([node], tuple(got), tuple(got.values()))

    def _keep(self, nodes: list[Any], attributes: tuple[int, ...], readings: Sequence[Reading]) -> None:
        if self._memo is not None:
            self._memo.keep_readings(self._channel, nodes, attributes, readings)
        self._judge(nodes, attributes, readings)

    def _remembered(self, node: Any, got: dict[int, Reading]) -> None:
        """Judge a node by what an earlier, stopped run read of it."""
        self._true_class(node, got.get(NODE_CLASS, Reading(BAD)), deque())
        self._judge([node], tuple(got), tuple(got.values()))

    def _true_class(self, node: Any, reading: Reading, queue: deque[Group]) -> None:
        """A node that is announced as another class would hide its attributes."""
        known = self.seen[node]
        if reading.status & BAD or not isinstance(reading.value, int) or reading.value == known.node_class:
            return
        announced, known = known.node_class, self._own(node)
        known.node_class = reading.value
        if announced:
            self._add("OA9", rules.LIE, node, "announced as %s, is a %s" % (
                rules_class(announced), rules_class(known.node_class)))
        have = set(rules.attributes(announced))
        missing = tuple(attribute for attribute in rules.attributes(known.node_class) if attribute not in have)
        if missing:
            queue.append(([node], missing))

    def _add(self, check: str, kind: str, node: Any, what: str) -> None:
        known = self.seen[node]
        self.result.counts["%s %s" % (check, kind)] += 1
        self.result.findings.append(Found(
            check, kind, self.stable(node), self.path(node), rules_class(known.node_class), known.region, what))

    def _weigh(self, known: Siblings, attributes: tuple[int, ...], readings: Sequence[Reading], harmless: bool) -> Weighed:
        """What the attributes mean; most nodes of a server have the same ones."""
        key = (attributes, readings, known.node_class, harmless, known.region)
        try:
            found = self._weighed.get(key)
        except TypeError:
            # Roles are lists.
            return Weighed(dict(zip(attributes, readings)), known.node_class, harmless, known.region, self.names)
        if found is None:
            if len(self._weighed) >= WEIGHED:
                self._weighed.clear()
            found = self._weighed[key] = Weighed(dict(zip(attributes, readings)), known.node_class, harmless, known.region, self.names)
        return found

    def _judge(self, nodes: list[Any], attributes: tuple[int, ...], readings: Sequence[Reading]) -> None:
        """*nodes* are of one sort and have the same readings: they are judged as one, but for methods."""
        known = self.seen[nodes[0]]
        if known.node_class == METHOD:
            for node in nodes:
                self._judge_method(node, attributes, readings)
            return
        weighed = self._weigh(known, attributes, readings, False)
        for index, some, stables in self._channel.texts(nodes, self.names.head):
            self._count(known, index, some, stables, weighed, False)

    def _judge_method(self, node: Any, attributes: tuple[int, ...], readings: Sequence[Reading]) -> None:
        known = self.seen[node]
        if known.region == rules.TYPES and not self._of_type(known.parent):
            known.region = rules.UNLINKED
        for index, some, stables in self._channel.texts([node], self.names.head):
            harmless = stables[0] in rules.HARMLESS_METHODS
            self._count(known, index, some, stables, self._weigh(known, attributes, readings, harmless), harmless)

    def _count(self, known: Siblings, index: int, nodes: Sequence[Any], stables: Sequence[str], weighed: Weighed, harmless: bool) -> None:
        """What *nodes*, all in the namespace *index*, add to the result."""
        result, uri, count = self.result, self.names.uri(index), len(nodes)
        for status in weighed.statuses:
            result.statuses[status] += count
        if weighed.gone:
            result.missing_tags += [self._tag_nodes[node] for node in nodes if node in self._tag_nodes]
            for node in nodes:
                self._gone(node)
            return
        result.nodes[rules_class(known.node_class)] += count
        result.regions[known.region] += count
        if weighed.problems:
            result.counts["unread"] += count
            for stable in stables:
                note(result.unread, "%s: %s" % (stable, ", ".join(weighed.problems)))
            result.unread_tags += [self._tag_nodes[node] for node in nodes if node in self._tag_nodes]
        if weighed.findings:
            for node in nodes:
                for finding in weighed.findings:
                    self._add(finding.check, finding.kind, node, finding.what)
        for name in weighed.informs:
            # Many servers restrict objects of the standard and the diagnostics of sessions; what is asked is whether the plant's are.
            result.counts[name] += count * (not name.endswith("_required") or (index != 0 and not known.dynamic))
        if weighed.pairs:
            result.told_roles += count
            result.roles.update(role for role, _ in weighed.pairs)
        elif not weighed.values.get(ROLE_PERMISSIONS):
            result.without_own_roles[uri, known.node_class, harmless or known.region == rules.TYPES] += count
        elif USER_ROLE_PERMISSIONS not in weighed.values and known.region != rules.TYPES:
            self._untold += [(node, harmless, weighed.values[ROLE_PERMISSIONS]) for node in nodes]
        if known.node_class == METHOD:
            for node in nodes:
                self._notable(node, known, weighed.values)
        if not known.dynamic:
            result.lines.setdefault(uri, {}).update(zip(stables, repeat(weighed.line)))

    def _notable(self, node: Any, known: Siblings, values: Mapping[int, Any]) -> None:
        """Standard methods that change a server when somebody may call them."""
        if known.region != rules.TYPES and known.namespace == 0 and known.name(node) in rules.DANGEROUS:
            group = rules.DANGEROUS[known.name(node)]
            self.result.counts["dangerous"] += 1
            executable = bool(values.get(USER_EXECUTABLE))
            self.result.counts["dangerous executable"] += executable
            note(self.result.dangerous.setdefault(group, []), "%s%s" % (self.path(node), " (executable for us)" if executable else ""))

    def _subtyped(self) -> None:
        """Somebody's own subtypes of what writes variables out of messages; of each one object is named."""
        for kind, example in self._typed.items():
            while kind in self.seen:
                kind = self.seen[kind].parent
                if kind is not None and self._channel.text(kind) in rules.SUBSCRIBED_DATA_SETS:
                    note(self.result.subscribed_data_sets, self.stable(example))
                    break

    # -- tag map, namespaces ------------------------------------------------------------------------------
    async def _declared(self) -> None:
        """Nodes of the tag map that browsing did not show us: they may exist all the same, and have nodes below them."""
        hidden = [node for node in self._tag_nodes if node not in self.seen]
        for node in hidden:
            self._meet(node, 2, "", rules.DECLARED, None)
        await self._tree(hidden, rules.UNLINKED, set())
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
        """Values of NamespaceMetadata, wherever else it was found before: what nodes without rights of their own fall back to."""
        await self._browse(self._metadata)
        places = [(one.node, one.name, parent) for parent in self._metadata for one in apart(self._references.pop(parent, ()))
                  if one.name == "NamespaceUri" or one.name.startswith("Default")]
        by_node: dict[Any, Reading] = {}
        await self._together(self._reading(deque(([node], (VALUE,)) for node, _, _ in places),
                                           lambda nodes, _, readings: by_node.update(dict.fromkeys(nodes, readings[0]))))
        by_parent: dict[Any, dict[str, Any]] = {}
        for node, name, parent in places:
            reading = by_node[node]
            if name in ("NamespaceUri", "DefaultUserRolePermissions"):
                readable = not reading.status & (BAD | UNCERTAIN) and (name == "NamespaceUri" or rules.fits(USER_ROLE_PERMISSIONS, reading.value or []))
                if not readable and reading.status not in (*NO_SUCH_NODE, BAD_ATTRIBUTE_ID_INVALID):
                    self.result.counts["unread"] += 1
                    note(self.result.unread, "%s: Value 0x%08X (%s)" % (self.stable(node), reading.status, name))
            if not reading.status & BAD and reading.value is not None:
                by_parent.setdefault(parent, {})[name] = reading.value
        told: list[tuple[Any, str, dict[str, Any]]] = []
        for parent, values in by_parent.items():
            uri = str(values.pop("NamespaceUri", "") or self.seen[parent].name(parent))
            self.result.metadata[uri] = values
            told.append((parent, uri, values))
            if uri != self.names.table[0]:
                for name, true in rules.restrictions(values.get("DefaultAccessRestrictions")).items():
                    self.result.counts[name] += true * len(self.result.lines.get(uri, ()))
            pairs = values.get("DefaultUserRolePermissions") or []
            if pairs and rules.fits(USER_ROLE_PERMISSIONS, pairs):
                self.result.told_roles += 1
                self.result.roles.update(role for role, _ in pairs)
        for one in told:
            self._by_default(*one)

    def _by_default(self, metadata: Any, uri: str, values: Mapping[str, Any]) -> None:
        """What a namespace grants to those of its nodes that have no rights of their own (OPC 10000-5, 6.3.13; both lists are optional)."""
        for name, ours in (("DefaultUserRolePermissions", None), ("DefaultRolePermissions", rules.EVERYBODYS | self.result.roles)):
            pairs = values.get(name)
            if not pairs or not rules.fits(USER_ROLE_PERMISSIONS, pairs):
                continue
            union = rules.permissions([one for one in pairs if ours is None or one[0] in ours])
            for (namespace, node_class, harmless), count in sorted(self.result.without_own_roles.items()):
                rights = rules.granted(union, node_class, harmless)
                if namespace == uri and count and rights:
                    self._add("OA12", rules.GRANT, metadata, "%s of %s grant %s to %d nodes of class %s" % (
                        name, uri, ", ".join(rights), count, rules_class(node_class)))
            return

    def _of_our_roles(self) -> None:
        """Nodes that tell what each role may and not what ours may: by the roles that others told. What everybody may was judged there."""
        for node, harmless, pairs in self._untold:
            known = self.seen[node]
            for role, permission in sorted(rules.by_role(pairs).items()):
                rights = rules.granted(permission, known.node_class, harmless) if role in self.result.roles - rules.EVERYBODYS else []
                if rights:
                    self._add("OA12", rules.GRANT, node, "RolePermissions grant %s to %s, a role of ours, and no UserRolePermissions are told" % (
                        ", ".join(rights), rules.ROLES.get(role, role)))

    def _finish(self) -> None:
        self.result.operations = self._governor.budget.total
        self.result.counts["not_reached"] = sum(not known.read for known in self.seen.values())


def rules_class(node_class: int) -> str:
    """Name of a node class."""
    return CLASSES.get(node_class, "class %d" % node_class)


def namespace_hash(lines: Mapping[str, str]) -> str:
    """The same for the same nodes with the same rights, in whatever order and with whatever namespace indices."""
    return hashlib.sha256("".join(["%s %s\n" % (node, lines[node]) for node in sorted(lines)]).encode()).hexdigest()
