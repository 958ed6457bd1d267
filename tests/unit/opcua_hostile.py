# SPDX-License-Identifier: Apache-2.0
"""A server made of bytes: answers the audit's own encoded requests out of a small address space, and spoils them as it is told."""
from __future__ import annotations

import asyncio
import random
import struct
from collections.abc import Callable
from datetime import datetime
from types import SimpleNamespace
from typing import Any

from asyncua import ua
from asyncua.common.utils import Buffer
from asyncua.ua.ua_binary import struct_from_binary, struct_to_binary

from ansible_collections.hnai.platform.plugins.module_utils.opcua import audit_codec, audit_run
from ansible_collections.hnai.platform.plugins.module_utils.opcua.asyncua_reader import FastReader, Target, plain
from ansible_collections.hnai.platform.plugins.module_utils.opcua.audit_types import Opened

Spoil = Callable[[bytes], bytes]
TARGET = Target("opc.tcp://127.0.0.1:1/", "Basic256Sha256", "SignAndEncrypt", "urn:x", b"", b"", b"", "", "", "fuzz")
HUGE = (0x7FFFFFFF, 0xFFFFFFFE, 0x80000000, 0x00FFFFFF, 0xFFFF)


def response(one: Any) -> bytes:
    """Encoded, header and all."""
    one.ResponseHeader.StringTable = ["a"]
    return bytes(struct_to_binary(one))


class Space:
    """Root, Objects, Types, a few nodes of each kind; NodeIds of each kind."""

    def __init__(self) -> None:
        number = ua.NodeId
        self.children: dict[Any, list[tuple[int, Any, int, str]]] = {
            number(84): [(35, number(85), 1, "Objects"), (35, number(86), 1, "Types")],
            number(85): [(47, number(70000 + i, 2), 2, "Tag%d" % i) for i in range(6)]
            + [(47, ua.NodeId("Füll", 2), 2, "Füll"), (47, ua.NodeId(b"x", 2), 4, "M")],
            number(33): [(45, number(34), 32, "a"), (45, number(35), 32, "b")], number(34): [(45, number(47), 32, "c")],
        }

    def browse(self, node: Any) -> Any:
        found = []
        for kind, target, node_class, name in [*self.children.get(node, []), (40, ua.NodeId(63), 16, "")]:
            one = ua.ReferenceDescription()
            one.ReferenceTypeId, one.IsForward, one.NodeClass = ua.NodeId(kind), True, ua.NodeClass(node_class)
            one.NodeId = ua.ExpandedNodeId(target.Identifier, target.NamespaceIndex, target.NodeIdType)
            one.BrowseName, one.DisplayName = ua.QualifiedName(name, 2), ua.LocalizedText()
            one.TypeDefinition = ua.ExpandedNodeId()
            found.append(one)
        return ua.BrowseResult(ua.StatusCode(0), None, found)

    def read(self, node: Any, attribute: int) -> Any:
        kind = {85: 1, 86: 1, 84: 1, 63: 16}.get(node.Identifier if isinstance(node.Identifier, int) else 0, 4 if node.Identifier == b"x" else 2)
        if attribute == 13:
            texts = {2255: ua.Variant(["http://opcfoundation.org/UA/", "urn:s", "urn:p"], ua.VariantType.String, is_array=True),
                     2257: ua.Variant(datetime(2026, 1, 1), ua.VariantType.DateTime)}
            texts[2259] = ua.Variant(0, ua.VariantType.Int32)
            return ua.DataValue(texts[node.Identifier]) if node.Identifier in texts else ua.DataValue(StatusCode=ua.StatusCode(0x80340000))
        values = {2: (kind, "Int32"), 21: (True, "Boolean"), 22: (False, "Boolean"), 6: (0, "UInt32"),
                  7: (0, "UInt32"), 17: (1, "Byte"), 18: (1, "Byte"), 27: (1, "UInt32")}
        if attribute == 25 and node.Identifier == 70001:
            role = ua.RolePermissionType(RoleId=ua.NodeId(15668), Permissions=ua.PermissionType(0x21))
            return ua.DataValue(ua.Variant([role], ua.VariantType.ExtensionObject))
        if attribute not in values:
            return ua.DataValue(StatusCode=ua.StatusCode(0x80350000))
        value, name = values[attribute]
        return ua.DataValue(ua.Variant(value, getattr(ua.VariantType, name)))

    def answer(self, identifier: int, parameters: bytes) -> bytes:
        """The response to a request's parameters."""
        if identifier == audit_codec.READ_ID:
            read = ua.ReadResponse()
            read.Results = [self.read(one.NodeId, int(one.AttributeId)) for one in struct_from_binary(ua.ReadParameters, Buffer(parameters)).NodesToRead]
            return response(read)
        if identifier == audit_codec.BROWSE_ID:
            browse = ua.BrowseResponse()
            browse.Results = [self.browse(one.NodeId) for one in struct_from_binary(ua.BrowseParameters, Buffer(parameters)).NodesToBrowse]
            return response(browse)
        following = ua.BrowseNextResponse()
        points = struct_from_binary(ua.BrowseNextParameters, Buffer(parameters)).ContinuationPoints
        following.Parameters.Results = [ua.BrowseResult(ua.StatusCode(0x804A0000)) for _ in points]
        return response(following)


class Hostile(FastReader):
    """The audit's reader on such a server."""

    def __init__(self, spoil: Spoil) -> None:
        super().__init__(TARGET)
        self.space, self.answers = Space(), 0

        async def send(identifier: int, parameters: bytes, timeout: float) -> Any:
            self.answers += 1
            if self.answers > 5000:
                raise ConnectionError("five thousand answers")
            return Buffer(spoil(self.space.answer(identifier, parameters)))

        self._ua = SimpleNamespace(protocol=SimpleNamespace(send_bytes=send))

    async def open(self) -> Opened:
        return Opened()

    async def close(self) -> None:
        return None


def mutate(rng: random.Random, data: bytes) -> bytes:
    """A flipped bit, a cut, a huge count, bytes of something else."""
    raw = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        at = rng.randrange(len(raw)) if raw else 0
        way = rng.randrange(6)
        if way == 0 and raw:
            raw[at] ^= 1 << rng.randrange(8)
        elif way == 1:
            del raw[at:]
        elif way == 2:
            raw[at:at + 4] = struct.pack("<I", rng.choice(HUGE))
        elif way == 3:
            raw[at:at] = rng.randbytes(rng.randrange(1, 9))
        elif way == 4:
            del raw[at:at + rng.randrange(1, 9)]
        elif raw:
            raw[at] = rng.choice((0, 0x80, 0x96, 0x97, 0x98, 0xFF, 0xC0, 0x41, 23, 24, 25))
    return bytes(raw)


def audit(spoil: Spoil) -> audit_run.Facts:
    """A whole audit; it always comes back, with a reason if it did not read everything."""
    plan = audit_run.Plan("plc1", TARGET.endpoint, "Basic256Sha256", "SignAndEncrypt", "", "urn:x", budget_per_s=10**9, in_flight=2, latency_floor_s=60.0,
                          rest_s=0.0, deadline_s=20.0)

    async def never(seconds: float) -> None:
        return None

    clock = iter(range(10**9))
    return asyncio.run(audit_run.gather(Hostile(spoil), plan, lambda: next(clock) * 1e-6, never))


def decode(data: bytes, groups: Any = (([b"\x00\x55"], (2, 6, 7)),)) -> list[str]:
    """What the reader does with the bytes of an answer, each way; what came of it."""
    ends = []
    for method in (audit_codec.Decoder.read, audit_codec.Decoder.browse, lambda one: one.groups(groups)):
        try:
            _status, begin = audit_codec.header(data)
            method(audit_codec.Decoder(data[begin:]))
            ends.append("read")
        except audit_codec.Broken:
            ends.append("broken")
        except audit_codec.Surprise:
            ends.append(library(data, begin, method is not audit_codec.Decoder.browse))
    return ends


def library(data: bytes, begin: int, read: bool) -> str:
    """What the reader leaves to asyncua."""
    try:
        if read:
            audit_codec.Decoder(data[begin:]).survivable()
            answer = struct_from_binary(ua.ReadResponse, Buffer(data)).Results or []
            assert len(answer) <= len(data)
            for one in answer:
                plain(one)
        else:
            assert len(struct_from_binary(ua.BrowseResponse, Buffer(data)).Results or []) <= len(data)
    except AssertionError:
        raise
    except Exception as error:
        return type(error).__name__
    return "library"
