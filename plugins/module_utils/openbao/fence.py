# SPDX-License-Identifier: Apache-2.0
"""The highest version of a journal that this host has seen, durable. The caller holds the host's lock."""

from __future__ import annotations

import os

from ..hostfiles import Host, HostError, atomic_write, ensure_directory, read_file

DIRECTORY = "/var/lib/hnai/rotation"


class FileFence:
    """One secret's fence."""

    def __init__(self, host: Host, path: str) -> None:
        self._host = host
        self._file = os.path.join(DIRECTORY, path.replace("/", "+"))

    def pass_(self, version: int) -> bool:
        """True and remembered where *version* is not older than any before. Raises HostError for a file that is no number."""
        text = (read_file(self._host, self._file) or b"0").decode("ascii", "replace").strip()
        if not text.isdigit():
            raise HostError("%s: is no number; remove it only while no rotation of this secret is open" % self._file)
        if version < int(text):
            return False
        if version > int(text):
            ensure_directory(self._host, DIRECTORY, 0o700, 0, 0)
            atomic_write(self._host, self._file, b"%d\n" % version, 0o600, 0, 0)
        return True
