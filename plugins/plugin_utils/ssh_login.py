# SPDX-License-Identifier: Apache-2.0
"""Logins by new SSH connections, with the options by which Ansible connects: proofs that a way into a host exists, or that one does not."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Mapping
from typing import Any

#: Nothing shared with a connection that is open already. ssh takes the first value it gets, so these come first.
_FRESH = ["-o", "ControlMaster=no", "-o", "ControlPath=none", "-o", "BatchMode=yes", "-o", "ConnectTimeout=5"]


def connection_options(connection: Any) -> dict[str, Any]:
    """Options of an Ansible connection of type ssh."""
    names = ("ssh_executable", "port", "private_key_file", "remote_user", "ssh_common_args", "ssh_extra_args", "host")
    return {name: connection.get_option(name) for name in names}


def variable_options(variables: Mapping[str, Any]) -> dict[str, Any]:
    """The same from the variables of a host that is not the task's own."""
    names = {"host": "host", "port": "port", "remote_user": "user", "private_key_file": "ssh_private_key_file", "ssh_common_args": "ssh_common_args",
             "ssh_extra_args": "ssh_extra_args"}  # fmt: skip
    return {option: variables.get(f"ansible_{name}") for option, name in names.items()}


def ssh_command(options: Mapping[str, Any], host: str) -> list[str]:
    """A login that shares nothing with connections that are open already, and does nothing."""
    command = [str(options.get("ssh_executable") or "ssh"), *_FRESH]
    if options.get("port"):
        command += ["-o", f"Port={int(options['port'])}"]
    if options.get("private_key_file"):
        command += ["-o", f"IdentityFile={options['private_key_file']}"]
    if options.get("remote_user"):
        command += ["-o", f"User={options['remote_user']}"]
    for name in ("ssh_common_args", "ssh_extra_args"):
        command += shlex.split(str(options.get(name) or ""))
    return [*command, str(options.get("host") or host), "true"]


def fresh_jump(command: list[str], effective: str) -> list[str]:
    """The login with a new connection to its jump too, which ssh would take from a shared one.

    `effective`: what `ssh -G` prints for the command. A chain of jumps, or none, is left as it is.
    """
    jump = next((line.partition(" ")[2].strip() for line in effective.splitlines() if line.startswith("proxyjump ")), "")
    if not jump or jump == "none" or "," in jump:
        return command
    start = 1 + len(_FRESH)
    own = command[start:-2]
    files = [word for index, word in enumerate(own) if word == "-F" or (index and own[index - 1] == "-F")]
    name, _colon, port = jump.rpartition(":")
    if not port.isdigit():
        name, port = jump, ""
    inner = [command[0], *_FRESH, *files, *(["-p", port] if port else []), "-W", "[%h]:%p", name]
    return [*command[:start], "-o", "ProxyCommand=" + " ".join(map(shlex.quote, inner)), *own, *command[-2:]]


def effective(command: list[str]) -> str:
    """What ssh would do with the command's options, '' if it cannot say."""
    done = subprocess.run([command[0], "-G", *command[1:-1]], capture_output=True, text=True, timeout=10, check=False)
    return done.stdout if done.returncode == 0 else ""


def login(command: list[str], timeout: float, keep: int = 500) -> tuple[bool, str]:
    """Run one ssh; whether it came to its end, and the last *keep* characters of what it complained of."""
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired:
        return False, "no answer in time"
    return done.returncode == 0, done.stderr.strip()[-keep:]
