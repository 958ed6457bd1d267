# SPDX-License-Identifier: Apache-2.0
"""Jars from Maven repositories, fetched by the ordinary `mvn` client with the machine's own settings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from .core import Store, StoreError, sha256_file
from .tree import Member

PLUGIN = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1"
_POM = """<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>
<groupId>hnai</groupId><artifactId>fetch</artifactId><version>1</version><packaging>pom</packaging>
<dependencies>{dependencies}</dependencies></project>
"""
_ALONE = "<exclusions><exclusion><groupId>*</groupId><artifactId>*</artifactId></exclusion></exclusions>"


def coordinate(artifact: Mapping[str, str]) -> str:
    """group:artifact:version[:classifier] for people."""
    text = f"{artifact['group']}:{artifact['artifact']}:{artifact['version']}"
    return f"{text}:{artifact['classifier']}" if artifact.get("classifier") else text


def file_name(artifact: Mapping[str, str]) -> str:
    """Maven's own file name."""
    classifier = f"-{artifact['classifier']}" if artifact.get("classifier") else ""
    return f"{artifact['artifact']}-{artifact['version']}{classifier}.{artifact['ext']}"


def repository_path(artifact: Mapping[str, str]) -> str:
    """Path in Maven's repository layout."""
    return f"{artifact['group'].replace('.', '/')}/{artifact['artifact']}/{artifact['version']}/{file_name(artifact)}"


def pom(artifacts: Iterable[Mapping[str, str]], alone: bool) -> str:
    """A pom with these dependencies; `alone`: none of theirs."""
    rows = []
    for item in artifacts:
        classifier = f"<classifier>{escape(item['classifier'])}</classifier>" if item.get("classifier") else ""
        alone_text = _ALONE if alone else ""
        rows.append(
            f"<dependency><groupId>{escape(item['group'])}</groupId><artifactId>{escape(item['artifact'])}</artifactId>"
            f"<version>{escape(item['version'])}</version>{classifier}<type>{escape(item['ext'])}</type>{alone_text}</dependency>"
        )
    return _POM.format(dependencies="\n".join(rows))


def download(store: Store, artifacts: Sequence[Mapping[str, str]], scratch: Path, what: str, key: str, alone: bool = True) -> Path:
    """Fetch into scratch/out in repository layout and return that directory."""
    (scratch / "pom.xml").write_text(pom(artifacts, alone), encoding="utf-8")
    out = scratch / "out"
    store.run(
        [
            "mvn",
            "-B",
            "-ntp",
            "-f",
            str(scratch / "pom.xml"),
            f"{PLUGIN}:copy-dependencies",
            "-DincludeScope=runtime",
            "-Dmdep.useRepositoryLayout=true",
            f"-DoutputDirectory={out}",
        ],
        what=what,
        key=key,
        cwd=scratch,
        package="maven",
    )
    return out


def fetch(store: Store, part: Mapping[str, Any], what: str, key: str) -> list[Member]:
    """The part's jars, all in the store afterwards, each compared with its sha256."""
    wanted: list[Mapping[str, str]] = part["artifacts"]
    missing = [item for item in wanted if not store.has(item["sha256"])]
    if missing:
        store.say(f"{what}: fetching {len(missing)} of {len(wanted)} jars")
        with store.scratch() as scratch:
            out = download(store, missing, scratch, f"{what}: fetching jars", key)
            for item in missing:
                path = out / repository_path(item)
                if not path.is_file():
                    raise StoreError(f"{what}: {coordinate(item)} did not come; remedy: `make lock` if it was withdrawn")
                store.add(path, item["sha256"], coordinate(item))
    into = part["into"].strip("/")
    return [Member(f"{into}/{file_name(item)}", store.verified(item["sha256"], coordinate(item))) for item in wanted]


def parse_root(root: str) -> dict[str, str]:
    """group:artifact:version[:classifier] → artifact."""
    steps = root.split(":")
    if len(steps) not in (3, 4) or not all(steps):
        raise StoreError(f"{root}: is not group:artifact:version[:classifier]; remedy: correct `roots` in the lock file")
    found = {"group": steps[0], "artifact": steps[1], "version": steps[2], "ext": "jar"}
    if len(steps) == 4:
        found["classifier"] = steps[3]
    return found


def resolve(store: Store, part: Mapping[str, Any], what: str, key: str) -> dict[str, Any]:
    """The part with `artifacts` resolved anew from `roots` (with their runtime dependencies if `transitive`)."""
    roots = [parse_root(root) for root in part["roots"]]
    found: list[dict[str, str]] = []
    with store.scratch() as scratch:
        out = download(store, roots, scratch, f"{what}: resolving", key, alone=not part.get("transitive", True))
        for path in sorted(out.rglob("*.jar")):
            artifact, version = path.parts[-3], path.parts[-2]
            item = {"group": ".".join(path.relative_to(out).parts[:-3]), "artifact": artifact, "version": version}
            rest = path.name.removeprefix(f"{artifact}-{version}").removesuffix(".jar").lstrip("-")
            if rest:
                item["classifier"] = rest
            found.append({**item, "ext": "jar", "sha256": sha256_file(path)})
            store.add(path)
    return {**part, "artifacts": sorted(found, key=coordinate)}
