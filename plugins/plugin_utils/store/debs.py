# SPDX-License-Identifier: Apache-2.0
"""Debian packages for hosts without a network: resolve on the controller, deliver as a signed local repository.

An apt root of its own per release (so the controller may run another one), an empty dpkg status (so the set is
closed), mirror and key ring of the machine's own apt configuration, and Debian's signed indices decide what is
authentic. The resolved set is recorded and reused; all sets of a release form one flat repository (Packages, Release,
InRelease) signed with a key that this store makes once.
"""

from __future__ import annotations

import email.utils
import fnmatch
import functools
import hashlib
import io
import itertools
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .core import Store, StoreError, sha256_file, write_atomic
from .locks import ARCH, Debs, Release

KEY_RINGS = ("/usr/share/keyrings/debian-archive-keyring.gpg", "/usr/share/keyrings/debian-archive-keyring.pgp")
DROPPED_FIELDS = frozenset({"description", "description-md5", "tag", "homepage", "md5sum", "filename", "status", "conffiles"})
FRESH_S = 3600.0
SIGNER = "hnai.platform local repository"


# -- versions ----------------------------------------------------------------------------------------------------


def _order(char: str) -> int:
    if char == "~":
        return -1
    return ord(char) if char.isalpha() else ord(char) + 256


def _compare_part(left: str, right: str) -> int:
    pattern = re.compile(r"(\D*)(\d*)")
    while left or right:
        (a_text, a_number), (b_text, b_number) = pattern.match(left).groups(), pattern.match(right).groups()  # type: ignore[union-attr]
        for a_char, b_char in itertools.zip_longest(a_text, b_text):
            a_key = _order(a_char) if a_char is not None else 0
            b_key = _order(b_char) if b_char is not None else 0
            if a_key != b_key:
                return -1 if a_key < b_key else 1
        if int(a_number or 0) != int(b_number or 0):
            return -1 if int(a_number or 0) < int(b_number or 0) else 1
        left, right = left[len(a_text) + len(a_number) :], right[len(b_text) + len(b_number) :]
    return 0


def compare_versions(left: str, right: str) -> int:
    """-1, 0, 1 as Debian orders versions (deb-version(7))."""

    def split(version: str) -> tuple[int, str, str]:
        epoch, _, rest = version.rpartition(":") if ":" in version else ("0", "", version)
        upstream, _, revision = rest.rpartition("-") if "-" in rest else (rest, "", "0")
        return int(epoch or 0), upstream, revision

    a_epoch, a_upstream, a_revision = split(left)
    b_epoch, b_upstream, b_revision = split(right)
    if a_epoch != b_epoch:
        return -1 if a_epoch < b_epoch else 1
    return _compare_part(a_upstream, b_upstream) or _compare_part(a_revision, b_revision)


def satisfied(wanted: Debs, installed: Mapping[str, str], resolved: Mapping[str, str] | None) -> bool:
    """Whether a host with `installed` (package → version) needs nothing.

    Every package at a version that fits its pin, and not older than the recorded set (newer is accepted: another
    controller may have resolved later).
    """
    for package, glob in wanted.wanted:
        version = installed.get(package)
        if version is None or not fnmatch.fnmatchcase(version, glob):
            return False
        if resolved and package in resolved and compare_versions(version, resolved[package]) < 0:
            return False
    return True


_ALTERNATIVE = re.compile(r"^([a-z0-9][a-z0-9+.-]*)(?::\w+)?(?:\s*\((<<|<=|=|>=|>>)\s*([^)]+)\))?")


def _fits(version: str, relation: str, bound: str) -> bool:
    """Whether a version satisfies a relation of deb-control; every version does where there is none."""
    if not relation:
        return True
    order = compare_versions(version, bound.strip())
    return {"<<": order < 0, "<=": order <= 0, "=": order == 0, ">=": order >= 0, ">>": order > 0}[relation]


def predicted(recorded: Mapping[str, Any], installed: Mapping[str, str], provided: Iterable[str]) -> list[str]:
    """What apt would install of a recorded set, as name=version: the chosen packages that are not there as recorded, and of what they depend on
    what a host with `installed` (package → version) that provides `provided` (virtual names) does not have."""
    records = {item["package"]: item for item in recorded["packages"]}
    offered = {
        match.group(1): item["package"]
        for item in recorded["packages"]
        for match in map(_ALTERNATIVE.match, re.split(r",\s*", item["fields"].get("Provides", "")))
        if match
    }
    virtual = set(provided)
    found: set[str] = set()
    todo = [name for name, version in recorded["chosen"].items() if installed.get(name) != version]
    while todo:
        name = todo.pop()
        if name in found:
            continue
        found.add(name)
        for group in re.split(r",\s*", ", ".join(records[name]["fields"].get(key, "") for key in ("Pre-Depends", "Depends"))):
            options = [match.groups() for match in map(_ALTERNATIVE.match, re.split(r"\s*\|\s*", group.strip())) if match]
            if any(one in virtual or (one in installed and _fits(installed[one], relation, bound)) for one, relation, bound in options):
                continue
            todo += [choice for one, _relation, _bound in options for choice in [one if one in records else offered.get(one, "")] if choice][:1]
    return sorted(f"{name}={records[name]['version']}" for name in found)


def mentioned(recorded: Mapping[str, Any]) -> list[str]:
    """Every name that `predicted` may ask of a host."""
    names = set(recorded["chosen"])
    for item in recorded["packages"]:
        names.add(item["package"])
        for key in ("Pre-Depends", "Depends"):
            names.update(match.group(1) for match in map(_ALTERNATIVE.match, re.split(r"\s*[,|]\s*", item["fields"].get(key, ""))) if match)
    return sorted(names)


# -- apt on the controller ---------------------------------------------------------------------------------------


def _tool(name: str, package: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise StoreError(f"Debian packages: the program {name} is not on the controller; remedy: apt-get install {package}")
    return path


def _ask(argv: list[str]) -> str:
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True, stdin=subprocess.DEVNULL).stdout


@functools.lru_cache(maxsize=1)
def mirrors() -> tuple[str, str]:
    """(archive, security) base addresses out of the machine's own apt configuration."""
    _tool("apt-get", "apt (a Debian controller)")
    found: dict[str, str] = {}
    for line in _ask(["apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)"]).splitlines():
        steps = line.split()
        if len(steps) != 3 or steps[2] != "main":
            continue
        kind = "security" if steps[1].endswith("-security") else "archive"
        if re.fullmatch(r"[a-z]+(-updates|-security)?", steps[1]):
            found.setdefault(kind, steps[0])
    if set(found) != {"archive", "security"}:
        raise StoreError(
            "Debian packages: the machine's apt configuration names no Debian archive with a security suite "
            f"(found: {', '.join(sorted(found)) or 'none'}); remedy: configure <release> and <release>-security in /etc/apt, "
            "see `apt-get indextargets`"
        )
    return found["archive"], found["security"]


def key_ring() -> str:
    """Debian's archive key ring on this machine."""
    for path in KEY_RINGS:
        if os.path.isfile(path):
            return path
    raise StoreError("Debian packages: no archive key ring on the controller; remedy: apt-get install debian-archive-keyring")


def _acquire_settings() -> str:
    """The machine's own proxies, retries and certificates."""
    kept = re.compile(r"Acquire::(https?|Retries|ForceIPv[46])\b")
    return "\n".join(line for line in _ask(["apt-config", "dump"]).splitlines() if kept.match(line))


class AptRoot:
    """apt for one release, apart from the machine's own state."""

    def __init__(self, store: Store, release: Release) -> None:
        self.store = store
        self.release = release
        self.root = store.root / "apt" / release.number / "root"
        self.config = self.root / "apt.conf"

    def prepare(self) -> None:
        """Write the configuration (idempotent)."""
        for name in ("etc/apt/preferences.d", "var/lib/apt/lists/partial", "var/lib/dpkg", "var/cache/apt/archives/partial"):
            (self.root / name).mkdir(parents=True, exist_ok=True)
        archive, security = mirrors()
        ring, codename = key_ring(), self.release.codename
        sources = "".join(
            f"deb [signed-by={ring} arch={ARCH}] {base} {suite} main\n"
            for base, suite in ((archive, codename), (archive, f"{codename}-updates"), (security, f"{codename}-security"))
        )
        write_atomic(self.root / "etc/apt/sources.list", sources.encode(), 0o600)
        (self.root / "var/lib/dpkg/status").write_bytes(b"")
        settings = {
            "Dir": f"{self.root}/",
            "Dir::State::status": f"{self.root}/var/lib/dpkg/status",
            "Dir::Etc::netrc": "/etc/apt/auth.conf",
            "Dir::Etc::netrcparts": "/etc/apt/auth.conf.d",
            "APT::Architecture": ARCH,
            "APT::Install-Recommends": "false",
            "APT::Sandbox::User": "root",
            "Acquire::Languages": "none",
            "Acquire::http::Timeout": "30",
            "Acquire::https::Timeout": "30",
        }
        text = "\n".join(
            [
                _acquire_settings(),
                *(f'{name} "{value}";' for name, value in settings.items()),
                f'APT::Architectures {{ "{ARCH}"; }};',
            ]
        )
        write_atomic(self.config, text.encode() + b"\n", 0o600)

    def run(self, argv: list[str], what: str, timeout_s: float = 600) -> str:
        """Run an apt program in this root."""
        return self.store.run(
            argv,
            what=what,
            key=f"apt-{self.release.number}",
            env={**os.environ, "APT_CONFIG": str(self.config), "LC_ALL": "C.UTF-8"},
            timeout_s=timeout_s,
            package="apt",
        )

    def update(self, force: bool = False) -> None:
        """Fetch Debian's signed indices unless they are an hour young."""
        stamp = self.root / "updated"
        if not force and stamp.is_file() and time.time() - stamp.stat().st_mtime < FRESH_S:
            return
        what = f"Debian {self.release.number}: fetching the package indices"
        self.store.say(what)
        self.run(["apt-get", "-q", "-o", "APT::Update::Error-Mode=any", "update"], what)
        stamp.touch()

    def versions(self, package: str) -> list[str]:
        """Every version of the package that the mirror has now."""
        rows = self.run(["apt-cache", "madison", package], f"Debian {self.release.number}: looking up {package}", 60).splitlines()
        return [steps[1] for steps in ([step.strip() for step in row.split("|")] for row in rows) if len(steps) == 3 and steps[0] == package]


def choose(debs: Debs, available: Mapping[str, list[str]]) -> dict[str, str]:
    """package → newest version that fits its pin. Raises StoreError naming `make lock`."""
    chosen = {}
    for package, glob in debs.wanted:
        fitting = [version for version in available[package] if fnmatch.fnmatchcase(version, glob)]
        if not fitting:
            there = ", ".join(available[package]) or "nothing"
            raise StoreError(
                f"roles/{debs.component}/meta/component.yml: artifacts.{debs.name}.version: {package} {glob} is not in "
                f"Debian {debs.release.number} (there: {there}); remedy: pin a version that is there, then `make lock`"
            )
        chosen[package] = max(fitting, key=functools.cmp_to_key(compare_versions))
    return chosen


def parse_stanzas(text: str) -> list[dict[str, str]]:
    """Control stanzas as dicts (continuation lines kept)."""
    found = []
    for block in re.split(r"\n\s*\n", text.strip()):
        stanza: dict[str, str] = {}
        name = ""
        for line in block.splitlines():
            if line[:1] in (" ", "\t"):
                stanza[name] += "\n" + line
            elif ":" in line:
                name, _, value = line.partition(":")
                stanza[name] = value.strip()
        if stanza:
            found.append(stanza)
    return found


def _record(stanza: Mapping[str, str]) -> dict[str, Any]:
    """What the manifest keeps of a package: enough to write its entry in Packages."""
    fields = {name: value for name, value in stanza.items() if name.lower() not in DROPPED_FIELDS}
    return {
        "package": stanza["Package"],
        "version": stanza["Version"],
        "architecture": stanza["Architecture"],
        "sha256": stanza["SHA256"],
        "size": int(stanza["Size"]),
        "filename": stanza["Filename"].rsplit("/", 1)[-1],
        "fields": fields,
    }


def resolved(store: Store, debs: Debs) -> dict[str, Any] | None:
    """The recorded set, if there is one and every .deb of it is in the store."""
    found = store.manifest(debs.key)
    if found and all(store.has(item["sha256"]) for item in found["packages"]):
        return found
    return None


def ensure(store: Store, debs: Debs) -> dict[str, Any]:
    """The set, resolved and fetched if it was not recorded yet: {"chosen": {package: version}, "packages": [record, …]}."""
    found = resolved(store, debs)
    if found:
        return found
    what = f"{debs.name} (Debian {debs.release.number})"
    with store.lock(f"apt-{debs.release.number}", what):
        found = resolved(store, debs)
        if found:
            return found
        recorded = store.manifest(debs.key)
        apt = AptRoot(store, debs.release)
        apt.prepare()
        apt.update()
        available = {package: apt.versions(package) for package, _glob in debs.wanted}
        if recorded:
            gone = [f"{name} {version}" for name, version in recorded["chosen"].items() if version not in available.get(name, [])]
            if gone:
                raise StoreError(
                    f"{store.manifest_path(debs.key)}: {', '.join(gone)} of the recorded set is gone from store and mirror; "
                    "remedy: `make lock` resolves the set anew"
                )
            chosen = dict(recorded["chosen"])
        else:
            chosen = choose(debs, available)
        value = _fetch(store, apt, debs, chosen, what)
        store.write_manifest(debs.key, value)
        return value


def _fetch(store: Store, apt: AptRoot, debs: Debs, chosen: Mapping[str, str], what: str) -> dict[str, Any]:
    pins = [f"{package}={version}" for package, version in chosen.items()]
    options = ["-y", "-q", "--no-install-recommends"]
    plan = apt.run(["apt-get", *options, "-s", "install", *pins], f"{what}: resolving", 120)
    closure = re.findall(r"^Inst (\S+) (?:\[\S+\] )?\((\S+) ", plan, re.MULTILINE)
    shown = parse_stanzas(apt.run(["apt-cache", "show", *(f"{name}={version}" for name, version in closure)], f"{what}: reading the indices", 120))
    records = {(item["Package"], item["Version"]): _record(item) for item in shown}
    wanted = [records[(name.split(":")[0], version)] for name, version in closure]
    missing = [item for item in wanted if not store.has(item["sha256"])]
    if missing:
        store.say(f"{what}: fetching {len(missing)} of {len(wanted)} packages, {sum(item['size'] for item in missing) / 1e6:.0f} MB")
        pinned = [f"{item['package']}={item['version']}" for item in missing]
        with store.scratch() as scratch:
            folder = scratch / "debs"
            folder.mkdir()
            store.run(
                ["apt-get", "-q", "download", *pinned],
                what=f"{what}: fetching packages",
                key=f"apt-{debs.release.number}",
                cwd=folder,
                env={**os.environ, "APT_CONFIG": str(apt.config), "LC_ALL": "C.UTF-8"},
                package="apt",
            )
            for path in folder.glob("*.deb"):
                sha256 = sha256_file(path)
                item = next((item for item in missing if item["sha256"] == sha256), None)
                if item is None:
                    raise StoreError(f"{what}: {path.name} does not match Debian's index: refused; remedy: run again")
                store.add(path, sha256, path.name)
        absent = [item["filename"] for item in missing if not store.has(item["sha256"])]
        if absent:
            raise StoreError(f"{what}: {', '.join(absent)} did not come; remedy: run again")
    return {
        "format": 1,
        "component": debs.component,
        "name": debs.name,
        "release": debs.release.number,
        "chosen": dict(chosen),
        "packages": sorted(wanted, key=lambda item: (item["package"], item["version"])),
    }


# -- the repository ----------------------------------------------------------------------------------------------


def packages_index(records: Iterable[Mapping[str, Any]]) -> str:
    """A Packages file; files lie under ./pool."""
    unique = {(item["package"], item["version"], item["architecture"]): item for item in records}
    blocks = []
    for key in sorted(unique):
        item = unique[key]
        fields = {**item["fields"], "Filename": f"./pool/{item['filename']}"}
        order = ["Package", *sorted(set(fields) - {"Package"})]
        blocks.append("".join(f"{name}: {fields[name]}\n" for name in order))
    return "\n".join(blocks)


def release_file(index: bytes, release: Release, date: float) -> str:
    """A Release file that covers the index."""
    return (
        f"Origin: {SIGNER}\nLabel: hnai\nSuite: {release.codename}\nCodename: {release.codename}\n"
        f"Date: {email.utils.formatdate(date, usegmt=True).replace('GMT', 'UTC')}\nArchitectures: {ARCH} all\n"
        f"SHA256:\n {hashlib.sha256(index).hexdigest()} {len(index)} Packages\n"
    )


class Signer:
    """OpenPGP signatures with the store's own ed25519 key; gpg runs in a short-lived home directory."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.secret = store.root / "keys" / "apt-signing.asc"
        self.gpg = _tool("gpg", "gpg")

    def _run(self, home: str, argv: list[str], data: bytes = b"") -> bytes:
        done = subprocess.run(
            [
                self.gpg,
                "--homedir",
                home,
                "--batch",
                "--no-tty",
                "--quiet",
                "--pinentry-mode",
                "loopback",
                "--passphrase",
                "",
                *argv,
            ],
            input=data,
            capture_output=True,
            timeout=120,
            check=False,
        )
        if done.returncode != 0:
            told = done.stderr.decode(errors="replace").strip()[-400:]
            raise StoreError(f"{self.secret}: gpg ended with {done.returncode}: {told}; remedy: check gpg and gpg-agent")
        return done.stdout

    def sign(self, text: str) -> tuple[str, str]:
        """(clear-signed text, public key), both ASCII-armoured. Makes the key at the first call."""
        with tempfile.TemporaryDirectory(prefix="hnai-gpg-") as home:
            try:
                with self.store.lock("apt-signing", "the repository's key"):
                    if self.secret.is_file():
                        self._run(home, ["--import"], self.secret.read_bytes())
                    else:
                        self._run(home, ["--quick-generate-key", SIGNER, "ed25519", "sign", "never"])
                        self.secret.parent.mkdir(mode=0o700, exist_ok=True)
                        write_atomic(self.secret, self._run(home, ["--armor", "--export-secret-keys"]), 0o600)
                signed = self._run(home, ["--armor", "--digest-algo", "SHA256", "--clearsign"], text.encode())
                public = self._run(home, ["--armor", "--export"])
            finally:
                subprocess.run(["gpgconf", "--homedir", home, "--kill", "all"], capture_output=True, timeout=30, check=False)
        return signed.decode(), public.decode()


def repository(store: Store, release: Release) -> dict[str, Any]:
    """The release's repository: {"digest", "files": {name: text}, "pool": {filename: sha256}}.

    Made of every recorded set of the release; signed again only when the content changes.
    """
    records: list[Mapping[str, Any]] = []
    for path in sorted((store.root / "manifests").glob(f"deb-*-{release.number}-*.json")):
        found = store.manifest(path.stem)
        ours = found is not None and found["release"] == release.number
        if found and ours and all(store.has(item["sha256"]) for item in found["packages"]):
            records += found["packages"]
    index = packages_index(records)
    digest = hashlib.sha256(index.encode()).hexdigest()
    name = f"repository-{release.number}"
    with store.lock(name, f"repository for Debian {release.number}"):
        cached = store.manifest(name)
        if not cached or cached["digest"] != digest:
            signed, public = Signer(store).sign(release_file(index.encode(), release, time.time()))
            cached = {"digest": digest, "files": {"Packages": index, "InRelease": signed, "key.asc": public}}
            store.write_manifest(name, cached)
    return {**cached, "pool": {item["filename"]: item["sha256"] for item in records}}


def bundle(store: Store, repo: Mapping[str, Any], names: Iterable[str], path: Path) -> None:
    """A tar for a host: the index and the packages called `names`, each compared with its sha256 now."""
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        for name, text in repo["files"].items():
            data = text.encode()
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        for name in names:
            blob = store.verified(repo["pool"][name], name)
            info = tarfile.TarInfo(f"pool/{name}")
            info.size = blob.stat().st_size
            with blob.open("rb") as stream:
                tar.addfile(info, stream)
