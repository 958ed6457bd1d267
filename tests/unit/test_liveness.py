# SPDX-License-Identifier: Apache-2.0
"""Every check of the verdict table is seen to fail in a scenario, or stands in a list with a day and a reason."""
from __future__ import annotations

import copy
import datetime
from collections.abc import Callable
from typing import Any

import liveness
import pytest

from ansible_collections.hnai.platform.plugins.plugin_utils import checks

REGISTER = {entry.id: entry.component for entry in checks.by_id(checks.load()).values()}
TODAY = datetime.date.today()


def test_every_check_is_seen_to_fail_or_stands_in_the_list() -> None:
    found = liveness.problems(liveness.load(), REGISTER, TODAY)
    assert not found, "\n".join(found)


def forget(data: dict[str, Any]) -> None:
    del data["seen"]["host"]["HO1"]


def no_longer(data: dict[str, Any]) -> None:
    data["unseen"][0]["ids"].remove("V-COMPONENT")


def twice(data: dict[str, Any]) -> None:
    data["unseen"][0]["ids"].append("HO1")


def unknown(data: dict[str, Any]) -> None:
    data["seen"]["host"]["HO99"] = data["seen"]["host"]["HO1"]


def elsewhere(data: dict[str, Any]) -> None:
    data["seen"]["kafka"]["HO1"] = data["seen"]["host"].pop("HO1")


def renamed_function(data: dict[str, Any]) -> None:
    data["seen"]["host"]["HO1"] = "test_65_host_faults::test_nothing"


def renamed_case(data: dict[str, Any]) -> None:
    data["seen"]["host"]["HO1"] = data["seen"]["host"]["HO1"].replace("[a_unit_failed]", "[a_unit_fell]")


def renamed_file(data: dict[str, Any]) -> None:
    data["seen"]["host"]["HO1"] = data["seen"]["host"]["HO1"].replace("test_65_host_faults::", "test_65::")


def a_unit_test(data: dict[str, Any]) -> None:
    data["seen"]["host"]["HO1"] = "test_host_health::test_a_sound_host_passes"


def about_something_else(data: dict[str, Any]) -> None:
    data["seen"]["host"]["HO1"] = "test_40_journal::test_every_record_of_the_line_once"


def no_reason(data: dict[str, Any]) -> None:
    data["unseen"][0]["reason"] = "later"


def no_day(data: dict[str, Any]) -> None:
    data["unseen"][0]["since"] = "soon"


def a_day_to_come(data: dict[str, Any]) -> None:
    data["unseen"][0]["since"] = TODAY + datetime.timedelta(days=1)


def judged_by_nobody(data: dict[str, Any]) -> None:
    data["unseen"][0]["instead"] = []


def judged_by_another(data: dict[str, Any]) -> None:
    data["unseen"][1]["instead"] = ["test_fanout"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (forget, "HO1: stands in neither list"), (no_longer, "V-COMPONENT: stands in neither list"), (twice, "HO1: stands here 2 times"),
        (unknown, "HO99: is no id of the register"), (elsewhere, "HO1: is of host, not of kafka"), (renamed_function, "no such function"),
        (renamed_case, "no such case"), (renamed_file, "no such file"), (a_unit_test, "no such file in tests/lab or tests/stacks"),
        (about_something_else, "says nothing of HO1"), (no_reason, "lacks a reason"), (no_day, "since is no day"), (a_day_to_come, "since is no day"),
        (judged_by_nobody, "is no file::function[case]"), (judged_by_another, "no test of test_fanout speaks of it"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(change: Callable[[dict[str, Any]], None], words: str) -> None:
    data = copy.deepcopy(liveness.load())
    change(data)
    assert any(words in one for one in liveness.problems(data, REGISTER, TODAY))


def test_the_page_shows_every_id_once() -> None:
    rows = [line for line in liveness.page(liveness.load()).splitlines() if line.startswith("| ")]
    shown = [ident for row in rows for ident in row.split(" | ")[0 if row.count(" | ") == 3 else 1].strip("| ").split(", ") if ident in REGISTER]
    assert sorted(shown) == sorted(REGISTER)
