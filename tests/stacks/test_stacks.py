# SPDX-License-Identifier: Apache-2.0
"""The audit against servers of three makers, with faults at places that a stranger would choose."""
from __future__ import annotations

from pathlib import Path
from typing import Any

import kit
import plans
import pytest
from eyes import Seen

pytestmark = pytest.mark.scenario("opcua-stacks")
STACKS = pytest.mark.parametrize("stack", kit.STACKS)


@STACKS
def test_a_clean_server_is_accused_of_nothing(stack: str, pki: kit.Pki, seed: int, tmp_path: Path) -> None:
    plot = plans.tree(seed, stack, False, **pki.plan())
    with kit.running(stack, plot.plan, tmp_path) as server:
        seen = Seen(pki, server.port)
        record = server.record()
    assert seen.facts.complete, seen.facts.error
    print(stack, seen.why(), seen.standard(), dict(seen.facts.result.nodes), seen.facts.load)
    assert seen.verdict == "claimed"


@STACKS
def test_every_planted_fault_is_found_and_nothing_else(stack: str, pki: kit.Pki, seed: int, tmp_path: Path) -> None:
    plot = plans.tree(seed, stack, True, **pki.plan())
    with kit.running(stack, plot.plan, tmp_path) as server:
        seen = Seen(pki, server.port)
    assert seen.facts.complete, (seen.facts.error, seen.facts.result.unread, seen.facts.result.truncated)
    for check in ("OA8", "OA9", "OA10", "OA11", "OA12"):
        assert seen.nodes(check) == plot.expected.get(check, set()), check
    assert seen.verdict == "refuted"
