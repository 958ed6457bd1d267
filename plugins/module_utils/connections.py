# SPDX-License-Identifier: Apache-2.0
"""TCP connections to ports of this host, as the kernel has them (ss of iproute2 6.1 and later)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .hostfiles import Completed, HostError


def established(run: Callable[[list[str]], Completed], ports: Sequence[int], *more: str) -> dict[str, str]:
    """{the socket's cookie: peer as `ss` prints it}, those that the peer has closed included; *more*: further options of `ss`. Raises HostError."""
    done = run(["ss", "-Htne", *more, "state", "established", "state", "close-wait", " or ".join("sport = :%d" % port for port in ports)])
    if done.rc:
        raise HostError("ss: %s" % done.message)
    lines = map(str.split, done.text.splitlines())
    return {word: words[4] for words in lines for word in words[5:] if word.startswith("sk:")}


def plain(peer: str) -> str:
    """address:port without brackets, an address of IPv4 as such."""
    address, _colon, port = peer.rpartition(":")
    return "%s:%s" % (address.strip("[]").removeprefix("::ffff:"), port)
