# SPDX-License-Identifier: Apache-2.0
# Apache-2.0 goes together with Ansible's own licence, the GNU General Public License version 3.
"""The site model as data."""

from __future__ import annotations

DOCUMENTATION = r"""
name: site
short_description: The site model, from the inventory variables of all hosts and the components' contracts
version_added: "0.1.0"
author: hnai.platform maintainers (@hnai)
description:
  - Returns zones, hosts, groups, assets, conduits, OT sources, SLO and contracts as one dictionary, the input of the
    collection's zone filters
    P(hnai.platform.nft_ruleset#filter), P(hnai.platform.kafka_acls#filter) and P(hnai.platform.mosquitto_acl#filter).
  - It reads inventory variables only, never facts, so that the result does not depend on C(--limit).
  - Within a run it is collected once and read again as long as variables, groups and the roles' files are what they were.
options:
  _terms:
    description:
      - V(text) gives the same as JSON text, which the filters take too. It costs a task less, because Ansible looks into every value of
        a dictionary on its way to a filter, and not into text.
    required: false
    choices: [text]
"""

EXAMPLES = r"""
- name: Show the ruleset of a host
  ansible.builtin.debug:
    msg: "{{ lookup('hnai.platform.site') | hnai.platform.nft_ruleset(inventory_hostname) }}"
"""

RETURN = r"""
_raw:
  description: One dictionary, or one text.
  type: list
  elements: raw
"""

import json
from pathlib import Path
from typing import Any

from ansible import constants as C
from ansible.errors import AnsibleError
from ansible.plugins.lookup import LookupBase

from ansible_collections.hnai.platform.plugins.plugin_utils.contracts import ContractError
from ansible_collections.hnai.platform.plugins.plugin_utils.site import text


class LookupModule(LookupBase):
    """See DOCUMENTATION."""

    def run(self, terms: list[Any], variables: dict[str, Any] | None = None, **kwargs: Any) -> list[Any]:
        """[model]. Raises AnsibleError naming the contract that is wrong."""
        self.set_options(var_options=variables, direct=kwargs)
        variables = variables or {}
        if terms not in ([], ["text"]):
            raise AnsibleError(f"hnai.platform.site: {terms!r}; use text, or nothing")
        try:
            model = text(variables["hostvars"], variables["groups"], Path(C.DEFAULT_LOCAL_TMP))
        except ContractError as error:
            raise AnsibleError(str(error)) from error
        return [model if terms else json.loads(model)]
