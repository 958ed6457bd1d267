# SPDX-License-Identifier: Apache-2.0
"""The run's own key, replaced: killed before any change of a file, the key in use is always one that opens the hosts, and a rerun ends the same."""
from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from ansible_collections.hnai.platform.plugins.action import ssh_access as action
from ansible_collections.hnai.platform.plugins.plugin_utils import ssh_access
from ansible_collections.hnai.platform.plugins.plugin_utils.ssh_access import IDLE, PREPARED, SWITCHED, AccessError, Keys, with_key


class Killed(Exception):
    """Here the controller died."""


class Site:
    """Hosts that know keys, and a controller whose file operations can be the last ones."""

    def __init__(self, folder: Path) -> None:
        self.key = folder / "id"
        self.key.write_text("private 0")
        Path(str(self.key) + ".pub").write_text("public 0\n")
        self.authorised = {"public 0"}
        self.made = 0

    def run(self, command: Sequence[str]) -> str:
        if "-l" in command:
            return "256 SHA256:%s comment" % Path(command[-1]).read_text().strip().replace(" ", "")
        self.made += 1
        Path(command[-1]).write_text("private %d" % self.made)
        Path(command[-1] + ".pub").write_text("public %d\n" % self.made)
        return ""

    def opens(self) -> bool:
        """Does the key that runs log in with open the hosts?"""
        return self.key.read_text().replace("private", "public") in self.authorised

    def rotate(self) -> None:
        """What the playbook does."""
        keys = Keys(self.key, self.run)
        keys.prepare("test")
        if keys.phase == PREPARED:
            self.authorised.add(keys.public(keys.next))
        keys.switch()
        assert self.opens()
        self.authorised.discard(keys.public(keys.old))
        keys.drop()


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def operations(monkeypatch: pytest.MonkeyPatch, last: int) -> list[str]:
    """File operations are counted; the one numbered *last* does not happen any more, nor does anything after it."""
    seen: list[str] = []

    def counting(name: str, plain: object) -> object:
        def call(*args: object, **kwargs: object) -> object:
            seen.append(name)
            if len(seen) > last:
                raise Killed
            return plain(*args, **kwargs)  # type: ignore[operator]

        return call

    for name in ("replace", "link"):
        monkeypatch.setattr(ssh_access.os, name, counting(name, getattr(os, name)))
    monkeypatch.setattr(Path, "unlink", counting("unlink", Path.unlink))
    return seen


def test_a_rotation_leaves_one_new_key_and_nothing_else(site: Site, tmp_path: Path) -> None:
    site.rotate()
    assert site.key.read_text() == "private 1" and site.authorised == {"public 1"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["id", "id.pub"]
    assert (tmp_path / "id.pub").read_text() == "public 1\n"


def test_killed_before_any_file_operation_the_key_still_opens_and_a_rerun_ends_the_same(tmp_path: Path) -> None:
    moments = 0
    for last in range(40):
        folder = tmp_path / str(last)
        folder.mkdir()
        site = Site(folder)
        with pytest.MonkeyPatch.context() as patch:
            seen = operations(patch, last)
            try:
                site.rotate()
            except Killed:
                moments += 1
            ended = len(seen) <= last
        assert site.opens(), "after %d operations nobody gets in" % last
        site.rotate()
        assert site.opens() and len(site.authorised) == 1, (last, site.authorised)
        assert sorted(path.name for path in folder.iterdir()) == ["id", "id.pub"], last
        if ended:
            break
    assert moments >= 12 and ended


def test_a_prepared_key_can_be_taken_back_until_the_switch(site: Site) -> None:
    keys = Keys(site.key, site.run)
    assert keys.prepare("test") and not keys.prepare("test") and site.made == 1 and keys.phase == PREPARED
    assert keys.discard() and keys.phase == IDLE and site.key.read_text() == "private 0" and not keys.discard()
    keys.prepare("test")
    assert keys.switch() and not keys.switch() and keys.phase == SWITCHED
    with pytest.raises(AccessError, match="in use is the new one"):
        keys.discard()
    assert keys.drop() and not keys.drop() and keys.phase == IDLE


def test_what_is_missing_is_named(site: Site) -> None:
    keys = Keys(site.key, site.run)
    with pytest.raises(AccessError, match="nothing was prepared"):
        keys.switch()
    Path(str(site.key) + ".pub").unlink()
    with pytest.raises(AccessError, match=r"ssh-keygen -y"):
        keys.prepare("test")
    with pytest.raises(AccessError, match="access_key names"):
        Keys(site.key.with_name("nobody"), site.run).prepare("test")


@pytest.mark.parametrize("command", [
    ["ssh", "-o", "BatchMode=yes", "-F", "/site/config", "edge1", "true"],
    ["ssh", "-o", "BatchMode=yes", "-o", "IdentityFile=/keys/site", "edge1", "true"],
])
def test_a_proof_knows_one_key_alone(tmp_path: Path, command: list[str]) -> None:
    """By ssh itself: which files would it try?"""
    config = "Host *\n  IdentityFile /keys/site\n" if "-F" in command else ""
    made = with_key(command, Path("/keys/site"), Path("/keys/site.next"), config, tmp_path / "config")
    if "-F" not in made:
        made[1:1] = ["-F", "none"]
    told = subprocess.run([made[0], "-G", *made[1:-1]], check=True, capture_output=True, text=True, timeout=20).stdout.splitlines()
    assert [line for line in told if line.startswith("identityfile")] == ["identityfile /keys/site.next"]
    assert "identitiesonly yes" in told and "identityagent none" in told


CLOSED = "kex_exchange_identification: Connection closed by remote host"
DENIED = "ansible@10.0.0.1: Permission denied (publickey)."


@pytest.mark.parametrize(("answers", "why"), [
    ([(False, CLOSED), (False, CLOSED), (False, DENIED)], ""),
    ([(False, CLOSED), (True, "")], "the old key still opens a connection"),
    ([(False, CLOSED)] * 100, "whether the old key is refused cannot be said: kex_exchange"),
])  # fmt: skip
def test_a_door_that_is_closed_has_not_refused_the_old_key(
    site: Site, monkeypatch: pytest.MonkeyPatch, answers: list[tuple[bool, str]], why: str,
) -> None:
    now, said = [0.0], iter(answers)
    monkeypatch.setattr(action.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(action.time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    made = action.ActionModule.__new__(action.ActionModule)
    monkeypatch.setattr(made, "_login", lambda keys, key: next(said))
    if not why:
        assert made._step("refused", Keys(site.key, site.run), "") is False and now[0] == 2 * action.AGAIN_S
        return
    with pytest.raises(AccessError, match=why):
        made._step("refused", Keys(site.key, site.run), "")
    assert now[0] <= action.UNSAID_S
