#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
# Apache-2.0 goes together with Ansible's own licence, the GNU General Public License version 3.
"""Module side of access_keys."""

from __future__ import annotations

DOCUMENTATION = r"""
module: access_keys
short_description: The SSH keys that open a host, and no others
version_added: "0.1.0"
author: hnai.platform maintainers (@hnai)
description:
  - Keeps C(~/.ssh/authorized_keys) of the user whom runs log in as - exactly O(keys), 0600. A key that somebody added goes, one that is missing or has
    other options comes back.
  - Where none of the keys that are there would be left it fails and changes nothing - the run would shut itself out.
  - Files in C(/etc/ssh/authorized_keys) of anybody who is not among O(operators) are removed; sshd would open for them too. The operators' own files
    are part of the role's tree.
  - Names in RV(foreign), and by a warning, what nobody declared and that decides who comes in, who becomes root or what runs, and leaves it alone -
    keys in files of other users; what sshd obeys otherwise than C(/etc/ssh/sshd_config.d/10-hnai.conf) says; lines of C(sudoers); users that share a
    number; members of groups that are as good as root; C(/etc/ld.so.preload) and what else every program, unit or Python is
    given; programs in C(/usr/local) that stand before the distribution's;
    C(/etc/nftables.conf); units and drop-ins of others that concern ours; another address of a host of the site in C(/etc/hosts); files of
    C(sysctl.d) that are read after ours and say otherwise.
options:
  user:
    description: Whom runs log in as. Required with O(keys). Without it RV(foreign) leaves out what is of the user who became root by sudo.
    type: str
    default: ""
  keys:
    description: Public keys, in authorized_keys format. Empty leaves the user's file alone.
    type: list
    elements: str
    default: []
  operators:
    description: Names of the declared operators.
    type: list
    elements: str
    required: true
  foreign_ignore:
    description: Globs over what would be named in RV(foreign), for what the site wants so.
    type: list
    elements: str
    default: []
attributes:
  check_mode:
    description: Predicts.
    support: full
  diff_mode:
    description: Fingerprints and comments.
    support: full
"""

EXAMPLES = r"""
- name: Keep the keys that open this host
  hnai.platform.access_keys:
    user: ansible
    keys: "{{ host_access_keys }}"
    operators: "{{ host_operators | map(attribute='name') }}"
"""

RETURN = r"""
changed_paths:
  description: Files that were written.
  returned: always
  type: list
  elements: str
foreign:
  description: What nobody declared, a sentence each that begins with the file. It is left alone.
  returned: always
  type: list
  elements: str
removed:
  description: Files that were removed.
  returned: always
  type: list
  elements: str
"""

import contextlib
import platform
import pwd

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hnai.platform.plugins.module_utils.host import strangers
from ansible_collections.hnai.platform.plugins.module_utils.host.keys import Door
from ansible_collections.hnai.platform.plugins.module_utils.hostfiles import Host, HostError


def main() -> None:
    """Reads the arguments, converges, reports."""
    module = AnsibleModule(
        argument_spec={
            "user": {"type": "str", "default": ""},
            "keys": {"type": "list", "elements": "str", "default": [], "no_log": False},
            "operators": {"type": "list", "elements": "str", "required": True},
            "foreign_ignore": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    given = module.params
    host = Host()
    door = Door(host, module.check_mode)
    try:
        with contextlib.nullcontext() if module.check_mode else host.lock("access-keys"):
            if given["keys"]:
                try:
                    account = pwd.getpwnam(given["user"])
                except KeyError as error:
                    raise HostError(f"host_access_keys: there is no user '{given['user']}' on this host; ansible_user names whom runs log in as") from error
                door.user(given["user"], account.pw_dir, account.pw_uid, account.pw_gid, given["keys"])
            door.operators(given["operators"])
        foreign = strangers.found(host, strangers.declared(given))
    except (HostError, OSError, ValueError) as error:
        module.fail_json(msg=str(error))
    outcome = door.outcome
    for sentence in foreign:
        module.warn(f"{platform.node()}: {sentence}; nobody of the site declared it, it is left alone")
    module.exit_json(
        changed=outcome.changed,
        changed_paths=outcome.changed_paths,
        removed=outcome.removed,
        foreign=foreign,
        **({"diff": outcome.diff} if module._diff else {}),
    )


if __name__ == "__main__":
    main()
