# SPDX-License-Identifier: Apache-2.0
"""Packets as probes and as evidence: first packets that a host's own rules never see, and a look at those that pass an interface.

A packet socket sends below the output hook and reads above the input hook of nftables. So what is sent here tells what the router and the
target refuse by themselves, and what is seen here passed the wire, whatever becomes of it. Linux; standard library; needs CAP_NET_RAW.
"""

from __future__ import annotations

import ctypes
import ipaddress
import re
import select
import socket
import struct
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

ETH_P_ALL = 3
ETH_P_IP = 0x0800
ETH_P_ARP = 0x0806
ETH_P_IPV6 = 0x86DD
OUTGOING = 4
TO_US = 0
SYN = 0x02
RST = 0x04
ACK = 0x10
_ATTACH_FILTER = 26
_SOL_PACKET = 263
_PACKET_STATISTICS = 6
_TCP = 6
_UDP = 17
_ICMP = 1
_ICMP6 = 58


class Packet(NamedTuple):
    """What was read of one packet. `kind`: tcp, udp, icmp (then the addresses and ports are those of the packet it complains about)."""

    kind: str
    source: str
    sport: int
    target: str
    dport: int
    flags: int = 0
    sequence: int = 0
    payload: bytes = b""
    by: str = ""
    code: tuple[int, int] = (0, 0)


def _program(offset: int, low: int, high: int, errors: bool) -> bytes:
    """A classic filter: TCP and UDP whose port at `offset` (0 source, 2 target) is within low…high; with `errors` ICMP too."""
    yes, no = 18, 19
    lines = [
        (0x28, 0, 0, 0xFFFFF000),  # the ethertype
        (0x15, 0, 8, ETH_P_IP),
        (0x30, 0, 0, 9),
        (0x15, 2, 0, _TCP),
        (0x15, 1, 0, _UDP),
        (0x15, (yes if errors else no) - 6, no - 6, _ICMP),
        (0xB1, 0, 0, 0),  # X = length of the IPv4 header
        (0x48, 0, 0, offset),
        (0x35, 0, no - 9, low),
        (0x25, no - 10, yes - 10, high),
        (0x15, 0, no - 11, ETH_P_IPV6),
        (0x30, 0, 0, 6),
        (0x15, 2, 0, _TCP),
        (0x15, 1, 0, _UDP),
        (0x15, (yes if errors else no) - 15, no - 15, _ICMP6),
        (0x28, 0, 0, 40 + offset),
        (0x35, 0, no - 17, low),
        (0x25, no - 18, yes - 18, high),
        (0x06, 0, 0, 0xFFFF),
        (0x06, 0, 0, 0),
    ]
    return b"".join(struct.pack("=HBBI", *line) for line in lines)


def capture(offset: int, low: int, high: int, errors: bool = False) -> socket.socket:
    """A packet socket on all interfaces that sees what `_program` lets through. Raises OSError (EPERM without the right)."""
    watch = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ALL))
    try:
        code = ctypes.create_string_buffer(_program(offset, low, high, errors))
        watch.setsockopt(socket.SOL_SOCKET, _ATTACH_FILTER, struct.pack("@HP", len(code) // 8, ctypes.addressof(code)))
        for option in (33, socket.SO_RCVBUF):  # 33: SO_RCVBUFFORCE
            try:
                watch.setsockopt(socket.SOL_SOCKET, option, 32 << 20)
                break
            except OSError:
                continue
        watch.setblocking(False)
    except BaseException:
        watch.close()
        raise
    return watch


def lost(watch: socket.socket) -> int:
    """Packets that did not fit: what was not seen then proves nothing."""
    return int(struct.unpack("@II", watch.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8))[1])


def read(data: bytes, ethertype: int) -> Packet | None:
    """A packet, or the one that an ICMP error complains about; None for anything else."""
    header = _header(data)
    if header is None:
        return None
    number, source, target, rest = header
    if number in (_ICMP, _ICMP6):
        # 3 destination unreachable, 1 the same in ICMPv6; 8 octets, then the packet that was refused.
        if len(rest) < 8 or rest[0] != (3 if number == _ICMP else 1):
            return None
        inner = _header(rest[8:])
        if inner is None or inner[0] not in (_TCP, _UDP) or len(inner[3]) < 4:
            return None
        sport, dport = struct.unpack_from("!HH", inner[3])
        return Packet("icmp", inner[1], sport, inner[2], dport, by=source, code=(rest[0], rest[1]))
    if number == _TCP and len(rest) >= 14:
        sport, dport, sequence = struct.unpack_from("!HHI", rest)
        return Packet("tcp", source, sport, target, dport, rest[13], sequence)
    if number == _UDP and len(rest) >= 8:
        sport, dport = struct.unpack_from("!HH", rest)
        return Packet("udp", source, sport, target, dport, payload=rest[8:])
    return None


def _header(data: bytes) -> tuple[int, str, str, bytes] | None:
    """(protocol, source, target, what follows) of an IP packet without extension headers."""
    if len(data) >= 20 and data[0] >> 4 == 4:
        return data[9], socket.inet_ntop(socket.AF_INET, data[12:16]), socket.inet_ntop(socket.AF_INET, data[16:20]), data[(data[0] & 15) * 4:]
    if len(data) >= 40 and data[0] >> 4 == 6:
        return data[6], socket.inet_ntop(socket.AF_INET6, data[8:24]), socket.inet_ntop(socket.AF_INET6, data[24:40]), data[40:]
    return None


def checksum(data: bytes) -> int:
    """The Internet checksum."""
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack("!%dH" % (len(data) // 2), data))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF


def _wrapped(number: int, source: str, target: str, body: bytes, at: int, hops: int = 64) -> bytes:
    """An IP packet of `body`, whose checksum is put in at octet `at`."""
    one, other = ipaddress.ip_address(source), ipaddress.ip_address(target)
    pseudo = one.packed + other.packed + struct.pack("!II", len(body), number)
    total = checksum(pseudo + body) or 0xFFFF
    body = body[:at] + struct.pack("!H", total) + body[at + 2:]
    if one.version == 6:
        return struct.pack("!IHBB", 6 << 28, len(body), number, hops) + one.packed + other.packed + body
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), 0, 0x4000, hops, number, 0) + one.packed + other.packed
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + body


def segment(source: str, sport: int, target: str, dport: int, flags: int, sequence: int) -> bytes:
    """A TCP segment without data."""
    options = b"\x02\x04\x05\xb4" if flags & SYN else b""
    body = struct.pack("!HHIIBBHHH", sport, dport, sequence, 0, (5 + len(options) // 4) << 4, flags, 64240 if flags & SYN else 0, 0, 0)
    return _wrapped(_TCP, source, target, body + options, 16)


def datagram(source: str, sport: int, target: str, dport: int, payload: bytes) -> bytes:
    """A UDP datagram."""
    return _wrapped(_UDP, source, target, struct.pack("!HHHH", sport, dport, 8 + len(payload), 0) + payload, 6)


def ethertype(address: str) -> int:
    """Of the packets to an address."""
    return ETH_P_IPV6 if ":" in address else ETH_P_IP


_ROUTE = re.compile(r"^(?:\S+ )?(\S+)(?: from \S+)?(?: via (?:inet6 )?(\S+))? dev (\S+)")


def routes(targets: Iterable[str], ask: Callable[[str], str]) -> dict[str, tuple[str, str]]:
    """Target → (interface, next hop). `ask` gives the answer of `ip -o -batch -` to its input; a target without a route is left out."""
    found = {}
    for version in ("", "-6 "):
        wanted = [one for one in targets if (":" in one) == bool(version)]
        if not wanted:
            continue
        for line in ask("".join(f"route get {one}\n" for one in wanted)).splitlines():
            match = _ROUTE.match(line.strip())
            if match and "unreachable" not in line and match[3] != "lo":
                found[str(ipaddress.ip_address(match[1]))] = (match[3], match[2] or match[1])
    return found


class Sender:
    """Sends IP packets past the host's own rules, once their next hops are known."""

    def __init__(self, where: dict[str, tuple[str, str]], seconds: float = 1.0) -> None:
        self.where = where
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
        self._hardware: dict[tuple[str, str], bytes] = {}
        self.seconds = seconds

    def __enter__(self) -> Sender:
        return self

    def __exit__(self, *_rest: object) -> None:
        self._socket.close()

    def send(self, target: str, packet: bytes) -> bool:
        """False where nobody answered for the next hop."""
        way = self.where.get(target)
        hardware = self._hardware.get(way) if way else None
        if way is None or hardware is None:
            return False
        self._socket.sendto(packet, (way[0], ethertype(target), 0, 0, hardware))
        return True

    def resolve(self, origins: dict[tuple[str, int], str]) -> None:
        """Ask for the hardware address of every next hop, from `origins` {(interface, version): own address}; three times at most."""
        with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ARP)) as arp, capture(0, 1, 0, errors=True) as icmp:
            for _turn in range(3):
                wanted = set(self.where.values()) - set(self._hardware)
                for interface, hop in wanted:
                    self._ask(interface, hop, origins.get((interface, 6 if ":" in hop else 4), ""))
                end = time.monotonic() + self.seconds / 3
                while wanted - set(self._hardware) and time.monotonic() < end:
                    for heard in select.select([arp, icmp], [], [], max(0.0, end - time.monotonic()))[0]:
                        data, (interface, number, *_rest) = heard.recvfrom(256)
                        self._hear(interface, number, data)

    def _ask(self, interface: str, hop: str, origin: str) -> None:
        if not origin:
            return
        with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0) as named:
            named.bind((interface, 0))
            own = named.getsockname()[4]
        if ":" not in hop:
            question = struct.pack("!HHBBH", 1, ETH_P_IP, 6, 4, 1) + own + socket.inet_aton(origin) + bytes(6) + socket.inet_aton(hop)
            self._socket.sendto(question, (interface, ETH_P_ARP, 0, 0, b"\xff" * 6))
            return
        asked = socket.inet_pton(socket.AF_INET6, hop)
        group = socket.inet_pton(socket.AF_INET6, "ff02::1:ff00:0")[:13] + asked[13:]
        body = struct.pack("!BBHI", 135, 0, 0, 0) + asked + b"\x01\x01" + own
        packet = _wrapped(_ICMP6, origin, socket.inet_ntop(socket.AF_INET6, group), body, 2, 255)
        self._socket.sendto(packet, (interface, ETH_P_IPV6, 0, 0, b"\x33\x33" + group[12:]))

    def _hear(self, interface: str, number: int, data: bytes) -> None:
        if number == ETH_P_ARP and len(data) >= 28 and data[6:8] == b"\x00\x02":
            self._hardware[interface, socket.inet_ntoa(data[14:18])] = data[8:14]
        elif number == ETH_P_IPV6 and len(data) >= 72 and data[6] == _ICMP6 and data[40] == 136 and data[64:66] == b"\x02\x01":
            self._hardware[interface, socket.inet_ntop(socket.AF_INET6, data[48:64])] = data[66:72]
