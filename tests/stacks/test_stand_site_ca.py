# SPDX-License-Identifier: Apache-2.0
"""A site's own CA on a real OpenBao: request, signature by a throw-away root, certificates below it; killed in between, wrong chains, the next intermediate.

The controller's side is the action itself, the host's the module itself; what is not here is SSH. Nothing of the lab is used.
"""
from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import loopback_bao
import pytest
from ansible.errors import AnsibleActionFail
from ansible.module_utils.testing import patch_module_args
from conftest import ROOT
from stands import ask

sys.path.insert(0, str(ROOT / "tests/unit"))
from identity_stand import Killed, Life, Mortal
from own_files import OwnFiles
from site_root import SiteRoot, key_pem, new_key, request

from ansible_collections.hnai.platform.plugins.action import openbao_site
from ansible_collections.hnai.platform.plugins.module_utils import authority_trust, x509
from ansible_collections.hnai.platform.plugins.module_utils.authority_trust import blocks
from ansible_collections.hnai.platform.plugins.module_utils.hostfiles import Host
from ansible_collections.hnai.platform.plugins.module_utils.openbao import authority, authority_steps, component
from ansible_collections.hnai.platform.plugins.module_utils.openbao.client import Api, NotFound
from ansible_collections.hnai.platform.plugins.module_utils.openbao.rotation import RotationError
from ansible_collections.hnai.platform.plugins.modules import openbao_site as site_module
from ansible_collections.hnai.platform.plugins.modules import vault_health
from ansible_collections.hnai.platform.plugins.plugin_utils import openbao_keys

pytestmark = pytest.mark.scenario("stand-bao")
GROUPS = {"openbao": ["sec1"], "mosquitto": ["edge1"]}
DAY = 86400
WAITS = "The site's CA has to sign our intermediate"


@pytest.fixture(scope="module")
def bao(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The server's binary."""
    return loopback_bao.binary(tmp_path_factory.mktemp("bao"))


class Site:
    """A store that was initialised, its controller's state directory, and runs of the role's task `Bring OpenBao in step with the contracts`."""

    def __init__(self, loop: loopback_bao.Loopback, state: Path) -> None:
        self.loop, self.state = loop, state
        self.init = loop.client.call("POST", "sys/init", {"secret_shares": 1, "secret_threshold": 1})
        loop.unseal(self.init["keys_base64"])
        loopback_bao.drill.active(loop.client)
        openbao_keys.store(state / "openbao/init.json", self.init)
        self.trust = loop.directory / "trust.pem"
        self.trust.write_bytes((loop.directory / "cert.pem").read_bytes())
        self.chain = state / "openbao/intermediate.pem"
        self.csr = state / "openbao/intermediate.csr"
        self.api: Api = loop.client

    def run(self, check: bool = False, **more: Any) -> dict[str, Any]:
        """One run; a failure is a result, as it is for Ansible."""
        made = openbao_site.ActionModule.__new__(openbao_site.ActionModule)
        made._task = SimpleNamespace(check_mode=check, async_val=0, _role=None, args={
            "keys_file": str(self.state / "openbao/init.json"), "identities_file": str(self.state / "openbao/deploy.json"),
            "root_ca_file": str(self.state / "ca.pem"), "site": "loop", "address": self.loop.client.address, "ca_file": str(self.trust),
            "root_ca": "site", "intermediate_chain": str(self.chain), "request_file": str(self.csr), **more,
        })  # fmt: skip
        made._supports_check_mode, made._supports_async = True, False
        made._connection = SimpleNamespace(_play_context=SimpleNamespace(no_log=False), always_pipeline_modules=False)
        made._execute_module = lambda module_name, module_args, task_vars: self._module({**module_args, "_ansible_check_mode": check})
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(openbao_site.ActionBase, "run", lambda self, tmp=None, task_vars=None: {})
            try:
                return made.run(None, {"groups": GROUPS})
            except AnsibleActionFail as error:
                return {"failed": True, "msg": str(error)}

    def _module(self, given: Mapping[str, Any]) -> dict[str, Any]:
        printed = io.StringIO()
        with pytest.MonkeyPatch.context() as patch, patch_module_args(dict(given)), contextlib.redirect_stdout(printed):
            patch.setattr(site_module, "connect", lambda given: self.api)
            with pytest.raises(SystemExit):
                site_module.main()
        found: dict[str, Any] = json.loads(printed.getvalue())
        return found

    @property
    def deploy(self) -> dict[str, str]:
        return dict((openbao_keys.load(self.state / "openbao/deploy.json") or {})["deploy"])

    @contextlib.contextmanager
    def authority(self, chain: list[str] | None = None) -> Iterator[authority.Pki]:
        token = component.enter(self.loop.client, "authority", self.deploy)
        yield authority.Pki(self.loop.client, token, "pki_root", "pki_int", {"intermediate": "loop intermediate CA"}, chain=chain or ())

    def keys(self) -> int:
        """How many keys of CAs there are; none of them is a root's."""
        with self.authority() as pki:
            return len(pki._call_list("pki_int/keys"))

    def issuers(self, mount: str) -> dict[str, Any]:
        try:
            return dict(self.loop.client.call("LIST", mount + "/issuers")["data"]["key_info"])
        except NotFound:
            return {}

    def certificate(self, folder: Path) -> dict[str, Any]:
        """One of the MQTT broker's, and what openssl says of it below the root that hosts trust."""
        asked = {"csr": request(new_key(), "edge1"), "common_name": "edge1", "dns": ["edge1"], "ips": []}
        made = component.visit(self.loop.client, "mosquitto", self.deploy, request=asked)["certificate"]
        (folder / "full").write_text(made["certificate"] + "".join(made["ca_chain"]))
        done = subprocess.run(["openssl", "verify", "-x509_strict", "-CAfile", self.state / "ca.pem", "-untrusted", folder / "full", folder / "full"],
                              capture_output=True, text=True, timeout=60, check=False)  # fmt: skip
        assert done.returncode == 0, done.stderr
        return dict(made)


@pytest.fixture
def fresh(bao: Path, tmp_path: Path) -> Iterator[Site]:
    with loopback_bao.server(bao) as loop:
        yield Site(loop, tmp_path / "state")


def test_from_the_request_to_a_host_s_certificate(fresh: Site, tmp_path: Path) -> None:
    predicted = fresh.run(check=True)
    assert predicted["changed"] and any("request for the intermediate" in change for change in predicted["changes"]) and not fresh.csr.exists()

    first = fresh.run()
    assert first["failed"] and first["msg"].startswith(WAITS) and str(fresh.csr) in first["msg"] and str(fresh.chain) in first["msg"]
    csr = fresh.csr.read_text()
    assert first["csr"].strip() == csr.strip() and fresh.csr.stat().st_mode & 0o777 == 0o644
    assert "CA:TRUE" in subprocess.run(["openssl", "req", "-in", fresh.csr, "-noout", "-text"], capture_output=True, text=True, check=True).stdout
    assert first["root_revoked"] and not (fresh.state / "ca.pem").exists()
    assert fresh.issuers("pki_root") == fresh.issuers("pki_int") == {}

    again = fresh.run()
    assert again["failed"] and again["msg"].startswith(WAITS) and fresh.csr.read_text() == csr and fresh.keys() == 1
    assert any("request for the intermediate" in change for change in fresh.run(check=True)["changes"])

    ca = SiteRoot(time.time())
    wrong: dict[str, tuple[list[str], str]] = {
        "another key": (ca.sign(request(new_key(), "loop intermediate CA")), "is for another key than the request"),
        "a host's certificate": (ca.sign(csr, ca=False), "is no CA"),
        "no root": (ca.sign(csr)[:1], "the site's root is missing"),
        "another root": ([ca.sign(csr)[0], SiteRoot(time.time()).root], "that key has not signed it"),
        "too short": (ca.sign(csr, days=30), "ends at"),
    }  # fmt: skip
    for name, (chain, sentence) in wrong.items():
        fresh.chain.write_text("".join(chain))
        said = fresh.run()
        assert said["failed"] and sentence in said["msg"] and str(fresh.chain) in said["msg"] and WAITS not in said["msg"], (name, said)
        assert fresh.issuers("pki_root") == fresh.issuers("pki_int") == {}, name
    secret = key_pem(ca.key)
    fresh.chain.write_text("".join(ca.sign(csr)) + secret)
    said = fresh.run()
    assert said["failed"] and "private key" in said["msg"] and secret.split("\n")[1] not in json.dumps(said)

    chain = ca.sign(csr, deep=True)
    fresh.chain.write_text("".join(reversed(chain)))
    assert any("as the site's CA has signed it" in change for change in fresh.run(check=True)["changes"]) and fresh.issuers("pki_int") == {}
    taken = fresh.run()
    assert not taken.get("failed") and taken["changed"] and not taken.get("warnings"), taken
    assert (fresh.state / "ca.pem").read_text() == ca.root and ca.root.strip() in fresh.trust.read_text()
    made = fresh.certificate(tmp_path)
    assert made["ca_chain"] == chain[:2] and made["root"] == ca.root
    assert [info["key_id"] for info in fresh.issuers("pki_root").values()] == [""], "no key of a root"
    assert fresh.keys() == 1

    settled = fresh.run()
    assert (settled["changed"], settled["changes"], settled.get("failed")) == (False, [], None) and not settled.get("warnings")
    assert not fresh.run(check=True)["changed"]
    fresh.chain.unlink()
    assert not fresh.run()["changed"], "what is in force needs the file no more (AWX)"
    fresh.chain.write_text("".join(ca.sign(request(new_key(), "x"))))
    assert "rotate_secret=pki/intermediate" in fresh.run()["warnings"][0]
    refused = fresh.run(root_ca="own")
    assert refused["failed"] and "openbao_root_ca is own" in refused["msg"] and len(fresh.issuers("pki_root")) == 1


def test_a_root_of_ours_is_never_exchanged_in_silence(fresh: Site) -> None:
    assert not fresh.run(root_ca="own").get("failed")
    before = fresh.issuers("pki_root"), fresh.issuers("pki_int"), (fresh.state / "ca.pem").read_text()
    for check in (True, False):
        refused = fresh.run(check)
        assert refused["failed"] and "openbao_root_ca is site, and the root CA that the hosts trust is OpenBao's own" in refused["msg"], refused
        assert "rotate_secret=pki/root" in refused["msg"]
    assert (fresh.issuers("pki_root"), fresh.issuers("pki_int"), (fresh.state / "ca.pem").read_text()) == before
    assert not fresh.run(root_ca="own")["changed"]


def test_killed_after_any_call_the_next_run_goes_on(fresh: Site) -> None:
    """Each kill in mounts of its own: one key, one trusted root, the intermediate in force, whatever was cut short."""
    root, client, now = self_root(fresh), fresh.loop.client, time.time()
    number = 0
    for signed in (False, True):
        for last in range(1, 30):
            number += 1
            mounts = f"r{number}", f"i{number}"
            for mount in mounts:
                client.call("POST", "sys/mounts/" + mount, {"type": "pki"}, token=root)

            def pki(api: Api, chain: list[str], mounts: tuple[str, str] = mounts) -> authority.Pki:
                return authority.Pki(api, root, *mounts, {"intermediate": "x"}, chain=chain)

            ca = SiteRoot(now)
            chain = ca.sign(waiting(lambda pki=pki: pki(client, []).first())) if signed else []
            life, done = Life(last), False
            with contextlib.suppress(Killed, authority.Unsigned):
                pki(Mortal(client, life), chain).first()
            done = life.events < last
            csr = waiting(lambda pki=pki: pki(client, []).first()) if not chain else ""
            if not client.call("GET", mounts[1] + "/config/issuers", token=root)["data"]["default"]:  # else no run of the site looks any further
                pki(client, chain or ca.sign(csr)).first()
            trusted = authority.trust_bundle(client, mounts[0])
            assert trusted == ca.root
            made = pki(client, [])
            assert len(made._call_list(mounts[1] + "/keys")) == 1
            assert made.current().root_pem == ca.root and made.signs(made.current()) and made.current_pem(authority.ROOT).strip() == ca.root.strip()
            if done:
                break
        else:
            raise AssertionError("it never came to its end")
        assert last >= 3


def test_a_killed_import_of_another_chain_leaves_one_root(fresh: Site) -> None:
    """Its root had been imported, nothing was signed below it, and then the site's CA handed out another chain."""
    root, client = self_root(fresh), fresh.loop.client
    for mount in ("r", "i"):
        client.call("POST", "sys/mounts/" + mount, {"type": "pki"}, token=root)
    pki = authority.Pki(client, root, "r", "i", {"intermediate": "x"})
    csr = waiting(pki.first)
    pki._take_over(SiteRoot(time.time()).root)
    ca = SiteRoot(time.time(), name="the right one")
    authority.Pki(client, root, "r", "i", {"intermediate": "x"}, chain=ca.sign(csr)).first()
    assert authority.trust_bundle(client, "r") == ca.root


def self_root(fresh: Site) -> str:
    return str(fresh.init["root_token"])


def waiting(first: Callable[[], None]) -> str:
    with pytest.raises(authority.Unsigned) as caught:
        first()
    return caught.value.csr


class Rotation:
    """Runs of `rotate`, step by step as its playbook takes them, with a host that says yes to everything."""

    runs = 0

    def __init__(self, site: Site, path: str, root_ca: str = "site") -> None:
        self.site, self.path, self.root_ca = site, path, root_ca

    def step(self, state: str, chain: list[str] | None = None, **more: Any) -> dict[str, Any]:
        Rotation.runs += 1
        given = {
            "kv": "hnai", "pki_root": "pki_root", "pki_int": "pki_int", "site": "loop", "root_ttl_s": 3650 * DAY, "intermediate_ttl_s": 1825 * DAY,
            "path": self.path, "root_ca": self.root_ca, "owner": "o", "dead": [], "resume": "", "rollback": "", "expected": ["edge1"], "reason": "request",
            "grace": 0, "acks": {}, "proof": {}, "run_id": f"run{self.runs}", "fence": 0, "state": state, "chain": chain or [], **more,
        }  # fmt: skip
        return authority_steps.visit(self.site.loop.client, self.site.deploy, given)

    def end(self, found: dict[str, Any], look: Callable[[str], None] = lambda state: None) -> dict[str, Any]:
        """The other steps; *look* is called after each, as an ordinary run of the site may come between."""
        for state in ("trusted", "signing", "committed", "dropped", "closed"):
            last = found["rotation"]
            proof = {"trusted": {"new_works": True, "wrong_refused": True}, "closed": {"new_works": True, "old_unused": True}}.get(state, {})
            found = self.step(state, run_id=last["run_id"], fence=last["fence"], acks={"edge1": last["fp_new"]}, proof=proof)
            look(state)
        assert found["rotation"]["last"]["outcome"] == "rotated"
        return found

    def request(self, chain: list[str] | None = None) -> str:
        """What is to be signed."""
        return waiting(lambda: self.step("prepared", chain) and None)


class Stands:
    """A host, as the steps of the authority judge it: what its bundle verifies, and which authority its certificate (`Site.certificate`) is of."""

    def __init__(self, folder: Path, found: dict[str, Any]) -> None:
        self.folder = folder
        self.stays, self.goes = found["stays"]["anchor"], found["goes"]["anchor"]
        self.roots = found["roots"]

    def trusts(self, chains: list[str], bundle: str = "") -> list[str]:
        (self.folder / "bundle").write_text(bundle or self.roots, encoding="ascii")
        return authority_trust.judge_bundles(Host(), [str(self.folder / "bundle")], chains)

    def serves(self) -> str:
        there = self.folder / "host/etc/hnai/mosquitto/tls"
        there.mkdir(parents=True, exist_ok=True)
        (there / "cert.pem").write_text((self.folder / "full").read_text(encoding="ascii"), encoding="ascii")
        return authority_trust.leaf(OwnFiles(str(self.folder / "host")), "mosquitto", self.stays, self.goes)


def test_the_next_intermediate_under_the_site_s_root(fresh: Site, tmp_path: Path) -> None:
    assert fresh.run()["failed"]
    ca = SiteRoot(time.time())
    fresh.chain.write_text("".join(ca.sign(fresh.csr.read_text(), deep=True)))
    assert not fresh.run().get("failed")
    run = Rotation(fresh, authority.INTERMEDIATE)
    assert "the site's CA has to sign the request" in str(run.step("planned")["plan"])

    given_up = run.request()
    open_run = run.step("planned")["rotation"]["run_id"]
    with pytest.raises(RotationError, match="is given up"):
        run.step("prepared", rollback=open_run)
    assert not run.step("planned")["rotation"]["open"]

    csr = run.request()
    assert x509.public_key(csr) != x509.public_key(given_up)
    assert x509.public_key(run.request(ca.sign(given_up))) == x509.public_key(csr), "no second key"
    with pytest.raises(RotationError, match="another root than the one that hosts trust"):
        run.step("prepared", SiteRoot(time.time(), name="other root").sign(csr))
    old = fresh.certificate(tmp_path)["ca_chain"][0]
    chain = ca.sign(csr, deep=True)
    found = run.step("prepared", chain)
    stands = Stands(tmp_path, found)
    assert stands.trusts(found["chains"]) == [] and stands.serves() == authority_trust.GOES
    assert found["roots"] == ca.root and [chain.count("BEGIN") for chain in found["chains"]] == [2, 2]
    assert run.end(found)["roots"] == ca.root
    served = fresh.certificate(tmp_path)["ca_chain"]
    assert served == chain[:2] and served[0] != old, "of the CA between, the certificate that this chain has"
    assert stands.trusts(found["chains"]) == [] and stands.serves() == authority_trust.STAYS
    assert "the chain of the intermediate that signs" in fresh.run()["warnings"][0], "the file still holds the old one"
    fresh.chain.write_text("".join(chain))
    settled = fresh.run()
    assert not settled["changed"] and not settled.get("warnings")


def between(fresh: Site, root_ca: str, old: str, new: str) -> Callable[[str], None]:
    """An ordinary run after each step: it ends well, and hosts trust what that step says."""
    def look(state: str) -> None:
        run = fresh.run(root_ca=root_ca)
        assert not run.get("failed"), (state, run)
        trusted = (fresh.state / "ca.pem").read_text()
        assert (old.strip() in trusted, new.strip() in trusted) == (state in ("trusted", "signing", "committed"), True), state

    return look


def test_from_a_root_of_ours_to_the_site_s_to_its_next_and_back(fresh: Site, tmp_path: Path) -> None:
    """No other way leads there, and each is trust both, issue, drop; an ordinary run between any two steps changes nothing."""
    assert not fresh.run(root_ca="own").get("failed")
    first, second = SiteRoot(time.time()), SiteRoot(time.time(), name="next root")
    before = (fresh.state / "ca.pem").read_text()
    for number, ca in enumerate((first, second)):
        run = Rotation(fresh, authority.ROOT)
        csr = run.request()
        if number:
            with pytest.raises(RotationError, match="ends in the root that hosts trust already"):
                run.step("prepared", first.sign(csr))
        chain = ca.sign(csr, deep=True)
        fresh.chain.write_text("".join(chain))
        fresh.certificate(tmp_path)
        found = run.step("prepared", chain)
        stands = Stands(tmp_path, found)
        assert stands.trusts(found["chains"], before) == [f"{tmp_path}/bundle does not trust authority 2 of 2"]
        assert stands.trusts(found["chains"], found["roots"]) == [] and stands.serves() == authority_trust.GOES
        assert sorted(blocks(found["roots"])) == sorted(blocks(before + ca.root))

        assert run.end(found, between(fresh, "site", before, ca.root))["roots"] == ca.root
        assert fresh.certificate(tmp_path)["ca_chain"] == chain[:2]
        assert stands.trusts(found["chains"][1:], ca.root) == [] and stands.serves() == authority_trust.STAYS
        settled = fresh.run()
        assert not settled["changed"] and not settled.get("warnings")
        before = ca.root
    run = Rotation(fresh, authority.ROOT, "own")
    found = run.step("prepared")
    ours = found["roots"].replace(before, "")
    assert run.end(found, between(fresh, "own", before, ours))["roots"] == ours != ""
    assert not fresh.run(root_ca="own").get("failed") and len(fresh.certificate(tmp_path)["ca_chain"]) == 1
    assert fresh.run()["failed"]


def test_the_end_of_the_site_s_root_is_named_as_the_site_s(fresh: Site) -> None:
    assert fresh.run()["failed"]
    fresh.chain.write_text("".join(SiteRoot(time.time(), days=100).sign(fresh.csr.read_text(), deep=True)))
    assert not fresh.run().get("failed")
    found = ask(vault_health, {"deploy": fresh.deploy, "address": fresh.loop.client.address, "ca_file": str(fresh.trust), "cert_file": str(fresh.trust),
                               "min_audit_devices": 1})["checks"]  # fmt: skip
    check = next(one for one in found if one["id"] == "BAO12")
    assert (check["status"], check["evidence"]["days_left"]["CA 1 above it"] > 1900) == ("fail", True)
    assert "the root ends first (100.0 days), and it is the site's: whoever runs the site's CA renews it" in check["reason"]
