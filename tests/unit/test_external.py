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
