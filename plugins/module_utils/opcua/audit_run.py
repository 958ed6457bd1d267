# SPDX-License-Identifier: Apache-2.0
"""One audit of one endpoint in the class *read*: one connection, one session, closed in every case, never a second login.

Gathers facts and judges nothing; ``audit_judge`` does. Time is injected, the channel too.
"""
from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from .audit_load import BROWSE, READ, Batch, Budget, Governor
from .audit_logins import Login
from .audit_types import BAD, VALUE, AuditError, BadAnswer, Channel, Names, Opened, Reading, TooMany
from .audit_walk import Memo, Result, Walk

NAMESPACE_ARRAY, START_TIME, STATE = "ns=0;i=2255", "ns=0;i=2257", "ns=0;i=2259"
FACTS: dict[str, str] = {
    "namespaces": NAMESPACE_ARRAY, "start_time": START_TIME, "state": STATE, "product_uri": "ns=0;i=2262", "manufacturer": "ns=0;i=2263",
    "product": "ns=0;i=2261", "version": "ns=0;i=2264", "build": "ns=0;i=2265", "auditing": "ns=0;i=2994",
    "max_nodes_per_read": "ns=0;i=11705", "max_nodes_per_browse": "ns=0;i=11710", "max_continuation_points": "ns=0;i=2735",
    "max_sessions": "ns=0;i=24095", "sessions": "ns=0;i=2277",
}
BATCH = 1000
CLOSE_MARGIN_S = 5.0


@dataclass(frozen=True)
class Plan:
    """What to audit, and how gently. *tags* in the stable form ``nsu=URI;s=x``."""

    source: str
    endpoint: str
    policy: str
    mode: str
    username: str
    application_uri: str
    tags: tuple[str, ...] = ()
    budget_per_s: int = 50
    in_flight: int = 1
    batch: int = BATCH
    latency_floor_s: float = 0.02
    rest_s: float = 5.0
    deadline_s: float = 1800.0
    sessions_left: int = 2
    max_nodes: int = 1_000_000
    environment: str = ""


@dataclass
class Facts:
    """Everything one audit found out. *error*: why it did not come to its end, empty = it did."""

    opened: Opened | None = None
    values: dict[str, Any] = field(default_factory=dict)
    statuses: dict[str, int] = field(default_factory=dict)
    result: Result = field(default_factory=Result)
    error: str = ""
    load: dict[str, Any] = field(default_factory=dict)
    resumed: int = 0
    memo: Memo | None = None
    logins: dict[str, Login] = field(default_factory=dict)
    token: dict[str, str] = field(default_factory=dict)
    not_authorised: str = ""
    names: Names = field(default_factory=lambda: Names(["http://opcfoundation.org/UA/"]))

    @property
    def complete(self) -> bool:
        """The walk came to its end and left nothing out."""
        return not self.error and self.result.complete


def memo_key(plan: Plan, opened: Opened, values: Mapping[str, Any]) -> list[str]:
    """What must be the same for answers of an earlier run to be worth anything."""
    return [
        plan.endpoint, plan.username, opened.server.sha256 if opened.server else "", opened.client.sha256 if opened.client else "",
        str(values.get("start_time")), "|".join(str(uri) for uri in values.get("namespaces") or ()),
    ]


def sessions_free(values: Mapping[str, Any]) -> int | None:
    """Sessions that are left beside ours; None where the server does not count them."""
    most, now = values.get("max_sessions"), values.get("sessions")
    if not isinstance(most, int) or not isinstance(now, int) or most <= 0 or now <= 0:
        return None
    return max(0, most - now)


@contextlib.contextmanager
def _seldom() -> Iterator[None]:
    """A walk keeps what it makes: Python's collector of cycles would look at all of it again and again, a twelfth of the CPU at 100 000 nodes."""
    before = gc.get_threshold()
    gc.set_threshold(100_000, 20, 50)
    try:
        yield
    finally:
        gc.set_threshold(*before)


async def gather(channel: Channel, plan: Plan, clock: Callable[[], float], sleep: Callable[[float], Awaitable[None]],
                 earlier: Mapping[str, Any] | None = None, walker: Callable[..., Walk] = Walk) -> Facts:
    """Run the audit, or another *walker* on the same rails. Never raises for what the server does; cancellation closes the session too."""
    facts, begin = Facts(), clock()
    until = begin + plan.deadline_s - min(CLOSE_MARGIN_S, plan.deadline_s / 4)
    budget = Budget(plan.budget_per_s, clock, sleep)
    ceiling = max(1, min(plan.batch, plan.budget_per_s // (2 * plan.in_flight)))

    async def probe() -> Any:
        return await channel.read([(channel.node(STATE), VALUE)])

    governor = Governor(budget, {READ: Batch(1, ceiling), BROWSE: Batch(1, ceiling)}, clock, sleep, probe,
                        floor_s=plan.latency_floor_s, rest_s=plan.rest_s)
    try:
        facts.opened = await channel.open()
        await _server(channel, governor, facts)
        left = sessions_free(facts.values)
        if left is not None and left < plan.sessions_left - 1:
            raise AuditError("the server has %d of %d sessions left beside ours: they are for those who work" % (
                left, facts.values["max_sessions"]))
        _limits(governor, facts.values, ceiling)
        await governor.start()
        facts.memo = Memo(memo_key(plan, facts.opened, facts.values), earlier)
        facts.resumed = facts.memo.remembered
        walk = walker(channel, governor, facts.names, plan.tags, plan.in_flight, facts.memo,
                      lambda: "deadline of %.0f s" % plan.deadline_s if clock() > until else "", plan.max_nodes,
                      _number(facts.values, "max_continuation_points"))
        facts.result = walk.result
        with _seldom():
            await asyncio.wait_for(walk.run(), max(0.001, until + CLOSE_MARGIN_S / 2 - clock()))
        facts.error = facts.result.stopped
    except AuditError as error:
        facts.error = str(error)
    except TooMany:
        facts.error = "the server refuses a read of one attribute as too many operations"
    except (asyncio.TimeoutError, TimeoutError):
        facts.error = "deadline of %.0f s" % plan.deadline_s
    except asyncio.CancelledError:
        facts.error = "cancelled"
        raise
    except Exception as error:
        # What nobody foresaw (a decoder that breaks on hostile bytes) ends the audit, never its cleanup.
        facts.error = "unforeseen: %s: %s" % (type(error).__name__, " ".join(str(error).split())[:300])
    finally:
        await channel.close()
        facts.load = {
            "operations": budget.total, "requests": governor.requests, "budget_per_s": plan.budget_per_s, "in_flight": plan.in_flight,
            "batch": {kind: batch.good for kind, batch in governor.batches.items()}, "seconds": round(clock() - begin, 3),
            "latency_ms": {"baseline": round(governor.baseline_s * 1000, 1), "worst_probe": round(governor.worst_s * 1000, 1),
                           "alarm_above": round(governor.bound_s * 1000, 1)},
            "alarms": list(governor.alarm.events), "refused_sizes": dict(governor.refusals), "waited_s": round(budget.waited_s, 1),
        }
    return facts


async def _server(channel: Channel, governor: Governor, facts: Facts) -> None:
    """What the Server object tells of itself, one attribute at a time: its limits are not known yet."""
    for name, text in FACTS.items():
        answer = await governor.send(READ, 1, partial(channel.read, [(channel.node(text), VALUE)]))
        if answer is None or len(answer) != 1:
            raise BadAnswer("Read: one attribute was asked for, the answer is for %s" % ("none" if answer is None else len(answer)))
        reading: Reading = answer[0]
        facts.statuses[name] = reading.status
        if not reading.status & BAD:
            facts.values[name] = reading.value
    table: Sequence[Any] = facts.values.get("namespaces") or ()
    if not isinstance(table, (list, tuple)) or not table:
        raise BadAnswer("the server's NamespaceArray cannot be read (0x%08X)" % facts.statuses["namespaces"])
    facts.names = Names([str(uri) for uri in table])
    channel.know(facts.names.table)


def _number(values: Mapping[str, Any], name: str) -> int:
    value = values.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def _limits(governor: Governor, values: Mapping[str, Any], ceiling: int) -> None:
    """Batches inside the server's own limits."""
    governor.batches[READ] = Batch(_number(values, "max_nodes_per_read"), ceiling)
    governor.batches[BROWSE] = Batch(_number(values, "max_nodes_per_browse"), ceiling)
