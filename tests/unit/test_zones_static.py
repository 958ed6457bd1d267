# SPDX-License-Identifier: Apache-2.0
"""A ruleset judged by what it does to every packet: clean ones pass, each plant turns its own check, and a second reader that takes single
packets comes to the same. The listings are nft's own (fixtures/site/nft-*.json); where nft can run here, it reads mutants of them too.
"""

from __future__ import annotations

import bisect
import copy
import ipaddress
import json
import os
import random
import re
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import mutants
import pytest
import yaml

from ansible_collections.hnai.platform.plugins.module_utils.host.health import run_command
from ansible_collections.hnai.platform.plugins.module_utils.verdict import Report
from ansible_collections.hnai.platform.plugins.module_utils.zones import boxes, dimensions, expectation, findings, nft, observe, rules, ruleset, static
from ansible_collections.hnai.platform.plugins.module_utils.zones import machine as running
from ansible_collections.hnai.platform.plugins.module_utils.zones.model import Site

FIXTURES = Path(__file__).parent / "fixtures/site"
SITE = Site.from_dict(yaml.safe_load((FIXTURES / "site.yml").read_text(encoding="utf-8")))
LISTINGS = {host: (FIXTURES / ("nft-%s.json" % host)).read_text(encoding="utf-8") for host in ("edge1", "router")}
EXPECTED = {host: expectation.expectation(SITE, host) for host in LISTINGS}
USERS = {"hnai-telegraf": 900}
Items = list[dict[str, Any]]


def judge(host: str, items: Items, **more: Any) -> findings.Judgement:
    return rules.judge(json.dumps({"nftables": items}), EXPECTED[host], more.pop("mode", "enforce"), more.pop("declared", ()), USERS.get, **more)


def items(host: str) -> Items:
    return json.loads(LISTINGS[host])["nftables"]


def ours(chain: str, *expr: dict[str, Any], handle: int = 900, comment: str = "") -> dict[str, Any]:
    rule: dict[str, Any] = {"family": "inet", "table": "hnai", "chain": chain, "handle": handle, "expr": list(expr)}
    return {"rule": {**rule, **({"comment": comment} if comment else {})}}


def first(found: Items, rule: dict[str, Any]) -> Items:
    """The rule before all others of its chain."""
    return [*(one for one in found if "rule" not in one), rule, *(one for one in found if "rule" in one)]


def match(left: dict[str, Any], right: Any, op: str = "==") -> dict[str, Any]:
    return {"match": {"op": op, "left": left, "right": right}}


def payload(protocol: str, name: str, right: Any, op: str = "==") -> dict[str, Any]:
    return match({"payload": {"protocol": protocol, "field": name}}, right, op)


def meta(key: str, right: Any, op: str = "==") -> dict[str, Any]:
    return match({"meta": {"key": key}}, right, op)


def ct(key: str, right: Any, op: str = "in") -> dict[str, Any]:
    return match({"ct": {"key": key}}, right, op)


ACCEPT: dict[str, Any] = {"accept": None}
DROP: dict[str, Any] = {"drop": None}
DPORT = payload("tcp", "dport", 4444)


def other(
    hook: str, *rules: Sequence[dict[str, Any]], family: str = "inet", kind: str = "filter", prio: int = 0, policy: str = "accept", device: str = ""
) -> Items:
    place = {"family": family, "table": "other"}
    chain = {**place, "name": "any", "handle": 1, "type": kind, "hook": hook, "prio": prio, "policy": policy, **({"dev": device} if device else {})}
    return [
        {"table": {"family": family, "name": "other", "handle": 9}},
        {"chain": chain},
        *({"rule": {**place, "chain": "any", "handle": 2 + number, "expr": list(expr)}} for number, expr in enumerate(rules)),
    ]


def chain(name: str, **more: Any) -> dict[str, Any]:
    return {"chain": {"family": "inet", "table": "hnai", "name": name, "handle": 800, **more}}


def named(kind: str, name: str, **more: Any) -> dict[str, Any]:
    return {kind: {"family": "inet", "table": "hnai", "name": name, "handle": 700, **more}}


def with_set(elements: list[Any], *, kind: str = "ipv4_addr", flags: Sequence[str] = ()) -> Callable[[Items], Items]:
    field = "ip" if kind == "ipv4_addr" else "ip6"
    return lambda found: first(
        [named("set", "peers", type=kind, flags=list(flags), elem=elements), *found], ours("input", payload(field, "saddr", "@peers"), ACCEPT)
    )


def planted(*expr: dict[str, Any], at: str = "input", **more: Any) -> Callable[[Items], Items]:
    return lambda found: first(found, ours(at, *expr, **more))


def beside(hook: str, *rules: Sequence[dict[str, Any]], **more: Any) -> Callable[[Items], Items]:
    return lambda found: [*found, *other(hook, *rules, **more)]


def without(words: str) -> Callable[[Items], Items]:
    return lambda found: [one for one in found if words not in json.dumps(one)]


def changed(old: str, new: str, count: int = -1) -> Callable[[Items], Items]:
    return lambda found: json.loads(json.dumps(found).replace(old, new, count))


@pytest.mark.parametrize("host", sorted(LISTINGS))
def test_what_the_generator_writes_is_what_the_model_means(host: str) -> None:
    found = judge(host, items(host))
    assert [one.line for one in found.all] == [] and not found.unknown and found.boxes > 80


# What lies in front of our chains: (plant, host, kinds of sure findings, part of a line).
PLANTS: dict[str, tuple[Callable[[Items], Items], str, set[str], str]] = {
    "a port more": (planted(DPORT, ACCEPT), "edge1", {"extra", "foreign_rule"}, "dport 4444"),
    "a hidden new": (changed('["established", "related"]', '["established", "related", "new"]'), "edge1", {"extra", "foreign_rule"}, "state new"),
    "every protocol but one": (planted(meta("l4proto", "tcp", "!="), ACCEPT), "edge1", {"extra", "foreign_rule"}, "proto udp"),
    "any transport": (planted(payload("th", "dport", {"range": [1000, 1100]}), ACCEPT), "edge1", {"extra", "foreign_rule"}, "dport 1000"),
    "IPv6 alone": (planted(meta("nfproto", "ipv6"), ACCEPT), "edge1", {"extra", "foreign_rule"}, "such as IPv6"),
    "an IPv6 range": (planted(payload("ip6", "saddr", {"range": ["fd00:4::1", "fd00:4::ff"]}), ACCEPT), "edge1", {"extra", "foreign_rule"}, "fd00:4::"),
    "a mark": (planted(meta("mark", 1), ACCEPT), "edge1", {"extra", "foreign_rule"}, "meta mark 1"),
    "a masked mark": (planted(match({"&": [{"meta": {"key": "mark"}}, 255]}, 1), ACCEPT), "edge1", {"extra", "foreign_rule"}, "meta mark & 255 1"),
    "what nat has rewritten": (planted(ct("status", "dnat"), ACCEPT), "edge1", {"extra", "foreign_rule"}, "ct status"),
    "answers by flags": (
        planted(match({"&": [{"payload": {"protocol": "tcp", "field": "flags"}}, ["syn", "ack"]]}, "syn", "!="), ACCEPT),
        "edge1",
        {"extra", "foreign_rule"},
        "tcp flags",
    ),
    "a stranger's address among the peers": (with_set(["10.0.9.11", "192.0.2.9"]), "edge1", {"extra", "foreign_rule"}, "saddr"),
    "an interval with a timeout": (
        with_set([{"elem": {"val": {"prefix": {"addr": "10.0.4.0", "len": 24}}, "timeout": 60}}], flags=("interval", "timeout")),
        "edge1",
        {"extra", "foreign_rule"},
        "saddr 10.0.4.",
    ),
    "a verdict map": (
        planted({"vmap": {"key": {"payload": {"protocol": "tcp", "field": "dport"}}, "data": {"set": [[4444, ACCEPT], [{"range": [7000, 7005]}, ACCEPT]]}}}),
        "edge1",
        {"extra", "foreign_rule"},
        "dport 4444",
    ),
    "a concatenation": (
        planted(
            match(
                {"concat": [{"payload": {"protocol": "ip", "field": "saddr"}}, {"payload": {"protocol": "tcp", "field": "dport"}}]},
                {"set": [{"concat": [{"prefix": {"addr": "192.0.2.0", "len": 28}}, {"range": [80, 90]}]}]},
            ),
            ACCEPT,
        ),
        "edge1",
        {"extra", "foreign_rule"},
        "dport 80",
    ),
    "a chain that is gone to": (
        lambda found: first([chain("more"), ours("more", ACCEPT, handle=901), *found], ours("input", DPORT, {"goto": {"target": "more"}})),
        "edge1",
        {"extra", "foreign_rule"},
        "chain more",
    ),
    "what a conduit says of another": (changed('"C-002"', '"C-101"'), "edge1", {"uncounted", "foreign_rule"}, "no counted rule of its own"),
    "a conduit is gone": (without("C-002"), "edge1", {"missing", "uncounted"}, "cuts C-002"),
    "no established": (without('["established", "related"]'), "edge1", {"no_established"}, "state established"),
    "established alone": (changed('["established", "related"]', '"established"'), "edge1", {"no_established"}, "state related"),
    "an open policy": (changed('"policy": "drop"', '"policy": "accept"', 1), "edge1", {"policy"}, "policy is accept"),
    "an open policy and no end": (
        lambda found: without("drop-in")(changed('"policy": "drop"', '"policy": "accept"')(found)),
        "edge1",
        {"policy", "extra", "uncounted"},
        "on the way in",
    ),
    "a spoofed source": (without("spoof-l3"), "router", {"extra"}, "iif l3"),
    "antispoofing after established": (
        lambda found: [*without("antispoof")(found), *(one for one in found if "chain" in one and one["chain"]["name"] == "antispoof")],
        "router",
        {"extra"},
        "packets of connections",
    ),
    "no limit": (without("C-101 connections"), "router", {"extra"}, "connections 3"),
    "a wider limit": (changed('{"ct count": {"val": 2, "inv": true}}', '{"ct count": {"val": 200, "inv": true}}'), "router", {"extra"}, "connections 3"),
    "a faster rate": (changed('"rate": 6,', '"rate": 600,'), "router", {"extra"}, "rate with burst"),
    "any way through": (
        changed('{"match": {"op": "==", "left": {"meta": {"key": "oifname"}}, "right": "l35"}}, ', ""),
        "router",
        {"extra"},
        "on the way forward",
    ),
    "a drop of others": (
        beside("input", [payload("tcp", "dport", 22), DROP], prio=-5),
        "edge1",
        {"missing", "no_established", "foreign_table"},
        "table inet other",
    ),
    "a drop after routing": (
        beside("postrouting", [payload("udp", "dport", 123), DROP], prio=300),
        "edge1",
        {"missing", "no_established", "foreign_table"},
        "cuts C-003",
    ),
    "an accept of others": (beside("input", [ACCEPT], prio=-100), "edge1", {"foreign_table"}, "opens nothing"),
    "an accept before routing": (beside("prerouting", [ACCEPT], prio=-300), "router", {"foreign_table"}, "opens nothing"),
    "a second forward chain": (beside("forward", [ACCEPT], prio=10), "router", {"foreign_table"}, "opens nothing"),
    "notrack": (beside("prerouting", [{"notrack": None}], prio=-300), "edge1", {"notrack", "missing", "no_established", "foreign_table", "extra"}, "state new"),
    "notrack too late": (beside("prerouting", [{"notrack": None}], prio=0), "edge1", {"foreign_table"}, "opens nothing"),
    "dnat": (
        beside("prerouting", [payload("tcp", "dport", 22), {"dnat": {"addr": "192.0.2.1"}}], family="ip", kind="nat", prio=-100),
        "edge1",
        {"nat", "foreign_table"},
        "dnat",
    ),
    "masquerade": (beside("postrouting", [{"masquerade": None}], family="ip", kind="nat", prio=100), "router", {"nat", "foreign_table"}, "masquerade"),
    "a rewritten address": (
        beside("prerouting", [{"mangle": {"key": {"payload": {"protocol": "ip", "field": "daddr"}}, "value": "192.0.2.1"}}], prio=-150),
        "edge1",
        {"nat", "foreign_table"},
        "mangle",
    ),
    "an offloaded flow": (
        lambda found: first(
            [named("flowtable", "fast", hook="ingress", prio=0, dev=["l3"]), *found],
            ours("forward", ct("state", "established"), {"flow": {"op": "add", "flowtable": "@fast"}}),
        ),
        "router",
        {"flowtable", "foreign_rule"},
        "past the chains",
    ),
    "a queue": (planted({"queue": {"num": 1, "flags": ["bypass"]}}, at="forward"), "router", {"queue", "foreign_rule"}, "a program"),
    "another way out": (
        beside("ingress", [{"fwd": {"dev": "l4"}}], family="netdev", device="l2"),
        "router",
        {"bypass", "missing", "no_established", "foreign_table"},
        "fwd",
    ),
    "a copy": (beside("prerouting", [{"dup": {"addr": "192.0.2.1"}}], family="ip", prio=-150), "router", {"bypass", "foreign_table"}, "dup"),
    "a helper": (beside("prerouting", [{"ct helper": "ftp"}]), "router", {"helper", "foreign_table"}, "further connections"),
    "the device's own drop": (beside("ingress", [DROP], family="netdev", device="l4"), "router", {"missing", "no_established", "foreign_table"}, "iif l4"),
    "everything flushed": (
        lambda found: [one for one in found if "rule" not in one],
        "edge1",
        {"missing", "no_established", "uncounted"},
        "what every host needs",
    ),
    "no table": (lambda found: found[:1], "edge1", {"policy", "extra"}, "no chain of ours"),
    "a further chain of ours": (
        lambda found: [*found, chain("late", type="filter", hook="input", prio=5, policy="accept")],
        "edge1",
        {"policy", "foreign_rule"},
        "no model has",
    ),
    "our chain at another priority": (changed('"prio": 0', '"prio": -5', 1), "edge1", {"foreign_rule"}, "at priority -5"),
    "our chain of another type": (changed('"type": "filter", "hook": "output"', '"type": "route", "hook": "output"'), "edge1", {"foreign_rule"}, "type route"),
    "a header rewritten by a rule of ours": (
        planted({"mangle": {"key": {"tcp option": {"name": "maxseg", "field": "size"}}, "value": 40}}, at="output"),
        "edge1",
        {"foreign_rule"},
        "handle 900",
    ),
    "a jump with another's comment": (planted({"jump": {"target": "antispoof"}}, at="forward", comment="C-101"), "router", {"foreign_rule"}, "handle 900"),
    "refused, not dropped": (changed('{"drop": null}], "comment": "drop-in"', '{"reject": null}], "comment": "drop-in"'), "edge1", {"foreign_rule"}, "drop-in"),
}


def _comment_last(found: Items) -> Items:
    """The comment behind the expression, as some versions write it: then a test can change both in one place."""
    for one in found:
        if "rule" in one and "comment" in one["rule"]:
            one["rule"]["comment"] = one["rule"].pop("comment")
    return found


@pytest.mark.parametrize("name", PLANTS)
def test_each_plant_is_named_for_what_it_does(name: str) -> None:
    plant, host, kinds, words = PLANTS[name]
    found = judge(host, plant(_comment_last(items(host))))
    got = {one.kind for one in found.all if one.sure}
    # A rule that lets through more because another is gone may be taken for one of somebody else's.
    assert kinds <= got <= kinds | {"foreign_rule"}, [one.line for one in found.all]
    assert any(words in one.line for one in found.all), [one.line for one in found.all]
    assert not found.unknown and all(findings.REMEDY.get(one.kind) for one in found.all)


# What nobody can decide by the packet: the judgement that hangs on it is open, and says on what.
OPEN: dict[str, tuple[Callable[[Items], Items], str]] = {
    "chance": (planted(match({"numgen": {"mode": "random", "mod": 4, "offset": 0}}, 0), ACCEPT), "numgen"),
    "the routing table": (planted(match({"fib": {"result": "type", "flags": ["saddr"]}}, "unicast"), ACCEPT), "fib"),
    "an extension of iptables": (planted({"xt": {"type": "target", "name": "NFQUEUE"}}), "NFQUEUE"),
    "an extension that says nothing": (planted({"xt": None}, ACCEPT), "an extension of iptables"),
    "a statement of tomorrow": (planted({"novelty": {"x": 1}}), "novelty"),
    "an expression of tomorrow": (planted(match({"novelty": {}}, 1), ACCEPT), "novelty"),
    "an unknown user": (planted(meta("skuid", "nobody-knows"), ACCEPT, at="output"), "nobody-knows"),
    "a set that packets fill": (
        lambda found: first([named("set", "peers", type="ipv4_addr", flags=["dynamic"]), *found], ours("input", payload("ip", "saddr", "@peers"), ACCEPT)),
        "@peers",
    ),
    "a named limit": (planted({"limit": "slow"}, ACCEPT), "slow"),
}


@pytest.mark.parametrize("name", OPEN)
def test_what_is_not_understood_leaves_the_judgement_open(name: str) -> None:
    plant, words = OPEN[name]
    found = judge("edge1", plant(items("edge1")))
    assert [one.construct for one in found.unknown if words in one.construct and one.where.handle == 900]
    rules = [one for one in found.rules if one.kind == "extra"]
    assert rules and not any(one.sure for one in rules) and all(words in one.doubt for one in rules)
    assert "handle 900" in rules[0].doubt


def before_the_end(*rules: dict[str, Any]) -> Items:
    listed = items("edge1")
    end = next(number for number, one in enumerate(listed) if "rule" in one and one["rule"].get("comment") == "drop-in")
    return [*listed[:end], *rules, *listed[end:]]


SLOW = {"limit": {"rate": 1, "burst": 1, "per": "hour"}}
# What seems to refuse everything before a rule that seems to let nothing more through. Each was seen to let a connection through.
HOLLOW: dict[str, list[dict[str, Any]]] = {
    "a user, of packets that have no socket": [meta("skuid", 0, ">=")],
    "a group": [meta("skgid", 0, ">=")],
    "a control group": [meta("cgroup", 0, ">=")],
    "a mark of connections, of what has none": [ct("mark", 0, ">=")],
    "both directions of connections": [ct("direction", {"set": ["original", "reply"]}, "==")],
    "a limit with a budget of its own": [SLOW],
    "a quota of its own": [{"quota": {"val": 1000, "val_unit": "bytes"}}],
}


@pytest.mark.parametrize("comment", ["drop-in", "invalid-in"])
@pytest.mark.parametrize("name", HOLLOW)
def test_what_refuses_nothing_hides_nothing(name: str, comment: str) -> None:
    asks = HOLLOW[name]
    way = [*(asks if name.startswith(("a limit", "a quota")) else ()), {"counter": None}, ACCEPT]
    hollow = ours("input", *asks, {"counter": None}, DROP, comment=comment)
    found = judge("edge1", before_the_end(hollow, ours("input", *way, handle=901, comment="C-002")))
    assert any(one.kind == "foreign_rule" and one.where.handle == 900 for one in found.foreign)
    assert name.startswith(("a limit", "a quota")) or any(one.kind == "extra" and one.sure and one.where.handle == 901 for one in found.rules)


def test_a_limit_of_a_conduit_refuses_what_is_over_it() -> None:
    listed = items("router")
    rule = next(one["rule"] for one in listed if "rule" in one and one["rule"].get("comment") == "C-101 new_per_minute")
    within = copy.deepcopy(rule)
    within["handle"] = 900
    next(step["limit"] for step in within["expr"] if "limit" in step).pop("inv")
    found = judge("router", [*listed, {"rule": within}])
    assert [one.where.handle for one in found.foreign] == [900]


def _moved(rule: dict[str, Any], first: str) -> None:
    """The statement of that kind before all others of the rule."""
    rule["expr"].sort(key=lambda one: first not in one)


@pytest.mark.parametrize(("comment", "kind"), [("C-101 new_per_minute", "limit"), ("C-101 connections", "ct count")])
def test_a_limit_that_others_spend_is_none_of_the_conduits(comment: str, kind: str) -> None:
    """Asked before its addresses, or for a port more, a limit refuses the conduit because somebody else knocks."""

    def changed_first(change: Callable[[dict[str, Any]], None]) -> findings.Judgement:
        listed = items("router")
        rule = next(one["rule"] for one in listed if "rule" in one and one["rule"].get("comment") == comment)
        change(rule)
        return judge("router", listed)

    def wider(rule: dict[str, Any]) -> None:
        port = next(one["match"] for one in rule["expr"] if "match" in one and one["match"]["left"].get("payload", {}).get("field") == "dport")
        port["right"] = {"set": [port["right"], 4444]}

    assert not changed_first(lambda _rule: None).all
    for change in (lambda rule: _moved(rule, kind), wider):
        assert [one.where.comment for one in changed_first(change).foreign] == [comment]


def test_a_counter_before_what_its_rule_asks_for_is_not_the_conduits() -> None:
    listed = items("edge1")
    for one in listed:
        if "rule" in one and one["rule"].get("comment") == "C-002":
            _moved(one["rule"], "counter")
    assert {one.kind for one in judge("edge1", listed).all} == {"uncounted"}


#: What a declared table does to packets that no conduit carries any more. Each was seen to end connections.
REWRITTEN: dict[str, Items] = {
    "another MAC address": other("egress", [{"mangle": {"key": {"payload": {"protocol": "ether", "field": "daddr"}}, "value": "02:00:00:00:00:01"}}],
                                 family="netdev", device="eth0"),
    "one hop left": other("prerouting", [{"mangle": {"key": {"payload": {"protocol": "ip", "field": "ttl"}}, "value": 1}}], prio=-150),
    "a flag of TCP": other("postrouting", [{"mangle": {"key": {"payload": {"protocol": "tcp", "field": "flags"}}, "value": "rst"}}]),
    "a length": other("postrouting", [{"mangle": {"key": {"payload": {"protocol": "ip", "field": "length"}}, "value": 20}}]),
    "a state that ends after a second": other("prerouting", [{"ct timeout": "short"}]),
}


@pytest.mark.parametrize("name", REWRITTEN)
def test_a_header_that_somebody_rewrites_leaves_the_judgement_open(name: str) -> None:
    family = REWRITTEN[name][0]["table"]["family"]
    found = judge("edge1", [*items("edge1"), *REWRITTEN[name]], declared=[family + " other"])
    assert found.unknown and any(one.kind == "missing" and not one.sure for one in found.rules)
    marked = other("postrouting", [{"mangle": {"key": {"payload": {"protocol": "ip", "field": "dscp"}}, "value": "cs1"}}])
    assert not judge("edge1", [*items("edge1"), *marked], declared=["inet other"]).all


@pytest.mark.parametrize("asks", [SLOW, {"quota": {"val": 100, "val_unit": "mbytes", "inv": True}}, {"ct count": {"val": 100, "inv": True}}])
def test_a_set_whose_elements_have_a_budget_refuses_for_nobody_knows_whom(asks: dict[str, Any]) -> None:
    """A declared table seems to drop what a rule of ours lets through. Each was seen to let a connection through."""
    place = {"family": "inet", "table": "other"}
    for entry in ({"elem": {"val": "10.0.4.12", **asks}}, "10.0.4.12"):
        told = {"set": {**place, "name": "s", "handle": 7, "type": "ipv4_addr", "elem": [entry], "stmt": [asks] if entry == "10.0.4.12" else []}}
        drops = other("input", [meta("iifname", "lo", "!="), payload("ip", "saddr", "@s"), DPORT, DROP], prio=-10)
        way = ours("input", payload("ip", "saddr", "10.0.4.12"), DPORT, ct("state", "new"), {"counter": None}, ACCEPT, comment="C-002")
        found = judge("edge1", first([*items("edge1"), told, *drops], way), declared=["inet other"])
        assert found.unknown and any(one.kind == "extra" and not one.sure for one in found.rules)
        told["set"].update(elem=["10.0.4.12"], stmt=[{"counter": None}])
        assert not judge("edge1", first([*items("edge1"), told, *drops], way), declared=["inet other"]).unknown


def test_antispoofing_has_no_budget() -> None:
    found = judge("router", [*items("router"), ours("antispoof", meta("iifname", "l3"), SLOW, {"counter": None}, DROP, comment="spoof-l3")])
    assert [one.where.handle for one in found.foreign] == [900]


OF_A_NEWER_NFT: dict[str, tuple[list[dict[str, Any]], str]] = {
    "a packet inside": ([match({"payload": {"tunnel": "vxlan", "protocol": "ip", "field": "saddr"}}, "10.0.9.11")], "vxlan"),
    "a bit that is not listed": ([ct("status", 128)], "128"),
    "under a mask that is not listed": ([match({"&": [{"ct": {"key": "status"}}, 4096]}, 4096)], "4096"),
    "a limit for each address": ([{"set": {"op": "update", "elem": {"payload": {"protocol": "ip", "field": "saddr"}}, "set": "@s", "stmt": [SLOW]}}], "stmt"),
    "another zone of conntrack": ([{"mangle": {"key": {"ct": {"key": "zone"}}, "value": 7}}], "zone"),
}


@pytest.mark.parametrize("name", OF_A_NEWER_NFT)
def test_what_is_told_by_half_is_not_understood(name: str) -> None:
    expr, words = OF_A_NEWER_NFT[name]
    found = judge("edge1", first(items("edge1"), ours("input", *expr, {"counter": None}, ACCEPT, comment="C-002")))
    assert [one.construct for one in found.unknown if words in one.construct]
    assert any(one.kind == "extra" and not one.sure and words in one.doubt for one in found.rules)


def test_a_chain_at_some_device_refuses_there_alone() -> None:
    """nft 1.0.6 leaves the device out of its JSON."""
    opened = first(items("edge1"), ours("input", {"counter": None}, ACCEPT, comment="C-002"))
    drops = other("ingress", [DROP], family="netdev")
    found = judge("edge1", [*opened, *drops])
    assert any(one.kind == "extra" and "nobody says which" in one.doubt for one in found.rules)
    assert not any(one.sure and one.kind == "missing" for one in found.rules)
    text = 'table netdev other {\n\tchain any {\n\t\ttype filter hook ingress device "%s" priority 0; policy accept;\n'
    there = judge("edge1", [*opened, *drops], at=ruleset.devices(text % "wlan7"))
    assert any(one.kind == "extra" and one.sure for one in there.rules)
    here = judge("edge1", [*opened, *drops], at=ruleset.devices(text % "eth0"))
    assert any(one.kind == "missing" and one.sure for one in here.rules)


def test_devices_are_read_from_the_text() -> None:
    text = (
        'table netdev f {\n\tchain p {\n\t\ttype filter hook ingress device "eth0" priority -500; policy drop;\n\t}\n\n'
        '\tchain q {\n\t\ttype filter hook egress devices = { eth0, "eth1" } priority filter; policy accept;\n\t}\n}\n'
        "table inet g {\n\tchain p {\n\t\ttype filter hook input priority filter; policy accept;\n\t}\n}\n"
    )
    assert ruleset.devices(text) == {("netdev", "f", "p"): ("eth0",), ("netdev", "f", "q"): ("eth0", "eth1")}


def test_an_unknown_that_can_only_refuse_what_is_refused_anyway_leaves_nothing_open() -> None:
    listed = items("edge1")
    end = next(number for number, one in enumerate(listed) if "rule" in one and one["rule"].get("comment") == "drop-in")
    found = judge("edge1", [*listed[:end], ours("input", DPORT, match({"novelty": {}}, 1), DROP), *listed[end:]])
    assert found.unknown and not found.rules and not found.state


def test_a_foreign_table_that_the_site_declares_is_no_finding_but_what_it_does_is() -> None:
    harmless = [*items("edge1"), *other("input", [ACCEPT])]
    assert {one.kind for one in judge("edge1", harmless).all} == {"foreign_table"}
    assert not judge("edge1", harmless, declared=["inet other"]).all
    cutting = [*items("edge1"), *other("input", [payload("tcp", "dport", 22), DROP])]
    assert {one.kind for one in judge("edge1", cutting, declared=["inet other"]).all} == {"missing", "no_established"}


def test_a_dormant_table_of_ours_protects_nobody() -> None:
    text = "table inet hnai {\n\tflags dormant\n\n\tchain x {\n\t\tset flags dormant\n\t}\n}\ntable ip y {\n}\n"
    assert ruleset.dormant(text) == {("inet", "hnai")}
    found = judge("edge1", items("edge1"), sleeping=ruleset.dormant(text))
    assert {"policy", "extra", "bypass"} <= {one.kind for one in found.all}


def test_counters_and_handles_are_nothing() -> None:
    moved = json.loads(json.dumps(items("router")).replace('"packets": 0', '"packets": 77'))
    for number, one in enumerate(moved):
        for body in one.values():
            if "handle" in body:
                body["handle"] = 5000 + number
    assert not judge("router", moved).all


def test_bridged_frames_and_arp_are_said_to_be_open() -> None:
    frames = [*items("edge1"), *other("forward", [DROP], family="bridge")]
    assert [one.sure for one in judge("edge1", frames).around] == [False]
    assert not judge("edge1", frames, bridged=False).around
    found = judge("edge1", [*items("edge1"), *other("input", [DROP], family="arp")])
    assert [(one.kind, one.sure) for one in found.rules] == [("missing", False)]


def test_an_interface_that_is_not_there_cuts_nobody() -> None:
    gone = [*items("edge1"), *other("input", [meta("iifname", "eth7"), DROP])]
    assert {one.kind for one in judge("edge1", gone).all} >= {"missing"}
    assert {one.kind for one in judge("edge1", gone, interfaces=["lo", "eth0"]).all} == {"foreign_table"}


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"nftables": [1]}', '{"nftables": [{"rule": {}}]}', '{"nftables": [{"chain": {"family": "inet"}}]}'])
def test_no_listing_is_no_judgement(text: str) -> None:
    with pytest.raises(boxes.RulesetError):
        rules.judge(text, EXPECTED["edge1"], "enforce", (), USERS.get)


def test_chains_that_jump_in_a_circle_are_refused() -> None:
    round_ = [chain("one"), ours("one", {"jump": {"target": "one"}}, handle=1), *items("edge1")]
    with pytest.raises(boxes.RulesetError, match="circle"):
        judge("edge1", first(round_, ours("input", {"jump": {"target": "one"}})))


# -- the expectation comes from the model ------------------------------------------------------------------------------------------


def test_the_expectation_follows_the_model() -> None:
    data = yaml.safe_load((FIXTURES / "site.yml").read_text(encoding="utf-8"))
    conduit = next(one for one in data["conduits"] if one["id"] == "C-101")
    conduit["uid"] = 902
    data["hosts"]["edge1"]["second_addresses"] = {"filter": {"v4": "10.0.3.99", "v6": "fd00:3::99"}}
    conduit["source_address"] = "filter"
    site = Site.from_dict(data)
    (entry,) = [one for one in expectation.expectation(site, "edge1")["conduits"] if one["id"] == "C-101" and one["version"] == 4]
    assert (entry["uid"], entry["origins"], entry["targets"], entry["path"]) == (902, ["10.0.3.99"], ["10.0.2.11"], "output")
    (routed,) = [one for one in expectation.expectation(site, "router")["conduits"] if one["id"] == "C-101" and one["version"] == 4]
    assert (routed["iif"], routed["oif"], routed["sources"], routed["limits"]) == ("l3", "l2", ["10.0.3.99"], {"connections": 2, "new_per_minute": 6})
    found = rules.judge(LISTINGS["edge1"], expectation.expectation(site, "edge1"), "enforce", (), USERS.get)
    assert any(one.kind == "extra" and one.conduit == "C-101" for one in found.rules), "every user may open what one alone may"


def test_a_model_without_a_conduit_finds_its_rule() -> None:
    data = yaml.safe_load((FIXTURES / "site.yml").read_text(encoding="utf-8"))
    data["conduits"] = [one for one in data["conduits"] if one["id"] != "C-201"]
    for host in LISTINGS:
        found = rules.judge(LISTINGS[host], expectation.expectation(Site.from_dict(data), host), "enforce", (), USERS.get)
        assert any(one.kind == "extra" and one.where.comment == "C-201" for one in found.rules), host
        assert any(one.kind == "foreign_rule" and one.where.comment == "C-201" for one in found.foreign), host


# -- single packets, by another reader ---------------------------------------------------------------------------------------------


def passes(outcome: running.Outcome, classes: boxes.Classes, packet: mutants.Packet) -> bool:
    """Is a packet among the boxes that pass?"""
    known = {
        "saddr": int(packet["saddr"]),
        "daddr": int(packet["daddr"]),
        "proto": packet["proto"],
        "sport": packet["sport"],
        "dport": packet["dport"],
        "uid": packet["uid"],
        "icmpv6 type": packet["type"],
        "icmp type": packet["type"],
        "ip6 hoplimit": packet["hoplimit"],
        "iif": packet["iif"],
        "oif": packet["oif"],
        "ct": packet["state"],
    }
    bits = []
    for number, name in enumerate(classes.names):
        if name in classes._atoms:
            atoms = classes._atoms[name]
            bits.append(1 << (atoms.index(known[name]) if known.get(name) in atoms else atoms.index("~other")))
        else:
            value = known.get(name, classes._tops[name] if packet["over"] else 0)
            bits.append(1 << (bisect.bisect_right(classes._starts[name], value) - 1))
        assert bits[-1] & classes.full[number]
    return any(all(one & bit for one, bit in zip(part.box, bits)) for part in outcome.passed)


def draw(rng: random.Random, host: str, path: str) -> mutants.Packet:
    version = rng.choice((4, 6))
    known = [
        text for node in SITE.nodes.values() for text in (node.v4, node.v6, *(leg.v4 for leg in node.interfaces)) if (":" in text) == (version == 6) and text
    ]
    known.append("198.51.100.7" if version == 4 else "2001:db8::7")
    legs = ["l2", "l3", "l35", "l4", "security", "mgmt", "eth0", "lo"] if host == "router" else ["eth0", "lo"]
    ports = [22, 123, 4840, 8883, 9093, 9094, 9095, 40000]
    return mutants.Packet(
        version=version,
        saddr=ipaddress.ip_address(rng.choice(known)),
        daddr=ipaddress.ip_address(rng.choice(known)),
        proto=rng.choice((6, 6, 6, 17, 58 if version == 6 else 1)),
        sport=rng.choice(ports),
        dport=rng.choice(ports),
        iif=rng.choice([one for one in legs if path != "forward" or one != "lo"]) if path != "output" else "",
        oif=rng.choice([one for one in legs if path != "forward" or one != "lo"]) if path != "input" else "",
        state=rng.choice(("new", "new", "new", "established", "related", "invalid", "untracked")),
        uid=rng.choice((0, 902, 65534)),
        type=rng.choice((1, 2, 128, 131, 135, 136, 143)),
        hoplimit=rng.choice((64, 255)),
        over=rng.random() < 0.2,
    )


def walkable(host: str) -> Iterator[Items]:
    """The listing, and some with faults that a walker can follow."""
    yield items(host)
    for name in (
        "a port more",
        "a hidden new",
        "every protocol but one",
        "an IPv6 range",
        "no established",
        "an open policy",
        "a chain that is gone to",
        "a drop of others",
        "an accept of others",
        "a second forward chain",
    ):
        yield PLANTS[name][0](items(host))


@pytest.mark.parametrize("host", sorted(LISTINGS))
def test_a_reader_of_single_packets_comes_to_the_same(host: str) -> None:
    rng = random.Random(20)
    agreed, through = 0, 0
    for found in walkable(host):
        text = json.dumps({"nftables": found})
        walker = mutants.Walker(text)
        for version in (4, 6):
            program = ruleset.parse(text, version, USERS.get)
            classes = running.classes_of(program, [one.cube for one in expectation.wanted(EXPECTED[host], version)])
            machine = running.Machine(program, classes)
            for path in dimensions.PATHS:
                outcome = machine.run(path)
                for _turn in range(48):
                    packet = draw(rng, host, path)
                    if packet["version"] != version:
                        continue
                    assert passes(outcome, classes, packet) == walker.passes(path, packet), (path, packet)
                    agreed += 1
                    through += walker.passes(path, packet)
    assert agreed > 1000 and 100 < through < agreed - 100, (agreed, through)


def test_a_proof_tells_two_rulesets_apart_and_equals_alike() -> None:
    places = {4: ["10.0.9.11", "10.0.3.11", "10.0.2.11"], 6: ["fd00:9::11", "fd00:3::11"]}
    ports = [("tcp", 22), ("tcp", 4444)]
    reordered = items("edge1")
    rules = [
        number for number, one in enumerate(reordered) if "rule" in one and one["rule"]["chain"] == "input" and one["rule"].get("comment", "").startswith("C-")
    ]
    reordered[rules[0]], reordered[rules[1]] = reordered[rules[1]], reordered[rules[0]]
    same = mutants.equivalent(LISTINGS["edge1"], json.dumps({"nftables": reordered}), places, ports, EXPECTED["edge1"])
    assert not same.differs and same.compared > 1000 and not judge("edge1", reordered).all
    opened = PLANTS["a port more"][0](items("edge1"))
    assert "input" in mutants.equivalent(LISTINGS["edge1"], json.dumps({"nftables": opened}), places, ports, EXPECTED["edge1"]).differs


# -- mutants, by nft itself -------------------------------------------------------------------------------------------------------


@pytest.mark.namespaces
def test_one_mutant_of_each_operator_is_found() -> None:
    """`make scenario NAME=zones-mutants` takes hundreds."""
    everything = [one for host in LISTINGS for one in mutants.mutants(host, nft.ruleset(SITE, host))]
    names = sorted({one.operator for one in everything})
    assert len(everything) > 600 and len(names) >= 40
    rng = random.Random(3)
    chosen = [rng.choice([one for one in everything if one.operator == name]) for name in names]
    found = 0
    for mutant, read in zip(chosen, mutants.Nft.read([one.text for one in chosen])):
        if isinstance(read, str):
            continue
        judgement = rules.judge(read[0], EXPECTED[mutant.host], "enforce", (), USERS.get, None, ruleset.dormant(read[1]))
        assert judgement.all or judgement.unknown or mutant.operator == "reorder", mutant.name
        found += bool(judgement.all)
    assert found >= 34, found


@pytest.mark.namespaces
def test_second_addresses_and_boundaries_of_others_are_judged_as_the_model_has_them() -> None:
    data = yaml.safe_load((FIXTURES / "site.yml").read_text(encoding="utf-8"))
    data["hosts"]["edge1"]["second_addresses"] = {"filter": {"v4": "10.0.3.99", "v6": "fd00:3::99"}}
    next(one for one in data["conduits"] if one["id"] == "C-101")["source_address"] = "filter"
    data["boundaries"] = {"plant": {"between": ["l2", "l3"], "enforced_by": "external", "owner": "plant", "reason": "theirs"}}
    site = Site.from_dict(data)
    texts = {host: nft.ruleset(site, host) for host in ("edge1", "router")}
    # One conduit's rule without its own address: the second one could be used for it.
    loose = texts["edge1"].replace("ip saddr 10.0.3.11 ip daddr 10.0.9.11 udp", "ip daddr 10.0.9.11 udp")
    assert not site.problems and "l2" in texts["router"] and loose != texts["edge1"]
    read = mutants.Nft.read([*texts.values(), loose])
    found = [rules.judge(one[0], expectation.expectation(site, host), "enforce", (), USERS.get) for host, one in zip(("edge1", "router", "edge1"), read)]
    assert [one.line for each in found[:2] for one in each.all] == []
    assert [one.conduit for one in found[2].rules if one.kind == "extra" and one.sure] == ["C-003"]


# -- the checks ---------------------------------------------------------------------------------------------------------------------

LINKS = [
    {"ifname": "lo", "flags": ["LOOPBACK", "UP"], "addr_info": [{"local": "127.0.0.1"}, {"local": "::1"}]},
    {"ifname": "eth0", "flags": ["UP"], "addr_info": [{"local": "10.0.3.11"}, {"local": "fd00:3::11"}, {"local": "fe80::1"}]},
]
SETTINGS = "".join(
    "/proc/sys/net/%s/conf/%s/%s:%d\n" % (family, name, key, value)
    for family in ("ipv4", "ipv6")
    for name in ("all", "default", "eth0", "lo")
    for key, value in (("forwarding", 0), ("rp_filter", 1), ("proxy_arp", 0))
    if family == "ipv4" or key == "forwarding"
)
RULES = [
    {"priority": 0, "src": "all", "table": "local"},
    {"priority": 32766, "src": "all", "table": "main"},
    {"priority": 32767, "src": "all", "table": "default"},
]


class Machine:
    """A host that answers as edge1 would."""

    def __init__(self) -> None:
        self.items = items("edge1")
        self.links: Items = copy.deepcopy(LINKS)
        self.settings = SETTINGS
        self.rules: Items = copy.deepcopy(RULES)
        self.routes: dict[str, dict[str, Any]] = {}
        self.legacy: dict[str, str] = {}
        self.text = "table inet hnai {\n}\n"
        self.qdiscs: Items = [{"kind": "noqueue", "dev": "lo"}, {"kind": "fq_codel", "dev": "eth0"}]
        self.filters: dict[str, str] = {}
        self.table: Items = [
            {"dst": "default", "gateway": "10.0.3.254", "dev": "eth0"},
            *({"type": "local", "dst": one, "table": "local"} for one in ("127.0.0.0/8", "10.0.3.11", "::1", "fd00:3::11", "fe80::1")),
            {"type": "multicast", "dst": "ff00::/8", "table": "local"},
        ]
        self.proxied: Items = []
        self.broken: set[str] = set()

    def read(self, argv: Sequence[str], timeout_s: float) -> str:
        assert timeout_s > 0
        words = " ".join(argv)
        if argv[0] in self.broken:
            raise FileNotFoundError("no %s" % argv[0])
        if words == "nft -j list ruleset":
            return json.dumps({"nftables": self.items})
        if words == "nft -s list ruleset":
            return self.text
        if words == "ip -j -d address show":
            return json.dumps(self.links)
        if words == "ip -j route show table all":
            return json.dumps(self.table)
        if words == "ip -j neigh show proxy":
            return json.dumps(self.proxied)
        if words.startswith("ip -j route get "):
            return self.route(argv[-1])
        if argv[0] == "ip" and argv[3:] == ("rule", "show"):
            return json.dumps([one for one in self.rules if argv[1] == "-4" or one["table"] != "default"])
        if argv[0] == "grep":
            return self.settings
        if argv[0] == "find":
            assert argv[1].endswith("/"), "find follows no link"
            return "/proc/sys/net/ipv4/conf\n/proc/sys/net/ipv6/conf\n" if "conf" in argv else "\n".join(self.legacy)
        if argv[0] == "cat":
            return self.legacy[argv[1]]
        if words.startswith("tc filter show dev "):
            return self.filters.get(" ".join(argv[4:]), "")
        if argv[0] == "tc":
            return json.dumps(self.qdiscs)
        if argv[0] == "getent":
            return "%s:x:%d:1::/:/bin/false\n" % (argv[2], USERS[argv[2]])
        raise FileNotFoundError(argv[0])

    def route(self, address: str) -> str:
        if address in self.routes and not self.routes[address]:
            raise subprocess.CalledProcessError(2, ["ip"], stderr="RTNETLINK answers: Network is unreachable")
        six = ":" in address
        near = address.startswith(("10.0.3.", "fd00:3:"))
        route = {
            "dst": address,
            "dev": "eth0",
            "prefsrc": "fd00:3::11" if six else "10.0.3.11",
            **({} if near else {"gateway": "fd00:3::fe" if six else "10.0.3.254"}),
        }
        return json.dumps([{**route, **self.routes.get(address, {})}])

    def verdict(self, **params: Any) -> dict[str, tuple[str, str]]:
        """{id, and the path where there are several: (status, reason)}."""
        report = Report("zones", "1", deadline_s=60.0)
        self.result = static.run(report, {"expected": EXPECTED["edge1"], **params}, self.read)
        return {"%s %s" % (one.id, one.subject) if one.subject else one.id: (one.status, one.reason) for one in report.checks}


ALL = {"ZS1 input", "ZS1 output", "ZS1 forward", "ZS2", "ZS3", "ZS4", "ZS5", "ZS6"}


def test_a_clean_host_passes_every_check() -> None:
    machine = Machine()
    found = machine.verdict()
    assert {key: status for key, (status, _reason) in found.items()} == dict.fromkeys(ALL, "pass"), found
    assert machine.result["findings"] == [] and machine.result["boxes"] > 80


def plant(machine: Machine, function: Callable[[Items], Items]) -> None:
    machine.items = function(machine.items)


IPVS = "IP Virtual Server version 1.2.1 (size=4096)\nProt LocalAddress:Port Scheduler Flags\n  -> RemoteAddress:Port\nTCP  0A00030B:0016 rr\n"


def filters(machine: Machine, where: str, text: str) -> None:
    machine.qdiscs.append({"kind": "clsact", "dev": "eth0"})
    machine.filters[where] = text


CHECKS: list[tuple[str, str, Callable[[Machine], Any], str, set[str]]] = [
    # check, status, what is done, words of the reason, further checks that follow from it
    ("ZS1 input", "fail", lambda m: plant(m, planted(DPORT, ACCEPT)), "chain input, handle 900: lets through packets", {"ZS4"}),
    ("ZS1 output", "fail", lambda m: plant(m, without("C-101")), "cuts C-101 on the way out", set()),
    ("ZS1 forward", "fail", lambda m: plant(m, planted(ACCEPT, at="forward")), "on the way forward", {"ZS2", "ZS4"}),
    ("ZS2", "fail", lambda m: plant(m, without('["established", "related"]')), "connections of", set()),
    ("ZS2", "fail", lambda m: plant(m, planted(ct("state", "established"), ACCEPT, at="forward")), "packets of connections", {"ZS4"}),
    ("ZS3", "fail", lambda m: plant(m, beside("postrouting", [{"masquerade": None}], kind="nat", prio=100)), "rewrites", {"ZS4"}),
    ("ZS3", "inconclusive", lambda m: filters(m, "eth0 egress", "filter protocol all pref 49152 bpf chain 0 handle 0x1 x.o:[c]"), "tc (egress)", set()),
    ("ZS3", "inconclusive", lambda m: filters(m, "eth0", "filter parent 1: protocol ip pref 1 flower action drop"), "tc (root)", set()),
    ("ZS3", "fail", lambda m: filters(m, "eth0 ingress", "filter pref 1 matchall\n action order 1: mirred (Egress Redirect to device eth1)"), "mirred", set()),
    ("ZS3", "fail", lambda m: m.legacy.update({"/proc/net/ip_vs": IPVS}), "1 virtual services", set()),
    ("ZS3", "fail", lambda m: setattr(m, "text", "table inet hnai { # progname x\n\tflags owner\n}\n"), "our table belongs to a process", set()),
    ("ZS3", "inconclusive", lambda m: m.legacy.update({"/proc/net/ip_tables_names": "filter\n"}), "knows the tables filter", set()),
    ("ZS3", "inconclusive", lambda m: m.broken.add("tc"), "tc cannot be run", set()),
    ("ZS4", "fail", lambda m: plant(m, beside("prerouting", [ACCEPT], prio=-300)), "opens nothing", set()),
    ("ZS5", "inconclusive", lambda m: plant(m, planted({"novelty": 1}, DROP, at="forward")), 'handle 900: {"novelty": 1}', {"ZS1 forward", "ZS2", "ZS4"}),
    ("ZS6", "fail", lambda m: setattr(m, "settings", m.settings.replace("conf/eth0/forwarding:0", "conf/eth0/forwarding:1")), "only a router forwards", set()),
    (
        "ZS6",
        "fail",
        lambda m: setattr(
            m, "settings", m.settings.replace("ipv4/conf/all/rp_filter:1", "ipv4/conf/all/rp_filter:0").replace("eth0/rp_filter:1", "eth0/rp_filter:0")
        ),
        "sources are not checked on eth0",
        set(),
    ),
    ("ZS6", "fail", lambda m: setattr(m, "settings", m.settings.replace("eth0/proxy_arp:0", "eth0/proxy_arp:1")), "proxy_arp of ipv4 is on for eth0", set()),
    ("ZS6", "fail", lambda m: m.links[1]["addr_info"].append({"local": "10.0.4.99"}), "10.0.4.99 of eth0 is not in the model", set()),
    ("ZS6", "fail", lambda m: m.links.append({"ifname": "wg0", "flags": ["UP"]}), "interface wg0 is up", set()),
    ("ZS6", "fail", lambda m: m.links[1].update(linkinfo={"info_slave_kind": "bridge"}), "switches frames", set()),
    ("ZS6", "fail", lambda m: m.links[1].update(xdp={"mode": 1}), "XDP", set()),
    ("ZS6", "fail", lambda m: m.routes.update({"10.0.2.11": {"gateway": "10.0.3.66"}}), "go by 10.0.3.66, not by the router", set()),
    ("ZS6", "fail", lambda m: m.routes.update({"10.0.2.11": {"dev": "tun0"}}), "leave by tun0, not by eth0", set()),
    ("ZS6", "fail", lambda m: m.routes.update({"fd00:9::11": {}}), "no way to jump1", set()),
    ("ZS6", "fail", lambda m: m.rules.append({"priority": 100, "src": "all", "table": "7", "fwmark": "0x1"}), "leads some packets elsewhere", set()),
    ("ZS6", "fail", lambda m: m.table.append({"dst": "fd77::bad", "encap": "seg6local", "dev": "eth0"}), "fd77::bad wraps or unwraps", set()),
    ("ZS6", "fail", lambda m: m.table.append({"dst": "10.9.0.0/16", "nexthops": [{"encap": "mpls", "dev": "eth0"}]}), "10.9.0.0/16 wraps", set()),
    ("ZS6", "fail", lambda m: m.table.append({"type": "local", "dst": "10.0.4.0/24", "dev": "lo"}), "10.0.4.0/24 are taken as the host's own", set()),
    ("ZS6", "fail", lambda m: m.table.append({"type": "local", "dst": "default", "table": "7"}), "packets to default are taken", set()),
    ("ZS6", "fail", lambda m: setattr(m, "settings", m.settings + "/proc/sys/net/mpls/conf/eth0/input:1\n"), "labelled packets", set()),
    ("ZS6", "fail", lambda m: setattr(m, "settings", m.settings + "/proc/sys/net/ipv6/conf/eth0/seg6_enabled:1\n"), "which way they go", set()),
    ("ZS6", "fail", lambda m: m.table.append({"dst": "10.0.35.11", "tos": "0x10", "gateway": "10.0.3.66", "dev": "eth0"}), "with tos 0x10", set()),
    ("ZS6", "fail", lambda m: m.table.append({"dst": "fd00:35::11", "from": "fd00:3::11", "gateway": "fd00:3::66"}), "with from fd00", set()),
    ("ZS6", "fail", lambda m: m.table.append({"dst": "default", "nexthops": [{"gateway": "10.0.3.254"}, {"gateway": "10.0.3.66"}]}), "several ways", set()),
    ("ZS6", "fail", lambda m: m.proxied.append({"dst": "10.0.3.99", "dev": "eth0", "proxy": None}), "answers for 10.0.3.99 on eth0", set()),
    ("ZS4", "fail", lambda m: plant(m, lambda found: [*found, chain("antispoof", type="filter", hook="prerouting", prio=0)]), "chain antispoof", set()),
    ("ZS6", "inconclusive", lambda m: setattr(m, "settings", ""), "does not say whether it forwards", set()),
]


@pytest.mark.parametrize(("ident", "status", "change", "words", "also"), CHECKS, ids=["%s-%d" % (one[0], number) for number, one in enumerate(CHECKS)])
def test_each_plant_turns_its_own_check(ident: str, status: str, change: Any, words: str, also: set[str]) -> None:
    machine = Machine()
    change(machine)
    found = machine.verdict()
    assert found[ident][0] == status and words in found[ident][1], found
    assert {key for key, one in found.items() if one[0] != "pass"} <= {ident, *also}, found


@pytest.mark.parametrize("tool", ["nft", "ip"])
def test_a_host_that_does_not_answer_is_no_pass(tool: str) -> None:
    machine = Machine()
    machine.broken.add(tool)
    found = machine.verdict()
    assert {key for key, one in found.items() if one[0] == "pass"} <= {"ZS6"} and "cannot be run" in found["ZS1 input"][1]
    assert {one[0] for key, one in found.items() if key != "ZS6"} == {"inconclusive"}


def test_legacy_rules_are_read_where_somebody_tells_them() -> None:
    machine = Machine()
    machine.legacy["/proc/net/ip_tables_names"] = "nat\n"
    read = machine.read
    for text, status in (
        ("*nat\n:PREROUTING ACCEPT [0:0]\nCOMMIT\n", "pass"),
        ("*nat\n-A PREROUTING -p tcp -j DNAT --to 192.0.2.1\n", "fail"),
        ("*filter\n-A INPUT -p tcp -j ACCEPT\n", "inconclusive"),
        ("*filter\n:INPUT DROP [0:0]\n", "inconclusive"),
    ):
        machine.read = lambda argv, timeout_s, text=text: text if argv[0] == "iptables-legacy-save" else read(argv, timeout_s)  # type: ignore[method-assign]
        assert machine.verdict()["ZS3"][0] == status, text


def observing(host: str) -> Items:
    """The listing of a host in observe: its chains are open, and what they would drop is written down."""
    found = items(host)
    for one in found:
        if "chain" in one and one["chain"].get("hook"):
            one["chain"]["policy"] = "accept"
        if "rule" in one:
            way = one["rule"].get("comment", "").removeprefix("drop-")
            jump = [{"jump": {"target": "observed_%s" % way}}] if way in observe.PLACES else []
            one["rule"]["expr"] = [more for each in one["rule"]["expr"] for more in (jump if each == DROP else [each])]
    kept = [(line.split()[1], int(line.split("timeout ")[1].split("d;")[0])) for line in observe.sets(observe.PLACES)]
    found += [named("set", name, type="ipv4_addr", flags=["timeout"], size=observe.SIZE, timeout=days * 86400) for name, days in kept]
    for place in observe.PLACES:
        found.append(chain("observed_%s" % place))
        for rule in observe.chain(place):
            fills = [
                {"set": {"op": how, "elem": {"concat": [KEYS[one] for one in key.split(" . ")]}, "set": name}}
                for how, name, key in re.findall(r"(add|update) (@\S+) \{ (.*?) \}", rule)
            ]
            asks = [asked for words, asked in ASKS.items() if rule.startswith(words)]
            comment = "observed-full-%s" % place if "counter" in rule else ""
            more = [{"counter": {}}] if comment else [{"return": None}] if rule.endswith("return") else []
            found.append(ours("observed_%s" % place, *asks, *fills, *more, comment=comment, handle=len(found)))
    return found


#: As nft lists what observe.py writes.
KEYS: dict[str, dict[str, Any]] = {
    **{"%s %s" % (of, end): {"payload": {"protocol": of, "field": end}} for of in ("ip", "ip6") for end in ("saddr", "daddr")},
    **{"th %s" % end: {"payload": {"protocol": "th", "field": end}} for end in ("sport", "dport")},
    **{"meta %s" % key: {"meta": {"key": key}} for key in ("l4proto", "skuid")},
}
ASKS = {
    "tcp flags": match({"&": [{"payload": {"protocol": "tcp", "field": "flags"}}, ["syn", "ack"]]}, "syn", "!="),
    "meta l4proto {": meta("l4proto", {"set": ["tcp", "udp"]}),
    "meta l4proto !=": meta("l4proto", {"set": ["tcp", "udp"]}, "!="),
}


def in_observed(change: Callable[[dict[str, Any]], None], chain: str = "observed_in") -> Callable[[Items], Items]:
    """The rule that writes down who began, changed."""

    def run(found: Items) -> Items:
        found = copy.deepcopy(found)
        change(next(one["rule"] for one in found if one.get("rule", {}).get("chain") == chain and "@observed_first4" in json.dumps(one)))
        return found

    return run


def test_observe_is_open_and_still_names_what_is_cut() -> None:
    machine = Machine()
    machine.items = observed = observing("edge1")
    found = machine.verdict(mode="observe")
    assert {found[key][0] for key in ALL if key.startswith("ZS1")} == {"inconclusive"} and "counted, not refused" in found["ZS1 input"][1]
    assert {found[key][0] for key in ALL if not key.startswith("ZS1")} == {"pass"}, found
    machine.items = [*observed, *other("input", [payload("tcp", "dport", 22), DROP])]
    assert machine.verdict(mode="observe")["ZS1 input"][0] == "fail"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda found: [one for one in found if "observed_mid4_in" not in json.dumps(one.get("rule", {}))], "does not write down all that enforce"),
        (lambda found: [one for one in found if one.get("rule", {}).get("chain") != "observed_out"], "observed_last6_out"),
        (lambda found: first(found, ours("observed_in", DPORT, {"return": None})), "handle 900"),
        (lambda found: first(found, ours("observed_in", DPORT, DROP)), "handle 900"),
        (lambda found: [*found, named("set", "mine", type="ipv4_addr")], "mine"),
        (lambda found: [*found, chain("observed_more")], "observed_more"),
        (changed('"observed_in"}', '"observed_out"}'), "drop-in"),
        (in_observed(lambda rule: rule["expr"].insert(0, payload("ip", "saddr", "10.0.9.11"))), "observed_first4_in"),
        (in_observed(lambda rule: rule["expr"].insert(1, SLOW)), "observed_first4_in"),
        (in_observed(lambda rule: rule["expr"][0]["match"].update(right="tcp")), "observed_first4_in"),
        (in_observed(lambda rule: rule["expr"][1]["set"]["elem"]["concat"].__setitem__(1, KEYS["ip saddr"])), "observed_first4_in"),
        (in_observed(lambda rule: rule["expr"][1]["set"].update(stmt=[SLOW])), "observed_first4_in"),
        (changed('"timeout": 2592000', '"timeout": 1', 1), "a set of our table"),
        (changed('"size": 16384', '"size": 1', 1), "a set of our table"),
    ],
)
def test_what_an_observing_host_does_not_write_down_is_named(change: Callable[[Items], Items], words: str) -> None:
    machine = Machine()
    machine.items = change(observing("edge1"))
    status, reason = machine.verdict(mode="observe")["ZS4"]
    assert status == "fail" and words in reason, reason


@pytest.mark.namespaces
@pytest.mark.parametrize("host", sorted(LISTINGS))
def test_the_generated_rules_of_an_observing_host_are_the_models(host: str) -> None:
    text = nft.ruleset(SITE, host, "observe")
    lines = text.splitlines()
    gone = [number for number, line in enumerate(lines) if " @observed_" in line]
    some = random.Random(5).sample(gone, 5)
    read = mutants.Nft.read([text, *("\n".join([*lines[:number], *lines[number + 1 :], ""]) for number in some)])
    found = [rules.judge(one[0], EXPECTED[host], "observe", (), USERS.get).foreign for one in read]
    assert [one.line for one in found[0]] == []
    assert all(any("does not write down" in one.line for one in each) for each in found[1:]), found[1:]


def apart(**modes: str) -> Site:
    """plant: between l2 and l3; it: between l35 and l4."""
    data = yaml.safe_load((FIXTURES / "site.yml").read_text(encoding="utf-8"))
    zones = {"plant": ["l2", "l3"], "it": ["l35", "l4"]}
    data["boundaries"] = {name: {"between": zones[name], "enforced_by": "hnai", "firewall_mode": mode} for name, mode in modes.items()}
    return Site.from_dict(data)


_WAY, _OWN = 'iifname "l2" oifname "l3" jump boundary_plant\n', "  chain boundary_plant {\n"
_END = 'counter jump observed_forward_plant comment "drop-forward"\n'
#: (host's mode, modes, what is replaced by what, kind of finding and a word of it).
PLANTS_APART: tuple[tuple[str, dict[str, str], str, str, str, str], ...] = (
    ("enforce", {"plant": "observe"}, 'iifname "l2" oifname "l3" jump', 'iifname "l2" jump', "extra", "l2"),
    ("enforce", {"plant": "observe"}, 'iifname "l2" oifname "l3" jump', 'oifname "l3" jump', "extra", "l3"),
    ("enforce", {"plant": "observe"}, _WAY, "\n", "missing", "C-103"),
    ("enforce", {"plant": "observe"}, _END, "tcp dport 1 drop\n" + _END, "foreign_rule", "boundary_plant"),
    ("enforce", {"plant": "observe"}, _END, "\n", "uncounted", "drop-forward"),
    ("enforce", {"plant": "observe"}, "counter jump observed_spoof_plant", "counter accept", "foreign_rule", "spoof-l2"),
    ("enforce", {"plant": "observe"}, "add @observed_first4_forward_plant", "add @observed_first4_spoof_plant", "foreign_rule", "first4_forward_plant"),
    ("enforce", {"plant": "observe"}, _OWN, "  chain boundary_it {\n    accept\n  }\n" + _OWN, "foreign_rule", "boundary_it"),
    ("enforce", {"plant": "enforce"}, _OWN, _OWN + "    tcp dport 1 accept\n", "extra", "dport 1"),
    ("observe", {"plant": "enforce"}, _OWN, _OWN + "    tcp dport 1 accept\n", "extra", "dport 1"),
    ("observe", {"plant": "enforce"}, _WAY, "\n", "extra", "l2"),
    ("enforce", {"plant": "observe", "it": "enforce"}, 'oifname "l4" jump boundary_it', 'oifname "l4" jump boundary_plant', "extra", "l4"),
)


@pytest.mark.namespaces
def test_boundaries_with_a_mode_of_their_own_are_judged_each_by_its_own() -> None:
    clean = [("enforce", {"plant": "observe"}), ("observe", {"plant": "enforce"}), ("observe", {"plant": "observe"})]
    clean.append(("enforce", {"plant": "observe", "it": "enforce"}))
    texts = [nft.ruleset(apart(**modes), "router", mode) for mode, modes in clean]
    for mode, modes, old, new, _kind, _word in PLANTS_APART:
        text = nft.ruleset(apart(**modes), "router", mode)
        assert old in text
        texts.append(text.replace(old, new, 1))
    read = mutants.Nft.read(texts)
    for (mode, modes), listing in zip(clean, read):
        found = rules.judge(listing[0], expectation.expectation(apart(**modes), "router"), mode, (), USERS.get)
        assert not found.all and not found.unknown, (mode, modes, [one.line for one in found.all])
    for (mode, modes, _old, _new, kind, word), listing in zip(PLANTS_APART, read[len(clean) :]):
        assert not isinstance(listing, str), listing
        found = rules.judge(listing[0], expectation.expectation(apart(**modes), "router"), mode, (), USERS.get)
        assert any(one.kind == kind and word in one.line and one.sure for one in found.all), (mode, modes, kind, word, [one.line for one in found.all])
    # The way forward is open for what is observed there, and for that alone.
    for (mode, modes), listing, status in zip(clean, read, ("pass", "inconclusive", "inconclusive", "pass")):
        report = Report("zones", "1", deadline_s=120.0)
        checks = static._Checks(report, {"expected": expectation.expectation(apart(**modes), "router"), "mode": mode}, lambda _argv, _timeout: "")
        checks._judgement = rules.judge(listing[0], checks.expected, mode, (), USERS.get)
        for path in ("input", "output", "forward"):
            with report.check("ZS1", "rules", subject=path) as check:
                checks.rules(check, path)
        said = {one.subject: (one.status, one.reason) for one in report.checks}
        assert said["forward"][0] == "inconclusive" and said["input"][0] == said["output"][0] == status, said
        assert ("plant (l2, l3) observes" in said["forward"][1]) == (modes["plant"] == "observe"), said


# -- on a kernel ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.namespaces
def test_a_real_host_passes_and_planted_routes_are_found() -> None:
    """A network namespace with edge1's address and rules."""
    name = "zstatic-%d" % os.getpid()

    def run(*argv: str, text: str | None = None) -> None:
        subprocess.run(["ip", "netns", "exec", name, *argv], input=text, text=True, check=True, capture_output=True, timeout=30)

    def read(argv: Sequence[str], timeout_s: float) -> str:
        return run_command(["ip", "netns", "exec", name, *argv], timeout_s)

    def verdict() -> dict[str, tuple[str, str]]:
        report = Report("zones", "1", deadline_s=120.0)
        static.run(report, {"expected": EXPECTED["edge1"]}, read)
        return {"%s %s" % (one.id, one.subject) if one.subject else one.id: (one.status, one.reason) for one in report.checks}

    subprocess.run(["ip", "netns", "add", name], check=True, capture_output=True, timeout=30)
    try:
        setup = (
            "ip link set lo up && ip link add eth0 type veth peer name far && ip link set eth0 up && ip link set far netns 1 name z%d && "
            "ip addr add 10.0.3.11/24 dev eth0 && ip -6 addr add fd00:3::11/64 dev eth0 nodad && ip route add default via 10.0.3.254 dev eth0 && "
            "ip -6 route add default via fd00:3::fe dev eth0 && sysctl -qw net.ipv4.conf.all.rp_filter=1 net.ipv4.ip_forward=0 net.ipv6.conf.all.forwarding=0 "
            "net.ipv6.conf.all.accept_ra=0" % os.getpid()
        )
        run("sh", "-c", setup)
        subprocess.run(["ip", "link", "set", "z%d" % os.getpid(), "up"], check=True, capture_output=True, timeout=30)
        run("nft", "-f", "-", text=nft.ruleset(SITE, "edge1"))
        found = verdict()
        assert {status for status, _reason in found.values()} == {"pass"}, found
        run(
            "sh",
            "-c",
            "sysctl -qw net.ipv4.conf.eth0.forwarding=1; ip addr add 10.0.4.9/32 dev eth0; ip route add 10.0.2.11 via 10.0.3.66; "
            "nft add table ip other '{ chain c { type nat hook postrouting priority 100; }; }'; nft add rule ip other c masquerade",
        )
        found = verdict()
        assert all(words in found["ZS6"][1] for words in ("only a router forwards", "10.0.4.9", "10.0.3.66")), found
        assert {key for key, one in found.items() if one[0] == "fail"} == {"ZS3", "ZS4", "ZS6"}, found
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True, timeout=30)
