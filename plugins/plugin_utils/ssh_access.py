# SPDX-License-Identifier: Apache-2.0
"""The run's own SSH key, replaced: three files beside each other, each step a rename, so that a run killed anywhere finds out where it was.

`KEY` is what runs log in with, at every moment. `KEY.next` was made and is being authorised beside it; `KEY.old` was replaced and is being taken
away. Each has its `.pub`. No value is ever returned: fingerprints only.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

IDLE, PREPARED, SWITCHING, SWITCHED = "idle", "prepared", "switching", "switched"
Run = Callable[[Sequence[str]], str]
"""Runs a command and returns its standard output; raises OSError or a subprocess error."""


class AccessError(Exception):
    """The step cannot be taken; the text says why and what to do."""


def _pub(path: Path) -> Path:
    return path.with_name(path.name + ".pub")


class Keys:
    """The files of one key. `run` makes keys and fingerprints (ssh-keygen)."""

    def __init__(self, key: Path, run: Run) -> None:
        self.key, self._run = key, run
        self.next = key.with_name(key.name + ".next")
        self.old = key.with_name(key.name + ".old")

    @property
    def phase(self) -> str:
        """Where an earlier run stopped."""
        if self.old.exists():
            return SWITCHING if self.next.exists() else SWITCHED
        return PREPARED if self.next.exists() and _pub(self.next).exists() else IDLE

    def public(self, path: Path) -> str:
        """The line for authorized_keys. Raises AccessError."""
        try:
            return _pub(path).read_text(encoding="utf-8").strip()
        except OSError as error:
            raise AccessError(f"{_pub(path)}: {error.strerror}; it is the public half of {path}: ssh-keygen -y -f {path} > {_pub(path)}") from error

    def fingerprint(self, path: Path) -> str:
        """SHA256:… of a key."""
        return self._run(["ssh-keygen", "-l", "-E", "sha256", "-f", str(_pub(path))]).split()[1]

    def prepare(self, comment: str) -> bool:
        """A new key beside the one in use, made once. True: it was made now."""
        if not self.key.exists():
            raise AccessError(f"{self.key} does not exist; access_key names the private key that this run logs in with")
        self.public(self.key)
        if self.phase != IDLE:
            return False
        made = self.key.with_name(self.key.name + ".making")
        for path in (made, _pub(made), self.next, _pub(self.next)):
            path.unlink(missing_ok=True)
        self._run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(made)])
        # The private half last: prepared is what has both.
        os.replace(_pub(made), _pub(self.next))
        os.replace(made, self.next)
        return True

    def switch(self) -> bool:
        """The new key becomes the one in use; the other one is kept as `.old`. True: something was done now."""
        if self.phase == SWITCHED:
            return False
        if self.phase == IDLE:
            raise AccessError(f"{self.next} does not exist: nothing was prepared")
        if not self.old.exists():
            _pub(self.old).unlink(missing_ok=True)
            os.link(_pub(self.key), _pub(self.old))
            os.link(self.key, self.old)
        if _pub(self.next).exists():
            os.replace(_pub(self.next), _pub(self.key))
        os.replace(self.next, self.key)
        return True

    def drop(self) -> bool:
        """The key that was replaced is no more."""
        if self.phase == SWITCHING:
            raise AccessError(f"{self.next} still exists: the switch has not come to its end")
        there = self.old.exists()
        self.old.unlink(missing_ok=True)
        _pub(self.old).unlink(missing_ok=True)
        return there

    def discard(self) -> bool:
        """The prepared key is no more; before the switch only."""
        if self.phase in (SWITCHING, SWITCHED):
            raise AccessError(f"the key in use is the new one already; run again to finish, then rotate once more ({self.old} is the one before)")
        there = self.next.exists()
        self.next.unlink(missing_ok=True)
        _pub(self.next).unlink(missing_ok=True)
        return there


def with_key(command: Sequence[str], key: Path, other: Path, config: str, rewritten: Path) -> list[str]:
    """An ssh command that knows no key but *other*: *config* (text of its file after -F) names *key*, which ssh would try as well.

    The command's own IdentityFile is replaced, the file is written to *rewritten* with the other name and used in its place, the agent is left out.
    """
    rewritten.write_text(config.replace(str(key), str(other)), encoding="utf-8")
    words, found = list(command), []
    for index, word in enumerate(words):
        if word.startswith("IdentityFile="):
            word = f"IdentityFile={other}"
        found.append(str(rewritten) if index and words[index - 1] == "-F" else word)
    only = ["-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none"]
    if str(other) not in rewritten.read_text(encoding="utf-8"):
        only += ["-o", f"IdentityFile={other}"]
    return [found[0], *only, *found[1:]]
