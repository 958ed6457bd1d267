# SPDX-License-Identifier: Apache-2.0
"""The site model, its needed flows and who may dial whom."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from ansible_collections.hnai.platform.plugins.module_utils.zones.acls import kafka_acls, mosquitto_acl, mqtt_overlap
from ansible_collections.hnai.platform.plugins.module_utils.zones.flows import needed_flows
from ansible_collections.hnai.platform.plugins.module_utils.zones.law import dial
from ansible_collections.hnai.platform.plugins.module_utils.zones.model import Service, Site

FIXTURE = yaml.safe_load((Path(__file__).parent / "fixtures/site/site.yml").read_text(encoding="utf-8"))


@pytest.fixture
def data() -> dict[str, Any]:
    return copy.deepcopy(FIXTURE)


def site_with(**hosts: str) -> Site:
    """The fixture with one host more per zone: name → zone."""
    data = copy.deepcopy(FIXTURE)
    for number, (name, zone) in enumerate(hosts.items(), 50):
        net4, net6 = data["zones"][zone]["cidrs"]
        data["hosts"][name] = {
            "zone": zone,
            "addresses": {"v4": net4.replace("0/24", str(number)), "v6": net6.replace("/64", str(number))},
        }
        data["groups"]["managed"].append(name)
    return Site.from_dict(data)


def test_the_fixture_is_right(data: dict[str, Any]) -> None:
    assert Site.from_dict(data).problems == []


def test_needed_flows_are_contracts_times_placement(data: dict[str, Any]) -> None:
    flows, problems = needed_flows(Site.from_dict(data))
    assert problems == []
    pairs = {(flow.source, flow.target, flow.proto, flow.port) for flow in flows}
    assert {("edge1", f"kafka{n}", "tcp", 9094) for n in (1, 2, 3)} <= pairs
    assert {("kafka1", "kafka2", "tcp", 9093), ("kafka2", "kafka1", "tcp", 9093)} <= pairs
    assert ("edge1", "plc1", "tcp", 4840) in pairs
    assert ("plc1", "edge1", "tcp", 8883) in pairs
    assert ("controller", "jump1", "tcp", 22) in pairs
    assert ("jump1", "router", "tcp", 22) in pairs
    assert ("sec1", "jump1", "udp", 123) in pairs
    # Only the child group's hosts, never a host to itself, never down from the store.
    assert not [pair for pair in pairs if pair[0] == pair[1]]
    assert ("data1", "kafka1", "tcp", 9094) not in pairs
    assert ("edge1", "kafka1", "tcp", 9095) not in pairs
    assert not [pair for pair in pairs if pair[3] == 8883 and pair[0] == "edge1"]


#: (initiator's zone, target's zone, kind) → invariant that refuses it, '' if allowed. Every ordered pair of zones.
LAW = {
    ("l2", "l2"): "",
    ("l2", "l3"): "",
    ("l2", "l35"): "I2",
    ("l2", "l4"): "I2",
    ("l2", "security"): "I2",
    ("l2", "mgmt"): "I9",
    ("l3", "l2"): "I3",
    ("l3", "l3"): "",
    ("l3", "l35"): "",
    ("l3", "l4"): "I2",
    ("l3", "security"): "",
    ("l3", "mgmt"): "I9",
    ("l35", "l2"): "I1",
    ("l35", "l3"): "I1",
    ("l35", "l35"): "",
    ("l35", "l4"): "I1",
    ("l35", "security"): "",
    ("l35", "mgmt"): "I9",
    ("l4", "l2"): "I1",
    ("l4", "l3"): "I1",
    ("l4", "l35"): "",
    ("l4", "l4"): "",
    ("l4", "security"): "",
    ("l4", "mgmt"): "I9",
    ("security", "l2"): "I1",
    ("security", "l3"): "I1",
    ("security", "l35"): "I1",
    ("security", "l4"): "I1",
    ("security", "security"): "I1",
    ("security", "mgmt"): "I1",
    ("mgmt", "l2"): "I9",
    ("mgmt", "l3"): "I9",
    ("mgmt", "l35"): "I9",
    ("mgmt", "l4"): "I9",
    ("mgmt", "security"): "I9",
    ("mgmt", "mgmt"): "",
}


@pytest.mark.parametrize(("pair", "invariant"), LAW.items(), ids=lambda value: "→".join(value) if isinstance(value, tuple) else value)
def test_who_may_dial_whom(pair: tuple[str, str], invariant: str) -> None:
    site = site_with(here=pair[0], there=pair[1])
    refusal = dial(site, site.nodes["here"], site.nodes["there"], Service("tcp", 5000), "direct")
    assert (refusal.invariant if refusal else "") == invariant
    assert refusal is None or refusal.remedy


@pytest.mark.parametrize("kind", ["direct", "jump", "brokered", "reverse", "diode"])
@pytest.mark.parametrize(("here", "there"), [("l4", "l3"), ("l4", "l2"), ("l35", "l2")])
def test_no_kind_opens_the_way_down(here: str, there: str, kind: str) -> None:
    site = site_with(here=here, there=there)
    refusal = dial(site, site.nodes["here"], site.nodes["there"], Service("tcp", 5000), kind)
    assert refusal is not None
    assert refusal.invariant == "I1"
    assert "even if a person approved it" in refusal.message


@pytest.mark.parametrize(("kind", "allowed"), [("jump", True), ("brokered", True), ("direct", False), ("diode", False)])
def test_idmz_to_level_3_only_jump_or_brokered(kind: str, allowed: bool) -> None:
    site = site_with(here="l35", there="l3")
    assert (dial(site, site.nodes["here"], site.nodes["there"], Service("tcp", 5000), kind) is None) == allowed


@pytest.mark.parametrize(
    ("app", "ops", "allowed"),
    [
        ("opcua", ("read", "subscribe"), True),
        ("modbus", ("read_holding_registers",), True),
        ("opcua", ("read", "write"), False),
        ("opcua", ("call",), False),
        ("opcua", (), False),
        ("modbus", ("write_coil",), False),
        ("", ("read",), False),
        ("s7", ("read",), False),
    ],
)
def test_collector_takes_read_verbs_only_into_level_2(data: dict[str, Any], app: str, ops: tuple[str, ...], allowed: bool) -> None:
    site = Site.from_dict(data)
    service = Service("tcp", 4840, "", "", app, ops)
    assert (dial(site, site.nodes["edge1"], site.nodes["plc1"], service, "direct") is None) == allowed


def test_only_the_collector_reaches_level_2() -> None:
    site = site_with(other="l3")
    refusal = dial(site, site.nodes["other"], site.nodes["plc1"], Service("tcp", 4840, "", "", "opcua", ("read",)), "direct")
    assert refusal is not None
    assert refusal.invariant == "I3"


def test_management_comes_from_the_jump_only(data: dict[str, Any]) -> None:
    site = Site.from_dict(data)
    ssh = Service("tcp", 22)
    assert dial(site, site.nodes["jump1"], site.nodes["edge1"], ssh, "management") is None
    for source, target, service, kind in (
        ("data1", "kafka1", ssh, "management"),
        ("jump1", "edge1", ssh, "direct"),
        ("jump1", "edge1", Service("tcp", 5985), "management"),
        ("jump1", "plc1", ssh, "management"),
        ("kafka1", "kafka2", ssh, "direct"),
    ):
        refusal = dial(site, site.nodes[source], site.nodes[target], service, kind)
        assert refusal is not None, (source, target, kind)
        assert refusal.invariant == "I9"


def test_security_initiates_raft_and_time_only() -> None:
    data = copy.deepcopy(FIXTURE)
    data["hosts"]["sec2"] = {"zone": "security", "addresses": {"v4": "10.0.36.12", "v6": "fd00:36::12"}}
    data["groups"]["managed"].append("sec2")
    data["groups"]["vault"].append("sec2")
    site = Site.from_dict(data)
    raft = Service("tcp", 8201, "vault", "cluster")
    assert dial(site, site.nodes["sec1"], site.nodes["sec2"], raft, "direct") is None
    assert dial(site, site.nodes["sec1"], site.nodes["jump1"], Service("udp", 123), "direct") is None
    assert dial(site, site.nodes["sec1"], site.nodes["sec2"], Service("tcp", 5432), "direct") is not None
    assert dial(site, site.nodes["sec1"], site.nodes["kafka1"], Service("tcp", 9094), "direct") is not None


def test_nothing_enters_or_leaves_an_island() -> None:
    data = copy.deepcopy(FIXTURE)
    data["zones"]["l3"]["island"] = True
    site = Site.from_dict(data)
    for source, target in (("edge1", "kafka1"), ("plc1", "edge1"), ("jump1", "edge1")):
        refusal = dial(site, site.nodes[source], site.nodes[target], Service("tcp", 22), "management")
        assert refusal is not None
        assert refusal.invariant == "I4"


def test_kafka_acls_follow_from_contract_and_approval(data: dict[str, Any]) -> None:
    acls = kafka_acls(Site.from_dict(data))
    got = {(acl["principal"], acl["operation"], acl["resource_type"], acl["pattern_type"], acl["name"]) for acl in acls}
    assert got == {
        ("User:shipper", "Write", "topic", "literal", "ot.raw"),
        ("User:shipper", "Describe", "topic", "literal", "ot.raw"),
        ("User:writer", "Read", "topic", "literal", "ot.raw"),
        ("User:writer", "Describe", "topic", "literal", "ot.raw"),
        ("User:writer", "Read", "group", "literal", "writer"),
    }
    data["contracts"]["telegraf"]["secrets"] = [{"path": "telegraf/kafka", "username": "shipper", "rotate": "scram_pair"}]
    more = kafka_acls(Site.from_dict(data))
    assert [acl for acl in more if acl not in acls] == [{**acl, "principal": "User:shipper.b"} for acl in acls if acl["principal"] == "User:shipper"]
    data["contracts"]["telegraf"]["secrets"] = []
    data["conduits"] = [conduit for conduit in data["conduits"] if conduit["id"] != "C-401"]
    assert {acl["principal"] for acl in kafka_acls(Site.from_dict(data))} == {"User:shipper"}


def test_a_star_at_the_end_is_a_prefix(data: dict[str, Any]) -> None:
    data["contracts"]["telegraf"]["connects"][2]["topics"]["read"] = ["ot.*"]
    assert ("prefixed", "ot.") in {(acl["pattern_type"], acl["name"]) for acl in kafka_acls(Site.from_dict(data))}


def test_mosquitto_acl(data: dict[str, Any]) -> None:
    got = mosquitto_acl(Site.from_dict(data))
    assert [{key: entry[key] for key in ("principal", "read", "write")} for entry in got] == [
        {"principal": "line1", "read": [], "write": ["line/line1/#"]},
        {"principal": "shipper", "read": ["line/#"], "write": ["ot/#"]},
    ]
    assert got[0]["hosts"] == {"plc1": ["10.0.2.11", "fd00:2::11"]}, "where each stands: whoever checks sessions must know"


@pytest.mark.parametrize(
    ("first", "second", "meet"),
    [
        ("ot/#", "ot/a/b", True),
        ("ot/#", "ot", True),
        ("#", "a/b", True),
        ("a/+/c", "a/b/c", True),
        ("a/+", "a/b/c", False),
        ("a/+/c", "a/b/d", False),
        ("line/1/#", "line/2/#", False),
        ("a/b", "a/b", True),
        ("+/b", "a/+", True),
    ],
)
def test_mqtt_overlap(first: str, second: str, meet: bool) -> None:
    assert mqtt_overlap(first, second) == mqtt_overlap(second, first) == meet
