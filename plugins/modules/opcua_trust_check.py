#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
# Apache-2.0 goes together with Ansible's own licence, the GNU General Public License version 3.
"""Judges the certificates between the collector and its OPC UA servers, both ways."""

from __future__ import annotations

DOCUMENTATION = r"""
module: opcua_trust_check
short_description: Whether the certificates between collector and OPC UA servers are sound, both ways
version_added: "0.1.0"
author: hnai.platform maintainers (@hnai)
description:
  - Runs on the collector's host. Asks each server once for its endpoints, over a connection without a session and without anything of ours in it, behind the
    gate of M(hnai.platform.opcua_audit). Nothing is written to a server.
  - OT1 and OT2 judge our own certificate, OT3 to OT5 each server's, OT6 looks for one certificate at several servers, OT7 for revocation lists that grow old,
    OT8 says whether a change of our certificate is left half way; it stays V(inconclusive) until a named person confirms that the old one was taken out of
    each trust list.
  - A certificate that a server presents and nobody has pinned is kept for review in C(/var/lib/hnai/opcua_trust/review/<source>/). It is never used.
options:
  sources:
    description:
      - Entries of C(hnai_ot_sources). Others than C(protocol) V(opcua) are left out.
      - C(application_uri) is the server's; absent, its certificate must name the one that the server tells.
    type: list
    elements: dict
    required: true
  application_uri:
    description: ApplicationUri of the collector's certificate.
    type: str
    required: true
  horizon_days:
    description: Days that a change of a certificate takes with all owners; with less life left, OT2 and OT5 fail.
    type: float
    default: 60.0
  revocation_lists:
    description: Revocation lists (PEM) that were handed to servers, by name.
    type: dict
    default: {}
  probe_env:
    description: Virtual environment with asyncua.
    type: path
    default: /opt/hnai/probe/current
extends_documentation_fragment:
  - hnai.platform.opcua_trust
  - hnai.platform.verdict
attributes:
  check_mode:
    description: Reads in check mode too; unknown certificates are then not kept.
    support: full
"""

EXAMPLES = r"""
- name: Judge the certificates
  hnai.platform.opcua_trust_check:
    sources: "{{ hnai_ot_sources }}"
    application_uri: "urn:hnai:{{ hnai_site }}:{{ inventory_hostname }}:ot_collector"
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

import contextlib
from datetime import datetime, timezone
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hnai.platform.plugins.module_utils.hostfiles import Host
from ansible_collections.hnai.platform.plugins.module_utils.opcua.audit_host import Options, Places
from ansible_collections.hnai.platform.plugins.module_utils.opcua.trust import STATEMENT_ARGS, TrustError, Wanted, statements
from ansible_collections.hnai.platform.plugins.module_utils.opcua.trust_host import Dialler
from ansible_collections.hnai.platform.plugins.module_utils.probe_env import ProbeMissing, activate
from ansible_collections.hnai.platform.plugins.module_utils.verdict import VERDICT_ARGS, Report, finish


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec=dict(
            VERDICT_ARGS,
            sources={"type": "list", "elements": "dict", "required": True},
            application_uri={"type": "str", "required": True},
            statements=STATEMENT_ARGS,
            horizon_days={"type": "float", "default": 60.0},
            revocation_lists={"type": "dict", "default": {}},
            probe_env={"type": "path", "default": "/opt/hnai/probe/current"},
        ),
        supports_check_mode=True,
    )
    params = module.params
    # The core says what is missing.
    with contextlib.suppress(ProbeMissing):
        activate(Path(params["probe_env"]))
    report = Report("ot_collector", version="1", deadline_s=None)
    options = Options(params["application_uri"], "", [], [], params["deadline"], not module.check_mode)
    try:
        said = statements(params["statements"], datetime.now(timezone.utc).date())
    except TrustError as error:
        module.fail_json(msg=str(error))
    Dialler(report, Places(), options, Host()).judge(
        params["sources"], Wanted(params["application_uri"], ""), said, params["horizon_days"], params["revocation_lists"])
    finish(module, report)


if __name__ == "__main__":
    main()
