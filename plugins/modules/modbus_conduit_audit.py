#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
# Apache-2.0 goes together with Ansible's own licence, the GNU General Public License version 3.
"""Audit of the Modbus conduit: can the mirror write to a device by Modbus?"""

from __future__ import annotations

DOCUMENTATION = r"""
module: modbus_conduit_audit
short_description: Whether anything but reading passes from the mirror's host to level 2 by Modbus
version_added: "0.1.0"
author: hnai.platform maintainers (@hnai)
description:
  - Class passive, every time. MF1 compares the rights by which the filter runs with the declared ones, MF2 says whether each device answers, MF3
    whether somebody asked for more than reading.
  - Class intrusive, with O(live) and a token for the canary C(modbus://HOST:PORT). Sends at the filter's canary socket, from the mirror's own host,
    every function code from 0 to 255, every split of a frame, several frames in one segment, wrong lengths, protocol ids, trailing bytes, other
    units and addresses. The canary's own record says what arrived. MF4 functions, MF5 segments, MF6 malformed frames, MF7 units and addresses,
    MF8 the mirror's users cannot dial the canary past the filter, MF9 what may pass arrived once and was answered as the canary did.
  - No probe goes to a device. Not one is sent before a control, an allowed read, was seen in the record of the canary. A record that cannot be read, a
    control that fails, a canary that was started anew make every check of the class V(inconclusive).
  - The verdict MF0 is one of V(refuted), V(claimed) (by the rights that are loaded), V(proven) (and by the canary's record, for the devices whose
    rights are the canary's) and V(inconclusive).
options:
  devices:
    description: The C(devices) of the filter's configuration, as the inventory has them.
    type: list
    elements: dict
    required: true
  canaries:
    description: The canaries, as the role C(modbus_filter) has them.
    type: list
    elements: dict
    default: []
    suboptions:
      id:
        description: Name of its entry in O(devices).
        type: str
        required: true
      host:
        description: Where it stands.
        type: str
        required: true
      record_port:
        description: Port at which it tells its record.
        type: int
        required: true
      for:
        description: Not used here.
        type: str
      address:
        description: Not used here.
        type: str
      port:
        description: Not used here.
        type: int
  mirror_users:
    description: Users that read for the mirror and must not reach level 2 by themselves.
    type: list
    elements: str
    default: [hnai-telegraf]
  live:
    description: Make the intrusive checks, if a token allows them.
    type: bool
    default: false
  per_second:
    description: Requests a second, at most 20.
    type: float
    default: 20.0
  refusal_window:
    description: Seconds that MF3 looks back.
    type: float
    default: 3600.0
  environment:
    description: Stands in the record.
    type: str
    default: production
extends_documentation_fragment:
  - hnai.platform.intrusive
  - hnai.platform.verdict
attributes:
  check_mode:
    description: Reads the filter's state as ever, sends nothing.
    support: full
"""

EXAMPLES = r"""
- name: Can the mirror write by Modbus?
  hnai.platform.modbus_conduit_audit:
    devices: "{{ modbus_filter_devices }}"
    canaries:
      - {id: sep1-canary, host: canary.l2.example.com, record_port: 1503}
    live: true
    site: "{{ hnai_site }}"
    tokens: "{{ hnai_intrusive_tokens }}"
    approvers: "{{ hnai_intrusive_approvers }}"
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
audit:
  description: The verdict, the reason for it, for what it holds, and what was not tested. The whole record is raw evidence of MF0.
  returned: always
  type: dict
"""

import time

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hnai.platform.plugins.module_utils.hostfiles import Host
from ansible_collections.hnai.platform.plugins.module_utils.intrusive import TOKEN_OPTIONS, ssh_verify
from ansible_collections.hnai.platform.plugins.module_utils.modbus.conduit_host import Audit, Canary, Options
from ansible_collections.hnai.platform.plugins.module_utils.verdict import VERDICT_ARGS, finish, start


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec=dict(
            VERDICT_ARGS,
            **TOKEN_OPTIONS,
            devices={"type": "list", "elements": "dict", "required": True},
            canaries={"type": "list", "elements": "dict", "default": [], "options": {
                "id": {"type": "str", "required": True}, "host": {"type": "str", "required": True},
                "record_port": {"type": "int", "required": True}, "for": {"type": "str"}, "address": {"type": "str"}, "port": {"type": "int"}}},
            mirror_users={"type": "list", "elements": "str", "default": ["hnai-telegraf"]},
            live={"type": "bool", "default": False},
            per_second={"type": "float", "default": 20.0},
            refusal_window={"type": "float", "default": 3600.0},
            environment={"type": "str", "default": "production"},
        ),
        supports_check_mode=True,
    )
    params = module.params
    report = start(module, "modbus_filter")
    host = Host()
    options = Options(
        declared=params["devices"], canaries=[Canary(one["id"], one["host"], one["record_port"]) for one in params["canaries"]],
        mirror_users=params["mirror_users"],
        live=params["live"], check_mode=module.check_mode, site=params["site"], environment=params["environment"], tokens=params["tokens"],
        approvers=params["approvers"], per_second=params["per_second"], refusal_window_s=params["refusal_window"])
    record = Audit(report, options, host, time.time, ssh_verify(host)).run()
    finish(module, report, audit={key: record[key] for key in ("verdict", "reason", "holds_for", "not_tested")})


if __name__ == "__main__":
    main()
