# SPDX-License-Identifier: Apache-2.0
"""The client speaks verified TLS only, keeps one connection and names what went wrong."""
from __future__ import annotations

import http.server
import json
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ansible_collections.hnai.platform.plugins.module_utils.openbao import client
from ansible_collections.hnai.platform.plugins.module_utils.openbao.client import (
    BaoError,
    Client,
    Forbidden,
    Foreign,
    NotFound,
    Sealed,
    Unreachable,
    decode,
    wait_reachable,
)


def certificate(directory: Path, name: str, names: str) -> tuple[Path, Path]:
    """A self-signed pair (certificate, key)."""
    cert, key = directory / (name + ".pem"), directory / (name + ".key")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj", "/CN=" + name,
         "-addext", "subjectAltName=" + names, "-keyout", str(key), "-out", str(cert)],
        check=True, capture_output=True,
    )
    return cert, key


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers with what it was asked."""

    protocol_version = "HTTP/1.1"
    connections: set[int] = set()

    def answer(self) -> None:
        Handler.connections.add(self.client_address[1])
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        status = 403 if self.path.endswith("/secret") else 200
        data = {"errors": ["permission\n denied"]} if status == 403 else {
            "method": self.command, "path": self.path, "body": body, "token": self.headers.get("X-Vault-Token"),
            "wrap": self.headers.get("X-Vault-Wrap-TTL")}
        raw = json.dumps(data).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    do_GET = do_POST = do_PUT = do_SCAN = do_LIST = answer

    def log_message(self, format: str, *args: object) -> None:
        """Silent."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    directory = tmp_path_factory.mktemp("tls")
    cert, key = certificate(directory, "server", "IP:127.0.0.1,DNS:localhost")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.daemon_threads = True
    httpd.socket = context.wrap_socket(httpd.socket, server_side=True)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    yield "https://127.0.0.1:%d" % httpd.server_address[1], cert
    httpd.shutdown()
    httpd.server_close()


def test_a_call_and_its_headers(server: tuple[str, Path]) -> None:
    api = Client(server[0], str(server[1]))
    assert api.call("SCAN", "hnai/metadata/", token="t1") == {
        "method": "SCAN", "path": "/v1/hnai/metadata/", "body": None, "token": "t1", "wrap": None}
    found = api.call("POST", "x", {"a": 1}, wrap_ttl="60s")
    assert (found["body"], found["wrap"], found["token"]) == ({"a": 1}, "60s", None)


def test_one_connection_for_many_calls(server: tuple[str, Path]) -> None:
    api = Client(server[0], str(server[1]))
    Handler.connections.clear()
    for _ in range(5):
        api.call("GET", "x")
    assert len(Handler.connections) == 1 and api.calls == 5


def test_403_is_forbidden_and_tells_the_servers_words(server: tuple[str, Path]) -> None:
    with pytest.raises(Forbidden, match=r"GET secret: HTTP 403: permission denied"):
        Client(server[0], str(server[1])).call("GET", "secret")


def test_untrusted_certificate_is_refused(server: tuple[str, Path], tmp_path: Path) -> None:
    other, _key = certificate(tmp_path, "other", "IP:127.0.0.1")
    with pytest.raises(Unreachable, match="CERTIFICATE_VERIFY_FAILED"):
        Client(server[0], str(other)).call("GET", "x")
    with pytest.raises(Unreachable):
        client.served_certificate("127.0.0.1", int(server[0].rsplit(":", 1)[1]), str(other))


def test_missing_bundle_and_plain_http() -> None:
    with pytest.raises(Unreachable, match="trusted roots cannot be read"):
        Client("https://127.0.0.1:1", "/nonexistent/ca.pem").call("GET", "x")
    with pytest.raises(ValueError, match="is not https"):
        Client("http://127.0.0.1:8200", "x")


def test_served_certificate(server: tuple[str, Path]) -> None:
    found = client.served_certificate("127.0.0.1", int(server[0].rsplit(":", 1)[1]), str(server[1]))
    serial = subprocess.run(["openssl", "x509", "-in", str(server[1]), "-noout", "-serial"], capture_output=True, text=True, check=True).stdout
    assert int(found["serial"], 16) == int(serial.split("=")[1], 16)
    assert found["sans"] == ["DNS:localhost", "IP Address:127.0.0.1"]


@pytest.mark.parametrize(("status", "kind"), [(403, Forbidden), (404, NotFound), (503, Sealed), (400, BaoError), (500, BaoError)])
def test_decode_errors(status: int, kind: type[BaoError]) -> None:
    with pytest.raises(kind) as caught:
        decode("GET", "p", status, b'{"errors": ["e"]}')
    assert caught.value.status == status and caught.value.errors == ["e"]
    assert decode_kind(500, b'{"errors": ["local node not active but active cluster node not found"]}') is Sealed
    assert decode_kind(502, b"<html>Bad Gateway</html>") is Foreign


def decode_kind(status: int, raw: bytes) -> type[BaoError]:
    with pytest.raises(BaoError) as caught:
        decode("GET", "p", status, raw)
    return caught.type


@pytest.mark.parametrize("status", [200, 400, 403, 404, 405])
def test_an_answer_that_was_cut_or_is_a_proxys_refuses_nothing_and_lists_nothing(status: int) -> None:
    whole = b'{"errors":["permission denied"]}'
    for raw in (*(whole[:cut] for cut in range(len(whole))), b"<html>403 Forbidden</html>", b"404 page not found\n"):
        assert decode_kind(status, raw) is Foreign
    assert decode_kind(503, b"<html>no server is available</html>") is Sealed


def test_decode_answers() -> None:
    assert decode("GET", "p", 204, b"") == {}
    with pytest.raises(BaoError, match="the answer is no JSON"):
        decode("POST", "hnai/destroy/x", 200, b"<html>login</html>")
    assert decode("GET", "p", 200, b"[1]") == {"data": [1]}


def test_wait_reachable_gives_up_after_its_deadline() -> None:
    class Never:
        def call(self, *args: object, **more: object) -> dict[str, object]:
            raise Unreachable("no")

    passed = [0.0]
    with pytest.raises(Unreachable):
        wait_reachable(Never(), 3.0, clock=lambda: passed[0], sleep=lambda s: passed.__setitem__(0, passed[0] + s))
    assert 3.0 <= passed[0] < 4.0
