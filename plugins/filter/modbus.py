# SPDX-License-Identifier: Apache-2.0
"""Filters for the Modbus filter. Each is documented in a file of its own name beside this one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ansible.errors import AnsibleFilterError

from ansible_collections.hnai.platform.plugins.module_utils.modbus.devices import SourceError, devices
from ansible_collections.hnai.platform.plugins.plugin_utils.site import plain


def modbus_filter_devices(sources: Any, canaries: Any = (), **given: Any) -> list[dict[str, Any]]:
    """Devices of the filter's configuration."""
    try:
        return devices(plain(sources), plain(list(canaries)), **given)
    except SourceError as error:
        raise AnsibleFilterError(f"modbus_filter_devices: {error}") from error


class FilterModule:
    """The filters."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Name → callable."""
        return {"modbus_filter_devices": modbus_filter_devices}
