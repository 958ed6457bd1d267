# SPDX-License-Identifier: Apache-2.0
"""What the hosts themselves say about the components of one scenario, held against the contracts.

COMPONENTS (comma-separated) and SSH_CONFIG come from the scenario's verify.yml.
"""
from __future__ import annotations

import json
import os
import re
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
HOSTS = sorted({host for _component, host in PLACED})


@pytest.fixture(scope="module")
def machine() -> Any:
    """name → testinfra host, over the site's own SSH."""
    known: dict[str, Any] = {}

    def get(name: str) -> Any:
        if name not in known:
            known[name] = testinfra.get_host(f"ssh://{name}", ssh_config=os.environ["SSH_CONFIG"], sudo=True, controlpersist=60)
        return known[name]

    return get


def units(host: Any, component: str) -> list[dict[str, Any]]:
    """The contract's units that this host has; instances of a component differ by host."""
    have = set(host.check_output("systemctl list-unit-files --no-legend --plain | cut -d' ' -f1").split())
    return [unit for unit in contracts.load(component)["service"]["units"] if unit["name"] in have]


@pytest.mark.parametrize(("component", "name"), PLACED)
def test_units_run_enabled_and_sandboxed(machine: Any, component: str, name: str) -> None:
    host = machine(name)
    found = units(host, component)
    assert found or not contracts.load(component)["service"]["units"], f"{name} has no unit of {component}"
    for unit in found:
        names = "ActiveState,UnitFileState,TriggeredBy,Result"
        state = dict(line.split("=", 1) for line in host.check_output(f"systemctl show -p {names} {unit['name']}").splitlines())
        ours = unit["name"].startswith("hnai-")
        if ours and not unit["name"].endswith((".timer", ".mount")):
            lines = host.check_output(f"systemd-analyze security --no-pager {unit['name']} | tail -1")
            score = float(re.search(r": ([0-9.]+) ", lines).group(1))  # type: ignore[union-attr]
            assert score <= unit.get("max_exposure", 3.0), (name, unit["name"], score)
        assert state["Result"] == "success", (name, unit["name"], state)
        if state["TriggeredBy"].endswith(".timer"):
            # It comes and goes; that it is called is its timer's state, which the contract lists too.
            assert state["TriggeredBy"] in [other["name"] for other in found], (name, unit["name"], state)
            continue
        assert state["ActiveState"] == "active", (name, unit["name"], state)
        assert state["UnitFileState"] in ENABLED, (name, unit["name"], state)
        if ours and unit["name"].endswith(".service"):
            digest = f"/hnai/digests/{unit['name']}.restart"
            wanted, running = host.file("/etc" + digest), host.file(f"/run/hnai/{unit['name']}.restart")
            assert running.exists and wanted.content == running.content, f"{name}: {unit['name']} runs something else than what is wanted"


@pytest.mark.parametrize(("component", "name"), PLACED)
def test_the_sandbox_holds(machine: Any, component: str, name: str) -> None:
    host = machine(name)
    ours = [unit["name"] for unit in units(host, component) if unit["name"].startswith("hnai-") and unit["name"].endswith(".service")]
    if not ours:
        return
    program = shlex.quote((Path(__file__).parent / "host_sandbox.py").read_text(encoding="utf-8"))
    found = json.loads(host.check_output(f"python3 -c {program} {' '.join(ours)}"))
    assert set(found) == set(ours)
    for unit, tried in found.items():
        assert tried["wrote"] == [], f"{name}: {unit} can write {tried['wrote']}"
        assert tried["may"], f"{name}: {unit} cannot write anything at all: the trial shows nothing"
        # The one unit that talks to the kernel about rules is the firewall.
        assert tried["sockets"] in ([], ["AF_NETLINK"] if component == "firewall" else []), (name, unit, tried["sockets"])


@pytest.mark.parametrize(("component", "name"), PLACED)
def test_keys_and_credentials_are_closed(machine: Any, component: str, name: str) -> None:
    host = machine(name)
    lines = host.check_output(
        f"find /etc -xdev -path '/etc/credstore.encrypted/hnai-{component}.*' -printf 'credential %m %u %p\\n'"
        f" -o -path '/etc/hnai/{component}/*' \\( -name '*key*.pem' -o -name 'keystore.pem' \\) -printf 'key %m %u %p\\n'"
    ).splitlines()
    assert "certificate" not in contracts.load(component) or any(line.startswith("key ") for line in lines), f"{name}: no key of {component}"
    for line in lines:
        kind, mode, user, _path = line.split(" ", 3)
        assert user == "root", line
        assert mode in (("600",) if kind == "credential" else ("600", "640")), line


@pytest.mark.parametrize("name", HOSTS)
def test_every_listening_socket_belongs_to_a_contract(machine: Any, name: str) -> None:
    allowed: dict[tuple[str, int], str] = {}
    for component, contract in contracts.all().items():
        if name not in members(GROUPS.get(component, component)):
            continue
        for one in contract["listens"]:
            if "group" not in one or name in members(one["group"]):
                allowed[(one["proto"], int(one["port"]))] = one["bind"]
    for line in machine(name).check_output("ss -Hlntu").splitlines():
        proto, _state, _recv, _send, local = line.split()[:5]
        address, port = local.rsplit(":", 1)
        address = address.strip("[]").split("%")[0].replace("::ffff:", "")
        assert (proto, int(port)) in allowed, f"{name}: {line} belongs to no contract"
        if allowed[(proto, int(port))] == "loopback":
            assert address in ("127.0.0.1", "::1"), f"{name}: {line} is not on loopback"
