# SPDX-License-Identifier: Apache-2.0
"""A broker, a line that speaks Sparkplug B, and the collector that reads it: the real programs, on loopback.

The broker is Debian's, installed or unpacked from the artifact store; the programs are what the roles put onto hosts. The collector
dials through a tap, which keeps the type of each MQTT packet that it sends.
"""
from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import queue
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml
from put_programs import COLLECTOR_CORES, put_program
from stands import unpacked

ROOT = Path(__file__).resolve().parents[2]
PASSWORDS = {"line1": "l-secret", "ot-sparkplug": "s-secret"}
ACL = """user line1
topic write line/line1/#
topic write spBv1.0/pad1/NBIRTH/line1
topic write spBv1.0/pad1/NDATA/line1
topic write spBv1.0/pad1/NDEATH/line1
topic write spBv1.0/pad1/DBIRTH/line1/+
topic write spBv1.0/pad1/DDATA/line1/+
topic write spBv1.0/pad1/DDEATH/line1/+

user ot-sparkplug
topic read spBv1.0/+/NBIRTH/+
topic read spBv1.0/+/NDATA/+
topic read spBv1.0/+/NDEATH/+
topic read spBv1.0/+/DBIRTH/+/+
topic read spBv1.0/+/DDATA/+/+
topic read spBv1.0/+/DDEATH/+/+
"""
CONFIGURATION = """listener {port} 127.0.0.1
certfile {home}/broker.pem
keyfile {home}/broker.key
allow_anonymous false
password_file {home}/passwords
acl_file {home}/acl
persistence true
persistence_location {home}/broker/
autosave_interval 2
max_queued_messages 100000
max_inflight_messages 1000
queue_qos0_messages false
upgrade_outgoing_qos true
log_dest stderr
{user}
"""


def free_port() -> int:
    """A port of 127.0.0.1 that nobody has."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def broker_program() -> tuple[str, dict[str, str]]:
    """(path, environment) of Mosquitto: installed, or out of the store's packages for this machine's Debian."""
    found = shutil.which("mosquitto", path=os.environ["PATH"] + ":/usr/sbin")
    if found:
        return found, {}
    release = re.search(r'VERSION_ID="?(\d+)', Path("/etc/os-release").read_text(encoding="utf-8"))
    folder = unpacked(f"deb-mosquitto-{release.group(1) if release else '*'}-*.json",
                      r"mosquitto|libmosquitto1|libcjson1|libdlt2|libwrap0|libwebsockets\d+.*|libev4.*|libuv1.*|libssl3.*|libcap2")
    (library,) = {path.parent for path in folder.rglob("libmosquitto.so.1")}
    return str(folder / "usr/sbin/mosquitto"), {"LD_LIBRARY_PATH": str(library)}


def certificate(folder: Path, name: str = "broker.pem", key: str = "broker.key") -> None:
    """Of a server on 127.0.0.1, signed by itself."""
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-sha256", "-days", "2", "-nodes", "-keyout", str(folder / key), "-out", str(folder / name),
         "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"], check=True, capture_output=True, timeout=60)


def hashed(passwords: Mapping[str, str]) -> str:
    """Mosquitto's password file, with few rounds."""
    lines = []
    for user, password in passwords.items():
        salt = os.urandom(12)
        digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, 101, 64)
        lines.append(f"{user}:$7$101${base64.b64encode(salt).decode()}${base64.b64encode(digest).decode()}\n")
    return "".join(lines)


class Tap:
    """TLS on both sides; what the client sends is counted by packet type, what the broker sends comes *delay_s* late."""

    def __init__(self, home: Path, target: int) -> None:
        self.port, self._target = free_port(), target
        self.delay_s = 0.0
        self.sent: Counter[int] = Counter()
        self._server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._server.load_cert_chain(home / "broker.pem", home / "broker.key")
        self._client = ssl.create_default_context(cafile=str(home / "broker.pem"))
        self._listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                plain, _peer = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._talk, args=(plain,), daemon=True).start()

    def _talk(self, plain: socket.socket) -> None:
        try:
            near = self._server.wrap_socket(plain, server_side=True)
            far = self._client.wrap_socket(socket.create_connection(("127.0.0.1", self._target), 10), server_hostname="127.0.0.1")
        except OSError:
            plain.close()
            return
        waiting: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()
        threading.Thread(target=self._down, args=(far, waiting), daemon=True).start()
        threading.Thread(target=self._send, args=(waiting, far, near), daemon=True).start()
        seen = bytearray()
        try:
            while data := near.recv(65536):
                seen += data
                self._count(seen)
                far.sendall(data)
        except OSError:
            return
        finally:
            self._end(far, near)

    def _down(self, far: ssl.SSLSocket, waiting: queue.SimpleQueue[tuple[float, bytes]]) -> None:
        """With the time at which each piece is due; a last one is empty."""
        with contextlib.suppress(OSError):
            while data := far.recv(65536):
                waiting.put((time.monotonic() + self.delay_s, data))
        waiting.put((0.0, b""))

    def _send(self, waiting: queue.SimpleQueue[tuple[float, bytes]], far: ssl.SSLSocket, near: ssl.SSLSocket) -> None:
        with contextlib.suppress(OSError):
            while (piece := waiting.get())[1]:
                time.sleep(max(0.0, piece[0] - time.monotonic()))
                near.sendall(piece[1])
        self._end(far, near)

    @staticmethod
    def _end(*sockets: ssl.SSLSocket) -> None:
        for one in sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def _count(self, seen: bytearray) -> None:
        while len(seen) >= 2:
            size = shift = 0
            at = 1
            while at < len(seen):
                size |= (seen[at] & 0x7F) << shift
                shift, at = shift + 7, at + 1
                if seen[at - 1] < 0x80:
                    break
            else:
                return
            if len(seen) < at + size:
                return
            self.sent[seen[0] >> 4] += 1
            del seen[:at + size]

    def close(self) -> None:
        self._listener.close()


class Stand:
    """All of it."""

    def __init__(self, home: Path) -> None:
        self.home, self.port = home, free_port()
        for name in ("broker", "credentials", "journal"):
            (home / name).mkdir()
        self._program, self._environment = broker_program()
        certificate(home)
        (home / "passwords").write_text(hashed(PASSWORDS), encoding="ascii")
        (home / "acl").write_text(ACL, encoding="ascii")
        user = "user root" if os.getuid() == 0 else ""
        (home / "mosquitto.conf").write_text(CONFIGURATION.format(port=self.port, home=home, user=user), encoding="ascii")
        (home / "credentials/line").write_text(PASSWORDS["line1"], encoding="ascii")
        (home / "credentials/mqtt_user").write_text("ot-sparkplug", encoding="ascii")
        (home / "credentials/mqtt_password").write_text(PASSWORDS["ot-sparkplug"], encoding="ascii")
        self._line_program = put_program("ot_simulator", ("mqtt/sparkplug",), home)
        self._collector_program = put_program("ot_collector", COLLECTOR_CORES, home)
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.start_broker()
        self.tap = Tap(home, self.port)
        self._configure()

    def _configure(self) -> None:
        plant = yaml.safe_load((ROOT / "inventories/lab/plant/plant.yml").read_text(encoding="utf-8"))
        sources = yaml.safe_load((ROOT / "inventories/lab/group_vars/all/ot_sources.yml").read_text(encoding="utf-8"))["hnai_ot_sources"]
        self.source = next(one for one in sources if one["protocol"] == "sparkplug")
        keys = ("name", "device", "metric", "type", "kind")
        (self.home / "simulator.json").write_text(json.dumps({
            "plant": plant, "journal": {"directory": str(self.home / "journal"), "limit_bytes": 1 << 24, "keep": 2},
            "line": {"host": "127.0.0.1", "port": self.port, "username": "line1", "ca": str(self.home / "broker.pem")}}), encoding="utf-8")
        (self.home / "collector.json").write_text(json.dumps({
            "status_file": str(self.home / "status.json"), "state_file": str(self.home / "state.json"),
            "sources": [{"id": "spb1", "protocol": "sparkplug", "host": "127.0.0.1", "port": self.tap.port, "username": "ot-sparkplug",
                         "ca": str(self.home / "broker.pem"), "group": self.source["group"], "node": self.source["node"],
                         "limits": {"new_per_minute": 60, "burst": 5},
                         "tags": [{key: tag[key] for key in keys if key in tag} for tag in self.source["tags"]]}]}), encoding="utf-8")

    def _start(self, name: str, command: list[str], out: Path | None = None, **environment: str) -> None:
        with open(self.home / f"{name}.log", "ab") as log, open(out or os.devnull, "ab") as output:
            self.processes[name] = subprocess.Popen(
                command, env={**os.environ, "CREDENTIALS_DIRECTORY": str(self.home / "credentials"), **environment}, stdin=subprocess.DEVNULL,
                stdout=output, stderr=log)

    def start_broker(self) -> None:
        """Until it takes connections."""
        self._start("broker", [self._program, "-c", str(self.home / "mosquitto.conf")], **self._environment)

        def open_() -> bool:
            assert self.processes["broker"].poll() is None, self.log("broker")
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return True
            return False

        self.until("the broker does not start", open_, 15)

    def start_line(self) -> None:
        """The line; its journal goes on."""
        self._start("line", [sys.executable, "-I", str(self._line_program), "line", "--config", str(self.home / "simulator.json"), "--control",
                             str(self.home / "control")])

    def start_collector(self) -> None:
        """The collector; its output is appended."""
        self._start("collector", [sys.executable, "-I", str(self._collector_program), "--config", str(self.home / "collector.json")],
                    self.home / "records")

    def kill(self, name: str, number: int = signal.SIGKILL) -> None:
        """End one program."""
        process = self.processes[name]
        process.send_signal(number)
        process.wait(20)

    def close(self) -> None:
        """End everything."""
        self.tap.close()
        for process in self.processes.values():
            if process.poll() is None:
                process.kill()
                process.wait(20)

    def log(self, name: str) -> str:
        """What a program said, the end of it."""
        return (self.home / f"{name}.log").read_text(encoding="utf-8", errors="replace")[-4000:]

    def wish(self, what: str) -> dict[str, Any]:
        """Ask the line for something."""
        with socket.socket(socket.AF_UNIX) as talk:
            talk.settimeout(10)
            talk.connect(str(self.home / "control"))
            talk.sendall(json.dumps({"sparkplug": what}).encode() + b"\n")
            answer: dict[str, Any] = json.loads(talk.makefile().readline())
        return answer

    def until(self, what: str, condition: Callable[[], Any], deadline_s: float) -> Any:
        """The first true answer."""
        end = time.monotonic() + deadline_s
        while True:
            answer = condition()
            if answer:
                return answer
            logs = "".join(f"\n-- {name}\n{self.log(name)}" for name in self.processes)
            assert time.monotonic() < end, f"after {deadline_s:g} s: {what}{logs}"
            time.sleep(0.1)

    def records(self) -> list[dict[str, Any]]:
        """Everything that the collector wrote."""
        path = self.home / "records"
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        found = (re.fullmatch(r'ot,key=\S+ record="(.*)" -?\d+', line) for line in text.splitlines())
        return [json.loads(re.sub(r"\\(.)", r"\1", one.group(1))) for one in found if one]

    def journal(self) -> list[dict[str, Any]]:
        """Everything that the line says it sent."""
        path = self.home / "journal/sparkplug.jsonl"
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []

    def node(self) -> dict[str, Any]:
        """What the collector says of the node."""
        path = self.home / "status.json"
        status = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"sources": []}
        return next((one["node"] | {"state": one["state"]} for one in status["sources"]), {})
