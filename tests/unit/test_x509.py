# SPDX-License-Identifier: Apache-2.0
"""Validity as openssl says it; what is broken raises, and never anything but X509Error."""
from __future__ import annotations

import base64
import subprocess
from datetime import datetime, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.hnai.platform.plugins.module_utils import x509


def openssl(folder: Path, *argv: str) -> str:
    return subprocess.run(["openssl", *argv], cwd=folder, check=True, capture_output=True, text=True, timeout=60).stdout


@pytest.mark.parametrize("end", ["20480102030405Z", "20520102030405Z"])
def test_a_certificate_as_openssl_says_it(tmp_path: Path, end: str) -> None:
    """Before 2050 the time has two digits of the year, from then on four."""
    openssl(tmp_path, "req", "-newkey", "rsa:2048", "-nodes", "-keyout", "key", "-out", "csr", "-subj", "/CN=x")
    (tmp_path / "index").write_text("")
    (tmp_path / "cnf").write_text(
        "[ca]\ndefault_ca=x\n[x]\ndatabase=index\nnew_certs_dir=.\nrand_serial=yes\ndefault_md=sha256\npolicy=p\n[p]\ncommonName=supplied\n")
    openssl(tmp_path, "ca", "-config", "cnf", "-batch", "-selfsign", "-keyfile", "key", "-in", "csr", "-out", "cert", "-startdate", "20260101000000Z",
            "-enddate", end, "-notext")
    text = (tmp_path / "cert").read_text()
    (one,) = x509.read_pem("a comment\n" + text)
    assert one.kind == "certificate"
    assert one.begin == datetime(2026, 1, 1, tzinfo=timezone.utc).timestamp()
    assert one.end == datetime(int(end[:4]), 1, 2, 3, 4, 5, tzinfo=timezone.utc).timestamp()
    assert len(x509.read_pem(text * 3)) == 3
    for cut in range(len(text.strip())):
        with pytest.raises(x509.X509Error):
            x509.read_pem(text + text[:cut] if "-----BEGIN " in text[:cut] else text[:cut])


@pytest.mark.parametrize("text", ["", "-----BEGIN PRIVATE KEY-----\nMA==\n-----END PRIVATE KEY-----\n",
                                  "-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n"])
def test_what_is_none_raises(text: str) -> None:
    with pytest.raises(x509.X509Error):
        x509.read_pem(text)


@given(st.binary(max_size=64), st.sampled_from(["CERTIFICATE", "X509 CRL"]))
def test_garbage_raises_nothing_else(data: bytes, kind: str) -> None:
    text = "-----BEGIN %s-----\n%s\n-----END %s-----\n" % (kind, base64.b64encode(b"\x30\x3e\x30\x3c" + data).decode(), kind)
    try:
        x509.read_pem(text)
    except x509.X509Error:
        pass
