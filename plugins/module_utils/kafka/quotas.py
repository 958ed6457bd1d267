# SPDX-License-Identifier: Apache-2.0
"""Quotas of SCRAM users as data: exactly the declared ones are in the cluster.

A quota of a user's client, of a client whoever it is, or of an address is declared nowhere, and goes like any other that is not: Kafka takes the one
that says most, and the user's own would count for nothing.

The client library has no such request, so the two are spoken here. Sources: DescribeClientQuotas v0, AlterClientQuotas v0 (KIP-546).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import quote, unquote

from .scram import LoginError, Stream, call
from .state import KafkaError
from .wire import Reader, text

_DESCRIBE, _ALTER = 48, 49
#: Bytes per second, per broker; percent of the request threads, per broker; partition changes per second, per cluster.
KEYS = ("producer_byte_rate", "consumer_byte_rate", "request_percentage", "controller_mutation_rate")
#: How Kafka's own tools name the quota of every user that has none of its own.
DEFAULT = "<default>"

#: Kind (user, client-id, ip) and name of each part; None is the default of its kind.
Entity = Sequence[tuple[str, "str | None"]]
#: user, or text of another entity → key → value
Quotas = dict[str, dict[str, float]]


def text_of(entity: Entity) -> str:
    """A user's own name; else each kind with its name.

    >>> text_of([("user", "flink")]), text_of([("user", "flink"), ("client-id", None)]), text_of([("ip", "10.0.0.1")])
    ('flink', 'user=flink,client-id=<default>', 'ip=10.0.0.1')
    """
    names = {kind: DEFAULT if name is None else name for kind, name in entity}
    if names.keys() == {"user"} and "=" not in names["user"]:
        return names["user"]
    return ",".join(f"{kind}={DEFAULT if name is None else quote(name, safe='')}" for kind, name in entity)


def entity_of(text: str) -> Entity:
    """The inverse of `text_of`."""
    pairs = (part.partition("=")[::2] for part in (text if "=" in text else f"user={text}").split(","))
    return [(kind, None if name == DEFAULT else unquote(name)) for kind, name in pairs]


@dataclass
class Plan:
    """What to do: (user, key, value or None for none)."""

    changes: list[tuple[str, str, float | None]] = field(default_factory=list)
    before: list[str] = field(default_factory=list)
    after: list[str] = field(default_factory=list)

    @property
    def changed(self) -> bool:
        """Whether anything is to be done."""
        return bool(self.changes)


def check(declared: Mapping[str, Mapping[str, float]], users: Iterable[str], supers: Iterable[str]) -> list[str]:
    """What is wrong with the declaration, each with its key and remedy."""
    problems: list[str] = []
    for user, values in declared.items():
        where = f"kafka_quotas[{user}]"
        if user in set(supers):
            problems.append(f"{where}: is a broker, whose replication it would slow down; remove it")
        elif user not in (DEFAULT, *users):
            problems.append(f"{where}: there is no such user; declare it in a contract's connects, or write {DEFAULT}")
        for key, value in values.items():
            if key not in KEYS:
                problems.append(f"{where}.{key}: use {', '.join(KEYS)}")
            elif not value > 0:
                problems.append(f"{where}.{key}: {value:g} would stop the client; give more than 0, or remove it")
    return problems


def of_pairs(declared: Mapping[str, Mapping[str, float]], pairs: Iterable[tuple[str, str]]) -> Quotas:
    """The declaration, in which both names of a pair have the quotas of either: they take turns in rotations."""
    found = {str(user): {str(key): float(value) for key, value in values.items()} for user, values in declared.items()}
    for pair in pairs:
        for one, other in (pair, pair[::-1]):
            if one in found:
                found.setdefault(other, found[one])
    return found


def differences(declared: Mapping[str, Mapping[str, float]], present: Mapping[str, Mapping[str, float]]) -> list[str]:
    """In what the quotas that are there are not as declared, each as text."""
    found = []
    for user, key, want in plan(declared, present).changes:
        have = present.get(user, {}).get(key)
        found.append(f"quota {user} {key} " + (f"{have:.15g}, which nobody declared" if want is None else
                                               f"{'not set' if have is None else f'{have:.15g}'} instead of {want:.15g}"))
    return found


def plan(declared: Mapping[str, Mapping[str, float]], present: Mapping[str, Mapping[str, float]]) -> Plan:
    """The difference, both ways: what is not declared goes."""
    result = Plan()
    for user in sorted({*declared, *present}):
        want, have = declared.get(user, {}), present.get(user, {})
        for key in sorted({*want, *have}):
            if want.get(key) == have.get(key):
                continue
            result.changes.append((user, key, want.get(key)))
            if key in have:
                result.before.append(f"quota {user} {key}={have[key]:.15g}")
            if key in want:
                result.after.append(f"quota {user} {key}={want[key]:.15g}")
    return result


def describe(stream: Stream) -> Quotas:
    """Every quota. Raises KafkaError; LoginError when the answer makes no sense."""
    # No part is asked for, and none is excluded.
    body = struct.pack(">i", 0) + b"\x00"
    try:
        reader = Reader(call(stream, _DESCRIBE, 0, 1, body))
        reader.number(">i")
        code, message = reader.number(">h"), reader.text()
        if code:
            raise KafkaError(f"describe_client_quotas: error {code} {message or ''}".rstrip())
        found: Quotas = {}
        for _entry in range(max(0, reader.number(">i"))):
            entity = [(reader.text() or "", reader.text()) for _part in range(reader.number(">i"))]
            values = {}
            for _value in range(reader.number(">i")):
                key = reader.text() or ""
                values[key] = reader.double()
            found[text_of(entity)] = values
        return found
    except (IndexError, UnicodeDecodeError) as error:
        raise LoginError("the answer to DescribeClientQuotas is malformed") from error


def alter(stream: Stream, changes: Iterable[tuple[str, str, float | None]]) -> None:
    """Set and remove. Raises KafkaError naming the users that were refused."""
    by_user: dict[str, list[tuple[str, float | None]]] = {}
    for user, key, value in changes:
        by_user.setdefault(user, []).append((key, value))
    body = struct.pack(">i", len(by_user))
    for user, ops in by_user.items():
        entity = entity_of(user)
        body += struct.pack(">i", len(entity)) + b"".join(text(kind) + text(name) for kind, name in entity) + struct.pack(">i", len(ops))
        for key, value in ops:
            body += text(key) + struct.pack(">db", value if value is not None else 0.0, value is None)
    body += b"\x00"
    try:
        reader = Reader(call(stream, _ALTER, 0, 2, body))
        reader.number(">i")
        bad = []
        for _entry in range(reader.number(">i")):
            code, message = reader.number(">h"), reader.text()
            entity = [(reader.text() or "", reader.text()) for _part in range(reader.number(">i"))]
            if code:
                bad.append(f"{text_of(entity)}: {message or code}")
    except (IndexError, UnicodeDecodeError) as error:
        raise LoginError("the answer to AlterClientQuotas is malformed") from error
    if bad:
        raise KafkaError("kafka_quotas: " + "; ".join(bad))
