# SPDX-License-Identifier: Apache-2.0
"""The mirror's software on a host of its own: a network namespace with the model's rules, Telegraf and the collector out of the artifact store.

Telegraf ships into a file (there is no broker here), and systemd's answer, which process a unit has, is given by the test. Of Node-RED, NiFi, OPC
Publisher and Neuron there is what the audit reads of them: the files in which they keep what they were told. No such product ran.
"""
from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import os
import platform
import socket
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kit  # puts tests/unit on the path
from namespaces import PATHS, lacks
from opcua_stand import CLIENT_URI, PLANT, Stand
from put_programs import COLLECTOR_CORES, put_program
from stands import STORE, Checks, Judged

from ansible_collections.hnai.platform.plugins.module_utils.artifact import install_archive
from ansible_collections.hnai.platform.plugins.module_utils.collector.audit import Audit, Options
from ansible_collections.hnai.platform.plugins.module_utils.collector.proc import Proc
from ansible_collections.hnai.platform.plugins.module_utils.hostfiles import Completed, Host
from ansible_collections.hnai.platform.plugins.module_utils.verdict import Report
from ansible_collections.hnai.platform.plugins.module_utils.zones import nft
from ansible_collections.hnai.platform.plugins.module_utils.zones.model import Site

USER, UID = "hnai-telegraf", 64900
PLC, OTHER_PLC, HOST = "10.0.2.11", "10.0.2.12", "10.0.3.11"
MODEL: dict[str, Any] = {
    "zones": {"l2": {"level": 2, "cidrs": ["10.0.2.0/24"]}, "l3": {"level": 3, "cidrs": ["10.0.3.0/24"]}},
    "hosts": {"edge1": {"zone": "l3", "addresses": {"v4": HOST}}},
    "groups": {"managed": ["edge1"], "ot_collector": ["edge1"], "telegraf": ["edge1"], "telegraf_shipper": ["edge1"]},
    "assets": {"plc1": {"zone": "l2", "addresses": {"v4": PLC}, "role": "ot_source"}},
    "conduits": [{"id": "C-1", "from": {"group": "ot_collector"}, "to": {"asset": "plc1"}, "kind": "direct", "data_direction": "up", "owner": "o",
                  "service": {"proto": "tcp", "port": 4840, "app": "opcua", "ops": ["read"]}, "reason": "r", "expires": "2030-12-31", "sr": []}],
    "contracts": {},
}
CONFIGURATION = """
[agent]
  interval = "5s"
[[secretstores.docker]]
  id = "credentials"
  path = "${CREDENTIALS_DIRECTORY}"
[[inputs.execd]]
  alias = "ot_collector"
  command = %s
  signal = "none"
  restart_delay = "30s"
  data_format = "influx"
[[inputs.internal]]
[[outputs.file]]
  files = ["%s"]
"""


def installed(name: str, opt: Path, target: str) -> Path:
    """An artifact out of the store, as the module installs it on a host: its `current`."""
    manifests = sorted((STORE / "manifests").glob("%s-*-%s.json" % (name, target)))
    assert manifests, "%s has no %s for %s: `make lab` fetches it (HNAI_STORE_DIR names another store)" % (STORE, name, target)
    spec = json.loads(manifests[-1].read_text(encoding="utf-8"))
    install_archive({**spec, "src": str(STORE / "blobs/sha256" / spec["digest"][:2] / spec["digest"])}, opt)
    return opt / name / "current"


def interpreter() -> str:
    """cp311 of the interpreter that an artifact's environment links to."""
    run = subprocess.run(["/usr/bin/python3", "-I", "-c", "import sys; print('cp%d%d' % sys.version_info[:2])"], check=True, capture_output=True, text=True,
                         timeout=30)
    return run.stdout.strip() + "-" + {"x86_64": "amd64"}.get(platform.machine(), platform.machine())


@contextlib.contextmanager
def own_network() -> Iterator[None]:
    """A network namespace, with addresses of plant and host on its loopback, for what this thread starts in the block."""
    assert not lacks(), f"this machine lacks {lacks()}"
    outside = os.open("/proc/self/ns/net", os.O_RDONLY)
    try:
        os.unshare(os.CLONE_NEWNET)
        for line in ("link set lo up", *("addr add %s/32 dev lo" % one for one in (PLC, OTHER_PLC, HOST))):
            subprocess.run(["ip", *line.split()], check=True, env={"PATH": PATHS}, timeout=20)
        yield
    finally:
        os.setns(outside, os.CLONE_NEWNET)
        os.close(outside)


class MirrorsHost(Host):
    """This machine, with the mirror's user, and with patience: that it is busy is no finding."""

    def run(self, argv: list[str], stdin: bytes | None = None, timeout: float = 60.0) -> Completed:
        return super().run(argv, stdin, max(timeout, kit.START_S))

    def uid(self, name: str) -> int | None:
        return UID if name == USER else super().uid(name)


class SoftwareStand(Judged):
    """Telegraf, the collector below it, a server of the plant, the rules of the kernel."""

    def __init__(self, home: Path) -> None:
        self.home, self.opt = home, home / "opt"
        for name in ("server", "credentials"):
            (home / name).mkdir()
        self.telegraf = installed("telegraf", self.opt, "amd64") / "bin/telegraf"
        self.environment = installed("ot_collector", self.opt, interpreter())
        self.program = put_program("ot_collector", COLLECTOR_CORES, home)
        self.declare()
        self.plc = Stand(home / "server")
        self.plc.address, self.plc.port = PLC, 4840
        self.plc.start()
        self.tag = self.plc.grow(4, 7)[3]
        self.site = Site.from_dict(MODEL)
        self.rules()
        self.process: subprocess.Popen[bytes] | None = None
        self.elsewhere: list[dict[str, str]] = []
        for name in ("plc1", "plc2"):
            (home / "credentials" / ("opcua_%s_password" % name)).write_text("secret", encoding="utf-8")
        for name, data in (("client.pem", self.plc.client_pair[0]), ("client.key", self.plc.client_pair[1]), ("server.pem", self.plc.server_pair[0])):
            (home / name).write_bytes(data)
        self.command = [str(self.environment / "bin/python3"), "-I", str(self.program), "--config", str(home / "collector.json")]
        self.collects("plc1")
        self.loads("")

    def declare(self) -> None:
        """The program as it lies there is the deployed one."""
        self.files = {str(path.relative_to(self.program)): hashlib.sha256(path.read_bytes()).hexdigest()
                      for path in self.program.rglob("*") if path.is_file() and "__pycache__" not in path.parts}

    def source(self, name: str, address: str) -> dict[str, Any]:
        return {"id": name, "protocol": "opcua", "endpoint": "opc.tcp://%s:4840/" % address, "username": "observer", "application_uri": CLIENT_URI,
                "server_certificate": str(self.home / "server.pem"), "certificate": str(self.home / "client.pem"),
                "private_key": str(self.home / "client.key"), "connect_timeout_s": 60.0, "request_timeout_s": 60.0,
                "tags": [{"name": "a", "node": "nsu=%s;%s" % (PLANT, self.tag.split(";", 1)[1]), "type": "double"}]}

    def collects(self, *names: str) -> None:
        """What the collector is told; it takes it up at its next start."""
        sources = [self.source(name, {"plc1": PLC, "plc2": OTHER_PLC}[name]) for name in names]
        (self.home / "collector.json").write_text(json.dumps({
            "status_file": str(self.home / "status.json"), "state_file": str(self.home / "state.json"), "sources": sources}), encoding="utf-8")

    def loads(self, more: str) -> None:
        """What Telegraf is told; it takes it up at its next start."""
        (self.home / "shipper.conf").write_text(CONFIGURATION % (json.dumps(self.command), self.home / "out") + more, encoding="utf-8")

    def rules(self) -> None:
        """The kernel has the model's rules and no others."""
        text = "table inet hnai\ndelete table inet hnai\n" + nft.ruleset(self.site, "edge1")
        subprocess.run(["nft", "-f", "-"], input=text, text=True, check=True, env={"PATH": PATHS}, timeout=20)

    def start(self) -> None:
        """Telegraf anew, until the collector is connected."""
        self.stop()
        (self.home / "status.json").unlink(missing_ok=True)
        # A process whose files were changed in the tick of its start is not told from one whose files were changed after it.
        time.sleep(0.1)
        with (self.home / "telegraf.log").open("wb") as log:
            self.process = subprocess.Popen([str(self.telegraf), "--config", str(self.home / "shipper.conf")], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                            env={"PATH": PATHS, "CREDENTIALS_DIRECTORY": str(self.home / "credentials")})
        self.until("the collector does not connect", self._connected)

    def _connected(self) -> bool:
        path = self.home / "status.json"
        return path.exists() and json.loads(path.read_text(encoding="utf-8"))["sources"][0]["state"] == "connected"

    def until(self, what: str, condition: Any) -> None:
        end = time.monotonic() + kit.START_S
        while not condition():
            log = (self.home / "telegraf.log").read_text(encoding="utf-8", errors="replace")
            assert self.process is not None and self.process.poll() is None and time.monotonic() < end, f"{what}: {log[-3000:]}"
            time.sleep(0.2)

    def stop(self) -> None:
        """Ends Telegraf; the collector ends with its input."""
        if self.process is None:
            return
        below = [one.pid for one in Proc().tree(self.process.pid)[1:]]
        self.process.terminate()
        self.process.wait(60)
        self.process = None
        end = time.monotonic() + 30
        while any(Path("/proc/%d" % pid).exists() for pid in below):
            assert time.monotonic() < end, "processes stayed below Telegraf: %s" % below
            time.sleep(0.1)

    def judge(self) -> Checks:
        assert self.process is not None
        pid, found = self.process.pid, nft.collector_egress(self.site, "edge1")
        report = Report("ot_collector", "1", deadline_s=600)
        options = Options(
            instances=["shipper"], command=self.command, program=str(self.program), files=self.files, environment=str(self.environment),
            sources=[{"id": "plc1", "host": PLC, "port": 4840}], conduits=found["conduits"], own=found["own"], own_name=HOST, user=USER,
            telegraf=str(self.telegraf), elsewhere=self.elsewhere, patterns=["spBv1.0/+/DCMD/#"], environment_name="test")
        Audit(report, options, MirrorsHost(), Proc(), time.time, lambda unit: pid if unit == "hnai-telegraf-shipper.service" else 0).run()
        return report.result()["checks"]

    def close(self) -> None:
        try:
            self.stop()
        finally:
            self.plc.stop()

    # -- what other collectors keep -------------------------------------------------------------------------------
    def kept(self, kind: str, path: Path, **more: str) -> None:
        """The audit is told of one other collector."""
        self.elsewhere = [{"kind": kind, "path": str(path), **more}]

    def flows(self, *nodes: dict[str, Any]) -> None:
        """Node-RED's flows.json."""
        path = self.home / "flows.json"
        path.write_text(json.dumps([{"id": "t", "type": "tab"}, {"id": "n0", "type": "OpcUa-Client", "name": "in", "action": "subscribe"}, *nodes]),
                        encoding="utf-8")
        self.kept("node_red", path)

    def processors(self, *kinds: str) -> None:
        """NiFi's flow.json.gz."""
        path = self.home / "flow.json.gz"
        made = [{"name": "p", "type": "org.apache.nifi.processors." + kind, "scheduledState": "RUNNING", "properties": {}} for kind in kinds]
        flow = {"encodingVersion": {"majorVersion": 2}, "rootGroup": {"name": "NiFi Flow", "processGroups": [{"name": "line", "processors": made}]}}
        path.write_bytes(gzip.compress(json.dumps(flow).encode()))
        self.kept("nifi", path)

    def publishes(self, arguments: str) -> None:
        """OPC Publisher's nodes and its command line."""
        path = self.home / "pn.json"
        path.write_text(json.dumps([{"EndpointUrl": "opc.tcp://plc1:4840", "UseSecurity": True, "OpcNodes": [{"Id": "i=2258"}]}]), encoding="utf-8")
        (self.home / "publisher.args").write_text(arguments, encoding="utf-8")
        self.kept("opc_publisher", path, arguments=str(self.home / "publisher.args"))

    def applications(self, *plugins: str) -> None:
        """Neuron's database: a driver, and applications."""
        path = self.home / "sqlite.db"
        path.unlink(missing_ok=True)
        with contextlib.closing(sqlite3.connect(path)) as base:
            base.execute("CREATE TABLE nodes (name TEXT, type INTEGER, state INTEGER, plugin_name TEXT)")
            base.executemany("INSERT INTO nodes VALUES (?, ?, 3, ?)", [("plc", 1, "OPC UA"), *((one.lower(), 2, one) for one in plugins)])
            base.commit()
        self.kept("neuron", path)


@contextlib.contextmanager
def silent_plc() -> Iterator[None]:
    """Something that takes connections of OPC UA and says nothing."""
    with socket.create_server((OTHER_PLC, 4840)):
        yield
