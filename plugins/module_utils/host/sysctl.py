# SPDX-License-Identifier: Apache-2.0
"""Kernel settings as they are in force, against what is declared. Reads only; Python 3.9, standard library."""
from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path


def parse(text: str) -> dict[str, str]:
    """{key: value} of a sysctl.d(5) file; patterns and exclusions are left out.

    >>> parse("# x\\n-net.ipv4.ip_forward = 1\\nkernel/kptr_restrict=2\\n")
    {'net.ipv4.ip_forward': '1', 'kernel.kptr_restrict': '2'}
    """
    found: dict[str, str] = {}
    for line in text.splitlines():
        key, equals, value = line.strip().partition("=")
        key = key.strip().lstrip("-")
        if equals and key and key[0] not in "#;" and "*" not in key:
            # Whichever separator comes first is the separator (sysctl.d(5)).
            slash, dot = (key + "/.").index("/"), (key + "/.").index(".")
            found[key.translate(str.maketrans("/.", "./")) if slash < dot else key] = " ".join(value.split())
    return found


def differing(wanted: Mapping[str, str], proc: Path = Path("/proc/sys")) -> tuple[dict[str, tuple[str, str]], list[str]]:
    """({key: (what is in force, what is wanted)} of writable keys that differ, keys that this host cannot write or lacks)."""
    differ: dict[str, tuple[str, str]] = {}
    beyond = []
    for key, value in sorted(wanted.items()):
        path = proc / key.translate(str.maketrans("./", "/."))
        if not path.exists():
            beyond.append(key)
            continue
        have = re.sub(r"\s+", " ", path.read_text().strip())
        if have == str(value):
            continue
        if os.statvfs(str(path)).f_flag & os.ST_RDONLY:
            beyond.append(key)
        else:
            differ[key] = (have, str(value))
    return differ, beyond
