# SPDX-License-Identifier: Apache-2.0
"""Does a changed ruleset cut what it should carry? Answered by the packets of the connections themselves, never by a new login.

For the time of one change a second table, `inet hnai_proof`, stands around ours: one chain right before it and one right behind it on each
hook. Both only note which packets they see (addresses, protocol, ports), and accept. What is noted before and not behind was dropped in
between. Set updates lose nothing below their size (65535 directions of connections); a listing that is full is said.
"""

from __future__ import annotations

import ipaddress
import json
import socket
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable, NamedTuple, Optional

#: connect(source, target, port) -> whether the target was reached, None if `source` is no address of this host
Connect = Callable[[str, str, int], Optional[bool]]
TABLE = "table inet hnai_proof"
SIZE = 65535
_KEY = {4: "ip saddr . ip daddr", 6: "ip6 saddr . ip6 daddr"}
_ADDRESS = {4: "ipv4_addr", 6: "ipv6_addr"}
#: Right before and right behind our own table, which hooks at priority filter (0).
_STAGES = (("before", -1), ("behind", 1))
#: A direction that is noted before and not behind for so long is cut; a single packet may rightly be dropped as invalid.
CUT_AFTER_S = 4.0


class Packet(NamedTuple):
    """One direction of a connection."""

    source: str
    target: str
    proto: str
    sport: int
    dport: int

    def back(self) -> Packet:
        """The other direction."""
        return Packet(self.target, self.source, self.proto, self.dport, self.sport)


class Pair(NamedTuple):
    """What is asked for: a conduit between two addresses, as it is approved."""

    conduit: str
    source: str
    target: str
    proto: str
    port: int

    def text(self) -> str:
        """For people."""
        return f"{self.conduit} {self.source} → {self.target} {self.proto}/{self.port}"


def rules() -> str:
    """The nft file of the table. It knows `ct`, so that a host whose rules are its first has its connections tracked before they count."""
    lines = [TABLE, f"delete {TABLE}", f"{TABLE} {{"]
    for stage, _priority in _STAGES:
        for version, address in _ADDRESS.items():
            kind = f"type {address} . {address} . inet_proto . inet_service . inet_service"
            lines.append(f"  set {stage}{version} {{ {kind}; size {SIZE}; flags dynamic,timeout; timeout 10m; }}")
    for stage, priority in _STAGES:
        for hook in ("input", "output", "forward"):
            lines.append(f"  chain {stage}_{hook} {{")
            lines.append(f"    type filter hook {hook} priority {priority}; policy accept;")
            lines.append("    ct state invalid counter")
            for version, key in _KEY.items():
                lines.append(f"    meta l4proto {{ tcp, udp }} update @{stage}{version} {{ {key} . meta l4proto . th sport . th dport }}")
            lines.append("  }")
    return "\n".join([*lines, "}", ""])


def noted(listing: str) -> tuple[set[Packet], set[Packet], bool]:
    """`nft -j list table inet hnai_proof` → (seen before our rules, seen behind them, whether a set is full)."""
    found: dict[str, set[Packet]] = {"before": set(), "behind": set()}
    full = False
    for item in json.loads(listing)["nftables"]:
        one = item.get("set") or {}
        stage = one.get("name", "")[:-1]
        if stage not in found:
            continue
        elements = one.get("elem") or []
        full = full or len(elements) >= SIZE
        for element in elements:
            value = element.get("elem", element)
            value = value.get("val", value)
            source, target, proto, sport, dport = value["concat"]
            found[stage].add(Packet(_plain(source), _plain(target), _proto(proto), int(sport), int(dport)))
    return found["before"], found["behind"], full


def _plain(address: str) -> str:
    return str(ipaddress.ip_address(address))


def _proto(value: Any) -> str:
    return {6: "tcp", 17: "udp", "6": "tcp", "17": "udp"}.get(value, str(value))


def book(approved: Iterable[dict[str, Any]]) -> dict[tuple[str, str, str, int], Pair]:
    """(source, target, proto, port) → what approves it; the first conduit counts, as in the rules."""
    found: dict[tuple[str, str, str, int], Pair] = {}
    for item in approved:
        for source in item["source"]:
            for target in item["target"]:
                key = (_plain(source), _plain(target), item["proto"], int(item["port"]))
                found.setdefault(key, Pair(str(item.get("id") or "?"), *key))
    return found


def covered(packet: Packet, approvals: dict[tuple[str, str, str, int], Pair]) -> Pair | None:
    """The approval that a direction of a connection belongs to."""
    return approvals.get((packet.source, packet.target, packet.proto, packet.dport)) or approvals.get(
        (packet.target, packet.source, packet.proto, packet.sport)
    )


def carrying(behind: set[Packet], approvals: dict[tuple[str, str, str, int], Pair]) -> list[Pair]:
    """Approved pairs with a connection whose packets pass in both directions."""
    pairs = {covered(packet, approvals) for packet in behind if packet.back() in behind}
    return sorted(pair for pair in pairs if pair is not None and pair.source != pair.target)


def judge(pairs: Iterable[Pair], before: set[Packet], behind: set[Packet]) -> dict[Pair, str]:
    """Each pair: alive (both directions pass), cut (something arrives and does not pass) or idle."""
    approvals = {(pair.source, pair.target, pair.proto, pair.port): pair for pair in pairs}
    found = dict.fromkeys(approvals.values(), "idle")
    for packet in before | behind:
        pair = covered(packet, approvals)
        if pair is None or found[pair] == "alive":
            continue
        if packet in behind and packet.back() in behind:
            found[pair] = "alive"
        elif packet in before and packet not in behind:
            found[pair] = "cut"
    return found


def wait(
    pairs: list[Pair], read: Callable[[], tuple[set[Packet], set[Packet], bool]], seconds: float, clock: Callable[[], float], sleep: Callable[[float], None]
) -> dict[Pair, str]:
    """`judge` until all are alive, one is cut for good, or the time is over; what was cut only just now counts as cut too."""
    end = clock() + seconds
    since: dict[Pair, float] = {}
    while True:
        before, behind, _full = read()
        state = judge(pairs, before, behind)
        now = clock()
        since = {pair: since.get(pair, now) for pair, what in state.items() if what == "cut"}
        if all(what == "alive" for what in state.values()) or now >= end or any(now - begin >= CUT_AFTER_S for begin in since.values()):
            return state
        sleep(min(0.5, max(0.0, end - now)))


def connect(source: str, target: str, port: int) -> bool | None:
    """One TCP connection, closed at once. A refusal is an answer: the packet arrived."""
    family = socket.AF_INET6 if ":" in target else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as dialled:
        try:
            dialled.bind((source, 0))
        except OSError:
            return None
        dialled.settimeout(3.0)
        try:
            dialled.connect((target, port))
        except ConnectionRefusedError:
            return True
        except OSError:
            return False
        return True


def ask(pairs: list[Pair], connect: Connect) -> dict[Pair, bool]:
    """What a new connection says, side by side; pairs that this host does not open are left out."""
    with ThreadPoolExecutor(max_workers=8) as pool:
        answers = list(pool.map(lambda pair: connect(pair.source, pair.target, pair.port), pairs))
    return {pair: reached for pair, reached in zip(pairs, answers) if reached is not None}
