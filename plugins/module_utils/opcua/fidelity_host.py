# SPDX-License-Identifier: Apache-2.0
"""The recorder of ``fidelity`` on the mirror's host: the rails of the audit (one session, named, budget, alarm, the collector first), then reading."""
from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from .audit_host import Audit, State, plan_of, to_its_end
from .audit_load import READ, Batch, Budget, Governor
from .audit_run import FACTS, STATE, sessions_free
from .audit_types import VALUE, AuditError, Names
from .fidelity import Recording, Tag, record

_FACTS = ("namespaces", "max_nodes_per_read", "max_sessions", "sessions")
SESSIONS_LEFT = 1
"""Beside ours: with fewer than 2 left before it, none is opened for this."""


class Recorder(Audit):
    """Records the tags of one source of this host, by the audit's own identity, gate and limits."""

    def take(self, source: Mapping[str, Any], tags: Sequence[Tag], window_s: float, budget_per_s: float) -> Recording:
        """What the server says for *window_s*; a reason in ``error`` when it could not be asked."""
        name = str(source["id"])
        state = State(self.places.state, name, self.options.write_state)
        try:
            self._equipped()
            if not tags:
                raise AuditError("no tag of it can stand in the store")
            target = dataclasses.replace(self._target(source), name="hnai-fidelity/%s" % name)
            self._dial(source, state, float("inf"))
            floor_s = plan_of(source, self.options, window_s).latency_floor_s
            return to_its_end(asyncio.wait_for(self._session(target, tags, window_s, int(budget_per_s), floor_s), window_s + 60.0))
        except (asyncio.TimeoutError, TimeoutError):
            return Recording(error="the server did not answer in time")
        except (AuditError, OSError, ValueError) as error:
            return Recording(error=str(error))

    async def _session(self, target: Any, tags: Sequence[Tag], window_s: float, budget_per_s: int, floor_s: float) -> Recording:
        reader = self._reader.Reader(target)
        governor = Governor(Budget(budget_per_s, time.monotonic, asyncio.sleep), {READ: Batch(1, budget_per_s)}, time.monotonic, asyncio.sleep,
                            lambda: reader.read([(reader.node(STATE), VALUE)]), floor_s=floor_s)

        async def ask(nodes: Sequence[Any]) -> list[tuple[int | None, Any, int]]:
            found: list[tuple[int | None, Any, int]] = []
            while len(found) < len(nodes):
                part = nodes[len(found):len(found) + governor.size(READ)]
                answers = await governor.send(READ, len(part), partial(reader.timed, part))
                if answers is not None and len(answers) != len(part):
                    raise AuditError("%d values were asked for, %d were answered" % (len(part), len(answers)))
                found += answers or []
            return found

        try:
            await reader.open()
            values = {key: value for key, (_, value, _) in zip(_FACTS, await ask([reader.node(FACTS[key]) for key in _FACTS]))}
            left = sessions_free(values)
            if left is not None and left < SESSIONS_LEFT:
                raise AuditError("the server has %d of %s sessions left beside ours: they are for those who work" % (left, values["max_sessions"]))
            names = Names([str(uri) for uri in values["namespaces"] or []])
            nodes = {}
            for tag in tags:
                today = names.today(tag.node)
                if today is None:
                    raise AuditError("%s: the server does not have its namespace" % tag.node)
                nodes[tag.node] = reader.node(today)
            governor.batches[READ] = Batch(values["max_nodes_per_read"] if isinstance(values["max_nodes_per_read"], int) else 0, budget_per_s)
            await governor.start()
            return await record(lambda wanted: ask([nodes[one] for one in wanted]), tags, window_s, budget_per_s, time.time, asyncio.sleep)
        finally:
            await reader.close()
