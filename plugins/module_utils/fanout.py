# SPDX-License-Identifier: Apache-2.0
"""Pieces of work side by side, each in a process of its own that was forked from this one; none can hold up the others.

A fork costs milliseconds and inherits what is loaded. Each piece has a main thread (the deadlines of ``verdict`` need one), its own
standard output, and a time after which it and everything it started in its group is killed. Pure standard library, Python 3.9; Linux.
"""
from __future__ import annotations

import io
import os
import selectors
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Ended:
    """How a piece ended: its exit code (minus the signal that killed it), what it wrote, and whether its time was over."""

    code: int
    out: str
    err: str
    late: bool


def run(pieces: Mapping[str, tuple[Callable[[], object], float]], folder: Path, clock: Callable[[], float] = time.monotonic) -> dict[str, Ended]:
    """Run every piece, a function and the seconds it may take, and wait for all; their output passes through files in *folder*.

    A function that returns, or raises SystemExit with 0, ends with code 0; any other exception is a traceback in ``err`` and code 1.
    """
    children: dict[int, tuple[str, int, float]] = {}
    found: dict[str, Ended] = {}
    with selectors.DefaultSelector() as waiting:
        try:
            for name, (work, seconds) in pieces.items():
                # Only the child holds the writing end: it closes when the child is gone, whatever lives on below it.
                reading, writing = os.pipe()
                sys.stdout.flush()
                sys.stderr.flush()
                end = clock() + seconds
                pid = os.fork()
                if pid == 0:
                    _child(work, folder / name)
                children[reading] = (name, pid, end)
                os.close(writing)
                waiting.register(reading, selectors.EVENT_READ)
            while children:
                left = min(end for _name, _pid, end in children.values()) - clock()
                gone = [key.fd for key, _events in waiting.select(max(0.0, left))]
                late = [fd for fd, (_name, _pid, end) in children.items() if fd not in gone and end <= clock()]
                for fd in gone + late:
                    name, pid, _end = children.pop(fd)
                    waiting.unregister(fd)
                    os.close(fd)
                    found[name] = _ended(pid, folder / name, fd in late)
        finally:
            for _name, pid, _end in children.values():
                _kill(pid)
    return {name: found[name] for name in pieces}


def _child(work: Callable[[], object], files: Path) -> None:
    """The forked process: never returns into what its parent was doing."""
    code = 1
    try:
        os.setpgid(0, 0)
        for target, path, flags in (
            (0, "/dev/null", os.O_RDONLY),
            (1, f"{files}.out", os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
            (2, f"{files}.err", os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
        ):
            opened = os.open(path, flags, 0o600)
            os.dup2(opened, target)
            os.close(opened)
        sys.stdout, sys.stderr = (
            io.TextIOWrapper(io.FileIO(fd, "w", closefd=False), encoding="utf-8", errors="backslashreplace") for fd in (1, 2))
        work()
        code = 0
    except SystemExit as error:
        code = _code(error.code)
    except BaseException:
        traceback.print_exc()
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)


def _code(given: Any) -> int:
    """Exit code of a SystemExit."""
    if given is None:
        return 0
    return given & 0xFF if isinstance(given, int) else 1


def _kill(pid: int) -> None:
    """Kill the child with its group (itself, should it not have one yet) and forget it."""
    for kill in (os.killpg, os.kill):
        try:
            kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    os.waitpid(pid, 0)


def _ended(pid: int, files: Path, late: bool) -> Ended:
    if late:
        _kill(pid)
        code = -int(signal.SIGKILL)
    else:
        status = os.waitpid(pid, 0)[1]
        code = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
    out, err = (_text(Path(f"{files}.{kind}")) for kind in ("out", "err"))
    return Ended(code, out, err, late)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""
