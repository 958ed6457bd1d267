# SPDX-License-Identifier: Apache-2.0
"""SCRAM users as data.

Whether a password already works is observed by logging in with it (a salted hash cannot be compared), and only what does not work
is written. A mechanism that a declared user has beside the declared one is left alone: it is the other half of a rotation. So is a declared
user's twin.

The anchor. Up to 4.3.1 a broker that replays its metadata log into an empty image forgets every user of a mechanism when a removal is the first change of
that mechanism that it comes to: `ScramDelta.apply` takes the mechanism's map out of the image as soon as a removal leaves it empty, and what it adds
afterwards goes into a map that nobody holds. Until the next snapshot every rotated or removed user leaves such a record behind, and the broker that
restarts then refuses everybody (measured). It goes through the users in the order of a Java HashMap, so a user whose hash is 0, written before all others
and never removed, is always there first: the map is never empty. It has no rights, and a password that nobody keeps. (In a cluster that had users before
its anchor, one of them may share its place in the map and come first, until the next snapshot, an hour at most: S8 and the gate stop a roll then.)
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from .scram import MECHANISMS, LoginError, Stream, call
from .state import KafkaError, Login
from .wire import Reader

_DESCRIBE = 50

MIN_ITERATIONS = 8192
MAX_ITERATIONS = 16384  # Kafka's own upper limit (ScramMechanism).
#: The last letters make String.hashCode() 0.
ANCHOR = "hnai-anchor-wquozdw"
#: As the protocol counts them.
NUMBERS = {1: "SCRAM-SHA-256", 2: "SCRAM-SHA-512"}


@dataclass(frozen=True)
class User:
    """One declared user. The password never appears in a text."""

    name: str
    password: str = field(repr=False)
    mechanisms: tuple[str, ...] = ("SCRAM-SHA-512",)
    iterations: int = MIN_ITERATIONS
    #: The other user of the pair of which a rotation left this one in use.
    twin: str = ""


@dataclass
class Plan:
    """What to do: (user, mechanism) pairs."""

    upsert: list[tuple[User, str]] = field(default_factory=list)
    delete: list[tuple[str, str]] = field(default_factory=list)
    before: list[str] = field(default_factory=list)
    after: list[str] = field(default_factory=list)

    @property
    def changed(self) -> bool:
        """Whether anything is to be done."""
        return bool(self.upsert or self.delete)


def check(declared: Sequence[User], supers: Iterable[str]) -> list[str]:
    """What is wrong with the declaration, with key and remedy; never names a password."""
    problems: list[str] = []
    names = [user.name for user in declared]
    for user in declared:
        key = f"kafka_users[{user.name}]"
        if user.name in set(supers) or user.name in ("ANONYMOUS", "*", ""):
            problems.append(f"{key}.name: is the name of a broker, whose rights it would have; choose another")
        if user.name == ANCHOR:
            problems.append(f"{key}.name: is the anchor, which keeps the other users (module_utils/kafka/users.py); choose another")
        if not user.password:
            problems.append(f"{key}.password: is empty; OpenBao has no value at its path, run the openbao play")
        if not user.mechanisms or set(user.mechanisms) - set(MECHANISMS):
            problems.append(f"{key}.mechanisms: use {', '.join(MECHANISMS)}")
        if not MIN_ITERATIONS <= user.iterations <= MAX_ITERATIONS:
            problems.append(f"{key}.iterations: {user.iterations}; use {MIN_ITERATIONS} to {MAX_ITERATIONS}")
    problems += [f"kafka_users[{name}]: is there twice; remove one" for name in sorted({n for n in names if names.count(n) > 1})]
    return problems


def plan(
    declared: Sequence[User],
    present: Mapping[str, Mapping[str, int]],
    works: Callable[[User, str], bool],
    prune: bool = True,
    lacking: Collection[Login] = (),
) -> Plan:
    """The difference. `present`: user → mechanism → iterations. `works(user, mechanism)`: a login with the declared password succeeds.
    `lacking`: what some broker does not know although another one does."""
    result = Plan()
    for mechanism in sorted(set(MECHANISMS) - (set(present.get(ANCHOR, {})) - {mechanism for name, mechanism in lacking if name == ANCHOR})):
        result.upsert.append((User(ANCHOR, secrets.token_urlsafe(32)), mechanism))
        result.after.append(f"user {ANCHOR} {mechanism} (nobody's: a broker that restarts keeps the others by it)")
    for user in sorted(declared, key=lambda item: item.name):
        have = present.get(user.name, {})
        for mechanism in user.mechanisms:
            if mechanism not in have:
                result.after.append(f"user {user.name} {mechanism} iterations={user.iterations}")
            elif have[mechanism] != user.iterations:
                result.before.append(f"user {user.name} {mechanism} iterations={have[mechanism]}")
                result.after.append(f"user {user.name} {mechanism} iterations={user.iterations}")
            elif (user.name, mechanism) in lacking:
                result.before.append(f"user {user.name} {mechanism} (a broker does not know it)")
                result.after.append(f"user {user.name} {mechanism} iterations={user.iterations}")
            elif not works(user, mechanism):
                result.before.append(f"user {user.name} {mechanism} password=(another)")
                result.after.append(f"user {user.name} {mechanism} password=(as in OpenBao)")
            else:
                continue
            result.upsert.append((user, mechanism))
    if prune:
        for name in sorted(set(present) - {ANCHOR} - {name for user in declared for name in (user.name, user.twin)}):
            for mechanism in sorted(present[name]):
                result.delete.append((name, mechanism))
                result.before.append(f"user {name} {mechanism} iterations={present[name][mechanism]}")
    return result


def describe(stream: Stream) -> dict[str, dict[str, int]]:
    """User → mechanism → iterations, as the broker at the other end itself knows them (DescribeUserScramCredentials v0, KIP-554): the library asks
    any broker. Raises KafkaError; LoginError when the answer makes no sense."""
    # The header ends with its tags; null asks for every user; the body's tags.
    reader = Reader(call(stream, _DESCRIBE, 0, 1, b"\x00" + b"\x00" + b"\x00"))
    try:
        reader.tags()
        reader.number(">i")
        code, message = reader.number(">h"), reader.compact()
        if code:
            raise KafkaError(f"describe_user_scram_credentials: error {code} {message or ''}".rstrip())
        found: dict[str, dict[str, int]] = {}
        for _user in range(reader.varint() - 1):
            name, code, message = reader.compact() or "", reader.number(">h"), reader.compact()
            if code:
                raise KafkaError(f"describe_user_scram_credentials: user {name}: error {code} {message or ''}".rstrip())
            found[name] = {}
            for _mechanism in range(reader.varint() - 1):
                mechanism = NUMBERS[reader.number(">b")]
                found[name][mechanism] = reader.number(">i")
                reader.tags()
            reader.tags()
        return found
    except (LookupError, UnicodeDecodeError) as error:
        raise LoginError("the answer to DescribeUserScramCredentials is malformed") from error
