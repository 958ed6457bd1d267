# SPDX-License-Identifier: Apache-2.0
"""Contracts: what is read, what is refused, and that every role's own contract is right."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.errors import AnsibleError

from ansible_collections.hnai.platform.plugins.lookup import ports
from ansible_collections.hnai.platform.plugins.module_utils.flink.health import Expected
from ansible_collections.hnai.platform.plugins.plugin_utils import contracts, site

ROOT = Path(__file__).parents[2]
GOOD: dict[str, Any] = {
    "name": "thing",
    "purpose": "does things",
    "levels": ["l4"],
    "listens": [{"name": "api", "proto": "tcp", "port": 80, "bind": "any", "tls": True, "authentication": "token"}],
    "connects": [{"to": "kafka", "listener": "l4", "reason": "reads", "topics": {"read": ["a"]}}, {"to_sources": "opcua", "reason": "tags"}],
    "artifacts": [{"name": "thing", "version": "1", "licence": "MIT", "channels": {"official": {"tested": False}}}],
    "service": {"units": [{"name": "hnai-thing.service", "reload": "none", "restart_order": 1}]},
    "secrets": [{"path": "thing/x", "kind": "password", "max_age": "90d"}],
    "certificate": {"server": True, "client": False},
    "health": {"module": "hnai.platform.thing_health"},
    "state": [{"path": "/var/lib/x", "backup": "none"}],
    "ui": "none",
    "requirements": ["C01"],
}


def write(root: Path, contract: Any, component: str = "thing") -> Path:
    path = root / "roles" / component / "meta" / "component.yml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(contract if isinstance(contract, str) else yaml.safe_dump(contract), encoding="utf-8")
    return root


def test_every_contract_of_the_collection_is_right() -> None:
    names = set(contracts.all())
    assert {"kafka", "mosquitto", "telegraf", "host", "firewall"} <= names
    assert names == {path.parents[1].name for path in ROOT.glob("roles/*/meta/component.yml")}


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    write(tmp_path, GOOD)
    assert contracts.load("thing", tmp_path) == GOOD
    contracts.load("thing", tmp_path)["listens"].clear()
    assert contracts.load("thing", tmp_path) == GOOD


def test_ports_are_looked_up_in_the_contract() -> None:
    lookup = ports.LookupModule()
    assert lookup.run(["mosquitto", "openbao"]) == [{"mqtt": 8883}, {"api": 8200, "cluster": 8201}]
    with pytest.raises(AnsibleError, match=r"roles/mosquito/meta/component.yml.*correct the component's name"):
        lookup.run(["mosquito"])


#: Ports that a standard gives, and devices of the plant have as well as our simulator.
STANDARD = {22, 123, 502, 4840}


def test_a_port_stands_in_the_contract_alone() -> None:
    """What Ansible reads takes every port of a component from there, and no option names one."""
    known = {port for component in contracts.all() for port in contracts.ports(component).values()} - STANDARD
    number = re.compile(rf"(?<![\w.-])({'|'.join(map(str, sorted(known)))})(?![\w.])")
    places = ("roles/*/defaults/*.yml", "roles/*/vars/*.yml", "roles/*/tasks/*.yml", "roles/*/templates/**/*.j2", "roles/*/tree/**/*.j2",
              "roles/*/meta/argument_specs.yml", "playbooks/**/*.yml")
    files = [path for place in places for path in ROOT.glob(place)]
    assert len(files) > 200
    assert [f"{path.relative_to(ROOT)}: {found[0]}" for path in files for found in number.finditer(path.read_text(encoding="utf-8"))] == []
    assert [name for name in site.options() if name.endswith("_port")] == []


#: Programs have no contract where they run: (file, how it names a port, component, listener).
PROGRAMS = [
    ("roles/flink/tree/usr/local/lib/hnai/flink/jobs.py", r'REST = "http://127.0.0.1:(\d+)"', "flink", "rest"),
    ("roles/flink/tree/usr/local/lib/hnai/flink/jobs.py", r'GATEWAY = "http://127.0.0.1:(\d+)"', "flink", "gateway"),
    ("plugins/modules/flink_park.py", r'JOBMANAGER = health.rest\("127.0.0.1", (\d+)\)', "flink", "rest"),
    ("plugins/modules/flink_park.py", r'GATEWAY = health.rest\("127.0.0.1", (\d+)\)', "flink", "gateway"),
    ("plugins/modules/flink_health.py", r' port=dict\(type="int", default=(\d+)\)', "flink", "rest"),
    ("plugins/modules/flink_health.py", r'gateway_port=dict\(type="int", default=(\d+)\)', "flink", "gateway"),
    ("plugins/module_utils/openbao/client.py", r'"default": "https://127.0.0.1:(\d+)"', "openbao", "api"),
    ("plugins/modules/openbao_bootstrap.py", r'"default": "https://127.0.0.1:(\d+)"', "openbao", "api"),
]  # fmt: skip


@pytest.mark.parametrize(("file", "pattern", "component", "listener"), PROGRAMS)
def test_a_program_knows_the_contracts_port(file: str, pattern: str, component: str, listener: str) -> None:
    assert re.findall(pattern, (ROOT / file).read_text(encoding="utf-8")) == [str(contracts.ports(component)[listener])]


def test_flink_may_listen_on_its_contracts_ports_alone() -> None:
    assert sorted(Expected([]).ports) == sorted(contracts.ports("flink").values())


def test_placement_is_group_membership(tmp_path: Path) -> None:
    write(tmp_path, GOOD)
    write(tmp_path, {**GOOD, "name": "other", "placement": "managed"}, "other")
    assert [item["name"] for item in contracts.placed({"thing": ["h"], "managed": []}, tmp_path)] == ["thing"]
    assert [item["name"] for item in contracts.placed({"thing": [], "managed": ["h"]}, tmp_path)] == ["other"]


WRONG: list[tuple[str, Any, str]] = [
    ("purpose", None, "purpose"),
    ("levels", [], "levels"),
    ("levels", "l4", "levels"),
    ("listens.0.port", 0, "listens[0].port"),
    ("listens.0.port", "80", "listens[0].port"),
    ("listens.0.port", True, "listens[0].port"),
    ("listens.0.proto", "sctp", "listens[0].proto"),
    ("listens.0.bind", "eth0", "listens[0].bind"),
    ("listens.0.tls", "yes", "listens[0].tls"),
    ("listens.0.extra", 1, "listens[0].extra"),
    ("connects.0.reason", "", "connects[0].reason"),
    ("connects.0.to_sources", "opcua", "connects[0]"),
    ("connects.0.topics.delete", [], "connects[0].topics.delete"),
    ("artifacts.0.licence", None, "artifacts[0].licence"),
    ("artifacts.0.channels.official.tested", "yes", "artifacts[0].channels.official.tested"),
    ("service.units.0.max_exposure", 11, "service.units[0].max_exposure"),
    ("secrets.0.max_age", "soon", "secrets[0].max_age"),
    ("health.module", "thing_health", "health"),
    ("state.0.path", "relative", "state[0].path"),
    ("requirements", ["issue"], "requirements[0]"),
    ("surprise", 1, "surprise"),
]


@pytest.mark.parametrize(("key", "value", "named"), WRONG, ids=[f"{key}={value}" for key, value, _named in WRONG])
def test_a_wrong_contract_names_file_key_and_remedy(tmp_path: Path, key: str, value: Any, named: str) -> None:
    contract: Any = copy.deepcopy(GOOD)
    place: Any = contract
    *path, last = key.split(".")
    for part in path:
        place = place[int(part) if part.isdigit() else part]
    if value is None:
        del place[last]
    else:
        place[last] = value
    write(tmp_path, contract)
    with pytest.raises(contracts.ContractError) as caught:
        contracts.load("thing", tmp_path)
    problems = caught.value.problems
    assert all(problem["file"] == "roles/thing/meta/component.yml" and problem["message"] and problem["remedy"] for problem in problems)
    assert any(problem["key"].startswith(named) for problem in problems)


def test_absent_unreadable_and_misnamed(tmp_path: Path) -> None:
    with pytest.raises(contracts.ContractError, match="is not there"):
        contracts.load("thing", tmp_path)
    write(tmp_path, "a: [")
    with pytest.raises(contracts.ContractError, match="is not YAML"):
        contracts.load("thing", tmp_path)
    write(tmp_path, {**GOOD, "name": "other"})
    with pytest.raises(contracts.ContractError, match="name: thing"):
        contracts.load("thing", tmp_path)
    write(tmp_path, {**GOOD, "listens": GOOD["listens"] * 2})
    with pytest.raises(contracts.ContractError, match=r"listens\.api: is there twice"):
        contracts.load("thing", tmp_path)


def test_all_problems_at_once(tmp_path: Path) -> None:
    write(tmp_path, {**GOOD, "levels": []})
    write(tmp_path, {**GOOD, "name": "other", "ui": ""}, "other")
    with pytest.raises(contracts.ContractError) as caught:
        contracts.all(tmp_path)
    assert {problem["file"] for problem in caught.value.problems} == {
        "roles/thing/meta/component.yml",
        "roles/other/meta/component.yml",
    }
