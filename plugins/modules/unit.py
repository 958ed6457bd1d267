#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
# Apache-2.0 goes together with Ansible's own licence, the GNU General Public License version 3.
"""Module side of unit."""

from __future__ import annotations

DOCUMENTATION = r"""
module: unit
short_description: A systemd unit that is enabled and runs what lies on the host now
version_added: "0.1.0"
author: hnai.platform maintainers (@hnai)
description:
  - Computes a restart digest and a reload digest of the unit, enables it, writes the digests as the last step, then starts,
    restarts or reloads it, exactly once per change, and verifies that it stays active.
  - What runs is recorded by the unit itself when it starts (C(/run/hnai/<unit>.restart)), so that a restart that is due
    survives a killed run, and a restart by hand settles it. There are no handlers.
  - The unit's own file and drop-ins always belong to the restart digest.
  - A oneshot unit that does not remain active is started once per digest.
  - Units that belong together are given as O(units) and come up together, in the order that their C(After=) gives.
options:
  name:
    description: Full name of the unit, with its suffix.
    type: str
  units:
    description:
      - Several units of one component, in place of O(name) and the paths beside it. All are begun, in this order, before any is
        waited for; one that fails keeps no other from being begun and judged, and the task then fails with all the reasons.
    type: list
    elements: dict
    suboptions:
      name:
        description: As O(name).
        type: str
        required: true
      restart_on:
        description: As O(restart_on).
        type: list
        elements: str
        default: []
      restart_ignore:
        description: As O(restart_ignore).
        type: list
        elements: str
        default: []
      reload_on:
        description: As O(reload_on).
        type: list
        elements: str
        default: []
      ports:
        description: As O(ports).
        type: list
        elements: str
        default: []
      data:
        description: As O(data).
        type: list
        elements: str
        default: []
  restart_on:
    description: >-
      Paths or globs. Directories count recursively by content; a symbolic link counts by its target and by the
      C(.hnai-manifest) in it. A changed binary, configuration or credential belongs here.
    type: list
    elements: str
    default: []
  restart_ignore:
    description: Paths or globs that do not count for a restart although they lie below O(restart_on). Everything in
      O(reload_on) is ignored anyway.
    type: list
    elements: str
    default: []
  reload_on:
    description: Paths or globs whose change is taken up by C(systemctl reload). The unit must have C(ExecReload).
    type: list
    elements: str
    default: []
  ports:
    description: >-
      TCP ports that the unit takes, as C(9091) (on every address) or C(127.0.0.1:9001). While somebody else listens there it is not started, and the error
      says who. For products that end for want of a port only when systemd has called them active, or that wait.
    type: list
    elements: str
    default: []
  data:
    description: >-
      Directories in which the unit stores. Where it did and they are empty now (a file system that is not mounted), nothing is done to it and the error
      says so, in check mode too. A unit that must not even be started by systemd then has C(sandbox_data) of role C(component).
    type: list
    elements: str
    default: []
  enabled:
    description: Whether the unit starts at boot. Static units are left as they are.
    type: bool
    default: true
  state:
    description: Whether the unit runs.
    type: str
    choices: [started, stopped]
    default: started
  rolling:
    description: >-
      V(true) starts what does not run, but never restarts what does: it only reports RV(restart_pending), and the roll of the
      component's playbook restarts host by host.
    type: bool
    default: false
  force_restart:
    description: For the step of a roll, overrides O(rolling). A restart still happens only when one is pending.
    type: bool
    default: false
  settle_s:
    description: The unit must be this old (seconds) and still the same start before the task ends. Units that run longer cost
      no wait.
    type: float
    default: 3
  timeout_s:
    description: How long a start, stop or reload may take, in seconds.
    type: float
    default: 90
  predicted_changes:
    description: >-
      Check mode only: paths that earlier tasks would change (as RV(ignore:changed_paths) of M(hnai.platform.config_tree)), so
      that the restart they would cause is predicted too.
    type: list
    elements: str
    default: []
attributes:
  check_mode:
    description: Predicts, also on a host that does not have the unit yet.
    support: full
  diff_mode:
    description: Which files differ between what runs and what should.
    support: full
"""

EXAMPLES = r"""
- name: Run the unit
  hnai.platform.unit:
    name: hnai-kafka.service
    restart_on: [/opt/hnai/kafka/current, /etc/hnai/kafka, /etc/credstore.encrypted/hnai-kafka.*]
    reload_on: [/etc/hnai/kafka/tls]
    rolling: true
    predicted_changes: "{{ __kafka_tree.changed_paths + __kafka_tree.removed }}"
  register: __kafka_unit
"""

RETURN = r"""
state:
  description: ActiveState at the end. Of O(units) these values stand in RV(units).
  returned: with O(name)
  type: str
restart_pending:
  description: The unit runs something else than what lies on the host, and was not restarted.
  returned: with O(name)
  type: bool
reload_pending:
  description: As RV(restart_pending), for what a reload takes up.
  returned: with O(name)
  type: bool
started:
  description: It was started (it did not run).
  returned: with O(name)
  type: bool
restarted:
  description: It was restarted.
  returned: with O(name)
  type: bool
reloaded:
  description: It was reloaded.
  returned: with O(name)
  type: bool
causes:
  description: Paths whose change led, or will lead, to the restart or reload.
  returned: with O(name)
  type: list
  elements: str
actions:
  description: Everything that was done, in order.
  returned: with O(name)
  type: list
  elements: str
units:
  description: The values above for each unit, by its name.
  returned: with O(units)
  type: dict
"""

import contextlib
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hnai.platform.plugins.module_utils.hostfiles import Host, HostError
from ansible_collections.hnai.platform.plugins.module_utils.unit import Outcome, Request, Unit, converge_all

#: What each unit has of its own.
_OWN = ("restart_on", "restart_ignore", "reload_on", "ports", "data")
#: What holds for all units of the task.
_SHARED = ("enabled", "state", "rolling", "force_restart", "settle_s", "timeout_s")


def told(outcome: Outcome) -> dict[str, Any]:
    """What a task returns of one unit."""
    return {
        "state": outcome.state,
        "restart_pending": outcome.restart_pending,
        "reload_pending": outcome.reload_pending,
        "started": "started" in outcome.actions,
        "restarted": "restarted" in outcome.actions,
        "reloaded": "reloaded" in outcome.actions,
        "causes": outcome.causes,
        "actions": outcome.actions,
    }


def main() -> None:
    """Reads the arguments, converges, reports."""
    paths: dict[str, Any] = {"type": "list", "elements": "str", "default": []}
    own = {option: dict(paths) for option in _OWN}
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str"},
            "units": {"type": "list", "elements": "dict", "options": {"name": {"type": "str", "required": True}, **own}},
            **own,
            "enabled": {"type": "bool", "default": True},
            "state": {"type": "str", "choices": ["started", "stopped"], "default": "started"},
            "rolling": {"type": "bool", "default": False},
            "force_restart": {"type": "bool", "default": False},
            "settle_s": {"type": "float", "default": 3},
            "timeout_s": {"type": "float", "default": 90},
            "predicted_changes": paths,
        },
        required_one_of=[("name", "units")],
        mutually_exclusive=[("name", "units")],
        supports_check_mode=True,
    )
    given = module.params
    host = Host()
    shared: dict[str, Any] = {**{option: given[option] for option in _SHARED}, "predicted_changes": tuple(given["predicted_changes"])}
    requests = [
        Request(one["name"], **{**shared, **{option: tuple(one[option]) for option in _OWN}})
        for one in (given["units"] if given["name"] is None else [given])
    ]
    try:
        with contextlib.ExitStack() as locks:
            for name in sorted(request.name for request in requests):
                if not module.check_mode:
                    locks.enter_context(host.lock(f"unit-{name}", timeout=given["timeout_s"] + 30))
            outcomes = converge_all([Unit(host, request, module.check_mode) for request in requests])
    except (HostError, OSError) as error:
        module.fail_json(msg=str(error))
    for warning in [warning for outcome in outcomes for warning in outcome.warnings]:
        module.warn(warning)
    names = [request.name for request in requests]
    results = {name: told(outcome) for name, outcome in zip(names, outcomes)}
    differences = [
        {"before": outcome.before, "after": outcome.after, "before_header": name, "after_header": name} for name, outcome in zip(names, outcomes)
    ]
    module.exit_json(
        changed=any(outcome.changed for outcome in outcomes),
        **({"units": results} if given["name"] is None else results[given["name"]]),
        **({"diff": differences} if module._diff else {}),
    )


if __name__ == "__main__":
    main()
