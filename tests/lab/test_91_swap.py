# SPDX-License-Identifier: Apache-2.0
"""Debian releases exchanged, as far as it shows without a host: allowed where the contracts allow both, refused with that sentence where one does not.

The hosts that run the exchanged releases are those of the scenario `twin` (test_92_twin).
"""
from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import twin as second
import yaml
from conftest import Lab

pytestmark = pytest.mark.scenario("swap")


@pytest.fixture(scope="module")
def exchanged(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """The second site; nothing of it stands."""
    return Lab(second.make(lab.inventory, tmp_path_factory.mktemp("swap")))


def released(inventory: Path, host: str, release: str) -> None:
    """The host is said to run it."""
    data = yaml.safe_load(inventory.read_text(encoding="utf-8"))
    where = next(group["hosts"] for group in groups(data["all"]) if host in (group.get("hosts") or {}))
    where[host] = {**(where[host] or {}), "hnai_debian": release}
    inventory.write_text("# SPDX-License-Identifier: Apache-2.0\n---\n" + yaml.safe_dump(data, sort_keys=False, width=150), encoding="utf-8")


def groups(group: dict[str, Any]) -> list[dict[str, Any]]:
    """It and all below it."""
    return [group, *(one for child in (group.get("children") or {}).values() if child for one in groups(child))]


def test_where_the_contracts_allow_both_the_releases_are_exchanged(lab: Lab, exchanged: Lab) -> None:
    other = {"12": "13", "13": "12"}
    only = {host for name in ("victoriametrics", "questdb") for host in lab.groups[name]}
    for host in set(lab.groups["managed"]) - only:
        assert exchanged.var(second.HOSTS[host], "hnai_debian") == other[lab.var(host, "hnai_debian")], host
    assert lab.play("playbooks/validate.yml", inventory=exchanged.inventory).rc == 0


def test_where_a_contract_says_debian_13_only_it_is_refused_with_that_sentence(lab: Lab, exchanged: Lab) -> None:
    host = second.HOSTS[lab.groups["victoriametrics"][0]]
    released(exchanged.inventory, host, "12")
    run = lab.play("playbooks/validate.yml", inventory=exchanged.inventory)
    said = " ".join(run.stdout.split())
    assert run.rc != 0 and f"victoriametrics stands on {host}, which runs Debian 12, and is for Debian 13 only" in said, run.stdout[-3000:]
    assert set(run.stats.get("ok", {})) | set(run.stats.get("failures", {})) <= {"localhost"}, "no host was asked"
