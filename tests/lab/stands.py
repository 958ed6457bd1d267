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
import tarfile
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args

from ansible_collections.hnai.platform.plugins.module_utils.hostfiles import Completed, Host
from ansible_collections.hnai.platform.plugins.module_utils.verdict import FAIL, INCONCLUSIVE, PASS, SKIPPED
from ansible_collections.hnai.platform.plugins.plugin_utils import contracts
from ansible_collections.hnai.platform.plugins.plugin_utils.store import build, locks
from ansible_collections.hnai.platform.plugins.plugin_utils.store.core import Store

#: Where `make lab` puts artifacts (hnai_store_dir of the lab's inventory).
STORE = Path(os.environ.get("HNAI_STORE_DIR") or Path.home() / ".cache/hnai/store")
WORST = (FAIL, INCONCLUSIVE, SKIPPED, PASS)
Checks = Sequence[Mapping[str, Any]]
"""What a verdict consists of: verdict.Check.as_dict of each."""
ROOT = Path(__file__).resolve().parents[2]
KEPT = ROOT / ".cache/stands"


def artifact(component: str, release: str, folder: Path) -> Path:
    """An archive of its component's name, unpacked below a folder; what `make lab` did not put into the store is fetched."""
    store = Store(STORE)
    entry = next(one for one in contracts.load(component)["artifacts"] if one["name"] == component)
    chosen = locks.choose(component, entry, release)
    built = build.ensure(store, locks.archive(ROOT / "roles" / component, component, chosen, locks.RELEASES["13"]))
    with tarfile.open(store.verified(built["digest"])) as archive:
        archive.extractall(folder / release, filter="data")
    return folder / release


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
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, patch_module_args(dict(arguments)), contextlib.redirect_stdout(printed):
        for name, value in instead.items():
            patch.setattr(module, name, value)
        with pytest.raises(SystemExit):
            module.main()
    result: dict[str, Any] = json.loads(printed.getvalue())
    assert "msg" not in result or "checks" in result, result["msg"]
    return result


def said(checks: Checks, fine: Sequence[str] = (PASS,)) -> dict[str, str]:
    """{id: "status subject: reason", of several subjects one a line, the worst first} of the checks that are not *fine*. Where no reason is given,
    what was observed stands in its place."""
    found: dict[str, str] = {}
    for check in sorted(checks, key=lambda one: WORST.index(one["status"])):
        if check["status"] not in fine:
            line = f"{check['status']} {check.get('subject', '')}: {check.get('reason') or check['observed']}"
            found[check["id"]] = "\n".join(filter(None, (found.get(check["id"]), line)))
    return found


def unlike(found: Mapping[str, str], wanted: Mapping[str, str]) -> dict[str, str]:
    """{id: what it says} of those in which their regular expression is not found."""
    return {ident: found.get(ident, "nothing") for ident, words in wanted.items() if ident not in found or not re.search(words, found[ident])}


@dataclass(frozen=True)
class Fault:
    """*make*(stand) makes it for the time of a block.

    Meanwhile each id of *must* does not pass, and its regular expression is found in what it says (`said`); nothing else is bad but *may*, its
    consequences, and *unknown*, which may be inconclusive and no worse (ids, with blanks between them). *rest*: as *must*, of what is bad on this
    stand without the fault, too.
    """

    make: Callable[[Any], AbstractContextManager[None]]
    must: Mapping[str, str]
    may: str = ""
    unknown: str = ""
    rest: Mapping[str, str] = field(default_factory=dict)


def faults(*listed: Fault) -> Any:
    """One test each, named after what is broken."""
    return pytest.mark.parametrize("fault", listed, ids=lambda one: one.make.__name__)


class Judged:
    """A stand that can be judged.

    *fine*: statuses that are no finding. *patience_s*: how long each verdict that `exercise` wants may take to come. *settles*: what is bad beside a
    fault may go by itself meanwhile; otherwise it may not be seen once the fault is.
    """

    fine: Sequence[str] = (PASS, SKIPPED)
    patience_s = 0.0
    settles = False
    #: What was said when it was last found in order: the end of one fault is the beginning of the next.
    well: Checks | None = None

    def judge(self) -> Checks:
        """Asked exactly as the module asks."""
        raise NotImplementedError

    def bad(self, checks: Checks) -> dict[str, str]:
        return said(checks, self.fine)

    def verdict(self, what: str, wrong: Callable[[Checks], object]) -> Checks:
        """The verdict, as soon as nothing is wrong with it; asked at least once."""
        end = time.monotonic() + self.patience_s
        while found := wrong(checks := self.judge()):
            assert time.monotonic() < end, f"{what}: {found}; of {self.bad(checks)}"
            time.sleep(0.5)
        return checks


@dataclass
class Asked(Judged):
    """One question to a stand."""

    judge: Callable[[], Checks]
    patience_s: float = 0.0
    settles: bool = False


def exercise(judged: Judged, fault: Fault, stand: Any = None) -> None:
    """A fault is made (on *stand*, where that is another than *judged*) and repaired: its checks are seen to pass, not to pass for their own reason
    while nothing else is bad but what follows from it, and to pass again."""
    must, may, unknown = fault.must, fault.may.split(), fault.unknown.split()

    def restless(checks: Checks) -> dict[str, str]:
        """What is not as it is when all is well; a check that is not made does not pass."""
        bad, passed = judged.bad(checks), {one["id"] for one in checks} - said(checks).keys()
        wrong = {ident: lines for ident, lines in bad.items() if ident not in fault.rest} | unlike(bad, fault.rest)
        return dict.fromkeys(must.keys() - fault.rest.keys() - passed, "does not pass") | wrong

    def others(checks: Checks) -> dict[str, str]:
        """What is bad and has no right to be; of a check of *must* also subjects that are bad in another way."""
        worst = {ident: lines.partition(" ")[0] for ident, lines in said(checks).items()}

        def follows(ident: str, status: str) -> bool:
            return ident in may or (ident in unknown and status == INCONCLUSIVE) or (ident in must and status == worst.get(ident))

        return judged.bad([one for one in checks if not follows(one["id"], one["status"])])

    def unnamed(checks: Checks) -> object:
        found = said(checks)
        missing = must.keys() - found.keys()
        if judged.settles and not missing:
            return others(checks) or {ident for ident in must if not found[ident].startswith(FAIL)}
        return missing

    begin, judged.well = judged.well, None
    if begin is None or restless(begin):
        judged.verdict("not well to begin with", restless)
    made = fault.make(judged if stand is None else stand)
    made.__enter__()
    # Not `with`: what a fault does behind its yield is its repair, also after an assertion that failed.
    try:
        checks = judged.verdict(f"nobody says {', '.join(must)}", unnamed)
        found = said(checks)
        print(fault.make.__name__, judged.bad(checks) | {ident: found[ident] for ident in must})
        assert not others(checks), others(checks)
        assert not unlike(found, must), f"for another reason: {unlike(found, must)}"
    finally:
        made.__exit__(None, None, None)
    judged.well = judged.verdict("not well again", restless)
