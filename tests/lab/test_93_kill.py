# SPDX-License-Identifier: Apache-2.0
"""The controller is killed ten times over the whole length of a run, then in a broker's restart, then in the middle of a change of the firewall.

Scenario kill, some 25 minutes. Each run brings other values than the one before, so each has something to do, and takes up what the killed one left. What
was wanted and what runs is read from the hosts' digests after each kill; when units were restarted, from systemd's journal. The moments follow from a
seed (killing.py): one in each tenth of the tasks, in an order that is drawn too.
"""
from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, Lab
from killing import Step, chance, judged, kill_a_run, moments, tasks_of_the_site
from plant_view import program, until
from test_20_zones import site as site
from test_22_firewall_live import REVERT_S, ZONES, as_confirmed, confirmed, watched
from test_60_kill import UNIT
from test_70_outage import recovered
from units import STOPPING, events, restarts

from ansible_collections.hnai.platform.plugins.module_utils.zones import nft
from ansible_collections.hnai.platform.plugins.module_utils.zones.model import Site

pytestmark = pytest.mark.scenario("kill")
SEED = 93
KILLS = 10
LATER_S = 5.0
#: Longer than any module of ours may take.
MODULE_S = 330
RUN_S = 900
WHOLE = ("--skip-tags", "verify")
ISR = "/run/hnai-test-isr"
ISR_UNIT = "hnai-test-isr"
RULE = "hnai-test-kill"

#: Changes of two components each, brought in turn; every value is another one each time. Kafka's come with `KAFKA_IN`.
CHANGES: tuple[Callable[[int], dict[str, Any]], ...] = (
    lambda number: {"mosquitto_max_queued_messages": 100_000 + number, "canary_ring_lines": 7200 + 2 * number},
    lambda number: {"telegraf_interval": f"{5 + number}s", "host_ssh_log_level": "INFO"},
    lambda number: {"victoriametrics_memory_percent": 40 - number, "canary_ring_lines": 7200 + 2 * number},
    lambda number: {"flink_checkpoints_retained": 3 + number, "mosquitto_max_queued_messages": 100_000 + number},
)
KAFKA_IN = (1, 6)

DIGESTS = """
import glob, json, os
def read(folder, kind):
    found = {}
    for path in glob.glob(folder + "/*." + kind):
        with open(path) as stream:
            found[os.path.basename(path)[:-len(kind) - 1]] = [stream.readline().strip(), os.stat(path).st_mtime_ns // 1000]
    return found
print(json.dumps({kind: {"wanted": read("/etc/hnai/digests", kind), "running": read("/run/hnai", kind)} for kind in ("restart", "reload")}))
"""


def looked(lab: Lab) -> dict[str, Any]:
    """Digests of every host, once nothing of a run is left on any."""
    hosts = lab.groups["managed"]

    def quiet() -> bool:
        return not any(lab.each(hosts, lambda host: lab.run(host, "pgrep", "-f", "[B]ECOME-SUCCESS", check=False).stdout.strip()).values())

    until("modules of a killed run go on for ever", quiet, MODULE_S, 1)
    return lab.each(hosts, lambda host: lab.python(host, DIGESTS))


def accounted(lab: Lab, seen: list[dict[str, Any]], since_us: int) -> dict[str, int]:
    """Every unit's restarts against its digests; {"host unit": restarts}. Fails with all that is wrong."""
    wrong: list[str] = []
    counts: dict[str, int] = {}
    for host in lab.groups["managed"]:
        stops: dict[str, list[int]] = {}
        for at, unit, what in events(lab, host, since_us):
            if what == STOPPING:
                stops.setdefault(unit, []).append(at)
        last = seen[-1][host]
        for kind in ("restart", "reload"):
            for unit, (digest, _at) in last[kind]["running"].items():
                if last[kind]["wanted"].get(unit, ("nothing", 0))[0] != digest:
                    wrong.append(f"{host}: {unit} runs something else than what is wanted ({kind})")
        for unit, (running, _at) in seen[0][host]["restart"]["running"].items():
            history = [one[host]["restart"]["wanted"][unit] for one in seen]
            steps = [Step(now[1], now[0]) for before, now in pairwise(history) if before[0] != now[0]] + [Step(at) for at in stops.get(unit, ())]
            count, bad = judged(running, steps)
            wrong += [f"{host}: {unit}: {text}" for text in bad]
            counts[f"{host} {unit}"] = count
    assert not wrong, "\n".join(wrong)
    return counts


@contextmanager
def cluster_watched(lab: Lab) -> Iterator[list[tuple[float, int]]]:
    """(seconds since 1970, partitions that lack a replica) about once a second, there when the block has ended."""
    host = lab.groups["kafka"][0]
    found: list[tuple[float, int]] = []
    bootstrap = ",".join(f"{name}:9091" for name in lab.groups["kafka"])
    argv = ["systemd-run", "--quiet", "--collect", f"--unit={ISR_UNIT}", "/usr/bin/python3", "-c", program("host_isr"), bootstrap, ISR, "3000"]
    lab.run(host, *argv)
    try:
        until("nobody looks at the cluster", lambda: " 0" in lab.run(host, "cat", ISR, check=False).stdout, 60)
        yield found
        for line in lab.run(host, "cat", ISR).stdout.splitlines():
            at, lacking = line.split()
            found.append((float(at), int(lacking)))
    finally:
        lab.run(host, "systemctl", "stop", ISR_UNIT, check=False)
        lab.run(host, "rm", "-f", ISR)


def one_at_a_time(lab: Lab, since_us: int, cluster: list[tuple[float, int]]) -> int:
    """No two brokers at once, and none while a partition lacked a replica. The number of restarts."""
    happened = restarts(lab, lab.groups["kafka"], UNIT, since_us)
    previous = 0
    for one in happened:
        assert previous < one.begin, f"two brokers at once: {happened}"
        between = [lacking for at, lacking in cluster if previous / 1e6 < at < one.begin / 1e6]
        assert between, f"nobody looked at the cluster before {one}"
        assert between[-1] == 0, f"{one}: {between[-1]} partitions lacked a replica"
        previous = one.end
    return len(happened)


# -- the tests ------------------------------------------------------------------------------------------------
def test_ten_kills_over_the_whole_run_and_one_in_a_brokers_restart(lab: Lab, tmp_path: Path) -> None:
    inventory = ["-i", str(lab.inventory), "site.yml", *WHOLE]
    argv = [str(ROOT / ".venv/bin/ansible-playbook"), *inventory, "--list-tasks"]
    listed = subprocess.run(argv, cwd=ROOT, check=True, capture_output=True, text=True, timeout=120)
    sizes = tasks_of_the_site(listed.stdout)
    plays = [name for name, _tasks in sizes]
    seed, draw = chance(SEED)
    chosen = moments(sizes, draw, KILLS)
    since_us = time.time_ns() // 1000
    seen = [looked(lab)]
    values: dict[str, Any] = {}
    try:
        with cluster_watched(lab) as cluster:
            for number, moment in enumerate(chosen, 1):
                values |= CHANGES[number % len(CHANGES)](number)
                if number in KAFKA_IN:
                    values["kafka_reauth_ms"] = 840_000 - 1000 * number
                later_s, begin = draw.uniform(0, LATER_S), time.monotonic()
                given = [*inventory, "-e", json.dumps(values)]
                kill_a_run(given, tmp_path / f"{number}.log", lambda said, moment=moment: moment.reached(plays, said), later_s, begins=True)
                took = time.monotonic() - begin
                print(f"HNAI_SEED={seed}: kill {number} after {took:.0f} s, {later_s:.1f} s after task {moment.task} of {moment.play!r} began")
                seen.append(looked(lab))
            heading = "TASK [hnai.platform.kafka : Restart the unit]"
            later_s = draw.uniform(0.5, 3.0)
            kill_a_run(inventory, tmp_path / "broker.log", lambda said: said.count(heading) >= 2, later_s, begins=True)
            print(f"killed {later_s:.1f} s after the second restart of a broker began")
            seen.append(looked(lab))
            begin = time.monotonic()
            run = lab.play("site.yml", *WHOLE, timeout=RUN_S)
            assert run.rc == 0, run.stdout[-4000:]
            print(f"the run after all of them took {time.monotonic() - begin:.0f} s, {len(run.changed())} changes")
            values = {}
            seen.append(looked(lab))
        counts = accounted(lab, seen, since_us)
        brokers = one_at_a_time(lab, since_us, cluster)
    finally:
        if values:
            lab.play("site.yml", *WHOLE, timeout=RUN_S)
    print("restarted:", {name: count for name, count in counts.items() if count})
    assert len(counts) > 20
    assert brokers >= 3
    assert sum(count > 0 for count in counts.values()) >= 6
    recovered(lab)


def module_processes(lab: Lab, host: str) -> list[str]:
    """Of any run, on a host."""
    return lab.run(host, "pgrep", "-f", "[B]ECOME-SUCCESS", check=False).stdout.split()


def test_a_change_of_the_firewall_that_dies_unconfirmed_is_taken_back_by_the_host(lab: Lab, site: Site, tmp_path: Path) -> None:
    """Controller and module are gone; no host of the site needs sec1 to run."""
    host = lab.groups["openbao"][0]
    before = confirmed(lab, host)
    head = re.search(r"  chain output \{\n[^\n]*policy drop;\n", before)
    assert head is not None
    changed = before[: head.end()] + f'    tcp dport 4443 counter comment "{RULE}"\n' + before[head.end() :]
    given = tmp_path / "given.json"
    given.write_text(json.dumps({"ruleset": changed, "approved": nft.approved(site, host)}), encoding="utf-8")
    argv = [host, "-i", str(lab.inventory), "--become", "-m", "hnai.platform.firewall", "-a", given.read_text(encoding="utf-8")]

    def loaded() -> bool:
        return RULE in lab.podman("exec", lab.container(host), "nft", "list", "table", "inet", "hnai", check=False).stdout

    with watched(lab, host, RULE, False) as watch:
        kill_a_run(argv, tmp_path / "killed.log", lambda _said: loaded(), 0.0, program="ansible")
        for pid in module_processes(lab, host):
            lab.run(host, "kill", "-KILL", pid, check=False)
        assert "hnai-firewall-deadman-" in lab.run(host, "systemctl", "list-units", "--all", "--plain", "hnai-firewall-deadman-*").stdout
        lasted = watch.lasted()
    print(f"unconfirmed rules were in force for {lasted:.1f} s")
    assert lasted <= REVERT_S + 1.5
    assert confirmed(lab, host) == before
    as_confirmed(lab, host)
    run = lab.play("site.yml", *ZONES, "--limit", host, timeout=RUN_S)
    assert run.rc == 0, run.stdout[-3000:]
    assert confirmed(lab, host) == before
    assert [text for text in run.changed() if text.startswith(f"{host}: ")] == []
