# SPDX-License-Identifier: Apache-2.0
"""A controller that dies: SIGKILL to ansible-playbook and all its workers, at a moment that follows from a seed.

HNAI_SEED=<number> repeats a moment, HNAI_SEED=random draws a new one.
"""
from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from conftest import ROOT
from plant_view import until

RUN_S = 900


def chance(default: int) -> tuple[int, random.Random]:
    """The seed and what is drawn from it."""
    given = os.environ.get("HNAI_SEED") or str(default)
    seed = random.SystemRandom().randrange(1_000_000) if given == "random" else int(given)
    return seed, random.Random(seed)


def kill_a_run(argv: Sequence[str], output: Path, reached: Callable[[str], bool], later_s: float) -> str:
    """Starts a run and kills it *later_s* after its output says that it has *reached* the moment. Returns the output."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "ANSIBLE_NOCOLOR": "1"}

    def text() -> str:
        return output.read_text(encoding="utf-8", errors="replace")

    with output.open("wb") as stream, subprocess.Popen(
        [str(ROOT / ".venv/bin/ansible-playbook"), *argv],
        cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True,
    ) as process:  # fmt: skip
        try:

            def come() -> bool:
                said = text()
                assert process.poll() is None, f"the run ended by itself:\n{said[-3000:]}"
                return reached(said)

            until("the run does not come to the moment of its kill", come, RUN_S, 0.05)
            time.sleep(later_s)  # the seeded moment
            assert process.poll() is None, "the run was over before the kill"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    return text()
