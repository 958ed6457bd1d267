# SPDX-License-Identifier: Apache-2.0
"""What the kernel lets the collector's users open, out of ``nft -j list ruleset``, against the conduits.

Only a chain of our own table can be wider than declared: an accept is final in its chain alone, so every other table can only take
away. What is understood here are the rules that ``zones/nft.py`` writes; anything else that accepts makes the answer inconclusive.
"""
from __future__ import annotations

import ipaddress
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

TABLE = ("inet", "hnai")


class CannotTell(Exception):
    """The ruleset cannot be read, or has a rule that is not understood."""


@dataclass(frozen=True, order=True)
class Way:
    """One thing that may be opened. *uid* None: by every user; *origin*: the only address to come from, '' = any of the host's."""

    address: str
    proto: str
    port: int
    uid: int | None = None
    origin: str = ""

    @property
    def text(self) -> str:
        """For people."""
        return "%s %s port %d%s%s" % (self.proto, self.address, self.port, "" if self.uid is None else " as user %d" % self.uid,
                                      " from %s" % self.origin if self.origin else "")


def _sorted(ways: Iterable[Way]) -> list[str]:
    return [one.text for one in sorted(ways, key=lambda way: (way.address, way.proto, way.port, -1 if way.uid is None else way.uid, way.origin))]


def declared(conduits: Iterable[Mapping[str, Any]]) -> set[Way]:
    """The ways of the conduits as filter ``collector_egress`` gives them: [{id, addresses, proto, port, uid, origins}]."""
    found = set()
    for one in conduits:
        origins = [ipaddress.ip_address(text) for text in one.get("origins") or ()]
        for address in map(ipaddress.ip_address, one["addresses"]):
            mine = [str(origin) for origin in origins if origin.version == address.version]
            if mine or not origins:
                found |= {Way(str(address), str(one["proto"]), int(one["port"]), one.get("uid"), origin) for origin in mine or [""]}
    return found


def _values(right: Any) -> list[Any]:
    if isinstance(right, Mapping):
        if set(right) != {"set"}:
            raise CannotTell("%s is not understood" % json.dumps(right))
        return [one for item in right["set"] for one in _values(item)]
    return list(right) if isinstance(right, list) else [right]


def _ways(rule: Mapping[str, Any], uid_of: Callable[[str], int | None]) -> set[Way]:
    """What one rule with an accept lets out anew; empty for those that let out what is no new connection to another host."""
    addresses: list[Any] = []
    ports: list[Any] = []
    uids: list[Any] = [None]
    origins: list[Any] = []
    proto, harmless, new = "", False, False
    for statement in rule["expr"]:
        if "match" not in statement:
            if not {"counter", "accept"} & set(statement):
                raise CannotTell("a rule with %s is not understood" % ", ".join(sorted(statement)))
            continue
        match = statement["match"]
        left, right = match["left"], match["right"]
        if match["op"] not in ("==", "in"):
            raise CannotTell("a rule with %s is not understood" % match["op"])
        if left == {"meta": {"key": "oifname"}} and right == "lo":
            harmless = True
        elif left == {"ct": {"key": "state"}}:
            states = set(_values(right))
            harmless = harmless or states <= {"established", "related"}
            new = new or states == {"new"}
        elif left == {"meta": {"key": "skuid"}}:
            uids = _values(right)
        elif "payload" in left and left["payload"].get("protocol") == "icmpv6" and left["payload"].get("field") == "type":
            harmless = True
        elif "payload" in left and left["payload"].get("protocol") in ("ip", "ip6"):
            field = left["payload"].get("field")
            if field == "daddr":
                addresses = _values(right)
            elif field == "saddr":
                origins = _values(right)
            elif field != "hoplimit":
                raise CannotTell("a rule that looks at %s is not understood" % field)
        elif "payload" in left and left["payload"].get("field") == "dport":
            proto, ports = str(left["payload"]["protocol"]), _values(right)
        else:
            raise CannotTell("a rule that looks at %s is not understood" % json.dumps(left))
    if harmless:
        return set()
    if not addresses or not ports or not proto or not new:
        raise CannotTell("a rule accepts without naming address, port and a new connection: %s" % json.dumps(rule.get("expr"))[:300])
    numbers = []
    for one in uids:
        number = one if one is None or isinstance(one, int) else uid_of(str(one))
        if number is None and one is not None:
            raise CannotTell("user %s of a rule is not known here" % one)
        numbers.append(number)
    try:
        return {Way(str(ipaddress.ip_address(address)), proto, int(port), uid, str(ipaddress.ip_address(origin)) if origin else "")
                for address in addresses for port in ports for uid in numbers for origin in origins or [""]}
    except (ValueError, TypeError) as error:
        raise CannotTell("a rule is not understood: %s" % error) from None


def loaded(listing: str, uid_of: Callable[[str], int | None]) -> set[Way]:
    """What the running ruleset lets this host open. Raises CannotTell."""
    try:
        items = json.loads(listing)["nftables"]
    except (ValueError, KeyError, TypeError):
        raise CannotTell("nft gave no ruleset") from None
    chains = [one["chain"] for one in items if "chain" in one and (one["chain"]["family"], one["chain"]["table"]) == TABLE
              and one["chain"].get("hook") == "output"]
    if not chains:
        raise CannotTell("there is no chain of ours on the way out (table %s %s): everything may leave" % TABLE)
    nat = ["%s %s" % (one["chain"]["table"], one["chain"]["name"]) for one in items if "chain" in one and one["chain"].get("hook") == "output"
           and one["chain"].get("type") == "nat"]
    if nat:
        raise CannotTell("%s rewrites where packets go on their way out" % ", ".join(nat))
    found: set[Way] = set()
    for number, chain in enumerate(chains):
        if chain.get("policy") != "drop":
            raise CannotTell("chain %s lets out what no rule names (policy %s): firewall_mode is observe" % (chain["name"], chain.get("policy")))
        ways: set[Way] = set()
        for item in items:
            rule = item.get("rule")
            if rule is None or (rule["family"], rule["table"], rule["chain"]) != (*TABLE, chain["name"]):
                continue
            verbs = {verb for statement in rule["expr"] for verb in statement} - {"match", "counter"}
            if verbs == {"drop"}:
                continue
            if verbs != {"accept"}:
                raise CannotTell("a rule with %s is not understood" % ", ".join(sorted(verbs)))
            ways |= _ways(rule, uid_of)
        found = ways if not number else found & ways
    return found


def differences(found: set[Way], wanted: set[Way], uids: Sequence[int]) -> tuple[list[str], list[str]]:
    """(what may leave beyond the conduits, what conduits say and the ruleset does not let out), for *uids* and for everybody."""
    def ours(ways: set[Way]) -> set[Way]:
        return {one for one in ways if one.uid is None or one.uid in uids}

    return _sorted(ours(found) - wanted), _sorted(wanted - found)
