# SPDX-License-Identifier: Apache-2.0
"""Configuration: read, checked, typed. Errors name file and key."""
from __future__ import annotations

import base64
import json
import re
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from .record import TYPES

NAME = re.compile(r"^[a-zA-Z_][a-zA-Z0-9_]*$")
SOURCE = re.compile(r"^[a-zA-Z0-9][a-zA-Z0-9_-]*$")
NODE = re.compile(r"^(?:nsu=(?P<uri>[^;]+);)?(?P<kind>[sigb])=(?P<id>.+)$")
SEGMENT = re.compile(r"^[^/+#\x00]+$")
"""One level of an MQTT topic, without a wildcard."""
_IDENTIFIERS = {"i": "number below 2^32", "s": "text", "g": "GUID", "b": "base64"}
WIDTHS = {"float32": 2, "float64": 4, "uint16": 1, "int16": 1, "uint32": 2, "int32": 2}


class ConfigError(ValueError):
    """Something in the configuration is wrong; the text names file and key."""


@dataclass(frozen=True)
class Limits:
    """What a source may be asked for. ``new_per_minute`` is the conduit's limit on new connections."""

    new_per_minute: int = 6
    burst: int = 2
    items_per_call: int = 100
    reads_per_call: int = 100
    reads_per_second: float = 50.0


@dataclass(frozen=True)
class OpcuaTag:
    """One variable. *node* is ``nsu=<namespace URI>;s=<id>``: the index is looked up on each connect."""

    name: str
    uri: str
    kind: str
    identifier: str
    type: str
    cyclic: bool
    poll: bool
    sampling_ms: float
    queue: int


@dataclass(frozen=True)
class OpcuaSource:
    """One OPC UA server."""

    id: str
    endpoint: str
    policy: str
    mode: str
    server_certificate: Path
    certificate: Path
    private_key: Path
    application_uri: str
    username: str
    publishing_ms: float
    keepalive_count: int
    lifetime_count: int
    silent_keepalives: int
    session_timeout_s: float
    request_timeout_s: float
    connect_timeout_s: float
    channel_lifetime_s: float
    repeat_s: float
    retry_s: float
    limits: Limits
    tags: tuple[OpcuaTag, ...]

    @property
    def silence_s(self) -> float:
        """Without any publish for this long the link is lost."""
        return self.silent_keepalives * self.keepalive_count * self.publishing_ms / 1000.0


@dataclass(frozen=True)
class ModbusTag:
    """One value in registers; *address* is 0-based."""

    name: str
    address: int
    encoding: str
    type: str
    scale: float
    nan: bool

    @property
    def width(self) -> int:
        """Registers that the value takes."""
        return WIDTHS[self.encoding]


@dataclass(frozen=True)
class ModbusSource:
    """One Modbus TCP device. *table* is ``input`` or ``holding``; *word_order* ``big`` = high word first."""

    id: str
    host: str
    port: int
    unit: int
    table: str
    word_order: str
    poll_ms: float
    timeout_s: float
    gap_registers: int
    limits: Limits
    tags: tuple[ModbusTag, ...]


@dataclass(frozen=True)
class SparkplugTag:
    """One metric; *device* is empty for a metric of the node itself."""

    name: str
    device: str
    metric: str
    type: str
    cyclic: bool


@dataclass(frozen=True)
class SparkplugSource:
    """One Sparkplug B edge node behind the site's broker."""

    id: str
    host: str
    port: int
    username: str
    ca: Path
    group: str
    node: str
    repeat_s: float
    keepalive_s: int
    connect_timeout_s: float
    limits: Limits
    tags: tuple[SparkplugTag, ...]

    @property
    def client_id(self) -> str:
        """Always the same: the broker keeps what it has for us under this name."""
        return "ot-collector.%s" % self.id


@dataclass(frozen=True)
class Config:
    """The whole program."""

    status_file: Path
    state_file: Path
    queue_records: int
    sources: tuple[OpcuaSource | ModbusSource | SparkplugSource, ...] = field(default_factory=tuple)


class _Reader:
    """Typed access to one JSON object; remembers where it stands and which keys were used."""

    def __init__(self, file: str, path: str, raw: Any) -> None:
        self.file, self.path = file, path
        if not isinstance(raw, dict):
            self._raise("", "must be an object")
        self._raw: dict[str, Any] = raw
        self._used: set[str] = set()

    def _raise(self, key: str, what: str) -> NoReturn:
        raise ConfigError("%s: %s%s: %s" % (self.file, self.path, "." + key if key else "", what))

    def get(self, key: str, kind: type | tuple[type, ...], default: Any = None, required: bool = False) -> Any:
        self._used.add(key)
        value = self._raw.get(key)
        if value is None:
            if required:
                self._raise(key, "is missing")
            return default
        if isinstance(value, bool) and kind is not bool:
            self._raise(key, "must not be a boolean")
        if not isinstance(value, kind):
            self._raise(key, "has the wrong type (%s)" % type(value).__name__)
        return value

    def text(self, key: str, default: str | None = None, one_of: tuple[str, ...] = ()) -> str:
        value: str = self.get(key, str, default, required=default is None)
        if one_of and value not in one_of:
            self._raise(key, "is %r, must be one of %s" % (value, ", ".join(one_of)))
        return value

    def number(self, key: str, default: float | None = None, least: float = 0.0) -> float:
        value = float(self.get(key, (int, float), default, required=default is None))
        if value < least:
            self._raise(key, "is %g, must be >= %g" % (value, least))
        return value

    def integer(self, key: str, default: int | None = None, least: int = 0, most: int = 2**31) -> int:
        value: int = self.get(key, int, default, required=default is None)
        if not least <= value <= most:
            self._raise(key, "is %d, must be %d to %d" % (value, least, most))
        return value

    def match(self, key: str, pattern: re.Pattern[str]) -> re.Match[str]:
        found = pattern.fullmatch(self.text(key))
        if found is None:
            self._raise(key, "is %r, must look like %s" % (self._raw[key], pattern.pattern))
        return found

    def done(self) -> None:
        """Raises for keys that nobody asked for: a misspelt setting is no setting."""
        unknown = sorted(set(self._raw) - self._used)
        if unknown:
            self._raise(unknown[0], "is unknown")

    def child(self, key: str, default: Any = None) -> _Reader:
        return _Reader(self.file, "%s.%s" % (self.path, key), self.get(key, dict, default, required=default is None))

    def children(self, key: str) -> list[_Reader]:
        return [_Reader(self.file, "%s.%s[%d]" % (self.path, key, i), raw)
                for i, raw in enumerate(self.get(key, list, required=True))]


def _limits(reader: _Reader) -> Limits:
    raw = reader.child("limits", {})
    plain = Limits()
    limits = Limits(
        new_per_minute=raw.integer("new_per_minute", plain.new_per_minute, 1, 600),
        burst=raw.integer("burst", plain.burst, 1, 600),
        items_per_call=raw.integer("items_per_call", plain.items_per_call, 1),
        reads_per_call=raw.integer("reads_per_call", plain.reads_per_call, 1),
        reads_per_second=raw.number("reads_per_second", plain.reads_per_second, 0.1),
    )
    raw.done()
    return limits


def _identifies(kind: str, identifier: str) -> bool:
    """Whether *identifier* can be one of its *kind*: found here it costs a deployment, at the server the whole source."""
    try:
        if kind == "i":
            return identifier.isascii() and identifier.isdigit() and int(identifier) < 1 << 32
        if kind == "g":
            return str(uuid.UUID(identifier)) == identifier.lower()
        return kind != "b" or bool(base64.b64decode(identifier, validate=True))
    except ValueError:
        return False


def _opcua(reader: _Reader, source_id: str) -> OpcuaSource:
    tags = []
    for raw in reader.children("tags"):
        name = raw.match("name", NAME).group(0)
        node = raw.match("node", NODE)
        if not node.group("uri") and node.group("kind") != "i":
            raw._raise("node", "needs nsu=<namespace URI>;")
        if not _identifies(node.group("kind"), node.group("id")):
            raw._raise("node", "is %r: what follows %s= is no %s" % (node.group(0), node.group("kind"), _IDENTIFIERS[node.group("kind")]))
        tags.append(OpcuaTag(
            name=name, uri=node.group("uri") or "", kind=node.group("kind"), identifier=node.group("id"),
            type=raw.text("type", None, TYPES), cyclic=raw.text("kind", "cyclic", ("cyclic", "on_change")) == "cyclic",
            poll=raw.text("mode", "subscribe", ("subscribe", "poll")) == "poll",
            sampling_ms=raw.number("sampling_ms", 1000.0), queue=raw.integer("queue", 10, 1),
        ))
        raw.done()
    source = OpcuaSource(
        id=source_id, endpoint=reader.text("endpoint"),
        policy=reader.text("policy", "Basic256Sha256", ("Basic256Sha256", "Aes128Sha256RsaOaep", "Aes256Sha256RsaPss")),
        mode=reader.text("mode", "SignAndEncrypt", ("Sign", "SignAndEncrypt")),
        server_certificate=Path(reader.text("server_certificate")), certificate=Path(reader.text("certificate")),
        private_key=Path(reader.text("private_key")), application_uri=reader.text("application_uri"),
        username=reader.text("username", ""), publishing_ms=reader.number("publishing_ms", 500.0, 10.0),
        keepalive_count=reader.integer("keepalive_count", 10, 1), lifetime_count=reader.integer("lifetime_count", 60, 3),
        silent_keepalives=reader.integer("silent_keepalives", 3, 1),
        session_timeout_s=reader.number("session_timeout_s", 30.0, 5.0),
        request_timeout_s=reader.number("request_timeout_s", 5.0, 0.1),
        connect_timeout_s=reader.number("connect_timeout_s", 9.0, 1.0),
        channel_lifetime_s=reader.number("channel_lifetime_s", 3600.0, 2.0),
        repeat_s=reader.number("repeat_s", 60.0, 1.0), retry_s=reader.number("retry_s", 10.0, 1.0),
        limits=_limits(reader), tags=tuple(tags),
    )
    if source.lifetime_count < 3 * source.keepalive_count:
        reader._raise("lifetime_count", "must be at least 3 x keepalive_count (OPC 10000-4, CreateSubscription)")
    if source.session_timeout_s > 60.0:
        reader._raise("session_timeout_s", "must be <= 60: a killed collector must not hold a session of a PLC")
    polled = sum(1000.0 / max(tag.sampling_ms, 1.0) for tag in tags if tag.poll)
    if polled > source.limits.reads_per_second:
        reader._raise("tags", "poll %.1f values/s, limits.reads_per_second is %.1f" % (polled, source.limits.reads_per_second))
    return source


def _modbus(reader: _Reader, source_id: str) -> ModbusSource:
    tags = []
    for raw in reader.children("tags"):
        encoding = raw.text("encoding", None, tuple(WIDTHS))
        tags.append(ModbusTag(
            name=raw.match("name", NAME).group(0), address=raw.integer("address", None, 0, 65535), encoding=encoding,
            type=raw.text("type", None, TYPES), scale=raw.number("scale", 1.0, -1e300),
            nan=raw.get("nan_is_bad", bool, encoding.startswith("float")),
        ))
        raw.done()
    return ModbusSource(
        id=source_id, host=reader.text("host"), port=reader.integer("port", 502, 1, 65535), unit=reader.integer("unit", 1, 0, 255),
        table=reader.text("table", "input", ("input", "holding")), word_order=reader.text("word_order", None, ("big", "little")),
        poll_ms=reader.number("poll_ms", 1000.0, 20.0), timeout_s=reader.number("timeout_s", 1.0, 0.05),
        gap_registers=reader.integer("gap_registers", 8, 0, 100), limits=_limits(reader), tags=tuple(tags),
    )


def _sparkplug(reader: _Reader, source_id: str) -> SparkplugSource:
    tags = []
    for raw in reader.children("tags"):
        device = raw.text("device", "")
        if device and not SEGMENT.match(device):
            raw._raise("device", "is %r, must look like %s" % (device, SEGMENT.pattern))
        metric = raw.text("metric")
        if not metric or metric == "bdSeq":
            raw._raise("metric", "must name a metric of the node's or device's birth")
        tags.append(SparkplugTag(raw.match("name", NAME).group(0), device, metric, raw.text("type", None, TYPES),
                                 raw.text("kind", "on_change", ("cyclic", "on_change")) == "cyclic"))
        raw.done()
    metrics = [(tag.device, tag.metric) for tag in tags]
    twice = sorted({"/".join(one) for one in metrics if metrics.count(one) > 1})
    if twice:
        reader._raise("tags", "metric %s stands twice" % ", ".join(twice))
    return SparkplugSource(
        id=source_id, host=reader.text("host"), port=reader.integer("port", 8883, 1, 65535), username=reader.text("username"),
        ca=Path(reader.text("ca")), group=reader.match("group", SEGMENT).group(0), node=reader.match("node", SEGMENT).group(0),
        repeat_s=reader.number("repeat_s", 60.0, 1.0), keepalive_s=reader.integer("keepalive_s", 30, 5, 300),
        connect_timeout_s=reader.number("connect_timeout_s", 9.0, 1.0), limits=_limits(reader), tags=tuple(tags),
    )


_READERS: dict[str, Callable[[_Reader, str], OpcuaSource | ModbusSource | SparkplugSource]] = {
    "opcua": _opcua, "modbus": _modbus, "sparkplug": _sparkplug}


def parse(raw: Any, file: str) -> Config:
    """The configuration from decoded JSON. Raises ConfigError."""
    reader = _Reader(file, "$", raw)
    sources: list[OpcuaSource | ModbusSource | SparkplugSource] = []
    for item in reader.children("sources"):
        source_id = item.match("id", SOURCE).group(0)
        protocol = item.text("protocol", None, tuple(_READERS))
        source = _READERS[protocol](item, source_id)
        item.done()
        names = [tag.name for tag in source.tags]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ConfigError("%s: %s.tags: %s stands twice" % (file, item.path, ", ".join(twice)))
        sources.append(source)
    ids = [source.id for source in sources]
    if len(set(ids)) != len(ids):
        raise ConfigError("%s: $.sources: two sources have one id" % file)
    config = Config(
        status_file=Path(reader.text("status_file")), state_file=Path(reader.text("state_file")),
        queue_records=reader.integer("queue_records", 100_000, 100), sources=tuple(sources),
    )
    reader.done()
    return config


def load(path: Path) -> Config:
    """The configuration of a file. Raises ConfigError."""
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError("%s: %s" % (path, error)) from error
    return parse(raw, str(path))


def credential(environment: Mapping[str, str], source_id: str, name: str = "") -> str:
    """A credential from systemd's directory, by default the password of an OPC UA source. Raises ConfigError naming it."""
    name = name or "opcua_%s_password" % re.sub(r"[-.]", "_", source_id)
    directory = environment.get("CREDENTIALS_DIRECTORY")
    if not directory:
        raise ConfigError("source %s: no CREDENTIALS_DIRECTORY; the unit that starts the collector needs LoadCredentialEncrypted=%s" % (source_id, name))
    try:
        return (Path(directory) / name).read_text(encoding="utf-8").strip("\n")
    except OSError as error:
        raise ConfigError("source %s: credential %s: %s" % (source_id, name, error)) from error
