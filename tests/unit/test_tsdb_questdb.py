# SPDX-License-Identifier: Apache-2.0
"""tsdb_health for QuestDB: each check fails for its own cause; and the program that keeps the table right."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import json
import os
import socket
import subprocess
import sys
import urllib.parse
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from ansible_collections.hnai.platform.plugins.module_utils.tsdb.client import Store
from ansible_collections.hnai.platform.plugins.module_utils.tsdb.freshness import run_questdb as run_freshness
from ansible_collections.hnai.platform.plugins.module_utils.tsdb.questdb import KEYS, TYPES, run
from ansible_collections.hnai.platform.plugins.module_utils.verdict import Report

ROLES = Path(__file__).resolve().parents[2] / "roles"
PARAMS = {"table": "ot", "retention": "31d", "min_free_mib": 1024, "wal_lag_max": 100, "ingest_window": 60.0}

DOORS = {"pg.enabled": "false", "line.tcp.enabled": "false", "line.udp.enabled": "false", "http.user": "platform",
         "http.net.bind.to": "127.0.0.1:9001", "http.min.net.bind.to": "127.0.0.1:9003"}


class Site:
    """A QuestDB behind its way in, as 9.3.4 answers."""

    def __init__(self) -> None:
        self.ttl: list[list[Any]] = [[31, "DAY"]]
        self.table: list[list[Any]] = [[True, True]]
        self.columns = [[name, name in KEYS, kind] for name, kind in TYPES.items()]
        self.wal: list[list[Any]] = [["ot", False, 7, 7, "", ""]]
        self.rows, self.free = 900, 5000.0
        self.strangers = {"": 401, "impostor": 401}
        self.open: set[str] = set()
        self.doors = DOORS

    def transport(self, who: str) -> Any:
        def ask(method: str, path: str, _body: bytes, _headers: Mapping[str, str], _timeout: float) -> tuple[int, bytes]:
            if who != "reader":
                return self.strangers[who], b"Unauthorized"
            if method == "POST":
                return (204, b"") if "write" in self.open else (400, b"missing route")
            queries = urllib.parse.parse_qs(path.partition("?")[2])["query"]
            if any("ALTER" in query for query in queries):
                return (400, b'{"query":"x","error":"table does not exist"}') if "statement" in self.open else (404, b"Not Found")
            return 200, json.dumps({"dataset": self.select(queries[0])}).encode()

        return ask

    def select(self, query: str) -> list[list[Any]]:
        if query == "SELECT 1":
            return [[1]]
        if query.endswith("FROM tables()"):
            other = ["sys.telemetry_wal", 0, "HOUR", False, False]
            return [other] + [["ot", *ttl, *table] for ttl, table in zip(self.ttl, self.table)]
        if "table_columns" in query:
            return self.columns
        if "SHOW PARAMETERS" in query:
            return [[name, value] for name, value in self.doors.items() if "'%s'" % name in query]
        if "wal_tables" in query:
            return self.wal
        assert "dateadd('s', -60, now()) AND ts <= now()" in query, "a clock that runs ahead must not hide that nothing comes"
        return [[self.rows]]

    def judge(self) -> dict[str, str]:
        report = Report("questdb")

        def client(who: str) -> Any:
            return lambda: Store(self.transport(who), who, "x")

        run(report, PARAMS, client("reader"), client(""), client("impostor"), lambda: self.free)
        self.checks = {check.id: check for check in report.checks}
        return {check.id: check.status for check in report.checks if check.status != "pass"}


def test_a_healthy_store_passes() -> None:
    site = Site()
    assert site.judge() == {}
    assert len(site.checks) == 7


@pytest.mark.parametrize(
    ("change", "bad"),
    [
        ({"ttl": [[30, "DAY"]]}, {"QD2": "fail"}),
        ({"ttl": [[0, "HOUR"]]}, {"QD2": "fail"}),
        ({"table": [[True, False]]}, {"QD3": "fail"}),
        ({"table": [[False, True]]}, {"QD3": "fail"}),
        ({"columns": [[name, name in ("ts", "tag"), kind] for name, kind in TYPES.items()]}, {"QD3": "fail"}),
        ({"columns": [[name, name in KEYS, {"value": "FLOAT"}.get(name, kind)] for name, kind in TYPES.items()]}, {"QD3": "fail"}),
        ({"columns": [[name, name in KEYS, kind] for name, kind in TYPES.items() if name != "text"]}, {"QD3": "fail"}),
        ({"wal": [["ot", True, 7, 9, "DISK FULL", "no space"]]}, {"QD4": "fail"}),
        ({"wal": [["ot", False, 7, 108, "", ""]]}, {"QD4": "fail"}),
        ({"free": 1000.0}, {"QD5": "fail"}),
        ({"strangers": {"": 200, "impostor": 401}}, {"QD6": "fail"}),
        ({"strangers": {"": 401, "impostor": 200}}, {"QD6": "fail"}),
        ({"open": {"write"}}, {"QD6": "fail"}),
        ({"open": {"statement"}}, {"QD6": "fail"}),
        ({"doors": {**DOORS, "pg.enabled": "true"}}, {"QD6": "fail"}),
        ({"doors": {**DOORS, "line.tcp.enabled": "true"}}, {"QD6": "fail"}),
        ({"doors": {**DOORS, "http.user": ""}}, {"QD6": "fail"}),
        ({"doors": {**DOORS, "http.net.bind.to": "0.0.0.0:9001"}}, {"QD6": "fail"}),
        ({"doors": {**DOORS, "http.min.net.bind.to": "0.0.0.0:9003"}}, {"QD6": "fail"}),
        ({"doors": {}}, {"QD6": "inconclusive"}),
        ({"rows": 0}, {"QD7": "fail"}),
        ({"ttl": [], "table": [], "columns": [], "wal": []}, {"QD2": "fail", "QD3": "inconclusive", "QD4": "inconclusive"}),
    ],
)
def test_each_cause_fails_its_own_check(change: dict[str, Any], bad: dict[str, str]) -> None:
    site = Site()
    for name, value in change.items():
        setattr(site, name, value)
    assert site.judge() == bad


def test_a_table_is_a_name() -> None:
    report = Report("questdb")
    with pytest.raises(ValueError, match="no name of a table"):
        run(report, dict(PARAMS, table="ot; DROP TABLE ot"), *[lambda: None] * 4)  # type: ignore[arg-type,list-item]


def test_a_suspended_table_says_why() -> None:
    site = Site()
    site.wal = [["ot", True, 7, 7, "DISK FULL", "could not mmap"]]
    site.judge()
    assert "ot: DISK FULL could not mmap" in site.checks["QD4"].reason


def test_no_answer_is_inconclusive() -> None:
    def dead() -> Any:
        raise ConnectionRefusedError("refused")

    report = Report("questdb")
    run(report, PARAMS, dead, dead, dead, lambda: 5000.0)
    assert {check.id: check.status for check in report.checks if check.id != "QD5"} == dict.fromkeys(
        ("QD1", "QD2", "QD3", "QD4", "QD6", "QD7"), "inconclusive"
    )


# -- the age of every tag -------------------------------------------------------------------------------------
NOW = 1_795_634_902.0
SOURCES = [{"id": "plc1", "tags": [{"name": "whp"}, {"name": "valve", "kind": "on_change"}]}, {"id": "sep1", "tags": [{"name": "level"}]}]


def ages_of(found: list[list[Any]], marks: list[list[Any]] | None = None) -> dict[str, tuple[str, str]]:
    """*found*: the newest rows but for the marks of gaps; *marks*: those that are newer."""

    def ask(_method: str, path: str, *_rest: Any) -> tuple[int, bytes]:
        query = urllib.parse.parse_qs(path.partition("?")[2])["query"][0]
        start, _, mark = query.removesuffix(" LATEST ON ts PARTITION BY source, tag").rpartition(" AND status != ")
        assert start.endswith("AND ts <= dateadd('d', 2, now())"), "what a clock that was ahead left hides that nothing comes"
        newer = {tuple(row[:2]) for row in marks or []}
        shown = found if mark == str(0x80310000) else [*(marks or []), *(row for row in found if tuple(row[:2]) not in newer)]
        return 200, json.dumps({"dataset": shown}).encode()

    report = Report("questdb")
    params = {"table": "ot", "sources": SOURCES, "cyclic_max_age": 60.0, "on_change_max_age": 150.0}
    run_freshness(report, params, lambda: Store(ask), lambda: NOW)
    return {check.subject: (check.status, check.reason) for check in report.checks}


def test_a_tag_read_on_change_is_as_old_as_its_observation() -> None:
    def row(source: str, tag: str, age: float, seen: float | None = None) -> list[Any]:
        return [source, tag, int((NOW - age) * 1e9), None if seen is None else int((NOW - seen) * 1e7)]

    fresh = [row("plc1", "whp", 1, 1), row("plc1", "valve", 80_000, 100), row("sep1", "level", 59)]
    assert ages_of(fresh) == {"plc1": ("pass", ""), "sep1": ("pass", "")}
    assert ages_of([fresh[0], row("plc1", "valve", 80_000, 151), fresh[2]])["plc1"] == ("fail", "stale: plc1/valve (151 s)")
    assert ages_of([row("plc1", "whp", 61, 1), *fresh[1:]])["plc1"] == ("fail", "stale: plc1/whp (61 s)")
    after_a_gap = ages_of(fresh, [row("plc1", "valve", 1000, 1000), row("plc1", "whp", 1000, 1000)])
    assert after_a_gap["plc1"] == ("pass", ""), "a value that a gap did not change lies behind the gap's mark"
    assert ages_of(fresh[:1], [row("plc1", "valve", 1000, 1000)])["plc1"] == ("fail", "stale: plc1/valve (1000 s)")
    assert ages_of(fresh[:2])["sep1"] == ("fail", "stale: sep1/level (nothing)")
    assert {status for status, _reason in ages_of([]).values()} == {"fail"}
    assert ages_of([row("plc1", "whp", -600, 1), *fresh[1:]])["plc1"] == ("fail", "stale: plc1/whp (600 s ahead of the clock)")


# -- the table ------------------------------------------------------------------------------------------------
@pytest.fixture
def schema(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setattr("sys.dont_write_bytecode", True)
    loader = importlib.machinery.SourceFileLoader("schema", str(ROLES / "questdb/tree/usr/local/lib/hnai/questdb/schema"))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


class Server:
    """One table, as tables() and table_columns() show it."""

    def __init__(self) -> None:
        self.table: list[Any] = [31, "DAY", True, True]
        self.columns = [
            ["ts", "TIMESTAMP_NS", True], ["source", "SYMBOL", True], ["tag", "SYMBOL", True], ["value", "DOUBLE", False],
            ["text", "VARCHAR", False], ["status", "LONG", False], ["observed_ts", "LONG", False], ["seq", "LONG", False],
        ]  # fmt: skip
        self.said: list[str] = []

    def __call__(self, statement: str) -> list[Any]:
        if statement.startswith("SELECT"):
            return [self.table] if "FROM tables()" in statement else self.columns
        self.said.append(statement)
        return []


def test_the_check_knows_the_columns_of_the_program(schema: ModuleType) -> None:
    assert (dict(schema.COLUMNS), schema.KEYS) == (TYPES, KEYS)


def test_a_server_that_has_ended_is_not_waited_for(
    schema: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        (tmp_path / "schema.json").write_text(json.dumps({"url": "http://127.0.0.1:%d" % closed.getsockname()[1], "username": "x"}))
        (tmp_path / "backend").write_text("secret")
        monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
        gone = subprocess.Popen([sys.executable, "-c", ""])
        gone.wait(20)
        monkeypatch.setenv("MAINPID", str(gone.pid))
        assert schema.main([str(tmp_path / "schema.json")]) == 1
        assert "the server has ended" in capsys.readouterr().err
        monkeypatch.setenv("MAINPID", str(os.getpid()))
        monkeypatch.setattr(schema, "WAIT_S", 1.0)
        assert schema.main([str(tmp_path / "schema.json")]) == 1
        assert "no answer in 1 s" in capsys.readouterr().err


def test_a_table_that_is_right_is_left_alone(schema: ModuleType) -> None:
    server = Server()
    assert schema.converge(server, "ot", "31d") == []
    assert len(server.said) == 1
    assert server.said[0].startswith("CREATE TABLE IF NOT EXISTS 'ot' (ts TIMESTAMP_NS, source SYMBOL, tag SYMBOL")
    assert server.said[0].endswith("TIMESTAMP(ts) PARTITION BY DAY TTL 31d WAL DEDUP UPSERT KEYS(ts, source, tag)")


def test_only_what_differs_is_changed(schema: ModuleType) -> None:
    server = Server()
    server.table[0] = 30
    assert schema.converge(server, "ot", "31d") == ["ALTER TABLE 'ot' SET TTL 31d"]
    server.table = [31, "DAY", False, True]
    assert schema.converge(server, "ot", "31d") == ["ALTER TABLE 'ot' DEDUP ENABLE UPSERT KEYS(ts, source, tag)"]
    server = Server()
    server.columns[1][2] = False
    assert schema.converge(server, "ot", "31d") == ["ALTER TABLE 'ot' DEDUP ENABLE UPSERT KEYS(ts, source, tag)"]
    server = Server()
    server.columns.pop()
    assert schema.converge(server, "ot", "31d") == ["ALTER TABLE 'ot' ADD COLUMN seq LONG"]


def test_what_no_statement_can_change_is_peoples_to_decide(schema: ModuleType) -> None:
    server = Server()
    server.columns[0][1] = "TIMESTAMP"
    with pytest.raises(ValueError, match="ts is TIMESTAMP"):
        schema.converge(server, "ot", "31d")
    server = Server()
    server.table[3] = False
    with pytest.raises(ValueError, match="no WAL"):
        schema.converge(server, "ot", "31d")
