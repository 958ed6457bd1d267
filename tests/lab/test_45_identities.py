# SPDX-License-Identifier: Apache-2.0
"""Who may read: no identity of level 3 gets a record out of Kafka by any way, and the OPC UA server lets nobody in who says nothing."""
from __future__ import annotations

import pytest
from conftest import Lab
from plant_view import program

CA = "/etc/hnai/telegraf/tls/ca.pem"
TOPICS = ("ot.raw", "ot.normalised", "ot.alerts", "__consumer_offsets")
NOT_COORDINATOR, TOPIC_REFUSED, GROUP_REFUSED = 16, 29, 30
#: Kafka's error codes that say: may not.
REFUSED = {TOPIC_REFUSED, GROUP_REFUSED, 31}


def reads(lab: Lab, host: str, port: int, user: str, credential: str, group: str, *topics: str) -> dict[str, int]:
    """How the cluster answers one identity, each way to read."""
    broker = lab.groups["kafka"][0]
    return lab.python(host, program("host_kafka_read"), broker, str(port), CA, user, credential, group, *topics, timeout=90)


@pytest.mark.parametrize(("group", "user"), [("telegraf_shipper", "telegraf-shipper"), ("telegraf_bridge", "telegraf-bridge")])
def test_no_identity_of_level_3_reads_from_kafka(lab: Lab, group: str, user: str) -> None:
    credential = "hnai-telegraf.kafka_" + group.removeprefix("telegraf_")
    answers = reads(lab, lab.groups[group][0], 9094, user, credential, "telegraf-writer", *TOPICS)
    assert {way: code for way, code in answers.items() if code not in REFUSED} == {}
    assert len(answers) == len(TOPICS) + 5


def test_the_same_questions_are_answered_to_one_who_may_read(lab: Lab) -> None:
    """The control: without it a mistake in the bytes would look like a refusal."""
    answers = reads(lab, lab.groups["telegraf_writer"][0], 9095, "telegraf-writer", "hnai-telegraf.kafka_writer", "telegraf-writer", "ot.normalised")
    print(answers)
    assert answers["OffsetFetch"] in (0, NOT_COORDINATOR)
    # Another broker may lead or coordinate: also an answer to one who may. The group is alive with members of its own; another
    # kind of member is turned away for that, not for want of a right.
    assert {way: code for way, code in answers.items() if code in REFUSED} == {}


def test_the_plants_server_lets_nobody_in_without_a_name(lab: Lab) -> None:
    host = lab.groups["ot_collector"][0]
    folder = "/etc/hnai/ot_collector"
    security = (f"{folder}/servers/plc1.pem", f"{folder}/pki/cert.pem", f"{folder}/pki/key.pem")
    answers = lab.python(host, program("host_opcua"), "opc.tcp://plc1:4840", *security, timeout=90)
    assert len(answers) == 2
    assert "let in" not in answers.values(), answers
    assert all("Timeout" not in answer for answer in answers.values()), f"no answer is no refusal: {answers}"
