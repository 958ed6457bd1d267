# SPDX-License-Identifier: Apache-2.0
"""Real asyncua servers on loopback that can be spoilt in every way an audit must notice, and a proxy that records services.

asyncua does not enforce OperationLimits, knows no continuation points and keeps one attribute value for all users; here it does.
Every request that reaches the server is written down by the name of its service: the server's own record.
"""
from __future__ import annotations

import asyncio
import contextlib
import datetime
import json
import os
import pickle
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from asyncua import Server, ua
from asyncua.common.utils import ServiceError
from asyncua.crypto.permission_rules import User, UserRole
from asyncua.server import internal_server, uaprocessor
from asyncua.server.internal_session import InternalSession
from asyncua.ua.ua_binary import struct_from_binary
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from own_files import Heard

from ansible_collections.hnai.platform.plugins.module_utils import credentials
from ansible_collections.hnai.platform.plugins.module_utils.hostfiles import Completed
from ansible_collections.hnai.platform.plugins.module_utils.opcua.audit_host import Places

SERVER_URI, CLIENT_URI, PLANT = "urn:test:server", "urn:test:client", "urn:test:plant"
WRITING = {"Write", "Call", "HistoryUpdate", "AddNodes", "AddReferences", "DeleteNodes", "DeleteReferences"}
SERVICES = {
    getattr(ua.ObjectIds, name): name.removesuffix("Request_Encoding_DefaultBinary")
    for name in dir(ua.ObjectIds) if name.endswith("Request_Encoding_DefaultBinary")
}
_load_nodes = internal_server.InternalServer.load_standard_address_space
_fixes = internal_server.InternalServer._address_space_fixes
_CACHE = Path(__file__).resolve().parents[2] / ".cache" / "opcua"


def key_pair(uri: str, bits: int = 2048, days: float = 365.0, usage: Any = ExtendedKeyUsageOID.SERVER_AUTH,
             since: float = 1.0) -> tuple[bytes, bytes]:
    """(certificate PEM, key PEM) of an application, self-signed."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=bits)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, uri.rsplit(":", 1)[-1])])
    now = datetime.datetime.now(datetime.timezone.utc)
    cert = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(days=since))
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri), x509.DNSName("localhost")]), False)
        .add_extension(x509.BasicConstraints(False, None), True)
        .add_extension(x509.KeyUsage(True, True, True, True, False, False, False, False, False), True)
        .add_extension(x509.ExtendedKeyUsage([usage]), False)
        .sign(key, hashes.SHA256())
    )
    return (cert.public_bytes(serialization.Encoding.PEM),
            key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))


class Users:
    """observer/secret; nobody else."""

    def __init__(self) -> None:
        self.tries = 0
        self.password = "secret"

    def get_user(self, iserver: Any, username: Any = None, password: Any = None, certificate: Any = None) -> Any:
        self.tries += 1
        given = password.decode() if isinstance(password, bytes) else password
        if username == "observer" and given == self.password:
            return User(role=UserRole.User, name=username)
        return User(role=UserRole.Anonymous) if username is None else None


class OneHost(Heard):
    """Decrypts what the test stored in clear."""

    def asked(self, argv: list[str]) -> Completed:
        assert argv[:2] == ["systemd-creds", "decrypt"], argv
        return Completed(0, Path(argv[-2]).read_bytes(), b"")


def collecting(places: Places, now: float, pin: str = "") -> None:
    """The collector says *now* (unix s) that it has been connected for ten minutes, to a server with the certificate *pin* (sha256)."""
    places.status.write_text(json.dumps({"now": int(now * 1e7), "sources": [
        {"source": "plc-1", "protocol": "opcua", "state": "connected", "detail": "", "since": int((now - 600) * 1e7), "pin": pin}]}))


def mirrors_places(stand: Stand, folder: Path) -> Places:
    """The files of a mirror's host: its key pair and the server's pinned certificate."""
    for name in ("pki", "servers", "proc", "run"):
        (folder / name).mkdir()
    places = Places(folder / "pki", folder / "servers", folder / "run/status.json", folder / "state", folder / "proc")
    (places.pki / "cert.pem").write_bytes(stand.client_pair[0])
    (places.pki / "key.pem").write_bytes(stand.client_pair[1])
    (places.servers / "plc-1.pem").write_bytes(stand.server_pair[0])
    return places


def mirrors_host(stand: Stand, folder: Path, tags: list[dict[str, Any]]) -> Iterator[Any]:
    """(places, source, host, now): a mirror's host whose collector is connected to the stand for ten minutes; the stand is clean before and after."""
    places = mirrors_places(stand, folder)
    (places.proc / "tcp").write_text("  0: 0100007F:1111 0100007F:%04X 01\n" % stand.port)
    now = time.time()
    collecting(places, now)
    host = OneHost(str(folder / "root"))
    secret = Path(host.at(credentials.path_of("ot_collector", "opcua_plc_1_password")))
    secret.parent.mkdir(parents=True)
    secret.write_text("secret")
    source = {
        "id": "plc-1", "protocol": "opcua", "endpoint": stand.url, "identity": {"username": "observer"},
        "limits": {"connections": 2, "new_per_minute": 60}, "audit": {"per_second": 50000, "latency_floor_ms": 30000}, "tags": tags,
    }
    stand.spoil = Spoil()
    stand.services.clear()
    stand.requests = 0
    yield places, source, host, now
    stand.spoil = Spoil()


class Spoil:
    """What is wrong with a server now; a fresh one is clean."""

    def __init__(self) -> None:
        self.attributes: dict[tuple[str, int], Any] = {}
        self.max_read = self.max_browse = self.max_references = self.max_points = 0
        self.drop_after = 0
        self.mute_after = 0
        self.delay_s = 0.0
        self.slower_after: tuple[int, float] = (0, 0.0)
        self.busy_every = 0
        self.lose_points = 0
        self.endless = False
        self.wrong_count = False
        self.break_bytes_after = 0


class Stand:
    """A server in a thread of its own. ``spoil`` may be changed while it runs."""

    def __init__(self, folder: Path, policies: Any = None, tokens: Any = None, cert: tuple[bytes, bytes] | None = None, full: bool = False) -> None:
        self.folder, self.full = folder, full
        self.spoil = Spoil()
        self.services: Counter[str] = Counter()
        self.operations: list[tuple[float, int]] = []
        self.users = Users()
        self.policies = policies or [ua.SecurityPolicyType.Basic256Sha256_SignAndEncrypt]
        self.tokens = tokens or [ua.UserNameIdentityToken]
        self.server_pair = cert or key_pair(SERVER_URI)
        self.client_pair = key_pair(CLIENT_URI, usage=ExtendedKeyUsageOID.CLIENT_AUTH)
        self.loop = asyncio.new_event_loop()
        self.address, self.port = "127.0.0.1", 0
        self.server: Any = None
        self.plant: Any = None
        self.index = 0
        self.requests = 0
        self.classes: dict[str, int] = {}
        self.points: dict[bytes, list[Any]] = {}
        self.point_number = 0
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)

    # -- life ---------------------------------------------------------------------------------------------
    def start(self) -> Stand:
        self._thread.start()
        self.call(self._start())
        return self

    def stop(self) -> None:
        with contextlib.suppress(Exception):
            self.call(self.server.stop(), 10)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(5)

    def call(self, coroutine: Coroutine[Any, Any, Any], timeout: float = 60) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(timeout)

    async def _start(self) -> None:
        server = self.server = Server(user_manager=self.users)
        server.iserver.stand = self
        await server.init()
        await server.set_application_uri(SERVER_URI)
        server.set_endpoint(self.url)
        server.product_uri = "urn:test"
        for name, data in (("server.pem", self.server_pair[0]), ("server.key", self.server_pair[1])):
            (self.folder / name).write_bytes(data)
        await server.load_certificate(self.folder / "server.pem", "pem")
        await server.load_private_key(self.folder / "server.key", None, "pem")
        server.set_security_policy(self.policies)
        server.set_identity_tokens(self.tokens)
        self.index = await server.register_namespace(PLANT)
        self.plant = await server.nodes.objects.add_object(ua.NodeId("Plant", self.index), "%d:Plant" % self.index)
        await server.start()
        sockets = server.bserver._server.sockets
        self.port = sockets[0].getsockname()[1]
        for endpoint in server.iserver.endpoints:
            endpoint.EndpointUrl = self.url
        await self._honest()

    async def _honest(self) -> None:
        """A server of a plant: nothing is executable for the observer, auditing is on."""
        await self.server.get_node(ua.NodeId(2994)).write_value(ua.Variant(True, ua.VariantType.Boolean))
        for node, data in self.server.iserver.aspace._nodes.items():
            if ua.AttributeIds.UserExecutable in data.attributes and node.NamespaceIndex == 0:
                data.attributes[ua.AttributeIds.UserExecutable].value = ua.DataValue(ua.Variant(False, ua.VariantType.Boolean))

    # -- plant --------------------------------------------------------------------------------------------
    def grow(self, count: int, seed: int, depth: int = 6) -> list[str]:
        """*count* nodes below the plant at random depth: Objects, Variables, Variables under Variables, methods. Returns text forms."""
        return self.call(self._grow(count, seed, depth))

    async def _grow(self, count: int, seed: int, depth: int) -> list[str]:
        import random

        rng = random.Random(seed)
        places: list[tuple[Any, int]] = [(self.plant, 0)]
        made = []
        for number in range(count):
            parent, level = rng.choice(places[-12:] + [rng.choice(places)])
            name = "n%d_%d" % (seed, number)
            nodeid, browse = ua.NodeId(name, self.index), "%d:%s" % (self.index, name)
            kind = number % 10
            if kind == 0:
                node = await parent.add_method(nodeid, browse, _nothing, [], [])
                await node.write_attribute(ua.AttributeIds.UserExecutable, ua.DataValue(ua.Variant(False, ua.VariantType.Boolean)))
            elif kind < 3:
                node = await parent.add_object(nodeid, browse)
            else:
                node = await parent.add_variable(nodeid, browse, float(number))
            if level < depth and kind:
                places.append((node, level + 1))
            text = "ns=%d;s=%s" % (self.index, name)
            self.classes[text] = 4 if kind == 0 else 1 if kind < 3 else 2
            made.append(text)
        return made

    def set(self, text: str, attribute: int, value: Any, kind: Any = None) -> None:
        """From now on every reader sees *value*; a StatusCode int with the top bit is a status."""
        if kind is None:
            answer = ua.DataValue(StatusCode=ua.StatusCode(value))
        else:
            answer = ua.DataValue(ua.Variant(value, kind))
        self.spoil.attributes[text, attribute] = answer

    def roles(self, text: str, attribute: int, *pairs: tuple[int, int]) -> None:
        """RolePermissions or UserRolePermissions: (numeric id of the role, permissions)."""
        value = [ua.RolePermissionType(RoleId=ua.NodeId(role), Permissions=ua.PermissionType(granted)) for role, granted in pairs]
        self.spoil.attributes[text, attribute] = ua.DataValue(ua.Variant(value, ua.VariantType.ExtensionObject))

    def sessions(self) -> list[str]:
        return [str(one.name) for one in self.server.iserver._external_sessions.values()]

    def left(self) -> list[str]:
        """The sessions that stay: the server forgets one a moment after it answered its end."""
        deadline = time.monotonic() + 10
        while self.sessions() and time.monotonic() < deadline:
            time.sleep(0.02)
        return self.sessions()

    @property
    def url(self) -> str:
        return "opc.tcp://%s:%d/" % (self.address, self.port)


def _nothing(parent: Any) -> list[Any]:
    return []


def _text(node: Any) -> str:
    return "ns=%d;%s=%s" % (node.NamespaceIndex, "s" if isinstance(node.Identifier, str) else "i", node.Identifier)


# -- what asyncua's server lacks, for servers of a stand only ---------------------------------------------
_SERVER = {2253, 2254, 2255, 2256, 2257, 2258, 2259, 2260, 2261, 2262, 2263, 2264, 2265, 2266, 2267, 2268, 2269, 2274, 2275, 2277, 2735, 2992,
           2993, 2994, 3704, 3705, 3706, 3707, 3708, 11492, 11704, 11705, 11710, 11714, 11715, 12749, 12873, 15957, 15958, 15959, 24095}
_TOP = {58, 61, 62, 63, 68, 84, 85, 86, 87, 88, 90, 91}


def _small(nodes: Any) -> Any:
    """The standard address space without most of its types: an audit of it takes a second, not a minute."""
    keep = {ua.NodeId(number) for number in _SERVER | _TOP}
    level = [ua.NodeId(ua.ObjectIds.References)]
    while level:
        keep.update(level)
        level = [one.NodeId for node in level for one in nodes[node].references
                 if one.IsForward and one.ReferenceTypeId == ua.NodeId(ua.ObjectIds.HasSubtype) and one.NodeId not in keep]
    small = {node: data for node, data in nodes.items() if node in keep}
    for data in small.values():
        data.references = [one for one in data.references if one.NodeId in keep]
    return small


async def _nodes_once(self: Any, shelf_file: Any = None) -> None:
    """Building the standard address space takes seconds: once per version of asyncua, then out of a file."""
    stand = getattr(self, "stand", None)
    if stand is None:
        await _load_nodes(self, shelf_file)
        return
    path = _CACHE / ("asyncua-%s-%s.pickle" % (version("asyncua"), "full" if stand.full else "small"))
    if not path.exists():
        await _load_nodes(self, shelf_file)
        nodes = self.aspace._nodes if stand.full else _small(self.aspace._nodes)
        _CACHE.mkdir(parents=True, exist_ok=True)
        new = path.with_suffix(".%d" % os.getpid())
        new.write_bytes(pickle.dumps(nodes))
        new.rename(path)
    self.aspace._nodes = pickle.loads(path.read_bytes())


async def _no_fixes(self: Any) -> None:
    """They mend types that a small address space does not have."""
    if getattr(self, "stand", None) is None:
        await _fixes(self)


def _install() -> None:
    plain_process = uaprocessor.UaProcessor._process_message
    plain_read, plain_browse = InternalSession.read, InternalSession.browse

    async def process(self: Any, typeid: Any, requesthdr: Any, seqhdr: Any, body: Any) -> Any:
        stand = getattr(self.iserver, "stand", None)
        if stand is None:
            return await plain_process(self, typeid, requesthdr, seqhdr, body)
        name = SERVICES.get(typeid.Identifier, str(typeid))
        stand.services[name] += 1
        stand.requests += 1
        spoil = stand.spoil
        if spoil.drop_after and stand.requests > spoil.drop_after:
            self._transport.abort()
            return False
        if spoil.mute_after and stand.requests > spoil.mute_after:
            await asyncio.sleep(3600)
        delay = spoil.delay_s
        if spoil.slower_after[0] and stand.requests > spoil.slower_after[0]:
            delay += spoil.slower_after[1]
        if delay:
            await asyncio.sleep(delay)
        if spoil.busy_every and name == "Read" and stand.requests % spoil.busy_every == 0:
            raise ServiceError(ua.StatusCodes.BadResourceUnavailable)
        if spoil.break_bytes_after and stand.requests > spoil.break_bytes_after:
            self._transport.write(b"MSGF\xff\x00\x00\x00garbage that is no chunk of anything")
            return True
        if name == "BrowseNext":
            return _browse_next(self, stand, requesthdr, seqhdr, struct_from_binary(ua.BrowseNextParameters, body))
        return await plain_process(self, typeid, requesthdr, seqhdr, body)

    async def read(self: Any, params: Any) -> Any:
        stand = getattr(self.iserver, "stand", None)
        if stand is None or not self.external:
            return await plain_read(self, params)
        spoil = stand.spoil
        stand.operations.append((time.monotonic(), len(params.NodesToRead)))
        if spoil.max_read and len(params.NodesToRead) > spoil.max_read:
            raise ServiceError(ua.StatusCodes.BadTooManyOperations)
        results = await plain_read(self, params)
        for index, item in enumerate(params.NodesToRead):
            spoilt = spoil.attributes.get((_text(item.NodeId), int(item.AttributeId)))
            if spoilt is not None:
                results[index] = spoilt() if callable(spoilt) else spoilt
        return results[:-1] if spoil.wrong_count and len(results) > 1 else results

    async def browse(self: Any, params: Any) -> Any:
        stand = getattr(self.iserver, "stand", None)
        if stand is None or not self.external:
            return await plain_browse(self, params)
        spoil = stand.spoil
        stand.operations.append((time.monotonic(), len(params.NodesToBrowse)))
        if spoil.max_browse and len(params.NodesToBrowse) > spoil.max_browse:
            raise ServiceError(ua.StatusCodes.BadTooManyOperations)
        results = []
        for plain in await plain_browse(self, params):
            one = ua.BrowseResult(plain.StatusCode, None, list(plain.References))
            for position, reference in enumerate(one.References):
                lie = spoil.attributes.get((_text(reference.NodeId), -1))
                if lie is not None:
                    changed = ua.ReferenceDescription(**{name: getattr(reference, name) for name in reference.__dataclass_fields__})
                    changed.NodeClass = ua.NodeClass(lie)
                    one.References[position] = changed
            if spoil.max_points and len(stand.points) >= spoil.max_points and len(one.References) > spoil.max_references > 0:
                one = ua.BrowseResult(ua.StatusCode(ua.StatusCodes.BadNoContinuationPoints))
            else:
                _page(stand, one)
            results.append(one)
        return results

    uaprocessor.UaProcessor._process_message = process
    InternalSession.read, InternalSession.browse = read, browse
    internal_server.InternalServer.load_standard_address_space = _nodes_once
    internal_server.InternalServer._address_space_fixes = _no_fixes


def _page(stand: Stand, one: Any) -> None:
    size = stand.spoil.max_references
    if size and len(one.References) > size:
        stand.point_number += 1
        point = b"point-%d" % stand.point_number
        stand.points[point] = one.References[size:]
        one.References = one.References[:size]
        one.ContinuationPoint = point


def _browse_next(processor: Any, stand: Stand, requesthdr: Any, seqhdr: Any, params: Any) -> bool:
    stand.operations.append((time.monotonic(), len(params.ContinuationPoints)))
    response = ua.BrowseNextResponse()
    for point in params.ContinuationPoints:
        rest = stand.points.pop(point, None)
        one = ua.BrowseResult()
        if rest is None or stand.spoil.lose_points:
            stand.spoil.lose_points = max(0, stand.spoil.lose_points - 1)
            one.StatusCode = ua.StatusCode(ua.StatusCodes.BadContinuationPointInvalid)
        elif not params.ReleaseContinuationPoints:
            one.References = list(rest)
            if stand.spoil.endless:
                one.References, one.ContinuationPoint = [], point
                stand.points[point] = rest
            else:
                _page(stand, one)
        response.Parameters.Results.append(one)
    processor.send_response(requesthdr.RequestHandle, seqhdr, response)
    return True


_install()


class Proxy:
    """Forwards TCP and writes down the service of every message chunk of a signed, unencrypted channel."""

    def __init__(self, loop: asyncio.AbstractEventLoop, target: int) -> None:
        self.loop, self.target, self.port = loop, target, 0
        self.services: Counter[str] = Counter()
        self.connections = 0
        self.other = 0
        self._server: Any = None

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        self._server.close()

    async def _serve(self, reader: Any, writer: Any) -> None:
        self.connections += 1
        above, below = await asyncio.open_connection("127.0.0.1", self.target)
        await asyncio.gather(self._pump(reader, below, self._look), self._pump(above, writer, lambda data: b""), return_exceptions=True)

    async def _pump(self, reader: Any, writer: Any, look: Callable[[bytes], bytes]) -> None:
        rest = b""
        while data := await reader.read(65536):
            rest = look(rest + data)
            writer.write(data)
            await writer.drain()
        writer.close()

    def _look(self, data: bytes) -> bytes:
        while len(data) >= 8 and len(data) >= (size := int.from_bytes(data[4:8], "little")):
            if data[:3] == b"MSG":
                # header 8, channel and token 8, sequence 8, then the NodeId of the request.
                if data[24:26] == b"\x01\x00":
                    self.services[SERVICES[int.from_bytes(data[26:28], "little")]] += 1
                else:
                    self.other += 1
            data = data[size:]
        return data
