#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What a run that changes nothing costs the controller, from 10 to 1000 hosts; exit code 1 when it grows faster than the site.

The site is the lab's, with as many hosts more in L4 as are asked for, each a telegraf that writes; run are the plays of every host and telegraf's. Nobody
is contacted: bench/stub/stub.py answers in the place of the hosts. So this is Ansible's part and ours (inventory, validation, model, templates, rulesets,
artifacts compared, modules packed), without ssh and without the hosts. A large site is not run whole: on its hosts that are the lab's, then on these and
ten of the others, and each of the rest counts as one of the ten. Printed: CPU seconds and wall seconds of ten forks, memory of the largest process,
task-hosts. Needs no lab.
"""
from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import yaml

from ansible_collections.hnai.platform.plugins.plugin_utils import contracts
from ansible_collections.hnai.platform.plugins.plugin_utils.store import locks

ROOT = Path(__file__).resolve().parents[1]
TAGS = "host,firewall,telegraf"
SAMPLE = 10
"""Of the hosts that are not the lab's, on how many a large site is run."""


@dataclass(frozen=True)
class Cost:
    """Of one run: hosts, task-hosts, seconds of wall and of CPU, MB of the largest process."""

    hosts: float
    tasks: float
    wall: float
    cpu: float
    memory: float


def inventory(lab: Path, folder: Path, hosts: int) -> tuple[Path, list[str], list[str]]:
    """The lab's inventory with `hosts` managed hosts, in `folder`. Returns its hosts.yml, the lab's hosts and those that came to them."""
    shutil.copytree(lab.parent, folder)
    content = yaml.safe_load(lab.read_text(encoding="utf-8"))
    groups = content["all"]["children"]["managed"]["children"]
    there = {name for group in groups.values() for name in _members(group)}
    if hosts < len(there):
        sys.exit(f"bench: the lab alone has {len(there)} hosts; remedy: ask for at least as many")
    places = [place for place in range(16, 1023) if place != 254]  # of a /22, the lab's own and the router left out
    if hosts > len(there) + len(places):
        sys.exit(f"bench: L4 has room for {len(places)} hosts; remedy: ask for at most {len(there) + len(places)}")
    more = {
        f"more{place:04}": {"hnai_zone": "l4", "hnai_addresses": {"v4": f"10.77.{4 + place // 256}.{place % 256}", "v6": f"fd77:0:0:4::{place + 4096:x}"}}
        for place in places[: hosts - len(there)]
    }
    groups["telegraf"]["children"]["telegraf_writer"]["hosts"].update(more)
    (folder / lab.name).write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    for name, grow in (("zones", _room), ("conduits", _approve)):
        path = folder / f"group_vars/all/{name}.yml"
        variables = yaml.safe_load(path.read_text(encoding="utf-8"))
        grow(variables[f"hnai_{name}"])
        path.write_text(yaml.safe_dump(variables, sort_keys=False), encoding="utf-8")
    return folder / lab.name, sorted(there), list(more)


def _members(group: Mapping[str, Any]) -> set[str]:
    found = set(group.get("hosts") or {})
    return found.union(*(_members(child) for child in (group.get("children") or {}).values()))


def _room(zones: dict[str, Any]) -> None:
    zones["l4"]["cidrs"][0] = "10.77.4.0/22"


def _approve(conduits: list[dict[str, Any]]) -> None:
    conduits.append({
        "id": "C-900", "from": {"group": "telegraf_writer"}, "to": {"group": "victoriametrics"},
        "service": {"component": "victoriametrics", "listener": "https"}, "kind": "direct", "data_direction": "up",
        "owner": "bench", "reason": "Writers on hosts of their own", "expires": "2030-12-31",
    })


def answers() -> dict[str, dict[str, Any]]:
    """What the hosts of each Debian release say to the modules whose word the controller needs: everything is there."""
    found: dict[str, dict[str, Any]] = {}
    for number, release in locks.RELEASES.items():
        archives: dict[str, Any] = {}
        packages: dict[str, str] = {}
        for component, contract in contracts.all().items():
            for entry in contract["artifacts"]:
                try:
                    if locks.is_deb(entry):
                        packages.update({name: glob.replace("*", "0") for name, glob in locks.debs(component, entry, release).wanted})
                    else:
                        one = locks.archive(contracts.path_of(component).parents[1], component, entry, release)
                        archives[one.name] = {"version": one.version, "recipe": one.recipe, "digest": "", "damaged": "", "foreign": [], "versions": {}}
                except locks.StoreError:
                    continue  # not made for this release
        system = {"id": "debian", "version": number, "arch": locks.ARCH}
        found[number] = {
            "hnai.platform.plugins.modules.artifact": {"os": system, "archives": archives, "packages": packages, "unmasked": [], "leftover": False},
            "hnai.platform.plugins.modules.host_certificate": {"due": False, "csr": ""},
            "hnai.platform.plugins.modules.openbao_component": {"secrets": {}, "certificate": {}},
            "modules.setup": {"ansible_facts": {"ansible_virtualization_tech_guest": []}},
        }
    return found


def prepare(folder: Path, hosts: int) -> tuple[Path, list[str], list[str]]:
    """`inventory`, with the stub in the place of ssh and everything of the controller below `folder`."""
    found = inventory(ROOT / "inventories/lab/hosts.yml", folder / "inventory", hosts)
    (folder / "answers.json").write_text(json.dumps(answers()), encoding="utf-8")
    variables = {"ansible_connection": "stub", "bench_stub_answers": str(folder / "answers.json")}
    (folder / "inventory/group_vars/managed/zz_stub.yml").write_text(yaml.safe_dump(variables), encoding="utf-8")
    return found


def measure(folder: Path, inventory: Path, hosts: list[str]) -> Cost:
    """One run of site.yml on `hosts`, which must change nothing."""
    environment = {
        **os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_CONNECTION_PLUGINS": str(ROOT / "bench/stub"), "ANSIBLE_NOCOLOR": "1",
        "ANSIBLE_DISPLAY_OK_HOSTS": "false", "HNAI_STATE_DIR": str(folder / "state"), "HNAI_STORE_DIR": str(folder / "store"),
    }  # fmt: skip
    limit = folder / "limit"
    limit.write_text("\n".join(["localhost", *hosts]), encoding="utf-8")
    argv = [str(Path(sys.executable).with_name("ansible-playbook")), "-i", str(inventory), "playbooks/site.yml", "--tags", TAGS, "--skip-tags", "verify"]
    begin = time.monotonic()
    with (folder / "log").open("w+", encoding="utf-8") as log:
        child = subprocess.Popen([*argv, "--limit", f"@{limit}"], cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
        _pid, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        wall = time.monotonic() - begin
        log.seek(0)
        said = log.read()
    recap = counts(said)
    if child.returncode or set(recap) != {"localhost", *hosts} or any(line["changed"] for line in recap.values()):
        sys.exit(f"bench: site.yml on {len(hosts)} hosts ended with {child.returncode}, {len(recap)} hosts in its recap:\n{said[-3000:]}")
    return Cost(len(hosts), sum(line["ok"] + line["skipped"] for line in recap.values()), wall, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)


def counts(said: str) -> dict[str, dict[str, int]]:
    """{host: {ok, changed, …}} of the recap at the end of a run."""
    lines = re.findall(r"^(\S+) +: (ok=.*)$", said.rpartition("PLAY RECAP")[2], re.MULTILINE)
    return {host: {key: int(value) for key, value in re.findall(r"(\w+)=(\d+)", line)} for host, line in lines}


def whole(few: Cost, more: Cost, hosts: int) -> Cost:
    """The cost of `hosts` hosts: a run on a few of them, and each of the others as one of those that a run on more had more. Memory as measured."""
    rest = (hosts - few.hosts) / (more.hosts - few.hosts)
    values = [was + (now - was) * rest for was, now in zip(astuple(few), astuple(more), strict=True)]
    return Cost(*values[:-1], more.memory)


def judge(costs: list[Cost], growth: float) -> list[str]:
    """What grew faster than the site, times `growth`, from one size to the next. (Wall is not judged: it is anybody's on a machine with a lab.)"""
    found = []
    for small, large in zip(costs, costs[1:], strict=False):
        sites = large.hosts / small.hosts
        for what, ratio in (("CPU", large.cpu / small.cpu), ("memory", large.memory / small.memory)):
            if ratio > sites * growth:
                found.append(f"{what}: {small.hosts:.0f} to {large.hosts:.0f} hosts cost {ratio:.1f} times (at most {sites * growth:.1f})")
    return found


def main() -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hosts", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--growth", type=float, default=1.5, help="times faster than the site that the cost may grow")
    args = parser.parse_args()
    costs = []
    for hosts in args.hosts:
        with tempfile.TemporaryDirectory(prefix="hnai-bench-") as work:
            folder = Path(work)
            path, lab, more = prepare(folder, hosts)
            if len(more) <= SAMPLE:
                cost, how = measure(folder, path, lab + more), "all of them run"
            else:
                few, many = measure(folder, path, lab), measure(folder, path, lab + more[:SAMPLE])
                cost = whole(few, many, hosts)
                how = f"run on {few.hosts:.0f} of them ({few.cpu:.1f} CPU s) and on {many.hosts:.0f} ({many.cpu:.1f} CPU s)"
        costs.append(cost)
        # The difference of two runs is nothing where others took the processor meanwhile.
        wall = f"wall {cost.wall:7.1f} s" if cost.wall > 0 else "wall lost in noise"
        print(
            f"{hosts:5d} hosts  {cost.cpu:7.1f} CPU s  {cost.cpu / hosts:5.2f} a host  {wall}  {cost.memory:5.0f} MB  "
            f"{cost.tasks:6.0f} task-hosts  {how}", flush=True,
        )  # fmt: skip
    found = judge(costs, args.growth)
    print("\n".join(found or [f"controller: grows no faster than the site times {args.growth:g}"]))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
