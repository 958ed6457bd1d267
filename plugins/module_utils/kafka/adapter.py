# SPDX-License-Identifier: Apache-2.0
"""The one file that knows kafka-python (3.0.x, from the probe environment). Everything that leaves it is plain data.

Names and shapes were read from kafka-python 3.0.12 and confirmed on a Kafka 4.3.1 cluster. To speak to Kafka by another client,
replace this file.
"""

from __future__ import annotations

import logging
import ssl
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .. import at_once
from ..probe_env import activate
from . import quotas, scram, users
from .acls import Acl
from .ids import encode
from .listeners import Files, Links, greeted
from .state import Group, KafkaError, Login, Partition, Position, Quorum, Snapshot, Unreachable, Voter, lacking
from .topics import Topic
from .users import User

#: Options of a module on a broker that reaches its cluster; doc fragment hnai.platform.kafka describes them.
KAFKA_ARGS: dict[str, dict[str, Any]] = {
    "bootstrap": {"type": "list", "elements": "str", "required": True},
    "ca_file": {"type": "path", "default": "/etc/hnai/kafka/tls/ca.pem"},
    "cert_file": {"type": "path", "default": "/etc/hnai/kafka/tls/cert.pem"},
    "key_file": {"type": "path", "default": "/etc/hnai/kafka/tls/key.pem"},
}

_SCRAM = {name: number for number, name in users.NUMBERS.items()}
#: Most seconds that each step of asking one broker by itself may take: one that hangs must not hold up the rest.
_ASK_S = 2.0
#: The connection, TLS, the answer.
_STEPS = 3
#: Of the sources of a setting: what is set on the topic itself.
_TOPIC_SOURCE = "DYNAMIC_TOPIC_CONFIG"
_BROKER_SOURCES = ("DYNAMIC_BROKER_CONFIG", "DYNAMIC_DEFAULT_BROKER_CONFIG")


@dataclass(frozen=True)
class Connection:
    """How to reach the cluster: mutual TLS, with a certificate whose principal is a super user."""

    bootstrap: tuple[str, ...]
    ca_file: str
    cert_file: str
    key_file: str

    @classmethod
    def from_params(cls, params: Mapping[str, Any]) -> Connection:
        """From the options of doc fragment and argument spec of the Kafka modules."""
        return cls(tuple(params["bootstrap"]), params["ca_file"], params["cert_file"], params["key_file"])

    def links(self) -> Links:
        """Nothing is open yet."""
        return Links(Files(self.ca_file, self.cert_file, self.key_file))


def _context(links: Links) -> ssl.SSLContext:
    """Raises Unreachable when the files cannot be used."""
    try:
        return links.context(True)
    except (OSError, ssl.SSLError) as error:
        raise Unreachable(f"{links.files.cert}: {error}; the role's identity step puts certificate and key there") from error


def _place(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host, int(port)


def _directory(value: object) -> str:
    """A directory id as meta.properties has it; the library gives a UUID."""
    return encode(uuid.UUID(str(value))) if value else ""


def _voter(data: Mapping[str, Any]) -> Voter:
    return Voter(
        id=data["replica_id"], directory=_directory(data.get("replica_directory_id")), end_offset=data["log_end_offset"],
        last_fetch_ms=data.get("last_fetch_timestamp", -1), last_caught_up_ms=data.get("last_caught_up_timestamp", -1),
    )


class Admin:
    """An open admin client. Use as a context manager; every call is bounded by `timeout_s`. What it asks without the library it asks on `links`.

    Raises Unreachable when no broker answers, KafkaError when one refuses. Importing this module needs no library, opening does (then
    ProbeMissing of probe_env names the remedy).
    """

    def __init__(self, connection: Connection, timeout_s: float = 10.0, links: Links | None = None) -> None:
        activate()
        import kafka.admin
        import kafka.errors

        self._api = kafka.admin
        self._errors = kafka.errors
        logging.getLogger("kafka").setLevel(logging.CRITICAL)
        self._timeout_ms = max(1000, int(timeout_s * 1000))
        self._connection = connection
        self._links = links or connection.links()
        context = _context(self._links)
        # The library asks whichever broker it likes, not the first, and waits for ever for one that takes a connection and is silent in TLS.
        limit_s = min(_ASK_S, timeout_s)

        def greet(address: str) -> object:
            return self._links.ask(_place(address), greeted, limit_s)

        said = at_once.ask(greet, connection.bootstrap, _STEPS * limit_s)
        there = [address for address in connection.bootstrap if not isinstance(said[address], Exception)]
        try:
            self._client = self._call(
                kafka.admin.KafkaAdminClient, bootstrap_servers=there[:1] or list(connection.bootstrap), client_id="hnai-platform", security_protocol="SSL",
                ssl_context=context, request_timeout_ms=self._timeout_ms, bootstrap_timeout_ms=self._timeout_ms, reconnect_backoff_max_ms=500,
            )
        except KafkaError as error:
            first = said[connection.bootstrap[0]]
            raise Unreachable(f"no broker of {', '.join(connection.bootstrap)} answered within {timeout_s:g} s; "
                              f"the first one: {first if isinstance(first, Exception) else error}") from error
        #: Nodes that are asked for what only they know; None: all.
        self._asked: list[int] | None = None
        nodes = {f"{node.host}:{node.port}": node.node_id for node in self._client._manager.cluster.brokers()}
        # So it does of a broker that nobody declared.
        said |= at_once.ask(greet, [address for address in nodes if address not in said], _STEPS * limit_s)
        there = [address for address, answer in said.items() if not isinstance(answer, Exception)]
        if there and len(there) < len(said):
            self._asked = [node for address, node in nodes.items() if address in there]
            # The one to which it is connected is the one that it likes; every broker passes on what is for the controller (KIP-590).
            for node in [nodes[address] for address in there if address in nodes][:1]:
                self._client._controller_id = node
                self._call(self._client.get_broker_version_data, node)

    def __enter__(self) -> Admin:
        return self

    def __exit__(self, *_unused: object) -> None:
        self._client.close()
        self._links.close()

    def _call(self, function: Any, *args: Any, **kwargs: Any) -> Any:
        name = function.__name__
        answer = at_once.ask(lambda _name: function(*args, **kwargs), [name], self._timeout_ms / 1000.0 + 1.0)[name]
        if isinstance(answer, (TimeoutError, self._errors.KafkaTimeoutError, self._errors.KafkaConnectionError, self._errors.NodeNotReadyError,
                               self._errors.RequestTimedOutError)):
            raise Unreachable(f"{name}: {answer}") from answer
        if isinstance(answer, self._errors.KafkaError):
            raise KafkaError(f"{name}: {answer}") from answer
        if isinstance(answer, Exception):
            raise answer
        return answer

    # -- looking ----------------------------------------------------------------------------------------------------

    def quorum(self) -> Quorum:
        """The metadata quorum, as its leader answers through a broker."""
        answer = self._call(self._client.describe_metadata_quorum)
        data = answer["topics"][0]["partitions"][0]
        if data.get("error"):
            raise Unreachable(f"describe_metadata_quorum: {data['error']}")
        return Quorum(
            leader_id=data["leader_id"], leader_epoch=data["leader_epoch"], high_watermark=data["high_watermark"],
            voters=tuple(sorted((_voter(item) for item in data["current_voters"]), key=lambda v: v.id)),
            observers=tuple(sorted((_voter(item) for item in data["observers"]), key=lambda v: v.id)),
        )

    def cluster(self) -> tuple[str, dict[int, bool]]:
        """Cluster id, and id → fenced of every registered broker."""
        answer = self._call(self._client.describe_cluster)
        return answer["cluster_id"], {item["broker_id"]: bool(item.get("is_fenced", False)) for item in answer["brokers"]}

    def snapshot(self) -> Snapshot:
        """Everything that the gate looks at, in five calls and one to each live broker."""
        answer = self._call(self._client.describe_cluster)
        described = self._describe_topics(None)
        keys = ["min.insync.replicas", "unclean.leader.election.enable"]
        settings = self._configs("TOPIC", [topic["name"] for topic in described], keys)
        partitions = tuple(
            Partition(
                topic=topic["name"], number=item["partition_index"], leader=item["leader_id"] if item["error_code"] == 0 else -1,
                replicas=tuple(item["replica_nodes"]), isr=tuple(item["isr_nodes"]),
                min_isr=min(int(settings[topic["name"]][keys[0]]["value"]), len(item["replica_nodes"])),
            )
            for topic in described for item in topic["partitions"]
        )
        moving = self._call(self._client.list_partition_reassignments)
        known, silent = self._known(answer["brokers"])
        return Snapshot(
            cluster_id=answer["cluster_id"], quorum=self.quorum(), partitions=partitions,
            brokers={item["broker_id"]: bool(item.get("is_fenced", False)) for item in answer["brokers"]},
            racks={item["broker_id"]: item["rack"] for item in answer["brokers"] if item.get("rack")},
            reassignments=tuple(sorted(f"{key.topic}-{key.partition}" for key in moving)),
            # What a topic only inherits is its broker's, which B8 asks.
            unclean=tuple(sorted(name for name, found in settings.items()
                                 if found[keys[1]]["config_source"] == _TOPIC_SOURCE and found[keys[1]]["value"] != "false")), users=known, silent=silent,
        )

    def _describe_topics(self, names: list[str] | None) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        for topic in self._call(self._client.describe_topics, names):
            error = self._errors.for_code(topic["error_code"])
            if error is self._errors.UnknownTopicOrPartitionError:
                continue  # Deleted between two calls.
            if topic["error_code"]:
                raise KafkaError(f"describe_topics {topic['name']}: {error.__name__}")
            found.append(topic)
        return found

    def _configs(self, kind: str, names: Sequence[str], keys: Sequence[str] | None = None) -> dict[str, dict[str, dict[str, Any]]]:
        resources = [self._api.ConfigResource(self._api.ConfigResourceType[kind], name, dict.fromkeys(keys) if keys else None) for name in names]
        if not resources:
            return {}
        answer = self._call(self._client.describe_configs, resources, config_filter="all")
        found = {name: dict(values) for one in answer.values() for name, values in one.items()}
        # The library passes over what a broker refuses to say of one topic or broker.
        unsaid = sorted(name for name in names if not set(keys or ()) <= set(found.get(name, {})) or not found.get(name))
        if unsaid:
            raise KafkaError(f"describe_configs: no settings of {', '.join(unsaid[:5])}; deleted meanwhile?")
        return found

    def broker_config(self, node: int, keys: Sequence[str]) -> dict[str, str]:
        """Effective settings of one broker. The authorizer's (super.users, ...) are not among those that Kafka tells."""
        found = self._configs("BROKER", [str(node)], keys)
        return {key: str(item["value"]) for key, item in found[str(node)].items()}

    def set_over_file(self, node: int) -> dict[str, str]:
        """Settings of one broker that were made in the cluster, for it or for all of them, and hold over those of its file. Of one that Kafka does not know,
        or keeps secret, the value is not told: ''."""
        found = self._configs("BROKER", [str(node)])
        return {key: str(item["value"] or "") for key, item in found[str(node)].items() if item["config_source"] in _BROKER_SOURCES}

    def features(self) -> dict[str, tuple[int, int]]:
        """Feature → (finalized level, highest level that this broker supports)."""
        answer = self._call(self._client.describe_features)
        # Of a broker that has just started, nothing is finalized yet (epoch -1).
        if not any("finalized" in item for item in answer.values()):
            raise KafkaError("describe_features: the broker does not say what is finalized")
        return {name: (item.get("finalized", (0, 0))[1], item.get("supported", (0, 0))[1]) for name, item in answer.items()}

    def raise_features(self, levels: Mapping[str, int]) -> None:
        """Raise finalized levels; there is no way back. Raises KafkaError."""
        answer = self._call(self._client.update_features, {name: (self._api.UpdateFeatureType.UPGRADE, level) for name, level in levels.items()},
                            timeout_ms=self._timeout_ms)
        bad = [f"{name}: {result}" for name, result in answer.items() if result != "OK"]
        if bad:
            raise KafkaError("update_features: " + "; ".join(bad))

    def log_dirs(self) -> list[dict[str, Any]]:
        """One entry {broker, path, error, total_bytes, usable_bytes, cordoned, future} per log directory of every broker that answers.

        `future`: partition → records that a copy on its way to this directory still lacks.
        """
        found = []
        for broker in self._call(self._client.describe_log_dirs, brokers=self._asked):
            for item in broker["log_dirs"]:
                future = {f"{topic['name']}-{part['partition_index']}": part["offset_lag"]
                          for topic in item.get("topics", []) for part in topic["partitions"] if part.get("is_future_key")}
                found.append({
                    "broker": broker["broker"], "path": item["log_dir"], "error": item["error_code"], "total_bytes": item.get("total_bytes", -1),
                    "usable_bytes": item.get("usable_bytes", -1), "cordoned": bool(item.get("is_cordoned", False)), "future": future,
                })
        return found

    def groups(self, topics: Mapping[str, Sequence[str]], since_ms: int) -> list[Group]:
        """The groups of `topics` (name → what it may read) as far as they exist, with their positions against what is older than
        `since_ms` (ms since 1970). A group reads those topics in which it keeps a position, of all that it may; but none of them that its members, as
        far as it has any, have left (a writer that fetches another topic now): that position stays where it was until Kafka forgets it."""
        from kafka.structs import TopicPartition

        known = {item["group_id"]: item for item in self._call(self._client.list_groups) if item["group_id"] in topics}
        if not known:
            return []
        committed = self._call(self._client.list_group_offsets, list(known))
        used = {name: {part.topic for part in committed.get(name, {})} & set(topics[name]) for name in known}
        wanted = sorted(set().union(*used.values()))
        described = self._describe_topics(wanted) if wanted else []
        parts = [TopicPartition(topic["name"], item["partition_index"]) for topic in described for item in topic["partitions"]]
        ends = self._call(self._client.list_partition_offsets, dict.fromkeys(parts, -1)) if parts else {}
        due = self._call(self._client.list_partition_offsets, dict.fromkeys(parts, since_ms)) if parts else {}

        def positions(name: str, begins: Mapping[Any, Any]) -> tuple[Position, ...]:
            return tuple(
                Position(part.topic, part.partition, committed[name][part].offset if part in committed[name] else -1, ends[part].offset,
                         due[part].offset, due[part].timestamp, begins[part].offset if part in begins else 0)
                for part in parts if part.topic in used[name])

        for name, topics_read in self._subscribed([name for name in known if any(one.late for one in positions(name, {}))]).items():
            used[name] &= topics_read
        late = {TopicPartition(one.topic, one.number) for name in known for one in positions(name, {}) if one.late}
        # Where a log begins is asked only where somebody seems to be late: what is gone, nobody can read.
        begins = self._call(self._client.list_partition_offsets, dict.fromkeys(sorted(late), -2)) if late else {}
        return [Group(name, item.get("group_state", ""), item.get("protocol_type", ""), positions(name, begins)) for name, item in sorted(known.items())]

    def _subscribed(self, groups: Sequence[str]) -> dict[str, set[str]]:
        """{group: topics that its members subscribed to}, of groups that have members who say so."""
        found: dict[str, set[str]] = {}
        for name, group in (self._call(self._client.describe_groups, groups) if groups else {}).items():
            for member in group["members"]:
                said = member["member_metadata"]
                if isinstance(said, dict):
                    found.setdefault(name, set()).update(said["topics"])
        return found

    def elect_preferred(self) -> None:
        """Give the leadership of every partition back to its first replica, as far as that is there."""
        answer = self._call(self._client.elect_leaders, 0, timeout_ms=self._timeout_ms, raise_errors=False)
        fine = {0, self._errors.PreferredLeaderNotAvailableError.errno, self._errors.ElectionNotNeededError.errno}
        codes = {part.error_code for item in answer.replica_election_results for part in item.partition_result} | {answer.error_code}
        if codes - fine:
            raise KafkaError("elect_leaders: " + ", ".join(sorted(self._errors.for_code(code).__name__ for code in codes - fine)))

    def broker_ids(self) -> list[int]:
        """Brokers that are there and not fenced."""
        return sorted(node for node, fenced in self.cluster()[1].items() if not fenced)

    def reauth_s(self) -> dict[int, float]:
        """{broker: seconds after which a session must show its credential again}; 0: never (KIP-368). Raises KafkaError."""
        key = "connections.max.reauth.ms"
        return {node: int(self.broker_config(node, [key]).get(key, "0")) / 1000 for node in self.broker_ids()}

    def topic_names(self) -> list[str]:
        """Every topic."""
        return sorted(self._call(self._client.list_topics))

    def group_names(self) -> list[str]:
        """Every group that a broker answers for."""
        return sorted(item["group_id"] for item in self._call(self._client.list_groups))

    def create_assigned(self, name: str, replicas: Mapping[int, Sequence[int]], config: Mapping[str, str]) -> None:
        """Create a topic whose replicas stand where they are told to, leader first, and wait for its leaders."""
        wanted = {name: {"assignments": {number: list(nodes) for number, nodes in replicas.items()}, "configs": dict(config)}}
        answer = self._call(self._client.create_topics, wanted, timeout_ms=self._timeout_ms, raise_errors=False)
        self._refused(name, ((item["name"], item["error_code"], item.get("error_message")) for item in answer["topics"]))
        self._call(self._client.wait_for_topics, [name], timeout_ms=self._timeout_ms)

    def leaders(self, name: str) -> dict[int, int]:
        """Partition → node that leads it."""
        return {item["partition_index"]: item["leader_id"] for topic in self._describe_topics([name]) for item in topic["partitions"]}

    def delete_topics(self, names: Sequence[str]) -> None:
        """Delete topics with all their records; one that is not there is gone already."""
        answer = self._call(self._client.delete_topics, list(names), timeout_ms=self._timeout_ms, raise_errors=False)
        unknown = self._errors.UnknownTopicOrPartitionError.errno
        self._refused("delete_topics", ((item["name"], item["error_code"], item.get("error_message")) for item in answer["topics"]
                                        if item["error_code"] != unknown))

    def delete_groups(self, names: Sequence[str]) -> None:
        """Delete groups with their positions. Raises KafkaError when one has members."""
        answer = self._call(self._client.delete_groups, list(names))
        bad = [f"{name}: {error}" for name, error in answer.items() if error not in ("OK", "GroupIdNotFoundError")]
        if bad:
            raise KafkaError("delete_groups: " + "; ".join(bad))

    # -- topics -----------------------------------------------------------------------------------------------------

    def topics(self, names: Sequence[str] | None = None) -> dict[str, Topic]:
        """What is there, of *names* or at all; `config` holds only what is set on the topic itself, `replication_factor` is that of the partition with the
        fewest replicas."""
        described = self._describe_topics(None if names is None else list(names))
        configs = self._configs("TOPIC", [topic["name"] for topic in described])
        return {
            topic["name"]: Topic(
                name=topic["name"], partitions=len(topic["partitions"]), replication_factor=min(len(p["replica_nodes"]) for p in topic["partitions"]),
                config={key: str(item["value"]) for key, item in configs[topic["name"]].items() if item["config_source"] == _TOPIC_SOURCE},
            )
            for topic in described
        }

    def create_topics(self, topics: Sequence[Topic], validate_only: bool = False) -> None:
        """Create, and wait until each has its leaders. *validate_only*: nothing is done, and only settings that the brokers refuse are an error."""
        wanted = {
            t.name: {"num_partitions": t.partitions, "replication_factor": t.replication_factor, "configs": dict(t.config)} for t in topics
        }
        answer = self._call(self._client.create_topics, wanted, timeout_ms=self._timeout_ms, raise_errors=False, validate_only=validate_only)
        counts = {self._errors.InvalidConfigurationError.errno} if validate_only else None
        self._refused("kafka_topics", ((item["name"], item["error_code"], item.get("error_message")) for item in answer["topics"]
                                       if counts is None or item["error_code"] in counts))
        if not validate_only:
            self._call(self._client.wait_for_topics, list(wanted), timeout_ms=self._timeout_ms)

    def grow_topics(self, partitions: Mapping[str, int]) -> None:
        """More partitions."""
        self._call(self._client.create_partitions, dict(partitions), timeout_ms=self._timeout_ms)

    def configure_topics(self, wanted: Mapping[str, Mapping[str, str]], reset: Mapping[str, Sequence[str]], validate_only: bool = False) -> None:
        """Set and reset topic-level settings, or say only whether that would be refused. Raises KafkaError with the broker's words: the library gives them
        back as an answer."""
        kind = self._api.ConfigResourceType["TOPIC"]
        for change, topics in ((self._client.alter_configs, wanted), (self._client.reset_configs, {name: dict.fromkeys(keys) for name, keys in reset.items()})):
            if topics:
                answer = self._call(change, [self._api.ConfigResource(kind, name, dict(values)) for name, values in topics.items()],
                                    incremental=True, raise_on_unknown=False, validate_only=validate_only)
                bad = [f"{name}: {result}" for found in answer.values() for name, result in found.items() if result != "OK"]
                if bad:
                    raise KafkaError("kafka_topics: " + "; ".join(bad))

    def _refused(self, what: str, results: Iterable[tuple[str, int, str | None]]) -> None:
        bad = [f"{name}: {message or self._errors.for_code(code).__name__}" for name, code, message in results if code]
        if bad:
            raise KafkaError(f"{what}: " + "; ".join(bad))

    # -- users ------------------------------------------------------------------------------------------------------

    def users(self) -> dict[str, dict[str, int]]:
        """User → mechanism → iterations."""
        answer = self._call(self._client.describe_user_scram_credentials)
        unsaid = [f"user {name}: {info['error']}" for name, info in sorted(answer.items()) if info["error"]]
        if unsaid:
            raise KafkaError("describe_user_scram_credentials: " + "; ".join(unsaid[:5]))
        return {
            name: {users.NUMBERS[int(item["mechanism"])]: item["iterations"] for item in info["credential_infos"]} for name, info in answer.items()
        }

    def _known(self, brokers: Iterable[Mapping[str, Any]]) -> tuple[dict[int, set[Login]], dict[int, str]]:
        """(broker → logins that it knows, broker → why it did not say): each live one asked by itself, which the library cannot."""
        limit_s = min(_ASK_S, self._timeout_ms / 1000.0)

        def ask(address: str) -> set[Login]:
            return {(name, mechanism) for name, found in self._links.ask(_place(address), users.describe, limit_s).items() for mechanism in found}

        live = {item["broker_id"]: f"{item['host']}:{item['port']}" for item in brokers if not item.get("is_fenced", False)}
        answers = at_once.ask(lambda node: ask(live[node]), live, _STEPS * limit_s)
        known = {node: answer for node, answer in answers.items() if not isinstance(answer, Exception)}
        silent = {node: str(answer) for node, answer in answers.items() if isinstance(answer, Exception)}
        return known, silent

    def lacking(self) -> set[Login]:
        """What some live broker does not know although another one does."""
        known, _silent = self._known(self._call(self._client.describe_cluster)["brokers"])
        return set().union(*lacking(known).values())

    def alter_users(self, upsert: Sequence[tuple[User, str]], delete: Sequence[tuple[str, str]]) -> None:
        """Write and remove SCRAM credentials; the password is salted here and never sent."""
        changes: list[Any] = [self._api.UserScramCredentialDeletion(name, _SCRAM[mechanism]) for name, mechanism in delete]
        changes += [self._api.UserScramCredentialUpsertion(user.name, _SCRAM[mechanism], user.password, iterations=user.iterations)
                    for user, mechanism in upsert]
        while changes:
            # Kafka refuses a request that alters one user twice: one change per user and round, in the order that was asked for.
            batch: dict[str, Any] = {}
            for change in changes:
                batch.setdefault(change.user, change)
            changes = [change for change in changes if batch[change.user] is not change]
            answer = self._call(self._client.alter_user_scram_credentials, list(batch.values()))
            bad = [f"{name}: {message}" for name, message in answer.items() if message]
            if bad:
                raise KafkaError("kafka_users: " + "; ".join(bad))

    # -- quotas: not in the library --------------------------------------------------------------------------------

    def quotas(self) -> quotas.Quotas:
        """User → key → value."""
        return self._raw(quotas.describe)

    def alter_quotas(self, changes: Sequence[tuple[str, str, float | None]]) -> None:
        """Set, and remove where the value is None."""
        self._raw(lambda stream: quotas.alter(stream, changes))

    def _raw(self, function: Any) -> Any:
        failed: list[str] = []
        for address in self._connection.bootstrap:
            try:
                return self._links.ask(_place(address), function, self._timeout_ms / 1000.0)
            except (scram.LoginError, OSError) as error:
                failed.append(f"{address}: {error}")
        raise Unreachable("client quotas: " + "; ".join(failed))

    # -- ACLs -------------------------------------------------------------------------------------------------------

    def _enum(self, name: str, value: str) -> Any:
        return getattr(self._api, name)[value.upper()]

    def acls(self) -> list[Acl]:
        """Every ACL of the cluster."""
        everything = self._api.ACLFilter(
            principal=None, host=None, operation=self._api.ACLOperation.ANY, permission_type=self._api.ACLPermissionType.ANY,
            resource_pattern=self._api.ResourcePatternFilter(self._api.ResourceType.ANY, None, self._api.ACLResourcePatternType.ANY),
        )
        found, _error = self._call(self._client.describe_acls, everything)
        return [
            Acl(principal=item.principal, resource_type=item.resource_pattern.resource_type.name.lower(),
                resource_name=item.resource_pattern.resource_name, operation=item.operation.name.lower(),
                pattern_type=item.resource_pattern.pattern_type.name.lower(), permission=item.permission_type.name.lower(), host=item.host)
            for item in found
        ]

    def _entry(self, acl: Acl, kind: str, pattern: str) -> Any:
        return getattr(self._api, kind)(
            principal=acl.principal, host=acl.host, operation=self._enum("ACLOperation", acl.operation),
            permission_type=self._enum("ACLPermissionType", acl.permission),
            resource_pattern=getattr(self._api, pattern)(
                self._enum("ResourceType", acl.resource_type), acl.resource_name, self._enum("ACLResourcePatternType", acl.pattern_type)),
        )

    def create_acls(self, acls: Sequence[Acl]) -> None:
        """Add entries. Raises KafkaError naming those that are refused; the others are there then."""
        entries = [self._entry(acl, "ACL", "ResourcePattern") for acl in acls]
        answer = self._call(self._client.create_acls, entries)
        if answer["failed"]:
            # The library says which went well, and of the others only the errors.
            refused = [str(acl) for acl, entry in zip(acls, entries) if not any(entry is one for one in answer["succeeded"])]
            raise KafkaError("create_acls: " + ", ".join(f"{acl}: {error.__name__}" for acl, error in zip(refused, answer["failed"])))

    def delete_acls(self, acls: Sequence[Acl]) -> None:
        """Remove exactly these entries."""
        answer = self._call(self._client.delete_acls, [self._entry(acl, "ACLFilter", "ResourcePatternFilter") for acl in acls])
        bad = [error.__name__ for _filter, _found, error in answer if error is not self._errors.NoError]
        if bad:
            raise KafkaError("delete_acls: " + ", ".join(bad))


class Pipe:
    """An idempotent producer with acks=all and a consumer that reads the same partitions from their beginning, as one group.

    Raises Unreachable when no broker answers within `timeout_s`.
    """

    def __init__(self, connection: Connection, topic: str, partitions: Sequence[int], timeout_s: float) -> None:
        activate()
        import kafka
        import kafka.errors
        import kafka.structs

        logging.getLogger("kafka").setLevel(logging.CRITICAL)
        self._errors = kafka.errors
        self._topic = topic
        self._limit_s = timeout_s
        limit_ms = max(1000, int(timeout_s * 1000))
        shared = {
            "bootstrap_servers": list(connection.bootstrap), "client_id": "hnai-canary", "security_protocol": "SSL",
            "ssl_context": _context(connection.links()), "request_timeout_ms": limit_ms, "reconnect_backoff_max_ms": 500, "bootstrap_timeout_ms": limit_ms,
        }
        producer: Any = None
        try:
            producer = kafka.KafkaProducer(**shared, acks="all", enable_idempotence=True, linger_ms=0, max_block_ms=limit_ms,
                                           delivery_timeout_ms=limit_ms + 100)
            consumer = kafka.KafkaConsumer(**shared, group_id=topic, enable_auto_commit=False, auto_offset_reset="earliest",
                                           fetch_max_wait_ms=50)
            consumer.assign([kafka.structs.TopicPartition(topic, number) for number in partitions])
        except kafka.errors.KafkaError as error:
            if producer is not None:
                producer.close(timeout=1)
            raise Unreachable(f"{', '.join(connection.bootstrap)}: {error}") from error
        self._producer, self._consumer = producer, consumer

    def send(self, partition: int, value: bytes, done: Any) -> None:
        """Send; `done(error or None)` is called, maybe from another thread. Raises KafkaError."""
        try:
            future = self._producer.send(self._topic, value=value, partition=partition)
        except self._errors.KafkaError as error:
            raise KafkaError(f"send: {error}") from error
        future.add_callback(lambda _metadata: done(None))
        future.add_errback(done)

    def poll(self, limit_s: float) -> list[tuple[int, bytes]]:
        """What arrived, [(partition, value)] in order. Raises KafkaError."""
        try:
            found = self._consumer.poll(timeout_ms=max(1, int(limit_s * 1000)))
        except self._errors.KafkaError as error:
            raise KafkaError(f"poll: {error}") from error
        return [(record.partition, record.value) for records in found.values() for record in records]

    def commit(self) -> None:
        """Store the position, and wait for it. Raises KafkaError."""
        try:
            self._consumer.commit()
        except self._errors.KafkaError as error:
            raise KafkaError(f"commit: {error}") from error

    def close(self) -> None:
        """Leave the group and let go."""
        self._consumer.close(autocommit=False)
        self._producer.close(timeout=2)
