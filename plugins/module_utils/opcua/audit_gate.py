# SPDX-License-Identifier: Apache-2.0
"""May the audit dial now? Decided before any packet is sent, from what this host knows: the collector comes first.

The conduit's limits hold for the host as a whole; the collector holds one or two of its connections. Pure: takes the text of
/proc/net/tcp and tcp6, the collector's status file, and the times of our own dials.
"""
from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

TICKS_PER_S = 10_000_000
CLOSED = {"06", "07", "0A"}
"""Socket states that hold no connection: TIME_WAIT (both ends are done with it, and the router's ``ct count`` leaves it out), CLOSE, LISTEN."""
STALE_S = 10.0
MINUTE_S = 60.0


@dataclass(frozen=True)
class Gate:
    """*refuse*: why not at all, empty = yes; *wait_s*: after how long."""

    refuse: str = ""
    wait_s: float = 0.0


def connections(table: str, addresses: Iterable[str], port: int) -> int:
    """Connections of this host to one of *addresses* at *port*, out of /proc/net/tcp or tcp6."""
    wanted = {ipaddress.ip_address(one) for one in addresses}
    count = 0
    for line in table.splitlines():
        parts = line.split()
        if len(parts) < 4 or ":" not in parts[2] or parts[0] == "sl" or parts[3] in CLOSED:
            continue
        address, remote = parts[2].rsplit(":", 1)
        raw = bytes.fromhex(address)
        # Each 32-bit word is in the byte order of the machine (little endian on everything we support).
        found = ipaddress.ip_address(b"".join(raw[at:at + 4][::-1] for at in range(0, len(raw), 4)))
        mapped = getattr(found, "ipv4_mapped", None)
        count += int(remote, 16) == port and (mapped or found) in wanted
    return count


def decide(source: str, limits: Mapping[str, Any], status: Mapping[str, Any] | None, problem: str, open_now: int,
           dials: Sequence[float], now: float, unread: bool = False) -> Gate:
    """*status*: the collector's status file or None with *problem*; *open_now*: connections to the endpoint; *now*, *dials*: unix seconds.

    *unread*: the source is about to be read for the first time, so a collector that does not know it needs no connection to it.
    """
    if unread and not any(one.get("source") == source for one in (status or {}).get("sources", [])):
        return _free(limits, open_now, dials, now, 0.0)
    if status is None:
        return Gate("the collector's state is not known (%s): the audit does not take a connection that it may need" % problem)
    age = now - status["now"] / TICKS_PER_S
    if age > STALE_S:
        return Gate("the collector's status is %.0f s old: it does not run, and comes first when it does" % age)
    known = next((one for one in status["sources"] if one.get("source") == source), None)
    if known is None:
        return Gate("the running collector does not read this source")
    if known.get("state") != "connected":
        return Gate("the collector is %s (%s): it comes first" % (known.get("state"), known.get("detail") or "no reason known"))
    since = known.get("since")
    connected_s = now - since / TICKS_PER_S if isinstance(since, int) else MINUTE_S
    return _free(limits, open_now, dials, now, max(0.0, MINUTE_S - connected_s))


def _free(limits: Mapping[str, Any], open_now: int, dials: Sequence[float], now: float, wait: float) -> Gate:
    most = int(limits.get("connections", 2))
    if open_now >= most:
        return Gate("%d of %d connections of the conduit are in use: none is free" % (open_now, most))
    per_minute = max(1, int(limits.get("new_per_minute", 6)))
    # Half of the conduit's new connections stay the collector's.
    recent = sorted(moment for moment in dials if now - MINUTE_S < moment <= now)
    allowed = max(1, per_minute // 2)
    if len(recent) >= allowed:
        wait = max(wait, recent[-allowed] + MINUTE_S - now)
    return Gate("", wait)
