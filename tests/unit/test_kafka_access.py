# SPDX-License-Identifier: Apache-2.0
"""The access probe against brokers that allow too much, too little, refuse a password, hang or hang up."""

from __future__ import annotations

import dataclasses
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from ansible_collections.hnai.platform.plugins.module_utils.kafka import access, scram
from ansible_collections.hnai.platform.plugins.module_utils.kafka.access import ALLOWED, DENIED, UNKNOWN, Rule
from ansible_collections.hnai.platform.plugins.module_utils.kafka.acls import Acl
from ansible_collections.hnai.platform.plugins.module_utils.verdict import Check, Report

WRITE, READ, SEE = (Rule("topic", "ot.raw", operation) for operation in ("write", "read", "describe"))
GROUP, ADMIN = Rule("group", "writers", "read"), Rule("cluster", "", "alter_configs")
ACLS = [Acl("User:shipper", "topic", "ot.raw", "write"), Acl("User:shipper", "topic", "ot.raw", "describe")]
PRODUCE, FETCH, METADATA, HEARTBEAT, ALTER = 0, 1, 3, 12, 33


def text(value: str) -> bytes:
    return struct.pack(">h", len(value)) + value.encode()


class Broker:
    """The other end of a stream: answers each request with the error code that `codes` has for its key. Layouts: protocol guide."""

    def __init__(self, codes: Mapping[int, int]) -> None:
        self.codes = codes
        self.asked: list[tuple[int, int, bytes]] = []
        self._out = b""

    def sendall(self, data: bytes, /) -> None:
        key, version, correlation = struct.unpack_from(">hhi", data, 4)
        body = data[4 + 8 + 6:]
        self.asked.append((key, version, body))
        answer = struct.pack(">i", correlation) + self._answer(key, self.codes[key])
        self._out += struct.pack(">i", len(answer)) + answer

    def recv(self, size: int, /) -> bytes:
        part, self._out = self._out[:size], self._out[size:]
        return part

    def _answer(self, key: int, code: int) -> bytes:
        topic = text("ot.raw")
        if key == PRODUCE:
            return struct.pack(">i", 1) + topic + struct.pack(">iihqqi", 1, 0, code, -1, -1, 0)
        if key == FETCH:
            return struct.pack(">ii", 0, 1) + topic + struct.pack(">iihqqii", 1, 0, code, -1, -1, 0, 0)
        if key == METADATA:
            brokers = struct.pack(">ii", 2, 1) + text("kafka1") + struct.pack(">ih", 9094, -1) + struct.pack(">i", 2) + text("kafka22") + struct.pack(
                ">i", 9094) + text("rack")
            return struct.pack(">i", 0) + brokers + text("cluster") + struct.pack(">ii", 1, 1) + struct.pack(">h", code) + topic + b"\x00" + bytes(4)
        if key == HEARTBEAT:
            return struct.pack(">h", code)
        return struct.pack(">iih", 0, 1, code) + struct.pack(">h", -1) + b"\x04" + text("")


@pytest.mark.parametrize(
    ("rule", "key", "code", "found"),
    [
        (WRITE, PRODUCE, 29, DENIED), (WRITE, PRODUCE, 2, ALLOWED), (WRITE, PRODUCE, 6, ALLOWED), (WRITE, PRODUCE, 3, UNKNOWN), (WRITE, PRODUCE, 0, ALLOWED),
        (READ, FETCH, 29, DENIED), (READ, FETCH, 1, ALLOWED), (READ, FETCH, 6, ALLOWED), (READ, FETCH, 3, UNKNOWN),
        (SEE, METADATA, 29, DENIED), (SEE, METADATA, 0, ALLOWED), (SEE, METADATA, 3, ALLOWED),
        (GROUP, HEARTBEAT, 30, DENIED), (GROUP, HEARTBEAT, 25, ALLOWED), (GROUP, HEARTBEAT, 16, ALLOWED),
        (ADMIN, ALTER, 31, DENIED), (ADMIN, ALTER, 40, ALLOWED), (ADMIN, ALTER, 0, ALLOWED),
    ],
    ids=str,
)
def test_what_an_answer_means(rule: Rule, key: int, code: int, found: str) -> None:
    broker = Broker({key: code})
    assert access.ask(broker, rule, 7) == (found, code)
    assert [one[0] for one in broker.asked] == [key]


def test_no_request_could_succeed() -> None:
    """A batch whose checksum is wrong, an offset beyond every log, no topic made by asking, a setting that is only validated."""
    broker = Broker({PRODUCE: 2, FETCH: 1, METADATA: 0, HEARTBEAT: 25, ALTER: 40})
    for rule in (WRITE, READ, SEE, GROUP, ADMIN):
        access.ask(broker, rule, 1)
    bodies = {key: body for key, _version, body in broker.asked}
    batch = bodies[PRODUCE][-access._no_batch().__len__():]
    (_offset, length, _epoch, magic, crc) = struct.unpack_from(">qiibI", batch)
    assert (length, magic) == (len(batch) - 12, 2)
    assert crc == 0xDEADBEEF
    assert struct.unpack(">qi", bodies[FETCH][-12:]) == (1 << 62, 1)
    assert bodies[METADATA].endswith(text("ot.raw") + b"\x00")
    assert bodies[ALTER].endswith(struct.pack(">ib", 0, 1))
    assert text("hnai-nobody") in bodies[HEARTBEAT]


@pytest.mark.parametrize(
    ("acls", "allowed"),
    [
        ([], set()),
        ([Acl("User:other", "topic", "ot.raw", "read")], set()),
        ([Acl("User:shipper", "topic", "ot.raw", "write")], {WRITE, SEE}),
        ([Acl("User:shipper", "topic", "ot.raw", "read")], {READ, SEE}),
        ([Acl("User:shipper", "topic", "ot.raw", "describe")], {SEE}),
        ([Acl("User:shipper", "topic", "ot.", "read", "prefixed")], {READ, SEE}),
        ([Acl("User:shipper", "topic", "ot", "read")], set()),
        ([Acl("User:shipper", "topic", "*", "all")], {WRITE, READ, SEE}),
        ([Acl("User:*", "topic", "ot.raw", "read")], {READ, SEE}),
        ([Acl("User:shipper", "topic", "ot.raw", "all"), Acl("User:shipper", "topic", "ot.raw", "read", permission="deny")], {WRITE, SEE}),
        ([Acl("User:shipper", "group", "writers", "read")], {GROUP}),
        ([Acl("User:shipper", "cluster", "kafka-cluster", "alter_configs")], {ADMIN}),
        ([Acl("User:shipper", "cluster", "kafka-cluster", "idempotent_write")], set()),
    ],
    ids=str,
)
def test_what_the_declared_acls_allow(acls: list[Acl], allowed: set[Rule]) -> None:
    found = access.matrix(acls, "shipper", ["ot.raw"], ["writers"])
    assert set(found) == {WRITE, READ, SEE, GROUP, ADMIN}
    assert {rule for rule, what in found.items() if what == ALLOWED} == allowed


def test_a_right_that_hangs_on_an_address_is_not_asked_for_from_another() -> None:
    here = Acl("User:shipper", "topic", "ot.raw", "write", host="10.0.0.9")
    assert READ in access.matrix([here], "shipper", ["ot.raw"], []) and WRITE not in access.matrix([here], "shipper", ["ot.raw"], [])
    everywhere = Acl("User:shipper", "topic", "ot.raw", "write")
    assert access.matrix([here, everywhere], "shipper", ["ot.raw"], [])[WRITE] == ALLOWED
    denied = Acl("User:shipper", "topic", "ot.raw", "write", permission="deny", host="10.0.0.9")
    assert WRITE not in access.matrix([denied, everywhere], "shipper", ["ot.raw"], [])


def judged(*results: access.Result) -> Check:
    check = Check("S5", "x")
    access.judge(check, list(results))
    return check


RIGHT = access.Result(WRITE, ALLOWED, ALLOWED, 6)


def test_verdicts() -> None:
    assert judged(RIGHT, access.Result(READ, DENIED, DENIED, 29)).status == "pass"
    generous = judged(RIGHT, access.Result(READ, DENIED, ALLOWED, 1))
    assert (generous.status, generous.observed) == ("fail", {"too_much": ["read topic ot.raw"], "missing": []})
    missing = judged(access.Result(WRITE, ALLOWED, DENIED, 29))
    assert (missing.status, missing.observed) == ("fail", {"too_much": [], "missing": ["write topic ot.raw"]})
    many = judged(RIGHT, *(access.Result(Rule("topic", name, operation), DENIED, ALLOWED, 0)
                           for name in ("a", "b") for operation in ("describe", "read", "write")), access.Result(ADMIN, DENIED, ALLOWED, 0))
    assert many.reason == "may too much: alter_configs cluster, write topic a, write topic b and 4 more"
    assert judged(RIGHT, access.Result(READ, DENIED, UNKNOWN, 3)).status == "inconclusive"
    assert judged(access.Result(READ, DENIED, DENIED, 29)).status == "inconclusive"
    assert judged().status == "inconclusive"
    refused = Check("S5", "x")
    access.judge(refused, None)
    assert refused.status == "fail"


# -- real sockets ------------------------------------------------------------------------------------------------------


def served(handle: Callable[[socket.socket], None]) -> Iterator[int]:
    server = socket.create_server(("127.0.0.1", 0))
    kept: list[socket.socket] = []

    def accept() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            kept.append(connection)
            threading.Thread(target=handle, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    yield server.getsockname()[1]
    server.close()
    for connection in kept:
        connection.close()


@pytest.fixture
def mute_port() -> Iterator[int]:
    yield from served(lambda connection: None)


@pytest.fixture
def closing_port() -> Iterator[int]:
    yield from served(lambda connection: connection.close())


def checked(port: int, deadline_s: float = 3.0) -> Check:
    report = Report("kafka", deadline_s=deadline_s)
    identity = access.Identity("shipper", "s3cret", listener="l3", port=port)
    access.run(report, "127.0.0.1", [identity], ssl.create_default_context, ACLS, ["ot.raw"], [])
    (check,) = report.checks
    assert (check.id, check.subject) == ("S5", "shipper@l3")
    assert "s3cret" not in str(dataclasses.asdict(check)) + repr(identity)
    return check


def test_not_reachable_is_not_refused(closing_port: int) -> None:
    for port in (1, closing_port):
        check = checked(port)
        assert check.status == "inconclusive"
        assert "not reachable" in check.reason


def test_a_server_that_hangs_is_inconclusive_within_the_deadline(mute_port: int) -> None:
    begin = time.monotonic()
    assert checked(mute_port, 1.5).status == "inconclusive"
    assert time.monotonic() - begin < 3.0


@pytest.mark.parametrize(("accepted", "status"), [(True, "pass"), (False, "fail")])
def test_a_whole_session(monkeypatch: pytest.MonkeyPatch, accepted: bool, status: str) -> None:
    """TLS is taken out, the broker's side is played by `Broker`; what was asked for follows from the ACLs."""
    codes: dict[int, int] = {PRODUCE: 6, FETCH: 29, METADATA: 0, HEARTBEAT: 30, ALTER: 31}
    broker = Broker(codes)

    class Plain:
        def __enter__(self) -> Any:
            return broker

        def __exit__(self, *_unused: object) -> None:
            return None

    class Context:
        def wrap_socket(self, _plain: object, server_hostname: str) -> Plain:
            return Plain()

    monkeypatch.setattr(access, "exchange", lambda *given: accepted)
    monkeypatch.setattr(access.socket, "create_connection", lambda *given, **named: Plain())
    report = Report("kafka", deadline_s=3.0)
    access.run(report, "kafka1", [access.Identity("shipper", "x", listener="l3", port=1)], Context, ACLS,  # type: ignore[arg-type]
               ["ot.raw"], ["writers"])
    assert report.checks[0].status == status
    assert len(broker.asked) == (5 if accepted else 0)


def test_scram_is_the_one_that_converges_users_too() -> None:
    assert access.exchange is scram.exchange
