# SPDX-License-Identifier: Apache-2.0
"""Who reaches whom, tried from every host, over both families; and whether what is reached lets anybody in without an identity."""
from __future__ import annotations

import datetime
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from conftest import Lab
from plant_view import program

from ansible_collections.hnai.platform.plugins.module_utils.zones.flows import approvals
from ansible_collections.hnai.platform.plugins.module_utils.zones.model import Site
from ansible_collections.hnai.platform.plugins.plugin_utils import contracts
from ansible_collections.hnai.platform.plugins.plugin_utils.site import collect

TIMEOUT_S = 2.5
NOBODY = 65534


@pytest.fixture(scope="module")
def site(lab: Lab) -> Site:
    """The model of the inventory; a container has no templates in what is read here."""
    hosts = lab.data["_meta"]["hostvars"]
    model = Site.from_dict(collect(hosts, {**lab.groups, "managed": lab.groups["managed"]}))
    assert not model.problems
    return model


def addresses(site: Site, name: str) -> list[str]:
    """All addresses of a node, a router's in every zone."""
    node = site.nodes[name]
    found = {node.v4, node.v6, *(leg.v4 for leg in node.interfaces), *(leg.v6 for leg in node.interfaces)}
    found |= {address for pair in node.seconds.values() for address in pair}
    return sorted(found - {""})


def ports(site: Site) -> list[int]:
    """Every TCP port that any contract or source knows, and 22."""
    found = {22}
    for contract in site.contracts.values():
        found |= {listener["port"] for listener in contract["listens"] if listener["proto"] == "tcp"}
    for asset in site.assets.values():
        found |= {service["port"] for service in (asset.get("services") or {}).values() if service["proto"] == "tcp"}
    return sorted(found)


def targets(site: Site) -> dict[str, str]:
    """Address → name of every host and device of the lab; this machine is none of them."""
    return {address: name for name, node in site.nodes.items() if node.role != "controller" for address in addresses(site, name)}


@dataclass(frozen=True)
class Origin:
    """Who dials: a user (-1: root) from the host's own address, or from a second one of this name."""

    uid: int = -1
    second: str = ""


def approved(site: Site, source: str, origin: Origin = Origin()) -> tuple[set[str], set[str]]:
    """("ADDRESS PORT" that must be open, those that need not: the budget of new connections into level 2 is the collector's)."""
    today = datetime.date.today()
    must, may = set(), set()
    open_now = [c for c in site.conduits if c.expires >= today and c.source_address == origin.second and c.uid in (None, origin.uid)]
    for (first, second, proto, port), conduits in approvals(open_now).items():
        if first != source or proto != "tcp":
            continue
        node, zone = site.nodes[second], site.nodes[first].zone
        for version in (4, 6):
            (may if all(c.limits for c in conduits) else must).add(f"{node.address(version, zone)} {port}")
    return must, may


def tried(lab: Lab, site: Site, source: str, origin: Origin = Origin()) -> dict[str, str]:
    """What answers a host, own addresses left out."""
    own = set(addresses(site, source))
    names = [address for address in targets(site) if address not in own]
    local = ",".join(filter(None, site.nodes[source].seconds.get(origin.second, ()))) or "-"
    arguments = (str(TIMEOUT_S), str(origin.uid), local, *names, "--", *map(str, ports(site)))
    if source in lab.groups["managed"]:
        return lab.python(source, program("host_connect"), *arguments, timeout=180)
    return json.loads(lab.plant("/usr/bin/python3", "-c", program("host_connect"), *arguments, host=source, timeout=180).stdout)


def test_only_approved_conduits_connect_from_every_host(lab: Lab, site: Site) -> None:
    sources = [name for name, node in site.nodes.items() if node.role != "controller"]
    assert set(sources) >= {*lab.groups["managed"], "plc1"}
    found = lab.each(sources, lambda source: tried(lab, site, source))
    wrong = []
    opened = 0
    for source in sources:
        must, may = approved(site, source)
        opened += len(must)
        for pair, answer in sorted(found[source].items()):
            # What is approved with a limit may be refused by the device itself, where it has one family or few sessions.
            if pair not in must | may or (answer != "open" and pair in must):
                wrong.append(f"{source} → {targets(site)[pair.split(' ')[0]]} {pair}: {answer}")
        wrong += [f"{source} → {pair}: approved, but closed" for pair in sorted(must - set(found[source]))]
        for service in {(targets(site)[pair.split(" ")[0]], pair.split(" ")[1]) for pair in may}:
            both = [pair for pair in may if (targets(site)[pair.split(" ")[0]], pair.split(" ")[1]) == service]
            if "open" not in [found[source].get(pair) for pair in both]:
                wrong.append(f"{source}: none of {both} is open: {[found[source].get(pair) for pair in both]}")
    assert not wrong, "\n".join(wrong)
    assert opened >= 40


def test_what_one_user_may_open_nobody_else_may_and_only_from_its_own_address(lab: Lab, site: Site) -> None:
    """The filter's user reaches its devices from its second address, and from there nothing else; not from the host's own, where the router
    denies even what the host lets out; nor does anybody else from the filter's address."""
    conduit = next(c for c in site.conduits if c.uid is not None and c.source_address)
    (source,), (device,) = conduit.sources, conduit.targets
    filters = Origin(conduit.uid or 0, conduit.source_address)
    device_addresses = set(addresses(site, device))

    def plant(found: dict[str, str]) -> set[str]:
        return {pair for pair in found if pair.split(" ")[0] in device_addresses}

    found = tried(lab, site, source, filters)
    must, may = approved(site, source, filters)
    assert {pair for pair, answer in found.items() if answer == "open"} and set(found) <= must | may, found
    assert not plant(tried(lab, site, source, Origin(filters.uid))) - set().union(*approved(site, source, Origin(filters.uid)))
    with open_outwards(lab, source, NOBODY):
        # The router knows the filter by its address alone: whoever may send from it would pass. From the host's own nobody does.
        assert not plant(tried(lab, site, source, Origin(NOBODY))) - set().union(*approved(site, source))
    assert not plant(tried(lab, site, source, Origin(NOBODY, filters.second))), "the host lets others dial from the filter's address"


@contextmanager
def open_outwards(lab: Lab, host: str, uid: int) -> Iterator[None]:
    """A user whose packets leave the host whatever its own rules say: then the others' rules are all that is left."""
    comment = "hnai-test-open-outwards"
    rule = ["nft", "insert", "rule", "inet", "hnai", "output", "meta", "skuid", str(uid), "counter", "accept", "comment", f'"{comment}"']
    try:
        lab.run(host, *rule)
        yield
    finally:
        chain = lab.run(host, "nft", "-a", "list", "chain", "inet", "hnai", "output").stdout
        for line in chain.splitlines():
            if comment in line:
                lab.run(host, "nft", "delete", "rule", "inet", "hnai", "output", "handle", line.rsplit(" ", 1)[1])
        assert comment not in lab.run(host, "nft", "list", "chain", "inet", "hnai", "output").stdout


def test_router_and_hosts_deny_whatever_a_sender_does(lab: Lab, site: Site) -> None:
    """A host of each zone stops filtering itself: nothing more answers, from its own zone or from another."""
    sources = ["edge1", "kafka1", "stream1", "sec1", "jump1"]
    assert {site.nodes[name].zone for name in sources} == set(site.zones) - {"l2"}

    def rogue(source: str) -> dict[str, str]:
        with open_outwards(lab, source, NOBODY):
            return tried(lab, site, source, Origin(NOBODY))

    found = lab.each(sources, rogue)
    wrong = []
    for source in sources:
        must, may = approved(site, source)
        wrong += [f"{source} → {targets(site)[p.split(' ')[0]]} {p}: {a}" for p, a in sorted(found[source].items()) if p not in must | may]
        wrong += [f"{source} → {p}: approved, but closed" for p in sorted(must - set(found[source]))]
    assert not wrong, "\n".join(wrong)


def test_this_machine_reaches_the_jump_and_nothing_else(site: Site, lab: Lab) -> None:
    names = [address for address, name in targets(site).items() if name in lab.groups["managed"]]
    command = [sys.executable, str(Path(__file__).with_name("host_connect.py")), str(TIMEOUT_S), "-1", "-", *names, "--", *map(str, ports(site))]
    run = subprocess.run(command, check=True, capture_output=True, text=True, timeout=180)
    jump = site.nodes[lab.groups["jump"][0]]
    found = json.loads(run.stdout)
    assert set(found) - {f"{jump.v4} 22", f"{jump.v6} 22"} == set(), found
    assert found[f"{jump.v4} 22"] == "open"


#: (component, listener) → [(from, how it is asked, the file that says whom it believes)]; `self` is the host it stands on.
CA = "/etc/hnai/{}/tls/ca.pem"
ASKED = {
    ("kafka", "controller"): [("kafka1", "kafka", CA.format("kafka"))],
    ("kafka", "internal"): [("kafka1", "kafka", CA.format("kafka"))],
    ("kafka", "l3"): [("edge1", "kafka", CA.format("telegraf"))],
    ("kafka", "l4"): [("data1", "kafka", CA.format("telegraf")), ("stream1", "kafka", CA.format("flink"))],
    ("mosquitto", "mqtt"): [("plc1", "mqtt", "/etc/hnai/ot_simulator/broker-ca.pem")],
    ("openbao", "api"): [("self", f"http:/v1/{path}", CA.format("openbao")) for path in ("sys/auth", "hnai/data/telegraf/kafka_writer", "sys/policies/acl")],
    ("openbao", "cluster"): [("self", "noise", "")],
    ("questdb", "https"): [
        ("stream1", f"http:{path}", CA.format("canary"))
        for path in ("/", "/exec?query=SELECT%201", "/exp?query=SELECT%201", "/write", "/imp", "/settings", "/metrics", "/ping")
    ],
    ("victoriametrics", "https"): [
        ("stream1", f"http:{path}", CA.format("canary"))
        for path in ("/", "/api/v1/query?query=1", "/api/v1/export?match[]=heartbeat", "/write", "/metrics", "/flags", "/debug/pprof/", "/-/reload")
    ],
}


def test_no_listener_lets_anybody_in_without_an_identity(lab: Lab, site: Site) -> None:
    wrong, asked = [], 0
    for component, contract in contracts.all().items():
        for listener in contract["listens"]:
            carriers = site.placed(component, listener.get("group", ""))
            if not carriers or listener["bind"] == "loopback" or (component, listener["name"]) == ("host", "ssh"):
                continue
            if listener["authentication"] == "none":
                assert (component, listener["name"]) in (("host", "ntp"),), f"{component}.{listener['name']} asks nobody who he is"
                assert listener["reason"]
                continue
            assert (component, listener["name"]) in ASKED, f"nobody tries {component}.{listener['name']} without an identity"
            for origin, kind, ca_file in ASKED[component, listener["name"]]:
                for carrier in carriers:
                    source = carrier if origin == "self" else origin
                    if source == carrier and origin != "self" and len(carriers) > 1:
                        continue
                    name = site.nodes[carrier].v4 if source == "plc1" else carrier
                    answer = ask(lab, source, kind, name, listener["port"], ca_file)
                    asked += 1
                    if not answer["refused"]:
                        wrong.append(f"{source} → {component}.{listener['name']} of {carrier} ({kind}): {answer}")
                    if listener["tls"] and ca_file and not answer["tls"]:
                        wrong.append(f"{source} → {component}.{listener['name']} of {carrier}: TLS was not completed: {answer}")
    assert not wrong, "\n".join(wrong)
    assert asked >= 20


def ask(lab: Lab, source: str, kind: str, host: str, port: int, ca_file: str) -> dict[str, Any]:
    """How a listener answers somebody without an identity."""
    arguments = (kind, host, str(port), ca_file)
    if source in lab.groups["managed"]:
        return lab.python(source, program("host_anonymous"), *arguments, timeout=60)
    return json.loads(lab.plant("/usr/bin/python3", "-c", program("host_anonymous"), *arguments, host=source, timeout=60).stdout)


@pytest.mark.parametrize("user", ["ansible", "root"])
def test_ssh_refuses_a_key_that_it_does_not_know(lab: Lab, site: Site, tmp_path: Path, user: str) -> None:
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True, timeout=30)
    folder = lab.state / "ssh"
    jump = lab.groups["jump"][0]

    def attempt(host: str) -> str:
        command = [
            "ssh", "-F", "/dev/null", "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none", "-o", f"IdentityFile={key}",
            "-o", f"UserKnownHostsFile={folder}/known_hosts", "-o", "GlobalKnownHostsFile=/dev/null", "-o", "StrictHostKeyChecking=yes",
            "-o", "ConnectTimeout=15",
        ]  # fmt: skip
        if host != jump:
            command += ["-o", f"ProxyCommand=ssh -F {folder}/config -W %h:%p {jump}"]
        run = subprocess.run([*command, f"{user}@{site.nodes[host].v4}", "id"], capture_output=True, text=True, timeout=60, check=False)
        return f"rc {run.returncode}: {run.stderr.strip()}{run.stdout}"

    answers = lab.each(lab.groups["managed"], attempt)
    assert {host: text for host, text in answers.items() if not text.endswith("Permission denied (publickey).")} == {}
    assert all(text.startswith("rc 255") for text in answers.values()), answers


def test_the_jump_lets_through_to_the_words_that_runs_use(lab: Lab, site: Site) -> None:
    """sshd compares PermitOpen with what it is asked for, and resolves nothing: a name leads nowhere that the inventory does not call a host by."""
    jump = lab.groups["jump"][0]
    host = next(one for one in lab.groups["kafka"] if one != jump)

    def asked(word: str) -> tuple[str, str]:
        command = ["ssh", "-F", str(lab.state / "ssh/config"), "-o", "BatchMode=yes", "-o", "ControlPath=none", "-W", f"{word}:22", jump]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False)
        return done.stdout, done.stderr

    assert asked(str(site.nodes[host].v4))[0].startswith("SSH-2.0-")
    said, refused = asked(host)
    assert said == "" and "stdio forwarding failed" in refused, (said, refused)


def test_sshd_of_a_host_is_asked_whether_the_run_comes_in_again(lab: Lab) -> None:
    check = ("/bin/sh", "/usr/local/lib/hnai/host/check-sshd", "/etc/ssh/sshd_config.d/10-hnai.conf", "/")
    for host in {lab.var(one, "hnai_debian"): one for one in lab.groups["managed"]}.values():
        answers = {user: lab.run(host, *check, user, check=False) for user in (lab.var(host, "ansible_user"), "root", "nobody")}
        assert [(done.returncode, done.stderr.partition(" ")[0]) for done in answers.values()] == [(0, ""), (1, "this"), (1, "no")], answers
        broken = lab.run(host, "/bin/sh", check[1], "/etc/hostname", "/", "ansible", check=False)
        assert broken.returncode not in (0, 127), "sshd takes no file that is none of its own"
