# SPDX-License-Identifier: Apache-2.0
"""Answers that no server should give: the audit never hangs, never fills the memory, and says why it knows nothing."""
from __future__ import annotations

import asyncio
import random
import struct
import time
import tracemalloc
from types import SimpleNamespace
from typing import Any

import pytest
from asyncua import ua
from asyncua.common.utils import Buffer, NotEnoughData
from asyncua.ua.ua_binary import struct_from_binary
from opcua_hostile import HUGE, TARGET, Space, audit, decode, library, mutate, response

from ansible_collections.hnai.platform.plugins.module_utils.opcua import audit_codec
from ansible_collections.hnai.platform.plugins.module_utils.opcua.asyncua_bounds import CHUNK_LIMIT
from ansible_collections.hnai.platform.plugins.module_utils.opcua.asyncua_reader import OBJECTS_LIMIT, ClosedProtocol, FastReader, Reader
from ansible_collections.hnai.platform.plugins.module_utils.opcua.audit_codec import Broken, Decoder, groups_request, header, read_request
from ansible_collections.hnai.platform.plugins.module_utils.opcua.audit_types import BadAnswer, TooMany

NODE = audit_codec.numeric(2, 5)


def test_the_server_of_bytes_is_read_whole_when_nothing_is_spoilt() -> None:
    facts = audit(lambda data: data)
    assert facts.complete, facts.error
    assert facts.result.nodes["Variable"] >= 7 and facts.result.told_roles == 1 and not facts.result.findings


@pytest.mark.parametrize("seed", range(4))
def test_spoilt_answers_end_with_a_reason(seed: int) -> None:
    rng, end = random.Random(seed), time.monotonic() + 3.0
    while time.monotonic() < end:
        spoilt: list[bytes] = []
        rate = rng.choice((0.02, 0.1, 0.5))

        def spoil(data: bytes, rng: Any = rng, rate: float = rate, spoilt: list[bytes] = spoilt) -> bytes:
            if rng.random() >= rate:
                return data
            spoilt.append(mutate(rng, data))
            return spoilt[-1]

        facts = audit(spoil)
        assert facts.complete or facts.error or facts.result.unread or facts.result.truncated
        assert "unforeseen" not in facts.error, facts.error


def test_every_cut_and_every_huge_count_is_survived() -> None:
    space = Space()
    read = space.answer(audit_codec.READ_ID, read_request([(NODE, 2), (audit_codec.numeric(0, 2255), 13), (audit_codec.numeric(2, 70001), 25)]))
    browse = space.answer(audit_codec.BROWSE_ID, audit_codec.browse_request([audit_codec.numeric(0, 85)], 10))
    for data in (read, browse):
        for at in range(len(data)):
            decode(data[:at])
            for count in HUGE[:2]:
                decode(data[:at] + struct.pack("<I", count) + data[at + 4:])


#: 16 776 973 diagnostic infos in 126 bytes: a text of -15 bytes led asyncua back to the first of them. An hour of fuzzing found it.
ROUND_AND_ROUND = bytes.fromhex(
    "01007a025a47c31d1f7fdd0100000000000400000001000000010000006100000002000000038c030000001c000000687474703a2f2f6f7063666f756e6461"
    "74696f6e2e6f72172f55412f0500000075726e3a73050000009739d3d57b619ec375726e3a7000000000030dffff0000b17adc0100f1ffffff7fffffff0000"
)
#: 50 331 838 nulls, which take no bytes, where a header is read otherwise by asyncua than by us.
NOTHING_AT_ALL = bytes.fromhex(
    "01007a0216e560c8277fdd0100000000000000000001000000010000006100004002000000038c030000001c000000687474703a2f2f6f5063666f756e6400"
    "74696f6e2e6f72672f55412f0500000075726e3a730500000075726e3a7000007770abc0be0000030d0000f46b8192b17adc01000000000000"
)


@pytest.mark.parametrize(("data", "ends"), [(ROUND_AND_ROUND, ["Broken", "broken", "broken"]), (NOTHING_AT_ALL, ["Broken", "broken", "Broken"])])
def test_few_bytes_are_not_many_elements(data: bytes, ends: list[str]) -> None:
    """Neither by us, who weigh an answer first, nor by the library, were it given them."""
    begin = time.monotonic()
    assert decode(data) == ends
    with pytest.raises(NotEnoughData, match="elements in 2"):
        struct_from_binary(ua.ReadResponse, Buffer(data))
    assert time.monotonic() - begin < 2.0


def test_a_length_below_nothing_leads_nobody_back() -> None:
    for move in (Buffer(bytes(20)).read, Buffer(bytes(20)).skip):
        with pytest.raises(NotEnoughData, match="a length of -15"):
            move(-15)


def test_a_matrix_has_no_places_without_values() -> None:
    """15 bytes with the dimension 999 999: asyncua filled it with empty lists, 71 MiB, and an answer has room for thousands of them."""
    matrix = bytes([1, 0xC3]) + struct.pack("<i2sii", 2, b"ab", 1, 999_999)
    data = response(ua.ReadResponse())[:-8] + struct.pack("<i", 500) + matrix * 500 + struct.pack("<i", 0)
    tracemalloc.start()
    try:
        assert library(data, header(data)[1], True) == "library"
        assert tracemalloc.get_traced_memory()[1] < 20 << 20
    finally:
        tracemalloc.stop()


def test_diagnostics_of_results_that_are_not_there_are_given_to_nobody() -> None:
    """Each takes one byte, and asyncua makes an object of it."""
    one = struct.pack("<iBBBi", 1, 1, 1, 0, 1) + bytes(1)
    assert Decoder(one).survivable()
    with pytest.raises(Broken, match="diagnostics"):
        Decoder(one[:-5] + struct.pack("<i", 2) + bytes(2)).survivable()


@pytest.mark.parametrize("kind", [Reader, FastReader])
def test_a_large_answer_is_asked_for_in_parts_where_the_library_would_decode_it(kind: type[Reader]) -> None:
    """What our own decoder understands needs no objects, and may be larger."""
    large = ua.DataValue(ua.Variant("x" * OBJECTS_LIMIT, ua.VariantType.String))
    odd = ua.DataValue(ua.Variant([ua.KeyValuePair(ua.QualifiedName("x", 0), ua.Variant(1))], ua.VariantType.ExtensionObject))
    for results in ([large], [large, odd]):
        answer = ua.ReadResponse()
        answer.Results = results

        async def send(*_given: Any, data: bytes = response(answer)) -> Buffer:
            return Buffer(data)

        reader = kind(TARGET)
        reader._ua = SimpleNamespace(_send_request=send, protocol=SimpleNamespace(send_bytes=send))
        asked = [(reader.node("ns=2;i=1"), 13)] * len(results)
        if kind is FastReader and odd not in results:
            assert len(asyncio.run(reader.read(asked))) == 1
            continue
        with pytest.raises(TooMany, match="an answer of 104"):
            asyncio.run(reader.read(asked))


@pytest.mark.parametrize("encoding", [0x80, 0xC0, 0x40, 0x97, 0x98, 0x99, 24, 23, 25])
def test_values_without_an_end_are_given_to_nobody(encoding: int) -> None:
    """2**31 - 1 nulls take no byte: the library would make them all."""
    hostile = struct.pack("<iBBi", 1, 1, encoding, 2**31 - 1) + b"\0" * 40
    with pytest.raises(Broken):
        Decoder(hostile).read()
    with pytest.raises(Broken):
        Decoder(hostile).survivable()


@pytest.mark.parametrize("encoding", [0x80, 0x98, 0x99, 24])
def test_neither_are_they_where_the_library_reads_everything(encoding: int) -> None:
    """As the recorder and the write probe ask."""
    answer = ua.ReadResponse()
    answer.Results = [ua.DataValue(ua.Variant(1.5, ua.VariantType.Double))]
    whole = response(answer)
    for data, words in ((whole, ""), (whole.replace(struct.pack("<Bd", 11, 1.5), struct.pack("<Bi", encoding, 2**31 - 1)), "Broken")):
        async def send(*_given: Any, data: bytes = data) -> Buffer:
            return Buffer(data)

        reader = Reader(TARGET)
        reader._ua = SimpleNamespace(_send_request=send)
        for ask in (reader.read([(ua.NodeId(1, 2), 13)]), reader.timed([ua.NodeId(1, 2)])):
            if not words:
                assert 1.5 in asyncio.run(ask)[0]
                continue
            with pytest.raises(BadAnswer, match=words):
                asyncio.run(ask)


def test_a_structure_that_is_no_role_is_given_to_nobody() -> None:
    answer = ua.ReadResponse()
    answer.Results = [ua.DataValue(ua.Variant([ua.KeyValuePair(ua.QualifiedName("x", 0), ua.Variant(1))], ua.VariantType.ExtensionObject))]
    data = response(answer)
    _status, begin = header(data)
    with pytest.raises(audit_codec.Surprise):
        Decoder(data[begin:]).survivable()


def test_headers_are_stepped_over_as_the_library_reads_them() -> None:
    answer = ua.ReadResponse()
    answer.ResponseHeader.ServiceResult = ua.StatusCode(0x80100000)
    data = response(answer)
    # The library makes no diagnostics: SymbolicId, AdditionalInfo and an inner one with a Locale, in the place of none.
    data = data[:20] + b"\x51" + struct.pack("<i", 1) + struct.pack("<i", 1) + b"x" + b"\x08" + struct.pack("<i", 3) + data[21:]
    status, begin = header(data)
    assert status == 0x80100000 and Decoder(data[begin:]).read() == []
    with pytest.raises(Broken):
        header(data[:20] + b"\x40" * 40)


def test_groups_are_what_single_reads_are() -> None:
    space, rng = Space(), random.Random(1)
    known = audit_codec.Known()
    for _ in range(40):
        groups = [([audit_codec.numeric(2, rng.choice((70000, 70001, 70003))) for _ in range(rng.randrange(1, 5))], rng.choice(((2, 6, 7), (2, 25), (18,))))
                  for _ in range(rng.randrange(1, 9))]
        flat = [(node, attribute) for nodes, attributes in groups for node in nodes for attribute in attributes]
        assert groups_request(groups) == read_request(flat)
        data = space.answer(audit_codec.READ_ID, read_request(flat))
        body = data[header(data)[1]:]
        assert [one for readings in Decoder(body, known).groups(groups) for one in readings] == Decoder(body).read()


def test_a_chunk_without_an_end_is_not_waited_for() -> None:
    protocol = ClosedProtocol()
    lost: list[Any] = []
    protocol._fail_all_pending = lost.append
    protocol._process_received_data(b"MSGF" + struct.pack("<I", CHUNK_LIMIT + 1) + b"x")
    assert "announces a chunk" in str(lost[0])
