# SPDX-License-Identifier: Apache-2.0
"""An asyncua server that reads a fault plan (plans.py): python server_py.py PLAN.json. Says its port on standard output, ends with its input.

The stand of the unit tests does what asyncua's own server does not: limits, continuation points, attributes that differ by reader.
"""
from __future__ import annotations

import base64
import json
import logging
import sys
import tempfile
import threading
import uuid
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "unit"))

from asyncua import ua
from asyncua.crypto.permission_rules import User, UserRole
from opcua_stand import Stand, Users, _text

VARIANTS = {6: "UInt32", 7: "UInt32", 17: "Byte", 18: "Byte", 21: "Boolean", 22: "Boolean", 26: "UInt16", 27: "UInt32"}
POLICIES = {("None", "None"): "NoSecurity"}
NONE = "http://opcfoundation.org/UA/SecurityPolicy#None"


class Both(Users):
    """observer/secret, engineer/e-secret."""

    def get_user(self, iserver: Any, username: Any = None, password: Any = None, certificate: Any = None) -> Any:
        given = password.decode() if isinstance(password, bytes) else password
        if username == "engineer" and given == "e-secret":
            return User(role=UserRole.Admin, name=username)
        return super().get_user(iserver, username, password, certificate)


class Planned(Stand):
    """A stand with the nodes and faults of a plan."""

    def __init__(self, plan: dict[str, Any], folder: Path) -> None:
        self.plan = plan
        cert = (Path(plan["certificate_pem"]).read_bytes(), Path(plan["key_pem"]).read_bytes())
        policies = [getattr(ua.SecurityPolicyType, POLICIES.get((policy, mode), "%s_%s" % (policy, mode))) for policy, mode in plan["endpoints"]]
        tokens = [ua.UserNameIdentityToken] + ([ua.AnonymousIdentityToken] if plan.get("anonymous") else [])
        super().__init__(folder, policies, tokens, cert, full=bool(plan.get("full")))
        self.users = Both()
        self.port = plan["port"]

    async def _honest(self) -> None:
        if self.plan.get("hardened", True):
            await super()._honest()
        server = self.server
        for uri in self.plan["namespaces"]:
            await server.register_namespace(uri)
        if self.plan.get("clear_password"):
            for endpoint in server.iserver.endpoints:
                for token in endpoint.UserIdentityTokens:
                    if token.TokenType == ua.UserTokenType.UserName:
                        token.SecurityPolicyUri = NONE
        for one in self.plan["nodes"]:
            await self._add(one)
        for source, kind, target in self.plan["references"]:
            await server.get_node(_id(source)).add_reference(_id(target), ua.NodeId(kind), True, False)
        for one in self.plan["nodes"]:
            if one.get("unlinked"):
                await server.get_node(_id(one["parent"])).delete_reference(_id(one["id"]), ua.NodeId(one["reference"]), True, False)
        limits = self.plan["limits"]
        spoil = self.spoil
        spoil.max_read, spoil.max_browse = limits.get("read", 0), limits.get("browse", 0)
        spoil.max_references, spoil.max_points = limits.get("references", 0), limits.get("points", 0)
        for number, name in ((11705, "read"), (11710, "browse"), (2735, "points"), (24095, "sessions")):
            if limits.get(name):
                self.set("ns=0;i=%d" % number, 13, limits[name], ua.VariantType.UInt16 if number == 2735 else ua.VariantType.UInt32)
        if limits.get("sessions"):
            self.spoil.attributes["ns=0;i=2277", 13] = lambda: ua.DataValue(ua.Variant(len(self.sessions()), ua.VariantType.UInt32))

    async def _add(self, one: dict[str, Any]) -> None:
        nodeid, name = _id(one["id"]), ua.QualifiedName(one["name"], _id(one["id"]).NamespaceIndex)
        item = ua.AddNodesItem()
        item.RequestedNewNodeId, item.BrowseName = nodeid, name
        item.ParentNodeId, item.ReferenceTypeId = _id(one["parent"]), ua.NodeId(one.get("reference", 47))
        item.NodeClass = ua.NodeClass(one["class"])
        kinds = {1: (ua.ObjectAttributes, ua.ObjectIds.FolderType), 4: (ua.MethodAttributes, None),
                 2: (ua.VariableAttributes, ua.ObjectIds.PropertyType if one.get("reference") == 46 else ua.ObjectIds.BaseDataVariableType)}
        attributes, definition = kinds[one["class"]]
        item.NodeAttributes = attributes()
        item.NodeAttributes.DisplayName = ua.LocalizedText(one["name"])
        if definition is not None:
            item.TypeDefinition = ua.NodeId(definition)
        if one["class"] == 2:
            value = one.get("value", 0.0)
            item.NodeAttributes.Value = ua.Variant(value)
            item.NodeAttributes.DataType = ua.NodeId(ua.ObjectIds.String if isinstance(value, str) else ua.ObjectIds.Double)
            level = one.get("set", {}).get("18", 1)
            item.NodeAttributes.AccessLevel = item.NodeAttributes.UserAccessLevel = 3 if one.get("lies") else level
            self.set(_text(nodeid), 17, one.get("set", {}).get("17", level), ua.VariantType.Byte)
            self.set(_text(nodeid), 18, level, ua.VariantType.Byte)
        if one["class"] == 4:
            item.NodeAttributes.Executable = True
            item.NodeAttributes.UserExecutable = False
        (result,) = await self.server.iserver.isession.add_nodes([item])
        result.StatusCode.check()
        for text, value in one.get("set", {}).items():
            attribute = int(text)
            if attribute in (24, 25):
                self.roles(_text(nodeid), attribute, *(tuple(pair) for pair in value))
            else:
                self.set(_text(nodeid), attribute, bool(value) if attribute in (21, 22) else value, getattr(ua.VariantType, VARIANTS[attribute]))


def _id(text: str) -> Any:
    head, _, rest = text.partition(";") if text.startswith("ns=") else ("ns=0", "", text)
    index, kind, value = int(head[3:]), rest[0], rest[2:]
    made: Any = {"i": int, "s": str, "g": uuid.UUID, "b": base64.b64decode}[kind](value)
    return ua.NodeId(made, index)


def main() -> None:
    """Serve until the input ends."""
    logging.getLogger("asyncua").setLevel(logging.CRITICAL)
    plan = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as folder:
        stand = Planned(plan, Path(folder)).start()
        print(json.dumps({"port": stand.port}), flush=True)
        done = threading.Event()
        record = plan.get("record")

        def keep() -> None:
            while not done.wait(0.1):
                if record:
                    new = Path(record + ".new")
                    new.write_text(json.dumps(stand.services), encoding="utf-8")
                    new.rename(record)

        writer = threading.Thread(target=keep)
        writer.start()
        # As server_c: the plan's first node goes and comes again, sessions are counted.
        first = plan["nodes"][0] if plan["nodes"] else None
        while order := sys.stdin.read(1):
            if order == "d":
                stand.call(stand.server.delete_nodes([stand.server.get_node(_id(first["id"]))]))
            if order == "a":
                stand.call(stand._add(first))
            if order == "s":
                print(json.dumps({"sessions": len(stand.sessions())}), flush=True)
        done.set()
        writer.join()
        stand.stop()


if __name__ == "__main__":
    main()
