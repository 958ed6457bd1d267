# SPDX-License-Identifier: Apache-2.0
"""Static audits of what other collectors were told: Node-RED, NiFi, OPC Publisher, Neuron. Files only, nothing is dialled.

Formats and abilities, as their makers document them:

* Node-RED: flows.json, a list of nodes with ``type`` (nodered.org, "Flow file"); of node-red-contrib-opcua the action of ``OpcUa-Client``
  (its 102-opcuaclient.html), of node-red-contrib-modbus the nodes write, flex-write, flex-fc and the servers (its README).
* NiFi: conf/flow.json.gz, the versioned flow (``rootGroup`` with ``processors``, ``processGroups``, ``controllerServices``; "NiFi System
  Administrator's Guide", ``nifi.flow.configuration.file``); processors by the last part of their class ("NiFi Documentation").
* OPC Publisher 2.9: pn.json (``EndpointUrl``, ``OpcNodes``) and its command line (Azure/Industrial-IoT, docs/opc-publisher/commandline.md).
  Its API writes values and calls methods (docs/opc-publisher/api.md), and answers on every transport that it was given.
* Neuron: persistence/sqlite.db, table ``nodes`` (name, type, state, plugin_name), type 1 = driver, 2 = application (its persistence/*.sql);
  applications send write requests to drivers ("North Applications").

A finding says where it stands. What is not in a table is *unknown*. A disabled node counts: it is one click away.
"""
from __future__ import annotations

import gzip
import json
import posixpath
import re
import shlex
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .telegraf import is_device

LIMIT = 64 * 1024 * 1024
"""Most bytes of a flow, unpacked."""


class CannotTell(Exception):
    """The file cannot be read, or is not what its kind says."""


@dataclass
class Findings:
    """*writes*: can write; *unknown*: nobody said that it cannot; *seen*: how many parts were looked at."""

    writes: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    seen: int = 0


def _bytes(path: Path) -> bytes:
    try:
        data = path.read_bytes()
        if data[:2] == b"\x1f\x8b":
            with gzip.open(path) as stream:
                data = stream.read(LIMIT + 1)
    except (OSError, EOFError) as error:
        raise CannotTell("%s cannot be read: %s" % (path, error)) from None
    if len(data) > LIMIT:
        raise CannotTell("%s is larger than %d MiB" % (path, LIMIT // 1048576))
    return data


def _json(path: Path) -> Any:
    try:
        return json.loads(_bytes(path))
    except (ValueError, RecursionError) as error:
        raise CannotTell("%s is no JSON: %s" % (path, error)) from None


# -- Node-RED -----------------------------------------------------------------------------------------------------
_RED_QUIET = frozenset({
    "tab", "subflow", "group", "comment", "inject", "debug", "complete", "catch", "status", "junction", "change", "switch", "range", "template",
    "delay", "trigger", "batch", "split", "join", "sort", "csv", "json", "xml", "html", "yaml", "rbe", "tls-config",
    "link in", "link out", "link call", "mqtt in", "file in", "OpcUa-Endpoint", "OpcUa-Item", "OpcUa-Browser", "OpcUa-Event", "OpcUa-Discovery",
    "OPCUA-IIoT-Connector", "OPCUA-IIoT-Read", "OPCUA-IIoT-Browser", "OPCUA-IIoT-Listener", "OPCUA-IIoT-Event", "OPCUA-IIoT-Node",
    "OPCUA-IIoT-Response", "modbus-read", "modbus-getter", "modbus-flex-getter", "modbus-flex-sequencer", "modbus-client", "modbus-response",
    "modbus-response-filter", "modbus-queue-info", "modbus-io-config", "s7 in", "s7 endpoint",
})
_RED_WRITES = {
    "OPCUA-IIoT-Write": "writes by OPC UA", "OPCUA-IIoT-Method-Caller": "calls OPC UA methods", "OpcUa-Method": "calls OPC UA methods",
    "OpcUa-Server": "is an OPC UA server that others write to", "OPCUA-IIoT-Server": "is an OPC UA server that others write to",
    "OPCUA-IIoT-Flex-Connector": "takes any OPC UA request",
    "modbus-write": "writes by Modbus", "modbus-flex-write": "writes by Modbus", "modbus-flex-fc": "sends any Modbus function",
    "modbus-server": "is a Modbus server that others write to", "modbus-flex-server": "is a Modbus server that others write to",
    "modbus-flex-connector": "goes to any Modbus device",
    "s7 out": "writes to an S7", "s7 control": "controls an S7",
    "exec": "executes programs", "tcp out": "sends raw TCP", "tcp request": "sends raw TCP", "udp out": "sends raw UDP", "serial out": "sends on a serial line",
    "serial request": "sends on a serial line", "http in": "takes requests from others",
}
_RED_READING = frozenset({"read", "browse", "subscribe", "unsubscribe", "deletesubscribtion", "deletesubscription", "events", "info", "monitor", "readmultiple",
                          "connect", "disconnect", "reconnect"})
#: What may stand before an OpcUa-Client without putting another action into its message; of these, what could all the same.
_RED_PLAIN = frozenset({"inject", "OpcUa-Item", "OpcUa-Client", "delay", "junction"})
_RED_FREE = re.compile(r'action|"(?:json|jsonata|flow|global|env|msg)"')
_RED_NAMING = frozenset({"group", "catch", "status", "complete"})
"""They name other nodes and send them nothing."""
#: A function that reaches beyond its message.
_MODULES = r"(?:process|require|child_process|fs|net|os|dgram|tls|axios|jsmodbus|modbus-serial|node-?opcua|nodes7)\b"
_RED_REACHES = re.compile(
    r"\brequire\s*\(|\bprocess\s*\.|child_process|\bglobal\s*\.\s*(?:get\s*\(\s*['\"`])?%s|\bimport\s*\(|\beval\s*\(|"
    r"Function\s*\(|\bconstructor\b|\bfetch\s*\(|\bWebSocket\b|\bglobalThis\b" % _MODULES)
#: What it takes out of the global context, which settings.js may fill with modules under any name; calls of it.
_RED_TAKES = re.compile(r"(\w+|\{[^{}]*\})\s*=\s*(?:context\s*\.\s*)?global\s*\.\s*get\s*\(")
_RED_CALLS = r"\b(%s\s*(?:\??\.\s*\w+\s*)*)\("
_RED_CALLS_GLOBAL = re.compile(r"\bglobal\s*\.\s*((?:get\s*\([^()]*\)\s*\??\.\s*\w+|(?!(?:get|set|keys)\b)\w+)\s*(?:\??\.\s*\w+\s*)*)\(")
#: What a value of the language has itself.
_RED_VALUES = """
concat endsWith every filter find findIndex flat forEach getTime hasOwnProperty includes indexOf join lastIndexOf map pop push reduce replace reverse shift
slice some sort splice split startsWith substring toFixed toISOString toLowerCase toString toUpperCase trim unshift valueOf
"""
_RED_VARIABLE = re.compile(r"\$[{(]")
"""The environment, or a subflow's own, in place of a property."""
_RED_MESSAGES = ("birthTopic", "closeTopic", "willTopic")
"""What a broker's configuration publishes by itself."""


def _free_action(nodes: Sequence[Mapping[str, Any]], client: Mapping[str, Any]) -> str:
    """Which node before an OpcUa-Client may tell it another action than its own (msg.action, payload.action: 102-opcuaclient.js); empty: none."""
    met, queue = {client.get("id")}, [client.get("id")]
    while queue:
        name = json.dumps(queue.pop())
        for node in nodes:
            if node.get("id") in met or node["type"] in _RED_NAMING or name not in json.dumps(node):
                continue
            plain = {key: value for key, value in node.items() if key != "action"} if node["type"] == "OpcUa-Client" else node
            if node["type"] not in _RED_PLAIN or _RED_FREE.search(json.dumps(plain)):
                return "%s %s" % (node["type"], node.get("id"))
            met.add(node.get("id"))
            queue.append(node.get("id"))
    return ""


def _calls_global(text: str) -> bool:
    names = [name for taken in _RED_TAKES.findall(text) for name in re.findall(r"\w+", taken)]
    calls = _RED_CALLS_GLOBAL.findall(text) + [call for name in names for call in re.findall(_RED_CALLS % re.escape(name), text)]
    return any(re.findall(r"\w+", call)[-1] not in _RED_VALUES.split() for call in calls)


def node_red(path: Path, patterns: Sequence[str], topic_matches: Callable[[str, str], bool]) -> Findings:
    """flows.json. *patterns*: MQTT topics of commands; *topic_matches* (pattern, topic). Raises CannotTell."""
    flow = _json(path)
    nodes = flow.get("flows") if isinstance(flow, Mapping) else flow
    if not isinstance(nodes, list) or not all(isinstance(one, Mapping) and isinstance(one.get("type"), str) for one in nodes):
        raise CannotTell("%s is no flow of Node-RED: a list of nodes with a type" % path)
    found = Findings(seen=len(nodes))

    def publishes(where: str, topic: str) -> None:
        hits = [one for one in patterns if topic_matches(one, topic)]
        if hits:
            found.writes.append("%s publishes to %s, a topic of commands (%s)" % (where, topic, ", ".join(hits)))
        elif _RED_VARIABLE.search(topic):
            found.unknown.append("%s: the topic is made of variables (%r)" % (where, topic))

    for node in nodes:
        kind = node["type"]
        where = "%s %s (%s)%s" % (kind, node.get("name") or "without name", node.get("id"), ", disabled" if node.get("d") or node.get("disabled") else "")
        if kind in _RED_WRITES:
            found.writes.append("%s %s" % (where, _RED_WRITES[kind]))
        elif kind == "OpcUa-Client":
            action = str(node.get("action") or "")
            if action.startswith(("write", "method", "call", "acknowledge")):
                found.writes.append("%s: action %s" % (where, action))
            elif action not in _RED_READING:
                found.unknown.append("%s: action %r" % (where, action))
            else:
                free = _free_action(nodes, node)
                if free:
                    found.unknown.append("%s: a message of %s may say another action than %s" % (where, free, action))
        elif kind == "function":
            parts = [str(node.get(key) or "") for key in ("func", "initialize", "finalize")]
            text = "\n".join(parts)
            libs = [str(one.get("module")) for one in node.get("libs") or [] if isinstance(one, Mapping)]
            if libs or _RED_REACHES.search(text):
                found.writes.append("%s reaches beyond its message: %s" % (where, ", ".join(libs) or "require, process or code made at run time"))
            elif any(_RED_VARIABLE.match(part) and len(part.split()) == 1 for part in parts):
                found.unknown.append("%s: a variable says what it does" % where)
            elif _calls_global(text):
                found.unknown.append("%s: calls something out of the global context, where settings.js may put modules" % where)
        elif kind == "file":
            name = str(node.get("filename") or "")
            if not name or str(node.get("filenameType") or "str") != "str" or _RED_VARIABLE.search(name):
                found.unknown.append("%s: which file, or device, is known at run time only" % where)
            elif is_device(name):
                found.writes.append("%s writes to the device %s" % (where, name))
        elif kind == "mqtt out":
            topic = str(node.get("topic") or "")
            if topic:
                publishes(where, topic)
            else:
                found.unknown.append("%s: the message says the topic" % where)
        elif kind == "mqtt-broker":
            for key in _RED_MESSAGES:
                if node.get(key):
                    publishes("%s: %s" % (where, key), str(node[key]))
        elif kind == "http request":
            if str(node.get("method") or "GET") != "GET":
                found.writes.append("%s sends %s requests" % (where, node["method"]))
        elif kind not in _RED_QUIET and not kind.startswith("subflow:"):
            found.unknown.append(where)
    return found


# -- NiFi ---------------------------------------------------------------------------------------------------------
_NIFI_QUIET = re.compile(
    r"^(Attributes\w+|Base64\w*|Calculate\w+|Compress\w+|Consume\w+|Control\w+|Convert\w+|Count\w+|Debug\w+|Detect\w+|Distribute\w+|Duplicate\w+|"
    r"Encode\w+|EncryptContent\w*|Enforce\w+|Evaluate\w+|Extract\w+|Fetch\w+|Filter\w+|Flatten\w+|Fork\w+|Generate\w+|Get\w+|Hash\w+|Identify\w+|Jolt\w+|"
    r"List\w+|Log\w+|Lookup\w+|Merge\w+|Modify\w+|Monitor\w+|Notify|Parse\w+|Partition\w+|Query\w+|Replace\w+|Retry\w+|Route\w+|Sample\w+|Scan\w+|"
    r"Segment\w+|Split\w+|Tail\w+|Transform\w+|Unpack\w+|Update\w+|Validate\w+|Wait|PublishKafka\w*|PutFile|PutDatabaseRecord|PutSQL|PutS3Object|PutHDFS|"
    r"PutElasticsearch\w*|PutInfluxDB\w*|PutIceberg)$")
_NIFI_WRITES = (
    (re.compile(r"^(Execute(Process|StreamCommand|Script|GroovyScript|PythonProcessor)|InvokeScriptedProcessor|Scripted\w+)$"),
     "executes programs or scripts"),
    (re.compile(r"^Plc4xSink\w*$|^(Put|Set|Write)\w*(OPC|S7|Plc|Modbus|SNMP)\w*$", re.I), "writes to controllers"),
    (re.compile(r"^(PublishMQTT|PublishJMS|PublishAMQP)$"), "publishes to a broker"),
    (re.compile(r"^Put(TCP|UDP|Syslog|SFTP|FTP|WebSocket|Email)$"), "sends to any address"),
    (re.compile(r"^(Listen\w+|HandleHttp\w+|ConnectWebSocket)$"), "takes requests from others"),
)


_NIFI = "org.apache.nifi."
"""Whose names mean what its documentation says; a processor of somebody else may be called what it likes."""


def _groups(group: Mapping[str, Any], way: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    here = "%s/%s" % (way, group.get("name") or "root")
    yield here, group
    for inner in group.get("processGroups") or []:
        yield from _groups(inner, here)


def nifi(path: Path, patterns: Sequence[str], topic_matches: Callable[[str, str], bool]) -> Findings:
    """flow.json or flow.json.gz. Raises CannotTell."""
    flow = _json(path)
    root = flow.get("rootGroup") or flow.get("flowContents") if isinstance(flow, Mapping) else None
    if not isinstance(root, Mapping):
        raise CannotTell("%s is no flow of NiFi: it has no rootGroup" % path)
    found = Findings()
    parts = [("", False, one) for key in ("controllerServices", "reportingTasks") for one in flow.get(key) or []]
    for way, group in _groups(root):
        parts += [(way, key == "processors", one) for key in ("processors", "controllerServices") for one in group.get(key) or []]
        for remote in group.get("remoteProcessGroups") or []:
            found.unknown.append("%s: sends to or takes from another NiFi (%s)" % (way, remote.get("targetUris") or remote.get("name")))
    for way, processes, part in parts:
        found.seen += 1
        kind = str(part.get("type") or "")
        short = kind.rsplit(".", 1)[-1]
        state = str(part.get("scheduledState") or "").lower()
        where = "%s/%s (%s%s)" % (way, part.get("name"), short, ", disabled" if state == "disabled" else "")
        given: Mapping[str, Any] = part.get("properties") or {}
        why = next((text for pattern, text in _NIFI_WRITES if pattern.search(short)), "")
        will = str(given.get("Last Will Topic") or "") if "MQTT" in short else ""
        if "${" in will or "#{" in will:
            found.unknown.append("%s: the topic of its last will is made of variables (%r)" % (where, will))
        elif will and any(topic_matches(one, will) for one in patterns):
            found.writes.append("%s has a last will at %s, a topic of commands" % (where, will))
        if not kind.startswith(_NIFI):
            (found.writes if why else found.unknown).append(("%s %s" % (where, why)).rstrip())
        elif short == "PublishMQTT":
            topic = str(given.get("Topic") or "")
            hits = [one for one in patterns if topic_matches(one, topic)]
            if "${" in topic or "#{" in topic or not topic:
                found.unknown.append("%s: the topic is made of variables (%r)" % (where, topic))
            elif hits:
                found.writes.append("%s publishes to %s, a topic of commands (%s)" % (where, topic, ", ".join(hits)))
        elif why:
            found.writes.append("%s %s" % (where, why))
        elif short == "PutFile":
            folder = str(given.get("Directory") or "")
            if not folder or "${" in folder or "#{" in folder:
                found.unknown.append("%s: which directory, or device, is known at run time only (%r)" % (where, folder))
            elif is_device(posixpath.join(folder, "any")):
                found.writes.append("%s writes to the devices in %s" % (where, folder))
        elif short == "InvokeHTTP":
            method = str(given.get("HTTP Method") or given.get("http-method") or "GET")
            if method.upper() not in ("GET", "HEAD"):
                found.writes.append("%s sends %s requests" % (where, method))
        elif processes and not _NIFI_QUIET.match(short):
            found.unknown.append(where)
    return found


# -- OPC Publisher ------------------------------------------------------------------------------------------------
_PUBLISHER_CONTROL = {
    "MQTT (remote procedure calls)": ("b", "mqc", "mqttclientconnectionstring"),
    "IoT Hub or Edge Hub (direct methods)": ("ec", "edgehubconnectionstring", "dc", "deviceconnectionstring"),
    "Dapr": ("d", "dcs", "daprconnectionstring"),
}


def opc_publisher(path: Path, arguments: str) -> Findings:
    """pn.json, and the text of its command line or environment file ('' = not declared). Raises CannotTell."""
    entries = _json(path)
    if not isinstance(entries, list) or not all(isinstance(one, Mapping) and "EndpointUrl" in one for one in entries):
        raise CannotTell("%s is no published nodes file: a list of entries with EndpointUrl" % path)
    found = Findings(seen=len(entries))
    for one in entries:
        if not one.get("UseSecurity") and str(one.get("EndpointSecurityMode") or "None") == "None":
            found.unknown.append("%s: without security, so the server cannot tell its rights from anybody's" % one["EndpointUrl"])
    if not arguments:
        found.unknown.append("its command line is not declared (arguments): which transports carry its API, that writes and calls, is not known")
        return found
    try:
        words = shlex.split(arguments, comments=True)
    except ValueError as error:
        raise CannotTell("the arguments cannot be read: %s" % error) from None
    # Its parser (Mono.Options) takes -, -- and / before a name, = and : behind it; a variable of the environment has nothing before it, and .NET does
    # not tell its capitals from small letters.
    flags = {re.split("[=:]", word, maxsplit=1)[0].lower() for word in words}
    flags = {flag.lstrip("-/") for flag in flags if len(flag) > 1}
    for name, known in sorted(_PUBLISHER_CONTROL.items()):
        if flags & set(known):
            found.writes.append("its API (write value, call method) is open to %s: %s" % (name, ", ".join(sorted(flags & set(known)))))
    if not found.writes:
        found.unknown.append("its built-in HTTP server carries the same API behind a key: that nobody reaches it is for the conduits to show")
    return found


# -- Neuron -------------------------------------------------------------------------------------------------------
_NEURON_BACK = ("mqtt", "sparkplugb", "ekuiper", "opc ua server", "opcua server", "websocket", "azure iot", "aws iot")
_NEURON_QUIET = ("monitor", "kafka", "prometheus")
DRIVER, APPLICATION = 1, 2


def neuron(path: Path) -> Findings:
    """sqlite.db of Neuron, read from a copy. Raises CannotTell."""
    if not path.is_file():
        raise CannotTell("%s is not there" % path)
    try:
        with tempfile.TemporaryDirectory(prefix="hnai-neuron-") as folder:
            # A copy, with what it has not yet written back: to look at a running database would leave files beside it.
            for suffix in ("", "-wal"):
                if Path(str(path) + suffix).is_file():
                    shutil.copy(str(path) + suffix, str(Path(folder, "sqlite.db")) + suffix)
            with closing(sqlite3.connect(str(Path(folder, "sqlite.db")), timeout=2.0)) as base:
                rows = base.execute("SELECT name, type, plugin_name FROM nodes ORDER BY name").fetchall()
    except (sqlite3.Error, OSError) as error:
        raise CannotTell("%s is no database of Neuron: %s" % (path, error)) from None
    found = Findings(seen=len(rows))
    drivers = [name for name, kind, _plugin in rows if kind == DRIVER]
    for name, kind, plugin in rows:
        if kind == DRIVER:
            continue
        short = str(plugin).lower()
        if any(short.startswith(one) for one in _NEURON_BACK):
            found.writes.append("application %s (%s) takes write requests for %s" % (name, plugin, ", ".join(drivers) or "drivers"))
        elif not any(short.startswith(one) for one in _NEURON_QUIET):
            found.unknown.append("application %s (%s)" % (name, plugin))
    if drivers:
        found.unknown.append("its REST API writes to %s for who holds a token: that nobody reaches it is for the conduits to show" % ", ".join(drivers))
    return found
