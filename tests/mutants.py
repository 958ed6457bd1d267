# SPDX-License-Identifier: Apache-2.0
"""Rulesets with one fault each: operators × places, drawn by a seed. And a second, simple reader of single packets, to prove that two rulesets
do the same to every packet of the port registry.

A mutant is text for nft. `Nft` loads it into a network namespace of its own and reads it back, so only what the kernel takes counts.
"""

from __future__ import annotations

import copy
import ipaddress
import itertools
import json
import random
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

SEPARATOR = "#next"


@dataclass(frozen=True)
class Mutant:
    """`host`'s ruleset with one fault."""

    host: str
    operator: str
    place: str
    text: str

    @property
    def name(self) -> str:
        """For people."""
        return "%s: %s at %s" % (self.host, self.operator, self.place)


class Text:
    """A generated ruleset, as lines that can be changed."""

    def __init__(self, host: str, text: str) -> None:
        self.host = host
        self.lines = text.splitlines()

    def rules(self) -> Iterator[tuple[int, str, str]]:
        """(line, chain, rule)."""
        chain = ""
        for number, line in enumerate(self.lines):
            if match := re.match(r"  chain (\S+) \{", line):
                chain = match[1]
            elif line.startswith("    ") and "type filter hook" not in line:
                yield number, chain, line.strip()

    def hooks(self) -> Iterator[tuple[int, str]]:
        """(line of its head, hook)."""
        for number, line in enumerate(self.lines):
            if match := re.search(r"type filter hook (\w+)", line):
                yield number, match[1]

    def changed(self, number: int, rule: str) -> str:
        return "\n".join([*self.lines[:number], *(["    " + rule] if rule else []), *self.lines[number + 1 :], ""])

    def inserted(self, number: int, rule: str) -> str:
        return "\n".join([*self.lines[:number], "    " + rule, *self.lines[number:], ""])

    def appended(self, text: str) -> str:
        return "\n".join([*self.lines, text, ""])

    def within(self, text: str, number: int = 0, rule: str = "") -> str:
        """Something more in our table, and a rule before line `number`."""
        opening = self.lines.index("table inet hnai {") + 1
        lines = list(self.lines)
        if rule:
            lines.insert(number, "    " + rule)
        return "\n".join([*lines[:opening], text, *lines[opening:], ""])

    @property
    def whole(self) -> str:
        return "\n".join([*self.lines, ""])


Found = Iterator[tuple[str, str]]
Operator = Callable[[Text], Found]
_CONDUIT = re.compile(r'accept comment "(C-[^"]+)"')


def _each(pattern: str, *replacements: str) -> Operator:
    """Each rule in which `pattern` is found, with it replaced."""

    def run(text: Text) -> Found:
        for number, chain, rule in text.rules():
            for replacement in replacements:
                changed = re.sub(pattern, replacement, rule, count=1)
                if changed != rule:
                    yield "%s: %s" % (chain, changed), text.changed(number, changed)

    return run


def _remove(text: Text) -> Found:
    for number, chain, rule in text.rules():
        yield "%s: %s" % (chain, rule), text.changed(number, "")


def _policy(text: Text) -> Found:
    for number, hook in text.hooks():
        yield hook, text.changed(number, text.lines[number].strip().replace("policy drop", "policy accept"))


def _swap(text: Text) -> Found:
    for number, chain, rule in text.rules():
        if _CONDUIT.search(rule):
            names = {"saddr": "daddr", "daddr": "saddr", "iifname": "oifname", "oifname": "iifname"}
            wanted = names if chain == "forward" else {key: names[key] for key in ("saddr", "daddr")}
            yield "%s: %s" % (chain, rule), text.changed(number, re.sub("|".join(wanted), lambda match, wanted=wanted: wanted[match[0]], rule))


def _swap_ports(text: Text) -> Found:
    for number, chain, rule in text.rules():
        if _CONDUIT.search(rule):
            yield "%s: %s" % (chain, rule), text.changed(number, rule.replace(" dport ", " sport "))


def _network(match: re.Match[str]) -> str:
    net = ipaddress.ip_network(match[2]).supernet(new_prefix=24 if "." in match[2] else 64)
    return "%s%s" % (match[1], net)


def _wider_host(text: Text) -> Found:
    for number, chain, rule in text.rules():
        if _CONDUIT.search(rule):
            for field in ("saddr", "daddr"):
                changed = re.sub(r"(%s )([0-9a-f.:]+)(?= )" % field, _network, rule)
                if changed != rule:
                    yield "%s: %s" % (chain, changed), text.changed(number, changed)


def _fewer_peers(text: Text) -> Found:
    for number, chain, rule in text.rules():
        changed = re.sub(r"\{ ([0-9a-f.:]+), [^}]*\}", r"\1", rule)
        if _CONDUIT.search(rule) and changed != rule:
            yield "%s: %s" % (chain, changed), text.changed(number, changed)


def _ends(text: Text) -> Iterator[tuple[int, str]]:
    """(line of the last rule, chain) of each base chain."""
    for number, chain, rule in text.rules():
        if re.search(r'"drop-(in|out|forward)"', rule):
            yield number, chain


def _before_the_end(*rules: str, only: Sequence[str] = ()) -> Operator:
    def run(text: Text) -> Found:
        for number, chain in _ends(text):
            for rule in rules:
                if not only or chain in only:
                    yield "%s: %s" % (chain, rule), text.inserted(number, rule)

    return run


def _shadow(text: Text) -> Found:
    """The end of a chain stands where a conduit's rule begins."""
    for end, chain in _ends(text):
        numbers = [number for number, name, _rule in text.rules() if name == chain]
        for number in numbers[::3]:
            if number != end:
                yield "%s, line %d" % (chain, number), text.inserted(number, text.lines[end].strip())


def _late(text: Text) -> Found:
    """A rule stands after the end of its chain."""
    for end, chain in _ends(text):
        for number, name, rule in list(text.rules()):
            if name == chain and number < end and not number % 4:
                lines = [*text.lines[:number], *text.lines[number + 1 : end + 1], "    " + rule, *text.lines[end + 1 :], ""]
                yield "%s: %s" % (chain, rule), "\n".join(lines)


def _reorder(text: Text) -> Found:
    """Two rules of conduits change places: that may be no fault at all."""
    rules = [(number, chain, rule) for number, chain, rule in text.rules() if _CONDUIT.search(rule)]
    for (first, chain, one), (second, other, two) in zip(rules, rules[1:]):
        if chain == other and second == first + 1 and not first % 9:
            lines = list(text.lines)
            lines[first], lines[second] = "    " + two, "    " + one
            yield "%s: %s" % (chain, one), "\n".join([*lines, ""])


def _spoof_late(text: Text) -> Found:
    for number, chain, rule in text.rules():
        if rule == "jump antispoof":
            lines = list(text.lines)
            lines[number], lines[number + 1] = lines[number + 1], lines[number]
            yield chain, "\n".join([*lines, ""])


def _hook(text: Text) -> Found:
    for number, hook in text.hooks():
        for other in {"input": ["prerouting", "forward"], "output": ["postrouting"], "forward": ["prerouting", "output"]}[hook]:
            yield "%s → %s" % (hook, other), text.changed(number, text.lines[number].strip().replace("hook " + hook, "hook " + other))


def _subchain(text: Text) -> Found:
    for number, chain in _ends(text):
        for verb, inner in itertools.product(("jump", "goto"), ("accept", "tcp dport 23 accept", "ct state new accept")):
            place = "%s: %s to a chain with %s" % (chain, verb, inner)
            yield place, text.within("  chain more {\n    %s\n  }" % inner, number, "%s more" % verb)


def _sets(text: Text) -> Found:
    for number, chain in _ends(text):
        for family, kind, element in (("ip", "ipv4_addr", "198.51.100.7"), ("ip6", "ipv6_addr", "2001:db8::7"), ("ip", "ipv4_addr", "10.77.0.0/16")):
            flags = "\n    flags interval" if "/" in element else ""
            body = "  set peers {\n    type %s%s\n    elements = { %s }\n  }" % (kind, flags, element)
            yield "%s: a named set with %s" % (chain, element), text.within(body, number, "%s saddr @peers accept" % family)
        body = "  map ways {\n    type inet_service : verdict\n    elements = { 9999 : accept, 22 : drop }\n  }"
        yield "%s: a named verdict map" % chain, text.within(body, number, "tcp dport vmap @ways")
        body = "  set seen {\n    type ipv4_addr\n    flags dynamic,timeout\n    size 10\n  }"
        yield "%s: a set that packets fill" % chain, text.within(body, number, "ip saddr @seen accept")


def _table(family: str, hook: str, body: str, priority: str = "0", policy: str = "accept", type_: str = "filter", device: str = "", more: str = "") -> str:
    return "table %s other {\n%s  chain any {\n    type %s hook %s %spriority %s; policy %s;\n%s  }\n}" % (
        family,
        more,
        type_,
        hook,
        'device "%s" ' % device if device else "",
        priority,
        policy,
        "".join("    %s\n" % line for line in body.splitlines()),
    )


def _other_tables(*tables: str) -> Operator:
    def run(text: Text) -> Found:
        for table in tables:
            yield " ".join(table.split())[:150], text.appended(table)

    return run


_OTHER = [
    _table("inet", "input", "tcp dport 22 drop", "-10"),
    _table("ip", "input", "", "-5", "drop"),
    _table("ip6", "output", "udp dport 123 drop", "5"),
    _table("inet", "prerouting", "ct state established drop", "mangle"),
    _table("inet", "postrouting", "meta l4proto tcp drop", "300"),
    _table("ip", "output", "ct state established,related tcp sport 22 drop", "10"),
    _table("inet", "forward", "accept", "-10"),
    _table("inet", "prerouting", "accept", "-300"),
    _table("ip6", "input", "icmpv6 type nd-neighbor-solicit drop"),
    _table("arp", "input", "drop"),
    _table("inet", "output", "meta skuid != 0 drop", "-1"),
    _table("ip", "input", "ip ttl < 64 drop"),
    _table("inet", "input", "limit rate 1/second drop"),
    "table inet other {\n  chain idle {\n    accept\n  }\n}",
]
_RAW = [
    _table("inet", "prerouting", "notrack", "-300"),
    _table("inet", "output", "tcp dport 22 notrack", "raw"),
    _table("ip", "prerouting", "tcp dport 9094 notrack", "-301"),
    _table("ip6", "output", "notrack", "-300"),
]
_NAT = [
    _table("ip", "prerouting", "tcp dport 22 dnat to 198.51.100.7", "-100", type_="nat"),
    _table("ip", "postrouting", "masquerade", "100", type_="nat"),
    _table("ip6", "output", "tcp dport 22 redirect to :2222", "-100", type_="nat"),
    _table("inet", "prerouting", "tcp dport 5000 redirect to :22", "-90", type_="nat"),
    _table("ip", "prerouting", "ip daddr set 198.51.100.7", "-150"),
    _table("ip", "postrouting", "snat to 198.51.100.7", "srcnat", type_="nat"),
    _table("ip", "prerouting", "tcp dport 80 tproxy to :50", "mangle"),
]
_AROUND = [
    _table("netdev", "ingress", 'fwd to "lo"', device="lo"),
    _table("netdev", "egress", "tcp dport 22 drop", device="lo"),
    _table("netdev", "ingress", "drop", device="lo"),
    _table("ip", "prerouting", "dup to 198.51.100.7", "-150"),
    _table("inet", "ingress", "meta l4proto tcp drop", device="lo"),
    _table("ip", "input", "tcp dport 22 synproxy mss 1460 wscale 7 timestamp sack-perm", "-1"),
    _table("inet", "prerouting", 'ct helper set "opener"', "0", more='  ct helper opener {\n    type "ftp" protocol tcp\n  }\n'),
    _table("inet", "forward", "meta l4proto tcp queue num 1 bypass", "-1"),
    _table("inet", "input", "queue num 0"),
    _table("inet", "forward", "meta l4proto tcp flow add @fast", "0", more="  flowtable fast {\n    hook ingress priority 0\n    devices = { lo }\n  }\n"),
]


def _flowtable(text: Text) -> Found:
    for number, chain in _ends(text):
        if chain == "forward":
            yield (
                "our own forward chain",
                text.within("  flowtable fast {\n    hook ingress priority 0\n    devices = { lo }\n  }", number, "ct state established flow add @fast"),
            )


def _dormant(text: Text) -> Found:
    yield "our own table", text.within("  flags dormant")


def _heads(*pairs: tuple[str, str], only: Sequence[str] = ()) -> Operator:
    """The head of each base chain, with words of it replaced."""

    def run(text: Text) -> Found:
        for number, hook in text.hooks():
            for old, new in pairs:
                if not only or hook in only:
                    yield "%s: %s" % (hook, new), text.changed(number, text.lines[number].strip().replace(old, new))

    return run


def _own_chains(*bodies: str) -> Operator:
    def run(text: Text) -> Found:
        for body in bodies:
            yield body, text.within("  chain more {\n    %s\n  }" % body)

    return run


def _borrowed(text: Text) -> Found:
    """A rule of somebody's own under a conduit's name."""
    idents = [match[1] for _number, _chain, rule in text.rules() if (match := _CONDUIT.search(rule))]
    for number, chain in _ends(text):
        for rule in ("tcp dport 22 ct state new counter accept", "meta l4proto udp counter accept"):
            yield "%s: %s" % (chain, rule), text.inserted(number, '%s comment "%s"' % (rule, idents[0]))


def _spoof_return(text: Text) -> Found:
    for number, chain, rule in text.rules():
        if chain == "antispoof" and rule.startswith('iifname "l4"'):
            for inner in ("ip saddr 198.51.100.7 return", 'iifname "l4" accept', "ct state new return"):
                yield inner, text.inserted(number, inner)


def _flush(text: Text) -> Found:
    yield "everything", text.appended("flush ruleset")
    yield "the rules of our table", text.appended("flush table inet hnai")
    for hook in ("input", "output", "forward"):
        yield "the rules of chain %s" % hook, text.appended("flush chain inet hnai %s" % hook)


#: name → operator.
OPERATORS: dict[str, Operator] = {
    "remove": _remove,
    "swap direction": _swap,
    "swap ports": _swap_ports,
    "policy accept": _policy,
    "widen port": _each(r"dport (\d+)(?= .*accept comment)", r"dport { \1, 31337 }"),
    "port range": _each(r"dport (\d+)(?= .*accept comment)", r"dport 1-65535"),
    "other port": _each(r"dport (\d+)(?= .*accept comment)", r"dport 4444"),
    "widen host": _wider_host,
    "fewer peers": _fewer_peers,
    "any target": _each(r"ip6? daddr (\{[^}]*\}|\S+) (?=.*accept comment)", ""),
    "any source": _each(r"ip6? saddr (\{[^}]*\}|\S+) (?=.*accept comment)", ""),
    "any interface": _each(r"[io]ifname \"l\d+\" (?=.*accept comment)", ""),
    "protocol": _each(r"\b(tcp|udp)( dport \d+ .*accept comment)", r"sctp\2"),
    "any protocol": _each(r"\b(tcp|udp)( dport \d+ .*accept comment)", r"meta l4proto { tcp, udp } th\2", r"th\2"),
    "any state": _each(r" ct state new(?= .*accept comment)", ""),
    "hidden new": _each(r"ct state established,related accept", "ct state established,related,new accept", "ct state != invalid accept"),
    "narrow established": _each(
        r"ct state established,related accept",
        "ct state established accept",
        "ct state related accept",
        "tcp dport 1-1023 ct state established,related accept",
        "ct state established,related ct direction original accept",
        "ct state established,related meta mark 0 accept",
    ),
    "stateless answers": _before_the_end("tcp sport 1-65535 tcp flags & (syn|ack) != syn accept", "tcp sport 9094 accept", "ct direction reply accept"),
    "accept invalid": _each(r"ct state invalid counter drop", "ct state invalid counter accept"),
    "reject": _each(r'counter drop comment "(drop-\w+)"', r'counter reject comment "\1"'),
    "uid": _each(r"meta skuid (\d+) ", "", "meta skuid 0 ", "meta skuid { 902, 1000 } "),
    "limits": _each(r"ct count over (\d+)", "ct count over 2000", "ct count over 1"),
    "rates": _each(r"rate over (\d+)/minute burst (\d+)", r"rate over 600/minute burst \2", r"rate over \1/hour burst \2", r"rate over \1/minute burst 99"),
    "one family": _before_the_end("meta nfproto ipv6 accept", "meta protocol ip accept", "ip6 saddr fd77::1-fd77::ffff:ffff:ffff:ffff accept"),
    "marks": _before_the_end(
        "meta mark 0x1 accept", "ct mark 7 accept", "meta mark and 0xff == 0x1 accept", "ct status dnat accept", "ct status snat,dnat accept"
    ),
    "headers": _before_the_end(
        "tcp flags syn accept",
        "ip dscp cs7 accept",
        "ip ttl 1 accept",
        "ip6 hoplimit 1-4 accept",
        "tcp option maxseg exists accept",
        "@th,16,16 4444 accept",
        "meta length 40 accept",
        "ip protocol 50 accept",
        "ip6 nexthdr 0 accept",
        "icmp type echo-request accept",
        "exthdr frag exists accept",
    ),
    "negation": _before_the_end(
        "meta l4proto != tcp accept", "tcp dport != 1-65000 accept", "ip saddr != 10.0.0.0/8 accept", "th dport > 60000 accept", "ct state != invalid accept"
    ),
    "verdict map": _before_the_end(
        "tcp dport vmap { 9999 : accept, 7000-7010 : accept }",
        "ct state vmap { new : accept }",
        "ip saddr . tcp dport vmap { 198.51.100.7 . 22 : accept }",
        "meta l4proto vmap { tcp : drop, udp : accept }",
    ),
    "not decided by packets": _before_the_end(
        "numgen random mod 4 0 accept",
        "fib saddr type unicast accept",
        "limit rate 1/second accept",
        'meta hour "00:00"-"23:59" accept',
        "quota over 10 mbytes accept",
    ),
    "early accept": lambda text: (
        (chain, text.inserted(number, "tcp dport 8000-8999 accept")) for number, chain, rule in text.rules() if rule.startswith("ct state established")
    ),
    "antispoof": _each(r"saddr != 10[.](\d+)[.]\S+(?= .*spoof)", r"saddr != 10.\1.0.0/16", r"saddr 10.\1.0.0/16"),
    "antispoof 6": _each(r"(fd[0-9a-f]+:[0-9a-f:]*)/64(?= .*spoof)", r"\1/32"),
    "late antispoof": _spoof_late,
    "comments": _each(r'comment "C-(\d+)"', 'comment "C-999"', 'comment "C-001"'),
    "no counter": _each(r"counter (accept|drop)", r"\1"),
    "shadow": _shadow,
    "late": _late,
    "reorder": _reorder,
    "other hook": _hook,
    "sub-chain": _subchain,
    "sets": _sets,
    "other table": _other_tables(*_OTHER),
    "notrack": _other_tables(*_RAW),
    "nat": _other_tables(*_NAT),
    "around": _other_tables(*_AROUND),
    "priority": _heads(("priority filter", "priority -300"), ("priority filter", "priority 10"), ("priority filter", "priority mangle")),
    "chain type": _heads(("type filter", "type route"), only=["output"]),
    "a chain of our own": _own_chains(
        "type filter hook input priority 10; policy accept;",
        "type filter hook forward priority -10; policy accept; accept",
        "type nat hook prerouting priority -100; policy accept; tcp dport 80 redirect to :22",
        "type filter hook prerouting priority raw; policy accept; notrack",
        "type filter hook postrouting priority 0; policy drop;",
        "accept",
    ),
    "a header rewritten": _before_the_end("tcp flags syn tcp option maxseg size set 40", "meta mark set 1", "ip dscp set cs7", "ct mark set 7"),
    "a conduit's name borrowed": _borrowed,
    "antispoof left early": _spoof_return,
    "a table by our name": _other_tables(
        "table ip hnai {\n  chain input {\n    type filter hook input priority -1; policy accept;\n    accept\n  }\n}",
        "table ip6 hnai {\n  chain forward {\n    type filter hook forward priority 1; policy drop;\n  }\n}",
        "table bridge hnai {\n  chain forward {\n    type filter hook forward priority 0; policy accept;\n    drop\n  }\n}",
        "table arp hnai {\n  chain output {\n    type filter hook output priority 0; policy drop;\n  }\n}",
    ),
    "flowtable": _flowtable,
    "dormant": _dormant,
    "flush": _flush,
}


def mutants(host: str, text: str) -> Iterator[Mutant]:
    """Every mutant of a ruleset."""
    source = Text(host, text)
    for name, operator in OPERATORS.items():
        for place, mutated in operator(source):
            if mutated != source.whole:
                yield Mutant(host, name, place, mutated)


def drawn(all_of_them: Iterable[Mutant], seed: int, each: int) -> list[Mutant]:
    """At most `each` of every operator and host."""
    rng = random.Random(seed)
    groups: dict[tuple[str, str], list[Mutant]] = {}
    for one in all_of_them:
        groups.setdefault((one.operator, one.host), []).append(one)
    return [one for key in sorted(groups) for one in rng.sample(groups[key], min(each, len(groups[key])))]


class Nft:
    """nft in network namespaces of its own; one process reads many rulesets, each into an empty namespace's tables."""

    @staticmethod
    def read(texts: Sequence[str], before: Sequence[Sequence[str]] = ()) -> list[tuple[str, str] | str]:
        """(nft -j list ruleset, nft -s list ruleset) for each text, or the error of nft; by its own library: a process for each would take minutes."""
        done = subprocess.run(
            ["unshare", "--net", sys.executable, "-c", _READER],
            input=json.dumps([list(texts), [list(one) for one in before]]),
            capture_output=True,
            text=True,
            timeout=900,
            check=True,
        )
        return [one if isinstance(one, str) else (one[0], one[1]) for one in map(json.loads, done.stdout.splitlines())]


_READER = """
import ctypes, json, subprocess, sys
lib = ctypes.CDLL("libnftables.so.1")
lib.nft_ctx_new.restype = ctypes.c_void_p
for name in ("nft_ctx_get_output_buffer", "nft_ctx_get_error_buffer"):
    getattr(lib, name).restype = ctypes.c_char_p
ctx = ctypes.c_void_p(lib.nft_ctx_new(0))
lib.nft_ctx_buffer_output(ctx)
lib.nft_ctx_buffer_error(ctx)
def run(text, flags=0):
    lib.nft_ctx_output_set_flags(ctx, flags)
    rc = lib.nft_run_cmd_from_buffer(ctx, text.encode())
    return rc, lib.nft_ctx_get_output_buffer(ctx).decode(), lib.nft_ctx_get_error_buffer(ctx).decode()
texts, before = json.load(sys.stdin)
for argv in before:
    subprocess.run(argv, check=True)
STATELESS, JSON = 4, 16
for text in texts:
    run("flush ruleset")
    rc, _out, err = run(text)
    print(json.dumps(err[:500] if rc else [run("list ruleset", JSON)[1], run("list ruleset", STATELESS)[1]]))
"""


# -- single packets -----------------------------------------------------------------------------------------------------------------


class Packet(dict[str, Any]):
    """{version, iif, oif, saddr, daddr, proto, sport, dport, state, uid, type, hoplimit, over}; `over`: is every limit exceeded?"""


Test = Callable[[Packet], bool]


@dataclass(frozen=True)
class Line:
    """One rule for a walker. `fixed`: tests of what stays the same for all packets between two places, by field."""

    fixed: tuple[tuple[str, Test], ...]
    tests: tuple[Test, ...]
    verb: str
    target: str
    text: str


class Walker:
    """Takes one packet after the other through a listing, as nft(8) tells it; knows what the generator writes and little more. It shares nothing with the
    analyser, and raises ValueError for what it does not know."""

    #: What a place is: both ends, both interfaces, and the version.
    PLACE = ("version", "saddr", "daddr", "iif", "oif")
    _PROTOCOLS = {"tcp": 6, "udp": 17, "icmp": 1, "icmpv6": 58, "ipv6-icmp": 58, "sctp": 132}
    _TYPES = {
        "destination-unreachable": 1,
        "packet-too-big": 2,
        "time-exceeded": 3,
        "parameter-problem": 4,
        "nd-neighbor-solicit": 135,
        "nd-neighbor-advert": 136,
        "mld-listener-report": 131,
        "mld2-listener-report": 143,
    }

    def __init__(self, listing: str) -> None:
        items = json.loads(listing)["nftables"]
        self.chains = {(one["chain"]["family"], one["chain"]["table"], one["chain"]["name"]): one["chain"] for one in items if "chain" in one}
        self.lines: list[tuple[tuple[str, str, str], Line]] = []
        for chain in self.chains.values():
            if chain.get("hook") not in (None, "input", "output", "forward") or chain.get("type", "filter") != "filter":
                raise ValueError("a walker does not know a chain of type %s at %s" % (chain["type"], chain["hook"]))
        for item in items:
            if "rule" in item:
                rule = item["rule"]
                line = self._rule(rule["expr"])
                if line.verb:
                    self.lines.append(((rule["family"], rule["table"], rule["chain"]), line))
        heads = {key: [chain.get(name) for name in ("hook", "prio", "policy")] for key, chain in self.chains.items()}
        self.head = json.dumps(sorted((*key, *map(str, head)) for key, head in heads.items()))
        self.rules: dict[tuple[str, str, str], list[Line]] = {}
        self._masks: dict[tuple[str, Any, int], int] = {}

    def mask(self, field: str, packet: Packet) -> int:
        """A bit for each rule that what this field of a packet holds does not rule out."""
        key = (field, packet[field], packet["version"])
        if key not in self._masks:
            fits = (all(test(packet) for name, test in line.fixed if name == field) for _chain, line in self.lines)
            self._masks[key] = sum(1 << number for number, good in enumerate(fits) if good)
        return self._masks[key]

    def place(self, packet: Packet) -> int:
        """A bit for each rule that the packet's place does not rule out."""
        found = -1
        for field in self.PLACE:
            found &= self.mask(field, packet)
        return found

    def left(self, mask: int) -> dict[tuple[str, str, str], list[Line]]:
        """The rules of a mask, by chain."""
        found: dict[tuple[str, str, str], list[Line]] = {key: [] for key in self.chains}
        for number, (chain, line) in enumerate(self.lines):
            if mask >> number & 1:
                found[chain].append(line)
        return found

    def at(self, mask: int) -> Walker:
        """For packets of one place."""
        found = copy.copy(self)
        found.rules = self.left(mask)
        return found

    def same(self, other: Walker) -> bool:
        """Are the same rules left in the same order?"""

        def texts(walker: Walker) -> dict[tuple[str, str, str], list[str]]:
            return {key: [line.text for line in lines] for key, lines in walker.rules.items()}

        return self.head == other.head and texts(self) == texts(other)

    def _rule(self, expression: Sequence[Any]) -> Line:
        fixed: list[tuple[str, Test]] = []
        tests: list[Test] = []
        verb = target = ""
        kept = []
        for statement in expression:
            ((kind, body),) = statement.items()
            if kind == "match":
                left = body["left"]
                name = {"iifname": "iif", "oifname": "oif", "nfproto": "version"}.get(left.get("meta", {}).get("key"), "")
                name = name or {"saddr": "saddr", "daddr": "daddr"}.get(left.get("payload", {}).get("field"), "")
                test = self._test(body["op"], left, body["right"])
                if name:
                    fixed.append((name, test))
                else:
                    tests.append(test)
                    kept.append(statement)
            elif kind == "limit" or kind == "ct count":
                inverted = bool(body.get("inv"))
                tests.append(lambda packet, inverted=inverted: packet["over"] == inverted)
                kept.append({"over": inverted})
            elif kind in ("accept", "drop", "reject", "return", "jump", "goto"):
                verb, target = kind, (body or {}).get("target", "") if kind in ("jump", "goto") else ""
            elif kind not in ("counter", "log"):
                raise ValueError("a walker does not know %s" % kind)
        return Line(tuple(fixed), tuple(tests), verb, target, json.dumps([kept, verb, target], sort_keys=True))

    def _test(self, op: str, left: Any, right: Any) -> Test:
        if op not in ("==", "!=", "in"):
            raise ValueError("a walker does not know %s" % op)
        positive = op != "!="
        if left == {"ct": {"key": "state"}}:
            states = set(right["set"] if isinstance(right, dict) else [right] if isinstance(right, str) else right)
            return lambda packet: (packet["state"] in states) == positive
        if "meta" in left:
            names = {"iifname": "iif", "oifname": "oif", "skuid": "uid", "l4proto": "proto", "nfproto": "version"}
            field, known = names[left["meta"]["key"]], {**self._PROTOCOLS, "ipv4": 4, "ipv6": 6}
            wanted = [known.get(one, one) if isinstance(one, str) else one for one in (right["set"] if isinstance(right, dict) else [right])]
            return lambda packet: (packet[field] in wanted) == positive
        payload = left["payload"]
        if payload["field"] in ("saddr", "daddr"):
            nets = [self._net(one) for one in (right["set"] if isinstance(right, dict) and "set" in right else [right])]
            version = 4 if payload["protocol"] == "ip" else 6
            return lambda packet: packet["version"] == version and any(low <= int(packet[payload["field"]]) <= high for low, high in nets) == positive
        values = [self._span(one) for one in (right["set"] if isinstance(right, dict) and "set" in right else [right])]
        needs = {"ip6": (6, None), "icmpv6": (6, 58), "th": (None, None)}.get(payload["protocol"], (None, self._PROTOCOLS.get(payload["protocol"], -1)))
        if payload["field"] not in ("dport", "sport", "type", "hoplimit"):
            raise ValueError("a walker does not know %s" % payload["field"])

        def test(packet: Packet) -> bool:
            if needs[0] not in (None, packet["version"]) or needs[1] not in (None, packet["proto"]):
                return False
            return any(low <= packet[payload["field"]] <= high for low, high in values) == positive

        return test

    @staticmethod
    def _net(one: Any) -> tuple[int, int]:
        if isinstance(one, dict) and "range" in one:
            return int(ipaddress.ip_address(one["range"][0])), int(ipaddress.ip_address(one["range"][1]))
        net = ipaddress.ip_network("%s/%d" % (one["prefix"]["addr"], one["prefix"]["len"]) if isinstance(one, dict) else one)
        return int(net.network_address), int(net.broadcast_address)

    def _span(self, one: Any) -> tuple[int, int]:
        if isinstance(one, dict):
            return one["range"][0], one["range"][1]
        number = self._TYPES[one] if isinstance(one, str) else one
        return number, number

    def passes(self, path: str, packet: Packet) -> bool:
        """Does the packet pass this hook?"""
        return self.at(self.place(packet)).goes(path, packet)

    def goes(self, path: str, packet: Packet) -> bool:
        """The same, of a walker for the packet's place."""
        families = ("inet", "ip" if packet["version"] == 4 else "ip6")
        chains = sorted(
            (key for key, chain in self.chains.items() if chain.get("hook") == path and key[0] in families), key=lambda key: self.chains[key]["prio"]
        )
        return all(self._verdict(key, packet, self.chains[key]["policy"]) in ("accept", "") for key in chains)

    def _verdict(self, key: tuple[str, str, str], packet: Packet, end: str) -> str:
        for line in self.rules[key]:
            if all(test(packet) for test in line.tests):
                if line.verb in ("accept", "drop", "reject"):
                    return line.verb
                if line.verb == "return":
                    return end
                inner = self._verdict((key[0], key[1], line.target), packet, "")
                if inner or line.verb == "goto":
                    return inner or end
        return end


def spots(addresses: dict[int, list[str]], expected: dict[str, Any], path: str) -> Iterator[tuple[Packet, bool]]:
    """(place, whether its source is not of its interface's zone): each address towards each, by each interface."""
    legs = {leg["name"]: leg for leg in expected["legs"]}
    interfaces = [*legs, "other0"] if legs else ["eth0"]
    for version, known in addresses.items():
        zones = {name: ipaddress.ip_network(leg[str(version)]) for name, leg in legs.items() if leg[str(version)]}
        for source, target in itertools.product(map(ipaddress.ip_address, known), repeat=2):
            for iif, oif in itertools.product(interfaces if path != "output" else [""], interfaces if path != "input" else [""]):
                spoofed = path != "output" and iif in zones and source not in zones[iif]
                yield Packet(version=version, iif=iif, oif=oif, saddr=source, daddr=target), spoofed


def contents(ports: Sequence[tuple[str, int]], expected: dict[str, Any], path: str, version: int, spoofed: bool) -> Iterator[Packet]:
    """Every packet of the port registry at one place: in each state, of each user, within limits and beyond."""
    users = sorted({entry["uid"] for entry in expected["conduits"] if entry["uid"] is not None} | {0, 65534})
    transports = [(6 if proto == "tcp" else 17, port) for proto, port in ports]
    kinds = [(proto, port, 40000, 0, 64) for proto, port in transports] + [(proto, 40000, port, 0, 64) for proto, port in transports]
    kinds += [(58 if version == 6 else 1, 0, 0, kind, hops) for kind in (1, 2, 3, 4, 128, 131, 133, 135, 136, 143) for hops in (64, 255)]
    for proto, dport, sport, kind, hops in kinds[:: len(kinds) - 1] if spoofed else kinds:
        for state in ("new", "established", "related", "invalid", "untracked") if not spoofed else ("new", "established"):
            for uid in users if path == "output" and state == "new" else (0,):
                for over in (False, True) if path == "forward" and state == "new" else (False,):
                    yield Packet(proto=proto, dport=dport, sport=sport, type=kind, hoplimit=hops, state=state, uid=uid, over=over)


@dataclass(frozen=True)
class Proof:
    """Two rulesets over the packet space: how many packets were compared, and the first that tells them apart."""

    compared: int
    differs: str = ""


def equivalent(first: str, second: str, addresses: dict[int, list[str]], ports: Sequence[tuple[str, int]], expected: dict[str, Any]) -> Proof:
    """Do two listings do the same to every packet of the registry? ValueError where a walker does not know one of them.

    Places at which the same rules are left need no packet each: what is left looks at nothing that tells them apart.
    """
    walkers = Walker(first), Walker(second)
    compared = 0
    for path in ("input", "output", "forward"):
        if path == "forward" and not expected["legs"]:
            continue
        inner = {(version, spoofed): list(contents(ports, expected, path, version, spoofed)) for version in addresses for spoofed in (False, True)}
        alike: set[tuple[Any, ...]] = set()
        for place, spoofed in spots(addresses, expected, path):
            masks = [walker.place(place) for walker in walkers]
            kind = place["version"], spoofed
            compared += len(inner[kind])
            if (*masks, *kind) in alike:
                continue
            alike.add((*masks, *kind))
            one, two = (walker.at(mask) for walker, mask in zip(walkers, masks))
            if one.same(two):
                continue
            for packet in inner[kind]:
                whole = Packet({**place, **packet})
                if one.goes(path, whole) != two.goes(path, whole):
                    return Proof(compared, "%s: %s" % (path, dict(whole)))
    return Proof(compared)
