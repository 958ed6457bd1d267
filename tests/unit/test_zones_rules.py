# SPDX-License-Identifier: Apache-2.0
"""Each rule of the zones broken by itself on the lab's own model, and models that nobody would write: named, never a traceback, never silence."""
from __future__ import annotations

import copy
import importlib.util
import random
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import model_fuzz
import pytest

from ansible_collections.hnai.platform.plugins.module_utils.zones import law
from ansible_collections.hnai.platform.plugins.module_utils.zones.model import SR_OF, Service, Site
from ansible_collections.hnai.platform.plugins.module_utils.zones.nft import ruleset

SEEDS = (1, 2, 3)
#: Mutations that the unit tests try; the scenario model-fuzz tries more than 10 000.
TRIED = 250
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def lab() -> dict[str, Any]:
    return model_fuzz.lab()


def test_the_lab_is_right_and_uses_no_exception(lab: dict[str, Any]) -> None:
    assert model_fuzz.survives(lab) == []


def test_every_rule_has_its_breaker() -> None:
    assert {f"I{number}" for number in range(1, 14)} <= {breaker.invariant for breaker in model_fuzz.BREAKERS.values()}
    assert {f"I{number}" for number in range(1, 14)} <= set(SR_OF)


@pytest.mark.parametrize("name", model_fuzz.BREAKERS)
def test_a_broken_rule_is_named_with_file_key_and_remedy(lab: dict[str, Any], name: str) -> None:
    breaker = model_fuzz.BREAKERS[name]
    for seed in SEEDS:
        _data, found = model_fuzz.broken(lab, name, random.Random(seed))
        named = [one for one in found if one["invariant"] == breaker.invariant]
        assert named, (seed, found)
        assert not breaker.exact or len({one["invariant"] for one in found}) == 1, (seed, found)
        for one in named:
            assert re.match(r"(hnai_|groups\.|[a-z0-9]+: |[a-z_]+ → |[a-z0-9]+\Z|kafka_extra_acls)", one["key"]), one
            assert one["sr"] == list(SR_OF.get(breaker.invariant, ()))


def test_each_rule_says_something_else(lab: dict[str, Any]) -> None:
    """The remedies of two rules are never the same words: a person reads which one it is."""
    said: dict[str, set[str]] = {}
    for name, breaker in model_fuzz.BREAKERS.items():
        _data, found = model_fuzz.broken(lab, name, random.Random(1))
        said.setdefault(breaker.invariant, set()).update(one["remedy"] for one in found if one["invariant"] == breaker.invariant)
    for first, words in said.items():
        assert not any(words & others for second, others in said.items() if first != second), first


def test_models_that_nobody_would_write(lab: dict[str, Any]) -> None:
    """Always the same ones: a new one is looked for by the scenario, and must not turn a change red that it has nothing to do with."""
    seed = 1
    mutator = model_fuzz.Mutator(lab, random.Random(seed))
    for number in range(TRIED):
        what, data = mutator.damaged()
        try:
            model_fuzz.survives(data)
        except Exception as error:
            raise AssertionError(f"seed {seed}, mutation {number}: {what}") from error


# -- the management plane is modelled

def _with_dns(lab: dict[str, Any], **more: Any) -> dict[str, Any]:
    data = copy.deepcopy(lab)
    data["management"] = {"dns": {"host": "jump1"}}
    for proto in ("udp", "tcp"):
        data["conduits"].append({
            "id": f"C-01{proto[0]}", "from": {"group": "managed"}, "to": {"host": "jump1"}, "service": {"proto": proto, "port": 53, "app": "dns"},
            "kind": "management", "data_direction": "both", "owner": "site automation", "reason": "names", "expires": "2030-12-31", **more,
        })
    return data


def test_a_declared_management_service_is_needed_by_every_host_and_approved_by_conduits(lab: dict[str, Any]) -> None:
    data = _with_dns(lab)
    assert model_fuzz.errors(data) == []
    data["conduits"] = [one for one in data["conduits"] if one["id"] != "C-01t"]
    (found,) = model_fuzz.errors(data)
    assert found["invariant"] == "I9" and "dns needs tcp/53" in found["message"] and "kafka1 → jump1" in found["message"]


@pytest.mark.parametrize(("change", "words"), [
    ({"kind": "direct"}, "no management conduit"),
    ({"service": {"proto": "udp", "port": 54}}, "management over udp/54"),
    ({"to": {"host": "sec1"}}, "management over udp/53"),
    ({"from": {"asset": "plc1"}}, "no managed host of level 3 or above"),
])
def test_a_management_conduit_carries_what_is_declared_and_nothing_else(lab: dict[str, Any], change: dict[str, Any], words: str) -> None:
    data = _with_dns(lab)
    next(one for one in data["conduits"] if one["id"] == "C-01u").update(change)
    assert [one for one in model_fuzz.errors(data) if one["invariant"] == "I9" and words in one["message"]]


def test_names_come_from_a_side_zone_or_ones_own(lab: dict[str, Any]) -> None:
    data = _with_dns(lab)
    data["management"]["dns"] = {"host": "data1"}
    for one in data["conduits"][-2:]:
        one["to"] = {"host": "data1"}
    messages = [one["message"] for one in model_fuzz.errors(data) if one["invariant"] == "I9"]
    assert any("l3 reaches for l4" in message for message in messages), messages


def _with_clocks(lab: dict[str, Any], told: Any = None, **more: Any) -> dict[str, Any]:
    """Two time servers of the site's own beside the jump. *told*: what the jump's variable names besides."""
    data = copy.deepcopy(lab)
    data["management"] = {"ntp": {"asset": ["clock1", "clock2"]}}
    for number in (1, 2):
        data["assets"][f"clock{number}"] = {"zone": "mgmt", "addresses": {"v4": f"10.77.9.2{number}", "v6": f"fd77:0:0:9::2{number}"}}
        data["conduits"].append({
            "id": f"C-02{number}", "from": {"group": "jump"}, "to": {"asset": f"clock{number}"}, "service": {"proto": "udp", "port": 123, "app": "ntp"},
            "kind": "management", "data_direction": "both", "owner": "site automation", "reason": "time", "expires": "2030-12-31", **more,
        })
    if told is not None:
        data["hosts"]["jump1"]["vars"]["host_time_upstream"] = told
    return data


def test_the_jump_reaches_the_clocks_of_the_site_and_nobody_else_does(lab: dict[str, Any]) -> None:
    data = _with_clocks(lab)
    assert model_fuzz.errors(data) == []
    site = Site.from_dict(data)
    for number in (1, 2):
        for accepted in (f"ip daddr 10.77.9.2{number} udp dport 123", f"ip6 daddr fd77:0:0:9::2{number} udp dport 123"):
            assert accepted in ruleset(site, "jump1")
            assert accepted not in ruleset(site, "kafka1")
    data["conduits"].pop()
    (found,) = model_fuzz.errors(data)
    assert found["invariant"] == "I9" and "jump1 → clock2" in found["message"] and "kafka1" not in found["message"]


@pytest.mark.parametrize(("change", "words"), [
    ({"from": {"group": "managed"}}, "asks clock2 for the time past the jump"),
    ({"kind": "direct"}, "time from clock2, which is not the site's time source"),
])
def test_time_comes_by_the_jump(lab: dict[str, Any], change: dict[str, Any], words: str) -> None:
    data = _with_clocks(lab)
    data["conduits"][-1].update(change)
    assert [one for one in model_fuzz.errors(data) if one["invariant"] == "I9" and words in one["message"]]


@pytest.mark.parametrize(("told", "beyond"), [
    (["clock1", "10.77.9.22", "fd77:0:0:9::21"], ""), (["clock1", "ntp.example"], "'ntp.example'"), (["10.77.9.23"], "'10.77.9.23'"),
])
def test_the_jump_is_told_to_follow_what_it_may_reach(lab: dict[str, Any], told: list[str], beyond: str) -> None:
    found = model_fuzz.errors(_with_clocks(lab, told))
    assert [one["message"].partition(":")[0] for one in found] == ([beyond] if beyond else [])
    assert all("hnai_management.ntp" in one["remedy"] and one["key"] == "jump1: host_time_upstream" for one in found)


@pytest.mark.parametrize("given", [
    {"host": "sec1"}, {"asset": ["clock1", "nobody"]}, {"asset": []}, {"asset": "clock1", "port": 124}, {"asset": "clock1", "host": "sec1"},
])
def test_who_keeps_no_clock_for_the_jump(lab: dict[str, Any], given: dict[str, Any]) -> None:
    data = _with_clocks(lab)
    data["management"]["ntp"] = given
    assert [one for one in model_fuzz.errors(data) if one["key"] == "hnai_management.ntp"]


@pytest.mark.parametrize(("kind", "direction", "good"), [("diode", "up", True), ("diode", "both", False)])
def test_a_diode_lets_nothing_come_back(lab: dict[str, Any], kind: str, direction: str, good: bool) -> None:
    data = copy.deepcopy(lab)
    next(one for one in data["conduits"] if one["id"] == "C-201").update(kind=kind, data_direction=direction)
    assert ("I12" not in {one["invariant"] for one in model_fuzz.errors(data)}) is good


def test_an_asset_in_two_zones_is_declared_or_refused(lab: dict[str, Any]) -> None:
    data = copy.deepcopy(lab)
    data["assets"]["plc1"]["interfaces"] = {"l3": {"v4": "10.77.3.99", "v6": "fd77:0:0:3::99"}}
    assert {one["invariant"] for one in model_fuzz.errors(data)} == {"I7"}
    data["assets"]["plc1"]["dual_homed"] = {"owner": "well pad operations", "reason": "the maker's gateway"}
    assert "I7" not in {one["invariant"] for one in model_fuzz.errors(data)}


@pytest.mark.parametrize(("change", "words"), [
    ({"between": ["l3", "l3"]}, "two zones"), ({"between": ["l3", "nowhere"]}, "two zones"), ({"between": None}, "two zones"),
    ({"enforced_by": "nobody"}, "is unknown"), ({"owner": ""}, "nobody with a name"), ({"x": 1}, "not part of the format"),
])
def test_a_boundary_that_cannot_be_read(lab: dict[str, Any], change: dict[str, Any], words: str) -> None:
    boundary = {"between": ["l2", "l3"], "enforced_by": "external", "owner": "plant network", "reason": "their firewall"}
    assert model_fuzz.errors({**lab, "boundaries": {"b": boundary}}) == []
    found = model_fuzz.errors({**lab, "boundaries": {"b": {**boundary, **change}}})
    assert [one for one in found if words in one["message"] and one["invariant"] == "boundary"], found


@pytest.mark.parametrize(("change", "words"), [
    ({"firewall_mode": "enforced"}, "is unknown"), ({"firewall_mode": None}, "is unknown"), ({"firewall_mode": ["observe"]}, "is unknown"),
    ({"firewall_mode": ""}, "is unknown"), ({"enforced_by": "external", "owner": "o", "reason": "r"}, "somebody else's firewall stands there"),
    ({"firewall_approved_by": "a name"}, "approves nothing"), ({"firewall_mode": "enforce", "firewall_approved_by": 7}, "approves nothing"),
    ({"between": ["l2", "nowhere"]}, "two zones"),
])
def test_a_mode_of_a_boundary_that_means_nothing(lab: dict[str, Any], change: dict[str, Any], words: str) -> None:
    boundary = {"between": ["l2", "l3"], "enforced_by": "hnai", "firewall_mode": "observe"}
    assert model_fuzz.errors({**lab, "boundaries": {"b": boundary}}) == []
    assert model_fuzz.errors({**lab, "boundaries": {"b": {**boundary, "firewall_mode": "enforce", "firewall_approved_by": "a name"}}}) == []
    found = model_fuzz.errors({**lab, "boundaries": {"b": {**boundary, **change}}})
    assert [one for one in found if words in one["message"] and one["invariant"] == "boundary"], found
    assert any("no plain name" in one["message"] for one in model_fuzz.errors({**lab, "boundaries": {"a b": boundary}}))


def test_a_mode_needs_a_router_that_stands_there(lab: dict[str, Any]) -> None:
    data = copy.deepcopy(lab)
    data["zones"]["l1"] = {"level": 1, "cidrs": ["10.77.1.0/24"], "purpose": "x"}
    data["boundaries"] = {"b": {"between": ["l1", "l2"], "enforced_by": "hnai", "firewall_mode": "observe"}}
    (found,) = model_fuzz.errors(data)
    assert found["key"] == "hnai_boundaries.b.firewall_mode" and "no router of ours stands between l1 and l2" in found["message"]


# -- what it costs

@pytest.fixture(scope="module")
def bench() -> ModuleType:
    spec = importlib.util.spec_from_file_location("hnai_bench_zones", ROOT / "bench" / "zones.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["hnai_bench_zones"] = module
    spec.loader.exec_module(module)
    return module


def _calls(work: Any) -> int:
    """Calls of Python functions and of C functions: the same on every machine, however busy it is."""
    count = 0

    def count_one(_frame: Any, event: str, _argument: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(count_one)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


def test_the_cost_grows_with_the_site_and_not_with_its_square(bench: ModuleType) -> None:
    models = [bench.model(10, hosts, conduits) for hosts, conduits in ((5, 20), (10, 40), (20, 80))]
    # What is loaded once is no cost of a site.
    assert bench.work(bench.model(10, 3, 11))[0] == 0 and bench.work(bench.model(10, 4, 12))[0] == 0
    costs = [_calls(lambda one=one: bench.work(one)) for one in models]
    # Squared it would be 16 and 4; the smallest site has links that only its few conduits leave out.
    assert costs[2] / costs[0] < 8 and costs[2] / costs[1] < 2.6, costs


def test_what_is_said_of_a_class_is_said_of_each_of_its_members(lab: dict[str, Any]) -> None:
    """The law judges one pair of each two classes: all pairs of a site, asked one by one, are refused or not just the same."""
    site = Site.from_dict(lab)
    names = sorted(site.nodes)
    for service, kind in ((Service("tcp", 22), "management"), (Service("udp", 123), "direct"), (Service("tcp", 5000), "direct"), (Service("tcp", 5000), "jump"),
                          (Service("tcp", 8201, "openbao", "cluster"), "direct"), (Service("tcp", 4840, "", "", "opcua", ("read",)), "direct")):
        classes = [law._alike(site, names, service.component)[key] for key in law._alike(site, names, service.component)]
        for first in classes:
            for second in classes:
                said = {bool(law.dial(site, site.nodes[a], site.nodes[b], service, kind)) for a in first for b in second if a != b}
                assert len(said) < 2, (first, second, service, kind)


@pytest.mark.parametrize(("number", "said"), [(902, False), ("902", False), (950, True), (None, True)])
def test_the_conduit_of_the_filter_is_for_the_user_that_it_runs_as(lab: dict[str, Any], number: Any, said: bool) -> None:
    data = copy.deepcopy(lab)
    data["hosts"]["edge1"]["vars"]["modbus_filter_uid"] = number
    found = model_fuzz.errors(data)
    assert {one["key"].partition("]")[2] for one in found} == ({".uid"} if said else set())
    assert all(f"the filter on edge1 runs as {number} (modbus_filter_uid)" in one["message"] for one in found)
