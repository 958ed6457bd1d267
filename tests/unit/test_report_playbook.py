# SPDX-License-Identifier: Apache-2.0
"""host_verdicts and verdict_report: in two real runs a component that is broken, one that hangs, one that is not reached and one that is well; the judge's
own cases in this process, on what such a visit brings."""
from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from ansible.errors import AnsibleActionFail

from ansible_collections.hnai.platform.plugins.action import verdict_report

ROOT = Path(__file__).resolve().parents[2]

HEALTH = '''
# SPDX-License-Identifier: Apache-2.0
import signal
import time

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.hnai.platform.plugins.module_utils.verdict import VERDICT_ARGS, Report, finish

module = AnsibleModule(argument_spec=dict(VERDICT_ARGS, says=dict(type="str", required=True), secret=dict(type="str", no_log=True)), supports_check_mode=True)
if module.params["says"] == "crash":
    raise RuntimeError("the module itself is broken")
if module.params["says"] == "hang":
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM, signal.SIGTERM])
    time.sleep(600)
report = Report(component="alpha", version="1.0", deadline_s=module.params["deadline"])
with report.check("A1", "alpha works", expected="pass", explain="alpha --check") as check:
    check.observed = module.params["says"]
    check.raw("a1.txt", "answer")
    check.passed(module.params["says"] == "pass", "alpha says so")
if module.params["says"] == "skip":
    report.skip("A9", "alpha deep", "not possible here")
finish(module, report)
'''
CONTRACT = {
    "name": "alpha", "purpose": "A test.", "levels": ["l3"], "listens": [], "connects": [], "artifacts": [], "service": {"units": []},
    "secrets": [], "health": {"module": "hnai.platform.alpha_health"}, "state": [], "ui": "none", "requirements": ["X08"],
}
ROLE = {
    "defaults/main.yml": """
alpha_says: by default
alpha_deadline: 60
""",
    "vars/main.yml": """
__alpha_says: "{{ says | default(alpha_says) }}"
""",
    "tasks/verify.yml": """
- name: Ask alpha
  hnai.platform.alpha_health: {says: "{{ __alpha_says }}", deadline: "{{ alpha_deadline }}", collect: true}
  register: alpha_verdict
- name: Ask alpha again
  hnai.platform.alpha_health: {says: pass, secret: "{{ alpha_secret | default('geheim-4711') }}", collect: true}
  when: twice | default(false) | bool
  register: alpha_verdict__again
""",
}
PLAYBOOK = """
- name: Verify
  hosts: alpha
  gather_facts: false
  ignore_unreachable: true
  tags: [verify, alpha]
  tasks:
    - name: Collect
      hnai.platform.host_verdicts:
      register: hnai_verdicts
- name: Judge
  hosts: managed
  gather_facts: false
  tags: [verify, alpha]
  tasks:
    - name: Judge
      hnai.platform.verdict_report:
        path: "{{ verdicts }}"
        site: test
        environment: lab
      run_once: true
"""


@pytest.fixture(scope="module")
def collections(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A collection of its own with one component: ours, compiled once, and a health module that does what it is told."""
    base = tmp_path_factory.mktemp("collections")
    root = base / "ansible_collections" / "hnai" / "platform"
    shutil.copytree(ROOT / "plugins", root / "plugins", ignore=shutil.ignore_patterns("__pycache__"))
    (root / "plugins" / "modules" / "alpha_health.py").write_text(HEALTH)
    meta = root / "roles" / "alpha" / "meta"
    meta.mkdir(parents=True)
    for name, text in ROLE.items():
        path = meta.parent / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    (meta / "component.yml").write_text(yaml.safe_dump(CONTRACT))
    (meta / "checks.yml").write_text(yaml.safe_dump({"heading": "Alpha", "order": 1, "checks": {
        ident: {"severity": "warning", "title": "alpha", "meaning": f"alpha means {ident}", "action": "mend it", "repeat": "alpha --again"}
        for ident in ("A1", "A9")}}))
    (root / "galaxy.yml").write_text("version: 9.9.9\n")
    return base


class Site:
    """Local hosts with that component."""

    def __init__(self, base: Path, collections: Path) -> None:
        self.base, self.collections = base, collections
        self.verdicts = base / "verdicts"
        (base / "play.yml").write_text(PLAYBOOK)
        (base / "ansible.cfg").write_text("[defaults]\ninternal_poll_interval = 0.01\n")

    def run(self, hosts: dict[str, dict[str, Any]], *options: str) -> tuple[int, str]:
        local = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
        members = {name: {**local, **variables} for name, variables in hosts.items()}
        inventory = {"all": {"children": {"managed": {"children": {"alpha": {"hosts": members}}}}}}
        (self.base / "hosts.yml").write_text(yaml.safe_dump(inventory))
        environment = {
            **os.environ, "ANSIBLE_COLLECTIONS_PATH": str(self.collections), "ANSIBLE_CONFIG": str(self.base / "ansible.cfg"),
            "ANSIBLE_LOCAL_TEMP": str(self.base / "tmp"), "ANSIBLE_REMOTE_TEMP": str(self.base / "tmp"), "LC_ALL": "C.UTF-8",
            "ANSIBLE_INJECT_FACT_VARS": "false", "COLUMNS": "160",
        }
        command = [
            str(Path(sys.executable).with_name("ansible-playbook")), "-i", str(self.base / "hosts.yml"), str(self.base / "play.yml"),
            "-e", f"verdicts={self.verdicts}", *options,
        ]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400, check=False)
        return done.returncode, done.stdout + done.stderr

    def record(self) -> dict[str, Any]:
        return json.loads((self.verdicts / "latest" / "record.json").read_text())


@pytest.fixture
def site(tmp_path: Path, collections: Path) -> Site:
    return Site(tmp_path, collections)


def statuses(record: dict[str, Any]) -> dict[tuple[str, str], str]:
    return {(one["host"], check["id"]): check["status"] for one in record["verdicts"] for check in one["checks"]}


def test_all_is_well(site: Site) -> None:
    code, output = site.run({"a1": {"says": "pass"}, "a2": {"says": "pass"}})
    assert code == 0, output
    record = site.record()
    assert record["verdict"] == "pass"
    assert statuses(record) == {("a1", "A1"): "pass", ("a2", "A1"): "pass"}
    assert record["subject"]["collection"] == "hnai.platform 9.9.9"
    assert len(record["subject"]["inventory_sha256"]) == 64
    assert [entry["path"] for entry in record["manifest"]] == [
        f"raw/{host}/alpha/{name}" for host in ("a1", "a2") for name in ("a1.txt", "alpha_health.json")]
    assert 'hnai_check_problem{site="test",host="a1",component="alpha",id="A1",subject=""} 0' in (site.verdicts / "hnai.prom").read_text()
    assert "VERDICT pass: 2 pass" in output
    assert "a1..2" in output
    assert "changed=0" in output


def test_each_host_is_judged_by_itself_and_named(site: Site) -> None:
    """One fails, one breaks, one hangs, one is away, one goes by the role's default, one's arguments cannot be rendered, one skips, two are well."""
    away = {"says": "pass", "ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": 1, "ansible_ssh_timeout": 5}
    begin = time.monotonic()
    code, output = site.run({
        "a1": {"says": "no"}, "a2": {"says": "crash"}, "a3": away, "a4": {"says": "pass"},
        "b1": {"says": "hang", "alpha_deadline": 0.5, "twice": True}, "b2": {}, "b3": {"says": "{{ 1 // 0 }}", "twice": True},
        "b4": {"says": "skip"}, "b5": {"alpha_says": "pass", "twice": True},
    }, "-vvv")
    assert code == 2, output
    assert time.monotonic() - begin < 300, "what hangs holds up nobody"
    record = site.record()
    assert record["verdict"] == "fail"
    assert statuses(record) == {
        ("a1", "A1"): "fail", ("a2", "V-alpha"): "inconclusive", ("a3", "V-alpha"): "inconclusive", ("a4", "A1"): "pass",
        ("b1", "V-alpha"): "inconclusive", ("b1", "A1"): "pass", ("b2", "A1"): "fail", ("b3", "V-alpha"): "inconclusive", ("b3", "A1"): "pass",
        ("b4", "A1"): "fail", ("b4", "A9"): "skipped", ("b5", "A1"): "pass",
    }
    assert [one["status"] for one in record["verdicts"] if one["host"] == "b5"] == ["pass", "pass"]
    assert [check["observed"] for one in record["verdicts"] if one["host"] == "b2" for check in one["checks"]] == ["by default"]
    assert {p["action"] for p in record["problems"] if p["id"] == "A1"} == {"mend it"}
    reasons = {problem["host"]: problem["reason"] for problem in record["problems"] if problem["id"] != "A9"}
    assert set(reasons) == {"a1", "a2", "a3", "b1", "b2", "b3", "b4"}
    assert reasons["a1"] == reasons["b4"] == "alpha says so", "a skip is also no pass for A1"
    assert "the module itself is broken" in reasons["a2"]
    assert "could not be reached" in reasons["a3"]
    assert reasons["b1"] == "the check module was not done after 5.5 s and was killed"
    assert "Ask alpha: " in reasons["b3"] and "zero" in reasons["b3"]
    assert [(p["host"], p["id"]) for p in record["problems"] if p["id"] == "A9"] == [("b4", "A9")], "a skip must be announced"
    assert "VERDICT fail" in output
    assert "geheim-4711" not in output, "arguments are in no log"


class Judge:
    """verdict_report in this process, on one visit to each host."""

    class Hostvars(dict[str, Any]):
        """As Ansible's: what is written, without evaluating it."""

        raw_get = dict.__getitem__

    def __init__(self, base: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.verdicts = base / "verdicts"
        self.said: list[str] = []
        monkeypatch.setattr(verdict_report, "ROOT", root)
        monkeypatch.setattr(verdict_report.display, "display", lambda text, **_colour: self.said.append(str(text)))
        monkeypatch.setenv("COLUMNS", "160")

    def run(self, says: dict[str, str], *, limit: str = "", check: bool = False, model: dict[str, Any] | None = None, **args: Any) -> tuple[bool, str]:
        """(whether the task fails, what it says). *says*: what the module finds on each host; "crash": that it broke."""
        hosts = self.Hostvars()
        for host, found in says.items():
            one = {"id": "A1", "title": "alpha works", "status": "pass" if found == "pass" else "fail", "observed": found, "expected": "pass",
                   "reason": "" if found == "pass" else "alpha says so", "explain": "alpha --check", "evidence": {}}  # fmt: skip
            visit = {"verdicts": {"alpha_verdict": {"component": "alpha", "checks": [one]}, "alpha_verdict__again": {"skipped": True}}}
            if found == "crash":
                visit = {"verdicts": {}, "broken": {"alpha_verdict": "the module itself is broken"}}
            hosts[host] = {**(model or {}), "hnai_addresses": {"v4": f"10.0.3.{len(hosts) + 5}"}, **({"hnai_verdicts": visit} if limit in ("", host) else {})}
        task = SimpleNamespace(args={"path": str(self.verdicts), "site": "test", "environment": "lab", **args}, async_val=0, check_mode=check)
        connection = SimpleNamespace(_shell=SimpleNamespace(tmpdir=None))
        action = verdict_report.ActionModule(task, connection, SimpleNamespace(), None, None, None)
        self.said.clear()
        groups = {name: list(says) for name in ("all", "managed", "alpha")}
        try:
            result = action.run(None, {"hostvars": hosts, "groups": groups, "ansible_play_hosts_all": [limit] if limit else list(says)})
        except AnsibleActionFail as error:
            return True, str(error)
        return bool(result.get("failed")), "\n".join([*self.said, str(result.get("msg", ""))])

    def record(self) -> dict[str, Any]:
        return json.loads((self.verdicts / "latest" / "record.json").read_text())


@pytest.fixture
def judge(tmp_path: Path, collections: Path, monkeypatch: pytest.MonkeyPatch) -> Judge:
    return Judge(tmp_path, collections / "ansible_collections/hnai/platform", monkeypatch)


def test_every_module_broken_is_still_judged_and_a_limit_judges_only_its_host(judge: Judge) -> None:
    hosts = {"a1": "crash", "a2": "no", "a3": "pass"}
    failed, output = judge.run(hosts, limit="a1")
    assert failed, output
    assert judge.record()["verdict"] == "inconclusive"
    failed, output = judge.run(hosts, limit="a3", expected_skips=["A9"])
    assert not failed, output
    assert statuses(judge.record()) == {("a3", "A1"): "pass"}
    assert "notice" not in output


def test_check_mode_writes_nothing_and_does_not_fail(judge: Judge) -> None:
    failed, output = judge.run({"a1": "no"}, check=True)
    assert not failed, output
    assert not judge.verdicts.exists()
    assert "VERDICT fail" in output and "check mode: nothing was written" in output


def test_a_verdict_that_cannot_be_kept_is_shown_and_fails(judge: Judge) -> None:
    judge.verdicts.write_text("a file where the folder should be")
    failed, output = judge.run({"one": "pass"})
    assert failed and "VERDICT pass" in output, output
    assert f"controller: {judge.verdicts}: File exists: the verdict above is not kept; remedy: `df -h {judge.verdicts}`" in output
    assert "check mode" not in output


def test_an_old_full_verdict_fails_the_quick_one(judge: Judge) -> None:
    failed, output = judge.run({"a1": "pass"}, full_max_age=3600)
    assert failed
    assert "was never made" in output
    assert judge.record()["problems"][0]["id"] == "V-full"
    assert not judge.run({"a1": "pass"}, profile="full", full_max_age=3600)[0]
    assert not judge.run({"a1": "pass"}, full_max_age=3600)[0]


def test_an_end_in_the_model_is_red_and_fails_no_run_of_the_site_by_itself(judge: Judge) -> None:
    """What has expired and what break-glass let through stand in the record, in the table and above the drawing."""
    way = {"from": {"host": "a1"}, "to": {"host": "a2"}, "service": {"proto": "tcp", "port": 7000}, "data_direction": "up", "owner": "x", "reason": "y"}
    glass = [{"id": "C-2", "owner": "shift lead", "reason": "nobody signs", "since": "2020-01-01", "hours": 8}]
    model = {
        "hnai_zones": {"l3": {"level": 3, "cidrs": ["10.0.3.0/24"]}}, "hnai_zone": "l3", "hnai_break_glass": glass,
        "hnai_conduits": [{**way, "id": "C-1", "expires": "2020-01-01"}, {**way, "id": "C-2", "expires": "2999-01-01"}],
    }
    failed, output = judge.run({"a1": "pass", "a2": "pass"}, model=model, closing=True)
    assert not failed, output
    record = judge.record()
    assert record["verdict"] == "fail"
    assert [(one["id"], one["subject"], one["severity"]) for one in record["problems"]] == [("V-glass", "C-2", "critical"), ("V-expiry", "C-1", "warning")]
    assert "VERDICT fail" in output and "BREAK-GLASS: shift lead lets C-2 through" in output
    assert [one["id"] for one in record["zones"]["conduits"]] == ["C-1", "C-2"]
    page = (judge.verdicts / "latest" / "report.html").read_text(encoding="utf-8")
    assert page.index("<h2>BREAK-GLASS") < page.index("<svg xmlns") < page.index('class="ev"')
    failed, output = judge.run({"a1": "no", "a2": "pass"}, model=model, closing=True)
    assert failed, "what is wrong with the site itself still fails its run"
    failed, output = judge.run({"a1": "pass", "a2": "pass"}, model=model)
    assert failed, output


def test_explain_and_show_read_the_newest_record(judge: Judge) -> None:
    well = {"a1": "pass"}
    failed, output = judge.run(well, explain="A1")
    assert not failed, output
    assert "alpha means A1" in output and "alpha --again" in output and "no record yet" in output
    failed, output = judge.run(well, show=True)
    assert failed
    assert "holds no verdict yet" in output
    judge.run(well)
    failed, output = judge.run(well, explain="A1")
    assert not failed, output
    assert "alpha --check" in output
    failed, output = judge.run(well, explain="A2")
    assert failed
    assert "no check A2; the nearest: A9, A1" in output or "no check A2; the nearest: A1, A9" in output
    failed, output = judge.run(well, show=True)
    assert not failed, output
    assert "VERDICT pass: 1 pass" in output
