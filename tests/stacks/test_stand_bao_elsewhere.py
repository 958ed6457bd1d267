# SPDX-License-Identifier: Apache-2.0
"""An OpenBao or Vault that somebody else runs, asked at its address: a real server on another loopback address, with a certificate of its own authority.

Its owner initialises and unseals it at his own listener. The site has the address, the authority and, in one of the servers, a namespace; the modules run
as the role calls them, one after another. Nothing of the lab is used but its inventory. What is asked of OpenBao (`stand-bao`) is asked of HashiCorp Vault,
too (`stand-vault`).
"""
from __future__ import annotations

import contextlib
import importlib
import io
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import loopback_bao
import pytest
import yaml
from ansible.module_utils.testing import patch_module_args
from conftest import ROOT
from identity_stand import Controller, Killed, Life
from jinja2 import StrictUndefined
from jinja2.nativetypes import NativeEnvironment
from stands import ask, said

from ansible_collections.hnai.platform.plugins.action import openbao_site
from ansible_collections.hnai.platform.plugins.filter.rotation import declared, rotations
from ansible_collections.hnai.platform.plugins.module_utils.openbao import authority, component, drill, elsewhere, inventory, seal_keys
from ansible_collections.hnai.platform.plugins.module_utils.openbao.bootstrap import Keys
from ansible_collections.hnai.platform.plugins.module_utils.openbao.client import BaoError, Forbidden, NotFound, login
from ansible_collections.hnai.platform.plugins.modules import approle_rotation, authority_rotation, openbao_component, openbao_retire, vault_rotate
from ansible_collections.hnai.platform.plugins.modules import openbao_site as site_module
from ansible_collections.hnai.platform.plugins.plugin_utils import contracts, openbao_keys

pytestmark = pytest.mark.scenario("stand-bao")
ROLE = ROOT / "roles/openbao"
OWNER = "the security office"
THERE = "127.0.0.2"
#: What its owner has, as the verdict says it.
HIS = {"BAO04": f"skipped : external: {OWNER}", "BAO11": f"skipped : external: {OWNER}"}
SECRET = "questdb/backend"
#: What a step of an authority's rotation is told by the inventory.
SPANS = {"site": "loop", "root_ttl_s": 3650 * loopback_bao.DAY, "intermediate_ttl_s": 1825 * loopback_bao.DAY, "expected": ["data1"], "owner": "a controller"}
#: Everything where it is written, and not root: the owner's, and the site's in a namespace of its own.
EVERYTHING = 'path "*" {\n  capabilities = ["create", "read", "update", "delete", "list", "sudo"]\n}\n'


class Site:
    """The site's side: the controller's state, the role's variables, and whom it asks."""

    def __init__(self, loop: loopback_bao.Loopback, state: Path, external: Mapping[str, str], token: str, vault: bool) -> None:
        self.loop, self.state, self.owner, self.vault = loop, state, token, vault
        self.given = yaml.safe_load((ROLE / "defaults/main.yml").read_text(encoding="utf-8")) | {
            "hnai_site": "loop", "openbao_external": dict(external), "groups": sys.modules["lab_conftest"].Lab().groups,
            "__openbao_address": "https://127.0.0.1:1", "__openbao_version": "9", "hnai_openbao_deploy": {},
            "hnai_addresses": {"v4": "127.0.0.1", "v6": "::1"},
        }  # fmt: skip
        #: What a call would use that is not told where the server is: there is nobody.
        self.nowhere = {"address": "https://127.0.0.1:1", "ca_file": str(state / "nowhere/ca.pem")}

    @property
    def external(self) -> dict[str, str]:
        return dict(self.given["openbao_external"])

    @property
    def deploy(self) -> dict[str, str]:
        return dict((openbao_keys.load(self.state / "openbao/deploy.json") or {})["deploy"])

    def converge(self, token: str = "", check: bool = False, **more: Any) -> dict[str, Any]:
        """The role's task, controller's and host's side; a failure is a result."""
        made = openbao_site.ActionModule.__new__(openbao_site.ActionModule)
        made._task = SimpleNamespace(check_mode=check, async_val=0, _role=None, args={
            "keys_file": str(self.state / "openbao/init.json"), "identities_file": str(self.state / "openbao/deploy.json"),
            "root_ca_file": str(self.state / "ca.pem"), "site": "loop",
            "external": self.external, "addresses": ["127.0.0.1", "::1"], "root_token": token, **self.nowhere, **more,
        })  # fmt: skip
        made._supports_check_mode, made._supports_async = True, False
        made._connection = SimpleNamespace(_play_context=SimpleNamespace(no_log=False), always_pipeline_modules=False)
        made._execute_module = lambda module_name, module_args, task_vars: self._module({**module_args, "_ansible_check_mode": check})
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(openbao_site.ActionBase, "run", lambda self, tmp=None, task_vars=None: {})
            return made.run(None, {"groups": self.given["groups"]})

    @staticmethod
    def _module(given: Mapping[str, Any]) -> dict[str, Any]:
        printed = io.StringIO()
        with patch_module_args(dict(given)), contextlib.redirect_stdout(printed), pytest.raises(SystemExit):
            site_module.main()
        found: dict[str, Any] = json.loads(printed.getvalue())
        return found

    def ask(self, module: Any, **arguments: Any) -> dict[str, Any]:
        """A module as a task calls it on the host of the group."""
        return ask(module, {"deploy": self.deploy, "external": self.external, **self.nowhere, **arguments})

    def certificate(self, folder: Path) -> dict[str, Any]:
        """One of QuestDB's, as its role asks for it."""
        asked = {"csr": self.request(folder), "common_name": "data1"}
        return dict(self.ask(openbao_component, component="questdb", sign=asked)["certificate"])

    @staticmethod
    def request(folder: Path) -> str:
        """For a new key."""
        return loopback_bao.run(["openssl", "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=data1",
                                 "-keyout", folder / "key.pem"])[1]  # fmt: skip

    def theirs(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Its owner's hand, at his own listener."""
        return self.loop.client.call(method, f"{self.external.get('namespace', '')}/{path}".lstrip("/"), body, token=self.owner)

    def judge(self) -> list[dict[str, Any]]:
        """Both tasks of the role's verify.yml."""
        native = NativeEnvironment(undefined=StrictUndefined, autoescape=False)
        native.filters |= {"hnai.platform.rotations": rotations, "hnai.platform.openbao_spec": declared}
        known = {name: contracts.asking(one, self.external) if name == "openbao" else one for name, one in contracts.all().items()}
        native.globals["lookup"] = lambda _name: {"groups": self.given["groups"], "contracts": known, "external": {"openbao": self.external}}
        given = self.given | {"hnai_openbao_deploy": self.deploy}
        found: list[dict[str, Any]] = []
        for task in yaml.safe_load((ROLE / "tasks/verify.yml").read_text(encoding="utf-8")):
            ((name, asked),) = [(key.removeprefix("hnai.platform."), value) for key, value in task.items() if key.startswith("hnai.platform.")]
            wanted = {key: native.from_string(value).render(given) if isinstance(value, str) else value for key, value in asked.items()}
            found += ask(importlib.import_module("ansible_collections.hnai.platform.plugins.modules." + name), wanted)["checks"]
        return found

    def log(self) -> str:
        return (self.loop.directory / "audit.log").read_text(encoding="utf-8")


@pytest.fixture(scope="module", params=["whole", "namespace", pytest.param("vault", marks=pytest.mark.scenario("stand-vault"))])
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    vault = request.param == "vault"
    bao, theirs = (loopback_bao.vault if vault else loopback_bao.binary)(tmp_path_factory.mktemp("bao")), tmp_path_factory.mktemp("theirs")
    cert, key, ca = loopback_bao.authority(theirs, THERE)

    def configuration(directory: Path, port: int) -> str:
        """The owner's listener, and the one that he offers."""
        return (drill.configuration(str(directory), port) + "disable_mlock = true\n" if vault else loopback_bao.one_device(directory, port)) + (
            f'listener "tcp" {{\n  address = "{THERE}:{port}"\n  cluster_address = "{THERE}:{port + 1}"\n'
            f'  tls_cert_file = "{cert}"\n  tls_key_file = "{key}"\n}}\n'
        )

    with loopback_bao.server(bao, configuration) as loop:
        loop.init = loop.client.call("POST", "sys/init", {"secret_shares": 1, "secret_threshold": 1})
        loop.unseal(loop.init["keys_base64"])
        drill.active(loop.client)
        external = {"owner": OWNER, "address": f"https://{THERE}:{loop.client.port}", "ca": ca.read_text(encoding="ascii")}
        token = str(loop.init["root_token"])
        owner = given(loop, "", token)
        if vault:  # it takes its audit devices by API
            loop.client.call("POST", "sys/audit/primary", {"type": "file", "options": {"file_path": str(loop.directory / "audit.log")}}, token=owner)
        # Others are on it, too.
        loop.client.call("POST", "sys/mounts/erp", {"type": "kv"}, token=owner)
        if request.param == "namespace":
            external["namespace"], above = "plants/pad1", ""
            for name in ("plants", "pad1"):
                loop.client.call("POST", f"{above}sys/namespaces/{name}", {}, token=token)
                above += name + "/"
            token = given(loop, above, token)
        made = Site(loop, tmp_path_factory.mktemp("state"), external, owner, vault)
        made.first = made.converge(token)
        yield made


def given(loop: loopback_bao.Loopback, above: str, root: str) -> str:
    """A token of who may do everything in a namespace, and is not root."""
    loop.client.call("PUT", f"{above}sys/policies/acl/everything", {"policy": EVERYTHING}, token=root)
    return str(loop.client.call("POST", f"{above}auth/token/create", {"policies": ["everything"], "no_parent": True}, token=root)["auth"]["client_token"])


def test_the_first_run_makes_the_site_and_ends_the_token(site: Site) -> None:
    assert not site.first.get("failed"), site.first
    assert not Path(site.nowhere["ca_file"]).parent.exists(), "the host keeps no bundle"
    assert site.first["root_revoked"] and not site.first["pending"]
    assert site.first.get("warnings", []) == [], "what others have there is nobody's business"
    again = site.converge()
    assert (again["changed"], again["changes"], again["pending"], again["foreign"]) == (False, [], [], [])


def test_the_roles_own_play_has_nothing_more_to_do(site: Site, tmp_path: Path) -> None:
    """The play itself, on the lab's inventory, where the host of the group is this one."""
    (tmp_path / "vars.json").write_text(json.dumps({
        "hnai_state_dir": str(site.state), "hnai_site": "loop", "hnai_addresses": {"v4": "127.0.0.1", "v6": "::1"}, "openbao_external": site.external,
        "openbao_ssh_host_mount": "", "openbao_root_ca": "own", "ansible_connection": "local", "ansible_become": False,
        "ansible_python_interpreter": sys.executable,
    }), encoding="utf-8")  # fmt: skip
    lab, before = sys.modules["lab_conftest"].Lab(), sorted(Path("/etc/hnai").rglob("*"))
    play = [Path(sys.executable).parent / "ansible-playbook", "-i", lab.inventory, "playbooks/components/openbao.yml", "-e", f"@{tmp_path / 'vars.json'}"]
    for more in ([], ["--check", "--diff"]):
        done = subprocess.run([*play, *more], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
        (line,) = [one for one in done.stdout.splitlines() if "ok=" in one]
        assert "changed=0" in line and "unreachable=0" in line and "WARNING" not in done.stdout, done.stdout[-3000:]
        assert "Bring OpenBao in step" in done.stdout and site.deploy["secret_id"] not in done.stdout
    assert sorted(Path("/etc/hnai").rglob("*")) == before, "nothing is left on the host that asks"


def test_a_component_has_its_secret_and_its_certificate(site: Site, tmp_path: Path) -> None:
    found = site.ask(openbao_component, component="questdb", read=[SECRET])
    assert found["secrets"][SECRET]["password"] and "BEGIN CERTIFICATE" in site.certificate(tmp_path)["certificate"]
    entries = [json.loads(line) for line in site.log().splitlines()]
    read = [one for one in entries if one["type"] == "response" and one["request"]["path"].endswith("data/" + SECRET)][-1]
    assert read["auth"]["metadata"]["role_name"] == "hnai-questdb"
    assert read["request"].get("namespace", {}).get("path", "").rstrip("/") == site.external.get("namespace", "")


def test_no_policy_of_ours_gives_what_is_its_owners(site: Site) -> None:
    names = [one for one in site.theirs("LIST", "sys/policies/acl")["data"]["keys"] if one.startswith("hnai-") or one in ("site-admin", "deploy")]
    text = "".join(site.theirs("GET", "sys/policies/acl/" + one)["data"]["policy"] for one in names)
    assert len(names) > 8 and "secret-id" in text
    assert "scan" not in text and "sys/audit" not in text and "sys/storage" not in text and "generate-root" not in text


def test_a_rotation_prepares_a_value_and_gives_it_back(site: Site) -> None:
    run = {"path": SECRET, "kind": "backend", "expected": ["data1"], "run_id": "run", "owner": "a controller"}
    found = site.ask(vault_rotate, state="prepared", **run)
    assert found["rotation"]["state"] == "PREPARED"
    found = site.ask(vault_rotate, state="prepared", **run, rollback="run")
    assert found["rotation"]["direction"] == "back"
    found = site.ask(vault_rotate, state="rolled_back", **run, fence=found["rotation"]["fence"], proof={"old_works": True, "new_refused": True})
    assert found["rotation"]["state"] == "IDLE"


def rotate(site: Site, owner: str, dead: Sequence[str] = (), until: str = "closed") -> dict[str, Any]:
    """A controller, from whatever is open to the end: step by step as the playbook calls the module."""
    asked = {"path": SECRET, "kind": "backend", "expected": ["data1"], "owner": owner, "dead": list(dead)}
    last = site.ask(vault_rotate, state="prepared", run_id=owner, **asked)["rotation"]
    steps: dict[str, dict[str, Any]] = {
        "prepared": {},
        "published": {"proof": {"new_works": True, "wrong_refused": True}},
        "committed": {"acks": {"data1": last["fp_new"]}},
        "closed": {"proof": {"new_works": True, "old_refused": True, "no_old_session": True}},
    }
    for state in list(steps)[1 : list(steps).index(until) + 1]:
        last = site.ask(vault_rotate, state=state, run_id=last["run_id"], fence=last["fence"], **asked, **steps[state])["rotation"]
    return dict(last)


def ended(site: Site, last: Mapping[str, Any], before: Mapping[str, Any], version: int) -> None:
    """Exactly one new version, which the component reads, and nothing left of the run."""
    assert (last["run_id"], last["last"]["outcome"], last["last"]["version"]) == ("", "rotated", version)
    read = site.ask(openbao_component, component="questdb", read=[SECRET])["secrets"][SECRET]
    now = site.theirs("GET", "hnai/data/" + SECRET)["data"]
    assert now["metadata"]["version"] == version and read == now["data"] != before["data"]
    with pytest.raises(NotFound):
        site.theirs("GET", f"hnai/data/{SECRET}/_next")


def test_a_secret_is_rotated_to_its_end(site: Site) -> None:
    """Of two controllers the second one changes nothing."""
    before = site.theirs("GET", "hnai/data/" + SECRET)["data"]
    rotate(site, "a controller", until="prepared")
    with pytest.raises(AssertionError, match=r"is open since .* Another controller works on it"):
        rotate(site, "another controller")
    ended(site, rotate(site, "a controller"), before, before["metadata"]["version"] + 1)


@pytest.mark.parametrize("until", ["prepared", "published", "committed"])
def test_a_secret_that_is_erased_by_name_is_published_again(site: Site, until: str) -> None:
    before = site.theirs("GET", "hnai/data/" + SECRET)["data"]
    rotate(site, "erased", until=until)
    site.theirs("DELETE", "hnai/metadata/" + SECRET)
    ended(site, rotate(site, "erased"), before, 1)


class Owners:
    """Its owner's calls, where each of the two has his keys: https://developer.hashicorp.com/vault/api-docs/system/rotate, .../system/rekey."""

    def __init__(self, site: Site) -> None:
        self.site = site

    def call(self, method: str, path: str, body: Mapping[str, Any] | None = None, token: str | None = None, wrap_ttl: str | None = None) -> dict[str, Any]:
        if self.site.vault:
            path = path.replace("sys/rotate/keyring", "sys/rotate").replace("sys/rotate/root/", "sys/rekey/")
        return self.site.loop.client.call(method, path, body, token, wrap_ttl)


def test_its_owners_keys_are_another_term_and_other_shares_while_a_rotation_is_open(site: Site) -> None:
    """By the steps with which our own are rotated, verification included; then the server starts anew."""
    before = site.theirs("GET", "hnai/data/" + SECRET)["data"]
    rotate(site, "a controller", until="published")
    owners, held, wanted = Owners(site), {"keys_base64": site.loop.init["keys_base64"]}, Keys(3, 2)
    term = seal_keys.term(owners, site.owner)
    owners.call("POST", "sys/rotate/keyring", {}, token=site.owner)
    assert seal_keys.term(owners, site.owner) == term + 1
    shares = seal_keys.Shares(owners, site.owner)
    assert seal_keys.advance(shares, held, {}, wanted, 1) == {"step": "clear"}
    lost = seal_keys.advance(shares, held, {"begun": True}, wanted, 1)["issued"]
    issued = seal_keys.advance(shares, held, {"begun": True}, wanted, 1)["issued"]  # killed before they were stored: those never count
    assert lost["keys_base64"] != issued["keys_base64"]
    candidate = {**issued, "threshold": wanted.threshold}
    found = seal_keys.advance(shares, held, candidate, wanted, 1)
    assert found == {"step": "in_force", "proof": {"new_works": True, "old_refused": True}}
    site.loop.init["keys_base64"] = issued["keys_base64"]
    site.loop.restart()
    ended(site, rotate(site, "a controller"), before, before["metadata"]["version"] + 1)


def test_who_read_stands_in_its_audit_log(site: Site) -> None:
    site.ask(openbao_component, component="questdb", read=[SECRET])
    readers, begin, end = inventory.reads([site.log().splitlines()], "hnai")
    reader = "plants-pad1-auth-hnai hnai-questdb" if "namespace" in site.external else "hnai-questdb"
    assert begin < readers[SECRET][reader] <= end


@pytest.mark.parametrize("path", authority.SCOPES)
def test_an_authority_is_rotated_to_its_end(site: Site, tmp_path: Path, path: str) -> None:
    before = site.certificate(tmp_path)
    found = site.ask(authority_rotation, path=path, state="prepared", run_id="r" + path, **SPANS)
    for state in ("trusted", "signing", "committed", "dropped", "closed"):
        last = found["rotation"]
        proof = {"trusted": {"new_works": True, "wrong_refused": True}, "closed": {"new_works": True, "old_unused": True}}.get(state, {})
        step = {"run_id": last["run_id"], "fence": last["fence"], "acks": {"data1": last["fp_new"]}, "proof": proof}
        found = site.ask(authority_rotation, path=path, state=state, **step, **SPANS)
    after = site.certificate(tmp_path)
    assert found["rotation"]["last"]["outcome"] == "rotated" and after["ca_chain"] != before["ca_chain"]
    assert (after["root"] == before["root"]) == (path == authority.INTERMEDIATE) and after["root"] == found["roots"]
    settled = site.converge()
    assert not settled.get("failed") and not settled["changes"]
    assert not Path(site.nowhere["ca_file"]).parent.exists(), "the host keeps no bundle"


@pytest.mark.parametrize("reason", ["request", "compromise"])
def test_the_runs_own_identities_are_rotated_to_their_end(site: Site, monkeypatch: pytest.MonkeyPatch, reason: str) -> None:
    controller = Controller(elsewhere.connect({"external": site.external}), site.state / "openbao/deploy.json")
    before = controller.held
    for path in ("approle/site-admin", "approle/deploy"):
        found = controller.rotate(path, monkeypatch, name=reason, reason=reason)
        assert (found["step"], found["rotation"]["last"]["proof"]["alive"]) == ("closed", 1)
    assert all(before[name]["secret_id"] != controller.held[name]["secret_id"] for name in ("site_admin", "deploy"))
    assert controller.held.keys() == before.keys() and not site.converge().get("failed")


def test_killed_after_any_call_the_next_controller_ends_it(site: Site) -> None:
    # What these open lives for five minutes, for which a rotation of deploy without haste waits: it stands before this.
    before, journal, plain = site.theirs("GET", "hnai/data/" + SECRET)["data"], f"hnai/data/{SECRET}/_rotation", elsewhere.Client.call
    states = set()
    for number in range(1, 300, 3):
        life = Life(number)

        def call(self: Any, *given: Any, life: Life = life, **named: Any) -> dict[str, Any]:
            life.alive()
            found = plain(self, *given, **named)
            life.event()
            return found

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(elsewhere.Client, "call", call)
            with contextlib.suppress(Killed):
                rotate(site, f"c{number}", [f"c{one}" for one in range(number)])
        last = site.theirs("GET", journal)["data"]["data"]
        states.add(last["state"])
        if last["last"].get("run_id", "").startswith("c"):
            break
    assert number > 20 and states >= {"PREPARED", "PUBLISHED", "COMMITTED", "IDLE"}
    ended(site, last, before, before["metadata"]["version"] + 1)


@pytest.mark.parametrize("path", ["approle/site-admin", "approle/deploy"])
def test_an_identity_whose_controller_is_killed_after_any_event_is_alive_once(site: Site, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    api = elsewhere.connect({"external": site.external})
    controller = Controller(api, site.state / "openbao/deploy.json")
    before, key = controller.held, path.removeprefix("approle/").replace("-", "_")
    # Each leaves behind what the last one looks at, so the moments are spread, and few.
    seen = set(before)
    for number in range(4, 64, 6):
        with contextlib.suppress(Killed):
            controller.rotate(path, monkeypatch, number, name="killed", reason="compromise")
        seen |= set(controller.held)
        for one in ("deploy", "site_admin"):
            login(api, "approle", **controller.held[one])
    found = controller.rotate(path, monkeypatch, name="killed", reason="compromise")
    assert seen >= {"next", "old"} and (found["step"], found["rotation"]["last"]["proof"]["alive"]) == ("closed", 1)
    assert controller.held[key] != before[key]
    with pytest.raises(BaoError, match=r"(?i)invalid (role or )?secret id"):
        login(api, "approle", **before[key])


def test_authorities_and_identities_are_looked_at_for_their_rotation(site: Site) -> None:
    for path in ("pki/intermediate", "pki/root"):
        assert site.ask(authority_rotation, path=path, expected=["data1"])["rotation"]["state"] == "IDLE"
    held = openbao_keys.load(site.state / "openbao/deploy.json") or {}
    for path in ("approle/deploy", "approle/site-admin"):
        looked = {"path": path, "identities_file": str(site.state / "openbao/deploy.json"), "site_admin": held["site_admin"]}
        assert site.ask(approle_rotation, **looked, _ansible_check_mode=True)["alive"] == 1


def test_the_verdict_leaves_to_its_owner_what_is_his(site: Site) -> None:
    checks = site.judge()
    found = said(checks)
    assert {ident: text for ident, text in found.items() if ident != "SI3"} == HIS
    assert set(found["SI3"].splitlines()) == {f"skipped {one['subject']}: external: {OWNER}" for one in checks if one["id"] == "SI3"}
    assert {"BAO01", "BAO02", "BAO03", "BAO07", "BAO08", "BAO09", "BAO10", "BAO12", "BAO13", "BAO14", "SI1", "SI2", "SI4"} == {
        one["id"] for one in checks if one["status"] == "pass"}


def test_what_is_loosened_there_is_named(site: Site) -> None:
    site.theirs("PUT", "sys/policies/acl/hnai-questdb", {"policy": EVERYTHING})
    site.theirs("POST", "auth/hnai/role/eve", {})
    assert said(site.judge())["BAO13"] == "fail : AppRole eve of no component of the site"
    again = site.converge()
    assert again["changes"] == ["policy hnai-questdb"] and again["orphans"] == ["eve"]
    site.theirs("DELETE", "auth/hnai/role/eve")


@pytest.fixture
def like_vault(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A STUB: OpenBao that answers as Vault does (plugins/module_utils/openbao/elsewhere.py); the real one needs none."""
    if site.vault:
        return
    plain = elsewhere.Client.call

    def call(self: Any, method: str, path: str, body: Any = None, *more: Any, **named: Any) -> dict[str, Any]:
        if method == "SCAN":
            raise BaoError(method, path, 405, ["unsupported operation"])
        if "/policies/acl/" in path and body and '"scan"' in body["policy"]:
            raise BaoError(method, path, 400, ["path \"x\": invalid capability scan"])
        found: dict[str, Any] = plain(self, method, path, body, *more, **named)
        unknown = {"not_after_bound", "not_before_bound"} if path.startswith("pki_int/roles/hnai-") else {"issuer_ref"} if "ssh/roles/" in path else set()
        if method == "GET" and unknown:
            assert unknown <= found["data"].keys()
            found["data"] = {key: value for key, value in found["data"].items() if key not in unknown}
        return found

    monkeypatch.setattr(elsewhere.Client, "call", call)


@pytest.mark.usefixtures("like_vault")
def test_settings_that_vault_does_not_have_are_no_difference(site: Site) -> None:
    again = site.converge()
    assert (again["changed"], again["changes"], again["pending"], again["foreign"]) == (False, [], [], [])
    assert {ident for ident in said(site.judge()) if ident != "SI3"} == HIS.keys()
    site.theirs("POST", "pki_int/roles/hnai-questdb", {**site.theirs("GET", "pki_int/roles/hnai-questdb")["data"], "max_ttl": "9000h"})
    assert "PKI role hnai-questdb: max_ttl=32400000 (not 7776000)" in said(site.judge())["BAO14"]
    assert site.converge()["changes"] == ["PKI role hnai-questdb"]


def test_nobody_names_the_end_of_a_certificate_whatever_the_role_allows(site: Site, tmp_path: Path) -> None:
    """Where a server has no such limit of a role, the policy has it."""
    role = site.theirs("GET", "pki_int/roles/hnai-questdb")["data"]
    site.theirs("POST", "pki_int/roles/hnai-questdb", {**role, "not_after_bound": "permit", "not_before_bound": "permit"})
    api = elsewhere.connect({"external": site.external})
    token = component.enter(api, "questdb", site.deploy)
    asked = {"csr": site.request(tmp_path), "common_name": "data1"}
    for more in ({"not_after": "2031-01-01T00:00:00Z"}, {"not_before": "2020-01-01T00:00:00Z"}):
        with pytest.raises(Forbidden):
            api.call("POST", "pki_int/sign/hnai-questdb", {**asked, **more}, token=token)
    assert api.call("POST", "pki_int/sign/hnai-questdb", asked, token=token)["data"]["certificate"]
    assert site.converge()["changes"] == ([] if site.vault else ["PKI role hnai-questdb"])


def test_another_authority_is_refused_before_anything_is_said(site: Site, tmp_path: Path) -> None:
    before, calls = site.given["openbao_external"], site.log()
    other = loopback_bao.authority(tmp_path, THERE)[2].read_text(encoding="ascii")
    for ca in (other, ""):
        site.given["openbao_external"] = {**before, "ca": ca}
        try:
            failed = site.converge()
        finally:
            site.given["openbao_external"] = before
        assert failed["failed"] and ("CERTIFICATE_VERIFY_FAILED" in failed["msg"] or "openbao_external.ca is no certificate" in failed["msg"]), failed
    assert site.log() == calls


def test_an_identity_opens_only_from_where_the_host_is(site: Site) -> None:
    elsewhere = site.converge(addresses=["10.77.36.11"])
    assert [one for one in elsewhere["changes"] if one == "AppRole hnai-questdb"]
    with pytest.raises(AssertionError, match=r"unauthorized by CIDR|source address .* unauthorized"):
        site.ask(openbao_component, component="questdb", read=[SECRET])
    assert site.converge()["changes"]
    assert site.ask(openbao_component, component="questdb", read=[SECRET])["secrets"]


def test_a_component_that_goes_leaves_nothing(site: Site) -> None:
    identity = (openbao_keys.load(site.state / "openbao/deploy.json") or {})["site_admin"]
    removed = ask(openbao_retire, {"components": ["questdb"], "site_admin": identity, "external": site.external, **site.nowhere})["removed"]
    assert any("hnai-questdb" in one for one in removed)
    site.converge()
