# SPDX-License-Identifier: Apache-2.0
"""What one identity may do on one listener, found out by asking for it; nothing is written and no record is read.

The brokers judge the right before they look at the request, so each request is one that cannot succeed: a batch with a wrong checksum,
an offset that is never reached, a member that does not exist, no setting. An authorisation error means denied, any other answer allowed.
Sources: Kafka protocol guide (Produce v3, Fetch v4, Metadata v4, Heartbeat v0, AlterConfigs v0), KafkaApis and KafkaErrors of 4.3.1.
"""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from ..verdict import Check, Report
from .acls import Acl
from .scram import LoginError, Stream, call, exchange
from .wire import text

_PRODUCE, _FETCH, _METADATA, _HEARTBEAT, _ALTER_CONFIGS = 0, 1, 3, 12, 33
#: ConfigResource.Type.
_BROKER = 4
#: TOPIC_, GROUP_ and CLUSTER_AUTHORIZATION_FAILED.
_DENIED = frozenset({29, 30, 31})
_NOT_THERE = 3
ALLOWED, DENIED, UNKNOWN = "allowed", "denied", "unknown"
#: An offset that no log reaches.
_FAR = 1 << 62
#: What may be done with a right: the worst first, because a text names few.
_WORST = ("alter_configs", "write", "read", "describe")
#: Rights that carry Describe with them (AclAuthorizer, KIP-11).
_DESCRIBING = ("read", "write", "delete", "alter", "describe", "all")


@dataclass(frozen=True, order=True)
class Rule:
    """One right: `resource` topic, group or cluster; `operation` write, read, describe or alter_configs."""

    resource: str
    name: str
    operation: str

    def __str__(self) -> str:
        return f"{self.operation} {self.resource} {self.name}".rstrip()


@dataclass(frozen=True)
class Identity:
    """Who logs in, where. `password` never appears in a text."""

    name: str
    password: str = field(repr=False)
    mechanism: str = "SCRAM-SHA-512"
    listener: str = ""
    port: int = 0


@dataclass(frozen=True)
class Result:
    """One right as declared and as found. `code`: the broker's error code, None where there was no answer."""

    rule: Rule
    expected: str
    actual: str
    code: int | None = None


def matrix(acls: Iterable[Acl], principal: str, topics: Sequence[str], groups: Sequence[str]) -> dict[Rule, str]:
    """Every right on every name → allowed or denied, as the declared ACLs say. Deny beats allow, as in Kafka. Left out is what hangs on the address
    that somebody asks from: here it is a broker's."""
    rules = [Rule("topic", topic, operation) for topic in topics for operation in ("write", "read", "describe")]
    rules += [Rule("group", group, "read") for group in groups]
    rules.append(Rule("cluster", "", "alter_configs"))
    own = [acl for acl in acls if acl.principal in (f"User:{principal}", "User:*")]
    anywhere = [acl for acl in own if acl.host == "*"]
    return {rule: ALLOWED if _granted(own, rule) else DENIED for rule in rules if _granted(own, rule) == _granted(anywhere, rule)}


def _granted(acls: Iterable[Acl], rule: Rule) -> bool:
    allowed = False
    for acl in acls:
        if acl.resource_type != rule.resource or not _names(acl, rule.name):
            continue
        if acl.permission == "deny" and acl.operation in (rule.operation, "all"):
            return False
        wanted = _DESCRIBING if rule.operation == "describe" else (rule.operation, "all")
        allowed = allowed or (acl.permission == "allow" and acl.operation in wanted)
    return allowed


def _names(acl: Acl, name: str) -> bool:
    if acl.resource_type == "cluster" or (acl.pattern_type == "literal" and acl.resource_name == "*"):
        return True
    return name.startswith(acl.resource_name) if acl.pattern_type == "prefixed" else name == acl.resource_name


# -- requests ---------------------------------------------------------------------------------------------------------


def _no_batch() -> bytes:
    """A record batch (v2, one empty record) whose checksum is wrong: a broker that lets it in refuses it as corrupt."""
    record = b"\x0c\x00\x00\x00\x01\x00\x00"
    inner = struct.pack(">hiqqqhii", 0, 0, 0, 0, -1, -1, -1, 1) + record
    return struct.pack(">qiibI", 0, 4 + 1 + 4 + len(inner), -1, 2, 0xDEADBEEF) + inner


def _request(rule: Rule) -> tuple[int, int, bytes, Callable[[bytes], int]]:
    """(key, version, body, where the error code stands in the answer)."""
    if rule.resource == "cluster":
        # No setting for all brokers, and only to be validated.
        body = struct.pack(">ib", 1, _BROKER) + text("") + struct.pack(">ib", 0, 1)
        return _ALTER_CONFIGS, 0, body, lambda answer: int(struct.unpack_from(">h", answer, 8)[0])
    if rule.resource == "group":
        return _HEARTBEAT, 0, text(rule.name) + struct.pack(">i", 1) + text("hnai-nobody"), lambda answer: int(struct.unpack_from(">h", answer)[0])
    topic = text(rule.name)
    if rule.operation == "describe":
        return _METADATA, 4, struct.pack(">i", 1) + topic + b"\x00", _metadata_error
    if rule.operation == "write":
        batch = _no_batch()
        body = struct.pack(">hhii", -1, -1, 3000, 1) + topic + struct.pack(">iii", 1, 0, len(batch)) + batch
        # topics: count, name, partitions: count, index, error
        return _PRODUCE, 3, body, lambda answer: int(struct.unpack_from(">h", answer, 4 + len(topic) + 8)[0])
    body = struct.pack(">iiiibi", -1, 0, 0, 1, 0, 1) + topic + struct.pack(">iiqi", 1, 0, _FAR, 1)
    return _FETCH, 4, body, lambda answer: int(struct.unpack_from(">h", answer, 4 + 4 + len(topic) + 8)[0])


def _metadata_error(answer: bytes) -> int:
    at = 4
    (brokers,) = struct.unpack_from(">i", answer, at)
    at += 4
    for _number in range(brokers):
        at += 4
        at += 2 + struct.unpack_from(">h", answer, at)[0] + 4
        at += 2 + max(0, struct.unpack_from(">h", answer, at)[0])
    at += 2 + max(0, struct.unpack_from(">h", answer, at)[0]) + 4
    (topics,) = struct.unpack_from(">i", answer, at)
    if topics != 1:
        raise LoginError(f"Metadata names {topics} topics instead of the one that was asked for")
    return int(struct.unpack_from(">h", answer, at + 4)[0])


def ask(stream: Stream, rule: Rule, correlation: int) -> tuple[str, int]:
    """(allowed, denied or unknown; error code). Raises LoginError, OSError, struct.error when there is no answer."""
    key, version, body, error_of = _request(rule)
    code = error_of(call(stream, key, version, correlation, body))
    if code in _DENIED:
        return DENIED, code
    # A topic that is not there is told only to those who may know.
    return (UNKNOWN if code == _NOT_THERE and rule.operation != "describe" else ALLOWED), code


def probe(host: str, identity: Identity, context: ssl.SSLContext, wanted: dict[Rule, str], timeout_s: float) -> list[Result] | None:
    """Every right of one identity over one session; None when its password is refused. Raises LoginError when it is not reachable."""
    try:
        with socket.create_connection((host, identity.port), timeout=timeout_s) as plain, \
                context.wrap_socket(plain, server_hostname=host) as stream:
            if not exchange(stream, identity.mechanism, identity.name, identity.password):
                return None
            found = []
            for number, (rule, expected) in enumerate(wanted.items(), start=100):
                actual, code = ask(stream, rule, number)
                found.append(Result(rule, expected, actual, code))
            return found
    except (OSError, ssl.SSLError, struct.error, UnicodeDecodeError) as error:
        raise LoginError(f"{host}:{identity.port}: not reachable: {error}") from error


def judge(c: Check, found: list[Result] | None) -> None:
    """Fails for a right that is missing or too much, and for a refused password; open where the broker's answer tells nothing."""
    if found is None:
        c.observed, c.expected = "password refused", "logged in"
        c.fail("the password is refused; run the kafka play: it writes what OpenBao holds")
        return
    wrong = [one for one in found if one.actual != one.expected and one.actual != UNKNOWN]
    open_ = [one for one in found if one.actual == UNKNOWN]
    wrong.sort(key=lambda one: (_WORST.index(one.rule.operation), one.rule))
    generous = [str(one.rule) for one in wrong if one.actual == ALLOWED]
    missing = [str(one.rule) for one in wrong if one.actual == DENIED]
    c.observed, c.expected = {"too_much": generous, "missing": missing}, {"too_much": [], "missing": []}
    c.evidence = {"allowed": sorted(str(one.rule) for one in found if one.actual == ALLOWED), "asked": len(found),
                  "denied": sorted(str(one.rule) for one in found if one.actual == DENIED), "codes": {str(one.rule): one.code for one in found}}
    if wrong:
        c.fail("; ".join(f"{what}: {', '.join(names[:3])}" + (f" and {len(names) - 3} more" if len(names) > 3 else "")
                         for what, names in (("may too much", generous), ("may not", missing)) if names))
    elif open_:
        c.inconclusive(f"no topic to ask about: {', '.join(str(one.rule) for one in open_[:3])}")
    elif not found or not any(one.actual == ALLOWED for one in found):
        c.inconclusive("nothing was allowed, so nothing shows that a denial means anything")
    else:
        c.passed(True)


def run(report: Report, host: str, identities: Sequence[Identity], context: Callable[[], ssl.SSLContext], acls: Sequence[Acl], topics: Sequence[str],
        groups: Sequence[str]) -> None:
    """One check for each identity and listener, in the report."""

    def one(identity: Identity) -> Callable[[Check], None]:
        def body(c: Check) -> None:
            judge(c, probe(host, identity, context(), matrix(acls, identity.name, topics, groups), report.timeout(5.0)))

        return body

    report.run_checks([
        ({"id": "S5", "subject": f"{identity.name}@{identity.listener}", "title": "may what is declared, and nothing else", "controls": ["SR 2.1", "SR 5.2"],
          "explain": f"kafka-console-producer.sh and -consumer.sh with the credentials of {identity.name}, on each topic",
          "hint": "run the kafka play: it adds what is missing and removes what is not declared"}, one(identity))
        for identity in identities
    ])
