# SPDX-License-Identifier: Apache-2.0
"""The only place of this collection that can encode a request which changes something at an OPC UA server.

The client is the audit's closed one with exactly one door: a permit names the request, once. A permit for a write names the node as well;
what is written is its Value, whole, without an index range. A permit for a service lets one request with an empty array through.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .asyncua_reader import MISSING, ClosedClient, ClosedProtocol, Reader, Target, check_reading, text_node
from .audit_load import Budget
from .audit_types import VALUE, BadAnswer, Forbidden, LinkLost, Reading
from .write_probe import DENIED

if not MISSING:
    from asyncua import ua
    from asyncua.client.ua_client import UASocketProtocol
    from asyncua.ua.ua_binary import struct_from_binary

#: Service → (request, response, name of its array).
SERVICES: dict[str, tuple[str, str, str]] = {
    "Write": ("WriteRequest", "WriteResponse", "NodesToWrite"),
    "Call": ("CallRequest", "CallResponse", "MethodsToCall"),
    "HistoryUpdate": ("HistoryUpdateRequest", "HistoryUpdateResponse", "HistoryUpdateDetails"),
    "AddNodes": ("AddNodesRequest", "AddNodesResponse", "NodesToAdd"),
    "AddReferences": ("AddReferencesRequest", "AddReferencesResponse", "ReferencesToAdd"),
    "DeleteNodes": ("DeleteNodesRequest", "DeleteNodesResponse", "NodesToDelete"),
    "DeleteReferences": ("DeleteReferencesRequest", "DeleteReferencesResponse", "ReferencesToDelete"),
}


@dataclass(frozen=True)
class Permit:
    """One request that may pass: *service*; *node* in the form ``ns=2;s=x`` for a write, None for an empty array."""

    service: str
    node: str | None


@dataclass(frozen=True)
class Value:
    """A value with its exact OPC UA type; *kind* is the built-in type's number."""

    status: int
    kind: int
    value: Any


def array_of(request: Any, field: str) -> Any:
    """The array of a request; HistoryUpdate and others keep it in different places."""
    holder = getattr(request, "Parameters", request)
    return getattr(holder, field)


def permitted(request: Any, permit: Permit | None) -> bool:
    """Does *permit* let exactly this request through?"""
    if permit is None or type(request).__name__ != SERVICES[permit.service][0]:
        return False
    items = array_of(request, SERVICES[permit.service][2])
    if permit.node is None:
        return not items
    if permit.service != "Write" or len(items) != 1:
        return False
    one = items[0]
    return bool(one.NodeId == text_node(permit.node) and int(one.AttributeId) == VALUE and not one.IndexRange)


class OneDoorProtocol(ClosedProtocol):
    """The closed socket with one door; a permit is spent by the request that it lets through."""

    permit: Permit | None = None

    def _send_request(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        if permitted(request, self.permit):
            self.permit = None
            return UASocketProtocol._send_request(self, request, *args, **kwargs)
        check_reading(request)
        return super()._send_request(request, *args, **kwargs)


class OneDoorClient(ClosedClient):
    """asyncua's transport on it."""

    protocol_class = OneDoorProtocol


class WriteChannel(Reader):
    """The audit's reader; *canary* (``ns=2;s=x``) is set once, after the node was found to be one, and only then can be written."""

    client_class = OneDoorClient

    def __init__(self, target: Target, budget: Budget) -> None:
        super().__init__(target)
        self._canary: str | None = None
        self._budget = budget
        self.writes = 0

    def arm(self, canary: str) -> None:
        """From now on this one node can be written. Raises Forbidden for a second node."""
        if self._canary is not None and self._canary != canary:
            raise Forbidden("a second node was about to be made writable: %s after %s" % (canary, self._canary))
        self._canary = canary

    async def read(self, wanted: Sequence[tuple[Any, int]]) -> list[Reading]:
        """See Channel; no more at once than a second may see."""
        found: list[Reading] = []
        for begin in range(0, len(wanted), self._budget.per_second):
            found += await super().read(wanted[begin:begin + self._budget.per_second])
        return found

    async def _call(self, request: Any, response: type) -> Any:
        given = request.Parameters
        count = max(len(getattr(given, name, ())) for name in ("NodesToRead", "NodesToBrowse", "ContinuationPoints"))
        await self._budget.take(count)
        try:
            return await super()._call(request, response)
        finally:
            self._budget.give_back(count)

    async def value(self, node: str) -> Value:
        """Value of a node with its type."""
        request = ua.ReadRequest()
        request.Parameters.TimestampsToReturn = ua.TimestampsToReturn.Neither
        request.Parameters.NodesToRead = [ua.ReadValueId(NodeId=text_node(node), AttributeId=ua.AttributeIds.Value)]
        answer = await self._call(request, ua.ReadResponse)
        if len(answer.Results or []) != 1:
            raise BadAnswer("one value was asked, %d came" % len(answer.Results or []))
        found = answer.Results[0]
        status = 0 if found.StatusCode is None else int(found.StatusCode.value)
        variant = found.Value
        if variant is None or variant.Value is None:
            return Value(status, 0, None)
        if isinstance(variant.Value, list) or not isinstance(variant.Value, (bool, int, float, str)):
            return Value(status, -1, None)
        return Value(status, int(variant.VariantType.value), variant.Value)

    async def write(self, node: str, kind: int, value: Any) -> int:
        """StatusCode of one write of the canary's value. Raises Forbidden for any other node, BadAnswer for a fault of the service as a whole that is no
        refusal: whoever reads the node does not know then whether it was written."""
        if self._canary is None or node != self._canary:
            raise Forbidden("%s is not the canary; nothing else is ever written" % node)
        one = ua.WriteValue()
        one.NodeId, one.AttributeId = text_node(node), ua.AttributeIds.Value
        one.Value = ua.DataValue(ua.Variant(value, ua.VariantType(kind)))
        request = ua.WriteRequest()
        request.Parameters.NodesToWrite = [one]
        answer = await self._pass(Permit("Write", node), request)
        if isinstance(answer, int):
            if answer not in DENIED:
                raise BadAnswer("the Write as a whole was answered with 0x%08X, which tells nothing about rights" % answer)
            return answer
        results = answer.Results or []
        if len(results) != 1:
            raise BadAnswer("one write was asked, %d results came" % len(results))
        return int(results[0].value)

    async def empty(self, service: str) -> int:
        """StatusCode of one request of *service* with an empty array; 0 = it was processed."""
        name, _response, field = SERVICES[service]
        request = getattr(ua, name)()
        holder = getattr(request, "Parameters", request)
        setattr(holder, field, [])
        answer = await self._pass(Permit(service, None), request)
        return answer if isinstance(answer, int) else 0

    async def _pass(self, permit: Permit, request: Any) -> Any:
        """The answer, or the StatusCode of a service fault. Raises LinkLost, BadAnswer."""
        protocol = self._ua.protocol
        protocol.permit = permit
        self.writes += 1
        response = getattr(ua, SERVICES[permit.service][1])
        try:
            data = await self._ua._send_request(request, self._target.request_timeout_s)
            answer = struct_from_binary(response, data)
            answer.ResponseHeader.ServiceResult.check()
            return answer
        except ua.UaStatusCodeError as error:
            return int(error.code)
        except Forbidden:
            raise
        except (TimeoutError, OSError, ua.UaError) as error:
            raise LinkLost("no answer to %s: %s" % (permit.service, str(error) or type(error).__name__)) from error
        except Exception as error:
            raise BadAnswer("the answer to %s cannot be decoded: %s" % (permit.service, type(error).__name__)) from error
        finally:
            protocol.permit = None
