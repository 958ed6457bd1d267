# SPDX-License-Identifier: Apache-2.0
"""The recorder of ``fidelity`` on the mirror's host: the rails of the audit (one session, named, budget, the collector first), then reading."""
from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import Any

from .audit_host import Audit, State
from .audit_run import NAMESPACE_ARRAY, sessions_free
from .audit_types import VALUE, AuditError, Names, TooMany
from .fidelity import Recording, Tag, record

_COUNTS = {"max_sessions": "ns=0;i=24095", "sessions": "ns=0;i=2277"}
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
            return asyncio.run(asyncio.wait_for(self._session(target, tags, window_s, budget_per_s), window_s + 60.0))
        except TooMany as error:
            return Recording(error="the server does not read %d tags at once: %s" % (len(tags), error))
        except (asyncio.TimeoutError, TimeoutError):
            return Recording(error="the server did not answer in time")
        except (AuditError, OSError, ValueError) as error:
            return Recording(error=str(error))

    async def _session(self, target: Any, tags: Sequence[Tag], window_s: float, budget_per_s: float) -> Recording:
        reader = self._reader.Reader(target)
        try:
            await reader.open()
            (table,) = await reader.read([(reader.node(NAMESPACE_ARRAY), VALUE)])
            values = {}
            for key, node in _COUNTS.items():
                (one,) = await reader.read([(reader.node(node), VALUE)])
                values[key] = one.value
            left = sessions_free(values)
            if left is not None and left < SESSIONS_LEFT:
                raise AuditError("the server has %d of %s sessions left beside ours: they are for those who work" % (left, values["max_sessions"]))
            names = Names([str(uri) for uri in table.value or []])
            nodes = {}
            for tag in tags:
                today = names.today(tag.node)
                if today is None:
                    raise AuditError("%s: the server does not have its namespace" % tag.node)
                nodes[tag.node] = reader.node(today)

            async def read(wanted: list[str]) -> list[tuple[int | None, Any, int]]:
                answers: list[tuple[int | None, Any, int]] = await reader.timed([nodes[one] for one in wanted])
                if len(answers) != len(wanted):
                    raise AuditError("%d values were asked for, %d were answered" % (len(wanted), len(answers)))
                return answers

            return await record(read, tags, window_s, budget_per_s, time.time, asyncio.sleep)
        finally:
            await reader.close()
