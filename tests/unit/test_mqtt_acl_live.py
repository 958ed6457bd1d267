# SPDX-License-Identifier: Apache-2.0
"""The audit of MQTT rights against a broker in memory: what it sends, what it makes of answers, and what it never passes over."""
from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from typing import Any

import pytest

from ansible_collections.hnai.platform.plugins.module_utils.mqtt import acl_emqx, acl_mosquitto
from ansible_collections.hnai.platform.plugins.module_utils.mqtt.acl_judge import Judge, Options, PolicyError, Sources, not_in_force
from ansible_collections.hnai.platform.plugins.module_utils.mqtt.acl_live import CannotTest, Live, canary_topic
from ansible_collections.hnai.platform.plugins.module_utils.mqtt.acl_model import READ, WRITE, Identity, Policy, grants
from ansible_collections.hnai.platform.plugins.module_utils.mqtt.topics import matches
from ansible_collections.hnai.platform.plugins.module_utils.mqtt.wire import Message, MqttEnded, MqttError, MqttRefused, Will
from ansible_collections.hnai.platform.plugins.module_utils.verdict import Report

PATTERNS = ["spBv1.0/+/NCMD/#", "STATE/#"]
NCMD, STATE = "spBv1.0/__canary__/NCMD/__canary__", "STATE/__canary__"
NAMES = ["hnai-health", "line1", "shipper"]
ACL = """pattern readwrite hnai-audit/%u/#
user hnai-health
topic read hnai-audit/#
topic read spBv1.0/#
topic read STATE/#
user line1
topic write line/line1/#
user shipper
topic write ot/#
"""
DECLARED = [{"principal": "line1", "write": ["line/line1/#"]}, {"principal": "shipper", "write": ["ot/#"]},
            {"principal": "hnai-health", "read": ["hnai-audit/#", "spBv1.0/#", "STATE/#"]}]


def twins(acl: str) -> str:
    """The rules of each identity once more for its twin."""
    head, *users = acl.split("user ")
    return head + "".join("user %suser %s" % (one, one.replace("\n", ".b\n", 1)) for one in users)


class Broker:
    """A broker in memory that obeys *acl*; its faults are attributes."""

    def __init__(self, acl: str = ACL) -> None:
        self.acl = acl
        self.retained: dict[str, bytes] = {}
        self.sessions: list[Session] = []
        self.sent: list[tuple[str, str, bytes, bool]] = []
        self.wills: list[str] = []
        self.lies = False          # says no and delivers all the same
        self.swallows = False      # says yes and delivers nothing
        self.ignores_wills = False  # publishes wills past the rules
        self.shared_leak = False
        self.retains_all = False
        self.ends_on_refusal = False
        self.refuses_with = 0x87
        self.missing: set[str] = set()
        self.keeps_for_ever = False

    def may(self, name: str, access: str, topic: str) -> bool:
        lines, _users = acl_mosquitto.parse_acl(self.acl, "acl")
        return bool(grants(Identity(name, acl_mosquitto.rules_of(lines, name, "acl")), access, topic))

    def password(self, name: str) -> str:
        if name in self.missing:
            raise CannotTest("/etc/credstore.encrypted/hnai-mosquitto.%s cannot be decrypted here" % name)
        return "right"

    @contextmanager
    def login(self, username: str, password: str, version: int = 4, will: Will | None = None) -> Iterator[Session]:
        assert version == 5 and password == "right"
        session = Session(self, username, will)
        self.sessions.append(session)
        try:
            yield session
        finally:
            if session in self.sessions:
                self.sessions.remove(session)

    def deliver(self, topic: str, payload: bytes) -> None:
        for session in self.sessions:
            for one in session.filters:
                plain = one.split("/", 2)[2] if one.startswith("$share/") else one
                free = self.shared_leak and one.startswith("$share/")
                if matches(plain, topic) and (free or self.may(session.name, READ, topic)):
                    session.inbox.append(Message(topic, payload, False))
                    break

    def publish(self, name: str, topic: str, payload: bytes, retain: bool) -> bool:
        allowed = self.may(name, WRITE, topic)
        if (allowed or self.lies) and not (self.swallows and topic.startswith("spBv")) and payload:
            self.deliver(topic, payload)
        if retain and (allowed or self.retains_all):
            if payload:
                self.retained[topic] = payload
            elif not self.keeps_for_ever:
                self.retained.pop(topic, None)
        return allowed


class Session:
    def __init__(self, broker: Broker, name: str, will: Will | None) -> None:
        self.broker, self.name, self.will = broker, name, will
        self.filters: list[str] = []
        self.inbox: list[Message] = []

    def ask(self, filters: Sequence[str]) -> list[int]:
        self.filters += [one for one in filters if one not in self.filters]
        for topic, payload in list(self.broker.retained.items()):
            if any(matches(one, topic) for one in filters) and self.broker.may(self.name, READ, topic):
                self.inbox.append(Message(topic, payload, True))
        return [0] * len(filters)

    def publish(self, topic: str, payload: bytes, expiry_s: int = 1, retain: bool = False) -> int:
        assert expiry_s > 0
        self.broker.sent.append((self.name, topic, payload, retain))
        if self.broker.publish(self.name, topic, payload, retain):
            return 0
        if self.broker.ends_on_refusal:
            self.broker.sessions.remove(self)
            raise MqttEnded(self.broker.refuses_with)
        return self.broker.refuses_with

    def messages(self, quiet_s: float, limit_s: float) -> Iterator[Message]:
        while self.inbox:
            yield self.inbox.pop(0)

    def leave_unwell(self) -> None:
        assert self.will is not None
        self.broker.sessions.remove(self)
        self.broker.wills.append(self.will.topic)
        if self.broker.ignores_wills or self.broker.may(self.name, WRITE, self.will.topic):
            self.broker.deliver(self.will.topic, self.will.payload)


class Clock:
    """Time that passes when it is looked at."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 0.1
        return self.now


def audit(broker: Broker, on_file: str | None = None, **options: Any) -> tuple[dict[str, str], dict[str, Any], Report]:
    """(status by id/identity, record, report). *on_file*: the rules that are read, where they are not those of the broker."""
    report = Report("mosquitto")
    text = twins(broker.acl if on_file is None else on_file)
    files = {"conf": "listener 8883\npassword_file pw\nacl_file acl\n", "acl": text, "pw": "".join("%s:x\n" % one for one in NAMES)}
    known: list[Policy] = []

    def policy() -> Policy:
        known.append(acl_mosquitto.load("conf", files.__getitem__))
        return known[-1]

    lines = options.pop("lines", ["line1"])
    stale = options.pop("stale", "")
    options = {"patterns": PATTERNS, "acl": DECLARED, "corners": [{"access": "readwrite", "filter": "hnai-audit/%u/#"}], "clients": NAMES, "lines": lines,
               "witness": "hnai-health", "live": True, **options}
    record = Judge(report, Options(**options), Sources(
        policy, lambda: stale, lambda: known[-1].provisioned,
        lambda patterns: Live(broker.login, broker.password, "hnai-health", lines, patterns, "__canary__", "hnai-audit", "nonce-1", Clock()),
        date(2026, 1, 1))).run()
    return {check.id + ("/" + check.subject if check.subject else ""): check.status for check in report.checks}, record, report


def bad(statuses: dict[str, str]) -> dict[str, str]:
    return {name: status for name, status in statuses.items() if status != "pass"}


def test_a_broker_that_refuses_everything_is_proven_and_nothing_is_left() -> None:
    broker = Broker()
    statuses, record, _report = audit(broker)
    assert not bad(statuses) and record["verdict"] == "proven"
    assert set(statuses) == {"MA0", "MA1", "MA2", "MA3", "MA4", *("MA%d/%s" % (number, name) for number in (5, 6, 7, 8) for name in NAMES)}
    assert record["scope"]["witnesses"] == ["hnai-health", "line1"]
    assert not broker.sessions and not broker.retained
    # Each canary was published plain and retained, and was a will, by each identity.
    for name in NAMES:
        for retain in (False, True):
            assert {topic for who, topic, _p, kept in broker.sent if who == name and kept == retain and "__canary__" in topic} == {NCMD, STATE}
    assert broker.wills.count(NCMD) == len(NAMES)


def test_nothing_is_sent_but_to_canaries_and_corners() -> None:
    broker = Broker(ACL + "topic write #\n")
    audit(broker, clients=[*NAMES, "shipper"], patterns=[*PATTERNS, "line/line1/cmd"])
    topics = {topic for _name, topic, _p, _r in broker.sent} | set(broker.wills)
    assert topics and all("__canary__" in one.split("/") or one.startswith("hnai-audit/") for one in topics)
    assert "line/line1/cmd" not in topics


def test_the_fence_is_no_matter_of_good_will() -> None:
    live = Live(Broker().login, lambda _n: "right", "hnai-health", [], PATTERNS, "__canary__", "hnai-audit", "n", Clock())
    for topic in ("spBv1.0/g/NCMD/n", "STATE/x", "ot/a", "hnai-audit", "STATE/__canary__/x"):
        with pytest.raises(RuntimeError, match="not a canary"):
            live._ours(topic)
    for name in ("", "+", "a/b", "#"):
        with pytest.raises(CannotTest):
            Live(Broker().login, lambda _n: "right", "w", [], PATTERNS, name, "hnai-audit", "n")
    assert canary_topic("a/b", "c") is None and canary_topic("+/#", "c") == "c/c"


def test_a_right_too_many_fails_every_way_and_is_cleaned_up() -> None:
    broker = Broker(ACL.replace("user line1\n", "user line1\ntopic write spBv1.0/+/NCMD/#\n"))
    statuses, record, report = audit(broker)
    assert bad(statuses) == dict.fromkeys(["MA0", "MA2", "MA4", "MA5/line1", "MA6/line1", "MA7/line1"], "fail")
    assert record["verdict"] == "refuted" and "line1" in record["reason"]
    (check,) = [one for one in report.checks if one.id == "MA2"]
    assert "line1 may publish spBv1.0/" in check.reason and "topic write spBv1.0/+/NCMD/#" in check.reason
    assert not broker.retained


def test_a_broker_that_works_by_other_rules_than_the_file_is_caught() -> None:
    statuses, record, _report = audit(Broker(ACL + "pattern write STATE/#\n"), on_file=ACL)
    assert {name for name in bad(statuses) if name[:3] in ("MA5", "MA6", "MA7")} == {"MA%d/%s" % (n, one) for n in (5, 6, 7) for one in NAMES}
    assert record["verdict"] == "refuted" and statuses["MA2"] == "pass"


@pytest.mark.parametrize(("fault", "ids"), [
    ("lies", {"MA5", "MA6"}), ("ignores_wills", {"MA7"}), ("shared_leak", {"MA8"}), ("retains_all", {"MA6"}),
])
def test_each_way_of_leaking_has_its_own_check(fault: str, ids: set[str]) -> None:
    broker = Broker()
    setattr(broker, fault, True)
    statuses, record, _report = audit(broker)
    assert {name.split("/")[0] for name in bad(statuses)} == ids | {"MA0"}, bad(statuses)
    assert record["verdict"] == "refuted"


def test_what_is_accepted_and_not_delivered_is_accepted() -> None:
    broker = Broker(ACL + "topic write spBv1.0/#\n")
    broker.swallows = True
    statuses, _record, _report = audit(broker, on_file=ACL)
    assert statuses["MA5/shipper"] == statuses["MA6/shipper"] == "fail"


def test_a_broker_that_ends_the_session_on_a_refusal_is_asked_again() -> None:
    broker = Broker()
    broker.ends_on_refusal = True
    statuses, record, _report = audit(broker)
    assert not bad(statuses) and record["verdict"] == "proven"
    assert record["live"]["line1"]["publish"]["codes"] == {NCMD: "0x87", STATE: "0x87"}
    assert "ended the session" in record["live"]["line1"]["publish"]["notes"][0]


def test_a_refusal_for_another_reason_is_no_proof() -> None:
    broker = Broker()
    broker.refuses_with = 0x97
    statuses, record, _report = audit(broker)
    assert statuses["MA5/line1"] == "inconclusive" and record["verdict"] == "inconclusive"


def test_silence_without_a_positive_control_proves_nothing() -> None:
    without = ACL.replace("pattern readwrite hnai-audit/%u/#\n", "")
    statuses, record, report = audit(Broker(without))
    assert {status for name, status in statuses.items() if name[:3] in ("MA5", "MA6", "MA7")} == {"inconclusive"}
    assert record["verdict"] == "inconclusive" and statuses["MA4"] == "fail"
    assert all("no positive control" in one.reason for one in report.checks if one.id in ("MA5", "MA6", "MA7"))


def test_a_witness_that_may_not_read_the_canary_sees_nothing() -> None:
    statuses, record, report = audit(Broker(ACL.replace("topic read STATE/#\n", "")))
    assert statuses["MA7/line1"] == "inconclusive" and record["verdict"] == "inconclusive"
    (check,) = [one for one in report.checks if (one.id, one.subject) == ("MA7", "line1")]
    assert STATE in check.reason and "hnai-health" in check.reason


def test_a_rule_for_the_canary_alone_says_nothing_of_real_topics() -> None:
    rule = "topic deny spBv1.0/__canary__/#\n"
    statuses, record, _report = audit(Broker(ACL.replace("user line1\n", "user line1\n" + rule)))
    assert statuses["MA5/line1"] == "inconclusive" and record["verdict"] == "inconclusive"


def test_an_identity_whose_password_is_elsewhere_is_not_tested() -> None:
    broker = Broker()
    broker.missing = {"shipper"}
    statuses, record, _report = audit(broker)
    assert set(bad(statuses)) == {"MA0", *("MA%d/shipper" % number for number in (5, 6, 7, 8))}
    assert set(bad(statuses).values()) == {"inconclusive"} and record["verdict"] == "inconclusive"
    statuses, _record, report = audit(Broker(), clients=[*NAMES, "new"])
    assert statuses["MA5/new"] == "inconclusive"
    assert next(one.reason for one in report.checks if one.subject == "new").startswith("not tested")


def test_without_the_witness_nothing_is_said() -> None:
    broker = Broker()
    broker.missing = {"hnai-health"}
    statuses, record, _report = audit(broker)
    assert {statuses["MA%d" % number] for number in (5, 6, 7, 8)} == {"inconclusive"} and record["verdict"] == "inconclusive"
    assert not broker.sent


def test_a_line_that_cannot_watch_is_said() -> None:
    broker = Broker()
    broker.missing = {"line1"}
    _statuses, record, _report = audit(broker)
    assert any("no witness of the line: line1" in one for one in record["not_tested"])


def test_retained_messages_that_stay_are_named() -> None:
    broker = Broker()
    broker.keeps_for_ever = True
    statuses, _record, report = audit(broker)
    assert statuses["MA6/line1"] == "inconclusive"
    assert any("are left" in one.reason for one in report.checks if one.id == "MA6")


def test_a_pattern_of_one_topic_keeps_the_verdict_at_claimed() -> None:
    statuses, record, _report = audit(Broker(), patterns=[*PATTERNS, "site/cmd"])
    assert not bad(statuses) and record["verdict"] == "claimed"
    assert any("site/cmd has no canary" in one for one in record["not_tested"])


def test_without_live_the_rules_claim_and_the_record_says_what_was_not_tested() -> None:
    broker = Broker()
    statuses, record, _report = audit(broker, live=False)
    assert set(statuses) == {"MA0", "MA1", "MA2", "MA3", "MA4"} and not bad(statuses)
    assert record["verdict"] == "claimed" and not broker.sent
    assert "live test" in record["not_tested"][0]
    statuses, record, _report = audit(broker, live_refused="nothing is sent in check mode")
    assert record["verdict"] == "claimed" and not broker.sent and "check mode" in record["not_tested"][0]


def test_what_no_rule_of_emqx_holds_is_said() -> None:
    def policy() -> Policy:
        return acl_emqx.load([{"type": "file", "path": "acl.conf"}], "deny", {"acl.conf": "{deny, all}."}.__getitem__, ["u"])

    record = Judge(Report("emqx"), Options(patterns=PATTERNS), Sources(policy, lambda: "", lambda: ["u"], None, date(2026, 1, 1))).run()
    assert record["verdict"] == "claimed" and any("superusers" in one for one in record["not_tested"])
    assert not any("superusers" in one for one in audit(Broker(), live=False)[1]["not_tested"])


def test_a_file_that_is_not_in_force_is_no_claim() -> None:
    statuses, record, _report = audit(Broker(), live=False, stale="acl changed after the last reload")
    assert statuses["MA1"] == "fail" and statuses["MA0"] == "inconclusive" and record["verdict"] == "inconclusive"


def test_what_systemd_says_of_the_last_load() -> None:
    shown = "ActiveState=active\nStateChangeTimestampMonotonic=100000000\n"
    assert not_in_force(shown, {"acl": 1099.9}, "u", 1000.0) == ""
    assert "acl" in not_in_force(shown, {"acl": 1102.0, "conf": 1.0}, "u", 1000.0)
    assert "inactive" in not_in_force("ActiveState=inactive\nStateChangeTimestampMonotonic=0\n", {}, "u", 0.0)


@pytest.mark.parametrize("acl", ["topic wirte a b\n", "user x\nnonsense\n"])
def test_a_broken_line_opens_the_broker_to_everybody(acl: str) -> None:
    """Whoever makes it read the file again turns every rule off; the record names the line."""
    statuses, record, _report = audit(Broker(), live=False, on_file=acl)
    assert {statuses[one] for one in ("MA0", "MA1", "MA2", "MA4")} == {"fail"}
    assert record["verdict"] == "refuted" and "the broker refuses the file" in record["reason"]


def test_no_pattern_is_no_pass() -> None:
    statuses, record, _report = audit(Broker(), live=False, patterns=[])
    assert statuses["MA0"] == "inconclusive" and record["verdict"] == "inconclusive"
    assert audit(Broker(), live=False, patterns=["a/#/b"])[0]["MA1"] == "inconclusive"
    assert audit(Broker(), live=False, acl=[])[0]["MA4"] == "inconclusive"
    assert audit(Broker(), live=False, lines=["line9"])[0]["MA3"] == "inconclusive"


def test_a_line_that_reads_what_another_publishes_fails() -> None:
    statuses, record, _report = audit(Broker(ACL.replace("user line1\n", "user line1\ntopic read ot/line1/#\n")), live=False)
    assert statuses["MA3"] == "fail" and "shipper" in record["reason"]


# -- exceptions -------------------------------------------------------------------------------------------------
PLANTED = ACL.replace("user line1\n", "user line1\ntopic write spBv1.0/plant/NCMD/#\n")


def exception(**change: Any) -> dict[str, Any]:
    return {"check": "MA2", "identity": "line1*", "topic": "spBv1.0/plant/*", "owner": "j.doe", "reason": "gateway", "expires": "2026-06-30", **change}


def test_an_exception_excuses_its_finding_until_its_last_day() -> None:
    drift = exception(check="MA4", topic="*spBv1.0/plant*")
    statuses, record, _report = audit(Broker(PLANTED), live=False, exceptions=[exception(), drift])
    assert not bad(statuses) and record["verdict"] == "claimed" and len(record["excused"]) >= 2
    statuses, record, _report = audit(Broker(PLANTED), live=False, exceptions=[exception(topic="STATE/*"), drift])
    assert statuses["MA2"] == "fail"
    old = exception(expires="2025-12-31")
    statuses, _record, _report = audit(Broker(PLANTED), live=False, exceptions=[old, drift])
    assert statuses["MA2"] == statuses["MA0"] == "fail"
    # An expired one that nothing needs any more is to be taken away.
    assert audit(Broker(), live=False, exceptions=[old])[0]["MA0"] == "fail"


@pytest.mark.parametrize(("change", "named"), [
    ({"check": "MA0"}, "check"), ({"check": "OA1"}, "check"), ({"identity": "*"}, "identity"), ({"owner": ""}, "owner"), ({"reason": ""}, "reason"),
    ({"expires": "soon"}, "expires"), ({"until": "x"}, "until"),
])
def test_an_exception_that_cannot_be_used_is_refused(change: dict[str, Any], named: str) -> None:
    with pytest.raises(PolicyError, match=named):
        audit(Broker(), live=False, exceptions=[exception(**change)])


def test_a_control_identity_is_listed_and_not_tried() -> None:
    broker = Broker(PLANTED)
    statuses, record, _report = audit(broker, control=["line1"], acl=[*DECLARED, {"principal": "line1", "write": ["spBv1.0/plant/NCMD/#"]}],
                                      clients=["hnai-health", "shipper"])
    assert statuses["MA2"] == "pass" and "MA5/line1" not in statuses and record["verdict"] == "proven"
    assert not any(name == "line1" and "__canary__" in topic for name, topic, _p, _r in broker.sent)


def test_the_record_holds_no_password() -> None:
    _statuses, record, report = audit(Broker())
    assert "right" not in json.dumps(record["live"]) and all(one != "right" for one in json.dumps(report.result()["checks"]).split('"'))


def test_a_broker_that_goes_away_is_inconclusive() -> None:
    broker = Broker()

    @contextmanager
    def refuse(username: str, password: str, version: int = 4, will: Any = None) -> Iterator[Session]:
        if username == "line1":
            raise MqttRefused(5)
        if username == "shipper":
            raise MqttError("the broker closed the connection")
        with Broker.login(broker, username, password, version, will) as session:
            yield session

    broker.login = refuse  # type: ignore[method-assign]
    statuses, record, _report = audit(broker)
    assert statuses["MA5/line1"] == statuses["MA7/shipper"] == "inconclusive" and record["verdict"] == "inconclusive"
    assert statuses["MA5/hnai-health"] == "pass"
