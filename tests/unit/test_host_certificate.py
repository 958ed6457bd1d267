# SPDX-License-Identifier: Apache-2.0
"""The core of host_certificate with the real openssl and a throw-away PKI."""

from __future__ import annotations

import datetime
import os
import stat
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from own_files import KeptOwners

from ansible_collections.hnai.platform.plugins.module_utils.host_certificate import Certificate, Outcome, Wanted
from ansible_collections.hnai.platform.plugins.module_utils.hostfiles import Host, HostError
from ansible_collections.hnai.platform.plugins.module_utils.unit import causes, manifest

TLS = "/etc/hnai/x/tls"
WANTED = Wanted("x", TLS, "hnai-x", "h1", ("h1", "localhost"), ("10.0.0.1", "fd77:0:0:35::11", "::1"), combined=True)


def openssl(*argv: str, stdin: str = "") -> str:
    return subprocess.run(["openssl", *argv], input=stdin, capture_output=True, text=True, check=True).stdout


class Machine(KeptOwners):
    """A temporary root with a group hnai-x; the owner of every file is what was asked last."""

    def __init__(self, root: Path) -> None:
        super().__init__(str(root))
        self.groups = {"root": 0, "hnai-x": 900}

    def uid(self, name: str) -> int | None:
        return 0 if name == "root" else None

    def gid(self, name: str) -> int | None:
        return self.groups.get(name)


class Pki:
    """Root and intermediate in a directory; `sign` answers a request."""

    def __init__(self, directory: Path, name: str) -> None:
        self.at = directory / name
        self.at.mkdir()
        key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
        openssl(
            "req",
            "-x509",
            *key,
            "-keyout",
            f"{self.at}/root.key",
            "-out",
            f"{self.at}/root.pem",
            "-subj",
            f"/CN={name}",
            "-days",
            "30",
        )
        openssl("req", *key, "-keyout", f"{self.at}/int.key", "-out", f"{self.at}/int.csr", "-subj", f"/CN={name} issuing")
        (self.at / "ext").write_text("basicConstraints=critical,CA:TRUE\nkeyUsage=keyCertSign\n")
        (self.at / "int.pem").write_text(
            openssl(
                "x509",
                "-req",
                "-in",
                f"{self.at}/int.csr",
                "-CA",
                f"{self.at}/root.pem",
                "-CAkey",
                f"{self.at}/root.key",
                "-CAcreateserial",
                "-extfile",
                f"{self.at}/ext",
                "-days",
                "20",
            )
        )
        self.root = (self.at / "root.pem").read_text()
        self.chain = [(self.at / "int.pem").read_text()]

    def sign(self, csr: str, extensions: str = "") -> str:
        copy = ("-copy_extensions", "copy")
        if extensions:
            (self.at / "leaf.ext").write_text(extensions)
            copy = ("-extfile", f"{self.at}/leaf.ext")
        return openssl(
            "x509",
            "-req",
            "-CA",
            f"{self.at}/int.pem",
            "-CAkey",
            f"{self.at}/int.key",
            "-CAcreateserial",
            "-days",
            "9",
            *copy,
            stdin=csr,
        )


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return Pki(tmp_path_factory.mktemp("pki"), "ours")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return Pki(tmp_path_factory.mktemp("pki"), "stranger")


@pytest.fixture
def host(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def later(days: float) -> datetime.datetime:
    return datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=days)


def ask(host: Host, pki: Pki, wanted: Wanted = WANTED, check: bool = False, days: float = 0.01) -> Outcome:
    return Certificate(host, wanted, check, now=lambda: later(days)).request(pki.root)


def install(host: Host, pki: Pki, certificate: str, wanted: Wanted = WANTED, check: bool = False) -> Outcome:
    return Certificate(host, wanted, check).install(certificate, pki.chain, pki.root)


def deploy(host: Host, pki: Pki) -> None:
    install(host, pki, pki.sign(ask(host, pki).csr))


def names(host: Host) -> list[str]:
    return sorted(os.listdir(host.at(TLS)))


def test_from_nothing_to_a_certificate_and_then_nothing_changes(host: Machine, pki: Pki) -> None:
    first = ask(host, pki)
    assert first.due
    assert first.reasons == ["there is no certificate"]
    assert "CERTIFICATE REQUEST" in first.csr
    assert names(host) == ["ca.pem", "key.pem"]
    install(host, pki, pki.sign(first.csr))
    assert names(host) == ["ca.pem", "cert.pem", "key.pem", "keystore.pem"]
    modes = {name: (stat.S_IMODE(os.stat(host.at(f"{TLS}/{name}")).st_mode), host.owner(os.stat(host.at(f"{TLS}/{name}")))) for name in names(host)}
    assert modes == {
        "ca.pem": (0o644, (0, 900)),
        "cert.pem": (0o644, (0, 900)),
        "key.pem": (0o640, (0, 900)),
        "keystore.pem": (0o640, (0, 900)),
    }
    assert stat.S_IMODE(os.stat(host.at(TLS)).st_mode) == 0o750
    full = Path(host.at(f"{TLS}/cert.pem")).read_text()
    assert full.count("BEGIN CERTIFICATE") == 2
    assert pki.root.strip() == Path(host.at(f"{TLS}/ca.pem")).read_text().strip()
    key = Path(host.at(f"{TLS}/key.pem")).read_text()
    assert key.startswith("-----BEGIN PRIVATE KEY-----")
    assert Path(host.at(f"{TLS}/keystore.pem")).read_text() == key + full
    again = ask(host, pki)
    assert (again.due, again.changed_paths, again.csr) == (False, [], "")


def test_the_request_has_names_addresses_and_usages(host: Machine, pki: Pki) -> None:
    text = openssl("req", "-noout", "-text", stdin=ask(host, pki).csr)
    for expected in (
        "CN = h1",
        "DNS:h1",
        "DNS:localhost",
        "IP Address:10.0.0.1",
        "IP Address:FD77:0:0:35:0:0:0:11",
        "TLS Web Server Authentication",
        "TLS Web Client Authentication",
        "prime256v1",
    ):
        assert expected in text or expected.replace(" = ", "=") in text


def test_renewed_below_a_third_of_its_life_and_not_above(host: Machine, pki: Pki) -> None:
    deploy(host, pki)
    assert not ask(host, pki, days=5.9).due
    due = ask(host, pki, days=6.1)
    assert due.due
    assert "33% of its life" in due.reasons[0]
    assert due.csr
    assert any("expired" in reason for reason in ask(host, pki, days=10).reasons)
    assert ask(host, pki, replace(WANTED, renew_before=0.9), days=2).due


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        (replace(WANTED, dns=("h1", "localhost", "more")), "names differ (DNS:more)"),
        (replace(WANTED, ips=("10.0.0.1", "::1")), "names differ (IP:fd77:0:0:35::11)"),
        (replace(WANTED, common_name="h2", dns=("h1", "localhost", "h2")), "common name is 'h1'"),
    ],
)
def test_other_names_make_it_due(host: Machine, pki: Pki, wanted: Wanted, reason: str) -> None:
    deploy(host, pki)
    assert any(reason in item for item in ask(host, pki, wanted).reasons)


def test_addresses_are_compared_as_addresses(host: Machine, pki: Pki) -> None:
    deploy(host, pki)
    assert not ask(host, pki, replace(WANTED, ips=("10.0.0.1", "FD77::35:0:0:0:11", "0:0:0:0:0:0:0:1"))).due


def test_another_root_or_another_key_makes_it_due(host: Machine, pki: Pki, stranger: Pki) -> None:
    deploy(host, pki)
    assert "does not chain" in ask(host, stranger, check=True).reasons[0]
    Path(host.at(f"{TLS}/key.pem")).write_text(openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"))
    assert "does not belong to the key" in ask(host, pki).reasons[0]


def test_a_torn_key_is_replaced(host: Machine, pki: Pki) -> None:
    deploy(host, pki)
    Path(host.at(f"{TLS}/key.pem")).write_text("-----BEGIN PRIVATE KEY-----\nMIG")
    outcome = ask(host, pki)
    assert outcome.due
    assert f"{TLS}/key.pem" in outcome.changed_paths
    assert outcome.csr


def test_drift_of_mode_root_and_keystore_is_repaired_without_a_new_certificate(host: Machine, pki: Pki) -> None:
    deploy(host, pki)
    os.chmod(host.at(f"{TLS}/key.pem"), 0o666)
    Path(host.at(f"{TLS}/ca.pem")).write_text("x")
    os.unlink(host.at(f"{TLS}/keystore.pem"))
    predicted = ask(host, pki, check=True)
    real = ask(host, pki)
    assert predicted.changed_paths == real.changed_paths == [f"{TLS}/ca.pem", f"{TLS}/key.pem", f"{TLS}/keystore.pem"]
    assert not real.due
    assert not ask(host, pki).changed_paths
    assert stat.S_IMODE(os.stat(host.at(f"{TLS}/key.pem")).st_mode) == 0o640


def test_a_root_that_is_put_back_is_due_where_a_reload_may_have_taken_up_another(host: Machine, pki: Pki) -> None:
    deploy(host, pki)
    wanted = manifest(host, [TLS])
    paths = [Path(host.at(f"{place}/hnai-x.service.reload")) for place in ("/etc/hnai/digests", "/run/hnai")]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(wanted)
    Path(host.at(f"{TLS}/ca.pem")).write_text("x")
    ask(host, pki)
    assert causes(paths[1].read_bytes(), manifest(host, [TLS])) == [f"{TLS}/ca.pem"]


def test_a_kill_between_the_files_of_an_installation_asks_again(host: Machine, pki: Pki, monkeypatch: pytest.MonkeyPatch) -> None:
    deploy(host, pki)
    renewed = pki.sign(ask(host, pki, days=7).csr)
    step = Certificate(host, WANTED)
    monkeypatch.setattr(
        step,
        "_put",
        lambda path, content, mode: (_ for _ in ()).throw(KeyboardInterrupt) if path.endswith("cert.pem") else None,
    )
    with pytest.raises(KeyboardInterrupt):
        step.install(renewed, pki.chain, pki.root)
    assert ask(host, pki, days=7).due
    install(host, pki, renewed)


@pytest.mark.parametrize("wrong", ["key", "issuer", "names", "usages", "garbage"])
def test_a_wrong_certificate_replaces_nothing(host: Machine, pki: Pki, stranger: Pki, tmp_path: Path, wrong: str) -> None:
    deploy(host, pki)
    before = {name: Path(host.at(f"{TLS}/{name}")).read_bytes() for name in names(host)}
    csr = ask(host, pki, days=7).csr
    text = {
        "key": lambda: pki.sign(
            openssl(
                "req",
                "-new",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
                "-nodes",
                "-keyout",
                f"{tmp_path}/k",
                "-subj",
                "/CN=h1",
                "-addext",
                "subjectAltName=DNS:h1,DNS:localhost",
            )
        ),
        "issuer": lambda: stranger.sign(csr),
        "names": lambda: pki.sign(csr, "subjectAltName=DNS:h1\nextendedKeyUsage=serverAuth,clientAuth\n"),
        "usages": lambda: pki.sign(csr, f"subjectAltName={','.join(sorted(WANTED.names))}\nextendedKeyUsage=serverAuth\n"),
        "garbage": lambda: "-----BEGIN CERTIFICATE-----\nMII\n-----END CERTIFICATE-----\n",
    }[wrong]()
    with pytest.raises(HostError, match="refused, nothing was replaced"):
        install(host, pki, text)
    assert {name: Path(host.at(f"{TLS}/{name}")).read_bytes() for name in names(host)} == before


def test_check_mode_on_a_bare_host_is_due_without_a_request(host: Machine, pki: Pki, tmp_path: Path) -> None:
    host.groups.pop("hnai-x")
    outcome = ask(host, pki, check=True)
    assert outcome.due
    assert not outcome.csr
    everything = [f"{TLS}/", *(f"{TLS}/{name}.pem" for name in ("ca", "cert", "key", "keystore"))]
    assert sorted(outcome.changed_paths) == everything
    # Before the first deployment the authority is not known either.
    assert sorted(Certificate(host, WANTED, check=True).request("").changed_paths) == everything
    assert not (tmp_path / "etc").exists()
    with pytest.raises(HostError, match="no group 'hnai-x'"):
        ask(host, pki)


def test_only_the_root(host: Machine, pki: Pki) -> None:
    wanted = Wanted("x", TLS, "hnai-x", ca_only=True)
    outcome = ask(host, pki, wanted)
    assert not outcome.due
    assert names(host) == ["ca.pem"]
    assert not ask(host, pki, wanted).changed_paths


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dns": ("urn:h1:collector",)}, "OPC UA application certificates"),
        ({"directory": "/etc/hnai/x/opcua"}, "OPC UA application certificates"),
        ({"dns": ("no name",)}, "no DNS name"),
        ({"ips": ("10.0.0",)}, "no IP address"),
        ({"common_name": ""}, "no DNS name"),
        ({"component": "../x"}, "not a component's name"),
    ],
)
def test_what_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(HostError, match=message):
        replace(WANTED, **change)


@pytest.mark.parametrize(("off_s", "said"), [(600, "600 s behind"), (-600, "600 s ahead of"), (61, "61 s behind"), (-61, "61 s ahead of")])
def test_a_clock_that_is_wrong_is_refused_before_anything_changes(tmp_path: Path, pki: Pki, off_s: float, said: str) -> None:
    host, now = Machine(tmp_path), later(0)
    with pytest.raises(HostError, match=f"^clock: this host is {said} the controller.*remedy: `chronyc tracking`"):
        Certificate(host, WANTED, now=lambda: now).request(pki.root, now.timestamp() + off_s)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("off_s", [59.0, -59.0, None])
def test_a_clock_within_a_minute_is_taken(tmp_path: Path, pki: Pki, off_s: float | None) -> None:
    now = later(0)
    outcome = Certificate(Machine(tmp_path), WANTED, now=lambda: now).request(pki.root, None if off_s is None else now.timestamp() + off_s)
    assert outcome.due


def test_a_root_that_ended_is_refused_by_name_before_anything_changes(tmp_path: Path, pki: Pki) -> None:
    host, after = Machine(tmp_path), later(31)
    for wanted in (WANTED, replace(WANTED, ca_only=True)):
        with pytest.raises(HostError, match=r"^hnai_ca_pem: the site's root certificate ended at 20.*remedy: .*pki/root"):
            Certificate(host, wanted, now=lambda: after).request(pki.root)
    assert not list(tmp_path.iterdir())


def test_one_valid_root_of_a_bundle_is_enough(tmp_path: Path, pki: Pki, tmp_path_factory: pytest.TempPathFactory) -> None:
    young = tmp_path_factory.mktemp("young")
    openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", f"{young}/k", "-out", f"{young}/c", "-subj", "/CN=y",
            "-days", "60")  # fmt: skip
    outcome = Certificate(Machine(tmp_path), WANTED, now=lambda: later(31)).request(pki.root + (young / "c").read_text())
    assert outcome.due


@pytest.mark.parametrize(("off", "says"), [
    (datetime.timedelta(hours=-1), "it is valid from .* on, and the clock here says"), (datetime.timedelta(days=30), "it expired at"),
])  # fmt: skip
def test_a_clock_that_is_wrong_is_told_from_a_role_that_is(tmp_path: Path, pki: Pki, off: datetime.timedelta, says: str) -> None:
    """OpenBao's clock or the host's: what was signed just now is not valid yet, or not any more."""
    certificate = Certificate(Machine(tmp_path), WANTED, now=lambda: datetime.datetime.now(datetime.timezone.utc) + off)
    csr = Certificate(Machine(tmp_path), WANTED).request(pki.root).csr
    with pytest.raises(HostError, match=rf"nothing was replaced: {says}.*the clock of this host or that of OpenBao's host is wrong"):
        certificate.install(pki.sign(csr), pki.chain, pki.root)
