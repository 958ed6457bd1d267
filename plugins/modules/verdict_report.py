#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
# Apache-2.0 goes together with Ansible's own licence, the GNU General Public License version 3.
"""Documentation of the action plugin of the same name; nothing here runs on a host."""
from __future__ import annotations

DOCUMENTATION = r"""
module: verdict_report
short_description: Judges the verdicts of a whole site and keeps them
version_added: 0.1.0
description:
  - Gathers what the check modules of this run found on all hosts, compares it with what the contracts of the placed
    components say must arrive, and judges it as one.
  - A check module registers its result as C(<component>_verdict), or C(<component>_verdict__<anything>) where
    a component has several.
  - A verdict that was expected and did not come is V(inconclusive) and names component and host.
  - Writes C(record.json), C(report.html), C(junit.xml), the raw evidence and C(SHA256SUMS) into a folder of its own below
    O(path), and points C(latest) at it.
  - Runs on the controller and opens no connection.
options:
  path:
    description:
      - Folder of the verdicts on the controller.
    type: path
    required: true
  site:
    description:
      - Name of the site, for the record.
    type: str
    default: ""
  environment:
    description:
      - Kind of the site, for the record.
    type: str
    default: ""
  profile:
    description:
      - What was asked of the checks. V(quick) judges what already lies in the store.
    type: str
    choices: [quick, full]
    default: quick
  expected_skips:
    description:
      - Ids of checks that cannot be made on this site and may be V(skipped).
      - A skipped check that is not listed fails; a listed one that was not skipped is reported.
    type: list
    elements: str
    default: []
  allow_inconclusive:
    description:
      - Ids of checks that may be V(inconclusive).
    type: list
    elements: str
    default: []
  full_max_age:
    description:
      - Seconds after which the last verdict of the full profile is too old, which then fails the quick one.
      - V(0) only shows its age.
    type: int
    default: 0
  explain:
    description:
      - Id of a check. Instead of judging, print from the newest record how a third party repeats it.
    type: str
  closing:
    description:
      - Whether the verdict closes a run of the site. An end in the site model that has passed (V-expiry, V-glass) then makes the record red and
        does not fail the run by itself.
    type: bool
    default: false
  show:
    description:
      - Instead of judging, print the newest record again.
    type: bool
    default: false
attributes:
  check_mode:
    description: In check mode the table is printed, but nothing is written and the verdict does not fail the task.
    support: full
author:
  - hnai.platform maintainers (@hnai)
"""

EXAMPLES = r"""
- name: Judge all verdicts of the run
  hnai.platform.verdict_report:
    path: "{{ hnai_state_dir }}/verdicts"
    site: "{{ hnai_site }}"
    environment: "{{ hnai_environment }}"
    expected_skips: "{{ hnai_expected_skips | default([]) }}"
  run_once: true

- name: Say how a third party repeats a check
  hnai.platform.verdict_report:
    path: "{{ hnai_state_dir }}/verdicts"
    explain: K2
  run_once: true
"""

RETURN = r"""
verdict:
  description: The verdict of the whole.
  returned: unless O(explain) or O(show) is given
  type: str
  sample: pass
summary:
  description: One line with the counts and the first problems.
  returned: unless O(explain) or O(show) is given
  type: str
counts:
  description: Number of checks by status.
  returned: unless O(explain) or O(show) is given
  type: dict
problems:
  description: The checks that speak against it, the worst first.
  returned: unless O(explain) or O(show) is given
  type: list
  elements: dict
folder:
  description: Folder of this run's files; empty in check mode.
  returned: unless O(explain) or O(show) is given
  type: str
"""

from ansible.module_utils.basic import AnsibleModule


def main() -> None:
    """Refuse: the action plugin does everything on the controller."""
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "site": {"type": "str", "default": ""},
            "environment": {"type": "str", "default": ""},
            "profile": {"type": "str", "choices": ["quick", "full"], "default": "quick"},
            "expected_skips": {"type": "list", "elements": "str", "default": []},
            "allow_inconclusive": {"type": "list", "elements": "str", "default": []},
            "full_max_age": {"type": "int", "default": 0},
            "explain": {"type": "str"},
            "show": {"type": "bool", "default": False},
            "closing": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    module.fail_json(msg="verdict_report runs as an action plugin on the controller; call it as hnai.platform.verdict_report")


if __name__ == "__main__":
    main()
