# SPDX-License-Identifier: Apache-2.0
"""mqtt_health: a stranger who is let in fails, an empty view is not fresh, and each check has its own cause."""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import Any

import pytest

from ansible_collections.hnai.platform.plugins.module_utils.mqtt.health import DROPPED, UPTIME, run, view
from ansible_collections.hnai.platform.plugins.module_utils.mqtt.wire import Message, MqttRefused
from ansible_collections.hnai.platform.plugins.module_utils.verdict import Report

NOW = 1_000_000.0
PARAMS = {
    "username": "hnai-health",
    "quiet": 0.1,
    "sources": ["plc1", "sep1"],
    "live_max_age": 30.0,
    "clients": ["hnai-health", "line1"],
}


def record(source: str, tag: str, age: float) -> Message:
    return Message("ot/%s/%s" % (source, tag), json.dumps({"source": source, "observed_ts": int((NOW - age) * 1e7)}).encode(), True)


class Broker:
    """A broker: who may log in, and what is retained."""

    def __init__(self) -> None:
        self.logins = {("hnai-health", "right")}
        self.messages = [record("plc1", "a", 40), record("plc1", "b", 2), record("sep1", "c", 5), Message(UPTIME, b"9 s", True)]
        self.passwords = "hnai-health:$7$x\nline1:$7$y\n"
        self.tried: list[tuple[str, str]] = []

    @contextmanager
    def login(self, username: str, password: str) -> Any:
        self.tried.append((username, password))
        if (username, password) not in self.logins:
            raise MqttRefused(5)
        broker = self

        class Session:
            def subscribe(self, filters: Any) -> None:
                assert "ot/#" in filters

            def messages(self, quiet_s: float, limit_s: float) -> list[Message]:
                assert limit_s > quiet_s
                return broker.messages

        yield Session()

    def judge(self) -> dict[str, str]:
        report = Report("mosquitto")
        run(report, PARAMS, self.login, lambda: "right", lambda: self.passwords, lambda: NOW)
        return {check.id + check.subject: check.status for check in report.checks}


WELL = {"MQ1": "pass", "MQ2": "pass", "MQ3plc1": "pass", "MQ3sep1": "pass", "MQ4": "pass", "MQ5": "pass"}


def test_a_healthy_broker_passes_and_one_wrong_password_is_tried_once() -> None:
    broker = Broker()
    assert broker.judge() == WELL
    assert broker.tried == [("hnai-health", "right"), ("", ""), ("hnai-health", "not-the-password")]


@pytest.mark.parametrize("stranger", [("", ""), ("hnai-health", "not-the-password")])
def test_a_stranger_who_is_let_in_fails(stranger: tuple[str, str]) -> None:
    broker = Broker()
    broker.logins.add(stranger)
    assert broker.judge() == {**WELL, "MQ2": "fail"}


def test_a_silent_source_is_stale_not_absent() -> None:
    broker = Broker()
    broker.messages = [record("plc1", "a", 31), Message(UPTIME, b"9 s", True)]
    assert broker.judge() == {**WELL, "MQ3plc1": "fail", "MQ3sep1": "fail"}


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
    del broker.messages[-2:]
    assert broker.judge() == {**WELL, "MQ5": "inconclusive"}


def test_our_own_login_refused_leaves_the_view_unknown() -> None:
    broker = Broker()
    broker.logins.clear()
    assert broker.judge() == {**WELL, "MQ1": "inconclusive", "MQ3plc1": "inconclusive", "MQ3sep1": "inconclusive", "MQ5": "inconclusive"}


def test_what_is_no_record_is_named() -> None:
    assert view([Message("ot/x/y", b"nonsense", True), Message("ot/x/z", b"{}", True)]).broken == ["ot/x/y", "ot/x/z"]
