# SPDX-License-Identifier: Apache-2.0
"""Rulesets judged by what they do: each packet of a whole site is taken through output, forward and input of the generated text."""

from __future__ import annotations

import copy
import functools
import ipaddress
import itertools
import re
import subprocess
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parent))
import model_fuzz

from ansible_collections.hnai.platform.plugins.module_utils.firewall import own_table_only
from ansible_collections.hnai.platform.plugins.module_utils.zones import nft
from ansible_collections.hnai.platform.plugins.module_utils.zones.flows import approvals
from ansible_collections.hnai.platform.plugins.module_utils.zones.model import Node, Site, SiteError

FIXTURE = yaml.safe_load((Path(__file__).parent / "fixtures/site/site.yml").read_text(encoding="utf-8"))
PORTS = [("tcp", 22), ("udp", 123), ("tcp", 4840), ("tcp", 8883), ("tcp", 9093), ("tcp", 9094), ("tcp", 9095), ("udp", 9094), ("tcp", 80)]


@pytest.fixture
def data() -> dict[str, Any]:
    return copy.deepcopy(FIXTURE)


@functools.lru_cache(maxsize=64)
def chains(text: str) -> dict[str, list[str]]:
    """Chain → rules."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if match := re.match(r"  chain (\S+) \{", line):
            rules = found.setdefault(match[1], [])
        elif line.startswith("    ") and "type filter hook" not in line:
            rules.append(line.strip())
    return found


Packet = dict[str, Any]


@functools.lru_cache(maxsize=4096)
def parse(rule: str) -> tuple[str, tuple[Callable[[Packet], bool], ...]]:
    """(verdict or '', what a NEW packet below all limits must meet). Knows exactly the grammar that the generator writes."""
    rest = re.sub(r'\s*comment "[^"]*"$', "", rule)
    verdict = rest.rsplit(" ", 1)[-1] if rest.endswith((" accept", " drop")) else ""
    rest = rest.removesuffix(verdict).strip()
    tests: list[Callable[[Packet], bool]] = []
    while rest:
        if match := re.match(r'(iifname|oifname) "([^"]+)" ?', rest):
            tests.append(lambda packet, key=match[1], name=match[2]: packet.get(key) == name)
        elif match := re.match(r"(ip6?) (saddr|daddr) (!= )?(\{[^}]*\}|\S+) ?", rest):
            nets = [ipaddress.ip_network(item.strip()) for item in match[4].strip("{} ").split(",")]
            version = 6 if match[1] == "ip6" else 4

            def inside(packet: Packet, key: str = match[2], wanted: bool = not match[3], nets: Any = nets, version: int = version) -> bool:
                address = packet[key]
                return address.version == version and any(net.version == version and address in net for net in nets) == wanted

            tests.append(inside)
        elif match := re.match(r"(tcp|udp) dport (\d+) ?", rest):
            tests.append(lambda packet, service=(match[1], int(match[2])): packet["service"] == service)
        elif (match := re.match(r"(ct state (established,related|invalid)|icmpv6 type \{[^}]*\}( ip6 hoplimit 255)?) ?", rest)) or (
            match := re.match(r"(ct count over \d+|limit rate over \d+/minute burst \d+ packets) ?", rest)
        ):
            tests.append(lambda _packet: False)
        elif not (match := re.match(r"(ct state new|counter) ?", rest)):
            raise AssertionError(f"unknown rule: {rule!r} at {rest!r}")
        rest = rest[match.end() :]
    return verdict, tuple(tests)


def verdict(text: str, chain: str, packet: Packet) -> str:
    """accept or drop, with the policy of a base chain."""
    for rule in chains(text)[chain]:
        if rule.startswith("jump "):
            if verdict(text, rule[5:], packet) == "drop":
                return "drop"
            continue
        end, tests = parse(rule)
        if end and all(test(packet) for test in tests):
            return end
    return "drop" if f"hook {chain}" in text and "policy drop" in text else "continue"


def passes(site: Site, texts: dict[str, str], source: Node, target: Node, proto: str, port: int, version: int) -> bool:
    """Does a first packet get from source to target? Assets have no firewall of their own."""
    here, there = site.zone_of(source, target), site.zone_of(target, source)
    packet = {
        "saddr": ipaddress.ip_address(source.address(version, there.id)),
        "daddr": ipaddress.ip_address(target.address(version, here.id)),
        "service": (proto, port),
    }
    if source.kind == "host" and verdict(texts[source.name], "output", packet) != "accept":
        return False
    if here.id != there.id:
        routed = {**packet, "iifname": here.id, "oifname": there.id}
        if verdict(texts["router"], "forward", routed) != "accept":
            return False
    arriving = {**packet, "iifname": here.id if target.interfaces else "eth0"}
    return target.kind != "host" or verdict(texts[target.name], "input", arriving) == "accept"


def whole(site: Site) -> dict[tuple[str, str, str, int, int], bool]:
    texts = {node.name: nft.ruleset(site, node.name) for node in site.managed()}
    return {
        (first.name, second.name, proto, port, version): passes(site, texts, first, second, proto, port, version)
        for first in site.nodes.values()
        for second in site.nodes.values()
        if first.name != second.name
        for proto, port in PORTS
        for version in (4, 6)
    }


def expected(site: Site) -> set[tuple[str, str, str, int]]:
    return {key for key in approvals(site.conduits) if (key[2], key[3]) in PORTS}


def test_exactly_the_approved_flows_pass_in_both_families(data: dict[str, Any]) -> None:
    site = Site.from_dict(data)
    table = whole(site)
    for version in (4, 6):
        assert {key[:4] for key, good in table.items() if good and key[4] == version} == expected(site)
    assert len(table) > 1500


@pytest.mark.parametrize("removed", [item["id"] for item in FIXTURE["conduits"]])
def test_removing_a_conduit_closes_exactly_its_flows(data: dict[str, Any], removed: str) -> None:
    data["conduits"] = [item for item in data["conduits"] if item["id"] != removed]
    site = Site.from_dict(data)
    assert {key[:4] for key, good in whole(site).items() if good} == expected(site)
    assert expected(site) < expected(Site.from_dict(copy.deepcopy(FIXTURE)))


def test_same_model_same_bytes(data: dict[str, Any]) -> None:
    shuffled = copy.deepcopy(data)
    shuffled["conduits"].reverse()
    shuffled["groups"] = {name: list(reversed(members)) for name, members in reversed(shuffled["groups"].items())}
    shuffled["hosts"] = dict(reversed(shuffled["hosts"].items()))
    for host in data["hosts"]:
        assert nft.ruleset(Site.from_dict(data), host) == nft.ruleset(Site.from_dict(shuffled), host)


def test_a_spoofed_source_is_dropped_before_established(data: dict[str, Any]) -> None:
    text = nft.ruleset(Site.from_dict(data), "router")
    rules = chains(text)["forward"]
    assert rules.index("jump antispoof") < rules.index("ct state established,related accept")
    for saddr, daddr in (("10.0.3.11", "10.0.35.11"), ("fd00:3::11", "fd00:35::11")):
        addresses = {"saddr": ipaddress.ip_address(saddr), "daddr": ipaddress.ip_address(daddr)}
        packet = {"iifname": "l4", "oifname": "l35", "service": ("tcp", 9094), **addresses}
        assert verdict(text, "antispoof", packet) == "drop"
        assert verdict(text, "antispoof", {**packet, "iifname": "l3"}) == "continue"


def test_level_2_has_limits_by_default_and_by_conduit(data: dict[str, Any]) -> None:
    text = nft.ruleset(Site.from_dict(data), "router")
    assert text.count('ct count over 2 counter drop comment "C-101 connections"') == 2
    assert text.count('limit rate over 6/minute burst 2 packets counter drop comment "C-101 new_per_minute"') == 2
    assert text.count('ct count over 4 counter drop comment "C-103 connections"') == 2
    assert text.count('limit rate over 12/minute burst 4 packets counter drop comment "C-103 new_per_minute"') == 2
    assert "C-201 connections" not in text
    for ident in ("C-101", "C-103"):
        assert text.index(f'"{ident} connections"') < text.index(f'"{ident} new_per_minute"') < text.index(f'accept comment "{ident}"')


def test_each_device_has_its_own_limits(data: dict[str, Any]) -> None:
    data["assets"]["plc2"] = {**data["assets"]["plc1"], "addresses": {"v4": "10.0.2.12", "v6": "fd00:2::12"}, "connects": []}
    data["conduits"].append({**data["conduits"][3], "id": "C-102", "to": {"asset": "plc2"}})
    text = nft.ruleset(Site.from_dict(data), "router")
    assert 'ip daddr 10.0.2.12 tcp dport 4840 ct state new ct count over 2 counter drop comment "C-102 connections"' in text


def test_default_deny_everywhere_and_drops_are_counted(data: dict[str, Any]) -> None:
    site = Site.from_dict(data)
    for node in site.managed():
        text = nft.ruleset(site, node.name)
        assert text.count("policy drop;") == 3
        assert "policy accept" not in text
        for direction, chain in (("in", "input"), ("out", "output"), ("forward", "forward")):
            assert chains(text)[chain][-1] == f'counter drop comment "drop-{direction}"'
        assert "nat" not in re.findall(r"type (\S+) hook", text)
        own_table_only(text)


def test_observe_counts_and_drops_nothing(data: dict[str, Any]) -> None:
    for host in ("edge1", "router"):
        text = nft.ruleset(Site.from_dict(data), host, "observe")
        assert "drop;" not in text
        assert not re.search(r"\bdrop\b(?!-)", re.sub(r'"[^"]*"', "", text))
        # What would be dropped is written down instead; a host alone knows its users, a router alone spoofing and limits.
        assert 'counter jump observed_in comment "drop-in"' in text
        assert text.count("jump observed_") == (text.count('comment "drop-') if host == "edge1" else 3 + text.count('"spoof-') + text.count(" over "))
        assert ("observed_user4_out" in text, "observed_last6_limits" in text) == (True, host == "router")
        assert "observed" not in nft.ruleset(Site.from_dict(data), host)


@pytest.mark.parametrize(("host", "places"), [("edge1", ("in", "out", "forward")), ("router", ("in", "out", "forward", "spoof", "limits"))])
def test_the_middle_of_a_connection_is_written_down_wherever_enforce_would_cut_it(host: str, places: tuple[str, ...]) -> None:
    """With both ports, before the rules for what begins, renewed by each packet: whoever reads finds out who opened it."""
    lines = [line.strip() for line in nft.ruleset(Site.from_dict(copy.deepcopy(FIXTURE)), host, "observe").splitlines()]
    for place in places:
        for version, ip, address in ((4, "ip", "ipv4_addr"), (6, "ip6", "ipv6_addr")):
            name = f"observed_mid{version}_{place}"
            kept = f"type {address} . {address} . inet_proto . inet_service . inet_service; size 16384; flags dynamic,timeout; timeout 7d;"
            assert f"set {name} {{ {kept} }}" in lines
            put = f"update @{name} {{ {ip} saddr . {ip} daddr . meta l4proto . th sport . th dport }}"
            middle = lines.index(f"tcp flags & (syn | ack) != syn {put} return")
            assert all(middle < number for number, line in enumerate(lines) if f"add @observed_first{version}_{place} " in line)


def test_without_a_mode_of_a_boundary_a_ruleset_is_what_it_always_was(data: dict[str, Any]) -> None:
    """By the digests of the time before boundaries had modes; whoever changes the generator on purpose renews them."""
    kept = dict(reversed(line.split("  ")) for line in (Path(__file__).parent / "fixtures/site/rulesets.sha256").read_text(encoding="utf-8").splitlines()[1:])
    site = Site.from_dict(data)
    assert {f"{mode}/{node.name}": sha256(nft.ruleset(site, node.name, mode).encode()).hexdigest() for mode in ("enforce", "observe")
            for node in site.managed()} == kept  # fmt: skip
    lab = model_fuzz.lab()
    declared = {f"b{number}": {"between": list(pair), "enforced_by": "hnai"} for number, pair in enumerate(itertools.combinations(sorted(lab["zones"]), 2))}
    plain, ours = Site.from_dict(lab), Site.from_dict({**lab, "boundaries": declared})
    assert len(ours.boundaries) == 15 and not ours.problems
    for mode in ("enforce", "observe"):
        for node in plain.managed():
            assert nft.ruleset(plain, node.name, mode) == nft.ruleset(ours, node.name, mode)
            assert "boundary_" not in nft.ruleset(ours, node.name, mode)


@pytest.mark.parametrize("mode", ["enforce", "observe"])
def test_a_boundary_with_a_mode_has_its_own_chain_and_nothing_else_changes(data: dict[str, Any], mode: str) -> None:
    before = {host: nft.ruleset(Site.from_dict(data), host, mode) for host in data["hosts"]}
    whole = chains(before["router"])
    for own in ("enforce", "observe"):
        data["boundaries"] = {"plant": {"between": ["l3", "l2"], "enforced_by": "hnai", "firewall_mode": own}}
        site = Site.from_dict(data)
        assert not site.problems
        text = nft.ruleset(site, "router", mode)
        own_table_only(text)
        found = chains(text)
        assert all(nft.ruleset(site, host, mode) == before[host] for host in data["hosts"] if host != "router")
        assert all(found[name] == whole[name] for name in ("input", "output", "antispoof"))
        moved = [rule for rule in whole["forward"] if "C-101" in rule or "C-103" in rule]
        assert len(moved) == 12 and found["forward"][2:] == [rule for rule in whole["forward"] if rule not in moved]
        assert found["forward"][:2] == ['iifname "l2" oifname "l3" jump boundary_plant', 'iifname "l3" oifname "l2" jump boundary_plant']
        mine = found["boundary_plant"]
        assert [rule for rule in mine if " accept " in rule] == [rule for rule in moved if " accept " in rule]
        drops = [rule for rule in mine if re.search(r" drop( |$)", rule)]
        if own == "enforce":
            assert len(drops) == 4 + 1 + 8 + 1 and mine[-1] == 'counter drop comment "drop-forward"' and "observed" not in " ".join(mine)
        else:
            assert not drops and mine[-2:] == ['counter jump observed_forward_plant comment "drop-forward"', "accept"]
            assert {re.sub("jump observed_(spoof|limits)_plant", "drop", rule) for rule in mine if " over " in rule} == {
                re.sub("jump observed_limits", "drop", rule) for rule in moved if " over " in rule
            }
        assert ("set observed_first4_forward_plant" in text, "set observed_first4_in " in text) == (own == "observe", mode == "observe")
        # What a boot falls back to knows no modes.
        assert nft.bootstrap(site, "router") == nft.bootstrap(Site.from_dict({**data, "boundaries": {}}), "router")


def test_bootstrap_is_management_only(data: dict[str, Any]) -> None:
    site = Site.from_dict(data)
    comments = set(re.findall(r'accept comment "([^"]+)"', nft.bootstrap(site, "edge1")))
    assert comments == {"C-002"}
    assert set(re.findall(r'accept comment "([^"]+)"', nft.bootstrap(site, "jump1"))) == {"C-001", "C-002"}
    assert set(re.findall(r'accept comment "([^"]+)"', nft.bootstrap(site, "router"))) == {"C-002"}


def test_an_expired_conduit_does_not_change_a_firewall(data: dict[str, Any]) -> None:
    before = nft.ruleset(Site.from_dict(data), "edge1")
    for item in data["conduits"]:
        item["expires"] = "2001-01-01"
    assert nft.ruleset(Site.from_dict(data), "edge1") == before


def test_no_ruleset_comes_from_a_model_that_may_not_be(data: dict[str, Any]) -> None:
    service = {"component": "mosquitto", "listener": "mqtt"}
    data["conduits"].append({**data["conduits"][5], "id": "C-900", "from": {"host": "data1"}, "to": {"host": "edge1"}, "service": service})
    with pytest.raises(SiteError, match="never allowed"):
        nft.ruleset(Site.from_dict(data), "edge1")
    with pytest.raises(SiteError, match="no managed host"):
        nft.ruleset(Site.from_dict(copy.deepcopy(FIXTURE)), "plc1")


def test_proof_hosts_stand_in_every_zone_behind(data: dict[str, Any]) -> None:
    site = Site.from_dict(data)
    assert nft.proof_hosts(site, "edge1") == []
    for host in ("router", "jump1"):
        assert nft.proof_hosts(site, host) == [["edge1"], ["kafka1", "kafka2", "kafka3"], ["data1"], ["sec1"]]


def test_approved_covers_what_a_host_takes_part_in(data: dict[str, Any]) -> None:
    site = Site.from_dict(data)
    assert {item["port"] for item in nft.approved(site, "data1")} == {22, 123, 9095}
    assert {item["port"] for item in nft.approved(site, "router")} == {22, 123, 4840, 8883, 9093, 9094, 9095}


@pytest.mark.namespaces
def test_nft_takes_every_ruleset(data: dict[str, Any]) -> None:
    """By nft itself; its grammar is checked above without it."""
    site = Site.from_dict(data)
    texts = [nft.ruleset(site, node.name, mode) for node in site.managed() for mode in ("enforce", "observe")]
    texts += [nft.bootstrap(site, node.name) for node in site.managed()]
    for text in texts:
        done = subprocess.run(["unshare", "--net", "nft", "-c", "-f", "-"], input=text, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    assert len(texts) == 24


def test_a_conduit_with_a_uid_is_open_to_that_user_alone(data: dict[str, Any]) -> None:
    conduit = next(one for one in data["conduits"] if one["id"] == "C-101")
    plain = nft.ruleset(Site.from_dict(data), "edge1")
    conduit["uid"] = 902
    site = Site.from_dict(data)
    assert not site.problems
    text = nft.ruleset(site, "edge1")
    mine = [rule for rule in chains(text)["output"] if '"C-101"' in rule]
    assert len(mine) == 2 and all(" meta skuid 902 tcp dport 4840 ct state new counter accept" in rule for rule in mine)
    # Nothing else changed, and the router, which sees no users, has the same rules as before.
    assert text.replace(" meta skuid 902", "") == plain
    assert "skuid" not in nft.ruleset(site, "router")


@pytest.mark.parametrize(("ident", "uid", "words"), [("C-101", 0, "no user's number"), ("C-101", "hnai", "no user's number"),
                                                     ("C-103", 902, "no host of ours")])
def test_a_uid_that_means_nothing_is_refused(data: dict[str, Any], ident: str, uid: Any, words: str) -> None:
    next(one for one in data["conduits"] if one["id"] == ident)["uid"] = uid
    assert any(words in problem.message for problem in Site.from_dict(data).problems)


def test_a_conduit_from_a_second_address_is_open_from_there_alone(data: dict[str, Any]) -> None:
    plain = nft.ruleset(Site.from_dict(data), "edge1").splitlines()
    conduit = next(one for one in data["conduits"] if one["id"] == "C-101")
    data["hosts"]["edge1"]["second_addresses"] = {"filter": {"v4": "10.0.3.99", "v6": "fd00:3::99"}}
    conduit["source_address"] = "filter"
    site = Site.from_dict(data)
    assert not site.problems, site.problems
    host = [line.strip() for line in nft.ruleset(site, "edge1").splitlines() if '"C-101"' in line]
    assert [line.split(" ")[:3] for line in host] == [["ip", "saddr", "10.0.3.99"], ["ip6", "saddr", "fd00:3::99"]]
    # Nothing else of the host's rules knows the address, and by no other conduit may anything leave from it.
    others = [line for line in nft.ruleset(site, "edge1").splitlines() if '"C-101"' not in line]
    assert not any("10.0.3.99" in line for line in others)
    bound = [line.replace("ip saddr 10.0.3.11 ip daddr", "ip daddr").replace("ip6 saddr fd00:3::11 ip6 daddr", "ip6 daddr") for line in others]
    assert bound == [line for line in plain if '"C-101"' not in line]
    opened = [line for line in chains("\n".join(others))["output"] if " ct state new " in line]
    assert opened and all(line.startswith(("ip saddr 10.0.3.11 ", "ip6 saddr fd00:3::11 ")) for line in opened), opened
    routed = [line.strip() for line in nft.ruleset(site, "router").splitlines() if "C-101" in line]
    assert routed and all(" ip saddr 10.0.3.99 " in line or " ip6 saddr fd00:3::99 " in line for line in routed), routed
    (flow,) = [one for one in nft.approved(site, "edge1") if one["port"] == 4840]
    assert flow["source"] == ["10.0.3.99", "fd00:3::99"]


@pytest.mark.parametrize(("seconds", "named", "words"), [
    ({}, "filter", "edge1 has no second address 'filter'"),
    ({"filter": {"v4": "10.0.4.99", "v6": "fd00:3::99"}}, "", "is not in zone l3"),
    ({"filter": {"v4": "10.0.3.11", "v6": "fd00:3::99"}}, "", "has 10.0.3.11 of edge1"),
    ({"filter": {"v4": "10.0.3.99"}}, "", "is missing, but zone l3 has"),
    ("10.0.3.99", "", "is not a map"),
])
def test_a_second_address_that_means_nothing_is_refused(data: dict[str, Any], seconds: Any, named: str, words: str) -> None:
    data["hosts"]["edge1"]["second_addresses"] = seconds
    next(one for one in data["conduits"] if one["id"] == "C-101")["source_address"] = named
    assert any(words in problem.message for problem in Site.from_dict(data).problems), Site.from_dict(data).problems


@pytest.mark.namespaces
def test_the_kernel_tells_users_apart(data: dict[str, Any]) -> None:
    """By nft and the kernel: what the filter's user and what another user open is counted by different rules."""
    next(one for one in data["conduits"] if one["id"] == "C-101")["uid"] = 902
    text = nft.ruleset(Site.from_dict(data), "edge1")
    script = """
set -e
# No router solicitations: they would be counted as drops.
for which in all default; do echo 1 >/proc/sys/net/ipv6/conf/$which/disable_ipv6; done
ip link set lo up
ip link add l3 type veth peer name other && ip address add 10.0.3.11/24 dev l3 && ip link set l3 up && ip link set other up && ip route add default dev l3
ip neighbour replace 10.0.2.11 lladdr 02:00:00:00:00:01 dev l3
nft -f -
look() { nft list chain inet hnai output | grep -E '"C-101"|"drop-out"' | grep -v ip6; }
for uid in 902 903 0; do
  before=$(look)
  setpriv --reuid $uid --regid $uid --clear-groups bash -c 'exec 3<>/dev/tcp/10.0.2.11/4840' 2>/dev/null &
  for turn in $(seq 300); do
    [ "$(look)" = "$before" ] || break
    sleep 0.1
  done
  kill -9 $!
  wait $! || true  # 137: it was just killed, and its packet is what is counted
  look
done
"""
    done = subprocess.run(["unshare", "--net", "bash", "-c", script], input=text, capture_output=True, text=True, check=True, timeout=150)
    packets = [int(one) for one in re.findall(r"counter packets (\d+)", done.stdout)]
    accepted, dropped = packets[0::2], packets[1::2]
    assert accepted[0] > 0 and len(set(accepted)) == 1 and 0 == dropped[0] < dropped[1] < dropped[2], done.stdout
    assert "meta skuid 902" in text
