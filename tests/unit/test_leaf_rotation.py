# SPDX-License-Identifier: Apache-2.0
"""The rotation of a TLS leaf: random kills against a model, and the real files with the real openssl and a real listener."""
from __future__ import annotations

import random
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from test_host_certificate import Machine, Pki, openssl

from ansible_collections.hnai.platform.plugins.module_utils import x509
from ansible_collections.hnai.platform.plugins.module_utils.host_certificate import Certificate, Wanted
from ansible_collections.hnai.platform.plugins.module_utils.hostfiles import HostError, read_file
from ansible_collections.hnai.platform.plugins.module_utils.leaf_rotation import HostFiles, Leaf, LeafError, served

TLS = "/etc/hnai/x/tls"
WANTED = Wanted("x", TLS, "hnai-x", "localhost", ("localhost",), ("127.0.0.1",))
BESIDE = "/var/lib/hnai/rotation/tls+x"


# -- the model --------------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """The controller is dead."""


class World:
    """A host and its listener. Keys and serials are numbers; every operation may be the last one, before or after it is done."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.p_kill = self.chance.choice((0.02, 0.05, 0.15))
        self.calm = False
        self.noted: dict[str, Any] = {}
        self.key, self.cert = 1, (1, 1)  # (serial, key that it belongs to)
        self.new_key, self.new_cert = 0, (0, 0)
        self.serving = (1, 1)
        self.count = 1
        self.signed_for: dict[str, int] = {}

    def op(self) -> None:
        if not self.calm and self.chance.random() < self.p_kill:
            raise Killed

    # Files
    def run(self) -> dict[str, Any]:
        return dict(self.noted)

    def note(self, run: Mapping[str, Any]) -> None:
        self.op()
        self.noted = dict(run)
        self.op()

    def serial(self, staged: bool = False) -> str:
        number = (self.new_cert if staged else self.cert)[0]
        return str(number) if number else ""

    def request(self) -> str:
        self.op()
        if not self.new_key:
            self.count += 1
            self.new_key = self.count
        self.op()
        return "csr %d" % self.new_key

    def stage(self, signed: Mapping[str, Any]) -> None:
        self.op()
        if signed["key"] != self.new_key:
            raise HostError("it does not belong to the key on this host")
        self.new_cert = (signed["serial"], signed["key"])
        self.op()

    def stale(self) -> list[str]:
        return []

    def promote(self) -> None:
        self.op()
        if self.new_key:
            self.key = self.new_key
        self.op()
        if self.new_cert[0]:
            self.cert = self.new_cert
        self.op()

    def clear(self) -> None:
        self.op()
        self.new_cert = (0, 0)
        self.op()
        self.new_key = 0
        self.op()

    # around it
    def sign(self, csr: str) -> dict[str, Any] | None:
        if not csr:
            return None
        self.count += 1
        run = str(self.noted["run_id"])
        self.signed_for[run] = self.signed_for.get(run, 0) + 1
        return {"serial": self.count, "key": int(csr.split()[1])}

    def site(self) -> None:
        """The role runs: a certificate that does not belong to the key is replaced, then the unit takes up what lies there."""
        if self.cert[1] != self.key:
            self.count += 1
            self.cert = (self.count, self.key)
        self.serving = self.cert
        assert self.serving[1] == self.key


def controller(world: World) -> str:
    leaf = Leaf(world, now=lambda: 1.0)
    try:
        begun = leaf.begin("run-%d" % world.chance.randrange(10**9), "request")
        world.op()
        signed = world.sign(begun["csr"])
        world.op()
        leaf.install(signed)
        world.op()
        if world.chance.random() < 0.95 or world.calm:
            world.site()
        world.op()
        leaf.close({"own": str(world.serving[0]), "client": str(world.serving[0])}, ["own", "client"])
    except Killed:
        return "killed"
    except LeafError as error:
        return str(error)
    return "done"


def test_killed_anywhere_the_next_run_ends_it(model_runs: int) -> None:
    for seed in range(model_runs):
        world = World(seed)
        for _number in range(world.chance.randrange(1, 6)):
            controller(world)
            if world.chance.random() < 0.3:
                world.site()
        world.calm = True
        open_run = world.noted.get("run_id") if world.noted.get("open") else None
        assert controller(world) == "done", seed
        last = world.noted["last"]
        assert not open_run or last["run_id"] == open_run, "seed %d: another run was begun over an open one" % seed
        assert world.serving == world.cert and str(world.serving[0]) == last["new"] != last["old"], seed
        assert world.cert[1] == world.key, "seed %d: key and certificate do not belong together" % seed
        assert (world.new_key, world.new_cert) == (0, (0, 0)), "seed %d: left beside" % seed


def test_what_was_signed_is_used_and_nothing_is_signed_twice() -> None:
    world = World(1)
    world.calm = True
    leaf = Leaf(world)
    begun = leaf.begin("r1", "age")
    world.stage({"serial": 77, "key": world.new_key})  # and killed
    again = Leaf(world).begin("r2", "age")
    assert begun["csr"] and again == {"run": again["run"], "resumed": True, "csr": ""}
    assert again["run"]["run_id"] == "r1"
    assert Leaf(world).install(None)["run"]["new"] == "77"


def test_what_was_signed_before_a_later_certificate_came_is_not_put_over_it() -> None:
    """An ordinary run of the site came between; after a rotation of the authority the one that was left would be of the old one."""
    world = World(1)
    world.calm = True
    Leaf(world).begin("r1", "age")
    world.stage({"serial": 77, "key": world.new_key})  # and killed
    world.cert = (78, 1)
    begun = Leaf(world).begin("r2", "age")
    assert begun["csr"] and begun["run"]["run_id"] == "r1"
    assert Leaf(world).install({"serial": 79, "key": world.new_key})["run"]["new"] == "79"
    assert Leaf(world).begin("r3", "age")["csr"] == "", "its own is no other"


# -- what stops it ----------------------------------------------------------------------------------------------------


@pytest.fixture
def world() -> World:
    world = World(1)
    world.calm = True
    Leaf(world).begin("r1", "age")
    Leaf(world).install({"serial": 9, "key": world.new_key})
    return world


@pytest.mark.parametrize(
    ("answers", "text"),
    [({"a": "9"}, "b serves nothing"), ({"a": "9", "b": "1"}, "b serves 1, not 9"), ({"a": "9", "b": "9", "c": "1"}, "c serves 1"), ({}, "a serves nothing")],
)  # fmt: skip
def test_one_listener_that_serves_another_one_keeps_it_open(world: World, answers: dict[str, str], text: str) -> None:
    with pytest.raises(LeafError, match=text):
        Leaf(world).close(answers, ["a", "b"])
    assert world.noted["open"]
    done = Leaf(world).close({"a": "9", "b": "9"}, ["a", "b"])["run"]
    assert not done["open"] and done["last"]["proof"] == {"new_served": True, "old_not_served": True}


def test_nothing_asked_proves_nothing(world: World) -> None:
    with pytest.raises(LeafError, match="no listener was asked"):
        Leaf(world).close({}, [])


def test_it_is_not_closed_while_another_certificate_lies_there(world: World) -> None:
    world.cert = (5, 5)
    with pytest.raises(LeafError, match="not the one in place"):
        Leaf(world).close({"a": "9"}, ["a"])


def test_without_a_beginning_there_is_no_step() -> None:
    for step in (lambda leaf: leaf.install(None), lambda leaf: leaf.close({"a": "1"}, ["a"])):
        with pytest.raises(LeafError, match="no rotation of this certificate is open"):
            step(Leaf(World(1)))
    world = World(1)
    world.calm = True
    Leaf(world).begin("r1", "age")
    with pytest.raises(LeafError, match="nothing was signed"):
        Leaf(world).install(None)
    with pytest.raises(LeafError, match="has the serial of the one in force"):
        Leaf(world).install({"serial": 1, "key": world.new_key})


# -- real files, a real listener --------------------------------------------------------------------------------------


class Strict(Pki):
    """With the extensions that OpenBao gives its certificates and Python 3.13 insists on."""

    def __init__(self, directory: Path, name: str) -> None:
        super().__init__(directory, name)
        common = "subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n"
        (self.at / "ext").write_text(common + "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign\n")
        signing = ("-extfile", f"{self.at}/ext", "-days", "20", "-out")
        openssl("req", "-new", "-key", f"{self.at}/root.key", "-subj", f"/CN={name}", "-out", f"{self.at}/root.csr")
        openssl("x509", "-req", "-in", f"{self.at}/root.csr", "-signkey", f"{self.at}/root.key", *signing, f"{self.at}/root.pem")
        ca = ("-CA", f"{self.at}/root.pem", "-CAkey", f"{self.at}/root.key", "-CAcreateserial")
        openssl("x509", "-req", "-in", f"{self.at}/int.csr", *ca, *signing, f"{self.at}/int.pem")
        self.root, self.chain = (self.at / "root.pem").read_text(), [(self.at / "int.pem").read_text()]

    def sign(self, csr: str, extensions: str = "") -> str:
        names = "subjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n"
        return super().sign(csr, extensions or names + "subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n")


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[Any]:
    """A TLS server that loads the files for each connection; its port."""
    stop = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.1)

        def serve() -> None:
            while not stop.is_set():
                try:
                    raw = server.accept()[0]
                except TimeoutError:
                    continue
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                context.load_cert_chain(f"{tmp_path}{TLS}/cert.pem", f"{tmp_path}{TLS}/key.pem")
                try:
                    context.wrap_socket(raw, server_side=True).close()
                except OSError:
                    raw.close()

        thread = threading.Thread(target=serve)
        thread.start()
        yield server.getsockname()[1]
        stop.set()
        thread.join(10)


def test_a_new_key_and_certificate_are_served(tmp_path: Path, listener: int) -> None:
    host, pki = Machine(tmp_path), Strict(tmp_path, "ca")
    first = Certificate(host, WANTED)
    first.install(pki.sign(first.request(pki.root).csr), pki.chain, pki.root)
    old_key = read_file(host, TLS + "/key.pem")
    ca_file = f"{tmp_path}{TLS}/ca.pem"
    files = HostFiles(host, WANTED)
    old = served(("localhost", listener), ca_file, None, 5.0)
    assert old == files.serial() == openssl("x509", "-in", f"{tmp_path}{TLS}/cert.pem", "-noout", "-serial").strip().split("=")[1].lower()
    begun = Leaf(files).begin("r1", "compromise")
    assert read_file(host, TLS + "/key.pem") == old_key, "nothing in place has changed yet"
    signed = {"certificate": pki.sign(begun["csr"]), "chain": pki.chain}
    assert Leaf(HostFiles(host, WANTED)).install(signed)["changed"]
    assert Leaf(HostFiles(host, WANTED)).install(None)["changed"] is False
    assert read_file(host, TLS + "/key.pem") not in (None, old_key)
    assert (tmp_path / TLS[1:] / "key.pem").stat().st_mode & 0o777 == 0o640
    new = served(("localhost", listener), ca_file, None, 5.0)
    assert new != old
    done = Leaf(files).close({"localhost": new}, ["localhost"])["run"]
    assert (done["last"]["old"], done["last"]["new"]) == (old, new)
    assert not list((tmp_path / BESIDE[1:]).iterdir()), "a key was left beside"
    assert not Certificate(host, WANTED).request(pki.root).due, "an ordinary run has nothing to do"
    assert "PRIVATE" not in (tmp_path / (BESIDE[1:] + ".json")).read_text()


def test_what_does_not_belong_to_the_new_key_is_refused(tmp_path: Path) -> None:
    host, pki = Machine(tmp_path), Pki(tmp_path, "ca")
    first = Certificate(host, WANTED)
    csr = first.request(pki.root).csr
    first.install(pki.sign(csr), pki.chain, pki.root)
    leaf = Leaf(HostFiles(host, WANTED))
    leaf.begin("r1", "age")
    with pytest.raises(HostError, match="does not belong to the key"):
        leaf.install({"certificate": pki.sign(csr), "chain": pki.chain})
    assert not HostFiles(host, WANTED).serial(staged=True)


def test_what_was_signed_under_a_root_that_went_is_signed_anew(tmp_path: Path) -> None:
    host, pki, later = Machine(tmp_path), Pki(tmp_path, "ca"), Pki(tmp_path, "later")
    first = Certificate(host, WANTED)
    first.install(pki.sign(first.request(pki.root).csr), pki.chain, pki.root)
    files = HostFiles(host, WANTED)
    files.stage({"certificate": pki.sign(Leaf(files).begin("r1", "age")["csr"]), "chain": pki.chain})  # and killed
    assert Leaf(files).begin("r2", "age")["csr"] == ""
    begun = Leaf(HostFiles(host, WANTED, later.root)).begin("r3", "age")
    assert begun["csr"] and begun["run"]["run_id"] == "r1" and not files.serial(staged=True)


def test_a_keystore_comes_along(tmp_path: Path) -> None:
    host, pki = Machine(tmp_path), Pki(tmp_path, "ca")
    combined = Wanted(**dict(WANTED.__dict__, combined=True))
    first = Certificate(host, combined)
    first.install(pki.sign(first.request(pki.root).csr), pki.chain, pki.root)
    leaf = Leaf(HostFiles(host, WANTED))
    leaf.install({"certificate": pki.sign(leaf.begin("r1", "age")["csr"]), "chain": pki.chain})
    parts = [read_file(host, f"{TLS}/{name}") or b"" for name in ("key.pem", "cert.pem", "keystore.pem")]
    assert parts[2] == parts[0] + parts[1]


def test_a_listener_that_is_not_trusted_or_not_there_tells_nothing(tmp_path: Path, listener: int) -> None:
    host, pki, other = Machine(tmp_path), Strict(tmp_path, "ca"), Strict(tmp_path, "other")
    first = Certificate(host, WANTED)
    first.install(pki.sign(first.request(pki.root).csr), pki.chain, pki.root)
    with pytest.raises(ssl.SSLError):
        served(("localhost", listener), str(other.at / "root.pem"), None, 5.0)
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(OSError):
        served(("localhost", port), f"{tmp_path}{TLS}/ca.pem", None, 5.0)


def test_serial_of_what_is_no_certificate() -> None:
    for der in (b"", b"\x30", b"\x02\x01\x01", b"\x30\x04\x30\x02\x04\x00"):
        with pytest.raises(x509.X509Error):
            x509.serial(der)
    with pytest.raises(x509.X509Error):
        x509.first_der("nothing")
