# SPDX-License-Identifier: Apache-2.0
"""Component contracts: read and check roles/<component>/meta/component.yml.

Controller only. The format is component.schema.json beside this file; the checker below knows exactly the
JSON Schema keywords that the schema uses, so that no third-party library is needed.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

COLLECTION_ROOT = Path(__file__).resolve().parents[2]
SCHEMA = Path(__file__).with_name("component.schema.json")

#: The C parser where PyYAML has it: a contract costs 1 ms instead of 15.
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
}


class ContractError(Exception):
    """A contract that is absent or wrong. `problems`: list of {file, key, message, remedy}, never empty."""

    def __init__(self, problems: list[dict[str, str]]) -> None:
        self.problems = problems
        super().__init__("\n".join(f"{p['file']}: {p['key']}: {p['message']}; remedy: {p['remedy']}" for p in problems))


def parsed(path: Path) -> Any:
    """The content of a YAML (or JSON) file of this collection. Raises OSError, yaml.YAMLError."""
    return _Loader(path.read_text(encoding="utf-8")).get_single_data()


def check_schema(value: Any, schema: Mapping[str, Any], key: str = "") -> list[tuple[str, str, str]]:
    """All violations as (key, message, remedy); [] if `value` fits `schema`.

    Keywords: type, enum, pattern, minLength, minimum, maximum, minItems, items, properties, required,
    additionalProperties, anyOf, oneOf. `key` is the dotted path to `value`.
    """
    here = key or "(top)"
    if "anyOf" in schema:
        results = [check_schema(value, option, key) for option in schema["anyOf"]]
        if [] not in results:
            return min(results, key=len)
    if "enum" in schema and value not in schema["enum"]:
        return [(here, f"{value!r} is not allowed", "use one of: " + ", ".join(map(str, schema["enum"])))]
    kind = schema.get("type")
    if kind:
        fits = isinstance(value, _TYPES[kind]) and (kind == "boolean" or not isinstance(value, bool))
        if not fits:
            return [(here, f"is {type(value).__name__}, not {kind}", f"write a value of type {kind}")]
    found: list[tuple[str, str, str]] = []
    if isinstance(value, str):
        if len(value) < schema.get("minLength", 0):
            found.append((here, "is empty", "write a value"))
        if "pattern" in schema and not re.search(schema["pattern"], value):
            found.append((here, f"{value!r} does not match {schema['pattern']}", "write it in that form"))
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        if value < schema.get("minimum", value) or value > schema.get("maximum", value):
            found.append((here, f"{value} is out of range", f"use {schema.get('minimum')} to {schema.get('maximum')}"))
    elif isinstance(value, list):
        if len(value) < schema.get("minItems", 0):
            found.append((here, "is too short", f"give at least {schema['minItems']}"))
        for index, item in enumerate(value):
            found += check_schema(item, schema.get("items", {}), f"{key}[{index}]")
    elif isinstance(value, dict):
        found += _check_object(value, schema, key)
    return found


def _check_object(value: dict[str, Any], schema: Mapping[str, Any], key: str) -> list[tuple[str, str, str]]:
    prefix = f"{key}." if key else ""
    known = schema.get("properties", {})
    extra = schema.get("additionalProperties", True)
    found = [(prefix + name, "is missing", "add it") for name in schema.get("required", []) if name not in value]
    for name, item in value.items():
        if name in known:
            found += check_schema(item, known[name], f"{prefix}{name}")
        elif extra is False:
            found.append((f"{prefix}{name}", "is not part of the format", "remove it or use one of: " + ", ".join(known)))
        elif isinstance(extra, dict):
            found += check_schema(item, extra, f"{prefix}{name}")
    options = schema.get("oneOf", [])
    if options and sum(set(option["required"]) <= set(value) for option in options) != 1:
        text = " or ".join("+".join(option["required"]) for option in options)
        found.append((key or "(top)", f"needs exactly one of {text}", f"give {text}"))
    return found


@functools.lru_cache(maxsize=1)
def _schema() -> dict[str, Any]:
    return dict(json.loads(SCHEMA.read_text(encoding="utf-8")))


def path_of(component: str, collection_root: str | Path | None = None) -> Path:
    """Where the contract of `component` lies."""
    return Path(collection_root or COLLECTION_ROOT) / "roles" / component / "meta" / "component.yml"


@functools.lru_cache(maxsize=256)
def _load(path: Path, shown: str, component: str, mtime_ns: int) -> str:
    """The contract as JSON text (immutable, so the cache cannot be spoilt by a caller)."""

    def fail(key: str, message: str, remedy: str) -> ContractError:
        return ContractError([{"file": shown, "key": key, "message": message, "remedy": remedy}])

    try:
        data = parsed(path)
    except yaml.YAMLError as error:
        raise fail("(file)", f"is not YAML: {error}", "correct the syntax") from error
    problems = [
        {"file": shown, "key": key, "message": message, "remedy": remedy}
        for key, message, remedy in check_schema(data, _schema())
    ]
    if not problems and data["name"] != component:
        raise fail("name", f"is {data['name']!r} in the role {component!r}", f"write name: {component}")
    if not problems:
        names = [item["name"] for item in data["listens"]]
        problems = [
            {
                "file": shown,
                "key": f"listens.{name}",
                "message": "is there twice",
                "remedy": "give each listener a name of its own",
            }
            for name in sorted({name for name in names if names.count(name) > 1})
        ]
    if problems:
        raise ContractError(problems)
    return json.dumps(data)


def load(component: str, collection_root: str | Path | None = None) -> dict[str, Any]:
    """The contract of one component as a plain dict. Raises ContractError, naming file, key and remedy."""
    path = path_of(component, collection_root)
    shown = f"roles/{component}/meta/component.yml"
    try:
        mtime = path.stat().st_mtime_ns
    except OSError as error:
        raise ContractError(
            [
                {
                    "file": shown,
                    "key": "(file)",
                    "message": "is not there",
                    "remedy": f"create it, or correct the component's name {component!r}",
                }
            ]
        ) from error
    return dict(json.loads(_load(path, shown, component, mtime)))


def external_variable(component: str) -> str:
    """The variable that says who else runs a component."""
    return f"{component}_external"


def asking(contract: Mapping[str, Any], external: Mapping[str, Any]) -> dict[str, Any]:
    """The contract where somebody else runs the component at an address: on our host nothing of it listens, runs or is kept, it is asked from there."""
    if not external.get("address"):
        return dict(contract)
    there = {key: value for key, value in contract.items() if key != "certificate"}
    return {**there, "levels": contract["asked_from"], "listens": [], "service": {"units": []}, "state": []}


def ports(component: str, collection_root: str | Path | None = None) -> dict[str, int]:
    """{listener: port} of one component, in the contract's order. Raises ContractError."""
    return {item["name"]: item["port"] for item in load(component, collection_root)["listens"]}


def all(collection_root: str | Path | None = None) -> dict[str, dict[str, Any]]:
    """Every contract of the collection by component name, sorted. Raises ContractError with the problems of all of them."""
    found: dict[str, dict[str, Any]] = {}
    problems: list[dict[str, str]] = []
    for path in sorted(Path(collection_root or COLLECTION_ROOT).glob("roles/*/meta/component.yml")):
        component = path.parents[1].name
        try:
            found[component] = load(component, collection_root)
        except ContractError as error:
            problems += error.problems
    if problems:
        raise ContractError(problems)
    return found


def placed(groups: Mapping[str, Iterable[str]], collection_root: str | Path | None = None) -> list[dict[str, Any]]:
    """Contracts of the components that stand somewhere: their placement group (default: their name) has a host."""
    return [
        contract for name, contract in all(collection_root).items() if list(groups.get(contract.get("placement", name), []))
    ]
