# SPDX-License-Identifier: Apache-2.0
"""docs/runbooks/openbao-break-glass.md as its reader plays it: the client of OpenBao at a terminal, and a real server whose store is lost."""
from __future__ import annotations

import os
import pty
import re
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import loopback_bao
import pytest
from identity_stand import Controller
from plant_view import until

from ansible_collections.hnai.platform.plugins.module_utils.openbao import component, drill, policies, seal_keys, site
from ansible_collections.hnai.platform.plugins.module_utils.openbao.client import BaoError, login
from ansible_collections.hnai.platform.plugins.module_utils.openbao.kv import KvStore
from ansible_collections.hnai.platform.plugins.plugin_utils import openbao_keys

pytestmark = pytest.mark.scenario("stand-bao")
#: What a person runs, and types where the client asks.
Terminal = Callable[..., str]


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[loopback_bao.Loopback]:
    with loopback_bao.server(loopback_bao.binary(tmp_path)) as running:
        running.start_site()
        site.revoke_root(running.client, running.init["root_token"])
        yield running


@pytest.fixture
def bao(loop: loopback_bao.Loopback, tmp_path: Path) -> Terminal:
    (tmp_path / "home").mkdir()

    def run(*argv: str, typed: str = "", code: int = 0) -> str:
        child, terminal = pty.fork()
        if child == 0:
            os.execve(loop.bao, [str(loop.bao), *argv], {
                "HOME": str(tmp_path / "home"), "BAO_ADDR": loop.client.address, "BAO_CACERT": str(loop.directory / "cert.pem")})  # fmt: skip
        said, asked = b"", False
        while True:
            try:
                said += os.read(terminal, 4096)
            except OSError:  # it has ended
                break
            if b"(will be hidden)" in said and not asked:
                asked = True
                time.sleep(0.3)  # it is still to switch the echo off
                os.write(terminal, typed.encode() + b"\n")
        text = re.sub(r"\x1b\[[0-9;]*m", "", said.decode())
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == code, (argv, text)
        assert asked == bool(typed), text
        return text

    return run


def field(text: str, name: str) -> str:
    """Of what the client prints."""
    return next(line.split()[-1] for line in text.splitlines() if line.startswith(name))


def unseal(bao: Terminal, shares: Sequence[str]) -> None:
    for share in shares[:2]:
        said = bao("operator", "unseal", typed=share)
    assert field(said, "Sealed") == "false"


def test_the_store_is_lost_the_shares_exist_and_the_identities_are_younger(
    loop: loopback_bao.Loopback, bao: Terminal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    shares, token_file = loop.init["keys_base64"], tmp_path / "home/.vault-token"
    snapshot = seal_keys.snapshot(loop.client, component.enter(loop.client, policies.KEYS, loop.deploy), str(tmp_path / "snapshots"), time.time())
    kept = {"deploy": loop.deploy, "site_admin": loop.identities["site-admin"]}
    openbao_keys.store(tmp_path / "deploy.json", kept)
    Controller(loop.client, tmp_path / "deploy.json").rotate("approle/deploy", monkeypatch, reason="compromise")
    held = openbao_keys.load(tmp_path / "deploy.json") or {}
    entered = component.enter(loop.client, policies.ROTATION, held["deploy"])
    store = KvStore(loop.client, entered, "hnai")
    was = drill.contents(loop.client, entered, "hnai")
    store.write("kafka/x", {"username": "x", "password": "of today"}, 1)
    # 3.
    loop.stop()
    (loop.directory / "raft").rename(loop.directory / "raft.lost")
    loop.start()
    said = bao("operator", "init", "-key-shares=3", "-key-threshold=2")
    unseal(bao, [field(said, "Unseal Key 1"), field(said, "Unseal Key 2")])
    drill.active(loop.client)
    # 4.
    bao("login", typed=field(said, "Initial Root Token"))
    assert token_file.exists()
    bao("operator", "raft", "snapshot", "restore", "-force", snapshot)
    until("the node does not seal itself", lambda: bool(loop.client.call("GET", "sys/seal-status")["sealed"]), 60, 0.2)
    # 5.
    unseal(bao, shares)
    drill.active(loop.client)
    assert "permission denied" in bao("token", "lookup", code=2), "the temporary token is void"
    token_file.unlink()
    # 6. What is younger than the snapshot is not known, and what was ended since then lives again.
    with pytest.raises(BaoError, match="invalid role or secret ID"):
        login(loop.client, policies.IDENTITY_AUTH, **held["deploy"])
    again = drill.contents(loop.client, component.enter(loop.client, policies.ROTATION, kept["deploy"]), "hnai")
    assert again["kafka/x"] == was["kafka/x"]
    # docs/openbao-ceremony.md, "Root, when it is needed".
    (tmp_path / "secret_id").write_text(held["site_admin"]["secret_id"] + "\n", encoding="ascii")
    arguments = ("write", "-field=token", "auth/approle/login", "role_id=" + held["site_admin"]["role_id"], f"secret_id=@{tmp_path / 'secret_id'}")
    token_file.write_text(bao(*arguments), encoding="ascii")
    otp = field(bao("operator", "generate-root", "-init"), "OTP  ")
    for number, share in enumerate(shares[:2]):
        if number:  # the five minutes of the first login are over: what was begun stays
            bao("token", "revoke", "-self")
            token_file.write_text(bao(*arguments), encoding="ascii")
        said = bao("operator", "generate-root", typed=share)
    root = bao("operator", "generate-root", "-decode=" + field(said, "Encoded Token"), "-otp=" + otp).strip()
    made = site.Site(loop.client, loopback_bao.SPEC, {"site-admin": held["site_admin"], "deploy": held["deploy"]}, root).converge()
    assert site.revoke_root(loop.client, root)
    openbao_keys.store(tmp_path / "deploy.json", {**held, "deploy": made.identities["deploy"]})
    assert component.enter(loop.client, policies.ROTATION, made.identities["deploy"])
    done = Controller(loop.client, tmp_path / "deploy.json").rotate("approle/deploy", monkeypatch, reason="compromise")
    assert done["rotation"]["last"]["proof"]["alive"] == 1
    with pytest.raises(BaoError, match="invalid role or secret ID"):
        login(loop.client, policies.IDENTITY_AUTH, **kept["deploy"])
