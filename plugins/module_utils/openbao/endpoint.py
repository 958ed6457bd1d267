# SPDX-License-Identifier: Apache-2.0
"""The address of a server that somebody else runs, as an inventory says it."""

from __future__ import annotations

from urllib.parse import urlsplit


def endpoint(address: object) -> tuple[str, int]:
    """(host, port) of ``https://host:port``. Raises ValueError saying what is wrong; never with the text, which may hold a password."""
    if not isinstance(address, str):
        raise ValueError("is no text")
    try:
        parts = urlsplit(address)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ValueError("is no address") from None
    if parts.scheme != "https":
        raise ValueError("is not https")
    if "@" in parts.netloc:
        raise ValueError("holds a login: whoever reads the inventory has it")
    if not host or not port:
        raise ValueError("names no %s" % ("port" if host else "host"))
    if parts.path not in ("", "/") or parts.query or parts.fragment or "?" in address or "#" in address:
        raise ValueError("is more than a host and a port")
    if address.strip() != address or any(character.isspace() for character in address):
        raise ValueError("holds a space")
    return host, port
