# SPDX-License-Identifier: Apache-2.0
"""What a packet, its connection and its way carry that a rule can ask for, by the names that nft gives it: the dimensions of a judgement."""

from __future__ import annotations

from collections.abc import Mapping

PATHS = ("input", "output", "forward")
STATES = ("new", "established", "related", "invalid", "untracked")
TOP: dict[int, int] = {4: 2**32 - 1, 6: 2**128 - 1}
PROTOCOLS = {
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
_CT_STATUS = {"expected": 1, "seen-reply": 2, "assured": 4, "confirmed": 8, "snat": 16, "dnat": 32}
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
NUMBERS: dict[str, tuple[int, Mapping[str, int]]] = {
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
    "ip6 nexthdr": (255, PROTOCOLS),
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
NAMES: dict[str, tuple[str, ...] | None] = {
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
#: Above every number of a user or a group: the packet has no socket to be asked for one.
NO_SOCKET = 2**32 - 1
#: What conduits speak of: every judgement has them.
CORE = ("iif", "oif", "saddr", "daddr", "proto", "sport", "dport", "ct", "uid")


def rate_of(rate: int, per: str, burst: int) -> tuple[str, int]:
    """(dimension, rate per week): rates of one burst can be compared."""
    weeks = {"second": 604800, "minute": 10080, "hour": 168, "day": 7, "week": 1}
    return "rate with burst %d" % burst, rate * weeks[per]
