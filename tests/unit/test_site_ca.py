# SPDX-License-Identifier: Apache-2.0
"""A site's own CA: the right chain in every order and dress is taken, each wrong one is refused with its own sentence, and no private key is shown."""
from __future__ import annotations

import random
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509 as cx509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import dsa, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID
from site_root import DAY, SiteRoot, certificate, key_pem, new_key, request

from ansible_collections.hnai.platform.plugins.module_utils import x509
from ansible_collections.hnai.platform.plugins.plugin_utils import site_ca

NOW = 1_800_000_000.0
LEAST = 90 * DAY
OURS, OTHERS = new_key(), new_key()
CSR = request(OURS, "ours")
CA = SiteRoot(NOW)
RIGHT = CA.sign(CSR)
DEEP = CA.sign(CSR, deep=True)
WEAK = rsa.generate_private_key(public_exponent=65537, key_size=1024)


def given(*pems: str) -> site_ca.Given:
    return site_ca.Given.of("".join(pems))


def judged(*pems: str, least: float = LEAST) -> list[str]:
    return site_ca.judge(given(*pems), NOW, least)


def ours(**more: object) -> list[str]:
    return CA.sign(CSR, **more)  # type: ignore[arg-type]


def test_a_right_chain_whatever_its_order_and_dress() -> None:
    chance = random.Random(8)
    for chain in (RIGHT, DEEP):
        for _time in range(6):
            mixed = chance.sample(chain, len(chain))
            assert judged(*mixed) == chain
            assert judged(*("subject=CN = x\n" + pem.replace("\n", "\r\n") for pem in mixed)) == chain
            assert judged(*mixed, *mixed) == chain, "the same twice is one"
            assert judged(*("\n".join("  " + line for line in pem.split("\n")) + "\n" for pem in mixed)) == chain, "indented, as YAML leaves it"


def strictly(folder: Path, chain: list[str]) -> str:
    """What openssl says, as strictly as Python from 3.13 on has it, of a host's certificate below our intermediate."""
    host = certificate("host", OTHERS.public_key(), "ours", OURS, NOW, ca=False, sign=False, crl=False, days=90)
    for name, text in (("root", chain[-1]), ("full", "".join([host, *chain[:-1]]))):
        (folder / name).write_text(text)
    argv = ["openssl", "verify", "-x509_strict", "-auth_level", "2", "-attime", str(int(NOW)), "-CAfile", "root", "-untrusted", "full", "full"]
    return subprocess.run(argv, cwd=folder, check=False, capture_output=True, text=True, timeout=60).stderr


@pytest.mark.parametrize("chain", [RIGHT, DEEP, SiteRoot(NOW, traced=False, path=1).sign(CSR, path=0)])
def test_what_is_taken_a_strict_client_takes(tmp_path: Path, chain: list[str]) -> None:
    assert judged(*chain) == chain
    assert strictly(tmp_path, chain) == ""


def sha1(folder: Path, self_signed: bool) -> list[str]:
    """Our intermediate, or the root, signed with SHA-1: cryptography makes no such thing any more."""
    def openssl(*argv: str) -> None:
        subprocess.run(["openssl", *argv], cwd=folder, check=True, capture_output=True, timeout=60)

    (folder / "key").write_text(key_pem(CA.key))
    (folder / "csr").write_text(CSR)
    (folder / "ext").write_text(
        "basicConstraints=critical,CA:TRUE\nkeyUsage=keyCertSign,cRLSign\nsubjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n")
    openssl("req", "-x509", "-key", "key", "-sha1" if self_signed else "-sha256", "-days", "3650", "-subj", "/CN=r", "-out", "root",
            "-addext", "keyUsage=keyCertSign,cRLSign")
    openssl("x509", "-req", "-in", "csr", "-CA", "root", "-CAkey", "key", "-CAcreateserial", "-days", "1000", "-extfile", "ext", "-out", "ours",
            "-sha256" if self_signed else "-sha1")
    return [(folder / "ours").read_text(), (folder / "root").read_text()]


def test_sha1_counts_where_somebody_verifies_it(tmp_path: Path) -> None:
    now = x509.read_pem(sha1(tmp_path, False)[0])[0].begin + 60
    with pytest.raises(site_ca.ChainError, match="CN=ours is signed with sha1"):
        site_ca.judge(given(*sha1(tmp_path, False)), now)
    assert len(site_ca.judge(given(*sha1(tmp_path, True)), now)) == 2


def broken_signature() -> list[str]:
    impostor = SiteRoot(NOW)
    return [RIGHT[0], impostor.root]


def by_name_only() -> list[str]:
    """Self-issued, and not signed by its own key."""
    root = certificate("site root", CA.key.public_key(), "site root", CA.middle, NOW, days=3650)
    return [RIGHT[0], root]


WRONG: dict[str, tuple[Callable[[], list[str]], str]] = {
    "a host's certificate": (lambda: ours(ca=False), "CN=ours is no CA .*keyCertSign and cRLSign"),
    "no basic constraints": (lambda: ours(ca=None), "CN=ours is no CA"),
    "may sign nothing": (lambda: ours(sign=False), r"CN=ours may not sign .*\(keyUsage\)"),
    "no key usage": (lambda: ours(sign=None), r"CN=ours may not sign"),
    "signs no revocation list": (lambda: ours(crl=False), r"CN=ours may not sign"),
    "mail only": (lambda: ours(extended=[ExtendedKeyUsageOID.EMAIL_PROTECTION]), "limited to other usages"),
    "servers only": (lambda: ours(extended=[ExtendedKeyUsageOID.SERVER_AUTH]), "limited to other usages"),
    "no identifier": (lambda: ours(identified=False), r"CN=ours lacks subjectKeyIdentifier \("),
    "no identifier of its issuer": (lambda: ours(traced=False), r"CN=ours lacks authorityKeyIdentifier \("),
    "not marked critical": (lambda: ours(critical=False), "CN=ours lacks the mark critical"),
    "an old root without key usage": (lambda: SiteRoot(NOW, sign=None).sign(CSR), "CN=site root may not sign"),
    "an old root without identifiers": (lambda: SiteRoot(NOW, identified=False, traced=False).sign(CSR), r"CN=site root lacks subjectKeyIdentifier \("),
    "the root allows none below": (lambda: SiteRoot(NOW, path=0).sign(CSR), r"CN=site root allows 0 CA\(s\) under it \(path length\), and 1 stand"),
    "the CA between allows none below": (
        lambda: [DEEP[0], CA.between(path=0), CA.root], r"CN=site issuing allows 0 CA\(s\) under it \(path length\), and 1 stand"),
    "the CA between is none": (lambda: [DEEP[0], CA.between(ca=False), CA.root], "CN=site issuing is no CA"),
    "the CA between is missing": (lambda: [DEEP[0], CA.root], "CN=ours was issued by CN=site issuing, which is missing"),
    "the root is missing": (lambda: RIGHT[:1], "the site's root is missing: .*CN=ours leads"),
    "the root is missing above another": (lambda: DEEP[:2], "the site's root is missing"),
    "the root alone": (lambda: RIGHT[1:], "holds the root CN=site root alone"),
    "another key under the root's name": (broken_signature, "CN=ours names CN=site root as its issuer, and that key has not signed it"),
    "a root that is none": (by_name_only, "the root CN=site root is not signed by its own key"),
    "two roots": (lambda: [*RIGHT, SiteRoot(NOW, name="other root").root], "CN=other root does not belong to the chain"),
    "two of ours": (lambda: [*RIGHT, SiteRoot(NOW).sign(request(OTHERS, "theirs"))[0]], "is not one chain: .*CN=theirs"),
    "ours has ended": (lambda: ours(since_days=20, days=-1), r"CN=ours \(our intermediate\) ended at 20.*renew"),
    "ours begins later": (lambda: ours(since_days=-2), r"CN=ours \(our intermediate\) is valid from 20.* on only"),
    "ours ends too soon": (lambda: ours(days=89), r"CN=ours \(our intermediate\) ends at 20.* certificates of 90 d"),
    "the root has ended": (lambda: SiteRoot(NOW, since_days=20, days=-1).sign(CSR), r"CN=site root \(the site's root\) ended at 20"),
    "the root ends too soon": (lambda: SiteRoot(NOW, days=30).sign(CSR), r"CN=site root \(the site's root\) ends at"),
    "the CA between has ended": (
        lambda: [DEEP[0], CA.between(since_days=20, days=-1), CA.root], r"CN=site issuing \(a CA of the site\) ended"),
    "a weak key": (lambda: CA.sign(request(WEAK, "ours")), "the key of CN=ours is weak"),
    "a weak root": (lambda: [RIGHT[0], certificate("site root", WEAK.public_key(), "site root", WEAK, NOW)], "the key of CN=site root is weak"),
    "a key that is of no use": (
        lambda: [certificate("ours", dsa.generate_private_key(1024).public_key(), "site root", CA.key, NOW), CA.root], "the key of CN=ours is weak or of"),
    "nothing": (lambda: ["a letter from the CA\n"], "holds no certificate in PEM; DER"),
    "cut off": (lambda: [RIGHT[0], RIGHT[1][:200]], "a certificate in it is cut off"),
    "garbage": (lambda: [RIGHT[1], "-----BEGIN CERTIFICATE-----\nTUlJQg==\n-----END CERTIFICATE-----\n"], "cannot be read"),
    "the whole trust store": (lambda: [SiteRoot(NOW, name=f"r{number}").root for number in range(11)], "holds 11 certificates"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_chain_is_refused_with_its_place_and_cause(name: str, tmp_path: Path) -> None:
    make, sentence = WRONG[name]
    path = tmp_path / "intermediate.pem"
    path.write_text("".join(make()), encoding="ascii")
    with pytest.raises(site_ca.ChainError, match=sentence) as caught:
        site_ca.judge(site_ca.Given.of(str(path)), NOW, LEAST)
    assert str(caught.value).startswith(f"{path}: ")
    assert caught.value.ended == bool({"ended", "begins", "ends"} & set(name.split()))
    assert site_ca.problem(site_ca.Given.of(str(path)), NOW, LEAST) == ([], str(caught.value))


def test_a_private_key_is_refused_and_never_shown(tmp_path: Path) -> None:
    path = tmp_path / "intermediate.pem"
    secret = key_pem(CA.key)
    for text in ("".join(RIGHT) + secret, secret.replace("PRIVATE", "ENCRYPTED PRIVATE"), secret.replace("BEGIN ", "BEGIN EC ")):
        path.write_text(text)
        for value in (text, str(path)):
            with pytest.raises(site_ca.ChainError, match="holds a private key") as caught:
                site_ca.Given.of(value)
            assert secret.split("\n")[1] not in str(caught.value) + repr(caught.value.__cause__)


def test_what_is_not_there_yet_is_no_mistake(tmp_path: Path) -> None:
    for value in ("", None, str(tmp_path / "absent.pem")):
        assert site_ca.problem(site_ca.Given.of(value), NOW) == ([], "")
    with pytest.raises(site_ca.ChainError, match="cannot be read"):
        site_ca.Given.of(str(tmp_path))


def test_the_request_stays_the_one_that_was_handed_over(tmp_path: Path) -> None:
    """Each answer of OpenBao for one key is signed anew, and what lies at the site's CA must not look like an old one."""
    target = tmp_path / "openbao/intermediate.csr"
    site_ca.publish(target, CSR)
    site_ca.publish(target, request(OURS, "ours"))
    assert target.read_text() == CSR and target.stat().st_mode & 0o777 == 0o644
    site_ca.publish(target, request(OTHERS, "ours"))
    assert x509.public_key(target.read_text()) == x509.public_key(request(OTHERS, "ours"))


def said(text: str, in_force: str = "", csr: str = CSR) -> str:
    one = site_ca.Given.of(text)
    return site_ca.waiting(Path("/state/openbao/intermediate.csr"), one, site_ca.problem(one, NOW, LEAST)[1], csr, in_force, NOW, LEAST, "playbooks/site.yml")


def test_the_sentence_with_which_a_run_ends() -> None:
    waits = "The site's CA has to sign our intermediate"
    first = said("")
    for part in (waits, "/state/openbao/intermediate.csr", "CA:TRUE", "path length 0 or more", "keyCertSign and cRLSign", "valid beyond 2027-04-15",
                 "openbao_intermediate_chain", "playbooks/site.yml again", CSR.strip()):  # fmt: skip
        assert part in first
    old = CA.sign(request(OTHERS, "ours"))
    assert said("".join(old), in_force=old[0]).startswith(waits), "the chain in force is no wrong one for the next request"
    ending = CA.sign(request(OTHERS, "ours"), days=30)
    assert said("".join(ending), in_force=ending[0]).startswith(waits), "nor is it for coming to its end, which is why it is replaced"
    assert "is for another key than the request" in said("".join(old)) and waits not in said("".join(old))
    assert "CN=ours is no CA" in said("".join(ours(ca=False))) and waits not in said("".join(ours(ca=False)))


@pytest.mark.parametrize("key", [OURS, WEAK])
def test_the_key_of_a_certificate_and_of_a_request(key: object) -> None:
    """As cryptography tells it."""
    spki = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)  # type: ignore[attr-defined]
    csr = request(key, "ours")
    assert x509.public_key(csr) == x509.public_key(CA.sign(csr)[0]) == spki
    assert x509.public_key("text before\n" + csr) == spki
    for text in ("", key_pem(OURS), *("-----BEGIN CERTIFICATE-----\n%s\n-----END CERTIFICATE-----" % body for body in ("!!", "MAA="))):
        with pytest.raises(x509.X509Error):
            x509.public_key(text)
    assert cx509.load_pem_x509_csr(csr.encode()).is_signature_valid
