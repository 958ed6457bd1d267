# SPDX-License-Identifier: Apache-2.0
"""What `exercise` of tests/lab/stands.py takes for a check that was seen to fail, and what it does not."""
from __future__ import annotations

import contextlib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

_spec = importlib.util.spec_from_file_location("stands", Path(__file__).parents[1] / "lab/stands.py")
assert _spec is not None and _spec.loader is not None
stands = sys.modules["stands"] = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(stands)

WELL = "A pass, B pass, C skipped"


class Scripted(stands.Judged):
    """Says one verdict of each list after the other, the last again and again: "id status reason, …"; the fault goes to the second list, its repair to
    the third."""

    def __init__(self, before: str = WELL, meanwhile: str = "A fail its reason, B pass, C skipped", after: str = WELL) -> None:
        self.lists, self.at, self.asked = [one.split("; ") for one in (before, meanwhile, after)], 0, 0

    def judge(self) -> Any:
        self.asked += 1
        said = self.lists[self.at].pop(0) if len(self.lists[self.at]) > 1 else self.lists[self.at][0]
        words = [one.split(" ", 2) for one in said.split(", ")]
        return [{"id": one[0].partition("/")[0], "subject": one[0].partition("/")[2], "status": one[1], "observed": 7, "reason": "".join(one[2:])}
                for one in words]


@contextlib.contextmanager
def broken(stand: Scripted) -> Iterator[None]:
    stand.at = 1
    yield
    stand.at = 2


def fault(**more: Any) -> Any:
    return stands.Fault(broken, **{"must": {"A": "^fail : its reason$"}, **more})


@pytest.mark.parametrize(
    ("said", "more", "words"),
    [
        ({}, {}, ""),
        ({"before": "A pass, B fail"}, {}, "not well to begin with: {'B': 'fail : 7'}"),
        ({"before": "A skipped, B pass"}, {}, "not well to begin with: {'A': 'does not pass'}"),
        ({"before": "B pass"}, {}, "not well to begin with: {'A': 'does not pass'}"),
        ({"meanwhile": WELL}, {}, "nobody says A"),
        ({"meanwhile": "A fail another"}, {}, "for another reason: {'A': 'fail : another'}"),
        ({"meanwhile": "A inconclusive its reason"}, {}, "for another reason"),
        ({"meanwhile": "A skipped its reason"}, {"must": {"A": "^skipped : its"}}, ""),
        ({"meanwhile": "A fail its reason, B fail"}, {}, "{'B': 'fail : 7'}"),
        ({"meanwhile": "A fail its reason, B fail"}, {"may": "B"}, ""),
        ({"meanwhile": "A fail its reason"}, {"must": {"A": "", "B": ""}}, "nobody says A, B: {'B'}"),
        ({"meanwhile": "A fail its reason, B inconclusive"}, {"unknown": "B"}, ""),
        ({"meanwhile": "A fail its reason, B fail"}, {"unknown": "B"}, "{'B': 'fail : 7'}"),
        ({"meanwhile": "A/x inconclusive, A/y fail its reason"}, {"must": {"A": "^fail y: its reason"}}, "{'A': 'inconclusive x: 7'}"),
        ({"meanwhile": "A/x fail, A/y fail its reason"}, {"must": {"A": r"\Afail y: its reason\Z"}}, "for another reason"),
        ({"after": "A pass, B fail"}, {}, "not well again: {'B': 'fail : 7'}"),
        ({"after": "A skipped"}, {}, "not well again: {'A': 'does not pass'}"),
        ({"before": "A pass, B inconclusive", "meanwhile": "A fail its reason, B inconclusive", "after": "A pass, B inconclusive"},
         {"must": {"A": "", "B": ""}, "rest": {"B": "^inconclusive"}}, ""),
        ({}, {"must": {"A": "", "B": ""}, "rest": {"B": "^inconclusive"}}, "not well to begin with: {'B': 'nothing'}"),
    ],
)
def test_what_was_seen(said: dict[str, str], more: dict[str, Any], words: str) -> None:
    stand = Scripted(**said)
    with pytest.raises(AssertionError) if words else contextlib.nullcontext() as error:
        stands.exercise(stand, fault(**more))
    assert error is None or words in str(error.value)
    assert (stand.well is None) is bool(words) and stand.at in (0, 2), "what was broken is repaired in any case"


def test_the_end_of_one_fault_is_the_beginning_of_the_next() -> None:
    stand = Scripted()
    stands.exercise(stand, fault())
    stands.exercise(stand, fault())
    assert stand.asked == 5


def test_who_settles_may_be_bad_for_a_while_beside_the_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stands.time, "sleep", lambda _seconds: None)
    for settles, words in ((True, ""), (False, "B")):
        stand = Scripted(meanwhile="A pass; A fail its reason, B fail; A fail its reason")
        stand.patience_s, stand.settles = 60.0, settles
        with pytest.raises(AssertionError, match=words) if words else contextlib.nullcontext():
            stands.exercise(stand, fault())


def test_a_status_that_is_not_fine_is_bad() -> None:
    stand = Scripted()
    stand.fine = ("pass",)
    with pytest.raises(AssertionError, match=r"not well to begin with: .'C': 'skipped : 7'"):
        stands.exercise(stand, fault())
