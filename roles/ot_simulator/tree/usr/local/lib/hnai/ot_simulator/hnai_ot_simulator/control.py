# SPDX-License-Identifier: Apache-2.0
"""Fault switches for tests: a file read at start and a socket for what changes while running.

File (JSON, owned by root): ``extra_namespaces``: how many foreign namespaces are registered before ours, each with decoys
of our node ids whose value is -999; ``absent_nodes``: identifiers of nodes of ours that the server does not have (any more);
``max_monitored_items_per_call`` and ``max_nodes_per_read``: limits that are enforced.
Socket: one JSON object per line in, one out: ``{"status": true}``, ``{"mute": true|false}`` (accepts, never answers),
``{"drop": true}`` (closes every connection), ``{"clock": seconds}`` (OPC UA: the device's clock is off by that),
``{"grant": id}`` / ``{"revoke": id}`` (the node's attributes say that the observer may write it), ``{"exception": code}`` /
``{"silent": true}`` (Modbus).
"""
from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any


def read_faults(path: Path | None) -> dict[str, Any]:
    """The fault file; absent = no faults. Raises ValueError when it is no JSON object."""
    if path is None or not path.exists():
        return {}
    faults = json.loads(path.read_text(encoding="utf-8") or "{}")
    if not isinstance(faults, dict):
        raise ValueError("%s: must be a JSON object" % path)
    return faults


async def serve(path: Path | None, answer: Callable[[dict[str, Any]], dict[str, Any]]) -> asyncio.AbstractServer | None:
    """Listen on the Unix socket *path* (mode 0600: root and ourselves)."""
    if path is None:
        return None
    path.unlink(missing_ok=True)

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                try:
                    result = answer(json.loads(line))
                except (ValueError, KeyError, TypeError) as error:
                    result = {"error": str(error)}
                writer.write(json.dumps(result).encode("utf-8") + b"\n")
                await writer.drain()
        finally:
            writer.close()

    mask = os.umask(0o177)
    try:
        return await asyncio.start_unix_server(talk, str(path))
    finally:
        os.umask(mask)
