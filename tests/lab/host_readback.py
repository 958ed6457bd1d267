# SPDX-License-Identifier: Apache-2.0
"""Runs on a broker's host with the system's Python: a fresh consumer reads a topic of host_produce.py from its earliest record.

usage: - BOOTSTRAP TOPIC DEADLINE_S NAME …
Prints {name: [first..last as [from, to] ranges that were read], ...} and {"twice": count of records read more than once}.
"""
from __future__ import annotations

import glob
import json
import logging
import ssl
import sys
import time

TLS = "/etc/hnai/kafka/tls/"


def ranges(numbers: set[int]) -> list[list[int]]:
    """[[first, last], ...] of consecutive numbers."""
    found: list[list[int]] = []
    for number in sorted(numbers):
        if found and number == found[-1][1] + 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return found


def main(bootstrap: str, topic: str, deadline_s: str, *names: str) -> None:
    sys.path[:0] = glob.glob("/opt/hnai/probe/current/lib/python%d.%d/site-packages" % sys.version_info[:2])
    from kafka import KafkaConsumer, TopicPartition

    logging.getLogger("kafka").setLevel(logging.CRITICAL)
    deadline = time.monotonic() + float(deadline_s)
    context = ssl.create_default_context(cafile=TLS + "ca.pem")
    context.load_cert_chain(TLS + "cert.pem", TLS + "key.pem")
    consumer = KafkaConsumer(
        bootstrap_servers=bootstrap.split(","), security_protocol="SSL", ssl_context=context, group_id=None, enable_auto_commit=False,
        auto_offset_reset="earliest", client_id="hnai-test", max_partition_fetch_bytes=4 << 20, fetch_max_bytes=16 << 20,
    )
    parts = [TopicPartition(topic, number) for number in sorted(consumer.partitions_for_topic(topic) or ())]
    consumer.assign(parts)
    consumer.seek_to_beginning(*parts)
    ends = consumer.end_offsets(parts)
    read: dict[str, set[int]] = {name: set() for name in names}
    twice = 0
    while any(consumer.position(part) < ends[part] for part in parts):
        if time.monotonic() > deadline:
            raise SystemExit("after %s s not at the end of %s" % (deadline_s, topic))
        for batch in consumer.poll(timeout_ms=1000, max_records=20000).values():
            for record in batch:
                name, sequence = record.value.split()[:2]
                seen = read[name.decode()]
                twice += int(sequence) in seen
                seen.add(int(sequence))
    consumer.close()
    print(json.dumps({"read": {name: ranges(numbers) for name, numbers in read.items()}, "twice": twice}))


main(*sys.argv[1:])
