#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
# Apache-2.0 goes together with Ansible's own licence, the GNU General Public License version 3.
"""Module side of kafka_format."""

from __future__ import annotations

DOCUMENTATION = r"""
module: kafka_format
short_description: Format a KRaft log directory at the declared first bootstrap, and only then
version_added: "0.1.0"
author: hnai.platform maintainers (@hnai)
description:
  - Where the log directory has a C(meta.properties), compares its cluster id and node id with the declared ones and changes nothing.
  - An empty directory is formatted only when nothing says that this node ever was part of the cluster. It is refused, with the remedy,
    when O(witness) remembers a format on this host, when a running quorum knows O(node_id) as a broker, when a peer listens but
    cannot be asked, when the node is not one of O(controllers), and unless O(first_bootstrap) is declared. A voter that comes back empty under its
    old identity has forgotten its votes; a majority of them forgets acknowledged records.
  - Formats in a directory beside the final one and renames it, so that a run killed at any moment leaves nothing or everything.
  - Cluster and directory ids are declared, or derived from O(site) and the host's name, so that all nodes agree without talking.
options:
  site:
    description: Name of the site, from which ids are derived.
    type: str
    required: true
  node_id:
    description: Node id of this host.
    type: int
    required: true
  cluster_id:
    description: Cluster id (22 characters); derived when empty.
    type: str
    default: ""
  controllers:
    description: The first quorum.
    type: list
    elements: dict
    required: true
    suboptions:
      node_id:
        description: Node id.
        type: int
        required: true
      host:
        description: Name under which the others reach its controller listener.
        type: str
        required: true
      port:
        description: Port of the controller listener.
        type: int
        required: true
      directory_id:
        description: Id of its log directory (22 characters); derived when empty.
        type: str
        default: ""
  first_bootstrap:
    description: Whether this is declared to be the first deployment of the cluster.
    type: bool
    default: false
  rejoin:
    description: Whether an empty directory takes the place of a lost one in a running cluster. Needs a quorum that answers; the directory gets an id of
      its own making, and M(hnai.platform.kafka_voter) makes it the voter.
    type: bool
    default: false
  log_dir:
    description: The log directory. Its parent exists and, if a file system is mounted, is the mount point.
    type: path
    default: /var/lib/hnai/kafka/data
  config_file:
    description: The broker's configuration.
    type: path
    default: /etc/hnai/kafka/server.properties
  libs:
    description: Directory of the jars.
    type: path
    default: /opt/hnai/kafka/current/libs
  user:
    description: Owner of the log directory, who also runs the storage tool.
    type: str
    default: hnai-kafka
  group:
    description: Group of the log directory.
    type: str
    default: hnai-kafka
  witness:
    description: File outside the log directory that remembers that this host was formatted.
    type: path
    default: /etc/hnai/kafka.formatted.json
  timeout:
    description: Seconds for the storage tool, and for asking the peers.
    type: float
    default: 90.0
extends_documentation_fragment:
  - hnai.platform.kafka
attributes:
  check_mode:
    description: Predicts, also on a host that has nothing yet; refuses what it would refuse.
    support: full
  diff_mode:
    description: The identity.
    support: full
"""

EXAMPLES = r"""
- name: Format the log directory
  hnai.platform.kafka_format:
    site: lab
    node_id: 1
    controllers:
      - {node_id: 1, host: kafka1, port: 9093}
      - {node_id: 2, host: kafka2, port: 9093}
      - {node_id: 3, host: kafka3, port: 9093}
    first_bootstrap: true
    bootstrap: [kafka2:9091, kafka3:9091]
"""

RETURN = r"""
formatted:
  description: Whether the directory was formatted now.
  returned: always
  type: bool
cluster_id:
  description: The cluster's id.
  returned: always
  type: str
directory_id:
  description: The id of this node's log directory.
  returned: always
  type: str
"""

import json
import os

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hnai.platform.plugins.module_utils.hostfiles import Host, HostError, atomic_write, read_file, required_ids
from ansible_collections.hnai.platform.plugins.module_utils.kafka import storage
from ansible_collections.hnai.platform.plugins.module_utils.kafka.adapter import KAFKA_ARGS, Admin, Connection
from ansible_collections.hnai.platform.plugins.module_utils.kafka.ids import IdError
from ansible_collections.hnai.platform.plugins.module_utils.kafka.state import KafkaError, Unreachable
from ansible_collections.hnai.platform.plugins.module_utils.probe_env import ProbeMissing

TOOL = "kafka.tools.StorageTool"


class Formatter:
    """One run on one host."""

    def __init__(self, module: AnsibleModule) -> None:
        given = module.params
        self.module = module
        self.host = Host()
        self.wanted = storage.Wanted(
            site=given["site"], node_id=given["node_id"], log_dir=given["log_dir"], bootstrap=given["first_bootstrap"], cluster_id=given["cluster_id"],
            rejoin=given["rejoin"],
            controllers=tuple(storage.Controller(**item) for item in given["controllers"]),
        )

    def registered(self) -> bool | None:
        """Whether a running quorum knows this node; see storage.ask_peers."""
        connection = Connection.from_params(self.module.params)

        def ask() -> tuple[int, dict[int, bool]]:
            with Admin(connection, min(8.0, self.module.params["timeout"])) as admin:
                return admin.quorum().leader_id, admin.cluster()[1]

        try:
            return storage.ask_peers(connection.bootstrap, self.wanted.node_id, ask, storage.accepts, Unreachable)
        except ProbeMissing:
            if self.module.check_mode:
                return None
            raise

    def tool(self, file: str, cluster: str, initial: str) -> None:
        """The storage tool, as the service's user."""
        given = self.module.params
        command = ["runuser", "-u", given["user"], "--", "java", "-Xmx128m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp", given["libs"] + "/*",
                   TOOL, "format", "-t", cluster, "-c", file, *(["--initial-controllers", initial] if initial else ["--no-initial-controllers"])]
        done = self.host.run(command, timeout=given["timeout"])
        if done.rc != 0:
            raise storage.StorageError(f"the storage tool refused (exit status {done.rc}): {done.message[-1500:]}")

    def own(self, top: str) -> None:
        """A tree belongs to the service."""
        uid, gid = required_ids(self.host, self.module.params["user"], self.module.params["group"], top)
        for place, names, files in os.walk(top):
            for name in [".", *names, *files]:
                self.host.chown(os.path.normpath(os.path.join(place, name)), uid, gid)

    def run(self) -> dict[str, object]:
        """The module's result. Raises StorageError, HostError, IdError, KafkaError or ProbeMissing."""
        given = self.module.params
        meta = storage.identity(self.wanted.log_dir)
        formatted = meta is None
        remembered = read_file(self.host, given["witness"])
        if meta is not None:
            storage.verify(meta, self.wanted)
        else:
            reason = storage.refusal(self.wanted, remembered is not None, self.registered)
            if reason:
                raise storage.StorageError(reason)
            if not self.module.check_mode:
                config = read_file(self.host, given["config_file"])
                if config is None:
                    raise storage.StorageError(f"{given['config_file']}: is not there; converge the configuration tree first")
                storage.format_directory(self.wanted, config.decode(), self.tool, self.own)
                meta = storage.identity(self.wanted.log_dir)
        me = self.wanted.me()
        shown = meta or {"cluster.id": self.wanted.cluster(), "node.id": str(self.wanted.node_id),
                         "directory.id": self.wanted.directory(me) if me else ""}
        content = (json.dumps({key: shown.get(key, "") for key in ("cluster.id", "directory.id", "node.id")}, sort_keys=True) + "\n").encode()
        changed = formatted or remembered != content
        if changed and not self.module.check_mode:
            atomic_write(self.host, given["witness"], content, 0o644, 0, 0)
        diff = {"before": (remembered or b"").decode(), "after": content.decode(), "before_header": given["witness"], "after_header": given["witness"]}
        return {"changed": changed, "formatted": formatted, "cluster_id": shown["cluster.id"], "directory_id": shown.get("directory.id", ""),
                **({"diff": diff} if self.module._diff and changed else {})}


def main() -> None:
    """Reads the arguments, converges, reports."""
    text = {"type": "str", "required": True}
    module = AnsibleModule(
        argument_spec={
            "site": text,
            "node_id": {"type": "int", "required": True},
            "cluster_id": {"type": "str", "default": ""},
            "controllers": {"type": "list", "elements": "dict", "required": True, "options": {
                "node_id": {"type": "int", "required": True}, "host": text, "port": {"type": "int", "required": True},
                "directory_id": {"type": "str", "default": ""}}},
            "first_bootstrap": {"type": "bool", "default": False},
            "rejoin": {"type": "bool", "default": False},
            "log_dir": {"type": "path", "default": "/var/lib/hnai/kafka/data"},
            "config_file": {"type": "path", "default": "/etc/hnai/kafka/server.properties"},
            "libs": {"type": "path", "default": "/opt/hnai/kafka/current/libs"},
            "user": {"type": "str", "default": "hnai-kafka"},
            "group": {"type": "str", "default": "hnai-kafka"},
            "witness": {"type": "path", "default": "/etc/hnai/kafka.formatted.json"},
            "timeout": {"type": "float", "default": 90.0},
            **KAFKA_ARGS,
        },
        supports_check_mode=True,
    )
    try:
        result = Formatter(module).run()
    except (storage.StorageError, HostError, IdError, KafkaError, ProbeMissing, OSError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
