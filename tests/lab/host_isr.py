# SPDX-License-Identifier: Apache-2.0
"""Runs on a broker's host with the system's Python: looks about once a second how many partitions lack a replica.

usage: - BOOTSTRAP FILE SECONDS
FILE: one line "UNIX_SECONDS N" per look, flushed as it comes; N = partitions without a leader or with a replica out of sync, -1: nobody answered.
"""
from __future__ import annotations

import glob
import logging
import ssl
import sys
import time

TLS = "/etc/hnai/kafka/tls/"


def main(bootstrap: str, path: str, seconds: str) -> None:
    sys.path[:0] = glob.glob("/opt/hnai/probe/current/lib/python%d.%d/site-packages" % sys.version_info[:2])
    import kafka.admin as api
    from kafka.errors import KafkaError

    logging.getLogger("kafka").setLevel(logging.CRITICAL)
    context = ssl.create_default_context(cafile=TLS + "ca.pem")
    context.load_cert_chain(TLS + "cert.pem", TLS + "key.pem")
    client, end = None, time.monotonic() + float(seconds)
    with open(path, "w", encoding="ascii", buffering=1) as stream:
        while time.monotonic() < end:
            began = time.time()
            try:
                if client is None:
                    client = api.KafkaAdminClient(
                        bootstrap_servers=bootstrap.split(","), security_protocol="SSL", ssl_context=context, client_id="hnai-test",
                        request_timeout_ms=4000, bootstrap_timeout_ms=8000,
                    )
                parts = [part for topic in client.describe_topics() for part in topic["partitions"]]
                lacking = sum(part["leader_id"] < 0 or set(part["isr_nodes"]) != set(part["replica_nodes"]) for part in parts) if parts else -1
            except (KafkaError, OSError, RuntimeError, ValueError):
                lacking = -1
                if client is not None:
                    client.close()
                    client = None
            stream.write("%.3f %d\n" % (began, lacking))
            time.sleep(1)


main(*sys.argv[1:])
