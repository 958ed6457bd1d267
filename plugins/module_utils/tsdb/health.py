# SPDX-License-Identifier: Apache-2.0
"""The checks of tsdb_health over clients that the caller makes. Standard library, Python 3.9."""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Callable, Mapping
from typing import Any

from ansible_collections.hnai.platform.plugins.module_utils.tsdb.client import Store, StoreError, StorePartial, duration_s, parse_flags, parse_metrics
from ansible_collections.hnai.platform.plugins.module_utils.verdict import Report

_THROWN_AWAY = ("vm_rows_ignored_total", "vm_rows_invalid_total")
_SECRET_FLAGS = ("password", "key", "token", "secret")
FLAGS = frozenset((
    "storageDataPath", "httpListenAddr", "httpAuth.username", "httpAuth.password", "retentionPeriod", "dedup.minScrapeInterval", "search.latencyOffset",
    "inmemoryDataFlushInterval", "influxSkipSingleField", "memory.allowedPercent", "storage.minFreeDiskSpaceBytes", "denyQueryTracing", "loggerTimezone",
))
"""What the role starts the store with. Others round values, leave series out, make new ones of them, or open a door without a login."""
WRITES = (
    "/write", "/api/v2/write", "/influx/write", "/influx/api/v2/write", "/api/v1/write", "/api/v1/push", "/prometheus/api/v1/write", "/api/v1/import",
    "/api/v1/import/csv", "/api/v1/import/native", "/api/v1/import/prometheus", "/prometheus/api/v1/import", "/datadog/api/v2/series",
    "/opentelemetry/v1/metrics", "/newrelic/infra/v2/metrics/events/bulk", "/api/v1/admin/tsdb/delete_series",
    "/prometheus/api/v1/admin/tsdb/delete_series", "/snapshot/delete?snapshot=none", "/internal/no-such-page",
)
"""Ways to write into the store, to take something out of it, or to decide how it works, asked so that nothing happens where one is open."""


def refused(answer: tuple[int, bytes]) -> bool:
    """Whether vmauth itself sent a request away. The store behind it says 400 too, to whom it was let in with half a request."""
    status, body = answer
    return status in (401, 403) or (status == 400 and b"missing route for" in body)


def run(
    report: Report,
    params: Mapping[str, Any],
    reader: Callable[[], Store],
    backend: Callable[[], Store],
    anonymous: Callable[[], Store],
    impostor: Callable[[], Store],
    local: Callable[[], Store],
    free_mib: Callable[[], float],
) -> None:
    """Make VM1 to VM9. The factories are called inside the checks, so that what they raise is a verdict too.

    *local*: who comes to the backend itself without a login.
    """
    with report.check(
        "VM1",
        "a query is answered over TLS",
        expected=1,
        hint="journalctl -u hnai-victoriametrics -u hnai-victoriametrics-auth",
        explain="curl --cacert ca.pem -u dashboard 'https://HOST:8428/api/v1/query?query=1'",
    ) as check:
        points = reader().query("1")
        check.observed = int(points[0].value) if points else None
        check.passed(check.observed == 1)

    flags: dict[str, str] = {}
    with report.check(
        "VM2",
        "the running retention is the declared one",
        expected=params["retention"],
        controls=["SR 6.1"],
        hint="converge the component; the store must restart to take it up",
        explain="curl -u vmauth http://127.0.0.1:8429/flags",
    ) as check:
        told = parse_flags(backend().text("/flags"))
        # Of lines nobody misses the last; the page of metrics names them, too.
        missing = sorted(set(re.findall(r'^flag\{name="([^"]+)", .*is_set="true"\} 1$', backend().text("/metrics"), re.MULTILINE)) - set(told))
        if missing:
            raise StoreError("the page /flags was cut: it has no %s" % ", ".join(missing))
        flags = told
        check.observed = flags.get("retentionPeriod", "1")
        check.passed(duration_s(check.observed) == duration_s(str(params["retention"])))

    with report.check(
        "VM3",
        "the flags of the data path are set",
        hint="hnai-victoriametrics.service was edited; converge the component",
        expected="dedup 1ms, one series per tag, latency offset <= %g s, path, address, floor and flush as declared, no other flag than the role's"
        % params["latency_offset_max"],
    ) as check:
        if not flags:
            raise RuntimeError("the flags are not known (VM2)")
        check.evidence = {"flags": {k: v for k, v in flags.items() if not any(word in k.lower() for word in _SECRET_FLAGS)}}
        offset = duration_s(flags.get("search.latencyOffset", "30s"))
        check.observed = "dedup %s, influxSkipSingleField %s, latency offset %g s" % (
            flags.get("dedup.minScrapeInterval", "off"),
            flags.get("influxSkipSingleField", "false"),
            offset,
        )
        others = sorted(set(flags) - FLAGS)
        wanted = {
            "storageDataPath": str(params["storage_path"]),
            "httpListenAddr": urllib.parse.urlsplit(str(params["backend_url"])).netloc,
            "storage.minFreeDiskSpaceBytes": "%dMiB" % params["min_free_mib"],
        }
        other_values = ["%s=%s instead of %s" % (key, flags.get(key, "(as delivered)"), value) for key, value in wanted.items() if flags.get(key) != value]
        flush = flags.get("inmemoryDataFlushInterval", "5s")
        if duration_s(flush) != duration_s(str(params["memory_flush"])):
            other_values.append("inmemoryDataFlushInterval=%s instead of %s" % (flush, params["memory_flush"]))
        check.passed(
            duration_s(flags.get("dedup.minScrapeInterval", "0s")) == 0.001
            and flags.get("influxSkipSingleField") == "true"
            and offset <= params["latency_offset_max"]
            and not others
            and not other_values,
            "; ".join(filter(None, ("set by somebody else: %s" % ", ".join(others) if others else "", ", ".join(other_values)))),
        )

    with report.check(
        "VM4",
        "there is room for data",
        unit="MiB free",
        expected=">= %d" % (2 * params["min_free_mib"]),
        controls=["SR 7.2"],
        hint="the store refuses data below %d MiB: enlarge the file system or shorten the retention" % params["min_free_mib"],
    ) as check:
        check.observed = round(free_mib())
        check.passed(check.observed >= 2 * params["min_free_mib"])

    with report.check(
        "VM5",
        "strangers and readers cannot do what they may not",
        controls=["SR 1.1", "SR 2.1"],
        expected="anonymous 401, wrong password 401, to the backend itself 401, everything but reading refused to the reader",
        explain="curl --cacert ca.pem https://HOST:8428/api/v1/query?query=1",
    ) as check:
        strangers = {
            "anonymous query": anonymous().status("GET", "/api/v1/query?query=1"),
            "anonymous write": anonymous().status("POST", "/write"),
            "anonymous metrics": anonymous().status("GET", "/metrics"),
            "wrong password": impostor().status("GET", "/api/v1/query?query=1"),
            "backend without a login": local().status("GET", "/api/v1/query?query=1"),
        }
        known = reader()
        answers = {"reader %s" % path.partition("?")[0]: known.send("POST", path) for path in WRITES}
        answers["reader /flags"] = known.send("GET", "/flags")
        statuses = dict(strangers, **{name: status for name, (status, _body) in answers.items()})
        check.evidence = {"statuses": statuses}
        check.observed = ", ".join("%s %d" % item for item in statuses.items())
        let_in = [name for name, status in strangers.items() if status not in (401, 403)] + [name for name in answers if not refused(answers[name])]
        check.passed(not let_in, "let in: %s" % ", ".join(let_in))

    with report.check(
        "VM6",
        "the store threw no row away",
        unit="rows since it started",
        expected=0,
        hint="a source clock outside the retention, or rows that are no line protocol (vm_rows_ignored_total)",
    ) as check:
        page = backend().text("/metrics")
        check.observed = int(sum(parse_metrics(page, name) for name in _THROWN_AWAY))
        check.passed(check.observed == 0)

    with report.check(
        "VM7",
        "the store takes writes",
        expected="not read-only",
        controls=["SR 7.1"],
        hint="below its floor of free space (VM4) the store refuses every write until there is room again",
        explain="curl -u vmauth http://127.0.0.1:8429/metrics | grep vm_storage_is_read_only",
    ) as check:
        read_only = parse_metrics(backend().text("/metrics"), "vm_storage_is_read_only") > 0
        check.observed = "read-only" if read_only else "not read-only"
        check.passed(not read_only)

    window = int(params["ingest_window"])
    with report.check(
        "VM8",
        "samples arrive",
        unit="samples of the last %d s" % window,
        expected="> 0",
        hint="TG1 to TG3 of instance writer, VM7; FR1 says which tags",
        explain="/api/v1/query?query=sum(count_over_time({__name__=~\".+:status\"}[%ds]))" % window,
    ) as check:
        points = reader().query('sum(count_over_time({__name__=~".+:status"}[%ds]))' % window)
        check.observed = int(points[0].value) if points else 0
        check.passed(check.observed > 0, "no source's time of the last %d s is there" % window)

    with report.check(
        "VM9",
        "answers are whole",
        expected="not partial",
        hint="a part of the store is away: what is missing looks as if it had never been",
        explain="/api/v1/query?query=1: isPartial",
    ) as check:
        try:
            # Of a store that holds nothing it is 0: nothing at all is no answer.
            if not reader().query('count({__name__=~".+:status"}) or vector(0)'):
                raise StoreError("the answer is empty")
            check.observed = "not partial"
            check.passed(True)
        except StorePartial as error:
            check.observed = "partial"
            check.fail(str(error))
