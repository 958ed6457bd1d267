# SPDX-License-Identifier: Apache-2.0
"""`validate`: each refusal, with file, key and remedy, and all of them in one run."""

from __future__ import annotations

import copy
import datetime
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from ansible_collections.hnai.platform.plugins.module_utils.zones.model import Site
from ansible_collections.hnai.platform.plugins.module_utils.zones.validate import glass, validate

FIXTURE = yaml.safe_load((Path(__file__).parent / "fixtures/site/site.yml").read_text(encoding="utf-8"))
TODAY = datetime.date(2030, 1, 1)
APPROVED = {"owner": "somebody", "reason": "they asked", "expires": "2030-12-31", "data_direction": "up", "kind": "direct"}


@pytest.fixture
def data() -> dict[str, Any]:
    return copy.deepcopy(FIXTURE)


def errors(data: dict[str, Any], today: datetime.date = TODAY) -> list[dict[str, str]]:
    found = [problem for problem in validate(data, today) if problem["severity"] == "error"]
    assert all(problem["file"] and problem["key"] and problem["message"] and problem["remedy"] for problem in found)
    return found


def conduit(data: dict[str, Any], ident: str) -> dict[str, Any]:
    return next(item for item in data["conduits"] if item["id"] == ident)


def without_conduit(data: dict[str, Any]) -> None:
    """A component is added, and nobody approves its flow."""
    data["contracts"]["reporter"] = {
        "name": "reporter",
        "levels": ["l4"],
        "listens": [],
        "connects": [{"to": "kafka", "listener": "l4", "reason": "daily report"}],
    }
    data["groups"]["reporter"] = ["data1"]
    data["conduits"] = [item for item in data["conduits"] if item["id"] != "C-401"]


def down(data: dict[str, Any]) -> None:
    """4→3, approved by a person."""
    service = {"component": "mosquitto", "listener": "mqtt"}
    data["conduits"].append({"id": "C-900", "from": {"host": "data1"}, "to": {"host": "edge1"}, "service": service, **APPROVED})


def kafka_on_l2(data: dict[str, Any]) -> None:
    data["hosts"]["kafka3"] = {"zone": "l2", "addresses": {"v4": "10.0.2.33", "v6": "fd00:2::33"}}


def two_on_one_port(data: dict[str, Any]) -> None:
    data["contracts"]["store"]["listens"].append(
        {"name": "extra", "proto": "tcp", "port": 8428, "bind": "loopback", "tls": False, "authentication": "password"}
    )


def even_quorum(data: dict[str, Any]) -> None:
    data["hosts"]["sec2"] = {"zone": "security", "addresses": {"v4": "10.0.36.12", "v6": "fd00:36::12"}}
    data["groups"]["managed"].append("sec2")
    data["groups"]["vault"].append("sec2")


def small_queue(data: dict[str, Any]) -> None:
    data["hosts"]["edge1"]["vars"] = {"mosquitto_queue": 1000}


def unknown_variable(data: dict[str, Any]) -> None:
    data["hosts"]["kafka1"]["vars"] = {"kafka_retension_ms": 5, "ansible_user": "x", "kafkaesque": 1}
    data["files"]["kafka_retension_ms"] = "host_vars/kafka1.yml"


REFUSED: dict[str, tuple[Callable[[dict[str, Any]], None], str, str, str, str]] = {
    # name: (change, file, key, part of the message, part of the remedy)
    "component without a conduit": (
        without_conduit,
        "group_vars/all/conduits.yml",
        "hnai_conduits: reporter → kafka.l4",
        "data1 → kafka1",
        "approve a conduit tcp/9095",
    ),
    "conduit 4→3 that a person approved": (down, "group_vars/all/conduits.yml", "hnai_conduits[C-900]", "never allowed, even if a person approved it", "IDMZ"),
    "Kafka on L2": (kafka_on_l2, "hosts.yml", "groups.kafka: kafka3", "kafka stands on kafka3 in zone l2", "it may stand in l35"),
    "two listeners on one port": (two_on_one_port, "roles/store/meta/component.yml", "listens.extra.port", "both listen on tcp/8428 of data1", "change one"),
    "even quorum": (even_quorum, "inventory", "groups.vault", "2 voting members", "use 1 or 3"),
    "queue too small for the outage": (small_queue, "host_vars/edge1.yml", "edge1: mosquitto_queue", "1000 records is too small", "at least 6000"),
    "unknown variable with our prefix": (unknown_variable, "host_vars/kafka1.yml", "kafka_retension_ms", "nothing reads", "did you mean kafka_retention_ms"),
}


def test_the_fixture_is_right(data: dict[str, Any]) -> None:
    assert validate(data, TODAY) == []


@pytest.mark.parametrize("name", REFUSED)
def test_each_is_refused(data: dict[str, Any], name: str) -> None:
    change, file, key, message, remedy = REFUSED[name]
    change(data)
    found = [problem for problem in errors(data) if (problem["file"], problem["key"]) == (file, key)]
    assert len(found) == 1
    assert message in found[0]["message"]
    assert remedy in found[0]["remedy"]


def test_all_are_refused_in_one_run(data: dict[str, Any]) -> None:
    for change, *_rest in REFUSED.values():
        change(data)
    found = {(problem["file"], problem["key"]) for problem in errors(data)}
    assert {(file, key) for _change, file, key, _message, _remedy in REFUSED.values()} <= found
    assert "ansible_user" not in str(found)
    assert "kafkaesque" not in str(found)


@pytest.mark.parametrize("removed", [item["id"] for item in FIXTURE["conduits"]])
def test_every_conduit_of_the_fixture_is_needed(data: dict[str, Any], removed: str) -> None:
    data["conduits"] = [item for item in data["conduits"] if item["id"] != removed]
    assert errors(data)


def test_a_flow_that_two_conduits_approve_has_two_ends(data: dict[str, Any]) -> None:
    data["conduits"].append({**conduit(data, "C-401"), "id": "C-999"})
    assert [(item["key"], item["invariant"]) for item in errors(data)] == [("hnai_conduits[C-999]", "twice")]


def test_a_group_that_looks_like_one_that_nobody_is_in(data: dict[str, Any]) -> None:
    data["groups"]["mosquito"] = ["edge1"]
    assert errors(data) == []
    data["groups"]["mosquitto"] = []
    assert "did you mean" not in str(errors(data))
    (found,) = [item for item in errors(data) if item["key"] == "groups.mosquito"]
    assert found["message"] == "places nothing; nobody is in mosquitto"
    data["groups"]["writers_of_ours"], data["groups"]["stores"], data["groups"]["store"] = ["data1"], ["data1"], []
    assert "groups.stores" in {item["key"] for item in errors(data)} and "groups.writers_of_ours" not in str(errors(data))
    assert found["remedy"].startswith("rename it to mosquitto")


@pytest.mark.parametrize(
    ("part", "key"),
    [("assets", "hnai_assets.plc1.servces"), ("slo", "hnai_slo.hops.to_kafka.servces")],
)
def test_a_key_that_nothing_reads(data: dict[str, Any], part: str, key: str) -> None:
    (data["assets"]["plc1"] if part == "assets" else data["slo"]["hops"]["to_kafka"])["servces"] = 1
    (found,) = errors(data)
    assert found["key"] == key and "not part of the format" in found["message"]


def test_numbers_in_quotes_are_numbers(data: dict[str, Any]) -> None:
    data["zones"]["l35"]["level"] = "3.5"
    data["zones"]["l3"]["level"] = "3"
    data["assets"]["plc1"]["services"]["opcua"]["port"] = "4840"
    for item in data["conduits"]:
        if "port" in item["service"]:
            item["service"]["port"] = str(item["service"]["port"])
    assert validate(data, TODAY) == []
    for wrong in ("3.7", "2.0", "three", "", "-3", "3 "):
        data["zones"]["l3"]["level"] = wrong
        assert any(item["key"] == "hnai_zones.l3.level" for item in errors(data)), wrong


def test_a_conduit_that_nothing_needs(data: dict[str, Any]) -> None:
    service = {"proto": "tcp", "port": 8200}
    data["conduits"].append({"id": "C-901", "from": {"host": "data1"}, "to": {"host": "sec1"}, "service": service, **APPROVED})
    assert [(item["key"], item["invariant"]) for item in errors(data)] == [("hnai_conduits[C-901]", "stale")]
    data["conduits"][-1]["needed_by"] = "people"
    assert errors(data) == []


def test_wider_than_needed_is_a_warning(data: dict[str, Any]) -> None:
    conduit(data, "C-401")["from"] = {"group": "telegraf"}
    conduit(data, "C-401")["data_direction"] = "up"
    assert [item["severity"] for item in validate(data, TODAY) if item["invariant"] == "stale"] == ["warning"]


@pytest.mark.parametrize(
    ("release", "words"),
    [
        ("13", ""), (13, ""), ("12", "Debian 13 only"), (12, "Debian 13 only"), ("11", "'11' is no release"), (True, "True is no release"),
        (None, "is missing"), ({"a": 1}, "is no release"),
    ],
)
def test_a_component_stands_on_a_debian_that_it_is_made_for(data: dict[str, Any], release: Any, words: str) -> None:
    versions = {"name": "store", "type": "deb", "version": {"13": "1.*"}, "packages": ["store"]}
    data["contracts"]["store"]["artifacts"] = [{"name": "plain", "version": "1"}, versions]
    (host,) = data["groups"]["store"]
    data["hosts"][host]["debian"] = release
    found = errors(data)
    assert [item["key"] for item in found] == ([f"{host}: hnai_debian"] if words else [])
    assert all(words in item["message"] and item["invariant"] == "release" for item in found)
    if words == "Debian 13 only":
        assert "its contract names no store for it" in found[0]["message"]
        # What it is not made for anywhere is said too; other hosts may run what they like.
        versions["version"] = {"14": "1.*"}
        assert "no release of Debian" in errors(data)[0]["message"]
        data["contracts"]["store"]["artifacts"] = []
        assert errors(data) == []


@pytest.mark.parametrize(
    ("today", "severity", "text"),
    [
        (datetime.date(2030, 11, 30), None, ""),
        (datetime.date(2030, 12, 1), "warning", "within a month"),
        (datetime.date(2030, 12, 24), "warning", "within a week"),
        (datetime.date(2030, 12, 31), "warning", "within a week"),
        (datetime.date(2031, 1, 1), "error", "expired on 2030-12-31"),
    ],
)
def test_expiry(data: dict[str, Any], today: datetime.date, severity: str | None, text: str) -> None:
    found = [item for item in validate(data, today) if item["invariant"] == "expiry"]
    assert {item["severity"] for item in found} == ({severity} if severity else set())
    assert all(text in item["message"] for item in found)


def test_break_glass_lets_an_expired_conduit_through_for_a_day(data: dict[str, Any]) -> None:
    conduit(data, "C-201")["expires"] = "2029-12-31"
    entry = {"id": "C-201", "owner": "shift lead", "reason": "audit is late", "since": "2030-01-01", "hours": 8}
    data["break_glass"] = [entry]
    assert errors(data) == []
    assert {item["key"] for item in validate(data, TODAY)} == {"hnai_break_glass[C-201]", "hnai_conduits[C-201].expires"}
    for wrong in ({"hours": 48}, {"owner": ""}, {"since": "2030-01-02"}, {"id": "C-999"}, {"since": "soon"}):
        data["break_glass"] = [{**entry, **wrong}]
        assert {item["key"].partition("[")[0] for item in errors(data)} == {"hnai_break_glass", "hnai_conduits"}
    for not_this in ({"since": "2029-12-20"}, {"id": "C-301"}):
        data["break_glass"] = [{**entry, **not_this}]
        assert [item["key"] for item in errors(data)] == ["hnai_conduits[C-201].expires"]


@pytest.mark.parametrize(
    ("since", "now", "state"),
    [
        ("2030-01-01T08:00Z", "2030-01-01T07:59", "wrong"),
        ("2030-01-01T08:00Z", "2030-01-01T08:00", "open"),
        ("2030-01-01T08:00Z", "2030-01-01T12:00", "open"),
        ("2030-01-01T08:00Z", "2030-01-01T12:01", "over"),
        ("2030-01-01T08:00+02:00", "2030-01-01T10:01", "over"),
        ("2030-01-01", "2030-01-02T03:59", "open"),
        ("2030-01-01", "2030-01-02T04:01", "over"),
    ],
)
def test_break_glass_is_loud_and_ends_by_the_hour(data: dict[str, Any], since: str, now: str, state: str) -> None:
    data["break_glass"] = [{"id": "C-201", "owner": "shift lead", "reason": "audit is late", "since": since, "hours": 4}]
    moment = datetime.datetime.fromisoformat(now)
    assert [entry["state"] for entry in glass(Site.from_dict(data), moment)] == [state]
    (found,) = [item for item in validate(data, moment) if item["invariant"] == "break_glass"]
    if state == "wrong":
        assert (found["severity"], found["message"]) == ("error", "begins in the future")
    else:
        assert found["message"].startswith("BREAK-GLASS: shift lead lets C-201 through (audit is late)")
        assert found["sr"] == ["SR 2.1 RE 3"]


@pytest.mark.parametrize(
    ("change", "key", "invariant"),
    [
        ({"owner": " "}, "owner", "format"),
        ({"reason": None}, "reason", "format"),
        ({"expires": None}, "expires", "format"),
        ({"expires": "soon"}, "expires", "format"),
        ({"kind": "tunnel"}, "kind", "format"),
        ({"data_direction": None}, "data_direction", "format"),
        ({"from": {"zone": "l3"}}, "from", "I5"),
        ({"from": {"group": "all"}}, "from", "I5"),
        ({"from": "any"}, "from", "I5"),
        ({"to": {"host": "nowhere"}}, "to", "format"),
        ({"to": {"asset": "nothing"}}, "to", "format"),
        ({"from": {"group": "nobody"}}, "from", "format"),
        ({"to": {"host": "data1"}}, "to", "format"),
        ({"from": {"host": "kafka1"}, "to": {"host": "kafka1"}, "needed_by": "people"}, "to", "format"),
        ({"service": {"proto": "any", "port": 1}}, "service.proto", "I5"),
        ({"service": {"proto": "icmp", "port": 1}}, "service.proto", "I5"),
        ({"service": {"proto": "icmp", "port": 70000}}, "service.port", "I5"),
        ({"service": {"proto": "tcp", "port": "1-65535"}}, "service.port", "I5"),
        ({"service": {"proto": "tcp", "port": 0}}, "service.port", "I5"),
        ({"service": {"component": "kafka", "listener": "l5"}}, "service", "format"),
        ({"service": {"component": "store", "listener": "internal"}}, "service", "I5"),
        ({"service": None}, "service", "I5"),
        ({"limits": {"connections": 0}}, "limits", "format"),
        ({"nat": True}, "nat", "I11"),
        ({"sr": ["SR 9.9"]}, "sr", "format"),
        ({"limits": {"connections": 10**9}}, "limits", "format"),
        ({"expires": "2030-12-31 or later"}, "expires", "format"),
        ({"expires": "2030-12-31Tnever"}, "expires", "format"),
        ({"needed_by": True}, "needed_by", "format"),
        ({"needed_by": " "}, "needed_by", "format"),
        ({"service": {"component": "kafka", "listener": "l3", "port": 9094}}, "service.port", "I5"),
    ],
)
def test_a_malformed_conduit(data: dict[str, Any], change: dict[str, Any], key: str, invariant: str) -> None:
    conduit(data, "C-201").update(change)
    assert (f"hnai_conduits[C-201].{key}", invariant) in {(item["key"], item["invariant"]) for item in errors(data)}


@pytest.mark.parametrize("change", [{"level": 7}, {"level": "four"}, {"side": "inside"}])
def test_a_zone_whose_level_nobody_knows_still_has_its_networks(data: dict[str, Any], change: dict[str, Any]) -> None:
    data["zones"]["l4"].update(change)
    data["hosts"]["data1"]["addresses"]["v4"] = "10.0.99.1"
    data["zones"]["l3"]["cidrs"][0] = data["zones"]["l4"]["cidrs"][0]
    found = {(problem["key"], problem["invariant"]) for problem in errors(data)}
    assert {(f"hnai_zones.l4.{next(iter(change))}", "I1"), ("hnai_zones.l3.cidrs", "I7"), ("data1: hnai_addresses.v4", "I10")} <= found


@pytest.mark.parametrize(("part", "name", "change", "keys"), [
    ("zones", "l35", {"level": "3,5"}, ["hnai_zones.l35.level"]),
    ("zones", "l2", {"level": None}, ["hnai_zones.l2.level"]),
    ("zones", "security", {"side": "Security"}, ["hnai_zones.security.side"]),
    ("zones", "mgmt", {"level": "high"}, ["hnai_zones.mgmt.level"]),
    ("zones", "l4", {"cidrs": "10.0.4.0/24"}, ["hnai_zones.l4.cidrs"]),
    ("hosts", "kafka3", {"zone": "l53"}, ["kafka3: hnai_zone"]),
    ("hosts", "edge1", {"zone": None}, ["edge1: hnai_zone"]),
    ("hosts", "router", {"zone": "mgnt"}, ["router: hnai_zone"]),
    ("hosts", "router", {"interfaces": {"l3": {"name": "a b"}}}, ["router: hnai_interfaces.l3"]),
    ("hosts", "router", {"interfaces": []}, ["router: hnai_interfaces"]),
    ("hosts", "kafka2", {"addresses": {"v4": "fd00:35::12", "v6": "10.0.35.12"}}, ["kafka2: hnai_addresses.v4", "kafka2: hnai_addresses.v6"]),
    ("hosts", "data1", {"addresses": {}}, ["data1: hnai_addresses"]),
    ("assets", "plc1", {"zone": "l1"}, ["hnai_assets.plc1.zone"]),
])  # fmt: skip
def test_what_follows_from_a_mistake_is_none(data: dict[str, Any], part: str, name: str, change: dict[str, Any], keys: list[str]) -> None:
    data[part][name].update(change)
    assert [item["key"] for item in errors(data)] == keys


@pytest.mark.parametrize("part", ["zones", "assets", "conduits", "ot_sources"])
@pytest.mark.parametrize("broken", [True, False])
def test_a_variable_of_which_nothing_can_be_read_accuses_no_other(data: dict[str, Any], part: str, broken: bool) -> None:
    data[part], variable = None if broken else "all of it", f"hnai_{part}"
    data["broken"] = {variable: "'x' is undefined"} if broken else {}
    assert [item["key"] for item in errors(data)] == [variable]
    data["groups"]["kafka"].remove("kafka3")
    data["hosts"]["kafka2"]["zone"] = "l3x" if part != "zones" else "l35"
    assert {variable, "groups.kafka"} <= {item["key"] for item in errors(data)}, "what is wrong beside it is said"


@pytest.mark.parametrize("zones", [None, {}])
def test_without_zones_it_is_the_zones_that_lack(data: dict[str, Any], zones: Any) -> None:
    data["zones"] = zones
    assert [item["key"] for item in errors(data)] == ["hnai_zones"]


@pytest.mark.parametrize(("change", "key"), [
    ({"kind": "Direct"}, "kind"), ({"sr": ["SR5.2"]}, "sr"), ({"expires": "soon"}, "expires"), ({"owner": "\u00a0\u200b-"}, "owner"),
    ({"limits": {"connections": 0}}, "limits"), ({"Owner": "x"}, "Owner"), ({"data_direction": "upwards"}, "data_direction"),
    ({"needed_by": " -"}, "needed_by"),
])  # fmt: skip
def test_a_conduit_with_a_mistake_is_still_somebodys_approval(data: dict[str, Any], change: dict[str, Any], key: str) -> None:
    """Its flow is not missing; and that it may not be, or has ended, is not hidden behind the mistake."""
    conduit(data, "C-401").update(change)
    assert [item["key"] for item in errors(data)] == [f"hnai_conduits[C-401].{key}"]
    assert "C-401" not in {one.id for one in Site.from_dict(data).conduits}, "it opens nothing"
    down(data)
    conduit(data, "C-900").update(sr=["SR5.2"])
    conduit(data, "C-900")["expires"] = "2029-12-31"
    said = {(item["key"], item["invariant"]) for item in errors(data)}
    assert {("hnai_conduits[C-900]", "I1"), ("hnai_conduits[C-900].sr", "format"), ("hnai_conduits[C-900].expires", "expiry")} <= said


@pytest.mark.parametrize(("end", "value"), [("from", {"group": "writers"}), ("from", "data1"), ("to", {"host": "kafka"}), ("to", {"zone": "l35"})])
def test_a_misspelt_end_is_one_mistake(data: dict[str, Any], end: str, value: Any) -> None:
    conduit(data, "C-401")[end] = value
    assert [item["key"] for item in errors(data)] == [f"hnai_conduits[C-401].{end}"]
    data["conduits"] = [item for item in data["conduits"] if item["id"] != "C-201"]
    assert [item["invariant"] for item in errors(data) if "→" in item["key"]] == ["flow"], "what else nobody approves is said"


def test_a_conduit_says_what_is_spoken_at_its_port(data: dict[str, Any]) -> None:
    data["ot_sources"].append({"id": "sep1", "asset": "plc1", "protocol": "modbus", "port": 502, "records_per_s": 1})
    service = conduit(data, "C-101")["service"]
    service.update(app="modbus", ops=["read"])
    found = {item["key"]: item for item in errors(data)}
    assert found["hnai_conduits[C-101].service.app"]["invariant"] == "I8"
    assert "speaks opcua" in found["hnai_conduits[C-101].service.app"]["message"]


def test_an_asset_has_a_role_that_somebody_reads(data: dict[str, Any]) -> None:
    data["assets"]["plc1"]["role"] = "ot-source"
    assert [(item["key"], "ot_source" in item["remedy"]) for item in errors(data)] == [("hnai_assets.plc1.role", True)]


@pytest.mark.parametrize("ident", ["drop-in", "invalid-forward", "spoof-l3"])
def test_an_id_is_none_of_the_comments_that_our_rules_have(data: dict[str, Any], ident: str) -> None:
    conduit(data, "C-201")["id"] = ident
    assert [item["message"] for item in errors(data) if item["key"].endswith("].id")] == [f"'{ident}' is missing or not plain text"]


@pytest.mark.parametrize("expires", ["2030-12-31", datetime.date(2030, 12, 31), "2030-12-31T08:00:00Z", "2030-12-31 08:00:00+01:00"])
def test_a_day_or_a_moment_ends_a_conduit(data: dict[str, Any], expires: Any) -> None:
    conduit(data, "C-201")["expires"] = expires
    assert errors(data) == []


@pytest.mark.parametrize("members", [None, []])
def test_a_site_without_hosts_is_no_site(data: dict[str, Any], members: list[str] | None) -> None:
    """A misspelt group `managed`: nothing is needed, nothing is approved, and nothing else would be wrong."""
    data["groups"] = {} if members is None else {"managed": members}
    data.update(conduits=[], hosts={}, slo={}, ot_sources=[], assets={})
    assert [item["key"] for item in errors(data)] == ["groups.managed"]


def test_a_misspelt_key_of_a_zone_is_no_open_island(data: dict[str, Any]) -> None:
    data["zones"]["l2"]["islnd"] = True
    (found,) = errors(data)
    assert found["key"] == "hnai_zones.l2.islnd" and "island" in found["remedy"]


@pytest.mark.parametrize(("name", "words"), [("lo", "loopback"), ("l3", "another zone")])
def test_an_interface_tells_a_zone(data: dict[str, Any], name: str, words: str) -> None:
    data["hosts"]["router"]["interfaces"]["l4"]["name"] = name
    (found,) = errors(data)
    assert found["key"] == "router: hnai_interfaces.l4.name" and words in found["message"]


@pytest.mark.parametrize(
    ("slo", "key"),
    [
        ({"freshness_p95_s": "ten"}, "hnai_slo.freshness_p95_s"),
        ({"completeness": 99.9}, "hnai_slo.completeness"),
        ({"window_s": float("nan")}, "hnai_slo.window_s"),
        ({"freshnes_p95_s": 10}, "hnai_slo.freshnes_p95_s"),
    ],
)
def test_a_promise_that_cannot_be_kept(data: dict[str, Any], slo: dict[str, Any], key: str) -> None:
    data["slo"].update(slo)
    assert [item["key"] for item in errors(data)] == [key]


@pytest.mark.parametrize("ident", ["a\nb", "x" * 5000, "\ud800"])
def test_a_strange_id_of_a_source_is_one_line(data: dict[str, Any], ident: str) -> None:
    data["ot_sources"] = [{"id": ident, "asset": asset, "protocol": "opcua", "records_per_s": -1, "endpoint": "x"} for asset in ("plc1", "gone")]
    keys = [item["key"] for item in errors(data) if item["key"].startswith("hnai_ot_sources")]
    assert len(keys) == 3 and all(key.isprintable() and len(key) < 130 for key in keys)


@pytest.mark.parametrize("rate", [float("nan"), "1000", -1, True])
def test_a_rate_that_is_none_sizes_no_buffer(data: dict[str, Any], rate: Any) -> None:
    data["ot_sources"][0]["records_per_s"] = rate
    assert [item["key"] for item in errors(data)] == ["hnai_ot_sources[plc1].records_per_s"]


@pytest.mark.parametrize(
    ("endpoint", "good"),
    [
        ("opc.tcp://plc1:4840/", True),
        ("opc.tcp://10.0.2.11:4840/", True),
        ("opc.tcp://[fd00:2::11]:4840", True),
        ("opc.tcp://plc-of-the-line.example:4840/", True),
        ("opc.tcp://10.0.2.99:4840/", False),
        ("opc.tcp://kafka1:4840/", False),
        ("http://plc1:4840/", False),
        ("plc1", False),
        (None, False),
    ],
)
def test_what_is_dialled_is_the_asset_of_the_source(data: dict[str, Any], endpoint: Any, good: bool) -> None:
    data["ot_sources"][0]["endpoint"] = endpoint
    assert {item["key"] for item in errors(data)} == (set() if good else {"hnai_ot_sources[plc1].endpoint"})


def test_ids_are_unique(data: dict[str, Any]) -> None:
    data["conduits"].append(dict(conduit(data, "C-201")))
    assert ("hnai_conduits[C-201].id", "format") in {(item["key"], item["invariant"]) for item in errors(data)}


def test_no_data_comes_back_down(data: dict[str, Any]) -> None:
    conduit(data, "C-103")["data_direction"] = "both"
    assert [item["invariant"] for item in errors(data)] == ["I12"]


def test_the_idmz_terminates(data: dict[str, Any]) -> None:
    """In by 9094 from level 3, and out by 9094 to the security zone: a pass-through."""
    data["conduits"].append({"id": "C-902", "from": {"host": "kafka1"}, "to": {"host": "sec1"}, "service": {"proto": "tcp", "port": 9094}, **APPROVED})
    assert "I6" in {item["invariant"] for item in errors(data)}


def test_a_dual_homed_host_is_declared_or_refused(data: dict[str, Any]) -> None:
    data["hosts"]["edge1"]["interfaces"] = {"l4": {"name": "eth1", "v4": "10.0.4.99", "v6": "fd00:4::99"}}
    assert "I7" in {item["invariant"] for item in errors(data)}
    data["hosts"]["edge1"]["dual_homed"] = {"owner": "somebody", "reason": "storage network"}
    assert "I7" not in {item["invariant"] for item in errors(data)}


@pytest.mark.parametrize(
    ("addresses", "invariant"),
    [
        ({"v4": "10.0.3.11"}, "I10"),
        ({"v4": "10.0.3.11", "v6": "fe80::1"}, "I10"),
        ({"v4": "10.0.3.11", "v6": "fd00:4::11"}, "I10"),
        ({"v4": "10.0.3.0", "v6": "fd00:3::11"}, "I10"),
        ({"v4": "10.0.3.255", "v6": "fd00:3::11"}, "I10"),
        ({"v4": "10.0.3.11", "v6": "fd00:3::"}, "I10"),
        ({"v4": "10.0.3.11", "v6": "fd00:3::11", "V4": "10.0.3.12"}, "format"),
        ({"v4": "10.0.3.300", "v6": "fd00:3::11"}, "format"),
        ({}, "format"),
    ],
)
def test_addresses_of_both_families_in_the_zone(data: dict[str, Any], addresses: dict[str, str], invariant: str) -> None:
    data["hosts"]["edge1"]["addresses"] = addresses
    assert invariant in {item["invariant"] for item in errors(data) if item["key"].startswith("edge1: hnai_addresses")}


def test_one_address_names_one_host(data: dict[str, Any]) -> None:
    data["hosts"]["kafka2"]["addresses"] = data["hosts"]["kafka1"]["addresses"]
    assert "I7" in {item["invariant"] for item in errors(data)}


@pytest.mark.parametrize(
    "entry",
    [
        {"principal": "User:shipper", "operation": "Read", "resource_type": "topic", "name": "ot.raw"},
        {"principal": "shipper", "operation": "Read", "resource_type": "group", "name": "g"},
        {"principal": "User:shipper", "operation": "All", "resource_type": "topic", "name": "x"},
        {"principal": "User:shipper", "operation": "ClusterAction", "resource_type": "cluster", "name": "kafka-cluster"},
        {"principal": "User:shipper", "operation": "Create", "resource_type": "topic", "name": "x"},
        {"principal": "User:shipper", "operation": "DescribeConfigs", "resource_type": "topic", "name": "ot.raw"},
        {"principal": "User:*", "operation": "Read", "resource_type": "topic", "name": "ot.raw", "level": 4},
        {"principal": "User:stranger", "operation": "Read", "resource_type": "topic", "name": "ot.raw"},
        {"principal": "User:writer", "operation": "Write", "resource_type": "topic", "name": "ot.raw"},
        {"principal": "User:writer", "operation": "Write", "resource_type": "topic", "name": "ot.", "pattern_type": "prefixed"},
        {"principal": "User:low", "operation": "Read", "resource_type": "topic", "name": "x", "level": 3},
    ],
)
def test_extra_acls_that_open_a_reverse_channel(data: dict[str, Any], entry: dict[str, Any]) -> None:
    data["hosts"]["kafka1"]["vars"] = {"kafka_extra_acls": [entry]}
    assert [item["invariant"] for item in errors(data)] == ["I13"]


def test_an_extra_acl_of_level_4_is_fine(data: dict[str, Any]) -> None:
    entry = {"principal": "User:analyst", "operation": "Read", "resource_type": "topic", "name": "ot.raw", "level": 4}
    data["hosts"]["kafka1"]["vars"] = {"kafka_extra_acls": [entry]}
    assert errors(data) == []


def test_level_3_reads_no_topic(data: dict[str, Any]) -> None:
    data["contracts"]["telegraf"]["connects"][0]["topics"]["read"] = ["ot.normalised"]
    assert [item["invariant"] for item in errors(data)] == ["I13"]


def test_a_topic_has_one_owner(data: dict[str, Any]) -> None:
    data["contracts"]["telegraf"]["connects"][2]["topics"]["write"] = ["ot.*"]
    assert [item["invariant"] for item in errors(data)] == ["I13"]


def test_levels_3_and_4_share_no_listener(data: dict[str, Any]) -> None:
    data["contracts"]["telegraf"]["connects"][2]["listener"] = "l3"
    conduit(data, "C-401")["service"]["listener"] = "l3"
    assert "I13" in {item["invariant"] for item in errors(data)}


def test_levels_3_and_4_share_no_principal(data: dict[str, Any]) -> None:
    data["contracts"]["telegraf"]["connects"][2]["principal"] = "shipper"
    assert "I13" in {item["invariant"] for item in errors(data)}


def test_nobody_publishes_to_what_a_line_reads(data: dict[str, Any]) -> None:
    data["assets"]["plc1"]["connects"][0]["topics"]["read"] = ["ot/line1/command"]
    assert [item["invariant"] for item in errors(data)] == ["I12"]
    data["hosts"]["edge1"]["vars"] = {"hnai_control_identities": ["shipper"]}
    assert errors(data) == []


@pytest.mark.parametrize(("write", "wrong"), [("spBv1.0/g/NDATA/e", False), ("spBv1.0/g/NCMD/e", True), ("#", True), ("spBv1.0/+/+/e", True)])
def test_nobody_publishes_commands(data: dict[str, Any], write: str, wrong: bool) -> None:
    variables = data["hosts"]["edge1"].setdefault("vars", {})
    variables |= {"mosquitto_command_patterns": ["spBv1.0/+/NCMD/#"], "mosquitto_extra_acl": [{"principal": "view", "level": 3, "write": [write]}]}
    data["known_variables"] = [*data.get("known_variables", ()), *variables]
    assert [item["invariant"] for item in errors(data)] == (["I12"] if wrong else [])
    data["hosts"]["edge1"]["vars"]["hnai_control_identities"] = ["view"]
    assert errors(data) == []


@pytest.mark.parametrize(("entry", "key"), [
    ({"write": ["view/a#"]}, "[0].write"), ({"read": ["view/#/b"]}, "[0].read"), ({"read": ["view/a\ntopic write b"]}, "[0].read"),
    ({"write": ["view/ "]}, "[0].write"), ({"write": [""]}, "[0].write"), ({"principal": "view\nuser other"}, "[0]"), ({"principal": "view+"}, "[0]"),
    ({"write": ["view/a b", "view/Füllstand"]}, ""),
])
def test_no_right_breaks_the_brokers_rules(data: dict[str, Any], entry: dict[str, Any], key: str) -> None:
    """A broker that reads a broken file again lets everybody do everything."""
    variables = data["hosts"]["edge1"].setdefault("vars", {})
    variables |= {"mosquitto_extra_acl": [{"principal": "view", "level": 3, **entry}]}
    data["known_variables"] = [*data.get("known_variables", ()), *variables]
    assert [(item["invariant"], item["key"]) for item in errors(data)] == ([("format", "mosquitto_extra_acl" + key)] if key else [])


def test_a_topic_of_a_contract_is_a_filter(data: dict[str, Any]) -> None:
    data["assets"]["plc1"]["connects"][0]["topics"]["write"] = ["line/a#"]
    assert [(item["invariant"], item["key"].split("connects")[1]) for item in errors(data)] == [("format", "[0].topics.write")]


def test_the_site_broker_has_no_client_above_level_3(data: dict[str, Any]) -> None:
    data["contracts"]["telegraf"]["connects"].append({"to": "mosquitto", "listener": "mqtt", "group": "writer", "principal": "x", "reason": "y"})
    assert {"I13", "I1"} <= {item["invariant"] for item in errors(data)}


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"outage_s": 7200}, "data1"),
        ({"outage_s": 0}, "hnai_slo.hops.to_kafka"),
        ({"records_per_s": 50}, "hnai_slo.hops.to_kafka.records_per_s"),
        ({"record_bytes": 5000}, "edge1: telegraf_buffer_mib"),
    ],
)
def test_hops(data: dict[str, Any], change: dict[str, Any], key: str) -> None:
    data["slo"]["hops"]["to_kafka"].update(change)
    keys = [item["key"] for item in errors(data)]
    assert any(item.startswith(key) or (key == "data1" and item == "edge1: telegraf_buffer_mib") for item in keys)


def test_a_buffer_that_no_hop_sizes_and_a_hop_that_nothing_buffers(data: dict[str, Any]) -> None:
    data["slo"]["hops"]["other"] = data["slo"]["hops"].pop("to_store")
    assert {item["key"] for item in errors(data)} == {"hnai_slo.hops.to_store", "hnai_slo.hops.other"}


def test_retention_for_ever_is_long_enough(data: dict[str, Any]) -> None:
    data["defaults"]["kafka_retention_ms"] = -1
    assert errors(data) == []
    data["defaults"]["kafka_retention_ms"] = 1000
    assert {item["key"] for item in errors(data)} == {f"kafka{n}: kafka_retention_ms" for n in (1, 2, 3)}


def test_a_host_whose_modules_would_find_no_library(data: dict[str, Any]) -> None:
    data["contracts"]["probe"] = {"name": "probe", "levels": ["l3", "l35"], "listens": [], "connects": []}
    data["groups"]["probe"] = [host for component in ("kafka", "ot_collector") for host in data["groups"][component]]
    assert not errors(data)
    data["groups"]["probe"].remove("kafka2")
    assert [(item["key"], item["message"].partition(":")[0]) for item in errors(data)] == [("groups.probe", "lacks kafka2")]


def test_a_component_that_stands_nowhere_is_named(data: dict[str, Any]) -> None:
    data["groups"]["store"] = []
    assert "groups.store" in {item["key"] for item in errors(data)}


def test_a_source_is_held_against_a_conduit_that_has_a_mistake(data: dict[str, Any]) -> None:
    conduit(data, "C-101")["reason"] = ""
    data["ot_sources"][0]["limits"] = {"new_per_minute": 60}
    assert {"hnai_conduits[C-101].reason", "hnai_ot_sources[plc1].limits.new_per_minute"} <= {problem["key"] for problem in errors(data)}
    conduit(data, "C-101").update(reason="as before", limits={"connections": "two"})
    assert [problem["key"] for problem in errors(data)] == ["hnai_conduits[C-101].limits"], "what it approves nobody knows"


@pytest.mark.parametrize(("told", "wrong"), [
    ({"new_per_minute": 6, "connections": 2}, []), ({}, []), ({"new_per_minute": 7}, ["new_per_minute"]), ({"connections": 3}, ["connections"]),
    ({"new_per_minute": 60, "connections": 9}, ["connections", "new_per_minute"]), ({"new_per_minute": "often"}, []),
])
def test_a_source_is_not_dialled_more_often_than_its_conduit_approves(data: dict[str, Any], told: dict[str, Any], wrong: list[str]) -> None:
    source = next(one for one in data["ot_sources"] if one["protocol"] == "opcua")
    source["limits"] = told
    assert [item["key"] for item in errors(data)] == [f"hnai_ot_sources[{source['id']}].limits.{name}" for name in wrong]


@pytest.mark.parametrize("protocol", ["mqtt", "sparkplug"])
def test_a_source_that_speaks_by_itself_stands_on_an_asset_too(data: dict[str, Any], protocol: str) -> None:
    data["ot_sources"].append({"id": "line9", "asset": "plc9", "protocol": protocol, "group": "g", "node": "n"})
    assert "hnai_ot_sources[line9].asset" in {item["key"] for item in errors(data)}


def test_a_source_without_an_asset(data: dict[str, Any]) -> None:
    data["ot_sources"].append({"id": "plc9", "asset": "plc9", "protocol": "opcua"})
    assert "hnai_ot_sources[plc9]" in {item["key"] for item in errors(data)}


@pytest.mark.parametrize("damage", [None, [], "text", 5, {"x": None}, [None], [[]], [{"id": None}]])
@pytest.mark.parametrize("part", ["conduits", "zones", "assets", "ot_sources", "slo", "hosts", "groups", "break_glass"])
def test_nonsense_is_reported_and_never_raises(data: dict[str, Any], part: str, damage: Any) -> None:
    data[part] = copy.deepcopy(damage)
    validate(data, TODAY)


NODE = {"id": "spb1", "asset": "plc1", "protocol": "sparkplug", "group": "pad1", "node": "line1"}


@pytest.mark.parametrize(("sources", "hosts", "words"), [
    ([NODE], [], "is empty, so nobody hears spb1"),
    ([], ["edge1"], "no source speaks Sparkplug B"),
    ([NODE, {**NODE, "id": "spb2"}], ["edge1"], "is the edge node of spb1 too"),
    ([NODE], ["edge1", "edge2"], "would take each other's session"),
])
def test_an_edge_node_is_named_and_heard_once(data: dict[str, Any], sources: list[dict[str, Any]], hosts: list[str], words: str) -> None:
    data["hosts"]["edge2"] = {"zone": "l3", "addresses": {"v4": "10.0.3.77", "v6": "fd00:3::77"}}
    data["groups"]["managed"].append("edge2")
    data["groups"]["ot_collector"] = sorted({*data["groups"].get("ot_collector", []), "edge1", *hosts})
    data["groups"]["ot_collector_sparkplug"] = hosts
    data["contracts"].setdefault("ot_collector", {"name": "ot_collector", "levels": ["l3"], "listens": [], "connects": []})
    data["ot_sources"] = [*(data.get("ot_sources") or []), *sources]
    found = [problem for problem in errors(data) if problem["invariant"] == "source"]
    assert [problem for problem in found if words in problem["message"]], found
    good = copy.deepcopy(data)
    good["ot_sources"] = [one for one in good["ot_sources"] if one.get("protocol") != "sparkplug"] + [NODE]
    good["groups"]["ot_collector_sparkplug"] = ["edge1"]
    assert [problem for problem in errors(good) if problem["invariant"] == "source"] == []
