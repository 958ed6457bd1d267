#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
# Apache-2.0 goes together with Ansible's own licence, the GNU General Public License version 3.
"""Module side of kafka_voter."""

from __future__ import annotations

DOCUMENTATION = r"""
module: kafka_voter
short_description: This host's log directory is the voter of its node id
version_added: "0.1.0"
author: hnai.platform maintainers (@hnai)
description:
  - Step of replacing a broker whose disk was lost. Waits until the node follows the metadata log with its new directory, removes the voter of the old
    directory and adds the new one, so that the quorum has as many voters as before. Changes nothing where the directory is a voter already.
  - Refuses while another voter is not caught up, and where the node still leads the quorum from its old disk.
options:
  node_id:
    description: Node id of this host.
    type: int
    required: true
  host:
    description: Name under which the others reach this host's controller listener.
    type: str
    required: true
  port:
    description: Port of the controller listener.
    type: int
    required: true
  log_dir:
    description: The log directory.
    type: path
    default: /var/lib/hnai/kafka/data
  max_voter_lag_ms:
    description: A voter that is behind the leader by this much (milliseconds) is not caught up.
    type: int
    default: 2000
  timeout:
    description: Seconds for the whole.
    type: float
    default: 180.0
extends_documentation_fragment:
  - hnai.platform.kafka
attributes:
  check_mode:
    description: Predicts; refuses what it would refuse.
    support: full
  diff_mode:
    description: The directory of the voter.
    support: full
"""

EXAMPLES = r"""
- name: Take the old disk's place in the quorum
  hnai.platform.kafka_voter:
    node_id: 2
    host: kafka2
    port: 9093
    bootstrap: [kafka1:9091, kafka3:9091]
"""

RETURN = r"""
actions:
  description: What was done.
  returned: always
  type: list
  elements: str
"""

import time
from contextlib import AbstractContextManager
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hnai.platform.plugins.module_utils.kafka import scram, voters
from ansible_collections.hnai.platform.plugins.module_utils.kafka.adapter import KAFKA_ARGS, Admin, Connection
from ansible_collections.hnai.platform.plugins.module_utils.kafka.scram import Stream
from ansible_collections.hnai.platform.plugins.module_utils.kafka.state import KafkaError, Quorum, Unreachable
from ansible_collections.hnai.platform.plugins.module_utils.kafka.storage import META, read_properties
from ansible_collections.hnai.platform.plugins.module_utils.probe_env import ProbeMissing


class Cluster:
    """The quorum through the brokers of `bootstrap`, one connection per question."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def quorum(self) -> Quorum:
        """As its leader sees it."""
        with Admin(self._connection, 10.0) as admin:
            return admin.quorum()

    def remove(self, node: int, directory: str) -> None:
        """Remove one voter."""
        with self._stream() as stream:
            voters.remove(stream, node, directory)

    def add(self, node: int, directory: str, listener: str, host: str, port: int) -> None:
        """Add one voter."""
        with self._stream() as stream:
            voters.add(stream, voters.Me(node, directory, host, port, listener), 30000)

    def _stream(self) -> AbstractContextManager[Stream]:
        context = scram.tls_context(self._connection.ca_file, self._connection.cert_file, self._connection.key_file)
        return scram.connected(self._connection.bootstrap, context, 40.0)


def main() -> None:
    """Reads the arguments, replaces, reports."""
    module = AnsibleModule(
        argument_spec={
            "node_id": {"type": "int", "required": True},
            "host": {"type": "str", "required": True},
            "port": {"type": "int", "required": True},
            "log_dir": {"type": "path", "default": "/var/lib/hnai/kafka/data"},
            "max_voter_lag_ms": {"type": "int", "default": 2000},
            "timeout": {"type": "float", "default": 180.0},
            **KAFKA_ARGS,
        },
        supports_check_mode=True,
    )
    given = module.params
    try:
        directory = read_properties(Path(given["log_dir"], META).read_text(encoding="utf-8"))["directory.id"]
        me = voters.Me(given["node_id"], directory, given["host"], given["port"])
        cluster = Cluster(Connection.from_params(given))
        before = cluster.quorum()
        if module.check_mode:
            old, wanted = voters.plan(before, me, given["max_voter_lag_ms"])
            actions = [f"removed voter {me.node} {one}" for one in old] + ([f"added voter {me.node} {directory}"] if wanted else [])
        else:
            actions = voters.replace(cluster, me, given["max_voter_lag_ms"], given["timeout"], time.monotonic, time.sleep)
    except (KafkaError, Unreachable, scram.LoginError, ProbeMissing, OSError, KeyError) as error:
        if module.check_mode and isinstance(error, (OSError, KeyError, ProbeMissing, Unreachable)):
            module.exit_json(changed=True, actions=[f"not to be compared yet: {error}"])
        module.fail_json(msg=str(error))
    was = "".join(f"voter {v.id} {v.directory}\n" for v in before.voters if v.id == me.node)
    diff = {"before": was, "after": f"voter {me.node} {directory}\n", "before_header": "quorum", "after_header": "quorum"}
    module.exit_json(changed=bool(actions), actions=actions, **({"diff": diff} if module._diff and actions else {}))


if __name__ == "__main__":
    main()
