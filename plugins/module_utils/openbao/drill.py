# SPDX-License-Identifier: Apache-2.0
"""A restore drill: a snapshot in a node of its own, opened by the shares, compared with the live store, removed again.

The node is a second process on loopback with its own directory and certificate. It never dials the live one; the live one is only read. Its
configuration declares no audit device: 2.7.2 then takes those of the snapshot, which would write into the live files, out of its table before it
serves (measured: not a byte), and systemd hides the live directories from it besides. Values are compared by fingerprints; none is returned.

https://openbao.org/api-docs/system/storage/raft/ (snapshot-force: the shares of the snapshot open it, whatever the node had before).
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from .bootstrap import BootstrapError
from .client import Api, BaoError, Client, NotFound, Unreachable, wait_reachable
from .files import write_durably
from .kv import KvStore
from .rotation import fingerprint, material

#: The process ends by itself after this, whatever becomes of us.
LIFE_S = 300
PREFIX = "hnai-openbao-drill-"


class DrillError(Exception):
    """The drill failed; the text says what is not restored and the remedy."""


def free_port() -> int:
    """A pair of free ports on loopback; the second follows."""
    for _attempt in range(50):
        with socket.socket() as one, socket.socket() as two:
            one.bind(("127.0.0.1", 0))
            port = int(one.getsockname()[1])
            try:
                two.bind(("127.0.0.1", port + 1))
            except (OSError, OverflowError):
                continue
            return port
    raise DrillError("there are no two free ports on loopback")


def configuration(directory: str, port: int) -> str:
    """HCL of the isolated node."""
    api, cluster = "127.0.0.1:%d" % port, "127.0.0.1:%d" % (port + 1)
    lines = [
        "ui = false", 'api_addr = "https://%s"' % api, 'cluster_addr = "https://%s"' % cluster,
        'storage "raft" {', '  path = "%s/raft"' % directory, '  node_id = "drill"', "}",
        'listener "tcp" {', '  address = "%s"' % api, '  cluster_address = "%s"' % cluster,
        '  tls_cert_file = "%s/cert.pem"' % directory, '  tls_key_file = "%s/key.pem"' % directory, "}",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def isolation(directory: str) -> list[str]:
    """What the command line is prefixed with on a host with systemd: it can write its own directory, and talk on loopback."""
    return [
        "systemd-run", "--quiet", "--pipe", "--wait", "--collect", "--unit=" + os.path.basename(directory), "--property=ProtectSystem=strict",
        "--property=TemporaryFileSystem=/var/lib/hnai /run/hnai", "--property=BindPaths=" + directory, "--property=PrivateTmp=yes",
        "--property=IPAddressDeny=any", "--property=IPAddressAllow=localhost",
        "--property=RuntimeMaxSec=%d" % LIFE_S, "--property=MemorySwapMax=0", "--property=LimitCORE=0",
    ]  # fmt: skip


def clean(parent: str, older_s: float, now: float) -> list[str]:
    """Removes what a killed drill left; the names."""
    found = []
    for name in sorted(os.listdir(parent)) if os.path.isdir(parent) else []:
        path = os.path.join(parent, name)
        if name.startswith(PREFIX) and os.path.getmtime(path) < now - older_s:
            shutil.rmtree(path)
            found.append(name)
    return found


@contextmanager
def node(
    run: Callable[[Sequence[str]], tuple[int, str, str]], binary: str, parent: str, prefix: Callable[[str], Sequence[str]],
) -> Iterator[Client]:
    """A running, empty node; gone with all it wrote afterwards, in every case. *run*: a command; *prefix*: isolation by directory."""
    os.makedirs(parent, mode=0o700, exist_ok=True)
    clean(parent, LIFE_S, time.time())
    directory = tempfile.mkdtemp(prefix=PREFIX, dir=parent)
    process = None
    try:
        port = free_port()
        os.mkdir(directory + "/raft", 0o700)
        done = run([
            "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1", "-keyout", directory + "/key.pem",
            "-out", directory + "/cert.pem", "-subj", "/CN=" + os.path.basename(directory), "-addext", "subjectAltName=IP:127.0.0.1",
        ])  # fmt: skip
        if done[0] != 0:
            raise DrillError("openssl could not make the drill's certificate: %s" % done[2].strip())
        write_durably(directory + "/drill.hcl", configuration(directory, port).encode())
        with open(directory + "/log", "wb") as log:
            process = subprocess.Popen(
                [*prefix(directory), "timeout", "--kill-after=5", str(LIFE_S), binary, "server", "-config", directory + "/drill.hcl"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True, cwd="/",
            )  # fmt: skip
        client = Client("https://127.0.0.1:%d" % port, directory + "/cert.pem", 30.0)
        try:
            wait_reachable(client, 60.0)
        except Unreachable as error:
            with open(directory + "/log", encoding="utf-8", errors="replace") as log_file:
                raise DrillError("the isolated node did not start (%s): %s" % (error, " ".join(log_file.read()[-600:].split()))) from error
        try:
            yield client
        except (DrillError, BaoError, Unreachable) as error:
            with open(directory + "/log", encoding="utf-8", errors="replace") as log_file:
                said = [line.split(" ", 1)[-1].strip() for line in log_file if "[ERROR]" in line or "[WARN]" in line]
            raise DrillError("%s. Its log ends: %s" % (error, "; ".join(said[-6:])[-900:])) from error
    finally:
        if process is not None and prefix(directory):
            # systemd-run ends without its unit.
            run(["systemctl", "stop", os.path.basename(directory) + ".service"])
        if process is not None and process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(15)
        shutil.rmtree(directory)


def open_with(client: Client, snapshot: bytes, shares: Sequence[str], threshold: int, sleep: Callable[[float], None] = time.sleep) -> None:
    """The snapshot replaces what the node holds, and the shares open it. Raises DrillError."""
    if len(shares) < threshold:
        raise DrillError("%d of %d key shares are at hand: name a file that holds enough (drill_keys_file)" % (len(shares), threshold))
    # As many shares as the snapshot's store has: 2.7.2 goes on with the number that it knew before, until it is started anew.
    own = client.call("POST", "sys/init", {"secret_shares": max(len(shares), threshold), "secret_threshold": threshold})
    for key in own["keys_base64"][:threshold]:
        client.call("POST", "sys/unseal", {"key": key})
    active(client, sleep)
    client.upload("sys/storage/raft/snapshot-force", snapshot, own["root_token"])
    end = time.monotonic() + 60.0
    while not client.call("GET", "sys/seal-status")["sealed"]:
        # The node seals itself once the snapshot is in place.
        if time.monotonic() > end:
            raise DrillError("the isolated node did not take the snapshot")
        sleep(0.2)
    client.call("POST", "sys/unseal", {"reset": True})
    try:
        for share in shares[:threshold]:
            status = client.call("POST", "sys/unseal", {"key": share})
    except BaoError as error:
        raise DrillError("the shares do not open this snapshot (%s): it is of before their rotation, or of another store" % error) from error
    if status.get("sealed", True):
        raise DrillError("the restored node is still sealed after %d shares: a snapshot of when the store needed more of them" % threshold)
    active(client, sleep)


def active(client: Api, sleep: Callable[[float], None] = time.sleep, limit_s: float = 20.0) -> None:
    """Wait until the node leads itself."""
    end = time.monotonic() + limit_s
    while True:
        try:
            if client.call("GET", "sys/leader").get("is_self"):
                client.call("GET", "sys/health")
                return
        except (BaoError, Unreachable, BootstrapError):
            if time.monotonic() > end:
                raise
        if time.monotonic() > end:
            raise DrillError("the isolated node has no leader")
        sleep(0.3)


def contents(api: Api, token: str, mount: str, rounds: int = 2000) -> dict[str, list[Any]]:
    """{path: [newest version, fingerprint of its value]}. A destroyed version has no fingerprint."""
    try:
        paths = sorted(api.call("SCAN", mount + "/metadata/", token=token)["data"]["keys"])
    except NotFound:
        paths = []
    store = KvStore(api, token, mount)
    found = {}
    for path in paths:
        version, value = store.read(path)
        found[path] = [version, fingerprint(path, material(value), rounds) if value is not None else ""]
    return found


def compare(live: Mapping[str, Sequence[Any]], restored: Mapping[str, Sequence[Any]]) -> dict[str, list[str]]:
    """{equal, newer, lost, different}: paths. *newer*: written since the snapshot; *lost*: not in the snapshot; *different*: same version, other value."""
    out: dict[str, list[str]] = {"equal": [], "newer": [], "lost": [], "different": []}
    for path, (version, print_) in sorted(live.items()):
        if path not in restored:
            out["lost"].append(path)
        elif list(restored[path]) == [version, print_]:
            out["equal"].append(path)
        elif restored[path][0] < version:
            out["newer"].append(path)
        else:
            out["different"].append(path)
    out["different"] += sorted(set(restored) - set(live))
    return out
