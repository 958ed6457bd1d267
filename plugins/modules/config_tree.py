#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
# Apache-2.0 goes together with Ansible's own licence, the GNU General Public License version 3.
"""Module side of config_tree: converges rendered files on the host."""

from __future__ import annotations

DOCUMENTATION = r"""
module: config_tree
short_description: Converge a component's configuration tree in one round trip
version_added: "0.1.0"
author: hnai.platform maintainers (@hnai)
description:
  - Renders every file below C(roles/<component>/tree/) on the controller and makes the host's files equal to them.
  - A file that ends in C(.j2) is rendered with the variables of the task (the suffix is dropped); every other file is sent as
    it is. Templates may include files of C(roles/<component>/templates/) and of C(roles/component/templates/).
  - Accounts of C(sysusers.d) come first, then the checkers (an invalid candidate is refused, nothing is replaced),
    directories, files, removals, C(tmpfiles.d), C(sysctl.d) (what is in force, not the file alone), and C(daemon-reload) when a unit changed or
    systemd says that one is due.
  - A service's account has no shell, no password, its declared home and no group that nobody declared; its group has no other members. An account with
    a declared shell is a person's, who may change it.
  - A file that somebody changed is put back, and a unit that was started with what they wrote, or reads the file at a reload, is told to take up
    what is put back (M(hnai.platform.unit) then restarts or reloads it).
  - Files that the tree once had and no longer has are removed (a removed unit is stopped and disabled first). Files that
    never were part of it are never touched; those in the component's own directories (C(/etc/hnai/<component>), C(/usr/local/lib/hnai/<component>), drop-ins
    of its units) are named by a warning and in RV(foreign), and so is a link in the place of one of them. The tree of role C(host) also names units
    called C(hnai-*) that no component has.
  - What is owned stands in C(/var/lib/hnai/trees/<component>.json), which is widened before the first change and narrowed
    after the last, so a run that was killed loses nothing.
  - A tree carries no secret. A rendered file with a PEM private key is refused; values that look like secrets are masked in
    the diff.
options:
  component:
    description: Name of the role whose tree this is.
    type: str
    required: true
  owner:
    description: Owner of the files below C(/etc/hnai/<component>/). All other files belong to root.
    type: str
    default: root
  group:
    description: >-
      Group of the files below C(/etc/hnai/<component>/), which get mode 0640 (directories 0750; 0750 for files that are
      executable in the tree). All other files are C(root:root) 0644 (0755 when executable in the tree).
    type: str
    default: root
  modes:
    description: >-
      Exceptions to mode and owner, the last match wins. A pattern that ends in a slash means a directory, which then is kept
      so.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: Glob over the target path; an asterisk crosses slashes.
        type: str
        required: true
      mode:
        description: Octal permission bits, as a string.
        type: str
      owner:
        description: Name of the owner.
        type: str
      group:
        description: Name of the group.
        type: str
  foreach:
    description: >-
      Files whose path contains C(__<key>__) of an item (as C(__instance__)) are rendered once per item, with the item's keys
      as variables and its value in the path.
    type: list
    elements: dict
    default: []
  exclude:
    description: Globs over the target path of files that this host does not get.
    type: list
    elements: str
    default: []
  leave:
    description:
      - Globs over the target path of files that are somebody else's on this host.
      - They are neither written nor removed, also where they were of the tree before.
    type: list
    elements: str
    default: []
  validate:
    description: >-
      Checkers. They run on candidates in a private directory that mirrors the whole tree, whenever the file or a file beside
      or below it changes.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: The file of the tree that is checked; a glob means each that matches.
        type: str
        required: true
      command:
        description: The checker, where C(%s) is the candidate's path and C(%d) the mirror's root.
        type: list
        elements: str
        required: true
  foreign_ignore:
    description:
      - Globs of files in the component's directories that other tools write there and that are not worth a report.
      - The certificates in C(tls) are always among them.
    type: list
    elements: str
    default: []
  hold:
    description:
      - Files of the tree that are checked but not written when their content would change. RV(held) says how they would, and a second task
        without this option writes them when the answer is in.
    type: list
    elements: str
    default: []
  watch:
    description: Globs of files on the host whose presence the caller wants to know of (RV(watched)).
    type: list
    elements: str
    default: []
  files:
    description: The rendered files. Set by the action plugin.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: Absolute target path.
        type: str
        required: true
      content:
        description: Base64 of the content.
        type: str
        required: true
      mode:
        description: Octal permission bits, as a string.
        type: str
        required: true
      owner:
        description: Name of the owner.
        type: str
        required: true
      group:
        description: Name of the group.
        type: str
        required: true
  directories:
    description: The directories that belong to the component. Set by the action plugin.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: Absolute target path.
        type: str
        required: true
      mode:
        description: Octal permission bits, as a string.
        type: str
        required: true
      owner:
        description: Name of the owner.
        type: str
        required: true
      group:
        description: Name of the group.
        type: str
        required: true
attributes:
  check_mode:
    description: Predicts exactly, also on a host that has neither the accounts nor the directories yet.
    support: full
  diff_mode:
    description: One masked difference per file; directories, missing accounts and kernel settings too.
    support: full
"""

EXAMPLES = r"""
- name: Converge the configuration tree
  hnai.platform.config_tree:
    component: mosquitto
    group: hnai-mosquitto
    modes:
      - {path: "/etc/hnai/mosquitto/acl", mode: "0600", owner: hnai-mosquitto}
    validate:
      - {path: /etc/nftables.d/mosquitto.nft, command: [nft, --check, --file, "%s"]}
"""

RETURN = r"""
changed_paths:
  description: Files that were written or repaired; directories end in a slash.
  returned: always
  type: list
  elements: str
rights:
  description: Of RV(changed_paths) those whose content stays - mode or owner are repaired, or they are directories. No unit restarts for them.
  returned: always
  type: list
  elements: str
removed:
  description: Files that were removed because the tree no longer has them.
  returned: always
  type: list
  elements: str
foreign:
  description: Files in the component's own directories that the tree never had. They are left alone.
  returned: always
  type: list
  elements: str
stopped:
  description: Units that were stopped and disabled because the tree no longer has them.
  returned: always
  type: list
  elements: str
held:
  description: Files of O(hold) that were not written, with C(path), C(before) (empty where there is none) and C(after).
  returned: always
  type: list
  elements: dict
watched:
  description: Files that are there and match O(watch).
  returned: always
  type: list
  elements: str
sysctl:
  description: Kernel settings that were not in force as the tree declares them, and were put in force.
  returned: always
  type: list
  elements: str
daemon_reload:
  description: Whether systemd read its units again.
  returned: always
  type: bool
"""

import base64
import binascii
import contextlib

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hnai.platform.plugins.module_utils.config_tree import Directory, Entry, Tree, Validator
from ansible_collections.hnai.platform.plugins.module_utils.hostfiles import NAME, Host, HostError


def main() -> None:
    """Reads the arguments, converges, reports."""
    text = {"type": "str", "required": True}
    place = {"path": text, "mode": text, "owner": text, "group": text}
    module = AnsibleModule(
        argument_spec={
            "component": text,
            "owner": {"type": "str", "default": "root"},
            "group": {"type": "str", "default": "root"},
            "modes": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {"path": text, "mode": {"type": "str"}, "owner": {"type": "str"}, "group": {"type": "str"}},
            },
            "foreach": {"type": "list", "elements": "dict", "default": []},
            "exclude": {"type": "list", "elements": "str", "default": []},
            "leave": {"type": "list", "elements": "str", "default": []},
            "validate": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {"path": text, "command": {"type": "list", "elements": "str", "required": True}},
            },
            "foreign_ignore": {"type": "list", "elements": "str", "default": []},
            "hold": {"type": "list", "elements": "str", "default": []},
            "watch": {"type": "list", "elements": "str", "default": []},
            "files": {"type": "list", "elements": "dict", "default": [], "options": {**place, "content": text}},
            "directories": {"type": "list", "elements": "dict", "default": [], "options": place},
        },
        supports_check_mode=True,
    )
    given = module.params
    host = Host()
    try:
        if not NAME.match(given["component"]):
            raise HostError(f"component: '{given['component']}' is not a component's name")
        tree = Tree(
            host,
            given["component"],
            [
                Entry(
                    item["path"],
                    base64.b64decode(item["content"], validate=True),
                    int(item["mode"], 8),
                    item["owner"],
                    item["group"],
                )
                for item in given["files"]
            ],
            [Directory(item["path"], int(item["mode"], 8), item["owner"], item["group"]) for item in given["directories"]],
            [Validator(item["path"], tuple(item["command"])) for item in given["validate"]],
            check=module.check_mode,
            foreign_ignore=tuple(given["foreign_ignore"]),
            hold=tuple(given["hold"]),
            watch=tuple(given["watch"]),
            leave=tuple(given["leave"]),
        )
        with contextlib.nullcontext() if module.check_mode else host.lock(f"tree-{given['component']}"):
            outcome = tree.converge()
    except (HostError, OSError, ValueError, binascii.Error) as error:
        module.fail_json(msg=str(error))
    for warning in outcome.warnings:
        module.warn(warning)
    module.exit_json(
        changed=outcome.changed,
        changed_paths=outcome.changed_paths,
        rights=outcome.rights,
        removed=outcome.removed,
        foreign=outcome.foreign,
        stopped=outcome.stopped,
        held=outcome.held,
        watched=outcome.watched,
        sysctl=outcome.sysctl,
        daemon_reload=outcome.daemon_reload,
        **({"diff": outcome.diff} if module._diff else {}),
    )


if __name__ == "__main__":
    main()
