# SPDX-License-Identifier: Apache-2.0
"""The firewall under sessions that live: real nft, conntrack and TCP in network namespaces."""
from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from firewall_stand import Session, Stand, stand, until

from ansible_collections.hnai.platform.plugins.module_utils import firewall_observed as seen
from ansible_collections.hnai.platform.plugins.module_utils.firewall import Firewall, FirewallError, cut
from ansible_collections.hnai.platform.plugins.module_utils.firewall_modes import Modes
from ansible_collections.hnai.platform.plugins.module_utils.zones import nft
from ansible_collections.hnai.platform.plugins.module_utils.zones.model import Site

HOST4, HOST6, PEER4, PEER6 = "10.1.0.1", "fd01::1", "10.1.0.2", "fd01::2"
FIXTURE = yaml.safe_load((Path(__file__).parent / "fixtures/site/site.yml").read_text(encoding="utf-8"))
pytestmark = pytest.mark.namespaces
RULES = """\
table inet hnai
delete table inet hnai
table inet hnai {
  chain input {
    type filter hook input priority filter; policy drop;
    ct state established,related accept
    icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
ACCEPTS
    counter drop comment "drop-in"
  }
  chain output {
    type filter hook output priority filter; policy drop;
    ct state established,related accept
    icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
    counter drop comment "drop-out"
  }
}
"""


def rules(*ports: int) -> str:
    """A host that lets its peer in on ports."""
    return RULES.replace("ACCEPTS", "\n".join(f'    tcp dport {port} ct state new counter accept comment "C-{port}"' for port in ports))


def approved(*ports: int) -> list[dict[str, Any]]:
    return [{"id": f"C-{port}", "source": [PEER4, PEER6], "target": [HOST4, HOST6], "proto": "tcp", "port": port} for port in ports]


class Live:
    """A host with confirmed rules for 5001 and 5002, and a session on each, the second over IPv6 too."""

    def __init__(self, place: Stand) -> None:
        self.place = place
        self.firewall = Firewall(place.run, place.state)
        place.serve(place.host, 5001, 5002)
        self.change(rules(5001, 5002), "run000")
        self.first = place.session(place.others, PEER4, HOST4, 5001)
        self.second = [place.session(place.others, one, other, 5002) for one, other in ((PEER4, HOST4), (PEER6, HOST6))]

    @property
    def sessions(self) -> list[Session]:
        return [self.first, *self.second]

    def change(self, text: str, run_id: str) -> None:
        self.firewall.apply(text, run_id, 300, time.monotonic)
        assert self.place.script("confirm", run_id).returncode == 0

    def look(self, items: list[dict[str, Any]], sessions: int) -> dict[str, list[Any]]:
        """Once all sessions were seen to speak: a machine that is busy with other things may give them no turn for a while."""
        end = time.monotonic() + 40
        while True:
            found = self.firewall.look(items, 0.5, time.sleep, lambda *_one: None)
            if len(found["carrying"]) >= sessions:
                return found
            assert time.monotonic() < end, found

    def still(self, looked: dict[str, list[Any]], items: list[dict[str, Any]]) -> dict[str, list[str]]:
        """Once something is known of each."""
        end = time.monotonic() + 40
        while True:
            found = self.firewall.still(looked, items, 5.0, time.monotonic, time.sleep, lambda *_one: None)
            if not found["idle"] or time.monotonic() > end:
                return found


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Live]:
    with stand(tmp_path, [HOST4, HOST6], [PEER4, PEER6]) as place:
        yield Live(place)


def test_a_change_that_carries_everything_leaves_everything_alone(host: Live) -> None:
    looked = host.look(approved(5001, 5002), 3)
    assert sorted((pair.conduit, pair.source) for pair in looked["carrying"]) == [("C-5001", PEER4), ("C-5002", PEER4), ("C-5002", PEER6)]
    assert "hnai_proof" not in host.place.nft("list", "ruleset")
    host.firewall.apply(rules(5002, 5001), "run001", 300, time.monotonic)
    found = host.still(looked, approved(5001, 5002))
    assert (len(found["alive"]), found["cut"], found["idle"]) == (3, [], []), found
    assert host.place.script("confirm", "run001").returncode == 0
    assert "hnai_proof" not in host.place.nft("list", "ruleset")
    assert host.firewall.reasons(rules(5002, 5001)) == []


def test_an_approved_conduit_that_is_cut_is_named_and_what_was_confirmed_comes_back(host: Live) -> None:
    bad = rules(5001, 5002).replace("policy drop;\n", "policy drop;\n    tcp dport 5002 drop\n", 1)
    looked = host.look(approved(5001, 5002), 3)
    host.firewall.apply(bad, "run001", 300, time.monotonic)
    found = host.still(looked, approved(5001, 5002))
    assert found["cut"] == [f"C-5002 {PEER4} → {HOST4} tcp/5002", f"C-5002 {PEER6} → {HOST6} tcp/5002"]
    assert found["alive"] == [f"C-5001 {PEER4} → {HOST4} tcp/5001"]
    assert host.place.script("revert", "run001").returncode == 0
    assert host.firewall.reasons(rules(5001, 5002)) == []
    assert all(one.goes_on() for one in host.sessions)


def test_a_ruleset_without_the_rule_for_established_cuts_all(host: Live) -> None:
    looked = host.look(approved(5001, 5002), 3)
    host.firewall.apply(rules(5001, 5002).replace("    ct state established,related accept\n", ""), "run001", 300, time.monotonic)
    assert len(host.still(looked, approved(5001, 5002))["cut"]) == 3
    assert host.place.script("revert", "run001").returncode == 0


def test_a_lock_out_is_taken_back_by_the_clock_alone(host: Live) -> None:
    locked = rules().replace("    ct state established,related accept\n", "")
    host.firewall.apply(locked, "run001", 8, time.monotonic)
    assert not host.first.goes_on(1.5)
    assert until(lambda host=host: host.firewall.reasons(rules(5001, 5002)) == [], 30)
    assert all(one.goes_on() for one in host.sessions)
    assert host.place.script("confirm", "run001").returncode == 1


def test_a_removed_conduit_ends_its_sessions_and_no_other(host: Live) -> None:
    """With the kernel's default, by which a packet from the middle of a connection may begin one: here it meets no rule that lets it in."""
    assert host.place.run(["sysctl", "-n", "net.netfilter.nf_conntrack_tcp_loose"], None)[1].strip() == "1"
    looked = host.look(approved(5001), 1)
    host.firewall.apply(rules(5001), "run001", 300, time.monotonic)
    assert host.still(looked, approved(5001))["cut"] == []
    assert host.place.script("confirm", "run001").returncode == 0
    # The rule for established connections alone would carry them on for ever.
    assert all(one.goes_on() for one in host.sessions)
    deleted, note = cut(host.place.run, approved(5001), Modes("enforce"))
    assert sorted((one["src"], one["dst"], one["dport"]) for one in deleted) == [(PEER4, HOST4, "5002"), (PEER6, HOST6, "5002")] and not note
    time.sleep(0.3)
    counts = [one.heard() for one in host.second]
    assert host.first.goes_on()
    assert not any(one.goes_on(1.0) for one in host.second) and [one.heard() for one in host.second] == counts
    assert cut(host.place.run, approved(5001), Modes("enforce")) == ([], "")


def test_a_rule_added_by_hand_is_shown_and_goes_and_a_foreign_table_stays(host: Live) -> None:
    theirs = "table inet theirs { chain x { type filter hook input priority 10; policy accept; tcp dport 9 drop; }; }"
    assert host.firewall.drift() == ("", "")
    host.place.nft("add", "rule", "inet", "hnai", "input", "tcp", "dport", "4444", "accept")
    assert host.firewall.strangers([]) == []
    host.place.nft("-f", "-", stdin=theirs)
    assert host.firewall.strangers([]) == ["inet theirs"] and host.firewall.strangers(["inet theirs"]) == []
    assert host.firewall.reasons(rules(5001, 5002)) == ["the loaded table was changed by hand"]
    confirmed, loaded = host.firewall.drift()
    assert set(loaded.splitlines()) - set(confirmed.splitlines()) == {"\t\ttcp dport 4444 accept"}
    assert "drop-in" in confirmed and not set(confirmed.splitlines()) - set(loaded.splitlines())
    host.change(rules(5001, 5002), "run001")
    assert host.firewall.reasons(rules(5001, 5002)) == [] and host.firewall.drift() == ("", "")
    assert "tcp dport 9 drop" in host.place.nft("list", "table", "inet", "theirs")
    assert all(one.goes_on() for one in host.sessions)


SITE4 = ["10.0.35.11", "10.0.4.12", "10.0.9.1"]
SITE6 = ["fd00:35::11"]
OUT = """
import socket, sys
for target, port, kind in (("10.0.4.12", 9999, socket.SOCK_DGRAM), ("10.0.35.11", 9094, socket.SOCK_STREAM), ("10.0.35.11", 9999, socket.SOCK_STREAM)):
    dialled = socket.socket(socket.AF_INET, kind)
    dialled.bind(("10.0.3.11", 0))
    dialled.connect((target, port))
    dialled.send(b"x")
print("ready", flush=True)
"""


def test_observe_lists_exactly_what_enforce_would_cut(tmp_path: Path) -> None:
    site = Site.from_dict(copy.deepcopy(FIXTURE))
    text, items = nft.ruleset(site, "edge1", "observe"), nft.approved(site, "edge1")
    expected = {
        ("10.0.35.11", "10.0.3.11", "tcp", 2222, "in"),
        ("fd00:35::11", "fd00:3::11", "tcp", 2222, "in"),
        ("10.0.4.12", "10.0.3.11", "tcp", 7000, "in"),
        ("10.0.3.11", "10.0.4.12", "udp", 9999, "out"),
        ("10.0.3.11", "10.0.35.11", "tcp", 9999, "out"),
        ("10.0.3.11", "10.0.35.11", "tcp", 7001, "out"),
    }
    with stand(tmp_path, ["10.0.3.11", "fd00:3::11"], [*SITE4, *SITE6]) as place:
        firewall = Firewall(place.run, place.state)
        place.serve(place.host, 2222, 7000)
        place.serve(place.others, 9094, 9999, 7001)
        # Older than any rule: nobody tracks them yet.
        older = [place.session(place.others, "10.0.4.12", "10.0.3.11", 7000), place.session(place.host, "10.0.3.11", "10.0.35.11", 7001)]
        assert place.run(["conntrack", "-L"], None)[1] == ""
        firewall.apply(text, "run001", 300, time.monotonic)
        assert place.script("confirm", "run001").returncode == 0
        for source, target in (("10.0.35.11", "10.0.3.11"), ("10.0.35.11", "10.0.3.11"), ("fd00:35::11", "fd00:3::11")):
            place.session(place.others, source, target, 2222)
        dialled = place.spawn(place.host, OUT)
        assert dialled.stdout is not None and dialled.stdout.readline().strip() == b"ready"
        assert all(one.goes_on() for one in older)
        found = seen.observed(place.run, place.state, time.time(), items, Modes("observe"))
        assert {(f["source"], f["target"], f["proto"], f["port"], *f["where"]) for f in found["flows"]} == expected, found["flows"]
        assert (found["full"], found["observing"], found["note"]) == ([], True, "")
        assert not any(f["guessed"] or f["conduit"] for f in found["flows"])
        counts = {(f["source"], f["port"]): (f["count"], f["open"]) for f in found["flows"]}
        assert counts["10.0.35.11", 2222] == (2, 2) and counts["fd00:35::11", 2222] == (1, 1) and counts["10.0.4.12", 7000] == (0, 1)
        now = time.time()
        assert all(now - 300 < f["first"] <= f["last"] <= now + 1 for f in found["flows"])
        assert next(f for f in found["flows"] if f["proto"] == "udp")["users"] == ["root"]
        assert next(f for f in found["flows"] if f["port"] == 2222)["processes"]

        # Another ruleset, a boot: the list stays.
        assert firewall.reasons(text) == []
        firewall.apply(text + "# later\n", "run002", 300, time.monotonic)
        place.script("confirm", "run002")
        assert place.script("keep").returncode == 0 and place.script("load").returncode == 0
        again = seen.observed(place.run, place.state, time.time(), items, Modes("observe"))
        assert {(f["source"], f["target"], f["proto"], f["port"]) for f in again["flows"]} == {one[:4] for one in expected}
        assert {(f["source"], f["port"]): f["count"] for f in again["flows"]}["10.0.35.11", 2222] == 2

        with pytest.raises(FirewallError, match="would cut 6 flow"):
            seen.may_enforce(again["flows"], [], Modes("enforce", approved_by="somebody"))


@pytest.mark.parametrize("tracked", [False, True], ids=["nobody tracked it", "tracked before"])
def test_what_was_open_before_the_rules_and_ended_before_the_list_is_on_it(tmp_path: Path, tracked: bool) -> None:
    """Where nobody tracks, its next packet is the middle of a connection; where somebody does, no rule of ours sees it begin."""
    site = Site.from_dict(copy.deepcopy(FIXTURE))
    text, items = nft.ruleset(site, "edge1", "observe"), nft.approved(site, "edge1")
    with stand(tmp_path, ["10.0.3.11", "fd00:3::11"], [*SITE4, *SITE6]) as place:
        firewall = Firewall(place.run, place.state)
        place.serve(place.host, 7000)
        place.serve(place.others, 7001, 9094)
        go = tmp_path / "go"
        older = [
            place.session(place.others, "10.0.4.12", "10.0.3.11", 7000, go=go),
            place.session(place.others, "fd00:35::11", "fd00:3::11", 7000, go=go),
            place.session(place.host, "10.0.3.11", "10.0.35.11", 7001, go=go),
            place.session(place.host, "10.0.3.11", "10.0.35.11", 9094, go=go),  # approved
        ]
        if tracked:
            place.nft("-f", "-", stdin="table inet theirs { chain in { type filter hook input priority 0; ct state invalid counter; }; }")
            go.touch()
            assert all(one.goes_on() for one in older)
        firewall.apply(text, "run001", 300, time.monotonic, Modes("observe"), items)
        assert place.script("confirm", "run001").returncode == 0
        go.touch()
        assert all(one.goes_on() for one in older)
        for one in older:
            one.process.kill()
            one.process.wait(10)
        time.sleep(0.2)
        place.run(["conntrack", "-F"], None)
        found = seen.observed(place.run, place.state, time.time(), items, Modes("observe"))
        assert {(f["source"], f["target"], f["proto"], f["port"], f["open"], f["guessed"], *f["where"]) for f in found["flows"]} == {
            ("10.0.4.12", "10.0.3.11", "tcp", 7000, 0, False, "in"),
            ("fd00:35::11", "fd00:3::11", "tcp", 7000, 0, False, "in"),
            ("10.0.3.11", "10.0.35.11", "tcp", 7001, 0, False, "out"),
        }, found["flows"]
        # Who is silent at the load is tracked by nobody: the sets alone have to say it.
        assert bool(list((place.state / "observed").glob("*.open"))) == tracked
        seen.forget(place.state, Modes("enforce"))
        assert not list((place.state / "observed").glob("*.open"))


def flow(**more: Any) -> dict[str, Any]:
    return {"source": "10.0.4.12", "target": "10.0.3.11", "proto": "tcp", "port": 7000, "where": ["in"], "conduit": "", **more}


def test_enforce_needs_an_explanation_of_each_flow_and_a_name() -> None:
    wanted = [{"source": "10.0.4.0/24", "target": "10.0.3.11", "proto": "tcp", "port": 7000, "reason": "old"}]
    seen.may_enforce([], [], Modes("enforce", approved_by=""))
    with pytest.raises(FirewallError, match=r"10\.0\.4\.12 → 10\.0\.3\.11 tcp/7000.*hnai_conduits.*firewall_cut_flows"):
        seen.may_enforce([flow()], [], Modes("enforce", approved_by="a name"))
    for explained, cut_flows in ((flow(conduit="C-1"), []), (flow(), wanted)):
        with pytest.raises(FirewallError, match="firewall_approved_by"):
            seen.may_enforce([explained], cut_flows, Modes("enforce", approved_by=" "))
        seen.may_enforce([explained], cut_flows, Modes("enforce", approved_by="a name"))
    for other in (flow(port=7001), flow(source="10.0.5.1"), flow(proto="udp"), flow(target="10.0.3.12")):
        with pytest.raises(FirewallError, match="would cut 1"):
            seen.may_enforce([other], wanted, Modes("enforce", approved_by="a name"))
    with pytest.raises(FirewallError, match="write addresses"):
        seen.may_enforce([flow()], [{**wanted[0], "source": "edge1"}], Modes("enforce", approved_by="a name"))
