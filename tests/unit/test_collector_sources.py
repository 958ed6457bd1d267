# SPDX-License-Identifier: Apache-2.0
"""Which endpoints a new configuration of the collector concerns, and that the role keeps it back until they were looked at."""
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.errors import AnsibleFilterError
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

from ansible_collections.hnai.platform.plugins.filter import collector as filters
from ansible_collections.hnai.platform.plugins.module_utils.collector.sources import NotReadable, changed

ROLE = Path(__file__).resolve().parents[2] / "roles/ot_collector"
PLC: dict[str, Any] = {"id": "plc1", "endpoint": "opc.tcp://plc1:4840/", "tags": [{"name": "a", "node": "i=1"}]}
SEP: dict[str, Any] = {"id": "sep1", "host": "sep1", "tags": []}


def text(*sources: dict[str, Any], **more: Any) -> str:
    return json.dumps({"sources": list(sources), **more})


@pytest.mark.parametrize(("before", "after", "named"), [
    (text(PLC, SEP), text(PLC, SEP), []), (text(PLC, SEP), text(SEP, PLC), []), ("", text(PLC, SEP), ["plc1", "sep1"]),
    (text(PLC, SEP), text(PLC), []), (text(SEP), text(SEP, PLC), ["plc1"]), (text(PLC), text({**PLC, "endpoint": "opc.tcp://other/"}), ["plc1"]),
    (text(PLC), text({**PLC, "tags": []}), ["plc1"]), (text(PLC), text({**PLC, "username": "engineer"}), ["plc1"]),
    (text(PLC), text(PLC, queue_records=1), []), ("broken", text(PLC), ["plc1"]), ("[]", text(PLC), ["plc1"]),
])
def test_what_is_read_otherwise(before: str, after: str, named: list[str]) -> None:
    assert changed(before, after) == named == filters.collector_changed(before, after)


def test_a_new_text_that_is_none_is_refused() -> None:
    with pytest.raises(NotReadable, match="new configuration"):
        changed("", "[]")
    with pytest.raises(AnsibleFilterError, match="collector_changed: the new"):
        filters.collector_changed("", "[]")


def test_the_role_keeps_it_back_and_asks_first() -> None:
    main = yaml.safe_load((ROLE / "tasks/main.yml").read_text())
    (tree,) = [one for one in main if "hnai.platform.config_tree" in one]
    assert tree["hnai.platform.config_tree"]["hold"] == ["/etc/hnai/ot_collector/collector.json"]
    assert main[-1]["ansible.builtin.include_tasks"] == {"file": "deploy.yml"} and "held" in main[-1]["when"], "a run that changes nothing does nothing"
    deploy = yaml.safe_load((ROLE / "tasks/deploy.yml").read_text())
    order = [next(key for key in one if "." in key) for one in deploy]
    assert order[:3] == ["hnai.platform.opcua_audit", "ansible.builtin.assert", "hnai.platform.config_tree"]
    assert deploy[0]["hnai.platform.opcua_audit"]["collect"] is True, "a bad verdict is for the next task to judge"
    assert "hold" not in deploy[2]["hnai.platform.config_tree"]
    for key in ("component", "group", "foreach", "foreign_ignore", "validate"):
        assert deploy[2]["hnai.platform.config_tree"][key] == tree["hnai.platform.config_tree"][key]


@pytest.mark.parametrize(("told", "changed_ones", "marked", "refuted", "stopped", "unknown"), [
    ({}, [], [], [], [], []),
    ({"go": "claimed", "halt": "proven"}, ["go", "halt"], [], [], [], []),
    ({"go": "refuted", "halt": "refuted"}, ["go", "halt"], [], ["go"], ["halt"], []),
    ({"go": "refuted"}, [], [], [], [], []),                                    # it runs and is red
    ({"go": "inconclusive", "halt": "inconclusive"}, ["go", "halt"], [], [], [], ["go", "halt"]),
    ({}, ["go", "halt"], [], [], [], ["go", "halt"]),                           # nobody was asked
    ({"halt": "refuted"}, [], ["halt"], [], ["halt"], []),
    ({"halt": "inconclusive"}, ["halt"], ["halt"], [], ["halt"], []),           # refuted once: an audit that could not ask lets nothing in
    ({}, ["halt"], ["halt"], [], ["halt"], []),                                 # check mode asks nobody
    ({"halt": "claimed"}, ["halt"], ["halt"], [], [], []),
    ({"go": "inconclusive", "halt": "refuted"}, ["go"], ["halt"], [], ["halt"], ["go"]),
])
def test_what_the_gate_makes_of_an_audit(
    told: dict[str, str], changed_ones: list[str], marked: list[str], refuted: list[str], stopped: list[str], unknown: list[str]
) -> None:
    raw = yaml.safe_load((ROLE / "vars/main.yml").read_text())
    names = ("marked", "due", "endpoints", "bad", "stops", "stopped", "refuted", "unknown", "known")
    known = {
        **{f"__ot_collector_{name}": trust_as_template(raw[f"__ot_collector_{name}"]) for name in names},
        "ot_collector_sources": [{"id": "go", "protocol": "opcua"}, {"id": "halt", "protocol": "opcua", "on_refuted": "stop"}],
        "__ot_collector_changed": changed_ones,
        "__ot_collector_tree": {"watched": [f"/var/lib/hnai/ot_audit/{one}/stop" for one in marked]},
        "__ot_collector_audit": {"endpoints": {name: {"verdict": verdict} for name, verdict in told.items()}} if told else {},
    }
    plays = Templar(DataLoader(), variables=known)
    found = [plays.template(trust_as_template("{{ __ot_collector_%s }}" % name)) for name in ("refuted", "stopped", "unknown")]
    assert [sorted(one) for one in found] == [refuted, stopped, unknown]
