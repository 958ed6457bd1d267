#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
# Apache-2.0 goes together with Ansible's own licence, the GNU General Public License version 3.
"""Module side of vault_rotate."""

from __future__ import annotations

DOCUMENTATION = r"""
module: vault_rotate
short_description: Take one step of a secret's rotation in OpenBao
version_added: "0.1.0"
author: hnai.platform maintainers (@hnai)
description:
  - Runs on the OpenBao host, logged in as the identity C(hnai-rotation). Keeps the journal of the rotation beside the secret
    (C(<path>/_rotation)), with check-and-set as lock and fence, and writes the new version of the secret, exactly one per run.
  - What happens at the target and on the consumers' hosts is done by M(hnai.platform.rotation_target) and by the roles; the playbook
    C(rotate.yml) puts the steps together. A run that was killed is simply run again.
  - The action plugin of the same name says which process of which controller takes the step, and finds out whether the one that holds the
    secret has ended.
  - With O(state=prepared) and O(state=current) the result holds secrets, so that task needs C(no_log=true).
extends_documentation_fragment:
  - hnai.platform.openbao
  - hnai.platform.openbao.deploy
  - hnai.platform.rotation
options:
  path:
    description: Path of the secret, relative to O(kv).
    type: str
    required: true
  kind:
    description: Kind of credential at the target, which says how old and new overlap.
    type: str
    required: true
    choices: [scram, scram_pair, mosquitto, vmauth, backend]
  state:
    description:
      - V(planned) looks and says what a run would do. V(current) reads the value in force, and fails where a run is open. V(prepared) takes the
        secret and makes the new value, or goes on with the open run.
      - V(published) takes the target's proof and makes the new value the newest version. V(committed) takes the consumers'
        acknowledgements; from then on there is only forward. V(closed) takes the proof that the old credential is dead.
      - V(restored), V(given_back) and V(rolled_back) are the steps of the way back, in which the old value is the newest version again,
        the consumers live on it, and the target knows only it.
    type: str
    default: planned
    choices: [planned, current, prepared, published, committed, closed, restored, given_back, rolled_back]
  grace:
    description: >-
      Seconds that the old credential stays valid after every consumer has acknowledged. Up to 200 are waited for; a longer time ends the
      run, and the next one goes on.
    type: float
    default: 0
  max_age:
    description: Seconds after which the secret is due, for the plan.
    type: float
    default: 0
  acks:
    description: Fingerprint of the value that each host lives on.
    type: dict
    default: {}
  proof:
    description: What M(hnai.platform.rotation_target) returned as proof.
    type: dict
    default: {}
attributes:
  check_mode:
    description: Every state is V(planned) then.
    support: full
  diff_mode:
    description: Versions and fingerprints only.
    support: full
"""

EXAMPLES = r"""
- name: Say what a rotation would do
  hnai.platform.vault_rotate:
    path: telegraf/kafka_writer
    kind: scram
"""

RETURN = r"""
rotation:
  description: The journal, with C(state), C(run_id), C(fence), C(direction), versions, fingerprints, C(acks), C(last). No value.
  returned: always
  type: dict
plan:
  description: What a run would do, one line a step.
  returned: O(state=planned)
  type: list
  elements: str
age_s:
  description: Age of the newest version in seconds.
  returned: O(state=planned)
  type: float
secrets:
  description: C(old) and C(new); C(current) with O(state=current).
  returned: O(state=prepared), O(state=current)
  type: dict
fingerprint:
  description: Of the value in force, as the hosts say it of theirs.
  returned: O(state=current)
  type: str
resumed:
  description: Whether a run was open already.
  returned: O(state=prepared)
  type: bool
exposed:
  description: Whether a consumer may have got the new value.
  returned: O(state=restored)
  type: bool
busy:
  description: The run that holds the secret.
  returned: failure by another run
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hnai.platform.plugins.module_utils.openbao import rotate_steps
from ansible_collections.hnai.platform.plugins.module_utils.openbao.client import (
    DEPLOY_ARGS,
    OPENBAO_ARGS,
    ROTATION_ARGS,
    BaoError,
    Unreachable,
)
from ansible_collections.hnai.platform.plugins.module_utils.openbao.component import VisitError
from ansible_collections.hnai.platform.plugins.module_utils.openbao.elsewhere import connect
from ansible_collections.hnai.platform.plugins.module_utils.openbao.rotation import Busy, RotationError


def main() -> None:
    """Reads the arguments, takes the step, reports."""
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "str", "required": True},
            "kind": {"type": "str", "required": True, "choices": list(rotate_steps.KINDS)},
            "state": {"type": "str", "default": "planned", "choices": list(rotate_steps.STATES)},
            **ROTATION_ARGS,
            "grace": {"type": "float", "default": 0},
            "max_age": {"type": "float", "default": 0},
            "acks": {"type": "dict", "default": {}},
            "proof": {"type": "dict", "default": {}},
            **OPENBAO_ARGS,
            **DEPLOY_ARGS,
        },
        supports_check_mode=True,
    )
    given = dict(module.params)
    if module.check_mode:
        given["state"] = "planned"
    try:
        found = rotate_steps.visit(connect(given), given["deploy"], given)
    except Busy as error:
        module.fail_json(msg=str(error), busy={"owner": error.owner, "run_id": error.run_id, "state": error.state, "expired": error.expired})
    except (RotationError, VisitError, BaoError, Unreachable, ValueError) as error:
        module.fail_json(msg=str(error))
    journal = found["rotation"]
    if module._diff:
        found["diff"] = {"before": "", "after": "%s: %s (run %s)\n" % (journal["path"], journal["state"], journal["run_id"] or "-")}
    module.exit_json(changed=given["state"] not in ("planned", "current"), **found)


if __name__ == "__main__":
    main()
