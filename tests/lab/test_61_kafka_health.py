# SPDX-License-Identifier: Apache-2.0
"""Faults of the real cluster, one after the other: each is named by its own check, by no other than its listed consequences, and is over after its repair.

One verdict per fault: the verdict under the next fault also shows that the one before is over. Scenario kafka-faults; it takes all of them, those that
need no restart, and one lost broker.
"""
from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from conftest import Lab
from plant_view import program, until

pytestmark = pytest.mark.scenario("kafka-faults")
UNIT = "hnai-kafka.service"
CONFIG = "/etc/hnai/kafka/server.properties"
KEYSTORE = "/etc/hnai/kafka/tls/keystore.pem"
KEPT = "/run/hnai-test-kept"
DATA = "/var/lib/hnai/kafka/data"
TOPIC = "hnai.test.two-replicas"
#: What a broker that is away brings about everywhere.
AWAY = frozenset({"B1", "B4", "B5", "B6", "Q3", "Q5", "Q6"})
#: What cannot be asked of a broker that is away.
OPEN = frozenset({"F3", "L1", "L2", "C3", "B8", "B11", "S8"})
Found = dict[tuple[str, str, str], str]


def cluster(lab: Lab, action: str, given: dict[str, Any] | None = None, host: str = "") -> Any:
    """One action of host_kafka.py on a broker's host."""
    brokers = lab.groups["kafka"]
    bootstrap = ",".join(f"{name}:9091" for name in brokers)
    return lab.python(host or brokers[0], program("host_kafka"), bootstrap, action, json.dumps(given or {}))


def systemctl(lab: Lab, host: str, *argv: str) -> None:
    """systemctl on a broker's host."""
    lab.run(host, "systemctl", *argv, timeout=240)


def edited(lab: Lab, host: str, old: str, new: str) -> None:
    """A line of the broker's configuration, changed by hand as somebody on the host would."""
    code = ("import sys; path, old, new = sys.argv[1:]; text = open(path).read(); assert old in text, old; "
            "open(path, 'w').write(text.replace(old, new)); print('1')")
    lab.python(host, code, CONFIG, old, new)


def kept(lab: Lab, host: str, path: str) -> None:
    """A copy with owner and mode, to be put back."""
    lab.run(host, "cp", "-a", path, KEPT)


def put_back(lab: Lab, host: str, path: str) -> None:
    """The copy is in place again."""
    lab.run(host, "mv", KEPT, path)


def verdict(lab: Lab, hosts: list[str] | None = None) -> Found:
    """{(host, id, subject): status} of every check of kafka, freshly made."""
    limit = ["--limit", ",".join(hosts)] if hosts else []
    run = lab.play("playbooks/verify.yml", "--tags", "kafka", *limit, timeout=400)
    record = json.loads((lab.state / "verdicts" / "latest" / "record.json").read_text(encoding="utf-8"))
    assert record["covers"]["components"] == ["kafka"], run.stdout[-3000:]
    # V-kafka stands for a verdict that did not come.
    found = {
        (one["host"], check["id"], check.get("subject", "")): check["status"]
        for one in record["verdicts"] for check in one["checks"] if check["id"] != "V-kafka"
    }
    assert {host for host, _id, _subject in found} == set(hosts or lab.groups["kafka"]), run.stdout[-3000:]
    return found


def ids(found: Found, status: str) -> set[str]:
    """Ids that have a status on some host."""
    return {name for (_host, name, _subject), one in found.items() if one == status}


def whole(lab: Lab) -> None:
    """Everything passes again."""
    seen: list[Found] = []

    def good() -> bool:
        seen.append(verdict(lab))
        return not ids(seen[-1], "fail") | ids(seen[-1], "inconclusive")

    try:
        until("kafka is not whole", good, 150, 2)
    finally:
        last = {key: status for key, status in seen[-1].items() if status in ("fail", "inconclusive")} if seen else {}
        print("not whole:", last) if last else None


@dataclass(frozen=True)
class Fault:
    """`must` fails, `may` fail with it, `unknown` may be inconclusive; nothing else. `seen_by`: indices of the brokers that are asked."""

    make: Callable[[Lab], None]
    repair: Callable[[Lab], None]
    must: frozenset[str]
    may: frozenset[str] = frozenset()
    unknown: frozenset[str] = frozenset()
    seen_by: tuple[int, ...] = (0, 1, 2)
    patience_s: float = 20.0
    cleanup: Callable[[Lab], None] = field(default=lambda lab: None)


def broker(lab: Lab, number: int) -> str:
    """Host of a broker, by its place in the inventory."""
    return lab.groups["kafka"][number]


GENEROUS = {"principal": "User:telegraf-shipper", "operation": "READ", "type": "TOPIC", "name": "ot.raw"}
#: module_utils/kafka/users.py
ANCHOR = "hnai-anchor-wquozdw"
#: Reading implies describing, so nobody is hurt while it is gone.
MISSING = {"principal": "User:flink", "operation": "DESCRIBE", "type": "TOPIC", "name": "ot.raw"}
STYLE = ("controller.quorum.bootstrap.servers=", "controller.quorum.voters=")


def lose_a_broker(lab: Lab) -> None:
    """Broker 2 is killed, and a topic that stands on two replicas falls under its min.insync.replicas."""
    nodes = [lab.var(broker(lab, n), "kafka_node_id") for n in (0, 1)]
    cluster(lab, "topic", {"name": TOPIC, "replicas": {"0": nodes}, "config": {"min.insync.replicas": "2"}})
    systemctl(lab, broker(lab, 1), "kill", "--signal=KILL", UNIT)
    systemctl(lab, broker(lab, 1), "stop", UNIT)

    def noticed() -> bool:
        return bool({"B1", "B3"} <= ids(verdict(lab, [broker(lab, 0)]), "fail"))

    until("nobody notices the lost broker", noticed, 60, 1)


def the_broker_returns(lab: Lab) -> None:
    systemctl(lab, broker(lab, 1), "start", UNIT)


def reader_stops(lab: Lab) -> None:
    host = lab.groups["telegraf_writer"][0]
    systemctl(lab, host, "stop", "hnai-telegraf-writer.service")


def reader_returns(lab: Lab) -> None:
    systemctl(lab, lab.groups["telegraf_writer"][0], "start", "hnai-telegraf-writer.service")


def follower(lab: Lab) -> int:
    """Place of a broker that is not the active controller."""
    leader = cluster(lab, "quorum")
    return next(n for n, host in enumerate(lab.groups["kafka"]) if n and lab.var(host, "kafka_node_id") != leader)


def foreign_certificate(lab: Lab) -> None:
    """Broker 3 comes back with a certificate that nobody signed."""
    host = broker(lab, 2)
    kept(lab, host, KEYSTORE)
    made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30", "-subj", f"/CN={host}",
            "-addext", f"subjectAltName=DNS:{host}", "-keyout", "/run/hnai-test.key", "-out", "/run/hnai-test.crt"]
    lab.run(host, *made)
    code = ("import sys; text = open('/run/hnai-test.key').read() + open('/run/hnai-test.crt').read(); "
            "open(sys.argv[1], 'w').write(text); print('1')")
    lab.python(host, code, KEYSTORE)
    lab.run(host, "rm", "-f", "/run/hnai-test.key", "/run/hnai-test.crt")
    systemctl(lab, host, "restart", UNIT)


def own_certificate(lab: Lab) -> None:
    put_back(lab, broker(lab, 2), KEYSTORE)
    systemctl(lab, broker(lab, 2), "restart", UNIT)


def plaintext_listener(lab: Lab) -> None:
    """Broker 3 listens on one more port, without TLS."""
    host = broker(lab, 2)
    kept(lab, host, CONFIG)
    edited(lab, host, "CONTROLLER://:", "PLAIN://:9092,CONTROLLER://:")
    edited(lab, host, "map=CONTROLLER:SSL", "map=PLAIN:PLAINTEXT,CONTROLLER:SSL")
    edited(lab, host, "advertised.listeners=", f"advertised.listeners=PLAIN://{host}:9092,")
    systemctl(lab, host, "restart", UNIT)


def own_configuration(lab: Lab) -> None:
    put_back(lab, broker(lab, 2), CONFIG)
    systemctl(lab, broker(lab, 2), "restart", UNIT)


def read_only(lab: Lab) -> None:
    lab.run(broker(lab, 2), "mount", "--bind", DATA, DATA)
    lab.run(broker(lab, 2), "mount", "-o", "remount,bind,ro", DATA)


def writable(lab: Lab) -> None:
    lab.run(broker(lab, 2), "umount", DATA)
    systemctl(lab, broker(lab, 2), "restart", UNIT)


stopped: list[int] = []


def stall(lab: Lab) -> None:
    """A controller that follows is stopped in its tracks: its sockets still accept."""
    stopped[:] = [follower(lab)]
    systemctl(lab, broker(lab, stopped[0]), "kill", "--signal=STOP", UNIT)
    time.sleep(3)  # longer than the two seconds that a voter may lag


def go_on(lab: Lab) -> None:
    systemctl(lab, broker(lab, stopped[0]), "kill", "--signal=CONT", UNIT)


def writes_the_anchor(lab: Lab) -> None:
    """The remedy that the check names."""
    run = lab.play("site.yml", "--skip-tags", "verify", "--tags", "kafka", timeout=600)
    assert run.rc == 0, run.stdout[-3000:]


QUICK = {
    "too generous ACL": Fault(
        lambda lab: cluster(lab, "acl", {"entry": GENEROUS, "present": True}),
        lambda lab: cluster(lab, "acl", {"entry": GENEROUS, "present": False}), frozenset({"S5"})),
    "unclean election in a topic": Fault(
        lambda lab: cluster(lab, "config", {"topic": "ot.deadletter", "set": {"unclean.leader.election.enable": "true"}}),
        lambda lab: cluster(lab, "config", {"topic": "ot.deadletter", "set": {}, "key": "unclean.leader.election.enable"}), frozenset({"B8"})),
    "configuration of another kraft.version": Fault(
        lambda lab: edited(lab, broker(lab, 2), *STYLE), lambda lab: edited(lab, broker(lab, 2), *reversed(STYLE)), frozenset({"F2"})),
    "reader gone": Fault(reader_stops, reader_returns, frozenset({"C3"})),
    "broker lost": Fault(
        lose_a_broker, the_broker_returns, frozenset({"B1", "B3"}), AWAY, OPEN, (0, 2), cleanup=lambda lab: cluster(lab, "delete", {"name": TOPIC})),
}
MORE = {
    "missing ACL": Fault(
        lambda lab: cluster(lab, "acl", {"entry": MISSING, "present": False}),
        lambda lab: cluster(lab, "acl", {"entry": MISSING, "present": True}), frozenset({"S5"})),
    "client with a broker's name": Fault(
        lambda lab: cluster(lab, "user", {"name": "kafka2", "present": True}),
        lambda lab: cluster(lab, "user", {"name": "kafka2", "present": False}), frozenset({"S7"})),
    "anchor gone": Fault(
        lambda lab: cluster(lab, "user", {"name": ANCHOR, "present": False, "mechanism": "SCRAM_SHA_256"}), writes_the_anchor, frozenset({"S8"})),
    "transactions of version 1": Fault(
        lambda lab: cluster(lab, "feature", {"name": "transaction.version", "level": 1}),
        lambda lab: cluster(lab, "feature", {"name": "transaction.version", "level": 2}), frozenset({"F4"})),
    "controller stopped": Fault(stall, go_on, frozenset({"Q3"}), AWAY | {"B3"}, OPEN, (0,)),
    "plaintext listener": Fault(plaintext_listener, own_configuration, frozenset({"S4"}), AWAY, OPEN, patience_s=120),
    "foreign certificate": Fault(
        foreign_certificate, own_certificate, frozenset({"S1"}), AWAY | {"S4"},
        OPEN | {"S1", "S2", "S3", "S4", "S5", "S7", "Q1", "Q2", "Q4", "F1", "F2", "F4", "B2", "B3", "B7", "B9", "B10", *AWAY}, patience_s=120),
    "log directory read-only": Fault(
        read_only, writable, frozenset({"L1"}), AWAY, OPEN | {"S1", "S2", "S3", "S4", "Q2"}, patience_s=30),
}


def exercise(lab: Lab, name: str, fault: Fault) -> None:
    """Make it, see it named, repair it."""
    begin = time.monotonic()
    hosts = [broker(lab, n) for n in fault.seen_by]
    seen: Found = {}

    def named() -> bool:
        seen.clear()
        seen.update(verdict(lab, hosts))
        failed, unknown = ids(seen, "fail"), ids(seen, "inconclusive")
        return bool(fault.must <= failed and failed <= fault.must | fault.may and unknown <= fault.unknown | fault.may)

    try:
        fault.make(lab)
        until(f"{name}: its own checks do not fail alone", named, fault.patience_s + 60, 1)
    finally:
        failed, unknown = sorted(ids(seen, "fail")), sorted(ids(seen, "inconclusive"))
        print(f"{name}: failed {failed}, unknown {unknown}, {time.monotonic() - begin:.0f} s")
        fault.repair(lab)
        fault.cleanup(lab)


def test_each_fault_is_named_by_its_own_check_and_is_over_after_its_repair(lab: Lab) -> None:
    whole(lab)
    for name, fault in {**QUICK, **MORE}.items():
        exercise(lab, name, fault)
        if fault.may:
            whole(lab)
    whole(lab)


def test_a_killed_canary_is_swept_by_the_next_one(lab: Lab) -> None:
    """A topic and a group as a canary leaves them when it is killed, their time being over."""
    left = "hnai.canary.1-dead"
    node = lab.var(broker(lab, 0), "kafka_node_id")
    cluster(lab, "topic", {"name": left, "replicas": {"0": [node]}})
    run = lab.play("playbooks/verify.yml", "--tags", "kafka", extra={"profile": "full"}, timeout=400)
    asked = ("Fly the canary", "Ask as each client what it may")
    results = [event["event_data"]["res"] for event in run.events if event["event"] == "runner_on_ok" and event["event_data"]["task"] in asked]
    checks = {(one["id"], one.get("subject", "")): one["status"] for result in results for one in result["checks"]}
    assert checks["C1", ""] == "pass", checks
    assert checks["C1", "cleanup"] == "pass", checks
    assert {subject.partition("@")[0] for name, subject in checks if name == "S5"} >= {"telegraf-shipper", "flink"}
    assert {status for (name, _subject), status in checks.items() if name == "S5"} == {"pass"}, checks
    names = cluster(lab, "names")
    assert not [name for name in (*names["topics"], *names["groups"]) if name.startswith("hnai.canary.")], names
