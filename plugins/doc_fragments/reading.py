# SPDX-License-Identifier: Apache-2.0
"""Attributes of the modules that only read."""
from __future__ import annotations


class ModuleDocFragment:
    """Use as C(extends_documentation_fragment: hnai.platform.reading)."""

    DOCUMENTATION = r"""
attributes:
  check_mode:
    description: The same; it changes nothing.
    support: full
  diff_mode:
    description: Changes nothing.
    support: none
"""
