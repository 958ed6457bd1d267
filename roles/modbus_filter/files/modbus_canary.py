#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A canary for the conduit to level 2: a Modbus/TCP server that stands for no process and writes down every byte that reaches it.

usage: modbus_canary.py --listen ADDRESS:PORT --record ADDRESS:PORT [--file PATH]      [::]:PORT is every address of both families

It obeys everything: whoever writes gets the success that a device would give, so that a hole in front of it cannot look like a refusal. Its
registers change with every request, so that an old answer is known by its values. It shares no code with the filter that it judges.

The record is JSON lines, appended to only: {"t": unix s, "c": connection, "open": [address, port]}, {"t", "c", "d": hex of what came, as it came},
{"t", "c", "r": hex of an answer}, {"t", "c", "end": true}. It is read at the second address, by Modbus function 3 alone: unit 255, register 0 gives
"HNAICNRY", eight bytes that name this run, and the length in bytes (64 bits); unit n, register m gives the two bytes at n * 65536 + 2 * m.
When the record is full (255 * 65536 bytes), the canary ends.
"""
import argparse
import hashlib
import json
import os
import socket
import socketserver
import struct
import sys
import threading
import time

MAGIC = b"HNAICNRY"
PAGE = 65536
FULL = 255 * PAGE
QUIET_S = 300


class Record:
    """The lines, in memory and in a file."""

    def __init__(self, path):
        self.run = os.urandom(8)
        self.data = bytearray()
        self.requests = 0
        self._connections = 0
        self._lock = threading.Lock()
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644) if path else -1

    def add(self, connection, **what):
        line = (json.dumps({"t": round(time.time(), 6), "c": connection, **what}) + "\n").encode("ascii")
        with self._lock:
            if len(self.data) + len(line) > FULL:
                sys.stderr.write("the record is full\n")
                os._exit(1)
            self.data += line
            if self._file >= 0:
                os.write(self._file, line)

    def connection(self, peer):
        with self._lock:
            self._connections += 1
            number = self._connections
        self.add(number, open=[peer[0], peer[1]])
        return number

    def request(self):
        with self._lock:
            self.requests += 1
            return self.requests

    def page(self, unit, first, count):
        """Bytes of *count* registers."""
        if unit == 255:
            data, at = MAGIC + self.run + struct.pack(">Q", len(self.data)), 2 * first
        else:
            data, at = self.data, unit * PAGE + 2 * first
        return bytes(data[at:at + 2 * count]).ljust(2 * count, b"\0")


def value(run, request, address):
    """A register's value in the *request*-th request of a run."""
    return hashlib.sha256(b"%s %d %d" % (run, request, address)).digest()[:2]


def answer(record, pdu):
    """PDU of the answer; writes are obeyed, which here means: acknowledged."""
    number, function, body = record.request(), pdu[0], pdu[1:]
    if function in (1, 2) and len(body) == 4:
        count = struct.unpack(">HH", body)[1]
        size = (count + 7) // 8
        if 1 <= count <= 2000:
            bits = int.from_bytes(hashlib.sha512(value(record.run, number, 0)).digest() * 4, "little") & ((1 << count) - 1)
            return bytes((function, size)) + bits.to_bytes(size, "little")
    if function in (3, 4) and len(body) == 4:
        first, count = struct.unpack(">HH", body)
        if 1 <= count <= 125:
            return bytes((function, 2 * count)) + b"".join(value(record.run, number, first + index) for index in range(count))
    if function in (5, 6) and len(body) == 4:
        return pdu
    if function in (15, 16) and len(body) >= 4:
        return pdu[:5]
    if function == 22:
        return pdu
    if function == 23 and len(body) >= 4:
        count = struct.unpack(">H", body[2:4])[0] & 0x7F
        return bytes((function, 2 * count)) + b"\0" * (2 * count)
    if function == 43 and len(body) == 3 and body[0] == 14:
        name = b"canary %d" % number
        return bytes((43, 14, body[1], 1, 0, 0, 1, body[2], len(name))) + name
    return bytes((function | 0x80, 1)) if function >= 128 or function in (0, 127) else pdu[:1] + body[:4]


def exactly(stream, size):
    """*size* bytes, or None at the end of the stream."""
    data = stream.read(size)
    return data if data is not None and len(data) == size else None


class Probed(socketserver.BaseRequestHandler):
    """What the filter dials."""

    def handle(self):
        record, buffer = self.server.record, b""
        number = record.connection(self.client_address)
        self.request.settimeout(QUIET_S)
        try:
            while True:
                data = self.request.recv(4096)
                if not data:
                    break
                record.add(number, d=data.hex())
                buffer += data
                while len(buffer) >= 6:
                    length = struct.unpack(">H", buffer[4:6])[0]
                    if length < 2:
                        buffer = buffer[6:]
                        continue
                    if len(buffer) < 6 + length:
                        break
                    frame, buffer = buffer[:6 + length], buffer[6 + length:]
                    made = answer(record, frame[7:])
                    reply = frame[:4] + struct.pack(">H", len(made) + 1) + frame[6:7] + made
                    record.add(number, r=reply.hex())
                    self.request.sendall(reply)
        except OSError:
            pass
        record.add(number, end=True)


class Read(socketserver.StreamRequestHandler):
    """What the audit reads."""

    timeout = QUIET_S

    def handle(self):
        try:
            while True:
                head = exactly(self.rfile, 12)
                if head is None or head[2:4] != b"\0\0" or head[4:6] != b"\0\6" or head[7] != 3:
                    return
                first, count = struct.unpack(">HH", head[8:])
                if not 1 <= count <= 125:
                    return
                data = self.server.record.page(head[6], first, count)
                self.wfile.write(head[:4] + struct.pack(">HBBB", 3 + len(data), head[6], 3, len(data)) + data)
        except OSError:
            return


class Server(socketserver.ThreadingTCPServer):
    """One thread per connection."""

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, where, handler, record):
        self.address_family = socket.AF_INET6 if ":" in where[0] else socket.AF_INET
        self.record = record
        super().__init__(where, handler)

    def server_bind(self):
        if self.address_family == socket.AF_INET6:
            # [::] is every address of both families.
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


def start(listen, reading, path=None, poll_s=0.5):
    """Both servers, running: (probed, read). Close each with shutdown(), which takes up to *poll_s*, and server_close()."""
    record = Record(path)
    servers = (Server(listen, Probed, record), Server(reading, Read, record))
    for server in servers:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": poll_s}, daemon=True).start()
    return servers


def address(text):
    """("192.0.2.1", 502) of "192.0.2.1:502"; an IPv6 address stands in brackets."""
    host, _colon, port = text.rpartition(":")
    return host.strip("[]"), int(port)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--listen", required=True, type=address)
    parser.add_argument("--record", required=True, type=address)
    parser.add_argument("--file")
    options = parser.parse_args()
    start(options.listen, options.record, options.file)
    threading.Event().wait()


if __name__ == "__main__":
    main()
