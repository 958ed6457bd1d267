# SPDX-License-Identifier: Apache-2.0
"""Mistakes in what an inventory says that the site model does not look at: options of roles, ids, tags of sources.

Roles refuse an option of the wrong type too, and the collector a tag that it cannot read; but one after the other, on a host, in the middle of a run.
Values that are templates are left to the roles. Pure: what Ansible read in, findings out; whatever the shape of it.
"""

from __future__ import annotations

import difflib
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from ansible.module_utils.common.validation import check_type_bool, check_type_float, check_type_int

from ansible_collections.hnai.platform.plugins.module_utils.kafka import topics
from ansible_collections.hnai.platform.plugins.module_utils.modbus.devices import WIDTHS
from ansible_collections.hnai.platform.plugins.module_utils.zones.model import SSH, Problem

PROTOCOLS = ("modbus", "mqtt", "opcua", "sparkplug")
TYPES = ("bool", "double", "enum", "float", "int", "string")
ENCODINGS = tuple(sorted(WIDTHS))
#: As the collector takes them: ids of sources, names of tags.
SOURCE = re.compile(r"^[a-zA-Z0-9][a-zA-Z0-9_-]*\Z")
NAME = re.compile(r"^[a-zA-Z_][a-zA-Z0-9_]*\Z")
#: What a source is reached by.
_REACHED = {"opcua": "endpoint", "modbus": "host"}
#: Variables by which members of a group differ: {variable: group}.
OWN = {"kafka_node_id": "kafka"}
#: How the roles themselves read a scalar. A text is read from any scalar.
_SCALARS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "bool": (check_type_bool, "true or false"),
    "float": (check_type_float, "a number"),
    "int": (check_type_int, "a whole number"),
}
#: Words of a source and of a tag, where they are said.
_WORDS: dict[str, dict[str, tuple[str, ...]]] = {
    "opcua": {"policy": ("Aes128Sha256RsaOaep", "Aes256Sha256RsaPss", "Basic256Sha256"), "mode": ("Sign", "SignAndEncrypt")},
    "modbus": {"table": ("holding", "input"), "word_order": ("big", "little")},
}
_TAG_WORDS = {"kind": ("cyclic", "on_change"), "mode": ("poll", "subscribe")}
#: Keys of a source and of a tag that something reads, of whichever protocol: another one would be passed over in silence.
_SOURCE_KEYS = frozenset((
    "id", "name", "asset", "protocol", "tags", "canary", "records_per_s", "limits", "endpoint", "policy", "mode", "server_certificate_file",
    "server_certificate_next_file", "application_uri", "identity", "publishing_ms", "keepalive_count", "lifetime_count", "silent_keepalives",
    "session_timeout_s", "request_timeout_s", "connect_timeout_s", "channel_lifetime_s", "repeat_s", "retry_s", "audit", "on_refuted", "host", "port",
    "unit", "table", "word_order", "filter", "poll_ms", "timeout_s", "gap_registers", "topic", "group", "node", "keepalive_s",
))  # fmt: skip
_TAG_KEYS = frozenset((
    "name", "type", "unit", "unit_to", "kind", "codes", "path", "node", "mode", "sampling_ms", "queue", "address", "encoding", "scale", "nan_is_bad",
    "metric", "device", "description",
))  # fmt: skip
#: Options that are a size of memory as a JVM takes it, and what such a size looks like.
_SIZED = re.compile(r"_(heap|memory)$")
#: Options that say where a component stores, how such a place is written (units and shells read it), and where none can be.
_STORED = re.compile(r"_(storage|buffer)_path$")
_PLACE = re.compile(r"(/[A-Za-z0-9._-]+)+")
_HIDDEN = tuple(f"/{name}" for name in ("home", "root", "run", "tmp", "var/tmp", "dev", "proc", "sys"))
_SIZE = re.compile(r"[1-9][0-9]*[kKmMgG]?")
#: Numbers of a tag and the least that each may be.
_NUMBERS = {"sampling_ms": 1, "queue": 1}
_MARKS = ("{{", "{%", "{#")


def problems(variables: Mapping[str, Mapping[str, Any]], options: Mapping[str, Mapping[str, Any]], groups: Mapping[str, Iterable[str]],
             file: Callable[[str], str], needed: Mapping[str, str] | None = None) -> list[Problem]:
    """All of them. *variables*: of each managed host, as they are written. *options*: of all roles, by name. *file*: where a variable is set.
    *needed*: topics of Kafka that somebody reads or writes, and who."""
    found = [*_options(variables, options, file), *_own(variables, options, groups), *_topics(variables, options, groups, file, needed or {})]
    found += [*_entrances(variables, file), *_places(variables, options, groups, file)]
    first = next(iter(variables.values()), {})
    return [*found, *_sources(first.get("hnai_ot_sources"), file("hnai_ot_sources"))]


def _shown(value: Any) -> str:
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


def _options(variables: Mapping[str, Mapping[str, Any]], options: Mapping[str, Mapping[str, Any]], file: Callable[[str], str]) -> Iterator[Problem]:
    seen: dict[tuple[str, str, str, str], list[str]] = {}
    for host, written in variables.items():
        for name in written:
            if name in options and not is_template(written[name]):
                for key, complaint, remedy in _inside(options[name], name, written[name]):
                    seen.setdefault((name, key, complaint, remedy), []).append(host)
    for (name, key, complaint, remedy), hosts in seen.items():
        yield Problem(file(name), key, f"{complaint} (on {_some(hosts)})", remedy, "option")


def _entrances(variables: Mapping[str, Mapping[str, Any]], file: Callable[[str], str]) -> Iterator[Problem]:
    """Ways in that a run would shut behind itself: role host lets nobody in as root or by a password, the firewall nobody at another port."""
    seen: dict[tuple[str, str, str], list[str]] = {}
    for host, told in variables.items():
        if told.get("ansible_connection", "ssh") not in ("smart", "ssh"):
            continue
        for name in ("ansible_user", "ansible_ssh_user"):
            if told.get(name) == "root":
                remedy = "log in as a user of your own who has a key and may use sudo: ansible_user, and ansible_become: true"
                seen.setdefault((name, "root does not come in by SSH any more after the first run", remedy), []).append(host)
        for name in ("ansible_password", "ansible_ssh_pass", "ansible_ssh_password"):
            if told.get(name):
                remedy = "give the user a key on the host (ssh-copy-id), and take the variable out; sudo's password is ansible_become_password"
                seen.setdefault((name, "nobody comes in by a password any more after the first run", remedy), []).append(host)
        at, own = told.get("ansible_host", host), told.get("hnai_addresses")
        # Another address is a way there, such as a port of somebody's gateway that leads to the host's own.
        direct = is_template(at) or at == host or (isinstance(own, Mapping) and at in own.values())
        for name in ("ansible_port", "ansible_ssh_port"):
            port = told.get(name, SSH[1])
            if direct and not is_template(port) and str(port) != str(SSH[1]):
                remedy = f"let sshd listen at {SSH[1]} (a line `Port {SSH[1]}` beside its own), and take the variable out"
                seen.setdefault((name, f"{_shown(port)} is a port that no conduit opens: hosts are managed at tcp/{SSH[1]}", remedy), []).append(host)
    for (name, message, remedy), hosts in seen.items():
        yield Problem(file(name), name, f"{message} (on {_some(hosts)})", remedy, "access")


def _places(variables: Mapping[str, Mapping[str, Any]], options: Mapping[str, Mapping[str, Any]], groups: Mapping[str, Iterable[str]],
            file: Callable[[str], str]) -> Iterator[Problem]:
    """Directories of data where a unit would not find them, or that two components of a host would share."""
    remedy = "write the path of a directory of its own, such as /srv/<component>, in plain letters"
    seen: dict[tuple[str, str], list[str]] = {}
    for host, told in variables.items():
        taken: dict[str, str] = {}
        for name, value in sorted(told.items()):
            role = _STORED.sub("", name)
            if role == name or name not in options or host not in (groups.get(role) or ()) or not isinstance(value, str) or is_template(value):
                continue
            other = next((one for place, one in taken.items() if f"{value}/".startswith(f"{place}/") or f"{place}/".startswith(f"{value}/")), None)
            wrong = ""
            if not _PLACE.fullmatch(value) or {".", ".."} & set(value.split("/")):
                wrong = f"{repr(value)[:80]} is no plain absolute path"
            elif any(f"{value}/".startswith(f"{hidden}/") for hidden in _HIDDEN):
                wrong = f"{value} lies where the unit's sandbox sees nothing, or where a restart leaves nothing ({', '.join(_HIDDEN)})"
            elif other is not None:
                wrong = f"{value} is, holds or lies in that of {other}"
            if wrong:
                seen.setdefault((name, wrong), []).append(host)
            taken[value] = name
    for (name, wrong), hosts in seen.items():
        yield Problem(file(name), name, f"{wrong} (on {_some(hosts)})", remedy, "option")


def _some(hosts: list[str]) -> str:
    return ", ".join(hosts[:3]) + (" …" if len(hosts) > 3 else "")


def _inside(option: Mapping[str, Any], key: str, value: Any) -> Iterator[tuple[str, str, str]]:
    """(key, what is wrong, remedy) of an option and of what it is made of."""
    complaint = against(option, value)
    if complaint:
        kind, choices = option.get("type", "str"), option.get("choices")
        remedy = f"one of: {', '.join(map(str, choices))}" if choices else f"write {_SCALARS[kind][1] if kind in _SCALARS else f'a {kind}'}"
        yield key, complaint, remedy
    elif _SIZED.search(key) and not _SIZE.fullmatch(str(value)):
        yield key, f"{repr(value)[:60]} is no size of memory", "write a number with k, m or g behind it, such as 512m"
    elif option.get("type") == "list" and option.get("elements") and isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from _inside({**option, "type": option["elements"], "elements": None}, f"{key}[{index}]", item)
    elif option.get("type") == "dict" and option.get("options") and isinstance(value, Mapping):
        for name, inner in option["options"].items():
            if value.get(name) is not None:
                yield from _inside(inner, f"{key}.{name}", value[name])
            elif inner.get("required"):
                yield f"{key}.{name}", "is missing", f"write {name}: {' '.join(str(inner.get('description', '')).split())[:80]}"
        for name in value:
            if str(name) not in option["options"]:
                yield f"{key}.{_shown(name)}", "is unknown", f"use one of: {', '.join(option['options'])}"


def against(option: Mapping[str, Any], value: Any) -> str:
    """What is wrong with an option's value, "" where nothing is. The value of a secret is not repeated."""
    kind, shown = option.get("type", "str"), "the value" if option.get("no_log") else repr(value)[:60]
    if not isinstance(value, (bool, int, float, str, Mapping, list, tuple)):
        return ""  # nothing, or what only its reader can open: a vaulted value, a date
    if kind in ("dict", "list"):
        fits = isinstance(value, Mapping) if kind == "dict" else isinstance(value, (list, tuple, str))
        return "" if fits else f"{shown} is no {kind}"
    if isinstance(value, (Mapping, list, tuple)):
        return f"{shown} is no {kind}"
    if kind in _SCALARS:
        try:
            value = _SCALARS[kind][0](value)
        except (TypeError, ValueError, OverflowError):
            return f"{shown} is not {_SCALARS[kind][1]}"
    choices = option.get("choices")
    return f"{shown} is unknown" if choices and value not in choices else ""


def _own(variables: Mapping[str, Mapping[str, Any]], options: Mapping[str, Any], groups: Mapping[str, Iterable[str]]) -> Iterator[Problem]:
    for name, group in OWN.items():
        holders: dict[str, list[str]] = {}
        for host in groups.get(group) or ():
            value = variables.get(host, {}).get(name)
            if is_template(value) or (value is None and (name not in options or host not in variables)):
                continue
            try:
                number = -1 if value is None or isinstance(value, bool) else check_type_int(value)
            except (TypeError, ValueError, OverflowError):
                continue
            if number < 0:
                wrong = "is missing" if value is None else f"{repr(value)[:40]} is no id"
                yield Problem("inventory", f"{host}: {name}", wrong, "write a number from 0 that no other host has", "option")
            else:
                holders.setdefault(str(number), []).append(host)
        for value, hosts in holders.items():
            if len(hosts) > 1:
                message = f"{_shown(value)} is the id of {', '.join(hosts)}"
                yield Problem("inventory", f"{hosts[-1]}: {name}", message, "give each host one of its own", "option")


def _topics(variables: Mapping[str, Mapping[str, Any]], options: Mapping[str, Mapping[str, Any]], groups: Mapping[str, Iterable[str]],
            file: Callable[[str], str], needed: Mapping[str, str]) -> Iterator[Problem]:
    """Topics that the brokers would refuse, that forget what the declared outage needs, or that somebody needs and nobody declares."""
    hosts = [host for host in groups.get("kafka") or () if host in variables]
    if not hosts or "kafka_topics" not in options:
        return
    names = ("kafka_topics", "kafka_replication_factor", "kafka_min_insync_replicas")
    told, replicas, minimum = (variables[hosts[0]].get(name, options[name].get("default")) for name in names)
    listed = [one for one in told if isinstance(one, Mapping)] if isinstance(told, (list, tuple)) else []
    declared = []
    names_of = {str(one.get("name")) for one in listed}
    for topic, who in sorted(needed.items()) if not is_template(told) else ():
        if topic not in names_of:
            yield Problem(file(names[0]), f"kafka_topics[{_shown(topic)}]", f"is missing, and {who} needs it", "declare the topic", "option")
    for one in listed:
        given = one.get("config")
        config: Mapping[str, Any] = given if isinstance(given, Mapping) else {}
        settings = {"min.insync.replicas": minimum, **config}
        counts = (one.get("partitions"), one.get("replication_factor", replicas), settings["min.insync.replicas"])
        if not is_template(one) and all(_whole(count) for count in counts):
            partitions, factor, least = map(int, counts)
            declared.append(topics.Topic(_shown(one.get("name")), partitions, factor, {**{k: str(v) for k, v in settings.items()}, names[2]: str(least)}))
        outage = _outage(variables[hosts[0]].get("hnai_slo"))
        kept = config.get("retention.ms", -1)
        if _whole(kept) and 0 <= int(kept) < outage * 1000:
            message = f"{kept} milliseconds is too small for hop {_HOP}: the declared outage of {outage:g} s"
            remedy = f"set it to at least {math.ceil(outage * 1000)}, or declare a shorter outage"
            yield Problem(file(names[0]), f"kafka_topics[{_shown(one.get('name'))}].config.retention.ms", message, remedy, "buffer")
    for text in topics.check(declared, len(hosts)):
        key, _colon, rest = text.partition(": ")
        message, _semicolon, remedy = rest.rpartition("; ")
        # What a topic does not say is said for all of them.
        own = any(key.startswith(f"kafka_topics[{_shown(one.get('name'))}].") and _says(one, key) for one in listed)
        name = names[0] if own else {"replication_factor": names[1], "replicas": names[2]}.get(key.rpartition(".")[2], names[0])
        yield Problem(file(name), key if name == names[0] else name, message or rest, remedy if message else "rename it", "option")


def _says(topic: Mapping[str, Any], key: str) -> bool:
    """Whether a topic has the setting that a finding is about itself."""
    config = topic.get("config")
    return "replication_factor" in topic if key.endswith(".replication_factor") else isinstance(config, Mapping) and "min.insync.replicas" in config


_HOP = "kafka_to_store"


def _whole(value: Any) -> bool:
    return (isinstance(value, int) and not isinstance(value, bool)) or (isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20)


def _outage(slo: Any) -> float:
    """Seconds that the store's reader may be away, 0 where nobody says (which the model reports)."""
    hops = slo.get("hops") if isinstance(slo, Mapping) else None
    hop = hops.get(_HOP) if isinstance(hops, Mapping) else None
    found = hop.get("outage_s") if isinstance(hop, Mapping) else None
    return found if isinstance(found, (int, float)) and 0 < found < 1e12 else 0


def _sources(sources: Any, file: str) -> Iterator[Problem]:
    """Sources and their tags; what is no map or is a template is judged by others."""
    known = [one for one in sources if isinstance(one, Mapping)] if isinstance(sources, (list, tuple)) else []
    ids = Counter(str(one.get("id")) for one in known)
    for ident, times in ids.items():
        if times > 1:
            yield Problem(file, f"hnai_ot_sources[{_shown(ident)}].id", f"is used {times} times", "give each source an id of its own", "source")
    for source in known:
        key = f"hnai_ot_sources[{_shown(source.get('id'))}]"
        yield from _unread(file, key, source, _SOURCE_KEYS)
        yield from _one_of(file, f"{key}.protocol", source.get("protocol"), PROTOCOLS)
        yield from _like(file, f"{key}.id", source.get("id"), SOURCE)
        for word, allowed in _WORDS.get(str(source.get("protocol")), {}).items():
            yield from _one_of(file, f"{key}.{word}", source.get(word, allowed[0]), allowed)
        reached = _REACHED.get(str(source.get("protocol")))
        if reached and not source.get(reached):
            yield Problem(file, f"{key}.{reached}", "is missing", "say where the source is reached", "source")
        port = source.get("port", 1)
        if not is_template(port) and not (isinstance(port, int) and not isinstance(port, bool) and 0 < port < 65536):
            yield Problem(file, f"{key}.port", f"{repr(port)[:60]} is not one port", "write a number from 1 to 65535, without quotes", "source")
        tags = source.get("tags")
        if not is_template(tags) and not (isinstance(tags, (list, tuple)) and tags and all(isinstance(tag, Mapping) for tag in tags)):
            yield Problem(file, f"{key}.tags", f"{repr(tags)[:60]} is no list of tags", "write what is mirrored: a list of {name, type, …}", "source")
        listed = [tag for tag in tags if isinstance(tag, Mapping)] if isinstance(tags, (list, tuple)) else []
        names = Counter(str(tag.get("name")) for tag in listed)
        canary = source.get("canary")
        if canary is not None and not is_template([canary, tags]) and str(canary) not in names:
            yield Problem(file, f"{key}.canary", f"{repr(canary)[:60]} is none of its tags", "name the tag that counts up", "source")
        for name, times in names.items():
            if times > 1:
                message = f"this name is used {times} times: two tags would be one series"
                yield Problem(file, f"{key}.tags[{_shown(name)}]", message, "name each tag once", "source")
        nodes: dict[str, str] = {}
        for tag in listed if source.get("protocol") == "opcua" else ():
            node, name = tag.get("node"), _shown(tag.get("name"))
            if isinstance(node, str) and not is_template(node) and nodes.setdefault(node, name) != name:
                message = f"is the node of {nodes[node]} too: one value would be two series, and one of them by mistake"
                yield Problem(file, f"{key}.tags[{name}].node", message, "correct the node, or take one of the two tags out", "source")
        for tag in listed:
            inside = f"{key}.tags[{_shown(tag.get('name'))}]"
            yield from _unread(file, inside, tag, _TAG_KEYS)
            yield from _one_of(file, f"{inside}.type", tag.get("type"), TYPES)
            yield from _like(file, f"{inside}.name", tag.get("name"), NAME)
            for word, allowed in _TAG_WORDS.items():
                yield from _one_of(file, f"{inside}.{word}", tag.get(word, allowed[0]), allowed)
            for field, least in _NUMBERS.items():
                value = tag.get(field, least)
                if not is_template(value) and not (isinstance(value, (int, float)) and not isinstance(value, bool) and least <= value < 2**31):
                    yield Problem(file, f"{inside}.{field}", f"{repr(value)[:60]} cannot be", f"write a number from {least}", "source")
            if source.get("protocol") == "modbus":
                yield from _one_of(file, f"{inside}.encoding", tag.get("encoding", "uint16"), ENCODINGS)


def _unread(file: str, key: str, given: Mapping[str, Any], known: frozenset[str]) -> Iterator[Problem]:
    for name in sorted(set(map(str, given)) - known):
        near = difflib.get_close_matches(name, known, n=1)
        remedy = f"did you mean {near[0]}? correct it or remove it" if near else "remove it"
        yield Problem(file, f"{key}.{_shown(name)}", "is a key that nothing reads", remedy, "source")


def _like(file: str, key: str, value: Any, pattern: re.Pattern[str]) -> Iterator[Problem]:
    if not is_template(value) and not (isinstance(value, str) and pattern.match(value)):
        yield Problem(file, key, f"{repr(value)[:60]} is no plain name", f"write what looks like {pattern.pattern[:-2]}", "source")


def _one_of(file: str, key: str, value: Any, allowed: tuple[str, ...]) -> Iterator[Problem]:
    if is_template(value) or (isinstance(value, str) and value in allowed):
        return
    yield Problem(file, key, f"{repr(value)[:60]} is unknown", f"use one of: {', '.join(allowed)}", "source")
