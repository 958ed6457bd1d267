# SPDX-License-Identifier: Apache-2.0
"""A small client of the OpenBao (and Vault) HTTP API over verified TLS.

Standard library only, on purpose: it must work before the probe environment is on the host, and the API is
plain JSON. One kept-alive connection per client; every call has a time limit. Tokens live in memory only.

Source of the paths and answers: https://openbao.org/api-docs/, confirmed on OpenBao 2.7.2.
"""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol
from urllib.parse import urlsplit

#: OpenBao answers sys/init within about one second on an idle host; raft writes wait for the disk.
DEFAULT_TIMEOUT_S = 15.0
#: Options of a module on the OpenBao host; doc fragment hnai.platform.openbao describes them. Without the identity some modules still say something.
OPENBAO_ARGS: dict[str, dict[str, Any]] = {
    "address": {"type": "str", "default": "https://127.0.0.1:8200"},
    "ca_file": {"type": "path", "default": "/etc/hnai/openbao/trust.pem"},
    "kv": {"type": "str", "default": "hnai"},
    "external": {"type": "dict", "default": {}, "options": {name: {"type": "str"} for name in ("owner", "group", "ca", "address", "namespace")}},
}
IDENTITY: dict[str, Any] = {"role_id": {"type": "str"}, "secret_id": {"type": "str", "no_log": True}}
DEPLOY_ARGS: dict[str, dict[str, Any]] = {"deploy": {"type": "dict", "required": True, "options": IDENTITY}}
MAYBE_DEPLOY_ARGS: dict[str, dict[str, Any]] = {"deploy": {"type": "dict", "default": {}, "options": IDENTITY}}
SITE_ADMIN_ARGS: dict[str, dict[str, Any]] = {"site_admin": {"type": "dict", "default": {}, "options": IDENTITY}}
#: What each step of a rotation takes (fragment hnai.platform.rotation).
ROTATION_ARGS: dict[str, dict[str, Any]] = {
    **{name: {"type": "str", "default": ""} for name in ("run_id", "owner", "resume", "rollback")},
    **{name: {"type": "list", "elements": "str", "default": []} for name in ("dead", "expected")},
    "fence": {"type": "int", "default": 0},
    "controller_time": {"type": "float"},
    "reason": {"type": "str", "default": "age", "choices": ["age", "request", "compromise"]},
}
AUTHORITIES_ARGS: dict[str, dict[str, Any]] = {"pki_root": {"type": "str", "default": "pki_root"}, "pki_int": {"type": "str", "default": "pki_int"}}


class BaoError(Exception):
    """OpenBao answered with an error. ``status`` is the HTTP status, ``errors`` its own texts (never a secret)."""

    def __init__(self, method: str, path: str, status: int, errors: list[str]) -> None:
        self.method = method
        self.path = path
        self.status = status
        self.errors = errors
        super().__init__("%s %s: HTTP %d%s" % (method, path, status, ": " + "; ".join(errors) if errors else ""))


class Forbidden(BaoError):
    """403: the token is not alive or its policy does not allow the call."""


class NotFound(BaoError):
    """404: nothing is there."""


class Sealed(BaoError):
    """503: sealed, or no active node."""


class Foreign(BaoError):
    """No answer of OpenBao's, whatever its status: a proxy gave it, or cut it."""


class Unreachable(Exception):
    """No answer: not running, not listening, certificate not trusted, or too late."""


class Api(Protocol):
    """What the cores need of a client; tests give a fake."""

    def call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        token: str | None = None,
        wrap_ttl: str | None = None,
    ) -> dict[str, Any]:
        """The decoded answer, {} for 204."""


class Client:
    """Calls to one OpenBao server. *address* is ``https://host:port``, *ca_file* a PEM bundle of trusted roots.

    *timeout_s*: seconds that one call may take, or a function that says so before each (it may raise: no time is left).
    """

    def __init__(
        self,
        address: str,
        ca_file: str,
        timeout_s: float | Callable[[], float] = DEFAULT_TIMEOUT_S,
        context: ssl.SSLContext | None = None,
    ) -> None:
        parts = urlsplit(address)
        if parts.scheme != "https" or not parts.hostname:
            raise ValueError("address %r is not https://host:port" % address)
        self.address = address
        self.host: str = parts.hostname
        self.port: int = parts.port or 8200
        self._ca_file = ca_file
        self._timeout_s = timeout_s
        self._context = context
        self._connection: http.client.HTTPSConnection | None = None
        self.calls = 0

    def _trusted(self) -> ssl.SSLContext:
        if self._context is None:
            try:
                self._context = self._roots()
            except (OSError, ssl.SSLError) as error:
                raise Unreachable("%s: trusted roots cannot be read (%s)" % (self._ca_file, error)) from error
            self._context.minimum_version = ssl.TLSVersion.TLSv1_2
        return self._context

    def _roots(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self._ca_file)

    def served(self, timeout_s: float) -> dict[str, Any]:
        """What the server presents, see `served_certificate`."""
        return presented(self.host, self.port, self._trusted(), timeout_s)

    def _open(self) -> http.client.HTTPSConnection:
        if self._connection is None:
            self._connection = http.client.HTTPSConnection(self.host, self.port, context=self._trusted())
        limit = self._timeout_s() if callable(self._timeout_s) else self._timeout_s
        self._connection.timeout = limit
        if self._connection.sock is not None:
            self._connection.sock.settimeout(limit)
        return self._connection

    def close(self) -> None:
        """Close the connection; the next call opens a new one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        token: str | None = None,
        wrap_ttl: str | None = None,
    ) -> dict[str, Any]:
        """One call below /v1/. Returns the decoded answer ({} for 204).

        LIST and SCAN are sent as such. Raises Forbidden, NotFound, Sealed, BaoError or Unreachable.
        """
        headers = {"Accept": "application/json"}
        payload = None
        if body is not None:
            payload = json.dumps(body)
            headers["Content-Type"] = "application/json"
        if token:
            headers["X-Vault-Token"] = token
        if wrap_ttl:
            headers["X-Vault-Wrap-TTL"] = wrap_ttl
        status, raw = self._exchange(method, path, payload, headers)
        return decode(method, path, status, raw)

    def download(self, path: str, token: str) -> bytes:
        """What a path answers that is no JSON (a snapshot). Raises as `call`."""
        status, raw = self._exchange("GET", path, None, {"X-Vault-Token": token})
        if status >= 300:
            decode("GET", path, status, raw)
        return raw

    def upload(self, path: str, content: bytes, token: str) -> None:
        """Send what is no JSON. Raises as `call`."""
        status, raw = self._exchange("POST", path, content, {"X-Vault-Token": token, "Content-Type": "application/octet-stream"})
        decode("POST", path, status, raw)

    def _exchange(self, method: str, path: str, payload: str | bytes | None, headers: Mapping[str, str]) -> tuple[int, bytes]:
        self.calls += 1
        try:
            connection = self._open()
            connection.request(method, "/v1/" + path, body=payload, headers=dict(headers))
            answer = connection.getresponse()
            return answer.status, answer.read()
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise Unreachable("%s: %s" % (self.address, str(error) or type(error).__name__)) from error


def decode(method: str, path: str, status: int, raw: bytes) -> dict[str, Any]:
    """The answer as a dict, or the error that *status* means."""
    try:
        data = {} if status == 204 else json.loads(raw)
    except ValueError as error:
        # Of 503 somebody before it says the same: nobody is there to ask.
        raise (Sealed if status == 503 else Foreign)(method, path, status, ["the answer is no JSON: something else than OpenBao gave it"]) from error
    if not isinstance(data, dict):
        data = {"data": data}
    if status < 300:
        return data
    errors = [" ".join(str(item).split()) for item in data.get("errors") or []]
    kind = {403: Forbidden, 404: NotFound, 503: Sealed}.get(status, BaoError)
    if status == 500 and "active cluster node not found" in " ".join(errors):
        kind = Sealed  # unsealed, and nobody leads yet
    raise kind(method, path, status, errors)


def wait_reachable(api: Api, deadline_s: float, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep) -> dict[str, Any]:
    """sys/seal-status as soon as the server answers. Raises the last Unreachable after *deadline_s* seconds."""
    end = clock() + deadline_s
    while True:
        try:
            return api.call("GET", "sys/seal-status")
        except Unreachable:
            if clock() >= end:
                raise
        sleep(0.2)


def login(api: Api, mount: str, role_id: str, secret_id: str) -> dict[str, Any]:
    """AppRole login; returns ``auth`` {client_token, policies, metadata: {role_name}, …}. Raises BaoError."""
    return dict(api.call("POST", "auth/%s/login" % mount, {"role_id": role_id, "secret_id": secret_id})["auth"])


def revoke(api: Api, token: str) -> None:
    """End *token*. A token that is already dead is what was wanted."""
    try:
        api.call("POST", "auth/token/revoke-self", {}, token=token)
    except Forbidden:
        return


def leave(api: Api, token: str) -> None:
    """End *token* on the way out. Where that fails it dies by itself within its five minutes; the first error counts."""
    try:
        revoke(api, token)
    except (BaoError, Unreachable):
        return


def served_certificate(host: str, port: int, ca_file: str, timeout_s: float = 5.0, server_name: str | None = None) -> dict[str, Any]:
    """What the server presents, after verification against *ca_file*: {serial: hex, not_after: unix s, subject, sans}.

    Raises Unreachable when the chain, the name or the connection is not good.
    """
    context = ssl.create_default_context(cafile=ca_file)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return presented(host, port, context, timeout_s, server_name)


def presented(host: str, port: int, context: ssl.SSLContext, timeout_s: float, server_name: str | None = None) -> dict[str, Any]:
    """As `served_certificate`, verified by *context*."""
    try:
        plain = socket.create_connection((host, port), timeout=timeout_s)
        with context.wrap_socket(plain, server_hostname=server_name or host) as secure:
            found: dict[str, Any] = secure.getpeercert() or {}
            protocol = secure.version()
    except OSError as error:
        raise Unreachable("%s:%d: %s" % (host, port, error)) from error
    return {
        "serial": str(found.get("serialNumber", "")).lower(),
        "not_after": ssl.cert_time_to_seconds(found["notAfter"]),
        "subject": ",".join("%s=%s" % pair for rdn in found.get("subject", ()) for pair in rdn),
        "issuer": ",".join("%s=%s" % pair for rdn in found.get("issuer", ()) for pair in rdn),
        "sans": sorted("%s:%s" % pair for pair in found.get("subjectAltName", ())),
        "protocol": protocol,
    }
