#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
# Apache-2.0 goes together with Ansible's own licence, the GNU General Public License version 3.
"""Module side of secret_inventory."""

from __future__ import annotations

DOCUMENTATION = r"""
module: secret_inventory
short_description: List every secret with its age, rotation and readers, and judge them
version_added: "0.1.0"
author: hnai.platform maintainers (@hnai)
description:
  - Runs on the OpenBao host, logged in as C(hnai-openbao), which may read no secret.
  - SI1 no secret is older than its contract's C(max_age). SI2 no rotation was left open. SI3 nobody read a secret whom its contract does not name;
    the readers come from the newest part of the audit log, renamed files included.
  - Beside O(secrets) it lists the run's own identities, C(deploy) and C(site-admin) - the newest secret_id that is alive, which is too old in the last
    third of its life. Their values lie in no KV, so SI3 leaves them out.
  - Reads values of no secret.
extends_documentation_fragment:
  - hnai.platform.openbao
  - hnai.platform.openbao.maybe_deploy
  - hnai.platform.verdict
  - hnai.platform.reading
options:
  secrets:
    description: The secrets, as P(hnai.platform.rotations#filter) returns them.
    type: list
    elements: dict
    required: true
  declared:
    description: Paths that any contract names, its component placed or not.
    type: list
    elements: str
    default: []
  audit_files:
    description: Audit logs on this host, of every device. A read that one of them missed is in another one; one that is gone is left out.
    type: list
    elements: path
    default: [/var/lib/hnai/openbao/audit/audit.log]
  audit_mib:
    description: How much of the end of each is read, over the files that it was renamed to.
    type: int
    default: 64
"""

EXAMPLES = r"""
- name: Judge the secrets
  hnai.platform.secret_inventory:
    secrets: "{{ lookup('hnai.platform.site') | hnai.platform.rotations }}"
    declared: "{{ lookup('hnai.platform.site').contracts.values() | sum(attribute='secrets', start=[]) | map(attribute='path') | list }}"
    deploy: "{{ hnai_openbao_deploy }}"
"""

RETURN = r"""
status:
  description: Verdict of the whole.
  returned: always
  type: str
checks:
  description: The checks, see the verdict format.
  returned: always
  type: list
  elements: dict
inventory:
  description: >-
    One entry a secret with path, kind, version, age, max age, consumers, last rotation, last proof and last reader; C(alive) says how many
    secret_ids of an identity are.
  returned: always
  type: list
  elements: dict
"""

import itertools
import os
import time
from collections.abc import Sequence

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hnai.platform.plugins.module_utils.openbao import component, inventory, policies
from ansible_collections.hnai.platform.plugins.module_utils.openbao.client import MAYBE_DEPLOY_ARGS, OPENBAO_ARGS, BaoError, Unreachable, leave
from ansible_collections.hnai.platform.plugins.module_utils.openbao.elsewhere import connect
from ansible_collections.hnai.platform.plugins.module_utils.openbao.kv import KvStore
from ansible_collections.hnai.platform.plugins.module_utils.openbao.rotate_approle import living
from ansible_collections.hnai.platform.plugins.module_utils.verdict import VERDICT_ARGS, finish, start


def tail(path: str, size: int) -> list[str]:
    """The last *size* bytes of a log as lines, over the files that it was renamed to (path.1 is the newest). Raises OSError where there is none."""
    found = b""
    for number in itertools.count():
        name = "%s.%d" % (path, number) if number else path
        there = os.path.exists(name)
        if number == 0 and not there and os.path.exists(path + ".1"):
            continue  # renamed a moment ago; the server opens the new one later
        if (number and not there) or len(found) >= size:
            break
        with open(name, "rb") as stream:
            stream.seek(0, 2)
            stream.seek(max(0, stream.tell() - (size - len(found))))
            part = stream.read(size)
            # Where a file ends torn the next one begins with an entry of its own.
            found = part + (b"\n" if found and not part.endswith(b"\n") else b"") + found
    return found.decode("utf-8", "replace").splitlines()


def tails(paths: Sequence[str], size: int) -> list[list[str]]:
    """`tail` of each log that is there: what is recorded is in all of them. Raises OSError where none is."""
    found, wrong = [], []
    for path in paths:
        try:
            found.append(tail(path, size))
        except OSError as error:
            wrong.append(error)
    if wrong and not found:
        raise wrong[0]
    return found


def main() -> None:
    """Reads the arguments, makes the checks, reports."""
    module = AnsibleModule(
        argument_spec=dict(
            {**OPENBAO_ARGS, **MAYBE_DEPLOY_ARGS, **VERDICT_ARGS},
            secrets={"type": "list", "elements": "dict", "required": True, "no_log": False},
            declared={"type": "list", "elements": "str", "default": []},
            audit_files={"type": "list", "elements": "path", "default": ["/var/lib/hnai/openbao/audit/audit.log"]},
            audit_mib={"type": "int", "default": 64},
        ),
        supports_check_mode=True,
    )
    given = module.params
    report = start(module, "openbao")
    rows = []
    external = given["external"]
    owner = (external.get("owner") or "somebody else") if external.get("address") else ""
    files = [] if owner else given["audit_files"]
    token = ""
    try:
        api = connect(given, timeout_s=min(10.0, given["deadline"]))
        token = component.enter(api, policies.SELF, given["deploy"] or {})
        store = KvStore(api, token, given["kv"])
        store.current(policies.SELF)  # may it look at all? With the policy of an older release it may not
    except (component.VisitError, BaoError, Unreachable, KeyError) as error:
        with report.check("SI1", "the secrets can be listed", hint="run playbooks/components/openbao.yml", explain="bao status") as check:
            check.inconclusive(str(error) or "no deploy identity")
    else:
        rows = inventory.judge(
            report, store, [*given["secrets"], *inventory.identities()],
            lambda: inventory.reads(tails(files, given["audit_mib"] << 20), given["kv"]), time.time,
            lambda path: living(api, token, policies.IDENTITIES[path]), given["declared"], owner,
        )  # fmt: skip
    finally:
        if token:
            leave(api, token)
    finish(module, report, inventory=rows)


if __name__ == "__main__":
    main()
