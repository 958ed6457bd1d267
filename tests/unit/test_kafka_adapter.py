# SPDX-License-Identifier: Apache-2.0
"""The adapter with a library in place of kafka-python: what it makes of answers, and the order of what it sends."""

from __future__ import annotations

import dataclasses
import sys
import threading
import types
from dataclasses import dataclass
from typing import Any

import pytest

from ansible_collections.hnai.platform.plugins.module_utils.kafka import adapter
from ansible_collections.hnai.platform.plugins.module_utils.kafka.acls import Acl
from ansible_collections.hnai.platform.plugins.module_utils.kafka.state import KafkaError, Unreachable
from ansible_collections.hnai.platform.plugins.module_utils.kafka.topics import Topic
from ansible_collections.hnai.platform.plugins.module_utils.kafka.users import User


@dataclass(frozen=True)
class Deletion:
    user: str
    mechanism: int


@dataclass(frozen=True)
class Upsertion:
    user: str
    mechanism: int
    password: str
    iterations: int


class LibraryError(Exception):
    """Root of the library's errors."""


class TimedOut(LibraryError):
    """One of those that mean: nobody answered."""


class NotAvailable(LibraryError):
    """The first replica of a partition is away."""

    errno = 80


class NotNeeded(LibraryError):
    """The first replica leads already."""

    errno = 84


class Client:
    """Records; answers what it is told."""

    def __init__(self) -> None:
        self.sent: list[list[Any]] = []
        self.answers: dict[str, Any] = {}

    def alter_user_scram_credentials(self, changes: list[Any]) -> dict[str, str | None]:
        self.sent.append(changes)
        assert len({change.user for change in changes}) == len(changes), "Kafka refuses to alter a user twice in one request"
        return self.answers.get("alter", dict.fromkeys((change.user for change in changes), None))

    def describe_metadata_quorum(self) -> dict[str, Any]:
        found = self.answers["quorum"]
        if isinstance(found, Exception):
            raise found
        return dict(found)

    def describe_cluster(self) -> dict[str, Any]:
        return {"cluster_id": "c", "brokers": [{"broker_id": 1, "host": "kafka1", "port": 9091, "is_fenced": False},
                                               {"broker_id": 2, "host": "kafka2", "port": 9091, "is_fenced": True},
                                               {"broker_id": 3, "host": "kafka3", "port": 9091, "is_fenced": False}]}

    def elect_leaders(self, kind: int, timeout_ms: int, raise_errors: bool) -> Any:
        assert (kind, raise_errors) == (0, False)
        parts = [types.SimpleNamespace(error_code=code) for code in self.answers["elected"]]
        return types.SimpleNamespace(error_code=0, replica_election_results=[types.SimpleNamespace(partition_result=parts)])

    def describe_user_scram_credentials(self) -> dict[str, Any]:
        return dict(self.answers["users"])

    def describe_features(self) -> dict[str, Any]:
        return dict(self.answers["features"])

    def close(self) -> None:
        """Nothing is open."""


@pytest.fixture
def admin() -> tuple[adapter.Admin, Client]:
    found = adapter.Admin.__new__(adapter.Admin)
    client = Client()
    found._client = client
    found._api = types.SimpleNamespace(UserScramCredentialDeletion=Deletion, UserScramCredentialUpsertion=Upsertion)
    found._errors = types.SimpleNamespace(
        KafkaError=LibraryError, KafkaTimeoutError=TimedOut, KafkaConnectionError=TimedOut, NodeNotReadyError=TimedOut, RequestTimedOutError=TimedOut,
        PreferredLeaderNotAvailableError=NotAvailable, ElectionNotNeededError=NotNeeded, for_code=lambda code: type(f"Error{code}", (LibraryError,), {}))
    found._timeout_ms = 1000
    return found, client


def test_a_user_is_altered_once_per_request(admin: tuple[adapter.Admin, Client]) -> None:
    one, client = admin
    user = User("flink", "x", ("SCRAM-SHA-256", "SCRAM-SHA-512"))
    one.alter_users([(user, "SCRAM-SHA-256"), (user, "SCRAM-SHA-512")], [("gone", "SCRAM-SHA-256"), ("gone", "SCRAM-SHA-512")])
    assert sorted((type(c).__name__, c.user, c.mechanism) for batch in client.sent for c in batch) == [
        ("Deletion", "gone", 1), ("Deletion", "gone", 2), ("Upsertion", "flink", 1), ("Upsertion", "flink", 2)]


def test_a_refusal_is_an_error_without_the_password(admin: tuple[adapter.Admin, Client]) -> None:
    one, client = admin
    client.answers["alter"] = {"flink": "iterations too high"}
    with pytest.raises(KafkaError, match="flink: iterations too high") as error:
        one.alter_users([(User("flink", "s3cret"), "SCRAM-SHA-512")], [])
    assert "s3cret" not in str(error.value)


def test_a_user_of_whom_a_broker_does_not_speak_is_not_passed_over(admin: tuple[adapter.Admin, Client]) -> None:
    one, client = admin
    known = {"error": None, "credential_infos": [{"mechanism": 1, "iterations": 4096}]}
    client.answers["users"] = {"flink": known}
    assert one.users() == {"flink": {"SCRAM-SHA-256": 4096}}
    client.answers["users"] = {"flink": known, "eve": {"error": "not now", "credential_infos": []}}
    with pytest.raises(KafkaError, match="user eve: not now"):
        one.users()


def test_a_broker_that_has_just_started_has_no_level_0(admin: tuple[adapter.Admin, Client]) -> None:
    one, client = admin
    client.answers["features"] = {"metadata.version": {"supported": (1, 29), "finalized": (29, 29)}, "kraft.version": {"supported": (0, 1)}}
    assert one.features() == {"metadata.version": (29, 29), "kraft.version": (0, 1)}
    client.answers["features"] = {"metadata.version": {"supported": (1, 29)}, "kraft.version": {"supported": (0, 1)}}
    with pytest.raises(KafkaError, match="does not say what is finalized"):
        one.features()


def test_the_lead_is_given_back_as_far_as_brokers_are_there(admin: tuple[adapter.Admin, Client]) -> None:
    one, client = admin
    client.answers["elected"] = [0, 80, 84]
    one.elect_preferred()
    client.answers["elected"] = [0, 80, 31]
    with pytest.raises(KafkaError, match=r"elect_leaders: Error31$"):
        one.elect_preferred()


def _voter(number: int, caught_up: int) -> dict[str, int]:
    return {"replica_id": number, "log_end_offset": 10, "last_fetch_timestamp": caught_up, "last_caught_up_timestamp": caught_up}


def test_quorum_and_cluster(admin: tuple[adapter.Admin, Client]) -> None:
    one, client = admin
    client.answers["quorum"] = {"topics": [{"partitions": [{
        "leader_id": 2, "leader_epoch": 7, "high_watermark": 9, "error": None, "observers": [], "current_voters": [_voter(2, 5000), _voter(1, 1000)]}]}]}
    quorum = one.quorum()
    assert [v.id for v in quorum.voters] == [1, 2]
    assert quorum.behind(2000) == [1]
    assert one.cluster() == ("c", {1: False, 2: True, 3: False})


def test_each_live_broker_is_asked_itself_which_users_it_knows(admin: tuple[adapter.Admin, Client], monkeypatch: pytest.MonkeyPatch) -> None:
    one, client = admin
    answers: dict[str, Any] = {"kafka1": {"flink": {"SCRAM-SHA-512": 8192}}, "kafka3": {"flink": {"SCRAM-SHA-256": 8192, "SCRAM-SHA-512": 8192}}}
    limits = []

    class Links:
        """Each is asked what only it knows."""

        def ask(self, address: tuple[str, int], question: object, timeout_s: float) -> dict[str, dict[str, int]]:
            assert (address[1], question) == (9091, adapter.users.describe)
            limits.append(timeout_s)
            found = answers[address[0]]
            if isinstance(found, Exception):
                raise found
            return dict(found)

    monkeypatch.setattr(one, "_links", Links(), raising=False)
    brokers = client.describe_cluster()["brokers"]
    both = {("flink", "SCRAM-SHA-256"), ("flink", "SCRAM-SHA-512")}
    assert one._known(brokers) == ({1: {("flink", "SCRAM-SHA-512")}, 3: both}, {})
    assert one.lacking() == {("flink", "SCRAM-SHA-256")}
    one._timeout_ms = 60_000
    for error in (TimeoutError("timed out"), adapter.scram.LoginError("closed"), KafkaError("error 31")):
        answers["kafka3"] = error
        assert one._known(brokers) == ({1: {("flink", "SCRAM-SHA-512")}}, {3: str(error)})
    assert one.lacking() == set()
    assert max(limits) == 2.0, "one that hangs holds up nobody"


def test_quotas_are_those_of_the_first_broker_that_says_them(admin: tuple[adapter.Admin, Client], monkeypatch: pytest.MonkeyPatch) -> None:
    one, _client = admin
    one._connection = adapter.Connection(("kafka1:9091", "kafka2:9091", "kafka3:9091"), "", "", "")
    answers: dict[str, Any] = {"kafka1": TimeoutError("timed out"), "kafka2": {"flink": {"consumer_byte_rate": 1.0}}}
    asked = []

    class Links:
        """Each by its name."""

        def ask(self, address: tuple[str, int], question: object, timeout_s: float) -> Any:
            asked.append(address[0])
            found = answers.get(address[0], adapter.scram.LoginError("closed"))
            if isinstance(found, Exception):
                raise found
            return found

    monkeypatch.setattr(one, "_links", Links(), raising=False)
    assert one.quotas() == answers["kafka2"]
    assert asked == ["kafka1", "kafka2"]
    answers["kafka2"] = KafkaError("describe_client_quotas: error 31")
    with pytest.raises(KafkaError, match="error 31") as refused:
        one.quotas()
    assert not isinstance(refused.value, Unreachable)
    del answers["kafka2"]
    with pytest.raises(Unreachable, match="kafka1:9091: timed out; kafka2:9091: closed; kafka3:9091: closed"):
        one.quotas()


def test_nobody_answered_and_somebody_refused_are_two_things(admin: tuple[adapter.Admin, Client]) -> None:
    one, client = admin
    client.answers["quorum"] = TimedOut("x")
    with pytest.raises(Unreachable):
        one.quorum()
    client.answers["quorum"] = LibraryError("ClusterAuthorizationFailed")
    with pytest.raises(KafkaError) as error:
        one.quorum()
    assert not isinstance(error.value, Unreachable)


def test_a_library_that_waits_for_ever_is_waited_for_no_longer_than_allowed(admin: tuple[adapter.Admin, Client]) -> None:
    one, client = admin
    over = threading.Event()
    one._timeout_ms = -900
    client.describe_metadata_quorum = lambda: {"late": over.wait(60)}  # type: ignore[method-assign]
    with pytest.raises(Unreachable, match="no answer in time"):
        one.quorum()
    over.set()


def test_who_cannot_be_reached_is_said_with_what_it_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def library(**_unused: Any) -> None:
        raise TimedOut("unable to bootstrap")

    monkeypatch.setattr(adapter, "activate", lambda: None)
    errors = types.ModuleType("kafka.errors")
    names = ("KafkaError", "KafkaTimeoutError", "KafkaConnectionError", "NodeNotReadyError", "RequestTimedOutError")
    errors.__dict__.update({**dict.fromkeys(names, TimedOut), "KafkaError": LibraryError})
    client = types.ModuleType("kafka.admin")
    client.KafkaAdminClient = library  # type: ignore[attr-defined]
    root = types.ModuleType("kafka")
    root.admin, root.errors = client, errors  # type: ignore[attr-defined]
    for name, module in (("kafka", root), ("kafka.admin", client), ("kafka.errors", errors)):
        monkeypatch.setitem(sys.modules, name, module)
    answers: dict[str, Any] = {"kafka1": b"\x00\x01", "kafka2": ConnectionRefusedError("refused")}

    class Links:
        def context(self, mutual: bool) -> None:
            """None is needed."""

        def ask(self, address: tuple[str, int], question: Any, limit_s: float) -> bytes:
            if isinstance(answers[address[0]], Exception):
                raise answers[address[0]]
            return bytes(answers[address[0]])

    for order, said in ((("kafka1:9091", "kafka2:9091"), "unable to bootstrap"), (("kafka2:9091", "kafka1:9091"), "refused")):
        with pytest.raises(Unreachable, match=f"the first one: [^']*{said}$"):
            adapter.Admin(adapter.Connection(order, "", "", ""), 1.0, Links())  # type: ignore[arg-type]


# -- consumer groups ---------------------------------------------------------------------------------------------------


def test_a_group_is_seen_in_the_topics_in_which_it_keeps_a_position(admin: tuple[adapter.Admin, Client], monkeypatch: pytest.MonkeyPatch) -> None:
    one, client = admin
    part = dataclasses.make_dataclass("Part", ["topic", "partition"], frozen=True, order=True)
    offset = dataclasses.make_dataclass("Offset", ["offset", ("timestamp", int, -1)], frozen=True)
    structs = types.ModuleType("kafka.structs")
    structs.TopicPartition = part  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "kafka.structs", structs)
    one._errors.for_code = lambda code: LibraryError
    one._errors.UnknownTopicOrPartitionError = TimedOut
    groups = [{"group_id": "writer", "group_state": "Stable", "protocol_type": "consumer"}, {"group_id": "other", "group_state": "Stable"}]
    monkeypatch.setattr(client, "list_groups", lambda: groups, raising=False)
    monkeypatch.setattr(client, "describe_topics", lambda names: [
        {"name": name, "error_code": 0, "partitions": [{"partition_index": 0}, {"partition_index": 1}]} for name in names], raising=False)
    monkeypatch.setattr(client, "list_group_offsets", lambda names: {"writer": {part("used", 0): offset(7)}}, raising=False)
    asked: list[Any] = []

    def offsets(wanted: dict[Any, int]) -> dict[Any, Any]:
        asked.append(wanted)
        return {tp: offset(*{-1: (10,), -2: (5,), 1_000: (6, 1_001)}[when]) for tp, when in wanted.items()}

    monkeypatch.setattr(client, "list_partition_offsets", offsets, raising=False)
    members: list[dict[str, Any]] = []
    monkeypatch.setattr(client, "describe_groups", lambda names: {name: {"members": members} for name in names}, raising=False)
    (found,) = one.groups({"writer": ["used", "allowed"], "absent": ["used"]}, 1_000)
    assert (found.name, found.state, found.protocol) == ("writer", "Stable", "consumer")
    assert [(p.topic, p.number, p.committed, p.end, p.due) for p in found.positions] == [("used", 0, 7, 10, 6), ("used", 1, -1, 10, 6)]
    assert [p.late for p in found.positions] == [False, True]
    # Where a log begins is asked only of what seems to be late.
    assert [(p.due_ms, p.begin) for p in found.positions] == [(1_001, 0), (1_001, 5)] and asked[2:] == [{part("used", 1): -2}]
    assert one.groups({"absent": ["used"]}, 1_000) == []
    # Its members say what they read; who says nothing, or has none, is judged by where it stands.
    for said, read in ((b"?", ["used", "used"]), ({"topics": ["used"]}, ["used", "used"]), ({"topics": ["allowed"]}, [])):
        members[:] = [{"member_metadata": said}]
        assert [p.topic for group in one.groups({"writer": ["used", "allowed"]}, 1_000) for p in group.positions] == read


def test_directory_ids_are_kafkas_text() -> None:
    assert adapter._directory("00000000-0000-0000-0000-000000000100") == "AAAAAAAAAAAAAAAAAAABAA"
    assert adapter._directory(None) == ""


def test_a_topic_that_cannot_be_described_is_not_left_out(admin: tuple[adapter.Admin, Client], monkeypatch: pytest.MonkeyPatch) -> None:
    one, client = admin
    one._errors.UnknownTopicOrPartitionError = TimedOut
    one._errors.for_code = lambda code: TimedOut if code == 3 else LibraryError
    answer = [{"name": "gone", "error_code": 3}, {"name": "sick", "error_code": 5}]
    monkeypatch.setattr(client, "describe_topics", lambda names: answer, raising=False)
    with pytest.raises(KafkaError, match="sick"):
        one._describe_topics(None)
    answer.pop()
    assert one._describe_topics(None) == []


def test_an_acl_that_is_refused_is_named(admin: tuple[adapter.Admin, Client], monkeypatch: pytest.MonkeyPatch) -> None:
    one, client = admin
    good, bad = Acl("User:flink", "topic", "ot.raw", "read"), Acl("User:flink", "topic", "ot.raw", "idempotent_write")
    monkeypatch.setattr(one, "_entry", lambda acl, kind, pattern: [acl])
    monkeypatch.setattr(client, "create_acls", lambda entries: {"succeeded": entries[:1], "failed": [LibraryError for _each in entries[1:]]}, raising=False)
    one.create_acls([good])
    with pytest.raises(KafkaError, match=r"^create_acls: acl allow User:flink idempotent_write on topic literal ot.raw: LibraryError$"):
        one.create_acls([good, bad])


# -- settings ----------------------------------------------------------------------------------------------------------


def _looked(client: Client, monkeypatch: pytest.MonkeyPatch, settings: dict[str, dict[str, tuple[str, str]]]) -> None:
    """A cluster of these topics: topic → setting → (value, where it is set)."""
    client.answers["quorum"] = {"topics": [{"partitions": [{"leader_id": 1, "leader_epoch": 7, "high_watermark": 9, "observers": [], "current_voters": []}]}]}
    part = {"partition_index": 0, "error_code": 0, "leader_id": 1, "replica_nodes": [1, 3], "isr_nodes": [1]}
    monkeypatch.setattr(client, "describe_topics", lambda names: [{"name": name, "error_code": 0, "partitions": [part]} for name in settings], raising=False)
    monkeypatch.setattr(client, "describe_configs", lambda resources, config_filter: {"topic": {
        name: {key: {"value": value, "config_source": source} for key, (value, source) in found.items()} for name, found in settings.items()}}, raising=False)
    monkeypatch.setattr(client, "list_partition_reassignments", dict, raising=False)


ON_TOPIC, ON_BROKER = "DYNAMIC_TOPIC_CONFIG", "DYNAMIC_DEFAULT_BROKER_CONFIG"
MIN_ISR, UNCLEAN = "min.insync.replicas", "unclean.leader.election.enable"


@pytest.fixture
def looking(admin: tuple[adapter.Admin, Client], monkeypatch: pytest.MonkeyPatch) -> tuple[adapter.Admin, Client]:
    """What a snapshot needs of the library."""
    one, client = admin
    one._errors.for_code = lambda code: LibraryError
    one._errors.UnknownTopicOrPartitionError = TimedOut
    one._api.ConfigResource = lambda kind, name, keys: name
    one._api.ConfigResourceType = {"TOPIC": 2}
    monkeypatch.setattr(one, "_known", lambda brokers: ({}, {}))
    return one, client


def test_what_a_topic_inherits_is_its_brokers(looking: tuple[adapter.Admin, Client], monkeypatch: pytest.MonkeyPatch) -> None:
    one, client = looking
    _looked(client, monkeypatch, {
        "inherits": {MIN_ISR: ("2", ON_BROKER), UNCLEAN: ("true", ON_BROKER)},
        "own": {MIN_ISR: ("3", ON_TOPIC), UNCLEAN: ("true", ON_TOPIC)},
        "safe": {MIN_ISR: ("1", ON_TOPIC), UNCLEAN: ("false", ON_TOPIC)}})
    seen = one.snapshot()
    assert seen.unclean == ("own",)
    assert [p.min_isr for p in seen.partitions] == [2, 2, 1]


def test_a_topic_that_is_deleted_while_it_is_looked_at_is_an_answer_and_no_crash(
    looking: tuple[adapter.Admin, Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library passes over the error of one topic; whether it went or is only not told, it is not left out."""
    one, client = looking
    _looked(client, monkeypatch, {"stays": {MIN_ISR: ("2", ON_TOPIC), UNCLEAN: ("false", ON_BROKER)}, "goes": {}})
    with pytest.raises(KafkaError, match="no settings of goes"):
        one.snapshot()


def test_what_holds_over_a_brokers_file_and_no_answer_is_none(looking: tuple[adapter.Admin, Client], monkeypatch: pytest.MonkeyPatch) -> None:
    one, client = looking
    one._api.ConfigResourceType = {"BROKER": 4}
    said = {"log.retention.ms": {"value": "5", "config_source": ON_BROKER}, "max.connections": {"value": "7", "config_source": "DYNAMIC_BROKER_CONFIG"},
            "own": {"value": None, "config_source": "DYNAMIC_BROKER_CONFIG"}, "node.id": {"value": "1", "config_source": "STATIC_BROKER_CONFIG"},
            "num.io.threads": {"value": "8", "config_source": "DEFAULT_CONFIG"}}
    answer: dict[str, Any] = {"broker": {"1": said}}
    monkeypatch.setattr(client, "describe_configs", lambda resources, config_filter: answer, raising=False)
    assert one.set_over_file(1) == {"log.retention.ms": "5", "max.connections": "7", "own": ""}
    answer["broker"] = {"1": {}}
    for ask in (lambda: one.set_over_file(1), lambda: one.broker_config(1, [UNCLEAN])):
        with pytest.raises(KafkaError, match="no settings of 1"):
            ask()


def test_a_setting_that_is_refused_is_said_in_the_brokers_words(looking: tuple[adapter.Admin, Client], monkeypatch: pytest.MonkeyPatch) -> None:
    one, client = looking
    asked: list[tuple[str, Any]] = []

    def answering(what: str, result: str) -> None:
        def change(topics: list[str], incremental: bool, raise_on_unknown: bool, validate_only: bool) -> dict[str, Any]:
            assert incremental and not raise_on_unknown, "what the library does not know raises no error of ours"
            asked.append((f"{what}?" if validate_only else what, topics))
            return {"topic": {name: result if name == "ot.raw" else "OK" for name in topics}}

        monkeypatch.setattr(client, what, change, raising=False)

    answering("alter_configs", "OK")
    answering("reset_configs", "OK")
    one.configure_topics({"ot.raw": {"retention.ms": "5"}}, {"ot.alerts": ["cleanup.policy"]})
    assert asked == [("alter_configs", ["ot.raw"]), ("reset_configs", ["ot.alerts"])]
    one.configure_topics({}, {})
    assert len(asked) == 2
    one.configure_topics({"ot.raw": {"retention.ms": "5"}}, {}, validate_only=True)
    assert asked.pop() == ("alter_configs?", ["ot.raw"])
    for what, change in (("alter_configs", ({"ot.raw": {"retention.msx": "5"}, "ot.alerts": {}}, {})), ("reset_configs", ({}, {"ot.raw": ["x"]}))):
        answering(what, "[Error 40] InvalidConfigurationError: Unknown topic config name: retention.msx")
        with pytest.raises(KafkaError, match=r"^kafka_topics: ot.raw: .*Unknown topic config name: retention.msx$"):
            one.configure_topics(*change)  # type: ignore[arg-type]


def test_of_a_rehearsed_topic_only_its_settings_are_judged(looking: tuple[adapter.Admin, Client], monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker that is away is no error of the declaration."""
    one, client = looking
    one._errors.InvalidConfigurationError = types.SimpleNamespace(errno=40)
    found = {"name": "ot.new", "error_code": 38, "error_message": "only 2 brokers are registered"}
    monkeypatch.setattr(client, "create_topics", lambda wanted, **_how: {"topics": [found]}, raising=False)
    new = [Topic("ot.new", 1, 3)]
    one.create_topics(new, validate_only=True)
    with pytest.raises(KafkaError, match="only 2 brokers"):
        one.create_topics(new)
    found.update(error_code=40, error_message="Unknown topic config name: x")
    with pytest.raises(KafkaError, match=r"ot\.new: Unknown topic config name: x"):
        one.create_topics(new, validate_only=True)


def test_a_topic_has_as_many_replicas_as_its_poorest_partition(looking: tuple[adapter.Admin, Client], monkeypatch: pytest.MonkeyPatch) -> None:
    one, client = looking
    _looked(client, monkeypatch, {"ot.raw": {MIN_ISR: ("2", ON_TOPIC), UNCLEAN: ("false", ON_BROKER)}})
    parts = [{"partition_index": number, "replica_nodes": nodes} for number, nodes in enumerate(([1, 2, 3], [2], [3, 1, 2]))]
    monkeypatch.setattr(client, "describe_topics", lambda names: [{"name": "ot.raw", "error_code": 0, "partitions": parts}])
    found = one.topics()["ot.raw"]
    assert (found.partitions, found.replication_factor, found.config) == (3, 1, {MIN_ISR: "2"})
