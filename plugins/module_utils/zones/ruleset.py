# SPDX-License-Identifier: Apache-2.0
"""``nft -j list ruleset`` as a program. The one reader of rulesets here.

Reading never guesses: what is not understood becomes an ``Unknown`` with table, chain, handle and construct.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible_collections.hnai.platform.plugins.module_utils.zones.boxes import Cube, RulesetError, Values, names, numbers
from ansible_collections.hnai.platform.plugins.module_utils.zones.dimensions import CORE, NAMES, NO_SOCKET, NUMBERS, PROTOCOLS, STATES, TOP, rate_of
from ansible_collections.hnai.platform.plugins.module_utils.zones.program import Act, Chain, Choice, Match, Program, Rule, Step, Unknown, Where

_BITS = frozenset(("tcp flags", "ct status"))
_TRANSPORTS = {"tcp": 6, "udp": 17, "sctp": 132, "dccp": 33, "udplite": 136}
_INERT = frozenset(("counter", "log", "comment", "last", "set", "map", "secmark", "meta nftrace"))
#: Header fields that a network may change under way: the packet still arrives.
_CARRIED = frozenset(("dscp", "ecn", "flowlabel"))
#: What the packet's socket says; a packet may have none, and then no comparison holds.
_OF_SOCKET = frozenset(("skuid", "skgid", "cgroup"))
#: What else conntrack says needs a connection.
_TRACKED: Cube = {"ct": names("new", "established", "related")}
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
            if "dynamic" in _list(body.get("flags") or ()) or _budgets(body):
                self.changing.add(key)
        elif kind not in ("flowtable", "counter", "quota", "limit", "secmark", "synproxy", "ct helper", "ct timeout", "ct expectation"):
            self._unknown(where, "an object of kind %s" % kind)
        self.program.others.append((kind, where, "size %s timeout %s" % (body.get("size"), body.get("timeout"))))

    # -- rules

    def _rule(self, body: Mapping[str, Any]) -> None:
        self.where = Where(body["family"], body["table"], body["chain"], int(body.get("handle") or 0), str(body.get("comment") or ""))
        chain = self.program.chains.get((body["family"], body["table"], body["chain"]))
        if chain is None:
            raise RulesetError("%s is a rule of a chain that is not listed" % self.where.text)
        rule = Rule(self.where, [], text=_written(body) if self.where.chain.startswith("observed_") else "")
        for statement in body.get("expr", []):
            try:
                if isinstance(statement, Mapping) and statement.keys() & {"counter", "match", "limit", "ct count"}:
                    # Before what a rule asks for, a counter counts everything that comes by.
                    rule.counted = "counter" in statement
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
        if verb in ("set", "map") and isinstance(body, Mapping) and body.get("stmt"):
            # A limit or a counter of connections for each element: it decides whether the rule goes on.
            return [Match({}, (), False, self._unknown(self.where, statement))]
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
        if not isinstance(value, (int, str)) or dimension == "ct zone" or (rewritten and rewritten["field"] not in _CARRIED):
            # In another zone the packets of one connection may not find each other; with another length, lifetime or MAC address none may arrive.
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
            if key in _OF_SOCKET:
                dimension = known.get(key) or self._free("meta %s" % key, left)[1]
                return {dimension: numbers((0, NO_SOCKET - 1))}, dimension
            if key in known:
                return {}, known[key]
            return self._free("meta %s" % key, left)
        if kind == "ct":
            if body.get("dir"):
                raise _NotUnderstood(_short(left))
            return ({}, "ct") if body["key"] == "state" else (_TRACKED, self._free("ct %s" % body["key"], left)[1])
        if kind == "payload":
            return self._payload(body, left)
        if kind == "exthdr" and set(body) == {"name"}:
            return {}, "exthdr %s" % body["name"]
        if kind == "&" and len(body) == 2:
            needs, dimension = self._left(body[0])
            if dimension in CORE or dimension == "nfproto":
                raise _NotUnderstood(_short(left))
            return needs, dimension if dimension in _BITS else "%s & %s" % (dimension, _short(body[1]))
        raise _NotUnderstood(_short(left))

    def _free(self, dimension: str, left: Any) -> tuple[Cube, str]:
        if dimension not in NUMBERS and dimension not in NAMES:
            raise _NotUnderstood(_short(left))
        return {}, dimension

    def _payload(self, body: Mapping[str, Any], left: Any) -> tuple[Cube, str]:
        protocol, name = body.get("protocol"), str(body.get("field"))
        if "tunnel" in body:  # of the packet inside
            raise _NotUnderstood(_short(left))
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
            needs = {"proto": numbers(PROTOCOLS[protocol]), "nfproto": numbers(4 if protocol == "icmp" else 6)}
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
        table = {name: 1 << number for number, name in enumerate(STATES)} if dimension == "ct" else NUMBERS[dimension][1]
        top = 2 ** len(STATES) - 1 if dimension == "ct" else NUMBERS[dimension][0]
        domain = list(table.values()) if dimension == "ct" else list(range(top + 1))

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
            number = one if isinstance(one, int) else table[one]
            if number > top:
                raise _NotUnderstood(_short({"match": {"op": op, "left": left, "right": right}}))
            return number

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
        core = {"saddr": TOP[self.version], "daddr": TOP[self.version], "proto": 255, "sport": 65535, "dport": 65535, "uid": 2**32 - 1}
        if base not in core and base not in NUMBERS:
            raise _NotUnderstood("an order of %s" % dimension)
        return core[base] if base in core else NUMBERS[base][0]

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
            elif dimension in ("iif", "oif", "ct") or dimension in NAMES or dimension.startswith("exthdr "):
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
        table: Mapping[str, int] = PROTOCOLS if dimension == "proto" else NUMBERS.get(base, (0, {}))[1]
        if one not in table:
            raise _NotUnderstood("%s %s" % (dimension, one))
        return table[one]


def _written(body: Mapping[str, Any]) -> str:
    """A rule that writes flows down, in the words of observe.py; what they do not have stands there as JSON."""
    words = []
    for statement in body.get("expr", []):
        try:
            words.append(_said(statement))
        except (KeyError, TypeError, ValueError, AttributeError):
            words.append(json.dumps(statement, sort_keys=True))
    return " ".join([*words, *(['comment "%s"' % body["comment"]] if body.get("comment") else [])])


def _said(statement: Mapping[str, Any]) -> str:
    ((verb, body),) = statement.items()
    if verb in ("counter", "return"):
        return str(verb)
    if verb == "set" and set(body) == {"op", "elem", "set"}:
        return "%s %s { %s }" % (body["op"], body["set"], " . ".join(map(_asked, body["elem"]["concat"])))
    right = "{ %s }" % ", ".join(sorted(body["right"]["set"])) if isinstance(body["right"], Mapping) else str(body["right"])
    return " ".join((_asked(body["left"]), *({"==": (), "!=": ("!=",)}[body["op"]]), right))


def _asked(left: Mapping[str, Any]) -> str:
    ((kind, body),) = left.items()
    if kind == "&":
        flags = body[1]["|"] if isinstance(body[1], Mapping) else body[1]
        return "%s & (%s)" % (_asked(body[0]), " | ".join(flags))
    if kind == "meta":
        return "meta %s" % body["key"]
    return "%s %s" % ("th" if body["field"] in ("sport", "dport") else body["protocol"], body["field"])


def _list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _items(right: Any) -> list[Any]:
    if isinstance(right, Mapping) and set(right) == {"set"}:
        return _list(right["set"])
    return _list(right)


def _budgets(body: Mapping[str, Any]) -> bool:
    """Has each element of a set a limit, a quota or a count of connections? What is beyond it is as if it were not in the set."""
    entries = (one[0] if isinstance(one, list) else one for one in _list(body.get("elem") or ()))
    own = {key for one in entries if isinstance(one, Mapping) and "elem" in one for key in one["elem"]}
    return bool({*own, *(key for one in body.get("stmt") or () for key in one)} - {"val", "timeout", "expires", "comment", "counter", "last"})


def _element(one: Any) -> Any:
    """The value of a set's element without its timeout, counter and comment."""
    return one["elem"]["val"] if isinstance(one, Mapping) and set(one) == {"elem"} else one


def _priority(value: Any) -> int:
    if isinstance(value, int):
        return value
    raise RulesetError("priority %r is no number" % (value,))


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


def devices(text: str) -> dict[tuple[str, str, str], tuple[str, ...]]:
    """The devices of chains that stand at some, as ``nft -s list ruleset`` shows them; the JSON of nft 1.0.6 leaves them out."""
    found = {}
    place: tuple[str, ...] = ()
    for line in text.splitlines():
        words = line.split()
        if line.startswith("table ") and len(words) >= 3:
            place = (words[1], words[2])
        elif line.startswith("\tchain ") and len(words) >= 2:
            place = (*place[:2], words[1])
        told = re.match(r"\t\ttype \w+ hook (?:ingress|egress) devices? (?:= \{ (.*?) \}|(\S+)) priority ", line)
        if told and len(place) == 3:
            found[place[0], place[1], place[2]] = tuple(name.strip().strip('"') for name in (told[1] or told[2]).split(","))
    return found


def dormant(text: str) -> set[tuple[str, str]]:
    """The tables that are there and do nothing."""
    return flagged(text, "dormant")
