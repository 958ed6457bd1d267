# SPDX-License-Identifier: Apache-2.0
"""Quotas of SCRAM users as data: exactly the declared ones are in the cluster.

The client library has no such request, so the two are spoken here. Sources: DescribeClientQuotas v0, AlterClientQuotas v0 (KIP-546).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from .scram import LoginError, Stream, call
from .state import KafkaError
from .wire import Reader, text

_DESCRIBE, _ALTER = 48, 49
_ANY = 2
#: Bytes per second, per broker; percent of the request threads, per broker; partition changes per second, per cluster.
KEYS = ("producer_byte_rate", "consumer_byte_rate", "request_percentage", "controller_mutation_rate")
#: How Kafka's own tools name the quota of every user that has none of its own.
DEFAULT = "<default>"

#: user → key → value
Quotas = dict[str, dict[str, float]]


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
                result.before.append(f"quota {user} {key}={have[key]:g}")
            if key in want:
                result.after.append(f"quota {user} {key}={want[key]:g}")
    return result


def describe(stream: Stream) -> Quotas:
    """Every quota of a user. Raises KafkaError; LoginError when the answer makes no sense."""
    body = struct.pack(">i", 1) + text("user") + struct.pack(">b", _ANY) + text(None) + b"\x01"
    try:
        reader = Reader(call(stream, _DESCRIBE, 0, 1, body))
        reader.number(">i")
        code, message = reader.number(">h"), reader.text()
        if code:
            raise KafkaError(f"describe_client_quotas: error {code} {message or ''}".rstrip())
        found: Quotas = {}
        for _entry in range(max(0, reader.number(">i"))):
            names = [(reader.text(), reader.text()) for _part in range(reader.number(">i"))]
            values = {}
            for _value in range(reader.number(">i")):
                key = reader.text() or ""
                values[key] = reader.double()
            user = dict(names).get("user")
            found[DEFAULT if user is None else user] = values
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
        body += struct.pack(">i", 1) + text("user") + text(None if user == DEFAULT else user) + struct.pack(">i", len(ops))
        for key, value in ops:
            body += text(key) + struct.pack(">db", value if value is not None else 0.0, value is None)
    body += b"\x00"
    try:
        reader = Reader(call(stream, _ALTER, 0, 2, body))
        reader.number(">i")
        bad = []
        for _entry in range(reader.number(">i")):
            code, message = reader.number(">h"), reader.text()
            names = [(reader.text(), reader.text()) for _part in range(reader.number(">i"))]
            if code:
                bad.append(f"{dict(names).get('user') or DEFAULT}: {message or code}")
    except (IndexError, UnicodeDecodeError) as error:
        raise LoginError("the answer to AlterClientQuotas is malformed") from error
    if bad:
        raise KafkaError("kafka_quotas: " + "; ".join(bad))
