# SPDX-License-Identifier: Apache-2.0
"""What runs on the hosts of the probe matrix: receivers that end by themselves, and the attempts.

`listen` leaves a process behind that dies by an alarm after at most 60 s, whatever happens to anybody else. It answers on ports of the
registry where nothing else may listen, notes what arrives there, and looks at every probe that passes an interface, above and below the
host's own rules. It has no files: `collect` asks it over an abstract socket, and it is gone.

Probes are announced by their source port, LOW to HIGH, beyond what the kernel gives to others. `slot` is a run's part of that range; a
probe's port is `port_of(slot, layer, origin, attempt)`, so that who passed where is told by the packet alone.

Outcomes: connected | reset (reached: the packet got there and back) | answered (a datagram) | unreachable (by whom) | silent | untried | error.
"""

from __future__ import annotations

import contextlib
import errno
import heapq
import json
import os
import random
import resource
import select
import selectors
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from base64 import b64decode, b64encode
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ansible_collections.hnai.platform.plugins.module_utils import fanout
from ansible_collections.hnai.platform.plugins.module_utils.zones import packets

LOW = 61000
HIGH = 64999
WIDTH = 40
_PAST_AT = 32
MOST_SECONDS = 60
MAGIC = b"hnai zone probe "
NTP = 123
CONNECTED = "connected"
RESET = "reset"
ANSWERED = "answered"
UNREACHABLE = "unreachable"
SILENT = "silent"
UNTRIED = "untried"
ERROR = "error"
REACHED = (CONNECTED, RESET, ANSWERED)
_RECVERR = {4: (socket.IPPROTO_IP, 11), 6: (socket.IPPROTO_IPV6, 25)}
_ERRQUEUE = 0x2000


def port_of(slot: int, layer: str, origin: int, attempt: int) -> int:
    """The source port of an attempt; slots, origins (8) and attempts (4) wrap within their part."""
    return LOW + slot % ((HIGH - LOW + 1) // WIDTH) * WIDTH + (_PAST_AT if layer == "past" else origin % 8 * 4 + attempt % 4)


def payload(port: int, nonce: int) -> bytes:
    """A datagram that whoever listens at this port answers, and that is known again: an NTP client's question, or the magic word."""
    if port == NTP:
        return struct.pack("!B39xQ", 0x23, nonce)
    return MAGIC + b"%016x" % nonce


def nonce_of(data: bytes) -> int | None:
    """The nonce of a payload that arrived, or of an NTP answer to it."""
    if data[: len(MAGIC)] == MAGIC:
        with contextlib.suppress(ValueError):
            return int(data[len(MAGIC): len(MAGIC) + 16], 16)
        return None
    if len(data) >= 48:
        at = 24 if data[0] & 7 == 4 else 40
        return int.from_bytes(data[at: at + 8], "big")
    return None


# -- receivers


class Receiver:
    """The process that stays: listeners, notes, and the door at which they are asked for."""

    def __init__(self, addresses: Iterable[str], tcp: Iterable[int], udp: Iterable[int], name: str) -> None:
        self.name = name
        self.received: set[int] = set()
        self.seen: dict[str, int] = {}
        self.bound: list[str] = []
        self.sight = ""
        self._selector = selectors.DefaultSelector()
        self._watch: socket.socket | None = None
        self._done = False
        self._door = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._door.bind("\0" + name)
        self._door.listen(4)
        self._selector.register(self._door, selectors.EVENT_READ, self._asked)
        for proto, kind, ports in (("tcp", socket.SOCK_STREAM, tcp), ("udp", socket.SOCK_DGRAM, udp)):
            for address in addresses:
                for port in ports:
                    self._bind(proto, kind, address, port)
        try:
            self._watch = packets.capture(0, LOW, HIGH)
            self._selector.register(self._watch, selectors.EVENT_READ, self._look)
        except OSError as error:
            self.sight = f"no packet can be seen here: {error}"

    def _bind(self, proto: str, kind: int, address: str, port: int) -> None:
        """A port that somebody has is somebody's; that is no error."""
        one = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind)
        try:
            if kind == socket.SOCK_STREAM:
                one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.bind((address, port))
            if kind == socket.SOCK_STREAM:
                one.listen(64)
        except OSError:
            one.close()
            return
        one.setblocking(False)
        self.bound.append(f"{proto} {address} {port}")
        self._selector.register(one, selectors.EVENT_READ, self._accept if kind == socket.SOCK_STREAM else self._receive)

    def _accept(self, one: socket.socket) -> None:
        with contextlib.suppress(OSError):
            one.accept()[0].close()

    def _receive(self, one: socket.socket) -> None:
        with contextlib.suppress(OSError):
            data, sender = one.recvfrom(2048)
            nonce = nonce_of(data)
            if nonce is not None:
                self.received.add(nonce)
                one.sendto(MAGIC + b"%016x" % nonce, sender)

    def _look(self, watch: socket.socket) -> None:
        for _turn in range(256):
            try:
                data, (interface, number, kind, *_rest) = watch.recvfrom(128)
            except OSError:
                return
            packet = packets.read(data, number)
            if packet is None or interface == "lo" or kind not in (packets.TO_US, packets.OUTGOING):
                continue
            if packet.kind == "udp" or (packet.kind == "tcp" and packet.flags & packets.SYN):
                way = "out" if kind == packets.OUTGOING else "in"
                key = f"{way} {packet.kind} {packet.source} {packet.sport} {packet.target} {packet.dport}"
                self.seen[key] = self.seen.get(key, 0) + 1

    def _asked(self, door: socket.socket) -> None:
        with contextlib.suppress(OSError), door.accept()[0] as caller:
            _pid, uid, _gid = struct.unpack("3i", caller.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
            if uid not in (0, os.geteuid()):
                return
            if self._watch is not None:
                self._look(self._watch)
            answer = {
                "bound": self.bound,
                "received": sorted(self.received),
                "seen": self.seen,
                "sight": self.sight,
                "lost": packets.lost(self._watch) if self._watch is not None else 0,
            }
            caller.settimeout(10)
            caller.sendall(zlib.compress(json.dumps(answer).encode(), 1))
            self._done = True

    def run(self) -> None:
        """Until somebody asked, or the alarm."""
        while not self._done:
            for key, _events in self._selector.select():
                key.data(key.fileobj)


def listen(addresses: Sequence[str], tcp: Sequence[int], udp: Sequence[int], name: str, seconds: float) -> dict[str, Any]:
    """Leave a receiver behind for `seconds` (60 at most); {bound, sight}. Raises OSError with the reason where it did not start."""
    seconds = max(1.0, min(float(seconds), float(MOST_SECONDS)))
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()
            if os.fork() == 0:
                _stay(writing, addresses, tcp, udp, name, seconds)
        finally:
            os._exit(0)
    os.close(writing)
    os.waitpid(pid, 0)
    text = b""
    with os.fdopen(reading, "rb") as stream:
        if select.select([stream], [], [], 10.0)[0]:
            text = stream.read()
    if not text:
        raise OSError("the receiver did not start")
    said = json.loads(text)
    if "error" in said:
        raise OSError(said["error"])
    return dict(said)


def _stay(writing: int, addresses: Sequence[str], tcp: Sequence[int], udp: Sequence[int], name: str, seconds: float) -> None:
    """The process that stays: never returns. Its end is the kernel's matter."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        nothing = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1, 2):
            os.dup2(nothing, number)
        keep = os.dup2(writing, 3)
        os.closerange(4, 65536)
        _room()
        try:
            receiver = Receiver(addresses, tcp, udp, name)
            said = {"bound": receiver.bound, "sight": receiver.sight}
        except OSError as error:
            os.write(keep, json.dumps({"error": str(error)}).encode())
            return
        os.write(keep, json.dumps(said).encode())
        os.close(keep)
        receiver.run()
    finally:
        os._exit(0)


def collect(name: str, timeout: float = 10.0) -> dict[str, Any]:
    """What the receiver noted; it ends. `seen` is packed (`unpacked`). Raises OSError when it is gone."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
        caller.settimeout(timeout)
        caller.connect("\0" + name)
        data = b""
        while piece := caller.recv(1 << 16):
            data += piece
    if not data:
        raise OSError("the receiver gave no answer")
    try:
        answer = dict(json.loads(zlib.decompress(data)))
    except zlib.error as error:
        raise OSError(f"the receiver's answer was cut: {error}") from error
    answer["seen"] = packed(answer["seen"])
    return answer


def packed(value: Any) -> str:
    """JSON, compressed, as text."""
    return b64encode(zlib.compress(json.dumps(value, separators=(",", ":")).encode(), 6)).decode()


def unpacked(text: str) -> Any:
    """What `packed` made."""
    return json.loads(zlib.decompress(b64decode(text)))


def _room() -> None:
    """As many descriptors as may be."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


# -- attempts

#: As `matrix.Probe.sent`: index, layer, origin, proto, own address, address, port, whether to try again.
Wanted = Sequence[Any]


def schedule(probes: Sequence[Wanted], per_source: float, per_target: float, seed: int) -> list[tuple[float, Wanted]]:
    """(seconds from the start, probe), in an order drawn by `seed`, so that what does not fit this time is tried another time.

    Towards one address never more than `per_target` a second, and never more than `per_source` in all.
    """
    order = list(probes)
    random.Random(seed).shuffle(order)
    free: dict[str, float] = {}
    found = []
    for number, probe in enumerate(order):
        at = max(number / per_source, free.get(probe[5], 0.0))
        free[probe[5]] = at + 1.0 / per_target
        found.append((at, probe))
    return sorted(found, key=lambda item: item[0])


class Attempts:
    """The attempts of one user, up to `at_once` in flight. `results`: index → [outcome, detail].

    What has come is taken before anybody is called silent: a host with too much to do is late, not deaf.
    """

    def __init__(self, slot: int, timeout: float, deadline: float, at_once: int = 1024) -> None:
        self.slot = slot
        self.timeout = timeout
        self.deadline = deadline
        self.at_once = at_once
        self.results: dict[int, list[str]] = {}
        self._flying: dict[int, tuple[socket.socket, Wanted, int]] = {}
        self._ends: list[tuple[float, int, socket.socket]] = []
        self._selector = selectors.DefaultSelector()

    def run(self, planned: Sequence[tuple[float, Wanted]]) -> dict[int, list[str]]:
        """Make them all."""
        begin = time.monotonic()
        waiting = deque((begin + at, probe) for at, probe in planned)
        with self._selector:
            while waiting or self._flying:
                now = time.monotonic()
                while waiting and waiting[0][0] <= now and len(self._flying) < self.at_once:
                    self._start(waiting.popleft()[1], 0)
                    now = time.monotonic()
                next_start = waiting[0][0] if waiting and len(self._flying) < self.at_once else self.deadline
                next_end = self._ends[0][0] if self._ends else self.deadline
                ready = self._selector.select(max(0.0, min(next_start, next_end) - time.monotonic()))
                now = time.monotonic()
                for key, _events in ready:
                    self._come(key.fd)
                while self._ends and self._ends[0][0] <= now:
                    _end, number, one = heapq.heappop(self._ends)
                    if number in self._flying and self._flying[number][0] is one:
                        self._over(number, [SILENT, ""])
        return self.results

    def _start(self, probe: Wanted, attempt: int) -> None:
        index, layer, origin, proto, own, address, port, _again = probe
        now = time.monotonic()
        if attempt == 0 and now + self.timeout > self.deadline:
            self.results[index] = [UNTRIED, "no time left at this rate"]
            return
        try:
            one = _socket((own, port_of(self.slot, layer, origin, attempt)), socket.SOCK_STREAM if proto == "tcp" else socket.SOCK_DGRAM)
        except OSError as error:
            self.results[index] = _error(error)
            return
        number = one.fileno()
        self._flying[number] = (one, probe, attempt)
        self._selector.register(one, selectors.EVENT_WRITE if proto == "tcp" else selectors.EVENT_READ)
        heapq.heappush(self._ends, (now + self.timeout * (1 + attempt), number, one))
        try:
            if proto == "tcp":
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            one.connect((address, port))
            if proto == "udp":
                one.send(payload(port, udp_nonce(own, self.slot, index)))
        except BlockingIOError:
            return
        except OSError as error:
            self._over(number, _said(one, error))

    def _come(self, number: int) -> None:
        """Something happened on a socket."""
        one, probe, _attempt = self._flying.get(number, (None, (), 0))
        if one is None:
            return
        if probe[3] == "tcp":
            code = one.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            self._over(number, _said(one, OSError(code, os.strerror(code))) if code else [CONNECTED, ""])
            return
        try:
            answer = one.recv(2048)
        except BlockingIOError:
            return
        except OSError as error:
            self._over(number, _said(one, error))
            return
        if nonce_of(answer) == udp_nonce(probe[4], self.slot, probe[0]):
            self._over(number, [ANSWERED, ""])

    def _over(self, number: int, outcome: list[str]) -> None:
        """An attempt ended; a silent one is made once more where that is allowed."""
        one, probe, attempt = self._flying.pop(number)
        self._selector.unregister(one)
        one.close()
        self.results[probe[0]] = outcome
        again = probe[7] or probe[3] == "udp"
        if outcome[0] == SILENT and again and attempt == 0 and time.monotonic() < self.deadline:
            self._start(probe, 1)


def udp_nonce(own: str, slot: int, index: int) -> int:
    """Tells a datagram from every other of a run."""
    return zlib.crc32(own.encode()) << 32 | (slot & 0xFFF) << 20 | index & 0xFFFFF


def _socket(own: tuple[str, int], kind: int) -> socket.socket:
    """A socket at an own address and port, for errors with their sender."""
    version = 6 if ":" in own[0] else 4
    one = socket.socket(socket.AF_INET6 if version == 6 else socket.AF_INET, kind)
    try:
        one.setblocking(False)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        one.setsockopt(*_RECVERR[version], 1)
        one.bind(own)
    except BaseException:
        one.close()
        raise
    return one


def _error(error: OSError) -> list[str]:
    return [ERROR, f"{errno.errorcode.get(error.errno or 0, '')} {error.strerror}".strip()]


def _said(one: socket.socket, error: OSError) -> list[str]:
    """What an error of a connection means."""
    if error.errno in (errno.ECONNREFUSED, errno.ECONNRESET):
        return [RESET, _offender(one)]
    if error.errno in (errno.EPERM, errno.ETIMEDOUT):
        return [SILENT, "refused here" if error.errno == errno.EPERM else ""]
    if error.errno in (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EACCES, errno.ENOPROTOOPT):
        by = _offender(one)
        return [UNREACHABLE, by] if by else [SILENT, "no answer for the next hop" if error.errno == errno.EHOSTUNREACH else str(error.strerror)]
    return _error(error)


def _offender(one: socket.socket) -> str:
    """Who sent the ICMP error of a socket; '' for an error of our own kernel, or none."""
    try:
        _data, ancillary, _flags, _address = one.recvmsg(64, 512, _ERRQUEUE)
    except OSError:
        return ""
    for _level, _kind, data in ancillary:
        # struct sock_extended_err: errno, origin (2 ICMP, 3 ICMPv6), type, code, pad, info, data; then the sender's address.
        if len(data) >= 24 and data[4] in (2, 3):
            family = struct.unpack_from("@H", data, 16)[0]
            if family == socket.AF_INET:
                return socket.inet_ntop(socket.AF_INET, data[20:24])
            if family == socket.AF_INET6 and len(data) >= 40:
                return socket.inet_ntop(socket.AF_INET6, data[24:40])
    return ""


def ask_ip(text: str) -> str:
    """`ip -o -batch -`."""
    command = ["ip", *(["-6"] if ":" in text else []), "-o", "-force", "-batch", "-"]
    found = subprocess.run(command, input=text.replace("-6 ", ""), capture_output=True, text=True, timeout=20, check=False)
    return found.stdout


class Past:
    """Probes that the host's own rules never see. Every packet is sent twice, and answered ones are taken back."""

    def __init__(self, slot: int, timeout: float, deadline: float, ask: Callable[[str], str] = ask_ip) -> None:
        self.slot = slot
        self.sport = port_of(slot, "past", 0, 0)
        self.timeout = timeout
        self.deadline = deadline
        self.ask = ask

    def run(self, planned: Sequence[tuple[float, Wanted]]) -> dict[int, list[str]]:
        """index → [outcome, detail]."""
        known = {(probe[3], probe[4], probe[5], probe[6]): probe for _at, probe in planned}
        found: dict[int, list[str]] = {}
        where = packets.routes(sorted({probe[5] for _at, probe in planned}), self.ask)
        origins = {(where[probe[5]][0], 6 if ":" in probe[5] else 4): probe[4] for _at, probe in planned if probe[5] in where}
        with packets.capture(2, self.sport, self.sport, errors=True) as watch, packets.Sender(where) as sender:
            sender.resolve(origins)
            for turn in range(2):
                begin = time.monotonic()
                for at, probe in planned:
                    if probe[0] in found:
                        continue
                    wait = begin + at - time.monotonic()
                    if begin + at + self.timeout > self.deadline:
                        found.update({} if turn else {probe[0]: [UNTRIED, "no time left at this rate"]})
                        continue
                    self._hear(watch, sender, known, found, max(0.0, wait))
                    if not sender.send(probe[5], self._packet(probe)):
                        found[probe[0]] = [ERROR, "no answer for the next hop" if probe[5] in where else "no route"]
                self._hear(watch, sender, known, found, self.timeout / 2)
        return {probe[0]: found.get(probe[0], [SILENT, ""]) for _at, probe in planned}

    def _packet(self, probe: Wanted) -> bytes:
        index, _layer, _origin, proto, own, address, port, _again = probe
        if proto == "udp":
            return packets.datagram(own, self.sport, address, port, payload(port, udp_nonce(own, self.slot, index)))
        return packets.segment(own, self.sport, address, port, packets.SYN, 0x68000000 + index)

    def _hear(self, watch: socket.socket, sender: packets.Sender, known: Mapping[Any, Wanted], found: dict[int, list[str]], seconds: float) -> None:
        """Take answers for some seconds."""
        end = time.monotonic() + seconds
        while True:
            try:
                data, (_interface, number, kind, *_rest) = watch.recvfrom(2048)
            except BlockingIOError:
                left = end - time.monotonic()
                if left <= 0 or not select.select([watch], [], [], left)[0]:
                    return
                continue
            packet = packets.read(data, number)
            if packet is None or kind == packets.OUTGOING:
                continue
            if packet.kind == "icmp":
                # A datagram that its target has no port for got there.
                for proto in ("tcp", "udp"):
                    probe = known.get((proto, packet.source, packet.target, packet.dport))
                    if probe is not None and packet.sport == self.sport:
                        reached = proto == "udp" and packet.by == packet.target and packet.code in ((3, 3), (1, 4))
                        found.setdefault(probe[0], [RESET if reached else UNREACHABLE, packet.by])
                continue
            probe = known.get((packet.kind, packet.target, packet.source, packet.sport))
            if probe is None:
                continue
            if packet.kind == "udp":
                found.setdefault(probe[0], [ANSWERED, ""])
                continue
            found.setdefault(probe[0], [RESET if packet.flags & packets.RST else CONNECTED, ""])
            if not packet.flags & packets.RST:
                back = packets.segment(packet.target, packet.dport, packet.source, packet.sport, packets.RST, 0x68000001 + probe[0])
                sender.send(packet.source, back)


def probe(
    probes: Sequence[Wanted], origins: Sequence[Sequence[Any]], slot: int, timeout: float, per_source: float, per_target: float, seconds: float
) -> dict[str, Any]:
    """All attempts of a host, each user's in a process of its own: {results: {index: [outcome, detail]}, seconds, tried}.

    `origins`: [[uid or -1, name of a second address]]. A user whose process broke leaves its probes as errors.
    """
    begin = time.monotonic()
    deadline = begin + seconds
    groups: dict[str, list[Wanted]] = {}
    for one in probes:
        groups.setdefault("past" if one[1] == "past" else f"uid {origins[one[2]][0]}", []).append(one)

    def piece(name: str, wanted: list[Wanted]) -> Callable[[], None]:
        def work() -> None:
            _room()
            planned = schedule(wanted, per_source, per_target, slot)
            if name == "past":
                found = Past(slot, timeout, deadline).run(planned)
            else:
                _become(int(name.split(" ")[1]))
                found = Attempts(slot, timeout, deadline).run(planned)
            sys.stdout.write(json.dumps(found))

        return work

    with tempfile.TemporaryDirectory(prefix="hnai-zones-") as folder:
        done = fanout.run({name: (piece(name, wanted), seconds + 5.0) for name, wanted in groups.items()}, Path(folder))
    results: dict[str, list[str]] = {}
    for name, wanted in groups.items():
        try:
            results.update(json.loads(done[name].out))
        except ValueError:
            said = (done[name].err.strip().splitlines() or [f"ended with {done[name].code}"])[-1]
            results.update({str(one[0]): [ERROR, f"{name}: {said}"] for one in wanted})
    tried = sum(1 for outcome, _detail in results.values() if outcome not in (UNTRIED, ERROR))
    return {"results": packed(results), "seconds": round(time.monotonic() - begin, 2), "tried": tried, "slot": slot}


def _become(uid: int) -> None:
    """Another user, for good."""
    if uid >= 0:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
