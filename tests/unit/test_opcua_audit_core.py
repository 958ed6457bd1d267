# SPDX-License-Identifier: Apache-2.0
"""The parts of the audit that need no server: load, rules, policy, gate, drift, verdict, names."""
from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.hnai.platform.plugins.module_utils.opcua import audit_cve, audit_gate, audit_judge, audit_rules, audit_run, audit_walk
from ansible_collections.hnai.platform.plugins.module_utils.opcua.audit_load import BROWSE, READ, Alarm, Batch, Budget, Governor
from ansible_collections.hnai.platform.plugins.module_utils.opcua.audit_policy import PolicyError, parse
from ansible_collections.hnai.platform.plugins.module_utils.opcua.audit_types import (
    Alike,
    Busy,
    Certificate,
    Endpoint,
    Names,
    Opened,
    Overloaded,
    Reading,
    TokenPolicy,
    TooMany,
)
from ansible_collections.hnai.platform.plugins.module_utils.verdict import Report

ROOT = Path(__file__).resolve().parents[2]
TODAY = date(2026, 6, 1)


class Clock:
    """Time that only passes when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds


# -- load ---------------------------------------------------------------------------------------------
@given(st.integers(1, 60), st.lists(st.tuples(st.integers(1, 30), st.floats(0, 0.9), st.floats(0, 0.9)), min_size=1, max_size=40))
def test_no_second_sees_more_than_the_budget_whatever_the_network_does(budget: int, calls: list[tuple[int, float, float]]) -> None:
    clock = Clock()
    one = Budget(budget, clock, clock.sleep)
    arrived: list[tuple[float, int]] = []

    async def go() -> None:
        for count, before, after in calls:
            count = min(count, budget)
            await one.take(count)
            clock.now += before
            arrived.append((clock.now, count))
            clock.now += after
            one.give_back(count)

    asyncio.run(go())
    for begin, _ in arrived:
        # Strictly inside one second: the float arithmetic of the window's end is not what is tested.
        assert sum(count for moment, count in arrived if begin <= moment < begin + 0.999) <= budget
    assert one.total == sum(min(count, budget) for count, _, _ in calls)


def test_a_budget_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="reads nothing"):
        Budget(0, Clock(), Clock().sleep)


@given(st.integers(1, 5000), st.integers(1, 2000))
def test_a_batch_finds_an_untold_limit_with_one_refusal(limit: int, ceiling: int) -> None:
    batch, refused = Batch(0, ceiling), 0
    for _ in range(200):
        size = batch.size
        if size > limit:
            batch.refused(size)
            refused += 1
        else:
            batch.worked(size)
    assert refused <= 1
    assert batch.size <= min(limit, ceiling)
    assert batch.size * 2 >= min(limit, ceiling)


def test_a_told_limit_is_never_exceeded() -> None:
    batch = Batch(7, 1000)
    for _ in range(20):
        assert batch.size <= 7
        batch.worked(batch.size)
    assert batch.size == 7


def test_the_second_alarm_ends_it() -> None:
    alarm = Alarm()
    alarm.raise_("slow")
    with pytest.raises(Overloaded, match="slow; then slower"):
        alarm.raise_("slower")


def governor(clock: Clock, latency: Callable[[], float]) -> Governor:
    async def probe() -> None:
        clock.now += latency()

    return Governor(Budget(1000, clock, clock.sleep), {READ: Batch(0, 100), BROWSE: Batch(0, 100)}, clock, clock.sleep, probe)


async def answer(clock: Clock, seconds: float, result: Any) -> Any:
    clock.now += seconds
    if isinstance(result, Exception):
        raise result
    return result


def test_latency_that_doubles_backs_off_once_then_stops() -> None:
    clock, slow = Clock(), [0.03]
    one = governor(clock, lambda: slow[0])

    async def go() -> None:
        await one.start()
        for _ in range(20):
            await one.send(READ, one.size(READ), lambda: answer(clock, 0.5, [1]))
        assert not one.alarm.events and one.budget.per_second == 1000
        slow[0] = 0.055
        for _ in range(20):
            await one.send(READ, one.size(READ), lambda: answer(clock, 0.5, [1]))
        assert not one.alarm.events, "less than twice is no alarm"
        slow[0] = 0.2
        for _ in range(40):
            await one.send(READ, one.size(READ), lambda: answer(clock, 0.5, [1]))

    with pytest.raises(Overloaded, match="200 ms, 30 ms at the start"):
        asyncio.run(go())
    assert one.budget.per_second == 500 and len(one.alarm.events) == 2


def test_busy_answers_back_off_once_then_stop_and_sizes_are_apart() -> None:
    clock = Clock()
    one = governor(clock, lambda: 0.001)

    async def go() -> None:
        await one.start()
        assert await one.send(READ, 1, lambda: answer(clock, 0.0, TooMany())) is None
        assert await one.send(BROWSE, 1, lambda: answer(clock, 0.0, TooMany())) is None
        assert not one.alarm.events
        assert await one.send(READ, 1, lambda: answer(clock, 0.0, Busy("busy"))) is None
        with pytest.raises(Overloaded, match="busy; then busy"):
            await one.send(READ, 1, lambda: answer(clock, 0.0, Busy("busy")))
        with pytest.raises(Overloaded, match="too many for the server"):
            await one.send(BROWSE, 1, lambda: answer(clock, 0.0, TooMany()))

    asyncio.run(go())


# -- rules --------------------------------------------------------------------------------------------
def checks(node_class: int, values: dict[int, Any], harmless: bool = False, region: str = audit_rules.INSTANCE) -> set[tuple[str, str]]:
    return {(one.check, one.kind) for one in audit_rules.judge(node_class, values, harmless, region)}


@pytest.mark.parametrize(("bit", "grants"), [(0, False), (1, True), (2, False), (3, True), (4, False), (5, True), (6, True)])
def test_access_level_bits(bit: int, grants: bool) -> None:
    assert checks(2, {17: 0xFF, 18: 1 << bit}) == ({("OA8", "grant")} if grants else set())


@pytest.mark.parametrize("bit", range(26))
def test_every_bit_of_a_user_write_mask_refutes_on_every_class(bit: int) -> None:
    for node_class in (1, 2, 4, 8, 16, 32, 64, 128):
        assert checks(node_class, {6: 0x3FFFFFF, 7: 1 << bit}) == {("OA10", "grant")}
    assert len(audit_rules.MASK_BITS) == 26


@pytest.mark.parametrize("bit", range(17))
def test_permission_bits_by_class(bit: int) -> None:
    everywhere, history, value = {2, 3, 13, 14, 15, 16}, {8, 9, 10}, {4, 6, 8, 9, 10}
    for node_class, counted in ((1, everywhere | history), (128, everywhere | history), (8, everywhere), (2, everywhere | value), (16, everywhere | value),
                                (4, everywhere | {12})):
        expected = {("OA12", "grant")} if bit in counted else set()
        assert checks(node_class, {25: [("ns=0;i=15668", 1 << bit)]}) == expected
    assert not checks(4, {25: [("x", 1 << 12)]}, harmless=True)


def test_methods_in_the_type_tree_are_information() -> None:
    assert checks(4, {21: True, 22: True}) == {("OA11", "grant")}
    assert checks(4, {21: True, 22: True}, region=audit_rules.TYPES) == {("OA11", "info")}
    assert checks(4, {21: True, 22: True}, region=audit_rules.UNLINKED) == {("OA11", "grant")}
    assert not checks(4, {21: True, 22: True}, harmless=True)
    assert not checks(4, {21: True, 22: False})


def test_the_harmless_methods_are_the_standards_own() -> None:
    from asyncua import ua

    named = [getattr(ua.ObjectIds, name) for name in (
        "ServerType_GetMonitoredItems", "Server_GetMonitoredItems", "ServerType_ResendData", "Server_ResendData", "ServerType_SetSubscriptionDurable",
        "Server_SetSubscriptionDurable", "ConditionType_ConditionRefresh", "ConditionType_ConditionRefresh2")]
    assert {"i=%d" % one for one in named} == audit_rules.HARMLESS_METHODS


def test_contradictions() -> None:
    assert checks(2, {17: 1, 18: 1, 27: 1 | 1 << 9}) == set()
    assert checks(2, {17: 1, 18: 1, 27: 3}) == {("OA9", "lie")}
    assert checks(2, {17: 1, 18: 3}) == {("OA8", "grant"), ("OA9", "lie")}
    assert checks(1, {6: 0, 7: 1}) == {("OA10", "grant"), ("OA9", "lie")}
    assert checks(4, {21: False, 22: True}) == {("OA11", "grant"), ("OA9", "lie")}


def test_what_others_may_do_is_no_finding() -> None:
    assert not checks(2, {17: 3, 18: 1, 6: 0x20, 7: 0})
    assert audit_rules.informs({17: 3, 18: 1, 6: 0x20, 7: 0}) == {
        "writable_by_others": True, "attributes_writable_by_others": True, "signing_required": False, "encryption_required": False}


# -- verdict ------------------------------------------------------------------------------------------
def test_the_verdict() -> None:
    assert audit_judge.decide(1, True, "")[0] == "refuted"
    assert audit_judge.decide(1, False, "cut")[0] == "refuted", "a right that was seen is there"
    assert audit_judge.decide(0, False, "cut") == ("inconclusive", "cut")
    assert audit_judge.decide(0, True, "")[0] == "claimed"


def certificate(**change: Any) -> Certificate:
    values: dict[str, Any] = dict(
        sha256="a", sha1="b", subject="CN=x", issuer="CN=x", not_before=0.0, not_after=400 * 86400.0, key_type="RSA", key_bits=2048,
        signature_hash="sha256", uris=("urn:x",), key_usage=("digital_signature",), extended=("serverAuth",))
    return Certificate(**{**values, **change})


@pytest.mark.parametrize(("change", "words"), [
    ({}, ""), ({"not_before": 2e5}, "not valid yet"), ({"not_after": 9e4}, "has expired"), ({"not_after": 1e5 + 20 * 86400}, "expires in 20 days"),
    ({"key_bits": 1024}, "1024 bits"), ({"key_type": "EC", "key_bits": 192}, "192 bits"), ({"key_type": "EC", "key_bits": 256}, ""),
    ({"signature_hash": "sha1"}, "sha1"), ({"uris": ("urn:y",)}, "urn:y"), ({"uris": ()}, "missing"),
    ({"key_usage": ("key_encipherment",)}, "digitalSignature"), ({"extended": ("clientAuth",)}, "serverAuth"),
    ({"extended": ("anyExtendedKeyUsage",)}, ""),
])
def test_certificates(change: dict[str, Any], words: str) -> None:
    found = audit_judge.certificate_problems(certificate(**change), 1e5, 30.0, "urn:x", "serverAuth")
    assert len(found) == bool(words) and words in "".join(found)


@pytest.mark.parametrize(("mode", "policy", "token", "clear"), [
    ("None", "#None", "", True), ("None", "#None", "#Basic256Sha256", False), ("Sign", "#Basic256Sha256", "#None", True),
    ("Sign", "#Basic256Sha256", "", False), ("SignAndEncrypt", "#Basic256Sha256", "#None", False),
])
def test_clear_passwords(mode: str, policy: str, token: str, clear: bool) -> None:
    one = Endpoint("opc.tcp://x", mode, policy, "", "", (TokenPolicy("u", "username", token), TokenPolicy("a", "anonymous", "")))
    assert bool(audit_judge.clear_password(one)) == clear


POLICY = "http://opcfoundation.org/UA/SecurityPolicy#"
USER = TokenPolicy("u", "username", POLICY + "Basic256Sha256")


def endpoint(mode: str = "SignAndEncrypt", policy: str = "Basic256Sha256", token: TokenPolicy = USER, sha256: str = "a") -> Endpoint:
    return Endpoint("opc.tcp://x", mode, POLICY + policy, "urn:x", sha256, (token,))


def judged(endpoints: list[Endpoint] | None = None, session: list[Endpoint] | None = None, server: Certificate | None = None,
           values: dict[str, Any] | None = None, thumbprints: dict[str, str] | None = None, walked: Any = None,
           exceptions: list[Any] | None = None, error: str = "") -> tuple[dict[str, str], dict[str, Any]]:
    """(statuses, record) of an endpoint that is clean but for what is given."""
    good = endpoints if endpoints is not None else [endpoint()]
    result = walked or audit_walk.Result()
    result.nodes["Variable"] = 1
    facts = audit_run.Facts(
        opened=Opened(good, session if session is not None else good, server or certificate(), certificate(extended=("clientAuth",), sha256="c")),
        values={"auditing": True, "product": "open62541", "version": "1.5.7", **(values or {})}, result=result, error=error)
    report = Report("x", deadline_s=None)
    plan = audit_run.Plan("plc1", "opc.tcp://x", "Basic256Sha256", "SignAndEncrypt", "observer", "urn:x")
    context = audit_judge.Context(plan, parse(exceptions or [], "plc1", TODAY), 1e5, "a", None, thumbprints or {})
    record = audit_judge.Judge(report, facts, context).run()
    return {check.id: check.status for check in report.checks}, record


def wrong(statuses: dict[str, str]) -> set[str]:
    return {id for id, status in statuses.items() if status in ("fail", "inconclusive")}


def walked(**change: Any) -> audit_walk.Result:
    result = audit_walk.Result()
    for name, value in change.items():
        setattr(result, name, value)
    return result


@pytest.mark.parametrize(("change", "ids"), [
    ({}, set()),
    ({"endpoints": [endpoint(), endpoint("None", "None")]}, {"OA1", "OA14"}),
    ({"endpoints": []}, {"OA1"}),
    ({"session": [endpoint(), endpoint("Sign")]}, {"OA1"}),
    ({"endpoints": [endpoint(policy="Basic256")]}, {"OA2"}),
    ({"endpoints": [endpoint(policy="ECC_nistP256")]}, set()),
    ({"endpoints": [endpoint(token=TokenPolicy("u", "username", POLICY + "Basic128Rsa15"))]}, {"OA2"}),
    ({"endpoints": [endpoint(token=TokenPolicy("c", "certificate", POLICY + "Basic256"))]}, {"OA2"}),
    ({"endpoints": [endpoint(token=TokenPolicy("u", "username", POLICY + "None"))]}, set()),
    ({"endpoints": [endpoint("Sign", token=TokenPolicy("u", "username", POLICY + "None"))]}, {"OA3", "OA14"}),
    ({"endpoints": [endpoint("Sign", token=TokenPolicy("j", "issued", POLICY + "None"))]}, {"OA3", "OA14"}),
    ({"endpoints": [endpoint(token=TokenPolicy("a", "anonymous", ""))]}, {"OA4"}),
    ({"server": certificate(sha256="b")}, {"OA6"}),
    ({"server": certificate(key_bits=1024)}, {"OA6"}),
    ({"thumbprints": {"plc1": "a", "plc2": "a"}}, {"OA6"}),
    ({"thumbprints": {"plc1": "a", "plc2": "b"}}, set()),
    ({"values": {"auditing": False}}, {"OA16"}),
    ({"values": {"auditing": None}}, {"OA16"}),
    ({"values": {"version": "1.2.4"}}, {"OA21"}),
    ({"values": {"version": ""}}, {"OA21"}),
    ({"walked": walked(subscribed_data_sets=["i=1"])}, {"OA17"}),
    ({"walked": walked(missing_tags=["x"])}, {"OA18"}),
    ({"walked": walked(hidden_tags=["x"])}, {"OA18"}),
    ({"walked": walked(roles={"ns=0;i=15668"}, told_roles=1)}, set()),
    ({"walked": walked(roles={"ns=0;i=16036"}, told_roles=1)}, {"OA13"}),
    ({"walked": walked(roles={"ns=2;i=1"}, told_roles=1)}, {"OA13"}),
    ({"walked": walked(roles={"ns=0;i=15716"}, told_roles=1)}, {"OA7", "OA13"}),
])
def test_each_cause_turns_its_own_check_and_no_other(change: dict[str, Any], ids: set[str]) -> None:
    statuses, record = judged(**change)
    assert wrong(statuses) == ids
    assert record["verdict"] == "claimed", "nothing here is a right of ours"


def test_what_was_not_read_is_never_passed() -> None:
    for change in ({"error": "cut"}, {"walked": walked(counts=Counter(unread=1))}, {"walked": walked(counts=Counter(truncated=1))},
                   {"walked": walked(stopped="deadline")}):
        statuses, record = judged(**change)
        assert record["verdict"] == "inconclusive"
        assert {"OA0", "OA8", "OA9", "OA10", "OA11", "OA12", "OA13", "OA17", "OA18", "OA19"} <= wrong(statuses)
        assert not [id for id in ("OA0", "OA8", "OA18") if statuses[id] == "fail"]


def test_an_exception_of_a_whole_check_excuses_it_by_name() -> None:
    waiver = {"check": "OA16", "source": "plc1", "owner": "o", "reason": "r", "expires": "2026-06-01"}
    statuses, record = judged(values={"auditing": False}, exceptions=[waiver])
    assert not wrong(statuses) and record["exceptions"][0]["used"] == 1
    statuses, record = judged(values={"auditing": False}, exceptions=[{**waiver, "expires": "2026-05-31"}])
    assert wrong(statuses) == {"OA0", "OA16"}, "expired"


# -- drift --------------------------------------------------------------------------------------------
@given(st.dictionaries(st.text("abc;=", min_size=1), st.text("01", min_size=4, max_size=4), max_size=8), st.randoms())
def test_the_hash_of_a_namespace_knows_no_order(lines: dict[str, str], rng: Any) -> None:
    items = list(lines.items())
    rng.shuffle(items)
    assert audit_walk.namespace_hash(dict(items)) == audit_walk.namespace_hash(lines)


def test_drift_in_words() -> None:
    old = {"namespaces": {"urn:a": {"n1": "1", "n2": "2"}, "urn:b": {"m": "1"}}}
    assert audit_judge.drift(old, {"urn:a": {"n1": "1", "n2": "2"}, "urn:b": {"m": "1"}}) == []
    assert audit_judge.drift(old, {"urn:a": {"n2": "9", "n3": "1"}}) == ["new: n3", "gone: n1", "changed: n2", "gone: m"]


# -- policy -------------------------------------------------------------------------------------------
GOOD = {"check": "OA8", "source": "plc1", "node": "nsu=urn:a;s=Canary*", "owner": "o", "reason": "r", "expires": "2026-06-01"}


def test_exceptions_excuse_what_they_name_until_their_last_day() -> None:
    policy = parse([GOOD, {**GOOD, "source": "plc2", "node": "nsu=urn:b;s=x"}], "plc1", TODAY)
    assert policy.excuses("OA8", "nsu=urn:a;s=Canary1") is not None
    assert policy.excuses("OA8", "nsu=urn:a;s=Other") is None and policy.excuses("OA10", "nsu=urn:a;s=Canary1") is None
    assert policy.excuses("OA8") is None, "an exception for nodes does not excuse a whole check"
    assert policy.excuses("OA8", "nsu=urn:b;s=x") is None, "of another source"
    assert not policy.expired() and not policy.unused()
    late = parse([GOOD], "plc1", date(2026, 6, 2))
    assert late.excuses("OA8", "nsu=urn:a;s=Canary1") is None and len(late.expired()) == 1
    whole = parse([{key: value for key, value in GOOD.items() if key != "node"}], "plc1", TODAY)
    assert whole.excuses("OA8") is not None and whole.excuses("OA8", "nsu=urn:a;s=Canary1") is None


def test_a_bracket_in_an_exception_is_part_of_the_name() -> None:
    policy = parse([{**GOOD, "node": "nsu=urn:a;s=Level[12]"}], "plc1", TODAY)
    assert policy.excuses("OA8", "nsu=urn:a;s=Level[12]") is not None
    assert policy.excuses("OA8", "nsu=urn:a;s=Level1") is None


@pytest.mark.parametrize(("change", "words"), [
    ({"owner": ""}, "owner is missing"), ({"expires": "soon"}, "no date"), ({"node": "*"}, "excuses every node"),
    ({"node": "nsu=*"}, "excuses every node"), ({"node": "n?u=urn:a;s=x"}, "excuses every node"), ({"node": "nsu=urn:*;s=x"}, "excuses every node"),
    ({"check": "OA0"}, "the verdict itself"), ({"nodes": []}, "unknown key nodes"), ({"reason": None}, "reason is missing"),
])
def test_a_policy_that_cannot_be_used_names_the_key(change: dict[str, Any], words: str) -> None:
    with pytest.raises(PolicyError, match=words):
        parse([{**GOOD, **change}], "plc1", TODAY)
    with pytest.raises(PolicyError, match="write a mapping"):
        parse(["x"], "plc1", TODAY)


# -- gate ---------------------------------------------------------------------------------------------
NOW = 1_800_000_000.0


def state(**change: Any) -> dict[str, Any]:
    source = {"source": "plc1", "protocol": "opcua", "state": "connected", "detail": "", "since": int((NOW - 600) * 1e7), **change}
    return {"now": int(NOW * 1e7), "sources": [source]}


def gate(status: dict[str, Any] | None = None, open_now: int = 1, dials: tuple[float, ...] = (), limits: dict[str, int] | None = None) -> audit_gate.Gate:
    return audit_gate.decide("plc1", limits or {"connections": 2, "new_per_minute": 6}, status or state(), "", open_now, dials, NOW)


def test_the_collector_comes_first() -> None:
    assert gate() == audit_gate.Gate()
    assert "none is free" in gate(open_now=2).refuse
    assert "comes first" in gate(state(state="connecting")).refuse
    assert "does not read this source" in audit_gate.decide("x", {}, state(), "", 0, (), NOW).refuse
    assert "not known (gone)" in audit_gate.decide("plc1", {}, None, "gone", 0, (), NOW).refuse
    assert "old" in audit_gate.decide("plc1", {}, {**state(), "now": int((NOW - 11) * 1e7)}, "", 0, (), NOW).refuse


def test_new_connections_of_the_minute_are_left_to_the_collector() -> None:
    assert gate(state(since=int((NOW - 20) * 1e7))).wait_s == pytest.approx(40.0)
    assert gate(dials=(NOW - 50, NOW - 30)).wait_s == 0.0
    assert gate(dials=(NOW - 50, NOW - 30, NOW - 10)).wait_s == pytest.approx(10.0)
    assert gate(dials=(NOW - 30,), limits={"connections": 2, "new_per_minute": 1}).wait_s == pytest.approx(30.0)


def test_connections_out_of_the_kernels_table() -> None:
    table = """  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0B034D0A:8A12 0B024D0A:12E8 01 00000000:00000000 00:00000000 00000000   998        0 1 1
   1: 0B034D0A:8A14 0B024D0A:12E8 04 00000000:00000000 00:00000000 00000000     0        0 0 1
   4: 0B034D0A:8A18 0B024D0A:12E8 06 00000000:00000000 00:00000000 00000000     0        0 0 1
   2: 0B034D0A:8A16 0B024D0A:01F6 01 00000000:00000000 00:00000000 00000000   998        0 1 1
   3: 00000000:12E8 00000000:0000 0A 00000000:00000000 00:00000000 00000000   998        0 1 1
"""
    assert audit_gate.connections(table, ["10.77.2.11"], 4840) == 2
    assert audit_gate.connections(table, ["10.77.2.11"], 502) == 1
    assert audit_gate.connections(table, ["10.77.2.12"], 4840) == 0
    six = "   0: x:1 000077FD000000000200000011000000:12E8 01 0\n   1: x:1 0000000000000000FFFF00000B024D0A:12E8 01 0\n"
    assert audit_gate.connections(six, ["10.77.2.11"], 4840) == 1


# -- names, memo, table ---------------------------------------------------------------------------------
@given(st.sampled_from(["http://opcfoundation.org/UA/", "urn:a", "urn:b;s=x", "urn:c:i=5"]), st.text(min_size=1).filter(lambda text: ";" not in text))
def test_names_there_and_back(uri: str, identifier: str) -> None:
    names = Names(["http://opcfoundation.org/UA/", "urn:a", "urn:b;s=x", "urn:c:i=5"])
    text = "ns=%d;s=%s" % (names.table.index(uri), identifier)
    assert names.today(names.stable(text)) == text
    assert names.uri(names.index(text)) == uri
    assert names.today("nsu=urn:nowhere;s=x") is None


class Texts:
    """A channel that only names nodes."""

    def node(self, text: str) -> str:
        return text

    def text(self, node: str) -> str:
        return node


def test_a_memo_is_worth_nothing_for_another_server() -> None:
    memo = audit_walk.Memo(["a"])
    references = [Alike(["ns=1;s=y", "ns=1;s=z"], ["y", "z"], 2, 1, "ns=0;i=63", "ns=0;i=47")]
    memo.keep_references(Texts(), {"ns=1;s=x": references})  # type: ignore[arg-type]
    memo.keep_readings(Texts(), ["ns=1;s=x"], (25, 18), (Reading(0, [("r", 1)]), Reading(0x80350000)))  # type: ignore[arg-type]
    again = audit_walk.Memo(["a"], memo.dump())
    asked = ["ns=1;s=other", "ns=1;s=x"]
    assert again.references(Texts(), asked) == {"ns=1;s=x": references}  # type: ignore[arg-type]
    assert again.readings(Texts(), asked) == {"ns=1;s=x": {25: Reading(0, [("r", 1)]), 18: Reading(0x80350000)}}  # type: ignore[arg-type]
    assert audit_walk.Memo(["b"], memo.dump()).remembered == 0
    assert audit_walk.Memo(["a"], {"format": 2, "key": ["a"]}).remembered == 0


def test_vulnerable_versions() -> None:
    assert [one.id for one in audit_cve.match(["open62541 OPC UA Server"], "1.2.4")] == ["CVE-2022-25761"]
    assert not audit_cve.match(["open62541"], "1.5.7") and audit_cve.known(["NodeOPCUA-Server", "", ""])
    assert not audit_cve.match(["open62541"], "") and not audit_cve.known(["SIMATIC"])
    assert len(audit_cve.match(["NodeOPCUA"], "2.9.1")) == 3


@pytest.mark.parametrize(("text", "version"), [
    ("1.2.4", (1, 2, 4)), ("v1.2", (1, 2)), ("open62541 1.2.4", (1, 2, 4)), ("open62541-1.2.4", (1, 2, 4)), ("2.9.1-beta.3", (2, 9, 1)),
    ("asyncua==0.9.95", (0, 9, 95)), ("open62541", ()), ("", ()),
])
def test_a_version_behind_a_name_that_has_digits(text: str, version: tuple[int, ...]) -> None:
    assert audit_cve.version_of(text) == version


def test_the_checks_are_the_21_and_each_has_a_row_in_the_runbook() -> None:
    assert [spec.id for spec in audit_judge.SPECS] == ["OA%d" % number for number in range(1, 22)]
    text = (ROOT / "docs" / "verify.md").read_text(encoding="utf-8")
    for number in range(22):
        assert "| OA%d |" % number in text


def test_status_codes_have_their_numbers() -> None:
    from asyncua import ua

    from ansible_collections.hnai.platform.plugins.module_utils.opcua import asyncua_reader

    for group in (asyncua_reader.SIZE, asyncua_reader.BUSY, asyncua_reader.IDENTITY):
        assert {name: getattr(ua.StatusCodes, name) for name in group} == group


def test_the_audit_sends_what_the_collector_sends_and_browses() -> None:
    """Two closed clients: this list may differ from the collector's only by browsing and by subscriptions."""
    from ansible_collections.hnai.platform.plugins.module_utils.opcua.asyncua_reader import READING

    source = (ROOT / "roles/ot_collector/tree/usr/local/lib/hnai/ot_collector/hnai_ot_collector/ua_channel.py").read_text(encoding="utf-8")
    listed = set(source.split("READING = frozenset({", 1)[1].split("})", 1)[0].replace('"', "").replace("\n", "").replace(" ", "").split(",")) - {""}
    assert READING - listed == {"GetEndpointsRequest", "BrowseRequest", "BrowseNextRequest"}
    # What is made and deleted is a subscription of the session's own.
    assert listed - READING == {
        "CreateSubscriptionRequest", "DeleteSubscriptionsRequest", "CreateMonitoredItemsRequest", "DeleteMonitoredItemsRequest", "PublishRequest"}


def test_a_source_that_is_about_to_be_read_needs_only_a_free_connection() -> None:
    limits = {"connections": 2, "new_per_minute": 6}
    assert audit_gate.decide("new", limits, None, "no file", 1, (), NOW, unread=True) == audit_gate.Gate()
    assert audit_gate.decide("new", limits, state(), "", 0, (), NOW, unread=True) == audit_gate.Gate()
    assert "none is free" in audit_gate.decide("new", limits, None, "", 2, (), NOW, unread=True).refuse
    assert audit_gate.decide("new", limits, None, "", 0, (NOW - 1, NOW - 2, NOW - 3), NOW, unread=True).wait_s > 50
    # One that the collector reads is still the collector's first.
    status = {**state(), "sources": [{**state()["sources"][0], "state": "waiting"}]}
    assert "comes first" in audit_gate.decide("plc1", limits, status, "", 0, (), NOW, unread=True).refuse
