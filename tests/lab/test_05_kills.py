# SPDX-License-Identifier: Apache-2.0
"""The judgement of scenario kill, without a lab: what a restart is due to, and where the moments of its kills lie; and that a kill takes the whole family."""
from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from killing import Moment, Step, chance, family, judged, moments, slay, tasks_of_the_site
from plant_view import until

KILLS = 10


@pytest.mark.parametrize(
    ("steps", "restarted", "wrong"),
    [
        ([], 0, ""),
        ([Step(1, "b"), Step(2)], 1, ""),
        ([Step(1, "b"), Step(2, "c"), Step(3)], 1, ""),
        ([Step(1, "b"), Step(2), Step(3, "c"), Step(4)], 2, ""),
        ([Step(1, "b"), Step(2, "a")], 0, ""),
        ([Step(1)], 1, "for nothing"),
        ([Step(1, "b"), Step(2), Step(3)], 2, "for nothing"),
        ([Step(2, "b"), Step(1)], 1, "for nothing"),
        ([Step(1, "b")], 0, "was not restarted"),
        ([Step(1, "b"), Step(2, "a"), Step(3)], 1, "for nothing"),
    ],
)
def test_each_change_has_one_restart_and_each_restart_its_change(steps: list[Step], restarted: int, wrong: str) -> None:
    count, found = judged("a", steps)
    assert count == restarted
    assert bool(found) == bool(wrong)
    assert wrong in " ".join(found)


def test_moments_lie_in_every_tenth_and_are_found_in_the_output() -> None:
    text = "".join(f"  play #{n} (managed): {name}\tTAGS: [x]\n    tasks:\n" + "      role : t\tTAGS: [x]\n" * tasks for n, (name, tasks) in
                   enumerate((("Arguments", 0), ("A", 12), ("B, once", 5), ("C", 13)), 1))
    sizes = tasks_of_the_site(text)
    assert sizes == [("A", 12), ("B, once", 5), ("C", 13)]
    _seed, draw = chance(93)
    places = sorted({"A": 0, "B, once": 12, "C": 17}[one.play] + one.task - 1 for one in moments(sizes, draw, KILLS))
    assert [place // 3 for place in places] == list(range(KILLS))
    plays = [name for name, _tasks in sizes]
    said = "PLAY [A] ****\nTASK [x : one] ***\nok\nTASK [x : two] **\nPLAY [B, once] **\nTASK [x : one] *\n"
    assert Moment("A", 2).reached(plays, said) and not Moment("A", 3).reached(plays, said[: said.index("PLAY [B")])
    assert Moment("A", 3).reached(plays, said), "its play is over"
    assert Moment("B, once", 1).reached(plays, said) and not Moment("B, once", 2).reached(plays, said) and not Moment("C", 1).reached(plays, said)
    # A play that comes host by host goes on counting.
    assert Moment("B, once", 2).reached(plays, said + "PLAY [B, once] **\nTASK [x : one] *\n")


def test_a_kill_takes_what_has_a_session_of_its_own_too(tmp_path: Path) -> None:
    """As a worker of Ansible has."""
    child = f"import os, subprocess, time; os.setsid(); subprocess.Popen(['sleep', '60']); open({str(tmp_path / 'ready')!r}, 'w').close(); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"]) as head:
        until("nobody starts", (tmp_path / "ready").exists, 20)
        members = family(head.pid)
        assert len(members) == 3
        slay(head.pid)

    def gone() -> bool:
        return not any(os.path.exists(f"/proc/{pid}/exe") for pid in members)

    until("somebody lives on", gone, 10)
