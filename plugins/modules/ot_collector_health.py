#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
# Apache-2.0 goes together with Ansible's own licence, the GNU General Public License version 3.
"""Health of the OT collector."""

from __future__ import annotations

DOCUMENTATION = r"""
module: ot_collector_health
short_description: Whether the collector hears every source of the plant
version_added: "0.1.0"
author: hnai.platform maintainers (@hnai)
description:
  - Judges the status that the running collector writes every second. Opens no connection to a source, so it costs the plant nothing.
  - OC0 the collector runs. OC7 nothing was dropped before the pipe to Telegraf.
  - Per source, OC1 it is connected, OC2 heard of late, OC3 every declared tag can be read (the others are named), OC4 no gap of late, and for
    OPC UA OC5 the server's clock agrees, OC6 the identity is not locked out, OC8 the server's queues are as long as declared, OC14 the last audit
    of it said that the mirror cannot write.
  - Per Sparkplug B edge node, OC9 its births are known, OC10 every alias is explained by one (otherwise V(inconclusive)), OC11 no message was
    missed, OC12 node and devices live, OC13 messages are read soon.
options:
  status_file:
    description: Where the collector writes its status.
    type: path
    default: /run/hnai/ot_collector/collector.status.json
  sources:
    description: Ids of the sources that this host must read.
    type: list
    elements: str
    required: true
  max_age:
    description: Most seconds since a source was last heard. A subscription that is alive answers at least once per keep-alive.
    type: float
    default: 15.0
  max_clock_offset:
    description: Most seconds that a server's clock may differ from this host's.
    type: float
    default: 2.0
  max_lag:
    description: Most seconds from a message of a Sparkplug B edge node to its being read.
    type: float
    default: 10.0
  gap_window:
    description: Seconds to look back for gaps. A gap because the collector itself was restarted does not count, an open one always does.
    type: float
    default: 60.0
  audited:
    description: Ids of the OPC UA sources, of whose last audit (M(hnai.platform.opcua_audit)) OC14 speaks.
    type: list
    elements: str
    default: []
  audit_max_age:
    description: Most seconds since the last audit of a source, V(0) for any age.
    type: float
    default: 0.0
  audit_state:
    description: Where the audit keeps its last records.
    type: path
    default: /var/lib/hnai/ot_audit
extends_documentation_fragment:
  - hnai.platform.verdict
  - hnai.platform.reading
"""

EXAMPLES = r"""
- name: Check the collector
  hnai.platform.ot_collector_health:
    sources: [plc1, sep1]
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

import gzip
import json
import time
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hnai.platform.plugins.module_utils.opcua.collector import StatusError, decode, judge, judge_audits
from ansible_collections.hnai.platform.plugins.module_utils.verdict import VERDICT_ARGS, finish, start


def last_audit(path: Path) -> dict[str, Any] | None:
    """The record of the last audit, None where there is none; one that is broken says nothing."""
    try:
        record = json.loads(gzip.decompress(path.read_bytes()))
        return record if isinstance(record, dict) and "verdict" in record else {"verdict": "inconclusive", "reason": f"{path} is no record"}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, EOFError) as error:
        return {"verdict": "inconclusive", "reason": f"{path}: {error}"}


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec=dict(
            VERDICT_ARGS,
            status_file={"type": "path", "default": "/run/hnai/ot_collector/collector.status.json"},
            sources={"type": "list", "elements": "str", "required": True},
            max_age={"type": "float", "default": 15.0},
            max_clock_offset={"type": "float", "default": 2.0},
            max_lag={"type": "float", "default": 10.0},
            gap_window={"type": "float", "default": 60.0},
            audited={"type": "list", "elements": "str", "default": []},
            audit_max_age={"type": "float", "default": 0.0},
            audit_state={"type": "path", "default": "/var/lib/hnai/ot_audit"},
        ),
        supports_check_mode=True,
    )
    params = module.params
    status, problem = None, ""
    try:
        status = decode(Path(params["status_file"]).read_text(encoding="utf-8"), params["status_file"])
    except FileNotFoundError:
        problem = "%s is missing: the collector has not run since this host started" % params["status_file"]
    except (OSError, StatusError) as error:
        problem = str(error)
    report = start(module, "ot_collector", str((status or {}).get("version", "")))
    judge(
        report, status, problem, time.time_ns() // 100, params["sources"], params["max_age"], params["max_clock_offset"],
        params["gap_window"], params["max_lag"],
    )
    records = {name: last_audit(Path(params["audit_state"], name, "last.json.gz")) for name in params["audited"]}
    judge_audits(report, records, time.time(), params["audit_max_age"])
    finish(module, report)


if __name__ == "__main__":
    main()
