# SPDX-License-Identifier: GPL-3.0-or-later
"""Controller side of ssh_access: the files of the run's own key, and logins that know one key only."""

from __future__ import annotations

import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

from ansible_collections.hnai.platform.plugins.plugin_utils.ssh_access import IDLE, AccessError, Keys, with_key
from ansible_collections.hnai.platform.plugins.plugin_utils.ssh_login import connection_options, effective, fresh_jump, login, ssh_command

STATES = ("looked", "prepared", "proven", "switched", "refused", "dropped", "discarded")
LOGIN_S = 20.0
#: So long a host that answers neither yes nor no is asked again, and so often.
UNSAID_S, AGAIN_S = 120.0, 5.0
REFUSED = "Permission denied"


def _run(command: Any) -> str:
    return subprocess.run(command, stdin=subprocess.DEVNULL, check=True, capture_output=True, text=True, timeout=30).stdout


class ActionModule(ActionBase):
    """See the module's documentation."""

    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """The module's result."""
        result = super().run(tmp, task_vars)
        args = self._task.args
        state, keys = args.get("state"), Keys(Path(str(args.get("key") or "")).expanduser(), _run)
        if state not in STATES:
            raise AnsibleActionFail(f"ssh_access: state is one of {', '.join(STATES)}")
        try:
            changed = self._step(str(state), keys, str(args.get("comment") or "hnai"))
            result.update(changed=changed, phase=keys.phase, public=keys.public(keys.key), fingerprint=keys.fingerprint(keys.key))
            for name, path in (("next", keys.next), ("old", keys.old)):
                if path.exists():
                    result[name] = {"public": keys.public(path), "fingerprint": keys.fingerprint(path)}
        except AccessError as error:
            raise AnsibleActionFail(f"ssh_access: {error}") from error
        except subprocess.SubprocessError as error:
            raise AnsibleActionFail(f"ssh_access: {error}: {getattr(error, 'stderr', '')}") from error
        return result

    def _step(self, state: str, keys: Keys, comment: str) -> bool:
        if state == "looked":
            return False
        if state == "proven":
            good, said = self._login(keys, keys.next if keys.next.exists() else keys.key)
            if not good:
                raise AccessError(f"the new key does not open a new connection ({said}); the old one stays in use, a rerun tries again")
            return False
        if state == "refused":
            end = time.monotonic() + UNSAID_S
            while True:
                good, said = self._login(keys, keys.old)
                if good:
                    raise AccessError("the old key still opens a connection")
                if REFUSED in said:
                    return False
                if time.monotonic() >= end:
                    raise AccessError(f"whether the old key is refused cannot be said: {said}")
                # sshd lets an address wait that was refused often (PerSourcePenalties), and whoever comes where many are at its door (MaxStartups).
                time.sleep(AGAIN_S)
        if self._task.check_mode:
            return state != "dropped" or keys.phase != IDLE
        return {"prepared": lambda: keys.prepare(comment), "switched": keys.switch, "dropped": keys.drop, "discarded": keys.discard}[state]()

    def _login(self, keys: Keys, key: Path) -> tuple[bool, str]:
        if self._connection.transport != "ssh":
            raise AccessError(f"connection {self._connection.transport}; the run's own access is SSH")
        options = connection_options(self._connection)
        command = ssh_command(options, str(options.get("host")))
        with tempfile.TemporaryDirectory(prefix="hnai-access-") as folder:
            file = next((command[index + 1] for index, word in enumerate(command) if word == "-F"), "")
            config = Path(file).expanduser().read_text(encoding="utf-8") if file else ""
            command = with_key(command, keys.key, key, config, Path(folder) / "config")
            return login(fresh_jump(command, effective(command)), LOGIN_S)
