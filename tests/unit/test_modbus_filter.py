# SPDX-License-Identifier: Apache-2.0
"""The Modbus filter: what it takes for a frame, what it lets pass, and what reaches a device of whatever a client sends."""
from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import json
import os
import random
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import jinja2
import pytest
from hnai_ot_collector import config as collector
from hnai_ot_collector import registers
from hypothesis import given
from hypothesis import strategies as st
from modbus_stand import ALLOW, ROLE, adu, answer, ask, canary, config, device, running
from pymodbus.client import AsyncModbusTcpClient
from pymodbus.server import ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

from ansible_collections.hnai.platform.plugins.module_utils.modbus import filter as core
from ansible_collections.hnai.platform.plugins.module_utils.modbus.devices import SourceError
from ansible_collections.hnai.platform.plugins.module_utils.modbus.devices import devices as sources_to_devices
from ansible_collections.hnai.platform.plugins.module_utils.modbus.filter import Ask, Framer, Malformed, Refusal, Span
from ansible_collections.hnai.platform.plugins.plugin_utils import contracts

PASSING = config(device(502)).devices[0].allow
#: The same rights once more, address by address, so that the comparison is not with the code's own arithmetic.
ADDRESSES = {(1, 4): set(range(24)) - {15}, (1, 1): set(range(100, 140)), (2, 3): set(range(65530, 65536))}


def may_pass(frame: bytes) -> bool:
    """Is this whole ADU one that a device may get? Read from the specification, not from the filter."""
    if len(frame) < 8 or frame[2:4] != b"\0\0" or int.from_bytes(frame[4:6], "big") != len(frame) - 6:
        return False
    unit, function, body = frame[6], frame[7], frame[8:]
    if function == 43:
        return unit == 1 and len(body) == 3 and body[0] == 14 and 1 <= body[1] <= 4
    if (unit, function) not in ADDRESSES or len(body) != 4:
        return False
    first, count = struct.unpack(">HH", body)
    return 1 <= count <= (2000 if function in (1, 2) else 125) and set(range(first, first + count)) <= ADDRESSES[unit, function]


def cut(parts: list[bytes]) -> tuple[list[core.Frame], str]:
    """Frames of a stream, and why it ended early."""
    framer, frames = Framer(), []
    try:
        for part in parts:
            framer.feed(part)
            while (frame := framer.next()) is not None:
                frames.append(frame)
    except Malformed as error:
        return frames, error.reason
    return frames, ""


# -- frames -------------------------------------------------------------------------------------------------
def test_every_split_of_a_frame_is_the_same_frame() -> None:
    whole = ask()
    for cuts in itertools.product((False, True), repeat=len(whole) - 1):
        edges = [0, *(index + 1 for index, here in enumerate(cuts) if here), len(whole)]
        parts = [whole[a:b] for a, b in itertools.pairwise(edges)]
        assert cut(parts) == ([core.Frame(7, 1, whole[7:])], "")


frames = st.one_of(
    st.builds(adu, st.binary(min_size=1, max_size=253), st.integers(0, 65535), st.integers(0, 255)),
    st.builds(ask, st.sampled_from([1, 2, 3, 4, 5, 6]), st.integers(0, 65535), st.integers(0, 200), st.integers(0, 65535), st.sampled_from([1, 2, 3])),
    st.binary(max_size=20))


@given(st.lists(frames, max_size=5), st.randoms(use_true_random=False))
def test_segmentation_changes_nothing(stream: list[bytes], rng: random.Random) -> None:
    whole = b"".join(stream)
    edges = sorted({0, len(whole), *(rng.randrange(len(whole) + 1) for _ in range(6))})
    assert cut([whole[a:b] for a, b in itertools.pairwise(edges)]) == cut([whole])


@pytest.mark.parametrize(("stream", "reason"), [
    (b"\0\7\0\1", "protocol"), (b"\0\7\1\0\0\6\1\4\0\0\0\1", "protocol"), (b"\0\7\0\0\0\1", "length"), (b"\0\7\0\0\0\0", "length"),
    (b"\0\7\0\0\0\xff", "length"), (b"\0\7\0\0\xff\xff", "length"), (ask() + b"\0\1\0\1", "protocol")])
def test_what_is_no_frame_ends_the_stream(stream: bytes, reason: str) -> None:
    found, why = cut([stream])
    assert why == reason
    assert found == ([core.Frame(7, 1, ask()[7:])] if len(stream) > 12 else [])


def test_the_longest_frame_is_one() -> None:
    assert len(cut([adu(b"\x64" + bytes(252))])[0]) == 1


# -- rights -------------------------------------------------------------------------------------------------
@given(st.integers(0, 255), st.integers(0, 255), st.binary(max_size=252))
def test_anything_else_is_refused(unit: int, function: int, body: bytes) -> None:
    pdu = bytes((function,)) + body
    verdict = core.judge(core.Frame(1, unit, pdu), PASSING)
    assert isinstance(verdict, Ask) == may_pass(adu(pdu, unit=unit))
    if isinstance(verdict, Ask):
        assert verdict.pdu() == pdu
    else:
        assert verdict.pdu() == bytes((function | 0x80, verdict.code))


@given(st.sampled_from([1, 2, 3]), st.sampled_from([1, 2, 3, 4]),
       st.one_of(st.integers(0, 30), st.integers(90, 150), st.integers(65520, 65535)), st.integers(0, 130))
def test_exactly_the_declared_addresses(unit: int, function: int, first: int, count: int) -> None:
    pdu = struct.pack(">BHH", function, first, count)
    assert isinstance(core.judge(core.Frame(1, unit, pdu), PASSING), Ask) == may_pass(adu(pdu, unit=unit))


@pytest.mark.parametrize(("request_pdu", "unit", "code"), [
    (b"\6\0\0\0\1", 1, 1), (b"\x10\0\0\0\1\2\0\0", 1, 1), (b"\3\0\0\0\1", 1, 1), (b"\4\0\0\0\1", 3, 10), (b"\4\0\0\0\1", 2, 1),
    (b"\4\0\x18\0\1", 1, 2), (b"\4\0\x0e\0\2", 1, 2), (b"\3\xff\xff\0\2", 2, 2), (b"\4\0\0\0\0", 1, 3), (b"\4\0\0\0\x7e", 1, 3), (b"\4\0\0\0", 1, 3),
    (b"\4\0\0\0\1\0", 1, 3), (b"\x2b\x0d\1\0", 1, 1), (b"\x2b\x0e\1\0", 2, 1), (b"\x2b\x0e\5\0", 1, 3), (b"\x2b\x0e\1", 1, 3), (b"\x2b", 1, 1)])
def test_refusals_have_the_code_of_the_specification(request_pdu: bytes, unit: int, code: int) -> None:
    verdict = core.judge(core.Frame(1, unit, request_pdu), PASSING)
    assert isinstance(verdict, Refusal) and verdict.code == code


def test_spans_are_joined_over_gaps_and_cut_by_exclusions() -> None:
    wanted = [Span(20, 23), Span(0, 11), Span(40, 41)]
    assert core.spans(wanted, [], 8) == (Span(0, 23), Span(40, 41))
    assert core.spans(wanted, [], 7) == (Span(0, 11), Span(20, 23), Span(40, 41))
    assert core.spans(wanted, [Span(15, 16), Span(41, 50)], 8) == (Span(0, 14), Span(17, 23), Span(40, 40))


# -- replies ------------------------------------------------------------------------------------------------
@given(st.lists(st.integers(0, 65535), min_size=1, max_size=125))
def test_registers_come_through_as_they_are(values: list[int]) -> None:
    pdu = struct.pack(">BB%dH" % len(values), 4, 2 * len(values), *values)
    assert core.reply(Ask(1, 4, 0, len(values)), core.Frame(9, 1, pdu), 9) == pdu


@given(st.integers(1, 2000), st.randoms(use_true_random=False))
def test_coils_come_through_as_they_are(count: int, rng: random.Random) -> None:
    size = (count + 7) // 8
    raw = rng.getrandbits(count).to_bytes(size, "little")
    assert core.reply(Ask(1, 1, 0, count), core.Frame(9, 1, bytes((1, size)) + raw), 9) == bytes((1, size)) + raw
    # Bits that nobody asked for are not passed on.
    padded = raw[:-1] + bytes((raw[-1] | (0xFF << (count % 8 or 8)) & 0xFF,))
    assert core.reply(Ask(1, 1, 0, count), core.Frame(9, 1, bytes((1, size)) + padded), 9) == bytes((1, size)) + raw


def test_an_identification_comes_through() -> None:
    pdu = b"\x2b\x0e\1\x81\xff\2\2\0\3abc\1\0"
    assert core.reply(Ask(1, 43, 1, 0), core.Frame(9, 1, pdu), 9) == pdu


@pytest.mark.parametrize(("asked", "frame"), [
    (Ask(1, 4, 0, 1), core.Frame(8, 1, b"\4\2ab")), (Ask(1, 4, 0, 1), core.Frame(9, 2, b"\4\2ab")), (Ask(1, 4, 0, 1), core.Frame(9, 1, b"\3\2ab")),
    (Ask(1, 4, 0, 1), core.Frame(9, 1, b"\4\2abc")), (Ask(1, 4, 0, 1), core.Frame(9, 1, b"\4\4abcd")), (Ask(1, 4, 0, 1), core.Frame(9, 1, b"\4\3ab")),
    (Ask(1, 4, 0, 1), core.Frame(9, 1, b"\4")), (Ask(1, 4, 0, 1), core.Frame(9, 1, b"\x84")), (Ask(1, 4, 0, 1), core.Frame(9, 1, b"\x84\2\2")),
    (Ask(1, 4, 0, 1), core.Frame(9, 1, b"\x84\0")), (Ask(1, 4, 0, 1), core.Frame(9, 1, b"\x83\2")), (Ask(1, 1, 0, 9), core.Frame(9, 1, b"\1\1\0")),
    (Ask(1, 43, 1, 0), core.Frame(9, 1, b"\x2b\x0e\2\1\0\0\0")), (Ask(1, 43, 1, 0), core.Frame(9, 1, b"\x2b\x0e\1\1\0\0\1\0\5ab")),
    (Ask(1, 43, 1, 0), core.Frame(9, 1, b"\x2b\x0e\1\1\0\0\1\0\1ab")), (Ask(1, 43, 1, 0), core.Frame(9, 1, b"\x2b\x0e\1\1\0\0\1")),
    (Ask(1, 43, 1, 0), core.Frame(9, 1, b"\x2b\x0e\1\1\1\0\0"))])
def test_what_is_no_answer_is_none(asked: Ask, frame: core.Frame) -> None:
    with pytest.raises(Malformed):
        core.reply(asked, frame, 9)


def test_an_exception_of_the_device_comes_through() -> None:
    assert core.reply(Ask(1, 4, 0, 1), core.Frame(9, 1, b"\x84\6"), 9) == b"\x84\6"


# -- rates --------------------------------------------------------------------------------------------------
def test_rates_and_quiet() -> None:
    now = [0.0]
    bucket = core.Bucket(2.0, 3.0, lambda: now[0])
    assert [bucket.take() for _ in range(4)] == [True, True, True, False]
    now[0] = 0.5
    assert [bucket.take() for _ in range(2)] == [True, False]
    now[0] = 100.0
    assert sum(bucket.take() for _ in range(10)) == 3
    quiet = core.Quiet(10.0, lambda: now[0], keys=2)
    assert [quiet.say("a") for _ in range(3)] == [0, None, None]
    now[0] = 110.0
    assert quiet.say("a") == 2
    assert [quiet.say(key) for key in ("b", "c", "d")] == [0, 0, None]


# -- configuration ------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("change", "words"), [
    ({"allow": []}, "nothing could pass"), ({"allow": [{"unit": 1, "function": 6, "spans": [{"first": 0}]}]}, "6 is none that this filter passes"),
    ({"allow": [{"unit": 1, "function": 3, "spans": []}]}, "is empty"), ({"allow": [{"unit": 1, "function": 3}]}, "spans: is missing"),
    ({"allow": [{"unit": 256, "function": 3, "spans": [{"first": 0}]}]}, "between 0 and 255"),
    ({"allow": [{"unit": 1, "function": 3, "spans": [{"first": 65535, "count": 2}]}]}, "between 1 and 1"),
    ({"allow": [{"unit": 1, "function": 3, "spans": [{"first": 0}], "exclude": [{"first": 0}]}]}, "excluded and declared"),
    ({"allow": [ALLOW[0], ALLOW[0]]}, "stands twice"), ({"allow": [{"unit": 1, "function": 3, "spans": [{"first": 0}], "all": True}]}, "all: is unknown"),
    ({"forward": True}, "forward: is unknown"), ({"id": "A b"}, "lower-case"), ({"clients": 0}, "between 1"), ({"clients": True}, "must not be True"),
    ({"host": ""}, "is empty"), ({"port": "502"}, "must not be '502'")])
def test_a_configuration_that_says_too_little_or_too_much_is_none(change: dict[str, Any], words: str) -> None:
    with pytest.raises(core.ConfigError, match=words):
        config({**device(502), **change})


def test_two_devices_need_two_names_and_two_sockets() -> None:
    one = device(502)
    with pytest.raises(core.ConfigError, match="id dev stands twice"):
        config(one, {**one, "listen": {"port": 1}})
    with pytest.raises(core.ConfigError, match=r"listen .* stands twice"):
        config(one, {**one, "id": "b"})
    with pytest.raises(core.ConfigError, match="devices: is empty"):
        config()
    with pytest.raises(core.ConfigError, match="no JSON"):
        core.parse("{", "f")


# -- the running filter -------------------------------------------------------------------------------------
async def _open(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", port)


def test_only_allowed_frames_reach_the_device_whatever_is_sent() -> None:
    """A thousand streams of good, bad, cut, joined and mutated frames in random segments; the canary's own record is the judge."""
    rng = random.Random(7)
    good = [ask(4, 0, 24 - 9), ask(4, 16, 8), ask(1, 100, 40), ask(3, 65530, 6, unit=2), adu(b"\x2b\x0e\1\0")]
    bad = [adu(b"\6\0\0\0\1"), adu(b"\5\0\0\xff\0"), adu(b"\x10\0\0\0\1\2\0\1"), adu(b"\x16\0\0\0\xff\0\xff"), adu(b"\x17\0\0\0\1\0\0\0\1\2\0\0"),
           adu(b"\x0f\0\0\0\1\1\1"), adu(b"\x08\0\1\0\0"), adu(b"\x5a\0\1"), ask(4, 10, 10), ask(4, 0, 1, unit=9), ask()[:-1], ask() + b"\0", b"\0\7\0\1",
           struct.pack(">HHHB", 7, 0, 18, 1) + b"\4\0\0\0\1" + adu(b"\6\0\0\0\1")]

    def stream() -> list[bytes]:
        data = bytearray(b"".join(rng.choice(good if rng.random() < 0.5 else bad) for _ in range(rng.randrange(1, 5))))
        for _ in range(rng.choice((0, 0, 1, 3))):
            if data:
                data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        edges = sorted({0, len(data), *(rng.randrange(len(data) + 1) for _ in range(rng.randrange(4)))})
        return [bytes(data[a:b]) for a, b in itertools.pairwise(edges)]

    async def one(port: int) -> int:
        reader, writer = await _open(port)
        with contextlib.suppress(OSError):  # It may have hung up already.
            for part in stream():
                writer.write(part)
                await asyncio.sleep(0)
            writer.write_eof()
        got = 0
        while await answer(reader):
            got += 1
        writer.close()
        return got

    async def go() -> tuple[int, dict[str, Any]]:
        settings = config(device(device_canary.port, clients=100, timeout_s=30), frame_s=30)
        async with running(settings) as filtering:
            # Somebody is always there, so that the device's connection is not made anew for each stream.
            _reader, anchor = await _open(settings.devices[0].listen[1])
            answers = 0
            for _ in range(50):
                answers += sum(await asyncio.gather(*(one(settings.devices[0].listen[1]) for _ in range(20))))
            anchor.close()
            return answers, filtering.status()["devices"][0]

    with canary() as device_canary:
        answers, state = asyncio.run(go())
        arrived = device_canary.frames()
    assert [frame.hex() for frame in arrived if not may_pass(frame)] == []
    assert state["served"] == len(arrived) > 300
    assert answers > len(arrived) and sum(state["refused"].values()) > 300
    assert {"function", "address", "unit", "size", "protocol"} <= set(state["refused"])
    assert state["trouble"] == {}


def test_every_split_and_two_in_one_on_the_wire() -> None:
    async def go() -> None:
        settings = config(device(device_canary.port))
        port = settings.devices[0].listen[1]
        async with running(settings):
            reader, writer = await _open(port)
            for place in range(1, 12):
                for frame in (ask(4, 0, place), adu(b"\6\0\0\0\1")):
                    writer.write(frame[:place])
                    await asyncio.sleep(0.002)
                    writer.write(frame[place:])
                    assert (await answer(reader))[7] == (4 if frame[7] == 4 else 0x86)
            writer.write(ask(4, 0, 1, tid=1) + adu(b"\6\0\0\0\1", tid=2) + ask(4, 1, 1, tid=3))
            assert [(await answer(reader))[:2] + bytes((one,)) for one in (4, 0x86, 4)] == [b"\0\1\4", b"\0\2\x86", b"\0\3\4"]
            writer.close()

    with canary() as device_canary:
        asyncio.run(go())
        arrived = device_canary.frames()
    assert [frame[7:] for frame in arrived] == [struct.pack(">BHH", 4, 0, place) for place in range(1, 12)] + [b"\4\0\0\0\1", b"\4\0\1\0\1"]


class Liar:
    """A device that answers *replies* in turn: bytes, seconds to wait before bytes, or None to hang up."""

    def __init__(self, *replies: Any) -> None:
        self.replies, self.asked, self.connections = list(replies), [], 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        while head := await reader.read(12):
            self.asked.append(head)
            reply = self.replies.pop(0) if self.replies else None
            if reply is None:
                break
            if isinstance(reply, tuple):
                await asyncio.sleep(reply[0])
                reply = reply[1]
            writer.write(reply(head) if callable(reply) else reply)
        writer.close()


def right(head: bytes) -> bytes:
    return head[:4] + b"\0\7" + head[6:8] + b"\4abcd"


def talk(liar: Liar, requests: list[bytes], **change: Any) -> tuple[list[bytes], dict[str, Any]]:
    """The answers to *requests*, sent one after the other through a filter in front of *liar*."""
    async def go() -> tuple[list[bytes], dict[str, Any]]:
        server = await asyncio.start_server(liar.serve, "127.0.0.1", 0)
        settings = config(device(server.sockets[0].getsockname()[1], timeout_s=1.0, **change))
        try:
            async with running(settings) as filtering:
                reader, writer = await _open(settings.devices[0].listen[1])
                got = []
                for one in requests:
                    writer.write(one)
                    got.append((await answer(reader))[7:])
                writer.close()
                return got, filtering.status()["devices"][0]
        finally:
            server.close()

    return asyncio.run(go())


@pytest.mark.parametrize("reply", [
    None, lambda head: b"\0\0" + right(head)[2:], lambda head: right(head) + b"\0", lambda head: right(head)[:2] + b"\0\1" + right(head)[4:],
    lambda head: right(head)[:-1], lambda head: head[:4] + b"\0\5" + head[6:8] + b"\2ab", b"", lambda head: head, (1.5, right)])
def test_a_device_that_does_not_answer_right_is_0x0b_and_a_new_connection(reply: Any) -> None:
    liar = Liar(reply, right)
    got, state = talk(liar, [ask(), ask()])
    assert got == [b"\x84\x0b", b"\4\4abcd"]
    assert liar.connections == 2 and state["trouble"] == {"device": 1} and state["served"] == 1


def test_a_late_answer_is_never_taken_for_the_next_one() -> None:
    liar = Liar((1.3, lambda head: right(head)[:-4] + b"old!"), right)
    got, _state = talk(liar, [ask(), ask()])
    assert got == [b"\x84\x0b", b"\4\4abcd"]


def test_an_answer_is_never_told_twice() -> None:
    """The device goes away: the client hears 0x0B, not what the device said before."""
    got, state = talk(Liar(right, None, None), [ask(), ask(), ask()])
    assert got == [b"\4\4abcd", b"\x84\x0b", b"\x84\x0b"]
    assert state["last_trouble"]["reason"] == "device"


def test_a_device_that_is_not_there_is_dialled_no_oftener_than_the_conduit_allows() -> None:
    async def go() -> None:
        closed = config(device(1, new_per_minute=6))
        dialled = []

        async def connect(host: str, port: int) -> Any:
            dialled.append(host)
            raise ConnectionRefusedError("refused")

        async def find(host: str, port: int) -> list[str]:
            return ["fd00::1", "192.0.2.1"]

        now = [0.0]
        async with running(closed, connect=connect, find=find, clock=lambda: now[0]) as filtering:
            reader, writer = await _open(closed.devices[0].listen[1])
            codes = []
            for _ in range(4):
                writer.write(ask())
                codes.append((await answer(reader))[-1])
            now[0] = 10.0
            writer.write(ask())
            codes.append((await answer(reader))[-1])
            writer.close()
        assert codes == [0x0B, 0x0B, 0x0A, 0x0A, 0x0B]
        assert dialled == ["fd00::1", "192.0.2.1", "fd00::1"]
        assert filtering.status()["devices"][0]["trouble"] == {"device": 3, "dial": 2}

    asyncio.run(go())


def test_the_filter_dials_from_its_own_address() -> None:
    async def go() -> None:
        seen = []

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            seen.append(writer.get_extra_info("peername")[0])
            writer.write(right(await reader.readexactly(12)))

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        plain = config(device(server.sockets[0].getsockname()[1], timeout_s=1.0))
        try:
            for settings in (plain, dataclasses.replace(plain, local={4: "127.0.7.7", 6: "::1"})):
                async with running(settings):
                    reader, writer = await _open(settings.devices[0].listen[1])
                    writer.write(ask())
                    await answer(reader)
                    writer.close()
        finally:
            server.close()
        assert seen == ["127.0.0.1", "127.0.7.7"]

    asyncio.run(go())


def test_one_connection_to_the_device_for_all_clients_and_none_when_they_are_gone() -> None:
    async def go() -> None:
        settings = config(device(device_canary.port, clients=3))
        port = settings.devices[0].listen[1]
        async with running(settings) as filtering:
            pairs = [await _open(port) for _ in range(3)]
            for reader, writer in pairs:
                writer.write(ask())
                assert (await answer(reader))[7] == 4
            extra, one_more = await _open(port)
            one_more.write(ask())
            assert await answer(extra) == b""
            assert filtering.status()["devices"][0]["refused"] == {"clients": 1}
            assert filtering.gates[0].link.up and len(device_canary.received()) == 1
            for _reader, writer in pairs:
                writer.close()
            for _ in range(100):
                if not filtering.gates[0].link.up:
                    break
                await asyncio.sleep(0.01)
            assert not filtering.gates[0].link.up and filtering.gates[0].state()["clients"] == 0

    with canary() as device_canary:
        asyncio.run(go())


def test_requests_are_capped_and_answered_with_busy() -> None:
    with canary() as device_canary:
        async def go() -> list[int]:
            settings = config(device(device_canary.port, requests_per_second=5))
            async with running(settings, clock=lambda: 0.0):
                reader, writer = await _open(settings.devices[0].listen[1])
                codes = []
                for _ in range(7):
                    writer.write(ask())
                    codes.append((await answer(reader))[7:9])
                writer.close()
                return [pair[1] if pair[0] & 0x80 else 0 for pair in codes]

        assert asyncio.run(go()) == [0] * 5 + [6, 6]
        assert len(device_canary.frames()) == 5


def test_an_unfinished_frame_does_not_hold_its_place() -> None:
    async def go() -> None:
        settings = config(device(1), frame_s=0.1)
        async with running(settings):
            reader, writer = await _open(settings.devices[0].listen[1])
            writer.write(ask()[:5])
            assert await answer(reader) == b""
            writer.close()

    asyncio.run(go())


def test_half_a_filter_does_not_start() -> None:
    async def go() -> None:
        async with running(config(device(1))) as first:
            taken = first.config.devices[0].listen[1]
            two = config(device(1, id="a"), device(1, id="b", listen={"port": taken}))
            with pytest.raises(OSError):
                async with running(two):
                    pass
            with pytest.raises(OSError):
                await _open(two.devices[0].listen[1])

    asyncio.run(go())


def test_refusals_are_counted_all_and_logged_now_and_then(caplog: pytest.LogCaptureFixture) -> None:
    got, state = talk(Liar(), [adu(b"\6\0\0\0\1")] * 50)
    assert got == [b"\x86\1"] * 50 and state["refused"] == {"function": 50} and state["exceptions"] == {"1": 50}
    assert [one.getMessage() for one in caplog.records if "refused" in one.getMessage()] == [
        "dev: refused (function): unit 1, function 6, 5 bytes: exception 1"]


# -- with pymodbus on both sides ----------------------------------------------------------------------------
def test_pymodbus_reads_the_same_through_the_filter_and_past_it() -> None:
    async def go() -> None:
        blocks = [SimData(0, values=[(17 * n) & 0xFFFF for n in range(200)], datatype=DataType.REGISTERS)]
        server = ModbusTcpServer(SimDevice(1, simdata=blocks), address=("127.0.0.1", 0))
        await server.serve_forever(background=True)
        real = server.transport.sockets[0].getsockname()[1]
        settings = config(device(real, allow=[{"unit": 1, "function": 3, "spans": [{"first": 0, "count": 150}]},
                                              {"unit": 1, "function": 4, "spans": [{"first": 0, "count": 150}]}]))
        async with running(settings) as filtering:
            past = AsyncModbusTcpClient("127.0.0.1", port=real, retries=0, timeout=2)
            through = AsyncModbusTcpClient("127.0.0.1", port=settings.devices[0].listen[1], retries=0, timeout=2)
            assert await past.connect() and await through.connect()
            for first, count in ((0, 1), (3, 125), (100, 50)):
                one = await through.read_holding_registers(first, count=count, device_id=1)
                other = await past.read_holding_registers(first, count=count, device_id=1)
                assert one.registers == other.registers and len(one.registers) == count
                assert (await through.read_input_registers(first, count=count, device_id=1)).registers == one.registers
            assert (await through.read_holding_registers(149, count=2, device_id=1)).exception_code == 2
            assert (await through.write_register(0, 4711, device_id=1)).exception_code == 1
            assert (await through.write_registers(0, [1, 2], device_id=1)).exception_code == 1
            assert (await through.write_coil(0, True, device_id=1)).exception_code == 1
            assert (await past.read_holding_registers(0, count=1, device_id=1)).registers == [0]
            assert filtering.status()["devices"][0]["refused"] == {"address": 1, "function": 3}
            past.close()
            through.close()
        await server.shutdown()

    asyncio.run(go())


# -- the program --------------------------------------------------------------------------------------------
@pytest.fixture
def program(tmp_path: Path) -> Path:
    """The program's directory as the role makes it."""
    home = tmp_path / "modbus_filter"
    shutil.copytree(ROLE / "tree/usr/local/lib/hnai/modbus_filter", home)
    for template in home.rglob("*.j2"):
        template.unlink()
    for name in ("filter.py", "filter_server.py"):
        shutil.copy(Path(core.__file__).with_name(name), home / "hnai_modbus_filter" / name)
    return home


def test_the_program_runs_alone_and_ends_on_sigterm(program: Path, tmp_path: Path) -> None:
    status = tmp_path / "status.json"
    with canary() as device_canary:
        one = device(device_canary.port)
        file = tmp_path / "filter.json"
        file.write_text(json.dumps({"status_file": str(status), "devices": [one]}))
        with subprocess.Popen([sys.executable, "-I", str(program), "--config", str(file)], stderr=subprocess.PIPE, cwd="/") as running_program:
            try:
                async def go() -> bytes:
                    for _ in range(100):
                        if status.exists():
                            break
                        await asyncio.sleep(0.1)
                    reader, writer = await _open(one["listen"]["port"])
                    writer.write(ask())
                    got = await answer(reader)
                    writer.close()
                    return got

                assert asyncio.run(go())[7] == 4
            finally:
                running_program.terminate()
                assert running_program.wait(10) == 0
    told = json.loads(status.read_text())
    assert told["config_sha256"] == config_digest(file) and told["uid"] == os.getuid()


def config_digest(file: Path) -> str:
    return core.parse(file.read_text(), "f").digest


@pytest.mark.parametrize(("text", "words"), [("{}", "devices: is missing"), ("", "no JSON"), (None, "No such file")])
def test_the_program_does_not_start_on_a_bad_configuration(program: Path, tmp_path: Path, text: str | None, words: str) -> None:
    file = tmp_path / "filter.json"
    if text is not None:
        file.write_text(text)
    extra = ["--check"] if text == "" else []
    done = subprocess.run([sys.executable, "-I", str(program), "--config", str(file), *extra], check=False, capture_output=True, text=True, timeout=60, cwd="/")
    assert done.returncode == 78 and words in done.stderr


def test_the_core_is_of_python_3_9() -> None:
    import ast

    for name in ("filter.py", "filter_server.py"):
        ast.parse(Path(core.__file__).with_name(name).read_text(), feature_version=(3, 9))


# -- from the inventory to the running filter ---------------------------------------------------------------
SOURCE: dict[str, Any] = {
    "id": "sep1", "protocol": "modbus", "host": "plc1", "port": 502, "unit": 1, "table": "input", "timeout_s": 1.0, "limits": {"new_per_minute": 6},
    "filter": {"address": "127.0.1.1", "clear_on_read": [15, {"first": 17, "count": 2}]},
    "tags": [{"name": "a", "address": 20, "encoding": "uint16"}, {"name": "b", "address": 0, "encoding": "float32"},
             {"name": "c", "address": 10, "encoding": "float64"}]}
CANARY = {"id": "sep1-canary", "for": "sep1", "address": "127.0.2.1", "host": "plc1", "port": 1502, "record_port": 1503}


def parsed(sources: list[dict[str, Any]], canaries: Any = ()) -> core.Config:
    return core.parse(json.dumps({"status_file": "/s", "devices": sources_to_devices(sources, canaries)}), "f")


def test_what_the_tags_need_is_what_may_be_read() -> None:
    sep1, stand_in = parsed([SOURCE], [CANARY]).devices
    assert sep1.allow.reads == {(1, 4): (Span(0, 14), Span(16, 16), Span(19, 20))}
    assert (sep1.listen, sep1.host, sep1.port, sep1.timeout_s, sep1.new_per_minute) == (("127.0.1.1", 1502), "plc1", 502, 0.8, 6)
    assert stand_in.canary and stand_in.allow == sep1.allow and (stand_in.host, stand_in.port) == ("plc1", 1502)
    holding = {**SOURCE, "table": "holding", "gap_registers": 0, "filter": {"address": "127.0.1.1", "identification": True}}
    assert parsed([holding]).devices[0].allow.as_dict() == {
        "reads": [{"unit": 1, "function": 3, "spans": [[0, 1], [10, 13], [20, 20]]}], "identification": [1]}


def test_every_block_of_the_collector_may_be_read() -> None:
    """The filter's list and the collector's blocks are made of the same tags; where a block covers an excluded register, single tags may still be read."""
    tags = [collector.ModbusTag(name=one["name"], address=one["address"], encoding=one["encoding"], type="double", scale=1.0, nan=False)
            for one in SOURCE["tags"]]
    for exclude, whole in (([], True), ([15], False)):
        allow = parsed([{**SOURCE, "filter": {"address": "127.0.1.1", "clear_on_read": exclude}}]).devices[0].allow

        def passes(block: registers.Block, allow: core.Allow = allow) -> bool:
            return isinstance(core.judge(core.Frame(1, 1, struct.pack(">BHH", 4, block.address, block.count)), allow), Ask)

        blocks = registers.blocks(tags, 8)
        assert all(passes(block) for block in blocks) == whole
        assert all(passes(one) for block in blocks for one in registers.split(block))


@pytest.mark.parametrize(("change", "words"), [
    ({"filter": {}}, "filter.address is missing"), ({"filter": {"address": "127.0.1.1", "forward": 1}}, "filter.forward is unknown"),
    ({"table": "coil"}, "write holding or input"), ({"tags": [{"name": "x", "address": 1, "encoding": "text"}]}, "tag x: encoding 'text' is unknown"),
    ({"filter": {"address": "127.0.1.1", "clear_on_read": ["all"]}}, "write a register's number")])
def test_a_source_that_cannot_be_filtered_says_why(change: dict[str, Any], words: str) -> None:
    with pytest.raises(SourceError, match=words):
        sources_to_devices([{**SOURCE, **change}])


def test_a_tag_that_reading_would_change_and_a_canary_for_nobody_are_refused() -> None:
    with pytest.raises(core.ConfigError, match="excluded and declared"):
        parsed([{**SOURCE, "filter": {"address": "127.0.1.1", "clear_on_read": [20]}}])
    with pytest.raises(SourceError, match="no filtered source"):
        sources_to_devices([SOURCE], [{**CANARY, "for": "sep2"}])
    with pytest.raises(core.ConfigError, match="where a device is"):
        parsed([SOURCE], [{**CANARY, "port": 502}])


def test_the_collector_asks_the_filter_where_the_source_says_so() -> None:
    """The collector's own template: a source with the key filter is dialled at the filter, all others as before."""
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined)
    environment.filters.update({"combine": lambda *parts: {key: value for part in parts for key, value in part.items()},
                                "to_nice_json": lambda data, **_given: json.dumps(data, default=list)})
    environment.tests["in"] = lambda value, many: value in many
    text = (ROLE.parent / "ot_collector/tree/etc/hnai/ot_collector/collector.json.j2").read_text()
    other = {**SOURCE, "id": "other"}
    del other["filter"]
    made = json.loads(environment.from_string(text).render(ot_collector_sources=[SOURCE, other], ot_collector_queue_records=1,
                                                           ot_collector_application_uri="urn:x",
                                                           lookup=lambda _ports, component: contracts.ports(component)))
    assert [(one["id"], one["host"], one["port"]) for one in made["sources"]] == [("sep1", "127.0.1.1", 1502), ("other", "plc1", 502)]
    assert "filter" not in made["sources"][0]
