# SPDX-License-Identifier: Apache-2.0
"""Runs on a managed host: everything on it that the site decides, as {what: fingerprint}. Reads only.

Files: [mode, uid, gid, sha256 or link target, mtime in ns]; units: [ActiveState, UnitFileState, InvocationID] (what a
timer starts: [UnitFileState]); the firewall's table, packages and
accounts: a sha256 and texts.
"""
from __future__ import annotations

import glob
import hashlib
import json
import os
import stat
import subprocess

#: On the host that is looked at; of its root's own home only the keys that open it.
TOPS = ("/etc", "/usr/local", "/var/lib/hnai/trees", "/var/lib/hnai/digests", "/var/lib/hnai/firewall", "/root/.ssh")
SINGLE = ("/run/hnai/*.restart", "/run/hnai/*.reload", "/opt/hnai/*/current", "/opt/hnai/*/*/.hnai-manifest", "/home/*/.ssh/*")
SYSTEM = ("ssh.service", "chrony.service", "systemd-journald.service", "systemd-sysctl.service")
#: Written by the system's own tools out of what else is here.
DERIVED = ("/etc/ld.so.cache", "/etc/mtab", "/etc/.pwd.lock", "/etc/group-", "/etc/passwd-", "/etc/shadow-", "/etc/gshadow-")


def run(*argv: str) -> str:
    return subprocess.run(argv, check=False, capture_output=True, text=True, timeout=60).stdout


def file(path: str) -> list[object]:
    info = os.lstat(path)
    if stat.S_ISLNK(info.st_mode):
        content = os.readlink(path)
    else:
        with open(path, "rb") as stream:
            content = hashlib.sha256(stream.read()).hexdigest()
    return [oct(stat.S_IMODE(info.st_mode)), info.st_uid, info.st_gid, content, info.st_mtime_ns]


def main() -> None:
    paths = [path for pattern in SINGLE for path in glob.glob(pattern)]
    for top in TOPS:
        for directory, _names, files in os.walk(top):
            paths += [os.path.join(directory, name) for name in files]
    found: dict[str, list[object]] = {}
    for path in sorted(set(paths) - set(DERIVED)):
        if os.path.islink(path) or os.path.isfile(path):
            found[path] = file(path)
    shown = run("systemctl", "show", "--property=Id,Type,RemainAfterExit,ActiveState,UnitFileState,InvocationID", "hnai-*", *SYSTEM)
    for block in shown.split("\n\n"):
        values = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        # What a timer starts comes and goes by itself, as the dead-man of a change of the firewall does.
        if values and "-deadman-" not in values["Id"]:
            passes = values.get("Type") == "oneshot" and values.get("RemainAfterExit") != "yes"
            keys = ("UnitFileState",) if passes else ("ActiveState", "UnitFileState", "InvocationID")
            found["unit " + values["Id"]] = [values.get(key, "") for key in keys]
    # Without counters, handles and what packets put into sets.
    found["firewall"] = [hashlib.sha256(run("nft", "-s", "-t", "list", "table", "inet", "hnai").encode()).hexdigest()]
    found["packages"] = run("dpkg-query", "-W", "-f", "${Package}=${Version} ${db:Status-Abbrev}\n").splitlines()
    found["accounts"] = sorted(run("getent", "passwd").splitlines() + run("getent", "group").splitlines())
    # What packages deliver into these folders, or put there when they are configured (ucf).
    listed = set(run("dpkg-query", "-L", *run("dpkg-query", "-W", "-f", "${Package}:${Architecture}\n").replace(":all", "").split()).splitlines())
    if os.path.exists("/var/lib/ucf/registry"):
        with open("/var/lib/ucf/registry", encoding="utf-8") as registry:
            listed |= {line.split()[-1] for line in registry if line.strip()}
    found["distribution"] = sorted(line for line in listed if line.startswith(("/etc/", "/usr/local/")))
    print(json.dumps(found))


main()
