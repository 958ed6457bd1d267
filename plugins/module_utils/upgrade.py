# SPDX-License-Identifier: Apache-2.0
"""An upgrade before it is made: what runs where, what it will be, and whether there is a way back.

Standard library only, Python 3.9. Knows nothing of Ansible.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

#: What a process that was started by `current`, or is not there, is called.
UNKNOWN = "unknown"


def named(text: str, artifact: str) -> list[str]:
    """Releases of an artifact that paths in `text` name, without `current`.

    >>> named("java -cp /opt/hnai/kafka/4.3.1/libs/* kafka.Kafka", "kafka")
    ['4.3.1']
    """
    found = re.findall(r"/opt/hnai/%s/([^/\s:]+)/" % re.escape(artifact), text)
    return sorted(set(found) - {"current"})


def loaded(pid: int, artifact: str, proc: str = "/proc") -> str:
    """The release that a process was started with: from its own command line, else from the files that it holds open; UNKNOWN where neither
    says it. Two releases in one process are named both. `current` is a symlink and says nothing: it may be newer than the process."""
    place = os.path.join(proc, str(pid))
    try:
        with open(os.path.join(place, "cmdline"), "rb") as stream:
            found = named(stream.read().decode("utf-8", "replace").replace("\0", " "), artifact)
        if not found:
            found = named(" ".join(os.readlink(os.path.join(place, "fd", name)) for name in os.listdir(os.path.join(place, "fd"))), artifact)
    except OSError:
        return UNKNOWN
    return "+".join(found) or UNKNOWN


def number(release: str) -> tuple[int, ...]:
    """For comparing: 4.10.0 is newer than 4.9.1."""
    return tuple(int(step) for step in re.findall(r"\d+", release))


@dataclass(frozen=True)
class Wish:
    """What is asked. `running`: host → releases of its processes; `installed`: host → what `current` names there; `levels`: release → feature
    → highest level that it can read (empty for a product without levels); `finalized`: feature → level in force."""

    component: str
    wanted: str
    running: Mapping[str, Sequence[str]]
    installed: Mapping[str, str]
    levels: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    finalized: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """`direction`: none, upgrade, rollback. `begun`: an earlier run got as far as the hosts, so what is half done is ended, whatever the state.
    `due`: levels that the wanted release finalizes and that only the explicit step raises."""

    direction: str
    begun: bool
    hosts: Mapping[str, str]
    refused: tuple[str, ...]
    way_back: str
    due: Mapping[str, int]


def _releases(wish: Wish) -> set[str]:
    return {release for found in wish.running.values() for release in found} - {UNKNOWN}


def plan(wish: Wish) -> Plan:
    """What a run would do. A plan with `refused` must not be carried out."""
    seen = _releases(wish) | {release for release in wish.installed.values() if release}
    others = sorted(seen - {wish.wanted}, key=number)
    settled = all(list(found) and set(found) == {wish.wanted} for found in wish.running.values()) and not others
    direction = "none" if settled or not others else "upgrade" if number(others[-1]) < number(wish.wanted) else "rollback"
    begun = not settled and (wish.wanted in seen or len(others) > 1)
    hosts = {
        host: ", ".join(sorted(set(found)) or [UNKNOWN]) + ("" if set(found) == {wish.wanted} else f" → {wish.wanted}")
        for host, found in sorted(wish.running.items())
    }
    refused = list(_refused(wish, direction, others))
    own = wish.levels.get(wish.wanted, {})
    due = {name: level for name, level in sorted(own.items()) if name in wish.finalized and wish.finalized[name] < level}
    return Plan(direction, begun, hosts, tuple(refused), _way_back(wish, direction, others, due), due)


def _refused(wish: Wish, direction: str, others: Sequence[str]) -> Iterable[str]:
    if not wish.running:
        yield f"no host of {wish.component} was asked what it runs"
    if wish.levels:
        if wish.wanted not in wish.levels:
            yield f"nobody says which feature levels {wish.component} {wish.wanted} can read"
        elif not wish.finalized:
            yield f"no feature level of {wish.component} is known, so nothing says whether {wish.wanted} could read its metadata"
        else:
            for name, level in sorted(wish.levels[wish.wanted].items()):
                if wish.finalized.get(name, 0) > level:
                    yield (f"{name} is finalized at {wish.finalized[name]}, {wish.component} {wish.wanted} reads up to {level} and would not start; "
                           "a level that was raised is not lowered again, so there is no way back to that release")
    elif direction == "rollback" and any(number(other)[:2] != number(wish.wanted)[:2] for other in others):
        yield (f"{wish.component} {wish.wanted} is of an older minor release than {others[-1]}: it is not promised to read the state that one wrote. "
               "Deploy the jobs anew from the record of truth instead")


def _way_back(wish: Wish, direction: str, others: Sequence[str], due: Mapping[str, int]) -> str:
    if direction == "none":
        return "nothing changes"
    if direction == "rollback":
        return f"to {others[-1]} at any time, by the same verb"
    if not wish.levels:
        same = number(others[0])[:2] == number(wish.wanted)[:2]
        return f"to {others[0]}, by the same verb, as long as it runs" if same else f"none to {others[0]}: another minor release"
    older = wish.levels.get(others[0], {})
    if any(wish.finalized.get(name, 0) > level for name, level in older.items()) or not older:
        return f"none to {others[0]}: the levels in force are above what it reads"
    if due:
        steps = ", ".join(f"{name} {wish.finalized[name]} → {level}" for name, level in due.items())
        return f"to {others[0]}, by the same verb, until {wish.component}_features raises {steps}"
    return f"to {others[0]}, by the same verb"
