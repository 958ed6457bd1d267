# SPDX-License-Identifier: Apache-2.0
"""Runs on a broker's host with the system's Python: produces numbered records with acks=all and writes every acknowledgement to disk.

usage: - BOOTSTRAP TOPIC NAME RATE JOURNAL STOP_FILE
Ends when STOP_FILE appears and nothing is unanswered, or after 20 minutes. Journal: one line "SEQUENCE UNIX_SECONDS" per acknowledged record,
flushed as it comes. Prints {"sent", "acknowledged", "failed"}.
"""
from __future__ import annotations

import glob
import json
import logging
import os
import ssl
import sys
import threading
import time

TLS = "/etc/hnai/kafka/tls/"
LIMIT_S = 1200.0


def main(bootstrap: str, topic: str, name: str, rate: str, journal: str, stop: str) -> None:
    sys.path[:0] = glob.glob("/opt/hnai/probe/current/lib/python%d.%d/site-packages" % sys.version_info[:2])
    from kafka import KafkaProducer

    logging.getLogger("kafka").setLevel(logging.CRITICAL)
    context = ssl.create_default_context(cafile=TLS + "ca.pem")
    context.load_cert_chain(TLS + "cert.pem", TLS + "key.pem")
    producer = KafkaProducer(
        bootstrap_servers=bootstrap.split(","), security_protocol="SSL", ssl_context=context, client_id="hnai-test-" + name,
        acks="all", enable_idempotence=True, linger_ms=20, request_timeout_ms=10000, delivery_timeout_ms=180000, max_block_ms=60000,
        metadata_max_age_ms=5000,
    )
    lock = threading.Lock()
    counts = {"sent": 0, "acknowledged": 0, "failed": 0}
    with open(journal, "w", encoding="ascii", buffering=1) as stream:

        def acknowledged(sequence: int) -> None:
            with lock:
                stream.write("%d %.6f\n" % (sequence, time.time()))
                counts["acknowledged"] += 1

        def failed(_error: object) -> None:
            with lock:
                counts["failed"] += 1

        begin = time.monotonic()
        while not os.path.exists(stop) and time.monotonic() - begin < LIMIT_S:
            due = int((time.monotonic() - begin) * float(rate))
            # After a stall it goes on at the rate, it does not hurry.
            if due - counts["sent"] > float(rate):
                begin += (due - counts["sent"]) / float(rate)
                continue
            while counts["sent"] < due:
                sequence = counts["sent"]
                counts["sent"] += 1
                future = producer.send(topic, value=b"%s %d %s" % (name.encode(), sequence, b"x" * 80), key=b"%d" % sequence)
                future.add_callback(lambda _metadata, sequence=sequence: acknowledged(sequence))
                future.add_errback(failed)
            time.sleep(0.005)
        producer.flush(timeout=180)
        producer.close(timeout=10)
        os.fsync(stream.fileno())
    print(json.dumps(counts))


main(*sys.argv[1:])
