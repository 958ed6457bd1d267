# SPDX-License-Identifier: Apache-2.0
"""Programs from Go modules, built by the ordinary `go` client with the machine's own settings.

The pinned h1 sum covers the module's source and its go.sum, which in turn covers every dependency; the checksum
database stays switched on. The program's sha256 is pinned per Go version where it is known.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .core import Store, StoreError, sha256_file
from .tree import Member


def environment() -> dict[str, str]:
    """The machine's environment with what makes a build repeatable."""
    flags = [flag for flag in os.environ.get("GOFLAGS", "").split() if not flag.startswith(("-mod", "-buildvcs"))]
    return {
        **os.environ,
        "CGO_ENABLED": "0",
        "GOTOOLCHAIN": "local",
        "GOOS": "linux",
        "GOARCH": "amd64",
        "GOAMD64": "v1",
        "GOWORK": "off",
        "GOFLAGS": " ".join([*flags, "-buildvcs=false"]),
    }


def version(store: Store, what: str, key: str) -> str:
    """E.g. `go1.26.8 linux/amd64`: the key under which a binary's sha256 is pinned."""
    words = store.run(["go", "version"], what=what, key=key, env=environment(), timeout_s=60, package="golang-go").split()
    return " ".join(words[2:4])


def module(store: Store, part: Mapping[str, Any], what: str, key: str) -> dict[str, Any]:
    """`go mod download -json` of the module: Dir, Sum, …"""
    with store.scratch() as scratch:
        text = store.run(
            ["go", "mod", "download", "-json", f"{part['module']}@{part['version']}"],
            what=f"{what}: fetching the module",
            key=key,
            cwd=scratch,
            env=environment(),
            package="golang-go",
        )
    value = dict(json.loads(text))
    if value.get("Error"):
        raise StoreError(f"{what}: {part['module']}@{part['version']}: {value['Error']}; remedy: check the network, or `make lock`")
    return value


def _source(path: Path, scratch: Path) -> Path:
    """A writable copy of the module's directory (the cache is read-only and must stay as it is)."""
    target = scratch / "src"
    shutil.copytree(path, target, symlinks=True)
    for folder, _names, _files in os.walk(target):
        os.chmod(folder, 0o700)
    return target


def _publish(store: Store, modules: Iterable[Mapping[str, str]], source: Path, what: str, key: str) -> None:
    """Modules of the same repository that go.mod replaces by their folder, which a module's archive does not contain: as they are published."""
    for one in modules:
        for name in ("go.mod", "go.sum"):
            (source / name).chmod(0o600)
        name, version_ = one["module"], one["version"]
        store.run(
            ["go", "mod", "edit", f"-dropreplace={name}", f"-require={name}@{version_}"],
            what=f"{what}: {name}",
            key=key,
            cwd=source,
            env=environment(),
            package="golang-go",
        )
        with (source / "go.sum").open("a", encoding="ascii") as stream:
            stream.write(f"{name} {version_} {one['sum']}\n{name} {version_}/go.mod {one['mod_sum']}\n")


def build(store: Store, part: Mapping[str, Any], scratch: Path, what: str, key: str) -> tuple[list[Member], dict[str, str]]:
    """The program as a member, and what to record about the build."""
    go = version(store, what, key)
    found = module(store, part, what, key)
    if found["Sum"] != part["sum"]:
        raise StoreError(
            f"{what}: {part['module']}@{part['version']} has the sum {found['Sum']}, the lock says {part['sum']}: refused; "
            "remedy: find out why it differs before you run `make lock`"
        )
    store.say(f"{what}: building {part['package']} with {go} (minutes without a build cache)")
    source = _source(Path(found["Dir"]), scratch)
    _publish(store, part.get("published", ()), source, what, key)
    program = scratch / "program"
    argv = ["go", "build", "-mod=readonly", "-trimpath", "-p", "2"]
    argv += ["-tags", part["tags"]] if part.get("tags") else []
    argv += ["-ldflags", part["ldflags"]] if part.get("ldflags") else []
    argv += ["-o", str(program), part["package"]]
    nice = shutil.which("nice")
    store.run(
        [nice, "-n", "5", *argv] if nice else argv,
        what=f"{what}: building",
        key=key,
        cwd=source,
        env=environment(),
        package="golang-go",
    )
    sha256 = sha256_file(program)
    pinned = part.get("binaries", {}).get(go)
    if pinned is not None and pinned != sha256:
        raise StoreError(
            f"{what}: {part['into']} built with {go} has sha256 {sha256}, the lock says {pinned}: refused; "
            "remedy: clean the build cache (`go clean -cache`) and run again; if it still differs, `make lock`"
        )
    note = "compared with the lock" if pinned else f"recorded only: the lock has no sha256 for {go}"
    if not pinned:
        store.say(f"{what}: {note}")
    return [Member(part["into"], program, True)], {"go": go, "program_sha256": sha256, "program": note}


def resolve(store: Store, part: Mapping[str, Any], what: str, key: str) -> dict[str, Any]:
    """The part with sum and, for the Go version that is running, the program's sha256 written anew."""
    fresh = {**part, "sum": module(store, part, what, key)["Sum"], "binaries": {}}
    if part.get("published"):
        had = [(one, module(store, one, what, key)) for one in part["published"]]
        fresh["published"] = [{**one, "sum": there["Sum"], "mod_sum": there["GoModSum"]} for one, there in had]
    with store.scratch() as scratch:
        _members, notes = build(store, fresh, scratch, what, key)
    kept = part.get("binaries", {}) if fresh["sum"] == part.get("sum") else {}
    return {**fresh, "binaries": dict(sorted({**kept, notes["go"]: notes["program_sha256"]}.items()))}
