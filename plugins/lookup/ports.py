# SPDX-License-Identifier: Apache-2.0
# Apache-2.0 goes together with Ansible's own licence, the GNU General Public License version 3.
"""The ports of a component, by its contract."""

from __future__ import annotations

DOCUMENTATION = r"""
name: ports
short_description: The ports that a component listens on, by its contract
version_added: "0.1.0"
author: hnai.platform maintainers (@hnai)
description:
  - Gives each listener's port as C(listens) of C(roles/<component>/meta/component.yml) has it. Firewall, port registry and checks read the same
    place, so no variable names a port of a component.
options:
  _terms:
    description: Names of components.
    type: list
    elements: str
    required: true
"""

EXAMPLES = r"""
- name: Show where a client of level 4 reaches Kafka
  ansible.builtin.debug:
    msg: "{{ groups['kafka'][0] }}:{{ lookup('hnai.platform.ports', 'kafka').l4 }}"
"""

RETURN = r"""
_raw:
  description: For each component one dictionary, listener to port, in the contract's order.
  type: list
  elements: dict
"""

from typing import Any

from ansible.errors import AnsibleError
from ansible.plugins.lookup import LookupBase

from ansible_collections.hnai.platform.plugins.plugin_utils import contracts


class LookupModule(LookupBase):
    """See DOCUMENTATION."""

    def run(self, terms: list[Any], variables: dict[str, Any] | None = None, **kwargs: Any) -> list[Any]:
        """[{listener: port}]. Raises AnsibleError naming the contract that is wrong or not there."""
        self.set_options(var_options=variables, direct=kwargs)
        try:
            return [contracts.ports(str(component)) for component in terms]
        except contracts.ContractError as error:
            raise AnsibleError(str(error)) from error
