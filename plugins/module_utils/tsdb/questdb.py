# SPDX-License-Identifier: Apache-2.0
"""The checks of tsdb_health for QuestDB (9.3, behind vmauth), over clients that the caller makes. Standard library, Python 3.9."""

from __future__ import annotations

import re
import string
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible_collections.hnai.platform.plugins.module_utils.tsdb.client import Store, StoreError, StoreRefused, decode, duration_s
from ansible_collections.hnai.platform.plugins.module_utils.verdict import Report

KEYS = ("ts", "source", "tag")
_TTL_S = {"HOUR": 3600.0, "DAY": 86400.0, "WEEK": 604800.0, "MONTH": 31 * 86400.0, "YEAR": 365 * 86400.0}


TABLES = "SELECT table_name, ttlValue, ttlUnit, walEnabled, dedup FROM tables()"
TYPES = {
    "ts": "TIMESTAMP_NS", "source": "SYMBOL", "tag": "SYMBOL", "value": "DOUBLE", "text": "VARCHAR", "status": "LONG", "observed_ts": "LONG", "seq": "LONG",
}
"""As the role's program `schema` makes the table. Of another type a column loses digits, and the next start of the store ends at it."""
COLUMNS = string.Template("SELECT \"column\", upsertKey, type FROM table_columns('$table')")
DOORS = ("pg.enabled", "line.tcp.enabled", "line.udp.enabled")
"""Ways in past vmauth, without TLS: PostgreSQL's protocol has a password that everybody knows, line protocol none."""
BOUND = ("http.net.bind.to", "http.min.net.bind.to")
"""Where the server itself listens: without TLS, so on the loopback only."""
SETTINGS = (
    "SELECT property_path, value FROM (SHOW PARAMETERS) WHERE property_path IN ('pg.enabled', 'line.tcp.enabled', 'line.udp.enabled',"
    " 'http.net.bind.to', 'http.min.net.bind.to', 'http.user')"
)
ARRIVED = string.Template("SELECT count() FROM $table WHERE ts > dateadd('s', -$seconds, now()) AND ts <= now()")


def about(template: string.Template, table: str, **numbers: int) -> str:
    """A statement about a table. Raises ValueError where its name is more than a name."""
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", table):
        raise ValueError("%r is no name of a table" % table)
    return template.substitute(numbers, table=table)


def path(statement: str) -> str:
    """Where a statement is asked."""
    return "/exec?" + urllib.parse.urlencode({"query": statement})


def rows(store: Store, statement: str) -> list[list[Any]]:
    """The rows of a SELECT. Raises StoreRefused with the server's words, StoreError where the answer is none."""
    status, body = store.send("GET", path(statement))
    if status != 200:
        raise StoreRefused(status, body.decode("utf-8", "replace"))
    answer = decode(body)
    found = answer.get("dataset")
    if not isinstance(found, list):
        raise StoreError("the answer has no rows: %s" % str(answer)[:200])
    return found


def _one(found: Sequence[Sequence[Any]], what: str) -> Sequence[Any]:
    """The only row: an empty answer is no answer."""
    if len(found) != 1:
        raise StoreError("%s: %d rows, one was expected" % (what, len(found)))
    return found[0]


def run(
    report: Report,
    params: Mapping[str, Any],
    reader: Callable[[], Store],
    anonymous: Callable[[], Store],
    impostor: Callable[[], Store],
    free_mib: Callable[[], float],
) -> None:
    """Make QD1 to QD7. The factories are called inside the checks, so that what they raise is a verdict too."""
    table = str(params["table"])
    with report.check(
        "QD1",
        "a query is answered over TLS",
        expected=1,
        hint="journalctl -u hnai-questdb -u hnai-questdb-auth",
        explain="curl --cacert ca.pem -u reader -G https://HOST:9000/exec --data-urlencode 'query=SELECT 1'",
    ) as check:
        check.observed = _one(rows(reader(), "SELECT 1"), "SELECT 1")[0]
        check.passed(check.observed == 1)

    with report.check(
        "QD2",
        "the running retention is the declared one",
        expected=params["retention"],
        controls=["SR 6.1"],
        hint="somebody changed the table; systemctl restart hnai-questdb brings it back",
        explain=TABLES,
    ) as check:
        found = [row for row in rows(reader(), TABLES) if row[0] == table]
        if not found:
            check.fail("there is no table %s" % table)
        else:
            value, unit = _one(found, "tables()")[1:3]
            check.observed = "%d %s" % (value, unit)
            check.passed(value * _TTL_S[unit] == duration_s(str(params["retention"])))

    with report.check(
        "QD3",
        "a record that comes twice is one row",
        expected="WAL, deduplicated by %s, each column of its type" % ", ".join(KEYS),
        hint="somebody changed the table; systemctl restart hnai-questdb brings it back, but no column's type: ALTER TABLE … ALTER COLUMN … TYPE …",
        explain=about(COLUMNS, table),
    ) as check:
        wal, dedup = _one([row for row in rows(reader(), TABLES) if row[0] == table], "tables()")[3:5]
        columns = rows(reader(), about(COLUMNS, table))
        keys = [row[0] for row in columns if row[1]]
        types = {row[0]: row[2] for row in columns}
        other = ["%s is %s instead of %s" % (name, types.get(name, "not there"), kind) for name, kind in TYPES.items() if types.get(name) != kind]
        check.observed = "%s, %s" % ("WAL" if wal else "no WAL", "deduplicated by %s" % ", ".join(keys) if dedup else "duplicates stay")
        check.passed(wal and dedup and sorted(keys) == sorted(KEYS) and not other, ", ".join(other))

    with report.check(
        "QD4",
        "no table is suspended or falls behind its log",
        expected="none suspended, <= %d transactions behind" % params["wal_lag_max"],
        controls=["SR 7.1"],
        hint="a suspended table still takes writes and shows none: mend the cause (errorMessage), then ALTER TABLE ... RESUME WAL",
        explain="SELECT * FROM wal_tables()",
    ) as check:
        found = rows(reader(), "SELECT name, suspended, writerTxn, sequencerTxn, errorTag, errorMessage FROM wal_tables()")
        if not found:
            raise StoreError("wal_tables() is empty: not even %s is there" % table)
        suspended = [row for row in found if row[1]]
        behind = max(row[3] - row[2] for row in found)
        check.evidence = {"tables": [dict(zip(("name", "suspended", "writer", "sequencer", "error", "message"), row)) for row in found]}
        check.observed = "%d suspended, %d transactions behind" % (len(suspended), behind)
        words = "; ".join("%s: %s %s" % (row[0], row[4] or "no error named", row[5] or "") for row in suspended)
        check.passed(not suspended and behind <= params["wal_lag_max"], words)

    with report.check(
        "QD5",
        "there is room for data",
        unit="MiB free",
        expected=">= %d" % params["min_free_mib"],
        controls=["SR 7.2"],
        hint="enlarge the file system or shorten the retention; a full disk suspends tables",
    ) as check:
        check.observed = round(free_mib())
        check.passed(check.observed >= params["min_free_mib"])

    with report.check(
        "QD6",
        "strangers and readers cannot do what they may not",
        controls=["SR 1.1", "SR 2.1"],
        expected="anonymous 401, wrong password 401, everything but one SELECT refused to the reader, no other way in",
        explain="curl --cacert ca.pem https://HOST:9000/exec?query=SELECT+1; " + SETTINGS,
    ) as check:
        two = path("SELECT 1") + "&" + path("ALTER TABLE no_such_table SET TTL 1d").partition("?")[2]
        strangers = {
            "anonymous query": anonymous().status("GET", path("SELECT 1")),
            "anonymous write": anonymous().status("POST", "/write"),
            "anonymous metrics": anonymous().status("GET", "/metrics"),
            "wrong password": impostor().status("GET", path("SELECT 1")),
        }
        # None of these could change anything, had it been let in; where the server itself answers, the way in is open.
        reads = {
            "reader write": reader().send("POST", "/write"),
            "reader statement": reader().send("GET", path("ALTER TABLE no_such_table SET TTL 1d")),
            "reader second statement": reader().send("GET", path("SELECT 1; ALTER TABLE no_such_table SET TTL 1d")),
            "reader second query": reader().send("GET", two),
        }
        settings = dict(rows(reader(), SETTINGS))
        statuses = dict(strangers, **{name: status for name, (status, _body) in reads.items()})
        check.evidence = {"statuses": statuses, "settings": settings}
        check.observed = ", ".join("%s %d" % item for item in statuses.items())
        let_in = [name for name, status in strangers.items() if status not in (401, 403)]
        let_in += [name for name, (status, body) in reads.items() if not 400 <= status < 500 or b'"error"' in body]
        let_in += ["%s=%s" % (name, settings[name]) for name in DOORS if settings[name] != "false"]
        let_in += ["%s=%s" % (name, settings[name]) for name in BOUND if not settings[name].startswith("127.")]
        let_in += [] if settings["http.user"] else ["whoever comes to the backend"]
        check.passed(not let_in, "let in: %s" % ", ".join(let_in))

    with report.check(
        "QD7",
        "rows arrive",
        unit="rows of the last %g s" % params["ingest_window"],
        expected="> 0",
        hint="TG1 to TG3 of instance questdb; a suspended table (QD4) shows none either",
        explain=about(ARRIVED, table, seconds=int(params["ingest_window"])),
    ) as check:
        statement = about(ARRIVED, table, seconds=int(params["ingest_window"]))
        check.observed = _one(rows(reader(), statement), "count()")[0]
        check.passed(check.observed > 0, "no source's time of the last %g s is there" % params["ingest_window"])
