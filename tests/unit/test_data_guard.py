# SPDX-License-Identifier: Apache-2.0
"""The line in the stores' units that keeps them from starting on an empty directory: rendered as the roles do, run by a real shell."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import jinja2
import pytest
import yaml

ROLES = Path(__file__).resolve().parents[2] / "roles"


def rendered(role: str, data: Path | str, unit: str = "", **more: Any) -> str:
    """The role's unit with its data elsewhere; variables that are not asked about are empty."""
    loader = jinja2.ChoiceLoader([jinja2.FileSystemLoader(ROLES / role / "tree/etc/systemd/system"), jinja2.FileSystemLoader(ROLES / "component/templates")])
    environment = jinja2.Environment(loader=loader, trim_blocks=True, undefined=jinja2.ChainableUndefined)
    environment.filters["regex_replace"] = lambda text, pattern, new: re.sub(pattern, new, text, count=1)
    return environment.get_template(f"hnai-{unit or role}.service.j2").render({f"{role}_storage_path": str(data), "hnai_debian": "13", **more})


class Site:
    """A data directory, and where the host remembers that it was used."""

    def __init__(self, role: str, base: Path) -> None:
        self.data, self.records = base / "data", base / "records"
        self.data.mkdir()
        line = re.search(r"^ExecStartPre=\+(/bin/sh -c .*)$", rendered(role, self.data), re.MULTILINE)
        assert line, "no guard"
        self.argv = shlex.split(line.group(1).replace("/var/lib/hnai/digests", str(self.records)).replace("%n", "x.service"))

    def start(self) -> tuple[int, str]:
        done = subprocess.run(self.argv, capture_output=True, text=True, timeout=10, check=False)
        return done.returncode, done.stderr


@pytest.mark.parametrize("role", ["victoriametrics", "questdb"])
def test_a_store_does_not_begin_again_where_its_file_system_is_not_mounted(tmp_path: Path, role: str) -> None:
    site = Site(role, tmp_path)
    (site.data / "old").touch()  # a site that stood before there was a guard
    assert [site.start()[0] for _ in range(2)] == [0, 0]
    mounted = site.data.rename(tmp_path / "elsewhere")
    site.data.mkdir()
    for _ in range(2):
        code, said = site.start()
        assert code == 1
        assert re.search(rf"{site.data}: the data .*not mounted, or lost; remedy: mount .* remove {site.records}/x.service.data first", said), said
        assert list(site.data.iterdir()) == []
    site.data.rmdir()
    mounted.rename(site.data)
    assert site.start() == (0, "")


def test_what_is_begun_anew_on_purpose_begins(tmp_path: Path) -> None:
    site = Site("questdb", tmp_path)
    assert site.start()[0] == 0
    (site.data / ".hnai-data").unlink()
    assert site.start()[0] == 1
    (site.records / "x.service.data").unlink()
    assert [site.start()[0] for _ in range(2)] == [0, 0]


def test_a_record_that_went_is_made_again(tmp_path: Path) -> None:
    site = Site("victoriametrics", tmp_path)
    assert site.start()[0] == 0
    (site.records / "x.service.data").unlink()
    assert site.start()[0] == 0
    (site.data / ".hnai-data").unlink()
    assert site.start()[0] == 1


def test_nothing_is_left_for_systemd_to_expand(tmp_path: Path) -> None:
    """`$` is a variable there, `%` a specifier: only %n is meant."""
    lines = [line for line in rendered("questdb", tmp_path).splitlines() if ".hnai-data" in line]
    assert len(lines) == 1
    assert "$" not in lines[0]
    assert set(re.findall(r"%.", lines[0])) == {"%n"}


@pytest.mark.parametrize(("role", "usual"), [
    ("victoriametrics", "/var/lib/hnai/victoriametrics"), ("questdb", "/var/lib/hnai/questdb"), ("openbao", "/var/lib/hnai/openbao/raft"),
])  # fmt: skip
def test_a_file_system_of_the_sites_own_is_waited_for_and_given_to_who_stores_there(role: str, usual: str) -> None:
    more = {"__openbao_audit_directories": ["/var/log/bao"]}
    unit = rendered(role, "/srv/data", **more)
    (mounts,) = re.findall(r"^RequiresMountsFor=(.*)$", unit, re.MULTILINE)
    assert "/srv/data" in mounts.split()
    given, *_ = re.findall(rf"^ExecStartPre=\+/usr/bin/install -d -o hnai-{role} -g hnai-{role} -m 07[05]0 (.*)$", unit, re.MULTILINE)
    assert "/srv/data" in given.split()
    assert ".hnai-data" not in unit.partition("/usr/bin/install -d")[0], "a guard marks only what is there"
    (writable,) = re.findall(r"^ReadWritePaths=(.*)$", unit, re.MULTILINE)
    assert "/srv/data" in writable.replace("-/", "/").split()
    # In its usual place systemd does the same, by StateDirectory=.
    assert usual not in " ".join(re.findall(r"^(?:RequiresMountsFor|ExecStartPre=\+/usr/bin/install -d).*$", rendered(role, usual, **more), re.MULTILINE))


@pytest.mark.parametrize("kind", ["own", "shared"])
def test_the_shipper_s_buffer_may_lie_elsewhere_too(kind: str) -> None:
    def unit(path: str, instance: str) -> str:
        return rendered("telegraf", "", "telegraf-__instance__", telegraf_buffer_path=path, telegraf_buffer_filesystem=kind, instance=instance)

    shipper = unit("/srv/buffer", "shipper")
    assert re.findall(r"^(RequiresMountsFor|AssertPathIsMountPoint)=/srv/buffer$", shipper, re.MULTILINE) == (
        ["RequiresMountsFor", "AssertPathIsMountPoint"] if kind == "own" else ["RequiresMountsFor"])  # fmt: skip
    first, *_ = re.findall(r"^ExecStartPre=(.*)$", shipper.partition("# What lies in")[0], re.MULTILINE)
    assert first == "+/usr/bin/install -d -o hnai-telegraf -g hnai-telegraf -m 0750 /srv/buffer /srv/buffer/shipper"
    for other in (unit("/var/lib/hnai/telegraf", "shipper"), unit("/srv/buffer", "writer")):
        assert "install -d -o" not in other and "RequiresMountsFor=/srv" not in other


CONTRACTS = [yaml.safe_load(path.read_text("utf-8")) for path in sorted(ROLES.glob("*/meta/component.yml"))]
STORED = [(one["name"], state["path"]) for one in CONTRACTS for state in one["state"] if state["path"] == f"/var/lib/hnai/{one['name']}"]


@pytest.mark.parametrize(("role", "path"), STORED)
def test_every_unit_that_writes_where_a_component_stores_requires_its_mount(role: str, path: str) -> None:
    """StateDirectory= and WorkingDirectory= require it by themselves (systemd.exec(5))."""
    units = {one.name: one.read_text("utf-8") for one in (ROLES / role / "tree/etc/systemd/system").glob("*.service*") if one.is_file()}
    short = path.removeprefix("/var/lib/")
    required = rf"^(StateDirectory={short}|WorkingDirectory={path}|RequiresMountsFor={path})\b"
    requiring = {name for name, text in units.items() if re.search(required, text, re.MULTILINE)}
    writing = {name for name, text in units.items() if re.search(rf"sandbox_writable = \[.*{path}", text)}
    assert requiring if role != "ot_collector" else not units, "who writes there is Telegraf's unit"
    assert writing <= requiring
