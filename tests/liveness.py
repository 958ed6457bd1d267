# SPDX-License-Identifier: Apache-2.0
"""Where each check is seen to fail for its own reason and to pass again: tests/liveness.yml, held to the register and to the tests."""
from __future__ import annotations

import ast
import datetime
import functools
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "tests/liveness.yml"
#: Where a scenario's test stands, and where what judges meanwhile does.
SCENARIOS, UNIT = ("lab", "stacks"), ("unit",)
_TEST = re.compile(r"(test_\w+)(?:::(test_\w+))?(?:\[(.+)\])?")
_WORD = re.compile(r"\b(?:[A-Z]+[0-9]+|V-[A-Za-z]+)\b")


def load(path: Path = DATA) -> dict[str, Any]:
    """{seen: {component: {id: test}}, unseen: [{ids, since, reason, instead}]}."""
    content: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return content


@functools.cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@functools.cache
def _functions(path: Path) -> frozenset[str]:
    return frozenset(node.name for node in ast.walk(_tree(path)) if isinstance(node, ast.FunctionDef))


@functools.cache
def _imported(path: Path) -> frozenset[str]:
    return frozenset(alias.asname or alias.name for node in ast.walk(_tree(path)) if isinstance(node, ast.ImportFrom) for alias in node.names)


@functools.cache
def _strings(path: Path) -> frozenset[str]:
    """Of a file, and of the modules beside it that it imports."""
    return frozenset(_texts(path))


def _texts(path: Path) -> Iterator[str]:
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        # Tests take helpers from each other; only what a module of helpers says is theirs too.
        helpers = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [str(node.module)] if isinstance(node, ast.ImportFrom) else []
        for name in (one for one in helpers if not one.startswith("test_")):
            beside = path.with_name(f"{name}.py")
            if beside.is_file():
                yield from (one.value for one in ast.walk(_tree(beside)) if isinstance(one, ast.Constant) and isinstance(one.value, str))


@functools.cache
def _ids(path: Path) -> frozenset[str]:
    return frozenset(word for text in _strings(path) for word in _WORD.findall(text))


def _wrong(test: str, ids: Iterable[str], folders: Iterable[str], root: Path) -> str:
    """What is wrong with a test that is said to show *ids*; '' for nothing. A case is a function that its file has
    or imports, or a text in it."""
    match = _TEST.fullmatch(test)
    if match is None:
        return f"{test!r} is no file::function[case]"
    file, function, case = match.groups()
    path = next((root / "tests" / folder / f"{file}.py" for folder in folders if (root / "tests" / folder / f"{file}.py").is_file()), None)
    if path is None:
        return f"{test}: no such file in tests/{' or tests/'.join(folders)}"
    if function and function not in _functions(path):
        return f"{test}: no such function"
    if case and case not in _functions(path) | _imported(path) | _strings(path):
        return f"{test}: no such case"
    absent = sorted(set(ids) - _ids(path))
    return f"{test}: says nothing of {', '.join(absent)}" if absent else ""


def problems(data: Mapping[str, Any], register: Mapping[str, str], today: datetime.date, root: Path = ROOT) -> list[str]:
    """What is wrong: ids that are nowhere or twice, tests that are not there. *register*: id → component."""
    found = []
    count = Counter([ident for tests in data["seen"].values() for ident in tests] + [ident for entry in data["unseen"] for ident in entry["ids"]])
    found += [f"{ident}: stands in neither list; name the scenario's test, or the day and the reason" for ident in register if ident not in count]
    found += [f"{ident}: is no id of the register" for ident in count if ident not in register]
    found += [f"{ident}: stands here {number} times" for ident, number in count.items() if number > 1]
    for component, tests in data["seen"].items():
        for ident, test in tests.items():
            if register.get(ident, component) != component:
                found.append(f"{ident}: is of {register[ident]}, not of {component}")
            found.append(_wrong(test, [ident], SCENARIOS, root))
            if "::" not in test:
                found.append(f"{ident}: names no function")
    for entry in data["unseen"]:
        names = ", ".join(entry["ids"])
        if not isinstance(entry.get("since"), datetime.date) or entry["since"] > today:
            found.append(f"{names}: since is no day that was")
        if len(str(entry.get("reason") or "").split()) < 5:
            found.append(f"{names}: lacks a reason")
        said = [_wrong(test, [], UNIT, root) for test in entry.get("instead") or ["?"]]
        found += said
        if not any(said) and not any("::" in test for test in entry["instead"]):
            words = {word for test in entry["instead"] for word in _ids(root / "tests/unit" / f"{test.partition('::')[0]}.py")}
            found += [f"{ident}: no test of {', '.join(entry['instead'])} speaks of it" for ident in entry["ids"] if ident not in words]
    return [one for one in found if one]


def page(data: Mapping[str, Any]) -> str:
    """docs/liveness.md."""
    seen = {ident: test for tests in data["seen"].values() for ident, test in tests.items()}
    count = sum(len(entry["ids"]) for entry in data["unseen"])
    lines = [
        "<!-- SPDX-License-Identifier: Apache-2.0 -->",
        "<!-- made by scripts/docs-checks from tests/liveness.yml; edit that -->",
        "# Which checks were seen to fail",
        "",
        f"Of {len(seen) + count} checks of the verdict table, {len(seen)} are seen to fail for their own reason and to pass again, in a scenario on running",
        "servers. That a test stands here says that it exists; whether it passed is what its result says (`make scenario`).",
        f"The other {count} stand below with the day and the reason.",
        "",
        "| component | check | seen in |",
        "|---|---|---|",
        *(f"| {component} | {ident} | `{test}` |" for component, tests in data["seen"].items() for ident, test in tests.items()),
        "",
        "## Not seen in a scenario",
        "",
        "| checks | since | why | judged meanwhile by |",
        "|---|---|---|---|",
    ]
    for entry in data["unseen"]:
        tests = ", ".join(f"`{test}`" for test in entry["instead"])
        lines.append(f"| {', '.join(entry['ids'])} | {entry['since']} | {entry['reason']} | {tests} |")
    return "\n".join(lines) + "\n"
