# SPDX-License-Identifier: Apache-2.0
"""What a host that observes has let through and `enforce` would cut: the flows themselves, not a sample of packets.

The kernel writes them down: a ruleset in `observe`, or a router's chain for a boundary in `observe` (zones/observe.py), updates sets whose
elements are flows, with the time of the first and of the last connection and their number. Nothing is lost below a set's size, and a set that
was full is said. What was open before the rules were there comes from the connection tracking, as it is now and as it was when they were
loaded. What a replaced table had seen lies in <state>/observed/ (*.json), and so does what was open at a load (*.open; firewall.py,
hnai-firewall).
"""

from __future__ import annotations

import ipaddress
import json
import os
import pwd
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Callable, NamedTuple, Optional

from ansible_collections.hnai.platform.plugins.module_utils.firewall import FirewallError, packet, table_name, tracked
from ansible_collections.hnai.platform.plugins.module_utils.firewall_modes import Modes, Side
from ansible_collections.hnai.platform.plugins.module_utils.firewall_proof import Packet, Pair, book, covered

Run = Callable[[list[str], Optional[str]], tuple[int, str, str]]
_SET = re.compile(r"^observed_(first|last|mid|user|ofirst|olast)([46])_((?:in|out|forward|spoof|limits)(?:_.+)?)$")
_CHAIN = re.compile(r"^boundary_(.+)$")
#: What is dropped for its source or its rate.
SPOILT = frozenset(("spoof", "limits"))
_FULL = re.compile(r"^observed-full-(\S+)$")
_PROTOCOLS = {1: "icmp", 2: "igmp", 6: "tcp", 17: "udp", 47: "gre", 50: "esp", 51: "ah", 58: "ipv6-icmp", 132: "sctp"}
_NAMES = {"icmpv6": "ipv6-icmp"}
_PROCESS = re.compile(r'\("([^"]+)",pid=\d+')


class Key(NamedTuple):
    """One flow. `port` is 0 where the protocol has none."""

    source: str
    target: str
    proto: str
    port: int


class Seen:
    """What is known of one flow; times in seconds since 1970. `where`: in, out, forward, spoof, limits, tracked; `<where>_<boundary>` at one with a
    mode of its own."""

    def __init__(self) -> None:
        self.where: set[str] = set()
        self.first = 0.0
        self.last = 0.0
        self.count = 0
        self.open = 0
        self.users: set[str] = set()
        self.processes: set[str] = set()
        self.guessed = False

    def at(self, moment: float) -> None:
        """It was seen then."""
        self.first = min(self.first or moment, moment)
        self.last = max(self.last, moment)


def proto_name(value: Any) -> str:
    """A protocol as the list names it."""
    text = str(value)
    return _PROTOCOLS.get(int(text), text) if text.isdigit() else _NAMES.get(text, text)


class Table:
    """The sets of one listing (`nft -j list table inet hnai`) that was made at `at`."""

    def __init__(self, listing: str, at: float) -> None:
        self.flows: dict[Key, Seen] = {}
        self.middle: list[tuple[str, Packet, float]] = []
        self.users: dict[Key, set[str]] = {}
        self.full: set[str] = set()
        items = json.loads(listing)["nftables"]
        self.observes = _observes(items)
        firsts: dict[tuple[str, Key], float] = {}
        for what, where, parts, moment, number in _elements(items, at):
            if what == "mid":
                self.middle.append((where, Packet(parts[0], parts[1], proto_name(parts[2]), int(parts[3]), int(parts[4])), moment))
                continue
            key = Key(parts[0], parts[1], proto_name(parts[2]), int(parts[3]) if len(parts) > 3 else 0)
            if what in ("first", "ofirst"):
                firsts[where, key] = moment
                continue
            if what == "user":
                self.users.setdefault(key, set()).add(_user(parts[4]))
                continue
            seen = self.flows.setdefault(key, Seen())
            seen.where.add(where)
            seen.at(moment)
            seen.count = max(seen.count, number)
        for (_where, key), moment in firsts.items():
            if key in self.flows:
                self.flows[key].at(moment)
        for item in items:
            match = _FULL.match((item.get("rule") or {}).get("comment") or "")
            if match and any((part.get("counter") or {}).get("packets") for part in item["rule"]["expr"] if isinstance(part, dict)):
                self.full.add(match[1])


def _observes(items: list[dict[str, Any]]) -> dict[str, bool]:
    """Boundary with rules of its own ('' for the host) → whether those observe."""
    chains = [_CHAIN.match((item.get("chain") or {}).get("name") or "") for item in items]
    sets = [_SET.match((item.get("set") or {}).get("name") or "") for item in items]
    observing = {match[3].partition("_")[2] for match in sets if match}
    return {name: name in observing for name in ("", *(match[1] for match in chains if match))}


def _parts(element: Mapping[str, Any]) -> list[str]:
    """The key of an element, its addresses as Python writes them."""
    body = element.get("elem", element)
    parts = [str(part) for part in body.get("val", body)["concat"]]
    return [*(str(ipaddress.ip_address(part)) for part in parts[:2]), *parts[2:]]


def _elements(items: list[dict[str, Any]], at: float) -> Iterator[tuple[str, str, list[str], float, int]]:
    """(kind of set, where, parts of the key, when it was put or renewed, connections counted)."""
    for item in items:
        one = item.get("set") or {}
        match = _SET.match(one.get("name") or "")
        if match is None:
            continue
        for element in one.get("elem") or []:
            body = element.get("elem", element)
            left = float(body.get("expires", 0))
            lifetime = float(body.get("timeout") or one.get("timeout") or left)
            yield match[1], match[3], _parts(element), at - max(0.0, lifetime - left), int((body.get("counter") or {}).get("packets", 0))


def _user(uid: str) -> str:
    try:
        return pwd.getpwuid(int(uid)).pw_name
    except (KeyError, ValueError):
        return uid


def _merge(into: dict[Key, Seen], table: Table) -> None:
    for key, seen in table.flows.items():
        known = into.setdefault(key, Seen())
        for moment in (seen.first, seen.last):
            if moment:
                known.at(moment)
        known.count += seen.count
        known.where |= seen.where


class _Sockets:
    """Who listens and who talks on this host: `ss -Hanptu`."""

    def __init__(self, listing: str) -> None:
        self.listens: dict[tuple[str, int], set[str]] = {}
        self.talks: dict[tuple[str, str, int], set[str]] = {}
        self.ends: set[Packet] = set()
        for line in listing.splitlines():
            words = line.split()
            if len(words) < 6:
                continue
            proto, state, local, peer = words[0], words[1], words[4], words[5]
            names = set(_PROCESS.findall(line))
            if state == "LISTEN" or (proto == "udp" and peer.endswith(":*")):
                self.listens.setdefault((proto, _port(local)), set()).update(names)
            else:
                self.talks.setdefault((proto, _address(peer), _port(peer)), set()).update(names)
                self.ends.add(Packet(_address(local), _address(peer), proto, _port(local), _port(peer)))


def _port(end: str) -> int:
    text = end.rpartition(":")[2]
    return int(text) if text.isdigit() else 0


def _address(end: str) -> str:
    text = end.rpartition(":")[0].strip("[]").partition("%")[0]
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return text
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address)


def _initiated(where: str, middle: Packet, flows: Mapping[Key, Seen], sockets: _Sockets) -> tuple[Key, str, bool]:
    """(the flow that a packet of an older connection belongs to, where it counts, whether its direction is a guess)."""
    there = Key(middle.source, middle.target, middle.proto, middle.dport)
    back = Key(middle.target, middle.source, middle.proto, middle.sport)
    turned = {"in": "out", "out": "in"}.get(where, where)
    if there in flows:
        return there, where, False
    if back in flows:
        return back, turned, False
    if where == "in" and (middle.proto, middle.dport) in sockets.listens:
        return there, where, False
    if where == "out" and (middle.proto, middle.sport) in sockets.listens:
        return back, turned, False
    if where == "in":
        return back, turned, False
    if where == "out":
        return there, where, False
    return (back, where, True) if middle.sport < middle.dport else (there, where, True)


def observed(run: Run, state: Path, at: float, approved: Iterable[dict[str, Any]], modes: Modes) -> dict[str, Any]:
    """{flows: [flow], full: [where], observing: bool, observes: [boundary, '' for the host itself], note: text}; a flow is {source, target, proto,
    port, where: as in `Seen`, first, last: seconds since 1970, count: connections, open: now, users, processes, guessed, conduit: what approves it
    since, or ''}.

    `approved` as for `firewall.uncovered`; `modes`: which boundaries there are. Raises FileNotFoundError where nft is absent, FirewallError where it does
    not say what it has written down.
    """
    approvals = book(approved)
    rc, listing, err = run(["nft", "-j", "list", "table", "inet", "hnai"], None)
    if rc != 0 and "No such file or directory" not in err:
        raise FirewallError(f"nft does not list table inet hnai, so nobody knows which flows it has seen: {err.strip()[:200] or f'it ended with {rc}'}")
    observing = rc == 0 and '"observed_' in listing
    tables = [Table(listing, at)] if observing else []
    own = table_name(listing) if observing else ""
    observes = sorted(name for name, does in tables[0].observes.items() if does) if observing else []
    for path in sorted((state / "observed").glob("*.json")):
        if path.stem != own:
            tables.append(Table(path.read_text(encoding="utf-8"), path.stat().st_mtime))
    flows: dict[Key, Seen] = {}
    for table in tables:
        _merge(flows, table)
    sockets = _Sockets(_said(run, ["ss", "-Hanptu"]))
    open_now, note = _open(run, approvals, tables[0].observes, modes) if observing else ([], "")
    for where, middle, moment in [entry for table in tables for entry in table.middle]:
        if not covered(middle, approvals):
            key, place, guessed = _initiated(where, middle, flows, sockets)
            seen = flows.setdefault(key, Seen())
            seen.guessed = guessed if not seen.where else seen.guessed and guessed
            seen.where.add(place)
            seen.at(moment)
    for entry in open_now:
        _count_open(entry, flows, sockets, at, 1)
    for path in sorted((state / "observed").glob("*.open")):
        kept = json.loads(path.read_text(encoding="utf-8"))
        then = _Sockets(kept["sockets"])
        for entry in kept["open"]:
            if not ("sport" in entry and entry["proto"] in ("tcp", "udp") and covered(packet(entry), approvals)):
                _count_open(entry, flows, then, path.stat().st_mtime, 0)
    for key, seen in flows.items():
        seen.users = set().union(*(table.users.get(key, set()) for table in tables))
        seen.processes |= sockets.listens.get((key.proto, key.port), set()) if "in" in seen.where else set()
        seen.processes |= sockets.talks.get((key.proto, key.target, key.port), set()) if "out" in seen.where else set()
    full = sorted(set().union(*(table.full for table in tables)))
    return {"flows": [_flow(key, flows[key], approvals) for key in sorted(flows)], "full": full, "observing": observing, "observes": observes, "note": note}


def _said(run: Run, argv: list[str]) -> str:
    try:
        rc, out, _err = run(argv, None)
    except FileNotFoundError:
        return ""
    return out if rc == 0 else ""


def _open(run: Run, approvals: dict[tuple[str, str, str, int], Pair], observes: Mapping[str, bool], modes: Modes) -> tuple[list[dict[str, str]], str]:
    """Connections that are open and that no conduit covers, by rules that observe (`observes`: those that are loaded)."""
    found = []
    for family in ("ipv4", "ipv6"):
        try:
            rc, out, err = run(["conntrack", "-L", "-f", family], None)
        except FileNotFoundError:
            return [], "conntrack is not installed: what was open before the rules were loaded is not in the list"
        if rc != 0:
            return [], f"conntrack cannot list what is open: {err.strip()[:200]}"
        for entry in tracked(out):
            boundary = modes.charge(entry["src"], entry["dst"]).id
            boundary = boundary if boundary in observes else ""
            if observes[boundary] and not ("sport" in entry and entry["proto"] in ("tcp", "udp") and covered(packet(entry), approvals)):
                found.append({**entry, "boundary": boundary})
    return found, ""


def _count_open(entry: dict[str, str], flows: dict[Key, Seen], sockets: _Sockets, at: float, now: int) -> None:
    passing = "tracked_" + entry["boundary"] if entry.get("boundary") else "tracked"
    if "sport" not in entry:
        key = Key(str(ipaddress.ip_address(entry["src"])), str(ipaddress.ip_address(entry["dst"])), proto_name(entry["proto"]), 0)
        where = passing
    else:
        one = packet(entry)
        where = "out" if one in sockets.ends else "in" if one.back() in sockets.ends else passing
        there, back = Key(one.source, one.target, one.proto, one.dport), Key(one.target, one.source, one.proto, one.sport)
        key = back if where == passing and there not in flows and back in flows else there
        if where != passing:
            key, where, _guessed = _initiated(where, one, flows, sockets)
    seen = flows.setdefault(key, Seen())
    seen.at(at)
    seen.open += now
    if not seen.where:
        seen.where.add(where)


def _flow(key: Key, seen: Seen, approvals: dict[tuple[str, str, str, int], Pair]) -> dict[str, Any]:
    pair = approvals.get((key.source, key.target, key.proto, key.port))
    return {
        **key._asdict(),
        "where": sorted(seen.where),
        "first": int(seen.first),
        "last": int(seen.last),
        "count": seen.count,
        "open": seen.open,
        "users": sorted(seen.users),
        "processes": sorted(seen.processes),
        "guessed": seen.guessed,
        # What is dropped for its source or its rate is not explained by an approval.
        "conduit": pair.conduit if pair is not None and not spoilt(seen.where) else "",
    }


def spoilt(where: Iterable[str]) -> bool:
    """Was it to be dropped for its source or its rate?"""
    return bool(SPOILT & {place.partition("_")[0] for place in where})


def unexplained(flows: Iterable[Mapping[str, Any]], cut_flows: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Flows that neither a conduit approves nor a person wants cut. `cut_flows`: [{source, target, proto, port or None, reason}]."""
    wanted = [
        (ipaddress.ip_network(item["source"], strict=False), ipaddress.ip_network(item["target"], strict=False), item["proto"], item.get("port"))
        for item in cut_flows
    ]

    def explained(flow: Mapping[str, Any]) -> bool:
        source, target = ipaddress.ip_address(flow["source"]), ipaddress.ip_address(flow["target"])
        return bool(flow["conduit"]) or any(
            source in first and target in second and proto == flow["proto"] and port in (None, flow["port"]) for first, second, proto, port in wanted
        )

    return [flow for flow in flows if not explained(flow)]


def text(flow: Mapping[str, Any]) -> str:
    """One flow for people."""
    return f"{flow['source']} → {flow['target']} {flow['proto']}" + (f"/{flow['port']}" if flow["port"] else "")


def refused(flows: Iterable[Mapping[str, Any]], modes: Modes) -> dict[Side, list[Mapping[str, Any]]]:
    """The flows that `modes` would refuse, by who answers for it."""
    found: dict[Side, list[Mapping[str, Any]]] = {}
    for flow in flows:
        for side in {modes.charge(flow["source"], flow["target"], place) for place in flow["where"]}:
            if side.mode == "enforce":
                found.setdefault(side, []).append(flow)
    return {side: found[side] for side in sorted(found, key=lambda one: one.id)}


def may_enforce(flows: list[dict[str, Any]], cut_flows: list[dict[str, Any]], modes: Modes) -> None:
    """Raises FirewallError unless every observed flow that is to be refused is explained and, where there is one, a person is named."""
    for side, mine in refused(flows, modes).items():
        who = f"boundary {side.id}" if side.id else "this host"
        place = f"of hnai_boundaries.{side.id}, " if side.id else ""
        try:
            left = unexplained(mine, cut_flows)
        except ValueError as error:
            raise FirewallError(f"firewall_cut_flows: {error}; write addresses or networks") from error
        if left:
            shown = "; ".join(text(flow) for flow in left[:5]) + ("; …" if len(left) > 5 else "")
            raise FirewallError(
                f"{who} observes, and enforce would cut {len(left)} flow(s) that nobody explained: {shown}. Nothing was changed. Approve conduits for "
                "them (hnai_conduits), or name them in firewall_cut_flows with a reason; playbooks/firewall_observed.yml lists and proposes"
            )
        if not side.approved_by.strip():
            raise FirewallError(
                f"{who} observes, and has seen {len(mine)} flow(s) that its rules did not know. Nothing was changed. Whoever looked at the list is named "
                f"in firewall_approved_by, {place}beside firewall_mode: enforce"
            )


def forget(state: Path, modes: Modes) -> None:
    """What was seen before a person approved the change to enforce; what goes on to be observed stays."""

    def stays(source: str, target: str, place: str) -> bool:
        return modes.charge(source, target, place).mode == "observe"

    for path in (state / "observed").glob("*.json"):
        kept = json.loads(path.read_text(encoding="utf-8"))
        sets = [item["set"] for item in kept["nftables"] if _SET.match((item.get("set") or {}).get("name") or "")]
        for one in sets:
            place = _SET.match(one["name"])[3]  # type: ignore[index]
            ends = [(element, _parts(element)) for element in one.get("elem") or []]
            one["elem"] = [element for element, parts in ends if stays(parts[0], parts[1], place)]
        _rewrite(path, kept, any(one["elem"] for one in sets))
    for path in (state / "observed").glob("*.open"):
        kept = json.loads(path.read_text(encoding="utf-8"))
        kept["open"] = [entry for entry in kept["open"] if stays(entry["src"], entry["dst"], "tracked_" + entry.get("boundary", ""))]
        _rewrite(path, kept, bool(kept["open"]))


def _rewrite(path: Path, content: Any, needed: bool) -> None:
    """With the time that it had: flows are dated by it."""
    if not needed:
        path.unlink(missing_ok=True)
        return
    before = path.stat()
    temporary = path.with_name(path.name + ".new")
    temporary.write_text(json.dumps(content), encoding="utf-8")
    os.utime(temporary, ns=(before.st_atime_ns, before.st_mtime_ns))
    temporary.chmod(0o600)
    temporary.replace(path)
