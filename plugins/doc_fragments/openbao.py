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
"""

    DEPLOY = r"""
options:
  deploy:
    description: The deploy identity, C(hnai_openbao_deploy).
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
