# SPDX-License-Identifier: Apache-2.0
"""The controller's downloads behind a proxy of the site's: each real client, configured as a site configures it, asks that proxy and nobody else."""
from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from ansible_collections.hnai.platform.plugins.plugin_utils.store import debs, golang, locks, maven, pypi
from ansible_collections.hnai.platform.plugins.plugin_utils.store.core import Store, StoreError

#: Nobody answers to such names (RFC 6761): what is asked for there came by the proxy.
MIRROR = "mirror.invalid"
JAR = {"group": "g", "artifact": "a", "version": "1", "ext": "jar", "sha256": "0" * 64}
WHEEL = {"name": "demo", "version": "1", "filename": "demo-1-py3-none-any.whl", "sha256": "0" * 64}


class Proxy:
    """Refuses everything and remembers what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                proxy.asked.append(self.path)
                self.send_error(404)

            do_CONNECT = do_HEAD = do_GET

            def log_message(self, *_: object) -> None:
                """Not to the test's output."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    for name in os.environ:
        if name.lower().endswith("_proxy") or name.startswith(("PIP_", "GO", "MAVEN_", "APT_")):
            monkeypatch.delenv(name)
    one = Proxy()
    thread = threading.Thread(target=one.server.serve_forever, daemon=True)
    thread.start()
    yield one
    one.server.shutdown()
    thread.join()
    one.server.server_close()


def by_pip(store: Store, proxy: Proxy, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "pip.conf").write_text(f"[global]\nindex-url = http://{MIRROR}/simple\ntrusted-host = {MIRROR}\nproxy = {proxy.url}\nretries = 0\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(home / "pip.conf"))
    pypi.ensure(store, [WHEEL], locks.RELEASES["13"], "demo", "demo")


def by_pip_of_the_environment(store: Store, proxy: Proxy, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", proxy.url)
    (home / "pip.conf").write_text(f"[global]\nindex-url = http://{MIRROR}/simple\ntrusted-host = {MIRROR}\nretries = 0\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(home / "pip.conf"))
    pypi.ensure(store, [WHEEL], locks.RELEASES["13"], "demo", "demo")


def by_go(store: Store, proxy: Proxy, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"http_proxy": proxy.url, "GOPROXY": f"http://{MIRROR}", "GOMODCACHE": str(home), "GONOSUMDB": "*"}.items():
        monkeypatch.setenv(name, value)
    golang.module(store, {"module": "example.org/x", "version": "v1.0.0"}, "demo", "demo")


def by_maven(store: Store, proxy: Proxy, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / ".m2").mkdir()
    (home / ".m2/settings.xml").write_text(
        f"<settings><proxies><proxy><active>true</active><protocol>https</protocol><host>127.0.0.1</host><port>{proxy.port}</port></proxy></proxies>"
        f"<mirrors><mirror><id>site</id><mirrorOf>*</mirrorOf><url>https://{MIRROR}/maven</url></mirror></mirrors></settings>"
    )
    monkeypatch.setenv("MAVEN_OPTS", f"-Duser.home={home}")  # Java asks the accounts, not HOME.
    maven.fetch(store, {"type": "maven", "into": "libs", "artifacts": [JAR]}, "demo", "demo")


def by_apt(store: Store, proxy: Proxy, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "apt.conf").write_text(f'Acquire::http::Proxy "{proxy.url}";\nAcquire::Retries "0";\n')
    monkeypatch.setenv("APT_CONFIG", str(home / "apt.conf"))
    monkeypatch.setattr(debs, "mirrors", lambda: (f"http://{MIRROR}/debian", f"http://{MIRROR}/security"))
    monkeypatch.setattr(debs, "key_ring", lambda: "/usr/share/keyrings/debian-archive-keyring.gpg")
    root = debs.AptRoot(store, locks.RELEASES["13"])
    root.prepare()
    root.run(["apt-get", "-o", "APT::Update::Error-Mode=any", "update"], "demo")


#: `make unit` needs none of the programs; who builds artifacts has them all.
CLIENTS = {by_pip: "", by_pip_of_the_environment: "", by_go: "go", by_maven: "mvn", by_apt: "apt-get"}


@pytest.mark.parametrize("fetch", [fetch for fetch, program in CLIENTS.items() if not program or shutil.which(program)])
def test_each_client_asks_the_proxy_of_the_site(
    proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fetch: Callable[[Store, Proxy, Path, pytest.MonkeyPatch], None]
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    with pytest.raises(StoreError):
        fetch(Store(tmp_path / "store", deadline_s=60.0), proxy, home, monkeypatch)
    assert proxy.asked and all(MIRROR in one for one in proxy.asked), proxy.asked
