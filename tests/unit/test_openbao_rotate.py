# SPDX-License-Identifier: Apache-2.0
"""The rotation of the audit files: by size, bounded in number, signalled once, and only when something was renamed."""
from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "roles/openbao/tree/usr/local/lib/hnai/openbao/rotate-audit"
SERVER = """
import signal, sys
signal.signal(signal.SIGHUP, lambda *a: (open(sys.argv[1], 'a').write('HUP'), sys.exit(0)))
print('up', flush=True)
signal.pause()
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Something that notes a SIGHUP in hup, with its process id in pid."""
    with subprocess.Popen([sys.executable, "-c", SERVER, str(tmp_path / "hup")], stdout=subprocess.PIPE, text=True) as made:
        assert made.stdout is not None and made.stdout.readline() == "up\n"
        (tmp_path / "pid").write_text(str(made.pid))
        yield made
        if made.poll() is None:
            made.send_signal(signal.SIGKILL)


def rotate(tmp_path: Path) -> str:
    done = subprocess.run([str(SCRIPT), str(tmp_path / "config"), str(tmp_path / "pid")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_by_size_and_signalled(tmp_path: Path, server: subprocess.Popen[str]) -> None:
    big, small = tmp_path / "big.log", tmp_path / "small.log"
    big.write_text("x" * 100)
    small.write_text("y" * 10)
    (tmp_path / "config").write_text("# bytes keep path\n100 3 %s\n100 3 %s\n100 3 %s\n" % (big, small, tmp_path / "absent.log"))
    assert rotate(tmp_path) == "rotated %s\n" % big
    assert not big.exists() and (tmp_path / "big.log.1").read_text() == "x" * 100 and small.exists()
    assert server.wait(5) == 0 and (tmp_path / "hup").read_text() == "HUP"


def test_nothing_due_sends_nothing(tmp_path: Path, server: subprocess.Popen[str]) -> None:
    log = tmp_path / "a.log"
    log.write_text("x")
    (tmp_path / "config").write_text("100 3 %s\n" % log)
    assert rotate(tmp_path) == ""
    assert log.exists() and server.poll() is None and not (tmp_path / "hup").exists()


def test_no_more_files_than_declared(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    (tmp_path / "config").write_text("1 2 %s\n" % log)
    for round_number in range(5):
        log.write_text("%d" % round_number)
        rotate(tmp_path)
    assert sorted(path.name for path in tmp_path.glob("a.log*")) == ["a.log.1", "a.log.2"]
    assert (tmp_path / "a.log.1").read_text() == "4" and (tmp_path / "a.log.2").read_text() == "3"


def test_keep_one(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    (tmp_path / "config").write_text("1 1 %s\n" % log)
    for text in ("old", "new"):
        log.write_text(text)
        rotate(tmp_path)
    assert [path.name for path in tmp_path.glob("a.log*")] == ["a.log.1"] and (tmp_path / "a.log.1").read_text() == "new"
