# SPDX-License-Identifier: Apache-2.0
"""The real collector against the real simulator on loopback: every sample once, and nothing can be written."""
from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from asyncua import Client, ua
from asyncua.crypto import uacrypto
from asyncua.crypto.security_policies import SecurityPolicyBasic256Sha256
from put_programs import COLLECTOR_CORES, put_program, tree

ROOT = Path(__file__).resolve().parents[2]
START_S = 90


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def key_pair(path: Path, uri: str) -> None:
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-sha256", "-days", "2", "-nodes", "-keyout", "%s.key" % path, "-out",
         "%s.pem" % path, "-subj", "/CN=test", "-addext", "subjectAltName=URI:%s" % uri],
        check=True, capture_output=True)


@dataclass
class Plant:
    """A running simulator."""

    home: Path
    port: int

    def ask(self, **request: Any) -> dict[str, Any]:
        with socket.socket(socket.AF_UNIX) as talk:
            talk.settimeout(10)
            talk.connect(str(self.home / "control"))
            talk.sendall(json.dumps(request).encode() + b"\n")
            answer: dict[str, Any] = json.loads(talk.makefile().readline())
            return answer

    def configuration(self, name: str) -> Path:
        sources = yaml.safe_load((ROOT / "inventories/lab/group_vars/all/ot_sources.yml").read_text(encoding="utf-8"))["hnai_ot_sources"]
        keys = ("name", "node", "type", "kind", "sampling_ms", "queue")
        source = {
            "id": "plc1", "protocol": "opcua", "endpoint": "opc.tcp://127.0.0.1:%d/" % self.port, "username": "observer",
            "server_certificate": str(self.home / "server.pem"), "certificate": str(self.home / "client.pem"),
            "private_key": str(self.home / "client.key"), "application_uri": "urn:test:client", "publishing_ms": 250,
            "keepalive_count": 20, "lifetime_count": 120,
            "tags": [{key: tag[key] for key in keys} for tag in sources[0]["tags"][:20]],
        }
        path = self.home / ("%s.json" % name)
        path.write_text(json.dumps({"status_file": str(self.home / ("%s.status" % name)), "state_file": str(self.home / ("%s.state" % name)),
                                    "sources": [source]}), encoding="utf-8")
        return path


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plant]:
    home = tmp_path_factory.mktemp("plant")
    for directory in ("trust", "credentials", "journal"):
        (home / directory).mkdir()
    key_pair(home / "server", "urn:test:server")
    key_pair(home / "client", "urn:test:client")
    key_pair(home / "stranger", "urn:test:stranger")
    shutil.copy(home / "client.pem", home / "trust")
    for name, text in {"observer": "o-secret", "engineer": "e-secret", "opcua_plc1_password": "o-secret",
                       "server_key": (home / "server.key").read_text(encoding="utf-8")}.items():
        (home / "credentials" / name).write_text(text, encoding="utf-8")
    with running(home, {}) as plant:
        yield plant


@contextmanager
def running(home: Path, faults: dict[str, Any]) -> Iterator[Plant]:
    """A simulator with faults of its start, until the end of the block. One for each home."""
    plant = Plant(home, free_port())
    model = yaml.safe_load((ROOT / "inventories/lab/plant/plant.yml").read_text(encoding="utf-8"))
    (home / "faults.json").write_text(json.dumps({"opcua": faults}), encoding="utf-8")
    (home / "simulator.json").write_text(json.dumps({
        "plant": {**model, "tags": 20}, "journal": {"directory": str(home / "journal"), "limit_bytes": 1 << 20, "keep": 2},
        "faults": str(home / "faults.json"),
        "opcua": {"bind": "127.0.0.1", "port": plant.port, "endpoint": "opc.tcp://127.0.0.1:%d/" % plant.port,
                  "application_uri": "urn:test:server", "certificate": str(home / "server.pem"), "trust_list": str(home / "trust")},
    }), encoding="utf-8")
    with open(home / "simulator.log", "w", encoding="utf-8") as log:
        process = subprocess.Popen(
            [sys.executable, "-I", str(tree("ot_simulator")), "opcua", "--config", str(home / "simulator.json"), "--control", str(home / "control")],
            env={**os.environ, "CREDENTIALS_DIRECTORY": str(home / "credentials")}, stderr=log)
    try:
        deadline = time.monotonic() + START_S
        while not (home / "control").exists():
            assert process.poll() is None, (home / "simulator.log").read_text(encoding="utf-8")
            assert time.monotonic() < deadline, "the simulator did not start"
            time.sleep(0.2)
        yield plant
    finally:
        process.terminate()
        process.wait(30)


def collect(site: Plant, name: str, until: Any) -> tuple[list[dict[str, Any]], str, int]:
    """Run the collector until *until*(records so far) or a deadline; returns records, log and exit code."""
    program = site.home / "ot_collector"
    if not program.exists():
        put_program("ot_collector", COLLECTOR_CORES, site.home)
    command = [sys.executable, "-I", str(program), "--config", str(site.configuration(name))]
    environment = {**os.environ, "CREDENTIALS_DIRECTORY": str(site.home / "credentials")}
    with open(site.home / ("%s.out" % name), "wb") as out, open(site.home / ("%s.log" % name), "wb") as log:
        process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=log)
    try:
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline and not until(read(site, name)) and process.poll() is None:
            time.sleep(0.3)
        process.send_signal(signal.SIGTERM)
        code = process.wait(20)
    finally:
        process.kill()
    return read(site, name), (site.home / ("%s.log" % name)).read_text(encoding="utf-8"), code


def read(site: Plant, name: str) -> list[dict[str, Any]]:
    found = []
    for line in (site.home / ("%s.out" % name)).read_text(encoding="utf-8").splitlines():
        match = re.fullmatch(r'ot,key=\S+ record="(.*)" -?\d+', line)
        if match:
            found.append(json.loads(re.sub(r"\\(.)", r"\1", match.group(1))))
    return found


def test_every_sample_arrives_once_as_it_was_produced(site: Plant) -> None:
    records, log, code = collect(site, "whole", lambda seen: len(seen) > 250)
    assert code == 0, log
    samples = [r for r in records if not r.get("gap") and not r.get("repeat")]
    canary = [r["source_ts"] for r in samples if r["tag"] == "canary_sequence"]
    begin, end = canary[1], canary[-2]
    journal = [json.loads(line) for line in (site.home / "journal/opcua.jsonl").read_text(encoding="utf-8").splitlines()]
    made = {(j["tag"], j["t"]): (j["value"], j["status"]) for j in journal if begin < j["t"] < end}
    got = [((r["tag"], r["source_ts"]), (r["value"], r["status"])) for r in samples if begin < r["source_ts"] < end]
    assert len(made) > 100
    assert Counter(key for key, _ in got) == Counter(made.keys())
    assert dict(got) == made
    assert any(r["source_ts"] % 10 for r in samples)  # 100 ns travel
    assert [r["seq"] for r in records] == list(range(records[0]["seq"], records[0]["seq"] + len(records)))
    assert site.ask()["sessions"] == []  # SIGTERM closed it
    state = json.loads((site.home / "whole.state").read_text(encoding="utf-8"))
    assert len(state["sources"]["plc1"]["tags"]) == 20


def test_what_a_silent_server_kept_is_delivered_when_it_speaks(site: Plant) -> None:
    """The server accepts and does not answer for 4 s: below three keep-alives nothing is lost and no gap is made."""
    told = []

    def script(seen: list[dict[str, Any]]) -> bool:
        counts = [r["value"] for r in seen if r["tag"] == "canary_sequence" and not r.get("repeat")]
        if len(counts) >= 4 and not told:
            told.append(time.monotonic())
            site.ask(mute=True)
        if len(told) == 1 and time.monotonic() - told[0] > 4:
            told.append(len(counts))
            site.ask(mute=False)
        return len(told) == 2 and len(counts) > told[1] + 12

    records, log, _ = collect(site, "mute", script)
    site.ask(mute=False)
    assert len(told) == 2
    counts = [r["value"] for r in records if r["tag"] == "canary_sequence" and not r.get("repeat") and not r.get("gap")]
    assert counts == list(range(counts[0], counts[0] + len(counts))), log
    assert [r for r in records if r.get("gap") and r["gap"]["reason"] != "collector_stop"] == []


async def client(site: Plant, user: str, password: str, certificate: str = "client", uri: str = "urn:test:client") -> Any:
    made = Client("opc.tcp://127.0.0.1:%d/" % site.port, timeout=10)
    made.application_uri = uri
    await made.set_security(
        SecurityPolicyBasic256Sha256, str(site.home / ("%s.pem" % certificate)),
        uacrypto.CertProperties(site.home / ("%s.key" % certificate), "pem"), server_certificate=str(site.home / "server.pem"))
    made.set_user(user)
    made.set_password(password)
    return made


def test_the_mirrors_identity_cannot_write_and_the_engineer_only_the_canary(site: Plant) -> None:
    index = site.ask()["index"]
    node, canary = ua.NodeId("Pad1.Sep.PT", index), ua.NodeId("Commissioning.Canary", index)

    async def go() -> None:
        observer = await client(site, "observer", "o-secret")
        async with observer:
            for target in (node, canary):
                with pytest.raises(ua.uaerrors.BadUserAccessDenied):
                    await observer.get_node(target).write_value(1.0)
                level = await observer.get_node(target).read_attribute(ua.AttributeIds.UserAccessLevel)
                assert level.Value.Value == 1
            with pytest.raises(ua.uaerrors.BadUserAccessDenied):
                await observer.get_node(ua.ObjectIds.Server).call_method(ua.NodeId(11492), 1)
        engineer = await client(site, "engineer", "e-secret")
        async with engineer:
            await engineer.get_node(canary).write_value(42.0)
            assert await engineer.get_node(canary).read_value() == 42.0
            with pytest.raises(ua.uaerrors.BadUserAccessDenied):
                await engineer.get_node(node).write_value(1.0)

    asyncio.run(go())


def test_strangers_are_refused(site: Plant) -> None:
    async def go() -> None:
        for user, password, certificate, uri, error in (
            ("observer", "wrong", "client", "urn:test:client", ua.uaerrors.BadUserAccessDenied),
            ("observer", "o-secret", "stranger", "urn:test:stranger", ua.uaerrors.BadCertificateUntrusted),
            (None, None, "client", "urn:test:client", ua.uaerrors.BadIdentityTokenRejected),
        ):
            made = await client(site, user or "x", password or "x", certificate, uri)
            if user is None:
                made._username = None
            with pytest.raises(error):
                await made.connect()
        plain = Client("opc.tcp://127.0.0.1:%d/" % site.port, timeout=3)
        plain.set_user("observer")
        plain.set_password("o-secret")
        with pytest.raises((ua.UaError, OSError, TimeoutError)):
            await plain.connect()

    asyncio.run(go())


def test_a_node_that_is_gone_after_a_restart_is_named_and_all_others_flow(site: Plant, tmp_path: Path) -> None:
    """Other namespace numbers, decoys under the old ones, and one mapped node less."""
    home = Path(shutil.copytree(site.home, tmp_path / "changed", ignore=shutil.ignore_patterns("control")))
    gone = next(tag for tag in json.loads(site.configuration("gone").read_text(encoding="utf-8"))["sources"][0]["tags"] if tag["name"] == "separator_level")
    with running(home, {"extra_namespaces": 2, "absent_nodes": [gone["node"].rsplit(";s=", 1)[1]]}) as changed:
        records, log, code = collect(changed, "gone", lambda seen: len(seen) > 150)
        assert changed.ask()["sessions"] == []
    assert code == 0, log
    of_it = [(r["value"], r["status"]) for r in records if r["tag"] == gone["name"]]
    assert of_it, "nobody says that it is gone"
    assert set(of_it) == {(None, 0x80340000)}  # Bad_NodeIdUnknown
    status = json.loads((home / "gone.status").read_text(encoding="utf-8"))["sources"][0]
    assert status["failed"] == {gone["name"]: "0x80340000"}
    cyclic = {tag["name"] for tag in json.loads(changed.configuration("gone").read_text(encoding="utf-8"))["sources"][0]["tags"] if tag["kind"] == "cyclic"}
    assert cyclic - {r["tag"] for r in records if not r["status"] & 0x80000000} == {gone["name"]}
    assert -999.0 not in {r["value"] for r in records}
