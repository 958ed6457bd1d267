# SPDX-License-Identifier: Apache-2.0
"""The audit against real servers with planted faults: each is found, nothing clean is accused, no writing service arrives."""
from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from asyncua import ua
from opcua_stand import CLIENT_URI, PLANT, SERVER_URI, WRITING, Proxy, Stand, key_pair

from ansible_collections.hnai.platform.plugins.module_utils.opcua import asyncua_reader, audit_run
from ansible_collections.hnai.platform.plugins.module_utils.opcua.asyncua_bounds import CHUNK_LIMIT
from ansible_collections.hnai.platform.plugins.module_utils.opcua.asyncua_reader import READING, FastReader, Reader, Target, check_reading, der, describe
from ansible_collections.hnai.platform.plugins.module_utils.opcua.audit_judge import Context, Judge
from ansible_collections.hnai.platform.plugins.module_utils.opcua.audit_policy import Policy, parse
from ansible_collections.hnai.platform.plugins.module_utils.opcua.audit_types import Forbidden
from ansible_collections.hnai.platform.plugins.module_utils.verdict import Report

NODES = 70
ENGINEER, OBSERVER, SECURITY_ADMIN = 16036, 15668, 15704


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    logging.getLogger("asyncua").setLevel(logging.CRITICAL)
    one = Stand(tmp_path_factory.mktemp("stand")).start()
    one.grow(NODES, 7)
    yield one
    one.stop()


@pytest.fixture
def clean(stand: Stand) -> Iterator[Stand]:
    """The server, in order, before and after."""
    fresh(stand)
    yield stand
    fresh(stand)


def fresh(stand: Stand) -> None:
    stand.spoil = type(stand.spoil)()
    stand.services.clear()
    stand.operations.clear()
    stand.points.clear()
    stand.users.tries = stand.requests = 0


def target(stand: Stand, **change: Any) -> Target:
    values: dict[str, Any] = dict(
        endpoint=stand.url, policy="Basic256Sha256", mode="SignAndEncrypt", application_uri=CLIENT_URI, certificate=stand.client_pair[0],
        private_key=stand.client_pair[1], server_certificate=stand.server_pair[0], username="observer", password="secret",
        name="audit-test", connect_timeout_s=20.0, request_timeout_s=20.0)
    return Target(**{**values, **change})


def plan(stand: Stand, **change: Any) -> audit_run.Plan:
    values: dict[str, Any] = dict(
        source="plc1", endpoint=stand.url, policy="Basic256Sha256", mode="SignAndEncrypt", username="observer", application_uri=CLIENT_URI,
        budget_per_s=50000, batch=500, latency_floor_s=30.0, rest_s=0.1, deadline_s=240.0, environment="test")
    return audit_run.Plan(**{**values, **change})


def audit(stand: Stand, want: Target | None = None, baseline: Any = None, policy: Policy | None = None, earlier: Any = None,
          **change: Any) -> tuple[audit_run.Facts, Report, dict[str, Any]]:
    """Gather and judge."""
    one = plan(stand, **change)
    facts = asyncio.run(audit_run.gather(Reader(want or target(stand)), one, time.monotonic, asyncio.sleep, earlier))
    report = Report("ot_audit", deadline_s=None)
    record = Judge(report, facts, Context(one, policy or Policy(today=date(2026, 1, 1)), time.time(),
                                          pin_sha256=describe(der(stand.server_pair[0])).sha256, baseline=baseline)).run()
    wait_closed(stand)
    return facts, report, record


def wait_closed(stand: Stand) -> None:
    """No session of ours stays."""
    assert not stand.left(), "a session stayed open"


def status(report: Report) -> dict[str, str]:
    return {check.id: check.status for check in report.checks}


def bad(report: Report) -> set[str]:
    return {check.id for check in report.checks if check.status in ("fail", "inconclusive")}


def reason(report: Report, id: str) -> str:
    return next(check.reason for check in report.checks if check.id == id)


def nodes(record: dict[str, Any], check: str) -> set[str]:
    return {one["node"] for one in record["findings"] if one["check"] == check}


def stable(text: str) -> str:
    return "nsu=%s;%s" % (PLANT, text.split(";", 1)[1])


def chosen(stand: Stand, node_class: int, count: int, rng: random.Random, taken: set[str]) -> list[str]:
    """*count* nodes of a class that no other fault has taken."""
    fit = [text for text in stand.classes if text not in taken and stand.classes[text] == node_class]
    found = rng.sample(fit, count)
    taken.update(found)
    return found


def test_a_clean_server_is_claimed_and_nothing_is_accused(clean: Stand) -> None:
    tags = tuple(stable(text) for text in clean.classes if clean.classes[text] == 2)
    facts, report, record = audit(clean, tags=tags)
    assert facts.complete and not facts.error
    assert record["verdict"] == "claimed"
    assert not bad(report), [(check.id, check.reason) for check in report.checks if check.status in ("fail", "inconclusive")]
    assert {id for id, one in status(report).items() if one == "skipped"} == {"OA4", "OA5", "OA13", "OA15"}
    assert record["coverage"]["declared_tags"] == len(tags) and not record["coverage"]["missing_tags"]
    assert sum(record["coverage"]["nodes"].values()) >= NODES + 100
    assert any("OA15" in text for text in record["not_tested"])
    # The server's own record: one session, one login, reading services, nothing else.
    assert set(clean.services) <= {"GetEndpoints", "CreateSession", "ActivateSession", "CloseSession", "Read", "Browse", "BrowseNext"}
    assert (clean.services["CreateSession"], clean.services["ActivateSession"], clean.services["CloseSession"], clean.users.tries) == (1, 1, 1, 1)


@pytest.mark.parametrize("seed", [1, 2])
def test_every_planted_right_is_found_and_no_other_node_accused(clean: Stand, seed: int) -> None:
    rng, taken = random.Random(seed), set[str]()
    write = chosen(clean, 2, 4, rng, taken)
    for text, level in zip(write, (0x03, 0x09, 0x21, 0x41)):
        clean.set(text, 18, level, ua.VariantType.Byte)
        clean.set(text, 17, level, ua.VariantType.Byte)
    masked = chosen(clean, 1, 2, rng, taken) + chosen(clean, 2, 1, rng, taken) + chosen(clean, 4, 1, rng, taken)
    for text in masked:
        clean.set(text, 7, 1 << rng.randrange(26), ua.VariantType.UInt32)
        clean.set(text, 6, 0x3FFFFFF, ua.VariantType.UInt32)
    methods = chosen(clean, 4, 1, rng, taken)
    clean.set(methods[0], 22, True, ua.VariantType.Boolean)
    permitted = chosen(clean, 2, 2, rng, taken) + chosen(clean, 1, 1, rng, taken)
    for text, granted in zip(permitted, (1 << 6, 1 << 9, 1 << 15)):
        clean.roles(text, 25, (OBSERVER, granted | 0x21))
    harmless = chosen(clean, 2, 1, rng, taken)[0]
    clean.roles(harmless, 25, (OBSERVER, 0x21 | 1 << 12 | 1 << 7))
    lies = chosen(clean, 2, 2, rng, taken)
    clean.set(lies[0], 27, 0x03, ua.VariantType.UInt32)
    clean.set(lies[0], 17, 0x01, ua.VariantType.Byte)
    clean.spoil.attributes[lies[1], -1] = 1
    hidden_write = lies[1]
    clean.set(hidden_write, 18, 0x03, ua.VariantType.Byte)
    clean.set(hidden_write, 17, 0x03, ua.VariantType.Byte)
    facts, report, record = audit(clean)
    assert facts.complete
    assert record["verdict"] == "refuted"
    assert nodes(record, "OA8") == {stable(text) for text in [*write, hidden_write]}
    assert nodes(record, "OA10") == {stable(text) for text in masked}
    assert nodes(record, "OA11") == {stable(text) for text in methods}
    assert nodes(record, "OA12") == {stable(text) for text in permitted}
    assert nodes(record, "OA9") == {stable(text) for text in lies}
    assert bad(report) == {"OA0", "OA8", "OA9", "OA10", "OA11", "OA12"}
    assert status(report)["OA13"] == "pass"
    assert not WRITING & set(clean.services)


def test_an_excused_right_is_listed_and_an_expired_exception_excuses_nothing(clean: Stand) -> None:
    rng = random.Random(3)
    (text,) = chosen(clean, 2, 1, rng, set())
    clean.set(text, 18, 0x03, ua.VariantType.Byte)
    clean.set(text, 17, 0x03, ua.VariantType.Byte)
    entry = {"check": "OA8", "source": "plc1", "node": stable(text), "owner": "operations", "reason": "canary", "expires": "2026-06-30"}
    _, report, record = audit(clean, policy=parse([entry], "plc1", date(2026, 6, 30)))
    assert (record["verdict"], record["excused_total"], status(report)["OA8"]) == ("claimed", 1, "pass")
    assert record["excused"][0]["owner"] == "operations"
    _, report, record = audit(clean, policy=parse([entry], "plc1", date(2026, 7, 1)))
    assert record["verdict"] == "refuted" and status(report)["OA8"] == "fail"


def test_roles_that_may_more_than_read_and_defaults_of_a_namespace(clean: Stand) -> None:
    text = random.Random(4).choice(list(clean.classes))
    clean.roles(text, 25, (OBSERVER, 0x21), (SECURITY_ADMIN, 0x21))
    _, report, _ = audit(clean)
    assert {"OA13", "OA7"} <= bad(report)
    assert "SecurityAdmin" in reason(report, "OA13")


def test_tiny_limits_and_continuation_points_lose_nothing(clean: Stand) -> None:
    whole, _, _ = audit(clean)
    fresh(clean)
    clean.spoil.max_read, clean.spoil.max_browse, clean.spoil.max_references, clean.spoil.max_points = 7, 3, 2, 2
    facts, report, _ = audit(clean)
    assert facts.complete, facts.error
    assert facts.result.nodes == whole.result.nodes and not bad(report)
    assert clean.services["BrowseNext"] > 20 and not clean.points
    assert facts.load["refused_sizes"] == {"read": [8], "browse": [4]}


def test_advertised_limits_are_obeyed(clean: Stand) -> None:
    for number, value in ((11705, 9), (11710, 4)):
        clean.set("ns=0;i=%d" % number, 13, value, ua.VariantType.UInt32)
    clean.spoil.max_read, clean.spoil.max_browse = 9, 4
    facts, _, _ = audit(clean)
    assert facts.complete and not facts.load["refused_sizes"]
    assert facts.load["batch"] == {"read": 9, "browse": 4}


def test_what_is_truncated_or_unread_is_reported_never_clean(clean: Stand) -> None:
    clean.spoil.max_references, clean.spoil.lose_points = 5, 1000
    facts, report, record = audit(clean)
    assert not facts.complete and record["verdict"] == "inconclusive"
    assert facts.result.counts["truncated"] and record["coverage"]["truncated"]
    assert {"OA0", "OA8", "OA10", "OA18"} <= bad(report) and status(report)["OA8"] == "inconclusive"
    fresh(clean)
    clean.spoil.max_references, clean.spoil.endless = 5, True
    facts, report, record = audit(clean)
    assert record["verdict"] == "inconclusive" and "does not end" in " ".join(facts.result.truncated)
    fresh(clean)
    (text,) = chosen(clean, 2, 1, random.Random(5), set())
    clean.set(text, 18, 0x803A0000)
    facts, report, record = audit(clean)
    assert record["verdict"] == "inconclusive" and stable(text) in " ".join(record["coverage"]["unread"])


def test_a_declared_tag_that_is_missing_is_named(clean: Stand) -> None:
    _, report, record = audit(clean, tags=(stable(next(iter(clean.classes))), "nsu=%s;s=nowhere" % PLANT, "nsu=urn:other;s=x"))
    assert record["coverage"]["missing_tags"] == ["nsu=urn:other;s=x", "nsu=%s;s=nowhere" % PLANT]
    assert bad(report) == {"OA18"}


def test_a_connection_dropped_half_way_is_inconclusive_and_the_next_run_goes_on(clean: Stand) -> None:
    whole, _, _ = audit(clean)
    fresh(clean)
    clean.spoil.drop_after = 45
    facts, report, record = audit(clean)
    assert record["verdict"] == "inconclusive" and "connection" in facts.error
    assert clean.services["CreateSession"] == 1 and clean.users.tries == 1
    assert status(report)["OA8"] == "inconclusive"
    memo = facts.memo
    assert memo is not None
    fresh(clean)
    again, report, record = audit(clean, earlier=memo.dump())
    assert again.resumed > 0 and record["verdict"] == "claimed" and again.result.nodes == whole.result.nodes
    assert again.load["operations"] < whole.load["operations"]


def test_a_server_that_never_answers_ends_inconclusive_in_time(clean: Stand) -> None:
    clean.spoil.mute_after = 40
    begin = time.monotonic()
    facts, report, record = audit(clean, target(clean, request_timeout_s=2.0))
    assert record["verdict"] == "inconclusive" and "no answer" in facts.error
    assert time.monotonic() - begin < 40 and "OA8" in bad(report)


def test_answers_that_do_not_fit_or_cannot_be_read_end_inconclusive(clean: Stand) -> None:
    clean.spoil.wrong_count = True
    facts, _, record = audit(clean)
    assert record["verdict"] == "inconclusive" and "results for" in facts.error
    fresh(clean)
    clean.spoil.break_bytes_after = 40
    facts, _, record = audit(clean, target(clean, request_timeout_s=5.0))
    assert record["verdict"] == "inconclusive" and facts.error


def test_a_server_that_slows_down_makes_us_back_off_then_stop(clean: Stand) -> None:
    clean.spoil.slower_after = (40, 0.4)
    facts, report, record = audit(clean, latency_floor_s=0.1, budget_per_s=400, rest_s=0.2)
    assert record["verdict"] == "inconclusive"
    assert "a read takes" in facts.error and len(facts.load["alarms"]) == 2
    assert {"OA0", "OA20"} <= bad(report)


def test_a_busy_server_is_asked_twice_at_most(clean: Stand) -> None:
    clean.spoil.busy_every = 20
    facts, _, record = audit(clean)
    assert record["verdict"] == "inconclusive" and facts.error.count("BadResourceUnavailable") == 2


def test_the_budget_holds_in_every_second_at_the_server(clean: Stand) -> None:
    budget = 300
    facts, _, _ = audit(clean, budget_per_s=budget)
    assert facts.complete
    moments = clean.operations
    for begin, _ in moments:
        assert sum(count for moment, count in moments if begin <= moment < begin + 1.0) <= budget
    assert sum(count for _, count in moments) > 2 * budget


def test_no_session_is_kept_when_few_are_left(clean: Stand) -> None:
    for number, value in ((24095, 10), (2277, 10)):
        clean.set("ns=0;i=%d" % number, 13, value, ua.VariantType.UInt32)
    facts, _, record = audit(clean)
    assert record["verdict"] == "inconclusive" and "0 of 10 sessions left" in facts.error
    assert clean.services["Browse"] == 0


def test_a_wrong_password_is_tried_once(clean: Stand) -> None:
    facts, report, record = audit(clean, target(clean, password="wrong"))
    assert record["verdict"] == "inconclusive" and "nobody tries again" in facts.error
    assert clean.users.tries == 1 and clean.services["ActivateSession"] == 1
    assert status(report)["OA8"] == "inconclusive"


def test_another_server_certificate_is_refused_before_the_password(clean: Stand) -> None:
    other = key_pair(SERVER_URI)[0]
    _, _, record = audit(clean, target(clean, server_certificate=other, connect_timeout_s=1.5))
    assert record["verdict"] == "inconclusive"
    assert clean.users.tries == 0


def test_drift_names_what_changed(clean: Stand) -> None:
    facts, _, first = audit(clean)
    baseline = {"accepted_at": "then", "namespaces": facts.result.lines}
    _, report, again = audit(clean, baseline=baseline)
    assert status(report)["OA19"] == "pass" and again["namespaces"] == first["namespaces"]
    (text,) = chosen(clean, 2, 1, random.Random(6), set())
    clean.set(text, 6, 0x20, ua.VariantType.UInt32)
    _, report, changed = audit(clean, baseline=baseline)
    assert bad(report) == {"OA19"} and stable(text) in reason(report, "OA19")
    assert {uri for uri in changed["namespaces"] if changed["namespaces"][uri] != first["namespaces"][uri]} == {PLANT}


def seen(reader: Any, clean: Stand) -> tuple[Any, ...]:
    """Everything that an audit by *reader* says of the server."""
    facts = asyncio.run(audit_run.gather(reader, plan(clean, tags=("nsu=%s;s=Plant" % PLANT,)), time.monotonic, asyncio.sleep))
    wait_closed(clean)
    assert facts.complete, facts.error
    result = facts.result
    return (result.lines, result.nodes, result.regions, sorted(str(one.as_dict()) for one in result.findings), result.counts, result.roles,
            result.statuses, result.hidden_tags, facts.values)


def test_the_codec_sees_what_asyncua_sees(clean: Stand) -> None:
    rng, taken = random.Random(8), set[str]()
    first, second, third = chosen(clean, 2, 3, rng, taken)
    clean.set(first, 18, 0x03, ua.VariantType.Byte)
    clean.roles(second, 25, (OBSERVER, 0x61), (ENGINEER, 0x21))
    clean.roles(second, 24, (ENGINEER, 0x1FFFF))
    clean.set(third, 26, 3, ua.VariantType.UInt16)
    clean.set(third, 27, 0x103, ua.VariantType.UInt32)
    clean.spoil.max_references = 4
    fast = FastReader(target(clean))
    assert seen(fast, clean) == seen(Reader(target(clean)), clean)
    # BuildInfo's date and the server's start are times, which the codec leaves to asyncua.
    assert fast.surprises <= 3
    assert not WRITING & set(clean.services)


def test_the_codec_encodes_three_services() -> None:
    async def go() -> None:
        from ansible_collections.hnai.platform.plugins.module_utils.opcua.asyncua_reader import ClosedProtocol

        await ClosedProtocol().send_bytes(ua.ObjectIds.WriteRequest_Encoding_DefaultBinary, b"", 1.0)

    with pytest.raises(Forbidden):
        asyncio.run(go())


@pytest.mark.parametrize("kind", [Reader, FastReader])
def test_answers_have_our_bounds_whatever_the_server_acknowledges(clean: Stand, kind: type[Reader]) -> None:
    async def go() -> list[int]:
        reader = kind(target(clean))
        await reader.open()
        limits = reader._ua.protocol._connection._limits
        await reader.close()
        return [limits.max_message_size, limits.max_chunk_count, limits.max_recv_buffer]

    assert asyncio.run(go()) == [asyncua_reader.MESSAGE_LIMIT, asyncua_reader.MESSAGE_LIMIT // 4096, CHUNK_LIMIT]


def test_the_reader_opens_once() -> None:
    reader = Reader(Target("opc.tcp://127.0.0.1:1/", "Basic256Sha256", "SignAndEncrypt", CLIENT_URI, b"", b"", b"", "", "", "x"))
    reader._used = True
    with pytest.raises(Forbidden):
        asyncio.run(reader.open())


@pytest.mark.parametrize("name", sorted(WRITING))
def test_the_client_refuses_to_serialise_what_changes_something(name: str) -> None:
    with pytest.raises(Forbidden):
        check_reading(getattr(ua, name + "Request")())
    assert name + "Request" not in READING


@pytest.mark.parametrize("patience_s", [60.0, 0.0])
def test_the_connection_is_reset_when_the_server_hangs_up_or_we_waited_long_enough(clean: Stand, monkeypatch: Any, patience_s: float) -> None:
    async def go() -> tuple[int, float]:
        reader = Reader(target(clean))
        await reader.open()
        port, begin = reader._ua.protocol.transport.get_extra_info("sockname")[1], time.monotonic()
        await reader.close()
        return port, time.monotonic() - begin

    monkeypatch.setattr(asyncua_reader, "CLOSE_S", patience_s)
    port, seconds = asyncio.run(go())
    wait_closed(clean)
    assert seconds < 4.0, "the server hung up, and nobody saw it"
    left = [line for line in Path("/proc/net/tcp").read_text(encoding="ascii").splitlines() if ":%04X " % port in line]
    assert not left, "neither side keeps the connection, not even in TIME_WAIT"


def test_asyncuas_own_ways_to_write_end_in_the_closed_client(clean: Stand) -> None:
    async def go() -> list[type[BaseException]]:
        reader = Reader(target(clean))
        await reader.open()
        node = reader._client.get_node(next(iter(clean.classes)))
        seen: list[type[BaseException]] = []
        for attempt in (lambda: node.write_value(1.0), lambda: node.call_method("x"), lambda: node.add_object(2, "x"),
                        lambda: reader._client.delete_nodes([node]), lambda: reader._ua.session.history_update(ua.HistoryUpdateParameters()),
                        lambda: reader._ua.session.add_references([]), lambda: reader._ua.session.delete_references([]),
                        lambda: reader._ua.session.write_attributes([], []), lambda: reader._ua.session.write(ua.WriteParameters()),
                        lambda: reader._ua.session.call([])):
            try:
                await attempt()
            except Exception as error:
                chain: list[type[BaseException]] = []
                one: BaseException | None = error
                while one is not None:
                    chain.append(type(one))
                    one = one.__cause__ or one.__context__
                seen.append(Forbidden if Forbidden in chain else type(error))
        await reader.close()
        return seen

    seen = asyncio.run(go())
    wait_closed(clean)
    assert not WRITING & set(clean.services), clean.services
    assert len(seen) == 10


def test_on_the_wire_there_is_no_writing_service(tmp_path: Path) -> None:
    """A signed, unencrypted channel through a proxy that reads every request; the endpoint list has faults of its own."""
    stand = Stand(
        tmp_path, policies=[ua.SecurityPolicyType.NoSecurity, ua.SecurityPolicyType.Basic256_Sign, ua.SecurityPolicyType.Basic256Sha256_Sign],
        tokens=[ua.AnonymousIdentityToken, ua.UserNameIdentityToken], cert=key_pair("urn:test:other", days=3)).start()
    try:
        stand.grow(10, 1)

        async def proxy() -> Proxy:
            one = Proxy(stand.loop, stand.port)
            await one.start()
            return one

        between = stand.call(proxy())
        url = "opc.tcp://127.0.0.1:%d/" % between.port
        facts, report, record = audit(stand, target(stand, endpoint=url, mode="Sign"), endpoint=url, mode="Sign")
        stand.call(between.stop())
        assert facts.complete, facts.error
        assert between.connections == 1 and between.other == 0
        assert between.services["Read"] > 20 and not WRITING & set(between.services)
        assert between.services["CreateSession"] == between.services["ActivateSession"] == between.services["CloseSession"] == 1
        assert record["verdict"] == "claimed"
        assert {"OA1", "OA2", "OA4", "OA6", "OA14"} <= bad(report)
        assert "expires in" in reason(report, "OA6") and "ApplicationUri" in reason(report, "OA6")
        assert not {"OA8", "OA10", "OA11", "OA12", "OA18"} & bad(report)
    finally:
        stand.stop()
