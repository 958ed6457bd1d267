# SPDX-License-Identifier: Apache-2.0
"""OpenBao's own keys and the authorities against the real server on loopback, killed at seeded moments; then the drill on the site's store."""
from __future__ import annotations

import base64
import contextlib
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import loopback_bao
import pytest
from conftest import ROOT, Lab
from killing import chance

sys.path.insert(0, str(ROOT / "tests/unit"))
from identity_stand import Controller, Killed

from ansible_collections.hnai.platform.plugins.action import approle_rotation
from ansible_collections.hnai.platform.plugins.module_utils.host import ssh_certificate
from ansible_collections.hnai.platform.plugins.module_utils.openbao import authority, component, drill, policies, seal_keys, site, ssh_host
from ansible_collections.hnai.platform.plugins.module_utils.openbao.bootstrap import Keys
from ansible_collections.hnai.platform.plugins.module_utils.openbao.client import BaoError, Forbidden, login
from ansible_collections.hnai.platform.plugins.module_utils.openbao.kv import KvStore
from ansible_collections.hnai.platform.plugins.module_utils.openbao.rotate_approle import living
from ansible_collections.hnai.platform.plugins.plugin_utils import openbao_keys

pytestmark = pytest.mark.scenario("openbao-keys")
SEED = 8
#: Kills of one rotation, spread over its calls.
KILLS = 6


@pytest.fixture(scope="module")
def bao(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The server's binary."""
    return loopback_bao.binary(tmp_path_factory.mktemp("bao"))


@pytest.fixture
def loop(bao: Path) -> Iterator[loopback_bao.Loopback]:
    """A converged store."""
    with loopback_bao.server(bao) as running:
        running.start_site()
        yield running


INITIALISE = """
import json, os, signal, sys
from ansible_collections.hnai.platform.plugins.module_utils.openbao.bootstrap import Bootstrap, Keys, Layout
from ansible_collections.hnai.platform.plugins.module_utils.openbao.client import Client
given = json.loads(sys.argv[1])
def step(name):
    if name == given["kill"]:
        os.kill(os.getpid(), signal.SIGKILL)
class Service:
    def stop(self): print("stop", flush=True); assert sys.stdin.readline()
    def start(self): print("start", flush=True); assert sys.stdin.readline()
layout = Layout(given["directory"] + "/boot", given["directory"] + "/raft", (given["directory"] + "/audit.log",))
machine = Bootstrap(Client(given["address"], given["directory"] + "/cert.pem", 60.0), Service(), layout, Keys(3, 2), step=step)
out = machine.converge(given["keys"], bool(given["keys"]))
if out.init is not None:
    print(json.dumps({"init": out.init}), flush=True)
    assert sys.stdin.readline()  # the controller has it
    machine.hand_over(out.init_sha256)
print(json.dumps({"actions": out.actions, "sealed": out.sealed, "left": sorted(os.listdir(given["directory"] + "/boot"))}), flush=True)
"""


def initialised(loop: loopback_bao.Loopback, held: dict[str, Any], kill: str = "") -> dict[str, Any]:
    """One run of the initialisation by a process of its own, which dies before a step; what it said, {} if it died. `held`: what the controller has."""
    given = {"address": loop.client.address, "directory": str(loop.directory), "kill": kill, "keys": held.get("keys_base64", [])}
    with subprocess.Popen([sys.executable, "-c", INITIALISE, json.dumps(given)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        try:
            for line in process.stdout:
                if line.strip() in ("stop", "start"):
                    (loop.stop if line.strip() == "stop" else loop.start)()
                else:
                    said = json.loads(line)
                    if "init" not in said:
                        assert process.wait(60) == 0
                        return dict(said)
                    held.update(said["init"])
                process.stdin.write("done\n")
                process.stdin.flush()
            assert process.wait(60) == -signal.SIGKILL
            return {}
        finally:
            process.kill()


@pytest.mark.parametrize("step", ["marker", "init", "store", "unmark", "unseal", "stop", "aside", "start"])
def test_an_initialisation_that_is_killed_is_finished_by_the_next_run(bao: Path, step: str) -> None:
    """The real server, and a process that dies by SIGKILL before a step. The keys that the controller has in the end open the store."""
    with loopback_bao.server(bao) as loop:
        held: dict[str, Any] = {}
        if step in ("stop", "aside", "start"):
            assert initialised(loop, held, "store") == {}  # initialised with keys that nobody ever had
        assert initialised(loop, held, step) == {}
        if loop.process is None:
            loop.start()  # the play's unit task, which runs before
        said = initialised(loop, held)
        assert said["sealed"] is False
        assert said["left"] == []
        assert initialised(loop, held) == {"actions": [], "sealed": False, "left": []}
        aside = [entry.name for entry in loop.directory.iterdir() if entry.name.startswith("raft.keyless-")]
        assert len(aside) == (1 if step in ("store", "stop", "aside", "start") else 0), "put aside is what nobody has keys for, and it is kept"
        # A restart seals it; the controller's keys open it, and its token is that store's.
        loop.stop()
        loop.start()
        assert initialised(loop, held)["actions"] == ["unsealed"]
        assert loop.client.call("GET", "auth/token/lookup-self", token=held["root_token"])["data"]["policies"] == ["root"]


def controller(loop: loopback_bao.Loopback, path: str, number: int, kill_after: int = 0) -> subprocess.CompletedProcess[str]:
    given = {
        "address": loop.client.address, "ca_file": str(loop.directory / "cert.pem"), "deploy": loop.deploy, "path": path, "owner": "c%d" % number,
        "dead": ["c%d" % one for one in range(number)], "kill_after": kill_after, "run_id": "%sT%06dZ" % (path[4:8], number),
    }  # fmt: skip
    argv = [sys.executable, str(ROOT / "tests/lab/host_authority.py"), json.dumps(given)]
    return subprocess.run(argv, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.parametrize("path", authority.SCOPES)
def test_an_authority_whose_controller_is_killed_has_exactly_one_successor(loop: loopback_bao.Loopback, path: str) -> None:
    """SIGKILL after calls that are spread over the whole rotation: each controller goes on where the one before died."""
    seed, _draw = chance(SEED)
    draw = random.Random(f"{seed} {path}")
    before = loop.client.call("LIST", "pki_int/issuers")["data"]["key_info"]
    for number in range(KILLS):
        moment = draw.randrange(8, 30)
        died = controller(loop, path, number, moment)
        print(f"HNAI_SEED={seed}: controller {number} killed after call {moment}: rc {died.returncode}")
        if died.returncode == 0:
            break
        assert died.returncode == -9, died.stderr[-2000:]
    done = controller(loop, path, KILLS)
    assert done.returncode == 0, done.stderr[-2000:]
    after = loop.client.call("LIST", "pki_int/issuers")["data"]["key_info"]
    living = [item for item in after.values() if item["key_id"] and not item["issuer_name"].startswith(authority.RETIRED)]
    assert len(living) == 1
    assert living[0]["is_default"]
    assert living[0]["serial_number"] not in [item["serial_number"] for item in before.values()]
    roots = authority.trust_bundle(loop.client, "pki_root")
    assert roots.count("BEGIN") == 1
    last = json.loads(done.stdout)["last"]
    assert last["outcome"] == "rotated"
    assert {key for key, value in last["proof"].items() if value is True} == {"new_works", "wrong_refused", "old_unused", "old_refused"}


@pytest.mark.parametrize("path", policies.IDENTITIES)
def test_an_identity_whose_controller_is_killed_has_exactly_one_secret_id(
    loop: loopback_bao.Loopback, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str,
) -> None:  # fmt: skip
    """Dies after calls that are spread over the whole rotation: both identities log in all the while, then the old one is refused."""
    name = policies.IDENTITIES[path]
    key = name.replace("-", "_")
    before = {"deploy": loop.identities["deploy"], "site_admin": loop.identities["site-admin"]}
    openbao_keys.store(tmp_path / "deploy.json", before)
    plain_sleep = time.sleep  # the stand puts the function below in its place

    def pass_time(seconds: float) -> None:
        """What five minutes do to what killed controllers opened. A visit of our own waits shorter."""
        if seconds < approle_rotation.WAIT_S:
            plain_sleep(seconds)
            return
        root = loop.init["root_token"]
        for accessor in loop.client.call("LIST", "auth/token/accessors", token=root)["data"]["keys"]:
            with contextlib.suppress(BaoError):
                one = loop.client.call("POST", "auth/token/lookup-accessor", {"accessor": accessor}, token=root)["data"]
                if one["path"].endswith("/login"):
                    loop.client.call("POST", "auth/token/revoke-accessor", {"accessor": accessor}, token=root)
        for role in loopback_bao.NAMES:
            for one in living(loop.client, root, "hnai-" + role, policies.COMPONENT_AUTH):
                loop.client.call("POST", f"auth/hnai/role/hnai-{role}/secret-id-accessor/destroy", {"secret_id_accessor": one.accessor}, token=root)

    controller = Controller(loop.client, tmp_path / "deploy.json", sleep=pass_time)
    assert "of 60 d: not due" in controller.rotate(path, monkeypatch, check=True)["plan"][0], "it lives as long as it is to"
    seed, _draw = chance(SEED)
    draw = random.Random(f"{seed} {path}")
    for number in range(KILLS):
        moment = draw.randrange(12, 45)
        try:
            controller.rotate(path, monkeypatch, moment)
            break
        except Killed:
            print(f"HNAI_SEED={seed}: controller {number} killed after event {moment}")
        for one in ("deploy", "site_admin"):
            login(loop.client, "approle", **controller.held[one])
    if controller.held.keys() & {"next", "old"} or controller.held == before:
        controller.rotate(path, monkeypatch)
    held = controller.held
    assert set(held) == set(before)
    assert held[key]["secret_id"] != before[key]["secret_id"]
    login(loop.client, "approle", **held[key])
    with pytest.raises(BaoError, match="invalid role or secret ID"):
        login(loop.client, "approle", **before[key])
    alive = loop.client.call("LIST", f"auth/approle/role/{name}/secret-id", token=loop.init["root_token"])["data"]["keys"]
    assert len(alive) == 1
    last = KvStore(loop.client, loop.init["root_token"], "hnai").read(path + "/_rotation")[1]["last"]  # type: ignore[index]
    print(last)
    assert (last["outcome"], last["version"]) == ("rotated", 2)
    assert {key for key, value in last["proof"].items() if value is True} >= {"new_works", "wrong_refused", "old_refused", "no_old_session"}


def test_after_a_compromise_nothing_lives_that_the_old_secret_id_of_deploy_opened(
    loop: loopback_bao.Loopback, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Its token, a component's, and a wrapped secret_id that nobody has used yet; a token of site-admin is not its doing."""
    client, deploy = loop.client, loop.deploy
    openbao_keys.store(tmp_path / "deploy.json", {"deploy": deploy, "site_admin": loop.identities["site-admin"]})
    token = str(login(client, policies.IDENTITY_AUTH, **deploy)["client_token"])
    entered = component.enter(client, "kafka", deploy)
    role = "auth/hnai/role/hnai-kafka"
    role_id = client.call("GET", role + "/role-id", token=token)["data"]["role_id"]
    wrapped = client.call("POST", role + "/secret-id", {}, token=token, wrap_ttl="60s")["wrap_info"]["token"]
    other = str(login(client, policies.IDENTITY_AUTH, **loop.identities["site-admin"])["client_token"])
    assert component.read(client, entered, "hnai", "kafka", ["kafka/x"])

    begin = time.monotonic()
    done = Controller(client, tmp_path / "deploy.json").rotate("approle/deploy", monkeypatch, reason="compromise")
    assert time.monotonic() - begin < approle_rotation.WAIT_S * 2, "at once"
    proof = done["rotation"]["last"]["proof"]
    assert (proof["cut"], proof["sessions"], proof["no_old_session"], proof["alive"]) == (3, [], True, 1)
    for method, path, dead in (("GET", role + "/role-id", token), ("GET", "hnai/data/kafka/x", entered)):
        with pytest.raises(Forbidden):
            client.call(method, path, token=dead)
    with contextlib.suppress(BaoError):
        secret_id = client.call("POST", "sys/wrapping/unwrap", {}, token=wrapped)["data"]["secret_id"]
        with pytest.raises(BaoError, match="invalid role or secret ID"):
            login(client, policies.COMPONENT_AUTH, role_id, secret_id)
    assert client.call("GET", "sys/mounts", token=other)


def test_a_secret_id_that_ran_out_is_no_error(loop: loopback_bao.Loopback) -> None:
    """OpenBao lists it until it tidies up, and answers nothing when it is looked at."""
    root, role = loop.init["root_token"], "auth/approle/role/deploy"
    loop.client.call("POST", role + "/secret-id", {"ttl": "1s"}, token=root)
    time.sleep(1.5)
    assert len(loop.client.call("LIST", role + "/secret-id", token=root)["data"]["keys"]) == 2
    assert len(living(loop.client, component.enter(loop.client, policies.ROTATION, loop.deploy), "deploy")) == 1


def test_the_hosts_ssh_keys_are_certified_for_the_inventorys_names_alone(bao: Path, tmp_path: Path) -> None:
    """A converged store with the CA; a second visit changes nothing; a foreign name, a user's certificate and the CA's own key are out of reach."""
    spec = {**loopback_bao.SPEC, "ssh_host": "ssh-host", "ssh_names": ["kafka1", "10.0.0.1", "fd00::1"]}
    spec["components"] = {**spec["components"], "ssh-host": {"grants": [], "secrets": [], "certificate": None}}
    with loopback_bao.server(bao) as loop:
        loop.start_site(spec)
        again = site.Site(loop.client, spec, loop.identities).converge()
        assert ([change.what for change in again.changes], again.pending) == ([], [])
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "key")], check=True, timeout=20)
        public = (tmp_path / "key.pub").read_text(encoding="utf-8").strip()
        names = ["kafka1", "10.0.0.1", "fd00::1"]
        found = ssh_host.visit(loop.client, loop.deploy, "ssh-host", public, names)
        certificate = ssh_certificate.parse(found["certificate"])
        assert ssh_certificate.fault(certificate, public, names, found["ca"], time.time()) == ""
        assert 89 < (certificate.end - time.time()) / 86400 < 91
        assert ssh_host.visit(loop.client, loop.deploy, "ssh-host") == {"ca": found["ca"], "certificate": ""}
        with pytest.raises(component.VisitError, match=r"components/openbao\.yml"):
            ssh_host.visit(loop.client, loop.deploy, "ssh-host", public, ["kafka2"])
        token = component.enter(loop.client, policies.SSH_HOST, loop.deploy)
        with pytest.raises(BaoError):
            loop.client.call("POST", "ssh-host/sign/hnai-host", {"public_key": public, "cert_type": "user", "valid_principals": "kafka1"}, token=token)
        with pytest.raises(BaoError):
            loop.client.call("POST", "ssh-host/roles/hnai-host", {"key_type": "ca", "allowed_domains": "*"}, token=token)
        # A store that stands: said, not changed, and nothing waits for it.
        other = site.Site(loop.client, {**spec, "ssh_host": "ssh-other"}, loop.identities).converge()
        assert any(text.startswith("mount ssh-other") for text in other.pending)


def test_of_two_rotations_of_the_keyring_each_makes_one_term(loop: loopback_bao.Loopback, tmp_path: Path) -> None:
    token = component.enter(loop.client, policies.KEYS, loop.deploy)
    store = KvStore(loop.client, token, "hnai")
    ring = seal_keys.Keyring(loop.client, token, store)

    def before() -> str:
        return seal_keys.snapshot(loop.client, token, str(tmp_path), time.time())

    start = seal_keys.term(loop.client, token)
    assert ring.rotate("one", before)["to"] == start + 1
    # The call arrived and its controller died before the record was closed.
    version, record = store.read(seal_keys.KEYRING)
    store.write(seal_keys.KEYRING, dict(record or {}, open=True), version)
    assert ring.rotate("two", before)["to"] == start + 1
    assert ring.rotate("three", before)["to"] == start + 2
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in tmp_path.iterdir())


def test_shares_that_were_never_shown_are_never_in_force(loop: loopback_bao.Loopback) -> None:
    """Killed between issue and verification the old ones open; stored and shown, the new ones do; a snapshot opens with those of its time."""
    token = component.enter(loop.client, policies.KEYS, loop.deploy)
    shares = seal_keys.Shares(loop.client, token)
    held: dict[str, Any] = dict(loop.init)
    assert seal_keys.advance(shares, held, {}, Keys(5, 3), 2)["step"] == "clear"
    lost = seal_keys.advance(shares, held, {"begun": 1}, Keys(5, 3), 2)["issued"]
    issued = seal_keys.advance(shares, held, {"begun": 1}, Keys(5, 3), 2)["issued"]
    shares.cancel()
    assert shares.opens(held["keys_base64"], 2)
    assert not shares.opens(lost["keys_base64"][:2], 2)
    # What was stored and thrown away by OpenBao meanwhile is found out.
    assert seal_keys.advance(shares, held, {**issued, "threshold": 3, "pgp": False}, Keys(5, 3), 2)["step"] == "dropped"
    issued = seal_keys.advance(shares, held, {"begun": 1}, Keys(5, 3), 2)["issued"]
    candidate = {**issued, "threshold": 3, "pgp": False}
    assert seal_keys.advance(shares, held, candidate, Keys(5, 3), 2) == {"step": "in_force", "proof": {"new_works": True, "old_refused": True}}
    assert seal_keys.advance(shares, held, candidate, Keys(5, 3), 3)["step"] == "in_force", "killed before they were promoted"
    assert loop.client.call("GET", "sys/seal-status")["t"] == 3


def gpg(home: str, *argv: str, stdin: bytes = b"") -> bytes:
    done = subprocess.run(["gpg", "--homedir", home, "--batch", "--quiet", *argv], input=stdin, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def test_an_initialisation_with_pgp_shares_is_opened_by_its_holders(bao: Path) -> None:
    """Keys as holders make them; OpenBao gives ciphertexts only; the threshold of holders opens it, and the leader's root token works."""
    with loopback_bao.server(bao) as loop, tempfile.TemporaryDirectory() as home:
        public = []
        for number in range(3):
            gpg(home, "--passphrase", "", "--quick-generate-key", f"holder{number}@example.org", "rsa3072", "encrypt,sign", "1d")
            public.append(base64.b64encode(gpg(home, "--export", f"holder{number}@example.org")).decode())
        init = loop.client.call("POST", "sys/init", {
            "secret_shares": 3, "secret_threshold": 2, "pgp_keys": public, "root_token_pgp_key": public[0]})  # fmt: skip
        plain = [gpg(home, "--decrypt", stdin=base64.b64decode(item)).decode() for item in init["keys_base64"][:2]]
        for key in plain:
            loop.client.call("POST", "sys/unseal", {"key": key})
        drill.active(loop.client)
        root = gpg(home, "--decrypt", stdin=base64.b64decode(init["root_token"])).decode()
        assert loop.client.call("GET", "auth/token/lookup-self", token=root)["data"]["policies"] == ["root"]
        subprocess.run(["gpgconf", "--homedir", home, "--kill", "gpg-agent"], check=False, timeout=20)


def test_a_snapshot_is_restored_into_an_isolated_node(loop: loopback_bao.Loopback, tmp_path: Path) -> None:
    token = component.enter(loop.client, policies.KEYS, loop.deploy)
    path = seal_keys.snapshot(loop.client, token, str(tmp_path / "snapshots"), time.time())
    reader = component.enter(loop.client, policies.ROTATION, loop.deploy)
    live = drill.contents(loop.client, reader, "hnai")
    audit = (loop.directory / "audit.log").stat().st_size
    with drill.node(loopback_bao.run, str(loop.bao), str(tmp_path / "drill"), lambda _directory: []) as node:
        drill.open_with(node, Path(path).read_bytes(), loop.init["keys_base64"], 2)
        restored = drill.contents(node, component.enter(node, policies.ROTATION, loop.deploy), "hnai")
    found = drill.compare(live, restored)
    assert found["equal"] == ["kafka/x"]
    assert not (found["lost"] or found["different"] or found["newer"])
    assert (loop.directory / "audit.log").stat().st_size == audit, "the drill wrote into the live store's audit log"
    assert not list((tmp_path / "drill").iterdir())


def test_the_drill_on_the_sites_own_store(lab: Lab) -> None:
    """The verb as an operator runs it: complete, nothing left on the host, the live node was only read."""
    done = lab.play("playbooks/restore_drill.yml", timeout=600)
    assert done.rc == 0, done.stdout[-4000:]
    found = json.loads((lab.state / "openbao/drill.json").read_text(encoding="utf-8"))
    print(found)
    assert found["complete"]
    assert found["same_roots"]
    host = lab.groups["openbao"][0]
    assert not lab.run(host, "ls", "/var/lib/hnai/openbao-drill").stdout
    assert "hnai-openbao-drill" not in lab.run(host, "systemctl", "list-units", "--all", "--plain").stdout
