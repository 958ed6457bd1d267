# SPDX-License-Identifier: Apache-2.0
"""What a Flink host knows about itself: the keeper's files, checkpoints on disk, listening sockets. Reads only."""
from __future__ import annotations

import glob
import json
import os
import pwd
import socket
import struct
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.hnai.platform.plugins.module_utils.flink.health import Host, rest

#: The keeper's memory (roles/flink, jobs.py): <name>.json per job, .keeper of its last look.
STATE = "/var/lib/hnai/flink/jobs"
#: What is declared (roles/flink): jobs.json names the role's jobs, <name>.json stands for each that flink_job keeps on its own.
CONFIG = "/etc/hnai/flink/jobs"
#: Who all units of Flink run as (roles/flink, sysusers.d).
USER = "hnai-flink"
_LISTEN = "0A"


def unit_state(name: str) -> str:
    """ActiveState of a unit. Raises OSError."""
    try:
        argv = ["systemctl", "show", "--property=ActiveState", "--value", name]
        run = subprocess.run(argv, capture_output=True, check=True, timeout=10)
    except (subprocess.SubprocessError, FileNotFoundError) as error:
        raise OSError("systemctl does not tell the state of %s: %s" % (name, error)) from error
    return run.stdout.decode("utf-8", "replace").strip()


def read_json(path: str) -> dict[str, Any]:
    """A JSON object in a file. Raises OSError."""
    with open(path, encoding="utf-8") as file:
        text = file.read()
    try:
        found = json.loads(text)
    except ValueError as error:
        raise OSError("%s: no JSON: %s" % (path, error)) from error
    if not isinstance(found, dict):
        raise OSError("%s: no JSON object" % path)
    return found


def memory(name: str, state: str = STATE) -> Mapping[str, Any]:
    """The keeper's memory of a job; {} where it has none. Raises OSError."""
    try:
        return read_json(os.path.join(state, name + ".json"))
    except FileNotFoundError:
        return {}


def kept(config: str = CONFIG) -> list[str]:
    """Names of the jobs that flink_job keeps on its own, beside those of the role."""
    found = (os.path.basename(path)[: -len(".json")] for path in glob.glob(os.path.join(config, "*.json")))
    return sorted(name for name in found if name != "jobs")


def complete(path: str) -> bool:
    """Whether a checkpoint's _metadata is there and not empty."""
    try:
        return os.stat(os.path.join(path, "_metadata")).st_size > 0
    except (FileNotFoundError, NotADirectoryError):
        return False


def states(job_ids: Sequence[str], state: str = STATE) -> list[str]:
    """Directories of checkpoints and savepoints of these jobs, beside the keeper's memory."""
    roots = [os.path.join(os.path.dirname(state), kind) for kind in ("checkpoints", "savepoints")]
    return sorted(found for job_id in job_ids for root in roots for found in glob.glob(os.path.join(root, job_id, "*-*")))


def free(path: str) -> tuple[int, int]:
    """(bytes free, bytes) of the file system. Raises OSError."""
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize


def parse_listeners(text: str, family: int, user: int | None = None) -> list[tuple[str, int]]:
    """Listening sockets of /proc/net/tcp or tcp6 (addresses are host-order words in hex), of all users or of one.

    >>> text = "head\\n 0: 0100007F:1F91 00000000:0000 0A 0:0 0:0 0 997 0 1\\n"
    >>> parse_listeners(text, socket.AF_INET), parse_listeners(text, socket.AF_INET, 0)
    ([('127.0.0.1', 8081)], [])
    """
    found = []
    for line in text.splitlines()[1:]:
        fields = line.split()
        if len(fields) < 4 or fields[3] != _LISTEN or (user is not None and int(fields[7]) != user):
            continue
        address, _, port = fields[1].partition(":")
        words = [struct.pack("=I", int(address[at:at + 8], 16)) for at in range(0, len(address), 8)]
        found.append((socket.inet_ntop(family, b"".join(words)), int(port, 16)))
    return found


def listeners(user: int | None = None) -> Sequence[tuple[str, int]]:
    """All listening TCP sockets, or those of one user. Raises OSError."""
    found: list[tuple[str, int]] = []
    for name, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        try:
            with open("/proc/net/" + name, encoding="ascii") as file:
                found += parse_listeners(file.read(), family, user)
        except FileNotFoundError:
            continue
    return found


def own_listeners(user: str = USER) -> Sequence[tuple[str, int]]:
    """What Flink's user listens on: no other unit has it. Who is not there listens nowhere. Raises OSError."""
    try:
        return listeners(pwd.getpwnam(user).pw_uid)
    except KeyError:
        return []


def keeper(state: str = STATE) -> dict[str, Any]:
    """What the keeper says of itself. Raises OSError."""
    return read_json(os.path.join(state, ".keeper"))


def this_host(gateway: int, state: str = STATE) -> Host:
    """The host that the module runs on. *gateway*: the port of the SQL gateway on loopback."""
    return Host(
        unit=unit_state, gateway=lambda timeout_s: str(rest("127.0.0.1", gateway)("/v3/info", timeout_s)["version"]),
        keeper=lambda: keeper(state), memory=lambda name: memory(name, state), complete=complete, states=lambda job_ids: states(job_ids, state), free=free,
        listeners=listeners, own=own_listeners,
    )
