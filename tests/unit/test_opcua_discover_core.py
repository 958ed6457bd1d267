# SPDX-License-Identifier: Apache-2.0
"""Names, bindings and differences of a proposed tag map: for any server that hypothesis can think of."""
from __future__ import annotations

import json
import random
import re
from typing import Any

import yaml
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.hnai.platform.plugins.module_utils.opcua.discover import (
    Proposal,
    Variable,
    names,
    propose,
    render,
    step_name,
    unit_text,
    word,
)

NAME = re.compile(r"^[a-zA-Z_][a-zA-Z0-9_]*$")
URIS = ("urn:a", "urn:b;c")
steps = st.builds(lambda uri, name: "nsu=%s;%s" % (uri, name), st.sampled_from(URIS[:1]),
                  st.sampled_from(["Pump", "pump", "PUMP 1", "Pump_1", "PT", "2nd", "Öl", "压力", "", "a;b", "true", "x"]) | st.text(max_size=4))
paths = st.lists(steps, min_size=1, max_size=3).map(tuple)
variables = st.builds(Variable, path=paths, node=st.integers(0, 50).map(lambda number: "nsu=urn:a;i=%d" % number), type=st.sampled_from(
    ["double", "int", "bool", "string", "float", ""]), access=st.sampled_from([None, 0, 1, 3]), rank=st.sampled_from([-1, 1]),
    unit=st.sampled_from([None, "°C", "bbl/d", "m³/h"]))
servers = st.lists(variables, max_size=6, unique_by=lambda one: (one.path, one.node))


def one(*path: str, node: str = "", **more: Any) -> Variable:
    return Variable(path=tuple("nsu=urn:a;" + step for step in path), node=node or "nsu=urn:a;s=" + ".".join(path), **{"type": "double", **more})


@given(servers, st.lists(st.sampled_from(["pump", "PT", "x", "pump_1"]), max_size=3), st.randoms())
def test_names_are_valid_different_and_the_same_in_any_order(server: list[Variable], taken: list[str], rng: random.Random) -> None:
    given_names = names(server, taken)
    lower = [name.lower() for name in given_names.values()]
    assert all(NAME.match(name) for name in given_names.values())
    assert len(set(lower)) == len(server) and not set(lower) & {name.lower() for name in taken}
    shuffled = list(server)
    rng.shuffle(shuffled)
    assert names(shuffled, taken) == given_names


@given(servers, st.randoms())
def test_what_was_taken_over_stays_and_differs_in_nothing(server: list[Variable], rng: random.Random) -> None:
    nodes: dict[str, Variable] = {}
    for variable in server:
        nodes.setdefault(variable.node, variable)
    first = propose("s", nodes.values(), [])
    assert sorted(first.new) == sorted(tag["name"] for tag in first.tags) and not first.gone and not first.changed
    assert len(first.tags) + len(first.left_out) == len(nodes)
    tags = list(first.tags)
    rng.shuffle(tags)
    again = propose("s", nodes.values(), tags)
    assert not again.differs and again.tags == tags
    # Without paths, as a map that was written by hand, the nodes bind.
    bare = [{key: value for key, value in tag.items() if key != "path"} for tag in tags]
    by_node = propose("s", nodes.values(), bare)
    assert not by_node.differs and by_node.tags == tags


@given(servers, servers)
def test_a_server_that_grows_renames_nothing_that_was_taken_over(before: list[Variable], more: list[Variable]) -> None:
    seen = {variable.node: variable for variable in before}
    tags = propose("s", seen.values(), []).tags
    grown = {**{variable.node: variable for variable in more}, **seen}
    later = propose("s", grown.values(), tags)
    assert not later.gone and not [item for item in later.changed if item["field"] == "node"]
    assert later.tags[:len(tags)] == tags
    assert len({tag["name"].lower() for tag in later.tags}) == len(later.tags)


@given(servers)
def test_the_file_is_what_was_proposed(server: list[Variable]) -> None:
    proposal = propose("s", {variable.node: variable for variable in server}.values(), [])
    assert yaml.safe_load(render(proposal)) == {"tags": proposal.tags}


def test_names_say_what_they_must_and_no_more() -> None:
    given_names = names([one("Pad", "W1", "PT"), one("Pad", "W2", "PT"), one("Pad", "W2", "WellheadTemp"), one("2ndStage"), one("压")])
    found = {".".join(step_name(step) for step in variable.path): name for variable, name in given_names.items()}
    assert found.pop("压").startswith("tag_")
    assert found == {"Pad.W1.PT": "w1_pt", "Pad.W2.PT": "w2_pt", "Pad.W2.WellheadTemp": "wellhead_temp", "2ndStage": "t_2nd_stage"}
    assert [word(text) for text in ("w01_liquid_rate", "HTTPServerURL", "Öl-Druck (max.)")] == ["w01_liquid_rate", "http_server_url", "ol_druck_max"]


def test_two_nodes_at_the_same_path_are_told_apart_by_their_nodes() -> None:
    twins = [one("A", node="nsu=urn:a;i=1"), one("A", node="nsu=urn:a;i=2")]
    given_names = names(twins)
    assert len(set(given_names.values())) == 2 and all(name.startswith("a_") for name in given_names.values())
    # The third one changes neither.
    assert {variable: names([*twins, one("A", node="nsu=urn:a;i=3")])[variable] for variable in twins} == given_names


def test_new_gone_and_changed_are_named_and_the_reviewers_words_stay() -> None:
    tags = [
        {"name": "p", "node": "nsu=urn:a;s=P", "type": "double", "unit": "psi", "unit_to": "kPa", "kind": "cyclic", "queue": 240},
        {"name": "state", "node": "nsu=urn:a;s=S", "type": "enum", "unit": "", "unit_to": "", "codes": {0: "OFF", 1: "ON"}},
        {"name": "lost", "node": "nsu=urn:a;s=Q", "type": "int", "unit": "", "unit_to": ""},
    ]
    server = [one("P", type="float", unit="bar", low=0.0, high=400.0), one("S", type="int"), one("New", type="int"),
              one("Arr", rank=1), one("When", type="", data_type="i=13"), one("Hid", access=0), one("Set", access=3)]
    found = propose("plc1", server, tags)
    assert found.new == ["new", "set"] and found.gone == ["lost"] and found.writable == ["set"] and found.ranges == {"p": [0.0, 400.0]}
    assert found.changed == [{"name": "p", "field": "type", "from": "double", "to": "float"}, {"name": "p", "field": "unit", "from": "psi", "to": "bar"}]
    assert found.tags[0] == {**tags[0], "type": "float", "unit": "bar", "path": ["nsu=urn:a;P"]}
    assert found.tags[1] == {**tags[1], "path": ["nsu=urn:a;S"]}, "a number may be a code; the server did not say which"
    assert {item["path"]: item["why"].split(" ")[0] for item in found.left_out} == {"Arr": "an", "When": "its", "Hid": "the"}
    text = render(found)
    assert "# gone: lost" in text and '# changed: p: unit: "psi" -> "bar"' in text and "# WRITABLE for the mirror: set" in text
    assert "# range: p: 0.0 to 400.0" in text
    assert yaml.safe_load(text)["tags"] == found.tags


def test_a_renumbered_node_is_the_same_tag_and_a_swapped_one_is_not() -> None:
    tag = {"name": "p", "node": "nsu=urn:a;i=5", "path": ["nsu=urn:a;Plant", "nsu=urn:a;P"], "type": "double", "unit": "", "unit_to": ""}
    found = propose("s", [one("Plant", "P", node="nsu=urn:a;i=9"), one("Plant", "Q", node="nsu=urn:a;i=5")], [tag])
    assert found.changed == [{"name": "p", "field": "node", "from": "nsu=urn:a;i=5", "to": "nsu=urn:a;i=9"}]
    assert found.new == ["q"] and not found.gone, "what has its number today is another thing"


def test_a_look_with_holes_calls_nothing_gone() -> None:
    tag = {"name": "p", "node": "nsu=urn:a;s=P", "type": "double", "unit": "", "unit_to": ""}
    found = propose("s", [], [tag], "1 nodes truncated")
    assert found.unseen == ["p"] and not found.gone and found.tags == [tag] and found.differs
    assert "# INCOMPLETE: 1 nodes truncated" in render(found)


def test_a_name_that_is_free_again_is_not_given_away_at_once() -> None:
    tag = {"name": "pump", "node": "nsu=urn:a;s=Gone", "type": "double", "unit": "", "unit_to": ""}
    found = propose("s", [one("Pump")], [tag])
    assert found.gone == ["pump"] and found.new != ["pump"]


def test_enumerations_bring_their_codes_and_a_change_of_them_shows() -> None:
    server = [one("S", type="enum", codes=((0, "OFF"), (1, "RUN")))]
    first = propose("s", server, [])
    assert first.tags[0]["type"] == "enum" and first.tags[0]["codes"] == {0: "OFF", 1: "RUN"}
    # As Ansible hands it over: JSON knows no numbers as keys.
    sent = json.loads(json.dumps(first.tags))
    again = propose("s", server, sent)
    assert not again.differs and yaml.safe_load(render(again))["tags"] == first.tags
    older = {**first.tags[0], "codes": {0: "OFF", 1: "ON"}}
    assert [item["field"] for item in propose("s", server, [older]).changed] == ["codes"]


def test_a_hostile_name_stays_a_comment_or_a_string() -> None:
    bad = one("x\n- evil: 1\u2028# y", type="", data_type="i=13")
    text = render(propose("s", [bad, one('q"\n---\ntags: []', node="nsu=urn:a;s=}: #")], []))
    assert [line for line in text.splitlines() if not line.startswith(("#", " ", "---", "tags:"))] == []
    assert len(yaml.safe_load(text)["tags"]) == 1


def test_what_the_inventory_cannot_hold_is_left_out_and_nothing_of_a_server_is_evaluated() -> None:
    """A proposal is taken over into the inventory, where Ansible evaluates what stands in curly brackets."""
    evil = "{{ lookup('pipe', 'id') }}"
    bad = [one("P", evil), one("P", "n", node="nsu=urn:a;s=" + evil), one("P", "u", unit=evil), one("P", "c", type="enum", codes=((0, "{% x"),)),
           one("P", "s", node="nsu=urn:b;c;s=x"), one("P", "l", node="nsu=urn:a;s=x\ny")]
    told = propose("s", [*bad, one("P", "good", unit="{bar}")], [])
    assert told.new == ["good"] and len(told.left_out) == len(bad)
    assert sum("Ansible would evaluate" in item["why"] for item in told.left_out) == 4
    # Neither is what is there changed into it.
    have = [{"name": "u", "node": bad[2].node, "type": "double", "unit": "bar", "unit_to": "bar"}]
    told = propose("s", [bad[2]], have)
    assert told.tags == have and not told.changed and not told.gone and told.left_out


def test_a_sampling_interval_that_is_none_is_the_usual_one() -> None:
    for told, wanted in ((2500.2, 2501), (0.0, 1000), (1e12, 1000), (float("nan"), 1000), (float("inf"), 1000)):
        proposal = propose("s", [one("P", sampling_ms=told, low=float("nan"), high=told)], [])
        assert proposal.tags[0]["sampling_ms"] == wanted and not proposal.ranges


def test_units_in_the_letters_of_the_inventory() -> None:
    assert [unit_text(text) for text in ("°C", "m³/h", " µm ", "bbl/d", "%")] == ["degC", "m3/h", "um", "bbl/d", "%"]


def test_an_empty_server_is_an_empty_map() -> None:
    assert yaml.safe_load(render(Proposal("s"))) == {"tags": []}
