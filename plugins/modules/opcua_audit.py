#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
# Apache-2.0 goes together with Ansible's own licence, the GNU General Public License version 3.
"""Audit of OPC UA servers: can the mirror write?"""

from __future__ import annotations

DOCUMENTATION = r"""
module: opcua_audit
short_description: Whether the mirror's identity could change anything at an OPC UA server
version_added: "0.1.0"
author: hnai.platform maintainers (@hnai)
description:
  - Runs on the collector's host with the collector's certificate, key, user and password, which stay there. From anywhere else the answer would
    be another one, so it is V(inconclusive) there.
  - Opens one connection with one session per source, visits every node and reads its security attributes. It never sends Write, Call,
    HistoryUpdate, AddNodes, AddReferences, DeleteNodes or DeleteReferences, empty or not; its client refuses to serialise them. The session is
    closed in every case. There is never a second login try.
  - 21 checks per source, OA1 to OA21, and the verdict OA0, one of V(refuted), V(claimed), V(enforced), V(proven) and V(inconclusive). This module
    reaches V(claimed) at most.
  - OA4 and OA5 are intrusive, one anonymous login and one session with a throw-away certificate that should both be refused. They are tried once each,
    after the audit's own session, under a token for the endpoint; without one, and in check mode, they are V(skipped), not authorised. The throw-away
    certificate may leave an entry in the server's list of rejected ones.
  - Before it dials it asks what the host knows. It refuses when the collector is not connected, and when the conduit has no connection free.
  - Obeys OperationLimits, MaxBrowseContinuationPoints and a budget of operations per second. It backs off once when the server slows down or says
    that it is busy, and stops V(inconclusive) the second time. A stopped audit goes on where it was in the next run.
options:
  sources:
    description:
      - Entries of C(hnai_ot_sources). Others than C(protocol) V(opcua) are left out.
      - C(limits.connections) and C(limits.new_per_minute) are those of the conduit.
      - With C(on_refuted) V(stop) a verdict V(refuted) leaves a mark in O(state_dir), by which the next run of site.yml takes the source out of the
        collector's configuration. V(go_on) is the default.
      - C(audit) says how gently, with C(per_second) operations (ReadValueIds, Browse descriptions, continuation points; default V(50)),
        C(in_flight) requests (V(1)), C(batch) operations in one request (V(1000)), C(latency_floor_ms) below which a slower answer is no alarm
        (V(20)), C(deadline_s).
    type: list
    elements: dict
    required: true
  application_uri:
    description: ApplicationUri of the collector's certificate.
    type: str
    required: true
  environment:
    description: Stands in the record of each verdict, as V(lab).
    type: str
    default: production
  exceptions:
    description:
      - What a person took responsibility for.
      - An expired exception excuses nothing and fails OA0.
    type: list
    elements: dict
    default: []
    suboptions:
      check:
        description: Id of the check, V(OA1) to V(OA21).
        type: str
        required: true
      source:
        description: Id of the source.
        type: str
        required: true
      node:
        description: For OA8 to OA12, the node in the form C(nsu=URI;s=Id) or C(i=number), C(*) is a wildcard. Absent, the check as a whole is meant.
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
  accept_drift:
    description: Ids of sources whose address space of today becomes the accepted one.
    type: list
    elements: str
    default: []
  unread:
    description:
      - The sources are about to be deployed, so one that the running collector does not read yet, or a collector that does not run, is no reason
        to refuse. The conduit's limits hold all the same.
    type: bool
    default: false
  state_dir:
    description: Where the accepted address space, the last record and an unfinished audit are kept (root only). Not written in check mode.
    type: path
    default: /var/lib/hnai/ot_audit
  probe_env:
    description: Virtual environment with asyncua.
    type: path
    default: /opt/hnai/probe/current
extends_documentation_fragment:
  - hnai.platform.verdict
  - hnai.platform.intrusive
  - hnai.platform.reading
"""

EXAMPLES = r"""
- name: Audit the plant's servers
  hnai.platform.opcua_audit:
    sources: "{{ hnai_ot_sources }}"
    application_uri: "urn:hnai:{{ hnai_site }}:{{ inventory_hostname }}:ot_collector"
    deadline: 3600
    exceptions:
      - check: OA16
        source: plc1
        owner: well pad operations
        reason: the controller's firmware cannot audit; the conduit's log stands in
        expires: "2027-06-30"
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
endpoints:
  description: Per source the verdict, the reason for it, and what was not tested. The whole record is raw evidence of OA0.
  returned: always
  type: dict
"""

import contextlib
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hnai.platform.plugins.module_utils.hostfiles import Host
from ansible_collections.hnai.platform.plugins.module_utils.intrusive import TOKEN_OPTIONS
from ansible_collections.hnai.platform.plugins.module_utils.opcua.audit_host import Audit, Options, Places
from ansible_collections.hnai.platform.plugins.module_utils.opcua.audit_policy import PolicyError
from ansible_collections.hnai.platform.plugins.module_utils.probe_env import ProbeMissing, activate
from ansible_collections.hnai.platform.plugins.module_utils.verdict import VERDICT_ARGS, Report, finish


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec=dict(
            VERDICT_ARGS,
            **TOKEN_OPTIONS,
            sources={"type": "list", "elements": "dict", "required": True},
            application_uri={"type": "str", "required": True},
            environment={"type": "str", "default": "production"},
            exceptions={"type": "list", "elements": "dict", "default": [], "options": {
                "check": {"type": "str", "required": True}, "source": {"type": "str", "required": True}, "node": {"type": "str"},
                "owner": {"type": "str", "required": True}, "reason": {"type": "str", "required": True}, "expires": {"type": "str", "required": True},
            }},
            accept_drift={"type": "list", "elements": "str", "default": []},
            unread={"type": "bool", "default": False},
            state_dir={"type": "path", "default": "/var/lib/hnai/ot_audit"},
            probe_env={"type": "path", "default": "/opt/hnai/probe/current"},
        ),
        supports_check_mode=True,
    )
    params = module.params
    # The core says per source what is missing, an absent environment too.
    with contextlib.suppress(ProbeMissing):
        activate(Path(params["probe_env"]))
    # The deadline is the audit's own: judging what was gathered takes no time of the server.
    report = Report("ot_collector", version="1", deadline_s=None)
    options = Options(
        application_uri=params["application_uri"], environment=params["environment"], exceptions=params["exceptions"],
        accept_drift=params["accept_drift"], deadline_s=params["deadline"], write_state=not module.check_mode,
        site=params["site"], tokens=params["tokens"], approvers=params["approvers"],
        unread=params["unread"],
    )
    try:
        records = Audit(report, Places(state=Path(params["state_dir"])), options, Host()).run(params["sources"])
    except PolicyError as error:
        module.fail_json(msg=str(error))
    if not records:
        report.skip("OA0", "the mirror cannot write", "no OPC UA source is declared")
    finish(module, report, endpoints={
        name: {key: record[key] for key in ("verdict", "reason", "not_tested")} for name, record in records.items()
    })


if __name__ == "__main__":
    main()
