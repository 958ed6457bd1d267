# SPDX-License-Identifier: Apache-2.0
"""A server of somebody else's at its address: what is sent to it, what both OpenBao and Vault understand, and every call told where it is."""
from __future__ import annotations

import http.server
import itertools
import json
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.errors import AnsibleActionFail
from test_openbao_client import certificate

from ansible_collections.hnai.platform.plugins.module_utils.openbao import elsewhere, policies
from ansible_collections.hnai.platform.plugins.module_utils.openbao.client import Client, NotFound, Unreachable
from ansible_collections.hnai.platform.plugins.module_utils.openbao.elsewhere import connect
from ansible_collections.hnai.platform.plugins.plugin_utils import contracts, openbao_asked, openbao_spec
from ansible_collections.hnai.platform.plugins.plugin_utils.openbao_asked import asked

ROOT = Path(__file__).parents[2]
#: What lies below hnai/metadata/, as LIST answers it. HashiCorp Vault, too, answers 405 to a verb that it does not know.
FOLDERS = {"": ["kafka/", "notes"], "kafka/": ["a", "deep/", "gone/"], "kafka/deep/": ["b"]}


class Handler(http.server.BaseHTTPRequestHandler):
    """Says what it was sent; below hnai/metadata/ it has secrets, and `standby` answers as one."""

    protocol_version = "HTTP/1.1"

    def answer(self) -> None:
        path = self.path.removeprefix("/v1/")
        folder = path.removeprefix("hnai/metadata/")
        status, data = 200, {"data": {"path": path, "namespace": self.headers.get("X-Vault-Namespace"), "token": self.headers.get("X-Vault-Token")}}
        if path == "standby":
            status, data = 307, {}
        elif self.command == "SCAN":
            status, data = 405, {"errors": ["unsupported operation"]}
        elif self.command == "LIST":
            status, data = (200, {"data": {"keys": FOLDERS[folder]}}) if folder in FOLDERS else (404, {"errors": []})
        raw = json.dumps(data).encode()
        self.send_response(status)
        if status == 307:
            self.send_header("Location", "https://127.0.0.1:1/v1/standby")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    do_GET = do_POST = do_SCAN = do_LIST = answer

    def log_message(self, *_args: object) -> None:
        """Quiet."""


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """openbao_external of a server that listens."""
    cert, key = certificate(tmp_path_factory.mktemp("tls"), "vault", "DNS:localhost,IP:127.0.0.1")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield {"owner": "IT", "address": f"https://127.0.0.1:{server.server_port}", "ca": cert.read_text(encoding="ascii")}
    server.shutdown()


def given(external: dict[str, str]) -> dict[str, Any]:
    return {"address": "https://127.0.0.1:1", "ca_file": "/nonexistent/ca.pem", "external": external}


def test_it_is_asked_there_and_nowhere_else(there: dict[str, str]) -> None:
    api = connect(given(there))
    assert api.call("GET", "x", token="t")["data"] == {"path": "x", "namespace": None, "token": "t"}
    assert api.served(5.0)["sans"] == ["DNS:localhost", "IP Address:127.0.0.1"]
    for ours in ({}, {"owner": "IT", "ca": there["ca"]}, dict.fromkeys(there)):
        here = connect(given(ours))
        assert type(here) is Client and here.port == 1


def test_a_namespace_is_named_with_every_call_but_what_is_of_the_whole_server(there: dict[str, str]) -> None:
    api = connect(given({**there, "namespace": "plants/pad1"}))
    for path in ("sys/mounts", "auth/approle/login", "pki_int/cert/ca", "sys/policies/acl/deploy", "sys/wrapping/unwrap"):
        assert api.call("GET", path)["data"]["namespace"] == "plants/pad1"
    for path in ("sys/seal-status", "sys/leader"):
        assert api.call("GET", path)["data"]["namespace"] is None


def test_only_the_authority_that_was_given_is_trusted(there: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not those of the host, even where they would do."""
    trusted = tmp_path / "host.pem"
    trusted.write_text(there["ca"], encoding="ascii")
    monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
    other = certificate(tmp_path, "other", "IP:127.0.0.1")[0].read_text(encoding="ascii")
    with pytest.raises(Unreachable, match="CERTIFICATE_VERIFY_FAILED"):
        connect(given({**there, "ca": other})).call("GET", "x", token="t")
    for none in ("", " ", "/etc/ssl/ca.pem"):
        with pytest.raises(Unreachable, match=r"openbao_external\.ca is no certificate"):
            connect(given({**there, "ca": none}))
    with pytest.raises(Unreachable, match="trusted roots cannot be read"):
        connect(given({**there, "ca": "-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n"})).call("GET", "x")


def test_a_name_that_its_certificate_does_not_bear_is_refused(there: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    resolve = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda _host, *more, **named: resolve("127.0.0.1", *more, **named))
    with pytest.raises(Unreachable, match="CERTIFICATE_VERIFY_FAILED"):
        connect(given({**there, "address": there["address"].replace("127.0.0.1", "vault.example")})).call("GET", "x", token="t")


@pytest.mark.parametrize("address", ["http://127.0.0.1:8200", "https://u:pw@127.0.0.1:8200", "https://127.0.0.1:8200/v1", "https://127.0.0.1"])
def test_no_other_address_is_dialled(there: dict[str, str], address: str) -> None:
    with pytest.raises(Unreachable, match=r"openbao_external\.address: ") as caught:
        connect(given({**there, "address": address}))
    assert "pw" not in str(caught.value)


def test_paths_are_found_by_lists_alone(there: dict[str, str]) -> None:
    api = connect(given(there))
    assert api.call("SCAN", "hnai/metadata/", token="t") == {"data": {"keys": ["kafka/a", "kafka/deep/b", "notes"]}}
    with pytest.raises(NotFound):
        api.call("SCAN", "other/metadata/", token="t")


def test_no_token_follows_a_standby(there: dict[str, str]) -> None:
    with pytest.raises(Unreachable, match="a standby that does not forward"):
        connect(given(there)).call("GET", "standby", token="t")


def test_policies_name_nothing_that_vault_refuses_or_that_is_its_owners() -> None:
    texts = {name: policies.component(name, ["x/y"], True, "hnai", "pki_int", "pki_root") for name in ("kafka", policies.SELF)}
    texts |= policies.internal("hnai", "pki_root", "pki_int", "ssh")
    texts |= {"deploy": policies.deploy(), "site-admin": policies.site_admin("hnai", "pki_root", "pki_int", "ssh")}
    for name, text in texts.items():
        there = elsewhere.policy(text)
        # A path with a wildcard lists by its slash.
        left = [line.replace('secret-id"', 'secret-id/"') if '["list"]' in can and "+" in line else line
                for line, can in itertools.pairwise(text.splitlines()) if line.startswith('path "')]
        gone = set(left) - set(there.splitlines())
        assert all(line.startswith(('path "sys/audit"', 'path "sys/storage/', 'path "sys/generate-root-token/', 'path "sys/rotate/', 'path "sys/key-status"'))
                   for line in gone), name
        assert there.count("path ") == there.count("capabilities = [") == there.count("\n}") == len(left) - len(gone)
        assert '"scan"' not in there and "capabilities = []" not in there
        assert elsewhere.policy(there) == there
        assert "" not in policies.granted(there) and len(policies.granted(there)) == len(left) - len(gone)
        limited = {path for path, may in policies.granted(there).items() if 'denied_parameters = { "not_after" = [] "not_before" = [] }' in may}
        assert limited == {path for path in policies.granted(text) if "/sign/" in path}, name
    assert elsewhere.policy(texts["rotation"]).count('role/+/secret-id/" {') == 1 and "secret-id/" not in elsewhere.policy(texts["deploy"])
    assert "/sign/" in texts["kafka"] and "/sign/" in texts["ssh-host"] and "/sign/" not in texts["authority"]


def test_identities_are_bound_to_the_addresses_from_which_it_is_asked() -> None:
    settings = {"site": "lab", "kv": "hnai", "pki_root": "pki_root", "pki_int": "pki_int", "root_ttl": "10y", "intermediate_ttl": "5y", "leaf_ttl": "90d",
                "identity_ttl": "90d", "addresses": ["10.77.36.11", "fd77:0:0:36::11"]}  # fmt: skip
    groups = {"openbao": ["sec1"]}

    def spec(external: dict[str, str], **more: Any) -> dict[str, Any]:
        placed = [contracts.asking(contracts.load("openbao"), external)]
        return openbao_spec.build(placed, groups, {**settings, "external": external, **more})

    ours, theirs, away = spec({}), spec({"owner": "IT"}), spec({"owner": "IT", "address": "https://vault:8200"})
    assert ours["cidrs"] == theirs["cidrs"] == ["127.0.0.1/32", "::1/128"]
    assert away["cidrs"] == ["10.77.36.11/32", "fd77:0:0:36::11/128"]
    assert [(one["shared"], one["elsewhere"]) for one in (ours, theirs, away)] == [(False, False), (True, False), (True, True)]
    # No certificate for a server that is not ours.
    assert ours["components"]["openbao"]["certificate"] and away["components"]["openbao"]["certificate"] is None
    with pytest.raises(openbao_spec.SpecError, match="hnai_addresses"):
        spec({"owner": "IT", "address": "https://vault:8200"}, addresses=[])


def _tasks(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, list):
        for one in node:
            yield from _tasks(one)
    elif isinstance(node, dict):
        yield node
        for key in ("tasks", "block", "rescue", "always"):
            yield from _tasks(node.get(key))


#: What is told to a module that a play calls where role and group are at hand: openbao_kv_mount, openbao_pki_mounts may be others in a site.
MOUNTS = {
    "openbao_site": {"kv", "pki_root", "pki_int"}, "openbao_retire": {"pki_int"}, "secret_inventory": {"kv"}, "vault_health": {"kv", "pki_root", "pki"},
}  # fmt: skip
#: Their actions take it from the site (openbao_asked), so that no task can forget it.
TOLD = {"openbao_component", "vault_rotate", "authority_rotation", "approle_rotation", "openbao_keys", "openbao_drill", "ssh_host_signature"}
#: For our own server alone: the play refuses what somebody else runs before it comes to them.
REFUSED = {"openbao_keys", "openbao_drill"}


def test_every_call_is_told_where_the_server_is() -> None:
    """One that is not would look for it on the loopback of a host where it is not."""
    modules = {path.stem for path in (ROOT / "plugins/modules").glob("*.py") if "connect(given" in path.read_text(encoding="utf-8")}
    assert modules == {*MOUNTS, *TOLD}
    assert not [path for path in (ROOT / "plugins/modules").glob("*.py")
                if path.stem not in {*modules, "openbao_bootstrap"} and "openbao.client import" in path.read_text(encoding="utf-8")]
    found: dict[str, int] = dict.fromkeys(modules, 0)
    for path in [*ROOT.glob("roles/*/tasks/*.yml"), *ROOT.glob("playbooks/**/*.yml")]:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        for task in _tasks(content):
            for name in modules & {str(key).removeprefix("hnai.platform.") for key in task if str(key).startswith("hnai.platform.")}:
                given, found[name] = task["hnai.platform." + name], found[name] + 1
                for mount in MOUNTS.get(name, ()):
                    assert ("openbao_kv_mount" if mount == "kv" else "openbao_pki_mounts") in str(given.get(mount)), (path, task["name"], mount)
                if name in REFUSED:
                    assert any("openbao_external" in str(one.get("ansible.builtin.assert")) for one in _tasks(content)), path
                if name in TOLD:
                    assert not {"deploy", "external", "kv", "pki_root", "pki_int"} & {*given}, (path, task["name"])
                else:
                    assert "delegate_to" not in task, (path, task["name"])
                    assert given.get("external") in ("{{ openbao_external | default({}) }}", "{{ openbao_external }}"), (path, task["name"])
    assert all(found.values()), found


def test_what_is_asked_of_openbao_comes_from_the_site_whichever_host_asks() -> None:
    here = {"groups": {"openbao": ["sec1", "sec2"]}, "hostvars": {
        "sec1": {"hnai_openbao_deploy": {"role_id": "r"}, "openbao_kv_mount": "plant", "openbao_pki_mounts": {"intermediate": "plant_int"},
                 "openbao_external": {"owner": "IT"}},
        "sec2": {"openbao_kv_mount": "other"}, "kafka1": {"openbao_kv_mount": "other"}}}  # fmt: skip
    every = ("deploy", "external", "kv", "pki_root", "pki_int")
    assert asked({"path": "a/b"}, here, *every) == {
        "path": "a/b", "deploy": {"role_id": "r"}, "external": {"owner": "IT"}, "kv": "plant", "pki_root": "pki_root", "pki_int": "plant_int"}  # fmt: skip
    assert asked({"kv": "mine"}, here, "kv", "deploy") == {"kv": "mine", "deploy": {"role_id": "r"}}, "the task's own word stands"
    bare = {"groups": {"openbao": ["sec1"]}, "hostvars": {"sec1": {}}}
    assert asked({}, bare, *every) == {"deploy": {}, "external": {}, "kv": "hnai", "pki_root": "pki_root", "pki_int": "pki_int"}
    for empty in (None, {"groups": {}}, {"groups": {"openbao": []}}):
        with pytest.raises(AnsibleActionFail, match="group openbao has no host"):
            asked({}, empty, "kv")


def test_the_defaults_of_the_mounts_are_the_roles() -> None:
    """Plays without the role do not know its defaults."""
    defaults = yaml.safe_load((ROOT / "roles/openbao/defaults/main.yml").read_text(encoding="utf-8"))
    assert (defaults["openbao_kv_mount"], defaults["openbao_pki_mounts"]) == (openbao_asked.KV, openbao_asked.MOUNTS)
