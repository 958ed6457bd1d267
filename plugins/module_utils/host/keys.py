# SPDX-License-Identifier: Apache-2.0
"""The SSH keys that open a host: exactly the declared ones.

A user's own `~/.ssh/authorized_keys` has the declared keys and no other; the directory of the operators' keys has the files of declared operators
and no other. Python 3.9, standard library.
"""
from __future__ import annotations

import base64
import binascii
import hashlib
import os
import re
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from ansible_collections.hnai.platform.plugins.module_utils.hostfiles import Host, HostError, Outcome, atomic_write, ensure_directory, read_file

OPERATORS = "/etc/ssh/authorized_keys"
_KEY = re.compile(r"^(?:(?P<options>\S.*?)\s+)?(?P<type>(?:ssh-|ecdsa-sha2-|sk-)[A-Za-z0-9@.-]+)\s+(?P<blob>[A-Za-z0-9+/]{40,}={0,2})(?:\s+(?P<comment>.*))?$")


@dataclass(frozen=True)
class Key:
    """One line of authorized_keys; `comment` says nothing about what it opens."""

    options: str
    type: str
    blob: str
    comment: str = field(default="", compare=False)

    def __str__(self) -> str:
        """For people: fingerprint as ssh-keygen shows it, and the comment."""
        try:
            digest = base64.b64encode(hashlib.sha256(base64.b64decode(self.blob, validate=True)).digest()).decode().rstrip("=")
        except (ValueError, binascii.Error):
            digest = "unreadable"
        return " ".join(part for part in (self.options, self.type, f"SHA256:{digest}", self.comment) if part)


def parse(text: str) -> list[Key]:
    """The keys of a file; lines that are none (comments, anything that sshd would skip) are left out."""
    found = []
    for line in text.splitlines():
        match = _KEY.match(line.strip())
        if match and not line.lstrip().startswith("#"):
            found.append(Key(match.group("options") or "", match.group("type"), match.group("blob"), (match.group("comment") or "").strip()))
    return found


def wanted_keys(lines: Iterable[str]) -> list[Key]:
    """The declared keys, each once. Raises HostError for a line that is no public key."""
    keys: list[Key] = []
    for line in lines:
        found = parse(line)
        if len(found) != 1:
            raise HostError(f"host_access_keys: '{line.strip()[:60]}' is no public key; one line of an authorized_keys file each")
        keys += [key for key in found if key not in keys]
    return keys


class Door:
    """The keys of one host; `check` changes nothing."""

    def __init__(self, host: Host, check: bool = False) -> None:
        self.host = host
        self.check = check
        self.outcome = Outcome()

    def user(self, name: str, home: str, uid: int, gid: int, lines: Sequence[str]) -> None:
        """Makes `home`/.ssh/authorized_keys what is declared. Raises HostError where that would shut out everybody who comes in now."""
        wanted = wanted_keys(lines)
        path, folder = f"{home}/.ssh/authorized_keys", f"{home}/.ssh"
        for item in (folder, path):
            if os.path.islink(self.host.at(item)):
                raise HostError(f"{item}: is a link; keys are kept in a file of {name}'s own: move the link away, then run again")
        raw = read_file(self.host, path)
        have = parse((raw or b"").decode("utf-8", "replace"))
        if have and not {key.blob for key in have} & {key.blob for key in wanted}:
            raise HostError(
                f"{path}: none of the keys that open this host for {name} is declared in host_access_keys, so this run would shut itself out; "
                f"nothing was changed. There are: {'; '.join(str(key) for key in have)}"
            )
        same = raw is not None and set(have) == set(wanted) and len(have) == len(wanted)
        info = os.lstat(self.host.at(path)) if raw is not None else None
        if same and info and (stat.S_IMODE(info.st_mode), *self.host.owner(info)) == (0o600, uid, gid):
            return
        self.outcome.changed_paths.append(path)
        self._told(path, have, wanted, "" if info is None else f"# mode {stat.S_IMODE(info.st_mode):04o}\n", "# mode 0600\n")
        if not self.check:
            if not os.path.isdir(self.host.at(folder)):
                ensure_directory(self.host, folder, 0o700, uid, gid)
            text = "".join(" ".join(part for part in (key.options, key.type, key.blob, key.comment) if part) + "\n" for key in wanted)
            atomic_write(self.host, path, text.encode(), 0o600, uid, gid)

    def operators(self, names: Iterable[str]) -> None:
        """Takes key files away that belong to nobody who is declared: sshd would open for them too."""
        declared = set(names)
        directory = self.host.at(OPERATORS)
        for name in sorted(os.listdir(directory)) if os.path.isdir(directory) else ():
            path = f"{OPERATORS}/{name}"
            if name in declared or name.endswith(".hnai-new") or os.path.isdir(self.host.at(path)):
                continue
            self.outcome.removed.append(path)
            self._told(path, parse((read_file(self.host, path) or b"").decode("utf-8", "replace")), [], "", "")
            if not self.check:
                os.unlink(self.host.at(path))

    def _told(self, path: str, before: Iterable[Key], after: Iterable[Key], was: str, becomes: str) -> None:
        texts = [head + "".join(f"{key}\n" for key in sorted(map(str, keys))) for head, keys in ((was, before), (becomes, after))]
        self.outcome.diff.append({"before": texts[0], "after": texts[1], "before_header": path, "after_header": path})
