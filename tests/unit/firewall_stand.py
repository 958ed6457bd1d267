# SPDX-License-Identifier: Apache-2.0
"""A host with the real nft, conntrack and the role's script in a network namespace, and everybody else in a second one."""
from __future__ import annotations

import contextlib
import itertools
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "roles/firewall/tree/usr/local/sbin/hnai-firewall"
TOOLS = "/usr/sbin:/usr/bin:/sbin:/bin"
_numbers = itertools.count()

SERVER = """
import selectors, socket, sys
chosen = selectors.DefaultSelector()
for port in map(int, sys.argv[1:]):
    for family, address in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind((address, port))
        listener.listen(50)
        chosen.register(listener, selectors.EVENT_READ, True)
print("ready", flush=True)
while True:
    for key, _what in chosen.select():
        if key.data:
            chosen.register(key.fileobj.accept()[0], selectors.EVENT_READ, False)
        else:
            try:
                data = key.fileobj.recv(100)
                key.fileobj.sendall(data)
            except OSError:
                data = b""
            if not data:
                chosen.unregister(key.fileobj)
                key.fileobj.close()
"""
CLIENT = """
import os, socket, sys, time
source, target, port, pause = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
session = socket.socket(socket.AF_INET6 if ":" in target else socket.AF_INET, socket.SOCK_STREAM)
session.settimeout(40)
session.bind((source, 0))
session.connect((target, port))
session.settimeout(None)
while True:
    session.sendall(b"x")
    session.recv(1)
    print(end="x", flush=True)
    time.sleep(pause)
    while not os.path.exists(sys.argv[5]):
        time.sleep(0.02)
"""


class Session:
    """A TCP session that says something and hears it back; `heard()` grows while it lives."""

    def __init__(self, process: subprocess.Popen[bytes], file: Path) -> None:
        self.process = process
        self.file = file

    def heard(self) -> int:
        return self.file.stat().st_size

    def goes_on(self, seconds: float = 30.0) -> bool:
        """Whether something more is heard within the time."""
        begin, end = self.heard(), time.monotonic() + seconds
        while time.monotonic() < end:
            if self.heard() > begin + 1:
                return True
            time.sleep(0.05)
        return False


class Stand:
    """`host` is the namespace with the firewall, `others` the one with everybody else; one wire between them."""

    def __init__(self, root: Path, host_addresses: list[str], other_addresses: list[str]) -> None:
        number = f"{os.getpid()}x{next(_numbers)}"
        self.host, self.others = f"zfw-h{number}", f"zfw-o{number}"
        self.root = root
        self.state = root / "state"
        self.children: list[subprocess.Popen[bytes]] = []
        self.timers: dict[str, threading.Timer] = {}
        for name in (self.host, self.others):
            self._ip("netns", "add", name)
            # Nobody asks for routers: what is seen is what the test does.
            self._ip("netns", "exec", name, "sysctl", "-qw", "net.ipv6.conf.default.router_solicitations=0")
        self._ip("link", "add", "wire", "netns", self.host, "type", "veth", "peer", "name", "wire", "netns", self.others)
        for name, addresses in ((self.host, host_addresses), (self.others, other_addresses)):
            for address in addresses:
                self._ip("-n", name, "address", "add", f"{address}/{'16' if ':' in address else '8'}", "dev", "wire", *(["nodad"] if ":" in address else []))
            self._ip("-n", name, "link", "set", "lo", "up")
            self._ip("-n", name, "link", "set", "wire", "up")
        self.script_path = self._script()

    @staticmethod
    def _ip(*arguments: str) -> None:
        subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=20)

    def _script(self) -> Path:
        tools = self.root / "bin"
        tools.mkdir()
        (tools / "systemctl").write_text("#!/bin/sh\n", encoding="utf-8")
        (tools / "systemctl").chmod(0o755)
        text = SCRIPT.read_text(encoding="utf-8")
        for old, new in (("/var/lib/hnai/firewall", self.state), ("/etc/hnai/firewall", self.root), ("PATH=/usr/sbin", f"PATH={tools}:/usr/sbin")):
            assert old in text
            text = text.replace(old, str(new))
        path = self.root / "hnai-firewall"
        path.write_text(text, encoding="utf-8")
        return path

    def close(self) -> None:
        """Everything ends that was begun here."""
        for timer in self.timers.values():
            timer.cancel()
        for child in self.children:
            child.kill()
            child.wait(10)
        for name in (self.host, self.others):
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True, timeout=20)

    def run(self, argv: list[str], stdin: str | None) -> tuple[int, str, str]:
        """A command in the host's namespace; the dead-man is a thread."""
        if argv[0] == "systemd-run":
            seconds = next(float(word[len("--on-active=") : -1]) for word in argv if word.startswith("--on-active="))
            timer = threading.Timer(seconds, self.script, argv[-2:])
            self.timers[argv[-1]] = timer
            timer.start()
            return 0, "", ""
        if argv[0] == "systemctl":
            return 0, "", ""
        done = subprocess.run(["ip", "netns", "exec", self.host, *argv], input=stdin, capture_output=True, text=True, check=False, timeout=20)
        return done.returncode, done.stdout, done.stderr

    def nft(self, *argv: str, stdin: str | None = None) -> str:
        code, out, err = self.run(["nft", *argv], stdin)
        assert code == 0, err
        return out

    def script(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """The role's script on the host."""
        if arguments[0] == "confirm" and arguments[1] in self.timers:
            self.timers[arguments[1]].cancel()
        return subprocess.run(
            ["ip", "netns", "exec", self.host, "sh", str(self.script_path), *arguments], capture_output=True, text=True, check=False, timeout=30
        )

    def spawn(self, namespace: str, code: str, *arguments: object, out: int | None = None) -> subprocess.Popen[bytes]:
        child = subprocess.Popen(
            ["ip", "netns", "exec", namespace, sys.executable, "-c", code, *map(str, arguments)],
            stdout=subprocess.PIPE if out is None else out, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self.children.append(child)
        return child

    def serve(self, namespace: str, *ports: int) -> None:
        """Echo on ports, both families."""
        child = self.spawn(namespace, SERVER, *ports)
        assert child.stdout is not None and child.stdout.readline().strip() == b"ready"

    def session(self, namespace: str, source: str, target: str, port: int, pause: float = 0.05, go: Path = Path("/")) -> Session:
        """One that has been answered. It says nothing more until `go` exists."""
        file = self.root / f"session{len(self.children)}"
        with file.open("wb") as stream:
            found = Session(self.spawn(namespace, CLIENT, source, target, port, pause, go, out=stream.fileno()), file)
        end = time.monotonic() + 40
        while not found.heard():
            assert time.monotonic() < end and found.process.poll() is None, f"{source} → {target}:{port} was never answered"
            time.sleep(0.02)
        return found


@contextlib.contextmanager
def stand(root: Path, host_addresses: list[str], other_addresses: list[str]) -> Iterator[Stand]:
    """A stand that goes away in every case."""
    made = Stand(root, host_addresses, other_addresses)
    try:
        yield made
    finally:
        made.close()


def until(what: Callable[[], bool], seconds: float) -> bool:
    """Whether something becomes true in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if what():
            return True
        time.sleep(0.1)
    return False
