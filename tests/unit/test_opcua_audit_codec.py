# SPDX-License-Identifier: Apache-2.0
"""The codec against asyncua's own encoder and decoder, and against bytes that no server should send."""
from __future__ import annotations

import struct
import uuid
from typing import Any
from unittest import mock

import pytest
from asyncua import ua
from asyncua.common.utils import Buffer
from asyncua.ua.ua_binary import nodeid_from_binary, nodeid_to_binary, struct_from_binary, struct_to_binary
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.hnai.platform.plugins.module_utils.opcua import audit_codec
from ansible_collections.hnai.platform.plugins.module_utils.opcua.asyncua_reader import Reader, node_text, plain, text_node
from ansible_collections.hnai.platform.plugins.module_utils.opcua.audit_codec import Broken, Decoder, Surprise
from ansible_collections.hnai.platform.plugins.module_utils.opcua.audit_types import BadAnswer, alike, apart

TABLE = ["urn:zero", "urn:one"]
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
NODES = st.one_of(
    st.builds(lambda index, number: ua.NodeId(number, index), st.integers(0, 65535), st.integers(0, 2**32 - 1)),
    st.builds(lambda number: ua.NodeId(number, 0, ua.NodeIdType.Numeric), st.integers(0, 300)),
    st.builds(lambda index, text: ua.NodeId(text, index), st.integers(0, 65535), TEXT),
    st.builds(lambda index, raw: ua.NodeId(uuid.UUID(bytes=raw), index), st.integers(0, 65535), st.binary(min_size=16, max_size=16)),
    st.builds(lambda index, raw: ua.NodeId(raw, index), st.integers(0, 65535), st.binary(max_size=12)),
)
VALUES = st.one_of(
    st.booleans().map(lambda value: ua.Variant(value, ua.VariantType.Boolean)),
    st.integers(0, 255).map(lambda value: ua.Variant(value, ua.VariantType.Byte)),
    st.integers(0, 65535).map(lambda value: ua.Variant(value, ua.VariantType.UInt16)),
    st.integers(0, 2**32 - 1).map(lambda value: ua.Variant(value, ua.VariantType.UInt32)),
    st.integers(-(2**31), 2**31 - 1).map(lambda value: ua.Variant(value, ua.VariantType.Int32)),
    st.lists(TEXT, max_size=4).map(lambda value: ua.Variant(value, ua.VariantType.String, is_array=True)),
    st.lists(st.tuples(NODES, st.integers(0, 2**17 - 1)), min_size=1, max_size=3).map(lambda pairs: ua.Variant(
        [ua.RolePermissionType(RoleId=node, Permissions=ua.PermissionType(granted)) for node, granted in pairs], ua.VariantType.ExtensionObject)),
)
READINGS = st.builds(lambda value, status: ua.DataValue(value, ua.StatusCode(status)), VALUES, st.sampled_from([0, 0x80350000, 0x40000000]))


def body(response: Any) -> bytes:
    """What follows the ResponseHeader."""
    data = Buffer(struct_to_binary(response))
    nodeid_from_binary(data)
    struct_from_binary(ua.ResponseHeader, data)
    return bytes(data)


@given(NODES)
def test_nodes_there_and_back(node: Any) -> None:
    raw = nodeid_to_binary(node)
    text = node_text(node)
    mine = Decoder(raw)._node()
    assert audit_codec.to_text(mine) == text
    assert audit_codec.from_text(text) == mine
    assert nodeid_from_binary(Buffer(mine)) == node and text_node(text) == node


@given(st.lists(READINGS, max_size=6))
def test_read_as_asyncua_reads(results: list[Any]) -> None:
    response = ua.ReadResponse()
    response.Results = results
    raw = body(response)
    whole = struct_from_binary(ua.ReadResponse, Buffer(struct_to_binary(response)))
    assert Decoder(raw).read() == [plain(one) for one in whole.Results]


def references() -> Any:
    def make(node: Any, kind: Any, definition: Any, name: str, namespace: int, node_class: int, remote: int, uri: str | None) -> Any:
        one = ua.ReferenceDescription()
        target = ua.ExpandedNodeId(node.Identifier, node.NamespaceIndex, node.NodeIdType, NamespaceUri=uri, ServerIndex=remote)
        one.NodeId, one.ReferenceTypeId, one.IsForward, one.TypeDefinition = target, kind, True, definition
        one.BrowseName, one.DisplayName, one.NodeClass = ua.QualifiedName(name, namespace), ua.LocalizedText(name, "en"), ua.NodeClass(node_class)
        return one

    return st.builds(make, NODES, NODES, NODES, TEXT, st.integers(0, 32767), st.sampled_from([1, 2, 4, 8, 16, 32, 64, 128]), st.sampled_from([0, 0, 3]),
                     st.sampled_from([None, None, *TABLE]))


@given(st.lists(st.tuples(st.lists(references(), max_size=3), st.binary(max_size=6)), max_size=3))
def test_browse_as_asyncua_browses(rows: list[Any]) -> None:
    response = ua.BrowseResponse()
    response.Results = [ua.BrowseResult(ua.StatusCode(0), point or None, found) for found, point in rows]
    raw = body(response)
    whole = struct_from_binary(ua.BrowseResponse, Buffer(struct_to_binary(response)))
    known = audit_codec.Known()
    known.table = TABLE
    mine = Decoder(raw, known).browse()
    assert len(mine) == len(rows)
    for one, plainly in zip(mine, [Reader._browsed(result, TABLE) for result in whole.Results]):
        assert (one.status, one.point) == (plainly.status, plainly.point)
        assert [(audit_codec.to_text(a.node), *a[1:]) for a in apart(one.references)] == [(node_text(b.node), *b[1:]) for b in apart(plainly.references)]


#: Targets at the edges of the short forms, and kinds that are told apart.
EDGES = st.one_of(
    st.builds(lambda number, index: ua.NodeId(number, index, ua.NodeIdType.Numeric), st.sampled_from([5, 255, 256, 65535, 65536, 70000, 70001, 1 << 24]),
              st.sampled_from([0, 2, 2, 300])),
    st.builds(ua.NodeId, st.sampled_from(["a", "bb", "Tag\0", ""]), st.sampled_from([2, 2, 3])),
    st.builds(lambda number: ua.NodeId(number, 2), st.integers(1000, 1100) | st.integers(70000, 1 << 25)))

#: Type of the reference, class of the target, namespace of its name, locale of its DisplayName.
FIELDS: list[list[Any]] = [[35, 47, 1 << 20], [1, 2, 4], [2, 0, 3], ["", "", "en"]]


@st.composite
def rows_of_like(draw: Any) -> list[Any]:
    """References of one node, mostly of one kind; others differ from it in one field."""
    found: list[Any] = []
    base = [draw(st.sampled_from(some)) for some in FIELDS]
    kinds = [base, base]
    for place in draw(st.lists(st.integers(0, 3), max_size=3)):
        kinds.append([*base[:place], draw(st.sampled_from(FIELDS[place])), *base[place + 1:]])
    for node, name in draw(st.lists(st.tuples(EDGES, st.sampled_from(["Tag1", "Tag2", "Tag22", "Füll", "", None])), max_size=9)):
        kind, node_class, namespace, display = draw(st.sampled_from(kinds))
        one = ua.ReferenceDescription()
        one.NodeId, one.ReferenceTypeId, one.IsForward = ua.ExpandedNodeId(node.Identifier, node.NamespaceIndex, node.NodeIdType), ua.NodeId(kind), True
        one.BrowseName, one.NodeClass, one.TypeDefinition = ua.QualifiedName(name, namespace), ua.NodeClass(node_class), ua.ExpandedNodeId()
        one.DisplayName = ua.LocalizedText(name, display) if display else ua.LocalizedText()
        found.append(one)
    return found


@given(st.lists(rows_of_like(), min_size=1, max_size=4), st.sampled_from([1, audit_codec.FEW]))
def test_references_that_are_alike_are_read_as_each_alone(rows: list[Any], few: int) -> None:
    def browse(some: list[Any]) -> list[Any]:
        response = ua.BrowseResponse()
        response.Results = [ua.BrowseResult(ua.StatusCode(0), None, row) for row in some]
        with mock.patch.object(audit_codec, "FEW", few):
            return Decoder(body(response)).browse()

    found = browse(rows)
    assert [list(apart(one.references)) for one in found] == [[reference for one in row for reference in apart(browse([[one]])[0].references)] for row in rows]
    assert [list(one.references) for one in found] == [alike(apart(one.references)) for one in found]


@pytest.mark.parametrize("first", [1000, 65530, 131060])
def test_many_that_differ_in_number_and_name_alone(first: int) -> None:
    """Over the edges where a number takes another form, and where its upper half is another."""
    response, row = ua.BrowseResponse(), []
    for number in range(first, first + 60):
        one = ua.ReferenceDescription()
        one.NodeId, one.ReferenceTypeId, one.BrowseName = ua.ExpandedNodeId(number, 2), ua.NodeId(47), ua.QualifiedName("Tag%d" % (number % 20), 2)
        one.NodeClass, one.DisplayName, one.TypeDefinition = ua.NodeClass(2), ua.LocalizedText(), ua.ExpandedNodeId(63)
        row.append(one)
    response.Results = [ua.BrowseResult(ua.StatusCode(0), None, row)]
    ((found,),) = [one.references for one in Decoder(body(response)).browse()]
    assert [audit_codec.to_text(node) for node in found.nodes] == ["ns=2;i=%d" % number for number in range(first, first + 60)]
    assert found.names == ["Tag%d" % (number % 20) for number in range(first, first + 60)]


def test_a_name_in_another_namespace_is_not_alike() -> None:
    response, row = ua.BrowseResponse(), []
    for number, namespace in ((70000, 2), (70001, 2), (70002, 3), (70003, 2)):
        one = ua.ReferenceDescription()
        one.NodeId, one.ReferenceTypeId, one.BrowseName = ua.ExpandedNodeId(number, 2), ua.NodeId(47), ua.QualifiedName("Tag", namespace)
        one.NodeClass, one.DisplayName, one.TypeDefinition = ua.NodeClass(2), ua.LocalizedText(), ua.ExpandedNodeId()
        row.append(one)
    response.Results = [ua.BrowseResult(ua.StatusCode(0), None, row)]
    (found,) = Decoder(body(response)).browse()
    assert [(len(one.nodes), one.namespace) for one in found.references] == [(2, 2), (1, 3), (1, 2)]


class Slow(Decoder):
    """Without a short way."""

    def _references(self, count: int) -> list[Any]:
        return alike(reference for _ in range(count) for reference in apart(Decoder._references(self, 1)))


def ends(raw: bytes) -> list[Any]:
    """How both decoders end with it."""
    found: list[Any] = []
    for decoder in (Decoder, Slow):
        try:
            with mock.patch.object(audit_codec, "FEW", 1):
                found.append([(one.status, list(apart(one.references)), one.point) for one in decoder(raw).browse()])
        except Surprise as error:
            found.append(str(type(error)))
    return found


@given(st.lists(rows_of_like(), min_size=1, max_size=2), st.integers(0, 10_000), st.binary(min_size=1, max_size=5))
def test_spoilt_references_that_are_alike_are_read_as_each_alone(rows: list[Any], place: int, junk: bytes) -> None:
    """Bytes in the middle of a run: whatever comes of them, it is what the loop without a short way makes of them."""
    response = ua.BrowseResponse()
    response.Results = [ua.BrowseResult(ua.StatusCode(0), None, row) for row in rows]
    raw = bytearray(body(response))
    place %= len(raw)
    raw[place:place + len(junk)] = junk
    fast, slow = ends(bytes(raw))
    assert fast == slow


@pytest.mark.parametrize("node", [ua.NodeId(300, 2), ua.NodeId(300, 0), ua.NodeId(1 << 16 | 300, 2), ua.NodeId("Tag", 2), ua.NodeId(b"Tag", 2)])
def test_each_byte_of_a_run_counts(node: Any) -> None:
    one = ua.ReferenceDescription()
    one.NodeId, one.ReferenceTypeId, one.IsForward = ua.ExpandedNodeId(node.Identifier, node.NamespaceIndex, node.NodeIdType), ua.NodeId(47), True
    one.BrowseName, one.NodeClass, one.TypeDefinition = ua.QualifiedName("Tag", 2), ua.NodeClass(2), ua.ExpandedNodeId(63)
    response = ua.BrowseResponse()
    response.Results = [ua.BrowseResult(ua.StatusCode(0), None, [one] * 6)]
    raw = body(response)
    for place in range(len(raw)):
        for junk in ({0, 1, 0xFF, raw[place] + 1 & 0xFF} - {raw[place]}):
            fast, slow = ends(raw[:place] + bytes((junk,)) + raw[place + 1:])
            assert fast == slow, (place, junk)
    # Two places at once: a number that has a shorter form.
    length = len(struct_to_binary(one))
    for place in range(len(raw) - 2 * length, len(raw) - 1):
        fast, slow = ends(raw[:place] + b"\0\0" + raw[place + 2:])
        assert fast == slow, place


@given(st.lists(NODES, max_size=12))
def test_texts_of_many_are_those_of_each(nodes: list[Any]) -> None:
    raw = [audit_codec.from_text(node_text(node)) for node in nodes]
    found = [(index, node, text) for index, some, texts in audit_codec.texts(raw, "<%d>".__mod__) for node, text in zip(some, texts)]
    assert found == [(node.NamespaceIndex, one, "<%d>%s" % (node.NamespaceIndex, node_text(node).split(";", 1)[1])) for node, one in zip(nodes, raw)]


def test_a_node_named_by_uri_is_the_servers_own_and_in_its_table() -> None:
    """It was taken for a node of another server once, and not read."""
    response, one = ua.BrowseResponse(), ua.ReferenceDescription()
    one.NodeId = ua.ExpandedNodeId("x", 0, ua.NodeIdType.String, NamespaceUri=TABLE[1])
    one.ReferenceTypeId, one.BrowseName, one.DisplayName, one.TypeDefinition = ua.NodeId(35), ua.QualifiedName("x"), ua.LocalizedText("x"), ua.ExpandedNodeId()
    response.Results = [ua.BrowseResult(ua.StatusCode(0), None, [one])]
    known = audit_codec.Known()
    with pytest.raises(Broken, match=TABLE[1]):
        Decoder(body(response), known).browse()
    with pytest.raises(BadAnswer, match=TABLE[1]):
        Reader._browsed(response.Results[0])
    known.table = TABLE
    (found,) = Decoder(body(response), known).browse()
    (one,) = apart(found.references)
    assert (audit_codec.to_text(one.node), one.remote) == ("ns=1;s=x", False)


@given(st.lists(st.tuples(NODES, st.integers(1, 27)), min_size=1, max_size=5), st.lists(st.binary(min_size=1, max_size=9), min_size=1, max_size=3))
def test_requests_are_what_asyncua_decodes(wanted: list[Any], points: list[bytes]) -> None:
    nodes = [audit_codec.from_text(node_text(node)) for node, _ in wanted]
    read = struct_from_binary(ua.ReadParameters, Buffer(audit_codec.read_request([(raw, attribute) for raw, (_, attribute) in zip(nodes, wanted)])))
    assert [(one.NodeId, int(one.AttributeId)) for one in read.NodesToRead] == wanted and read.TimestampsToReturn == ua.TimestampsToReturn.Neither
    browse = struct_from_binary(ua.BrowseParameters, Buffer(audit_codec.browse_request(nodes, 7)))
    assert [one.NodeId for one in browse.NodesToBrowse] == [node for node, _ in wanted] and browse.RequestedMaxReferencesPerNode == 7
    assert all(one.BrowseDirection == ua.BrowseDirection.Forward and one.ReferenceTypeId.is_null() for one in browse.NodesToBrowse)
    following = struct_from_binary(ua.BrowseNextParameters, Buffer(audit_codec.browse_next_request(points, True)))
    assert following.ContinuationPoints == points and following.ReleaseContinuationPoints


@given(st.binary(max_size=200))
def test_any_bytes_end_in_a_result_or_a_surprise(data: bytes) -> None:
    for method in (Decoder.read, Decoder.browse):
        try:
            answer = method(Decoder(data))
        except Surprise:
            continue
        assert len(answer) <= len(data)


@given(st.lists(READINGS, min_size=1, max_size=4), st.integers(0, 10_000), st.integers(0, 7))
def test_a_flipped_bit_never_breaks_out(results: list[Any], place: int, bit: int) -> None:
    response = ua.ReadResponse()
    response.Results = results
    raw = bytearray(body(response))
    raw[place % len(raw)] ^= 1 << bit
    try:
        Decoder(bytes(raw)).read()
    except Surprise:
        return


@pytest.mark.parametrize("count", [2**31 - 1, 1000])
def test_a_huge_count_is_refused_before_anything_is_made(count: int) -> None:
    for method in (Decoder.read, Decoder.browse):
        with pytest.raises(Surprise, match="cannot be in"):
            method(Decoder(struct.pack("<i", count) + b"\0" * 40))
