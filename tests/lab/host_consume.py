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

TLS = "/etc/hnai/kafka/tls/"


def main(bootstrap: str, topic: str, start_ms: str, deadline_s: str, *keys: str) -> None:
    sys.path[:0] = glob.glob("/opt/hnai/probe/current/lib/python%d.%d/site-packages" % sys.version_info[:2])
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
