#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
# Apache-2.0 goes together with Ansible's own licence, the GNU General Public License version 3.
"""Module side of ssh_host_signature."""

from __future__ import annotations

DOCUMENTATION = r"""
module: ssh_host_signature
short_description: Have a host's SSH key certified by OpenBao
version_added: "0.1.0"
author: hnai.platform maintainers (@hnai)
description:
  - Runs on the OpenBao host, as the identity C(hnai-ssh-host). Everything that goes in and comes out is public.
  - Which names may stand in a certificate is said by the role that the openbao play keeps, out of the inventory.
extends_documentation_fragment:
  - hnai.platform.openbao
  - hnai.platform.openbao.deploy
options:
  mount:
    description: Mount of the CA, C(openbao_ssh_host_mount).
    type: str
    default: ssh-host
  public:
    description: The host's public key. Without one only the CA is returned.
    type: str
    default: ""
  principals:
    description: Names and addresses by which the host is reached.
    type: list
    elements: str
    default: []
attributes:
  check_mode:
    description: Asks for the CA only.
    support: full
  diff_mode:
    description: There is nothing to show.
    support: none
"""

EXAMPLES = r"""
- name: Certify the key of kafka1
  hnai.platform.ssh_host_signature:
    public: ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHY2r8n0bLkY0r7Q7Kc0c9l5m0e3b1d2f4g5h6j7k8l9
    principals: [kafka1, 10.20.0.11]
"""

RETURN = r"""
ca:
  description: Public key of the CA.
  returned: always
  type: str
certificate:
  description: The certificate, as it lies beside the key.
  returned: where O(public) was given
  type: str
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hnai.platform.plugins.module_utils.openbao import ssh_host
from ansible_collections.hnai.platform.plugins.module_utils.openbao.client import DEPLOY_ARGS, OPENBAO_ARGS, BaoError, Unreachable
from ansible_collections.hnai.platform.plugins.module_utils.openbao.component import VisitError
from ansible_collections.hnai.platform.plugins.module_utils.openbao.elsewhere import connect


def main() -> None:
    """Reads the arguments, asks, reports."""
    module = AnsibleModule(
        argument_spec={
            **OPENBAO_ARGS,
            **DEPLOY_ARGS,
            "mount": {"type": "str", "default": "ssh-host"},
            "public": {"type": "str", "default": ""},
            "principals": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    given = module.params
    public = "" if module.check_mode else given["public"]
    try:
        found = ssh_host.visit(connect(given), given["deploy"], given["mount"], public, given["principals"])
    except (VisitError, BaoError, Unreachable, ValueError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=bool(public), **found)


if __name__ == "__main__":
    main()
