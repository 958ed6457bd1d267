#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Health of the site's MQTT broker."""

from __future__ import annotations

DOCUMENTATION = r"""
module: mqtt_health
short_description: Whether the MQTT broker lets in whom it should, and its live view is fresh
version_added: "0.1.0"
author: hnai.platform maintainers (@hnai)
description:
  - Runs on the broker's host. MQ1 an identity logs in over TLS. MQ2 an anonymous client and a wrong password (once) are
    refused.
  - MQ3 per source, the newest retained record is young. MQ4 every declared client has an entry in the password file.
    MQ5 the broker dropped nothing.
  - Publishes nothing.
options:
  host:
    description: Name of the broker, as its certificate has it.
    type: str
    default: localhost
  port:
    description: Port of the TLS listener.
    type: int
    default: 8883
  ca_file:
    description: Root certificates.
    type: path
    default: /etc/hnai/mosquitto/tls/ca.pem
  username:
    description: Identity of the check; it may only read.
    type: str
    default: hnai-health
  credential:
    description: Where the password of O(username) lies on this host.
    type: dict
    default: {component: mosquitto, name: hnai-health}
    suboptions:
      component:
        description: Component that owns the credential.
        type: str
        required: true
      name:
        description: Name of the credential.
        type: str
        required: true
  clients:
    description: User names that must be able to log in, and no others.
    type: list
    elements: str
    required: true
  password_file:
    description: The broker's password file.
    type: path
    default: /run/hnai-mosquitto/passwords
  sources:
    description: Sources that the live view must show.
    type: list
    elements: str
    default: []
  live_max_age:
    description: Most seconds since the newest observation of a source.
    type: float
    default: 30.0
  quiet:
    description: The live view is complete when nothing came for this many seconds, or after five times as much.
    type: float
    default: 0.4
extends_documentation_fragment: hnai.platform.verdict
"""

EXAMPLES = r"""
- name: Check the broker
  hnai.platform.mqtt_health:
    clients: [hnai-health, telegraf-shipper, telegraf-bridge]
    sources: [plc1]
"""

RETURN = r"""
status:
  description: V(pass), V(fail), V(inconclusive) or V(skipped).
  returned: always
  type: str
checks:
  description: The checks, one by one.
  returned: always
  type: list
  elements: dict
summary:
  description: One line.
  returned: always
  type: str
"""

import os
import time

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hnai.platform.plugins.module_utils.credentials import decrypt, path_of
from ansible_collections.hnai.platform.plugins.module_utils.hostfiles import Host, HostError
from ansible_collections.hnai.platform.plugins.module_utils.mqtt.health import run
from ansible_collections.hnai.platform.plugins.module_utils.mqtt.wire import Client, tls_dialler
from ansible_collections.hnai.platform.plugins.module_utils.verdict import VERDICT_ARGS, finish, start


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec=dict(
            VERDICT_ARGS,
            host={"type": "str", "default": "localhost"},
            port={"type": "int", "default": 8883},
            ca_file={"type": "path", "default": "/etc/hnai/mosquitto/tls/ca.pem"},
            username={"type": "str", "default": "hnai-health"},
            credential={
                "type": "dict",
                "default": {"component": "mosquitto", "name": "hnai-health"},
                "options": {"component": {"type": "str", "required": True}, "name": {"type": "str", "required": True}},
            },
            clients={"type": "list", "elements": "str", "required": True},
            password_file={"type": "path", "default": "/run/hnai-mosquitto/passwords", "no_log": False},
            sources={"type": "list", "elements": "str", "default": []},
            live_max_age={"type": "float", "default": 30.0},
            quiet={"type": "float", "default": 0.4},
        ),
        supports_check_mode=True,
    )
    params, host = module.params, Host()
    report = start(module, "mosquitto")

    def timeout() -> float:
        return report.timeout(5)

    def login(username: str, password: str) -> Client:
        dial = tls_dialler(params["host"], params["port"], params["ca_file"], timeout)
        return Client(dial, "hnai-health-%d" % os.getpid(), username, password, timeout)

    def password() -> str:
        credential = params["credential"]
        value = decrypt(host, credential["component"], credential["name"])
        if value is None:
            raise HostError("%s cannot be decrypted here" % path_of(credential["component"], credential["name"]))
        return value.decode("utf-8")

    def password_file() -> str:
        with open(params["password_file"], encoding="utf-8") as file:
            return file.read()

    run(report, params, login=login, password=password, password_file=password_file, now=time.time)
    finish(module, report)


if __name__ == "__main__":
    main()
