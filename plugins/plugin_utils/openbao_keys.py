# SPDX-License-Identifier: Apache-2.0
"""Key material of OpenBao in the controller's state directory: 0600 in a 0700 directory, durable before the next step."""

from __future__ import annotations

import json
import os
import stat
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible_collections.hnai.platform.plugins.module_utils.openbao.files import read_or_none, sync_directory, write_durably


class KeysError(Exception):
    """A file of the state directory that cannot be used; the text names it and the remedy."""


def load(path: str | Path) -> dict[str, Any] | None:
    """The file's content, None when there is none. Raises KeysError when others may read it or it is torn."""
    target = Path(path)
    try:
        mode = stat.S_IMODE(target.stat().st_mode)
        text = target.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise KeysError(f"{target}: cannot be read ({error.strerror}); correct its owner") from error
    if mode & 0o077:
        raise KeysError(
            f"{target}: its mode is {mode:04o}, others may read the keys; "
            "chmod 0600 it, and treat the keys as known if others have accounts here"
        )
    try:
        data = json.loads(text)
    except ValueError as error:
        raise KeysError(
            f"{target}: is not JSON; bring back an intact copy, or move it away if the store is gone too"
        ) from error
    if not isinstance(data, dict):
        raise KeysError(f"{target}: holds no mapping; bring back an intact copy")
    return data


def store(path: str | Path, data: Mapping[str, Any]) -> dict[str, Any]:
    """Write *data*, on the disk before this returns, and give back what was read again. Raises KeysError, OSError."""
    target = Path(path)
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if stat.S_IMODE(target.parent.stat().st_mode) & 0o077:
        target.parent.chmod(0o700)
    write_durably(str(target), json.dumps(dict(data), indent=1, sort_keys=True).encode() + b"\n", 0o600)
    again = load(target)
    if again != dict(data):
        raise KeysError(f"{target}: what was read again differs from what was written; look at the disk")
    return again


def put_aside(path: str | Path, moment: float) -> str:
    """Rename a file that belongs to a store that is gone; the new name, "" when there was none."""
    target = Path(path)
    if not target.exists():
        return ""
    aside = target.with_name(f"{target.name}.lost-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime(moment))}")
    os.rename(target, aside)
    sync_directory(str(target.parent))
    return str(aside)


def publish_root(target: Path, pem: str) -> bool:
    """The public roots on the controller; True if they were written."""
    if not pem or read_or_none(str(target)) == pem.encode():
        return False
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_durably(str(target), pem.encode(), 0o644)
    return True
