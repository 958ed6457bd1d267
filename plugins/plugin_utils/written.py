# SPDX-License-Identifier: Apache-2.0
"""Mistakes in what an inventory says that the site model does not look at: options of roles, ids, topics, and (`sources`) the sources.

Roles refuse an option of the wrong type too; but one after the other, on a host, in the middle of a run.
Values that are templates are left to the roles. Pure: what Ansible read in, findings out; whatever the shape of it.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from ansible.errors import AnsibleError
from ansible.module_utils.common.validation import check_type_bool, check_type_float, check_type_int

from ansible_collections.hnai.platform.plugins.module_utils.kafka import topics
from ansible_collections.hnai.platform.plugins.module_utils.zones.model import SSH, Problem
from ansible_collections.hnai.platform.plugins.plugin_utils import declared
from ansible_collections.hnai.platform.plugins.plugin_utils.declared import NOTHING, Known, whole
from ansible_collections.hnai.platform.plugins.plugin_utils.limits import beyond, described
from ansible_collections.hnai.platform.plugins.plugin_utils.sources import is_template, shown, some

#: Variables by which members of a group differ: {variable: group}.
OWN = {"kafka_node_id": "kafka"}
#: Variables by which they do not: read of one of them, for all; said otherwise of another host, in silence nobody would read it, or the cluster be two.
ALIKE = {
    "managed": ("hnai_assets", "hnai_boundaries", "hnai_break_glass", "hnai_conduits", "hnai_environment", "hnai_management", "hnai_ot_sources", "hnai_site",
                "hnai_slo", "hnai_units", "hnai_zones"),
    "kafka": ("kafka_cluster_id", "kafka_extra_acls", "kafka_initial_controllers", "kafka_min_insync_replicas", "kafka_quotas", "kafka_replication_factor",
              "kafka_topics", "kafka_version"),
    "flink": ("flink_alerts", "flink_jars", "flink_jobs", "flink_version"),
}  # fmt: skip
#: What stands for a value that could not be evaluated, which was said (`site.evaluated`).
_UNSAID = "{{ }}"
#: How the roles themselves read a scalar. A text is read from any scalar.
_SCALARS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "bool": (check_type_bool, "true or false"),
    "float": (check_type_float, "a number"),
    "int": (check_type_int, "a whole number"),
}
#: Options that say where a component stores, how such a place is written (units and shells read it), and where none can be.
_STORED = re.compile(r"_(storage|buffer)_path$")
_PLACE = re.compile(r"(/[A-Za-z0-9._-]+)+")
_HIDDEN = tuple(f"/{name}" for name in ("home", "root", "run", "tmp", "var/tmp", "dev", "proc", "sys"))


def problems(variables: Mapping[str, Mapping[str, Any]], options: Mapping[str, Mapping[str, Any]], groups: Mapping[str, Iterable[str]],
             file: Callable[[str], str], known: Known = NOTHING) -> list[Problem]:
    """All of them. *variables*: of each managed host, as they are written. *options*: of all roles, by name. *file*: where a variable is set."""
    found = [*_options(variables, options, file), *_own(variables, options, groups, file), *_alike(variables, options, groups, file)]
    found += _topics(variables, options, groups, file, known.needed)
    found += [*_entrances(variables, file, known.lent), *_places(variables, options, groups, file)]
    return [*found, *declared.problems(variables, options, groups, file, known)]


def _options(variables: Mapping[str, Mapping[str, Any]], options: Mapping[str, Mapping[str, Any]], file: Callable[[str], str]) -> Iterator[Problem]:
    seen: dict[tuple[str, str, str, str], list[str]] = {}
    for host, written in variables.items():
        for name in written:
            if name in options and not is_template(written[name]):
                for key, complaint, remedy in _inside(options[name], name, written[name]):
                    seen.setdefault((name, key, complaint, remedy), []).append(host)
    for (name, key, complaint, remedy), hosts in seen.items():
        yield Problem(file(name), key, f"{complaint} (on {some(hosts)})", remedy, "option")


def _entrances(variables: Mapping[str, Mapping[str, Any]], file: Callable[[str], str], lent: bool) -> Iterator[Problem]:
    """Ways in that a run would shut behind itself: role host lets nobody in as root or by a password, the firewall nobody at another port."""
    seen: dict[tuple[str, str, str], list[str]] = {}
    machines: dict[tuple[str, str], str] = {}
    for host, told in variables.items():
        if told.get("ansible_connection") == "local":
            remedy = "take it out of the group managed: what the controller may is said in hnai_assets"
            seen.setdefault(("ansible_connection", "local means the controller, which a run would make a host of the site", remedy), []).append(host)
        if told.get("ansible_connection", "ssh") not in ("smart", "ssh"):
            continue
        way = (str(told.get("ansible_host", host)), str(told.get("ansible_port", SSH[1])))
        if not lent and not is_template(list(way)) and machines.setdefault(way, host) != host:
            remedy = "give each host its own address: whatever is done to one would be done to the other"
            seen.setdefault(("ansible_host", f"{shown(way[0])} leads to {machines[way]} too", remedy), []).append(host)
        if told.get("ansible_become") in (False, "false", "no", "False"):
            remedy = "write ansible_become: true; the user may become root by sudo"
            seen.setdefault(("ansible_become", "without root nothing of a host can be changed", remedy), []).append(host)
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
                seen.setdefault((name, f"{shown(port)} is a port that no conduit opens: hosts are managed at tcp/{SSH[1]}", remedy), []).append(host)
    for (name, message, remedy), hosts in seen.items():
        yield Problem(file(name), name, f"{message} (on {some(hosts)})", remedy, "access")


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
        yield Problem(file(name), name, f"{wrong} (on {some(hosts)})", remedy, "option")


def _inside(option: Mapping[str, Any], key: str, value: Any) -> Iterator[tuple[str, str, str]]:
    """(key, what is wrong, remedy) of an option and of what it is made of."""
    complaint = against(option, value)
    if complaint:
        kind, choices = option.get("type", "str"), option.get("choices")
        remedy = f"one of: {', '.join(map(str, choices))}" if choices else f"write {_SCALARS[kind][1] if kind in _SCALARS else f'a {kind}'}"
        if kind in ("dict", "list") and isinstance(value, str):
            remedy += " without quotes; an inventory in INI has it as Python writes it: {'a': True, 'b': [1, 2]}"
        remedy = "put it in quotes" if kind == "str" and isinstance(value, bool) and not choices else remedy
        yield key, complaint, remedy
    elif key not in OWN and option.get("type") not in ("dict", "list") and isinstance(value, (int, float, str)):
        said, remedy = beyond(key, option, value)
        if said:
            yield key, said, remedy
    elif option.get("type") == "list" and option.get("elements") and isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from _inside({**option, "type": option["elements"], "elements": None}, f"{key}[{index}]", item)
    elif option.get("type") == "dict" and option.get("options") and isinstance(value, Mapping):
        for name, inner in option["options"].items():
            if value.get(name) is not None:
                yield from _inside(inner, f"{key}.{name}", value[name])
            elif inner.get("required"):
                yield f"{key}.{name}", "is missing", f"write {name}: {described(inner)[:80]}"
        for name in value:
            if str(name) not in option["options"]:
                yield f"{key}.{shown(name)}", "is unknown", f"use one of: {', '.join(option['options'])}"


def against(option: Mapping[str, Any], value: Any) -> str:
    """What is wrong with an option's value, "" where nothing is. The value of a secret is not repeated."""
    kind, shown = option.get("type", "str"), "the value" if option.get("no_log") else repr(value)[:60]
    if kind == "str" and isinstance(value, bool) and not option.get("choices"):
        return f"{value!r} is no text: YAML reads words such as no and on so"
    if not isinstance(value, (bool, int, float, str, Mapping, list, tuple)):
        return ""  # nothing, or what only its reader can open: a vaulted value, a date
    if kind in ("dict", "list"):
        # A role takes "a, b" for a list, and a list that is in quotes for one text.
        fits = isinstance(value, Mapping) if kind == "dict" else isinstance(value, (list, tuple)) or (isinstance(value, str) and value.strip()[:1] not in "[{")
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


def _own(variables: Mapping[str, Mapping[str, Any]], options: Mapping[str, Any], groups: Mapping[str, Iterable[str]],
         file: Callable[[str], str]) -> Iterator[Problem]:
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
                yield Problem(file(name), f"{host}: {name}", wrong, "write a number from 0 that no other host has", "option")
            else:
                holders.setdefault(str(number), []).append(host)
        for value, hosts in holders.items():
            if len(hosts) > 1:
                message = f"{shown(value)} is the id of {', '.join(hosts)}"
                yield Problem(file(name), f"{hosts[-1]}: {name}", message, "give each host one of its own", "option")


def _alike(variables: Mapping[str, Mapping[str, Any]], options: Mapping[str, Mapping[str, Any]], groups: Mapping[str, Iterable[str]],
           file: Callable[[str], str]) -> Iterator[Problem]:
    for group, names in ALIKE.items():
        hosts = [host for host in groups.get(group) or () if host in variables] if group != "managed" else list(variables)
        for name in names:
            told = [variables[host].get(name, options.get(name, {}).get("default")) for host in hosts]
            others = [host for host, value in zip(hosts, told) if _differ(value, told[0])]
            if others:
                message = f"is another on {some(others)} than on {hosts[0]}"
                yield Problem(file(name), name, message, f"say it once, in group_vars/{'all' if group == 'managed' else group}", "option")


def _differ(one: Any, other: Any) -> bool:
    """Whether two values are known to; what is vaulted and cannot be opened is not."""
    with contextlib.suppress(AnsibleError):
        return one is not other and _UNSAID not in (one, other) and bool(one != other)
    return False


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
            yield Problem(file(names[0]), f"kafka_topics[{shown(topic)}]", f"is missing, and {who} needs it", "declare the topic", "option")
    for one in listed:
        given = one.get("config")
        config: Mapping[str, Any] = given if isinstance(given, Mapping) else {}
        settings = {"min.insync.replicas": minimum, **config}
        counts = (one.get("partitions"), one.get("replication_factor", replicas), settings["min.insync.replicas"])
        if not is_template(one) and all(whole(count) for count in counts):
            partitions, factor, least = map(int, counts)
            declared.append(topics.Topic(shown(one.get("name")), partitions, factor, {**{k: str(v) for k, v in settings.items()}, names[2]: str(least)}))
        outage = _outage(variables[hosts[0]].get("hnai_slo"))
        kept = config.get("retention.ms", -1)
        if whole(kept) and 0 <= int(kept) < outage * 1000:
            message = f"{kept} milliseconds is too small for hop {_HOP}: the declared outage of {outage:g} s"
            remedy = f"set it to at least {math.ceil(outage * 1000)}, or declare a shorter outage"
            yield Problem(file(names[0]), f"kafka_topics[{shown(one.get('name'))}].config.retention.ms", message, remedy, "buffer")
    for text in topics.check(declared, len(hosts)):
        key, _colon, rest = text.partition(": ")
        message, _semicolon, remedy = rest.rpartition("; ")
        # What a topic does not say is said for all of them.
        own = any(key.startswith(f"kafka_topics[{shown(one.get('name'))}].") and _says(one, key) for one in listed)
        name = names[0] if own else {"replication_factor": names[1], "replicas": names[2]}.get(key.rpartition(".")[2], names[0])
        yield Problem(file(name), key if name == names[0] else name, message or rest, remedy if message else "rename it", "option")


def _says(topic: Mapping[str, Any], key: str) -> bool:
    """Whether a topic has the setting that a finding is about itself."""
    config = topic.get("config")
    return "replication_factor" in topic if key.endswith(".replication_factor") else isinstance(config, Mapping) and "min.insync.replicas" in config


_HOP = "kafka_to_store"


def _outage(slo: Any) -> float:
    """Seconds that the store's reader may be away, 0 where nobody says (which the model reports)."""
    hops = slo.get("hops") if isinstance(slo, Mapping) else None
    hop = hops.get(_HOP) if isinstance(hops, Mapping) else None
    found = hop.get("outage_s") if isinstance(hop, Mapping) else None
    return found if isinstance(found, (int, float)) and 0 < found < 1e12 else 0
