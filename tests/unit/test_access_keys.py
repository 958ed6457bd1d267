# SPDX-License-Identifier: Apache-2.0
"""The keys that open a host: exactly the declared ones, and never none of those that open it now."""

from __future__ import annotations

import base64
import stat
from pathlib import Path

import pytest
from own_files import KeptOwners

from ansible_collections.hnai.platform.plugins.module_utils.host.keys import OPERATORS, Door, parse, wanted_keys
from ansible_collections.hnai.platform.plugins.module_utils.hostfiles import HostError, Outcome

HOME = "/home/run"
PATH = f"{HOME}/.ssh/authorized_keys"


def line(seed: int, comment: str = "", options: str = "") -> str:
    blob = base64.b64encode(b"\0\0\0\x0bssh-ed25519\0\0\0 " + bytes([seed]) * 32).decode()
    return " ".join(part for part in (options, "ssh-ed25519", blob, comment) if part)


OURS, STRAY, OTHER = line(1, "the run"), line(2, "somebody"), line(3)


@pytest.fixture
def host(tmp_path: Path) -> KeptOwners:
    return KeptOwners(str(tmp_path))


def converge(host: KeptOwners, *keys: str, check: bool = False) -> Outcome:
    door = Door(host, check)
    door.user("run", HOME, 900, 901, keys)
    return door.outcome


def put(host: KeptOwners, path: str, *lines: str) -> Path:
    target = Path(host.at(path))
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text("".join(one + "\n" for one in lines))
    target.chmod(0o600)
    return target


def test_an_added_key_is_named_and_goes(host: KeptOwners) -> None:
    target = put(host, PATH, "# by hand", OURS, STRAY)
    host.owners[target.stat().st_ino] = (900, 901)
    predicted = converge(host, OURS, check=True)
    assert (predicted.changed, predicted.changed_paths) == (True, [PATH])
    assert STRAY in target.read_text()
    assert "somebody" in predicted.diff[0]["before"]
    assert "somebody" not in predicted.diff[0]["after"]
    assert converge(host, OURS).changed
    assert target.read_text() == OURS + "\n"
    info = target.stat()
    assert (stat.S_IMODE(info.st_mode), host.owner(info)) == (0o600, (900, 901))
    assert not converge(host, OURS).changed


def test_comments_and_order_are_nobodys_drift(host: KeptOwners) -> None:
    target = put(host, PATH, "", "# by hand", line(3, "another comment"), OURS)
    host.owners[target.stat().st_ino] = (900, 901)
    assert not converge(host, OURS, OTHER).changed
    assert "# by hand" in target.read_text()


@pytest.mark.parametrize("spoil", ["missing", "options", "mode", "owner", "twice"])
def test_other_drift(host: KeptOwners, spoil: str) -> None:
    lines = {"missing": [OTHER], "options": [line(1, options='command="/bin/sh"'), OTHER], "twice": [OURS, OURS, OTHER]}.get(spoil, [OURS, OTHER])
    target = put(host, PATH, *lines)
    host.owners[target.stat().st_ino] = (7, 7) if spoil == "owner" else (900, 901)
    if spoil == "mode":
        target.chmod(0o644)
    assert converge(host, OURS, OTHER).changed
    assert parse(target.read_text()) == wanted_keys([OURS, OTHER])
    assert not converge(host, OURS, OTHER).changed


def test_a_run_does_not_shut_itself_out(host: KeptOwners) -> None:
    target = put(host, PATH, STRAY)
    for check in (True, False):
        with pytest.raises(HostError, match="shut itself out") as refused:
            converge(host, OURS, check=check)
        assert "somebody" in str(refused.value)
    assert target.read_text() == STRAY + "\n"


def test_who_comes_in_by_another_way_gets_the_file(host: KeptOwners) -> None:
    assert converge(host, OURS, check=True).changed
    assert not Path(host.at(HOME)).exists()
    assert converge(host, OURS).changed
    assert stat.S_IMODE(Path(host.at(f"{HOME}/.ssh")).stat().st_mode) == 0o700
    assert not converge(host, OURS).changed


def test_a_link_is_not_followed(host: KeptOwners, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    Path(host.at(HOME)).mkdir(parents=True)
    Path(host.at(f"{HOME}/.ssh")).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(HostError, match="is a link"):
        converge(host, OURS)
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize("text", ["", "ssh-ed25519", "# " + OURS, "no key at all", OURS + "\n" + OTHER])
def test_what_is_no_key_is_refused(text: str) -> None:
    with pytest.raises(HostError, match="host_access_keys"):
        wanted_keys([text])


def test_key_files_of_nobody_go_and_those_of_operators_stay(host: KeptOwners) -> None:
    for name in ("alice", "root"):
        put(host, f"{OPERATORS}/{name}", STRAY)
    predicted = Door(host, check=True)
    predicted.operators(["alice"])
    assert (predicted.outcome.changed, predicted.outcome.removed) == (True, [f"{OPERATORS}/root"])
    assert Path(host.at(f"{OPERATORS}/root")).exists()
    door = Door(host)
    door.operators(["alice"])
    assert [path.name for path in Path(host.at(OPERATORS)).iterdir()] == ["alice"]
    again = Door(host)
    again.operators(["alice"])
    assert not again.outcome.changed
    Door(KeptOwners(Path(host.at("/nowhere")))).operators([])
