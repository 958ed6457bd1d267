# SPDX-License-Identifier: Apache-2.0
"""Plants that no server of ours can be brought to show: a server in memory, walked and judged as any other."""
from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import date
from itertools import groupby
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import hypothesis
import pytest
from hypothesis import strategies as st

from ansible_collections.hnai.platform.plugins.module_utils.opcua import audit_codec, audit_judge, audit_run, audit_walk
from ansible_collections.hnai.platform.plugins.module_utils.opcua.audit_policy import Policy
from ansible_collections.hnai.platform.plugins.module_utils.opcua.audit_types import (
    BAD_ATTRIBUTE_ID_INVALID,
    BAD_CONTINUATION_POINT_INVALID,
    BAD_NODE_ID_UNKNOWN,
    METHOD,
    OBJECT,
    UNCERTAIN,
    VALUE,
    VARIABLE,
    VIEW,
    Browsed,
    Endpoint,
    Group,
    Opened,
    Reading,
    Reference,
    TokenPolicy,
    alike,
    apart,
    split,
)
from ansible_collections.hnai.platform.plugins.module_utils.verdict import Report

URI = "urn:plant"
TABLE = ("http://opcfoundation.org/UA/", "urn:server", URI)
POLICY = "http://opcfoundation.org/UA/SecurityPolicy#"
ORGANIZES, HAS_COMPONENT, HAS_PROPERTY, GENERATES_EVENT = 35, 47, 46, 41
HAS_SUBTYPE, HAS_TYPE_DEFINITION = 45, 40
ABSENT, DENIED = Reading(BAD_ATTRIBUTE_ID_INVALID), Reading(0x801F0000)
PLANT, WRITABLE = "ns=2;s=Plant", {17: 3, 18: 3}
OBSERVER, AUTHENTICATED = "ns=0;i=15668", "ns=0;i=15656"
READ, READ_WRITE = 0x21, 0x61


class Ground:
    """Implements ``audit_types.Channel``; nodes are texts. ``log``: (moment, operations) of each request."""

    def __init__(self, most: int = 1000, table: Sequence[str] = TABLE) -> None:
        self.table = table
        self.endpoints = [Endpoint("opc.tcp://x", "SignAndEncrypt", POLICY + "Basic256Sha256", "urn:x", "a", ())]
        self.session_endpoints: list[Endpoint] | None = None
        self.nodes: dict[str, tuple[int, str, dict[int, Any]]] = {}
        self.links: dict[str, list[tuple[int, str, int]]] = {}
        self.browse_status: dict[str, int] = {}
        self.most, self.now = most, 0.0
        self.points: dict[bytes, list[Reference]] = {}
        self.log: list[tuple[float, int]] = []
        for number, node_class, above in ((84, 1, 0), (85, 1, 84), (86, 1, 84), (88, 1, 86), (58, 8, 88), (2253, 1, 85), (11715, 1, 2253)):
            self.add("ns=0;i=%d" % number, node_class, "ns=0;i=%d" % above if above else "", ORGANIZES, name="n%d" % number)
        for number, above in ((33, 0), (34, 33), (35, 33), (45, 34), (46, 34), (47, 34)):
            self.add("ns=0;i=%d" % number, 32, "ns=0;i=%d" % above if above else "", 45)
        for number, value in ((2255, list(table)), (2259, 0), (2994, True)):
            self.add("ns=0;i=%d" % number, VARIABLE, "", set={VALUE: value})
        self.add(PLANT, OBJECT, "ns=0;i=85", ORGANIZES)

    def add(self, node: str, node_class: int, above: str = PLANT, kind: int = HAS_COMPONENT, name: str = "", announced: int = 0,
            set: dict[int, Any] | None = None) -> str:
        """A node below *above*; *set*: attribute to value or Reading."""
        self.nodes[node] = node_class, name or node, set or {}
        if above:
            self.link(above, kind, node, announced)
        return node

    def metadata(self, above: str = "ns=0;i=11715", **values: Any) -> None:
        """NamespaceMetadata of the plant, with these properties."""
        self.add("ns=2;s=meta", OBJECT, above)
        for name, value in {"NamespaceUri": URI, **values}.items():
            self.add("ns=2;s=" + name, VARIABLE, "ns=2;s=meta", HAS_PROPERTY, name, set={VALUE: value})

    def link(self, source: str, kind: int, target: str, announced: int = 0) -> None:
        self.links.setdefault(source, []).append((kind, target, announced or self.nodes[target][0]))

    # -- Channel ------------------------------------------------------------------------------------------
    async def open(self) -> Opened:
        return Opened(self.endpoints, self.endpoints if self.session_endpoints is None else self.session_endpoints)

    async def close(self) -> None:
        return None

    def know(self, table: Sequence[str]) -> None:
        assert table == list(self.table)

    def node(self, text: str) -> str:
        return text

    def text(self, node: str) -> str:
        return node

    def texts(self, nodes: Sequence[str], head: Callable[[int], str]) -> list[tuple[int, list[str], list[str]]]:
        runs = [(index, list(run)) for index, run in groupby(nodes, lambda node: split(node)[0])]
        return [(index, run, [head(index) + split(node)[1] for node in run]) for index, run in runs]

    def _read(self, node: str, attribute: int) -> Reading:
        if node not in self.nodes:
            return Reading(BAD_NODE_ID_UNKNOWN)
        node_class, _, given = self.nodes[node]
        plain: dict[int, Any] = {2: node_class, 6: 0, 7: 0, **({17: 1, 18: 1} if node_class == VARIABLE else {}),
                                 **({21: False, 22: False} if node_class == METHOD else {}), **given}
        value = plain.get(attribute, ABSENT)
        return value if isinstance(value, Reading) else Reading(0, value)

    async def read(self, wanted: Sequence[tuple[str, int]]) -> list[Reading]:
        self.log.append((self.now, len(wanted)))
        return [self._read(node, attribute) for node, attribute in wanted]

    async def read_groups(self, groups: Sequence[Group]) -> list[tuple[Reading, ...]]:
        self.log.append((self.now, sum(len(nodes) * len(attributes) for nodes, attributes in groups)))
        return [tuple(self._read(node, attribute) for attribute in attributes) for nodes, attributes in groups for node in nodes]

    def _page(self, references: list[Reference], status: int) -> Browsed:
        if len(references) <= self.most:
            return Browsed(status, alike(references))
        point = b"%d" % len(self.log) + b"/%d" % len(self.points)
        self.points[point] = references[self.most:]
        return Browsed(status, alike(references[:self.most]), point)

    async def browse(self, nodes: Sequence[str]) -> list[Browsed]:
        self.log.append((self.now, len(nodes)))
        return [self._page([Reference(target, announced, self.nodes[target][1], 0, "", "ns=0;i=%d" % kind)
                            for kind, target, announced in self.links.get(node, [])], self.browse_status.get(node, 0))
                if node in self.nodes else Browsed(BAD_NODE_ID_UNKNOWN) for node in nodes]

    async def browse_next(self, points: Sequence[bytes], release: bool) -> list[Browsed]:
        self.log.append((self.now, len(points)))
        rests = [self.points.pop(point, None) for point in points]
        return [Browsed(0) if release else Browsed(BAD_CONTINUATION_POINT_INVALID) if rest is None else self._page(rest, 0) for rest in rests]


def audited(ground: Ground, earlier: Any = None, **change: Any) -> tuple[audit_run.Facts, dict[str, str], dict[str, Any]]:
    """(facts, status by check, record) with a clock that only moves when somebody waits."""
    plan = audit_run.Plan(**{**dict(
        source="plc1", endpoint="opc.tcp://x", policy="Basic256Sha256", mode="SignAndEncrypt", username="observer", application_uri="urn:x",
        budget_per_s=1_000_000, deadline_s=1000.0), **change})

    def clock() -> float:
        ground.now += 1e-6
        return ground.now

    async def sleep(seconds: float) -> None:
        ground.now += seconds

    facts = asyncio.run(audit_run.gather(ground, plan, clock, sleep, earlier))
    report = Report("x", deadline_s=None)
    record = audit_judge.Judge(report, facts, audit_judge.Context(plan, Policy(today=date(2026, 1, 1)), 1e5)).run()
    return facts, {check.id: check.status for check in report.checks}, record


def test_a_clean_ground_is_claimed() -> None:
    ground = Ground()
    ground.add("ns=2;s=a", VARIABLE)
    ground.add("ns=2;s=m", METHOD, "ns=0;i=58", set={21: True, 22: True})
    facts, statuses, record = audited(ground)
    assert record["verdict"] == "claimed" and facts.complete
    assert {id for id, status in statuses.items() if status in ("fail", "inconclusive")} == {"OA6", "OA7"}, "it has no certificates"


# -- what is not known is never clean --------------------------------------------------------------------
@pytest.mark.parametrize(("node_class", "announced", "given"), [
    (VARIABLE, OBJECT, {2: ABSENT, **WRITABLE}),
    (VARIABLE, OBJECT, {2: Reading(0, None), **WRITABLE}),
    (3, 3, WRITABLE),
    (VARIABLE, 0, {18: Reading(UNCERTAIN, 1)}),
    (VARIABLE, 0, {7: Reading(UNCERTAIN, None)}),
    (OBJECT, 0, {6: 0x40, 7: ABSENT}),
    (OBJECT, 0, {6: 0x40, 7: Reading(0, None)}),
])
def test_an_attribute_that_cannot_be_believed_is_a_hole(node_class: int, announced: int, given: dict[int, Any]) -> None:
    ground = Ground()
    ground.add("ns=2;s=a", node_class, announced=announced, set=given)
    facts, statuses, record = audited(ground)
    assert record["verdict"] == "inconclusive" and facts.result.counts["unread"] == 1
    assert "nsu=urn:plant;s=a" in record["coverage"]["unread"][0] and statuses["OA18"] == "inconclusive"


@pytest.mark.parametrize("most", [1000, 1])
def test_references_that_may_be_incomplete_are_truncated(most: int) -> None:
    """UncertainNotAllNodesAvailable: what was given is walked, too."""
    ground = Ground(most)
    for name in "abc":
        ground.add("ns=2;s=%s" % name, VARIABLE, set=WRITABLE if name == "c" else {})
    ground.browse_status[PLANT] = 0x40C00000
    facts, statuses, record = audited(ground)
    assert record["coverage"]["truncated"] == ["nsu=urn:plant;s=Plant: Browse: 0x40C00000"] and facts.result.nodes["Variable"] == 3
    assert statuses["OA8"] == "fail" and statuses["OA10"] == statuses["OA18"] == "inconclusive"


@pytest.mark.parametrize("value", [DENIED, Reading(UNCERTAIN, []), [5]])
def test_defaults_of_a_namespace_that_cannot_be_read_are_a_hole(value: Any) -> None:
    ground = Ground()
    ground.metadata(DefaultUserRolePermissions=value)
    _, _, record = audited(ground)
    assert record["verdict"] == "inconclusive" and "DefaultUserRolePermissions" in record["coverage"]["unread"][0]


# -- places ----------------------------------------------------------------------------------------------
def test_defaults_of_a_namespace_count_wherever_else_its_object_stands() -> None:
    ground = Ground()
    ground.metadata("ns=0;i=85", DefaultUserRolePermissions=[(OBSERVER, READ_WRITE)])
    ground.link("ns=0;i=11715", HAS_COMPONENT, "ns=2;s=meta")
    _, statuses, record = audited(ground)
    assert statuses["OA12"] == "fail" and record["findings"][0]["node"] == "nsu=urn:plant;s=meta"


def test_what_stands_below_a_hidden_tag_is_walked() -> None:
    ground = Ground()
    ground.add("ns=2;s=tag", VARIABLE, "")
    ground.add("ns=2;s=below", VARIABLE, "ns=2;s=tag", HAS_PROPERTY, set=WRITABLE)
    ground.add("ns=2;s=beside", VARIABLE, "", set=WRITABLE)
    ground.link("ns=2;s=below", GENERATES_EVENT, "ns=2;s=beside")
    _, _, record = audited(ground, tags=("nsu=urn:plant;s=tag", "nsu=urn:plant;s=gone"))
    assert {one["node"] for one in record["findings"]} == {"nsu=urn:plant;s=below", "nsu=urn:plant;s=beside"}
    assert record["coverage"]["hidden_tags"] == ["nsu=urn:plant;s=tag"] and record["coverage"]["missing_tags"] == ["nsu=urn:plant;s=gone"]


def test_a_method_of_an_object_is_callable_also_in_a_folder_of_types_and_if_a_type_has_it_too() -> None:
    executable = {21: True, 22: True}
    ground = Ground()
    ground.add("ns=2;s=folder", OBJECT, "ns=0;i=86", ORGANIZES)
    ground.add("ns=2;s=plain", METHOD, "ns=2;s=folder", set=executable)
    for name in ("shared", "own"):
        ground.add("ns=2;s=%s" % name, METHOD, "ns=0;i=58", set=executable)
    ground.add("ns=2;s=alarm", OBJECT, "")
    ground.link(PLANT, GENERATES_EVENT, "ns=2;s=alarm")
    ground.link("ns=2;s=alarm", HAS_COMPONENT, "ns=2;s=shared")
    facts, _, record = audited(ground)
    assert {one["node"] for one in record["findings"]} == {"nsu=urn:plant;s=plain", "nsu=urn:plant;s=shared"}
    assert facts.result.nodes["Method"] == 3


@pytest.mark.parametrize("kind", [ORGANIZES, HAS_TYPE_DEFINITION])
@pytest.mark.parametrize("source", [PLANT, "ns=2;s=tag"])
def test_a_type_that_an_object_leads_to_has_no_callable_methods_by_it(source: str, kind: int) -> None:
    """A folder of types, a type that stands below no other; what an object has too is callable, and what says wrongly that it is a type."""
    ground = Ground()
    ground.add("ns=2;s=tag", OBJECT, "")
    ground.add("ns=2;s=T", 8, source, kind)
    ground.add("ns=2;s=m", METHOD, "ns=2;s=T", set={21: True, 22: True})
    facts, statuses, record = audited(ground, tags=("nsu=urn:plant;s=tag",))
    assert any(text.startswith("1 methods that only types have") for text in record["not_tested"])
    assert statuses["OA11"] == "pass" and facts.result.nodes["Method"] == 1 and facts.result.regions["types"] >= 2
    ground.link(ground.add("ns=2;s=o", OBJECT), HAS_COMPONENT, "ns=2;s=m")
    assert audited(ground, tags=("nsu=urn:plant;s=tag",))[1]["OA11"] == "fail"
    ground.nodes["ns=2;s=T"] = OBJECT, "T", {}
    ground.links.pop("ns=2;s=o")
    _, statuses, _ = audited(ground, tags=("nsu=urn:plant;s=tag",))
    assert statuses["OA11"] == statuses["OA9"] == "fail"


@pytest.mark.parametrize(("node", "status"), [("ns=0;i=11492", "pass"), ("ns=0;i=99999", "fail"), ("ns=2;i=11492", "fail")])
def test_a_harmless_name_makes_no_method_harmless(node: str, status: str) -> None:
    ground = Ground()
    ground.add(node, METHOD, name="GetMonitoredItems", set={21: True, 22: True})
    assert audited(ground)[1]["OA11"] == status


@pytest.mark.parametrize("in_flight", [1, 4])
@pytest.mark.parametrize("depth", range(1, 6))
def test_a_method_of_a_type_that_an_object_among_types_has_too_counts_once(depth: int, in_flight: int) -> None:
    """The object stands above the method, beside it and below: the method is met again before it is read, and after."""
    ground = Ground()
    ground.add("ns=2;s=shared", METHOD, "ns=0;i=58", set={21: True, 22: True})
    above = "ns=0;i=86"
    for number in range(depth):
        above = ground.add("ns=2;s=%d" % number, OBJECT, above, ORGANIZES)
    before = audited(ground, in_flight=in_flight)[0].result
    ground.link(above, HAS_COMPONENT, "ns=2;s=shared")
    facts, _, record = audited(ground, in_flight=in_flight)
    assert {one["node"] for one in record["findings"]} == {"nsu=urn:plant;s=shared"}
    assert facts.result.nodes == before.nodes and facts.result.regions == before.regions + Counter(unlinked=1) - Counter(types=1)


@pytest.mark.parametrize(("in_flight", "order"), [(1, "BBBBRRRR"), (2, "BRBRBRBR"), (4, "BRBRBRBR")])
def test_a_level_is_read_while_it_is_browsed(in_flight: int, order: str) -> None:
    asked: list[str] = []

    def step(kind: str) -> Callable[[], Any]:
        left = list(range(4))

        async def one() -> bool:
            if not left:
                return False
            left.pop()
            asked.append(kind)
            await asyncio.sleep(0)
            return True

        return one

    walk = SimpleNamespace(_in_flight=in_flight)
    asyncio.run(audit_walk.Walk._together(walk, step("B"), step("R")))  # type: ignore[arg-type]
    assert "".join(asked) == order


def test_what_is_remembered_whole_is_not_asked_for_again() -> None:
    ground = Ground()
    for number in range(5):
        ground.add("ns=2;s=v%d" % number, VARIABLE)
    first = audited(ground)[0]
    assert first.memo is not None
    ground.log.clear()
    again, _, record = audited(ground, first.memo.dump())
    assert again.resumed and again.result.nodes == first.result.nodes and again.result.lines == first.result.lines
    assert any("%d nodes were read then" % again.resumed in text for text in record["not_tested"])
    assert 0 not in [operations for _, operations in ground.log], "nothing was asked for, in a request of its own"


def test_references_are_looked_through_while_others_of_their_level_are_browsed(monkeypatch: pytest.MonkeyPatch) -> None:
    ground = Ground()
    folders = [ground.add("ns=2;s=f%d" % number, OBJECT) for number in range(40)]
    for number, folder in enumerate(folders):
        ground.add("ns=2;s=v%d" % number, VARIABLE, folder)
    order: list[tuple[str, str]] = []
    browse, take = ground.browse, audit_walk.Walk._take

    async def browsing(nodes: Sequence[str]) -> list[Browsed]:
        order.extend(("browsed", node) for node in nodes)
        return await browse(nodes)

    def taking(walk: Any, node: str, *rest: Any) -> Any:
        order.append(("looked through", node))
        return take(walk, node, *rest)

    monkeypatch.setattr(ground, "browse", browsing)
    monkeypatch.setattr(audit_walk.Walk, "_take", taking)
    facts, _, _ = audited(ground, batch=8, in_flight=2)
    assert facts.result.nodes["Object"] >= 40 and order.index(("looked through", "ns=2;s=f0")) < order.index(("browsed", "ns=2;s=f39"))
    assert [node for what, node in order if what == "looked through" and node in folders] == folders


def test_a_subtype_of_what_messages_are_written_by_is_one_of_them() -> None:
    ground = Ground()
    ground.add("ns=0;i=15111", 8, "ns=0;i=58", HAS_SUBTYPE)
    ground.add("ns=2;s=Type", 8, "ns=0;i=15111", HAS_SUBTYPE)
    ground.add("ns=2;s=Other", 8, "ns=0;i=58", HAS_SUBTYPE)
    ground.link(ground.add("ns=2;s=a", OBJECT), HAS_TYPE_DEFINITION, "ns=2;s=Other")
    ground.link(ground.add("ns=2;s=declaration", OBJECT, "ns=2;s=Other"), HAS_TYPE_DEFINITION, "ns=2;s=Type")
    assert audited(ground)[1]["OA17"] == "pass"
    ground.link(ground.add("ns=2;s=b", OBJECT), HAS_TYPE_DEFINITION, "ns=2;s=Type")
    facts, statuses, _ = audited(ground)
    assert statuses["OA17"] == "fail" and facts.result.subscribed_data_sets == ["nsu=urn:plant;s=b"]


# -- roles -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("everybodys", "mine", "kinds"), [
    ([(OBSERVER, READ), ("ns=0;i=16036", READ_WRITE)], [(OBSERVER, READ)], set()),
    ([(OBSERVER, READ_WRITE)], [(OBSERVER, READ)], {("OA9", "lie")}),
    ([(OBSERVER, READ)], [(OBSERVER, READ_WRITE)], {("OA9", "lie"), ("OA12", "grant")}),
    ([(OBSERVER, READ | 1 << 12)], [(OBSERVER, READ)], set()),
    ([(AUTHENTICATED, READ_WRITE)], None, {("OA12", "grant")}),
    ([(AUTHENTICATED, READ_WRITE), (AUTHENTICATED, READ)], None, {("OA12", "grant")}),
    ([("ns=0;i=16036", READ_WRITE)], None, set()),
])
def test_permissions_of_our_roles_are_everybodys(everybodys: list[Any], mine: list[Any] | None, kinds: set[Any]) -> None:
    """Bits that mean nothing at a Variable (Call) may differ; what another role may is its own affair."""
    ground = Ground()
    ground.add("ns=2;s=a", VARIABLE, set={24: everybodys, **({25: mine} if mine is not None else {})})
    facts, _, _ = audited(ground)
    assert {(one.check, one.kind) for one in facts.result.findings} == kinds


@pytest.mark.parametrize(("defaults", "status"), [
    ({"DefaultRolePermissions": [("ns=0;i=15644", READ_WRITE)]}, "fail"),
    ({"DefaultRolePermissions": [("ns=0;i=16036", READ_WRITE), (AUTHENTICATED, READ)]}, "pass"),
    ({"DefaultRolePermissions": [(OBSERVER, READ_WRITE)]}, "fail"),
    ({"DefaultRolePermissions": [(OBSERVER, READ_WRITE)], "DefaultUserRolePermissions": [(OBSERVER, READ)]}, "pass"),
    ({"DefaultUserRolePermissions": [(OBSERVER, READ_WRITE)]}, "fail"),
])
def test_what_a_namespace_grants_counts_for_nodes_without_rights_of_their_own(defaults: dict[str, Any], status: str) -> None:
    """That we are an Observer, another node tells."""
    ground = Ground()
    ground.add("ns=2;s=a", VARIABLE)
    ground.add("ns=2;s=told", VARIABLE, set={25: [(OBSERVER, READ)]})
    ground.metadata(**defaults)
    assert audited(ground)[1]["OA12"] == status
    for node, (_, _, given) in ground.nodes.items():
        if node.startswith("ns=2;"):
            given.setdefault(25 if node == "ns=2;s=told" else 24, [(OBSERVER, READ)])
    assert audited(ground)[1]["OA12"] == "pass"


@pytest.mark.parametrize(("above", "name", "status"), [(PLANT, "m", "fail"), ("ns=0;i=58", "m", "pass"), ("ns=0;i=2253", "GetMonitoredItems", "pass")])
def test_a_default_that_grants_calls_counts_where_something_can_be_called(above: str, name: str, status: str) -> None:
    ground = Ground()
    index = 0 if name == "GetMonitoredItems" else 2
    ground.add("ns=%d;i=11492" % index, METHOD, above, name=name)
    ground.metadata(NamespaceUri=TABLE[index], DefaultUserRolePermissions=[(OBSERVER, READ | 1 << 12)])
    assert audited(ground)[1]["OA12"] == status


def test_a_role_that_another_node_told_is_ours_everywhere() -> None:
    ground = Ground()
    ground.add("ns=2;s=a", VARIABLE, set={24: [(OBSERVER, READ), (OBSERVER, READ_WRITE)]})
    assert audited(ground)[1]["OA12"] == "pass"
    ground.add("ns=2;s=z", VARIABLE, set={25: [(OBSERVER, READ)]})
    _, statuses, record = audited(ground)
    assert statuses["OA12"] == "fail" and [one["node"] for one in record["findings"]] == ["nsu=urn:plant;s=a"]


@pytest.mark.parametrize("node_class", [OBJECT, VIEW])
def test_history_of_events_is_history(node_class: int) -> None:
    ground = Ground()
    ground.add("ns=2;s=a", node_class, set={25: [(OBSERVER, READ | 1 << 9)]})
    assert audited(ground)[1]["OA12"] == "fail"


def test_a_restriction_of_the_standards_objects_protects_no_plant() -> None:
    ground = Ground()
    ground.add("ns=0;i=12637", OBJECT, "ns=0;i=2253", set={26: 3})
    ground.add("ns=0;i=3706", OBJECT, "ns=0;i=2253")
    ground.add("ns=1;i=5", VARIABLE, "ns=0;i=3706", set={26: 3})
    assert audited(ground)[0].result.counts["encryption_required"] == 0
    ground.add("ns=2;s=a", VARIABLE, set={26: 3})
    assert audited(ground)[0].result.counts["encryption_required"] == 1


@pytest.mark.parametrize(("mode", "restriction", "status"), [
    ("Sign", 0, "fail"), ("Sign", 1, "fail"), ("Sign", 2, "skipped"), ("Sign", 4, "fail"), ("Sign", 8, "fail"),
    ("None", 1, "skipped"), ("None", 2, "skipped"), ("None", 4, "fail"),
])
@pytest.mark.parametrize("by_default", [False, True])
def test_only_a_restriction_that_keeps_the_weaker_endpoint_out_is_one(mode: str, restriction: int, status: str, by_default: bool) -> None:
    """At a node, or for a whole namespace."""
    ground = Ground()
    sound = ground.endpoints[0]
    ground.endpoints.append(replace(sound, mode=mode))
    ground.add("ns=2;s=a", VARIABLE, set={} if by_default else {26: restriction})
    if by_default:
        ground.metadata(DefaultAccessRestrictions=restriction)
    assert audited(ground)[1]["OA14"] == status


# -- endpoints -------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("token", "check"), [
    (TokenPolicy("a", "anonymous", ""), "OA4"), (TokenPolicy("u", "username", POLICY + "None"), "OA3"),
    (TokenPolicy("u", "username", POLICY + "Basic256"), "OA2"), (TokenPolicy("x", "certificate", POLICY + "None"), "OA2"),
])
def test_a_token_that_only_the_session_tells_of_counts(token: TokenPolicy, check: str) -> None:
    """A list without tokens, as some servers give it here, is none of others."""
    ground = Ground()
    ground.endpoints[:] = [replace(ground.endpoints[0], mode="Sign", tokens=(TokenPolicy("u", "username", ""),))]
    ground.session_endpoints = [replace(ground.endpoints[0], tokens=())]
    before = audited(ground)[1]
    ground.session_endpoints = [replace(ground.endpoints[0], tokens=(*ground.endpoints[0].tokens, token))]
    after = audited(ground)[1]
    assert {id for id in before if before[id] != after[id]} == {check} and after[check] == "fail"


# -- drift -----------------------------------------------------------------------------------------------
def lines(ground: Ground) -> dict[str, dict[str, str]]:
    return audited(ground)[0].result.lines


def test_roles_of_the_plant_are_the_same_after_a_restart() -> None:
    """In whatever order, and with another index of their namespace."""
    found = []
    for table, rows in ((TABLE, [("ns=2;s=Viewer", READ), (OBSERVER, READ)]), ((*TABLE[:2], "urn:new", URI), [(OBSERVER, READ), ("ns=3;s=Viewer", READ)])):
        ground = Ground(table=table)
        ground.add("ns=%d;s=a" % table.index(URI), VARIABLE, "ns=0;i=85", set={25: rows})
        found.append(lines(ground)[URI]["nsu=urn:plant;s=a"])
    assert found[0] == found[1]


@pytest.mark.parametrize("place", ["ns=0;i=3706", "ns=0;i=2290", "ns=0;i=2289"])
def test_what_clients_have_open_is_no_drift_and_may_go(place: str) -> None:
    ground = Ground()
    ground.add(place, VARIABLE, "ns=0;i=2253")
    before = lines(ground)
    ground.add("ns=1;i=9", VARIABLE, place, set=WRITABLE)
    facts, statuses, _ = audited(ground)
    assert facts.result.lines == before and statuses["OA8"] == "fail"
    del ground.nodes["ns=1;i=9"]
    ground.nodes["ns=1;i=9"] = VARIABLE, "", {attribute: Reading(BAD_NODE_ID_UNKNOWN) for attribute in (2, 6, 7, 17, 18, 24, 25, 26, 27)}
    assert audited(ground)[0].complete


# -- load ------------------------------------------------------------------------------------------------
def test_a_walk_that_is_stopped_stays_in_its_budget() -> None:
    """Nodes of which many continuation points are open at the deadline."""
    ground, budget = Ground(most=1), 100
    for one in range(60):
        above = ground.add("ns=2;s=o%d" % one, OBJECT)
        for other in range(400):
            ground.add("ns=2;s=o%d.%d" % (one, other), VARIABLE, above)
    facts, _, record = audited(ground, budget_per_s=budget, deadline_s=60.0)
    assert "deadline" in facts.error and record["coverage"]["truncated"]
    for begin, _ in ground.log:
        assert sum(count for moment, count in ground.log if begin <= moment < begin + 1.0) <= budget


# -- names -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("text", ["i=5", "i=500", "i=70000", "s=Füll", "g=00000000-0000-0000-0000-000000000001", "b=AAE="])
def test_an_identifier_in_another_namespace(text: str) -> None:
    for index in (0, 2, 300):
        assert audit_codec.renamed(audit_codec.from_text("ns=7;" + text), index) == audit_codec.from_text("ns=%d;%s" % (index, text))


# -- what is alike is judged as one ------------------------------------------------------------------------
class OneByOne(Ground):
    """The same server, of which nothing is alike."""

    def _page(self, references: list[Reference], status: int) -> Browsed:
        found = super()._page(references, status)
        return found._replace(references=[one for reference in apart(found.references) for one in alike([reference])])

    def texts(self, nodes: Sequence[str], head: Callable[[int], str]) -> list[tuple[int, list[str], list[str]]]:
        return [one for node in nodes for one in super(OneByOne, self).texts([node], head)]


#: Attributes of a node: writable, a hole, a lie, roles, restrictions, gone, of another class than announced.
SETS: tuple[dict[int, Any], ...] = (
    {}, {}, {}, WRITABLE, {18: DENIED}, {17: 1, 18: 3}, {25: [(OBSERVER, READ_WRITE)]}, {24: [(OBSERVER, READ_WRITE)]}, {26: 2},
    {21: True, 22: True}, {2: METHOD}, {2: ABSENT}, {attribute: Reading(BAD_NODE_ID_UNKNOWN) for attribute in (2, 6, 7, 17, 18, 21, 22, 24, 25, 26, 27)})
PLACES = ("ns=0;i=85", PLANT, "ns=0;i=3706", "ns=0;i=58", "ns=0;i=88")
NODES = st.lists(st.tuples(
    st.integers(0, 30), st.sampled_from([VARIABLE, VARIABLE, VARIABLE, OBJECT, METHOD]), st.sampled_from([0, 2, 2, 2]), st.sampled_from(SETS),
    st.sampled_from([HAS_COMPONENT, HAS_COMPONENT, ORGANIZES, GENERATES_EVENT]), st.sampled_from(["", "Tag", "AddRole", "ConditionRefresh"]),
    st.sampled_from([1, 1, 2, 5])), max_size=20)


LINKS = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30), st.sampled_from([HAS_COMPONENT, GENERATES_EVENT, HAS_TYPE_DEFINITION])), max_size=6)


@hypothesis.given(NODES, LINKS, st.sampled_from([4, 1000]), st.sampled_from([1, 3]))
def test_judged_as_one_or_one_by_one_it_is_the_same(rows: list[Any], links: list[Any], batch: int, in_flight: int) -> None:
    ends = []
    for kind in (Ground, OneByOne):
        ground = kind()
        ground.add("ns=0;i=3706", OBJECT, "ns=0;i=2253")
        ground.add("ns=0;i=15111", 8, "ns=0;i=58", HAS_SUBTYPE)
        places = [*PLACES, "ns=0;i=15111"]
        for number, (above, node_class, index, sets, reference, name, times) in enumerate(rows):
            place = places[above % len(places)]
            for one in range(times):
                places.append(ground.add("ns=%d;i=%d" % (index, 50000 + 10 * number + one), node_class, place, reference, name, set=sets))
        for source, target, reference in links:
            ground.link(places[source % len(places)], reference, places[target % len(places)])
        with patch.object(audit_walk, "RUN", 1 if kind is OneByOne else audit_walk.RUN):
            facts, _, record = audited(ground, in_flight=in_flight, batch=batch, tags=("nsu=urn:plant;i=50010", "i=50020", "nsu=urn:plant;s=gone"))
        assert facts.memo is not None and "unforeseen" not in facts.error
        ends.append((facts.result, facts.memo.dump(), record["verdict"], list(facts.result.lines.get(URI, ()))))
    assert ends[0] == ends[1]


def test_an_object_that_writes_variables_is_named_among_its_siblings() -> None:
    ground = Ground()
    ground.add("ns=0;i=15111", 8, "ns=0;i=58", HAS_SUBTYPE)
    for number in range(30):
        ground.add("ns=2;i=%d" % (50000 + number), OBJECT, PLANT)
    ground.link("ns=2;i=50015", HAS_TYPE_DEFINITION, "ns=0;i=15111")
    assert audited(ground)[0].result.subscribed_data_sets == ["nsu=urn:plant;i=50015"]
