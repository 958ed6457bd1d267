# SPDX-License-Identifier: Apache-2.0
"""A controller of one authority's rotation, as the playbook would take its steps, that kills itself after so many calls to OpenBao.

argv: JSON of {address, ca_file, deploy, path, owner, dead, kill_after (0: never), run_id}. Prints the closed journal as JSON.
"""
from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any

from ansible_collections.hnai.platform.plugins.module_utils.openbao import authority_steps
from ansible_collections.hnai.platform.plugins.module_utils.openbao.client import Client

GIVEN = json.loads(sys.argv[1])


class Mortal(Client):
    """Dies right after a call was answered."""

    def call(self, *args: Any, **more: Any) -> dict[str, Any]:
        answer = super().call(*args, **more)
        if self.calls == GIVEN["kill_after"]:
            os.kill(os.getpid(), signal.SIGKILL)
        return answer


def main() -> None:
    """All steps."""
    api = Mortal(GIVEN["address"], GIVEN["ca_file"], 60.0)
    base = {
        "kv": "hnai", "pki_root": "pki_root", "pki_int": "pki_int", "site": "loop", "root_ttl_s": 3650 * 86400, "intermediate_ttl_s": 1825 * 86400,
        "path": GIVEN["path"], "owner": GIVEN["owner"], "dead": GIVEN["dead"], "resume": "", "rollback": "", "expected": ["a"], "reason": "request",
        "grace": 0, "acks": {}, "proof": {}, "run_id": GIVEN["run_id"], "fence": 0,
    }  # fmt: skip
    found = authority_steps.visit(api, GIVEN["deploy"], {**base, "state": "prepared"})
    for state in ("trusted", "signing", "committed", "dropped", "closed"):
        proof = {"trusted": {"new_works": True, "wrong_refused": True}, "closed": {"new_works": True, "old_unused": True}}.get(state, {})
        last = found["rotation"]
        given = {**base, "state": state, "run_id": last["run_id"], "fence": last["fence"], "acks": {"a": last["fp_new"]}, "proof": proof}
        found = authority_steps.visit(api, GIVEN["deploy"], given)
    print(json.dumps({"last": found["rotation"]["last"], "calls": api.calls}))


main()
