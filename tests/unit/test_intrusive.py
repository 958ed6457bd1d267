# SPDX-License-Identifier: Apache-2.0
"""The token for what is intrusive: signed by a person, for one site, one endpoint and one window."""
from __future__ import annotations

import subprocess
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.hnai.platform.plugins.module_utils import intrusive
from ansible_collections.hnai.platform.plugins.module_utils.hostfiles import Completed, Host

NOW = datetime(2026, 11, 26, 12, 0, tzinfo=timezone.utc)
GOOD = {"site": "lab", "endpoint": "modbus://plc1:1502", "from": "2026-11-26T11:00:00Z", "to": "2026-11-26T13:00:00Z", "approver": "j.doe", "signature": "s"}


def check(*tokens: Any, site: str = "lab", approvers: Any = None, verify: Any = lambda *_given: True) -> intrusive.Token:
    return intrusive.check(tokens, {"j.doe": "ssh-ed25519 AAAA"} if approvers is None else approvers, site, "modbus://plc1:1502", NOW, verify)


def test_a_valid_token_is_taken_and_named() -> None:
    token = check({**GOOD, "endpoint": "other"}, {**GOOD, "to": "2026-11-26T11:30:00Z"}, GOOD)
    assert token.as_dict() == {**{key: GOOD[key] for key in ("site", "endpoint", "from", "to", "approver")}, "id": token.id}


@pytest.mark.parametrize(("change", "words"), [
    ({"site": "other"}, "it is for site other"), ({"signature": ""}, "signature is missing"), ({"from": None}, "from is missing"),
    ({"to": "2026-11-26T12:00:00Z"}, "its window is"), ({"from": "2026-11-26T12:00:01Z"}, "its window is"), ({"to": "tomorrow"}, "are written as"),
    ({"to": "2026-11-27T11:00:01Z"}, "longer than 24 h"), ({"to": "2026-11-26T10:00:00Z"}, "ends before"), ({"approver": "somebody"}, "no approver"),
    ({"approver": "j.doe\nx"}, "more than one line")])
def test_anything_else_is_refused_with_the_reason(change: dict[str, Any], words: str) -> None:
    with pytest.raises(intrusive.NotAuthorised, match=words):
        check({**GOOD, **change})


def test_no_token_no_site_and_a_wrong_signature() -> None:
    with pytest.raises(intrusive.NotAuthorised, match=r"needs a token for modbus://plc1:1502 and a window$"):
        check()
    with pytest.raises(intrusive.NotAuthorised, match="the site has no name"):
        check({**GOOD, "site": ""}, site="")
    with pytest.raises(intrusive.NotAuthorised, match=r"the signature is not j\.doe's"):
        check(GOOD, verify=lambda *_given: False)


def test_openssh_signs_and_verifies(tmp_path: Path) -> None:
    for name in ("mine", "other"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(tmp_path / name)], check=True, timeout=30)
    signed = intrusive.text("lab", GOOD["endpoint"], GOOD["from"], GOOD["to"], "j.doe")

    def sign(key: str, namespace: str, text: str) -> str:
        done = subprocess.run(["ssh-keygen", "-Y", "sign", "-f", str(tmp_path / key), "-n", namespace], input=text, text=True, capture_output=True,
                              check=True, timeout=30)
        return done.stdout

    mine = (tmp_path / "mine.pub").read_text()
    verify = intrusive.ssh_verify(Host())
    assert check({**GOOD, "signature": sign("mine", "hnai-intrusive", signed)}, approvers={"j.doe": mine}, verify=verify).approver == "j.doe"
    for key, namespace, text in (("other", "hnai-intrusive", signed), ("mine", "file", signed), ("mine", "hnai-intrusive", signed.replace("lab", "lib"))):
        with pytest.raises(intrusive.NotAuthorised, match="the signature"):
            check({**GOOD, "signature": sign(key, namespace, text)}, approvers={"j.doe": mine}, verify=verify)


def test_without_openssh_nothing_is_authorised() -> None:
    class Bare(Host):
        def run(self, argv: list[str], stdin: bytes | None = None, timeout: float = 60.0) -> Completed:
            return Completed(127, b"", b"")

    with pytest.raises(intrusive.NotAuthorised, match="install openssh-client"):
        check(GOOD, verify=intrusive.ssh_verify(Bare()))
