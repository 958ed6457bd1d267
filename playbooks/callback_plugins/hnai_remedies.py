# SPDX-License-Identifier: GPL-3.0-or-later
"""Ends a run that broke with what to do. Ansible loads it for playbooks of this folder, whatever the configuration says."""

from __future__ import annotations

from typing import Any

from ansible import constants as C
from ansible import context
from ansible.errors import AnsibleError
from ansible.plugins.callback import CallbackBase

from ansible_collections.hnai.platform.plugins.plugin_utils.remedies import Said, told
from ansible_collections.hnai.platform.plugins.plugin_utils.site import unreadable, unreadable_file, vaulted

DOCUMENTATION = r"""
name: hnai_remedies
type: aggregate
short_description: Ends a run that broke with what to do
description:
  - An unreachable host, a refused sudo and a full disk are told by Ansible itself, without a remedy. This says it once for each cause, at the end of the
    run, with the hosts. A file of the inventory that Ansible cannot read is named when the run begins. Silent in every other run.
"""


class CallbackModule(CallbackBase):
    """See the core: plugins/plugin_utils/remedies.py."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "hnai_remedies"
    CALLBACK_NEEDS_ENABLED = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.heard: list[Said] = []

    def v2_playbook_on_start(self, playbook: Any) -> None:
        """Of a file of variables that it cannot read Ansible says what is wrong, but not where, and ends. Where it reads them with the inventory, it
        has ended before this."""
        if C.RUN_VARS_PLUGINS == "start":
            return
        sources = context.CLIARGS.get("inventory") or C.DEFAULT_HOST_LIST or ()
        closed = []
        for path in vaulted(sources):
            try:
                playbook._loader.load_from_file(str(path), cache="all", unsafe=True, trusted_as_template=True)
            except AnsibleError as error:
                closed.append(unreadable_file(path, str(error)))
        for problem in [*unreadable(sources), *closed]:
            self._display.error(f"{problem.file}: {problem.key}: {problem.message}\nremedy: {problem.remedy}", wrap_text=False)

    def _heard(self, result: Any, away: bool) -> None:
        content = dict(result.result)
        parts = [content.get("msg"), content.get("module_stderr")]
        text = "\n".join(str(part) for part in parts if part)
        # Of a loop each item was heard for itself.
        if away and "results" in content:
            return
        # Of a delegated task it is the other host that was not reached.
        self.heard.append(Said(str(result.task.delegate_to or result.host.get_name()), text, away))

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        """A failure."""
        if not ignore_errors:
            self._heard(result, False)

    def v2_runner_item_on_failed(self, result: Any) -> None:
        """A failure in a loop, or a host that does not answer there."""
        self._heard(result, bool(result.result.get("unreachable")))

    def v2_runner_on_unreachable(self, result: Any) -> None:
        """A host that does not answer."""
        self._heard(result, True)

    def v2_playbook_on_stats(self, stats: Any) -> None:
        """The end of the run."""
        for text in told(self.heard):
            self._display.error(text, wrap_text=False)
