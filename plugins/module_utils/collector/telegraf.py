# SPDX-License-Identifier: Apache-2.0
"""What a Telegraf can do: its plugins by what they are able to, and the plugins that a configuration loads.

The table names what was looked at in Telegraf's own documentation of each plugin (plugins/<kind>/<name>/README.md, 1.39). What it does
not name is *unknown*: nobody said that it cannot write, so a verdict that meets it is inconclusive.
"""
from __future__ import annotations

import importlib
import os
import posixpath
import re
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

READS, SHIPS, EXECUTES, WRITES, OPENS, UNKNOWN = "reads", "ships", "executes", "writes", "opens a port", "unknown"


def _table(**kinds: Mapping[str, str]) -> dict[str, str]:
    return {"%s.%s" % (kind, name): what for kind, groups in kinds.items() for what, names in groups.items() for name in names.split()}


PLUGINS = _table(
    inputs={
        READS: "internal opcua opcua_listener modbus s7comm mqtt_consumer kafka_consumer cpu mem disk diskio net netstat nstat system kernel "
               "kernel_vmstat processes swap chrony conntrack file tail filecount filestat interrupts linux_sysctl_fs mdstat procstat "
               "sensors smart snmp socketstat systemd_units temp wireless x509_cert dns_query ping mock",
        EXECUTES: "exec execd",
        OPENS: "http_listener http_listener_v2 influxdb_listener influxdb_v2_listener opentelemetry socket_listener statsd syslog tcp_listener "
               "udp_listener webhooks snmp_trap cisco_telemetry_mdt netflow github_webhooks kinesis_consumer",
    },
    outputs={
        SHIPS: "kafka mqtt http influxdb influxdb_v2 timestream elasticsearch opensearch postgresql sql questdb amqp nats",
        READS: "file discard",
        EXECUTES: "exec execd",
        # A raw stream to any address is a Modbus frame to a controller when somebody gives it one.
        WRITES: "opcua modbus s7comm bacnet socket_writer websocket",
        OPENS: "prometheus_client health",
    },
    processors={
        READS: "starlark rename converter enum regex template dedup filter override parser pivot unpivot topk date defaults clone printer "
               "strings tag_limit timestamp noise round scale split cumulative_sum lookup batch s2geo port_name ifname",
        EXECUTES: "execd",
    },
    aggregators={READS: "basicstats derivative final histogram merge minmax quantile starlark valuecounter"},
    secretstores={READS: "docker systemd os jose"},
)
KINDS = ("inputs", "outputs", "processors", "aggregators", "secretstores")
_OTHER = frozenset({"agent", "global_tags", "tags"})
#: Keys in which a plugin is told where it sends, proxies and the like too, and the port that a URL without one means.
_TARGETS = re.compile(r"(?:^|_)(?:servers?|brokers|urls?|address(?:es)?|endpoints?)$")
_PORTS = {"https": 443, "http": 80, "ssl": 8883, "tls": 8883, "mqtts": 8883, "mqtt": 1883, "tcp": 0}
#: Settings of reading plugins that name a program.
_PROGRAMS = {"inputs.ping": ("binary",), "inputs.smart": ("path", "path_smartctl", "path_nvme")}
_VARIABLE = re.compile(r"\$\{?[A-Za-z_]")
_TEMPLATE = re.compile(r"\{\{.*?\}\}", re.S)


class CannotTell(Exception):
    """What the process was given cannot be read, or may not be what it loaded."""


@dataclass(frozen=True)
class Plugin:
    """One loaded plugin: *name* as ``inputs.execd``, *settings* as the file has them, *where* the file."""

    name: str
    settings: Mapping[str, Any]
    where: str

    @property
    def kind(self) -> str:
        """What it is able to."""
        return PLUGINS.get(self.name, UNKNOWN)

    @property
    def text(self) -> str:
        """For people."""
        alias = self.settings.get("alias")
        return "%s%s in %s" % (self.name, " (%s)" % alias if alias else "", self.where)

    @property
    def command(self) -> list[str]:
        """What it executes. Raises CannotTell where a variable hides it."""
        given = self.settings.get("command", self.settings.get("commands", []))
        words = [str(one) for one in given] if isinstance(given, list) else str(given).split()
        if any(_VARIABLE.search(word) for word in words):
            raise CannotTell("%s: its command is made of variables" % self.text)
        return words

    @property
    def programs(self) -> list[str]:
        """What it executes although its kind is to read."""
        return [str(self.settings[key]) for key in _PROGRAMS.get(self.name, ()) if self.settings.get(key)]

    @property
    def hidden(self) -> str:
        """The file that a variable names; empty: none."""
        given = [str(one) for one in self.settings.get("files") or []] if self.name == "outputs.file" else []
        return next((one for one in given if _VARIABLE.search(one)), "")

    def targets(self) -> list[tuple[str, int]]:
        """(host, port) of each server that it is told. Raises CannotTell, also where it is told none that is understood."""
        found = []
        for key, given in self.settings.items():
            if not _TARGETS.search(key):
                continue
            for one in given if isinstance(given, list) else [given]:
                text = str(one)
                if _VARIABLE.search(text):
                    raise CannotTell("%s: %s is made of variables" % (self.text, key))
                where = urlsplit(text if "://" in text else "tcp://" + text)
                try:
                    found.append((where.hostname or "", where.port or _PORTS.get(where.scheme, 0)))
                except ValueError:
                    raise CannotTell("%s: %s %r is no address" % (self.text, key, text)) from None
        if not found:
            raise CannotTell("%s does not say where it sends" % self.text)
        return found

    def topics(self) -> str:
        """A filter of what an ``outputs.mqtt`` publishes to. What a template fills in counts as one level, a topic of nothing else as any.

        Raises CannotTell.
        """
        given = str(self.settings.get("topic", ""))
        if _VARIABLE.search(given):
            raise CannotTell("%s: its topic is made of variables" % self.text)
        levels = ["+" if "+" in level else level for level in _TEMPLATE.sub("+", given).split("/")]
        if levels in (["+"], [""]):
            return "#"
        # These put the name of a field behind it.
        return "/".join(levels + (["#"] if self.settings.get("layout") in ("field", "homie-v4") else []))

    def reach(self) -> str:
        """A filter of what it may publish to when what a template fills in has slashes, which Telegraf leaves as they are (1.39). Raises CannotTell."""
        levels = self.topics().split("/")
        return "/".join([*levels[:levels.index("+")], "#"] if "+" in levels else levels)


@dataclass
class Loaded:
    """What a configuration loads."""

    files: list[Path] = field(default_factory=list)
    plugins: list[Plugin] = field(default_factory=list)


def files(argv: Sequence[str], variable: str | None = None) -> list[Path]:
    """The configuration files that the arguments of a running Telegraf name, directories resolved. Raises CannotTell.

    *variable*: its TELEGRAF_CONFIG_PATH.
    """
    named: list[Path] = []
    words = iter(argv[1:])
    for word in words:
        flag, equals, value = word.partition("=")
        flag = "--" + flag.lstrip("-") if flag.startswith("-") else flag
        if flag in ("--config", "--config-directory"):
            value = value if equals else next(words, "")
            if "://" in value:
                raise CannotTell("it was told to load %s over the network" % value)
            if not value.startswith("/"):
                raise CannotTell("%s %s is no absolute path" % (flag, value))
            named += [Path(value)] if flag == "--config" else _directory(Path(value))
        elif flag in ("--plugin-directory",):
            raise CannotTell("it loads plugins from outside (%s)" % word)
        elif flag == "--non-strict-env-handling":
            raise CannotTell("a variable of its environment may be any part of its configuration (%s)" % word)
        elif flag not in ("--quiet", "--debug", "--watch-config", "--pidfile", "--unprotected", "--strict-env-handling", "run"):
            raise CannotTell("its argument %s is not understood" % word)
        elif flag in ("--pidfile", "--watch-config") and not equals:
            next(words, "")
    if not named and variable:
        raise CannotTell("its configuration is named by a variable: %s" % variable)
    if not named:
        raise CannotTell("its arguments name no configuration file")
    return [one for path in named for one in (_directory(path) if path.is_dir() else [path])]


def _directory(path: Path) -> list[Path]:
    if not path.is_dir():
        raise CannotTell("%s is no directory" % path)
    return sorted(path.rglob("*.conf"))


def parse(text: str, where: str) -> list[Plugin]:
    """The plugins of one file. Raises CannotTell."""
    try:
        tomllib: Any = importlib.import_module("tomllib")
    except ImportError:
        raise CannotTell("this host's Python reads no TOML (3.11 does)") from None
    try:
        data = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise CannotTell("%s cannot be read: %s" % (where, error)) from None
    found = []
    for kind, tables in data.items():
        if kind in _OTHER:
            continue
        if kind not in KINDS or not isinstance(tables, dict):
            raise CannotTell("%s: [%s] is not understood" % (where, kind))
        for name, given in tables.items():
            for settings in given if isinstance(given, list) else [given]:
                if not isinstance(settings, dict):
                    raise CannotTell("%s: %s.%s is not understood" % (where, kind, name))
                found.append(Plugin("%s.%s" % (kind, name), settings, where))
    return found


def load(paths: Iterable[Path]) -> Loaded:
    """Everything that *paths* load. Raises CannotTell."""
    result = Loaded()
    for path in paths:
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise CannotTell("%s cannot be read: %s" % (path, error)) from None
        result.files.append(path)
        result.plugins += parse(text, str(path))
    return result


def scripts(plugins: Iterable[Plugin]) -> Iterator[Path]:
    """Files that belong to the loaded configuration although they are no part of it."""
    for plugin in plugins:
        script = plugin.settings.get("script")
        if plugin.name.endswith(".starlark") and script:
            yield Path(str(script))


def is_device(path: str) -> bool:
    """Whether what is written to *path* may leave by a serial line, a pin or the like; a relative one is taken from the root."""
    plain = posixpath.normpath("/" + path.lstrip("/"))
    if plain in ("/dev/null", "/dev/stdout", "/dev/stderr"):
        return False
    real = os.path.realpath(plain)
    if any(one.startswith(("/dev/", "/sys/")) and one.split("/")[2] != "shm" for one in (plain, real)):
        return True
    try:
        mode = os.stat(real).st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def able(plugin: Plugin) -> str:
    """Why a loaded plugin could write to a plant by itself; empty: it could not, or the caller must look at what it is told."""
    if plugin.kind == WRITES:
        return "%s writes to what it is pointed at" % plugin.text
    if plugin.kind == OPENS:
        return "%s opens a port: what comes in by it is not ours" % plugin.text
    devices = [one for one in plugin.settings.get("files") or [] if plugin.name == "outputs.file" and is_device(str(one))]
    if devices:
        return "%s writes to the device %s" % (plugin.text, ", ".join(devices))
    if plugin.name == "inputs.http" and str(plugin.settings.get("method", "GET")).upper() not in ("GET", "HEAD"):
        return "%s sends %s requests" % (plugin.text, plugin.settings["method"])
    return ""
