# SPDX-License-Identifier: Apache-2.0
"""Questions asked at the same time: the slowest decides how long it takes, and no longer than allowed."""
from __future__ import annotations

import threading
import time

from ansible_collections.hnai.platform.plugins.module_utils import at_once


def test_each_has_its_answer_or_what_it_raised() -> None:
    def halve(number: int) -> int:
        if number % 2:
            raise ValueError("odd")
        return number // 2

    found = at_once.ask(halve, [4, 3, 2], None)
    assert list(found) == [4, 3, 2]
    assert (found[4], str(found[3]), found[2]) == (2, "odd", 1)
    assert at_once.ask(halve, [], 1.0) == {}


def test_all_are_asked_before_one_is_waited_for() -> None:
    met = threading.Barrier(5)
    assert set(at_once.ask(lambda _number: met.wait(30) >= 0, range(5), 60.0).values()) == {True}


def test_who_is_late_is_left_behind() -> None:
    over = threading.Event()
    begin = time.monotonic()
    found = at_once.ask(lambda late: over.wait(60) if late else "here", [True, False], 0.3)
    assert time.monotonic() - begin < 30
    assert isinstance(found[True], TimeoutError) and found[False] == "here"
    over.set()
