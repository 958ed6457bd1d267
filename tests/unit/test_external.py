# SPDX-License-Identifier: Apache-2.0
"""What somebody else runs: said with its owner, of a whole group; nobody rotates, sandboxes or replaces it here, and it is in the model as ever."""

from __future__ import annotations

import copy
import datetime
from pathlib import Path
from typing import Any

import model_fuzz
import pytest
import yaml

from ansible_collections.hnai.platform.plugins.filter import rotation
from ansible_collections.hnai.platform.plugins.lookup import checked
from ansible_collections.hnai.platform.plugins.module_utils.zones.flows import needed_flows
from ansible_collections.hnai.platform.plugins.module_utils.zones.model import Site
from ansible_collections.hnai.platform.plugins.module_utils.zones.validate import validate
from ansible_collections.hnai.platform.plugins.plugin_utils import contracts, site

STORE = {"owner": "the historian's team", "group": "victoria-metrics"}
ROLES = Path(__file__).parents[2] / "roles"
TODAY = datetime.date(2026, 6, 1)


@pytest.fixture(scope="module")
def lab() -> dict[str, Any]:
    return model_fuzz.lab()


def said(lab: dict[str, Any], component: str, values: dict[str, Any]) -> dict[str, Any]:
    """The lab's model where hosts say who else runs a component."""
    data = copy.deepcopy(lab)
    for host, value in values.items():
        data["hosts"][host]["vars"][contracts.external_variable(component)] = value
    data["external"] = site._external(data)
    return data


def test_the_model_is_what_it_was_but_for_its_owner(lab: dict[str, Any]) -> None:
    data = said(lab, "victoriametrics", {"data1": STORE})
    assert lab["external"] == {} and data["external"] == {"victoriametrics": STORE}
    assert validate(data, TODAY) == []
    assert needed_flows(Site.from_dict(data)) == needed_flows(Site.from_dict(lab))


KAFKA = {"owner": "IT"}


@pytest.mark.parametrize(("component", "values", "message"), [
    ("victoriametrics", {"data1": True}, "True is no map"),
    ("victoriametrics", {"data1": {"group": "root"}}, "names no owner"),
    ("victoriametrics", {"data1": {"owner": " "}}, "names no owner"),
    ("victoriametrics", {"data1": {"owner": "IT", "since": 2020}}, "since is not part of the format"),
    ("victoriametrics", {"data1": {"owner": "IT", "group": 5}}, "group: 5 is no text"),
    ("victoriametrics", {"data1": {"owner": "IT", "ca": "-----BEGIN"}}, "ca is not part of the format"),
    ("mosquitto", {"edge1": {"owner": "IT", "unit": ""}}, "unit: '' is no text"),
    ("mosquitto", {"edge1": {"owner": "IT", "unit": "mosquitto"}}, "unit: 'mosquitto' is no unit such as mosquitto.service"),
    ("mosquitto", {"edge1": {"owner": "IT", "config": "etc/mosquitto.conf"}}, "config: 'etc/mosquitto.conf' is no absolute path"),
    ("victoriametrics", {"data1": {"owner": "IT", "group": "a b"}}, "group: 'a b' is no name of a group"),
    ("kafka", {"data1": KAFKA}, "is said of data1, where kafka is not placed"),
    ("kafka", {"kafka1": KAFKA, "kafka2": KAFKA}, "is not the same on kafka1, kafka2, kafka3"),
    ("kafka", {"kafka1": KAFKA, "kafka2": KAFKA, "kafka3": {"owner": "OT"}}, "is not the same on"),
])  # fmt: skip
def test_who_runs_it_is_said_in_one_way(lab: dict[str, Any], component: str, values: dict[str, Any], message: str) -> None:
    (found,) = validate(said(lab, component, values), TODAY)
    assert message in found["message"] and f"{component}_external" in found["key"] and "owner" in found["remedy"]


def test_only_what_a_contract_lends_can_be_somebody_elses(lab: dict[str, Any]) -> None:
    assert sorted(name for name, one in lab["contracts"].items() if one.get("external")) == ["kafka", "mosquitto", "openbao", "questdb", "victoriametrics"]
    for component, contract in lab["contracts"].items():
        spec = yaml.safe_load((ROLES / component / "meta/argument_specs.yml").read_text())["argument_specs"]["main"]["options"]
        assert list(spec.get(contracts.external_variable(component), {}).get("options", [])) == contract.get("external", []), "one format, said twice"


@pytest.mark.parametrize(("variable", "message"), [
    ("flink_external", "flink is always the collection's own (on data1): its jobs need Kafka's connector"),
    ("chrony_external", "nothing reads"), ("telegraf_external", "telegraf is always the collection's own (on data1)"),
    ("kafka_extern", "nothing reads"), ("kakfa_external", "nothing reads"), ("victoria_metrics_external", "nothing reads"),
])  # fmt: skip
def test_what_nobody_reads_is_refused(lab: dict[str, Any], variable: str, message: str) -> None:
    data = copy.deepcopy(lab)
    site.add_names(data, {host: {variable: {"owner": "IT"}} if host == "data1" else {} for host in data["hosts"]}, [])
    data["roles"].append("chrony")
    (found,) = (one for one in validate(data, TODAY) if one["key"] == variable)
    assert message in found["message"] and "remove it" in found["remedy"]
    assert ("did you mean" in found["remedy"]) == ("nothing reads" in message)


def test_a_variable_of_the_sites_own_is_not_ours_to_refuse(lab: dict[str, Any]) -> None:
    data = copy.deepcopy(lab)
    site.add_names(data, {host: {"nginx_external": True} for host in data["hosts"]}, [])
    assert validate(data, TODAY) == []


def test_nobody_rotates_it_and_the_plan_says_who_does(lab: dict[str, Any]) -> None:
    data = said(lab, "victoriametrics", {"data1": STORE})
    before = {one["path"]: one["kind"] for one in rotation.rotations(lab)}
    after = {one["path"]: one for one in rotation.rotations(data)}
    mine = {path for path in before if path.startswith("victoriametrics/")}
    assert mine and all(before[path] for path in mine)
    assert {path: one["kind"] for path, one in after.items() if path not in mine} == {path: kind for path, kind in before.items() if path not in mine}
    assert all(after[path]["kind"] == "" and "the historian's team" in after[path]["why"] for path in mine)
    assert {one["component"] for one in rotation.leaves(lab)} - {one["component"] for one in rotation.leaves(data)} == {"victoriametrics"}
    found = rotation.authority_hosts(data)["data1"]
    assert "victoriametrics" not in found["trusts"] and "victoriametrics" not in [one["component"] for one in found["components"]]


def test_a_user_of_a_cluster_of_others_is_theirs_to_rotate(lab: dict[str, Any]) -> None:
    data = said(lab, "kafka", dict.fromkeys(("kafka1", "kafka2", "kafka3"), KAFKA))
    found = {one["path"]: one for one in rotation.rotations(data)}
    scram = [path for path, one in {one["path"]: one for one in rotation.rotations(lab)}.items() if one["server"] == "kafka"]
    assert scram and all(found[path]["kind"] == "" and "IT runs kafka" in found[path]["why"] for path in scram)


def test_its_sandbox_is_not_ours() -> None:
    def units(**variables: Any) -> set[str]:
        return set(checked.LookupModule().run(["exposure"], {"group_names": ["victoriametrics", "questdb"], **variables})[0])

    ours = units(victoriametrics_external={})
    assert {"hnai-victoriametrics.service", "hnai-questdb.service"} <= ours
    assert ours - units(victoriametrics_external=STORE) == {"hnai-victoriametrics.service", "hnai-victoriametrics-auth.service"}


# -- at an address ---------------------------------------------------------------------------------------------------
PEM = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
VAULT = {"owner": "the security office", "address": "https://vault.corp.example:8200", "ca": PEM}
CONDUIT = {
    "id": "C-777", "from": {"group": "openbao"}, "to": {"asset": "vault.corp.example"}, "service": {"proto": "tcp", "port": 8200}, "kind": "direct",
    "data_direction": "both", "owner": "the security office", "reason": "The site's secrets lie in the company's Vault", "expires": "2030-12-31",
}  # fmt: skip


ADDRESSES = {"security": {"v4": "10.77.36.40", "v6": "fd77:0:0:36::28"}, "l4": {"v4": "10.77.4.40", "v6": "fd77:0:0:4::28"}}


ASKING = {"v4": "10.77.35.40", "v6": "fd77:0:0:35::28"}


def asked(lab: dict[str, Any], value: Any = VAULT, *, zone: str = "security", conduit: bool = True, **more: Any) -> dict[str, Any]:
    """The lab's model where its OpenBao is somebody else's, at an address: an asset in a zone of the site, asked from the IDMZ."""
    data = said(lab, "openbao", {"sec1": value})
    data["hosts"]["sec1"] |= {"zone": "l35", "addresses": ASKING}
    data["contracts"] = {name: contracts.asking(one, data["external"].get(name, {})) for name, one in lab["contracts"].items()}
    data["assets"] = {**data["assets"], "vault.corp.example": {"zone": zone, "addresses": ADDRESSES[zone], "services": {"api": {"proto": "tcp", "port": 8200}}}}
    data["conduits"] = [*data["conduits"], *([{**CONDUIT, **more}] if conduit else [])]
    return data


def wrong(data: dict[str, Any]) -> list[tuple[str, str]]:
    return [(one["key"], one["message"]) for one in validate(data, TODAY)]


def test_a_store_at_an_address_is_asked_by_a_conduit_and_by_nothing_else(lab: dict[str, Any]) -> None:
    assert wrong(asked(lab)) == []
    (missing,) = validate(asked(lab, conduit=False), TODAY)
    assert missing["key"] == "hnai_conduits: openbao → api" and "sec1 → vault.corp.example" in missing["message"] and "tcp/8200" in missing["remedy"]
    assert [key for key, _message in wrong(asked(lab, service={"proto": "tcp", "port": 8201}))] == ["hnai_conduits: openbao → api", "hnai_conduits[C-777]"]
    by_address = {**VAULT, "address": "https://10.77.36.40:8200"}
    assert wrong(asked(lab, by_address)) == []
    # Nothing of it stands on our host: who would dial that host finds no listener.
    assert needed_flows(Site.from_dict(asked(lab)))[0] != needed_flows(Site.from_dict(lab))[0]
    assert Site.from_dict(asked(lab)).listeners_on("sec1") == {
        key: one for key, one in Site.from_dict(lab).listeners_on("sec1").items() if key[0] != "openbao"}


def test_security_initiates_not_even_to_a_store_in_its_own_zone(lab: dict[str, Any]) -> None:
    data = asked(lab)
    data["hosts"]["sec1"] = {**lab["hosts"]["sec1"], "vars": data["hosts"]["sec1"]["vars"]}
    assert ("hnai_conduits[C-777]", "security initiates to vault.corp.example: sec1 → vault.corp.example tcp/8200") in wrong(data)
    assert any("sec1" in message for key, message in wrong(data) if key.startswith("groups.")), "it may not stand there, either"
    far = wrong(asked(lab, zone="l4"))
    assert [key for key, _message in far] == ["hnai_conduits[C-777]"], "nor the IDMZ to IT"


@pytest.mark.parametrize(("zone", "group", "wanted"), [("l4", "data1", ""), ("l35", "kafka1", ""), ("l3", "edge1", "openbao stands on edge1 in zone l3")])
def test_who_asks_stands_where_the_law_lets_it_dial(lab: dict[str, Any], zone: str, group: str, wanted: str) -> None:
    data = copy.deepcopy(lab)
    data["groups"]["openbao"] = [group]
    data["hosts"][group]["vars"]["openbao_external"] = VAULT
    data["hosts"]["sec1"]["vars"].pop("openbao_external", None)
    made = asked(data)
    made["hosts"]["sec1"]["vars"].pop("openbao_external")
    found = [message.partition(" (")[0] for key, message in wrong(made) if key.startswith("groups.openbao") or (zone != "l3" and "vault" in message)]
    assert found == ([wanted] if wanted else [])


@pytest.mark.parametrize(("value", "message"), [
    ({"address": "http://vault.corp.example:8200"}, "address is not https"),
    ({"address": "https://vault.corp.example"}, "address names no port"),
    ({"address": "https://:8200"}, "address names no host"),
    ({"address": "https://vault.corp.example:x"}, "address is no address"),
    ({"address": "vault.corp.example:8200"}, "address is not https"),
    ({"address": "https://eve:s3cret@vault.corp.example:8200"}, "address holds a login"),
    ({"address": "https://vault.corp.example:8200/v1"}, "address is more than a host and a port"),
    ({"address": "https://vault.corp.example:8200?ns=a"}, "address is more than a host and a port"),
    ({"address": "https://vault.corp.example:8200?"}, "address is more than a host and a port"),
    ({"address": "https://vault.corp.example:8200#a"}, "address is more than a host and a port"),
    ({"address": "https://vault.corp.example:8200\n"}, "address holds a space"),
    ({"address": "https://vault.corp.example:8200", "ca": None}, "has an address and no ca"),
    ({"ca": "/etc/ssl/ca.pem"}, "ca is no certificate"),
    ({"group": "vault"}, "group is not read with an address"),
    ({"address": None, "namespace": "plants"}, "namespace is read with an address alone"),
    ({"namespace": "plants/ pad1"}, "namespace is no path of names"),
    ({"namespace": "../other"}, "namespace is no path of names"),
    ({"namespace": "/plants"}, "namespace is no path of names"),
    ({"address": "https://elsewhere.example:8200"}, "address leads to elsewhere.example, which is no asset"),
    ({"address": "https://10.77.36.99:8200"}, "address leads to 10.77.36.99, which is no asset"),
    ({"address": "https://sec1:8200"}, "address leads to sec1, a host of the site"),
    ({"address": "https://[fd77:0:0:35::0:28]:8200"}, "address leads to sec1, a host of the site"),
    ({"address": 8200}, "address: 8200 is no text"),
    ({"via": "sec1"}, "via is not part of the format"),
])  # fmt: skip
def test_half_an_address_is_refused(lab: dict[str, Any], value: dict[str, Any], message: str) -> None:
    given = {key: one for key, one in {**VAULT, **value}.items() if one is not None}
    found = [one for one in validate(asked(lab, given), TODAY) if one["key"] == "sec1: openbao_external"]
    assert len(found) == 1 and found[0]["message"].startswith(message), found
    assert "https://NAME:PORT" in found[0]["remedy"] or "owner" in found[0]["remedy"]
    assert "s3cret" not in str(validate(asked(lab, given), TODAY))


@pytest.mark.parametrize("namespace", ["plants", "plants/pad-1/", "a.b/_c"])
def test_a_namespace_is_a_path_of_names(lab: dict[str, Any], namespace: str) -> None:
    assert wrong(asked(lab, {**VAULT, "namespace": namespace})) == []


def test_one_host_asks(lab: dict[str, Any]) -> None:
    data = copy.deepcopy(lab)
    data["groups"]["openbao"] = ["sec1", "data1", "stream1"]
    for host in data["groups"]["openbao"]:
        data["hosts"][host]["vars"]["openbao_external"] = VAULT
    assert "is asked from one host, and the group has data1, sec1, stream1" in [message for _key, message in wrong(asked(data))]


def test_a_component_that_is_never_asked_over_the_network_has_no_address(lab: dict[str, Any]) -> None:
    (found,) = validate(said(lab, "victoriametrics", {"data1": {**STORE, "address": "https://x:1"}}), TODAY)
    assert found["message"].startswith("address is not part of the format")


def test_of_what_stands_elsewhere_nothing_is_renewed_kept_or_looked_for_here(lab: dict[str, Any]) -> None:
    data = asked(lab)
    assert "openbao" not in {one["component"] for one in rotation.leaves(data)}
    assert "sec1" not in rotation.authority_hosts(data) or rotation.authority_hosts(data)["sec1"]["bundles"] == []
    assert rotation.authority_hosts(said(lab, "openbao", {"sec1": {"owner": "IT"}}))["sec1"]["bundles"] == ["/etc/hnai/openbao/trust.pem"]

    def certificates(value: Any) -> list[str]:
        return checked.LookupModule().run(["certificates"], {"group_names": ["openbao"], "openbao_external": value})

    assert "/etc/hnai/openbao/tls/cert.pem" in certificates({}) and "/etc/hnai/openbao/tls/cert.pem" in certificates({"owner": "IT"})
    assert certificates(VAULT) == [one for one in certificates({}) if "openbao" not in one]
    assert checked.LookupModule().run(["components"], {"group_names": ["openbao"], "openbao_external": VAULT}) == (
        checked.LookupModule().run(["components"], {"group_names": ["openbao"]}))


def test_the_model_is_collected_as_who_asks(lab: dict[str, Any]) -> None:
    variables = {"hnai_zone": "security", "openbao_external": VAULT}
    data = site.collect({"sec1": variables}, {"managed": ["sec1"], "openbao": ["sec1"]})
    assert data["contracts"]["openbao"]["listens"] == [] and data["contracts"]["kafka"] == lab["contracts"]["kafka"]
