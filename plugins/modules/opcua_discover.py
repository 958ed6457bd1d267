#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
# Apache-2.0 goes together with Ansible's own licence, the GNU General Public License version 3.
"""Proposes a tag map out of what an OPC UA server shows."""

from __future__ import annotations

DOCUMENTATION = r"""
module: opcua_discover
short_description: Propose the tags of an OPC UA source, and say how they differ from the map in force
version_added: "0.1.0"
author: hnai.platform maintainers (@hnai)
description:
  - Runs on the collector's host with the collector's certificate, key, user and password, which stay there. Opens one connection with one session per
    source, browses what lies below Objects and reads data type, rank, access, unit, range and enumeration codes of each Variable. Nothing else is ever
    sent; the client is the one of M(hnai.platform.opcua_audit), with the same gate, budget, OperationLimits, alarm and deadline. The session is closed in
    every case, and there is never a second login try.
  - Tags are bound to browse paths whose steps name namespaces by URI (C(path)); C(node) is where the tag is read today. Names are the same in every run.
  - A tag of the map in force keeps its name and everything that the server does not say otherwise.
  - Proposes, and changes nothing. A look that was cut off or refused fails; one with holes says so and calls nothing gone.
options:
  sources:
    description: Entries of C(hnai_ot_sources) with their tags in force. Others than C(protocol) V(opcua) are left out.
    type: list
    elements: dict
    required: true
  application_uri:
    description: ApplicationUri of the collector's certificate.
    type: str
    required: true
  deadline:
    description: Seconds for all sources together.
    type: float
    default: 1800.0
  state_dir:
    description: Where the times of our own connections are kept, those of the audit too. Not written in check mode.
    type: path
    default: /var/lib/hnai/ot_audit
  probe_env:
    description: Virtual environment with asyncua.
    type: path
    default: /opt/hnai/probe/current
extends_documentation_fragment: hnai.platform.reading
"""

EXAMPLES = r"""
- name: Look at the plant's server
  hnai.platform.opcua_discover:
    sources: "{{ hnai_ot_sources | selectattr('id', 'eq', 'plc1') | list }}"
    application_uri: "urn:hnai:{{ hnai_site }}:{{ inventory_hostname }}:ot_collector"
  register: __discovered
"""

RETURN = r"""
proposals:
  description: >-
    Per source C(source), C(tags) in the shape of C(hnai_ot_sources[].tags), names of C(new), C(gone), C(unseen) and C(writable) tags, C(changed)
    (C(name), C(field), C(from), C(to)), C(ranges), C(left_out) Variables with the reason, C(incomplete) (why not everything was seen), C(differs), and
    C(text), the file for review.
  returned: success
  type: list
  elements: dict
load:
  description: Per source what the look cost the server.
  returned: success
  type: dict
"""

import contextlib
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hnai.platform.plugins.module_utils.hostfiles import Host
from ansible_collections.hnai.platform.plugins.module_utils.opcua.audit_host import Options, Places
from ansible_collections.hnai.platform.plugins.module_utils.opcua.audit_types import AuditError
from ansible_collections.hnai.platform.plugins.module_utils.opcua.discover import render
from ansible_collections.hnai.platform.plugins.module_utils.opcua.discover_host import Discover
from ansible_collections.hnai.platform.plugins.module_utils.probe_env import ProbeMissing, activate
from ansible_collections.hnai.platform.plugins.module_utils.verdict import Report


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "sources": {"type": "list", "elements": "dict", "required": True},
            "application_uri": {"type": "str", "required": True},
            "deadline": {"type": "float", "default": 1800.0},
            "state_dir": {"type": "path", "default": "/var/lib/hnai/ot_audit"},
            "probe_env": {"type": "path", "default": "/opt/hnai/probe/current"},
        },
        supports_check_mode=True,
    )
    params = module.params
    # The core says what is missing.
    with contextlib.suppress(ProbeMissing):
        activate(Path(params["probe_env"]))
    options = Options(
        application_uri=params["application_uri"], environment="", exceptions=[], accept_drift=[], deadline_s=params["deadline"],
        write_state=not module.check_mode,
    )
    discover = Discover(Report("ot_collector", deadline_s=None), Places(state=Path(params["state_dir"])), options, Host())
    try:
        proposals = discover.look(params["sources"])
    except AuditError as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, proposals=[{**one.as_dict(), "text": render(one)} for one in proposals], load=discover.records)


if __name__ == "__main__":
    main()
