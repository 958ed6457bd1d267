# SPDX-License-Identifier: Apache-2.0
# Apache-2.0 goes together with Ansible's own licence, the GNU General Public License version 3.
"""Which components verify judges on a host."""

from __future__ import annotations

DOCUMENTATION = r"""
name: checked
short_description: What verify judges on this host, by the contracts
version_added: "0.1.0"
author: hnai.platform maintainers (@hnai)
description:
  - Names the components that stand on this host by their contract's placement, have a health module, and are chosen by the
    run's C(--tags) and C(--skip-tags). The host itself comes first.
options:
  _terms:
    description:
      - V(components) as described. V(certificates) gives the certificate files that the components of this host must have,
        V(exposure) one dictionary of its units and the worst sandbox score that their contracts allow, V(full) the components
        that have more to judge with C(profile=full), in their role's C(tasks/verify_full.yml), V(tags) what of C(--tags) a verdict can be
        made of, on any host.
    required: false
    choices: [components, full, certificates, exposure, tags]
"""

EXAMPLES = r"""
- name: Show what verify judges here
  ansible.builtin.debug:
    msg: "{{ query('hnai.platform.checked') }}"
"""

RETURN = r"""
_raw:
  description: Names of components or files, or one dictionary.
  type: list
  elements: raw
"""

from collections.abc import Mapping
from typing import Any

from ansible.errors import AnsibleError
from ansible.plugins.lookup import LookupBase

from ansible_collections.hnai.platform.plugins.plugin_utils import contracts
from ansible_collections.hnai.platform.plugins.plugin_utils.report import record


class LookupModule(LookupBase):
    """See DOCUMENTATION."""

    def run(self, terms: list[Any], variables: dict[str, Any] | None = None, **kwargs: Any) -> list[Any]:
        """What is asked for. Raises AnsibleError naming the contract that is wrong."""
        self.set_options(var_options=variables, direct=kwargs)
        variables = variables or {}
        try:
            known = contracts.all()
        except contracts.ContractError as error:
            raise AnsibleError(str(error)) from error
        groups = list(variables.get("group_names") or [])
        what = str(terms[0]) if terms else "components"
        if what == "certificates":
            return list(record.certificates({name: contracts.asking(contract, self._external(name, variables)) for name, contract in known.items()}, groups))
        if what == "exposure":
            ours = {name: contract for name, contract in known.items() if not variables.get(contracts.external_variable(name))}
            return [record.exposure(ours, groups)]
        if what == "tags":
            return sorted({*record.SCOPES, *(name for name, contract in known.items() if record.visited(contract))})
        if what not in ("components", "full"):
            raise AnsibleError(f"hnai.platform.checked: {what!r}; use components, full, certificates, exposure or tags")
        chosen = record.selected(known, list(variables.get("ansible_run_tags") or ["all"]), list(variables.get("ansible_skip_tags") or []))
        names = list(record.checked(known, groups, chosen))
        if what == "full":
            names = [name for name in names if (contracts.COLLECTION_ROOT / "roles" / name / "tasks" / "verify_full.yml").is_file()]
        return names

    def _external(self, component: str, variables: dict[str, Any]) -> Mapping[str, Any]:
        said = variables.get(contracts.external_variable(component))
        said = self._templar.template(said) if self._templar else said
        return said if isinstance(said, Mapping) else {}
