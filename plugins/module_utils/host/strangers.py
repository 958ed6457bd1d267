# SPDX-License-Identifier: Apache-2.0
"""What nobody of the site declared and that decides who comes in, who becomes root, or what runs on a host.

It is named, never changed: who put it there may have had a reason that this collection cannot know, and a site says so with `ignore` (globs over the
whole sentence). What the site does declare is kept by config_tree and access_keys. Python 3.9, standard library.
"""
from __future__ import annotations

import base64
import fnmatch
import glob
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.hnai.platform.plugins.module_utils.config_tree import DROP_INS, REGISTRY_DIRECTORY
from ansible_collections.hnai.platform.plugins.module_utils.host import accounts, keys, ssh_certificate, sysctl
from ansible_collections.hnai.platform.plugins.module_utils.hostfiles import Host, HostError, read_file

SSHD, SSHD_DROP_INS = "/etc/ssh/sshd_config", "/etc/ssh/sshd_config.d"
SSHD_OURS = f"{SSHD_DROP_INS}/10-hnai.conf"
#: What opens a host besides files of keys, and what sshd has it at where nobody says anything (sshd_config(5)).
SSHD_DOORS = {
    "authorizedkeyscommand": "none",
    "authorizedprincipalscommand": "none",
    "authorizedprincipalsfile": "none",
    "trustedusercakeys": "none",
    "hostbasedauthentication": "no",
    "permituserenvironment": "no",
    "strictmodes": "yes",
}
#: /etc/sudoers of Debian 12 and 13.
SUDOERS = frozenset(
    {
        "Defaults env_reset",
        "Defaults mail_badpass",
        "Defaults use_pty",
        'Defaults secure_path="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"',
        "root ALL=(ALL:ALL) ALL",
        "%sudo ALL=(ALL:ALL) ALL",
        "@includedir /etc/sudoers.d",
        "#includedir /etc/sudoers.d",
    }
)
#: Who is in one of them is root, or may become it; who is in one of READERS may read what the host records.
ROOTS = ("admin", "disk", "docker", "incus-admin", "kmem", "libvirt", "lxd", "root", "shadow", "staff", "sudo", "wheel")
READERS = ("adm", "systemd-journal")


#: Where programs of our trees lie.
PROGRAMS = "/usr/local/lib/hnai"
#: What systemd gives to, or asks of, every unit (systemd-system.conf(5), systemd.generator(7)).
MANAGERS = ("system.conf.d/*.conf", "system-generators/*", "system-environment-generators/*")
#: Variables that make a program load or run something else; whoever sets one for all units does it without a file.
LOADING = re.compile(r"^(?:LD_\w+|PYTHON\w+|CLASSPATH|\w*JAVA_(?:TOOL_)?OPTIONS)=.*", re.MULTILINE)
#: What Python takes in at every start, for whom no package of the distribution puts files here.
PYTHON = ("/usr/local/lib/python3*/dist-packages/*.pth", "/usr/local/lib/python3*/dist-packages/*customize.py")
#: Where systemd-sysctl reads, by the files' names over all places; of one name in several the first counts (sysctl.d(5)).
SYSCTL = ("/etc/sysctl.d", "/run/sysctl.d", "/usr/local/lib/sysctl.d", "/usr/lib/sysctl.d")


@dataclass(frozen=True)
class Declared:
    """Whom the site declared: the user of the runs (who became root by sudo, where the inventory names none) and the operators. `ignore`: globs over
    what would be told. `authorities`: the certificates (PEM) that sign for the site; empty: there are none yet, or nobody asks."""

    user: str = field(default_factory=lambda: os.environ.get("SUDO_USER", ""))
    operators: Sequence[str] = ()
    ignore: Sequence[str] = ()
    authorities: str = ""


def declared(given: Mapping[str, Any]) -> Declared:
    """Out of a module's options."""
    named = {"user": given["user"]} if given["user"] else {}
    return Declared(operators=given["operators"], ignore=given["foreign_ignore"], authorities=given.get("authorities") or "", **named)


def found(host: Host, declared: Declared) -> list[str]:
    """One sentence for each thing; each begins with the file or object. Reads only."""
    effective, owned = _sshd_effective(host), _owned(host)
    every = [
        *_sshd(host, effective),
        *_keys(host, declared, effective.get("authorizedkeysfile", "")),
        *_sudo(host, declared),
        *_accounts(host, declared),
        *_loaded(host, owned),
        *_units(host, owned),
        *_names(host),
        *_kernel(host, owned),
        *_authorities(host, declared),
    ]
    return [sentence for sentence in dict.fromkeys(every) if not any(fnmatch.fnmatchcase(sentence, pattern) for pattern in declared.ignore)]


def _text(host: Host, path: str) -> str:
    try:
        return (read_file(host, path) or b"").decode("utf-8", "replace")
    except IsADirectoryError:
        return ""


def _inside(host: Host, pattern: str) -> list[str]:
    """What a glob finds, as the host names it."""
    return ["/" + os.path.relpath(path, host.root) for path in sorted(glob.glob(host.at(pattern)))]


# -- who comes in ----------------------------------------------------------------------------------------------------


def _sshd_effective(host: Host) -> dict[str, str]:
    """What sshd obeys outside of Match blocks; empty where there is none yet. Raises HostError where it does not say."""
    done = host.run(["/usr/sbin/sshd", "-T"])
    if done.rc not in (0, 127) or (done.rc == 0 and not done.text.strip()):
        raise HostError(f"{SSHD}: sshd -T does not say what it obeys: {done.message}")
    lines = done.text.splitlines() if done.rc == 0 else []
    return {key: value.strip() for key, _, value in (line.partition(" ") for line in reversed(lines))}


def _said(host: Host, argv: list[str], fine: Sequence[int] = (0, 127)) -> str:
    """What a command says; nothing where it is not installed. Raises HostError where it failed: nothing found is not what it said."""
    done = host.run(argv)
    if done.rc not in fine:
        raise HostError(f"{' '.join(argv)}: {done.message or f'ended with {done.rc}'}")
    return done.text


def _sshd_lines(text: str) -> Iterator[tuple[str, str]]:
    for line in text.splitlines():
        match = re.match(r"\s*([A-Za-z0-9]+)(?:\s*=\s*|\s+)(.*\S)", line)
        if match:
            yield match.group(1).lower(), " ".join(match.group(2).split())


def _sshd(host: Host, effective: dict[str, str]) -> Iterator[str]:
    ours = dict(_sshd_lines(_text(host, SSHD_OURS)))
    if ours and effective:
        for key, value in {**SSHD_DOORS, **ours}.items():
            if effective.get(key, value).lower() != value.lower():
                yield f"{SSHD}: {key} is {effective[key]}, not {value}: a file that is read before {SSHD_OURS} decides"
    others = [path for path in _inside(host, f"{SSHD_DROP_INS}/*.conf") if path not in (SSHD_OURS, ssh_certificate.DROP_IN)]
    for path in [SSHD, *others]:
        for key, value in _sshd_lines(_text(host, path)):
            if key == "match" or (key == "include" and value != f"{SSHD_DROP_INS}/*.conf"):
                yield f"{path}: {key} {value}: what follows it is obeyed for some, whatever {SSHD_OURS} says"
        if path != SSHD and path < SSHD_OURS:
            yield f"{path}: is read before {SSHD_OURS}, and the first word counts"
    options = re.search(r"^\s*SSHD_OPTS=[\"']?([^\"'\n]+)", _text(host, "/etc/default/ssh"), re.MULTILINE)
    if options and options.group(1).strip():
        yield f"/etc/default/ssh: sshd is started with {options.group(1).strip()}"


def _keys(host: Host, declared: Declared, patterns: str) -> Iterator[str]:
    """Keys in files of anybody; the file of the runs' user is kept by access_keys or the site's own, and so are those of the operators."""
    for account in accounts.accounts(host):
        for pattern in dict.fromkeys([".ssh/authorized_keys", ".ssh/authorized_keys2", *patterns.split()]):
            path = os.path.join(account.home or "/", _expanded(pattern, account))
            kept = path.startswith(keys.OPERATORS + "/") or (account.name == declared.user and path == f"{account.home}/.ssh/authorized_keys")
            if pattern == "none" or kept:
                continue
            try:
                text = _text(host, path)
            except OSError as error:
                yield f"{path}: cannot be read: {error.strerror}"
                continue
            for key in keys.parse(text):
                yield f"{path}: opens the host for {account.name}: {key}"


def _expanded(pattern: str, account: accounts.Account) -> str:
    """A name of AuthorizedKeysFile for one account (sshd_config(5), TOKENS)."""
    words = {"%%": "%", "%h": account.home, "%u": account.name, "%U": str(account.uid)}
    return re.sub("%[%huU]", lambda match: words[match.group()], pattern)


def _sudo(host: Host, declared: Declared) -> Iterator[str]:
    mine = {f"/etc/sudoers.d/hnai-{name}" for name in declared.operators}
    for path in ["/etc/sudoers", *_inside(host, "/etc/sudoers.d/*")]:
        name = os.path.basename(path)
        if path in mine or (path != "/etc/sudoers" and ("." in name or name.endswith("~"))):  # sudo does not read these (sudoers(5))
            continue
        for line in _text(host, path).replace("\\\n", " ").splitlines():
            words = " ".join(line.split())
            if not words or (words.startswith("#") and not re.match(r"#(include|\d)", words)) or words in SUDOERS:
                continue
            if declared.user and words.startswith((f"{declared.user} ", f"Defaults:{declared.user} ")):
                continue
            yield f"{path}: {words}"


def _accounts(host: Host, declared: Declared) -> Iterator[str]:
    there = accounts.accounts(host)
    first: dict[int, str] = {}
    for account in there:
        if first.setdefault(account.uid, account.name) != account.name:
            yield f"/etc/passwd: {account.name} has the number of {first[account.uid]} ({account.uid}) and is that user"
    inside = accounts.members(host)
    names = accounts.group_names(host)
    for account in there:
        inside.setdefault(names.get(account.gid, ""), []).append(account.name)
    for group in (*ROOTS, *READERS):
        for name in sorted(set(inside.get(group, ()))):
            if name not in ("root", declared.user) and not (group in READERS and name in declared.operators) and name != group:
                yield f"/etc/group: {name} is in {group}"


# -- what runs -------------------------------------------------------------------------------------------------------


def _loaded(host: Host, owned: set[str]) -> Iterator[str]:
    preload = " ".join(_text(host, "/etc/ld.so.preload").split())
    if preload:
        yield f"/etc/ld.so.preload: every program loads {preload}"
    for place in ("/usr/local/sbin", "/usr/local/bin"):
        for path in _inside(host, f"{place}/*"):
            behind = [f"{directory}/{os.path.basename(path)}" for directory in ("/usr/sbin", "/usr/bin")]
            shadowed = [one for one in behind if os.path.lexists(host.at(one))]
            if shadowed:
                yield f"{path}: is found before {shadowed[0]}"
    for path in [one for place in ("/etc/systemd", "/run/systemd") for pattern in MANAGERS for one in _inside(host, f"{place}/{pattern}")]:
        yield f"{path}: systemd takes it for every unit"
    for path in [one for place in ("/etc/systemd", "/run/systemd") for one in _inside(host, f"{place}/journald.conf.d/*.conf")]:
        if path not in owned:
            yield f"{path}: says what the journal keeps, too"
    for line in LOADING.findall(_said(host, ["systemctl", "show-environment"])):
        yield f"systemctl set-environment: every unit is started with {line}"
    for path in [one for pattern in PYTHON for one in _inside(host, pattern)]:
        yield f"{path}: every Python of the host runs it"
    if os.path.exists(host.at("/etc/nftables.conf")):
        # 1: the package is not there.
        recorded = re.search(r"/etc/nftables\.conf ([0-9a-f]{32})", _said(host, ["dpkg-query", "-W", "-f", "${Conffiles}", "nftables"], (0, 1, 127)))
        text = read_file(host, "/etc/nftables.conf") or b""
        if recorded and hashlib.md5(text, usedforsecurity=False).hexdigest() != recorded.group(1):  # As dpkg records it.
            yield "/etc/nftables.conf: is not the package's; nftables.service loads it, which first takes all rules away"


def _owned(host: Host) -> set[str]:
    """Every file that a tree of ours has."""
    owned: set[str] = set()
    for path in _inside(host, f"{REGISTRY_DIRECTORY}/*.json"):
        data = json.loads(_text(host, path))
        owned.update([*data["files"], *data.get("intended", {})])
    return owned


def beside_programs(host: Host) -> list[str]:
    """Files that lie where our programs do and are of no tree: Python imports what lies beside a script. config_tree tells them, too."""
    ours, base = _owned(host), host.at(PROGRAMS)
    found = [
        f"{PROGRAMS}/{os.path.relpath(os.path.join(directory, name), base)}"
        for directory, names, files in os.walk(base)
        for name in [*files, *(name for name in names if os.path.islink(os.path.join(directory, name)))]
    ]
    return sorted(path for path in found if path not in ours and not re.search(r"/__pycache__/[^/]+\.pyc$", path))


def _units(host: Host, owned: set[str]) -> Iterator[str]:
    """Units of others that stand above ours, or pull at them. Drop-ins of one unit are told by config_tree, with the component's name."""
    ours = sorted({os.path.basename(path) for path in owned if re.fullmatch(r"/etc/systemd/system/hnai-[^/]+\.(service|timer|socket|path|target)", path)})
    if not ours:
        return
    stems = {"-".join(name.split("-")[:count]) + "-" for name in ours for count in range(1, name.count("-") + 1)}
    wide = ["service.d", "timer.d", *[f"{stem}.{kind}.d" for stem in sorted(stems) for kind in ("service", "timer")]]
    for place in DROP_INS:
        for path in [one for name in wide for one in _inside(host, f"{place}/{name}/*.conf")]:
            if path not in owned:
                yield f"{path}: is a drop-in of our units, too"
        for name in ours:
            if place.endswith("control") and os.path.lexists(host.at(f"{place}/{name}")):
                yield f"{place}/{name}: stands above the unit of ours"
            for path in [one for kind in ("wants", "requires", "upholds") for one in _inside(host, f"{place}/{name}.{kind}/*")]:
                if os.path.basename(path) not in ours:
                    yield f"{path}: is started with {name}"
        for path in [*_inside(host, f"{place}/*.*"), *_inside(host, f"{place}/*.target.d/*.conf")]:
            if path in owned or os.path.islink(host.at(path)) or not os.path.isfile(host.at(path)):
                continue
            text = _text(host, path)
            named = [name for name in ours if re.search(rf"(?<![\w.@-]){re.escape(name)}|(?<![\w.@-]){re.escape(name.rpartition('.')[0])}(?![\w.@-])", text)]
            if named:
                yield f"{path}: a unit of nobody that names {', '.join(named)}"


def _names(host: Host) -> Iterator[str]:
    """The first line of /etc/hosts that has a name counts: what stands outside of our block and says another address."""
    head, _, rest = _text(host, "/etc/hosts").partition("# BEGIN hnai.platform: hosts of the site")
    block, _, tail = rest.partition("# END hnai.platform: hosts of the site")
    site: dict[str, set[str]] = {}
    own = _text(host, "/etc/hostname").strip()
    if "manage_etc_hosts" in head:
        yield "/etc/hosts: cloud-init writes it anew at every start, without our block: say `manage_etc_hosts: localhost` and take its remark out of the file"
    for address, names in _hosts(block.splitlines()[1:]):
        for name in names:
            site.setdefault(name, set()).add(address)
    for address, names in _hosts([*head.splitlines(), *tail.splitlines()]):
        for name in names:
            if name in site and name != own and address not in site[name]:
                yield f"/etc/hosts: {name} is {address} in a line outside of our block"


def _kernel(host: Host, owned: set[str]) -> Iterator[str]:
    """What the next start puts in force instead of what a tree of ours says. Patterns never do: a key that is named is left out of them."""
    files: dict[str, str] = {}
    for path in [one for place in SYSCTL for one in _inside(host, f"{place}/*.conf")]:
        files.setdefault(os.path.basename(path), path)
    wanted: dict[str, str] = {}
    last: dict[str, tuple[str, str]] = {}
    for _name, path in sorted(files.items()):
        said = sysctl.parse(_text(host, path))
        last.update({key: (value, path) for key, value in said.items()})
        wanted.update(said if path in owned else {})
    for key, value in sorted(wanted.items()):
        if last[key][0] != value:
            yield f"{last[key][1]}: {key} is {last[key][0]} from the next start on, not {value}"


def _hosts(lines: Iterable[str]) -> Iterator[tuple[str, list[str]]]:
    for line in lines:
        words = line.partition("#")[0].split()
        if len(words) > 1:
            yield words[0], words[1:]


def _authorities(host: Host, declared: Declared) -> Iterator[str]:
    """Whoever stands in the file that a component verifies by can sign itself the name of anybody: a broker's, a server's."""
    known = set(_fingerprints(declared.authorities))
    for path in _inside(host, "/etc/hnai/*/tls/ca.pem") if known else ():
        for fingerprint in _fingerprints(_text(host, path)):
            if fingerprint not in known:
                yield f"{path}: trusts an authority that is not the site's (SHA-256 {fingerprint[:32]}…)"


def _fingerprints(text: str) -> list[str]:
    """Of the certificates of a PEM file, as openssl x509 -fingerprint -sha256 has them, without colons; one that cannot be read is of nobody."""
    found = []
    for block in re.findall(r"-----BEGIN CERTIFICATE-----(.*?)-----END CERTIFICATE-----", text, re.DOTALL):
        try:
            found.append(hashlib.sha256(base64.b64decode("".join(block.split()), validate=True)).hexdigest())
        except ValueError:
            found.append("unreadable")
    return found
