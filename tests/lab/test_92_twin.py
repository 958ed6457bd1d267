# SPDX-License-Identifier: Apache-2.0
"""A second site comes up out of its inventory alone: other names, other addresses of both families, five brokers, Debian releases exchanged.

Two sites are too much for the machine: the lab's hosts are stopped meanwhile, and started again whatever happened.
"""
from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator

import pytest
import twin as second
from conftest import SUDO, Lab
from plant_view import until
from test_61_kafka_health import cluster
from test_80_first_kill import lab_command

pytestmark = pytest.mark.scenario("twin")
#: Seconds: everything from nothing, with packages of the other release to fetch; the lab's way back without a playbook, and its verdict.
UP_S, BACK_S, WHOLE_S = 1300, 120, 400
#: What only the lab has (the word router is anybody's); no file of ours on a host of another site may say it.
OF_THE_LAB = re.compile(rf"10\.77\.|fd77:|\b({'|'.join(sorted(set(second.HOSTS) - {'router'}))})\b")
WORDS = """
import json, os, re, sys
folders = ("/etc/hnai", "/etc/systemd/system", "/etc/ssh/sshd_config.d", "/etc/chrony", "/usr/local/lib/hnai", "/var/lib/hnai/firewall")
paths = ["/etc/hosts"] + [os.path.join(base, name) for folder in folders for base, _folders, files in os.walk(folder) for name in files]
found = []
for path in paths:
    if os.path.isfile(path) and not os.path.islink(path):
        with open(path, errors="replace") as stream:
            found += ["%s: %s" % (path, line.strip()[:160]) for line in stream if re.search(sys.argv[1], line)]
print(json.dumps([len(paths), found]))
"""


def containers(lab: Lab) -> list[str]:
    """Of every host and device."""
    return [lab.container(host) for host in [*lab.groups["managed"], *lab.groups["ot_devices"]]]


def answers(lab: Lab, host: str) -> bool:
    """Does it let us in?"""
    try:
        return lab.run(host, "true", timeout=20, check=False).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def whole(lab: Lab) -> None:
    """The lab's hosts are started, and its verdict passes. The run brings what a person would: the keys of OpenBao."""
    lab.podman("start", *containers(lab), timeout=180)
    until("the lab's hosts do not answer", lambda: all(lab.each(lab.groups["managed"], lambda host: answers(lab, host)).values()), BACK_S, 2)
    until("Kafka is not whole", lambda: lab.play("playbooks/verify.yml", "--tags", "kafka", timeout=180).rc == 0, WHOLE_S, 3)
    run = lab.play("site.yml", "--skip-tags", "verify")
    assert run.rc == 0, run.stdout[-4000:]
    seen = ""

    def good() -> bool:
        nonlocal seen
        run = lab.play("playbooks/verify.yml", extra={"wait_for_window": True}, timeout=300)
        seen = run.stdout[-4000:]
        return run.rc == 0

    try:
        until("the lab's verdict does not pass", good, WHOLE_S, 5)
    except AssertionError:
        print(seen)
        raise


@pytest.fixture(scope="module")
def twin(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """The second site, standing. Its state lies beside the lab's."""
    inventory = second.make(lab.inventory, tmp_path_factory.mktemp("twin"))
    ssh = ["ssh", "-F", str(lab.state / "ssh/config"), "-O", "exit", lab.groups["jump"][0]]
    subprocess.run(ssh, check=False, capture_output=True, timeout=20)  # the shared connection, which would wait for its own end
    try:
        lab.podman("stop", "--time", "45", *containers(lab), timeout=300)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("HNAI_STATE_DIR", str(lab.state.parent / second.SITE))
            patch.setenv("INVENTORY", str(inventory))
            other = Lab(inventory)
            try:
                lab_command(other, "scripts/lab", "up", timeout=UP_S)
                yield other
            finally:
                lab_command(other, "scripts/lab", "down", timeout=300)
    finally:
        whole(lab)


def test_it_stands_by_its_inventory_alone(lab: Lab, twin: Lab) -> None:
    record = json.loads((twin.state / "verdicts/latest/record.json").read_text(encoding="utf-8"))
    assert (record["verdict"], record["site"], record["covers"]["whole_site"]) == ("pass", second.SITE, True)
    assert twin.state != lab.state and not set(containers(lab)) & set(containers(twin))
    assert not set(lab.groups["managed"]) & set(twin.groups["managed"])
    assert len(twin.groups["kafka"]) == len(lab.groups["kafka"]) + 2
    judged = {verdict["host"] for verdict in record["verdicts"]}
    assert judged >= set(twin.groups["managed"]) - set(twin.groups["jump"]) - set(twin.groups["routers"])


def test_five_voters_are_the_quorum(twin: Lab) -> None:
    numbers = sorted(twin.var(host, "kafka_node_id") for host in twin.groups["kafka"])
    assert len(numbers) == 5
    assert sorted(int(one) for one in cluster(twin, "voters")) == numbers


def test_the_releases_are_exchanged(lab: Lab, twin: Lab) -> None:
    """Where the contracts allow both: as the hosts themselves say. The old names tell which host is which."""
    releases = twin.each(twin.groups["managed"], lambda host: twin.run(host, "sh", "-c", ". /etc/os-release; echo $VERSION_ID").stdout.strip())
    assert releases == {host: twin.var(host, "hnai_debian") for host in twin.groups["managed"]}
    same = {host for host in lab.groups["managed"] if lab.var(host, "hnai_debian") == releases[second.HOSTS[host]]}
    assert same == set(lab.groups["victoriametrics"]), "made for Debian 13 only"
    assert set(releases.values()) == {"12", "13"}


def test_a_second_run_changes_nothing(twin: Lab) -> None:
    run = twin.play("site.yml", "--skip-tags", "verify")
    assert run.rc == 0, run.stdout[-3000:]
    assert run.changed() == []


def test_its_network_is_its_model(twin: Lab) -> None:
    run = twin.play("playbooks/verify.yml", "--tags", "zones", timeout=400)
    assert run.rc == 0, run.stdout[-4000:]


def test_nothing_on_its_hosts_speaks_of_the_lab(twin: Lab) -> None:
    found = twin.each(twin.groups["managed"], lambda host: twin.python(host, WORDS, OF_THE_LAB.pattern))
    assert min(count for count, _lines in found.values()) > 10
    assert not [f"{host}: {line}" for host, (_count, lines) in found.items() for line in lines]


def test_neither_site_takes_the_others_guard_away(lab: Lab, twin: Lab) -> None:
    tables = subprocess.run([*SUDO, "nft", "list", "tables", "inet"], check=True, capture_output=True, text=True, timeout=20).stdout
    for site in (lab, twin):
        guard = re.sub("[^A-Za-z0-9]", "_", site.var(site.groups["managed"][0], "lab_prefix")) + "labguard"
        assert f"table inet {guard}\n" in tables, tables
