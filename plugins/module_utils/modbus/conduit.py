# SPDX-License-Identifier: Apache-2.0
"""The proof of a Modbus conduit: what is sent at the filter, and what the canary behind it must have written down. Pure.

Nothing here is the filter's code: frames, rights and the reading of the record are made anew, so that a mistake is not made twice.
No probe ever goes to a device: they are sent at the socket of the filter's canary, after one control was seen in the canary's own record.
"""
from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

MAGIC = b"HNAICNRY"
PAGE = 65536
HEADER_UNIT = 255
REGISTERS = 125
FUNCTIONS, SEGMENTS, FRAMES, RIGHTS = "MF4", "MF5", "MF6", "MF7"
#: A body that a device would obey, for each function that changes something or tells what it should not.
BODIES: Mapping[int, bytes] = {
    5: b"\0\0\xff\0", 6: b"\0\0\0\1", 7: b"", 8: b"\0\1\0\0", 11: b"", 12: b"", 15: b"\0\0\0\1\1\1", 16: b"\0\0\0\1\2\0\1", 17: b"",
    20: b"\7\6\0\1\0\0\0\1", 21: b"\x09\6\0\1\0\0\0\1\0\1", 22: b"\0\0\xff\xff\0\1", 23: b"\0\0\0\1\0\0\0\1\2\0\1", 24: b"\0\0",
    43: b"\x0d\1\0", 90: b"\0\1",
}
PLACES: Mapping[int, tuple[int, ...]] = {5: (0,), 6: (0,), 15: (0,), 16: (0,), 22: (0,), 23: (0, 4)}
"""Where in those bodies an address stands."""
WRITE = b"\x06\0\0\0\1"


class CannotTell(Exception):
    """The canary or its record cannot be used; the text says why. Never a verdict."""


# -- what is sent -------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Must:
    """What has to arrive: unit and PDU."""

    unit: int
    pdu: bytes


@dataclass(frozen=True)
class Probe:
    """*chunks* are sent one by one. *must*: what has to arrive of it. *answers*: how many replies a filter gives, 0 = it hangs up or waits."""

    check: str
    name: str
    chunks: tuple[bytes, ...]
    must: tuple[Must, ...] = ()
    answers: int = 1


def adu(unit: int, pdu: bytes, tid: int = 1, protocol: int = 0, length: int | None = None) -> bytes:
    """An ADU, also a wrong one."""
    return struct.pack(">HHHB", tid, protocol, len(pdu) + 1 if length is None else length, unit) + pdu


class Rights:
    """What may arrive, from the filter's own words (``Allow.as_dict``)."""

    def __init__(self, allow: Mapping[str, Any]) -> None:
        self.spans: dict[tuple[int, int], list[tuple[int, int]]] = {
            (int(one["unit"]), int(one["function"])): [(int(first), int(last)) for first, last in one["spans"]] for one in allow["reads"]}
        self.identification = {int(unit) for unit in allow["identification"]}
        if not any(self.spans.values()):
            raise CannotTell("the canary's rights have no address to read: there is no positive control")

    @property
    def units(self) -> set[int]:
        """Units of which anything may be asked."""
        return {unit for unit, _function in self.spans} | self.identification

    def first(self, unit: int) -> int:
        """The lowest address that may be read there; 0 where none may."""
        return min((low for (one, _function), found in self.spans.items() if one == unit for low, _high in found), default=0)

    def allows(self, unit: int, pdu: bytes) -> bool:
        """May this reach a device?"""
        if pdu[:1] == b"\x2b":
            return unit in self.identification and len(pdu) == 4 and pdu[1] == 14 and 1 <= pdu[2] <= 4
        if len(pdu) != 5 or pdu[0] not in (1, 2, 3, 4):
            return False
        first, count = struct.unpack(">HH", pdu[1:])
        if not 1 <= count <= (2000 if pdu[0] < 3 else 125):
            return False
        return any(low <= first and first + count <= high + 1 for low, high in self.spans.get((unit, pdu[0]), ()))

    def read(self, rng: random.Random) -> Must:
        """An allowed request, another one each time as far as the rights go."""
        unit, function = rng.choice(sorted(key for key, found in self.spans.items() if found))
        low, high = rng.choice(self.spans[unit, function])
        first = rng.randint(low, high)
        count = rng.randint(1, min(high - first + 1, 125))
        return Must(unit, struct.pack(">BHH", function, first, count))


def placed(code: int, address: int) -> bytes:
    """The body of this function at another address than 0."""
    body = bytearray(BODIES[code])
    for place in PLACES[code]:
        body[place:place + 2] = address.to_bytes(2, "big")
    return bytes(body)


def functions(rights: Rights) -> Iterator[Probe]:
    """Every function code there is, once with the body that a device would obey; those that change something at each unit."""
    lowest = min(rights.units)
    for unit in sorted(rights.units):
        for code in range(256) if unit == lowest else sorted(BODIES):
            bodies = [BODIES.get(code, b"\0\0\0\1")]
            if code == 43:
                bodies += [b"\x0e\1\0", b"\x0e\5\0", b"\x0e\1\0\0"]
            if code == 8:
                bodies.append(b"\0\4\0\0")
            if code in PLACES and rights.first(unit):
                # A filter that took it for a read would look at the address.
                bodies.append(placed(code, rights.first(unit)))
            for body in bodies:
                pdu = bytes((code,)) + body
                must = (Must(unit, pdu),) if rights.allows(unit, pdu) else ()
                yield Probe(FUNCTIONS, "unit %d, function %d, %s" % (unit, code, body.hex() or "no body"), (adu(unit, pdu),), must)


def segments(rights: Rights, rng: random.Random) -> Iterator[Probe]:
    """Every split of a frame in two, byte by byte, and two or three frames in one segment, with a write in each place."""
    unit = min(rights.units)
    write = adu(unit, WRITE)
    for place in range(1, len(write)):
        must = rights.read(rng)
        whole = adu(must.unit, must.pdu)
        yield Probe(SEGMENTS, "a read, cut after %d bytes" % place, (whole[:place], whole[place:]), (must,))
        yield Probe(SEGMENTS, "a write, cut after %d bytes" % place, (write[:place], write[place:]))
    must = rights.read(rng)
    yield Probe(SEGMENTS, "a read, byte by byte", tuple(bytes((one,)) for one in adu(must.unit, must.pdu)), (must,))
    yield Probe(SEGMENTS, "a write, byte by byte", tuple(bytes((one,)) for one in write))
    for order in ("rw", "wr", "rr", "ww", "rwr", "wrw"):
        reads = tuple(rights.read(rng) for _ in range(order.count("r")))
        left = list(reads)
        data = b"".join(write if one == "w" else adu(left[0].unit, left.pop(0).pdu) for one in order)
        name = "one segment: %s" % ", ".join({"r": "read", "w": "write"}[one] for one in order)
        yield Probe(SEGMENTS, name, (data,), reads, len(order))
        cut = len(data) - 5
        yield Probe(SEGMENTS, "%s, cut in the last frame" % name, (data[:cut], data[cut:]), reads, len(order))


def malformed(rights: Rights, rng: random.Random) -> Iterator[Probe]:
    """Wrong length, protocol id, trailing bytes; a write hidden in each."""
    unit = min(rights.units)
    read = rights.read(rng)
    write = adu(unit, WRITE)
    for protocol in (1, 0x0100, 0xFFFF):
        for name, pdu in (("read", read.pdu), ("write", WRITE)):
            yield Probe(FRAMES, "protocol id 0x%04X, %s" % (protocol, name), (adu(read.unit, pdu, protocol=protocol),), (), 0)
    for length in (0, 1, 255, 256, 0xFFFF):
        yield Probe(FRAMES, "length %d, then a write" % length, (adu(read.unit, read.pdu, length=length) + write,), (), 0)
    for length in (2, 3, 5):
        # What is left of the frame is not a header: whoever goes on reading there is led into the write.
        yield Probe(FRAMES, "length %d, too short, then a write" % length, (adu(read.unit, read.pdu, length=length) + write,), (), 0)
    for length in (7, 8, 254):
        yield Probe(FRAMES, "length %d, too long" % length, (adu(read.unit, read.pdu, length=length),), (), 0)
    hidden = adu(read.unit, read.pdu + write)
    yield Probe(FRAMES, "a write behind the read, inside its length", (hidden,))
    yield Probe(FRAMES, "one byte behind the read, inside its length", (adu(read.unit, read.pdu + b"\0"),))
    yield Probe(FRAMES, "a read without its last byte", (adu(read.unit, read.pdu[:-1]),))
    yield Probe(FRAMES, "a function and nothing else", (adu(read.unit, read.pdu[:1]),))
    yield Probe(FRAMES, "253 bytes of PDU", (adu(read.unit, read.pdu.ljust(253, b"\0")),))
    yield Probe(FRAMES, "254 bytes of PDU", (adu(read.unit, read.pdu.ljust(254, b"\0")),), (), 0)
    yield Probe(FRAMES, "a write whose header comes twice", (write[:7] + write,), (), 0)


def others(rights: Rights) -> Iterator[Probe]:
    """Units, addresses and quantities at and beyond the edges of what is allowed."""
    (unit, function), found = sorted((key, one) for key, one in rights.spans.items() if one)[0]
    plain = struct.pack(">BHH", function, found[0][0], 1)
    for other in range(256):
        if other not in rights.units:
            yield Probe(RIGHTS, "unit %d, a read and a write" % other, (adu(other, plain) + adu(other, WRITE),), (), 2)
    for (unit, function), spans in sorted(rights.spans.items()):
        most = 2000 if function < 3 else 125
        wanted = [(0, 0), (0, 65535), (65535, 2), (spans[0][0], most + 1) if spans else (0, most + 1)]
        for low, high in spans:
            wanted += [(low, 0), (low, high - low + 2), (low - 1, 1), (low - 1, 2), (high + 1, 1), (high, 2)]
        for first, count in sorted(set(wanted)):
            pdu = struct.pack(">BHH", function, first, count) if first >= 0 and first < 65536 else b""
            if pdu and not rights.allows(unit, pdu):
                yield Probe(RIGHTS, "unit %d, function %d, address %d, %d values" % (unit, function, first, count), (adu(unit, pdu),))


def probes(rights: Rights, rng: random.Random) -> list[Probe]:
    """Everything that is sent, in order."""
    return [*functions(rights), *segments(rights, rng), *malformed(rights, rng), *others(rights)]


# -- the canary's record ------------------------------------------------------------------------------------
class RecordReader:
    """Reads the record by Modbus function 3. *exchange* sends one ADU and returns the whole answer."""

    def __init__(self, exchange: Callable[[bytes], bytes]) -> None:
        self._exchange = exchange

    def _registers(self, unit: int, first: int, count: int) -> bytes:
        answer = self._exchange(adu(unit, struct.pack(">BHH", 3, first, count)))
        if len(answer) != 9 + 2 * count or answer[7] != 3 or answer[8] != 2 * count:
            raise CannotTell("the canary's record cannot be read: an answer of %d bytes to %d registers" % (len(answer), count))
        return answer[9:]

    def header(self) -> tuple[bytes, int]:
        """(which run of the canary, length of its record). Raises CannotTell."""
        head = self._registers(HEADER_UNIT, 0, 12)
        if head[:8] != MAGIC:
            raise CannotTell("what answers at the record's address is no canary of ours")
        return head[8:16], int.from_bytes(head[16:24], "big")

    def read(self, begin: int, end: int) -> bytes:
        """Bytes *begin* to *end* (exclusive) of the record. Raises CannotTell."""
        data, at = bytearray(), begin
        while at < end:
            offset = at % PAGE
            odd = offset % 2
            size = min(2 * REGISTERS, PAGE - (offset - odd), end - at + odd)
            found = self._registers(at // PAGE, (offset - odd) // 2, (size + 1) // 2)[odd:size]
            data += found
            at += len(found)
        return bytes(data)


@dataclass
class Record:
    """A part of the record: what arrived, as (connection, unit, PDU), the replies to it, who connected, and what was no frame."""

    arrived: list[tuple[int, int, bytes]] = field(default_factory=list)
    replies: list[bytes] = field(default_factory=list)
    peers: list[tuple[str, int]] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)


def understand(data: bytes) -> Record:
    """Takes the lines apart. Raises CannotTell for what is no record."""
    record = Record()
    streams: dict[int, bytes] = {}
    try:
        for line in data.splitlines():
            entry = json.loads(line)
            number = int(entry["c"])
            if "open" in entry:
                record.peers.append((str(entry["open"][0]), int(entry["open"][1])))
            elif "d" in entry:
                streams[number] = _frames(record, number, streams.get(number, b"") + bytes.fromhex(entry["d"]))
            elif "r" in entry:
                record.replies.append(bytes.fromhex(entry["r"])[7:])
            elif "end" in entry and streams.pop(number, b""):
                record.broken.append("connection %d ended within a frame" % number)
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise CannotTell("the canary's record cannot be understood: %s" % error) from error
    record.broken += ["connection %d: %s is no whole frame" % (number, rest[:32].hex()) for number, rest in sorted(streams.items()) if rest]
    return record


def _frames(record: Record, number: int, stream: bytes) -> bytes:
    """Moves whole frames of *stream* to the record, returns the rest."""
    while len(stream) >= 6:
        length = int.from_bytes(stream[4:6], "big")
        if stream[2:4] != b"\0\0" or not 2 <= length <= 254:
            record.broken.append("connection %d: %s is no Modbus header" % (number, stream[:8].hex()))
            return b""
        if len(stream) < 6 + length:
            break
        record.arrived.append((number, stream[6], stream[7:6 + length]))
        stream = stream[6 + length:]
    return stream


# -- the judgement ------------------------------------------------------------------------------------------
@dataclass
class Findings:
    """What the record says. *passed*: per check what arrived and may not; *missing*, *unasked*: the positive control; *wrong*: replies that differ."""

    passed: dict[str, list[str]] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    unasked: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    controls: int = 0


def compare(sent: Sequence[Probe], got: Sequence[Sequence[bytes]], record: Record, rights: Rights) -> Findings:
    """*got*: per probe the PDUs that the client was answered with."""
    findings = Findings()
    awaited = [(index, must) for index, probe in enumerate(sent) for must in probe.must]
    normal = [(index, pdu) for index, replies in enumerate(got) for pdu in replies if pdu and not pdu[0] & 0x80]
    told: list[tuple[int, bytes]] = []
    culprits: set[int] = set()
    at = 0
    for number, (_connection, unit, pdu) in enumerate(record.arrived):
        reply = record.replies[number] if number < len(record.replies) else b""
        if not rights.allows(unit, pdu):
            last = awaited[at - 1][0] if at else 0
            until = awaited[at][0] if at < len(awaited) else len(sent) - 1
            near = [index for index in range(last, until + 1) if bytes((unit,)) + pdu in b"".join(sent[index].chunks)]
            index = next((one for one in near if one not in culprits), near[0] if near else last)
            culprits.add(index)
            findings.passed.setdefault(sent[index].check, []).append("unit %d, %s arrived (%s)" % (unit, pdu.hex(), sent[index].name))
            continue
        if at < len(awaited) and awaited[at][1] == Must(unit, pdu):
            if reply and not reply[0] & 0x80:
                told.append((awaited[at][0], reply))
            at += 1
            findings.controls += 1
            continue
        later = next((place for place in range(at, len(awaited)) if awaited[place][1] == Must(unit, pdu)), None)
        if later is None:
            findings.unasked.append("unit %d, %s" % (unit, pdu.hex()))
            continue
        findings.missing += ["%s: %s" % (sent[index].name, must.pdu.hex()) for index, must in awaited[at:later]]
        at = later + 1
        findings.controls += 1
        told.append((awaited[later][0], reply))
    findings.missing += ["%s: %s" % (sent[index].name, must.pdu.hex()) for index, must in awaited[at:]]
    # What the answer to a frame was that should not have arrived says nothing of the filter's faith.
    normal, told = ([one for one in both if one[0] not in culprits] for both in (normal, told))
    if normal != told:
        only = [one for one in normal if one not in told] + [one for one in told if one not in normal]
        findings.wrong = ["%s: %s" % (sent[index].name, pdu.hex()) for index, pdu in only or normal]
    if record.broken:
        findings.passed.setdefault(FRAMES, []).extend(record.broken)
    return findings


def short(items: Iterable[str], most: int = 3) -> str:
    """The first few, for a reason."""
    found = list(items)
    return "; ".join(found[:most]) + ("; and %d more" % (len(found) - most) if len(found) > most else "")
