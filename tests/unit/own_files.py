# SPDX-License-Identifier: Apache-2.0
"""Hosts below a directory: where whoever runs the test owns everything, where owners are kept, and where what is announced is heard."""
from __future__ import annotations

import os

from ansible_collections.hnai.platform.plugins.module_utils.hostfiles import Completed, Host


class OwnFiles(Host):
    """Its files are given to nobody, and are root's to whoever looks."""

    def gid(self, name: str) -> int | None:
        return 0

    def chown(self, target: int | str, uid: int, gid: int) -> None:
        pass

    def owner(self, info: os.stat_result) -> tuple[int, int]:
        return 0, 0


class KeptOwners(Host):
    """The owner of every file is what was asked last, root's until then."""

    def __init__(self, root: str) -> None:
        super().__init__(root)
        self.owners: dict[int, tuple[int, int]] = {}

    def chown(self, target: int | str, uid: int, gid: int) -> None:
        self.owners[os.stat(target).st_ino] = (uid, gid)

    def owner(self, info: os.stat_result) -> tuple[int, int]:
        return self.owners.get(info.st_ino, (0, 0))


class Heard(Host):
    """Hears what is announced in the journal, judges signatures as any host, and is asked for the rest."""

    def __init__(self, root: str) -> None:
        super().__init__(root)
        self.said: list[str] = []

    def asked(self, argv: list[str]) -> Completed:
        """Any other command."""
        raise NotImplementedError(argv)

    def run(self, argv: list[str], stdin: bytes | None = None, timeout: float = 60.0) -> Completed:
        if argv[0] == "logger":
            self.said.append(argv[-1])
            return Completed(0, b"", b"")
        return super().run(argv, stdin, timeout) if argv[0] == "ssh-keygen" else self.asked(argv)
