#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
# Apache-2.0 goes together with Ansible's own licence, the GNU General Public License version 3.
"""Audit of an MQTT broker's rights: can anybody command by MQTT?"""

from __future__ import annotations

DOCUMENTATION = r"""
module: mqtt_acl_audit
short_description: Whether any identity of the MQTT broker could publish a command
version_added: "0.1.0"
author: hnai.platform maintainers (@hnai)
description:
  - Class passive. MA1 reads the broker's configuration and the files that it names (Mosquitto's C(acl_file) and dynamic-security plugin, EMQX's C(acl.conf)
    and exports of its built-in database), and whether they are in force. MA2 decides for every identity and every command pattern whether one topic
    matches both, exactly, by overlap. MA3 does so for what a line reads (I12). MA4 compares with the declared rights.
  - Class live, with O(live). As each provisioned identity, with MQTT 5 and QoS 1, publishes to a canary of each pattern; the broker must refuse as not
    authorised, and a witness must not get it, while it gets what the same session publishes to the identity's own corner. MA5 plain, MA6 retained, MA7
    by a will, MA8 the reading side of shared subscriptions. An identity whose password does not lie on this host is V(inconclusive).
  - Never publishes anywhere but to canaries (the wildcards of a pattern replaced by O(canary)) and corners (C(O(corner)/<identity>/)). A pattern that
    names one topic has no canary and is judged by the rules alone. Retained canaries are deleted, and expire. Nothing is sent in check mode.
  - The verdict MA0 is one of V(refuted), V(claimed) (by the rules), V(proven) (and by the broker's answers) and V(inconclusive).
options:
  patterns:
    description: Filters of the topics that command, Sparkplug's and the site's.
    type: list
    elements: str
    default: ["spBv1.0/+/NCMD/#", "spBv1.0/+/DCMD/#", "STATE/#", "spBv1.0/STATE/#"]
  config:
    description: Configuration of Mosquitto.
    type: path
    default: /etc/hnai/mosquitto/mosquitto.conf
  unit:
    description: Unit of Mosquitto; a file that is newer than its last start or reload is not in force. Empty leaves that out.
    type: str
    default: hnai-mosquitto.service
  emqx:
    description: Audits these sources of EMQX instead of Mosquitto. The live test is then made with the identities of O(clients).
    type: dict
    suboptions:
      sources:
        description: The chain in its order.
        type: list
        elements: dict
        required: true
        suboptions:
          type:
            description: V(file), V(built_in_database), or another of EMQX's, which nobody can evaluate offline.
            type: str
            required: true
          path:
            description: Of V(file), the C(acl.conf).
            type: path
          clients:
            description: Of V(built_in_database), the body of C(GET …/rules/clients).
            type: path
          users:
            description: Of V(built_in_database), the body of C(GET …/rules/users).
            type: path
          all:
            description: Of V(built_in_database), the body of C(GET …/rules/all).
            type: path
      no_match:
        description: C(authorization.no_match).
        type: str
        choices: [allow, deny]
        required: true
  acl:
    description: Declared rights, as for M(hnai.platform.mqtt_health).
    type: list
    elements: dict
    default: []
    suboptions:
      principal:
        description: User name; its twin C(<name>.b) has the same rights.
        type: str
        required: true
      level:
        description: Purdue level.
        type: float
      hosts:
        description: Not used here.
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
  corners:
    description: Declared C(pattern) lines.
    type: list
    elements: dict
    default: [{access: readwrite, filter: "hnai-audit/%u/#"}]
    suboptions:
      access:
        description: V(read), V(write) or V(readwrite).
        type: str
        choices: [read, write, readwrite]
        required: true
      filter:
        description: Filter with C(%u) for the user name.
        type: str
        required: true
  clients:
    description: Identities that must be provisioned.
    type: list
    elements: str
    default: []
  lines:
    description: Identities at or below level 2; nobody else may publish to what they read, and they watch in the live test.
    type: list
    elements: str
    default: []
  control_identities:
    description: Identities that may command by declaration. They are listed, not accused, and not tried.
    type: list
    elements: str
    default: []
  exceptions:
    description:
      - What a person took responsibility for.
      - An expired exception excuses nothing and fails MA0.
    type: list
    elements: dict
    default: []
    suboptions:
      check:
        description: V(MA1) to V(MA8).
        type: str
        required: true
      identity:
        description: User name; C(*) within it is a wildcard.
        type: str
        required: true
      topic:
        description: Topic of the finding, C(*) is a wildcard.
        type: str
      owner:
        description: Who answers for it.
        type: str
        required: true
      reason:
        description: Why it may stay.
        type: str
        required: true
      expires:
        description: Last day, C(YYYY-MM-DD).
        type: str
        required: true
  live:
    description: Make the live test.
    type: bool
    default: false
  canary:
    description: Name of the level that makes a topic a canary; no plant uses it.
    type: str
    default: __canary__
  corner:
    description: First level of the corners.
    type: str
    default: hnai-audit
  environment:
    description: Stands in the record.
    type: str
    default: production
  source:
    description: Name of the broker in the record.
    type: str
    default: mosquitto
extends_documentation_fragment:
  - hnai.platform.mqtt
  - hnai.platform.verdict
attributes:
  check_mode:
    description: Reads the rules as ever, sends nothing.
    support: full
"""

EXAMPLES = r"""
- name: Can anybody command by MQTT?
  hnai.platform.mqtt_acl_audit:
    acl: "{{ lookup('hnai.platform.site') | hnai.platform.mosquitto_acl + mosquitto_extra_acl }}"
    clients: [hnai-health, line1]
    lines: [line1]
    live: true

- name: Judge the sources of an EMQX
  hnai.platform.mqtt_acl_audit:
    source: emqx
    emqx:
      no_match: deny
      sources:
        - {type: file, path: /etc/emqx/acl.conf}
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
  description: The verdict, the reason for it, and what was not tested. The whole record is raw evidence of MA0.
  returned: always
  type: dict
"""

import os
import secrets
import subprocess
import time
from datetime import datetime, timezone
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hnai.platform.plugins.module_utils.hostfiles import Host, HostError
from ansible_collections.hnai.platform.plugins.module_utils.mqtt import acl_emqx, acl_mosquitto
from ansible_collections.hnai.platform.plugins.module_utils.mqtt.access import MQTT_ARGS, Broker, active, settled
from ansible_collections.hnai.platform.plugins.module_utils.mqtt.acl_judge import Judge, Options, Sources, not_in_force
from ansible_collections.hnai.platform.plugins.module_utils.mqtt.acl_live import CannotTest, Live
from ansible_collections.hnai.platform.plugins.module_utils.mqtt.acl_model import Policy
from ansible_collections.hnai.platform.plugins.module_utils.opcua.audit_policy import PolicyError
from ansible_collections.hnai.platform.plugins.module_utils.verdict import VERDICT_ARGS, finish, start

PATTERNS = ["spBv1.0/+/NCMD/#", "spBv1.0/+/DCMD/#", "STATE/#", "spBv1.0/STATE/#"]


def arguments() -> dict[str, Any]:
    """The options."""
    filters = {"type": "list", "elements": "str", "default": []}
    text = {"type": "str", "required": True}
    return dict(
        VERDICT_ARGS,
        **MQTT_ARGS,
        patterns={"type": "list", "elements": "str", "default": PATTERNS},
        config={"type": "path", "default": "/etc/hnai/mosquitto/mosquitto.conf"},
        unit={"type": "str", "default": "hnai-mosquitto.service"},
        emqx={"type": "dict", "options": {
            "sources": {"type": "list", "elements": "dict", "required": True, "options": {
                "type": text, "path": {"type": "path"}, "clients": {"type": "path"}, "users": {"type": "path"}, "all": {"type": "path"}}},
            "no_match": {"type": "str", "choices": ["allow", "deny"], "required": True},
        }},
        acl={"type": "list", "elements": "dict", "default": [], "options": {
            "principal": text, "level": {"type": "float"}, "hosts": {"type": "dict", "default": {}}, "read": filters, "write": filters}},
        corners={"type": "list", "elements": "dict", "default": [{"access": "readwrite", "filter": "hnai-audit/%u/#"}], "options": {
            "access": {"type": "str", "choices": ["read", "write", "readwrite"], "required": True}, "filter": text}},
        clients=filters,
        lines=filters,
        control_identities=filters,
        exceptions={"type": "list", "elements": "dict", "default": [], "options": {
            "check": text, "identity": text, "topic": {"type": "str"}, "owner": text, "reason": text, "expires": text}},
        live={"type": "bool", "default": False},
        canary={"type": "str", "default": "__canary__"},
        corner={"type": "str", "default": "hnai-audit"},
        environment={"type": "str", "default": "production"},
        source={"type": "str", "default": "mosquitto"},
    )


def main() -> None:
    """Entry point."""
    module = AnsibleModule(argument_spec=arguments(), supports_check_mode=True)
    host = Host()
    params = settled(module.params, host)
    report = start(module, "mosquitto")
    broker = Broker(params, lambda: report.timeout(5), host)
    known: list[Policy] = []

    def text(path: str) -> str:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()

    def policy() -> Policy:
        if params["emqx"]:
            known.append(acl_emqx.load(params["emqx"]["sources"], params["emqx"]["no_match"], text, params["clients"]))
        else:
            known.append(acl_mosquitto.load(params["config"], text, params["clients"]))
        return known[-1]

    def loaded() -> str:
        if params["emqx"] or not params["unit"]:
            return ""
        shown = subprocess.run(["systemctl", "show", "--property=ActiveState,StateChangeTimestampMonotonic", params["unit"]], capture_output=True,
                               text=True, timeout=report.timeout(10), check=True).stdout
        return not_in_force(shown, {path: os.stat(path).st_mtime for path in known[-1].files}, params["unit"], time.time() - time.monotonic())

    def password(name: str) -> str:
        try:
            return broker.password(name)
        except HostError as error:
            raise CannotTest(str(error)) from error

    def live(patterns: Any) -> Live:
        lines = [active(name, params["credential"], host) for name in params["lines"]]
        return Live(broker.login, password, params["username"], lines, patterns, params["canary"], params["corner"],
                    "hnai-audit-" + secrets.token_hex(8))

    control = set(params["control_identities"])
    options = Options(
        patterns=params["patterns"], acl=params["acl"], corners=params["corners"], clients=[one for one in params["clients"] if one not in control],
        lines=params["lines"], control=params["control_identities"], exceptions=params["exceptions"], environment=params["environment"],
        witness=params["username"], canary=params["canary"], source=params["source"], live=params["live"],
        live_refused="nothing is sent in check mode" if module.check_mode else "",
    )
    now = datetime.now(timezone.utc)
    try:
        record = Judge(report, options, Sources(
            policy=policy, loaded=loaded, provisioned=lambda: known[-1].provisioned if known and not params["emqx"] else params["clients"], live=live,
            today=now.date(), at=now.isoformat(timespec="seconds"), scope={"broker": "%s:%d" % (params["host"], params["port"])},
        )).run()
    except PolicyError as error:
        module.fail_json(msg=str(error))
    finish(module, report, audit={key: record.get(key) for key in ("verdict", "reason", "not_tested")})


if __name__ == "__main__":
    main()
