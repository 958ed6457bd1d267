# SPDX-License-Identifier: Apache-2.0
"""The Modbus source against a channel that the test plays, and that nothing but reading functions leaves."""
from __future__ import annotations

import asyncio
import logging
import struct
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
from hnai_ot_collector import config, health, mb_channel, modbus, record, stream

LOG = logging.getLogger("test")
T0 = 17_956_000_000_000_000


def source(tags: list[dict[str, Any]], **change: Any) -> config.ModbusSource:
    raw = {"status_file": "/s", "state_file": "/t", "sources": [{
        "id": "dev", "protocol": "modbus", "host": "x", "word_order": "big", "poll_ms": 50, "tags": tags,
        "limits": {"new_per_minute": 600, "burst": 600}, **change}]}
    parsed = config.parse(raw, "f").sources[0]
    assert isinstance(parsed, config.ModbusSource)
    return parsed


TWO = [{"name": "a", "address": 0, "encoding": "float32", "type": "double"}, {"name": "b", "address": 4, "encoding": "uint16", "type": "int"}]


class FakeDevice:
    """*answer*(address, count) gives (registers, exception) or raises."""

    def __init__(self, answer: Any) -> None:
        self.answer, self.asked, self.closed = answer, [], False

    async def open(self) -> None:
        if self.answer is None:
            raise mb_channel.NoLink("refused")

    async def read(self, address: int, count: int) -> tuple[list[int], int]:
        self.asked.append((address, count))
        result: tuple[list[int], int] = self.answer(address, count)
        return result

    def close(self) -> None:
        self.closed = True


def run(one: config.ModbusSource, devices: list[FakeDevice], seconds: float) -> tuple[list[record.Record], health.Health, int]:
    out: list[record.Record] = []
    used: list[FakeDevice] = []

    async def go() -> health.Health:
        flow = stream.Stream("dev", [(tag.name, tag.type, True) for tag in one.tags], out.append, lambda: T0 + len(out))
        state = health.Health("dev", "modbus", len(one.tags), lambda: T0)

        def connect(_source: Any) -> Any:
            used.append(devices[min(len(used), len(devices) - 1)])
            return used[-1]

        task = asyncio.create_task(modbus.ModbusCollector(one, flow, state, LOG, connect).run())
        await asyncio.sleep(seconds)
        before = list(out)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        out[:] = before
        return state

    state = asyncio.run(go())
    return out, state, len(used)


def good(address: int, count: int) -> tuple[list[int], int]:
    words = [*struct.unpack(">2H", struct.pack(">f", 1.5)), 0, 0, 7]
    return words[address:address + count], 0


def test_one_request_gives_a_sample_of_each_tag_with_our_time() -> None:
    device = FakeDevice(good)
    out, state, _ = run(source(TWO), [device], 0.12)
    assert set(device.asked) == {(0, 5)}
    assert len(out) == 2 * len(device.asked)
    assert {(r.tag, r.value, r.status, r.ts_origin) for r in out} == {("a", 1.5, 0, "collector"), ("b", 7, 0, "collector")}
    assert state.state == "lost"  # cancelled while connected


def test_an_illegal_address_costs_only_its_tag() -> None:
    def answer(address: int, count: int) -> tuple[list[int], int]:
        return ([], 2) if address + count > 4 else good(address, count)

    out, state, _ = run(source(TWO), [FakeDevice(answer)], 0.2)
    assert {(r.tag, r.value, r.status) for r in out} == {("a", 1.5, 0), ("b", None, 0x80340000)}
    assert state.failed == {"b": 0x80340000}


def test_another_exception_is_a_status_of_every_tag() -> None:
    out, _, used = run(source(TWO), [FakeDevice(lambda address, count: ([], 6))], 0.12)
    assert {(r.tag, r.status) for r in out} == {("a", 0x80040000), ("b", 0x80040000)}
    assert used == 1


def test_no_reply_is_a_timeout_and_twice_a_new_connection() -> None:
    def silent(address: int, count: int) -> tuple[list[int], int]:
        raise mb_channel.NoReply("late")

    first = FakeDevice(silent)
    out, _, used = run(source(TWO), [first, FakeDevice(good)], 1.4)
    assert first.closed
    assert len(first.asked) == modbus.MISSING_IN_A_ROW
    assert [r.status for r in out[:2]] == [record.BAD_TIMEOUT] * 2
    assert used == 2
    gaps = [r.gap for r in out if r.gap]
    assert {gap["reason"] for gap in gaps} == {"link_lost"}
    assert any(gap["to"] for gap in gaps)
    assert out[-1].value in (1.5, 7)


@pytest.mark.parametrize(("reply", "registers"), [
    (b"\x04\x04\x00\x01\x00\x02", [1, 2]),
    (b"\x03\x04\x00\x01\x00\x02", []),          # of the other table
    (b"\x04\x02\x00\x01", []),                  # shorter
    (b"\x04\x06\x00\x01\x00\x02\x00\x03", []),  # longer
])
def test_a_reply_to_something_else_is_no_value(reply: bytes, registers: list[int]) -> None:
    """pymodbus matches transaction and unit; function and length are ours to look at."""
    async def answer(reader: Any, writer: Any) -> None:
        asked = await reader.readexactly(12)
        writer.write(asked[:4] + struct.pack(">HB", len(reply) + 1, asked[6]) + reply)
        await writer.drain()

    async def go() -> tuple[list[int], int]:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        channel = mb_channel.ModbusChannel(source(TWO, host="127.0.0.1", port=server.sockets[0].getsockname()[1]))
        try:
            await channel.open()
            return await channel.read(0, 2)
        finally:
            channel.close()
            server.close()

    assert asyncio.run(go()) == (registers, 0)


def test_what_is_no_answer_is_bad_and_named() -> None:
    out, state, _ = run(source(TWO), [FakeDevice(lambda address, count: ([], 0))], 0.12)
    assert {r.status for r in out} == {0x80050000}
    assert state.failed == {"a": 0x80050000, "b": 0x80050000}


def test_a_device_that_refuses_has_a_status() -> None:
    out, state, _ = run(source(TWO), [FakeDevice(None)], 0.1)
    assert {(r.tag, r.status) for r in out} == {("a", record.BAD_NO_COMMUNICATION), ("b", record.BAD_NO_COMMUNICATION)}
    assert state.detail == "refused"


def test_only_reading_functions_leave() -> None:
    for name, args in (("write_register", (1, 1)), ("write_coil", (1, True)), ("write_registers", (1, [1])), ("diag_restart_communication", (True,))):
        async def one(name: str = name, args: Any = args) -> None:
            getattr(mb_channel._Client("127.0.0.1", reconnect_delay=0), name)(*args)

        with pytest.raises(mb_channel.Forbidden):
            asyncio.run(one())
