# SPDX-License-Identifier: Apache-2.0
"""playbooks/validate.yml as an operator runs it, on the lab's inventory and on damaged copies of it. No host is contacted."""

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
from site_root import SiteRoot, key_pem, new_key, request

from ansible_collections.hnai.platform.plugins.action.site_validate import ActionModule

ROOT = Path(__file__).parents[2]
COMMAND = [str(Path(sys.executable).with_name("ansible-playbook")), str(ROOT / "playbooks/validate.yml"), "-e", "format=json"]


def run(inventory: Path, tmp_path: Path, *more: str) -> tuple[int, dict[str, Any], str]:
    """(exit code, findings, output). A connection to a host would fail: ssh is not there."""
    tools = tmp_path / "bin"
    tools.mkdir(exist_ok=True)
    (tools / "ssh").write_text('#!/bin/sh\ntouch "$0.called"\nexit 255\n', encoding="utf-8")
    (tools / "ssh").chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{tools}:{os.environ['PATH']}",
        "HNAI_STATE_DIR": str(tmp_path / "state"),
        "ANSIBLE_STDOUT_CALLBACK": "ansible.builtin.default",
        "ANSIBLE_CALLBACK_RESULT_FORMAT": "json",
        "ANSIBLE_NOCOLOR": "1",
    }
    environment.pop("ANSIBLE_COLLECTIONS_PATH", None)

    done = subprocess.run([*COMMAND, "-i", str(inventory), *more], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert not (tools / "ssh.called").exists()
    line = next((line for line in done.stdout.splitlines() if line.startswith('{"errors"')), "{}")
    return done.returncode, json.loads(line), done.stdout + done.stderr


@pytest.fixture
def lab(tmp_path: Path) -> Path:
    """A copy of the lab's inventory that may be damaged."""
    return Path(shutil.copytree(ROOT / "inventories/lab", tmp_path / "lab"))


def change(path: Path, alter: Any) -> None:
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    alter(content)
    path.write_text(yaml.safe_dump(content), encoding="utf-8")


def test_the_lab_is_right(tmp_path: Path) -> None:
    code, found, output = run(ROOT / "inventories/lab/hosts.yml", tmp_path)
    assert code == 0, output
    assert found == {"errors": [], "warnings": found["warnings"]}
    assert {problem["invariant"] for problem in found["warnings"]} <= {"expiry"}


def test_an_export_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    task = SimpleNamespace(args={"export": f"{tmp_path}/file/out"}, async_val=0, check_mode=False)
    action = ActionModule(task, SimpleNamespace(_shell=SimpleNamespace(tmpdir=None)), SimpleNamespace(), None, None, None)
    with pytest.raises(AnsibleActionFail, match=f"export '{tmp_path}/file/out' cannot be written: Not a directory; name a folder that you may write to"):
        action.run(None, {"hostvars": {}, "groups": {}})


def test_everything_wrong_with_a_site_in_one_run(lab: Path, tmp_path: Path) -> None:
    """And a tag that nothing bears."""
    variables = lab / "group_vars/all"

    def hosts(content: dict[str, Any]) -> None:
        children = content["all"]["children"]["managed"]["children"]
        children["kafka"]["hosts"]["kafka3"].update(hnai_zone="l2", hnai_addresses={"v4": "10.77.2.33", "v6": "fd77:0:0:2::33"})
        children["openbao"]["hosts"]["sec2"] = {
            "hnai_debian": "12",
            "hnai_zone": "security",
            "hnai_addresses": {"v4": "10.77.36.12", "v6": "fd77:0:0:36::12"},
        }
        # A component more, on a host of its own: its way to the broker is not approved.
        children["telegraf"]["children"]["telegraf_bridge"]["hosts"]["edge2"] = {
            "hnai_debian": "12",
            "hnai_zone": "l3",
            "hnai_addresses": {"v4": "10.77.3.12", "v6": "fd77:0:0:3::12"},
        }

    def conduits(content: dict[str, Any]) -> None:
        approved = {"kind": "direct", "data_direction": "down", "owner": "x", "reason": "y", "expires": "2099-12-31"}
        way = {"from": {"host": "stream1"}, "to": {"host": "edge1"}, "service": {"component": "mosquitto", "listener": "mqtt"}}
        content["hnai_conduits"].append({"id": "C-900", **way, **approved})
        content["hnai_conduits"][3]["expires"] = "2020-01-01"

    change(lab / "hosts.yml", hosts)
    change(variables / "conduits.yml", conduits)
    mistakes = {
        "mosquitto_max_queued_messages": 100, "kafka_heep": "1g", "host_time_upstream": ["ntp.example"], "modbus_filter_uid": 950,
        "questdb_storage_path": "/home/q", "ansible_port": 2222,
    }  # fmt: skip
    vaulted = "kafka_heap: !vault |\n  $ANSIBLE_VAULT;1.1;AES256\n  3132\nkafka_reauth_ms: \"{{ 'often' }}\"\nflink_slots: \"{{ 1 \"\n"
    (variables / "mistakes.yml").write_text(yaml.safe_dump(mistakes) + vaulted, encoding="utf-8")
    (lab / "group_vars/mosquitos.yml").write_text("mosquitto_autosave_s: 5\n", encoding="utf-8")
    code, found, output = run(lab / "hosts.yml", tmp_path, "--tags", "kafka,kafak")
    assert code != 0, output
    by_key = {problem["key"]: problem for problem in found["errors"]}
    assert by_key["kafak"]["file"] == "--tags", "nobody's tag"
    assert all(problem["file"] and problem["message"] and problem["remedy"] for problem in found["errors"])
    assert by_key["hnai_conduits[C-900]"]["invariant"] == "I1"
    assert by_key["hnai_conduits[C-900]"]["file"].endswith("group_vars/all/conduits.yml")
    assert by_key["groups.kafka: kafka3"]["invariant"] == "level"
    assert by_key["groups.openbao"]["invariant"] == "quorum"
    assert by_key["edge1: mosquitto_max_queued_messages"]["file"].endswith("group_vars/all/mistakes.yml")
    assert by_key["kafka_heep"]["file"].endswith("group_vars/all/mistakes.yml")
    for key, invariant in {"jump1: host_time_upstream": "I9", "questdb_storage_path": "option", "ansible_port": "access"}.items():
        assert (by_key[key]["invariant"], Path(by_key[key]["file"]).name) == (invariant, "mistakes.yml")
    assert by_key["kafka_heap"]["message"].startswith("cannot be evaluated: ") and by_key["flink_slots"]["message"].startswith("cannot be evaluated: Syntax")
    assert by_key["kafka_reauth_ms"]["message"].startswith("'often' is not a whole number")
    assert "no group is called mosquitos" in by_key["(file)"]["message"]
    assert "the filter on edge1 runs as 950" in by_key["hnai_conduits[C-102].uid"]["message"]
    assert "edge2 → edge1" in by_key["hnai_conduits: telegraf → mosquitto.mqtt"]["message"]
    ended = by_key["hnai_conduits[C-101].expires"]
    assert (ended["invariant"], ended["sr"]) == ("expiry", ["SR 2.1"])


@pytest.mark.parametrize(("text", "place", "remedy"), [
    ("hnai_slo:\n\thops: {}\n", "line 2: ", "indent with spaces"), ("a: 1\nhnai_slo: {{ slo }}\n", "line 2: ", "in quotes"),
    ("a: 2030-02-30\n", "line 1: '2030-02-30': day is out of range", "correct it"), ("$ANSIBLE_VAULT;1.1;AES256\n3132\n", "(file): ", "the key of the vault"),
])  # fmt: skip
@pytest.mark.parametrize("checkout", [True, False])
def test_a_file_that_ansible_cannot_read_is_named(
    lab: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, place: str, remedy: str, checkout: bool
) -> None:
    """By the vars plugin, which a checkout's setting enables, and elsewhere by the callback."""
    if not checkout:
        monkeypatch.setenv("ANSIBLE_RUN_VARS_PLUGINS", "demand")
        monkeypatch.setenv("ANSIBLE_VARS_ENABLED", "host_group_vars")
    (lab / "group_vars/all/slo.yml").write_text(text, encoding="utf-8")
    code, _found, output = run(lab / "hosts.yml", tmp_path)
    assert code != 0 and f"group_vars/all/slo.yml: {place}" in output and "remedy: " in output and remedy in output, output


def test_an_expired_conduit_stops_no_run_of_a_running_site(lab: Path, tmp_path: Path) -> None:
    def old(content: dict[str, Any]) -> None:
        content["hnai_conduits"][3]["expires"] = "2020-01-01"

    change(lab / "group_vars/all/conduits.yml", old)
    first = yaml.safe_load((ROOT / "playbooks/site.yml").read_text(encoding="utf-8"))[0]
    assert first["vars"]["validate_expired"] == "report"
    more = [f"-evalidate_export={tmp_path}/out", "-evalidate_expired=report"]
    code, found, output = run(lab / "hosts.yml", tmp_path, *more)
    assert code == 0, output
    assert found["errors"] == [] and "expired on 2020-01-01" in str(found["warnings"])
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {"zones.svg", "zones.mmd", "zones.html", "evidence.json", "external.csv", "external.json", "external.md"}
    assert "lab: zones and conduits" in (tmp_path / "out/zones.html").read_text(encoding="utf-8")
    assert '"state": "expired"' in (tmp_path / "out/evidence.json").read_text(encoding="utf-8")


def test_a_run_that_deploys_the_collector_looks_for_what_the_plant_hands_over(lab: Path, tmp_path: Path) -> None:
    first = yaml.safe_load((ROOT / "playbooks/site.yml").read_text(encoding="utf-8"))[0]
    wanted = {"validate_files": first["vars"]["validate_files"]}
    keys = [f"hnai_ot_sources[plc1].{name}" for name in ("identity.password_file", "server_certificate_file")]

    def missing(*more: str) -> list[str]:
        _code, found, _output = run(lab / "hosts.yml", tmp_path, "-e", json.dumps(wanted), *more)
        return sorted(problem["key"] for problem in found["errors"])

    assert (missing(), missing("--tags", "ot_collector,verify"), missing("--tags", "kafka")) == (keys, keys, [])
    folder = tmp_path / "state/lab/plc1"
    folder.mkdir(parents=True)
    (folder / "observer.password").write_text("x\n", encoding="utf-8")
    (folder / "opcua-server.pem").write_text("-----BEGIN CERTIFICATE-----\n", encoding="utf-8")
    assert missing() == []


def test_the_chain_of_a_site_s_own_ca(lab: Path, tmp_path: Path) -> None:
    """Not there yet is no mistake; a wrong one is, by its place; one that has ended stops no run of a running site; a private key is not shown."""
    now = time.time()
    ca, csr = SiteRoot(now), request(new_key(), "ours")
    chain = tmp_path / "chain.pem"

    def judged(*texts: str, more: str = "", given: str = "") -> tuple[int, list[dict[str, Any]], str]:
        if texts:
            chain.write_text("".join(texts), encoding="ascii")
        change(lab / "group_vars/all/site.yml", lambda content: content.update(openbao_root_ca="site", openbao_intermediate_chain=given or str(chain)))
        code, found, output = run(lab / "hosts.yml", tmp_path, *([more] if more else []))
        return code, [one for kind in ("errors", "warnings") for one in found[kind] if one["key"] == "openbao_intermediate_chain"], output

    assert judged()[:2] == (0, [])
    assert judged(*ca.sign(csr))[:2] == (0, [])
    code, (found,), _output = judged(*ca.sign(csr, ca=False))
    assert code != 0 and "CN=ours is no CA" in found["message"] and str(chain) in found["message"] and found["file"].endswith("group_vars/all/site.yml")
    ended = ca.sign(csr, since_days=10, days=-1)
    assert [judged(*ended)[0] == 0, judged(*ended, more="-evalidate_expired=report")[0] == 0] == [False, True]
    secret = key_pem(ca.key)
    for given in ("", "".join(ca.sign(csr)) + secret):
        code, (found,), output = judged(*ca.sign(csr), secret, given=given)
        assert code != 0 and "holds a private key" in found["message"] and secret.split("\n")[1] not in output
