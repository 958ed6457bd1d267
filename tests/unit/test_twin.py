# SPDX-License-Identifier: Apache-2.0
"""A site of other names, zones, addresses, releases and two brokers more, from its inventory alone, as far as that shows without a host."""
from __future__ import annotations

import copy
import datetime
import functools
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import mutants
import pytest
import yaml
from test_validate_playbook import run

from ansible_collections.hnai.platform.plugins.module_utils.zones import acls, expectation, nft, rules, ruleset
from ansible_collections.hnai.platform.plugins.module_utils.zones.model import Site
from ansible_collections.hnai.platform.plugins.module_utils.zones.validate import judge
from ansible_collections.hnai.platform.plugins.plugin_utils import contracts
from ansible_collections.hnai.platform.plugins.plugin_utils.site import add_names, collect

ROOT = Path(__file__).resolve().parents[2]
LAB = ROOT / "inventories/lab/hosts.yml"
SPEC = importlib.util.spec_from_file_location("twin", ROOT / "tests/lab/twin.py")
assert SPEC is not None and SPEC.loader is not None
twin = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(twin)
OLD = re.compile(rf"(?<![\w.-])({'|'.join(set(twin.HOSTS) - {'router'})})(?![\w-])|10\.77\.|fd77:")


@pytest.fixture(scope="module")
def inventory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """hosts.yml of the twin."""
    made: Path = twin.make(LAB, tmp_path_factory.mktemp("twin"))
    return made


@functools.cache
def listed(inventory: Path) -> dict[str, Any]:
    """ansible-inventory --list."""
    tool = Path(sys.executable).with_name("ansible-inventory")
    done = subprocess.run([tool, "-i", inventory, "--list"], cwd=ROOT, check=True, capture_output=True, text=True, timeout=60)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def collected(data: dict[str, Any]) -> dict[str, Any]:
    """The model's input out of `listed`."""

    def members(name: str) -> list[str]:
        group = data.get(name, {})
        return list(dict.fromkeys([*group.get("hosts", []), *(host for child in group.get("children", []) for host in members(child))]))

    return collect(data["_meta"]["hostvars"], {name: members(name) for name in data if name != "_meta"})


def model(inventory: Path) -> Site:
    """The site model, as of plain variables."""
    return Site.from_dict(collected(listed(inventory)))


@pytest.fixture(scope="module")
def site(inventory: Path) -> Site:
    """The twin's model."""
    return model(inventory)


def test_its_model_is_right(inventory: Path, tmp_path: Path) -> None:
    code, found, output = run(inventory, tmp_path)
    assert code == 0 and found["errors"] == [], output


def test_it_shares_no_name_and_no_address_with_the_lab(inventory: Path, site: Site) -> None:
    texts = {path: path.read_text(encoding="utf-8") for path in inventory.parent.rglob("*.yml")}
    assert {path.relative_to(inventory.parent) for path in texts} == {path.relative_to(LAB.parent) for path in LAB.parent.rglob("*.yml")}
    prose = re.compile(r"^\s*(reason|purpose): .*$", re.MULTILINE)
    assert {path.name: OLD.findall(prose.sub("", text)) for path, text in texts.items()} == {path.name: [] for path in texts}
    lab = model(LAB)
    assert not set(lab.nodes) & set(site.nodes) - {"controller"} and not set(lab.zones) & set(site.zones)
    assert len(site.placed("kafka")) == len(lab.placed("kafka")) + 2 == 5
    assert len(site.nodes) == len(lab.nodes) + 2 and len(site.conduits) == len(lab.conduits)


def test_every_playbook_reads_it(inventory: Path) -> None:
    tool = Path(sys.executable).with_name("ansible-playbook")
    books = [ROOT / "playbooks" / name for name in ("site.yml", "lab/create.yml", "lab/commission.yml", "lab/destroy.yml")]
    done = subprocess.run([tool, "-i", inventory, "--syntax-check", *books], cwd=ROOT, check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr + done.stdout


def test_its_rulesets_are_its_model_and_nothing_of_the_lab_stands_in_them(site: Site) -> None:
    hosts = [node.name for node in site.managed()]
    texts = {host: nft.ruleset(site, host) for host in hosts}
    assert len(hosts) == 11 and not [line for text in texts.values() for line in text.splitlines() if OLD.search(line.split("#")[0])]
    brokers = {site.nodes[host].v4 for host in site.placed("kafka")} | {site.nodes[host].v6 for host in site.placed("kafka")}
    assert len(brokers) == 10
    for host in ("pad7-gw", "calc", "core-fw"):
        assert all(address in texts[host] for address in brokers), host


@pytest.mark.namespaces
def test_nft_takes_its_rulesets_and_they_let_through_what_its_conduits_say(site: Site) -> None:
    hosts = [node.name for node in site.managed()]
    for host, listing in zip(hosts, mutants.Nft.read([nft.ruleset(site, host) for host in hosts])):
        assert not isinstance(listing, str), (host, listing)
        expected = expectation.expectation(site, host)
        judgement = rules.judge(listing[0], expected, "enforce", (), lambda _name: None, None, ruleset.dormant(listing[1]))
        assert not judgement.all and not judgement.unknown, (host, [one.line for one in judgement.all])


def test_the_rights_of_its_clients_are_those_of_the_lab(site: Site) -> None:
    """They follow from contracts and levels, not from names."""
    lab = model(LAB)
    assert acls.kafka_acls(site) == acls.kafka_acls(lab) != []


def machine(inventory: Path) -> list[str]:
    """Guard, prefix and state directory, as the lab's part on this machine has them."""
    argv = ["localhost", "-i", inventory, "-c", "local", "-o", "-m", "ansible.builtin.debug",
            "-a", "msg=<{{ __lab_guard }}|{{ lab_prefix }}|{{ hnai_state_dir }}>", "-e", f"@{ROOT}/playbooks/lab/vars.yml"]  # fmt: skip
    done = subprocess.run([Path(sys.executable).with_name("ansible"), *argv], cwd=ROOT, check=True, capture_output=True, text=True, timeout=60,
                          env={**os.environ, "HNAI_STATE_DIR": ""})  # fmt: skip
    return done.stdout.split("<", 1)[1].split(">", 1)[0].split("|")


def test_two_sites_on_one_machine_keep_apart(inventory: Path) -> None:
    """Containers and networks by prefix, the guard by a table of its own, keys and verdicts by the site's name."""
    labs = machine(LAB)
    assert labs[:2] == ["hnai_labguard", "hnai-"]
    for mine, lab in zip(machine(inventory), labs, strict=True):
        assert mine != lab and twin.SITE in mine
    for file in ("templates/guard.nft.j2", "destroy.yml"):
        text = (ROOT / "playbooks/lab" / file).read_text(encoding="utf-8")
        assert "__lab_guard" in text and "labguard" not in text.replace("__lab_guard", "")


def test_its_releases_are_exchanged_where_the_contracts_allow_both(inventory: Path) -> None:
    mine, labs = listed(inventory)["_meta"]["hostvars"], listed(LAB)["_meta"]["hostvars"]
    kept = {host for host, name in twin.HOSTS.items() if host != "plc1" and mine[name]["hnai_debian"] == labs[host]["hnai_debian"]}
    assert kept == {"data1"}
    assert mine["pad7-gw"]["hnai_debian"] == mine["vault07"]["hnai_debian"] == "13" and mine["log-e"]["hnai_debian"] == "12"


def test_debian_13_only_is_refused_elsewhere_with_that_sentence(inventory: Path) -> None:
    data = copy.deepcopy(listed(inventory))
    data["_meta"]["hostvars"]["hist-1"]["hnai_debian"] = "12"
    given = collected(data)
    add_names(given, data["_meta"]["hostvars"], [str(inventory)])
    site = Site.from_dict(given)
    errors = [error for error in judge(site, given, datetime.date(2026, 1, 1)) if error.severity == "error"]
    assert {error.key for error in errors} == {"hist-1: hnai_debian"}
    said = sorted(error.message for error in errors)
    assert [line.split(" ")[0] for line in said] == ["questdb", "victoriametrics"]
    assert all("stands on hist-1, which runs Debian 12, and is for Debian 13 only" in line for line in said)
    assert all(error.remedy and error.file.endswith("hosts.yml") for error in errors)


def test_a_role_offers_itself_for_the_releases_of_its_contract() -> None:
    names = {"12": "bookworm", "13": "trixie"}
    for component, contract in contracts.all().items():
        meta = yaml.safe_load((ROOT / "roles" / component / "meta/main.yml").read_text(encoding="utf-8"))
        maps = [entry[key] for entry in contract["artifacts"] for key in ("version", "packages") if isinstance(entry.get(key), dict)]
        possible = [names[release] for release in names if all(release in one for one in maps)]
        assert meta["galaxy_info"]["platforms"] == [{"name": "Debian", "versions": possible}], component
