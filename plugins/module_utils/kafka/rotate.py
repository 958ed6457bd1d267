# SPDX-License-Identifier: Apache-2.0
"""A SCRAM user's password as a target of rotation: Kafka keeps one credential per user and mechanism, so the new one lives under the other.

Or (`successor_pair`) a pair of users takes turns, for clients that cannot change the mechanism.

The principal stays the same, and with it every ACL. Measured on 4.3.1: a user with both mechanisms logs in with both; after the deletion of
one its next login is refused at once. A session that was opened with it lives on until `connections.max.reauth.ms`, then the broker ends it
(KIP-368), so consumers are restarted before the old one ends, and what else there may be ends by itself. No request ends somebody's session, and
a shorter time is no dynamic setting (a listener's own is taken, and does nothing), so after a compromise every connection to the listeners is cut
(`cut`): who knows the new password comes again, whoever knew the old one is refused.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from ..connections import established
from ..credentials import TWIN
from ..hostfiles import Completed
from ..openbao.rotation_target import CannotTell
from .acls import Acl
from .scram import LoginError
from .users import MIN_ITERATIONS, User

DEFAULT = "SCRAM-SHA-512"
OTHER = {"SCRAM-SHA-512": "SCRAM-SHA-256", "SCRAM-SHA-256": "SCRAM-SHA-512"}

Secret = Mapping[str, Any]
Login = Callable[[str, str, str, str], bool]
"""(broker, mechanism, user, password): accepted or refused. Raises LoginError."""


class Cluster(Protocol):
    """What is needed of it; adapter.Admin is one."""

    def users(self) -> dict[str, dict[str, int]]: ...

    def acls(self) -> Sequence[Acl]: ...

    def reauth_s(self) -> Mapping[int, float]: ...

    def alter_users(self, upsert: Sequence[tuple[User, str]], delete: Sequence[tuple[str, str]]) -> None: ...


def successor(secret: Secret, password: Callable[[], str]) -> dict[str, Any]:
    """The next value: another password, under the other mechanism."""
    return dict(secret, password=password(), mechanism=OTHER[mechanism(secret)])


def successor_pair(secret: Secret, password: Callable[[], str]) -> dict[str, Any]:
    """The next value: the other user of the pair `x` and `x.b`, under the same mechanism.

    For clients to which the mechanism is more than a way to log in: it is in the name of Telegraf's disk buffer, and in the statements of
    Flink's jobs. Kafka's role gives both users the same rights.
    """
    name = str(secret["username"])
    return dict(secret, username=name[: -len(TWIN)] if name.endswith(TWIN) else name + TWIN, password=password())


def password_of(text: str) -> str:
    """The password in a JAAS entry; any other text is one itself."""
    found = re.fullmatch(r'KafkaClient \{.* password="([^"]*)"; \};', text, re.DOTALL)
    return found.group(1) if found else text


def mechanism(secret: Secret) -> str:
    """The mechanism that a secret is for; before its first rotation it names none."""
    return str(secret.get("mechanism", DEFAULT))


def cut(run: Callable[[list[str]], Completed], ports: Sequence[int]) -> tuple[int, list[str]]:
    """(connections to these ports of this host that were ended, peers of those that the kernel let live). Raises HostError.

    The kernel needs INET_DIAG_DESTROY (Debian's has it); `ss -K` passes over in silence what it cannot end.
    """
    before = established(run, ports)
    established(run, ports, "-K")
    left = [peer for cookie, peer in established(run, ports).items() if cookie in before]
    return len(before) - len(left), sorted(left)


class ScramAdapter:
    """*brokers*: addresses (host:port) of the listener that the user's clients use; a credential is in force when all of them agree."""

    supports_overlap = True

    def __init__(
        self, cluster: Cluster, brokers: Sequence[str], login: Login, iterations: int = MIN_ITERATIONS, agree_s: float = 10.0,
        clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._cluster = cluster
        self._brokers = tuple(brokers)
        self._login = login
        self._iterations = iterations
        self._agree_s = agree_s
        self._clock = clock
        self._sleep = sleep
        #: Until when a session of somebody who is no consumer may live on, in seconds from now; None before `sessions` was asked.
        self.others_end_s: float | None = None

    def works(self, secret: Secret) -> bool:
        """All brokers accept, or all refuse. Metadata reaches them one after the other: mixed answers are asked again."""
        end = self._clock() + self._agree_s
        while True:
            try:
                answers = {
                    broker: self._login(broker, mechanism(secret), secret["username"], secret["password"]) for broker in self._brokers
                }
            except LoginError as error:
                raise CannotTell(str(error)) from error
            if len(set(answers.values())) == 1:
                return answers[self._brokers[0]]
            if self._clock() >= end:
                raise CannotTell("the brokers do not agree on %s: accepted by %s, refused by %s" % (
                    secret["username"], ", ".join(sorted(b for b, yes in answers.items() if yes)),
                    ", ".join(sorted(b for b, yes in answers.items() if not yes))))
            self._sleep(0.3)

    def put(self, secret: Secret) -> None:
        """Upsert under its mechanism."""
        self._cluster.alter_users([(User(secret["username"], secret["password"], (mechanism(secret),), self._iterations), mechanism(secret))], [])

    def drop(self, secret: Secret) -> None:
        """Delete the user's credential under its mechanism."""
        if mechanism(secret) in self._cluster.users().get(secret["username"], {}):
            self._cluster.alter_users([], [(secret["username"], mechanism(secret))])

    def same_rights(self, one: Secret, other: Secret) -> bool:
        """Whether both users have the same ACLs, and any: a login says nothing about them."""
        rights = [
            {replace(acl, principal="") for acl in self._cluster.acls() if acl.principal == "User:" + str(secret["username"])} for secret in (one, other)
        ]
        return bool(rights[0]) and rights[0] == rights[1]

    def shares_place(self, one: Secret, other: Secret) -> bool:
        """Same user, same mechanism."""
        return (one["username"], mechanism(one)) == (other["username"], mechanism(other))

    def wrong(self, secret: Secret) -> dict[str, Any]:
        """The same user and mechanism, another password."""
        return dict(secret, password=secrets.token_urlsafe(24))

    def sessions(self, secret: Secret) -> list[str]:
        """None by the word of the consumers, which were restarted after the publication; the broker does not tell what a session used.

        Any other ends when the broker asks it again (others_end_s); where a broker never does, it lives.
        """
        limits = self._cluster.reauth_s()
        self.others_end_s = max(limits.values(), default=0.0)
        return ["any of %s at broker %d: its connections.max.reauth.ms is 0" % (secret["username"], node) for node, s in sorted(limits.items()) if not s]
