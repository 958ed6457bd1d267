# SPDX-License-Identifier: GPL-3.0-or-later
# The way a template is rendered follows ansible.builtin.template (GPL-3.0-or-later).
"""The files of a role's tree/ as they come to lie on a host."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ansible.module_utils.common.text.converters import to_text
from ansible.template import trust_as_template

ROLES = Path(__file__).resolve().parents[2] / "roles"
#: As ansible.builtin.template.
_OVERRIDES = {"trim_blocks": True, "lstrip_blocks": False, "newline_sequence": "\n"}


def search(role: Path) -> list[str]:
    """Where a template of a role finds what it includes."""
    return [str(role / "templates"), str(role / "tree"), str(ROLES / "component" / "templates")]


def rendered(templar: Any, source: Path, target: str, where: Sequence[str], variables: dict[str, Any]) -> bytes:
    """One template, rendered for *target*. Raises AnsibleError, UnicodeDecodeError."""
    variables.setdefault("ansible_managed", "Managed by Ansible (hnai.platform); changes made here are overwritten.")
    variables["template_destpath"] = target
    own = templar.copy_with_new_env(searchpath=list(where), available_variables=variables)
    text = own.template(trust_as_template(source.read_text("utf-8")), escape_backslashes=False, overrides=_OVERRIDES)
    return to_text("" if text is None else text).encode("utf-8")
