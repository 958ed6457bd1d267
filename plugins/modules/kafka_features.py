#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
# Apache-2.0 goes together with Ansible's own licence, the GNU General Public License version 3.
"""Module side of kafka_features."""

from __future__ import annotations

DOCUMENTATION = r"""
module: kafka_features
short_description: Raise the feature levels of a Kafka cluster, the last step of an upgrade
version_added: "0.1.0"
author: hnai.platform maintainers (@hnai)
description:
  - Raises the finalized levels to the wanted ones. Until then the older release runs again on the same data; afterwards it does not, so this is a step of
    its own that nothing else takes.
  - Asks every node, broker and controller, what it can do, and refuses where one of them runs an older release or does not answer. Never lowers a level.
options:
  features:
    description: Wanted levels by feature. With none, only what is in force and what each node can do is told.
    type: dict
    required: true
  controllers:
    description: C(host:port) of every controller.
    type: list
    elements: str
    default: []
  timeout:
    description: Seconds for each call.
    type: float
    default: 30.0
extends_documentation_fragment:
  - hnai.platform.kafka
attributes:
  check_mode:
    description: Predicts; refuses what it would refuse.
    support: full
  diff_mode:
    description: The levels.
    support: full
"""

EXAMPLES = r"""
- name: Raise the levels of the release
  hnai.platform.kafka_features:
    features: {metadata.version: 30}
    bootstrap: [kafka1:9091, kafka2:9091, kafka3:9091]
    controllers: [kafka1:9093, kafka2:9093, kafka3:9093]
  run_once: true
"""

RETURN = r"""
raised:
  description: Features that were raised, with their new levels.
  returned: always
  type: dict
finalized:
  description: Levels in force before the task, by feature.
  returned: always
  type: dict
supported:
  description: With no O(features), the highest level of each feature by node that answered.
  returned: always
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hnai.platform.plugins.module_utils.kafka import features, listeners
from ansible_collections.hnai.platform.plugins.module_utils.kafka.adapter import KAFKA_ARGS, Admin, Connection
from ansible_collections.hnai.platform.plugins.module_utils.kafka.scram import LoginError
from ansible_collections.hnai.platform.plugins.module_utils.kafka.state import KafkaError
from ansible_collections.hnai.platform.plugins.module_utils.probe_env import ProbeMissing


def main() -> None:
    """Reads the arguments, asks every node, raises."""
    module = AnsibleModule(
        argument_spec={
            "features": {"type": "dict", "required": True},
            "controllers": {"type": "list", "elements": "str", "default": []},
            "timeout": {"type": "float", "default": 30.0},
            **KAFKA_ARGS,
        },
        supports_check_mode=True,
    )
    given = module.params
    wanted = {str(name): int(level) for name, level in given["features"].items()}
    connection = Connection.from_params(given)
    links = connection.links()

    def supported(address: str) -> features.Levels:
        host, _, port = address.rpartition(":")
        try:
            return listeners.features((host, int(port)), links, 5.0)
        except LoginError as error:
            raise OSError(str(error)) from error

    try:
        with Admin(connection, given["timeout"], links) as admin:
            finalized = admin.features()
            told = features.tell([*given["bootstrap"], *given["controllers"]], supported) if not wanted else {}
            raised, problems = features.plan(wanted, finalized, [*given["bootstrap"], *given["controllers"]], supported)
            if problems:
                module.fail_json(msg="no level was raised: " + "; ".join(problems), problems=problems)
            if raised and not module.check_mode:
                admin.raise_features(raised)
    except (KafkaError, ProbeMissing) as error:
        module.fail_json(msg=str(error))
    diff = {"before": "".join(f"{name} {finalized.get(name, (0, 0))[0]}\n" for name in raised),
            "after": "".join(f"{name} {level}\n" for name, level in raised.items()), "before_header": "features", "after_header": "features"}
    module.exit_json(changed=bool(raised), raised=raised, finalized={name: item[0] for name, item in finalized.items() if item[0]}, supported=told,
                     **({"diff": diff} if module._diff and raised else {}))


if __name__ == "__main__":
    main()
