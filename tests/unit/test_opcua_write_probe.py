# SPDX-License-Identifier: Apache-2.0
"""The write probe against a real server: one attempt on one node, between two proofs, and the value as before whatever happens."""
from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from asyncua import ua
from asyncua.common.utils import ServiceError
from asyncua.crypto.permission_rules import UserRole
from opcua_stand import CLIENT_URI, PLANT, WRITING
from write_stand import CANARY, PATH, Faults, mirror, now_at, plant, probe, put

from ansible_collections.hnai.platform.plugins.module_utils.opcua import write_channel, write_probe
from ansible_collections.hnai.platform.plugins.module_utils.opcua.audit_host import Options
from ansible_collections.hnai.platform.plugins.module_utils.opcua.audit_load import Budget
from ansible_collections.hnai.platform.plugins.module_utils.opcua.audit_types import Forbidden, LinkLost
from ansible_collections.hnai.platform.plugins.module_utils.opcua.write_host import Leave, Probe
from ansible_collections.hnai.platform.plugins.module_utils.verdict import Check, Report

ROOT = Path(__file__).resolve().parents[2]
FOUR = ["OW1", "OW2", "OW3", "OW4"]


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with plant(tmp_path_factory.mktemp("stand")) as one:
        yield one


@pytest.fixture
def site(stand: Any, tmp_path: Path) -> Any:
    """A mirror's host whose collector is connected for ten minutes; the server is clean."""
    return mirror(stand, tmp_path)


# -- the canary ---------------------------------------------------------------------------------------------
def test_a_server_that_refuses_is_proven_with_three_writes(site: Any, stand: Any) -> None:
    status, record, report = probe(site)
    assert [status[one] for one in FOUR] == ["pass"] * 4 and status["OW5"] == "pass" and status["OW0"] == "pass", status
    assert record["verdict"] == "proven" and len(record["holds_for"]["tags"]) == 1
    assert record["holds_for"]["server_certificate"] and record["token"]["approver"] == "j.doe"
    # Written and put back by the engineer, tried once by the mirror: the server's own record.
    assert {name: count for name, count in stand.services.items() if name in WRITING} == {"Write": 3}
    assert now_at(stand) == 7.5 and stand.left() == [] and site.state.read("write_probe") is None
    assert [one.split(" of ")[0] for one in site.host.said] == ["opcua_write_probe (canary)"] * 2
    assert "e-secret" not in json.dumps(report.result()) and "secret\"" not in json.dumps(report.result())


def test_a_server_that_takes_the_mirrors_write_is_refuted_and_the_value_comes_back(site: Any, stand: Any) -> None:
    stand.call(stand.canary.set_writable())
    status, record, _report = probe(site)
    assert status["OW3"].startswith("fail: the mirror's write changed the value") and record["verdict"] == "refuted"
    assert status["OW0"].startswith("fail") and status["OW4"] == "pass"
    assert now_at(stand) == 7.5 and stand.services["Write"] == 4 and site.state.read("write_probe") is None


def test_a_server_that_says_good_and_writes_nothing_is_refuted_too(site: Any, stand: Any) -> None:
    async def hook(user: str, plain: Any, params: Any) -> Any:
        return [ua.StatusCode(0)] if user == "observer" else await plain()

    stand.faults.write = hook
    status, record, _report = probe(site)
    assert status["OW3"].startswith("fail: 0x00000000") and record["verdict"] == "refuted" and status["OW4"] == "pass"


def test_a_server_that_says_no_and_writes_is_refuted_and_put_right(site: Any, stand: Any) -> None:
    async def hook(user: str, plain: Any, params: Any) -> Any:
        if user == "observer":
            await put(stand, params.NodesToWrite[0].Value.Value.Value)
            return [ua.StatusCode(ua.StatusCodes.BadUserAccessDenied)]
        return await plain()

    stand.faults.write = hook
    status, record, _report = probe(site)
    assert status["OW3"].startswith("fail: the mirror's write changed") and record["verdict"] == "refuted"
    assert now_at(stand) == 7.5 and status["OW4"] == "pass"


@pytest.mark.parametrize(("code", "begins", "verdict"), [
    ("BadUserAccessDenied", "pass", "proven"), ("BadNotWritable", "pass", "proven"), ("BadTypeMismatch", "fail: 0x80740000", "refuted"),
    ("BadOutOfRange", "fail", "refuted"), ("BadNoCommunication", "fail", "refuted"), ("BadWriteNotSupported", "fail", "refuted"),
    ("BadNodeIdUnknown", "inconclusive", "inconclusive"), ("BadNothingToDo", "inconclusive", "inconclusive")])
def test_what_a_status_means(site: Any, stand: Any, code: str, begins: str, verdict: str) -> None:
    async def hook(user: str, plain: Any, params: Any) -> Any:
        return [ua.StatusCode(getattr(ua.StatusCodes, code))] if user == "observer" else await plain()

    stand.faults.write = hook
    status, record, _report = probe(site)
    assert status["OW3"].startswith(begins) and record["verdict"] == verdict and status["OW4"] == "pass"


@pytest.mark.parametrize(("canary", "words"), [
    ({**CANARY, "marker": "something else"}, "the marker says"), ({**CANARY, "marker": ""}, "a path and a marker"),
    ({**CANARY, "path": []}, "a path and a marker"),
    ({**CANARY, "path": [PATH[0], "nsu=%s;Pump" % PLANT]}, "carries 0 properties"), ({**CANARY, "path": PATH[:2]}, "is no Variable"),
    ({**CANARY, "path": [*PATH[:2], "nsu=%s;Nobody" % PLANT]}, "0 nodes have this name"), ({**CANARY, "path": ["nsu=urn:none;X"]}, "no such namespace"),
    ({**CANARY, "path": ["Server", "ServiceLevel"]}, "a node of the standard"), ({**CANARY, "username": "observer"}, "another one than the mirror's"),
    ({**CANARY, "username": ""}, "name the commissioning identity")])
def test_what_is_not_surely_a_canary_is_never_written(site: Any, stand: Any, canary: Any, words: str) -> None:
    status, record, _report = probe(site, canary=canary)
    assert status["OW1"].startswith("inconclusive") and words in status["OW1"], status
    assert record["verdict"] == "inconclusive" and stand.services["Write"] == 0 and site.state.read("write_probe") is None


def test_two_nodes_of_one_name_are_no_canary(site: Any, stand: Any) -> None:
    async def twin() -> Any:
        return await stand.folder.add_variable(ua.NodeId("Twin", stand.index), "%d:WriteCanary" % stand.index, 1.0)

    node = stand.call(twin())
    try:
        status, _record, _report = probe(site)
    finally:
        stand.call(node.delete())
    assert "2 nodes have this name" in status["OW1"] and stand.services["Write"] == 0


def test_a_control_that_fails_is_inconclusive_and_the_mirror_does_not_try(site: Any, stand: Any) -> None:
    stand.users.engineer = UserRole.User
    status, record, _report = probe(site)
    assert status["OW2"].startswith("inconclusive: the commissioning identity's write was refused: 0x801F0000")
    assert status["OW3"].startswith("inconclusive") and record["verdict"] == "inconclusive"
    assert stand.services["Write"] == 1 and now_at(stand) == 7.5 and site.state.read("write_probe") is None


def test_a_node_that_keeps_its_value_is_no_control(site: Any, stand: Any) -> None:
    async def hook(user: str, plain: Any, params: Any) -> Any:
        return [ua.StatusCode(0)]

    stand.faults.write = hook
    status, record, _report = probe(site)
    assert "kept its value" in status["OW2"] and status["OW3"].startswith("inconclusive") and record["verdict"] == "inconclusive"


def test_a_value_that_cannot_be_put_back_is_said_loudly_and_the_note_stays(site: Any, stand: Any) -> None:
    seen: list[int] = []

    async def hook(user: str, plain: Any, params: Any) -> Any:
        seen.append(1)
        return await plain() if len(seen) == 1 else [ua.StatusCode(ua.StatusCodes.BadInternalError)]

    stand.faults.write = hook
    status, _record, _report = probe(site)
    assert status["OW4"].startswith("fail: the value could not be put back") and "7.5" in status["OW4"] and now_at(stand) == 8.5
    assert site.state.read("write_probe")["before"] == 7.5 and len(seen) == 2
    # The next run begins there.
    stand.faults = Faults()
    status, record, report = probe(site)
    assert record["verdict"] == "proven" and now_at(stand) == 7.5
    assert "the value was put back" in next(check for check in report.checks if check.id == "OW2").evidence["earlier"]


def test_a_run_that_is_killed_between_is_finished_by_the_next_one_first(site: Any, stand: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async def killed(channel: Any, attempt: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(write_probe, "_restore", killed)
        with pytest.raises(KeyboardInterrupt):
            probe(site)
    assert now_at(stand) == 8.5 and site.state.read("write_probe") == {"path": PATH, "kind": 11, "before": 7.5, "tried": 8.5}
    stand.services.clear()
    # Without leave nothing is put back either: every write needs a token.
    status, _record, _report = probe(site, tokens=[])
    assert status["OW3"].startswith("skipped") and now_at(stand) == 8.5 and stand.services["Write"] == 0
    order: list[tuple[str, float]] = []

    async def hook(user: str, plain: Any, params: Any) -> Any:
        order.append((user, params.NodesToWrite[0].Value.Value.Value))
        return await plain()

    stand.faults.write = hook
    status, record, _report = probe(site)
    assert order == [("engineer", 7.5), ("engineer", 8.5), ("engineer", 7.5), ("observer", 8.5)]
    assert record["verdict"] == "proven" and now_at(stand) == 7.5 and site.state.read("write_probe") is None


def test_a_signal_waits_until_the_value_is_back(site: Any, stand: Any) -> None:
    async def hook(user: str, plain: Any, params: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return await plain()

    stand.faults.write = hook
    earlier = signal.signal(signal.SIGTERM, lambda *_given: None)
    try:
        with pytest.raises(SystemExit):
            probe(site)
    finally:
        signal.signal(signal.SIGTERM, earlier)
    assert stand.services["Write"] == 3 and now_at(stand) == 7.5 and site.state.read("write_probe") is None


def test_what_somebody_else_wrote_since_is_left_alone(site: Any, stand: Any) -> None:
    site.state.write("write_probe", {"path": PATH, "kind": 11, "before": 1.0, "tried": 2.0})
    _status, record, report = probe(site)
    assert record["verdict"] == "proven" and now_at(stand) == 7.5
    assert "left alone" in next(check for check in report.checks if check.id == "OW2").evidence["earlier"]


def test_a_connection_that_ends_at_the_mirrors_write_is_looked_after(site: Any, stand: Any) -> None:
    async def hook(user: str, plain: Any, params: Any) -> Any:
        if user != "observer":
            return await plain()
        await put(stand, params.NodesToWrite[0].Value.Value.Value)
        raise ServiceError(ua.StatusCodes.BadShutdown)

    stand.faults.write = hook
    status, record, _report = probe(site)
    assert now_at(stand) == 7.5 and record["verdict"] == "refuted" and status["OW4"] == "pass"


def test_a_fault_of_the_whole_service_is_no_statement_about_rights(site: Any, stand: Any) -> None:
    async def hook(user: str, plain: Any, params: Any) -> Any:
        if user == "observer":
            raise ServiceError(ua.StatusCodes.BadTooManyOperations)
        return await plain()

    stand.faults.write = hook
    status, record, _report = probe(site)
    assert status["OW3"].startswith("inconclusive: the Write as a whole was answered with 0x80100000") and record["verdict"] == "inconclusive"
    assert status["OW4"] == "pass" and now_at(stand) == 7.5 and site.state.read("write_probe") is None


def test_a_server_that_dies_at_the_mirrors_write_is_accused_of_nothing_and_the_note_stays(site: Any, stand: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    dead: list[str] = []

    async def hook(user: str, plain: Any, params: Any) -> Any:
        if user == "observer":
            dead.append(user)
            raise ServiceError(ua.StatusCodes.BadShutdown)
        return await plain()

    def mortal(name: str) -> None:
        plain = getattr(write_channel.WriteChannel, name)

        async def ask(self: Any, *given: Any) -> Any:
            if dead:
                raise LinkLost("dead")
            return await plain(self, *given)

        monkeypatch.setattr(write_channel.WriteChannel, name, ask)

    mortal("open")
    mortal("value")
    stand.faults.write = hook
    status, record, _report = probe(site)
    assert status["OW3"].startswith("inconclusive") and record["verdict"] == "inconclusive" and status["OW4"].startswith("fail")
    assert site.state.read("write_probe")["before"] == 7.5


def test_a_canary_that_changes_by_itself_is_not_held_against_the_server(site: Any, stand: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rights = write_probe._rights

    async def later(channel: Any, nodes: Any) -> Any:
        await asyncio.to_thread(stand.call, put(stand, 8.5))
        return await rights(channel, nodes)

    with monkeypatch.context() as patch:
        patch.setattr(write_probe, "_rights", later)
        status, record, _report = probe(site)
    # To the very value that the mirror would have tried: it did not try, and the token may be used again.
    assert "changes by itself" in status["OW3"] and record["verdict"] == "inconclusive" and stand.services["Write"] == 2
    stand.call(put(stand, 7.5))

    async def hook(user: str, plain: Any, params: Any) -> Any:
        if user != "observer":
            return await plain()
        await put(stand, 55.0)
        return [ua.StatusCode(ua.StatusCodes.BadUserAccessDenied)]

    stand.faults.write = hook
    status, record, _report = probe(site)
    assert status["OW3"].startswith("inconclusive: 0x801F0000 BadUserAccessDenied, but the value went from 7.5 to 55.0")
    assert record["verdict"] == "inconclusive" and "left alone" in status["OW4"] and now_at(stand) == 55.0


def test_what_the_control_wrote_comes_back_when_nobody_could_see_it(site: Any, stand: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, asked = write_channel.WriteChannel.value, []

    async def value(self: Any, node: str) -> Any:
        asked.append(node)
        return write_channel.Value(0x80310000, 0, None) if len(asked) == 2 else await plain(self, node)

    monkeypatch.setattr(write_channel.WriteChannel, "value", value)
    status, record, _report = probe(site)
    assert status["OW2"].startswith("inconclusive: the canary's value cannot be read: 0x80310000") and record["verdict"] == "inconclusive"
    assert status["OW4"] == "pass" and now_at(stand) == 7.5 and site.state.read("write_probe") is None and stand.services["Write"] == 2


def test_a_control_that_was_refused_while_somebody_else_wrote_undoes_nothing(site: Any, stand: Any) -> None:
    async def hook(user: str, plain: Any, params: Any) -> Any:
        await put(stand, 55.0)
        return [ua.StatusCode(ua.StatusCodes.BadUserAccessDenied)]

    stand.faults.write = hook
    status, _record, _report = probe(site)
    assert "write was refused: 0x801F0000" in status["OW2"] and stand.services["Write"] == 1 and now_at(stand) == 55.0


def test_a_note_is_about_its_own_canary_and_one_that_cannot_be_read_is_not_passed_over(site: Any, stand: Any) -> None:
    site.state.write("write_probe", {"path": PATH[:2], "kind": 11, "before": 1.0, "tried": 7.5})
    status, _record, _report = probe(site)
    assert "at another canary" in status["OW1"] and "put 1.0 back there by hand" in status["OW1"]
    (site.places.state / "plc-1/write_probe.json.gz").write_bytes(b"")
    assert "write_probe.json.gz cannot be read" in probe(site)[0]["OW1"]
    site.state.remove("write_probe")
    (site.places.state / "plc-1/write_tokens.json.gz").write_bytes(b"")
    assert "write_tokens.json.gz cannot be read" in probe(site)[0]["OW3"]
    assert stand.services["Write"] == 0 and now_at(stand) == 7.5


def test_a_canary_of_a_plcs_own_width_is_one(site: Any, stand: Any) -> None:
    """A Double that the device has as REAL: it gives back what it can hold."""
    async def hook(user: str, plain: Any, params: Any) -> Any:
        one = params.NodesToWrite[0].Value.Value
        one.Value = struct.unpack("<f", struct.pack("<f", one.Value))[0]
        if user == "observer":
            await put(stand, one.Value)
            return [ua.StatusCode(ua.StatusCodes.BadUserAccessDenied)]
        return await plain()

    stand.call(put(stand, 0.10000000149011612))
    stand.faults.write = hook
    status, record, _report = probe(site)
    assert status["OW2"] == "pass" and status["OW3"].startswith("fail: the mirror's write changed the value") and record["verdict"] == "refuted"
    assert status["OW4"] == "pass" and now_at(stand) == 0.10000000149011612


def test_it_keeps_to_the_load_budget(site: Any, stand: Any) -> None:
    """Rights of 40 tags are 240 attributes, of which no second at the server sees more than 100."""
    site.source["tags"] = [{"node": "nsu=%s;s=Pump" % PLANT}] * 40
    site.source["audit"] = {"per_second": 100}
    stand.operations.clear()
    assert probe(site)[1]["verdict"] == "proven"
    for begin, _ in stand.operations:
        assert sum(count for moment, count in stand.operations if begin <= moment < begin + 1.0) <= 100
    assert sum(count for _, count in stand.operations) > 240


def test_other_rights_are_another_class(site: Any, stand: Any) -> None:
    stand.set("ns=%d;s=Pump" % stand.index, 18, 3, ua.VariantType.Byte)
    try:
        status, record, _report = probe(site)
    finally:
        stand.spoil = type(stand.spoil)()
    assert status["OW5"].startswith("skipped: no declared tag has the canary's rights")
    assert record["verdict"] == "claimed" and any("Pump" in one for one in record["not_tested"])


# -- leave --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("mode", ["canary", "service"])
@pytest.mark.parametrize(("change", "words"), [({"tokens": []}, "not authorised"), ({"check_mode": True}, "check mode"), ({"of_site": "x"}, "for site lab")])
def test_without_leave_not_one_packet_is_sent(site: Any, stand: Any, mode: str, change: dict[str, Any], words: str) -> None:
    before = stand.users.tries
    status, record, _report = probe(site, mode, **change)
    assert {one.split(":")[0] for one in status.values()} == {"skipped"} and words in status["OW0"]
    assert record["verdict"] == "claimed" and not stand.services and stand.users.tries == before and site.host.said == []


def test_a_token_is_for_one_attempt(site: Any, stand: Any) -> None:
    assert probe(site)[1]["verdict"] == "proven"
    stand.services.clear()
    status, _record, _report = probe(site)
    assert "the one attempt of this token was made" in status["OW3"] and not stand.services
    assert probe(site, signature="another")[1]["verdict"] == "proven"


def test_the_collector_comes_first(site: Any, stand: Any) -> None:
    (site.places.proc / "tcp").write_text("".join("  %d: 0100007F:1111 0100007F:%04X 01\n" % (one, stand.port) for one in range(2)))
    status, record, _report = probe(site)
    assert "none is free" in status["OW1"] and record["verdict"] == "inconclusive" and not stand.services


# -- services -----------------------------------------------------------------------------------------------
def test_services_that_do_not_exist_are_enforced(site: Any, stand: Any) -> None:
    stand.faults.absent = True
    status, record, _report = probe(site, "service")
    assert record["verdict"] == "enforced" and status["OW6"] == "pass"
    assert {name: count for name, count in stand.services.items() if name in WRITING} == dict.fromkeys(WRITING, 1)


def test_services_that_exist_tell_nothing_about_rights(site: Any, stand: Any) -> None:
    status, record, _report = probe(site, "service")
    assert status["OW6"].startswith("skipped") and "Write" in status["OW6"] and record["verdict"] == "claimed"
    assert now_at(stand) == 7.5 and stand.services["Write"] == 1


def test_a_server_that_hangs_up_is_inconclusive(site: Any, stand: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async def empty(self: Any, service: str) -> int:
        raise LinkLost("gone")

    monkeypatch.setattr(write_channel.WriteChannel, "empty", empty)
    status, record, _report = probe(site, "service")
    assert status["OW6"] == "inconclusive: Write: gone" and record["verdict"] == "inconclusive"


# -- the door -----------------------------------------------------------------------------------------------
def _request(*nodes: str, attribute: int = 13, index_range: str | None = None) -> Any:
    request = ua.WriteRequest()
    for node in nodes:
        one = ua.WriteValue()
        one.NodeId, one.AttributeId, one.IndexRange = write_channel.text_node(node), ua.AttributeIds(attribute), index_range
        one.Value = ua.DataValue(ua.Variant(1.0, ua.VariantType.Double))
        request.Parameters.NodesToWrite.append(one)
    return request


def test_a_permit_lets_one_request_through_and_no_other() -> None:
    permit = write_channel.Permit("Write", "ns=2;s=C")
    assert write_channel.permitted(_request("ns=2;s=C"), permit)
    for wrong in (_request(), _request("ns=2;s=D"), _request("ns=3;s=C"), _request("ns=2;s=C", "ns=2;s=C"), _request("ns=2;s=C", "ns=2;s=D"),
                  _request("ns=2;s=C", attribute=18), _request("ns=2;s=C", index_range="0")):
        assert not write_channel.permitted(wrong, permit)
    assert not write_channel.permitted(_request("ns=2;s=C"), None)
    empty = write_channel.Permit("Write", None)
    assert write_channel.permitted(_request(), empty) and not write_channel.permitted(_request("ns=2;s=C"), empty)
    assert not write_channel.permitted(ua.CallRequest(), empty) and write_channel.permitted(ua.CallRequest(), write_channel.Permit("Call", None))


def test_the_channel_writes_one_node_and_only_after_it_was_armed(site: Any, stand: Any) -> None:
    target = Probe(Report("x"), site.places, Options(CLIENT_URI, "t", [], [], 60.0, True), Leave("canary", "lab", [], {}, {}), site.host,
                   lambda *_given: True)._target(site.source)

    async def go() -> None:
        channel = write_channel.WriteChannel(target, Budget(50, time.monotonic, asyncio.sleep))
        await channel.open()
        canary = "ns=%d;s=Canary" % stand.index
        try:
            with pytest.raises(Forbidden):
                await channel.write(canary, 11, 1.0)
            channel.arm(canary)
            with pytest.raises(Forbidden):
                channel.arm("ns=%d;s=Pump" % stand.index)
            with pytest.raises(Forbidden):
                await channel.write("ns=%d;s=Pump" % stand.index, 11, 1.0)
            for request in (_request(canary), ua.CallRequest(), ua.DeleteNodesRequest(), ua.AddNodesRequest(), ua.HistoryUpdateRequest()):
                with pytest.raises(Forbidden):
                    await channel._ua._send_request(request)
            assert not WRITING & set(stand.services)
            assert await channel.write(canary, 11, 1.0) == ua.StatusCodes.BadUserAccessDenied
            # The permit was spent.
            with pytest.raises(Forbidden):
                await channel._ua._send_request(_request(canary))
        finally:
            await channel.close()

    asyncio.run(go())
    assert stand.services["Write"] == 1


def test_nothing_else_in_the_collection_can_encode_a_write() -> None:
    """Whoever writes one of these names outside the channel and the simulated plant has opened a second door."""
    door = re.compile(r"\b(WriteRequest|WriteValue|write_value|write_attribute|set_value|HistoryUpdateRequest|AddNodesRequest|AddReferencesRequest|"
                      r"DeleteNodesRequest|DeleteReferencesRequest|CallRequest|call_method)\b")
    found = {str(path.relative_to(ROOT)) for folder in ("plugins", "roles") for path in (ROOT / folder).rglob("*.py")
             if "ot_simulator" not in path.parts and door.search(path.read_text(encoding="utf-8"))}
    assert found == {"plugins/module_utils/opcua/write_channel.py"}


# -- values -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("kind", "value", "wanted"), [
    (1, True, False), (11, 7.5, 8.5), (11, float("nan"), 1.0), (10, 1e30, 1.0),
    (10, 0.10000000149011612, 1.100000023841858), (11, 0.1, 1.100000023841858), (2, 127, 126), (3, 255, 254), (6, -5, -4), (9, 2**64 - 1, 2**64 - 2)])
def test_another_value_of_the_same_type(kind: int, value: Any, wanted: Any) -> None:
    assert write_probe.same(write_probe.other(kind, value), wanted)


@pytest.mark.parametrize(("kind", "value"), [(12, "text"), (-1, None), (13, 5), (11, "7"), (1, 1)])
def test_other_types_are_no_canary(kind: int, value: Any) -> None:
    with pytest.raises(write_probe.NotACanary):
        write_probe.other(kind, value)


def test_a_refusal_without_an_answer_is_none() -> None:
    check = Check(id="OW3", title="x")
    Probe._refused(None, check, write_probe.Attempt(error="gone"))  # type: ignore[arg-type]
    assert check.status == "inconclusive" and check.reason == "gone"
