# SPDX-License-Identifier: Apache-2.0
"""The audit's channel on asyncua 2.1: the only file of the audit that imports it.

The client is closed: a request that is not on the list of reading services is refused before it is serialised, whoever asks for
it. asyncua's ways to Write, Call, HistoryUpdate, AddNodes, AddReferences, DeleteNodes and DeleteReferences all end there. The
server's certificate is compared byte by byte before the password leaves; the password leaves once.
(The collector has a closed client of its own in its program, with the list of what it needs.)
"""
from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import logging
import re
import socket
import struct
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from typing import Any
from urllib.parse import urlsplit

try:
    from asyncua import Client, ua
    from asyncua.client.ua_client import UaClient, UASocketProtocol
    from asyncua.crypto import security_policies, uacrypto
    from asyncua.ua.ua_binary import struct_from_binary, struct_to_binary
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec, rsa
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
except ImportError as error:
    MISSING: str = str(error)
    UaClient = UASocketProtocol = object
else:
    MISSING = ""

from . import asyncua_bounds, audit_codec
from .asyncua_bounds import BoundedSocket, limit
from .audit_types import (
    BAD,
    BadAnswer,
    Browsed,
    Busy,
    Certificate,
    ClearPassword,
    Closed,
    Endpoint,
    Forbidden,
    Group,
    IdentityRejected,
    LinkLost,
    Opened,
    PinMismatch,
    Reading,
    Reference,
    Refused,
    TokenPolicy,
    TooMany,
    alike,
    split,
)

READING = frozenset({
    "OpenSecureChannelRequest", "CloseSecureChannelRequest", "GetEndpointsRequest", "CreateSessionRequest", "ActivateSessionRequest",
    "CloseSessionRequest", "ReadRequest", "BrowseRequest", "BrowseNextRequest",
})
RAW = frozenset({audit_codec.READ_ID, audit_codec.BROWSE_ID, audit_codec.BROWSE_NEXT_ID})
REFERENCES_PER_NODE = 1000
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_MS = timedelta(milliseconds=1)
CLOSE_S = 0.05
MESSAGE_LIMIT = 64 << 20
"""Most bytes of one answer; a server that sends more does not end."""
OBJECTS_LIMIT = 1 << 20
"""Most bytes of an answer that asyncua decodes: it makes objects of two hundred times as many."""
# Status codes (OPC 10000-6, A.2), as numbers: this file is importable without asyncua.
SIZE = {"BadTooManyOperations": 0x80100000, "BadRequestTooLarge": 0x80B80000, "BadResponseTooLarge": 0x80B90000,
        "BadEncodingLimitsExceeded": 0x80080000, "BadTcpMessageTooLarge": 0x80800000}
BUSY = {"BadTcpServerTooBusy": 0x807D0000, "BadResourceUnavailable": 0x80040000, "BadTcpNotEnoughResources": 0x80810000,
        "BadOutOfMemory": 0x80030000}
IDENTITY = {"BadIdentityTokenInvalid": 0x80200000, "BadIdentityTokenRejected": 0x80210000, "BadUserAccessDenied": 0x801F0000,
            "BadUserSignatureInvalid": 0x80570000}
_KINDS = {0: "anonymous", 1: "username", 2: "certificate", 3: "issued"}
_MODES = {0: "Invalid", 1: "None", 2: "Sign", 3: "SignAndEncrypt"}
_TEXT = re.compile(r"^(?:ns=(\d+);)?([isgb])=(.*)$", re.DOTALL)


class _Quiet(logging.Filter):
    """asyncua logs whole messages at ERROR when a server breaks off; what matters is in our exceptions."""

    def filter(self, record: logging.LogRecord) -> bool:
        return False


def check_reading(request: Any) -> None:
    """Raises Forbidden for every request that is not on the list of reading services."""
    name = type(request).__name__
    if name not in READING:
        raise Forbidden("%s is not a reading service; the audit never sends it" % name)


if not MISSING:
    asyncua_bounds.bound()


class ClosedProtocol(BoundedSocket):
    """The socket; the last place before bytes are made. An error of the decoder ends what waits, too."""

    def _send_request(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        check_reading(request)
        return super()._send_request(request, *args, **kwargs)

    async def send_bytes(self, identifier: int, parameters: bytes, timeout: float) -> Any:
        """The answer to a Read, Browse or BrowseNext whose parameters are bytes already."""
        if identifier not in RAW:
            raise Forbidden("service %d is none of those that the audit encodes itself" % identifier)
        if self.transport is None:
            raise ConnectionError("the connection is closed")
        header = ua.RequestHeader()
        self._setup_request_header(header, timeout)
        request = struct.pack("<BBH", 1, 0, identifier) + struct_to_binary(header) + parameters
        self.revolve_security_token()
        message = self._connection.message_to_binary(request, message_type=ua.MessageType.SecureMessage, request_id=self._request_id + 1)
        self._request_id += 1
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._callbackmap[self._request_id] = future
        self.transport.write(message)
        return await asyncio.wait_for(future, timeout)

    def _process_received_data(self, data: bytes) -> None:
        try:
            super()._process_received_data(data)
        except Exception as error:
            self._fail_all_pending(ConnectionError("the answer cannot be decoded: %s" % type(error).__name__))
            self.disconnect_socket()


class ClosedClient(UaClient):
    """asyncua's transport on the closed socket."""

    protocol_class: Any = ClosedProtocol

    def _make_protocol(self) -> UASocketProtocol:
        self.protocol = self.protocol_class(self._timeout, security_policy=self.security_policy)
        self.protocol.on_connection_lost = self._on_transport_lost
        self.protocol.is_session_closing = self._is_session_closing
        for name in ("asyncua.client.ua_client.UASocketProtocol", "asyncua.client.ua_client.UaClient"):
            logger = logging.getLogger(name)
            if not any(isinstance(one, _Quiet) for one in logger.filters):
                logger.addFilter(_Quiet())
        return self.protocol


@dataclass(frozen=True)
class Target:
    """Where and as whom. Certificates and key in PEM or DER; *name* is the session's."""

    endpoint: str
    policy: str
    mode: str
    application_uri: str
    certificate: bytes
    private_key: bytes
    server_certificate: bytes
    username: str
    password: str
    name: str
    address: str = ""
    connect_timeout_s: float = 10.0
    request_timeout_s: float = 10.0
    session_timeout_s: float = 60.0
    activate: bool = True
    """False: the session is made and not logged in to."""


def throw_away(application_uri: str) -> tuple[bytes, bytes]:
    """(certificate, key) in PEM that no server can know: made now, in memory, for an hour."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "hnai audit"), x509.NameAttribute(NameOID.COMMON_NAME, "throw-away")])
    now = datetime.now(timezone.utc)
    certificate = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5)).not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(application_uri)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(True, True, True, True, False, False, False, False, False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .sign(key, hashes.SHA256()))
    return certificate.public_bytes(Encoding.PEM), key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def anonymous(target: Target) -> Target:
    """The mirror without its user."""
    return replace(target, username="", password="", name=target.name + "/anonymous")


def stranger(target: Target) -> Target:
    """Somebody whom the server has never seen; no password is in play, and no login."""
    uri = "urn:hnai:audit:throw-away"
    certificate, key = throw_away(uri)
    return replace(target, certificate=certificate, private_key=key, application_uri=uri, username="", password="", activate=False,
                   name=target.name + "/stranger")


def der(raw: bytes) -> bytes:
    """DER of one PEM or DER certificate."""
    pem = raw.lstrip().startswith(b"-----")
    certificate = x509.load_pem_x509_certificate(raw) if pem else x509.load_der_x509_certificate(raw)
    return certificate.public_bytes(Encoding.DER)


def _property(raw: bytes) -> Any:
    return uacrypto.CertProperties(raw, "pem" if raw.lstrip().startswith(b"-----") else "der")


def first_of(data: bytes) -> bytes:
    """The first certificate of *data* (DER, maybe a chain)."""
    return data[:int.from_bytes(data[2:4], "big") + 4] if data[1:2] == b"\x82" else data


def describe(data: bytes) -> Certificate:
    """What the first certificate of *data* (DER, maybe a chain) says. Raises BadAnswer."""
    try:
        first = first_of(data)
        cert = x509.load_der_x509_certificate(first)
        key = cert.public_key()
        kind = "RSA" if isinstance(key, rsa.RSAPublicKey) else "EC" if isinstance(key, ec.EllipticCurvePublicKey) else type(key).__name__
        uris: tuple[str, ...] = ()
        names: tuple[str, ...] = ()
        usage: tuple[str, ...] = ()
        extended: tuple[str, ...] = ()
        for extension in cert.extensions:
            value = extension.value
            if isinstance(value, x509.SubjectAlternativeName):
                uris = tuple(value.get_values_for_type(x509.UniformResourceIdentifier))
                names = (*value.get_values_for_type(x509.DNSName), *(str(ip) for ip in value.get_values_for_type(x509.IPAddress)))
            elif isinstance(value, x509.KeyUsage):
                usage = tuple(one for one in ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment",
                                              "key_cert_sign") if getattr(value, one))
            elif isinstance(value, x509.ExtendedKeyUsage):
                extended = tuple(one._name for one in value)
        algorithm = cert.signature_hash_algorithm
        return Certificate(
            sha256=cert.fingerprint(hashes.SHA256()).hex(), sha1=hashlib.sha1(first, usedforsecurity=False).hexdigest(),
            subject=cert.subject.rfc4514_string(), issuer=cert.issuer.rfc4514_string(),
            not_before=cert.not_valid_before_utc.timestamp(), not_after=cert.not_valid_after_utc.timestamp(), key_type=kind,
            key_bits=int(getattr(key, "key_size", 0)), signature_hash=algorithm.name if algorithm else "none", uris=uris, names=names,
            key_usage=usage, extended=extended, chain=2 if len(data) > len(first) else 1,
            key_sha256=hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest())
    except Exception as error:
        # An algorithm or a curve that nobody knows, an extension that is there twice: each is a class of its own.
        raise BadAnswer("a certificate of the server cannot be read: %s" % error) from error


def node_text(node: Any) -> str:
    """``ns=2;s=x`` of an asyncua NodeId."""
    kind = node.NodeIdType
    identifier = node.Identifier
    if kind in (ua.NodeIdType.TwoByte, ua.NodeIdType.FourByte, ua.NodeIdType.Numeric):
        return "ns=%d;i=%d" % (node.NamespaceIndex, identifier)
    if kind == ua.NodeIdType.String:
        return "ns=%d;s=%s" % (node.NamespaceIndex, identifier)
    if kind == ua.NodeIdType.Guid:
        return "ns=%d;g=%s" % (node.NamespaceIndex, identifier)
    return "ns=%d;b=%s" % (node.NamespaceIndex, base64.b64encode(bytes(identifier or b"")).decode("ascii"))


def text_node(text: str) -> Any:
    """The asyncua NodeId of a text form. Raises ValueError."""
    match = _TEXT.match(text)
    if match is None:
        raise ValueError("%r is no NodeId" % text)
    index, kind, identifier = int(match.group(1) or 0), match.group(2), match.group(3)
    if kind == "i":
        return ua.NodeId(int(identifier), index)
    if kind == "s":
        return ua.NodeId(identifier, index)
    if kind == "g":
        import uuid

        return ua.NodeId(uuid.UUID(identifier), index)
    return ua.NodeId(base64.b64decode(identifier, validate=True), index)


def plain(data: Any) -> Reading:
    """A DataValue in neutral values."""
    status = 0 if data.StatusCode is None else int(data.StatusCode.value)
    variant = data.Value
    value = None if variant is None else variant.Value
    if isinstance(value, list):
        value = [_scalar(one) for one in value]
    else:
        value = _scalar(value)
    return Reading(status, value)


def _scalar(value: Any) -> Any:
    if value is None or isinstance(value, (bool, str, float)):
        return value
    if isinstance(value, ua.RolePermissionType):
        return node_text(value.RoleId), int(value.Permissions or 0)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, ua.LocalizedText):
        return value.Text
    if isinstance(value, ua.NodeId):
        return node_text(value)
    if isinstance(value, ua.EUInformation):
        return {"name": value.DisplayName.Text or "", "namespace": value.NamespaceUri or "", "id": int(value.UnitId)}
    if isinstance(value, ua.Range):
        return {"low": float(value.Low), "high": float(value.High)}
    if isinstance(value, ua.EnumValueType):
        return {"value": int(value.Value), "name": value.DisplayName.Text or ""}
    if isinstance(value, ua.EnumDefinition):
        return [{"value": int(one.Value), "name": str(one.Name or "")} for one in value.Fields or []]
    if isinstance(value, datetime):
        return value.replace(tzinfo=None).isoformat(" ")
    return str(value)


def endpoint_of(one: Any) -> Endpoint:
    """An EndpointDescription in neutral values."""
    return Endpoint(
        url=str(one.EndpointUrl or ""), mode=_MODES.get(int(one.SecurityMode), "Invalid"), policy=str(one.SecurityPolicyUri or ""),
        application_uri=str(one.Server.ApplicationUri or ""),
        # Not described: one that we cannot read, of a policy that we do not use, is no fault.
        certificate_sha256=hashlib.sha256(first_of(bytes(one.ServerCertificate))).hexdigest() if one.ServerCertificate else "",
        tokens=tuple(TokenPolicy(str(token.PolicyId or ""), _KINDS.get(int(token.TokenType), "issued"), str(token.SecurityPolicyUri or ""))
                     for token in one.UserIdentityTokens or []))


def bearable(size: int) -> None:
    """Raises TooMany for an answer that asyncua is not given: fewer at a time, then."""
    if size > OBJECTS_LIMIT:
        raise TooMany("an answer of %d bytes" % size)


def abrupt(link: Any) -> Any:
    """The transport of a ClosedClient, if it has one. Whoever ends the connection now, we reset it: nothing half-closed counts against the conduit."""
    transport = getattr(getattr(link, "protocol", None), "transport", None)
    raw = transport.get_extra_info("socket") if transport is not None else None
    if raw is not None:
        with contextlib.suppress(OSError):
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return transport


def reset(link: Any) -> None:
    """Reset the connection of a ClosedClient."""
    transport = abrupt(link)
    if transport is not None:
        transport.abort()


class Reader:
    """One connection with one session; ``open`` works once. Implements ``audit_types.Channel``."""

    client_class: Any = ClosedClient

    def __init__(self, target: Target) -> None:
        self._target = target
        self._client: Any = None
        self._ua: Any = None
        self._renew: asyncio.Task[None] | None = None
        self._used = self._dialled = False
        self._table: Sequence[str] = ()

    # -- connection ---------------------------------------------------------------------------------------
    async def open(self) -> Opened:
        """See Channel. Raises AuditError; a second call raises Forbidden."""
        if self._used:
            raise Forbidden("a second connection was about to be made; the audit has one")
        self._used = True
        try:
            return await asyncio.wait_for(self._open(), self._target.connect_timeout_s * 2)
        except (asyncio.TimeoutError, TimeoutError) as error:
            raise LinkLost("no answer from %s in %.0f s" % (self._target.endpoint, self._target.connect_timeout_s)) from error
        except ua.UaStatusCodeError as error:
            raise Refused("the server refuses: %s (0x%08X)" % (error.__class__.__name__, error.code), error.code) from error
        except ua.UaError as error:
            if "mismatch" in str(error):
                raise PinMismatch("the server's certificate is not the pinned one; the password was not sent") from error
            raise LinkLost("%s: %s" % (type(error).__name__, str(error)[:200])) from error
        except OSError as error:
            if self._dialled:
                raise Closed("%s closed the connection: %s" % (self._target.endpoint, error)) from error
            raise LinkLost("no connection to %s: %s" % (self._target.endpoint, error)) from error

    async def _open(self) -> Opened:
        target = self._target
        client = Client(target.endpoint, timeout=target.connect_timeout_s)
        self._client, self._ua = client, self.client_class(target.connect_timeout_s)
        client.uaclient = self._ua
        client.application_uri = target.application_uri
        client.product_uri = "urn:hnai:opcua_audit"
        client.name = client.description = target.name
        client.session_timeout = int(target.session_timeout_s * 1000)
        pin = der(target.server_certificate)
        await client.set_security(
            getattr(security_policies, "SecurityPolicy%s" % target.policy.replace("_", "")), _property(target.certificate),
            _property(target.private_key), server_certificate=uacrypto.CertProperties(pin, "der"),
            mode=getattr(ua.MessageSecurityMode, target.mode))
        where = urlsplit(target.endpoint)
        await self._ua.connect_socket(target.address or str(where.hostname), where.port or 4840)
        self._dialled = True
        client.max_messagesize = MESSAGE_LIMIT
        await client.send_hello()
        limit(self._ua, OBJECTS_LIMIT)
        await client.open_secure_channel()
        parameters = ua.GetEndpointsParameters()
        parameters.EndpointUrl = target.endpoint
        endpoints = await self._ua.get_endpoints(parameters)
        session = await client.create_session()
        if client.security_policy.peer_certificate != pin:
            raise PinMismatch("the server's certificate is not the pinned one; the password was not sent")
        self._no_clear_password(session.ServerEndpoints)
        try:
            if target.activate:
                await client.activate_session(username=target.username or None, password=target.password or None)
        except ua.UaStatusCodeError as error:
            if error.code in IDENTITY.values():
                raise IdentityRejected("%s (0x%08X) for user %s; nobody tries again" % (
                    error.__class__.__name__, error.code, target.username or "(anonymous)"), error.code) from error
            raise
        limit(self._ua, MESSAGE_LIMIT)
        self._ua.protocol.timeout = target.request_timeout_s
        self._renew = asyncio.ensure_future(self._renew_channel())
        return Opened(
            endpoints=[endpoint_of(one) for one in endpoints], session_endpoints=[endpoint_of(one) for one in session.ServerEndpoints],
            server=describe(pin), client=describe(der(target.certificate)), session_name=target.name,
            session_timeout_s=float(session.RevisedSessionTimeout or 0) / 1000.0)

    def _no_clear_password(self, endpoints: Sequence[Any]) -> None:
        target = self._target
        if not target.username or target.mode == "SignAndEncrypt":
            return
        endpoint = Client.find_endpoint(endpoints, self._client.security_policy.Mode, self._client.security_policy.URI)
        for token in endpoint.UserIdentityTokens:
            effective = token.SecurityPolicyUri or endpoint.SecurityPolicyUri
            if token.TokenType == ua.UserTokenType.UserName and str(effective).endswith("#None"):
                raise ClearPassword("the server takes the password in clear over %s; it was not sent" % target.mode)

    async def _renew_channel(self) -> None:
        """A new token at 75 % of the channel's lifetime."""
        while True:
            await asyncio.sleep(self._client.secure_channel_timeout * 0.75 / 1000.0)
            try:
                await self._client.open_secure_channel(renew=True)
                self._ua.revolve_security_token()
            except Exception:
                # The channel is unusable: what waits fails with the connection.
                self._abort()
                return

    def _abort(self) -> None:
        reset(self._ua)

    async def close(self) -> None:
        """See Channel."""
        if self._renew is not None:
            self._renew.cancel()
        if self._ua is None or self._ua.protocol is None:
            return
        try:
            await asyncio.wait_for(self._close(), 5.0)
        except (Exception, asyncio.CancelledError):
            self._abort()

    async def _close(self) -> None:
        await self._ua.session.close_session(True)
        gone = asyncio.Event()
        self._ua.protocol.on_connection_lost = lambda _: gone.set()
        await self._ua.close_secure_channel()
        abrupt(self._ua)
        # A server that has it hangs up (OPC 10000-6, 7.1.4); one that does not is not waited for.
        with contextlib.suppress(asyncio.TimeoutError, TimeoutError):
            await asyncio.wait_for(gone.wait(), CLOSE_S)
        self._abort()

    async def _call(self, request: Any, response: type) -> Any:
        async def ask() -> Any:
            data = await self._ua._send_request(request, self._target.request_timeout_s)
            bearable(len(data))
            if response is ua.ReadResponse:
                # Six bytes can be two thousand million nulls to asyncua.
                whole = bytes(data)
                status, begin = audit_codec.header(whole)
                ua.StatusCode(status).check()
                audit_codec.Decoder(whole[begin:]).survivable()
            answer = struct_from_binary(response, data)
            answer.ResponseHeader.ServiceResult.check()
            return answer

        return await self._guarded(type(request).__name__, ask)

    async def _guarded(self, name: str, ask: Callable[[], Awaitable[Any]]) -> Any:
        """What *ask* returns; whatever goes wrong, in the words of the audit."""
        try:
            return await ask()
        except ua.UaStatusCodeError as error:
            status = "%s (0x%08X)" % (error.__class__.__name__, error.code)
            if error.code in SIZE.values():
                raise TooMany(status) from error
            if error.code in BUSY.values():
                raise Busy(status) from error
            raise LinkLost("%s ends the audit: %s" % (name, status)) from error
        except (Forbidden, TooMany):
            raise
        except (asyncio.TimeoutError, TimeoutError) as error:
            raise LinkLost("no answer to %s in %.0f s" % (name, self._target.request_timeout_s)) from error
        except (OSError, ua.UaError) as error:
            raise LinkLost("the connection is gone: %s" % (" ".join(str(error).split())[:200] or type(error).__name__)) from error
        except Exception as error:
            raise BadAnswer("the answer to %s cannot be decoded: %s: %s" % (
                name, type(error).__name__, " ".join(str(error).split())[:200])) from error

    # -- services -----------------------------------------------------------------------------------------
    def know(self, table: Sequence[str]) -> None:
        """See Channel."""
        self._table = table

    def node(self, text: str) -> Any:
        """See Channel."""
        return text_node(text)

    def text(self, node: Any) -> str:
        """See Channel."""
        return node_text(node)

    def texts(self, nodes: Sequence[Any], head: Callable[[int], str]) -> Iterable[tuple[int, Sequence[Any], list[str]]]:
        """See Channel."""
        for node in nodes:
            index, identifier = split(node_text(node))
            yield index, [node], [head(index) + identifier]

    async def read(self, wanted: Sequence[tuple[Any, int]]) -> list[Reading]:
        """See Channel."""
        request = ua.ReadRequest()
        request.Parameters.MaxAge = 0
        request.Parameters.TimestampsToReturn = ua.TimestampsToReturn.Neither
        request.Parameters.NodesToRead = [ua.ReadValueId(NodeId=node, AttributeId=ua.AttributeIds(attribute)) for node, attribute in wanted]
        answer = await self._call(request, ua.ReadResponse)
        return [plain(one) for one in answer.Results or []]

    async def timed(self, nodes: Sequence[Any]) -> list[tuple[int | None, Any, int]]:
        """(source time in ms since 1970 or None, plain value, status) of each node's value. A time is cut to ms, not rounded."""
        request = ua.ReadRequest()
        request.Parameters.MaxAge = 0
        request.Parameters.TimestampsToReturn = ua.TimestampsToReturn.Source
        request.Parameters.NodesToRead = [ua.ReadValueId(NodeId=node, AttributeId=ua.AttributeIds.Value) for node in nodes]
        answer = await self._call(request, ua.ReadResponse)
        found = []
        for one in answer.Results or []:
            moment, reading = one.SourceTimestamp, plain(one)
            # asyncua gives aware or naive UTC times, by its version.
            since = None if moment is None else moment.replace(tzinfo=timezone.utc) - _EPOCH
            found.append((None if since is None else since // _MS, reading.value, reading.status))
        return found

    async def read_groups(self, groups: Sequence[Group]) -> list[tuple[Reading, ...]]:
        """See Channel."""
        wanted = [(node, attribute) for nodes, attributes in groups for node in nodes for attribute in attributes]
        answer = await self.read(wanted)
        if len(answer) != len(wanted):
            raise BadAnswer("Read: %d results for %d operations" % (len(answer), len(wanted)))
        return by_node(groups, answer)

    async def browse(self, nodes: Sequence[Any]) -> list[Browsed]:
        """See Channel."""
        request = ua.BrowseRequest()
        request.Parameters.RequestedMaxReferencesPerNode = REFERENCES_PER_NODE
        for node in nodes:
            one = ua.BrowseDescription()
            one.NodeId = node
            one.BrowseDirection = ua.BrowseDirection.Forward
            one.ReferenceTypeId = ua.NodeId()
            one.IncludeSubtypes = True
            one.NodeClassMask = 0
            one.ResultMask = audit_codec.RESULTS
            request.Parameters.NodesToBrowse.append(one)
        answer = await self._call(request, ua.BrowseResponse)
        return [self._browsed(one, self._table) for one in answer.Results or []]

    async def browse_next(self, points: Sequence[bytes], release: bool) -> list[Browsed]:
        """See Channel."""
        request = ua.BrowseNextRequest()
        request.Parameters.ReleaseContinuationPoints = release
        request.Parameters.ContinuationPoints = list(points)
        answer = await self._call(request, ua.BrowseNextResponse)
        return [self._browsed(one, self._table) for one in answer.Parameters.Results or []]

    @staticmethod
    def _browsed(one: Any, table: Sequence[str] = ()) -> Browsed:
        status = int(one.StatusCode.value)
        if status & BAD:
            return Browsed(status)
        return Browsed(status, alike(_reference(reference, table) for reference in one.References or []), bytes(one.ContinuationPoint or b""))


def by_node(groups: Sequence[Group], answer: Iterable[Reading]) -> list[tuple[Reading, ...]]:
    """What was read of each node of each group; what is missing in *answer* is missing there."""
    one = iter(answer)
    return [tuple(reading for _, reading in zip(attributes, one)) for nodes, attributes in groups for _ in nodes]


def _reference(one: Any, table: Sequence[str]) -> Reference:
    target = one.NodeId
    index, uri, remote = target.NamespaceIndex, getattr(target, "NamespaceUri", None), bool(getattr(target, "ServerIndex", 0))
    if uri and not remote:
        if uri not in table:
            raise BadAnswer("a node in the namespace %.100s, which the NamespaceArray does not have" % uri)
        index = table.index(uri)
    kind = target.NodeIdType if index == target.NamespaceIndex or target.NodeIdType.value > 2 else ua.NodeIdType.Numeric
    node = ua.NodeId(target.Identifier, index, kind)
    name = one.BrowseName
    return Reference(
        node=node, node_class=int(one.NodeClass or 0), name=str(name.Name or "") if name is not None else "",
        namespace=int(name.NamespaceIndex or 0) if name is not None else 0,
        type_definition=node_text(one.TypeDefinition) if one.TypeDefinition is not None else "",
        reference_type=node_text(one.ReferenceTypeId), remote=remote)


class FastReader(Reader):
    """The same on bytes: nodes are the bytes of their NodeIds. What the codec does not expect, asyncua decodes."""

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        self._known = audit_codec.Known()
        self.surprises = 0

    def know(self, table: Sequence[str]) -> None:
        """See Channel."""
        super().know(table)
        self._known.table = table

    def node(self, text: str) -> bytes:
        """See Channel."""
        return audit_codec.from_text(text)

    def text(self, node: bytes) -> str:
        """See Channel."""
        return audit_codec.to_text(node)

    def texts(self, nodes: Sequence[bytes], head: Callable[[int], str]) -> Iterable[tuple[int, Sequence[bytes], list[str]]]:
        """See Channel."""
        return audit_codec.texts(nodes, head)

    async def _raw(self, name: str, identifier: int, parameters: bytes, response: type, decode: Callable[[audit_codec.Decoder], Any],
                   plainly: Callable[[Any], Any]) -> Any:
        async def ask() -> Any:
            whole = await self._ua.protocol.send_bytes(identifier, parameters, self._target.request_timeout_s)
            data = bytes(whole)
            status, begin = audit_codec.header(data)
            ua.StatusCode(status).check()
            try:
                return decode(audit_codec.Decoder(data[begin:], self._known))
            except audit_codec.Broken:
                raise
            except audit_codec.Surprise:
                bearable(len(data))
                if response is ua.ReadResponse:
                    audit_codec.Decoder(data[begin:]).survivable()
                self.surprises += 1
                return plainly(struct_from_binary(response, whole))

        return await self._guarded(name, ask)

    async def read(self, wanted: Sequence[tuple[Any, int]]) -> list[Reading]:
        """See Channel."""
        answer: list[Reading] = await self._raw(
            "ReadRequest", audit_codec.READ_ID, audit_codec.read_request(wanted), ua.ReadResponse, audit_codec.Decoder.read,
            lambda one: [plain(result) for result in one.Results or []])
        return answer

    async def read_groups(self, groups: Sequence[Group]) -> list[tuple[Reading, ...]]:
        """See Channel."""
        found: list[tuple[Reading, ...]] = await self._raw(
            "ReadRequest", audit_codec.READ_ID, audit_codec.groups_request(groups), ua.ReadResponse, lambda decoder: decoder.groups(groups),
            lambda one: by_node(groups, [plain(result) for result in one.Results or []]))
        return found

    async def browse(self, nodes: Sequence[Any]) -> list[Browsed]:
        """See Channel."""
        answer: list[Browsed] = await self._raw(
            "BrowseRequest", audit_codec.BROWSE_ID, audit_codec.browse_request(nodes, REFERENCES_PER_NODE), ua.BrowseResponse,
            audit_codec.Decoder.browse, lambda one: [self._keyed(self._browsed(result, self._table)) for result in one.Results or []])
        return answer

    async def browse_next(self, points: Sequence[bytes], release: bool) -> list[Browsed]:
        """See Channel."""
        answer: list[Browsed] = await self._raw(
            "BrowseNextRequest", audit_codec.BROWSE_NEXT_ID, audit_codec.browse_next_request(points, release), ua.BrowseNextResponse,
            audit_codec.Decoder.browse, lambda one: [self._keyed(self._browsed(result, self._table)) for result in one.Parameters.Results or []])
        return answer

    @staticmethod
    def _keyed(one: Browsed) -> Browsed:
        """asyncua's nodes as bytes."""
        return one._replace(references=[run._replace(nodes=[audit_codec.from_text(node_text(node)) for node in run.nodes]) for run in one.references])
