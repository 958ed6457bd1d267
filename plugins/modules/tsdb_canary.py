#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
# Apache-2.0 goes together with Ansible's own licence, the GNU General Public License version 3.
"""End-to-end canary, judged on what lies in the store."""

from __future__ import annotations

DOCUMENTATION = r"""
module: tsdb_canary
short_description: Freshness and completeness of the data path, from the canaries that its sources number
version_added: "0.1.0"
author: hnai.platform maintainers (@hnai)
description:
  - A canary is born in the source and runs always; this module makes none and waits for none. It judges the last window.
  - CN1 the observer (unit C(hnai-canary), asks as an operator does) is alive.
    CN2 per source, P95 of the age that an operator saw.
    CN3 per source, loss and duplicates by the canary's own numbers, with the lower bound of completeness (if independent).
    CN4 per source, the longest silence.
  - The evidence of CN2 says where the time goes, hop by hop.
options:
  sources:
    description: Declared sources, as C(hnai_ot_sources); those with a C(canary) are judged.
    type: list
    elements: dict
    required: true
  observations:
    description: The ring that the observer writes; its older half has the suffix C(.1).
    type: path
    default: /var/lib/hnai/canary/observations.jsonl
  window:
    description: Seconds that are judged.
    type: float
    default: 120.0
  settle:
    description: Seconds before now that a sample may still be on its way; completeness is judged before that.
    type: float
    default: 10.0
  since:
    description: Nothing before this instant (unix seconds) is judged, as the time of the last restart.
    type: float
    default: 0.0
  freshness_p95:
    description: Most seconds that the P95 of the age may be.
    type: float
    default: 10.0
  min_observations:
    description: Fewer observations than this make CN2 V(inconclusive).
    type: int
    default: 120
  completeness:
    description: Least proportion of the numbers that must be there.
    type: float
    default: 0.999
  max_gap:
    description: Longest silence in seconds.
    type: float
    default: 10.0
extends_documentation_fragment:
  - hnai.platform.verdict
  - hnai.platform.tsdb
"""

EXAMPLES = r"""
- name: Check the data path end to end
  hnai.platform.tsdb_canary:
    url: https://data1:8428
    ca_file: /etc/hnai/canary/tls/ca.pem
    credential: {component: canary, name: dashboard}
    sources: "{{ hnai_ot_sources }}"
    freshness_p95: 10
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
window:
  description: What was judged.
  returned: always
  type: dict
  contains:
    start:
      description: First instant, unix seconds.
      type: float
      returned: always
    end:
      description: Last instant, unix seconds.
      type: float
      returned: always
    n:
      description: Observations of the operator's view in it.
      type: int
      returned: always
    full:
      description: Whether a whole window lies behind O(since) and every canary filled it.
      type: bool
      returned: always
"""

import contextlib
import time

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hnai.platform.plugins.module_utils.hostfiles import Host
from ansible_collections.hnai.platform.plugins.module_utils.tsdb.access import STORE_ARGS, connect
from ansible_collections.hnai.platform.plugins.module_utils.tsdb.canary import run
from ansible_collections.hnai.platform.plugins.module_utils.verdict import VERDICT_ARGS, finish, start


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec=dict(
            VERDICT_ARGS,
            **STORE_ARGS,
            sources={"type": "list", "elements": "dict", "required": True},
            observations={"type": "path", "default": "/var/lib/hnai/canary/observations.jsonl"},
            window={"type": "float", "default": 120.0},
            settle={"type": "float", "default": 10.0},
            since={"type": "float", "default": 0.0},
            freshness_p95={"type": "float", "default": 10.0},
            min_observations={"type": "int", "default": 120},
            completeness={"type": "float", "default": 0.999},
            max_gap={"type": "float", "default": 10.0},
        ),
        supports_check_mode=True,
    )
    params, host = module.params, Host()
    report = start(module, "canary")

    def read() -> list[str]:
        lines: list[str] = []
        for path in (params["observations"] + ".1", params["observations"]):
            with contextlib.suppress(FileNotFoundError), open(path, encoding="utf-8") as file:
                lines += file.readlines()
        return lines

    window = run(report, params, store=lambda: connect(params, lambda: report.timeout(10), host), read=read, now=time.time)
    finish(module, report, window=window)


if __name__ == "__main__":
    main()
