# SPDX-License-Identifier: Apache-2.0
"""The two small programs beside the store: the observer of the canaries, and the maker of vmauth's configuration."""

from __future__ import annotations

import base64
import importlib.machinery
import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2] / "roles"


def load(path: str) -> ModuleType:
    loader = importlib.machinery.SourceFileLoader(path.rpartition("/")[2].replace("-", "_"), str(ROOT / path))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


@pytest.fixture
def observer(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setattr("sys.dont_write_bytecode", True)
    return load("canary/tree/usr/local/lib/hnai/canary/observe")


@pytest.fixture
def auth(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setattr("sys.dont_write_bytecode", True)
    return load("component/templates/vmauth-config")


def test_one_query_for_all_canaries(observer: ModuleType) -> None:
    canaries = [{"source": "plc1", "tag": "canary_sequence"}, {"source": "line1", "tag": "canary_sequence"}, {"source": "x", "tag": "beat"}]
    assert observer.expression(canaries) == 'timestamp(beat{source=~"x"}) or timestamp(canary_sequence{source=~"line1|plc1"})'


def test_an_observation_says_what_was_shown_or_why_not(observer: ModuleType) -> None:
    assert observer.observe(lambda: {"plc1": 9.5}, now=lambda: 10.0, monotonic=lambda: 1.0) == {"time": 10.0, "took": 0.0, "newest": {"plc1": 9.5}}

    def dead() -> Any:
        raise ConnectionRefusedError("no")

    assert observer.observe(dead, now=lambda: 10.0, monotonic=lambda: 1.0)["error"] == "ConnectionRefusedError: no"


def test_the_answer_of_the_store(observer: ModuleType) -> None:
    series = [{"metric": {"source": "plc1"}, "value": [10, "9.25"]}, {"metric": {"source": "plc1", "job": "another's"}, "value": [10, "10"]}]
    body = json.dumps({"status": "success", "data": {"result": series}})
    assert observer.newest(body) == {"plc1": 9.25}
    with pytest.raises(ValueError):
        observer.newest(json.dumps({"status": "error"}))


def test_the_ring_is_bounded(observer: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "ring"
    path.write_text("{}\n")
    ring = observer.Ring(str(path), 3)
    for number in range(7):
        ring.add({"n": number})
    kept = [json.loads(line) for name in ("ring.1", "ring") for line in (tmp_path / name).read_text().splitlines()]
    assert [item["n"] for item in kept] == [2, 3, 4, 5, 6]
    assert all(len((tmp_path / name).read_text().splitlines()) <= 3 for name in ("ring", "ring.1"))


ROUTES = {"backend": "http://127.0.0.1:1", "backend_user": "vmauth", "users": [{"username": "dashboard", "credential": "d", "paths": ["/api/v1/query"]}]}


def test_rights_by_path_and_the_backend_login(auth: ModuleType) -> None:
    built = auth.build(ROUTES, "b-pw", {"dashboard": ["d-pw"]})
    (user,) = built["users"]
    assert (user["username"], user["password"]) == ("dashboard", "d-pw")
    (route,) = user["url_map"]
    assert route["src_paths"] == ["/api/v1/query"]
    name, _colon, value = route["headers"][0].partition(": Basic ")
    assert name == "Authorization"
    assert base64.b64decode(value) == b"vmauth:b-pw"
    assert "url_prefix" not in user


def test_both_slots_of_a_rotation_have_the_same_rights(auth: ModuleType) -> None:
    first, second = auth.build(ROUTES, "b-pw", {"dashboard": ["old", "new"]})["users"]
    assert (first.pop("password"), second.pop("password")) == ("old", "new")
    assert first == second
    assert len(auth.build(ROUTES, "b-pw", {"dashboard": ["same", "same"]})["users"]) == 1, "vmauth refuses a file with the same pair twice"
    assert auth.build(ROUTES, "b-pw", {})["users"] == []


@pytest.mark.parametrize(
    ("there", "wanted"), [({"d"}, ["d"]), ({"d.b"}, ["d.b"]), ({"d", "d.b"}, ["d", "d.b"]), (set(), ["d"])], ids=["first", "second", "both", "none"]
)
def test_the_slots_that_are_filled(auth: ModuleType, there: set[str], wanted: list[str]) -> None:
    assert auth.slots("d", there.__contains__) == wanted


def test_one_credential_that_cannot_be_read_takes_away_one_access(auth: ModuleType) -> None:
    def read(name: str) -> str:
        if name == "d":
            raise OSError("of another host")
        return name + "-pw"

    users = [{"username": "dashboard", "credential": "d"}, {"username": "w", "credential": "w"}]
    passwords, complaints = auth.collect(users, {"d", "w"}.__contains__, read)
    assert passwords == {"w": ["w-pw"]}
    assert len(complaints) == 1 and "dashboard" in complaints[0] and "of another host" in complaints[0]


def test_the_file_is_for_its_group_and_nobody_can_log_in_is_an_error(auth: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "routes.json").write_text(json.dumps(ROUTES))
    values = {"backend": "b", "d.b": "new"}
    (tmp_path / "c.d.b").write_text("")

    def decrypt(path: str, name: str) -> str:
        assert path == str(tmp_path / "c.") + name
        if name not in values:
            raise OSError("systemd-creds failed")
        return values[name]

    monkeypatch.setattr(auth, "decrypt", decrypt)
    monkeypatch.setattr(auth.grp, "getgrnam", lambda _name: SimpleNamespace(gr_gid=7))
    owners: list[tuple[int, int]] = []
    monkeypatch.setattr(auth.os, "fchown", lambda _handle, uid, gid: owners.append((uid, gid)))
    out = tmp_path / "auth.yml"
    arguments = [str(tmp_path / "routes.json"), str(tmp_path / "c."), str(out), "hnai-x"]
    assert auth.main(arguments) == 0
    assert (out.stat().st_mode & 0o777, owners) == (0o640, [(0, 7)])
    assert json.loads(out.read_text())["users"][0]["password"] == "new"
    del values["d.b"]
    before = out.read_text()
    assert auth.main(arguments) == 1 and out.read_text() == before
    values.update({"d.b": "new"})
    del values["backend"]
    with pytest.raises(OSError):
        auth.main(arguments)
    assert out.read_text() == before


def test_a_refusal_stands_before_the_permission(auth: ModuleType) -> None:
    user = {"username": "reader", "credential": "reader", "paths": ["/exec"], "arguments": ["query=~select.*"], "never": ["query=~.*;.*"]}
    made = auth.build({"backend": "http://127.0.0.1:1", "backend_user": "platform", "users": [user]}, "b", {"reader": ["r"]})
    refused, allowed = made["users"][0]["url_map"]
    assert refused["url_prefix"] == "http://127.0.0.1:1/refused"
    assert refused["src_query_args"] == ["query=~.*;.*"]
    assert allowed["url_prefix"] == "http://127.0.0.1:1"
    assert allowed["src_query_args"] == ["query=~select.*"]
    assert refused["src_paths"] == allowed["src_paths"] == ["/exec"]


@pytest.mark.parametrize(
    ("query", "through"),
    [
        ("select 1", True), ("  SELECT\n* FROM ot", True), ("show tables", True), ("drop table ot", False), ("select 1; drop table ot", False),
        ("/* x */ drop table ot", False), ("-- select\ndrop table ot", False), ("selectx", False), ("", False), ("sel", False), ("select", False),
        ("insert into ot select * from ot", False), ("truncate table ot", False), ("show", False), ("\ufeffselect 1", False), ("shelect 1", False),
    ],
)  # fmt: skip
def test_a_reader_may_ask_one_select(query: str, through: bool) -> None:
    """The role's own expressions, whole-value as vmauth matches them; none of the forbidden ones may match what is let through."""
    rules = yaml.safe_load((ROOT / "questdb/vars/main.yml").read_text())

    def match(rule: str, value: str) -> bool:
        name, _sep, expression = rule.partition("=~")
        assert name == "query"
        return re.fullmatch(expression, value) is not None

    refused = any(match(rule, query) for rule in rules["__questdb_never"])
    allowed = any(match(rule, query) for rule in rules["__questdb_select"])
    assert (allowed and not refused) is through
    assert refused is not through, "beside a permitted query in the same request only a refusal stops it"
