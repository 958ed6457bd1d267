# SPDX-License-Identifier: Apache-2.0
"""Looks for Variables below Objects, on the rails of the audit's walk: Browse and Read only, budget, BrowseNext to the end.

Level by level; a node that several ways lead to has the path that a tag declares; else the shortest, of several the first in the order of their text, so that
the answer's order does not matter. The Server object and everything in namespace 0 is left alone, properties are read as what they say about their Variable.
Variables below Variables are Variables like any other.
"""
from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from functools import partial
from typing import Any

from . import audit_rules as rules
from .audit_load import READ
from .audit_types import BAD, BAD_ATTRIBUTE_ID_INVALID, OBJECT, USER_ACCESS_LEVEL, VALUE, VARIABLE, Alike, BadAnswer, Reading, apart
from .audit_walk import HAS_SUBTYPE, HIERARCHICAL, Siblings, Walk, note
from .discover import ENUM, INT, TYPES, Variable

OBJECTS, SERVER, HAS_PROPERTY = "ns=0;i=85", "ns=0;i=2253", "ns=0;i=46"
DATA_TYPE, VALUE_RANK, MINIMUM_SAMPLING, DEFINITION = 14, 15, 19, 23
_ATTRIBUTES = (DATA_TYPE, VALUE_RANK, USER_ACCESS_LEVEL, MINIMUM_SAMPLING)
_PROPERTIES = frozenset({"EngineeringUnits", "EURange", "InstrumentRange", "EnumStrings", "EnumValues"})
_MANDATORY = frozenset({DATA_TYPE, VALUE_RANK, USER_ACCESS_LEVEL})


class Survey(Walk):
    """One look; ``variables`` afterwards. *tags* is not used: what is declared is compared later. *declared*: paths that tags have."""

    def __init__(self, *args: Any, declared: Sequence[tuple[str, ...]] = (), **options: Any) -> None:
        super().__init__(*args, **options)
        self._declared_paths = declared
        self._ways: dict[Any, list[tuple[str, Any]]] = {}
        self.variables: list[Variable] = []
        self._classes: dict[Any, int] = {}
        self._paths: dict[Any, tuple[str, ...]] = {}
        self._properties: dict[Any, dict[str, Any]] = {}
        self._got: dict[tuple[Any, int], Reading] = {}
        self._types: dict[str, str] = dict(TYPES)

    async def _walk(self) -> None:
        node = self._channel.node
        await self._hierarchy(node(HIERARCHICAL))
        await self._places(node(OBJECTS))
        self._keep_declared(node(OBJECTS))
        places = [one for one, known in self.seen.items() if known.node_class == VARIABLE]
        await self._read_all([(one, attribute) for one in places for attribute in _ATTRIBUTES])
        await self._find_types({str(self._value(one, DATA_TYPE)) for one in places if self._value(one, DATA_TYPE)})
        await self._read_all([(one, VALUE) for found in self._properties.values() for one in found.values()])
        self.variables = [self._variable(one) for one in places]

    def _finish(self) -> None:
        self.result.operations = self._governor.budget.total

    # -- places -------------------------------------------------------------------------------------------
    async def _places(self, top: Any) -> None:
        level: dict[Any, tuple[str, ...]] = {top: ()}
        self.seen[top] = Siblings(Alike([top], ["Objects"], OBJECT, 0), rules.INSTANCE, None)
        while level:
            self._check()
            await self._browse(list(level))
            below: dict[Any, tuple[str, ...]] = {}
            for parent, path in level.items():
                for reference in apart(self._references.pop(parent, ())):
                    if reference.reference_type == HAS_PROPERTY:
                        if reference.name in _PROPERTIES:
                            self._properties.setdefault(parent, {})[reference.name] = reference.node
                        continue
                    text = self._channel.text(reference.node)
                    if (reference.remote or reference.reference_type not in self._hierarchical or reference.node_class not in (OBJECT, VARIABLE)
                            or text == SERVER or (reference.node_class == VARIABLE and self.names.index(text) == 0)):
                        continue
                    step = self._step(reference.namespace, reference.name)
                    self._ways.setdefault(parent, []).append((step, reference.node))
                    if reference.node in self.seen:
                        continue
                    below[reference.node] = min(below.get(reference.node, (*path, step)), (*path, step))
                    self._classes[reference.node] = reference.node_class
            for one, path in below.items():
                self.seen[one] = Siblings(Alike([one], [path[-1]], self._classes[one], 0), rules.INSTANCE, None)
                self._paths[one] = path
            level = below

    def _keep_declared(self, top: Any) -> None:
        """A path that still leads to a node stays its path, whatever shorter one was made beside it."""
        for path in self._declared_paths:
            nodes = {top}
            for step in path:
                nodes = {below for one in nodes for name, below in self._ways.get(one, ()) if name == step}
            self._paths.update(dict.fromkeys(nodes - {top}, path))

    def _step(self, namespace: int, name: str) -> str:
        if namespace == 0:
            return name
        uri = self.names.table[namespace] if namespace < len(self.names.table) else "urn:unknown:%d" % namespace
        return "nsu=%s;%s" % (uri, name)

    # -- facts --------------------------------------------------------------------------------------------
    async def _read_all(self, wanted: Sequence[tuple[Any, int]]) -> None:
        queue: deque[Any] = deque(wanted)

        async def step() -> bool:
            if not queue:
                return False
            self._check()
            batch = [queue.popleft() for _ in range(min(self._governor.size(READ), len(queue)))]
            answer = await self._governor.send(READ, len(batch), partial(self._channel.read, batch))
            if answer is None:
                queue.extendleft(reversed(batch))
                return True
            if len(answer) != len(batch):
                raise BadAnswer("%s: %d results for %d operations" % (READ, len(answer), len(batch)))
            for (one, attribute), reading in zip(batch, answer):
                self._got_it(one, attribute, reading)
            return True

        await self._together(step)

    def _got_it(self, one: Any, attribute: int, reading: Reading) -> None:
        self._got[one, attribute] = reading
        absent = reading.status == BAD_ATTRIBUTE_ID_INVALID and attribute not in _MANDATORY
        # A property's value may be missing for a while; a Variable without its data type is a hole in what we saw.
        if reading.status & BAD and not absent and attribute not in (VALUE, DEFINITION):
            self.result.counts["unread"] += 1
            note(self.result.unread, "%s: attribute %d: 0x%08X" % (self.stable(one), attribute, reading.status))

    def _value(self, one: Any, attribute: int) -> Any:
        reading = self._got.get((one, attribute))
        return None if reading is None or reading.status & BAD else reading.value

    def _property(self, one: Any, name: str) -> Any:
        place = self._properties.get(one, {}).get(name)
        return None if place is None else self._value(place, VALUE)

    async def _find_types(self, used: set[str]) -> None:
        """Subtypes of the types that we know, as far down as it takes to find those in use; properties of enumerations with them."""
        unknown = {text for text in used if self.names.stable(text) not in self._types}
        if not unknown and not any(self._types.get(self.names.stable(text)) == ENUM for text in used):
            return
        level = {self._channel.node("ns=0;%s" % text): kind for text, kind in TYPES.items()}
        met = set(level)
        while level and unknown:
            self._check()
            await self._browse(list(level))
            below: dict[Any, str] = {}
            for parent, kind in level.items():
                for reference in apart(self._references.pop(parent, ())):
                    if reference.reference_type == HAS_SUBTYPE and not reference.remote and reference.node not in met:
                        below[reference.node] = kind
            for one, kind in below.items():
                text = self._channel.text(one)
                self._types.setdefault(self.names.stable(text), kind)
                unknown.discard(text)
            met |= set(below)
            level = below
        enumerations = [self._channel.node(text) for text in sorted(used) if self._types.get(self.names.stable(text)) == ENUM]
        await self._browse(enumerations)
        await self._read_all([(one, DEFINITION) for one in enumerations])
        for one in enumerations:
            for reference in apart(self._references.pop(one, ())):
                if reference.reference_type == HAS_PROPERTY and reference.name in _PROPERTIES:
                    self._properties.setdefault(one, {})[reference.name] = reference.node

    def _codes(self, one: Any) -> tuple[tuple[int, str], ...]:
        values, strings = self._property(one, "EnumValues") or self._value(one, DEFINITION), self._property(one, "EnumStrings")
        if isinstance(values, list) and values:
            pairs = [(int(item["value"]), str(item["name"])) for item in values if isinstance(item, dict) and "value" in item]
        elif isinstance(strings, list):
            pairs = [(number, str(text)) for number, text in enumerate(strings) if text]
        else:
            pairs = []
        return tuple(sorted(pairs))

    def _variable(self, one: Any) -> Variable:
        told = self._value(one, DATA_TYPE)
        data_type = self.names.stable(str(told)) if told else ""
        kind = self._types.get(data_type, "")
        codes = self._codes(one)
        if kind == ENUM and not codes:
            codes = self._codes(self._channel.node(str(told)))
        if kind == INT and codes:
            kind = ENUM
        unit, scale = self._property(one, "EngineeringUnits"), self._property(one, "EURange")
        rank, access, sampling = self._value(one, VALUE_RANK), self._value(one, USER_ACCESS_LEVEL), self._value(one, MINIMUM_SAMPLING)
        return Variable(
            path=self._paths[one], node=self.stable(one), data_type=data_type, type=kind, rank=rank if isinstance(rank, int) else -1,
            access=access if isinstance(access, int) else None, unit=str(unit["name"]) if isinstance(unit, dict) and unit.get("name") else None,
            low=scale["low"] if isinstance(scale, dict) and "low" in scale else None,
            high=scale["high"] if isinstance(scale, dict) and "high" in scale else None, codes=codes if kind == ENUM else (),
            sampling_ms=float(sampling) if isinstance(sampling, (int, float)) and sampling > 0 else 0.0)
