# SPDX-License-Identifier: Apache-2.0
"""Runs on a host as root: what it says about units, keys, credentials and sockets, as one JSON object. One visit a host is seconds cheaper than one a fact.

usage: - COMPONENTS UNITS     both as JSON lists; of UNITS those are looked at that the host has
"""
from __future__ import annotations

import glob
import json
import os
import re
import subprocess
import sys

COMPONENTS, UNITS = (json.loads(argument) for argument in sys.argv[1:])
PROPERTIES = "Id,ActiveState,UnitFileState,TriggeredBy,Result"


def said(*argv: str) -> str:
    return subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True, timeout=120).stdout


def text(path: str) -> str | None:
    """A file's content; None where it is not."""
    try:
        with open(path, encoding="utf-8") as stream:
            return stream.read()
    except FileNotFoundError:
        return None


def mode(path: str) -> dict[str, str]:
    about = os.stat(path)
    return {"path": path, "mode": "%o" % (about.st_mode & 0o7777), "user": str(about.st_uid)}


have = {line.split()[0] for line in said("systemctl", "list-unit-files", "--no-legend", "--plain").splitlines()}
units = [unit for unit in UNITS if unit in have]
services = [unit for unit in units if unit.startswith("hnai-") and unit.endswith(".service")]
shown = {}
for block in said("systemctl", "show", "-p", PROPERTIES, *units).split("\n\n") if units else []:
    about = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
    shown[about["Id"]] = about
scores = said("systemd-analyze", "security", "--no-pager", *services) if services else ""
print(json.dumps({
    "units": shown,
    "exposure": {unit: float(score) for unit, score in re.findall(r"Overall exposure level for (\S+): ([0-9.]+)", scores)},
    "digests": {unit: [text(f"/etc/hnai/digests/{unit}.restart"), text(f"/run/hnai/{unit}.restart")] for unit in services},
    "credentials": {name: [mode(path) for path in glob.glob(f"/etc/credstore.encrypted/hnai-{name}.*")] for name in COMPONENTS},
    "keys": {name: [mode(path) for pattern in ("*key*.pem", "keystore.pem") for path in glob.glob(f"/etc/hnai/{name}/**/{pattern}", recursive=True)]
             for name in COMPONENTS},
    "sockets": said("ss", "-Hlntu").splitlines(),
}))  # fmt: skip
