# SPDX-License-Identifier: Apache-2.0
"""A host below a directory, where whoever runs the test owns everything."""
from __future__ import annotations

import os

from ansible_collections.hnai.platform.plugins.module_utils.hostfiles import Host


class OwnFiles(Host):
    """Its files are given to nobody, and are root's to whoever looks."""

    def gid(self, name: str) -> int | None:
        return 0

    def chown(self, target: int | str, uid: int, gid: int) -> None:
        pass

    def owner(self, info: os.stat_result) -> tuple[int, int]:
        return 0, 0
