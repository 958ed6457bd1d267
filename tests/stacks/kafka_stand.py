# SPDX-License-Identifier: Apache-2.0
"""Three real Kafka nodes on loopback, configured by role kafka's own template, and the role's own questions to them: its modules, with its arguments.

Each node has an address of its own in 127.0.0.0/8, by which it is called as a host is by its name.
"""
from __future__ import annotations

import contextlib
import os
import random
import re
import secrets
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import jinja2
import yaml
from plant_view import until
from stands import Checks, Judged, artifact, ask

from ansible_collections.hnai.platform.plugins.module_utils.kafka import adapter, ids, listeners, scram, storage
from ansible_collections.hnai.platform.plugins.modules import kafka_canary, kafka_converge, kafka_features, kafka_health

ROLE = Path(__file__).resolve().parents[2] / "roles" / "kafka"
#: As the unit has it, but small, and for a process that lives for minutes.
JVM = ["java", "-Xms64m", "-Xmx256m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-XX:+ExitOnOutOfMemoryError", "-Djava.awt.headless=true"]
#: Node id → its rack. Two for three nodes: a partition on the first two is in one.
RACKS = {1: "hall-a", 2: "hall-a", 3: "hall-b"}
#: A slow machine is no fault, and neither is a node that a test stops for a while. No more partitions than are needed, and what is copied at once
#: is little.
SETTINGS = {"controller.quorum.fetch.timeout.ms": 60000, "broker.session.timeout.ms": 30000, "offsets.topic.num.partitions": 3,
            "replica.fetch.max.bytes": 16384}
#: What this stand's clients are and may, as the contracts' filter would give it.
LEVELS = {"shipper": 3, "reader": 4}
ACLS = [
    {"principal": "User:shipper", "resource_type": "topic", "name": "ot.raw", "operation": "write"},
    {"principal": "User:reader", "resource_type": "topic", "name": "ot.raw", "operation": "read"},
]
START_S = 600.0
#: A verdict's time in seconds: twice and more of what a host has for it.
TIMES = {"deadline": 150.0}
#: What the canary's records and positions may take (ms): how fast this machine is, is not asked.
SLOW = {"ack_p95_ms": 20000.0, "round_trip_p95_ms": 30000.0, "commit_ms": 20000.0}


def role(name: str) -> dict[str, Any]:
    """A YAML file of the role; of defaults and variables those that need no template."""
    found = yaml.safe_load((ROLE / name).read_text(encoding="utf-8"))
    return {key: value for key, value in found.items() if not (isinstance(value, str) and "{{" in value)}


DEFAULTS = role("defaults/main.yml")
LISTENERS = role("vars/main.yml")["__kafka_listeners"]
#: As the role's __kafka_topics.
TOPICS = [{"replication_factor": DEFAULTS["kafka_replication_factor"], "config": {"min.insync.replicas": DEFAULTS["kafka_min_insync_replicas"]}, **topic}
          for topic in DEFAULTS["kafka_topics"]]
LEVELS_OF = role("vars/main.yml")["__kafka_releases"]
#: What runs, and the release before, at whose levels the cluster is formatted.
RELEASE, OLDER = DEFAULTS["kafka_version"], next(one for one in LEVELS_OF if one != DEFAULTS["kafka_version"])


def jars(folder: Path, release: str = RELEASE) -> Path:
    """The jars of a release, out of the artifact store; what `make lab` did not put there is fetched."""
    return artifact("kafka", release, folder) / "libs"


def _properties(nodes: Mapping[int, str], node: int, ports: Mapping[str, int], folder: Path) -> str:
    """server.properties, made by the role's template."""
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, autoescape=False)
    environment.filters["regex_replace"] = lambda text, pattern, with_: re.sub(pattern, with_, text)
    environment.filters["regex_escape"] = re.escape
    here = nodes[node]
    template = environment.from_string((ROLE / "tree/etc/hnai/kafka/server.properties.j2").read_text(encoding="utf-8"))
    text = template.render(**{
        **DEFAULTS, "ansible_managed": "", "groups": {"kafka": list(nodes.values())}, "inventory_hostname": here, "kafka_node_id": node,
        "kafka_bind_address": here, "kafka_advertised_l3": here, "kafka_advertised_l4": here, "kafka_rack": RACKS[node], "kafka_config": SETTINGS,
        # Leaders stay where a test has put them; the second directory is there to move to.
        "kafka_leader_rebalance_s": 86400, "__kafka_ports": ports, "__kafka_log_dir": f"{folder}/data,{folder}/more"})
    return text.replace("/etc/hnai/kafka/tls", str(folder))


@dataclass
class Node:
    """One broker and controller."""

    id: int
    address: str
    folder: Path
    libs: Path
    process: subprocess.Popen[bytes] | None = None

    @property
    def config(self) -> Path:
        return self.folder / "server.properties"

    def start(self) -> None:
        """As the unit does."""
        logging_ = ["-Dlog4j2.configurationFile=" + str(ROLE / "tree/etc/hnai/kafka/log4j2.xml")]
        with (self.folder / "log").open("ab") as log:
            # It ends with the test, however that ends.
            self.process = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", *JVM, *logging_, "-cp", f"{self.libs}/*", "kafka.Kafka", str(self.config)],
                                            cwd=self.folder, stdout=log, stderr=subprocess.STDOUT)

    def send(self, number: int) -> None:
        """Whatever it does just now."""
        assert self.process is not None
        self.process.send_signal(number)

    def stop(self, number: int = signal.SIGKILL) -> None:
        """SIGTERM: it hands its leaders over first."""
        if self.process is not None:
            self.send(number)
            self.process.wait(120)
            self.process = None

    def ports(self) -> dict[int, str]:
        """What listeners.open_ports gives, of this process: there are no units here."""
        assert self.process is not None
        place = Path("/proc", str(self.process.pid))
        mine = set()
        for one in (place / "fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # Closed meanwhile.
                mine.add(os.readlink(one))
        found = {}
        for family in ("tcp", "tcp6"):
            for line in (place / "net" / family).read_text(encoding="ascii").splitlines()[1:]:
                word = line.split()
                if word[3] == "0A" and f"socket:[{word[9]}]" in mine:
                    address, _, port = word[1].rpartition(":")
                    found[int(port, 16)] = address
        return found


@dataclass
class Cluster(Judged):
    """Three nodes, their authority, and the questions that the role asks.

    Judged is what node *at* says of its health, where the release *declared* is. A cluster comes to rest by itself.
    """

    patience_s = 240.0
    settles = True

    folder: Path
    ports: dict[str, int] = field(default_factory=dict)
    nodes: dict[int, Node] = field(default_factory=dict)
    id: str = ids.derive("stand", "cluster")
    at: int = 1
    declared: str = OLDER
    users: dict[str, str] = field(default_factory=lambda: {name: secrets.token_urlsafe(24) for name in LEVELS})

    # -- making it ----------------------------------------------------------------------------------------------------

    def make(self) -> Cluster:
        """Formats and starts."""
        libs = jars(self.folder)
        net = "127.%d.%d" % (random.SystemRandom().randrange(1, 255), random.SystemRandom().randrange(256))
        addresses = {node: f"{net}.{node}" for node in RACKS}
        self.ports = {one["name"]: self._free(addresses[1]) for one in LISTENERS}
        self._openssl("req", "-x509", *_KEY, "-days", "30", "-subj", "/CN=stand", "-addext", "keyUsage=critical,keyCertSign", "-keyout", "ca.key", "-out",
                      "ca.pem")
        for node, address in addresses.items():
            one = self.nodes[node] = Node(node, address, self.folder / str(node), libs)
            one.folder.mkdir()
            self._certificate(one)
            one.config.write_text(_properties(addresses, node, self.ports, one.folder), encoding="utf-8")
        for one in self.nodes.values():
            self._format(one)
        for one in self.nodes.values():
            one.start()
        self.wait()
        self.converge()
        return self

    def wait(self) -> None:
        """Until every node is there, its copies are whole and its leaders are given back, as the role's roll waits."""
        until("the nodes are not there", lambda: self._alive() == set(self.nodes), START_S)
        until("the copies are not whole", self._settled, START_S)

    def _settled(self) -> bool:
        try:
            with self.admin() as admin:
                admin.elect_preferred()
                seen = admin.snapshot()
        except adapter.KafkaError:
            return False
        return not (seen.off_preferred() or seen.under_replicated())

    @staticmethod
    def _free(address: str) -> int:
        with socket.socket() as one:
            one.bind((address, 0))
            return int(one.getsockname()[1])

    def _openssl(self, *argv: str) -> None:
        subprocess.run(["openssl", *argv], check=True, capture_output=True, cwd=self.folder, timeout=60)

    def _certificate(self, one: Node) -> None:
        """As the role's identity step has it: the files of a broker, and a keystore of both."""
        name = str(one.id)
        (self.folder / "leaf.ext").write_text(f"subjectAltName=IP:{one.address}\nkeyUsage=digitalSignature\n"
                                              "subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n", encoding="utf-8")
        self._openssl("req", *_KEY, "-subj", f"/OU=kafka/CN={one.address}", "-keyout", f"{name}/key.pem", "-out", f"{name}/csr.pem")
        self._openssl("x509", "-req", "-in", f"{name}/csr.pem", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "20", "-extfile", "leaf.ext",
                      "-out", f"{name}/cert.pem")
        shutil.copy(self.folder / "ca.pem", one.folder)
        (one.folder / "keystore.pem").write_text("".join((one.folder / file).read_text(encoding="ascii") for file in ("key.pem", "cert.pem")), encoding="ascii")

    def _format(self, one: Node) -> None:
        quorum = tuple(storage.Controller(each.id, each.address, self.ports["controller"]) for each in self.nodes.values())
        wanted = storage.Wanted("stand", one.id, str(one.folder / "data"), quorum, True)
        first = self.nodes[1].folder / "data"

        def meta(source: Path, target: Path, directory: str) -> None:
            known = {**storage.read_properties((source / storage.META).read_text(encoding="utf-8")), "node.id": str(one.id), "directory.id": directory}
            (target / storage.META).write_text("".join(f"{key}={value}\n" for key, value in known.items()), encoding="utf-8")

        def tool(file: str, cluster: str, initial: str) -> None:
            if one.id == 1:
                subprocess.run([*JVM, "-cp", f"{one.libs}/*", "kafka.tools.StorageTool", "format", "-t", cluster, "-c", file, "--initial-controllers", initial,
                                "--release-version", OLDER.rpartition(".")[0]],
                               check=True, capture_output=True, timeout=START_S)
                return
            # What it leaves on the others differs in two ids, and a JVM costs seconds.
            data = Path(file).parent / "data"
            shutil.copytree(first, data, dirs_exist_ok=True)
            meta(first, data, wanted.directory(quorum[one.id - 1]))

        storage.format_directory(wanted, one.config.read_text(encoding="utf-8"), tool, lambda path: None)
        # The role has one directory; of a second one the tool writes this file and no more.
        (one.folder / "more").mkdir()
        meta(first, one.folder / "more", ids.derive("more", one.address))

    def _alive(self) -> set[int]:
        dead = [one.id for one in self.nodes.values() if one.process is not None and one.process.poll() is not None]
        assert not dead, [(self.nodes[node].folder / "log").read_text(encoding="utf-8")[-3000:] for node in dead]
        try:
            with self.admin() as admin:
                return set(admin.broker_ids())
        except adapter.KafkaError:
            return set()

    def restart(self, node: int) -> None:
        """As the unit does; it is there again."""
        self.nodes[node].stop(signal.SIGTERM)
        self.nodes[node].start()
        self.wait()

    @contextlib.contextmanager
    def stranger(self, node: int) -> Iterator[None]:
        """At a node's address, with its certificate, one of the release before, which is a cluster by itself; the node is away."""
        here = self.nodes[node]
        other = Node(node, here.address, self.folder / "stranger", jars(self.folder, OLDER))
        shutil.copytree(here.folder, other.folder, ignore=shutil.ignore_patterns("data", "more", "log"))
        # The same super users: Kafka ends where the one that it takes for its leader does not let it in.
        other.config.write_text(here.config.read_text(encoding="utf-8").replace(str(here.folder), str(other.folder)), encoding="utf-8")
        subprocess.run([*JVM, "-cp", f"{other.libs}/*", "kafka.tools.StorageTool", "format", "-t", ids.derive("stand", "stranger"), "-c", str(other.config),
                        "--standalone"], check=True, capture_output=True, timeout=START_S)
        here.stop(signal.SIGTERM)
        other.start()
        try:
            until("the stranger is not there", lambda: self._greets(node), START_S)
            yield
        finally:
            other.stop()
            here.start()
            self.wait()

    def _greets(self, node: int) -> bool:
        try:
            with self.stream(node, "internal"):
                return True
        except scram.LoginError:
            return False

    def close(self) -> None:
        """Nothing of it runs on."""
        for one in self.nodes.values():
            one.stop()

    # -- asking it ----------------------------------------------------------------------------------------------------

    def connection(self, node: int) -> adapter.Connection:
        """How this node's modules reach the cluster."""
        return adapter.Connection.from_params(self._reached(node))

    def _reached(self, node: int) -> dict[str, Any]:
        """The role's __kafka_admin: this host first."""
        here = self.nodes[node]
        order = [here, *(one for one in self.nodes.values() if one is not here)]
        files = {"ca_file": "ca.pem", "cert_file": "cert.pem", "key_file": "key.pem"}
        return {"bootstrap": [f"{one.address}:{self.ports['internal']}" for one in order], **{key: str(here.folder / file) for key, file in files.items()}}

    @contextlib.contextmanager
    def admin(self, node: int = 1) -> Iterator[adapter.Admin]:
        """The product's own client, as this node's modules open it."""
        with mock.patch.object(adapter, "activate"), adapter.Admin(self.connection(node), 20.0) as admin:
            yield admin

    def stream(self, node: int, listener: str) -> contextlib.AbstractContextManager[scram.Stream]:
        """A connection to one listener with the certificate of another broker."""
        reached = self.connection(next(each for each in self.nodes if each != node))
        context = scram.tls_context(reached.ca_file, reached.cert_file, reached.key_file)
        return scram.connected([f"{self.nodes[node].address}:{self.ports[listener]}"], context, 20.0)

    def fill(self, topic: str, records: int) -> None:
        """Records of a kilobyte in partition 0."""
        with mock.patch.object(adapter, "activate"):
            pipe = adapter.Pipe(self.connection(1), topic, [0], 120.0)
        answers: list[object] = []
        for _each in range(records):
            pipe.send(0, secrets.token_bytes(1000), answers.append)
        until("the records are not acknowledged", lambda: len(answers) == records, 150)
        pipe.close()
        assert not any(answers), answers

    def _answer(self, module: Any, node: int, arguments: Mapping[str, Any]) -> dict[str, Any]:
        # kafka-python is this environment's own; the sockets are those of the node's process.
        with mock.patch.object(adapter, "activate"), mock.patch.object(listeners, "open_ports", return_value=self.nodes[node].ports()):
            return ask(module, {**self._reached(node), **arguments})

    def converge(self, **otherwise: Any) -> dict[str, Any]:
        """tasks/site.yml; *otherwise*: arguments that somebody declared in another way."""
        users = [{"name": name, "password": password, "mechanisms": DEFAULTS["kafka_scram_mechanisms"]} for name, password in self.users.items()]
        return self._answer(kafka_converge, 1, {
            "login_address": f"{self.nodes[1].address}:{self.ports['l3']}", "super_users": [one.address for one in self.nodes.values()], "topics": TOPICS,
            "users": users, "acls": ACLS, "principal_levels": LEVELS, "timeout": DEFAULTS["kafka_ready_timeout_s"],
            **otherwise})

    def raise_levels(self) -> None:
        """tasks/features.yml, for the release that runs."""
        controllers = [f"{one.address}:{self.ports['controller']}" for one in self.nodes.values()]
        self._answer(kafka_features, 1, {"features": LEVELS_OF[RELEASE], "controllers": controllers})
        self.declared = RELEASE

    def judge(self) -> Checks:
        """tasks/verify.yml."""
        node = self.at
        return self._answer(kafka_health, node, {
            "node_id": node, "host": self.nodes[node].address, "expected_nodes": list(self.nodes), "principal_levels": LEVELS,
            "mechanisms": dict.fromkeys(LEVELS, DEFAULTS["kafka_scram_mechanisms"]),
            "super_users": [one.address for one in self.nodes.values()], "features": LEVELS_OF[self.declared],
            "listeners": [{**one, "port": self.ports[one["name"]]} for one in LISTENERS],
            "controllers": [f"{self.nodes[node].address}:{self.ports['controller']}"], "acls": ACLS,
            "topics": TOPICS, "quotas": {}, "groups": {}, "min_insync_replicas": DEFAULTS["kafka_min_insync_replicas"],
            "log_dir": str(self.nodes[node].folder / "data"), "config_file": str(self.nodes[node].config), "version": RELEASE, "collect": True, **TIMES,
            "max_group_age_s": DEFAULTS["kafka_max_group_age_s"], "max_voter_lag_ms": DEFAULTS["kafka_max_voter_lag_ms"]})["checks"]

    def canary(self) -> Checks:
        """The canary of tasks/verify_full.yml."""
        return self._answer(kafka_canary, 1, {
            "expected_nodes": list(self.nodes), "records": DEFAULTS["kafka_canary_records"], "version": RELEASE, "collect": True, **TIMES, **SLOW})["checks"]


_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
