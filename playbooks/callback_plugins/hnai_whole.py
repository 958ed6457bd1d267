# SPDX-License-Identifier: GPL-3.0-or-later
"""Ends a run that would leave out what judges it. Ansible loads it for playbooks of this folder, whatever the configuration says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible import context
from ansible.plugins.callback import CallbackBase

DOCUMENTATION = r"""
name: hnai_whole
type: aggregate
short_description: Ends a run that would leave out what judges it
description:
  - With C(--skip-tags always) nobody would look at arguments and model, with C(--start-at-task) neither; hosts would be changed all the same. Such a run
    of one of our playbooks ends before its first play.
"""

#: Of a checkout; a playbook of somebody's own that imports ours has ways of its own.
_OURS = (Path(__file__).resolve().parents[1], Path(__file__).resolve().parents[2] / "site.yml")


class CallbackModule(CallbackBase):
    """See DOCUMENTATION."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "hnai_whole"
    CALLBACK_NEEDS_ENABLED = False

    def v2_playbook_on_start(self, playbook: Any) -> None:
        """Nothing has been begun."""
        begun, given = Path(playbook._file_name).resolve(), context.CLIARGS
        left_out = ["--skip-tags always"] if "always" in (given.get("skip_tags") or ()) else []
        left_out += ["--start-at-task"] if given.get("start_at_task") else []
        if left_out and (begun in _OURS or begun.parent in _OURS):
            why = f"{' and '.join(left_out)} would leave out the judgement of arguments and model. Nothing was begun."
            self._display.error(f"{why}\nremedy: leave it out; a part of a site is named by --tags COMPONENT or --limit HOST", wrap_text=False)
            # A callback's exceptions are warnings to Ansible.
            raise SystemExit(1)
