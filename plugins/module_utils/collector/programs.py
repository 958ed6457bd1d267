# SPDX-License-Identifier: Apache-2.0
"""The collector's own program and environment, as they lie on the host, against what was deployed.

The program is small and declared file by file (sha256 of the role's own tree). The environment is declared by the manifest of its
artifact: names and sizes (``artifact.py``). Nothing may lie beside them that Python would load.
"""
from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

MANIFEST = ".hnai-manifest"
#: What Python takes in by itself when it lies in the right place.
_LOADED = (".py", ".pth", ".so", ".pyc")


def _files(base: Path) -> Iterator[str]:
    for path in sorted(base.rglob("*")):
        if path.is_file() or path.is_symlink():
            yield str(path.relative_to(base))


def differs(base: Path, declared: Mapping[str, str]) -> list[str]:
    """How the program at *base* differs from *declared* {relative path: sha256}; compiled files beside their sources do not count.

    A compiled file without its source would be taken for the program; one that was made to fit its source is not noticed.
    """
    found = []
    there = set(_files(base)) if base.is_dir() else set()
    for name in sorted(set(declared) - there):
        found.append("%s is missing" % (base / name))
    for name in sorted(there):
        path = base / name
        if "__pycache__" in path.parts and name.endswith(".pyc"):
            if not (path.parent.parent / (path.name.split(".")[0] + ".py")).exists():
                found.append("%s is compiled from nothing" % path)
        elif name not in declared:
            found.append("%s was not deployed" % path)
        elif path.is_symlink() or hashlib.sha256(path.read_bytes()).hexdigest() != declared[name]:
            found.append("%s is not what was deployed" % path)
    return found


def environment(base: Path, manifest: Mapping[str, Any]) -> list[str]:
    """How the environment at *base* differs from its manifest; compiled files do not count."""
    found = []
    files: Mapping[str, Any] = manifest["files"]
    there = set(_files(base))
    for name, size in files.items():
        path = base / name
        if name not in there:
            found.append("%s is missing" % path)
        elif isinstance(size, int) and path.lstat().st_size != size:
            found.append("%s has another size" % path)
    for name in sorted(there - set(files) - {MANIFEST}):
        if name.endswith(_LOADED) and "__pycache__" not in name:
            found.append("%s was not deployed" % (base / name))
    return found


def paths(base: Path) -> list[Path]:
    """Every file below *base* that Python could have read; not compiled ones, which Python writes itself, nor links to other packages' files."""
    return [path for path in (base / name for name in _files(base)) if "__pycache__" not in path.parts and not path.is_symlink()]


#: Run by the collector's own interpreter, beside the collector: every request that asyncua knows, and every function of Modbus, is given to
#: the collector's client; it says which were let through. It opens no connection: the transport below is a list.
CLOSED = """
import asyncio, json, sys
sys.path.insert(0, sys.argv[1])
from asyncua import ua
from hnai_ot_collector import mb_channel, ua_channel

class Wire:
    def __init__(self): self.sent = 0
    def write(self, *_): self.sent += 1
    def is_closing(self): return False
    def close(self): pass
    def abort(self): pass
    def get_extra_info(self, *_): return None

async def main():
    wire, told = Wire(), {"opcua": {"open": [], "refused": 0, "reading": 0}, "modbus": {"open": [], "refused": 0}}
    protocol = ua_channel._Protocol(1)
    protocol.transport = wire
    for name in sorted(dir(ua)):
        if not name.endswith("Request") or not isinstance(getattr(ua, name), type):
            continue
        if name in ua_channel.READING:
            told["opcua"]["reading"] += 1
            continue
        before = wire.sent
        try:
            protocol._send_request(getattr(ua, name)())
            told["opcua"]["open"].append(name)
        except ua_channel.Forbidden:
            told["opcua"]["refused"] += 1
        except Exception as error:
            told["opcua"]["open"].append("%s (%s)" % (name, type(error).__name__))
        if wire.sent != before and name not in told["opcua"]["open"]:
            told["opcua"]["open"].append(name)
    client = mb_channel._Client("127.0.0.1", port=9)
    class Request: pass
    for function in range(256):
        if function in mb_channel.READING:
            continue
        request = Request()
        request.function_code = function
        try:
            client.execute(False, request)
            told["modbus"]["open"].append(function)
        except mb_channel.Forbidden:
            told["modbus"]["refused"] += 1
        except Exception as error:
            told["modbus"]["open"].append("%d (%s)" % (function, type(error).__name__))
    told["reading"] = {"opcua": sorted(ua_channel.READING), "modbus": sorted(mb_channel.READING)}
    print(json.dumps(told))

asyncio.run(main())
"""
#: Services and functions that change nothing at a server.
READING = {
    "opcua": frozenset({
        "OpenSecureChannelRequest", "CloseSecureChannelRequest", "CreateSessionRequest", "ActivateSessionRequest", "CloseSessionRequest",
        "ReadRequest", "BrowseRequest", "BrowseNextRequest", "TranslateBrowsePathsToNodeIdsRequest", "HistoryReadRequest",
        "CreateSubscriptionRequest", "ModifySubscriptionRequest", "DeleteSubscriptionsRequest", "CreateMonitoredItemsRequest",
        "ModifyMonitoredItemsRequest", "DeleteMonitoredItemsRequest", "SetPublishingModeRequest", "SetMonitoringModeRequest",
        "PublishRequest", "RepublishRequest", "GetEndpointsRequest", "FindServersRequest",
    }),
    "modbus": frozenset({1, 2, 3, 4, 43}),
}


def open_paths(told: Mapping[str, Any]) -> list[str]:
    """What the client would send besides reading, out of what CLOSED printed. Raises ValueError when that is no proof."""
    opcua, modbus, reading = told["opcua"], told["modbus"], told["reading"]
    tried = (opcua["refused"] + len(opcua["open"]), modbus["refused"] + len(modbus["open"]))
    if tried[0] < 20 or tried[1] < 200 or not reading["opcua"] or not reading["modbus"]:
        raise ValueError("it tried too little: %s" % told)
    found = ["OPC UA %s" % one for one in opcua["open"]] + ["Modbus function %s" % one for one in modbus["open"]]
    found += ["OPC UA %s is on the list of what may be sent" % one for one in reading["opcua"] if one not in READING["opcua"]]
    found += ["Modbus function %s is on the list of what may be sent" % one for one in reading["modbus"] if one not in READING["modbus"]]
    return found
