#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
# Apache-2.0 goes together with Ansible's own licence, the GNU General Public License version 3.
from __future__ import annotations

DOCUMENTATION = r"""
module: host_health
short_description: Health of a host
description:
  - HO1 units that failed or end again and again, and timers of ours that were stopped. HO2 units that wait for a restart. HO3 free disk and inodes, and
    file systems that turned read-only. HO4 time error against the site's source.
    HO5 kernel settings, HO6 those that this host cannot write. HO7 life of every certificate below C(/etc/hnai), HO8 age of every
    revocation list there. HO9 the audit daemon, where it can run. HO10 sandboxes of the units, where they are asked for.
    HO11 releases below C(/opt/hnai), which lie there as they were unpacked, with nothing beside them that somebody could load.
    HO12 what nobody declared and that decides who comes in, who becomes root or what runs (RV(hnai.platform.access_keys#module:foreign)).
  - What the collector knows of each OT source's clock is judged by M(hnai.platform.ot_collector_health), OC5.
options:
  sysctl:
    description: Kernel settings that must hold, key to value. One that this host cannot write is reported as skipped.
    type: dict
    default: {}
  min_free_percent:
    description: Free space below C(/var/lib) that is enough, in percent.
    type: float
    default: 10.0
  max_time_error:
    description: Largest worst-case clock error in seconds.
    type: float
    default: 0.1
  time_sources:
    description: Names and addresses of the site's time source. Empty on the source itself.
    type: list
    elements: str
    default: []
  certificates:
    description: Certificates that must be there. Others that are found below C(/etc/hnai) are judged too.
    type: list
    elements: path
    default: []
  min_certificate_days:
    description: Days that every certificate must still be valid.
    type: float
    default: 14.0
  audit_rules:
    description: File of the audit rules that must be loaded. Without one the audit daemon is not judged.
    type: path
    default: ""
  exposure:
    description: Worst score of C(systemd-analyze security) by unit. It takes a third of a second a unit, so only a full verdict asks.
    type: dict
    default: {}
  user:
    description: Whom runs log in as.
    type: str
    default: ""
  operators:
    description: Names of the declared operators.
    type: list
    elements: str
    default: []
  authorities:
    description: Certificates (PEM) that sign for the site. HO12 names any other that a component's C(ca.pem) holds; nothing is said where it is empty.
    type: str
    default: ""
  foreign_ignore:
    description: Globs over what HO12 would name, for what the site wants so.
    type: list
    elements: str
    default: []
extends_documentation_fragment: hnai.platform.verdict
author: hnai.platform maintainers (@hnai)
"""

EXAMPLES = r"""
- name: Check the host
  hnai.platform.host_health:
    sysctl: {net.ipv4.tcp_syncookies: "1"}
  register: health
"""

RETURN = r"""
status:
  description: pass, fail, inconclusive or skipped.
  returned: always
  type: str
checks:
  description: One entry a check.
  returned: always
  type: list
  elements: dict
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hnai.platform.plugins.module_utils.host.health import Wanted, check_all
from ansible_collections.hnai.platform.plugins.module_utils.host.strangers import declared
from ansible_collections.hnai.platform.plugins.module_utils.verdict import VERDICT_ARGS, finish, start


def main() -> None:
    """Arguments, one call, result."""
    module = AnsibleModule(
        argument_spec=dict(
            VERDICT_ARGS,
            sysctl=dict(type="dict", default={}),
            min_free_percent=dict(type="float", default=10.0),
            max_time_error=dict(type="float", default=0.1),
            time_sources=dict(type="list", elements="str", default=[]),
            certificates=dict(type="list", elements="path", default=[]),
            min_certificate_days=dict(type="float", default=14.0),
            audit_rules=dict(type="path", default=""),
            exposure=dict(type="dict", default={}),
            user=dict(type="str", default=""),
            operators=dict(type="list", elements="str", default=[]),
            authorities=dict(type="str", default=""),
            foreign_ignore=dict(type="list", elements="str", default=[]),
        ),
        supports_check_mode=True,
    )
    report = start(module, "host")
    given = module.params
    check_all(report, Wanted(
        sysctl=given["sysctl"], min_free_percent=given["min_free_percent"], max_time_error_s=given["max_time_error"],
        time_sources=given["time_sources"], certificates=given["certificates"], min_certificate_days=given["min_certificate_days"],
        audit_rules=given["audit_rules"], exposure={unit: float(limit) for unit, limit in given["exposure"].items()},
        declared=declared(given),
    ))
    finish(module, report)


if __name__ == "__main__":
    main()
