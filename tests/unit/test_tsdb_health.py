# SPDX-License-Identifier: Apache-2.0
"""tsdb_health: each check fails for its own cause."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.hnai.platform.plugins.module_utils.tsdb.client import Point, StoreError
from ansible_collections.hnai.platform.plugins.module_utils.tsdb.health import run
from ansible_collections.hnai.platform.plugins.module_utils.verdict import Report

FLAGS = {
    "retentionPeriod": "31d",
    "dedup.minScrapeInterval": "1ms",
    "influxSkipSingleField": "true",
    "search.latencyOffset": "0s",
    "httpAuth.password": "hunter2",
}
PARAMS = {"retention": "31d", "min_free_mib": 512, "latency_offset_max": 1.0}


class Site:
    """A store, and what each identity gets from it."""

    def __init__(self) -> None:
        self.flags = dict(FLAGS)
        self.metrics = "vm_rows_ignored_total 0\nvm_rows_invalid_total 0\n"
        self.statuses = {"anonymous": 401, "impostor": 401, "reader": 400}
        self.free = 5000.0

    def client(self, who: str) -> Any:
        site = self

        class Client:
            def query(self, expression: str) -> list[Point]:
                return [Point({}, 0.0, 1.0)]

            def text(self, path: str) -> str:
                return "".join('-%s="%s"\n' % item for item in site.flags.items()) if path == "/flags" else site.metrics

            def status(self, method: str, path: str, body: bytes = b"") -> int:
                return site.statuses[who]

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


@pytest.mark.parametrize(("who", "status"), [("anonymous", 200), ("anonymous", 204), ("impostor", 200), ("reader", 204), ("reader", 200)])
def test_anyone_let_in_fails(who: str, status: int) -> None:
    site = Site()
    site.statuses[who] = status
    assert failed(site.judge()) == ["VM5"]


def test_disk_and_rows() -> None:
    site = Site()
    site.free = 1000.0
    site.metrics = 'vm_rows_ignored_total{reason="big_timestamp"} 3\n'
    assert failed(site.judge()) == ["VM4", "VM6"]


def test_a_store_that_does_not_answer_is_inconclusive() -> None:
    site = Site()

    def dead() -> Any:
        raise StoreError("refused")

    report = Report("victoriametrics")
    run(report, PARAMS, dead, dead, dead, dead, lambda: site.free)
    assert {check.id: check.status for check in report.checks} == {
        "VM1": "inconclusive",
        "VM2": "inconclusive",
        "VM3": "inconclusive",
        "VM4": "pass",
        "VM5": "inconclusive",
        "VM6": "inconclusive",
    }
