# SPDX-License-Identifier: Apache-2.0
"""Accounts of a host as its files say: /etc/passwd, /etc/group, /etc/shadow (passwd(5), group(5), shadow(5)).

systemd-sysusers makes an account that is missing and never looks at it again: what somebody changed of a service's account is found here.
Python 3.9, standard library.
"""
from __future__ import annotations

import glob
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.hnai.platform.plugins.module_utils.hostfiles import Host, read_file

NOLOGIN = "/usr/sbin/nologin"


@dataclass(frozen=True)
class Account:
    """A line of /etc/passwd."""

    name: str
    uid: int
    gid: int
    home: str
    shell: str

    @property
    def may_log_in(self) -> bool:
        """Whether its shell is one."""
        return self.shell.rpartition("/")[2] not in ("nologin", "false")


@dataclass(frozen=True)
class Change:
    """Something of an account that differs; `command` puts it right."""

    before: str
    after: str
    command: tuple[str, ...]


def _rows(host: Host, path: str, columns: int) -> list[list[str]]:
    rows = [line.split(":") for line in (read_file(host, path) or b"").decode("utf-8", "replace").splitlines()]
    return [row for row in rows if len(row) >= columns]


def accounts(host: Host) -> list[Account]:
    """Every account of the host's own; a line that is none is left out."""
    return [Account(row[0], int(row[2]), int(row[3]), row[5], row[6]) for row in _rows(host, "/etc/passwd", 7) if row[2].isdigit() and row[3].isdigit()]


def members(host: Host) -> dict[str, list[str]]:
    """Group → who is in it besides those whose first group it is."""
    return {row[0]: [name for name in row[3].split(",") if name] for row in _rows(host, "/etc/group", 4)}


def group_names(host: Host) -> dict[int, str]:
    """Number → name of a group."""
    return {int(row[2]): row[0] for row in _rows(host, "/etc/group", 4) if row[2].isdigit()}


def numbers(host: Host, texts: Iterable[str]) -> tuple[list[str], list[str]]:
    """What is wrong with the numbers that these sysusers.d files give to users: (what must not be, what may stay as it is).

    systemd-sysusers takes another number in silence where one is taken, and leaves an account that is there. Rules that name a service by its number
    would be somebody else's; a person's account may be older than the site.
    """
    there = {account.name: account for account in accounts(host)}
    owners = {account.uid: account.name for account in there.values()}
    wrong: list[str] = []
    other: list[str] = []
    for words in _declared(texts):
        if words[0].rstrip("!") != "u" or len(words) < 3 or not words[2].isdigit():
            continue
        name, number = words[1], int(words[2])
        account = there.get(name)
        if account is None and number in owners:
            wrong.append(f"{name} is to have the number {number}, which is {owners[number]}'s on this host")
        elif account is not None and account.uid != number:
            service = len(words) < 6 or words[5] in ("-", NOLOGIN)
            (wrong if service else other).append(f"{name} has the number {account.uid} on this host, not {number}")
    return wrong, other


def _declared(texts: Iterable[str]) -> list[list[str]]:
    """The lines of sysusers.d files, as words."""
    return [shlex.split(line) for text in texts for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]


def changes(host: Host, texts: Iterable[str]) -> list[Change]:
    """What differs of the service accounts and groups that these sysusers.d files declare: shell, password, home, who is in which group.

    The account of a person (one with a shell) is that person's own. A membership counts as declared by any sysusers.d file of the host.
    """
    own = _declared(texts)
    every = own + _declared(
        Path(path).read_text(encoding="utf-8", errors="replace")
        for place in ("/etc/sysusers.d", "/usr/lib/sysusers.d")
        for path in sorted(glob.glob(host.at(f"{place}/*.conf")))
    )
    meant = {(words[2], words[1]) for words in every if words[0] == "m" and len(words) > 2}
    there = {account.name: account for account in accounts(host)}
    passwords = {row[0]: row[1] for row in _rows(host, "/etc/shadow", 2)}
    services: dict[str, str] = {}
    for words in own:
        if words[0].rstrip("!") == "u" and (len(words) < 6 or words[5] in ("-", NOLOGIN)):
            services[words[1]] = words[4] if len(words) > 4 and words[4] != "-" else "/"
    found = []
    for name, home in sorted(services.items()):
        account = there.get(name)
        if account is None:
            continue
        if account.may_log_in:
            found.append(Change(f"{name} shell {account.shell}", f"{name} shell {NOLOGIN}", ("usermod", "--shell", NOLOGIN, name)))
        if account.home != home:
            found.append(Change(f"{name} home {account.home}", f"{name} home {home}", ("usermod", "--home", home, name)))
        if passwords.get(name, "!")[:1] not in ("!", "*"):
            found.append(Change(f"{name} has a password", f"{name} has no password", ("usermod", "--password", "!*", name)))
    groups = {words[1] for words in own if words[0].rstrip("!") in ("u", "g")}
    for group, names in sorted(members(host).items()):
        for name in names:
            if (group in groups or name in services) and (group, name) not in meant:
                found.append(Change(f"{name} is in group {group}", f"{name} is not in group {group}", ("gpasswd", "--delete", name, group)))
    return found
