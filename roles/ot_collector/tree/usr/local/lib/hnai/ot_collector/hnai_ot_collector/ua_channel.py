# SPDX-License-Identifier: Apache-2.0
"""OPC UA on asyncua 2.1: the only file that imports it.

asyncua gives transport, secure channel and the session; subscription, publishing and their watch are ours, because its own
supervisor revives sessions, recreates subscriptions and hides sequence numbers. What else is put right here: time stamps
keep their 100 ns, the server certificate is compared byte by byte before the password leaves, an abandoned connection is
reset (a half-closed one would count against the conduit's limit), and a request that is not on the list of reading
services is refused before it is serialised.
"""
from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from asyncua import Client, ua
from asyncua.client.ua_client import UaClient, UASocketProtocol
from asyncua.crypto import security_policies, uacrypto
from asyncua.ua import ua_binary
from asyncua.ua.ua_binary import struct_from_binary
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from . import asyncua_bounds, dial
from .config import OpcuaSource

log = logging.getLogger("hnai")
SESSION_S = 60
MESSAGE_LIMIT = 100 << 20
"""Most bytes of one answer, as asyncua has it until a server says otherwise."""
FILETIME_EPOCH = 116444736000000000
"""Ticks from 1601-01-01Z to 1970-01-01Z."""
READING = frozenset({
    "OpenSecureChannelRequest", "CloseSecureChannelRequest", "CreateSessionRequest", "ActivateSessionRequest",
    "CloseSessionRequest", "ReadRequest", "CreateSubscriptionRequest", "DeleteSubscriptionsRequest",
    "CreateMonitoredItemsRequest", "DeleteMonitoredItemsRequest", "PublishRequest",
})
_REJECTED = {
    ua.StatusCodes.BadIdentityTokenInvalid, ua.StatusCodes.BadIdentityTokenRejected, ua.StatusCodes.BadUserAccessDenied,
    ua.StatusCodes.BadUserSignatureInvalid,
}
_REFUSED = {
    ua.StatusCodes.BadSecurityChecksFailed, ua.StatusCodes.BadCertificateUntrusted, ua.StatusCodes.BadCertificateInvalid,
    ua.StatusCodes.BadCertificateUseNotAllowed, ua.StatusCodes.BadCertificateUriInvalid, ua.StatusCodes.BadCertificateTimeInvalid,
    ua.StatusCodes.BadTooManySessions, ua.StatusCodes.BadMaxConnectionsReached, ua.StatusCodes.BadTcpServerTooBusy,
    ua.StatusCodes.BadTcpNotEnoughResources, ua.StatusCodes.BadSecurityPolicyRejected,
}


class LinkError(Exception):
    """The connection cannot be made or is gone."""


class Refused(LinkError):
    """The server says no to us: certificate, session limit, load. Asking again soon does not help."""


class PinMismatch(Refused):
    """The server's certificate is not the pinned one."""


class IdentityRejected(Refused):
    """The server rejects user or password. *code* is its StatusCode."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


class Silent(LinkError):
    """Nothing is heard: a farewell would not be heard either."""


class TooManyPublishRequests(LinkError):
    """The server takes fewer at once than it was given; it answers the oldest so (OPC 10000-4, Publish)."""


class TooManyOperations(Exception):
    """The request asks for more than the server does in one call."""


class Forbidden(RuntimeError):
    """A request that could change something was about to be sent; a bug of ours."""


@dataclass(frozen=True)
class Value:
    """One DataValue: status uint32, times in ticks since 1970 or None."""

    value: Any
    status: int
    source_ts: int | None
    server_ts: int | None


@dataclass(frozen=True)
class Item:
    """A monitored item to create; *handle* comes back with each value."""

    handle: int
    node: Any
    sampling_ms: float
    queue: int


@dataclass(frozen=True)
class ItemResult:
    """What the server made of it; *item*: its id there."""

    status: int
    queue: int
    sampling_ms: float
    item: int = 0


@dataclass(frozen=True)
class Notification:
    """One publish response. *ended* is the status of a StatusChangeNotification, else None."""

    sequence: int
    server_time: int | None
    values: list[tuple[int, Value]]
    ended: int | None
    more: bool

    @property
    def keep_alive(self) -> bool:
        """No data: the subscription lives."""
        return not self.values and self.ended is None


class _Moment(datetime):
    """A datetime (which asyncua computes with, for its tokens) that keeps its 100-ns ticks since 1970-01-01Z."""

    ticks: int


def _unpack_moment(data: Any) -> _Moment:
    """Replaces asyncua's DateTime decoder, which cuts 100 ns to 1 microsecond."""
    filetime = int(ua_binary.Primitives.Int64.unpack(data))
    plain = ua.win_epoch_to_datetime(filetime)
    moment = _Moment(plain.year, plain.month, plain.day, plain.hour, plain.minute, plain.second, plain.microsecond, timezone.utc)
    moment.ticks = filetime - FILETIME_EPOCH
    return moment


ua_binary._DateTime.unpack = staticmethod(_unpack_moment)
_plain_structure = ua_binary.extensionobject_from_binary
_NOTIFICATIONS = (ua.DataChangeNotification, ua.StatusChangeNotification, ua.EventNotificationList)


def _unpack_structure(data: Any) -> Any:
    """A structure in a value, of another version than asyncua knows, costs its own tag: it has no value here anyway. A notification is needed whole."""
    again = data.copy()
    try:
        return _plain_structure(data)
    except Exception:
        kind = ua_binary.nodeid_from_binary(again)
        length = ua_binary.Primitives.Int32.unpack(again) if again.read(1)[0] & 1 else -1
        if not 0 <= length <= len(again) or ua.extension_objects_by_typeid.get(kind) in _NOTIFICATIONS:
            raise
        return ua.ExtensionObject(TypeId=kind)


ua_binary.extensionobject_from_binary = _unpack_structure
asyncua_bounds.bound()


def _ticks(moment: Any) -> int | None:
    """Ticks of a decoded DateTime; None when the server sent none (or 0, which says the same)."""
    if moment is None or moment.ticks == -FILETIME_EPOCH:
        return None
    return int(moment.ticks)


def check_reading(request: Any) -> None:
    """Raises Forbidden for every request that is not on the list of reading services."""
    name = type(request).__name__
    if name not in READING:
        raise Forbidden("%s is not a reading service; the collector never sends it" % name)


class _Protocol(asyncua_bounds.BoundedSocket):
    """The socket; the last place before bytes are made."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        plain = self._connection.set_channel

        def set_channel(params: Any, *rest: Any) -> None:
            # asyncua compares the end of a token with our clock: the server's may be hours behind, and each renewal would end the connection.
            params.SecurityToken.CreatedAt = datetime.now(timezone.utc)
            plain(params, *rest)

        self._connection.set_channel = set_channel

    def _send_request(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        check_reading(request)
        return super()._send_request(request, *args, **kwargs)


class _Client(UaClient):
    """asyncua's transport with our socket, dialling one address at a time."""

    async def connect_socket(self, host: str, port: int) -> None:
        try:
            await super().connect_socket(await dial.address(host, port), port)
        except (OSError, TimeoutError):
            dial.failed(host)
            raise

    def _make_protocol(self) -> UASocketProtocol:
        self.protocol = _Protocol(self._timeout, security_policy=self.security_policy)
        self.protocol.on_connection_lost = self._on_transport_lost
        self.protocol.is_session_closing = self._is_session_closing
        return self.protocol


def _link_error(error: BaseException) -> LinkError:
    """The same error in our words."""
    if isinstance(error, LinkError):
        return error
    if isinstance(error, ua.UaStatusCodeError):
        text = "%s (0x%08X)" % (error.__class__.__name__, error.code)
        return Refused(text) if error.code in _REFUSED else LinkError(text)
    if isinstance(error, (TimeoutError, asyncio.TimeoutError)):
        return LinkError("no answer in time")
    text = " ".join(str(error).split())[:200]
    return LinkError("%s: %s" % (type(error).__name__, text) if text else type(error).__name__)


def _value(data: Any) -> Value:
    variant = data.Value
    value = None if variant is None else variant.Value
    status = 0 if data.StatusCode is None else int(data.StatusCode.value)
    return Value(value, status, _ticks(data.SourceTimestamp), _ticks(data.ServerTimestamp))


_turns: dict[str, int] = {}
"""Source → which of its pins is next; only a server that is about to change its certificate has two."""


def _pins(path: Path) -> list[bytes]:
    raw = path.read_bytes()
    found = x509.load_pem_x509_certificates(raw) if raw.lstrip().startswith(b"-----") else [x509.load_der_x509_certificate(raw)]
    return [one.public_bytes(Encoding.DER) for one in found]


def _file(path: Path) -> Any:
    """A certificate or key for asyncua, by content."""
    raw = path.read_bytes()
    return uacrypto.CertProperties(raw, "pem" if raw.lstrip().startswith(b"-----") else "der")


class Channel:
    """One connection with one session and at most one subscription; never used again after an error."""

    def __init__(self, source: OpcuaSource, password: str) -> None:
        self._source, self._password = source, password
        self._client: Any = None
        self._ua: Any = None
        self._renew: asyncio.Task[None] | None = None
        self._subscription = 0
        self.pin = ""
        """sha256 of the server's certificate, once the session is open."""
        self.requests = 0

    # -- connection ---------------------------------------------------------------------------------------
    async def open(self) -> None:
        """Connect, open the channel, compare the pin, create and activate the session. Raises LinkError and its kin."""
        source = self._source
        try:
            async with asyncio.timeout(source.connect_timeout_s):
                await self._open()
        except BaseException as error:
            self.abort()
            if isinstance(error, asyncio.CancelledError):
                raise
            if not isinstance(error, IdentityRejected):
                # The request is encrypted for one certificate, so there is no asking which one the server has: the next attempt takes the other.
                _turns[source.id] = _turns.get(source.id, 0) + 1
            raise _link_error(error) from error

    async def _open(self) -> None:
        source = self._source
        client = Client(source.endpoint, timeout=source.connect_timeout_s)
        self._client, self._ua = client, _Client(source.connect_timeout_s)
        client.uaclient = self._ua
        client.application_uri = source.application_uri
        client.product_uri = "urn:hnai:ot_collector"
        client.name = client.description = "hnai-ot-collector/%s" % source.id
        client.session_timeout = int(source.session_timeout_s * 1000)
        client.secure_channel_timeout = int(source.channel_lifetime_s * 1000)
        pins = _pins(source.server_certificate)
        pin = pins[_turns.get(source.id, 0) % len(pins)]
        await client.set_security(
            getattr(security_policies, "SecurityPolicy%s" % source.policy),
            _file(source.certificate),
            _file(source.private_key),
            server_certificate=uacrypto.CertProperties(pin, "der"),
            mode=getattr(ua.MessageSecurityMode, source.mode),
        )
        await client.connect_socket()
        await client.send_hello()
        asyncua_bounds.limit(self._ua, MESSAGE_LIMIT)
        await client.open_secure_channel()
        try:
            await client.create_session()
        except ua.UaError as error:
            if "mismatch" in str(error):
                raise PinMismatch("the server's certificate is not the pinned one (%s)" % source.server_certificate) from error
            raise
        if client.security_policy.peer_certificate != pin:
            raise PinMismatch("the server's certificate is not the pinned one (%s)" % source.server_certificate)
        try:
            await client.activate_session(username=source.username or None, password=self._password or None)
        except ua.UaStatusCodeError as error:
            if error.code in _REJECTED:
                raise IdentityRejected(error.code, "%s (0x%08X) for user %s" % (
                    error.__class__.__name__, error.code, source.username or "(anonymous)")) from error
            raise
        if client.session_timeout > 1000 * SESSION_S:
            log.warning("W! %s: the server keeps a session that is lost for %d s, %d were asked for: kills of the collector may use its sessions up",
                        source.id, client.session_timeout // 1000, source.session_timeout_s)
        self.pin = hashlib.sha256(pin).hexdigest()
        self._ua.protocol.timeout = source.request_timeout_s
        self._renew = asyncio.create_task(self._renew_channel())

    async def _renew_channel(self) -> None:
        """A new token at 75 % of the channel's lifetime (OPC 10000-4, OpenSecureChannel)."""
        while True:
            await asyncio.sleep(self._client.secure_channel_timeout * 0.75 / 1000.0)
            try:
                await self._client.open_secure_channel(renew=True)
                self._ua.revolve_security_token()
            except Exception as error:
                # The channel is unusable: drop it, the readers notice at once.
                log.warning("W! %s: renewal of the secure channel: %s", self._source.id, _link_error(error))
                self.abort()
                return

    def abort(self) -> None:
        """Reset the connection; waiting requests fail at once."""
        if self._renew is not None and self._renew is not asyncio.current_task():
            self._renew.cancel()
        protocol = getattr(self._ua, "protocol", None)
        transport = getattr(protocol, "transport", None)
        if transport is not None:
            raw = transport.get_extra_info("socket")
            if raw is not None:
                with contextlib.suppress(OSError):
                    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            transport.abort()

    async def close(self, timeout_s: float) -> None:
        """Close session, channel and socket, or reset them after *timeout_s*."""
        if self._renew is not None:
            self._renew.cancel()
        try:
            async with asyncio.timeout(timeout_s):
                await self._ua.session.close_session(True)
                await self._ua.close_secure_channel()
                self._ua.disconnect_socket()
        except Exception:
            self.abort()

    async def _call(self, request: Any, response: type, timeout_s: float | None = None) -> Any:
        self.requests += 1
        try:
            data = await self._ua._send_request(request, timeout_s)
            answer = struct_from_binary(response, data)
            answer.ResponseHeader.ServiceResult.check()
        except ua.UaStatusCodeError as error:
            if error.code == ua.StatusCodes.BadTooManyOperations:
                raise TooManyOperations from error
            if error.code == ua.StatusCodes.BadTooManyPublishRequests:
                raise TooManyPublishRequests(str(_link_error(error))) from error
            raise _link_error(error) from error
        except Forbidden:
            raise
        except asyncio.CancelledError:
            raise
        except Exception as error:
            raise _link_error(error) from error
        return answer

    # -- services -----------------------------------------------------------------------------------------
    def node(self, index: int, kind: str, identifier: str) -> Any:
        """A NodeId of namespace *index*."""
        return ua.NodeId.from_string("ns=%d;%s=%s" % (index, kind, identifier))

    async def read(self, nodes: Sequence[Any]) -> list[Value]:
        """Values of *nodes*, in their order. Raises TooManyOperations."""
        request = ua.ReadRequest()
        request.Parameters.MaxAge = 0
        request.Parameters.TimestampsToReturn = ua.TimestampsToReturn.Both
        request.Parameters.NodesToRead = [
            ua.ReadValueId(NodeId=node, AttributeId=ua.AttributeIds.Value) for node in nodes]
        answer = await self._call(request, ua.ReadResponse)
        if len(answer.Results) != len(nodes):
            raise LinkError("Read: %d results for %d nodes" % (len(answer.Results), len(nodes)))
        return [_value(result) for result in answer.Results]

    async def namespaces(self) -> list[str]:
        """The server's NamespaceArray (i=2255)."""
        (value,) = await self.read([ua.NodeId(ua.ObjectIds.Server_NamespaceArray)])
        if not isinstance(value.value, list):
            raise LinkError("the server's NamespaceArray cannot be read (0x%08X)" % value.status)
        return [str(uri) for uri in value.value]

    async def operation_limits(self) -> tuple[int, int]:
        """MaxNodesPerRead (i=11705) and MaxMonitoredItemsPerCall (i=11714); 0 = not given."""
        result = []
        for identifier in (11705, 11714):
            (value,) = await self.read([ua.NodeId(identifier)])
            good = not value.status & 0x80000000 and isinstance(value.value, int)
            result.append(int(value.value) if good else 0)
        return result[0], result[1]

    async def subscribe(self) -> tuple[float, int, int]:
        """Create the subscription; returns the revised publishing interval (ms), keep-alive and lifetime counts."""
        source = self._source
        request = ua.CreateSubscriptionRequest()
        params = request.Parameters
        params.RequestedPublishingInterval = source.publishing_ms
        params.RequestedMaxKeepAliveCount = source.keepalive_count
        params.RequestedLifetimeCount = source.lifetime_count
        params.MaxNotificationsPerPublish = 0
        params.PublishingEnabled = True
        answer = (await self._call(request, ua.CreateSubscriptionResponse)).Parameters
        self._subscription = answer.SubscriptionId
        return float(answer.RevisedPublishingInterval), int(answer.RevisedMaxKeepAliveCount), int(answer.RevisedLifetimeCount)

    async def create_items(self, items: Sequence[Item]) -> list[ItemResult]:
        """Monitor *items*: source time changes count as changes, oldest dropped first. Raises TooManyOperations."""
        request = ua.CreateMonitoredItemsRequest()
        params = request.Parameters
        params.SubscriptionId = self._subscription
        params.TimestampsToReturn = ua.TimestampsToReturn.Both
        for item in items:
            trigger = ua.DataChangeFilter()
            trigger.Trigger = ua.DataChangeTrigger.StatusValueTimestamp
            wanted = ua.MonitoredItemCreateRequest()
            wanted.ItemToMonitor = ua.ReadValueId(NodeId=item.node, AttributeId=ua.AttributeIds.Value)
            wanted.MonitoringMode = ua.MonitoringMode.Reporting
            wanted.RequestedParameters.ClientHandle = item.handle
            wanted.RequestedParameters.SamplingInterval = item.sampling_ms
            wanted.RequestedParameters.QueueSize = item.queue
            wanted.RequestedParameters.DiscardOldest = True
            wanted.RequestedParameters.Filter = trigger
            params.ItemsToCreate.append(wanted)
        answer = await self._call(request, ua.CreateMonitoredItemsResponse)
        if len(answer.Results) != len(items):
            raise LinkError("CreateMonitoredItems: %d results for %d items" % (len(answer.Results), len(items)))
        return [ItemResult(int(r.StatusCode.value), int(r.RevisedQueueSize or 0), float(r.RevisedSamplingInterval or 0), int(r.MonitoredItemId or 0))
                for r in answer.Results]

    async def delete_items(self, items: Sequence[int]) -> None:
        """Monitor them no more; one that the server has forgotten already is no error."""
        request = ua.DeleteMonitoredItemsRequest()
        request.Parameters.SubscriptionId = self._subscription
        request.Parameters.MonitoredItemIds = list(items)
        await self._call(request, ua.DeleteMonitoredItemsResponse)

    async def publish(self, acknowledge: Sequence[int]) -> Notification:
        """Wait for the next notification, acknowledging the sequence numbers *acknowledge*; no time-out of its own."""
        request = ua.PublishRequest()
        request.Parameters.SubscriptionAcknowledgements = [
            ua.SubscriptionAcknowledgement(SubscriptionId=self._subscription, SequenceNumber=number) for number in acknowledge]
        answer = await self._call(request, ua.PublishResponse, 0)
        message = answer.Parameters.NotificationMessage
        values: list[tuple[int, Value]] = []
        ended: int | None = None
        for data in message.NotificationData or []:
            if isinstance(data, ua.DataChangeNotification):
                values.extend((int(item.ClientHandle), _value(item.Value)) for item in data.MonitoredItems)
            elif isinstance(data, ua.StatusChangeNotification):
                ended = int(data.Status.value)
        return Notification(int(message.SequenceNumber), _ticks(answer.ResponseHeader.Timestamp), values, ended,
                            bool(answer.Parameters.MoreNotifications))
