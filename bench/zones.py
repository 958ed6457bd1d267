#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What the site model costs on a large site: read, validated, every ruleset, both access lists, drawing and evidence rendered, in one process.

Prints seconds, memory and how the cost grows with the site; exit code 1 when it takes longer than --most, more memory than --memory, or grows faster
than the site. Needs no lab.
"""
from __future__ import annotations

import argparse
import datetime
import resource
import sys
import time
from typing import Any

from ansible_collections.hnai.platform.plugins.module_utils.zones import acls, nft
from ansible_collections.hnai.platform.plugins.module_utils.zones.model import Site
from ansible_collections.hnai.platform.plugins.module_utils.zones.validate import judge
from ansible_collections.hnai.platform.plugins.plugin_utils.report import zones

TODAY = datetime.date(2030, 1, 1)
LEVELS = (2, 2, 3, 3, 3, 3.5, 4, 4, 3.5, 3.5)
"""Of each ten zones: the last two are the security and the management side."""


def model(areas: int, hosts: int, conduits: int) -> dict[str, Any]:
    """A right model: `areas` zones of `hosts` hosts or devices each, and `conduits` conduits that something needs.

    Listeners stand in groups of hosts in the IDMZ; the plants of level 2 are read by collectors, everybody else pushes up or fetches.
    """
    data: dict[str, Any] = {
        "zones": {}, "hosts": {}, "groups": {"managed": [], "jump": [], "routers": ["router"], "ot_collector": []}, "assets": {}, "conduits": [],
        "contracts": {}, "ot_sources": [], "slo": {}, "files": {}, "defaults": {}, "roles": [], "known_variables": [],
    }
    members: list[list[str]] = []
    for number in range(areas):
        level = LEVELS[number % 10]
        side = {8: "security", 9: "management"}.get(number % 10, "")
        name = f"z{number:03}"
        data["zones"][name] = {
            "level": level, "cidrs": [f"10.{number}.0.0/16", f"fd00:{number:x}::/64"], **({"side": side} if side else {}),
        }
        members.append([])
        for index in range(hosts):
            host = f"{name}-h{index:04}"
            place = index + 1
            addresses = {"v4": f"10.{number}.{place // 250}.{place % 250 + 1}", "v6": f"fd00:{number:x}::{place + 16:x}"}
            members[-1].append(host)
            if level == 2:
                data["assets"][host] = {"zone": name, "addresses": addresses, "role": "ot_source", "services": {"opcua": {"proto": "tcp", "port": 4840}}}
            else:
                data["hosts"][host] = {"zone": name, "addresses": addresses}
                data["groups"]["managed"].append(host)
    jump = members[9][0]
    data["groups"]["jump"] = [jump]
    data["hosts"]["router"] = {
        "zone": "z009", "addresses": {"v4": "10.9.255.254", "v6": "fd00:9::fffe"},
        "interfaces": {
            f"z{number:03}": {"name": f"if{number}", "v4": f"10.{number}.255.254", "v6": f"fd00:{number:x}::fffe"} for number in range(areas)
        },
    }
    data["groups"]["managed"].append("router")
    data["groups"]["ot_collector"] = list(members[2])
    _conduits(data, members, conduits)
    return data


def _approve(data: dict[str, Any], source: dict[str, str], target: dict[str, str], service: dict[str, Any], **more: Any) -> None:
    data["conduits"].append({
        "id": f"C-{len(data['conduits']):05}", "from": source, "to": target, "service": service, "data_direction": "up", "owner": "bench",
        "reason": "a large site", "expires": "2030-12-31", **more,
    })


def _conduits(data: dict[str, Any], members: list[list[str]], number: int) -> None:
    ssh = {"proto": "tcp", "port": 22}
    _approve(data, {"group": "jump"}, {"group": "managed"}, ssh, kind="management", data_direction="both")
    _approve(data, {"group": "managed"}, {"group": "jump"}, {"proto": "udp", "port": 123}, data_direction="both")
    group = 8
    while len(data["conduits"]) < number:
        index = len(data["conduits"])
        name = f"c{index:05}"
        if index % 4 == 0:
            # A collector reads a device of the plant.
            again, place = divmod(index // 4, len(members[0]))
            device, collector = members[0][place], members[2][(place + again) % len(members[2])]
            data["ot_sources"].append({"id": name, "asset": device, "protocol": "opcua"})
            service = {"proto": "tcp", "port": 4840, "app": "opcua", "ops": ["read", "subscribe"]}
            _approve(data, {"host": collector}, {"asset": device}, service, needed_by="the mirror")
            continue
        # A component of some hosts in the IDMZ, and one below or above it that dials it.
        servers = [members[5][(index * group + step) % len(members[5])] for step in range(group)]
        zone = (3, 4, 6, 7)[index % 4]
        clients = [members[zone][(index * group + step) % len(members[zone])] for step in range(group)]
        data["groups"][name], data["groups"][f"{name}_client"] = sorted(set(servers)), sorted(set(clients))
        listener = {"name": "x", "proto": "tcp", "port": 10000 + index, "bind": "any", "tls": True, "authentication": "mtls"}
        data["contracts"][name] = {"name": name, "levels": ["l35"], "listens": [listener], "connects": []}
        data["contracts"][f"{name}_client"] = {
            "name": f"{name}_client", "levels": ["l3", "l4"], "listens": [], "connects": [{"to": name, "listener": "x", "reason": "bench"}],
        }
        _approve(data, {"group": f"{name}_client"}, {"group": name}, {"component": name, "listener": "x"})


def work(data: dict[str, Any]) -> tuple[int, int]:
    """(findings, bytes rendered) of everything that is made of a model."""
    site = Site.from_dict(data)
    found = judge(site, data, TODAY)
    size = sum(len(nft.ruleset(site, node.name)) for node in site.managed())
    size += len(acls.kafka_acls(site)) + len(acls.mosquitto_acl(site))
    size += sum(len(text) for text in zones.files(site, TODAY, "", "bench").values())
    return len(found), size


def main() -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--zones", type=int, default=10)
    parser.add_argument("--hosts", type=int, default=200, help="hosts or devices of each zone")
    parser.add_argument("--conduits", type=int, default=400)
    parser.add_argument("--most", type=float, default=10.0, help="seconds of CPU that it may take")
    parser.add_argument("--memory", type=float, default=500.0, help="MB that the process may need")
    parser.add_argument("--growth", type=float, default=3.0, help="times the cost of half the site")
    args = parser.parse_args()
    costs = []
    for share in (2, 1):
        data = model(args.zones, args.hosts // share, args.conduits // share)
        begin, wall = time.process_time(), time.monotonic()
        findings, size = work(data)
        costs.append(time.process_time() - begin)
        print(
            f"{args.zones} zones, {args.zones * (args.hosts // share)} hosts and devices, {len(data['conduits'])} conduits: {costs[-1]:.2f} CPU s "
            f"(wall {time.monotonic() - wall:.2f} s), {size / 1e6:.1f} MB rendered, {findings} findings", flush=True,
        )
        if findings:
            sys.exit("bench: the model of the bench is not right")
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    growth = costs[1] / max(costs[0], 1e-6)
    print(
        f"site model: {costs[1]:.2f} s (at most {args.most:g}), {memory:.0f} MB (at most {args.memory:g}), "
        f"twice the site costs {growth:.1f} times (at most {args.growth:g})"
    )
    return 0 if costs[1] <= args.most and memory <= args.memory and growth <= args.growth else 1


if __name__ == "__main__":
    sys.exit(main())
