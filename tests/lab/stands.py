# SPDX-License-Identifier: Apache-2.0
"""What stands share: servers out of the artifact store, check modules asked as Ansible asks them, and a fault that comes and goes.

A stand is a real server on this machine, started by its test; the lab is not touched.
"""
from __future__ import annotations

import contextlib
import io
import json
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from ansible.module_utils import basic

from ansible_collections.hnai.platform.plugins.module_utils.hostfiles import Completed, Host

#: Where `make lab` puts artifacts (hnai_store_dir of the lab's inventory).
STORE = Path(os.environ.get("HNAI_STORE_DIR") or Path.home() / ".cache/hnai/store")
KEPT = Path(__file__).resolve().parents[2] / ".cache/stands"


def unpacked(manifests: str, packages: str, store: Path = STORE) -> Path:
    """Debian packages of the newest set whose manifest fits a pattern, unpacked once; nothing of them is installed. *packages*: a regular expression
    for whole names."""
    found = sorted((store / "manifests").glob(manifests), key=lambda path: path.stat().st_mtime)
    assert found, f"{store} has no {manifests}: make lab fetches it"
    folder = KEPT / found[-1].stem
    if not folder.exists():
        KEPT.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=KEPT) as new:
            for package in json.loads(found[-1].read_text(encoding="utf-8"))["packages"]:
                if re.fullmatch(packages, package["package"]):
                    (blob,) = (store / "blobs").rglob(package["sha256"] + "*")
                    subprocess.run(["dpkg-deb", "-x", str(blob), f"{new}/root"], check=True, timeout=600)
            os.rename(f"{new}/root", folder)
    return folder


class Machine(Host):
    """A machine below a directory, whose credentials lie there in clear."""

    def keep(self, path: str, value: str) -> None:
        """A credential at the path that its component has it at (credentials.path_of)."""
        file = Path(self.at(path))
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(value, encoding="utf-8")

    def run(self, argv: list[str], stdin: bytes | None = None, timeout: float = 60.0) -> Completed:
        assert argv[:2] == ["systemd-creds", "decrypt"], argv
        return Completed(0, Path(argv[-2]).read_bytes(), b"")


def ask(module: ModuleType, arguments: Mapping[str, Any], **instead: Any) -> dict[str, Any]:
    """The result of a module, by its own entry point, in this process. *instead*: names of the module that mean something else here (Host)."""
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(said):
        patch.setattr(basic, "_ANSIBLE_ARGS", json.dumps({"ANSIBLE_MODULE_ARGS": dict(arguments)}).encode())
        patch.setattr(basic, "_ANSIBLE_PROFILE", "legacy")
        for name, value in instead.items():
            patch.setattr(module, name, value)
        with pytest.raises(SystemExit):
            module.main()
    result: dict[str, Any] = json.loads(said.getvalue())
    assert "msg" not in result or "checks" in result, result["msg"]
    return result


def bad(result: Mapping[str, Any]) -> dict[str, str]:
    """{id: "status subject: reason", of several subjects one a line} of what is not well."""
    found: dict[str, str] = {}
    for check in result["checks"]:
        if check["status"] not in ("pass", "skipped"):
            line = f"{check['status']} {check.get('subject', '')}: {check.get('reason', '')}"
            found[check["id"]] = "\n".join(filter(None, (found.get(check["id"]), line)))
    return found


def until(what: str, look: Callable[[], dict[str, str]], well: Callable[[dict[str, str]], bool], patience_s: float) -> dict[str, str]:
    """What is not well, as soon as that is as it should be; asked at least once."""
    end = time.monotonic() + patience_s
    while not well(found := look()):
        assert time.monotonic() < end, f"{what}: {found}"
        time.sleep(0.5)
    return found


def fault(make: Callable[..., Any], must: Mapping[str, str], may: str = "") -> object:
    """A parameter triple, named by what was broken: what makes it, and what `exercise` takes."""
    return pytest.param(make, must, frozenset(may.split()), id=make.__name__)


def exercise(
    look: Callable[[], dict[str, str]], make: Callable[[], AbstractContextManager[None]], must: Mapping[str, str], may: Iterable[str] = (),
    patience_s: float = 0.0,
) -> None:
    """A fault is made and repaired. Before and after, all is well; between, each id of *must* is not, with these words in its line (a regular
    expression), and no other but those of *may*, its consequences. *patience_s*: of each of the three, where a server takes its time."""
    until("not well to begin with", look, lambda found: not found, patience_s)
    with make():
        found = until(f"nobody says {sorted(must)}", look, lambda found: must.keys() <= found.keys(), patience_s)
        assert found.keys() <= must.keys() | set(may), found
        wrong = {ident: found[ident] for ident, words in must.items() if not re.search(words, found[ident])}
        assert not wrong, f"for another reason: {wrong}"
    until("not well again", look, lambda found: not found, patience_s)
