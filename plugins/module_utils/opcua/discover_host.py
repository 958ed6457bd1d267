# SPDX-License-Identifier: Apache-2.0
"""Discovery on the mirror's host, with the mirror's identity and behind the same gate as the audit: one session per source, named, closed in every case."""
from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Iterable, Mapping
from typing import Any

from . import audit_run
from .audit_host import Audit, State, plan_of, sources_of, to_its_end
from .audit_types import AuditError
from .discover import Proposal, propose
from .discover_walk import Survey


class Discover(Audit):
    """Looks at the OPC UA sources of this host, one after the other."""

    def look(self, entries: Iterable[Mapping[str, Any]]) -> list[Proposal]:
        """A proposal per source. Raises AuditError naming the source when one cannot be looked at."""
        sources = sources_of(entries)
        found = []
        for number, source in enumerate(sources):
            left = self.options.deadline_s - (time.monotonic() - self._begin)
            try:
                found.append(self._source(source, max(1.0, left / (len(sources) - number))))
            except (AuditError, OSError, ValueError) as error:
                raise AuditError("%s: %s" % (source["id"], error)) from error
        return found

    def _source(self, source: Mapping[str, Any], share_s: float) -> Proposal:
        begin, name = time.monotonic(), str(source["id"])
        self._equipped()
        state = State(self.places.state, name, self.options.write_state)
        target = dataclasses.replace(self._target(source), name="hnai-discover/%s" % name)
        self._dial(source, state, self._left(share_s, begin) / 2)
        plan = dataclasses.replace(plan_of(source, self.options, self._left(share_s, begin)), tags=())
        surveys: list[Survey] = []

        def walker(*args: Any) -> Survey:
            surveys.append(Survey(*args, declared=[tuple(map(str, tag["path"])) for tag in source.get("tags") or () if tag.get("path")]))
            return surveys[-1]

        facts = to_its_end(audit_run.gather(self._reader.FastReader(target), plan, time.monotonic, asyncio.sleep, walker=walker))
        if facts.error:
            # Half a look is worth nothing: what it did not reach would be taken for gone.
            raise AuditError(facts.error)
        result = facts.result
        holes = [*result.truncated, *result.unread]
        incomplete = "" if result.complete else "%d nodes truncated, %d unread: %s" % (
            result.counts["truncated"], result.counts["unread"], "; ".join(holes[:5]))
        proposal = propose(name, surveys[-1].variables, [dict(tag) for tag in source.get("tags") or ()], incomplete)
        self.records[name] = facts.load
        return proposal
