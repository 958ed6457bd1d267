# SPDX-License-Identifier: Apache-2.0
"""Access of the check modules to the store, from their arguments: options that tsdb_health, tsdb_freshness and
tsdb_canary share. The password is a systemd credential of the component on this host, decrypted here and never shown.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ansible_collections.hnai.platform.plugins.module_utils.credentials import TWIN, decrypt, path_of
from ansible_collections.hnai.platform.plugins.module_utils.hostfiles import Host
from ansible_collections.hnai.platform.plugins.module_utils.tsdb.client import Http, Store, StoreError

STORE_ARGS: dict[str, dict[str, Any]] = {
    "url": {"type": "str", "required": True},
    "ca_file": {"type": "path"},
    "username": {"type": "str", "default": "dashboard"},
    "credential": {
        "type": "dict",
        "required": True,
        "options": {"component": {"type": "str", "required": True}, "name": {"type": "str", "required": True}},
    },
}


def password(credential: Mapping[str, str], host: Host) -> str:
    """The value of a credential of this host, or of the other slot of its pair. Raises StoreError naming the file and the remedy."""
    value = decrypt(host, credential["component"], credential["name"])
    if value is None:
        value = decrypt(host, credential["component"], credential["name"] + TWIN)
    if value is None:
        path = path_of(credential["component"], credential["name"])
        raise StoreError("%s is missing or not of this host; converge component %s" % (path, credential["component"]))
    return value.decode("utf-8")


def connect(params: Mapping[str, Any], timeout: Callable[[], float], host: Host) -> Store:
    """The store as the module's arguments say. Raises StoreError or ValueError."""
    return Store(Http(params["url"], params.get("ca_file")), params["username"], password(params["credential"], host), timeout)
