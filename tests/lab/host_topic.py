# SPDX-License-Identifier: Apache-2.0
"""Runs on a broker's host: writes records to a topic, or reads them as they lie there, by the broker's own certificate.

usage: - write BOOTSTRAP TOPIC JSON          JSON: [[key or null, base64 of the value], …], in this order; prints how many were acknowledged
       - read BOOTSTRAP TOPIC START_MS       what arrived since then: [{"key", "value" (base64), "headers": {name: text}}]
"""
from __future__ import annotations

import base64
import glob
import json
import logging
import ssl
import sys

TLS = "/etc/hnai/kafka/tls/"


def main(mode: str, bootstrap: str, topic: str, argument: str) -> None:
    sys.path[:0] = glob.glob("/opt/hnai/probe/current/lib/python%d.%d/site-packages" % sys.version_info[:2])
    from kafka import KafkaConsumer, KafkaProducer, TopicPartition

    logging.getLogger("kafka").setLevel(logging.CRITICAL)
    context = ssl.create_default_context(cafile=TLS + "ca.pem")
    context.load_cert_chain(TLS + "cert.pem", TLS + "key.pem")
    access = {"bootstrap_servers": [bootstrap], "security_protocol": "SSL", "ssl_context": context, "client_id": "hnai-test"}
    if mode == "write":
        producer = KafkaProducer(acks="all", **access)
        sent = [producer.send(topic, key=key and key.encode(), value=base64.b64decode(value)) for key, value in json.loads(argument)]
        producer.flush(30)
        print(len([one.get(timeout=30) for one in sent]))
        producer.close(10)
        return
    consumer = KafkaConsumer(group_id=None, enable_auto_commit=False, **access)
    parts = [TopicPartition(topic, number) for number in sorted(consumer.partitions_for_topic(topic) or ())]
    consumer.assign(parts)
    ends, begins = consumer.end_offsets(parts), consumer.offsets_for_times({part: int(argument) for part in parts})
    found = []
    for part in parts:
        begin = begins.get(part)
        consumer.seek(part, begin.offset if begin else ends[part])
    while any(consumer.position(part) < ends[part] for part in parts):
        for batch in consumer.poll(timeout_ms=1000).values():
            for one in batch:
                key = one.key.decode("utf-8", "replace") if one.key else None
                headers = {name: value.decode("utf-8", "replace") for name, value in one.headers}
                found.append({"key": key, "value": base64.b64encode(one.value or b"").decode("ascii"), "headers": headers})
    consumer.close()
    json.dump(found, sys.stdout)


main(*sys.argv[1:])
