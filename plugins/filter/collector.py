# SPDX-License-Identifier: Apache-2.0
"""Filters for the collector's role. Each is documented in a file of its own name beside this one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ansible.errors import AnsibleFilterError

from ansible_collections.hnai.platform.plugins.module_utils.collector.sources import NotReadable, changed


def collector_changed(before: Any, after: Any) -> list[str]:
    """Ids of the sources that are read otherwise."""
    try:
        return changed(str(before), str(after))
    except NotReadable as error:
        raise AnsibleFilterError(f"collector_changed: {error}") from error


class FilterModule:
    """The filters."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Name → callable."""
        return {"collector_changed": collector_changed}
