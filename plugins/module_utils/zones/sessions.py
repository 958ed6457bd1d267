# SPDX-License-Identifier: Apache-2.0
"""Real sessions and counters of a host: who opened what (V4), and which rule of ours counted (V5). Reads, judges nothing but direction."""

from __future__ import annotations

import ipaddress
import json
import re
import subprocess
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

#: read(argv, timeout_s) -> standard output; raises OSError or subprocess.SubprocessError (host/health.py: run_command).
Read = Callable[[Sequence[str], float], str]
_NOT_READ = (OSError, subprocess.SubprocessError)
_PATIENCE_S = 15.0
_FIELD = re.compile(r"\b(src|dst|sport|dport)=(\S+)")
_EPHEMERAL = 32768


class Session(NamedTuple):
    """One established connection: who opened it, to whom. `sure`: the direction was seen, not concluded. `uid`: -1 where unknown."""

    source: str
    sport: int
    target: str
    port: int
    sure: bool = True
    uid: int = -1

    @property
    def text(self) -> str:
        """For people."""
        return f"{self.source}:{self.sport} → {self.target}:{self.port}"


def _plain(text: str) -> str:
    """An address without brackets, interface and the IPv4-in-IPv6 form; '' where it is none."""
    try:
        address = ipaddress.ip_address(text.strip("[]").partition("%")[0])
    except ValueError:
        return ""
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address)


def tracked(listing: str) -> list[Session]:
    """Established TCP connections of `conntrack -L` or /proc/net/nf_conntrack. The first tuple is the initiator's, unless the connection
    was met in its middle: then a target port in the range that the kernel gives to initiators tells it."""
    found = []
    for line in listing.splitlines():
        if "tcp" not in line.split()[:4] or " ESTABLISHED " not in f" {line} ":
            continue
        first: dict[str, str] = {}
        for key, value in _FIELD.findall(line):
            first.setdefault(key, value)
        if set(first) == {"src", "dst", "sport", "dport"}:
            found.append(Session(_plain(first["src"]), int(first["sport"]), _plain(first["dst"]), int(first["dport"]), "[ASSURED]" in line))
    return found


def sockets(established: str, listening: str) -> list[Session]:
    """Connections of `ss -Htne state established`; the side whose local port is listened at (`ss -Htln`) is the target."""
    ports = {int(words[3].rpartition(":")[2]) for words in map(str.split, listening.splitlines()) if len(words) >= 4}
    found = []
    for words in map(str.split, established.splitlines()):
        if len(words) < 4:
            continue
        (local, _c1, lport), (peer, _c2, pport) = words[2].rpartition(":"), words[3].rpartition(":")
        here, there = _plain(local), _plain(peer)
        if not here or not there or not lport.isdigit() or not pport.isdigit():
            continue
        uid = next((int(word[4:]) for word in words[4:] if word.startswith("uid:") and word[4:].isdigit()), 0)
        if int(lport) in ports:
            found.append(Session(there, int(pport), here, int(lport)))
        else:
            found.append(Session(here, int(lport), there, int(pport), uid=uid))
    return found


def worth(session: Session) -> bool:
    """Between two machines, both of which have an address that travels."""
    if not session.source or not session.target or session.source == session.target:
        return False
    return not any(one.is_loopback or one.is_link_local or one.is_multicast for one in map(ipaddress.ip_address, (session.source, session.target)))


def turned(session: Session) -> Session:
    """The same, opened by the other side."""
    return Session(session.target, session.port, session.source, session.sport, False, -1)


def might_be_turned(session: Session) -> bool:
    """Met in its middle? Initiators have high ports."""
    return session.port >= _EPHEMERAL > session.sport


def _why(error: Exception) -> str:
    """What the command itself said, where it said something."""
    return str(getattr(error, "stderr", None) or error).strip()[-300:]


def read_sessions(read: Read, text_of: Callable[[str], str]) -> dict[str, Any]:
    """{sessions: [[…]], from: [what was read], notes: [what could not be]}; `text_of` reads a file."""
    found: set[Session] = set()
    told: list[str] = []
    notes: list[str] = []
    try:
        found |= {*sockets(read(["ss", "-Htne", "state", "established"], _PATIENCE_S), read(["ss", "-Htln"], _PATIENCE_S))}
        told.append("ss")
    except _NOT_READ as error:
        notes.append(f"ss: {_why(error)}")
    try:
        found |= {one for family in ("ipv4", "ipv6") for one in tracked(read(["conntrack", "-L", "-f", family], _PATIENCE_S))}
        told.append("conntrack")
    except _NOT_READ as error:
        try:
            found |= set(tracked(text_of("/proc/net/nf_conntrack")))
            told.append("/proc/net/nf_conntrack")
        except OSError:
            notes.append(f"conntrack: {_why(error)}")
    return {"sessions": sorted(list(one) for one in found if worth(one)), "from": told, "notes": notes}


def counters(listing: str) -> dict[str, int]:
    """"chain comment" → packets, of every counted rule with a comment in `nft -j list table inet hnai`."""
    found: dict[str, int] = {}
    for item in json.loads(listing)["nftables"]:
        rule = item.get("rule")
        if not isinstance(rule, dict) or not rule.get("comment"):
            continue
        for part in rule.get("expr", []):
            if isinstance(part, dict) and isinstance(part.get("counter"), dict):
                key = f"{rule['chain']} {rule['comment']}"
                found[key] = found.get(key, 0) + int(part["counter"]["packets"])
    return found


def read_counters(read: Read) -> dict[str, Any]:
    """{counters} or {error}."""
    try:
        return {"counters": counters(read(["nft", "-j", "list", "table", "inet", "hnai"], _PATIENCE_S))}
    except (*_NOT_READ, ValueError, KeyError) as error:
        return {"error": f"nft: {_why(error)}"}
