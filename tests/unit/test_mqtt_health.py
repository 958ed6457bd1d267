# SPDX-License-Identifier: Apache-2.0
"""mqtt_health: a stranger who is let in fails, an empty view is not fresh, and each check has its own cause."""

from __future__ import annotations

import json
import sys
from contextlib import contextmanager
from typing import Any

import pytest

from ansible_collections.hnai.platform.plugins.module_utils.mqtt.access import peers
from ansible_collections.hnai.platform.plugins.module_utils.mqtt.acl_mosquitto import directives, settings
from ansible_collections.hnai.platform.plugins.module_utils.mqtt.health import (
    ARRIVING,
    DENY,
    DROPPED,
    LIVE_DENY,
    STORED,
    UPTIME,
    Sources,
    denied,
    in_the_clear,
    kept,
    run,
    unheard,
    view,
)
from ansible_collections.hnai.platform.plugins.module_utils.mqtt.wire import Message, MqttRefused
from ansible_collections.hnai.platform.plugins.module_utils.verdict import Report

NOW = 1_000_000.0
PARAMS = {
    "port": 8883,
    "username": "hnai-health",
    "quiet": 0.1,
    "sources": ["plc1", "sep1"],
    "live_max_age": 30.0,
    "clients": ["hnai-health", "line1"],
    "acl": [{"principal": "hnai-health", "read": ["ot/#", "$SYS/#"]}, {"principal": "line1", "write": ["line/line1/#"]},
            {"principal": "shipper", "write": ["ot/#"], "hosts": {"edge1": ["10.0.0.1", "fd00::1"], "edge2": ["10.0.0.2"]}},
            {"principal": "bridge", "read": ["line/#"], "hosts": {"edge1": ["10.0.0.1", "fd00::1"]}}],
    "max_queued": 1000,
    "session_expiry": "60d",
    "autosave": 2,
    "max_fill": 50.0,
    "bridge_counters": "counters.json",
    "bridge_window": 60.0,
    "bridge_max_latency": 5.0,
}

CONFIG = "listener 8883\ncertfile /x/cert.pem\nlistener 1884 127.0.0.1\nlistener 0 /run/x\npersistence true\nmax_queued_messages 1000\n"
CONFIG += "persistent_client_expiration 60d\nautosave_interval 2\n"


def counters(last: float = 0.0, step: int = 50, **fields: float) -> str:
    """Counters of a bridge, every 10 s for two minutes; *fields* are those of the newest line."""
    lines = []
    for number in range(13):
        values = {"metrics_added": 50 * number, "metrics_written": step * number, "metrics_dropped": 0, "metrics_rejected": 0, "buffer_size": 0,
                  "write_time_ns": 2e7}
        if number == 12:
            values.update(fields)
        lines.append(json.dumps({"name": "internal_write", "tags": {"alias": "kafka"}, "fields": values,
                                 "timestamp": (NOW - last - 10 * (12 - number)) * 1000}))
    return "\n".join(lines)


def record(source: str, tag: str, age: float) -> Message:
    return Message("ot/%s/%s" % (source, tag), json.dumps({"source": source, "observed_ts": int((NOW - age) * 1e7)}).encode(), True)


class Broker:
    """A broker: who may log in, and what is retained."""

    def __init__(self) -> None:
        self.logins = {("hnai-health", "right")}
        self.logins.add(("line1", "right"))
        self.messages = [
            record("plc1", "a", 40), record("plc1", "b", 2), record("sep1", "c", 5), Message(UPTIME, b"9 s", True),
            Message(STORED, b"26", True), Message(ARRIVING, b"600.0", True),
        ]
        self.enforces = True
        self.leaks: list[Message] = []
        self.delivered: list[Message] = []
        self.counters = counters()
        self.dropping: list[str] = []
        self.ousting = ["Client line1 already connected, closing old connection."] * 2
        self.peers = ["10.0.0.1", "10.0.0.2", "127.0.0.1", "fd00::1"]
        self.passwords = "hnai-health:$7$x\nline1:$7$y\n"
        self.config = CONFIG
        self.tried: list[tuple[str, str]] = []

    @contextmanager
    def login(self, username: str, password: str, version: int = 4) -> Any:
        self.tried.append((username, password))
        if (username, password) not in self.logins:
            raise MqttRefused(5)
        broker = self

        class Session:
            filters: tuple[str, ...] = ()

            def subscribe(self, filters: Any) -> None:
                self.filters = tuple(filters)

            def publish(self, topic: str, payload: bytes, expiry_s: int = 1) -> int:
                assert version == 5 and expiry_s == 1
                if broker.enforces:
                    return 0x87
                broker.delivered.append(Message(topic, payload, False))
                return 0

            def messages(self, quiet_s: float, limit_s: float) -> list[Message]:
                assert limit_s > quiet_s
                if any(one.startswith("ot/hnai-health") for one in self.filters):
                    return broker.delivered
                if username != "hnai-health":
                    return broker.leaks if broker.enforces else broker.messages
                return broker.messages

        yield Session()

    def judge(self) -> dict[str, str]:
        report = Report("mosquitto")
        run(report, PARAMS, Sources(self.login, lambda *_: "right", lambda: self.passwords, lambda: self.counters,
                                    lambda: self.dropping, lambda: self.ousting, lambda: self.peers, lambda: directives(self.config), lambda: NOW))
        self.checks = {check.id + check.subject: check for check in report.checks}
        return {check.id + check.subject: check.status for check in report.checks}


WELL = {"MQ1": "pass", "MQ2": "pass", "MQ3plc1": "pass", "MQ3sep1": "pass", "MQ4": "pass", "MQ5": "pass", "MQ6": "pass", "MQ7": "pass",
        "MQ8hnai-health": "pass", "MQ8line1": "pass", "MQ9": "pass"}


def test_a_healthy_broker_passes_and_one_wrong_password_is_tried_once() -> None:
    broker = Broker()
    assert broker.judge() == WELL
    assert [one for one in broker.tried if one[1] != "right"] == [("", ""), ("hnai-health", "not-the-password")]


@pytest.mark.parametrize("stranger", [("", ""), ("hnai-health", "not-the-password")])
def test_a_stranger_who_is_let_in_fails(stranger: tuple[str, str]) -> None:
    broker = Broker()
    broker.logins.add(stranger)
    assert broker.judge() == {**WELL, "MQ2": "fail"}


@pytest.mark.parametrize(
    ("old", "new", "ident"),
    [
        ("listener 1884 127.0.0.1", "listener 1884", "MQ2"), ("certfile /x/cert.pem", "", "MQ2"), ("messages 1000", "messages 999", "MQ7"),
        ("listener 1884", "port 1885\nlistener 1884", "MQ2"),
        ("max_queued_messages 1000", "max_queued_messages 5", "MQ7"), ("persistence true", "", "MQ7"), ("persistence true", "persistence false", "MQ7"),
        ("persistence true", "persistence true\nmax_queued_bytes 2000", "MQ7"), ("persistence true", "persistence true\nmemory_limit 300000", "MQ7"),
        ("client_expiration 60d", "client_expiration 1m", "MQ7"), ("autosave_interval 2", "autosave_interval 0", "MQ7"), ("autosave_interval 2", "", "MQ7"),
    ],
)
def test_a_configuration_that_keeps_less_or_hides_nothing(old: str, new: str, ident: str) -> None:
    broker = Broker()
    broker.config = CONFIG.replace(old, new)
    assert broker.judge() == {**WELL, ident: "fail"}


def test_what_a_broker_includes_counts() -> None:
    """As Debian delivers it: two settings, and a directory for its owner's."""
    files = {"m.conf": "persistence true\nlog_dest file /var/log/m.log\ninclude_dir d\nlistener 1886 127.0.0.1\ncertfile c\n",
             "d/a.conf": "max_queued_messages 7\nlistener 8883\n", "d/b.conf": "certfile c\nlistener 1883\n", "d/README": "listener 1\n", "d/.conf": ""}

    def config() -> Any:
        return settings("m.conf", files.__getitem__, lambda folder: [name.partition("/")[2] for name in files if name.startswith(folder + "/")])

    # A listener ends with its file: the certificate of the second one is of no listener.
    assert in_the_clear(config()) == ["listener 8883", "listener 1883"]
    assert kept(config(), 7, "", 0) == "" and "declared are 8" in kept(config(), 8, "", 0)
    assert unheard(config()) == "the broker logs to file /var/log/m.log: add log_dest stderr"
    files["d/c.conf"] = "log_dest stderr\nlog_type error\nlog_type warning\n"
    assert unheard(config()) == "the broker logs error, warning only: add log_type notice"
    files["d/C2.conf"] = "log_type notice\n"
    assert unheard(config()) == ""


def test_a_silent_source_is_stale_not_absent() -> None:
    broker = Broker()
    broker.messages = [record("plc1", "a", 31), *broker.messages[3:]]
    assert broker.judge() == {**WELL, "MQ3plc1": "fail", "MQ3sep1": "fail"}


def test_a_record_of_a_time_to_come_hides_how_old_the_others_are() -> None:
    broker = Broker()
    broker.messages = [record("plc1", "a", -3600), *broker.messages]
    assert broker.judge() == {**WELL, "MQ3plc1": "fail"}


def test_clients_without_a_password_and_passwords_without_a_client() -> None:
    broker = Broker()
    broker.passwords = "hnai-health:$7$x\n"
    assert broker.judge() == {**WELL, "MQ4": "fail"}
    broker.passwords += "line1:$7$y\nformer:$7$z\n"
    assert broker.judge() == {**WELL, "MQ4": "fail"}


def test_drops_are_counted_and_an_unknown_count_is_inconclusive() -> None:
    broker = Broker()
    broker.messages.append(Message(DROPPED, b"3", True))
    assert broker.judge() == {**WELL, "MQ5": "fail"}
    broker.messages = [one for one in broker.messages if one.topic not in (DROPPED, UPTIME)]
    assert broker.judge() == {**WELL, "MQ5": "inconclusive", "MQ7": "inconclusive"}


def test_our_own_login_refused_leaves_the_view_unknown() -> None:
    broker = Broker()
    broker.logins.clear()
    unknown = {name: "inconclusive" for name in WELL if name[:3] in ("MQ1", "MQ3", "MQ5", "MQ7", "MQ8")}
    assert broker.judge() == {**WELL, **unknown}


def test_what_is_no_record_is_named() -> None:
    assert view([Message("ot/x/y", b"nonsense", True), Message("ot/x/z", b"{}", True)]).broken == ["ot/x/y", "ot/x/z"]


def test_a_drop_is_remembered_by_the_journal() -> None:
    broker = Broker()
    broker.dropping = ["Outgoing messages are being dropped for client telegraf-bridge."]
    assert broker.judge() == {**WELL, "MQ5": "fail"}
    assert "telegraf-bridge" in broker.checks["MQ5"].reason


@pytest.mark.parametrize(("peers", "short"), [
    (["10.0.0.1", "10.0.0.2"], "edge1 holds 1 of 2 connections (bridge, shipper)"),
    (["10.0.0.1", "fd00::1"], "edge2 holds 0 of 1 connections (shipper)"),
    (["127.0.0.1"] * 9, "edge1 holds 0 of 2 connections (bridge, shipper); edge2 holds 0 of 1 connections (shipper)"),
])
def test_a_client_that_is_away_is_missed_at_its_host(peers: list[str], short: str) -> None:
    broker = Broker()
    broker.peers = peers
    assert broker.judge() == {**WELL, "MQ6": "fail"}
    assert broker.checks["MQ6"].reason == short


def test_two_programs_with_one_client_id_throw_each_other_out() -> None:
    broker = Broker()
    broker.ousting *= 2
    assert broker.judge() == {**WELL, "MQ6": "fail"}
    assert broker.checks["MQ6"].reason.startswith("line1 was taken over 4 times in 300 s")


def test_connections_as_the_kernel_lists_them() -> None:
    """A listener, a connection of ours to another, and three to us: over v4, over v6, and v4 on a socket of both families."""
    head = "  sl  local_address rem_address   st\n"
    four = head + (
        "0: 00000000:22B3 00000000:0000 0A 0 0\n1: 0B034D0A:A77A 0B034D0A:22B3 01 0 0\n2: 0B034D0A:22B3 0B024D0A:98D3 01 0 0\n"
        "3: 0B034D0A:22B3 0B024D0A:98D4 06 0 0\n")
    six = head + (
        "0: 00000000000000000000000000000000:22B3 00000000000000000000000000000000:0000 0A 0\n"
        "1: 000077FD030000000000000011000000:22B3 000077FD020000000000000011000000:9000 01 0\n"
        "2: 0000000000000000FFFF00000B034D0A:22B3 0000000000000000FFFF00000C034D0A:9000 01 0\n")
    if sys.byteorder == "little":
        assert peers([four, six], 8883) == ["10.77.2.11", "10.77.3.12", "fd77:0:0:2::11"]
    assert len(peers([four, six], 8883)) == 3
    assert peers([four], 8884) == []


def test_a_queue_fills_and_says_when_it_will_be_full() -> None:
    broker = Broker()
    broker.judge()
    assert broker.checks["MQ7"].observed == 20, "26 are stored, of which 6 are retained"
    assert broker.checks["MQ7"].evidence["full_in_s_at_this_rate"] == 98.0
    broker.messages[4] = Message(STORED, b"506", True)
    assert broker.judge() == {**WELL, "MQ7": "fail"}, "500 of 1000 wait"
    broker.messages[4] = Message(STORED, b"505", True)
    assert broker.judge() == WELL
    del broker.messages[4]
    assert broker.judge() == WELL, "it did not change for a minute: nothing fills"
    assert broker.checks["MQ7"].observed is None


def test_without_an_acl_every_client_has_rights_too_many() -> None:
    broker = Broker()
    broker.enforces = False
    assert broker.judge() == {**WELL, "MQ8hnai-health": "fail", "MQ8line1": "fail"}
    assert broker.checks["MQ8hnai-health"].observed == ["write " + DENY, "write " + LIVE_DENY]
    assert "read ot/plc1/a" in broker.checks["MQ8line1"].observed


def test_what_a_client_may_not_read_must_stay_away_from_it() -> None:
    broker = Broker()
    broker.leaks = [record("plc1", "a", 1)]
    assert broker.judge() == {**WELL, "MQ8line1": "fail"}


def test_an_answer_that_says_refused_is_not_believed_when_the_witness_saw_it() -> None:
    broker = Broker()
    broker.delivered = [Message(DENY, ("%s %.6f" % ("line1", NOW)).encode(), False)]
    assert broker.judge() == {**WELL, "MQ8line1": "fail"}


def test_a_client_that_was_rotated_is_tried_by_the_name_that_it_has_now() -> None:
    broker = Broker()
    broker.passwords = "hnai-health:$7$x\nline1.b:$7$y\n"
    broker.logins = {("hnai-health", "right"), ("line1.b", "right")}
    well = {**WELL, "MQ8line1.b": "pass"}
    del well["MQ8line1"]
    assert broker.judge() == well
    broker.leaks = [record("plc1", "a", 1)]
    assert broker.judge() == {**well, "MQ8line1.b": "fail"}


def test_silence_without_a_positive_control_proves_nothing() -> None:
    broker = Broker()
    broker.messages = broker.messages[3:]
    got = broker.judge()
    assert got["MQ8line1"] == got["MQ8hnai-health"] == "inconclusive"


def test_only_what_is_not_given_is_tried() -> None:
    assert denied({}) == (["ot/#", "$SYS/broker/#"], [DENY, LIVE_DENY])
    assert denied({"read": ["ot/plc1/#"], "write": ["ot/#"]}) == (["$SYS/broker/#"], [DENY])
    assert denied({"read": ["#"], "write": ["#"]}) == (["$SYS/broker/#"], []), "# does not match $SYS"


BRIDGES: list[tuple[str, str]] = [
    (counters(), "pass"),
    (counters(metrics_dropped=1), "fail"),
    (counters(metrics_rejected=1), "fail"),
    (counters(buffer_size=24), "pass"),  # 5 a second: 4.8 s
    (counters(buffer_size=26), "fail"),
    (counters(last=21), "fail"),
    (counters(step=0, buffer_size=5), "fail"),
    (counters(buffer_size=5).splitlines()[-1], "pass"),  # the book was begun anew a moment ago
    (counters(step=0, buffer_size=5).splitlines()[-1], "fail"),
    ("", "inconclusive"),
    ("not json", "inconclusive"),
    *((counters().replace(field, "of_another_release"), "inconclusive")
      for field in ("metrics_dropped", "metrics_rejected", "metrics_written", "metrics_added", "buffer_size", "write_time_ns")),
]


@pytest.mark.parametrize(("text", "status"), BRIDGES)
def test_the_bridge_by_its_own_counters(text: str, status: str) -> None:
    broker = Broker()
    broker.counters = text
    assert broker.judge() == {**WELL, "MQ9": status}


def test_a_bridge_that_nobody_feeds_is_inconclusive() -> None:
    broker = Broker()
    broker.counters = "\n".join(line.replace('"metrics_added": %d' % (50 * n), '"metrics_added": 0').replace(
        '"metrics_written": %d' % (50 * n), '"metrics_written": 0') for n, line in enumerate(counters().splitlines()))
    assert broker.judge() == {**WELL, "MQ9": "inconclusive"}
