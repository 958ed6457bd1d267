# SPDX-License-Identifier: GPL-3.0-or-later
"""Gathers what plan.yml predicts. Ansible loads it for playbooks of this folder, whatever the configuration says; it listens to plan.yml alone."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from ansible import context
from ansible.plugins.callback import CallbackBase

from ansible_collections.hnai.platform.plugins.plugin_utils.plan import Event, gather, table

DOCUMENTATION = r"""
name: hnai_plan
type: aggregate
short_description: Gathers what plan.yml predicts
description:
  - Prints a table and writes JSON when a run of C(hnai.platform.plan) in check mode ends. Silent in every other run.
"""


def role_of(task: Any) -> str:
    """The component that a task belongs to; for the shared role, the one that included it."""
    role = task._role.get_name().rpartition(".")[2] if task._role else ""
    return str(task.get_vars().get("component_name", role)) if role == "component" else role


class CallbackModule(CallbackBase):
    """See the core: plugins/plugin_utils/plan.py."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "hnai_plan"
    CALLBACK_NEEDS_ENABLED = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.events: list[Event] = []
        #: (host, task) whose items were heard.
        self.loops: set[tuple[str, str]] = set()
        self.play, self.serial, self.file = "", 0, ""

    def v2_playbook_on_start(self, playbook: Any) -> None:
        """Whether this run is a plan."""
        self.disabled = os.path.basename(playbook._file_name) != "plan.yml" or not context.CLIARGS.get("check")

    def v2_playbook_on_play_start(self, play: Any) -> None:
        """Which play the next results belong to."""
        steps = play.serial or []
        self.play, self.serial = play.get_name(), 1 if [str(step) for step in steps] == ["1"] else 0

    def _heard(self, result: Any, state: str, item: bool = False) -> None:
        """A result; of a loop each item's own, for one may fail, or be skipped in check mode, where others change something."""
        task, host, content = result.task, result.host.get_name(), dict(result.result)
        if item:
            self.loops.add((host, task._uuid))
        elif (host, task._uuid) in self.loops and state != "unreachable":
            return
        stats = (content.get("ansible_stats") or {}).get("data") or {}
        if stats.get("hnai_plan_file"):
            self.file = str(stats["hnai_plan_file"])
            self._write("")  # a plan of a whole site takes minutes: where it cannot go is said before
        action = task.resolved_action or task.action
        self.events.append(Event(host, self.play, task.get_name(), action, role_of(task), content, self.serial, state))

    def v2_runner_item_on_ok(self, result: Any) -> None:
        """An item of a loop."""
        self._heard(result, "ok", item=True)

    def v2_runner_item_on_failed(self, result: Any) -> None:
        """An item that failed."""
        self._heard(result, "failed", item=True)

    def v2_runner_item_on_skipped(self, result: Any) -> None:
        """An item that was skipped."""
        self._heard(result, "skipped", item=True)

    def v2_runner_on_ok(self, result: Any) -> None:
        """A result."""
        self._heard(result, "ok")

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        """A failure."""
        self._heard(result, "failed")

    def v2_runner_on_unreachable(self, result: Any) -> None:
        """A host that does not answer."""
        self._heard(result, "unreachable")

    def v2_runner_on_skipped(self, result: Any) -> None:
        """Skipped, perhaps because check mode cannot tell."""
        self._heard(result, "skipped")

    def v2_playbook_on_stats(self, stats: Any) -> None:
        """The end of the run."""
        plan = gather(self.events)
        self._display.display("\n" + table(plan))
        if self.file:
            self._display.display(f"\nAs JSON: {self._write(json.dumps(plan, indent=1, sort_keys=True))}")

    def _write(self, text: str) -> Path:
        """To the file of the plan, whose path is returned; ends the run where that cannot be: a callback's exceptions are warnings to Ansible."""
        path = Path(self.file).expanduser()
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.write_text(text + "\n", encoding="utf-8")
        except OSError as error:
            self._display.error(f"{path}: {error.strerror}: the plan was not written\nremedy: -e plan_file=FILE names one that you may write", wrap_text=False)
            raise SystemExit(1) from error
        return path
