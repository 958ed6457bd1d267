#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
# Apache-2.0 goes together with Ansible's own licence, the GNU General Public License version 3.
"""Documentation of the action plugin of the same name."""

from __future__ import annotations

DOCUMENTATION = r"""
module: site_validate
short_description: Hold the site model against its contracts and invariants
version_added: "0.1.0"
author: hnai.platform maintainers (@hnai)
description:
  - Reads the inventory variables of all hosts and the contracts of all components, and contacts no host.
  - Reports everything that is wrong in one list, each finding with the file and key where it stands and what to do
    about it, and fails once.
  - Refused are a needed flow without a conduit, a conduit that nothing needs, one that the zone rules forbid even if a
    person approved it, a component on a forbidden level, two listeners on one port, an even quorum, a buffer too
    small for the outage that C(slo.yml) declares, an unknown variable with a prefix of the collection, an expired conduit.
options:
  format:
    description: Whether the message is text for people, or the findings as JSON.
    type: str
    choices: [text, json]
    default: text
  expired:
    description:
      - Whether an expired conduit fails, or is only reported.
      - A run of a running site reports it, so that an approval which ended in the night stops nobody's repair.
    type: str
    choices: [error, report]
    default: error
  export:
    description:
      - Folder to write the drawing (C(zones.svg), C(zones.mmd)), the evidence (C(zones.html), C(evidence.json)) and the table for the owners of
        boundaries that are not ours (C(external.csv), C(external.json), C(external.md)) to. Nothing is written in check mode.
      - When each conduit was last proven is taken from the verdicts in C(hnai_state_dir).
    type: path
  files:
    description:
      - Whether the files that C(hnai_ot_sources) names, certificates of servers and passwords of the mirror's identities, must lie on this controller.
      - A run that is to deploy the collector looks for them; whoever judges a change of the model elsewhere need not have them.
    type: bool
    default: false
  today:
    description: The day on which expiry is judged, as YYYY-MM-DD. The controller's day by default.
    type: str
attributes:
  platform:
    description: Runs on the controller.
    support: full
    platforms: posix
extends_documentation_fragment: hnai.platform.reading
"""

EXAMPLES = r"""
- name: Validate the site
  hnai.platform.site_validate:
"""

RETURN = r"""
errors:
  description: What must be corrected.
  returned: always
  type: list
  elements: dict
  contains:
    file:
      description: The file where it stands.
      type: str
    key:
      description: The key in that file.
      type: str
    message:
      description: What is wrong.
      type: str
    remedy:
      description: What to do.
      type: str
    invariant:
      description: The rule that is broken, as I1 or I13, or a word.
      type: str
    severity:
      description: Either error or warning.
      type: str
    sr:
      description: Requirements of IEC 62443-3-3 that it bears on.
      type: list
      elements: str
warnings_found:
  description: What will need attention, in the same form.
  returned: always
  type: list
  elements: dict
flows:
  description: Number of flows that the placed components need.
  returned: when the model could be read
  type: int
conduits:
  description: Number of approved conduits.
  returned: when the model could be read
  type: int
exported:
  description: The files that were written.
  returned: always
  type: list
  elements: str
"""

from ansible.module_utils.basic import AnsibleModule


def main() -> None:
    """The work is done by the action plugin."""
    module = AnsibleModule(
        argument_spec={
            "expired": {"type": "str", "choices": ["error", "report"], "default": "error"},
            "export": {"type": "path"},
            "files": {"type": "bool", "default": False},
            "format": {"type": "str", "choices": ["text", "json"], "default": "text"},
            "today": {"type": "str"},
        },
        supports_check_mode=True,
    )
    module.fail_json(msg="site_validate runs on the controller: call it by its full name, hnai.platform.site_validate")


if __name__ == "__main__":
    main()
