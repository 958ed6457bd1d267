# SPDX-License-Identifier: Apache-2.0
"""Options of the modules that take one step of a rotation, by its journal."""
from __future__ import annotations


class ModuleDocFragment:
    """Use as C(extends_documentation_fragment: hnai.platform.rotation)."""

    DOCUMENTATION = r"""
options:
  run_id:
    description: Name of the run. Of a new one with C(state=prepared), else of the open one.
    type: str
    default: ""
  fence:
    description: Version of the journal as the step before returned it.
    type: int
    default: 0
  owner:
    description: Set by the action plugin.
    type: str
    default: ""
  dead:
    description: Set by the action plugin.
    type: list
    elements: str
    default: []
  controller_time:
    description: Set by the action plugin. Where a grace time is counted, a clock here that is more than a minute from it stops the run.
    type: float
  resume:
    description: Name of a run of another controller whose time is over, to go on with.
    type: str
    default: ""
  rollback:
    description: Name of the open run, to bring the old one back. Not after it was committed.
    type: str
    default: ""
  expected:
    description: Hosts whose acknowledgement is needed.
    type: list
    elements: str
    default: []
  reason:
    description: Why. V(compromise) skips the grace time.
    type: str
    default: age
    choices: [age, request, compromise]
"""
