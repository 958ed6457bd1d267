# SPDX-License-Identifier: Apache-2.0
"""Collects the site model's input from Ansible: inventory variables of all hosts (never facts), groups and contracts.

Controller only. The result is what `module_utils/zones/model.py` reads. It does not depend on --limit, on the order of plays
or on what a host answered.
"""

from __future__ import annotations

import contextlib
import datetime
import difflib
import fcntl
import functools
import hashlib
import json
import multiprocessing
import os
import re
import shlex
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from ansible.errors import AnsibleError, AnsibleUndefinedVariable

from ansible_collections.hnai.platform.plugins.module_utils.zones.acls import COMMAND_VARIABLE, CONTROL_VARIABLE, EXTRA_VARIABLE, MQTT_VARIABLE
from ansible_collections.hnai.platform.plugins.module_utils.zones.model import CLOCK, FILTER_UID, Problem, numbered
from ansible_collections.hnai.platform.plugins.plugin_utils import contracts
from ansible_collections.hnai.platform.plugins.plugin_utils.sources import is_template, some

_SITE = {
    "zones": "hnai_zones",
    "assets": "hnai_assets",
    "conduits": "hnai_conduits",
    "ot_sources": "hnai_ot_sources",
    "slo": "hnai_slo",
    "break_glass": "hnai_break_glass",
    "boundaries": "hnai_boundaries",
    "management": "hnai_management",
}
_HOST = {
    "zone": "hnai_zone",
    "addresses": "hnai_addresses",
    "second_addresses": "hnai_second_addresses",
    "interfaces": "hnai_interfaces",
    "dual_homed": "hnai_dual_homed",
}
#: What the controller itself must be able to say.
_CONTROLLER = ("hnai_site", "hnai_environment", "hnai_state_dir", "hnai_store_dir")
#: What the model reads of a source; tags stay where they are.
_SOURCE_KEYS = ("id", "name", "asset", "protocol", "limits", "endpoint", "host", "port", "records_per_s", "group", "node")


class _Tolerant(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Reads names only: unknown tags (!vault) are somebody else's values."""


_Tolerant.add_multi_constructor("!", lambda loader, suffix, node: None)


def plain(value: Any) -> Any:
    """Lists, dicts and scalars without Ansible's lazy containers and tags."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, str):
        return str(value)
    if isinstance(value, Sequence):
        return [plain(item) for item in value]
    if isinstance(value, datetime.datetime):
        return value.isoformat()
    if isinstance(value, datetime.date):
        return value.isoformat()
    return value


_kept: list[Path] = []


@contextlib.contextmanager
def kept(file: Path) -> Iterator[None]:
    """Inside, the model is collected once, by whoever comes first, and read from *file* by all others: for the time of one task, on however
    many hosts, while nothing that it is made of can change. The file is JSON and holds no secret; its folder is the run's own."""
    _kept.append(file)
    try:
        yield
    finally:
        _kept.pop()


def collect(
    hostvars: Mapping[str, Any], groups: Mapping[str, Iterable[str]], collection_root: Path | None = None
) -> dict[str, Any]:
    """The model's input. `hostvars` and `groups` are Ansible's. What cannot be evaluated is absent, and a problem of the model. Raises ContractError."""
    if not _kept:
        return _collect(hostvars, groups, collection_root)
    return dict(json.loads(_once(_kept[-1], lambda: json.dumps(_collect(hostvars, groups, collection_root)))))


def text(hostvars: Mapping[str, Any], groups: Mapping[str, Iterable[str]], folder: Path, collection_root: Path | None = None) -> str:
    """The model's input as JSON. Collecting it costs more than a whole task does otherwise, and each task of each host is a process of its own:
    so it is collected once and read from *folder* (the run's own) as long as everything that it is made of is what it was: groups, variables
    as they are written, those that are templates as they come out, and the files of the roles."""
    if _kept:
        return _once(_kept[-1], lambda: json.dumps(_collect(hostvars, groups, collection_root)))
    root = Path(collection_root or contracts.COLLECTION_ROOT)
    if multiprocessing.parent_process() is None:
        return _current(hostvars, groups, folder, root)
    # A worker of Ansible lives for one task of one host: in its life nothing of the model changes, and a task may ask more than once.
    if (folder, root) not in _asked:
        _asked[folder, root] = _current(hostvars, groups, folder, root)
    return _asked[folder, root]


_asked: dict[tuple[Path, Path], str] = {}


def _current(hostvars: Mapping[str, Any], groups: Mapping[str, Iterable[str]], folder: Path, root: Path) -> str:
    """`text`, looked at anew."""
    files = [(str(path), path.stat().st_mtime_ns, path.stat().st_size) for kind in _FILES for path in sorted(root.glob(kind))]
    roles = _digest(files)
    wanted = json.loads(_once(folder / f"hnai-names-{roles}.json", lambda: json.dumps(_wanted(contracts.all(root)))))
    state = _digest([roles, _groups(groups), *_written(hostvars, groups, wanted)])
    return _once(folder / f"hnai-site-{state}.json", lambda: json.dumps(_collect(hostvars, groups, root)))


#: What of the roles goes into the model.
_FILES = ("roles/*/meta/component.yml", "roles/*/defaults/main.yml")


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def _once(file: Path, make: Callable[[], str]) -> str:
    """What *file* holds; whoever comes first writes it. One that a killed process left empty is written again."""
    with file.open("a+", encoding="utf-8") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        stream.seek(0)
        found = stream.read()
        if not found:
            found = make()
            stream.write(found)
    return found


def _written(hostvars: Mapping[str, Any], groups: Mapping[str, Iterable[str]], wanted: Iterable[str]) -> Iterator[Any]:
    """The variables of the model by host, without templating what is no template."""
    names = [*_HOST.values(), "hnai_debian", *wanted]
    for number, host in enumerate(str(host) for host in groups.get("managed", [])):
        raw = hostvars.raw_get(host) if hasattr(hostvars, "raw_get") else hostvars[host]
        for name in [*names, *([] if number else _SITE.values())]:
            if name not in raw:
                continue
            try:
                value = json.dumps(raw[name])
            except (TypeError, ValueError):
                value = "{{"  # not JSON all through (a date, a vaulted value)
            # What is a template may come out otherwise although it is written as it was.
            yield host, name, plain(hostvars[host][name]) if any(mark in value for mark in ("{{", "{%", "{#")) else value


def _collect(
    hostvars: Mapping[str, Any], groups: Mapping[str, Iterable[str]], collection_root: Path | None
) -> dict[str, Any]:
    known = contracts.all(collection_root)
    managed = [str(host) for host in groups.get("managed", [])]
    site = hostvars[managed[0]] if managed else {}
    broken: dict[str, str] = {}
    data: dict[str, Any] = {key: value_of(site, name, name, broken) if name in site else None for key, name in _SITE.items()}
    if isinstance(data["ot_sources"], list):
        data["ot_sources"] = [_source(source) if isinstance(source, dict) else source for source in data["ot_sources"]]
    for zone in data["zones"].values() if isinstance(data["zones"], dict) else ():
        if isinstance(zone, dict) and "level" in zone:
            zone["level"] = numbered(zone["level"])  # for the templates that read the model
    for name in _CONTROLLER:
        if name in site:
            value_of(site, name, name, broken)
    wanted = _wanted(known)
    hosts: dict[str, Any] = {}
    for host in managed:
        variables = hostvars[host]
        entry = {key: value_of(variables, name, f"{host}: {name}", broken) for key, name in _HOST.items() if name in variables}
        entry["debian"] = value_of(variables, "hnai_debian", f"{host}: hnai_debian", broken) if "hnai_debian" in variables else None
        entry["vars"] = {name: value_of(variables, name, f"{host}: {name}", broken) for name in wanted if name in variables}
        hosts[host] = entry
    data["hosts"] = hosts
    data["broken"] = broken
    data["groups"] = _groups(groups)
    data["contracts"] = known
    data["external"] = _external(data)
    data["contracts"] = {name: contracts.asking(contract, data["external"].get(name, {})) for name, contract in known.items()}
    data["defaults"] = defaults(wanted, collection_root)
    return data


def value_of(variables: Mapping[str, Any], name: str, key: str, broken: dict[str, str]) -> Any:
    """A variable's value; None where Ansible cannot say it (a template, a vaulted value), and `broken` says why by its key."""
    try:
        return plain(variables[name])
    except (AnsibleError, RecursionError) as error:
        broken[key] = " ".join(str(error).split())
        return None


def _groups(groups: Mapping[str, Iterable[str]]) -> dict[str, list[str]]:
    return {str(group): [str(host) for host in members] for group, members in groups.items() if group not in ("all", "ungrouped")}


def _external(data: Mapping[str, Any]) -> dict[str, Any]:
    """{component: {owner, group}} of those that somebody else runs. That its hosts agree is for `validate` to see."""
    found: dict[str, Any] = {}
    for name, contract in data["contracts"].items():
        hosts = data["groups"].get(contract.get("placement", name), []) if contract.get("external") else []
        said = [data["hosts"][host]["vars"].get(contracts.external_variable(name)) for host in hosts if host in data["hosts"]]
        for one in said:
            if isinstance(one, dict) and one:
                found[name] = one
    return found


def _wanted(known: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Variables of the roles that the model reads."""
    buffers = {buffer["variable"].partition(".")[0] for contract in known.values() for buffer in contract.get("buffers", [])}
    external = {contracts.external_variable(name) for name, contract in known.items() if contract.get("external")}
    return sorted(buffers | external | {EXTRA_VARIABLE, MQTT_VARIABLE, CONTROL_VARIABLE, COMMAND_VARIABLE, CLOCK, FILTER_UID})


def _source(source: dict[str, Any]) -> dict[str, Any]:
    """A source without its tags, but with the rate that follows from them (records per second)."""
    result = {key: source[key] for key in _SOURCE_KEYS if key in source}
    rate = 0.0
    tags = source.get("tags")
    for tag in tags if isinstance(tags, list) else []:
        period = (tag.get("sampling_ms") or source.get("poll_ms")) if isinstance(tag, dict) else None
        if isinstance(period, (int, float)) and period > 0 and tag.get("kind", "cyclic") == "cyclic":
            rate += 1000.0 / period
    result.setdefault("records_per_s", round(rate, 3))
    return result


def defaults(names: Iterable[str], collection_root: Path | None = None) -> dict[str, Any]:
    """Role defaults of some variables; one that is a template stays text."""
    found: dict[str, Any] = {}
    root = Path(collection_root or contracts.COLLECTION_ROOT)
    wanted = set(names)
    for path in sorted(root.glob("roles/*/defaults/main.yml")):
        if any(name.startswith(path.parents[1].name) for name in wanted):
            found.update({name: value for name, value in _mapping(path).items() if name in wanted})
    return found


def add_names(
    data: dict[str, Any],
    hostvars: Mapping[str, Any],
    sources: Iterable[str],
    collection_root: Path | None = None,
) -> None:
    """Add what the check of names needs: every variable with our prefix or of the form <component>_external, what the roles know, and where each is written."""
    root = Path(collection_root or contracts.COLLECTION_ROOT)
    roles = sorted(path.name for path in root.glob("roles/*") if path.is_dir())
    prefixes = (*(f"{role}_" for role in roles), "hnai_")
    for host, entry in data["hosts"].items():
        for name in hostvars[host]:
            if str(name).startswith(prefixes) or str(name).endswith("_external"):
                entry["vars"].setdefault(str(name), None)
    data["roles"] = roles
    data["known_variables"] = sorted(_role_variables(root))
    data["files"] = variable_files(sources)


def _role_variables(root: Path) -> Iterator[str]:
    yield from options(root)


def options(collection_root: Path | None = None) -> dict[str, dict[str, Any]]:
    """Every option of every role by its name, as its argument specification describes it."""
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(Path(collection_root or contracts.COLLECTION_ROOT).glob("roles/*/meta/argument_specs.yml")):
        for entry in (_mapping(path).get("argument_specs") or {}).values():
            found.update({name: option if isinstance(option, dict) else {} for name, option in (entry.get("options") or {}).items()})
    return found


def broker_settings(collection_root: Path | None = None) -> set[str]:
    """Settings of Kafka's `server.properties` that the role writes itself, below those of `kafka_config`."""
    template = Path(collection_root or contracts.COLLECTION_ROOT) / "roles/kafka/tree/etc/hnai/kafka/server.properties.j2"
    return set(re.findall(r"^([a-z][a-z0-9.]+)=", template.read_text(encoding="utf-8"), flags=re.M))


def written(hostvars: Mapping[str, Any], groups: Mapping[str, Iterable[str]]) -> dict[str, dict[str, Any]]:
    """{managed host: {variable: its value as the inventory has it}}: nothing is evaluated."""
    raw = getattr(hostvars, "raw_get", hostvars.__getitem__)
    return {str(host): {str(name): value for name, value in raw(host).items()} for host in groups.get("managed", [])}


#: A template that asks somebody is asked in the run alone.
_ASKS = re.compile(r"\b(lookup|query|q)\(")


def evaluated(told: Mapping[str, dict[str, Any]], hostvars: Mapping[str, Any], names: Collection[str], file: Callable[[str], str]) -> list[Problem]:
    """Puts into *told* what the templates among *names* come out as, so that they are judged as what they are; what only a run can say stays a template.
    Returns those that no run can evaluate, and vaulted ones whose key is not given."""
    wrong: dict[tuple[str, str, str, str], list[str]] = {}
    for host, variables in told.items():
        for name in [name for name in variables if name in names]:
            value, severity, remedy = variables[name], "error", "correct the template, or give the key of the vault"
            try:
                if is_template(value):
                    if not _ASKS.search(json.dumps(plain(value), default=str)):
                        variables[name] = plain(hostvars[host][name])
                    continue
                _opened(value)
                continue
            except AnsibleUndefinedVariable as error:
                # Facts and what roles say themselves are there when the role runs.
                said, severity, remedy = " ".join(str(error).split()), "warning", "correct its name, unless the run itself sets it"
                if _RUNS.search(said):
                    continue
            except (AnsibleError, RecursionError) as error:
                said, variables[name] = " ".join(str(error).split()), "{{ }}"
            wrong.setdefault((name, f"cannot be evaluated: {said[:200]}", remedy, severity), []).append(host)
    return [Problem(file(name), name, f"{said} (on {some(hosts)})", remedy, "format", severity) for (name, said, remedy, severity), hosts in wrong.items()]


#: Names that are undefined before a run, and those of which the model says so.
_RUNS = re.compile(r"'(ansible_|__|hnai_)")


def _opened(value: Any) -> None:
    """Raises AnsibleError where a part of it is vaulted and its key is not given."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for item in value:
            _opened(item)
    elif value is not None and not isinstance(value, (bool, int, float, str, bytes, datetime.date)):
        str(value)


def variable_files(sources: Iterable[str]) -> dict[str, str]:
    """Variable → the inventory file that sets it (the most specific), relative to the working directory if below it; of INI with its section."""
    sources, told = list(sources), []
    for path in _ini_files(sources):
        sections: dict[tuple[int, str], set[str]] = {}
        for section, host, name, _line in _ini(path):
            sections.setdefault((4 if host else 0 if section == "all:vars" else 2, name), set()).add(section)
        # What stands in several is some host's own.
        told += [(rank, name, _shown(path) + (f" [{min(all_of)}]" if len(all_of) == 1 else "")) for (rank, name), all_of in sections.items()]
    for path, whose in _files_of(sources):
        content = _mapping(path)
        rank = {"": 0, "group_vars/all": 1}.get(whose, 5 if whose.startswith("host_vars/") else 3)
        told += [(rank, name, _shown(path)) for name in (content if whose else _inventory_names(content))]
    return {name: file for _rank, name, file in sorted(told, key=lambda one: one[0])}


def _files_of(sources: Iterable[str]) -> Iterator[tuple[Path, str]]:
    """(YAML file of an inventory, whose variables it has: group_vars/all; "": it is the inventory itself), the most specific last."""
    for base in map(Path, sources):
        for path in _inventories(base):
            if path.suffix in (".yml", ".yaml"):
                yield path, ""
        for kind, stem, taken in sorted(_parts(base), key=lambda one: one[:2] != ("group_vars", "all")):
            yield from ((path, f"{kind}/{stem}") for path in _inside(taken[0]))


def _inventories(base: Path) -> list[Path]:
    return [path for path in ([base] if base.is_file() else sorted(base.iterdir()) if base.is_dir() else ()) if path.is_file()]


_SECTION = re.compile(r"\[([^:\]\s]+)(?::(\w+))?\]")


def _ini_files(sources: Iterable[str]) -> list[Path]:
    """Files of an inventory that are written as INI."""
    found = []
    for path in (path for base in map(Path, sources) for path in _inventories(base)):
        with contextlib.suppress(OSError, UnicodeError):
            if path.suffix not in (".yml", ".yaml", ".json", ".toml") and not os.access(path, os.X_OK):
                found += [path] if any(map(_SECTION.match, path.read_text(encoding="utf-8").splitlines())) else []
    return found


def _ini(path: Path) -> Iterator[tuple[str, str, str, int]]:
    """(section, host or "", variable, line) of an inventory in INI."""
    group, kind = "ungrouped", None
    for number, line in enumerate(map(str.strip, path.read_text(encoding="utf-8").splitlines()), 1):
        if not line or line[0] in "#;":
            continue
        section = _SECTION.match(line)
        if section:
            group, kind = section.groups()
        elif kind == "vars":
            yield f"{group}:vars", "", line.partition("=")[0].strip(), number
        elif kind is None:
            with contextlib.suppress(ValueError):
                host, *rest = shlex.split(line, comments=True)
                yield from ((group, host, one.partition("=")[0], number) for one in rest)


#: How the name of a file of variables ends, in the order in which Ansible looks (DataLoader.find_vars_files): the first that is there is read.
_ENDINGS = ("", ".yml", ".yaml", ".json")


def _parts(base: Path) -> Iterator[tuple[str, str, list[Path]]]:
    """(group_vars or host_vars, group or host, what bears its name: the one that Ansible reads first) beside an inventory."""
    home = base if base.is_dir() else base.parent
    for kind in ("group_vars", "host_vars") if base.exists() else ():
        folder = home / kind
        entries = {path.name: path for path in folder.iterdir() if not _passed_over(path)} if folder.is_dir() else {}
        stems = {name.removesuffix(ending) for name in entries for ending in _ENDINGS if name.endswith(ending)}
        for stem in sorted(stems):
            taken = [entries[stem + ending] for ending in _ENDINGS if stem + ending in entries]
            # `kafka.yml` is not of a group that is called so, unless there is one.
            if not any(stem.endswith(ending) for ending in _ENDINGS if ending):
                yield kind, stem, taken


def _passed_over(path: Path) -> bool:
    return path.name.startswith(".") or path.name.endswith("~")


def _inside(path: Path) -> Iterator[Path]:
    """The files of variables of one group or host."""
    if not path.is_dir():
        yield path
        return
    for inner in sorted(path.iterdir()):
        if not _passed_over(inner) and (inner.is_dir() or inner.suffix in _ENDINGS):
            yield from _inside(inner)


def unheard(sources: Iterable[str], groups: Mapping[str, Iterable[str]]) -> list[Problem]:
    """Files of variables that nobody reads: of a group or host that is not there, or behind another of the same name."""
    found = []
    members = {"group_vars": set(map(str, groups)) | {"all", "ungrouped"}, "host_vars": {str(host) for hosts in groups.values() for host in hosts}}
    for base in map(Path, sources):
        parts = list(_parts(base))
        for kind, stem, taken in parts:
            for path in taken[1:]:
                found.append(Problem(_shown(path), "(file)", f"is not read: {taken[0].name} stands beside it", "put both into one", "name"))
            if stem in members[kind] or ("." in stem and taken[0].suffix not in _ENDINGS[1:]):
                continue
            what = kind.partition("_")[0]
            near = difflib.get_close_matches(stem, members[kind] - {one for folder, one, _taken in parts if folder == kind}, n=1, cutoff=0.8)
            # Of a host that left, the next one's name differs by a digit.
            severity = "error" if near and kind == "group_vars" else "warning"
            remedy = f"did you mean {near[0]}? rename it, or remove it" if near else "rename it, or remove it"
            found.append(Problem(_shown(taken[0]), "(file)", f"no {what} is called {stem}: nothing reads it", remedy, "name", severity))
    return found


def unreadable(sources: Iterable[str]) -> list[Problem]:
    """Files of an inventory that Ansible cannot take: it says what is wrong, but not always where."""
    return list(_form(tuple(map(os.path.abspath, sources)))[0])


def twice(sources: Iterable[str]) -> list[Problem]:
    """Keys that stand twice in a map: Ansible takes the last, and warns. In two files of one group: it takes the last, in silence."""
    return list(_form(tuple(map(os.path.abspath, sources)))[1])


@functools.lru_cache(maxsize=1)
def _form(sources: tuple[str, ...]) -> tuple[list[Problem], list[Problem]]:
    """(what cannot be read, what stands twice). The callback asks before Ansible's workers are forked, validate in one of them: read once for both."""
    bad: list[Problem] = []
    double: list[Problem] = []
    first_of: dict[tuple[Path, str], str] = {}
    for path in _ini_files(sources):
        lines: dict[tuple[str, str, str], int] = {}
        for section, host, name, line in _ini(path):
            first = lines.get((section, host, name))
            if first:
                message = f"stands in line {first} and in line {line}: only the last would count"
                double.append(Problem(f"{_shown(path)} [{section}]", f"{host}: {name}" if host else name, message, "take one of them out", "format"))
            lines[section, host, name] = line
    for file, root in _composed(sources):
        if isinstance(root, Problem):
            bad.append(root)
        else:
            double += [
                Problem(file, key, f"stands in line {first} and in line {second}: only the last would count", "take one of them out", "format")
                for key, first, second in _twice(root, "", set())
            ]
            folder = Path(file).parent
            for name in _keys(root) if {"group_vars", "host_vars"} & set(folder.parent.parts) else ():
                before = first_of.setdefault((folder, name), file)
                if before != file:
                    message = f"stands in {Path(before).name} too, and only what stands here counts"
                    double.append(Problem(file, name, message, "take one of them out", "format", "warning"))
    return bad, double


def _keys(root: Any) -> set[str]:
    return {key.value for key, _value in root.value if isinstance(key, yaml.ScalarNode)} if isinstance(root, yaml.MappingNode) else set()


def _composed(sources: Iterable[str]) -> Iterator[tuple[str, Any]]:
    """(file, its YAML node, or the problem that it has none)."""
    for path, whose in _files_of(sources):
        yield _shown(path), _root(path, not whose)


def _root(path: Path, inventory: bool = False) -> Any:
    """The YAML node of a file, or the problem that it has none."""
    file = _shown(path)
    try:
        text = path.read_text(encoding="utf-8")
        root = None if text.startswith(_VAULTED) else yaml.compose(text, Loader=_Tolerant)
        line, why = next(_unmade(root, set()), (0, ""))
    except (OSError, ValueError, yaml.YAMLError) as error:
        mark = getattr(error, "problem_mark", None)
        line, why = mark.line + 1 if mark else 0, str(getattr(error, "problem", None) or error).strip()
    if why:
        said = "".join(text.splitlines()[line - 1 : line]) if line else ""
        remedy = "indent with spaces: YAML takes no tabs there" if "\t" in said else "correct it: Ansible cannot read the file"
        remedy = 'put a value that is a template in quotes: "{{ … }}"' if "{{" in said else remedy
        return Problem(file, f"line {line}" if line else "(file)", why, remedy, "format")
    if root is None or isinstance(root, yaml.MappingNode) or inventory:
        return root
    return Problem(file, "(file)", "is no map of variables", "write variable: value", "format")


def unreadable_file(path: Path, why: str) -> Problem:
    """A file that Ansible cannot take, with its place and remedy. *why*: Ansible's own words, for what only it can see (a vaulted file without its key)."""
    found = _root(path)
    remedy = "give the key of the vault: --vault-password-file or --vault-id" if "vault" in why else "correct it: Ansible cannot read the file"
    return found if isinstance(found, Problem) else Problem(_shown(path), "(file)", " ".join(why.split()), remedy, "format")


def vaulted(sources: Iterable[str]) -> list[Path]:
    """Files of an inventory that are vaulted as a whole."""
    def is_vaulted(path: Path) -> bool:
        with contextlib.suppress(OSError), path.open("rb") as stream:
            return stream.read(len(_VAULTED)) == _VAULTED.encode()
        return False

    return [path for path, _whose in _files_of(sources) if is_vaulted(path)]


#: How a file begins that is vaulted as a whole.
_VAULTED = "$ANSIBLE_VAULT"


def _unmade(node: Any, seen: set[int]) -> Iterator[tuple[int, str]]:
    """(line, why) of what is YAML and still no value: a day that no month has, a template without quotes, which is a map for a key."""
    if node is None or id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, yaml.ScalarNode):
        try:
            if node.tag.rpartition(":")[2] in ("timestamp", "int", "float"):
                _Tolerant("").construct_object(node)
        except (ValueError, yaml.YAMLError) as error:
            yield node.start_mark.line + 1, f"{node.value[:60]!r}: {getattr(error, 'problem', None) or error}"
        return
    for item in node.value:
        for part in item if isinstance(node, yaml.MappingNode) else [item]:
            if isinstance(node, yaml.MappingNode) and part is item[0] and not isinstance(part, yaml.ScalarNode):
                yield part.start_mark.line + 1, "a key is a map or a list"
            yield from _unmade(part, seen)


def _twice(node: Any, path: str, seen: set[int]) -> Iterator[tuple[str, int, int]]:
    """(key, first line, second line) of keys that a map has twice."""
    if node is None or id(node) in seen:
        return
    seen.add(id(node))
    lines: dict[tuple[str, str], int] = {}
    for number, item in enumerate(node.value if isinstance(node, (yaml.MappingNode, yaml.SequenceNode)) else ()):
        if isinstance(node, yaml.SequenceNode):
            yield from _twice(item, f"{path}[{number}]", seen)
            continue
        key, value = item
        name = f"{path}.{key.value}".lstrip(".") if isinstance(key, yaml.ScalarNode) else path
        if isinstance(key, yaml.ScalarNode):
            line = key.start_mark.line + 1
            if (key.tag, key.value) in lines and key.tag != "tag:yaml.org,2002:merge":
                yield name, lines[key.tag, key.value], line
            lines[key.tag, key.value] = line
        yield from _twice(value, name, seen)


def _inventory_names(group: Any) -> Iterator[str]:
    """Variable names in a YAML inventory."""
    if isinstance(group, dict):
        for key, value in group.items():
            if key == "vars" and isinstance(value, dict):
                yield from value
            elif key == "hosts" and isinstance(value, dict):
                for host in value.values():
                    yield from host or ()
            elif isinstance(value, dict):
                yield from _inventory_names(value)


def _mapping(path: Path) -> dict[str, Any]:
    """A YAML file that is a map; {} for anything else (Ansible itself reports what it cannot read)."""
    try:
        data = _Tolerant(path.read_text(encoding="utf-8")).get_single_data()
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return data if isinstance(data, dict) else {}


def _shown(path: Path) -> str:
    try:
        return path.resolve().relative_to(Path.cwd()).as_posix()
    except ValueError:
        return str(path)
