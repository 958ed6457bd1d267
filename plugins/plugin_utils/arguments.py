# SPDX-License-Identifier: Apache-2.0
"""Extra variables (-e) that nobody would read: of a misspelt one a verb would do without, and do more, or something else, on every host.

Pure: names in, texts out.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable


def unread(given: Iterable[str], taken: Collection[str], known: Collection[str], prefixes: Collection[str]) -> list[str]:
    """One text for each of *given*. *taken*: what this verb takes; *known*: whatever anybody reads; *prefixes*: of our names. What does not look like
    any of ours is the operator's own."""
    found = []
    ours = tuple(prefixes)
    for name in sorted(given):
        if name.startswith("__"):
            if name.lstrip("_").startswith(ours):
                found.append(f"-e {name} is the collection's own and no option (take it out)")
            continue
        near = difflib.get_close_matches(name, taken, n=1, cutoff=0.8)
        if name not in taken and name not in known and (near or name.startswith(ours)):
            near = near or difflib.get_close_matches(name, known, n=1)
            found.append(f"-e {name} is read by nobody ({f'did you mean {near[0]}?' if near else 'correct the name, or take it out'})")
    return found
