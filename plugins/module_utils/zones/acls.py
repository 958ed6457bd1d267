# SPDX-License-Identifier: Apache-2.0
"""Kafka and MQTT access lists from the contracts and the approved conduits, and what they must never allow (I12, I13).

A Kafka ACL is {principal: "User:x", host, operation, permission, resource_type, pattern_type, name}; topic names that end in
`*` are prefixes. An MQTT entry is {principal, read: [filter], write: [filter]}.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ansible_collections.hnai.platform.plugins.module_utils.credentials import TWIN
from ansible_collections.hnai.platform.plugins.module_utils.mqtt.topics import mqtt_overlap, valid_filter
from ansible_collections.hnai.platform.plugins.module_utils.zones.flows import approved_book, clients
from ansible_collections.hnai.platform.plugins.module_utils.zones.model import LEVELS, Problem, Site

EXTRA_VARIABLE = "kafka_extra_acls"
CONTROL_VARIABLE = "hnai_control_identities"
COMMAND_VARIABLE = "mosquitto_command_patterns"
MQTT_VARIABLE = "mosquitto_extra_acl"
#: What an identity at or below level 3 may hold: it delivers, it never fetches.
_LOW_ALLOWED = frozenset({("topic", "write"), ("topic", "describe"), ("cluster", "idempotentwrite"), ("cluster", "idempotent_write")})


def _pattern(name: str) -> tuple[str, str]:
    """(pattern_type, name) of a topic or group as contracts write it."""
    return ("prefixed", name[:-1]) if name.endswith("*") and name != "*" else ("literal", name)


def _acl(principal: str, operation: str, resource: str, name: str) -> dict[str, str]:
    pattern, plain = _pattern(name)
    return {
        "principal": f"User:{principal}",
        "host": "*",
        "operation": operation,
        "permission": "Allow",
        "resource_type": resource,
        "pattern_type": pattern,
        "name": plain,
    }


def _approved(site: Site, component: str, hosts: tuple[str, ...], connect: Mapping[str, Any]) -> bool:
    """Some host reaches some target by a conduit, or stands on it."""
    listener = site.listener(component, str(connect.get("listener"))) or {}
    targets = site.placed(component, listener.get("group", ""))
    book = approved_book(site)
    return any(host == target or (host, target, listener.get("proto", ""), listener.get("port", 0)) in book for host in hosts for target in targets)


def pairs(site: Site) -> set[str]:
    """Principals of Kafka that take turns with a twin `x.b` in rotations (contracts: `rotate: scram_pair`): both have the same rights."""
    secrets = [secret for contract in site.contracts.values() for secret in contract.get("secrets") or []]
    return {str(secret["username"]) for secret in secrets if secret.get("rotate") == "scram_pair"}


def kafka_acls(site: Site) -> list[dict[str, str]]:
    """Every ACL the cluster shall hold, extra ones (`kafka_extra_acls`) and those of twins included; sorted, each once."""
    found: list[dict[str, str]] = []
    for principal, hosts, connect, _file, _key in clients(site, "kafka"):
        if not _approved(site, "kafka", hosts, connect):
            continue
        topics = connect.get("topics") or {}
        for topic in topics.get("write") or []:
            found += [_acl(principal, operation, "topic", topic) for operation in ("Write", "Describe")]
        for topic in topics.get("read") or []:
            found += [_acl(principal, operation, "topic", topic) for operation in ("Read", "Describe")]
        for group in connect.get("groups") or []:
            found.append(_acl(principal, "Read", "group", group))
        for ident in connect.get("transactional_ids") or []:
            found += [_acl(principal, operation, "transactional_id", ident) for operation in ("Write", "Describe")]
    for extra in extra_acls(site):
        found.append(
            {
                "host": "*",
                "permission": "Allow",
                "pattern_type": "literal",
                **{k: str(v) for k, v in extra.items() if k != "level"},
            }
        )
    twice = {f"User:{name}" for name in pairs(site)}
    found += [{**acl, "principal": acl["principal"] + TWIN} for acl in found if acl["principal"] in twice]
    unique = {tuple(sorted(acl.items())): acl for acl in found}
    return sorted(unique.values(), key=lambda acl: tuple(acl[key] for key in ("principal", "resource_type", "name", "operation")))


def needed_topics(site: Site) -> dict[str, str]:
    """Topics of Kafka that an identity reads or writes by its whole name → who it is."""
    found: dict[str, str] = {}
    for principal, _hosts, connect, _file, _key in clients(site, "kafka"):
        topics = connect.get("topics") or {}
        for name in [*(topics.get("write") or []), *(topics.get("read") or [])]:
            if not name.endswith("*"):
                found.setdefault(name, principal)
    return found


def fed_topics(site: Site) -> set[str]:
    """Topics of Kafka that an identity of the site, or one of `kafka_extra_acls`, may write."""
    found = {str(acl.get("name")) for acl in extra_acls(site) if str(acl.get("operation")).lower() in ("write", "all")}
    return found.union(*((connect.get("topics") or {}).get("write") or [] for _principal, _hosts, connect, _file, _key in clients(site, "kafka")))


def _listed(site: Site, host: str, variable: str) -> list[Any]:
    """A host's variable that must be a list; what is none has no entries (`unreadable` says so)."""
    value = site.value(host, variable)
    return list(value) if isinstance(value, (list, tuple)) else []


def unreadable(site: Site) -> list[Problem]:
    """Variables with access lists that cannot be read: nobody may believe that they were held against the rules."""
    found: list[Problem] = []
    for component, variable in (("kafka", EXTRA_VARIABLE), ("mosquitto", MQTT_VARIABLE), ("mosquitto", CONTROL_VARIABLE)):
        wanted, remedy = (str, "write a list of names") if variable == CONTROL_VARIABLE else (Mapping, "write a list of entries")
        for host in site.placed(component):
            value = site.value(host, variable)
            if value is None or (isinstance(value, (list, tuple)) and all(isinstance(item, wanted) for item in value)):
                continue
            found.append(Problem(site.file(variable), f"{host}: {variable}", "is no list that can be read", remedy, "format"))
    return found


def extra_acls(site: Site) -> list[dict[str, Any]]:
    """`kafka_extra_acls` as the brokers see it, each once."""
    found: list[dict[str, Any]] = []
    for host in site.placed("kafka"):
        for acl in _listed(site, host, EXTRA_VARIABLE):
            if isinstance(acl, Mapping) and dict(acl) not in found:
                found.append(dict(acl))
    return found


def mosquitto_acl(site: Site) -> list[dict[str, Any]]:
    """[{principal, read, write, hosts}] sorted by principal, of identities whose conduit is approved. hosts: name → addresses."""
    book: dict[str, dict[str, set[str]]] = {}
    stands: dict[str, dict[str, list[str]]] = {}
    for principal, hosts, connect, _file, _key in clients(site, "mosquitto"):
        if _approved(site, "mosquitto", hosts, connect):
            stands.setdefault(principal, {}).update({host: [a for a in (site.nodes[host].v4, site.nodes[host].v6) if a] for host in hosts})
            entry = book.setdefault(principal, {"read": set(), "write": set()})
            for access in entry:
                entry[access].update((connect.get("topics") or {}).get(access) or [])
    return [
        {"principal": name, "read": sorted(entry["read"]), "write": sorted(entry["write"]), "hosts": stands[name]} for name, entry in sorted(book.items())
    ]


def _topics_overlap(first: str, second: str) -> bool:
    """Do two Kafka topic names or prefixes meet?"""
    a, b = first.rstrip("*"), second.rstrip("*")
    if first.endswith("*") and second.endswith("*"):
        return a.startswith(b) or b.startswith(a)
    if first.endswith("*") or second.endswith("*"):
        return b.startswith(a) if first.endswith("*") else a.startswith(b)
    return a == b


def _level(site: Site, hosts: Iterable[str]) -> list[float]:
    return sorted({site.zones[site.nodes[host].zone].level for host in hosts if host in site.nodes})


def check_kafka(site: Site) -> list[Problem]:
    """I13: no identity of level ≤ 3 reads, a topic has one owner, L3 and L4 never share a listener or a principal."""
    found: list[Problem] = []
    levels: dict[str, tuple[float, str]] = {}
    listeners: dict[str, tuple[float, str]] = {}
    writers: list[tuple[str, float, str]] = []
    for principal, hosts, connect, file, key in clients(site, "kafka"):
        for level in _level(site, hosts):
            low = level <= 3
            topics = connect.get("topics") or {}
            if low and (topics.get("read") or connect.get("groups")):
                what = ", ".join([*(topics.get("read") or []), *(connect.get("groups") or [])])
                message = f"{principal} at level {level:g} reads {what}: a path back from IT to the plant"
                found.append(
                    Problem(
                        file,
                        f"{key}.topics.read",
                        message,
                        "an identity of level ≤ 3 writes only: remove read and groups",
                        "I13",
                    )
                )
            for book, name, label in ((levels, principal, "principal"), (listeners, str(connect.get("listener")), "listener")):
                before = book.setdefault(name, (level, key))
                if (before[0] <= 3) != low:
                    message = f"{label} {name} is used from level {before[0]:g} and {level:g}"
                    found.append(Problem(file, key, message, f"give each level a {label} of its own", "I13"))
            writers += [(topic, level, f"{file}: {key}") for topic in topics.get("write") or []]
    found += _owners(writers)
    for index, acl in enumerate(extra_acls(site)):
        found += _check_extra(site, index, acl, levels, writers)
    return found


def _owners(writers: list[tuple[str, float, str]]) -> list[Problem]:
    found = []
    for number, (topic, level, where) in enumerate(writers):
        for other, other_level, other_where in writers[:number]:
            if level != other_level and _topics_overlap(topic, other):
                file, _colon, key = where.partition(": ")
                message = f"topic {topic} is written from level {level:g}, and {other} from level {other_level:g} ({other_where})"
                found.append(Problem(file, f"{key}.topics.write", message, "a topic is owned by one level: write to another topic", "I13"))
    return found


def _check_extra(
    site: Site,
    index: int,
    acl: Mapping[str, Any],
    levels: Mapping[str, tuple[float, str]],
    writers: list[tuple[str, float, str]],
) -> list[Problem]:
    file, key = site.file(EXTRA_VARIABLE), f"{EXTRA_VARIABLE}[{index}]"
    missing = [name for name in ("principal", "operation", "resource_type", "name") if not acl.get(name)]
    if missing:
        return [Problem(file, key, f"lacks {', '.join(missing)}", "write principal, operation, resource_type, name", "format")]
    if str(acl.get("permission", "Allow")).lower() != "allow":
        return []
    principal = str(acl["principal"])
    principal = principal[5:] if principal.startswith("User:") else principal
    if principal in levels:
        level = levels[principal][0]
    elif isinstance(acl.get("level"), (int, float)) and not isinstance(acl.get("level"), bool) and acl["level"] in LEVELS and principal != "*":
        level = float(acl["level"])
    else:
        message = f"{principal} is in no contract, so nobody knows its level"
        return [Problem(file, key, message, "add level: 4 to the entry, or declare the principal in a contract's connects", "I13")]
    resource, operation, name = str(acl["resource_type"]).lower(), str(acl["operation"]).lower(), str(acl["name"])
    if level <= 3 and (resource, operation) not in _LOW_ALLOWED:
        message = f"gives {principal} (level {level:g}) {acl['operation']} on {resource} {name}: a path back from IT to the plant"
        return [Problem(file, key, message, "level ≤ 3 gets Write and Describe on its own topics only: remove the entry", "I13")]
    if resource == "topic" and operation in ("write", "all"):
        pattern = name + "*" if str(acl.get("pattern_type", "literal")).lower() == "prefixed" else name
        for topic, other, where in writers:
            if other != level and _topics_overlap(pattern, topic):
                message = f"lets {principal} (level {level:g}) write {name}, which level {other:g} owns ({where})"
                return [Problem(file, key, message, "a topic is owned by one level: use another topic", "I13")]
    return []


def _mqtt_clients(site: Site) -> list[tuple[str, list[float], list[str], list[str], str, str]]:
    """(principal, levels, read, write, file, key) of contracts, assets and `mosquitto_extra_acl`."""
    found = []
    for principal, hosts, connect, file, key in clients(site, "mosquitto"):
        topics = connect.get("topics") or {}
        found.append((principal, _level(site, hosts), list(topics.get("read") or []), list(topics.get("write") or []), file, key))
    seen: list[Mapping[str, Any]] = []
    for host in site.placed("mosquitto"):
        for index, entry in enumerate(_listed(site, host, MQTT_VARIABLE)):
            if isinstance(entry, Mapping) and entry.get("principal") and entry not in seen:
                seen.append(entry)
                level = entry.get("level")
                levels = [float(level)] if isinstance(level, (int, float)) and level in LEVELS else []
                read, write = _filters(entry.get("read")), _filters(entry.get("write"))
                found.append((str(entry["principal"]), levels, read, write, site.file(MQTT_VARIABLE), f"{MQTT_VARIABLE}[{index}]"))
    return found


def _filters(value: Any) -> list[str]:
    """Topic filters of an entry; one that cannot be read counts as all topics, so that it is refused where any is."""
    if value is None or (isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value)):
        return list(value or [])
    return ["#"]


def _plain(text: str) -> bool:
    """Can it stand in a line of an acl_file as it is?"""
    return text.isprintable() and text == text.strip()


def check_mqtt(site: Site) -> list[Problem]:
    """The site broker has no client above level 3, and nobody but listed control identities publishes to what a line reads."""
    found: list[Problem] = unreadable(site)
    control = {str(name) for host in site.placed("mosquitto") for name in _listed(site, host, CONTROL_VARIABLE)}
    commands = sorted({str(pattern) for host in site.placed("mosquitto") for pattern in _listed(site, host, COMMAND_VARIABLE)})
    known = _mqtt_clients(site)
    for principal, levels, reads, own, file, key in known:
        # One broken line, and a broker that reads its rules again works on without any.
        if not _plain(principal) or set(principal) & {"+", "#"}:
            found.append(Problem(file, key, f"{principal!r} is no user name of an acl_file", "no + or #, no blank at an end, no control character", "format"))
        for access, topics in (("read", reads), ("write", own)):
            for topic in topics:
                if not valid_filter(topic) or not _plain(topic):
                    message = f"{topic!r} of {principal} is no topic filter, and the broker's rules would be broken"
                    place = key if key.startswith(MQTT_VARIABLE) else f"{key}.topics"
                    found.append(Problem(file, f"{place}.{access}", message, "+ and # stand alone in their level, # at the end", "format"))
        for write in own if principal not in control else ():
            hits = [pattern for pattern in commands if mqtt_overlap(pattern, write)]
            if hits:
                message = f"{principal} may publish to {write}, which commands ({', '.join(hits)})"
                found.append(Problem(file, f"{key}.topics.write", message, f"narrow it, or list {principal} in {CONTROL_VARIABLE}", "I12"))
        if any(level > 3 for level in levels):
            message = f"{principal} at level {max(levels):g} is a client of the site's MQTT broker"
            found.append(Problem(file, key, message, "fetch from Kafka in the IDMZ instead", "I13"))
        if not any(level <= 2 for level in levels):
            continue
        for filt in reads:
            for other, _levels, _reads, writes, _file, other_key in known:
                if other != principal and other not in control and any(mqtt_overlap(filt, write) for write in writes):
                    message = f"{principal} (level {min(levels):g}) reads {filt}, to which {other} may publish ({other_key})"
                    remedy = f"narrow one of the two, or list {other} in {CONTROL_VARIABLE}"
                    found.append(Problem(file, f"{key}.topics.read", message, remedy, "I12"))
    return found
