# SPDX-License-Identifier: Apache-2.0
"""The firewall of a site that runs: what locks out or cuts comes back, what is removed ends and nothing else, observe lists what would be cut.

Scenario firewall-live, some 12 minutes. Every rule, file and unit that a test puts somewhere is taken away again, whatever happened.
"""
from __future__ import annotations

import datetime
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from conftest import Lab, Run
from plant_view import until
from test_20_zones import NOBODY, open_outwards
from test_20_zones import site as site
from test_79_opcua_trust import connected, plant

from ansible_collections.hnai.platform.plugins.module_utils.zones import nft
from ansible_collections.hnai.platform.plugins.module_utils.zones.model import Site

pytestmark = pytest.mark.scenario("firewall-live")
CONFIRMED = "/var/lib/hnai/firewall/confirmed.nft"
REVERT_S = 30.0
PORT = 8999
ZONES = ("--tags", "zones", "--skip-tags", "verify")
EVERYTHING = [
    {"source": net, "target": net, "proto": proto, "reason": "the lab's test is over"}
    for net in ("0.0.0.0/0", "::/0")
    for proto in ("tcp", "udp", "icmp", "ipv6-icmp", "igmp")
]


class Watch:
    """The rules of a host, looked at over podman twice a second: when a text was gone, and when it was back (seconds, monotonic)."""

    def __init__(self, lab: Lab, host: str, text: str, loaded: bool) -> None:
        self.lab, self.host, self.text, self.loaded = lab, host, text, loaded
        self.changed: list[float] = []
        self.done = threading.Event()
        self.thread = threading.Thread(target=self._look, daemon=True)

    def _look(self) -> None:
        state = self.loaded
        while not self.done.wait(0.5):
            seen = self.lab.podman("exec", self.lab.container(self.host), "nft", "list", "table", "inet", "hnai", check=False, timeout=20)
            if seen.returncode == 0 and (self.text in seen.stdout) != state:
                state = not state
                self.changed.append(time.monotonic())

    def lasted(self) -> float:
        """How long the rules were other than before."""
        until(f"the rules of {self.host} did not change and change back: {self.changed}", lambda: len(self.changed) >= 2, REVERT_S + 20)
        assert len(self.changed) == 2, self.changed
        return self.changed[1] - self.changed[0]


@contextmanager
def watched(lab: Lab, host: str, text: str, loaded: bool) -> Iterator[Watch]:
    watch = Watch(lab, host, text, loaded)
    watch.thread.start()
    try:
        yield watch
    finally:
        watch.done.set()
        watch.thread.join(30)


def confirmed(lab: Lab, host: str) -> str:
    return lab.run(host, "cat", CONFIRMED).stdout


def load(lab: Lab, site: Site, host: str, ruleset: str) -> dict[str, Any]:
    """A ruleset that no model would give, brought to a host in the way of the site's own."""
    return lab.adhoc(host, "hnai.platform.firewall", {"ruleset": ruleset, "approved": nft.approved(site, host)}, timeout=240)


def as_confirmed(lab: Lab, host: str) -> None:
    """Nothing is left to do on a host, and nothing of a change stands around."""
    found = lab.adhoc(host, "hnai.platform.firewall", {"ruleset": confirmed(lab, host)}, timeout=120)
    assert not found.get("failed") and not found["changed"], found
    assert "hnai_proof" not in lab.run(host, "nft", "list", "tables").stdout


def test_a_ruleset_that_locks_the_controller_out_is_taken_back(lab: Lab, site: Site) -> None:
    """No host of the site needs sec1 to run."""
    host = lab.groups["openbao"][0]
    before = confirmed(lab, host)
    ways = [line for line in before.splitlines() if "tcp dport 22 " in line and "accept" in line]
    assert ways
    locked = "\n".join(line for line in before.splitlines() if line not in ways) + "\n"
    with watched(lab, host, "tcp dport 22 ", True) as watch:
        found = load(lab, site, host, locked)
        assert found["failed"] and not found["changed"], found
        assert f"no new connection to {host} under the new ruleset" in found["msg"] and "taken back within 30 s" in found["msg"], found["msg"]
        lasted = watch.lasted()
    print(f"{host} was locked out for {lasted:.1f} s")
    assert lasted <= REVERT_S + 1.5
    assert confirmed(lab, host) == before
    as_confirmed(lab, host)


def test_a_ruleset_that_cuts_an_approved_conduit_that_carries_is_taken_back_and_the_conduit_named(lab: Lab, site: Site) -> None:
    host = lab.groups["telegraf_shipper"][0]
    before = confirmed(lab, host)
    (port,) = {c.service.port for c in site.conduits if (c.service.component, c.service.listener) == ("kafka", "l3") and host in c.sources}
    idents = {c.id for c in site.conduits if c.service.port == port and host in c.sources}
    head = re.search(r"  chain output \{\n[^\n]*policy drop;\n", before)
    assert head is not None
    cutting = before[: head.end()] + f"    tcp dport {port} counter drop\n" + before[head.end() :]
    with watched(lab, host, f"tcp dport {port} counter", False) as watch:
        found = load(lab, site, host, cutting)
        assert found["failed"] and not found["changed"], found
        assert found["cut"] and {text.split(" ")[0] for text in found["cut"]} <= idents, found
        assert f"tcp/{port}" in found["msg"] and host in found["msg"] and "in force again" in found["msg"], found["msg"]
        lasted = watch.lasted()
    print(f"{found['cut']}: cut for {lasted:.1f} s")
    assert lasted <= REVERT_S + 1.5
    assert confirmed(lab, host) == before
    as_confirmed(lab, host)
    connected(lab)


ECHO = f"""
import socket
listener = socket.create_server(("::", {PORT}), family=socket.AF_INET6, dualstack_ipv6=True)
while True:
    session = listener.accept()[0]
    while True:
        try:
            data = session.recv(1)
            session.sendall(data)
        except OSError:
            break
        if not data:
            break
"""
TALK = f"""
import socket, sys, time
session = socket.create_connection((sys.argv[1], {PORT}), timeout=20)
session.settimeout(None)
heard = 0
while True:
    session.sendall(b"x")
    heard += len(session.recv(1))
    with open("/run/hnai-test-talk", "w") as file:
        file.write(str(heard))
    time.sleep(0.1)
"""


@contextmanager
def talking(lab: Lab, site: Site, source: str, target: str) -> Iterator[Any]:
    """A session through the router, as a conduit of the test's own allows; yields what it has heard so far."""
    units = ((target, "hnai-test-echo", ECHO, ()), (source, "hnai-test-talk", TALK, (site.nodes[target].v4,)))
    try:
        for host, unit, code, arguments in units:
            lab.run(host, "systemd-run", "--quiet", "--collect", f"--unit={unit}", "/usr/bin/python3", "-c", code, *arguments)
            time.sleep(1.0)

        def heard() -> int:
            text = lab.run(source, "cat", "/run/hnai-test-talk", check=False).stdout.strip()
            return int(text) if text.isdigit() else 0

        until("the session never spoke", lambda: heard() > 5, 30)
        yield heard
    finally:
        for host, unit, _code, _arguments in reversed(units):
            lab.run(host, "systemctl", "stop", unit, check=False)
        lab.run(source, "rm", "-f", "/run/hnai-test-talk")


def conduits(lab: Lab, source: str, target: str, expires: datetime.date) -> dict[str, Any]:
    """The site's conduits and one more."""
    more = {
        "id": "T-900", "from": {"host": source}, "to": {"host": target}, "service": {"proto": "tcp", "port": PORT}, "kind": "direct",
        "data_direction": "both", "owner": "the lab's tests", "reason": "a session that ends with its conduit", "expires": expires.isoformat(),
        "needed_by": "test_22_firewall_live", "sr": ["SR 5.2"],
    }  # fmt: skip
    return {"hnai_conduits": [*lab.var(source, "hnai_conduits"), more]}


def goes_on(heard: Any) -> bool:
    """Whether a session says something more within five seconds."""
    begin, end = heard(), time.monotonic() + 5
    while time.monotonic() < end:
        if heard() > begin:
            return True
        time.sleep(0.3)
    return False


def deleted(run: Run) -> list[dict[str, Any]]:
    """What the tasks of a run say that they deleted of the connection tracking, with the host."""
    found = []
    for event in run.events:
        result = event["event_data"].get("res") or {}
        found += [{**entry, "on": event["event_data"]["host"]} for entry in result.get("deleted_connections") or []]
    return found


def test_a_removed_conduit_ends_its_session_and_no_other_and_an_expired_one_none(lab: Lab, site: Site) -> None:
    source, target = lab.groups["flink"][0], lab.groups["kafka"][0]
    today = datetime.date.today()
    connected(lab)
    before = [one["name"] for one in plant(lab)["sessions"]]
    try:
        run = lab.play("site.yml", *ZONES, extra=conduits(lab, source, target, today + datetime.timedelta(days=90)))
        assert run.rc == 0, run.stdout[-3000:]
        with talking(lab, site, source, target) as heard:
            # It ends on its day: whatever the run says of that, the firewall does not know days.
            lab.play("site.yml", *ZONES, extra=conduits(lab, source, target, today - datetime.timedelta(days=1)))
            assert goes_on(heard)
            for host in (source, target, lab.groups["routers"][0]):
                assert '"T-900"' in lab.run(host, "nft", "list", "table", "inet", "hnai").stdout
            run = lab.play("site.yml", *ZONES)
            assert run.rc == 0, run.stdout[-3000:]
            gone = deleted(run)
            assert {entry["on"] for entry in gone if entry.get("dport") == str(PORT)} >= {lab.groups["routers"][0]}, gone
            assert [entry for entry in gone if entry["proto"] == "tcp" and entry.get("dport") != str(PORT)] == []
            assert not goes_on(heard), "the session outlived its conduit"
    finally:
        run = lab.play("site.yml", *ZONES)
    assert run.rc == 0, run.stdout[-3000:]
    # The collector's session is the one that it was, and so are all others at the server.
    assert [one["name"] for one in plant(lab)["sessions"]] == before
    connected(lab)


def shown(run: Run) -> str:
    """Everything that a run printed or returned as a difference."""
    return run.stdout + json.dumps([(event["event_data"].get("res") or {}).get("diff") for event in run.events])


def test_a_rule_added_by_hand_is_shown_and_removed_and_a_foreign_table_is_left(lab: Lab) -> None:
    host = lab.groups["victoriametrics"][0]
    theirs = "table inet lab_theirs { chain pre { type filter hook input priority 50; policy accept; tcp dport 4445 counter; }; }"
    try:
        lab.run(host, "nft", "-f", "-", stdin=theirs)
        lab.run(host, "nft", "add", "rule", "inet", "hnai", "input", "tcp", "dport", "4444", "accept")
        looked = lab.play("site.yml", *ZONES, "--limit", host, "--check", "--diff")
        assert looked.rc == 0, looked.stdout[-3000:]
        assert "tcp dport 4444 accept" in shown(looked) and any(text.startswith(f"{host}: ") for text in looked.changed()), looked.changed()
        assert "tcp dport 4444 accept" in lab.run(host, "nft", "list", "table", "inet", "hnai").stdout, "check mode changed something"
        run = lab.play("site.yml", *ZONES, "--limit", host)
        assert run.rc == 0, run.stdout[-3000:]
        assert "4444" not in lab.run(host, "nft", "list", "table", "inet", "hnai").stdout
        assert "tcp dport 4445" in lab.run(host, "nft", "list", "table", "inet", "lab_theirs").stdout
    finally:
        lab.run(host, "nft", "delete", "table", "inet", "lab_theirs", check=False)
    as_confirmed(lab, host)


DIAL = """
import json, os, socket, sys
os.setuid(int(sys.argv[1]))
for kind, target, port in json.loads(sys.argv[2]):
    dialled = socket.socket(socket.AF_INET6 if ":" in target else socket.AF_INET, getattr(socket, kind))
    dialled.settimeout(1.0)
    try:
        dialled.connect((target, port))
        dialled.send(b"x")
    except OSError:
        pass
print("{}")
"""


KINDS = {"tcp": "SOCK_STREAM", "udp": "SOCK_DGRAM"}


def observing(lab: Lab, host: str, **extra: Any) -> Run:
    return lab.play("site.yml", *ZONES, "--limit", host, extra=extra)


def test_observe_lists_exactly_what_enforce_would_cut_and_enforce_needs_a_name(lab: Lab, site: Site) -> None:
    host, other = lab.groups["flink"][0], lab.groups["victoriametrics"][0]
    record = lab.state / "firewall/observed.json"
    here, there = site.nodes[host], site.nodes[other]
    outwards = [("SOCK_STREAM", there.v4, 4455), ("SOCK_STREAM", there.v6, 4455), ("SOCK_DGRAM", there.v4, 514)]
    inwards = [("SOCK_STREAM", here.v4, 4456), ("SOCK_DGRAM", here.v6, 4457)]
    expected = {(here.v6 if ":" in target else here.v4, target, kind, port, "out") for kind, target, port in outwards}
    expected |= {(there.v6 if ":" in target else there.v4, target, kind, port, "in") for kind, target, port in inwards}
    try:
        run = observing(lab, host, firewall_mode="observe")
        assert run.rc == 0, run.stdout[-3000:]
        lab.python(host, DIAL, str(NOBODY), json.dumps(outwards))
        with open_outwards(lab, other, NOBODY):
            lab.python(other, DIAL, str(NOBODY), json.dumps(inwards))
        listed = lab.play("playbooks/firewall_observed.yml", "--limit", host)
        assert listed.rc == 0, listed.stdout[-3000:]
        found = json.loads(record.read_text(encoding="utf-8"))["hosts"][host]
        assert found["observing"] and found["full"] == [] and found["note"] == "", found
        flows = {(f["source"], f["target"], KINDS[f["proto"]], f["port"], *f["where"]) for f in found["flows"] if f["proto"] in KINDS and not f["conduit"]}
        assert flows == expected, found["flows"]
        assert {tuple(f["users"]) for f in found["flows"] if f["port"] == 4455} == {("nobody",)}
        proposed = (lab.state / "firewall/observed.yml").read_text(encoding="utf-8")
        # One for both families; syslog is the management plane's and becomes no conduit of a component, which the file says.
        assert proposed.count("OBSERVED-") == 3
        assert "hnai_management" in next(line for line in proposed.splitlines() if line.startswith("#") and "udp/514" in line)
        # A second ruleset, and an orderly stop of the unit, take nothing from the list.
        assert lab.run(host, "/usr/local/sbin/hnai-firewall", "load").returncode == 0
        assert lab.play("playbooks/firewall_observed.yml", "--limit", host).rc == 0
        kept = json.loads(record.read_text(encoding="utf-8"))["hosts"][host]["flows"]
        assert {(f["source"], f["target"], KINDS[f["proto"]], f["port"], *f["where"]) for f in kept if f["proto"] in KINDS and not f["conduit"]} >= expected

        for extra, said in (({}, "nobody explained"), ({"firewall_cut_flows": EVERYTHING}, "firewall_approved_by")):
            refused = observing(lab, host, firewall_mode="enforce", **extra)
            assert refused.rc != 0 and said in refused.stdout, refused.stdout[-3000:]
        # Without the controller's record the host itself refuses.
        record.rename(record.with_suffix(".away"))
        refused = observing(lab, host, firewall_mode="enforce")
        assert refused.rc != 0 and "that nobody explained" in refused.stdout, refused.stdout[-3000:]
    finally:
        for path in (record, record.with_suffix(".away"), record.with_suffix(".yml")):
            path.unlink(missing_ok=True)
        run = observing(lab, host, firewall_mode="enforce", firewall_cut_flows=EVERYTHING, firewall_approved_by="the lab's tests")
    assert run.rc == 0, run.stdout[-3000:]
    assert json.loads(lab.run(host, "cat", "/var/lib/hnai/firewall/confirmed.json").stdout)["approved_by"] == "the lab's tests"
    assert "policy drop" in lab.run(host, "nft", "list", "table", "inet", "hnai").stdout
    as_confirmed(lab, host)


def test_one_boundary_observes_while_the_rest_of_its_router_enforces(lab: Lab, site: Site) -> None:
    (router,), source = lab.groups["routers"], lab.groups["victoriametrics"][0]
    record, here, broker, vault = lab.state / "firewall/observed.json", *(site.nodes[name] for name in (source, "kafka1", "sec1"))
    assert (here.zone, broker.zone) == ("l4", "l35") and vault.zone not in ("l4", "l35")
    across = [("SOCK_STREAM", broker.v4, 4455), ("SOCK_DGRAM", broker.v6, 4456)]
    elsewhere = [("SOCK_STREAM", vault.v4, 4457)]
    expected = {(here.v6 if ":" in target else here.v4, target, kind, port) for kind, target, port in across}

    def boundary(mode: str, **more: Any) -> dict[str, Any]:
        return {"hnai_boundaries": {"it": {"between": ["l35", "l4"], "enforced_by": "hnai", "firewall_mode": mode, **more}}}

    try:
        run = observing(lab, router, **boundary("observe"))
        assert run.rc == 0, run.stdout[-3000:]
        with open_outwards(lab, source, NOBODY):
            lab.python(source, DIAL, str(NOBODY), json.dumps(across + elsewhere))
        listed = lab.play("playbooks/firewall_observed.yml", "--limit", router, extra=boundary("observe"))
        assert listed.rc == 0, listed.stdout[-3000:]
        found = json.loads(record.read_text(encoding="utf-8"))["hosts"][router]
        flows = {(f["source"], f["target"], KINDS[f["proto"]], f["port"]) for f in found["flows"] if f["proto"] in KINDS and not f["conduit"]}
        assert flows == expected, found["flows"]
        assert {where for f in found["flows"] if not f["conduit"] for where in f["where"]} == {"forward_it"}, found["flows"]
        refused = observing(lab, router, **boundary("enforce"))
        assert refused.rc != 0 and "nobody explained" in refused.stdout, refused.stdout[-3000:]
        refused = observing(lab, router, firewall_cut_flows=EVERYTHING, **boundary("enforce"))
        assert refused.rc != 0 and "hnai_boundaries.it" in refused.stdout, refused.stdout[-3000:]
        run = observing(lab, router, firewall_cut_flows=EVERYTHING, **boundary("enforce", firewall_approved_by="the lab's tests"))
        assert run.rc == 0, run.stdout[-3000:]
        assert json.loads(lab.run(router, "cat", "/var/lib/hnai/firewall/confirmed.json").stdout)["boundaries_approved_by"] == {"it": "the lab's tests"}
    finally:
        for path in (record, record.with_suffix(".yml")):
            path.unlink(missing_ok=True)
        run = observing(lab, router, firewall_cut_flows=EVERYTHING, firewall_approved_by="the lab's tests")
    assert run.rc == 0, run.stdout[-3000:]
    assert "boundary_it" not in lab.run(router, "nft", "list", "table", "inet", "hnai").stdout
    as_confirmed(lab, router)
