# SPDX-License-Identifier: Apache-2.0
"""Runs on a host: speaks to a listener without any identity, and says how it answers.

usage: - KIND HOST PORT CA_FILE      CA_FILE '' = no TLS; KIND: kafka, mqtt, http:PATH or noise (bytes that mean nothing)

One JSON object {"tls": version or null, "answer": text, "refused": bool}. The server's certificate is verified: a listener without
its TLS is an error.
"""
from __future__ import annotations

import json
import socket
import ssl
import struct
import sys

#: Metadata request, version 0, all topics: header (api key 3, version 0, correlation 7, client id), then an empty list.
KAFKA = struct.pack(">hhih", 3, 0, 7, 4) + b"test" + struct.pack(">i", 0)
#: CONNECT of MQTT 3.1.1, clean session, no user name and no password.
MQTT = b"\x10\x14\x00\x04MQTT\x04\x02\x00\x1e\x00\x08anonymus"


def ask(kind: str, stream: socket.socket, host: str) -> str:
    """The first bytes of the answer, as text; '' where the listener ended the connection."""
    if kind == "kafka":
        stream.sendall(struct.pack(">i", len(KAFKA)) + KAFKA)
    elif kind == "mqtt":
        stream.sendall(MQTT)
    elif kind.startswith("http:"):
        stream.sendall(("GET %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n" % (kind[5:], host)).encode("ascii"))
    else:
        stream.sendall(b"\x00" * 64)
    try:
        return stream.recv(4096).decode("latin-1")
    except ConnectionResetError:
        return ""


def main(kind: str, host: str, port: str, ca_file: str) -> None:
    version = None
    plain = socket.create_connection((host, int(port)), timeout=10)
    plain.settimeout(15)
    try:
        stream: socket.socket = plain
        if ca_file:
            secure = ssl.create_default_context(cafile=ca_file).wrap_socket(plain, server_hostname=host)
            version, stream = secure.version(), secure
        answer = ask(kind, stream, host)
    except ssl.SSLCertVerificationError:
        raise
    except ssl.SSLError as error:
        # A listener that demands a client certificate ends the handshake, or under TLS 1.3 the first read.
        answer = "alert: %s" % error.reason
    finally:
        plain.close()
    if kind == "mqtt":
        refused = answer == "" or (answer[:1] == "\x20" and answer[3:4] not in ("", "\x00"))
    elif kind.startswith("http:"):
        refused = answer.split(" ")[1:2] in (["401"], ["403"])
    else:
        # An empty answer is a closed connection; \x15 begins an alert of TLS.
        refused = answer == "" or answer.startswith(("alert: ", "\x15"))
    print(json.dumps({"tls": version, "answer": answer[:200], "refused": refused}))


main(*sys.argv[1:])
