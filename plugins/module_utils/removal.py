# SPDX-License-Identifier: Apache-2.0
"""Takes one component off one host, by the component's own records. Standard library only, Python 3.9; knows nothing of Ansible.

What a component owns stands in `/var/lib/hnai/trees/<component>.json` (files of its tree; among them its units and accounts), in its names
(credentials, digests, `/etc/hnai/<component>`, what rotations left) and in the contract (artifacts, state). The registry goes last, so a killed run is
run again. Data stay unless `purge`; while they stay, the account that owns them stays too. Without a registry what bears its name goes all the same: data
that an earlier run kept, what a rotation noted on another host, a component that is an artifact alone.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field

from ansible_collections.hnai.platform.plugins.module_utils.config_tree import REGISTRY_DIRECTORY, SYSUSERS, UNITS, Tree
from ansible_collections.hnai.platform.plugins.module_utils.credentials import TWIN, path_of
from ansible_collections.hnai.platform.plugins.module_utils.hostfiles import NAME, Host, HostError, read_file

OPT = "/opt/hnai"
DATA = "/var/lib/hnai"
CREDENTIALS = "/etc/credstore.encrypted"
#: Where rotations keep fences of secrets, and keys that no unit has taken up.
ROTATION = "/var/lib/hnai/rotation"


@dataclass
class Outcome:
    """What was, or in check mode would be, done. `kept`: data that stay; `foreign`: files in its directories that were never ours."""

    recorded: bool = False
    stopped: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    accounts: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)

    @property
    def changed(self) -> bool:
        """Whether the host is different afterwards."""
        return bool(self.stopped or self.removed or self.accounts)


class Removal:
    """One component; `remove` once. `artifacts`: names below /opt/hnai that no other component uses. `state`: where the contract says data are.
    `credentials`: <component>.<user> of its passwords that other components read."""

    def __init__(
        self, host: Host, component: str, artifacts: Iterable[str], state: Iterable[str], purge: bool, check: bool, credentials: Iterable[str] = (),
    ) -> None:  # fmt: skip
        for name in (component, *artifacts, *credentials):
            if not NAME.match(name):
                raise HostError(f"'{name}' is not a name that the collection gives")
        self.host, self.component, self.purge, self.check = host, component, purge, check
        self.artifacts, self.state, self.credentials = tuple(artifacts), tuple(state), tuple(credentials)
        self.registry = f"{REGISTRY_DIRECTORY}/{component}.json"
        self.outcome = Outcome()

    def remove(self) -> Outcome:
        """Takes it away. Raises HostError naming what could not go."""
        raw = read_file(self.host, self.registry)
        self.outcome.recorded = raw is not None
        try:
            files = [str(path) for path in json.loads(raw)["files"]] if raw is not None else []
        except (ValueError, KeyError, TypeError) as error:
            raise HostError(f"{self.registry}: not a registry of owned files ({error}); nothing was touched") from error
        if raw is None:
            self._runs_unrecorded()
        units, accounts = self._units(files), self._accounts(files)
        self._stop(units)
        self._delete(self.named())
        self._delete([glob.escape(path_of(*one.split(".", 1)) + twin) for one in self.credentials for twin in ("", TWIN)])
        self._delete([f"{OPT}/{name}" for name in self.artifacts])
        kept = self._data()
        if not kept:
            self._forget(accounts)
        if raw is not None:
            tree = Tree(self.host, self.component, [], [], [], check=self.check)
            done = tree.converge()
            self.outcome.removed += done.removed
            self.outcome.foreign = [path for path in done.foreign if not path.startswith(f"/etc/hnai/{self.component}/tls/")]
            self._delete([self.registry])
        if not self.check:
            self._tidy({f"/etc/hnai/{self.component}", *map(os.path.dirname, files)})
        return self.outcome

    def named(self) -> list[str]:
        """Patterns of what bears the component's name and stands in no record."""
        name = self.component
        return [
            f"{CREDENTIALS}/hnai-{name}.*", f"/etc/hnai/{name}/tls", f"/etc/hnai/{name}/passwords", f"/run/hnai/{name}", f"{ROTATION}/{name}+*",
            f"{ROTATION}/tls+{name}", f"{ROTATION}/tls+{name}.*",
        ]  # fmt: skip

    def _runs_unrecorded(self) -> None:
        for pattern in (f"{UNITS[0]}hnai-{self.component}.service", f"{UNITS[0]}hnai-{self.component}-*.service"):
            for real in glob.glob(self.host.at(pattern)):
                raise HostError(
                    f"{os.path.basename(real)} is there, and {self.registry}, which says what belongs to it, is not: bring the component back "
                    f"(site.yml --tags {self.component}), then take it away. Nothing was touched"
                )

    def _tidy(self, folders: set[str]) -> None:
        """Removes directories that bear the component's name, or lie in one that does, or hold drop-ins of a unit of ours, and are empty now."""
        for folder in sorted(folders, key=len, reverse=True):
            path = folder
            if re.match(r"hnai-.*\.d$", os.path.basename(path)):
                with contextlib.suppress(OSError):
                    os.rmdir(self.host.at(path))
            while self.component in path.split("/"):
                with contextlib.suppress(OSError):  # Not empty: a foreign file stays where it is.
                    os.rmdir(self.host.at(path))
                path = os.path.dirname(path)

    @staticmethod
    def _units(files: list[str]) -> list[str]:
        """Units of the tree, drop-ins left out; a template has instances of its own name only."""
        names = [os.path.basename(path) for path in files if os.path.dirname(path) + "/" in UNITS]
        return [name for name in names if re.search(r"\.(service|timer|socket|path|mount|target|slice)$", name)]

    def _accounts(self, files: list[str]) -> list[str]:
        """Users and groups that the tree declares, of those that bear a name of ours: a declaration may also add a foreign user to a group."""
        found = [f"hnai-{self.component}"]
        for path in files:
            if path.startswith(SYSUSERS):
                for line in (read_file(self.host, path) or b"").decode("utf-8", "replace").splitlines():
                    words = line.split()
                    if len(words) > 1 and words[0].rstrip("!") in ("u", "g") and words[1].startswith("hnai-"):
                        found.append(words[1])
        return list(dict.fromkeys(found))

    def _stop(self, units: list[str]) -> None:
        """All of them at once: systemd knows the order."""
        plain = [name for name in units if "@." not in name]
        shown = self.host.run(["systemctl", "show", "--property=ActiveState", "--value", *plain]).text.split() if plain else []
        self.outcome.stopped = [name for name, state in zip(plain, shown) if state not in ("inactive", "failed")]
        if plain and not self.check:
            done = self.host.run(["systemctl", "disable", "--now", *plain], timeout=300)
            if done.rc != 0:
                raise HostError(f"{', '.join(plain)}: could not be stopped, nothing was removed: {done.message}")

    def _delete(self, patterns: list[str]) -> None:
        for pattern in patterns:
            for real in sorted(glob.glob(self.host.at(pattern))):
                inside = "/" + os.path.relpath(real, self.host.root)
                self.outcome.removed.append(inside)
                if self.check:
                    continue
                if os.path.isdir(real) and not os.path.islink(real):
                    shutil.rmtree(real)
                else:
                    os.unlink(real)

    def _data(self) -> list[str]:
        """Deletes what the component stored, or names what stays. Data outside our own directory are never deleted."""
        for path in self.state:
            real = self.host.at(path)
            if not os.path.lexists(real):
                continue
            ours = os.path.normpath(path).startswith((DATA + "/", f"/etc/hnai/{self.component}/", f"/etc/hnai/{self.component}."))
            if self.purge and ours and not os.path.islink(real) and not os.path.ismount(real):
                self._delete([glob.escape(path)])
            else:
                self.outcome.kept.append(path)
        return self.outcome.kept

    def _forget(self, accounts: list[str]) -> None:
        for name in accounts:
            for known, command, what in ((self.host.uid, "userdel", "user"), (self.host.gid, "groupdel", "group")):
                if known(name) is None:
                    continue
                if name not in self.outcome.accounts:
                    self.outcome.accounts.append(name)
                if not self.check:
                    done = self.host.run([command, name])
                    if done.rc != 0:
                        raise HostError(f"{what} {name} could not be removed: {done.message}")
