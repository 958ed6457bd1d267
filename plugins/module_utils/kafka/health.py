# SPDX-License-Identifier: Apache-2.0
"""The checks of a Kafka cluster and of this broker's listeners. Ids: Q quorum, F features, B brokers and partitions, L log directories, S security.

Judged on what the cluster says about itself, never on "the unit is active". Two samples where one moment proves nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from ..verdict import Check, Report
from .acls import Acl, readers_below
from .listeners import Files, Listener, handshake, refuses_anonymous, refuses_plaintext, refuses_wrong_password
from .scram import MECHANISMS
from .state import Snapshot
from .storage import read_properties

_DAY_S = 86400.0


class Source(Protocol):
    """What is asked of the cluster; adapter.Admin is one."""

    def snapshot(self) -> Snapshot: ...

    def features(self) -> dict[str, tuple[int, int]]: ...

    def log_dirs(self) -> list[dict[str, Any]]: ...

    def broker_config(self, node: int, keys: Sequence[str]) -> dict[str, str]: ...

    def acls(self) -> list[Acl]: ...

    def users(self) -> dict[str, dict[str, int]]: ...


@dataclass(frozen=True)
class Expected:
    """What the inventory declares. `levels`: principal → level of the zone that it comes from; `features`: finalized levels."""

    host: str
    node: int
    nodes: tuple[int, ...]
    supers: tuple[str, ...]
    levels: Mapping[str, float] = field(default_factory=dict)
    features: Mapping[str, int] = field(default_factory=dict)
    max_lag_ms: float = 2000.0
    min_free_pct: float = 10.0
    min_cert_days: float = 3.0
    interval_s: float = 1.0


Spec = dict[str, Any]
Todo = list[tuple[Spec, Callable[[Check], None]]]


class Health:
    """Checks of one cluster as seen from one broker. `open_source` connects, once, when the first check needs it."""

    def __init__(self, report: Report, open_source: Callable[[float], Source], expected: Expected,
                 sleep: Callable[[float], None] = time.sleep, now: Callable[[], float] = time.time) -> None:
        self.report = report
        self.want = expected
        self._open = open_source
        self._sleep = sleep
        self._now = now
        self._source: Source | None = None
        self._broken: Exception | None = None
        self._samples: list[Snapshot] = []

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
        """Two looks at the cluster, some time apart."""
        if not self._samples:
            first = self.source.snapshot()
            self._sleep(self.want.interval_s)
            self._samples = [first, self.source.snapshot()]
        return self._samples

    # -- quorum -----------------------------------------------------------------------------------------------------

    def q1(self, c: Check) -> None:
        """Leader and epoch, two samples."""
        seen = [(s.quorum.leader_id, s.quorum.leader_epoch) for s in self.samples()]
        c.observed, c.evidence = seen[-1][0], {"leader_and_epoch": seen}
        c.passed(seen[0] == seen[1] and seen[0][0] >= 0, "no leader" if seen[-1][0] < 0 else "the leader changed between two looks")

    def q2(self, c: Check) -> None:
        """Voters are the inventory's."""
        voters = self.samples()[-1].quorum.voters
        c.observed, c.expected = [v.id for v in voters], sorted(self.want.nodes)
        c.evidence = {"directories": {v.id: v.directory for v in voters}}
        c.passed(c.observed == c.expected)

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

    def q6(self, c: Check) -> None:
        """How many nodes may be lost now."""
        quorum = self.samples()[-1].quorum
        good = len(quorum.voters) - len(quorum.behind(self.want.max_lag_ms))
        c.observed = good - quorum.majority
        c.expected = len(self.want.nodes) - (len(self.want.nodes) // 2 + 1)
        c.passed(c.observed >= c.expected)

    # -- features ---------------------------------------------------------------------------------------------------

    def f1(self, c: Check) -> None:
        """Finalized feature levels."""
        found = self.source.features()
        c.observed = {name: found.get(name, (0, 0))[0] for name in self.want.features}
        c.expected, c.evidence = dict(self.want.features), {"supported": {name: item[1] for name, item in found.items()}}
        c.passed(c.observed == c.expected)

    # -- brokers and partitions -------------------------------------------------------------------------------------

    def b1(self, c: Check) -> None:
        """All brokers are there and not fenced."""
        last = self.samples()[-1]
        c.observed, c.expected = sorted(last.live()), sorted(self.want.nodes)
        c.evidence = {"fenced": sorted(n for n, fenced in last.brokers.items() if fenced)}
        missing = sorted(set(self.want.nodes) - last.live())
        c.passed(c.observed == c.expected, f"broker {', '.join(map(str, missing))} is not there" if missing else "a broker that nobody declared")

    def _partitions(self, c: Check, names: Callable[[Snapshot], list[str]]) -> None:
        both = [set(names(s)) for s in self.samples()]
        lasting = sorted(both[0] & both[1])
        c.observed, c.expected = len(lasting), 0
        c.evidence = {"partitions": lasting[:50], "of": len(self.samples()[-1].partitions)}
        c.passed(not lasting)

    def b2(self, c: Check) -> None:
        """Offline partitions."""
        self._partitions(c, Snapshot.offline)

    def b3(self, c: Check) -> None:
        """Partitions that refuse acks=all."""
        self._partitions(c, Snapshot.under_min_isr)

    def b5(self, c: Check) -> None:
        """Partitions that miss a replica."""
        self._partitions(c, Snapshot.under_replicated)

    def b7(self, c: Check) -> None:
        """Kafka's own topics are replicated like ours."""
        internal = [p for p in self.samples()[-1].partitions if p.topic.startswith("__")]
        factor = min(3, len(self.want.nodes))
        poor = sorted({p.topic for p in internal if len(p.replicas) < factor})
        c.observed, c.expected, c.evidence = len(poor), 0, {"topics": sorted({p.topic for p in internal}), "poor": poor}
        c.passed(not poor)

    def b8(self, c: Check) -> None:
        """Unclean leader election."""
        key = "unclean.leader.election.enable"
        c.observed, c.expected = self.source.broker_config(self.want.node, [key]).get(key), "false"
        c.passed(c.observed == c.expected)

    def b9(self, c: Check) -> None:
        """Reassignments under way."""
        c.observed, c.expected = len(self.samples()[-1].reassignments), 0
        c.evidence = {"partitions": list(self.samples()[-1].reassignments)[:50]}
        c.passed(c.observed == 0)

    # -- log directories --------------------------------------------------------------------------------------------

    def l1(self, c: Check) -> None:
        """Log directories are online and have room."""
        dirs = self.source.log_dirs()
        free = {f"{d['broker']}:{d['path']}": 100.0 * d["usable_bytes"] / d["total_bytes"] if d["total_bytes"] > 0 else 0.0 for d in dirs}
        bad = sorted(f"{d['broker']}:{d['path']}" for d in dirs if d["error"] or d["cordoned"])
        short = sorted(name for name, share in free.items() if share < self.want.min_free_pct)
        c.observed, c.expected = round(min(free.values(), default=0.0), 1), f">= {self.want.min_free_pct:g}"
        c.evidence = {"directories": dirs}
        c.passed(bool(dirs) and not bad and not short, f"offline or cordoned: {bad}; short of room: {short}")

    # -- security ---------------------------------------------------------------------------------------------------

    def s5(self, c: Check) -> None:
        """No identity of level 3 or below may read (I13), as the cluster's own ACLs say."""
        acls = self.source.acls()
        readers = readers_below(acls, self.want.levels)
        c.observed, c.expected, c.evidence = len(readers), 0, {"readers": readers, "acls": sorted(str(a) for a in acls)}
        c.passed(not readers)

    def s7(self, c: Check) -> None:
        """No client has the name of a broker."""
        both = sorted(set(self.source.users()) & set(self.want.supers))
        c.observed, c.expected, c.evidence = len(both), 0, {"users": sorted(self.source.users()), "brokers": list(self.want.supers)}
        c.passed(not both)

    def s6(self, c: Check, config: str) -> None:
        """Deny by default; super users as declared. Kafka does not tell these over its API: the file that it was started with does."""
        found = read_properties(config)
        supers = sorted(found.get("super.users", "").split(";"))
        c.observed = {"allow.everyone.if.no.acl.found": found.get("allow.everyone.if.no.acl.found"), "super.users": supers,
                      "authorizer": found.get("authorizer.class.name", "").rpartition(".")[2]}
        c.expected = {"allow.everyone.if.no.acl.found": "false", "super.users": sorted(f"User:{name}" for name in self.want.supers),
                      "authorizer": "StandardAuthorizer"}
        c.passed(c.observed == c.expected)

    def s1(self, c: Check, listener: Listener, files: Files) -> None:
        """TLS of one listener: chain, name, life, protocol."""
        seen = handshake(self.want.host, listener, files, self.report.timeout(5.0))
        days = (seen.not_after - self._now()) / _DAY_S
        c.observed, c.expected = round(days, 2), f"> {self.want.min_cert_days:g}"
        c.evidence = {"protocol": seen.version, "subject": seen.subject, "names": list(seen.names)}
        c.passed(days > self.want.min_cert_days and seen.version in ("TLSv1.2", "TLSv1.3"))

    def s2(self, c: Check, listener: Listener, files: Files) -> None:
        """A client without a certificate."""
        c.observed, how = refuses_anonymous(self.want.host, listener, files, self.report.timeout(5.0))
        c.expected, c.evidence = True, {"how": how, "positive_control": f"S1 {listener.name}"}
        c.passed(c.observed)

    def s3(self, c: Check, listener: Listener, files: Files) -> None:
        """A wrong password, both mechanisms."""
        c.observed = {m: refuses_wrong_password(self.want.host, listener, files, m, self.report.timeout(5.0)) for m in MECHANISMS}
        c.expected = dict.fromkeys(MECHANISMS, True)
        c.passed(all(c.observed.values()))

    def s4(self, c: Check, listener: Listener) -> None:
        """A client without TLS."""
        c.observed, how = refuses_plaintext(self.want.host, listener, self.report.timeout(3.0))
        c.expected, c.evidence = True, {"how": how, "positive_control": f"S1 {listener.name}"}
        c.passed(c.observed)

    # -- all --------------------------------------------------------------------------------------------------------

    def run(self, listeners: Sequence[Listener], files: Files, config: Callable[[], str]) -> None:
        """Every check, in the report."""
        quorum_tool = "kafka-metadata-quorum.sh --command-config admin.properties --bootstrap-server HOST:9091 describe --replication"
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
            (spec("Q6", "the quorum survives the loss of a node", unit="nodes", controls=["SR 7.1"], explain=quorum_tool,
                  hint="bring the missing voter back before anything else"), self.q6),
            (spec("F1", "feature levels are the release's", controls=["SR 7.6"], hint="finalize with kafka-features.sh upgrade after the whole roll",
                  explain="kafka-features.sh --command-config admin.properties --bootstrap-server HOST:9091 describe"), self.f1),
            (spec("B1", "all brokers are there and not fenced", controls=["SR 7.1"],
                  explain="kafka-broker-api-versions.sh; kafka-metadata-quorum.sh describe --status",
                  hint="look at the unit and log of the missing broker"), self.b1),
            (spec("B2", "no partition is offline", unit="partitions", controls=["SR 7.1"], explain=topics_tool + " --unavailable-partitions",
                  hint="bring the broker with the last in-sync replica back"), self.b2),
            (spec("B3", "no partition is under min.insync.replicas", unit="partitions", controls=["SR 7.1"],
                  explain=topics_tool + " --under-min-isr-partitions", hint="producers with acks=all are refused until a replica is back"), self.b3),
            (spec("B5", "no partition is under-replicated", unit="partitions", controls=["SR 7.1"],
                  explain=topics_tool + " --under-replicated-partitions", hint="a follower is down, slow or short of disk"), self.b5),
            (spec("B7", "Kafka's own topics have all replicas", unit="topics", controls=["SR 7.1"], explain=topics_tool,
                  hint="reassign the partitions of the topic"), self.b7),
            (spec("B8", "an out-of-sync replica never leads", controls=["SR 3.1"], hint="set unclean.leader.election.enable=false",
                  explain="kafka-configs.sh --describe --entity-type brokers --all"), self.b8),
            (spec("B9", "no reassignment is under way", unit="partitions", controls=["SR 7.1"], explain="kafka-reassign-partitions.sh --list",
                  hint="wait for it, or cancel it"), self.b9),
            (spec("L1", "log directories are online and have room", unit="% free", controls=["SR 7.2"], explain="kafka-log-dirs.sh --describe",
                  hint="shorten retention or enlarge the file system"), self.l1),
            (spec("S5", "no identity of level 3 or below may read a topic", unit="ACLs", controls=["SR 5.2", "SR 2.1"], explain="kafka-acls.sh --list",
                  hint="run the kafka play: it removes what is not declared"), self.s5),
            (spec("S6", "deny by default, super users as declared", controls=["SR 2.1"], explain="grep -E 'allow.everyone|super.users' server.properties",
                  hint="run the kafka play"), lambda c: self.s6(c, config())),
            (spec("S7", "no client has a broker's name", unit="users", controls=["SR 1.1"], explain="kafka-configs.sh --describe --entity-type users",
                  hint="delete that SCRAM user"), self.s7),
        ]
        for item in listeners:
            todo += self._listener(item, files)
        self.report.run_checks(todo)

    def _listener(self, item: Listener, files: Files) -> Todo:
        """The checks of one listener."""
        where = f"openssl s_client -connect {self.want.host}:{item.port} -CAfile ca.pem -verify_return_error"

        def tls(c: Check) -> None:
            self.s1(c, item, files)

        def plaintext(c: Check) -> None:
            self.s4(c, item)

        def anonymous(c: Check) -> None:
            self.s2(c, item, files)

        def password(c: Check) -> None:
            self.s3(c, item, files)

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
