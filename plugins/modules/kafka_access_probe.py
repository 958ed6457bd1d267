#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
# Apache-2.0 goes together with Ansible's own licence, the GNU General Public License version 3.
"""Module side of kafka_access_probe."""

from __future__ import annotations

DOCUMENTATION = r"""
module: kafka_access_probe
short_description: What the clients of a Kafka cluster may do, found out with their own credentials
version_added: "0.1.0"
author: hnai.platform maintainers (@hnai)
description:
  - Logs in as each identity on its listener and asks for every right on every topic and group, allowed and denied, and for the administration
    of the cluster (S5, one check for each identity and listener). A refused password fails; a listener that is not reachable is inconclusive.
  - Writes nothing and reads no record. Brokers judge the right before they look at the request, and each request is one that cannot succeed.
options:
  identities:
    description: Who logs in, and where.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: User name, which is the principal.
        type: str
        required: true
      password:
        description: Its password.
        type: str
        required: true
      mechanism:
        description: SCRAM mechanism.
        type: str
        choices: [SCRAM-SHA-256, SCRAM-SHA-512]
        default: SCRAM-SHA-512
      listener:
        description: Name of the listener, for the report.
        type: str
        required: true
      port:
        description: Its port.
        type: int
        required: true
  host:
    description: Broker to ask, by the name that its certificate has.
    type: str
    required: true
  acls:
    description: Declared ACLs, as P(hnai.platform.kafka_acls#filter) derives them. What they do not allow must be denied.
    type: list
    elements: dict
    required: true
  topics:
    description: Topics to ask about. Kafka's own C(__consumer_offsets) is always among them.
    type: list
    elements: str
    required: true
  groups:
    description: Groups to ask about.
    type: list
    elements: str
    default: []
  ca_file:
    description: Root certificates (PEM) that the broker must chain to.
    type: path
    default: /etc/hnai/kafka/tls/ca.pem
  version:
    description: Version of Kafka, for the report.
    type: str
    default: ""
extends_documentation_fragment:
  - hnai.platform.verdict
  - hnai.platform.reading
"""

EXAMPLES = r"""
- name: Ask as the shipper
  hnai.platform.kafka_access_probe:
    host: kafka1
    identities:
      - {name: telegraf-shipper, password: "{{ password_of_the_shipper }}", listener: l3, port: 9094}
    acls:
      - {principal: "User:telegraf-shipper", resource_type: topic, name: ot.raw, operation: write}
    topics: [ot.raw, ot.normalised]
  no_log: true
"""

RETURN = r"""
status:
  description: Verdict of the whole.
  returned: always
  type: str
checks:
  description: The checks, each with id, subject, title, status, observed, expected, unit, evidence and hint.
  returned: always
  type: list
  elements: dict
summary:
  description: One line.
  returned: always
  type: str
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hnai.platform.plugins.module_utils.kafka import access, acls, scram
from ansible_collections.hnai.platform.plugins.module_utils.verdict import VERDICT_ARGS, finish, start

OFFSETS = "__consumer_offsets"


def main() -> None:
    """Reads the arguments, asks, reports."""
    text = {"type": "str", "required": True}
    module = AnsibleModule(
        argument_spec=dict(
            VERDICT_ARGS,
            identities={"type": "list", "elements": "dict", "required": True, "options": {
                "name": text, "password": {"type": "str", "required": True, "no_log": True},
                "mechanism": {"type": "str", "choices": list(scram.MECHANISMS), "default": "SCRAM-SHA-512"},
                "listener": text, "port": {"type": "int", "required": True}}},
            host=text,
            acls={"type": "list", "elements": "dict", "required": True},
            topics={"type": "list", "elements": "str", "required": True},
            groups={"type": "list", "elements": "str", "default": []},
            ca_file={"type": "path", "default": "/etc/hnai/kafka/tls/ca.pem"},
            version={"type": "str", "default": ""},
        ),
        supports_check_mode=True,
    )
    given = module.params
    report = start(module, "kafka", given["version"])
    try:
        declared = acls.parse(given["acls"], "acls")
    except (acls.AclError, KeyError) as error:
        module.fail_json(msg=f"acls: {error}")
    access.run(
        report, given["host"], [access.Identity(**one) for one in given["identities"]], lambda: scram.tls_context(given["ca_file"]), declared,
        sorted({*given["topics"], OFFSETS}), given["groups"])
    finish(module, report)


if __name__ == "__main__":
    main()
