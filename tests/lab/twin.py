# SPDX-License-Identifier: Apache-2.0
"""A second site out of the lab's: other names of hosts, zones and containers, other addresses of both families, Debian releases exchanged where
the contracts allow both, two brokers more. What comes out is an inventory like any other, on disk:

    python tests/lab/twin.py /tmp/twin && make lab INVENTORY=/tmp/twin/hosts.yml
"""
from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from ansible_collections.hnai.platform.plugins.module_utils.zones.validate import RELEASES
from ansible_collections.hnai.platform.plugins.plugin_utils import contracts

SITE = "twin"
#: Names with dashes and numbers of two digits, other parts of the address, an order that is not the lab's: what a plan of somebody else looks like.
HOSTS = {
    "jump1": "bastion", "router": "core-fw", "sec1": "vault07", "kafka1": "log-b", "kafka2": "log-a", "kafka3": "log-c", "edge1": "pad7-gw", "stream1": "calc",
    "data1": "hist-1", "plc1": "pad7-plc",
}  # fmt: skip
ZONES = {"l2": "cell7", "l3": "siteops", "l35": "idmz", "l4": "office", "security": "keys", "mgmt": "oob"}
#: Text of an address in the lab → in the twin, network parts first.
ADDRESSES = {"10.77.": "172.29.1", "fd77:0:0:": "fd29:7:1:a"}
#: (name, node id, rack): the voters beyond the lab's three.
MORE = (("log-d", 14, "rack-d"), ("log-e", 15, "rack-e"))
_PROSE = ("reason", "purpose")
#: Where a zone's id stands: as a value, and as the keys of a map.
_ZONE_VALUES, _ZONE_MAPS = ("zone", "hnai_zone"), ("hnai_zones", "hnai_interfaces", "interfaces")


def make(lab: Path, folder: Path) -> Path:
    """The twin of the inventory *lab* (its hosts.yml) in *folder*. Returns its hosts.yml."""
    for path in sorted(lab.parent.rglob("*.yml")):
        content = _renamed(yaml.safe_load(path.read_text(encoding="utf-8")))
        if path == lab:
            _grow(content)
            _swap(content)
        elif "hnai_site" in (content or {}):
            content["hnai_site"] = SITE
        if "lab_prefix" in (content or {}):
            content["lab_prefix"] = f"{SITE}-"
        target = folder / path.relative_to(lab.parent)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text("# SPDX-License-Identifier: Apache-2.0\n---\n" + yaml.safe_dump(content, sort_keys=False, width=150), encoding="utf-8")
    return folder / lab.name


_NAME = re.compile(rf"(?<![\w.-])({'|'.join(HOSTS)})(?![\w-])")


def _text(text: str) -> str:
    for old, new in ADDRESSES.items():
        text = text.replace(old, new)
    return _NAME.sub(lambda found: HOSTS[found[1]], text)


def _renamed(value: Any, key: str = "") -> Any:
    """Everything below *key* with the twin's names and addresses."""
    if isinstance(value, dict):
        zones = key in _ZONE_MAPS
        found = {}
        for name, item in value.items():
            new = (ZONES[name] if zones else _text(name)) if isinstance(name, str) else name
            found[new] = _renamed(item, str(name))
        if key == "hnai_interfaces":
            for zone, leg in found.items():
                leg["name"] = f"to-{zone}"
        return found
    if isinstance(value, list):
        return [_renamed(item, key) for item in value]
    if isinstance(value, str):
        return ZONES[value] if key in _ZONE_VALUES else value if key in _PROSE else _text(value)
    return value


def _tree(inventory: dict[str, Any]) -> dict[str, Any]:
    children: dict[str, Any] = inventory["all"]["children"]["managed"]["children"]
    return children


def _grow(inventory: dict[str, Any]) -> None:
    """Five voters, with numbers that follow from nothing."""
    groups = _tree(inventory)
    brokers = groups["kafka"]["hosts"]
    for number, broker in zip((21, 12, 33), brokers.values(), strict=True):
        broker["kafka_node_id"] = number
    like = next(iter(brokers.values()))
    taken = [broker["hnai_addresses"] for broker in brokers.values()]
    for last, (name, node, rack) in enumerate(MORE, 61):
        addresses = {"v4": re.sub(r"\d+$", str(last), taken[0]["v4"]), "v6": re.sub(r"[0-9a-f]+$", str(last), taken[0]["v6"])}
        brokers[name] = {**like, "hnai_addresses": addresses, "kafka_node_id": node, "kafka_rack": rack}
        groups["probe"]["hosts"][name] = None


def _members(group: dict[str, Any]) -> Iterable[tuple[str, dict[str, Any]]]:
    for host, variables in (group.get("hosts") or {}).items():
        yield host, variables or {}
    for child in (group.get("children") or {}).values():
        yield from _members(child)


def _swap(inventory: dict[str, Any]) -> None:
    """Each managed host gets the other release, if everything on it is made for both."""
    groups = _tree(inventory)
    default = inventory["all"]["children"]["managed"]["vars"]["hnai_debian"]
    release = {host: default for group in groups.values() for host, _variables in _members(group)}
    for group in groups.values():
        release.update({host: variables["hnai_debian"] for host, variables in _members(group) if "hnai_debian" in variables})
    bound = {host for name, group in groups.items() if name in contracts.all() and _one_release(name) for host, _variables in _members(group)}
    exchanged = {host: next(other for other in RELEASES if other != was) for host, was in release.items() if host not in bound}
    for group in groups.values():
        for host, variables in _members(group):
            if variables and host in exchanged:
                variables["hnai_debian"] = exchanged[host]


def _one_release(component: str) -> bool:
    entries = contracts.load(component)["artifacts"]
    return any(isinstance(entry.get(key), dict) and set(entry[key]) != set(RELEASES) for entry in entries for key in ("version", "packages"))


if __name__ == "__main__":
    print(make(Path(__file__).resolve().parents[2] / "inventories/lab/hosts.yml", Path(sys.argv[1])))
