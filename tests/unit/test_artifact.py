# SPDX-License-Identifier: Apache-2.0
"""Artifacts on a host: whatever happens half-way, `current` points to a whole tree and the next run converges."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import stat
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ansible_collections.hnai.platform.plugins.action import artifact as artifact_action
from ansible_collections.hnai.platform.plugins.action.artifact import ActionModule
from ansible_collections.hnai.platform.plugins.module_utils import artifact, probe_env


def make_tar(path: Path, members: dict[str, Any]) -> str:
    """A tar with directories (None), files (bytes; a tuple with True = executable) and symlinks (str); its sha256."""
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        for name, value in members.items():
            info = tarfile.TarInfo(name)
            if value is None:
                info.type = tarfile.DIRTYPE
                tar.addfile(info)
            elif isinstance(value, str):
                info.type, info.linkname = tarfile.SYMTYPE, value
                tar.addfile(info)
            else:
                data, info.mode = value if isinstance(value, tuple) else (value, 0o644)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return hashlib.sha256(path.read_bytes()).hexdigest()


def spec(path: Path, version: str, recipe: str = "r", content: bytes = b"one", **more: Any) -> dict[str, Any]:
    """An install_archive spec with a fresh tar."""
    source = path / f"{version}-{recipe}.tar"
    digest = make_tar(source, {"bin": None, "bin/x": (content, 0o755), "bin/y": "x", "etc.conf": b"e"})
    return {"name": "demo", "version": version, "target": "amd64", "recipe": recipe, "digest": digest, "src": str(source), "compile": False, **more}


class TestArchive:
    def test_installs_and_is_a_no_op_afterwards(self, tmp_path: Path) -> None:
        opt = tmp_path / "opt"
        first = spec(tmp_path, "1.0")
        assert artifact.install_archive(first, opt)["changed"] is True
        seen = artifact.observe_archive("demo", opt)
        assert (seen["version"], seen["recipe"], seen["digest"], seen["damaged"]) == ("1.0", "r", first["digest"], "")
        assert os.access(opt / "demo/current/bin/x", os.X_OK)
        assert (opt / "demo/1.0/etc.conf").stat().st_mode & 0o777 == 0o644
        assert os.readlink(opt / "demo/1.0/bin/y") == "x"
        assert artifact.install_archive({**first, "src": "/nowhere"}, opt)["changed"] is False

    def test_keeps_exactly_one_old_version(self, tmp_path: Path) -> None:
        opt = tmp_path / "opt"
        for version in ("1.0", "1.1", "1.2"):
            artifact.install_archive(spec(tmp_path, version), opt)
        assert sorted(entry.name for entry in (opt / "demo").iterdir()) == ["1.1", "1.2", "current"]
        assert os.readlink(opt / "demo/current") == "1.2"
        artifact.install_archive({**spec(tmp_path, "1.1"), "src": ""}, opt)  # the way back needs no tar
        assert os.readlink(opt / "demo/current") == "1.1"
        assert sorted(artifact.observe_archive("demo", opt)["versions"]) == ["1.1", "1.2"]

    def test_same_version_with_other_content_is_replaced(self, tmp_path: Path) -> None:
        opt = tmp_path / "opt"
        artifact.install_archive(spec(tmp_path, "1.0"), opt)
        assert artifact.install_archive(spec(tmp_path, "1.0", "other", b"two"), opt)["changed"] is True
        assert (opt / "demo/current/bin/x").read_bytes() == b"two"
        assert sorted(entry.name for entry in (opt / "demo").iterdir()) == ["1.0", "current"]

    def test_tampered_tar_is_refused_and_nothing_changes(self, tmp_path: Path) -> None:
        opt = tmp_path / "opt"
        artifact.install_archive(spec(tmp_path, "1.0"), opt)
        wanted = spec(tmp_path, "1.1")
        with open(wanted["src"], "ab") as stream:
            stream.write(b"\0")
        with pytest.raises(artifact.ArtifactError, match="refused"):
            artifact.install_archive(wanted, opt)
        assert os.readlink(opt / "demo/current") == "1.0"
        assert not (opt / "demo/1.1").exists()

    @pytest.mark.parametrize("member", ["../evil", "/evil", "a/../../evil", artifact.MANIFEST])
    def test_members_that_leave_the_tree_are_refused(self, tmp_path: Path, member: str) -> None:
        source = tmp_path / "evil.tar"
        digest = make_tar(source, {member: b"x"})
        with pytest.raises(artifact.ArtifactError, match="refused"):
            artifact.install_archive({**spec(tmp_path, "1.0"), "src": str(source), "digest": digest}, tmp_path / "opt")
        assert not (tmp_path / "evil").exists()

    @pytest.mark.parametrize("damage", ["of the same size", "shorter", "gone", "link"])
    def test_damage_is_seen_and_healed(self, tmp_path: Path, damage: str) -> None:
        opt = tmp_path / "opt"
        wanted = spec(tmp_path, "1.0")
        artifact.install_archive(wanted, opt)
        if damage == "shorter":
            (opt / "demo/1.0/bin/x").write_bytes(b"")
        elif damage == "gone":
            (opt / "demo/1.0/etc.conf").unlink()
        elif damage == "of the same size":
            changed = opt / "demo/1.0/bin/x"
            changed.write_bytes(changed.read_bytes()[::-1])
            os.utime(changed, (time.time() + 1, time.time() + 1))
        else:
            (opt / "demo/1.0/bin/y").unlink()
            (opt / "demo/1.0/bin/y").symlink_to("/bin/sh")
        seen = artifact.observe_archive("demo", opt)
        assert seen["damaged"]
        assert seen["versions"] == {}
        assert artifact.install_archive(wanted, opt)["changed"] is True
        assert artifact.observe_archive("demo", opt)["damaged"] == ""

    @pytest.mark.parametrize(
        ("spoil", "named"),
        [
            (lambda top: (top / "bin/x").chmod(0o4755), "bin/x"),
            (lambda top: (top / "bin/x").chmod(0o644), "bin/x"),
            (lambda top: (top / "etc.conf").chmod(0o666), "etc.conf"),
            (lambda top: (top / "bin").chmod(0o777), "bin"),
            (lambda top: top.chmod(0o775), "."),
            (lambda top: [(top / "etc.conf").rename(top.parent / "e"), (top / "etc.conf").symlink_to("../e")], "etc.conf"),
            (lambda top: [(top / "bin").rename(top.parent / "b"), (top / "bin").symlink_to("../b")], "bin"),
        ],
    )
    def test_rights_and_kind_of_what_was_unpacked_are_looked_at(self, tmp_path: Path, spoil: Callable[[Path], object], named: str) -> None:
        wanted = spec(tmp_path, "1.0")
        artifact.install_archive(wanted, tmp_path / "opt")
        top = tmp_path / "opt/demo/1.0"
        was = top.stat().st_ino
        spoil(top)
        rights_alone = not {path.name for path in top.parent.iterdir()} & {"e", "b"}
        assert artifact.observe_archive("demo", tmp_path / "opt")["damaged"] == named
        assert artifact.install_archive(wanted, tmp_path / "opt")["changed"] is True
        assert artifact.observe_archive("demo", tmp_path / "opt")["damaged"] == ""
        assert (top.stat().st_ino == was) == rights_alone, "rights are mended in place"
        assert stat.S_IMODE((top / "bin/x").stat().st_mode) == 0o755

    def test_rights_of_a_release_of_before_are_mended_too(self, tmp_path: Path) -> None:
        wanted = spec(tmp_path, "1.0")
        artifact.install_archive(wanted, tmp_path / "opt")
        top = tmp_path / "opt/demo/1.0"
        manifest = top / artifact.MANIFEST
        kept = json.loads(manifest.read_text())
        del kept["executable"]
        manifest.write_text(json.dumps(kept))
        before = manifest.read_bytes()
        (top / "bin/x").chmod(0o4755)
        assert artifact.install_archive(wanted, tmp_path / "opt")["changed"] is True
        assert (stat.S_IMODE((top / "bin/x").stat().st_mode), stat.S_IMODE((top / "etc.conf").stat().st_mode)) == (0o755, 0o644)
        assert manifest.read_bytes() == before, "what runs has no reason to start again"

    def test_an_owner_that_changed_is_damage_and_put_back(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        wanted, opt = spec(tmp_path, "1.0"), tmp_path / "opt"
        artifact.install_archive(wanted, opt)
        us, owners = (os.geteuid(), os.getegid()), dict[str, tuple[int, int, bool]]()

        def chown(path: Path, uid: int, gid: int, follow_symlinks: bool) -> None:
            owners[str(path.relative_to(opt / "demo/1.0"))] = (uid, gid, follow_symlinks)
            monkeypatch.setattr(os, "geteuid", lambda: us[0])  # from here on they are as they are to be

        monkeypatch.setattr(os, "chown", chown)
        monkeypatch.setattr(os, "geteuid", lambda: 4711)
        assert artifact.observe_archive("demo", opt)["damaged"]
        assert artifact.install_archive(wanted, opt)["changed"] is True
        assert set(owners) == {".", "bin", "bin/x", "bin/y", "etc.conf", artifact.MANIFEST}
        assert {follow for _uid, _gid, follow in owners.values()} == {False}

    def test_what_was_never_unpacked_is_named_and_left_alone(self, tmp_path: Path) -> None:
        """A jar beside the released ones is loaded by a class path with a wildcard."""
        opt = tmp_path / "opt"
        wanted = spec(tmp_path, "1.0")
        artifact.install_archive(wanted, opt)
        top = opt / "demo/1.0"
        (top / "bin/evil.jar").write_bytes(b"")
        os.utime(top / "bin/evil.jar", (1, 1))
        (top / "bin/link").symlink_to("/tmp")
        (top / "own/deep").mkdir(parents=True)
        (top / "__pycache__").mkdir()
        os.utime(top / "__pycache__", (1, 1))
        foreign = [f"{top}/{name}" for name in ("__pycache__/", "bin/evil.jar", "bin/link", "own/")]
        seen = artifact.observe_archive("demo", opt)
        assert (seen["foreign"], seen["damaged"], seen["version"]) == (foreign, "", "1.0")
        assert artifact.install_archive({**wanted, "src": "/nowhere"}, opt)["changed"] is False
        assert artifact.observe_archive("demo", opt)["foreign"] == foreign

    def test_byte_code_of_ours_is_ours_and_other_is_not(self, tmp_path: Path) -> None:
        opt = tmp_path / "opt"

        def compiler(argv: Sequence[str], _timeout_s: float) -> tuple[int, str]:
            folder = Path(argv[-1]).parent / "bin/__pycache__"
            folder.mkdir(mode=0o700)
            (folder / "x.pyc").write_bytes(b"code")
            (folder / "x.pyc").chmod(0o600)
            return 0, ""

        artifact.install_archive(spec(tmp_path, "1.0", compile=True), opt, compiler)
        folder = opt / "demo/1.0/bin/__pycache__"
        seen = artifact.observe_archive("demo", opt)
        assert (seen["damaged"], seen["foreign"]) == ("", [])
        assert ((folder / "x.pyc").stat().st_mode & 0o777, folder.stat().st_mode & 0o777) == (0o644, 0o755), "whoever runs it reads it"
        (folder / "y.pyc").write_bytes(b"other")
        assert artifact.observe_archive("demo", opt)["foreign"] == [f"{folder}/y.pyc"]
        # Installed by a release that did not record byte code and modes.
        (folder / "y.pyc").unlink()
        manifest = folder.parents[1] / artifact.MANIFEST
        kept = json.loads(manifest.read_text())
        manifest.write_text(json.dumps({**{key: value for key, value in kept.items() if key != "executable"},
                                        "files": {path: size for path, size in kept["files"].items() if size is not None}}))  # fmt: skip
        seen = artifact.observe_archive("demo", opt)
        assert (seen["damaged"], seen["foreign"]) == ("", [])
        os.utime(folder, (time.time() + 1, time.time() + 1))
        assert artifact.observe_archive("demo", opt)["foreign"] == [f"{folder}/"]

    @pytest.mark.parametrize("step", range(1, 12))
    def test_killed_at_any_rename_or_sync(self, tmp_path: Path, step: int) -> None:
        """Die at the n-th system call that matters; `current` is whole in between and the next run converges."""
        opt = tmp_path / "opt"
        artifact.install_archive(spec(tmp_path, "1.0"), opt)
        artifact.install_archive(spec(tmp_path, "1.1"), opt)
        wanted = spec(tmp_path, "1.2")
        code = f"""
import json, os, pathlib, sys
sys.path.insert(0, {str(Path(artifact.__file__).parent)!r})
import artifact
count = 0
def dying(inner):
    def call(*arguments, **named):
        global count
        count += 1
        if count == {step}:
            os._exit(9)
        return inner(*arguments, **named)
    return call
for owner, name in ((os, "replace"), (os, "fsync"), (pathlib.Path, "rename"), (pathlib.Path, "mkdir"), (artifact.shutil, "rmtree")):
    setattr(owner, name, dying(getattr(owner, name)))
artifact.install_archive(json.loads(sys.argv[1]), pathlib.Path({str(opt)!r}))
"""
        subprocess.run([sys.executable, "-c", code, json.dumps(wanted)], check=False, timeout=60)
        assert os.readlink(opt / "demo/current") in ("1.1", "1.2")
        between = artifact.observe_archive("demo", opt)
        assert between["version"] in ("1.1", "1.2")
        assert between["damaged"] == ""
        artifact.install_archive(wanted, opt)
        assert os.readlink(opt / "demo/current") == "1.2"
        assert sorted(entry.name for entry in (opt / "demo").iterdir()) == ["1.1", "1.2", "current"]
        assert artifact.install_archive(wanted, opt)["changed"] is False

    @pytest.mark.parametrize("member", [1, 2, 4])
    def test_killed_while_it_unpacks(self, tmp_path: Path, member: int) -> None:
        """A real SIGKILL, in the middle of the n-th member: half a file lies in a directory that counts for nothing, and is gone after the next run."""
        opt = tmp_path / "opt"
        artifact.install_archive(spec(tmp_path, "1.0"), opt)
        source = tmp_path / "1.1-r.tar"
        digest = make_tar(source, {"bin": None, **{f"bin/{number}": bytes(200_000) for number in range(5)}})
        wanted = {**spec(tmp_path, "1.2"), "version": "1.1", "digest": digest, "src": str(source)}
        code = f"""
import json, os, pathlib, signal, sys
sys.path.insert(0, {str(Path(artifact.__file__).parent)!r})
import artifact
count = 0
def dying(stream, out, _length):
    global count
    count += 1
    out.write(stream.read(100_000))
    out.flush()
    if count == {member}:
        os.kill(os.getpid(), signal.SIGKILL)
    out.write(stream.read())
artifact.shutil.copyfileobj = dying
artifact.install_archive(json.loads(sys.argv[1]), pathlib.Path({str(opt)!r}))
"""
        done = subprocess.run([sys.executable, "-c", code, json.dumps(wanted)], check=False, timeout=60)
        assert done.returncode == -9
        (left,) = (entry for entry in (opt / "demo").iterdir() if entry.name.startswith(".new-"))
        assert (left / f"bin/{member - 1}").stat().st_size == 100_000
        assert os.readlink(opt / "demo/current") == "1.0"
        assert artifact.observe_archive("demo", opt)["version"] == "1.0"
        assert artifact.install_archive(wanted, opt)["changed"] is True
        assert {file.stat().st_size for file in (opt / "demo/current/bin").iterdir()} == {200_000}
        assert sorted(entry.name for entry in (opt / "demo").iterdir()) == ["1.0", "1.1", "current"]

    def test_what_counts_is_on_the_disk_first(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A power cut at no moment leaves a manifest on half a tree, or `current` on a name that is not there."""
        opt, done = tmp_path / "opt", []
        base = opt / "demo"
        artifact.install_archive(spec(tmp_path, "1.0"), opt)

        def tell(what: str, call: Callable[..., Any]) -> Callable[..., Any]:
            def told(first: Any, *more: Any) -> Any:
                place = Path(os.readlink(f"/proc/self/fd/{first}") if isinstance(first, int) else first)
                whole = (place / "bin/y").is_symlink() and not (place / artifact.MANIFEST).exists()
                shown = re.sub(r"new-\w+", "new", str(place.relative_to(opt)).replace(str(os.getpid()), "PID"))
                done.append((what, shown, *([whole] if what == "file system" else [Path(other).name for other in more])))
                return call(first, *more)

            return told

        monkeypatch.setattr(os, "fsync", tell("sync", os.fsync))
        monkeypatch.setattr(os, "rename", tell("rename", os.rename))
        monkeypatch.setattr(os, "replace", tell("replace", os.replace))
        monkeypatch.setattr(artifact, "_sync_file_system", tell("file system", artifact._sync_file_system))
        written = [("file system", "demo/.new", True), ("sync", f"demo/.new/{artifact.MANIFEST}")]
        artifact.install_archive(spec(tmp_path, "1.1"), opt)
        assert done == [*written, ("rename", "demo/.new", "1.1"), ("sync", "demo"), ("replace", "demo/.current.PID", "current"), ("sync", "demo")]
        done.clear()
        artifact.install_archive(spec(tmp_path, "1.1", "other", b"two"), opt)
        assert done == [*written, ("rename", "demo/1.1", f".old-{os.getpid()}-1.1"), ("rename", "demo/.new", "1.1"), ("sync", "demo")]
        assert {path.stat().st_mode & 0o777 for path in (opt, base, base / "1.1")} == {0o755}
        assert (base / "1.1" / artifact.MANIFEST).stat().st_mode & 0o777 == 0o644

    def test_compiles_with_the_trees_own_interpreter(self, tmp_path: Path) -> None:
        calls: list[list[str]] = []

        def runner(argv: Sequence[str], _timeout_s: float) -> tuple[int, str]:
            calls.append(list(argv))
            return 0, ""

        artifact.install_archive(spec(tmp_path, "1.0", compile=True), tmp_path / "opt", runner)
        assert calls[0][0].endswith("/bin/python3")
        assert "compileall" in calls[0]


class FakeHost:
    """dpkg, apt-get and systemctl that do what the test says."""

    def __init__(self, apt: Path, policy: Path) -> None:
        self.apt = apt
        self.policy = policy
        self.installed: dict[str, str] = {}
        self.audit = ""
        self.calls: list[str] = []
        self.policy_seen: list[bool] = []
        self.fail = ""
        self.removed: list[str] = []
        self.active: list[str] = []

    def __call__(self, argv: Sequence[str], _timeout_s: float) -> tuple[int, str]:
        words = [word for word in argv if (not word.startswith("-") and "=" not in word) or argv[0] != "apt-get"]
        text = " ".join(argv)
        self.calls.append(text)
        if argv[0] == "dpkg-query":
            rows = [f"{name}\t{version}\tii " for name, version in self.installed.items() if name in argv]
            return (0 if rows else 1), "\n".join(rows)
        if argv[:2] == ["dpkg", "--audit"]:
            return 0, self.audit
        if "update" in words:
            return 0, ""
        if "-s" in argv:
            gone = "".join(f"Remv {name} [1.0]\n" for name in self.removed)
            return 0, gone + "Inst libx (1.0-1 hnai:trixie [amd64])\nInst demo [1.0-1] (2.0-1 hnai:trixie [amd64])\nConf demo (2.0-1 x)\n"
        if argv[:2] == ["systemctl", "is-active"]:
            return (0, "active\n") if argv[2] in self.active else (3, "inactive\n")
        if "install" in words:
            self.policy_seen.append(self.policy.exists())
            if self.fail:
                return 100, self.fail
            self.installed["demo"] = "2.0-1"
        return 0, ""


@pytest.fixture
def debs(tmp_path: Path) -> artifact.Debs:
    """Debs on a directory, with a fake host as its runner."""
    apt, policy = tmp_path / "apt", tmp_path / "policy-rc.d"
    return artifact.Debs(-1, apt, policy, tmp_path / "units", tmp_path / "lock", 1.0, FakeHost(apt, policy))


def index(files: dict[str, bytes]) -> str:
    """A Packages file; files: "name_version" → content."""
    blocks = []
    for key, data in files.items():
        name, version = key.split("_")
        blocks.append(f"Package: {name}\nVersion: {version}\nFilename: ./pool/{key}_amd64.deb\nSHA256: {hashlib.sha256(data).hexdigest()}\n")
    return "\n".join(blocks)


class TestDebs:
    def push(self, debs: artifact.Debs, tmp_path: Path, with_files: bool = True) -> None:
        files = {"demo_2.0-1": b"demo", "libx_1.0-1": b"libx", "other_1": b"o"}
        members: dict[str, Any] = {"Packages": index(files).encode(), "InRelease": b"", "key.asc": b""}
        if with_files:
            members |= {f"pool/{key}_amd64.deb": data for key, data in files.items() if key != "other_1"}
        make_tar(tmp_path / "bundle.tar", members)
        debs.receive(tmp_path / "bundle.tar")

    def test_plan_names_what_has_to_be_pushed(self, debs: artifact.Debs, tmp_path: Path) -> None:
        self.push(debs, tmp_path, with_files=False)
        found = debs.plan(["demo=2.0-1"])
        assert found == {"install": ["demo=2.0-1", "libx=1.0-1"], "missing": ["demo_2.0-1_amd64.deb", "libx_1.0-1_amd64.deb"]}
        self.push(debs, tmp_path)
        assert debs.plan(["demo=2.0-1"])["missing"] == []

    def test_what_the_site_put_there_is_not_removed(self, debs: artifact.Debs, tmp_path: Path) -> None:
        self.push(debs, tmp_path)
        debs.runner.removed = ["systemd-timesyncd"]
        assert debs.plan(["demo=2.0-1"])["install"] == ["demo=2.0-1", "libx=1.0-1"]
        debs.runner.removed += ["ntpsec", "ntp"]
        with pytest.raises(artifact.ArtifactError, match=r"apt would remove ntp, ntpsec, which somebody else put .* remedy: `apt-get remove ntp ntpsec`"):
            debs.plan(["demo=2.0-1"])

    def test_what_the_site_runs_is_not_stopped(self, debs: artifact.Debs) -> None:
        debs.runner.active = ["demo.service"]
        with pytest.raises(artifact.ArtifactError, match=r"demo.service runs on this host.* remedy: `systemctl disable --now demo.service`"):
            debs.mask(["other.service", "demo.service"])
        assert not debs.units.exists(), "masked half"

    def test_a_changed_package_is_pushed_again(self, debs: artifact.Debs, tmp_path: Path) -> None:
        self.push(debs, tmp_path)
        (debs.apt / "pool/demo_2.0-1_amd64.deb").write_bytes(b"tampered")
        assert debs.plan(["demo=2.0-1"])["missing"] == ["demo_2.0-1_amd64.deb"]

    def test_only_our_repository_is_used_and_it_must_be_signed(self, debs: artifact.Debs, tmp_path: Path) -> None:
        self.push(debs, tmp_path)
        debs.plan(["demo=2.0-1"])
        text = " ".join(debs.options())
        assert f"Dir::Etc::sourcelist={debs.apt}/sources.list" in text
        assert "Dir::Etc::sourceparts=-" in text
        assert f"Dir::State::Lists={debs.apt}/lists" in text
        assert "APT::Get::AllowUnauthenticated=false" in text
        assert (debs.apt / "sources.list").read_text() == f"deb [signed-by={debs.apt}/key.asc] file:{debs.apt} ./\n"

    def test_starts_are_denied_during_the_installation_only(self, debs: artifact.Debs, tmp_path: Path) -> None:
        self.push(debs, tmp_path)
        debs.install(["demo=2.0-1"])
        host = debs.runner
        assert isinstance(host, FakeHost)
        assert host.policy_seen == [True]
        assert not debs.policy.exists()

    def test_a_failed_installation_allows_starts_again(self, debs: artifact.Debs, tmp_path: Path) -> None:
        self.push(debs, tmp_path)
        assert isinstance(debs.runner, FakeHost)
        debs.runner.fail = "E: Hash Sum mismatch"
        with pytest.raises(artifact.ArtifactError, match="Hash Sum mismatch"):
            debs.install(["demo=2.0-1"])
        assert not debs.policy.exists()

    def test_a_policy_of_the_site_comes_back(self, debs: artifact.Debs, tmp_path: Path) -> None:
        debs.policy.write_text("#!/bin/sh\nexit 0 # the site's own\n")
        self.push(debs, tmp_path)
        debs.install(["demo=2.0-1"])
        assert "the site's own" in debs.policy.read_text()
        assert debs.allow_starts() is False
        debs.deny_starts()
        debs.deny_starts()  # killed and begun again: the site's own is not overwritten
        assert debs.allow_starts() is True
        assert "the site's own" in debs.policy.read_text()

    def test_what_a_killed_dpkg_left_is_finished_first(self, debs: artifact.Debs, tmp_path: Path) -> None:
        self.push(debs, tmp_path)
        assert isinstance(debs.runner, FakeHost)
        debs.runner.audit = "demo is only half configured"
        debs.plan(["demo=2.0-1"])
        assert any("--configure -a" in call for call in debs.runner.calls)

    def test_masks_before_and_refuses_the_sites_own_unit(self, debs: artifact.Debs, tmp_path: Path) -> None:
        debs.units.mkdir()
        (debs.units / "own.service").write_text("[Unit]\n")
        with pytest.raises(artifact.ArtifactError, match="site's own"):
            debs.mask(["own.service"])
        assert debs.mask(["demo.service"]) == ["demo.service"]
        assert artifact.masked("demo.service", debs.units)
        assert debs.mask(["demo.service"]) == []

    @pytest.mark.parametrize("member", ["../x.deb", "pool/../../x.deb", "pool/x.sh", "sources.list", "lists/x"])
    def test_a_bundle_brings_index_and_packages_only(self, debs: artifact.Debs, tmp_path: Path, member: str) -> None:
        make_tar(tmp_path / "bad.tar", {member: b"x"})
        with pytest.raises(artifact.ArtifactError, match="refused"):
            debs.receive(tmp_path / "bad.tar")

    def test_tidy_keeps_what_the_index_names(self, debs: artifact.Debs, tmp_path: Path) -> None:
        self.push(debs, tmp_path)
        (debs.apt / "pool/ancient_0.1_amd64.deb").write_bytes(b"")
        debs.tidy()
        assert sorted(path.name for path in (debs.apt / "pool").iterdir()) == ["demo_2.0-1_amd64.deb", "libx_1.0-1_amd64.deb"]


def test_a_run_and_a_check_name_what_lies_in_a_release_and_is_not_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    evil = "/opt/hnai/demo/1.0/libs/evil.jar"
    there = {"version": "1.0", "recipe": "r", "digest": "d", "damaged": "", "foreign": [evil]}
    need = SimpleNamespace(archives=[SimpleNamespace(name="demo", version="1.0", recipe="r")])
    state = {"archives": {"demo": there}, "packages": {}, "os": {}}
    action = object.__new__(ActionModule)
    monkeypatch.setattr(action, "_bring", lambda *_: action._report(need, state, False, [], [], []), raising=False)  # type: ignore[arg-type]
    said: list[str] = []
    monkeypatch.setattr(artifact_action.display, "warning", said.append)
    result = action._deliver(None, {"component": "demo"}, {"inventory_hostname": "kafka1"})  # type: ignore[arg-type]
    assert (result["changed"], result["foreign"]) == (False, [evil])
    assert said == [f"kafka1: {evil} is not of the release of demo, which may load it; it is left alone"]
    # Where the release is replaced as a whole, what lay in it goes, and that is told.
    state["archives"]["demo"] = {**there, "damaged": "libs/a.jar"}
    told = action._report(need, state, True, need.archives, [], [])["diff"]["before"]  # type: ignore[arg-type]
    assert told == f"demo 1.0 (damaged: libs/a.jar; not of it: {evil}) recipe r\n"


class TestLock:
    def test_policy_says_no_only_while_the_lock_is_held(self, tmp_path: Path) -> None:
        lock, policy = tmp_path / "lock", tmp_path / "policy-rc.d"
        with artifact.host_lock(lock) as handle:
            debs = artifact.Debs(handle, tmp_path / "apt", policy, tmp_path / "units", lock)
            debs.deny_starts()
            assert subprocess.run([str(policy), "x", "start"], check=False).returncode == 101
            assert artifact.leftover(policy, lock) is False
        assert subprocess.run([str(policy), "x", "start"], check=False).returncode == 0
        assert artifact.leftover(policy, lock) is True

    def test_a_child_holds_the_lock_beyond_our_death(self, tmp_path: Path) -> None:
        lock = tmp_path / "lock"
        with artifact.host_lock(lock) as handle:
            child = subprocess.Popen(["sleep", "30"], pass_fds=(handle,))
        try:
            with pytest.raises(artifact.ArtifactError, match="another installation"), artifact.host_lock(lock, deadline_s=0.0):
                pass
        finally:
            child.kill()
            child.wait()
        with artifact.host_lock(lock, deadline_s=0.0):
            pass


def test_os_release(tmp_path: Path) -> None:
    path = tmp_path / "os-release"
    path.write_text('NAME="Debian"\nID=debian\nVERSION_ID="13"\n')
    assert artifact.os_release(path)["version"] == "13"
    assert artifact.os_release(tmp_path / "none")["id"] == ""


def test_half_installed_packages_do_not_count() -> None:
    def runner(_argv: Sequence[str], _timeout_s: float) -> tuple[int, str]:
        return 0, "a\t1\tii \nb\t2\tiU \nc\t3\trc \nd\t4\thi \n"

    assert artifact.installed_packages(["a", "b", "c", "d"], runner) == {"a": "1", "d": "4"}


def test_what_packages_stand_in_for_is_known_of_whole_ones() -> None:
    text = "ii \tlsb-base (= 1), awk\nii \t\niU \thalf\nrc \tgone\n"
    assert artifact.provided_packages(lambda _argv, _timeout_s: (0, text)) == ["awk", "lsb-base"]


class TestProbeEnvironment:
    def tree(self, root: Path, version: str) -> Path:
        path = root / "lib" / version / "site-packages"
        path.mkdir(parents=True)
        return path

    def test_goes_before_the_distributions_packages(self, tmp_path: Path) -> None:
        packages = self.tree(tmp_path, "python%d.%d" % sys.version_info[:2])
        path = ["/module.zip", "/usr/lib/python3.13", "/usr/lib/python3/dist-packages"]
        assert probe_env.activate(tmp_path, path) == str(packages)
        assert path == ["/module.zip", "/usr/lib/python3.13", str(packages), "/usr/lib/python3/dist-packages"]
        probe_env.activate(tmp_path, path)
        assert path.count(str(packages)) == 1

    def test_missing_names_the_remedy(self, tmp_path: Path) -> None:
        with pytest.raises(probe_env.ProbeMissing, match="tag probe"):
            probe_env.activate(tmp_path, [])
        self.tree(tmp_path, "python2.7")
        with pytest.raises(probe_env.ProbeMissing, match=r"python2\.7"):
            probe_env.activate(tmp_path, [])
