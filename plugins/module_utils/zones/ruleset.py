# SPDX-License-Identifier: Apache-2.0
"""``nft -j list ruleset`` as a program, and what it does to whole sets of packets. The one reader of rulesets here.

Reading never guesses: what is not understood becomes an ``Unknown`` with table, chain, handle and construct. Running keeps a set of packets
as boxes: for each dimension (source, target, protocol, ports, interfaces, conntrack state, user and whatever else a rule looks at) a bit mask
over classes that are cut at every boundary which a rule or the model mentions. Two packets of one class are treated alike by every rule, so
the result is exact. A packet whose fate hangs on an Unknown appears with both fates, and both carry it as a doubt.

Semantics (nft(8), kernel nf_tables): base chains of a hook run by priority; accept ends its base chain only, drop is final; a chain that
ends returns to its caller, a base chain to its policy; goto never comes back; before conntrack (priority -200) no packet has a state; oifname
is empty before routing and iifname is empty for what a host sends itself.
"""

from __future__ import annotations

import ipaddress
import json
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Union

PATHS = ("input", "output", "forward")
STATES = ("new", "established", "related", "invalid", "untracked")
#: Most boxes that one path may fall into; a ruleset beyond it is not judged.
MOST_BOXES = 60000
_CONNTRACK = -200
_TOP: dict[int, int] = {4: 2**32 - 1, 6: 2**128 - 1}
_PROTOCOLS = {
    "icmp": 1,
    "igmp": 2,
    "ipip": 4,
    "tcp": 6,
    "udp": 17,
    "dccp": 33,
    "ipv6": 41,
    "gre": 47,
    "esp": 50,
    "ah": 51,
    "icmpv6": 58,
    "ipv6-icmp": 58,
    "sctp": 132,
    "udplite": 136,
    "hopopt": 0,
    "ip": 0,
    "ipv6-route": 43,
    "ipv6-frag": 44,
    "ipv6-nonxt": 59,
    "ipv6-opts": 60,
    "comp": 108,
    "vrrp": 112,
    "ospf": 89,
    "l2tp": 115,
    "pim": 103,
    "mobility-header": 135,
}
_ICMP = {
    "echo-reply": 0,
    "destination-unreachable": 3,
    "source-quench": 4,
    "redirect": 5,
    "echo-request": 8,
    "router-advertisement": 9,
    "router-solicitation": 10,
    "time-exceeded": 11,
    "parameter-problem": 12,
    "timestamp-request": 13,
    "timestamp-reply": 14,
    "info-request": 15,
    "info-reply": 16,
    "address-mask-request": 17,
    "address-mask-reply": 18,
}
ICMP6 = {
    "destination-unreachable": 1,
    "packet-too-big": 2,
    "time-exceeded": 3,
    "parameter-problem": 4,
    "echo-request": 128,
    "echo-reply": 129,
    "mld-listener-query": 130,
    "mld-listener-report": 131,
    "mld-listener-done": 132,
    "mld-listener-reduction": 132,
    "nd-router-solicit": 133,
    "nd-router-advert": 134,
    "nd-neighbor-solicit": 135,
    "nd-neighbor-advert": 136,
    "nd-redirect": 137,
    "router-renumbering": 138,
    "ind-neighbor-solicit": 141,
    "ind-neighbor-advert": 142,
    "mld2-listener-report": 143,
}
_TCP_FLAGS = {"fin": 1, "syn": 2, "rst": 4, "psh": 8, "ack": 16, "urg": 32, "ecn": 64, "cwr": 128}
_CT_STATUS = {"expected": 1, "seen-reply": 2, "assured": 4, "confirmed": 8, "snat": 16, "dnat": 32, "dying": 64}
_DSCP = {
    "cs0": 0,
    "cs1": 8,
    "cs2": 16,
    "cs3": 24,
    "cs4": 32,
    "cs5": 40,
    "cs6": 48,
    "cs7": 56,
    "be": 0,
    "df": 0,
    "lephb": 1,
    "le": 1,
    "ef": 46,
    "va": 44,
    **{"af%d%d" % (high, low): high * 8 + low * 2 for high in (1, 2, 3, 4) for low in (1, 2, 3)},
}
#: Numbers that a packet, or its connection, carries beside what conduits speak of: (what nft says, top, names).
_NUMBERS: dict[str, tuple[int, Mapping[str, int]]] = {
    "icmp type": (255, _ICMP),
    "icmp code": (255, {}),
    "icmpv6 type": (255, ICMP6),
    "icmpv6 code": (255, {}),
    "tcp flags": (255, _TCP_FLAGS),
    "tcp sequence": (2**32 - 1, {}),
    "tcp ackseq": (2**32 - 1, {}),
    "tcp window": (65535, {}),
    "tcp doff": (15, {}),
    "tcp checksum": (65535, {}),
    "tcp urgptr": (65535, {}),
    "udp length": (65535, {}),
    "udp checksum": (65535, {}),
    "ip ttl": (255, {}),
    "ip dscp": (63, _DSCP),
    "ip ecn": (3, {}),
    "ip length": (65535, {}),
    "ip id": (65535, {}),
    "ip frag-off": (65535, {}),
    "ip hdrlength": (15, {}),
    "ip checksum": (65535, {}),
    "ip6 hoplimit": (255, {}),
    "ip6 dscp": (63, _DSCP),
    "ip6 ecn": (3, {}),
    "ip6 length": (65535, {}),
    "ip6 flowlabel": (2**20 - 1, {}),
    "ip6 nexthdr": (255, _PROTOCOLS),
    "meta mark": (2**32 - 1, {}),
    "meta length": (2**32 - 1, {}),
    "meta skgid": (2**32 - 1, {}),
    "meta cpu": (2**32 - 1, {}),
    "meta cgroup": (2**32 - 1, {}),
    "ct mark": (2**32 - 1, {}),
    "ct zone": (65535, {}),
    "ct status": (127, _CT_STATUS),
}
#: Further properties that are compared by name only; None: any name.
_NAMES: dict[str, tuple[str, ...] | None] = {
    "meta pkttype": None,
    "meta priority": None,
    "meta iifgroup": None,
    "meta oifgroup": None,
    "meta iiftype": None,
    "meta oiftype": None,
    "meta iifkind": None,
    "meta oifkind": None,
    "meta secpath": None,
    "meta ipsec": None,
    "meta rtclassid": None,
    "meta broute": None,
    "meta day": None,
    "meta ibrname": None,
    "meta obrname": None,
    "meta nftrace": None,
    "ct direction": ("original", "reply"),
    "ct helper": None,
    "ether saddr": None,
    "ether daddr": None,
    "ether type": None,
    "vlan id": None,
}
_BITS = frozenset(("tcp flags", "ct status"))
_CORE = ("iif", "oif", "saddr", "daddr", "proto", "sport", "dport", "ct", "uid")
_TRANSPORTS = {"tcp": 6, "udp": 17, "sctp": 132, "dccp": 33, "udplite": 136}
_INERT = frozenset(("counter", "log", "comment", "last", "set", "map", "secmark", "ct timeout", "meta nftrace"))
_BYPASS = {
    "dnat": "nat",
    "snat": "nat",
    "masquerade": "nat",
    "redirect": "nat",
    "tproxy": "nat",
    "queue": "queue",
    "flow": "flowtable",
    "dup": "bypass",
    "fwd": "bypass",
    "synproxy": "bypass",
    "ct helper": "helper",
    "ct expectation": "helper",
}


class RulesetError(Exception):
    """This is no listing of nft, or it is beyond what can be judged."""


@dataclass(frozen=True, order=True)
class Where:
    """A place in a ruleset. `handle` 0: the chain or table itself."""

    family: str
    table: str
    chain: str = ""
    handle: int = 0
    comment: str = field(default="", compare=False)

    @property
    def text(self) -> str:
        """For people."""
        parts = "table %s %s" % (self.family, self.table) + (", chain %s" % self.chain if self.chain else "")
        return parts + (", handle %d" % self.handle if self.handle else "") + (' ("%s")' % self.comment if self.comment else "")

    def as_dict(self) -> dict[str, Any]:
        """As JSON-like data."""
        return {"family": self.family, "table": self.table, "chain": self.chain, "handle": self.handle, "comment": self.comment}


@dataclass(frozen=True, order=True)
class Unknown:
    """A construct that is not understood."""

    where: Where
    construct: str

    @property
    def text(self) -> str:
        """For people."""
        return "%s: %s" % (self.where.text, self.construct)


@dataclass(frozen=True)
class Values:
    """A set of values of one dimension: closed intervals of numbers, or names (`x*` is a prefix); `negate`: all others."""

    numbers: tuple[tuple[int, int], ...] = ()
    names: tuple[str, ...] = ()
    negate: bool = False


def numbers(*found: int | tuple[int, int]) -> Values:
    """Values from numbers and (low, high)."""
    return Values(tuple((one, one) if isinstance(one, int) else one for one in found))


def names(*found: str, negate: bool = False) -> Values:
    """Values from names."""
    return Values((), tuple(found), negate)


def addresses(texts: Iterable[Any], negate: bool = False) -> Values:
    """Values from addresses and networks of one family."""
    nets = [ipaddress.ip_network(str(text)) for text in texts]
    return Values(tuple((int(net.network_address), int(net.broadcast_address)) for net in nets), (), negate)


#: A conjunction of conditions.
Cube = dict[str, Values]


class Match(NamedTuple):
    """Every packet in one of `cubes` (in none, where `negate`), and in `needs`. `doubt`: whether it matches is not known."""

    needs: Cube
    cubes: tuple[Cube, ...]
    negate: bool
    doubt: Unknown | None = None


class Act(NamedTuple):
    """What a rule does: accept, drop, reject, return, jump, goto, set (an override), edit (what no rule looks at), unknown, or a way around
    (`_BYPASS`)."""

    verb: str
    target: str = ""
    dimension: str = ""
    value: Values | None = None
    doubt: Unknown | None = None


Step = Union[Match, Act, "Choice"]


class Choice(NamedTuple):
    """A verdict map: the first alternative that matches acts."""

    ways: tuple[tuple[Match, Act], ...]


@dataclass
class Rule:
    """One rule; `steps` in order; `counted`: it has a counter; `fills`: the sets that it adds to, (operation, name)."""

    where: Where
    steps: list[Step]
    counted: bool = False
    fills: tuple[tuple[str, str], ...] = ()


@dataclass
class Chain:
    """One chain. `hook` is empty for one that is only jumped to."""

    where: Where
    type: str = ""
    hook: str = ""
    priority: int = 0
    policy: str = "accept"
    devices: tuple[str, ...] = ()
    rules: list[Rule] = field(default_factory=list)


@dataclass
class Program:
    """A ruleset as one address family meets it."""

    version: int
    chains: dict[tuple[str, str, str], Chain] = field(default_factory=dict)
    tables: list[tuple[str, str]] = field(default_factory=list)
    unknown: list[Unknown] = field(default_factory=list)
    others: list[tuple[str, Where]] = field(default_factory=list)
    """Sets, maps, flowtables and named objects: (kind, where)."""
    dormant: set[tuple[str, str]] = field(default_factory=set)
    """Tables that are there and do nothing. Not every nft says so in JSON: see `dormant`."""

    def base(self, hook: str) -> list[Chain]:
        """The base chains that an IP packet meets at a hook, in their order."""
        families = ("inet", "ip" if self.version == 4 else "ip6", "netdev")
        found = [
            one for one in self.chains.values() if one.hook == hook and one.where.family in families and (one.where.family, one.where.table) not in self.dormant
        ]
        return sorted(found, key=lambda one: (one.priority, one.where.family != "netdev"))


class _NotUnderstood(Exception):
    """One expression or statement."""


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    return text if len(text) <= 160 else text[:157] + "..."


class _Reader:
    def __init__(self, items: Sequence[Mapping[str, Any]], version: int, uid_of: Callable[[str], int | None]) -> None:
        self.version = version
        self.uid_of = uid_of
        self.program = Program(version)
        self.sets: dict[tuple[str, str, str], Mapping[str, Any]] = {}
        self.changing: set[tuple[str, str, str]] = set()
        self.where = Where("", "")
        self._items = items

    def read(self) -> Program:
        rules: list[Mapping[str, Any]] = []
        for item in self._items:
            if not isinstance(item, Mapping) or len(item) != 1:
                raise RulesetError("this is no listing of nft: %s" % _short(item))
            ((kind, body),) = item.items()
            if kind == "metainfo":
                continue
            if kind == "rule":
                rules.append(body)
            elif kind == "table":
                self.program.tables.append((body["family"], body["name"]))
                if "dormant" in _list(body.get("flags") or ()):
                    self.program.dormant.add((body["family"], body["name"]))
            elif kind == "chain":
                self._chain(body)
            else:
                self._other(kind, body)
        for body in rules:
            for statement in body.get("expr", []):
                change = statement.get("set") or statement.get("map") if isinstance(statement, Mapping) else None
                if isinstance(change, Mapping) and isinstance(change.get("set") or change.get("map"), str):
                    self.changing.add((body["family"], body["table"], str(change.get("set") or change.get("map")).lstrip("@")))
        for body in rules:
            self._rule(body)
        return self.program

    def _unknown(self, where: Where, construct: Any) -> Unknown:
        found = Unknown(where, _short(construct))
        if found not in self.program.unknown:
            self.program.unknown.append(found)
        return found

    def _chain(self, body: Mapping[str, Any]) -> None:
        where = Where(body["family"], body["table"], body["name"])
        chain = Chain(where)
        if body.get("hook"):
            devices = body.get("dev") or body.get("devices") or ()
            chain = Chain(
                where, str(body.get("type", "")), str(body["hook"]), _priority(body.get("prio", 0)), str(body.get("policy", "accept")), tuple(_list(devices))
            )
            if chain.hook not in ("prerouting", "input", "forward", "output", "postrouting", "ingress", "egress") or chain.type not in (
                "filter",
                "nat",
                "route",
            ):
                self._unknown(where, "a chain of type %s at hook %s" % (chain.type, chain.hook))
            if chain.policy not in ("accept", "drop"):
                self._unknown(where, "policy %s" % chain.policy)
        self.program.chains[where.family, where.table, where.chain] = chain

    def _other(self, kind: str, body: Mapping[str, Any]) -> None:
        where = Where(str(body.get("family", "")), str(body.get("table", "")), str(body.get("name", "")), int(body.get("handle") or 0))
        if kind in ("set", "map"):
            key = (where.family, where.table, where.chain)
            self.sets[key] = body
            if "dynamic" in _list(body.get("flags") or ()):
                self.changing.add(key)
        elif kind not in ("flowtable", "counter", "quota", "limit", "secmark", "synproxy", "ct helper", "ct timeout", "ct expectation"):
            self._unknown(where, "an object of kind %s" % kind)
        self.program.others.append((kind, where))

    # -- rules

    def _rule(self, body: Mapping[str, Any]) -> None:
        self.where = Where(body["family"], body["table"], body["chain"], int(body.get("handle") or 0), str(body.get("comment") or ""))
        chain = self.program.chains.get((body["family"], body["table"], body["chain"]))
        if chain is None:
            raise RulesetError("%s is a rule of a chain that is not listed" % self.where.text)
        rule = Rule(self.where, [])
        for statement in body.get("expr", []):
            try:
                rule.counted = rule.counted or (isinstance(statement, Mapping) and "counter" in statement)
                rule.fills += tuple((str(one["op"]), str(one["set"]).lstrip("@")) for name, one in _pairs(statement) if name == "set" and "set" in one)
                rule.steps += self._statement(statement)
            except (_NotUnderstood, KeyError, TypeError, ValueError, AttributeError) as error:
                doubt = self._unknown(self.where, str(error) if isinstance(error, _NotUnderstood) else statement)
                matches = isinstance(statement, Mapping) and ("match" in statement or (statement.get("xt") or {}).get("type") == "match")
                rule.steps.append(Match({}, (), False, doubt) if matches else Act("unknown", doubt=doubt))
        chain.rules.append(rule)

    def _statement(self, statement: Any) -> list[Step]:
        if isinstance(statement, str):
            statement = {statement: None}
        if not isinstance(statement, Mapping) or len(statement) != 1:
            raise _NotUnderstood(_short(statement))
        ((verb, body),) = statement.items()
        if verb == "match":
            return [self._match(body)]
        if verb in ("accept", "drop", "return"):
            return [Act(verb)]
        if verb == "reject":
            return [Act("reject")]
        if verb == "continue" or verb in _INERT:
            return []
        if verb in ("jump", "goto"):
            return [Act(verb, str(body["target"]))]
        if verb == "limit":
            return [self._limit(body)]
        if verb == "ct count":
            over = bool(body.get("inv"))
            top = int(body["val"])
            return [Match({}, ({"connections": numbers((top + 1, 2**32 - 1) if over else (0, top))},), False)]
        if verb == "quota" and isinstance(body, Mapping):
            # How much went through is another packet's business: both can be.
            return [Match({}, ({"quota %s" % _short(body): names("over" if body.get("inv") else "under")},), False)]
        if verb == "vmap":
            return [self._choice(body)]
        if verb == "notrack":
            return [Act("set", "notrack", "ct", names("untracked"))]
        if verb == "mangle":
            return self._mangle(body)
        if verb in _BYPASS:
            return [Act(_BYPASS[verb], _short({verb: body}))]
        if verb == "xt":
            raise _NotUnderstood("an extension of iptables: %s" % _short(body))
        raise _NotUnderstood(_short(statement))

    def _limit(self, body: Any) -> Match:
        if not isinstance(body, Mapping):
            raise _NotUnderstood("a named limit: %s" % _short(body))
        if body.get("rate_unit"):
            return Match(
                {}, ({"rate %s" % _short({key: body[key] for key in sorted(body) if key != "inv"}): names("over" if body.get("inv") else "under")},), False
            )
        dimension, rate = rate_of(int(body["rate"]), str(body["per"]), int(body.get("burst", 5)))
        return Match({}, ({dimension: numbers((rate + 1, 2**63) if body.get("inv") else (0, rate))},), False)

    def _mangle(self, body: Mapping[str, Any]) -> list[Step]:
        key, value = body["key"], body["value"]
        if "tcp option" in key or "exthdr" in key:
            return [Act("edit", _short({"mangle": body}))]
        rewritten = key.get("payload") or {}
        if rewritten.get("protocol") != "ether" and rewritten.get("field") in ("saddr", "daddr", "sport", "dport", "protocol", "nexthdr"):
            return [Act("nat", _short({"mangle": body}))]
        _needs, dimension = self._left(key)
        if dimension == "meta nftrace":
            return [Act("edit", _short({"mangle": body}))]
        if not isinstance(value, (int, str)):
            raise _NotUnderstood(_short({"mangle": body}))
        return [Act("set", _short({"mangle": body}), dimension, self._values(dimension, value))]

    def _choice(self, body: Mapping[str, Any]) -> Choice:
        data = body["data"]
        doubt = None
        if isinstance(data, str):
            key = (self.where.family, self.where.table, data.lstrip("@"))
            entries = _list(self.sets[key].get("elem") or ()) if key in self.sets else None
            if key in self.changing:
                doubt = self._unknown(self.where, "map %s, which packets change" % data)
        else:
            entries = data.get("set")
        if entries is None:
            raise _NotUnderstood(_short({"vmap": body}))
        ways = []
        for entry in entries:
            value, verdict = entry
            (act,) = self._statement(verdict)
            if not isinstance(act, Act):
                raise _NotUnderstood(_short({"vmap": body}))
            ways.append((self._compare("==", body["key"], {"set": [value]})._replace(doubt=doubt), act))
        return Choice(tuple(ways))

    # -- expressions

    def _left(self, left: Any) -> tuple[Cube, str]:
        """(what a packet must be for the expression to exist, the dimension)."""
        if not isinstance(left, Mapping) or len(left) != 1:
            raise _NotUnderstood(_short(left))
        ((kind, body),) = left.items()
        if kind == "meta":
            key = str(body["key"])
            known = {
                "iifname": "iif",
                "iif": "iif",
                "oifname": "oif",
                "oif": "oif",
                "l4proto": "proto",
                "skuid": "uid",
                "nfproto": "nfproto",
                "protocol": "nfproto",
            }
            if key in known:
                return {}, known[key]
            return self._free("meta %s" % key, left)
        if kind == "ct":
            if body.get("dir"):
                raise _NotUnderstood(_short(left))
            return ({}, "ct") if body["key"] == "state" else self._free("ct %s" % body["key"], left)
        if kind == "payload":
            return self._payload(body, left)
        if kind == "exthdr" and set(body) == {"name"}:
            return {}, "exthdr %s" % body["name"]
        if kind == "&" and len(body) == 2:
            needs, dimension = self._left(body[0])
            if dimension in _CORE or dimension == "nfproto":
                raise _NotUnderstood(_short(left))
            return needs, dimension if dimension in _BITS else "%s & %s" % (dimension, _short(body[1]))
        raise _NotUnderstood(_short(left))

    def _free(self, dimension: str, left: Any) -> tuple[Cube, str]:
        if dimension not in _NUMBERS and dimension not in _NAMES:
            raise _NotUnderstood(_short(left))
        return {}, dimension

    def _payload(self, body: Mapping[str, Any], left: Any) -> tuple[Cube, str]:
        protocol, name = body.get("protocol"), str(body.get("field"))
        if protocol in ("ip", "ip6"):
            needs = {"nfproto": numbers(4 if protocol == "ip" else 6)}
            if name in ("saddr", "daddr"):
                return needs, name
            if protocol == "ip" and name == "protocol":
                return needs, "proto"
            return needs, self._free("%s %s" % (protocol, name), left)[1]
        if protocol == "th" and name in ("sport", "dport"):
            return {}, name
        if protocol in _TRANSPORTS:
            needs = {"proto": numbers(_TRANSPORTS[protocol])}
            return needs, name if name in ("sport", "dport") else self._free("%s %s" % (protocol, name), left)[1]
        if protocol in ("icmp", "icmpv6"):
            needs = {"proto": numbers(_PROTOCOLS[protocol]), "nfproto": numbers(4 if protocol == "icmp" else 6)}
            return needs, self._free("%s %s" % (protocol, name), left)[1]
        if protocol in ("ether", "vlan"):
            return self._free("%s %s" % (protocol, name), left)
        raise _NotUnderstood(_short(left))

    def _match(self, body: Mapping[str, Any]) -> Match:
        return self._compare(str(body["op"]), body["left"], body["right"])

    def _compare(self, op: str, left: Any, right: Any) -> Match:
        doubt = None
        if isinstance(right, str) and right.startswith("@"):
            key = (self.where.family, self.where.table, right[1:])
            if key not in self.sets:
                raise _NotUnderstood("set %s is not listed" % right)
            if key in self.changing:
                doubt = self._unknown(self.where, "set %s, which packets change" % right)
            right = {"set": _list(self.sets[key].get("elem") or ())}
        if isinstance(left, Mapping) and set(left) == {"concat"}:
            if op not in ("==", "!=", "in") or not (isinstance(right, Mapping) and "set" in right):
                raise _NotUnderstood(_short({"match": {"op": op, "left": left, "right": right}}))
            return self._concat(left["concat"], right["set"], op == "!=", doubt)
        needs, dimension = self._left(left)
        if dimension == "nfproto":
            wanted = {"ipv4": 4, "ipv6": 6, "ip": 4, "ip6": 6}
            found = numbers(*(wanted.get(str(one), 0) for one in _items(right)))
            return Match({}, ({"nfproto": found},), op == "!=", doubt)
        if dimension == "ct" or dimension in _BITS:
            return Match(needs, ({dimension: self._bits(op, dimension, left, right)},), False, doubt)
        if op in ("<", "<=", ">", ">="):
            ((low, _high),) = self._values(dimension, right).numbers
            top = self._top(dimension)
            span = {"<": (0, low - 1), "<=": (0, low), ">": (low + 1, top), ">=": (low, top)}[op]
            return Match(needs, ({dimension: numbers(span)} if span[0] <= span[1] else {dimension: Values()},), False, doubt)
        if op not in ("==", "!=", "in"):
            raise _NotUnderstood("comparison %s of %s" % (op, _short(left)))
        return Match(needs, ({dimension: self._values(dimension, right)},), op == "!=", doubt)

    def _concat(self, parts: Sequence[Any], elements: Sequence[Any], negate: bool, doubt: Unknown | None) -> Match:
        needs: Cube = {}
        dimensions = []
        for part in parts:
            more, dimension = self._left(part)
            if dimension == "nfproto":
                raise _NotUnderstood(_short({"concat": parts}))
            needs.update(more)
            dimensions.append(dimension)
        cubes = []
        for element in elements:
            element = _element(element)
            values = element.get("concat") if isinstance(element, Mapping) else None
            if values is None or len(values) != len(dimensions) or len(set(dimensions)) != len(dimensions):
                raise _NotUnderstood(_short(element))
            cubes.append(
                {dimension: names(str(value)) if dimension == "ct" else self._values(dimension, value) for dimension, value in zip(dimensions, values)}
            )
        return Match(needs, tuple(cubes), negate, doubt)

    def _bits(self, op: str, dimension: str, left: Any, right: Any) -> Values:
        """Comparisons of flags: every value of the field is tried."""
        table = {name: 1 << number for number, name in enumerate(STATES)} if dimension == "ct" else _NUMBERS[dimension][1]
        domain = list(table.values()) if dimension == "ct" else list(range(_NUMBERS[dimension][0] + 1))

        def value(one: Any) -> int:
            if isinstance(one, Mapping) and set(one) == {"|"}:
                return value(one["|"])
            if isinstance(one, (list, tuple)):
                total = 0
                for part in one:
                    total |= value(part)
                return total
            if isinstance(one, bool) or not isinstance(one, (int, str)) or (isinstance(one, str) and one not in table):
                raise _NotUnderstood(_short({"match": {"op": op, "left": left, "right": right}}))
            return one if isinstance(one, int) else table[one]

        mask = value(left["&"][1]) if isinstance(left, Mapping) and "&" in left else ~0
        wanted = [value(_element(one)) for one in right["set"]] if isinstance(right, Mapping) and "set" in right else [value(right)]
        tests: dict[str, Callable[[int], bool]] = {
            "in": lambda one: any(one & mask & each for each in wanted) if not (isinstance(right, Mapping) and "set" in right) else one & mask in wanted,
            "==": lambda one: one & mask in wanted,
            "!=": lambda one: one & mask not in wanted,
            "!": lambda one: not any(one & mask & each for each in wanted),
        }
        if op not in tests:
            raise _NotUnderstood("comparison %s of %s" % (op, _short(left)))
        found = [one for one in domain if tests[op](one)]
        if dimension == "ct":
            return names(*(STATES[one.bit_length() - 1] for one in found))
        return numbers(*found)

    def _top(self, dimension: str) -> int:
        base = dimension.partition(" & ")[0]
        core = {"saddr": _TOP[self.version], "daddr": _TOP[self.version], "proto": 255, "sport": 65535, "dport": 65535, "uid": 2**32 - 1}
        if base not in core and base not in _NUMBERS:
            raise _NotUnderstood("an order of %s" % dimension)
        return core[base] if base in core else _NUMBERS[base][0]

    def _values(self, dimension: str, right: Any) -> Values:
        numbers_found: list[tuple[int, int]] = []
        names_found: list[str] = []
        for one in _items(right):
            one = _element(one)
            if isinstance(one, Mapping) and set(one) == {"range"}:
                low, high = (self._number(dimension, end) for end in one["range"])
                numbers_found.append((low, high))
            elif isinstance(one, Mapping) and set(one) == {"prefix"}:
                if dimension not in ("saddr", "daddr"):
                    raise _NotUnderstood(_short(one))
                net = ipaddress.ip_network("%s/%d" % (one["prefix"]["addr"], one["prefix"]["len"]), strict=False)
                if net.version != self.version:
                    continue
                numbers_found.append((int(net.network_address), int(net.broadcast_address)))
            elif dimension in ("iif", "oif", "ct") or dimension in _NAMES or dimension.startswith("exthdr "):
                names_found.append(_short(one))
            else:
                if dimension in ("saddr", "daddr") and ipaddress.ip_address(str(one)).version != self.version:
                    continue
                number = self._number(dimension, one)
                numbers_found.append((number, number))
        return Values(tuple(numbers_found), tuple(names_found))

    def _number(self, dimension: str, one: Any) -> int:
        base = dimension.partition(" & ")[0]
        if isinstance(one, bool) or not isinstance(one, (int, str)):
            raise _NotUnderstood("%s %s" % (dimension, _short(one)))
        if dimension in ("saddr", "daddr"):
            return int(ipaddress.ip_address(one))
        if isinstance(one, int) or one.isdigit():
            return int(one)
        if dimension == "uid":
            uid = self.uid_of(one)
            if uid is None:
                raise _NotUnderstood("user %s, who is not known here" % one)
            return uid
        table: Mapping[str, int] = _PROTOCOLS if dimension == "proto" else _NUMBERS.get(base, (0, {}))[1]
        if one not in table:
            raise _NotUnderstood("%s %s" % (dimension, one))
        return table[one]


def _pairs(statement: Any) -> Iterable[tuple[str, Mapping[str, Any]]]:
    return [(name, one) for name, one in statement.items() if isinstance(one, Mapping)] if isinstance(statement, Mapping) else []


def _list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _items(right: Any) -> list[Any]:
    if isinstance(right, Mapping) and set(right) == {"set"}:
        return _list(right["set"])
    return _list(right)


def _element(one: Any) -> Any:
    """The value of a set's element without its timeout, counter and comment."""
    return one["elem"]["val"] if isinstance(one, Mapping) and set(one) == {"elem"} else one


def _priority(value: Any) -> int:
    if isinstance(value, int):
        return value
    raise RulesetError("priority %r is no number" % (value,))


def rate_of(rate: int, per: str, burst: int) -> tuple[str, int]:
    """(dimension, rate per week): rates of one burst can be compared."""
    weeks = {"second": 604800, "minute": 10080, "hour": 168, "day": 7, "week": 1}
    return "rate with burst %d" % burst, rate * weeks[per]


def parse(listing: str, version: int, uid_of: Callable[[str], int | None]) -> Program:
    """The program that packets of IP `version` meet. Raises RulesetError where `listing` is none of ``nft -j list ruleset``."""
    try:
        items = json.loads(listing)["nftables"]
        return _Reader(items, version, uid_of).read()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RulesetError("nft gave no ruleset that can be read: %s" % error) from None


def flagged(text: str, flag: str) -> set[tuple[str, str]]:
    """The tables that ``nft -s list ruleset`` shows with a flag; the JSON of nft 1.0.6 leaves dormant out, and breaks off at owner."""
    found: set[tuple[str, str]] = set()
    table = ("", "")
    for line in text.splitlines():
        words = line.split()
        if line.startswith("table ") and len(words) >= 3:
            table = (words[1], words[2])
        elif line.startswith("\tflags ") and not line.startswith("\t\t") and flag in line.replace(",", " ").split():
            found.add(table)
    return found


def dormant(text: str) -> set[tuple[str, str]]:
    """The tables that are there and do nothing."""
    return flagged(text, "dormant")


# -- sets of packets --------------------------------------------------------------------------------------------------------------


def _every(program: Program) -> Iterator[Cube]:
    """Every cube that a program mentions."""
    for chain in program.chains.values():
        yield {"iif": names(*chain.devices), "oif": names(*chain.devices)}
        for rule in chain.rules:
            for step in rule.steps:
                ways = [step] if isinstance(step, Match) else [one for one, _act in step.ways] if isinstance(step, Choice) else []
                for match in ways:
                    yield match.needs
                    yield from match.cubes
                if isinstance(step, Act) and step.value is not None:
                    yield {step.dimension: step.value}


class Classes:
    """The dimensions of a judgement, each cut into classes of values that nothing tells apart."""

    def __init__(self, version: int, cubes: Iterable[Cube]) -> None:
        cuts: dict[str, set[int]] = {}
        known: dict[str, set[str]] = {"iif": {"", "lo"}, "oif": {"", "lo"}, "ct": set(STATES)}
        for cube in cubes:
            for dimension, values in cube.items():
                if dimension == "nfproto":
                    continue
                cuts.setdefault(dimension, set()).update(edge for low, high in values.numbers for edge in (low, high + 1))
                known.setdefault(dimension, set()).update(values.names)
        self.version = version
        self.names = [*_CORE, *sorted(set(cuts) | set(known) - set(_CORE) - {"nfproto"})]
        self.names = list(dict.fromkeys(self.names))
        self.index = {name: number for number, name in enumerate(self.names)}
        self._starts: dict[str, list[int]] = {}
        self._atoms: dict[str, list[str]] = {}
        self._tops: dict[str, int] = {}
        full = []
        for name in self.names:
            if name in ("iif", "oif") or (known.get(name) and not cuts.get(name)):
                self._atoms[name] = _atoms(name, known.get(name, set()))
                full.append((1 << len(self._atoms[name])) - 1)
                continue
            top = {
                "saddr": _TOP[version],
                "daddr": _TOP[version],
                "proto": 255,
                "sport": 65535,
                "dport": 65535,
                "uid": 2**32 - 1,
                "connections": 2**32 - 1,
            }.get(name)
            self._tops[name] = top if top is not None else _NUMBERS.get(name.partition(" & ")[0], (2**63, {}))[0]
            if known.get(name):
                raise RulesetError("%s is compared by name and by number" % name)
            self._starts[name] = sorted({0} | {cut for cut in cuts.get(name, ()) if 0 < cut <= self._tops[name]})
            full.append((1 << len(self._starts[name])) - 1)
        self.full = tuple(full)

    def mask(self, dimension: str, values: Values) -> int:
        """The classes that `values` are made of."""
        found = 0
        if dimension in self._atoms:
            if values.numbers:
                raise RulesetError("%s is compared by name and by number" % dimension)
            for wanted in values.names:
                for number, atom in enumerate(self._atoms[dimension]):
                    if atom == wanted or (wanted.endswith("*") and dimension in ("iif", "oif") and atom.startswith(wanted[:-1])):
                        found |= 1 << number
        else:
            starts = self._starts[dimension]
            for low, high in values.numbers:
                first, last = bisect_right(starts, low) - 1, bisect_right(starts, min(high, self._tops[dimension])) - 1
                found |= ((1 << (last - first + 1)) - 1) << first
        return self.full[self.index[dimension]] & ~found if values.negate else found

    def cube(self, cube: Cube) -> tuple[tuple[int, int], ...] | None:
        """(dimension, classes) pairs; None where nothing can be in it."""
        found = []
        for name, values in cube.items():
            if name == "nfproto":
                inside = any(low <= self.version <= high for low, high in values.numbers)
                if inside == values.negate:
                    return None
                continue
            number = self.index[name]
            mask = self.mask(name, values)
            if not mask:
                return None
            if mask != self.full[number]:
                found.append((number, mask))
        return tuple(found)

    def box(self, cube: Cube) -> Box | None:
        """The box of a cube; None where nothing can be in it."""
        pairs = self.cube(cube)
        if pairs is None:
            return None
        found = list(self.full)
        for number, mask in pairs:
            found[number] &= mask
        return tuple(found) if all(found) else None

    def values(self, dimension: str, mask: int) -> list[Any]:
        """What `mask` holds, as names or (low, high)."""
        if dimension in self._atoms:
            return [atom for number, atom in enumerate(self._atoms[dimension]) if mask >> number & 1]
        starts = self._starts[dimension]
        found: list[tuple[int, int]] = []
        for number, start in enumerate(starts):
            if mask >> number & 1:
                end = starts[number + 1] - 1 if number + 1 < len(starts) else self._tops[dimension]
                if found and found[-1][1] == start - 1:
                    found[-1] = (found[-1][0], end)
                else:
                    found.append((start, end))
        return found

    def example(self, box: Box) -> dict[str, Any]:
        """One packet of a box, for people."""
        found: dict[str, Any] = {}
        for number, name in enumerate(self.names):
            if box[number] == self.full[number] and name not in ("ct", "proto"):
                continue
            if name in ("saddr", "daddr"):
                low, high = min(self.values(name, box[number]), key=lambda pair: (pair[1] - pair[0], pair[0]))
                # The bounds of a wide range are rarely anybody's address.
                found[name] = str(_address(self.version, low if high - low < 2 else low + 1))
            elif name == "proto":
                numbers_here = self.values(name, box[number])
                wanted = next(
                    (one for one in (6, 17, 1 if self.version == 4 else 58) if any(low <= one <= high for low, high in numbers_here)), numbers_here[0][0]
                )
                found[name] = {6: "tcp", 17: "udp", 1: "icmp", 58: "icmpv6"}.get(wanted, wanted)
            elif name == "ct":
                here = self.values(name, box[number])
                found["state"] = "new" if "new" in here else here[0]
            else:
                first = self.values(name, box[number])[0]
                found[name] = first if isinstance(first, str) else first[0]
        return found


#: For each dimension a mask of classes.
Box = tuple[int, ...]


def _address(version: int, number: int) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    return ipaddress.IPv4Address(number) if version == 4 else ipaddress.IPv6Address(number)


def _atoms(dimension: str, known: set[str]) -> list[str]:
    if dimension == "ct":
        return list(STATES)
    if known and known <= set(_NAMES.get(dimension) or ()):
        return list(_NAMES[dimension] or ())
    exact = {one for one in known if not (one.endswith("*") and dimension in ("iif", "oif"))}
    if dimension in ("iif", "oif"):
        # Some name for each prefix that nobody mentions, and one for every other interface.
        exact |= {one[:-1] + "~other" for one in known if one.endswith("*")} | {"~other"}
        return sorted(exact)
    return [*sorted(exact), "~other"]


def minus(boxes: Iterable[Box], cubes: Iterable[Sequence[tuple[int, int]]]) -> list[Box]:
    """What of `boxes` is in none of `cubes`."""
    rest = list(boxes)
    for cube in cubes:
        kept: list[Box] = []
        for box in rest:
            inside, outside = _split(box, cube)
            kept += outside if inside is not None else [box]
        rest = kept
        if not rest:
            break
        if len(rest) > MOST_BOXES:
            raise RulesetError("the ruleset falls into more than %d sets of packets" % MOST_BOXES)
    return rest


def within(boxes: Iterable[Box], cubes: Iterable[Sequence[tuple[int, int]]]) -> list[Box]:
    """What of `boxes` is in one of `cubes`, which have nothing in common."""
    found = [_split(box, cube)[0] for cube in cubes for box in boxes]
    return [box for box in found if box is not None]


def _split(box: Box, cube: Sequence[tuple[int, int]]) -> tuple[Box | None, list[Box]]:
    """(what is inside, what is outside)."""
    for number, mask in cube:
        if not box[number] & mask:
            return None, [box]
    outside: list[Box] = []
    current = box
    for number, mask in cube:
        left = current[number] & ~mask
        if left:
            outside.append((*current[:number], left, *current[number + 1 :]))
            current = (*current[:number], current[number] & mask, *current[number + 1 :])
    return current, outside


class Part(NamedTuple):
    """A box on its way. `over`: what was rewritten, (dimension, mask); `doubts`: Unknowns its fate hangs on; `trail`: who let it go on."""

    box: Box
    over: tuple[tuple[int, int], ...] = ()
    doubts: frozenset[Unknown] = frozenset()
    trail: tuple[Where, ...] = ()


class Event(NamedTuple):
    """A way around that packets reach."""

    kind: str
    where: Where
    what: str
    path: str
    example: dict[str, Any]


@dataclass
class Outcome:
    """What becomes of every packet of a path. `accepts`: the boxes that each accept ended; `reached`: the places that a packet gets to."""

    path: str
    passed: list[Part] = field(default_factory=list)
    dropped: list[Part] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    accepts: dict[Where, list[Part]] = field(default_factory=dict)
    reached: set[Where] = field(default_factory=set)


_Ready = tuple[str, Any]


class Machine:
    """Runs a program. Raises RulesetError where the sets of packets become too many."""

    def __init__(self, program: Program, classes: Classes) -> None:
        self.program = program
        self.classes = classes
        self._chains: dict[tuple[str, str, str], list[tuple[Rule, list[_Ready]]]] = {}
        self._ready: dict[int, list[_Ready]] = {}
        for key, chain in program.chains.items():
            ready = [(rule, self._prepare(rule)) for rule in chain.rules]
            self._ready.update({id(rule): steps for rule, steps in ready})
            self._chains[key] = [(rule, steps) for rule, steps in ready if any(kind != "match" for kind, _body in steps)]

    def concerns(self, rule: Rule) -> bool:
        """Can any packet of this version match the rule?"""
        return bool(self._ready[id(rule)])

    def alone(self, rules: Sequence[Rule], boxes: Sequence[Box]) -> list[Box]:
        """What of `boxes` these rules alone would not accept."""
        place = Chain(Where("", "", ""), rules=list(rules))
        self._chains["", "", ""] = [(rule, self._ready[id(rule)]) for rule in rules]
        accepted, _dropped, _rest = self._chain(place, [Part(box) for box in boxes], Outcome(""), (), 0)
        cubes = [tuple((number, mask) for number, mask in enumerate(part.box)) for part in accepted]
        return minus(boxes, cubes)

    def _condition(self, match: Match) -> tuple[Any, Any, bool, Unknown | None] | None:
        """(needs, cubes, negate, doubt); None: never."""
        needs = self.classes.cube(match.needs)
        if needs is None:
            return None
        cubes = [one for one in map(self.classes.cube, match.cubes) if one is not None]
        negate = match.negate
        if match.doubt is None and len(cubes) == 1 and len(cubes[0]) == 1 and negate:
            # One dimension: all others are a cube again.
            ((number, mask),) = cubes[0]
            cubes, negate = [((number, self.classes.full[number] & ~mask),)], False
        if match.doubt is None and not negate and len(cubes) == 1:
            both: dict[int, int] = dict(needs)
            for number, mask in cubes[0]:
                both[number] = both.get(number, self.classes.full[number]) & mask
            return tuple(both.items()), [()], False, None
        return needs, cubes, negate, match.doubt

    def _prepare(self, rule: Rule) -> list[_Ready]:
        ready: list[_Ready] = []
        for step in rule.steps:
            if isinstance(step, Match):
                condition = self._condition(step)
                if condition is None:
                    return []
                ready.append(("match", condition))
            elif isinstance(step, Choice):
                ready.append(("choice", [(self._condition(match), act) for match, act in step.ways]))
            else:
                ready.append(("act", step))
        return ready

    # -- running

    def run(self, path: str, interfaces: Iterable[str] | None = None) -> Outcome:
        """Every packet of a path through its hooks."""
        outcome = Outcome(path)
        classes = self.classes
        outside = names("", negate=True)
        start = {
            "input": {"iif": outside, "oif": names("")},
            "output": {"iif": names(""), "oif": outside},
            "forward": {"iif": names("", "lo", negate=True), "oif": names("", "lo", negate=True)},
        }[path]
        box = classes.box(start)
        parts = [Part(box)] if box else []
        hooks = {
            "input": ("ingress", "prerouting", "input"),
            "output": ("output", "postrouting", "egress"),
            "forward": ("ingress", "prerouting", "forward", "postrouting", "egress"),
        }[path]
        for hook in hooks:
            for chain in self.program.base(hook):
                parts = self._base(chain, parts, outcome)
                if len(parts) > MOST_BOXES:
                    raise RulesetError("the ruleset falls into more than %d sets of packets" % MOST_BOXES)
        outcome.passed += parts
        return outcome

    def _base(self, chain: Chain, parts: list[Part], outcome: Outcome) -> list[Part]:
        classes = self.classes
        view: list[tuple[int, int]] = []
        if chain.hook in ("ingress", "prerouting"):
            view.append((classes.index["oif"], classes.mask("oif", names(""))))
        before = chain.hook in ("ingress",) or (chain.hook in ("prerouting", "output") and chain.priority <= _CONNTRACK)
        if before:
            view.append((classes.index["ct"], classes.mask("ct", names("invalid"))))
        around: list[Part] = []
        if chain.devices:
            number = classes.index["iif" if chain.hook == "ingress" else "oif"]
            mask = classes.mask("iif" if chain.hook == "ingress" else "oif", names(*chain.devices))
            parts, around = self._divide(parts, ((number, mask),), ())
        if chain.type == "nat":
            # Only the first packet of a connection is shown to nat.
            first, rest = self._divide(parts, ((classes.index["ct"], classes.mask("ct", names("new", "related"))),), ())
            parts, around = first, around + rest
        self._untrack = not before
        ended, dropped, rest = self._chain(chain, parts, outcome, tuple(view), 0)
        if chain.policy == "drop":
            dropped += [part._replace(trail=(*part.trail, chain.where)) for part in rest]
        else:
            if rest:
                outcome.accepts.setdefault(chain.where, []).extend(rest)
            ended += [part._replace(trail=(*part.trail, chain.where)) for part in rest]
        if any(part for part in parts):
            outcome.reached.add(chain.where)
        outcome.dropped += dropped
        return ended + around

    def _divide(self, parts: Sequence[Part], cube: Sequence[tuple[int, int]], view: Sequence[tuple[int, int]]) -> tuple[list[Part], list[Part]]:
        inside: list[Part] = []
        outside: list[Part] = []
        for part in parts:
            over = dict(view)
            over.update(part.over)
            wanted = cube
            if over:
                wanted = []
                never = False
                for number, mask in cube:
                    if number in over:
                        never = never or not over[number] & mask
                    else:
                        wanted.append((number, mask))
                if never:
                    outside.append(part)
                    continue
            box, rest = _split(part.box, wanted)
            if box is None:
                outside.append(part)
                continue
            inside.append(part if box is part.box else part._replace(box=box))
            outside += [part._replace(box=one) for one in rest]
        return inside, outside

    def _matching(self, parts: list[Part], condition: Any, view: Sequence[tuple[int, int]]) -> tuple[list[Part], list[Part]]:
        """(those that match, those that do not)."""
        if condition is None:
            return [], parts
        needs, cubes, negate, doubt = condition
        able, failed = self._divide(parts, needs, view)
        if doubt is not None:
            both = [part._replace(doubts=part.doubts | {doubt}) for part in able]
            return both, failed + both
        inside: list[Part] = []
        for cube in cubes:
            more, able = self._divide(able, cube, view)
            inside += more
        return (able, failed + inside) if negate else (inside, failed + able)

    def _chain(
        self, chain: Chain, parts: list[Part], outcome: Outcome, view: Sequence[tuple[int, int]], depth: int
    ) -> tuple[list[Part], list[Part], list[Part]]:
        """(accepted, dropped, those that come to its end)."""
        if depth > 32:
            raise RulesetError("%s jumps in a circle" % chain.where.text)
        accepted: list[Part] = []
        dropped: list[Part] = []
        returned: list[Part] = []
        key = (chain.where.family, chain.where.table, chain.where.chain)
        for rule, steps in self._chains[key]:
            if not parts:
                break
            current, after = parts, []
            for kind, body in steps:
                if not current:
                    break
                if kind == "match":
                    current, failed = self._matching(current, body, view)
                    after += failed
                    continue
                ways = body if kind == "choice" else [(((), [()], False, None), body)]
                waiting = current
                current = []
                for condition, act in ways:
                    inside, waiting = self._matching(waiting, condition, view)
                    if inside:
                        current += self._act(act, inside, rule, chain, outcome, view, depth, accepted, dropped, returned)
                current += waiting
            parts = after + current
            if len(parts) > MOST_BOXES:
                raise RulesetError("the ruleset falls into more than %d sets of packets" % MOST_BOXES)
        return accepted, dropped, returned + parts

    def _act(
        self,
        act: Act,
        inside: list[Part],
        rule: Rule,
        chain: Chain,
        outcome: Outcome,
        view: Sequence[tuple[int, int]],
        depth: int,
        accepted: list[Part],
        dropped: list[Part],
        returned: list[Part],
    ) -> list[Part]:
        """What goes on to the next statement; the rest is appended where it belongs."""
        outcome.reached.add(rule.where)
        if act.verb in ("accept", "unknown"):
            doubted = inside if act.doubt is None else [part._replace(doubts=part.doubts | {act.doubt}) for part in inside]
            outcome.accepts.setdefault(rule.where, []).extend(doubted)
            accepted += [part._replace(trail=(*part.trail, rule.where)) for part in doubted]
            if act.verb == "accept":
                return []
            dropped += [part._replace(trail=(*part.trail, rule.where)) for part in doubted]
            return doubted
        if act.verb in ("drop", "reject"):
            dropped += [part._replace(trail=(*part.trail, rule.where)) for part in inside]
            return []
        if act.verb == "return":
            returned += inside
            return []
        if act.verb in ("jump", "goto"):
            target = self.program.chains.get((rule.where.family, rule.where.table, act.target))
            if target is None:
                raise RulesetError("%s jumps to chain %s, which is not listed" % (rule.where.text, act.target))
            more, less, rest = self._chain(target, inside, outcome, view, depth + 1)
            accepted += more
            dropped += less
            if act.verb == "jump":
                return rest
            returned += rest
            return []
        if act.verb == "edit":
            return inside
        if act.verb == "set":
            return self._set(act, inside, rule, outcome)
        outcome.events.append(Event(act.verb, rule.where, act.target, outcome.path, self.classes.example(inside[0].box)))
        if act.verb == "queue":
            # A program decides, or nobody if it is gone.
            doubt = Unknown(rule.where, "a program behind %s decides" % act.target)
            both = [part._replace(doubts=part.doubts | {doubt}, trail=(*part.trail, rule.where)) for part in inside]
            accepted += both
            dropped += both
            return []
        if act.target.startswith('{"fwd"'):
            dropped += [part._replace(trail=(*part.trail, rule.where)) for part in inside]
            return []
        if act.verb == "nat":
            doubt = Unknown(rule.where, "what is judged is not what leaves: %s" % act.target)
            return [part._replace(doubts=part.doubts | {doubt}) for part in inside]
        return inside

    _untrack = False

    def _set(self, act: Act, inside: list[Part], rule: Rule, outcome: Outcome) -> list[Part]:
        if act.dimension == "ct":
            if self._untrack:
                # After conntrack has seen a packet, notrack does nothing.
                return inside
            outcome.events.append(Event("notrack", rule.where, act.target, outcome.path, self.classes.example(inside[0].box)))
        number = self.classes.index[act.dimension]
        mask = self.classes.mask(act.dimension, act.value or Values())
        return [part._replace(over=(*(pair for pair in part.over if pair[0] != number), (number, mask))) for part in inside]


def classes_of(program: Program, more: Iterable[Cube]) -> Classes:
    """The classes of a program and of what it is compared with."""
    return Classes(program.version, [*_every(program), *more])
