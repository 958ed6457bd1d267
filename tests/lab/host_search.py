# SPDX-License-Identifier: Apache-2.0
"""Runs on a host or the controller: where secrets stand in plain, or as base64 at any alignment.

usage: - files PATH …   {"files": {path: [label]}, "journal": [label], "processes": {command: [label]}}
       - watch SECONDS STOP  {"processes": …, "known": n} of those that come and go until the file STOP is there
The test fills in VALUES, {label: secret}. They never leave memory: grep gets it by a descriptor.
"""
from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import time

VALUES: dict[str, str] = {}


def shapes(value: str) -> set[bytes]:
    """The value, and what of its base64 depends on nothing beside it, for each alignment."""
    raw = value.encode()
    found = {raw}
    for shift in range(3):
        begin, end = (8 * shift + 5) // 6, 8 * (shift + len(raw)) // 6
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            found.add(encode(b"\0" * shift + raw)[begin:end])
    return found


SHAPES = {shape: label for label, value in VALUES.items() for shape in shapes(value)}
MEMORY = os.memfd_create("values")
os.write(MEMORY, b"\n".join(SHAPES) + b"\n")


def grep(*options: str, stdin: int = subprocess.DEVNULL) -> bytes:
    """What grep says of the values; files that vanish are none."""
    os.lseek(MEMORY, 0, os.SEEK_SET)
    command = ["grep", "-asF", "-D", "skip", "-f", f"/proc/self/fd/{MEMORY}", *options]
    done = subprocess.run(command, stdin=stdin, stdout=subprocess.PIPE, pass_fds=[MEMORY], check=False, timeout=500)
    assert done.returncode in (0, 1, 2), done.returncode
    return done.stdout


def all_files(paths: list[str]) -> list[str]:
    """Every file below the paths that lies on a file system which keeps something; what the kernel makes up (/proc, /sys) is none."""
    with open("/proc/self/mounts") as stream:
        mounts = [line.split()[1:3] for line in stream]
    kept = {point for point, kind in mounts if kind in ("tmpfs", "ramfs", "overlay", "ext4", "xfs", "btrfs")}
    roots = set(paths) | {point for point in kept if any(point.startswith(path + "/") for path in paths)}
    found = subprocess.run(["find", *sorted(roots), "-xdev", "-type", "f", "-print0"], capture_output=True, check=False, timeout=300).stdout
    return sorted(set(found.decode(errors="surrogateescape").split("\0")) - {""})


def labels(said: bytes) -> list[str]:
    """Labels of the shapes that grep printed."""
    return sorted({SHAPES[line] for line in said.split(b"\n") if line})


def processes(known: set[tuple[str, str]]) -> dict[str, list[str]]:
    """Values in arguments and environment of processes that are not *known*; one becomes known when it is a second old."""
    found = {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/stat") as stream:
                started = stream.read().rsplit(")", 1)[1].split()[19]
            if (pid, started) in known:
                continue
            with open(f"/proc/{pid}/cmdline", "rb") as arguments, open(f"/proc/{pid}/environ", "rb") as environment:
                text = arguments.read() + b"\n" + environment.read()
            with open("/proc/uptime") as uptime:
                if float(uptime.read().split()[0]) - int(started) / os.sysconf("SC_CLK_TCK") > 1:
                    known.add((pid, started))
        except (OSError, IndexError):
            continue  # It ended meanwhile.
        hits = sorted({label for shape, label in SHAPES.items() if shape in text})
        if hits:
            found[text.split(b"\0", 1)[0].decode(errors="replace")[:80]] = hits
    return found


found: dict[str, object] = {}
if sys.argv[1] == "watch":
    known: set[tuple[str, str]] = set()
    seen: dict[str, list[str]] = {}
    end = time.monotonic() + float(sys.argv[2])
    while time.monotonic() < end and not os.path.exists(sys.argv[3]):
        seen.update(processes(known))
        time.sleep(0.05)
    found = {"processes": seen, "known": len(known)}
else:
    paths, files = all_files([path for path in sys.argv[2:] if os.path.exists(path)]), {}
    for begin in range(0, len(paths), 500):
        for path in grep("-l", "--", *paths[begin : begin + 500]).decode(errors="surrogateescape").split("\n"):
            if path:
                files[path] = labels(grep("-oh", "--", path))
    with subprocess.Popen(["journalctl", "--no-pager", "-a", "-o", "export"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as log:
        assert log.stdout
        journal = labels(grep("-oh", stdin=log.stdout.fileno()))
    found = {"files": files, "searched": len(paths), "journal": journal, "processes": processes(set())}
print(json.dumps(found))
