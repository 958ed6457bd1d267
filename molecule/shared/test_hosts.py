# SPDX-License-Identifier: Apache-2.0
"""What the hosts themselves say about the components of one scenario, held against the contracts.

COMPONENTS (comma-separated) and SSH_CONFIG come from the scenario's verify.yml.
"""
from __future__ import annotations

import functools
import ipaddress
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import testinfra

from ansible_collections.hnai.platform.plugins.plugin_utils import contracts

COMPONENTS = os.environ["COMPONENTS"].split(",")
#: Group of a component's hosts, where it is not the component's name.
GROUPS = {"host": "managed", "firewall": "managed"}
ENABLED = ("enabled", "enabled-runtime", "static", "indirect", "alias")


def inventory() -> dict[str, Any]:
    """ansible-inventory --list of the site."""
    command = [str(Path(sys.executable).parent / "ansible-inventory"), "-i", os.environ["SITE_INVENTORY"], "--list"]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout)


SITE = inventory()


def members(group: str) -> list[str]:
    """Hosts of a group, children included."""
    entry = SITE.get(group, {})
    return list(entry.get("hosts", [])) + [host for child in entry.get("children", []) for host in members(child)]


PLACED = [(component, host) for component in COMPONENTS for host in dict.fromkeys(members(GROUPS.get(component, component)))]
#: Tests of one host go to one worker, which visits it once.
PLACES = [pytest.param(component, host, marks=pytest.mark.xdist_group(host)) for component, host in PLACED]
HOSTS = [pytest.param(host, marks=pytest.mark.xdist_group(host)) for host in sorted({host for _component, host in PLACED})]


@functools.cache
def machine(name: str) -> Any:
    """A host over the site's own SSH."""
    return testinfra.get_host(f"ssh://{name}", ssh_config=os.environ["SSH_CONFIG"], sudo=True, controlpersist=60)


def program(name: str, file: str, *arguments: str) -> Any:
    """What a program beside this file says of a host."""
    text = (Path(__file__).parent / file).read_text(encoding="utf-8")
    return json.loads(machine(name).check_output(f"python3 -c {shlex.quote(text)} {shlex.join(arguments)}"))


@functools.cache
def facts(name: str) -> dict[str, Any]:
    """What the host says about all components of this scenario that it has."""
    here = [component for component, host in PLACED if host == name]
    units = [unit["name"] for component in here for unit in contracts.load(component)["service"]["units"]]
    return program(name, "host_facts.py", json.dumps(here), json.dumps(units))


@functools.cache
def trials(name: str) -> dict[str, Any]:
    """What came of the attempts to get out of each sandbox of this host."""
    ours = [unit for unit in facts(name)["units"] if unit.startswith("hnai-") and unit.endswith(".service")]
    return program(name, "host_sandbox.py", *ours) if ours else {}


def units(name: str, component: str) -> list[dict[str, Any]]:
    """The contract's units that this host has; instances of a component differ by host."""
    return [unit for unit in contracts.load(component)["service"]["units"] if unit["name"] in facts(name)["units"]]


@pytest.mark.parametrize(("component", "name"), PLACES)
def test_units_run_enabled_and_sandboxed(component: str, name: str) -> None:
    found = units(name, component)
    assert found or not contracts.load(component)["service"]["units"], f"{name} has no unit of {component}"
    for unit in found:
        state = facts(name)["units"][unit["name"]]
        service = unit["name"].startswith("hnai-") and unit["name"].endswith(".service")
        if service:
            score = facts(name)["exposure"][unit["name"]]
            assert score <= unit.get("max_exposure", 3.0), (name, unit["name"], score)
        assert state["Result"] == "success", (name, unit["name"], state)
        if state["TriggeredBy"].endswith(".timer"):
            # It comes and goes; that it is called is its timer's state, which the contract lists too.
            assert state["TriggeredBy"] in [other["name"] for other in found], (name, unit["name"], state)
            continue
        assert state["ActiveState"] == "active", (name, unit["name"], state)
        assert state["UnitFileState"] in ENABLED, (name, unit["name"], state)
        if service:
            wanted, running = facts(name)["digests"][unit["name"]]
            assert running is not None and wanted == running, f"{name}: {unit['name']} runs something else than what is wanted"


@pytest.mark.parametrize(("component", "name"), PLACES)
def test_the_sandbox_holds(component: str, name: str) -> None:
    ours = [unit["name"] for unit in units(name, component) if unit["name"].startswith("hnai-") and unit["name"].endswith(".service")]
    if not ours:
        return
    found = {unit: trials(name)[unit] for unit in ours}
    for unit, tried in found.items():
        assert tried["wrote"] == [], f"{name}: {unit} can write {tried['wrote']}"
        assert tried["may"], f"{name}: {unit} cannot write anything at all: the trial shows nothing"
        # The one unit that talks to the kernel about rules is the firewall.
        assert tried["sockets"] in ([], ["AF_NETLINK"] if component == "firewall" else []), (name, unit, tried["sockets"])


@pytest.mark.parametrize(("component", "name"), PLACES)
def test_keys_and_credentials_are_closed(component: str, name: str) -> None:
    keys, credentials = facts(name)["keys"][component], facts(name)["credentials"][component]
    assert "certificate" not in contracts.load(component) or keys, f"{name}: no key of {component}"
    for about in credentials:
        assert (about["user"], about["mode"]) == ("0", "600"), about
    for about in keys:
        assert about["user"] == "0" and about["mode"] in ("600", "640"), about


@pytest.mark.parametrize("name", HOSTS)
def test_every_listening_socket_belongs_to_a_contract(name: str) -> None:
    allowed: dict[tuple[str, int], str] = {}
    for component, contract in contracts.all().items():
        if name not in members(GROUPS.get(component, component)):
            continue
        for one in contract["listens"]:
            if "group" not in one or name in members(one["group"]):
                allowed[(one["proto"], int(one["port"]))] = one["bind"]
    for line in facts(name)["sockets"]:
        proto, _state, _recv, _send, local = line.split()[:5]
        address, port = local.rsplit(":", 1)
        address = address.strip("[]").split("%")[0].replace("::ffff:", "")
        assert (proto, int(port)) in allowed, f"{name}: {line} belongs to no contract"
        if allowed[(proto, int(port))] == "loopback":
            assert ipaddress.ip_address(address).is_loopback, f"{name}: {line} is not on loopback"
