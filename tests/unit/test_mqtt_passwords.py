# SPDX-License-Identifier: Apache-2.0
"""The broker's password file: hashes as mosquitto makes them, and nothing changes when nothing changed."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
from pathlib import Path
from types import ModuleType

import pytest

PROGRAM = Path(__file__).resolve().parents[2] / "roles/mosquitto/tree/usr/local/lib/hnai/mosquitto/passwords"


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setattr("sys.dont_write_bytecode", True)
    loader = importlib.machinery.SourceFileLoader("mosquitto_passwords", str(PROGRAM))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def test_a_hash_is_what_mosquitto_passwd_makes(program: ModuleType) -> None:
    # mosquitto_passwd 2.0.11 for the password "lab": 101 iterations, 12 bytes of salt
    made = program.make(b"lab", b"0123456789ab", 101)
    assert made.startswith("$7$101$MDEyMzQ1Njc4OWFi$")
    assert len(made.split("$")[4]) == 88


def test_what_fits_is_kept_and_what_does_not_is_made_new(program: ModuleType) -> None:
    first = program.render({"a": b"1", "b": b"2"}, {})
    old = program.parse_passwords(first)
    assert program.render({"a": b"1", "b": b"2"}, old) == first
    second = program.parse_passwords(program.render({"a": b"1", "b": b"other"}, old))
    assert second["a"] == old["a"]
    assert second["b"] != old["b"]
    assert program.fits(second["b"], b"other")
    assert not program.fits(second["b"], b"2")
    assert "b" not in program.parse_passwords(program.render({"a": b"1"}, old))


@pytest.mark.parametrize("field", ["", "x", "$6$1$a$b", "$7$101$MDEy$AAAA", "$7$many$MDEy$AAAA", "$7$10000$***$AAAA", "$7$10000$MDEy$AAAA"])
def test_a_damaged_or_weaker_hash_does_not_fit(program: ModuleType, field: str) -> None:
    assert not program.fits(field, b"1")


def test_no_password_in_the_file(program: ModuleType) -> None:
    assert "hunter2" not in program.render({"a": b"hunter2"}, {})


def test_clients(program: ModuleType) -> None:
    assert program.parse_clients("# who\nline1 line1\n\ntelegraf-bridge  telegraf-bridge # note\n") == {
        "line1": "line1",
        "telegraf-bridge": "telegraf-bridge",
    }
    for bad in ("alone\n", "a b c\n", "a:b c\n", "a ../x\n"):
        with pytest.raises(ValueError, match="line 1"):
            program.parse_clients(bad)


def run(program: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, values: dict[str, bytes]) -> int:
    def decrypt(path: str, name: str) -> bytes:
        assert path == "store." + name
        if name not in values:
            raise OSError("not of this host")
        return values[name]

    monkeypatch.setattr(program, "decrypt", decrypt)
    monkeypatch.setattr(program.os, "fchown", lambda *_arguments: None)
    group = program.grp.getgrgid(os.getgid()).gr_name
    clients = tmp_path / "clients"
    clients.write_text("a a\nb b\n")
    result: int = program.main([str(clients), "store.", str(tmp_path / "passwords"), group])
    return result


def test_one_unreadable_credential_costs_only_its_client(
    program: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(program, tmp_path, monkeypatch, {"a": b"1"}) == 0
    assert list(program.parse_passwords((tmp_path / "passwords").read_text())) == ["a"]
    assert "no access for client b" in capsys.readouterr().err
    assert (tmp_path / "passwords").stat().st_mode & 0o777 == 0o640
    before = (tmp_path / "passwords").stat().st_mtime_ns
    assert run(program, tmp_path, monkeypatch, {"a": b"1"}) == 0
    assert (tmp_path / "passwords").stat().st_mtime_ns == before


def test_nobody_could_log_in(program: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(program, tmp_path, monkeypatch, {}) == 1
    assert not (tmp_path / "passwords").exists()


@pytest.mark.parametrize(
    ("there", "found"),
    [
        ({"x"}, {"x": "x"}),
        ({"x.b"}, {"x.b": "x.b"}),
        ({"x", "x.b"}, {"x": "x", "x.b": "x.b"}),
        (set(), {"x": "x"}),  # which then is named as having no access
    ],
)
def test_either_of_a_pair_of_identities_will_do(program: ModuleType, there: set[str], found: dict[str, str]) -> None:
    assert program.identities({"x": "x"}, there.__contains__) == found
