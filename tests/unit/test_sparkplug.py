# SPDX-License-Identifier: Apache-2.0
"""Sparkplug B: bytes, what is known of a node, and both against random streams."""
from __future__ import annotations

import contextlib
import json
import math
import struct
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.hnai.platform.plugins.module_utils.mqtt import sparkplug as sp
from ansible_collections.hnai.platform.plugins.module_utils.mqtt import sparkplug_node as sn
from ansible_collections.hnai.platform.plugins.module_utils.mqtt import subscriber as sub
from ansible_collections.hnai.platform.plugins.module_utils.mqtt.topics import matches

# -- bytes ----------------------------------------------------------------------------------------------------------------


def test_bytes_of_the_encoding_guide() -> None:
    """Written out by hand from sparkplug_b.proto and the encoding guide of Protocol Buffers (field number << 3 | wire type)."""
    assert sp.decode(bytes.fromhex("08 96 01 18 02")) == sp.Payload(150, 2)
    assert sp.encode(sp.Payload(150, 2)) == bytes.fromhex("08960118 02".replace(" ", ""))
    raw = bytes.fromhex("12 10 0a 02 61 62 10 05 18 01 20 03 50 ff ff ff ff 0f".replace(" ", ""))
    (one,) = sp.decode(raw).metrics
    assert (one.name, one.alias, one.timestamp, one.datatype, one.wire) == ("ab", 5, 1, sp.INT32, 10)
    assert sp.typed(one, sp.INT32) == -1
    assert sp.typed(one, sp.UINT32) == 0xFFFFFFFF
    assert sp.encode(sp.Payload(metrics=(sp.metric("ab", sp.INT32, -1, alias=5, timestamp=1),))) == raw
    # float_value 1.5, double_value -2.0, boolean_value true, string_value "é", long_value -2, is_historical, is_null
    for text, datatype, value in (
        ("65 00 00 c0 3f", sp.FLOAT, 1.5), ("69 00 00 00 00 00 00 00 c0", sp.DOUBLE, -2.0), ("70 01", sp.BOOLEAN, True), ("7a 02 c3 a9", sp.STRING, "é"),
        ("58 fe ff ff ff ff ff ff ff ff 01", sp.INT64, -2), ("28 01 58 07", sp.INT64, 7), ("38 01 58 07", sp.INT64, None), ("50 80 01", sp.INT8, -128),
        ("58 07", sp.UINT32, 7), ("50 07", sp.INT64, 7), ("58 07", sp.DATETIME, 7),
    ):
        body = bytes.fromhex(text.replace(" ", ""))
        (one,) = sp.decode(b"\x12" + bytes([len(body)]) + body).metrics
        assert sp.typed(one, datatype) == value, text
        assert one.historical is text.startswith("28") and one.null is text.startswith("38")


def test_quality_is_read_and_the_last_of_two_counts() -> None:
    # PropertySet {keys: "Quality", values: {type: Int32, int_value: 500}}
    body = bytes.fromhex("4a10" + "0a07" + b"Quality".hex() + "1205" + "080318f403" + "1001")
    data = b"\x12" + bytes([len(body)]) + body
    (one,) = sp.decode(data).metrics
    assert (one.quality, one.alias) == (500, 1)
    assert sp.encode(sp.Payload(metrics=(sp.Metric(quality=500, alias=1),)))[2:] in (body, body[-2:] + body[:-2])
    (two,) = sp.decode(b"\x12\x04\x10\x01\x10\x02").metrics
    assert two.alias == 2


def test_what_is_unknown_is_passed_over() -> None:
    extra = bytes.fromhex("a206 03 616263".replace(" ", ""))  # field 100, three bytes
    fixed = bytes.fromhex("a906 0102030405060708".replace(" ", "") + "ad06 01020304".replace(" ", ""))
    assert sp.decode(extra + bytes.fromhex("0801") + fixed) == sp.Payload(1)
    # timestamp as text is of another wire type, so unknown; a DataSet is no value
    assert sp.decode(bytes.fromhex("0a0161")) == sp.Payload()
    (one,) = sp.decode(bytes.fromhex("1205 8a01 02 0801".replace(" ", ""))).metrics
    assert one.value is None and one.wire == 17
    with pytest.raises(sp.SparkplugError):
        sp.typed(one, 16)


@pytest.mark.parametrize(("text", "why"), [
    ("08", "cut off"), ("0880", "cut off"), ("08" + "ff" * 10 + "01", "ten bytes"), ("12 05 0a", "says 5 bytes"),
    ("0b", "wire type 3"), ("00", "field number 0"),
    ("18 80 02", "seq is 256"), ("1801 22 12" + b"SPBV1.0_COMPRESSED".hex() + "2a00", "a compressed payload"), ("12 05 4a 03 0a 01 61", "1 keys for 0"),
], ids=str)
def test_what_is_broken_is_named(text: str, why: str) -> None:
    with pytest.raises(sp.SparkplugError, match=why):
        sp.decode(bytes.fromhex(text.replace(" ", "")))


def test_limits() -> None:
    with pytest.raises(sp.SparkplugError, match="at most"):
        sp.decode(b"\x00" * (sp.MAX_PAYLOAD + 1))
    with pytest.raises(sp.SparkplugError, match="more than 10000 metrics"):
        sp.decode(b"\x12\x00" * (sp.MAX_METRICS + 1))
    long = sp.Payload(metrics=(sp.metric("x" * 1025, sp.INT32, 1),))
    with pytest.raises(sp.SparkplugError, match="name of a metric"):
        sp.decode(sp.encode(long))
    with pytest.raises(sp.SparkplugError, match="does not fit"):
        sp.metric("x", sp.INT8, 128)


numbers = st.integers(0, 2**64 - 1)
VALUES = {
    sp.INT8: st.integers(-128, 127), sp.INT16: st.integers(-(2**15), 2**15 - 1), sp.INT32: st.integers(-(2**31), 2**31 - 1),
    sp.INT64: st.integers(-(2**63), 2**63 - 1), sp.UINT8: st.integers(0, 255), sp.UINT16: st.integers(0, 2**16 - 1), sp.UINT32: st.integers(0, 2**32 - 1),
    sp.UINT64: numbers, sp.FLOAT: st.floats(width=32), sp.DOUBLE: st.floats(), sp.BOOLEAN: st.booleans(), sp.STRING: st.text(max_size=50),
    sp.DATETIME: numbers, sp.TEXT: st.text(max_size=50), sp.UUID: st.text(max_size=36),
}


@st.composite
def metrics(draw: st.DrawFn) -> tuple[sp.Metric, int, Any]:
    datatype = draw(st.sampled_from(sorted(VALUES)))
    value = draw(st.none() | VALUES[datatype])
    one = sp.metric(draw(st.none() | st.text(max_size=20)), datatype, value, alias=draw(st.none() | numbers), timestamp=draw(st.none() | numbers),
                    historical=draw(st.booleans()), transient=draw(st.booleans()), quality=draw(st.none() | st.sampled_from([0, 192, 500, -1])))
    return one, datatype, value


@given(st.lists(metrics(), max_size=5), st.none() | numbers, st.none() | st.integers(0, 255))
def test_what_is_written_is_read(drawn: list[tuple[sp.Metric, int, Any]], timestamp: int | None, seq: int | None) -> None:
    payload = sp.Payload(timestamp, seq, tuple(one for one, _kind, _value in drawn))
    read = sp.decode(sp.encode(payload))
    assert (read.timestamp, read.seq, len(read.metrics)) == (timestamp, seq, len(drawn))
    for got, (one, datatype, value) in zip(read.metrics, drawn, strict=True):
        assert (got.name, got.alias, got.timestamp, got.historical, got.quality) == (one.name, one.alias, one.timestamp, one.historical, one.quality)
        found = sp.typed(got, datatype)
        assert found == value or (isinstance(value, float) and math.isnan(value) and math.isnan(found))
        assert type(found) is type(value)


@given(st.binary(max_size=200))
def test_any_bytes_end_in_a_payload_or_an_error_of_ours(data: bytes) -> None:
    with contextlib.suppress(sp.SparkplugError):
        sp.decode(data)


@given(st.data())
def test_damaged_payloads_end_in_a_payload_or_an_error_of_ours(data: st.DataObject) -> None:
    raw = bytearray(sp.encode(sp.Payload(1, 2, tuple(one for one, _k, _v in data.draw(st.lists(metrics(), min_size=1, max_size=3))))))
    for at in data.draw(st.lists(st.integers(0, len(raw) - 1), max_size=4)):
        raw[at] ^= 1 << data.draw(st.integers(0, 7))
    with contextlib.suppress(sp.SparkplugError):
        sp.decode(bytes(raw[:data.draw(st.integers(0, len(raw)))]))


def test_topics() -> None:
    assert sp.topic_of("spBv1.0/g/DDATA/n/d") == sp.Topic("g", "DDATA", "n", "d")
    assert sp.topic_of("spBv1.0/g/NBIRTH/n").text() == "spBv1.0/g/NBIRTH/n"
    for wrong in ("spBv1.0/g/NCMD/n", "spBv1.0/g/DCMD/n/d", "spBv1.0/STATE/h", "STATE/h", "spBv1.0/g/NDATA/n/d", "spBv1.0/g/DDATA/n",
                  "spBv1.0/g/NDATA/", "", "x"):
        with pytest.raises(sp.SparkplugError):
            sp.topic_of(wrong)
    heard = sp.filters("g", "n")
    for kind in (*sp.NODE_KINDS, *sp.DEVICE_KINDS):
        assert any(matches(one, sp.Topic("g", kind, "n", "d" if kind[0] == "D" else "").text()) for one in heard)
    for foreign in ("spBv1.0/g/NCMD/n", "spBv1.0/g/DCMD/n/d", "spBv1.0/g/NDATA/m", "spBv1.0/h/NDATA/n", "spBv1.0/STATE/x"):
        assert not any(matches(one, foreign) for one in heard)


# -- the half of MQTT that listens -------------------------------------------------------------------------------------------

def publish(topic: str, payload: bytes, identifier: int, flags: int = 0) -> bytes:
    body = struct.pack("!H", len(topic)) + topic.encode() + (struct.pack("!H", identifier) if identifier else b"") + payload
    return bytes([0x30 | flags | (2 if identifier else 0)]) + sub._length(len(body)) + body


@given(st.lists(st.integers(1, 30), max_size=20))
def test_packets_come_whole_however_they_are_cut(cuts: list[int]) -> None:
    stream = (b"\x20\x02\x01\x00" + b"\x90\x04\x00\x01\x01\x80" + publish("a/b", b"x" * 200, 7, 8) + b"\xd0\x00" + publish("c", b"", 0, 1))
    wanted = [sub.Welcome(0, True), sub.Subscribed((1, 0x80)), sub.Delivery("a/b", b"x" * 200, 7, True, False), sub.Pong(),
              sub.Delivery("c", b"", 0, False, True)]
    reader, found, at = sub.Reader(), [], 0
    for cut in [*cuts, len(stream)]:
        found += list(reader.feed(stream[at:at + cut]))
        at += cut
    assert found == wanted


@pytest.mark.parametrize("data", [b"\x30\x00", b"\x34\x03\x00\x01a", b"\x20\xff\xff\xff\xff\x01", b"\x40\x02\x00\x01",
                                  b"\x30\xff\xff\xff\x7f", b"\x32\x03\x00\x01a"])
def test_a_broker_that_does_not_speak_mqtt_is_an_error(data: bytes) -> None:
    with pytest.raises(sub.SubscriberError):
        list(sub.Reader().feed(data))


def test_a_subscriber_keeps_its_session_and_has_nothing_to_publish_with() -> None:
    packet = sub.connect("me", "u", "p", 30)
    assert packet == bytes.fromhex("10 14 0004 4d515454 04 c0 001e 0002 6d65 0001 75 0001 70".replace(" ", ""))
    assert packet[9] & 0x06 == 0  # neither clean session nor will
    assert sub.subscribe(["a/+"]) == bytes.fromhex("82 08 0001 0003 612f2b 01".replace(" ", ""))
    assert sub.acknowledge(258) == bytes.fromhex("40020102")
    first = {made[0] >> 4 for made in (packet, sub.subscribe(["a"]), sub.acknowledge(1), sub.PINGREQ, sub.DISCONNECT)}
    assert first == {1, 8, 4, 12, 14}
    assert not [name for name in vars(sub) if "publish" in name.lower()]


# -- what is known of a node ----------------------------------------------------------------------------------------------------

TAGS = (sn.Tag("a", "", "A"), sn.Tag("b", "", "B"), sn.Tag("c", "d", "C"), sn.Tag("e", "d", "E"))


def nbirth(bdseq: int = 0, ms: int = 1000, shift: int = 0, seq: int = 0, names: str = "AB", values: tuple[int, int] = (1, 2)) -> bytes:
    known = [sp.metric(sp.BDSEQ, sp.INT64, bdseq)]
    known += [sp.metric(name, sp.INT32, values["AB".index(name)], alias=1 + (at + shift) % 2) for at, name in enumerate(names)]
    return sp.encode(sp.Payload(ms, seq, tuple(known)))


def dbirth(seq: int, ms: int = 1001) -> bytes:
    return sp.encode(sp.Payload(ms, seq, (sp.metric("C", sp.DOUBLE, 0.5, alias=7), sp.metric("E", sp.STRING, "x", alias=8))))


def data(seq: int, ms: int, *pairs: tuple[int, Any], datatype: int = sp.INT32, **more: Any) -> bytes:
    return sp.encode(sp.Payload(ms, seq, tuple(sp.metric(None, datatype, value, alias=alias, **more) for alias, value in pairs)), datatypes=False)


def death(bdseq: int) -> bytes:
    return sp.encode(sp.Payload(metrics=(sp.metric(sp.BDSEQ, sp.INT64, bdseq),)))


def seen(events: list[Any]) -> list[tuple[str, Any]]:
    return [(one.tag, one.value) for one in events if isinstance(one, sn.Sample)]


def lost(events: list[Any]) -> list[tuple[str, tuple[str, ...]]]:
    return [(one.reason, one.tags) for one in events if isinstance(one, sn.Lost)]


def born() -> sn.Node:
    node = sn.Node(TAGS)
    assert seen(node.message("NBIRTH", "", nbirth())) == [("a", 1), ("b", 2)]
    assert seen(node.message("DBIRTH", "d", dbirth(1))) == [("c", 0.5), ("e", "x")]
    return node


def again(node: sn.Node) -> sn.Node:
    """The next process."""
    return sn.Node(TAGS, json.loads(json.dumps(node.memory())))


def test_data_before_a_birth_are_counted_and_not_guessed() -> None:
    node = sn.Node(TAGS)
    assert node.message("NDATA", "", data(5, 900, (1, 9))) == []
    assert node.message("DDATA", "d", data(6, 900, (7, 9))) == []
    assert node.counts.unknown == 2 and node.unknown == {"NDATA before a birth": 1, "DDATA before a birth": 1}
    assert node.unmapped() == dict.fromkeys("abce", sn.BAD_WAITING_FOR_INITIAL_DATA)
    node.message("NBIRTH", "", nbirth(names="A"))
    assert node.unknown == {}
    assert node.unmapped() == {"b": sn.BAD_NODE_ID_UNKNOWN, "c": sn.BAD_WAITING_FOR_INITIAL_DATA, "e": sn.BAD_WAITING_FOR_INITIAL_DATA}


def test_an_alias_means_what_the_last_birth_says() -> None:
    node = born()
    assert seen(node.message("NDATA", "", data(2, 1100, (1, 10)))) == [("a", 10)]
    events = node.message("NBIRTH", "", nbirth(ms=1200, shift=1))
    assert lost(events) == []
    assert seen(node.message("NDATA", "", data(1, 1300, (1, 11)))) == [("b", 11)]
    # The device was not born again: what its aliases mean is not known any more.
    assert node.message("DDATA", "d", data(2, 1301, (7, 1.0), datatype=sp.DOUBLE))[0] == sn.Heard(1301 * 10_000)
    assert node.unknown == {"device d before a birth": 1}
    assert node.unmapped() == {"c": sn.BAD_WAITING_FOR_INITIAL_DATA, "e": sn.BAD_WAITING_FOR_INITIAL_DATA}


def test_aliases_survive_a_restart_at_every_message() -> None:
    node = again(born())
    for at in range(300):
        node = again(node)
        events = node.message("NDATA", "", data((2 + at) % 256, 1100 + at, (1, at)))
        assert (seen(events), lost(events)) == ([("a", at)], [])
    assert node.counts.jumps == 0


def test_an_alias_of_nobody_is_named() -> None:
    node = born()
    events = node.message("NDATA", "", data(2, 1100, (99, 1), (1, 5)))
    assert seen(events) == [("a", 5)] and lost(events) == []
    assert node.unknown == {"alias 99 of the node": 1} and node.counts.unknown == 1
    assert again(node).unknown == node.unknown


def test_an_alias_of_two_metrics_is_nobodys() -> None:
    node = sn.Node(TAGS)
    two = (sp.metric("A", sp.INT32, 1, alias=1), sp.metric("B", sp.INT32, 2, alias=1))
    node.message("NBIRTH", "", sp.encode(sp.Payload(1, 0, two)))
    assert seen(node.message("NDATA", "", data(1, 2, (1, 3)))) == []
    assert node.unknown == {"alias 1 of the node": 1}


def test_a_name_beside_the_alias_of_another_metric_is_nobodys() -> None:
    node = born()
    given = (sp.metric("B", sp.INT32, 9, alias=1), sp.metric("B", sp.INT32, 8, alias=2), sp.metric("A", sp.INT32, 7, alias=99))
    assert seen(node.message("NDATA", "", sp.encode(sp.Payload(1100, 2, given)))) == [("b", 8), ("a", 7)]
    assert node.unknown == {"alias 1 of the node": 1}


def test_without_a_number_nobody_says_that_nothing_is_missing() -> None:
    node = born()
    events = node.message("NDATA", "", sp.encode(sp.Payload(1100, None, (sp.metric(None, sp.INT32, 9, alias=1),)), datatypes=False))
    assert seen(events) == [("a", 9)] and not any(isinstance(one, sn.Heard) for one in events)


def test_a_number_left_out_is_loss_of_every_tag() -> None:
    node = born()
    events = node.message("NDATA", "", data(5, 1100, (1, 10)))
    assert events[0] == sn.Lost("sequence_gap", ("a", "b", "c", "e"), 3)
    assert seen(events) == [("a", 10)]
    assert lost(node.message("NDATA", "", data(6, 1101, (1, 11)))) == []
    assert (node.counts.jumps, node.counts.lost_messages) == (1, 3)
    node.next = 255
    node.message("NDATA", "", data(255, 1102, (1, 1)))
    assert lost(node.message("NDATA", "", data(0, 1103, (1, 1)))) == []


def test_what_cannot_be_read_is_counted_and_a_gap_follows() -> None:
    node = born()
    assert node.message("NDATA", "", b"\xff") == []
    assert node.counts.malformed == 1
    assert lost(node.message("NDATA", "", data(3, 1100, (1, 1)))) == [("sequence_gap", ("a", "b", "c", "e"))]


def test_a_text_that_is_no_utf_8_costs_no_other_metric() -> None:
    payload = sp.decode(bytes.fromhex("1204 0a02 fffe 1205 1002 7a01 b0 1204 1001 5009".replace(" ", "")))
    assert [(one.name, one.alias, one.value) for one in payload.metrics] == [("\udcff\udcfe", None, None), (None, 2, "\udcb0"), (None, 1, 9)]


def test_after_a_birth_that_cannot_be_read_no_alias_means_anything() -> None:
    node = born()
    assert lost(node.message("DBIRTH", "d", b"\xff")) == [("birth_unclear", ("c", "e"))]
    assert seen(node.message("DDATA", "d", data(3, 1100, (7, 1.0), datatype=sp.DOUBLE))) == []
    assert seen(again(node).message("NDATA", "", data(4, 1101, (1, 5)))) == [("a", 5)]
    assert lost(node.message("NBIRTH", "", b"\xff")) == [("birth_unclear", ("a", "b", "c", "e"))]
    assert seen(again(node).message("NDATA", "", data(1, 1200, (1, 9)))) == []


@pytest.mark.parametrize("shift", [0, 1])
def test_an_older_birth_with_other_aliases_makes_none_of_them_certain(shift: int) -> None:
    """Was it overtaken, or was the clock of the line set back? What says the same may be either."""
    node = born()
    events = node.message("NBIRTH", "", nbirth(ms=500, shift=shift))
    assert lost(events) == ([("birth_unclear", ("a", "b", "c", "e"))] if shift else [])
    assert seen(node.message("NDATA", "", data(2, 1100, (1, 10)))) == ([] if shift else [("a", 10)])


def test_a_death_is_of_its_own_session() -> None:
    node = born()
    assert lost(node.message("NDEATH", "", death(7))) == []
    assert (node.counts.old_deaths, node.alive()) == (1, True)
    assert lost(node.message("NDATA", "", data(2, 1100, (1, 1)))) == []  # the number fits: it was an old will
    assert lost(node.message("NDEATH", "", death(0))) == [("node_death", ("a", "b", "c", "e"))]
    assert not node.alive() and not node.alive("d")
    assert node.message("NDEATH", "", death(0)) == []
    # What comes after a death without a birth is not explained by the birth of the dead.
    assert seen(node.message("NDATA", "", data(3, 1200, (1, 1)))) == []
    node = again(node)
    assert lost(node.standing()) == [("node_death", ("a", "b", "c", "e"))]
    events = node.message("NBIRTH", "", nbirth(1, 1300))
    assert (seen(events), lost(events)) == ([("a", 1), ("b", 2)], [])


def test_a_death_whose_birth_was_missed_makes_the_births_worthless() -> None:
    node = born()
    node.message("NDEATH", "", death(1))
    events = node.message("NDATA", "", data(9, 1100, (1, 1)))
    assert lost(events) == [("sequence_gap", ("a", "b", "c", "e"))] and seen(events) == []
    assert not node.alive() and node.counts.unknown == 1


def test_a_birth_of_another_session_without_a_death_is_a_gap() -> None:
    events = born().message("NBIRTH", "", nbirth(1, 1300))
    assert lost(events) == [("node_restart", ("a", "b", "c", "e"))]
    assert born().message("NBIRTH", "", nbirth(0, 900)) == []  # older than the one in force: overtaken


def test_a_device_dies_and_is_born_again() -> None:
    node = born()
    assert lost(node.message("DDEATH", "d", sp.encode(sp.Payload(1100, 2)))) == [("device_death", ("c", "e"))]
    assert lost(again(node).standing()) == [("device_death", ("c", "e"))]
    assert seen(node.message("DDATA", "d", data(3, 1101, (7, 1.0), datatype=sp.DOUBLE))) == []
    assert seen(node.message("NDATA", "", data(4, 1102, (1, 1)))) == [("a", 1)]
    assert seen(node.message("DBIRTH", "d", dbirth(5, 1103))) == [("c", 0.5), ("e", "x")]
    assert seen(node.message("DDATA", "d", data(6, 1104, (7, 1.0), datatype=sp.DOUBLE))) == [("c", 1.0)]
    assert node.counts.unknown == 1


def test_a_message_that_comes_twice_is_taken_once_also_by_the_next_process() -> None:
    node = born()
    for same in (data(2, 1100, (1, 1)), data(3, 1101, (1, 2))):
        assert seen(node.message("NDATA", "", same))
    for at, same in ((2, data(2, 1100, (1, 1))), (3, data(3, 1101, (1, 2)))):
        assert again(node).message("NDATA", "", same) == [], at
        assert node.message("NDATA", "", same) == []
    assert node.counts.duplicates == 2
    assert lost(node.message("NDATA", "", data(4, 1102, (1, 3)))) == []


@pytest.mark.parametrize("ms", [None, 2000])
def test_a_node_that_says_the_same_256_messages_later_is_heard(ms: int | None) -> None:
    """No time, or a clock that stands: the same number, the same value, the same bytes."""
    node = born()
    for at in range(600):
        again = sp.encode(sp.Payload(ms, (2 + at) % 256, (sp.metric(None, sp.INT32, 5, alias=1),)))
        events = node.message("NDATA", "", again)
        assert (seen(events), lost(events)) == ([("a", 5)], []), at
        assert node.message("NDATA", "", again) == [], "at once it is the same message"
    assert node.counts.duplicates == 600 and node.counts.jumps == 0


def test_what_has_neither_name_nor_alias_or_a_value_of_a_table_is_no_other_tags() -> None:
    node = born()
    nobody = (sp.Metric(datatype=sp.INT32, value=5, wire=10), sp.Metric(name="", alias=2, datatype=sp.INT32, value=5, wire=10))
    assert seen(node.message("NDATA", "", sp.encode(sp.Payload(1100, 2, nobody)))) == []
    assert node.unknown == {"alias None of the node": 1, "metric  of the node": 1}
    for number, kind in enumerate((b"", bytes((0x20, 16)), bytes((0x20, 19)))):  # without a datatype, DataSet, Template; dataset_value {num_of_columns: 1}
        metric = bytes.fromhex("1001") + kind + bytes.fromhex("8a01020801")
        (sample, _) = node.message("NDATA", "", bytes.fromhex("08cc08") + b"\x12" + bytes([len(metric)]) + metric + bytes((0x18, 3 + number)))
        assert (sample.tag, sample.value, sample.status) == ("a", None, sn.BAD_TYPE_MISMATCH)


def test_an_alias_is_of_its_node_or_of_its_device() -> None:
    node = sn.Node(TAGS)
    node.message("NBIRTH", "", nbirth())
    node.message("DBIRTH", "d", sp.encode(sp.Payload(1001, 1, (sp.metric("C", sp.DOUBLE, 0.5, alias=1),))))
    assert seen(node.message("DDATA", "d", data(2, 1100, (1, 9.0), (2, 8.0), datatype=sp.DOUBLE))) == [("c", 9.0)]
    assert seen(node.message("NDATA", "", data(3, 1101, (1, 4)))) == [("a", 4)] and node.unknown == {"alias 2 of device d": 1}


def test_an_overtaken_message_is_of_the_past() -> None:
    node = born()
    node.message("NDATA", "", data(3, 1200, (1, 3)))
    events = node.message("NDATA", "", data(2, 1100, (1, 2)))
    assert events == [sn.Sample("a", 2, 0, 1100 * 10_000, True)]
    assert node.counts.late == 1
    assert lost(node.message("NDATA", "", data(4, 1201, (1, 4)))) == []


def test_a_lost_session_is_forgiven_only_when_the_next_number_fits() -> None:
    node = born()
    assert lost(node.session_lost()) == [("session_lost", ("a", "b", "c", "e"))]
    events = again(node).message("NDATA", "", data(2, 1100, (1, 5)))
    assert (seen(events), lost(events)) == ([("a", 5)], [])
    events = node.message("NDATA", "", data(3, 1100, (1, 5)))
    assert seen(events) == [] and node.unknown == {"NDATA before a birth": 1}
    assert not node.alive()
    assert sn.Node(TAGS).session_lost() == []


def test_times_history_quality_and_null() -> None:
    node = born()
    message = sp.encode(sp.Payload(1100, 2, (
        sp.metric(None, sp.INT32, 1, alias=1, timestamp=1050), sp.metric(None, sp.INT32, 2, alias=2), sp.metric(None, sp.INT32, 3, alias=1, historical=True),
        sp.metric(None, sp.INT32, 4, alias=1, quality=0), sp.metric(None, sp.INT32, 5, alias=1, quality=500), sp.metric(None, sp.INT32, None, alias=1),
        sp.metric(None, sp.DOUBLE, 1.0, alias=1), sp.metric("B", sp.INT32, 6))), datatypes=False)
    assert node.message("NDATA", "", message) == [
        sn.Sample("a", 1, 0, 10_500_000, False), sn.Sample("b", 2, 0, 11_000_000, False), sn.Sample("a", 3, 0, 11_000_000, True),
        sn.Sample("a", 4, sn.BAD, 11_000_000, False), sn.Sample("a", 5, sn.UNCERTAIN_LAST_USABLE, 11_000_000, False),
        sn.Sample("a", None, sn.BAD_NO_DATA, 11_000_000, False), sn.Sample("a", None, sn.BAD_TYPE_MISMATCH, 11_000_000, False),
        sn.Sample("b", 6, 0, 11_000_000, False), sn.Heard(11_000_000)]
    (only, *_rest) = node.message("NDATA", "", sp.encode(sp.Payload(None, 3, (sp.metric(None, sp.INT32, 1, alias=1),))))
    assert only.ts is None
    assert [sn.quality(code) for code in (None, 192, 216, 64, 0, 4, 500, 777)] == [0, 0, 0, sn.UNCERTAIN, sn.BAD, sn.BAD, 0x40900000, sn.BAD]


@pytest.mark.parametrize("memory", [{"x": 1}, {"devices": []}, {"devices": {"": {}}},
                                    {"devices": {"": {"metrics": {}, "aliases": {"x": "y"}, "born": 1, "alive": True}}}])
def test_a_memory_that_is_none_is_refused(memory: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="no memory of an edge node"):
        sn.Node(TAGS, memory)


# -- random streams against a model ------------------------------------------------------------------------------------------------

@dataclass
class Sent:
    """One message of a line, and what it says: {tag: value} at *ms*."""

    kind: str
    device: str
    raw: bytes
    says: dict[str, Any]
    ms: int
    ours: bool
    number: int


@dataclass
class Line:
    """A line that says random things; the truth of the model."""

    bdseq: int = 0
    seq: int = 0
    ms: int = 1000
    shift: int = 0
    sent: list[Sent] = field(default_factory=list)

    def say(self, kind: str, device: str, raw: bytes, says: dict[str, Any], ours: bool = True) -> None:
        self.sent.append(Sent(kind, device, raw, says, self.ms, ours, len(self.sent)))
        self.ms += 7

    def take(self) -> int:
        self.seq, taken = (self.seq + 1) % 256, self.seq
        return taken

    def birth(self) -> None:
        self.seq, self.shift = 0, self.shift + 1
        value = self.ms
        self.say("NBIRTH", "", nbirth(self.bdseq, self.ms, self.shift, self.take(), values=(value, value + 1)), {"a": value, "b": value + 1})
        self.say("DBIRTH", "d", dbirth(self.take(), self.ms), {"c": 0.5, "e": "x"})

    def step(self, what: str) -> None:
        if what == "restart":
            self.say("NDEATH", "", death(self.bdseq), {})
            self.bdseq += 1
            self.birth()
        elif what == "rebirth":
            self.birth()
        elif what == "device":
            value = self.ms / 8
            self.say("DDATA", "d", data(self.take(), self.ms, (7, value), datatype=sp.DOUBLE), {"c": value})
        elif what == "old will":
            self.say("NDEATH", "", death(self.bdseq + 100), {}, ours=False)
        else:
            alias = 1 + self.shift % 2
            self.say("NDATA", "", data(self.take(), self.ms, (alias, self.ms)), {"a": self.ms})


@given(st.lists(st.sampled_from(["node", "node", "device", "device", "restart", "rebirth", "old will"]), min_size=1, max_size=60), st.data())
def test_random_streams_equal_the_model(steps: list[str], data_: st.DataObject) -> None:
    """Dropped data, messages that come twice, processes that end anywhere: what is decoded is true, and what is missing lies in a gap."""
    line = Line()
    line.birth()
    for step in steps:
        line.step(step)
    # A will that fits no birth, and a number that is missed right before or after it, is what a missed session looks like.
    wills = {one.number for one in line.sent if one.kind == "NDEATH" and not one.ours}
    near = {number for will in wills for number in (max(set(range(will)) - wills), min({*range(will, len(line.sent) + 1)} - wills))}
    droppable = [one.number for one in line.sent if one.kind in ("NDATA", "DDATA") and one.number not in near]
    dropped = data_.draw(st.sets(st.sampled_from(droppable), max_size=8)) if droppable else set()
    twice = data_.draw(st.sets(st.sampled_from(range(len(line.sent))), max_size=8))
    ends = data_.draw(st.sets(st.sampled_from(range(len(line.sent))), max_size=8))
    node = sn.Node(TAGS)
    found: dict[tuple[str, int], Any] = {}
    missing: list[Sent] = []
    for one in line.sent:
        if one.number in dropped:
            missing.append(one)
            continue
        if one.number in ends:
            node = again(node)
        told: set[str] = set()
        for _ in range(2 if one.number in twice else 1):
            events = node.message(one.kind, one.device, one.raw)
            told |= {event.reason for event in events if isinstance(event, sn.Lost) and set(event.tags) == set("abce")}
            for event in events:
                if isinstance(event, sn.Sample):
                    assert (event.tag, event.ts) not in found
                    assert not event.historical and event.status == 0
                    assert event.ts is not None
                    found[event.tag, event.ts // 10_000] = event.value
        # What was missed is told by the next number or by a death; a birth without a death before it (a rebirth) begins anew and hides it.
        if one.ours and missing:
            assert told & {"sequence_gap", "node_death"} or one.kind == "NBIRTH", (missing, one)
            missing = []
        else:
            assert "sequence_gap" not in told
    wanted = {(tag, one.ms): value for one in line.sent if one.number not in dropped for tag, value in one.says.items()}
    assert found == wanted
    assert node.counts.unknown == 0 and node.counts.malformed == 0 and node.counts.late == 0


@given(st.lists(st.integers(0, 3), min_size=5, max_size=40))
def test_overtaken_messages_are_told_with_their_own_time(hops: list[int]) -> None:
    node = born()
    order = sorted(range(len(hops)), key=lambda at: at + hops[at] * 1.5)
    found: dict[int, Any] = {}
    for at in order:
        for event in node.message("NDATA", "", data(2 + at, 1100 + at, (1, at))):
            if isinstance(event, sn.Sample):
                assert event.ts is not None
                found[event.ts // 10_000] = event.value
    assert found == {1100 + at: at for at in range(len(hops))}
    assert node.counts.late == node.counts.messages - 2 - sum(max(order[:i + 1]) == at for i, at in enumerate(order))
