#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
# Apache-2.0 goes together with Ansible's own licence, the GNU General Public License version 3.
"""Module side of approle_rotation."""

from __future__ import annotations

DOCUMENTATION = r"""
module: approle_rotation
short_description: Rotate the secret_id of one of the run's own identities
version_added: "0.1.0"
author: hnai.platform maintainers (@hnai)
description:
  - Runs on the OpenBao host. C(site-admin) issues the new secret_id, C(hnai-rotation) keeps the journal and ends the old one by its accessor.
  - The value lies in O(identities_file) of the controller and nowhere else. The action plugin of the same name stores it there before it is proven,
    switches the file after it was proven (by one write; the old one is kept in it), and removes the old one from it when it is proven to be refused.
  - A run that was killed is simply run again. The journal (C(approle/<identity>/_rotation)) holds fingerprints.
extends_documentation_fragment:
  - hnai.platform.openbao
  - hnai.platform.openbao.deploy
  - hnai.platform.openbao.site_admin
  - hnai.platform.rotation
options:
  path:
    description: Which.
    type: str
    required: true
    choices: [approle/deploy, approle/site-admin]
  identities_file:
    description: Controller file with the identities, mode 0600.
    type: path
    required: true
  forced:
    description: Rotate it although more than a third of its life is left.
    type: bool
    default: false
  grace:
    description: Seconds that the old one stays valid after the switch. Up to 200 are waited for; a longer time ends the run, and the next one goes on.
    type: float
    default: 0
  next:
    description: Set by the action plugin.
    type: dict
    default: {}
  old:
    description: Set by the action plugin.
    type: dict
    default: {}
attributes:
  check_mode:
    description: Says what a run would do.
    support: full
  diff_mode:
    description: There is nothing to show that is no secret.
    support: none
"""

EXAMPLES = r"""
- name: Rotate the secret_id of deploy
  hnai.platform.approle_rotation:
    path: approle/deploy
    identities_file: "{{ hnai_state_dir }}/openbao/deploy.json"
    run_id: "{{ now(utc=true, fmt='%Y%m%dT%H%M%S.%fZ') }}"
    forced: true
"""

RETURN = r"""
step:
  description: V(closed) at the end; V(idle) where it is not due.
  returned: not in check mode
  type: str
rotation:
  description: The journal. No value.
  returned: always
  type: dict
plan:
  description: What a run would do, one line a step.
  returned: check mode
  type: list
  elements: str
age_s:
  description: Age of the secret_id in use, in seconds.
  returned: check mode
  type: float
alive:
  description: How many secret_ids of the identity OpenBao takes; nothing where that may not be listed.
  returned: check mode
  type: int
refusals:
  description: Logins of this run that OpenBao refused, each with C(at) and C(server). They stand in its audit log.
  returned: not in check mode
  type: list
  elements: dict
busy:
  description: The run that holds it.
  returned: failure by another run
  type: dict
"""

import contextlib
import functools

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hnai.platform.plugins.module_utils.hostfiles import Host, HostError
from ansible_collections.hnai.platform.plugins.module_utils.openbao import fence, identity_steps, policies
from ansible_collections.hnai.platform.plugins.module_utils.openbao.client import (
    DEPLOY_ARGS,
    OPENBAO_ARGS,
    ROTATION_ARGS,
    SITE_ADMIN_ARGS,
    BaoError,
    Unreachable,
)
from ansible_collections.hnai.platform.plugins.module_utils.openbao.component import VisitError
from ansible_collections.hnai.platform.plugins.module_utils.openbao.elsewhere import connect
from ansible_collections.hnai.platform.plugins.module_utils.openbao.rotation import Busy, Conflict, RotationError
from ansible_collections.hnai.platform.plugins.module_utils.openbao.rotation_target import CannotTell, Refusals


def main() -> None:
    """Reads the arguments, goes on, reports."""
    secret = {"type": "dict", "default": {}, "no_log": True}
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "str", "required": True, "choices": list(policies.IDENTITIES)},
            "identities_file": {"type": "path", "required": True},
            "forced": {"type": "bool", "default": False},
            **ROTATION_ARGS,
            "grace": {"type": "float", "default": 0},
            "next": secret,
            "old": secret,
            **OPENBAO_ARGS,
            **DEPLOY_ARGS,
            **SITE_ADMIN_ARGS,
        },
        supports_check_mode=True,
    )
    given, host, refusals = dict(module.params), Host(), Refusals()
    try:
        api = connect(given, 60.0)
        with contextlib.nullcontext() if module.check_mode else host.lock("rotation-" + given["path"].replace("/", "+")):
            found = identity_steps.visit(
                api, given, fence.FileFence(host, given["path"]), module.check_mode, functools.partial(refusals.note, "%s:%d" % (api.host, api.port))
            )
    except Busy as error:
        module.fail_json(msg=str(error), busy={"owner": error.owner, "run_id": error.run_id, "state": error.state, "expired": error.expired})
    except Conflict as error:
        module.fail_json(msg="%s: the controller's file is not where the journal is; another controller works on it, or the file is an older copy" % error)
    except (RotationError, VisitError, CannotTell, HostError, BaoError, Unreachable, OSError, ValueError) as error:
        module.fail_json(msg=str(error))
    step = found.get("step", "idle")
    module.exit_json(changed=step != "idle", **found, **({} if module.check_mode else {"refusals": refusals.found}))


if __name__ == "__main__":
    main()
