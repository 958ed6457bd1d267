# SPDX-License-Identifier: Apache-2.0
"""Options of the modules that go by what the owners of the OPC UA servers have stated."""
from __future__ import annotations


class ModuleDocFragment:
    """Use as C(extends_documentation_fragment: hnai.platform.opcua_trust)."""

    DOCUMENTATION = r"""
options:
  statements:
    description: What the owners of the servers have done.
    type: list
    elements: dict
    default: []
    suboptions:
      source:
        description: Id of the source.
        type: str
        required: true
      thumbprint:
        description: SHA-1 (as OPC UA tools show it) or SHA-256 of our certificate.
        type: str
        required: true
      state:
        description: V(trusted), it was put into the server's trust list; V(removed), it was taken out.
        type: str
        choices: [trusted, removed]
        required: true
      by:
        description: Who says so, a person.
        type: str
        required: true
      date:
        description: When, C(YYYY-MM-DD).
        type: str
        required: true
"""
