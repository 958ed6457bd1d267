# SPDX-License-Identifier: Apache-2.0
"""A feature level is raised only when every node can do it, and never lowered."""

from __future__ import annotations

from ansible_collections.hnai.platform.plugins.module_utils.kafka import features

NODES = ["kafka1:9091", "kafka1:9093"]
AT_29 = {"metadata.version": (29, 30), "transaction.version": (2, 2)}
WANTED = {"metadata.version": 30, "transaction.version": 2}


def test_what_is_below_is_raised() -> None:
    assert features.plan(WANTED, AT_29, NODES, lambda address: {"metadata.version": (7, 30)}) == ({"metadata.version": 30}, [])


def test_nothing_is_asked_where_nothing_is_due() -> None:
    asked: list[str] = []

    def supported(address: str) -> features.Levels:
        asked.append(address)
        return {}

    assert features.plan(WANTED, {"metadata.version": (30, 30), "transaction.version": (2, 2)}, NODES, supported) == ({}, [])
    assert asked == []


def test_one_older_node_refuses_it_for_all() -> None:
    def supported(address: str) -> features.Levels:
        return {"metadata.version": (7, 27 if address.endswith("9093") else 30)}

    raised, problems = features.plan(WANTED, AT_29, NODES, supported)
    assert raised == {"metadata.version": 30}
    assert len(problems) == 1
    assert problems[0].startswith("kafka1:9093: metadata.version goes to 27 there")


def test_a_node_that_does_not_answer_refuses_it() -> None:
    def supported(address: str) -> features.Levels:
        raise ConnectionRefusedError("refused")

    assert len(features.plan(WANTED, AT_29, NODES, supported)[1]) == 2
    assert features.plan(WANTED, AT_29, [], supported)[1] == ["no node to ask what it can do"]


def test_a_node_that_does_not_know_the_feature_refuses_it() -> None:
    assert len(features.plan(WANTED, AT_29, NODES, lambda address: {})[1]) == 2


def test_a_level_is_never_lowered() -> None:
    raised, problems = features.plan({"metadata.version": 28}, AT_29, NODES, lambda address: {})
    assert raised == {}
    assert "is at 29, above 28" in problems[0]


def test_each_node_tells_for_itself_and_a_silent_one_is_left_out() -> None:
    def supported(address: str) -> features.Levels:
        if address.endswith("9093"):
            raise ConnectionRefusedError("refused")
        return {"metadata.version": (7, 29)}

    assert features.tell(NODES, supported) == {"kafka1:9091": {"metadata.version": 29}}
