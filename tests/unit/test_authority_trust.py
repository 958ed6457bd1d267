# SPDX-License-Identifier: Apache-2.0
"""What a host says of its trust while an authority is rotated: real certificates, the real openssl, real listeners on loopback."""
from __future__ import annotations

import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.hnai.platform.plugins.module_utils import authority_trust
from ansible_collections.hnai.platform.plugins.module_utils.hostfiles import Host
from ansible_collections.hnai.platform.plugins.module_utils.openbao import first_tls

EC = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")


def openssl(*argv: str) -> None:
    subprocess.run(["openssl", *argv], check=True, capture_output=True, timeout=30)


class Site:
    """Two roots, each with an intermediate; a second intermediate under the first; a leaf of each intermediate."""

    def __init__(self, path: Path) -> None:
        self.path = path
        for root in ("r1", "r2"):
            openssl("req", "-x509", *EC, "-keyout", self.at(root, "key"), "-out", self.at(root), "-days", "2", "-subj", f"/CN={root}",
                    "-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign")
        for name, root in (("i1", "r1"), ("i1b", "r1"), ("i2", "r2")):
            self.sign(name, root, "basicConstraints=critical,CA:TRUE,pathlen:0\nkeyUsage=critical,keyCertSign\n")
            self.sign("leaf-" + name, name, "subjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=serverAuth\n")
            leaf = path / f"leaf-{name}.crt"
            leaf.write_text(leaf.read_text() + self.pem(name))

    def at(self, name: str, what: str = "crt") -> str:
        return str(self.path / f"{name}.{what}")

    def pem(self, name: str) -> str:
        return (self.path / f"{name}.crt").read_text()

    def sign(self, name: str, parent: str, extensions: str) -> None:
        (self.path / "ext").write_text(extensions + "subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n")
        openssl("req", "-new", *EC, "-keyout", self.at(name, "key"), "-out", self.at(name, "csr"), "-subj", f"/CN={name}")
        openssl("x509", "-req", "-in", self.at(name, "csr"), "-CA", self.at(parent), "-CAkey", self.at(parent, "key"), "-CAcreateserial", "-days", "2",
                "-out", self.at(name), "-extfile", str(self.path / "ext"))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site(tmp_path_factory.mktemp("pki"))


@contextmanager
def listener(site: Site, leaf: str) -> Iterator[int]:
    """A TLS server that serves a leaf and its intermediate, until the block ends."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(site.at(leaf), site.at(leaf, "key"))
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        over = threading.Event()

        def serve() -> None:
            while not over.is_set():
                try:
                    raw, _address = server.accept()
                    with context.wrap_socket(raw, server_side=True) as connection:
                        connection.settimeout(5)
                        connection.recv(1)
                except OSError:
                    continue

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield int(server.getsockname()[1])
        finally:
            over.set()
            thread.join(10)


@pytest.mark.parametrize(
    ("leaf", "stays", "goes", "found"),
    [
        ("leaf-i2", "r2", "r1", "stays"), ("leaf-i1", "r2", "r1", "goes"),
        ("leaf-i1b", "i1b", "i1", "stays"), ("leaf-i1", "i1b", "i1", "goes"), ("leaf-i2", "i1b", "i1", "neither"),
    ],
)  # fmt: skip
def test_which_authority_is_served(site: Site, tmp_path: Path, leaf: str, stays: str, goes: str, found: str) -> None:
    """Also two intermediates of one root are told apart, on the port and in the file."""
    with listener(site, leaf) as port:
        assert authority_trust.served(("localhost", port), site.pem(stays), site.pem(goes), None, 5) == found
    target = tmp_path / "etc/hnai/x/tls/cert.pem"
    target.parent.mkdir(parents=True)
    target.write_text(site.pem(leaf))
    assert authority_trust.leaf(Host(str(tmp_path)), "x", site.pem(stays), site.pem(goes)) == found


@pytest.mark.parametrize(("trusts", "old_served", "new_served"), [(("r1",), True, False), (("r1", "r2"), True, True), (("r2",), False, True)])
def test_clients_of_each_phase(site: Site, trusts: tuple[str, ...], old_served: bool, new_served: bool) -> None:
    """Only-old before, both in between, only-new after: who is accepted in each."""
    context = ssl.create_default_context(cadata="".join(site.pem(name) for name in trusts))
    for leaf, wanted in (("leaf-i1", old_served), ("leaf-i2", new_served)):
        with listener(site, leaf) as port, socket.create_connection(("127.0.0.1", port), timeout=5) as raw:
            if wanted:
                context.wrap_socket(raw, server_hostname="localhost").close()
            else:
                with pytest.raises(ssl.SSLCertVerificationError):
                    context.wrap_socket(raw, server_hostname="localhost")


def host(tmp_path: Path, bundle: str, leaf: str = "") -> Host:
    directory = tmp_path / "etc/hnai/x/tls"
    directory.mkdir(parents=True)
    (directory / "ca.pem").write_text(bundle)
    if leaf:
        (directory / "cert.pem").write_text(leaf)
    return Host(str(tmp_path))


def asked(site: Site, state: str, **more: Any) -> dict[str, Any]:
    return {
        "state": state, "fingerprint": "f", "trusts": ["x"], "bundles": [], "components": [], "chains": [site.pem("i1"), site.pem("i2")],
        "stays_chain": site.pem("i2"), "stays": site.pem("r2"), "goes": site.pem("r1"), "gone": site.pem("r1"), "timeout": 5, **more,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("bundle", "trusted", "dropped"),
    [(("r1",), "", ""), (("r1", "r2"), "f", ""), (("r2",), "", "f"), ((), "", "")],
)  # fmt: skip
def test_the_word_of_a_host(site: Site, tmp_path: Path, bundle: tuple[str, ...], trusted: str, dropped: str) -> None:
    there = host(tmp_path, "".join(site.pem(name) for name in bundle), site.pem("leaf-i2"))
    assert authority_trust.judge(there, asked(site, "trusted"))["ack"] == trusted
    with listener(site, "leaf-i2") as port:
        components = [{"component": "x", "listeners": ["localhost:%d" % port], "own": False}]
        assert authority_trust.judge(there, asked(site, "dropped", components=components))["ack"] == dropped


def test_a_bundle_that_trusts_everybody_is_no_proof(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(authority_trust.Bundles, "verifies", lambda *_given, **_more: True)
    found = authority_trust.judge(host(tmp_path, site.pem("r1")), asked(site, "trusted"))
    assert not found["ack"]
    assert "made just now" in found["wrong"][0]


def test_nothing_asked_and_nobody_there_are_no_word(site: Site, tmp_path: Path) -> None:
    there = host(tmp_path, site.pem("r2"), site.pem("leaf-i2"))
    with pytest.raises(authority_trust.TrustError, match="nothing can be said"):
        authority_trust.judge(there, asked(site, "trusted", trusts=[]))
    with pytest.raises(authority_trust.TrustError, match="no listener was named"):
        authority_trust.judge(there, asked(site, "served", components=[{"component": "x", "listeners": []}]))
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(authority_trust.TrustError, match="cannot be told"):
        authority_trust.judge(there, asked(site, "served", components=[{"component": "x", "listeners": ["localhost:%d" % port]}]))
    assert "is not there" in authority_trust.judge(there, asked(site, "trusted", trusts=["y"]))["wrong"][0]


def test_a_root_leaves_the_bundle_only_when_what_is_left_is_enough(site: Site, tmp_path: Path) -> None:
    """The run's own way in: the bundle without the root is tried before it takes its place."""
    path = tmp_path / "trust.pem"
    path.write_text(site.pem("r1") + site.pem("r2"))

    def refuse(_beside: str) -> None:
        raise OSError("not reached")

    with pytest.raises(OSError, match="not reached"):
        first_tls.distrust(str(path), site.pem("r1").encode(), refuse)
    assert site.pem("r1").strip() in path.read_text()
    tried: list[str] = []
    assert first_tls.distrust(str(path), site.pem("r1").encode(), lambda beside: tried.append(Path(beside).read_text()))
    assert path.read_text().strip() == site.pem("r2").strip() == tried[0].strip()
    assert not first_tls.distrust(str(path), site.pem("r1").encode(), refuse)
    assert [entry.name for entry in tmp_path.iterdir()] == ["trust.pem"]
