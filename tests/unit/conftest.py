# SPDX-License-Identifier: Apache-2.0
"""What every unit test shares: the same examples on every machine, and no waiting for a slow one."""
from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis.database import DirectoryBasedExampleDatabase

ROOT = Path(__file__).resolve().parents[2]

settings.register_profile(
    "hnai",
    deadline=None,
    derandomize=True,
    max_examples=60,
    database=None,
)
settings.register_profile(
    "search",
    deadline=None,
    max_examples=2000,
    database=DirectoryBasedExampleDatabase(ROOT / ".cache" / "hypothesis"),
)
settings.load_profile("hnai")


@pytest.fixture(scope="session")
def model_runs() -> int:
    """How many random histories a model plays, from seed 0 on. `make test-all` asks for 10 000."""
    return int(os.environ.get("HNAI_MODEL_RUNS", "1000"))
