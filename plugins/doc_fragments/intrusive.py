# SPDX-License-Identifier: Apache-2.0
"""Options of the modules that have an intrusive part."""
from __future__ import annotations


class ModuleDocFragment:
    """Use as C(extends_documentation_fragment: hnai.platform.intrusive)."""

    DOCUMENTATION = r"""
options:
  site:
    description: Name of the site that a token must be for.
    type: str
    default: ""
  tokens:
    description:
      - Tokens with C(site), C(endpoint), C(from) and C(to) (as V(2026-01-31T08:00:00Z), at most 24 h apart), C(approver) and C(signature).
      - The signature is that of the approver's SSH key in the namespace C(hnai-intrusive); C(docs/runbooks/ot-audit.md) shows the text that is signed.
    type: list
    elements: dict
    default: []
  approvers:
    description: Public SSH keys of those who may sign, by name.
    type: dict
    default: {}
"""
