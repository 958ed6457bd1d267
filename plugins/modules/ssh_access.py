#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
# Apache-2.0 goes together with Ansible's own licence, the GNU General Public License version 3.
"""Documentation of ssh_access; all of it happens on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: ssh_access
short_description: Steps of replacing the SSH key that the run itself logs in with
version_added: "0.1.0"
author: hnai.platform maintainers (@hnai)
description:
  - Works on three files of the controller, C(KEY), C(KEY.next) and C(KEY.old), each with its C(.pub), by renames only. C(KEY) opens every host at
    every moment. C(playbooks/rotate_access.yml) puts the steps into their order and changes C(authorized_keys) in between.
  - Logins for a proof are new connections, through the jump as well, which know one key and no agent.
  - Never returns a private key.
options:
  key:
    description: Private key file that the run logs in with.
    type: path
    required: true
  state:
    description:
      - V(looked) says where an earlier run stopped.
      - V(prepared) makes the next key, once.
      - V(proven) logs in to the host with the new key alone, and fails if that does not work.
      - V(switched) makes the next key the one in use.
      - V(refused) logs in to the host with the old key alone. It fails if that works, and if nobody can say.
      - V(dropped) removes the old key's files.
      - V(discarded) removes a prepared key's files, before the switch.
    type: str
    choices: [looked, prepared, proven, switched, refused, dropped, discarded]
    required: true
  comment:
    description: Comment of a new key.
    type: str
    default: hnai
attributes:
  check_mode:
    description: Says what a run would do; logs in, and changes no file.
    support: full
  diff_mode:
    description: Has nothing to show.
    support: none
"""

EXAMPLES = r"""
- name: Log in with the new key alone
  hnai.platform.ssh_access:
    key: ~/.ssh/site
    state: proven
"""

RETURN = r"""
phase:
  description: V(idle), V(prepared), V(switching) or V(switched).
  returned: success
  type: str
public:
  description: Public half of the key in use.
  returned: success
  type: str
fingerprint:
  description: SHA256 fingerprint of the key in use.
  returned: success
  type: str
next:
  description: Public half and fingerprint of the key that is prepared.
  returned: when there is one
  type: dict
old:
  description: Public half and fingerprint of the key that was replaced.
  returned: when there is one
  type: dict
"""
