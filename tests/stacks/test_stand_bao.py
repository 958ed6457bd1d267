# SPDX-License-Identifier: Apache-2.0
"""OpenBao as its role makes it, on loopback: faults that would end or weaken the site's own, each named by its own check and by no other.

The server has the role's configuration, the lab's contracts and a certificate of its own authority; the checks are the role's own tasks, with what
the role gives them. Nothing of the lab is used but its inventory.
"""
from __future__ import annotations

import base64
import functools
import importlib
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import loopback_bao
import pytest
import yaml
from ansible.plugins.filter.core import to_bool
from conftest import ROOT
from jinja2 import Environment, StrictUndefined
from jinja2.nativetypes import NativeEnvironment
from plant_view import until
from stands import Checks, Fault, Judged, ask, exercise, faults

from ansible_collections.hnai.platform.plugins.filter.rotation import declared, rotations
from ansible_collections.hnai.platform.plugins.module_utils.openbao import authority, component, policies, site
from ansible_collections.hnai.platform.plugins.module_utils.openbao.client import Client, Unreachable, leave, login, served_certificate
from ansible_collections.hnai.platform.plugins.module_utils.openbao.kv import KvStore
from ansible_collections.hnai.platform.plugins.module_utils.openbao.rotation import Rotation
from ansible_collections.hnai.platform.plugins.module_utils.verdict import PASS
from ansible_collections.hnai.platform.plugins.plugin_utils import contracts

pytestmark = pytest.mark.scenario("stand-bao")
DAY = 86400
ROLE = ROOT / "roles/openbao"
#: Options of the checks' modules whose default is a place on the host; here it lies beside the server.
PLACES = {"vault_health": {"ca_file": "ca.pem", "cert_file": "cert.pem"}, "secret_inventory": {"ca_file": "ca.pem"}}
ADDRESSES = {"v4": "127.0.0.1", "v6": "::1"}
#: One of the lab's secrets; QuestDB alone reads it.
SECRET = "questdb/backend"


def yaml_of(path: str) -> Any:
    return yaml.safe_load((ROLE / path).read_text(encoding="utf-8"))


def configuration(given: Mapping[str, Any], host: str, directory: Path, port: int) -> str:
    """The role's openbao.hcl for a host, with its files below *directory* and on loopback alone."""
    template = (ROLE / "tree/etc/hnai/openbao/openbao.hcl.j2").read_text(encoding="utf-8")
    environment = Environment(trim_blocks=True, undefined=StrictUndefined, autoescape=False)
    environment.filters["bool"] = to_bool
    text = environment.from_string(template).render(
        given, ansible_managed="test", inventory_hostname=host, __openbao_ports={"api": port, "cluster": port + 1}, openbao_storage_path=directory / "raft",
    )  # fmt: skip
    for on_host, here in (
        ("/etc/hnai/openbao/tls", directory), ("/run/hnai-openbao/pid", directory / "pid"), ("[::]:", "127.0.0.1:"), (f"https://{host}:", "https://127.0.0.1:"),
    ):  # fmt: skip
        assert on_host in text
        text = text.replace(on_host, str(here))
    return text


class Stand(Judged):
    """The server, and the role's variables in `given`: a fault may be in either."""

    #: Nothing is skipped here.
    fine = (PASS,)
    patience_s = 60.0

    def __init__(self, loop: loopback_bao.Loopback, given: dict[str, Any]) -> None:
        self.loop, self.given = loop, given
        self.contracts = contracts.all()
        loop.start_site(self.spec)
        site.revoke_root(loop.client, loop.init["root_token"])
        self.given |= {
            "hnai_openbao_deploy": loop.deploy, "__openbao_address": loop.client.address,
            "__openbao_version": self.contracts["openbao"]["artifacts"][0]["version"],
        }  # fmt: skip
        self._certify()

    @property
    def spec(self) -> dict[str, Any]:
        """What the role's variables declare."""
        given = self.given
        return declared({"groups": given["groups"], "contracts": self.contracts}, {
            "site": given["hnai_site"], "kv": given["openbao_kv_mount"], "ssh_host": given["openbao_ssh_host_mount"], "ssh_names": given["__openbao_ssh_names"],
            "pki_root": given["openbao_pki_mounts"]["root"], "pki_int": given["openbao_pki_mounts"]["intermediate"],
            **{key: given[f"openbao_{key}"] for key in ("root_ttl", "intermediate_ttl", "leaf_ttl", "identity_ttl")},
        })  # fmt: skip

    @property
    def client(self) -> Client:
        return self.loop.client

    def _certify(self) -> None:
        """The server's own certificate, asked for and taken up as the role does."""
        host, directory = self.given["groups"]["openbao"][0], self.loop.directory
        asked = subprocess.run(
            ["openssl", "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", f"/CN={host}",
             "-keyout", directory / "key.pem"], check=True, capture_output=True, text=True, timeout=60,
        ).stdout  # fmt: skip
        request = {"csr": asked, "common_name": host, "dns": [host, "localhost"], "ips": ["127.0.0.1", "::1"]}
        made = component.visit(self.client, policies.SELF, self.loop.deploy, request=request)["certificate"]
        (directory / "cert.pem").write_text(made["certificate"] + "".join(made["ca_chain"]), encoding="ascii")
        (directory / "ca.pem").write_text(made["root"], encoding="ascii")
        self.loop.client = Client(self.client.address, str(directory / "ca.pem"), 60.0)
        self.reload()

        def taken_up() -> bool:
            try:
                return bool(served_certificate("127.0.0.1", self.client.port, str(directory / "ca.pem")))
            except Unreachable:
                return False

        until("the server does not take up its certificate", taken_up, 20, 0.2)

    def reload(self) -> None:
        """As the unit does it."""
        subprocess.run(["kill", "-HUP", (self.loop.directory / "pid").read_text(encoding="ascii").strip()], check=True, timeout=10)

    def reconfigure(self, edit: Callable[[str], str] = str, **changed: Any) -> None:
        """Other variables of the role, or a hand in its file, and a restart."""
        self.given |= changed
        text = edit(configuration(self.given, self.given["groups"]["openbao"][0], self.loop.directory, self.client.port))
        (self.loop.directory / "loop.hcl").write_text(text, encoding="utf-8")
        self.loop.restart()

    # -- the verdict -------------------------------------------------------------------------------------------------
    def judge(self) -> Checks:
        """Both tasks of the role's verify.yml, each module as it runs on the host."""
        native = NativeEnvironment(undefined=StrictUndefined, autoescape=False)
        native.filters |= {"hnai.platform.rotations": rotations, "hnai.platform.openbao_spec": declared}
        native.globals["lookup"] = lambda _name: {"groups": self.given["groups"], "contracts": self.contracts}
        found: list[dict[str, Any]] = []
        for task in yaml_of("tasks/verify.yml"):
            ((name, asked),) = [(key.removeprefix("hnai.platform."), value) for key, value in task.items() if key.startswith("hnai.platform.")]
            wanted = {key: native.from_string(value).render(self.given) if isinstance(value, str) else value for key, value in asked.items()}
            wanted |= {key: str(self.loop.directory / file) for key, file in PLACES[name].items()}
            found += ask(importlib.import_module("ansible_collections.hnai.platform.plugins.modules." + name), wanted)["checks"]
        return found

    # -- who changes things ------------------------------------------------------------------------------------------
    @contextmanager
    def root(self) -> Iterator[str]:
        """A root token, made by site-admin and two key holders as docs/openbao-ceremony.md says; revoked afterwards."""
        with self.site_admin() as admin:
            begun = self.client.call("POST", "sys/generate-root-token/attempt", {}, token=admin)["data"]
            for share in self.loop.init["keys_base64"][:2]:
                done = self.client.call("POST", "sys/generate-root-token/update", {"key": share, "nonce": begun["nonce"]}, token=admin)["data"]
        mixed = base64.b64decode(done["encoded_token"] + "==")
        token = bytes(one ^ other for one, other in zip(mixed, begun["otp"].encode(), strict=True)).decode()
        try:
            yield token
        finally:
            assert site.revoke_root(self.client, token)

    @contextmanager
    def site_admin(self) -> Iterator[str]:
        token = str(login(self.client, policies.IDENTITY_AUTH, **self.loop.identities["site-admin"])["client_token"])
        try:
            yield token
        finally:
            leave(self.client, token)

    @contextmanager
    def entered(self, name: str) -> Iterator[str]:
        """A token of a component, or of one of the identities that rotate."""
        token = component.enter(self.client, name, self.loop.deploy)
        try:
            yield token
        finally:
            leave(self.client, token)

    def converge(self, root_token: str = "") -> None:
        """The role's task; with a root token it brings the foundation in step too."""
        assert site.Site(self.client, self.spec, self.loop.identities, root_token).converge().changes

    def allow(self, policy: str, path: str, token: str) -> None:
        """One more path to read."""
        text = self.client.call("GET", "sys/policies/acl/" + policy, token=token)["data"]["policy"]
        self.client.call("PUT", "sys/policies/acl/" + policy, {"policy": text + policies.render([(path, ["read"], {})])}, token=token)


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    bao = loopback_bao.binary(tmp_path_factory.mktemp("bao"))
    # Two file systems, one of them in memory, as the role's default has them.
    with tempfile.TemporaryDirectory(dir="/dev/shm") as memory:
        given = yaml_of("defaults/main.yml") | {
            "hnai_site": "loop", "hnai_addresses": ADDRESSES, "openbao_key_threshold": 2, "openbao_ssh_host_mount": "ssh-host",
            "__openbao_ssh_names": ["kafka1", "10.0.0.1"],
            "groups": sys.modules["lab_conftest"].Lab().groups,
            "openbao_audit_devices": [
                {"name": "primary", "path": str(tmp_path_factory.mktemp("audit") / "audit.log")},
                {"name": "second", "path": f"{memory}/audit.log", "tmpfs_mib": 64},
            ],
        }  # fmt: skip
        host = given["groups"]["openbao"][0]
        with loopback_bao.server(bao, functools.partial(configuration, given, host)) as loop:
            made = Stand(loop, given)
            made.well = made.verdict("not well to begin with", made.bad)
            yield made


# -- the server ------------------------------------------------------------------------------------------------------
@contextmanager
def another_release_is_declared(stand: Stand) -> Iterator[None]:
    """The drift of an old binary that runs on, from the other side: there is one release at hand."""
    declared = stand.given["__openbao_version"]
    stand.given["__openbao_version"] = "2.7.99"
    yield
    stand.given["__openbao_version"] = declared


@contextmanager
def a_stranger_copies_the_store(stand: Stand) -> Iterator[None]:
    """It joined without a vote: the quorum is what it was, and all that is written goes there too."""
    with loopback_bao.server(stand.loop.bao, functools.partial(configuration, stand.given, "eve")) as node:
        node.client.call("POST", "sys/storage/raft/join", {
            "leader_api_addr": stand.client.address, "leader_ca_cert": (stand.loop.directory / "ca.pem").read_text(encoding="ascii"), "non_voter": True,
        })  # fmt: skip
        node.unseal(stand.loop.init["keys_base64"][:2])
        try:
            yield
        finally:
            with stand.root() as token:
                stand.client.call("POST", "sys/storage/raft/remove-peer", {"server_id": "eve"}, token=token)


@contextmanager
def a_voter_is_dead(stand: Stand) -> Iterator[None]:
    """Of three nodes one is killed: everything works, and the next one that is lost takes the store with it."""
    one = stand.given["groups"]["openbao"]
    hosts = [*one, "sec2", "sec3"]
    shares = stand.loop.init["keys_base64"][:2]
    with ExitStack() as stack:
        nodes = []
        for host in hosts[1:]:
            node = stack.enter_context(loopback_bao.server(stand.loop.bao, functools.partial(configuration, stand.given, host)))
            node.client.call("POST", "sys/storage/raft/join", {
                "leader_api_addr": stand.client.address, "leader_ca_cert": (stand.loop.directory / "ca.pem").read_text(encoding="ascii"),
            })  # fmt: skip
            node.unseal(shares)
            nodes.append(node)
        stand.given["groups"] = stand.given["groups"] | {"openbao": hosts}
        stand.converge()
        try:
            stand.verdict("three voters are not well", stand.bad)
            nodes[1].stop()
            yield
            nodes[1].start()
            nodes[1].unseal(shares)
            stand.verdict("the third voter is not back", stand.bad)
        finally:
            stand.given["groups"] = stand.given["groups"] | {"openbao": one}
            stand.converge()
            with stand.root() as token:
                for host in hosts[1:]:
                    stand.client.call("POST", "sys/storage/raft/remove-peer", {"server_id": host}, token=token)


@contextmanager
def a_root_token_is_alive(stand: Stand) -> Iterator[None]:
    with stand.root():
        yield


@contextmanager
def a_token_was_made_by_hand(stand: Stand) -> Iterator[None]:
    """Root in all but its name: of a policy that gives everything, and for a month."""
    path = "sys/policies/acl/ops"
    with stand.root() as token:
        stand.client.call("POST", path, {"policy": 'path "*" {\n  capabilities = ["create", "read", "update", "delete", "list", "sudo"]\n}\n'}, token=token)
        made = stand.client.call("POST", "auth/token/create", {"policies": ["ops"], "period": "768h", "no_parent": True}, token=token)["auth"]
    yield
    with stand.root() as token:
        stand.client.call("POST", "auth/token/revoke-accessor", {"accessor": made["accessor"]}, token=token)
        stand.client.call("DELETE", path, token=token)


@contextmanager
def nobody_may_look_at_tokens(stand: Stand) -> Iterator[None]:
    """A root token is alive, and the identity that looks for one was given less."""
    with stand.root() as token:
        text = stand.client.call("GET", "sys/policies/acl/hnai-openbao", token=token)["data"]["policy"]
        stand.client.call("PUT", "sys/policies/acl/hnai-openbao", {"policy": text.replace("lookup-accessor", "look-not")}, token=token)
        yield
        stand.converge(token)


def another_audit_device(stand: Stand, name: str, *edits: tuple[str, str]) -> AbstractContextManager[None]:
    """In the place of a declared one: OpenBao refuses to lead where one of the same name is another."""
    def edit(text: str) -> str:
        before, declared, after = text.partition(f'audit "file" "{name}" {{')
        assert declared
        for old, new in edits:
            assert old in after
            after = after.replace(old, new, 1)
        return f'{before}audit "file" "other" {{{after}'

    return reconfigured(stand, edit)


@contextmanager
def reconfigured(stand: Stand, edit: Callable[[str], str]) -> Iterator[None]:
    stand.reconfigure(edit)
    yield
    stand.reconfigure()


def secrets_are_recorded_in_the_clear(stand: Stand) -> AbstractContextManager[None]:
    return another_audit_device(stand, "primary", ('"0600"', '"0600"\n    log_raw   = "true"'))


def an_audit_device_is_a_black_hole(stand: Stand) -> AbstractContextManager[None]:
    """It is on a file system of its own, and always has room."""
    return another_audit_device(stand, "second", (stand.given["openbao_audit_devices"][1]["path"], "/dev/null"))


@contextmanager
def secrets_may_be_overwritten_blindly(stand: Stand) -> Iterator[None]:
    with stand.root() as token:
        stand.client.call("POST", stand.spec["kv"] + "/config", {"cas_required": False}, token=token)
    yield
    with stand.root() as token:
        stand.converge(token)


@contextmanager
def secrets_delete_themselves(stand: Stand) -> Iterator[None]:
    """What is written from now on is there for an hour."""
    with stand.root() as token:
        stand.client.call("POST", stand.spec["kv"] + "/config", {"delete_version_after": "1h"}, token=token)
    yield
    with stand.root() as token:
        stand.converge(token)


@contextmanager
def one_share_opens_the_seal(stand: Stand) -> Iterator[None]:
    """Somebody made new key shares, one; then as many as were declared."""

    def share_out(number: int, needed: int) -> None:
        with stand.root() as token:
            begun = stand.client.call("POST", "sys/rotate/root/init", {"secret_shares": number, "secret_threshold": needed}, token=token)["data"]
            done: dict[str, Any] = {}
            for share in stand.loop.init["keys_base64"][: begun["required"]]:
                done = stand.client.call("POST", "sys/rotate/root/update", {"nonce": begun["nonce"], "key": share}, token=token)["data"]
            stand.loop.init["keys_base64"] = done["keys_base64"]

    share_out(1, 1)
    yield
    share_out(3, 2)


@contextmanager
def deploy_may_read_secrets(stand: Stand) -> Iterator[None]:
    with stand.root() as token:
        stand.allow("deploy", stand.spec["kv"] + "/data/*", token)
    yield
    with stand.root() as token:
        stand.converge(token)


@contextmanager
def deploy_may_read_secrets_of_one_component(stand: Stand) -> Iterator[None]:
    with stand.root() as token:
        stand.allow("deploy", f"{stand.spec['kv']}/data/{SECRET}", token)
    yield
    with stand.root() as token:
        stand.converge(token)


@contextmanager
def root_is_made_without_a_login(stand: Stand) -> Iterator[None]:
    stand.reconfigure(openbao_generate_root=True)
    yield
    stand.reconfigure(openbao_generate_root=False)


@contextmanager
def the_authority_ends_soon(stand: Stand) -> Iterator[None]:
    """An intermediate of 170 days signs; then one of the declared life."""

    def choose(days: int, run_id: str) -> None:
        with stand.entered(policies.AUTHORITY) as token:
            pki = authority.Pki(
                stand.client, token, stand.spec["pki_root"], stand.spec["pki_int"], {"intermediate": "loop intermediate CA"}, {"intermediate": days * DAY},
            )  # fmt: skip
            pki.current()
            pki.choose(pki.make(authority.INTERMEDIATE, run_id))

    choose(170, "short")
    yield
    choose(stand.spec["intermediate_ttl"] // DAY, "long")


# -- the secrets -----------------------------------------------------------------------------------------------------
@contextmanager
def a_secret_is_older_than_its_contract_allows(stand: Stand) -> Iterator[None]:
    (secret,) = [one for one in stand.contracts["questdb"]["secrets"] if one["path"] == SECRET]
    declared = secret["max_age"]
    secret["max_age"] = "1s"
    yield
    secret["max_age"] = declared


@contextmanager
def a_secret_is_deleted(stand: Stand) -> Iterator[None]:
    """`bao kv delete`: its versions are still counted, and nobody can read one."""
    with stand.root() as token:
        stand.client.call("DELETE", f"{stand.spec['kv']}/data/{SECRET}", token=token)
    yield
    with stand.root() as token:
        stand.client.call("POST", f"{stand.spec['kv']}/undelete/{SECRET}", {"versions": [1]}, token=token)


@contextmanager
def a_secret_deletes_itself(stand: Stand) -> Iterator[None]:
    """`bao kv metadata put -delete-version-after=1h`, and the secret is written again: it is there, and in an hour nobody can read it."""
    metadata, path = (f"{stand.spec['kv']}/{part}/{SECRET}" for part in ("metadata", "data"))

    def lives(after: str) -> None:
        with stand.root() as token:
            stand.client.call("POST", metadata, {"delete_version_after": after}, token=token)
            at = stand.client.call("GET", metadata, token=token)["data"]["current_version"]
            stand.client.call("POST", path, {"options": {"cas": at}, "data": {"password": "p"}}, token=token)

    lives("1h")
    yield
    lives("0s")


@contextmanager
def a_rotation_was_left_open(stand: Stand) -> Iterator[None]:
    """Its controller died yesterday; today's rolls it back."""

    def begun(owner: str, now: Callable[[], float], **more: Any) -> None:
        with stand.entered(policies.ROTATION) as token:
            run = Rotation(KvStore(stand.client, token, stand.spec["kv"]), SECRET, owner, now)
            view = run.begin("backend", lambda current: {**current, "password": "next"}, "run", **more)
            if more:
                run.back_in_force(run.restore(view), {}, {"old_works": True, "new_refused": True})

    begun("dead", lambda: time.time() - DAY)
    yield
    begun("alive", time.time, rollback="run")


@contextmanager
def a_stranger_reads_a_secret(stand: Stand) -> Iterator[None]:
    """A component's policy was widened by hand, and used; afterwards it is as declared, and the log of it is put away."""
    with stand.site_admin() as token:
        stand.allow("hnai-kafka", f"{stand.spec['kv']}/data/{SECRET}", token)
    component.visit(stand.client, "kafka", stand.loop.deploy, [SECRET])
    yield
    stand.converge()
    put_away(stand)


@contextmanager
def a_reader_says_that_he_is_the_component(stand: Stand) -> Iterator[None]:
    """A token that somebody made, with the name of an AppRole in its metadata; it is gone before anybody looks."""
    with stand.root() as token:
        asked = {"policies": ["hnai-questdb"], "meta": {"role_name": "hnai-questdb"}, "display_name": "hnai", "no_parent": True}
        made = stand.client.call("POST", "auth/token/create", asked, token=token)["auth"]["client_token"]
    assert stand.client.call("GET", f"{stand.spec['kv']}/data/{SECRET}", token=made)["data"]["data"]["password"]
    leave(stand.client, made)
    yield
    put_away(stand)


def put_away(stand: Stand) -> None:
    """The audit log as it is."""
    sizes = stand.loop.directory / "audit-rotate"
    sizes.write_text("".join(f"1 2 {device['path']}\n" for device in stand.given["openbao_audit_devices"]), encoding="utf-8")
    subprocess.run(["sh", ROLE / "tree/usr/local/lib/hnai/openbao/rotate-audit", sizes, stand.loop.directory / "pid"], check=True, timeout=20)
    # What was renamed is read too: its keeper has taken it away.
    for device in stand.given["openbao_audit_devices"]:
        Path(device["path"] + ".1").unlink()


@contextmanager
def a_secret_that_nobody_names(stand: Stand) -> Iterator[None]:
    """A hand wrote it."""
    path = f"{stand.spec['kv']}/metadata/kafka/left"
    with stand.root() as token:
        stand.client.call("POST", path.replace("metadata", "data", 1), {"options": {"cas": 0}, "data": {"password": "p"}}, token=token)
    yield
    with stand.root() as token:
        stand.client.call("DELETE", path, token=token)


@contextmanager
def the_first_device_missed_a_stranger(stand: Stand) -> Iterator[None]:
    """Its disk was full for a moment: the answer is given where one device has recorded it."""
    first = Path(stand.given["openbao_audit_devices"][0]["path"])
    before = first.read_bytes()
    with a_stranger_reads_a_secret(stand):
        first.write_bytes(before)
        yield


@contextmanager
def the_policy_is_of_an_older_release(stand: Stand) -> Iterator[None]:
    """One sentence with the remedy, and not one a secret."""
    with stand.site_admin() as token:
        path = "sys/policies/acl/hnai-openbao"
        text = stand.client.call("GET", path, token=token)["data"]["policy"]
        stand.client.call("PUT", path, {"policy": "\n}\n".join(one for one in text.split("\n}\n") if "metadata" not in one and "_rotation" not in one)},
                          token=token)
    yield
    stand.converge()


@contextmanager
def an_audit_device_is_gone(stand: Stand) -> Iterator[None]:
    """The other one has the readers, too."""
    log = Path(stand.given["openbao_audit_devices"][1]["path"])
    log.rename(log.with_suffix(".moved"))
    yield
    log.with_suffix(".moved").rename(log)


def of(says: str, subject: str = "") -> str:
    """A check fails and says this, of this subject alone."""
    return rf"\Afail {subject}: {says}\Z"


@faults(
    Fault(a_root_token_is_alive, {"BAO07": of("1")}),
    Fault(a_token_was_made_by_hand, {"BAO13": of(r"policy ops; token \S+ with default, ops \(auth/token/create\)")}),
    Fault(nobody_may_look_at_tokens, {"BAO07": r"\Ainconclusive : \d+ tokens are alive, and openbao could look at none\Z",
                                      "BAO14": of(r'policy hnai-openbao: path "auth/token/look-not" .*')}),
    Fault(secrets_are_recorded_in_the_clear, {"BAO05": of(r"in the clear \(log_raw\).*", "other")}),
    Fault(an_audit_device_is_a_black_hole, {"BAO05": of("not recorded", "other"), "BAO13": of(r"audit device other \(/dev/null\)")}),
    Fault(deploy_may_read_secrets, {
        "BAO10": of("allowed: openbao/hnai-canary, .*"), "BAO14": of(r'policy deploy: path "hnai/data/\*" \["read"\] \(not declared\)')}),
    Fault(deploy_may_read_secrets_of_one_component, {"BAO10": of(f"allowed: {SECRET}"), "BAO14": of(f'policy deploy: path "hnai/data/{SECRET}" .*')}),
    Fault(root_is_made_without_a_login, {"BAO11": of("allowed")}),
    Fault(the_authority_ends_soon, {"BAO12": of(r"the intermediate ends first \((169\.\d|170\.0) days\)")}),
    Fault(secrets_may_be_overwritten_blindly, {"BAO09": of("cas_required=False instead of True")}),
    Fault(secrets_delete_themselves, {"BAO09": of("delete_version_after=1h0m0s instead of 0s")}),
    Fault(one_share_opens_the_seal, {"BAO11": of("1 of 1 key shares make root, declared are 2")}),
    Fault(another_release_is_declared, {"BAO02": of(r"2\.7\.2")}),
    Fault(a_stranger_reads_a_secret, {"SI3": of(r"\['hnai-kafka'\]", SECRET), "BAO14": of(f'policy hnai-kafka: path "hnai/data/{SECRET}" .*')}),
    Fault(a_reader_says_that_he_is_the_component, {"SI3": of(r"\['token-hnai hnai-questdb'\]", SECRET)}),
    Fault(the_first_device_missed_a_stranger, {"SI3": of(r"\['hnai-kafka'\]", SECRET)}, may="BAO14"),
    Fault(an_audit_device_is_gone, {"BAO04": of(".*audit.log is not there"), "BAO05": of(".* is not there: .*", "second")}, unknown="BAO06"),
    Fault(the_policy_is_of_an_older_release, {"SI1": r"\Ainconclusive : GET hnai/metadata/openbao: HTTP 403"}, may="SI2 SI3 SI4 BAO14"),
    Fault(a_secret_that_nobody_names, {"SI4": of(r"\['kafka/left'\]")}),
    Fault(a_secret_is_deleted, {"SI1": of("its version 1 was deleted: .*", SECRET)}),
    Fault(a_secret_deletes_itself, {"SI1": of(r"OpenBao deletes its version \d+ at \S+ .*", SECRET)}),
    Fault(a_secret_is_older_than_its_contract_allows, {"SI1": of(r"\d+", SECRET)}),
    Fault(a_rotation_was_left_open, {"SI2": of("run PREPARED", SECRET)}),
    Fault(a_stranger_copies_the_store, {"BAO03": "^fail : eve has a copy of the store, and no vote$"}),
    Fault(a_voter_is_dead, {"BAO03": of("3")}),
)
def test_a_fault_fails_its_own_check_and_passes_after_repair(stand: Stand, fault: Fault) -> None:
    exercise(stand, fault)


#: What somebody makes beside the contracts, and how it is named: left alone, and gone when he takes it away.
STRANGERS: dict[str, tuple[str, dict[str, Any]]] = {
    "secrets engine notes (kv)": ("sys/mounts/notes", {"type": "kv"}),
    "auth method userpass (userpass)": ("sys/auth/userpass", {"type": "userpass"}),
    "AppRole eve of no component of the site": ("auth/hnai/role/eve", {}),
    "policy eve": ("sys/policies/acl/eve", {"policy": 'path "*" {\n  capabilities = ["read"]\n}\n'}),
    "AppRole of an identity eve": ("auth/approle/role/eve", {"token_policies": "site-admin"}),
    "PKI role of pki_root: eve": ("pki_root/roles/eve", {"allow_any_name": True}),
    "PKI role of pki_int: eve": ("pki_int/roles/eve", {"allow_any_name": True}),
    "token role eve": ("auth/token/roles/eve", {}),
    "namespace eve/": ("sys/namespaces/eve", {}),
}
#: What somebody changes of ours, and the change that puts it right.
CHANGED: dict[str, tuple[str, dict[str, Any]]] = {
    "AppRole hnai-questdb": ("auth/hnai/role/hnai-questdb", {"token_period": "24h"}),
    "PKI role hnai-questdb": ("pki_int/roles/hnai-questdb", {"allow_any_name": True}),
    "policy hnai-questdb": ("sys/policies/acl/hnai-questdb", {"policy": 'path "*" {\n  capabilities = ["read"]\n}\n'}),
}
#: What only root puts right.
OF_ROOT: dict[str, tuple[str, dict[str, Any]]] = {
    "auth mount hnai: max_lease_ttl=31536000 (not 0)": ("sys/auth/hnai/tune", {"max_lease_ttl": "8760h"}),
    "hnai/config: delete_version_after": ("hnai/config", {"delete_version_after": "1h"}),
}


def test_what_somebody_made_or_loosened_is_named_by_the_check(stand: Stand) -> None:
    def look(check: bool = True, root_token: str = "") -> site.Outcome:
        return site.Site(stand.client, stand.spec, stand.loop.identities, root_token, check=check).converge()

    clean = look()
    assert (clean.changes, clean.pending, clean.foreign) == ([], [], [])
    assert seen(stand) == ("pass", [])
    with stand.root() as token:
        for path, body in [*STRANGERS.values(), *CHANGED.values(), *OF_ROOT.values()]:
            stand.client.call("POST", path, body, token=token)
        entity = stand.client.call("POST", "identity/entity", {"name": "eve", "policies": "hnai-questdb"}, token=token)["data"]["id"]
        made = stand.client.call("POST", "auth/token/create", {"policies": ["site-admin"], "no_default_policy": True}, token=token)["auth"]
        named = [*STRANGERS, "entity eve with hnai-questdb", f"token {made['accessor']} with site-admin (auth/token/create)"]
        assert seen(stand) == ("fail", named)
        # Of a server that others use too: what has a name of ours in it.
        assert seen(stand, openbao_external={"owner": "the security office"}) == ("fail", [
            "AppRole eve of no component of the site", "PKI role of pki_root: eve", "PKI role of pki_int: eve", *named[-2:]])
        stand.client.call("DELETE", "identity/entity/id/" + entity, token=token)
        stand.client.call("POST", "auth/token/revoke-accessor", {"accessor": made["accessor"]}, token=token)
        found = look()
        assert {change.what for change in found.changes} == set(CHANGED)
        assert (found.foreign, found.pending) == (list(STRANGERS), list(OF_ROOT))
        look(check=False)
        left = look()
        assert (left.changes, left.foreign, left.pending) == ([], list(STRANGERS), list(OF_ROOT))
        look(check=False, root_token=token)
        for path, _body in STRANGERS.values():
            stand.client.call("DELETE", path, token=token)
        # A namespace goes by and by.
        until("what was made is still there", lambda: look().foreign == [], 30, 1)
    after = look()
    assert (after.changes, after.pending) == ([], [])
    assert seen(stand) == ("pass", [])
    # As before a device's file was declared.
    first, second = stand.given["openbao_audit_devices"]
    assert seen(stand, openbao_audit_devices=[first]) == ("fail", ["audit device %(name)s (%(path)s)" % second])


def test_a_root_that_somebody_imported_is_named_before_hosts_trust_it(stand: Stand) -> None:
    made = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", "/dev/null", "-days", "30", "-subj", "/CN=eve",
            "-addext", "keyUsage=critical,keyCertSign,cRLSign"]
    pem = subprocess.run(["openssl", *made], check=True, capture_output=True, text=True, timeout=60).stdout
    with stand.root() as token:
        (issuer,) = stand.client.call("POST", "pki_root/issuers/import/cert", {"pem_bundle": pem}, token=token)["data"]["imported_issuers"]
        assert pem.strip() in authority.trust_bundle(stand.client, "pki_root")
        assert seen(stand) == ("fail", [f"root CA of pki_root, which hosts are made to trust: {issuer}"])
        stand.client.call("DELETE", "pki_root/issuer/" + issuer, token=token)
    assert seen(stand) == ("pass", [])


def seen(stand: Stand, **given: Any) -> tuple[str, list[str]]:
    """What BAO13 says, with other variables of the role."""
    before, stand.given = stand.given, stand.given | given
    try:
        (check,) = [one for one in stand.judge() if one["id"] == "BAO13"]
    finally:
        stand.given = before
    return check["status"], check["observed"]


# -- what is the site's, and opens more ------------------------------------------------------------------------------
def otherwise(name: str, *changes: tuple[str, dict[str, Any]], back: Sequence[tuple[str, dict[str, Any]]] = ()) -> Callable[[Stand], Any]:
    """Somebody with a root token changes settings; he puts them *back*, or the role does."""

    @contextmanager
    def make(stand: Stand) -> Iterator[None]:
        with stand.root() as token:
            for path, body in changes:
                # A PKI role is written as a whole.
                whole = stand.client.call("GET", path, token=token)["data"] if "/roles/" in path else {}
                stand.client.call("POST", path, {**whole, **body}, token=token)
        yield
        with stand.root() as token:
            for path, body in back:
                stand.client.call("POST", path, body, token=token)
            if not back:
                stand.converge(token)

    make.__name__ = name
    return make


@contextmanager
def the_policy_default_opens_everything(stand: Stand) -> Iterator[None]:
    path = "sys/policies/acl/default"
    with stand.root() as token:
        before = stand.client.call("GET", path, token=token)["data"]["policy"]
        stand.client.call("POST", path, {"policy": before + 'path "*" { capabilities = ["read"] }'}, token=token)
    yield
    with stand.root() as token:
        stand.client.call("POST", path, {"policy": before}, token=token)


@contextmanager
def tokens_are_recorded_in_the_clear(stand: Stand) -> Iterator[None]:
    path = "sys/config/auditing/request-headers/x-vault-token"
    with stand.root() as token:
        stand.client.call("POST", path, {"hmac": False}, token=token)
    yield
    with stand.root() as token:
        stand.client.call("DELETE", path, token=token)


def an_audit_device_tells_accessors_and_everybody_reads_it(stand: Stand) -> AbstractContextManager[None]:
    return another_audit_device(stand, "primary", ('"0600"', '"0644"\n    hmac_accessor = "false"'))


@contextmanager
def nobody_may_look_at_what_is_the_sites(stand: Stand) -> Iterator[None]:
    """The policy is of the release before the check."""
    with stand.site_admin() as token:
        path = "sys/policies/acl/hnai-openbao"
        text = stand.client.call("GET", path, token=token)["data"]["policy"]
        rules = [one for one in text.split("\n}\n") if not re.search(
            r'path "(sys/policies/acl/[^"]+|sys/config\S*|auth/hnai/role/\+|auth/approle/role/[^/"]+|pki_int/roles/h\S*|ssh-host/\S*|\S*/acme)"', one)]
        stand.client.call("PUT", path, {"policy": "\n}\n".join(rules)}, token=token)
    yield
    stand.converge()


ANY = 'path "*" {\n  capabilities = ["read"]\n}\n'
LOCKOUT = {"user_lockout_counter_reset_duration": 0, "user_lockout_disable": True, "user_lockout_duration": 0, "user_lockout_threshold": 0}
LOCAL = "['127.0.0.1/32', '::1/128']"
_APPROLE, _PKI = "auth/hnai/role/hnai-questdb", "pki_int/roles/hnai-questdb"
#: How it is made, and what is said of it.
LOOSENED: list[tuple[Callable[[Stand], Any], str, list[str]]] = [
    (otherwise("an_approle_asks_for_less", (_APPROLE, {"bind_secret_id": False, "secret_id_num_uses": 0, "secret_id_ttl": 0, "token_bound_cidrs": []})),
     "AppRole hnai-questdb", ["bind_secret_id=False (not True)", "secret_id_num_uses=0 (not 1)", "secret_id_ttl=0 (not 300)",
                              f"token_bound_cidrs=[] (not {LOCAL})"]),
    (otherwise("an_approle_is_open_to_every_address", (_APPROLE, {"secret_id_bound_cidrs": []})),
     "AppRole hnai-questdb", [f"secret_id_bound_cidrs=[] (not {LOCAL})"]),
    (otherwise("an_approle_gives_more", (_APPROLE, {
        "token_policies": ["hnai-questdb", "site-admin"], "token_ttl": "24h", "token_max_ttl": "24h", "token_period": "24h",
        "token_no_default_policy": False})),
     "AppRole hnai-questdb", ["token_max_ttl=86400 (not 300)", "token_no_default_policy=False (not True)", "token_period=86400 (not 0)",
                              "token_policies=['hnai-questdb', 'site-admin'] (not ['hnai-questdb'])", "token_ttl=86400 (not 300)"]),
    (otherwise("an_approle_gives_what_nobody_revokes", (_APPROLE, {"token_type": "batch"})), "AppRole hnai-questdb", ["token_type=batch (not service)"]),
    (otherwise("an_identity_lives_for_ever", ("auth/approle/role/deploy", {"secret_id_ttl": 0, "token_policies": ["deploy", "site-admin"]})),
     "AppRole deploy", ["secret_id_ttl=0 (not 7776000)", "token_policies=['deploy', 'site-admin'] (not ['deploy'])"]),
    (otherwise("a_pki_role_signs_any_name", (_PKI, {
        "allow_any_name": True, "allow_glob_domains": True, "allow_subdomains": True, "allow_wildcard_certificates": True, "enforce_hostnames": False})),
     "PKI role hnai-questdb", ["allow_any_name=True (not False)", "allow_glob_domains=True (not False)", "allow_subdomains=True (not False)",
                               "allow_wildcard_certificates=True (not False)", "enforce_hostnames=False (not True)"]),
    (otherwise("a_pki_role_signs_for_longer", (_PKI, {"max_ttl": "8760h", "ttl": "8760h", "not_after_bound": "permit", "not_before_bound": "permit"})),
     "PKI role hnai-questdb", ["max_ttl=31536000 (not 7776000)", "not_after_bound=permit (not forbid)", "not_before_bound=permit (not forbid)",
                               "ttl=31536000 (not 7776000)"]),
    (otherwise("a_pki_role_signs_as_another", (_PKI, {
        "ou": ["kafka"], "code_signing_flag": True, "use_csr_common_name": True, "use_csr_sans": True, "issuer_ref": "root"})),
     "PKI role hnai-questdb", ["code_signing_flag=True (not False)", "issuer_ref=root (not default)", "ou=['kafka'] (not ['questdb'])",
                               "use_csr_common_name=True (not False)", "use_csr_sans=True (not False)"]),
    (otherwise("a_pki_role_signs_more_names", (_PKI, {"allowed_uri_sans": ["*"], "allowed_other_sans": ["*"], "allowed_domains_template": True,
                                                      "cn_validations": ["disabled"], "allowed_serial_numbers": ["*"]})),
     "PKI role hnai-questdb", ["allowed_domains_template=True (not False)", "allowed_other_sans=['*'] (not [])", "allowed_serial_numbers=['*'] (not [])",
                               "allowed_uri_sans=['*'] (not [])", "cn_validations=['disabled'] (not ['email', 'hostname'])"]),
    (otherwise("an_ssh_role_certifies_people", ("ssh-host/roles/hnai-host", {
        "allow_user_certificates": True, "allowed_domains": "*", "allow_subdomains": True})),
     "SSH role hnai-host", ["allow_subdomains=True (not False)", "allow_user_certificates=True (not False)", "allowed_domains=* (not 10.0.0.1,kafka1)"]),
    (otherwise("the_policy_of_a_component_opens_everything", ("sys/policies/acl/hnai-questdb", {"policy": ANY})), "policy hnai-questdb", [
        'path "*" ["read"] (not declared)', 'path "auth/token/revoke-self" nothing (not ["update"])', 'path "hnai/data/questdb/*" nothing (not ["read"])',
        'path "pki_int/sign/hnai-questdb" nothing (not ["update"])']),
    (otherwise("the_policy_of_site_admin_opens_everything", ("sys/policies/acl/site-admin", {
        "policy": policies.site_admin("hnai", "pki_root", "pki_int") + ANY})),
     "policy site-admin", ['path "*" ["read"] (not declared)']),
    (otherwise("a_mount_gives_for_longer", ("sys/auth/hnai/tune", {"max_lease_ttl": "8760h"})), "auth mount hnai", ["max_lease_ttl=31536000 (not 0)"]),
    (otherwise("tokens_live_for_longer", ("sys/auth/token/tune", {"max_lease_ttl": "8760h"}), back=[("sys/auth/token/tune", {"max_lease_ttl": 0})]),
     "auth mount token", ["max_lease_ttl=31536000 (not 0)"]),
    (otherwise("an_authority_signs_for_longer", ("sys/mounts/pki_int/tune", {"max_lease_ttl": "87600h"})),
     "mount pki_int", ["max_lease_ttl=315360000 (not 157680000)"]),
    (otherwise("a_mount_is_recorded_in_the_clear", ("sys/mounts/hnai/tune", {"audit_non_hmac_response_keys": ["password"], "listing_visibility": "unauth"}),
               back=[("sys/mounts/hnai/tune", {"audit_non_hmac_response_keys": "", "listing_visibility": "hidden"})]),
     "mount hnai", ["audit_non_hmac_response_keys=['password'] (not declared)", "listing_visibility=unauth (not declared)"]),
    (otherwise("wrapped_answers_are_recorded_in_the_clear", ("sys/mounts/sys/tune", {"audit_non_hmac_response_keys": ["secret_id"]}),
               back=[("sys/mounts/sys/tune", {"audit_non_hmac_response_keys": ""})]),
     "mount sys", ["audit_non_hmac_response_keys=['secret_id'] (not declared)"]),
    (otherwise("guesses_are_not_counted", ("sys/auth/approle/tune", {"user_lockout_config": {"lockout_disable": True}}),
               back=[("sys/auth/approle/tune", {"user_lockout_config": {"lockout_disable": False}})]),
     "auth mount approle", [f"user_lockout_config={LOCKOUT} (not declared)"]),
    (otherwise("certificates_without_a_login", ("pki_int/config/cluster", {"path": "https://sec1:8200/v1/pki_int"}),
               ("pki_int/config/acme", {"enabled": True})),
     "ACME of pki_int", ["enabled=True (not False)"]),
    (the_policy_default_opens_everything, "policy default", ['path "*" ["read"] (not declared)']),
    (tokens_are_recorded_in_the_clear, "audit", ["header x-vault-token=in the clear (not declared)"]),
    (an_audit_device_tells_accessors_and_everybody_reads_it, "audit device other", ["hmac_accessor=false (not declared)", "mode=0644 (not 0600)"]),
]


@faults(*(Fault(make, {"BAO14": rf"\Afail : {re.escape('; '.join(f'{what}: {one}' for one in said))}\Z"}) for make, what, said in LOOSENED),
        Fault(nobody_may_look_at_what_is_the_sites, {"BAO14": r"\Ainconclusive : openbao may not look at sys/policies/acl/site-admin, .*"}))
def test_what_opens_more_than_declared_is_named(stand: Stand, fault: Fault) -> None:
    exercise(stand, fault)
