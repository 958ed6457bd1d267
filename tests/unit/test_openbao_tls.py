# SPDX-License-Identifier: Apache-2.0
"""The certificate of the very first start, and the bundle by which the server is verified while certificates change."""
from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from ansible_collections.hnai.platform.plugins.module_utils.openbao import first_tls


def run(command: Sequence[str]) -> tuple[int, str, str]:
    done = subprocess.run(list(command), capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """(TLS directory, trust bundle); ownership is not tried."""
    monkeypatch.setattr(os, "chown", lambda *args: None)
    monkeypatch.setattr(os, "fchown", lambda *args: None)
    return str(tmp_path / "tls"), str(tmp_path / "trust.pem")


def text(path: str) -> str:
    return run(["openssl", "x509", "-in", path, "-noout", "-subject", "-ext", "subjectAltName,extendedKeyUsage"])[1]


def test_first_time_then_nothing(place: tuple[str, str]) -> None:
    directory, trust = place
    out = first_tls.ensure(run, directory, trust, os.getgid())
    assert sorted(os.path.basename(path) for path in out) == ["ca.pem", "cert.pem", "key.pem", "trust.pem"]
    assert first_tls.ensure(run, directory, trust, os.getgid()) == []
    assert os.stat(directory + "/key.pem").st_mode & 0o777 == 0o640
    # Loopback names only and no usage: what host_certificate asks for differs, so the real leaf is due at once.
    assert first_tls.SUBJECT in text(directory + "/cert.pem")
    assert "Extended Key Usage" not in text(directory + "/cert.pem")
    assert run(["openssl", "verify", "-CAfile", trust, directory + "/cert.pem"])[0] == 0


def test_check_mode_writes_nothing(place: tuple[str, str]) -> None:
    directory, trust = place
    predicted = first_tls.ensure(run, directory, trust, os.getgid(), check=True)
    assert not os.path.exists(directory) and not os.path.exists(trust)
    assert sorted(predicted) == sorted(first_tls.ensure(run, directory, trust, os.getgid()))
    assert sorted(predicted) == sorted([trust, *(f"{directory}/{name}.pem" for name in ("key", "cert", "ca"))])


@pytest.mark.parametrize("harm", ["expired", "torn", "foreign key"])
def test_an_unusable_certificate_is_replaced_and_the_key_stays(place: tuple[str, str], harm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    directory, trust = place
    first_tls.ensure(run, directory, trust, os.getgid())
    key = Path(directory, "key.pem").read_text()
    before = Path(directory, "cert.pem").read_bytes()
    if harm == "expired":
        monkeypatch.setattr(first_tls, "MARGIN_S", 3 * 86400)
    elif harm == "torn":
        Path(directory, "cert.pem").write_bytes(before[:100])
    else:
        key = run(["openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"])[1]
        Path(directory, "key.pem").write_text(key)
    out = first_tls.ensure(run, directory, trust, os.getgid())
    assert directory + "/cert.pem" in out
    assert Path(directory, "key.pem").read_text() == key
    assert Path(directory, "cert.pem").read_bytes() != before
    assert run(["openssl", "verify", "-CAfile", trust, directory + "/cert.pem"])[0] == 0


def test_trust_only_grows(place: tuple[str, str], tmp_path: Path) -> None:
    directory, trust = place
    first_tls.ensure(run, directory, trust, os.getgid())
    temporary = Path(directory, "cert.pem").read_bytes()
    root = run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", str(tmp_path / "k"),
                "-subj", "/CN=root"])[1].encode()
    assert first_tls.trust(trust, root) is True
    assert first_tls.trust(trust, root.replace(b"\n", b"\r\n")) is False
    Path(directory, "ca.pem").write_bytes(root)
    assert first_tls.ensure(run, directory, trust, os.getgid()) == []
    bundle = Path(trust).read_bytes()
    assert temporary.strip() in bundle and root.strip() in bundle and bundle.count(b"BEGIN CERTIFICATE") == 2


def test_somebody_elses_server_is_trusted_before_it_is_asked(tmp_path: Path) -> None:
    trust = str(tmp_path / "etc/openbao/trust.pem")
    root = run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", str(tmp_path / "k"),
                "-subj", "/CN=theirs"])[1].encode()
    assert first_tls.introduce(trust, b"") is False and not Path(trust).parent.exists()
    assert first_tls.introduce(trust, root, check=True) is True and not Path(trust).parent.exists()
    assert first_tls.introduce(trust, root) is True and root.strip() in Path(trust).read_bytes()
    assert first_tls.introduce(trust, root) is False
    with pytest.raises(ValueError, match=r"openbao_external\.ca is no certificate"):
        first_tls.introduce(trust, b"/etc/ssl/theirs.pem")


def test_openssl_that_refuses_is_told(place: tuple[str, str]) -> None:
    with pytest.raises(first_tls.TlsError, match=r"key\.pem: openssl could not make a key: broken"):
        first_tls.ensure(lambda command: (1, "", "broken"), place[0], place[1], os.getgid())
