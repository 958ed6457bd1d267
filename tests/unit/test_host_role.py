# SPDX-License-Identifier: Apache-2.0
"""What role host brings to a host of somebody's site: rendered as the role does it, and its checker run by a real shell."""
from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

ROLE = Path(__file__).resolve().parents[2] / "roles/host"
CHECK = ROLE / "tree/usr/local/lib/hnai/host/check-sshd"
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA run"


def rendered(text: str, host: str, addresses: dict[str, dict[str, str]], **more: Any) -> Any:
    """*text* on a host of a site of these; `jump` is the jump."""
    known = {"inventory_hostname": host, "groups": {"managed": list(addresses), "jump": ["jump"]}, "hnai_zones": {}, "hnai_assets": {},
             "hostvars": {name: {"hnai_addresses": one, "ansible_host": next(iter(one.values()))} for name, one in addresses.items()}, **more}  # fmt: skip
    for part in ("defaults", "vars"):
        for name, value in yaml.safe_load((ROLE / part / "main.yml").read_text("utf-8")).items():
            known.setdefault(name, trust_as_template(value) if isinstance(value, str) else value)
    return Templar(DataLoader(), variables=known).template(trust_as_template(text))


@pytest.mark.parametrize("families", [("v4",), ("v6",), ("v4", "v6")])
def test_a_site_may_have_one_address_family(families: tuple[str, ...]) -> None:
    given = {"jump": {"v4": "10.0.0.1", "v6": "fd00::1"}, "a": {"v4": "10.0.0.2", "v6": "fd00::2"}, "plc": {"v4": "10.0.2.1", "v6": "fd00:2::1"}}
    every = {name: {family: one[family] for family in families} for name, one in given.items()}
    hosts = {name: every[name] for name in ("jump", "a")}
    # A device that stands in several zones has no address of its own.
    assets = {"plc": {"addresses": every["plc"]}, "bridge": {"interfaces": {}}, "a": {"addresses": {"v4": "192.0.2.1"}}}
    lines = [f"{every[name][family]} {name}" for name in ("a", "jump", "plc") for family in families]
    assert rendered("{{ __host_names }}", "a", hosts, hnai_assets=assets).splitlines() == lines
    sshd = rendered((ROLE / "tree/etc/ssh/sshd_config.d/10-hnai.conf.j2").read_text("utf-8"), "jump", hosts)
    opened = [f"{one['v4']}:22" for one in hosts.values() if "v4" in one] + [f"[{one['v6']}]:22" for one in hosts.values() if "v6" in one]
    assert f"PermitOpen {' '.join(opened)}\n" in sshd
    assert rendered("{{ __host_time_sources }}", "a", hosts) == ["jump", *hosts["jump"].values()]


@pytest.mark.parametrize(("addresses", "bound"), [({"v4": "10.0.0.1"}, "0.0.0.0"), ({"v6": "fd00::1"}, "[::]"), ({"v4": "10.0.0.1", "v6": "fd00::1"}, "[::]")])
def test_a_kernel_without_the_other_family_can_bind(addresses: dict[str, str], bound: str) -> None:
    text = rendered((ROLE.parent / "openbao/tree/etc/hnai/openbao/openbao.hcl.j2").read_text("utf-8"), "bao", {"bao": addresses},
                    hnai_addresses=addresses, ansible_managed="", hnai_site="x", openbao_storage_path="/x", openbao_generate_root=False,
                    openbao_audit_devices=[], __openbao_ports={"api": 1, "cluster": 2})  # fmt: skip
    assert re.findall(r'^ +(?:cluster_)?address += "(.*):\d"$', text, re.MULTILINE) == [bound, bound]


@pytest.mark.parametrize(("said", "opened"), [
    ({}, "a:22"), ({"ansible_host": "a.plant.example"}, "a.plant.example:22"), ({"ansible_host": "fd00:0::2"}, "[fd00:0::2]:22"),
    ({"ansible_host": "10.0.0.2"}, ""),
])  # fmt: skip
def test_the_jump_lets_runs_through_to_what_they_call_a_host(said: dict[str, str], opened: str) -> None:
    hosts = {"jump": {"v4": "10.0.0.1"}, "a": {"v4": "10.0.0.2", "v6": "fd00::2"}}
    told = {"jump": {"hnai_addresses": hosts["jump"], "ansible_host": "10.0.0.1"}, "a": {"hnai_addresses": hosts["a"], **said}}
    sshd = rendered((ROLE / "tree/etc/ssh/sshd_config.d/10-hnai.conf.j2").read_text("utf-8"), "jump", hosts, hostvars=told)
    (line,) = [line for line in sshd.splitlines() if line.startswith("PermitOpen ")]
    assert line == " ".join(["PermitOpen 10.0.0.1:22 10.0.0.2:22 [fd00::2]:22", *opened.split()])


def test_the_jump_follows_the_clocks_that_the_site_names() -> None:
    hosts = {"jump": {"v4": "10.0.0.1"}, "a": {"v4": "10.0.0.2"}}
    assets = {"clock": {"addresses": {"v4": "10.0.0.9"}}, "other": {"addresses": {"v4": "10.0.0.8"}}}
    chrony = (ROLE / "tree/etc/chrony/chrony.conf.j2").read_text("utf-8")
    for said, names, sources in (("clock", ["clock"], ["10.0.0.9"]), (["other", "clock"], ["other", "clock"], ["10.0.0.8", "10.0.0.9"])):
        site = {"hnai_assets": assets, "hnai_management": {"ntp": {"asset": said}}}
        assert [line.split()[1] for line in rendered(chrony, "jump", hosts, **site).splitlines() if line.startswith("server ")] == names
        assert rendered("{{ __host_time_sources }}", "jump", hosts, **site) == [*names, *sources]
        assert [line.split()[1] for line in rendered(chrony, "a", hosts, **site).splitlines() if line.startswith("server ")] == ["jump"]
    for site in ({}, {"hnai_management": {"dns": {"host": "jump"}}}):
        assert "server " not in rendered(chrony, "jump", hosts, **site)
        assert rendered("{{ __host_time_sources }}", "jump", hosts, **site) == []


class Entrance:
    """A host whose sshd is to take the role's drop-in: `says` is what `sshd -T` prints, `refuses` what `sshd -t` has against the candidate."""

    def __init__(self, base: Path) -> None:
        self.base, self.home, self.tree = base, base / "home", base / "tree"
        (self.home / ".ssh").mkdir(parents=True)
        (self.tree / "etc/ssh/authorized_keys").mkdir(parents=True)
        (base / "says").write_text("trustedusercakeys none\nauthorizedkeyscommand none\n")
        self.program(base / "bin/getent", f'[ "$1 $2" = "passwd ops" ] && echo "ops:x:1000:1000::{self.home}:/bin/sh"')
        self.program(base / "sshd", f'case $1 in -T) cat {base}/says ;; -t) [ ! -e {base}/refuses ] ;; esac')
        self.program(base / "check", CHECK.read_text("utf-8").replace("sshd=/usr/sbin/sshd", f"sshd={base}/sshd"))

    @staticmethod
    def program(path: Path, text: str) -> None:
        path.parent.mkdir(exist_ok=True)
        path.write_text(text if text.startswith("#!") else f"#!/bin/sh\n{text}\n", "utf-8")
        path.chmod(0o755)

    def asks(self, user: str = "ops", **environment: str) -> tuple[int, str]:
        known = {"PATH": f"{self.base}/bin:{os.environ['PATH']}", **environment}
        command = ["/bin/sh", str(self.base / "check"), "candidate", str(self.tree), user]
        done = subprocess.run(command, env=known, capture_output=True, text=True, timeout=10, check=False)
        return done.returncode, done.stderr


@pytest.fixture
def entrance(tmp_path: Path) -> Entrance:
    return Entrance(tmp_path)


@pytest.mark.parametrize("opened", [
    lambda door: (door.home / ".ssh/authorized_keys").write_text(f"# ours\n{KEY}\n"),
    lambda door: (door.home / ".ssh/authorized_keys").write_text(f'from="10.0.0.0/8" {KEY}\n'),
    lambda door: (door.tree / "etc/ssh/authorized_keys/ops").write_text(KEY),
    lambda door: (door.base / "says").write_text("trustedusercakeys /etc/ssh/ca.pub\nauthorizedkeyscommand none\n"),
    lambda door: (door.base / "says").write_text("trustedusercakeys none\nauthorizedkeyscommand /usr/bin/sss_ssh_authorizedkeys\n"),
])  # fmt: skip
def test_whoever_came_in_comes_in_again(entrance: Entrance, opened: Any) -> None:
    for empty in ("", f"# {KEY}\n"):
        (entrance.home / ".ssh/authorized_keys").write_text(empty)
        code, said = entrance.asks()
        assert code == 1 and "no key in" in said and "remedy: put the run's public key there" in said
    opened(entrance)
    assert entrance.asks() == (0, "")
    assert entrance.asks("", SUDO_USER="ops") == (0, "")
    (entrance.base / "refuses").touch()
    assert entrance.asks()[0] == 1, "what sshd itself refuses"


@pytest.mark.parametrize(("user", "environment"), [
    ("root", {}), ("", {"SUDO_USER": "root"}), ("", {"LOGNAME": "root"}), ("", {"DOAS_USER": "root", "LOGNAME": "ops"}),
])  # fmt: skip
def test_root_would_not_come_in_again(entrance: Entrance, user: str, environment: dict[str, str]) -> None:
    code, said = entrance.asks(user, **environment)
    assert code == 1 and "logs in as root" in said and "remedy: a user with a key and sudo" in said


def test_nobody_knows_who_came_in(entrance: Entrance) -> None:
    assert entrance.asks("") == (0, "")


def test_the_checker_is_asked_before_the_drop_in_is_there() -> None:
    tasks = yaml.safe_load((ROLE / "tasks/main.yml").read_text("utf-8"))
    told = next(one["hnai.platform.config_tree"]["validate"] for one in tasks if "hnai.platform.config_tree" in one)
    command = next(one["command"] for one in told if one["path"] == "/etc/ssh/sshd_config.d/10-hnai.conf")
    assert command[:-1] == ["/bin/sh", f"%d/{CHECK.relative_to(ROLE / 'tree')}", "%s", "%d"] and "ansible_user" in command[-1]


ETC = sorted(str(path.relative_to(tree)) for tree in ROLE.parent.glob("*/tree") for path in (tree / "etc").rglob("*") if path.is_file())
#: All that a distribution has that ours stands in for, and nothing may be beside it: chronyd would go on asking Debian's pool.
REPLACED = {"etc/chrony/chrony.conf.j2"}


def test_what_a_host_has_already_is_added_to_and_not_edited() -> None:
    """What bears our name, keys by the operator's, the mounts of OpenBao's files in memory by their place."""
    others = {path for path in ETC if "hnai" not in path} - {"etc/ssh/authorized_keys/__name__.j2", "etc/systemd/system/__mount__.mount.j2"}
    assert others == REPLACED
    assert all(re.search(r"\.d/[^/]*$", path) for path in ETC if path.startswith(("etc/ssh/sshd", "etc/sysctl", "etc/sudoers", "etc/audit")))
