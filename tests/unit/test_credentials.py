# SPDX-License-Identifier: Apache-2.0
"""The core of credentials with a scripted systemd-creds whose every encryption differs."""

from __future__ import annotations

import base64
import os
import stat
from pathlib import Path

import pytest

from ansible_collections.hnai.platform.plugins.module_utils.credentials import converge, path_of, select
from ansible_collections.hnai.platform.plugins.module_utils.hostfiles import Completed, Host, HostError

WANTED = [{"path": "x/db", "field": "password", "as": "db_password"}]


class Creds(Host):
    """systemd-creds with the host key `key`; a value is bound to its name, and each encryption carries another nonce."""

    def __init__(self, root: Path) -> None:
        super().__init__(str(root))
        self.key = b"k1"
        self.nonce = 0
        self.seen: list[list[str]] = []

    def chown(self, target: int | str, uid: int, gid: int) -> None:
        assert (uid, gid) == (0, 0)

    def owner(self, info: os.stat_result) -> tuple[int, int]:
        return 0, 0

    def run(self, argv: list[str], stdin: bytes | None = None, timeout: float = 60.0) -> Completed:
        self.seen.append(argv)
        name = next(word for word in argv if word.startswith("--name=")).encode()
        if argv[1] == "encrypt":
            assert argv[-2:] == ["-", "-"]
            assert "--with-key=host" in argv
            self.nonce += 1
            return Completed(0, base64.b64encode(b"|".join([self.key, str(self.nonce).encode(), name, stdin or b""])), b"")
        key, _, bound, value = base64.b64decode(Path(argv[-2]).read_bytes()).split(b"|", 3)
        return Completed(0, value, b"") if (key, bound) == (self.key, name) else Completed(1, b"", b"cannot decrypt")


@pytest.fixture
def host(tmp_path: Path) -> Creds:
    return Creds(tmp_path)


def test_a_value_is_stored_once_and_only_written_again_when_it_differs(host: Creds, tmp_path: Path) -> None:
    file = tmp_path / path_of("x", "db")[1:]
    assert converge(host, "x", {"db": "one"}) == ["db"]
    first = file.read_bytes()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert converge(host, "x", {"db": "one"}) == []
    assert file.read_bytes() == first
    assert converge(host, "x", {"db": "two"}) == ["db"]
    assert file.read_bytes() != first
    assert converge(host, "x", {"db": "two"}) == []


def test_the_value_never_stands_on_a_command_line(host: Creds) -> None:
    converge(host, "x", {"db": "very-secret"})
    converge(host, "x", {"db": "very-secret"})
    assert "very-secret" not in str(host.seen)


def test_a_new_host_key_or_a_foreign_file_means_storing_again(host: Creds) -> None:
    converge(host, "x", {"db": "one"})
    host.key = b"k2"
    assert converge(host, "x", {"db": "one"}, check=True) == ["db"]
    assert converge(host, "x", {"db": "one"}) == ["db"]
    assert converge(host, "x", {"db": "one"}) == []


def test_mode_drift_is_repaired_without_a_new_encryption(host: Creds, tmp_path: Path) -> None:
    converge(host, "x", {"db": "one"})
    file = tmp_path / path_of("x", "db")[1:]
    before = file.read_bytes()
    file.chmod(0o644)
    assert converge(host, "x", {"db": "one"}) == ["db"]
    assert (stat.S_IMODE(file.stat().st_mode), file.read_bytes()) == (0o600, before)


def test_check_mode_writes_nothing_and_knows_about_values_it_was_not_given(host: Creds, tmp_path: Path) -> None:
    assert converge(host, "x", {"db": "one", "other": None}, check=True) == ["db", "other"]
    assert not (tmp_path / "etc").exists()
    converge(host, "x", {"db": "one"})
    assert converge(host, "x", {"db": None}, check=True) == []
    path = tmp_path / path_of("x", "db")[1:]
    path.chmod(0o644)
    assert converge(host, "x", {"db": None}, check=True) == ["db"]
    path.chmod(0o600)
    host.key = b"k2"
    assert converge(host, "x", {"db": None}, check=True) == ["db"]


def test_selection_names_what_is_missing(host: Creds) -> None:
    assert select(WANTED, {"x/db": {"password": "p", "username": "u"}}) == {"db_password": "p"}
    assert select(WANTED, {}, predict=True) == {"db_password": None}
    with pytest.raises(HostError, match=r"db_password: OpenBao delivered no field 'password' at hnai/x/db; declare"):
        select(WANTED, {"x/db": {}})
    with pytest.raises(HostError, match="two secrets have the name"):
        select([*WANTED, *WANTED], {"x/db": {"password": "p"}})


def test_a_value_may_stand_in_the_text_that_a_product_reads() -> None:
    wrapped = {**WANTED[0], "wrap": 'login password="%s";'}
    assert select([wrapped], {"x/db": {"password": "100%s"}}) == {"db_password": 'login password="100%s";'}
    assert select([{**wrapped, "wrap": None}], {"x/db": {"password": "p"}}) == {"db_password": "p"}
    both = {**wrapped, "wrap": 'user="%{username}" password="%s";'}
    assert select([both], {"x/db": {"username": "u.b", "password": "%{username}"}}) == {"db_password": 'user="u.b" password="%{username}";'}
    with pytest.raises(HostError, match="no field 'username'"):
        select([both], {"x/db": {"password": "p"}})
    assert select([both], {}, predict=True) == {"db_password": None}
    with pytest.raises(HostError, match="exactly one %s"):
        select([{**wrapped, "wrap": "no place"}], {"x/db": {"password": "p"}})


@pytest.mark.parametrize(
    ("component", "items", "message"),
    [
        ("../x", {"a": "b"}, "not a component's name"),
        ("x", {"../a": "b"}, "no name of a credential"),
        ("x", {"a": ""}, "is empty"),
        ("x", {"a": None}, "has no value"),
    ],
)
def test_what_is_refused(host: Creds, component: str, items: dict[str, str | None], message: str) -> None:
    with pytest.raises(HostError, match=message):
        converge(host, component, items)


def test_an_encryption_that_fails_says_so_without_the_value(host: Creds, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "run", lambda *_args, **_named: Completed(1, b"", b"no host key"))
    with pytest.raises(HostError, match="could not encrypt 'db': no host key"):
        converge(host, "x", {"db": "one"})
