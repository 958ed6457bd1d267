# SPDX-License-Identifier: GPL-3.0-or-later
"""Controller side of ssh_host_proof: the file with the CA, and logins that believe it alone."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

from ansible_collections.hnai.platform.plugins.module_utils.openbao.files import write_durably
from ansible_collections.hnai.platform.plugins.plugin_utils.ssh_access import AccessError
from ansible_collections.hnai.platform.plugins.plugin_utils.ssh_login import connection_options, effective, fresh_jump, login, ssh_command
from ansible_collections.hnai.platform.plugins.plugin_utils.ssh_trust import ca_line, served, with_ca, with_trust

LOGIN_S = 30.0
#: What ssh says at this log level is long; all of it is read.
ALL = 1_000_000


class ActionModule(ActionBase):
    """See the module's documentation."""

    TRANSFERS_FILES = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """The module's result. Raises AnsibleActionFail."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        args = self._task.args
        try:
            if args.get("state") == "trusted":
                result.update(self._trusted(str(args["ca"]), [str(name) for name in args.get("names") or []], Path(str(args["known_hosts"])).expanduser()))
            else:
                result.update(changed=False, proof=self._proven(str(args["ca"]), str(args.get("serial") or "")))
        except (AccessError, KeyError, OSError, subprocess.SubprocessError) as error:
            raise AnsibleActionFail(f"ssh_host_proof: {error}") from error
        return result

    def _trusted(self, ca: str, names: list[str], path: Path) -> dict[str, Any]:
        before = path.read_text(encoding="utf-8") if path.exists() else ""
        after = with_ca(before, ca_line(ca, names))
        if after != before and not self._task.check_mode:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_durably(str(path), after.encode(), 0o600)
        return {"changed": after != before, "diff": {"before": before, "after": after, "before_header": str(path), "after_header": str(path)}}

    def _proven(self, ca: str, serial: str) -> dict[str, Any]:
        if self._connection.transport != "ssh":
            raise AccessError(f"connection {self._connection.transport}; a host's SSH key is served by sshd")
        options = connection_options(self._connection)
        command = ssh_command(options, str(options.get("host")))
        names = self._names(command)
        with tempfile.TemporaryDirectory(prefix="hnai-ssh-") as folder:
            right, other, key = Path(folder) / "right", Path(folder) / "other", Path(folder) / "key"
            right.write_text(ca_line(ca, names) + "\n", encoding="utf-8")
            good, said = self._login(command, right)
            seen = served(said)[0]
            if not good or seen != serial:
                raise AccessError(
                    f"{names[0]} serves {'the certificate ' + seen if seen else 'no certificate'}, not {serial}, to who trusts the CA alone: "
                    f"{said.strip().splitlines()[-1] if said.strip() else 'ssh said nothing'}"
                )
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(key)], check=True, capture_output=True, timeout=20)
            other.write_text(ca_line(key.with_suffix(".pub").read_text(encoding="utf-8"), names) + "\n", encoding="utf-8")
            wrong, said = self._login(command, other)
            if wrong or "Host key verification failed" not in said:
                raise AccessError(f"{names[0]} was {'believed' if wrong else 'not refused'} on the word of a CA that nobody knows: {said.strip()[-200:]}")
        return {"new_served": True, "wrong_refused": True, "serial": seen}

    def _names(self, command: list[str]) -> list[str]:
        """By what name ssh looks for the host's key."""
        told = dict(line.partition(" ")[::2] for line in effective(command).splitlines())
        name = told.get("hostkeyalias") or told.get("hostname") or command[-2]
        return [name if told.get("port", "22") == "22" or told.get("hostkeyalias") else f"[{name}]:{told['port']}"]

    def _login(self, command: list[str], known_hosts: Path) -> tuple[bool, str]:
        return login(fresh_jump(with_trust(command, str(known_hosts)), effective(command)), LOGIN_S, ALL)
