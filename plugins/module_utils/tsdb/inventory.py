# SPDX-License-Identifier: Apache-2.0
"""Which series must be in the store, from the declared sources (hnai_ot_sources). A series that is expected and returns
nothing is stale, not absent: the empty answer is the classic false green.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Expected:
    """One tag: every record of it leaves `<tag>:status`; a tag read on change also `<tag>:observed_ts`."""

    source: str
    tag: str
    on_change: bool

    @property
    def series(self) -> str:
        """The series whose newest sample says how old the tag is: sample (cyclic) or observation (on change)."""
        return self.tag + (":observed_ts" if self.on_change else ":status")


@dataclass(frozen=True)
class Canary:
    """A numbered series that its source counts up at a fixed rate (samples/s)."""

    source: str
    tag: str
    rate: float


def expected(sources: Iterable[Mapping[str, Any]]) -> list[Expected]:
    """The tags of all sources. Raises ValueError naming a source or tag without a name."""
    result = []
    for number, source in enumerate(sources):
        if not source.get("id"):
            raise ValueError("hnai_ot_sources[%d]: id is missing" % number)
        for tag in source.get("tags") or []:
            if not tag.get("name"):
                raise ValueError("hnai_ot_sources: %s: a tag has no name" % source["id"])
            result.append(Expected(str(source["id"]), str(tag["name"]), tag.get("kind") == "on_change"))
    return result


def canaries(sources: Iterable[Mapping[str, Any]]) -> list[Canary]:
    """The canaries of all sources. Raises ValueError where a canary is no tag of its source."""
    result = []
    for source in sources:
        name = source.get("canary")
        if not name:
            continue
        tag = next((tag for tag in source.get("tags") or [] if tag.get("name") == name), None)
        if tag is None:
            raise ValueError("hnai_ot_sources: %s: canary %s is none of its tags" % (source.get("id"), name))
        result.append(Canary(str(source["id"]), str(name), 1000.0 / float(tag.get("sampling_ms") or 500)))
    return result
