# SPDX-License-Identifier: Apache-2.0
"""Documentation of the options by which a module on the OpenBao host logs in."""

from __future__ import annotations


class ModuleDocFragment:
    """Server and mount (extends_documentation_fragment: hnai.platform.openbao).

    The identity is C(.deploy) or, where it may lack, C(.maybe_deploy); C(.site_admin) may lack, too. C(.authorities) are the mounts of the PKI.
    """

    DOCUMENTATION = r"""
options:
  address:
    description: Address of the server, from its own host.
    type: str
    default: https://127.0.0.1:8200
  ca_file:
    description: Bundle on the host against which the server is verified.
    type: path
    default: /etc/hnai/openbao/trust.pem
  kv:
    description: KV v2 mount.
    type: str
    default: hnai
  external:
    description:
      - Who else runs the server, C(openbao_external). With an address the module asks it there, from the host on which it runs, and O(address) and
        O(ca_file) say nothing.
    type: dict
    default: {}
    suboptions:
      owner:
        description: Who runs it.
        type: str
      group:
        description: Group of its host that may read its key.
        type: str
      ca:
        description: Certificate of the authority (PEM) by which its listener is verified; at an address the only one.
        type: str
      address:
        description: C(https://host:port).
        type: str
      namespace:
        description: Namespace of the site there.
        type: str
"""

    DEPLOY = r"""
options:
  deploy:
    description: The deploy identity, C(hnai_openbao_deploy). Like O(external) and the mounts it is taken from the site where the task does not give it.
    type: dict
    required: true
    suboptions:
      role_id:
        description: Its role_id.
        type: str
      secret_id:
        description: Its secret_id.
        type: str
"""

    MAYBE_DEPLOY = r"""
options:
  deploy:
    description: The deploy identity, C(hnai_openbao_deploy).
    type: dict
    default: {}
    suboptions:
      role_id:
        description: Its role_id.
        type: str
      secret_id:
        description: Its secret_id.
        type: str
"""

    SITE_ADMIN = r"""
options:
  site_admin:
    description: The identity site-admin, C(openbao_site_admin).
    type: dict
    default: {}
    suboptions:
      role_id:
        description: Its role_id.
        type: str
      secret_id:
        description: Its secret_id.
        type: str
"""

    AUTHORITIES = r"""
options:
  pki_root:
    description: Mount of the root CA.
    type: str
    default: pki_root
  pki_int:
    description: Mount of the intermediate CA.
    type: str
    default: pki_int
"""
