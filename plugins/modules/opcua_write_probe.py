#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
# Apache-2.0 goes together with Ansible's own licence, the GNU General Public License version 3.
"""Probe of OPC UA servers: does the server refuse the mirror's write?"""

from __future__ import annotations

DOCUMENTATION = r"""
module: opcua_write_probe
short_description: Whether an OPC UA server refuses to let the mirror's identity write
version_added: "0.1.0"
author: hnai.platform maintainers (@hnai)
description:
  - Class intrusive, wholly. Without a valid token for the endpoint, and in check mode, not one packet is sent and every check is V(skipped), not
    authorised. Runs on the collector's host with the collector's certificate, user and password, as M(hnai.platform.opcua_audit).
  - Mode V(canary). A node is the canary only if it lies at the declared path, alone, is a Variable outside the standard's namespace, and has the property
    C(HnaiWriteCanary) with the declared marker. The commissioning identity writes it, reads it back and puts the old value back. Only then the mirror
    tries once to write it. The value is put back in every case. Before the first write a note says what to put back; a run that was killed is finished
    by the next one, first.
  - Mode V(service). One request with an empty array for each of Write, Call, HistoryUpdate, AddNodes, AddReferences, DeleteNodes and DeleteReferences.
  - The client refuses to serialise any other request that changes something, whoever asks for it.
  - Per source, OW0 is the verdict, one of V(refuted), V(claimed), V(enforced), V(proven) and V(inconclusive). OW1 the node is a canary, OW2 positive
    control, OW3 the mirror's write is refused, OW4 the value is as before, OW5 the canary's rights are those of the tags, OW6 the services do not exist.
options:
  sources:
    description: Entries of C(hnai_ot_sources). Others than C(protocol) V(opcua) are left out.
    type: list
    elements: dict
    required: true
  application_uri:
    description: ApplicationUri of the collector's certificate.
    type: str
    required: true
  mode:
    description: What is sent.
    type: str
    choices: [service, canary]
    required: true
  canaries:
    description:
      - The canary of each source, by its id, a dictionary with C(path) (steps from the Objects folder, each C(nsu=URI;Name)), C(marker), and
        C(username) of the commissioning identity.
      - Its password is the credential C(opcua_<source>_commissioning) of component C(ot_audit) on this host.
    type: dict
    default: {}
  environment:
    description: Stands in the record of each verdict, as V(lab).
    type: str
    default: production
  state_dir:
    description: Where the note of an unfinished attempt and the used tokens are kept (root only).
    type: path
    default: /var/lib/hnai/ot_audit
  probe_env:
    description: Virtual environment with asyncua.
    type: path
    default: /opt/hnai/probe/current
extends_documentation_fragment:
  - hnai.platform.intrusive
  - hnai.platform.verdict
attributes:
  check_mode:
    description: Sends nothing in check mode.
    support: full
"""

EXAMPLES = r"""
- name: Does the server refuse the mirror's write?
  hnai.platform.opcua_write_probe:
    mode: canary
    sources: "{{ hnai_ot_sources }}"
    application_uri: "urn:hnai:{{ hnai_site }}:{{ inventory_hostname }}:ot_collector"
    canaries:
      plc1:
        path: ["nsu=urn:vendor:plant;Commissioning", "nsu=urn:vendor:plant;WriteCanary"]
        marker: write canary of plc1
        username: commissioning
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
endpoints:
  description: Per source the verdict, the reason for it, and what was not tested. The whole record is raw evidence of OW0.
  returned: always
  type: dict
"""

import contextlib
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hnai.platform.plugins.module_utils.hostfiles import Host
from ansible_collections.hnai.platform.plugins.module_utils.intrusive import TOKEN_OPTIONS, ssh_verify
from ansible_collections.hnai.platform.plugins.module_utils.opcua.audit_host import Options, Places
from ansible_collections.hnai.platform.plugins.module_utils.opcua.write_host import Leave, Probe
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
            mode={"type": "str", "choices": ["service", "canary"], "required": True},
            canaries={"type": "dict", "default": {}},
            environment={"type": "str", "default": "production"},
            state_dir={"type": "path", "default": "/var/lib/hnai/ot_audit"},
            probe_env={"type": "path", "default": "/opt/hnai/probe/current"},
        ),
        supports_check_mode=True,
    )
    params = module.params
    # The core says per source what is missing, an absent environment too.
    with contextlib.suppress(ProbeMissing):
        activate(Path(params["probe_env"]))
    # No alarm may fall between a write and the value's way back: each call has its own deadline.
    report = Report("ot_collector", version="1", deadline_s=None)
    options = Options(application_uri=params["application_uri"], environment=params["environment"], exceptions=[], accept_drift=[],
                      deadline_s=params["deadline"], write_state=not module.check_mode)
    leave = Leave(mode=params["mode"], site=params["site"], tokens=params["tokens"], approvers=params["approvers"], canaries=params["canaries"],
                  check_mode=module.check_mode)
    host = Host()
    records = Probe(report, Places(state=Path(params["state_dir"])), options, leave, host, ssh_verify(host)).run(params["sources"])
    if not records:
        report.skip("OW0", "the mirror's write is refused by the server", "no OPC UA source is declared")
    finish(module, report, endpoints={
        name: {key: record[key] for key in ("verdict", "reason", "not_tested")} for name, record in records.items()
    })


if __name__ == "__main__":
    main()
