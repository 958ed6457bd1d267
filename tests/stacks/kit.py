# SPDX-License-Identifier: Apache-2.0
"""Three makers' OPC UA servers on loopback, and a wire between them and the audit that records, cuts, delays and falls silent.

The C stack comes from Debian 13 into a directory of its own (its libc too, so that it runs on any amd64 Debian), the JavaScript stack from npm by
the lock file beside this one, asyncua from the virtual environment. Everything is kept below `.cache/stacks`.
"""
from __future__ import annotations

import contextlib
import hashlib
import json
import os
import select
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(HERE.parent / "unit"))

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import ExtendedKeyUsageOID
from opcua_stand import CLIENT_URI, SERVER_URI, SERVICES, key_pair

from ansible_collections.hnai.platform.plugins.plugin_utils.store.core import Store
from ansible_collections.hnai.platform.plugins.plugin_utils.store.debs import AptRoot
from ansible_collections.hnai.platform.plugins.plugin_utils.store.locks import RELEASES

CACHE = ROOT / ".cache" / "stacks"
DEBS = ("libc6", "libc6-dev", "linux-libc-dev", "libgcc-s1", "libmbedcrypto16", "libmbedx509-7", "libmbedtls21", "libopen62541-1.4", "libopen62541-1.4-dev")
STACKS = ("asyncua", "node-opcua", "open62541")
START_S = 240.0


# -- building ------------------------------------------------------------------------------------------------------
def _stamp(path: Path, want: str) -> bool:
    return path.exists() and path.read_text(encoding="utf-8") == want


def sysroot() -> Path:
    """Debian 13's open62541 with everything it needs, unpacked."""
    root, want = CACHE / "debian13", "1 " + " ".join(DEBS)
    if _stamp(root / "stamp", want):
        return root
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    apt = AptRoot(Store(CACHE / "apt", print), RELEASES["13"])
    apt.prepare()
    apt.update()
    with contextlib.chdir(root):
        apt.run(["apt-get", "-q", "download", *DEBS], "Debian 13: fetching open62541")
    for deb in root.glob("*.deb"):
        subprocess.run(["dpkg-deb", "-x", str(deb), str(root)], check=True, timeout=120)
        deb.unlink()
    for name in ("lib", "lib64"):
        if not (root / name).exists():
            (root / name).symlink_to("usr/" + name)
    (root / "stamp").write_text(want, encoding="utf-8")
    return root


def program(name: str) -> Path:
    """A C program of this directory, compiled against it."""
    root, source = sysroot(), HERE / (name + ".c")
    library = root / "usr/lib/x86_64-linux-gnu"
    want = hashlib.sha256(source.read_bytes() + (HERE / "plan.h").read_bytes()).hexdigest()[:16]
    made = CACHE / ("%s-%s" % (name, want))
    if not made.exists():
        subprocess.run(
            ["gcc", "-O2", "-Wall", "-Wno-parentheses", "-o", str(made) + ".new", str(source), "--sysroot=%s" % root, "-B%s" % library, "-L%s" % library,
             "-lopen62541", "-Wl,--dynamic-linker=%s/ld-linux-x86-64.so.2" % library, "-Wl,--disable-new-dtags", "-Wl,-rpath=%s" % library,
             "-Wl,--allow-shlib-undefined"], check=True, timeout=300)
        os.rename(str(made) + ".new", made)
    return made


def modules() -> Path:
    """node_modules of the lock file."""
    folder = CACHE / "npm"
    want = hashlib.sha256((HERE / "package-lock.json").read_bytes()).hexdigest()
    if not _stamp(folder / "stamp", want):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for name in ("package.json", "package-lock.json"):
            shutil.copy(HERE / name, folder / name)
        subprocess.run(["npm", "ci", "--ignore-scripts", "--omit=optional", "--no-audit", "--no-fund", "--loglevel=error"], cwd=folder, check=True, timeout=600)
        (folder / "stamp").write_text(want, encoding="utf-8")
    return folder / "node_modules"


# -- identities ----------------------------------------------------------------------------------------------------
@dataclass
class Pki:
    """Files of a server's and a client's certificate."""

    folder: Path

    def make(self) -> Pki:
        self.folder.mkdir(parents=True, exist_ok=True)
        for name, uri, usage in (("server", SERVER_URI, ExtendedKeyUsageOID.SERVER_AUTH), ("client", CLIENT_URI, ExtendedKeyUsageOID.CLIENT_AUTH)):
            certificate, key = key_pair(uri, usage=usage)
            (self.folder / (name + ".pem")).write_bytes(certificate)
            (self.folder / (name + ".key.pem")).write_bytes(key)
            (self.folder / (name + ".der")).write_bytes(x509.load_pem_x509_certificate(certificate).public_bytes(serialization.Encoding.DER))
            (self.folder / (name + ".key.der")).write_bytes(serialization.load_pem_private_key(key, None).private_bytes(
                serialization.Encoding.DER, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()))
        return self

    def read(self, name: str) -> bytes:
        return (self.folder / name).read_bytes()

    def plan(self) -> dict[str, Any]:
        """The keys of a plan that name files."""
        return {"uri": SERVER_URI, "certificate_der": str(self.folder / "server.der"), "key_der": str(self.folder / "server.key.der"),
                "certificate_pem": str(self.folder / "server.pem"), "key_pem": str(self.folder / "server.key.pem"),
                "trusted_der": str(self.folder / "client.der")}


# -- servers -------------------------------------------------------------------------------------------------------
def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@dataclass
class Running:
    """A server of one stack with its plan."""

    stack: str
    plan: dict[str, Any]
    process: Any

    @property
    def port(self) -> int:
        return int(self.plan["port"])

    def order(self, what: str) -> None:
        """d, a: the plan's first node goes, comes again."""
        self.process.stdin.write(what.encode())
        self.process.stdin.flush()

    def sessions(self) -> int:
        """As the server counts them."""
        self.order("s")
        while not (line := self.process.stdout.readline()).startswith(b'{"sessions"'):
            assert line, "the server is gone"
        return int(json.loads(line)["sessions"])

    def record(self) -> Counter[str]:
        """What the server itself wrote down, service by service; empty where the stack cannot. It may write the end of a session down a moment later."""
        path, end = Path(self.plan["record"]), time.monotonic() + 10.0
        while True:
            found = Counter(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else Counter()
            if found["CloseSession"] == found["CreateSession"] or time.monotonic() > end:
                return found
            time.sleep(0.1)


@contextlib.contextmanager
def running(stack: str, plan: dict[str, Any], folder: Path) -> Iterator[Running]:
    """A server, until the block ends. Its process is killed in every case."""
    folder.mkdir(parents=True, exist_ok=True)
    plan = {**plan, "port": free_port(), "record": str(folder / "record.json")}
    path = folder / "plan.json"
    path.write_text(json.dumps(plan), encoding="utf-8")
    command = {
        "asyncua": lambda: [sys.executable, str(HERE / "server_py.py"), str(path)],
        "node-opcua": lambda: ["node", str(HERE / "server_js.js"), str(modules()), str(path)],
        "open62541": lambda: [str(program("server_c")), str(path)],
    }[stack]()
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log)
    try:
        _wait(process, folder / "server.log")
        yield Running(stack, plan, process)
    finally:
        process.kill()
        process.wait(10)
        for pipe in (process.stdin, process.stdout):
            pipe.close()  # type: ignore[union-attr]


def _wait(process: Any, log: Path) -> None:
    end, seen = time.monotonic() + START_S, b""
    while b'{"port"' not in seen:
        ready, _, _ = select.select([process.stdout], [], [], 1.0)
        data = os.read(process.stdout.fileno(), 65536) if ready else b""
        seen += data
        if (ready and not data) or time.monotonic() > end:
            raise AssertionError("the server does not start: %s %s" % (seen[-2000:], log.read_bytes()[-3000:]))


# -- the wire ------------------------------------------------------------------------------------------------------
@dataclass
class Fault:
    """What the wire does. Counted are messages of the client after the channel is open."""

    cut_after: int = 0
    mute_after: int = 0
    delay_s: float = 0.0
    slow_after: tuple[int, float] = (0, 0.0)


@dataclass
class Wire:
    """A TCP proxy in a thread. Reads the clear part of every message; on None and Sign the service and its number of operations too.

    *delay_s* is one way and keeps the order, as a long line does: it does not limit how much is under way.
    """

    target: int
    fault: Fault = field(default_factory=Fault)
    port: int = 0
    services: Counter[str] = field(default_factory=Counter)
    operations: list[tuple[float, int]] = field(default_factory=list)
    unknown: int = 0
    messages: int = 0
    connections: int = 0

    def start(self) -> Wire:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._stop = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def stop(self) -> None:
        self._stop = True
        self._thread.join(10)
        self._listener.close()

    def _run(self) -> None:
        while not self._stop:
            if select.select([self._listener], [], [], 0.1)[0]:
                client, _ = self._listener.accept()
                self.connections += 1
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        server = socket.create_connection(("127.0.0.1", self.target), 5)
        for one in (client, server):
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # (due, destination, data) each way; the delay is kept by when a piece came, so that pieces overtake nothing.
        queues: dict[socket.socket, deque[tuple[float, bytes]]] = {client: deque(), server: deque()}
        rest = b""
        try:
            while not self._stop:
                now = time.monotonic()
                due = [queue[0][0] for queue in queues.values() if queue]
                timeout = min([max(0.0, min(due) - now)] if due else [0.1])
                ready, _, _ = select.select([client, server], [], [], min(timeout, 0.1))
                now = time.monotonic()
                for one in ready:
                    data = one.recv(1 << 18)
                    if not data:
                        return
                    if one is client:
                        rest, data = self._look(rest + data, data)
                    extra = self.fault.slow_after[1] if one is server and self.fault.slow_after[0] and self.messages > self.fault.slow_after[0] else 0.0
                    if self.fault.mute_after and self.messages > self.fault.mute_after:
                        continue
                    queues[server if one is client else client].append((now + self.fault.delay_s + extra, data))
                if self.fault.cut_after and self.messages > self.fault.cut_after:
                    return
                now = time.monotonic()
                for to, queue in queues.items():
                    while queue and queue[0][0] <= now:
                        to.sendall(queue.popleft()[1])
        except OSError:
            return
        finally:
            for one in (client, server):
                with contextlib.suppress(OSError):
                    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                one.close()

    def _look(self, data: bytes, passed: bytes) -> tuple[bytes, bytes]:
        """What is left of an unfinished message."""
        while len(data) >= 8 and len(data) >= (size := int.from_bytes(data[4:8], "little")):
            if data[:3] == b"MSG":
                self.messages += 1
                # header 8, channel and token 8, sequence 8, then the NodeId of the request.
                name = SERVICES.get(int.from_bytes(data[26:28], "little")) if data[24:26] == b"\x01\x00" else None
                if name is None:
                    self.unknown += 1
                else:
                    self.services[name] += 1
                    self.operations.append((time.monotonic(), _count(name, data)))
            data = data[size:]
        return data, passed


def _count(name: str, message: bytes) -> int:
    """Operations of a request: ReadValueIds, Browse descriptions, continuation points."""
    if name not in ("Read", "Browse", "BrowseNext"):
        return 0
    # RequestHeader: AuthenticationToken (NodeId), Timestamp, handle, diagnostics, audit entry (String), timeout, additional header (empty).
    at = 28 + {0: 2, 1: 4, 2: 7, 4: 19}.get(message[28], 0)
    if message[28] in (3, 5):
        at = 28 + 7 + max(0, struct.unpack_from("<i", message, 31)[0])
    at += 16
    at += 4 + max(0, struct.unpack_from("<i", message, at)[0])
    at += 4 + 3
    at += {"Read": 12, "Browse": 18, "BrowseNext": 1}[name]
    return int(struct.unpack_from("<i", message, at)[0])


@contextlib.contextmanager
def wire(target: int, **fault: Any) -> Iterator[Wire]:
    """A wire, until the block ends."""
    one = Wire(target, Fault(**fault)).start()
    try:
        yield one
    finally:
        one.stop()
