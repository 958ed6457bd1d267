# SPDX-License-Identifier: Apache-2.0
"""The SCRAM mechanism out of a credential, as an environment file: only what Kafka knows, and never the password by mistake."""
from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

PROGRAM = Path(__file__).resolve().parents[2] / "roles/telegraf/tree/usr/local/lib/hnai/telegraf/mechanism"


@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-256", "SCRAM-SHA-512"])
def test_it_becomes_the_environment(tmp_path: Path, mechanism: str) -> None:
    (tmp_path / "credential").write_text(mechanism)
    subprocess.run([str(PROGRAM), str(tmp_path / "credential"), str(tmp_path / "env")], check=True)
    assert (tmp_path / "env").read_text() == f"KAFKA_MECHANISM={mechanism}\n"


def test_anything_else_is_refused_and_not_shown(tmp_path: Path) -> None:
    (tmp_path / "credential").write_text("hunter2")
    done = subprocess.run([str(PROGRAM), str(tmp_path / "credential"), str(tmp_path / "env")], check=False, capture_output=True, text=True)
    assert done.returncode == 1
    assert "hunter2" not in done.stdout + done.stderr
    assert not (tmp_path / "env").exists()
