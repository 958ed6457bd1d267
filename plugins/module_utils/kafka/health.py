# SPDX-License-Identifier: Apache-2.0
"""The checks of a Kafka cluster and of this broker's listeners. Ids: Q quorum, F features, B brokers and partitions, L log directories,
C consumers, S security.

Judged on what the cluster says about itself, never on "the unit is active". Two samples where one moment proves nothing.
"""

from __future__ import annotations

import re
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from .. import at_once
from ..verdict import Check, Report
from . import quotas
from .acls import Acl, readers_below
from .canary import undeclared
from .listeners import Links, Listener, refuses_anonymous, refuses_plaintext, refuses_wrong_password
from .quotas import Quotas
from .scram import MECHANISMS, LoginError, OpenDoor
from .state import Group, KafkaError, Snapshot, Unreachable
from .storage import read_properties
from .topics import Topic, differences
from .users import ANCHOR, MIN_ITERATIONS

_DAY_S = 86400.0
#: Settings that are made in the cluster: by Kafka itself when it is formatted (B7 is about it), and one that B8 is about.
_TOLD_ELSEWHERE = frozenset({"min.insync.replicas", "unclean.leader.election.enable"})
#: Kafka keeps the newest record of each key in these, and everything else is gone with their positions.
_COMPACTED = ("__consumer_offsets", "__transaction_state")
#: Settings by which a certificate becomes a name, of all listeners or of one.
_NAMING = ("principal.mapping.rules", "principal.builder.class")
#: What a group is while its members share its partitions out, for seconds when one comes or goes; and how often it is looked at then.
_SHARING = ("PreparingRebalance", "CompletingRebalance", "Assigning", "Reconciling")
_SHARING_LOOKS = 15
_KRAFT, _TRANSACTION = "kraft.version", "transaction.version"


class Source(Protocol):
    """What is asked of the cluster; adapter.Admin is one."""

    def snapshot(self) -> Snapshot: ...

    def features(self) -> dict[str, tuple[int, int]]: ...

    def log_dirs(self) -> list[dict[str, Any]]: ...

    def broker_config(self, node: int, keys: Sequence[str]) -> dict[str, str]: ...

    def set_over_file(self, node: int) -> dict[str, str]: ...

    def topics(self, names: Sequence[str]) -> dict[str, Topic]: ...

    def quotas(self) -> Quotas: ...

    def acls(self) -> list[Acl]: ...

    def users(self) -> dict[str, dict[str, int]]: ...

    def groups(self, topics: Mapping[str, Sequence[str]], since_ms: int) -> list[Group]: ...


@dataclass(frozen=True)
class Local:
    """What this host says by itself. `config`: text of server.properties; `directory`: id of its log directory; `ports`: TCP ports on which
    the broker's process listens; `volume`: {read_only, total_bytes, usable_bytes} of the file system under the log directory, whether the
    broker runs or not; `supported`: features of one node, asked directly at (host, port); `mistrust`: why the certificate in a file that
    server.properties names would not be trusted, "" where it would."""

    config: Callable[[], str]
    directory: Callable[[], str]
    ports: Callable[[], Mapping[int, str]]
    volume: Callable[[], Mapping[str, int]]
    supported: Callable[[tuple[str, int], float], Mapping[str, tuple[int, int]]]
    mistrust: Callable[[str], str]


@dataclass(frozen=True)
class Expected:
    """What the inventory declares. `levels`: principal → level of the zone that it comes from; `mechanisms`: user → SCRAM mechanisms that it may have, of
    those that have the same for good; `features`: finalized levels; `acls` None: not compared; `quotas`: user → key → value, None: not compared;
    `groups`: name → topics that it may read; `addresses`: host:port at which nodes are asked what they can do."""

    host: str
    node: int
    nodes: tuple[int, ...]
    supers: tuple[str, ...]
    levels: Mapping[str, float] = field(default_factory=dict)
    features: Mapping[str, int] = field(default_factory=dict)
    acls: frozenset[Acl] | None = None
    quotas: Mapping[str, Mapping[str, float]] | None = None
    topics: tuple[Topic, ...] = ()
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    addresses: tuple[str, ...] = ()
    min_isr: int = 2
    max_lag_ms: float = 2000.0
    max_fetch_age_ms: float = 10000.0
    max_group_age_s: float = 60.0
    max_imbalance_pct: float = 10.0
    min_free_pct: float = 10.0
    min_cert_days: float = 3.0
    interval_s: float = 1.0
    mechanisms: Mapping[str, Sequence[str]] = field(default_factory=dict)


Spec = dict[str, Any]
Todo = list[tuple[Spec, Callable[[Check], None]]]


class Health:
    """Checks of one cluster as seen from one broker. `open_source` connects, once, when the first check needs it."""

    def __init__(self, report: Report, open_source: Callable[[float], Source], expected: Expected, local: Local,
                 sleep: Callable[[float], None] = time.sleep, now: Callable[[], float] = time.time) -> None:
        self.report = report
        self.want = expected
        self.local = local
        self._open = open_source
        self._sleep = sleep
        self._now = now
        self._source: Source | None = None
        self._broken: Exception | None = None
        self._samples: list[Snapshot] = []
        self._blind: Exception | None = None
        self._dirs: list[list[dict[str, Any]]] = []
        self._features: dict[str, tuple[int, int]] = {}

    @property
    def source(self) -> Source:
        """The connection. Raises what opening it raised, every time, so that each check says why."""
        if self._broken is not None:
            raise self._broken
        if self._source is None:
            try:
                self._source = self._open(self.report.timeout(10.0))
            except Exception as error:
                self._broken = error
                raise
        return self._source

    def samples(self) -> list[Snapshot]:
        """Two looks at the cluster, some time apart. Raises what looking raised, every time: who asked again for each check would have no time left."""
        if self._blind is not None:
            raise self._blind
        if not self._samples:
            try:
                self._samples = self._look()
            except Exception as error:  # Also an answer that makes no sense.
                self._blind = error
                raise
        return self._samples

    def _look(self) -> list[Snapshot]:
        try:
            first = self.source.snapshot()
        except Unreachable:
            raise
        except KafkaError:
            # The client was told of a broker that went at the same moment: one that asks anew knows better.
            self._source = None
            first = self.source.snapshot()
        self._sleep(self.want.interval_s)
        return [first, self.source.snapshot()]

    def dirs(self) -> list[dict[str, Any]]:
        """Log directories of every broker."""
        if not self._dirs:
            self._dirs = [self.source.log_dirs()]
        return self._dirs[0]

    def features(self) -> dict[str, tuple[int, int]]:
        """Feature → (finalized level, highest level that is supported)."""
        if not self._features:
            self._features = self.source.features()
        return self._features

    # -- quorum -----------------------------------------------------------------------------------------------------

    def q1(self, c: Check) -> None:
        """Leader and epoch, two samples."""
        seen = [(s.quorum.leader_id, s.quorum.leader_epoch) for s in self.samples()]
        c.observed, c.evidence = seen[-1][0], {"leader_and_epoch": seen}
        c.passed(seen[0] == seen[1] and seen[0][0] >= 0, "no leader" if seen[-1][0] < 0 else "the leader changed between two looks")

    def q2(self, c: Check) -> None:
        """Voters are the inventory's, and this host's is the directory that this host has."""
        quorum = self.samples()[-1].quorum
        c.observed, c.expected = [v.id for v in quorum.voters], sorted(self.want.nodes)
        mine, here = next((v.directory for v in quorum.voters if v.id == self.want.node), ""), self.local.directory()
        c.evidence = {"directories": {v.id: v.directory for v in quorum.voters}, "directory_of_this_host": here}
        if c.observed != c.expected:
            c.fail("voters are not those of the inventory")
            return
        dynamic = read_properties(self.local.config()).get("controller.quorum.voters") is None
        c.passed(mine == here or not dynamic, f"the quorum waits for directory {mine} of node {self.want.node}, this host has {here}")

    def q3(self, c: Check) -> None:
        """Caught up by time."""
        quorum = self.samples()[-1].quorum
        lags = {v.id: quorum.lag_ms(v) for v in quorum.voters}
        c.observed, c.expected = max(lags.values(), default=None), f"< {self.want.max_lag_ms:g}"
        c.evidence = {"lag_ms": lags, "end_offset": {v.id: v.end_offset for v in quorum.voters}}
        late = quorum.behind(self.want.max_lag_ms)
        c.passed(bool(lags) and not late, f"voters {late} are behind")

    def q4(self, c: Check) -> None:
        """The metadata log goes on."""
        first, last = (s.quorum.high_watermark for s in self.samples())
        c.observed, c.evidence = last - first, {"high_watermark": [first, last]}
        c.passed(last > first)

    def q5(self, c: Check) -> None:
        """Every broker takes the metadata log."""
        last = self.samples()[-1]
        replicas = {v.id: v for v in (*last.quorum.observers, *last.quorum.voters)}
        ages = {node: last.quorum.fetch_age_ms(replicas[node]) for node in last.brokers if node in replicas}
        apart = sorted(set(last.brokers) - set(replicas))
        stale = sorted(node for node, age in ages.items() if age >= self.want.max_fetch_age_ms)
        c.observed, c.expected = max(ages.values(), default=None), f"< {self.want.max_fetch_age_ms:g}"
        c.evidence = {"fetched_ms_ago": ages, "takes_no_metadata": apart}
        c.passed(bool(ages) and not apart and not stale, f"broker {', '.join(map(str, apart + stale))} does not fetch the metadata log")

    def q6(self, c: Check) -> None:
        """How many nodes may be lost now."""
        quorum = self.samples()[-1].quorum
        good = len(quorum.voters) - len(quorum.behind(self.want.max_lag_ms))
        c.observed = good - quorum.majority
        c.expected = len(self.want.nodes) - (len(self.want.nodes) // 2 + 1)
        c.passed(c.observed >= c.expected)

    # -- features ---------------------------------------------------------------------------------------------------

    def f1(self, c: Check) -> None:
        """Finalized feature levels of the release."""
        found = self.features()
        c.expected = {name: level for name, level in self.want.features.items() if name not in (_KRAFT, _TRANSACTION)}
        c.observed = {name: found.get(name, (0, 0))[0] for name in c.expected}
        c.evidence = {"supported": {name: item[1] for name, item in found.items()}}
        if not c.expected:
            c.skip("no feature level is declared")
            return
        c.passed(c.observed == c.expected)

    def f2(self, c: Check) -> None:
        """A static list of voters belongs to kraft.version 0, a bootstrap list to 1 (KAFKA-21426)."""
        config = read_properties(self.local.config())
        styles = [level for key, level in (("controller.quorum.voters", 0), ("controller.quorum.bootstrap.servers", 1)) if config.get(key)]
        c.observed = self.features().get(_KRAFT, (0, 0))[0]
        c.expected, c.evidence = styles[0] if styles else None, {"controller.quorum": [key for key in config if key.startswith("controller.quorum.")]}
        c.passed(styles == [c.observed], "the configuration names both or none" if len(styles) != 1 else "configuration and cluster are of two styles")

    def f3(self, c: Check) -> None:
        """Every node, broker or controller, can do what is finalized (KAFKA-20295)."""
        finalized = {name: item[0] for name, item in self.features().items() if item[0]}
        short: dict[str, list[str]] = {}
        silent: dict[str, str] = {}
        limit_s = self.report.timeout(3.0)

        def ask(address: str) -> Mapping[str, tuple[int, int]]:
            host, _, port = address.rpartition(":")
            return self.local.supported((host, int(port)), limit_s)

        for address, can in at_once.ask(ask, self.want.addresses, 3 * limit_s).items():
            if isinstance(can, Exception):
                silent[address] = str(can)
                continue
            lacks = sorted(name for name, level in finalized.items() if not can.get(name, (0, 0))[0] <= level <= can.get(name, (0, 0))[1])
            if lacks:
                short[address] = lacks
        c.observed, c.expected, c.evidence = len(short), 0, {"finalized": finalized, "cannot": short, "silent": silent, "asked": list(self.want.addresses)}
        if short:
            c.fail(f"{', '.join(short)} cannot do what is finalized")
        elif silent or not finalized or not self.want.addresses:
            c.inconclusive(f"{', '.join(silent)} did not answer" if silent else "nothing to compare")
        else:
            c.passed(True)

    def f4(self, c: Check) -> None:
        """Transactions that a restarted producer cannot reopen (KIP-890)."""
        if _TRANSACTION not in self.want.features:
            c.skip("no exactly-once is declared")
            return
        c.observed, c.expected = self.features().get(_TRANSACTION, (0, 0))[0], f">= {self.want.features[_TRANSACTION]}"
        c.passed(c.observed >= self.want.features[_TRANSACTION])

    # -- brokers and partitions -------------------------------------------------------------------------------------

    def b1(self, c: Check) -> None:
        """All brokers are there and not fenced."""
        last = self.samples()[-1]
        c.observed, c.expected = sorted(last.live()), sorted(self.want.nodes)
        c.evidence = {"fenced": sorted(n for n, fenced in last.brokers.items() if fenced)}
        missing = sorted(set(self.want.nodes) - last.live())
        # Also one that is fenced takes the metadata log.
        strange = sorted(set(last.brokers) - set(self.want.nodes))
        c.passed(not missing and not strange, "; ".join(f"broker {', '.join(map(str, found))} {what}" for found, what in (
            (missing, "is not there"), (strange, "is declared by nobody")) if found))

    def _partitions(self, c: Check, names: Callable[[Snapshot], list[str]]) -> None:
        both = [set(names(s)) for s in self.samples()]
        lasting = sorted(both[0] & both[1])
        c.observed, c.expected = len(lasting), 0
        c.evidence = {"partitions": lasting[:50], "of": len(self.samples()[-1].partitions)}
        if not self.samples()[-1].partitions:
            c.inconclusive("the cluster names no partition at all")
            return
        c.passed(not lasting, ", ".join(lasting[:5]))

    def b2(self, c: Check) -> None:
        """Offline partitions; a declared topic that is not there has none that is online."""
        self._partitions(c, Snapshot.offline)
        missing = sorted({topic.name for topic in self.want.topics} - {p.topic for p in self.samples()[-1].partitions})
        if missing:
            c.evidence["missing_topics"] = missing
            c.fail(f"declared topic {', '.join(missing[:5])} is not there")

    def b3(self, c: Check) -> None:
        """Partitions that refuse acks=all."""
        self._partitions(c, Snapshot.under_min_isr)

    def b4(self, c: Check) -> None:
        """Partitions without reserve."""
        self._partitions(c, Snapshot.at_min_isr)

    def b5(self, c: Check) -> None:
        """Partitions that miss a replica."""
        self._partitions(c, Snapshot.under_replicated)

    def b6(self, c: Check) -> None:
        """Leaders are where they were placed."""
        partitions = self.samples()[-1].partitions
        both = [set(s.off_preferred()) for s in self.samples()]
        off = sorted(both[0] & both[1])
        if not partitions:
            c.inconclusive("the cluster names no partition at all")
            return
        c.observed, c.expected = round(100.0 * len(off) / len(partitions), 1), f"< {self.want.max_imbalance_pct:g}"
        c.evidence = {"partitions": off[:50], "of": len(partitions)}
        c.passed(c.observed < self.want.max_imbalance_pct, ", ".join(off[:5]))

    def b7(self, c: Check) -> None:
        """Kafka's own topics are replicated like ours, and forget nothing that is in force."""
        internal = [p for p in self.samples()[-1].partitions if p.topic.startswith("__")]
        factor = min(3, len(self.want.nodes))
        poor = sorted({p.topic for p in internal if len(p.replicas) < factor or p.min_isr < min(self.want.min_isr, factor)})
        names = sorted({p.topic for p in internal})
        asked = [name for name in _COMPACTED if name in names]
        found = self.source.topics(asked) if asked else {}
        policies = {name: found[name].config.get("cleanup.policy", "not set") if name in found else "not told" for name in asked}
        forgetful = {name: policy for name, policy in policies.items() if policy != "compact"}
        c.observed, c.expected, c.evidence = len({*poor, *forgetful}), 0, {"topics": names, "poor": poor, "cleanup.policy": forgetful}
        if not internal:
            c.skip("there is none yet: nothing was ever committed")
            return
        c.passed(not poor and not forgetful, "; ".join(filter(None, (
            ", ".join(poor), ", ".join(f"{name} cleanup.policy {policy} instead of compact" for name, policy in sorted(forgetful.items()))))))

    def b8(self, c: Check) -> None:
        """Unclean leader election, as the broker has it and as a topic may override it."""
        key = "unclean.leader.election.enable"
        c.observed, c.expected = self.source.broker_config(self.want.node, [key]).get(key), "false"
        topics = list(self.samples()[-1].unclean)
        c.evidence = {"topics": topics}
        allows = ["the broker"] * (c.observed != c.expected) + [f"topic {', '.join(topics[:5])}"] * bool(topics)
        c.passed(not allows, f"{' and '.join(allows)} allows it")

    def b9(self, c: Check) -> None:
        """Reassignments under way."""
        c.observed, c.expected = len(self.samples()[-1].reassignments), 0
        c.evidence = {"partitions": list(self.samples()[-1].reassignments)[:50]}
        c.passed(c.observed == 0, ", ".join(self.samples()[-1].reassignments[:5]))

    def b10(self, c: Check) -> None:
        """Replicas of one partition stand in as many racks as there are."""
        last = self.samples()[-1]
        if not last.racks:
            c.skip("no rack is declared")
            return
        without = sorted(last.live() - set(last.racks))
        number = len(set(last.racks.values()))
        narrow = sorted(p.name for p in last.partitions
                        if len({last.racks[node] for node in p.replicas if node in last.racks}) < min(number, len(p.replicas)))
        c.observed, c.expected = len(narrow), 0
        c.evidence = {"racks": dict(last.racks), "without_rack": without, "partitions": narrow[:50]}
        c.passed(not narrow and not without, f"broker {', '.join(map(str, without))} has no rack" if without else ", ".join(narrow[:5]))

    def b11(self, c: Check) -> None:
        """Declared topics and the quotas are as declared, and this broker's file is not overridden in the cluster. A topic that is not there is B2's; one
        that nobody declared is named: it may be somebody's, and stops no upgrade."""
        if not self.want.topics:
            c.skip("no topic is declared")
            return
        limits = [] if self.want.quotas is None else quotas.differences(self.want.quotas, self.source.quotas())
        try:
            over = {key: value for key, value in self.source.set_over_file(self.want.node).items() if key not in _TOLD_ELSEWHERE}
            present = self.source.topics([topic.name for topic in self.want.topics])
        except KafkaError as error:
            # One for all users slows this question down, too.
            if not limits:
                raise
            c.observed, c.expected, c.evidence = len(limits), 0, {"differences": limits[:50], "unsaid": str(error)}
            c.fail("; ".join(limits[:5]))
            return
        extra = undeclared((one.topic for look in self._samples[-1:] for one in look.partitions), (topic.name for topic in self.want.topics))
        found = [*differences(self.want.topics, present), *limits,
                 *(f"broker {self.want.node} {key} {over[key] or '(not told)'} over its file" for key in sorted(over))]
        c.observed, c.expected, c.evidence = len(found), 0, {"differences": found[:50], "topics": sorted(present), "undeclared": extra[:50]}
        if not present and not found:
            c.inconclusive("none of the declared topics is there")
            return
        c.passed(not found, "; ".join(found[:5]))

    # -- log directories --------------------------------------------------------------------------------------------

    def l1(self, c: Check) -> None:
        """Log directories are online, writable and have room. A broker whose only directory fails is gone: its own host still says why."""
        c.expected = f">= {self.want.min_free_pct:g}"
        own = self.local.volume()
        c.observed = round(100.0 * own["usable_bytes"] / own["total_bytes"], 1) if own["total_bytes"] else 0.0
        c.evidence = {"this_host": dict(own)}
        if own["read_only"] or c.observed < self.want.min_free_pct:
            c.fail("the file system of this host's log directory is " + ("read-only" if own["read_only"] else "short of room"))
            return
        dirs = self.dirs()
        free = {f"{d['broker']}:{d['path']}": 100.0 * d["usable_bytes"] / d["total_bytes"] if d["total_bytes"] > 0 else 0.0 for d in dirs}
        bad = sorted(f"{d['broker']}:{d['path']}" for d in dirs if d["error"] or d["cordoned"])
        short = sorted(name for name, share in free.items() if share < self.want.min_free_pct and name not in bad)
        unseen = self._unseen()
        c.observed = round(min(free.values(), default=0.0), 1)
        c.evidence["directories"] = dirs
        if bad or short:
            c.fail("; ".join([*(["offline or cordoned: " + ", ".join(bad)] if bad else []), *(["short of room: " + ", ".join(short)] if short else [])]))
        elif unseen:
            c.inconclusive(unseen)
        else:
            c.passed(True)

    def l2(self, c: Check) -> None:
        """Copies between directories come nearer."""
        first = {(d["broker"], name): lag for d in self.dirs() for name, lag in d["future"].items()}
        c.expected = 0
        if first:
            self._sleep(self.want.interval_s)
            then = {(d["broker"], name): lag for d in self.source.log_dirs() for name, lag in d["future"].items()}
            stuck = sorted(f"{broker}:{name}" for (broker, name), lag in then.items() if lag >= first.get((broker, name), lag + 1))
        else:
            stuck = []
        c.observed, c.evidence = len(stuck), {"moving": len(first), "stuck": stuck}
        unseen = self._unseen()
        if unseen and not stuck:
            c.inconclusive(unseen)
            return
        c.passed(not stuck, ", ".join(stuck[:5]))

    def _unseen(self) -> str:
        """Who says nothing about its log directories; empty: each does."""
        unseen = sorted(self.samples()[-1].live() - {d["broker"] for d in self.dirs()})
        if unseen:
            return f"broker {', '.join(map(str, unseen))} names no log directory"
        return "" if self.dirs() else "no broker names a log directory"

    # -- consumers --------------------------------------------------------------------------------------------------

    def c3(self, c: Check) -> None:
        """Nothing that a declared group should have read waits longer than it may, and the group has not lost its members."""
        if not self.want.groups:
            c.skip("no group is declared")
            return
        found = self._groups()
        late = {name: sorted(f"{p.topic}-{p.number}" for p in group.positions if p.late) for name, group in found.items()}
        ahead = {name: sorted(f"{p.topic}-{p.number}" for p in group.positions if p.ahead) for name, group in found.items()}
        # A reader that only stores its position has no members and no protocol: for Kafka it is for ever empty.
        idle = sorted(name for name, group in found.items() if group.state != "Stable" and not (group.state == "Empty" and not group.protocol))
        missing = sorted(set(self.want.groups) - set(found))
        lost = {name: [f"{p.lost} records of {p.topic}-{p.number}" for p in group.positions if p.lost] for name, group in found.items()}
        blind = sorted(name for name, group in found.items() if not group.positions)
        # One record of a time to come makes all that wait behind it look new.
        until_ms = (self._now() + self.want.max_group_age_s) * 1000
        hidden = sorted(f"{name} in {p.topic}-{p.number}" for name, group in found.items() for p in group.positions if p.lag > 0 and p.due_ms > until_ms)
        c.observed, c.expected = max((p.lag for g in found.values() for p in g.positions), default=None), f"none older than {self.want.max_group_age_s:g} s"
        c.evidence = {"states": {name: group.state for name, group in found.items()}, "missing": missing,
                      "lag": {name: sum(p.lag for p in group.positions) for name, group in found.items()}, "late": {n: p for n, p in late.items() if p},
                      "ahead": {n: p for n, p in ahead.items() if p}}
        reasons = [f"group {', '.join(missing)} was never seen"] if missing else []
        reasons += [f"{name} is {found[name].state}" for name in idle]
        reasons += [f"{name} is late in {', '.join(parts[:3])}" for name, parts in late.items() if parts]
        reasons += [f"{name} stands beyond the end of {', '.join(parts[:3])}: records that it has read are gone" for name, parts in ahead.items() if parts]
        reasons += [f"{name} never read {', '.join(parts[:3])}: retention was faster" for name, parts in lost.items() if parts]
        if reasons:
            c.fail("; ".join(reasons))
        elif blind:
            c.inconclusive(f"{', '.join(blind)} has kept no position yet")
        elif hidden:
            c.inconclusive(f"a record of a time to come hides how long others wait for {', '.join(hidden[:3])}: whose clock is ahead (HO4)?")
        else:
            c.passed(True)

    def _groups(self) -> dict[str, Group]:
        """The declared groups that are there. One that shares its partitions out is no reader that is stuck: it is looked at again, for as long as leaves
        the other checks their time."""
        least = (self.report.remaining() or 0.0) / 2
        for look in range(_SHARING_LOOKS):
            if look:
                self._sleep(self.want.interval_s)
            found = {group.name: group for group in self.source.groups(self.want.groups, int((self._now() - self.want.max_group_age_s) * 1000))}
            left = self.report.remaining()
            if not any(group.state in _SHARING for group in found.values()) or (left is not None and left < least):
                break
        return found

    # -- security ---------------------------------------------------------------------------------------------------

    def s5(self, c: Check) -> None:
        """Exactly the declared ACLs, and no identity of level 3 or below may read (I13), as the cluster's own ACLs say."""
        acls = self.source.acls()
        readers = readers_below(acls, self.want.levels)
        wanted = self.want.acls if self.want.acls is not None else frozenset(acls)
        missing, surplus = sorted(str(a) for a in wanted - set(acls)), sorted(str(a) for a in set(acls) - wanted)
        c.observed, c.expected = len(readers) + len(missing) + len(surplus), 0
        c.evidence = {"readers": readers, "missing": missing, "surplus": surplus, "acls": sorted(str(a) for a in acls)}
        c.passed(not c.observed, "; ".join(f"{what}: {', '.join(found[:3])}" for what, found in (
            ("reads from level 3 or below", readers), ("missing", missing), ("not declared", surplus)) if found))

    def s7(self, c: Check) -> None:
        """No client has the name of a broker, and none is there that nobody declared."""
        users = self.source.users()
        both = sorted(set(users) & set(self.want.supers))
        strange = sorted(set(users) - {*self.want.levels, *self.want.supers, ANCHOR}) if self.want.levels else []
        # A second way in under a name that is known: no run takes it away, and the password is whoever made it's.
        strange += sorted(f"{name} {one}" for name, declared in self.want.mechanisms.items() for one in set(users.get(name, ())) - set(declared))
        weak = sorted(f"{name} {one}" for name, kept in users.items() for one, iterations in kept.items() if iterations < MIN_ITERATIONS)
        c.observed, c.expected = len(both) + len(strange) + len(weak), 0
        c.evidence = {"users": sorted(users), "brokers": list(self.want.supers), "undeclared": strange, "weak": weak}
        if self.want.levels and not users:
            c.inconclusive("the cluster names no user, although some are declared")
            return
        c.passed(not c.observed, "; ".join(f"{', '.join(names[:5])} {what}" for names, what in (
            (both, "has the name of a broker"), (strange, "is declared by nobody"), (weak, f"has less than {MIN_ITERATIONS} iterations")) if names))

    def s8(self, c: Check) -> None:
        """This broker knows whom the others know, and the anchor that keeps them at a restart (users.py)."""
        first, last = self.samples()
        me, silent = self.want.node, {**first.silent, **last.silent}
        lost = sorted(first.lacking().get(me, set()) & last.lacking().get(me, set()))
        c.observed, c.expected = len(lost), 0
        c.evidence = {"lacks": [" ".join(login) for login in lost], "known": {node: len(found) for node, found in last.users.items()}, "silent": silent}
        if me in silent or me not in first.users or me not in last.users:
            c.inconclusive(f"this broker does not say which users it knows: {silent.get(me, 'it is not among the live ones')}")
            return
        bare = sorted(set(MECHANISMS) - {mechanism for name, mechanism in first.users[me] | last.users[me] if name == ANCHOR})
        if lost:
            knows = sorted(node for node, found in last.users.items() if found & set(lost))
            c.fail(f"broker {me} does not know user {', '.join(c.evidence['lacks'][:5])}, which broker {', '.join(map(str, knows))} does")
        elif bare:
            c.fail(f"broker {me} has no {ANCHOR} for {', '.join(bare)}: a restart may forget every user of it")
        elif silent:
            c.inconclusive("; ".join(f"broker {node}: {why}" for node, why in sorted(silent.items())))
        elif len(last.users) == 1 < len(self.want.nodes):
            c.inconclusive("no other broker is there to compare with")
        else:
            c.passed(True)

    def s6(self, c: Check) -> None:
        """Deny by default; super users as declared, and no other certificate makes one. Kafka does not tell these over its API: the file that it was
        started with does."""
        found = read_properties(self.local.config())
        brokers = "|".join(map(re.escape, self.want.supers))
        c.expected = {"allow.everyone.if.no.acl.found": "false", "super.users": sorted(f"User:{name}" for name in self.want.supers),
                      "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
                      "ssl.principal.mapping.rules": f"RULE:^CN=({brokers}),OU=kafka(,.*)?$/$1/,DEFAULT"}
        c.observed = {key: value for key, value in found.items() if key in c.expected or key.endswith(_NAMING)}
        c.observed["super.users"] = sorted(found.get("super.users", "").split(";"))
        c.passed(c.observed == c.expected, "; ".join(f"{key} is {c.observed.get(key)} instead of {c.expected.get(key)}"
                                                     for key in sorted({*c.observed, *c.expected}) if c.observed.get(key) != c.expected.get(key)))

    def s1(self, c: Check, listener: Listener, links: Links) -> None:
        """TLS of one listener: chain, name, life, protocol."""
        c.expected = f"> {self.want.min_cert_days:g}"
        try:
            seen = links.session((self.want.host, listener.port), listener.mutual, self.report.timeout(5.0))
        except ssl.SSLCertVerificationError as error:
            c.fail(f"not to be trusted: {error.verify_message}")
            return
        except (OSError, LoginError):
            # A broker whose certificate the quorum refuses never comes to answer a client (KIP-595): what it starts with says why.
            keystore = read_properties(self.local.config()).get("ssl.keystore.location", "")
            why = self.local.mistrust(keystore) if keystore else ""
            if not why:
                raise
            c.fail(f"does not answer, and what it starts with ({keystore}) is not to be trusted: {why}")
            return
        days = (seen.not_after - self._now()) / _DAY_S
        c.observed = round(days, 2)
        c.evidence = {"protocol": seen.version, "subject": seen.subject, "names": list(seen.names)}
        c.passed(days > self.want.min_cert_days and seen.version in ("TLSv1.2", "TLSv1.3"))

    def s2(self, c: Check, listener: Listener, links: Links) -> None:
        """A client without a certificate."""
        c.observed, how = refuses_anonymous(self.want.host, listener, links, self.report.timeout(5.0))
        c.expected, c.evidence = True, {"how": how, "positive_control": f"S1 {listener.name}"}
        c.passed(c.observed, how)

    def s3(self, c: Check, listener: Listener, links: Links) -> None:
        """A wrong password, both mechanisms; and no other door beside them."""
        c.expected = dict.fromkeys(MECHANISMS, True)
        limit_s = self.report.timeout(5.0)
        # At once: Kafka lets who is refused wait.
        said = at_once.ask(lambda mechanism: refuses_wrong_password(self.want.host, listener, links, mechanism, limit_s), MECHANISMS, None)
        c.observed = {mechanism: answer for mechanism, answer in said.items() if not isinstance(answer, Exception)}
        unsaid = [answer for answer in said.values() if isinstance(answer, Exception)]
        doors = [str(error) for error in unsaid if isinstance(error, OpenDoor)]
        if unsaid and not doors and all(c.observed.values()):
            raise unsaid[0]
        c.passed(not doors and all(c.observed.values()), "; ".join(doors[:1]))

    def s4(self, c: Check, listener: Listener) -> None:
        """A client without TLS."""
        c.observed, how = refuses_plaintext(self.want.host, listener, self.report.timeout(3.0))
        c.expected, c.evidence = True, {"how": how, "positive_control": f"S1 {listener.name}"}
        c.passed(c.observed, how)

    def s4_others(self, c: Check, listeners: Sequence[Listener]) -> None:
        """The process of the broker listens where the contract says, and nowhere else."""
        ports = self.local.ports()
        declared = {listener.port for listener in listeners}
        surplus = {port: address for port, address in ports.items() if port not in declared}
        c.observed, c.expected, c.evidence = sorted(ports), sorted(declared), {"undeclared": surplus}
        if not ports:
            c.inconclusive("its process listens nowhere yet")
            return
        c.passed(not surplus, f"listens on undeclared port {', '.join(map(str, sorted(surplus)))}")

    # -- all --------------------------------------------------------------------------------------------------------

    def run(self, listeners: Sequence[Listener], links: Links) -> None:
        """Every check, in the report."""
        quorum_tool = "kafka-metadata-quorum.sh --command-config admin.properties --bootstrap-server HOST:9091 describe --replication"
        features_tool = "kafka-features.sh --command-config admin.properties --bootstrap-server HOST:9091 describe"
        topics_tool = "kafka-topics.sh --command-config admin.properties --bootstrap-server HOST:9091 --describe"

        def spec(id: str, title: str, **more: Any) -> Spec:
            return {"id": id, "title": title, **more}

        todo: Todo = [
            (spec("Q1", "the quorum has a leader that stays", unit="node", controls=["SR 7.1"], explain=quorum_tool,
                  hint="look at the controllers' logs: elections come from a slow disk, a stalled JVM or a cut link"), self.q1),
            (spec("Q2", "the voters are the declared controllers", controls=["SR 7.6"], explain=quorum_tool,
                  hint="add or remove the voter with kafka-metadata-quorum.sh"), self.q2),
            (spec("Q3", "every voter is caught up", unit="ms", controls=["SR 7.1"], explain=quorum_tool,
                  hint="the voter that is behind is stalled or cut off"), self.q3),
            (spec("Q4", "the metadata log advances", unit="records", controls=["SR 7.1"], explain=quorum_tool,
                  hint="no majority acknowledges: look at the voters"), self.q4),
            (spec("Q5", "every broker takes the metadata log", unit="ms", controls=["SR 7.1"], explain=quorum_tool,
                  hint="that broker is stalled or cut off from the controllers"), self.q5),
            (spec("Q6", "the quorum survives the loss of a node", unit="nodes", controls=["SR 7.1"], explain=quorum_tool,
                  hint="bring the missing voter back before anything else"), self.q6),
            (spec("F1", "feature levels are the release's", controls=["SR 7.6"], hint="finalize with kafka-features.sh upgrade after the whole roll",
                  explain=features_tool), self.f1),
            (spec("F2", "kraft.version fits the configuration", controls=["SR 7.6"], explain=features_tool,
                  hint="controller.quorum.voters belongs to 0, controller.quorum.bootstrap.servers to 1"), self.f2),
            (spec("F3", "every node can do what is finalized", unit="nodes", controls=["SR 7.6"], explain=features_tool,
                  hint="a node of an older release is among them: converge it before it restarts"), self.f3),
            (spec("F4", "transactions are of version 2", controls=["SR 3.1"], explain=features_tool,
                  hint="kafka-features.sh upgrade --feature transaction.version=2, after the whole roll"), self.f4),
            (spec("B1", "all brokers are there and not fenced", controls=["SR 7.1"],
                  explain="kafka-broker-api-versions.sh; kafka-metadata-quorum.sh describe --status",
                  hint="look at the unit and log of the missing broker"), self.b1),
            (spec("B2", "no partition is offline", unit="partitions", controls=["SR 7.1"], explain=topics_tool + " --unavailable-partitions",
                  hint="bring the broker with the last in-sync replica back"), self.b2),
            (spec("B3", "no partition is under min.insync.replicas", unit="partitions", controls=["SR 7.1"],
                  explain=topics_tool + " --under-min-isr-partitions", hint="producers with acks=all are refused until a replica is back"), self.b3),
            (spec("B4", "every partition has reserve over min.insync.replicas", unit="partitions", controls=["SR 7.1"],
                  explain=topics_tool + " --at-min-isr-partitions", hint="restart no broker; bring the missing one back"), self.b4),
            (spec("B5", "no partition is under-replicated", unit="partitions", controls=["SR 7.1"],
                  explain=topics_tool + " --under-replicated-partitions", hint="a follower is down, slow or short of disk"), self.b5),
            (spec("B6", "leaders are where they were placed", unit="% elsewhere", controls=["SR 7.1"], explain=topics_tool,
                  hint="the brokers give them back by themselves in half a minute; else kafka-leader-election.sh --election-type preferred"), self.b6),
            (spec("B7", "Kafka's own topics have all replicas and are compacted", unit="topics", controls=["SR 7.1"], explain=topics_tool,
                  hint="reassign the partitions of the topic; kafka-configs.sh --entity-type topics --alter --add-config cleanup.policy=compact"),
             self.b7),
            (spec("B8", "an out-of-sync replica never leads", controls=["SR 3.1"], hint="set unclean.leader.election.enable=false",
                  explain="kafka-configs.sh --describe --entity-type brokers --all"), self.b8),
            (spec("B9", "no reassignment is under way", unit="partitions", controls=["SR 7.1"], explain="kafka-reassign-partitions.sh --list",
                  hint="wait for it, or cancel it"), self.b9),
            (spec("B10", "replicas are spread over the racks", unit="partitions", controls=["SR 7.1"], explain=topics_tool,
                  hint="reassign those partitions"), self.b10),
            (spec("B11", "topics, quotas and brokers are as declared", unit="differences", controls=["SR 7.6", "SR 3.1"],
                  explain=topics_tool + "; kafka-configs.sh --describe --entity-type topics, users, and brokers",
                  hint="run the kafka play: it sets topics and quotas; reassign missing replicas; kafka-configs.sh --delete-config on the broker"), self.b11),
            (spec("L1", "log directories are online and have room", unit="% free", controls=["SR 7.2"], explain="kafka-log-dirs.sh --describe",
                  hint="shorten retention or enlarge the file system"), self.l1),
            (spec("L2", "copies between log directories come nearer", unit="partitions", controls=["SR 7.2"],
                  explain="kafka-log-dirs.sh --describe: isFuture, offsetLag", hint="alter the replica's log directory once more, or cancel it"), self.l2),
            (spec("C3", "every reader keeps up", unit="records", controls=["SR 7.1"], explain="kafka-consumer-groups.sh --describe --group NAME",
                  hint="look at the reader: Flink (H), Telegraf (TG)"), self.c3),
            (spec("S5", "the ACLs are the declared ones; no identity of level 3 or below may read", unit="ACLs", controls=["SR 5.2", "SR 2.1"],
                  explain="kafka-acls.sh --list", hint="run the kafka play: it adds what is missing and removes what is not declared"), self.s5),
            (spec("S6", "deny by default, super users as declared", controls=["SR 2.1"], explain="grep -E 'allow.everyone|super.users' server.properties",
                  hint="run the kafka play"), self.s6),
            (spec("S7", "no client has a broker's name or is undeclared", unit="users", controls=["SR 1.1"],
                  explain="kafka-configs.sh --describe --entity-type users",
                  hint="who made it? The kafka play deletes who is not declared; of a mechanism: kafka-configs.sh --alter --delete-config"), self.s7),
            (spec("S8", "this broker knows every user that the cluster has", unit="users", controls=["SR 1.1", "SR 7.1"],
                  explain="kafka-configs.sh --command-config admin.properties --bootstrap-server HOST:9091 --describe --entity-type users, on each broker",
                  hint="run the kafka play before any broker restarts: it writes the declared users and the anchor again"), self.s8),
        ]
        doors = [check for item in listeners for check in self._listener(item, links)]
        if listeners:
            doors.append((spec("S4", "the broker listens nowhere else", subject="others", controls=["SR 4.1", "SR 7.7"], explain="ss -ltnp",
                               hint="correct listeners in server.properties; who changed it?"), lambda c: self.s4_others(c, listeners)))
        # First, and at once: a silent node of the cluster cannot use up their time, and a silent listener little of the cluster's.
        self.report.run_at_once(doors)
        self.report.run_checks(todo)

    def _listener(self, item: Listener, links: Links) -> Todo:
        """The checks of one listener."""
        where = f"openssl s_client -connect {self.want.host}:{item.port} -CAfile ca.pem -verify_return_error"

        def tls(c: Check) -> None:
            self.s1(c, item, links)

        def plaintext(c: Check) -> None:
            self.s4(c, item)

        def anonymous(c: Check) -> None:
            self.s2(c, item, links)

        def password(c: Check) -> None:
            self.s3(c, item, links)

        found: Todo = [
            ({"id": "S1", "title": "the listener's certificate is ours, right and valid", "subject": item.name, "unit": "days left",
              "controls": ["SR 1.9", "SR 3.1"], "explain": where, "hint": "run the kafka play: it renews and restarts"}, tls),
            ({"id": "S4", "title": "no answer without TLS", "subject": item.name, "controls": ["SR 4.1"],
              "explain": "send an ApiVersions request to the port without TLS", "hint": "correct listener.security.protocol.map"}, plaintext),
        ]
        if item.mutual:
            found.append(({"id": "S2", "title": "a client without certificate is refused", "subject": item.name, "controls": ["SR 1.2"],
                           "explain": where, "hint": "ssl.client.auth=required"}, anonymous))
        else:
            found.append(({"id": "S3", "title": "a wrong password is refused", "subject": item.name, "controls": ["SR 1.1"],
                           "explain": "kafka-broker-api-versions.sh with a wrong password", "hint": "look at sasl.enabled.mechanisms"}, password))
        return found
