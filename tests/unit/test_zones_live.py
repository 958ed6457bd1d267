# SPDX-License-Identifier: Apache-2.0
"""The probe matrix, what travels to the hosts, and the judgement; then all of it on a site in network namespaces with the project's own rules."""
from __future__ import annotations

import copy
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from zones_stand import Stand

from ansible_collections.hnai.platform.plugins.module_utils.verdict import FAIL, INCONCLUSIVE, PASS, Check, Report
from ansible_collections.hnai.platform.plugins.module_utils.zones import judge, live, matrix, packets, sessions
from ansible_collections.hnai.platform.plugins.module_utils.zones.flows import approvals
from ansible_collections.hnai.platform.plugins.module_utils.zones.model import Site

FIXTURE = yaml.safe_load((Path(__file__).parent / "fixtures/site/site.yml").read_text(encoding="utf-8"))


@pytest.fixture
def data() -> dict[str, Any]:
    return copy.deepcopy(FIXTURE)


def with_filter(data: dict[str, Any]) -> Site:
    """The site with a conduit into the plant that is one user's, from an address of its own, and a device that may be tried."""
    data["hosts"]["edge1"]["second_addresses"] = {"filter": {"v4": "10.0.3.12", "v6": "fd00:3::12"}}
    conduit = next(one for one in data["conduits"] if one["id"] == "C-101")
    conduit.update(uid=902, source_address="filter")
    site = Site.from_dict(data)
    assert not site.problems
    return site


# -- the matrix


def test_every_ordered_pair_every_port_both_families(data: dict[str, Any]) -> None:
    data["assets"]["plc1"]["canary"] = True
    site = Site.from_dict(data)
    ports = matrix.registry(site)
    assert {("tcp", 22), ("udp", 123), ("tcp", 8429), ("tcp", 4840)} <= set(ports)
    for source in matrix.sources(site):
        tried = {(one.address, one.proto, one.port) for one in matrix.plan(site, source).probes if one.layer == matrix.OWN}
        targets = [node for name, node in site.nodes.items() if name != source and node.role != matrix.CONTROLLER]
        every = {(address, *port) for node in targets for address in matrix.addresses(node) for port in ports}
        assert tried == every
        past = {one.target for one in matrix.plan(site, source).probes if one.layer == matrix.PAST}
        assert past == ({node.name for node in targets} - ({"plc1"} if source == "router" else set()) if source != "plc1" else set()), (
            "between the router and a device of its own network there is nobody else who could refuse")


def test_what_is_expected_is_what_is_approved(data: dict[str, Any]) -> None:
    site = Site.from_dict(data)
    approved = {key for key in approvals(site.conduits) if key[0] != "controller"}
    found = set()
    for source in matrix.sources(site):
        for one in matrix.plan(site, source).probes:
            assert not one.conduits or one.layer == matrix.OWN
            if one.conduits:
                found.add((source, one.target, one.proto, one.port))
                assert one.address == site.nodes[one.target].address(one.version, site.nodes[source].zone)
    assert found == approved


def test_a_device_is_tried_where_the_model_allows_it_and_nowhere_else(data: dict[str, Any]) -> None:
    site = Site.from_dict(data)
    tried = {(source, one.proto, one.port, bool(one.conduits), one.limited, one.layer)
             for source in matrix.sources(site) for one in matrix.plan(site, source).probes if one.target == "plc1"}
    assert tried == {("edge1", "tcp", 4840, True, True, matrix.OWN)}
    assert [one.sent()[7] for one in matrix.plan(site, "edge1").probes if one.target == "plc1"] == [False, False], "once"
    assert any("plc1: as source" in text for text in matrix.untested(site, lab=False))
    assert any("plc1: denied ports" in text for text in matrix.untested(site, lab=True))


def test_a_conduit_of_one_user_is_tried_as_another_and_from_the_other_address(data: dict[str, Any]) -> None:
    plan = matrix.plan(with_filter(data), "edge1")
    tried = {(plan.origins[one.origin], one.source, bool(one.conduits)) for one in plan.probes if one.target == "plc1" and one.version == 4}
    own, filters, other, wrong = (-1, ""), (902, "filter"), (matrix.NOBODY, "filter"), (902, "")
    assert tried == {(filters, "10.0.3.12", True), (own, "10.0.3.11", False), (other, "10.0.3.12", False), (wrong, "10.0.3.11", False)}
    elsewhere = [one for one in plan.probes if plan.origins[one.origin] == filters and one.target == "kafka1"]
    assert elsewhere and not any(one.conduits for one in elsewhere), "from the filter's address nothing else is open"


def test_each_denial_has_its_point(data: dict[str, Any]) -> None:
    data["assets"]["plc1"]["canary"] = True
    site = Site.from_dict(data)

    def points(source: str, target: str, layer: str) -> set[str]:
        probes = [one for one in matrix.plan(site, source).probes if one.target == target and one.layer == layer and not one.conduits]
        return {matrix.enforcer(site, source, one) for one in probes}

    assert points("edge1", "kafka1", matrix.OWN) == {"edge1"}
    assert points("edge1", "kafka1", matrix.PAST) == {matrix.ROUTERS}
    assert points("kafka2", "kafka1", matrix.PAST) == {"kafka1"}
    assert points("router", "kafka1", matrix.PAST) == {"kafka1"}
    assert points("kafka1", "router", matrix.PAST) == {"router"}
    assert points("plc1", "kafka1", matrix.OWN) == {matrix.ROUTERS}
    assert points("kafka1", "plc1", matrix.PAST) == {matrix.ROUTERS}


# -- what travels


def test_source_ports_tell_who_tried() -> None:
    ports = [live.port_of(slot, "own", origin, attempt) for slot in (0, 1, 99) for origin in range(8) for attempt in range(4)]
    ports += [live.port_of(slot, "past", 0, 0) for slot in (0, 1, 99)]
    assert len(set(ports)) == len(ports) and min(ports) >= live.LOW and max(ports) <= live.HIGH


def test_rates_hold_and_the_order_changes() -> None:
    probes = [[number, "own", 0, "tcp", "127.0.0.1", f"127.0.0.{number % 4}", 1, False] for number in range(200)]
    planned = live.schedule(probes, per_source=100.0, per_target=10.0, seed=1)
    for address in {one[5] for one in probes}:
        times = [at for at, one in planned if one[5] == address]
        assert all(second - first >= 0.1 - 1e-9 for first, second in zip(times, times[1:], strict=False))
    assert all(sum(start <= at < start + 1.0 for at, _one in planned) <= 101 for start in (0.0, 0.5, 1.0, 3.0))
    assert [one[0] for _at, one in planned] != [one[0] for _at, one in live.schedule(probes, 100.0, 10.0, seed=2)]


def test_packets_are_what_the_kernel_takes() -> None:
    for source, target in (("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")):
        made = packets.segment(source, 61001, target, 22, packets.SYN, 7)
        assert packets.read(made, packets.ethertype(target)) == packets.Packet("tcp", source, 61001, target, 22, packets.SYN, 7)
        told = packets.read(packets.datagram(source, 61002, target, 123, live.payload(123, 99)), packets.ethertype(target))
        assert told is not None and told.kind == "udp" and live.nonce_of(told.payload) == 99
    head = packets.segment("10.0.0.1", 1, "10.0.0.2", 2, packets.SYN, 0)[:20]
    assert packets.checksum(head) == 0
    answer = bytes([0x24]) + bytes(23) + (99).to_bytes(8, "big") + bytes(16)
    assert live.nonce_of(answer) == 99 and live.nonce_of(live.payload(5000, 98)) == 98 and live.nonce_of(b"other") is None


def test_routes_of_both_families() -> None:
    said = {
        "10": "10.0.2.11 via 10.0.3.254 dev eth0 src 10.0.3.11 uid 0 \\    cache \n10.0.3.9 dev eth0 src 10.0.3.11 uid 0 \\    cache \n"
        "local 10.0.3.11 dev lo \n",
        "fd": "fd00:2::11 from :: via fd00:3::fe dev eth0 src fd00:3::11 metric 1024 pref medium\n",
    }
    found = packets.routes(["10.0.2.11", "10.0.3.9", "10.0.3.11", "fd00:2::11"], lambda text: said[text.split(" ")[2][:2]])
    assert found == {"10.0.2.11": ("eth0", "10.0.3.254"), "10.0.3.9": ("eth0", "10.0.3.9"), "fd00:2::11": ("eth0", "fd00:3::fe")}


@pytest.fixture
def addresses() -> Iterator[dict[str, int]]:
    """A listener, and a port where nothing is."""
    with socket.socket() as there, socket.socket() as nothing:
        there.bind(("127.0.7.1", 0))
        there.listen(64)
        nothing.bind(("127.0.7.1", 0))
        yield {"open": there.getsockname()[1], "closed": nothing.getsockname()[1]}


def test_outcomes_of_real_connections(addresses: dict[str, int]) -> None:
    found = live.Attempts(5, 0.3, time.monotonic() + 5).run([
        (0.0, [0, "own", 0, "tcp", "127.0.7.2", "127.0.7.1", addresses["open"], True]),
        (0.0, [1, "own", 0, "tcp", "127.0.7.2", "127.0.7.1", addresses["closed"], True]),
        (0.0, [2, "own", 0, "tcp", "192.0.2.1", "127.0.7.1", addresses["open"], True]),
        (9.0, [3, "own", 0, "tcp", "127.0.7.2", "127.0.7.1", addresses["open"], True]),
    ])
    assert [found[number][0] for number in range(4)] == [live.CONNECTED, live.RESET, live.ERROR, live.UNTRIED]
    assert "EADDRNOTAVAIL" in found[2][1]


def test_a_late_prober_takes_what_has_come(addresses: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """The process stood still for longer than its timeout: an answer that is there is an answer."""
    attempts = live.Attempts(6, 0.2, time.monotonic() + 20)
    start = attempts._start

    def slow(probe: Any, attempt: int) -> None:
        start(probe, attempt)
        time.sleep(0.5)

    monkeypatch.setattr(attempts, "_start", slow)
    found = attempts.run([(0.0, [number, "own", number, "tcp", "127.0.7.2", "127.0.7.1", addresses["closed"], False]) for number in range(4)])
    assert {outcome for outcome, _detail in found.values()} == {live.RESET}


def test_a_receiver_ends_when_it_was_asked(addresses: dict[str, int]) -> None:
    name = f"hnai-zones-unit-{os.getpid()}"
    with socket.socket() as taken, socket.socket() as free:
        taken.bind(("127.0.7.3", 0))
        free.bind(("127.0.7.3", 0))
        port = free.getsockname()[1]
        free.close()
        said = live.listen(["127.0.7.3"], [port, taken.getsockname()[1]], [port], name, 20)
    assert said["bound"] == [f"tcp 127.0.7.3 {port}", f"udp 127.0.7.3 {port}"], "what somebody has is left alone"
    found = live.Attempts(7, 1.0, time.monotonic() + 5).run([
        (0.0, [0, "own", 0, "tcp", "127.0.7.2", "127.0.7.3", port, True]), (0.0, [1, "own", 0, "udp", "127.0.7.2", "127.0.7.3", port, True]),
    ])
    assert [found[number][0] for number in range(2)] == [live.CONNECTED, live.ANSWERED]
    told = live.collect(name)
    assert told["received"] == [live.udp_nonce("127.0.7.2", 7, 1)]
    with pytest.raises(OSError):
        live.collect(name)


def test_a_receiver_that_nobody_asks_is_gone_at_its_time() -> None:
    name = f"hnai-zones-late-{os.getpid()}"
    live.listen(["127.0.7.4"], [], [], name, 1)
    end = time.monotonic() + 10
    while name in Path("/proc/net/unix").read_text(encoding="ascii", errors="replace") and time.monotonic() < end:
        time.sleep(0.1)
    assert name not in Path("/proc/net/unix").read_text(encoding="ascii", errors="replace")


def test_who_opened_a_session() -> None:
    tracked = sessions.tracked(
        "tcp      6 431999 ESTABLISHED src=10.0.3.11 dst=10.0.35.11 sport=40000 dport=9094 "
        "src=10.0.35.11 dst=10.0.3.11 sport=9094 dport=40000 [ASSURED] mark=0 use=1\n"
        "ipv6     10 tcp      6 100 ESTABLISHED src=fd00:3::11 dst=fd00:35::11 sport=40001 dport=9094 "
        "src=fd00:35::11 dst=fd00:3::11 sport=9094 dport=40001 [ASSURED]\n"
        "tcp      6 10 TIME_WAIT src=10.0.3.11 dst=10.0.35.11 sport=40002 dport=9094 src=10.0.35.11 dst=10.0.3.11 sport=9094 dport=40002\n"
    )
    assert [one.text for one in tracked] == ["10.0.3.11:40000 → 10.0.35.11:9094", "fd00:3::11:40001 → fd00:35::11:9094"]
    opened = sessions.sockets(
        "0 0 10.0.35.11:9094 10.0.3.11:40000 uid:990 ino:1 sk:1\n0 0 [fd00:35::11]:50000 [fd00:36::11]:8200 uid:991 ino:2\n"
        "0 0 [::ffff:10.0.35.11]:9094 [::ffff:10.0.3.11]:40009 ino:3\n",
        "LISTEN 0 128 *:9094 *:*\nLISTEN 0 128 [::]:22 [::]:*\n",
    )
    assert [(one.text, one.uid) for one in opened] == [
        ("10.0.3.11:40000 → 10.0.35.11:9094", -1), ("fd00:35::11:50000 → fd00:36::11:8200", 991), ("10.0.3.11:40009 → 10.0.35.11:9094", -1)]


def test_counters_by_chain_and_comment() -> None:
    counted = '{"nftables": [{"rule": {"chain": "output", "comment": "drop-out", "expr": [{"counter": {"packets": 3, "bytes": 1}}, {"drop": null}]}}, '
    counted += '{"rule": {"chain": "input", "comment": "C-1", "expr": [{"counter": {"packets": 1, "bytes": 1}}]}}, '
    counted += '{"rule": {"chain": "input", "comment": "C-1", "expr": [{"counter": {"packets": 2, "bytes": 1}}]}}, {"rule": {"chain": "input", "expr": []}}]}'
    assert sessions.counters(counted) == {"output drop-out": 3, "input C-1": 3}


# -- the judgement, on answers that are made up


def answers(site: Site, outcome: dict[tuple[str, str, str, int], str] | None = None, **parts: Any) -> dict[str, Any]:
    """What a perfect network says; `outcome`: (source, address, layer, port) → another one."""
    found: dict[str, Any] = {}
    seen: dict[str, dict[str, int]] = {node.name: {} for node in site.managed()}
    rise: dict[str, dict[str, int]] = {node.name: {} for node in site.managed()}
    for slot, source in enumerate(matrix.sources(site)):
        results = {}
        for one in matrix.plan(site, source).probes:
            given = (outcome or {}).get((source, one.address, one.layer, one.port))
            results[str(one.index)] = [given or ((live.CONNECTED if one.proto == "tcp" else live.ANSWERED) if one.conduits else live.SILENT), ""]
            key = f"{one.proto} {one.source} {live.port_of(slot, one.layer, one.origin, 0)} {one.address} {one.port}"
            point = "" if one.conduits or given in live.REACHED else matrix.enforcer(site, source, one)
            way = [(source, "out")] if point != source or one.layer == matrix.PAST else []
            crosses = source != "router" and one.target != "router" and matrix.zone_of(site, one.source) != matrix.zone_of(site, one.address)
            if crosses and way:
                way += [("router", "in")] + ([("router", "out")] if point != matrix.ROUTERS else [])
            if way and point != matrix.ROUTERS:
                way.append((one.target, "in"))
            for host, direction in way:
                seen.get(host, {})[f"{direction} {key}"] = 1
            if point:
                chain = "output drop-out" if point == source else "forward drop-forward" if point == matrix.ROUTERS else "input drop-in"
                host = "router" if point == matrix.ROUTERS else point
                rise[host][chain] = rise[host].get(chain, 0) + 1
        found[source] = {"probe": {"results": live.packed(results), "seconds": 1.0, "slot": slot, "tried": len(results)}}
    for host in rise:
        found[host]["listen"] = {"bound": [], "before": {"counters": {}}, "sessions": {"sessions": parts.get("sessions", []), "from": ["ss"], "notes": []}}
        bound = [f"udp {address} 123" for address in matrix.addresses(site.nodes[host])]
        found[host]["collect"] = {"bound": bound, "received": [], "seen": live.packed(seen[host]), "sight": "", "lost": 0, "after": {"counters": rise[host]}}
    return found


SESSION = ["10.0.3.11", 40000, "10.0.35.11", 9094, True, -1]


def judged(site: Site, told: dict[str, Any]) -> dict[tuple[str, str], Check]:
    report = Report("firewall", deadline_s=None)
    judge.run(report, site, told, lab=True)
    return {(check.id, check.subject): check for check in report.checks}


def bad(checks: dict[tuple[str, str], Check]) -> dict[tuple[str, str], str]:
    return {key: check.status for key, check in checks.items() if check.status != PASS}


@pytest.fixture
def site(data: dict[str, Any]) -> Site:
    data["assets"]["plc1"]["canary"] = True
    return Site.from_dict(data)


def test_a_network_that_is_the_model_passes(site: Site) -> None:
    assert bad(judged(site, answers(site, sessions=[SESSION]))) == {}


@pytest.mark.parametrize("outcome", [live.CONNECTED, live.RESET])
def test_a_denied_pair_that_is_reached_names_who_let_it_through(site: Site, outcome: str) -> None:
    checks = judged(site, answers(site, {("data1", "10.0.3.11", matrix.PAST, 22): outcome}, sessions=[SESSION]))
    assert bad(checks) == {("ZC2", "l4 → l3"): FAIL, ("ZC5", "router"): FAIL, ("ZC5", "edge1"): FAIL}
    for words in ("data1 10.0.4.12, past its own rules → edge1 10.0.3.11 tcp/22", "no conduit", outcome):
        assert words in checks["ZC2", "l4 → l3"].reason
    checks = judged(site, answers(site, {("data1", "10.0.3.11", matrix.OWN, 22): outcome}, sessions=[SESSION]))
    assert bad(checks) == {("ZC2", "l4 → l3"): FAIL, ("ZC5", "router"): FAIL, ("ZC5", "edge1"): FAIL, ("ZC5", "data1"): FAIL}


def test_an_approved_pair_that_is_cut_fails_its_conduit_alone(site: Site) -> None:
    checks = judged(site, answers(site, {("data1", "10.0.35.12", matrix.OWN, 9095): live.SILENT}, sessions=[SESSION]))
    assert bad(checks) == {("ZC1", "C-401"): FAIL} and "approved, but cut" in checks["ZC1", "C-401"].reason


def test_a_dead_host_is_no_proof(site: Site) -> None:
    """Nobody reached kafka2, and nothing arrived there: its silence is no denial, and no cut either."""
    told = answers(site, sessions=[SESSION])
    for source, said in told.items():
        results = live.unpacked(said["probe"]["results"])
        for one in matrix.plan(site, source).probes:
            if one.target == "kafka2":
                results[str(one.index)] = [live.SILENT, ""]
        said["probe"]["results"] = live.packed(results)
    told["kafka2"] = {}
    checks = judged(site, told)
    assert set(bad(checks).values()) == {INCONCLUSIVE}
    assert {("ZC1", "C-401"), ("ZC2", "l4 → l35"), ("ZC2", "l35 → l35"), ("ZC5", "kafka2"), ("ZC6", "")} <= set(bad(checks))
    assert "kafka2 10.0.35.12" in checks["ZC2", "l4 → l35"].reason and "no positive control" in checks["ZC2", "l4 → l35"].reason


def test_a_receiver_that_died_or_looked_away_makes_denials_inconclusive(site: Site) -> None:
    for change in ({"error": "the receiver is gone"}, {"lost": 3}):
        told = answers(site, sessions=[SESSION])
        told["edge1"]["collect"].update(change)
        checks = judged(site, told)
        assert checks["ZC2", "l4 → l3"].status == checks["ZC5", "edge1"].status == INCONCLUSIVE


def test_a_denial_that_no_counter_explains_is_inconclusive(site: Site) -> None:
    told = answers(site, sessions=[SESSION])
    told["router"]["collect"]["after"]["counters"]["forward drop-forward"] -= 1
    checks = judged(site, told)
    assert bad(checks) == {("ZC5", "router"): INCONCLUSIVE} and "drop-forward" in checks["ZC5", "router"].reason


def test_what_crosses_a_boundary_that_observes_is_never_a_pass_nor_the_routers_failure(data: dict[str, Any]) -> None:
    """Also where the source itself refused; and what reached its target is a failure still, but not the router's."""
    data["assets"]["plc1"]["canary"] = True
    data["boundaries"] = {"it": {"between": ["l35", "l4"], "enforced_by": "hnai", "firewall_mode": "observe"}}
    site = Site.from_dict(data)
    checks = judged(site, answers(site, sessions=[SESSION]))
    assert bad(checks) == {("ZC2", "l35 → l4"): INCONCLUSIVE, ("ZC2", "l4 → l35"): INCONCLUSIVE, ("ZC3", ""): INCONCLUSIVE}
    assert all("observed, not enforced: boundary it (l35, l4)" in check.reason for check in checks.values() if check.status != PASS)
    reached = {("data1", "10.0.35.11", matrix.PAST, 22): live.CONNECTED}
    checks = judged(site, answers(site, reached, sessions=[SESSION]))
    assert checks["ZC2", "l4 → l35"].status == checks["ZC5", "kafka1"].status == FAIL and "observed, not enforced" in checks["ZC2", "l4 → l35"].reason
    assert checks["ZC5", "router"].status == INCONCLUSIVE and "observed, not enforced: it lets 1 through" in checks["ZC5", "router"].reason
    # Another boundary of the same router enforces: there it fails.
    checks = judged(site, answers(site, {**reached, ("data1", "10.0.3.11", matrix.PAST, 22): live.CONNECTED}, sessions=[SESSION]))
    assert checks["ZC5", "router"].status == FAIL and "10.0.3.11" in checks["ZC5", "router"].reason and "10.0.35.11" not in checks["ZC5", "router"].reason


def test_a_boundary_that_enforces_by_itself_counts_in_its_own_chain(data: dict[str, Any]) -> None:
    data["boundaries"] = {"it": {"between": ["l35", "l4"], "enforced_by": "hnai", "firewall_mode": "enforce"}}
    site = Site.from_dict(data)
    told = answers(site, sessions=[SESSION])
    counters = told["router"]["collect"]["after"]["counters"]
    counters["forward drop-forward"] -= 7
    assert bad(judged(site, told)) == {("ZC5", "router"): INCONCLUSIVE}
    counters["boundary_it drop-forward"] = 7
    assert bad(judged(site, told)) == {}
    data["boundaries"]["it"]["firewall_mode"] = "observe"
    assert judged(Site.from_dict(data), told)["ZC5", "router"].status == INCONCLUSIVE


def test_an_answer_in_the_targets_place_is_found(site: Site) -> None:
    told = answers(site, sessions=[SESSION])
    seen = live.unpacked(told["kafka1"]["collect"]["seen"])
    told["kafka1"]["collect"]["seen"] = live.packed({key: number for key, number in seen.items() if " 9094" not in key})
    checks = judged(site, told)
    assert checks["ZC1", "C-201"].status == FAIL and "nothing arrived there" in checks["ZC1", "C-201"].reason


@pytest.mark.parametrize(
    ("session", "words"),
    [
        (["10.0.35.11", 40000, "10.0.3.11", 8883, True, -1], "no conduit"),
        (["10.0.35.11", 9094, "10.0.3.11", 1200, True, -1], "opened by the target of C-201"),
        (["10.0.3.11", 40000, "10.9.9.9", 443, True, -1], "nobody of the model"),
    ],
)
def test_a_session_that_is_nobodys(site: Site, session: list[Any], words: str) -> None:
    checks = judged(site, answers(site, sessions=[SESSION, session]))
    assert bad(checks) == {("ZC4", ""): FAIL} and words in checks["ZC4", ""].reason


def test_a_session_met_in_its_middle_and_one_of_another_user(data: dict[str, Any]) -> None:
    site = with_filter(data)
    met = ["10.0.35.11", 9094, "10.0.3.11", 40000, False, -1]
    right = ["10.0.3.12", 40001, "10.0.2.11", 4840, True, 902]
    assert judged(site, answers(site, sessions=[met, right]))["ZC4", ""].status == PASS
    found = judged(site, answers(site, sessions=[[*right[:5], 33]]))["ZC4", ""]
    assert found.status == FAIL and "opened by user 33" in found.reason


def test_what_was_not_tried_is_told(site: Site) -> None:
    told = answers(site, {("data1", "10.0.3.11", matrix.OWN, 22): live.UNTRIED}, sessions=[SESSION])
    checks = judged(site, told)
    assert bad(checks) == {("ZC6", ""): INCONCLUSIVE}
    del told["sec1"]
    assert "sec1" in judged(site, told)["ZC6", ""].reason
    assert "controller" in str(checks["ZC6", ""].observed)


# -- the whole, in namespaces


@pytest.fixture(scope="module")
def stand() -> Iterator[Stand]:
    data = copy.deepcopy(FIXTURE)
    data["assets"]["plc1"]["canary"] = True
    with Stand(with_filter(data)) as made:
        yield made


def found(report: Report) -> dict[tuple[str, str], str]:
    """What is not well; ZC4 apart, which needs a session."""
    return {(check.id, check.subject): f"{check.status}: {check.reason}" for check in report.checks if check.status != PASS and check.id != "ZC4"}


@pytest.mark.namespaces
def test_the_generated_rules_are_the_model(stand: Stand) -> None:
    report = stand.verify()
    assert found(report) == {}
    number = {check.id: str(check.observed) for check in report.checks}
    assert "not tested" in number["ZC6"] and "carried" in number["ZC3"]
    left = subprocess.run(["ss", "-Hxl"], capture_output=True, text=True, check=True).stdout
    assert "hnai-zones" not in left


@pytest.mark.namespaces
def test_router_and_host_opened_by_hand_are_each_named(stand: Stand) -> None:
    """With the router open hosts still refuse; with a host open the router still does. Each is told from the other."""
    try:
        stand.nft("router", "insert rule inet hnai forward ip daddr 10.0.35.0/24 tcp dport 22 accept")
        report = stand.verify()
        assert {key: text[:4] for key, text in found(report).items()} == {("ZC5", "router"): FAIL}, found(report)
    finally:
        stand.load(["router"])
    try:
        stand.nft("kafka2", "insert rule inet hnai input tcp dport 8429 accept")
        stand.nft("sec1", "insert rule inet hnai output tcp dport 9095 accept")
        report = stand.verify()
        bad = {key: text[:4] for key, text in found(report).items()}
        assert bad == {("ZC2", "l35 → l35"): FAIL, ("ZC5", "kafka2"): FAIL, ("ZC5", "sec1"): FAIL}, found(report)
    finally:
        stand.load(["kafka2", "sec1"])


@pytest.mark.namespaces
def test_a_host_that_vanishes_is_inconclusive_and_a_session_that_is_nobodys_fails(stand: Stand) -> None:
    def hold() -> list[int]:
        with socket.socket() as here:
            here.settimeout(5)
            here.bind(("10.0.3.11", 0))
            here.connect(("10.0.35.11", 9094))
            time.sleep(30)
        return []

    child, pipe = stand.start("edge1", hold)
    try:
        time.sleep(0.3)
        report = stand.verify(between=lambda: stand.ip("data1", "link set eth0 down"))
        bad = found(report)
        # What the host itself tried went nowhere, and it says so; of everybody else's tries nothing is known.
        own = {key: text for key, text in bad.items() if not text.startswith(INCONCLUSIVE)}
        assert set(own) <= {("ZC1", "C-003"), ("ZC1", "C-401"), ("ZC3", "")} and all("it did not leave the source" in text for text in own.values()), bad
        assert {("ZC2", "l35 → l4"), ("ZC1", "C-002"), ("ZC1", "C-401"), ("ZC5", "data1")} <= set(bad), bad
        assert ("ZC2", "l35 → l3") not in bad
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)
        os.close(pipe)
