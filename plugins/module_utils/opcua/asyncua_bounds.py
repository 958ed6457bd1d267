# SPDX-License-Identifier: Apache-2.0
"""What asyncua 2.1 does not bound of what a server sent: chunks without an end, lengths below nothing, elements that take no bytes, and places of a
matrix that has none.

Lies with the audits and with the collector. OPC 10000-6, 5.2.2.4 and 5.2.5: a length is -1 (null) or the number of what follows.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

try:
    from asyncua import ua
    from asyncua.client.ua_client import UASocketProtocol
    from asyncua.common.utils import Buffer, NotEnoughData
    from asyncua.ua import ua_binary
except ImportError:
    # asyncua_reader says what is missing.
    ua = Buffer = NotEnoughData = ua_binary = None
    UASocketProtocol = object

CHUNK_LIMIT = 1 << 20
"""Most bytes of one chunk."""


def _forwards(move: Callable[[Any, int], Any]) -> Callable[[Any, int], Any]:
    """A length below nothing (-15 of a text) leads asyncua back to bytes that it has read; in an array of so many elements for hours."""

    def forwards(self: Any, size: int) -> Any:
        if size < 0:
            raise NotEnoughData("a length of %d" % size)
        return move(self, size)

    return forwards


def _counted(make: Callable[[Any], Callable[[Any], Any]]) -> Callable[[Any], Callable[[Any], Any]]:
    """An array announces no more elements than there are bytes: of nulls, which take none, asyncua would make as many as it is told."""

    def made(kind: Any) -> Callable[[Any], Any]:
        decode, bare = make(kind), kind == ua.VariantType.Null

        def counted(data: Any) -> Any:
            if isinstance(data, Buffer):
                count = int.from_bytes(data.copy(4).read(4), "little", signed=True)
                if count > (0 if bare else len(data)):
                    raise NotEnoughData("%d elements in %d bytes" % (count, len(data)))
            return decode(data)

        return counted

    return made


def bound() -> None:
    """Bounds asyncua's decoder in this process, before it decodes anything. Raises NotEnoughData from then on, in the decoder."""
    Buffer.read, Buffer.skip = _forwards(Buffer.read), _forwards(Buffer.skip)
    ua_binary._create_uatype_array_deserializer = _counted(ua_binary._create_uatype_array_deserializer)
    # A matrix stays the row of values that it came as: nobody here reads one, and the dimensions are a server's word for up to a million empty places.
    ua_binary._reshape = lambda flat, _dimensions: flat


def limit(link: Any, size: int) -> None:
    """Most bytes of one answer to a UaClient that has said hello. The server's acknowledgement had put its own limits there, which may be none."""
    limits = link.protocol._connection._limits
    limits.max_message_size, limits.max_chunk_count, limits.max_recv_buffer = size, size // 4096, CHUNK_LIMIT


class BoundedSocket(UASocketProtocol):
    """asyncua keeps what has come of a chunk until all of it is there, and looks at its limits afterwards: up to 4 GiB by the server's word."""

    def _process_received_data(self, data: bytes) -> None:
        size = int.from_bytes(data[4:8], "little")
        if len(data) >= 8 and size > CHUNK_LIMIT:
            self._fail_all_pending(ConnectionError("the server announces a chunk of %d bytes" % size))
            self.disconnect_socket()
            return
        super()._process_received_data(data)
