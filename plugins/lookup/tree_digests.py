# SPDX-License-Identifier: Apache-2.0
# Apache-2.0 goes together with Ansible's own licence, the GNU General Public License version 3.
"""What a role puts on a host, file by file."""

from __future__ import annotations

DOCUMENTATION = r"""
name: tree_digests
short_description: Digests of the files that a role brings
version_added: "0.1.0"
author: hnai.platform maintainers (@hnai)
description:
  - Gives for a directory of a role's C(tree/) each file as it lies on the host, with its sha256. Templates (C(.j2)) are rendered as
    M(hnai.platform.config_tree) does, so the role's variables must be there.
options:
  _terms:
    description: Role and directory on the host, in this order.
    required: true
    type: list
    elements: str
"""

EXAMPLES = r"""
- name: Show what the collector's program consists of
  ansible.builtin.debug:
    msg: "{{ lookup('hnai.platform.tree_digests', 'ot_collector', '/usr/local/lib/hnai/ot_collector') }}"
"""

RETURN = r"""
_raw:
  description: One dictionary, path below the directory to sha256 in hexadecimal.
  type: list
  elements: dict
"""

import hashlib
from typing import Any

from ansible.errors import AnsibleError
from ansible.plugins.lookup import LookupBase

from ansible_collections.hnai.platform.plugins.plugin_utils.trees import ROLES, rendered, search


class LookupModule(LookupBase):
    """See DOCUMENTATION."""

    def run(self, terms: list[Any], variables: dict[str, Any] | None = None, **kwargs: Any) -> list[dict[str, str]]:
        """[{path: sha256}]. Raises AnsibleError when the role brings no such directory."""
        self.set_options(var_options=variables, direct=kwargs)
        role, directory = map(str, terms)
        base = ROLES / role / "tree" / directory.lstrip("/")
        files = [path for path in sorted(base.rglob("*")) if path.is_file() and "__pycache__" not in path.parts]
        if not files:
            raise AnsibleError(f"tree_digests: role {role} brings no file below {directory}")
        found = {}
        for path in files:
            name, template = str(path.relative_to(base)), path.suffix == ".j2"
            target = name[:-3] if template else name
            content = rendered(self._templar, path, f"{directory}/{target}", search(ROLES / role), dict(variables or {})) if template else path.read_bytes()
            found[target] = hashlib.sha256(content).hexdigest()
        return [found]
