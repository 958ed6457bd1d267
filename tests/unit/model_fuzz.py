# SPDX-License-Identifier: Apache-2.0
"""Damaged site models: the lab's own as its users write it, typed mutations of it, and changes that break one known rule.

`survives` is the judge: whatever the model is, reading, validating and rendering it either works or ends in the model's own error.
"""
from __future__ import annotations

import copy
import datetime
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ansible_collections.hnai.platform.plugins.module_utils.zones import acls, nft
from ansible_collections.hnai.platform.plugins.module_utils.zones.model import Site, SiteError
from ansible_collections.hnai.platform.plugins.module_utils.zones.validate import judge
from ansible_collections.hnai.platform.plugins.plugin_utils import contracts
from ansible_collections.hnai.platform.plugins.plugin_utils import site as collector

ROOT = Path(__file__).resolve().parents[2]
TODAY = datetime.date(2026, 6, 1)
Data = dict[str, Any]


# -- the lab's model, without Ansible's machinery

def _groups(name: str, group: Any, above: tuple[str, ...], found: dict[str, dict[str, Any]], members: dict[str, list[str]], given: Data) -> None:
    group = group or {}
    path, given = (*above, name), {**given, **(group.get("vars") or {})}
    for host, variables in (group.get("hosts") or {}).items():
        entry = found.setdefault(host, {})
        for one in path:
            if host not in members.setdefault(one, []):
                members[one].append(host)
        entry.update({**{key: value for key, value in given.items() if key not in entry}, **(variables or {})})
    for child, content in (group.get("children") or {}).items():
        _groups(child, content, path, found, members, given)


def lab() -> Data:
    """The model of inventories/lab: what `plugin_utils.site.collect` makes of it."""
    base = ROOT / "inventories" / "lab"
    hosts: dict[str, dict[str, Any]] = {}
    members: dict[str, list[str]] = {}
    inventory = yaml.safe_load((base / "hosts.yml").read_text(encoding="utf-8"))
    _groups("all", inventory["all"], (), hosts, members, {})
    everywhere: dict[str, Any] = {}
    for path in sorted((base / "group_vars" / "all").glob("*.yml")):
        everywhere.update(yaml.safe_load(path.read_text(encoding="utf-8")) or {})
    variables = {host: {**everywhere, **own} for host, own in hosts.items()}
    for path in sorted((base / "group_vars").glob("**/*.yml")):
        group = path.relative_to(base / "group_vars").parts[0].removesuffix(".yml")
        for host in members.get(group, []) if group != "all" else ():
            variables[host] = {**variables[host], **(yaml.safe_load(path.read_text(encoding="utf-8")) or {}), **hosts[host]}
    data = collector.collect(variables, {**members, "ungrouped": []})
    data["contracts"] = contracts.all()
    return data


# -- the judge

def survives(data: Data) -> list[dict[str, Any]]:
    """The findings. Any exception but the model's own is the caller's to report."""
    site = Site.from_dict(data)
    found = [problem.as_dict() for problem in judge(site, data, TODAY)]
    assert all(isinstance(one[key], str) and one[key] for one in found for key in ("file", "key", "message", "remedy", "severity"))
    assert all("\n" not in one[key] for one in found for key in ("file", "key")), found
    for node in site.managed():
        try:
            text = nft.ruleset(site, node.name)
        except SiteError:
            continue
        assert text.count("\ntable inet hnai {") == 1 and "policy accept" not in text
        nft.approved(site, node.name)
        nft.egress(site, node.name)
        nft.proof_hosts(site, node.name)
    acls.kafka_acls(site)
    acls.mosquitto_acl(site)
    return found


def errors(data: Data) -> list[dict[str, Any]]:
    """What would stop a run."""
    return [one for one in survives(data) if one["severity"] == "error"]


# -- mutations without a meaning

PARTS = ("zones", "hosts", "groups", "assets", "conduits", "ot_sources", "slo", "break_glass", "boundaries", "management")
STRANGE: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 10**30, -(10**30), 3.5, float("inf"), float("-inf"), float("nan"), 1e308, "", " ", "x" * 5000, "\x00", "a\nb", "\u202eΩß𝔘",
    "\ud800", '"; drop', "{{ x }}", "all", "any", "0.0.0.0/0", "::/0", "10.0.0.0/8", "10.77.2.11", "fe80::1%eth0", "fd77::/16", "999.1.1.1/33", "-5", "1e9",
    [], {}, [None], [[]], [{}], {"": None}, {None: None}, {1: 2}, {"x": {"y": {"z": []}}}, (1, 2), b"bytes", datetime.date(2030, 1, 1),
    datetime.datetime(2030, 1, 1, 5), ["tcp"], {"group": "managed"}, {"host": None}, {"zone": "l2"}, "C-101", 65536, "22", [1, "a", None],
)


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    if isinstance(value, dict):
        for key, item in value.items():
            found += _places(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            found += _places(item, (*path, index))
    return found


def _parent(data: Data, path: tuple[Any, ...]) -> Any:
    here: Any = data
    for step in path[:-1]:
        here = here[step]
    return here


class Mutator:
    """Mutations of one model, by one stream of random numbers; only what is changed is copied."""

    def __init__(self, model: Data, rng: random.Random) -> None:
        self.model, self.rng = model, rng

    def damaged(self) -> tuple[str, Data]:
        """(what was done, the model)."""
        data = {**self.model, **{part: copy.deepcopy(self.model.get(part)) for part in PARTS}}
        done = []
        for _turn in range(self.rng.choice((1, 1, 1, 2, 3, 6))):
            part = self.rng.choice(PARTS)
            paths = _places(data.get(part), (part,))
            path = self.rng.choice(paths)
            done.append(f"{self._one(data, path, paths)} at {path}")
        return "; ".join(done), data

    def _one(self, data: Data, path: tuple[Any, ...], paths: list[tuple[Any, ...]]) -> str:
        parent, last = _parent(data, path), path[-1]
        kind = self.rng.choice(("strange", "strange", "strange", "drop", "double", "swap", "extra", "cycle", "rename", "none"))
        if kind == "drop" and len(path) > 1:
            del parent[last]
        elif kind == "double" and isinstance(parent, list):
            parent.insert(self.rng.randrange(len(parent) + 1), copy.deepcopy(parent[last]))
        elif kind == "swap":
            other = self.rng.choice(paths)
            value = copy.deepcopy(_parent(data, other)[other[-1]])
            parent[last] = value
        elif kind == "extra" and isinstance(parent[last], dict):
            parent[last][self.rng.choice(["nat", "proxy", "x", 5, None, "any"])] = self.rng.choice(STRANGE)
        elif kind == "cycle" and isinstance(parent[last], (dict, list)):
            # As deep as YAML's anchors can make it; a true cycle ends in YAML itself, and so does a value that doubles itself many times.
            value, depth = parent[last], self.rng.choice((3, 40))
            for _level in range(depth):
                value = {"children": value, "again": [value]} if depth == 3 else {"children": [value]}
            parent[last] = value
        elif kind == "rename" and isinstance(parent, dict) and len(path) > 1:
            parent[self.rng.choice(["\u202e", "a b", "x" * 300, 7, None, "l2", "plc1", "edge1", "\n"])] = parent.pop(last)
        elif kind == "none":
            parent[last] = None
        else:
            kind = "strange"
            parent[last] = copy.deepcopy(self.rng.choice(STRANGE))
        return kind


# -- mutations that break one rule, whoever wrote them

@dataclass(frozen=True)
class Breaker:
    """A change after which the rule `invariant` must be among the errors. `exact`: and no other rule."""

    invariant: str
    change: Callable[[Data, random.Random], None]
    exact: bool = True


APPROVED = {
    "owner": "somebody", "reason": "they asked", "expires": "2030-12-31", "data_direction": "up", "kind": "direct", "needed_by": "people",
}


def _conduit(data: Data, rng: random.Random, source: str, target: str, **more: Any) -> None:
    ends = {end: {"host" if name in data["hosts"] else "asset": name} for end, name in (("from", source), ("to", target))}
    service = {"proto": rng.choice(["tcp", "udp"]), "port": rng.randrange(20000, 60000)}
    item = {"id": f"F-{rng.randrange(10**6)}", **ends, "service": service, **APPROVED, **more}
    data["conduits"].insert(rng.randrange(len(data["conduits"]) + 1), item)


def _in(data: Data, zone: str, group: str = "") -> list[str]:
    """Hosts of a zone that are no routers."""
    found = [name for name, host in data["hosts"].items() if host["zone"] == zone and not host.get("interfaces")]
    return [name for name in found if not group or name in data["groups"][group]]


def _pair(here: str, there: str, **more: Any) -> Callable[[Data, random.Random], None]:
    def change(data: Data, rng: random.Random) -> None:
        ends = [rng.choice(["plc1"] if zone == "l2" else _in(data, zone)) for zone in (here, there)]
        _conduit(data, rng, ends[0], ends[1], **{**more, "kind": rng.choice(more.get("kinds", ["direct"]))})

    return change


def _clean(change: Callable[[Data, random.Random], None]) -> Callable[[Data, random.Random], None]:
    """The parameters of `_pair` that are no keys of a conduit are taken out again."""

    def run(data: Data, rng: random.Random) -> None:
        change(data, rng)
        for item in data["conduits"]:
            item.pop("kinds", None)

    return run


ANY = ["direct", "brokered", "jump"]


def _verb(data: Data, rng: random.Random) -> None:
    item = next(one for one in data["conduits"] if one["id"] == "C-101")
    item["service"]["ops"] = [*item["service"]["ops"], rng.choice(["write", "call", "history_update", "*", "READ", "subscribe "])]


def _island(data: Data, rng: random.Random) -> None:
    data["zones"]["l2"]["island"] = True


def _any(data: Data, rng: random.Random) -> None:
    item = rng.choice(data["conduits"])
    where, what = rng.choice([
        ("from", {"group": "all"}), ("to", {"zone": "l35"}), ("from", "any"), ("service", {"proto": "any", "port": 1}),
        ("service", {"proto": "tcp", "port": "1-65535"}), ("service", {"proto": "icmp", "port": 8}),
        ("service", None), ("to", {"cidr": "0.0.0.0/0"}), ("service", {"proto": "tcp", "port": True}),
    ])
    item[where] = what


def _pass_through(data: Data, rng: random.Random) -> None:
    hosts = _in(data, "l35")
    _conduit(data, rng, rng.choice(hosts), _in(data, "security")[0], service={"proto": "tcp", "port": 9094}, kind="direct")


def _two_homes(data: Data, rng: random.Random) -> None:
    name = rng.choice(["edge1", "kafka1", "data1", "plc1"])
    zone = rng.choice([one for one in ("l3", "l35", "l4", "l2") if one != (data["hosts"].get(name) or data["assets"].get(name))["zone"]])
    net4, net6 = data["zones"][zone]["cidrs"]
    leg = {"name": "eth9", "v4": net4.replace("0/24", "99"), "v6": net6.replace("/64", "99")}
    (data["hosts"].get(name) or data["assets"][name])["interfaces"] = {zone: leg}


def _same_address(data: Data, rng: random.Random) -> None:
    first, second = rng.sample(_in(data, "l35"), 2)
    data["hosts"][first]["addresses"] = copy.deepcopy(data["hosts"][second]["addresses"])


def _overlap(data: Data, rng: random.Random) -> None:
    data["zones"]["visitors"] = {"level": 4, "cidrs": [rng.choice(["10.77.4.0/25", "10.77.4.128/26", "10.77.0.0/16"])]}


def _unaudited(data: Data, rng: random.Random) -> None:
    data["assets"]["plc9"] = {"zone": "l2", "addresses": {"v4": "10.77.2.99", "v6": "fd77:0:0:2::99"}}
    service = {"proto": "tcp", "port": 4840, "app": "opcua", "ops": ["read"]}
    _conduit(data, rng, "edge1", "plc9", service=service)


def _ssh(data: Data, rng: random.Random) -> None:
    first, second = rng.sample(_in(data, "l35"), 2)
    _conduit(data, rng, first, second, service={"proto": "tcp", "port": 22}, kind=rng.choice(["direct", "management"]))


def _name_service(data: Data, rng: random.Random) -> None:
    proto, port = rng.choice([("udp", 53), ("tcp", 53), ("udp", 514), ("tcp", 6514)])
    _conduit(data, rng, "data1", "sec1", service={"proto": proto, "port": port})


def _no_management(data: Data, rng: random.Random) -> None:
    gone = rng.choice(["C-001", "C-002", "C-003"])
    data["conduits"] = [item for item in data["conduits"] if item["id"] != gone]


def _undeclared_dns(data: Data, rng: random.Random) -> None:
    data["management"] = {"dns": {"host": "jump1"}}


def _one_family(data: Data, rng: random.Random) -> None:
    host = data["hosts"][rng.choice(_in(data, "l35"))]
    host["addresses"] = rng.choice([{"v4": host["addresses"]["v4"]}, {**host["addresses"], "v6": "fe80::1"}, {**host["addresses"], "v4": "10.77.4.200"}])


def _translated(data: Data, rng: random.Random) -> None:
    key = rng.choice(["nat", "dnat", "masquerade", "proxy", "port_forward"])
    rng.choice([data["conduits"][3], data["zones"]["l35"], data["assets"]["plc1"]])[key] = rng.choice([True, "10.0.0.1", {"to": "x"}])


def _data_down(data: Data, rng: random.Random) -> None:
    wanted = rng.choice(["C-101", "C-103", "C-201"])
    item = next(one for one in data["conduits"] if one["id"] == wanted)
    item["data_direction"] = rng.choice(["both", "down"])


def _command(data: Data, rng: random.Random) -> None:
    topics = {"read": [rng.choice(["ot/#", "ot/plc1/+", "#"])], "write": ["line/line9/#"]}
    data["assets"]["plc1"]["connects"].append({"to": "mosquitto", "listener": "mqtt", "reason": "x", "principal": "line9", "topics": topics})


def _reverse(data: Data, rng: random.Random) -> None:
    _conduit(data, rng, "edge1", "kafka1", kind="reverse")


def _back_by_kafka(data: Data, rng: random.Random) -> None:
    entry = {"principal": "User:telegraf-shipper", "operation": rng.choice(["Read", "All", "Create"]), "resource_type": "topic", "name": "ot.raw"}
    for host in data["groups"]["kafka"]:
        data["hosts"][host]["vars"] = {**data["hosts"][host].get("vars", {}), "kafka_extra_acls": [entry]}


def _expired(data: Data, rng: random.Random) -> None:
    rng.choice(data["conduits"])["expires"] = rng.choice(["2020-01-01", "2026-05-31", datetime.date(1, 1, 1)])


def _stale(data: Data, rng: random.Random) -> None:
    _conduit(data, rng, "data1", "sec1", needed_by="")


def _missing(data: Data, rng: random.Random) -> None:
    # C-401 and C-403 approve the same connections, so either may go.
    gone = rng.choice(["C-101", "C-102", "C-103", "C-301", "C-302", "C-402"])
    data["conduits"] = [item for item in data["conduits"] if item["id"] != gone]


def _nobody_between(data: Data, rng: random.Random) -> None:
    del data["hosts"]["router"]["interfaces"][rng.choice(["l3", "l35", "l4"])]


def _twice(data: Data, rng: random.Random) -> None:
    data["conduits"].append(copy.deepcopy(rng.choice(data["conduits"])))


BREAKERS: dict[str, Breaker] = {
    "4→3": Breaker("I1", _clean(_pair("l4", "l3", kinds=ANY))),
    "4→2": Breaker("I1", _clean(_pair("l4", "l2", kinds=ANY)), exact=False),
    "3.5→2": Breaker("I1", _clean(_pair("l35", "l2", kinds=ANY)), exact=False),
    "3.5→3 direct": Breaker("I1", _clean(_pair("l35", "l3"))),
    "3.5→4": Breaker("I1", _clean(_pair("l35", "l4", kinds=ANY))),
    "security initiates": Breaker("I1", _clean(_pair("security", "l35", kinds=ANY))),
    "3→4": Breaker("I2", _clean(_pair("l3", "l4", kinds=ANY))),
    "2→3.5": Breaker("I2", _clean(_pair("l2", "l35", kinds=ANY))),
    "a verb that is not reading": Breaker("I3", _verb),
    "an island is reached": Breaker("I4", _island, exact=False),
    "any": Breaker("I5", _any, exact=False),
    "the IDMZ passes on": Breaker("I6", _pass_through),
    "in two zones": Breaker("I7", _two_homes, exact=False),
    "one address twice": Breaker("I7", _same_address),
    "zones overlap": Breaker("I7", _overlap),
    "level 2 without an audit": Breaker("I8", _unaudited),
    "SSH beside the jump": Breaker("I9", _ssh),
    "names and logs beside the model": Breaker("I9", _name_service),
    "management that nobody approved": Breaker("I9", _no_management, exact=False),
    "DNS that nobody approved": Breaker("I9", _undeclared_dns),
    "one family": Breaker("I10", _one_family, exact=False),
    "translation": Breaker("I11", _translated, exact=False),
    "data comes down": Breaker("I12", _data_down),
    "a line that is commanded": Breaker("I12", _command, exact=False),
    "reverse upwards": Breaker("I12", _reverse),
    "the shipper reads": Breaker("I13", _back_by_kafka),
    "expired": Breaker("expiry", _expired),
    "nothing needs it": Breaker("stale", _stale),
    "nobody approved it": Breaker("flow", _missing),
    "nothing stands between": Breaker("boundary", _nobody_between, exact=False),
    "an id twice": Breaker("format", _twice),
}


def broken(model: Data, name: str, rng: random.Random) -> tuple[Data, list[dict[str, Any]]]:
    """(the model after the change, its errors)."""
    data = copy.deepcopy(model)
    BREAKERS[name].change(data, rng)
    return data, errors(data)
