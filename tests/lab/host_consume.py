# SPDX-License-Identifier: Apache-2.0
"""Runs on a broker's host: records of one topic that arrived since an instant, by the broker's own certificate.

usage: - BOOTSTRAP TOPIC START_MS DEADLINE_S KEY …

Reads from the first offset at or after START_MS to the ends that the topic has now, and prints as JSON
{"read": records seen, "records": [value]} with those whose key is one of KEY.
"""
from __future__ import annotations

import glob
import json
import logging
import ssl
import sys
import time
import types

TLS = "/etc/hnai/kafka/tls/"


def _block(data: bytes, out: bytearray) -> None:
    """One LZ4 block, appended to *out* (which earlier blocks may be referred to)."""
    at, end = 0, len(data)
    while at < end:
        token = data[at]
        at += 1
        length = token >> 4
        if length == 15:
            while True:
                at += 1
                length += data[at - 1]
                if data[at - 1] != 255:
                    break
        out += data[at:at + length]
        at += length
        if at >= end:
            return
        offset = data[at] | data[at + 1] << 8
        at += 2
        length = token & 15
        if length == 15:
            while True:
                at += 1
                length += data[at - 1]
                if data[at - 1] != 255:
                    break
        length += 4
        start = len(out) - offset
        if offset >= length:
            out += out[start:start + length]
        else:
            out += (bytes(out[start:]) * (length // offset + 1))[:length]


def decompress(data: bytes) -> bytes:
    """An LZ4 frame (format 1.6), without its checksums: Kafka has its own over the batch."""
    if data[:4] != b"\x04\x22\x4d\x18":
        raise ValueError("no LZ4 frame: %r" % data[:4])
    flags = data[4]
    at = 7 + (8 if flags & 8 else 0) + (4 if flags & 1 else 0)
    out = bytearray()
    while True:
        size = int.from_bytes(data[at:at + 4], "little")
        at += 4
        if size == 0:
            return bytes(out)
        plain, size = bool(size & 0x80000000), size & 0x7FFFFFFF
        if plain:
            out += data[at:at + size]
        else:
            _block(data[at:at + size], out)
        at += size + (4 if flags & 16 else 0)


def lend_lz4() -> None:
    """The probe environment has no LZ4, which the shippers compress with: reading it takes few lines."""
    frame = types.ModuleType("lz4.frame")
    frame.decompress = decompress  # type: ignore[attr-defined]
    package = types.ModuleType("lz4")
    package.frame = frame  # type: ignore[attr-defined]
    sys.modules.update({"lz4": package, "lz4.frame": frame})


def main(bootstrap: str, topic: str, start_ms: str, deadline_s: str, *keys: str) -> None:
    sys.path[:0] = glob.glob("/opt/hnai/probe/current/lib/python%d.%d/site-packages" % sys.version_info[:2])
    lend_lz4()
    from kafka import KafkaConsumer, TopicPartition

    logging.getLogger("kafka").setLevel(logging.CRITICAL)
    deadline = time.monotonic() + float(deadline_s)
    context = ssl.create_default_context(cafile=TLS + "ca.pem")
    context.load_cert_chain(TLS + "cert.pem", TLS + "key.pem")
    consumer = KafkaConsumer(
        bootstrap_servers=[bootstrap], security_protocol="SSL", ssl_context=context, group_id=None, enable_auto_commit=False,
        client_id="hnai-test", max_partition_fetch_bytes=4 << 20, fetch_max_bytes=16 << 20,
    )
    parts = [TopicPartition(topic, number) for number in sorted(consumer.partitions_for_topic(topic) or ())]
    if not parts:
        raise SystemExit("%s has no topic %s" % (bootstrap, topic))
    consumer.assign(parts)
    ends = consumer.end_offsets(parts)
    begins = consumer.offsets_for_times({part: int(start_ms) for part in parts})
    for part in parts:
        begin = begins.get(part)
        consumer.seek(part, begin.offset if begin else ends[part])
    wanted = {key.encode("utf-8") for key in keys}
    read, records = 0, []
    while any(consumer.position(part) < ends[part] for part in parts):
        if time.monotonic() > deadline:
            raise SystemExit("after %s s not at the end of %s: %d records read" % (deadline_s, topic, read))
        for batch in consumer.poll(timeout_ms=1000, max_records=5000).values():
            read += len(batch)
            records += [json.loads(one.value) for one in batch if one.key in wanted]
    consumer.close()
    json.dump({"read": read, "records": records}, sys.stdout, separators=(",", ":"))


main(*sys.argv[1:])
