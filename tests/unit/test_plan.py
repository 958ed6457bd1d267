# SPDX-License-Identifier: Apache-2.0
"""The plan: what results of check mode add up to, the callback that hears them, and the verb that refuses a run without check mode."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from ansible_collections.hnai.platform.plugins.plugin_utils.plan import Event, below, gather, table

ROOT = Path(__file__).parents[2]
PLAYBOOK = str(Path(sys.executable).with_name("ansible-playbook"))


def event(host: str, module: str, result: dict[str, Any], **more: Any) -> Event:
    """A result of one of our modules."""
    given = {"play": "Kafka", "task": f"Task of {module}", "component": "kafka", **more}
    return Event(host=host, module=f"hnai.platform.{module}", result=result, **given)


def unit_arguments(**more: Any) -> dict[str, Any]:
    """What `unit` was called with."""
    paths = {"restart_on": ["/opt/hnai/kafka/current", "/etc/hnai/kafka", "/etc/credstore.encrypted/hnai-kafka.admin"], "reload_on": ["/etc/hnai/kafka/tls"]}
    return {"invocation": {"module_args": {"name": "hnai-kafka.service", "units": None, **paths, **more}}}


def rolled() -> list[Event]:
    """A changed setting on three brokers: predicted, sorted, and restarted one by one behind the gate."""
    found = []
    for host in ("kafka1", "kafka2", "kafka3"):
        found.append(event(host, "config_tree", {"changed": True, "changed_paths": ["/etc/hnai/kafka/server.properties"], "removed": []}))
        found.append(event(host, "unit", {"changed": True, "restart_pending": True, **unit_arguments(rolling=True)}))
    for host in ("kafka3", "kafka1", "kafka2"):
        roll: dict[str, Any] = {"play": "Kafka, one restart at a time", "serial": 1}
        found.append(event(host, "kafka_restart_gate", {"changed": False, "invocation": {"module_args": {"state": "allowed"}}}, **roll))
        done = {"changed": True, "actions": ["restarted"], "causes": ["/etc/hnai/kafka/server.properties"]}
        found.append(event(host, "unit", done | unit_arguments(), **roll))
    return found


def test_a_setting_of_kafka_is_one_file_and_one_restart_a_broker_behind_the_gate() -> None:
    plan = gather(rolled())
    assert {host: [item["path"] for item in found["files"]] for host, found in plan["hosts"].items()} == {
        host: ["/etc/hnai/kafka/server.properties"] for host in ("kafka1", "kafka2", "kafka3")
    }
    assert [(item["turn"], item["host"], item["action"], item["gate"], item["one_at_a_time"]) for item in plan["restarts"]] == [
        (turn, host, "restarted", "kafka_restart_gate allowed", True) for turn, host in enumerate(("kafka3", "kafka1", "kafka2"), 1)
    ]
    assert plan["complete"]
    assert json.loads(json.dumps(plan)) == plan
    text = table(plan)
    assert "1. kafka3: hnai-kafka.service restarted, one host at a time; gate: kafka_restart_gate allowed; because of /etc/hnai/kafka/server.prop" in text


def test_a_restart_follows_from_files_that_a_role_did_not_tell_its_unit() -> None:
    quiet = {"changed": False, **unit_arguments()}
    for result, module, expected in (
        ({"changed": True, "changed_paths": ["/etc/hnai/kafka/x.conf"]}, "config_tree", ["restarted"]),
        ({"changed": True, "changed_paths": ["/etc/hnai/kafka/tls/cert.pem"]}, "config_tree", ["reloaded"]),
        ({"changed": True, "changed_paths": ["/etc/hnai/kafkaesque/x"]}, "config_tree", []),
        ({"changed": True, "changed_paths": ["/etc/systemd/system/hnai-kafka.service"]}, "config_tree", ["restarted"]),
        ({"changed": True, "artifacts": {"kafka": {"version": "4.3.1", "changed": True}}, "debs": {"installed": []}}, "artifact", ["restarted"]),
        ({"changed": True, "artifacts": {"jre": {"version": "21", "changed": True}}, "debs": {"installed": ["x=1"]}}, "artifact", []),
        ({"changed": True, "censored": "hidden"}, "credentials", ["restarted"]),
        ({"changed": False, "changed_paths": [], "artifacts": {}}, "config_tree", []),
    ):
        plan = gather([event("h", module, result), event("h", "unit", quiet)])
        assert [item["action"] for item in plan["restarts"]] == expected, result
    # Another host's files are none of its business, and what changes after the unit has started is not either.
    changed = {"changed": True, "changed_paths": ["/etc/hnai/kafka/x.conf"]}
    assert not gather([event("other", "config_tree", changed), event("h", "unit", quiet)])["restarts"]
    assert not gather([event("h", "unit", quiet), event("h", "config_tree", changed)])["restarts"]
    rolling = {"changed": False, **unit_arguments(rolling=True)}
    (pending,) = gather([event("h", "config_tree", changed), event("h", "unit", rolling)])["restarts"]
    assert (pending["action"], pending["one_at_a_time"]) == ("restart pending", True)
    assert "did not reach" in pending["gate"]


def test_a_restart_is_not_hidden_by_a_reload_that_is_due() -> None:
    """A run that was killed left a reload, and now a setting changes too."""
    due = {"changed": True, "actions": ["reload digest written", "reloaded"], "causes": ["/etc/hnai/kafka/tls/cert.pem"], **unit_arguments()}
    assert [item["action"] for item in gather([event("h", "unit", due)])["restarts"]] == ["reloaded"]
    changed = {"changed": True, "changed_paths": ["/etc/hnai/kafka/x.conf"]}
    (item,) = gather([event("h", "config_tree", changed), event("h", "unit", due)])["restarts"]
    assert (item["action"], item["causes"]) == ("restarted", ["/etc/hnai/kafka/tls/cert.pem", "/etc/hnai/kafka/x.conf"])


def test_rights_restart_nothing_and_a_unit_that_goes_is_stopped() -> None:
    paths = ["/etc/hnai/kafka/", "/etc/hnai/kafka/log4j2.xml"]
    changed = {"changed": True, "changed_paths": paths, "rights": paths, "removed": ["/etc/systemd/system/hnai-x.service"], "stopped": ["hnai-x.service"]}
    plan = gather([event("h", "config_tree", changed), event("h", "unit", {"changed": False, **unit_arguments()})])
    assert [(item["unit"], item["action"], item["causes"]) for item in plan["restarts"]] == [
        ("hnai-x.service", "stopped", ["/etc/systemd/system/hnai-x.service"])]  # fmt: skip
    assert [item["action"] for item in plan["hosts"]["h"]["files"]] == ["rights", "rights", "removed"]
    assert "1. h: hnai-x.service stopped" in table(plan)


def test_a_package_restarts_the_units_of_its_component_that_run_a_program_of_debian() -> None:
    installed = {"changed": True, "artifacts": {}, "debs": {"installed": ["victoria-metrics=1.112.0"]}}
    units = [
        {"name": "hnai-victoriametrics.service", "restart_on": ["/usr/bin/victoria-metrics"]},
        {"name": "hnai-victoriametrics-auth.service", "restart_on": ["/usr/local/lib/hnai/victoriametrics/auth-config"], "reload_on": ["/etc/x"]},
    ]
    asked = {"changed": False, "units": {unit["name"]: {"actions": []} for unit in units}, "invocation": {"module_args": {"units": units}}}
    for component, expected in (("victoriametrics", ["hnai-victoriametrics.service"]), ("host", [])):
        plan = gather([event("h", "artifact", installed, component=component), event("h", "unit", asked, component="victoriametrics")])
        assert [item["unit"] for item in plan["restarts"]] == expected


def test_several_units_each_for_itself() -> None:
    units = [{"name": "a.service", "restart_on": ["/etc/a"]}, {"name": "b.service", "restart_on": ["/etc/b"]}]
    result = {"changed": True, "units": {"a.service": {"actions": ["enabled", "started"]}, "b.service": {}}, "invocation": {"module_args": {"units": units}}}
    plan = gather([event("h", "config_tree", {"changed": True, "changed_paths": ["/etc/b"]}), event("h", "unit", result)])
    assert [(item["unit"], item["action"], item["causes"]) for item in plan["restarts"]] == [
        ("a.service", "started", []),
        ("b.service", "restarted", ["/etc/b"]),
    ]


def test_what_a_unit_does_at_the_next_boot_is_told_once_and_restarts_nothing() -> None:
    result = {"changed": True, "actions": ["enabled", "restart digest written"], **unit_arguments()}
    plan = gather([event("h", "unit", result), event("h", "unit", result)])
    assert plan["hosts"] == {"h": {"files": [], "others": [{"what": "hnai-kafka.service enabled", "component": "kafka"}]}}
    assert not plan["restarts"]
    assert "hnai-kafka.service enabled" in table(plan)
    both = {"changed": True, "actions": ["stopped", "disabled"], **unit_arguments()}
    plan = gather([event("h", "unit", both)])
    assert [item["what"] for item in plan["hosts"]["h"]["others"]] == ["hnai-kafka.service disabled"]
    assert [item["action"] for item in plan["restarts"]] == ["stopped"]
    units = {"changed": True, "units": {"a.service": {"actions": ["enabled"]}, "b.service": {"actions": []}}, "invocation": {"module_args": {"units": []}}}
    assert [item["what"] for item in gather([event("h", "unit", units)])["hosts"]["h"]["others"]] == ["a.service enabled"]


def test_what_cannot_be_told_is_said_and_a_failure_makes_the_plan_incomplete() -> None:
    plan = gather(
        [
            event("h", "command", {"msg": "Command would have run if not in check mode"}, state="skipped"),
            event("h", "command", {"skip_reason": "Conditional result was False"}, state="skipped"),
            event("h", "kafka_converge", {"changed": True, "created_topics": ["ot.raw"], "created_acls": []}),
            event("h", "something", {"changed": True}),
            event("h", "something", {"changed": True, "dest": "/etc/x"}),
            event("h", "something", {"changed": True, "invocation": {"module_args": {"path": "/etc/y"}}}),
            event("g", "config_tree", {"msg": "no route"}, state="unreachable"),
        ]
    )
    assert [item["why"] for item in plan["not_predicted"]] == ["Command would have run if not in check mode"]
    assert [item["what"] for item in plan["hosts"]["h"]["others"]] == ["created topics: ot.raw", "Task of something"]
    assert [item["path"] for item in plan["hosts"]["h"]["files"]] == ["/etc/x", "/etc/y"]
    assert [item["host"] for item in plan["failed"]] == ["g"]
    assert not plan["complete"]
    assert "FAILED" in table(plan)


def test_a_plan_of_nothing_is_no_plan_without_changes() -> None:
    spec = Event("kafka1", "Kafka", "Validating arguments", "ansible.builtin.validate_argument_spec", "kafka", {"changed": False})
    model = Event("localhost", "Site model", "Validate the site", "hnai.platform.site_validate", "", {"changed": False})
    plan = gather([model, spec])
    assert not plan["looked"] and not plan["complete"]
    assert "NOTHING WAS LOOKED AT" in table(plan) and "No file" not in table(plan) and "No unit" not in table(plan)
    refused = Event("localhost", "Site model", "Validate the site", "hnai.platform.site_validate", "", {"msg": "refused"}, state="failed")
    assert "FAILED, so the plan is not complete:\n  localhost: Validate the site: failed: refused" in table(gather([refused]))
    plan = gather([model, spec, event("kafka1", "unit", {"msg": "no"}, state="unreachable")])
    assert plan["looked"] and not plan["complete"]
    assert "No file, package" not in table(plan) and "No unit" not in table(plan)
    plan = gather([model, spec, event("kafka1", "config_tree", {"changed": False})])
    assert plan["complete"] and "No file, package or object differs." in table(plan) and "No unit restarts" in table(plan)


def test_below() -> None:
    assert below("/etc/a/b", ["/etc/a"])
    assert below("/etc/a/", ["/etc/a"])
    assert below("/etc/a.b", ["/etc/a.*"])
    assert not below("/etc/ab", ["/etc/a"])
    assert not below("/etc/a", ["/etc/a/b"])


def environment(tmp_path: Path) -> dict[str, str]:
    """No configuration, and an ssh that only leaves a trace."""
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "ssh").write_text('#!/bin/sh\ntouch "$0.called"\nexit 255\n', encoding="utf-8")
    (tools / "ssh").chmod(0o755)
    kept = {key: value for key, value in os.environ.items() if not key.startswith("ANSIBLE_")}
    return {**kept, "PATH": f"{tools}:{os.environ['PATH']}", "HOME": str(tmp_path), "ANSIBLE_NOCOLOR": "1", "HNAI_STATE_DIR": str(tmp_path / "state")}


def test_a_run_without_check_mode_begins_nothing(tmp_path: Path) -> None:
    command = [PLAYBOOK, "-i", str(ROOT / "inventories/lab/hosts.yml"), str(ROOT / "playbooks/plan.yml")]
    done = subprocess.run(command, cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode != 0
    assert "a plan is made in check mode: add --check" in done.stdout + done.stderr
    assert done.stdout.count("PLAY [") == 1, "no other play begins"
    assert not (tmp_path / "bin/ssh.called").exists()
    assert "Plan: what a run" not in done.stdout


def test_the_callback_hears_a_plan(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "playbooks/callback_plugins", tmp_path / "callback_plugins")
    plays = [
        {
            "name": "A play",
            "hosts": "localhost",
            "connection": "local",
            "gather_facts": False,
            "vars": next(play["vars"] for play in yaml.safe_load((ROOT / "playbooks/plan.yml").read_text("utf-8")) if "vars" in play),
            "tasks": [
                {"name": "Where", "ansible.builtin.set_stats": {"data": {"hnai_plan_file": str(tmp_path / "out/plan.json")}}},
                {"name": "Write", "ansible.builtin.file": {"path": str(tmp_path / "{{ item }}"), "state": "touch", "mode": "0600"}, "loop": ["a", "b"]},
                # Its result names no file: the arguments do.
                {"name": "Line", "ansible.builtin.lineinfile": {"path": str(tmp_path / "line"), "line": "x"}},
                {"name": "Command", "ansible.builtin.command": {"argv": ["touch", str(tmp_path / "c")]}},
                {"name": "Commands", "ansible.builtin.command": {"argv": ["touch", "{{ item }}"]}, "loop": ["c", "c"]},
                {"name": "Some", "ansible.builtin.lineinfile": {"path": "{{ item }}", "line": "y"}, "loop": [str(tmp_path / "other"), "/none/a"]},
            ],
        }
    ]
    for name in ("line", "other"):
        (tmp_path / name).touch()
    (tmp_path / "plan.yml").write_text(json.dumps(plays), encoding="utf-8")
    command = [PLAYBOOK, "-i", "localhost,", "-e", f"ansible_python_interpreter={sys.executable}", "--check", str(tmp_path / "plan.yml")]
    done = subprocess.run(command, cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Plan: what a run" in done.stdout
    plan = json.loads((tmp_path / "out/plan.json").read_text(encoding="utf-8"))
    assert [item["path"] for item in plan["hosts"]["localhost"]["files"]] == [str(tmp_path / name) for name in ("a", "b", "line", "other")]
    assert [item["task"] for item in plan["not_predicted"]] == ["Command", "Commands", "Commands"]
    assert [(item["task"], item["why"]) for item in plan["failed"]] == [("Some", "failed: Destination /none/a does not exist !")]
    assert not list(tmp_path.glob("[abc]"))


@pytest.fixture
def callback(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The callback in this process, in a run in check mode; what it says lies in `said`."""
    spec = importlib.util.spec_from_file_location("hnai_plan", ROOT / "playbooks/callback_plugins/hnai_plan.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "context", SimpleNamespace(CLIARGS={"check": True}))
    made = module.CallbackModule()
    made.said = []
    made._display = SimpleNamespace(display=made.said.append, error=lambda text, wrap_text: made.said.append(text))
    return made


def test_the_callback_hears_no_other_run(callback: Any) -> None:
    for name, deaf in (("/x/plan.yml", False), ("/x/other.yml", True)):
        callback.v2_playbook_on_start(SimpleNamespace(_file_name=name))
        assert callback.disabled is deaf


def test_a_plan_that_cannot_be_written_is_shown_and_says_why(callback: Any, tmp_path: Path) -> None:
    callback.file = str(tmp_path)
    with pytest.raises(SystemExit, match="1"):
        callback.v2_playbook_on_stats(None)
    shown, error = callback.said
    assert "Plan: what a run" in shown
    assert f"{tmp_path}: Is a directory: the plan was not written" in error and "remedy: -e plan_file=" in error


def test_a_plan_that_could_not_be_written_is_not_begun(tmp_path: Path) -> None:
    given = ["-i", "inventories/lab/hosts.yml", "--check", "-e", f"plan_file={tmp_path}"]
    command = [PLAYBOOK, "playbooks/plan.yml", *given]
    done = subprocess.run(command, cwd=ROOT, env=environment(tmp_path), capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"{tmp_path}: Is a directory: the plan was not written" in done.stderr
    assert done.stdout.count("PLAY [") == 1, "no other play begins"
    assert not (tmp_path / "bin/ssh.called").exists()
