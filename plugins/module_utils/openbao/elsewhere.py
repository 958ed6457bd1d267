# SPDX-License-Identifier: Apache-2.0
"""A server that somebody else runs and that a host of ours asks over the network: ``openbao_external`` with ``address``.

All that differs from our own server stands here. It may be HashiCorp Vault: what both understand is used, whatever OpenBao does better.

* SCAN and the capability ``scan`` are OpenBao's (2.2.0, https://openbao.org/docs/rfcs/scan-operation): the paths are listed folder by folder, and no
  policy names the capability, which Vault refuses (https://developer.hashicorp.com/vault/docs/concepts/policies#capabilities).
* A path with a `+` gives the right to list only where it ends in the slash that a list ends in; Vault tries it without for paths in full alone (1.14.1,
  vault/acl.go, AllowOperation; found by running it). OpenBao takes either.
* A namespace is a header (https://openbao.org/docs/concepts/namespaces, https://developer.hashicorp.com/vault/docs/enterprise/namespaces). The state of
  the seal and of the cluster belong to no namespace, and audit devices, storage and the making of root to the root namespace alone.
* Which end and beginning a certificate may be asked for is a setting of OpenBao's PKI roles (2.3, https://openbao.org/api-docs/secret/pki), as is the
  issuer of an SSH role (https://openbao.org/api-docs/secret/ssh). Vault passes over settings that it does not know and shows none of them
  (https://developer.hashicorp.com/vault/api-docs/secret/pki, .../secret/ssh). The first is therefore in the policy too, which both enforce: parameters that
  may not be given (https://developer.hashicorp.com/vault/docs/concepts/policies#parameter-constraints).
* Vault makes root without a login (https://developer.hashicorp.com/vault/api-docs/system/generate-root); with the seal and its shares, that is the owner's.
* A standby forwards or answers 307 (https://developer.hashicorp.com/vault/docs/concepts/ha). No token follows to a place that nobody approved.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from .client import DEFAULT_TIMEOUT_S, Client, NotFound, Unreachable
from .endpoint import endpoint

#: Answered for the whole server, without a login.
OF_THE_SERVER = ("sys/seal-status", "sys/leader", "sys/health")
#: What a policy of ours gives on our own server and nobody asks for here: the owner's.
_OWNERS = re.compile(r'path "sys/(?:audit|storage/|generate-root-token/|rotate/|key-status)[^"]*" \{\n(?:  [^\n]*\n)+\}\n')


#: A right to have a certificate signed, and what nobody may ask for: nobody of ours does.
_SIGN = re.compile(r'(path "[^"]+/sign/[^"]+" \{\n  capabilities = \["update"\]\n)(?=\})')
_UNASKED = '  denied_parameters = {\n    "not_after" = []\n    "not_before" = []\n  }\n'
#: A right to list and nothing else, on a path with a wildcard.
_LIST = re.compile(r'(path "[^"]*\+[^"]*[^"/])(" \{\n  capabilities = \["list"\]\n)')
#: Settings of OpenBao's alone.
_OPENBAOS = ("not_after_bound", "not_before_bound", "issuer_ref")


def policy(text: str) -> str:
    """A policy of ours as it is written there: without `scan`, without what is the owner's, with the limits of roles that Vault has not, and lists by their
    slash."""
    there = _OWNERS.sub("", text.replace(', "scan"', ""))
    return _LIST.sub(r"\1/\2", _SIGN.sub(lambda found: found.group(1) + _UNASKED, there))


def understood(there: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """What is wanted of an object, as far as that server has such settings. *there*: the object as it shows it."""
    return {key: value for key, value in wanted.items() if key in there or key not in _OPENBAOS}


class Elsewhere(Client):
    """Calls to that server, verified by *ca* (PEM) and nothing else. Raises Unreachable for an address or a CA that is none."""

    def __init__(self, address: str, ca: str, namespace: str = "", timeout_s: float | Callable[[], float] = DEFAULT_TIMEOUT_S) -> None:
        try:
            endpoint(address)
        except ValueError as error:
            raise Unreachable("openbao_external.address: %s" % error) from error
        # Without any, Python would take the authorities of the host.
        if "-----BEGIN CERTIFICATE-----" not in ca:
            raise Unreachable("openbao_external.ca is no certificate: write the PEM of the authority that signed the server's")
        super().__init__(address, "openbao_external.ca", timeout_s)
        self._ca = ca
        self._namespace = namespace

    def _roots(self) -> ssl.SSLContext:
        return ssl.create_default_context(cadata=self._ca)

    def call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        token: str | None = None,
        wrap_ttl: str | None = None,
    ) -> dict[str, Any]:
        """As of our own server; SCAN is answered out of lists."""
        if method == "SCAN":
            return {"data": {"keys": list(self._below(path, token))}}
        return super().call(method, path, body, token, wrap_ttl)

    def _below(self, path: str, token: str | None, folder: str = "") -> Iterator[str]:
        for name in super().call("LIST", path + folder, token=token)["data"]["keys"]:
            if not name.endswith("/"):
                yield folder + name
                continue
            try:
                yield from self._below(path, token, folder + name)
            except NotFound:
                continue  # the last of it went meanwhile

    def _exchange(self, method: str, path: str, payload: str | bytes | None, headers: Mapping[str, str]) -> tuple[int, bytes]:
        if self._namespace and path not in OF_THE_SERVER:
            headers = {**headers, "X-Vault-Namespace": self._namespace}
        status, raw = super()._exchange(method, path, payload, headers)
        if 300 <= status < 400:
            raise Unreachable("%s: a standby that does not forward (HTTP %d): let the address lead to the active node" % (self.address, status))
        return status, raw


def connect(given: Mapping[str, Any], timeout_s: float | Callable[[], float] = DEFAULT_TIMEOUT_S) -> Client:
    """The server that a module's options name: at the loopback of the host, or at the address where somebody else runs it."""
    external = given["external"]
    if not external.get("address"):
        return Client(given["address"], given["ca_file"], timeout_s)
    return Elsewhere(external["address"], external.get("ca") or "", external.get("namespace") or "", timeout_s)
