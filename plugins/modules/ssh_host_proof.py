#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
# Apache-2.0 goes together with Ansible's own licence, the GNU General Public License version 3.
"""Documentation of ssh_host_proof; all of it happens on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: ssh_host_proof
short_description: Trust the CA of the hosts' SSH keys, and see that a host serves its certificate
version_added: "0.1.0"
author: hnai.platform maintainers (@hnai)
description:
  - Works on a file of the controller that ssh reads beside the pinned keys (C(UserKnownHostsFile) names both). The pinned keys are never touched.
  - A proof is a new connection to the host, through a new one to the jump, which takes a certificate of that CA alone; no pinned key can stand in for it.
options:
  state:
    description:
      - V(trusted) puts the CA into O(known_hosts) for O(names). Lines of another CA stay.
      - V(proven) logs in with the CA alone and reads the serial that is served; then it tries once with a CA that was made just now, and fails if that works.
    type: str
    choices: [trusted, proven]
    required: true
  known_hosts:
    description: File of the controller for the CA.
    type: path
  ca:
    description: Public key of the CA.
    type: str
    required: true
  names:
    description: Names and addresses of the site's hosts, for which the CA is trusted.
    type: list
    elements: str
    default: []
  serial:
    description: Serial that must be served.
    type: str
    default: ""
attributes:
  check_mode:
    description: Predicts; logs in.
    support: full
  diff_mode:
    description: The lines of O(known_hosts).
    support: full
"""

EXAMPLES = r"""
- name: See that the host serves its certificate
  hnai.platform.ssh_host_proof:
    state: proven
    ca: "{{ signed.ca }}"
    serial: "1234567890"
"""

RETURN = r"""
proof:
  description: C(new_served) and C(wrong_refused), with the C(serial) that was served.
  returned: O(state=proven)
  type: dict
"""
