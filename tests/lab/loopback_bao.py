# SPDX-License-Identifier: Apache-2.0
"""The real OpenBao out of the artifact store, on loopback, for tests that must not touch the site's own. Ends with its test."""
from __future__ import annotations

import json
import os
import signal
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stands import ROOT, STORE

from ansible_collections.hnai.platform.plugins.module_utils.openbao import drill, site
from ansible_collections.hnai.platform.plugins.module_utils.openbao.client import Client, wait_reachable
from ansible_collections.hnai.platform.plugins.plugin_utils.store import build, locks
from ansible_collections.hnai.platform.plugins.plugin_utils.store.core import Store

DAY = 86400
NAMES = ("authority", "keys", "openbao", "rotation")
SPEC: dict[str, Any] = {
    "site": "loop", "kv": "hnai", "pki_root": "pki_root", "pki_int": "pki_int", "root_ttl": 3650 * DAY, "intermediate_ttl": 1825 * DAY,
    "leaf_ttl": 90 * DAY, "identity_ttl": 90 * DAY, "cidrs": ["127.0.0.1/32", "::1/128"],
    "components": {
        **{name: {"grants": [], "secrets": [], "certificate": None} for name in NAMES},
        "kafka": {"grants": [], "secrets": [{"path": "kafka/x", "kind": "password", "username": "x"}],
                  "certificate": {"server": True, "client": True, "domains": ["localhost"]}},
    },
}  # fmt: skip


def binary(target: Path) -> Path:
    """The server of the artifact store, unpacked."""
    manifest = STORE / "manifests/openbao-2.7.2-amd64.json"
    assert manifest.is_file(), f"{manifest} is not there: `make lab` fetches the server, HNAI_STORE_DIR names another store"
    return _unpacked(json.loads(manifest.read_text(encoding="utf-8"))["digest"], "bin/bao", target)


def vault(target: Path) -> Path:
    """HashiCorp Vault 1.14.1, unpacked: MPL-2.0, and the newest whose whole source the Go proxy has. Built once into the artifact store (20 minutes)."""
    lock = ROOT / "tests/stacks/vault-1.14.1.lock.json"
    made = locks.read_lock(lock)
    archive = locks.Archive("vault", made["name"], made["version"], locks.ARCH, tuple(made["parts"]), (), lock)
    return _unpacked(build.ensure(Store(STORE, print), archive)["digest"], "bin/vault", target)


def _unpacked(digest: str, member: str, target: Path) -> Path:
    with tarfile.open(STORE / "blobs/sha256" / digest[:2] / digest) as archive:
        archive.extract(member, target, filter="data")
    return target / member


def run(argv: Any) -> tuple[int, str, str]:
    """A command, as drill wants it."""
    done = subprocess.run(list(argv), capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout, done.stderr


def authority(folder: Path, *addresses: str) -> tuple[Path, Path, Path]:
    """(certificate, key) of a server at these addresses, and the authority that signed it."""
    cert, key, ca = (folder / name for name in ("cert.pem", "key.pem", "ca.pem"))
    new = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30"]
    for argv in (
        [*new, "-subj", "/CN=their CA", "-addext", "keyUsage=critical,keyCertSign", "-keyout", folder / "ca.key", "-out", ca],
        [*new, "-subj", "/CN=vault", "-keyout", key, "-out", cert, "-CA", ca, "-CAkey", folder / "ca.key",
         "-addext", "subjectAltName=" + ",".join("IP:" + one for one in addresses), "-addext", "basicConstraints=critical,CA:FALSE"],
    ):  # fmt: skip
        done = run(argv)
        assert done[0] == 0, done[2]
    return cert, key, ca


@dataclass
class Loopback:
    """A running server."""

    client: Client
    directory: Path
    bao: Path
    init: dict[str, Any] = field(default_factory=dict)
    identities: dict[str, dict[str, str]] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    @property
    def deploy(self) -> dict[str, str]:
        """The identity that enters the others."""
        return self.identities["deploy"]

    def start(self) -> None:
        """As a unit would: it answers, sealed."""
        with (self.directory / "log").open("ab") as log:
            argv = ["timeout", "1800", str(self.bao), "server", "-config", str(self.directory / "loop.hcl")]
            self.process = subprocess.Popen(argv, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        wait_reachable(self.client, 60.0)

    def stop(self) -> None:
        """Gone at once."""
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(10)
            self.process = None

    def unseal(self, shares: Sequence[str]) -> None:
        """Opened by so many shares."""
        for key in shares:
            self.client.call("POST", "sys/unseal", {"key": key})

    def restart(self) -> None:
        """Another process, unsealed, leading again."""
        self.stop()
        self.start()
        self.unseal(self.init["keys_base64"][:2])
        drill.active(self.client)

    def start_site(self, spec: dict[str, Any] = SPEC) -> None:
        """Initialised, unsealed, converged."""
        self.init = self.client.call("POST", "sys/init", {"secret_shares": 3, "secret_threshold": 2})
        self.unseal(self.init["keys_base64"][:2])
        drill.active(self.client)
        self.identities = site.Site(self.client, spec, {}, self.init["root_token"]).converge().identities


def one_device(directory: Path, port: int) -> str:
    """HCL of a node with one audit device."""
    return drill.configuration(str(directory), port) + 'audit "file" "primary" {\n  options {\n    file_path = "%s/audit.log"\n  }\n}\n' % directory


@contextmanager
def server(bao: Path, configuration: Callable[[Path, int], str] = one_device) -> Iterator[Loopback]:
    """A server that is gone afterwards. *configuration*: its HCL by directory (`cert.pem`, `key.pem`, `raft`) and port; the next port is the cluster's."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        (directory / "raft").mkdir()
        port = drill.free_port()
        made = run([
            "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1", "-keyout", directory / "key.pem",
            "-out", directory / "cert.pem", "-subj", "/CN=loop", "-addext", "subjectAltName=IP:127.0.0.1",
        ])  # fmt: skip
        assert made[0] == 0, made[2]
        (directory / "loop.hcl").write_text(configuration(directory, port), encoding="utf-8")
        client = Client("https://127.0.0.1:%d" % port, str(directory / "cert.pem"), 60.0)
        running = Loopback(client, directory, bao)
        try:
            running.start()
            yield running
        finally:
            running.stop()
            time.sleep(0.1)
