# SPDX-License-Identifier: Apache-2.0
"""The client of the time-series store: what it asks, what it makes of the answers, what it never says."""

from __future__ import annotations

import base64
import json
import math
import socket
import threading
import urllib.parse
from collections.abc import Mapping
from typing import Any

import pytest

from ansible_collections.hnai.platform.plugins.module_utils.tsdb.client import (
    Http,
    Store,
    StoreError,
    StoreRefused,
    duration_s,
    parse_flags,
    parse_metrics,
)


class Wire:
    """A transport that answers as told and remembers what it was asked."""

    def __init__(self, status: int = 200, body: Any = b"", error: Exception | None = None) -> None:
        self.answer = (status, body if isinstance(body, bytes) else json.dumps(body).encode())
        self.error = error
        self.asked: list[tuple[str, str, dict[str, list[str]], Mapping[str, str], float]] = []
        self.bodies: list[bytes] = []

    def __call__(self, method: str, path: str, body: bytes, headers: Mapping[str, str], timeout_s: float) -> tuple[int, bytes]:
        parts = urllib.parse.urlsplit(path)
        self.bodies.append(body)
        self.asked.append((method, parts.path, urllib.parse.parse_qs(parts.query), headers, timeout_s))
        if self.error is not None:
            raise self.error
        return self.answer


def vector(*items: Any) -> dict[str, Any]:
    result = [{"metric": labels, "value": [1, value]} for labels, value in items]
    return {"status": "success", "data": {"resultType": "vector", "result": result}}


def test_query_sends_the_login_the_expression_and_the_timeout() -> None:
    wire = Wire(body=vector(({"__name__": "whp", "source": "plc1"}, "12.5")))
    points = Store(wire, "dashboard", "s3cret", lambda: 2.5).query("whp", nocache="1")
    method, path, form, headers, timeout_s = wire.asked[0]
    assert (method, path, timeout_s) == ("GET", "/api/v1/query", 2.5)
    assert form == {"query": ["whp"], "nocache": ["1"]}
    assert base64.b64decode(headers["Authorization"].split()[1]) == b"dashboard:s3cret"
    assert [(point.name, point.source, point.value) for point in points] == [("whp", "plc1", 12.5)]


def test_without_a_name_there_is_no_login() -> None:
    wire = Wire(status=401)
    assert Store(wire).status("GET", "/api/v1/query?query=1") == 401
    assert "Authorization" not in wire.asked[0][3]


@pytest.mark.parametrize("body", [b"no json", b"[]", {"status": "error", "data": {}}, {"status": "success", "data": {"resultType": "matrix"}}])
def test_an_answer_that_is_no_vector_is_an_error(body: Any) -> None:
    with pytest.raises(StoreError):
        Store(Wire(body=body)).query("x")


def test_a_partial_answer_is_no_answer() -> None:
    with pytest.raises(StoreError, match="partial"):
        Store(Wire(body=dict(vector(), isPartial=True))).query("x")


def test_a_refusal_says_its_number_and_a_dead_store_no_password() -> None:
    with pytest.raises(StoreRefused) as refused:
        Store(Wire(status=401, body=b"Unauthorized"), "u", "s3cret").query("x")
    assert refused.value.status == 401
    with pytest.raises(StoreError) as dead:
        Store(Wire(error=ConnectionRefusedError(111, "refused")), "u", "s3cret").query("x")
    assert "refused" in str(dead.value)
    assert "s3cret" not in str(dead.value)


def test_export_joins_the_blocks_of_a_series_and_sorts_them() -> None:
    blocks = [
        {"metric": {"__name__": "c"}, "values": [[3, "3"], [4, "NaN"]]},
        {"metric": {"__name__": "c"}, "values": [[1, "1"], [1795845625.597, "2.5"], [2, "-Inf"]]},
    ]
    wire = Wire(body={"status": "success", "data": {"resultType": "matrix", "result": blocks}})
    (series,) = Store(wire).export("c", 0.5, 9)
    assert list(series.times) == [1000, 2000, 3000, 4000, 1795845625597]
    assert [series.values[at] for at in (0, 1, 2, 4)] == [1, -math.inf, 3, 2.5]
    assert math.isnan(series.values[3])
    assert wire.asked[0][0] == "GET" and wire.bodies == [b""], "vmauth cuts answers to a request with a body"
    assert wire.asked[0][2]["start"] == ["0.500"]
    assert "reduce_mem_usage" not in wire.asked[0][2], "the store removes no duplicates with it"
    Store(wire).export("c", 0.5, 9, raw=True)
    assert wire.asked[1][2]["reduce_mem_usage"] == ["1"]


@pytest.mark.parametrize("cut", range(1, 100))
def test_an_export_that_was_cut_anywhere_is_none(cut: int) -> None:
    whole = b'{"status":"success","data":{"resultType":"matrix","result":[{"metric":{"__name__":"c"},"values":[[1,"1"],[2,"2"]]}]}}'
    assert Store(Wire(body=whole)).export("c", 0, 9)
    with pytest.raises(StoreError, match="no JSON"):
        Store(Wire(body=whole[:cut])).export("c", 0, 9)


def test_only_http_addresses() -> None:
    with pytest.raises(ValueError, match="no http"):
        Http("ftp://x")


def test_flags_and_metrics() -> None:
    flags = parse_flags('-retentionPeriod="31d"\n-influxSkipSingleField="true"\n')
    assert flags == {"retentionPeriod": "31d", "influxSkipSingleField": "true"}
    page = 'vm_rows_ignored_total{reason="a"} 2\nvm_rows_ignored_total{reason="b"} 3\nvm_rows_ignored_total_x 9\n'
    assert parse_metrics(page, "vm_rows_ignored_total") == 5
    with pytest.raises(StoreError, match="no absent"):
        parse_metrics(page, "absent")


PAGE = (
    'vm_rows_invalid_total{type="influx"} 0\nvm_rows_ignored_total{reason="big_timestamp"} 12\nvm_rows_ignored_total{reason="small_timestamp"} 30\n'
    'vm_storage_is_read_only{path="/d"} 1\nflag{name="dedup.minScrapeInterval", value="1ms", is_set="true"} 1\n'
)


@pytest.mark.parametrize("cut", range(len(PAGE)))
def test_a_page_of_metrics_that_was_cut_anywhere_says_the_same_or_nothing(cut: int) -> None:
    for name, value in (("vm_rows_ignored_total", 42), ("vm_storage_is_read_only", 1), ("vm_rows_invalid_total", 0)):
        if cut > PAGE.index("\n", PAGE.index("\n", PAGE.rindex(name)) + 1):
            assert parse_metrics(PAGE[:cut], name) == value
        else:
            with pytest.raises(StoreError, match="the page of metrics"):
                parse_metrics(PAGE[:cut], name)


@pytest.mark.parametrize("page", ["", "<html>\n<title>502 Bad Gateway</title>\n</html>\n", '{"status":"success"}\n', "vm_rows_ignored_total\nx 1\n"])
def test_another_page_has_no_metrics_and_no_flags(page: str) -> None:
    with pytest.raises(StoreError, match="no vm_rows_ignored_total"):
        parse_metrics(page, "vm_rows_ignored_total")
    with pytest.raises(StoreError, match="no list of flags"):
        parse_flags(page)


def test_flags_that_were_cut_in_a_line_are_none() -> None:
    whole = '-httpAuth.password="secret"\n-search.latencyOffset="0s"\n-x="a \\"b\\" c"\n'
    assert parse_flags(whole)["search.latencyOffset"] == "0s"
    for cut in range(len(whole)):
        if not whole[:cut].endswith('"\n'):
            with pytest.raises(StoreError, match="no list of flags"):
                parse_flags(whole[:cut])


@pytest.mark.parametrize("head", ["Connection: close\r\n", "Content-Length: 9\r\n", "Transfer-Encoding: chunked\r\n"])
def test_an_answer_whose_end_nobody_would_miss_is_none(head: str) -> None:
    body = "6\r\na 1\nb \r\n" if "chunked" in head else "a 1\nb 2"
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            with listening.accept()[0] as one:
                one.recv(4096)
                one.sendall(("HTTP/1.1 200 OK\r\n%s\r\n%s" % (head, body)).encode())

        served = threading.Thread(target=answer)
        served.start()
        with pytest.raises(StoreError):
            Store(Http("http://127.0.0.1:%d" % listening.getsockname()[1])).text("/metrics")
        served.join(5)


@pytest.mark.parametrize(("text", "seconds"), [("1ms", 0.001), ("0s", 0), ("90m", 5400), ("31d", 2678400), ("1", 2678400), ("2y", 63072000)])
def test_durations(text: str, seconds: float) -> None:
    assert duration_s(text) == seconds


def test_a_duration_that_is_none() -> None:
    with pytest.raises(ValueError):
        duration_s("soon")
