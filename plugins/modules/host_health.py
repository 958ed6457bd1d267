#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

DOCUMENTATION = r"""
module: host_health
short_description: Health of a host
description:
  - Failed units, units that wait for a restart, free disk, time error against the site's source, kernel settings.
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

from ansible_collections.hnai.platform.plugins.module_utils.host.health import check_all
from ansible_collections.hnai.platform.plugins.module_utils.verdict import VERDICT_ARGS, Report, finish


def main() -> None:
    """Arguments, one call, result."""
    module = AnsibleModule(
        argument_spec=dict(
            VERDICT_ARGS,
            sysctl=dict(type="dict", default={}),
            min_free_percent=dict(type="float", default=10.0),
            max_time_error=dict(type="float", default=0.1),
        ),
        supports_check_mode=True,
    )
    report = Report("host", "", module.params["deadline"])
    check_all(report, module.params["sysctl"], module.params["min_free_percent"], module.params["max_time_error"])
    finish(module, report)


if __name__ == "__main__":
    main()
