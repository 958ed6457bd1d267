#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
# Apache-2.0 goes together with Ansible's own licence, the GNU General Public License version 3.
"""Module side of kafka_canary."""

from __future__ import annotations

DOCUMENTATION = r"""
module: kafka_canary
short_description: Numbered records through every broker of a cluster and back
version_added: "0.1.0"
author: hnai.platform maintainers (@hnai)
description:
  - Makes a topic with a partition led by every broker, writes numbered records with acks=all and idempotence, reads them back as a consumer group and
    judges what was lost, doubled or out of order (C1), the P95 of acknowledgement and round trip (C1, latency) and how long a position takes to be
    kept (C2).
  - Takes topic and group away again, whatever happened (C1, cleanup). What a killed canary left is deleted by the next one as soon as the time
    that stands in its name is over. A canary that still runs is not disturbed.
  - Leaves the cluster as it was and therefore reports no change.
options:
  expected_nodes:
    description: Node ids that must each lead a partition.
    type: list
    elements: int
    required: true
  records:
    description: Timed records. Fewer than 200 say nothing about a P99 and leave the latency inconclusive.
    type: int
    default: 200
  rate:
    description: Records per second.
    type: float
    default: 100.0
  ack_p95_ms:
    description: Most that the P95 of the acknowledgement may take, in milliseconds.
    type: float
    default: 1000.0
  round_trip_p95_ms:
    description: Most that the P95 from sending to reading may take, in milliseconds.
    type: float
    default: 2000.0
  commit_ms:
    description: Most that keeping a position may take, in milliseconds.
    type: float
    default: 2000.0
  version:
    description: Version of Kafka, for the report.
    type: str
    default: ""
extends_documentation_fragment:
  - hnai.platform.kafka
  - hnai.platform.verdict
  - hnai.platform.reading
attributes:
  check_mode:
    description: Writes nothing; its checks are skipped.
    support: full
"""

EXAMPLES = r"""
- name: Fly the canary
  hnai.platform.kafka_canary:
    expected_nodes: [1, 2, 3]
    bootstrap: [kafka1:9091, kafka2:9091, kafka3:9091]
    records: 500
  run_once: true
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
canary:
  description: Counts (sent, acknowledged, received, lost, duplicated, reordered) and C(ack_ms), C(rtt_ms), each with p50, p95, p99 and max.
  returned: always
  type: dict
"""

import secrets
import time

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hnai.platform.plugins.module_utils.kafka import canary
from ansible_collections.hnai.platform.plugins.module_utils.kafka.adapter import KAFKA_ARGS, Admin, Connection, Pipe
from ansible_collections.hnai.platform.plugins.module_utils.verdict import VERDICT_ARGS, finish, start


def main() -> None:
    """Reads the arguments, flies, reports."""
    module = AnsibleModule(
        argument_spec=dict(
            {**KAFKA_ARGS, **VERDICT_ARGS},
            expected_nodes={"type": "list", "elements": "int", "required": True},
            records={"type": "int", "default": 200},
            rate={"type": "float", "default": 100.0},
            ack_p95_ms={"type": "float", "default": 1000.0},
            round_trip_p95_ms={"type": "float", "default": 2000.0},
            commit_ms={"type": "float", "default": 2000.0},
            version={"type": "str", "default": ""},
        ),
        supports_check_mode=True,
    )
    given = module.params
    for key in ("records", "rate"):
        if given[key] <= 0:
            module.fail_json(msg=f"{key}: {given[key]:g}; give more than 0")
    if not given["expected_nodes"]:
        module.fail_json(msg="expected_nodes: is empty; name the brokers")
    report = start(module, "kafka", given["version"])
    plan = canary.Plan(tuple(given["expected_nodes"]), given["records"], given["rate"], given["ack_p95_ms"], given["round_trip_p95_ms"], given["commit_ms"])
    connection = Connection.from_params(given)
    flight = canary.Canary(
        report, plan, lambda limit_s: Admin(connection, limit_s),
        lambda topic, partitions, limit_s: Pipe(connection, topic, partitions, limit_s),
        time.monotonic, time.time, time.sleep, secrets.token_hex(4))
    if module.check_mode:
        canary.not_flown(report, "writes records; not in check mode")
    else:
        flight.run()
    finish(module, report, canary=flight.account.summary())


if __name__ == "__main__":
    main()
