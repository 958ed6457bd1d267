# SPDX-License-Identifier: Apache-2.0
"""Discovery of a real server: every Variable with what the server says of it, one session, nothing but reading, the rails of the audit."""
from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from asyncua import ua
from asyncua.common.structures104 import new_enum
from opcua_stand import CLIENT_URI, PLANT, WRITING, Stand, mirrors_host

from ansible_collections.hnai.platform.plugins.module_utils.opcua.audit_host import Options, State
from ansible_collections.hnai.platform.plugins.module_utils.opcua.audit_types import AuditError
from ansible_collections.hnai.platform.plugins.module_utils.opcua.discover import Proposal
from ansible_collections.hnai.platform.plugins.module_utils.opcua.discover_host import Discover
from ansible_collections.hnai.platform.plugins.module_utils.verdict import Report

READING = {"GetEndpoints", "CreateSession", "ActivateSession", "Browse", "BrowseNext", "Read", "CloseSession"}
STEP = "nsu=%s;" % PLANT


async def plant(stand: Stand) -> None:
    """A pump with an analogue value that has a trend below it, an enumeration, a multi-state value, an array, a time, two of one name."""
    index, add = stand.index, ua.NodeId
    pump = await stand.plant.add_object(add("P1", index), "%d:Pump1" % index)
    pressure = await pump.add_variable(add("P1.PT", index), "%d:Pressure" % index, ua.Variant(1.5, ua.VariantType.Double))
    unit = ua.EUInformation("http://www.opcfoundation.org/UA/units/un/cefact", 4408652, ua.LocalizedText("°C"), ua.LocalizedText("degree Celsius"))
    await pressure.add_property(ua.NodeId("P1.PT.EU", index), "0:EngineeringUnits", unit)
    await pressure.add_property(ua.NodeId("P1.PT.EUR", index), "0:EURange", ua.Range(-10.0, 400.0))
    await pressure.add_property(ua.NodeId("P1.PT.Note", index), "%d:Note" % index, "not a tag")
    await pressure.add_variable(add("P1.PT.Mean", index), "%d:Mean" % index, ua.Variant(1.5, ua.VariantType.Float))
    kind = await new_enum(stand.server, index, "State", ["Off", "Run"])
    await pump.add_variable(add("P1.State", index), "%d:State" % index, 0, varianttype=ua.VariantType.Int32, datatype=kind.nodeid)
    multi = await pump.add_variable(add(77, index), "%d:Mode" % index, ua.Variant(1, ua.VariantType.UInt32))
    await multi.add_property(ua.NodeId("P1.Mode.E", index), "0:EnumStrings", [ua.LocalizedText("MAN"), ua.LocalizedText("AUTO")])
    await pump.add_variable(add("P1.Curve", index), "%d:Curve" % index, [1.0, 2.0])
    await pump.add_variable(add("P1.When", index), "%d:When" % index, ua.DateTime(2026, 1, 1))
    for number in (2, 3):
        other = await stand.plant.add_object(add("P%d" % number, index), "%d:Pump%d" % (index, number))
        await other.add_variable(add("P%d.Run" % number, index), "%d:Running" % index, True)
    # Two ways to the same node: the first of the shortest ones is its place.
    shared = stand.server.get_node(add("P3.Run", index))
    await stand.plant.add_reference(shared, ua.NodeId(ua.ObjectIds.Organizes))


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    logging.getLogger("asyncua").setLevel(logging.CRITICAL)
    one = Stand(tmp_path_factory.mktemp("stand"), full=True).start()
    one.call(plant(one))
    yield one
    one.stop()


@pytest.fixture
def site(stand: Stand, tmp_path: Path) -> Iterator[Any]:
    """(places, source, host, now): a mirror's host."""
    yield from mirrors_host(stand, tmp_path, [
        {"name": "pressure", "node": STEP + "s=P1.PT", "type": "double", "unit": "degC", "unit_to": "degC"},
        {"name": "lost", "node": STEP + "s=P9", "type": "int", "unit": "", "unit_to": ""}])


def look(site: Any, write: bool = True) -> Proposal:
    places, source, host, now = site
    options = Options(application_uri=CLIENT_URI, environment="", exceptions=[], accept_drift=[], deadline_s=120.0, write_state=write)
    discover = Discover(Report("ot_collector", deadline_s=None), places, options, host, now=lambda: now, wait=lambda seconds: None)
    (proposal,) = discover.look([{"id": "m", "protocol": "modbus"}, source])
    return proposal


def test_everything_that_a_server_says_of_its_variables(site: Any, stand: Stand) -> None:
    found = look(site)
    tags = {tag["name"]: tag for tag in found.tags}
    assert sorted(found.new) == ["mean", "mode", "plant_running", "pump2_running", "state"]
    assert found.gone == ["lost"] and not found.changed and not found.incomplete
    assert tags["pressure"]["path"] == [STEP + "Plant", STEP + "Pump1", STEP + "Pressure"] and found.ranges == {"pressure": [-10.0, 400.0]}
    assert tags["mean"]["type"] == "float" and tags["mean"]["path"][-2:] == [STEP + "Pressure", STEP + "Mean"]
    assert tags["state"]["type"] == "enum" and tags["state"]["codes"] == {0: "Off", 1: "Run"}
    assert tags["mode"]["type"] == "enum" and tags["mode"]["codes"] == {0: "MAN", 1: "AUTO"} and tags["mode"]["node"] == STEP + "i=77"
    assert {item["path"].rsplit("/", 1)[1] for item in found.left_out} == {"Curve", "When"}
    # One session, named for what it is, closed; nothing was sent that is not reading.
    assert stand.services["CreateSession"] == stand.services["ActivateSession"] == stand.services["CloseSession"] == 1
    assert set(stand.services) <= READING and not set(stand.services) & WRITING and not stand.left()
    again = look(site)
    assert (again.tags, again.new, again.left_out) == (found.tags, found.new, found.left_out)
    site[1]["tags"] = found.tags
    assert not look(site).differs, "what was taken over differs in nothing"


def test_another_way_to_a_tag_renames_nothing(site: Any, stand: Stand) -> None:
    """Not even a shorter one: a folder of favourites."""
    site[1]["tags"] = look(site).tags
    objects, pressure = stand.server.nodes.objects, ua.NodeId("P1.PT", stand.index)
    organizes = ua.NodeId(ua.ObjectIds.Organizes)
    stand.call(objects.add_reference(pressure, organizes))
    try:
        assert not look(site).differs
    finally:
        stand.call(objects.delete_reference(pressure, organizes))
    site[1]["tags"] = [{**tag, "path": ["gone", *tag["path"][1:]]} if tag["name"] == "pressure" else tag for tag in site[1]["tags"]]
    assert look(site).gone == ["pressure"], "a path that leads nowhere keeps nothing"


def test_a_miserly_server_is_read_to_the_end(site: Any, stand: Stand) -> None:
    whole = look(site)
    stand.services.clear()
    stand.spoil.max_references, stand.spoil.max_browse, stand.spoil.max_read, stand.spoil.max_points = 1, 2, 3, 4
    found = look(site)
    assert stand.services["BrowseNext"] > 5
    assert found.tags == whole.tags and not found.incomplete


def test_a_hole_is_named_and_calls_nothing_gone(site: Any, stand: Stand) -> None:
    stand.set("ns=%d;s=P1.PT.Mean" % stand.index, 14, 0x80340000)
    found = look(site)
    assert "P1.PT.Mean: attribute 14" in found.incomplete and found.unseen == ["lost"] and not found.gone


@pytest.mark.parametrize("fault", ["cut off", "always busy", "one session left"])
def test_half_a_look_is_no_proposal(site: Any, stand: Stand, fault: str) -> None:
    match = {"cut off": "plc-1: ", "always busy": "BadResourceUnavailable", "one session left": "0 of 2 sessions left"}[fault]
    if fault == "cut off":
        stand.spoil.drop_after = 30
    elif fault == "always busy":
        stand.spoil.busy_every = 1
    else:
        stand.set("ns=0;i=24095", 13, 2, ua.VariantType.UInt32)
        stand.set("ns=0;i=2277", 13, 2, ua.VariantType.UInt32)
    with pytest.raises(AuditError, match=match):
        look(site)
    assert stand.services["CreateSession"] == stand.services["ActivateSession"] == 1
    if fault != "cut off":
        assert stand.services["CloseSession"] == 1 and not stand.left()


def test_it_comes_after_the_collector_and_counts_with_the_audit(site: Any, stand: Stand) -> None:
    places, source, _host, now = site
    look(site, write=False)
    assert not places.state.exists(), "check mode leaves nothing"
    look(site)
    assert State(places.state, "plc-1", True).read("dials") == [now]
    stand.services.clear()
    source["limits"] = {"connections": 1}
    with pytest.raises(AuditError, match="plc-1: 1 of 1 connections"):
        look(site)
    assert not stand.services
