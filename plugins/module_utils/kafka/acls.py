# SPDX-License-Identifier: Apache-2.0
"""ACLs as data: exactly the declared set is in the cluster, and none of it opens a channel back to the plant (I13).

I13: no identity of level 3 or below may read any topic; it has Write and Describe on its own topics and nothing else; a topic is
written by one level. The same law stands in the site's validation; here it is the last door, whatever called the module.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from .topics import Topic

RESOURCE_TYPES = ("topic", "group", "cluster", "transactional_id", "delegation_token", "user")
PATTERN_TYPES = ("literal", "prefixed")
OPERATIONS = ("all", "read", "write", "create", "delete", "alter", "describe", "cluster_action", "describe_configs", "alter_configs",
              "idempotent_write", "create_tokens", "describe_tokens")
PERMISSIONS = ("allow", "deny")
#: The lowest level that may read. Below it an identity can only put records in.
FIRST_READING_LEVEL = 3.5
_WRITER_OPERATIONS = ("write", "describe")
_ADMIN_OPERATIONS = ("all", "alter", "alter_configs", "cluster_action", "create_tokens", "delete")


class AclError(ValueError):
    """A malformed ACL; the text names entry, key and remedy."""


@dataclass(frozen=True, order=True)
class Acl:
    """One access control entry, in lower-case words. `principal` has its type: User:flink."""

    principal: str
    resource_type: str
    resource_name: str
    operation: str
    pattern_type: str = "literal"
    permission: str = "allow"
    host: str = "*"

    def __str__(self) -> str:
        place = "" if self.host == "*" else f" from {self.host}"
        return f"acl {self.permission} {self.principal} {self.operation} on {self.resource_type} {self.pattern_type} {self.resource_name}{place}"


@dataclass
class Plan:
    """What to do."""

    create: list[Acl] = field(default_factory=list)
    delete: list[Acl] = field(default_factory=list)

    @property
    def changed(self) -> bool:
        """Whether anything is to be done."""
        return bool(self.create or self.delete)


def snake(word: str) -> str:
    """Kafka's word in lower case: IdempotentWrite → idempotent_write.

    >>> snake("IdempotentWrite"), snake("Write"), snake("describe_configs")
    ('idempotent_write', 'write', 'describe_configs')
    """
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", word).lower()


def parse(entries: Iterable[Mapping[str, str]], where: str) -> list[Acl]:
    """ACLs from their data {principal, resource_type, name, operation, pattern_type, permission, host}, words in any case.

    `where`: the variable they stand in, for messages. Raises AclError.
    """
    found: list[Acl] = []
    for index, entry in enumerate(entries):
        words = {key: str(value) for key, value in entry.items() if value is not None}
        acl = Acl(
            principal=words["principal"], resource_type=snake(words["resource_type"]), resource_name=words["name"],
            operation=snake(words["operation"]), pattern_type=snake(words.get("pattern_type", "literal")),
            permission=snake(words.get("permission", "allow")), host=words.get("host", "*"),
        )
        for key, allowed in (("resource_type", RESOURCE_TYPES), ("pattern_type", PATTERN_TYPES), ("operation", OPERATIONS), ("permission", PERMISSIONS)):
            if getattr(acl, key) not in allowed:
                raise AclError(f"{where}[{index}].{key}: {getattr(acl, key)!r}; use one of {', '.join(allowed)}")
        if not acl.principal.startswith("User:") or len(acl.principal) == len("User:"):
            raise AclError(f"{where}[{index}].principal: {acl.principal!r}; write User:<name>")
        if not acl.resource_name:
            raise AclError(f"{where}[{index}].name: is empty; write a name")
        found.append(acl)
    return found


def _covers(acl: Acl, topic: str) -> bool:
    if acl.resource_name == "*" and acl.pattern_type == "literal":
        return True
    return topic.startswith(acl.resource_name) if acl.pattern_type == "prefixed" else topic == acl.resource_name


def refused(acls: Iterable[Acl], levels: Mapping[str, float], topics: Sequence[Topic], supers: Iterable[str] = ()) -> list[str]:
    """Why this set breaks I13; [] if it does not. `levels`: name of the principal (without User:) → Purdue level it comes from."""
    problems: list[str] = []
    privileged = {f"User:{name}" for name in supers}
    for acl in acls:
        name = acl.principal[len("User:"):]
        if acl.permission == "deny":
            continue
        if acl.principal in privileged:
            problems.append(f"{acl}: the brokers' own identity needs no ACL; remove it")
            continue
        if name == "*":
            problems.append(f"{acl}: would hold for every identity, also for those of level 3 and below; name a principal")
            continue
        level = levels.get(name)
        if level is None:
            problems.append(f"{acl}: nobody knows which level this principal comes from; declare it in a contract's connects, "
                            "or add level to its entry in kafka_extra_acls")
            continue
        if (acl.resource_type, acl.operation) == ("cluster", "idempotent_write"):
            continue  # Numbers a producer's batches; gives no access to anything.
        if acl.operation in _ADMIN_OPERATIONS or acl.resource_type in ("cluster", "delegation_token", "user"):
            problems.append(f"{acl}: administration is the brokers' own identity's; remove it")
            continue
        delivers = (acl.resource_type, acl.pattern_type) == ("topic", "literal") and acl.operation in _WRITER_OPERATIONS and acl.resource_name != "*"
        if level < FIRST_READING_LEVEL and not delivers:
            problems.append(f"{acl}: an identity of level {level:g} has write and describe on topics by their full name, nothing else; remove it")
            continue
        if acl.resource_type == "topic" and acl.operation == "write":
            others = sorted(t.name for t in topics if _covers(acl, t.name) and t.owner_level != level)
            if others:
                owners = ", ".join(f"{t.name} (level {t.owner_level:g})" for t in topics if t.name in others)
                problems.append(f"{acl}: an identity of level {level:g} would write a topic of another level: {owners}; a topic has one owner")
            elif not any(_covers(acl, t.name) for t in topics):
                problems.append(f"{acl}: no declared topic matches, so it has no owner; declare it in kafka_topics")
    return problems


def plan(declared: Iterable[Acl], present: Iterable[Acl]) -> Plan:
    """The difference, both ways: what is not declared goes."""
    want, have = set(declared), set(present)
    return Plan(create=sorted(want - have), delete=sorted(have - want))


def readers_below(acls: Iterable[Acl], levels: Mapping[str, float]) -> list[str]:
    """Allowed entries by which an identity of level 3 or below, or an unknown or any identity, could read a topic (evidence for I13)."""
    return sorted(
        str(acl) for acl in acls
        if acl.permission == "allow" and acl.resource_type in ("topic", "group") and acl.operation in ("read", "all")
        and levels.get(acl.principal[len("User:"):], 0.0) < FIRST_READING_LEVEL
    )
