# SPDX-License-Identifier: Apache-2.0
"""Checks that no other scenario breaks: each fails for its own reason, nothing else of it but the listed consequences, and passes after repair.

What is left is in tests/liveness.yml, with the reason. Scenario liveness.
"""
from __future__ import annotations

import datetime
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import Lab
from opened import COMMENT, verify, without_rules
from opened import bad as wrong
from plant_view import collector, until
from test_50_faults import OPCUA, control, systemctl
from test_61_kafka_health import AWAY, OPEN, UNIT, broker, cluster, ids, verdict
from test_61_kafka_health import Fault as OfKafka
from test_61_kafka_health import exercise as exercise_kafka
from test_61_kafka_health import whole as kafka_is_whole
from test_64_checks import edited
from test_65_host_faults import stopped, the_line_is_silent, where
from test_65_host_faults_2 import JSON, Fault, exercise, fault, no_rows_come
from test_87_decommission import alter

pytestmark = pytest.mark.scenario("liveness")
#: Longer than any certificate of the lab has left: the limit that the verdict is asked with.
MORE_DAYS_THAN_LEFT = {"openbao_min_certificate_days": 36500}
LONELY, MOVING = "hnai.test.one-copy", "hnai.test.moving"


# -- the plant and its edge node ------------------------------------------------------------------------------
@contextmanager
def the_plants_server_was_restarted(lab: Lab) -> Iterator[None]:
    """Its session is gone, and with it what it had kept: a gap, and data again."""
    device = lab.groups["ot_devices"][0]
    systemctl(lab, device, "restart", OPCUA)
    until("the plant is not connected", lambda: collector(lab)["plc1"]["state"] == "connected", 90)
    yield


@contextmanager
def a_metric_that_no_birth_names(lab: Lab) -> Iterator[None]:
    """The edge node says something by an alias that it never explained, until it is born again."""
    control(lab, "line", {"sparkplug": "stranger"})
    try:
        yield
    finally:
        control(lab, "line", {"sparkplug": "rebirth"})


# -- stores, OpenBao, Kafka's door, Flink ---------------------------------------------------------------------
def questdb_is_down(lab: Lab) -> AbstractContextManager[None]:
    return stopped(lab, where(lab, "questdb"), "hnai-questdb.service")


def the_dashboard_may_write(lab: Lab) -> AbstractContextManager[None]:
    """A path too many in the routes of the hot store's way in."""
    change = JSON % "[u['paths'].append('/write') for u in j['users'] if u['username'] == 'dashboard']"
    host, routes = where(lab, "victoriametrics"), "/etc/hnai/victoriametrics/routes.json"
    return edited(lab, host, routes, change, "systemctl", "reload", "hnai-victoriametrics-auth.service")


@contextmanager
def a_certificate_that_ends_too_soon(lab: Lab) -> Iterator[None]:
    """Nothing is done to it: by the declared limit it has too few days left."""
    yield


def a_broker_asks_for_no_certificate(lab: Lab) -> AbstractContextManager[None]:
    """Whoever has one is known as ever, and nobody needs one."""
    key = "listener.name.internal.ssl.client.auth="
    return edited(lab, where(lab, "kafka"), "/etc/hnai/kafka/server.properties", f"t.replace('{key}required', '{key}requested')", "systemctl", "restart", UNIT)


@contextmanager
def a_task_manager_was_killed(lab: Lab) -> Iterator[None]:
    """Its jobs start again by themselves. A new JobManager forgets that, as its keeper submits them anew; else it is told for five minutes."""
    host = where(lab, "flink")
    systemctl(lab, host, "kill", "--signal=KILL", "hnai-flink-taskmanager.service")
    try:
        yield
    finally:
        systemctl(lab, host, "restart", "hnai-flink-jobmanager.service")


@pytest.mark.parametrize(
    "one",
    [
        fault(the_plants_server_was_restarted, "ot_collector", "OC4", "OC1 OC2 OC3 OC5"),
        # The node says that it goes; what it had is Bad until it is born again.
        fault(the_line_is_silent, "ot_collector", "OC12", "OC1 OC3 OC4 OC9 OC11 OC13"),
        fault(a_metric_that_no_birth_names, "ot_collector", "OC10"),
        fault(questdb_is_down, "questdb", "QD1", "QD2 QD3 QD4 QD5 QD6 QD7 FR3"),
        fault(no_rows_come, "questdb", "QD7", "FR3", wait_s=150),
        fault(the_dashboard_may_write, "victoriametrics", "VM5"),
        fault(a_certificate_that_ends_too_soon, "openbao", "BAO08", extra=MORE_DAYS_THAN_LEFT),
        # It comes back as a broker that catches up.
        fault(a_broker_asks_for_no_certificate, "kafka", "S2", "Q1 Q2 Q3 Q4 Q5 Q6 F1 F2 F3 F4 B1 B2 B3 B4 B5 B6 B7 B8 B9 B10 B11 L1 L2 C2 C3"),
        fault(a_task_manager_was_killed, "flink", "H5 H8", "H2 H3 H4 H6 H7 H9"),
    ],
)
def test_a_fault_fails_its_own_check_and_passes_after_repair(lab: Lab, one: Fault) -> None:
    exercise(lab, one)


# -- Kafka: a broker away that had the only copy, and one that was being made ----------------------------------
def lose_the_only_copy(lab: Lab) -> None:
    here, away, there = (lab.var(broker(lab, n), "kafka_node_id") for n in (0, 1, 2))
    cluster(lab, "topic", {"name": LONELY, "replicas": {"0": [away]}, "config": {"min.insync.replicas": "1"}})
    cluster(lab, "topic", {"name": MOVING, "replicas": {"0": [here, there]}, "config": {"min.insync.replicas": "1"}})
    systemctl(lab, broker(lab, 1), "kill", "--signal=KILL", UNIT)
    systemctl(lab, broker(lab, 1), "stop", UNIT)
    until("nobody notices the lost broker", lambda: {"B1", "B2"} <= ids(verdict(lab, [broker(lab, 0)]), "fail"), 60, 1)
    cluster(lab, "reassign", {"topic": MOVING, "partition": 0, "replicas": [here, away]})


def forget_both(lab: Lab) -> None:
    for name in (LONELY, MOVING):
        cluster(lab, "delete", {"name": name})


#: Where nobody has a partition nobody is in sync either: writes to it are refused, as to one with too few copies (KIP-966 empties the set).
ONLY_COPY = OfKafka(
    lose_the_only_copy, lambda lab: systemctl(lab, broker(lab, 1), "start", UNIT), frozenset({"B1", "B2", "B4", "B5", "B9", "Q6"}), AWAY | {"B3"}, OPEN, (0, 2),
    cleanup=forget_both)  # fmt: skip


def test_a_broker_away_with_the_only_copy_and_one_half_made(lab: Lab) -> None:
    kafka_is_whole(lab)
    exercise_kafka(lab, "the only copy is lost, another is half made", ONLY_COPY)
    kafka_is_whole(lab)


# -- the network ----------------------------------------------------------------------------------------------
@contextmanager
def shut(lab: Lab, host: str, port: int) -> Iterator[None]:
    """New connections of others to a port are dropped, first in our table; what is open stays."""
    new = ["iifname", "!=", "lo", "ct", "state", "new", "tcp", "dport", str(port)]
    try:
        lab.run(host, "nft", "insert", "rule", "inet", "hnai", "input", *new, "counter", "drop", "comment", f'"{COMMENT}"')
        yield
    finally:
        for line in lab.run(host, "nft", "-a", "list", "chain", "inet", "hnai", "input").stdout.splitlines():
            if COMMENT in line:
                lab.run(host, "nft", "delete", "rule", "inet", "hnai", "input", "handle", line.rsplit(" ", 1)[1])


def test_a_conduit_that_does_not_carry_is_named(lab: Lab) -> None:
    """People ask QuestDB now and then: nothing of the data path goes there."""
    conduit = next(one for one in lab.var(lab.groups["managed"][0], "hnai_conduits") if one["service"] == {"component": "questdb", "listener": "https"})
    with shut(lab, where(lab, "questdb"), 9000):
        run, checks = verify(lab)
    found = wrong(checks)
    assert run.rc != 0 and found.pop(("ZC1", conduit["id"])).startswith("fail"), found
    assert without_rules(found, {where(lab, "questdb"): "input"}) == {}
    run, checks = verify(lab)
    assert run.rc == 0 and not wrong(checks), wrong(checks)


# -- the judge itself -----------------------------------------------------------------------------------------
def an_end(content: dict[str, Any]) -> None:
    content["hnai_conduits"][-1]["expires"] = (datetime.date.today() - datetime.timedelta(days=2)).isoformat()


def break_glass(content: dict[str, Any]) -> None:
    entry = {"id": content["hnai_conduits"][-1]["id"], "owner": "shift lead", "reason": "a drill", "since": datetime.date.today().isoformat(), "hours": 1}
    content["hnai_break_glass"] = [entry]


def problems(lab: Lab) -> list[str]:
    """Ids of the newest record."""
    return sorted(one["id"] for one in json.loads((lab.state / "verdicts/latest/record.json").read_text(encoding="utf-8"))["problems"])


@pytest.mark.parametrize(("change", "ident"), [(an_end, "V-expiry"), (break_glass, "V-glass")])
def test_an_end_in_the_model_and_what_was_let_through_are_red(
    lab: Lab, tmp_path: Path, change: Callable[[dict[str, Any]], None], ident: str
) -> None:
    folder = Path(shutil.copytree(lab.inventory.parent, tmp_path / "site"))
    alter(folder / "group_vars/all/conduits.yml", change)
    run = lab.play("playbooks/verify.yml", inventory=folder / lab.inventory.name)
    assert run.rc != 0 and problems(lab) == [ident], run.stdout[-3000:]
    run = lab.play("playbooks/verify.yml")
    assert run.rc == 0 and not problems(lab), run.stdout[-3000:]


def test_a_full_verdict_that_is_too_old_fails_the_quick_one(lab: Lab) -> None:
    run = lab.play("playbooks/verify.yml", extra={"hnai_full_verdict_max_age": 1})
    assert run.rc != 0 and problems(lab) == ["V-full"], run.stdout[-3000:]
    run = lab.play("playbooks/verify.yml")
    assert run.rc == 0 and not problems(lab), run.stdout[-3000:]
