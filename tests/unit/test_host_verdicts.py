# SPDX-License-Identifier: Apache-2.0
"""The two sides of host_verdicts without a host: what of tasks/verify.yml is understood, and what a check module's end means."""
from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from ansible.errors import AnsibleActionFail

from ansible_collections.hnai.platform.plugins.action.host_verdicts import Question, questions
from ansible_collections.hnai.platform.plugins.module_utils.fanout import Ended
from ansible_collections.hnai.platform.plugins.modules import host_verdicts
from ansible_collections.hnai.platform.plugins.plugin_utils import site

TASK: dict[str, Any] = {"name": "Ask", "hnai.platform.x_health": {"collect": True}, "register": "x_verdict"}


def test_a_task_is_a_question() -> None:
    tasks = [TASK, {**TASK, "when": "deep", "register": "x_verdict__deep"}, {**TASK, "when": ["a", "b"], "hnai.platform.x_health": None}]
    assert list(questions(tasks, "f")) == [
        Question("Ask", "hnai.platform.x_health", {"collect": True}, "x_verdict"),
        Question("Ask", "hnai.platform.x_health", {"collect": True}, "x_verdict__deep", ("deep",)),
        Question("Ask", "hnai.platform.x_health", {}, "x_verdict", ("a", "b")),
    ]
    assert list(questions(None, "f")) == []


@pytest.mark.parametrize(("task", "said"), [
    ({**TASK, "delegate_to": "sec1"}, "delegate_to is not understood here"),
    ({**TASK, "no_log": True}, "no_log is not understood here"),
    ({"name": "Ask", "ansible.builtin.command": "true", "register": "x_verdict"}, "ansible.builtin.command is not understood here"),
    ({**TASK, "hnai.platform.y_health": {}}, "it needs one module of ours"),
    ({"name": "Ask", "hnai.platform.x_health": {}}, "it needs one module of ours and register"),
])
def test_what_is_not_understood_is_refused_by_name(task: dict[str, Any], said: str) -> None:
    with pytest.raises(AnsibleActionFail) as caught:
        list(questions([task], "roles/x/tasks/verify.yml"))
    text = str(caught.value)
    assert text.startswith(f"roles/x/tasks/verify.yml: Ask: {said}") and "tasks/verify_full.yml" in text


@pytest.mark.parametrize(("ended", "text", "reason"), [
    (Ended(0, '\n{"changed": false}\n', "warning", False), '{"changed": false}', ""),
    (Ended(1, 'noise\n{"failed": true, "msg": "no"}\n', "", False), '{"failed": true, "msg": "no"}', ""),
    (Ended(1, "", "Traceback\n  x\nValueError: no good\n", False), "", "the check module ended with 1: ValueError: no good"),
    (Ended(1, '{"changed": false, "chec\n', "OSError: [Errno 28] No space left on device", False), "",
     f"the answer of the check module was cut after 24 characters: is there room in {tempfile.gettempdir()}?"),
    (Ended(-11, "", "", False), "", "the check module ended with -11: it said nothing"),
    (Ended(-9, '{"half": 1}', "", True), "", "the check module was not done after 65 s and was killed"),
])
def test_how_a_check_module_ended(ended: Ended, text: str, reason: str) -> None:
    assert host_verdicts.result_of(ended, 65.0) == (text, reason)


def test_what_several_import_is_loaded_once() -> None:
    ours = "ansible_collections.hnai.platform.plugins.module_utils"
    first = f"from {ours}.verdict import start\nfrom {ours}.kafka.health import Health\nimport os\n"
    second = f"from {ours}.verdict import finish\nfrom {ours}.verdict import start\n    from {ours}.kafka.health import Health\n"
    assert host_verdicts.shared({"a": first, "b": second}) == [f"{ours}.verdict"]
    assert host_verdicts.shared({"a": first}) == []


def test_the_model_is_collected_once_while_it_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    def collected(*_args: Any) -> dict[str, Any]:
        made.append(1)
        return {"number": len(made)}

    monkeypatch.setattr(site, "_collect", collected)
    assert [site.collect({}, {})["number"] for _ in range(2)] == [1, 2]
    with site.kept(tmp_path / "model.json"):
        first = site.collect({}, {})
        first["number"] = 99
        assert site.collect({}, {}) == {"number": 3}, "what a reader does to it stays with him"
    with site.kept(tmp_path / "model.json"):
        assert site.collect({}, {}) == {"number": 3}, "the next host reads what the first one made"
    assert json.loads((tmp_path / "model.json").read_text()) == {"number": 3}
    assert site.collect({}, {}) == {"number": 4}
