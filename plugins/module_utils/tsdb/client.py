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
            if answer.status == 200 and answer.length is None and not answer.chunked:
                raise http.client.HTTPException("the answer does not say where it ends")
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
        found = self._read("/api/v1/query", dict(arguments, query=expression), "vector")
        return [Point(item["metric"], float(item["value"][0]), float(item["value"][1])) for item in found]

    def export(self, selector: str, start_s: float, end_s: float, raw: bool = False) -> list[Samples]:
        """/api/v1/export between two instants (unix seconds): what a reader gets, duplicates removed as for every query.

        *raw*: what lies there, duplicates that no merge has met yet included (reduce_mem_usage). Raises StoreError, also for
        an answer that was cut: vmauth (1.112) ends it as if it were whole, and of lines nobody misses the last; `promapi` is
        one document.
        """
        wanted = {"match[]": selector, "start": "%.3f" % start_s, "end": "%.3f" % end_s, "format": "promapi"}
        merged: dict[str, tuple[dict[str, str], list[tuple[int, float]]]] = {}
        for item in self._read("/api/v1/export", dict(wanted, reduce_mem_usage="1") if raw else wanted, "matrix"):
            key = json.dumps(item["metric"], sort_keys=True)
            entry = merged.setdefault(key, (item["metric"], []))
            entry[1].extend((round(time * 1000), float(value)) for time, value in item["values"])
        result = []
        for key in sorted(merged):
            labels, pairs = merged[key]
            pairs.sort(key=lambda pair: pair[0])
            result.append(Samples(labels, [time for time, _value in pairs], [value for _time, value in pairs]))
        return result

    def _read(self, path: str, arguments: Mapping[str, str], kind: str) -> list[dict[str, Any]]:
        """The series of the answer to a GET: a request with a body loses the end of one long answer in fifty at vmauth (1.112), which
        closes the store's connection when its own server has closed that body (http.ErrBodyReadAfterClose) before it was read out.
        """
        answer = decode(self.text(path + "?" + urllib.parse.urlencode(arguments)))
        data = answer.get("data") or {}
        found = data.get("result")
        if answer.get("status") != "success" or data.get("resultType") != kind or not isinstance(found, list):
            raise StoreError("the answer is no %s: %s" % (kind, str(answer)[:200]))
        if answer.get("isPartial"):
            raise StorePartial("the answer is partial (isPartial): a part of the store did not answer")
        return found

    def send(self, method: str, path: str, body: bytes = b"", content_type: str = "") -> tuple[int, bytes]:
        """Status and body of a request, whatever they are. Raises StoreError where there is no answer."""
        headers = dict(self._headers)
        if content_type:
            headers["Content-Type"] = content_type
        try:
            return self._transport(method, path, body, headers, self._timeout())
        except (OSError, http.client.HTTPException) as error:
            raise StoreError("%s: %s" % (type(error).__name__, error)) from error


def decode(body: bytes | str) -> dict[str, Any]:
    """A JSON object. Raises StoreError."""
    try:
        value = json.loads(body)
    except ValueError as error:
        raise StoreError("the answer is no JSON: %r" % body[:80]) from error
    if not isinstance(value, dict):
        raise StoreError("the answer is no JSON object: %r" % body[:80])
    return value


def parse_flags(page: str) -> dict[str, str]:
    """{flag: value} of the page /flags (only the flags that were set). Raises StoreError where it is another page, or was cut in a line."""
    found = re.findall(r'^-([^=\s]+)="(.*)"\n', page, re.MULTILINE)
    if not found or "".join('-%s="%s"\n' % one for one in found) != page:
        raise StoreError("this is no list of flags, or the end of it is missing: %r" % page[-80:])
    return dict(found)


def parse_metrics(page: str, name: str) -> float:
    """Sum over the series of metric *name* on a page of the Prometheus text format. Raises StoreError where the page has none, or may have been cut in
    them: they stand together, so that only what follows shows that they are all."""
    lines = [line.rpartition(" ") for line in page.split("\n")[:-1]]
    mine = [number for number, (head, _space, _value) in enumerate(lines) if head == name or head.startswith(name + "{")]
    if not mine or mine[-1] + 1 == len(lines):
        raise StoreError("the page of metrics has no %s, or ends in it: %r" % (name, page[-80:]))
    return sum(float(lines[number][2]) for number in mine)


_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0, "y": 31536000.0}


def duration_s(text: str) -> float:
    """Seconds of `31d`, `1ms`, `90m`, `1h30m0s`; a bare number is months of 31 days, as -retentionPeriod has it. Raises ValueError."""
    parts = re.findall(r"([0-9.]+)(ms|[smhdwy])", text)
    if parts and "".join(number + unit for number, unit in parts) == text:
        return sum(float(number) * _UNITS[unit] for number, unit in parts)
    return float(text) * 31 * 86400.0
