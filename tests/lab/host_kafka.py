# SPDX-License-Identifier: Apache-2.0
"""Runs on a broker's host with the system's Python: faults in what the cluster holds, made and taken back over the broker's own certificate.

usage: - BOOTSTRAP ACTION JSON; prints JSON. Actions: acl {entry, present}, topic {name, replicas, config}, delete {name},
config {topic, set}, feature {name, level}, user {name, present, mechanism}, reassign {topic, partition, replicas or null}, quorum {}, voters {}, names {}.
"""
from __future__ import annotations

import base64
import glob
import json
import logging
import ssl
import sys
import uuid
from typing import Any

TLS = "/etc/hnai/kafka/tls/"


def main(bootstrap: str, action: str, given: dict[str, Any]) -> Any:
    """The answer of one action."""
    sys.path[:0] = glob.glob("/opt/hnai/probe/current/lib/python%d.%d/site-packages" % sys.version_info[:2])
    import kafka.admin as api
    from kafka import TopicPartition

    logging.getLogger("kafka").setLevel(logging.CRITICAL)
    context = ssl.create_default_context(cafile=TLS + "ca.pem")
    context.load_cert_chain(TLS + "cert.pem", TLS + "key.pem")
    client = api.KafkaAdminClient(
        bootstrap_servers=bootstrap.split(","), security_protocol="SSL", ssl_context=context, client_id="hnai-test",
        request_timeout_ms=20000, bootstrap_timeout_ms=20000,
    )
    try:
        if action == "acl":
            entry = given["entry"]
            kind, pattern = (api.ACL, api.ResourcePattern) if given["present"] else (api.ACLFilter, api.ResourcePatternFilter)
            one = kind(principal=entry["principal"], host="*", operation=api.ACLOperation[entry["operation"]],
                       permission_type=api.ACLPermissionType.ALLOW,
                       resource_pattern=pattern(api.ResourceType[entry["type"]], entry["name"], api.ACLResourcePatternType.LITERAL))
            answer: Any = client.create_acls([one]) if given["present"] else client.delete_acls([one])
        elif action == "topic":
            replicas = {int(number): nodes for number, nodes in given["replicas"].items()}
            answer = client.create_topics({given["name"]: {"assignments": replicas, "configs": given.get("config", {})}})
            client.wait_for_topics([given["name"]], timeout_ms=20000)
        elif action == "delete":
            answer = client.delete_topics([given["name"]], raise_errors=False)
        elif action == "config":
            resource = api.ConfigResource(api.ConfigResourceType.TOPIC, given["topic"], given["set"] or {given["key"]: None})
            answer = client.alter_configs([resource], incremental=True) if given["set"] else client.reset_configs([resource], incremental=True)
        elif action == "feature":
            current = client.describe_features()[given["name"]]["finalized"][1]
            kind = api.UpdateFeatureType.SAFE_DOWNGRADE if given["level"] < current else api.UpdateFeatureType.UPGRADE
            answer = client.update_features({given["name"]: (kind, given["level"])})
        elif action == "user":
            mechanism = given.get("mechanism", "SCRAM_SHA_512")
            change = (api.UserScramCredentialUpsertion(given["name"], mechanism, "only-for-a-test", iterations=8192) if given["present"]
                      else api.UserScramCredentialDeletion(given["name"], mechanism))
            answer = client.alter_user_scram_credentials([change])
        elif action == "reassign":
            answer = str(client.alter_partition_reassignments({TopicPartition(given["topic"], given["partition"]): given["replicas"]}))
        elif action == "quorum":
            answer = client.describe_metadata_quorum()["topics"][0]["partitions"][0]["leader_id"]
        elif action == "voters":  # Directory ids as meta.properties has them.
            found = client.describe_metadata_quorum()["topics"][0]["partitions"][0]["current_voters"]
            answer = {one["replica_id"]: base64.urlsafe_b64encode(uuid.UUID(str(one["replica_directory_id"])).bytes).decode().rstrip("=") for one in found}
        elif action == "names":
            answer = {"topics": client.list_topics(), "groups": [one["group_id"] for one in client.list_groups()]}
        else:
            raise SystemExit("no action %s" % action)
    finally:
        client.close()
    return answer


print(json.dumps(main(sys.argv[1], sys.argv[2], json.loads(sys.argv[3])), default=str))
