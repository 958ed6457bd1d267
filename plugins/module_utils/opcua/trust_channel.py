# SPDX-License-Identifier: Apache-2.0
"""What a server presents, asked without a session: one connection, GetEndpoints over a channel without security, reset at the end.

The closed client of the audit: nothing but reading services can be sent. Nothing secret is sent either: no certificate of ours, no user.
"""
from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from .asyncua_bounds import limit
from .asyncua_reader import MISSING, OBJECTS_LIMIT, ClosedClient, endpoint_of, reset
from .audit_types import AuditError, Endpoint, LinkLost, Refused

if not MISSING:
    from asyncua import Client, ua


@dataclass(frozen=True)
class Presented:
    """*endpoints* of the server; *certificate*: DER of the one that it presents at the endpoint in use, empty = there is none."""

    endpoints: tuple[Endpoint, ...]
    certificate: bytes
    application_uri: str


async def _ask(endpoint: str, address: str, policy: str, mode: str, timeout_s: float) -> Presented:
    client = Client(endpoint, timeout=timeout_s)
    link: Any = ClosedClient(timeout_s)
    client.uaclient = link
    where = urlsplit(endpoint)
    try:
        await link.connect_socket(address or str(where.hostname), where.port or 4840)
        await client.send_hello()
        limit(link, OBJECTS_LIMIT)
        await client.open_secure_channel()
        parameters = ua.GetEndpointsParameters()
        parameters.EndpointUrl = endpoint
        found = await link.get_endpoints(parameters)
        await link.close_secure_channel()
        await asyncio.sleep(0.05)
    finally:
        reset(link)
    wanted = [one for one in found if str(one.SecurityPolicyUri or "").endswith("#" + policy) and one.SecurityMode == getattr(ua.MessageSecurityMode, mode)]
    if not wanted:
        raise AuditError("the server offers no endpoint with %s/%s" % (policy, mode))
    return Presented(tuple(endpoint_of(one) for one in found), bytes(wanted[0].ServerCertificate or b""), str(wanted[0].Server.ApplicationUri or ""))


def presented(endpoint: str, address: str, policy: str, mode: str, timeout_s: float = 10.0) -> Presented:
    """Ask once. Raises AuditError."""
    try:
        return asyncio.run(asyncio.wait_for(_ask(endpoint, address, policy, mode, timeout_s), timeout_s * 2))
    except (asyncio.TimeoutError, TimeoutError) as error:
        raise LinkLost("no answer from %s in %.0f s" % (endpoint, timeout_s)) from error
    except ua.UaStatusCodeError as error:
        raise Refused("the server tells its endpoints to nobody without security: %s (0x%08X)" % (error.__class__.__name__, error.code)) from error
    except ua.UaError as error:
        raise LinkLost("%s: %s" % (type(error).__name__, str(error)[:200])) from error
    except OSError as error:
        raise LinkLost("no connection to %s: %s" % (endpoint, error)) from error
