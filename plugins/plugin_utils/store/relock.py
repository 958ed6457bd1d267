# SPDX-License-Identifier: Apache-2.0
"""Write lock files anew from their `roots`."""

from __future__ import annotations

import json
from pathlib import Path

from . import golang, maven, pypi
from .core import Store, write_atomic
from .locks import read_lock

_RESOLVE = {"maven": maven.resolve, "pypi": pypi.resolve, "pypi-file": pypi.resolve, "go": golang.resolve}


def relock(store: Store, path: Path) -> bool:
    """Resolve every part of the lock file again; True if the file changed."""
    before = path.read_bytes()
    lock = read_lock(path)
    what = f"{lock['name']} {lock['version']}"
    key = f"lock-{lock['name']}-{lock['version']}"
    lock["parts"] = [_RESOLVE[part["type"]](store, part, what, key) for part in lock["parts"]]
    after = json.dumps(lock, indent=1, ensure_ascii=True).encode() + b"\n"
    if after == before:
        return False
    write_atomic(path, after)
    return True
