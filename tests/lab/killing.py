# SPDX-License-Identifier: Apache-2.0
"""A controller that dies: SIGKILL to ansible-playbook and everything that it started, at a moment that follows from a seed.

HNAI_SEED=<number> repeats a moment, HNAI_SEED=random draws a new one. Each worker of Ansible is a session of its own: one that lived on would end its
task, as no controller without power does.
"""
from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from conftest import ROOT
from plant_view import until

RUN_S = 900


def chance(default: int) -> tuple[int, random.Random]:
    """The seed and what is drawn from it."""
    given = os.environ.get("HNAI_SEED") or str(default)
    seed = random.SystemRandom().randrange(1_000_000) if given == "random" else int(given)
    return seed, random.Random(seed)


def family(pid: int) -> list[int]:
    """A process of this machine and everything that it started and that still belongs to it, in whatever session."""
    children: dict[int, list[int]] = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = status.read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue  # ended meanwhile
        children.setdefault(int(text.rpartition(")")[2].split()[1]), []).append(int(status.parent.name))
    found = [pid]
    for one in found:
        found += children.get(one, [])
    return found


def slay(pid: int) -> None:
    """SIGKILL to a family. Its head stands still meanwhile, so that it starts nobody who is not seen."""
    os.kill(pid, signal.SIGSTOP)
    for one in family(pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(one, signal.SIGKILL)


def masters(folder: str) -> list[int]:
    """The connections that ssh keeps open under *folder*: each a process that outlives the run which began it."""
    found = []
    for command in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if command.read_bytes().startswith(f"ssh: {folder}/".encode()):
                found.append(int(command.parent.name))
    return found


def kill_a_run(
    argv: Sequence[str], output: Path, reached: Callable[[str], bool], later_s: float, program: str = "ansible-playbook", begins: bool = False
) -> str:
    """Starts a run and kills it *later_s* after its output says that it has *reached* the moment. Returns the output.

    A task's heading comes with its first result; where *begins*, when it begins. Its connections end with it: a master that lived on would keep a module
    waiting for ever to say its result to nobody.
    """
    kept = tempfile.mkdtemp(prefix="hnai-ssh-")
    environment = {
        **os.environ, "PYTHONUNBUFFERED": "1", "ANSIBLE_NOCOLOR": "1", "ANSIBLE_SSH_CONTROL_PATH_DIR": kept,
        **({"ANSIBLE_DISPLAY_SKIPPED_HOSTS": "1"} if begins else {}),
    }  # fmt: skip

    def text() -> str:
        return output.read_text(encoding="utf-8", errors="replace")

    with output.open("wb") as stream, subprocess.Popen(
        [str(ROOT / ".venv/bin" / program), *argv],
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
                slay(process.pid)
            for one in masters(kept):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(one, signal.SIGKILL)
            shutil.rmtree(kept)
    return text()


@dataclass(frozen=True)
class Moment:
    """When a play has come to its n-th task, or is over."""

    play: str
    task: int

    def reached(self, plays: list[str], said: str) -> bool:
        found = re.findall(r"^(PLAY|TASK) \[(.*)\] \*+$", said, re.MULTILINE)
        at, tasks = -1, 0
        for what, name in found:
            if what == "PLAY":
                at, tasks = (plays.index(name), tasks if at >= 0 and plays[at] == name else 0) if name in plays else (at, tasks)
            elif at >= 0:
                tasks += 1
            mine = plays.index(self.play)
            if at > mine or (at == mine and tasks >= self.task):
                return True
        return False


def tasks_of_the_site(text: str) -> list[tuple[str, int]]:
    """[(play, number of its tasks)] of --list-tasks, without plays that are always there and have none of their own."""
    found: list[tuple[str, int]] = []
    for line in text.splitlines():
        heading = re.match(r"  play #\d+ \(.*?\): (.*?)\tTAGS", line)
        if heading:
            found.append((heading[1], 0))
        elif "TAGS: [" in line and found:
            found[-1] = (found[-1][0], found[-1][1] + 1)
    return [(name, tasks) for name, tasks in found if tasks]


def moments(plays: list[tuple[str, int]], draw: random.Random, count: int) -> list[Moment]:
    """One in each part of the tasks, of *count* equal parts, in any order."""
    every = [Moment(name, number) for name, tasks in plays for number in range(1, tasks + 1)]
    chosen = [every[int((part + draw.random()) * len(every) / count)] for part in range(count)]
    draw.shuffle(chosen)
    return chosen


@dataclass(frozen=True)
class Step:
    """Something that happened to a unit, us since 1970: another digest is wanted, or (digest empty) it began to stop."""

    at: int
    digest: str = ""


def judged(running: str, steps: list[Step]) -> tuple[int, list[str]]:
    """(restarts, what is wrong): a restart has a reason, which is a digest other than the one that runs, and each reason has one restart."""
    wanted, count, wrong = running, 0, []
    for step in sorted(steps, key=lambda one: one.at):
        if step.digest:
            wanted = step.digest
            continue
        count += 1
        if wanted == running:
            wrong.append(f"restart {count} at {step.at} for nothing: its digest had not changed")
        running = wanted
    if wanted != running:
        wrong.append("its digest changed, and it was not restarted")
    return count, wrong
