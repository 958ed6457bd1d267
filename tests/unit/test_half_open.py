# SPDX-License-Identifier: Apache-2.0
"""Servers that accept and never answer, on real sockets: every check that needs them is inconclusive inside the deadline."""
from __future__ import annotations

import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.hnai.platform.plugins.module_utils.hostfiles import Host as FileHost
from ansible_collections.hnai.platform.plugins.module_utils.mqtt.access import Broker
from ansible_collections.hnai.platform.plugins.module_utils.mqtt.health import Sources
from ansible_collections.hnai.platform.plugins.module_utils.mqtt.health import run as judge_broker
from ansible_collections.hnai.platform.plugins.module_utils.openbao import health as openbao
from ansible_collections.hnai.platform.plugins.module_utils.openbao.client import Client, served_certificate
from ansible_collections.hnai.platform.plugins.module_utils.verdict import Report

DEADLINE_S, CALL_S = 3.0, 0.5


@pytest.fixture(params=["silent", "dripping"])
def server(request: pytest.FixtureRequest) -> Iterator[int]:
    """A port that accepts; then it says nothing, or a byte each tenth of a second that never becomes an answer."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(0.2)
    over = threading.Event()
    held: list[socket.socket] = []

    def serve() -> None:
        while not over.is_set():
            try:
                held.append(listener.accept()[0])
            except TimeoutError:
                pass
            if request.param == "dripping":
                for one in held:
                    try:
                        # A TLS record that announces 16 kB and delivers them one by one.
                        one.sendall(b"\x16\x03\x03\x40\x00" if one not in started else b"x")
                        started.add(one)
                    except OSError:
                        continue

    started: set[socket.socket] = set()
    thread = threading.Thread(target=serve)
    thread.start()
    yield listener.getsockname()[1]
    over.set()
    thread.join(10)
    for one in held:
        one.close()
    listener.close()


@pytest.fixture(scope="session")
def ca_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("ca")
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", "key", "-out", "ca",
                    "-subj", "/CN=x"], cwd=path, check=True, capture_output=True, timeout=60)
    return str(path / "ca")


def ended(report: Report, begin: float, still_judged: set[str]) -> None:
    assert time.monotonic() - begin < DEADLINE_S + 1.5
    statuses = {(check.id, check.subject): check.status for check in report.checks}
    assert {ident for (ident, _subject), status in statuses.items() if status == "pass"} <= still_judged
    assert {status for (ident, _subject), status in statuses.items() if ident not in still_judged} == {"inconclusive"}
    assert report.result()["status"] in ("inconclusive", "fail")


def test_a_broker_that_never_answers(server: int, ca_file: str) -> None:
    report = Report("mosquitto", deadline_s=DEADLINE_S, call_s=CALL_S)
    params: dict[str, Any] = {
        "host": "127.0.0.1", "port": server, "ca_file": ca_file, "username": "hnai-health", "quiet": 0.1, "sources": ["plc1"], "live_max_age": 30.0,
        "clients": ["hnai-health", "line1"], "acl": [{"principal": "line1"}], "max_queued": 100, "max_fill": 50.0, "bridge_counters": "",
        "credential": {"component": "mosquitto", "name": "hnai-health"},
    }
    broker = Broker(params, lambda: report.timeout(5), FileHost())
    begin = time.monotonic()
    judge_broker(report, params, Sources(
        broker.login, lambda *_: "password", lambda: "hnai-health:x\nline1:x\n", str, list, list, list, str, time.time))
    assert {check.id for check in report.checks} == {"MQ1", "MQ2", "MQ3", "MQ4", "MQ5", "MQ7", "MQ8"}
    ended(report, begin, {"MQ4"})


def test_an_openbao_that_never_answers(server: int, ca_file: str) -> None:
    report = Report("openbao", deadline_s=DEADLINE_S, call_s=CALL_S)
    client = Client(f"https://127.0.0.1:{server}", ca_file, timeout_s=lambda: report.timeout(10))
    host = openbao.Host(served=lambda: served_certificate("127.0.0.1", server, ca_file, report.timeout(5)), serial_on_disk=lambda: "1")
    begin = time.monotonic()
    openbao.run(report, client, {"role_id": "r", "secret_id": "s"}, openbao.Wanted(), host)
    assert len(report.checks) >= 9
    ended(report, begin, set())


def test_an_openbao_that_stops_answering_in_the_middle(ca_file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unsealed by its first answer, then hanging: the visit is cut off with its check."""

    class Api:
        def call(self, method: str, path: str, *_: Any, **__: Any) -> dict[str, Any]:
            if path == "sys/seal-status":
                return {"initialized": True, "sealed": False, "version": "2.7.2"}
            time.sleep(60)
            raise AssertionError("nobody waited")

    report = Report("openbao", deadline_s=DEADLINE_S, call_s=CALL_S)
    begin = time.monotonic()
    openbao.run(report, Api(), {"role_id": "r", "secret_id": "s"}, openbao.Wanted(), openbao.Host(served=dict, serial_on_disk=str))  # type: ignore[arg-type]
    ended(report, begin, {"BAO01", "BAO02"})
    assert Path(ca_file).exists()
