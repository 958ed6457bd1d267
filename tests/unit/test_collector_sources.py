# SPDX-License-Identifier: Apache-2.0
"""Which endpoints a new configuration of the collector concerns, and that the role keeps it back until they were looked at."""
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.errors import AnsibleFilterError

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
