#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
# Apache-2.0 goes together with Ansible's own licence, the GNU General Public License version 3.
"""Module side of kafka_replace_plan."""

from __future__ import annotations

DOCUMENTATION = r"""
module: kafka_replace_plan
short_description: May a broker's lost disk be replaced now, and by which steps
version_added: "0.1.0"
author: hnai.platform maintainers (@hnai)
description:
  - Runs on a broker that is left, with what M(hnai.platform.kafka_log_dir) found on the host of the lost one. Changes nothing.
  - Fails with every reason that stands against it. The host has its data, or still runs on it; the quorum has no leader; one of the other voters is absent or
    not caught up; another broker is not there; a partition is offline, or fewer of its replicas on the other brokers are in sync than C(min.insync.replicas),
    or none; a reassignment is under way; ids differ from the declared ones. What may pass by itself is waited for, for O(timeout).
options:
  node_id:
    description: Node id of the broker to be replaced.
    type: int
    required: true
  host:
    description: Its inventory name.
    type: str
    required: true
  disk:
    description: RV(hnai.platform.kafka_log_dir#module:disk) of its host.
    type: dict
    required: true
    suboptions:
      cluster:
        description: Cluster id.
        type: str
        default: ""
      node:
        description: Node id.
        type: str
        default: ""
      directory:
        description: Directory id.
        type: str
        default: ""
      problem:
        description: Why it cannot be told what lies there.
        type: str
        default: ""
      under_way:
        description: Whether a replacement has begun.
        type: bool
        default: false
  site:
    description: Name of the site, from which the cluster id is derived.
    type: str
    required: true
  cluster_id:
    description: Cluster id (22 characters); derived when empty.
    type: str
    default: ""
  directory_id:
    description: The directory id that the inventory declares for the broker, if any.
    type: str
    default: ""
  nodes:
    description: Host to node id, of every declared broker.
    type: dict
    required: true
  later:
    description: Hosts among O(nodes) that are known to be lost too and are replaced afterwards. The rest must be a majority without them.
    type: list
    elements: str
    default: []
  max_voter_lag_ms:
    description: A voter that is behind the leader by this much (milliseconds) is not caught up.
    type: int
    default: 2000
  timeout:
    description: Seconds to wait for the answer to become yes.
    type: float
    default: 60.0
extends_documentation_fragment:
  - hnai.platform.kafka
  - hnai.platform.reading
attributes:
  check_mode:
    description: Changes nothing; refuses what it would refuse.
    support: full
"""

EXAMPLES = r"""
- name: Plan
  hnai.platform.kafka_replace_plan:
    node_id: 2
    host: kafka2
    disk: "{{ __kafka_found.disk }}"
    site: lab
    nodes: {kafka1: 1, kafka2: 2, kafka3: 3}
    bootstrap: [kafka1:9091, kafka3:9091]
  delegate_to: kafka1
"""

RETURN = r"""
reasons:
  description: What stands against it.
  returned: always
  type: list
  elements: str
steps:
  description: What is left to do, in this order.
  returned: always
  type: list
  elements: str
old:
  description: Directory ids that are voters in its place.
  returned: always
  type: list
  elements: str
"""

import time

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hnai.platform.plugins.module_utils.kafka import gate, replace
from ansible_collections.hnai.platform.plugins.module_utils.kafka.adapter import KAFKA_ARGS, Admin, Connection
from ansible_collections.hnai.platform.plugins.module_utils.kafka.ids import IdError, check, derive
from ansible_collections.hnai.platform.plugins.module_utils.kafka.state import Snapshot
from ansible_collections.hnai.platform.plugins.module_utils.probe_env import ProbeMissing


def main() -> None:
    """Reads the arguments, asks, reports."""
    module = AnsibleModule(
        argument_spec={
            "node_id": {"type": "int", "required": True},
            "host": {"type": "str", "required": True},
            "disk": {"type": "dict", "required": True, "options": {
                **{name: {"type": "str", "default": ""} for name in ("cluster", "node", "directory", "problem")},
                "under_way": {"type": "bool", "default": False}}},
            "site": {"type": "str", "required": True},
            "cluster_id": {"type": "str", "default": ""},
            "directory_id": {"type": "str", "default": ""},
            "nodes": {"type": "dict", "required": True},
            "later": {"type": "list", "elements": "str", "default": []},
            "max_voter_lag_ms": {"type": "int", "default": 2000},
            "timeout": {"type": "float", "default": 60.0},
            **KAFKA_ARGS,
        },
        supports_check_mode=True,
    )
    given = module.params
    connection = Connection.from_params(given)
    host = given["host"]

    decided = [replace.Plan(("not asked yet",))]

    def look(_limit_s: float) -> Snapshot:
        with Admin(connection, 10.0) as admin:
            return admin.snapshot()

    def judge(snapshot: Snapshot | None) -> list[str]:
        decided.append(replace.plan(snapshot, disk, me, rules))
        return [] if decided[-1].lasting else list(decided[-1].reasons)

    try:
        cluster = check(given["cluster_id"], "kafka_cluster_id") if given["cluster_id"] else derive(given["site"], "cluster")
        me = replace.Me(given["node_id"], host, cluster, given["directory_id"])
        nodes = {str(name): int(node) for name, node in given["nodes"].items()}
        later = frozenset(nodes[name] for name in given["later"])
        rules = replace.Rules({node: name for name, node in nodes.items()}, given["max_voter_lag_ms"], later)
        disk = replace.Disk(**given["disk"])
        _snapshot, unclear, waited = gate.wait_until(look, judge, given["timeout"], time.monotonic, time.sleep)
    except KeyError as error:
        module.fail_json(msg=f"later: {error} is no host of nodes", reasons=[], steps=[], old=[])
    except (ProbeMissing, IdError, ValueError) as error:
        module.fail_json(msg=str(error), reasons=[str(error)], steps=[], old=[])
    reasons = unclear or list(decided[-1].reasons)
    if reasons:
        module.fail_json(msg=f"{host} is not replaced (after {waited:.0f} s): {'; '.join(reasons)}. Nothing was touched", reasons=reasons, steps=[], old=[])
    module.exit_json(changed=False, reasons=[], steps=list(decided[-1].steps), old=list(decided[-1].old))


if __name__ == "__main__":
    main()
