# SPDX-License-Identifier: Apache-2.0
"""A store, a cluster, a broker and an OpenBao that somebody else runs: the site installs and restarts nothing there, and judges them as ever."""
from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from conftest import Lab

pytestmark = pytest.mark.scenario("external")
OTHERS = {"victoriametrics": {"owner": "the historian's team", "group": "hnai-victoriametrics"}, "kafka": {"owner": "IT", "group": "hnai-kafka"},
          "openbao": {"owner": "the security office", "group": "hnai-openbao"},
          "mosquitto": {"owner": "the plant", "group": "hnai-mosquitto", "unit": "hnai-mosquitto.service",
                        "config": "/etc/hnai/mosquitto/mosquitto.conf"}}  # fmt: skip
PASSWORDS = "/etc/hnai/mosquitto/passwords"
UNIT = "/etc/systemd/system/hnai-victoriametrics.service"
STARTS = ("systemctl", "show", "--property=InvocationID", "--value", "hnai-victoriametrics.service", "hnai-victoriametrics-auth.service")


@pytest.fixture(scope="module")
def theirs(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site's inventory, where both are somebody else's."""
    folder = Path(shutil.copytree(lab.inventory.parent, tmp_path_factory.mktemp("site") / "site"))
    for component, value in OTHERS.items():
        path = folder / "group_vars" / component / "external.yml"
        beside = path.parent.with_suffix(".yml")
        path.parent.mkdir(exist_ok=True)
        if beside.exists():
            beside.rename(path.parent / "main.yml")
        path.write_text(yaml.safe_dump({f"{component}_external": value}), encoding="utf-8")
    return folder / lab.inventory.name


@pytest.fixture(scope="module", autouse=True)
def put_back(lab: Lab) -> Iterator[None]:
    """Whatever happened, the store is ours again, and as its role has it."""
    yield
    run = lab.play("site.yml", "--tags", "victoriametrics")
    assert run.rc == 0, run.stdout[-4000:]
    assert "set by its owner" not in lab.run(lab.groups["victoriametrics"][0], "cat", UNIT).stdout


def test_what_its_owner_changed_stays(lab: Lab, theirs: Path) -> None:
    host = lab.groups["victoriametrics"][0]
    before = lab.run(host, *STARTS).stdout
    lab.run(host, "sed", "-i", "1i # set by its owner", UNIT)
    ours = lab.play("site.yml", "--tags", "victoriametrics", "--check", "--diff")
    assert UNIT in ours.stdout and ours.changed()
    run = lab.play("site.yml", "--tags", "victoriametrics,kafka,openbao", inventory=theirs)
    assert run.rc == 0, run.stdout[-4000:]
    assert not run.changed()
    assert lab.run(host, "head", "-1", UNIT).stdout.strip() == "# set by its owner"
    assert lab.run(host, *STARTS).stdout == before


def test_it_is_judged_as_ever(lab: Lab, theirs: Path) -> None:
    host = lab.groups["victoriametrics"][0]
    run = lab.play("playbooks/verify.yml", "--tags", "victoriametrics", inventory=theirs)
    assert run.rc == 0, run.stdout[-4000:]
    lab.run(host, "systemctl", "stop", "hnai-victoriametrics.service")
    try:
        run = lab.play("playbooks/verify.yml", "--tags", "victoriametrics", inventory=theirs)
        assert run.rc != 0 and "VM1" in run.stdout, run.stdout[-4000:]
        assert lab.play("site.yml", "--tags", "victoriametrics", "--skip-tags", "verify", inventory=theirs).rc == 0
        assert lab.run(host, "systemctl", "is-active", "hnai-victoriametrics.service", check=False).stdout.strip() == "inactive"
    finally:
        lab.run(host, "systemctl", "start", "hnai-victoriametrics.service")


def test_a_broker_gets_rights_and_passwords_and_is_left_alone(lab: Lab, theirs: Path) -> None:
    host = lab.groups["mosquitto"][0]
    started = ("systemctl", "show", "--property=InvocationID", "--value", "hnai-mosquitto.service")
    before = lab.run(host, *started).stdout
    try:
        run = lab.play("site.yml", "--tags", "mosquitto", "--skip-tags", "verify", inventory=theirs)
        assert run.rc == 0, run.stdout[-4000:]
        names = [lab.run(host, "cut", "-d:", "-f1", path).stdout for path in (PASSWORDS, "/run/hnai-mosquitto/passwords")]
        assert names[0] and names[0] == names[1]
        run = lab.play("site.yml", "--tags", "mosquitto", inventory=theirs)
        assert run.rc == 0 and not run.changed(), run.stdout[-4000:]
        assert lab.run(host, *started).stdout == before
    finally:
        lab.run(host, "rm", "-f", PASSWORDS)


def test_the_verbs_leave_it_to_its_owner(lab: Lab, theirs: Path) -> None:
    run = lab.play("playbooks/rotate.yml", extra={"rotate_secret": "victoriametrics/writer"}, inventory=theirs)
    assert run.rc != 0 and "the historian's team runs victoriametrics" in run.stdout, run.stdout[-3000:]
    run = lab.play("playbooks/rotate.yml", extra={"rotate_secret": "openbao/keyring"}, inventory=theirs)
    assert run.rc != 0 and "openbao is run by the security office" in run.stdout, run.stdout[-3000:]
    run = lab.play("playbooks/upgrade.yml", "--tags", "kafka", "--check", inventory=theirs)
    assert run.rc != 0 and "kafka is run by IT" in run.stdout, run.stdout[-3000:]
    assert not run.changed()
