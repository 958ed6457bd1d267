#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
# Apache-2.0 goes together with Ansible's own licence, the GNU General Public License version 3.
"""Module side of authority_rotation."""

from __future__ import annotations

DOCUMENTATION = r"""
module: authority_rotation
short_description: Take one step of the rotation of the site's root or intermediate certificate authority
version_added: "0.1.0"
author: hnai.platform maintainers (@hnai)
description:
  - Runs on the OpenBao host, logged in as the identity C(hnai-authority). Makes the new authority beside the old one, lets it sign once every
    host has said that it trusts both, and retires the old one once no host serves it. Keys of authorities never leave OpenBao.
  - The journal lies at C(<kv>/pki/<scope>/_rotation), with check-and-set as lock and fence. A run that was killed is simply run again.
  - What happens on the hosts is done by the roles and said by M(hnai.platform.authority_trust); the playbook C(rotate.yml) puts the steps together.
  - The action plugin of the same name says which process of which controller takes the step. Everything that is returned is public.
extends_documentation_fragment:
  - hnai.platform.openbao
  - hnai.platform.openbao.deploy
  - hnai.platform.openbao.authorities
  - hnai.platform.rotation
options:
  path:
    description: Which authority. With V(pki/root) a new intermediate is made too.
    type: str
    required: true
    choices: [pki/intermediate, pki/root]
  state:
    description:
      - V(planned) looks. V(prepared) takes the authority and makes the new one, or goes on with the open run. V(trusted) takes the hosts' word.
      - V(signing) chooses the one that shall stay. V(committed) takes the word that every host serves it; from then on there is only forward.
      - V(dropped) retires the one that goes. V(closed) takes the word that no host trusts or serves it.
      - On the way back the same states bring the old authority back.
    type: str
    default: planned
    choices: [planned, prepared, trusted, signing, committed, dropped, closed]
  site:
    description: Name of the site, part of the authorities' names.
    type: str
    default: ""
  root_ttl:
    description: Life of a new root.
    type: str
    default: 10y
  intermediate_ttl:
    description: Life of a new intermediate.
    type: str
    default: 5y
  root_ttl_s:
    description: Set by the action plugin.
    type: int
    default: 0
  intermediate_ttl_s:
    description: Set by the action plugin.
    type: int
    default: 0
  root_ca:
    description: Whose root V(pki/root) brings; V(site) takes over the one that O(intermediate_chain) ends in.
    type: str
    choices: [own, site]
    default: own
  intermediate_chain:
    description:
      - Under a root of the site's own, what its CA has signed for the new intermediate, then what stands above it up to that root; PEM text, or a path on
        the controller. As long as it is not there the step V(prepared) fails, says what is to be signed, and is simply run again.
      - Which certificates it may end in is the root that hosts trust with V(pki/intermediate), and another one with V(pki/root).
    type: str
    default: ""
  request_file:
    description: Controller file for the request that is to be signed.
    type: path
  leaf_ttl:
    description: Longest life of a host's certificate; what the site's CA signs has to be valid for longer.
    type: str
    default: 90d
  chain:
    description: Set by the action plugin.
    type: list
    elements: str
    default: []
  root_ca_file:
    description: Controller file for the roots that hosts trust; the action plugin writes it. Left out, none is written.
    type: path
  grace:
    description: Seconds that the old authority stays trusted after every host serves the new one.
    type: float
    default: 0
  acks:
    description: Fingerprint of the authority by host.
    type: dict
    default: {}
  proof:
    description: What was proven beside it, for O(state=trusted) and O(state=closed).
    type: dict
    default: {}
attributes:
  check_mode:
    description: Every state is V(planned) then.
    support: full
  diff_mode:
    description: The state of the journal.
    support: full
"""

EXAMPLES = r"""
- name: Say what a rotation of the intermediate would do
  hnai.platform.authority_rotation:
    path: pki/intermediate
"""

RETURN = r"""
rotation:
  description: The journal. No key.
  returned: always
  type: dict
plan:
  description: What a run would do, one line a step.
  returned: O(state=planned)
  type: list
  elements: str
left_s:
  description: Seconds that the authority in force is valid yet.
  returned: O(state=planned)
  type: float
roots:
  description: Bundle (PEM) of the roots that hosts shall trust now.
  returned: every state but V(planned)
  type: str
staying:
  description: Fingerprint of the authority that shall stay.
  returned: from V(prepared) on
  type: str
stays:
  description: C(anchor), C(root) and C(fingerprint) of the authority that shall stay.
  returned: from V(prepared) on
  type: dict
goes:
  description: The same of the one that shall go.
  returned: from V(prepared) on
  type: dict
chains:
  description: Old and new intermediate (PEM).
  returned: from V(prepared) on
  type: list
  elements: str
resumed:
  description: Whether a run was open already.
  returned: O(state=prepared)
  type: bool
csr:
  description: Request for the intermediate that the site's CA has not signed, PEM.
  returned: failure for want of that signature
  type: str
busy:
  description: The run that holds the authority.
  returned: failure by another run
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hnai.platform.plugins.module_utils.openbao import authority, authority_steps, first_tls
from ansible_collections.hnai.platform.plugins.module_utils.openbao.client import (
    AUTHORITIES_ARGS,
    DEPLOY_ARGS,
    OPENBAO_ARGS,
    ROTATION_ARGS,
    BaoError,
    Client,
    Unreachable,
)
from ansible_collections.hnai.platform.plugins.module_utils.openbao.component import VisitError
from ansible_collections.hnai.platform.plugins.module_utils.openbao.elsewhere import connect
from ansible_collections.hnai.platform.plugins.module_utils.openbao.rotation import Busy, RotationError


def main() -> None:
    """Reads the arguments, takes the step, keeps this host's own trust in OpenBao, reports."""
    text = {"type": "str", "default": ""}
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "str", "required": True, "choices": list(authority.SCOPES)},
            "state": {"type": "str", "default": "planned", "choices": list(authority_steps.STATES)},
            "site": text,
            "root_ttl": {"type": "str", "default": "10y"},
            "intermediate_ttl": {"type": "str", "default": "5y"},
            "root_ttl_s": {"type": "int", "default": 0},
            "intermediate_ttl_s": {"type": "int", "default": 0},
            "root_ca_file": {"type": "path"},
            "root_ca": {"type": "str", "default": "own", "choices": ["own", "site"]},
            "intermediate_chain": text,
            "request_file": {"type": "path"},
            "leaf_ttl": {"type": "str", "default": "90d"},
            "chain": {"type": "list", "elements": "str", "default": []},
            **ROTATION_ARGS,
            "grace": {"type": "float", "default": 0},
            "acks": {"type": "dict", "default": {}},
            "proof": {"type": "dict", "default": {}},
            **OPENBAO_ARGS,
            **DEPLOY_ARGS,
            **AUTHORITIES_ARGS,
        },
        supports_check_mode=True,
    )
    given = dict(module.params)
    if module.check_mode:
        given["state"] = "planned"
    try:
        found = authority_steps.visit(connect(given), given["deploy"], given)
        # At an address the server is verified by its own authority, not by what the site trusts.
        here = not given["external"].get("address")
        if here and found.get("roots"):
            first_tls.trust(given["ca_file"], found["roots"].encode())
        if here and given["state"] == "dropped" and found["goes"]["root"] not in found["roots"]:
            # A second way in before the first one is closed: what is left must be enough to reach OpenBao.
            first_tls.distrust(given["ca_file"], found["goes"]["root"].encode(), lambda path: Client(given["address"], path).call("GET", "sys/seal-status"))
    except Busy as error:
        module.fail_json(msg=str(error), busy={"owner": error.owner, "run_id": error.run_id, "state": error.state, "expired": error.expired})
    except authority.Unsigned as error:
        module.fail_json(msg=str(error), unsigned=error.csr, in_force=error.in_force)
    except (RotationError, VisitError, BaoError, Unreachable, OSError, ValueError) as error:
        module.fail_json(msg=str(error))
    journal = found["rotation"]
    if module._diff:
        found["diff"] = {"before": "", "after": "%s: %s (run %s)\n" % (journal["path"], journal["state"], journal["run_id"] or "-")}
    module.exit_json(changed=given["state"] != "planned", **found)


if __name__ == "__main__":
    main()
