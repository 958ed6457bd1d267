#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
# Apache-2.0 goes together with Ansible's own licence, the GNU General Public License version 3.
"""Audit of the mirror's own software: could it write?"""

from __future__ import annotations

DOCUMENTATION = r"""
module: collector_capability_audit
short_description: Whether the software of the mirror could write to the plant
version_added: "0.1.0"
author: hnai.platform maintainers (@hnai)
description:
  - Looks at the running processes, not at what was meant to run. Passive; it opens no connection and changes nothing.
  - Of each Telegraf, CA1 the plugins that are built into the running program, CA2 the configuration that it loaded, as long as its files are older
    than the process (else V(inconclusive)), CA3 what it executes, in its configuration and below it now, CA6 its connections.
  - Of the collector, CA4 program and environment against what was deployed, and what code is in its memory, CA5 that its client refuses every
    request but reading ones, tried by its own interpreter beside it without a connection.
  - Of the kernel, CA7 that the ruleset lets the mirror's user open what the conduits say, no more and no less.
  - Of other collectors, by their files, CA8 Node-RED, CA9 NiFi, CA10 OPC Publisher, CA11 Neuron.
  - CA0 is the verdict, V(claimed), V(refuted) or V(inconclusive). What a table does not name is unknown, and unknown is V(inconclusive).
options:
  instances:
    description: Telegraf's instances on this host.
    type: list
    elements: str
    required: true
  command:
    description: The only command that a Telegraf may execute, the collector's.
    type: list
    elements: str
    default: []
  program:
    description: Directory of the collector's program.
    type: path
    default: /usr/local/lib/hnai/ot_collector
  files:
    description: Its files, path below O(program) to sha256, as P(hnai.platform.tree_digests#lookup) gives them.
    type: dict
    default: {}
  environment_path:
    description: The collector's environment, with the manifest of its artifact.
    type: path
    default: /opt/hnai/ot_collector/current
  sources:
    description: What the collector may dial.
    type: list
    elements: dict
    default: []
    suboptions:
      id:
        description: Id of the source.
        type: str
        required: true
      host:
        description: Name or address.
        type: str
        required: true
      port:
        description: TCP port.
        type: int
        required: true
  egress:
    description: What this host may open, as P(hnai.platform.collector_egress#filter) gives it.
    type: dict
    required: true
  user:
    description: User of Telegraf and the collector.
    type: str
    default: hnai-telegraf
  host:
    description: Inventory name of this host, under which it finds itself.
    type: str
    required: true
  hosts:
    description: Hosts that are looked at; an entry of O(foreign) for another one is V(inconclusive), on the first of them.
    type: list
    elements: str
    default: []
  foreign:
    description: Configuration files of other collectors.
    type: list
    elements: dict
    default: []
    suboptions:
      kind:
        description: V(node_red) flows.json, V(nifi) flow.json.gz, V(opc_publisher) the published nodes file, V(neuron) sqlite.db.
        type: str
        choices: [node_red, nifi, opc_publisher, neuron]
        required: true
      path:
        description: Absolute path of the file.
        type: path
        required: true
      host:
        description: Inventory name of the host on which it lies.
        type: str
        required: true
      arguments:
        description: For V(opc_publisher), absolute path of the file with its command line or environment.
        type: path
  patterns:
    description: MQTT topics of commands.
    type: list
    elements: str
    default: []
  environment:
    description: Stands in the record of the verdict, as V(lab).
    type: str
    default: production
extends_documentation_fragment:
  - hnai.platform.verdict
  - hnai.platform.reading
"""

EXAMPLES = r"""
- name: Audit the mirror's software
  hnai.platform.collector_capability_audit:
    instances: [shipper]
    command: "{{ telegraf_collector_command }}"
    files: "{{ lookup('hnai.platform.tree_digests', 'ot_collector', '/usr/local/lib/hnai/ot_collector') }}"
    sources:
      - {id: plc1, host: plc1, port: 4840}
    egress: "{{ lookup('hnai.platform.site') | hnai.platform.collector_egress(inventory_hostname) }}"
    host: "{{ inventory_hostname }}"
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
capability:
  description: The verdict, the reason for it, what was not tested, and the running instances.
  returned: always
  type: dict
"""

import time

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hnai.platform.plugins.module_utils.collector.audit import Audit, Options
from ansible_collections.hnai.platform.plugins.module_utils.collector.proc import Proc
from ansible_collections.hnai.platform.plugins.module_utils.hostfiles import Host
from ansible_collections.hnai.platform.plugins.module_utils.verdict import VERDICT_ARGS, finish, start


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec=dict(
            VERDICT_ARGS,
            instances={"type": "list", "elements": "str", "required": True},
            command={"type": "list", "elements": "str", "default": []},
            program={"type": "path", "default": "/usr/local/lib/hnai/ot_collector"},
            files={"type": "dict", "default": {}},
            environment_path={"type": "path", "default": "/opt/hnai/ot_collector/current"},
            sources={"type": "list", "elements": "dict", "default": [], "options": {
                "id": {"type": "str", "required": True}, "host": {"type": "str", "required": True}, "port": {"type": "int", "required": True},
            }},
            egress={"type": "dict", "required": True},
            user={"type": "str", "default": "hnai-telegraf"},
            host={"type": "str", "required": True},
            hosts={"type": "list", "elements": "str", "default": []},
            foreign={"type": "list", "elements": "dict", "default": [], "options": {
                "kind": {"type": "str", "choices": ["node_red", "nifi", "opc_publisher", "neuron"], "required": True},
                "path": {"type": "path", "required": True}, "host": {"type": "str", "required": True}, "arguments": {"type": "path"},
            }},
            patterns={"type": "list", "elements": "str", "default": []},
            environment={"type": "str", "default": "production"},
        ),
        supports_check_mode=True,
    )
    params = module.params
    report = start(module, "ot_collector", version="1")
    first = params["host"] == (sorted(params["hosts"]) or [params["host"]])[0]
    options = Options(
        instances=params["instances"], command=params["command"], program=params["program"], files=params["files"],
        environment=params["environment_path"], sources=params["sources"], conduits=params["egress"].get("conduits") or [],
        own=params["egress"].get("own") or [], user=params["user"], own_name=params["host"],
        elsewhere=[one for one in params["foreign"] if one["host"] == params["host"]],
        unseen=[one for one in params["foreign"] if first and one["host"] not in (*params["hosts"], params["host"])],
        patterns=params["patterns"], environment_name=params["environment"],
    )
    record = Audit(report, options, Host(), Proc(), time.time).run()
    finish(module, report, capability=record)


if __name__ == "__main__":
    main()
