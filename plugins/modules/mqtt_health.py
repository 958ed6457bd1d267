#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
# Apache-2.0 goes together with Ansible's own licence, the GNU General Public License version 3.
"""Health of the site's MQTT broker."""

from __future__ import annotations

DOCUMENTATION = r"""
module: mqtt_health
short_description: Whether the MQTT broker lets in whom it should, and its live view is fresh
version_added: "0.1.0"
author: hnai.platform maintainers (@hnai)
description:
  - Runs on the broker's host. MQ1 an identity logs in over TLS. MQ2 an anonymous client and a wrong password (once) are
    refused, and no listener takes a password in the clear.
  - MQ3 per source, the newest retained record is young. MQ4 every declared client has an entry in the password file.
    MQ5 the broker dropped nothing.
  - MQ6 every client of the site is connected, and is not thrown out again and again by another with its client id. MQ7 what waits
    for clients fits its queue, which is as long as declared and outlives the broker. MQ8 per client, the broker refuses what the ACL
    does not give it. MQ9 the bridge to Kafka loses nothing and is not behind.
  - What MQ8 publishes (MQTT 5, not retained, expiring after a second, below C(hnai-health/) and C(ot/hnai-health/)) is delivered
    to nobody unless the broker's ACL is off.
options:
  clients:
    description: User names that must be able to log in, and no others.
    type: list
    elements: str
    required: true
  password_file:
    description: The broker's password file.
    type: path
    default: /run/hnai-mosquitto/passwords
  config:
    description: The broker's configuration.
    type: path
    default: /etc/hnai/mosquitto/mosquitto.conf
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
  acl:
    description:
      - Rights as the ACL file has them; a client of O(clients) that does not stand here has none.
      - Without it no deny test is made.
    type: list
    elements: dict
    default: []
    suboptions:
      principal:
        description: User name.
        type: str
        required: true
      level:
        description: Purdue level that it comes from; not used here.
        type: float
      hosts:
        description: Where the client stands, host to addresses. It must be connected from each of them.
        type: dict
        default: {}
      read:
        description: Filters that it may read.
        type: list
        elements: str
        default: []
      write:
        description: Filters that it may write.
        type: list
        elements: str
        default: []
  max_queued:
    description: Messages that the broker keeps for one client; V(0) leaves MQ7 out.
    type: int
    default: 0
  max_fill:
    description: Share of O(max_queued), in percent, that may wait.
    type: float
    default: 50.0
  session_expiry:
    description: After how long the broker may forget a client that is away, as C(persistent_client_expiration) has it; empty for any.
    type: str
    default: ""
  autosave:
    description: After how many seconds the broker saves what waits, as C(autosave_interval) has it; V(0) for any.
    type: int
    default: 0
  unit:
    description: The broker's unit, whose journal names the clients whose messages were dropped.
    type: str
    default: hnai-mosquitto.service
  bridge_counters:
    description: Counters of the bridge, where it runs on this host. Without them MQ9 is not made.
    type: path
    default: ""
  bridge_window:
    description: Seconds that MQ9 looks back.
    type: float
    default: 60.0
  bridge_max_latency:
    description: Most seconds that a message may take through the bridge into Kafka.
    type: float
    default: 5.0
extends_documentation_fragment:
  - hnai.platform.mqtt
  - hnai.platform.verdict
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
import subprocess
import time

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hnai.platform.plugins.module_utils.hostfiles import Host
from ansible_collections.hnai.platform.plugins.module_utils.mqtt.access import MQTT_ARGS, Broker, peers, settled
from ansible_collections.hnai.platform.plugins.module_utils.mqtt.acl_mosquitto import Setting, settings
from ansible_collections.hnai.platform.plugins.module_utils.mqtt.health import OUSTED_S, OUSTING, Sources, run, unheard
from ansible_collections.hnai.platform.plugins.module_utils.verdict import VERDICT_ARGS, finish, start


def main() -> None:
    """Entry point."""
    filters = {"type": "list", "elements": "str", "default": []}
    module = AnsibleModule(
        argument_spec=dict(
            VERDICT_ARGS,
            **MQTT_ARGS,
            clients={"type": "list", "elements": "str", "required": True},
            password_file={"type": "path", "default": "/run/hnai-mosquitto/passwords", "no_log": False},
            config={"type": "path", "default": "/etc/hnai/mosquitto/mosquitto.conf"},
            sources={"type": "list", "elements": "str", "default": []},
            live_max_age={"type": "float", "default": 30.0},
            quiet={"type": "float", "default": 0.4},
            acl={
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "principal": {"type": "str", "required": True},
                    "level": {"type": "float"},
                    "hosts": {"type": "dict", "default": {}},
                    "read": filters,
                    "write": filters,
                },
            },
            max_queued={"type": "int", "default": 0},
            max_fill={"type": "float", "default": 50.0},
            session_expiry={"type": "str", "default": ""},
            autosave={"type": "int", "default": 0},
            unit={"type": "str", "default": "hnai-mosquitto.service"},
            bridge_counters={"type": "path", "default": ""},
            bridge_window={"type": "float", "default": 60.0},
            bridge_max_latency={"type": "float", "default": 5.0},
        ),
        supports_check_mode=True,
    )
    host = Host()
    params = settled(module.params, host)
    report = start(module, "mosquitto")
    broker = Broker(params, lambda: report.timeout(5), host)

    def text(path: str) -> str:
        with open(path, encoding="utf-8") as file:
            return file.read()

    def command(*argv: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(list(argv), capture_output=True, text=True, timeout=report.timeout(10), check=False)

    def config() -> list[Setting]:
        return settings(params["config"], text, os.listdir)

    def journal(words: str, *more: str) -> list[str]:
        """The broker's lines with these words since it started."""
        deaf = unheard(config())
        if deaf:
            raise OSError(deaf)
        since = command("systemctl", "show", "--property=InvocationID", "--value", params["unit"]).stdout.strip()
        if not since:
            raise OSError("%s does not run, so nobody knows since when" % params["unit"])
        found = command("journalctl", "-q", "-o", "cat", "-g", words, *more, "_SYSTEMD_INVOCATION_ID=" + since)
        # 1 without a word: no such line. One that was killed says no word either.
        if found.returncode not in (0, 1) or (found.returncode and found.stderr.strip()):
            raise OSError("journalctl: %s" % (found.stderr.strip() or "ended with %d" % found.returncode))
        return found.stdout.splitlines()

    run(report, params, Sources(
        login=broker.login, password=broker.password, password_file=lambda: text(params["password_file"]),
        counters=lambda: text(params["bridge_counters"]), dropping=lambda: journal("messages are being dropped", "-n", "20"),
        ousting=lambda: journal(OUSTING, "-n", "500", "--since=-%ds" % OUSTED_S),
        peers=lambda: peers([text("/proc/net/tcp"), text("/proc/net/tcp6")], params["port"]),
        config=config, now=time.time,
    ))
    finish(module, report)


if __name__ == "__main__":
    main()
