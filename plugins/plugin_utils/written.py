# SPDX-License-Identifier: Apache-2.0
"""Mistakes in what an inventory says that the site model does not look at: options of roles, ids, tags of sources.

Roles refuse an option of the wrong type too, and the collector a tag that it cannot read; but one after the other, on a host, in the middle of a run.
Values that are templates are left to the roles. Pure: what Ansible read in, findings out; whatever the shape of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from ansible.module_utils.common.validation import check_type_bool, check_type_float, check_type_int

from ansible_collections.hnai.platform.plugins.module_utils.modbus.devices import WIDTHS
from ansible_collections.hnai.platform.plugins.module_utils.zones.model import Problem

PROTOCOLS = ("modbus", "mqtt", "opcua", "sparkplug")
TYPES = ("bool", "double", "enum", "float", "int", "string")
ENCODINGS = tuple(sorted(WIDTHS))
#: Variables by which members of a group differ: {variable: group}.
OWN = {"kafka_node_id": "kafka"}
#: How the roles themselves read a scalar. A text is read from any scalar.
_SCALARS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "bool": (check_type_bool, "true or false"),
    "float": (check_type_float, "a number"),
    "int": (check_type_int, "a whole number"),
}
_MARKS = ("{{", "{%", "{#")


def problems(variables: Mapping[str, Mapping[str, Any]], options: Mapping[str, Mapping[str, Any]], groups: Mapping[str, Iterable[str]],
             file: Callable[[str], str]) -> list[Problem]:
    """All of them. *variables*: of each managed host, as they are written. *options*: of all roles, by name. *file*: where a variable is set."""
    found = [*_options(variables, options, file), *_own(variables, groups)]
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
    seen: dict[tuple[str, str], list[str]] = {}
    for host, written in variables.items():
        for name in written:
            if name in options and not is_template(written[name]):
                complaint = against(options[name], written[name])
                if complaint:
                    seen.setdefault((name, complaint), []).append(host)
    for (name, complaint), hosts in seen.items():
        where = ", ".join(hosts[:3]) + (" …" if len(hosts) > 3 else "")
        kind = options[name].get("type", "str")
        choices = options[name].get("choices")
        remedy = f"one of: {', '.join(map(str, choices))}" if choices else f"write {_SCALARS[kind][1] if kind in _SCALARS else f'a {kind}'}"
        yield Problem(file(name), name, f"{complaint} (on {where})", remedy, "option")


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


def _own(variables: Mapping[str, Mapping[str, Any]], groups: Mapping[str, Iterable[str]]) -> Iterator[Problem]:
    for name, group in OWN.items():
        holders: dict[str, list[str]] = {}
        for host in groups.get(group) or ():
            value = variables.get(host, {}).get(name)
            if value is not None and not is_template(value):
                holders.setdefault(str(value), []).append(host)
        for value, hosts in holders.items():
            if len(hosts) > 1:
                message = f"{_shown(value)} is the id of {', '.join(hosts)}"
                yield Problem("inventory", f"{hosts[-1]}: {name}", message, "give each host one of its own", "option")


def _sources(sources: Any, file: str) -> Iterator[Problem]:
    """Sources and their tags; what is no map or is a template is judged by others."""
    known = [one for one in sources if isinstance(one, Mapping)] if isinstance(sources, (list, tuple)) else []
    ids = Counter(str(one.get("id")) for one in known)
    for ident, times in ids.items():
        if times > 1:
            yield Problem(file, f"hnai_ot_sources[{_shown(ident)}].id", f"is used {times} times", "give each source an id of its own", "source")
    for source in known:
        key = f"hnai_ot_sources[{_shown(source.get('id'))}]"
        yield from _one_of(file, f"{key}.protocol", source.get("protocol"), PROTOCOLS)
        tags = source.get("tags")
        listed = [tag for tag in tags if isinstance(tag, Mapping)] if isinstance(tags, (list, tuple)) else []
        names = Counter(str(tag.get("name")) for tag in listed)
        for name, times in names.items():
            if times > 1:
                message = f"this name is used {times} times: two tags would be one series"
                yield Problem(file, f"{key}.tags[{_shown(name)}]", message, "name each tag once", "source")
        for tag in listed:
            inside = f"{key}.tags[{_shown(tag.get('name'))}]"
            yield from _one_of(file, f"{inside}.type", tag.get("type"), TYPES)
            if source.get("protocol") == "modbus":
                yield from _one_of(file, f"{inside}.encoding", tag.get("encoding", "uint16"), ENCODINGS)


def _one_of(file: str, key: str, value: Any, allowed: tuple[str, ...]) -> Iterator[Problem]:
    if is_template(value) or (isinstance(value, str) and value in allowed):
        return
    yield Problem(file, key, f"{repr(value)[:60]} is unknown", f"use one of: {', '.join(allowed)}", "source")
