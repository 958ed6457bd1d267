# SPDX-License-Identifier: Apache-2.0
"""OPC UA server of the pad on asyncua 2.1: SignAndEncrypt only, trust list, two identities, a journal of every sample.

asyncua is a good test double only after some repairs, all of which stand in this file: it does not enforce
OperationLimits, sets no overflow bit, cuts time stamps to 1 microsecond, lets any application certificate in, and its
admin role skips every access check (nobody has it here).
"""
from __future__ import annotations

import asyncio
import dataclasses
import hmac
import logging
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from asyncua import Server, ua
from asyncua.common.utils import ServiceError
from asyncua.crypto.permission_rules import PermissionRuleset, User, UserRole
from asyncua.server import internal_subscription, uaprocessor
from asyncua.server.internal_session import InternalSession
from asyncua.ua import ua_binary
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from .clock import TICKS_PER_S, pace, ticks
from .journal import Journal
from .plant import STEP_S, Plant, Sample

_log = logging.getLogger("hnai.opcua")

OVERFLOW = 0x480
"""InfoType DataValue + InfoBit Overflow (OPC 10000-4, table 'DataValue InfoBits')."""
SETPOINT = ".SetPoint"
"""Tags that an engineer may write; the canary of the commissioning has their rights."""
MAX_NODES_PER_READ = 11705
MAX_MONITORED_ITEMS_PER_CALL = 11714
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_FILETIME = 116444736000000000
TYPES = {
    "double": ua.VariantType.Double, "float": ua.VariantType.Float, "int": ua.VariantType.Int64,
    "bool": ua.VariantType.Boolean, "enum": ua.VariantType.Int32, "string": ua.VariantType.String,
}
_READ_ONLY = {
    "CreateSession", "CloseSession", "ActivateSession", "Read", "Browse", "BrowseNext", "GetEndpoints", "FindServers",
    "TranslateBrowsePathsToNodeIds", "CreateSubscription", "ModifySubscription", "DeleteSubscriptions",
    "CreateMonitoredItems", "ModifyMonitoredItems", "DeleteMonitoredItems", "SetMonitoringMode", "SetPublishingMode",
    "Publish", "Republish", "CloseSecureChannel",
}


class Ticks(datetime):
    """A datetime that remembers its 100-ns ticks, which asyncua's encoder would cut to a microsecond."""

    ticks: int

    @classmethod
    def of(cls, value: int) -> Ticks:
        """From ticks since 1970-01-01Z."""
        moment = _EPOCH + timedelta(microseconds=value // 10)
        made = cls(moment.year, moment.month, moment.day, moment.hour, moment.minute, moment.second,
                   moment.microsecond, tzinfo=timezone.utc)
        made.ticks = value
        return made


class Rules(PermissionRuleset):
    """The observer may send what reads, nothing else; the engineer also Write. Nobody may call or manage nodes."""

    def __init__(self) -> None:
        def ids(names: set[str]) -> set[Any]:
            return {ua.NodeId(getattr(ua.ObjectIds, "%sRequest_Encoding_DefaultBinary" % name)) for name in names}

        self._observer = ids(_READ_ONLY)
        self._engineer = ids(_READ_ONLY | {"Write"})

    def check_validity(self, user: Any, action_type: Any, body: Any) -> bool:
        """True if *user* may send this kind of request."""
        return action_type in (self._engineer if user.name == "engineer" else self._observer)


class Users:
    """User name and password; both identities are plain users, so the node's access level always counts."""

    def __init__(self, passwords: dict[str, str]) -> None:
        self._passwords = {name: password.encode("utf-8") for name, password in passwords.items()}
        self.rejected = 0

    def get_user(self, iserver: Any, username: Any = None, password: Any = None, certificate: Any = None) -> Any:
        """A User, or None = refused."""
        known = self._passwords.get(username or "")
        given = password if isinstance(password, bytes) else str(password or "").encode("utf-8")
        if known is None or not hmac.compare_digest(known, given):
            self.rejected += 1
            return None
        return User(role=UserRole.User, name=username)


class TrustList:
    """Application certificates that lie in a directory (PEM or DER), read anew for each session."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.refused = 0

    def _trusted(self) -> set[bytes]:
        found = set()
        for path in sorted(self.directory.glob("*")):
            data = path.read_bytes()
            try:
                pem = data.lstrip().startswith(b"-----BEGIN")
                cert = x509.load_pem_x509_certificate(data) if pem else x509.load_der_x509_certificate(data)
            except ValueError:
                _log.warning("W! %s is no certificate", path)
                continue
            found.add(cert.public_bytes(Encoding.DER))
        return found

    async def __call__(self, certificate: Any, description: Any) -> None:
        """Raises ServiceError Bad_CertificateUntrusted."""
        if certificate.public_bytes(Encoding.DER) not in self._trusted():
            self.refused += 1
            raise ServiceError(ua.StatusCodes.BadCertificateUntrusted)


class Faults:
    """State of the switches, shared by the repairs below."""

    def __init__(self, raw: dict[str, Any]) -> None:
        self.max_items = int(raw.get("max_monitored_items_per_call") or 0)
        self.max_reads = int(raw.get("max_nodes_per_read") or 0)
        self.extra = int(raw.get("extra_namespaces") or 0)
        self.absent = {str(node) for node in raw.get("absent_nodes") or ()}
        """Identifiers of nodes that are not there: nobody can read them, and no journal has them."""
        self.granted: set[str] = set()
        """Identifiers of nodes whose attributes say that the observer may write them."""
        self.speaking = asyncio.Event()
        self.speaking.set()
        self.clock_s = 0.0

    def now(self) -> int:
        """The device's own clock, ticks; right unless it was told to be wrong."""
        return ticks() + round(self.clock_s * TICKS_PER_S)


def _observed(faults: Faults, engineers: set[Any], item: Any, plain: Any) -> Any:
    """What the observer reads: it may write nothing and call nothing, and the attributes say so, but for what a test granted."""
    levels = (ua.AttributeIds.AccessLevel, ua.AttributeIds.UserAccessLevel)
    if item.AttributeId in levels and item.NodeId.Identifier in faults.granted:
        return ua.DataValue(ua.Variant(3, ua.VariantType.Byte))
    if item.AttributeId == ua.AttributeIds.UserAccessLevel and item.NodeId in engineers:
        return ua.DataValue(ua.Variant(1, ua.VariantType.Byte))
    if item.AttributeId == ua.AttributeIds.UserExecutable and plain.StatusCode.is_good():
        return ua.DataValue(ua.Variant(False, ua.VariantType.Boolean))
    return plain


def repair(faults: Faults, engineers: set[Any]) -> None:
    """Make asyncua behave like a server of a plant, where only the engineer may write *engineers*. Call once per process, before the first connection."""
    plain_pack = ua_binary._DateTime.pack

    def pack(moment: Any) -> bytes:
        exact = getattr(moment, "ticks", None)
        if exact is None and moment is not None and faults.clock_s:
            moment += timedelta(seconds=faults.clock_s)
        return plain_pack(moment) if exact is None else ua_binary.Primitives.Int64.pack(exact + _FILETIME)

    ua_binary._DateTime.pack = staticmethod(pack)

    async def enqueue(self: Any, mid: int, event: Any, size: int, queue: dict[int, list[Any]]) -> None:
        if mid not in queue:
            queue[mid] = [event]
            await self._trigger_publish()
            return
        items = queue[mid]
        items.append(event)
        if size and len(items) > size:
            items.pop(0)
            first = items[0]
            code = first.Value.StatusCode.value | OVERFLOW
            items[0] = dataclasses.replace(
                first, Value=dataclasses.replace(first.Value, StatusCode=ua.StatusCode(code)))

    internal_subscription.InternalSubscription._enqueue_event = enqueue

    create_items, read = InternalSession.create_monitored_items, InternalSession.read

    async def limited_create(self: Any, params: Any) -> Any:
        if self.external and faults.max_items and len(params.ItemsToCreate) > faults.max_items:
            raise ServiceError(ua.StatusCodes.BadTooManyOperations)
        return await create_items(self, params)

    async def limited_read(self: Any, params: Any) -> Any:
        if self.external and faults.max_reads and len(params.NodesToRead) > faults.max_reads:
            raise ServiceError(ua.StatusCodes.BadTooManyOperations)
        results = await read(self, params)
        if self.external and (self.user is None or self.user.name != "engineer"):
            for index, item in enumerate(params.NodesToRead):
                # What is per user, asyncua holds once for all (and hands out its own object: replace, never change).
                results[index] = _observed(faults, engineers, item, results[index])
        return results

    InternalSession.create_monitored_items = limited_create
    InternalSession.read = limited_read

    process, publish_request = uaprocessor.UaProcessor.process, uaprocessor.UaProcessor.get_publish_request

    async def mute_process(self: Any, header: Any, body: Any) -> Any:
        await faults.speaking.wait()
        return await process(self, header, body)

    def mute_publish(self: Any, subscription_id: Any) -> Any:
        if not faults.speaking.is_set():
            return None
        return publish_request(self, subscription_id)

    uaprocessor.UaProcessor.process = mute_process
    uaprocessor.UaProcessor.get_publish_request = mute_publish


class OpcuaSimulator:
    """The server, its address space and the loop that feeds it."""

    def __init__(self, config: dict[str, Any], private_key: str, plant: Plant, journal: Journal, passwords: dict[str, str],
                 faults: dict[str, Any]) -> None:
        self.config, self.plant, self.journal = config, plant, journal
        self._private_key = private_key
        self.faults = Faults(faults)
        self.users = Users(passwords)
        self.trust = TrustList(Path(config["trust_list"]))
        self.server = Server(user_manager=self.users)
        self.index = 0
        self._nodes: dict[str, Any] = {}

    async def start(self) -> None:
        """Build the address space and listen."""
        config, server = self.config, self.server
        await server.init()
        await server.set_application_uri(config["application_uri"])
        server.set_endpoint(config["endpoint"])
        # An empty bind = every address of both families; "::" would be IPv6 only (asyncio sets IPV6_V6ONLY).
        server.socket_address = (config["bind"] or None, int(config["port"]))
        server.set_server_name("hnai lab well pad")
        server.product_uri = config["application_uri"]
        await server.load_certificate(Path(config["certificate"]), "pem")
        await server.load_private_key(self._private_key.encode("ascii") + b"\n", None, "pem")
        server.set_security_policy([ua.SecurityPolicyType.Basic256Sha256_SignAndEncrypt], permission_ruleset=Rules())
        server.set_identity_tokens([ua.UserNameIdentityToken])
        server.set_certificate_validator(self.trust)
        for number in range(self.faults.extra):
            await self._decoys("%s:foreign:%d" % (self.plant.namespace, number))
        self.index = await server.register_namespace(self.plant.namespace)
        root = await server.nodes.objects.add_object(ua.NodeId(self.plant.site, self.index), "%d:%s" % (self.index, self.plant.site))
        canary = ua.NodeId("Commissioning.Canary", self.index)
        engineers = {canary}
        for tag in self.plant.tags:
            if tag.node in self.faults.absent:
                continue
            kind = TYPES[tag.type]
            nodeid = ua.NodeId(tag.node, self.index)
            empty = {"double": 0.0, "float": 0.0, "bool": False, "string": ""}.get(tag.type, 0)
            node = await root.add_variable(nodeid, "%d:%s" % (self.index, tag.name), ua.Variant(empty, kind))
            if tag.node.endswith(SETPOINT):
                await node.set_writable()
                engineers.add(nodeid)
            await server.iserver.aspace.write_attribute_value(
                nodeid, ua.AttributeIds.Value,
                ua.DataValue(None, ua.StatusCode(ua.StatusCodes.BadWaitingForInitialData),
                             SourceTimestamp=Ticks.of(ticks()), ServerTimestamp=Ticks.of(ticks())))
            self._nodes[tag.name] = nodeid
        node = await root.add_variable(canary, "%d:CommissioningCanary" % self.index, ua.Variant(0.0, ua.VariantType.Double))
        await node.set_writable()
        # By this the write probe knows that it is meant (docs/runbooks/ot-audit.md).
        await node.add_property(ua.NodeId("Commissioning.Canary.Marker", self.index), "%d:HnaiWriteCanary" % self.index, "write canary of " + self.plant.site)
        await self._limit(MAX_MONITORED_ITEMS_PER_CALL, self.faults.max_items)
        await self._limit(MAX_NODES_PER_READ, self.faults.max_reads)
        repair(self.faults, engineers)
        await self._produce()
        await server.start()
        _log.info("I! listening on %s, namespace %s has index %d, %d tags", config["endpoint"], self.plant.namespace,
                  self.index, len(self.plant.tags))

    async def _decoys(self, uri: str) -> None:
        """A foreign namespace whose nodes have our names: who remembers an index reads -999."""
        index = await self.server.register_namespace(uri)
        folder = await self.server.nodes.objects.add_object(ua.NodeId("decoys", index), "%d:decoys" % index)
        for tag in self.plant.tags:
            await folder.add_variable(ua.NodeId(tag.node, index), "%d:%s" % (index, tag.name), -999.0)

    async def _limit(self, identifier: int, value: int) -> None:
        node = self.server.get_node(ua.NodeId(identifier))
        await node.write_value(ua.Variant(value, ua.VariantType.UInt32))

    def _data_value(self, sample: Sample, source: int, server: int) -> Any:
        value = None if sample.value is None else ua.Variant(sample.value, TYPES[sample.tag.type])
        return ua.DataValue(value, ua.StatusCode(sample.status), SourceTimestamp=Ticks.of(source),
                            ServerTimestamp=Ticks.of(server))

    async def _produce(self) -> None:
        """One step: journal first, then the address space, so that nothing was ever read that no journal has."""
        samples = [sample for sample in self.plant.advance() if sample.tag.name in self._nodes]
        now = self.faults.now()
        stamped = [(sample, now + 7 * index) for index, sample in enumerate(samples)]
        self.journal.write({"t": t, "tag": s.tag.name, "value": s.value, "status": s.status} for s, t in stamped)
        write = self.server.iserver.aspace.write_attribute_value
        for sample, moment in stamped:
            result = await write(self._nodes[sample.tag.name], ua.AttributeIds.Value, self._data_value(sample, moment, now))
            if not result.is_good():
                _log.error("E! %s: %s", sample.tag.name, result.name)

    async def run(self) -> None:
        """Produce for ever."""
        async for _ in pace(STEP_S):
            await self._produce()

    def command(self, request: dict[str, Any]) -> dict[str, Any]:
        """Answer of the control socket."""
        if "mute" in request:
            (self.faults.speaking.clear if request["mute"] else self.faults.speaking.set)()
        if "clock" in request:
            self.faults.clock_s = float(request["clock"])
        if "grant" in request:
            self.faults.granted.add(str(request["grant"]))
        if "revoke" in request:
            self.faults.granted.discard(str(request["revoke"]))
        if request.get("drop"):
            for transport in list(self.server.iserver.asyncio_transports):
                transport.abort()
        sessions = list(self.server.iserver._external_sessions.values())
        return {
            "t": ticks(), "clock": self.faults.clock_s, "mute": not self.faults.speaking.is_set(), "index": self.index,
            "granted": sorted(self.faults.granted),
            "sessions": [{"name": str(s.name), "user": s.user.name if s.user else None, "state": s.state.name} for s in sessions],
            "connections": len(self.server.iserver.asyncio_transports), "rejected_identities": self.users.rejected,
            "refused_certificates": self.trust.refused, "step": self.plant.step, "canary": self.plant.count,
            "journal_lines": self.journal.lines, "ticks_per_s": TICKS_PER_S,
        }

    async def stop(self) -> None:
        """Close all connections."""
        self.faults.speaking.set()
        await self.server.stop()
