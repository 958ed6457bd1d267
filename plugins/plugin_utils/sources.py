# SPDX-License-Identifier: Apache-2.0
"""Mistakes in `hnai_ot_sources`: what collector, filter and jobs would refuse one after the other, on a host, in the middle of a run.

One table a protocol says which keys a source and a tag have and what each may be; the functions behind it judge what several keys say together. Values
that are templates are left to the roles. Pure: what Ansible read in, findings out; whatever the shape of it.
"""

from __future__ import annotations

import base64
import difflib
import ipaddress
import re
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ansible_collections.hnai.platform.plugins.module_utils.modbus.devices import WIDTHS
from ansible_collections.hnai.platform.plugins.module_utils.zones.model import Problem

TYPES = ("bool", "double", "enum", "float", "int", "string")
_NUMERIC = ("double", "float", "int")
#: As the collector takes them: ids of sources, names of tags, nodes of OPC UA, levels of an MQTT topic.
SOURCE = re.compile(r"^[a-zA-Z0-9][a-zA-Z0-9_-]*\Z")
NAME = re.compile(r"^[a-zA-Z_][a-zA-Z0-9_]*\Z")
NODE = re.compile(r"^(?:nsu=(?P<uri>[^;]+);)?(?P<kind>[sigb])=(?P<id>.+)\Z")
SEGMENT = re.compile(r"^[^/+#\x00]+\Z")
#: STATE is where the hosts of Sparkplug speak, and no group.
_GROUP = re.compile(r"^(?!STATE\Z)[^/+#\x00]+\Z")
_METRIC = re.compile(r"^(?!bdSeq\Z).+\Z", re.DOTALL)
_TEXT = re.compile(r"^.+\Z", re.DOTALL)
_ANY_TEXT = re.compile(r"^.*\Z", re.DOTALL)
_PAIR = re.compile(r"^[^>'{}]+>[^>'{}]+\Z")
_MARKS = ("{{", "{%", "{#")
_MOST = 2**31


@dataclass(frozen=True)
class Number:
    """A number from *least* to *most*, as YAML knows one."""

    least: float
    most: float = _MOST
    whole: bool = False
    needed: bool = False

    def against(self, value: Any) -> tuple[str, str]:
        """What is wrong and the remedy; "" and "": nothing."""
        if isinstance(value, int if self.whole else (int, float)) and not isinstance(value, bool) and self.least <= value <= self.most:
            return "", ""
        return f"{repr(value)[:60]} cannot be", f"write a {'whole ' if self.whole else ''}number from {self.least:g} to {self.most:g}, without quotes"


@dataclass(frozen=True)
class Words:
    """One of a few words."""

    allowed: tuple[str, ...]
    needed: bool = False

    def against(self, value: Any) -> tuple[str, str]:
        """As Number's."""
        known = isinstance(value, str) and value in self.allowed
        return ("", "") if known else (f"{repr(value)[:60]} is unknown", f"use one of: {', '.join(self.allowed)}")


@dataclass(frozen=True)
class Text:
    """A text of a certain form; *said*: which, and *remedy*."""

    pattern: re.Pattern[str]
    said: str
    remedy: str
    needed: bool = False

    def against(self, value: Any) -> tuple[str, str]:
        """As Number's."""
        fits = isinstance(value, str) and self.pattern.match(value)
        return ("", "") if fits else (f"{repr(value)[:60]} is {self.said}", self.remedy)


@dataclass(frozen=True)
class Either:
    """true or false."""

    needed: bool = False

    def against(self, value: Any) -> tuple[str, str]:
        """As Number's."""
        return ("", "") if isinstance(value, bool) else (f"{repr(value)[:60]} is neither", "write true or false")


#: What a key may be: a rule, a map of them, or nothing that is said here.
Rule = Number | Words | Text | Either | Mapping[str, Any] | None


def _name(pattern: re.Pattern[str]) -> Text:
    return Text(pattern, "no plain name", f"write what looks like {pattern.pattern[:-2]}", needed=True)


def _level(what: str, pattern: re.Pattern[str] = SEGMENT) -> Text:
    return Text(pattern, "no level of an MQTT topic", f"write the {what} id of the edge node, without / + #", needed=True)


_LIMITS: dict[str, Rule] = {
    "connections": Number(1, 600, whole=True), "new_per_minute": Number(1, 600, whole=True), "burst": Number(1, 600, whole=True),
    "items_per_call": Number(1, whole=True), "reads_per_call": Number(1, whole=True), "reads_per_second": Number(0.1),
}
_COMMON: dict[str, Rule] = {"id": _name(SOURCE), "name": None, "asset": None, "tags": None, "canary": None, "records_per_s": None, "limits": _LIMITS}
_REACHED = "write where the source is reached"
#: Keys of a source, by its protocol. What is not here nothing reads.
SOURCES: dict[str, dict[str, Rule]] = {
    "opcua": {
        **_COMMON,
        "endpoint": Text(_TEXT, "no endpoint", "write opc.tcp://HOST:PORT/", needed=True),
        "policy": Words(("Aes128Sha256RsaOaep", "Aes256Sha256RsaPss", "Basic256Sha256")),
        "mode": Words(("Sign", "SignAndEncrypt")),
        "server_certificate_file": Text(_TEXT, "no file", "name the file with the server's certificate, which is pinned", needed=True),
        "server_certificate_next_file": Text(_TEXT, "no file", "name the file with the certificate that the server changes to"),
        "application_uri": Text(_TEXT, "no URI", "write the server's ApplicationUri"),
        "identity": {
            "username": Text(_TEXT, "no name", "write the name of the mirror's identity at the server", needed=True),
            "password_file": Text(_TEXT, "no file", "name the file with its password, which the plant gives", needed=True),
        },
        "publishing_ms": Number(10), "keepalive_count": Number(1, whole=True), "lifetime_count": Number(3, whole=True),
        "silent_keepalives": Number(1, whole=True), "session_timeout_s": Number(5, 60), "request_timeout_s": Number(0.1),
        "connect_timeout_s": Number(1), "channel_lifetime_s": Number(2), "repeat_s": Number(1), "retry_s": Number(1),
        "audit": {
            "per_second": Number(1, whole=True), "in_flight": Number(1, whole=True), "batch": Number(1, whole=True), "latency_floor_ms": Number(0),
            "deadline_s": Number(1),
        },
        "on_refuted": Words(("go_on", "stop")),
    },
    "modbus": {
        **_COMMON,
        "host": Text(_TEXT, "no host", _REACHED, needed=True), "port": Number(1, 65535, whole=True), "unit": Number(0, 255, whole=True),
        "table": Words(("holding", "input")), "word_order": Words(("big", "little"), needed=True), "poll_ms": Number(20), "timeout_s": Number(0.05),
        "gap_registers": Number(0, 100, whole=True),
        "filter": {
            "address": Text(_TEXT, "no address", "write the loopback address that stands for the device, as 127.0.1.1", needed=True),
            "clear_on_read": None, "identification": Either(), "clients": Number(1, 64, whole=True), "requests_per_second": Number(0.1),
        },
    },
    "mqtt": {**_COMMON, "topic": Text(_TEXT, "no topic", "write line/<id of the source>, the only one that a line may speak at", needed=True)},
    "sparkplug": {
        **_COMMON,
        "group": _level("group", _GROUP), "node": _level("node"),
        "repeat_s": Number(1), "keepalive_s": Number(5, 300, whole=True), "connect_timeout_s": Number(1),
    },
}
PROTOCOLS = tuple(sorted(SOURCES))
_UNIT = Text(_ANY_TEXT, "no unit", "write it in quotes")
_TAG: dict[str, Rule] = {
    "name": _name(NAME), "type": Words(TYPES, needed=True), "unit": _UNIT, "unit_to": _UNIT, "codes": None, "description": None,
}
_RATE: dict[str, Rule] = {"kind": Words(("cyclic", "on_change")), "sampling_ms": Number(1)}
#: Keys of a tag, by the protocol of its source.
TAGS: dict[str, dict[str, Rule]] = {
    "opcua": {
        **_TAG, **_RATE,
        "node": Text(NODE, "no node", "write nsu=<namespace URI>;s=<id>, or i=<number> of the standard's own", needed=True),
        "path": None, "mode": Words(("poll", "subscribe")), "queue": Number(1, whole=True),
    },
    "modbus": {
        **_TAG, "address": Number(0, 65535, whole=True, needed=True), "encoding": Words(tuple(sorted(WIDTHS)), needed=True),
        "scale": Number(-1e300, 1e300), "nan_is_bad": Either(),
    },
    "mqtt": {**_TAG, **_RATE},
    "sparkplug": {
        **_TAG, **_RATE, "metric": Text(_METRIC, "no metric", "name a metric of the node's or device's birth", needed=True),
        "device": Text(re.compile(r"^[^/+#\x00]*\Z"), "no level of an MQTT topic", "write the device id, without / + #"),
    },
}


def shown(value: Any) -> str:
    """A name for people, however long and whatever it is made of."""
    text = str(value)
    return text[:40] if text.isprintable() else ascii(text)[:40]


def is_template(value: Any) -> bool:
    """Whether anything in it is only known when Ansible evaluates it."""
    if isinstance(value, Mapping):
        return any(is_template(item) for item in value.values())
    if isinstance(value, (list, tuple)):
        return any(is_template(item) for item in value)
    return isinstance(value, str) and any(mark in value for mark in _MARKS)


def some(hosts: list[str]) -> str:
    """For messages: the first of many hosts."""
    return ", ".join(hosts[:3]) + (" …" if len(hosts) > 3 else "")


def problems(sources: Any, file: str, conversions: Iterable[str] | None = None) -> Iterator[Problem]:
    """All of them. *file*: where the sources are declared. *conversions*: pairs ``unit>unit_to`` that the jobs know; None: nobody converts."""
    known = [one for one in sources if isinstance(one, Mapping)] if isinstance(sources, (list, tuple)) else []
    for key, message, remedy in _all(known, None if conversions is None else frozenset(conversions)):
        yield Problem(file, key, message, remedy, "source")


#: Files that the plant's people hand over: key → (what it is, what one without it holds, what stands in it).
_PEM = ("the server's certificate (PEM)", "no certificate (PEM)", "-----BEGIN CERTIFICATE-----")
_HANDED = {
    "identity.password_file": ("the identity's password", "nothing", ""), "server_certificate_file": _PEM, "server_certificate_next_file": _PEM,
}  # fmt: skip


def handed_over(sources: Any, read: Callable[[str], str]) -> Iterator[tuple[str, str, str]]:
    """(key, what is wrong, remedy) of the files that the plant's people hand over, as they lie on the controller.

    *sources*: evaluated. *read*: a file's text; OSError, UnicodeError: it has none.
    """
    for source in (one for one in sources if isinstance(one, Mapping)) if isinstance(sources, (list, tuple)) else ():
        for name, (what, without, mark) in _HANDED.items():
            path: Any = source
            for part in name.split("."):
                path = path.get(part) if isinstance(path, Mapping) else None
            if not isinstance(path, str) or not path:
                continue
            try:
                text = read(path)
            except (OSError, UnicodeError) as error:
                wrong = f"cannot be read on the controller: {getattr(error, 'strerror', None) or 'it is no text'}"
            else:
                wrong = "" if text.strip() and mark in text else f"holds {without}"
            if wrong:
                remedy = f"let the plant's people hand over {what}: README of role ot_collector"
                yield f"hnai_ot_sources[{shown(source.get('id'))}].{name}", f"{path[:200]} {wrong}", remedy


def unit_problems(units: Any) -> Iterator[tuple[str, str, str]]:
    """(key, what is wrong, remedy) of the site's own conversions: {unit>unit_to: {scale, offset}}."""
    remedy = 'write "unit>unit_to": {scale: "…", offset: "0"}, with what one unit is worth'
    if not isinstance(units, Mapping):
        yield "hnai_units", f"{repr(units)[:60]} is no map", remedy
        return
    for pair, given in units.items():
        numbers = [given.get(name) for name in ("scale", "offset")] if isinstance(given, Mapping) and set(given) == {"scale", "offset"} else []
        good = [re.match(r"^[+-]?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]{1,2})?\Z", str(number)) for number in numbers if not isinstance(number, bool)]
        if not is_template(given) and not (_PAIR.match(str(pair)) and len(good) == 2 and all(good) and float(str(numbers[0]))):
            yield f"hnai_units[{shown(pair)}]", f"{repr(given)[:60]} converts nothing", remedy


def _all(sources: list[Mapping[str, Any]], conversions: frozenset[str] | None) -> Iterator[tuple[str, str, str]]:
    for ident, times in Counter(str(one.get("id")) for one in sources).items():
        if times > 1:
            yield f"hnai_ot_sources[{shown(ident)}].id", f"is used {times} times", "give each source an id of its own"
    yield from _alone([one for one in sources if one.get("protocol") == "modbus"])
    yield from _dialled_twice(sources)
    for source in sources:
        key, protocol = f"hnai_ot_sources[{shown(source.get('id'))}]", source.get("protocol")
        if not isinstance(protocol, str) or protocol not in SOURCES:
            if not is_template(protocol):
                yield f"{key}.protocol", *Words(PROTOCOLS).against(protocol)
            continue
        yield from _keys(key, {name: value for name, value in source.items() if name != "protocol"}, SOURCES[protocol])
        yield from _together(key, source)
        tags = source.get("tags")
        if not is_template(tags) and not (isinstance(tags, (list, tuple)) and tags and all(isinstance(tag, Mapping) for tag in tags)):
            yield f"{key}.tags", f"{repr(tags)[:60]} is no list of tags", "write what is mirrored: a list of {name, type, …}"
        listed = [tag for tag in tags if isinstance(tag, Mapping)] if isinstance(tags, (list, tuple)) else []
        # The store has them in small letters.
        names = Counter(str(tag.get("name")).lower() for tag in listed)
        canary = source.get("canary")
        if canary is not None and not is_template([canary, tags]):
            meant = next((tag for tag in listed if str(tag.get("name")) == str(canary)), None)
            if meant is None:
                yield f"{key}.canary", f"{repr(canary)[:60]} is none of its tags", "name the tag that counts up"
            elif meant.get("kind") == "on_change" or (meant.get("type") in TYPES and meant["type"] not in _NUMERIC):
                yield f"{key}.canary", f"{repr(canary)[:60]} does not count: it is {meant.get('type')}, {meant.get('kind', 'cyclic')}", "name a cyclic number"
        for name, times in names.items():
            if times > 1:
                yield f"{key}.tags[{shown(name)}]", f"this name is used {times} times: two tags would be one series", "name each tag once"
        for tag in listed:
            inside = f"{key}.tags[{shown(tag.get('name'))}]"
            yield from _keys(inside, tag, TAGS[protocol])
            yield from _unit(inside, tag, conversions)
        yield from _PLACES[protocol](key, listed)


def _keys(key: str, given: Mapping[str, Any], rules: Mapping[str, Rule]) -> Iterator[tuple[str, str, str]]:
    """Of one map: keys that nothing reads, keys that are missing, values that cannot be."""
    for name in sorted(set(map(str, given)) - set(rules)):
        near = difflib.get_close_matches(name, rules, n=1)
        yield f"{key}.{shown(name)}", "is a key that nothing reads", f"did you mean {near[0]}? correct it or remove it" if near else "remove it"
    for name, rule in rules.items():
        value = given.get(name)
        if is_template(value) or rule is None:
            continue
        if isinstance(rule, Mapping):
            if isinstance(value, Mapping):
                yield from _keys(f"{key}.{name}", value, rule)
            elif value is not None:
                yield f"{key}.{name}", f"{repr(value)[:60]} is no map", f"write {{{', '.join(rule)}}}, each if need be"
        elif value is None or (value == "" and rule.needed):
            if rule.needed:
                _said, remedy = rule.against(None)
                yield f"{key}.{name}", "is missing", remedy
        else:
            said, remedy = rule.against(value)
            if said:
                yield f"{key}.{name}", said, remedy


def _number(given: Mapping[str, Any], name: str, default: float) -> float:
    value = given.get(name, default)
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else default


def _alone(sources: list[Mapping[str, Any]]) -> Iterator[tuple[str, str, str]]:
    """The address at which the filter stands for a device is that device's alone."""
    holders: dict[str, str] = {}
    for source in sources:
        given, ident = source.get("filter"), str(source.get("id"))
        address = given.get("address") if isinstance(given, Mapping) else None
        if isinstance(address, str) and address and not is_template(address) and holders.setdefault(address, ident) != ident:
            message = f"stands for {shown(holders[address])} too"
            yield f"hnai_ot_sources[{shown(ident)}].filter.address", message, "give each device one of its own, as 127.0.1.2"


def _dialled_twice(sources: list[Mapping[str, Any]]) -> Iterator[tuple[str, str, str]]:
    """A device has one session of ours and its budget once."""
    holders: dict[tuple[Any, ...], str] = {}
    for source in sources:
        ident, where, protocol = str(source.get("id")), source.get("asset") or source.get("host"), source.get("protocol")
        if protocol == "opcua" and isinstance(source.get("endpoint"), str):
            scheme, _slashes, rest = source["endpoint"].rstrip("/").partition("://")
            server, _slash, path = rest.partition("/")
            port = server.rpartition("]")[2].rpartition(":")[2]
            device: tuple[Any, ...] = (scheme, str(where or server), port, path)
        elif protocol == "modbus":
            device = (protocol, str(where), str(source.get("port", 502)), str(source.get("unit", 1)))
        else:
            continue
        if not is_template(list(device)) and holders.setdefault(device, ident) != ident:
            message = f"reads the device of {shown(holders[device])} too, which would bear both"
            yield f"hnai_ot_sources[{shown(ident)}]", message, "put the tags of one device into one source"


def _together(key: str, source: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """What several keys of a source say together."""
    if source["protocol"] == "opcua":
        least = 3 * _number(source, "keepalive_count", 10)
        if _number(source, "lifetime_count", max(60, least)) < least:
            yield f"{key}.lifetime_count", "is less than 3 times keepalive_count (OPC 10000-4, CreateSubscription)", f"write {least:g} or more"
        tags = source.get("tags")
        polled = [tag for tag in tags if isinstance(tag, Mapping) and tag.get("mode") == "poll"] if isinstance(tags, (list, tuple)) else []
        rate = sum(1000.0 / max(_number(tag, "sampling_ms", 1000), 1.0) for tag in polled)
        limits = source.get("limits")
        most = _number(limits, "reads_per_second", 50) if isinstance(limits, Mapping) else 50.0
        if rate > most:
            yield f"{key}.tags", f"{rate:.1f} values are polled a second, limits.reads_per_second is {most:g}", "poll less often, or subscribe"
    topic, heard = source.get("topic"), f"line/{source.get('id')}"
    if source["protocol"] == "mqtt" and isinstance(topic, str) and topic not in ("", heard) and not is_template([topic, heard]):
        yield f"{key}.topic", f"{topic[:60]!r} is not where the bridge hears it, and a line may speak nowhere else", f"write {shown(heard)}"
    given = source.get("filter")
    if source["protocol"] == "modbus" and given is None:
        remedy = "write filter: {address: 127.0.1.1}, the loopback address at which modbus_filter stands for it"
        yield f"{key}.filter", "is missing, and the collector may dial no Modbus device", remedy
    address = given.get("address") if isinstance(given, Mapping) else None
    if isinstance(address, str) and address and not is_template(address):
        try:
            loopback = ipaddress.ip_address(address).is_loopback
        except ValueError:
            loopback = False
        if not loopback:
            yield f"{key}.filter.address", f"{repr(address)[:60]} is no loopback address", "write one that stands for the device alone, as 127.0.1.1"


def _unit(key: str, tag: Mapping[str, Any], conversions: frozenset[str] | None) -> Iterator[tuple[str, str, str]]:
    """A unit that is to become another one."""
    unit = tag.get("unit") or ""
    to = tag.get("unit_to", unit) or ""
    if is_template([unit, to]) or not isinstance(unit, str) or not isinstance(to, str) or unit == to:
        return
    if tag.get("type") in TYPES and tag.get("type") not in _NUMERIC:
        yield f"{key}.unit_to", f"{tag['type']} is no number: {unit!r} cannot become {to!r}", "leave unit and unit_to empty"
    elif conversions is not None and f"{unit}>{to}" not in conversions:
        near = sorted(pair for pair in conversions if pair.startswith(f"{unit}>"))
        remedy = f"known are {', '.join(near or sorted(conversions))}; store it as it comes (unit_to: the same)"
        yield f"{key}.unit_to", f"nobody can turn {unit[:40]!r} into {to[:40]!r}", f"{remedy}; or declare it in hnai_units"


def _opcua_places(key: str, tags: list[Mapping[str, Any]]) -> Iterator[tuple[str, str, str]]:
    holders: dict[str, str] = {}
    for tag in tags:
        node, name = tag.get("node"), shown(tag.get("name"))
        if not isinstance(node, str) or is_template(node):
            continue
        found = NODE.match(node)
        if found and not found["uri"] and found["kind"] != "i":
            yield f"{key}.tags[{name}].node", f"{node[:60]!r} does not say whose it is", "write nsu=<namespace URI>; before it"
        elif found and not _identifies(found["kind"], found["id"]):
            what = {"i": "number below 2^32", "s": "text", "g": "GUID", "b": "base64"}[found["kind"]]
            remedy = "copy it from the server, or take it from discover.yml"
            yield f"{key}.tags[{name}].node", f"{node[:60]!r}: what follows {found['kind']}= is no {what}", remedy
        if holders.setdefault(node, name) != name:
            message = f"is the node of {holders[node]} too: one value would be two series, and one of them by mistake"
            yield f"{key}.tags[{name}].node", message, "correct the node, or take one of the two tags out"


def _identifies(kind: str, identifier: str) -> bool:
    try:
        if kind == "i":
            return identifier.isascii() and identifier.isdigit() and len(identifier) < 11 and int(identifier) < 1 << 32
        if kind == "g":
            return str(uuid.UUID(identifier)) == identifier.lower()
        return kind != "b" or bool(base64.b64decode(identifier, validate=True))
    except ValueError:
        return False


def _modbus_places(key: str, tags: list[Mapping[str, Any]]) -> Iterator[tuple[str, str, str]]:
    holders: dict[int, str] = {}
    for tag in tags:
        first, name = tag.get("address"), shown(tag.get("name"))
        width = WIDTHS.get(str(tag.get("encoding")), 1)
        if not isinstance(first, int) or isinstance(first, bool) or not 0 <= first <= 65535:
            continue
        if first + width > 65536:
            yield f"{key}.tags[{name}].address", f"{first} and {width - 1} more is beyond 65535, the last register", f"write {65536 - width} at most"
            continue
        others = sorted({holders[register] for register in range(first, first + width) if register in holders} - {name})
        if others:
            message = f"{first} to {first + width - 1} is read as {', '.join(others)} too: one of them by mistake"
            yield f"{key}.tags[{name}].address", message, "correct address or encoding of one of them"
        for register in range(first, first + width):
            holders.setdefault(register, name)
        if tag.get("scale") == 0:
            yield f"{key}.tags[{name}].scale", "0 makes every value 0", "write what one count is worth"


def _sparkplug_places(key: str, tags: list[Mapping[str, Any]]) -> Iterator[tuple[str, str, str]]:
    holders: dict[tuple[str, str], str] = {}
    for tag in tags:
        metric, device, name = tag.get("metric"), tag.get("device") or "", shown(tag.get("name"))
        if isinstance(metric, str) and not is_template([metric, device]) and holders.setdefault((str(device), metric), name) != name:
            yield f"{key}.tags[{name}].metric", f"is the metric of {holders[str(device), metric]} too", "correct the metric, or take one of the two tags out"


_PLACES = {"opcua": _opcua_places, "modbus": _modbus_places, "sparkplug": _sparkplug_places, "mqtt": lambda _key, _tags: iter(())}
