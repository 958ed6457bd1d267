# SPDX-License-Identifier: Apache-2.0
# Apache-2.0 goes together with Ansible's own licence, the GNU General Public License version 3.
"""What of a command line nobody would read."""

from __future__ import annotations

DOCUMENTATION = r"""
name: arguments
short_description: What of a command line nobody would read
version_added: "0.1.0"
author: hnai.platform maintainers (@hnai)
description:
  - Holds the names of the run's extra variables (C(-e)) against what the verbs, roles and the site model read. A misspelt one would be passed over in
    silence, and the verb would do more, or something else, than was asked for.
  - So with a source of the inventory (C(-i)) that Ansible passed over with a warning, unless C(any_unparsed_is_failed) has ended the run there.
options:
  _terms:
    description: The verbs that run; what looks like one of their arguments is held to be meant as one.
    required: true
  idle:
    description: Arguments of these verbs that the rest of the command line leaves without a reader (of a component whose tag was not given).
    type: list
    elements: str
    default: []
"""

EXAMPLES = r"""
- name: Everything that was given is read
  ansible.builtin.assert:
    that: query('hnai.platform.arguments', 'rotate') | length == 0
"""

RETURN = r"""
_raw:
  description: One sentence for each.
  type: list
  elements: str
"""

import os
import re
from pathlib import Path
from typing import Any

import yaml
from ansible import constants as C
from ansible.inventory.manager import IGNORED, InventoryManager
from ansible.plugins.lookup import LookupBase
from ansible.utils.vars import load_extra_vars

from ansible_collections.hnai.platform.plugins.module_utils.zones.validate import SITE_VARIABLES
from ansible_collections.hnai.platform.plugins.plugin_utils import contracts
from ansible_collections.hnai.platform.plugins.plugin_utils.arguments import unread
from ansible_collections.hnai.platform.plugins.plugin_utils.site import options


class LookupModule(LookupBase):
    """See DOCUMENTATION."""

    def run(self, terms: list[Any], variables: dict[str, Any] | None = None, **kwargs: Any) -> list[str]:
        """The sentences."""
        self.set_options(var_options=variables, direct=kwargs)
        partly = [] if C.INVENTORY_ANY_UNPARSED_IS_FAILED else self._partly(list((variables or {}).get("ansible_inventory_sources") or []))
        given = set(map(str, load_extra_vars(self._loader)))
        playbooks, roles = contracts.COLLECTION_ROOT / "playbooks", [path.name for path in contracts.COLLECTION_ROOT.glob("roles/*")]
        if not given:
            return partly
        takes = {}
        for path in playbooks.glob("*.meta.yml"):
            verb = path.name.removesuffix(".meta.yml")
            takes[verb] = set(yaml.safe_load(path.read_text(encoding="utf-8"))["argument_specs"][verb]["options"])
        texts = [path.read_text(encoding="utf-8") for path in playbooks.rglob("*.yml")]
        taken = set().union(*(takes[str(verb)] for verb in terms))
        known = {*SITE_VARIABLES, *options(), *map(contracts.external_variable, roles), *(variables or {}).get("groups", ())}
        known = known.union(*takes.values(), *(re.findall(r"\w+", text) for text in texts))
        verbs = [str(verb) for verb in terms if any(name.startswith(f"{verb}_") for name in taken)]
        idle = [f"-e {name} is of another component than this run's (take it out)" for name in sorted(given.intersection(self.get_option("idle")))]
        return partly + idle + unread(given, taken, known, [f"{name}_" for name in (*roles, *verbs, "hnai")])

    def _partly(self, sources: list[str]) -> list[str]:
        """Sources of the inventory that Ansible passed over: it warns, keeps what stands before the mistake, and goes on with a part of the site."""
        manager = InventoryManager(self._loader, parse=False)
        files = [str(one) for source in sources for one in (sorted(Path(source).iterdir()) if Path(source).is_dir() else [source])]
        wrong = [name for name in files if not IGNORED.search(os.fsencode(Path(name).name)) and not Path(name).is_dir() and not manager.parse_source(name)]
        return [f"-i {name} is not read, or not to its end (Ansible's warning says where)" for name in wrong]
