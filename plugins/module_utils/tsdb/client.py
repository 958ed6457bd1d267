# SPDX-License-Identifier: Apache-2.0
"""A client of VictoriaMetrics' HTTP API (1.112; single node, possibly behind vmauth). Standard library, Python 3.9.

Every call takes its timeout in seconds. TLS is verified against *ca_file*; there is no way to switch that off.
The password never appears in an exception.
"""

from __future__ import annotations

import base64
import http.client
import json
import re
import ssl
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


class StoreError(Exception):
    """The store could not be asked, or did not answer as its API says."""


class StoreRefused(StoreError):
    """An HTTP status that is no success. *status* is the number."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__("HTTP %d: %s" % (status, " ".join(text.split())[:200]))
        self.status = status


class StorePartial(StoreError):
    """A part of the store did not answer. HTTP says 200 all the same."""


@dataclass(frozen=True)
class Point:
    """One element of an instant vector: labels with __name__, evaluation time (s) and value."""

    labels: Mapping[str, str]
    time: float
    value: float

    @property
    def name(self) -> str:
        """The metric's name, '' where the expression dropped it."""
        return self.labels.get("__name__", "")

    @property
    def source(self) -> str:
        """The label `source`."""
        return self.labels.get("source", "")


@dataclass(frozen=True)
class Samples:
    """Stored samples of one series, as /api/v1/export gives them: times in ms since 1970, ascending."""

    labels: Mapping[str, str]
    times: Sequence[int]
    values: Sequence[float]


Transport = Callable[[str, str, bytes, Mapping[str, str], float], "tuple[int, bytes]"]
"""(method, path with query, body, headers, timeout s) -> (status, body). Raises OSError or http.client.HTTPException."""


class Http:
    """The real transport: one connection per call."""

    def __init__(self, base_url: str, ca_file: str | None = None) -> None:
        parts = urllib.parse.urlsplit(base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("%r is no http or https address" % base_url)
        self._host, self._port = parts.hostname, parts.port
        self._tls = ssl.create_default_context(cafile=ca_file) if parts.scheme == "https" else None
        self._prefix = parts.path.rstrip("/")

    def __call__(self, method: str, path: str, body: bytes, headers: Mapping[str, str], timeout_s: float) -> tuple[int, bytes]:
        """One request."""
        connection: http.client.HTTPConnection
        if self._tls is not None:
            connection = http.client.HTTPSConnection(self._host, self._port, timeout=timeout_s, context=self._tls)
        else:
            connection = http.client.HTTPConnection(self._host, self._port, timeout=timeout_s)
        try:
            connection.request(method, self._prefix + path, body=body, headers=dict(headers))
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()


class Kept:
    """One connection that stays open, with a login in each request on it: whether the server still serves it."""

    def __init__(self, base_url: str, ca_file: str | None, username: str, password: str, path: str, timeout_s: float) -> None:
        parts = urllib.parse.urlsplit(base_url)
        context = ssl.create_default_context(cafile=ca_file)
        self._connection = http.client.HTTPSConnection(parts.hostname or "", parts.port, timeout=timeout_s, context=context)
        self._headers = basic(username, password)
        self._path = path
        self._connection.connect()
        self._connection.auto_open = 0

    def ask(self) -> int:
        """Status of a GET on this connection. Raises OSError where it is closed, socket.timeout where nothing answers."""
        try:
            self._connection.request("GET", self._path, headers=self._headers)
            answer = self._connection.getresponse()
            answer.read()
        except http.client.HTTPException as error:
            raise ConnectionError("%s: %s" % (type(error).__name__, error)) from error
        return answer.status

    def close(self) -> None:
        """End it."""
        self._connection.close()


def basic(username: str, password: str) -> dict[str, str]:
    """The header of a login."""
    return {"Authorization": "Basic " + base64.b64encode(("%s:%s" % (username, password)).encode("utf-8")).decode("ascii")}


class Store:
    """The API calls that the checks need. *timeout* gives the seconds that the next call may take."""

    def __init__(
        self, transport: Transport, username: str = "", password: str = "", timeout: Callable[[], float] = lambda: 10.0
    ) -> None:
        self._transport = transport
        self._timeout = timeout
        self._headers = basic(username, password) if username else {}

    def status(self, method: str, path: str, body: bytes = b"") -> int:
        """The HTTP status of a request, whatever it is. Raises StoreError where there is no answer."""
        return self.send(method, path, body)[0]

    def text(self, path: str) -> str:
        """A page as text. Raises StoreError."""
        status, body = self.send("GET", path, b"")
        if status != 200:
            raise StoreRefused(status, body.decode("utf-8", "replace"))
        return body.decode("utf-8", "replace")

    def query(self, expression: str, **arguments: str) -> list[Point]:
        """/api/v1/query, an instant vector. Raises StoreError."""
        status, body = self._read("/api/v1/query", dict(arguments, query=expression))
        if status != 200:
            raise StoreRefused(status, body.decode("utf-8", "replace"))
        answer = decode(body)
        data = answer.get("data") or {}
        if answer.get("status") != "success" or data.get("resultType") != "vector":
            raise StoreError("the answer to a query is no vector: %s" % str(answer)[:200])
        if answer.get("isPartial"):
            raise StorePartial("the answer is partial (isPartial): a part of the store did not answer")
        return [Point(item["metric"], float(item["value"][0]), float(item["value"][1])) for item in data.get("result", [])]

    def export(self, selector: str, start_s: float, end_s: float, raw: bool = False) -> list[Samples]:
        """/api/v1/export between two instants (unix seconds): what a reader gets, duplicates removed as for every query.

        *raw*: what lies there, duplicates that no merge has met yet included (reduce_mem_usage). Raises StoreError, also for
        an answer that was cut: vmauth (1.112) ends it as if it were whole, and of lines nobody misses the last; `promapi` is
        one document.
        """
        wanted = {"match[]": selector, "start": "%.3f" % start_s, "end": "%.3f" % end_s, "format": "promapi"}
        status, body = self._read("/api/v1/export", dict(wanted, reduce_mem_usage="1") if raw else wanted)
        if status != 200:
            raise StoreRefused(status, body.decode("utf-8", "replace"))
        merged: dict[str, tuple[dict[str, str], list[tuple[int, float]]]] = {}
        for item in decode(body)["data"]["result"]:
            key = json.dumps(item["metric"], sort_keys=True)
            entry = merged.setdefault(key, (item["metric"], []))
            entry[1].extend((round(time * 1000), float(value)) for time, value in item["values"])
        result = []
        for key in sorted(merged):
            labels, pairs = merged[key]
            pairs.sort(key=lambda pair: pair[0])
            result.append(Samples(labels, [time for time, _value in pairs], [value for _time, value in pairs]))
        return result

    def _read(self, path: str, arguments: Mapping[str, str]) -> tuple[int, bytes]:
        """Status and body of a GET: a request with a body loses the end of one long answer in fifty at vmauth (1.112), which
        closes the store's connection when its own server has closed that body (http.ErrBodyReadAfterClose) before it was read out.
        """
        return self.send("GET", path + "?" + urllib.parse.urlencode(arguments))

    def send(self, method: str, path: str, body: bytes = b"", content_type: str = "") -> tuple[int, bytes]:
        """Status and body of a request, whatever they are. Raises StoreError where there is no answer."""
        headers = dict(self._headers)
        if content_type:
            headers["Content-Type"] = content_type
        try:
            return self._transport(method, path, body, headers, self._timeout())
        except (OSError, http.client.HTTPException) as error:
            raise StoreError("%s: %s" % (type(error).__name__, error)) from error


def decode(body: bytes) -> dict[str, Any]:
    """A JSON object. Raises StoreError."""
    try:
        value = json.loads(body)
    except ValueError as error:
        raise StoreError("the answer is no JSON: %r" % body[:80]) from error
    if not isinstance(value, dict):
        raise StoreError("the answer is no JSON object: %r" % body[:80])
    return value


def parse_flags(page: str) -> dict[str, str]:
    """{flag: value} of the page /flags (only the flags that were set)."""
    flags = {}
    for line in page.splitlines():
        name, sep, value = line.strip().partition("=")
        if sep and name.startswith("-"):
            flags[name[1:]] = value.strip('"')
    return flags


def parse_metrics(page: str, name: str) -> float:
    """Sum over the series of metric *name* on a page of the Prometheus text format; 0.0 where there is none."""
    total = 0.0
    for line in page.splitlines():
        head, _space, value = line.rpartition(" ")
        if head == name or head.startswith(name + "{"):
            total += float(value)
    return total


_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0, "y": 31536000.0}


def duration_s(text: str) -> float:
    """Seconds of `31d`, `1ms`, `90m`, `1h30m0s`; a bare number is months of 31 days, as -retentionPeriod has it. Raises ValueError."""
    parts = re.findall(r"([0-9.]+)(ms|[smhdwy])", text)
    if parts and "".join(number + unit for number, unit in parts) == text:
        return sum(float(number) * _UNITS[unit] for number, unit in parts)
    return float(text) * 31 * 86400.0
