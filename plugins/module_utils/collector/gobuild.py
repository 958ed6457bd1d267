# SPDX-License-Identifier: Apache-2.0
"""What a Go program was built from, out of its own bytes: the build settings, and which of Telegraf's plugins are linked in.

Format of the settings: ``debug/buildinfo`` of Go (a header "\\xff Go buildinf:", 32 bytes; from Go 1.18 on two texts follow, each with
its length as uvarint; the second is framed by 16 bytes on each side). Linked plugins are seen in the table of functions, which
``-ldflags -s -w`` does not take away: every plugin registers itself in a function ``init``.
"""
from __future__ import annotations

import mmap
import re
from dataclasses import dataclass
from pathlib import Path

MAGIC = b"\xff Go buildinf:"
_PLUGIN = re.compile(rb"github\.com/influxdata/telegraf/plugins/(inputs|outputs|processors|aggregators|secretstores)/([a-z0-9_]+)\.init")


class NoBuild(Exception):
    """The file is no Go program, or says nothing about its build."""


@dataclass(frozen=True)
class Build:
    """*plugins*: sorted ``kind.name``; *tags*: as given to the compiler, empty = none; *version* of the main module."""

    go: str
    path: str
    version: str
    tags: tuple[str, ...]
    plugins: tuple[str, ...]


def _text(data: mmap.mmap, at: int) -> tuple[bytes, int]:
    length = shift = 0
    for step in range(10):
        byte = data[at + step]
        length |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            begin = at + step + 1
            if begin + length > len(data):
                break
            return data[begin:begin + length], begin + length
    raise NoBuild("the build information is broken")


def read(program: Path) -> Build:
    """Raises NoBuild; OSError when it cannot be read."""
    with open(program, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        at = data.find(MAGIC)
        while at >= 0 and at % 16:
            at = data.find(MAGIC, at + 1)
        if at < 0 or at + 32 > len(data):
            raise NoBuild("it is no Go program, or one without build information")
        if not data[at + 15] & 2:
            raise NoBuild("it was built by a Go older than 1.18, whose build information is not read here")
        go, after = _text(data, at + 32)
        framed, _ = _text(data, after)
        plugins = sorted({b".".join(found).decode() for found in _PLUGIN.findall(data)})
    path = version = ""
    tags: tuple[str, ...] = ()
    for line in framed[16:-16].decode("utf-8", "replace").splitlines():
        parts = line.split("\t")
        if parts[0] == "path":
            path = parts[1]
        elif parts[0] == "mod" and len(parts) > 2:
            version = parts[2]
        elif parts[0] == "build" and parts[1].startswith("-tags="):
            tags = tuple(parts[1][len("-tags="):].strip('"').split(","))
    return Build(go.decode("utf-8", "replace"), path, version, tags, tuple(plugins))
