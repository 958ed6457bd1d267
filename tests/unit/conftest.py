# SPDX-License-Identifier: Apache-2.0
"""What every unit test shares: the same examples on every machine, and no waiting for a slow one."""
from __future__ import annotations

from pathlib import Path

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
