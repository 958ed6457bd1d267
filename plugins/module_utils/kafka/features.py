# SPDX-License-Identifier: Apache-2.0
"""Raising feature levels: the last step of an upgrade, and the one that cannot be taken back.

As long as it was not taken, the older release runs again on the same data. So it is taken only when every node, broker and controller, said
by itself that it can do the new level.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

Levels = Mapping[str, tuple[int, int]]


def plan(
    wanted: Mapping[str, int], finalized: Levels, addresses: Sequence[str], supported: Callable[[str], Levels],
) -> tuple[dict[str, int], list[str]]:
    """(feature → level to raise, why it may not be raised). `finalized`: feature → (level, highest that the asked broker supports);
    `supported(host:port)`: feature → (lowest, highest) of that node, raises OSError when it does not answer."""
    raised = {name: level for name, level in sorted(wanted.items()) if finalized.get(name, (0, 0))[0] < level}
    problems = [f"{name}: is at {finalized[name][0]}, above {level}; a level is never lowered here" for name, level in sorted(wanted.items())
                if finalized.get(name, (0, 0))[0] > level]
    if not raised:
        return raised, problems
    if not addresses:
        problems.append("no node to ask what it can do")
    for address in addresses:
        try:
            can = supported(address)
        except OSError as error:
            problems.append(f"{address}: does not say what it can do ({error}); every node must run the new release first")
            continue
        problems += [f"{address}: {name} goes to {can.get(name, (0, 0))[1]} there, {level} is wanted; that node runs an older release"
                     for name, level in raised.items() if not can.get(name, (0, 0))[0] <= level <= can.get(name, (0, 0))[1]]
    return raised, problems


def tell(addresses: Sequence[str], supported: Callable[[str], Levels]) -> dict[str, dict[str, int]]:
    """Node → feature → highest level that it can do, by its own word; a node that does not answer is left out."""
    found: dict[str, dict[str, int]] = {}
    for address in addresses:
        try:
            found[address] = {name: high for name, (_low, high) in supported(address).items()}
        except OSError:
            continue
    return found
