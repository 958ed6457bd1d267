# SPDX-License-Identifier: Apache-2.0
"""fanout with real processes: side by side, apart from each other, and each with an end."""
from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from ansible_collections.hnai.platform.plugins.module_utils import fanout


def alive(pid: int) -> bool:
    """Whether a process still runs; a zombie that nobody waits for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_each_has_its_own_output_and_end(tmp_path: Path) -> None:
    def says() -> None:
        print("out")
        print("err", file=sys.stderr)

    def breaks() -> None:
        raise ValueError("no good")

    done = fanout.run({
        "says": (says, 20), "breaks": (breaks, 20), "exits": (lambda: sys.exit(3), 20), "well": (lambda: sys.exit(0), 20),
        "bare": (sys.exit, 20), "worded": (lambda: sys.exit("no"), 20), "dies": (lambda: os.kill(os.getpid(), signal.SIGKILL), 20),
    }, tmp_path)  # fmt: skip
    assert done["says"] == fanout.Ended(0, "out\n", "err\n", False)
    assert {name: ended.code for name, ended in done.items()} == {
        "says": 0, "breaks": 1, "exits": 3, "well": 0, "bare": 0, "worded": 1, "dies": -signal.SIGKILL}
    assert done["breaks"].err.rstrip().endswith("ValueError: no good")
    assert not any(ended.late for ended in done.values())
    assert list(done) == ["says", "breaks", "exits", "well", "bare", "worded", "dies"], "in the order asked"


def test_they_run_at_the_same_time_each_with_a_main_thread(tmp_path: Path) -> None:
    def piece() -> None:
        assert threading.current_thread() is threading.main_thread()
        time.sleep(1.5)

    begin = time.monotonic()
    done = fanout.run({str(number): (piece, 20) for number in range(6)}, tmp_path)
    assert time.monotonic() - begin < 6
    assert {ended.code for ended in done.values()} == {0}


def test_what_hangs_is_killed_with_what_it_started_and_holds_up_nobody(tmp_path: Path) -> None:
    def hangs() -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        child = subprocess.Popen(["sleep", "300"])
        print(os.getpid(), child.pid, flush=True)
        time.sleep(300)

    begin = time.monotonic()
    done = fanout.run({"hangs": (hangs, 0.7), "well": (lambda: print("well"), 20)}, tmp_path)
    assert 0.6 < time.monotonic() - begin < 10
    assert done["hangs"].late and done["hangs"].code == -signal.SIGKILL
    assert done["well"] == fanout.Ended(0, "well\n", "", False)
    time.sleep(0.1)
    assert not [pid for pid in map(int, done["hangs"].out.split()) if alive(pid)]


def test_what_it_left_running_does_not_hold_it_up(tmp_path: Path) -> None:
    def leaves() -> None:
        print(subprocess.Popen(["sleep", "60"]).pid)

    begin = time.monotonic()
    done = fanout.run({"leaves": (leaves, 30)}, tmp_path)
    assert time.monotonic() - begin < 10
    assert done["leaves"].code == 0
    os.kill(int(done["leaves"].out), signal.SIGKILL)


def test_an_interrupted_parent_leaves_no_piece(tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    said = tmp_path / "slow.out"

    def clock() -> float:
        if said.is_file() and said.read_text().endswith("\n"):
            raise Stop
        return time.monotonic()

    def slow() -> None:
        print(os.getpid(), flush=True)
        time.sleep(300)

    def until_slow_has_said() -> None:
        while not said.is_file() or not said.read_text().endswith("\n"):
            time.sleep(0.05)

    with pytest.raises(Stop):
        fanout.run({"quick": (until_slow_has_said, 60), "slow": (slow, 60)}, tmp_path, clock)
    assert not alive(int(said.read_text()))


def test_nothing_to_do(tmp_path: Path) -> None:
    assert fanout.run({}, tmp_path) == {}
