#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
# Apache-2.0 goes together with Ansible's own licence, the GNU General Public License version 3.
"""Module side of openbao_retire."""

from __future__ import annotations

DOCUMENTATION = r"""
module: openbao_retire
short_description: Remove AppRole, PKI role and policy of components that stand nowhere any more
version_added: "0.1.0"
author: hnai.platform maintainers (@hnai)
description:
  - Runs on the OpenBao host as the identity site-admin. What is absent is left so; each removal is proven by a second look.
  - Secrets stay in the store, where nobody may read them any more but the rotation; only a key-holder ceremony may erase one.
extends_documentation_fragment:
  - hnai.platform.openbao
  - hnai.platform.openbao.site_admin
options:
  components:
    description: Names of the components.
    type: list
    elements: str
    required: true
  pki_int:
    description: Mount of the intermediate CA.
    type: str
    default: pki_int
attributes:
  check_mode:
    description: Says what would go.
    support: full
"""

EXAMPLES = r"""
- name: Nobody enters as questdb any more
  hnai.platform.openbao_retire:
    components: [questdb]
    site_admin: "{{ openbao_site_admin }}"
"""

RETURN = r"""
removed:
  description: What was, or would be, removed.
  returned: always
  type: list
  elements: str
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hnai.platform.plugins.module_utils.openbao import retire
from ansible_collections.hnai.platform.plugins.module_utils.openbao.client import OPENBAO_ARGS, SITE_ADMIN_ARGS, BaoError, Unreachable
from ansible_collections.hnai.platform.plugins.module_utils.openbao.elsewhere import connect


def main() -> None:
    """Reads the arguments, removes, reports."""
    module = AnsibleModule(
        argument_spec={
            **OPENBAO_ARGS,
            **SITE_ADMIN_ARGS,
            "components": {"type": "list", "elements": "str", "required": True},
            "pki_int": {"type": "str", "default": "pki_int"},
        },
        supports_check_mode=True,
    )
    given = module.params
    try:
        api = connect(given)
        removed = retire.retire(api, given["site_admin"], given["components"], given["pki_int"], module.check_mode)
    except (retire.RetireError, BaoError, Unreachable, OSError, ValueError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=bool(removed), removed=removed)


if __name__ == "__main__":
    main()
