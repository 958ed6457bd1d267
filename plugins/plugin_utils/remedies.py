# SPDX-License-Identifier: Apache-2.0
"""What Ansible itself says when a host cannot be reached, sudo refuses or a disk is full, told as one error: host, cause, remedy.

Pure: texts in, texts out. What our own modules say names its remedy already and is left alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

#: What everybody says whose disk is full, out of C's strerror: Python, cp, a store's clients.
FULL = re.compile(r"no space left on device|disk quota exceeded", re.IGNORECASE)
#: What a person tries next is the same whatever kept the connection from being made.
_REACH = "`ssh {host}` by the same way (ansible_host, ansible_user, ansible_ssh_common_args, the jump) shows it"


@dataclass(frozen=True)
class Kind:
    """One cause: by which words it is known, what it is, what to do. *away*: only where no connection came about."""

    known: re.Pattern[str]
    cause: str
    remedy: str
    away: bool = False


def _kind(known: str, cause: str, remedy: str, away: bool = False) -> Kind:
    return Kind(re.compile(known, re.IGNORECASE), cause, remedy, away)


KINDS = (
    _kind(
        r"module interpreter .* was not found|requires a minimum of python",
        "this host has no Python that Ansible can use",
        "`apt install python3` at its console, and ansible_python_interpreter: /usr/bin/python3; Debian 12 and 13 bring one that fits",
    ),
    _kind(
        r"^(task failed: )?timeout \(\d+s\) waiting for privilege escalation prompt",
        "the host took the connection and did not answer in time",
        "it is wedged, far too slow, or the way to it was cut meanwhile: load, memory and disks at its console; `ssh -vv {host} sudo -n true` by the same "
        "way shows where it stops",
        True,
    ),
    _kind(
        r"https://\S+:8200: .*(refused|timed out|reset|closed connection|unreachable|no route)",
        "OpenBao does not answer",
        "`systemctl status hnai-openbao` on its host says why, `site.yml --tags openbao` starts and opens it; nothing that runs stops without it, and the "
        "same run again goes on where this one ended",
    ),
    _kind(r"\bsudo: (command )?not found", "this host has no sudo", "`apt install sudo` at its console, then what docs/brownfield.md says of Ways in"),
    _kind(
        r"password (has |is )?expired|password change required|account (has |is )?expired|required to change your password",
        "the account of the connection has expired",
        "`chage -l <ansible_user>` at the host's console; an account of machines has no such end (`chage -M -1 -E -1 <ansible_user>`)",
    ),
    _kind(
        r"sudo: .*password|must have a tty|missing sudo password|"
        r"incorrect sudo password|not in the sudoers|may not run sudo|is not allowed to (run sudo|execute)|"
        r"sudo: .*not permitted|waiting for (privilege escalation|become)|sudo: account validation",
        "sudo refuses the user of the connection",
        "`ssh {host} sudo -n true` must succeed: a file in /etc/sudoers.d of the host that says `<ansible_user> ALL=(ALL) NOPASSWD: ALL`, "
        "or ansible_become_password out of a vault",
    ),
    _kind(
        FULL.pattern,
        "a file system of this host is full",
        "`df -h` and `df -i` on the host; make room and run again: what was begun is finished then, nothing of it was started",
    ),
    _kind(
        "read-only file system",
        "a file system of this host is read-only",
        "`findmnt` and the kernel's log on the host say why; mount it for writing and run again",
    ),
    _kind(
        r"failed to create temporary directory",
        "no temporary directory could be made on this host",
        "`df -h /tmp ~` on the host (full or read-only), then ansible_remote_tmp",
    ),
    _kind(
        r"^(task failed: )?timed out after \d+ second",
        "the host took the connection and did not answer in time",
        "it is wedged or far too slow: load, memory and disks at its console; `ssh -vv {host}` by the same way shows where it stops",
    ),
    _kind(
        r"host key verification failed|remote host identification has changed|no .* host key is known",
        "the host shows an SSH key that is not the known one",
        "compare its fingerprint at the console (`ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub`); only then renew the line in known_hosts",
        True,
    ),
    _kind(
        r"permission denied|too many authentication failures",
        "SSH refuses the login",
        "ansible_user and its key (IdentityFile, agent) against ~/.ssh/authorized_keys on the host; " + _REACH,
        True,
    ),
    _kind(r"could not resolve|name or service not known", "the host's name is not known", "ansible_host or hnai_addresses in the inventory; " + _REACH, True),
    _kind(r"connection refused", "nothing answers at the SSH port", "the host runs, sshd does not, or the port is another one; " + _REACH, True),
    _kind(
        r"timed out|no route to host|network is unreachable|closed by|reset by peer|kex_exchange|banner",
        "no SSH connection comes about",
        "the host or the jump is off, or a firewall stands between (conduits C-001, C-002); " + _REACH,
        True,
    ),
)
_UNKNOWN = _kind("", "the host was not reached", _REACH, True)
#: What ssh calls the far end by: the address that it dialled, its user there.
_FAR = re.compile(r"\S+@\S+|\S+(?= port \d)|(?<=hostname )\S+")
_NOISE = re.compile(r"^(task failed|failed to connect to the host via ssh|data could not be sent to remote host \".*?\"[^:]*|>>> .*)[:. ]*", re.IGNORECASE)


@dataclass(frozen=True)
class Said:
    """What one task on one host said. *away*: it was not reached."""

    host: str
    text: str
    away: bool


def quoted(text: str, kind: Kind) -> str:
    """The line of *text* that names the cause, without what Ansible puts in front of it."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    line = next((line for line in lines if kind.known.pattern and kind.known.search(line)), lines[0] if lines else "")
    before = None
    while before != line:
        before, line = line, _NOISE.sub("", line)
    return line[:300]


def kind_of(said: Said) -> Kind | None:
    """The cause, or None where it is known from the message itself, or not known at all."""
    if not said.away and "remedy" in said.text.lower():
        return None
    found = next((kind for kind in KINDS if (said.away or not kind.away) and kind.known.search(said.text)), None)
    return found or (_UNKNOWN if said.away else None)


def told(heard: Iterable[Said]) -> list[str]:
    """One text for each cause and its own words: which hosts, what, and what to do. In the order in which they came."""
    groups: dict[tuple[str, str], tuple[Kind, list[Said]]] = {}
    for said in heard:
        kind = kind_of(said)
        if kind is None:
            continue
        words = quoted(said.text, kind)
        # The same cause on many hosts is one error; what differs in its words is the host's own name or address.
        members = groups.setdefault((kind.cause, _FAR.sub("", words).replace(said.host, "")), (kind, []))[1]
        if said.host not in [one.host for one in members]:
            members.append(said)
    texts = []
    for kind, members in groups.values():
        hosts, first = ", ".join(sorted(one.host for one in members)), members[0]
        texts.append(f"{hosts}: {kind.cause}: {quoted(first.text, kind) or 'no reason given'}\nremedy: {kind.remedy.format(host=first.host)}")
    return texts
