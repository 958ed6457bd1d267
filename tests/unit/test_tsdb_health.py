# SPDX-License-Identifier: Apache-2.0
"""tsdb_health: each check fails for its own cause."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.hnai.platform.plugins.module_utils.tsdb.client import Http, Point, Store, StoreError, StorePartial
from ansible_collections.hnai.platform.plugins.module_utils.tsdb.health import FLAGS as KNOWN
from ansible_collections.hnai.platform.plugins.module_utils.tsdb.health import run
from ansible_collections.hnai.platform.plugins.module_utils.verdict import Report

FLAGS = {
    "retentionPeriod": "31d",
    "dedup.minScrapeInterval": "1ms",
    "influxSkipSingleField": "true",
    "search.latencyOffset": "0s",
    "httpAuth.password": "hunter2",
    "storageDataPath": "/d",
    "httpListenAddr": "127.0.0.1:8429",
    "storage.minFreeDiskSpaceBytes": "512MiB",
    "inmemoryDataFlushInterval": "2s",
}
PARAMS = {"retention": "31d", "min_free_mib": 512, "latency_offset_max": 1.0, "ingest_window": 60.0, "storage_path": "/d", "memory_flush": "2s",
          "backend_url": "http://127.0.0.1:8429"}
METRICS = "vm_rows_ignored_total 0\nvm_rows_invalid_total 0\nvm_storage_is_read_only{path=\"/d\"} 0\nvm_app_uptime_seconds 5\n"


class Site:
    """A store, and what each identity gets from it."""

    def __init__(self) -> None:
        self.flags = dict(FLAGS)
        self.metrics = METRICS
        self.samples: list[Point] = [Point({}, 0.0, 900.0)]
        self.count: list[Point] = [Point({}, 0.0, 12.0)]
        self.partial = False
        self.statuses = {"anonymous": 401, "impostor": 401, "local": 401, "reader": 400}
        self.words = b'missing route for "/x"'
        self.open: set[str] = set()
        self.free = 5000.0

    def client(self, who: str) -> Any:
        site = self

        class Client:
            def query(self, expression: str) -> list[Point]:
                if site.partial and expression != "1":
                    raise StorePartial("the answer is partial (isPartial)")
                known = {"1": [Point({}, 0.0, 1.0)], 'count({__name__=~".+:status"}) or vector(0)': site.count}
                return known.get(expression, site.samples)

            def text(self, path: str) -> str:
                return "".join('-%s="%s"\n' % item for item in site.flags.items()) if path == "/flags" else site.metrics

            def status(self, method: str, path: str, body: bytes = b"") -> int:
                return site.statuses[who]

            def send(self, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
                return (204, b"") if path in site.open else (site.statuses[who], site.words)

        return Client()

    def judge(self) -> Report:
        report = Report("victoriametrics")
        run(
            report,
            PARAMS,
            lambda: self.client("reader"),
            lambda: self.client("backend"),
            lambda: self.client("anonymous"),
            lambda: self.client("impostor"),
            lambda: self.client("local"),
            lambda: self.free,
        )
        return report


def failed(report: Report) -> list[str]:
    return [check.id for check in report.checks if check.status != "pass"]


def test_a_healthy_store_passes_and_shows_no_secret() -> None:
    report = Site().judge()
    assert failed(report) == []
    assert "hunter2" not in str(report.result())


@pytest.mark.parametrize(
    ("flag", "value", "bad"),
    [
        ("retentionPeriod", "30d", ["VM2"]),
        ("dedup.minScrapeInterval", "1s", ["VM3"]),
        ("dedup.minScrapeInterval", "0s", ["VM3"]),
        ("influxSkipSingleField", "false", ["VM3"]),
        ("search.latencyOffset", "30s", ["VM3"]),
        ("precisionBits", "16", ["VM3"]),
        ("opentsdbListenAddr", ":4242", ["VM3"]),
        ("storageDataPath", "/mnt", ["VM3"]),
        ("httpListenAddr", "127.0.0.1:8429,0.0.0.0:8429", ["VM3"]),
        ("storage.minFreeDiskSpaceBytes", "1KiB", ["VM3"]),
        ("inmemoryDataFlushInterval", "10m0s", ["VM3"]),
        ("inmemoryDataFlushInterval", "2s", []),
        ("inmemoryDataFlushInterval", "2000ms", []),
    ],
)
def test_wrong_flags(flag: str, value: str, bad: list[str]) -> None:
    site = Site()
    site.flags[flag] = value
    assert failed(site.judge()) == bad


def test_the_default_latency_offset_is_thirty_seconds() -> None:
    site = Site()
    del site.flags["search.latencyOffset"]
    assert failed(site.judge()) == ["VM3"]


@pytest.mark.parametrize(
    ("who", "status"), [("anonymous", 200), ("anonymous", 204), ("impostor", 200), ("local", 200), ("reader", 204), ("reader", 200)])
def test_anyone_let_in_fails(who: str, status: int) -> None:
    site = Site()
    site.statuses[who] = status
    assert failed(site.judge()) == ["VM5"]


@pytest.mark.parametrize("path", ["/api/v1/write", "/influx/write", "/api/v1/import/csv", "/snapshot/delete?snapshot=none"])
def test_each_way_to_write_is_tried(path: str) -> None:
    site = Site()
    site.open.add(path)
    report = site.judge()
    assert failed(report) == ["VM5"]
    assert [check.reason for check in report.checks if check.id == "VM5"] == ["let in: reader " + path.partition("?")[0]]


def test_a_refusal_by_the_store_itself_means_that_the_reader_got_to_it() -> None:
    """VictoriaMetrics 1.112 to a delete_series without a selector, through a route that is too wide."""
    site = Site()
    site.words = b"requestURI: /api/v1/admin/tsdb/delete_series; missing `match[]` arg"
    assert failed(site.judge()) == ["VM5"]


def test_the_units_flags_are_those_that_are_known() -> None:
    unit = (Path(__file__).parents[2] / "roles/victoriametrics/tree/etc/systemd/system/hnai-victoriametrics.service.j2").read_text(encoding="utf-8")
    assert set(re.findall(r"^  -([\w.]+)", unit, re.MULTILINE)) == KNOWN


def test_disk_and_rows() -> None:
    site = Site()
    site.free = 1000.0
    site.metrics = METRICS.replace("vm_rows_ignored_total 0", 'vm_rows_ignored_total{reason="big_timestamp"} 3')
    assert failed(site.judge()) == ["VM4", "VM6"]


def test_a_store_that_does_not_answer_is_inconclusive() -> None:
    site = Site()

    def dead() -> Any:
        raise StoreError("refused")

    report = Report("victoriametrics")
    run(report, PARAMS, dead, dead, dead, dead, dead, lambda: site.free)
    assert {check.id: check.status for check in report.checks} == {
        "VM1": "inconclusive",
        "VM2": "inconclusive",
        "VM3": "inconclusive",
        "VM4": "pass",
        "VM5": "inconclusive",
        "VM6": "inconclusive",
        "VM7": "inconclusive",
        "VM8": "inconclusive",
        "VM9": "inconclusive",
    }


def test_a_read_only_store_and_one_that_does_not_say() -> None:
    site = Site()
    site.metrics = METRICS.replace('{path="/d"} 0', '{path="/d"} 1')
    assert failed(site.judge()) == ["VM7"]
    for page, unsaid in (("vm_rows_ignored_total 0\nvm_rows_invalid_total 0\nx 1\n", "VM7"), (METRICS.replace("ignored", "x"), "VM6"),
                         (METRICS.replace("invalid", "x"), "VM6")):
        site.metrics = page
        assert [(check.id, check.status) for check in site.judge().checks if check.status != "pass"] == [(unsaid, "inconclusive")]


@pytest.mark.parametrize("samples", [[], [Point({}, 0.0, 0.0)]])
def test_an_empty_answer_means_that_nothing_arrives(samples: list[Point]) -> None:
    site = Site()
    site.samples = samples
    assert failed(site.judge()) == ["VM8"]


def test_flags_that_were_cut_between_two_lines_are_none() -> None:
    """Neither a door that somebody opened is overlooked, nor is the store accused of what the reader lost."""
    site = Site()
    for name in (*FLAGS, "tls"):
        site.metrics = METRICS + 'flag{name="%s", value="x", is_set="true"} 1\nflag{name="version", value="false", is_set="false"} 1\n' % name
        site.flags = {key: value for key, value in FLAGS.items() if key != name}
        assert [(check.id, check.status) for check in site.judge().checks if check.status != "pass"] == [("VM2", "inconclusive"), ("VM3", "inconclusive")]


def test_an_empty_answer_is_no_whole_one() -> None:
    site = Site()
    site.count = []
    assert [(check.id, check.status) for check in site.judge().checks if check.status != "pass"] == [("VM9", "inconclusive")]


def test_a_partial_answer_fails() -> None:
    site = Site()
    site.partial = True
    report = site.judge()
    assert {check.id: check.status for check in report.checks if check.status != "pass"} == {"VM8": "inconclusive", "VM9": "fail"}


def test_a_store_that_accepts_and_never_answers_is_inconclusive_within_the_deadline() -> None:
    """A real socket: the kernel accepts, nobody answers. Another one answers a byte a moment, which no timeout of one read ends."""
    drip = threading.Event()

    def dripping(listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while not drip.is_set():
                peer, _address = listener.accept()
                threading.Thread(target=drop, args=(peer,), daemon=True).start()

    def drop(peer: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while not drip.wait(0.1):
                peer.sendall(b"H" if drip.is_set() else b" ")

    with socket.create_server(("127.0.0.1", 0)) as silent, socket.create_server(("127.0.0.1", 0)) as slow:
        thread = threading.Thread(target=dripping, args=(slow,), daemon=True)
        thread.start()
        for listener in (silent, slow):
            report = Report("victoriametrics", deadline_s=2.0)
            url = "http://127.0.0.1:%d" % listener.getsockname()[1]

            def client(url: str = url, report: Report = report) -> Store:
                return Store(Http(url), "u", "p", lambda: report.timeout(10))

            begin = time.monotonic()
            run(report, PARAMS, client, client, client, client, client, lambda: 5000.0)
            assert time.monotonic() - begin < 4.0
            assert {check.status for check in report.checks if check.id != "VM4"} == {"inconclusive"}
        drip.set()
