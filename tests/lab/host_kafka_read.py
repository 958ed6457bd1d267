# SPDX-License-Identifier: Apache-2.0
"""Runs on a host as root: signs in to a Kafka listener as one of the host's identities and asks to read, by every way there is.

usage: - HOST PORT CA_FILE USER CREDENTIAL GROUP TOPIC …      CREDENTIAL: a name in /etc/credstore.encrypted, decrypted here

One JSON object {way: error code}; for a way that speaks of topics the code of the first. Codes: 0 read, 29 topic refused,
30 group refused, others as in Kafka's protocol guide. Rights are asked before anything else, so each way into a group is asked with
something that stops who does have the right: no group gets a member, and no reader of the site is disturbed.
Bytes by hand, because the client libraries refuse to ask what they were not allowed to look up: request layouts from the message
definitions of Kafka 4.3.
"""
from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import socket
import ssl
import struct
import subprocess
import sys

UUID = bytes(range(16))


class Connection:
    """One TLS connection: length-prefixed requests with header version 1, or 2 for flexible ones."""

    def __init__(self, host: str, port: int, ca_file: str) -> None:
        plain = socket.create_connection((host, port), timeout=15)
        self.stream = ssl.create_default_context(cafile=ca_file).wrap_socket(plain, server_hostname=host)
        self.number = 0

    def ask(self, key: int, version: int, body: bytes, flexible: bool = False) -> bytes:
        """The answer after its header."""
        self.number += 1
        head = struct.pack(">hhi", key, version, self.number) + text("hnai-test") + (b"\x00" if flexible else b"")
        self.stream.sendall(struct.pack(">i", len(head) + len(body)) + head + body)
        size = struct.unpack(">i", self._exactly(4))[0]
        answer = self._exactly(size)
        if struct.unpack(">i", answer[:4])[0] != self.number:
            raise SystemExit("an answer to another request")
        return answer[5 if flexible else 4:]

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = self.stream.recv(size - len(data))
            if not more:
                raise SystemExit("the broker ended the connection")
            data += more
        return data


def text(value: str) -> bytes:
    return struct.pack(">h", len(value)) + value.encode()


def compact(value: str) -> bytes:
    return bytes([len(value) + 1]) + value.encode()


def sign_in(link: Connection, user: str, password: bytes) -> None:
    """SASL/SCRAM-SHA-512 (RFC 5802) in SaslAuthenticate frames."""
    code = struct.unpack(">h", link.ask(17, 1, text("SCRAM-SHA-512"))[:2])[0]
    if code:
        raise SystemExit("SaslHandshake: error %d" % code)

    def step(message: str) -> str:
        data = link.ask(36, 0, struct.pack(">i", len(message)) + message.encode())
        code, size = struct.unpack(">hh", data[:4])
        rest = data[4 + max(size, 0):]
        if code:
            raise SystemExit("SaslAuthenticate: error %d: %s" % (code, data[4:4 + max(size, 0)].decode()))
        return rest[4:4 + struct.unpack(">i", rest[:4])[0]].decode()

    first = "n=%s,r=%s" % (user, base64.b64encode(os.urandom(18)).decode())
    server = step("n,," + first)
    given = dict(part.split("=", 1) for part in server.split(","))
    salted = hashlib.pbkdf2_hmac("sha512", password, base64.b64decode(given["s"]), int(given["i"]))
    key = hmac.new(salted, b"Client Key", hashlib.sha512).digest()
    last = "c=biws,r=" + given["r"]
    signature = hmac.new(hashlib.sha512(key).digest(), ",".join((first, server, last)).encode(), hashlib.sha512).digest()
    step(last + ",p=" + base64.b64encode(bytes(a ^ b for a, b in zip(key, signature))).decode())


def fetch(link: Connection, topic: str) -> int:
    """Fetch version 4."""
    body = struct.pack(">iiiibi", -1, 100, 1, 1 << 20, 0, 1) + text(topic) + struct.pack(">iiqi", 1, 0, 0, 1 << 20)
    data = link.ask(1, 4, body)
    at = 4 + 4 + 2 + len(topic) + 4 + 4
    return struct.unpack(">h", data[at:at + 2])[0]


def join_group(link: Connection, group: str, topic: str) -> int:
    """JoinGroup version 2, protocol consumer, with a session of 1 ms: nobody who may join does (26)."""
    subscription = struct.pack(">hi", 0, 1) + text(topic) + struct.pack(">i", -1)
    body = text(group) + struct.pack(">ii", 1, 6000) + text("") + text("consumer") + struct.pack(">i", 1)
    body += text("range") + struct.pack(">i", len(subscription)) + subscription
    return struct.unpack(">h", link.ask(11, 2, body)[4:6])[0]


def consumer_group(link: Connection, group: str, topic: str) -> int:
    """ConsumerGroupHeartbeat version 0 (KIP-848): a new member that does not say how long it may take: who may join is refused for that (42)."""
    body = compact(group) + compact("") + struct.pack(">i", 0) + b"\x00\x00" + struct.pack(">i", -1)
    body += b"\x02" + compact(topic) + b"\x00" + b"\x01" + b"\x00"
    return struct.unpack(">h", link.ask(68, 0, body, True)[4:6])[0]


def share_group(link: Connection, group: str) -> int:
    """ShareGroupHeartbeat version 1 (KIP-932): a new member without topics: who may join is refused for that (42)."""
    body = compact(group) + compact("AAAAAAAAAAAAAAAAAAAAAA") + struct.pack(">i", 0) + b"\x00" + b"\x00" + b"\x00"
    return struct.unpack(">h", link.ask(76, 1, body, True)[4:6])[0]


def share_fetch(link: Connection, group: str) -> int:
    """ShareFetch version 1 (KIP-932) in a session that does not exist (122 for who may)."""
    body = compact(group) + compact("AAAAAAAAAAAAAAAAAAAAAA") + struct.pack(">iiiiii", 5, 100, 1, 1 << 20, 1, 1)
    body += b"\x02" + UUID + b"\x02" + struct.pack(">i", 0) + b"\x01" + b"\x00" + b"\x00" + b"\x01" + b"\x00"
    return struct.unpack(">h", link.ask(78, 1, body, True)[4:6])[0]


def offsets(link: Connection, group: str, topic: str) -> int:
    """OffsetFetch version 2: the code of the whole answer, or of the first partition."""
    data = link.ask(9, 2, text(group) + struct.pack(">i", 1) + text(topic) + struct.pack(">ii", 1, 0))
    whole = struct.unpack(">h", data[-2:])[0]
    if whole or data[:4] == b"\x00\x00\x00\x00":
        return whole
    at = 4 + 2 + len(topic) + 4 + 4 + 8
    size = struct.unpack(">h", data[at:at + 2])[0]
    at += 2 + max(size, 0)
    return struct.unpack(">h", data[at:at + 2])[0]


def main(host: str, port: str, ca_file: str, user: str, credential: str, group: str, *topics: str) -> None:
    stored = "/etc/credstore.encrypted/" + credential
    name = credential.split(".", 1)[1]
    password = subprocess.run(["systemd-creds", "decrypt", "--name=" + name, stored, "-"], check=True, stdout=subprocess.PIPE).stdout
    link = Connection(host, int(port), ca_file)
    sign_in(link, user, password.strip())
    found = {"fetch " + topic: fetch(link, topic) for topic in topics}
    found["JoinGroup"] = join_group(link, group, topics[0])
    found["ConsumerGroupHeartbeat"] = consumer_group(link, group, topics[0])
    found["OffsetFetch"] = offsets(link, group, topics[0])
    found["ShareGroupHeartbeat"] = share_group(link, group)
    found["ShareFetch"] = share_fetch(link, group)
    json.dump(found, sys.stdout)


main(*sys.argv[1:])
