# SPDX-License-Identifier: Apache-2.0
"""Runs on a host as root: gives each unit's own sandbox a program that tries to get out of it.

usage: - UNIT …      one JSON object {unit: {"wrote": [directory], "may": [directory], "sockets": [family]}}
One trial at a time on a host: a second one waits for the first.

A twin of the unit, made of its [Service] section without what it executes, runs as the same user. It tries to write to directories
that let everybody write, so that only the sandbox can refuse it, and to open sockets of families that it has no use for.
"may": the unit's own writable directories that took a file: the control of the trial.
"""
from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys

TWIN = "hnai-test-sandbox-%d.service"
UNIT_FILE = "/run/systemd/system/" + TWIN
RESULT = "/run/hnai-test-sandbox-%d.json"
#: Two components of one host are tried by two workers; the twins' names and the open directories are the same.
LOCK = "/run/hnai-test-sandbox.lock"
OPEN = [base + "/hnai-test-sandbox" for base in ("/etc", "/opt", "/usr/local", "/var/lib", "/var/log", "/srv", "/home")]
#: What the twin has of its own, or must not repeat.
DROPPED = ("Exec", "Type=", "Restart", "NotifyAccess=", "RemainAfterExit=", "PIDFile=", "RemoveIPC=", "RuntimeDirectoryPreserve=", "Standard", "Timeout")

ATTEMPT = """
import json, os, socket, sys
def takes(directory):
    path = os.path.join(directory, ".hnai-test-sandbox")
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except OSError:
        return False
    os.unlink(path)
    return True
def opens(family):
    try:
        socket.socket(family, socket.SOCK_RAW).close()
    except OSError:
        return False
    return True
closed, opened = json.loads(sys.argv[1]), json.loads(sys.argv[2])
families = [name for name in ("AF_PACKET", "AF_NETLINK", "AF_VSOCK") if opens(getattr(socket, name))]
print(json.dumps({"wrote": [d for d in closed if takes(d)], "may": [d for d in opened if takes(d)], "sockets": families}))
"""


def systemctl(*argv: str) -> str:
    return subprocess.run(["systemctl", *argv], check=True, stdout=subprocess.PIPE, text=True, timeout=60).stdout


def service_section(unit: str) -> list[str]:
    """The lines of the unit's [Service] section and of its drop-ins', continued lines joined."""
    lines, inside = [], False
    for line in systemctl("cat", unit).replace("\\\n", " ").splitlines():
        if line.startswith("["):
            inside = line.strip() == "[Service]"
        elif inside and "=" in line and not line.startswith(("#", ";")) and not line.startswith(DROPPED):
            lines.append(line)
    return lines


def own(unit: str) -> list[str]:
    """Directories that the unit may write."""
    shown = dict(
        line.split("=", 1)
        for line in systemctl("show", "-p", "ReadWritePaths,StateDirectory,RuntimeDirectory,LogsDirectory", unit).splitlines()
    )
    found = [path.lstrip("-+") for path in shown["ReadWritePaths"].split()]
    for name, root in (("StateDirectory", "/var/lib/"), ("RuntimeDirectory", "/run/"), ("LogsDirectory", "/var/log/")):
        found += [root + part.split(":")[0] for part in shown[name].split()]
    return sorted({path for path in found if os.path.isdir(path)})


def quoted(text: str) -> str:
    """One argument of ExecStart=."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$").replace("\n", "\\n") + '"'


def make_twin(number: int, unit: str) -> None:
    command = " ".join(quoted(part) for part in ("/usr/bin/python3", "-c", ATTEMPT, json.dumps(OPEN), json.dumps(own(unit))))
    lines = service_section(unit) + [
        "Type=oneshot", "RemoveIPC=no", "RuntimeDirectoryPreserve=yes", "TimeoutStartSec=30",
        "StandardOutput=truncate:" + RESULT % number, "ExecStart=" + command,
    ]  # fmt: skip
    with open(UNIT_FILE % number, "w") as stream:
        stream.write("[Unit]\nDescription=Twin of %s for a trial of its sandbox\n[Service]\n%s\n" % (unit, "\n".join(lines)))


def main(*units: str) -> None:
    found = {}
    try:
        for directory in OPEN:
            os.makedirs(directory, exist_ok=True)
            os.chmod(directory, 0o777)
        for number, unit in enumerate(units):
            make_twin(number, unit)
        systemctl("daemon-reload")
        for number, unit in enumerate(units):
            systemctl("start", TWIN % number)
            with open(RESULT % number) as stream:
                found[unit] = json.load(stream)
    finally:
        for directory in OPEN:
            shutil.rmtree(directory, ignore_errors=True)
        for number in range(len(units)):
            for path in (UNIT_FILE % number, RESULT % number):
                if os.path.exists(path):
                    os.unlink(path)
        systemctl("daemon-reload")
    json.dump(found, sys.stdout)


with open(LOCK, "w") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    main(*sys.argv[1:])
