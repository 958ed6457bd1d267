# SPDX-License-Identifier: Apache-2.0
"""One address per attempt: a name with an IPv6 and an IPv4 address must not cost two connections of the conduit's limit."""
from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable

_turn: dict[str, int] = {}


async def _resolve(host: str, port: int) -> list[str]:
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


async def address(host: str, port: int, resolve: Callable[[str, int], Awaitable[list[str]]] = _resolve) -> str:
    """The address of *host* whose turn it is. Raises OSError when the name is unknown."""
    addresses = await resolve(host, port)
    if not addresses:
        raise OSError("%s has no address" % host)
    return addresses[_turn.get(host, 0) % len(addresses)]


def failed(host: str) -> None:
    """The connection was not made: the next attempt takes the next address."""
    _turn[host] = _turn.get(host, 0) + 1
