# SPDX-License-Identifier: Apache-2.0
"""MQTT on the wire: against a scripted socket, byte by byte."""

from __future__ import annotations

import socket
import struct
from typing import Any

import pytest

from ansible_collections.hnai.platform.plugins.module_utils.mqtt.wire import (
    Client,
    Message,
    MqttError,
    MqttRefused,
    connect_packet,
    length,
    parse_publish,
    publish_packet,
    subscribe_packet,
    text,
)

ACCEPTED = b"\x20\x02\x00\x00"
SUBACK = b"\x90\x03\x00\x01\x00"


def publish(topic: str, payload: bytes, retained: bool = True, qos: int = 0) -> bytes:
    body = text(topic) + (b"\x00\x07" if qos else b"") + payload
    return bytes([0x30 | (qos << 1) | int(retained)]) + length(len(body)) + body


class Script:
    """A socket that gives its bytes *size* at a time, then is quiet, then (if *ends*) closed."""

    def __init__(self, data: bytes, size: int = 3, ends: bool = False) -> None:
        self.data, self.size, self.ends = data, size, ends
        self.sent = b""
        self.closed = False
        self.timeouts: list[float] = []

    def sendall(self, data: bytes) -> None:
        self.sent += data
        self.data += b"\xd0\x00" if data == b"\xc0\x00" else b""

    def settimeout(self, seconds: float) -> None:
        self.timeouts.append(seconds)

    def recv(self, _most: int) -> bytes:
        if not self.data:
            if self.ends:
                return b""
            raise socket.timeout("quiet")
        part, self.data = self.data[: self.size], self.data[self.size :]
        return part

    def close(self) -> None:
        self.closed = True


def client(script: Script, username: str = "u", password: str = "p", clock: Any = lambda: 0.0) -> Client:
    def dial() -> Any:
        return script

    return Client(dial, "check", username, password, lambda: 5.0, clock)


def test_packets_are_those_of_the_standard() -> None:
    assert connect_packet("c", "", "") == b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01c"
    assert connect_packet("c", "u", "p")[9] == 0xC2
    assert connect_packet("c", "u", "p").endswith(b"\x00\x01u\x00\x01p")
    assert subscribe_packet(1, ["ot/#"]) == b"\x82\x09\x00\x01\x00\x04ot/#\x00"
    assert [length(n).hex() for n in (0, 127, 128, 16384)] == ["00", "7f", "8001", "808001"]


class Slow(Script):
    """A broker that takes a second to send anything."""

    def recv(self, most: int) -> bytes:
        if self.timeouts[-1] < 1.0:
            raise socket.timeout("quiet")
        return super().recv(most)


def test_silence_counts_when_a_slow_broker_has_answered() -> None:
    session = client(Slow(ACCEPTED + SUBACK + publish("ot/a/c", b"x") + publish("$SYS/broker/publish/messages/dropped", b"7")))
    session.subscribe(["ot/#"])
    assert next(iter(session.messages(0.2, 1.0))).payload == b"x", "whoever has seen enough reads no further"
    assert [message.payload for message in session.messages(0.2, 1.0)] == [b"7"], "the answer to the first ping is none to the second"


def test_a_broker_that_answers_no_ping_has_kept_no_silence() -> None:
    script = Script(ACCEPTED + SUBACK)
    session = client(script)
    script.sendall = lambda data: None  # type: ignore[method-assign]
    session.subscribe(["ot/#"])
    with pytest.raises(socket.timeout):
        list(session.messages(0.2, 1.0))


def test_a_session_reads_what_is_retained_and_leaves_politely() -> None:
    script = Script(ACCEPTED + publish("ot/a/b", b"early") + SUBACK + publish("ot/a/c", b"x" * 300, qos=1))
    with client(script) as session:
        session.subscribe(["ot/#"])
        got = list(session.messages(0.2, 1.0))
    assert got == [Message("ot/a/b", b"early", True), Message("ot/a/c", b"x" * 300, True)]
    assert script.sent.endswith(b"\xe0\x00")
    assert script.closed


def test_a_busy_topic_is_never_quiet_so_there_is_a_limit() -> None:
    ticks = iter(range(100))
    script = Script(ACCEPTED + SUBACK + b"\xd0\x00" + publish("t", b"1", False) * 50, size=1000)
    with client(script, clock=lambda: next(ticks)) as session:
        session.subscribe(["#"])
        assert 0 < len(list(session.messages(0.2, 10.0))) < 12


@pytest.mark.parametrize(("code", "word"), [(4, "bad user name"), (5, "not authorised"), (9, "?")])
def test_a_refusal(code: int, word: str) -> None:
    script = Script(bytes([0x20, 2, 0, code]))
    with pytest.raises(MqttRefused, match="code %d" % code) as refused:
        client(script)
    assert word in str(refused.value)
    assert script.closed


@pytest.mark.parametrize("data", [b"", b"\x20", b"\x30\x03\x00\x01t", b"\x20\xff\xff\xff\xff\x01"])
def test_anything_else_is_an_error_and_leaves_no_socket(data: bytes) -> None:
    script = Script(data, ends=True)
    with pytest.raises(MqttError):
        client(script)
    assert script.closed


def test_a_refused_subscription() -> None:
    with client(Script(ACCEPTED + b"\x90\x03\x00\x01\x80")) as session, pytest.raises(MqttError, match="refused: secret/#"):
        session.subscribe(["secret/#"])


def test_a_publish_that_cannot_be_read() -> None:
    with pytest.raises(MqttError):
        parse_publish(0, struct.pack("!H", 3) + b"\xff\xfe\xfd")
    with pytest.raises(MqttError):
        parse_publish(0, b"\x00")


# -- version 5 ----------------------------------------------------------------------------------------------
ACCEPTED5 = b"\x20\x06\x00\x00\x03\x21\x00\x14"


def client5(script: Script) -> Client:
    return Client(lambda: script, "check", "u", "p", lambda: 5.0, lambda: 0.0, version=5)  # type: ignore[arg-type,return-value]


def publish5(topic: str, payload: bytes, qos: int = 0) -> bytes:
    body = text(topic) + (b"\x00\x07" if qos else b"") + b"\x05\x02\x00\x00\x00\x01" + payload
    return bytes([0x30 | (qos << 1)]) + length(len(body)) + body


def test_packets_of_version_5_are_those_of_the_standard() -> None:
    assert connect_packet("c", "", "", version=5) == b"\x10\x0e\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x01c"
    assert subscribe_packet(1, ["ot/#"], 5) == b"\x82\x0a\x00\x01\x00\x00\x04ot/#\x00"
    assert publish_packet(2, "a", b"x", 1) == b"\x32\x0c\x00\x01a\x00\x02\x05\x02\x00\x00\x00\x01x"


@pytest.mark.parametrize(("answer", "code"), [(b"\x40\x02\x00\x01", 0), (b"\x40\x03\x00\x01\x10", 0x10), (b"\x40\x04\x00\x01\x87\x00", 0x87)])
def test_a_publish_is_told_how_it_was_taken(answer: bytes, code: int) -> None:
    script = Script(ACCEPTED5 + publish5("ot/a/b", b"first", qos=1) + answer)
    with client5(script) as session:
        assert session.publish("hnai-health/deny", b"x") == code
        assert list(session.messages(0.1, 1.0)) == [Message("ot/a/b", b"first", False)], "what came before the answer is kept, without its properties"
        assert list(session.messages(0.1, 1.0)) == [], "and given once"
    assert script.sent.endswith(publish_packet(1, "hnai-health/deny", b"x", 1) + b"\xc0\x00" * 2 + b"\xe0\x00")


def test_an_answer_to_something_else_is_none() -> None:
    script = Script(ACCEPTED5 + b"\x40\x03\x00\x09\x00" + b"\x40\x03\x00\x01\x87")
    with client5(script) as session:
        assert session.publish("t", b"x") == 0x87


def test_a_broker_that_ends_the_session_says_why() -> None:
    script = Script(ACCEPTED5 + b"\xe0\x01\x87")
    with pytest.raises(MqttError, match="0x87"), client5(script) as session:
        session.publish("t", b"x")


def test_only_version_5_publishes() -> None:
    with pytest.raises(MqttError, match=r"3\.1\.1"), client(Script(ACCEPTED)) as session:
        session.publish("t", b"x")


@pytest.mark.parametrize(("code", "same"), [(0x86, 4), (0x87, 5), (0x99, 0x99)])
def test_refusals_of_version_5_have_the_codes_of_version_4(code: int, same: int) -> None:
    with pytest.raises(MqttRefused) as error:
        client5(Script(b"\x20\x03\x00" + bytes([code]) + b"\x00"))
    assert error.value.code == same


def test_a_refused_filter_of_version_5_is_an_error() -> None:
    with pytest.raises(MqttError, match="refused"), client5(Script(ACCEPTED5 + b"\x90\x04\x00\x01\x00\x87")) as session:
        session.subscribe(["#"])
    with client5(Script(ACCEPTED5 + b"\x90\x05\x00\x01\x00\x00\x00")) as session:
        session.subscribe(["a", "b"])
