# SPDX-License-Identifier: Apache-2.0
"""The probe matrix on a site in network namespaces, many times: no false result, also while the machine has too much to do."""
from __future__ import annotations

import copy
import multiprocessing
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

UNIT = Path(__file__).resolve().parents[1] / "unit"
sys.path.insert(0, str(UNIT))

from namespaces import lacks
from zones_stand import Stand

from ansible_collections.hnai.platform.plugins.module_utils.zones import matrix
from ansible_collections.hnai.platform.plugins.module_utils.zones.model import Site

pytestmark = pytest.mark.scenario("zones-stand")
RUNS = 20


@pytest.fixture(scope="module")
def stand() -> Iterator[Stand]:
    assert not lacks(), f"this machine lacks {lacks()}"
    data = yaml.safe_load((UNIT / "fixtures/site/site.yml").read_text(encoding="utf-8"))
    data = copy.deepcopy(data)
    data["assets"]["plc1"]["canary"] = True
    with Stand(Site.from_dict(data)) as made:
        yield made


def _busy(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


def beside_devices(site: Site, host: str) -> set[tuple[str, str]]:
    """What else fails when a host's own rules are open: from a router to the device beside it nobody of ours stands behind them."""
    zones = {leg.zone for leg in site.nodes[host].interfaces}
    devices = [node for node in site.nodes.values() if node.kind == "asset" and matrix.canary(site, node)]
    return {("ZC2", f"{node.zone} → {node.zone}") for node in devices if node.zone in zones}


def test_no_false_result_in_many_runs(stand: Stand) -> None:
    wrong = []
    for number in range(RUNS):
        busy = [multiprocessing.Process(target=_busy, args=(30.0,)) for _one in range(4 if number == RUNS // 2 else 0)]
        for one in busy:
            one.start()
        try:
            report = stand.verify(timeout=2.5)
        finally:
            for one in busy:
                one.kill()
                one.join()
        # The stand holds no session: ZC4 has nothing to judge.
        wrong += [(number, check.id, check.subject, check.status, check.reason) for check in report.checks if check.status != "pass" and check.id != "ZC4"]
        print(next(str(check.observed) for check in report.checks if check.id == "ZC6"))
    assert not wrong, wrong


def test_hosts_and_router_opened_in_turn(stand: Stand) -> None:
    """Each point once: what is named is that point, and nobody who was left as he was."""
    for host in [node.name for node in stand.site.managed()]:
        try:
            stand.nft(host, "insert rule inet hnai output udp dport 9 accept\ninsert rule inet hnai output tcp dport 8429 accept")
            report = stand.verify(timeout=2.5)
            failed = {(check.id, check.subject) for check in report.checks if check.status == "fail"}
            assert failed == {("ZC5", host), *beside_devices(stand.site, host)}, (host, failed)
        finally:
            stand.load([host])
