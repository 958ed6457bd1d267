# SPDX-License-Identifier: Apache-2.0
"""Core of the OT collector: records, what follows from samples and losses, pacing, the way out, registers, configuration."""
from __future__ import annotations

import asyncio
import json
import math
import struct
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parents[2]
from hnai_ot_collector import config, main, outlet, pace, record, registers, stream

S = record.TICKS_PER_S


class Clock:
    """Time that the test moves, in ticks."""

    def __init__(self, now: int = 17_956_000_000_000_000) -> None:
        self.now = now

    def __call__(self) -> int:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += int(seconds * S)


def make(known: Any = None, alive: int | None = None, repeat_s: float = 60.0) -> tuple[stream.Stream, list[record.Record], Clock]:
    clock, out = Clock(), []
    tags = [("p", "double", True), ("valve", "bool", False), ("text", "string", False)]
    return stream.Stream("plc1", tags, out.append, clock, repeat_s, known, alive), out, clock


# -- record -----------------------------------------------------------------------------------------------------------
def test_line_carries_the_json_escaped_and_the_source_time_in_ns() -> None:
    one = record.Record("plc1", "text", 'a "b" \\ c', "string", 0, 17_956_235_127_785_827, None, 17_956_235_127_999_999, "source", 7)
    line = one.line().decode()
    assert line.startswith('ot,key=plc1/text,source=plc1,tag=text record="{')
    assert line.endswith(' 1795623512778582700\n')
    field = line[line.index('record="') + 8:line.rindex('" ')]
    body = json.loads(field.replace('\\"', '"').replace("\\\\", "\\"))
    assert body["value"] == 'a "b" \\ c'
    assert list(body) == ["source", "tag", "value", "type", "status", "source_ts", "server_ts", "observed_ts", "ts_origin", "seq"]
    assert body["source_ts"] == 17_956_235_127_785_827  # 100 ns kept


@pytest.mark.parametrize(
    ("value", "kind", "status", "expected"),
    [
        (1.5, "double", 0, (1.5, 0)),
        (1.5, "double", 0x808C0000, (None, 0x808C0000)),          # Bad never carries a value
        (1.5, "double", 0x40930000, (1.5, 0x40930000)),           # Uncertain does
        (1.5, "double", 0x480, (1.5, 0x480)),                     # info bits travel
        (math.nan, "double", 0, (None, record.BAD_OUT_OF_RANGE)),
        (math.inf, "float", 0, (None, record.BAD_OUT_OF_RANGE)),
        (True, "bool", 0, (True, 0)),
        (1, "bool", 0, (None, record.BAD_TYPE_MISMATCH)),
        (True, "int", 0, (None, record.BAD_TYPE_MISMATCH)),
        (3, "enum", 0, (3, 0)),
        (2.5, "int", 0, (None, record.BAD_TYPE_MISMATCH)),
        ("x", "string", 0, ("x", 0)),
        ("20 \udcb0C", "string", 0, (None, record.BAD_DECODING_ERROR)),  # a byte of Latin-1, as asyncua decodes it
        ("x" * (record.MAX_TEXT - 2), "string", 0, ("x" * (record.MAX_TEXT - 2), 0)),
        ("x" * (record.MAX_TEXT - 1), "string", 0, (None, record.BAD_ENCODING_LIMITS_EXCEEDED)),
        ("\x00" * (record.MAX_TEXT // 6 + 1), "string", 0, (None, record.BAD_ENCODING_LIMITS_EXCEEDED)),
        ("x", "double", 0, (None, record.BAD_TYPE_MISMATCH)),
        (None, "double", 0, (None, record.BAD_TYPE_MISMATCH)),
    ],
)
def test_fit(value: Any, kind: str, status: int, expected: tuple[Any, int]) -> None:
    fitted = record.fit(value, kind, status)
    assert fitted == expected
    assert type(fitted[0]) is type(expected[0])


@pytest.mark.parametrize("ticks", [1 - 116_444_736_000_000_000, 2**63 - 1 - 116_444_736_000_000_000])
def test_the_time_of_a_line_stays_in_its_64_bits_and_the_record_keeps_the_true_one(ticks: int) -> None:
    """OPC UA's times go from 1601 to 9999; Telegraf throws a line away whose ns are more than an int64."""
    line = record.Record("s", "t", 1.0, "double", 0, ticks, None, 1, "source").line().decode()
    assert abs(int(line.rsplit(" ", 1)[1])) < 2**63 - 1
    assert ticks * 100 != int(line.rsplit(" ", 1)[1])
    assert '"source_ts\\":%d' % ticks in line


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_survives_the_record(value: float) -> None:
    body = json.loads(record.Record("s", "t", value, "double", 0, 1, None, 1, "source").json())
    assert body["value"] == value


# -- stream -----------------------------------------------------------------------------------------------------------
def test_samples_are_numbered_without_holes_and_above_an_earlier_run() -> None:
    one, out, clock = make()
    for number in range(5):
        one.sample("p", float(number), 0, clock.now + number)
    assert [r.seq for r in out] == list(range(out[0].seq, out[0].seq + 5))
    later = Clock(clock.now + 10_000)
    assert stream.Stream("plc1", [], out.append, later).seq > out[-1].seq


def test_first_value_after_a_reconnect_that_is_known_is_a_repeat_not_a_second_sample() -> None:
    one, out, clock = make()
    assert one.sample("p", 1.0, 0, clock.now)
    assert not one.sample("p", 1.0, 0, clock.now)
    assert [r.repeat for r in out] == [False, True]
    assert one.counters.samples == 1


def test_same_time_with_another_value_or_status_is_a_sample() -> None:
    one, _, clock = make()
    one.sample("p", 1.0, 0, clock.now)
    assert one.sample("p", 2.0, 0, clock.now)
    assert one.sample("p", 2.0, 0x40930000, clock.now)


@pytest.mark.parametrize("tag", ["p", "valve"])
def test_a_time_of_the_future_hides_no_gap(tag: str) -> None:
    one, out, clock = make()
    value = 1.0 if tag == "p" else True
    one.sample(tag, value, 0, clock.now + 1000 * S)
    one.heard(clock.now + 1000 * S)
    heard = clock.now
    clock.sleep(10)
    one.lost("sequence_gap", [tag])
    one.sample(tag, value, 0, clock.now)
    assert [one.gap for one in out if one.gap] == [{"from": heard, "to": to, "reason": "sequence_gap"} for to in (None, clock.now)]


def test_link_loss_is_announced_and_closed_around_what_may_be_missing() -> None:
    one, out, clock = make()
    last = clock.now
    one.sample("p", 1.0, 0, last)
    clock.sleep(20)
    one.lost("link_lost")
    clock.sleep(20)
    first = clock.now
    one.sample("p", 2.0, 0, first)
    opened, closed, sample = out[1:]
    assert opened.gap == {"from": last, "to": None, "reason": "link_lost"}
    assert closed.gap == {"from": last, "to": first, "reason": "link_lost"}
    assert opened.source_ts == closed.source_ts == last + record.TICKS_PER_MS
    assert opened.status == record.BAD_NO_COMMUNICATION
    assert opened.value is None
    assert sample.value == 2.0
    assert one.open_gaps() == []
    assert one.counters.gaps == {"link_lost": 1}


def test_silence_of_an_on_change_tag_is_no_loss() -> None:
    """Its gap begins when the source was last known to be alive, not at its last change; unchanged = nothing lost."""
    one, out, clock = make()
    changed = clock.now
    one.sample("valve", True, 0, changed)
    clock.sleep(3600)
    one.heard()
    alive = clock.now
    clock.sleep(30)
    one.lost("link_lost")
    clock.sleep(30)
    one.sample("valve", True, 0, changed)
    gaps = [r.gap for r in out if r.gap]
    assert gaps[0] == {"from": alive, "to": None, "reason": "link_lost"}
    assert gaps[1] == {"from": alive, "to": clock.now, "reason": "link_lost", "lost": 0}
    assert out[-1].repeat


def test_a_tag_without_data_has_no_gap() -> None:
    one, out, _ = make()
    one.lost("link_lost")
    assert out == []


def test_restart_closes_a_gap_from_what_the_earlier_run_left() -> None:
    clock = Clock()
    one, out, clock = make({"p": [clock.now - 50 * S, 0]}, alive=clock.now - 49 * S)
    one.sample("p", 5.0, 0, clock.now)
    assert out[0].gap == {"from": clock.now - 50 * S, "to": clock.now, "reason": "collector_restart"}
    # Of what was told after the memory was written nobody knows here; in the store it stands between the two marks.
    assert [(r.source_ts, r.status, r.value, r.gap and r.gap["reason"]) for r in out] == [
        (clock.now - 50 * S + 10_000, record.BAD_NO_COMMUNICATION, None, "collector_restart"),
        (clock.now - 10_000, record.BAD_NO_COMMUNICATION, None, None), (clock.now, 0, 5.0, None)]
    assert one.counters.gaps == {"collector_restart": 1}
    clock.now += S
    one.sample("p", 6.0, 0, clock.now)
    assert len(out) == 4, "one gap, two marks"


def test_a_restart_within_a_sample_has_no_second_mark() -> None:
    clock = Clock()
    one, out, clock = make({"p": [clock.now - 10_000, 0]}, alive=clock.now)
    one.sample("p", 5.0, 0, clock.now)
    assert [r.status for r in out] == [record.BAD_NO_COMMUNICATION, 0]


def test_restart_without_loss_repeats() -> None:
    clock = Clock()
    one, out, clock = make({"p": [clock.now - S, 0]}, alive=clock.now - S)
    one.sample("p", 5.0, 0, clock.now - S)
    assert out[0].gap is not None
    assert out[0].gap["lost"] == 0
    assert out[1].repeat


def test_overflow_bit_is_a_gap_before_the_sample() -> None:
    one, out, clock = make()
    last = clock.now
    one.sample("p", 1.0, 0, last)
    one.sample("p", 9.0, 0x480, last + 5 * S)
    assert out[1].gap == {"from": last, "to": last + 5 * S, "reason": "server_queue_overflow"}
    assert (out[2].value, out[2].status) == (9.0, 0x480)


def test_clock_that_jumps_back_makes_no_negative_gap() -> None:
    one, out, clock = make()
    one.sample("p", 1.0, 0, clock.now)
    one.lost("link_lost")
    one.sample("p", 2.0, 0, clock.now - 100 * S)
    closed = next(r.gap for r in out if r.gap and r.gap["to"])
    assert closed["to"] >= closed["from"]


def test_failure_is_told_once_then_repeated() -> None:
    one, out, clock = make()
    one.failure("p", 0x80340000)
    clock.sleep(10)
    one.failure("p", 0x80340000)
    assert len(out) == 1
    clock.sleep(60)
    one.failure("p", 0x80340000)
    assert [(r.status, r.repeat) for r in out] == [(0x80340000, False), (0x80340000, True)]
    one.failure("p", 0x80310000)
    assert out[-1].repeat is False


def test_repeats_only_of_quiet_on_change_tags_with_their_own_time() -> None:
    one, out, clock = make()
    moment = clock.now
    one.sample("valve", True, 0, moment)
    one.sample("p", 1.0, 0, moment)
    clock.sleep(59)
    one.repeats()
    assert len(out) == 2
    clock.sleep(2)
    one.repeats()
    one.repeats()
    assert [(r.tag, r.repeat, r.source_ts) for r in out[2:]] == [("valve", True, moment)]
    assert out[2].observed_ts == clock.now


def test_no_repeat_while_a_gap_is_open() -> None:
    one, out, clock = make()
    one.sample("valve", True, 0, clock.now)
    one.lost("link_lost")
    clock.sleep(120)
    before = len(out)
    one.repeats()
    assert len(out) == before


def test_polling_an_unchanged_value_is_silent_until_the_repeat_is_due() -> None:
    one, out, clock = make()
    moment = clock.now
    for _ in range(70):
        one.polled("p", 1.0, 0, moment)
        clock.sleep(1)
    assert [r.repeat for r in out] == [False, True]


def test_a_polled_tag_is_known_up_to_its_own_last_read_also_by_the_next_process() -> None:
    """That another tag of the source was heard later says nothing of one that is read every minute."""
    one, out, clock = make()
    read = clock.now
    one.polled("valve", True, 0, read - S, read)
    clock.sleep(30)
    one.heard()
    one.lost("link_lost")
    assert out[-1].gap == {"from": read, "to": None, "reason": "link_lost"}
    again, told, later = make(one.memory(), one.alive)
    again.sample("valve", False, 0, later.now + 60 * S)
    assert told[0].gap is not None
    assert told[0].gap["from"] == read


def test_sample_without_any_time_says_that_the_time_is_ours() -> None:
    one, out, clock = make()
    one.sample("p", 1.0, 0, None)
    assert (out[0].source_ts, out[0].ts_origin) == (clock.now, "collector")


# -- pace -------------------------------------------------------------------------------------------------------------
def attempts(new_per_minute: int, burst: int, until: float, refused: bool = False) -> list[float]:
    now = [0.0]
    one = pace.Pacer(new_per_minute, burst, lambda: now[0])
    now[0] = 1000.0
    one.connected()
    now[0] = 2000.0
    one.failed(refused)
    made = []
    while now[0] < 2000.0 + until:
        now[0] += one.wait_s() + 1e-9
        made.append(round(now[0] - 2000.0, 1))
        one.spend()
        one.failed(refused)
    return made


def test_default_conduit_paces_attempts() -> None:
    assert attempts(6, 2, 45)[:5] == [1.0, 5.0, 11.0, 21.0, 31.0]


@given(st.integers(1, 60), st.integers(1, 10))
def test_no_minute_sees_more_than_rate_and_burst(rate: int, burst: int) -> None:
    made = attempts(rate, burst, 400)
    for start in made:
        assert sum(1 for t in made if start <= t < start + 59.9) <= rate + burst


def test_refusals_slow_down_to_half_a_minute() -> None:
    assert attempts(60, 10, 100, refused=True)[:5] == [5.0, 15.0, 35.0, 65.0, 95.0]


def test_long_outage_is_asked_every_half_minute() -> None:
    made = attempts(60, 10, 500)
    assert made[-1] - made[-2] == pytest.approx(30.0, abs=0.2)


def test_a_connection_that_holds_wipes_the_slate_and_a_short_one_does_not() -> None:
    now = [0.0]
    one = pace.Pacer(60, 10, lambda: now[0])
    for _ in range(5):
        one.failed()
    one.connected()
    now[0] += 5
    one.failed()
    assert one.wait_s() == pytest.approx(5.0)
    now[0] += 10
    one.connected()
    now[0] += 31
    one.failed()
    assert one.wait_s() == pytest.approx(1.0)


# -- outlet -----------------------------------------------------------------------------------------------------------
def sample(tag: str, moment: int) -> record.Record:
    return record.Record("s", tag, 1.0, "double", 0, moment, None, moment, "source")


def test_a_blocked_pipe_drops_the_oldest_and_remembers_what() -> None:
    gate, written = threading.Event(), []

    def write(data: bytes) -> None:
        gate.wait(10)
        written.append(data)

    one = outlet.Outlet(write, 10)
    one.start()
    one.put(sample("first", 1))
    deadline = time.monotonic() + 5
    while one.depth and time.monotonic() < deadline:
        time.sleep(0.01)
    for moment in range(100, 130):
        one.put(sample("a", moment))
    assert one.take_dropped() == {}  # not while it is full
    assert one.blocked_s() > 0
    gate.set()
    while one.depth and time.monotonic() < deadline:
        time.sleep(0.01)
    lost = one.take_dropped()[("s", "a")]
    assert (lost.start, lost.end, lost.count) == (99, 120, 20)
    assert one.take_dropped() == {}
    assert one.close(5)
    assert b"".join(written).count(b"tag=a ") == 10


def test_a_dropped_gap_record_keeps_its_bounds() -> None:
    one = outlet.Outlet(lambda data: None, 1)
    gap = record.Record("s", "a", None, "double", record.BAD_NO_COMMUNICATION, 11, None, 11, "collector",
                        gap={"from": 10, "to": 500, "reason": "link_lost"})
    one.put(gap)
    one.put(sample("b", 1))
    one._queue.clear()
    lost = one.take_dropped()[("s", "a")]
    assert (lost.start, lost.end) == (10, 500)


def test_a_reader_that_is_gone_is_told() -> None:
    told = threading.Event()

    def write(data: bytes) -> None:
        raise BrokenPipeError

    one = outlet.Outlet(write, 10, told.set)
    one.start()
    one.put(sample("a", 1))
    assert told.wait(5)
    assert one.broken
    assert not one.close(1)


# -- registers --------------------------------------------------------------------------------------------------------
def mtag(name: str, address: int, encoding: str = "float32", **more: Any) -> config.ModbusTag:
    return config.ModbusTag(name, address, encoding, more.get("type", "double"), more.get("scale", 1.0), more.get("nan", True))


@given(st.lists(st.tuples(st.integers(0, 400), st.sampled_from(sorted(config.WIDTHS))), min_size=1, max_size=40), st.integers(0, 20))
def test_blocks_hold_every_tag_and_never_more_than_a_reply(places: list[tuple[int, str]], gap: int) -> None:
    tags = [mtag("t%d" % number, address, encoding) for number, (address, encoding) in enumerate(places)]
    made = registers.blocks(tags, gap)
    assert sorted(tag.name for block in made for tag in block.tags) == sorted(tag.name for tag in tags)
    for block in made:
        assert 1 <= block.count <= registers.MAX_REGISTERS
        assert all(block.address <= tag.address and tag.address + tag.width <= block.address + block.count for tag in block.tags)


@given(st.floats(width=32, allow_nan=False), st.sampled_from(["big", "little"]))
def test_float_in_both_word_orders(value: float, order: str) -> None:
    words = list(struct.unpack(">2H", struct.pack(">f", value)))
    if order == "little":
        words.reverse()
    assert registers.decode(mtag("a", 10), [0, *words], 9, order) == (value, 0)


def test_values_of_registers() -> None:
    assert registers.decode(mtag("a", 0, "uint16", scale=0.1), [1234], 0, "big")[0] == pytest.approx(123.4)
    assert registers.decode(mtag("a", 0, "int16"), [0xFFFF], 0, "big") == (-1, 0)
    assert registers.decode(mtag("a", 0, "uint32"), [1, 2], 0, "big") == (65538, 0)
    assert registers.decode(mtag("a", 0, "uint32"), [1, 2], 0, "little") == (131073, 0)
    assert registers.decode(mtag("a", 0, "uint16", type="bool"), [1], 0, "big") == (True, 0)
    assert registers.decode(mtag("a", 0), [0x7FC0, 0], 0, "big") == (None, registers.BAD_SENSOR_FAILURE)
    assert registers.decode(mtag("a", 5), [1, 2], 4, "big") == (None, registers.BAD_COMMUNICATION_ERROR)


def test_exceptions_become_bad() -> None:
    assert registers.exception_status(2) == 0x80340000
    assert all(record.is_bad(registers.exception_status(code)) for code in range(1, 20))


def test_split_isolates_each_tag() -> None:
    block = registers.blocks([mtag("a", 0), mtag("b", 4)], 8)[0]
    assert [(one.address, one.count) for one in registers.split(block)] == [(0, 2), (4, 2)]


# -- configuration ----------------------------------------------------------------------------------------------------
def raw_config(**opcua: Any) -> dict[str, Any]:
    source = {
        "id": "plc1", "protocol": "opcua", "endpoint": "opc.tcp://plc1:4840/", "server_certificate": "/s.pem",
        "certificate": "/c.pem", "private_key": "/k.pem", "application_uri": "urn:x", "username": "observer",
        "tags": [{"name": "p", "node": "nsu=urn:a;s=b.c", "type": "double"}],
    }
    source.update(opcua)
    return {"status_file": "/run/s", "state_file": "/var/s", "sources": [source]}


def test_configuration_with_defaults() -> None:
    parsed = config.parse(raw_config(), "f").sources[0]
    assert isinstance(parsed, config.OpcuaSource)
    assert (parsed.tags[0].uri, parsed.tags[0].kind, parsed.tags[0].identifier) == ("urn:a", "s", "b.c")
    assert parsed.silence_s == 15.0
    assert parsed.session_timeout_s == 30.0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"endpont": "x"}, ["$.sources[0].endpont", "unknown"]),
        ({"endpoint": None}, ["$.sources[0].endpoint", "missing"]),
        ({"mode": "None"}, ["$.sources[0].mode", "SignAndEncrypt"]),
        ({"session_timeout_s": 1200}, ["session_timeout_s", "60"]),
        ({"lifetime_count": 20}, ["lifetime_count", "3 x keepalive_count"]),
        ({"tags": [{"name": "p p", "node": "nsu=urn:a;s=b", "type": "double"}]}, ["tags[0].name"]),
        ({"tags": [{"name": "p\n", "node": "nsu=urn:a;s=b", "type": "double"}]}, ["tags[0].name"]),
        *(({"tags": [{"name": "p", "node": "nsu=urn:a;%s" % node, "type": "double"}]}, ["tags[0].node", words]) for node, words in (
            ("i=Pump", "number"), ("i=4294967296", "number"), ("g=1234", "GUID"), ("b=?", "base64"))),
        ({"tags": [{"name": "p", "node": "s=b", "type": "double"}]}, ["tags[0].node", "nsu="]),
        ({"tags": [{"name": "p", "node": "nsu=urn:a;s=b", "type": "decimal"}]}, ["tags[0].type"]),
        ({"tags": [{"name": "p", "node": "nsu=urn:a;s=b", "type": "int"}] * 2}, ["p", "twice"]),
        ({"tags": [{"name": "p%d" % n, "node": "nsu=urn:a;s=b", "type": "int", "mode": "poll"} for n in range(60)]},
         ["reads_per_second"]),
        ({"publishing_ms": True}, ["publishing_ms", "boolean"]),
    ],
)
def test_configuration_errors_name_the_key(change: dict[str, Any], words: list[str]) -> None:
    raw = raw_config(**change)
    raw["sources"][0] = {key: value for key, value in raw["sources"][0].items() if value is not None}
    with pytest.raises(config.ConfigError) as caught:
        config.parse(raw, "collector.json")
    assert all(word in str(caught.value) for word in ["collector.json", *words])


def test_credential_is_found_or_named(tmp_path: Path) -> None:
    (tmp_path / "opcua_plc_1_password").write_text("secret\n", encoding="utf-8")
    assert config.credential({"CREDENTIALS_DIRECTORY": str(tmp_path)}, "plc-1") == "secret"
    with pytest.raises(config.ConfigError, match="opcua_other_password"):
        config.credential({"CREDENTIALS_DIRECTORY": str(tmp_path)}, "other")
    with pytest.raises(config.ConfigError, match="LoadCredentialEncrypted=opcua_other_password"):
        config.credential({}, "other")


# -- dialling ---------------------------------------------------------------------------------------------------------
def test_one_address_per_attempt_and_the_other_after_a_failure() -> None:
    import asyncio

    from hnai_ot_collector import dial

    async def resolve(host: str, port: int) -> list[str]:
        return ["fd77::1", "10.0.0.1"] if host == "plc" else []

    async def go() -> None:
        assert await dial.address("plc", 1, resolve) == "fd77::1"
        assert await dial.address("plc", 1, resolve) == "fd77::1"
        dial.failed("plc")
        assert await dial.address("plc", 1, resolve) == "10.0.0.1"
        dial.failed("plc")
        assert await dial.address("plc", 1, resolve) == "fd77::1"
        with pytest.raises(OSError, match="no address"):
            await dial.address("nobody", 1, resolve)

    asyncio.run(go())


# -- a source between whose runs nothing is lost ------------------------------------------------------------------------
def test_a_stream_that_resumes_has_no_gap_and_keeps_the_open_ones() -> None:
    first, _out, clock = make()
    first.sample("p", 1.5, 0, clock() - 10)
    first.sample("valve", True, 0, clock() - 10)
    first.heard(clock() - 5)
    first.lost("node_death", ["valve"])
    left = json.loads(json.dumps(first.whole_memory()))
    second, out, clock = make()
    second.resume(left, first.alive)
    assert second.open_gaps() == ["valve"]
    second.sample("p", 1.5, 0, clock() - 10)  # it came again
    second.sample("p", 2.5, 0, clock() + S)
    second.sample("valve", False, 0, clock() + S)
    assert [(r.tag, r.value, r.repeat, r.gap and r.gap["reason"]) for r in out] == [
        ("p", 1.5, True, None), ("p", 2.5, False, None), ("valve", None, False, "node_death"), ("valve", False, False, None)]
    assert out[2].gap is not None and (out[2].gap["from"], out[2].gap["to"]) == (clock() - 5, clock() + S)


def test_a_resumed_value_is_repeated_when_it_is_due() -> None:
    first, _out, clock = make()
    first.sample("valve", True, 0, clock() - 10)
    second, out, later = make()
    second.resume(first.whole_memory(), first.alive)
    later.sleep(59)
    second.repeats()
    assert out == []
    later.sleep(1)
    second.repeats()
    assert [(r.tag, r.value, r.repeat, r.source_ts) for r in out] == [("valve", True, True, clock() - 10)]


def test_history_changes_nothing_of_what_is_known_about_now() -> None:
    one, out, clock = make()
    one.sample("p", 3.0, 0, clock())
    one.lost("sequence_gap", ["valve"])
    one.history("p", 1.0, 0, clock() - S)
    one.history("p", 9.9, record.BAD_TIMEOUT, clock() - S + 1)
    one.again(["p", "valve"])
    assert [(r.value, r.status, r.source_ts, r.repeat) for r in out] == [
        (3.0, 0, clock(), False), (1.0, 0, clock() - S, False), (None, record.BAD_TIMEOUT, clock() - S + 1, False), (3.0, 0, clock(), True)]
    one.sample("p", 4.0, 0, clock() + 1)
    assert out[-1].gap is None
    assert one.counters.samples == 4


def reached(one: outlet.Outlet, count: int) -> int:
    """What was taken, waited for *count*."""
    deadline = time.monotonic() + 5
    while one.taken() < count and time.monotonic() < deadline:
        time.sleep(0.01)
    return one.taken()


def test_what_is_taken_is_out_of_the_pipe_or_told_as_dropped() -> None:
    gate, writing = threading.Event(), threading.Event()
    pipe: list[int] = []

    def write(data: bytes) -> None:
        writing.set()
        assert gate.wait(5)
        pipe.append(len(data))

    one = outlet.Outlet(write, 3, unread=lambda: sum(pipe))
    one.put(sample("a", 1))
    one.start()
    assert writing.wait(5)
    for at in range(2, 8):
        one.put(sample("a", at))
    assert (one.put_total, one.taken(), one.dropped_total) == (7, 0, 3)
    gate.set()
    deadline = time.monotonic() + 5
    while one.sent < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert one.taken() == 0  # dropped, and nobody was told
    assert one.take_dropped()
    assert one.taken() == 0  # all in the pipe
    del pipe[0]
    assert reached(one, 4) == 4  # the first, and what was dropped while it was written
    pipe.clear()
    assert reached(one, 7) == 7
    assert one.close(1)


def test_what_did_not_leave_is_not_remembered_as_told(tmp_path: Path) -> None:
    """The pipe is blocked, the process ends: the next run's gap begins at the last record that somebody read."""
    raw = raw_config()
    raw.update(state_file=str(tmp_path / "state"), status_file=str(tmp_path / "status"))
    raw["sources"] = [{"id": "mb", "protocol": "modbus", "host": "x", "word_order": "big", "tags": [
        {"name": "p", "address": 0, "encoding": "uint16", "type": "int"}]}]
    unread = [0]
    way = outlet.Outlet(lambda data: None, 100, unread=lambda: unread[0])
    program = main.Program(config.parse(raw, "f"), way, asyncio.Event())
    way.start()

    def left() -> Any:
        program.leave()
        return json.loads((tmp_path / "state").read_text(encoding="utf-8"))["sources"]["mb"]["tags"].get("p")

    assert left() is None
    program.streams["mb"].sample("p", 1, 0, 1000)
    program.remember()
    assert reached(way, 1) == 1
    program.remember()
    unread[0] = 1
    program.streams["mb"].sample("p", 2, 0, 2000)
    program.remember()
    deadline = time.monotonic() + 5
    while way.sent < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    program.remember()
    assert left() == [1000, 0]
    unread[0] = 0
    assert left() == [2000, 0]
    assert way.close(1)


def raw_node(**changes: Any) -> dict[str, Any]:
    source = {"id": "spb1", "protocol": "sparkplug", "host": "edge1", "username": "ot-sparkplug", "ca": "/ca.pem", "group": "g", "node": "n",
              "tags": [{"name": "a", "metric": "A", "type": "int"}, {"name": "b", "device": "d", "metric": "A", "type": "bool", "kind": "cyclic"}]}
    return {"status_file": "/run/s", "state_file": "/var/s", "sources": [{**source, **changes}]}


def test_configuration_of_an_edge_node() -> None:
    parsed = config.parse(raw_node(), "f").sources[0]
    assert isinstance(parsed, config.SparkplugSource)
    assert (parsed.client_id, parsed.port, parsed.keepalive_s) == ("ot-collector.spb1", 8883, 30)
    assert [(tag.device, tag.metric, tag.cyclic) for tag in parsed.tags] == [("", "A", False), ("d", "A", True)]


@pytest.mark.parametrize(("changes", "words"), [
    ({"group": "a/b"}, "group"), ({"node": "+"}, "node"), ({"node": None}, "node: is missing"), ({"endpoint": "x"}, "endpoint: is unknown"),
    ({"tags": [{"name": "a", "metric": "bdSeq", "type": "int"}]}, "metric"), ({"tags": [{"name": "a", "type": "int"}]}, "metric: is missing"),
    ({"tags": [{"name": "a", "metric": "A", "type": "int"}, {"name": "b", "metric": "A", "type": "int"}]}, "metric /A stands twice"),
    ({"tags": [{"name": "a", "metric": "A", "device": "x/y", "type": "int"}]}, "device"),
])
def test_an_edge_node_that_is_declared_wrongly_is_named(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(config.ConfigError, match=words):
        config.parse(raw_node(**changes), "f")


def test_the_credential_of_the_broker_has_a_name_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "mqtt_password").write_text("secret\n", encoding="utf-8")
    assert config.credential({"CREDENTIALS_DIRECTORY": str(tmp_path)}, "spb1", "mqtt_password") == "secret"


def test_the_identity_at_the_broker_is_one_of_its_pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rotation goes to `x.b` and back; the configuration keeps saying `x`."""
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    (tmp_path / "mqtt_password").write_text("secret", encoding="utf-8")
    node = config.parse(raw_node(), "f").sources[0]
    assert isinstance(node, config.SparkplugSource)
    for user in ("ot-sparkplug", "ot-sparkplug.b"):
        (tmp_path / "mqtt_user").write_text(user, encoding="utf-8")
        assert main._broker_identity(node) == (user, "secret")
    (tmp_path / "mqtt_user").write_text("hnai-health", encoding="utf-8")
    with pytest.raises(config.ConfigError, match="is for 'hnai-health'"):
        main._broker_identity(node)
