# SPDX-License-Identifier: Apache-2.0
"""The OPC UA source against a channel that the test plays: limits, namespaces, refusals, silence, sequence numbers."""
from __future__ import annotations

import asyncio
import dataclasses
import datetime
import logging
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
from asyncua import ua
from asyncua.common.utils import Buffer, NotEnoughData
from asyncua.ua import ua_binary
from hnai_ot_collector import config, health, opcua, record, stream, ua_channel
from hnai_ot_collector.ua_channel import IdentityRejected, ItemResult, LinkError, Notification, TooManyOperations, Value

LOG = logging.getLogger("test")
T0 = 17_956_000_000_000_000


def source(count: int = 3, **change: Any) -> config.OpcuaSource:
    tags = [{"name": "t%d" % n, "node": "nsu=urn:plant;s=N%d" % n, "type": "double"} for n in range(count)]
    raw = {
        "status_file": "/s", "state_file": "/t",
        "sources": [{
            "id": "plc1", "protocol": "opcua", "endpoint": "opc.tcp://x:4840/", "server_certificate": "/s.pem", "certificate": "/c.pem",
            "private_key": "/k.pem", "application_uri": "urn:x", "username": "observer", "tags": tags,
            "limits": {"new_per_minute": 600, "burst": 600},
        }],
    }
    parsed = config.parse(raw, "f").sources[0]
    assert isinstance(parsed, config.OpcuaSource)
    return dataclasses.replace(parsed, **change)


class FakeChannel:
    """Plays a server. *script* are the notifications to publish; then silence."""

    def __init__(self, namespaces: list[str], limit: int = 0, told: tuple[int, int] = (0, 0), missing: frozenset[str] = frozenset(),
                 script: tuple[Notification | Exception, ...] = (), fails: Callable[[], Exception | None] = lambda: None, queue: int = 10,
                 sampling_ms: float = 100.0) -> None:
        self.table, self.limit, self.told, self.missing, self.script, self.queue = namespaces, limit, told, missing, list(script), queue
        self.fails, self.sampling_ms = fails, sampling_ms
        self.calls: list[list[str]] = []
        self.acknowledged: list[int] = []
        self.aborted = self.closed = False
        self.at_most = 9
        self.pin = "ab" * 32
        self.waiting: list[Any] = []
        self.read_nodes: list[str] = []
        self.present: dict[str, Value] = {}
        self.deleted: list[int] = []

    async def open(self) -> None:
        error = self.fails()
        if error is not None:
            raise error

    def abort(self) -> None:
        self.aborted = True

    async def close(self, timeout_s: float) -> None:
        self.closed = self.aborted = True

    def node(self, index: int, kind: str, identifier: str) -> str:
        return "%d:%s=%s" % (index, kind, identifier)

    async def namespaces(self) -> list[str]:
        return self.table

    async def operation_limits(self) -> tuple[int, int]:
        return self.told

    async def subscribe(self) -> tuple[float, int, int]:
        return 100.0, 1, 3

    async def create_items(self, items: Any) -> list[ItemResult]:
        if self.limit and len(items) > self.limit:
            raise TooManyOperations
        self.calls.append([item.node for item in items])
        return [ItemResult(0x80340000 if item.node in self.missing else 0, self.queue, self.sampling_ms, 100 * len(self.calls) + item.handle)
                for item in items]

    async def publish(self, acknowledge: Any) -> Notification:
        self.acknowledged.extend(acknowledge)
        if self.script:
            following = self.script.pop(0)
            if isinstance(following, Exception):
                raise following
            return following
        # The oldest is answered when there are too many.
        mine = asyncio.get_running_loop().create_future()
        self.waiting = [one for one in self.waiting if not one.done()] + [mine]
        if len(self.waiting) > self.at_most:
            self.waiting.pop(0).set_exception(ua_channel.TooManyPublishRequests("too many"))
        return await mine

    async def read(self, nodes: Any) -> list[Value]:
        self.read_nodes.extend(nodes)
        return [self.present.get(node, Value(1.0, 0, T0, T0)) for node in nodes]

    async def delete_items(self, items: Any) -> None:
        self.deleted.extend(items)


def run(one: config.OpcuaSource, channels: list[FakeChannel], seconds: float, lock: opcua.Lock | None = None) -> Any:
    """Run the source until the channels are used up or *seconds* passed; returns (records, health, lock, channels used)."""
    out: list[record.Record] = []
    used: list[FakeChannel] = []

    async def go() -> tuple[Any, Any, Any]:
        flow = stream.Stream("plc1", [(tag.name, tag.type, tag.cyclic) for tag in one.tags], out.append, lambda: T0 + 10 * record.TICKS_PER_S)
        state = health.Health("plc1", "opcua", len(one.tags), lambda: T0)
        gate = lock or opcua.Lock()

        def connect(_source: Any, _password: str) -> Any:
            used.append(channels[min(len(used), len(channels) - 1)])
            return used[-1]

        collector = opcua.OpcuaCollector(one, flow, state, lambda: "pw", LOG, gate, connect)
        task = asyncio.create_task(collector.run())
        await asyncio.sleep(seconds)
        snapshot, until_now = dataclasses.replace(state, failed=dict(state.failed)), list(out)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return until_now, snapshot, gate

    seen, state, gate = asyncio.run(go())
    return seen, state, gate, used


def data(number: int, *values: tuple[int, float, int]) -> Notification:
    return Notification(number, T0, [(handle, Value(value, 0, T0 + moment, T0 + moment)) for handle, value, moment in values], None, False)


def test_every_request_that_is_not_reading_is_refused_before_it_is_made() -> None:
    for name in ("WriteRequest", "CallRequest", "HistoryUpdateRequest", "AddNodesRequest", "DeleteNodesRequest", "AddReferencesRequest",
                 "DeleteReferencesRequest", "SetTriggeringRequest", "TransferSubscriptionsRequest", "RegisterServer2Request"):
        with pytest.raises(ua_channel.Forbidden):
            ua_channel.check_reading(getattr(ua, name)())
    ua_channel.check_reading(ua.ReadRequest())


def test_the_socket_itself_refuses_a_write() -> None:
    async def go() -> None:
        protocol = ua_channel._Protocol(1.0)
        with pytest.raises(ua_channel.Forbidden):
            protocol._send_request(ua.WriteRequest())

    asyncio.run(go())


def test_a_chunk_without_an_end_is_not_waited_for() -> None:
    """asyncua would keep what comes until 4 GiB of it are there."""
    async def go() -> list[Any]:
        protocol = ua_channel._Protocol(1.0)
        lost: list[Any] = []
        protocol._fail_all_pending = lost.append
        protocol.data_received(b"MSGF" + struct.pack("<I", ua_channel.asyncua_bounds.CHUNK_LIMIT) + b"x")
        assert not lost
        protocol.receive_buffer = None
        protocol.data_received(b"MSGF" + struct.pack("<I", ua_channel.asyncua_bounds.CHUNK_LIMIT + 1) + b"x")
        return lost

    assert [str(one) for one in asyncio.run(go())] == ["the server announces a chunk of 1048577 bytes"]


def test_times_keep_their_100_ns() -> None:
    filetime = T0 + 7 + ua_channel.FILETIME_EPOCH
    decoded = ua_binary.Primitives.DateTime.unpack(Buffer(filetime.to_bytes(8, "little")))
    assert ua_channel._ticks(decoded) == T0 + 7
    assert ua_channel._ticks(ua_binary.Primitives.DateTime.unpack(Buffer(bytes(8)))) is None


def test_a_structure_that_cannot_be_decoded_costs_itself_and_a_notification_does_not_vanish() -> None:
    def coded(kind: int, body: bytes, length: int | None = None) -> Buffer:
        size = len(body) if length is None else length
        return Buffer(ua_binary.nodeid_to_binary(ua.NodeId(kind)) + b"\x01" + size.to_bytes(4, "little") + body + b"rest")

    broken = coded(ua.ObjectIds.Range_Encoding_DefaultBinary, b"\x01\x02\x03")
    assert isinstance(ua_channel._unpack_structure(broken), ua.ExtensionObject)
    assert broken.read(4) == b"rest"
    for whole in (coded(ua.ObjectIds.DataChangeNotification_Encoding_DefaultBinary, b"\x01"), coded(ua.ObjectIds.Range_Encoding_DefaultBinary, b"", 99)):
        with pytest.raises(Exception, match="Not enough data"):
            ua_channel._unpack_structure(whole)
    assert ua_binary.extensionobject_from_binary is ua_channel._unpack_structure


def test_a_length_below_nothing_leads_nobody_back() -> None:
    """A text of -15 bytes would be read again and again."""
    for move in (Buffer(bytes(20)).read, Buffer(bytes(20)).skip):
        with pytest.raises(NotEnoughData, match="a length of -15"):
            move(-15)


@pytest.mark.parametrize(("kind", "count"), [(ua.VariantType.Null, 1), (ua.VariantType.Boolean, 25), (ua.VariantType.Variant, 2**31 - 1)])
def test_a_notification_announces_no_more_elements_than_it_has_bytes(kind: Any, count: int) -> None:
    """Of nulls, which take none, the server's word would fill the collector's memory. As many as there are bytes are made."""
    hostile = bytes([0x80 | kind.value]) + struct.pack("<i", count) + bytes(20)
    with pytest.raises(NotEnoughData, match=f"{count} elements in 24 bytes"):
        ua_binary.variant_from_binary(Buffer(hostile))
    assert ua_binary.variant_from_binary(Buffer(b"\x81\x14\0\0\0" + bytes(20))).Value == [False] * 20


def test_index_comes_from_todays_namespace_table() -> None:
    channel = FakeChannel(["http://opcfoundation.org/UA/", "urn:server", "urn:foreign", "urn:plant"])
    run(source(), [channel], 0.15)
    assert channel.calls == [["3:s=N0", "3:s=N1", "3:s=N2"]]


def test_a_namespace_that_is_not_there_costs_only_its_tags_and_is_named() -> None:
    out, state, _, _ = run(source(), [FakeChannel(["http://opcfoundation.org/UA/"])], 0.15)
    assert state.state == "connected" and state.as_dict()["pin"] == "ab" * 32
    assert state.failed == dict.fromkeys(("t0", "t1", "t2"), 0x80340000)
    assert {(r.tag, r.status) for r in out} == {("t%d" % n, 0x80340000) for n in range(3)}


def test_a_missing_node_costs_only_itself() -> None:
    channel = FakeChannel(["0", "urn:plant"], missing=frozenset({"1:s=N1"}), script=(data(1, (0, 5.0, 1), (2, 6.0, 1)),))
    out, state, _, _ = run(source(), [channel], 0.15)
    assert state.failed == {"t1": 0x80340000}
    assert sorted((r.tag, r.value) for r in out if r.status == 0) == [("t0", 5.0), ("t2", 6.0)]


def test_calls_obey_what_the_server_says() -> None:
    channel = FakeChannel(["0", "urn:plant"], told=(0, 20))
    run(source(45), [channel], 0.2)
    assert [len(call) for call in channel.calls] == [20, 20, 5]


def test_calls_are_halved_when_the_server_only_complains() -> None:
    channel = FakeChannel(["0", "urn:plant"], limit=20)
    run(source(100), [channel], 0.2)
    assert max(len(call) for call in channel.calls) <= 20
    assert [node for call in channel.calls for node in call] == ["1:s=N%d" % n for n in range(100)]


def test_a_shorter_queue_is_named() -> None:
    _, state, _, _ = run(source(), [FakeChannel(["0", "urn:plant"], queue=1)], 0.15)
    assert state.small_queues == {"t0": 1, "t1": 1, "t2": 1}


def test_slower_sampling_is_named_once(caplog: pytest.LogCaptureFixture) -> None:
    run(source(1), [FakeChannel(["0", "urn:plant"], sampling_ms=1000.0)], 0.15)
    assert "samples every" not in caplog.text
    run(source(1), [FakeChannel(["0", "urn:plant"], sampling_ms=5000.0, script=(LinkError("once more"),))], 1.5)
    assert caplog.text.count("t0: the server samples every 5000 ms, 1000 were asked for") == 1


def test_two_identical_rejections_are_the_last() -> None:
    channel = FakeChannel([], fails=lambda: IdentityRejected(0x801F0000, "no"))
    one = source()
    lock = opcua.Lock(1, 0x801F0000)
    _, state, lock, used = run(one, [channel], 0.3, lock)
    assert len(used) == 1
    assert lock.closed
    assert state.state == "locked"
    _, state, _, used = run(one, [channel], 0.3, opcua.Lock(2, 0x801F0000))
    assert used == []


def test_another_rejection_starts_counting_again_and_success_forgets() -> None:
    lock = opcua.Lock()
    lock.rejected(1)
    lock.rejected(2)
    assert not lock.closed
    lock.accepted()
    lock.rejected(2)
    assert not lock.closed
    lock.rejected(2)
    assert lock.closed
    lock.open()
    assert not lock.closed


def test_silence_for_three_keep_alives_is_a_lost_link() -> None:
    """100 ms x 1 keep-alive x 3: after 0.3 s the connection is dropped and the gap announced."""
    channel = FakeChannel(["0", "urn:plant"], script=(data(1, (0, 5.0, 1)),))
    out, state, _, _ = run(source(), [channel], 0.6)
    assert channel.aborted
    assert state.losses == 1
    assert "nothing published" in state.detail
    assert [r.gap for r in out if r.gap] == [{"from": T0 + 1, "to": None, "reason": "link_lost"}]


def test_keep_alives_keep_the_link_without_a_sample() -> None:
    beats = tuple(Notification(1, T0, [], None, False) for _ in range(4))
    out, state, _, _ = run(source(), [FakeChannel(["0", "urn:plant"], script=beats)], 0.2)
    assert state.losses == 0
    assert state.last_heard == T0
    assert out == []


def test_sequence_jump_is_a_gap_and_order_is_kept() -> None:
    script = (data(1, (0, 1.0, 1)), data(2, (0, 2.0, 2)), data(4, (0, 4.0, 4)))
    out, state, _, _ = run(source(), [FakeChannel(["0", "urn:plant"], script=script)], 0.2)
    assert state.losses == 0
    assert [r.value for r in out if r.gap is None] == [1.0, 2.0, 4.0]
    assert [r.gap for r in out if r.gap][-1] == {"from": T0 + 2, "to": T0 + 4, "reason": "sequence_jump"}


def test_after_a_jump_what_changes_seldom_is_read_once_and_its_gap_closes() -> None:
    one = source(2, silent_keepalives=30)
    one = dataclasses.replace(one, tags=(one.tags[0], dataclasses.replace(one.tags[1], cyclic=False)))
    channel = FakeChannel(["0", "urn:plant"], script=(data(1, (0, 1.0, 1), (1, 1.0, 0)), data(3, (0, 3.0, 3))))
    out, _, _, _ = run(one, [channel], 1.5)
    assert channel.read_nodes == ["1:s=N1"]
    (closed,) = [r.gap for r in out if r.tag == "t1" and r.gap and r.gap["to"]]
    assert (closed["reason"], closed["lost"]) == ("sequence_jump", 0)


def quiet(**change: Any) -> config.OpcuaSource:
    """One tag read on change and one that should speak by itself; items that are silent for a moment are doubted, and soon given up."""
    one = source(2, silent_keepalives=50, repeat_s=0.2, retry_s=0.3, publishing_ms=1.0, **change)
    return dataclasses.replace(one, tags=tuple(dataclasses.replace(tag, cyclic=index == 0, sampling_ms=1.0) for index, tag in enumerate(one.tags)))


def test_an_item_that_does_not_tell_what_the_server_has_is_made_anew_after_a_gap() -> None:
    """As a node that was deleted and made again is for some servers: keep-alives go on, the item is dead."""
    channel = FakeChannel(["0", "urn:plant"], script=(data(1, (0, 1.0, 0), (1, 1.0, 0)),))
    channel.present = {"1:s=N0": Value(2.0, 0, T0 + 5, T0 + 5), "1:s=N1": Value(2.0, 0, T0 + 5, T0 + 5)}
    out, state, _, _ = run(quiet(), [channel], 2.6)
    assert state.losses == 0 and state.failed == {}
    first, *anew = channel.calls
    assert first == ["1:s=N0", "1:s=N1"] and {node for call in anew for node in call} == set(first) and {100, 101} <= set(channel.deleted)
    gaps = {record.tag: record.gap for record in out if record.gap}
    assert gaps["t0"] == gaps["t1"] == {"from": T0, "to": None, "reason": "item_silent"}


def test_an_item_that_speaks_late_or_has_nothing_new_is_left_alone() -> None:
    channel = FakeChannel(["0", "urn:plant"], script=(data(1, (0, 1.0, 0), (1, 1.0, 0)),))
    # The same value; its time is that of the reading.
    channel.present = {node: Value(1.0, 0, T0 + 7, T0 + 7) for node in ("1:s=N0", "1:s=N1")}
    out, _, _, _ = run(quiet(), [channel], 2.2)
    assert not channel.deleted and not [record for record in out if record.gap] and set(channel.read_nodes) == {"1:s=N0", "1:s=N1"}
    collector = opcua.OpcuaCollector(quiet(), stream.Stream("plc1", [("t0", "double", True), ("t1", "double", False)], out.append, lambda: T0 + 100),
                                     health.Health("plc1", "opcua", 2, lambda: T0), lambda: "", LOG, opcua.Lock())
    collector._compared(0, Value(2.0, 0, T0, T0))
    assert list(collector._doubted) == [0] and collector._dead(0.0) == []
    collector._take(data(2, (0, 2.0, 9)))
    assert not collector._doubted and collector._dead(1e12) == []
    for heard, value in ((50, 1.0), (90, 2.0)):
        collector.stream.sample("t1", 1.0, 0, T0)
        collector.stream.heard(T0 + heard)
        collector._compared(1, Value(value, 0, T0, T0))
    assert collector._dead(1e12) == [1] and out[-1].gap == {"from": T0 + 50, "to": None, "reason": "item_silent"}, "since they were last the same"


def test_a_node_that_is_gone_is_bad_named_and_asked_for_again() -> None:
    """By its item, where that says so; by reading it where the item is silent."""
    told = Notification(2, T0, [(0, Value(None, 0x80330000, T0 + 3, T0 + 3))], None, False)

    class Downloaded(FakeChannel):
        async def create_items(self, items: Any) -> list[ItemResult]:
            results = await super().create_items(items)
            self.missing = frozenset({"1:s=N0", "1:s=N1"})
            return results

    channel = Downloaded(["0", "urn:plant"], script=(data(1, (0, 1.0, 0), (1, 1.0, 0)), told))
    channel.present = {"1:s=N1": Value(None, 0x80340000, None, None)}
    out, state, _, _ = run(quiet(), [channel], 2.6)
    assert state.failed == {"t0": 0x80340000, "t1": 0x80340000} and state.losses == 0
    assert {node for call in channel.calls[1:] for node in call} == {"1:s=N0", "1:s=N1"} and set(channel.deleted) == {100, 101}
    assert [record.status for record in out if record.tag == "t0"][:2] == [0, 0x80330000]
    assert 0x80340000 in [record.status for record in out if record.tag == "t1"], "its item never said so"


def test_reading_items_that_are_quiet_takes_a_fifth_of_the_budget_at_most() -> None:
    one = source(40, silent_keepalives=50, repeat_s=0.01)
    one = dataclasses.replace(one, limits=dataclasses.replace(one.limits, reads_per_second=20))
    channel = FakeChannel(["0", "urn:plant"], script=(data(1, *((index, 1.0, 0) for index in range(40))),))
    run(one, [channel], 2.5)
    assert 4 <= len(channel.read_nodes) <= 12 and len(set(channel.read_nodes)) == len(channel.read_nodes), "the longest quiet first"


def test_a_server_that_takes_fewer_publish_requests_gets_fewer() -> None:
    channel = FakeChannel(["0", "urn:plant"])
    channel.at_most = 1
    _, state, _, _ = run(source(), [channel], 0.2)
    assert (state.losses, len(channel.waiting)) == (0, 1)
    channel.at_most = 0
    _, state, _, _ = run(source(), [channel], 0.2)
    assert "too many" in state.detail


def test_a_session_that_still_hears_us_is_closed_and_not_left_behind() -> None:
    broken = FakeChannel(["0", "urn:plant"], script=(data(1, (0, 1.0, 1)), LinkError("BadNoSubscription")))
    _, state, _, _ = run(source(), [broken, FakeChannel(["0", "urn:plant"])], 0.2)
    assert (broken.closed, state.losses) == (True, 1)
    silent = FakeChannel(["0", "urn:plant"])
    run(source(), [silent], 0.6)
    assert (silent.closed, silent.aborted) == (False, True)


def test_tags_of_a_server_that_was_never_reached_have_a_status() -> None:
    out, _, _, _ = run(source(), [FakeChannel([], fails=lambda: LinkError("no answer in time"))], 0.2)
    assert {(r.tag, r.status, r.value) for r in out} == {("t%d" % n, record.BAD_NO_COMMUNICATION, None) for n in range(3)}


@pytest.mark.parametrize("more", [False, True])
def test_a_gap_of_what_changes_seldom_begins_by_the_servers_clock_before_what_it_may_not_have_sampled(more: bool) -> None:
    """A server 6 h behind, sampling every 1000 ms: a change just before its last word may still have lain in it."""
    behind = T0 - 6 * 3600 * record.TICKS_PER_S
    first = Notification(1, behind, [(0, Value(1.0, 0, behind - record.TICKS_PER_S * 60, behind))], None, False)
    last = Notification(2, behind + record.TICKS_PER_S * 5, [], None, more)
    one = source(1)
    one = dataclasses.replace(one, tags=(dataclasses.replace(one.tags[0], cyclic=False),))
    out, _, _, _ = run(one, [FakeChannel(["0", "urn:plant"], script=(first, last))], 0.6)
    (gap,) = [r.gap for r in out if r.gap]
    assert gap["from"] == behind + (-1 if more else 4) * record.TICKS_PER_S


def test_the_end_of_a_token_is_by_our_clock() -> None:
    async def go() -> None:
        protocol = ua_channel._Protocol(1.0)
        answer = ua.OpenSecureChannelResult()
        answer.SecurityToken.CreatedAt -= datetime.timedelta(hours=6)
        answer.ServerNonce = b""
        protocol._connection.set_channel(answer, ua.SecurityTokenRequestType.Issue, b"")
        age = datetime.datetime.now(datetime.timezone.utc) - protocol._connection.security_token.CreatedAt
        assert abs(age.total_seconds()) < 60

    asyncio.run(go())


def test_keep_alive_carries_the_next_number() -> None:
    script = (data(1, (0, 1.0, 1)), Notification(2, T0, [], None, False), data(2, (0, 2.0, 2)))
    out, _, _, _ = run(source(), [FakeChannel(["0", "urn:plant"], script=script)], 0.2)
    assert [r.gap for r in out if r.gap] == []


def test_data_is_acknowledged_and_keep_alives_are_not() -> None:
    script = tuple(data(n, (0, float(n), n)) for n in range(1, 8))
    channel = FakeChannel(["0", "urn:plant"], script=script)
    run(source(), [channel], 0.2)
    assert channel.acknowledged == sorted(set(channel.acknowledged))
    assert set(channel.acknowledged) <= set(range(1, 8))
    assert len(channel.acknowledged) >= 4


def test_a_subscription_that_the_server_ends_is_made_anew() -> None:
    ended = Notification(1, T0, [], 0x800A0000, False)
    first, second = FakeChannel(["0", "urn:plant"], script=(ended,)), FakeChannel(["0", "x", "urn:plant"])
    _, _, _, used = run(source(), [first, second], 1.3)
    assert first.aborted
    assert used[:2] == [first, second]
    assert second.calls[0][0] == "2:s=N0"


def test_a_refused_connection_waits_longer_than_a_lost_one() -> None:
    _, _, _, used = run(source(), [FakeChannel([], fails=lambda: ua_channel.Refused("no"))], 1.5)
    assert len(used) == 1
    _, _, _, used = run(source(), [FakeChannel([], fails=lambda: LinkError("gone"))], 1.5)
    assert len(used) == 2


def test_polling_reads_in_calls_of_the_servers_size() -> None:
    one = source(7)
    one = dataclasses.replace(one, tags=tuple(dataclasses.replace(tag, poll=True) for tag in one.tags))
    sizes: list[int] = []

    class Reading(FakeChannel):
        async def read(self, nodes: Any) -> list[Value]:
            sizes.append(len(nodes))
            return await super().read(nodes)

    out, state, _, _ = run(one, [Reading(["0", "urn:plant"], told=(3, 0))], 0.2)
    assert sizes == [3, 3, 1]
    assert len(out) == 7
    assert state.state == "connected"


def test_a_cancellation_that_meets_a_closing_channel_ends_the_source() -> None:
    """Stop closes the session, so the publisher fails in the moment in which the source is cancelled."""

    class Closing(FakeChannel):
        def __init__(self) -> None:
            super().__init__(["0", "urn:plant"])
            self.gone = asyncio.Event()

        async def publish(self, acknowledge: Any) -> Notification:
            await self.gone.wait()
            raise LinkError("closed")

        async def close(self, timeout_s: float) -> None:
            self.gone.set()

    async def go() -> None:
        channel = Closing()
        flow = stream.Stream("plc1", [("t0", "double", True)], lambda _record: None, lambda: T0)
        collector = opcua.OpcuaCollector(
            source(1), flow, health.Health("plc1", "opcua", 1, lambda: T0), lambda: "pw", LOG, opcua.Lock(), lambda *_: channel)
        for turns in range(6):
            channel.gone.clear()
            collector._stopping = False
            task = asyncio.create_task(collector.run())
            await asyncio.sleep(0.05)
            await collector.stop(1.0)
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            done, _ = await asyncio.wait([task], timeout=2)
            assert done
            collector._pacer = opcua.Pacer(600, 600, lambda: 0.0)

    asyncio.run(go())


def test_what_nobody_foresaw_costs_a_connection_not_the_process() -> None:
    broken = FakeChannel(["0", "urn:plant"], script=(data(1, (99, 1.0, 1)),))
    _, state, _, used = run(source(), [broken], 0.3)
    assert len(used) == 1
    assert broken.aborted
    assert "IndexError" in state.detail
