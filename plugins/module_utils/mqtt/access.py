# SPDX-License-Identifier: Apache-2.0
"""Access of the MQTT modules to the broker, from the arguments that they share (doc fragment ``hnai.platform.mqtt``).

Passwords are systemd credentials of a component on this host, decrypted here and never shown.
"""

from __future__ import annotations

import ipaddress
import os
import struct
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ansible_collections.hnai.platform.plugins.module_utils.credentials import TWIN, decrypt, path_of
from ansible_collections.hnai.platform.plugins.module_utils.hostfiles import Host, HostError
from ansible_collections.hnai.platform.plugins.module_utils.mqtt.wire import Client, Will, tls_dialler

MQTT_ARGS: dict[str, dict[str, Any]] = {
    "host": {"type": "str", "default": "localhost"},
    "port": {"type": "int", "default": 8883},
    "ca_file": {"type": "path", "default": "/etc/hnai/mosquitto/tls/ca.pem"},
    "username": {"type": "str", "default": "hnai-health"},
    "credential": {
        "type": "dict",
        "default": {"component": "mosquitto", "name": "hnai-health"},
        "options": {"component": {"type": "str", "required": True}, "name": {"type": "str", "required": True}},
    },
}


def settled(params: Mapping[str, Any], host: Host) -> dict[str, Any]:
    """*params* with the identity of the check that has a password here: of the pair `x` and `x.b` a rotation leaves one."""
    credential = params["credential"]
    name = active(credential["name"], credential, host)
    if name == credential["name"]:
        return dict(params)
    return dict(params, username=params["username"] + TWIN, credential=dict(credential, name=name))


def active(name: str, credential: Mapping[str, str], host: Host) -> str:
    """*name*, or its twin where only that has a password on the broker's host."""
    there = [twin for twin in ("", TWIN) if os.path.exists(host.at(path_of(credential["component"], name + twin)))]
    return name + TWIN if there == [TWIN] else name


class Broker:
    """Logins at one broker. *timeout* gives the seconds that the next step may take."""

    def __init__(self, params: Mapping[str, Any], timeout: Callable[[], float], host: Host) -> None:
        self._params = params
        self._timeout = timeout
        self._host = host
        self._logins = 0

    def login(self, username: str, password: str, version: int = 4, will: Will | None = None) -> Client:
        """A session of a client id of its own. Raises MqttRefused, MqttError or OSError."""
        self._logins += 1
        dial = tls_dialler(self._params["host"], self._params["port"], self._params["ca_file"], self._timeout)
        return Client(dial, "hnai-health-%d-%d" % (os.getpid(), self._logins), username, password, self._timeout,
                      version=version, will=will)

    def password(self, username: str = "") -> str:
        """Of the check's own identity, or of another client: the broker's host has them all. Raises HostError."""
        credential = self._params["credential"]
        name = credential["name"] if not username or username == self._params["username"] else username
        value = decrypt(self._host, credential["component"], name)
        if value is None:
            raise HostError("%s cannot be decrypted here" % path_of(credential["component"], name))
        return value.decode("utf-8")


def peers(tables: Iterable[str], port: int) -> list[str]:
    """Addresses from which connections to a local TCP port are established. *tables*: texts of /proc/net/tcp and tcp6 (proc(5))."""
    found = []
    for table in tables:
        for line in table.splitlines()[1:]:
            fields = line.split()
            if len(fields) < 4 or fields[3] != "01" or int(fields[1].rpartition(":")[2], 16) != port:
                continue
            digits = fields[2].rpartition(":")[0]
            # Words of 32 bits in the order of this machine.
            raw = b"".join(struct.pack("=I", int(digits[i : i + 8], 16)) for i in range(0, len(digits), 8))
            address = ipaddress.ip_address(raw)
            mapped = getattr(address, "ipv4_mapped", None)
            found.append(str(mapped or address))
    return sorted(found)
