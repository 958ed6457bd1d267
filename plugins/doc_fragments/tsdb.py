# SPDX-License-Identifier: Apache-2.0
"""Options of the checks that ask the time-series store."""

from __future__ import annotations


class ModuleDocFragment:
    """Use as C(extends_documentation_fragment: hnai.platform.tsdb)."""

    DOCUMENTATION = r"""
options:
  url:
    description: Address of the store, as C(https://data1:8428).
    type: str
    required: true
  ca_file:
    description: Root certificates that the store's certificate is verified with. The system's where it is left out.
    type: path
  username:
    description: Identity of the queries.
    type: str
    default: dashboard
  credential:
    description: Where the password of O(username) lies on this host, as a systemd credential.
    type: dict
    required: true
    suboptions:
      component:
        description: Component that owns the credential.
        type: str
        required: true
      name:
        description: Name of the credential.
        type: str
        required: true
"""
