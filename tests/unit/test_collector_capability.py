# SPDX-License-Identifier: Apache-2.0
"""What the mirror's own software could do: a /proc made here (the kernel's formats), real processes of ours, and files of other collectors
in the form that their makers document (see module_utils/collector/foreign.py). Each plant turns its own check.
"""
from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from put_programs import COLLECTOR_CORES, put_program

from ansible_collections.hnai.platform.plugins.lookup import tree_digests
from ansible_collections.hnai.platform.plugins.module_utils.collector import audit, egress, foreign, gobuild, programs, telegraf
from ansible_collections.hnai.platform.plugins.module_utils.collector.proc import Gone, Proc, changed_since
from ansible_collections.hnai.platform.plugins.module_utils.hostfiles import Completed, Host
from ansible_collections.hnai.platform.plugins.module_utils.mqtt.topics import matches
from ansible_collections.hnai.platform.plugins.module_utils.verdict import Report
from ansible_collections.hnai.platform.plugins.module_utils.zones import nft
from ansible_collections.hnai.platform.plugins.module_utils.zones.model import Site

ROOT = Path(__file__).resolve().parents[2]
ROLE = ROOT / "roles/ot_collector"
PROGRAM = ROLE / "tree/usr/local/lib/hnai/ot_collector"
COMMAND = ["/opt/env/bin/python3", "-I", "/opt/program", "--config", "/etc/collector.json"]
LINKED = ["inputs/execd", "inputs/internal", "outputs/file", "outputs/kafka", "outputs/mqtt", "processors/starlark", "secretstores/docker"]
CONF = """
[agent]
  interval = "5s"
[[secretstores.docker]]
  id = "credentials"
  path = "${CREDENTIALS_DIRECTORY}"
[[inputs.execd]]
  alias = "ot_collector"
  command = %s
[[inputs.internal]]
[[outputs.kafka]]
  brokers = ["kafka1:9094"]
  sasl_mechanism = "${KAFKA_MECHANISM}"
[[outputs.mqtt]]
  servers = ["ssl://edge1:8883"]
  topic = 'ot/{{ .Tag "source" }}'
[[outputs.file]]
  files = ["/run/counters.json"]
""" % json.dumps(COMMAND)
NAMES = {"kafka1": ["10.0.35.11"], "edge1": ["10.0.3.11"], "plc1": ["10.0.2.11"], "localhost": ["127.0.0.1"]}
CONDUITS = [
    {"id": "C-101", "addresses": ["10.0.2.11"], "proto": "tcp", "port": 4840, "uid": None, "plant": True},
    {"id": "C-201", "addresses": ["10.0.35.11"], "proto": "tcp", "port": 9094, "uid": None, "plant": False},
]


def go_program(path: Path, linked: list[str], tags: str = "custom,inputs.execd", main: str = "github.com/influxdata/telegraf/cmd/telegraf") -> None:
    """A file with what Go leaves in a program: build information, and names of functions."""
    def text(data: bytes) -> bytes:
        length, head = len(data), b""
        while length >= 0x80:
            head += bytes([length & 0x7F | 0x80])
            length >>= 7
        return head + bytes([length]) + data

    info = f"path\t{main}\nmod\tgithub.com/influxdata/telegraf\t(devel)\t\nbuild\t-compiler=gc\nbuild\t-tags={tags}\n".encode()
    functions = b"".join(b"\0github.com/influxdata/telegraf/plugins/%s.init.0\0" % one.encode() for one in linked)
    path.write_bytes(b"\x7fELF" + b"\0" * 28 + b"\xff Go buildinf:\x08\x02" + b"\0" * 16
                     + text(b"go1.26.8") + text(b"\x30" * 16 + info + b"\xf9" * 16) + functions)


def word(address: str, port: int) -> str:
    return socket.inet_aton(address)[::-1].hex().upper() + ":%04X" % port


class Stand:
    """A host with one Telegraf (100) and the collector below it (101), all well."""

    def __init__(self, base: Path) -> None:
        self.base, self.proc, self.conf = base, base / "proc", base / "shipper.conf"
        self.binary, self.program, self.environment = base / "telegraf", base / "program", base / "environment"
        go_program(self.binary, LINKED)
        self.conf.write_text(CONF)
        for folder in (self.program, self.environment):
            folder.mkdir()
        (self.program / "__main__.py").write_text("run()\n")
        (self.environment / "module.py").write_text("pass\n")
        self.recipe({"module.py": 5})
        self.process(100, 1, [str(self.binary), "--config", str(self.conf)], self.binary)
        self.process(101, 100, COMMAND, Path("/usr/bin/python3"))
        self.connect(100, [("10.0.35.11", 9094), ("10.0.3.11", 8883)])
        self.connect(101, [("10.0.2.11", 4840)])
        self.files = {"__main__.py": hashlib.sha256(b"run()\n").hexdigest()}
        self.options: dict[str, Any] = {}
        self.told: dict[str, Any] = {"opcua": {"open": [], "refused": 30, "reading": 10}, "modbus": {"open": [], "refused": 254},
                                     "reading": {"opcua": ["ReadRequest"], "modbus": [3]}}
        self.listing = listing([("10.0.2.11", 4840, None), ("10.0.35.11", 9094, None)])

    def recipe(self, files: dict[str, Any]) -> None:
        (self.environment / ".hnai-manifest").write_text(json.dumps({"files": files, "recipe": "r", "digest": "d"}))

    def process(self, pid: int, parent: int, argv: list[str], exe: Path, age_s: float = -5.0) -> None:
        folder = self.proc / str(pid)
        (folder / "fd").mkdir(parents=True, exist_ok=True)
        (folder / "net").mkdir(exist_ok=True)
        ticks = int((time.clock_gettime(time.CLOCK_BOOTTIME) - age_s) * os.sysconf("SC_CLK_TCK"))
        (folder / "stat").write_text("%d (a (b) c) S %d %s %d 0\n" % (pid, parent, " ".join("0" * 17), ticks))
        (folder / "cmdline").write_bytes(b"".join(one.encode() + b"\0" for one in argv))
        (folder / "environ").write_bytes(b"A=1\0")
        (folder / "exe").unlink(missing_ok=True)
        (folder / "exe").symlink_to(exe)
        (folder / "maps").write_text("7f0-7f1 r-xp 00000000 fe:01 5 /usr/lib/x86_64-linux-gnu/libc.so.6\n7f1-7f2 r--p 00000000 fe:01 6 /somewhere/data\n")

    def connect(self, pid: int, peers: list[tuple[str, int]], listening: int = 0) -> None:
        head, lines = "  sl  local_address rem_address   st tx_queue:rx_queue tr:tm->when retrnsmt   uid  timeout inode\n", []
        for number, (peer, port) in enumerate(peers):
            inode = pid * 10 + number
            (self.proc / str(pid) / "fd" / str(number)).symlink_to("socket:[%d]" % inode)
            lines.append(" %d: %s %s 01 0:0 00:0 0 900 0 %d 1\n" % (number, word("10.0.3.11", 40000 + number), word(peer, port), inode))
        if listening:
            (self.proc / str(pid) / "fd" / "99").symlink_to("socket:[%d]" % (pid * 10 + 9))
            lines.append(" 9: %s %s 0A 0:0 00:0 0 900 0 %d 1\n" % (word("0.0.0.0", listening), word("0.0.0.0", 0), pid * 10 + 9))
        # Somebody else's connection to anywhere is no finding of ours.
        lines.append(" 10: %s %s 01 0:0 00:0 0 900 0 7777 1\n" % (word("10.0.3.11", 50000), word("192.0.2.1", 80)))
        (self.proc / str(pid) / "net/tcp").write_text(head + "".join(lines))

    def reconnect(self, pid: int, peers: list[tuple[str, int]], listening: int = 0) -> None:
        shutil.rmtree(self.proc / str(pid) / "fd")
        (self.proc / str(pid) / "fd").mkdir()
        self.connect(pid, peers, listening)

    def run(self, argv: list[str], stdin: bytes | None = None, timeout: float = 60.0) -> Completed:
        if argv[0] == "nft":
            return Completed(0, self.listing.encode(), b"")
        assert argv[0].endswith("/bin/python3") and argv[1:4] == ["-I", "-B", "-c"], argv
        return Completed(0, json.dumps(self.told).encode(), b"")

    def audit(self) -> tuple[dict[str, str], dict[str, str], dict[str, Any]]:
        """(status by id, reason by id, record)."""
        host = Host()
        host.run = self.run  # type: ignore[method-assign]
        host.uid = {"hnai-telegraf": 900}.get  # type: ignore[method-assign, assignment]
        report = Report("ot_collector", "1", deadline_s=60.0)
        options = audit.Options(**{
            "instances": ["shipper"], "command": COMMAND, "program": str(self.program), "files": self.files, "environment": str(self.environment),
            "sources": [{"id": "plc1", "host": "plc1", "port": 4840}], "conduits": CONDUITS, "own": [8883], "own_name": "edge1",
            "telegraf": str(self.binary), "patterns": ["spBv1.0/+/DCMD/#"], **self.options})
        record = audit.Audit(report, options, host, Proc(self.proc), time.time, lambda unit: 100 if unit == "hnai-telegraf-shipper.service" else 0,
                             lambda name: NAMES.get(name, [])).run()
        return {one.id: one.status for one in report.checks}, {one.id: one.reason for one in report.checks}, record


def listing(ways: list[tuple[str, int, int | None]], policy: str = "drop", more: list[dict[str, Any]] | None = None) -> str:
    """What nft says of an output chain that lets *ways* out."""
    rules: list[dict[str, Any]] = [{"expr": [{"match": {"op": "==", "left": {"meta": {"key": "oifname"}}, "right": "lo"}}, {"accept": None}]}]
    for address, port, uid in ways:
        user = [] if uid is None else [{"match": {"op": "==", "left": {"meta": {"key": "skuid"}}, "right": uid}}]
        rules.append({"expr": [
            {"match": {"op": "==", "left": {"payload": {"protocol": "ip", "field": "daddr"}}, "right": address}}, *user,
            {"match": {"op": "==", "left": {"payload": {"protocol": "tcp", "field": "dport"}}, "right": port}},
            {"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": "new"}}, {"counter": {"packets": 0, "bytes": 0}}, {"accept": None}]})
    chain = {"family": "inet", "table": "hnai", "name": "output", "type": "filter", "hook": "output", "prio": 0, "policy": policy}
    where = {"family": "inet", "table": "hnai", "chain": "output"}
    return json.dumps({"nftables": [{"chain": chain}, *({"rule": {**where, **one}} for one in rules), *(more or [])]})


@pytest.fixture
def stand(tmp_path: Path) -> Stand:
    return Stand(tmp_path)


def test_a_clean_mirror_is_claimed(stand: Stand) -> None:
    statuses, reasons, record = stand.audit()
    assert statuses == dict.fromkeys(("CA0", "CA1", "CA2", "CA3", "CA4", "CA5", "CA6", "CA7"), "pass"), reasons
    assert record["verdict"] == "claimed" and record["instances"]["shipper"]["plugins"] == [
        "inputs.execd", "inputs.internal", "outputs.file", "outputs.kafka", "outputs.mqtt", "secretstores.docker"]


def plant_program(stand: Stand, linked: list[str], **more: Any) -> None:
    go_program(stand.binary, linked, **more)


PLANTS: list[tuple[str, str, Any, str, str]] = [
    # check, status, what is done, words of the reason, further checks that follow from it
    ("CA1", "fail", lambda s: plant_program(s, [*LINKED, "outputs/exec"]), "outputs.exec is built in", ""),
    ("CA1", "fail", lambda s: plant_program(s, [*LINKED, "outputs/socket_writer"]), "outputs.socket_writer is built in", ""),
    ("CA1", "inconclusive", lambda s: plant_program(s, [*LINKED, "outputs/novelty"]), "outputs.novelty is built in, and nobody", ""),
    ("CA1", "inconclusive", lambda s: plant_program(s, LINKED, tags="netgo"), "without the tag custom", ""),
    ("CA1", "inconclusive", lambda s: plant_program(s, LINKED, main="example.org/other"), "example.org/other, not Telegraf", ""),
    ("CA1", "inconclusive", lambda s: s.binary.write_bytes(b"\x7fELF"), "no Go program", ""),
    ("CA1", "inconclusive", lambda s: s.options.update(telegraf="/usr/bin/env"), "not what lies at", ""),
    ("CA2", "fail", lambda s: s.conf.write_text(CONF + "[[outputs.opcua]]\nalias = 'sly'\n"), "outputs.opcua (sly)", ""),
    ("CA2", "fail", lambda s: s.conf.write_text(CONF + "[outputs.modbus]\n"), "outputs.modbus", ""),
    ("CA2", "fail", lambda s: s.conf.write_text(CONF + "[[inputs.http_listener_v2]]\n"), "opens a port", ""),
    ("CA2", "fail", lambda s: s.conf.write_text(CONF + "[[inputs.http]]\nmethod = 'post'\n"), "sends post requests", ""),
    ("CA2", "fail", lambda s: s.conf.write_text(CONF + "[[outputs.http]]\nurl = 'http://plc1:4840/x'\n"), "plc1 port 4840, which no conduit names", ""),
    ("CA2", "inconclusive", lambda s: s.conf.write_text(CONF + "[[outputs.http]]\nurl = 'http://${WHERE}/x'\n"), "made of variables", ""),
    ("CA2", "inconclusive", lambda s: s.conf.write_text(CONF + "[[outputs.http]]\nurl = 'http://nowhere:1/x'\n"), "nowhere is not known", ""),
    ("CA2", "fail", lambda s: s.conf.write_text(CONF + "[[outputs.mqtt]]\nservers = ['ssl://edge1:8883']\ntopic = 'spBv1.0/{{ .Tag \"g\" }}/DCMD/e'\n"),
     "publishes to spBv1.0/+/DCMD/e, where commands are", ""),
    ("CA2", "inconclusive", lambda s: s.conf.write_text(CONF + "[[outputs.mqtt]]\ntopic = '{{ .Tag \"topic\" }}'\n"), "publishes to #, where", ""),
    ("CA2", "inconclusive", lambda s: s.conf.write_text(CONF + "[[outputs.mqtt]]\nservers = ['ssl://edge1:8883']\ntopic = 'spBv1.0/{{ .Tag \"g\" }}/NDATA'\n"),
     "may have slashes, and make a command", ""),
    ("CA2", "inconclusive", lambda s: s.conf.write_text(CONF + "[[outputs.mqtt]]\ntopic = 'spBv1.0/g'\nlayout = 'field'\n"), "publishes to spBv1.0/g/#", ""),
    ("CA2", "inconclusive", lambda s: s.conf.write_text(CONF + "[[outputs.mqtt]]\ntopic = '${TOPIC}'\n"), "its topic is made of variables", ""),
    ("CA2", "inconclusive", lambda s: s.conf.write_text(CONF + "[[processors.novelty]]\n"), "processors.novelty", ""),
    ("CA2", "inconclusive", lambda s: s.conf.write_text(CONF + "[[outputs.sql]]\ndata_source_name = 'u@tcp(plc1:502)/x'\n"), "does not say where", ""),
    ("CA2", "fail", lambda s: s.conf.write_text(CONF + "[[outputs.http]]\nurl = 'http://localhost/'\nhttp_proxy_url = 'http://plc1:502'\n"),
     "plc1 port 502, which no conduit names", ""),
    ("CA2", "fail", lambda s: s.conf.write_text(CONF + "[[outputs.file]]\nfiles = ['stdout', '/run/../dev/ttyS0']\n"), "device /run/../dev/ttyS0", ""),
    ("CA2", "inconclusive", lambda s: s.conf.write_text(CONF + "[[outputs.file]]\nfiles = ['${WHERE}']\n"), "which file, or device, a variable says", ""),
    ("CA2", "inconclusive", lambda s: s.process(100, 1, [str(s.binary), "--config", str(s.conf)], s.binary, age_s=60), "changed after", "CA3"),
    ("CA2", "inconclusive", lambda s: s.conf.write_text(CONF + "[broken"), "cannot be read", "CA3"),
    ("CA2", "inconclusive", lambda s: s.process(100, 1, [str(s.binary), "--config", "http://x/y"], s.binary), "over the network", "CA3"),
    ("CA2", "inconclusive", lambda s: s.process(100, 1, [str(s.binary), "--config", str(s.conf), "--non-strict-env-handling"], s.binary),
     "may be any part of its configuration", "CA3"),
    ("CA2", "inconclusive", lambda s: s.process(100, 1, [str(s.binary)], s.binary), "name no configuration file", "CA3"),
    ("CA3", "fail", lambda s: s.conf.write_text(CONF + "[[inputs.execd]]\ncommand = ['/bin/sh']\n"), "inputs.execd in", ""),
    ("CA3", "fail", lambda s: s.conf.write_text(CONF + "[[processors.execd]]\ncommand = %s\n" % json.dumps(COMMAND)), "processors.execd in", ""),
    ("CA3", "fail", lambda s: s.conf.write_text(CONF + "[[inputs.ping]]\nmethod = 'exec'\nbinary = '/tmp/mbwrite'\n"), "executes /tmp/mbwrite", ""),
    ("CA3", "fail", lambda s: s.conf.write_text(CONF + "[[inputs.execd]]\ncommand = %s\nenvironment = ['LD_PRELOAD=/x.so']\n" % json.dumps(COMMAND)),
     "variables of its own", ""),
    ("CA3", "fail", lambda s: (s.process(102, 101, ["/bin/sh", "-c", "x"], Path("/bin/sh")), s.connect(102, [])), "process 102 below it: /bin/sh -c x", ""),
    ("CA4", "fail", lambda s: (s.program / "__main__.py").write_text("write()\n"), "not what was deployed", ""),
    ("CA4", "fail", lambda s: (s.program / "extra.py").write_text(""), "extra.py was not deployed", ""),
    ("CA4", "fail", lambda s: (s.environment / "sitecustomize.py").write_text(""), "sitecustomize.py was not deployed", ""),
    ("CA4", "fail", lambda s: s.recipe({"module.py": 4}), "another size", ""),
    ("CA4", "fail", lambda s: (s.proc / "101/maps").write_text("7-8 r-xp 0 0 5 /tmp/inject.so\n"), "mapped /tmp/inject.so", ""),
    ("CA4", "inconclusive", lambda s: s.process(101, 100, COMMAND, Path("/usr/bin/python3"), age_s=60), "changed after process 101", ""),
    ("CA5", "fail", lambda s: s.told["opcua"]["open"].append("WriteRequest"), "OPC UA WriteRequest", ""),
    ("CA5", "fail", lambda s: s.told["reading"]["modbus"].append(6), "Modbus function 6 is on the list", ""),
    ("CA5", "inconclusive", lambda s: s.told["modbus"].update(refused=0), "could not be tried", ""),
    ("CA6", "fail", lambda s: s.reconnect(101, [("10.0.2.11", 4840), ("10.0.2.11", 502)]), "the collector: tcp to 10.0.2.11 port 502", ""),
    ("CA6", "fail", lambda s: s.reconnect(101, [("10.0.35.11", 9094)]), "the collector: tcp to 10.0.35.11 port 9094", ""),
    ("CA6", "fail", lambda s: s.reconnect(100, [("10.0.2.11", 4840)]), "process 100: tcp to 10.0.2.11 port 4840", ""),
    ("CA6", "fail", lambda s: s.reconnect(100, [], 9273), "listens on 0.0.0.0 port 9273", ""),
    ("CA6", "inconclusive", lambda s: (s.reconnect(101, []), s.options.update(sources=[{"id": "x", "host": "gone", "port": 1}])), "gone is not known", ""),
    ("CA7", "fail", lambda s: setattr(s, "listing", listing([("10.0.2.11", 4840, None), ("10.0.35.11", 9094, None), ("10.0.2.11", 502, 900)])),
     "beyond the conduits: tcp 10.0.2.11 port 502 as user 900", ""),
    ("CA7", "fail", lambda s: setattr(s, "listing", listing([("10.0.2.11", 4840, None)])), "not let out: tcp 10.0.35.11 port 9094", ""),
    ("CA7", "inconclusive", lambda s: setattr(s, "listing", listing([], policy="accept")), "policy accept", ""),
]


@pytest.mark.parametrize(("ident", "status", "plant", "words", "also"), PLANTS, ids=[f"{one[0]}-{number}" for number, one in enumerate(PLANTS)])
def test_each_plant_turns_its_own_check(stand: Stand, ident: str, status: str, plant: Any, words: str, also: str) -> None:
    plant(stand)
    statuses, reasons, record = stand.audit()
    assert statuses[ident] == status and words in reasons[ident], (statuses, reasons)
    bad = {one for one, found in statuses.items() if found != "pass"}
    # Two processes share the plant of a connection; the collector that is unknown to CA3 is none of the others' business.
    assert bad - {"CA0"} <= {ident, also}, (statuses, reasons)
    assert record["verdict"] == ("refuted" if status == "fail" else "inconclusive") and statuses["CA0"] == status


def test_nothing_that_runs_proves_nothing(stand: Stand) -> None:
    stand.options["instances"] = ["bridge"]
    statuses, reasons, record = stand.audit()
    assert statuses["CA1"] == "inconclusive" and "does not run" in reasons["CA1"] and record["verdict"] == "inconclusive"


def test_a_user_of_another_conduit_is_not_ours(stand: Stand) -> None:
    stand.listing = listing([("10.0.2.11", 4840, None), ("10.0.35.11", 9094, None), ("10.0.2.11", 502, 901)])
    assert stand.audit()[0]["CA7"] == "pass"


# -- real processes -----------------------------------------------------------------------------------------------
@pytest.fixture
def child() -> Iterator[tuple[subprocess.Popen[str], int, int]]:
    """A process of ours that listens, is connected, and has a child."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        program = ("import socket, subprocess, sys, time\n"
                   "one = socket.create_server(('127.0.0.1', 0)); two = socket.create_connection(('127.0.0.1', %d))\n"
                   # Its answer says that it is more than a fork: right after exec a process has no arguments yet.
                   "below = subprocess.Popen(['/bin/cat'], stdin=-1, stdout=-1)\n"
                   "below.stdin.write(b'x'); below.stdin.flush(); below.stdout.read(1)\n"
                   "print(one.getsockname()[1], flush=True)\nsys.stdin.read(); below.kill(); below.wait()" % port)
        process = subprocess.Popen([sys.executable, "-I", "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                   env={"TELEGRAF_CONFIG_PATH": "/x", "SECRET": "y"})
        assert process.stdout and process.stdin
        try:
            yield process, int(process.stdout.readline()), port
        finally:
            process.stdin.close()
            process.wait(10)
            process.stdout.close()


def test_what_proc_says_of_a_process(child: tuple[subprocess.Popen[str], int, int], tmp_path: Path) -> None:
    parent, listening, connected = child
    proc, pid = Proc(), parent.pid
    (tmp_path / "late").write_text("")
    first, *below = proc.tree(pid)
    assert first.argv[1:3] == ("-I", "-c") and first.parent == os.getpid() and [one.argv for one in below] == [("/bin/cat",)]
    assert abs(first.started - time.time()) < 10
    assert changed_since([tmp_path / "late"], first.started) and not changed_since([Path(__file__)], first.started)
    assert {(one.text if one.listens else one.peer_port) for one in proc.sockets(pid)} == {"tcp listens on 127.0.0.1 port %d" % listening, connected}
    assert proc.variable(pid, "TELEGRAF_CONFIG_PATH") == "/x" and proc.variable(pid, "OTHER") is None
    assert proc.same_file(pid, sys.executable) and not proc.same_file(pid, "/bin/sleep")
    assert any("libc" in path or "python" in path for path in proc.mapped(pid))
    os.utime(tmp_path / "late", (0, 0))
    assert changed_since([tmp_path / "late"], first.started), "a time that was set back by hand does not help"
    with pytest.raises(Gone):
        proc.process(2**22 + 1)


def test_the_client_of_the_collector_refuses_and_an_opened_one_is_found(tmp_path: Path) -> None:
    def told(program: Path) -> list[str]:
        done = subprocess.run([sys.executable, "-I", "-B", "-c", programs.CLOSED, str(program)], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return programs.open_paths(json.loads(done.stdout))

    opened = put_program("ot_collector", COLLECTOR_CORES, tmp_path)
    assert told(opened) == []
    for name, old, new in (
        ("ua_channel.py", '"PublishRequest",\n})', '"PublishRequest", "CallRequest",\n})'),
        ("ua_channel.py", "        check_reading(request)\n", "        if type(request).__name__ != 'WriteRequest':\n            check_reading(request)\n"),
        ("mb_channel.py", "{3, 4}", "{3, 4, 16}"),
    ):
        text = (opened / "hnai_ot_collector" / name).read_text()
        assert old in text
        (opened / "hnai_ot_collector" / name).write_text(text.replace(old, new))
    assert told(opened) == ["OPC UA WriteRequest", "OPC UA CallRequest is on the list of what may be sent",
                            "Modbus function 16 is on the list of what may be sent"]


# -- what is declared ---------------------------------------------------------------------------------------------
def test_the_role_declares_what_it_brings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = put_program("ot_collector", COLLECTOR_CORES, tmp_path)
    # How a template is rendered is config_tree's own (test_config_tree_action).
    monkeypatch.setattr(tree_digests, "rendered", lambda _templar, source, *_others: (there / "hnai_ot_collector" / source.stem).read_bytes())
    lookup = tree_digests.LookupModule()
    lookup.set_options = lambda **_kwargs: None
    (files,) = lookup.run(["ot_collector", "/usr/local/lib/hnai/ot_collector"])
    assert "__main__.py" in files and "hnai_ot_collector/sparkplug.py" in files and programs.differs(there, files) == []
    with pytest.raises(Exception, match="brings no file"):
        lookup.run(["ot_collector", "/nowhere"])


def test_defaults_of_other_roles_are_the_same_here() -> None:
    own = yaml.safe_load((ROLE / "vars/main.yml").read_text())
    assert own["__ot_collector_command"] == yaml.safe_load((ROOT / "roles/telegraf/defaults/main.yml").read_text())["telegraf_collector_command"]
    assert own["__ot_collector_command_patterns"] == yaml.safe_load((ROOT / "roles/mosquitto/defaults/main.yml").read_text())["mosquitto_command_patterns"]


def test_what_our_own_telegraf_has_is_known() -> None:
    lock = json.loads((ROOT / "roles/telegraf/files/telegraf-1.39.3.lock.json").read_text())
    names = [one for one in lock["parts"][0]["tags"].split(",") if one.split(".")[0] in telegraf.KINDS]
    assert names and not [one for one in names if one not in telegraf.PLUGINS]
    assert {telegraf.PLUGINS[one] for one in names} == {telegraf.READS, telegraf.SHIPS, telegraf.EXECUTES}


@pytest.mark.parametrize(("argv", "words"), [
    (["t", "--config", "/a", "--plugin-directory", "/p"], "plugins from outside"), (["t", "--config", "a"], "no absolute path"),
    (["t", "--novelty"], "not understood"), (["t", "--config-directory", "/nowhere/at/all"], "no directory")])
def test_arguments_that_hide_a_configuration(argv: list[str], words: str) -> None:
    with pytest.raises(telegraf.CannotTell, match=words):
        telegraf.files(argv)


def test_a_directory_is_read_whole(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("a.conf", "sub/b.conf", "c.txt"):
        (tmp_path / name).write_text("")
    assert telegraf.files(["t", "--config-directory=%s" % tmp_path]) == [tmp_path / "a.conf", tmp_path / "sub/b.conf"]
    assert telegraf.files(["t", "-config", str(tmp_path / "a.conf")]) == [tmp_path / "a.conf"]


def accepting(op: str, field: str, right: Any, protocol: str = "ip") -> list[dict[str, Any]]:
    return [{"match": {"op": op, "left": {"payload": {"protocol": protocol, "field": field}}, "right": right}}, {"accept": None}]


def planted(rule: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"rule": {"family": "inet", "table": "hnai", "chain": "output", "handle": 99, "expr": rule}}]


@pytest.mark.parametrize(("rule", "words"), [
    (accepting("==", "dport", 502, "tcp"), "tcp every IPv4 address port 502 as user 900"),
    (accepting("!=", "daddr", "10.0.0.1"), "every protocol 0.0.0.0-10.0.0.0, 10.0.0.2-255.255.255.255 port any as user 900"),
    (accepting("==", "daddr", {"prefix": {"addr": "10.0.0.0", "len": 8}}), "every protocol 10.0.0.0-10.255.255.255 port any as user 900"),
    (accepting("==", "dport", {"set": [502, {"range": [600, 610]}]}, "udp"), "udp every IPv6 address port 502, 600-610 as user 900"),
])
def test_a_rule_that_lets_out_more_is_found_whatever_it_looks_like(rule: list[dict[str, Any]], words: str) -> None:
    more, less = egress.differences(listing([], more=planted(rule)), [], [900], lambda name: None)
    assert words in more and not less, more


@pytest.mark.parametrize(("rule", "words"), [
    ([{"jump": {"target": "x"}}], "chain x, which is not listed"),
    ([{"match": {"op": "==", "left": {"fib": {"result": "type", "flags": ["daddr"]}}, "right": "local"}}, {"accept": None}], "not understood.*fib"),
    ([{"xt": {"type": "target", "name": "NFQUEUE"}}], "not understood.*NFQUEUE"),
    ([{"queue": {"num": 1}}], "leads past the rules"),
])
def test_a_rule_that_is_not_understood_is_not_passed_over(rule: list[dict[str, Any]], words: str) -> None:
    with pytest.raises(egress.CannotTell, match=words):
        egress.differences(listing([], more=planted(rule)), [], [900], lambda name: None)


def test_no_chain_and_a_rewriting_one_are_no_answer() -> None:
    with pytest.raises(egress.CannotTell, match="everything may leave"):
        egress.differences('{"nftables": []}', [], [900], lambda name: None)
    place = {"family": "ip", "table": "x"}
    nat = [{"chain": {**place, "name": "y", "type": "nat", "hook": "output", "prio": -100, "policy": "accept"}},
           {"rule": {**place, "chain": "y", "handle": 2, "expr": [{"dnat": {"addr": "10.0.2.11"}}]}}]
    with pytest.raises(egress.CannotTell, match="rewrites"):
        egress.differences(listing([], more=nat), [], [900], lambda name: None)


def test_a_table_of_others_that_cuts_a_conduit_is_seen() -> None:
    place = {"family": "ip", "table": "x"}
    ways = egress.declared(CONDUITS)
    text = [("10.0.2.11", 4840, None), ("10.0.35.11", 9094, None)]
    other = [{"chain": {**place, "name": "y", "type": "filter", "hook": "postrouting", "prio": 5, "policy": "accept"}},
             {"rule": {**place, "chain": "y", "handle": 2, "expr": accepting("==", "dport", 4840, "tcp")[:1] + [{"drop": None}]}}]
    assert egress.differences(listing(text), ways, [900], lambda name: None) == ([], [])
    assert egress.differences(listing(text, more=other), ways, [900], lambda name: None) == ([], ["tcp 10.0.2.11 port 4840"])


# -- other collectors ---------------------------------------------------------------------------------------------
def red(path: Path, *nodes: dict[str, Any]) -> foreign.Findings:
    path.write_text(json.dumps([{"id": "t", "type": "tab"}, *({"id": "n%d" % number, "name": "", **one} for number, one in enumerate(nodes))]))
    return foreign.node_red(path, ["spBv1.0/+/DCMD/#"], matches)


@pytest.mark.parametrize(("node", "writes", "unknown"), [
    ({"type": "OpcUa-Client", "action": "subscribe"}, 0, 0), ({"type": "OpcUa-Client", "action": "write"}, 1, 0),
    ({"type": "OpcUa-Client", "action": "writemultiple", "d": True}, 1, 0), ({"type": "OpcUa-Client", "action": "novelty"}, 0, 1),
    ({"type": "modbus-read"}, 0, 0), ({"type": "modbus-write"}, 1, 0), ({"type": "modbus-flex-fc"}, 1, 0), ({"type": "exec"}, 1, 0),
    ({"type": "function", "func": "return msg;"}, 0, 0), ({"type": "function", "func": "x = require('fs')"}, 1, 0),
    ({"type": "function", "func": "", "libs": [{"var": "n", "module": "net"}]}, 1, 0),
    ({"type": "function", "func": "", "initialize": "global.get('process').exit()"}, 1, 0),
    ({"type": "mqtt out", "topic": "site/view"}, 0, 0), ({"type": "mqtt out", "topic": "spBv1.0/g/DCMD/e"}, 1, 0), ({"type": "mqtt out", "topic": ""}, 0, 1),
    ({"type": "http request", "method": "GET"}, 0, 0), ({"type": "http request", "method": "use"}, 1, 0), ({"type": "novelty"}, 0, 1),
    # What the broker's configuration publishes by itself; topics out of the environment.
    ({"type": "mqtt-broker", "birthTopic": "site/up", "willTopic": ""}, 0, 0), ({"type": "mqtt-broker", "willTopic": "spBv1.0/g/DCMD/e"}, 1, 0),
    ({"type": "mqtt-broker", "birthTopic": "spBv1.0/g/DCMD/e", "closeTopic": "spBv1.0/g/DCMD/f"}, 2, 0), ({"type": "mqtt-broker", "closeTopic": "${T}"}, 0, 1),
    ({"type": "mqtt out", "topic": "${WHERE}/x"}, 0, 1), ({"type": "mqtt out", "topic": "spBv1.0/${G}/DCMD/e"}, 1, 0),
    ({"type": "function", "func": "context.global.net.connect(502)"}, 1, 0), ({"type": "function", "func": "global . get(`nodes7`)"}, 1, 0),
    ({"type": "function", "func": "this['constructor']['constructor']('x')"}, 1, 0), ({"type": "function", "func": "prefetch(global.get('network'))"}, 0, 0),
    ({"type": "function", "func": "fetch('http://plc/set')"}, 1, 0),
    ({"type": "file", "filename": "/var/log/x"}, 0, 0), ({"type": "file", "filename": "/dev/ttyS0"}, 1, 0),
    ({"type": "file", "filename": ""}, 0, 1), ({"type": "file", "filename": "name", "filenameType": "msg"}, 0, 1),
    ({"type": "file", "filename": "/var/${N}"}, 0, 1), ({"type": "file", "filename": "/var/log/x", "filenameType": "str"}, 0, 0),
    ({"type": "file", "filename": "//dev/ttyS0"}, 1, 0), ({"type": "file", "filename": "../../dev/ttyS0"}, 1, 0),
    ({"type": "file", "filename": "/sys/class/gpio/gpio7/value"}, 1, 0), ({"type": "file", "filename": "/dev/shm/x"}, 0, 0),
    # Either spelling of a variable, in place of any property.
    ({"type": "mqtt out", "topic": "$(T)"}, 0, 1), ({"type": "mqtt-broker", "willTopic": "$(T)"}, 0, 1), ({"type": "file", "filename": "$(N)"}, 0, 1),
    ({"type": "function", "func": "${CODE}"}, 0, 1), ({"type": "function", "finalize": "$(CODE)"}, 0, 1),
    ({"type": "function", "func": "msg.payload = `\n${x}`; return msg;"}, 0, 0),
    # What settings.js put into the global context may be a module; a value that is only read is none.
    ({"type": "function", "func": "const o = global.get('plant'); o.session.write(1)"}, 0, 1),
    ({"type": "function", "func": "let {a, b} = context.global.get('plant')\nb(1)"}, 0, 1),
    ({"type": "function", "func": "global.get('plant').write(1)"}, 0, 1), ({"type": "function", "func": "context.global.plant.write(1)"}, 0, 1),
    ({"type": "function", "func": "const v = global.get('last'); global.set('last', msg.payload); msg.payload -= v; return msg"}, 0, 0),
    ({"type": "function", "func": "let v = global.get('list') || []; v.push(msg.payload); global.get('list').slice(1); v.map(x => x + 1)"}, 0, 0),
    ({"type": "function", "func": "globalThis['pro' + 'cess']"}, 1, 0),
    # Inside a subflow, disabled, in another spelling; a reader and a comment are none.
    ({"type": "modbus-write", "z": "s1"}, 1, 0), ({"type": "modbus-write", "d": True}, 1, 0), ({"type": "modbus-flex-write"}, 1, 0),
    ({"type": "Modbus-Write"}, 0, 1), ({"type": "OPCUA-IIoT-Write"}, 1, 0), ({"type": "opcua-iiot-method-caller"}, 0, 1), ({"type": "OpcUa-Method"}, 1, 0),
    ({"type": "modbus-getter"}, 0, 0), ({"type": "comment", "info": "modbus-write"}, 0, 0), ({"type": "s7 out"}, 1, 0), ({"type": "tcp out"}, 1, 0),
    ({"type": "tcp request"}, 1, 0), ({"type": "udp out"}, 1, 0), ({"type": "serial out"}, 1, 0), ({"type": "http in"}, 1, 0), ({"type": "daemon"}, 0, 1),
    ({"type": "http request", "method": "delete"}, 1, 0), ({"type": "http request"}, 0, 0), ({"type": "mqtt out", "topic": "spBv1.0/+/DCMD/#"}, 1, 0),
    ({"type": "function", "func": "import('net')"}, 1, 0), ({"type": "function", "func": "new Function(msg.payload)()"}, 1, 0),
    ({"type": "function", "func": "", "finalize": "require('net')"}, 1, 0), ({"type": "function", "func": "msg.processed = evaluate(msg)"}, 0, 0),
])
def test_node_red(tmp_path: Path, node: dict[str, Any], writes: int, unknown: int) -> None:
    found = red(tmp_path / "flows.json", node)
    assert (len(found.writes), len(found.unknown), found.seen) == (writes, unknown, 2), (found.writes, found.unknown)


@pytest.mark.parametrize(("before", "unknown"), [
    ([{"type": "inject", "props": [{"p": "payload"}, {"p": "topic", "vt": "str"}], "payloadType": "date"}], 0),
    ([{"type": "inject", "payloadType": "json", "payload": '{"x": "write"}'}], 1),
    ([{"type": "inject", "props": [{"p": "action", "v": "write", "vt": "str"}]}], 1),
    ([{"type": "inject"}, {"type": "OpcUa-Item"}], 0),
    ([{"type": "mqtt in"}, {"type": "OpcUa-Item"}], 1),
    ([{"type": "function", "func": "msg.action = x; return msg;"}], 1),
    ([{"type": "subflow", "in": [{"wires": [{"id": "n1"}]}]}], 1),
    ([{"type": "group", "nodes": ["n1"]}], 0),
])
def test_a_message_may_tell_a_client_of_node_red_to_write(tmp_path: Path, before: list[dict[str, Any]], unknown: int) -> None:
    """Its own action is only what it does when the message says none."""
    last = len(before)
    chain = [{"wires": [["n%d" % (number + 1)]], **one} if one["type"] not in ("subflow", "group") else one for number, one in enumerate(before)]
    found = red(tmp_path / "flows.json", *chain, {"type": "OpcUa-Client", "action": "read", "wires": [[]], "id": "n%d" % last})
    assert (len(found.writes), len(found.unknown)) == (0, unknown), found


def nifi(path: Path, *processors: dict[str, Any]) -> foreign.Findings:
    inner = {"name": "line", "processors": [{"name": "p", "scheduledState": "ENABLED", **one} for one in processors]}
    path.write_bytes(gzip.compress(json.dumps({"encodingVersion": {"majorVersion": 2}, "rootGroup": {"name": "NiFi Flow", "processGroups": [inner]}}).encode()))
    return foreign.nifi(path, ["spBv1.0/+/DCMD/#"], matches)


@pytest.mark.parametrize(("kind", "properties", "writes", "unknown"), [
    ("standard.ExecuteStreamCommand", {}, 1, 0), ("script.ExecuteScript", {}, 1, 0), ("standard.ListenHTTP", {}, 1, 0), ("standard.PutTCP", {}, 1, 0),
    ("modbus.PutModbus", {}, 1, 0), ("plc4x.Plc4xSinkProcessor", {}, 1, 0), ("plc4x.Plc4xSourceProcessor", {}, 0, 1),
    ("kafka.pubsub.PublishKafka_2_6", {}, 0, 0), ("mqtt.ConsumeMQTT", {}, 0, 0), ("mqtt.PublishMQTT", {"Topic": "spBv1.0/g/DCMD/e"}, 1, 0),
    ("mqtt.PublishMQTT", {"Topic": "view"}, 0, 0), ("mqtt.PublishMQTT", {"Topic": "${topic}"}, 0, 1), ("standard.InvokeHTTP", {"HTTP Method": "POST"}, 1, 0),
    ("standard.InvokeHTTP", {"HTTP Method": "GET"}, 0, 0), ("standard.UpdateAttribute", {}, 0, 0), ("x.Novelty", {}, 0, 1),
    ("mqtt.ConsumeMQTT", {"Last Will Topic": "spBv1.0/g/DCMD/e"}, 1, 0), ("mqtt.ConsumeMQTT", {"Last Will Topic": "#{will}"}, 0, 1),
    ("mqtt.PublishMQTT", {"Topic": "view", "Last Will Topic": "spBv1.0/g/DCMD/e"}, 1, 0),
    ("mqtt.PublishMQTT", {"Topic": "view", "Last Will Topic": "up"}, 0, 0),
    ("standard.InvokeHTTP", {"HTTP Method": "${m}"}, 1, 0), ("standard.InvokeHTTP", {"HTTP Method": "#{m}"}, 1, 0), ("standard.InvokeHTTP", {}, 0, 0),
    ("standard.InvokeHTTP", {"HTTP Method": "delete"}, 1, 0), ("standard.InvokeHTTP", {"HTTP Method": "HEAD"}, 0, 0), ("standard.ExecuteProcess", {}, 1, 0),
    ("groovyx.ExecuteGroovyScript", {}, 1, 0), ("script.InvokeScriptedProcessor", {}, 1, 0), ("script.ScriptedTransformRecord", {}, 1, 0),
    ("standard.PutUDP", {}, 1, 0), ("standard.PutFTP", {}, 1, 0), ("standard.HandleHttpRequest", {}, 1, 0), ("jms.PublishJMS", {}, 1, 0),
    ("standard.PutFile", {"Directory": "/data/in"}, 0, 0), ("standard.PutFile", {"Directory": "/data/../dev"}, 1, 0), ("standard.PutFile", {}, 0, 1),
    ("standard.PutFile", {"Directory": "${where}"}, 0, 1), ("standard.PutFile", {"Directory": "#{where}"}, 0, 1),
    ("amqp.PublishAMQP", {}, 1, 0), ("mqtt.PublishMQTT", {"Topic": "#{t}"}, 0, 1), ("standard.PostHTTP", {}, 0, 1), ("standard.LogAttribute", {}, 0, 0),
    ("snmp.SetSNMP", {}, 1, 0), ("snmp.GetSNMP", {}, 0, 0), ("standard.PutFile", {"Directory": "/sys/class/gpio/gpio7"}, 1, 0),
    ("opcua.PutOpcUaValue", {}, 1, 0), ("x.ReadModbus", {}, 0, 1), ("x.WriteValueTask", {}, 0, 1),
])
def test_nifi(tmp_path: Path, kind: str, properties: dict[str, Any], writes: int, unknown: int) -> None:
    found = nifi(tmp_path / "flow.json.gz", {"type": "org.apache.nifi.processors." + kind, "properties": properties})
    assert (len(found.writes), len(found.unknown), found.seen) == (writes, unknown, 1), (found.writes, found.unknown)
    assert all("/NiFi Flow/line/p" in one for one in found.writes + found.unknown)


@pytest.mark.parametrize("kind", ["UpdatePlcTag", "ControlPump", "GetAndSetTag", "OpcWriterService", "InvokeHTTP", "PutFile"])
def test_a_name_is_no_promise_of_somebody_elses_part(tmp_path: Path, kind: str) -> None:
    found = nifi(tmp_path / "flow.json.gz", {"type": "com.vendor." + kind})
    assert not found.writes and len(found.unknown) == 1
    root = {"controllerServices": [{"name": "c", "type": package + "DBCPConnectionPool"} for package in ("org.apache.nifi.dbcp.", "com.vendor.")]}
    (tmp_path / "flow.json").write_text(json.dumps({"rootGroup": root}))
    assert len(foreign.nifi(tmp_path / "flow.json", [], matches).unknown) == 1


@pytest.mark.parametrize("make", [lambda path: path.symlink_to("/dev/ttyS0"), os.mkfifo])
def test_a_file_that_stands_for_a_device_is_one(tmp_path: Path, make: Any) -> None:
    path = tmp_path / "records"
    assert not telegraf.is_device(str(path))
    make(path)
    assert telegraf.is_device(str(path))
    path.unlink()
    path.touch()
    assert not telegraf.is_device(str(path))


@pytest.mark.parametrize("words", ["--mqc=x", "--mqc:x", "-mqc x", "/mqc=x", "mqc=x", "-b:x", "/b=x", "--b x", "MQTTCLIENTCONNECTIONSTRING=x"])
def test_every_spelling_of_an_option_of_opc_publisher(tmp_path: Path, words: str) -> None:
    (tmp_path / "pn.json").write_text("[]")
    assert "MQTT" in foreign.opc_publisher(tmp_path / "pn.json", words).writes[0]


def test_opc_publisher(tmp_path: Path) -> None:
    path = tmp_path / "pn.json"
    path.write_text(json.dumps([{"EndpointUrl": "opc.tcp://plc1:4840", "UseSecurity": True, "OpcNodes": [{"Id": "i=2258"}]}]))
    assert "not declared" in foreign.opc_publisher(path, "").unknown[0]
    quiet = foreign.opc_publisher(path, "--pf=/pn.json --doa")
    assert not quiet.writes and "built-in HTTP server" in quiet.unknown[0]
    assert "MQTT" in foreign.opc_publisher(path, "-b 'HostName=x;Port=1' --pf=/pn.json").writes[0]
    assert "MQTT" in foreign.opc_publisher(path, "MqttClientConnectionString='HostName=x'").writes[0]
    assert "Edge Hub" in foreign.opc_publisher(path, "--ec=x").writes[0]
    path.write_text(json.dumps([{"EndpointUrl": "opc.tcp://plc1:4840"}]))
    assert any("without security" in one for one in foreign.opc_publisher(path, "--pf=/pn.json").unknown)


def test_neuron(tmp_path: Path) -> None:
    path = tmp_path / "sqlite.db"
    base = sqlite3.connect(path)
    base.execute("PRAGMA journal_mode=WAL")
    base.execute("CREATE TABLE nodes (name TEXT, type INTEGER, state INTEGER, plugin_name TEXT)")
    base.executemany("INSERT INTO nodes VALUES (?, ?, 3, ?)", [
        ("plc", 1, "OPC UA"), ("up", 2, "MQTT"), ("m", 2, "Monitor"), ("n", 2, "Novelty"), ("s", 3, "Template")])
    base.commit()
    before = sorted(tmp_path.iterdir())
    found = foreign.neuron(path)
    assert found.seen == 5 and found.writes == ["application up (MQTT) takes write requests for plc"]
    assert [one.split(":")[0] for one in found.unknown] == [
        "application n (Novelty)", "application s (Template)", "its REST API writes to plc for who holds a token"]
    assert sorted(tmp_path.iterdir()) == before
    base.close()


@pytest.mark.parametrize("kind", ["node_red", "nifi", "opc_publisher", "neuron"])
def test_what_is_not_that_is_no_answer(stand: Stand, kind: str, tmp_path: Path) -> None:
    (tmp_path / "broken").write_text('{"x": 1}')
    for path in ("broken", "missing"):
        stand.options["elsewhere"] = [{"kind": kind, "path": str(tmp_path / path)}]
        statuses, reasons, _record = stand.audit()
        assert statuses[audit.FOREIGN[kind]] == "inconclusive" and path in reasons[audit.FOREIGN[kind]]


def test_what_nobody_looks_at_is_said(stand: Stand) -> None:
    stand.options["unseen"] = [{"kind": "nifi", "path": "/x", "host": "stream1"}]
    statuses, reasons, _record = stand.audit()
    assert statuses["CA9"] == "inconclusive" and "stream1 is in no group" in reasons["CA9"]


def test_build_information_of_a_cut_file(tmp_path: Path) -> None:
    go_program(tmp_path / "x", LINKED)
    whole = (tmp_path / "x").read_bytes()
    (tmp_path / "x").write_bytes(whole[:70])
    with pytest.raises((gobuild.NoBuild, IndexError)):
        gobuild.read(tmp_path / "x")


def test_the_model_says_where_it_may_go() -> None:
    data = {
        "zones": {"l2": {"level": 2, "cidrs": ["10.0.2.0/24"]}, "l3": {"level": 3, "cidrs": ["10.0.3.0/24"]}},
        "hosts": {"edge1": {"zone": "l3", "addresses": {"v4": "10.0.3.11"}, "second_addresses": {"filter": {"v4": "10.0.3.99"}}},
                  "edge2": {"zone": "l3", "addresses": {"v4": "10.0.3.12"}}},
        "groups": {"managed": ["edge1", "edge2"], "ot_collector": ["edge1"], "telegraf": ["edge1"], "telegraf_shipper": ["edge1"],
                   "mosquitto": ["edge1"], "other": ["edge2"]},
        "assets": {"plc1": {"zone": "l2", "addresses": {"v4": "10.0.2.11"}, "role": "ot_source"}},
        "conduits": [
            {"id": "C-1", "from": {"group": "ot_collector"}, "to": {"asset": "plc1"}, "kind": "direct", "data_direction": "up", "owner": "o",
             "service": {"proto": "tcp", "port": 4840, "app": "opcua", "ops": ["read"]}, "reason": "r", "expires": "2030-12-31", "sr": []},
            {"id": "C-2", "from": {"group": "ot_collector"}, "to": {"group": "other"}, "kind": "direct", "data_direction": "up", "owner": "o",
             "service": {"proto": "tcp", "port": 9}, "reason": "r", "expires": "2030-12-31", "sr": []},
            {"id": "C-3", "from": {"group": "ot_collector"}, "to": {"asset": "plc1"}, "kind": "direct", "data_direction": "up", "owner": "o", "uid": 902,
             "source_address": "filter", "service": {"proto": "tcp", "port": 502, "app": "modbus", "ops": ["read_coils"]}, "reason": "r",
             "expires": "2030-12-31", "sr": []},
        ],
        "contracts": {
            "mosquitto": {"listens": [{"name": "mqtt", "proto": "tcp", "port": 8883, "bind": "any"}]},
            "telegraf": {"connects": [{"to": "mosquitto", "listener": "mqtt", "group": "telegraf_shipper"}]},
        },
    }
    site = Site.from_dict(data)
    found = nft.collector_egress(site, "edge1")
    assert found["own"] == [8883], site.problems
    assert [(one["id"], one["target"], one["addresses"], one["port"], one["plant"]) for one in found["conduits"]] == [
        ("C-1", "plc1", ["10.0.2.11"], 4840, True), ("C-2", "edge2", ["10.0.3.12"], 9, False), ("C-3", "plc1", ["10.0.2.11"], 502, True)], site.problems
    assert [one["origins"] for one in found["conduits"]] == [["10.0.3.11"], ["10.0.3.11"], ["10.0.3.99"]]
    # What is written into the ruleset is understood as what was declared.
    wanted = egress.declared(found["conduits"])
    text = [line.split(" counter ")[0].split() for line in nft.ruleset(site, "edge1").splitlines() if '"C-3"' in line]
    assert text == [["ip", "saddr", "10.0.3.99", "ip", "daddr", "10.0.2.11", "meta", "skuid", "902", "tcp", "dport", "502", "ct", "state", "new"]]

    def match(left: dict[str, Any], right: Any) -> dict[str, Any]:
        return {"match": {"op": "==", "left": left, "right": right}}

    rule: list[dict[str, Any]] = [
        match({"payload": {"protocol": "ip", "field": "saddr"}}, "10.0.3.99"), match({"payload": {"protocol": "ip", "field": "daddr"}}, "10.0.2.11"),
        match({"meta": {"key": "skuid"}}, 902), match({"payload": {"protocol": "tcp", "field": "dport"}}, 502),
        match({"ct": {"key": "state"}}, "new"), {"accept": None}]
    for expression, said in ((rule, False), (rule[1:], True)):
        loaded = listing([], more=[{"rule": {"family": "inet", "table": "hnai", "chain": "output", "expr": expression}}])
        more, _less = egress.differences(loaded, wanted, [902], lambda name: None)
        assert bool(more) is said and all("10.0.2.11" in one and "502" in one for one in more), more
    assert nft.collector_egress(site, "edge2") == {"conduits": [], "own": []}
