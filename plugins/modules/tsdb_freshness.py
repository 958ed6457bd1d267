#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
# Apache-2.0 goes together with Ansible's own licence, the GNU General Public License version 3.
"""Freshness of every declared tag."""

from __future__ import annotations

DOCUMENTATION = r"""
module: tsdb_freshness
short_description: Whether every declared tag is fresh in the time-series store
version_added: "0.1.0"
author: hnai.platform maintainers (@hnai)
description:
  - Compares the declared tags (C(hnai_ot_sources)) with what the store holds.
    A tag of which nothing is found is stale, not absent.
  - FR1 is what is stored (C(nocache=1), no latency offset), FR2 what an operator's query shows with the deployed flags,
    both per source.
    A cyclic tag is as old as its newest status, a tag that is read on change as its newest observation.
  - FR3 is the same of QuestDB, where what is stored and what is shown are one.
  - Judges what lies there and never waits for samples.
options:
  backend:
    description: Which store it is.
    type: str
    choices: [victoriametrics, questdb]
    default: victoriametrics
  table:
    description: QuestDB, table of the records.
    type: str
    default: ot
  sources:
    description: Declared sources and tags, as C(hnai_ot_sources).
    type: list
    elements: dict
    required: true
  cyclic_max_age:
    description: Most seconds since the newest sample of a cyclic tag.
    type: float
    default: 60.0
  on_change_max_age:
    description: Most seconds since the newest observation of a tag that is read on change (it is repeated every 60 s).
    type: float
    default: 150.0
extends_documentation_fragment:
  - hnai.platform.verdict
  - hnai.platform.tsdb
"""

EXAMPLES = r"""
- name: Check every tag
  hnai.platform.tsdb_freshness:
    url: https://data1:8428
    ca_file: /etc/hnai/canary/tls/ca.pem
    credential: {component: canary, name: dashboard}
    sources: "{{ hnai_ot_sources }}"
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
"""

import time

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hnai.platform.plugins.module_utils.hostfiles import Host
from ansible_collections.hnai.platform.plugins.module_utils.tsdb.access import STORE_ARGS, connect
from ansible_collections.hnai.platform.plugins.module_utils.tsdb.freshness import run, run_questdb
from ansible_collections.hnai.platform.plugins.module_utils.verdict import VERDICT_ARGS, finish, start


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec=dict(
            VERDICT_ARGS,
            **STORE_ARGS,
            backend={"type": "str", "choices": ["victoriametrics", "questdb"], "default": "victoriametrics"},
            table={"type": "str", "default": "ot"},
            sources={"type": "list", "elements": "dict", "required": True},
            cyclic_max_age={"type": "float", "default": 60.0},
            on_change_max_age={"type": "float", "default": 150.0},
        ),
        supports_check_mode=True,
    )
    params, host = module.params, Host()
    sql = params["backend"] == "questdb"
    report = start(module, "questdb" if sql else "canary")
    (run_questdb if sql else run)(report, params, store=lambda: connect(params, lambda: report.timeout(10), host), now=time.time)
    finish(module, report)


if __name__ == "__main__":
    main()
