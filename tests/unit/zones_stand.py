# SPDX-License-Identifier: Apache-2.0
"""A site in network namespaces: every host and device of a model on a segment of its zone, a router in between, and the project's own rules.

Needs root and the right to make namespaces (mark `namespaces`). What a host does is done in a child of ours that entered its namespace, so the real
code runs: the parts of conduit_verify as the module calls them. All of it is gone when the stand is closed.
"""
from __future__ import annotations

import collections
import json
import os
import signal
import socket
import struct
import subprocess
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ansible_collections.hnai.platform.plugins.action.conduit_verify import listening, own_ports
from ansible_collections.hnai.platform.plugins.module_utils.verdict import Report
from ansible_collections.hnai.platform.plugins.module_utils.zones import judge, matrix, nft
from ansible_collections.hnai.platform.plugins.module_utils.zones.model import Node, Site
from ansible_collections.hnai.platform.plugins.modules import conduit_verify

PARAMS = {"seconds": 60.0, "call_timeout": 5.0, "timeout": 1.2, "per_source": 5000.0, "per_target": 50000.0, "budget": 20.0}


class Stand:
    """The hosts of `site` in namespaces. A context manager."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.prefix = f"zls{os.getpid() % 100000}-"
        self.nodes = [node for _name, node in sorted(site.nodes.items()) if node.role != matrix.CONTROLLER]
        self.children: list[int] = []

    # -- life

    def __enter__(self) -> Stand:
        try:
            self._build()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_rest: object) -> None:
        for child in self.children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        self.children.clear()
        there = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
        for line in there.splitlines():
            name = line.split(" ")[0]
            if name.startswith(self.prefix):
                pids = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True, check=False).stdout.split()
                for pid in pids:
                    try:
                        os.kill(int(pid), signal.SIGKILL)
                    except ProcessLookupError:
                        continue
                subprocess.run(["ip", "netns", "delete", name], check=True)

    def space(self, host: str) -> str:
        """Name of a host's namespace."""
        return f"{self.prefix}{host}"

    def ip(self, host: str, *lines: str) -> None:
        """`ip` in a host's namespace, many lines at once."""
        text = "".join(line + "\n" for line in lines)
        done = subprocess.run(["ip", "-n", self.space(host), "-batch", "-"], input=text, capture_output=True, text=True, check=False, timeout=30)
        assert done.returncode == 0, f"{host}: {done.stderr}\n{text}"

    def _build(self) -> None:
        for name in ("switch", *(node.name for node in self.nodes)):
            subprocess.run(["ip", "netns", "add", self.space(name)], check=True, timeout=30)
        for name, settings in [("switch", _SWITCH), *((node.name, _ROUTER if node.interfaces else _HOST) for node in self.nodes)]:
            self.inside(name, lambda settings=settings: _set(settings))
        self.ip("switch", *(line for zone in self.site.zones for line in (f"link add {zone} type bridge mcast_snooping 0", f"link set {zone} up")))
        for node in self.nodes:
            self.ip(node.name, "link set lo up")
            legs = [(leg.zone, leg.name, leg.v4, leg.v6) for leg in node.interfaces] or [(node.zone, "eth0", node.v4, node.v6)]
            for zone, interface, v4, v6 in legs:
                port = f"p{len(self.children)}-{abs(hash((node.name, zone))) % 10**8}"
                self.ip(node.name, f"link add {interface} type veth peer name {port} netns {self.space('switch')}")
                self.ip("switch", f"link set {port} master {zone}", f"link set {port} up")
                more = [*node.seconds.values()] if not node.interfaces else []
                added = [f"address add {a}/24 dev {interface}" for a, _b in [(v4, v6), *more] if a]
                added += [f"-6 address add {b}/64 dev {interface} nodad" for _a, b in [(v4, v6), *more] if b]
                self.ip(node.name, *(line.replace("-6 ", "") for line in added), f"link set {interface} up")
        for node in self.nodes:
            if not node.interfaces:
                self._route(node)
        self.load(node.name for node in self.nodes if node.kind == "host")
        for node in self.nodes:
            self._serve(node)

    def _route(self, node: Node) -> None:
        for version in (4, 6):
            via = next((router.address(version, node.zone) for router in self.site.routers()), "")
            if via and node.address(version, ""):
                self.ip(node.name, f"route add default via {via}")

    def load(self, hosts: Iterable[str]) -> None:
        """The rules that the model gives to these hosts, afresh."""
        for host in hosts:
            self.nft(host, nft.ruleset(self.site, host))

    def nft(self, host: str, text: str) -> None:
        """Rules by hand."""
        done = self.command(host, ["nft", "-f", "-"], text)
        assert done.returncode == 0, f"{host}: {done.stderr}"

    def command(self, host: str, argv: list[str], stdin: str = "") -> subprocess.CompletedProcess[str]:
        """A command in a host's namespace."""
        return subprocess.run(["ip", "netns", "exec", self.space(host), *argv], input=stdin, capture_output=True, text=True, check=False, timeout=60)

    def _serve(self, node: Node) -> None:
        """What stands there by contract, or as a device's service: it accepts, keeps the last few connections, and answers to NTP."""
        ports = own_ports(self.site, node.name) | {("tcp", 22)} if node.kind == "host" else set()
        ports |= {(str(one["proto"]), int(one["port"])) for one in (self.site.assets.get(node.name, {}).get("services") or {}).values()}
        if "jump" in node.groups:
            ports.add(("udp", 123))
        ready, told = os.pipe()
        child = os.fork()
        if child == 0:
            self._enter(node.name)
            _services(ports, told)
        self.children.append(child)
        os.close(told)
        assert os.read(ready, 1) == b"1", f"{node.name}: its services did not start"
        os.close(ready)

    # -- doing something there

    def _enter(self, host: str) -> None:
        space = os.open(f"/run/netns/{self.space(host)}", os.O_RDONLY)
        os.setns(space, os.CLONE_NEWNET)
        os.close(space)

    def start(self, host: str, function: Callable[[], Any]) -> tuple[int, int]:
        """(pid, pipe) of a child that does it there."""
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            code = 1
            try:
                os.close(reading)
                self._enter(host)
                with os.fdopen(writing, "w") as stream:
                    json.dump(function(), stream)
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        os.close(writing)
        return child, reading

    @staticmethod
    def finish(started: tuple[int, int]) -> Any:
        """What it said."""
        with os.fdopen(started[1]) as stream:
            text = stream.read()
        os.waitpid(started[0], 0)
        return json.loads(text) if text else {"error": "it broke"}

    def inside(self, host: str, function: Callable[[], Any]) -> Any:
        """Do it there, and wait."""
        return self.finish(self.start(host, function))

    def everywhere(self, functions: Mapping[str, Callable[[], Any]]) -> dict[str, Any]:
        """All at the same time."""
        started = {host: self.start(host, function) for host, function in functions.items()}
        return {host: self.finish(one) for host, one in started.items()}

    # -- the verb

    def verify(self, between: Callable[[], None] = lambda: None, while_probing: Callable[[], None] = lambda: None, **params: Any) -> Report:
        """As verify --tags zones does it. `between`: after the listening; `while_probing`: once the attempts have begun."""
        report = Report("firewall", deadline_s=None)
        judge.run(report, self.site, self.answers(between, while_probing, **params), lab=True)
        return report

    def answers(self, between: Callable[[], None] = lambda: None, while_probing: Callable[[], None] = lambda: None, **params: Any) -> dict[str, Any]:
        """What the parts say, by host."""
        given = {**PARAMS, **params}
        names = [node.name for node in self.nodes]
        managed = {node.name: node.kind == "host" for node in self.nodes}
        listened = self.everywhere({name: lambda name=name: conduit_verify.listen({**given, "work": listening(self.site, name)}) for name in names})
        between()

        def probe(name: str) -> Callable[[], Any]:
            plan = matrix.plan(self.site, name)
            work = {"probes": [one.sent() for one in plan.probes], "origins": plan.origins, "slot": listened[name].get("slot", 0), "sources": len(names)}
            return lambda: conduit_verify.probe({**given, "work": work})

        started = {name: self.start(name, probe(name)) for name in names}
        while_probing()
        probed = {name: self.finish(one) for name, one in started.items()}
        collected = self.everywhere({
            name: lambda name=name: conduit_verify.collect({**given, "run": listened[name].get("run", ""), "work": {"managed": managed[name]}})
            for name in names
        })
        return {name: {"listen": listened[name], "probe": probed[name], "collect": collected[name]} for name in names}


_HOST = {"net/ipv6/conf/all/accept_dad": "0", "net/ipv6/conf/default/accept_dad": "0", "net/ipv6/conf/default/router_solicitations": "0"}
_ROUTER = {"net/ipv4/ip_forward": "1", "net/ipv6/conf/all/forwarding": "1", **_HOST}
_SWITCH = {"net/ipv6/conf/all/disable_ipv6": "1", "net/ipv6/conf/default/disable_ipv6": "1",
           "net/bridge/bridge-nf-call-iptables": "0", "net/bridge/bridge-nf-call-ip6tables": "0"}


def _set(settings: Mapping[str, str]) -> None:
    for name, value in settings.items():
        if os.path.exists(f"/proc/sys/{name}"):
            with open(f"/proc/sys/{name}", "w", encoding="ascii") as stream:
                stream.write(value)


def _services(ports: Iterable[tuple[str, int]], told: int) -> None:
    """Never returns."""
    import selectors

    kept: collections.deque[socket.socket] = collections.deque(maxlen=32)
    with selectors.DefaultSelector() as waiting:
        for proto, port in ports:
            one = socket.socket(socket.AF_INET6, socket.SOCK_STREAM if proto == "tcp" else socket.SOCK_DGRAM)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.bind(("::", port))
            if proto == "tcp":
                one.listen(256)
            waiting.register(one, selectors.EVENT_READ)
        os.write(told, b"1")
        while True:
            for key, _events in waiting.select():
                one = key.fileobj  # type: ignore[assignment]
                try:
                    if one.type == socket.SOCK_STREAM:
                        kept.append(one.accept()[0])
                    else:
                        data, sender = one.recvfrom(512)
                        if len(data) >= 48:
                            one.sendto(struct.pack("!B23x", 0x24) + data[40:48] + bytes(16), sender)
                except OSError:
                    time.sleep(0.01)
