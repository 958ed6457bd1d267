#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
# Apache-2.0 goes together with Ansible's own licence, the GNU General Public License version 3.
"""Module side of openbao_component."""

from __future__ import annotations

DOCUMENTATION = r"""
module: openbao_component
short_description: Read a component's secrets and sign its certificate, logged in as the component
version_added: "0.1.0"
author: hnai.platform maintainers (@hnai)
description:
  - Runs on the OpenBao host. Logs in as the deploy identity, gets a response-wrapped single-use secret_id of
    C(hnai-<component>), unwraps it,
    logs in as the component, reads and signs, and revokes both tokens. So the audit log names the component, and the
    deploy identity itself
    reads nothing.
  - Any number of visits may run side by side.
  - Its result holds secrets, so the task needs C(no_log=true).
extends_documentation_fragment:
  - hnai.platform.openbao
  - hnai.platform.openbao.deploy
  - hnai.platform.openbao.authorities
options:
  component:
    description: Name of the component.
    type: str
    required: true
  read:
    description: Paths of secrets, relative to O(kv).
    type: list
    elements: str
    default: []
  sign:
    description: A certificate request to sign, absent for none.
    type: dict
    suboptions:
      csr:
        description: The request, PEM. Empty in check mode where the key is not there yet.
        type: str
        default: ""
      common_name:
        description: Common name; an inventory name of a host of the component.
        type: str
        required: true
      dns:
        description: DNS names.
        type: list
        elements: str
        default: []
      ips:
        description: IP addresses.
        type: list
        elements: str
        default: []
      uris:
        description: URIs among the names, as an OPC UA application certificate has one.
        type: list
        elements: str
        default: []
      ttl:
        description: Life of the certificate; the PKI role's longest by default.
        type: str
        default: ""
attributes:
  check_mode:
    description: >-
      Nothing is signed. What cannot be read because the site does not stand yet is left out and RV(predicted) is
      true.
    support: full
  diff_mode:
    description: There is nothing to show that is no secret.
    support: none
"""

EXAMPLES = r"""
- name: Visit OpenBao as the component
  hnai.platform.openbao_component:
    component: kafka
    read: [kafka/admin]
    sign: {csr: "{{ __request.csr }}", common_name: "{{ inventory_hostname }}", dns: [localhost], ips: [127.0.0.1]}
  delegate_to: "{{ groups['openbao'][0] }}"
  register: __visit
  no_log: true
"""

RETURN = r"""
secrets:
  description: Fields of each secret by path.
  returned: always
  type: dict
certificate:
  description: >-
    Empty, or C(certificate), C(ca_chain) (list of intermediates), C(root) (all PEM), C(serial) and C(not_after)
    (unix time).
  returned: always
  type: dict
predicted:
  description: Check mode only, whether something could not be read yet.
  returned: check mode
  type: bool
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hnai.platform.plugins.module_utils.openbao import component
from ansible_collections.hnai.platform.plugins.module_utils.openbao.client import AUTHORITIES_ARGS, DEPLOY_ARGS, OPENBAO_ARGS, BaoError, Unreachable
from ansible_collections.hnai.platform.plugins.module_utils.openbao.elsewhere import connect


def main() -> None:
    """Reads the arguments, makes the visit, reports."""
    names = {"type": "list", "elements": "str", "default": []}
    module = AnsibleModule(
        argument_spec={
            "component": {"type": "str", "required": True},
            "read": names,
            "sign": {
                "type": "dict",
                "options": {
                    "csr": {"type": "str", "default": ""},
                    "common_name": {"type": "str", "required": True},
                    "dns": names,
                    "ips": names,
                    "uris": names,
                    "ttl": {"type": "str", "default": ""},
                },
            },
            **OPENBAO_ARGS,
            **DEPLOY_ARGS,
            **AUTHORITIES_ARGS,
        },
        supports_check_mode=True,
    )
    given = module.params
    deploy = given["deploy"] or {}
    complete = bool(deploy.get("role_id") and deploy.get("secret_id"))
    if not complete and not module.check_mode:
        module.fail_json(
            msg="hnai_openbao_deploy is empty: run playbooks/components/openbao.yml first (it writes openbao/deploy.json into "
            "hnai_state_dir), or attach the credential"
        )
    request = None if module.check_mode else given["sign"]
    try:
        if not complete:
            raise component.VisitError("no deploy identity yet")
        found = component.visit(
            connect(given),
            given["component"],
            deploy,
            given["read"],
            request,
            given["kv"],
            given["pki_int"],
            given["pki_root"],
        )
    except (component.VisitError, BaoError, Unreachable, ValueError) as error:
        if not module.check_mode:
            module.fail_json(msg=str(error))
        module.exit_json(changed=bool(given["sign"]), secrets={}, certificate={}, predicted=True)
    module.exit_json(changed=bool(given["sign"]), secrets=found["secrets"], certificate=found["certificate"], predicted=False)


if __name__ == "__main__":
    main()
