# SPDX-License-Identifier: Apache-2.0
"""A router whose boundaries have modes of their own: what passes, what is listed, who approves, and what is said of it live."""
from __future__ import annotations

import copy
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parent))
import firewall_stand
from zones_stand import Stand

from ansible_collections.hnai.platform.plugins.module_utils import firewall_observed as seen
from ansible_collections.hnai.platform.plugins.module_utils.firewall import Firewall, FirewallError, cut
from ansible_collections.hnai.platform.plugins.module_utils.firewall_modes import Modes
from ansible_collections.hnai.platform.plugins.module_utils.verdict import FAIL, INCONCLUSIVE, PASS
from ansible_collections.hnai.platform.plugins.module_utils.zones import nft
from ansible_collections.hnai.platform.plugins.module_utils.zones.model import Site
from ansible_collections.hnai.platform.plugins.plugin_utils import observed

FIXTURE = yaml.safe_load((Path(__file__).parent / "fixtures/site/site.yml").read_text(encoding="utf-8"))
NAME = "somebody who looked"


def site_with(**modes: str) -> Site:
    """plant: between l2 and l3; it: between l3 and l35."""
    data = copy.deepcopy(FIXTURE)
    data["assets"]["plc1"]["canary"] = True
    zones = {"plant": ["l2", "l3"], "it": ["l3", "l35"]}
    data["boundaries"] = {name: {"between": zones[name], "enforced_by": "hnai", "firewall_mode": mode} for name, mode in modes.items()}
    for one in data["boundaries"].values():
        one.update({"firewall_approved_by": NAME} if one["firewall_mode"] == "enforce" else {})
    found = Site.from_dict(data)
    assert not found.problems
    return found


def modes_of(site: Site, mode: str, approved_by: str = "") -> Modes:
    return Modes(mode, nft.boundaries(site, "router"), approved_by)


# -- whose a flow is


def test_a_flow_is_the_boundarys_whose_zones_it_joins_and_the_routers_own_talk_is_its_own() -> None:
    modes = modes_of(site_with(plant="observe", it="enforce"), "enforce")
    for source, target, place, whose in (
        ("10.0.2.11", "10.0.3.11", "", "plant"), ("10.0.3.11", "10.0.2.11", "forward", "plant"), ("fd00:3::11", "fd00:2::11", "", "plant"),
        ("10.0.3.11", "10.0.35.11", "", "it"), ("10.0.2.11", "10.0.35.11", "", ""), ("10.0.3.11", "10.0.3.12", "", ""),
        ("10.0.3.11", "10.0.2.254", "in", ""), ("10.0.3.254", "10.0.2.11", "out", ""),
        ("192.0.2.9", "10.0.2.11", "spoof", "plant"), ("192.0.2.9", "10.0.2.11", "forward", ""), ("192.0.2.9", "10.0.4.12", "spoof", ""),
        ("192.0.2.9", "10.0.4.12", "spoof_plant", "plant"), ("10.0.3.11", "10.0.35.11", "forward_plant", "plant"),
        ("10.0.2.11", "10.0.3.11", "forward_gone", "plant"), ("10.0.2.11", "10.0.4.12", "forward_gone", ""),
    ):  # fmt: skip
        assert modes.charge(source, target, place).id == whose, (source, target, place)


def flow(source: str, target: str, port: int, *where: str) -> dict[str, Any]:
    return {"source": source, "target": target, "proto": "tcp", "port": port, "where": list(where), "conduit": ""}


def test_only_what_is_to_be_refused_needs_an_explanation_and_each_boundary_its_own_name() -> None:
    plant, it = flow("10.0.2.11", "10.0.3.11", 7000, "forward_plant"), flow("10.0.3.11", "10.0.35.11", 7001, "forward_it")
    rest = flow("10.0.4.12", "10.0.3.11", 7002, "forward")
    site = site_with(plant="observe", it="enforce")
    seen.may_enforce([plant], [], modes_of(site, "enforce"))
    seen.may_enforce([plant, rest], [], modes_of(site, "observe"))
    with pytest.raises(FirewallError, match=r"boundary it observes, and enforce would cut 1 .*7001"):
        seen.may_enforce([plant, it], [], modes_of(site, "observe"))
    with pytest.raises(FirewallError, match=r"this host observes, and enforce would cut 1 .*7002"):
        seen.may_enforce([plant, rest], [], modes_of(site, "enforce", NAME))
    wanted = [{"source": "10.0.0.0/8", "target": "10.0.0.0/8", "proto": "tcp", "port": None, "reason": "old"}]
    # The boundary's approver says nothing of the rest, nor the router's of the boundary.
    seen.may_enforce([plant, it], wanted, modes_of(site, "enforce"))
    with pytest.raises(FirewallError, match=r"this host observes, and has seen 1 flow\(s\) .*named in firewall_approved_by, beside"):
        seen.may_enforce([plant, it, rest], wanted, modes_of(site, "enforce"))
    nobody = nft.boundaries(site, "router")
    nobody[1]["approved_by"] = nobody[0]["approved_by"] = ""
    with pytest.raises(FirewallError, match=r"firewall_approved_by, of hnai_boundaries\.it, beside"):
        seen.may_enforce([plant, it], wanted, Modes("enforce", nobody, NAME))
    # Rules of its own that are gone again: it is the router's.
    with pytest.raises(FirewallError, match="this host observes, and enforce would cut 1"):
        seen.may_enforce([plant], [], modes_of(site_with(it="enforce"), "enforce", NAME))


def test_what_goes_on_to_be_observed_is_neither_cut_nor_forgotten(tmp_path: Path) -> None:
    mixed = modes_of(site_with(plant="observe", it="enforce"), "enforce")
    plant, it, rest = ("10.0.2.11", "10.0.3.11"), ("10.0.3.11", "10.0.35.11"), ("10.0.4.12", "10.0.3.11")
    tracked = "".join(f"tcp 6 9 ESTABLISHED src={one} dst={two} sport=40000 dport=7000 src={two} dst={one} sport=7000 dport=40000 [ASSURED]\n"
                      for one, two in (plant, it, rest))  # fmt: skip
    deleted, note = cut(lambda argv, _stdin: (0, tracked if argv[-1] == "ipv4" else "", ""), [], mixed)
    assert ([(one["src"], one["dst"]) for one in deleted], note) == ([it, rest], "")

    def kept(**sets: tuple[str, str]) -> str:
        found = [{"set": {"name": f"observed_last4_{name}", "timeout": 604800, "elem": [{"elem": {"val": {"concat": [*ends, "tcp", 7000]}, "expires": 9.0}}]}}
                 for name, ends in sets.items()]  # fmt: skip
        return json.dumps({"nftables": [{"table": {"name": "hnai", "handle": 1}}, *found]})

    folder = tmp_path / "observed"
    folder.mkdir()
    (folder / "5.json").write_text(kept(forward_plant=plant, forward_it=it, spoof_plant=rest), encoding="utf-8")
    # Of a time when the router observed as a whole; and one that has nothing for a boundary that still does.
    (folder / "4.json").write_text(kept(forward=plant), encoding="utf-8")
    (folder / "3.json").write_text(kept(forward=rest, forward_it=it), encoding="utf-8")
    ends = [{"proto": "tcp", "src": one, "dst": two, "sport": "40000", "dport": "7000"} for one, two in (plant, it)]
    (folder / "run001.open").write_text(json.dumps({"open": ends, "sockets": ""}), encoding="utf-8")
    (folder / "run002.open").write_text(json.dumps({"open": ends[1:], "sockets": ""}), encoding="utf-8")
    for path in folder.glob("*"):
        os.utime(path, (1_700_000_000, 1_700_000_000))
    seen.forget(tmp_path, mixed)
    assert sorted(path.name for path in folder.glob("*")) == ["4.json", "5.json", "run001.open"]
    assert {path.stat().st_mtime for path in folder.glob("*")} == {1_700_000_000}
    left = seen.observed(lambda _argv, _stdin: (1, "", "Error: No such file or directory"), tmp_path, 1_700_000_000.0, [], mixed)["flows"]
    assert {(one["source"], one["target"], *one["where"]) for one in left} == {
        (*plant, "forward", "forward_plant"), (*rest, "spoof_plant")
    }, left  # fmt: skip


def test_validate_says_it_of_the_boundary() -> None:
    flows = [{**flow("10.0.2.11", "10.0.3.11", 7000, "forward_plant"), "guessed": False}]
    record = {"hosts": {"router": {"observing": True, "observes": ["plant"], "flows": flows}}}
    assert observed.problems(site_with(plant="observe"), record, {}) == []
    (one,) = observed.problems(site_with(plant="enforce"), record, {})
    assert one.key == "hnai_boundaries.plant.firewall_mode" and "router over plant has observed" in one.message
    cut_flows = {"router": {"firewall_cut_flows": [{"source": "10.0.2.11", "target": "10.0.3.11", "proto": "tcp"}], "firewall_approved_by": NAME}}
    assert observed.problems(site_with(plant="enforce"), record, cut_flows) == []
    site = site_with(plant="enforce")
    site.boundaries = [one.__class__(**{**one.__dict__, "approved_by": ""}) for one in site.boundaries]
    (one,) = observed.problems(site, record, cut_flows)
    assert one.key == "hnai_boundaries.plant.firewall_approved_by" and one.remedy and one.file
    (one,) = observed.problems(site_with(), record, {})
    assert one.key == "router: firewall_mode"


# -- on a kernel


@pytest.fixture(scope="module")
def network() -> Iterator[Stand]:
    with Stand(site_with(plant="observe")) as made:
        yield made


class Router(firewall_stand.Stand):
    """The router of the network, with its state and the role's script."""

    def __init__(self, network: Stand, root: Path) -> None:
        self.host, self.root, self.state = network.space("router"), root, root / "state"
        self.children, self.timers = [], {}
        self.script_path = self._script()
        self.firewall = Firewall(self.run, self.state)
        self.runs = 0

    def load(self, site: Site, modes: Modes) -> None:
        self.runs += 1
        self.firewall.apply(nft.ruleset(site, "router", modes.host.mode), f"run{self.runs:03}", 300, time.monotonic, modes, nft.approved(site, "router"))
        assert self.script("confirm", f"run{self.runs:03}").returncode == 0

    def listed(self, site: Site, modes: Modes) -> dict[str, Any]:
        return seen.observed(self.run, self.state, time.time(), nft.approved(site, "router"), modes)

    def settled(self, site: Site, modes: Modes) -> set[tuple[str, str]]:
        deleted, note = cut(self.run, nft.approved(site, "router"), modes)
        seen.forget(self.state, modes)
        assert not note
        return {(one["src"], one["dst"]) for one in deleted if one["proto"] == "tcp"}


DIAL = """
import socket, sys
source, target, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
one = socket.socket(socket.AF_INET6 if ":" in target else socket.AF_INET, socket.SOCK_STREAM)
one.settimeout(float(sys.argv[4]))
one.bind((source, 0))
try:
    one.connect((target, port))
    print("reached")
except ConnectionRefusedError:
    print("reached")
except OSError:
    print("silence")
"""


@pytest.mark.namespaces
def test_one_router_two_boundaries_one_observes_and_one_enforces(network: Stand, tmp_path: Path) -> None:
    router = Router(network, tmp_path)
    open_all, apart = site_with(), site_with(plant="observe")
    closed = site_with(plant="enforce")
    for node in network.nodes:
        network.command(node.name, ["nft", "flush", "ruleset"])

    def dial(host: str, source: str, target: str, port: int, wait: float = 20.0) -> str:
        return network.command(host, [sys.executable, "-c", DIAL, source, target, str(port), str(wait)]).stdout.strip()

    try:
        router.serve(network.space("edge1"), 7000)
        router.serve(network.space("kafka1"), 7000)
        # The whole router observes first: two sessions that no conduit approves, one over each boundary.
        everything = modes_of(open_all, "observe")
        router.load(open_all, everything)
        plant = router.session(network.space("plc1"), "10.0.2.11", "10.0.3.11", 7000)
        it = router.session(network.space("edge1"), "10.0.3.11", "10.0.35.11", 7000)
        first = router.listed(open_all, everything)
        assert first["observes"] == [""] and {tuple(one["where"]) for one in first["flows"]} == {("forward",)}, first
        assert {(one["source"], one["target"], one["port"]) for one in first["flows"]} == {
            ("10.0.2.11", "10.0.3.11", 7000), ("10.0.3.11", "10.0.35.11", 7000)
        }, first["flows"]  # fmt: skip

        # All but the plant enforces: only the other flow is asked for, only the other session ends.
        mixed = modes_of(apart, "enforce", NAME)
        with pytest.raises(FirewallError, match=r"this host observes, and enforce would cut 1 flow\(s\) .*10\.0\.35\.11 tcp/7000"):
            seen.may_enforce(first["flows"], [], mixed)
        router.load(apart, mixed)
        assert router.settled(apart, mixed) == {("10.0.3.11", "10.0.35.11")}
        assert plant.goes_on()
        time.sleep(0.3)
        assert not it.goes_on(1.5)

        # Over the plant's boundary everything passes, over the others nothing that no conduit names.
        network.ip("plc1", "address add 192.0.2.9/32 dev eth0")
        assert [dial("plc1", one, two, 22) for one, two in (("10.0.2.11", "10.0.3.11"), ("fd00:2::11", "fd00:3::11"))] == ["reached"] * 2
        assert dial("edge1", "10.0.3.11", "10.0.2.11", 102) == "reached"
        dial("plc1", "192.0.2.9", "10.0.3.11", 7000, 1.5)
        assert dial("edge1", "10.0.3.11", "10.0.2.11", 4840) == "reached" == dial("edge1", "10.0.3.11", "10.0.35.11", 9094)
        refused = [("edge1", "10.0.3.11", "10.0.35.11", 22), ("edge1", "fd00:3::11", "fd00:35::11", 22), ("data1", "10.0.4.12", "10.0.3.11", 7000),
                   ("plc1", "10.0.2.11", "10.0.35.11", 9094), ("plc1", "192.0.2.9", "10.0.35.11", 9094), ("edge1", "10.0.3.11", "10.0.2.254", 22),
                   ("router", "10.0.3.254", "10.0.3.11", 7000)]  # fmt: skip
        assert [dial(*one, 1.5) for one in refused] == ["silence"] * len(refused)
        found = router.listed(apart, mixed)
        expected = {
            ("10.0.2.11", "10.0.3.11", 7000): {"forward"},  # where it was seen to begin; open since
            ("10.0.2.11", "10.0.3.11", 22): {"forward_plant"},
            ("fd00:2::11", "fd00:3::11", 22): {"forward_plant"},
            ("10.0.3.11", "10.0.2.11", 102): {"forward_plant"},
            ("192.0.2.9", "10.0.3.11", 7000): {"forward_plant", "spoof_plant"},
        }
        flows = {(one["source"], one["target"], one["port"]): one for one in found["flows"]}
        assert {key: set(one["where"]) for key, one in flows.items()} == expected, flows
        assert (found["observes"], found["full"], found["note"]) == (["plant"], [], "")
        assert flows["10.0.2.11", "10.0.3.11", 7000]["open"] == 1

        # A boot and a second ruleset take nothing from it.
        assert router.script("load").returncode == 0
        router.load(apart, mixed)
        assert {(one["source"], one["target"], one["port"]) for one in router.listed(apart, mixed)["flows"]} == set(expected)
        assert plant.goes_on()

        # The plant's boundary too: each of its flows is explained, and somebody is named for it.
        last = modes_of(closed, "enforce")
        left = router.listed(closed, last)["flows"]
        with pytest.raises(FirewallError, match="boundary plant observes, and enforce would cut 5"):
            seen.may_enforce(left, [], last)
        seen.may_enforce(left, [{"source": any_one, "target": any_one, "proto": "tcp"} for any_one in ("0.0.0.0/0", "::/0")], last)
        router.load(closed, last)
        assert ("10.0.2.11", "10.0.3.11") in router.settled(closed, last)
        assert not plant.goes_on(1.5) and not list((router.state / "observed").glob("*"))
        assert dial("plc1", "10.0.2.11", "10.0.3.11", 22, 1.5) == "silence"
        assert dial("edge1", "10.0.3.11", "10.0.2.11", 4840) == "reached"
    finally:
        for child in router.children:
            child.kill()
            child.wait(10)
        for timer in router.timers.values():
            timer.cancel()
        network.ip("plc1", "address delete 192.0.2.9/32 dev eth0")


@pytest.mark.namespaces
def test_the_live_matrix_never_passes_what_is_only_observed(network: Stand) -> None:
    network.load(node.name for node in network.site.managed())
    report = network.verify()
    found = {(check.id, check.subject): (check.status, check.reason) for check in report.checks if check.status != PASS and check.id != "ZC4"}
    assert {key: status for key, (status, _reason) in found.items()} == {
        ("ZC2", "l2 → l3"): INCONCLUSIVE, ("ZC2", "l3 → l2"): FAIL, ("ZC3", ""): FAIL, ("ZC5", "router"): INCONCLUSIVE
    }, found  # fmt: skip
    assert all("observed, not enforced" in reason for _status, reason in found.values()), found
    assert "boundary plant (l2, l3)" in found["ZC2", "l2 → l3"][1] and "kafka" not in found["ZC5", "router"][1]
