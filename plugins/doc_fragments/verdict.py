# SPDX-License-Identifier: Apache-2.0
"""Options and return values that every check module shares."""
from __future__ import annotations


class ModuleDocFragment:
    """Use as C(extends_documentation_fragment: hnai.platform.verdict)."""

    DOCUMENTATION = r"""
options:
  collect:
    description:
      - Return the verdict without failing the task, whatever it says.
      - The playbook C(hnai.platform.verify) collects the verdicts of all components this way and judges them together.
    type: bool
    default: false
  deadline:
    description:
      - Seconds that all checks together may take.
      - What could not be checked in that time is V(inconclusive).
    type: float
    default: 60.0
  call_timeout:
    description:
      - Seconds that one call (a connection, a command, an answer) may take; less is left near O(deadline).
    type: float
    default: 10.0
  allow_inconclusive:
    description:
      - Ids of checks that may be V(inconclusive) without failing the task.
    type: list
    elements: str
    default: []
notes:
  - Changes nothing and runs in check mode.
"""
