# SPDX-License-Identifier: Apache-2.0
"""QuestDB and its writer are taken out of the site: refused while anything needs it, then nothing is left, and site.yml installs it again."""
from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import Lab

pytestmark = pytest.mark.scenario("decommission")
VICTIM = "questdb"
CONDUITS = ("C-403", "C-502")
#: What a component of that name may own, and where.
OWN = (
    "/etc/hnai/questdb", "/opt/hnai/questdb", "/var/lib/hnai/questdb", "/var/lib/hnai/trees/questdb.json", "/usr/local/lib/hnai/questdb",
    "/etc/credstore.encrypted/hnai-questdb.*", "/etc/systemd/system/hnai-questdb*", "/etc/hnai/digests/hnai-questdb*", "/run/hnai/hnai-questdb*",
    "/etc/sysusers.d/hnai-questdb.conf",
)  # fmt: skip


def alter(path: Path, change: Any) -> None:
    """A YAML file, changed."""
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(yaml.safe_dump(content), encoding="utf-8")


@pytest.fixture(scope="module")
def without(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site's inventory without QuestDB, its writer and their conduits."""
    folder = Path(shutil.copytree(lab.inventory.parent, tmp_path_factory.mktemp("site") / "site"))

    def groups(content: dict[str, Any]) -> None:
        children = content["all"]["children"]["managed"]["children"]
        children[VICTIM]["hosts"] = {}
        children["telegraf"]["children"]["telegraf_questdb"]["hosts"] = {}

    alter(folder / lab.inventory.name, groups)
    alter(folder / "group_vars/all/conduits.yml", lambda content: content.update(hnai_conduits=[
        one for one in content["hnai_conduits"] if one["id"] not in CONDUITS]))  # fmt: skip
    return folder / lab.inventory.name


@pytest.fixture(scope="module", autouse=True)
def put_back(lab: Lab) -> Iterator[None]:
    """Whatever happened, the site is whole again."""
    yield
    run = lab.play("site.yml")
    assert run.rc == 0, run.stdout[-4000:]


def test_it_is_refused_while_it_stands_and_is_needed(lab: Lab) -> None:
    run = lab.play("playbooks/decommission.yml", extra={"decommission_component": VICTIM, "decommission_confirm": VICTIM})
    assert run.rc != 0
    for reason in ("out of the group questdb", "telegraf on", "conduit C-502"):
        assert reason in run.stdout
    assert not run.changed()


def test_without_the_name_again_nothing_goes(lab: Lab, without: Path) -> None:
    run = lab.play("playbooks/decommission.yml", extra={"decommission_component": VICTIM}, inventory=without)
    assert run.rc != 0
    assert "decommission_confirm=questdb" in run.stdout
    assert not run.changed()


def test_nothing_is_left_and_the_verdict_passes(lab: Lab, without: Path) -> None:
    host = lab.groups[VICTIM][0]
    words = {"decommission_component": VICTIM, "decommission_confirm": VICTIM, "decommission_purge": "data"}
    run = lab.play("playbooks/decommission.yml", extra=words, inventory=without)
    assert run.rc == 0, run.stdout[-4000:]
    look = f"ls -d {' '.join(OWN)} 2>/dev/null; getent passwd hnai-questdb; systemctl list-units --all --plain --no-legend 'hnai-questdb*'"
    assert not lab.run(host, "sh", "-c", look, check=False).stdout
    again = lab.play("playbooks/decommission.yml", extra=words, inventory=without)
    assert again.rc == 0, again.stdout[-4000:]
    assert not again.changed()
    # Firewalls, Kafka's users and ACLs, and the writer follow from the inventory; site.yml ends with the verdict.
    run = lab.play("site.yml", inventory=without)
    assert run.rc == 0, run.stdout[-4000:]
    assert "hnai-telegraf-questdb" not in lab.run(host, "sh", "-c", "ls /etc/systemd/system").stdout


def test_it_comes_back_by_the_site_alone(lab: Lab) -> None:
    run = lab.play("site.yml")
    assert run.rc == 0, run.stdout[-4000:]
    assert lab.run(lab.groups[VICTIM][0], "systemctl", "is-active", "hnai-questdb.service").stdout.strip() == "active"
