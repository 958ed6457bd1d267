#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
# Apache-2.0 goes together with Ansible's own licence, the GNU General Public License version 3.
"""Module side of kafka_converge."""

from __future__ import annotations

DOCUMENTATION = r"""
module: kafka_converge
short_description: Topics, SCRAM users and ACLs of a Kafka cluster as data
version_added: "0.1.0"
author: hnai.platform maintainers (@hnai)
description:
  - Waits until the cluster can be asked, then makes its topics, users and ACLs what is declared. Run once per cluster, on any broker.
  - Topics are created, grown and configured; a topic-level setting that is not declared is reset. Topics that are not declared are left alone.
    Shrinking and another replication factor are refused, with the remedy.
  - Whether a user's password already works is found out by logging in with it, so nothing is written that is right already. Mechanisms
    that a declared user has besides are left alone (the other half of a rotation). Users that are not declared are removed unless
    O(prune_users=false).
  - ACLs are exactly O(acls) afterwards. A set that would open a way back to the plant is refused before anything is touched. Identities of level 3
    and below have write and describe on topics by their full name and nothing else; a topic is written by the level that owns it
    (invariant I13).
options:
  topics:
    description: Declared topics.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Name, from lower-case letters, digits, dots and hyphens.
        type: str
        required: true
      partitions:
        description: Number of partitions.
        type: int
        required: true
      replication_factor:
        description: Replicas of each partition.
        type: int
        required: true
      owner_level:
        description: The only Purdue level that may write it.
        type: float
        required: true
      config:
        description: Topic-level settings.
        type: dict
        default: {}
  users:
    description: Declared SCRAM users.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: User name, which is the principal.
        type: str
        required: true
      password:
        description: Password.
        type: str
        required: true
      mechanisms:
        description: Mechanisms that must accept the password.
        type: list
        elements: str
        choices: [SCRAM-SHA-256, SCRAM-SHA-512]
        default: [SCRAM-SHA-512]
      iterations:
        description: Iterations of the salted hash, 8192 to 16384.
        type: int
        default: 8192
      twin:
        description: The other user of its pair, which takes turns with it in rotations. It is left alone, and has the same quotas.
        type: str
        default: ""
  acls:
    description: Declared ACLs, as P(hnai.platform.kafka_acls#filter) derives them from the approved conduits.
    type: list
    elements: dict
    default: []
    suboptions:
      principal:
        description: As C(User:flink).
        type: str
        required: true
      resource_type:
        description: Kind of resource.
        type: str
        required: true
      name:
        description: Its name or prefix.
        type: str
        required: true
      pattern_type:
        description: How the name matches, V(literal) or V(prefixed).
        type: str
        default: literal
      operation:
        description: What is allowed, as C(Write) or C(write).
        type: str
        required: true
      permission:
        description: V(allow) or V(deny).
        type: str
        default: allow
      host:
        description: Address of the client, V(*) for any.
        type: str
        default: "*"
  quotas:
    description:
      - Quotas by user, C(<default>) for every user without its own. Keys are C(producer_byte_rate) and C(consumer_byte_rate) (bytes per second and broker),
        C(request_percentage) and C(controller_mutation_rate). What is not declared is removed, also what is set for a client id or an address.
    type: dict
    default: {}
  principal_levels:
    description: Purdue level of the zone that each principal comes from.
    type: dict
    default: {}
  super_users:
    description: Names of the brokers' own principals.
    type: list
    elements: str
    required: true
  prune_users:
    description: Whether SCRAM users that are not declared are removed.
    type: bool
    default: true
  login_address:
    description: C(host:port) of a SCRAM listener of this host, where passwords are tried.
    type: str
    required: true
  timeout:
    description: Seconds to wait for a cluster that can be asked, and again for it to take over what was changed.
    type: float
    default: 120.0
extends_documentation_fragment:
  - hnai.platform.kafka
attributes:
  check_mode:
    description: Predicts, and fails for a setting of a topic that the brokers would refuse; a cluster that is not there yet counts as empty.
    support: full
  diff_mode:
    description: One line per topic, credential and ACL; passwords never appear.
    support: full
"""

EXAMPLES = r"""
- name: Converge topics, users and ACLs
  hnai.platform.kafka_converge:
    bootstrap: [kafka1:9091, kafka2:9091, kafka3:9091]
    login_address: kafka1:9094
    super_users: [kafka1, kafka2, kafka3]
    topics:
      - {name: ot.raw, partitions: 3, replication_factor: 3, owner_level: 3}
    users:
      - {name: telegraf-shipper, password: "{{ __kafka_passwords['telegraf-shipper'] }}"}
    principal_levels: {telegraf-shipper: 3}
    acls:
      - {principal: "User:telegraf-shipper", resource_type: topic, name: ot.raw, operation: write}
      - {principal: "User:telegraf-shipper", resource_type: topic, name: ot.raw, operation: describe}
  run_once: true
"""

RETURN = r"""
created_topics:
  description: Topics that were created.
  returned: always
  type: list
  elements: str
changed_topics:
  description: Topics that were grown or configured.
  returned: always
  type: list
  elements: str
foreign:
  description: Topics, settings of a broker that were made in the cluster and hold over its file, and credentials of declared users under another mechanism than
    the declared one (a rotation that has not ended leaves one). They are named by a warning and left alone.
  returned: always
  type: list
  elements: str
unmanaged_topics:
  description: Topics that nobody declared; they were left alone.
  returned: always
  type: list
  elements: str
changed_users:
  description: Credentials that were written or removed, as C(name mechanism).
  returned: always
  type: list
  elements: str
changed_quotas:
  description: Users whose quotas were set or removed.
  returned: always
  type: list
  elements: str
created_acls:
  description: ACLs that were added.
  returned: always
  type: list
  elements: str
deleted_acls:
  description: ACLs that were removed.
  returned: always
  type: list
  elements: str
"""

import ssl
import time
from collections.abc import Callable
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hnai.platform.plugins.module_utils.kafka import acls, gate, quotas, scram, site, topics
from ansible_collections.hnai.platform.plugins.module_utils.kafka.adapter import KAFKA_ARGS, Admin, Connection
from ansible_collections.hnai.platform.plugins.module_utils.kafka.state import KafkaError, Snapshot, Unreachable
from ansible_collections.hnai.platform.plugins.module_utils.kafka.users import User
from ansible_collections.hnai.platform.plugins.module_utils.probe_env import ProbeMissing


def declared(given: dict[str, Any]) -> site.Declared:
    """The declaration from the arguments. Raises AclError."""
    return site.Declared(
        topics=topics.parse(given["topics"]),
        users=tuple(User(name=u["name"], password=u["password"], mechanisms=tuple(u["mechanisms"]), iterations=u["iterations"],
                         twin=u["twin"]) for u in given["users"]),
        acls=tuple(acls.parse(given["acls"], "acls")),
        levels={str(name): float(level) for name, level in given["principal_levels"].items()},
        supers=tuple(given["super_users"]), brokers=len(given["super_users"]), prune=given["prune_users"],
        quotas=quotas.of_pairs(given["quotas"], ((user["name"], user["twin"]) for user in given["users"] if user["twin"])),
    )


def login_test(given: dict[str, Any]) -> Callable[[User, str], bool]:
    """works(user, mechanism): a login on this host's own listener. Raises KafkaError when it says neither yes nor no."""
    host, _, port = given["login_address"].rpartition(":")
    context = scram.tls_context(given["ca_file"])

    def works(user: User, mechanism: str) -> bool:
        try:
            return scram.login((host, int(port)), context, mechanism, user.name, user.password, 10.0)
        except scram.LoginError as error:
            raise KafkaError(f"user {user.name}: whether its password works cannot be told: {error}") from error

    return works


def ready(connection: Connection, brokers: int, timeout_s: float) -> None:
    """Wait for a quorum and for so many brokers. Raises Unreachable."""

    def look(limit_s: float) -> Snapshot:
        with Admin(connection, limit_s) as admin:
            return admin.snapshot()

    def judge(snapshot: Snapshot | None) -> list[str]:
        if snapshot is None:
            return ["no broker answers"]
        if snapshot.quorum.leader_id < 0:
            return ["the metadata quorum has no leader"]
        live = len(snapshot.live())
        return [f"{live} brokers are there, the declared topics need {brokers}"] if live < brokers else []

    _snapshot, reasons, waited = gate.wait_until(look, judge, timeout_s, time.monotonic, time.sleep)
    if reasons:
        raise Unreachable(f"after {waited:.0f} s: {'; '.join(reasons)}; look at 'journalctl -u hnai-kafka' on the brokers")


def converge(module: AnsibleModule, want: site.Declared) -> tuple[site.Outcome, list[str]]:
    """Plan and, outside check mode, apply and wait; what nobody declared."""
    given = module.params
    connection = Connection.from_params(given)
    if module.check_mode:
        try:
            works = login_test(given)
            with Admin(connection, 5.0) as admin:
                outcome, foreign = site.plan(want, admin, works), site.foreign(want, admin)
                site.rehearse(outcome, admin)
                return outcome, foreign
        except (ProbeMissing, Unreachable, OSError, ssl.SSLError) as error:
            module.warn(f"no cluster to compare with, everything counts as new: {error}")
            return site.plan(want, site.Empty(), lambda user, mechanism: False), []
    ready(connection, 1, given["timeout"])
    works = login_test(given)
    with Admin(connection, 30.0) as admin:
        outcome, foreign = site.plan(want, admin, works), site.foreign(want, admin)
        site.rehearse(outcome, admin)
        if outcome.topics.create:
            # Only a new topic needs all its brokers; users and ACLs are converged also while one is away.
            ready(connection, max(topic.replication_factor for topic in outcome.topics.create), given["timeout"])
        if outcome.changed:
            site.apply(outcome, admin)
            site.settle(want, admin, works, given["timeout"], time.monotonic, time.sleep)
    return outcome, foreign


def main() -> None:
    """Reads the arguments, converges, reports."""
    text = {"type": "str", "required": True}
    module = AnsibleModule(
        argument_spec={
            "topics": {"type": "list", "elements": "dict", "default": [], "options": {
                "name": text, "partitions": {"type": "int", "required": True}, "replication_factor": {"type": "int", "required": True},
                "owner_level": {"type": "float", "required": True}, "config": {"type": "dict", "default": {}}}},
            "users": {"type": "list", "elements": "dict", "default": [], "options": {
                "name": text, "password": {"type": "str", "required": True, "no_log": True},
                "mechanisms": {"type": "list", "elements": "str", "choices": list(scram.MECHANISMS), "default": ["SCRAM-SHA-512"]},
                "iterations": {"type": "int", "default": 8192}, "twin": {"type": "str", "default": ""}}},
            "acls": {"type": "list", "elements": "dict", "default": [], "options": {
                "principal": text, "resource_type": text, "name": text, "operation": text, "pattern_type": {"type": "str", "default": "literal"},
                "permission": {"type": "str", "default": "allow"}, "host": {"type": "str", "default": "*"}}},
            "quotas": {"type": "dict", "default": {}},
            "principal_levels": {"type": "dict", "default": {}},
            "super_users": {"type": "list", "elements": "str", "required": True},
            "prune_users": {"type": "bool", "default": True},
            "login_address": text,
            "timeout": {"type": "float", "default": 120.0},
            **KAFKA_ARGS,
        },
        supports_check_mode=True,
    )
    try:
        want = declared(module.params)
        problems = want.problems()
        if problems:
            module.fail_json(msg="the declaration is refused, nothing was touched:\n" + "\n".join(problems), problems=problems)
        outcome, foreign = converge(module, want)
    except (KafkaError, ProbeMissing, acls.AclError, OSError) as error:
        module.fail_json(msg=str(error))
    for sentence in foreign:
        module.warn(f"Kafka: {sentence}: nobody declared it, it is left alone")
    diff = {"before": "".join(line + "\n" for line in outcome.before), "after": "".join(line + "\n" for line in outcome.after),
            "before_header": "cluster", "after_header": "cluster"}
    module.exit_json(
        changed=outcome.changed, created_topics=[t.name for t in outcome.topics.create], unmanaged_topics=outcome.topics.unmanaged,
        changed_topics=sorted({*outcome.topics.grow, *outcome.topics.set_config, *outcome.topics.reset_config}),
        changed_users=sorted({f"{u.name} {m}" for u, m in outcome.users.upsert} | {f"{name} {m}" for name, m in outcome.users.delete}),
        changed_quotas=sorted({user for user, _key, _value in outcome.quotas.changes}),
        foreign=foreign,
        created_acls=[str(a) for a in outcome.acls.create], deleted_acls=[str(a) for a in outcome.acls.delete],
        **({"diff": diff} if module._diff else {}),
    )


if __name__ == "__main__":
    main()
