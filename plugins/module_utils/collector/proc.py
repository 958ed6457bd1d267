# SPDX-License-Identifier: Apache-2.0
"""A running process as /proc shows it: program, arguments, start, children, sockets. Passive: nothing is signalled, nothing is dialled.

*root* is ``/proc``; tests point it at their own tree or ask about their own children.
"""
from __future__ import annotations

import ipaddress
import os
import re
import socket
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

LISTEN, CLOSED = "0A", "07"
_SOCKET = re.compile(r"^socket:\[(\d+)\]$")
_TABLES = (("tcp", "tcp"), ("tcp6", "tcp"), ("udp", "udp"), ("udp6", "udp"))


class Gone(Exception):
    """The process is not there, or may not be looked at. The text says which and why."""


@dataclass(frozen=True)
class Socket:
    """One socket of a process; a listening or unconnected one has no *peer*."""

    proto: str
    local: str
    local_port: int
    peer: str
    peer_port: int
    listens: bool

    @property
    def text(self) -> str:
        """For people."""
        if self.listens:
            return "%s listens on %s port %d" % (self.proto, self.local, self.local_port)
        return "%s to %s port %d" % (self.proto, self.peer, self.peer_port)


@dataclass(frozen=True)
class Process:
    """*started*: unix seconds of this host's clock, cut to the kernel's tick."""

    pid: int
    parent: int
    argv: tuple[str, ...]
    exe: str
    started: float


def address(word: str) -> str:
    """An address of /proc/net/tcp or tcp6 as text; a mapped IPv4 address as IPv4."""
    raw = bytes.fromhex(word)
    # Each 32-bit word is in the byte order of the machine (little endian on everything we support).
    found = ipaddress.ip_address(b"".join(raw[at:at + 4][::-1] for at in range(0, len(raw), 4)))
    return str(getattr(found, "ipv4_mapped", None) or found)


def sockets(table: str, proto: str, inodes: Iterable[int]) -> list[Socket]:
    """The sockets of *table* (text of /proc/net/…) that belong to *inodes*."""
    wanted, found = set(inodes), []
    for line in table.splitlines()[1:]:
        parts = line.split()
        if len(parts) < 10 or int(parts[9]) not in wanted:
            continue
        (local, local_port), (peer, peer_port) = (part.rsplit(":", 1) for part in parts[1:3])
        unconnected = int(peer_port, 16) == 0 and not any(bytes.fromhex(peer))
        # An unconnected UDP socket takes what comes, as a listener does; an unconnected TCP socket does nothing.
        listens = parts[3] == LISTEN if proto == "tcp" else unconnected
        if proto == "tcp" and parts[3] == CLOSED:
            continue
        found.append(Socket(proto, address(local), int(local_port, 16), "" if unconnected else address(peer), int(peer_port, 16), listens))
    return found


class Proc:
    """/proc of this host."""

    def __init__(self, root: Path = Path("/proc")) -> None:
        self._root = root

    def _read(self, pid: int, name: str) -> bytes:
        try:
            return (self._root / str(pid) / name).read_bytes()
        except OSError as error:
            raise Gone("process %d: %s cannot be read: %s" % (pid, name, error.strerror)) from None

    def _stat(self, pid: int) -> list[str]:
        # The name in parentheses may hold anything.
        return self._read(pid, "stat").decode("utf-8", "replace").rpartition(")")[2].split()

    def process(self, pid: int) -> Process:
        """Raises Gone."""
        fields = self._stat(pid)
        argv = tuple(part.decode("utf-8", "replace") for part in self._read(pid, "cmdline").split(b"\0")[:-1])
        try:
            exe = os.readlink(self._root / str(pid) / "exe")
        except OSError as error:
            raise Gone("process %d: exe cannot be read: %s" % (pid, error.strerror)) from None
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK")
        return Process(pid, int(fields[1]), argv, exe, time.time() - age)

    def tree(self, pid: int) -> list[Process]:
        """*pid* and all its descendants, parents first. Raises Gone when *pid* is not there."""
        children: dict[int, list[int]] = {}
        for entry in self._root.iterdir():
            if entry.name.isdigit():
                try:
                    children.setdefault(int(self._stat(int(entry.name))[1]), []).append(int(entry.name))
                except Gone:
                    continue
        found, queue = [self.process(pid)], sorted(children.get(pid, []))
        while queue:
            child = queue.pop(0)
            try:
                found.append(self.process(child))
            except Gone:
                continue
            queue += sorted(children.get(child, []))
        return found

    def program(self, pid: int) -> Path:
        """The file that runs, also when it was replaced or removed."""
        return self._root / str(pid) / "exe"

    def same_file(self, pid: int, path: str) -> bool:
        """Whether the running program is what lies at *path* now."""
        try:
            return os.path.samestat(os.stat(self.program(pid)), os.stat(path))
        except OSError:
            return False

    def mapped(self, pid: int) -> list[str]:
        """Files of which the process has code in its memory, sorted; one that was removed has " (deleted)" behind it."""
        lines = self._read(pid, "maps").decode("utf-8", "replace").splitlines()
        return sorted({parts[5] for parts in (line.split(None, 5) for line in lines) if len(parts) == 6 and "x" in parts[1] and parts[5].startswith("/")})

    def variable(self, pid: int, name: str) -> str | None:
        """One variable of the process' environment as it was started with; the others are not looked at."""
        for part in self._read(pid, "environ").split(b"\0"):
            key, found, value = part.partition(b"=")
            if found and key == name.encode():
                return value.decode("utf-8", "replace")
        return None

    def sockets(self, pid: int) -> list[Socket]:
        """Internet sockets of a process, in its own network. Raises Gone."""
        inodes = set()
        try:
            names = list((self._root / str(pid) / "fd").iterdir())
        except OSError as error:
            raise Gone("process %d: its open files cannot be read: %s" % (pid, error.strerror)) from None
        for name in names:
            try:
                found = _SOCKET.match(os.readlink(name))
            except OSError:
                continue
            if found:
                inodes.add(int(found.group(1)))
        result: list[Socket] = []
        for table, proto in _TABLES:
            path = self._root / str(pid) / "net" / table
            if path.exists():
                result += sockets(path.read_text(encoding="ascii"), proto, inodes)
        return result


def changed_since(paths: Iterable[Path], moment: float) -> list[str]:
    """Which of *paths* were changed, put there or given other rights after *moment*; the change time cannot be set back by hand."""
    found = []
    for path in paths:
        info = path.stat()
        if max(info.st_mtime, info.st_ctime) > moment:
            found.append(str(path))
    return found


def resolve(host: str) -> list[str]:
    """Addresses of a name, by this host's own files and resolver; empty when it is unknown."""
    try:
        entries = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return []
    return list(dict.fromkeys(str(ipaddress.ip_address(str(entry[4][0]).partition("%")[0])) for entry in entries))


def outside(found: Iterable[Socket], allowed: Mapping[tuple[str, int], str]) -> list[str]:
    """What of the sockets of a process goes where nobody declared; *allowed*: (address, port) → name.

    A UDP socket without a word sent, as the resolver opens one to choose among addresses, cannot be told from another: an allowed
    address is enough for it.
    """
    addresses = {one for one, _port in allowed}
    bad = []
    for one in found:
        if one.listens or ((one.peer, one.peer_port) not in allowed and not (one.proto == "udp" and one.peer in addresses)):
            bad.append(one.text)
    return sorted(set(bad))
