#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
# Apache-2.0 goes together with Ansible's own licence, the GNU General Public License version 3.
"""Module side of authority_trust."""

from __future__ import annotations

DOCUMENTATION = r"""
module: authority_trust
short_description: Say which certificate authority a host trusts, and which one its listeners serve
version_added: "0.1.0"
author: hnai.platform maintainers (@hnai)
description:
  - The host's word in the rotation of a certificate authority (M(hnai.platform.authority_rotation)). Reads the trust bundles, verifies chains
    with them, dials the host's own TLS listeners, and changes nothing.
  - C(ack) is O(fingerprint) where everything is as O(state) demands, else empty, with the reasons under C(wrong). What cannot be told fails.
options:
  state:
    description:
      - V(trusted) asks that every bundle verifies each of O(chains) and refuses a foreign certificate.
      - V(leaves) also looks at the certificates that lie on the host, to say which are to be replaced.
      - V(served) asks that certificates and listeners are of O(stays), and V(dropped) besides that no bundle holds O(gone).
    type: str
    required: true
    choices: [trusted, leaves, served, dropped]
  fingerprint:
    description: Fingerprint of the authority that the host acknowledges.
    type: str
    required: true
  trusts:
    description: Components whose bundle C(/etc/hnai/<component>/tls/ca.pem) lies on the host.
    type: list
    elements: str
    default: []
  bundles:
    description: Further bundles.
    type: list
    elements: path
    default: []
  components:
    description: Components that serve TLS here.
    type: list
    elements: dict
    default: []
    suboptions:
      component:
        description: Name.
        type: str
        required: true
      listeners:
        description: Addresses C(host:port).
        type: list
        elements: str
        default: []
      own:
        description: Whether the listeners ask for a certificate, so that the component's own is shown.
        type: bool
        default: false
  chains:
    description: Intermediates (PEM) that every bundle must verify, for O(state=trusted).
    type: list
    elements: str
    default: []
  stays_chain:
    description: Intermediate (PEM) of the authority that stays.
    type: str
    default: ""
  stays:
    description: The authority that stays (PEM).
    type: str
    default: ""
  goes:
    description: The authority that goes (PEM).
    type: str
    default: ""
  gone:
    description: Root (PEM) that no bundle may hold any more, for O(state=dropped). Empty where the root stays.
    type: str
    default: ""
  timeout:
    description: Seconds that one dial may take.
    type: float
    default: 5
extends_documentation_fragment: hnai.platform.reading
"""

EXAMPLES = r"""
- name: Say which authority the broker serves
  hnai.platform.authority_trust:
    state: served
    fingerprint: "{{ authority.staying }}"
    trusts: [mosquitto]
    components: [{component: mosquitto, listeners: ["edge1:8883"]}]
    stays_chain: "{{ authority.chains[1] }}"
    stays: "{{ authority.stays.anchor }}"
    goes: "{{ authority.goes.anchor }}"
"""

RETURN = r"""
ack:
  description: The fingerprint, or empty.
  returned: success
  type: str
wrong:
  description: What is not as it must be.
  returned: success
  type: list
  elements: str
leaves:
  description: Authority of the certificate of each component, C(stays), C(goes) or C(neither).
  returned: success
  type: dict
served:
  description: The same by listener.
  returned: success
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hnai.platform.plugins.module_utils import authority_trust
from ansible_collections.hnai.platform.plugins.module_utils.hostfiles import Host, HostError


def main() -> None:
    """Reads the arguments, looks, reports."""
    text = {"type": "str", "default": ""}
    names = {"type": "list", "elements": "str", "default": []}
    served = {"component": {"type": "str", "required": True}, "listeners": names, "own": {"type": "bool", "default": False}}
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "required": True, "choices": ["trusted", "leaves", "served", "dropped"]},
            "fingerprint": {"type": "str", "required": True},
            "trusts": names,
            "bundles": {"type": "list", "elements": "path", "default": []},
            "components": {"type": "list", "elements": "dict", "default": [], "options": served},
            "chains": names,
            "stays_chain": text,
            "stays": text,
            "goes": text,
            "gone": text,
            "timeout": {"type": "float", "default": 5},
        },
        supports_check_mode=True,
    )
    try:
        found = authority_trust.judge(Host(), module.params)
    except (authority_trust.TrustError, HostError, OSError, ValueError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, **found)


if __name__ == "__main__":
    main()
