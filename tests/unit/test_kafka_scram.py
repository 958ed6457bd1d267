# SPDX-License-Identifier: Apache-2.0
"""SCRAM against the RFC's own example, and the login against a server that speaks Kafka's frames."""

from __future__ import annotations

import base64
import hashlib
import hmac
import struct

import pytest

from ansible_collections.hnai.platform.plugins.module_utils.kafka import scram

SERVER_FIRST = b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"


def test_rfc_7677_example() -> None:
    client = scram.Scram("SCRAM-SHA-256", "user", "pencil", nonce="rOprNGfwEbeRWgbNEkqO")
    assert client.first() == b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO"
    final = client.final(SERVER_FIRST)
    assert final == (b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,"
                     b"p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=")
    client.verify(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=")
    with pytest.raises(scram.LoginError):
        client.verify(b"v=AAAA")


def test_an_answer_to_somebody_else_is_not_used() -> None:
    with pytest.raises(scram.LoginError, match="does not belong"):
        scram.Scram("SCRAM-SHA-256", "user", "pencil", nonce="other").final(SERVER_FIRST)


def test_names_are_escaped() -> None:
    assert scram.Scram("SCRAM-SHA-512", "a=b,c", "x", nonce="n").first() == b"n,,n=a=3Db=2Cc,r=n"


class Broker:
    """Kafka's side: SaslHandshake v1 and SaslAuthenticate v0 for one user."""

    def __init__(self, password: str, mechanism: str = "SCRAM-SHA-512", lie: bool = False, others: tuple[str, ...] = ()) -> None:
        self.password, self.mechanism, self.lie = password.encode(), mechanism, lie
        self.offers = (mechanism, *others)
        self.out = b""
        self.messages: list[str] = []

    def recv(self, size: int, /) -> bytes:
        part, self.out = self.out[:size], self.out[size:]
        return part

    def sendall(self, data: bytes, /) -> None:
        key, _version, correlation, length = struct.unpack(">hhih", data[4:14])
        body = data[14 + length:]
        answer = self.handshake(body) if key == 17 else self.authenticate(body[4:].decode())
        self.out += struct.pack(">i", len(answer) + 4) + struct.pack(">i", correlation) + answer

    def handshake(self, body: bytes) -> bytes:
        wanted = body[2:].decode()
        names = b"".join(struct.pack(">h", len(name)) + name.encode() for name in self.offers)
        return struct.pack(">hi", 0 if wanted == self.mechanism else 33, len(self.offers)) + names

    def authenticate(self, token: str) -> bytes:
        name = scram.MECHANISMS[self.mechanism]
        if not self.messages:
            self.messages = [token[3:], f"r={token.split('r=')[1]}server,s={base64.b64encode(b'salt').decode()},i=8192"]
            return self.reply(self.messages[1].encode())
        without, proof = token.rsplit(",p=", 1)
        salted = hashlib.pbkdf2_hmac(name, self.password, b"salt", 8192)
        message = ",".join([*self.messages, without]).encode()
        stored = hashlib.new(name, hmac.digest(salted, b"Client Key", name)).digest()
        key = bytes(a ^ b for a, b in zip(base64.b64decode(proof), hmac.digest(stored, message, name)))
        if hashlib.new(name, key).digest() != stored:
            return struct.pack(">hh", 58, -1) + struct.pack(">i", 0)
        signature = hmac.digest(hmac.digest(salted, b"Server Key", name), b"lie" if self.lie else message, name)
        return self.reply(b"v=" + base64.b64encode(signature))

    def reply(self, token: bytes) -> bytes:
        return struct.pack(">hhi", 0, -1, len(token)) + token


@pytest.mark.parametrize("mechanism", sorted(scram.MECHANISMS))
def test_login_right_and_wrong(mechanism: str) -> None:
    assert scram.exchange(Broker("s3cret", mechanism), mechanism, "flink", "s3cret") is True
    assert scram.exchange(Broker("s3cret", mechanism), mechanism, "flink", "other") is False


def test_a_mechanism_that_is_not_offered_says_nothing_about_the_password() -> None:
    with pytest.raises(scram.LoginError, match="does not offer"):
        scram.exchange(Broker("x", "SCRAM-SHA-256"), "SCRAM-SHA-512", "flink", "x")


def test_a_listener_tells_its_mechanisms_or_that_it_asks_for_no_login() -> None:
    listener = Broker("x", others=("OAUTHBEARER",))
    assert scram.sasl_handshake(listener, "SCRAM-SHA-512") == (0, ["SCRAM-SHA-512", "OAUTHBEARER"])
    assert scram.sasl_handshake(listener, "PLAIN") == (33, ["SCRAM-SHA-512", "OAUTHBEARER"])

    class Open(Broker):
        def handshake(self, body: bytes) -> bytes:
            return struct.pack(">hi", 34, 0)

    with pytest.raises(scram.OpenDoor):
        scram.sasl_handshake(Open("x"), "SCRAM-SHA-512")

    class Short(Broker):
        def handshake(self, body: bytes) -> bytes:
            return struct.pack(">hi", 0, 1)

    with pytest.raises(scram.LoginError, match="malformed"):
        scram.sasl_handshake(Short("x"), "SCRAM-SHA-512")


def test_a_server_that_does_not_know_the_password_is_not_believed() -> None:
    with pytest.raises(scram.LoginError, match="could not prove"):
        scram.exchange(Broker("x", lie=True), "SCRAM-SHA-512", "flink", "x")


def test_a_closed_connection_is_no_refusal() -> None:
    class Closed:
        def sendall(self, data: bytes, /) -> None:
            """Swallows it."""

        def recv(self, size: int, /) -> bytes:
            return b""

    with pytest.raises(scram.LoginError, match="closed"):
        scram.exchange(Closed(), "SCRAM-SHA-512", "flink", "x")


def test_nothing_listens_there() -> None:
    with pytest.raises(scram.LoginError, match=r"127.0.0.1:1:"):
        scram.login(("127.0.0.1", 1), scram.ssl.create_default_context(), "SCRAM-SHA-512", "flink", "x", 1.0)
