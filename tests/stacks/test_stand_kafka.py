# SPDX-License-Identifier: Apache-2.0
"""Faults that a site's cluster cannot have without harm, on three real Kafka nodes on loopback: each turns its own check, and passes after repair.

Scenario stand-kafka. A fault is made in the cluster, in a node's files or in its process, never in what is said about it.
"""
from __future__ import annotations

import re
import secrets
import signal
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest
from kafka_stand import LEVELS_OF, OLDER, RELEASE, TOPICS, Cluster
from plant_view import until
from stands import Asked, Fault, exercise, faults, said, unlike

from ansible_collections.hnai.platform.plugins.module_utils.hostfiles import Host
from ansible_collections.hnai.platform.plugins.module_utils.kafka import canary, scram, storage
from ansible_collections.hnai.platform.plugins.module_utils.kafka.rotate import cut
from ansible_collections.hnai.platform.plugins.module_utils.kafka.state import KafkaError
from ansible_collections.hnai.platform.plugins.module_utils.kafka.users import User
from ansible_collections.hnai.platform.plugins.module_utils.verdict import INCONCLUSIVE, PASS, VERDICT_ARGS
from ansible_collections.hnai.platform.plugins.modules.kafka_voter import Cluster as Quorum

pytestmark = pytest.mark.scenario("stand-kafka")
TOPIC, OFFSETS = "hnai.test.stand", "__consumer_offsets"
THROTTLE = "replica.alter.log.dirs.io.max.bytes.per.second"


@pytest.fixture(scope="module")
def older(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = Cluster(tmp_path_factory.mktemp("kafka"))
    try:
        yield made.make()
    finally:
        made.close()


@pytest.fixture(scope="module")
def cluster(older: Cluster) -> Cluster:
    """At the levels of its release."""
    older.raise_levels()
    return older


# -- the release -----------------------------------------------------------------------------------------------------------
@contextmanager
def levels_of_the_release_before(cluster: Cluster) -> Iterator[None]:
    """After an upgrade: first what is declared is the release that formatted the cluster."""
    cluster.declared = RELEASE
    yield
    cluster.raise_levels()


def test_levels_of_the_release_before_are_named_and_pass_when_they_are_raised(older: Cluster) -> None:
    kept = re.escape(str({"metadata.version": LEVELS_OF[OLDER]["metadata.version"]}))
    exercise(older, Fault(levels_of_the_release_before, {"F1": rf"\Afail : {kept}\Z"}))


def test_what_nobody_declared_is_named_by_the_play_and_left_alone(older: Cluster) -> None:
    from kafka.admin import ConfigResource, ConfigResourceType

    assert older.converge()["foreign"] == []
    known = {"incremental": True, "raise_on_unknown": False}
    with older.admin() as admin:
        client = admin._client
        client.alter_configs([ConfigResource(ConfigResourceType.BROKER, "2", {"log.cleaner.threads": "2"})], **known)
        try:
            wanted = ["broker 2 log.cleaner.threads=2 over its file"]
            until("the brokers do not say so", lambda: older.converge()["foreign"] == wanted, 60)
            assert older.converge()["changed"] is False
        finally:
            client.reset_configs([ConfigResource(ConfigResourceType.BROKER, "2", {"log.cleaner.threads": None})], **known)
    until("they are still said", lambda: older.converge()["foreign"] == [], 60)


def test_what_the_brokers_would_refuse_is_refused_before_anything_is_done(older: Cluster) -> None:
    new = {"partitions": 1, "replication_factor": 3, "owner_level": 3}
    typo = [*TOPICS, {**new, "name": "ot.fine"}, {**new, "name": "ot.new", "config": {"no.such.key": "1"}}]
    wrong = [{**one, "config": {**one["config"], "retention.ms": "a week"}} for one in TOPICS]
    for check in (True, False):
        for topics, why in ((typo, r"ot\.new: Unknown topic config name: no\.such\.key"), (wrong, "'a week' is no number")):
            with pytest.raises(AssertionError, match=why):
                older.converge(topics=topics, _ansible_check_mode=check)
    assert older.converge()["changed"] is False and older.converge()["unmanaged_topics"] == []


# -- what a verdict costs -------------------------------------------------------------------------------------------------
def test_a_verdict_asks_on_few_connections(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each costs a broker's CPU some milliseconds, and every broker's check asks all of them."""
    cluster.at = 1
    cluster.verdict("the cluster is not well", cluster.bad)
    opened: list[tuple[socket.socket, str]] = []

    def counted(connect: Callable[[socket.socket, Any], Any]) -> Callable[[socket.socket, Any], Any]:
        def one(this: socket.socket, address: Any) -> Any:
            # Who does not wait connects the same socket twice.
            if not any(this is other for other, _host in opened):
                opened.append((this, address[0]))
            return connect(this, address)

        return one

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, counted(getattr(socket.socket, name)))
    assert not cluster.bad(cluster.judge())
    asked = Counter(host for _socket, host in opened)
    # Of this node four doors, each on three: with a certificate, without, without TLS; or two logins, without TLS. What it is asked beside that, it is asked
    # on one of them. Of each the library's, and its first one of this node; of the others one of our own.
    most = {one.address: 14 if one.id == cluster.at else 2 for one in cluster.nodes.values()}
    assert asked.keys() == most.keys()
    assert all(asked[address] <= most[address] for address in most), asked


# -- the quorum -----------------------------------------------------------------------------------------------------------
@contextmanager
def repeated(what: Callable[[], None], every_s: float) -> Iterator[None]:
    """Again and again, beside what is asked; a cluster that does not answer just then is asked the next time."""
    over = threading.Event()

    def work() -> None:
        while not over.wait(every_s):
            try:
                what()
            except (KafkaError, scram.LoginError, OSError):
                continue

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(60)


@contextmanager
def elections(cluster: Cluster) -> Iterator[None]:
    """A voter that was cut off asks for votes in a later term, as one of a release without pre-vote does: the leader stands down each time.

    Vote v0 (KIP-595): cluster, one topic with one partition: its number, the candidate's epoch and id, the last epoch and offset that it has.
    """
    compact = [bytes([len(name) + 1]) + name for name in (cluster.id.encode(), b"__cluster_metadata")]

    def vote() -> None:
        with cluster.admin() as admin:
            quorum = admin.quorum()
        stranger = next(node for node in cluster.nodes if node != quorum.leader_id)
        body = b"\x00" + compact[0] + b"\x02" + compact[1] + b"\x02" + struct.pack(">iiiiq", 0, quorum.leader_epoch + 1, stranger, 0, 0) + bytes(3)
        with cluster.stream(quorum.leader_id, "controller") as stream:
            scram.call(stream, 52, 0, 1, body)

    with repeated(vote, 2.0):
        yield


@contextmanager
def a_voter_was_removed(cluster: Cluster) -> Iterator[None]:
    """Somebody took a controller out of the quorum; it follows as an observer."""
    with cluster.admin() as admin:
        quorum = admin.quorum()
    lost = next(voter for voter in quorum.voters if voter.id not in (quorum.leader_id, 1))
    through = Quorum(cluster.connection(1))
    through.remove(lost.id, lost.directory)
    try:
        yield
    finally:
        through.add(lost.id, lost.directory, "CONTROLLER", cluster.nodes[lost.id].address, cluster.ports["controller"])


@contextmanager
def another_disk(cluster: Cluster) -> Iterator[None]:
    """What lies in the log directory is not what the quorum counts."""
    file = cluster.nodes[2].folder / "data" / storage.META
    text = file.read_text(encoding="utf-8")
    file.write_text(re.sub("(?m)^directory.id=.*$", "directory.id=AAAAAAAAAAAAAAAAAAACAA", text), encoding="utf-8")
    cluster.at = 2
    try:
        yield
    finally:
        file.write_text(text, encoding="utf-8")


@contextmanager
def a_stalled_node(cluster: Cluster) -> Iterator[None]:
    """A node that follows stands still: its sockets accept, and nobody answers."""
    with cluster.admin() as admin:
        leader = admin.quorum().leader_id
    still = next(node for node in cluster.nodes.values() if node.id != leader)
    still.send(signal.SIGSTOP)
    try:
        cluster.at = leader
        yield
    finally:
        still.send(signal.SIGCONT)
        cluster.wait()


@contextmanager
def no_majority(cluster: Cluster) -> Iterator[None]:
    """Both who follow stand still: until it gives up, the leader is one who is heard by nobody."""
    with cluster.admin() as admin:
        cluster.at = admin.quorum().leader_id
    still = [node for node in cluster.nodes.values() if node.id != cluster.at]
    for node in still:
        node.send(signal.SIGSTOP)
    try:
        yield
    finally:
        for node in still:
            node.send(signal.SIGCONT)
        cluster.wait()


@contextmanager
def an_older_stranger(cluster: Cluster) -> Iterator[None]:
    """A node of the cluster cannot be too old, it ends by itself; what answers in its place can."""
    with cluster.stranger(3):
        yield


# -- partitions and copies ------------------------------------------------------------------------------------------------
def moved(cluster: Cluster, topic: str, wanted: Callable[[list[int]], list[int]], number: int | None = None) -> dict[int, list[int]]:
    """Replicas of a topic's partitions (or of one) are reassigned and there; returns how they stood."""
    from kafka import TopicPartition

    with cluster.admin() as admin:
        parts = {part["partition_index"]: list(part["replica_nodes"]) for one in admin._describe_topics([topic]) for part in one["partitions"]}
        parts = {key: nodes for key, nodes in parts.items() if number in (None, key)}
        admin._client.alter_partition_reassignments({TopicPartition(topic, key): wanted(nodes) for key, nodes in parts.items()})
        until(f"{topic} is not moved", lambda: not admin.snapshot().reassignments, 120)
    return parts


@contextmanager
def leaders_elsewhere(cluster: Cluster) -> Iterator[None]:
    """The first replica of three partitions is another now; who led them leads on."""
    moved(cluster, "ot.raw", lambda nodes: [*nodes[1:], nodes[0]])
    try:
        yield
    finally:
        with cluster.admin() as admin:
            admin.elect_preferred()


@contextmanager
def offsets_on_one_disk(cluster: Cluster) -> Iterator[None]:
    """A partition of the topic that keeps the readers' positions has one replica."""
    was = moved(cluster, OFFSETS, lambda nodes: nodes[:1], 0)
    try:
        yield
    finally:
        moved(cluster, OFFSETS, lambda nodes: was[0], 0)


@contextmanager
def a_copy_less(cluster: Cluster) -> Iterator[None]:
    """One partition of a declared topic has one replica: all of it is in sync, and nothing is under min.insync.replicas."""
    was = moved(cluster, "ot.raw", lambda nodes: nodes[:1], 1)
    try:
        yield
    finally:
        moved(cluster, "ot.raw", lambda nodes: was[1], 1)


@contextmanager
def a_throttle_was_left(cluster: Cluster) -> Iterator[None]:
    """Somebody slowed the shipper down for a moment, a month ago."""
    with cluster.admin() as admin:
        admin.alter_quotas([("shipper", "producer_byte_rate", 1.0)])
        try:
            yield
        finally:
            admin.alter_quotas([("shipper", "producer_byte_rate", None)])


@contextmanager
def settings(cluster: Cluster, **values: str) -> Iterator[None]:
    """The topic that keeps the readers' positions is set otherwise (`_` for a dot)."""
    with cluster.admin() as admin:
        was = admin.topics([OFFSETS])[OFFSETS].config
        changed = {key.replace("_", "."): value for key, value in values.items()}
        admin.configure_topics({OFFSETS: changed}, {})
        try:
            yield
        finally:
            admin.configure_topics({OFFSETS: {key: was[key] for key in changed if key in was}}, {OFFSETS: [key for key in changed if key not in was]})


def positions_are_deleted_with_age(cluster: Cluster) -> AbstractContextManager[None]:
    """A disk was full, and somebody set retention for all topics."""
    return settings(cluster, cleanup_policy="delete", retention_ms="3600000")


def no_broker_may_restart(cluster: Cluster) -> AbstractContextManager[None]:
    """All replicas are asked for, and all are there."""
    return settings(cluster, min_insync_replicas="3")


@contextmanager
def a_second_way_in(cluster: Cluster) -> Iterator[None]:
    """Under a name that everybody knows, with a password that nobody declared; what its owner uses goes on."""
    with cluster.admin() as admin:
        admin.alter_users([(User("reader", "eve's", ("SCRAM-SHA-256",)), "SCRAM-SHA-256")], [])
        try:
            yield
        finally:
            admin.alter_users([], [("reader", "SCRAM-SHA-256")])


@contextmanager
def few_iterations(cluster: Cluster) -> Iterator[None]:
    """A tool with other defaults wrote the password again: who reads the metadata log guesses it faster."""
    with cluster.admin() as admin:
        login = "SCRAM-SHA-512"
        admin.alter_users([(User("shipper", cluster.users["shipper"], (login,), 4096), login)], [])
        try:
            yield
        finally:
            admin.alter_users([(User("shipper", cluster.users["shipper"], (login,)), login)], [])


@contextmanager
def any_certificate_of_a_brokers_host_is_a_broker(cluster: Cluster) -> Iterator[None]:
    """Telegraf's on that host, too."""
    file = cluster.nodes[1].config
    text = file.read_text(encoding="utf-8")
    file.write_text(text.replace(",OU=kafka(,.*)?$", ".*"), encoding="utf-8")
    try:
        yield
    finally:
        file.write_text(text, encoding="utf-8")


@contextmanager
def topic(cluster: Cluster, replicas: list[int]) -> Iterator[None]:
    """A topic that stands where it is told to."""
    with cluster.admin() as admin:
        admin.create_assigned(TOPIC, {0: replicas}, {"min.insync.replicas": "1"})
        try:
            yield
        finally:
            admin.delete_topics([TOPIC])


@contextmanager
def one_rack(cluster: Cluster) -> Iterator[None]:
    """Both replicas stand in the same hall."""
    with topic(cluster, [1, 2]):
        yield


@contextmanager
def a_stuck_copy(cluster: Cluster) -> Iterator[None]:
    """A replica is to move to its broker's other directory, at one byte a second: after its first step it comes no nearer."""
    from kafka.admin import ConfigResource, ConfigResourceType

    node, known = cluster.nodes[1], {"incremental": True, "raise_on_unknown": False}  # A broker does not list its throttles.
    with topic(cluster, [node.id]):
        cluster.fill(TOPIC, 200)
        with cluster.admin() as admin:
            client = admin._client
            client.alter_configs([ConfigResource(ConfigResourceType.BROKER, str(node.id), {THROTTLE: "1"})], **known)
            at = next(item["log_dir"] for item in client.describe_log_dirs(brokers=[node.id])[0]["log_dirs"]
                      if any(one["name"] == TOPIC for one in item["topics"]))
            other = next(str(node.folder / name) for name in ("data", "more") if str(node.folder / name) != at)
            client.alter_replica_log_dirs({(TOPIC, 0, node.id): other})
            try:
                yield
            finally:
                client.reset_configs([ConfigResource(ConfigResourceType.BROKER, str(node.id), {THROTTLE: None})], **known)
                until("the copy does not end", lambda: not any(one["future"] for one in admin.log_dirs()), 120)


# -- doors ----------------------------------------------------------------------------------------------------------------
@contextmanager
def open_doors(cluster: Cluster) -> Iterator[None]:
    """Of a broker's listeners for clients one has TLS and nothing more; the other takes any token, as Kafka delivers OAUTHBEARER."""
    node = cluster.nodes[3]
    text = node.config.read_text(encoding="utf-8")
    l4 = "listener.name.l4.sasl.enabled.mechanisms=SCRAM-SHA-256,SCRAM-SHA-512"
    jaas = "org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required"
    open_ = text.replace("L3:SASL_SSL", "L3:SSL").replace(l4, f"{l4},OAUTHBEARER\nlistener.name.l4.oauthbearer.sasl.jaas.config={jaas};")
    node.config.write_text(open_, encoding="utf-8")
    try:
        cluster.restart(node.id)
        cluster.at = node.id
        yield
    finally:
        node.config.write_text(text, encoding="utf-8")
        cluster.restart(node.id)


def test_a_silent_node_holds_up_no_door_but_its_own(cluster: Cluster) -> None:
    """It answers nobody, and is not given up yet: each node judges its own doors in the time that a host has, and the first one the cluster as it is."""
    with a_stalled_node(cluster):
        leader = cluster.at
        silent = next(node for node in cluster.nodes if node != leader)
        for node in sorted(cluster.nodes, key=lambda one: one != leader):
            cluster.at, begin = node, time.monotonic()
            checks = cluster.judge()
            took_s = time.monotonic() - begin
            doors = {(one["id"], one["subject"]): one["status"] for one in checks if one.get("subject", "others") != "others"}
            bad = said([one for one in checks if (one["id"], one.get("subject")) not in doors], cluster.fine)
            print(node, f"{took_s:.1f} s", set(doors.values()), bad)
            assert took_s < VERDICT_ARGS["deadline"]["default"]
            assert set(doors.values()) == {INCONCLUSIVE if node == silent else PASS} and len(doors) == 12
            if node == leader:
                # Q5: ten seconds.
                assert bad.keys() - {"Q5"} == {"Q3", "Q6", "F3", "L1", "L2", "S8"}
                assert not unlike(bad, {"Q3": rf"^fail : voters \[{silent}\]", "Q6": "^fail ", "F3": "^inconclusive ", "S8": "^inconclusive ",
                                        "L1": f"^inconclusive : broker {silent} ", "L2": f"^inconclusive : broker {silent} "})


# -- sessions -------------------------------------------------------------------------------------------------------------
def test_a_session_of_an_ended_password_lives_until_the_connections_are_cut(cluster: Cluster) -> None:
    """What a rotation does at each broker after a compromise."""
    user = User("stand-known", secrets.token_urlsafe(24), ("SCRAM-SHA-512",))

    def accepted() -> bool:
        with cluster.stream(2, "l3") as stream:
            return scram.exchange(stream, *user.mechanisms, user.name, user.password)

    with cluster.admin() as admin, cluster.stream(2, "l4") as held:
        admin.alter_users([(user, user.mechanisms[0])], [])
        until("the new user is not known", accepted, 60)
        assert scram.exchange(held, *user.mechanisms, user.name, user.password)
        admin.alter_users([], [(user.name, user.mechanisms[0])])
        until("the user is not gone", lambda: not accepted(), 60)
        every_topic = (held, 3, 0, 9, struct.pack(">i", 0))
        assert scram.call(*every_topic)
        ended, left = cut(Host().run, [cluster.ports[name] for name in ("l3", "l4")])
        assert ended and not left
        with pytest.raises(OSError):
            scram.call(*every_topic)


# -- records --------------------------------------------------------------------------------------------------------------
@contextmanager
def purged(cluster: Cluster) -> Iterator[None]:
    """Somebody deletes records as soon as they are acknowledged."""
    from kafka import TopicPartition

    with cluster.admin() as admin:
        def purge() -> None:
            for name in admin.topic_names():
                # Not without end: a canary that is ended early leaves its topic.
                for _again in range(100 if name.startswith(canary.PREFIX) else 0):
                    admin._call(admin._client.delete_records, {TopicPartition(name, number): -1 for number in admin.leaders(name)})

        with repeated(purge, 0.05):
            yield


@faults(Fault(purged, {"C1": "^fail .*lost [1-9]"}, unknown="C1 C2"))
def test_a_fault_of_records_fails_its_own_check_and_passes_after_repair(cluster: Cluster, fault: Fault) -> None:
    exercise(Asked(cluster.canary, cluster.patience_s, cluster.settles), fault, cluster)


# -- all ------------------------------------------------------------------------------------------------------------------
@faults(
    Fault(another_disk, {"Q2": "^fail .*this host has AAAA"}),
    # Two voters are no reserve.
    Fault(a_voter_was_removed, {"Q2": "^fail .*not those of the inventory"}, may="Q6"),
    # A new leader has not heard of everybody yet.
    Fault(elections, {"Q1": "^fail .*the leader changed"}, may="Q3 Q4 Q5 Q6"),
    Fault(leaders_elsewhere, {"B6": "^fail"}),
    Fault(offsets_on_one_disk, {"B7": f"^fail .*{OFFSETS}"}),
    Fault(a_copy_less, {"B11": r"^fail .*: ot\.raw replication_factor 1 instead of 3$"}),
    Fault(a_throttle_was_left, {"B11": r"^fail .*: quota shipper producer_byte_rate 1, which nobody declared$"}),
    Fault(positions_are_deleted_with_age, {"B7": f"^fail .*: {OFFSETS} cleanup.policy delete instead of compact$"}),
    Fault(no_broker_may_restart, {"B4": f"^fail .*: {OFFSETS}-0, {OFFSETS}-1, {OFFSETS}-2$"}),
    Fault(a_second_way_in, {"S7": "^fail .*: reader SCRAM-SHA-256 is declared by nobody$"}),
    Fault(few_iterations, {"S7": "^fail .*: shipper SCRAM-SHA-512 has less than 8192 iterations$"}),
    Fault(any_certificate_of_a_brokers_host_is_a_broker, {"S6": r"^fail .*: ssl\.principal\.mapping\.rules is RULE:\S+\.\*/\$1/,DEFAULT instead of "}),
    Fault(one_rack, {"B10": f"^fail .*{TOPIC}"}),
    # The byte a second is set in the cluster.
    Fault(a_stuck_copy, {"L2": f"^fail .*{TOPIC}"}, may="B11"),
    # Who stands still is behind, and what is asked of it stays open.
    Fault(a_stalled_node, {"Q5": "^fail .*does not fetch"}, may="Q3 Q6 B1 B4 B5 B6", unknown="F3 L1 L2 S8"),
    # Nobody acknowledges what the leader writes.
    Fault(no_majority, {"Q4": "^fail"}, may="Q3 Q5 Q6 B4 B5 B6", unknown="F3 L1 L2 S8"),
    # It comes back as a broker that catches up.
    Fault(open_doors, {"S3": "^fail .*no login\nfail .*offers OAUTHBEARER"}, may="B4 B5 B6 Q3 Q5 Q6"),
    # The node itself is away.
    Fault(an_older_stranger, {"F3": "^fail .*cannot do what is finalized"}, may="Q3 Q5 Q6 B1 B4 B5 B6"),
)
def test_a_fault_fails_its_own_check_and_passes_after_repair(cluster: Cluster, fault: Fault) -> None:
    cluster.at = 1
    exercise(cluster, fault)
