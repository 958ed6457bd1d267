# SPDX-License-Identifier: Apache-2.0
"""Fault plans: one JSON for three stacks. What a stack cannot express stands in CANNOT, with the reason.

A plan: {namespaces, endpoints: [[policy, mode]], anonymous, clear_password, auto_trust, hardened, limits: {read, browse, references, points, sessions},
nodes: [{id, class, name, parent, reference, value, set: {attribute id: what the observer sees}, unlinked, lies}], references: [[source, type, target]]}.
Namespaces of a plan have the indices 2 and 3 at every server.
"""
from __future__ import annotations

import base64
import random
import uuid
from dataclasses import dataclass, field
from typing import Any

PLANT, CELL = "urn:test:plant", "urn:test:cell"
OBJECTS = "i=85"
OBJECT, VARIABLE, METHOD = 1, 2, 4
ORGANIZES, HAS_COMPONENT, HAS_PROPERTY, GENERATES_EVENT = 35, 47, 46, 41
OBSERVER, ENGINEER = 15668, 16036
READ_ROLE = 0x21


@dataclass(frozen=True)
class Fault:
    """A right too many, or a contradiction: node class, what the observer sees, and the checks that must name the node."""

    name: str
    node_class: int
    set: dict[str, Any]
    checks: tuple[str, ...]


FAULTS = (
    Fault("value", VARIABLE, {"17": 0x03, "18": 0x03}, ("OA8",)),
    Fault("history", VARIABLE, {"17": 0x0D, "18": 0x0D}, ("OA8",)),
    Fault("status", VARIABLE, {"17": 0x21, "18": 0x21}, ("OA8",)),
    Fault("timestamp", VARIABLE, {"17": 0x41, "18": 0x41}, ("OA8",)),
    Fault("mask of an object", OBJECT, {"6": 0x3FFFFF, "7": 0x40}, ("OA10",)),
    Fault("mask of a variable", VARIABLE, {"6": 0x3FFFFF, "7": 0x2000}, ("OA10",)),
    Fault("mask of a method", METHOD, {"6": 0x3FFFFF, "7": 0x100}, ("OA10",)),
    Fault("method", METHOD, {"21": 1, "22": 1}, ("OA11",)),
    Fault("role writes", VARIABLE, {"25": [[OBSERVER, READ_ROLE | 1 << 6]]}, ("OA12",)),
    Fault("role deletes history", VARIABLE, {"25": [[OBSERVER, READ_ROLE | 1 << 10]]}, ("OA12",)),
    Fault("role deletes an object", OBJECT, {"25": [[OBSERVER, READ_ROLE | 1 << 15]]}, ("OA12",)),
    Fault("role calls", METHOD, {"25": [[OBSERVER, READ_ROLE | 1 << 12]]}, ("OA12",)),
    Fault("extended level", VARIABLE, {"17": 0x01, "18": 0x01, "27": 0x03}, ("OA9",)),
    Fault("user above all", VARIABLE, {"17": 0x01, "18": 0x03}, ("OA8", "OA9")),
    Fault("user mask above all", OBJECT, {"6": 0, "7": 0x40}, ("OA10", "OA9")),
    Fault("user may call what nobody may", METHOD, {"21": 0, "22": 1}, ("OA11", "OA9")),
)
_ROLES = "open62541 1.4 knows no RolePermissions attribute: BadAttributeIdInvalid"
_AND = "open62541 gives the user's rights as the intersection with everybody's"
CANNOT: dict[str, dict[str, str]] = {
    "asyncua": {},
    "node-opcua": {},
    "open62541": {
        "role writes": _ROLES, "role deletes history": _ROLES, "role deletes an object": _ROLES, "role calls": _ROLES,
        "extended level": "open62541 1.4 makes AccessLevelEx out of AccessLevel", "user above all": _AND, "user mask above all": _AND,
        "user may call what nobody may": _AND,
    },
}


@dataclass
class Plot:
    """A plan under construction, with what must be found: check → stable ids."""

    rng: random.Random
    plan: dict[str, Any]
    expected: dict[str, set[str]] = field(default_factory=dict)
    _number: int = 0
    _opaque: set[str] = field(default_factory=set)

    def node(self, node_class: int, parent: str, reference: int = HAS_COMPONENT, kind: str = "", namespace: int = 2, **more: Any) -> str:
        """Adds a node; its id is of a random kind."""
        self._number += 1
        kind = kind or self.rng.choice("issgb")
        name = self.rng.choice(("Pumpe", "Füllstand", "温度", "🛢 Tank", "a;b=c", "x/y.z", "Δp")) + str(self._number)
        # node-opcua keeps such ids by their text: two that are no UTF-8 would be one node there.
        opaque = self.rng.randbytes(5)
        while opaque.decode("utf-8", "replace") in self._opaque:
            opaque = self.rng.randbytes(5)
        self._opaque.add(opaque.decode("utf-8", "replace"))
        value = {"i": str(self.rng.choice((0, 10_000, 62_000, 4_000_000_000)) + self._number), "s": name,
                 "g": str(uuid.UUID(int=self.rng.getrandbits(128))), "b": base64.b64encode(opaque).decode()}[kind]
        text = "ns=%d;%s=%s" % (namespace, kind, value)
        self.plan["nodes"].append({"id": text, "class": node_class, "name": name, "parent": parent, "reference": reference, "set": {}, **more})
        return text

    def plant(self, text: str, fault: Fault) -> None:
        """The fault at a node that is there already."""
        (one,) = [node for node in self.plan["nodes"] if node["id"] == text]
        assert one["class"] == fault.node_class and not one["set"]
        one["set"] = dict(fault.set)
        for check in fault.checks:
            self.expected.setdefault(check, set()).add(stable(text))

    def link(self, source: str, kind: int, target: str) -> None:
        self.plan["references"].append([source, kind, target])


def stable(text: str) -> str:
    """The audit's form of an id of a plan."""
    head, rest = text.split(";", 1)
    return "nsu=%s;%s" % ({"ns=2": PLANT, "ns=3": CELL}[head], rest)


def empty(**change: Any) -> dict[str, Any]:
    """A plan without nodes, with one sound endpoint."""
    plan: dict[str, Any] = {"namespaces": [PLANT, CELL], "endpoints": [["Basic256Sha256", "SignAndEncrypt"]], "anonymous": False,
                            "clear_password": False, "auto_trust": False, "hardened": True, "limits": {}, "nodes": [], "references": [], "full": False}
    return {**plan, **change}


def tree(seed: int, stack: str, faults: bool, size: int = 90, **change: Any) -> Plot:
    """A plant of *size* nodes at random depth, and the places that a stranger would choose; with every fault that the stack can express."""
    plot = Plot(random.Random(seed), empty(**change))
    rng = plot.rng
    top = plot.node(OBJECT, OBJECTS, ORGANIZES, "s")
    places = [(top, OBJECT)]
    made: dict[int, list[str]] = {OBJECT: [], VARIABLE: [], METHOD: []}
    for _ in range(size):
        objects = [one for one in places if one[1] == OBJECT]
        parent, parent_class = rng.choice(objects[-3:] + [rng.choice(objects), places[-1]])
        node_class = VARIABLE if parent_class == VARIABLE else rng.choice((OBJECT, VARIABLE, VARIABLE, METHOD))
        text = plot.node(node_class, parent, namespace=rng.choice((2, 2, 3)))
        made[node_class].append(text)
        if node_class != METHOD:
            places.append((text, node_class))
    odd: dict[int, list[str]] = {OBJECT: [], VARIABLE: [], METHOD: []}
    chain = top
    for _ in range(25):
        chain = plot.node(OBJECT, chain)
    odd[VARIABLE].append(plot.node(VARIABLE, chain))
    hidden = plot.node(VARIABLE, top, unlinked=1)
    plot.link(chain, GENERATES_EVENT, hidden)
    odd[VARIABLE].append(hidden)
    odd[VARIABLE].append(plot.node(VARIABLE, hidden))
    odd[VARIABLE].append(plot.node(VARIABLE, rng.choice(made[METHOD]), HAS_PROPERTY))
    shared = plot.node(VARIABLE, chain, namespace=3)
    plot.link(top, ORGANIZES, shared)
    odd[VARIABLE].append(shared)
    odd[METHOD].append(plot.node(METHOD, chain))
    for kind in "isgb":
        odd[VARIABLE].append(plot.node(VARIABLE, top, kind=kind))
    plot.link(chain, ORGANIZES, top)
    if faults:
        free = {key: odd[key] + rng.sample(made[key], len(made[key])) for key in made}
        able = [fault for fault in FAULTS if fault.name not in CANNOT[stack]]
        for fault in able:
            plot.plant(free[fault.node_class].pop(0), fault)
        # Every odd place gets one, whatever it is.
        for key in odd:
            for text in odd[key]:
                if text in free[key]:
                    plot.plant(text, rng.choice([fault for fault in able if fault.node_class == key]))
    return plot
