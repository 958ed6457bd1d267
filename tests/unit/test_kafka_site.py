# SPDX-License-Identifier: Apache-2.0
"""Topics, users, ACLs: the law of I13, the difference, and that a second run finds nothing."""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Mapping, Sequence

import pytest

from ansible_collections.hnai.platform.plugins.module_utils.kafka import acls, quotas, site, topics, users
from ansible_collections.hnai.platform.plugins.module_utils.kafka.acls import Acl
from ansible_collections.hnai.platform.plugins.module_utils.kafka.scram import MECHANISMS, LoginError
from ansible_collections.hnai.platform.plugins.module_utils.kafka.state import KafkaError
from ansible_collections.hnai.platform.plugins.module_utils.kafka.topics import Topic
from ansible_collections.hnai.platform.plugins.module_utils.kafka.users import User
from ansible_collections.hnai.platform.plugins.modules import kafka_converge

RAW = Topic("ot.raw", 3, 3, {"min.insync.replicas": "2"}, 3)
NORMALISED = Topic("ot.normalised", 3, 3, {}, 4)
LEVELS = {"telegraf-shipper": 3.0, "flink": 4.0}
SHIPPER = "User:telegraf-shipper"
FLINK = "User:flink"
WRITE = Acl(SHIPPER, "topic", "ot.raw", "write")


def refused(*entries: Acl) -> list[str]:
    return acls.refused(entries, LEVELS, (RAW, NORMALISED), ("kafka1",))


# -- I13 ----------------------------------------------------------------------------------------------------------------


def test_what_a_site_needs_is_allowed() -> None:
    assert refused(
        WRITE, Acl(SHIPPER, "topic", "ot.raw", "describe"), Acl(FLINK, "topic", "ot.raw", "read"), Acl(FLINK, "group", "flink", "read"),
        Acl(FLINK, "topic", "ot.normalised", "write"), Acl(FLINK, "transactional_id", "flink", "write", "prefixed"),
    ) == []


@pytest.mark.parametrize("operation", ["read", "all", "create", "delete", "describe_configs", "alter", "alter_configs"])
def test_level_3_has_write_and_describe_and_nothing_else(operation: str) -> None:
    assert refused(Acl(SHIPPER, "topic", "ot.raw", operation))


@pytest.mark.parametrize(
    "acl",
    [
        Acl(SHIPPER, "group", "any", "read"),
        Acl(SHIPPER, "group", "any", "describe"),
        Acl(SHIPPER, "transactional_id", "x", "write"),
        Acl(SHIPPER, "topic", "*", "write"),
        Acl(SHIPPER, "topic", "ot.", "write", "prefixed"),
        Acl(SHIPPER, "topic", "ot.", "describe", "prefixed"),
        Acl(SHIPPER, "topic", "ot.normalised", "write"),
        Acl(SHIPPER, "topic", "nobody.declared", "write"),
        Acl(FLINK, "topic", "ot.raw", "write"),
        Acl(FLINK, "topic", "ot.", "write", "prefixed"),
        Acl(FLINK, "topic", "*", "write"),
        Acl(FLINK, "topic", "ot.raw", "all"),
        Acl(FLINK, "cluster", "kafka-cluster", "alter"),
        Acl(FLINK, "cluster", "kafka-cluster", "describe"),
        Acl("User:*", "topic", "ot.raw", "read"),
        Acl("User:stranger", "topic", "ot.raw", "read"),
        Acl("User:kafka1", "topic", "ot.raw", "read"),
    ],
    ids=str,
)
def test_refused(acl: Acl) -> None:
    found = refused(acl)
    assert len(found) == 1
    assert str(acl) in found[0]


def test_numbering_batches_is_no_access() -> None:
    assert refused(Acl(SHIPPER, "cluster", "kafka-cluster", "idempotent_write")) == []


def test_denying_is_always_allowed() -> None:
    assert refused(Acl("User:*", "topic", "ot.raw", "read", permission="deny")) == []


def test_readers_below_level_3_5_are_found_whoever_made_them() -> None:
    entries = [WRITE, Acl(FLINK, "topic", "ot.raw", "read"), Acl(SHIPPER, "topic", "ot.raw", "read"), Acl("User:*", "topic", "x", "all"),
               Acl("User:stranger", "group", "g", "read")]
    assert len(acls.readers_below(entries, LEVELS)) == 3


def test_words_of_the_filter_and_of_kafka() -> None:
    entry = {"principal": SHIPPER, "host": "*", "operation": "Write", "permission": "Allow", "resource_type": "topic", "pattern_type": "literal",
             "name": "ot.raw"}
    assert acls.parse([entry], "acls") == [WRITE]
    with pytest.raises(acls.AclError, match=r"acls\[0\].operation"):
        acls.parse([dict(entry, operation="Peek")], "acls")
    with pytest.raises(acls.AclError, match="principal"):
        acls.parse([dict(entry, principal="flink")], "acls")


# -- topics -------------------------------------------------------------------------------------------------------------


def test_declared_topics_that_cannot_work_are_all_named() -> None:
    bad = [Topic("ot_raw", 1, 3), Topic("a", 0, 3), Topic("b", 1, 4), Topic("c", 1, 3, {"min.insync.replicas": "3"}),
           Topic("d", 1, 3, {"unclean.leader.election.enable": "true"}), Topic("e", 1, 3, {"min.insync.replicas": "two"}), RAW, RAW]
    assert len(topics.check(bad, 3)) == 7
    assert topics.check([RAW, NORMALISED], 3) == []


def test_topics_grow_and_are_configured_but_never_shrink_or_move() -> None:
    now = {"ot.raw": Topic("ot.raw", 1, 3, {"retention.ms": "5"}), "old": Topic("old", 1, 3), "__consumer_offsets": Topic("__consumer_offsets", 50, 3)}
    plan = topics.plan([RAW, NORMALISED], now)
    assert (plan.create, plan.grow) == ([NORMALISED], {"ot.raw": 3})
    assert plan.set_config == {"ot.raw": {"min.insync.replicas": "2"}}
    assert plan.reset_config == {"ot.raw": ["retention.ms"]}
    assert plan.unmanaged == ["old"]
    assert topics.plan([Topic("a", 1, 2)], {"a": Topic("a", 2, 3)}).problems[0].startswith("kafka_topics[a].partitions")


# -- users --------------------------------------------------------------------------------------------------------------


ANCHORED = {users.ANCHOR: dict.fromkeys(MECHANISMS, 8192)}


def java_hash(text: str) -> int:
    """String.hashCode()."""
    value = 0
    for letter in text:
        value = (31 * value + ord(letter)) & 0xFFFFFFFF
    return value


def replayed(log: Sequence[tuple[str, bool]]) -> set[str]:
    """What a broker of 4.3.1 knows of one mechanism's users after it has replayed [(user, there)] into an empty image (ScramDelta.apply)."""
    changes: dict[str, bool] = {}
    for name, there in log:
        changes[name] = there
    size = 16
    while len(changes) > size * 0.75:
        size *= 2
    spread = {name: java_hash(name) ^ java_hash(name) >> 16 for name in changes}
    kept, here, held = set(), set(), True
    for name in sorted(changes, key=lambda one: spread[one] & size - 1):
        if changes[name]:
            here.add(name)
        else:
            here.discard(name)
            held = held and bool(here)
        kept = here if held else set()
    return kept


def test_with_the_anchor_a_broker_that_restarts_keeps_the_users_after_one_was_removed() -> None:
    log = [("telegraf-shipper", True), ("flink", True), ("flink.b", True), ("telegraf-shipper.b", True), ("flink", False), ("telegraf-shipper", False)]
    assert replayed(log) == set(), "as measured"
    anchor = users.plan([], {}, lambda *_: True).upsert
    assert [mechanism for _, mechanism in anchor] == list(MECHANISMS)
    name = anchor[0][0].name
    assert replayed([(name, True), *log]) == {name, "flink.b", "telegraf-shipper.b"}
    assert replayed([*log[:4], (name, True), *log[4:]]) == set(), "as measured: it must come before all others, also within one request"
    crowd = [(f"u{number}", True) for number in range(500)] + [(f"u{number}", False) for number in range(499)]
    assert replayed([(name, True), *crowd]) == {name, "u499"}
    assert java_hash(name) == 0


def test_the_anchor_comes_before_all_others_and_stays_and_nobody_knows_its_password() -> None:
    first, again = (users.plan([User("a", "x")], {}, lambda *_: True) for _ in range(2))
    assert [user.name for user, _ in first.upsert] == [users.ANCHOR, users.ANCHOR, "a"]
    assert len({user.password for plan in (first, again) for user, _ in plan.upsert}) == 5
    assert not any(user.password in str(first.after) for user, _ in first.upsert)
    assert not users.plan([], ANCHORED, lambda *_: False).changed
    assert "anchor" in users.check([User(users.ANCHOR, "x")], [])[0]


def test_only_a_password_that_does_not_work_is_written() -> None:
    old, new = User("a", "right"), User("b", "wrong")
    plan = users.plan([old, new], {**ANCHORED, "a": {"SCRAM-SHA-512": 8192}, "b": {"SCRAM-SHA-512": 8192}}, lambda user, mechanism: user.password == "right")
    assert plan.upsert == [(new, "SCRAM-SHA-512")]
    assert "wrong" not in str(plan.before + plan.after) + repr(plan.upsert)


def test_what_one_broker_forgot_is_written_again() -> None:
    """The broker that is asked, and at which the password is tried, may be one that knows the user."""
    present = {**ANCHORED, "a": {"SCRAM-SHA-512": 8192}, "b": {"SCRAM-SHA-512": 8192}, "b.b": {"SCRAM-SHA-512": 8192}}
    lacks = {("a", "SCRAM-SHA-512"), (users.ANCHOR, "SCRAM-SHA-256"), ("b.b", "SCRAM-SHA-512"), ("b", "SCRAM-SHA-256")}
    plan = users.plan([User("a", "x"), User("b", "x", twin="b.b")], present, lambda *_: True, lacking=lacks)
    assert [(user.name, mechanism) for user, mechanism in plan.upsert] == [(users.ANCHOR, "SCRAM-SHA-256"), ("a", "SCRAM-SHA-512")]
    assert not plan.delete
    assert plan.before == ["user a SCRAM-SHA-512 (a broker does not know it)"]


def test_the_other_half_of_a_rotation_stays_and_strangers_go() -> None:
    present = {**ANCHORED, "a": {"SCRAM-SHA-512": 8192, "SCRAM-SHA-256": 8192}, "gone": {"SCRAM-SHA-256": 4096}}
    assert users.plan([User("a", "x")], present, lambda *_: True).delete == [("gone", "SCRAM-SHA-256")]
    assert not users.plan([User("a", "x")], present, lambda *_: True, prune=False).changed
    pair = {**ANCHORED, "a": {"SCRAM-SHA-512": 8192}, "a.b": {"SCRAM-SHA-512": 8192}, "z.b": {"SCRAM-SHA-512": 8192}}
    assert users.plan([User("a.b", "x", twin="a"), User("z", "x")], pair, lambda *_: True).delete == [("z.b", "SCRAM-SHA-512")], "the other half stays"


def test_the_users_of_a_pair_have_the_same_quotas() -> None:
    text = {"password": "x", "mechanisms": ["SCRAM-SHA-512"], "iterations": 8192}
    given = {"topics": [], "acls": [], "principal_levels": {}, "super_users": [], "prune_users": True, "quotas": {"a": {"producer_byte_rate": 9}}}
    for name, twin in (("a", "a.b"), ("a.b", "a")):
        found = kafka_converge.declared({**given, "users": [{"name": name, "twin": twin, **text}, {"name": "c", "twin": "", **text}]})
        assert found.quotas == {"a": {"producer_byte_rate": 9.0}, "a.b": {"producer_byte_rate": 9.0}}
        assert not found.problems()


def test_a_client_never_has_a_brokers_name() -> None:
    assert "name of a broker" in users.check([User("kafka1", "x")], ["kafka1"])[0]


@pytest.mark.parametrize("user", [User("a", ""), User("a", "x", ("PLAIN",)), User("a", "x", iterations=4096), User("a", "x", ())])
def test_weak_users_are_refused(user: User) -> None:
    assert len(users.check([user], [])) == 1


# -- together -----------------------------------------------------------------------------------------------------------


class Fake:
    """A cluster in memory that keeps the order of what was done."""

    def __init__(self) -> None:
        self.there: dict[str, Topic] = {}
        self.scram: dict[str, dict[str, int]] = {}
        self.passwords: dict[tuple[str, str], str] = {}
        self.entries: set[Acl] = set()
        self.limits: quotas.Quotas = {}
        self.forgot: set[tuple[str, str]] = set()
        self.done: list[str] = []
        self.over: dict[int, dict[str, str]] = {}

    def broker_ids(self) -> list[int]:
        return [1, 2]

    def set_over_file(self, node: int) -> dict[str, str]:
        if node == 1 and self.over:
            raise KafkaError("it is on its way down")
        return self.over.get(node, {})

    def topics(self) -> dict[str, Topic]:
        return dict(self.there)

    def create_topics(self, topics: Sequence[Topic], validate_only: bool = False) -> None:
        if validate_only:
            self.done.append("create_topics?")
            return
        self.done.append("create_topics")
        self.there.update({t.name: dataclasses.replace(t, owner_level=0) for t in topics})

    def grow_topics(self, partitions: Mapping[str, int]) -> None:
        self.done.append("grow_topics")

    def configure_topics(self, wanted: Mapping[str, Mapping[str, str]], reset: Mapping[str, Sequence[str]], validate_only: bool = False) -> None:
        self.done.append("configure_topics?" if validate_only else "configure_topics")

    def users(self) -> dict[str, dict[str, int]]:
        return {name: dict(found) for name, found in self.scram.items()}

    def lacking(self) -> set[tuple[str, str]]:
        return set(self.forgot)

    def alter_users(self, upsert: Sequence[tuple[User, str]], delete: Sequence[tuple[str, str]]) -> None:
        self.done.append("anchors" if upsert and not delete and all(user.name == users.ANCHOR for user, _ in upsert) else "alter_users")
        for user, mechanism in upsert:
            self.scram.setdefault(user.name, {})[mechanism] = user.iterations
            self.passwords[user.name, mechanism] = user.password
            self.forgot.discard((user.name, mechanism))
        for name, mechanism in delete:
            self.scram[name].pop(mechanism)
            if not self.scram[name]:
                self.scram.pop(name)

    def acls(self) -> list[Acl]:
        return sorted(self.entries)

    def create_acls(self, acls: Sequence[Acl]) -> None:
        self.done.append("create_acls")
        self.entries |= set(acls)

    def delete_acls(self, acls: Sequence[Acl]) -> None:
        self.done.append("delete_acls")
        self.entries -= set(acls)

    def quotas(self) -> quotas.Quotas:
        return {user: dict(values) for user, values in self.limits.items()}

    def alter_quotas(self, changes: Sequence[tuple[str, str, float | None]]) -> None:
        self.done.append("alter_quotas")
        for user, key, value in changes:
            values = self.limits.setdefault(user, {})
            values.pop(key, None)
            if value is not None:
                values[key] = value
            if not values:
                self.limits.pop(user)

    def works(self, user: User, mechanism: str) -> bool:
        return self.passwords.get((user.name, mechanism)) == user.password


def declaration(**changes: object) -> site.Declared:
    base = site.Declared((RAW, NORMALISED), (User("telegraf-shipper", "s"),), (WRITE,), LEVELS, ("kafka1", "kafka2", "kafka3"), 3)
    return dataclasses.replace(base, **changes)  # type: ignore[arg-type]


def test_one_run_converges_and_the_next_finds_nothing() -> None:
    cluster, want = Fake(), declaration()
    cluster.entries = {Acl(SHIPPER, "topic", "ot.raw", "read")}
    cluster.scram = {"gone": {"SCRAM-SHA-256": 4096}}
    cluster.limits = {"gone": {"producer_byte_rate": 1.0}}
    want = dataclasses.replace(want, quotas={"telegraf-shipper": {"producer_byte_rate": 1e6}})
    assert want.problems() == []
    site.apply(site.plan(want, cluster, cluster.works), cluster)
    assert cluster.done == ["create_topics", "anchors", "alter_users", "alter_quotas", "create_acls", "delete_acls"]
    assert cluster.limits == {"telegraf-shipper": {"producer_byte_rate": 1e6}}
    assert cluster.acls() == [WRITE]
    cluster.forgot = {("telegraf-shipper", "SCRAM-SHA-512")}
    assert site.plan(want, cluster, cluster.works).users.changed
    site.apply(site.plan(want, cluster, cluster.works), cluster)
    again = site.plan(want, cluster, cluster.works)
    assert not again.changed
    assert (again.before, again.after) == ([], [])


def test_the_brokers_are_asked_first_and_only_about_what_is_new() -> None:
    cluster, want = Fake(), declaration()
    site.rehearse(site.plan(want, cluster, cluster.works), cluster)
    assert (cluster.done, cluster.there) == (["create_topics?"], {})
    cluster.there = {topic.name: topic for topic in want.topics}
    site.rehearse(site.plan(want, cluster, cluster.works), cluster)
    cluster.there["ot.raw"] = dataclasses.replace(RAW, config={"retention.ms": "1"})
    site.rehearse(site.plan(want, cluster, cluster.works), cluster)
    assert cluster.done == ["create_topics?", "configure_topics?"]


def test_what_nobody_declared_in_the_cluster_is_named_and_left_alone() -> None:
    cluster, want = Fake(), declaration()
    site.apply(site.plan(want, cluster, cluster.works), cluster)
    assert site.foreign(want, cluster) == []
    cluster.over = {2: {"log.retention.ms": "5", "ssl.key.password": "", "min.insync.replicas": "2"}}
    cluster.scram["telegraf-shipper"]["SCRAM-SHA-256"] = 8192
    cluster.there |= {name: dataclasses.replace(RAW, name=name) for name in ("by-hand", "__consumer_offsets", "hnai.canary.1-a")}
    assert site.foreign(want, cluster) == [
        "topic by-hand",
        "user telegraf-shipper SCRAM-SHA-256 beside SCRAM-SHA-512",
        "broker 1 does not say what is set over its file (it is on its way down)",
        "broker 2 log.retention.ms=5 over its file",
        "broker 2 ssl.key.password=(not told) over its file",
    ]
    assert not site.plan(want, cluster, cluster.works).changed


def test_a_new_password_is_a_change_and_never_a_text() -> None:
    cluster = Fake()
    site.apply(site.plan(declaration(), cluster, cluster.works), cluster)
    outcome = site.plan(declaration(users=(User("telegraf-shipper", "changed"),)), cluster, cluster.works)
    assert outcome.users.changed and not outcome.acls.changed
    assert "changed" not in "".join(outcome.before + outcome.after)


def test_all_problems_come_at_once() -> None:
    want = declaration(topics=(Topic("ot_raw", 1, 3),), users=(User("kafka1", "x"),), acls=(Acl(SHIPPER, "topic", "ot.raw", "read"),))
    assert len(want.problems()) == 3


def test_what_would_move_data_is_refused() -> None:
    cluster = Fake()
    cluster.there = {"ot.raw": dataclasses.replace(RAW, replication_factor=1)}
    with pytest.raises(KafkaError, match="replication_factor"):
        site.plan(declaration(), cluster, cluster.works)


def test_a_prediction_without_a_cluster() -> None:
    outcome = site.plan(declaration(), site.Empty(), lambda *_: False)
    assert outcome.changed
    assert len(outcome.after) == 6


def test_settling_has_a_deadline() -> None:
    cluster = Fake()
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    with pytest.raises(KafkaError, match="did not take over within 5 s"):
        site.settle(declaration(), cluster, cluster.works, 5, lambda: now[0], sleep)
    site.apply(site.plan(declaration(), cluster, cluster.works), cluster)
    site.settle(declaration(), cluster, cluster.works, 5, lambda: now[0], sleep)


# -- quotas -------------------------------------------------------------------------------------------------------------


def test_quotas_are_exactly_the_declared_ones() -> None:
    declared = {"flink": {"consumer_byte_rate": 10.0, "request_percentage": 50.0}, "<default>": {"producer_byte_rate": 5.0}}
    found = quotas.plan(declared, {"flink": {"consumer_byte_rate": 7.0, "producer_byte_rate": 3.0}, "gone": {"request_percentage": 1.0}})
    assert found.changes == [
        ("<default>", "producer_byte_rate", 5.0), ("flink", "consumer_byte_rate", 10.0), ("flink", "producer_byte_rate", None),
        ("flink", "request_percentage", 50.0), ("gone", "request_percentage", None)]
    assert found.before == ["quota flink consumer_byte_rate=7", "quota flink producer_byte_rate=3", "quota gone request_percentage=1"]
    assert not quotas.plan(declared, declared).changed
    near = quotas.plan({"flink": {"consumer_byte_rate": 10485760.0}}, {"flink": {"consumer_byte_rate": 10485761.0}})
    assert (near.before, near.after) == (["quota flink consumer_byte_rate=10485761"], ["quota flink consumer_byte_rate=10485760"])


@pytest.mark.parametrize(
    ("declared", "word"),
    [
        ({"kafka1": {"producer_byte_rate": 1.0}}, "is a broker"),
        ({"stranger": {"producer_byte_rate": 1.0}}, "no such user"),
        ({"flink": {"produce_rate": 1.0}}, "use producer_byte_rate"),
        ({"flink": {"producer_byte_rate": 0.0}}, "would stop the client"),
        ({"flink": {"producer_byte_rate": float("nan")}}, "would stop the client"),
    ],
)
def test_quotas_that_are_refused(declared: dict[str, dict[str, float]], word: str) -> None:
    (problem,) = quotas.check(declared, ["flink"], ["kafka1"])
    assert word in problem
    assert quotas.check({"flink": {"producer_byte_rate": 1.0}, "<default>": {"request_percentage": 1.0}}, ["flink"], ["kafka1"]) == []


@pytest.mark.parametrize("entity", [
    [("user", "flink")], [("user", None)], [("user", "ip=x")], [("user", "a"), ("client-id", "b=c,%")], [("client-id", None)], [("ip", "fe80::1")],
], ids=str)
def test_whose_quota_it_is_has_one_text(entity: quotas.Entity) -> None:
    assert list(quotas.entity_of(quotas.text_of(entity))) == entity


def test_a_quota_of_anything_but_a_user_goes() -> None:
    found = quotas.plan({"flink": {"producer_byte_rate": 5.0}}, {"flink": {"producer_byte_rate": 5.0}, "client-id=telegraf": {"producer_byte_rate": 1.0}})
    assert found.changes == [("client-id=telegraf", "producer_byte_rate", None)]
    assert found.before == ["quota client-id=telegraf producer_byte_rate=1"]
    (problem,) = quotas.check({"client-id=telegraf": {"producer_byte_rate": 1.0}}, ["flink"], [])
    assert "no such user" in problem


class Wire:
    """Keeps a request and gives one answer (layouts: DescribeClientQuotas v0, AlterClientQuotas v0)."""

    def __init__(self, answer: bytes) -> None:
        self.answer, self.sent = answer, b""

    def sendall(self, data: bytes, /) -> None:
        self.sent = data[4:]
        body = data[8:12] + self.answer
        self.answer = len(body).to_bytes(4, "big") + body

    def recv(self, size: int, /) -> bytes:
        part, self.answer = self.answer[:size], self.answer[size:]
        return part


def _string(text: str | None) -> bytes:
    return b"\xff\xff" if text is None else struct.pack(">h", len(text)) + text.encode()


#: DescribeUserScramCredentials v0 as kafka-python 3.0.12 reads it: no error; two users, one of them with both mechanisms.
WHO = bytes.fromhex("00 00000000 0000 00 03") + (
    b"\x06flink" + bytes.fromhex("0000 00 03 01 00002000 00 02 00001000 00 00") + b"\x02a" + bytes.fromhex("0000 00 02 02 00002000 00 00") + b"\x00")


def test_users_of_the_broker_at_the_other_end_on_the_wire() -> None:
    wire = Wire(WHO)
    assert users.describe(wire) == {"flink": {"SCRAM-SHA-256": 8192, "SCRAM-SHA-512": 4096}, "a": {"SCRAM-SHA-512": 8192}}
    assert struct.unpack_from(">hh", wire.sent) == (50, 0)
    assert wire.sent[8 + 6:] == b"\x00" * 3
    assert users.describe(Wire(bytes.fromhex("00 00000000 0000 00 01 00"))) == {}
    with pytest.raises(KafkaError, match=r"error 31 no$"):
        users.describe(Wire(bytes.fromhex("00 00000000 001f") + b"\x03no" + b"\x01\x00"))
    with pytest.raises(KafkaError, match="user a: error 91"):
        users.describe(Wire(bytes.fromhex("00 00000000 0000 00 02") + b"\x02a" + bytes.fromhex("005b 00 01 00 00")))
    for broken in [*(WHO[:size] for size in range(len(WHO) - 1)), WHO.replace(b"\x02\x00\x00\x10", b"\x09\x00\x00\x10")]:
        with pytest.raises(LoginError, match="malformed"):
            users.describe(Wire(broken))


def test_quotas_on_the_wire() -> None:
    entries = [([("user", "flink")], {"consumer_byte_rate": 1.5}), ([("user", None)], {"request_percentage": 2.0}),
               ([("user", "flink"), ("client-id", "a, b")], {"producer_byte_rate": 1.0}), ([("ip", None)], {"connection_creation_rate": 1.0})]
    answer = struct.pack(">ih", 0, 0) + _string(None) + struct.pack(">i", len(entries))
    for entity, values in entries:
        answer += struct.pack(">i", len(entity)) + b"".join(_string(kind) + _string(name) for kind, name in entity) + struct.pack(">i", len(values))
        for key, value in values.items():
            answer += _string(key) + struct.pack(">d", value)
    wire = Wire(answer)
    assert quotas.describe(wire) == {
        "flink": {"consumer_byte_rate": 1.5}, "<default>": {"request_percentage": 2.0}, "user=flink,client-id=a%2C%20b": {"producer_byte_rate": 1.0},
        "ip=<default>": {"connection_creation_rate": 1.0}}
    assert struct.unpack_from(">hh", wire.sent) == (48, 0)
    assert wire.sent[8 + 6:] == bytes(5), "whatever it is of"
    with pytest.raises(KafkaError, match="error 31 no"):
        quotas.describe(Wire(struct.pack(">ih", 0, 31) + _string("no") + struct.pack(">i", -1)))

    good = struct.pack(">ii", 0, 1) + struct.pack(">h", 0) + _string(None) + struct.pack(">i", 1) + _string("user") + _string("flink")
    wire = Wire(good)
    quotas.alter(wire, [("flink", "consumer_byte_rate", 1.5), ("flink", "request_percentage", None)])
    assert wire.sent[8 + 6:] == (
        struct.pack(">ii", 1, 1) + _string("user") + _string("flink") + struct.pack(">i", 2)
        + _string("consumer_byte_rate") + struct.pack(">d", 1.5) + b"\x00" + _string("request_percentage") + struct.pack(">d", 0.0) + b"\x01" + b"\x00")
    wire = Wire(good)
    quotas.alter(wire, [("user=flink,client-id=a%2C%20b", "producer_byte_rate", None)])
    assert wire.sent[8 + 6:] == (struct.pack(">ii", 1, 2) + _string("user") + _string("flink") + _string("client-id") + _string("a, b") + struct.pack(">i", 1)
                                 + _string("producer_byte_rate") + struct.pack(">d", 0.0) + b"\x01" + b"\x00")
    bad = struct.pack(">ii", 0, 1) + struct.pack(">h", 42) + _string("no such key") + struct.pack(">i", 1) + _string("user") + _string(None)
    with pytest.raises(KafkaError, match="<default>: no such key"):
        quotas.alter(Wire(bad), [("<default>", "x", 1.0)])
