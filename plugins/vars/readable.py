# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Names the file of variables that Ansible cannot read. It gives no variable: it stands before Ansible's own plugin, where that reads before any callback."""

from __future__ import annotations

DOCUMENTATION = r"""
name: readable
short_description: Names the file of variables that Ansible cannot read
version_added: "0.1.0"
author: hnai.platform maintainers (@hnai)
description:
  - Of a file in C(group_vars) or C(host_vars) that it cannot read ansible-core says what is wrong, but not where. Enabled before
    P(ansible.builtin.host_group_vars#vars) it ends the run with file, line and remedy, as the C(ansible.cfg) of a checkout has it. Where it is not
    enabled, a callback of the collection's playbooks does the same, unless C(run_vars_plugins = start) reads the files before there is any.
  - It gives no variables.
"""

from pathlib import Path
from typing import Any

from ansible.errors import AnsibleError, AnsibleParserError
from ansible.plugins.vars import BaseVarsPlugin, host_group_vars

from ansible_collections.hnai.platform.plugins.plugin_utils.site import unreadable_file


class _Files(host_group_vars.VarsModule):
    """Finds the files as Ansible's own plugin does, which then has them from the loader's cache."""

    def load_found_files(self, loader: Any, data: dict[str, Any], found_files: list[str]) -> dict[str, Any]:
        """No variables."""
        for found in found_files:
            try:
                loader.load_from_file(found, cache="all", unsafe=True, trusted_as_template=True)
            except AnsibleError as error:
                problem = unreadable_file(Path(found), str(error))
                raise AnsibleParserError(f"{problem.file}: {problem.key}: {problem.message}\nremedy: {problem.remedy}") from None
        return data


class VarsModule(BaseVarsPlugin):
    """Plugins of collections are always enabled by name; Ansible's own says in itself that it must be, so it is not inherited."""

    is_stateless = True

    def get_vars(self, loader: Any, path: str, entities: Any, cache: bool = True) -> dict[str, Any]:
        """None; AnsibleParserError where a file cannot be read."""
        super().get_vars(loader, path, entities)
        return dict(_Files().get_vars(loader, path, entities, cache))
