# SPDX-License-Identifier: Apache-2.0
"""Verdicts on disk: a folder a run, ``latest`` pointing at the newest, everything listed with its sha256."""
from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ansible_collections.hnai.platform.plugins.plugin_utils.report import html, junit

KEEP = 100


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


def last_full(folder: Path, now: datetime) -> dict[str, Any]:
    """run_id, verdict, ended_at, age_s and age of the newest record with the full profile; empty without one."""
    for path in reversed(records(folder)):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            ended = datetime.fromisoformat(str(record["ended_at"]).replace("Z", "+00:00"))
        except (OSError, ValueError, KeyError):
            continue
        if record.get("profile") == "full":
            seconds = (now - ended).total_seconds()
            return {
                "run_id": record.get("run_id"), "verdict": record.get("verdict"), "ended_at": record["ended_at"],
                "age_s": round(seconds, 1), "age": age_text(seconds),
            }
    return {}


def latest(folder: Path) -> dict[str, Any]:
    """The newest record. Raises FileNotFoundError where there is none."""
    found = records(folder)
    if not found:
        raise FileNotFoundError(f"{folder} holds no verdict yet: run ansible-playbook hnai.platform.verify")
    return dict(json.loads(found[-1].read_text(encoding="utf-8")))


def write(folder: Path, record: dict[str, Any], raw: Mapping[tuple[str, str], Mapping[str, str]]) -> Path:
    """Write one run: record.json, report.html, junit.xml, raw/ and SHA256SUMS (for ``sha256sum -c``), all or nothing.

    *raw*: (component, host) -> file name -> text. Returns the run's folder. ``record["manifest"]`` is filled in.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    name = str(record["run_id"])
    work = folder / f".new-{name}"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(mode=0o700)
    files: dict[str, bytes] = {}
    for (component, host), texts in sorted(raw.items()):
        for file_name, text in sorted(texts.items()):
            files[f"raw/{_safe(host)}/{_safe(component)}/{_safe(file_name)}"] = text.encode("utf-8")
    record["manifest"] = [
        {"path": path, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()} for path, content in sorted(files.items())
    ]
    files["record.json"] = (json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8")
    files["report.html"] = html.render(record).encode("utf-8")
    files["junit.xml"] = junit.render(record)
    files["SHA256SUMS"] = "".join(
        f"{hashlib.sha256(content).hexdigest()}  {path}\n" for path, content in sorted(files.items())
    ).encode("utf-8")
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
    for old in records(folder)[:-KEEP]:
        shutil.rmtree(old.parent, ignore_errors=True)
    return final
