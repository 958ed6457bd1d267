#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
# Apache-2.0 goes together with Ansible's own licence, the GNU General Public License version 3.
"""Changes the collector's OPC UA application certificate without losing a server."""

from __future__ import annotations

DOCUMENTATION = r"""
module: opcua_trust
short_description: Change the collector's OPC UA application certificate, once every server has accepted the new one
version_added: "0.1.0"
author: hnai.platform maintainers (@hnai)
description:
  - Plants trust a certificate by its thumbprint. So the old one stays in use until every server has accepted the new one, in a short session of its own
    (C(hnai-trust/<source>)) with the collector's user. Keys are made on the host and never leave it.
  - O(state=prepared) makes a key and a request when a new certificate is due. It is due when the one in use is not signed by the site's CA (O(root)), does not
    fit, or has less than O(renew_before_days) left.
  - O(state=signed) keeps what the CA signed as the candidate, after checking it against key, ApplicationUri, usages and root.
  - O(state=switched) asks each server whose owner has stated that it trusts the candidate's thumbprint, once. A server that refused is not asked
    again until it stands in O(again). When all have accepted, the new pair takes the old one's place in one rename. Otherwise nothing changes.
  - O(state=reverted) puts the pair before the last change back, as long as its removal from the trust lists was not confirmed everywhere.
  - A run that was killed anywhere is simply run again.
options:
  state:
    description: Which step.
    type: str
    choices: [prepared, signed, switched, reverted]
    required: true
  application_uri:
    description: ApplicationUri of the collector's certificate.
    type: str
    required: true
  common_name:
    description: Common name, and one of the DNS names.
    type: str
    required: true
  dns:
    description: Further DNS names.
    type: list
    elements: str
    default: []
  ips:
    description: IP addresses.
    type: list
    elements: str
    default: []
  root:
    description:
      - Root certificates of the site's CA, PEM, with O(state=prepared) and O(state=signed).
      - Empty with O(state=prepared), the new certificate is self-signed. It is due when the one in use does not fit or grows old, and the candidate at once.
    type: str
    default: ""
  force:
    description: With O(state=prepared), a new certificate is wanted, due or not.
    type: bool
    default: false
  renew_before_days:
    description: With less life left, a new certificate is due. It must leave the owners of all servers time.
    type: float
    default: 120.0
  certificate:
    description: With O(state=signed), the leaf (PEM).
    type: str
  chain:
    description: With O(state=signed), the intermediates (PEM).
    type: list
    elements: str
    default: []
  sources:
    description: With O(state=switched), entries of C(hnai_ot_sources); every one of C(protocol) V(opcua) must accept.
    type: list
    elements: dict
    default: []
  again:
    description: Ids of servers that refused the candidate and are to be asked once more.
    type: list
    elements: str
    default: []
  probe_env:
    description: Virtual environment with asyncua.
    type: path
    default: /opt/hnai/probe/current
extends_documentation_fragment: hnai.platform.opcua_trust
attributes:
  check_mode:
    description: Says the plan; nothing is made and nobody is asked.
    support: full
"""

EXAMPLES = r"""
- name: Switch when every server has accepted
  hnai.platform.opcua_trust:
    state: switched
    application_uri: "urn:hnai:{{ hnai_site }}:{{ inventory_hostname }}:ot_collector"
    common_name: "{{ inventory_hostname }}"
    sources: "{{ hnai_ot_sources }}"
    statements:
      - {source: plc1, thumbprint: "3F:…", state: trusted, by: A. Engineer, date: "2026-11-20"}
"""

RETURN = r"""
trust:
  description: >-
    C(phase) (V(current) or V(candidate)), C(plan), C(csr), C(in_use) and C(candidate) (C(sha1), C(sha256), C(subject), C(issuer), C(not_after), C(pem)),
    C(accepted) (ids), C(waiting) (C(source), C(why)), C(switched), C(restart_due) (the running collector began before the change), C(removals) (C(source),
    C(thumbprint), C(since), C(by), C(date); empty C(by) is open).
  returned: success
  type: dict
"""

import contextlib
import time
from datetime import datetime, timezone
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hnai.platform.plugins.module_utils.hostfiles import Host, HostError
from ansible_collections.hnai.platform.plugins.module_utils.opcua.audit_host import Options, Places, sources_of
from ansible_collections.hnai.platform.plugins.module_utils.opcua.audit_types import NO_ASYNCUA, AuditError
from ansible_collections.hnai.platform.plugins.module_utils.opcua.trust import DAY_S, STATEMENT_ARGS, Crypto, Trust, TrustError, Wanted, statements
from ansible_collections.hnai.platform.plugins.module_utils.opcua.trust_host import Dialler
from ansible_collections.hnai.platform.plugins.module_utils.probe_env import ProbeMissing, activate
from ansible_collections.hnai.platform.plugins.module_utils.verdict import Report


def main() -> None:
    """Entry point."""
    names = {"type": "list", "elements": "str", "default": []}
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["prepared", "signed", "switched", "reverted"], "required": True},
            "application_uri": {"type": "str", "required": True},
            "common_name": {"type": "str", "required": True},
            "dns": names,
            "ips": names,
            "root": {"type": "str", "default": ""},
            "force": {"type": "bool", "default": False},
            "renew_before_days": {"type": "float", "default": 120.0},
            "certificate": {"type": "str"},
            "chain": names,
            "sources": {"type": "list", "elements": "dict", "default": []},
            "statements": STATEMENT_ARGS,
            "again": names,
            "probe_env": {"type": "path", "default": "/opt/hnai/probe/current"},
        },
        required_if=[("state", "signed", ("certificate", "root"))],
        supports_check_mode=True,
    )
    given = module.params
    # The next line says what is missing.
    with contextlib.suppress(ProbeMissing):
        activate(Path(given["probe_env"]))
    host, crypto = Host(), Crypto()
    if crypto.missing:
        module.fail_json(msg=NO_ASYNCUA % crypto.missing)
    wanted = Wanted(
        given["application_uri"], given["common_name"], (given["common_name"], *given["dns"]), tuple(given["ips"]),
        renew_before_s=given["renew_before_days"] * DAY_S,
    )
    options = Options(given["application_uri"], "", [], [], 600.0, not module.check_mode)
    dialler = Dialler(Report("ot_collector", deadline_s=None), Places(), options, host)
    sources = {str(one["id"]): one for one in sources_of(given["sources"])}
    try:
        said = statements(given["statements"], datetime.now(timezone.utc).date())
        trust = Trust(host, wanted, crypto, time.time, module.check_mode, dialler.started())
        with contextlib.nullcontext() if module.check_mode else host.lock("opcua_trust"):
            if given["state"] == "prepared":
                outcome = trust.prepare(given["root"], given["force"])
            elif given["state"] == "signed":
                outcome = trust.install(given["certificate"], given["chain"], given["root"])
            elif given["state"] == "reverted":
                outcome = trust.back()
            else:
                outcome = trust.switch(list(sources), said, given["again"], lambda name, cert, key: dialler.session(sources[name], cert, key))
    except (TrustError, AuditError, HostError, OSError, ValueError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=outcome.changed, trust=outcome.as_dict())


if __name__ == "__main__":
    main()
