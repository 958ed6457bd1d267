# SPDX-License-Identifier: Apache-2.0
"""Runs on the collector's host as root: asks an OPC UA server for a session without saying who asks.

usage: - URL SERVER_CERT_PEM CLIENT_CERT_PEM CLIENT_KEY_PEM      one JSON object {way: the server's refusal, or "let in"}

Two attempts, two connections: a server in a plant has few. No user is tried twice, and no password at all.
"""
from __future__ import annotations

import asyncio
import glob
import json
import logging
import sys

sys.path[:0] = glob.glob("/opt/hnai/probe/current/lib/python%d.%d/site-packages" % sys.version_info[:2])


async def attempt(url: str, security: tuple[str, str, str] | None) -> str:
    """One session as nobody; with the collector's application certificate, or without any security."""
    from asyncua import Client, ua
    from asyncua.crypto.security_policies import SecurityPolicyBasic256Sha256

    client = Client(url, timeout=8)
    client.name = "hnai test"
    if security:
        server, certificate, key = security
        await client.set_security(SecurityPolicyBasic256Sha256, certificate, key, server_certificate=server, mode=ua.MessageSecurityMode.SignAndEncrypt)
    try:
        await asyncio.wait_for(client.connect(), 15)
    except Exception as error:  # the kind of refusal is what is asked for
        return "%s: %s" % (type(error).__name__, str(error)[:200])
    await client.disconnect()
    return "let in"


async def all_ways(url: str, *security: str) -> dict[str, str]:
    return {"no security, anonymous": await attempt(url, None), "trusted application, anonymous": await attempt(url, security)}  # type: ignore[arg-type]


logging.disable(logging.CRITICAL)
json.dump(asyncio.run(all_ways(*sys.argv[1:])), sys.stdout)
