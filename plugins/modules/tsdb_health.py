#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
# Apache-2.0 goes together with Ansible's own licence, the GNU General Public License version 3.
"""Health of the time-series store."""

from __future__ import annotations

DOCUMENTATION = r"""
module: tsdb_health
short_description: Whether the time-series store answers, keeps what it should and refuses whom it should
version_added: "0.1.0"
author: hnai.platform maintainers (@hnai)
description:
  - Runs on the store's host. Asks the public listener as its clients do, and VictoriaMetrics on loopback for its flags and counters.
  - VictoriaMetrics. VM1 a query is answered over TLS. VM2 the running retention is the declared one.
    VM3 the flags that the data path needs are set.
    VM4 there is room on the disk.
    VM5 the public listener refuses an anonymous client, a wrong password (once) and a write by a reader.
    VM6 the store threw no row away.
    VM7 the store takes writes.
    VM8 samples arrive.
    VM9 answers are whole, not partial.
  - QuestDB. QD1 a query is answered over TLS. QD2 the running retention is the declared one.
    QD3 a record that comes twice is one row.
    QD4 no table is suspended or falls behind its log.
    QD5 there is room on the disk.
    QD6 strangers get nothing, and a reader nothing but one SELECT.
    QD7 rows arrive.
  - A store that accepts and never answers is V(inconclusive) within O(deadline).
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
  wal_lag_max:
    description: QuestDB, most transactions that the table may be behind its log.
    type: int
    default: 100
  ingest_window:
    description: Seconds before now of which something must have arrived.
    type: float
    default: 60.0
  backend_url:
    description: Address of the store itself on loopback.
    type: str
    default: http://127.0.0.1:8429
  backend_username:
    description: Identity on loopback.
    type: str
    default: vmauth
  backend_credential:
    description: Where the password of O(backend_username) lies on this host. VictoriaMetrics needs it.
    type: dict
    suboptions:
      component:
        description: Component that owns the credential.
        type: str
        required: true
      name:
        description: Name of the credential.
        type: str
        required: true
  retention:
    description: Declared retention, as C(31d).
    type: str
    required: true
  storage_path:
    description: Directory of the data.
    type: path
    default: /var/lib/hnai/victoriametrics
  min_free_mib:
    description: VictoriaMetrics refuses data below this, and the check fails at twice as much; for QuestDB it fails below this.
    type: int
    default: 512
  memory_flush:
    description: VictoriaMetrics, after how long it writes what it keeps in memory; part of what a kill of it loses.
    type: str
    default: 2s
  latency_offset_max:
    description: Most seconds that a stored sample may stay hidden from queries.
    type: float
    default: 1.0
extends_documentation_fragment:
  - hnai.platform.verdict
  - hnai.platform.tsdb
"""

EXAMPLES = r"""
- name: Check the store
  hnai.platform.tsdb_health:
    url: https://localhost:8428
    ca_file: /etc/hnai/victoriametrics/tls/ca.pem
    credential: {component: victoriametrics, name: dashboard}
    backend_credential: {component: victoriametrics, name: backend}
    retention: 31d

- name: Check the store with SQL
  hnai.platform.tsdb_health:
    backend: questdb
    url: https://localhost:9000
    ca_file: /etc/hnai/questdb/tls/ca.pem
    username: reader
    credential: {component: questdb, name: reader}
    storage_path: /var/lib/hnai/questdb
    retention: 31d
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

import os

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hnai.platform.plugins.module_utils.hostfiles import Host
from ansible_collections.hnai.platform.plugins.module_utils.tsdb.access import STORE_ARGS, connect
from ansible_collections.hnai.platform.plugins.module_utils.tsdb.client import Http, Store
from ansible_collections.hnai.platform.plugins.module_utils.tsdb.health import run
from ansible_collections.hnai.platform.plugins.module_utils.tsdb.questdb import run as run_questdb
from ansible_collections.hnai.platform.plugins.module_utils.verdict import VERDICT_ARGS, finish, start


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec=dict(
            VERDICT_ARGS,
            **STORE_ARGS,
            backend={"type": "str", "choices": ["victoriametrics", "questdb"], "default": "victoriametrics"},
            table={"type": "str", "default": "ot"},
            wal_lag_max={"type": "int", "default": 100},
            ingest_window={"type": "float", "default": 60.0},
            backend_url={"type": "str", "default": "http://127.0.0.1:8429"},
            backend_username={"type": "str", "default": "vmauth"},
            backend_credential=dict(STORE_ARGS["credential"], required=False),
            retention={"type": "str", "required": True},
            storage_path={"type": "path", "default": "/var/lib/hnai/victoriametrics"},
            min_free_mib={"type": "int", "default": 512},
            memory_flush={"type": "str", "default": "2s"},
            latency_offset_max={"type": "float", "default": 1.0},
        ),
        required_if=[("backend", "victoriametrics", ("backend_credential",))],
        supports_check_mode=True,
    )
    params, host = module.params, Host()
    report = start(module, params["backend"])

    def timeout() -> float:
        return report.timeout(10)

    def backend() -> Store:
        return connect(
            {"url": params["backend_url"], "username": params["backend_username"], "credential": params["backend_credential"]},
            timeout,
            host,
        )

    def free_mib() -> float:
        info = os.statvfs(params["storage_path"])
        return info.f_bavail * info.f_frsize / 1048576.0

    def reader() -> Store:
        return connect(params, timeout, host)

    transport = Http(params["url"], params["ca_file"])
    strangers = {
        "anonymous": lambda: Store(transport, timeout=timeout),
        "impostor": lambda: Store(transport, params["username"], "not-the-password", timeout),
    }
    if params["backend"] == "questdb":
        run_questdb(report, params, reader, free_mib=free_mib, **strangers)
    else:
        run(report, params, reader, backend, local=lambda: Store(Http(params["backend_url"]), timeout=timeout), free_mib=free_mib, **strangers)
    finish(module, report)


if __name__ == "__main__":
    main()
