#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
# Apache-2.0 goes together with Ansible's own licence, the GNU General Public License version 3.
"""Module side of kafka_health."""

from __future__ import annotations

DOCUMENTATION = r"""
module: kafka_health
short_description: Verdict on a Kafka cluster, and on the listeners of this broker
version_added: "0.1.0"
author: hnai.platform maintainers (@hnai)
description:
  - Quorum (Q1 leader, Q2 voters and their directories, Q3 caught up by time, Q4 log advances, Q5 brokers take it, Q6 tolerance), features (F1 levels
    of the release, F2 kraft.version fits the configuration, F3 every node can do what is finalized, F4 transaction.version), brokers and partitions
    (B1 registered, B2 offline, B3 under min.insync.replicas, B4 without reserve, B5 under-replicated, B6 leaders elsewhere, B7 internal topics,
    B8 unclean election, B9 reassignments, B10 racks,
    B11 topics and quotas as declared and no setting over a broker's file), log directories (L1 online, writable, room, L2 stuck copies), consumers
    (C3), and security
    (S1 TLS, S2 no client without certificate, S3 wrong password refused, S4 nothing without TLS and no undeclared port, S5 exactly the declared ACLs
    and no reader of level 3 or below, S6 deny by default, S7 no client with a broker's name or undeclared, S8 this broker knows every
    user that another one knows, and the anchor).
options:
  node_id:
    description: Node id of this host.
    type: int
    required: true
  host:
    description: Name of this host, as its certificate has it.
    type: str
    required: true
  expected_nodes:
    description: Node ids that the inventory declares.
    type: list
    elements: int
    required: true
  super_users:
    description: Names of the brokers' own principals.
    type: list
    elements: str
    required: true
  principal_levels:
    description: Purdue level of the zone that each principal comes from.
    type: dict
    default: {}
  mechanisms:
    description: >-
      SCRAM mechanisms that a user may have (S7), by name. For users whose rotation changes the name and not the mechanism; others stand not here.
    type: dict
    default: {}
  features:
    description: Feature levels that must be finalized.
    type: dict
    default: {}
  listeners:
    description: Listeners of this host.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Name.
        type: str
        required: true
      port:
        description: Port.
        type: int
        required: true
      mutual:
        description: Whether it wants a client certificate; else it wants SCRAM.
        type: bool
        required: true
  acls:
    description: Declared ACLs, as P(hnai.platform.kafka_acls#filter) derives them. Not compared when not given.
    type: list
    elements: dict
  quotas:
    description: Declared quotas, as those of M(hnai.platform.kafka_converge). Not compared when not given.
    type: dict
  topics:
    description: Declared topics, as those of M(hnai.platform.kafka_converge).
    type: list
    elements: dict
    default: []
  groups:
    description: Consumer groups that must keep up, as name to list of the topics that it may read.
    type: dict
    default: {}
  controllers:
    description:
      - C(host:port) of the controllers that are asked what they can do (F3), beside every broker of O(bootstrap).
      - A node that is broker and controller is one process. Its controller's listener is asked by the check on its own host.
    type: list
    elements: str
    default: []
  min_insync_replicas:
    description: Least C(min.insync.replicas) of Kafka's own topics.
    type: int
    default: 2
  unit:
    description: Unit of the broker, whose listening sockets are looked at.
    type: str
    default: hnai-kafka.service
  log_dir:
    description: The broker's log directory.
    type: path
    default: /var/lib/hnai/kafka/data
  config_file:
    description: The broker's configuration.
    type: path
    default: /etc/hnai/kafka/server.properties
  max_voter_lag_ms:
    description: A voter that is behind the leader by this much (milliseconds) is not caught up.
    type: int
    default: 2000
  max_group_age_s:
    description: A record that a declared group has not read for this long (seconds) is late.
    type: float
    default: 60.0
  max_imbalance_pct:
    description: Share of partitions, in percent, that may be led by another than their first replica.
    type: float
    default: 10.0
  min_free_pct:
    description: Least free share of a log directory's file system, in percent.
    type: float
    default: 10.0
  min_cert_days:
    description: Least remaining life of a certificate, in days.
    type: float
    default: 3.0
  version:
    description: Version of Kafka, for the report.
    type: str
    default: ""
extends_documentation_fragment:
  - hnai.platform.kafka
  - hnai.platform.verdict
  - hnai.platform.reading
"""

EXAMPLES = r"""
- name: Check the cluster from this broker
  hnai.platform.kafka_health:
    node_id: 1
    host: kafka1
    expected_nodes: [1, 2, 3]
    super_users: [kafka1, kafka2, kafka3]
    bootstrap: [kafka1:9091, kafka2:9091, kafka3:9091]
    controllers: [kafka1:9093]
    topics:
      - {name: ot.raw, partitions: 3, replication_factor: 3, config: {min.insync.replicas: 2}}
    groups: {telegraf-writer: [ot.raw]}
    listeners:
      - {name: internal, port: 9091, mutual: true}
      - {name: l3, port: 9094, mutual: false}
"""

RETURN = r"""
status:
  description: Verdict of the whole.
  returned: always
  type: str
checks:
  description: The checks, each with id, title, status, observed, expected, unit, evidence and hint.
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
from collections.abc import Sequence
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hnai.platform.plugins.module_utils.credentials import base
from ansible_collections.hnai.platform.plugins.module_utils.kafka import acls, listeners, quotas, topics
from ansible_collections.hnai.platform.plugins.module_utils.kafka.adapter import KAFKA_ARGS, Admin, Connection
from ansible_collections.hnai.platform.plugins.module_utils.kafka.health import Expected, Health, Local
from ansible_collections.hnai.platform.plugins.module_utils.kafka.listeners import Listener
from ansible_collections.hnai.platform.plugins.module_utils.kafka.storage import META, read_properties
from ansible_collections.hnai.platform.plugins.module_utils.verdict import VERDICT_ARGS, finish, start


def volume(log_dir: str) -> dict[str, int]:
    """The file system under a directory, or under the nearest one above it that is there. Raises OSError."""
    place = Path(log_dir)
    while not place.exists() and place != place.parent:
        place = place.parent
    seen = os.statvfs(place)
    return {"read_only": int(bool(seen.f_flag & os.ST_RDONLY)), "total_bytes": seen.f_frsize * seen.f_blocks,
            "usable_bytes": seen.f_frsize * seen.f_bavail}


def main() -> None:
    """Reads the arguments, checks, reports."""
    nodes = {"type": "list", "elements": "int", "required": True}
    module = AnsibleModule(
        argument_spec=dict(
            {**KAFKA_ARGS, **VERDICT_ARGS},
            node_id={"type": "int", "required": True},
            host={"type": "str", "required": True},
            expected_nodes=nodes,
            super_users={"type": "list", "elements": "str", "required": True},
            principal_levels={"type": "dict", "default": {}},
            mechanisms={"type": "dict", "default": {}},
            features={"type": "dict", "default": {}},
            listeners={"type": "list", "elements": "dict", "required": True, "options": {
                "name": {"type": "str", "required": True}, "port": {"type": "int", "required": True}, "mutual": {"type": "bool", "required": True}}},
            acls={"type": "list", "elements": "dict"},
            topics={"type": "list", "elements": "dict", "default": []},
            quotas={"type": "dict"},
            groups={"type": "dict", "default": {}},
            controllers={"type": "list", "elements": "str", "default": []},
            min_insync_replicas={"type": "int", "default": 2},
            unit={"type": "str", "default": "hnai-kafka.service"},
            log_dir={"type": "path", "default": "/var/lib/hnai/kafka/data"},
            max_group_age_s={"type": "float", "default": 60.0},
            max_imbalance_pct={"type": "float", "default": 10.0},
            config_file={"type": "path", "default": "/etc/hnai/kafka/server.properties"},
            max_voter_lag_ms={"type": "int", "default": 2000},
            min_free_pct={"type": "float", "default": 10.0},
            min_cert_days={"type": "float", "default": 3.0},
            version={"type": "str", "default": ""},
        ),
        supports_check_mode=True,
    )
    given = module.params
    report = start(module, "kafka", given["version"])
    connection = Connection.from_params(given)
    links = connection.links()
    try:
        declared = None if given["acls"] is None else frozenset(acls.parse(given["acls"], "acls"))
    except (acls.AclError, KeyError) as error:
        module.fail_json(msg=f"acls: {error}")
    pairs = [(base(name), name) for name in given["principal_levels"] if base(name) != name]
    expected = Expected(
        host=given["host"], node=given["node_id"], nodes=tuple(given["expected_nodes"]), supers=tuple(given["super_users"]),
        levels={str(name): float(level) for name, level in given["principal_levels"].items()},
        mechanisms={str(name): tuple(may_have) for name, may_have in given["mechanisms"].items()},
        features={str(name): int(level) for name, level in given["features"].items()},
        acls=declared, quotas=None if given["quotas"] is None else quotas.of_pairs(given["quotas"], pairs), topics=topics.parse(given["topics"]),
        groups={str(name): tuple(may_read) for name, may_read in given["groups"].items()},
        addresses=(*given["bootstrap"], *given["controllers"]), min_isr=given["min_insync_replicas"], max_group_age_s=given["max_group_age_s"],
        max_imbalance_pct=given["max_imbalance_pct"],
        max_lag_ms=given["max_voter_lag_ms"], min_free_pct=given["min_free_pct"], min_cert_days=given["min_cert_days"],
    )

    def said(argv: Sequence[str]) -> str:
        done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=report.timeout(5.0), check=False)
        return done.stdout

    local = Local(
        config=lambda: Path(given["config_file"]).read_text(encoding="utf-8"),
        directory=lambda: read_properties(Path(given["log_dir"], META).read_text(encoding="utf-8")).get("directory.id", ""),
        ports=lambda: listeners.open_ports("/proc", given["unit"]),
        volume=lambda: volume(given["log_dir"]),
        supported=lambda address, limit_s: listeners.features(address, links, limit_s),
        mistrust=lambda keystore: listeners.mistrust(keystore, given["ca_file"], given["host"], said),
    )
    health = Health(report, lambda limit_s: Admin(connection, limit_s, links), expected, local)
    health.run([Listener(**item) for item in given["listeners"]], links)
    finish(module, report)


if __name__ == "__main__":
    main()
