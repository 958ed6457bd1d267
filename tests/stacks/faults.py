# SPDX-License-Identifier: Apache-2.0
"""A fault on a stand, and what the verdict must say of it: nothing before, its own check and what follows from it meanwhile, nothing afterwards."""
from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from ansible_collections.hnai.platform.plugins.module_utils.verdict import FAIL, INCONCLUSIVE, PASS, SKIPPED, Report

WORST = (FAIL, INCONCLUSIVE, SKIPPED, PASS)
Said = dict[str, tuple[str, str]]
"""{id: (worst status, its reason)}."""


@dataclass(frozen=True)
class Fault:
    """*plant* makes it on a stand for the time of a block; check *id* has *status* then, with *words* in its reason; *also*: what follows from it.

    *rest*: what the check says when all is well; where that is no pass, it holds for what follows, too.
    """

    id: str
    plant: Callable[[Any], contextlib.AbstractContextManager[None]]
    words: str
    also: tuple[str, ...] = ()
    status: str = FAIL
    rest: str = PASS


class Judged:
    """A stand that can be judged. *well*: what was said when it was last found in order; the end of one fault is the beginning of the next."""

    well: Said | None = None

    def judge(self) -> Report:
        """Asked exactly as the module asks."""
        raise NotImplementedError


def cases(faults: Sequence[Fault]) -> Any:
    """One test each, named after what is planted."""
    return pytest.mark.parametrize("fault", faults, ids=[one.plant.__name__ for one in faults])


def said(report: Report) -> Said:
    """Of all subjects of a check the worst."""
    found: Said = {}
    for check in report.checks:
        here = (check.status, check.reason or "")
        found[check.id] = min(found.get(check.id, here), here, key=lambda one: WORST.index(one[0]))
    return found


def bad(found: Said) -> set[str]:
    return {ident for ident, (status, _reason) in found.items() if status in (FAIL, INCONCLUSIVE)}


def seen(fault: Fault, stand: Judged) -> None:
    """The check is seen to fail for its own reason, nothing else but what follows does, and all is well before and after."""

    def well(found: Said) -> Said:
        assert bad(found) == (set() if fault.rest == PASS else {fault.id, *fault.also}), found
        assert found[fault.id][0] == fault.rest, found
        return found

    well(stand.well or said(stand.judge()))
    stand.well = None
    with fault.plant(stand):
        found = said(stand.judge())
    assert found[fault.id][0] == fault.status and fault.words in found[fault.id][1], found
    assert bad(found) - {fault.id} == set(fault.also), found
    stand.well = well(said(stand.judge()))
