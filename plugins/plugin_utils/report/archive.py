# SPDX-License-Identifier: Apache-2.0
"""Verdicts on disk: a folder a run, ``latest`` pointing at the newest, everything listed with its sha256."""
from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ansible_collections.hnai.platform.plugins.plugin_utils.report import html, junit, metrics
from ansible_collections.hnai.platform.plugins.plugin_utils.report.record import SCHEMA

KEEP = 100
FULL = "full.json"
"""Which run was the last full verdict of the whole site. That run is never dropped while it is the last one."""

CONDUITS = "conduits.json"
"""When each conduit was last proven, and how: {id: {verdict, at}}. Most runs do not ask."""

ODD = "backslashreplace"
"""What is no Unicode text (a file name of a host that is no UTF-8) is written so, and ends no verdict."""

METRICS = "hnai.prom"
"""The metrics of the newest run that covered the whole site, for a textfile collector: a run of one part never hides the others, and a quick one never what
only the last full one asked."""


def run_id(now: datetime) -> str:
    """``20260131T120000.123Z``: sorts by time."""
    return now.astimezone(timezone.utc).strftime("%Y%m%dT%H%M%S.%f")[:-3] + "Z"


def age_text(seconds: float) -> str:
    """``3 d``, ``5 h``, ``12 min``, ``40 s``."""
    for size, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {name}"
    return f"{max(seconds, 0):.0f} s"


def _safe(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name).lstrip(".") or "unnamed"


def records(folder: Path) -> list[Path]:
    """Record files of finished runs, oldest first."""
    return sorted(path for path in folder.glob("[0-9]*Z/record.json") if path.is_file())


def _is_full(record: Mapping[str, Any]) -> bool:
    """Whether it is a full verdict of the whole site; one of a single host says nothing about the others."""
    return record.get("profile") == "full" and bool((record.get("covers") or {}).get("whole_site"))


def _pointer(folder: Path) -> dict[str, Any]:
    """What full.json says; empty where there is none that can be read."""
    try:
        found = json.loads((folder / FULL).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) and {"run_id", "verdict", "ended_at"} <= set(found) else {}


def last_full(folder: Path, now: datetime) -> dict[str, Any]:
    """run_id, verdict, ended_at, age_s and age of the last full verdict of the whole site; empty without one."""
    found = _pointer(folder)
    try:
        ended = datetime.fromisoformat(str(found["ended_at"]).replace("Z", "+00:00"))
    except (KeyError, ValueError):
        return {}
    seconds = (now - ended).total_seconds()
    return {**found, "age_s": round(seconds, 1), "age": age_text(seconds)}


def _full(folder: Path) -> dict[str, Any] | None:
    """The record of the last full verdict of the whole site; None where there is none that can be read."""
    try:
        found = json.loads((folder / str(_pointer(folder).get("run_id", "none")) / "record.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and found.get("schema") == SCHEMA else None


def proven(folder: Path, new: Mapping[str, Mapping[str, str]]) -> dict[str, dict[str, str]]:
    """The last verdict of each conduit, those of this run among them. Empty without any; what cannot be read is forgotten."""
    try:
        known = json.loads((folder / CONDUITS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        known = {}
    kept = {
        str(ident): {key: str(one.get(key, "")) for key in ("verdict", "at")}
        for ident, one in (known.items() if isinstance(known, dict) else ()) if isinstance(one, dict)
    }
    return {**kept, **{ident: dict(one) for ident, one in new.items()}}


def latest(folder: Path) -> dict[str, Any]:
    """The newest record. Raises FileNotFoundError where there is none, ValueError where it is damaged."""
    found = records(folder)
    if not found:
        raise FileNotFoundError(f"{folder} holds no verdict yet: run ansible-playbook hnai.platform.verify")
    try:
        newest = json.loads(found[-1].read_text(encoding="utf-8"))
        if not isinstance(newest, dict) or newest.get("schema") != SCHEMA:
            raise ValueError("another format")
    except ValueError as error:
        raise ValueError(f"{found[-1]}: is no record ({error}); remove its folder: the one before is shown then, or verify makes another") from error
    return newest


def _evidence(verdict: Mapping[str, Any]) -> bytes:
    """One verdict as its module gave it."""
    return (json.dumps(verdict, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8", ODD)


def _raw_files(record: dict[str, Any], raw: Mapping[tuple[str, str], Mapping[str, str]]) -> dict[str, bytes]:
    """The raw evidence by path. Every verdict has at least one file, and names its files with their sha256 (``raw``)."""
    files: dict[str, bytes] = {}
    for (component, host), texts in sorted(raw.items()):
        for file_name, text in sorted(texts.items()):
            files[f"raw/{_safe(host)}/{_safe(component)}/{_safe(file_name)}"] = text.encode("utf-8", ODD)
    for verdict in record["verdicts"]:
        below = f"raw/{_safe(verdict['host'])}/{_safe(verdict['component'])}"
        name = _safe(str(verdict.get("module") or "verdict").rpartition(".")[2] or "verdict")
        path, number = f"{below}/{name}.json", 1
        while path in files:
            number += 1
            path = f"{below}/{name}-{number}.json"
        files[path] = _evidence(verdict)
        own = [_safe(one) for one in raw.get((verdict["component"], verdict["host"]), {})]
        verdict["raw"] = [_entry(one, files[one]) for one in [path, *(f"{below}/{one}" for one in sorted(own))]]
    return files


def _entry(path: str, content: bytes) -> dict[str, Any]:
    return {"path": path, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def _replace(path: Path, content: bytes) -> None:
    """The file is the old one or the new one, never half of it."""
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(content)
    new.replace(path)


def write(folder: Path, record: dict[str, Any], raw: Mapping[tuple[str, str], Mapping[str, str]]) -> Path:
    """Write one run: record.json, report.html, junit.xml, metrics.prom, raw/ and SHA256SUMS (``sha256sum -c``), all or nothing.

    *raw*: (component, host) -> file name -> text. Returns the run's folder. ``record["manifest"]`` and the verdicts' ``raw``
    are filled in.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    name = str(record["run_id"])
    work = folder / f".new-{name}"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(mode=0o700)
    files = _raw_files(record, raw)
    record["manifest"] = [_entry(path, content) for path, content in sorted(files.items())]
    files["record.json"] = (json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8", ODD)
    files["report.html"] = html.render(record).encode("utf-8", ODD)
    files["junit.xml"] = junit.render(record)
    files["metrics.prom"] = metrics.render(record)
    files["SHA256SUMS"] = "".join(
        f"{hashlib.sha256(content).hexdigest()}  {path}\n" for path, content in sorted(files.items())
    ).encode("utf-8")
    with contextlib.ExitStack() as leaving:
        # On a full disk the half of it would be there for ever.
        leaving.callback(shutil.rmtree, work, ignore_errors=True)
        for path, content in files.items():
            target = work / path
            for parent in reversed(target.relative_to(work).parents):
                (work / parent).mkdir(exist_ok=True, mode=0o700)
            descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(content)
        final = folder / name
        work.rename(final)
    link = folder / f".latest-{name}"
    link.unlink(missing_ok=True)
    link.symlink_to(name)
    link.replace(folder / "latest")
    if _is_full(record):
        pointer = {key: record[key] for key in ("run_id", "verdict", "ended_at")}
        _replace(folder / FULL, (json.dumps(pointer) + "\n").encode("utf-8"))
    shown = (record.get("zones") or {}).get("conduits") or []
    if any(one["verdict"] for one in shown):
        last = {one["id"]: {key: one[key] for key in ("verdict", "at")} for one in shown if one["verdict"]}
        _replace(folder / CONDUITS, (json.dumps(last, sort_keys=True) + "\n").encode("utf-8"))
    if (record.get("covers") or {}).get("whole_site"):
        _replace(folder / METRICS, metrics.render(record, _full(folder)))
    kept = str(_pointer(folder).get("run_id", ""))
    for old in records(folder)[:-KEEP]:
        if old.parent.name != kept:
            shutil.rmtree(old.parent, ignore_errors=True)
    return final
