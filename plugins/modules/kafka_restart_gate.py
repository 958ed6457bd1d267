#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
# Apache-2.0 goes together with Ansible's own licence, the GNU General Public License version 3.
"""Module side of kafka_restart_gate."""

from __future__ import annotations

DOCUMENTATION = r"""
module: kafka_restart_gate
short_description: When is this broker's turn, may it be restarted now, and is the cluster whole again
version_added: "0.1.0"
author: hnai.platform maintainers (@hnai)
description:
  - Looks at the whole cluster through any broker that answers, also when the play is limited to one host. Restarts nothing.
  - With O(state=ranked) says when the node's turn is, without judging. V(0) it is not ready (serves nobody, is fenced, or its controller lags),
    V(1) follower, V(2) active controller. A node that is not ready is given O(timeout) to become so, since it may just be starting.
  - With O(state=allowed) waits until a restart of this node is safe, twice in a row, since replicas may come and go.
    No partition offline, under min.insync.replicas or falling under it
    without this node, no reassignment, every declared broker registered and unfenced, every voter caught up by time (not by offset),
    a caught-up majority without this node, and no other running broker that lacks a SCRAM user which another one knows. Fails with the reasons when
    O(timeout) is over, or when nothing but such lost users is left, which waiting does not bring back.
  - With O(state=ready) waits until this node is back, whatever else is broken. It serves, is caught up and in sync wherever it has a replica.
  - With O(state=healthy) waits until all brokers are back, know the same users, all voters are caught up and all replicas in sync, twice in a row.
  - A node that serves nobody is allowed when nothing can be lost by starting it. One that only does not answer here, and is not fenced, may still be
    in the way of V(min.insync.replicas) and then waits.
options:
  state:
    description: The question.
    type: str
    choices: [ranked, allowed, ready, healthy]
    required: true
  node_id:
    description: Node id of this host.
    type: int
    required: true
  expected_nodes:
    description: Node ids that the inventory declares.
    type: list
    elements: int
    required: true
  max_voter_lag_ms:
    description: A voter that is behind the leader by this much (milliseconds) is not caught up.
    type: int
    default: 2000
  reads:
    description: With O(state=allowed), the highest level of each feature that the release on the host reads. Refused at once where one in force
      is above it.
    type: dict
    default: {}
  elect_preferred:
    description: With O(state=healthy) or O(state=ready), gives the leadership back to the preferred replicas afterwards, so that the next restart moves
      few of them.
    type: bool
    default: false
  timeout:
    description: Seconds to wait for the answer to become yes.
    type: float
    default: 300.0
extends_documentation_fragment:
  - hnai.platform.kafka
  - hnai.platform.reading
attributes:
  check_mode:
    description: Looks once, reports and does not wait or fail.
    support: full
"""

EXAMPLES = r"""
- name: Wait until this broker may be restarted
  hnai.platform.kafka_restart_gate:
    state: allowed
    node_id: 2
    expected_nodes: [1, 2, 3]
    bootstrap: [kafka2:9091, kafka1:9091, kafka3:9091]
"""

RETURN = r"""
rank:
  description: V(0) not ready, V(1) follower, V(2) active controller.
  returned: always
  type: int
can_restart:
  description: Whether a restart is safe now.
  returned: always
  type: bool
reasons:
  description: What stands against it (or, with O(state=healthy), what is not whole).
  returned: always
  type: list
  elements: str
waited_s:
  description: Seconds that the answer took.
  returned: always
  type: float
"""

import time

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hnai.platform.plugins.module_utils.hostfiles import Host
from ansible_collections.hnai.platform.plugins.module_utils.kafka import gate
from ansible_collections.hnai.platform.plugins.module_utils.kafka.adapter import KAFKA_ARGS, Admin, Connection
from ansible_collections.hnai.platform.plugins.module_utils.kafka.state import KafkaError, Snapshot, Unreachable
from ansible_collections.hnai.platform.plugins.module_utils.kafka.storage import accepts
from ansible_collections.hnai.platform.plugins.module_utils.probe_env import ProbeMissing
from ansible_collections.hnai.platform.plugins.module_utils.unit import Request, Unit

UNIT = "hnai-kafka.service"


def main() -> None:
    """Reads the arguments, asks, reports."""
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["ranked", "allowed", "ready", "healthy"], "required": True},
            "node_id": {"type": "int", "required": True},
            "expected_nodes": {"type": "list", "elements": "int", "required": True},
            "max_voter_lag_ms": {"type": "int", "default": 2000},
            "reads": {"type": "dict", "default": {}},
            "elect_preferred": {"type": "bool", "default": False},
            "timeout": {"type": "float", "default": 300.0},
            **KAFKA_ARGS,
        },
        supports_check_mode=True,
    )
    given = module.params
    connection = Connection.from_params(given)
    node = given["node_id"]
    rules = gate.Rules(tuple(given["expected_nodes"]), given["max_voter_lag_ms"])
    asking = given["state"]

    def serving() -> bool:
        return accepts(connection.bootstrap[0])

    def look(limit_s: float) -> Snapshot:
        with Admin(connection, limit_s) as admin:
            return admin.snapshot()

    def judge(snapshot: Snapshot | None) -> list[str]:
        if asking == "healthy":
            return gate.unhealthy(snapshot, rules)
        if asking == "ready":
            return gate.not_back(snapshot, node, rules)
        if asking == "ranked":
            return ["not ready"] if gate.rank(snapshot, node, serving(), rules) == gate.NOT_READY else []
        return list(gate.decide(snapshot, node, serving(), rules).reasons)

    def too_old() -> list[str]:
        if asking != "allowed" or not given["reads"]:
            return []
        try:
            with Admin(connection, 10.0) as admin:
                return gate.unreadable(admin.features(), {str(name): int(level) for name, level in given["reads"].items()})
        except Unreachable:
            return []  # Whether it may be restarted at all is asked below.

    patience = 0.0 if module.check_mode else given["timeout"]
    never: list[str] = []
    try:
        never = too_old()
        snapshot, reasons, waited = gate.wait_until(
            look, judge, 0.0 if never else patience, time.monotonic, time.sleep,
            stable=1 if never or asking == "ranked" or module.check_mode else 2)
        reasons = [*never, *reasons]
        if given["elect_preferred"] and not reasons and not module.check_mode:
            with Admin(connection, 10.0) as admin:
                admin.elect_preferred()
    except (ProbeMissing, KafkaError) as error:
        if not module.check_mode:
            module.fail_json(msg=str(error))
        snapshot, reasons, waited = None, [str(error)], 0.0
    decision = gate.decide(snapshot, node, serving(), rules)
    result = {
        "rank": decision.rank, "can_restart": decision.allowed and not never, "waited_s": round(waited, 1),
        "reasons": reasons if asking != "ranked" else list(decision.reasons),
    }
    if reasons and asking != "ranked" and not module.check_mode:
        what = {"allowed": f"node {node} may not be restarted", "ready": f"node {node} is not back"}.get(asking, "the cluster is not whole again")
        # One that does not come up says itself why.
        own = "" if serving() else f"\n{Unit(Host(), Request(UNIT)).evidence()}"
        module.fail_json(msg=f"{what} after {waited:.0f} s: {'; '.join(reasons)}. Nothing was restarted by this; correct the cause and run "
                             f"again, what is pending stays pending{own}", **result)
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
