# SPDX-License-Identifier: Apache-2.0
"""The audit against servers of three makers, with faults at places that a stranger would choose.

Found only by an intrusive check, so not here: that a server trusts any certificate (OA5), that it lets anybody in although it offers no Anonymous
token (OA4). The audit says that it did not try; that is what is asserted.
"""
from __future__ import annotations

import asyncio
import random
import time
from pathlib import Path
from typing import Any

import kit
import plans
import pytest
import speed
from collecting import collecting
from eyes import Seen, target
from opcua_stand import WRITING
from plant_view import until

from ansible_collections.hnai.platform.plugins.module_utils.opcua.asyncua_reader import Reader, der, describe
from ansible_collections.hnai.platform.plugins.module_utils.opcua.audit_load import Budget
from ansible_collections.hnai.platform.plugins.module_utils.opcua.write_channel import WriteChannel
from ansible_collections.hnai.platform.plugins.module_utils.opcua.write_probe import MARKER, Canary, canary_probe

pytestmark = pytest.mark.scenario("opcua-stacks")
STACKS = pytest.mark.parametrize("stack", kit.STACKS)
NODE_CHECKS = ("OA8", "OA9", "OA10", "OA11", "OA12")
READING = {"GetEndpoints", "CreateSession", "ActivateSession", "CloseSession", "Read", "Browse", "BrowseNext"}
#: What a hardened server of this stack still says against itself, outside the plant: check → why that is so.
NOISE: dict[str, dict[str, str]] = {
    "asyncua": {},
    "node-opcua": {"OA8": "its own namespace has writable diagnostics (EnabledFlag, EndpointsExclude), which no setting closes"},
    "open62541": {"OA16": "1.4 has no audit events: Auditing is false whatever is written to it"},
}
#: What a server as it is delivered says against itself beyond that, by the check it belongs to.
STOCK = {
    "asyncua": "no 'stock' run: the stand of the unit tests closes what asyncua's nodeset announces (458 of 459 methods)",
    "node-opcua": "methods GetMonitoredItems, ResendData, SetSubscriptionDurable are on the audit's own list of harmless ones",
    "open62541": "PubSub configuration is executable for everybody: a true finding",
}


def planted(seen: Seen, check: str) -> set[str]:
    """Findings in the plant's namespaces; the rest is the stack's own noise."""
    return {node for node in seen.nodes(check) if node.startswith(("nsu=%s;" % plans.PLANT, "nsu=%s;" % plans.CELL))}


@STACKS
def test_a_clean_server_is_accused_of_nothing_but_its_makers_noise(stack: str, pki: kit.Pki, seed: int, tmp_path: Path) -> None:
    plot = plans.tree(seed, stack, False, **pki.plan())
    tags = tuple(plans.stable(node["id"]) for node in plot.plan["nodes"] if node["class"] == plans.VARIABLE)
    with kit.running(stack, plot.plan, tmp_path) as server:
        seen = Seen(pki, server.port, tags=tags)
        record = server.record()
    assert seen.facts.complete, seen.facts.error
    assert not {check: planted(seen, check) for check in NODE_CHECKS if planted(seen, check)}
    # A node that is both hidden and declared is found all the same: nothing is missing, nothing needs the tag map.
    assert not seen.record["coverage"]["missing_tags"] and not seen.record["coverage"]["hidden_tags"]
    assert seen.bad() - {"OA0"} == set(NOISE[stack]), seen.why()
    assert seen.verdict == ("refuted" if "OA8" in NOISE[stack] else "claimed")
    # The server's own record of an encrypted session, where the stack keeps one.
    assert set(record) <= READING and (record or stack == "open62541")
    assert not record or (record["CreateSession"], record["ActivateSession"], record["CloseSession"]) == (1, 1, 1)


def test_an_open62541_server_as_delivered_is_refuted_by_its_pubsub_methods(pki: kit.Pki, tmp_path: Path) -> None:
    with kit.running("open62541", plans.empty(hardened=False, **pki.plan()), tmp_path) as server:
        seen = Seen(pki, server.port)
    assert seen.verdict == "refuted" and seen.bad() == {"OA0", "OA11", "OA16"}
    names = {name for check, name in seen.standard() if check == "OA11"}
    assert {"AddConnection", "RemoveConnection"} <= names and not {"GetMonitoredItems", "ResendData", "SetSubscriptionDurable"} & names


@STACKS
@pytest.mark.parametrize("fast", [True, False])
def test_every_planted_fault_is_found_and_nothing_else(stack: str, fast: bool, pki: kit.Pki, seed: int, tmp_path: Path) -> None:
    """By the codec, and by the library alone."""
    plot = plans.tree(seed + 1, stack, True, **pki.plan())
    with kit.running(stack, plot.plan, tmp_path) as server:
        seen = Seen(pki, server.port) if fast else Seen(pki, server.port, reader=Reader)
    assert seen.facts.complete, (seen.facts.error, seen.facts.result.unread, seen.facts.result.truncated)
    assert {check: planted(seen, check) for check in NODE_CHECKS} == {check: plot.expected.get(check, set()) for check in NODE_CHECKS}
    assert seen.verdict == "refuted"


@STACKS
def test_faults_of_the_endpoints_are_named(stack: str, pki: kit.Pki, tmp_path: Path) -> None:
    plan = plans.empty(endpoints=[["None", "None"], ["Basic256", "Sign"], ["Basic256Sha256", "Sign"], ["Basic256Sha256", "SignAndEncrypt"]],
                       anonymous=True, clear_password=True, auto_trust=True, **pki.plan())
    with kit.running(stack, plan, tmp_path) as server:
        pin = describe(der(pki.read("server.pem"))).sha256
        seen = Seen(pki, server.port, thumbprints={"plc1": pin, "plc2": pin})
    assert {"OA1", "OA2", "OA3", "OA4", "OA6", "OA14"} <= seen.bad(), (seen.facts.error, seen.why())
    assert "plc2" in seen.reason("OA6")
    assert seen.status()["OA5"] == "skipped" and any("OA5" in text for text in seen.record["not_tested"])


@STACKS
def test_five_thousand_children_and_tiny_limits_lose_nothing(stack: str, pki: kit.Pki, seed: int, tmp_path: Path) -> None:
    count = 5000 if stack == "open62541" else 1000
    plot = plans.Plot(random.Random(seed), plans.empty(limits={"read": 7, "browse": 3, "references": 10, "points": 2}, **pki.plan()))
    top = plot.node(plans.OBJECT, plans.OBJECTS, plans.ORGANIZES, "s")
    children = [plot.node(plans.VARIABLE, top) for _ in range(count)]
    for text in plot.rng.sample(children, 3):
        plot.plant(text, plans.FAULTS[0])
    with kit.running(stack, plot.plan, tmp_path) as server:
        # The standard's own nodes take thousands of tiny requests: the plant comes first, and the deadline says that the rest was not read.
        seen = Seen(pki, server.port, deadline_s=60.0 if stack != "asyncua" else 200.0)
    found = sum(1 for node in seen.facts.result.lines.get(plans.PLANT, {}))
    assert planted(seen, "OA8") == plot.expected["OA8"] and found >= count
    assert seen.verdict == "refuted"
    assert seen.facts.load["batch"]["browse"] <= 3 and seen.facts.load["batch"]["read"] <= 7
    if seen.facts.error:
        assert {"OA18"} <= seen.bad() and "deadline" in seen.facts.error and seen.status()["OA10"] == "inconclusive"


@STACKS
def test_a_line_that_is_cut_or_silent_ends_inconclusive(stack: str, pki: kit.Pki, seed: int, tmp_path: Path) -> None:
    plot = plans.tree(seed, stack, True, **pki.plan())
    with kit.running(stack, plot.plan, tmp_path) as server:
        for fault in ({"cut_after": 33}, {"mute_after": 33}):
            with kit.wire(server.port, **fault) as wire:
                begin = time.monotonic()
                seen = Seen(pki, wire.port, want=target(pki, wire.port, request_timeout_s=5.0, connect_timeout_s=30.0))
                assert seen.verdict in ("inconclusive", "refuted") and seen.facts.error, fault
                assert {"OA0", "OA18"} <= seen.bad() and wire.connections == 1 and time.monotonic() - begin < 90
                assert not seen.facts.complete and seen.status()["OA12"] in ("inconclusive", "fail")


@STACKS
def test_no_writing_service_is_on_the_wire(stack: str, pki: kit.Pki, seed: int, tmp_path: Path) -> None:
    """Signed, not encrypted: every request is read; operations are counted where they arrive, and never more in a second than allowed."""
    plot = plans.tree(seed, stack, True, endpoints=[["Basic256Sha256", "Sign"]], **pki.plan())
    budget = 400
    with kit.running(stack, plot.plan, tmp_path) as server, kit.wire(server.port) as wire:
        seen = Seen(pki, wire.port, mode="Sign")
        assert seen.facts.complete, seen.facts.error
        assert not WRITING & set(wire.services) and set(wire.services) <= READING and not wire.unknown
        assert (wire.connections, wire.services["CreateSession"], wire.services["CloseSession"]) == (1, 1, 1)
        assert sum(count for _, count in wire.operations) == seen.facts.load["operations"]
        wire.operations.clear()
        slow = Seen(pki, wire.port, mode="Sign", budget_per_s=budget, deadline_s=20.0)
        assert "deadline" in slow.facts.error or slow.facts.complete
        for begin, _ in wire.operations:
            assert sum(count for moment, count in wire.operations if begin <= moment < begin + 1.0) <= budget
        assert sum(count for _, count in wire.operations) > budget


@STACKS
def test_a_server_that_slows_down_is_left_alone(stack: str, pki: kit.Pki, seed: int, tmp_path: Path) -> None:
    plot = plans.tree(seed, stack, False, size=30, **pki.plan())
    with kit.running(stack, plot.plan, tmp_path) as server, kit.wire(server.port, slow_after=(40, 0.8)) as wire:
        seen = Seen(pki, wire.port, latency_floor_s=0.3, budget_per_s=600, in_flight=1, rest_s=0.5)
    assert seen.verdict == "inconclusive" and len(seen.facts.load["alarms"]) == 2 and "a read takes" in seen.facts.error


@pytest.mark.parametrize("stack", ["asyncua", "node-opcua"])
def test_the_last_session_is_not_taken(stack: str, pki: kit.Pki, tmp_path: Path) -> None:
    """open62541 1.4 tells no MaxSessions (i=24095): there the audit cannot know, and says so in OA20's evidence."""
    plan = plans.empty(limits={"sessions": 2}, **pki.plan())

    async def held(port: int) -> Seen:
        other = Reader(target(pki, port, name="somebody-else"))
        await other.open()
        try:
            return await asyncio.to_thread(Seen, pki, port)
        finally:
            await other.close()

    with kit.running(stack, plan, tmp_path) as server:
        seen = asyncio.run(held(server.port))
        record = server.record()
    assert seen.verdict == "inconclusive" and "sessions left" in seen.facts.error
    assert not record["Browse"]


class Notes:
    """The canary's note, in memory."""

    def __init__(self) -> None:
        self.text: Any = None

    def note(self) -> Any:
        return self.text

    def keep(self, note: Any) -> None:
        self.text = note

    def drop(self) -> None:
        self.text = None


@STACKS
def test_a_server_that_lies_is_claimed_by_the_audit_and_refuted_by_the_canary(stack: str, pki: kit.Pki, tmp_path: Path) -> None:
    plan = plans.empty(**pki.plan())
    plan["nodes"] = [
        {"id": "ns=2;s=Commissioning", "class": 1, "name": "Commissioning", "parent": plans.OBJECTS, "reference": plans.ORGANIZES, "set": {}},
        {"id": "ns=2;s=Canary", "class": 2, "name": "WriteCanary", "parent": "ns=2;s=Commissioning", "reference": plans.HAS_COMPONENT, "value": 7.5,
         "lies": 1, "set": {"17": 3}},
        {"id": "ns=2;s=Mark", "class": 2, "name": MARKER, "parent": "ns=2;s=Canary", "reference": plans.HAS_PROPERTY, "value": "here", "set": {}}]
    canary = Canary(("nsu=%s;Commissioning" % plans.PLANT, "nsu=%s;WriteCanary" % plans.PLANT), "here")
    with kit.running(stack, plan, tmp_path) as server:
        seen = Seen(pki, server.port)
        assert not {check: planted(seen, check) for check in NODE_CHECKS if planted(seen, check)} and seen.facts.complete
        assert seen.verdict == ("refuted" if "OA8" in NOISE[stack] else "claimed")
        assert any("attributes are claims" in text for text in seen.record["not_tested"])

        def channel(user: str, password: str) -> WriteChannel:
            return WriteChannel(target(pki, server.port, username=user, password=password), Budget(50, time.monotonic, asyncio.sleep))

        attempt = asyncio.run(canary_probe(lambda: channel("engineer", "e-secret"), lambda: channel("observer", "secret"), canary, Notes(), (), lambda: None))
    assert attempt.controlled, attempt
    assert attempt.status is not None and not attempt.status & 0x80000000 and attempt.moved and attempt.restored


def test_a_hundred_thousand_nodes(pki: kit.Pki, tmp_path: Path) -> None:
    """Ratios of one run: this machine is shared."""
    found = speed.measure(pki, tmp_path)
    print(found.text())
    assert not found.misses(), found.text()


@STACKS
def test_the_collector_gets_a_node_back_that_was_deleted_and_made_again(stack: str, pki: kit.Pki, tmp_path: Path) -> None:
    """A download to the PLC. asyncua's items never say that their node is gone, and node-opcua's never speak again."""
    nodes = [{"id": f"ns=2;s={name}", "class": plans.VARIABLE, "name": name, "parent": plans.OBJECTS, "value": 1.5, "set": {}} for name in "AB"]
    with kit.running(stack, {**plans.empty(), **pki.plan(), "nodes": nodes}, tmp_path / "server") as server, collecting(server, pki, "AB") as seen:
        until("both are told", lambda: {"a", "b"} <= set(seen.good()), 60)
        server.order("d")
        until("one is Bad", lambda: seen.last["a"].status in (0x80330000, 0x80340000) and seen.health.failed.keys() == {"a"}, 60)
        server.order("a")
        began = len(seen.records)
        until("it is read again", lambda: "a" in seen.good(began), 60)
        assert seen.health.failed == {} and seen.health.losses == 0 and not [one for one in seen.records if one.tag == "b" and one.gap]
